//! The whole table of the machine, and what no sequence of events can bring about.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use action::{
    Action, ActionId, Archetype, Catalogue, Environment, GuaranteeLevel, HmacKey, IdempotencyKey, Request,
    Source, Subject, Tenant,
};
use boundary::{Caller, Facts, Permit, Policies, Series, Verdict};
use countersign_execution::{
    Absence, Call, Capabilities, Confirmation, Effect, Event, Execution, Fate, Found, Idempotent, Queryable,
    Refusal, Reply, begin, provider_key, recover, reference,
};
use proptest::prelude::*;
use std::time::Duration;

#[test]
fn every_state_meets_every_event() {
    let table = "
        sent      replied: confirmed      -> settled confirmed
        sent      replied: refused        -> settled refused
        sent      replied: not sent       -> settled not sent
        sent      replied: lost           -> in doubt + inquire
        sent      overdue                 -> in doubt + inquire
        sent      asked: confirmed        -> illegal
        sent      asked: absent for good  -> illegal
        sent      asked: absent so far    -> illegal
        sent      asked: unknown          -> illegal
        in doubt  replied: confirmed      -> settled confirmed
        in doubt  replied: refused        -> settled refused
        in doubt  replied: not sent       -> settled not sent
        in doubt  replied: lost           -> in doubt
        in doubt  overdue                 -> illegal
        in doubt  asked: confirmed        -> settled confirmed
        in doubt  asked: absent for good  -> settled absent
        in doubt  asked: absent so far    -> in doubt + inquire
        in doubt  asked: unknown          -> in doubt + inquire
        settled   replied: confirmed      -> illegal
        settled   replied: refused        -> illegal
        settled   replied: not sent       -> illegal
        settled   replied: lost           -> illegal
        settled   overdue                 -> illegal
        settled   asked: confirmed        -> illegal
        settled   asked: absent for good  -> illegal
        settled   asked: absent so far    -> illegal
        settled   asked: unknown          -> illegal
    ";
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected: Vec<String> = table.lines().map(squeeze).filter(|line| !line.is_empty()).collect();
    let mut found = Vec::new();
    for state in ["sent", "in doubt", "settled"] {
        for event in events() {
            let name = event.name();
            let outcome = match stand(state).step(event) {
                Ok((next, effects)) => {
                    format!("{}{}", told(&next), effects.iter().map(word).collect::<String>())
                }
                Err(illegal) => {
                    assert_eq!((illegal.state, illegal.event), (state, name));
                    assert!(illegal.to_string().contains(state) && illegal.to_string().contains(name));
                    "illegal".to_owned()
                }
            };
            found.push(format!("{state} {name} -> {outcome}"));
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn it_begins_with_a_permit_and_one_call_and_recovers_with_a_question() {
    let (execution, effects) = begin(call(), permit());
    assert_eq!((execution.name(), effects.len()), ("sent", 1));
    assert!(matches!(&effects[0], Effect::Invoke(call) if Arc::ptr_eq(call, execution.call())));
    let (execution, effects) = recover(call());
    assert_eq!((execution.name(), effects.len()), ("in doubt", 1));
    assert!(matches!(&effects[0], Effect::Inquire(call) if Arc::ptr_eq(call, execution.call())));
}

proptest! {
    /// Whatever happens in whatever order: nothing is sent again, a lost answer alone never settles anything, and what
    /// is settled stays as it is.
    #[test]
    fn no_sequence_of_events_sends_twice_or_turns_doubt_into_failure(
        picks in prop::collection::vec(0..9_usize, 0..40),
        recovered in any::<bool>(),
    ) {
        let (mut execution, first) = if recovered { recover(call()) } else { begin(call(), permit()) };
        let mut sent = first.iter().filter(|effect| matches!(effect, Effect::Invoke(_))).count();
        for pick in picks {
            let event = events().swap_remove(pick);
            let inconclusive = matches!(
                event,
                Event::Overdue
                    | Event::Replied(Reply::Lost { .. })
                    | Event::Asked(Found::Unknown | Found::Absent { final_: false })
            );
            if execution.fate().is_some() {
                prop_assert!(execution.step(event).is_err());
                return Ok(());
            }
            match execution.step(event) {
                Ok((next, effects)) => {
                    sent += effects.iter().filter(|effect| matches!(effect, Effect::Invoke(_))).count();
                    prop_assert_eq!(next.fate().is_some(), !inconclusive);
                    prop_assert!(next.fate().is_none() || effects.is_empty());
                    execution = next;
                }
                // The ledger's record stands; a process that starts here recovers.
                Err(_) => execution = recover(call()).0,
            }
        }
        prop_assert_eq!(sent, usize::from(!recovered));
    }
}

#[test]
fn the_provider_key_depends_on_each_of_its_parts() {
    let key = HmacKey::new(&[7; 32]);
    let subject = |text| Subject::parse(text).unwrap();
    let client = |text| IdempotencyKey::parse(text).unwrap();
    let base = provider_key(&key, Environment::Production, &subject("agent"), &client("k-1"), "PAY", 1);
    assert_eq!(base.len(), 64);
    assert!(base.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    // Stored with intents and known to providers, so it never changes. Computed with Python's hmac.
    assert_eq!(base, "a46392b625f3481302d424a3c99077346d80022d293fc1f9c0ceff8ba9911b5a");
    assert_eq!(
        base,
        provider_key(&key, Environment::Production, &subject("agent"), &client("\"k-1\""), "PAY", 1)
    );
    let others = [
        provider_key(
            &HmacKey::new(&[8; 32]),
            Environment::Production,
            &subject("agent"),
            &client("k-1"),
            "PAY",
            1,
        ),
        provider_key(&key, Environment::Sandbox, &subject("agent"), &client("k-1"), "PAY", 1),
        provider_key(&key, Environment::Production, &subject("agent2"), &client("k-1"), "PAY", 1),
        provider_key(&key, Environment::Production, &subject("agent"), &client("2k-1"), "PAY", 1),
        provider_key(&key, Environment::Production, &subject("agent"), &client("k-1"), "PAID", 1),
        provider_key(&key, Environment::Production, &subject("agent"), &client("k-1"), "PAY", 2),
        provider_key(&key, Environment::Production, &subject("agent"), &client("k-1,PAY"), "PAY", 1),
    ];
    for (at, other) in others.iter().enumerate() {
        assert!(*other != base && !others[..at].contains(other), "part {at} makes no difference");
    }
}

#[test]
fn a_reference_names_one_attempt() {
    let id = call().action_id;
    assert_eq!(reference(&id, 1), format!("{id}-1"));
    assert_ne!(reference(&id, 1), reference(&id, 2));
}

#[test]
fn levels_need_what_the_provider_declares() {
    use GuaranteeLevel::{Atp1, Atp2, Atp3};
    let idempotent = Some(Idempotent { retention: Duration::from_secs(60) });
    let queryable = Some(Queryable { by_our_reference: true, final_after: Duration::from_secs(30) });
    let able = |idempotent, queryable, repeat_safe| Capabilities {
        idempotent,
        queryable,
        repeat_safe,
        cancellable: true,
    };
    let table = [
        (able(None, None, false), [true, false, false]),
        (able(None, None, true), [true, true, false]),
        (able(idempotent.clone(), None, false), [true, true, true]),
        (able(None, queryable.clone(), false), [true, true, true]),
        (able(idempotent, queryable, true), [true, true, true]),
    ];
    for (capabilities, expected) in table {
        assert_eq!(
            [Atp1, Atp2, Atp3].map(|level| capabilities.can_keep(level)),
            expected,
            "{capabilities:?}"
        );
    }
}

#[test]
fn absence_is_final_only_after_the_last_moment_of_sending_and_the_declared_wait() {
    let call = call();
    let queryable = Queryable { by_our_reference: true, final_after: Duration::from_millis(1500) };
    let able = Capabilities { queryable: Some(queryable), ..Capabilities::default() };
    assert!(!able.absence_is_final(&call, call.send_by_ms));
    assert!(!able.absence_is_final(&call, call.send_by_ms + 1499));
    assert!(able.absence_is_final(&call, call.send_by_ms + 1500));
    assert!(!Capabilities::default().absence_is_final(&call, i64::MAX), "who cannot be asked cannot say so");
    let never = Queryable { by_our_reference: true, final_after: Duration::MAX };
    let able = Capabilities { queryable: Some(never), ..Capabilities::default() };
    assert!(!able.absence_is_final(&call, i64::MAX));
}

fn stand(state: &str) -> Execution {
    match state {
        "sent" => begin(call(), permit()).0,
        "in doubt" => recover(call()).0,
        _ => recover(call()).0.step(Event::Replied(Reply::Confirmed(Confirmation::default()))).unwrap().0,
    }
}

fn events() -> Vec<Event> {
    let why = || "a test".to_owned();
    vec![
        Event::Replied(Reply::Confirmed(Confirmation::default())),
        Event::Replied(Reply::Refused(Refusal::default())),
        Event::Replied(Reply::NotSent { why: why() }),
        Event::Replied(Reply::Lost { why: why() }),
        Event::Overdue,
        Event::Asked(Found::Confirmed(Confirmation::default())),
        Event::Asked(Found::Absent { final_: true }),
        Event::Asked(Found::Absent { final_: false }),
        Event::Asked(Found::Unknown),
    ]
}

fn told(execution: &Execution) -> String {
    let fate = match execution.fate() {
        None => "",
        Some(Fate::Confirmed(_)) => " confirmed",
        Some(Fate::Absent(Absence::Refused(_))) => " refused",
        Some(Fate::Absent(Absence::NotSent { .. })) => " not sent",
        Some(Fate::Absent(Absence::Final)) => " absent",
    };
    format!("{}{fate}", execution.name())
}

fn word(effect: &Effect) -> &'static str {
    match effect {
        Effect::Invoke(_) => " + invoke",
        Effect::Inquire(_) => " + inquire",
    }
}

fn call() -> Call {
    let action_id = ActionId::new(1_760_000_000_000, *b"0123456789");
    Call {
        action_id,
        tenant: Tenant::default(),
        environment: Environment::Production,
        archetype: archetype(),
        constraints: serde_json::json!({ "topic": "x" }),
        money: None,
        attempt: 1,
        provider_key: String::new(),
        reference: reference(&action_id, 1),
        send_by_ms: 1_760_000_010_000,
    }
}

fn archetype() -> Arc<Archetype> {
    static MADE: std::sync::OnceLock<Arc<Archetype>> = std::sync::OnceLock::new();
    Arc::clone(MADE.get_or_init(|| Arc::clone(catalogue().get("NOTE").unwrap())))
}

fn catalogue() -> Catalogue {
    let text = r#"
name = "NOTE"
description = "Leave a note"
reversible = true
guarantee_level = "atp-1"
[cedar]
groups = ["Notes"]
resource_type = "Topic"
[schema]
required = ["topic"]
[schema.properties.topic]
type = "string"
"#;
    Catalogue::load(false, &[Source { name: "note.toml".into(), text: text.into() }]).unwrap()
}

/// There is one way to a permit, in tests too.
fn permit() -> Permit {
    let catalogue = catalogue();
    let policies = Policies::load(&[Policies::sandbox()], &[], &[], &catalogue).unwrap();
    let body = br#"{"archetype":"NOTE","constraints":{"topic":"x"}}"#;
    let action = Action::of(Request::parse(body).unwrap(), catalogue.get("NOTE").unwrap()).unwrap();
    let caller =
        Caller { tenant: Tenant::default(), subject: Subject::parse("agent").unwrap(), is_human: false };
    let facts = Facts {
        environment: Environment::Sandbox,
        action: &action,
        verb: None,
        target: None,
        caller: &caller,
        mandate: None,
        mandate_refusal: None,
        frozen: None,
        series: &Series::default(),
        first_seen_destination: false,
        earlier: None,
        approved: None,
        observe: false,
        now_ms: 1_760_000_000_000,
        request_hash: [1; 32],
        salt: [2; 32],
    };
    match boundary::decide(&policies, &facts).verdict {
        Verdict::Pass(permit) => permit,
        other => panic!("not passed: {other:?}"),
    }
}
