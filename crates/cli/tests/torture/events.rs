//! Security events from outside, and what the end of a mandate does to the sessions below it, over HTTP.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ledger::Ledger;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::bank::{Fault, Injection};

use crate::house::{House, ISSUER, Plan, Said, Voice};
use crate::sessions::intent;

const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const IDP: &str = "https://idp.example";

/// An identity provider that the house knows.
struct Transmitter {
    pair: Ed25519KeyPair,
    _keys: TempDir,
}

impl Transmitter {
    /// With the house that it is registered in, and more configuration for that.
    async fn with(config: &str) -> (Transmitter, House) {
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let keys = tempfile::tempdir().unwrap();
        let file = keys.path().join("idp.json");
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "idp-1"}]});
        std::fs::write(&file, set.to_string()).unwrap();
        let config = format!("[[transmitters]]\nissuer = \"{IDP}\"\nkeys = '{}'\n{config}", file.display());
        let house = House::with(Plan { config, ..Plan::default() }).await;
        (Transmitter { pair, _keys: keys }, house)
    }

    fn signed(&self, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "EdDSA", "kid": "idp-1", "typ": "secevent+jwt"});
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }
}

fn claims(jti: &str, subject: Value) -> Value {
    json!({
        "iss": IDP, "aud": ISSUER, "jti": jti, "iat": jiff::Timestamp::now().as_second(), "sub_id": subject,
        "events": {REVOKED: {"initiating_entity": "policy", "reason_admin": {"en": "stolen laptop of Eve"}}},
    })
}

fn session(id: &Value) -> Value {
    json!({"format": "opaque", "id": id})
}

async fn push(house: &House, path: &str, token: &str) -> Said {
    let request = house.nobody().request("POST", path).header("content-type", "application/secevent+jwt");
    Said::of(request.body(token.to_owned())).await.unwrap()
}

async fn opened(agent: &Voice, token: &str) -> Value {
    let said = agent.post("/v1/sessions", &json!({"delegation_token": token})).await;
    assert_eq!(said.status, 201, "{}", said.text());
    said.body
}

fn path(session: &Value, part: &str) -> String {
    format!("/v1/sessions/{}/{part}", session["session_id"].as_str().unwrap())
}

async fn records(house: &House, session: &Value) -> Vec<Value> {
    let said = house.voice("default", "auditor").get(&path(session, "record")).await;
    said.body["items"].as_array().unwrap().clone()
}

