//! Governed sessions: every ledger numbers and signs their records, and lets no cycle begin where none may.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use action::{Subject, Tenant};
use common::*;
use ledger::{Access, Postgres};
use ledger::{
    Admitted, BUDGET_BREACHED, Basis, Cycle, Debit, Declared, Declaring, Deferral, Draft, Error, Hold,
    Ledger, Link, Memory, Obstacle, Opening, Options, RECOVERY_COMPLETE, RECOVERY_INITIATED, RESERVED,
    Record, Sealer, Settlement, Sqlite, State, Turn, Used, sealed, session_of,
};
use mandate::{
    ApprovedLimits, Completion, Halt, Limits, ResourceEnvelope, Session, SessionEvent, SessionRefusal,
    SessionState, Usage,
};
use proptest::prelude::*;
use serde_json::json;

/// Signs by counting: what it signed is told apart by its length.
#[derive(Debug)]
struct Counting;

impl Sealer for Counting {
    fn seal(&self, bytes: &[u8]) -> Result<String, String> {
        Ok(format!("sealed-{}", bytes.len()))
    }
}

fn on_every_sealed_ledger(test: impl Fn(Arc<dyn Ledger>)) {
    test(Arc::new(Memory::new("chain-1", NOW).unwrap().sealed_by(Arc::new(Counting))));
    let directory = tempfile::tempdir().unwrap();
    test(Arc::new(sealed_sqlite(directory.path())));
    if let Some(server) = postgres::server() {
        test(Arc::new(sealed_postgres(&server.database())));
    }
}

fn sealed_postgres(url: &str) -> Postgres {
    Postgres::open(Access { sealer: Some(Arc::new(Counting)), ..access(url) }).unwrap()
}

fn sealed_sqlite(directory: &std::path::Path) -> Sqlite {
    let options = Options { sealer: Some(Arc::new(Counting)), ..Options::new("chain-1", NOW) };
    Sqlite::open(&directory.join("ledger.db"), options).unwrap()
}

fn opening(id: &str) -> Opening {
    opening_of(&Tenant::default(), Session::open(id, subject(), "m-1", NOW))
}

fn declaring(session: &str, intent: &str, sequence: u64) -> Declaring {
    Declaring {
        tenant: Tenant::default(),
        session: session.into(),
        intent: intent.into(),
        mandate: "m-1".into(),
        sequence,
        event: event("intent_declared"),
    }
}

fn cycle(session: &str, epoch: u64, sequence: u64) -> Option<Cycle> {
    let intent = Some("i-1".into());
    Some(Cycle { session: session.into(), epoch, sequence: Some(sequence), intent })
}

fn in_session(key: &str, session: &str, sequence: u64) -> ledger::Admission {
    ledger::Admission { cycle: cycle(session, 0, sequence), ..admission(key) }
}

fn begun(ledger: &dyn Ledger, session: &str, intent: &str) {
    wait(ledger.open_session(opening(session))).unwrap();
    assert!(matches!(wait(ledger.declare(declaring(session, intent, 1))).unwrap(), Declared::New(_)));
}

fn stands(ledger: &dyn Ledger, session: &str) -> Session {
    wait(ledger.session(&Tenant::default(), session)).unwrap().unwrap().session
}

fn records(ledger: &dyn Ledger, session: &str) -> Vec<Record> {
    wait(ledger.records(&Tenant::default(), session, None, 1000)).unwrap()
}

fn ids(records: &[Record]) -> Vec<String> {
    let id = |record: &Record| {
        let entry: serde_json::Value = serde_json::from_slice(&record.entry).unwrap();
        ledger::record_id(entry["chainId"].as_str().unwrap(), entry["seq"].as_u64().unwrap())
    };
    records.iter().map(id).collect()
}

#[test]
fn records_are_numbered_without_a_gap_and_each_names_its_cause() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        wait(ledger.open_session(opening("s-2"))).unwrap();
        let id = admitted(ledger, in_session("a", "s-1", 2));
        let other = admitted(ledger, admission("b"));
        wait(ledger.settle(settlement(other, State::Executed, "b"))).unwrap();
        wait(ledger.settle(settlement(id, State::Executed, "a"))).unwrap();
        wait(ledger.turn(turn_of(
            "s-1",
            Some(SessionEvent::Closed { completion: Completion::Complete, by_agent: false }),
        )))
        .unwrap();
        let found = records(ledger, "s-1");
        let said: Vec<_> = found.iter().map(|record| session_of(&record.entry).unwrap()).collect();
        assert_eq!(said.iter().map(|it| it.seq).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(said.iter().all(|it| it.id == "s-1"));
        let ids = ids(&found);
        let causes: Vec<_> = said.iter().map(|it| it.causal_parent.clone()).collect();
        let because = |of: usize| Some(ids[of].clone());
        assert_eq!(causes, [None, because(0), because(1), because(2), because(0)]);
        assert_eq!(said[2].intent_id.as_deref(), Some("i-1"));
        assert_eq!(records(ledger, "s-2").len(), 1);
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn a_recovery_begins_once_and_ends_once_whoever_tells_of_it() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        begun(ledger, "s-2", "i-2");
        let id = admitted(ledger, in_session("a", "s-1", 2));
        admitted(ledger, admission("b"));
        let open = || wait(ledger.recovering()).unwrap();
        let tells = |name| {
            let turn = Turn { record: event(name), ..turn_of("s-1", None) };
            wait(ledger.turn(turn)).map(|(record, _)| record)
        };
        let [found] = open().try_into().unwrap();
        assert_eq!((&*found.governed.session.id, found.initiated, found.sent), ("s-1", None, vec![id]));
        assert!(matches!(tells(RECOVERY_COMPLETE), Err(Error::Absent(_))));
        let first = tells(RECOVERY_INITIATED).unwrap();
        assert!(matches!(tells(RECOVERY_INITIATED), Err(Error::Exists(_))));
        assert_eq!(open()[0].initiated.as_ref(), Some(&first));
        wait(ledger.settle(settlement(id, State::InDoubt, "a"))).unwrap();
        // What was begun is still to be ended.
        let [found] = open().try_into().unwrap();
        assert_eq!((found.initiated, found.sent), (Some(first), vec![]));
        tells(RECOVERY_COMPLETE).unwrap();
        assert!(matches!(tells(RECOVERY_COMPLETE), Err(Error::Absent(_))));
        assert_eq!((open(), records(ledger, "s-1").len()), (vec![], 6));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn entries_of_sessions_and_no_others_are_signed() {
    on_every_sealed_ledger(|ledger| {
        begun(&*ledger, "s-1", "i-1");
        admitted(&*ledger, admission("a"));
        let all = wait(ledger.entries(None, 100)).unwrap().rows;
        let signed: Vec<_> = all.iter().filter_map(|(row, bytes)| sealed(*row, bytes)).collect();
        assert_eq!(wait(ledger.inspect(None)).unwrap().sealed, signed);
        assert_eq!((all.len(), signed.len()), (4, 2));
        for ledger::Sealed { bytes, signature, .. } in signed {
            assert_eq!(*signature, *format!("sealed-{}", bytes.len()));
            let entry: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            for left_out in ["hash", "previousHash", "kernelSignature"] {
                assert!(entry.get(left_out).is_none());
            }
            assert_eq!(serde_json::to_vec(&entry).unwrap(), bytes, "members stand in order");
        }
    });
}

#[test]
fn without_a_signature_no_session_begins() {
    on_every_ledger(|ledger| {
        assert!(wait(ledger.open_session(opening("s-1"))).is_err());
        assert!(wait(ledger.session(&Tenant::default(), "s-1")).unwrap().is_none());
    });
}

#[test]
fn a_cycle_begins_only_in_the_active_session_it_was_judged_in() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        let ends = [
            Some(SessionEvent::Suspended),
            Some(SessionEvent::Closed { completion: Completion::Partial, by_agent: false }),
            Some(SessionEvent::Revoked { halt: Halt::Clean, by_person: true }),
        ];
        for (n, end) in ends.into_iter().enumerate() {
            let (session, intent) = (format!("s-{n}"), format!("i-{n}"));
            begun(ledger, &session, &intent);
            admitted_and_done(ledger, &format!("ok-{n}"), &session, 2);
            wait(ledger.turn(turn_of(&session, end))).unwrap();
            let epoch = stands(ledger, &session).epoch;
            let late =
                ledger::Admission { cycle: cycle(&session, epoch, 3), ..admission(&format!("late-{n}")) };
            assert_eq!(obstacle(ledger, late), Obstacle::SessionChanged, "{end:?}");
        }
        begun(ledger, "s-x", "i-x");
        let gone = in_session("gone", "s-none", 2);
        assert_eq!(obstacle(ledger, gone), Obstacle::SessionChanged);
        let stale = ledger::Admission { cycle: cycle("s-x", 7, 2), ..admission("stale") };
        assert_eq!(obstacle(ledger, stale), Obstacle::SessionChanged);
        assert_eq!(obstacle(ledger, in_session("again", "s-x", 1)), Obstacle::NotRising { last: 1 });
        wait(ledger.verify()).unwrap();
    });
}

