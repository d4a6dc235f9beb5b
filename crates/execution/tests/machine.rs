//! The whole table of the machine, and what no sequence of events can bring about.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use action::{
    Action, ActionId, Archetype, Backoff, Catalogue, Currency, Environment, GuaranteeLevel, HmacKey,
    IdempotencyKey, Money, Request, RetryPolicy, Source, Subject, Tenant,
};
use boundary::{Caller, Facts, Permit, Policies, Series, Verdict};
use countersign_execution::{
    Absence, Alias, Call, Capabilities, Challenge, Confirmation, Course, Doubt, Effect, Event, Execution,
    Found, Idempotent, Named, Now, Purpose, Queryable, Refusal, Reply, Reservation, Resolution, State, Stood,
    Stop, Terms, Undo, Whose, Withheld, capture_reference, delay, longest_delay, provider_key, reference,
    release_reference, rollback_reference,
};
use proptest::prelude::*;

#[test]
fn every_state_meets_every_event() {
    // Whatever is not in here is illegal.
    let table = "
        intended    go: attempt 1         -> sent + invoke
        intended    stopped               -> failed stopped
        sent        withheld: deadline    -> failed deadline
        sent        withheld: window      -> waiting + wait
        sent        replied: confirmed    -> completed
        sent        replied: refused      -> failed refused
        sent        replied: busy         -> waiting + wait
        sent        replied: not sent     -> waiting + wait
        sent        replied: lost         -> in doubt + wait
        sent        replied: challenged   -> challenged + present
        sent again  withheld: deadline    -> in doubt + wait
        sent again  withheld: window      -> in doubt + wait
        sent again  replied: confirmed    -> completed
        sent again  replied: refused      -> in doubt + wait
        sent again  replied: busy         -> in doubt + wait
        sent again  replied: not sent     -> in doubt + wait
        sent again  replied: lost         -> in doubt + wait
        sent again  replied: challenged   -> challenged + present
        waiting     go: attempt 2         -> sent + invoke
        waiting     stopped               -> failed stopped
        waiting     replied: confirmed    -> completed + late effect
        waiting     replied: refused      -> waiting
        waiting     replied: busy         -> waiting
        waiting     replied: not sent     -> waiting
        waiting     replied: lost         -> waiting
        waiting     replied: challenged   -> waiting
        waiting     asked: confirmed      -> completed + late effect
        waiting     asked: absent for good -> waiting
        waiting     asked: absent so far  -> waiting
        waiting     asked: unknown        -> waiting
        waiting     woken                 -> waiting + clear
        in doubt    go: attempt 1         -> sent + invoke
        in doubt    stopped               -> in doubt
        in doubt    replied: confirmed    -> completed
        in doubt    replied: refused      -> failed refused
        in doubt    replied: busy         -> waiting + wait
        in doubt    replied: not sent     -> waiting + wait
        in doubt    replied: lost         -> in doubt + wait
        in doubt    replied: challenged   -> challenged + present
        in doubt    asked: confirmed      -> completed
        in doubt    asked: absent for good -> waiting + wait
        in doubt    asked: absent so far  -> in doubt + clear
        in doubt    asked: unknown        -> in doubt + clear
        in doubt    woken                 -> in doubt + inquire
        challenged  replied: confirmed    -> completed
        challenged  replied: refused      -> failed refused
        challenged  replied: busy         -> failed refused
        challenged  replied: not sent     -> challenged
        challenged  replied: lost         -> challenged
        challenged  replied: challenged   -> challenged
        challenged  asked: confirmed      -> completed
        challenged  asked: absent for good -> failed absent
        challenged  asked: absent so far  -> challenged + wait
        challenged  asked: unknown        -> challenged + wait
        challenged  woken                 -> challenged + inquire
        failed      go: attempt 2         -> sent + invoke
        failed      replied: confirmed    -> completed + late effect
        failed      replied: refused      -> failed on record
        failed      replied: busy         -> failed on record
        failed      replied: not sent     -> failed on record
        failed      replied: lost         -> failed on record
        failed      replied: challenged   -> failed on record
        failed      asked: confirmed      -> completed + late effect
        failed      asked: absent for good -> failed on record
        failed      asked: absent so far  -> failed on record
        failed      asked: unknown        -> failed on record
        checking    woken                 -> checking + check
        checking    held                  -> completed
        checking    untold                -> checking + wait
        checking    undo                  -> rolling back + wait
        unchecked   held                  -> completed
        unchecked   untold                -> unchecked
        unchecked   undo                  -> rolling back + wait
        unchecked   resolved: executed    -> completed
        completed   replied: refused      -> failed refused
        completed   replied: busy         -> failed refused
        completed   asked: absent for good -> failed absent
        completed   undo                  -> rolling back + wait
        rolling back woken                -> undoing + retract
        rolling back undone: confirmed    -> rolled back
        undoing     undone: confirmed     -> rolled back
        undoing     undone: refused       -> rollback failed + alarm
        undoing     undone: busy          -> rolling back + wait
        undoing     undone: not sent      -> rolling back + wait
        undoing     undone: lost          -> rolling back + wait
        undoing     undone: challenged    -> rolling back + wait
        rollback failed undo              -> rolling back + wait
        rollback failed undone: confirmed -> rolled back
        in doubt    resolved: executed    -> completed
        in doubt    resolved: failed      -> failed resolved
        rollback failed resolved: executed -> completed
        rollback failed resolved: rolled back -> rolled back
        reserve sent withheld: deadline   -> failed deadline
        reserve sent withheld: window     -> waiting + wait
        reserve sent replied: confirmed   -> reserved + wait
        reserve sent replied: refused     -> failed refused
        reserve sent replied: busy        -> waiting + wait
        reserve sent replied: not sent    -> waiting + wait
        reserve sent replied: lost        -> in doubt + wait
        reserve in doubt go: reserve      -> sent + invoke
        reserve in doubt stopped          -> in doubt
        reserve in doubt replied: confirmed -> reserved + wait
        reserve in doubt replied: refused -> failed refused
        reserve in doubt replied: busy    -> waiting + wait
        reserve in doubt replied: not sent -> waiting + wait
        reserve in doubt replied: lost    -> in doubt + wait
        reserve in doubt asked: confirmed -> reserved + wait
        reserve in doubt asked: absent for good -> waiting + wait
        reserve in doubt asked: absent so far -> in doubt + clear
        reserve in doubt asked: unknown   -> in doubt + clear
        reserve in doubt woken            -> in doubt + inquire
        reserve failed go: reserve 2      -> sent + invoke
        reserve failed replied: confirmed -> failed on record + release
        reserve failed replied: refused   -> failed on record
        reserve failed replied: busy      -> failed on record
        reserve failed replied: not sent  -> failed on record
        reserve failed replied: lost      -> failed on record
        reserve failed asked: confirmed   -> failed on record + release
        reserve failed asked: absent for good -> failed on record
        reserve failed asked: absent so far -> failed on record
        reserve failed asked: unknown     -> failed on record
        reserved    go: capture           -> sent + invoke
        reserved    go: capture 2         -> sent + invoke
        reserved    replied: confirmed    -> reserved
        reserved    replied: refused      -> reserved
        reserved    replied: busy         -> reserved
        reserved    replied: not sent     -> reserved
        reserved    replied: lost         -> reserved
        reserved    asked: confirmed      -> reserved
        reserved    asked: absent for good -> reserved
        reserved    asked: absent so far  -> reserved
        reserved    asked: unknown        -> reserved
        reserved    woken                 -> reserved + wait
        reserved    release               -> releasing + wait
        expired     replied: confirmed    -> reserved
        expired     replied: refused      -> reserved
        expired     replied: busy         -> reserved
        expired     replied: not sent     -> reserved
        expired     replied: lost         -> reserved
        expired     asked: confirmed      -> reserved
        expired     asked: absent for good -> reserved
        expired     asked: absent so far  -> reserved
        expired     asked: unknown        -> reserved
        expired     woken                 -> reserved + release
        charging    withheld: deadline    -> reserved + wait
        charging    withheld: window      -> reserved + wait
        charging    replied: confirmed    -> completed
        charging    replied: refused      -> reserved + release
        charging    replied: busy         -> reserved + wait
        charging    replied: not sent     -> reserved + wait
        charging    replied: lost         -> in doubt + wait
        charge in doubt go: capture       -> sent + invoke
        charge in doubt stopped           -> in doubt
        charge in doubt replied: confirmed -> completed
        charge in doubt replied: refused  -> reserved + release
        charge in doubt replied: busy     -> reserved + wait
        charge in doubt replied: not sent -> reserved + wait
        charge in doubt replied: lost     -> in doubt + wait
        charge in doubt asked: confirmed  -> completed
        charge in doubt asked: absent for good -> reserved + wait
        charge in doubt asked: absent so far -> in doubt + clear
        charge in doubt asked: unknown    -> in doubt + clear
        charge in doubt woken             -> in doubt + inquire
        uncharged   go: capture 2         -> sent + invoke
        uncharged   replied: confirmed    -> completed + late effect
        uncharged   replied: refused      -> reserved
        uncharged   replied: busy         -> reserved
        uncharged   replied: not sent     -> reserved
        uncharged   replied: lost         -> reserved
        uncharged   asked: confirmed      -> completed + late effect
        uncharged   asked: absent for good -> reserved
        uncharged   asked: absent so far  -> reserved
        uncharged   asked: unknown        -> reserved
        uncharged   woken                 -> reserved + wait
        uncharged   release               -> releasing + wait
        releasing   replied: confirmed    -> releasing
        releasing   replied: refused      -> releasing
        releasing   replied: busy         -> releasing
        releasing   replied: not sent     -> releasing
        releasing   replied: lost         -> releasing
        releasing   asked: confirmed      -> releasing
        releasing   asked: absent for good -> releasing
        releasing   asked: absent so far  -> releasing
        releasing   asked: unknown        -> releasing
        releasing   woken                 -> freeing + retract
        releasing   undone: confirmed     -> failed released
        freeing     undone: confirmed     -> failed released
        freeing     undone: refused       -> release failed + alarm
        freeing     undone: busy          -> releasing + wait
        freeing     undone: not sent      -> releasing + wait
        freeing     undone: lost          -> releasing + wait
        reserve sent replied: challenged -> in doubt + wait
        reserve in doubt replied: challenged -> in doubt + wait
        charging replied: challenged -> in doubt + wait
        charge in doubt replied: challenged -> in doubt + wait
        reserve failed replied: challenged -> failed on record
        reserved replied: challenged -> reserved
        expired replied: challenged -> reserved
        uncharged replied: challenged -> reserved
        releasing replied: challenged -> releasing
        freeing undone: challenged -> releasing + wait
        release failed release            -> releasing + wait
        release failed replied: confirmed -> release failed
        release failed replied: refused   -> release failed
        release failed replied: busy      -> release failed
        release failed replied: not sent  -> release failed
        release failed replied: lost      -> release failed
        release failed replied: challenged -> release failed
        release failed asked: confirmed   -> release failed
        release failed asked: absent for good -> release failed
        release failed asked: absent so far -> release failed
        release failed asked: unknown     -> release failed
        release failed undone: confirmed  -> failed released
        release failed resolved: released -> failed released
        release failed resolved: executed -> completed
        reserve in doubt resolved: failed -> failed resolved
        charge in doubt resolved: executed -> completed
        charge in doubt resolved: failed -> reserved + release
    ";
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected: Vec<String> = table.lines().map(squeeze).filter(|line| !line.is_empty()).collect();
    let mut found = Vec::new();
    for state in STATES {
        for event in EVENTS {
            let (execution, happens) = (stand(state, terms()), make(event));
            let names = (execution.state().name(), happens.name());
            let outcome = match execution.step(happens, now(0)) {
                Ok((next, effects)) => {
                    format!("{}{}", told(&next), effects.iter().map(word).collect::<String>())
                }
                Err(illegal) => {
                    assert_eq!((illegal.state, illegal.event), names);
                    assert!(illegal.to_string().contains(names.0) && illegal.to_string().contains(names.1));
                    continue;
                }
            };
            found.push(format!("{state} {event} -> {outcome}"));
        }
    }
    assert_eq!(found.iter().collect::<BTreeSet<_>>(), expected.iter().collect::<BTreeSet<_>>());
}

