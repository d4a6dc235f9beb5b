//! Actions in the words of the Agent Transaction Protocol: as its own specification writes them, in JSON and in YAML,
//! and each member wrong in turn.

use serde_json::{Value, json};
use testkit::bank::{Fault, Injection};

use crate::house::{House, Plan, Said, Voice, payment, verdict};
use crate::passkey::Passkey;
use crate::visitor::enrolled;

/// The example of the specification's section 6, as it stands there.
const EXAMPLE: &str = include_str!("atp/deploy.yaml");

async fn house() -> House {
    let catalogue = vec![
        ("deploy.toml", include_str!("atp/deploy.toml").to_owned()),
        ("remove.toml", include_str!("atp/remove.toml").to_owned()),
    ];
    House::with(Plan { catalogue, ..Plan::default() }).await
}

fn example(agent: &str) -> String {
    let now = jiff::Timestamp::now();
    let deadline = now + jiff::SignedDuration::from_mins(5);
    EXAMPLE
        .replace("AGENT", agent)
        .replace("CREATED", &now.to_string())
        .replace("DEADLINE", &deadline.to_string())
}

/// The same with payments that only another action can give back.
pub(crate) async fn paying(group: &str, capabilities: &str) -> House {
    let give_back =
        include_str!("atp/give_back.toml").replace("GROUP", group).replace("CAPABILITIES", capabilities);
    let catalogue = vec![
        ("deploy.toml", include_str!("atp/deploy.toml").to_owned()),
        ("pay.toml", include_str!("atp/pay.toml").to_owned()),
        ("give_back.toml", give_back),
    ];
    let config = "[limits]\nrecovery_interval_ms = 50\n".to_owned();
    House::with(Plan { catalogue, config, ..Plan::default() }).await
}

pub(crate) const IDEMPOTENT: &str = "capabilities = { idempotent = { retention_seconds = 86400 } }";

pub(crate) fn pay(house: &House, key: &str) -> Value {
    json!({
        "idempotency_key": key, "delegation_token": house.token("default"),
        "action": {"verb": "pay", "target": "supplier", "parameters": {"recipient": key, "amount": "25.00"}},
        "rollback": {"verb": "give back", "description": "Have it returned", "parameters": {"reason": "wrong_amount"}},
    })
}

/// The record once it has come to this.
async fn until(voice: &Voice, id: &str, state: &str) -> Value {
    until_it_says(voice, id, "/result/state", state).await
}