/// A mandate of two seconds, below one of nine, below one of a hundred and four units of computing.
fn envelopes() -> Vec<(Box<str>, ResourceEnvelope)> {
    let seconds = |max| ResourceEnvelope { max_duration_seconds: Some(max), ..ResourceEnvelope::default() };
    let units = ResourceEnvelope { max_compute_units: Some(4), ..seconds(100) };
    vec![("leaf".into(), seconds(2)), ("middle".into(), seconds(9)), ("root".into(), units)]
}

/// A cycle under all of them that takes a second and a unit, as far as is known.
fn metered(key: &str, session: &str) -> ledger::Admission {
    let mut admission = in_session(key, session, 2);
    admission.intent.usage = Usage { seconds: 1, compute_units: 1, ..Usage::default() };
    let debit = |(jti, envelope): (Box<str>, ResourceEnvelope)| {
        let limits = Limits { envelope, ..Limits::default() };
        Debit { link: Link { jti: jti.into(), limits }, epoch: 0, seen: None }
    };
    admission.debits = envelopes().into_iter().map(debit).collect();
    admission
}

fn took(id: action::ActionId, seconds: u64, compute_units: u64) -> Settlement {
    let usage = Usage { seconds, compute_units, ..Usage::default() };
    let used = Some(Used { usage, envelopes: envelopes(), beside: false });
    Settlement { used, ..settlement(id, State::Executed, "a") }
}

#[test]
fn what_takes_all_that_there_is_breaks_nothing() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        let id = admitted(ledger, metered("a", "s-1"));
        wait(ledger.settle(took(id, 2, 4))).unwrap();
        assert_eq!(records(ledger, "s-1").len(), 4, "opened, declared, admitted, executed");
    });
}

#[test]
fn every_mandate_that_is_broken_has_its_record_right_after_the_outcome() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        let id = admitted(ledger, metered("a", "s-1"));
        // The session may be over by then.
        wait(
            ledger.turn(turn_of("s-1", Some(SessionEvent::Revoked { halt: Halt::Partial, by_person: true }))),
        )
        .unwrap();
        wait(ledger.settle(took(id, 7, 5))).unwrap();
        let found = records(ledger, "s-1");
        let ids = ids(&found);
        let broken = &found[5..];
        let said = |record: &Record| serde_json::from_slice(record.record.as_ref().unwrap()).unwrap();
        let said: Vec<serde_json::Value> = broken.iter().map(said).collect();
        let breach = |limit: u64, mandate: &str, resource: &str, used: u64| {
            json!({
                "actionId": id.to_string(), "limit": limit, "mandateId": mandate, "resource": resource,
                "used": used,
            })
        };
        assert_eq!(
            said,
            [breach(2, "leaf", "max_duration_seconds", 7), breach(4, "root", "max_compute_units", 5)]
        );
        for record in broken {
            assert_eq!(ledger::event_of(&record.entry), Some(BUDGET_BREACHED));
            let cause = session_of(&record.entry).unwrap().causal_parent;
            assert_eq!(cause.as_ref(), Some(&ids[4]), "the outcome");
        }
        wait(ledger.verify()).unwrap();
    });
}

fn admitted_and_done(ledger: &dyn Ledger, key: &str, session: &str, sequence: u64) {
    let id = admitted(ledger, in_session(key, session, sequence));
    wait(ledger.settle(settlement(id, State::Executed, key))).unwrap();
}

