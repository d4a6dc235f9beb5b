//! The stories of `examples/`, told as their pages say, then held against what they do not print: the bank's own list, the
//! records of their sessions, the trail, and receipts verified from files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use receipt::{Jwks, Pin, Trust, Verdict};
use serde_json::{Value, json};
use testkit::bank::{Effect, read_journal};

use crate::documents::Reader;

#[test]
fn what_is_outside_of_the_mandate_stops_the_session_before_anything_is_written() {
    let Some(told) = Told::of("reconciliation") else { return };
    let [second, first] = <[Value; 2]>::try_from(told.items("/v1/sessions")).unwrap();
    assert_eq!((&first["completion"], &first["halt"]), (&json!("REVOKED"), &json!("CLEAN")));
    assert_eq!((&second["completion"], &second["halt"]), (&json!("COMPLETE"), &Value::Null));

    // The bank has every item of the statement, once, but for the one.
    let statement = fs::read_to_string(told.example.join("statement.csv")).unwrap();
    let item = |line: &str| {
        let [_, account, amount] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
        (account.to_owned(), amount.replace('.', "").parse::<i64>().unwrap())
    };
    let (covered, outside): (BTreeSet<_>, BTreeSet<_>) =
        statement.lines().skip(1).map(item).partition(|(account, _)| account.starts_with("nostro-"));
    assert_eq!((covered.len(), outside.len()), (239, 1));
    let effects = told.effects();
    let paid: BTreeSet<_> = effects.iter().map(|it| (it.recipient.clone(), it.amount_minor)).collect();
    assert_eq!((effects.len(), paid), (239, covered));

    // Its record: one denial, which is the last cycle of its session, and caused the halt.
    let records = told.records(&first);
    let denied = told.items("/v1/gar?decision=DENY");
    let [before @ .., deny, suspended, halted] = &records[..] else { panic!("{records:?}") };
    assert_eq!(denied, std::slice::from_ref(deny));
    assert!(before.iter().all(|it| [json!("ALLOW"), Value::Null].contains(&it["governance_decision"])));
    assert_eq!(before.iter().filter(|it| it["governance_decision"] == "ALLOW").count(), 160);
    assert_eq!(
        (&suspended["ale_type"], &suspended["ale_fields"]["trigger"]),
        (&json!("ALE-001"), &json!("R-3"))
    );
    assert_eq!(suspended["causal_parent_id"], deny["record_id"]);
    assert_eq!((&halted["ale_type"], &halted["completion_state"]), (&json!("ALE-002"), &json!("CLEAN")));

    // The action was refused and nothing else ever happened to it: it was not admitted, and no call was made.
    let id = told.action_of(deny);
    let events = told.entries(|entry| entry["action_id"] == *id);
    assert_eq!(events.iter().map(|it| &it["event"]).collect::<Vec<_>>(), ["refused"]);
    let action = told.get(&format!("/v1/actions/{id}"));
    assert_eq!((&action["attempts"], &action["result"]["state"]), (&json!([]), &json!("FAILED")));
    let receipts = told.receipts();
    let boundary = stage(&receipts[action["receipts"][0]["receipt_id"].as_str().unwrap()], "boundary");
    assert_eq!(boundary["error"]["reason"], "resource_outside");
    assert_eq!(boundary["output"]["classesFired"][0], 2, "{boundary}");
    assert_eq!(boundary["output"]["cycle"]["governance"], "DENY");
    assert_eq!(receipts.len(), 240);

    // No person is said to have ended it, where the gateway did.
    let report = told.report(&first);
    assert_eq!((&report["people"], &report["chain"]["whole"]), (&json!({}), &json!(true)));
    told.close();
}

