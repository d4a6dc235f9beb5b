//! Clusters: every ledger moves rows and records in one commit, conserves time, and lets no member miss what happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::path::Path;
use std::sync::Arc;

use action::{Subject, Tenant};
use common::*;
use futures_util::future::join_all;
use ledger::{Access, Postgres};
use ledger::{
    Admitted, Broken, Clustered, Clustering, Cycle, Declaring, Deed, Doer, Error, Grouped, Hold, Ledger,
    Link, Memory, Obstacle, Options, Sealer, Sqlite, Transfer, Turn, session_of,
};
use mandate::{
    ClusterRefusal as R, ClusterState, Completion, Halt, Limits, Resource, ResourceEnvelope, Session,
    SessionEvent, SessionRefusal, SessionState,
};
use proptest::prelude::*;
use rusqlite::types::ValueRef;
use serde_json::Value;

#[derive(Debug)]
struct Counting;

impl Sealer for Counting {
    fn seal(&self, bytes: &[u8]) -> Result<String, String> {
        Ok(format!("sealed-{}", bytes.len()))
    }
}

const DEADLINE: i64 = NOW + 1_000_000;
/// What every mandate here has for all its sessions.
const SECONDS: u64 = 1_000;

fn on_every_sealed_ledger(test: impl Fn(&dyn Ledger)) {
    test(&Memory::new("chain-1", NOW).unwrap().sealed_by(Arc::new(Counting)));
    let directory = tempfile::tempdir().unwrap();
    test(&sealed_sqlite(directory.path(), "chain-1"));
    if let Some(server) = postgres::server() {
        let access = Access { sealer: Some(Arc::new(Counting)), ..access(&server.database()) };
        test(&Postgres::open(access).unwrap());
    }
}

fn sealed_sqlite(directory: &Path, chain: &str) -> Sqlite {
    let options = Options { sealer: Some(Arc::new(Counting)), ..Options::new(chain, NOW) };
    Sqlite::open(&directory.join("ledger.db"), options).unwrap()
}

fn opened(ledger: &dyn Ledger, tenant: &Tenant, id: &str) {
    let mandate = id.replace("s-", "m-");
    let session = Session::open(id, subject(), mandate, NOW);
    wait(ledger.open_session(opening_of(tenant, session))).unwrap();
}

fn clustering(session: &str, deed: Deed) -> Clustering {
    Clustering {
        tenant: Tenant::default(),
        tenant_ref: None,
        cluster: "k-1".into(),
        session: session.into(),
        deed,
        by: Some(Doer { subject: subject(), person: false }),
        at_ms: NOW + 5,
    }
}

fn done(ledger: &dyn Ledger, session: &str, deed: Deed) -> Result<Grouped, Error> {
    wait(ledger.group(clustering(session, deed)))
}

#[track_caller]
fn refused(ledger: &dyn Ledger, session: &str, deed: Deed, expected: R) {
    match done(ledger, session, deed) {
        Err(Error::Cluster(refusal)) => assert_eq!(refusal, expected),
        other => panic!("{other:?}"),
    }
}

fn form() -> Deed {
    Deed::Form { principal: "olga".into(), deadline_ms: DEADLINE }
}

fn join(principal: &str) -> Deed {
    Deed::Join { principal: principal.into() }
}

fn wait_for(on: &str) -> Deed {
    Deed::Wait { on: on.into() }
}

fn link(jti: &str) -> Link {
    let envelope = ResourceEnvelope {
        max_compute_units: Some(SECONDS),
        max_duration_seconds: Some(SECONDS),
        max_network_egress_bytes: Some(SECONDS),
        max_storage_bytes: Some(SECONDS),
        ..ResourceEnvelope::default()
    };
    Link { jti: jti.into(), limits: Limits { envelope, ..Limits::default() } }
}

fn hand(from: &str, to: &str, seconds: u64) -> Deed {
    hand_on(from, to, Resource::Seconds, seconds)
}

fn hand_on(from: &str, to: &str, resource: Resource, amount: u64) -> Deed {
    let line = |session: &str| vec![link(&session.replace("s-", "m-"))];
    Deed::Transfer(Transfer {
        to: to.into(),
        resource,
        amount,
        source: line(from),
        target: line(to),
        judged: None,
        policies: vec!["p-1".into()],
    })
}