#[test]
fn a_session_waits_for_people_until_they_have_decided() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        let held = |key: &str, sequence| holding(in_session(key, "s-1", sequence), hold(NOW + 1000));
        let id = admitted(ledger, held("a", 2));
        assert_eq!(stands(ledger, "s-1").state(), SessionState::HemPending);
        assert_eq!(obstacle(ledger, in_session("b", "s-1", 3)), Obstacle::SessionChanged);
        wait(ledger.approve(approval(id, "bob"))).unwrap();
        assert_eq!(stands(ledger, "s-1").state(), SessionState::HemPending, "nothing is sent yet");
        assert!(matches!(resume(ledger, id, admission("a")), Admitted::New { .. }));
        let now = stands(ledger, "s-1");
        assert_eq!((now.state(), now.held, now.in_flight), (SessionState::Active, 0, 1));
        let busy = wait(ledger.turn(turn_of(
            "s-1",
            Some(SessionEvent::Closed { completion: Completion::Complete, by_agent: false }),
        )));
        assert!(matches!(busy, Err(Error::Session(SessionRefusal::InFlight { actions: 1 }))));
        let done = ledger::Settlement { by: ledger::By::Holder(3), ..settlement(id, State::Executed, "a") };
        wait(ledger.settle(done)).unwrap();
        assert_eq!(stands(ledger, "s-1").in_flight, 0);

        let id = admitted(ledger, held("c", 3));
        wait(ledger.reject(approval(id, "bob"), 0, settlement(id, State::Refused, "c"))).unwrap();
        let now = stands(ledger, "s-1");
        assert_eq!((now.state(), now.cycles, now.denials), (SessionState::Active, 1, 1));
        // What was judged before that is judged by what was denied since.
        assert_eq!(obstacle(ledger, held("d", 4)), Obstacle::SessionChanged);
        let id = admitted(ledger, ledger::Admission { cycle: cycle("s-1", 1, 4), ..held("d", 4) });
        wait(
            ledger.turn(turn_of("s-1", Some(SessionEvent::Revoked { halt: Halt::Partial, by_person: true }))),
        )
        .unwrap();
        wait(ledger.approve(approval(id, "bob"))).unwrap();
        let too_late = resume(ledger, id, admission("d"));
        assert_eq!(
            too_late,
            Admitted::Refused(Obstacle::SessionChanged),
            "approved, but the session is over"
        );
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_somebody_asks_for_anew_is_not_sent_while_the_session_waits_for_people() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        let failed = admitted(ledger, in_session("failed", "s-1", 2));
        wait(ledger.settle(settlement(failed, State::Failed, "failed"))).unwrap();
        let reserved = admitted(ledger, in_session("reserved", "s-1", 3));
        wait(ledger.defer(reserving(reserved, 1))).unwrap();
        let waiting = admitted(ledger, in_session("waiting", "s-1", 4));
        wait(ledger.defer(deferral(waiting, 1, NOW + 100))).unwrap();
        let held = admitted(ledger, holding(in_session("held", "s-1", 5), hold(NOW + 1000)));
        let retry = || send_again(ledger, failed, Basis::Failed { token: 1 }, admission("failed"));
        let charge = || send_again(ledger, reserved, Basis::Sent { token: 2 }, admission("reserved"));
        for asked in [retry(), charge()] {
            assert_eq!(asked, Admitted::Refused(Obstacle::SessionChanged));
        }
        let due = send_again(ledger, waiting, Basis::Sent { token: 2 }, admission("waiting"));
        assert!(matches!(due, Admitted::New { .. }), "nobody asked for it");
        wait(ledger.reject(approval(held, "bob"), 0, settlement(held, State::Refused, "held"))).unwrap();
        for asked in [retry(), charge()] {
            assert!(matches!(asked, Admitted::New { .. }));
        }
        assert_eq!(stands(ledger, "s-1").in_flight, 3);
    });
}

fn reserving(action: action::ActionId, token: u32) -> Deferral {
    let entry = Draft { state: Some("EXECUTING"), ..draft(RESERVED) };
    Deferral { state: State::Reserved, entry, ..deferral(action, token, NOW + 1000) }
}

/// One thing that happens to an action of a session, or to the session.
#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    Hold,
    Approve,
    Reject,
    SendApproved,
    SendAgain,
    Retry,
    Settle(State),
    Defer(State),
    Amend(State),
    Suspend,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let settled = [State::InDoubt, State::Executed, State::Failed, State::Refused, State::ReleaseFailed];
    let deferred = [
        State::Waiting,
        State::Reserved,
        State::Challenged,
        State::Checking,
        State::Retracting,
        State::RollingBack,
    ];
    let step = prop_oneof![
        3 => Just(Step::Admit),
        3 => Just(Step::Hold),
        4 => Just(Step::Approve),
        2 => Just(Step::Reject),
        4 => Just(Step::SendApproved),
        4 => Just(Step::SendAgain),
        4 => Just(Step::Retry),
        9 => prop::sample::select(settled.to_vec()).prop_map(Step::Settle),
        5 => prop::sample::select(deferred.to_vec()).prop_map(Step::Defer),
        4 => prop::sample::select(State::ALL.to_vec()).prop_map(Step::Amend),
        1 => Just(Step::Suspend),
    ];
    (0..4_usize, step)
}

/// What may not happen is refused; whatever happens, the session knows how many of its actions wait and are under way, and the
/// entries are such that each leads on from those before it.
fn happen(ledger: &dyn Ledger, steps: &[(usize, Step)]) {
    begun(ledger, "s-1", "i-1");
    let (mut ids, mut sent) = ([None; 4], [false; 4]);
    for (n, (number, step)) in steps.iter().enumerate() {
        let (key, sequence) = (format!("k{number}"), stands(ledger, "s-1").sequence + 1);
        let new = ledger::Admission {
            cycle: cycle("s-1", stands(ledger, "s-1").epoch, sequence),
            ..admission(&key)
        };
        let before = stored(ledger, ids[*number]);
        let waits = stands(ledger, "s-1").held > 0;
        match (step, &before) {
            (Step::Admit | Step::Hold, None) => {
                let new = if matches!(step, Step::Hold) { holding(new, hold(NOW + 1000)) } else { new };
                let id = new.intent.id;
                ids[*number] = matches!(admit(ledger, new), Admitted::New { .. }).then_some(id);
            }
            (_, None) | (Step::Admit | Step::Hold, _) => {}
            (Step::Approve, Some(it)) => drop(wait(ledger.approve(approval(it.id, "bob")))),
            (Step::Reject, Some(it)) => {
                drop(wait(ledger.reject(approval(it.id, "eve"), 0, settlement(it.id, State::Refused, "no"))));
            }
            (Step::SendApproved, Some(it)) => drop(resume(ledger, it.id, admission(&key))),
            (Step::SendAgain, Some(it)) => {
                drop(send_again(ledger, it.id, Basis::Sent { token: it.token }, admission(&key)));
            }
            // Only what was sent is tried again, or turns out to have been otherwise.
            (Step::Retry | Step::Amend(_), Some(_)) if !sent[*number] => {}
            (Step::Retry, Some(it)) => {
                drop(send_again(ledger, it.id, Basis::Failed { token: it.token }, admission(&key)));
            }
            (Step::Settle(to), Some(it)) => {
                let by = ledger::By::Holder(it.token);
                drop(wait(ledger.settle(Settlement { by, ..settlement(it.id, *to, &format!("o{n}")) })));
            }
            (Step::Defer(to), Some(it)) => {
                drop(wait(ledger.defer(resting(*to, deferral(it.id, it.token, NOW + 1000)))));
            }
            (Step::Amend(to), Some(it)) => {
                let by = ledger::By::Holder(it.token);
                let mut amends = amending(Settlement { by, ..settlement(it.id, *to, &format!("o{n}")) });
                if it.state == *to {
                    amends.outcome.entry.event = "late_effect";
                }
                drop(wait(ledger.amend(amends)));
            }
            (Step::Suspend, _) => drop(wait(ledger.turn(turn_of("s-1", Some(SessionEvent::Suspended))))),
        }
        let after = stored(ledger, ids[*number]).map(|it| it.state);
        sent[*number] |= after == Some(State::Sent);
        let begins = matches!(before.map(|it| it.state), None | Some(State::Failed | State::Reserved));
        assert!(!(waits && begins && after == Some(State::Sent)), "{step:?} while people are asked");
        let all = || ids.iter().filter_map(|id| stored(ledger, *id)).map(|it| it.state);
        let waiting = all().filter(|it| it.waits()).count();
        let under_way = all().filter(|it| !it.waits() && !it.is_amended()).count();
        let session = stands(ledger, "s-1");
        assert_eq!((session.held as usize, session.in_flight as usize), (waiting, under_way), "{step:?}");
    }
    wait(ledger.verify()).unwrap();
}