#[test]
fn a_challenge_that_the_mode_or_the_binding_does_not_provide_for_is_doubt() {
    let capabilities = Capabilities { challenge: None, ..abilities(3) };
    for state in ["sent", "sent again", "in doubt"] {
        let terms = Terms { capabilities: capabilities.clone(), ..terms() };
        let (execution, effects) = stand(state, terms).step(make("replied: challenged"), now(0)).unwrap();
        assert_eq!(told(&execution) + word(&effects[0]), "in doubt + wait", "{state}");
    }
}

#[test]
fn a_confirmed_effect_is_looked_after_before_it_is_complete_where_that_is_asked_for() {
    let checked = || Terms { checked: true, ..terms() };
    for (state, event, outcome) in [
        ("sent", "replied: confirmed", "checking + wait"),
        ("sent again", "replied: confirmed", "checking + wait"),
        ("in doubt", "replied: confirmed", "checking + wait"),
        ("in doubt", "asked: confirmed", "checking + wait"),
        ("waiting", "replied: confirmed", "checking + wait + late effect"),
        ("waiting", "asked: confirmed", "checking + wait + late effect"),
        // Whoever was told that it failed waits for nothing any more.
        ("failed", "replied: confirmed", "completed + late effect"),
        ("failed", "asked: confirmed", "completed + late effect"),
    ] {
        let (next, effects) = stand(state, checked()).step(make(event), now(0)).unwrap();
        assert_eq!(told(&next) + &effects.iter().map(word).collect::<String>(), outcome, "{state} {event}");
    }
}

#[test]
fn once_the_payers_time_is_over_it_is_in_doubt_and_stays_so_until_somebody_tells() {
    for (able, event) in [(3, "asked: unknown"), (3, "asked: absent so far"), (1, "woken")] {
        for (after_ms, expected) in
            [(CHALLENGE_MS - 1, "challenged + wait"), (CHALLENGE_MS, "in doubt + wait")]
        {
            let terms = Terms { capabilities: abilities(able), ..terms() };
            let (execution, effects) = stand("challenged", terms).step(make(event), now(after_ms)).unwrap();
            assert_eq!(told(&execution) + word(&effects[0]), expected, "{event} of {able}");
        }
    }
}

#[test]
fn what_a_payer_was_asked_is_never_sent_again_by_itself() {
    // Able to be sent again and with retries left, had nobody been asked.
    let challenged = || stand("sent", terms()).step(make("replied: challenged"), now(0)).unwrap().0;
    for event in ["replied: refused", "replied: busy", "asked: absent for good"] {
        let (execution, effects) = challenged().step(make(event), now(0)).unwrap();
        assert_eq!((execution.state().name(), effects.len()), ("failed", 0), "{event}");
    }
    let (mut execution, _) = challenged().step(make("asked: unknown"), now(CHALLENGE_MS)).unwrap();
    for event in ["woken", "asked: unknown", "asked: absent so far", "woken"] {
        let (next, effects) = execution.step(make(event), now(CHALLENGE_MS)).unwrap();
        assert!(!matches!(effects[..], [Effect::Clear]), "{event}");
        execution = next;
    }
    assert!(execution.step(make("go: attempt 1"), now(CHALLENGE_MS)).is_err());
}