#[test]
fn ten_hours_run_out_in_the_third_session_are_extended_once_and_nothing_runs_over() {
    let Some(told) = Told::of("research") else { return };
    let mut sessions = told.items("/v1/sessions");
    sessions.reverse();
    let completions: Vec<_> = sessions.iter().map(|it| it["completion"].as_str().unwrap()).collect();
    assert_eq!(completions, ["COMPLETE", "COMPLETE", "PARTIAL", "PARTIAL"]);
    let wednesday = told.records(&sessions[2]);

    // All that was decided, in the order of the chain, and where time ran out and was given.
    let mut decided: Vec<(u64, String)> = Vec::new();
    for session in &sessions {
        let records = told.records(session);
        let decisions = records.iter().filter(|it| !it["governance_decision"].is_null());
        decided
            .extend(decisions.map(|it| (place(it), it["governance_decision"].as_str().unwrap().to_owned())));
    }
    decided.sort();
    let extended = told.entries(|entry| entry["event"] == "budget_extended");
    assert_eq!(extended.len(), 1, "once");
    let deed = &extended[0]["record"];
    assert_eq!((&deed["by"], &deed["seconds"]), (&json!("lin"), &json!(12)));
    let given = number(&extended[0]["audit_id"]);
    let held = |records: &[Value]| -> Vec<u64> {
        records.iter().filter(|it| it["governance_decision"] == "SUSPEND").map(place).collect()
    };
    let [first, second, ..] = held(&wednesday)[..] else { panic!("{wednesday:?}") };
    assert!(first < given && given < second);
    let allowed = |from: u64, to: u64| {
        decided.iter().filter(|(at, what)| (from..to).contains(at) && what == "ALLOW").count()
    };
    assert_eq!(
        (allowed(first, given), allowed(second, u64::MAX)),
        (0, 0),
        "nothing begins without time: {decided:?}"
    );
    assert!(allowed(0, first) > 0 && allowed(given, second) > 0);
    assert_eq!(held(&told.records(&sessions[3])).len(), 1, "in no other session either");

    // Whatever began had time when it began, and each took a second at least.
    let receipts = told.receipts();
    let boundaries: Vec<Value> = receipts.values().map(|it| stage(it, "boundary")).collect();
    let begun = boundaries.iter().filter(|it| it["output"]["cycle"]["governance"] == "PROCEED");
    let mut count = 0;
    for boundary in begun {
        assert!(boundary["output"]["cycle"]["timeBudgetRemaining"].as_u64().unwrap() > 0, "{boundary}");
        count += 1;
    }
    let effects = told.effects();
    assert_eq!(effects.len(), count);
    assert!(count <= 72, "{count}");
    let dois: BTreeSet<_> = effects.iter().map(|it| &it.reference).collect();
    assert_eq!(dois.len(), count, "each once");
    let mandate = told.get(&format!("/v1/mandates/{}", sessions[0]["mandate_id"].as_str().unwrap()));
    assert_eq!(
        (&mandate["left"]["seconds"], &mandate["mandate"]["granted_seconds"]),
        (&json!(0), &json!(12))
    );

    // How it ended, and by whom.
    let end = wednesday.iter().find(|it| it["ale_type"] == "ALE-003").unwrap();
    assert_eq!((&end["completion_state"], &end["ale_fields"]["by"]), (&json!("PARTIAL"), &json!("lin")));
    assert_eq!(end["ale_fields"]["unsettled"], json!([]));
    let people = &told.report(&sessions[2])["people"];
    assert_eq!(*people, json!({"lin": {"approved": 0, "rejected": 0, "extended": 1, "ended": 1}}));
    told.close();
}