fn stored(ledger: &dyn Ledger, id: Option<action::ActionId>) -> Option<ledger::Stored> {
    wait(ledger.action(&Tenant::default(), id?)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_session_knows_how_many_of_its_actions_wait_and_are_under_way(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        happen(&Memory::new("chain-1", NOW).unwrap().sealed_by(Arc::new(Counting)), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn so_it_does_where_everything_is_durable(steps in prop::collection::vec(step(), 40..80)) {
        let directory = tempfile::tempdir().unwrap();
        happen(&sealed_sqlite(directory.path()), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn and_where_many_share_it(steps in prop::collection::vec(step(), 40..80)) {
        if let Some(server) = postgres::server() {
            happen(&sealed_postgres(&server.database()), &steps);
        }
    }
}

/// An approval that goes no further for the rest of the session.
fn within(id: action::ActionId, who: &str, most: i64, not_after_ms: Option<i64>) -> ledger::Approval {
    let max_amount = action::Money::new(most, action::Currency::of("USD").unwrap());
    ledger::Approval { limits: Some(ApprovedLimits { max_amount, not_after_ms }), ..approval(id, who) }
}

/// A cycle that waits for two people.
fn for_two(key: &str, session: &str, epoch: u64, sequence: u64) -> ledger::Admission {
    let waits = holding(admission(key), Hold { needed: 2, ..hold(NOW + 1000) });
    ledger::Admission { cycle: cycle(session, epoch, sequence), ..waits }
}

#[test]
fn limits_of_people_for_a_session_are_lowered_with_their_word_and_hold_at_admission() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        let amount = |minor| action::Money::new(minor, action::Currency::of("USD").unwrap());
        let id = admitted(ledger, for_two("a", "s-1", 0, 2));
        wait(ledger.approve(within(id, "anna", 9_000, Some(NOW + 500)))).unwrap();
        let now = stands(ledger, "s-1");
        assert_eq!(now.limits, ApprovedLimits { max_amount: amount(9_000), not_after_ms: Some(NOW + 500) });
        assert_eq!((now.epoch, now.state()), (1, SessionState::HemPending), "with the first of two words");
        wait(ledger.approve(within(id, "bob", 20_000, Some(NOW + 400)))).unwrap();
        let now = stands(ledger, "s-1");
        assert_eq!(now.limits, ApprovedLimits { max_amount: amount(9_000), not_after_ms: Some(NOW + 400) });
        // Each has its record right after the word, and caused by it.
        let found = records(ledger, "s-1");
        let ids = ids(&found);
        let said: Vec<_> = found.iter().map(|it| session_of(&it.entry).unwrap()).collect();
        let told: Vec<serde_json::Value> = found
            .iter()
            .map(|it| serde_json::from_slice(it.record.as_deref().unwrap_or(b"{}")).unwrap())
            .collect();
        assert_eq!(said.iter().map(|it| it.seq).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
        for (word, limits) in [(3, 4), (5, 6)] {
            assert_eq!(said[limits].causal_parent.as_deref(), Some(&*ids[word]));
            assert_eq!(ledger::event_of(&found[limits].entry), Some("session_limited"));
        }
        assert_eq!(
            told[6]["ale"]["fields"]["session_limits"],
            json!({"currency": "USD", "max_amount": "90.00", "not_after": "2026-04-24T03:06:40.400Z"})
        );
        assert_eq!(told[6]["ale"]["fields"]["set"]["max_amount"], "200.00");
        // Whoever was judged before that, or says that they know of it, is held to it.
        let costs = |minor, at_ms| {
            let mut item = admission("a");
            (item.intent.amount, item.intent.at_ms) = (amount(minor), at_ms);
            item
        };
        assert_eq!(resume(ledger, id, costs(9_001, NOW)), Admitted::Refused(Obstacle::SessionChanged));
        assert_eq!(resume(ledger, id, costs(9_000, NOW + 401)), Admitted::Refused(Obstacle::SessionChanged));
        assert!(matches!(resume(ledger, id, costs(9_000, NOW + 400)), Admitted::New { .. }));
        let next = |key: &str, epoch, minor| {
            let mut item = ledger::Admission { cycle: cycle("s-1", epoch, 3), ..admission(key) };
            item.intent.amount = amount(minor);
            item
        };
        assert_eq!(obstacle(ledger, next("b", 0, 1)), Obstacle::SessionChanged);
        assert_eq!(obstacle(ledger, next("b", 2, 9_001)), Obstacle::SessionChanged);
        // So is another attempt of what was sent before.
        wait(ledger.settle(Settlement { by: ledger::By::Holder(4), ..settlement(id, State::Failed, "a") }))
            .unwrap();
        let again = send_again(ledger, id, Basis::Failed { token: 4 }, costs(9_001, NOW));
        assert_eq!(again, Admitted::Refused(Obstacle::SessionChanged));
        admitted(ledger, next("b", 2, 9_000));
        // Outside of sessions there is nothing to limit.
        let plain = admitted(ledger, holding(admission("plain"), hold(NOW + 1000)));
        wait(ledger.approve(within(plain, "anna", 1, None))).unwrap();
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn limits_of_a_session_that_nobody_set_or_somebody_loosened_are_found() {
    let alterations = [
        "UPDATE session SET limit_minor = limit_minor + 1",
        "UPDATE session SET limit_currency = 'EUR'",
        "UPDATE session SET limit_until = NULL",
        "UPDATE session SET limit_minor = NULL, limit_currency = NULL, limit_until = NULL, limited = NULL",
        "UPDATE session SET limited = NULL",
        "UPDATE session SET limited = entry",
        "UPDATE session SET limited = (SELECT min(row) FROM entry WHERE instr(CAST(bytes AS TEXT), 'session_limited'))",
    ];
    for alteration in alterations {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sealed_sqlite(directory.path());
        begun(&ledger, "s-1", "i-1");
        let id = admitted(&ledger, for_two("a", "s-1", 0, 2));
        wait(ledger.approve(within(id, "anna", 9_000, Some(NOW + 500)))).unwrap();
        wait(ledger.approve(within(id, "bob", 8_000, Some(NOW + 500)))).unwrap();
        wait(ledger.verify()).unwrap();
        drop(ledger);
        let db = rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap();
        db.execute_batch(alteration).unwrap();
        drop(db);
        let found = wait(reopened(directory.path()).inspect(None)).unwrap().findings;
        let first = found.first().map(|it| &it.broken);
        assert_eq!(first, Some(&ledger::Broken::Session), "{alteration}: {found:?}");
    }
}

fn reopened(directory: &std::path::Path) -> Sqlite {
    let options = Options { sealer: Some(Arc::new(Counting)), ..Options::new("chain-2", NOW) };
    Sqlite::open(&directory.join("ledger.db"), options).unwrap()
}

#[test]
fn what_is_in_doubt_or_waits_for_its_next_attempt_is_under_way() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        let id = admitted(ledger, in_session("a", "s-1", 2));
        wait(ledger.defer(deferral(id, 1, NOW + 100))).unwrap();
        assert_eq!(stands(ledger, "s-1").in_flight, 1);
        let again = send_again(ledger, id, Basis::Sent { token: 2 }, admission("a"));
        assert!(matches!(again, Admitted::New { .. }));
        let doubt = ledger::Settlement { by: ledger::By::Holder(3), ..settlement(id, State::InDoubt, "a") };
        wait(ledger.settle(doubt)).unwrap();
        assert_eq!(stands(ledger, "s-1").in_flight, 1);
        let failed = ledger::Settlement { by: ledger::By::Holder(3), ..settlement(id, State::Failed, "b") };
        wait(ledger.settle(failed)).unwrap();
        assert_eq!(stands(ledger, "s-1").in_flight, 0);
        let retried = send_again(ledger, id, Basis::Failed { token: 3 }, admission("a"));
        assert!(matches!(retried, Admitted::New { .. }));
        assert_eq!(stands(ledger, "s-1").in_flight, 1);
        let said: Vec<_> =
            records(ledger, "s-1").iter().map(|it| session_of(&it.entry).unwrap().seq).collect();
        assert_eq!(said, (0..8).collect::<Vec<_>>());
    });
}

#[test]
fn what_is_said_to_be_used_after_the_last_word_is_added_and_gives_nothing_back() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        let sent = metered("a", "s-1");
        let id = sent.intent.id;
        admitted(ledger, sent);
        let said = |seconds, units: u64, state| Settlement {
            outcome: settlement(id, state, &units.to_string()).outcome,
            ..took(id, seconds, units)
        };
        wait(ledger.settle(said(1, 3, State::Failed))).unwrap();
        // Of its time nothing more is said.
        wait(ledger.amend(amending(said(0, 6, State::Executed)))).unwrap();
        let told: Vec<_> = records(ledger, "s-1").into_iter().filter_map(|it| it.record).collect();
        let last: serde_json::Value = serde_json::from_slice(told.last().unwrap()).unwrap();
        assert_eq!(
            (&last["mandateId"], &last["resource"], &last["used"]),
            (&json!("root"), &json!("max_compute_units"), &json!(6))
        );
        // A second of two is left: what was given back would be two.
        let next = ledger::Admission { cycle: cycle("s-1", 0, 3), ..metered("b", "s-1") };
        let mut more = next;
        more.intent.usage = Usage { seconds: 2, ..Usage::default() };
        assert!(matches!(obstacle(ledger, more), Obstacle::EnvelopeExceeded { .. }));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn a_refused_cycle_is_a_record_of_its_session_and_uses_up_its_number() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        let refused = ledger::Refusal { cycle: cycle("s-1", 0, 5), ..refusal("a", "a") };
        wait(ledger.refuse(refused)).unwrap();
        let now = stands(ledger, "s-1");
        assert_eq!((now.denials, now.sequence, now.state()), (1, 5, SessionState::Active));
        assert_eq!(records(ledger, "s-1").len(), 3);
        let nameless = Cycle { session: "s-1".into(), epoch: 0, sequence: None, intent: None };
        wait(ledger.refuse(ledger::Refusal { cycle: Some(nameless), ..refusal("b", "b") })).unwrap();
        assert_eq!(stands(ledger, "s-1").denials, 2);
        wait(ledger.verify()).unwrap();
    });
}

