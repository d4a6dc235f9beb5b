//! The pieces a binding describes answers with: statuses, conditions on the body, and where money stands.

use action::{Archetype, Currency, CurrencyRule, Money};
use serde_json::Value;

use crate::reader::{Mistake, Node, Table};

/// Statuses, and what the body must say beside them.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) statuses: Vec<u16>,
    pub(super) when: Option<Condition>,
}

#[derive(Debug)]
pub(super) struct Condition {
    pointer: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Exists(bool),
    Equals(Vec<Value>),
}

/// Where an amount stands in an answer.
#[derive(Debug)]
pub(super) struct MoneyAt {
    amount: String,
    currency: CurrencyAt,
    minor: bool,
}

#[derive(Debug)]
enum CurrencyAt {
    Fixed(Currency),
    Pointer(String),
}

/// What a rule is for decides which statuses it may name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Success,
    Refused,
    Absent,
    /// A query's refusal: the provider knows the call and has declined it.
    Declined,
}

impl Rule {
    pub(super) const MEMBERS: [&str; 4] = ["status", "pointer", "equals", "exists"];

    pub(super) fn read(node: &Node<'_>, side: Side) -> Result<Rule, Mistake> {
        Rule::of(&node.table(&Rule::MEMBERS)?, side)
    }

    /// The same where other members stand beside those of the rule.
    pub(super) fn of(table: &Table<'_>, side: Side) -> Result<Rule, Mistake> {
        let listed = table.need("status")?;
        let when = Condition::read(table)?;
        let statuses =
            listed.items()?.iter().map(|item| read_status(item, side)).collect::<Result<Vec<u16>, _>>()?;
        if statuses.is_empty() {
            return Err(listed.mistake("at least one status is needed"));
        }
        let bare = statuses.iter().find(|status| **status < 300);
        if let (Side::Refused | Side::Declined, None, Some(status)) = (side, &when, bare) {
            let message = format!("{status} is a refusal only if the body says so");
            return Err(listed.mistake(message).hint("add a `pointer` and `equals`"));
        }
        Ok(Rule { statuses, when })
    }

    /// A status of the other rule that this rule takes whatever the body says.
    pub(super) fn takes_all_of(&self, other: &Rule) -> Option<u16> {
        if self.when.is_some() {
            return None;
        }
        self.statuses.iter().copied().find(|status| other.statuses.contains(status))
    }
}

impl Condition {
    /// One that stands alone.
    pub(super) fn need(node: &Node<'_>) -> Result<Condition, Mistake> {
        let table = node.table(&["pointer", "equals", "exists"])?;
        table.need("pointer")?;
        Condition::read(&table)?.ok_or_else(|| node.mistake("this needs a `pointer`"))
    }

    /// Does it look at what the value is, and not only at whether there is one?
    pub(super) fn names_values(&self) -> bool {
        matches!(self.test, Test::Equals(_))
    }

    fn read(table: &Table<'_>) -> Result<Option<Condition>, Mistake> {
        let Some(pointer) = table.get("pointer") else {
            return match table.get("equals").or_else(|| table.get("exists")) {
                Some(node) => Err(node.mistake("this needs a `pointer` beside it")),
                None => Ok(None),
            };
        };
        let test = match (table.get("equals"), table.get("exists")) {
            (Some(equals), None) => Test::Equals(read_equals(&equals)?),
            (None, Some(exists)) => Test::Exists(exists.flag()?),
            (None, None) => Test::Exists(true),
            (Some(_), Some(exists)) => return Err(exists.mistake("either `equals` or `exists`, not both")),
        };
        Ok(Some(Condition { pointer: pointer.pointer()?, test }))
    }

    pub(super) fn holds(&self, body: &Value) -> bool {
        let found = body.pointer(&self.pointer).filter(|value| !value.is_null());
        match &self.test {
            Test::Exists(true) => found.is_some(),
            Test::Exists(false) => found.is_none() && self.could_be_in(body),
            Test::Equals(values) => found.is_some_and(|value| values.contains(value)),
        }
    }

    /// Whether the place that would hold the value is there: an answer that is about something else says nothing about
    /// what is absent from it.
    fn could_be_in(&self, body: &Value) -> bool {
        let Some((above, _)) = self.pointer.rsplit_once('/') else { return false };
        body.pointer(above).is_some_and(|holder| holder.is_array() || holder.is_object())
    }
}

