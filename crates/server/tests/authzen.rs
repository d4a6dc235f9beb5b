//! The decision point in the words of AuthZEN, over real connections: real gateways, policies and mandates behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use gateway::config::{Limits, Rate};
use serde_json::{Value, json};

mod support;

use support::{Served, body_of};

/// Payments, which are built in, bound to nothing: they are carried out elsewhere.
const PAYMENTS: &[(&str, &str)] = &[(
    "policies/default/payments.cedar",
    r#"
@id("payments")
permit (principal, action in Action::"Payments", resource);

@id("nobody-pays-mallory")
forbid (principal, action, resource) when { resource == Account::"mallory" };
"#,
)];

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";

impl Served {
    async fn paying() -> Served {
        Served::ruled(PAYMENTS, Limits::default(), |_| {}).await
    }

    async fn asked(&self, key: &str, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path, body).bearer_auth(key).send().await.unwrap();
        (response.status().as_u16(), body_of(response).await)
    }

    /// One decision, which there has to be.
    async fn decided(&self, key: &str, body: &Value) -> Value {
        let (status, said) = self.asked(key, EVALUATION, body).await;
        assert_eq!(status, 200, "{said}");
        said
    }

    /// A mandate for an agent to pay with; its token and its id.
    async fn mandate(&self, subject: &str, cap: &str) -> (String, String) {
        let ask = json!({
            "subject": subject, "even_if_unknown": true, "scope": ["Payments"], "expires_in_seconds": 3600,
            "spend_cap": {"amount": cap, "currency": "USD"},
        });
        let issued = body_of(self.as_admin(self.post("/v1/mandates", &ask)).send().await.unwrap()).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&issued["token"]), text(&issued["mandate"]["jti"]))
    }

    /// A key that brings a mandate along.
    async fn key_with(&self, subject: &str, mandate: &str) -> String {
        let body = json!({"subject": subject, "role": "agent", "default_mandate": mandate});
        let made = body_of(self.as_admin(self.post("/v1/keys", &body)).send().await.unwrap()).await;
        made["secret"].as_str().unwrap().to_owned()
    }

    /// The last entry of the chain, and what is left of the mandate.
    async fn written(&self, mandate: &str) -> (Value, Value) {
        let look = async |path: &str| body_of(self.as_admin(self.get(path)).send().await.unwrap()).await;
        (look("/v1/audit/verify").await["head"].take(), look(&format!("/v1/mandates/{mandate}")).await)
    }
}

fn about(subject: &str, amount: &str) -> Value {
    json!({
        "subject": {"type": "agent", "id": subject},
        "action": {"name": "PAYMENT_TRANSFER", "properties": {"amount_usd": amount, "max_total_usd": amount}},
        "resource": {"type": "Account", "id": "acct-1"},
    })
}

fn why(said: &Value) -> (&Value, &Value, &Value) {
    let context = &said["context"];
    (&context["kind"], &context["code"], &context["reasons"])
}

