//! Short ways to say what the tests hand in, and every ledger to hand it to.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod postgres;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use action::{ActionId, Currency, Environment, Money, Subject, Tenant};
use ledger::{
    Access, Admission, Admitted, Approval, Basis, By, Debit, Deferral, Draft, Effect, Erasure, Event,
    FactsQuery, Freeze, Hold, Intent, Ledger, Link, Memory, Obstacle, Opening, Options, Outcome, Postgres,
    Receipt, Refusal, Reply, Resumption, Scope, Settlement, Sqlite, State, Tolerance, Turn,
};
use mandate::{Limits, Session, SessionEvent};
use serde_json::json;
use sha2::{Digest, Sha256};

pub const NOW: i64 = 1_777_000_000_000;

/// Runs `test` on every kind of ledger.
pub fn on_every_ledger(test: impl Fn(Arc<dyn Ledger>)) {
    test(Arc::new(Memory::new("chain-1", NOW).unwrap()));
    let directory = tempfile::tempdir().unwrap();
    test(Arc::new(sqlite(directory.path())));
    if let Some(server) = postgres::server() {
        test(Arc::new(Postgres::open(access(&server.database())).unwrap()));
    }
}

/// How a gateway takes part in this database.
pub fn access(url: &str) -> Access {
    Access::new(url, "replica-1", "chain-1", NOW)
}

pub fn sqlite(directory: &Path) -> Sqlite {
    Sqlite::open(&directory.join("ledger.db"), Options::new("chain-1", NOW)).unwrap()
}

/// Waits for a future on this thread.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

pub fn id() -> ActionId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut random = [0; 10];
    random[2..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    ActionId::new(NOW as u64, random)
}

pub fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::of("USD").unwrap()).unwrap()
}

pub fn subject() -> Subject {
    Subject::parse("agent-1").unwrap()
}

pub fn draft(event: &'static str) -> Draft {
    Draft {
        tenant_ref: Some("t-1".into()),
        attempt: Some(1),
        event,
        state: Some("EXECUTING"),
        action_hash: Some([7; 32]),
    }
}

pub fn intent(key: &str) -> Intent {
    Intent {
        id: id(),
        tenant: Tenant::default(),
        environment: Environment::Production,
        subject: subject(),
        key: Some(key.into()),
        request_hash: [1; 32],
        archetype: "PAYMENT_TRANSFER".into(),
        provider: Some("bank".into()),
        principal: "alice".into(),
        at_ms: NOW,
        amount: None,
        usage: Default::default(),
        labels: Default::default(),
        payload: b"{}".to_vec(),
        erased_after_ms: None,
        entry: draft(ledger::ADMITTED),
    }
}

pub fn admission(key: &str) -> Admission {
    Admission {
        intent: intent(key),
        hold: None,
        debits: Vec::new(),
        effect: None,
        destination: None,
        cycle: None,
        lease_ms: NOW + 60_000,
    }
}

/// An admission that draws `minor` from each mandate, of a cap of 1000.
pub fn payment(key: &str, minor: i64, mandates: &[&str]) -> Admission {
    let mut admission = admission(key);
    admission.intent.amount = Some(usd(minor));
    admission.debits = mandates.iter().map(|jti| debit(jti, 1000)).collect();
    admission
}

pub fn debit(jti: &str, cap: i64) -> Debit {
    let limits = Limits { spend_cap: Some(usd(cap)), ..Limits::default() };
    Debit { link: Link { jti: jti.into(), limits }, epoch: 0, seen: None }
}

pub fn effect(hash: u8) -> Option<Effect> {
    Some(Effect { hash: [hash; 32], window_ms: 600_000, tolerate: Tolerance::Nothing })
}

/// More than any test holds, unless it is about that.
pub const MOST_HELD: u32 = 1000;

/// A hold that one person can end.
pub fn hold(until_ms: i64) -> Hold {
    Hold { until_ms, needed: 1, most: MOST_HELD }
}

/// What a person says about the first hold of an action.
pub fn approval(action: ActionId, approver: &str) -> Approval {
    Approval {
        action,
        round: 1,
        approver: Subject::parse(approver).unwrap(),
        at_ms: NOW + 7,
        record: format!("{{\"approver\":\"{approver}\"}}").into_bytes(),
        entry: Draft { state: Some("INTENDED"), ..draft("set by the ledger") },
        state_if_last: "APPROVED",
        limits: None,
    }
}