async fn until_it_says(voice: &Voice, id: &str, member: &str, word: &str) -> Value {
    for _ in 0..400 {
        let record = voice.get(&format!("/v1/actions/{id}")).await.body;
        if record.pointer(member).is_some_and(|it| it == word) {
            return record;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{id} never became {word}");
}

async fn submit(voice: &Voice, path: &str, essence: &str, body: impl Into<reqwest::Body>) -> Said {
    let request = voice.request("POST", path).header("content-type", essence).body(body);
    Said::of(request).await.unwrap()
}

pub(crate) async fn submit_json(voice: &Voice, body: &Value) -> Said {
    submit(voice, "/v1/actions", "application/json", body.to_string()).await
}

/// A deployment, in few words.
fn deploy(key: &str) -> Value {
    json!({
        "idempotency_key": key,
        "action": {
            "verb": "deploy", "target": "sharepoint-app-catalog",
            "parameters": {"package_path": format!("/build/{key}.sppkg"), "tenant": "contoso.sharepoint.com"},
        },
    })
}

fn with(mut body: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = parent.split('/').skip(1).fold(&mut body, |it, name| &mut it[name]);
    parent[name] = value;
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_specifications_own_example_is_carried_out() {
    let house = house().await;
    let agent = house.agent();
    let yaml = example("default-agent");
    let said = submit(&agent, "/v1/actions", "application/yaml", yaml.clone()).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let record = &said.body;
    assert_eq!(record["atp_version"], "1.0.0");
    assert_eq!(record["idempotency_key"], "deploy-project-dashboard-v3");
    assert_eq!(record["guarantee_level"], "atp-2");
    assert_eq!(record["agent_id"], "default-agent");
    assert_eq!(record["session_id"], "sess-abc123");
    assert_eq!(record["fleet_id"], "works-with-agents-fleet-1");
    assert_eq!(record["human_approver"], Value::Null);
    assert_eq!(record["client"]["action_id"], "act-20260505-001");
    assert_eq!(record["archetype"], "APP_DEPLOY");
    let action = &record["action"];
    assert_eq!((&action["verb"], &action["target"]), (&json!("deploy"), &json!("sharepoint-app-catalog")));
    assert!(action["description"].as_str().unwrap().starts_with("Deploy SPFx web part"));
    assert_eq!(action["parameters"]["site"], "/sites/appcatalog");
    assert_eq!(record["reversible"], true);
    assert_eq!(record["rollback"]["verb"], "remove");
    assert_eq!(record["rollback"]["parameters"]["package_id"], "project-dashboard");
    assert_eq!(record["rollback"]["by"], Value::Null);
    assert_eq!(record["retry_policy"]["max_retries"], 3);
    assert_eq!(record["compliance"]["audit_trail_id"], "audit-20260505-001");
    assert_eq!(record["compliance"]["data_classification"], "internal");
    assert_eq!(record["result"]["state"], "COMPLETED");
    assert_eq!(record["result"]["error"], Value::Null);
    assert_eq!(record["response"]["kind"], "executed");
    assert_eq!(record["response"]["transaction_id"], record["action_id"]);
    assert!(yaml.contains(record["client"]["created_at"].as_str().unwrap()));
    let deadline: jiff::Timestamp = record["deadline"].as_str().unwrap().parse().unwrap();
    assert!(deadline > jiff::Timestamp::now());

    let receipt =
        agent.get(&format!("/v1/receipts/{}", record["response"]["receipt_id"].as_str().unwrap())).await;
    assert_eq!(verdict(&receipt.bytes, &house.jwks().await), receipt::Verdict::Valid);

    let got = agent.get(&format!("/v1/actions/{}", record["action_id"].as_str().unwrap())).await;
    assert_eq!((got.status, &got.body), (200, record), "the answer is the record");

    let again = submit(&agent, "/v1/actions", "text/yaml; charset=utf-8", yaml).await;
    assert_eq!((again.status, again.replayed(), &again.body), (200, true, record), "{}", again.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_and_yaml_and_the_other_protocol_are_one_request() {
    let house = house().await;
    let agent = house.agent();
    let yaml = "idempotency_key: one\naction: {verb: deploy, target: sharepoint-app-catalog, parameters: {\
        package_path: /build/one.sppkg, tenant: contoso.sharepoint.com}}\n";
    let said = submit(&agent, "/v1/actions", "application/x-yaml", yaml).await;
    assert_eq!((said.status, said.replayed()), (200, false), "{}", said.text());
    let json = submit_json(&agent, &deploy("one")).await;
    assert_eq!((json.status, json.replayed(), &json.body), (200, true, &said.body));
    let body = json!({"archetype": "APP_DEPLOY", "constraints": deploy("one")["action"]["parameters"]});
    let other = agent.execute("one", &body).await;
    assert_eq!((other.replayed(), &other.body), (true, &said.body["response"]), "{}", other.text());
    let mut differs = deploy("one");
    differs["rollback"] = json!({"verb": "remove", "parameters": {"package_id": "p", "tenant": "t"}});
    let refused = submit_json(&agent, &differs).await;
    assert_eq!(
        refused.code(),
        "EP_IDEMPOTENCY_MISMATCH",
        "a rollback is part of the request: {}",
        refused.text()
    );
    for essence in ["application/json", "application/yaml"] {
        let twice =
            submit(&agent, "/v1/actions", essence, "{\"reversible\": true, \"reversible\": false}").await;
        assert_eq!((twice.status, twice.code()), (400, "EP_MALFORMED_BODY"), "{}", twice.text());
    }
    for essence in ["text/plain", "application/toml", "application/yaml; charset=latin1"] {
        let refused = submit(&agent, "/v1/actions", essence, yaml).await;
        assert_eq!((refused.status, refused.code()), (415, "EP_UNSUPPORTED_MEDIA_TYPE"), "{essence}");
    }
    let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n";
    let refused = submit(&agent, "/v1/actions", "application/yaml", bomb).await;
    assert_eq!((refused.status, refused.code()), (400, "EP_MALFORMED_BODY"), "{}", refused.text());
    let long = format!("# {}\n", "x".repeat(256 * 1024));
    let refused = submit(&agent, "/v1/actions", "application/yaml", long).await;
    assert_eq!(refused.status, 413);
}

/// Money is text: what YAML would take for a number is refused as JSON's number is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_text_in_yaml_too() {
    let house = house().await;
    let agent = house.agent();
    let yaml = |amount: &str| {
        format!(
            "action:\n  verb: PAYMENT_TRANSFER\n  parameters: {{recipient: acct-1, amount_usd: {amount}, max_total_usd: \"9\"}}\n\
             delegation_token: {}\nidempotency_key: money\n",
            house.token("default")
        )
    };
    for wrong in ["5.00", "5", "05.00"] {
        let said = submit(&agent, "/v1/actions", "application/yaml", yaml(wrong)).await;
        assert!(matches!(said.status, 400 | 422), "{wrong}: {}", said.text());
    }
    let said = submit(&agent, "/v1/actions", "application/yaml", yaml("\"5.00\"")).await;
    assert_eq!(
        (said.status, said.body["result"]["state"].as_str()),
        (200, Some("COMPLETED")),
        "{}",
        said.text()
    );
    assert_eq!(house.bank.balance("acct-1"), Some(500));
}

/// Each member, wrong: which code, and which member is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_that_is_wrong_is_named() {
    let house = house().await;
    let agent = house.agent();
    let day = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(25);
    let long = "x".repeat(300);
    let table = [
        ("/atp_version", json!("2.0.0")),
        ("/atp_version", json!(1)),
        ("/action_id", json!(7)),
        ("/action_id", json!("")),
        ("/action_id", json!("a\u{202e}b")),
        ("/action_id", json!(long)),
        ("/idempotency_key", json!("")),
        ("/idempotency_key", json!(1)),
        ("/guarantee_level", json!("atp-4")),
        ("/guarantee_level", json!(2)),
        ("/agent_id", json!("default-rival")),
        ("/agent_id", json!([])),
        ("/session_id", json!("two words")),
        ("/session_id", json!({})),
        ("/fleet_id", json!(1)),
        ("/fleet_id", json!(" blank")),
        ("/human_approver", json!("no person")),
        ("/human_approver", json!(true)),
        ("/human_approver", json!("default-agent")),
        ("/action", json!("deploy")),
        ("/action", Value::Null),
        ("/action/verb", json!("")),
        ("/action/verb", json!(null)),
        ("/action/verb", json!(1)),
        ("/action/verb", json!("de\u{0440}loy")),
        ("/action/target", json!(1)),
        ("/action/target", json!(long)),
        ("/action/description", json!(1)),
        ("/action/description", json!("two\nlines")),
        ("/action/parameters", json!([])),
        ("/action/parameters/tenant", json!(1)),
        ("/action/parameters/tennant", json!("x")),
        ("/action/paramters", json!({})),
        ("/reversible", json!("yes")),
        ("/rollback", json!("remove")),
        ("/rollback/verb", json!(1)),
        ("/rollback/target", json!(1)),
        ("/rollback/description", json!({})),
        ("/rollback/parameters", json!("p")),
        ("/rollback/extra", json!(1)),
        ("/created_at", json!("yesterday")),
        ("/created_at", json!(1)),
        ("/deadline", json!("2026-05-05")),
        ("/deadline", json!(300)),
        ("/deadline", json!(day.to_string())),
        ("/retry_policy", json!(3)),
        ("/retry_policy/max_retries", json!(-1)),
        ("/retry_policy/backoff", json!("random")),
        ("/retry_policy/initial_delay_seconds", json!("2")),
        ("/retry_policy/max_delay_seconds", json!(1e9)),
        ("/retry_policy/jitter", json!(true)),
        ("/compliance", json!([])),
        ("/compliance/audit_trail_id", json!(1)),
        ("/compliance/regulation_refs", json!("GDPR")),
        ("/compliance/regulation_refs/0", json!(1)),
        ("/compliance/data_classification", json!("secret")),
        ("/compliance/sign_off_required", json!("no")),
        ("/compliance/sign_off_by", json!("no person")),
        ("/compliance/sign_off_by", json!("default-agent")),
        ("/compliance/evidence_required", json!(1)),
        ("/compliance/dpia_ref", json!({})),
        ("/compliance/clinical_safety_ref", json!(1)),
        ("/compliance/smr_accountable", json!(1)),
        ("/compliance/gds_assessment_ref", json!(1)),
        ("/compliance/retention_policy", json!("for ever")),
        ("/compliance/retention_policy", json!("101_years")),
        ("/compliance/deletion_policy", json!("soft_delete_30d")),
        // There is no retention that it could come after.
        ("/compliance/deletion_policy", json!("hard_delete_after_retention")),
        ("/compliance/extra", Value::Null),
        ("/result", Value::Null),
        ("/result", json!({"state": "COMPLETED"})),
        ("/delegation_token", json!("two words")),
        ("/payment_mode", json!("LATER")),
        ("/repeat_of", json!("act-1")),
        ("/extra", json!(1)),
        ("/client", json!({})),
        ("/archetype", json!("APP_DEPLOY")),
    ];
    for (pointer, value) in table {
        let body = match pointer.strip_prefix("/compliance/regulation_refs/") {
            Some(_) => with(deploy("wrong"), "/compliance/regulation_refs", json!([value])),
            None => with(deploy("wrong"), pointer, value),
        };
        let body = match pointer.starts_with("/rollback/") && pointer != "/rollback/verb" {
            true => with(body, "/rollback/verb", json!("remove")),
            false => body,
        };
        for essence in ["application/json", "application/yaml"] {
            let said = submit(&agent, "/sandbox/v1/actions", essence, body.to_string()).await;
            let field = said.body["error"]["field"].as_str().unwrap_or_default();
            assert_eq!((said.status, field), (422, pointer), "{essence} {body}: {}", said.text());
            assert_eq!(said.code(), "EP_VALIDATION_FAILED");
        }
    }
    let card = with(deploy("card"), "/action_id", json!("4111 1111 1111 1111"));
    let said = submit(&agent, "/sandbox/v1/actions", "application/json", card.to_string()).await;
    assert_eq!((said.status, said.code()), (422, "EP_CARD_DATA_REFUSED"), "{}", said.text());
    let card = with(deploy("card"), "/action/parameters/package_path", json!("4111111111111111"));
    let said = submit(&agent, "/sandbox/v1/actions", "application/json", card.to_string()).await;
    assert_eq!(said.body["error"]["field"], "/action/parameters/package_path", "{}", said.text());
    assert_eq!(
        house.admin().get("/sandbox/v1/audit?agent_id=default-agent").await.body["entries"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verb_and_a_target_mean_one_archetype() {
    let house = house().await;
    let agent = house.agent();
    for (key, verb, target, archetype) in [
        ("v1", "deploy", json!("sharepoint-app-catalog"), "APP_DEPLOY"),
        ("v2", "publish", json!("sharepoint-app-catalog"), "APP_DEPLOY"),
        ("v3", "APP_DEPLOY", json!("sharepoint-app-catalog"), "APP_DEPLOY"),
    ] {
        let body = with(with(deploy(key), "/action/verb", json!(verb)), "/action/target", target);
        let said = submit_json(&agent, &body).await;
        assert_eq!((said.status, said.body["archetype"].as_str()), (200, Some(archetype)), "{}", said.text());
        assert_eq!(said.body["action"]["verb"], verb);
    }
    for (verb, target) in [("deploy", json!("elsewhere")), ("deploy", Value::Null), ("undeploy", json!("x"))]
    {
        let body = with(with(deploy("u"), "/action/verb", json!(verb)), "/action/target", target);
        let said = submit(&agent, "/sandbox/v1/actions", "application/json", body.to_string()).await;
        let error = &said.body["error"];
        assert_eq!((said.status, said.code()), (422, "EP_UNKNOWN_ARCHETYPE"), "{}", said.text());
        assert_eq!(error["field"], "/action/verb");
        let told = error["untrusted_text"].as_str().unwrap();
        assert!(
            told.contains("deploy on sharepoint-app-catalog") && told.contains("PAYMENT_TRANSFER"),
            "{told}"
        );
    }
}

/// What is never done is not done under a verb and a target either, whoever knows the archetype.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_name_is_denied_as_verb_and_target() {
    let house = house().await;
    let agent = house.agent();
    for (key, verb, target) in [
        ("d1", "delete", "audit log"),
        ("d2", "Delete", "audit-log"),
        ("d3", "audit_log", "delete"),
        ("d4", "disable", "boundary"),
        ("d5", "mcp/x/rotateMasterKey", "anything"),
    ] {
        let body = with(with(deploy(key), "/action/verb", json!(verb)), "/action/target", json!(target));
        let said = submit_json(&agent, &body).await;
        assert_eq!(
            (said.status, said.body["result"]["state"].as_str()),
            (403, Some("FAILED")),
            "{}",
            said.text()
        );
        assert_eq!(said.body["response"]["code"], "EP_BOUNDARY_BLOCK");
        assert_eq!(said.body["response"]["details"]["reasons"], json!(["hard_denied"]));
        assert!(said.body["receipts"][0]["receipt_id"].is_string());
        let found = house.admin().get(&format!("/v1/audit?verb={}", verb.replace(' ', "%20"))).await;
        assert_eq!(found.body["entries"][0]["target"], target, "{}", found.text());
    }
}

/// The status is that of the table of states, on the first answer and on each repetition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_and_records_follow_the_table() {
    let house = house().await;
    let agent = house.agent();
    let trigger = |key: &str, value: &str| with(deploy(key), "/action/parameters/site", json!(value));
    let incomplete = with(deploy("t3"), "/action/parameters", json!({"tenant": "contoso.sharepoint.com"}));
    let signed = with(deploy("t4"), "/compliance", json!({"sign_off_required": true}));
    let late = with(deploy("t5"), "/deadline", json!("2026-05-05T21:05:00Z"));
    let yaml = late.to_string();
    let past = submit(&agent, "/v1/actions", "application/yaml", yaml).await;
    assert_eq!(
        (past.status, past.body["result"]["error"]["code"].as_str()),
        (504, Some("EP_DEADLINE_EXCEEDED")),
        "{}",
        past.text()
    );
    assert_eq!(past.body["deadline"], "2026-05-05T21:05:00.000Z");
    for (body, status, state, kind) in [
        (trigger("t1", "sandbox:fail"), 502, "FAILED", "failed"),
        (trigger("t2", "sandbox:ok"), 200, "COMPLETED", "executed"),
        (incomplete, 403, "FAILED", "blocked"),
        (signed, 202, "INTENDED", "held"),
        (late, 504, "FAILED", "failed"),
    ] {
        for replayed in [false, true] {
            let said = submit_json(&agent, &body).await;
            let it = &said.body;
            assert_eq!(
                (said.status, it["result"]["state"].as_str(), it["response"]["kind"].as_str()),
                (status, Some(state), Some(kind)),
                "{}",
                said.text()
            );
            assert!(said.replayed() == replayed || kind == "failed" && status == 504, "{body}");
            let got = agent.get(&format!("/v1/actions/{}", it["action_id"].as_str().unwrap())).await;
            assert_eq!(got.body, *it);
        }
    }
    let id =
        submit_json(&agent, &with(deploy("t4"), "/compliance", json!({"sign_off_required": true}))).await;
    let id = id.body["action_id"].as_str().unwrap().to_owned();
    assert_eq!(agent.post(&format!("/v1/actions/{id}/cancel"), &json!({})).await.status, 200);
    let cancelled =
        submit_json(&agent, &with(deploy("t4"), "/compliance", json!({"sign_off_required": true}))).await;
    assert_eq!(
        (cancelled.status, cancelled.body["result"]["error"]["code"].as_str()),
        (409, Some("EP_CANCELLED"))
    );
}

/// A key is needed from `atp-2` on, wherever it stands; below that one is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_stands_in_the_header_or_in_the_body() {
    let house = house().await;
    let agent = house.agent();
    let mut body = deploy("one");
    body.as_object_mut().unwrap().remove("idempotency_key");
    for base in ["", "/sandbox"] {
        let path = format!("{base}/v1/actions");
        let said = submit(&agent, &path, "application/json", body.to_string()).await;
        assert_eq!(said.status, 200, "atp-1 needs none: {}", said.text());
        assert!(said.body["idempotency_key"].is_string());
        let level = with(body.clone(), "/guarantee_level", json!("atp-2"));
        let said = submit(&agent, &path, "application/json", level.to_string()).await;
        assert_eq!((said.status, said.code()), (422, "ATP_KEY_REQUIRED"), "{}", said.text());
        let request = agent.request("POST", &path).header("idempotency-key", format!("h{base}"));
        let said = Said::of(request.json(&level)).await.unwrap();
        assert_eq!(
            (said.status, &said.body["idempotency_key"]),
            (200, &json!(format!("h{base}"))),
            "{}",
            said.text()
        );
        let other = with(level, "/idempotency_key", json!("another"));
        let request = agent.request("POST", &path).header("idempotency-key", "differs");
        let said = Said::of(request.json(&other)).await.unwrap();
        assert_eq!((said.status, said.code()), (422, "EP_VALIDATION_FAILED"), "{}", said.text());
    }
}

/// What a request asks for can only be stricter than what the catalogue says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_can_only_tighten() {
    let house = house().await;
    let agent = house.agent();
    let never = with(deploy("r1"), "/reversible", json!(false));
    let said = submit_json(&agent, &never).await;
    // What cannot be undone takes a mandate.
    assert_eq!((said.status, &said.body["reversible"]), (403, &json!(false)), "{}", said.text());
    assert_eq!(said.body["response"]["code"], "EP_DELEGATION_BLOCK");
    let both =
        with(never, "/rollback", json!({"verb": "remove", "parameters": {"package_id": "p", "tenant": "t"}}));
    let said = submit_json(&agent, &with(both, "/idempotency_key", json!("r2"))).await;
    assert_eq!((said.status, said.code()), (422, "EP_VALIDATION_FAILED"), "{}", said.text());
    let pay = |more: Value| {
        let mut body = json!({
            "idempotency_key": "r3", "delegation_token": "tok-sandbox-public",
            "action": {
                "verb": "PAYMENT_TRANSFER",
                "parameters": payment("acct-1", "5.00", "")["constraints"],
            },
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let said = submit(
        &agent,
        "/sandbox/v1/actions",
        "application/json",
        pay(json!({"reversible": true})).to_string(),
    )
    .await;
    assert_eq!((said.status, &said.body["error"]["field"]), (422, &json!("/reversible")), "{}", said.text());
    let said = submit(&agent, "/sandbox/v1/actions", "application/json", pay(json!({})).to_string()).await;
    assert_eq!((said.status, &said.body["reversible"]), (200, &json!(false)), "{}", said.text());
    let lower = with(deploy("r4"), "/guarantee_level", json!("atp-1"));
    let more = with(lower, "/retry_policy", json!({"max_retries": 9}));
    let said = submit_json(&agent, &more).await;
    assert_eq!((said.status, &said.body["guarantee_level"]), (200, &json!("atp-1")), "{}", said.text());
    let level = with(
        with(deploy("r5"), "/guarantee_level", json!("atp-2")),
        "/retry_policy",
        json!({"max_retries": 9}),
    );
    let said = submit_json(&agent, &level).await;
    assert_eq!(said.body["retry_policy"]["max_retries"], 3, "{}", said.text());
}

/// People: who is named has to be able to approve, is shown, and where it says so has to be among those who agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_who_are_named_can_approve_and_are_shown() {
    let house = house().await;
    let agent = house.agent();
    for name in ["nobody-here", "default-agent", "default-operator", "other-approver"] {
        for pointer in ["/human_approver", "/compliance/sign_off_by"] {
            let said = submit_json(&agent, &with(deploy("p0"), pointer, json!(name))).await;
            assert_eq!((said.status, said.code()), (422, "EP_VALIDATION_FAILED"), "{pointer} {name}");
        }
    }
    let second =
        house.admin().post("/v1/keys", &json!({"subject": "default-second", "role": "approver"})).await;
    let second = Voice { key: second.body["secret"].as_str().map(str::to_owned), ..house.nobody() };
    let asked = with(deploy("p1"), "/human_approver", json!("default-approver"));
    let said = submit_json(&agent, &asked).await;
    assert_eq!(
        (said.status, &said.body["human_approver"]),
        (200, &json!("default-approver")),
        "{}",
        said.text()
    );

    let signed = with(
        deploy("p2"),
        "/compliance",
        json!({
            "sign_off_by": "default-approver", "regulation_refs": ["GDPR-Art-17"], "data_classification": "restricted",
        }),
    );
    let signed = with(signed, "/action/description", json!("As \"agreed\""));
    let held = submit_json(&agent, &signed).await;
    assert_eq!(
        (held.status, held.body["result"]["state"].as_str()),
        (202, Some("INTENDED")),
        "{}",
        held.text()
    );
    assert_eq!(held.body["response"]["details"]["reasons"], json!(["sign_off_required"]));
    let id = held.body["action_id"].as_str().unwrap();
    let approver = house.voice("default", "approver");
    let shown = approver.get(&format!("/v1/approvals/{id}")).await.text();
    for word in
        ["default-approver", "GDPR-Art-17", "restricted", "As \\\"agreed\\\"", "sharepoint-app-catalog"]
    {
        assert!(shown.contains(word), "{word} is shown: {shown}");
    }
    let approve = |voice: &Voice| {
        let voice = voice.clone();
        let path = format!("/v1/actions/{id}/approve");
        async move { voice.post(&path, &json!({})).await }
    };
    let refused = approve(&second).await;
    assert_eq!((refused.status, refused.code()), (403, "EP_FORBIDDEN"), "another signs: {}", refused.text());
    assert_eq!(approve(&approver).await.status, 200);
    for _ in 0..400 {
        let said = submit_json(&agent, &signed).await;
        if said.status == 200 {
            assert_eq!(said.body["human_approver"], "default-approver");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("it was never carried out: {}", house.log());
}

/// Of several people who have to agree, who is named has to be one; the others alone are asked once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_named_to_sign_off_is_among_those_who_agree() {
    let two =
        include_str!("atp/deploy.toml").replace("reversible = true", "reversible = true\napprovals = 2");
    let config = "[limits]\nrecovery_interval_ms = 50\n".to_owned();
    let house = House::with(Plan { catalogue: vec![("deploy.toml", two)], config, ..Plan::default() }).await;
    let agent = house.agent();
    let mut others = Vec::new();
    for name in ["default-second", "default-third"] {
        let made = house.admin().post("/v1/keys", &json!({"subject": name, "role": "approver"})).await;
        others.push(Voice { key: made.body["secret"].as_str().map(str::to_owned), ..house.nobody() });
    }
    let named = house.voice("default", "approver");
    let body = with(deploy("two"), "/compliance", json!({"sign_off_by": "default-approver"}));
    let held = submit_json(&agent, &body).await;
    let id = held.body["action_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/actions/{id}/approve");
    for voice in &others {
        assert_eq!(voice.post(&path, &json!({})).await.status, 200);
    }
    let once_more = format!("{id}-2");
    for _ in 0..400 {
        let shown = named.get(&format!("/v1/approvals/{id}")).await.body;
        if shown["escalation_id"] == once_more.as_str() && shown["state"] == "INTENDED" {
            break;
        }
        assert_ne!(shown["state"], "COMPLETED", "the others alone are not enough");
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    for voice in [&others[0], &named] {
        let said = voice.post(&path, &json!({})).await;
        assert_eq!(said.status, 200, "{}", said.text());
    }
    until(&agent, &id, "COMPLETED").await;
}

/// Evidence that cannot be had is not promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_takes_a_provider_that_can_be_asked() {
    let house = paying("Payments", IDEMPOTENT).await;
    let agent = house.agent();
    let rules = json!({"evidence_required": true});
    let asked = with(pay(&house, "acct-1"), "/compliance", rules.clone());
    let said = submit_json(&agent, &asked).await;
    assert_eq!(
        (said.status, said.body["result"]["confirmation"]["answer"].is_object()),
        (200, true),
        "{}",
        said.text()
    );
    let body = json!({
        "idempotency_key": "e", "compliance": rules,
        "action": {"verb": "give back", "target": "supplier", "parameters": {"reason": "x"}},
    });
    let said = submit_json(&agent, &body).await;
    assert_eq!((said.status, said.code()), (422, "ATP_PROVIDER_CANNOT"), "{}", said.text());
    let told = "the provider cannot be asked for evidence: /compliance/evidence_required";
    assert_eq!(said.body["message"], told);
}

/// The trail finds an action by everything it is known by, and by nothing it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trail_finds_it_by_all_that_it_says() {
    let house = house().await;
    let agent = house.agent();
    let rules = json!({
        "audit_trail_id": "audit-1", "regulation_refs": ["DTAC-2.1.3", "GDPR-Art-32"],
        "data_classification": "confidential", "dpia_ref": "DPIA-2026-001", "clinical_safety_ref": "CS-2026-042",
        "smr_accountable": "chief@example.org", "gds_assessment_ref": "GDS-Alpha-2026", "evidence_required": true,
        "retention_policy": "7_years", "deletion_policy": "hard_delete_30d",
    });
    let body = json!({
        "action_id": "act-1", "fleet_id": "fleet-1", "session_id": "sess-1", "human_approver": "default-approver",
    });
    let mut body = body.as_object().unwrap().clone();
    body.extend(deploy("a1").as_object().unwrap().clone());
    let body = with(Value::Object(body), "/compliance", rules.clone());
    let said = submit_json(&agent, &body).await;
    assert_eq!((said.status, &said.body["compliance"]), (200, &rules), "{}", said.text());
    assert_eq!(submit_json(&agent, &deploy("a2")).await.status, 200);
    assert_eq!(agent.execute("a3", &house.payment("acct-1", "1.00")).await.status, 200);
    let auditor = house.voice("default", "auditor");
    let mine = said.body["action_id"].as_str().unwrap();
    for query in [
        "action_id=act-1",
        "fleet_id=fleet-1",
        "session_id=sess-1",
        "regulation_ref=GDPR-Art-32",
        "regulation_ref=DTAC-2.1.3",
        "audit_trail_id=audit-1",
        "data_classification=confidential",
        "dpia_ref=DPIA-2026-001",
        "clinical_safety_ref=CS-2026-042",
        "gds_assessment_ref=GDS-Alpha-2026",
        "smr_accountable=chief%40example.org",
        "human_approver=default-approver",
        "verb=deploy&regulation_ref=GDPR-Art-32&target=sharepoint-app-catalog&action_id=act-1",
    ] {
        let found = auditor.get(&format!("/v1/audit?{query}")).await;
        let entries = found.body["entries"].as_array().unwrap_or_else(|| panic!("{query}: {}", found.text()));
        assert_eq!(entries.len(), 2, "{query}: admitted and executed");
        for entry in entries {
            assert_eq!(
                (entry["action_id"].as_str(), &entry["verb"]),
                (Some(mine), &json!("deploy")),
                "{query}"
            );
            assert_eq!(entry["target"], "sharepoint-app-catalog");
            assert_eq!(entry["regulation_refs"], json!(["DTAC-2.1.3", "GDPR-Art-32"]));
        }
        let wrong =
            query.replace("-1", "-9").replace("2026", "2025").replace("GDPR-Art", "X").replace("DTAC", "X");
        let wrong =
            wrong.replace("confidential", "public").replace("chief", "thief").replace("default", "other");
        assert_eq!(auditor.get(&format!("/v1/audit?{wrong}")).await.body["entries"], json!([]), "{wrong}");
    }
    let both = auditor.get("/v1/audit?verb=deploy").await;
    assert_eq!(both.body["entries"].as_array().unwrap().len(), 4);
    let target = auditor.get("/v1/audit?target=sharepoint-app-catalog&format=csv").await;
    assert_eq!(target.text().lines().count(), 5);
    let other = house.voice("other", "auditor").get("/v1/audit?action_id=act-1").await;
    assert_eq!(other.body["entries"], json!([]));
    let check = auditor.get("/v1/audit/verify").await;
    assert_eq!(check.body["findings"], json!([]), "{}", check.text());
}

/// What a request brings to undo it is carried out by its own archetype's binding, which is told what to undo.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_a_request_brings_undoes_it_once() {
    let house = paying("Payments", IDEMPOTENT).await;
    let agent = house.agent();
    let said = submit_json(&agent, &pay(&house, "acct-1")).await;
    assert_eq!((said.status, house.bank.balance("acct-1")), (200, Some(2500)), "{}", said.text());
    let asked = json!({"verb": "give back", "description": "Have it returned", "parameters": {"reason": "wrong_amount"}});
    for (name, value) in asked.as_object().unwrap() {
        assert_eq!(said.body["rollback"][name], *value);
    }
    let id = said.body["action_id"].as_str().unwrap().to_owned();
    for fault in [Fault::LostAfterEffect, Fault::RateLimited { retry_after: 1 }] {
        house.bank.inject(Injection::refunds(fault, 1));
    }
    for _ in 0..3 {
        agent.post(&format!("/v1/actions/{id}/rollback"), &json!({})).await;
    }
    let record = until(&agent, &id, "ROLLED_BACK").await;
    assert_eq!((house.bank.refunds(), house.bank.balance("acct-1")), (1, Some(0)));
    let rollback = &record["rollback"];
    assert_eq!(
        (&rollback["by"], &rollback["sends"], &rollback["verb"]),
        (&json!("default-agent"), &json!(3), &json!("give back"))
    );
    let kinds: Vec<_> = record["receipts"].as_array().unwrap().iter().map(|it| &it["event_type"]).collect();
    assert_eq!(kinds, ["ORIGINAL", "AMENDMENT_ROLLBACK"]);
    let jwks = house.jwks().await;
    for receipt in record["receipts"].as_array().unwrap() {
        let document = agent.get(&format!("/v1/receipts/{}", receipt["receipt_id"].as_str().unwrap())).await;
        assert_eq!(verdict(&document.bytes, &jwks), receipt::Verdict::Valid);
    }
    let mut plain = pay(&house, "acct-2");
    plain.as_object_mut().unwrap().remove("rollback");
    let said = submit_json(&agent, &plain).await;
    let id = said.body["action_id"].as_str().unwrap();
    let refused = agent.post(&format!("/v1/actions/{id}/rollback"), &json!({})).await;
    assert_eq!((refused.status, refused.code()), (422, "ATP_ROLLBACK_REQUIRED"), "its own binding has none");
}

/// A reload while it is being undone is no reason to try in vain for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_whose_archetype_is_bound_otherwise_meanwhile_is_for_a_person() {
    let house = paying("Payments", IDEMPOTENT).await;
    let (agent, admin) = (house.agent(), house.admin());
    let path = house.path().join("catalogue/default/give_back.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let otherwise = [
        text.replace("name = \"bank\"", "name = \"another\""),
        text.replace("GIVE_BACK", "GIVE_SOMETHING_ELSE").replace("give back", "give something else"),
    ];
    for (at, otherwise) in otherwise.iter().enumerate() {
        let mut body = pay(&house, &format!("acct-{at}"));
        body["idempotency_key"] = json!(format!("k-{at}"));
        let said = submit_json(&agent, &body).await;
        assert_eq!(said.status, 200, "{}", said.text());
        let id = said.body["action_id"].as_str().unwrap().to_owned();
        house.bank.inject(Injection::refunds(Fault::LostBeforeEffect, 2));
        let begun = agent.post(&format!("/v1/actions/{id}/rollback"), &json!({})).await;
        assert_eq!(begun.body["phase"], "rolling_back", "{}", begun.text());
        std::fs::write(&path, otherwise).unwrap();
        assert_eq!(admin.post("/v1/reload", &json!({})).await.status, 200);
        let record = until_it_says(&agent, &id, "/phase", "rollback_failed").await;
        assert_eq!(
            (&record["rollback"]["error"], &record["rollback"]["reason"]),
            (&json!("ATP_ROLLBACK_FAILED"), &json!("no_longer_bound"))
        );
        house.bank.clear_faults();
        std::fs::write(&path, &text).unwrap();
        assert_eq!(admin.post("/v1/reload", &json!({})).await.status, 200);
        agent.post(&format!("/v1/actions/{id}/rollback"), &json!({})).await;
        until(&agent, &id, "ROLLED_BACK").await;
        assert_eq!(house.bank.balance(&format!("acct-{at}")), Some(0));
    }
}

/// It outlives a restart, and is not sent to another provider than the one that was named when it was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_goes_to_whom_it_was_bound_when_it_was_asked_for() {
    let mut house = paying("Payments", IDEMPOTENT).await;
    let said = submit_json(&house.agent(), &pay(&house, "acct-1")).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let id = said.body["action_id"].as_str().unwrap().to_owned();
    let path = house.path().join("catalogue/default/give_back.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("name = \"bank\"", "name = \"another\"")).unwrap();
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    let refused = house.agent().post(&format!("/v1/actions/{id}/rollback"), &json!({})).await;
    assert_eq!((refused.status, refused.code()), (422, "ATP_PROVIDER_CANNOT"), "{}", refused.text());
    std::fs::write(&path, text).unwrap();
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    house.bank.inject(Injection::refunds(Fault::LostBeforeEffect, 1));
    house.agent().post(&format!("/v1/actions/{id}/rollback"), &json!({})).await;
    house.gateway.kill();
    house.start();
    until(&house.agent(), &id, "ROLLED_BACK").await;
    assert_eq!((house.bank.refunds(), house.bank.balance("acct-1")), (1, Some(0)));
}

