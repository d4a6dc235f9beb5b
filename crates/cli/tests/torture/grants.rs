//! Grants over HTTP, in the shapes of RFC 9635: what an agent holds, what a person consents to, what is refused.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::house::{House, Plan, Said, Voice};
use crate::sessions::intent;

/// A house where approvers may be asked, and policies let agents ask.
async fn asking() -> House {
    let config = "[grants]\nconsent = true\n\n[limits]\nrecovery_interval_ms = 50\n";
    let house = House::with(Plan { config: config.into(), ..Plan::default() }).await;
    let policy = "@id(\"grants\") permit (principal, action == Action::\"SESSION_GRANT\", resource)\n\
                  unless { context.constraints has max_actions && context.constraints.max_actions > 1000 };";
    std::fs::write(house.path().join("policies/default/grants.cedar"), policy).unwrap();
    let said = house.admin().post("/v1/reload", &json!({})).await;
    assert_eq!(said.status, 200, "{}", said.text());
    house
}

fn right(more: Value) -> Value {
    let mut right = json!({"type": "urn:countersign:actions", "actions": ["Payments"]});
    for (name, value) in more.as_object().unwrap() {
        right[name] = value.clone();
    }
    json!({"access_token": {"access": [right]}})
}

async fn proceed(house: &House, token: &Value) -> Said {
    let request = house.nobody().request("POST", "/v1/grants/continue");
    Said::of(request.header("authorization", format!("GNAP {}", token.as_str().unwrap()))).await.unwrap()
}