/// A cluster of so many sessions, each under a mandate of its own.
fn cluster_of(ledger: &dyn Ledger, members: usize) {
    let tenant = Tenant::default();
    for number in 1..=members {
        let session = format!("s-{number}");
        opened(ledger, &tenant, &session);
        done(ledger, &session, if number == 1 { form() } else { join("olga") }).unwrap();
    }
}

fn stands(ledger: &dyn Ledger, session: &str) -> Session {
    wait(ledger.session(&Tenant::default(), session)).unwrap().unwrap().session
}

fn cluster(ledger: &dyn Ledger) -> Clustered {
    wait(ledger.cluster(&Tenant::default(), "k-1")).unwrap().unwrap()
}

fn granted(ledger: &dyn Ledger, jti: &str) -> i64 {
    granted_of(ledger, jti, Resource::Seconds)
}

fn granted_of(ledger: &dyn Ledger, jti: &str, resource: Resource) -> i64 {
    let (tenant, agent, mandates) = (Tenant::default(), subject(), [jti.into()]);
    let facts = ledger::FactsQuery { mandates: &mandates, ..query(&tenant, &agent) };
    wait(ledger.facts(facts)).unwrap().accounts[0].granted.of(resource)
}

/// Events of a session, with the code of each and the number of the record that caused it.
fn told(ledger: &dyn Ledger, session: &str) -> Vec<(String, Option<String>, Value)> {
    let records = wait(ledger.records(&Tenant::default(), session, None, 1000)).unwrap();
    let one = |record: &ledger::Record| {
        let said: Value =
            record.record.as_deref().and_then(|it| serde_json::from_slice(it).ok()).unwrap_or_default();
        let entry: Value = serde_json::from_slice(&record.entry).unwrap();
        let code = said["ale"]["code"].as_str().map(str::to_owned);
        (entry["event"].as_str().unwrap().to_owned(), code, said["ale"]["fields"].clone())
    };
    records.iter().map(one).collect()
}

fn events(ledger: &dyn Ledger, session: &str) -> Vec<String> {
    told(ledger, session).into_iter().map(|(event, ..)| event).collect()
}

#[test]
fn sessions_join_and_leave_and_each_says_so_in_its_own_record() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 2);
        let found = cluster(ledger);
        let ids: Vec<&str> = found.cluster.members.iter().map(|member| &*member.session).collect();
        assert_eq!((ids, found.cluster.principals()), (vec!["s-1", "s-2"], vec!["olga"]));
        assert_eq!(wait(ledger.cluster_of(&Tenant::default(), "s-2")).unwrap(), Some(found));
        done(ledger, "s-1", Deed::Leave).unwrap();
        assert_eq!(events(ledger, "s-1"), ["session_opened", "cluster_formed", "cluster_left"]);
        assert_eq!(events(ledger, "s-2"), ["session_opened", "cluster_joined"]);
        assert!(wait(ledger.cluster_of(&Tenant::default(), "s-1")).unwrap().is_none());
        assert_eq!(cluster(ledger).cluster.state(), ClusterState::Active);
        done(ledger, "s-2", Deed::Leave).unwrap();
        assert_eq!(cluster(ledger).cluster.state(), ClusterState::Terminated, "nobody is left");
        refused(ledger, "s-2", join("olga"), R::State(ClusterState::Terminated));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_is_refused_changes_nothing_and_writes_nothing() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 2);
        let tenant = Tenant::default();
        opened(ledger, &tenant, "s-3");
        done(ledger, "s-3", Deed::Form { principal: "p".into(), deadline_ms: DEADLINE })
            .expect_err("the id is taken");
        let (before, entries) = (cluster(ledger), wait(ledger.verify()).unwrap().entries);
        refused(ledger, "s-1", join("olga"), R::AlreadyMember);
        refused(ledger, "s-3", Deed::Leave, R::NotMember { session: "s-3".into() });
        refused(ledger, "s-3", wait_for("s-1"), R::NotMember { session: "s-3".into() });
        refused(ledger, "s-1", wait_for("s-9"), R::NotMember { session: "s-9".into() });
        refused(ledger, "s-1", wait_for("s-1"), R::WaitsForItself);
        refused(ledger, "s-1", Deed::Resume, R::NotWaiting);
        refused(ledger, "s-1", hand("s-1", "s-2", SECONDS + 1), R::MoreThanLeft { left: SECONDS });
        refused(ledger, "s-1", hand("s-1", "s-2", 0), R::NothingToTransfer);
        refused(ledger, "s-1", hand("s-1", "s-3", 1), R::NotMember { session: "s-3".into() });
        let other = Clustering { cluster: "k-2".into(), ..clustering("s-1", form()) };
        assert!(matches!(wait(ledger.group(other)), Err(Error::Cluster(R::Elsewhere))));
        let nowhere = Clustering { cluster: "k-9".into(), ..clustering("s-3", join("olga")) };
        assert!(matches!(wait(ledger.group(nowhere)), Err(Error::Absent(_))));
        let late = Clustering { at_ms: DEADLINE, ..clustering("s-3", join("olga")) };
        assert!(matches!(wait(ledger.group(late)), Err(Error::Cluster(R::Over))));
        assert_eq!((cluster(ledger), wait(ledger.verify()).unwrap().entries), (before, entries));
    });
}

