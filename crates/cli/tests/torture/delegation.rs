//! Mandates handed on and keys of principals, over HTTP and by the program: bad input, races, the whole tree revoked.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ledger::Ledger;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::house::{House, Voice, countersign, payment};

/// The example of RFC 8037.
const KID: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

fn jwk() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
}

async fn root(house: &House) -> String {
    let mandates = house.admin().get("/v1/mandates").await.body;
    mandates["items"].as_array().unwrap().last().unwrap()["jti"].as_str().unwrap().to_owned()
}

/// How much is written down of what those who govern did.
fn written(house: &House) -> (i64, i64, i64) {
    let db = Connection::open(house.path().join("data/sandbox.db")).unwrap();
    let count =
        |table: &str| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    (count("mandate"), count("principal_key"), count("entry"))
}

/// In the sandbox, where errors name the member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_by_name_and_nothing_is_written() {
    let house = House::new().await;
    let operator = house.voice("default", "operator");
    let ask = json!({
        "subject": "default-agent", "scope": ["Payments"], "expires_in_seconds": 600, "goal_scope": ["pay"],
        "spend_cap": {"amount": "10.00", "currency": "USD"}, "resource_envelope": {"max_duration_seconds": 60},
    });
    let issued = operator.post("/sandbox/v1/mandates", &ask).await;
    assert_eq!(issued.status, 201, "{}", issued.text());
    assert_eq!(issued.body["mandate"]["resource_envelope"], json!({"max_duration_seconds": 60}));
    let jti = issued.body["mandate"]["jti"].as_str().unwrap();
    let before = written(&house);
    let (delegate, revoke) =
        (format!("/sandbox/v1/mandates/{jti}/delegate"), format!("/sandbox/v1/mandates/{jti}/revoke"));
    let own = json!({"subject": "default-operator", "scope": ["Payments"], "expires_in_seconds": 600});
    let (add, end) = ("/sandbox/v1/principals/alice/keys", "/sandbox/v1/principals/alice/keys/revoke");
    let of = |member: &str, value: Value| {
        let mut body = json!({"subject": "default-rival"});
        body[member] = value;
        body
    };
    for (path, body, status, code, field) in [
        (&*delegate, json!({}), 422, "EP_VALIDATION_FAILED", "/subject"),
        (&delegate, of("subject", json!(7)), 422, "EP_VALIDATION_FAILED", "/subject"),
        (&delegate, of("subject", json!("a b")), 422, "EP_VALIDATION_FAILED", "/subject"),
        (&delegate, of("colour", json!("red")), 422, "EP_VALIDATION_FAILED", "/colour"),
        (&delegate, of("scope", json!("Payments")), 422, "EP_VALIDATION_FAILED", "/scope"),
        (&delegate, of("scope", json!([])), 422, "EP_VALIDATION_FAILED", "/scope"),
        (&delegate, of("scope", json!(["Nothing"])), 404, "EP_NOT_FOUND", "/scope/0"),
        (&delegate, of("requires_approval", json!(["Nothing"])), 404, "EP_NOT_FOUND", "/requires_approval/0"),
        (&delegate, of("resources", json!(["a*b"])), 422, "EP_VALIDATION_FAILED", "/resources"),
        (&delegate, of("spend_cap", json!("10")), 422, "EP_VALIDATION_FAILED", "/spend_cap"),
        (
            &delegate,
            of("spend_cap", json!({"amount": "1.005", "currency": "USD"})),
            422,
            "EP_VALIDATION_FAILED",
            "/spend_cap/amount",
        ),
        (&delegate, of("max_actions", json!(-1)), 422, "EP_VALIDATION_FAILED", "/max_actions"),
        (&delegate, of("trust_floor", json!(1.5)), 422, "EP_VALIDATION_FAILED", "/trust_floor"),
        (&delegate, of("uncertainty_floor", json!("low")), 422, "EP_VALIDATION_FAILED", "/uncertainty_floor"),
        (&delegate, of("goal_scope", json!([""])), 422, "EP_VALIDATION_FAILED", "/goal_scope"),
        (
            &delegate,
            of("resource_envelope", json!({"max_speed": 1})),
            422,
            "EP_VALIDATION_FAILED",
            "/resource_envelope/max_speed",
        ),
        (&delegate, of("expires_at", json!("tomorrow")), 422, "EP_VALIDATION_FAILED", "/expires_at"),
        (
            &delegate,
            of("expires_at", json!("2020-01-01T00:00:00Z")),
            422,
            "EP_VALIDATION_FAILED",
            "/expires_at",
        ),
        (&delegate, of("not_before", json!(5)), 422, "EP_VALIDATION_FAILED", "/not_before"),
        (add, json!({}), 422, "EP_VALIDATION_FAILED", "/jwk"),
        (add, json!({"jwk": {"kty": "oct", "k": "AAAA"}}), 422, "EP_VALIDATION_FAILED", "/jwk"),
        (add, json!({"jwk": jwk(), "alg": "EdDSA"}), 422, "EP_VALIDATION_FAILED", "/alg"),
        (add, json!({"jwk": jwk(), "signs": "all"}), 422, "EP_VALIDATION_FAILED", "/signs"),
        (
            "/sandbox/v1/principals/default-agent/keys",
            json!({"jwk": jwk()}),
            409,
            "EP_STATE_CONFLICT",
            "/signs",
        ),
        ("/sandbox/v1/principals/a%20b/keys", json!({"jwk": jwk()}), 422, "EP_VALIDATION_FAILED", "/iss"),
        (end, json!({}), 422, "EP_VALIDATION_FAILED", "/kid"),
        (end, json!({"kid": 7}), 422, "EP_VALIDATION_FAILED", "/kid"),
        (end, json!({"kid": KID}), 404, "EP_NOT_FOUND", "/kid"),
        (end, json!({"kid": KID, "reason": "a\u{202e}b"}), 422, "EP_VALIDATION_FAILED", "/reason"),
        (&revoke, json!({"reason": "two\nlines"}), 422, "EP_VALIDATION_FAILED", "/reason"),
        (&revoke, json!({"reason": "\0"}), 422, "EP_VALIDATION_FAILED", "/reason"),
        (&revoke, json!({"reason": "x".repeat(1001)}), 422, "EP_VALIDATION_FAILED", "/reason"),
        ("/sandbox/v1/mandates", own, 409, "EP_STATE_CONFLICT", "/subject"),
        (&delegate, json!({"subject": "default-operator"}), 409, "EP_STATE_CONFLICT", "/subject"),
        (
            "/sandbox/v1/freeze",
            json!({"scope": "agent:default-agent", "reason": "two\nlines"}),
            422,
            "EP_VALIDATION_FAILED",
            "/reason",
        ),
    ] {
        let said = operator.post(path, &body).await;
        let error = &said.body["error"];
        assert_eq!((said.status, said.code()), (status, code), "{path} {body}: {}", said.text());
        assert_eq!(error["field"], field, "{path} {body}: {}", said.text());
    }
    let missing = operator.post("/sandbox/v1/mandates/mnd_none/delegate", &of("scope", json!(null))).await;
    assert_eq!(missing.status, 404, "{}", missing.text());
    assert_eq!(operator.get("/sandbox/v1/mandates/mnd_none").await.status, 404);
    assert_eq!(written(&house), before, "nothing was written");

    // What is wider is refused too, and that it was asked for is on record.
    for (member, value, field) in [
        ("spend_cap", json!({"amount": "10.01", "currency": "USD"}), "/spend_cap"),
        ("spend_cap", json!({"amount": "1.00", "currency": "EUR"}), "/spend_cap"),
        ("scope", json!(["Data"]), "/scope"),
        ("goal_scope", json!(["trade"]), "/goal_scope"),
        ("expires_in_seconds", json!(6000), "/expires_at"),
        ("resource_envelope", json!({"max_duration_seconds": 61}), "/resource_envelope/max_duration_seconds"),
    ] {
        let said = operator.post(&delegate, &of(member, value)).await;
        assert_eq!((said.status, said.code()), (422, "MANDATE_NARROWING_VIOLATION"), "{}", said.text());
        assert_eq!(said.body["error"]["field"], field, "{}", said.text());
    }
    let (mandates, keys, entries) = written(&house);
    assert_eq!((mandates, keys, entries), (before.0, before.1, before.2 + 6));
}

