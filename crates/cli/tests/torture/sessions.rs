//! Governed sessions over HTTP and by the command line, and what is left of them after a crash.

use std::process::Command;

use serde_json::{Value, json};

use crate::audit::fits_prov_json;
use crate::clusters::written;
use crate::house::{House, Plan, Voice, countersign};

/// A declaration for a session as the gateway shows it.
pub(crate) fn intent(session: &Value, id: &str, number: u64) -> Value {
    json!({
        "intent_id": id, "session_id": session["session_id"], "mandate_id": session["mandate_id"],
        "gec_instance_id": session["gec_instance_id"], "goal_type": "reconcile", "goal_scope": ["Payments"],
        "reasoning_mode": "DIRECT", "action_sequence_number": number, "expires_at": "2100-01-01T00:00:00Z",
    })
}

async fn opened(house: &House, agent: &Voice) -> Value {
    let said = agent.post("/v1/sessions", &json!({"delegation_token": house.token("default")})).await;
    assert_eq!(said.status, 201, "{}", said.text());
    said.body
}

pub(crate) fn path(session: &Value, part: &str) -> String {
    format!("/v1/sessions/{}/{part}", session["session_id"].as_str().unwrap())
        .trim_end_matches('/')
        .to_owned()
}

/// The members of a governance record, and no others.
const MEMBERS: [&str; 16] = [
    "ale_fields",
    "ale_type",
    "causal_parent_id",
    "cedar_policy_ids",
    "completion_state",
    "governance_decision",
    "hash",
    "hem_layer_discrepancy",
    "intent_id",
    "kernel_signature",
    "mandate_id",
    "previous_hash",
    "record_id",
    "session_id",
    "session_sequence_number",
    "timestamp",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_records_of_a_session_survive_a_crash_and_verify() {
    let mut house = House::new().await;
    let session = opened(&house, &house.agent()).await;
    let declared = house.agent().post(&path(&session, "intents"), &intent(&session, "i-1", 1)).await;
    assert_eq!(declared.status, 201, "{}", declared.text());
    house.gateway.kill();
    house.start();
    let agent = house.agent();
    let again = agent.post(&path(&session, "intents"), &intent(&session, "i-1", 2)).await;
    assert_eq!((again.status, again.code()), (409, "IDP-E006"));
    let closed = agent.post(&path(&session, "close"), &json!({"completion": "COMPLETE"})).await;
    assert_eq!(closed.status, 200, "{}", closed.text());
    let said = agent.get(&path(&session, "record")).await;
    let records = said.body["items"].as_array().unwrap();
    assert_eq!(records.len(), 4);
    for (seq, record) in records.iter().enumerate() {
        let names: Vec<&String> = record.as_object().unwrap().keys().collect();
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(sorted, MEMBERS, "{record}");
        assert_eq!(record["session_sequence_number"], seq);
    }
    assert_eq!(records[1]["record_id"], declared.body["record_id"]);
    assert_eq!(records[1]["kernel_signature"], declared.body["kernel_signature"]);
    assert_eq!(records[3], closed.body["record"]);
    // The same names lead to the same entries of the trail.
    let trail = house.voice("default", "auditor").get("/v1/audit?verb=session_closed").await;
    assert_eq!(trail.body["entries"][0]["audit_id"], records[3]["record_id"]);
    assert_eq!(trail.body["entries"][0]["hash"], records[3]["hash"]);
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fingerprint_is_that_of_the_context_it_stands_in() {
    let house = House::new().await;
    let session = opened(&house, &house.agent()).await;
    let mut context = house.agent().get(&path(&session, "context")).await.body;
    let fingerprint = context.as_object_mut().unwrap().remove("fingerprint").unwrap();
    // It stays while the situation does, and is another in another session.
    let declared = house.agent().post(&path(&session, "intents"), &intent(&session, "i-1", 1)).await;
    assert_eq!(declared.status, 201, "{}", declared.text());
    let later = house.agent().get(&path(&session, "context")).await.body;
    assert_eq!((&later["fingerprint"], &later["sequence"]), (&fingerprint, &json!(1)));
    let other = opened(&house, &house.agent()).await;
    assert_ne!(house.agent().get(&path(&other, "context")).await.body["fingerprint"], fingerprint);
    let mut names: Vec<&String> = context.as_object().unwrap().keys().collect();
    names.sort();
    let expected = [
        "cluster_context",
        "cycle_id",
        "delegation_context",
        "escalation",
        "intent_id",
        "mandate_id",
        "prior_denial_count",
        "reasoning_mode",
        "resource_envelope",
        "sequence",
        "session_id",
        "session_limits",
        "time_budget_remaining",
    ];
    assert_eq!(names, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_gateway_says_of_a_session_no_client_says() {
    let house = House::new().await;
    let agent = house.agent();
    let session = opened(&house, &agent).await;
    let given = ["time_budget_remaining", "resource_envelope", "delegation_context", "cluster_context"];
    for member in
        given.into_iter().chain(["cycle_id", "escalation", "sequence", "prior_denial_count", "fingerprint"])
    {
        let with = |mut body: Value| {
            body[member] = json!(1);
            body
        };
        let open =
            agent.post("/v1/sessions", &with(json!({"delegation_token": house.token("default")}))).await;
        let close = agent.post(&path(&session, "close"), &with(json!({"completion": "COMPLETE"}))).await;
        for said in [open, close] {
            assert_eq!((said.status, said.code()), (422, "EP_VALIDATION_FAILED"), "{member}");
            assert!(said.body["message"].as_str().unwrap().starts_with(member), "{}", said.text());
        }
        let intent = agent.post(&path(&session, "intents"), &with(intent(&session, "i", 1))).await;
        assert_eq!((intent.status, intent.code()), (422, "IDP-E002"));
        assert!(intent.body["message"].as_str().unwrap().starts_with(member), "{}", intent.text());
        let action = agent.execute(&format!("k-{member}"), &with(house.payment("acct-1", "1.00"))).await;
        assert_eq!((action.status, action.code()), (422, "EP_VALIDATION_FAILED"), "{member}");
    }
    let left = agent.get(&path(&session, "record")).await;
    assert_eq!(left.body["items"].as_array().unwrap().len(), 1 + 9, "of each refused declaration a record");
    assert_eq!(agent.get("/v1/sessions").await.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(house.bank.effects().count, 0);
}

fn cycle(key: &str, recipient: &str, number: u64) -> Value {
    json!({
        "archetype": "PAYMENT_TRANSFER", "idempotency_key": key,
        "constraints": {"recipient": recipient, "amount_usd": "1.00", "max_total_usd": "900.00"},
        "intent_id": "i-1", "action_sequence_number": number,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_is_answered_with_its_record_over_http_and_by_every_protocol() {
    let house = House::new().await;
    let agent = house.agent();
    let session = opened(&house, &agent).await;
    let declared = agent.post(&path(&session, "intents"), &with_mode(&session, "CHAIN")).await;
    assert_eq!(declared.status, 201, "{}", declared.text());
    let said = agent.post(&path(&session, "cycles"), &cycle("k-1", "acct-1", 2)).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let mut names: Vec<&String> = said.body.as_object().unwrap().keys().collect();
    names.sort();
    let expected = [
        "cluster_context",
        "cycle_id",
        "delegation_context",
        "gar_record_id",
        "governance_result",
        "intent_id",
        "reasoning_mode",
        "resource_envelope",
        "response",
        "session_id",
        "time_budget_remaining",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        (&said.body["governance_result"], &said.body["response"]["kind"]),
        (&json!("PROCEED"), &json!("executed"))
    );
    let again = agent.post(&path(&session, "cycles"), &cycle("k-1", "acct-1", 2)).await;
    assert_eq!((again.replayed(), again.text()), (true, said.text()), "byte for byte");
    // The same number once more, under another key.
    let late = agent.post(&path(&session, "cycles"), &cycle("k-2", "acct-2", 2)).await;
    assert_eq!((late.status, &late.body["response"]["code"]), (409, &json!("IDP-E005")), "{}", late.text());
    assert_eq!(late.body["governance_result"], "DENY");
    // Both other protocols answer in their own words.
    let mut plain = house.payment("acct-3", "1.00");
    plain["session_id"] = session["session_id"].clone();
    let plain = agent.execute("k-3", &plain).await;
    assert_eq!((plain.kind(), plain.body.get("governance_result")), ("executed", None), "{}", plain.text());
    let atp = json!({
        "session_id": session["session_id"], "idempotency_key": "k-4",
        "action": {"verb": "PAYMENT_TRANSFER", "parameters": cycle("", "acct-4", 9)["constraints"]},
    });
    let atp = agent.post("/v1/actions", &atp).await;
    assert_eq!((atp.status, &atp.body["result"]["state"]), (200, &json!("COMPLETED")), "{}", atp.text());
    let record = agent.get(&path(&session, "record")).await;
    let items = record.body["items"].as_array().unwrap();
    assert_eq!(items.len(), 2 + 2 + 1 + 2 + 2, "{}", record.text());
    assert_eq!(items[2]["record_id"], said.body["gar_record_id"]);
    assert_eq!(house.bank.effects().count, 3);
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
}

fn with_mode(session: &Value, mode: &str) -> Value {
    let mut body = intent(session, "i-1", 1);
    body["reasoning_mode"] = mode.into();
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_amid_cycles_its_records_have_no_gap_and_every_effect_is_there_once() {
    let plan = Plan { config: "[limits]\nrecovery_interval_ms = 50\n".into(), ..Plan::default() };
    let mut house = House::with(plan).await;
    let session = opened(&house, &house.agent()).await;
    let declared = house.agent().post(&path(&session, "intents"), &with_mode(&session, "CHAIN")).await;
    assert_eq!(declared.status, 201, "{}", declared.text());
    let mut keys: Vec<(String, Value)> = Vec::new();
    for round in 0..5 {
        let sent: Vec<_> = (0..16)
            .map(|n| {
                let (key, mut body) =
                    (format!("r{round}-{n}"), house.payment(&format!("acct-{round}-{n}"), "1.00"));
                body["session_id"] = session["session_id"].clone();
                keys.push((key.clone(), body.clone()));
                let agent = house.agent();
                tokio::spawn(async move { agent.try_execute(&key, &body).await.map(drop) })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(20 + 25 * round)).await;
        house.gateway.kill();
        for sent in sent {
            let _ = sent.await.unwrap();
        }
        house.start();
    }
    let agent = house.agent();
    let mut executed = 0;
    for (key, body) in &keys {
        // What is in doubt is asked after first; what never reached the bank has failed, and may not have happened.
        let said = loop {
            let said = agent.insist(key, body).await;
            if !matches!(said.kind(), "pending_settlement") && said.code() != "EP_UNAVAILABLE" {
                break said;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert!(["executed", "failed"].contains(&said.kind()), "{}", said.text());
        executed += u64::from(said.kind() == "executed");
    }
    assert_eq!(house.bank.effects().count, executed);
    let (mut numbers, mut cursor) = (Vec::new(), String::new());
    loop {
        let said = agent.get(&path(&session, &format!("record?limit=100{cursor}"))).await;
        let items = said.body["items"].as_array().unwrap();
        numbers.extend(items.iter().map(|it| it["session_sequence_number"].as_u64().unwrap()));
        match said.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert!(numbers.len() >= 2 + 2 * keys.len());
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_told_as_provenance() {
    let house = House::new().await;
    let agent = house.agent();
    let session = opened(&house, &agent).await;
    for n in 1..3 {
        let declared = agent.post(&path(&session, "intents"), &intent(&session, &format!("i-{n}"), n)).await;
        assert_eq!(declared.status, 201);
    }
    let operator = house.voice("default", "operator");
    let revoked = operator.post(&path(&session, "close"), &json!({"completion": "REVOKED"})).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    let said = agent.get(&path(&session, "record?format=prov")).await;
    assert_eq!(said.headers["content-type"], "application/prov+json");
    let document = &said.body;
    let part = |name: &str| document[name].as_object().unwrap();
    let agents: Vec<&String> = part("agent").keys().collect();
    assert_eq!(agents, ["cs:agent-default-agent", "cs:agent-default-operator"]);
    // Opened, declared twice, stopped, halted: each but the first was caused by another.
    assert_eq!((part("activity").len(), part("wasInformedBy").len()), (5, 4));
    assert_eq!((part("actedOnBehalfOf").len(), part("wasAssociatedWith").len()), (1, 5));
    assert_eq!(part("wasGeneratedBy").len(), 5 + 2, "records and declarations");
    for said in part("wasInformedBy").values() {
        for member in ["prov:informed", "prov:informant"] {
            assert!(part("activity").contains_key(said[member].as_str().unwrap()), "{said}");
        }
    }
    fits_prov_json(document);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_leads_a_session_from_opening_to_record() {
    let house = House::new().await;
    let run = |voice: &Voice, args: &[&str]| {
        let mut command: Command = countersign();
        command.arg("session").args(args).args(["--url", &voice.url]);
        let output = command.env("COUNTERSIGN_API_KEY", voice.key.as_ref().unwrap()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let read = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let agent = house.agent();
    let opened = read(run(&agent, &["open", "--mandate", house.token("default")]));
    let id = opened["session_id"].as_str().unwrap();
    for intent in ["i-1", "i-2"] {
        let declare =
            ["declare", id, "--intent", intent, "--type", "pay", "--goal", "Payments", "--mode", "chain"];
        assert_eq!(read(run(&agent, &declare))["reasoning_mode"], "CHAIN");
    }
    let context = read(run(&agent, &["context", id]));
    assert_eq!((&context["intent_id"], &context["sequence"]), (&json!("i-2"), &json!(2)));
    assert!(run(&agent, &["list"]).contains("ACTIVE"));
    let closed = read(run(&agent, &["close", id, "--as", "complete"]));
    assert_eq!(closed["record"]["ale_type"], "ALE-005");
    assert_eq!(read(run(&agent, &["show", id]))["completion"], "COMPLETE");
    let records = read(run(&house.voice("default", "auditor"), &["record", id]));
    assert_eq!(records.as_array().unwrap().len(), 4);
    assert_eq!(
        read(run(&agent, &["record", id, "--format", "prov"]))["activity"].as_object().unwrap().len(),
        4
    );
}

/// In the sandbox, where errors name the member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_by_name_and_nothing_is_written() {
    let house = House::new().await;
    let (agent, operator) = (house.agent(), house.voice("default", "operator"));
    let open = json!({"delegation_token": "tok-sandbox-public"});
    let session = agent.post("/sandbox/v1/sessions", &open).await.body;
    let at = |part: &str| format!("/sandbox{}", path(&session, part));
    let declared = agent.post(&at("intents"), &with_mode(&session, "CHAIN")).await;
    assert_eq!(declared.status, 201, "{}", declared.text());
    let with = |mut body: Value, member: &str, value: Value| {
        body[member] = value;
        body
    };
    let without = |mut body: Value, member: &str| {
        body.as_object_mut().unwrap().remove(member);
        body
    };
    let close = |member: &str, value: Value| with(json!({"completion": "COMPLETE"}), member, value);
    let good = || cycle("bad", "acct-1", 2);
    let before = written(&house);
    let mut wrong = Vec::new();
    for (to, body, field) in [
        ("/sandbox/v1/sessions".to_owned(), json!({"delegation_token": 7}), "/delegation_token"),
        ("/sandbox/v1/sessions".to_owned(), json!({"colour": "red"}), "/colour"),
        (at("close"), json!({}), "/completion"),
        (at("close"), close("completion", json!("DONE")), "/completion"),
        (at("close"), close("reason", json!(7)), "/reason"),
        (at("close"), close("reason", json!("x".repeat(1001))), "/reason"),
        (at("close"), close("reason", json!("two\nlines")), "/reason"),
        (at("close"), close("reason", json!("a\u{202e}b")), "/reason"),
        (at("close"), close("reason", json!("\0")), "/reason"),
        (at("close"), close("colour", json!("red")), "/colour"),
        (at("cycles"), without(good(), "archetype"), "/archetype"),
        (at("cycles"), without(good(), "intent_id"), "/intent_id"),
        (at("cycles"), with(good(), "intent_id", json!("two words")), "/intent_id"),
        (at("cycles"), with(good(), "action_sequence_number", json!(0)), "/action_sequence_number"),
        (at("cycles"), with(good(), "action_sequence_number", json!("2")), "/action_sequence_number"),
        (at("cycles"), with(good(), "confidence", json!("sure")), "/confidence"),
        (at("cycles"), with(good(), "branches", json!([{"archetype": "PAYMENT_TRANSFER"}])), "/branches/0"),
        (at("cycles"), with(good(), "resources", json!({"colour": 1})), "/resources"),
        (at("cycles"), with(good(), "colour", json!("red")), "/colour"),
    ] {
        let said = agent.post(&to, &body).await;
        let named = said.body["error"]["field"].as_str().unwrap_or_default();
        if (said.status, said.code()) != (422, "EP_VALIDATION_FAILED") || !named.starts_with(field) {
            wrong.push(format!("{to} {body}: {}", said.text()));
        }
    }
    for (query, field) in [
        ("gar?time_from=soon", "time_from"),
        ("gar?time_to=soon", "time_to"),
        ("gar?decision=MAYBE", "decision"),
        ("gar?limit=many", "limit"),
        ("gar?limit=0", "limit"),
        ("gar?cursor=x", "cursor"),
        ("gar?colour=red", "colour"),
        ("sessions?cursor=x", "cursor"),
        ("sessions?limit=-1", "limit"),
        ("policies/disclosure?colour=red", "colour"),
    ]
    .into_iter()
    .map(|(query, field)| (format!("/sandbox/v1/{query}"), field))
    .chain(
        [("cursor=x", "cursor"), ("limit=0", "limit"), ("format=pdf", "format")]
            .map(|(query, field)| (at(&format!("record?{query}")), field)),
    ) {
        let said = operator.get(&query).await;
        let named = &said.body["error"]["field"];
        if (said.status, said.code()) != (422, "EP_VALIDATION_FAILED") || *named != format!("?{field}") {
            wrong.push(format!("{query}: {}", said.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(written(&house), before, "nothing was written");
}