impl MoneyAt {
    pub(super) fn read(node: &Node<'_>, archetype: &Archetype) -> Result<MoneyAt, Mistake> {
        let table = node.table(&["amount", "currency", "currency_code", "unit"])?;
        let currency = match (table.get("currency"), table.get("currency_code")) {
            (Some(pointer), None) => CurrencyAt::Pointer(pointer.pointer()?),
            (None, Some(code)) => CurrencyAt::Fixed(read_currency(&code)?),
            (Some(_), Some(code)) => {
                return Err(code.mistake("either `currency` or `currency_code`, not both"));
            }
            (None, None) => CurrencyAt::Fixed(fixed_currency(archetype).ok_or_else(|| {
                let hint = "say where it stands with `currency`, or which it is with `currency_code`";
                node.mistake("the currency of this amount is not known").hint(hint)
            })?),
        };
        let minor = match table.get("unit").map(|unit| Ok((unit.text()?, unit))).transpose()? {
            None | Some(("decimal", _)) => false,
            Some(("minor", _)) => true,
            Some((other, unit)) => {
                return Err(unit.mistake(format!("`{other}` is not a unit")).hint("decimal or minor"));
            }
        };
        Ok(MoneyAt { amount: table.need("amount")?.pointer()?, currency, minor })
    }

    pub(super) fn find(&self, body: &Value) -> Option<Money> {
        let currency = match &self.currency {
            CurrencyAt::Fixed(currency) => *currency,
            CurrencyAt::Pointer(pointer) => {
                Currency::of(&body.pointer(pointer)?.as_str()?.to_ascii_uppercase())?
            }
        };
        let amount = body.pointer(&self.amount)?;
        if self.minor {
            let minor = amount.as_i64().or_else(|| amount.as_str()?.parse().ok())?;
            // More digits than a text may have could not be written into a receipt.
            return Money::new(minor, currency).filter(|money| money.minor() < 10_i64.pow(18));
        }
        let text = match amount {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        Money::parse(&text, currency).ok()
    }

    pub(super) fn why_missing(&self) -> String {
        format!("the answer has no amount that can be read at `{}`", self.amount)
    }
}

/// `side` is that of the operation: what refuses an `act` says more than what refuses a question.
pub(super) fn read_refused(
    table: &Table<'_>,
    member: &'static str,
    side: Side,
) -> Result<Vec<Rule>, Mistake> {
    match table.get(member) {
        None => Ok(Vec::new()),
        Some(node) if node.value.is_array() => {
            node.items()?.iter().map(|item| Rule::read(item, side)).collect()
        }
        Some(node) => Ok(vec![Rule::read(&node, side)?]),
    }
}

fn read_status(node: &Node<'_>, side: Side) -> Result<u16, Mistake> {
    let status = node.whole(200, 599)?;
    let fits = match side {
        Side::Success => status < 300,
        Side::Refused | Side::Absent | Side::Declined => status < 300 || (400..500).contains(&status),
    };
    if matches!(side, Side::Absent | Side::Declined) && ABOUT_THE_ASKER.contains(&status) {
        let hint =
            "a query that is turned away leaves the action in doubt; list only what is said of the action";
        return Err(node
            .mistake(format!("{status} is about who asks, not about what is asked for"))
            .hint(hint));
    }
    if !fits {
        let hint = "redirects are not followed and 5xx decides nothing: after either, the effect may be there or not";
        return Err(node.mistake(format!("{status} cannot mean that")).hint(hint));
    }
    u16::try_from(status).map_err(|_| node.mistake("this is not a status"))
}

/// Not known, not allowed, not now. Were one of them taken for an answer, a token that has expired would end a doubt.
const ABOUT_THE_ASKER: [u64; 5] = [401, 403, 407, 408, 429];

fn read_equals(node: &Node<'_>) -> Result<Vec<Value>, Mistake> {
    let items = node.items()?;
    if items.is_empty() || items.iter().any(|item| item.value.is_array() || item.value.is_object()) {
        return Err(node.mistake("this must be a list of strings, numbers or flags"));
    }
    Ok(items.iter().map(|item| item.value.clone()).collect())
}

fn read_currency(node: &Node<'_>) -> Result<Currency, Mistake> {
    let code = node.text()?;
    Currency::of(code).ok_or_else(|| node.mistake(format!("`{code}` is not a currency of ISO 4217")))
}

fn fixed_currency(archetype: &Archetype) -> Option<Currency> {
    match &archetype.money.as_ref()?.currency {
        CurrencyRule::Fixed(currency) => Some(*currency),
        CurrencyRule::Member(_) => None,
    }
}