pub fn outcome(state: State, name: &str) -> Outcome {
    Outcome {
        at_ms: NOW + 10,
        state,
        reply: Some(Reply { status: 200, body: format!("reply {name}").into_bytes() }),
        receipt: Some(receipt(name)),
        payload: b"{}".to_vec(),
        entry: draft(told_as(state)),
    }
}

/// The event of an action that comes to this.
pub fn told_as(state: State) -> &'static str {
    match state {
        State::Held => ledger::HELD,
        State::Approved => "approved",
        State::Sent => ledger::ADMITTED,
        State::InDoubt | State::Unchecked => "in_doubt",
        State::Waiting => ledger::WAITING,
        State::Reserved => ledger::RESERVED,
        State::Challenged => ledger::CHALLENGED,
        State::Checking => ledger::CHECKING,
        State::Retracting => ledger::RETRACTING,
        State::Executed => "executed",
        State::Failed => "failed",
        State::Refused => "refused",
        State::RollingBack => ledger::ROLLING_BACK,
        State::RolledBack => "rolled_back",
        State::RollbackFailed | State::ReleaseFailed => "rollback_failed",
    }
}

/// The same as an amendment of what was said before.
pub fn amending(settlement: Settlement) -> Settlement {
    let mut amends = settlement;
    amends.outcome.entry.event = match amends.outcome.state {
        State::Failed => "denied_effect",
        to @ (State::RolledBack | State::RollbackFailed) => told_as(to),
        _ => "late_effect",
    };
    amends
}

/// A session of this agent, and its first record.
pub fn opening_of(tenant: &Tenant, session: Session) -> Opening {
    let payload = b"{}".to_vec();
    let record = json!({
        "by": session.subject.as_str(), "mandateId": &*session.mandate_id,
        "openedWith": hex::encode(Sha256::digest(&payload)), "sessionId": &*session.id,
    });
    let event = saying(ledger::SESSION_OPENED, &record);
    Opening { tenant: tenant.clone(), session, payload, event }
}

/// Something that happens to a session, with the record that it has.
pub fn turn_of(session: &str, what: Option<SessionEvent>) -> Turn {
    let record = match what {
        Some(SessionEvent::Suspended) => event(ledger::SESSION_STOPPED),
        Some(SessionEvent::Closed { completion, .. }) => {
            saying(ledger::SESSION_CLOSED, &json!({"completionState": completion.as_str()}))
        }
        Some(SessionEvent::Revoked { halt, .. }) => {
            saying(ledger::SESSION_HALTED, &json!({"completionState": halt.as_str()}))
        }
        _ => event("session_turned"),
    };
    Turn {
        tenant: Tenant::default(),
        session: session.into(),
        event: what,
        cause: None,
        record,
        expects: None,
    }
}

pub fn saying(name: &'static str, record: &serde_json::Value) -> Event {
    Event { record: record.to_string().into_bytes(), ..event(name) }
}

pub fn receipt(name: &str) -> Receipt {
    Receipt {
        id: format!("receipt-{name}").into(),
        short: format!("short-{name}").into(),
        signature: format!("signature-{name}").into(),
        document: format!("document {name}").into_bytes(),
    }
}

pub fn settlement(action: ActionId, state: State, name: &str) -> Settlement {
    let by = By::Holder(1);
    Settlement {
        action,
        by,
        outcome: outcome(state, name),
        charged: None,
        used: None,
        overage: None,
        halts: None,
        original: false,
    }
}

/// An attempt came to nothing, and the next one is due then.
pub fn deferral(action: ActionId, token: u32, due_ms: i64) -> Deferral {
    let (payload, entry) = (b"deferred".to_vec(), Draft { state: Some("EXECUTING"), ..draft("waiting") });
    Deferral { action, state: State::Waiting, by: By::Holder(token), at_ms: NOW + 20, due_ms, payload, entry }
}

/// The same, of what rests there.
pub fn resting(state: State, deferral: Deferral) -> Deferral {
    let entry = Draft { event: told_as(state), ..deferral.entry.clone() };
    Deferral { state, entry, ..deferral }
}

/// Sends an action once more that was sent before, or has failed.
pub fn send_again(ledger: &dyn Ledger, id: ActionId, from: Basis, mut admission: Admission) -> Admitted {
    admission.intent.id = id;
    admission.intent.entry = draft("sent_again");
    wait(ledger.resume(Resumption { admission, from, charges: None })).unwrap()
}