#[test]
fn of_two_sends_the_payers_no_says_nothing_about_the_other() {
    let (execution, _) = stand("sent again", terms()).step(make("replied: challenged"), now(0)).unwrap();
    assert!(execution.step(make("replied: refused"), now(0)).unwrap().0.state().name() == "challenged");
}

#[test]
fn what_is_in_doubt_is_sent_again_only_after_its_pause_whoever_wakes_it() {
    let safe = Capabilities { repeat_safe: true, ..Capabilities::default() };
    let terms = Terms { capabilities: safe, retry: Some(policy()), flight_ms: 12_000, ..terms() };
    // It left at NOW, and the pause drawn for it is a second.
    let left = Call { send_by_ms: NOW + 12_000, ..call(1) };
    let course = Course { sends: 1, retries: 0, first_ms: NOW };
    let woken = |after_ms| {
        let execution = Execution::recover(left.clone(), terms.clone(), course, Stood::InDoubt);
        let (_, effects) = execution.step(Event::Woken, Now { ms: NOW + after_ms, chance: 1000 }).unwrap();
        effects
    };
    for after_ms in [0, 500, 999] {
        let effects = woken(after_ms);
        assert!(matches!(effects[..], [Effect::Wait { until_ms }] if until_ms == NOW + 1000), "{effects:?}");
    }
    assert!(matches!(woken(1000)[..], [Effect::Clear]));
}

#[test]
fn it_is_asked_again_after_pauses_that_grow_then_slowly_and_then_a_person_decides() {
    let (mut execution, mut pauses) = (stand("checking", terms()), Vec::new());
    loop {
        let (next, effects) = execution.step(make("untold"), now(0)).unwrap();
        execution = next;
        let [Effect::Wait { until_ms }] = effects[..] else { break };
        pauses.push((until_ms - NOW) / 1000);
        let asked = pauses.len();
        assert!(matches!(execution.state(), State::Checking { asks, .. } if *asks as usize == asked));
    }
    assert_eq!(execution.state().name(), "unchecked");
    let most = archetype().retry.max_retries as usize;
    assert_eq!((&pauses[..most], pauses.len()), (&[2, 4, 8][..], most + SLOWLY));
    assert!(pauses[most..].iter().all(|pause| *pause == 60), "{pauses:?}");
    // Once its retries are used up, nobody is asked beyond the time for which its caller cares.
    let last = |deadline_ms| {
        let terms = Terms { deadline_ms, ..terms() };
        let course = Course { sends: 1, retries: 0, first_ms: NOW };
        let asks = archetype().retry.max_retries;
        let execution = Execution::recover_checking(call(1), terms, course, Confirmation::default(), asks);
        execution.step(make("untold"), now(0)).unwrap().0.state().name()
    };
    assert_eq!([last(Some(NOW + 60_000)), last(Some(NOW + 60_001))], ["unchecked", "checking"]);
    let confirmed = Confirmation { reference: Some("its own".to_owned()), ..Confirmation::default() };
    let course = Course { sends: 1, retries: 0, first_ms: NOW };
    let execution = Execution::recover_checking(call(1), terms(), course, confirmed.clone(), 8);
    let (next, _) = execution.step(Event::Held, now(0)).unwrap();
    assert!(matches!(next.state(), State::Completed(it) if *it == confirmed), "what was confirmed is kept");
    let execution = Execution::recover_unchecked(call(1), terms(), course, confirmed.clone());
    let (next, _) = execution.step(make("resolved: executed"), now(0)).unwrap();
    assert!(
        matches!(next.state(), State::Completed(it) if *it == confirmed),
        "so it is when a person decides"
    );
}

#[test]
fn what_undoes_an_effect_is_repeated_as_often_as_the_archetype_is_retried_and_then_a_person_decides() {
    let mut execution = stand("rolling back", terms());
    let most = archetype().retry.max_retries;
    for sent in 0..=most {
        let (undoing, effects) = execution.step(Event::Woken, now(0)).unwrap();
        let Effect::Retract(call) = &effects[0] else { panic!("{effects:?}") };
        assert_eq!(call.provider_key, "undo", "always under the same key");
        let (next, effects) = undoing.step(make("undone: lost"), now(0)).unwrap();
        let last = sent == most;
        assert_eq!(matches!(effects[..], [Effect::Alarm]), last);
        assert_eq!(next.state().name(), if last { "rollback failed" } else { "rolling back" });
        execution = next;
    }
}

#[test]
fn what_undoes_an_effect_is_not_repeated_once_its_provider_may_have_forgotten_it() {
    for (sends, after_ms, state) in
        [(0, 1_000_000, "undoing"), (1, 89_999, "undoing"), (1, 90_000, "rollback failed")]
    {
        let undo = Undo { sends, ..undo() };
        let course = Course { sends: 1, retries: 0, first_ms: NOW };
        let execution = Execution::recover_undone(call(1), terms(), course, Stood::RollingBack, Some(undo));
        let (next, _) = execution.step(Event::Woken, now(after_ms)).unwrap();
        assert_eq!(next.state().name(), state, "{sends} {after_ms}");
    }
}

#[test]
fn what_is_set_aside_is_charged_in_time_and_by_no_more_than_there_is() {
    let flight = Terms { flight_ms: 12_000, ..terms() };
    let other = Currency::of("EUR").unwrap();
    for (after_ms, money, may) in [
        (0, usd(2500), true),
        (0, usd(1), true),
        (0, usd(2501), false),
        (0, Money::new(100, other), false),
        (0, None, false),
        (87_999, usd(2500), true),
        (88_000, usd(2500), false),
    ] {
        let call = Call { money, send_by_ms: NOW + after_ms + 12_000, ..capture(1) };
        let stepped = stand("reserved", flight.clone()).step(Event::Go(permit(), call.into()), now(after_ms));
        assert_eq!(stepped.is_ok(), may, "{money:?} after {after_ms}");
    }
    // And what is in doubt is not sent again when it would come too late.
    for (after_ms, expected) in [(87_999, " + clear"), (88_000, " + wait")] {
        let idempotent = Some(Idempotent { retention: Duration::from_secs(1000) });
        let capabilities = Capabilities { idempotent, ..Capabilities::default() };
        let doubt = stand("charge in doubt", Terms { capabilities, ..flight.clone() });
        let (_, effects) = doubt.step(make("asked: unknown"), now(after_ms)).unwrap();
        assert_eq!(effects.iter().map(word).collect::<String>(), expected, "{after_ms}");
    }
    let ends = Terms { deadline_ms: Some(NOW + 1000), ..terms() };
    let late = stand("reserved", ends).step(make("go: capture"), now(1000));
    assert!(late.is_err(), "the deadline is for what charges it, too");
}