/// A cluster and a session of the same names in another tenant are others.
#[test]
fn a_member_finds_its_cluster_and_nobody_else_one_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let tenant = Tenant::default();
    let found = |ledger: &dyn Ledger| {
        ["s-1", "s-2", "s-3"].map(|session| wait(ledger.cluster_of(&tenant, session)).unwrap().is_some())
    };
    let ledger = sealed_sqlite(directory.path(), "chain-1");
    cluster_of(&ledger, 2);
    opened(&ledger, &tenant, "s-3");
    assert_eq!(found(&ledger), [true, true, false]);
    drop(ledger);
    let ledger = sealed_sqlite(directory.path(), "chain-2");
    for _ in 0..50 {
        // What is certainly not there is known a moment after the start.
        assert_eq!(found(&ledger), [true, true, false]);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn another_tenant_meets_nothing_of_it() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 1);
        let stranger = Tenant::parse("other").unwrap();
        assert!(wait(ledger.cluster(&stranger, "k-1")).unwrap().is_none());
        assert!(wait(ledger.cluster_of(&stranger, "s-1")).unwrap().is_none());
        opened(ledger, &stranger, "s-1");
        let joins = Clustering { tenant: stranger.clone(), ..clustering("s-1", join("olga")) };
        assert!(matches!(wait(ledger.group(joins)), Err(Error::Absent(_))));
        assert_eq!(cluster(ledger).cluster.members.len(), 1);
    });
}

#[test]
fn who_waits_is_blocked_until_the_other_leaves_or_it_waits_no_more() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 3);
        done(ledger, "s-1", wait_for("s-2")).unwrap();
        assert_eq!(
            (stands(ledger, "s-1").state(), stands(ledger, "s-1").blocked_ms),
            (SessionState::ClusterBlocked, Some(NOW + 5))
        );
        assert_eq!(cluster(ledger).cluster.state(), ClusterState::Blocked);
        done(ledger, "s-1", Deed::Resume).unwrap();
        assert_eq!(stands(ledger, "s-1").state(), SessionState::Active);
        done(ledger, "s-1", wait_for("s-2")).unwrap();
        done(ledger, "s-3", wait_for("s-2")).unwrap();
        done(ledger, "s-2", Deed::Leave).unwrap();
        for session in ["s-1", "s-3"] {
            assert_eq!(stands(ledger, session).state(), SessionState::Active);
            let (event, code, fields) = told(ledger, session).pop().unwrap();
            assert_eq!((event.as_str(), code.as_deref()), ("cluster_block_end", Some("ALE-020")));
            assert_eq!(fields["blocked_on_session_id"], "s-2");
        }
        let codes: Vec<_> = told(ledger, "s-1").into_iter().filter_map(|(_, code, _)| code).collect();
        assert_eq!(codes, ["ALE-019", "ALE-020", "ALE-019", "ALE-020"]);
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn a_session_waits_only_while_nothing_of_it_is_under_way() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 2);
        declared(ledger, "s-1", 1);
        let epoch = stands(ledger, "s-1").epoch;
        let id = admitted(ledger, in_session("a", "s-1", epoch, 2));
        let busy = done(ledger, "s-1", wait_for("s-2"));
        assert!(matches!(busy, Err(Error::Session(SessionRefusal::InFlight { actions: 1 }))), "{busy:?}");
        wait(ledger.settle(settlement(id, ledger::State::Executed, "a"))).unwrap();
        done(ledger, "s-1", wait_for("s-2")).unwrap();
        let epoch = stands(ledger, "s-1").epoch;
        assert_eq!(obstacle(ledger, in_session("b", "s-1", epoch, 3)), Obstacle::SessionChanged);
    });
}

