//! Many at once: caps, keys, effects, freezes and revocations hold whoever comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger::Ledger;
use serde_json::{Value, json};
use testkit::bank::{Fault, Injection};
use tokio::time::sleep;

use crate::house::{House, Said, Voice, payment};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_never_spend_more_than_the_cap() {
    let house = House::new().await;
    let token = house.mandate("default", "100.00").await;
    let asks = (0..200).map(|n| (format!("k{n}"), payment(&format!("acct-{n}"), "10.00", &token)));
    let heard = all_at_once(&house.agent(), asks).await;
    let executed = heard.iter().filter(|said| said.kind() == "executed").count();
    assert_eq!(executed, 10);
    for said in heard.iter().filter(|said| said.kind() != "executed") {
        assert_eq!(
            (said.status, said.kind(), said.code()),
            (403, "blocked", "EP_DELEGATION_BLOCK"),
            "{}",
            said.text()
        );
    }
    assert_eq!(house.bank.effects().count, 10);
    assert_eq!(paid(&house), 10_000, "the bank paid the cap and no cent more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_with_one_key_have_one_effect_and_hear_the_same_bytes() {
    let house = House::new().await;
    let body = house.payment("acct-1", "10.00");
    let clients: Vec<_> = (0..50)
        .map(|n| {
            let (voice, body) = (house.agent(), body.clone());
            // Bare or quoted, it is one key.
            let key = if n % 2 == 0 { "one" } else { "\"one\"" };
            tokio::spawn(async move { voice.insist(key, &body).await })
        })
        .collect();
    let mut bodies: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut first = 0;
    for client in clients {
        let said = client.await.unwrap();
        assert_eq!((said.status, said.kind()), (200, "executed"), "{}", said.text());
        first += usize::from(!said.replayed());
        *bodies.entry(said.bytes).or_default() += 1;
    }
    assert_eq!(bodies.into_values().collect::<Vec<_>>(), [50], "identical bytes");
    assert_eq!(first, 1, "all but one are told that it is a repetition");
    assert_eq!(house.bank.effects().count, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_keys_for_one_effect_one_passes() {
    let house = House::new().await;
    let body = house.payment("acct-1", "10.00");
    let heard = all_at_once(&house.agent(), (0..30).map(|n| (format!("k{n}"), body.clone()))).await;
    let kinds: BTreeMap<&str, usize> = heard.iter().fold(BTreeMap::new(), |mut kinds, said| {
        *kinds.entry(said.kind()).or_default() += 1;
        kinds
    });
    assert_eq!(kinds, BTreeMap::from([("executed", 1), ("held", 29)]));
    assert_eq!(house.bank.effects().count, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_and_a_revocation_that_were_acknowledged_always_win() {
    let mut house = House::new().await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|n| tokio::spawn(keep_paying(house.agent(), house.token("default").to_owned(), n, stop.clone())))
        .collect();
    let admin = house.admin();
    sleep(Duration::from_millis(250)).await;
    let frozen = change(&admin, "/v1/freeze", &json!({"scope": "tenant"})).await.1;
    sleep(Duration::from_millis(150)).await;
    let (thawing, _) = change(&admin, "/v1/thaw", &json!({"scope": "tenant"})).await;
    sleep(Duration::from_millis(250)).await;
    let mandates = admin.get("/v1/mandates").await.body;
    let jti = mandates["items"][0]["jti"].as_str().unwrap().to_owned();
    let revoked = change(&admin, &format!("/v1/mandates/{jti}/revoke"), &json!({"reason": "drill"})).await.1;
    sleep(Duration::from_millis(150)).await;
    stop.store(true, Ordering::Relaxed);

    let mut counts = [0; 4];
    for client in clients {
        for (began, ended, said) in client.await.unwrap() {
            let expected = if began > revoked {
                Some((3, "EP_DELEGATION_BLOCK"))
            } else if began > frozen && ended < thawing {
                Some((1, "EP_FROZEN"))
            } else {
                None
            };
            match expected {
                Some((n, code)) => {
                    assert_eq!((said.status, said.code()), (403, code), "{}", said.text());
                    counts[n] += 1;
                }
                None if said.kind() == "executed" => counts[if began < frozen { 0 } else { 2 }] += 1,
                None => assert_eq!(said.kind(), "blocked", "{}", said.text()),
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 0), "there was load in every phase: {counts:?}");

    // Requests under way at the moment of the acknowledgement do not show outside what came first; the ledger does.
    house.gateway.stop();
    let store = house.store().await;
    let events: Vec<String> = events(&store).await;
    let at = |event: &str| events.iter().position(|it| it == event).unwrap_or_else(|| panic!("no {event}"));
    let admitted = |from: usize, to: usize| events[from..to].iter().filter(|it| *it == "admitted").count();
    assert_eq!(admitted(at("frozen"), at("thawed")), 0, "nothing was admitted while frozen");
    assert_eq!(admitted(at("mandate_revoked"), events.len()), 0, "nothing was admitted after the revocation");
    assert_eq!(admitted(0, events.len()) as u64, house.bank.effects().count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_mandate_is_worth_nothing() {
    let house = House::new().await;
    for (tenant, token) in [("other", house.token("default")), ("default", house.token("other"))] {
        for who in ["agent", "rival"] {
            let said = house.voice(tenant, who).execute("k", &payment("acct-1", "10.00", token)).await;
            assert_eq!((said.status, said.code()), (403, "EP_DELEGATION_BLOCK"), "{}", said.text());
        }
    }
    // Nor is one of the sandbox worth anything in production, nor the other way round.
    let body = json!({"subject": "default-agent", "scope": ["Payments"], "expires_in_seconds": 600});
    let sandboxed = house.voice("default", "operator").post("/sandbox/v1/mandates", &body).await;
    let token = sandboxed.body["token"].as_str().unwrap();
    let said = house.agent().execute("k2", &payment("acct-2", "10.00", token)).await;
    assert_eq!(said.code(), "EP_DELEGATION_BLOCK", "{}", said.text());
    let said = house.agent().post("/api/sandbox/execute", &house.payment("acct-3", "10.00")).await;
    assert_eq!(said.code(), "EP_DELEGATION_BLOCK", "{}", said.text());
    assert_eq!(house.bank.effects().count, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_of_actions_is_a_limit_too_and_a_revocation_names_what_is_under_way() {
    let house = House::new().await;
    let ask = json!({"subject": "default-agent", "scope": ["Payments"], "expires_in_seconds": 600, "max_actions": 5});
    let issued = house.voice("default", "operator").post("/v1/mandates", &ask).await.body;
    let token = issued["token"].as_str().unwrap();
    let asks = (0..40).map(|n| (format!("k{n}"), payment(&format!("acct-{n}"), "10.00", token)));
    let heard = all_at_once(&house.agent(), asks).await;
    assert_eq!(heard.iter().filter(|said| said.kind() == "executed").count(), 5);
    assert_eq!(house.bank.effects().count, 5);

    house.bank.inject(Injection::payments(Fault::DelayAnswer { ms: 800 }, 3));
    let slow: Vec<_> = (0..3)
        .map(|n| {
            let (voice, body) = (house.agent(), house.payment(&format!("slow-{n}"), "10.00"));
            tokio::spawn(async move { voice.execute(&format!("slow-{n}"), &body).await })
        })
        .collect();
    sleep(Duration::from_millis(300)).await;
    let mandates = house.admin().get("/v1/mandates").await.body;
    let items = mandates["items"].as_array().unwrap();
    let jti = items.iter().find(|it| it["max_actions"].is_null()).unwrap()["jti"].as_str().unwrap();
    let revoked = house.admin().post(&format!("/v1/mandates/{jti}/revoke"), &json!({})).await;
    let unsettled: BTreeSet<&str> =
        revoked.body["unsettled"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let mut under_way = BTreeSet::new();
    for slow in slow {
        let said = slow.await.unwrap();
        assert_eq!(said.kind(), "executed", "what was admitted before goes its way: {}", said.text());
        under_way.insert(said.id().to_owned());
    }
    assert_eq!(unsettled, under_way.iter().map(String::as_str).collect());
}

async fn all_at_once(voice: &Voice, asks: impl Iterator<Item = (String, Value)>) -> Vec<Said> {
    let tasks: Vec<_> = asks
        .map(|(key, body)| {
            let voice = voice.clone();
            tokio::spawn(async move { voice.insist(&key, &body).await })
        })
        .collect();
    let mut heard = Vec::new();
    for task in tasks {
        heard.push(task.await.unwrap());
    }
    heard
}

async fn keep_paying(
    voice: Voice,
    token: String,
    client: usize,
    stop: Arc<AtomicBool>,
) -> Vec<(Instant, Instant, Said)> {
    let mut heard = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("c{client}-{n}");
        let body = payment(&key, "1.00", &token);
        let began = Instant::now();
        let said = voice.execute(&key, &body).await;
        heard.push((began, Instant::now(), said));
    }
    heard
}

/// When it was asked for and when it was acknowledged.
async fn change(admin: &Voice, path: &str, body: &Value) -> (Instant, Instant) {
    let began = Instant::now();
    let said = admin.post(path, body).await;
    assert_eq!(said.status, 200, "{}", said.text());
    (began, Instant::now())
}

async fn events(store: &impl Ledger) -> Vec<String> {
    let (mut events, mut after) = (Vec::new(), None);
    loop {
        let page = store.entries(after, 500).await.unwrap();
        for (_, bytes) in &page.rows {
            let entry: Value = serde_json::from_slice(bytes).unwrap();
            events.push(entry["event"].as_str().unwrap().to_owned());
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return events,
        }
    }
}

fn paid(house: &House) -> i64 {
    100_000_000 - house.bank.balance(testkit::bank::OPERATING).unwrap()
}