/// What a request brings takes nothing away from what the catalogue wants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_a_request_brings_undoes_what_fails_its_check() {
    let checked = [include_str!("atp/pay.toml"), include_str!("atp/check.toml")].concat();
    let give_back = include_str!("atp/give_back.toml").replace("GROUP", "Payments");
    let catalogue =
        vec![("pay.toml", checked), ("give_back.toml", give_back.replace("CAPABILITIES", IDEMPOTENT))];
    let house = House::with(Plan { catalogue, ..Plan::default() }).await;
    let said = submit_json(&house.agent(), &pay(&house, "acct-1")).await;
    assert_eq!((said.status, &said.body["response"]["kind"]), (502, &json!("failed")), "{}", said.text());
    assert_eq!(said.body["result"]["state"], "ROLLED_BACK");
    assert_eq!((house.bank.effects().count, house.bank.refunds()), (1, 1));
}

/// A freeze that includes rollbacks stops what undoes by its own kind, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_kind_of_action_undoes_nothing() {
    let house = paying("Payments", IDEMPOTENT).await;
    let agent = house.agent();
    let said = submit_json(&agent, &pay(&house, "acct-1")).await;
    let id = said.body["action_id"].as_str().unwrap().to_owned();
    let freeze = json!({"scope": "archetype:GIVE_BACK", "reason": "drill", "include_rollback": true});
    assert_eq!(house.admin().post("/v1/freeze", &freeze).await.status, 200);
    let refused = agent.post(&format!("/v1/actions/{id}/rollback"), &json!({})).await;
    assert_eq!((refused.status, refused.code()), (409, "EP_STATE_CONFLICT"), "{}", refused.text());
    assert_eq!(house.bank.refunds(), 0);
}

