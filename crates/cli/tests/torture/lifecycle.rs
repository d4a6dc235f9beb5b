//! Beginnings and endings: killed at the first start, killed while keys change, stopped in good order, hung up on. What
//! was acknowledged to anybody holds afterwards.

use std::process::Stdio;
use std::time::{Duration, Instant};

use action::Tenant;
use ledger::{Filter, Ledger, State};
use receipt::Verdict;
use serde_json::json;
use testkit::bank::{Fault, Injection};
use tokio::time::sleep;

use crate::house::{House, Plan, Process, Said, Voice, client, countersign, payment, verdict};

#[test]
fn killed_at_its_first_start_it_starts_the_second_time() {
    for delay in [1, 2, 4, 6, 8, 10, 12, 15, 18, 21, 25, 30, 35, 40, 50, 60, 80, 100, 130, 160] {
        let folder = tempfile::tempdir().unwrap();
        let serve = || {
            let mut command = countersign();
            command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder.path().join("data"));
            command
        };
        let mut first =
            serve().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        first.kill().unwrap();
        first.wait().unwrap();
        Process::start(serve(), &folder.path().join("log")).stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operators_were_told_survives_a_kill() {
    let mut house = House::new().await;
    let admin = house.admin();
    let spare = admin.post("/v1/keys", &json!({"subject": "default-spare", "role": "agent"})).await.body;
    let revoked =
        admin.post(&format!("/v1/keys/{}/revoke", spare["key"]["id"].as_str().unwrap()), &json!({})).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    let body = json!({"subject": "default-agent", "scope": ["Payments"], "expires_in_seconds": 600});
    let short = admin.post("/v1/mandates", &body).await.body;
    let revoke = format!("/v1/mandates/{}/revoke", short["mandate"]["jti"].as_str().unwrap());
    assert_eq!(admin.post(&revoke, &json!({})).await.status, 200);
    let held = house.agent().execute("held", &house.payment("acct-1", "6000.00")).await;
    assert_eq!(held.kind(), "held", "{}", held.text());
    let before = house.agent().execute("before", &house.payment("acct-2", "1.00")).await;
    assert_eq!(admin.post("/v1/signing-keys/rotate", &json!({})).await.status, 201);
    assert_eq!(admin.post("/v1/freeze", &json!({"scope": "provider:bank"})).await.status, 200);
    house.gateway.kill();
    house.start();

    let spared = Voice { key: Some(spare["secret"].as_str().unwrap().into()), ..house.nobody() };
    assert_eq!(spared.execute("k", &json!({})).await.status, 401, "the key stays revoked");
    let frozen = house.agent().execute("frozen", &house.payment("acct-3", "1.00")).await;
    assert_eq!(frozen.code(), "EP_FROZEN", "{}", frozen.text());
    assert_eq!(house.admin().post("/v1/thaw", &json!({"scope": "provider:bank"})).await.status, 200);
    let late =
        house.agent().execute("late", &payment("acct-4", "1.00", short["token"].as_str().unwrap())).await;
    assert_eq!(late.code(), "EP_DELEGATION_BLOCK", "the mandate stays revoked: {}", late.text());
    let again = house.agent().execute("held", &house.payment("acct-1", "6000.00")).await;
    assert_eq!(
        (again.status, again.replayed(), again.bytes),
        (202, true, held.bytes),
        "held is held, in the same words"
    );

    let jwks = house.jwks().await;
    assert_eq!(jwks.keys().len(), 2);
    let after = house.agent().execute("after", &house.payment("acct-5", "1.00")).await;
    for said in [before, after] {
        let receipt =
            house.agent().get(&format!("/v1/receipts/{}", said.body["receipt_id"].as_str().unwrap())).await;
        assert_eq!(verdict(&receipt.bytes, &jwks), Verdict::Valid, "before and after the rotation");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_after_a_kill_tells_of_doubts_and_what_became_of_them() {
    let config = "[limits]\nrecovery_interval_ms = 50\n".to_owned();
    let mut house = House::with(Plan { config, ..Plan::default() }).await;
    house.bank.inject(Injection::payments(Fault::DelayAnswer { ms: 60_000 }, 1));
    house.bank.inject(Injection::queries(Fault::LostBeforeEffect, 2));
    let (agent, body) = (house.agent(), house.payment("acct-1", "1.00"));
    let asked = tokio::spawn(async move { drop(agent.try_execute("k", &body).await) });
    while house.bank.effects().count == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    house.gateway.kill();
    asked.await.unwrap();
    assert!(!house.log().contains("in doubt"), "{}", house.log());
    house.start();
    let said = loop {
        let said = house.agent().execute("k", &house.payment("acct-1", "1.00")).await;
        if said.kind() == "executed" {
            break said;
        }
        sleep(Duration::from_millis(20)).await;
    };
    house.gateway.stop();
    let log = house.log();
    let about = |what: &str| log.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
    assert_eq!(about("1 actions in doubt are being asked after").len(), 1, "{log}");
    let told = format!("action={} tenant=default", said.id());
    let untold = about("the provider does not tell what became of it");
    assert!(untold.len() == 1 && untold[0].contains("WARN") && untold[0].contains(&told), "{log}");
    let resolved = about("in doubt no more");
    assert!(resolved.len() == 1 && resolved[0].contains(&told), "{log}");
    assert!(resolved[0].contains("outcome=\"executed\""), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_keys_change_every_receipt_still_verifies() {
    let mut house =
        House::with(Plan { config: "[sandbox]\nenabled = false\n".into(), ..Plan::default() }).await;
    let mut receipts = Vec::new();
    for round in 0..8 {
        let admin = house.admin();
        let rotating = tokio::spawn(async move {
            while Said::of(admin.request("POST", "/v1/signing-keys/rotate")).await.is_ok() {}
        });
        for n in 0..6 {
            let name = format!("r{round}-{n}");
            let said = house.agent().execute(&name, &house.payment(&name, "1.00")).await;
            assert_eq!(said.kind(), "executed", "{}", said.text());
            let path = format!("/v1/receipts/{}", said.body["receipt_id"].as_str().unwrap());
            receipts.push(house.agent().get(&path).await.bytes);
        }
        house.gateway.kill();
        rotating.await.unwrap();
        house.start();
    }
    let jwks = house.jwks().await;
    for receipt in &receipts {
        assert_eq!(verdict(receipt, &jwks), Verdict::Valid);
    }
    assert!(jwks.keys().len() > 8, "keys did change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_stop_it_answers_what_is_under_way() {
    let mut house = House::new().await;
    house.bank.inject(Injection::payments(Fault::DelayAnswer { ms: 700 }, 3));
    let asked: Vec<_> = (0..3)
        .map(|n| {
            let (voice, body) = (house.agent(), house.payment(&format!("acct-{n}"), "1.00"));
            tokio::spawn(async move { voice.execute(&format!("k{n}"), &body).await })
        })
        .collect();
    sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    let house = tokio::task::spawn_blocking(move || {
        house.gateway.stop();
        house
    });
    for asked in asked {
        let said = asked.await.unwrap();
        assert_eq!(said.kind(), "executed", "{}", said.text());
    }
    let house = house.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "and then it goes: {:?}", began.elapsed());
    assert!(house.store().await.unsettled(None, 10).await.unwrap().rows.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_changes_nothing() {
    let plan = Plan {
        config: "[limits]\nrecovery_interval_ms = 50\n[sandbox]\nenabled = false\n".into(),
        ..Plan::default()
    };
    let mut house = House::with(plan).await;
    // The connection of each goes with its patience.
    let mut hasty = Vec::new();
    for n in 0..120 {
        let http = client(&Plan::default())
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_micros(300 + n * 170))
            .build()
            .unwrap();
        let voice = Voice { http, ..house.agent() };
        let body = house.payment(&format!("acct-{n}"), &format!("1.{:02}", n % 100));
        if n % 10 == 0 {
            house.bank.inject(Injection::payments(Fault::DelayAnswer { ms: 60 }, 1));
        }
        hasty.push((
            format!("k{n}"),
            body.clone(),
            tokio::spawn(async move { voice.try_execute(&format!("k{n}"), &body).await.is_ok() }),
        ));
        sleep(Duration::from_millis(4)).await;
    }
    let (mut heard, mut asked) = (0, Vec::new());
    for (key, body, task) in hasty {
        heard += usize::from(task.await.unwrap());
        asked.push((key, body));
    }
    assert!(heard < asked.len(), "some hung up");
    // All come back under their keys: what was begun is done by now, what was not is done now.
    for (key, body) in &asked {
        let said = house.agent().insist(key, body).await;
        assert_eq!(said.kind(), "executed", "{}", said.text());
    }
    let effects = house.bank.effects();
    assert!(effects.by_key.values().all(|count| *count == 1), "nothing happened twice");
    assert_eq!(effects.count as usize, asked.len());
    house.gateway.stop();
    let store = house.store().await;
    store.verify().await.expect("the chain holds");
    let stored = store.actions(&Tenant::default(), Filter::default(), None, 500).await.unwrap().rows;
    assert_eq!(stored.len(), asked.len());
    assert!(stored.iter().all(|it| it.state == State::Executed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keys_default_mandate_is_its_own_tenants_and_its_own_subjects() {
    let house = House::new().await;
    let mandates = house.admin().get("/v1/mandates").await.body;
    let jti = mandates["items"][0]["jti"].as_str().unwrap().to_owned();
    let mut body = house.payment("acct-1", "1.00");
    body.as_object_mut().unwrap().remove("delegation_token");
    for (tenant, subject, code) in [
        ("default", "default-agent", ""),
        ("default", "default-thief", "EP_DELEGATION_BLOCK"),
        ("other", "default-agent", "EP_DELEGATION_BLOCK"),
        ("other", "other-agent", "EP_DELEGATION_BLOCK"),
    ] {
        let ask = json!({"subject": subject, "role": "agent", "default_mandate": jti});
        let made = house.voice(tenant, "admin").post("/v1/keys", &ask).await;
        let key = match made.status {
            201 => made.body["secret"].as_str().unwrap().to_owned(),
            // A key that names what its tenant does not have need not be made at all.
            _ => {
                assert_eq!((tenant, made.code()), ("other", "EP_VALIDATION_FAILED"), "{}", made.text());
                continue;
            }
        };
        let voice = Voice { key: Some(key), ..house.nobody() };
        let said = voice.execute("k", &body).await;
        assert_eq!(said.code(), code, "{subject} of {tenant}: {}", said.text());
    }
    assert_eq!(house.bank.effects().count, 1);
}
