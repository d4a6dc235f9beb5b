//! Three gateways under load while they are killed and stopped, and while their database dies, comes back and fails over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ledger::{Ledger, Postgres, State, Stored};
use receipt::{Jwks, Verdict};
use testkit::bank::{self, Bank, Fault, Injection};
use testkit::postgres::End;
use tokio::time::sleep;

use crate::house::{Said, verdict};
use crate::load::{Chance, Load, Wish, is_final, want};
use crate::street::{GATEWAYS, Street, everything};

const CLIENTS: u64 = 12;
const DEATHS: u64 = 8;
/// What the tight mandate may spend.
const TIGHT: i64 = 40_00;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_stops_or_fails_over_nothing_is_lost_doubled_or_overspent() {
    let Some(mut street) = Street::new().await else { return };
    let mandates =
        [street.house.mandate("default", "90000.00").await, street.house.mandate("default", "40.00").await];
    let voice = impatient(street.house.agent());
    let voices = street.everywhere(&voice).into();
    let load = Arc::new(Load { voices, mandates, over: false.into() });
    let clients: Vec<_> = (0..CLIENTS).map(|client| tokio::spawn(want(Arc::clone(&load), client))).collect();

    let mut chance = Chance(4711);
    for round in 0..DEATHS {
        go_wrong(&street.house.bank, round);
        sleep(Duration::from_millis(300 + chance.draw(400))).await;
        street.kill(chance.draw(GATEWAYS as u64) as usize);
        load.moved(street.everywhere(&voice));
    }
    // Longer than a gateway may be silent: what it has in hand is taken over meanwhile, and then it goes on.
    let stopped = chance.draw(GATEWAYS as u64) as usize;
    street.house.bank.inject(Injection::payments(Fault::DelayAnswer { ms: 900 }, 12));
    sleep(Duration::from_millis(300)).await;
    street.gateway(stopped).signal("-STOP");
    sleep(Duration::from_secs(14)).await;
    street.gateway(stopped).signal("-CONT");
    street.house.until_logged("others took it for gone").await;

    street.cluster.stop(End::Crash);
    sleep(Duration::from_secs(1)).await;
    street.cluster.run().unwrap();
    sleep(Duration::from_secs(2)).await;

    let place: PathBuf = street.standby.clone();
    let standby = street.cluster.standby(&place).unwrap();
    sleep(Duration::from_secs(1)).await;
    street.cluster.stop(End::Crash);
    standby.promote().unwrap();
    sleep(Duration::from_secs(3)).await;

    load.over.store(true, Ordering::Relaxed);
    let mut wishes = Vec::new();
    for client in clients {
        wishes.extend(client.await.unwrap());
    }
    let jwks = street.house.jwks().await;
    let store = settled(&street).await;
    let stored = by_key(everything(&*store).await);
    eprintln!(
        "{} actions, {} answers that nothing can be recorded, {} connections cut",
        stored.len(),
        wishes.iter().map(|wish| wish.away).sum::<usize>(),
        wishes.iter().map(|wish| wish.silent).sum::<usize>()
    );
    assert!(stored.len() > 100, "there was load: {}", stored.len());
    store.verify().await.expect("every chain holds");
    effects_are_what_is_stored(&street.house.bank, &stored);
    what_was_acknowledged_stands(&store, &wishes, &stored, &jwks).await;
    mandates_are_charged_what_was_paid(&store, &street.house.bank, &wishes, &stored).await;
    // Their last words are about a database that is there.
    for number in 0..GATEWAYS {
        street.gateway(number).stop();
    }
    drop((store, standby));
}

/// A caller that asks another gateway where one does not answer.
fn impatient(voice: crate::house::Voice) -> crate::house::Voice {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(4)).build().unwrap();
    crate::house::Voice { http, ..voice }
}

fn go_wrong(bank: &Bank, round: u64) {
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
}

/// Waits until nothing is unsettled any more.
async fn settled(street: &Street) -> Arc<Postgres> {
    let store = street.store().await;
    let began = Instant::now();
    loop {
        let unsettled = store.unsettled(None, 100).await.unwrap().rows;
        if unsettled.is_empty() {
            return store;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{} are never settled: {unsettled:?}",
            unsettled.len()
        );
        sleep(Duration::from_millis(500)).await;
    }
}

