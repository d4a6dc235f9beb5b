//! The audit trail: the entries of the chain, each with what it is about, and what they are found by.
//!
//! A **term** stands for "this tenant's entries with this session" and the like: 64 bits of a hash, as everywhere
//! enough to find and not enough to be. Whoever finds an entry by its terms looks at the entry itself before showing it.

use std::sync::Arc;

use action::{ActionId, Subject, Tenant};

use crate::entry::Reading;
use crate::identity;

/// What an action is found by beside who asked and for what. It outlives the payload: nothing belongs here that a
/// person could want erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The session that the client named.
    pub session: Option<Box<str>>,
    /// What is done; `None` where the archetype is all that was said, which then stands for it.
    pub verb: Option<Box<str>>,
    /// What it is done to.
    pub target: Option<Box<str>>,
    /// The guarantee level.
    pub level: Option<Box<str>>,
    /// The regulations it falls under.
    pub regulations: Vec<Box<str>>,
    /// What it is known by elsewhere, as `name=value`; nothing once it is erased.
    pub refs: Vec<Box<str>>,
}

/// Which entries to list; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// How the chain names the tenant. With it, what is no action is listed too: the tenant's own, and what belongs to
    /// no tenant. Such entries have a time and a verb, and nothing else to be found by.
    pub reference: Option<Box<str>>,
    /// Of actions this subject asked for.
    pub subject: Option<Subject>,
    /// Of this session.
    pub session: Option<Box<str>>,
    /// With this verb.
    pub verb: Option<Box<str>>,
    /// Of this archetype.
    pub archetype: Option<Box<str>>,
    /// Under this regulation.
    pub regulation: Option<Box<str>>,
    /// Done to this target.
    pub target: Option<Box<str>>,
    /// Known elsewhere by all of these, as `name=value`.
    pub refs: Vec<Box<str>>,
    /// Of this guarantee level.
    pub level: Option<Box<str>>,
    /// That say this state.
    pub state: Option<Box<str>>,
    /// At or after, milliseconds since 1970, UTC.
    pub from_ms: Option<i64>,
    /// Before, milliseconds since 1970, UTC.
    pub to_ms: Option<i64>,
}

/// In which order to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Against the chain.
    #[default]
    NewestFirst,
    /// Along the chain.
    OldestFirst,
}

/// An entry of the chain and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Row number of the entry: its place in the store, and the cursor of lists.
    pub row: i64,
    /// The chain it stands in.
    pub chain: Box<str>,
    /// Its number there.
    pub seq: u64,
    /// When, milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// What happened.
    pub event: Box<str>,
    /// The action's state by the words of the outside.
    pub state: Option<Box<str>>,
    /// Its hash, hex.
    pub hash: Box<str>,
    /// The hash of the entry before it, hex.
    pub previous: Option<Box<str>>,
    /// The hash of the receipt that came with it, hex.
    pub receipt: Option<Box<str>>,
    /// How the chain names the tenant; `None` where it is about all of them.
    pub tenant_ref: Option<Box<str>>,
    /// What is on record of what happened, beside what it is about.
    pub record: Option<Vec<u8>>,
    /// What it is about.
    pub about: About,
}

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// An action.
    Action(Box<Owner>),
    /// Something else that happened.
    Event,
}

/// What an action's row says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Which action.
    pub id: ActionId,
    /// Whose.
    pub tenant: Tenant,
    /// Who asked.
    pub subject: Subject,
    /// What kind.
    pub archetype: Box<str>,
    /// When it came in, milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// What else it is found by.
    pub labels: Labels,
    /// The payload of its intent; empty once it is erased.
    pub payload: Vec<u8>,
}

/// By what entries are found. The numbers are those of the stored index; those that tell most apart come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Session = 0,
    Regulation = 1,
    Subject = 2,
    Verb = 3,
    Archetype = 4,
    State = 5,
    Level = 6,
    Tenant = 7,
    Reference = 8,
}

/// A value that entries are found by, within its tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Term {
    pub(crate) by: By,
    pub(crate) tag: i64,
}

/// The terms that every entry of an action has.
#[derive(Debug)]
pub(crate) struct Terms {
    tenant: Tenant,
    all: Box<[Term]>,
}

/// The terms of an entry that belongs to no action.
pub(crate) fn event_terms(entry: &Reading<'_>) -> [Term; 2] {
    [(By::Tenant, ""), (By::Verb, entry.event)].map(|(by, value)| Term::of_event(entry.tenant, by, value))
}

impl By {
    pub(crate) const ALL: [By; 9] = [
        By::Session,
        By::Regulation,
        By::Subject,
        By::Verb,
        By::Archetype,
        By::State,
        By::Level,
        By::Tenant,
        By::Reference,
    ];
}

impl Term {
    fn new(tenant: &Tenant, by: By, value: &str) -> Term {
        Term { by, tag: identity::term(tenant.as_str(), by as u8, value) }
    }

    /// Of what is no action. No tenant has a name with a blank.
    fn of_event(reference: Option<&str>, by: By, value: &str) -> Term {
        let whose = format!("event {}", reference.unwrap_or_default());
        Term { by, tag: identity::term(&whose, by as u8, value) }
    }
}

impl Terms {
    /// The term of an entry that says this state.
    pub(crate) fn state(&self, state: &str) -> Term {
        Term::new(&self.tenant, By::State, state)
    }

    pub(crate) fn all(&self) -> &[Term] {
        &self.all
    }
}

