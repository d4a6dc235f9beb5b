//! `countersign approvals`, as a person uses it.

use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::running::{Served, api_key};

/// A large payment, which waits for a person.
fn ask(served: &Served, agent: &str, recipient: &str) -> Value {
    let constraints = json!({"recipient": recipient, "amount_usd": "6000.00", "max_total_usd": "6000.00"});
    let body = json!({
        "archetype": "PAYMENT_TRANSFER",
        "delegation_token": "tok-sandbox-public",
        "constraints": constraints,
    });
    served.execute(agent, recipient, &body)
}

/// The last word about it.
fn ended(served: &Served, agent: &str, recipient: &str) -> Value {
    for _ in 0..400 {
        let said = ask(served, agent, recipient);
        if !matches!(said["kind"].as_str(), Some("held" | "pending_settlement")) {
            return said;
        }
        sleep(Duration::from_millis(25));
    }
    panic!("the payment to {recipient} never ended");
}

#[test]
fn a_person_sees_what_waits_and_says_yes_or_no() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (agent, anna) = (api_key(&data, "a1", "agent"), api_key(&data, "anna", "approver"));
    let served = Served::sandbox(&data);
    let [yes, no] = ["acct-1", "acct-2"].map(|recipient| {
        let said = ask(&served, &agent, recipient);
        assert_eq!(said["kind"], "held", "{said}");
        said["transaction_id"].as_str().unwrap().to_owned()
    });
    let approvals = |args: &[&str]| served.call(&anna, &[&["approvals"], args].concat());

    let list = approvals(&["list"]);
    let rows: Vec<&str> = list.stdout.lines().collect();
    assert_eq!(rows.len(), 3, "a heading and two rows: {}{}", list.stdout, list.stderr);
    assert!(rows[1].starts_with(&no) && rows[2].starts_with(&yes), "newest first: {}", list.stdout);
    for told in ["PAYMENT_TRANSFER", "a1", "6000.00 USD", "irreversible", "0 of 1"] {
        assert!(rows[1].contains(told), "no word of {told}: {}", rows[1]);
    }
    let listed = approvals(&["list", "--json"]).json();
    assert_eq!((&listed[0]["action_id"], &listed[1]["action_id"]), (&json!(no), &json!(yes)));
    let shown = approvals(&["show", &yes, "--json"]).json();
    assert_eq!((&shown["action_id"], &shown["parameters"]["recipient"]), (&json!(yes), &json!("acct-1")));
    let shown = approvals(&["show", &yes]);
    for line in [
        &*format!("Action       {yes}"),
        "How much     6000.00 USD",
        "             recipient = \"acct-1\"",
        "Undo         cannot be undone",
        "Needs        1, by key or better",
    ] {
        assert!(shown.stdout.lines().any(|it| it == line), "{line}: {}{}", shown.stdout, shown.stderr);
    }
    let refused = served.call(&agent, &["approvals", "list"]);
    assert_eq!(refused.code, 1);
    assert!(refused.says("EP_FORBIDDEN"), "{}", refused.stderr);

    let agreed = approvals(&["approve", &yes, "--comment", "checked"]);
    assert_eq!(agreed.code, 0, "{}", agreed.stderr);
    let given = &agreed.json()["approvals"][0];
    assert_eq!((&given["decision"], &given["comment"]), (&json!("approve"), &json!("checked")));
    let shown = approvals(&["show", &yes]);
    assert!(shown.stdout.contains("\nSaid         approve by anna, by key, "), "{}", shown.stdout);
    assert!(shown.stdout.contains(": \"checked\"\n"), "{}", shown.stdout);
    let denied = approvals(&["reject", &no, "--comment", "wrong account"]);
    assert_eq!(denied.code, 0, "{}", denied.stderr);
    assert_eq!(denied.json()["approvals"][0]["decision"], "reject");
    assert_eq!(ended(&served, &agent, "acct-1")["kind"], "executed");
    assert_eq!(ended(&served, &agent, "acct-2")["code"], "EP_APPROVAL_DENIED");

    assert_eq!(approvals(&["list", "--json"]).json(), json!([]));
    assert_eq!(approvals(&["list"]).stdout.lines().count(), 1);
    for word in ["approve", "reject"] {
        let late = approvals(&[word, &yes]);
        assert_eq!(late.code, 1);
        assert!(late.says("EP_STATE_CONFLICT"), "{}", late.stderr);
    }
    assert!(approvals(&["show", "01963e5a-0000-7000-8000-000000000002"]).says("EP_NOT_FOUND"));
    served.stop();
}