fn by_key(all: Vec<Stored>) -> BTreeMap<String, Stored> {
    let count = all.len();
    let stored: BTreeMap<String, Stored> =
        all.into_iter().map(|it| (it.key.clone().unwrap().into_string(), it)).collect();
    assert_eq!(stored.len(), count, "one action for each key");
    stored
}

fn effects_are_what_is_stored(bank: &Bank, stored: &BTreeMap<String, Stored>) {
    let effects = bank.effects();
    for (what, counts) in [("reference", &effects.by_reference), ("provider key", &effects.by_key)] {
        for (name, count) in counts {
            assert_eq!(*count, 1, "two effects for {what} {name}");
        }
    }
    let of = |state: State| {
        stored
            .values()
            .filter(move |it| it.state == state)
            .filter_map(|it| bank::reference_in(&it.payload))
            .collect::<BTreeSet<_>>()
    };
    let executed = of(State::Executed);
    let paid: BTreeSet<String> = effects.by_reference.keys().cloned().collect();
    let lost: Vec<_> = paid.difference(&executed).collect();
    let invented: Vec<_> = executed.difference(&paid).collect();
    assert!(lost.is_empty(), "effects that nobody knows: {lost:?}");
    assert!(invented.is_empty(), "executed without an effect: {invented:?}");
}

/// Every final answer is the one that is stored, and its receipt is there and verifies.
async fn what_was_acknowledged_stands(
    store: &Postgres,
    wishes: &[Wish],
    stored: &BTreeMap<String, Stored>,
    jwks: &Jwks,
) {
    let mut acknowledged = 0;
    for Wish { key, heard, .. } in wishes {
        let finals: Vec<&Said> = heard.iter().filter(|said| is_final(said)).collect();
        assert!(!finals.is_empty(), "{key} was never answered: {:?}", heard.last());
        for said in heard {
            let receipt = said.body["receipt_id"].as_str();
            let receipt = receipt.unwrap_or_else(|| panic!("{key} has no receipt: {}", said.text()));
            let kept = store.receipt(&Default::default(), receipt).await.unwrap();
            let kept = kept.unwrap_or_else(|| panic!("the receipt {receipt} of {key} is gone"));
            let document = kept.receipt.unwrap().document;
            assert_eq!(verdict(&document, jwks), Verdict::Valid, "{receipt} of {key}");
            acknowledged += 1;
        }
        // What was blocked without a row leaves its key free for another try.
        if finals.iter().all(|said| said.kind() == "blocked") {
            continue;
        }
        let it = stored.get(key).unwrap_or_else(|| panic!("{key} was answered and is not stored"));
        let reply = it.reply.as_ref().unwrap();
        for said in finals.iter().filter(|said| said.kind() != "blocked") {
            assert_eq!(said.id(), it.id.to_string(), "{key} is one action for ever");
            assert_eq!((said.status, &said.bytes), (reply.status, &reply.body), "{key} never changes");
        }
    }
    assert!(acknowledged > 100, "there were acknowledgements: {acknowledged}");
}

async fn mandates_are_charged_what_was_paid(
    store: &Postgres,
    bank: &Bank,
    wishes: &[Wish],
    stored: &BTreeMap<String, Stored>,
) {
    let paid = bank.paid();
    for tight in [false, true] {
        let of: Vec<&Stored> = wishes
            .iter()
            .filter(|wish| wish.tight == tight)
            .filter_map(|wish| stored.get(&wish.key))
            .collect();
        let jti = of.iter().find_map(|it| it.mandates.first()).unwrap();
        let held = store.mandate(&Default::default(), jti).await.unwrap().unwrap();
        let sum: i64 = of.iter().filter_map(|it| paid.get(&bank::reference_in(&it.payload)?)).sum();
        assert_eq!(held.account.spent_minor, sum, "a mandate is charged what the bank paid");
        assert!(!tight || (TIGHT - 300..=TIGHT).contains(&sum), "spent up to its cap: {sum}");
    }
}
