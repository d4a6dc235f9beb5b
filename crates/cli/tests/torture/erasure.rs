//! What an action was about is erased: nothing of it is left where anybody could look, and everything that was signed or
//! chained still holds.

use std::collections::BTreeSet;
use std::time::Duration;

use receipt::Verdict;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::approvals::ask_for;
use crate::atp::{IDEMPOTENT, pay, paying, submit_json};
use crate::house::{House, Said, countersign, verdict};

/// Words that stand nowhere but in what is erased.
const MARKS: [&str; 3] = ["acct-forget-me", "order-forget-me", "comment-forget-me"];

/// A payment that a person agreed to, with all that is to be forgotten in it.
async fn paid(house: &House, more: &Value) -> (Value, Said) {
    let mut body = house.payment(MARKS[0], "6000.00");
    body["client"] = json!({"order_id": MARKS[1]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let held = house.agent().execute("forget", &body).await;
    assert_eq!(held.kind(), "held", "{}", held.text());
    let approver = house.voice("default", "approver");
    let said =
        approver.post(&format!("/v1/actions/{}/approve", held.id()), &json!({"comment": MARKS[2]})).await;
    assert_eq!(said.status, 200, "{}", said.text());
    for _ in 0..400 {
        let said = house.agent().insist("forget", &body).await;
        if said.kind() == "executed" {
            return (body, said);
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("it was never carried out: {}", house.log())
}

async fn house() -> House {
    let house = House::new().await;
    ask_for(&house, 1);
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_is_gone_everywhere_and_what_was_proven_still_is() {
    let mut house = house().await;
    let (body, said) = paid(&house, &json!({})).await;
    let (agent, admin, jwks) = (house.agent(), house.admin(), house.jwks().await);
    let (id, receipt_id) = (said.id().to_owned(), said.body["receipt_id"].as_str().unwrap().to_owned());
    let document = agent.get(&format!("/v1/receipts/{receipt_id}")).await.bytes;
    let action = format!("/v1/actions/{id}");
    let before = agent.get(&action).await;
    for mark in MARKS {
        assert!(before.text().contains(mark), "{mark}: {}", before.text());
    }

    let made = admin.post("/v1/keys", &json!({"subject": "default-root", "role": "admin"})).await;
    let mut erase = countersign();
    erase.args(["erase", &id, "--url", &house.gateway.url]);
    let erased = erase.env("COUNTERSIGN_API_KEY", made.body["secret"].as_str().unwrap()).output().unwrap();
    assert!(erased.status.success(), "{}", String::from_utf8_lossy(&erased.stderr));
    let left = agent.get(&action).await;
    assert_eq!(left.status, 200, "{}", left.text());
    let at = left.body["erased_at"].as_str().unwrap();
    assert_eq!(String::from_utf8(erased.stdout).unwrap(), format!("{id} is erased since {at}\n"));
    assert_eq!(
        (&left.body["erased_by"], &left.body["result"]["state"]),
        (&json!("default-root"), &json!("COMPLETED"))
    );
    assert_eq!(left.body["action"]["parameters"], Value::Null);
    assert_eq!(left.body["receipts"][0]["receipt_id"], receipt_id.as_str());
    let again = admin.post(&format!("{action}/erase"), &json!({})).await;
    assert_eq!((again.status, &again.body), (200, &left.body), "once");

    for (said, what) in [
        (agent.execute("forget", &body).await, "the answer to the key"),
        (agent.post(&format!("{action}/retry"), &json!({})).await, "another attempt"),
        (agent.post(&format!("{action}/rollback"), &json!({})).await, "undoing it"),
        (admin.get(&format!("/v1/approvals/{id}")).await, "what people were asked"),
    ] {
        assert_eq!((said.status, said.code()), (410, "EP_ERASED"), "{what}: {}", said.text());
    }
    let replay = admin.get(&format!("{action}/replay")).await;
    assert_eq!(
        replay.body,
        json!({
            "action_id": id, "result": "erased", "recorded": null, "replayed": null, "differences": [],
        })
    );

    // The receipt is the same byte for byte and says as much as before; its page says what is gone.
    let kept = agent.get(&format!("/v1/receipts/{receipt_id}")).await.bytes;
    assert_eq!(kept, document);
    assert_eq!(verdict(&kept, &jwks), Verdict::Valid);
    let short = said.body["receipt_url_short"].as_str().unwrap().rsplit('/').next().unwrap();
    let page = house.nobody().request("GET", &format!("/r/{short}")).header("accept", "text/html");
    let page = Said::of(page).await.unwrap().text();
    assert!(page.contains("<b>Erased:</b>"), "{page}");

    // The trail tells of it, and is whole.
    let trail = admin.get("/v1/audit?limit=1&verb=PAYMENT_TRANSFER").await;
    let entry = &trail.body["entries"][0];
    assert_eq!((&entry["event"], &entry["action_id"]), (&json!("erased"), &json!(id)), "{}", trail.text());
    assert_eq!(entry["record"], json!({"by": "default-root", "deletion": null, "retention": null}));
    let whole = admin.get("/v1/audit/verify").await;
    assert_eq!(whole.body["findings"], json!([]), "{}", whole.text());

    for path in [action.as_str(), "/v1/audit?limit=200", "/v1/approvals", "/metrics"] {
        let said = admin.get(path).await.text();
        for mark in MARKS {
            assert!(!said.contains(mark), "{path} still says {mark}: {said}");
        }
    }
    house.gateway.stop();
    assert_eq!(places_of(&house, &MARKS), BTreeSet::new());
    house.start();
    let again = house.agent().execute("forget", &body).await;
    assert_eq!(again.code(), "EP_ERASED", "{}", again.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_to_be_kept_is_refused_with_the_date_and_stays() {
    let mut house = house().await;
    let (_, said) = paid(&house, &json!({"retention": "7_years", "deletion": "hard_delete_30d"})).await;
    let action = format!("/v1/actions/{}", said.id());
    let record = house.agent().get(&action).await;
    let retention = &record.body["retention"];
    assert_eq!(retention["retention_policy"], "7_years");
    assert_eq!(retention["deletion_policy"], "hard_delete_30_days");
    let until = retention["retained_until"].as_str().unwrap();
    assert_eq!(retention["deletion_due"], until, "as soon as it may be");
    let refused = house.admin().post(&format!("{action}/erase"), &json!({})).await;
    assert_eq!((refused.status, refused.code()), (409, "EP_STATE_CONFLICT"), "{}", refused.text());
    assert_eq!(refused.body["message"], format!("the action has to be kept until {until}"));
    let open = house.agent().execute("open", &house.payment("acct-2", "6000.00")).await;
    let refused = house.admin().post(&format!("/v1/actions/{}/erase", open.id()), &json!({})).await;
    assert_eq!((refused.status, refused.code()), (409, "EP_STATE_CONFLICT"), "{}", refused.text());
    assert_eq!(house.agent().get(&action).await.body, record.body, "nothing changed");
    // Whoever shortens it in the store is found out.
    let db = Connection::open(house.path().join("data/production.db")).unwrap();
    let stored = "SELECT row, payload FROM action WHERE payload <> x'' ORDER BY row LIMIT 1";
    let (row, payload): (i64, Vec<u8>) =
        db.query_row(stored, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let shorter = String::from_utf8(ledger::unpack(&payload).unwrap()).unwrap().replace("7_years", "1_day");
    let set = "UPDATE action SET payload = ?2 WHERE row = ?1";
    for (payload, found) in [(shorter.into_bytes(), 1), (payload, 0)] {
        db.execute(set, (row, payload)).unwrap();
        let whole = house.admin().get("/v1/audit/verify").await;
        assert_eq!(whole.body["findings"].as_array().unwrap().len(), found, "{}", whole.text());
    }
    drop(db);
    house.gateway.stop();
    assert!(places_of(&house, &MARKS).len() > 2, "this is how it is looked for");
}

/// Columns of the store in which any of these words stands, packed or not.
fn places_of(house: &House, words: &[&str]) -> BTreeSet<String> {
    let db = Connection::open(house.path().join("data/production.db")).unwrap();
    let mut tables = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut places = BTreeSet::new();
    for table in tables {
        let mut select = db.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let names: Vec<String> = select.column_names().into_iter().map(str::to_owned).collect();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for (column, name) in names.iter().enumerate() {
                let stored = match row.get_ref(column).unwrap() {
                    ValueRef::Blob(bytes) => ledger::unpack(bytes).unwrap_or_else(|| bytes.to_vec()),
                    ValueRef::Text(text) => text.to_vec(),
                    _ => continue,
                };
                let text = String::from_utf8_lossy(&stored);
                if words.iter().any(|word| text.contains(word)) {
                    places.insert(format!("{table}.{name}"));
                }
            }
        }
    }
    places
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_gets_the_same_report_from_the_gateway_and_from_its_store() {
    let mut house = House::new().await;
    ask_for(&house, 1);
    let path = house.path().join("catalogue/default/payment.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = "extends = \"builtin\"\nregulations = [\"GDPR-Art-17\", \"PSD2\"]\nretention = \"7_years\"\n";
    std::fs::write(&path, text.replace("extends = \"builtin\"\n", lines)).unwrap();
    let before = house.agent().execute("before", &house.payment("acct-1", "1.00")).await;
    assert_eq!(before.kind(), "executed");
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    let (_, said) = paid(&house, &json!({})).await;
    // The regulations stand in the receipt, too.
    let receipt_id = said.body["receipt_id"].as_str().unwrap();
    let receipt = house.agent().get(&format!("/v1/receipts/{receipt_id}")).await;
    assert_eq!(receipt.body["regulatoryFramework"], json!(["GDPR-Art-17", "PSD2"]));
    assert_eq!(verdict(&receipt.bytes, &house.jwks().await), Verdict::Valid);

    let key = auditors_key(&house).await;
    let report = |regulation: &str, form: &str, from: &[&str]| reported(&key, regulation, form, from);
    let url = ["--url", house.gateway.url.as_str()];
    let running: Value = serde_json::from_str(&report("PSD2", "json", &url)).unwrap();
    assert_eq!(running["totals"]["actions"], 1, "{running}");
    let action = &running["actions"][0];
    assert_eq!((&action["action_id"], &action["state"]), (&json!(said.id()), &json!("COMPLETED")));
    assert_eq!(action["approved_by"], json!(["default-approver"]));
    assert_eq!((&running["retention"]["retained"], &running["chain"]["whole"]), (&json!(1), &json!(true)));
    assert_eq!(report("PSD2", "md", &url), report("PSD2", "md", &url));
    assert!(report("DORA", "md", &url).contains("\n0 actions.\n"));
    assert!(!report("PSD2", "md", &url).contains(MARKS[0]), "what was asked is not in it");

    house.gateway.stop();
    let config = house.path().join("countersign.toml");
    let at_rest: Value =
        serde_json::from_str(&report("PSD2", "json", &["--config", config.to_str().unwrap()])).unwrap();
    for member in ["totals", "oversight", "exceptions", "retention", "references", "actions"] {
        assert_eq!(at_rest[member], running[member], "{member}");
    }
    house.start();
}

async fn auditors_key(house: &House) -> String {
    let made = house.admin().post("/v1/keys", &json!({"subject": "default-reader", "role": "auditor"})).await;
    made.body["secret"].as_str().unwrap().to_owned()
}

/// What `countersign report` says of all times.
fn reported(key: &str, regulation: &str, form: &str, from: &[&str]) -> String {
    let period = ["--from", "2020-01-01T00:00:00Z", "--to", "2099-01-01T00:00:00Z"];
    let mut report = countersign();
    report.args(["report", "--regulation", regulation, "--format", form]).args(period).args(from);
    let told = report.env("COUNTERSIGN_API_KEY", key).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8(told.stdout).unwrap()
}

/// What only the envelope of the Agent Transaction Protocol says is looked up and reported until it is erased with the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_envelope_says_is_reported_and_then_erased() {
    let mut house = paying("Payments", IDEMPOTENT).await;
    let path = house.path().join("catalogue/default/pay.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("regulations = [\"PSD2\", \"GDPR-Art-17\"]\n{text}")).unwrap();
    let (agent, admin) = (house.agent(), house.admin());
    assert_eq!(admin.post("/v1/reload", &json!({})).await.status, 200);
    let references = json!({
        "dpia_ref": "dpia-forget-me", "clinical_safety_ref": "safety-forget-me",
        "smr_accountable": "chief-forget-me", "gds_assessment_ref": "gds-forget-me",
    });
    let mut body = pay(&house, "acct-1");
    body["action_id"] = json!("act-forget-me");
    body["fleet_id"] = json!("fleet-forget-me");
    body["action"]["description"] = json!("pay-forget-me");
    body["rollback"]["description"] = json!("back-forget-me");
    body["rollback"]["parameters"]["reason"] = json!("why-forget-me");
    body["compliance"] = json!({
        "audit_trail_id": "trail-forget-me", "data_classification": "internal",
        "regulation_refs": ["PSD2", "DORA"], "deletion_policy": "hard_delete_30d",
    });
    body["compliance"].as_object_mut().unwrap().extend(references.as_object().unwrap().clone());
    let said = submit_json(&agent, &body).await;
    assert_eq!((said.status, &said.body["compliance"]), (200, &body["compliance"]), "{}", said.text());
    assert_eq!(said.body["retention"]["deletion_policy"], "hard_delete_30_days");

    // The regulations are those of the catalogue and those of the request, wherever they are shown.
    let regulations = json!(["DORA", "GDPR-Art-17", "PSD2"]);
    let receipt_id = said.body["response"]["receipt_id"].as_str().unwrap();
    let receipt = agent.get(&format!("/v1/receipts/{receipt_id}")).await;
    assert_eq!(receipt.body["regulatoryFramework"], regulations);
    assert_eq!(verdict(&receipt.bytes, &house.jwks().await), Verdict::Valid);
    let found = async |query: &str| admin.get(&format!("/v1/audit?{query}")).await.body["entries"].clone();
    for regulation in regulations.as_array().unwrap() {
        let entries = found(&format!("regulation_ref={}", regulation.as_str().unwrap())).await;
        assert_eq!(entries.as_array().unwrap().len(), 2, "{regulation}: admitted and executed");
        assert_eq!(entries[0]["regulation_refs"], regulations);
    }
    for query in ["action_id=act-forget-me", "fleet_id=fleet-forget-me", "dpia_ref=dpia-forget-me"] {
        assert_eq!(found(query).await.as_array().unwrap().len(), 2, "{query}");
    }
    let key = auditors_key(&house).await;
    let url = house.gateway.url.clone();
    let report = |regulation: &str| -> Value {
        serde_json::from_str(&reported(&key, regulation, "json", &["--url", &url])).unwrap()
    };
    let before = report("DORA");
    for (name, value) in references.as_object().unwrap() {
        assert_eq!(before["references"][name], json!({value.as_str().unwrap(): 1}), "{before}");
    }

    let action = format!("/v1/actions/{}", said.body["action_id"].as_str().unwrap());
    let erased = admin.post(&format!("{action}/erase"), &json!({})).await;
    assert_eq!(erased.status, 200, "{}", erased.text());
    let left = agent.get(&action).await;
    assert_eq!((left.status, &left.body), (200, &erased.body));
    for member in ["compliance", "rollback", "reversible", "deadline", "fleet_id", "response"] {
        assert_eq!(left.body[member], Value::Null, "{member}: {}", left.text());
    }
    assert_eq!(
        left.body["action"],
        json!({"verb": "pay", "target": "supplier", "description": null, "parameters": null})
    );
    assert_eq!(submit_json(&agent, &body).await.code(), "EP_ERASED");
    for query in ["action_id=act-forget-me", "fleet_id=fleet-forget-me", "dpia_ref=dpia-forget-me"] {
        assert_eq!(found(query).await, json!([]), "{query}");
    }
    let entries = found("regulation_ref=GDPR-Art-17").await;
    assert_eq!(entries.as_array().unwrap().len(), 3, "admitted, executed and erased: {entries}");
    let after = report("GDPR-Art-17");
    assert_eq!((&after["references"], &after["totals"]["actions"]), (&json!({}), &json!(1)), "{after}");
    assert_eq!(found("verb=pay&target=supplier").await.as_array().unwrap().len(), 3);
    let whole = admin.get("/v1/audit/verify").await;
    assert_eq!(whole.body["findings"], json!([]), "{}", whole.text());
    house.gateway.stop();
    assert_eq!(places_of(&house, &["forget-me"]), BTreeSet::new());
    house.start();
}