#[test]
fn a_circle_of_waits_is_on_record_at_once_and_only_people_open_it() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 4);
        for (session, on) in [("s-1", "s-2"), ("s-2", "s-3"), ("s-4", "s-1")] {
            assert_eq!(
                done(ledger, session, wait_for(on)).unwrap().cluster.cluster.state(),
                ClusterState::Blocked
            );
        }
        let closed = done(ledger, "s-3", wait_for("s-1")).unwrap();
        assert_eq!(closed.cluster.cluster.state(), ClusterState::Deadlock);
        for session in ["s-1", "s-2", "s-3"] {
            let (event, _, fields) = told(ledger, session).pop().unwrap();
            assert_eq!(event, "cluster_deadlock", "{session}");
            assert_eq!(
                (fields["trigger"].as_str(), fields["escalation_class"].as_u64()),
                (Some("R-7"), Some(8))
            );
            assert_eq!(fields["sessions"], serde_json::json!(["s-1", "s-2", "s-3"]));
            let records = wait(ledger.records(&Tenant::default(), session, None, 100)).unwrap();
            let cause = session_of(&records.last().unwrap().entry).unwrap().causal_parent;
            assert_eq!(cause.as_deref(), Some(&*closed.record_id), "{session}: what closed it caused it");
        }
        assert_eq!(events(ledger, "s-4").last().unwrap(), "cluster_block_start", "it is not of the circle");
        for deed in [Deed::Resume, Deed::Leave] {
            refused(ledger, "s-2", deed, R::ForPeople);
        }
        let person = Some(Doer { subject: Subject::parse("olga").unwrap(), person: true });
        let opens = Clustering { by: person, ..clustering("s-2", Deed::Resume) };
        assert_eq!(wait(ledger.group(opens)).unwrap().cluster.cluster.state(), ClusterState::Blocked);
        assert_eq!(stands(ledger, "s-2").state(), SessionState::Active);
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn only_people_let_a_member_out_of_a_cluster_that_is_held() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 2);
        let person = || Some(Doer { subject: Subject::parse("olga").unwrap(), person: true });
        let by_person = |session: &str, deed| {
            wait(ledger.group(Clustering { by: person(), ..clustering(session, deed) })).unwrap()
        };
        by_person("s-1", Deed::Hold { reason: None });
        for session in ["s-1", "s-2"] {
            refused(ledger, session, Deed::Leave, R::State(ClusterState::MandateHold));
            let closed = wait(ledger.turn(closes(session, true)));
            assert!(matches!(closed, Err(Error::Cluster(R::State(ClusterState::MandateHold)))), "{closed:?}");
        }
        wait(ledger.turn(closes("s-2", false))).unwrap();
        assert_eq!(cluster(ledger).cluster.members.len(), 1);
        by_person("s-1", Deed::Release);
        done(ledger, "s-1", Deed::Leave).unwrap();
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_ends_by_itself_stays_a_member_until_people_have_decided() {
    let revoked = |session: &str, by_person| {
        turn_of(session, Some(SessionEvent::Revoked { halt: Halt::Clean, by_person }))
    };
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 3);
        done(ledger, "s-1", wait_for("s-2")).unwrap();
        done(ledger, "s-2", wait_for("s-1")).unwrap();
        wait(ledger.turn(revoked("s-1", false))).unwrap();
        assert_eq!(cluster(ledger).cluster.state(), ClusterState::Deadlock);
        assert_eq!(stands(ledger, "s-2").state(), SessionState::ClusterBlocked);
        // Somebody ends the other: the circle is open, and what is over is gone with it.
        wait(ledger.turn(revoked("s-2", true))).unwrap();
        let now = cluster(ledger).cluster;
        assert_eq!((now.state(), now.members.len()), (ClusterState::Active, 1));
        wait(ledger.verify()).unwrap();
    });
}