/// Number, event and cause of the newest records.
fn newest(ledger: &dyn Ledger, session: &str, count: usize) -> Vec<(String, Option<String>)> {
    let all = records(ledger, session);
    let told = |it: &Record| {
        let place = session_of(&it.entry).unwrap();
        (ledger::event_of(&it.entry).unwrap().to_owned(), place.causal_parent)
    };
    all[all.len() - count..].iter().map(told).collect()
}

#[test]
fn what_halts_a_session_stops_it_in_the_commit_of_its_last_cycle() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        // Denied at once.
        begun(ledger, "s-1", "i-1");
        let halts = Some(event("session_revocation_initiated"));
        let last = ledger::Refusal { cycle: cycle("s-1", 0, 5), halts: halts.clone(), ..refusal("a", "a") };
        let before = wait(ledger.entries(None, 100)).unwrap().rows.len();
        wait(ledger.refuse(last.clone())).unwrap();
        assert_eq!(stands(ledger, "s-1").state(), SessionState::Suspended);
        let all = wait(ledger.entries(None, 100)).unwrap().rows;
        assert_eq!(all.len(), before + 2);
        let told = newest(ledger, "s-1", 2);
        assert_eq!((&*told[0].0, &*told[1].0), ("refused", "session_revocation_initiated"));
        assert!(told[1].1.as_deref().is_some_and(|cause| cause.ends_with(&format!("-{before}"))), "{told:?}");
        // It has one beginning of its end.
        let more = ledger::Refusal { cycle: cycle("s-1", 2, 7), halts: halts.clone(), ..refusal("z", "z") };
        wait(ledger.refuse(more)).unwrap();
        assert_eq!(newest(ledger, "s-1", 1)[0].0, "refused");
        let again = wait(ledger.turn(turn_of("s-1", Some(SessionEvent::Suspended))));
        assert!(matches!(again, Err(Error::Session(SessionRefusal::State(SessionState::Suspended)))));
        // It is found as what is to end, and once it is over it has had its last record.
        let lapsed = wait(ledger.lapsed(NOW, 10)).unwrap();
        let [found] = lapsed.as_slice() else { panic!("{lapsed:?}") };
        assert_eq!((&*found.governed.session.id, &found.why), ("s-1", &ledger::Lapse::Stopped));
        wait(ledger.turn(turn_of("s-1", Some(SessionEvent::Revoked { halt: Halt::Clean, by_person: true }))))
            .unwrap();
        assert!(wait(ledger.lapsed(NOW, 10)).unwrap().is_empty());
        let late = ledger::Refusal { cycle: cycle("s-1", 0, 6), halts: halts.clone(), ..refusal("b", "b") };
        wait(ledger.refuse(late)).unwrap();
        assert_eq!(newest(ledger, "s-1", 1)[0].0, "refused");
        // The same of one that waited.
        begun(ledger, "s-2", "i-2");
        let hold = Hold { until_ms: NOW + 60_000, needed: 1, most: 10 };
        let waits = holding(ledger::Admission { cycle: cycle("s-2", 0, 2), ..admission("c") }, hold);
        let id = waits.intent.id;
        admitted(ledger, waits);
        wait(ledger.settle(Settlement { halts, ..settlement(id, State::Refused, "c") })).unwrap();
        assert_eq!(stands(ledger, "s-2").state(), SessionState::Suspended);
        assert_eq!(newest(ledger, "s-2", 1)[0].0, "session_revocation_initiated");
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn a_record_that_is_expected_under_a_number_comes_under_that_or_not_at_all() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        let next = stands(ledger, "s-1").next_record;
        let closes = SessionEvent::Closed { completion: Completion::Complete, by_agent: true };
        let closing = |expects| ledger.turn(Turn { expects, ..turn_of("s-1", Some(closes)) });
        for other in [next - 1, next + 1] {
            assert!(matches!(wait(closing(Some(other))), Err(Error::Changed(_))));
        }
        assert_eq!((stands(ledger, "s-1").next_record, stands(ledger, "s-1").closed), (next, None));
        wait(closing(Some(next))).unwrap();
    });
}

