//! Requests as trees with slots.
//!
//! A template is read once, when the catalogue is; afterwards it is data in which only slots are open. A slot takes a
//! value as a value: whatever a constraint contains, it ends up in the one place where the slot was, and nothing in it
//! is read as a template again.
//!
//! ```toml
//! body = { to = { "$value" = "/recipient" }, amount = { "$money" = "amount" }, ref = { "$action" = "reference" } }
//! ```
//!
//! Text is never built from parts: there is no way to put a value inside a string.

use action::{ActionId, Archetype, Kind, Money, Pointer};
use serde_json::{Map, Number, Value};

use crate::reader::{Mistake, Node, Table};

/// A tree for the body of a request.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    Fixed(Value),
    List(Vec<Tree>),
    Table(Vec<(String, Tree)>),
    Slot(Slot),
}

/// One value for a path segment, a query parameter or a header.
#[derive(Clone, Debug)]
pub(crate) enum Scalar {
    Fixed(String),
    Slot(Slot),
}

/// A place that a value of the action takes.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    Value {
        pointer: Pointer,
        optional: bool,
    },
    Money(MoneyPart),
    Action(ActionPart),
    /// A part of what there was before the effect, by JSON pointer.
    Snapshot(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoneyPart {
    /// `"1.50"`
    Amount,
    /// `150`
    Minor,
    /// `"USD"`
    Currency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActionPart {
    Id,
    Reference,
    ProviderKey,
    /// The provider's own reference for a confirmed effect, or for what is set aside.
    Confirmed,
}

/// What the slots are filled from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'a> {
    pub(crate) constraints: &'a Value,
    pub(crate) money: Option<Money>,
    pub(crate) action_id: ActionId,
    /// Absent when there is no attempt yet.
    pub(crate) reference: Option<&'a str>,
    /// Absent when there is no attempt yet.
    pub(crate) provider_key: Option<&'a str>,
    /// There only once the effect is confirmed, or money is set aside.
    pub(crate) confirmed: Option<&'a str>,
    /// There only when it is to be undone, where there is one.
    pub(crate) snapshot: Option<&'a Value>,
}

/// A request that cannot be made from these values. Says where, never what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfilled {
    #[error("the binding needs `{0}`, which the action does not have")]
    Missing(String),
    #[error(
        "the value at `{0}` is not text, a whole number or true or false, as its place in the request demands"
    )]
    NotScalar(String),
    #[error("the value at `{0}` cannot be a path segment")]
    Segment(String),
    #[error("the value at `{0}` cannot be a header")]
    Header(String),
}

/// What a template may ask of an action.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) archetype: &'a Archetype,
    pub(crate) knows: Knows,
}

/// How much there is to be known of an action when a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Knows {
    /// There is no attempt yet.
    Action,
    /// There is an attempt, with a reference and a provider key.
    Attempt,
    /// There is money set aside, confirmed by the provider, and a call that charges it or sets it free.
    Reservation,
    /// There is an effect, confirmed by the provider.
    Effect,
    /// And a call that undoes it.
    Undoing,
}

impl Tree {
    pub(crate) fn read(node: &Node<'_>, scope: Scope<'_>) -> Result<Tree, Mistake> {
        match node.value {
            Value::Array(_) => {
                let items = node.items()?;
                Ok(Tree::List(items.iter().map(|item| Tree::read(item, scope)).collect::<Result<_, _>>()?))
            }
            Value::Object(members) => match Slot::read(node, members, scope)? {
                Some(slot) => Ok(Tree::Slot(slot)),
                None => {
                    let read =
                        |(name, member): (&str, Node<'_>)| Ok((name.to_owned(), Tree::read(&member, scope)?));
                    Ok(Tree::Table(node.entries()?.into_iter().map(read).collect::<Result<_, _>>()?))
                }
            },
            fixed => Ok(Tree::Fixed(fixed.clone())),
        }
    }

    /// The tree with its slots filled; `None` for an optional value that is not there.
    pub(crate) fn fill(&self, values: &Values<'_>) -> Result<Option<Value>, Unfilled> {
        Ok(Some(match self {
            Tree::Fixed(value) => value.clone(),
            Tree::Slot(slot) => return slot.fill(values),
            Tree::List(items) => {
                let mut filled = Vec::with_capacity(items.len());
                for item in items {
                    filled.extend(item.fill(values)?);
                }
                Value::Array(filled)
            }
            Tree::Table(members) => {
                let mut filled = Map::with_capacity(members.len());
                for (name, member) in members {
                    if let Some(value) = member.fill(values)? {
                        filled.insert(name.clone(), value);
                    }
                }
                Value::Object(filled)
            }
        }))
    }

    pub(crate) fn slots(&self) -> Vec<&Slot> {
        match self {
            Tree::Fixed(_) => Vec::new(),
            Tree::Slot(slot) => vec![slot],
            Tree::List(items) => items.iter().flat_map(Tree::slots).collect(),
            Tree::Table(members) => members.iter().flat_map(|(_, member)| member.slots()).collect(),
        }
    }
}

impl Scalar {
    pub(crate) fn read(node: &Node<'_>, scope: Scope<'_>) -> Result<Scalar, Mistake> {
        match node.value {
            Value::Object(members) => {
                let slot = Slot::read(node, members, scope)?.ok_or_else(|| {
                    node.mistake("a table here must be a slot").hint("as in { \"$value\" = \"/recipient\" }")
                })?;
                slot.must_be_scalar(node, scope)?;
                Ok(Scalar::Slot(slot))
            }
            value => scalar_text(value)
                .map(Scalar::Fixed)
                .ok_or_else(|| node.mistake("this must be a string, a whole number, true, false or a slot")),
        }
    }