fn closes(session: &str, by_agent: bool) -> Turn {
    turn_of(session, Some(SessionEvent::Closed { completion: Completion::Complete, by_agent }))
}

#[test]
fn a_session_that_ends_is_no_member_any_more_and_frees_who_waits_for_it() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 2);
        done(ledger, "s-1", wait_for("s-2")).unwrap();
        let (ended, session) = wait(ledger.turn(closes("s-2", true))).unwrap();
        assert_eq!(session.next_record, 3, "as it was with the record of its end");
        assert_eq!(events(ledger, "s-2")[2..], ["session_closed", "cluster_left"]);
        let records = wait(ledger.records(&Tenant::default(), "s-2", Some(2), 10)).unwrap();
        assert_eq!(session_of(&records[0].entry).unwrap().causal_parent.as_deref(), Some(&*ended));
        assert_eq!(stands(ledger, "s-1").state(), SessionState::Active);
        assert_eq!(events(ledger, "s-1").last().unwrap(), "cluster_block_end");
        assert_eq!(cluster(ledger).cluster.members.len(), 1);
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn a_transfer_is_on_record_with_both_and_seen_by_the_next_cycle_of_every_member() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 3);
        declared(ledger, "s-3", 1);
        let epoch = stands(ledger, "s-3").epoch;
        done(ledger, "s-1", hand("s-1", "s-2", 30)).unwrap();
        assert_eq!((granted(ledger, "m-1"), granted(ledger, "m-2")), (-30, 30));
        assert_eq!(obstacle(ledger, in_session("a", "s-3", epoch, 2)), Obstacle::SessionChanged);
        admitted(ledger, in_session("a", "s-3", stands(ledger, "s-3").epoch, 2));
        let (event, code, fields) = told(ledger, "s-1").pop().unwrap();
        assert_eq!((event.as_str(), code.as_deref()), ("cluster_budget_transfer", Some("ALE-018")));
        let expected = serde_json::json!({
            "amount": 30, "cedar_policy_ids": ["p-1"], "cluster_id": "k-1", "from_mandate_id": "m-1",
            "from_remaining": SECONDS - 30, "from_session_id": "s-1", "resource": "time_seconds",
            "to_mandate_id": "m-2", "to_remaining": SECONDS + 30, "to_session_id": "s-2",
        });
        assert_eq!(fields, expected);
        let (event, code, fields) = told(ledger, "s-2").pop().unwrap();
        assert_eq!((event.as_str(), code, fields), ("cluster_budget_received", None, expected));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn a_resource_moves_like_time_and_nothing_moves_that_nobody_counts() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 2);
        let units = |amount| hand_on("s-1", "s-2", Resource::ComputeUnits, amount);
        done(ledger, "s-1", units(400)).unwrap();
        refused(ledger, "s-1", units(601), R::MoreThanLeft { left: 600 });
        for resource in Resource::ALL {
            let moved = if resource == Resource::ComputeUnits { 400 } else { 0 };
            let both = (granted_of(ledger, "m-1", resource), granted_of(ledger, "m-2", resource));
            assert_eq!(both, (-moved, moved), "{}", resource.word());
        }
        let (_, code, fields) = told(ledger, "s-1").pop().unwrap();
        assert_eq!((code.as_deref(), &fields["resource"]), (Some("ALE-018"), &"compute_units".into()));
        assert_eq!(
            (&fields["amount"], &fields["from_remaining"], &fields["to_remaining"]),
            (&400.into(), &600.into(), &1400.into())
        );
        assert_eq!(told(ledger, "s-2").pop().unwrap().2, fields);
        // What one has nobody counts, and memory is never used up.
        let of = |resource| hand_on("s-1", "s-2", resource, 1);
        for of_source in [true, false] {
            let Deed::Transfer(mut uncounted) = of(Resource::EgressBytes) else { unreachable!() };
            let line = if of_source { &mut uncounted.source } else { &mut uncounted.target };
            line[0].limits.envelope.max_network_egress_bytes = None;
            let session = if of_source { "s-1" } else { "s-2" }.into();
            let expected = R::NoLimit { session, resource: Resource::EgressBytes };
            refused(ledger, "s-1", Deed::Transfer(uncounted), expected);
        }
        let judged = |left| {
            let Deed::Transfer(transfer) = units(1) else { unreachable!() };
            Deed::Transfer(Transfer { judged: Some(left), ..transfer })
        };
        assert!(matches!(done(ledger, "s-1", judged([1000, 1000])), Err(Error::Changed(_))));
        done(ledger, "s-1", judged([600, 1400])).unwrap();
        let Deed::Transfer(mut memory) = of(Resource::MemoryBytes) else { unreachable!() };
        for debit in memory.source.iter_mut().chain(&mut memory.target) {
            debit.limits.envelope.max_memory_bytes = Some(5);
        }
        refused(ledger, "s-1", Deed::Transfer(memory), R::NeverLeftOver(Resource::MemoryBytes));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn time_does_not_move_by_what_either_had_left_earlier() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 2);
        let judged = |lefts| match hand("s-1", "s-2", 10) {
            Deed::Transfer(transfer) => Deed::Transfer(Transfer { judged: Some(lefts), ..transfer }),
            other => other,
        };
        done(ledger, "s-1", judged([SECONDS, SECONDS])).unwrap();
        for stale in [[SECONDS, SECONDS + 10], [SECONDS - 10, SECONDS]] {
            let refused = done(ledger, "s-1", judged(stale));
            assert!(matches!(refused, Err(Error::Changed(_))), "{refused:?}");
        }
        assert_eq!((granted(ledger, "m-1"), granted(ledger, "m-2")), (-10, 10), "nothing moved");
        done(ledger, "s-1", judged([SECONDS - 10, SECONDS + 10])).unwrap();
    });
}

