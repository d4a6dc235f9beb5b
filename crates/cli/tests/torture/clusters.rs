//! Clusters over HTTP and by the program: bad input, and what is left of them after a kill.

use std::process::Command;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::hem::{tampered, tells};
use crate::house::{House, Voice, countersign};

/// A session of an agent of the first tenant, under a mandate of its own with so many seconds.
async fn opened(house: &House, base: &str, who: &str, seconds: u64) -> String {
    let ask = json!({
        "subject": format!("default-{who}"), "scope": ["Payments"], "expires_in_seconds": 600,
        "spend_cap": {"amount": "10.00", "currency": "USD"}, "resource_envelope": {"max_compute_units": seconds, "max_duration_seconds": seconds},
    });
    let issued = house.voice("default", "operator").post(&format!("{base}/v1/mandates"), &ask).await;
    assert_eq!(issued.status, 201, "{}", issued.text());
    let ask = json!({"delegation_token": issued.body["token"]});
    let opened = house.voice("default", who).post(&format!("{base}/v1/sessions"), &ask).await;
    opened.body["session_id"].as_str().unwrap().to_owned()
}

/// How much is written down.
pub(crate) fn written(house: &House) -> (i64, i64, i64) {
    let db = Connection::open(house.path().join("data/sandbox.db")).unwrap();
    let count =
        |table: &str| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    (count("cluster"), count("member"), count("entry"))
}