#[test]
fn a_reservation_ends_when_the_provider_says_or_may_have_forgotten_it() {
    for (expires_ms, hold_ms, until_ms) in [
        (None, Some(100_000), NOW + 100_000),
        (Some(NOW + 5), None, NOW + 5),
        (Some(NOW + 5), Some(100_000), NOW + 5),
        (Some(NOW + 200_000), Some(100_000), NOW + 100_000),
    ] {
        let terms = Terms { hold_ms, ..terms() };
        let confirmed = Confirmation { expires_ms, charged: usd(9900), ..Confirmation::default() };
        let reply = Event::Replied(Reply::Confirmed(confirmed));
        let (reserved, _) = stand("reserve sent", terms).step(reply, now(50)).unwrap();
        let State::Reserved { it, .. } = reserved.state() else { panic!("{reserved:?}") };
        assert_eq!(*it, Reservation { money: usd(2500), until_ms }, "never more than was asked for");
    }
    let endless = Terms { hold_ms: None, ..terms() };
    for (state, event) in [
        ("reserve sent", "replied: confirmed"),
        ("reserve in doubt", "replied: confirmed"),
        ("reserve in doubt", "asked: confirmed"),
    ] {
        let (next, _) = stand(state, endless.clone()).step(make(event), now(0)).unwrap();
        assert_eq!(next.state().name(), "in doubt", "what nobody says the end of is neither there nor over");
    }
    let less = Confirmation { charged: usd(900), ..Confirmation::default() };
    let (reserved, _) =
        stand("reserve sent", terms()).step(Event::Replied(Reply::Confirmed(less)), now(0)).unwrap();
    assert!(matches!(reserved.state(), State::Reserved { it, .. } if it.money == usd(900)));
}

#[test]
fn setting_free_is_repeated_then_slowly_and_then_a_person_decides() {
    let (mut execution, mut sent) = (stand("releasing", terms()), 0);
    let most = archetype().retry.max_retries as usize;
    loop {
        let (freeing, effects) = execution.step(Event::Woken, now(0)).unwrap();
        let Effect::Retract(call) = &effects[0] else { panic!("{effects:?}") };
        assert_eq!(call.provider_key, "release", "always under the same key");
        sent += 1;
        let (next, effects) = freeing.step(make("undone: lost"), now(0)).unwrap();
        execution = next;
        let [Effect::Wait { until_ms }] = effects[..] else {
            assert!(matches!(effects[..], [Effect::Alarm]), "{effects:?}");
            break;
        };
        assert_eq!(until_ms >= NOW + 60_000, sent > most, "slowly, once it seems in vain");
    }
    assert_eq!((execution.state().name(), sent), ("release failed", most + SLOWLY + 1));
    // Whoever has it tried again has it tried as often as before.
    let (execution, _) = execution.step(make("release"), now(0)).unwrap();
    assert_eq!((execution.state().name(), execution.undo().unwrap().sends), ("releasing", 0));
}

#[test]
fn of_what_could_not_be_set_free_no_more_was_charged_than_is_set_aside() {
    for (charged, expected) in
        [(None, Some(usd(2500))), (usd(900), Some(usd(900))), (usd(2500), Some(usd(2500))), (usd(2501), None)]
    {
        let word = Resolution::Executed(Confirmation { charged, ..Confirmation::default() });
        let stepped = stand("release failed", terms()).step(Event::Resolved(word), now(0));
        let completed = stepped.ok().map(|(next, _)| match next.state() {
            State::Completed(it) => it.charged,
            other => panic!("{other:?}"),
        });
        assert_eq!(completed, expected, "{charged:?}");
    }
    // A capture that was said to be absent turns up: the provider's word is what counts.
    let course = Course { sends: 1, retries: 0, first_ms: NOW };
    let execution = Execution::recover(capture(1), terms(), course, Stood::ReleaseFailed(held()));
    let (next, effects) = execution.step(make("asked: confirmed"), now(0)).unwrap();
    assert_eq!(told(&next) + &effects.iter().map(word).collect::<String>(), "completed + late effect");
}

#[test]
fn without_retries_an_absence_is_the_end_and_doubt_only_asks() {
    let never = Terms { retry: None, ..terms() };
    for event in ["replied: busy", "replied: not sent", "withheld: window"] {
        let (execution, effects) = stand("sent", never.clone()).step(make(event), now(0)).unwrap();
        assert_eq!((execution.state().name(), effects.len()), ("failed", 0), "{event}");
    }
    let (execution, effects) = stand("in doubt", never.clone()).step(make("asked: unknown"), now(0)).unwrap();
    assert_eq!(told(&execution) + word(&effects[0]), "in doubt + wait");
    assert!(stand("in doubt", never).step(make("go: attempt 1"), now(0)).is_err());
}

#[test]
fn only_an_absence_that_may_pass_is_followed_by_another_attempt() {
    for (event, next) in [("replied: refused", "failed"), ("replied: busy", "waiting")] {
        let (execution, _) = stand("sent", terms()).step(make(event), now(0)).unwrap();
        assert_eq!(execution.state().name(), next);
    }
}

#[test]
fn retries_are_counted_over_all_attempts_and_anew_when_somebody_asks() {
    let mut execution = Execution::intended(call(1).into(), terms());
    let mut sends = 0;
    loop {
        let attempt = if sends == 0 { 1 } else { execution.call().attempt + 1 };
        execution = execution.step(Event::Go(permit(), call(attempt).into()), now(0)).unwrap().0;
        sends += 1;
        execution = execution.step(make("replied: busy"), now(0)).unwrap().0;
        if execution.state().is_settled() {
            break;
        }
    }
    assert_eq!((sends, execution.course().retries), (1 + MOST_RETRIES, MOST_RETRIES));
    let execution = execution.step(Event::Go(permit(), call(sends + 1).into()), now(0)).unwrap().0;
    assert_eq!(execution.course(), Course { sends: 1, retries: 0, first_ms: NOW });
}

#[test]
fn nothing_is_sent_again_once_its_provider_may_have_forgotten_it() {
    let idempotent = Some(Idempotent { retention: Duration::from_secs(100) });
    let capabilities = Capabilities { idempotent, ..Capabilities::default() };
    let forgetful = Terms { capabilities, flight_ms: 12_000, ..terms() };
    // A tenth of the retention is not relied upon, and a call may be twelve seconds on its way.
    let last = 100_000 - 10_000 - 12_000 - 1;
    for (after_ms, may) in [(0, true), (last, true), (last + 1, false), (1_000_000, false)] {
        let doubt = || stand("in doubt", forgetful.clone());
        let (_, effects) = doubt().step(Event::Woken, now(after_ms)).unwrap();
        assert_eq!(matches!(effects[0], Effect::Clear), may, "{after_ms}");
        let again = Call { send_by_ms: NOW + after_ms + 12_000, ..call(1) };
        assert_eq!(doubt().step(Event::Go(permit(), again.into()), now(after_ms)).is_ok(), may, "{after_ms}");
    }
}

#[test]
fn what_is_safe_to_repeat_is_repeated_only_as_often_as_it_is_retried() {
    let safe = Capabilities { repeat_safe: true, ..Capabilities::default() };
    let terms = Terms { capabilities: safe, ..terms() };
    let mut execution = stand("in doubt", terms);
    for _ in 0..MOST_RETRIES {
        let (next, effects) = execution.step(Event::Woken, now(1_000_000)).unwrap();
        assert!(matches!(effects[..], [Effect::Clear]));
        execution = next.step(Event::Go(permit(), call(1).into()), now(1_000_000)).unwrap().0;
        execution = execution.step(make("replied: lost"), now(1_000_000)).unwrap().0;
    }
    let (next, effects) = execution.step(Event::Woken, now(1_000_000)).unwrap();
    assert!(matches!(effects[..], [Effect::Wait { .. }]), "a person decides now");
    assert!(next.step(Event::Go(permit(), call(1).into()), now(1_000_000)).is_err());
}

#[test]
fn a_persons_word_is_the_last_one_whatever_retries_are_left() {
    let certain = Terms { retry: Some(policy()), ..terms() };
    let (execution, effects) = stand("in doubt", certain).step(make("resolved: failed"), now(0)).unwrap();
    assert_eq!((told(&execution).as_str(), effects.len()), ("failed resolved", 0));
    // What turns up after it is late, as after any last word.
    let (execution, effects) = execution.step(make("asked: confirmed"), now(0)).unwrap();
    assert_eq!(told(&execution) + word(&effects[0]), "completed + late effect");
}

