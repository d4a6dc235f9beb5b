//! A kind of action, as the catalogue declares it: what it takes, what it costs, how far it is trusted.

use crate::json;
use crate::level::{GuaranteeLevel, PaymentMode};
use crate::money::Currency;
use crate::retention::Keeping;
use crate::retry::RetryPolicy;
use crate::shape::{self, Shape};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A kind of action. Only the catalogue makes one, so every path in it leads to a member that its schema has.
pub struct Archetype {
    /// `PAYMENT_TRANSFER`; also the id of the Cedar action.
    pub name: String,
    /// One sentence for people.
    pub description: String,
    /// The verbs that mean it, beside its name.
    pub verbs: Vec<String>,
    /// The targets on which they do; none: on any, and without one.
    pub targets: Vec<String>,
    /// Cedar action groups that it belongs to, such as `Payments`.
    pub groups: Vec<String>,
    /// The Cedar entity type of its resource.
    pub resource_type: String,
    /// Where the id of the resource stands.
    pub resource: Option<Pointer>,
    /// Where the effect goes to: a payee, an address, a bucket.
    pub destination: Option<Pointer>,
    /// The members that make two actions the same action, sorted as RFC 8785 sorts names; or the whole of the constraints.
    pub identity: Vec<Pointer>,
    /// Whether the effect can be undone.
    pub reversible: bool,
    /// For how long after it was had it can be, if the file says so.
    pub recovery_window: Option<Duration>,
    /// The least that is promised; a request can only ask for more.
    pub guarantee_level: GuaranteeLevel,
    /// How it is tried again above `atp-1`; a request can only ask for fewer retries and longer pauses.
    pub retry: RetryPolicy,
    /// What applies when the request names no payment mode.
    pub default_payment_mode: PaymentMode,
    /// Where the money stands, when there is any.
    pub money: Option<MoneyRule>,
    /// What happens to a second action with the same effect.
    pub duplicate: DuplicateRule,
    /// When an action is unlike the ones before it.
    pub anomaly: AnomalyRule,
    /// The amount, in minor units, above which an effect that cannot be undone waits for a person.
    pub irreversible_threshold: Option<i64>,
    /// Whether a person always has to approve.
    pub requires_approval: bool,
    /// How many people have to agree to an action that waits for them.
    pub approvals: u32,
    /// The form in which they do, if the file says so; see [`Archetype::approval_form`].
    pub approval: Option<ApprovalForm>,
    /// How long the record is kept at least, and when it is erased at the latest.
    pub keeping: Keeping,
    /// The regulations that every action of this kind falls under.
    pub regulations: Vec<String>,
    /// The top-level members of the constraints, in the order in which they were declared.
    pub members: Vec<Member>,
    /// How the provider is called: opaque here, read by `provider`. Keys such as `provider`, `act`, `query`,
    /// `quote`, `rollback`, `snapshot`, `reconcile`, `capabilities`.
    pub bindings: BTreeMap<String, Value>,
    /// The JSON Schema of the constraints, for those who have to build them: closed where the operator wrote it, to the
    /// letter where somebody else did.
    pub schema: Value,
    pub(crate) shape: Shape,
    pub(crate) digest: String,
}

/// One declared member of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// What it holds and how Cedar sees it.
    pub kind: Kind,
    /// Whether the action is incomplete without it.
    pub required: bool,
    /// Whether receipts show it in the clear (`x-public`).
    pub public: bool,
    /// Whether it is shown to whoever approves (`x-display`).
    pub display: bool,
    /// Whether digits in it are no card number (`x-not-card`).
    pub not_card: bool,
    /// What to put there, for people.
    pub description: String,
    /// An example, or null.
    pub example: Value,
}

/// What a member holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Text that names something: visible ASCII.
    Identifier {
        /// Whether the schema has a grammar of its own for it (`pattern`, `enum`, `const`, `format`); otherwise
        /// the usual one applies: `[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}`.
        grammar: bool,
    },
    /// Text for people: NFC, without control, bidi or invisible characters.
    Text,
    /// A decimal string.
    Money,
    /// A whole number.
    Long,
    /// True or false.
    Bool,
    /// An array of one kind.
    Set(Box<Kind>),
    /// A closed object.
    Record(Vec<Member>),
    /// Anything: passed on as received, invisible to policies.
    Opaque,
}

/// The type by which Cedar knows a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CedarType {
    /// `String`
    String,
    /// `Long`
    Long,
    /// `Bool`
    Bool,
    /// `{minor: Long, currency: String}`
    Money,
    /// `Set<…>`
    Set(Box<CedarType>),
    /// A record of attributes.
    Record(Vec<CedarMember>),
}

/// One attribute of the record that Cedar sees in place of the constraints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CedarMember {
    /// The attribute's name, as in the constraints: any string, so quote it.
    pub name: String,
    /// Its type.
    pub kind: CedarType,
    /// Whether a complete action always has it.
    pub required: bool,
}

/// Where an archetype's money stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoneyRule {
    /// The amount that will move; `None` where only the provider knows it.
    pub amount: Option<Pointer>,
    /// The most that the caller allows.
    pub bound: Option<Pointer>,
    /// The currency of both.
    pub currency: CurrencyRule,
    /// Whether the provider is asked for the price first.
    pub quote: bool,
    /// Whether an amount of zero is an action at all.
    pub zero: bool,
}

/// Where the currency comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CurrencyRule {
    /// Always this one.
    Fixed(Currency),
    /// The code stands in a member.
    Member(Pointer),
}

/// What happens to an action whose effect hash was seen within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicateRule {
    /// How long an effect is remembered.
    pub window: Duration,
    /// What happens within it.
    pub on: OnDuplicate,
}