pub fn refusal(key: &str, name: &str) -> Refusal {
    Refusal {
        intent: intent(key),
        why: "EP_BOUNDARY_BLOCK".into(),
        cycle: None,
        outcome: outcome(State::Refused, name),
        halts: None,
    }
}

pub fn freeze(scope: Scope) -> Freeze {
    Freeze { scope, include_rollback: false, at_ms: NOW, by: "ops".into(), reason: "drill".into() }
}

pub fn event(event: &'static str) -> Event {
    Event {
        at_ms: NOW + 5,
        tenant_ref: None,
        event,
        record: format!("{{\"what\":\"{event}\"}}").into_bytes(),
    }
}

/// A question about nothing in particular, to be varied.
pub fn query<'a>(tenant: &'a Tenant, subject: &'a Subject) -> FactsQuery<'a> {
    FactsQuery {
        tenant,
        environment: Environment::Production,
        subject,
        key: None,
        request_hash: &[1; 32],
        archetype: "PAYMENT_TRANSFER",
        provider: Some("bank"),
        principal: "alice",
        currency: Some("USD"),
        destination: None,
        mandates: &[],
        effect: None,
        apart_from: None,
        now_ms: NOW,
    }
}

pub fn admit(ledger: &dyn Ledger, admission: Admission) -> Admitted {
    wait(ledger.admit(admission)).unwrap()
}

/// Admits what must pass, and answers with its id.
pub fn admitted(ledger: &dyn Ledger, admission: Admission) -> ActionId {
    let id = admission.intent.id;
    match admit(ledger, admission) {
        Admitted::New { .. } => id,
        other => panic!("not admitted: {other:?}"),
    }
}

/// What stands in the way.
pub fn obstacle(ledger: &dyn Ledger, admission: Admission) -> Obstacle {
    match admit(ledger, admission) {
        Admitted::Refused(obstacle) => obstacle,
        other => panic!("not refused: {other:?}"),
    }
}

/// Holds an action until that many agree.
pub fn held(ledger: &dyn Ledger, admission: Admission, needed: u32) -> ActionId {
    admitted(ledger, holding(admission, Hold { needed, ..hold(NOW + 1000) }))
}

/// The erasure of an action, by an admin.
pub fn erasure(action: ActionId) -> Erasure {
    Erasure {
        action,
        at_ms: NOW + 100,
        kept_ms: 0,
        record: br#"{"by":"admin-1"}"#.to_vec(),
        entry: Draft { state: Some("COMPLETED"), ..draft("set by the ledger") },
    }
}

/// The same action, to wait for people.
pub fn holding(admission: Admission, hold: Hold) -> Admission {
    let intent = Intent { entry: draft(ledger::HELD), ..admission.intent };
    Admission { intent, hold: Some(hold), ..admission }
}

pub fn resume(ledger: &dyn Ledger, id: ActionId, admission: Admission) -> Admitted {
    resume_of(ledger, id, 1, admission)
}

pub fn resume_of(ledger: &dyn Ledger, id: ActionId, round: u32, admission: Admission) -> Admitted {
    resume_from(ledger, id, Basis::Approved { round }, admission)
}

pub fn resume_from(ledger: &dyn Ledger, id: ActionId, from: Basis, mut admission: Admission) -> Admitted {
    admission.intent.id = id;
    wait(ledger.resume(Resumption { admission, from, charges: None })).unwrap()
}

pub fn state_of(ledger: &dyn Ledger, id: ActionId) -> State {
    wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap().state
}

pub fn spent(ledger: &dyn Ledger, jti: &str) -> i64 {
    let (tenant, subject, mandates) = (Tenant::default(), subject(), [Arc::from(jti)]);
    let facts = wait(ledger.facts(FactsQuery { mandates: &mandates, ..query(&tenant, &subject) })).unwrap();
    facts.accounts[0].spent_minor
}

/// A mandate that was issued here, with a cap of 1000.
pub fn mandate_of(jti: &str) -> ledger::Mandate {
    ledger::Mandate {
        tenant: Tenant::default(),
        jti: jti.into(),
        subject: subject(),
        issuer: "alice".into(),
        issued_ms: NOW,
        expires_ms: NOW + 1_000_000,
        claims: b"{}".to_vec(),
        chain: Vec::new(),
        kid: None,
    }
}
