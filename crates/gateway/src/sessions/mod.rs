//! Governed sessions: opened with a mandate, declared in, looked at, ended.
//!
//! ```text
//!   open ──▶ declare ──▶ (cycles: actions that name the session) ──▶ close
//!     │         │                       │                             │
//!     └─────────┴───────── records, signed and without a gap ─────────┘
//! ```
//!
//! How a session stands is the ledger's row; nothing of it is kept here, but what was declared in it of late, which never
//! changes. What happens to it is one commit with the entry that says so, and those entries are its records ([`gar`]).

mod anomalies;
mod close;
mod clusters;
mod conflict;
mod context;
mod cycles;
mod gar;
mod intents;
mod recover;
mod revoke;

pub(crate) use self::anomalies::stands_on_nothing;
pub use self::close::{CloseAsk, ClosedView};
pub use self::clusters::{Awaiting, ClusterView, DeadlockView, FormAsk, MemberView, TransferAsk};
pub(crate) use self::conflict::Contradicted;
pub(crate) use self::context::{Budget, shown};
pub use self::context::{ContextView, DelegationContext};
pub(crate) use self::cycles::CycleSaid;
pub use self::cycles::CycleView;
pub(crate) use self::cycles::used_as_told;
pub use self::gar::{GarAsk, GarView};
pub use self::intents::DeclarationView;
pub(crate) use self::intents::Declarations;
pub(crate) use self::recover::Taken;
pub use self::revoke::HaltedView;
pub(crate) use self::revoke::{Cause, EXHAUSTED, EXTERNAL, PRINCIPAL, UNANSWERED};

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ledger::{Governed, SESSION_OPENED, Turn};
use mandate::{ApprovedLimits, Claims, Mandate, Refusal, Session, SessionEvent, Use};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::admin::{event, named};
use crate::authority::PUBLIC_TOKEN;
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::internal;
use crate::views::{Page, after, not_found};
use crate::{Code, Error, clock};

/// A session and how it stands.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its id.
    pub session_id: String,
    /// What it was opened with.
    pub mandate_id: String,
    /// Whose it is.
    pub agent_id: String,
    /// The gateway it was opened at, which its declarations name.
    pub gec_instance_id: String,
    /// `ACTIVE`, `CLUSTER_BLOCKED`, `HEM_PENDING`, `SUSPENDED` or `CLOSED`.
    pub state: &'static str,
    /// `COMPLETE`, `PARTIAL` or `REVOKED`, once it is closed.
    pub completion: Option<&'static str>,
    /// `CLEAN`, `PARTIAL` or `UNKNOWN`: how it was left, if it was revoked.
    pub halt: Option<&'static str>,
    /// RFC 3339.
    pub opened_at: String,
    /// The highest number of a declaration or cycle so far.
    pub sequence: u64,
    /// Cycles admitted so far, and those that wait for people.
    pub cycles: u64,
    /// Cycles denied so far, by whomever.
    pub denials: u32,
    /// Actions that wait for people.
    pub waiting: u32,
    /// Actions that were sent and are not settled.
    pub in_flight: u32,
    /// Its records so far.
    pub records: u64,
    /// Its first record.
    pub record_id: String,
    /// How far people agreed to whatever it does, if not as far as its mandate goes.
    pub session_limits: Option<SessionLimits>,
}

/// How far people agreed to whatever a session does, for the rest of it; one of them is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// The most that may be at stake in one action, a decimal string.
    pub max_amount: Option<String>,
    /// Of that, ISO 4217. What is in another one is beyond it.
    pub currency: Option<String>,
    /// RFC 3339; nothing is sent after that.
    pub not_after: Option<String>,
}

impl SessionLimits {
    pub(crate) fn of(limits: ApprovedLimits) -> Option<SessionLimits> {
        let ApprovedLimits { max_amount, not_after_ms } = limits;
        (limits != ApprovedLimits::default()).then(|| SessionLimits {
            max_amount: max_amount.map(|most| most.to_string()),
            currency: max_amount.map(|most| most.currency().code().to_owned()),
            not_after: not_after_ms.map(clock::text),
        })
    }
}

/// What a session was opened with: a format that outlives a release.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionRow {
    /// Version of this format.
    v: u8,
    /// Its mandate; none where that is the sandbox's own, which everybody has.
    claims: Option<Claims>,
}

/// Members that the gateway says of a session and its cycles, and nobody else.
const GIVEN: [&str; 14] = [
    "cluster_context",
    "cycle_id",
    "delegation_context",
    "escalation",
    "fingerprint",
    "gar_record_id",
    "governance_result",
    "kernel_signature",
    "prior_denial_count",
    "record_id",
    "resource_envelope",
    "sequence",
    "session_limits",
    "time_budget_remaining",
];

