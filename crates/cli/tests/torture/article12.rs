//! The record of a session as Article 12 of the EU AI Act asks for it, from a running gateway and from its files.

use std::process::Output;

use serde_json::{Value, json};

use crate::approvals::ask_for;
use crate::house::{House, Said, Voice, countersign};
use crate::sessions::intent;

fn path(session: &Value, part: &str) -> String {
    format!("/v1/sessions/{}/{part}", session["session_id"].as_str().unwrap())
}

async fn cycle(agent: &Voice, house: &House, session: &Value, key: &str, amount: &str) -> Said {
    let mut body = house.payment(key, amount);
    body["session_id"] = session["session_id"].clone();
    agent.execute(key, &body).await
}

/// A session in which one payment goes through, one waits for a person who agrees, one is refused, and that an operator
/// revokes.
async fn lived(house: &House) -> Value {
    ask_for(house, 1);
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    let agent = house.agent();
    let said = agent.post("/v1/sessions", &json!({"delegation_token": house.token("default")})).await;
    let session = said.body;
    let mut declared = intent(&session, "i-1", 1);
    declared["reasoning_mode"] = "CHAIN".into();
    assert_eq!(agent.post(&path(&session, "intents"), &declared).await.status, 201);
    assert_eq!(cycle(&agent, house, &session, "acct-1", "5.00").await.kind(), "executed");
    let held = cycle(&agent, house, &session, "acct-2", "6000.00").await;
    assert_eq!(held.kind(), "held", "{}", held.text());
    let approve = format!("/v1/actions/{}/approve", held.id());
    let yes = house.voice("default", "approver").post(&approve, &json!({"comment": "checked"})).await;
    assert_eq!(yes.status, 200, "{}", yes.text());
    let mut again = house.payment("acct-2", "6000.00");
    again["session_id"] = session["session_id"].clone();
    while agent.execute("acct-2", &again).await.kind() != "executed" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let refused = cycle(&agent, house, &session, "acct-3", "99999999.00").await;
    assert_eq!(refused.kind(), "blocked", "{}", refused.text());
    let operator = house.voice("default", "operator");
    let end =
        operator.post(&path(&session, "close"), &json!({"completion": "REVOKED", "reason": "drill"})).await;
    assert_eq!(end.status, 200, "{}", end.text());
    session
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_says_who_did_what_when_by_which_policy_and_which_human() {
    let mut house = House::new().await;
    let session = lived(&house).await;
    let id = session["session_id"].as_str().unwrap();
    let auditor = house.voice("default", "auditor");
    let running = |form: &str| {
        let mut command = countersign();
        command.args(["report", "--article-12", "--session", id, "--format", form, "--url", &auditor.url]);
        printed(command.env("COUNTERSIGN_API_KEY", auditor.key.as_ref().unwrap()).output().unwrap())
    };
    let (told, page) = (running("json"), running("md"));
    let report: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(report["format"], "countersign-article-12/1");
    assert_eq!(
        (
            &report["session"]["agent_id"],
            &report["session"]["completion"],
            &report["mandate"]["root_principal"]
        ),
        (&json!("default-agent"), &json!("REVOKED"), &json!("default-operator"))
    );
    assert_eq!(report["chain"]["whole"], true);
    assert_eq!(
        report["people"],
        json!({
            "default-approver": {"approved": 1, "rejected": 0, "extended": 0, "ended": 0},
            "default-operator": {"approved": 0, "rejected": 0, "extended": 0, "ended": 1},
        })
    );
    let cycles = report["cycles"].as_array().unwrap();
    let states: Vec<_> =
        cycles.iter().map(|it| (it["state"].as_str().unwrap(), it["error"].as_str())).collect();
    assert_eq!(states, [("COMPLETED", None), ("COMPLETED", None), ("FAILED", Some("EP_DELEGATION_BLOCK"))]);
    let decided = |n: usize| {
        let decisions = cycles[n]["decisions"].as_array().unwrap();
        decisions.iter().map(|it| it["decision"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((decided(0), decided(2)), (vec!["ALLOW".to_owned()], vec!["DENY".to_owned()]));
    assert_eq!(decided(1)[0], "ESCALATE");
    assert_eq!(cycles[0]["decisions"][0]["policies"], json!(["payments"]));
    for cycle in cycles {
        let shown = auditor.get(&format!("/v1/actions/{}", cycle["cycle_id"].as_str().unwrap())).await.body;
        let asked = &shown["action"]["parameters"]["amount_usd"];
        let told = (&cycle["agent_id"], &cycle["amount"], &cycle["currency"]);
        assert_eq!(told, (&json!("default-agent"), asked, &json!("USD")), "{shown}");
        let escaped = asked.as_str().unwrap().replace('.', "\\.");
        assert!(page.contains(&format!("| {escaped} USD |")), "{page}");
    }
    assert_eq!(
        (&cycles[1]["approvals"][0]["approver"], &cycles[0]["intent_id"]),
        (&json!("default-approver"), &json!("i-1"))
    );
    assert!(cycles.iter().all(|it| !it["receipt_ids"].as_array().unwrap().is_empty()));
    let shown = auditor.get(&path(&session, "record")).await.body;
    assert_eq!(report["records"], shown["items"], "every record, as it is shown");
    assert_eq!(report["period"]["from"], shown["items"][0]["timestamp"]);
    assert_eq!(report["totals"]["by_decision"]["DENY"], 1);
    for part in [
        "# Record of session `ses_",
        "| Agent | `default-agent` |",
        "`ALE-001`",
        "payments",
        "default-approver approve",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    // From the files it is the same but for the entry that opening them wrote; and an altered store is told.
    house.gateway.stop();
    let files = |form: &str| {
        let mut command = countersign();
        command.args(["report", "--article-12", "--session", id, "--format", form, "--config"]);
        command.arg(house.path().join("countersign.toml")).output().unwrap()
    };
    let mut resting: Value = serde_json::from_str(&printed(files("json"))).unwrap();
    let mut running = report;
    assert_eq!(resting["chain"]["whole"], true);
    (resting["chain"], running["chain"]) = (Value::Null, Value::Null);
    assert_eq!(resting, running);
    let db = rusqlite::Connection::open(house.path().join("data/production.db")).unwrap();
    db.execute("DELETE FROM record WHERE seq = 2", []).unwrap();
    drop(db);
    let broken = files("json");
    assert_eq!(broken.status.code(), Some(1), "{}", String::from_utf8_lossy(&broken.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_there_is_not_has_no_report() {
    let house = House::new().await;
    let auditor = house.voice("default", "auditor");
    let run = |args: &[&str]| {
        let mut command = countersign();
        command.arg("report").args(args).args(["--url", &auditor.url]);
        command.env("COUNTERSIGN_API_KEY", auditor.key.as_ref().unwrap()).output().unwrap()
    };
    let none = run(&["--article-12", "--session", "ses_none"]);
    assert!(!none.status.success() && none.stdout.is_empty());
    assert!(
        String::from_utf8_lossy(&none.stderr).contains("EP_NOT_FOUND"),
        "{}",
        String::from_utf8_lossy(&none.stderr)
    );
    for args in [
        &["--article-12"][..],
        &["--session", "ses_1"],
        &["--regulation", "GDPR-Art-17"],
        &["--article-12", "--session", "s", "--regulation", "R"],
    ] {
        assert_eq!(run(args).status.code(), Some(64), "{args:?}");
    }
}

fn printed(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
