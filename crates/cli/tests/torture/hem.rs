//! What people decide about held cycles, over HTTP, with a crash in between: within limits, a question, the end of the
//! mission, more time. And what becomes of those that nobody decides about.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use serde_json::{Value, json};
use testkit::bank::{Fault, Injection};

use crate::approvals::ask_for;
use crate::house::{House, Plan, Said, Voice};
use crate::passkey::Passkey;
use crate::sessions::{intent, path};
use crate::visitor::{Visitor, enrolled};

/// A house in which a key is enough to agree.
async fn house(needed: u32) -> House {
    let config = "[limits]\nrecovery_interval_ms = 50\n".to_owned();
    let house = House::with(Plan { config, ..Plan::default() }).await;
    ask_for(&house, needed);
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    house
}

/// Someone more who approves.
async fn person(house: &House, subject: &str) -> Voice {
    let body = json!({"subject": subject, "role": "approver"});
    let made = house.admin().post("/v1/keys", &body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let key = made.body["secret"].as_str().unwrap().to_owned();
    Voice { key: Some(key), ..house.nobody() }
}

/// A mandate of so many seconds: its id and token.
async fn timed(house: &House, seconds: u64) -> (String, String) {
    let body = json!({
        "subject": "default-agent", "scope": ["Payments"], "expires_in_seconds": 3600,
        "spend_cap": {"amount": "90000.00", "currency": "USD"},
        "resource_envelope": {"max_duration_seconds": seconds},
    });
    let issued = house.voice("default", "operator").post("/v1/mandates", &body).await;
    assert_eq!(issued.status, 201, "{}", issued.text());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&issued.body["mandate"]["jti"]), text(&issued.body["token"]))
}

/// A session in which anything may be paid.
async fn session(house: &House, voice: &Voice, token: &str, id: &str) -> Value {
    let opened = voice.post("/v1/sessions", &json!({"delegation_token": token})).await;
    assert_eq!(opened.status, 201, "{}", opened.text());
    let mut body = intent(&opened.body, id, 1);
    let delegated = house.agent().get(&path(&opened.body, "context")).await;
    let depth = delegated.body["delegation_context"]["delegation_depth"].as_u64().unwrap_or(1);
    body["reasoning_mode"] = if depth > 0 { "DELEGATED" } else { "CHAIN" }.into();
    let declared = voice.post(&path(&opened.body, "intents"), &body).await;
    assert_eq!(declared.status, 201, "{}", declared.text());
    opened.body
}

async fn cycle(voice: &Voice, session: &Value, id: &str, number: u64, amount: &str) -> Said {
    let tail = session["session_id"].as_str().unwrap();
    let body = json!({
        "archetype": "PAYMENT_TRANSFER", "idempotency_key": format!("{tail}-{number}"),
        "constraints": {
            "recipient": format!("acct-{}-{number}", &tail[tail.len() - 8..]),
            "amount_usd": amount, "max_total_usd": "9000.00",
        },
        "intent_id": id, "action_sequence_number": number,
    });
    voice.post(&path(session, "cycles"), &body).await
}