/// Lets a body through that is an object with no other members than these.
///
/// # Errors
/// The code, naming the member: first of all one of those that only the gateway says.
pub fn no_others(body: &Value, known: &[&str], code: Code) -> Result<(), Error> {
    let Some(members) = body.as_object() else {
        return Err(Error::new(code, "the body is not a JSON object"));
    };
    if let Some(given) = GIVEN.into_iter().find(|given| members.contains_key(*given)) {
        let why = format!("{given} is what the gateway says, not its caller");
        return Err(Error::new(code, why).field(format!("/{given}")));
    }
    match members.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(other) => {
            let mut field = String::new();
            action::json::push_segment(&mut field, other);
            Err(Error::new(code, "a member is not known here").field(field))
        }
    }
}

impl Gateway {
    /// Opens a session of the caller's own, with the mandate of the token or the key's default one.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for whoever is no agent, and where there is no mandate or it is not in force for the caller.
    pub async fn open_session(&self, caller: &Caller, token: Option<&str>) -> Result<SessionView, Error> {
        let random: [u8; 16] = clock::random()?;
        self.open_session_as(caller, token, random).await
    }

    /// The same under a name; one that is there already is that one.
    pub(crate) async fn open_session_as(
        &self,
        caller: &Caller,
        token: Option<&str>,
        name: [u8; 16],
    ) -> Result<SessionView, Error> {
        caller.must(Deed::Execute)?;
        self.limits.before_parsing(caller)?;
        self.begin_session(caller, token, name).await
    }

    /// The same of an agent whose request was counted already.
    pub(crate) async fn begin_session(
        &self,
        caller: &Caller,
        token: Option<&str>,
        name: [u8; 16],
    ) -> Result<SessionView, Error> {
        let tenant = self.tenant(&caller.tenant)?;
        let now_ms = clock::now_ms();
        let mandate = self.in_force(caller, token, now_ms).await?;
        let row = SessionRow { v: 1, claims: self.claims_of(caller, token, &mandate).await? };
        let id = format!("{PREFIX}{}", hex::encode(name));
        let session = Session::open(id, caller.subject.clone(), mandate.jti.as_str(), now_ms);
        let payload = serde_json::to_vec(&row).map_err(|_| internal("a mandate cannot be written"))?;
        // By what it is, to whom and with what it was opened the ledger knows it again.
        let record = json!({
            "by": caller.subject.as_str(), "mandateId": &mandate.jti,
            "openedWith": hex::encode(Sha256::digest(&payload)), "principal": mandate.root_principal(),
            "sessionId": &*session.id,
        });
        let opening = ledger::Opening {
            tenant: caller.tenant.clone(),
            session: session.clone(),
            payload,
            event: event(tenant, SESSION_OPENED, &record),
        };
        let opened = match self.ledger.open_session(opening).await {
            Err(ledger::Error::Exists(id)) => return self.session(caller, &id).await,
            // Revoked a moment ago: whoever did that was told of every session that is open by now.
            Err(ledger::Error::Absent(_)) => return Err(refused(&Refusal::Revoked)),
            Err(ledger::Error::Cluster(refusal)) => {
                return Err(clusters::refused(refusal, "", clusters::UNNAMED));
            }
            opened => opened.map_err(|error| named(error, "session"))?,
        };
        // Its first record is written with it.
        Ok(self.session_view(&Session { next_record: 1, ..session }, &opened))
    }

    /// The tenant's sessions, newest first; of an agent its own.
    ///
    /// # Errors
    /// `EP_UNAUTHENTICATED` for who came without a key: others have, too.
    pub async fn sessions(
        &self,
        caller: &Caller,
        cursor: Option<String>,
        limit: u32,
    ) -> Result<Page<SessionView>, Error> {
        caller.must(Deed::ReadOwn)?;
        must_be_somebody(caller)?;
        let of = own_only(caller);
        let page = self.ledger.sessions(&caller.tenant, of, after(cursor)?, limit.clamp(1, 200));
        let page = page.await.map_err(unavailable)?;
        let items = page.rows.iter().map(|it| self.session_view(&it.session, &it.opening)).collect();
        Ok(Page { items, next: page.next.map(|row| row.to_string()) })
    }

    /// One session.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` also for what is somebody else's.
    pub async fn session(&self, caller: &Caller, id: &str) -> Result<SessionView, Error> {
        let governed = self.governed(caller, id).await?;
        Ok(self.session_view(&governed.session, &governed.opening))
    }

    fn session_view(&self, session: &Session, opening: &str) -> SessionView {
        SessionView {
            session_id: session.id.to_string(),
            mandate_id: session.mandate_id.to_string(),
            agent_id: session.subject.to_string(),
            gec_instance_id: self.issuer.clone(),
            state: session.state().as_str(),
            completion: session.closed.map(mandate::Completion::as_str),
            halt: session.halt.map(mandate::Halt::as_str),
            opened_at: clock::text(session.opened_ms),
            sequence: session.sequence,
            cycles: session.cycles,
            denials: session.denials,
            waiting: session.held,
            in_flight: session.in_flight,
            records: session.next_record,
            record_id: opening.to_owned(),
            session_limits: SessionLimits::of(session.limits),
        }
    }