impl Labels {
    pub(crate) fn terms(&self, tenant: &Tenant, subject: &Subject, archetype: &str) -> Arc<Terms> {
        let Labels { session, level, regulations, target, refs, .. } = self;
        let target = target.iter().map(|target| reference("target", target));
        let refs: Vec<String> = refs.iter().map(|it| it.to_string()).chain(target).collect();
        let session = session.iter().map(|session| (By::Session, &**session));
        let regulations = regulations.iter().map(|regulation| (By::Regulation, &**regulation));
        let level = level.iter().map(|level| (By::Level, &**level));
        let always = [
            (By::Tenant, ""),
            (By::Subject, subject.as_str()),
            (By::Verb, self.verb_or(archetype)),
            (By::Archetype, archetype),
        ];
        let refs = refs.iter().map(|it| (By::Reference, it.as_str()));
        let all = always.into_iter().chain(session).chain(regulations).chain(level).chain(refs);
        let all = all.map(|(by, value)| Term::new(tenant, by, value)).collect();
        Arc::new(Terms { tenant: tenant.clone(), all })
    }

    /// The verb, for which the archetype stands where there is none.
    #[must_use]
    pub fn verb_or<'a>(&'a self, archetype: &'a str) -> &'a str {
        self.verb.as_deref().unwrap_or(archetype)
    }
}

/// How something is named that an action is known by elsewhere.
fn reference(name: &str, value: &str) -> String {
    format!("{name}={value}")
}

impl Search {
    /// What to look for: each entry wanted has all terms of one of these.
    pub(crate) fn terms(&self, tenant: &Tenant) -> Vec<Vec<Term>> {
        let events = self.reference.as_deref().filter(|_| self.means_events()).into_iter();
        let events = events.flat_map(|reference| [Some(reference), None]).map(|reference| {
            let (by, value) = self.verb.as_deref().map_or((By::Tenant, ""), |verb| (By::Verb, verb));
            vec![Term::of_event(reference, by, value)]
        });
        [self.action_terms(tenant)].into_iter().chain(events).collect()
    }

    /// Does it ask for nothing that only actions have?
    fn means_events(&self) -> bool {
        let Search { subject, session, archetype, regulation, level, state, target, refs, .. } = self;
        let labels = [session, archetype, regulation, level, state, target];
        subject.is_none() && refs.is_empty() && labels.iter().all(|it| it.is_none())
    }

    fn action_terms(&self, tenant: &Tenant) -> Vec<Term> {
        let Search { subject, session, verb, archetype, regulation, level, state, .. } = self;
        let values = [
            (By::Session, session.as_deref()),
            (By::Regulation, regulation.as_deref()),
            (By::Subject, subject.as_ref().map(Subject::as_str)),
            (By::Verb, verb.as_deref()),
            (By::Archetype, archetype.as_deref()),
            (By::State, state.as_deref()),
            (By::Level, level.as_deref()),
        ];
        let terms = values.into_iter().filter_map(|(by, value)| Some(Term::new(tenant, by, value?)));
        let target = self.target.iter().map(|target| reference("target", target));
        let refs = self.refs.iter().map(|it| it.to_string()).chain(target);
        let refs = refs.map(|it| Term::new(tenant, By::Reference, &it));
        let mut terms: Vec<Term> = terms.chain(refs).collect();
        if terms.is_empty() {
            terms.push(Term::new(tenant, By::Tenant, ""));
        }
        terms
    }

    /// Is the time one of those wanted?
    pub(crate) fn covers(&self, at_ms: i64) -> bool {
        self.from_ms.is_none_or(|from| at_ms >= from) && self.to_ms.is_none_or(|to| at_ms < to)
    }

    /// Is it one of those to list?
    pub(crate) fn lets_pass(&self, tenant: &Tenant, found: &Audited) -> bool {
        let fits = match &found.about {
            About::Action(owner) => self.wants_action(tenant, owner, found),
            About::Event => self.wants_event(found),
        };
        fits && self.covers(found.at_ms)
    }

    fn wants_action(&self, tenant: &Tenant, owner: &Owner, found: &Audited) -> bool {
        let Search { subject, session, verb, archetype, regulation, level, state, .. } = self;
        let labels = &owner.labels;
        owner.tenant == *tenant
            && subject.as_ref().is_none_or(|subject| *subject == owner.subject)
            && archetype.as_ref().is_none_or(|archetype| *archetype == owner.archetype)
            && verb.as_ref().is_none_or(|verb| **verb == *labels.verb_or(&owner.archetype))
            && regulation.as_ref().is_none_or(|regulation| labels.regulations.contains(regulation))
            && (self.target.is_none() || self.target == labels.target)
            && self.refs.iter().all(|it| labels.refs.contains(it))
            && (session.is_none() || *session == labels.session)
            && (level.is_none() || *level == labels.level)
            && (state.is_none() || *state == found.state)
    }

    fn wants_event(&self, found: &Audited) -> bool {
        self.means_events()
            && self.reference.is_some()
            && (found.tenant_ref.is_none() || found.tenant_ref == self.reference)
            && self.verb.as_ref().is_none_or(|verb| *verb == found.event)
    }
}

impl Audited {
    pub(crate) fn new(row: i64, entry: &Reading<'_>, record: Option<Vec<u8>>, about: About) -> Audited {
        Audited {
            row,
            chain: entry.chain.into(),
            seq: entry.seq,
            at_ms: entry.at_ms,
            event: entry.event.into(),
            state: entry.state.map(Box::from),
            hash: entry.hash.into(),
            previous: entry.previous.map(Box::from),
            receipt: entry.receipt.map(Box::from),
            tenant_ref: entry.tenant.map(Box::from),
            record,
            about,
        }
    }

    /// The action it is about.
    #[must_use]
    pub fn owner(&self) -> Option<&Owner> {
        match &self.about {
            About::Action(owner) => Some(owner),
            About::Event => None,
        }
    }
}
