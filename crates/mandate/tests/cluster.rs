//! Clusters: who may do what when, circles of waits, and time that is handed on and never made.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use countersign_mandate::{
    Cluster, ClusterEvent as E, ClusterRefusal as R, ClusterState as S, Member, Resource,
};
use proptest::prelude::*;

const DEADLINE: i64 = 1_000;

fn member(session: &str) -> Member {
    let number = session.trim_start_matches("s-");
    Member {
        session: session.into(),
        mandate_id: format!("m-{number}").into(),
        principal: format!("p-{number}").into(),
        waits_for: None,
    }
}

fn cluster(members: usize) -> Cluster {
    (1..=members).fold(Cluster::form("k", DEADLINE), |it, number| after(&it, joined(number)))
}

fn joined(number: usize) -> E {
    E::Joined(member(&format!("s-{number}")))
}

fn waiting(session: usize, on: usize) -> E {
    E::Waiting { session: format!("s-{session}").into(), on: format!("s-{on}").into() }
}

fn left(number: usize) -> E {
    E::Left { session: format!("s-{number}").into() }
}

fn resumed(number: usize) -> E {
    E::Resumed { session: format!("s-{number}").into() }
}

#[track_caller]
fn after(cluster: &Cluster, event: E) -> Cluster {
    cluster.step(event, 0).unwrap()
}

/// A cluster in each state.
fn in_state(state: S) -> Cluster {
    let usual = cluster(3);
    let found = match state {
        S::Active => usual,
        S::Blocked => after(&usual, waiting(1, 2)),
        S::MandateHold => after(&usual, E::Held),
        S::Deadlock => after(&after(&usual, waiting(1, 2)), waiting(2, 1)),
        S::Terminated => after(&usual, E::Terminated),
    };
    assert_eq!(found.state(), state);
    found
}

/// Every state and every event; what it comes to, or `None` where it may not happen.
#[test]
fn every_event_in_every_state() {
    use S::{Active, Blocked, Deadlock, MandateHold, Terminated};
    let events = [joined(9), left(3), waiting(3, 1), resumed(1), E::Held, E::Released, E::Terminated];
    let table = [
        (
            Active,
            [Some(Active), Some(Active), Some(Blocked), None, Some(MandateHold), None, Some(Terminated)],
        ),
        (
            Blocked,
            [
                Some(Blocked),
                Some(Blocked),
                Some(Blocked),
                Some(Active),
                Some(MandateHold),
                None,
                Some(Terminated),
            ],
        ),
        (MandateHold, [None, Some(MandateHold), None, None, None, Some(Active), Some(Terminated)]),
        (Deadlock, [None, Some(Deadlock), None, Some(Blocked), None, None, Some(Terminated)]),
        (Terminated, [None; 7]),
    ];
    for (state, expected) in table {
        for (event, expected) in events.iter().zip(expected) {
            let found = in_state(state).step(event.clone(), 0).ok().map(|it| it.state());
            assert_eq!(found, expected, "{state:?} {event:?}");
        }
    }
}

#[test]
fn a_circle_of_waits_is_found_the_moment_it_closes() {
    let mut it = cluster(4);
    for (session, on) in [(4, 1), (1, 2), (2, 3)] {
        it = after(&it, waiting(session, on));
        assert_eq!((it.state(), it.deadlock().len()), (S::Blocked, 0));
    }
    it = after(&it, waiting(3, 1));
    assert_eq!(it.state(), S::Deadlock);
    assert_eq!(it.deadlock(), ["s-1", "s-2", "s-3"], "who only waits for the circle is not of it");
    let resolved = after(&it, left(2));
    assert_eq!((resolved.state(), it.freed(&resolved)), (S::Blocked, vec!["s-1", "s-2"]));
}

#[test]
fn what_cannot_be_is_refused_and_said() {
    let it = cluster(2);
    let refused = |it: &Cluster, event: E, expected: R| assert_eq!(it.step(event, 0), Err(expected));
    refused(&it, joined(1), R::AlreadyMember);
    refused(&it, left(7), R::NotMember { session: "s-7".into() });
    refused(&it, waiting(1, 7), R::NotMember { session: "s-7".into() });
    refused(&it, waiting(7, 1), R::NotMember { session: "s-7".into() });
    refused(&it, waiting(1, 1), R::WaitsForItself);
    refused(&it, resumed(1), R::NotWaiting);
    refused(&after(&it, waiting(1, 2)), waiting(1, 2), R::AlreadyWaiting);
    refused(&cluster(64), joined(65), R::Full);
    assert_eq!(it.step(joined(3), DEADLINE), Err(R::Over));
    assert!(it.step(left(1), DEADLINE).is_ok() && it.step(E::Terminated, DEADLINE).is_ok());
}

#[test]
fn who_joins_waits_for_nobody() {
    let waits = Member { waits_for: Some("s-1".into()), ..member("s-2") };
    let it = after(&cluster(1), E::Joined(waits));
    assert_eq!(it.state(), S::Active);
}

#[test]
fn a_principal_counts_once() {
    let mut it = cluster(2);
    it = after(&it, E::Joined(Member { principal: "p-1".into(), ..member("s-3") }));
    assert_eq!(it.principals(), ["p-1", "p-2"]);
}