#[test]
fn a_declaration_is_made_once_under_a_mandate_and_its_number_rises() {
    on_every_sealed_ledger(|ledger| {
        let ledger = &*ledger;
        begun(ledger, "s-1", "i-1");
        wait(ledger.open_session(opening("s-2"))).unwrap();
        let declare =
            |session: &str, intent: &str, n| wait(ledger.declare(declaring(session, intent, n))).unwrap();
        assert_eq!(declare("s-2", "i-1", 1), Declared::Duplicate);
        assert_eq!(declare("s-none", "i-2", 1), Declared::NoSession);
        assert_eq!(declare("s-1", "i-2", 1), Declared::Refused(SessionRefusal::Sequence { last: 1 }));
        assert!(matches!(declare("s-1", "i-2", 2), Declared::New(_)));
        let tenant = Tenant::default();
        let newest = wait(ledger.intention(&tenant, "s-1", None)).unwrap().unwrap();
        let named = wait(ledger.intention(&tenant, "s-1", Some("i-1"))).unwrap().unwrap();
        assert_eq!((&*newest.intent, &*named.intent), ("i-2", "i-1"));
        assert_eq!(named.record, event("intent_declared").record);
        let second = records(ledger, "s-1").remove(1);
        assert_eq!((named.entry, &*ids(std::slice::from_ref(&second))[0]), (second.entry, &*named.record_id));
        assert!(wait(ledger.intention(&tenant, "s-2", Some("i-1"))).unwrap().is_none(), "of another session");
        let stranger = Tenant::parse("other").unwrap();
        assert!(wait(ledger.intention(&stranger, "s-1", None)).unwrap().is_none());
        assert!(wait(ledger.session(&stranger, "s-1")).unwrap().is_none());
        assert!(wait(ledger.records(&stranger, "s-1", None, 10)).unwrap().is_empty());
        assert!(matches!(wait(ledger.open_session(opening("s-1"))), Err(Error::Exists(_))));
    });
}

#[test]
fn sessions_are_listed_newest_first() {
    on_every_sealed_ledger(|ledger| {
        let ids = ["s-1", "s-2", "s-3"];
        ids.iter().for_each(|id| drop(wait(ledger.open_session(opening(id))).unwrap()));
        let tenant = Tenant::default();
        let first = wait(ledger.sessions(&tenant, Some(&subject()), None, 2)).unwrap();
        let rest = wait(ledger.sessions(&tenant, None, first.next, 2)).unwrap();
        let names: Vec<_> = first.rows.iter().chain(&rest.rows).map(|it| it.session.id.clone()).collect();
        assert_eq!(names, ["s-3".into(), "s-2".into(), "s-1".into()]);
    });
}

#[test]
fn a_session_is_what_it_was_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sealed_sqlite(directory.path());
    begun(&ledger, "s-1", "i-1");
    let id = admitted(&ledger, in_session("a", "s-1", 2));
    let before = stands(&ledger, "s-1");
    drop(ledger);
    let options = Options { sealer: Some(Arc::new(Counting)), ..Options::new("chain-2", NOW) };
    let ledger = Sqlite::open(&directory.path().join("ledger.db"), options).unwrap();
    assert_eq!(stands(&ledger, "s-1"), before);
    wait(ledger.settle(settlement(id, State::Executed, "a"))).unwrap();
    let numbers: Vec<_> = records(&ledger, "s-1").iter().map(|it| it.seq).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    wait(ledger.verify()).unwrap();
}

/// Signs nothing while it is broken, so that what needs a signature is not committed.
#[derive(Debug, Default)]
struct Breaking(AtomicBool);

impl Sealer for Breaking {
    fn seal(&self, bytes: &[u8]) -> Result<String, String> {
        if self.0.load(Ordering::SeqCst) { Err("no key".to_owned()) } else { Counting.seal(bytes) }
    }
}

#[test]
fn a_session_is_seen_as_it_was_last_committed() {
    let directory = tempfile::tempdir().unwrap();
    let sealer = Arc::new(Breaking::default());
    let options = Options { sealer: Some(sealer.clone()), ..Options::new("chain-1", NOW) };
    let ledger = Sqlite::open(&directory.path().join("ledger.db"), options).unwrap();
    begun(&ledger, "s-1", "i-1");
    let before = stands(&ledger, "s-1");
    let suspend = || wait(ledger.turn(turn_of("s-1", Some(SessionEvent::Suspended))));
    sealer.0.store(true, Ordering::SeqCst);
    assert!(matches!(suspend(), Err(Error::Rejected(_))));
    assert!(matches!(wait(ledger.open_session(opening("s-2"))), Err(Error::Rejected(_))));
    assert_eq!(stands(&ledger, "s-1"), before);
    assert_eq!(wait(ledger.session(&Tenant::default(), "s-2")).unwrap(), None);
    sealer.0.store(false, Ordering::SeqCst);
    suspend().unwrap();
    let after = stands(&ledger, "s-1");
    assert_eq!((after.state(), after.next_record), (SessionState::Suspended, before.next_record + 1));
    drop(ledger);
    assert_eq!(stands(&sealed_sqlite(directory.path()), "s-1"), after);
}

