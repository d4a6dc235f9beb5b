//! `kill -9` while people are told of things: every notice arrives, with one id, and in order for each action.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::approvals::ask_for;
use crate::house::{House, Plan, payment};

const KEY: &[u8; 32] = b"whoever reads this knows the key";
const ROUNDS: usize = 8;
const EACH: usize = 4;

/// What the receiver took: action, event and id, in order; by the path it came to.
type Taken = Arc<Mutex<BTreeMap<String, Vec<(String, String, String)>>>>;

/// A receiver that takes two of three requests, slowly enough that a kill finds some under way.
async fn receiver() -> (SocketAddr, Taken) {
    let taken = Taken::default();
    let (keep, count) = (Arc::clone(&taken), Arc::new(Mutex::new(0)));
    let app = Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: Bytes| {
        let (keep, count) = (Arc::clone(&keep), Arc::clone(&count));
        async move {
            let header = |name: &str| headers[name].to_str().unwrap().to_owned();
            let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
            let signed = [format!("{id}.{at}.").as_bytes(), &body].concat();
            let signature =
                STANDARD.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
            hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, KEY), &signed, &signature).unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            let number = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count
            };
            if number % 3 == 0 {
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            let text = |pointer: &str| body.pointer(pointer).unwrap().as_str().unwrap().to_owned();
            let heard = (text("/data/action_id"), text("/type"), id);
            keep.lock().unwrap().entry(uri.path().to_owned()).or_default().push(heard);
            sleep(Duration::from_millis(number % 7)).await;
            StatusCode::NO_CONTENT
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_tells_it_tells_everything_in_order_and_under_one_id() {
    let (receiver, taken) = receiver().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("hook.key");
    std::fs::write(&key, format!("whsec_{}\n", STANDARD.encode(KEY))).unwrap();
    let config = format!(
        r#"
        [limits]
        recovery_interval_ms = 50
        [sandbox]
        enabled = false
        [secrets.hook]
        file = "{}"
        hosts = ["{receiver}"]
        [[alerts]]
        name = "ops"
        kind = "webhook"
        url = "http://{receiver}/all"
        secret = "hook"
        tenants = ["default"]
        [[alerts]]
        name = "others"
        kind = "webhook"
        url = "http://{receiver}/other"
        secret = "hook"
        tenants = ["other"]
        "#,
        key.display()
    );
    let plan = Plan { config, reach: vec![receiver.to_string()], log: Some("debug"), ..Plan::default() };
    let mut house = House::with(plan).await;
    ask_for(&house, 1);
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);

    let mut asked = BTreeSet::new();
    for round in 0..ROUNDS {
        for number in 0..EACH {
            let key = format!("k-{round}-{number}");
            let said = house.agent().execute(&key, &house.payment(&key, "6000.00")).await;
            assert_eq!((said.status, said.kind()), (202, "held"), "{}", said.text());
            let said_no = house.voice("default", "approver");
            let said_no = said_no.post(&format!("/v1/actions/{}/reject", said.id()), &json!({})).await;
            assert_eq!(said_no.status, 200, "{}", said_no.text());
            asked.insert(said.id().to_owned());
        }
        sleep(Duration::from_millis((round as u64 * 37) % 120)).await;
        house.gateway.kill();
        house.start();
    }
    // The last thing that happens happens to the other tenant, whose destination has passed by all the rest then.
    let body = payment("last", "6000.00", house.token("other"));
    let others = house.voice("other", "agent").execute("last", &body).await;
    assert_eq!(others.kind(), "held", "{}", others.text());
    let heard = |path: &str| taken.lock().unwrap().get(path).cloned().unwrap_or_default();
    let expected: BTreeSet<(String, &str)> = asked
        .iter()
        .flat_map(|id| ["action.held", "action.rejected"].map(|event| (id.clone(), event)))
        .collect();
    for _ in 0..1200 {
        let got: BTreeSet<_> = heard("/all").into_iter().map(|it| (it.0, it.1)).collect();
        if got.len() >= expected.len() && !heard("/other").is_empty() {
            break;
        }
        sleep(Duration::from_millis(25)).await;
    }
    let of_others: BTreeSet<String> = heard("/other").into_iter().map(|it| it.0).collect();
    assert_eq!(of_others, BTreeSet::from([others.id().to_owned()]), "nobody hears of another tenant");
    let taken = heard("/all");
    let got: BTreeSet<(String, &str)> = taken.iter().map(|it| (it.0.clone(), it.1.as_str())).collect();
    assert_eq!(got, expected, "every notice arrives, and none of anything else: {}", house.log());
    let mut ids = BTreeMap::<(&str, &str), BTreeSet<&str>>::new();
    for (action, event, id) in &taken {
        ids.entry((action, event)).or_default().insert(id);
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    for action in &asked {
        let of_it = taken.iter().filter(|it| it.0 == *action).map(|it| it.1.as_str());
        let held_late = of_it.skip_while(|event| *event == "action.held").any(|event| event == "action.held");
        assert!(!held_late, "{action}: the first notice does not come again after the second");
    }
    let log = house.log();
    assert!(!log.contains(&STANDARD.encode(KEY)), "the key is in no log");
}
