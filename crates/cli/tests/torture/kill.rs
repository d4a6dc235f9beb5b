//! `kill -9` at any moment: what was acknowledged is stored, what is stored as done has exactly one effect at the bank,
//! and every effect at the bank is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use action::Tenant;
use ledger::{Filter, Ledger, Sqlite, State, Stored};
use receipt::{Document, Event, Jwks, Verdict};
use serde_json::Value;
use testkit::bank::{self, Bank, Fault, Injection};
use tokio::time::sleep;

use crate::house::{House, Plan, Said, Voice, payment, verdict};

const ROUNDS: usize = 20;
const CLIENTS: usize = 16;

/// One thing a client wants, and everything it heard about it.
struct Wish {
    key: String,
    body: Value,
    heard: Vec<Said>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_nothing_and_sends_nothing_twice() {
    let plan = Plan {
        config: "[limits]\nrecovery_interval_ms = 50\n[sandbox]\nenabled = false\n".into(),
        ..Plan::default()
    };
    let mut house = House::with(plan).await;
    let token: Arc<str> = house.token("default").into();
    let mut wishes: Vec<Wish> = Vec::new();
    let mut open: Vec<Wish> = Vec::new();
    for round in 0..ROUNDS {
        go_wrong(&house.bank, round);
        let mut unheard: Vec<Vec<Wish>> = (0..CLIENTS).map(|_| Vec::new()).collect();
        for (n, wish) in open.drain(..).enumerate() {
            unheard[n % CLIENTS].push(wish);
        }
        let clients: Vec<_> = unheard
            .into_iter()
            .enumerate()
            .map(|(client, unheard)| tokio::spawn(want(house.agent(), token.clone(), round, client, unheard)))
            .collect();
        sleep(Duration::from_millis(120 + (round as u64 * 83) % 310)).await;
        house.gateway.kill();
        for (client, told) in clients.into_iter().enumerate() {
            for wish in told.await.unwrap() {
                // Every other client repeats what it heard nothing final about; the rest never come back.
                let repeats = client % 2 == 0 && !wish.heard.last().is_some_and(is_final);
                if repeats { open.push(wish) } else { wishes.push(wish) }
            }
        }
        house.start();
    }
    wishes.append(&mut open);
    let jwks = house.jwks().await;
    let store = settled(&mut house).await;
    let stored = everything(&store).await;
    assert!(stored.len() > ROUNDS * CLIENTS, "there was load: {}", stored.len());

    store.verify().await.expect("the chain holds");
    effects_are_what_is_stored(&house.bank, &stored);
    what_was_acknowledged_stands(&wishes, &stored);
    receipts_prove_it(&store, &stored, &jwks).await;
    the_mandate_was_charged_once(&house, &store, &stored).await;
}

/// Lost, late and broken answers in three rounds of four.
fn go_wrong(bank: &Bank, round: usize) {
    let faults = match round % 4 {
        0 => vec![],
        1 => vec![Fault::LostAfterEffect, Fault::LostBeforeEffect, Fault::ErrorAfterEffect],
        2 => vec![Fault::Late { ms: 150 }, Fault::DelayAnswer { ms: 120 }, Fault::DelayEffect { ms: 90 }],
        _ => vec![Fault::MalformedBody, Fault::ErrorBeforeEffect, Fault::DelayAnswer { ms: 400 }],
    };
    for fault in faults {
        bank.inject(Injection::payments(fault, 2));
        bank.inject(Injection::payments(Fault::None, 5));
    }
    if round % 4 == 3 {
        bank.inject(Injection::queries(Fault::LostBeforeEffect, 2));
    }
}

/// A client at work until the gateway is gone: first what it never heard about, then ever new payments.
async fn want(voice: Voice, token: Arc<str>, round: usize, client: usize, unheard: Vec<Wish>) -> Vec<Wish> {
    let mut told = Vec::new();
    let mut gone = false;
    for mut wish in unheard {
        if !gone {
            gone = !hear(&voice, &mut wish).await;
        }
        told.push(wish);
    }
    for n in 0.. {
        if gone {
            break;
        }
        let key = format!("r{round}-c{client}-{n}");
        // Of all sizes at all times: a sum unlike those before it would be stopped as an anomaly.
        let cents = 100 + (client * 61 + n * 37) % 200;
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        let mut wish = Wish { body: payment(&key, &amount, &token), key, heard: Vec::new() };
        gone = !hear(&voice, &mut wish).await;
        told.push(wish);
    }
    told
}

/// Whether there was an answer at all.
async fn hear(voice: &Voice, wish: &mut Wish) -> bool {
    let Ok(said) = voice.try_execute(&wish.key, &wish.body).await else { return false };
    match said.status {
        200 | 202 | 502 => wish.heard.push(said),
        409 if said.code() == "EP_IDEMPOTENCY_IN_FLIGHT" => {}
        _ => panic!("{} answered {}: {}", wish.key, said.status, said.text()),
    }
    true
}

fn is_final(said: &Said) -> bool {
    matches!(said.kind(), "executed" | "failed")
}

/// Waits until nothing is unsettled any more, and opens the store.
async fn settled(house: &mut House) -> Sqlite {
    let began = Instant::now();
    loop {
        // Absence is final one second after the last moment at which a call could have left.
        sleep(Duration::from_secs(5)).await;
        house.gateway.stop();
        let store = house.store().await;
        let unsettled = store.unsettled(None, 100).await.unwrap().rows;
        if unsettled.is_empty() {
            return store;
        }
        assert!(
            began.elapsed() < Duration::from_secs(25),
            "{} are never settled: {unsettled:?}",
            unsettled.len()
        );
        drop(store);
        house.start();
    }
}

async fn everything(store: &Sqlite) -> BTreeMap<String, Stored> {
    let (mut all, mut after) = (BTreeMap::new(), None);
    loop {
        let page = store.actions(&Tenant::default(), Filter::default(), after, 500).await.unwrap();
        for stored in page.rows {
            let key = stored.key.clone().unwrap().into_string();
            assert!(all.insert(key, stored).is_none(), "one action for each key");
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

fn effects_are_what_is_stored(bank: &Bank, stored: &BTreeMap<String, Stored>) {
    let effects = bank.effects();
    for (what, counts) in [("reference", &effects.by_reference), ("provider key", &effects.by_key)] {
        for (name, count) in counts {
            assert_eq!(*count, 1, "two effects for {what} {name}");
        }
    }
    let executed: BTreeSet<String> = stored
        .values()
        .filter(|it| it.state == State::Executed)
        .filter_map(|it| bank::reference_in(&it.payload))
        .collect();
    let paid: BTreeSet<String> = effects.by_reference.keys().cloned().collect();
    let lost: Vec<_> = paid.difference(&executed).collect();
    let invented: Vec<_> = executed.difference(&paid).collect();
    assert!(lost.is_empty(), "effects that nobody knows: {lost:?}");
    assert!(invented.is_empty(), "executed without an effect: {invented:?}");
    assert_eq!(effects.count as usize, executed.len());
    for it in stored.values() {
        assert!(matches!(it.state, State::Executed | State::Failed), "{} is {}", it.id, it.state);
    }
}

fn what_was_acknowledged_stands(wishes: &[Wish], stored: &BTreeMap<String, Stored>) {
    let mut acknowledged = 0;
    for Wish { key, heard, .. } in wishes {
        let Some(last) = heard.last() else { continue };
        let it = stored.get(key).unwrap_or_else(|| panic!("{key} was answered and is not stored"));
        let ids: BTreeSet<&str> = heard.iter().map(Said::id).collect();
        assert_eq!(ids, BTreeSet::from([it.id.to_string().as_str()]), "{key} is one action for ever");
        let reply = it.reply.as_ref().unwrap();
        let finals: Vec<&Said> = heard.iter().filter(|said| is_final(said)).collect();
        for said in &finals {
            assert_eq!(
                (said.status, &said.bytes),
                (reply.status, &reply.body),
                "{key}: a final answer never changes"
            );
        }
        match last.kind() {
            "executed" => assert_eq!(it.state, State::Executed, "{key}"),
            "failed" => assert_eq!(it.state, State::Failed, "{key}"),
            kind => assert_eq!(kind, "pending_settlement", "{key}"),
        }
        acknowledged += usize::from(!finals.is_empty());
    }
    assert!(acknowledged > ROUNDS, "there were acknowledgements: {acknowledged}");
}

/// Every action has one original; what was in doubt has one amendment that names it.
async fn receipts_prove_it(store: &Sqlite, stored: &BTreeMap<String, Stored>, jwks: &Jwks) {
    let mut doubts = 0;
    for it in stored.values() {
        let outcomes = store.outcomes(&it.tenant, it.id).await.unwrap();
        let documents: Vec<Vec<u8>> = outcomes
            .into_iter()
            .filter_map(|outcome| outcome.receipt)
            .map(|receipt| receipt.document)
            .collect();
        let mut original = None;
        for (n, document) in documents.iter().enumerate() {
            assert_eq!(verdict(document, jwks), Verdict::Valid, "receipt {n} of {}", it.id);
            let read = Document::parse(std::str::from_utf8(document).unwrap()).unwrap();
            assert_eq!(read.content.transaction_id, it.id.to_string());
            match &read.content.event {
                Event::Original => {
                    assert_eq!(n, 0, "{} has one original, and it comes first", it.id);
                    original = Some(read.content.receipt_id.to_string());
                }
                Event::Amendment { of, .. } => {
                    assert_eq!(Some(of.to_string()), original, "amends the original of {}", it.id)
                }
            }
        }
        assert!((1..=2).contains(&documents.len()), "{} has {} receipts", it.id, documents.len());
        doubts += usize::from(documents.len() == 2);
    }
    assert!(doubts > ROUNDS, "there was doubt: {doubts} of {}", stored.len());
}

async fn the_mandate_was_charged_once(house: &House, store: &Sqlite, stored: &BTreeMap<String, Stored>) {
    let jti = stored.values().next().unwrap().mandates[0].clone();
    let held = store.mandate(&Tenant::default(), &jti).await.unwrap().unwrap();
    let paid: i64 = 100_000_000 - house.bank.balance(testkit::bank::OPERATING).unwrap();
    assert_eq!(held.account.spent_minor, paid, "the mandate is charged what the bank paid");
}
