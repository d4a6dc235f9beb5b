//! Sessions: what may happen in which state, and what no sequence of events can bring about.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use action::{Currency, Money, Subject};
use countersign_mandate::{
    ApprovedLimits, Completion, Halt, Session, SessionEvent as E, SessionRefusal, SessionState as S,
};
use proptest::prelude::*;

fn session() -> Session {
    Session::open("s-1", Subject::parse("agent-7").unwrap(), "m-1", 0)
}

#[track_caller]
fn after(session: &Session, events: &[E]) -> Session {
    events.iter().fold(session.clone(), |it, event| it.step(*event).unwrap())
}

/// A session in each state, with nothing else under way.
fn in_state(state: S) -> Session {
    let events = match state {
        S::Active => vec![],
        S::ClusterBlocked => vec![E::Blocked { at_ms: 5 }],
        S::HemPending => vec![E::Held { sequence: 1 }],
        S::Suspended => vec![E::Suspended],
        S::Closed(Completion::Revoked) => vec![E::Revoked { halt: Halt::Clean, by_person: true }],
        S::Closed(completion) => vec![E::Closed { completion, by_agent: false }],
    };
    let found = after(&session(), &events);
    assert_eq!(found.state(), state);
    found
}

/// Every state and every event; what it comes to, or `None` where it may not happen.
#[test]
fn every_event_in_every_state() {
    use S::{Active, ClusterBlocked, HemPending, Suspended};
    let [complete, partial, revoked] =
        [Completion::Complete, Completion::Partial, Completion::Revoked].map(S::Closed);
    let events = [
        E::Declared { sequence: 9 },
        E::Admitted { sequence: 9 },
        E::Held { sequence: 9 },
        E::Decided { sent: true },
        E::Decided { sent: false },
        E::Settled,
        E::Denied { sequence: Some(9) },
        E::Blocked { at_ms: 6 },
        E::Unblocked,
        E::Suspended,
        E::Closed { completion: Completion::Partial, by_agent: false },
        E::Closed { completion: Completion::Partial, by_agent: true },
        E::Revoked { halt: Halt::Partial, by_person: true },
        E::Limited(ApprovedLimits::default()),
    ];
    let begins = [Some(Active), Some(Active), Some(HemPending)];
    let never = [None; 3];
    let over = |state| {
        let mut never = [None; 14];
        never[6] = Some(state);
        never
    };
    let table: [(S, [Option<S>; 14]); 7] = [
        (
            Active,
            join(
                begins,
                [
                    None,
                    None,
                    None,
                    Some(Active),
                    Some(ClusterBlocked),
                    None,
                    Some(Suspended),
                    Some(partial),
                    Some(partial),
                    Some(revoked),
                    Some(Active),
                ],
            ),
        ),
        (
            ClusterBlocked,
            join(
                never,
                [
                    None,
                    None,
                    None,
                    Some(ClusterBlocked),
                    None,
                    Some(Active),
                    Some(Suspended),
                    Some(partial),
                    Some(partial),
                    Some(revoked),
                    Some(ClusterBlocked),
                ],
            ),
        ),
        (
            HemPending,
            join(
                never,
                [
                    Some(Active),
                    Some(Active),
                    None,
                    Some(HemPending),
                    None,
                    None,
                    Some(Suspended),
                    None,
                    None,
                    Some(revoked),
                    Some(HemPending),
                ],
            ),
        ),
        (
            Suspended,
            join(
                never,
                [
                    None,
                    None,
                    None,
                    Some(Suspended),
                    None,
                    None,
                    // It has one beginning of its end, and its agent says no more of that.
                    None,
                    Some(partial),
                    None,
                    Some(revoked),
                    Some(Suspended),
                ],
            ),
        ),
        (complete, over(complete)),
        (partial, over(partial)),
        (revoked, over(revoked)),
    ];
    for (state, expected) in table {
        for (event, expected) in events.iter().zip(expected) {
            let found = in_state(state).step(*event).ok().map(|it| it.state());
            assert_eq!(found, expected, "{state:?} {event:?}");
        }
    }
}

fn join(first: [Option<S>; 3], rest: [Option<S>; 11]) -> [Option<S>; 14] {
    std::array::from_fn(|at| if at < 3 { first[at] } else { rest[at - 3] })
}