#[tokio::test]
async fn the_metadata_names_what_is_served_and_nothing_else() {
    let served = Served::start().await;
    for (path, base) in [("", ""), ("/sandbox", "/sandbox")] {
        let response = served.get(&format!("/.well-known/authzen-configuration{path}")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        let point = format!("{}{base}", served.url);
        let expected = json!({
            "policy_decision_point": point,
            "access_evaluation_endpoint": format!("{point}/access/v1/evaluation"),
            "access_evaluations_endpoint": format!("{point}/access/v1/evaluations"),
        });
        let said = body_of(response).await;
        assert_eq!(said, expected);
        for endpoint in ["access_evaluation_endpoint", "access_evaluations_endpoint"] {
            let request = served.client.post(said[endpoint].as_str().unwrap()).json(&json!({}));
            assert_eq!(served.as_admin(request).send().await.unwrap().status(), 400, "{endpoint}");
        }
    }
}

#[tokio::test]
async fn an_agent_is_judged_by_its_own_mandate_whoever_asks() {
    let served = Served::paying().await;
    let (token, jti) = served.mandate("bot", "500.00").await;
    let (bot, operator) = (served.key_with("bot", &jti).await, served.key("operator").await);
    for key in [&bot, &operator, &served.admin] {
        let said = served.decided(key, &about("bot", "200.00")).await;
        assert_eq!(said["decision"], true, "{said}");
        let said = served.decided(key, &about("bot", "501.00")).await;
        assert_eq!(said["decision"], false);
        assert_eq!(
            why(&said),
            (&json!("blocked"), &json!("EP_DELEGATION_BLOCK"), &json!(["cap_exceeded"])),
            "{said}"
        );
    }
    // Another agent has no mandate, and does not draw on this one, not even with its id or its token.
    let said = served.decided(&operator, &about("rival", "200.00")).await;
    assert_eq!(
        why(&said),
        (&json!("blocked"), &json!("EP_DELEGATION_BLOCK"), &json!(["no_mandate"])),
        "{said}"
    );
    for ours in [json!({"mandate_id": jti}), json!({"delegation_token": token})] {
        let mut body = about("rival", "200.00");
        body["context"] = json!({"countersign": ours});
        assert_eq!(served.decided(&operator, &body).await["decision"], false, "{body}");
        body["subject"]["id"] = json!("bot");
        assert_eq!(served.decided(&operator, &body).await["decision"], true, "{body}");
    }
    let freeze = served.post("/v1/freeze", &json!({"scope": "agent:bot", "reason": "drill"}));
    assert_eq!(served.as_admin(freeze).send().await.unwrap().status(), 200);
    let said = served.decided(&operator, &about("bot", "200.00")).await;
    assert_eq!((&said["decision"], &said["context"]["code"]), (&json!(false), &json!("EP_FROZEN")));
}

#[tokio::test]
async fn keys_with_different_mandates_leave_it_to_the_question_which_one_counts() {
    let served = Served::paying().await;
    let ((_, small), (_, large)) =
        (served.mandate("bot", "10.00").await, served.mandate("bot", "500.00").await);
    for mandate in [&small, &large] {
        served.key_with("bot", mandate).await;
    }
    let mut body = about("bot", "200.00");
    let said = served.decided(&served.admin, &body).await;
    assert_eq!((&said["decision"], &said["context"]["kind"]), (&json!(false), &json!("error")), "{said}");
    for (mandate, expected) in [(&small, false), (&large, true)] {
        body["context"] = json!({"countersign": {"mandate_id": mandate}});
        assert_eq!(served.decided(&served.admin, &body).await["decision"], expected);
    }
}

#[tokio::test]
async fn what_would_wait_for_people_is_a_no_that_says_so() {
    let served = Served::paying().await;
    let (_, jti) = served.mandate("bot", "90000.00").await;
    let bot = served.key_with("bot", &jti).await;
    let said = served.decided(&bot, &about("bot", "6000.00")).await;
    assert_eq!((&said["decision"], &said["context"]["kind"]), (&json!(false), &json!("held")), "{said}");
    assert!(!said["context"]["reasons"].as_array().unwrap().is_empty(), "{said}");
    let held = body_of(served.as_admin(served.get("/v1/approvals")).send().await.unwrap()).await;
    assert_eq!(held["items"], json!([]), "and nobody is asked");
}

#[tokio::test]
async fn nothing_is_written_and_nothing_is_spent() {
    let served = Served::paying().await;
    let (_, jti) = served.mandate("bot", "500.00").await;
    let bot = served.key_with("bot", &jti).await;
    let before = served.written(&jti).await;
    assert!(before.0.is_object() || before.0.is_string(), "{before:?}");
    let mut denied = about("bot", "1.00");
    denied["action"]["name"] = json!("delete_audit_log");
    for body in [about("bot", "400.00"), about("bot", "400.00"), about("bot", "9000.00"), denied] {
        served.decided(&bot, &body).await;
    }
    assert_eq!(served.written(&jti).await, before);
    let said = served.decided(&bot, &about("bot", "500.00")).await;
    assert_eq!(said["decision"], true, "all of it is left, and nothing is a duplicate: {said}");
}

#[tokio::test]
async fn who_asks_about_others_governs_their_tenant_and_no_other() {
    let served = Served::paying().await;
    let (_, jti) = served.mandate("bot", "500.00").await;
    let bot = served.key_with("bot", &jti).await;
    let body = about("bot", "200.00");
    assert_eq!(served.asked(&bot, EVALUATION, &body).await.0, 200);
    for role in ["agent", "approver", "auditor"] {
        let key = served.key(role).await;
        let (status, said) = served.asked(&key, EVALUATION, &body).await;
        assert_eq!((status, &said["code"]), (403, &json!("EP_FORBIDDEN")), "{role}: {said}");
    }
    let nobody = served.post(EVALUATION, &body).send().await.unwrap();
    assert_eq!(nobody.status(), 401);
    assert!(nobody.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    // To another tenant `bot` is somebody else, whom nothing is known of.
    for (name, role) in [("olga", gateway::Role::Operator), ("bot", gateway::Role::Agent)] {
        let foreign = served.key_of_other(name, role).await;
        assert_eq!(served.decided(&foreign, &body).await["decision"], false, "{name}");
        let mut named = body.clone();
        named["context"] = json!({"countersign": {"mandate_id": jti}});
        assert_eq!(served.decided(&foreign, &named).await["context"]["kind"], "error", "{name}");
    }
}

#[tokio::test]
async fn in_the_sandbox_nobody_need_be_known() {
    let served = Served::start().await;
    let path = "/sandbox/access/v1/evaluation";
    let ask = async |body: &Value| {
        let response = served.post(path, body).send().await.unwrap();
        (response.status().as_u16(), body_of(response).await)
    };
    let (status, said) = ask(&about("anonymous", "20.00")).await;
    assert_eq!((status, &said["decision"]), (200, &json!(true)), "{said}");
    assert_eq!(ask(&about("somebody", "20.00")).await.0, 403);
    let mut wrong = about("anonymous", "20.00");
    wrong["action"]["properties"]["colour"] = json!("red");
    let (_, said) = ask(&wrong).await;
    assert_eq!(said["context"]["error"]["field"], "/action/properties/colour", "{said}");
    // A name that is no segment of a pointer is written as one.
    let mut odd = about("anonymous", "20.00");
    odd["resource"]["properties"] = json!({"a/b~c": 1});
    let field = "/resource/properties/a~1b~0c";
    let (_, said) = ask(&odd).await;
    assert_eq!(said["context"]["error"]["field"], field, "{said}");
    odd["action"]["properties"]["a/b~c"] = json!(2);
    let (_, said) = ask(&odd).await;
    assert_eq!(said["context"]["error"]["field"], field, "{said}");
}

#[tokio::test]
async fn resource_and_properties_become_what_the_archetype_takes() {
    let served = Served::paying().await;
    let (_, jti) = served.mandate("bot", "500.00").await;
    let bot = served.key_with("bot", &jti).await;
    let with = |change: &[(&str, Value)]| {
        let mut body = about("bot", "20.00");
        for (pointer, value) in change {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            body.pointer_mut(parent).unwrap()[name] = value.clone();
        }
        body
    };
    let yes = [
        with(&[("/resource/properties", json!({"recipient": "acct-1"}))]),
        with(&[("/resource/properties", json!({"amount_usd": "20.00", "note": "lunch"}))]),
        with(&[("/subject/type", json!("user")), ("/subject/properties", json!({"age": 7}))]),
        with(&[
            ("/context", json!({"ip": "10.0.0.1"})),
            ("/trace", json!(1)),
            ("/action/colour", json!("red")),
        ]),
    ];
    for body in yes {
        let said = served.decided(&bot, &body).await;
        assert_eq!(said["decision"], true, "{body}: {said}");
    }
    let no = [
        (with(&[("/resource/id", json!("mallory"))]), "blocked", "EP_BOUNDARY_BLOCK"),
        (with(&[("/action/name", json!("delete_audit_log"))]), "blocked", "EP_BOUNDARY_BLOCK"),
        (with(&[("/action/properties", json!({}))]), "blocked", "EP_INCOMPLETE"),
        (with(&[("/action/name", json!("mcp/git/git_commit"))]), "error", "EP_UNKNOWN_ARCHETYPE"),
        (with(&[("/resource/type", json!("Invoice"))]), "error", "EP_VALIDATION_FAILED"),
        (with(&[("/resource/properties", json!({"recipient": "mallory"}))]), "error", "EP_VALIDATION_FAILED"),
        (with(&[("/resource/properties", json!({"amount_usd": "21.00"}))]), "error", "EP_VALIDATION_FAILED"),
        (with(&[("/resource/properties", json!({"colour": "red"}))]), "error", "EP_VALIDATION_FAILED"),
        (with(&[("/context", json!({"countersign": {"colour": "red"}}))]), "error", "EP_VALIDATION_FAILED"),
        (with(&[("/context", json!({"countersign": {"archetype": "X"}}))]), "error", "EP_VALIDATION_FAILED"),
        (with(&[("/action/properties/note", json!("4111 1111 1111 1111"))]), "error", "EP_CARD_DATA_REFUSED"),
    ];
    for (body, kind, code) in no {
        let said = served.decided(&bot, &body).await;
        assert_eq!(said["decision"], false, "{body}");
        assert_eq!(
            (&said["context"]["kind"], &said["context"]["code"]),
            (&json!(kind), &json!(code)),
            "{body}"
        );
        assert!(!said.to_string().contains("red"), "no word of the question: {said}");
    }
    let said = served.decided(&bot, &with(&[("/action/properties", json!({}))])).await;
    let missing: Vec<&Value> =
        said["context"]["missing"].as_array().unwrap().iter().map(|it| &it["field"]).collect();
    assert_eq!(missing, ["/amount_usd", "/max_total_usd"]);
}

#[tokio::test]
async fn a_batch_ends_where_its_semantic_says() {
    let served = Served::paying().await;
    let (_, jti) = served.mandate("bot", "500.00").await;
    let bot = served.key_with("bot", &jti).await;
    let pay = |amount: &str| json!({"action": about("bot", amount)["action"]});
    let batch = |semantic: Option<&str>, amounts: &[&str]| {
        let mut body = about("bot", "1.00");
        body["evaluations"] = amounts.iter().map(|amount| pay(amount)).collect();
        if let Some(semantic) = semantic {
            body["options"] = json!({"evaluations_semantic": semantic, "another": 1});
        }
        body
    };
    let (few, much) = ("20.00", "600.00");
    for (semantic, amounts, expected) in [
        (None, [few, much, few], vec![true, false, true]),
        (Some("execute_all"), [much, few, much], vec![false, true, false]),
        (Some("deny_on_first_deny"), [few, much, few], vec![true, false]),
        (Some("deny_on_first_deny"), [few, few, few], vec![true, true, true]),
        (Some("permit_on_first_permit"), [much, few, much], vec![false, true]),
        (Some("permit_on_first_permit"), [much, much, much], vec![false, false, false]),
    ] {
        let (status, said) = served.asked(&bot, EVALUATIONS, &batch(semantic, &amounts)).await;
        let decisions: Vec<bool> = said["evaluations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["decision"].as_bool().unwrap())
            .collect();
        assert_eq!((status, decisions), (200, expected), "{semantic:?}: {said}");
        assert!(said.get("decision").is_none(), "{said}");
    }
    for body in [about("bot", few), batch(None, &[])] {
        let (_, said) = served.asked(&bot, EVALUATIONS, &body).await;
        assert_eq!(said["decision"], true, "without evaluations it is one: {said}");
    }
    for (wrong, pointer) in [
        (json!({"evaluations_semantic": "first"}), "/options"),
        (json!([]), "/options"),
        (json!({}), "/evaluations"),
        (vec![pay(few); 101].into(), "/evaluations"),
    ] {
        let mut body = batch(None, &[few]);
        *body.pointer_mut(pointer).unwrap_or(&mut Value::Null) = Value::Null;
        body[&pointer[1..]] = wrong;
        assert_eq!(served.asked(&bot, EVALUATIONS, &body).await.0, 400, "{pointer}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_one_of_a_batch_is_its_own() {
    let served = Served::paying().await;
    let (_, jti) = served.mandate("bot", "500.00").await;
    let bot = served.key_with("bot", &jti).await;
    let right = about("bot", "20.00");
    let mut nothing = right.clone();
    nothing.as_object_mut().unwrap().remove("resource");
    let body = json!({"evaluations": [
        right, nothing, 7, about("rival", "20.00"), about("-", "20.00"),
        {"subject": right["subject"], "resource": right["resource"], "action": {"name": "NOPE"}}, right,
    ]});
    let (status, said) = served.asked(&bot, EVALUATIONS, &body).await;
    assert_eq!(status, 200, "{said}");
    let told: Vec<(bool, Option<u64>)> = said["evaluations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["decision"].as_bool().unwrap(), it["context"]["error"]["status"].as_u64()))
        .collect();
    let no = |status| (false, Some(status));
    assert_eq!(told, [(true, None), no(400), no(400), no(403), no(403), no(422), (true, None)], "{said}");
}

#[tokio::test]
async fn what_is_no_question_is_a_bad_request_and_keeps_its_name() {
    let served = Served::paying().await;
    let ask = |path: &str, body: String| {
        let request = served.client.post(format!("{}{path}", served.url)).bearer_auth(&served.admin);
        request.header("content-type", "application/json").header("x-request-id", "bfe9eb29-ab87").body(body)
    };
    let mut bodies = vec!["{".to_owned(), "[]".to_owned(), "7".to_owned(), "{\"a\":1,\"a\":2}".to_owned()];
    bodies.push(" ".repeat(256 * 1024 + 1));
    for pointer in
        ["/subject", "/action", "/resource", "/subject/type", "/subject/id", "/action/name", "/resource/id"]
    {
        for wrong in [None, Some(json!(7)), Some(Value::Null)] {
            let mut body = about("bot", "20.00");
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            let parent = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            parent.remove(name);
            parent.extend(wrong.map(|wrong| (name.to_owned(), wrong)));
            bodies.push(body.to_string());
        }
    }
    for path in [EVALUATION, EVALUATIONS] {
        for body in &bodies {
            let response = ask(path, body.clone()).send().await.unwrap();
            let shown = &body[..body.len().min(80)];
            assert_eq!(response.status(), 400, "{shown}");
            assert_eq!(response.headers()["x-request-id"], "bfe9eb29-ab87", "{shown}");
            assert!(body_of(response).await["message"].is_string(), "{shown}");
        }
        let text = ask(path, about("bot", "1.00").to_string()).header("content-type", "text/plain");
        assert_eq!(text.send().await.unwrap().status(), 400, "another content type stands there, too");
        let right = ask(path, about("bot", "1.00").to_string()).send().await.unwrap();
        assert_eq!(right.headers()["x-request-id"], "bfe9eb29-ab87");
    }
}

#[tokio::test]
async fn asking_takes_nothing_from_those_who_act() {
    let archetype = Rate { per_second: 1, burst: 1 };
    let served = Served::ruled(&[], Limits { archetype, ..Limits::default() }, |_| {}).await;
    let bot = served.key_of("bot", "agent").await;
    let path = "/sandbox/access/v1/evaluation";
    for _ in 0..5 {
        let (status, said) = served.asked(&bot, path, &about("bot", "20.00")).await;
        assert_eq!((status, &said["decision"]), (200, &json!(true)), "{said}");
    }
    let act = served.post("/api/sandbox/execute", &support::payment()).bearer_auth(&bot);
    assert_eq!(act.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_asks_too_often_is_told_how_long_to_wait_and_who_asks_too_much_that_it_is() {
    let subject = Rate { per_second: 1, burst: 90 };
    let served = Served::ruled(PAYMENTS, Limits { subject, ..Limits::default() }, |_| {}).await;
    let bot = served.key_of("bot", "agent").await;
    let asked = async |questions: usize| {
        let mut body = about("bot", "1.00");
        body["evaluations"] = vec![json!({}); questions].into();
        served.post(EVALUATIONS, &body).bearer_auth(&bot).send().await.unwrap()
    };
    let never = asked(91).await;
    assert_eq!((never.status().as_u16(), never.headers().get("retry-after")), (400, None));
    let all = body_of(asked(90).await).await;
    assert_eq!(
        all["evaluations"].as_array().map(Vec::len),
        Some(90),
        "what never may be asked took nothing: {all}"
    );
    let later = asked(90).await;
    assert_eq!(later.status(), 429);
    let wait: u64 = later.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(wait > 1, "until all of them may be asked, and not one: {wait}");
}

#[tokio::test]
async fn each_evaluation_is_in_the_log_and_counted() {
    let log = log();
    let served = Served::paying().await;
    let (_, jti) = served.mandate("bot", "500.00").await;
    served.key_with("bot", &jti).await;
    let operator = served.key_of("olga", "operator").await;
    let mut unknown = about("bot", "1.00");
    unknown["action"]["name"] = json!("NOPE");
    for (n, (body, verdict, code)) in [
        (about("bot", "20.00"), "pass", Value::Null),
        (about("bot", "600.00"), "blocked", json!("EP_DELEGATION_BLOCK")),
        (unknown, "error", json!("EP_UNKNOWN_ARCHETYPE")),
    ]
    .iter()
    .enumerate()
    {
        let id = format!("logged-{n}");
        let request = served.post(EVALUATION, body).bearer_auth(&operator).header("x-request-id", &id);
        let said = body_of(request.send().await.unwrap()).await;
        let line = log.of(&id);
        let expected = json!({
            "evaluation": said["context"]["evaluation_id"], "request_id": id, "environment": "production",
            "tenant": "default", "asked_by": "olga", "subject": "bot", "archetype": body["action"]["name"],
            "verdict": verdict, "message": "evaluated",
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(line["fields"][name], *value, "{name}: {line}");
        }
        assert_eq!(line["fields"]["code"], *code, "{line}");
    }
    let metrics = served.get("/metrics").send().await.unwrap().text().await.unwrap();
    for verdict in ["pass", "blocked", "error"] {
        let line =
            format!("countersign_evaluations_total{{environment=\"production\",verdict=\"{verdict}\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

/// The interop scenario of the working group: users of a todo list, written as agents, groups and tags. Each decision is
/// the one that the scenario expects.
#[tokio::test]
async fn the_todo_scenario_is_decided_as_it_expects() {
    let Some(vectors) = Vectors::find() else { return };
    let cases = vectors.read("interop/authzen-todo-backend/test/decisions-authorization-api-1_0-02.json");
    let files = scenario(&TODO, TODO_POLICIES);
    vectors.are_decided_as_expected(&cases, &files, (40, 3)).await;
}

/// The same for gateways in front of that list, which ask about routes.
#[tokio::test]
async fn the_gateway_scenario_is_decided_as_it_expects() {
    let Some(vectors) = Vectors::find() else { return };
    let cases = vectors.read("interop/authzen-api-gateways/test-harness/test/decisions.json");
    let files = scenario(&ROUTES, ROUTE_POLICIES);
    vectors.are_decided_as_expected(&cases, &files, (25, 0)).await;
}

/// The vectors of the working group, which lie beside the repository.
struct Vectors {
    folder: std::path::PathBuf,
    asked: jsonschema::Validator,
    answered: jsonschema::Validator,
}

impl Vectors {
    fn find() -> Option<Vectors> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/authzen");
        if !folder.is_dir() {
            testkit::skip("no vectors of AuthZEN beside the repository");
            return None;
        }
        let schema = |name: &str| {
            let text = std::fs::read(folder.join("api/schemas").join(name)).unwrap();
            jsonschema::validator_for(&serde_json::from_slice(&text).unwrap()).unwrap()
        };
        let (asked, answered) =
            (schema("evaluation-request.schema.json"), schema("evaluation-response.schema.json"));
        Some(Vectors { folder, asked, answered })
    }

    fn read(&self, path: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.join(path)).unwrap()).unwrap()
    }

    async fn are_decided_as_expected(
        &self,
        cases: &Value,
        files: &[(String, String)],
        count: (usize, usize),
    ) {
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
        let served = Served::ruled(&files, Limits::default(), |_| {}).await;
        let of = |name: &str| cases[name].as_array().cloned().unwrap_or_default();
        let (single, several) = (of("evaluation"), of("evaluations"));
        assert_eq!((single.len(), several.len()), count);
        for case in single {
            let (request, expected) = (&case["request"], &case["expected"]);
            assert!(self.asked.is_valid(request), "{request}");
            let said = served.decided(&served.admin, request).await;
            assert!(self.answered.is_valid(&said), "{said}");
            assert_eq!(said["decision"], *expected, "{request}: {said}");
        }
        for case in several {
            let (status, said) = served.asked(&served.admin, EVALUATIONS, &case["request"]).await;
            assert_eq!(status, 200, "{said}");
            let said = said["evaluations"].as_array().unwrap();
            assert!(said.iter().all(|it| self.answered.is_valid(it)), "{said:?}");
            let decisions: Vec<Value> = said.iter().map(|it| json!({"decision": it["decision"]})).collect();
            assert_eq!(json!(decisions), case["expected"], "{}", case["request"]);
        }
    }
}

/// Archetypes of a scenario: name, type of the resource, its member, and one more that is needed.
type Kinds = [(&'static str, &'static str, Option<&'static str>)];

const TODO: [(&str, &str, Option<&str>); 5] = [
    ("can_read_user", "user", None),
    ("can_read_todos", "todo", None),
    ("can_create_todo", "todo", None),
    ("can_update_todo", "todo", Some("ownerID")),
    ("can_delete_todo", "todo", Some("ownerID")),
];

const TODO_POLICIES: &str = r#"
@id("everybody-reads")
permit (principal, action in [Action::"can_read_user", Action::"can_read_todos"], resource);

@id("who-edits-creates")
permit (principal in AgentGroup::"editor", action == Action::"can_create_todo", resource);

@id("who-edits-changes-their-own")
permit (
  principal in AgentGroup::"editor",
  action in [Action::"can_update_todo", Action::"can_delete_todo"],
  resource
) when {
  principal.hasTag("email") && principal.getTag("email") == context.constraints.ownerID
};

@id("an-admin-creates-and-deletes")
permit (
  principal in AgentGroup::"admin",
  action in [Action::"can_create_todo", Action::"can_delete_todo"],
  resource
);

@id("a-genius-updates")
permit (principal in AgentGroup::"evil_genius", action == Action::"can_update_todo", resource);
"#;

const ROUTES: [(&str, &str, Option<&str>); 4] =
    [("GET", "route", None), ("POST", "route", None), ("PUT", "route", None), ("DELETE", "route", None)];

const ROUTE_POLICIES: &str = r#"
@id("everybody-reads")
permit (principal, action == Action::"GET", resource in ResourceGroup::"served");

@id("who-edits-writes")
permit (
  principal in AgentGroup::"editor",
  action in [Action::"POST", Action::"PUT", Action::"DELETE"],
  resource in ResourceGroup::"served"
);

@id("an-admin-writes")
permit (
  principal in AgentGroup::"admin",
  action in [Action::"POST", Action::"PUT", Action::"DELETE"],
  resource in ResourceGroup::"served"
);
"#;

/// Catalogue, policies and people of a scenario. No archetype is bound to anything: it is carried out elsewhere.
fn scenario(kinds: &Kinds, policies: &str) -> Vec<(String, String)> {
    let member = |name: &str, grammar: &str| {
        format!(
            "[schema.properties.{name}]\ndescription = \"As the scenario has it\"\ntype = \"string\"\n\
             x-identifier = true\nexamples = [\"/x\"]\n{grammar}\n"
        )
    };
    let anything = "pattern = \"^[!-~]+$\"";
    let mut files: Vec<(String, String)> = kinds
        .iter()
        .map(|(name, kind, more)| {
            let needed: Vec<&str> = std::iter::once("id").chain(*more).collect();
            let members: String = needed.iter().map(|name| member(name, anything)).collect();
            let text = format!(
                "name = \"{name}\"\ndescription = \"As the scenario has it\"\nreversible = true\n\
                 resource = \"/id\"\n[cedar]\nresource_type = \"{kind}\"\n[schema]\nrequired = {needed:?}\n{members}"
            );
            (format!("catalogue/default/{name}.toml"), text)
        })
        .collect();
    let agent = |(id, email, groups): &(&str, &str, &[&str])| {
        let parents: Vec<Value> =
            groups.iter().map(|group| json!({"type": "AgentGroup", "id": group})).collect();
        let id = format!("CiRmZD{id}MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs");
        json!({
            "uid": {"type": "Agent", "id": id}, "attrs": {}, "parents": parents, "tags": {"email": email},
        })
    };
    let route = |path: &&str| {
        json!({
            "uid": {"type": "route", "id": path}, "attrs": {},
            "parents": [{"type": "ResourceGroup", "id": "served"}],
        })
    };
    let mut entities: Vec<Value> = PEOPLE.iter().map(agent).collect();
    if kinds.iter().any(|(_, kind, _)| *kind == "route") {
        entities.extend(["/users/{userId}", "/todos", "/todos/{todoId}"].iter().map(route));
    }
    files.push(("policies/default/scenario.cedar".to_owned(), policies.to_owned()));
    files.push(("policies/default/people.json".to_owned(), json!(entities).to_string()));
    files
}

const PEOPLE: [(&str, &str, &[&str]); 5] = [
    ("A2", "rick@the-citadel.com", &["admin", "evil_genius"]),
    ("E2", "morty@the-citadel.com", &["editor"]),
    ("I2", "summer@the-smiths.com", &["editor"]),
    ("M2", "beth@the-smiths.com", &["viewer"]),
    ("Q2", "jerry@the-smiths.com", &["viewer"]),
];

/// What this process logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The line about a request.
    fn of(&self, request_id: &str) -> Value {
        let bytes = self.0.lock().unwrap().clone();
        let lines = String::from_utf8(bytes).unwrap();
        let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .find(|line| {
                line["fields"]["request_id"] == request_id && line["fields"]["message"] == "evaluated"
            })
            .unwrap_or_else(|| panic!("nothing is logged of {request_id}"))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log() -> Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt().json().with_writer(move || writer.clone()).init();
        log
    })
    .clone()
}