/// While children of three agents keep paying, their root is revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_was_acknowledged_always_wins_over_children() {
    let mut house = House::new().await;
    let root = root(&house).await;
    let mut tokens = Vec::new();
    let mut jti = root.clone();
    for _ in 0..2 {
        let body = json!({"subject": "default-agent"});
        let said = house.agent().post(&format!("/v1/mandates/{jti}/delegate"), &body).await;
        assert_eq!(said.status, 201, "{}", said.text());
        jti = said.body["mandate"]["jti"].as_str().unwrap().to_owned();
        tokens.push(said.body["token"].as_str().unwrap().to_owned());
    }
    let acknowledged = Arc::new(AtomicBool::new(false));
    let payers: Vec<_> = (0..4)
        .map(|n| tokio::spawn(pay(house.agent(), tokens[n % 2].clone(), n, acknowledged.clone())))
        .collect();
    // Whoever is how fast: some come before.
    while house.bank.effects().count < 40 {
        tokio::task::yield_now().await;
    }
    let revoked = house.admin().post(&format!("/v1/mandates/{root}/revoke"), &json!({})).await;
    acknowledged.store(true, Ordering::SeqCst);
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    let mut executed = 0;
    for payer in payers {
        executed += payer.await.unwrap();
    }
    let child = house.agent().get(&format!("/v1/mandates/{jti}")).await;
    assert_eq!(
        (&child.body["ended_with"], &child.body["depth"]),
        (&json!(root), &json!(2)),
        "{}",
        child.text()
    );

    house.gateway.stop();
    let store = house.store().await;
    let (mut events, mut after) = (Vec::new(), None);
    loop {
        let page = store.entries(after, 500).await.unwrap();
        events.extend(page.rows.iter().map(|(_, bytes)| ledger::event_of(bytes).unwrap().to_owned()));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let at = events.iter().position(|event| event == "mandate_revoked").unwrap();
    assert_eq!(events[at..].iter().filter(|event| *event == "admitted").count(), 0);
    assert_eq!(executed, house.bank.effects().count);
}