#[test]
fn more_than_what_is_left_is_not_transferred() {
    let it = cluster(2);
    let transfer = |seconds, left| it.transfer("s-1", "s-2", (Resource::Seconds, seconds), [left, 0], 0);
    assert_eq!(transfer(5, 5).unwrap().grants(&["m-1"], &["m-2"]).unwrap(), [("m-1", -5), ("m-2", 5)]);
    assert_eq!(transfer(6, 5), Err(R::MoreThanLeft { left: 5 }));
    assert_eq!(transfer(u64::MAX, u64::MAX), Err(R::MoreThanLeft { left: u64::MAX }));
    let most = (1_u64 << 53) - 1;
    let onto = |has| it.transfer("s-1", "s-2", (Resource::StorageBytes, 5), [5, has], 0).map(drop);
    assert_eq!(onto(most - 5), Ok(()));
    for has in [most - 4, most, u64::MAX - 4, u64::MAX] {
        assert_eq!(onto(has), Err(R::MoreThanCounts), "{has}");
    }
    assert_eq!(transfer(0, 5), Err(R::NothingToTransfer));
    assert_eq!(it.transfer("s-1", "s-1", (Resource::Seconds, 1), [5, 0], 0), Err(R::NothingToTransfer));
    assert_eq!(
        it.transfer("s-1", "s-9", (Resource::Seconds, 1), [5, 0], 0),
        Err(R::NotMember { session: "s-9".into() })
    );
    assert_eq!(it.transfer("s-1", "s-2", (Resource::Seconds, 1), [5, 0], DEADLINE), Err(R::Over));
    let memory = it.transfer("s-1", "s-2", (Resource::MemoryBytes, 1), [5, 0], 0);
    assert_eq!(
        memory,
        Err(R::NeverLeftOver(Resource::MemoryBytes)),
        "of a high-water mark nothing is left over"
    );
    for state in [S::MandateHold, S::Deadlock, S::Terminated] {
        assert_eq!(
            in_state(state).transfer("s-1", "s-2", (Resource::Seconds, 1), [5, 0], 0),
            Err(R::State(state))
        );
    }
}

/// A mandate above both would otherwise hand out time that it still has, or lose time that stays under it.
#[test]
fn time_moves_up_to_the_mandate_that_both_descend_from_and_no_further() {
    let five = cluster(2).transfer("s-1", "s-2", (Resource::Seconds, 5), [5, 0], 0).unwrap();
    let grants = |source: &[&'static str], target: &[&'static str]| five.grants(source, target);
    let siblings = grants(&["a", "root"], &["b", "root"]).unwrap();
    assert_eq!(siblings, [("a", -5), ("b", 5)]);
    let cousins = grants(&["a", "left", "root"], &["b", "right", "root"]).unwrap();
    assert_eq!(cousins, [("a", -5), ("left", -5), ("b", 5), ("right", 5)]);
    let strangers = grants(&["a", "one"], &["b", "other"]).unwrap();
    assert_eq!(strangers, [("a", -5), ("one", -5), ("b", 5), ("other", 5)]);
    for (source, target) in [(&["a", "b"][..], &["b"][..]), (&["b"], &["a", "b"]), (&["a"], &["a"])] {
        assert_eq!(grants(source, target), Err(R::OneLine));
    }
}

#[test]
fn what_has_passed_its_deadline_is_over() {
    let it = in_state(S::Blocked);
    assert_eq!((it.state_at(DEADLINE - 1), it.state_at(DEADLINE)), (S::Blocked, S::Terminated));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// INVARIANT (conserved): whatever is transferred, the sum stays and no member falls below nothing.
    #[test]
    fn a_thousand_transfers_make_no_second_and_lose_none(
        start in prop::collection::vec(0_i64..10_000, 5),
        transfers in prop::collection::vec((1_usize..=5, 1_usize..=5, 0_u64..4_000), 1_000),
    ) {
        let it = cluster(5);
        let mut left: BTreeMap<String, i64> =
            start.iter().enumerate().map(|(at, seconds)| (format!("m-{}", at + 1), *seconds)).collect();
        let sum: i64 = left.values().sum();
        let mut done = 0;
        for (from, to, seconds) in transfers {
            let source = left[&format!("m-{from}")];
            let found = it.transfer(&format!("s-{from}"), &format!("s-{to}"), (Resource::Seconds, seconds), [u64::try_from(source).unwrap(), 0], 0);
            if let Ok(transfer) = found {
                done += 1;
                let (source, target) = (format!("m-{from}"), format!("m-{to}"));
                for (mandate, seconds) in transfer.grants(&[&*source], &[&*target]).unwrap() {
                    *left.get_mut(mandate).unwrap() += seconds;
                }
            }
            prop_assert_eq!(left.values().sum::<i64>(), sum);
            prop_assert!(left.values().all(|seconds| *seconds >= 0), "{:?}", left);
        }
        prop_assert!(sum == 0 || done > 0);
    }

    /// INVARIANT (circle): a cluster is deadlocked exactly when following the waits from some member never ends.
    #[test]
    fn a_deadlock_is_a_walk_without_end(waits in prop::collection::vec((1_usize..=6, 1_usize..=6), 0..12)) {
        let mut it = cluster(6);
        for (session, on) in waits {
            it = it.step(waiting(session, on), 0).unwrap_or(it);
        }
        let endless = it.members.iter().any(|start| {
            let mut at = start;
            for _ in 0..it.members.len() {
                match &at.waits_for {
                    Some(on) => at = it.member(on).unwrap(),
                    None => return false,
                }
            }
            true
        });
        prop_assert_eq!(it.state() == S::Deadlock, endless);
    }
}