/// The records of a session once they are as they should be.
async fn recorded(house: &House, session: &Value, as_it_should: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    for _ in 0..1000 {
        let all = records(house, session).await;
        if as_it_should(&all) {
            return all;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("its records never came to that: {:#?}", records(house, session).await)
}

async fn whole(house: &House) {
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
}

/// A session with one payment of this amount to this account in it.
async fn paying(house: &House, agent: &Voice, token: &str, to: &str, amount: &str) -> (Value, Said) {
    let session = opened(agent, token).await;
    let mut declared = intent(&session, &format!("i-{to}"), 1);
    declared["reasoning_mode"] = "CHAIN".into();
    let said = agent.post(&path(&session, "intents"), &declared).await;
    assert_eq!(said.status, 201, "{}", said.text());
    let mut body = house.payment(to, amount);
    body["session_id"] = session["session_id"].clone();
    body["delegation_token"] = token.into();
    let said = agent.execute(&format!("pay-{to}"), &body).await;
    (session, said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_event_ends_its_session_with_the_event_as_the_cause() {
    let (idp, house) = Transmitter::with("").await;
    let (agent, token) = (house.agent(), house.token("default"));
    let (ended, said) = paying(&house, &agent, token, "acct-1", "5.00").await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    let spared = opened(&agent, token).await;
    let event = idp.signed(&claims("e-1", session(&ended["session_id"])));
    let heard = push(&house, "/v1/events", &event).await;
    assert_eq!((heard.status, heard.bytes.len()), (202, 0), "{}", heard.text());
    let now = agent.get(&path(&ended, "")[..path(&ended, "").len() - 1]).await.body;
    assert_eq!(
        (&now["state"], &now["completion"], &now["halt"]),
        (&json!("CLOSED"), &json!("REVOKED"), &json!("CLEAN"))
    );
    let all = records(&house, &ended).await;
    let [.., first, last] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((&first["ale_type"], &first["ale_fields"]["trigger"]), (&json!("ALE-001"), &json!("R-6")));
    assert_eq!(first["ale_fields"]["by"], IDP);
    assert_eq!((&last["ale_type"], &last["completion_state"]), (&json!("ALE-002"), &json!("CLEAN")));
    assert_eq!(last["causal_parent_id"], first["record_id"]);
    // The cause is the event, which is in the trail, and says nothing in words.
    let trail = house.voice("default", "auditor").get("/v1/audit?verb=security_event").await;
    assert_eq!(trail.body["entries"].as_array().unwrap().len(), 1, "{}", trail.text());
    assert_eq!(trail.body["entries"][0]["audit_id"], first["causal_parent_id"]);
    assert!(
        !std::fs::read(house.path().join("data/production.db")).unwrap().windows(6).any(|it| it == b"stolen")
    );
    // Nothing begins in it any more; the other one goes on.
    let late = agent.post(&path(&ended, "intents"), &intent(&ended, "late", 9)).await;
    assert_eq!((late.status, late.code()), (409, "IDP-E010"));
    let other = agent.post(&path(&spared, "intents"), &intent(&spared, "other", 1)).await;
    assert_eq!(other.status, 201, "{}", other.text());
    // The very same once more changes nothing; something else under its name is refused.
    let again = push(&house, "/v1/events", &event).await;
    assert_eq!((again.status, again.bytes.len()), (202, 0), "{}", again.text());
    assert_eq!(records(&house, &ended).await.len(), all.len());
    let forged =
        push(&house, "/v1/events", &idp.signed(&claims("e-1", session(&spared["session_id"])))).await;
    assert_eq!((forged.status, &forged.body["err"]), (400, &json!("invalid_request")), "{}", forged.text());
    assert!(forged.body["description"].as_str().unwrap().contains("`jti`"), "{}", forged.text());
    let entries = house.voice("default", "auditor").get("/v1/audit?verb=security_event").await;
    assert_eq!(entries.body["entries"].as_array().unwrap().len(), 1);
    whole(&house).await;
}

/// That is so after a restart, too: what was heard is in the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_was_used_stays_used_when_the_gateway_is_killed() {
    let (idp, mut house) = Transmitter::with("").await;
    let (one, two) = (
        opened(&house.agent(), house.token("default")).await,
        opened(&house.agent(), house.token("default")).await,
    );
    let event = idp.signed(&claims("e-1", session(&one["session_id"])));
    assert_eq!(push(&house, "/v1/events", &event).await.status, 202);
    house.gateway.kill();
    house.start();
    assert_eq!(push(&house, "/v1/events", &event).await.status, 202);
    let other = push(&house, "/v1/events", &idp.signed(&claims("e-1", session(&two["session_id"])))).await;
    assert_eq!((other.status, &other.body["err"]), (400, &json!("invalid_request")));
    assert_eq!(records(&house, &two).await.len(), 1, "the other session goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_event_of_a_transmitter_is_refused_in_its_words_and_nothing_is_written() {
    let (idp, house) = Transmitter::with("").await;
    let stranger = Ed25519KeyPair::generate().unwrap();
    let open = opened(&house.agent(), house.token("default")).await;
    let count = || {
        let db = Connection::open(house.path().join("data/production.db")).unwrap();
        let count = |table: &str| {
            db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
        };
        (count("entry"), count("security_event"))
    };
    let before = count();
    let good = claims("e-1", session(&open["session_id"]));
    let with = |member: &str, value: Value| {
        let mut claims = good.clone();
        claims[member] = value;
        idp.signed(&claims)
    };
    let now = jiff::Timestamp::now().as_second();
    let by_another = Transmitter { pair: stranger, _keys: tempfile::tempdir().unwrap() }.signed(&good);
    for (token, err, member) in [
        (String::new(), "invalid_request", ""),
        ("a.b.c".into(), "invalid_request", ""),
        (with("iss", json!("https://evil.example")), "invalid_issuer", "`iss`"),
        (with("aud", json!("https://other.example")), "invalid_audience", "`aud`"),
        (with("aud", json!(format!("{ISSUER}/sandbox"))), "invalid_audience", "`aud`"),
        (by_another, "authentication_failed", ""),
        (with("iat", json!(now + 3600)), "invalid_request", "`iat`"),
        (with("iat", json!(now - 90_000)), "invalid_request", "`iat`"),
        (with("jti", json!("")), "invalid_request", "`jti`"),
        (with("sub", json!("ses_1")), "invalid_request", "`sub`"),
        (with("events", json!({"https://a.example/login": {}})), "invalid_request", "`events`"),
        (with("sub_id", json!({"format": "email", "email": "a@b.example"})), "invalid_request", "`sub_id`"),
        (with("sub_id", session(&json!("ses_none"))), "invalid_request", "`id`"),
        (
            with("sub_id", json!({"format": "jwt_id", "iss": "nobody", "jti": open["mandate_id"]})),
            "invalid_request",
            "`iss`",
        ),
    ] {
        let said = push(&house, "/v1/events", &token).await;
        assert_eq!((said.status, said.body["err"].as_str()), (400, Some(err)), "{}", said.text());
        let told = said.body["description"].as_str().unwrap();
        assert!(told.contains(member) && !told.is_empty(), "{member}: {told}");
        assert_eq!(said.body.as_object().unwrap().len(), 2, "{}", said.text());
    }
    let said = house.nobody().post("/v1/events", &good).await;
    assert_eq!((said.status, said.code()), (415, "EP_UNSUPPORTED_MEDIA_TYPE"), "{}", said.text());
    let long = push(&house, "/v1/events", &"a".repeat(9_000)).await;
    assert_eq!((long.status, &long.body["err"]), (400, &json!("invalid_request")));
    assert_eq!(count(), before, "nothing is written");
    // What is the other tenant's is not this transmitter's to end.
    let theirs = opened(&house.voice("other", "agent"), house.token("other")).await;
    let said = push(&house, "/v1/events", &idp.signed(&claims("e-2", session(&theirs["session_id"])))).await;
    assert_eq!((said.status, &said.body["err"]), (400, &json!("invalid_request")), "{}", said.text());
}

/// A mandate, a child of it and a grandchild, each with sessions; one of them waits for a person.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_about_a_mandate_ends_every_session_of_its_tree() {
    let (idp, house) = Transmitter::with("[limits]\nrecovery_interval_ms = 50\n").await;
    let agent = house.agent();
    let mut tokens = vec![house.mandate("default", "90000.00").await];
    let mut ids = vec![jti(&tokens[0])];
    for _ in 0..2 {
        let path = format!("/v1/mandates/{}/delegate", ids.last().unwrap());
        let child = agent.post(&path, &json!({"subject": "default-agent"})).await;
        assert_eq!(child.status, 201, "{}", child.text());
        tokens.push(child.body["token"].as_str().unwrap().to_owned());
        ids.push(child.body["mandate"]["jti"].as_str().unwrap().to_owned());
    }
    let (quiet, _) = paying(&house, &agent, &tokens[0], "acct-1", "5.00").await;
    let (asking, held) = paying(&house, &agent, &tokens[1], "acct-2", "6000.00").await;
    assert_eq!(held.kind(), "held", "{}", held.text());
    let deep = opened(&agent, &tokens[2]).await;
    let spared = opened(&agent, house.token("default")).await;

    let about = json!({"format": "jwt_id", "iss": "default-operator", "jti": ids[0]});
    let heard = push(&house, "/v1/events", &idp.signed(&claims("e-1", about))).await;
    assert_eq!((heard.status, heard.bytes.len()), (202, 0), "{}", heard.text());
    let auditor = house.voice("default", "auditor");
    let trail = async |verb: &str| {
        let said = auditor.get(&format!("/v1/audit?verb={verb}")).await;
        let entries = said.body["entries"].as_array().unwrap().clone();
        assert_eq!(entries.len(), 1, "{verb}: {}", said.text());
        entries[0]["audit_id"].clone()
    };
    let (_, revoked, _) = (
        trail("security_event").await,
        trail("mandate_revoked").await,
        trail("revocation_acknowledged").await,
    );
    for (session, code, state) in
        [(&quiet, "ALE-002", "CLEAN"), (&asking, "ALE-003", "PARTIAL"), (&deep, "ALE-002", "CLEAN")]
    {
        let all = records(&house, session).await;
        // What waited ends in between.
        let first = all.iter().find(|it| it["ale_type"] == "ALE-001").unwrap();
        let last = all.last().unwrap();
        assert_eq!(first["ale_fields"]["trigger"], "R-6");
        assert_eq!(first["causal_parent_id"], revoked);
        assert_eq!((&last["ale_type"], &last["completion_state"]), (&json!(code), &json!(state)));
        assert_eq!(session["session_id"], last["session_id"]);
    }
    let unsettled = &records(&house, &asking).await.pop().unwrap()["ale_fields"]["unsettled"];
    assert_eq!(unsettled, &json!([held.id()]));
    assert_eq!(records(&house, &spared).await.len(), 1, "of another mandate");
    let after = agent.execute("late", &crate::house::payment("acct-9", "1.00", &tokens[2])).await;
    assert_eq!(after.code(), "EP_DELEGATION_BLOCK", "{}", after.text());
    whole(&house).await;
}

fn jti(token: &str) -> String {
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_revokes_a_mandate_is_told_which_sessions_ended_and_how() {
    let mut house = House::new().await;
    let agent = house.agent();
    let token = house.mandate("default", "90000.00").await;
    let quiet = opened(&agent, &token).await;
    let (asking, held) = paying(&house, &agent, &token, "acct-2", "6000.00").await;
    let closed = opened(&agent, &token).await;
    let said = agent.post(&path(&closed, "close"), &json!({"completion": "COMPLETE"})).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let revoke = format!("/v1/mandates/{}/revoke", jti(&token));
    let said = house.admin().post(&revoke, &json!({"reason": "drill"})).await;
    let view = |session: &Value, state: &str| {
        json!({
            "session_id": session["session_id"], "mandate_id": jti(&token), "completion_state": state,
        })
    };
    assert_eq!(
        said.body["sessions"],
        json!([view(&quiet, "CLEAN"), view(&asking, "PARTIAL")]),
        "{}",
        said.text()
    );
    let last = records(&house, &asking).await.pop().unwrap();
    assert_eq!(last["ale_fields"]["unsettled"], json!([held.id()]));
    assert_eq!(last["ale_fields"]["reason"], "drill");
    // What ended already is not ended again.
    let again = house.admin().post(&revoke, &json!({})).await;
    assert_eq!((again.status, &again.body["sessions"]), (200, &json!([])), "{}", again.text());
    whole(&house).await;
    house.gateway.stop();
    let told = entries(&house).await;
    let told = told.iter().filter_map(|entry| entry["event"].as_str());
    let told: Vec<&str> = told.filter(|event| event.starts_with("revocation_")).collect();
    assert_eq!(told, ["revocation_propagated", "revocation_acknowledged"]);
}

/// A cascade that a crash cut off is finished by whoever comes after; how those were left that it did not reach, nobody
/// knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_a_cascade_did_not_reach_end_as_unknown_and_expired_ones_as_they_are() {
    let config = "[limits]\nrecovery_interval_ms = 20\ncascade_timeout_ms = 1\n";
    let mut house = House::with(Plan { config: config.into(), ..Plan::default() }).await;
    let token = house.mandate("default", "90000.00").await;
    let child = format!("/v1/mandates/{}/delegate", jti(&token));
    let child = house.agent().post(&child, &json!({"subject": "default-agent"})).await;
    let below = opened(&house.agent(), child.body["token"].as_str().unwrap()).await;
    let body = json!({"subject": "default-agent", "scope": ["Payments"], "expires_in_seconds": 2});
    let short = house.voice("default", "operator").post("/v1/mandates", &body).await;
    let expiring = opened(&house.agent(), short.body["token"].as_str().unwrap()).await;
    house.gateway.stop();
    // As if it had died between the commit that ends the mandate and the first session.
    let db = Connection::open(house.path().join("data/production.db")).unwrap();
    let sql = "INSERT INTO account (key, epoch, spent, actions, revoked, frozen)
               SELECT account, 1, 0, 0, 1000, 0 FROM mandate WHERE jti = ?1
               ON CONFLICT (key) DO UPDATE SET revoked = 1000";
    assert_eq!(db.execute(sql, [jti(&token)]).unwrap(), 1);
    drop(db);
    house.start();
    for (session, trigger, code, state) in
        [(&below, "R-1", "ALE-004", "UNKNOWN"), (&expiring, "R-2", "ALE-002", "CLEAN")]
    {
        let ended = |all: &[Value]| all.last().unwrap()["ale_type"] == code;
        let all = recorded(&house, session, ended).await;
        // Who comes to the end of its mandate with nothing under way has left its session behind.
        let abandoned = trigger == "R-2";
        assert_eq!(all.len(), 3 + usize::from(abandoned), "{all:?}");
        assert_eq!(
            (&all[1]["ale_type"], &all[1]["ale_fields"]["trigger"]),
            (&json!("ALE-001"), &json!(trigger))
        );
        if abandoned {
            assert_eq!(
                (&all[2]["ale_type"], &all[2]["completion_state"]),
                (&json!("ALE-010"), &json!("CLEAN"))
            );
            assert_eq!(all[2]["ale_fields"]["last_record_at"], all[0]["timestamp"]);
            assert_eq!(all[2]["causal_parent_id"], all[1]["record_id"]);
        }
        let last = all.last().unwrap();
        assert_eq!((&last["ale_type"], &last["completion_state"]), (&json!(code), &json!(state)));
    }
}

/// Who told of it is still known when a session is ended that the cascade left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_ended_late_says_who_ended_its_mandate() {
    let (idp, mut house) =
        Transmitter::with("[limits]\nrecovery_interval_ms = 20\ncascade_timeout_ms = 1\n").await;
    let token = house.mandate("default", "90000.00").await;
    let left = opened(&house.agent(), &token).await;
    let about = json!({"format": "jwt_id", "iss": "default-operator", "jti": jti(&token)});
    assert_eq!(push(&house, "/v1/events", &idp.signed(&claims("e-1", about))).await.status, 202);
    let ended = |all: &[Value]| !all.last().unwrap()["completion_state"].is_null();
    recorded(&house, &left, ended).await;
    house.gateway.stop();
    // As if it had never been reached: all that it has on record is that it was opened.
    let db = Connection::open(house.path().join("data/production.db")).unwrap();
    let id = left["session_id"].as_str().unwrap();
    let of = "session = (SELECT key FROM session WHERE id = ?1)";
    assert!(db.execute(&format!("DELETE FROM record WHERE seq > 0 AND {of}"), [id]).unwrap() > 0);
    let sql = "UPDATE session SET closed = NULL, halt = NULL, suspended = 0, next = 1 WHERE id = ?1";
    assert_eq!(db.execute(sql, [id]).unwrap(), 1);
    drop(db);
    house.start();
    let all = recorded(&house, &left, ended).await;
    let [.., first, last] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((&first["ale_fields"]["trigger"], &first["ale_fields"]["by"]), (&json!("R-6"), &json!(IDP)));
    assert_eq!((&last["ale_type"], &last["completion_state"]), (&json!("ALE-004"), &json!("UNKNOWN")));
    let trail = house.voice("default", "auditor").get("/v1/audit?verb=mandate_revoked").await;
    assert_eq!(trail.body["entries"][0]["audit_id"], first["causal_parent_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_what_is_outside_or_prohibited_ends_their_session() {
    let house = House::new().await;
    let agent = house.agent();
    for (goal, archetype, trigger, code) in [
        ("Data", "PAYMENT_TRANSFER", "R-3", "IDP-E009"),
        ("Payments", "DELETE_AUDIT_LOG", "R-4", "EP_BOUNDARY_BLOCK"),
    ] {
        let session = opened(&agent, house.token("default")).await;
        let mut declared = intent(&session, &format!("i-{archetype}"), 1);
        declared["goal_scope"] = json!([goal]);
        assert_eq!(agent.post(&path(&session, "intents"), &declared).await.status, 201);
        let mut body = house.payment("acct-1", "1.00");
        (body["archetype"], body["session_id"]) = (archetype.into(), session["session_id"].clone());
        let said = agent.execute(&format!("out-{archetype}"), &body).await;
        assert_eq!((said.kind(), said.code()), ("blocked", code), "{}", said.text());
        let all = records(&house, &session).await;
        let [.., denied, first, last] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(denied["governance_decision"], "DENY");
        assert_eq!(
            (&first["ale_type"], &first["ale_fields"]["trigger"]),
            (&json!("ALE-001"), &json!(trigger))
        );
        assert_eq!(first["causal_parent_id"], denied["record_id"]);
        assert_eq!((&last["ale_type"], &last["completion_state"]), (&json!("ALE-002"), &json!("CLEAN")));
        let mut next = house.payment("acct-7", "1.00");
        next["session_id"] = session["session_id"].clone();
        let next = agent.execute(&format!("next-{archetype}"), &next).await;
        assert_eq!((next.kind(), next.code()), ("blocked", "EP_SESSION_REVOKED"), "{}", next.text());
        assert_eq!(agent.execute(&format!("out-{archetype}"), &body).await.text(), said.text());
    }
    whole(&house).await;
}

/// Whichever commit it dies after, the session of a cycle that was denied so is over when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_that_ends_its_session_does_so_wherever_the_gateway_dies() {
    let config = "[limits]\nrecovery_interval_ms = 20\n[sandbox]\nenabled = false\n".to_owned();
    let mut house = House::with(Plan { config, ..Plan::default() }).await;
    let (mut died, mut denied) = (0, 0);
    for commits in 1..=9 {
        let session = opened(&house.agent(), house.token("default")).await;
        let mut declared = intent(&session, &format!("i-{commits}"), 1);
        declared["goal_scope"] = json!(["Data"]);
        assert_eq!(house.agent().post(&path(&session, "intents"), &declared).await.status, 201);
        let mut body = house.payment("acct-1", "1.00");
        body["session_id"] = session["session_id"].clone();
        house.gateway.stop();
        let mut command = house.serve();
        command.env("COUNTERSIGN_CRASH_AT", format!("committed:{commits}"));
        // It may be over before it listens.
        let started = catch_unwind(AssertUnwindSafe(|| house.start_by(command)));
        died += match started {
            Ok(()) => u32::from(house.agent().try_execute(&format!("k-{commits}"), &body).await.is_err()),
            Err(_) => 0,
        };
        house.gateway.kill();
        house.start();
        let mut all = records(&house, &session).await;
        if !all.iter().any(|it| it["governance_decision"] == "DENY") {
            continue;
        }
        denied += 1;
        for _ in 0..500 {
            all = records(&house, &session).await;
            if all.last().is_some_and(|last| last["ale_type"] == "ALE-002") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let [.., refused, first, last] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(
            (&refused["governance_decision"], &first["ale_type"]),
            (&json!("DENY"), &json!("ALE-001"))
        );
        assert_eq!((&first["ale_fields"]["trigger"], &last["ale_type"]), (&json!("R-3"), &json!("ALE-002")));
        assert_eq!(
            (&first["causal_parent_id"], &last["causal_parent_id"]),
            (&refused["record_id"], &first["record_id"])
        );
    }
    assert!(died > 0 && denied > 0, "it died {died} times, {denied} were denied");
    whole(&house).await;
}

/// Returns at once when the bank has had so many.
async fn effects(house: &House, count: u64) {
    let had = async {
        while house.bank.effects().count < count {
            tokio::task::yield_now().await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(60), had).await;
    within.unwrap_or_else(|_| panic!("the bank has had {} effects", house.bank.effects().count));
}

/// Eight sessions with a thousand cycles, and their mandate is revoked meanwhile. The chain says who came before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_wins_over_a_thousand_cycles_and_lists_what_came_before() {
    let mut house = House::new().await;
    let token = house.mandate("default", "90000.00").await;
    let mut tasks = Vec::new();
    for n in 0..8 {
        let (session, first) = paying(&house, &house.agent(), &token, &format!("acct-{n}"), "1.00").await;
        assert_eq!(first.kind(), "executed", "{}", first.text());
        let bodies: Vec<Value> = (0..125)
            .map(|k| {
                let mut body = house.payment(&format!("acct-{n}-{k}"), "1.00");
                body["delegation_token"] = token.as_str().into();
                body["session_id"] = session["session_id"].clone();
                body
            })
            .collect();
        let agent = house.agent();
        tasks.push(tokio::spawn(async move {
            for (k, body) in bodies.iter().enumerate() {
                agent.execute(&format!("c-{n}-{k}"), body).await;
            }
        }));
    }
    effects(&house, 100).await;
    // Some are under way when it comes.
    house.bank.inject(Injection::payments(Fault::DelayAnswer { ms: 1000 }, 4));
    let begun = house.bank.effects().count;
    effects(&house, begun + 20).await;
    let said = house.admin().post(&format!("/v1/mandates/{}/revoke", jti(&token)), &json!({})).await;
    assert_eq!((said.status, said.body["sessions"].as_array().unwrap().len()), (200, 8), "{}", said.text());
    for task in tasks {
        task.await.unwrap();
    }
    whole(&house).await;
    house.gateway.stop();
    let (mut open, mut listed, mut after) = (BTreeSet::new(), None, 0);
    for entry in entries(&house).await {
        let id = entry["actionId"].as_str().unwrap_or_default().to_owned();
        match (entry["event"].as_str().unwrap(), &listed) {
            ("admitted", None) => drop(open.insert(id)),
            ("admitted", Some(_)) => after += 1,
            ("executed" | "failed", None) => drop(open.remove(&id)),
            ("mandate_revoked", _) => listed = Some(open.clone()),
            _ => {}
        }
    }
    assert_eq!(after, 0, "admitted after the revocation");
    let told = said.body["unsettled"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
    assert_eq!(told.collect::<BTreeSet<_>>(), listed.unwrap());
}

/// Every entry of the chain, in order, once nobody holds the store.
async fn entries(house: &House) -> Vec<Value> {
    let store = house.store().await;
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.entries(after, 500).await.unwrap();
        all.extend(page.rows.iter().map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()));
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}