/// What a probable duplicate meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDuplicate {
    /// A person decides.
    Escalate,
    /// It is blocked.
    Block,
    /// It passes.
    Allow,
}

/// The weakest form in which a person's approval counts in production.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalForm {
    /// An API key of role approver.
    Key,
    /// The person's own signature over everything shown.
    Passkey,
}

impl ApprovalForm {
    /// The word in the catalogue and in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            ApprovalForm::Key => "key",
            ApprovalForm::Passkey => "passkey",
        }
    }

    /// The form of that word.
    pub fn parse(text: &str) -> Option<ApprovalForm> {
        match text {
            "key" => Some(ApprovalForm::Key),
            "passkey" => Some(ApprovalForm::Passkey),
            _ => None,
        }
    }
}

/// When an action is unlike those before it of the same principal, archetype and currency. Sums and thresholds
/// are minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnomalyRule {
    /// How many scaled deviations from the median are too many.
    pub k: u32,
    /// Fewer earlier amounts than this are a cold start.
    pub min_sample: u32,
    /// During a cold start a larger amount waits for a person.
    pub cold_start_threshold: Option<i64>,
    /// The most that may move within an hour.
    pub hour_sum: Option<i64>,
    /// The most that may move within a day.
    pub day_sum: Option<i64>,
    /// The most actions within an hour.
    pub hour_count: Option<u32>,
    /// Whether a destination never seen before waits for a person.
    pub first_seen: FirstSeen,
}

/// What a destination that was never seen before meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstSeen {
    /// Nothing.
    Allow,
    /// A person decides.
    Escalate,
    /// A person decides when the amount, in minor units, is more than this.
    EscalateAbove(i64),
}

impl Archetype {
    /// The declared top-level member of this name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Whether its schema is somebody else's, kept to the letter.
    pub(crate) fn is_verbatim(&self) -> bool {
        matches!(self.shape, Shape::Verbatim(_))
    }

    /// Whether a member counts as absent. What says nothing does, unless somebody else's schema speaks of it: there `""` may
    /// mean something.
    pub(crate) fn lacks(&self, value: Option<&Value>) -> bool {
        value.is_none_or(|value| !self.is_verbatim() && shape::is_empty(value))
    }

    /// Whether a verb and a target mean it.
    pub fn is_meant_by(&self, verb: &str, target: Option<&str>) -> bool {
        self.verbs().any(|own| own == verb)
            && (self.targets.is_empty() || target.is_some_and(|it| self.targets.iter().any(|own| own == it)))
    }

    /// A verb and a target that would mean both.
    pub(crate) fn shares_with<'a>(&'a self, other: &'a Archetype) -> Option<(&'a str, Option<&'a str>)> {
        let verb = self.verbs().find(|verb| other.verbs().any(|it| it == *verb))?;
        match (self.targets.as_slice(), other.targets.as_slice()) {
            ([], []) => Some((verb, None)),
            ([], [target, ..]) => Some((verb, Some(target.as_str()))),
            ([target, ..], []) => Some((verb, Some(target.as_str()))),
            (own, others) => own.iter().find(|it| others.contains(it)).map(|it| (verb, Some(it.as_str()))),
        }
        .filter(|_| self.name != other.name)
    }

    fn verbs(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.verbs.iter().map(String::as_str))
    }

    /// The SHA-256 of everything declared, in lower-case hex; layout and comments of the file do not count.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The weakest form in which a person's approval counts in production. Where the file does not say, a key is not
    /// enough for money or for what cannot be undone.
    pub fn approval_form(&self, reversible: bool) -> ApprovalForm {
        let grave = self.money.is_some() || !reversible;
        let usual = if grave { ApprovalForm::Passkey } else { ApprovalForm::Key };
        self.approval.unwrap_or(usual)
    }

    /// What Cedar sees of the constraints: every member that is not opaque.
    pub fn cedar_schema_members(&self) -> Vec<CedarMember> {
        cedar_members(&self.members)
    }
}

impl fmt::Debug for Archetype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archetype")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

fn cedar_members(members: &[Member]) -> Vec<CedarMember> {
    let attribute = |member: &Member| {
        let kind = cedar_type(&member.kind)?;
        Some(CedarMember { name: member.name.clone(), kind, required: member.required })
    };
    members.iter().filter_map(attribute).collect()
}

fn cedar_type(kind: &Kind) -> Option<CedarType> {
    Some(match kind {
        Kind::Identifier { .. } | Kind::Text => CedarType::String,
        Kind::Money => CedarType::Money,
        Kind::Long => CedarType::Long,
        Kind::Bool => CedarType::Bool,
        Kind::Set(item) => CedarType::Set(Box::new(cedar_type(item)?)),
        Kind::Record(members) => CedarType::Record(cedar_members(members)),
        Kind::Opaque => return None,
    })
}

/// A JSON pointer through objects, such as `/payee/iban`; empty for the whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer {
    text: String,
    segments: Vec<String>,
}

impl Pointer {
    /// To everything there is.
    pub(crate) fn whole() -> Pointer {
        Pointer { text: String::new(), segments: Vec::new() }
    }

    /// Reads an RFC 6901 pointer; the empty one, which means the whole, is none.
    pub fn parse(text: &str) -> Option<Pointer> {
        let segments: Vec<String> =
            text.strip_prefix('/')?.split('/').map(|s| s.replace("~1", "/").replace("~0", "~")).collect();
        let mut written = String::new();
        segments.iter().for_each(|segment| json::push_segment(&mut written, segment));
        (written == text).then_some(Pointer { text: written, segments })
    }

    /// The pointer as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of the members on the way.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// The value it leads to.
    pub fn get<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.segments.iter().try_fold(value, |value, segment| value.as_object()?.get(segment))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