#[test]
fn an_action_is_counted_until_it_is_settled() {
    let it = after(&session(), &[E::Admitted { sequence: 1 }, E::Held { sequence: 2 }]);
    assert_eq!((it.in_flight, it.held, it.cycles, it.sequence), (1, 1, 2, 2));
    let it = after(&it, &[E::Decided { sent: true }]);
    assert_eq!((it.in_flight, it.held, it.state()), (2, 0, S::Active));
    let closes = it.step(E::Closed { completion: Completion::Complete, by_agent: false });
    assert_eq!(closes, Err(SessionRefusal::InFlight { actions: 2 }));
    let it = after(
        &it,
        &[E::Settled, E::Settled, E::Closed { completion: Completion::Complete, by_agent: false }],
    );
    assert_eq!((it.in_flight, it.closed), (0, Some(Completion::Complete)));
}

#[test]
fn what_waited_for_people_and_is_not_sent_is_denied_like_what_did_not_wait() {
    let waits = after(&session(), &[E::Admitted { sequence: 1 }, E::Held { sequence: 2 }]);
    let sent = after(&waits, &[E::Decided { sent: true }]);
    assert_eq!((sent.cycles, sent.denials, sent.epoch), (2, 0, waits.epoch));
    let denied = after(&waits, &[E::Decided { sent: false }]);
    let at_once = after(&session(), &[E::Admitted { sequence: 1 }, E::Denied { sequence: Some(2) }]);
    assert_eq!((denied.cycles, denied.denials), (1, 1));
    assert_eq!(denied, at_once);
}

#[test]
fn what_was_admitted_before_the_end_is_settled_after_it_and_nothing_is_sent_any_more() {
    let it = after(&session(), &[E::Admitted { sequence: 1 }, E::Held { sequence: 2 }]);
    let it = after(&it, &[E::Revoked { halt: Halt::Partial, by_person: true }]);
    assert_eq!((it.is_revoked(), it.halt), (true, Some(Halt::Partial)));
    assert_eq!(it.step(E::Decided { sent: true }), Err(SessionRefusal::State(it.state())));
    let it = after(&it, &[E::Settled, E::Decided { sent: false }]);
    assert_eq!((it.in_flight, it.held), (0, 0));
    assert!(it.step(E::Revoked { halt: Halt::Clean, by_person: true }).is_err(), "how it was left stands");
}

#[test]
fn what_people_agreed_to_is_not_sent_once_its_session_is_stopped() {
    let it = after(&session(), &[E::Held { sequence: 1 }, E::Suspended]);
    assert_eq!(it.step(E::Decided { sent: true }), Err(SessionRefusal::State(S::Suspended)));
    assert_eq!(after(&it, &[E::Decided { sent: false }]).held, 0);
}

#[test]
fn a_number_is_used_once_by_whatever_used_it() {
    let it = after(&session(), &[E::Declared { sequence: 3 }]);
    let refused = Err(SessionRefusal::Sequence { last: 3 });
    assert_eq!(it.step(E::Declared { sequence: 3 }), refused);
    assert_eq!(it.step(E::Admitted { sequence: 3 }), refused);
    assert_eq!(it.step(E::Held { sequence: 2 }), refused);
    let it = after(&it, &[E::Denied { sequence: Some(7) }]);
    assert_eq!((it.sequence, it.denials), (7, 1));
    assert_eq!(after(&it, &[E::Denied { sequence: None }, E::Denied { sequence: Some(1) }]).sequence, 7);
}

#[test]
fn what_a_judgement_must_not_miss_raises_the_epoch() {
    let it = session();
    for event in [
        E::Suspended,
        E::Closed { completion: Completion::Complete, by_agent: false },
        E::Revoked { halt: Halt::Clean, by_person: true },
    ] {
        assert_eq!(after(&it, &[event]).epoch, 1, "{event:?}");
    }
    assert_eq!(after(&it, &[E::Denied { sequence: None }]).epoch, 1, "trust and policies look at denials");
    assert_eq!(after(&it, &[E::Held { sequence: 1 }, E::Regrouped]).epoch, 1);
    assert_eq!(after(&it, &[E::Admitted { sequence: 1 }, E::Settled]).epoch, 0);
}