#[test]
fn of_three_in_a_pool_one_hands_on_and_one_ends_with_all_who_work_for_it() {
    let Some(told) = Told::of("pool") else { return };
    let sessions: BTreeMap<String, Value> = told
        .items("/v1/sessions")
        .into_iter()
        .map(|it| (it["agent_id"].as_str().unwrap().to_owned(), it))
        .collect();

    // One transfer, permitted and signed; what the members had together is what they have together.
    let [moved] = <[Value; 1]>::try_from(told.items("/v1/gar?ale_type=ALE-018")).unwrap();
    let fields = &moved["ale_fields"];
    assert_eq!((&moved["governance_decision"], &fields["amount"]), (&json!("ALLOW"), &json!(50)));
    assert_eq!(
        (&fields["from_session_id"], &fields["to_session_id"]),
        (&sessions["ben"]["session_id"], &sessions["cleo"]["session_id"])
    );
    let received = told.records(&sessions["cleo"]);
    assert!(received.iter().any(|it| it["causal_parent_id"] == moved["record_id"]));
    // All three see it, and the same.
    let seen = |when: &str| {
        let contexts = ["ada", "ben", "cleo"].map(|name| {
            let context = told.json(&format!("contexts/{name}-{when}.json"));
            assert_eq!(context["session_id"], sessions[name]["session_id"]);
            context["cluster_context"].clone()
        });
        assert!(contexts.iter().all(|it| *it == contexts[0]), "{contexts:?}");
        let [context, ..] = contexts;
        let left = |name: &str| {
            let members = context["members"].as_array().unwrap();
            let own = members.iter().find(|it| it["session_id"] == sessions[name]["session_id"]).unwrap();
            own["time_budget_remaining"].as_u64().unwrap()
        };
        let left = ["ada", "ben", "cleo"].map(left);
        assert_eq!(context["budget_pool"], left.iter().sum::<u64>());
        left
    };
    assert_eq!(seen("before"), [120, 60, 8]);
    let [ada, ben, cleo] = seen("after");
    assert_eq!(
        (ada, json!(ben), json!(cleo)),
        (120, fields["from_remaining"].clone(), fields["to_remaining"].clone())
    );
    assert!(cleo > 50);

    // How each was left.
    let left: Vec<_> = ["ada", "ada-clerk", "ada-scout", "ben", "cleo"]
        .map(|name| [&sessions[name]["completion"], &sessions[name]["halt"]])
        .to_vec();
    let (revoked, complete, none) = (json!("REVOKED"), json!("COMPLETE"), Value::Null);
    let (unknown, partial, clean) = (json!("UNKNOWN"), json!("PARTIAL"), json!("CLEAN"));
    assert_eq!(
        left,
        [
            [&revoked, &unknown],
            [&revoked, &partial],
            [&revoked, &clean],
            [&complete, &none],
            [&complete, &none]
        ]
    );
    let [revocation] =
        <[Value; 1]>::try_from(told.entries(|entry| entry["event"] == "mandate_revoked")).unwrap();
    let begun = number(&revocation["audit_id"]);
    for (name, code) in [("ada", "ALE-004"), ("ada-clerk", "ALE-003"), ("ada-scout", "ALE-002")] {
        let records = told.records(&sessions[name]);
        let first = records.iter().find(|it| it["ale_type"] == "ALE-001").unwrap();
        assert_eq!(
            (&first["ale_fields"]["trigger"], &first["causal_parent_id"]),
            (&json!("R-1"), &revocation["audit_id"])
        );
        assert!(records.iter().any(|it| it["ale_type"] == code), "{name}");
        let late = records.iter().filter(|it| place(it) > begun && it["governance_decision"] == "ALLOW");
        assert_eq!(late.count(), 0, "nothing of {name} begins after the revocation");
        assert_eq!(
            (&sessions[name]["in_flight"], &sessions[name]["waiting"]),
            (&json!(0), &json!(0)),
            "{name}"
        );
    }
    let end = told.records(&sessions["ada"]).into_iter().find(|it| it["ale_type"] == "ALE-004").unwrap();
    let [out] = &end["ale_fields"]["unsettled"].as_array().unwrap()[..] else { panic!("{end}") };
    let out = told.get(&format!("/v1/actions/{}", out.as_str().unwrap()));
    assert_eq!(out["result"]["state"], "COMPLETED", "what was out at the bank was paid");
    // People are not asked about what can no longer be.
    assert_eq!(told.items("/v1/approvals"), [] as [Value; 0]);
    let clerk = told.records(&sessions["ada-clerk"]);
    let asked = clerk.iter().find(|it| it["governance_decision"] == "ESCALATE").unwrap();
    let asked = told.get(&format!("/v1/actions/{}", told.action_of(asked)));
    assert_eq!(asked["result"]["error"]["code"], "EP_SESSION_REVOKED", "{asked}");

    // The bank: each invoice once, of the clerk none, and nothing that was asked for afterwards.
    let mut paid: Vec<String> = told.effects().into_iter().map(|it| it.recipient).collect();
    paid.sort();
    let numbers = [("ada", 3), ("ben", 3), ("cleo", 20), ("scout", 2)];
    let mut expected: Vec<String> = numbers
        .iter()
        .flat_map(|(name, most)| (1..=*most).map(move |n| format!("vendor-{name}-{n}")))
        .collect();
    expected.sort();
    assert_eq!(paid, expected);
    assert_eq!(told.receipts().len(), 27);
    told.close();
}