/// It is an action itself: by its own name, schema and completeness, and by policies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_is_judged_with_its_action() {
    let house = paying("Nobody", IDEMPOTENT).await;
    let agent = house.agent();
    let said = submit_json(&agent, &pay(&house, "acct-1")).await;
    assert_eq!(
        (said.status, &said.body["response"]["code"]),
        (403, &json!("EP_BOUNDARY_BLOCK")),
        "{}",
        said.text()
    );
    assert_eq!(said.body["response"]["details"]["reasons"], json!(["rollback_denied"]));
    let replay =
        house.admin().get(&format!("/v1/actions/{}/replay", said.body["action_id"].as_str().unwrap())).await;
    assert_eq!(replay.body["result"], "same", "{}", replay.text());
    for (key, verb, target) in [("acct-2", "delete", "audit log"), ("acct-3", "remove", "boundary")] {
        let body = with(pay(&house, key), "/rollback", json!({"verb": verb, "target": target}));
        let said = submit_json(&agent, &body).await;
        assert_eq!(
            (said.status, &said.body["response"]["code"]),
            (403, &json!("EP_BOUNDARY_BLOCK")),
            "{}",
            said.text()
        );
        assert_eq!(said.body["response"]["details"]["reasons"], json!(["hard_denied"]));
    }
    for (rollback, code, field) in [
        (json!({"verb": "nothing"}), "EP_UNKNOWN_ARCHETYPE", "/rollback/verb"),
        (json!({"verb": "give back", "target": "x"}), "EP_UNKNOWN_ARCHETYPE", "/rollback/verb"),
        (json!({"verb": "give back"}), "EP_VALIDATION_FAILED", "/rollback/parameters/reason"),
        (
            json!({"verb": "give back", "parameters": {"reason": "x", "more": 1}}),
            "EP_VALIDATION_FAILED",
            "/rollback/parameters/more",
        ),
        (
            json!({"verb": "give back", "parameters": {"reason": "4111111111111111"}}),
            "EP_CARD_DATA_REFUSED",
            "/rollback/parameters/reason",
        ),
        // On the word of whoever asks for a rollback it would pay past mandate and cap.
        (
            json!({"verb": "pay", "target": "supplier", "parameters": {"recipient": "evil", "amount": "25.00"}}),
            "ATP_PROVIDER_CANNOT",
            "/rollback/verb",
        ),
    ] {
        let body = with(with(pay(&house, "acct-4"), "/rollback", rollback), "/delegation_token", Value::Null);
        let said = submit(&agent, "/sandbox/v1/actions", "application/json", body.to_string()).await;
        assert_eq!((said.status, said.code()), (422, code), "{}", said.text());
        assert_eq!(said.body["error"]["field"], field);
    }
    assert_eq!(house.bank.effects().count, 0);
    let house = paying("Payments", "").await;
    let said = submit_json(&house.agent(), &pay(&house, "acct-1")).await;
    assert_eq!(
        (said.status, said.code()),
        (422, "ATP_PROVIDER_CANNOT"),
        "twice could be two: {}",
        said.text()
    );
}