/// The same once a person has spoken and that was carried out.
async fn proceed_until(house: &House, token: &Value) -> Said {
    loop {
        let said = proceed(house, token).await;
        if said.body.get("continue").is_none() {
            return said;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Pays under a grant, in its session.
async fn pay(agent: &Voice, house: &House, granted: &Value, key: &str, amount: &str) -> Said {
    let session = &granted["session"];
    let path = format!("/v1/sessions/{}/intents", session["session_id"].as_str().unwrap());
    let said = agent.post(&path, &intent(session, key, session["sequence"].as_u64().unwrap() + 1)).await;
    assert_eq!(said.status, 201, "{}", said.text());
    let mut body = house.payment(key, amount);
    body["session_id"] = session["session_id"].clone();
    body["delegation_token"] = granted["access_token"]["value"].clone();
    agent.execute(key, &body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agent_holds_is_granted_narrower_and_at_once() {
    let house = House::new().await;
    let agent = house.agent();
    let mut ask = right(json!({
        "spend_cap": {"amount": "10.00", "currency": "USD"}, "max_actions": 3, "expires_in_seconds": 600,
    }));
    ask["delegation_token"] = house.token("default").into();
    ask["client"] = "default-agent".into();
    let said = agent.post("/v1/grants", &ask).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let mut names: Vec<&String> = said.body.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["access_token", "session"]);
    let token = &said.body["access_token"];
    assert_eq!(token["access"], json!([{"type": "urn:countersign:actions", "actions": ["Payments"]}]));
    assert!((590..=600).contains(&token["expires_in"].as_i64().unwrap()), "{token}");
    let session = &said.body["session"];
    assert_eq!((&session["agent_id"], &session["state"]), (&json!("default-agent"), &json!("ACTIVE")));
    let paid = pay(&agent, &house, &said.body, "acct-1", "9.00").await;
    assert_eq!(paid.kind(), "executed", "{}", paid.text());
    let mandate = agent.get(&format!("/v1/mandates/{}", session["mandate_id"].as_str().unwrap())).await.body;
    assert_eq!((&mandate["depth"], &mandate["root_principal"]), (&json!(1), &json!("default-operator")));
    assert_eq!(mandate["left"]["spend"], json!({"amount": "1.00", "currency": "USD"}), "{mandate}");
    // More than it holds: here nobody is asked.
    let more = right(json!({"spend_cap": {"amount": "1000000.00", "currency": "USD"}}));
    let mut more = more;
    more["delegation_token"] = house.token("default").into();
    let said = agent.post("/v1/grants", &more).await;
    assert_eq!(
        (said.status, &said.body["error"]["code"]),
        (403, &json!("request_denied")),
        "{}",
        said.text()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_consents_in_the_inbox_and_the_grant_goes_on() {
    let mut house = asking().await;
    let agent = house.agent();
    let mut ask =
        right(json!({"spend_cap": {"amount": "20.00", "currency": "USD"}, "locations": ["acct-*"]}));
    ask["interact"] = json!({"start": ["redirect"]});
    let said = agent.post("/v1/grants", &ask).await;
    assert_eq!(said.status, 200, "{}", said.text());
    assert!(said.body.get("access_token").is_none() && said.body.get("session").is_none(), "{}", said.text());
    assert_eq!(said.body["continue"]["uri"], "https://gw.example/v1/grants/continue");
    assert!(said.body["continue"]["wait"].is_u64());
    let inbox = house.voice("default", "approver").get("/v1/approvals").await.body;
    let held = &inbox["items"][0];
    let id = held["action_id"].as_str().unwrap().to_owned();
    assert_eq!((&held["archetype"], &held["agent_id"]), (&json!("SESSION_GRANT"), &json!("default-agent")));
    assert_eq!(held["parameters"]["spend_cap"], "20.00 USD");
    assert_eq!(said.body["interact"]["redirect"], format!("https://gw.example/approvals/{id}"));
    let token = said.body["continue"]["access_token"]["value"].clone();
    let waiting = proceed(&house, &token).await;
    assert_eq!((waiting.status, &waiting.body["continue"]["access_token"]["value"]), (200, &token));
    assert_eq!(agent.get("/v1/sessions").await.body["items"], json!([]), "nothing is given yet");
    // To the byte: neither longer, nor in other letters, nor by another name of the same grant.
    let given = token.as_str().unwrap();
    let (named, proof) = given.rsplit_once('.').unwrap();
    for wrong in [
        json!("x"),
        json!(format!("{given}0")),
        json!(given[..given.len() - 1]),
        json!(format!("{named}.{}", proof.to_uppercase())),
        json!(given.replace(&id, &id.to_uppercase())),
        json!(format!("other.{id}.00")),
    ] {
        let said = proceed(&house, &wrong).await;
        assert_eq!(
            (said.status, &said.body["error"]["code"]),
            (401, &json!("invalid_continuation")),
            "{wrong}"
        );
    }
    assert_eq!(
        agent.post(&format!("/v1/actions/{id}/approve"), &json!({})).await.status,
        403,
        "not by itself"
    );
    let yes = house.voice("default", "approver").post(&format!("/v1/actions/{id}/approve"), &json!({})).await;
    assert_eq!(yes.status, 200, "{}", yes.text());
    let granted = proceed_until(&house, &token).await;
    assert_eq!(granted.status, 200, "{}", granted.text());
    // Whoever continues again, also after a crash, has the same mandate and the same session.
    house.gateway.kill();
    house.start();
    let again = proceed(&house, &token).await;
    assert_eq!(
        again.body["session"]["session_id"],
        granted.body["session"]["session_id"],
        "{}",
        again.text()
    );
    let agent = house.agent();
    assert_eq!(agent.get("/v1/sessions").await.body["items"].as_array().unwrap().len(), 1);
    // It is in the name of the person, and as narrow as was shown.
    let jti = granted.body["session"]["mandate_id"].as_str().unwrap();
    // Its token is signed anew, and says the same.
    let claims = |said: &Said| {
        said.body["access_token"]["value"].as_str().unwrap().split('.').nth(1).unwrap().to_owned()
    };
    assert_eq!(claims(&again), claims(&granted));
    let mandate = agent.get(&format!("/v1/mandates/{jti}")).await.body;
    assert_eq!(
        (&mandate["root_principal"], &mandate["depth"]),
        (&json!("default-approver"), &json!(0)),
        "{mandate}"
    );
    let paid = pay(&agent, &house, &again.body, "acct-1", "15.00").await;
    assert_eq!(paid.kind(), "executed", "{}", paid.text());
    let mut over = house.payment("acct-2", "6.00");
    over["session_id"] = again.body["session"]["session_id"].clone();
    over["delegation_token"] = again.body["access_token"]["value"].clone();
    let over = agent.execute("over", &over).await;
    assert_eq!(
        (over.code(), &over.body["details"]["reasons"]),
        ("EP_DELEGATION_BLOCK", &json!(["cap_exceeded"]))
    );
    // It is of no use to another agent.
    let mut theirs = house.payment("acct-3", "1.00");
    theirs["delegation_token"] = again.body["access_token"]["value"].clone();
    assert_eq!(house.voice("default", "rival").execute("r", &theirs).await.code(), "EP_DELEGATION_BLOCK");
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
}

/// An API key of this role, for somebody who has another one already.
async fn also(house: &House, subject: &str, role: &str) -> Voice {
    let made = house.admin().post("/v1/keys", &json!({"subject": subject, "role": role})).await;
    Voice { key: Some(made.body["secret"].as_str().unwrap().to_owned()), ..house.nobody() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_consents_acts_under_nothing_that_comes_of_it() {
    let house = asking().await;
    let said = house.agent().post("/v1/grants", &right(json!({}))).await;
    let token = said.body["continue"]["access_token"]["value"].clone();
    let inbox = house.voice("default", "approver").get("/v1/approvals").await.body;
    let approve = format!("/v1/actions/{}/approve", inbox["items"][0]["action_id"].as_str().unwrap());
    let own = also(&house, "default-agent", "approver").await.post(&approve, &json!({})).await;
    assert_eq!((own.status, own.code()), (403, "EP_FORBIDDEN"), "{}", own.text());
    let yes = also(&house, "default-rival", "approver").await.post(&approve, &json!({})).await;
    assert_eq!(yes.status, 200, "{}", yes.text());
    let granted = proceed_until(&house, &token).await.body;
    let path = format!("/v1/mandates/{}/delegate", granted["session"]["mandate_id"].as_str().unwrap());
    let back = house.agent().post(&path, &json!({"subject": "default-rival"})).await;
    assert_eq!((back.status, back.code()), (409, "EP_STATE_CONFLICT"), "{}", back.text());
    assert_eq!(house.agent().post(&path, &json!({"subject": "default-agent"})).await.status, 201);
}

/// Mandates and entries, those of sessions included.
fn written(house: &House) -> (i64, i64) {
    let db = Connection::open(house.path().join("data/production.db")).unwrap();
    let count =
        |table: &str| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    (count("mandate"), count("entry"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_people_hold_the_cluster_nothing_is_granted_below_and_nothing_written() {
    let house = asking().await;
    let (agent, operator) = (house.agent(), house.voice("default", "operator"));
    let token = json!({"delegation_token": house.token("default")});
    let session = agent.post("/v1/sessions", &token).await.body["session_id"].clone();
    let formed = agent.post("/v1/clusters", &json!({"session_id": session})).await;
    let cluster = format!("/v1/clusters/{}", formed.body["cluster_id"].as_str().unwrap());
    assert_eq!(operator.post(&format!("{cluster}/hold"), &json!({})).await.status, 200);
    let mut ask = right(json!({}));
    ask["delegation_token"] = house.token("default").into();
    let before = written(&house);
    for _ in 0..3 {
        let said = agent.post("/v1/grants", &ask).await;
        let told = &said.body["error"];
        assert_eq!((said.status, &told["code"]), (403, &json!("request_denied")), "{}", said.text());
        assert!(told["description"].as_str().unwrap().contains("MANDATE_HOLD"), "{told}");
    }
    assert_eq!(written(&house), before);
    assert_eq!(operator.post(&format!("{cluster}/release"), &json!({})).await.status, 200);
    let said = agent.post("/v1/grants", &ask).await;
    assert!(said.body["session"]["session_id"].is_string(), "{}", said.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mandate_that_is_none_of_the_agents_is_refused_by_name_and_nobody_is_asked() {
    let house = asking().await;
    let (agent, rival, operator) =
        (house.agent(), house.voice("default", "rival"), house.voice("default", "operator"));
    let jti = operator.get("/v1/mandates").await.body["items"][0]["jti"].as_str().unwrap().to_owned();
    let delegate = format!("/v1/mandates/{jti}/delegate");
    let handed = async |to: &str| agent.post(&delegate, &json!({"subject": to})).await.body;
    let (ended, child) = (handed("default-agent").await, handed("default-rival").await);
    let revoke = |of: &str| format!("/v1/mandates/{of}/revoke");
    let of = ended["mandate"]["jti"].as_str().unwrap();
    assert_eq!(operator.post(&revoke(of), &json!({})).await.status, 200);
    let good = house.token("default").to_owned();
    let token = |handed: &Value| handed["token"].as_str().unwrap().to_owned();
    let junk = ["x", "a.b.c", "", "tok-sandbox-public"].map(str::to_owned);
    let before = written(&house);
    let refused = async |voice: &Voice, token: String| {
        let mut ask = right(json!({}));
        ask["delegation_token"] = token.into();
        let said = voice.post("/v1/grants", &ask).await;
        let told = &said.body["error"];
        assert_eq!((said.status, &told["code"]), (400, &json!("invalid_request")), "{}", said.text());
        assert!(told["description"].as_str().unwrap().starts_with("`/delegation_token` "), "{told}");
    };
    for token in junk.into_iter().chain([token(&child), token(&ended)]) {
        refused(&agent, token).await;
    }
    refused(&rival, good).await;
    assert_eq!(written(&house), before, "nothing is written");
    assert_eq!(operator.post(&revoke(&jti), &json!({})).await.status, 200);
    let before = written(&house);
    refused(&rival, token(&child)).await;
    assert_eq!(written(&house), before, "not under a link that was revoked either");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_of_a_person_or_a_policy_grants_nothing() {
    let house = asking().await;
    let agent = house.agent();
    let before = house.admin().get("/v1/mandates").await.body["items"].as_array().unwrap().len();
    let said = agent.post("/v1/grants", &right(json!({}))).await;
    let token = said.body["continue"]["access_token"]["value"].clone();
    let inbox = house.voice("default", "approver").get("/v1/approvals").await.body;
    let id = inbox["items"][0]["action_id"].as_str().unwrap();
    let no = house.voice("default", "approver").post(&format!("/v1/actions/{id}/reject"), &json!({})).await;
    assert_eq!(no.status, 200, "{}", no.text());
    let denied = proceed_until(&house, &token).await;
    assert_eq!(
        (denied.status, &denied.body["error"]["code"]),
        (403, &json!("user_denied")),
        "{}",
        denied.text()
    );
    let forbidden = agent.post("/v1/grants", &right(json!({"max_actions": 5000}))).await;
    assert_eq!(
        (forbidden.status, &forbidden.body["error"]["code"]),
        (403, &json!("request_denied")),
        "{}",
        forbidden.text()
    );
    assert_eq!(house.admin().get("/v1/mandates").await.body["items"].as_array().unwrap().len(), before);
    assert_eq!(agent.get("/v1/sessions").await.body["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_grant_request_is_refused_by_name_and_nothing_is_written() {
    let house = asking().await;
    let count = || {
        let db = Connection::open(house.path().join("data/production.db")).unwrap();
        db.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let before = count();
    let with = |member: &str, value: Value| {
        let mut body = right(json!({}));
        body[member] = value;
        body
    };
    let access = |value: Value| json!({"access_token": {"access": value}});
    let place = |member: &str| format!("/access_token/access/0/{member}");
    for (body, code, member) in [
        (json!({}), "invalid_request", "/access_token".to_owned()),
        (json!([]), "invalid_request", "/".into()),
        (with("colour", json!("red")), "invalid_request", "/colour".into()),
        (with("time_budget_remaining", json!(9)), "invalid_request", "/time_budget_remaining".into()),
        (with("client", json!("default-rival")), "invalid_client", "/client".into()),
        (access(json!("Payments")), "invalid_request", "/access_token".into()),
        (access(json!([])), "invalid_request", "/access_token/access".into()),
        (access(json!([{"type": "photos", "actions": ["Payments"]}])), "invalid_request", place("type")),
        (right(json!({"actions": []})), "invalid_request", place("actions")),
        (right(json!({"actions": ["NO_SUCH"]})), "invalid_request", place("actions/0")),
        (
            right(json!({"spend_cap": {"amount": "1.005", "currency": "USD"}})),
            "invalid_request",
            place("spend_cap/amount"),
        ),
        (
            right(json!({"spend_cap": {"amount": "1", "currency": "XXZ"}})),
            "invalid_request",
            place("spend_cap/currency"),
        ),
        (right(json!({"max_actions": 0})), "invalid_request", place("max_actions")),
        (right(json!({"expires_in_seconds": 0})), "invalid_request", place("expires_in_seconds")),
        (right(json!({"privileges": ["admin"]})), "invalid_request", "/access_token".into()),
    ] {
        let said = house.agent().post("/v1/grants", &body).await;
        assert_eq!(
            (said.status, said.body["error"]["code"].as_str()),
            (400, Some(code)),
            "{body} {}",
            said.text()
        );
        let told = said.body["error"]["description"].as_str().unwrap();
        assert!(told.starts_with(&format!("`{member}")), "{body}: {told}");
    }
    assert_eq!(count(), before, "nothing is written");
}
