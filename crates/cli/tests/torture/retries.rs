//! `kill -9` while actions are tried again: what waited is sent when it is due, what was in doubt is sent again under the
//! same key, and the bank counts one effect for each.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::bank::{Fault, Injection};
use tokio::time::sleep;

use crate::house::{House, Plan};

const ROUNDS: usize = 6;
const NOTES: usize = 12;

fn note(house: &House, to: &str) -> Value {
    json!({ "archetype": "NOTE", "constraints": { "to": to }, "delegation_token": house.token("default") })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_tries_again_it_still_has_every_effect_once() {
    let plan = Plan {
        config: "[limits]\nrecovery_interval_ms = 50\n[sandbox]\nenabled = false\n".into(),
        catalogue: vec![("note.toml", include_str!("note.toml").to_owned())],
        ..Plan::default()
    };
    let mut house = House::with(plan).await;
    let mut keys = Vec::new();
    for round in 0..ROUNDS {
        for fault in [Fault::RateLimited { retry_after: 1 }, Fault::LostAfterEffect, Fault::LostBeforeEffect]
        {
            house.bank.inject(Injection::payments(fault, 6));
        }
        let clients: Vec<_> = (0..NOTES)
            .map(|n| {
                let (agent, key) = (house.agent(), format!("note-{round}-{n}"));
                let body = note(&house, &key);
                keys.push(key.clone());
                tokio::spawn(async move { drop(agent.try_execute(&key, &body).await) })
            })
            .collect();
        sleep(Duration::from_millis(150 + (round as u64 * 211) % 900)).await;
        house.gateway.kill();
        for client in clients {
            client.await.unwrap();
        }
        house.start();
    }
    let mut several = 0;
    for key in &keys {
        let body = note(&house, key);
        let id = loop {
            let said = house.agent().execute(key, &body).await;
            if said.kind() == "executed" {
                break said.id().to_owned();
            }
            let open = said.kind() == "pending_settlement" || said.code() == "EP_IDEMPOTENCY_IN_FLIGHT";
            assert!(open, "{key}: {}", said.text());
            sleep(Duration::from_millis(20)).await;
        };
        let record = house.agent().get(&format!("/v1/actions/{id}")).await.body;
        assert_eq!(record["result"]["state"], "COMPLETED");
        several += usize::from(record["result"]["retry_count"] != json!(0));
    }
    assert!(several > ROUNDS, "there were retries: {several}");
    let effects = house.bank.effects();
    assert_eq!(effects.count, keys.len() as u64);
    assert!(effects.by_reference.values().all(|count| *count == 1), "{:?}", effects.by_reference);
    house.gateway.kill();
    house.store().await;
}