/// In the sandbox, where errors name the member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_by_name_and_nothing_is_written() {
    let house = House::new().await;
    let base = "/sandbox";
    let agent = house.agent();
    let one = opened(&house, base, "agent", 60).await;
    let two = opened(&house, base, "rival", 60).await;
    let other = opened(&house, base, "agent", 60).await;
    let formed = agent.post("/sandbox/v1/clusters", &json!({"session_id": one})).await;
    assert_eq!(formed.status, 201, "{}", formed.text());
    let id = formed.body["cluster_id"].as_str().unwrap().to_owned();
    let (form, show) = ("/sandbox/v1/clusters".to_owned(), format!("/sandbox/v1/clusters/{id}"));
    let part = |name: &str| format!("{show}/{name}");
    let joined = house.voice("default", "rival").post(&part("join"), &json!({"session_id": two})).await;
    assert_eq!(joined.status, 200, "{}", joined.text());
    let wait = format!("/sandbox/v1/sessions/{one}/wait");
    let hand = |member: &str, value: Value| {
        let mut body = json!({"from_session_id": one, "to_session_id": two, "transfer_amount": 5});
        body[member] = value;
        body
    };
    let with = |member: &str, value: Value| {
        let mut body = json!({"session_id": other});
        body[member] = value;
        body
    };
    let before = written(&house);
    let invalid = "EP_VALIDATION_FAILED";
    for (path, body, status, code, field) in [
        (&form, json!({}), 422, invalid, Some("/session_id")),
        (&form, with("session_id", json!(7)), 422, invalid, Some("/session_id")),
        (&form, with("colour", json!("red")), 422, invalid, Some("/colour")),
        (&form, with("cluster_context", json!({})), 422, invalid, Some("/cluster_context")),
        (&form, with("deadline", json!("soon")), 422, invalid, Some("/deadline")),
        (&form, with("deadline", json!("2020-01-01T00:00:00Z")), 422, invalid, Some("/deadline")),
        (&form, with("deadline", json!("2100-01-01T00:00:00Z")), 422, invalid, Some("/deadline")),
        (&form, with("session_id", json!("ses_none")), 404, "EP_NOT_FOUND", Some("/session_id")),
        (&form, with("session_id", json!(two)), 404, "EP_NOT_FOUND", Some("/session_id")),
        (&form, with("session_id", json!(one)), 409, "EP_STATE_CONFLICT", None),
        (&part("join"), json!({}), 422, invalid, Some("/session_id")),
        (&part("join"), with("seconds", json!(1)), 422, invalid, Some("/seconds")),
        (&part("join"), with("session_id", json!(two)), 404, "EP_NOT_FOUND", Some("/session_id")),
        (&part("join"), with("session_id", json!(one)), 409, "EP_STATE_CONFLICT", None),
        (&part("leave"), json!({}), 422, invalid, Some("/session_id")),
        (&part("leave"), json!({"session_id": [one]}), 422, invalid, Some("/session_id")),
        (&part("leave"), with("session_id", json!(other)), 422, invalid, Some("/session_id")),
        (&part("transfer"), json!({"from_session_id": one}), 422, invalid, Some("/to_session_id")),
        (&part("transfer"), hand("transfer_amount", json!(0)), 422, invalid, Some("/transfer_amount")),
        (&part("transfer"), hand("transfer_amount", json!(-5)), 422, invalid, Some("/transfer_amount")),
        (&part("transfer"), hand("transfer_amount", json!(1.5)), 422, invalid, Some("/transfer_amount")),
        (&part("transfer"), hand("transfer_amount", json!(61)), 422, invalid, Some("/transfer_amount")),
        (
            &part("transfer"),
            hand("transfer_amount", json!((1_u64 << 53) - 1)),
            422,
            invalid,
            Some("/transfer_amount"),
        ),
        (
            &part("transfer"),
            hand("transfer_amount", json!(1_u64 << 53)),
            422,
            invalid,
            Some("/transfer_amount"),
        ),
        (&part("transfer"), hand("transfer_amount", json!(u64::MAX)), 422, invalid, Some("/transfer_amount")),
        (&part("transfer"), hand("resource", json!("memory_bytes")), 422, invalid, Some("/resource")),
        (&part("transfer"), hand("resource", json!("seconds")), 422, invalid, Some("/resource")),
        (&part("transfer"), hand("resource", json!(5)), 422, invalid, Some("/resource")),
        (&part("transfer"), hand("resource", json!("storage_bytes")), 422, invalid, Some("/from_session_id")),
        (&part("transfer"), hand("to_session_id", json!(one)), 422, invalid, Some("/to_session_id")),
        (&part("transfer"), hand("to_session_id", json!(other)), 422, invalid, Some("/to_session_id")),
        (&part("transfer"), hand("from_session_id", json!(other)), 422, invalid, Some("/from_session_id")),
        (
            &part("transfer"),
            hand("from_session_id", json!(two)),
            404,
            "EP_NOT_FOUND",
            Some("/from_session_id"),
        ),
        (
            &part("transfer"),
            hand("time_budget_remaining", json!(9)),
            422,
            invalid,
            Some("/time_budget_remaining"),
        ),
        (&part("hold"), json!({}), 403, "EP_FORBIDDEN", None),
        (&part("hold"), json!({"reason": 7}), 422, invalid, Some("/reason")),
        (&part("hold"), json!({"session_id": one}), 422, invalid, Some("/session_id")),
        (&part("release"), json!({}), 403, "EP_FORBIDDEN", None),
        (&part("release"), json!({"reason": "over"}), 422, invalid, Some("/reason")),
        (&part("release"), json!([]), 422, invalid, None),
        (&wait, json!({}), 422, invalid, Some("/on")),
        (&wait, json!({"on": 7}), 422, invalid, Some("/on")),
        (&wait, json!({"on": one}), 422, invalid, Some("/on")),
        (&wait, json!({"on": other}), 422, invalid, Some("/on")),
        (&wait, json!({"on": null}), 409, "EP_STATE_CONFLICT", None),
        (&wait, json!({"on": two, "until": 1}), 422, invalid, Some("/until")),
    ] {
        let said = agent.post(path, &body).await;
        assert_eq!((said.status, said.code()), (status, code), "{path} {body}: {}", said.text());
        assert_eq!(said.body["error"]["field"].as_str(), field, "{path} {body}: {}", said.text());
    }
    let lonely = format!("/sandbox/v1/sessions/{other}/wait");
    assert_eq!(agent.post(&lonely, &json!({"on": one})).await.code(), "EP_STATE_CONFLICT");
    for path in ["clu_none", "clu_none/join", "clu_none/leave", "clu_none/transfer"] {
        let path = format!("/sandbox/v1/clusters/{path}");
        let said = match path.rsplit('/').next().unwrap() {
            "clu_none" => agent.get(&path).await,
            "transfer" => agent.post(&path, &hand("transfer_amount", json!(1))).await,
            _ => agent.post(&path, &with("session_id", json!(other))).await,
        };
        assert_eq!((said.status, said.code()), (404, "EP_NOT_FOUND"), "{path}: {}", said.text());
    }
    assert_eq!(written(&house), before, "nothing was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_killed_amid_transfers_has_lost_no_second_and_verifies() {
    let mut house = House::new().await;
    let one = opened(&house, "", "agent", 300).await;
    let two = opened(&house, "", "rival", 300).await;
    let formed = house.agent().post("/v1/clusters", &json!({"session_id": one})).await;
    assert_eq!(formed.status, 201, "{}", formed.text());
    let path = format!("/v1/clusters/{}", formed.body["cluster_id"].as_str().unwrap());
    let rival = house.voice("default", "rival");
    assert_eq!(rival.post(&format!("{path}/join"), &json!({"session_id": two})).await.status, 200);
    for round in 0..3_u64 {
        let mut sent = tokio::task::JoinSet::new();
        for n in 0..40_u64 {
            let (who, from, to) = match n % 2 {
                0 => ("agent", &one, &two),
                _ => ("rival", &two, &one),
            };
            let resource = ["time_seconds", "compute_units"][(n / 2 % 2) as usize];
            let body = json!({
                "from_session_id": from, "to_session_id": to, "transfer_amount": 1 + n % 7, "resource": resource,
            });
            let (voice, path) = (house.voice("default", who), format!("{path}/transfer"));
            sent.spawn(async move { voice.request("POST", &path).json(&body).send().await.map(drop) });
        }
        for _ in 0..=5 * round {
            sent.join_next().await.unwrap().unwrap().unwrap();
        }
        house.gateway.kill();
        while sent.join_next().await.is_some() {}
        house.start();
        let seen = house.agent().get(&path).await.body;
        assert_eq!(seen["budget_pool"], 600, "{seen}");
        let left: u64 = (0..2).map(|at| seen["members"][at]["time_budget_remaining"].as_u64().unwrap()).sum();
        assert_eq!(left, 600, "{seen}");
        let units =
            |at: usize| seen["members"][at]["resource_envelope"]["max_compute_units"].as_u64().unwrap();
        assert_eq!(units(0) + units(1), 600, "{seen}");
    }
    let gar = house.agent().get("/v1/gar?ale_type=ALE-018&limit=200").await;
    assert!(!gar.body["items"].as_array().unwrap().is_empty(), "{}", gar.text());
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_that_no_transfer_moved_is_found() {
    let mut house = House::new().await;
    let one = opened(&house, "", "agent", 300).await;
    let two = opened(&house, "", "rival", 300).await;
    let formed = house.agent().post("/v1/clusters", &json!({"session_id": one})).await;
    let path = format!("/v1/clusters/{}", formed.body["cluster_id"].as_str().unwrap());
    let rival = house.voice("default", "rival");
    assert_eq!(rival.post(&format!("{path}/join"), &json!({"session_id": two})).await.status, 200);
    let body = json!({"from_session_id": one, "to_session_id": two, "transfer_amount": 7});
    let moved = house.agent().post(&format!("{path}/transfer"), &body).await;
    assert_eq!(moved.status, 200, "{}", moved.text());
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
    let findings = tampered(&mut house, "UPDATE account SET granted = 8 WHERE granted = 7").await;
    tells(&findings, "is not as the entries have it");
    let units = json!({
        "from_session_id": one, "to_session_id": two, "transfer_amount": 9, "resource": "compute_units",
    });
    tampered(&mut house, "UPDATE account SET granted = 7 WHERE granted = 8").await;
    assert_eq!(house.agent().post(&format!("{path}/transfer"), &units).await.status, 200);
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
    let sql = "UPDATE account SET granted_compute = 10 WHERE granted_compute = 9";
    tells(&tampered(&mut house, sql).await, "is not as the entries have it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_leads_a_cluster_from_its_first_member_to_its_last() {
    let house = House::new().await;
    let run = |voice: &Voice, args: &[&str]| {
        let mut command: Command = countersign();
        command.arg("cluster").args(args).args(["--url", &voice.url]);
        let output = command.env("COUNTERSIGN_API_KEY", voice.key.as_ref().unwrap()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let read = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let (agent, rival) = (house.agent(), house.voice("default", "rival"));
    let one = opened(&house, "", "agent", 300).await;
    let two = opened(&house, "", "rival", 300).await;
    let formed = read(run(&agent, &["form", &one]));
    let id = formed["cluster_id"].as_str().unwrap();
    assert_eq!(read(run(&rival, &["join", id, &two]))["members"].as_array().unwrap().len(), 2);
    let after = read(run(&agent, &["transfer", id, "--from", &one, "--to", &two, "--seconds", "100"]));
    assert_eq!(after["members"][1]["time_budget_remaining"], 400);
    let units =
        ["transfer", id, "--from", &one, "--to", &two, "--amount", "50", "--resource", "compute_units"];
    let after = read(run(&agent, &units));
    assert_eq!(after["members"][1]["resource_envelope"]["max_compute_units"], 350);
    assert_eq!(after["members"][1]["time_budget_remaining"], 400);
    let waits = read(run(&agent, &["wait", &one, "--on", &two]));
    assert_eq!(waits["session"]["state"], "CLUSTER_BLOCKED");
    let shown = run(&agent, &["show", id]);
    assert!(shown.contains("CLUSTER_BLOCKED") && shown.contains("400"), "{shown}");
    assert_eq!(read(run(&agent, &["wait", &one]))["session"]["state"], "ACTIVE");
    assert_eq!(read(run(&rival, &["leave", id, &two]))["members"].as_array().unwrap().len(), 1);
    assert_eq!(read(run(&agent, &["show", id, "--json"]))["budget_pool"], 200);
}

/// A script takes the id of each item of the list, and a circle of waits has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_tells_of_a_deadlock_beside_the_list_of_actions() {
    let house = House::new().await;
    let (agent, rival) = (house.agent(), house.voice("default", "rival"));
    let one = opened(&house, "", "agent", 300).await;
    let two = opened(&house, "", "rival", 300).await;
    let formed = agent.post("/v1/clusters", &json!({"session_id": one})).await;
    let id = formed.body["cluster_id"].as_str().unwrap();
    let joined = rival.post(&format!("/v1/clusters/{id}/join"), &json!({"session_id": two})).await;
    assert_eq!(joined.status, 200, "{}", joined.text());
    for (voice, session, on) in [(&agent, &one, &two), (&rival, &two, &one)] {
        let waits = voice.post(&format!("/v1/sessions/{session}/wait"), &json!({"on": on})).await;
        assert_eq!(waits.status, 200, "{}", waits.text());
    }
    let payment = house.payment("acct-large", "6000.00");
    let held = agent.execute("large", &payment).await;
    assert_eq!(held.kind(), "held", "{}", held.text());
    let approver = house.voice("default", "approver");
    let list = |more: &[&str]| {
        let mut command: Command = countersign();
        command.args(["approvals", "list", "--url", &approver.url]).args(more);
        let output = command.env("COUNTERSIGN_API_KEY", approver.key.as_ref().unwrap()).output().unwrap();
        let [out, beside] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{beside}");
        assert!(beside.starts_with(&format!("deadlock in {id}: {one} waits for {two};")), "{beside}");
        out
    };
    let listed: Value = serde_json::from_str(&list(&["--json"])).unwrap();
    let ids: Vec<&Value> = listed.as_array().unwrap().iter().map(|item| &item["action_id"]).collect();
    assert_eq!(ids, [&json!(held.id())]);
    assert_eq!(list(&[]).lines().count(), 2, "a heading and the action");
}