/// Revocation is linearised with admission: what is admitted was admitted before it was acknowledged.
#[test]
fn none_of_a_thousand_cycles_is_admitted_after_the_revocation_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Arc::new(sealed_sqlite(directory.path()));
    begun(&*ledger, "s-1", "i-1");
    let acknowledged = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let racers: Vec<_> = (0..4_u64)
            .map(|racer| {
                let (ledger, acknowledged) = (&ledger, &acknowledged);
                scope.spawn(move || {
                    for n in 0..250 {
                        let late = acknowledged.load(Ordering::SeqCst);
                        let sequence = 2 + n * 4 + racer;
                        match admit(&**ledger, in_session(&format!("{racer}-{n}"), "s-1", sequence)) {
                            Admitted::New { .. } => assert!(!late, "admitted after the acknowledgement"),
                            Admitted::Refused(_) => {}
                            other => panic!("{other:?}"),
                        }
                    }
                })
            })
            .collect();
        while stands(&*ledger, "s-1").cycles < 20 {
            std::thread::yield_now();
        }
        wait(
            ledger.turn(turn_of("s-1", Some(SessionEvent::Revoked { halt: Halt::Unknown, by_person: true }))),
        )
        .unwrap();
        let admitted = stands(&*ledger, "s-1").cycles;
        acknowledged.store(true, Ordering::SeqCst);
        racers.into_iter().for_each(|racer| racer.join().unwrap());
        assert_eq!(stands(&*ledger, "s-1").cycles, admitted);
    });
    wait(ledger.verify()).unwrap();
}