#[test]
fn an_attempt_is_known_by_its_number_and_its_provider_key() {
    let with = |attempt, key: &str| Arc::new(Call { provider_key: key.to_owned(), ..call(attempt) });
    for (state, attempt, key, may) in [
        ("intended", 1, "key 1", true),
        ("intended", 1, "key 9", false),
        ("waiting", 2, "key 2", true),
        ("waiting", 2, "key 1", false),
        ("waiting", 3, "key 3", false),
        ("in doubt", 1, "key 1", true),
        ("in doubt", 1, "key 9", false),
        ("failed", 2, "key 1", false),
    ] {
        let stepped = stand(state, terms()).step(Event::Go(permit(), with(attempt, key)), now(0));
        assert_eq!(stepped.is_ok(), may, "{state}: attempt {attempt} with {key}");
    }
}

#[test]
fn nothing_is_sent_after_the_deadline() {
    let ends = Terms { deadline_ms: Some(NOW + 1000), ..terms() };
    let (execution, _) = stand("waiting", ends.clone()).step(Event::Woken, now(1000)).unwrap();
    assert_eq!(told(&execution), "failed deadline");
    assert!(stand("in doubt", ends.clone()).step(make("go: attempt 1"), now(1000)).is_err());
    // And whatever would only be due then is not waited for.
    let slow = RetryPolicy { initial_delay: Duration::from_secs(9), ..policy() };
    let ends = Terms { retry: Some(slow), ..ends };
    let (execution, _) =
        stand("sent", ends).step(make("replied: busy"), Now { ms: NOW, chance: 1000 }).unwrap();
    assert_eq!(told(&execution), "failed deadline");
}

proptest! {
    /// Whatever happens in whatever order: one call is under way at most, each on a permit of its own; another attempt
    /// follows on a certain absence, and the same one only where its provider recognises it; nothing else settles doubt.
    #[test]
    fn no_sequence_of_events_has_two_effects(
        picks in prop::collection::vec((0..EVENTS.len(), 0..40_000_i64), 0..60),
        able in 0..4_usize,
        checked: bool,
    ) {
        let terms = Terms { capabilities: abilities(able), flight_ms: 12_000, checked, ..terms() };
        let recognises = |first_ms: i64, at_ms: i64| terms.capabilities.may_repeat(first_ms, at_ms + 12_000);
        let mut execution = Execution::intended(call(1).into(), terms.clone());
        let (mut at_ms, mut under_way, mut permits, mut sent) = (0, false, 0, 0);
        // Attempts whose absence is certain; those that were sent, and when first.
        let (mut absent, mut first) = (0, None);
        for (pick, pause) in picks {
            at_ms += pause;
            let before = (execution.state().name(), execution.course(), execution.call().attempt);
            let event = match EVENTS[pick] {
                "go: attempt 2" => Event::Go(permit(), at(call(before.2 + 1), at_ms).into()),
                "go: attempt 1" => Event::Go(permit(), at(call(before.2), at_ms).into()),
                other => make(other),
            };
            // A reply comes only to what is under way, or late to a doubt that it can end.
            let (name, replied) = (event.name(), matches!(event, Event::Replied(_) | Event::Withheld(_)));
            if matches!(event, Event::Go(..)) {
                permits += 1;
            }
            let Ok((next, effects)) = execution.step(event, now(at_ms)) else {
                // What the ledger holds stands: whoever comes next recovers.
                let stood = match before.0 {
                    "sent" | "in doubt" => Stood::InDoubt,
                    "waiting" => Stood::Waiting { due_ms: NOW },
                    "challenged" => Stood::Challenged { until_ms: NOW + CHALLENGE_MS },
                    "failed" => Stood::Failed,
                    _ => return Ok(()),
                };
                under_way = false;
                execution = Execution::recover(at(call(before.2), at_ms), terms.clone(), before.1, stood);
                continue;
            };
            under_way &= !replied;
            for effect in effects {
                if let Effect::Invoke(call) = effect {
                    prop_assert!(!under_way, "two calls under way");
                    prop_assert!(before.0 != "checking", "what is confirmed is not sent again");
                    match call.attempt == before.2 && before.0 != "intended" {
                        true => prop_assert!(recognises(first.unwrap(), at_ms), "{name} at {at_ms}"),
                        false => {
                            prop_assert_eq!(call.attempt, absent + 1);
                            first = Some(NOW + at_ms);
                        }
                    }
                    (under_way, sent) = (true, sent + 1);
                }
            }
            if matches!(next.state().name(), "waiting" | "failed") && before.0 != "waiting" && before.0 != "failed" {
                let certain = matches!(name, "asked: absent for good" | "stopped" | "resolved: failed")
                    || (before.1.sends == 1 && name != "asked: unknown" && name != "asked: absent so far");
                prop_assert!(certain, "{name} in {before:?}");
                absent = next.call().attempt;
            }
            execution = next;
            if execution.state().name() == "completed" {
                break;
            }
        }
        prop_assert!(sent <= permits);
    }

    #[test]
    fn no_sequence_of_events_charges_what_is_set_aside_twice_or_too_late(
        picks in prop::collection::vec((0..EVENTS.len(), 0..40_000_i64, 1..4000_i64), 0..80),
        able in 0..4_usize,
    ) {
        let (flight_ms, hold_ms) = (12_000, Some(400_000));
        let terms = Terms { capabilities: abilities(able), flight_ms, hold_ms, ..terms() };
        let of = Reservation { money: usd(2500), until_ms: NOW + 400_000 };
        let course = Course { sends: 1, retries: 0, first_ms: NOW };
        let mut execution =
            Execution::recover(reserve(), terms.clone(), course, Stood::Reserved(of));
        // The capture whose fate is open, and how many there were.
        let (mut open, mut number, mut at_ms) = (None::<String>, 0, 0);
        let (mut under_way, mut freeing) = (false, false);
        for (pick, pause, minor) in picks {
            at_ms += pause;
            let before = (execution.state().name(), execution.course());
            let event = match EVENTS[pick] {
                "go: capture" | "go: capture 2" => {
                    number += 1;
                    let purpose = Purpose::Capture { reservation: None, of };
                    let call = Call { purpose, money: usd(minor), ..capture(number) };
                    Event::Go(permit(), at(call, at_ms).into())
                }
                "go: attempt 1" => Event::Go(permit(), at(Call::clone(execution.call()), at_ms).into()),
                "release" => {
                    let purpose = Purpose::Release { reservation: None, of };
                    Event::Undo(Call { purpose, ..release_call() }.into())
                }
                other => make(other),
            };
            let name = event.name();
            let replied = matches!(event, Event::Replied(_) | Event::Withheld(_));
            let call = Arc::clone(execution.call());
            let Ok((next, effects)) = execution.step(event, now(at_ms)) else {
                let (stood, undo) = match before.0 {
                    "sent" | "in doubt" => (Stood::InDoubt, None),
                    "reserved" => (Stood::Reserved(of), None),
                    "release failed" => (Stood::ReleaseFailed(of), None),
                    "releasing" | "freeing" => {
                        let purpose = Purpose::Release { reservation: None, of };
                        let call = Call { purpose, ..release_call() };
                        let undo = Undo { call: call.into(), sends: 1, first_ms: NOW };
                        (Stood::Releasing(of), Some(undo))
                    }
                    _ => return Ok(()),
                };
                (under_way, freeing) = (false, false);
                execution =
                    Execution::recover_undone(Call::clone(&call), terms.clone(), before.1, stood, undo);
                continue;
            };
            under_way &= !replied;
            freeing &= !name.starts_with("undone");
            for effect in effects {
                match effect {
                    Effect::Invoke(call) => {
                        prop_assert!(!under_way && !freeing, "two under way");
                        prop_assert!(open.is_none() || open.as_deref() == Some(&call.provider_key));
                        prop_assert!(call.money.unwrap().minor() <= 2500, "{:?}", call.money);
                        prop_assert!(call.send_by_ms < of.until_ms, "too late: {}", at_ms);
                        (under_way, open) = (true, Some(call.provider_key.clone()));
                    }
                    Effect::Retract(_) => {
                        prop_assert!(!under_way && !freeing && open.is_none(), "charged and set free");
                        freeing = true;
                    }
                    _ => {}
                }
            }
            if next.state().name() == "reserved" && open.is_some() {
                let certain = matches!(name, "asked: absent for good" | "resolved: failed")
                    || (before.1.sends == 1 && (name.starts_with("replied") || name.starts_with("withheld")));
                prop_assert!(certain, "{name} in {before:?}");
                open = None;
            }
            execution = next;
            if execution.state().is_settled() {
                // What is charged late is known to be so; what is set free was not charged before.
                prop_assert!(execution.state().name() == "completed" || open.is_none());
                break;
            }
        }
    }

    #[test]
    fn no_pause_is_longer_than_the_policy_allows(
        initial in 0..4000_u64, most in 0..90_000_u64, retries in 0..200_u32, chance: u64,
        backoff in prop_oneof![Just(Backoff::Fixed), Just(Backoff::Linear), Just(Backoff::Exponential)],
    ) {
        let (initial_delay, max_delay) = (Duration::from_secs(initial), Duration::from_secs(most.max(initial)));
        let policy = RetryPolicy { max_retries: 9, backoff, initial_delay, max_delay };
        let longest = longest_delay(&policy, retries);
        prop_assert!(delay(&policy, retries, chance) <= longest && longest <= max_delay);
        prop_assert!(longest >= initial_delay);
        prop_assert!(longest <= longest_delay(&policy, retries + 1));
        // Full jitter: from nothing to the longest.
        prop_assert_eq!(delay(&policy, retries, 0), Duration::ZERO);
        prop_assert_eq!(delay(&policy, retries, longest.as_millis() as u64), longest);
    }
}