/// Exactly once takes a way to undo it, which may come with the request; people are shown it and sign it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_takes_the_rollback_that_a_request_brings() {
    let house = paying("Payments", IDEMPOTENT).await;
    let agent = house.agent();
    let mut without = with(pay(&house, "acct-1"), "/guarantee_level", json!("atp-3"));
    without.as_object_mut().unwrap().remove("rollback");
    let refused = submit_json(&agent, &without).await;
    assert_eq!((refused.status, refused.code()), (422, "ATP_ROLLBACK_REQUIRED"), "{}", refused.text());
    let body = with(pay(&house, "acct-1"), "/guarantee_level", json!("atp-3"));
    let held = submit_json(&agent, &body).await;
    assert_eq!(
        (held.status, held.body["result"]["state"].as_str()),
        (202, Some("INTENDED")),
        "{}",
        held.text()
    );
    let id = held.body["action_id"].as_str().unwrap();
    let approver = house.voice("default", "approver");
    let passkey = Passkey::new("the-approver's");
    enrolled(&house, &approver, &passkey).await;
    let shown = approver.get(&format!("/v1/approvals/{id}")).await;
    assert_eq!(shown.body["atp"]["rollback"]["verb"], "give back", "{}", shown.text());
    let asked = approver.post(&format!("/v1/actions/{id}/envelope"), &json!({"comment": null})).await;
    let bindings = asked.body["envelope"]["binding_digests"].as_object().unwrap();
    assert_eq!(bindings.keys().collect::<Vec<_>>(), ["execute", "rollback"], "{}", asked.text());
    let assertion = passkey.get(&asked.body["challenge"]);
    let signed = approver.post(&format!("/v1/actions/{id}/approve"), &json!({"assertion": assertion})).await;
    assert_eq!(signed.status, 200, "{}", signed.text());
    let record = until(&agent, id, "COMPLETED").await;
    assert_eq!((&record["guarantee_level"], house.bank.balance("acct-1")), (&json!("atp-3"), Some(2500)));
    agent.post(&format!("/v1/actions/{id}/rollback"), &json!({})).await;
    until(&agent, id, "ROLLED_BACK").await;
    assert_eq!(house.bank.balance("acct-1"), Some(0));
}