#[test]
fn a_session_waits_for_another_only_while_nothing_of_it_is_on_its_clock() {
    let it = after(&session(), &[E::Admitted { sequence: 1 }]);
    assert_eq!(it.step(E::Blocked { at_ms: 5 }), Err(SessionRefusal::InFlight { actions: 1 }));
    assert_eq!(after(&it, &[E::Settled, E::Blocked { at_ms: 5 }]).state(), S::ClusterBlocked);
}

#[test]
fn words_read_back() {
    for completion in [Completion::Complete, Completion::Partial, Completion::Revoked] {
        assert_eq!(Completion::parse(completion.as_str()), Some(completion));
    }
    for halt in [Halt::Clean, Halt::Partial, Halt::Unknown] {
        assert_eq!(Halt::parse(halt.as_str()), Some(halt));
    }
    assert_eq!((Completion::parse("complete"), Halt::parse("")), (None, None));
}

fn event() -> impl Strategy<Value = E> {
    let number = 0_u64..60;
    prop_oneof![
        number.clone().prop_map(|sequence| E::Declared { sequence }),
        number.clone().prop_map(|sequence| E::Admitted { sequence }),
        number.clone().prop_map(|sequence| E::Held { sequence }),
        any::<bool>().prop_map(|sent| E::Decided { sent }),
        Just(E::Settled),
        prop::option::of(number).prop_map(|sequence| E::Denied { sequence }),
        Just(E::Blocked { at_ms: 1 }),
        Just(E::Unblocked),
        Just(E::Regrouped),
        limits().prop_map(E::Limited),
        Just(E::Suspended),
        prop_oneof![9 => Just(E::Settled), 1 => Just(E::Closed { completion: Completion::Complete, by_agent: false })],
        prop_oneof![9 => Just(E::Settled), 1 => Just(E::Revoked { halt: Halt::Unknown, by_person: true })],
    ]
}

/// Limits of every kind, or none.
fn limits() -> impl Strategy<Value = ApprovedLimits> {
    let most = (0..100_i64).prop_map(|minor| Money::new(minor, Currency::of("USD").unwrap()).unwrap());
    (prop::option::of(most), prop::option::of(0..100_i64))
        .prop_map(|(max_amount, not_after_ms)| ApprovedLimits { max_amount, not_after_ms })
}

proptest! {
    /// INVARIANT (halt), over any sequence of events; the counts are those of a model that only counts.
    #[test]
    fn nothing_begins_in_a_session_that_is_not_active(events in prop::collection::vec(event(), 0..200)) {
        let mut it = session();
        let (mut held, mut in_flight) = (0_i64, 0_i64);
        for event in events {
            let Ok(next) = it.step(event) else { continue };
            let begins = matches!(event, E::Declared { .. } | E::Admitted { .. } | E::Held { .. });
            let sends = matches!(event, E::Admitted { .. } | E::Decided { sent: true });
            match event {
                E::Admitted { .. } => in_flight += 1,
                E::Held { .. } => held += 1,
                E::Decided { sent } => (held, in_flight) = (held - 1, in_flight + i64::from(sent)),
                E::Settled => in_flight -= 1,
                _ => {}
            }
            prop_assert!(held >= 0 && in_flight >= 0);
            prop_assert_eq!((i64::from(next.held), i64::from(next.in_flight)), (held, in_flight));
            prop_assert!(!begins || it.state() == S::Active, "{:?} in {:?}", event, it.state());
            prop_assert!(!sends || matches!(it.state(), S::Active | S::HemPending), "{:?} in {:?}", event, it.state());
            prop_assert!(next.sequence >= it.sequence && (!begins || next.sequence > it.sequence));
            prop_assert!(next.epoch >= it.epoch && next.denials >= it.denials);
            // Keeps (limits): whatever was beyond them is beyond them for good.
            for (minor, now_ms) in [(0, 0), (50, 0), (0, 50), (99, 99)] {
                let amount = Money::new(minor, Currency::of("USD").unwrap());
                let beyond = |it: &Session| it.limits.broken_by(amount, now_ms).is_some();
                prop_assert!(beyond(&next) || !beyond(&it));
            }
            let limited = matches!(event, E::Limited(_));
            prop_assert!(next.limits == it.limits || limited && next.epoch > it.epoch);
            prop_assert!(it.closed.is_none() || (next.closed, next.halt) == (it.closed, it.halt), "what is over stays over");
            it = next;
        }
    }
}