#[test]
fn pauses_grow_as_their_word_says() {
    let grow = |backoff| {
        let policy = RetryPolicy {
            max_retries: 9,
            backoff,
            initial_delay: Duration::from_secs(2),
            max_delay: Duration::from_secs(60),
        };
        (0..6).map(|retries| longest_delay(&policy, retries).as_secs()).collect::<Vec<_>>()
    };
    assert_eq!(grow(Backoff::Fixed), [2, 2, 2, 2, 2, 2]);
    assert_eq!(grow(Backoff::Linear), [2, 4, 6, 8, 10, 12]);
    assert_eq!(grow(Backoff::Exponential), [2, 4, 8, 16, 32, 60]);
}

#[test]
fn every_open_state_has_a_way_out() {
    for able in 0..4 {
        for retry in [None, Some(policy())] {
            let terms = Terms { capabilities: abilities(able), retry, ..terms() };
            for state in
                STATES.into_iter().filter(|state| !["completed", "failed", "rolled back"].contains(state))
            {
                let leaves = |event: &&str| {
                    let stepped = stand(state, terms.clone()).step(make(event), now(0));
                    stepped.is_ok_and(|(next, _)| next.state().is_settled())
                };
                let is_set_free = || {
                    let mut path = ["release", "woken", "undone: confirmed"].into_iter();
                    let end = path.try_fold(stand(state, terms.clone()), |execution, event| {
                        execution.step(make(event), now(0)).ok().map(|(next, _)| next)
                    });
                    end.is_some_and(|execution| execution.state().is_settled())
                };
                let ends_by_itself = || {
                    let (next, effects) = stand(state, terms.clone()).step(Event::Woken, now(0)).unwrap();
                    next.state().name() == "reserved" && matches!(effects[..], [Effect::Release])
                };
                assert!(
                    EVENTS.iter().any(leaves) || is_set_free() || ends_by_itself(),
                    "{state} with {terms:?}"
                );
            }
        }
    }
}

/// Where nothing is under way any more and nothing comes by itself, what people say is all there is.
#[test]
fn where_nothing_goes_on_by_itself_a_persons_word_ends_it() {
    let words: Vec<&str> = EVENTS.into_iter().filter(|event| event.starts_with("resolved")).collect();
    let accepted = |state: &str| {
        let ends = |word: &&str| {
            let stepped = stand(state, terms()).step(make(word), now(0));
            stepped.is_ok_and(|(next, effects)| next.state().is_settled() && effects.is_empty())
        };
        words.iter().copied().filter(ends).collect::<Vec<_>>()
    };
    for (state, expected) in [
        ("in doubt", &["resolved: executed", "resolved: failed"][..]),
        ("rollback failed", &["resolved: executed", "resolved: rolled back"]),
        ("release failed", &["resolved: executed", "resolved: released"]),
        ("unchecked", &["resolved: executed"]),
    ] {
        assert_eq!(accepted(state), expected, "{state}");
    }
    let by_word: Vec<&str> = STATES.into_iter().filter(|state| !accepted(state).is_empty()).collect();
    assert_eq!(
        by_word,
        ["in doubt", "unchecked", "rollback failed", "reserve in doubt", "charge in doubt", "release failed"]
    );
}