#[test]
fn what_is_revoked_or_frozen_neither_gives_nor_gets() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 3);
        wait(ledger.revoke(&Tenant::default(), "m-2", event("revoked"))).unwrap();
        for (from, to) in [("s-1", "s-2"), ("s-2", "s-1")] {
            refused(ledger, from, hand(from, to, 1), R::Stopped { session: "s-2".into() });
        }
        done(ledger, "s-1", hand("s-1", "s-3", 1)).unwrap();
    });
}

#[test]
fn nobody_gives_what_a_mandate_above_has_not_left() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 2);
        let line = |leaf: &str, above: u64| {
            let envelope =
                ResourceEnvelope { max_duration_seconds: Some(above), ..ResourceEnvelope::default() };
            vec![link(leaf), Link { limits: Limits { envelope, ..Limits::default() }, ..link("root") }]
        };
        let deed = |seconds| {
            let (source, target) = (line("m-1", 40), vec![link("m-2")]);
            Deed::Transfer(Transfer {
                to: "s-2".into(),
                resource: Resource::Seconds,
                amount: seconds,
                source,
                target,
                judged: None,
                policies: Vec::new(),
            })
        };
        refused(ledger, "s-1", deed(41), R::MoreThanLeft { left: 40 });
        done(ledger, "s-1", deed(40)).unwrap();
        assert_eq!((granted(ledger, "m-1"), granted(ledger, "root"), granted(ledger, "m-2")), (-40, -40, 40));
        refused(ledger, "s-1", deed(1), R::MoreThanLeft { left: 0 });
        let (source, target) = (line("m-1", 40), line("m-2", 40));
        let within = Deed::Transfer(Transfer {
            to: "s-2".into(),
            resource: Resource::Seconds,
            amount: 1,
            source,
            target,
            judged: None,
            policies: Vec::new(),
        });
        refused(ledger, "s-1", within, R::MoreThanLeft { left: 0 });
    });
}