/// The same until it is over.
async fn ended(voice: &Voice, session: &Value, id: &str, number: u64, amount: &str) -> Said {
    for _ in 0..1000 {
        let said = cycle(voice, session, id, number, amount).await;
        if !["held", "pending_settlement"].contains(&said.body["response"]["kind"].as_str().unwrap()) {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not end");
}

/// A cycle that waits.
async fn held(voice: &Voice, session: &Value, id: &str, number: u64) -> String {
    let said = cycle(voice, session, id, number, "6000.00").await;
    assert_eq!(said.body["response"]["kind"], "held", "{}", said.text());
    said.body["cycle_id"].as_str().unwrap().to_owned()
}

async fn decide(voice: &Voice, id: &str, ruling: &str, more: Value) -> Said {
    let mut body = more;
    body["decision"] = ruling.into();
    voice.post(&format!("/v1/actions/{id}/decide"), &body).await
}

async fn show(house: &House, id: &str) -> Value {
    house.voice("default", "auditor").get(&format!("/v1/approvals/{id}")).await.body
}

async fn state(house: &House, session: &Value) -> Value {
    house.voice("default", "auditor").get(&path(session, "")).await.body
}

/// Returns once a session is over as `REVOKED`.
async fn revoked_in_the_end(house: &House, session: &Value) {
    for _ in 0..1000 {
        if state(house, session).await["completion"] == "REVOKED" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is never revoked: {}", state(house, session).await);
}

/// By what its records say that a session was halted, and how that left it.
async fn halted(house: &House, session: &Value) -> Vec<[Value; 2]> {
    let records = house.voice("default", "auditor").get(&path(session, "record")).await;
    let records = records.body["items"].as_array().unwrap().clone();
    let first: Vec<_> = records.iter().filter(|it| it["ale_type"] == "ALE-001").collect();
    let last: Vec<_> = records.iter().filter(|it| !it["completion_state"].is_null()).collect();
    assert_eq!(first.len(), last.len(), "it is stopped once: {records:?}");
    first
        .into_iter()
        .zip(last)
        .map(|(first, last)| [first["ale_fields"]["trigger"].clone(), last["completion_state"].clone()])
        .collect()
}

async fn is_whole(house: &House) {
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
}

/// What a refusal names.
fn named(said: &Said, status: u16, code: &str, member: &str) {
    assert_eq!((said.status, said.code()), (status, code), "{}", said.text());
    assert!(said.text().contains(member), "{member}: {}", said.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_who_approves_are_kept_and_only_lower() {
    let mut house = house(2).await;
    let (approver, anna) = (house.voice("default", "approver"), person(&house, "anna").await);
    let (agent, token) = (house.agent(), house.token("default").to_owned());
    let one = session(&house, &agent, &token, "i-1").await;
    let id = held(&agent, &one, "i-1", 2).await;
    let before = show(&house, &id).await;
    let decisions = ["APPROVE", "APPROVE_WITH_CONSTRAINTS", "DENY", "REQUEST_MORE_INFO", "REVOKE_MISSION"];
    assert_eq!(before["available_decisions"], json!(decisions));
    assert_eq!(before["escalation_classes"], json!([4, 6]));
    assert_eq!((&before["session_id"], &before["intent_id"]), (&one["session_id"], &json!("i-1")));
    let wrong = "EP_VALIDATION_FAILED";
    for (ruling, more, member) in [
        ("APPROVE_WITH_CONSTRAINTS", json!({}), "limits"),
        ("APPROVE_WITH_CONSTRAINTS", json!({"limits": {}}), "limits"),
        ("APPROVE_WITH_CONSTRAINTS", json!({"limits": {"max_amount": "5999.99"}}), "max_amount"),
        ("APPROVE_WITH_CONSTRAINTS", json!({"limits": {"max_amount": 7000}}), "max_amount"),
        ("APPROVE_WITH_CONSTRAINTS", json!({"limits": {"max_amount": "7000.00.0"}}), "max_amount"),
        ("APPROVE_WITH_CONSTRAINTS", json!({"limits": {"not_after": "2020-01-01T00:00:00Z"}}), "not_after"),
        ("APPROVE_WITH_CONSTRAINTS", json!({"limits": {"not_after": "2100-01-01T00:00:00Z"}}), "not_after"),
        ("APPROVE_WITH_CONSTRAINTS", json!({"limits": {"not_after": "soon"}}), "not_after"),
        ("APPROVE_WITH_CONSTRAINTS", json!({"limits": {"recipient": "acct-2"}}), "limits"),
        ("APPROVE", json!({"limits": {"max_amount": "7000.00"}}), "limits"),
        ("APPROVE", json!({"seconds": 5}), "seconds"),
        ("DENY", json!({"question": "why?"}), "question"),
        ("REQUEST_MORE_INFO", json!({}), "question"),
        ("REQUEST_MORE_INFO", json!({"question": ""}), "question"),
        ("EXTEND_BUDGET", json!({"seconds": "5"}), "seconds"),
        ("PERHAPS", json!({}), "decision"),
    ] {
        named(&decide(&approver, &id, ruling, more).await, 422, wrong, member);
    }
    assert_eq!(decide(&approver, &id, "APPROVE", json!({"unknown": 1})).await.status, 422);
    assert_eq!(show(&house, &id).await, before, "nothing was written");
    let soon = jiff::Timestamp::now() + Duration::from_secs(2);
    let yes = json!({"limits": {"max_amount": "6000.00", "not_after": soon.to_string()}, "comment": "today"});
    let said = decide(&approver, &id, "APPROVE_WITH_CONSTRAINTS", yes).await;
    assert_eq!(said.status, 200, "{}", said.text());
    assert_eq!(said.body["approvals"][0]["limits"]["max_amount"], "6000.00");
    house.gateway.kill();
    house.start();
    while jiff::Timestamp::now() <= soon {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let anna = Voice { url: house.gateway.url.clone(), ..anna };
    assert_eq!(decide(&anna, &id, "APPROVE", json!({})).await.status, 200);
    let agent = house.agent();
    let over = ended(&agent, &one, "i-1", 2, "6000.00").await;
    let told = (&over.body["response"]["code"], &over.body["response"]["details"]["reasons"]);
    assert_eq!(told, (&json!("EP_BOUNDARY_BLOCK"), &json!(["beyond_approval"])), "{}", over.text());
    // Within its limits it is carried out.
    let id = held(&agent, &one, "i-1", 3).await;
    let approver = house.voice("default", "approver");
    let yes = json!({"limits": {"max_amount": "6500.00"}});
    assert_eq!(decide(&approver, &id, "APPROVE_WITH_CONSTRAINTS", yes).await.status, 200);
    assert_eq!(decide(&anna, &id, "APPROVE", json!({})).await.status, 200);
    let done = ended(&agent, &one, "i-1", 3, "6000.00").await;
    assert_eq!(done.body["response"]["kind"], "executed", "{}", done.text());
    let name = done.body["response"]["receipt_id"].as_str().unwrap();
    let document = house.agent().get(&format!("/v1/receipts/{name}")).await;
    let limits = &document.body["metadata"]["approvals"][0]["envelope"]["limits"];
    assert_eq!(
        *limits,
        json!({"max_amount": {"amount": "6500.00", "currency": "USD"}}),
        "{}",
        document.text()
    );
    let verdict = crate::house::verdict(&document.bytes, &house.jwks().await);
    assert!(matches!(verdict, receipt::Verdict::Valid), "{}", document.text());
    assert_eq!(house.bank.effects().count, 1);
    is_whole(&house).await;
}

/// What `session_limits` says wherever it is shown.
async fn limits_of_session(house: &House, session: &Value) -> Value {
    let shown = state(house, session).await["session_limits"].clone();
    let context = house.voice("default", "auditor").get(&path(session, "context")).await;
    assert_eq!(context.body["session_limits"], shown, "{}", context.text());
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_for_a_session_hold_for_what_follows_in_it_and_are_only_ever_lowered() {
    let mut house = house(2).await;
    let (approver, anna) = (house.voice("default", "approver"), person(&house, "anna").await);
    let (agent, token) = (house.agent(), house.token("default").to_owned());
    let one = session(&house, &agent, &token, "i-1").await;
    let id = held(&agent, &one, "i-1", 2).await;
    // Outside of sessions there is none to limit.
    let plain = agent.execute("plain", &house.payment("acct-plain", "7000.00")).await;
    let for_session = |amount: &str| json!({"limits": {"max_amount": amount, "applies_to": "SESSION"}});
    let ruling = "APPROVE_WITH_CONSTRAINTS";
    let refused = decide(&approver, plain.id(), ruling, for_session("7000.00")).await;
    named(&refused, 422, "EP_VALIDATION_FAILED", "applies_to");
    for (limits, member) in [
        (json!({"applies_to": "SESSION"}), "limits"),
        (json!({"max_amount": "6000.00", "applies_to": "MANDATE"}), "applies_to"),
        (json!({"max_amount": "6000.00", "applies_to": 7}), "applies_to"),
        (json!({"not_after": "2999-01-01T00:00:00Z", "applies_to": "SESSION"}), "mandate"),
    ] {
        let said = decide(&approver, &id, ruling, json!({"limits": limits})).await;
        named(&said, 422, "EP_VALIDATION_FAILED", member);
    }
    assert_eq!(limits_of_session(&house, &one).await, Value::Null);
    // They hold with the first of two words, and the second sets none that are wider.
    assert_eq!(decide(&approver, &id, ruling, for_session("6500.00")).await.status, 200);
    let limited = json!({"max_amount": "6500.00", "currency": "USD", "not_after": null});
    assert_eq!(limits_of_session(&house, &one).await, limited);
    assert_eq!(show(&house, &id).await["session_limits"], limited);
    house.gateway.kill();
    house.start();
    let anna = Voice { url: house.gateway.url.clone(), ..anna };
    let said = decide(&anna, &id, ruling, for_session("7000.00")).await;
    assert_eq!((said.status, &said.body["session_limits"]), (200, &limited), "{}", said.text());
    assert_eq!(said.body["approvals"][1]["limits"]["applies_to"], "SESSION");
    let (agent, approver) = (house.agent(), house.voice("default", "approver"));
    let done = ended(&agent, &one, "i-1", 2, "6000.00").await;
    assert_eq!(done.body["response"]["kind"], "executed", "{}", done.text());
    assert_eq!(limits_of_session(&house, &one).await, limited);
    // Beyond it a cycle is denied as beyond the mandate, and the session goes on.
    let over = cycle(&agent, &one, "i-1", 3, "6500.01").await;
    let told = (&over.body["response"]["code"], &over.body["response"]["details"]["reasons"]);
    assert_eq!(told, (&json!("EP_DELEGATION_BLOCK"), &json!(["beyond_session"])), "{}", over.text());
    assert_eq!(over.body["governance_result"], "DENY");
    assert_eq!(state(&house, &one).await["state"], "ACTIVE");
    assert_eq!(cycle(&agent, &one, "i-1", 4, "1.00").await.body["response"]["kind"], "executed");
    let other = session(&house, &agent, &token, "i-2").await;
    assert_eq!(limits_of_session(&house, &other).await, Value::Null, "another session of the same mandate");
    // Lower, and for so long.
    let id = held(&agent, &one, "i-1", 5).await;
    let soon = jiff::Timestamp::now() + Duration::from_secs(2);
    let until = json!({"limits": {"not_after": soon.to_string(), "applies_to": "SESSION"}});
    assert_eq!(decide(&approver, &id, ruling, until).await.status, 200);
    assert_eq!(decide(&anna, &id, ruling, for_session("6000.00")).await.status, 200);
    assert_eq!(ended(&agent, &one, "i-1", 5, "6000.00").await.body["response"]["kind"], "executed");
    assert_eq!(limits_of_session(&house, &one).await["max_amount"], "6000.00");
    while jiff::Timestamp::now() <= soon {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let late = cycle(&agent, &one, "i-1", 6, "1.00").await;
    assert_eq!(late.body["response"]["details"]["reasons"], json!(["beyond_session"]), "{}", late.text());
    // It is on record, caused by the word, and what was decided decides again as it did.
    let records = agent.get(&path(&one, "record")).await.body["items"].as_array().unwrap().clone();
    let set: Vec<&Value> =
        records.iter().filter(|it| !it["ale_fields"]["session_limits"].is_null()).collect();
    assert_eq!(set.len(), 4, "{records:?}");
    assert_eq!(set[1]["ale_fields"]["session_limits"], limited);
    assert_eq!(set[1]["ale_fields"]["set"]["max_amount"], "7000.00");
    for record in set {
        let before = record["session_sequence_number"].as_u64().unwrap() - 1;
        assert_eq!(record["causal_parent_id"], records[usize::try_from(before).unwrap()]["record_id"]);
    }
    for denied in [&over, &late] {
        let replay = format!("/v1/actions/{}/replay", denied.body["cycle_id"].as_str().unwrap());
        let again = house.admin().get(&replay).await;
        assert_eq!((again.status, &again.body["differences"]), (200, &json!([])), "{}", again.text());
        assert_eq!(again.body["replayed"], "block beyond_session", "{}", again.text());
    }
    is_whole(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_reaches_the_agent_and_with_its_answer_people_look_again() {
    let mut house = house(1).await;
    let (agent, token) = (house.agent(), house.token("default").to_owned());
    let one = session(&house, &agent, &token, "i-1").await;
    assert_eq!(agent.get(&path(&one, "context")).await.body["escalation"], Value::Null);
    let id = held(&agent, &one, "i-1", 2).await;
    let approver = house.voice("default", "approver");
    let answer = |voice: &Voice, text: Value| {
        let (voice, path) = (voice.clone(), format!("/v1/actions/{id}/answer"));
        async move { voice.post(&path, &json!({"answer": text})).await }
    };
    named(&answer(&agent, json!("unasked")).await, 409, "EP_STATE_CONFLICT", "nothing is asked");
    let asked = decide(&approver, &id, "REQUEST_MORE_INFO", json!({"question": "Which invoice?"})).await;
    assert_eq!((asked.status, &asked.body["state"]), (200, &json!("INTENDED")), "{}", asked.text());
    assert_eq!(asked.body["escalation_id"], format!("{id}-2"));
    house.gateway.kill();
    house.start();
    let agent = house.agent();
    let waits = agent.get(&path(&one, "context")).await.body["escalation"].take();
    assert_eq!(
        (&waits["action_id"], &waits["exchanges"][0]["question"]),
        (&json!(id), &json!("Which invoice?"))
    );
    assert_eq!(state(&house, &one).await["state"], "HEM_PENDING");
    let rival = house.voice("default", "rival");
    assert_eq!(answer(&rival, json!("mine")).await.status, 404);
    for wrong in [json!(""), json!(7), Value::Null, json!("a\u{202e}b"), json!("x".repeat(1001))] {
        named(&answer(&agent, wrong).await, 422, "EP_VALIDATION_FAILED", "answer");
    }
    let told = answer(&agent, json!("INV-7, as ordered")).await;
    assert_eq!(told.status, 200, "{}", told.text());
    assert_eq!(told.body["exchanges"][0]["answer"], "INV-7, as ordered");
    named(&answer(&agent, json!("and more")).await, 409, "EP_STATE_CONFLICT", "nothing is asked");
    let seen = show(&house, &id).await;
    assert_eq!((&seen["escalation_id"], &seen["approvals"]), (&json!(format!("{id}-3")), &json!([])));
    assert_eq!(seen["exchanges"][0]["by"], "default-approver");
    let approver = house.voice("default", "approver");
    assert_eq!(decide(&approver, &id, "APPROVE", json!({})).await.status, 200);
    assert_eq!(ended(&agent, &one, "i-1", 2, "6000.00").await.body["governance_result"], "PROCEED");
    // Of what is no cycle nobody asks an agent anything.
    let plain = agent.execute("plain", &house.payment("acct-plain", "7000.00")).await;
    assert_eq!(plain.kind(), "held", "{}", plain.text());
    let refused = decide(&approver, plain.id(), "REQUEST_MORE_INFO", json!({"question": "Why?"})).await;
    named(&refused, 409, "EP_STATE_CONFLICT", "REQUEST_MORE_INFO");
    let records = agent.get(&path(&one, "record")).await;
    assert_eq!(records.body["items"].as_array().unwrap().len(), 8, "asked and answered are records");
    is_whole(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mission_that_is_revoked_ends_with_all_that_descends_from_it() {
    let mut house = house(1).await;
    let (agent, rival) = (house.agent(), house.voice("default", "rival"));
    let (jti, token) = timed(&house, 3000).await;
    let one = session(&house, &agent, &token, "i-1").await;
    let ask = json!({"subject": "default-rival", "requires_approval": []});
    let child = agent.post(&format!("/v1/mandates/{jti}/delegate"), &ask).await;
    assert_eq!(child.status, 201, "{}", child.text());
    let below = session(&house, &rival, child.body["token"].as_str().unwrap(), "i-2").await;
    let apart = session(&house, &agent, house.token("default"), "i-3").await;
    let id = held(&agent, &one, "i-1", 2).await;
    house.gateway.kill();
    house.start();
    let approver = house.voice("default", "approver");
    let said = decide(&approver, &id, "REVOKE_MISSION", json!({"comment": "it runs wild"})).await;
    assert_eq!((said.status, &said.body["state"]), (200, &json!("FAILED")), "{}", said.text());
    assert_eq!(said.body["approvals"][0]["decision"], "revoke_mission");
    house.gateway.kill();
    house.start();
    for (session, completion) in [(&one, json!("REVOKED")), (&below, json!("REVOKED")), (&apart, Value::Null)]
    {
        assert_eq!(state(&house, session).await["completion"], completion);
    }
    assert_eq!(halted(&house, &one).await, [[json!("R-1"), json!("PARTIAL")]]);
    assert_eq!(halted(&house, &below).await, [[json!("R-1"), json!("CLEAN")]]);
    let mandate = house.voice("default", "operator").get(&format!("/v1/mandates/{jti}")).await;
    assert_ne!(mandate.body["mandate"]["revoked_at"], Value::Null, "{}", mandate.text());
    let (agent, rival) = (house.agent(), house.voice("default", "rival"));
    let over = cycle(&agent, &one, "i-1", 2, "6000.00").await;
    let told = (&over.body["response"]["code"], &over.body["response"]["details"]["reasons"]);
    assert_eq!(told, (&json!("EP_SESSION_REVOKED"), &json!(["mission_revoked"])), "{}", over.text());
    let below = cycle(&rival, &below, "i-2", 2, "1.00").await;
    assert_eq!(below.body["response"]["kind"], "blocked", "{}", below.text());
    let goes_on = cycle(&agent, &apart, "i-3", 2, "1.00").await;
    assert_eq!(goes_on.body["response"]["kind"], "executed", "{}", goes_on.text());
    // Whoever ends the session ends what waits in it, and nobody is asked about that any more.
    let left = held(&agent, &apart, "i-3", 3).await;
    let operator = house.voice("default", "operator");
    let closed = operator.post(&path(&apart, "close"), &json!({"completion": "REVOKED"})).await;
    assert_eq!(
        (closed.status, &closed.body["session"]["halt"]),
        (200, &json!("PARTIAL")),
        "{}",
        closed.text()
    );
    assert_eq!((&closed.body["session"]["waiting"], &closed.body["unsettled"]), (&json!(0), &json!([left])));
    let ended = cycle(&agent, &apart, "i-3", 3, "6000.00").await;
    let told = (&ended.body["response"]["code"], &ended.body["response"]["details"]["reasons"]);
    assert_eq!(told, (&json!("EP_SESSION_REVOKED"), &json!(["session_revoked"])), "{}", ended.text());
    let late = decide(&house.voice("default", "approver"), &left, "REVOKE_MISSION", json!({})).await;
    assert_eq!((late.status, late.code()), (409, "EP_STATE_CONFLICT"));
    let again = decide(&house.voice("default", "approver"), &id, "REVOKE_MISSION", json!({})).await;
    assert_eq!((again.status, again.code()), (409, "EP_STATE_CONFLICT"));
    assert_eq!(house.bank.effects().count, 1);
    is_whole(&house).await;
}

/// Three sessions of one mission wait for people. One word ends all of them, wherever the gateway dies meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_word_ends_everything_that_waits_in_the_mission() {
    let config =
        "[limits]\nrecovery_interval_ms = 20\ncascade_timeout_ms = 100\n[sandbox]\nenabled = false\n";
    let mut house = House::with(Plan { config: config.to_owned(), ..Plan::default() }).await;
    ask_for(&house, 1);
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    let mut died = 0;
    // The log's own commits count, too.
    for commits in 0..=15 {
        let (agent, (jti, token)) = (house.agent(), timed(&house, 3000).await);
        let mut waiting = Vec::new();
        for n in 0..3 {
            let name = format!("i-{commits}-{n}");
            let one = session(&house, &agent, &token, &name).await;
            waiting.push((held(&agent, &one, &name, 2).await, one, name));
        }
        house.gateway.stop();
        let mut command = house.serve();
        if commits > 0 {
            command.env("COUNTERSIGN_CRASH_AT", format!("committed:{commits}"));
        }
        // It may be over before it listens.
        if catch_unwind(AssertUnwindSafe(|| house.start_by(command))).is_ok() {
            let decided = json!({"decision": "REVOKE_MISSION"});
            let voice = house.voice("default", "approver");
            let path = format!("/v1/actions/{}/decide", waiting[0].0);
            died += u32::from(Said::of(voice.request("POST", &path).json(&decided)).await.is_err());
        }
        house.gateway.kill();
        house.start();
        // Where nothing of the word was written it is said again, and where something was, that is enough.
        let revoked = house.voice("default", "operator").get(&format!("/v1/mandates/{jti}")).await;
        if revoked.body["mandate"]["revoked_at"].is_null() {
            let voice = house.voice("default", "approver");
            let said = decide(&voice, &waiting[0].0, "REVOKE_MISSION", json!({})).await;
            assert_eq!(said.status, 200, "{}", said.text());
        }
        for (id, one, name) in &waiting {
            let over = ended(&house.agent(), one, name, 2, "6000.00").await;
            assert_eq!(over.body["response"]["code"], "EP_SESSION_REVOKED", "{}", over.text());
            revoked_in_the_end(&house, one).await;
            let late = decide(&house.voice("default", "approver"), id, "APPROVE", json!({})).await;
            assert_eq!((late.status, late.code()), (409, "EP_STATE_CONFLICT"));
        }
        let inbox = house.voice("default", "approver").get("/v1/approvals").await;
        assert_eq!(inbox.body["items"], json!([]), "{}", inbox.text());
    }
    assert!(died > 2, "it died {died} times");
    assert_eq!(house.bank.effects().count, 0);
    is_whole(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_agreed_before_may_still_end_the_mission() {
    let house = house(2).await;
    let (agent, approver) = (house.agent(), house.voice("default", "approver"));
    let one = session(&house, &agent, house.token("default"), "i-1").await;
    let id = held(&agent, &one, "i-1", 2).await;
    assert_eq!(decide(&approver, &id, "APPROVE", json!({})).await.status, 200);
    let over = decide(&approver, &id, "REVOKE_MISSION", json!({})).await;
    assert_eq!((over.status, &over.body["state"]), (200, &json!("FAILED")), "{}", over.text());
    let told = cycle(&agent, &one, "i-1", 2, "6000.00").await;
    assert_eq!(told.body["response"]["code"], "EP_SESSION_REVOKED", "{}", told.text());
    assert_eq!(state(&house, &one).await["completion"], "REVOKED");
    is_whole(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_time_left_is_given_more_and_goes_on() {
    let mut house = house(1).await;
    let (jti, token) = timed(&house, 1).await;
    let agent = house.agent();
    let one = session(&house, &agent, &token, "i-1").await;
    let other = session(&house, &agent, &token, "i-2").await;
    let first = cycle(&agent, &one, "i-1", 2, "1.00").await;
    assert_eq!(first.body["response"]["kind"], "executed", "{}", first.text());
    let waits = cycle(&agent, &one, "i-1", 3, "1.00").await;
    assert_eq!(
        (&waits.body["governance_result"], waits.status),
        (&json!("SUSPEND"), 202),
        "{}",
        waits.text()
    );
    let blocked = cycle(&agent, &other, "i-2", 2, "1.00").await;
    assert_eq!(blocked.body["response"]["code"], "EP_BUDGET_EXHAUSTED", "{}", blocked.text());
    let id = waits.body["cycle_id"].as_str().unwrap().to_owned();
    let approver = house.voice("default", "approver");
    let shown = show(&house, &id).await;
    let decisions = ["DENY", "REQUEST_MORE_INFO", "REVOKE_MISSION", "EXTEND_BUDGET"];
    assert_eq!(
        (&shown["available_decisions"], &shown["escalation_classes"]),
        (&json!(decisions), &json!([7]))
    );
    let yes = decide(&approver, &id, "APPROVE", json!({})).await;
    named(&yes, 409, "EP_STATE_CONFLICT", "APPROVE");
    for wrong in [json!(0), json!(-1), json!(1.5), Value::Null] {
        let said = decide(&approver, &id, "EXTEND_BUDGET", json!({"seconds": wrong})).await;
        named(&said, 422, "EP_VALIDATION_FAILED", "seconds");
    }
    assert_eq!(show(&house, &id).await, shown, "nothing was written");
    house.gateway.kill();
    house.start();
    let approver = house.voice("default", "approver");
    let more = decide(&approver, &id, "EXTEND_BUDGET", json!({"seconds": 100, "comment": "worth it"})).await;
    assert_eq!(more.status, 200, "{}", more.text());
    let agent = house.agent();
    let done = ended(&agent, &one, "i-1", 3, "1.00").await;
    assert_eq!(done.body["governance_result"], "PROCEED", "{}", done.text());
    // Every session of the mandate goes on, and what is left is what was granted.
    let next = cycle(&agent, &other, "i-2", 3, "1.00").await;
    assert_eq!(next.body["response"]["kind"], "executed", "{}", next.text());
    let left = agent.get(&path(&other, "context")).await.body["time_budget_remaining"].as_u64().unwrap();
    assert!((80..=98).contains(&left), "{left}");
    let operator = house.voice("default", "operator");
    let mandate = operator.get(&format!("/v1/mandates/{jti}")).await;
    assert_eq!(mandate.body["mandate"]["granted_seconds"], 100, "{}", mandate.text());
    let resumed = operator.get("/v1/gar?ale_type=ALE-009").await;
    let [resumed] = resumed.body["items"].as_array().unwrap().as_slice() else {
        panic!("{}", resumed.text())
    };
    assert_eq!(
        (&resumed["session_id"], &resumed["governance_decision"]),
        (&one["session_id"], &json!("ALLOW"))
    );
    let seen = show(&house, &id).await;
    assert_eq!(seen["approvals"][0]["decision"], "extend_budget");
    assert_eq!(seen["approvals"][0]["seconds"], 100);
    is_whole(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_extends_a_mandate_within_what_its_parent_has_left() {
    let mut house = house(1).await;
    let (jti, token) = timed(&house, 1).await;
    let (agent, operator) = (house.agent(), house.voice("default", "operator"));
    let one = session(&house, &agent, &token, "i-1").await;
    cycle(&agent, &one, "i-1", 2, "1.00").await;
    let waits = cycle(&agent, &one, "i-1", 3, "1.00").await;
    assert_eq!(waits.body["governance_result"], "SUSPEND", "{}", waits.text());
    let extend = async |voice: &Voice, jti: &str, body: Value| {
        voice.post(&format!("/v1/mandates/{jti}/extend"), &body).await
    };
    for wrong in [json!({}), json!({"seconds": 0}), json!({"seconds": "9"})] {
        named(&extend(&operator, &jti, wrong).await, 422, "EP_VALIDATION_FAILED", "seconds");
    }
    let reason = json!({"seconds": 5, "reason": 7});
    named(&extend(&operator, &jti, reason).await, 422, "EP_VALIDATION_FAILED", "reason");
    let lines = json!({"seconds": 5, "reason": "two\nlines"});
    named(&extend(&operator, &jti, lines).await, 422, "EP_VALIDATION_FAILED", "`reason`");
    assert_eq!(extend(&operator, &jti, json!({"seconds": 5, "by": "me"})).await.status, 422);
    assert_eq!(extend(&operator, "mnd_none", json!({"seconds": 5})).await.status, 404);
    let unlimited =
        house.agent().post("/v1/sessions", &json!({"delegation_token": house.token("default")})).await;
    let unlimited = unlimited.body["mandate_id"].as_str().unwrap().to_owned();
    named(
        &extend(&operator, &unlimited, json!({"seconds": 5})).await,
        409,
        "EP_STATE_CONFLICT",
        "no time budget",
    );
    house.gateway.kill();
    house.start();
    let (agent, operator) = (house.agent(), house.voice("default", "operator"));
    let more = extend(&operator, &jti, json!({"seconds": 50, "reason": "the month is long"})).await;
    assert_eq!(more.status, 200, "{}", more.text());
    assert_eq!(more.body["resumed"], json!([waits.body["cycle_id"]]));
    assert_eq!(ended(&agent, &one, "i-1", 3, "1.00").await.body["governance_result"], "PROCEED");
    // A child never has more left than its parent.
    let ask = json!({"subject": "default-agent", "resource_envelope": {"max_duration_seconds": 10}});
    let child = agent.post(&format!("/v1/mandates/{jti}/delegate"), &ask).await;
    let child = child.body["mandate"]["jti"].as_str().unwrap().to_owned();
    let narrow = extend(&operator, &child, json!({"seconds": 100})).await;
    named(&narrow, 422, "MANDATE_NARROWING_VIOLATION", "seconds");
    assert_eq!(extend(&operator, &child, json!({"seconds": 20})).await.status, 200);
    // Whoever acts under a mandate does not extend it, whatever their key is.
    let body = json!({"subject": "default-agent", "role": "operator"});
    let made = house.admin().post("/v1/keys", &body).await;
    let double = Voice { key: Some(made.body["secret"].as_str().unwrap().to_owned()), ..house.nobody() };
    assert_eq!(extend(&double, &jti, json!({"seconds": 5})).await.status, 403);
    // And policies have the last word.
    let policy = "@id(\"short\") forbid (principal, action == Action::\"ExtendBudget\", resource)\n\
                  when { context.seconds > 10 };";
    std::fs::write(house.path().join("policies/default/extend.cedar"), policy).unwrap();
    let reloaded = house.admin().post("/v1/reload", &json!({})).await;
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    named(&extend(&operator, &jti, json!({"seconds": 11})).await, 403, "EP_FORBIDDEN", "short");
    assert_eq!(extend(&operator, &jti, json!({"seconds": 10})).await.status, 200);
    let granted = operator.get(&format!("/v1/mandates/{jti}")).await;
    assert_eq!(granted.body["mandate"]["granted_seconds"], 60, "{}", granted.text());
    let revoked = operator.post(&format!("/v1/mandates/{jti}/revoke"), &json!({})).await;
    assert_eq!(revoked.status, 200);
    assert_eq!(extend(&operator, &jti, json!({"seconds": 5})).await.status, 409);
    let trail = house.voice("default", "auditor").get("/v1/audit?verb=budget_extended").await;
    assert_eq!(trail.body["entries"].as_array().unwrap().len(), 3, "{}", trail.text());
    is_whole(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_decides_nothing_whatever_the_decision() {
    let house = house(1).await;
    let agent = house.agent();
    let one = session(&house, &agent, house.token("default"), "i-1").await;
    let id = held(&agent, &one, "i-1", 2).await;
    let double = person(&house, "default-agent").await;
    let operator = person(&house, "default-operator").await;
    let all = [
        ("APPROVE", json!({})),
        ("APPROVE_WITH_CONSTRAINTS", json!({"limits": {"max_amount": "6000.00"}})),
        ("DENY", json!({})),
        ("REQUEST_MORE_INFO", json!({"question": "Why?"})),
        ("REVOKE_MISSION", json!({})),
        ("EXTEND_BUDGET", json!({"seconds": 5})),
    ];
    for (ruling, more) in all {
        for voice in [&double, &operator] {
            let said = decide(voice, &id, ruling, more.clone()).await;
            assert_eq!((said.status, said.code()), (403, "EP_FORBIDDEN"), "{ruling}: {}", said.text());
        }
    }
    assert_eq!(show(&house, &id).await["approvals"], json!([]));
    assert_eq!(state(&house, &one).await["state"], "HEM_PENDING");
    is_whole(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_one_and_two_are_nobodys_to_decide() {
    let house = house(1).await;
    let (agent, approver) = (house.agent(), house.voice("default", "approver"));
    let one = session(&house, &agent, house.token("default"), "i-1").await;
    let prohibited = json!({
        "archetype": "DELETE_AUDIT_LOG", "constraints": {}, "intent_id": "i-1", "action_sequence_number": 2,
        "idempotency_key": "p-1",
    });
    let other = session(&house, &agent, house.token("default"), "i-3").await;
    let mut elsewhere = intent(&other, "i-2", 3);
    elsewhere["goal_scope"] = json!(["Data"]);
    assert_eq!(agent.post(&path(&other, "intents"), &elsewhere).await.status, 201);
    let scope = json!({
        "archetype": "PAYMENT_TRANSFER", "intent_id": "i-2", "action_sequence_number": 4, "idempotency_key": "p-2",
        "constraints": {"recipient": "acct-2", "amount_usd": "6000.00", "max_total_usd": "6000.00"},
    });
    for (session, body, trigger) in [(&one, prohibited, "R-4"), (&other, scope, "R-3")] {
        let said = agent.post(&path(session, "cycles"), &body).await;
        assert_eq!(said.body["governance_result"], "DENY", "{}", said.text());
        let id = said.body["cycle_id"].as_str().unwrap();
        for ruling in ["APPROVE", "DENY", "REVOKE_MISSION"] {
            assert_eq!(decide(&approver, id, ruling, json!({})).await.status, 409, "{ruling}");
        }
        assert_eq!(halted(&house, session).await, [[json!(trigger), json!("CLEAN")]]);
    }
    assert_eq!(house.bank.effects().count, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_in_time_denies_the_cycle_or_ends_its_session_as_configured() {
    for (word, completion) in [("deny", Value::Null), ("terminate", json!("REVOKED"))] {
        let config =
            format!("[limits]\nrecovery_interval_ms = 50\nheld_seconds = 1\nheld_on_timeout = \"{word}\"\n");
        let house = House::with(Plan { config, ..Plan::default() }).await;
        let agent = house.agent();
        let one = session(&house, &agent, house.token("default"), "i-1").await;
        held(&agent, &one, "i-1", 2).await;
        let over = ended(&agent, &one, "i-1", 2, "6000.00").await;
        assert_eq!(over.body["response"]["code"], "EP_APPROVAL_EXPIRED", "{}", over.text());
        if word == "terminate" {
            revoked_in_the_end(&house, &one).await;
        }
        assert_eq!(state(&house, &one).await["completion"], completion, "{word}");
        let told = [[json!("HEM_TIMEOUT"), json!("PARTIAL")]];
        let told = if word == "terminate" { &told[..] } else { &[] };
        assert_eq!(halted(&house, &one).await, told);
        assert_eq!(house.bank.effects().count, 0);
        is_whole(&house).await;
    }
}

/// R-5: where nothing is left, and who is asked for more gives none, or nobody comes, the session is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_nothing_left_and_is_given_nothing_has_come_to_the_end_of_the_session() {
    for held_seconds in [3600, 1] {
        let config = format!("[limits]\nrecovery_interval_ms = 50\nheld_seconds = {held_seconds}\n");
        let house = House::with(Plan { config, ..Plan::default() }).await;
        ask_for(&house, 1);
        assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
        let (_, token) = timed(&house, 1).await;
        let (agent, approver) = (house.agent(), house.voice("default", "approver"));
        let one = session(&house, &agent, &token, "i-1").await;
        let other = session(&house, &agent, &token, "i-2").await;
        cycle(&agent, &one, "i-1", 2, "1.00").await;
        let waits = cycle(&agent, &one, "i-1", 3, "1.00").await;
        assert_eq!(waits.body["governance_result"], "SUSPEND", "{}", waits.text());
        let id = waits.body["cycle_id"].as_str().unwrap();
        if held_seconds > 1 {
            let double = person(&house, "default-agent").await;
            assert_eq!(decide(&double, id, "DENY", json!({})).await.status, 403);
            assert_eq!(state(&house, &one).await["completion"], Value::Null, "that is nobody's word");
            let no = decide(&approver, id, "DENY", json!({"comment": "enough"})).await;
            assert_eq!((no.status, &no.body["state"]), (200, &json!("FAILED")), "{}", no.text());
        }
        let over = ended(&agent, &one, "i-1", 3, "1.00").await;
        let code = if held_seconds > 1 { "EP_APPROVAL_DENIED" } else { "EP_APPROVAL_EXPIRED" };
        assert_eq!(over.body["response"]["code"], code, "{}", over.text());
        assert_eq!(over.body["governance_result"], "DENY", "{}", over.text());
        revoked_in_the_end(&house, &one).await;
        assert_eq!(halted(&house, &one).await, [[json!("R-5"), json!("PARTIAL")]]);
        // Another session of the mandate asks anew.
        assert_eq!(state(&house, &other).await["completion"], Value::Null);
        let asks = cycle(&agent, &other, "i-2", 2, "1.00").await;
        assert_eq!(asks.body["response"]["kind"], "held", "{}", asks.text());
        is_whole(&house).await;
    }
}

/// What of an escalation is not told as what it is about: how its session stands meanwhile, where people are asked, and until
/// when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_escalation_says_how_its_session_is_left_where_people_are_asked_and_until_when() {
    let house = house(1).await;
    let agent = house.agent();
    for (under_way, completion) in [(None, "CLEAN"), (Some(Fault::LostBeforeEffect), "UNKNOWN")] {
        let one = session(&house, &agent, house.token("default"), &format!("i-{completion}")).await;
        if let Some(fault) = under_way {
            house.bank.inject(Injection::payments(fault, 1));
            house.bank.inject(Injection::queries(Fault::DelayAnswer { ms: 60_000 }, 100));
            let said = cycle(&agent, &one, &format!("i-{completion}"), 2, "1.00").await;
            assert_eq!(said.body["response"]["kind"], "pending_settlement", "{}", said.text());
        }
        let id = held(&agent, &one, &format!("i-{completion}"), 3).await;
        let shown = show(&house, &id).await;
        assert_eq!(shown["completion_state"], completion, "{shown}");
        assert_eq!(shown["out_of_band_ref"], format!("{}/approvals/{id}", crate::house::ISSUER));
        let until: jiff::Timestamp = shown["expires_at"].as_str().unwrap().parse().unwrap();
        assert!(until > jiff::Timestamp::now() + Duration::from_secs(3600), "{shown}");
        assert_eq!(shown["reasons"][0], json!("irreversible"), "{shown}");
        assert_eq!(shown["mandate_id"], one["mandate_id"]);
        let approver = house.voice("default", "approver");
        assert_eq!(decide(&approver, &id, "DENY", json!({})).await.status, 200);
        let over = show(&house, &id).await;
        assert_eq!((&over["completion_state"], &over["out_of_band_ref"]), (&Value::Null, &Value::Null));
    }
}

/// What somebody changes who can write to the store while nobody looks.
pub(crate) async fn tampered(house: &mut House, sql: &str) -> Value {
    house.gateway.kill();
    let store = rusqlite::Connection::open(house.path().join("data/production.db")).unwrap();
    assert_eq!(store.execute(sql, []).unwrap(), 1, "{sql}");
    drop(store);
    house.start();
    house.voice("default", "auditor").get("/v1/audit/verify").await.body["findings"].take()
}

pub(crate) fn tells(findings: &Value, what: &str) {
    let told = findings.as_array().unwrap();
    assert!(told.iter().any(|it| it.to_string().contains(what)), "{what}: {findings}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_that_is_forged_in_the_store_is_found_and_does_nothing() {
    let mut house = house(2).await;
    let (agent, approver) = (house.agent(), house.voice("default", "approver"));
    let one = session(&house, &agent, house.token("default"), "i-1").await;
    let id = held(&agent, &one, "i-1", 2).await;
    decide(&approver, &id, "REQUEST_MORE_INFO", json!({"question": "Why?"})).await;
    let yes = json!({"limits": {"max_amount": "6000.00"}});
    assert_eq!(decide(&approver, &id, "APPROVE_WITH_CONSTRAINTS", yes).await.status, 200);
    is_whole(&house).await;
    // Somebody takes the limits out of a yes, and puts them back.
    let shorter = r#"UPDATE approval SET record = CAST(replace(CAST(record AS TEXT), '"limits":{"max_amount":{"amount":"6000.00","currency":"USD"}},', '') AS BLOB) WHERE record LIKE '%"limits"%'"#;
    house.gateway.kill();
    let store = rusqlite::Connection::open(house.path().join("data/production.db")).unwrap();
    let kept: Vec<u8> = store
        .query_row("SELECT record FROM approval WHERE CAST(record AS TEXT) LIKE '%\"limits\"%'", [], |row| {
            row.get(0)
        })
        .unwrap();
    drop(store);
    house.start();
    tells(&tampered(&mut house, shorter).await, "approval");
    house.gateway.kill();
    let store = rusqlite::Connection::open(house.path().join("data/production.db")).unwrap();
    store.execute("UPDATE approval SET record = ?1 WHERE round = 2", [&kept]).unwrap();
    drop(store);
    house.start();
    is_whole(&house).await;
    // A yes that nobody said, and the state that it would bring about.
    let forged = "INSERT INTO approval (action, round, approver, at, entry, record)
                  SELECT action, round, 'carl', at, entry, record FROM approval WHERE round = 2";
    tells(&tampered(&mut house, forged).await, "approval");
    tampered(&mut house, "UPDATE fate SET state = 0 WHERE state = 1").await;
    for _ in 0..400 {
        if house.log().contains("people did not agree") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(house.log().contains("people did not agree"), "{}", house.log());
    assert_eq!(house.bank.effects().count, 0, "nothing was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_that_nobody_gave_is_found() {
    let mut house = house(1).await;
    let (jti, token) = timed(&house, 1).await;
    let agent = house.agent();
    let one = session(&house, &agent, &token, "i-1").await;
    cycle(&agent, &one, "i-1", 2, "1.00").await;
    let more = json!({"seconds": 5});
    let operator = house.voice("default", "operator");
    assert_eq!(operator.post(&format!("/v1/mandates/{jti}/extend"), &more).await.status, 200);
    is_whole(&house).await;
    let findings = tampered(&mut house, "UPDATE account SET granted = 500 WHERE granted = 5").await;
    tells(&findings, &format!("mandate `{jti}` is not as the entries have it"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_stand_in_what_a_passkey_signs() {
    let house =
        House::with(Plan { config: "[limits]\nrecovery_interval_ms = 50\n".into(), ..Plan::default() }).await;
    let (agent, approver) = (house.agent(), house.voice("default", "approver"));
    let passkey = Passkey::new("anna-laptop");
    enrolled(&house, &approver, &passkey).await;
    let one = session(&house, &agent, house.token("default"), "i-1").await;
    let id = held(&agent, &one, "i-1", 2).await;
    named(&decide(&approver, &id, "APPROVE", json!({})).await, 403, "EP_FORBIDDEN", "API key");
    let ask = async |limits: Value| {
        let body = json!({"comment": "as agreed", "limits": limits});
        approver.post(&format!("/v1/actions/{id}/envelope"), &body).await
    };
    named(&ask(json!({"max_amount": "1.00"})).await, 422, "EP_VALIDATION_FAILED", "max_amount");
    let asked = ask(json!({"max_amount": "6200.00", "applies_to": "SESSION"})).await;
    let limits = json!({"applies_to": "SESSION", "max_amount": {"amount": "6200.00", "currency": "USD"}});
    assert_eq!(asked.body["envelope"]["limits"], limits, "{}", asked.text());
    let assertion = passkey.get(&asked.body["challenge"]);
    let widened = json!({"assertion": assertion, "limits": {"max_amount": "9000.00"}});
    let refused = decide(&approver, &id, "APPROVE_WITH_CONSTRAINTS", widened).await;
    named(&refused, 422, "EP_VALIDATION_FAILED", "limits");
    let said = decide(&approver, &id, "APPROVE_WITH_CONSTRAINTS", json!({"assertion": assertion})).await;
    assert_eq!(said.status, 200, "{}", said.text());
    assert_eq!(said.body["approvals"][0]["limits"]["max_amount"], "6200.00");
    let done = ended(&agent, &one, "i-1", 2, "6000.00").await;
    assert_eq!(done.body["response"]["kind"], "executed", "{}", done.text());
    let name = done.body["response"]["receipt_id"].as_str().unwrap();
    let receipt = house.admin().get(&format!("/v1/receipts/{name}")).await;
    assert_eq!(receipt.body["metadata"]["approvals"][0]["envelope"]["limits"], limits);
    assert_eq!(limits_of_session(&house, &one).await["max_amount"], "6200.00");
    let verdict = crate::house::verdict(&receipt.bytes, &house.jwks().await);
    assert!(matches!(verdict, receipt::Verdict::Valid), "{}", receipt.text());
    is_whole(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_has_a_form_for_each_decision() {
    let house = house(1).await;
    let (agent, approver) = (house.agent(), house.voice("default", "approver"));
    let (jti, token) = timed(&house, 1).await;
    let one = session(&house, &agent, house.token("default"), "i-1").await;
    let id = held(&agent, &one, "i-1", 2).await;
    let mut anna = Visitor::logged_in(&house, &approver).await;
    let page = anna.look(&format!("/approvals/{id}")).await.text();
    for form in [
        "name=\"max_amount\"",
        "name=\"not_after\"",
        "name=\"applies_to\"",
        "REQUEST_MORE_INFO",
        "REVOKE_MISSION",
    ] {
        assert!(page.contains(form), "{form}: {page}");
    }
    assert!(!page.contains("EXTEND_BUDGET"));
    let to = format!("/approvals/{id}/decide");
    let asked = anna.send(&to, &[("as", "REQUEST_MORE_INFO"), ("text", "Which <b>invoice</b>?")]).await;
    assert_eq!(asked.status, 303, "{}", asked.text());
    let answered = agent.post(&format!("/v1/actions/{id}/answer"), &json!({"answer": "INV-7 <i>"})).await;
    assert_eq!(answered.status, 200, "{}", answered.text());
    let page = anna.look(&format!("/approvals/{id}")).await.text();
    assert!(page.contains("Which &lt;b&gt;invoice&lt;/b&gt;?") && page.contains("INV-7 &lt;i&gt;"), "{page}");
    let wrong = anna.send(&format!("/approvals/{id}/approve"), &[("max_amount", "1.00")]).await;
    assert_eq!(wrong.status, 422, "{}", wrong.text());
    for wrong in ["APPROVE", "PERHAPS", ""] {
        assert_eq!(anna.send(&to, &[("as", wrong)]).await.status, 422, "{wrong}");
    }
    let forged = anna.send_as(&to, &[("form", "guessed"), ("as", "REVOKE_MISSION")], &[]).await;
    assert_eq!(forged.status, 403, "{}", forged.text());
    // Who means the session and says no limit would agree to all of it.
    let forgot = [("max_amount", ""), ("not_after", ""), ("applies_to", "SESSION")];
    let wrong = anna.send(&format!("/approvals/{id}/approve"), &forgot).await;
    assert_eq!(wrong.status, 422, "{}", wrong.text());
    let yes = [("max_amount", "6000.00"), ("not_after", ""), ("comment", ""), ("applies_to", "SESSION")];
    assert_eq!(anna.send(&format!("/approvals/{id}/approve"), &yes).await.status, 303);
    assert_eq!(ended(&agent, &one, "i-1", 2, "6000.00").await.body["governance_result"], "PROCEED");
    let page = anna.look(&format!("/approvals/{id}")).await.text();
    assert!(page.contains("yes, up to 6000.00 USD, for the rest of the session"), "{page}");
    assert!(page.contains("<dt>Its session</dt><dd>up to 6000.00 USD</dd>"), "{page}");
    // More time, and the end.
    let two = session(&house, &agent, &token, "i-2").await;
    cycle(&agent, &two, "i-2", 2, "1.00").await;
    let waits = cycle(&agent, &two, "i-2", 3, "1.00").await;
    let id = waits.body["cycle_id"].as_str().unwrap().to_owned();
    let page = anna.look(&format!("/approvals/{id}")).await.text();
    assert!(page.contains("EXTEND_BUDGET") && !page.contains("/approve\""), "{page}");
    let to = format!("/approvals/{id}/decide");
    assert_eq!(anna.send(&to, &[("as", "EXTEND_BUDGET"), ("seconds", "many")]).await.status, 422);
    assert_eq!(anna.send(&to, &[("as", "EXTEND_BUDGET"), ("seconds", "60")]).await.status, 303);
    assert_eq!(ended(&agent, &two, "i-2", 3, "1.00").await.body["governance_result"], "PROCEED");
    let id = held(&agent, &two, "i-2", 4).await;
    anna.look(&format!("/approvals/{id}")).await;
    assert_eq!(anna.send(&format!("/approvals/{id}/decide"), &[("as", "REVOKE_MISSION")]).await.status, 303);
    assert_eq!(state(&house, &two).await["completion"], "REVOKED");
    let mandate = house.voice("default", "operator").get(&format!("/v1/mandates/{jti}")).await;
    assert_ne!(mandate.body["mandate"]["revoked_at"], Value::Null);
    is_whole(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_every_decision() {
    let house = house(1).await;
    let run = |voice: &Voice, args: &[&str]| {
        let mut command = crate::house::countersign();
        command
            .args(args)
            .args(["--url", &voice.url])
            .env("COUNTERSIGN_API_KEY", voice.key.as_ref().unwrap());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let (agent, approver) = (house.agent(), house.voice("default", "approver"));
    let (jti, token) = timed(&house, 1).await;
    let one = session(&house, &agent, house.token("default"), "i-1").await;
    let id = held(&agent, &one, "i-1", 2).await;
    let asked = run(&approver, &["approvals", "ask", &id, "Which invoice?"]);
    assert_eq!(asked["exchanges"][0]["question"], "Which invoice?");
    let answered = run(&agent, &["session", "answer", &id, "INV-7"]);
    assert_eq!(answered["exchanges"][0]["answer"], "INV-7");
    let args = ["approvals", "approve", &id, "--max-amount", "6000.00", "--for-session", "--comment", "ok"];
    let yes = run(&approver, &args);
    assert_eq!(yes["approvals"][0]["limits"]["max_amount"], "6000.00");
    assert_eq!(
        run(&agent, &["session", "show", one["session_id"].as_str().unwrap()])["session_limits"]["max_amount"],
        "6000.00"
    );
    ended(&agent, &one, "i-1", 2, "6000.00").await;
    let two = session(&house, &agent, &token, "i-2").await;
    cycle(&agent, &two, "i-2", 2, "1.00").await;
    let waits = cycle(&agent, &two, "i-2", 3, "1.00").await;
    let more =
        run(&approver, &["approvals", "extend", waits.body["cycle_id"].as_str().unwrap(), "--by", "1m"]);
    assert_eq!(more["approvals"][0]["seconds"], 60);
    ended(&agent, &two, "i-2", 3, "1.00").await;
    let operator = house.voice("default", "operator");
    let extended =
        run(&operator, &["mandate", "extend", &jti, "--by", "1m", "--reason", "the month is long"]);
    assert_eq!((&extended["mandate"]["granted_seconds"], &extended["resumed"]), (&json!(120), &json!([])));
    let id = held(&agent, &two, "i-2", 4).await;
    let over = run(&approver, &["approvals", "revoke-mission", &id, "--comment", "enough"]);
    assert_eq!(over["state"], "FAILED");
    is_whole(&house).await;
}

/// A receiver of notices: what kind each is, and the hash of the entry it tells of.
async fn receiver() -> (std::net::SocketAddr, Arc<Mutex<Vec<(String, String)>>>) {
    let heard: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let keep = Arc::clone(&heard);
    let app = axum::Router::new().fallback(move |body: axum::body::Bytes| {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let text = |pointer: &str| body.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        keep.lock().unwrap().push((text("/type"), text("/data/entry")));
        async { axum::http::StatusCode::NO_CONTENT }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_of_an_escalation_is_told_of_a_record_that_is_signed() {
    let (receiver, heard) = receiver().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("hook.key");
    std::fs::write(&key, format!("whsec_{}\n", STANDARD.encode([7; 32]))).unwrap();
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
        "#,
        key.display()
    );
    let house = House::with(Plan { config, reach: vec![receiver.to_string()], ..Plan::default() }).await;
    let agent = house.agent();
    let one = session(&house, &agent, house.token("default"), "i-1").await;
    let id = held(&agent, &one, "i-1", 2).await;
    let told = async |event: &str| {
        for _ in 0..1000 {
            if let Some((_, entry)) = heard.lock().unwrap().iter().find(|(kind, _)| kind == event) {
                return entry.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody is told of {event}");
    };
    let entry = told("action.held").await;
    let records = agent.get(&path(&one, "record")).await;
    let records = records.body["items"].as_array().unwrap();
    let record = records.iter().find(|it| it["governance_decision"] == "ESCALATE").unwrap();
    // A notice names the entry as it was committed, and that holds the signature already.
    assert_eq!(record["hash"], format!("sha256:{entry}"));
    assert!(!record["kernel_signature"].as_str().unwrap().is_empty());
    // And of the agent's answer, so that people look again.
    let approver = house.voice("default", "approver");
    assert_eq!(decide(&approver, &id, "REQUEST_MORE_INFO", json!({"question": "Why?"})).await.status, 200);
    let answer = json!({"answer": "INV-7"});
    assert_eq!(agent.post(&format!("/v1/actions/{id}/answer"), &answer).await.status, 200);
    told("action.info_given").await;
    is_whole(&house).await;
}