    /// A session that the caller may see.
    pub(crate) async fn governed(&self, caller: &Caller, id: &str) -> Result<Governed, Error> {
        caller.must(Deed::ReadOwn)?;
        let found = self.ledger.session(&caller.tenant, id).await.map_err(unavailable)?;
        let may_see = |it: &Governed| own_only(caller).is_none_or(|own| it.session.subject == *own);
        found.filter(may_see).ok_or_else(|| not_found("session"))
    }

    /// The mandate that a session was opened with.
    pub(crate) fn mandate_of(&self, governed: &Governed) -> Result<Arc<Mandate>, Error> {
        let row: SessionRow = serde_json::from_slice(&governed.payload)
            .map_err(|_| internal("what a session was opened with cannot be read"))?;
        match row.claims {
            Some(claims) => {
                Mandate::of(&claims).map(Arc::new).map_err(|_| internal("a session's mandate is none"))
            }
            None => self.public_mandate(&governed.session.subject),
        }
    }

    async fn in_force(
        &self,
        caller: &Caller,
        token: Option<&str>,
        now_ms: i64,
    ) -> Result<Arc<Mandate>, Error> {
        let standing = self.standing(caller, token, false).await?;
        if let Some(refusal) = standing.refusal {
            return Err(refused(&refusal));
        }
        let mandate = standing.mandate.ok_or_else(|| {
            Error::new(Code::Forbidden, "a session needs a mandate")
                .field("/delegation_token")
                .hint("send the token of one, or use a key that has a default mandate")
        })?;
        mandate.is_for(&caller.subject, now_ms / 1000).map_err(|refusal| refused(&refusal))?;
        if let Some(held) = self.ledger.mandate(&caller.tenant, &mandate.jti).await.map_err(unavailable)? {
            let carried = held.account.carries(&mandate.limits(), &Use::default());
            carried.map_err(|refusal| refused(&refusal))?;
        }
        Ok(mandate)
    }

    /// The claims of a mandate that was found for the caller, whole: whatever limits it, now or in a later version.
    async fn claims_of(
        &self,
        caller: &Caller,
        token: Option<&str>,
        mandate: &Mandate,
    ) -> Result<Option<Claims>, Error> {
        if self.environment == action::Environment::Sandbox && mandate.jti == PUBLIC_TOKEN {
            return Ok(None);
        }
        let claims = match token {
            Some(token) => {
                let payload = token.split('.').nth(1).unwrap_or_default();
                BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap_or_default()
            }
            None => {
                let held = self.ledger.mandate(&caller.tenant, &mandate.jti).await.map_err(unavailable)?;
                held.map(|held| held.mandate.claims).unwrap_or_default()
            }
        };
        let claims = serde_json::from_slice(&claims);
        claims.map(Some).map_err(|_| internal("the claims of a mandate cannot be read"))
    }
}

/// Why a mandate lets no session begin.
fn refused(refusal: &Refusal) -> Error {
    Error::new(Code::Forbidden, refusal.to_string()).field("/delegation_token")
}

fn must_be_somebody(caller: &Caller) -> Result<(), Error> {
    if caller.is_anonymous() {
        return Err(Error::new(Code::Unauthenticated, "no API key was presented").field("Authorization"));
    }
    Ok(())
}

/// Whose sessions alone the caller may see, if not all of the tenant.
fn own_only(caller: &Caller) -> Option<&action::Subject> {
    (!caller.role.may(Deed::ReadTenant)).then_some(&caller.subject)
}

/// Whether this may be the id of a session: any other name is a label of the client's.
pub(crate) fn is_session(id: &str) -> bool {
    id.strip_prefix(PREFIX)
        .is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|it| it.is_ascii_hexdigit()))
}

/// What the id of a session begins with.
const PREFIX: &str = "ses_";
/// A record of a session, with the event that changes the session, if it does.
fn turn(
    governed: &Governed,
    event: Option<SessionEvent>,
    cause: Option<Box<str>>,
    record: ledger::Event,
) -> Turn {
    let (tenant, session) = (governed.tenant.clone(), governed.session.id.clone());
    Turn { tenant, session, event, cause, record, expects: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_gateway_says_is_named_before_what_is_unknown() {
        let field = |body: Value| {
            no_others(&body, &["reason"], Code::ValidationFailed).err().and_then(|error| error.field)
        };
        assert_eq!(field(json!({"reason": "x"})), None);
        assert_eq!(
            field(json!({"aa": 1, "time_budget_remaining": 9})).as_deref(),
            Some("/time_budget_remaining")
        );
        assert_eq!(field(json!({"a/b": 1})).as_deref(), Some("/a~1b"));
        for given in GIVEN {
            assert_eq!(field(json!({given: null})), Some(format!("/{given}")));
        }
    }
}