/// A principal who joined meanwhile has a say, too.
#[test]
fn what_people_agreed_to_is_judged_anew_if_its_cluster_is_another_by_then() {
    on_every_sealed_ledger(|ledger| {
        cluster_of(ledger, 1);
        declared(ledger, "s-1", 1);
        let judged = stands(ledger, "s-1").epoch;
        let waits = Hold { until_ms: NOW + 1000, needed: 1, most: MOST_HELD };
        let id = admitted(ledger, holding(in_session("a", "s-1", judged, 2), waits));
        wait(ledger.approve(approval(id, "bob"))).unwrap();
        opened(ledger, &Tenant::default(), "s-2");
        done(ledger, "s-2", join("petra")).unwrap();
        let late = resume(ledger, id, in_session("a", "s-1", judged, 2));
        assert_eq!(late, Admitted::Refused(Obstacle::SessionChanged));
        let now = stands(ledger, "s-1").epoch;
        assert!(matches!(resume(ledger, id, in_session("a", "s-1", now, 2)), Admitted::New { .. }));
        wait(ledger.verify()).unwrap();
    });
}

fn declared(ledger: &dyn Ledger, session: &str, sequence: u64) {
    let declaring = Declaring {
        tenant: Tenant::default(),
        session: session.into(),
        intent: "i-1".into(),
        mandate: session.replace("s-", "m-").into(),
        sequence,
        event: event("intent_declared"),
    };
    wait(ledger.declare(declaring)).unwrap();
}

fn in_session(key: &str, session: &str, epoch: u64, sequence: u64) -> ledger::Admission {
    let cycle =
        Cycle { session: session.into(), epoch, sequence: Some(sequence), intent: Some("i-1".into()) };
    ledger::Admission { cycle: Some(cycle), ..admission(key) }
}

#[test]
fn a_cluster_is_what_it_was_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sealed_sqlite(directory.path(), "chain-1");
    cluster_of(&ledger, 3);
    done(&ledger, "s-1", wait_for("s-2")).unwrap();
    done(&ledger, "s-2", hand("s-2", "s-3", 7)).unwrap();
    let before = cluster(&ledger);
    drop(ledger);
    let ledger = sealed_sqlite(directory.path(), "chain-2");
    assert_eq!(cluster(&ledger), before);
    assert_eq!((granted(&ledger, "m-2"), granted(&ledger, "m-3")), (-7, 7));
    assert_eq!(stands(&ledger, "s-1").state(), SessionState::ClusterBlocked);
    done(&ledger, "s-2", wait_for("s-1")).unwrap();
    assert_eq!(cluster(&ledger).cluster.state(), ClusterState::Deadlock, "it knows who waits for whom");
    wait(ledger.verify()).unwrap();
}

