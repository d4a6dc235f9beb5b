//! The policies in force, over HTTP: each role is told its part of them, and nobody more.

use serde_json::{Value, json};

use crate::house::House;

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