/// Whoever revoked is told of the sessions below that are open by then, so none may open afterwards.
#[test]
fn no_session_begins_under_what_is_revoked() {
    on_every_sealed_ledger(|ledger| {
        let mandate = |jti: &str, chain: &[&str]| ledger::Mandate {
            tenant: Tenant::default(),
            jti: jti.into(),
            subject: subject(),
            issuer: "alice".into(),
            issued_ms: NOW,
            expires_ms: NOW + 1000,
            claims: b"{}".to_vec(),
            chain: chain.iter().map(|jti| (*jti).into()).collect(),
            kid: None,
        };
        for (jti, chain) in [("m-1", &[][..]), ("m-2", &["m-1"]), ("m-3", &["m-1", "m-2"]), ("m-4", &[])] {
            wait(ledger.issue(mandate(jti, chain), event("mandate_issued"))).unwrap();
        }
        let under = |jti: &str| {
            let session = Session::open(format!("s-{jti}"), subject(), jti, NOW);
            wait(ledger.open_session(opening_of(&Tenant::default(), session)))
        };
        wait(ledger.revoke(&Tenant::default(), "m-2", event("mandate_revoked"))).unwrap();
        for jti in ["m-2", "m-3"] {
            assert!(matches!(under(jti), Err(Error::Absent(ended)) if *ended == *"m-2"), "{jti}");
        }
        for jti in ["m-1", "m-4"] {
            under(jti).unwrap();
        }
        assert!(wait(ledger.sessions_under(&Tenant::default(), "m-2")).unwrap().is_empty());
        // Of all these the subject holds what is in force still.
        let held = |jti: &str, subject: &Subject, now_ms: i64| {
            wait(ledger.held_under(&Tenant::default(), jti, subject, now_ms)).unwrap()
        };
        for (jti, expected) in [("m-1", Some("m-1")), ("m-2", None), ("m-4", Some("m-4")), ("m-", None)] {
            assert_eq!(held(jti, &subject(), NOW).as_deref(), expected, "{jti}");
        }
        assert_eq!(held("m-1", &subject(), NOW + 1000), None);
        let other = Subject::parse("agent-9").unwrap();
        assert_eq!(held("m-1", &other, NOW), None);
        let below = ledger::Mandate { subject: other.clone(), ..mandate("m-5", &["m-1"]) };
        wait(ledger.issue(below, event("mandate_issued"))).unwrap();
        assert_eq!(held("m-1", &other, NOW).as_deref(), Some("m-5"));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn a_record_that_is_missing_or_stands_elsewhere_is_found() {
    let alterations = [
        "DELETE FROM record WHERE seq = 1",
        "UPDATE record SET seq = 9 WHERE seq = 3",
        "UPDATE session SET next = 5",
        "UPDATE session SET id = 's-9'",
        "INSERT INTO record VALUES (1, 0, 1)",
    ];
    for alteration in alterations {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sealed_sqlite(directory.path());
        begun(&ledger, "s-1", "i-1");
        admitted_and_done(&ledger, "a", "s-1", 2);
        wait(ledger.verify()).unwrap();
        drop(ledger);
        rusqlite::Connection::open(directory.path().join("ledger.db"))
            .unwrap()
            .execute_batch(alteration)
            .unwrap();
        let options = Options { sealer: Some(Arc::new(Counting)), ..Options::new("chain-2", NOW) };
        let ledger = Sqlite::open(&directory.path().join("ledger.db"), options).unwrap();
        let found = wait(ledger.inspect(None)).unwrap().findings;
        let first = found.first().map(|it| &it.broken);
        assert_eq!(first, Some(&ledger::Broken::Session), "{alteration}: {found:?}");
    }
}

/// Two sessions: of the first a cycle is done, one denied and one waits, the second was revoked.
fn governed(directory: &std::path::Path) {
    governed_in(&sealed_sqlite(directory));
}

fn governed_in(ledger: &dyn Ledger) {
    begun(ledger, "s-1", "i-1");
    admitted_and_done(ledger, "a", "s-1", 2);
    wait(ledger.refuse(ledger::Refusal { cycle: cycle("s-1", 0, 3), ..refusal("b", "b") })).unwrap();
    let epoch = stands(ledger, "s-1").epoch;
    let waits = ledger::Admission { cycle: cycle("s-1", epoch, 4), ..admission("c") };
    admitted(ledger, holding(waits, hold(NOW + 60_000)));
    begun(ledger, "s-2", "i-2");
    wait(ledger.turn(turn_of("s-2", Some(SessionEvent::Suspended)))).unwrap();
    wait(ledger.turn(turn_of("s-2", Some(SessionEvent::Revoked { halt: Halt::Partial, by_person: true }))))
        .unwrap();
    wait(ledger.verify()).unwrap();
}

/// The store that somebody has altered, opened once more.
fn altered(directory: &std::path::Path, sql: &str) -> Sqlite {
    let db = rusqlite::Connection::open(directory.join("ledger.db")).unwrap();
    assert!(db.execute(sql, []).unwrap() > 0, "{sql}");
    let options = Options { sealer: Some(Arc::new(Counting)), ..Options::new("chain-2", NOW) };
    Sqlite::open(&directory.join("ledger.db"), options).unwrap()
}

#[test]
fn a_session_that_is_not_what_its_records_say_is_found_and_nothing_begins_in_it() {
    let of_first = [
        "suspended = 1",
        "closed = 1",
        "closed = 3, halt = 1",
        "held = 0",
        "subject = 'eve'",
        "mandate = 'm-9'",
        "tenant = 'other'",
        "opening = 'audit-chain-1-9'",
        "payload = x'7b7d20'",
        "opened = opened + 40000000000",
    ];
    let of_second = ["closed = NULL, suspended = 0, halt = NULL", "closed = NULL", "closed = 1", "halt = 1"];
    let of_second =
        of_second.into_iter().chain(["halt = NULL", "suspended = 0"]).map(|change| (change, "s-2", 8));
    for (change, id, first) in of_first.into_iter().map(|change| (change, "s-1", 2)).chain(of_second) {
        let directory = tempfile::tempdir().unwrap();
        governed(directory.path());
        let ledger = altered(directory.path(), &format!("UPDATE session SET {change} WHERE id = '{id}'"));
        let found = wait(ledger.inspect(None)).unwrap().findings;
        let found = found.first().map(|it| (it.entry, it.broken.clone()));
        assert_eq!(found, Some((first, ledger::Broken::Governed)), "{id}: {change}");
        // It is not to be had, and whatever is to begin in it is not written.
        assert!(wait(ledger.session(&Tenant::default(), id)).is_err(), "{id}: {change}");
        let begins = ledger::Admission { cycle: cycle(id, 1, 9), ..admission("late") };
        assert!(wait(ledger.admit(begins)).is_err(), "{id}: {change}");
        assert!(wait(ledger.declare(declaring(id, "i-9", 9))).is_err(), "{id}: {change}");
        // The other one is.
        let other = if id == "s-1" { "s-2" } else { "s-1" };
        assert!(wait(ledger.session(&Tenant::default(), other)).unwrap().is_some(), "{id}: {change}");
    }
}

#[test]
fn what_a_session_counts_and_what_is_listed_of_it_is_held_against_its_entries() {
    let alterations = [
        ("UPDATE session SET denials = 0 WHERE id = 's-1'", 2),
        ("UPDATE session SET cycles = 1, denials = 2 WHERE id = 's-1'", 2),
        ("UPDATE session SET in_flight = 1 WHERE id = 's-1'", 2),
        ("UPDATE session SET held = 2 WHERE id = 's-1'", 2),
        ("UPDATE session SET sequence = 3 WHERE id = 's-1'", 2),
        ("UPDATE declaration SET intent = 'i-9' WHERE intent = 'i-1'", 2),
        ("UPDATE declaration SET mandate = 'm-9' WHERE intent = 'i-1'", 2),
        ("UPDATE declaration SET id = 'audit-chain-1-9' WHERE intent = 'i-1'", 2),
        ("UPDATE declaration SET entry = 4 WHERE intent = 'i-1'", 2),
        ("UPDATE declaration SET session = 7 WHERE intent = 'i-1'", 3),
        ("DELETE FROM declaration WHERE intent = 'i-1'", 3),
        (
            "INSERT INTO declaration SELECT session, 'i-9', tenant, mandate, id, entry FROM declaration WHERE intent = 'i-1'",
            2,
        ),
        ("UPDATE cycle SET intent = 'i-9' WHERE action = 1", 2),
        ("UPDATE cycle SET session = (SELECT key FROM session WHERE id = 's-2') WHERE action = 1", 2),
        ("DELETE FROM cycle WHERE action = 1", 2),
        ("INSERT INTO cycle SELECT 99, session, sequence, intent, last FROM cycle LIMIT 1", 2),
    ];
    for (sql, entry) in alterations {
        let directory = tempfile::tempdir().unwrap();
        governed(directory.path());
        let found = wait(altered(directory.path(), sql).inspect(None)).unwrap().findings;
        let first = found.first().map(|it| (it.entry, it.broken.clone()));
        assert_eq!(first, Some((entry, ledger::Broken::Governed)), "{sql}: {found:?}");
    }
}

#[test]
fn a_session_of_a_database_that_is_not_what_its_records_say_is_found_and_nothing_begins_in_it() {
    let Some(server) = postgres::server() else { return };
    let begins = [
        ("suspended = TRUE", "s-1"),
        ("closed = 1", "s-1"),
        ("subject = 'eve'", "s-1"),
        ("mandate = 'm-9'", "s-1"),
        ("payload = 'x'", "s-1"),
        ("closed = NULL, suspended = FALSE, halt = NULL", "s-2"),
        ("closed = NULL", "s-2"),
        ("halt = NULL", "s-2"),
    ];
    let counts = [
        "UPDATE session SET denials = 0 WHERE id = 's-1'",
        "UPDATE session SET held = 2 WHERE id = 's-1'",
        "UPDATE session SET sequence = 3 WHERE id = 's-1'",
        "UPDATE declaration SET mandate = 'm-9' WHERE intent = 'i-1'",
        "DELETE FROM declaration WHERE intent = 'i-1'",
        "UPDATE cycle SET intent = 'i-9' WHERE sequence = 2",
        "DELETE FROM cycle WHERE sequence = 2",
    ];
    let begins =
        begins.map(|(change, id)| (format!("UPDATE session SET {change} WHERE id = '{id}'"), Some(id)));
    for (sql, id) in begins.into_iter().chain(counts.map(|sql| (sql.to_owned(), None))) {
        let url = server.database();
        let ledger = sealed_postgres(&url);
        governed_in(&ledger);
        postgres::sql(&url, &sql);
        let found = wait(ledger.inspect(None)).unwrap().findings;
        assert!(found.iter().any(|it| it.broken == ledger::Broken::Governed), "{sql}: {found:?}");
        if let Some(id) = id {
            let begins = ledger::Admission { cycle: cycle(id, 1, 9), ..admission("late") };
            let begun = wait(ledger.admit(begins));
            assert!(matches!(begun, Err(ledger::Error::Corrupt(_))), "{sql}: {begun:?}");
        }
    }
}

/// However long ago it was that anything began in it, the question is answered by the record that says so, which is read some at a time.
#[test]
fn a_session_in_which_nothing_was_let_through_for_long_is_what_its_records_say() {
    let Some(server) = postgres::server() else { return };
    let url = server.database();
    let ledger = sealed_postgres(&url);
    begun(&ledger, "s-1", "i-1");
    let nameless = || Cycle { session: "s-1".into(), epoch: 0, sequence: None, intent: None };
    let denied = |number: u32| {
        let name = format!("denied-{number}");
        ledger.refuse(ledger::Refusal { cycle: Some(nameless()), ..refusal(&name, &name) })
    };
    for round in 0..6 {
        let denied = futures_util::future::join_all((0..100).map(|number| denied(round * 100 + number)));
        wait(denied).into_iter().for_each(|it| drop(it.unwrap()));
    }
    assert_eq!(stands(&ledger, "s-1").denials, 600);
    assert_eq!(wait(ledger.inspect(None)).unwrap().findings, []);
    postgres::sql(&url, "UPDATE session SET suspended = TRUE");
    let begins =
        |key: &str| wait(ledger.refuse(ledger::Refusal { cycle: Some(nameless()), ..refusal(key, key) }));
    assert!(matches!(begins("a"), Err(ledger::Error::Corrupt(_))));
    postgres::sql(&url, "UPDATE session SET suspended = FALSE");
    begins("b").unwrap();
    // What would say so is gone, and no older one says anything.
    postgres::sql(&url, "DELETE FROM record WHERE seq BETWEEN 1 AND 400");
    wait(ledger.refuse(ledger::Refusal { cycle: Some(nameless()), ..refusal("c", "c") })).unwrap();
}