#[test]
fn what_could_not_be_set_free_is_listed_and_ends_by_a_persons_word() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (agent, anna) = (api_key(&data, "a1", "agent"), api_key(&data, "anna", "approver"));
    let served = Served::sandbox(&data);
    let constraints = json!({"recipient": "sandbox:keep", "amount_usd": "5.00", "max_total_usd": "5.00"});
    let body = json!({
        "archetype": "PAYMENT_TRANSFER", "delegation_token": "tok-sandbox-public", "constraints": constraints,
        "payment_mode": "RESERVE_IF_AVAILABLE",
    });
    let said = served.execute(&agent, "keep", &body);
    assert_eq!(said["kind"], "held", "{said}");
    let id = said["transaction_id"].as_str().unwrap();
    let released = served.release(&agent, id);
    assert_eq!(released["reservation"]["state"], "release_failed", "{released}");
    let approvals = |args: &[&str]| served.call(&anna, &[&["approvals"], args].concat());
    let list = approvals(&["list"]).stdout;
    assert!(list.contains(id) && list.contains("release_failed"), "{list}");
    let again = approvals(&["resolve", id, "--as", "try_again", "--comment", "the bank is back"]);
    assert_eq!(again.json()["reservation"]["state"], "release_failed", "{}", again.stderr);
    let word = ["resolve", id, "--as", "executed", "--comment", "on the statement", "--charged", "4.00"];
    let resolved = approvals(&word).json();
    let said: Vec<_> =
        resolved["resolutions"].as_array().unwrap().iter().map(|it| it["as"].as_str().unwrap()).collect();
    assert_eq!((said, &resolved["reservation"]["state"]), (vec!["try_again", "executed"], &json!("charged")));
    assert_eq!(approvals(&["list", "--json"]).json(), json!([]));
    served.stop();
}

#[test]
fn a_person_says_what_became_of_what_nobody_else_tells() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (agent, anna) = (api_key(&data, "a1", "agent"), api_key(&data, "anna", "approver"));
    let served = Served::sandbox(&data);
    let constraints = json!({"recipient": "sandbox:silent", "amount_usd": "5.00", "max_total_usd": "5.00"});
    let body = json!({
        "archetype": "PAYMENT_TRANSFER", "delegation_token": "tok-sandbox-public", "constraints": constraints,
    });
    let said = served.execute(&agent, "silent", &body);
    assert_eq!(said["kind"], "pending_settlement", "{said}");
    let id = said["transaction_id"].as_str().unwrap();
    let approvals = |args: &[&str]| served.call(&anna, &[&["approvals"], args].concat());

    let list = approvals(&["list"]);
    let rows: Vec<&str> = list.stdout.lines().collect();
    assert_eq!(rows.len(), 2, "a heading and one row: {}{}", list.stdout, list.stderr);
    assert!(
        rows[1].starts_with(id) && rows[1].contains("in_doubt") && rows[1].contains("5.00 USD"),
        "{}",
        rows[1]
    );
    let shown = approvals(&["show", id, "--json"]).json();
    assert_eq!(shown["decisions"], json!(["executed", "failed"]), "{shown}");
    let unsaid = approvals(&["resolve", id, "--as", "failed"]);
    assert!(unsaid.code == 64 && unsaid.says("--comment"), "{}{}", unsaid.code, unsaid.stderr);
    let wrong = approvals(&["resolve", id, "--as", "done", "--comment", "x"]);
    assert!(wrong.code == 64 && wrong.says("rolled_back"), "{}{}", wrong.code, wrong.stderr);
    let much = approvals(&["resolve", id, "--as", "executed", "--comment", "x", "--charged", "6.00"]);
    assert!(much.code == 1 && much.says("5.00"), "{}", much.stderr);

    let word = ["resolve", id, "--as", "executed", "--comment", "on the statement", "--charged", "4.00"];
    let resolved = approvals(&[&word[..], &["--reference", "wire-7"]].concat());
    assert_eq!(resolved.code, 0, "{}", resolved.stderr);
    let resolution = &resolved.json()["resolutions"][0];
    assert_eq!(
        (&resolution["as"], &resolution["by"], &resolution["charged"], &resolution["reference"]),
        (&json!("executed"), &json!("anna"), &json!("4.00"), &json!("wire-7"))
    );
    assert_eq!(approvals(&["list", "--json"]).json(), json!([]));
    let late = approvals(&["resolve", id, "--as", "failed", "--comment", "x"]);
    assert!(late.code == 1 && late.says("EP_STATE_CONFLICT"), "{}", late.stderr);
    served.stop();
}