    /// The text; `None` for an optional value that is not there.
    pub(crate) fn fill(&self, values: &Values<'_>) -> Result<Option<String>, Unfilled> {
        match self {
            Scalar::Fixed(text) => Ok(Some(text.clone())),
            Scalar::Slot(slot) => match slot.fill(values)? {
                Some(value) => scalar_text(&value).map(Some).ok_or_else(|| Unfilled::NotScalar(slot.place())),
                None => Ok(None),
            },
        }
    }

    pub(crate) fn slot(&self) -> Option<&Slot> {
        match self {
            Scalar::Fixed(_) => None,
            Scalar::Slot(slot) => Some(slot),
        }
    }

    /// Where the text comes from, for messages.
    pub(crate) fn place(&self) -> String {
        self.slot().map_or_else(|| "the binding".to_owned(), Slot::place)
    }
}

impl Slot {
    /// The slot that a table is, if one of its members begins with `$`.
    fn read(
        node: &Node<'_>,
        members: &Map<String, Value>,
        scope: Scope<'_>,
    ) -> Result<Option<Slot>, Mistake> {
        let Some(word) = members.keys().find(|name| name.starts_with('$')) else { return Ok(None) };
        let slot = match word.as_str() {
            "$value" => Slot::value(&node.table(&["$value", "optional"])?, scope)?,
            "$money" => Slot::Money(MoneyPart::read(&node.table(&["$money"])?.need("$money")?, scope)?),
            "$action" => Slot::Action(ActionPart::read(&node.table(&["$action"])?.need("$action")?, scope)?),
            "$snapshot" if scope.knows == Knows::Undoing => {
                Slot::Snapshot(node.table(&["$snapshot"])?.need("$snapshot")?.pointer()?)
            }
            "$snapshot" => return Err(node.mistake("there is a snapshot only in `rollback`")),
            "$secret" => {
                return Err(node.mistake("a secret may stand in a header only").hint("move it to `headers`"));
            }
            "$text" => {
                let hint = "give the provider each value in a member of its own; a value never becomes part of a text";
                return Err(node.mistake("`$text` is not supported").hint(hint));
            }
            other => {
                let hint = "the slots are $value, $money, $action and, in a rollback, $snapshot";
                return Err(node.mistake(format!("`{other}` is not a slot")).hint(hint));
            }
        };
        Ok(Some(slot))
    }

    fn value(table: &Table<'_>, scope: Scope<'_>) -> Result<Slot, Mistake> {
        let node = table.need("$value")?;
        let text = node.text()?;
        let pointer = Pointer::parse(text).ok_or_else(|| {
            node.mistake(format!("`{text}` is not a JSON pointer"))
                .hint("a pointer begins with `/`, as in `/recipient`")
        })?;
        let optional = table.flag("optional")?;
        let (_, certain) = declared(&pointer, scope.archetype).ok_or_else(|| {
            node.mistake(format!("`{pointer}` is not a member of the constraints"))
                .hint(known_members(scope.archetype))
        })?;
        if !certain && !optional {
            let hint = "add `optional = true` to leave it out when it is absent, or make the member required";
            return Err(node.mistake(format!("`{pointer}` may be absent")).hint(hint));
        }
        Ok(Slot::Value { pointer, optional })
    }