/// A story that was told, and the gateway that its page leaves running.
struct Told {
    reader: Reader,
    example: PathBuf,
    url: String,
    key: String,
    http: reqwest::blocking::Client,
}

impl Told {
    /// Follows the page of an example; nobody where what it takes is missing.
    fn of(name: &str) -> Option<Told> {
        let mut reader = Reader::with(&["curl", "jq", "python3"])?;
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        let copied = Command::new("cp").arg("-R").arg(&examples).arg(reader.directory()).status().unwrap();
        assert!(copied.success());
        reader.follow(&format!("examples/{name}/README.md"), &[]);
        let url = reader.gateway_url().to_owned();
        let key = fs::read_to_string(reader.directory().join("story/keys/audra")).unwrap();
        let http = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
        let told = Told { reader, example: examples.join(name), url, key, http };
        assert_eq!(told.get("/v1/audit/verify")["findings"], json!([]));
        Some(told)
    }

    fn close(self) {
        self.reader.close();
    }

    fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.key).send().unwrap();
        let (status, bytes) = (answer.status(), answer.bytes().unwrap());
        assert!(status.is_success(), "{path}: {}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Everything that a list has.
    fn items(&self, path: &str) -> Vec<Value> {
        self.pages(path, "items")
    }

    fn pages(&self, path: &str, member: &str) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{mark}{cursor}"));
            all.extend(page[member].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("cursor={next}"),
                None => return all,
            }
        }
    }

    /// Every record of a session, in order and without a gap.
    fn records(&self, session: &Value) -> Vec<Value> {
        let path = format!("/v1/sessions/{}/record?limit=1000", session["session_id"].as_str().unwrap());
        let records = self.items(&path);
        let numbers: Vec<u64> =
            records.iter().map(|it| it["session_sequence_number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
        records
    }

    /// Entries of the trail.
    fn entries(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut entries = self.pages("/v1/audit?format=json&limit=200", "entries");
        entries.retain(wanted);
        entries
    }

    /// The action that a record is of.
    fn action_of(&self, record: &Value) -> String {
        let own = |entry: &Value| entry["audit_id"] == record["record_id"];
        self.entries(own)[0]["action_id"].as_str().unwrap().to_owned()
    }

    fn report(&self, session: &Value) -> Value {
        let mut command = crate::common::countersign();
        let id = session["session_id"].as_str().unwrap();
        command.args(["report", "--article-12", "--format", "json", "--session", id, "--url", &self.url]);
        crate::common::finished(command.env("COUNTERSIGN_API_KEY", &self.key).output().unwrap()).json()
    }

    /// The bank's own list.
    fn effects(&self) -> Vec<Effect> {
        read_journal(&self.file("bank.jsonl")).unwrap()
    }

    /// The receipts that were handed out, by name: each is verified from files alone.
    fn receipts(&self) -> BTreeMap<String, Value> {
        let jwks = Jwks::parse(&fs::read(self.file("jwks.json")).unwrap()).unwrap();
        let pin = Pin::parse(&fs::read_to_string(self.file("issuer.pin")).unwrap()).unwrap();
        let files = fs::read_dir(self.file("receipts")).unwrap().map(|it| it.unwrap().path());
        files
            .map(|file| {
                let document = fs::read(&file).unwrap();
                let verdict = receipt::verify(&document, &Trust::new(&pin, &jwks)).verdict;
                assert!(matches!(verdict, Verdict::Valid), "{}", file.display());
                let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
                (name, serde_json::from_slice(&document).unwrap())
            })
            .collect()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.reader.directory().join("story").join(name)
    }
}

/// An entry of a receipt.
fn stage(receipt: &Value, name: &str) -> Value {
    let entries = receipt["entries"].as_array().unwrap();
    entries.iter().find(|it| it["stage"] == name).unwrap_or_else(|| panic!("no {name} in {receipt}")).clone()
}

/// Where in the chain a record stands.
fn place(record: &Value) -> u64 {
    number(&record["record_id"])
}

fn number(id: &Value) -> u64 {
    id.as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap()
}
