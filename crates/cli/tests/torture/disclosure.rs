//! The policies in force, over HTTP: each role is told its part of them, and nobody more.

use serde_json::{Value, json};

use crate::house::{House, Plan};

const PATH: &str = "/v1/policies/disclosure";
const LEVELS: [&str; 4] = ["COUNT_ONLY", "REDACTED", "SUMMARY", "FULL"];
/// The most that each role is told.
const MOST: [(&str, &str); 5] = [
    ("agent", "COUNT_ONLY"),
    ("approver", "REDACTED"),
    ("operator", "SUMMARY"),
    ("auditor", "FULL"),
    ("admin", "FULL"),
];

fn policies(disclosed: &Value) -> &[Value] {
    disclosed["policies"].as_array().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_is_told_so_much_of_the_policies_and_no_more() {
    let house = House::new().await;
    let full = house.admin().get(PATH).await.body;
    let place = |level: &str| LEVELS.iter().position(|it| *it == level).unwrap();
    for (role, most) in MOST {
        let voice = house.voice("default", role);
        let told = voice.get(PATH).await;
        assert_eq!((told.status, &told.body["disclosure_level"]), (200, &json!(most)), "{role}");
        for member in ["policy_digest", "counts", "hard_denied"] {
            assert_eq!(told.body[member], full[member], "{role} sees that something changed: {member}");
        }
        for level in LEVELS {
            let asked = voice.get(&format!("{PATH}?level={level}")).await;
            match place(level) <= place(most) {
                true => assert_eq!((asked.status, &asked.body["disclosure_level"]), (200, &json!(level))),
                false => assert_eq!((asked.status, asked.code()), (403, "EP_FORBIDDEN"), "{role} {level}"),
            }
        }
        let nothing = voice.get(&format!("{PATH}?level=ALL")).await;
        assert_eq!((nothing.status, nothing.code()), (422, "EP_VALIDATION_FAILED"));
    }
    let done = house.agent().execute("k", &house.payment("acct-1", "1.00")).await;
    let path = format!("/v1/receipts/{}", done.body["receipt_id"].as_str().unwrap());
    let receipt = house.agent().get(&path).await.body;
    assert_eq!(
        receipt["metadata"]["policyDigest"], full["policy_digest"],
        "it is the set that receipts name"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_level_leaves_out_is_nowhere_in_it() {
    let house = House::new().await;
    let admin = house.admin();
    let mut told = Vec::new();
    for level in LEVELS {
        told.push(admin.get(&format!("{PATH}?level={level}")).await.body);
    }
    let [count, redacted, summary, full] = &told[..] else { panic!("four levels") };
    assert!(policies(full).iter().all(|it| it["text"].as_str().unwrap().contains("principal")));
    assert!(policies(full).iter().any(|it| it["tier"] == "0-A"), "the baseline is told, too");
    assert_eq!(full["hard_deny"].as_array().unwrap().len() as u64, full["hard_denied"]);
    let ids = |of: &Value| policies(of).iter().map(|it| it["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(summary), ids(full));
    for policy in policies(summary) {
        assert_eq!(policy["text"].is_string(), policy["tier"].as_str().unwrap().starts_with('0'), "{policy}");
    }
    for (policy, whole) in policies(redacted).iter().zip(policies(full)) {
        assert_eq!((&policy["digest"], &policy["tier"]), (&whole["digest"], &whole["tier"]));
        let others =
            policy.as_object().unwrap().iter().filter(|(name, _)| !["digest", "tier"].contains(&&***name));
        assert!(others.into_iter().all(|(_, value)| value.is_null()), "{policy}");
    }
    assert_eq!(
        (&redacted["hard_deny"], &count["hard_deny"], &count["policies"]),
        (&json!(null), &json!(null), &json!(null))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_shows_what_the_role_is_told() {
    let house = House::new().await;
    let shown = |role: &str, more: &[&str]| {
        let voice = house.voice("default", role);
        let mut command = crate::house::countersign();
        command.args(["policy", "disclose", "--url", &voice.url]).args(more);
        let output = command.env("COUNTERSIGN_API_KEY", voice.key.as_deref().unwrap()).output().unwrap();
        assert!(output.status.success(), "{role}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let auditor = shown("auditor", &[]);
    assert!(auditor.contains("FULL") && auditor.contains("permit"), "{auditor}");
    let agent = shown("agent", &[]);
    assert!(agent.contains("COUNT_ONLY") && !agent.contains("permit"), "{agent}");
    let told: Value = serde_json::from_str(&shown("approver", &["--json", "--level", "COUNT_ONLY"])).unwrap();
    let asked = house.voice("default", "approver").get(&format!("{PATH}?level=COUNT_ONLY")).await;
    assert_eq!(told, asked.body);
}

/// What the operator withholds is withheld with a reason, or is a violation on record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_withheld_without_a_reason_or_is_not_the_set_on_record_is_a_violation_on_record() {
    let config = "[disclosure.operator]\nmost = \"COUNT_ONLY\"\nreason = \"as agreed with the works council\"\n\
                  [disclosure.approver]\nmost = \"COUNT_ONLY\"\nreason = \" \"\n";
    let mut house = House::with(Plan { config: config.into(), ..Plan::default() }).await;
    let (operator, approver) = (house.voice("default", "operator"), house.voice("default", "approver"));
    let told = operator.get(PATH).await.body;
    let withheld = json!({"level": "SUMMARY", "reason": "as agreed with the works council"});
    assert_eq!((&told["disclosure_level"], &told["withheld"]), (&json!("COUNT_ONLY"), &withheld), "{told}");
    let refused = operator.get(&format!("{PATH}?level=REDACTED")).await;
    assert_eq!((refused.status, refused.code()), (403, "EP_FORBIDDEN"), "{}", refused.text());
    assert!(refused.text().contains("works council"), "{}", refused.text());
    assert_eq!(anomalies(&house), [] as [Value; 0], "a reason is registered");
    for _ in 0..2 {
        let told = approver.get(PATH).await.body;
        assert_eq!(told["violation"], "CAP_TRANSPARENCY_VIOLATION", "{told}");
        assert_eq!(told["withheld"], json!({"level": "REDACTED", "reason": null}));
        let refused = approver.get(&format!("{PATH}?level=REDACTED")).await;
        assert_eq!(refused.status, 403);
        assert!(refused.text().contains("CAP_TRANSPARENCY_VIOLATION"), "{}", refused.text());
    }
    let mut command = crate::house::countersign();
    command.args(["policy", "disclose", "--url", &approver.url]);
    let shown = command.env("COUNTERSIGN_API_KEY", approver.key.as_deref().unwrap()).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("REDACTED is withheld: –\nCAP_TRANSPARENCY_VIOLATION"), "{shown}");
    let digest = house.admin().get(PATH).await.body["policy_digest"].clone();
    let violation = |role: &str, level: &str, why: &str| {
        json!({
            "kind": "CAP_TRANSPARENCY_VIOLATION", "level": level, "policy_digest": digest, "role": role, "why": why,
        })
    };
    let first = violation("approver", "REDACTED", "NO_REASON");
    assert_eq!(anomalies(&house), std::slice::from_ref(&first), "once, however often it is asked for");
    // Somebody puts other policies on record than are in force.
    house.gateway.stop();
    let db = rusqlite::Connection::open(house.path().join("data/production.db")).unwrap();
    assert!(db.execute("UPDATE kept SET text = x'7b7d'", []).unwrap() > 0);
    drop(db);
    house.start();
    let told = house.voice("default", "auditor").get(PATH).await.body;
    assert_eq!((&told["violation"], &told["withheld"]), (&json!("CAP_TRANSPARENCY_VIOLATION"), &Value::Null));
    assert_eq!(anomalies(&house), [first, violation("auditor", "FULL", "NOT_ON_RECORD")]);
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_audits_is_told_of_tier_0_whatever_is_configured() {
    for (config, why) in [
        ("[disclosure.auditor]\nmost = \"REDACTED\"\nreason = \"x\"\n", "SUMMARY at least"),
        ("[disclosure.agent]\nmost = \"FULL\"\n", "COUNT_ONLY at most anyway"),
        ("[disclosure.nobody]\nmost = \"REDACTED\"\n", "no such role"),
        ("[disclosure.operator]\nmost = \"LITTLE\"\n", "`LITTLE` is none of"),
    ] {
        must_not_start(config, why);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reason_why_policies_are_withheld_is_one_honest_line() {
    let long = "x".repeat(1001);
    for (reason, why) in [
        ("a\u{202e}b", "`reason`: text contains a character that changes the reading direction"),
        ("a\\nb", "`reason`: text contains a control character"),
        (&long, "`reason` has at most 1000 bytes"),
    ] {
        let config = format!("[disclosure.operator]\nmost = \"COUNT_ONLY\"\nreason = \"{reason}\"\n");
        must_not_start(&config, &format!("disclosure.operator: {why}"));
    }
}

fn must_not_start(config: &str, why: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("countersign.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = crate::house::countersign();
    let output = command
        .args(["serve", "--until-stdin-closes", "--config"])
        .arg(&path)
        .current_dir(&folder)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!output.status.success() && told.contains(why), "{config}: {told}");
}

/// What the records of anomalies say, in the order of the chain.
fn anomalies(house: &House) -> Vec<Value> {
    let db = rusqlite::Connection::open(house.path().join("data/production.db")).unwrap();
    let sql =
        "SELECT record FROM entry WHERE instr(CAST(bytes AS TEXT), '\"governance_anomaly\"') ORDER BY row";
    let mut all = db.prepare(sql).unwrap();
    let records = all.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    let record = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
    records.map(|bytes| record(bytes.unwrap())["ale"]["fields"].clone()).collect()
}