/// Pays until it was refused after the acknowledgement; answers with how often it was let.
async fn pay(voice: Voice, token: String, payer: usize, acknowledged: Arc<AtomicBool>) -> u64 {
    let mut executed = 0;
    for n in 0.. {
        let after = acknowledged.load(Ordering::SeqCst);
        let key = format!("p{payer}-{n}");
        let said = voice.execute(&key, &payment(&key, "1.00", &token)).await;
        match said.kind() {
            "executed" => {
                assert!(!after, "it was admitted after the acknowledgement: {}", said.text());
                executed += 1;
            }
            _ => {
                assert_eq!(said.code(), "EP_DELEGATION_BLOCK", "{}", said.text());
                assert_eq!(said.body["details"]["reasons"], json!(["mandate_revoked"]), "{}", said.text());
                if after {
                    break;
                }
            }
        }
    }
    executed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_hands_on_shows_and_registers() {
    let house = House::new().await;
    let root = root(&house).await;
    let operator = |args: &[&str]| call(&house, "operator", args);
    let made = json(&operator(&[
        "mandate",
        "delegate",
        &root,
        "--subject",
        "default-rival",
        "--cap",
        "5.00 USD",
        "--max-duration",
        "1h",
        "--goal",
        "reconcile",
        "--trust-floor",
        "0.5",
    ]));
    let child = made["mandate"]["jti"].as_str().unwrap();
    assert_eq!(made["mandate"]["delegation_chain"], json!([root]));
    let shown = json(&operator(&["mandate", "show", child]));
    assert_eq!(shown["left"]["spend"], json!({"amount": "5.00", "currency": "USD"}));
    assert_eq!((&shown["left"]["seconds"], &shown["depth"]), (&json!(3600), &json!(1)));
    let wider = operator(&["mandate", "delegate", child, "--subject", "default-agent", "--cap", "6.00 USD"]);
    assert_eq!(wider.status.code(), Some(1));
    assert!(text(&wider).contains("MANDATE_NARROWING_VIOLATION"), "{}", text(&wider));

    let file = house.path().join("alice.jwk");
    std::fs::write(&file, jwk().to_string()).unwrap();
    let added = json(&operator(&["principals", "add", "alice", file.to_str().unwrap()]));
    assert_eq!((&added["kid"], &added["algorithm"]), (&json!(KID), &json!("EdDSA")));
    assert_eq!((&added["signs"], &added["jwk"]), (&json!("mandates"), &jwk()));
    let agents = json(&operator(&[
        "principals",
        "add",
        "default-agent",
        file.to_str().unwrap(),
        "--signs",
        "children",
    ]));
    assert_eq!(agents["signs"], "children");
    let listed = text(&operator(&["principals", "list"]));
    assert!(listed.contains("alice") && listed.contains(KID) && listed.contains("good"), "{listed}");
    let ended = json(&operator(&["principals", "revoke", "alice", KID, "--reason", "left"]));
    assert!(ended["revoked_at"].is_string(), "{ended}");
    let again = operator(&["principals", "revoke", "alice", KID]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    let agent = call(&house, "agent", &["principals", "list"]);
    assert!(text(&agent).contains("role"), "{}", text(&agent));
}

fn call(house: &House, who: &str, args: &[&str]) -> Output {
    let mut command = countersign();
    command.args(args).env("COUNTERSIGN_URL", &house.gateway.url);
    command.env("COUNTERSIGN_API_KEY", house.voice("default", who).key.unwrap()).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