/// Whatever a provider goes on to answer, what we go on to send and to ask has an end.
#[test]
fn nothing_but_a_doubt_is_gone_on_with_for_ever() {
    let answers =
        |prefix: &str| EVENTS.into_iter().filter(|event| event.starts_with(prefix)).collect::<Vec<_>>();
    for (start, under_way, prefix) in [
        ("releasing", "freeing", "undone"),
        ("rolling back", "undoing", "undone"),
        ("checking", "checking", "untold"),
    ] {
        for answer in answers(prefix) {
            let (mut execution, mut steps) = (stand(start, terms()), 0);
            while execution.state().name() == start {
                let (sent, _) = execution.step(Event::Woken, now(0)).unwrap();
                assert_eq!(sent.state().name(), under_way);
                execution = sent.step(make(answer), now(0)).unwrap().0;
                steps += 1;
                assert!(steps < 1000, "{start} goes on for ever: {answer}");
            }
        }
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
fn a_reference_names_one_attempt_of_the_action_that_its_key_asks_for() {
    let key = HmacKey::new(&[7; 32]);
    let alias = Alias::new(&key, [3; 16]);
    assert_eq!(alias, Alias::new(&key, [3; 16]), "whoever asks again under the same key");
    assert_ne!(alias, Alias::new(&HmacKey::new(&[8; 32]), [3; 16]), "nobody else makes it");
    assert_eq!(alias.claim(&key), [3; 16]);
    let request = [5; 32];
    assert_ne!(reference(alias, &request, 1), reference(alias, &request, 2));
    assert_ne!(
        reference(alias, &request, 1),
        reference(alias, &[6; 32], 1),
        "something else under the same key"
    );
    let twelfth = reference(alias, &request, 12);
    let named = Some(Named { action: Whose::Alias(alias), attempt: 12 });
    for name in [twelfth.clone(), capture_reference(&twelfth, 3), release_reference(&twelfth)] {
        assert_eq!(Named::parse(&name), named, "{name}");
        assert_eq!(Whose::parse(&name), Some(Whose::Alias(alias)), "{name}");
    }
    let rollback = rollback_reference(&twelfth);
    assert_eq!((Named::parse(&rollback), Whose::parse(&rollback)), (None, Some(Whose::Alias(alias))));
    assert_eq!(twelfth.strip_suffix("-12").map(Whose::parse), Some(Some(Whose::Alias(alias))));
    // Those of before.
    let id = call(1).action_id;
    assert_eq!(Named::parse(&format!("{id}-12")), Some(Named { action: Whose::Id(id), attempt: 12 }));
    assert_eq!(Whose::parse(&id.to_string()), Some(Whose::Id(id)));
}

#[test]
fn what_is_no_reference_names_nothing() {
    let (id, alias) = (call(1).action_id.to_string(), "0123456789abcdef0123456789abcdef01234567".to_owned());
    for action in [id, alias] {
        for tail in
            ["", "-", "-01", "-0", "-1-capture-", "-1-capture-01", "-1-capture-1-capture-1", "-capture-1"]
        {
            assert_eq!(Named::parse(&format!("{action}{tail}")), None, "{action}{tail}");
        }
        assert_eq!(Named::parse(&format!("{action}-1-capture-3-release")), None);
        assert_eq!(Whose::parse(&format!("{action}-x")), None);
        assert_eq!(Whose::parse(&action.to_uppercase()), None);
    }
    for other in ["", "-1", "12", "0123456789abcdef0123456789abcdef-1"] {
        assert_eq!((Named::parse(other), Whose::parse(other)), (None, None), "{other}");
    }
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
        challenge: None,
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
    let call = call(1);
    let queryable = Queryable { by_our_reference: true, final_after: Duration::from_millis(1500) };
    let able = Capabilities { queryable: Some(queryable), ..Capabilities::default() };
    assert!(!able.absence_is_final(&call, call.send_by_ms));
    assert!(!able.absence_is_final(&call, call.send_by_ms + 1499));
    assert!(able.absence_is_final(&call, call.send_by_ms + 1500));
    assert!(!Capabilities::default().absence_is_final(&call, i64::MAX), "who cannot be asked cannot say so");
    let payer = Capabilities { challenge: Some(Duration::from_secs(900)), ..able };
    assert!(!payer.absence_is_final(&call, call.send_by_ms + 901_499), "a payer may still confirm it");
    assert!(payer.absence_is_final(&call, call.send_by_ms + 901_500));
    let never = Queryable { by_our_reference: true, final_after: Duration::MAX };
    let able = Capabilities { queryable: Some(never), ..Capabilities::default() };
    assert!(!able.absence_is_final(&call, i64::MAX));
}

const NOW: i64 = 1_760_000_000_000;
const MOST_RETRIES: u32 = 2;
/// How long a payer has.
const CHALLENGE_MS: i64 = 600_000;

/// How often it is tried slowly, once retries are used up.
const SLOWLY: usize = 60;

const HOLD_MS: Option<i64> = Some(100_000);

const STATES: [&str; 25] = [
    "intended",
    "sent",
    "sent again",
    "waiting",
    "in doubt",
    "challenged",
    "checking",
    "unchecked",
    "completed",
    "failed",
    "rolling back",
    "undoing",
    "rolled back",
    "rollback failed",
    "reserve sent",
    "reserve in doubt",
    "reserve failed",
    "reserved",
    "expired",
    "charging",
    "charge in doubt",
    "uncharged",
    "releasing",
    "freeing",
    "release failed",
];

const EVENTS: [&str; 35] = [
    "go: attempt 1",
    "go: attempt 2",
    "go: reserve",
    "go: reserve 2",
    "go: capture",
    "go: capture 2",
    "go: too much",
    "release",
    "stopped",
    "withheld: deadline",
    "withheld: window",
    "replied: confirmed",
    "replied: refused",
    "replied: busy",
    "replied: not sent",
    "replied: lost",
    "replied: challenged",
    "asked: confirmed",
    "asked: absent for good",
    "asked: absent so far",
    "asked: unknown",
    "woken",
    "held",
    "untold",
    "undo",
    "undone: confirmed",
    "undone: refused",
    "undone: busy",
    "undone: not sent",
    "undone: lost",
    "undone: challenged",
    "resolved: executed",
    "resolved: failed",
    "resolved: released",
    "resolved: rolled back",
];

fn stand(state: &str, terms: Terms) -> Execution {
    let intended = Execution::intended(call(1).into(), terms.clone());
    let course = Course { sends: 1, retries: 0, first_ms: NOW };
    let recovered = |stood| Execution::recover(call(1), terms.clone(), course, stood);
    let go = |execution: Execution| execution.step(Event::Go(permit(), call(1).into()), now(0)).unwrap().0;
    match state {
        "intended" => intended,
        "sent" => go(intended),
        "sent again" => {
            // As it is on record: whether this provider would let it be sent again is not asked here.
            let challenge = terms.capabilities.challenge;
            let safe = Capabilities { repeat_safe: true, challenge, ..Capabilities::default() };
            let once = Terms { capabilities: safe, retry: Some(policy()), ..terms.clone() };
            go(Execution::recover(call(1), once, course, Stood::InDoubt))
        }
        "waiting" => recovered(Stood::Waiting { due_ms: NOW }),
        "checking" => Execution::recover_checking(call(1), terms, course, Confirmation::default(), 0),
        "unchecked" => Execution::recover_unchecked(call(1), terms, course, Confirmation::default()),
        "in doubt" => recovered(Stood::InDoubt),
        "challenged" => recovered(Stood::Challenged { until_ms: NOW + CHALLENGE_MS }),
        "rolling back" | "undoing" | "rolled back" | "rollback failed" => {
            let stood = if state == "rollback failed" { Stood::RollbackFailed } else { Stood::RollingBack };
            let resting = Execution::recover_undone(call(1), terms.clone(), course, stood, Some(undo()));
            match state {
                "undoing" => resting.step(Event::Woken, now(0)).unwrap().0,
                "rolled back" => resting.step(make("undone: confirmed"), now(0)).unwrap().0,
                _ => resting,
            }
        }
        "reserve sent" => {
            Execution::intended(reserve().into(), terms.clone()).step(make("go: reserve"), now(0)).unwrap().0
        }
        "reserve in doubt" => Execution::recover(reserve(), terms, course, Stood::InDoubt),
        "reserve failed" => Execution::recover(reserve(), terms, course, Stood::Failed),
        "reserved" => Execution::recover(reserve(), terms, course, Stood::Reserved(held())),
        "expired" => {
            let over = Reservation { until_ms: NOW, ..held() };
            Execution::recover(reserve(), terms, course, Stood::Reserved(over))
        }
        "charging" => stand("reserved", terms).step(make("go: capture"), now(0)).unwrap().0,
        "charge in doubt" => Execution::recover(capture(1), terms, course, Stood::InDoubt),
        "uncharged" => stand("charging", terms).step(make("replied: busy"), now(0)).unwrap().0,
        "releasing" => {
            let undo = Undo { call: release_call().into(), sends: 0, first_ms: NOW };
            Execution::recover_undone(reserve(), terms, course, Stood::Releasing(held()), Some(undo))
        }
        "release failed" => Execution::recover(reserve(), terms, course, Stood::ReleaseFailed(held())),
        "freeing" => stand("releasing", terms).step(Event::Woken, now(0)).unwrap().0,
        "completed" => recovered(Stood::InDoubt).step(make("replied: confirmed"), now(0)).unwrap().0,
        _ => recovered(Stood::Failed),
    }
}

fn make(event: &str) -> Event {
    let why = || "a test".to_owned();
    match event {
        "go: attempt 1" => Event::Go(permit(), call(1).into()),
        "go: attempt 2" => Event::Go(permit(), call(2).into()),
        "go: reserve" => Event::Go(permit(), reserve().into()),
        "go: reserve 2" => {
            Event::Go(permit(), Call { purpose: Purpose::Reserve, money: usd(2500), ..call(2) }.into())
        }
        "go: capture" => Event::Go(permit(), capture(1).into()),
        "go: capture 2" => Event::Go(permit(), capture(2).into()),
        "go: too much" => Event::Go(permit(), Call { money: usd(2501), ..capture(3) }.into()),
        "release" => Event::Undo(release_call().into()),
        "stopped" => Event::Stopped(Stop { code: "EP_FROZEN", reasons: Vec::new() }),
        "withheld: deadline" => Event::Withheld(Withheld::Deadline),
        "withheld: window" => Event::Withheld(Withheld::Window),
        "replied: confirmed" => Event::Replied(Reply::Confirmed(Confirmation::default())),
        "replied: refused" => Event::Replied(Reply::Refused(Refusal::default())),
        "replied: busy" => Event::Replied(Reply::Refused(Refusal { transient: true, ..Refusal::default() })),
        "replied: not sent" => Event::Replied(Reply::NotSent { why: why() }),
        "replied: lost" => Event::Replied(Reply::Lost { how: Doubt::NoAnswer, why: why() }),
        "replied: challenged" => Event::Replied(Reply::Challenged(challenge())),
        "asked: confirmed" => Event::Asked(Found::Confirmed(Confirmation::default())),
        "asked: absent for good" => Event::Asked(Found::Absent { final_: true }),
        "asked: absent so far" => Event::Asked(Found::Absent { final_: false }),
        "asked: unknown" => Event::Asked(Found::Unknown),
        "held" => Event::Held,
        "untold" => Event::Untold,
        "undo" => Event::Undo(undo().call),
        "undone: confirmed" => Event::Undone(Reply::Confirmed(Confirmation::default())),
        "undone: refused" => Event::Undone(Reply::Refused(Refusal::default())),
        "undone: busy" => Event::Undone(Reply::Refused(Refusal { transient: true, ..Refusal::default() })),
        "undone: not sent" => Event::Undone(Reply::NotSent { why: why() }),
        "undone: lost" => Event::Undone(Reply::Lost { how: Doubt::NoAnswer, why: why() }),
        "undone: challenged" => Event::Undone(Reply::Challenged(challenge())),
        "resolved: executed" => Event::Resolved(Resolution::Executed(Confirmation::default())),
        "resolved: failed" => Event::Resolved(Resolution::Failed),
        "resolved: released" => Event::Resolved(Resolution::Released),
        "resolved: rolled back" => Event::Resolved(Resolution::RolledBack(Confirmation::default())),
        _ => Event::Woken,
    }
}

fn challenge() -> Challenge {
    Challenge { url: "https://pay.example/1".to_owned(), until_ms: NOW + CHALLENGE_MS }
}

/// What undoes the effect, and was not sent yet.
fn undo() -> Undo {
    let call = Call { provider_key: "undo".to_owned(), ..call(1) };
    Undo { call: call.into(), sends: 0, first_ms: NOW }
}

fn told(execution: &Execution) -> String {
    let how = match execution.state() {
        State::Failed(Absence::Refused(_)) => " refused",
        State::Failed(Absence::NotSent { .. }) => " not sent",
        State::Failed(Absence::Withheld) => " withheld",
        State::Failed(Absence::Final) => " absent",
        State::Failed(Absence::Deadline) => " deadline",
        State::Failed(Absence::Stopped(_)) => " stopped",
        State::Failed(Absence::Resolved) => " resolved",
        State::Failed(Absence::OnRecord) => " on record",
        State::Failed(Absence::Released) => " released",
        _ => "",
    };
    format!("{}{how}", execution.state().name())
}

fn word(effect: &Effect) -> &'static str {
    match effect {
        Effect::Invoke(_) => " + invoke",
        Effect::Inquire(_) => " + inquire",
        Effect::Clear => " + clear",
        Effect::Wait { .. } => " + wait",
        Effect::LateEffect => " + late effect",
        Effect::Present(_) => " + present",
        Effect::Check(_) => " + check",
        Effect::Retract(_) => " + retract",
        Effect::Alarm => " + alarm",
        Effect::Release => " + release",
    }
}

fn now(after_ms: i64) -> Now {
    Now { ms: NOW + after_ms, chance: 0 }
}

fn at(call: Call, after_ms: i64) -> Call {
    Call { send_by_ms: NOW + after_ms + 12_000, ..call }
}

fn policy() -> RetryPolicy {
    RetryPolicy { max_retries: MOST_RETRIES, ..RetryPolicy::USUAL }
}

fn terms() -> Terms {
    Terms {
        capabilities: abilities(3),
        retry: Some(policy()),
        deadline_ms: None,
        flight_ms: 0,
        checked: false,
        hold_ms: HOLD_MS,
    }
}

/// Safe to repeat; recognises repeats for a while; can be asked; the last two.
fn abilities(which: usize) -> Capabilities {
    let idempotent = Some(Idempotent { retention: Duration::from_secs(100) });
    let queryable = Some(Queryable { by_our_reference: true, final_after: Duration::from_secs(30) });
    let none = Capabilities { challenge: Some(Duration::from_secs(600)), ..Capabilities::default() };
    match which {
        0 => Capabilities { repeat_safe: true, ..none },
        1 => Capabilities { idempotent, ..none },
        2 => Capabilities { queryable, ..none },
        _ => Capabilities { idempotent, queryable, ..none },
    }
}

/// What the provider has set aside.
fn held() -> Reservation {
    Reservation { money: usd(2500), until_ms: NOW + 100_000 }
}

fn reserve() -> Call {
    Call { purpose: Purpose::Reserve, money: usd(2500), ..call(1) }
}

fn capture(number: u32) -> Call {
    let purpose = Purpose::Capture { reservation: Some("res".to_owned()), of: held() };
    Call { provider_key: format!("capture {number}"), purpose, money: usd(1000), ..call(1) }
}

fn release_call() -> Call {
    let purpose = Purpose::Release { reservation: Some("res".to_owned()), of: held() };
    Call { provider_key: "release".to_owned(), purpose, ..call(1) }
}

fn usd(minor: i64) -> Option<Money> {
    Money::new(minor, Currency::of("USD").unwrap())
}

fn call(attempt: u32) -> Call {
    let action_id = ActionId::new(1_760_000_000_000, *b"0123456789");
    Call {
        action_id,
        tenant: Tenant::default(),
        environment: Environment::Production,
        archetype: archetype(),
        constraints: serde_json::json!({ "topic": "x" }),
        money: None,
        attempt,
        provider_key: format!("key {attempt}"),
        reference: format!("{action_id}-{attempt}"),
        send_by_ms: NOW,
        purpose: Purpose::Act,
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
    static LOADED: std::sync::OnceLock<(Catalogue, Policies)> = std::sync::OnceLock::new();
    let (catalogue, policies) = LOADED.get_or_init(|| {
        let catalogue = catalogue();
        let policies = Policies::load(&[Policies::sandbox()], &[], &[], &catalogue).unwrap();
        (catalogue, policies)
    });
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
        ancestors: &[],
        frozen: None,
        quarantined: None,
        series: &Series::default(),
        first_seen_destination: false,
        earlier: None,
        charges: None,
        approved: None,
        cycle: None,
        observe: false,
        now_ms: 1_760_000_000_000,
        request_hash: [1; 32],
        salt: [2; 32],
    };
    match boundary::decide(policies, &facts).verdict {
        Verdict::Pass(permit) => permit,
        other => panic!("not passed: {other:?}"),
    }
}