    fn must_be_scalar(&self, node: &Node<'_>, scope: Scope<'_>) -> Result<(), Mistake> {
        let Slot::Value { pointer, .. } = self else { return Ok(()) };
        match declared(pointer, scope.archetype) {
            Some((Kind::Set(_) | Kind::Record(_), _)) => Err(node.mistake(format!(
                "`{pointer}` is a list or an object, and only the body can take such a value"
            ))),
            _ => Ok(()),
        }
    }

    fn fill(&self, values: &Values<'_>) -> Result<Option<Value>, Unfilled> {
        let filled = match self {
            Slot::Value { pointer, optional } => match pointer.get(values.constraints) {
                None if *optional => return Ok(None),
                found => found.cloned(),
            },
            Slot::Money(part) => values.money.map(|money| part.of(money)),
            Slot::Action(ActionPart::Id) => Some(Value::String(values.action_id.to_string())),
            Slot::Action(ActionPart::Reference) => values.reference.map(Value::from),
            Slot::Action(ActionPart::ProviderKey) => values.provider_key.map(Value::from),
            Slot::Action(ActionPart::Confirmed) => values.confirmed.map(Value::from),
            Slot::Snapshot(pointer) => values.snapshot.and_then(|it| it.pointer(pointer)).cloned(),
        };
        filled.map(Some).ok_or_else(|| Unfilled::Missing(self.place()))
    }

    fn place(&self) -> String {
        match self {
            Slot::Value { pointer, .. } => pointer.to_string(),
            Slot::Money(_) => "$money".to_owned(),
            Slot::Action(_) => "$action".to_owned(),
            Slot::Snapshot(pointer) => format!("$snapshot {pointer}"),
        }
    }
}

impl MoneyPart {
    fn read(node: &Node<'_>, scope: Scope<'_>) -> Result<MoneyPart, Mistake> {
        if scope.archetype.money.is_none() {
            return Err(node.mistake("this archetype moves no money"));
        }
        match node.text()? {
            "amount" => Ok(MoneyPart::Amount),
            "minor" => Ok(MoneyPart::Minor),
            "currency" => Ok(MoneyPart::Currency),
            other => {
                Err(node.mistake(format!("`{other}` is no part of money")).hint("amount, minor or currency"))
            }
        }
    }

    fn of(self, money: Money) -> Value {
        match self {
            MoneyPart::Amount => Value::String(money.to_string()),
            MoneyPart::Minor => Value::Number(Number::from(money.minor())),
            MoneyPart::Currency => Value::String(money.currency().code().to_owned()),
        }
    }
}

impl ActionPart {
    fn read(node: &Node<'_>, scope: Scope<'_>) -> Result<ActionPart, Mistake> {
        match node.text()? {
            "id" => Ok(ActionPart::Id),
            "reference" | "provider_key" if scope.knows < Knows::Attempt => {
                Err(node.mistake("a quote belongs to no attempt yet").hint("only `id` is known here"))
            }
            "reference" => Ok(ActionPart::Reference),
            "provider_key" => Ok(ActionPart::ProviderKey),
            "provider_reference" if scope.knows >= Knows::Reservation => Ok(ActionPart::Confirmed),
            "provider_reference" => Err(node
                .mistake(
                    "there is a provider's reference only in `capture`, `release`, `check` and `rollback`",
                )
                .hint("use `reference`")),
            other => Err(node
                .mistake(format!("`{other}` is no part of an action"))
                .hint("id, reference or provider_key")),
        }
    }
}

/// What the archetype says about a member, and whether a complete action always has it.
fn declared<'a>(pointer: &Pointer, archetype: &'a Archetype) -> Option<(&'a Kind, bool)> {
    let (first, rest) = pointer.segments().split_first()?;
    let member = archetype.member(first)?;
    let mut found = (&member.kind, member.required);
    for segment in rest {
        found = match found {
            (Kind::Record(members), certain) => {
                let member = members.iter().find(|member| member.name == *segment)?;
                (&member.kind, certain && member.required)
            }
            // Opaque to us, so nothing is known about what is in it.
            (Kind::Opaque, _) => return Some((&Kind::Opaque, false)),
            _ => return None,
        };
    }
    Some(found)
}

fn known_members(archetype: &Archetype) -> String {
    let names: Vec<String> = archetype.members.iter().map(|member| format!("/{}", member.name)).collect();
    format!("the archetype has {}", names.join(", "))
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}