/// Rows and records of clusters outlive a release: strangers read the records, and verifying compares the two.
#[test]
fn rows_and_records_are_the_golden_ones() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sealed_sqlite(directory.path(), "chain-1");
    cluster_of(&ledger, 3);
    done(&ledger, "s-1", hand("s-1", "s-2", 30)).unwrap();
    done(&ledger, "s-1", wait_for("s-2")).unwrap();
    done(&ledger, "s-2", wait_for("s-1")).unwrap();
    let person = Some(Doer { subject: Subject::parse("olga").unwrap(), person: true });
    let deeds = [("s-1", Deed::Resume), ("s-1", Deed::Leave)];
    for (session, deed) in deeds {
        wait(ledger.group(Clustering { by: person.clone(), ..clustering(session, deed) })).unwrap();
    }
    let mut told = String::new();
    for session in ["s-1", "s-2", "s-3"] {
        for record in wait(ledger.records(&Tenant::default(), session, Some(0), 100)).unwrap() {
            let event = ledger::event_of(&record.entry).unwrap();
            let text = String::from_utf8(record.record.unwrap()).unwrap();
            told += &format!("{session} {event} {text}\n");
        }
    }
    drop(ledger);
    let db = rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap();
    for table in ["cluster", "member"] {
        let mut select = db.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")).unwrap();
        let names: Vec<String> = select.column_names().iter().map(|name| (*name).to_owned()).collect();
        let shown = |value: ValueRef<'_>| match value {
            ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            ValueRef::Integer(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        let row = |row: &rusqlite::Row<'_>| {
            let value = |at| row.get_ref(at).map(|value| format!("{}={}", names[at], shown(value)));
            (0..names.len()).map(value).collect::<Result<Vec<_>, _>>()
        };
        for row in select.query_map([], row).unwrap() {
            told += &format!("{table} {}\n", row.unwrap().join(" "));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/clusters.txt");
    if std::env::var_os("GOLDEN").is_some() {
        std::fs::write(&path, &told).unwrap();
    }
    assert_eq!(told, std::fs::read_to_string(&path).unwrap());
}

#[test]
fn rows_that_say_another_cluster_than_the_records_are_found() {
    let alterations = [
        "DELETE FROM member WHERE id = 's-3'",
        "UPDATE member SET principal = 'mallory' WHERE id = 's-2'",
        "UPDATE member SET mandate = 'm-9' WHERE id = 's-2'",
        "UPDATE member SET waits = NULL; UPDATE session SET blocked = NULL",
        "UPDATE session SET blocked = NULL",
        "UPDATE cluster SET deadline = deadline + 1",
        "UPDATE cluster SET terminated = 1",
        "UPDATE cluster SET entry = entry - 1",
        "UPDATE cluster SET id = 'k-9'",
        "DELETE FROM cluster",
        "DELETE FROM cluster; DELETE FROM member; UPDATE session SET blocked = NULL",
        "INSERT INTO cluster VALUES (7, 'k-7', 'default', 1, 0, 0, 1, 'x', 2)",
        "INSERT INTO member VALUES (7, 0, 7, 's-7', 'm-7', 'olga', NULL)",
    ];
    for alteration in alterations {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sealed_sqlite(directory.path(), "chain-1");
        cluster_of(&ledger, 3);
        done(&ledger, "s-1", wait_for("s-2")).unwrap();
        wait(ledger.verify()).unwrap();
        drop(ledger);
        let db = rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap();
        db.execute_batch(alteration).unwrap();
        drop(db);
        let ledger = sealed_sqlite(directory.path(), "chain-2");
        let found = wait(ledger.inspect(None)).unwrap().findings;
        assert!(!found.is_empty(), "{alteration}");
        assert!(found.iter().all(|it| it.broken == Broken::Cluster), "{alteration}: {found:?}");
    }
}

/// What goes from one member to another here: what their mandates limit.
const MOVED: [Resource; 4] =
    [Resource::Seconds, Resource::ComputeUnits, Resource::StorageBytes, Resource::EgressBytes];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4) })]

    /// INVARIANT (conserved), over the real store: a thousand transfers of whatever there is that race each other make nothing
    /// and lose nothing, and nobody falls below nothing.
    #[test]
    fn a_thousand_racing_transfers_conserve_the_sum(
        transfers in prop::collection::vec((1_usize..=5, 1_usize..=5, 0..MOVED.len(), 0_u64..400), 1_000),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sealed_sqlite(directory.path(), "chain-1");
        cluster_of(&ledger, 5);
        let hand_over = |(from, to, of, amount): &(usize, usize, usize, u64)| {
            let (from, to) = (format!("s-{from}"), format!("s-{to}"));
            ledger.group(clustering(&from, hand_on(&from, &to, MOVED[*of], *amount)))
        };
        let results = wait(join_all(transfers.iter().map(hand_over)));
        let mut expected = [[0_i64; 6]; MOVED.len()];
        let mut done = [0; MOVED.len()];
        for ((from, to, of, amount), result) in transfers.iter().zip(results) {
            match result {
                Ok(_) => {
                    expected[*of][*from] -= *amount as i64;
                    expected[*of][*to] += *amount as i64;
                    done[*of] += 1;
                }
                Err(Error::Cluster(R::NothingToTransfer | R::MoreThanLeft { .. })) => {}
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
        for (of, resource) in MOVED.into_iter().enumerate() {
            let granted = |number| granted_of(&ledger, &format!("m-{number}"), resource);
            let found: Vec<i64> = (1..=5).map(granted).collect();
            prop_assert_eq!(&found, &expected[of][1..]);
            prop_assert_eq!(found.iter().sum::<i64>(), 0);
            prop_assert!(found.iter().all(|granted| *granted >= -(SECONDS as i64)), "{:?}", found);
            prop_assert!(done[of] > 30, "{:?}", done);
        }
        let verified = wait(ledger.verify());
        prop_assert!(verified.is_ok(), "{verified:?}");
    }
}
