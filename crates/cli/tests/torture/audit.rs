//! The audit trail of a real gateway: what it tells of what happened, to whom, in which forms, and whether it finds out
//! when somebody was at the store.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use testkit::bank::{Fault, Injection};

use crate::house::{House, Plan, Said, Voice, countersign};

const MEMBERS: [&str; 17] = [
    "audit_id",
    "action_id",
    "timestamp",
    "agent_id",
    "session_id",
    "verb",
    "target",
    "archetype",
    "guarantee_level",
    "event",
    "result_state",
    "duration_seconds",
    "human_approver",
    "regulation_refs",
    "hash",
    "previous_hash",
    "record",
];

/// One of each: executed, held, refused, sent and in doubt for a while, held too long.
async fn eventful() -> House {
    let config = "[limits]\nrecovery_interval_ms = 50\nheld_seconds = 1\n".to_owned();
    let house = House::with(Plan { config, ..Plan::default() }).await;
    let agent = house.agent();
    let mut first = house.payment("acct-1", "1.00");
    first["session_id"] = "trip-1".into();
    first["client"] = json!({"note": "mine"});
    assert_eq!(agent.execute("a", &first).await.kind(), "executed");
    let mut held = house.payment("acct-2", "6000.00");
    held["human_approver"] = "anna".into();
    assert_eq!(agent.execute("b", &held).await.kind(), "held");
    let refused = json!({"archetype": "delete_audit_log", "constraints": {}});
    assert_eq!(agent.execute("c", &refused).await.kind(), "blocked");
    house.bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    assert_eq!(agent.execute("d", &house.payment("acct-3", "2.00")).await.kind(), "pending_settlement");
    let rival = house.voice("other", "agent");
    let theirs = crate::house::payment("acct-9", "1.00", house.token("other"));
    assert_eq!(rival.execute("a", &theirs).await.kind(), "executed");
    // Until doubt is resolved and the held one has expired.
    let auditor = house.voice("default", "auditor");
    for _ in 0..400 {
        if trail(&auditor, "").await.len() == 8 {
            return house;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not come to an end: {:?}", events(&trail(&auditor, "").await));
}

/// The entries of actions that a query finds, oldest first.
async fn trail(voice: &Voice, query: &str) -> Vec<Value> {
    let mut all = whole(voice, query).await;
    all.retain(|entry| entry["action_id"].is_string());
    all
}

/// The entries that a query finds, oldest first, page by page.
async fn whole(voice: &Voice, query: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let said = voice.get(&format!("/v1/audit?order=oldest&limit=3{query}{cursor}")).await;
        assert_eq!(said.status, 200, "{}", said.text());
        all.extend(said.body["entries"].as_array().unwrap().iter().cloned());
        match said.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

fn events(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["event"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trail_tells_all_that_happened_to_whom_it_may_be_told() {
    let house = eventful().await;
    let all = trail(&house.voice("default", "auditor"), "").await;
    let mut found = events(&all);
    found.sort_unstable();
    assert_eq!(
        found,
        ["admitted", "admitted", "executed", "executed", "expired", "held", "in_doubt", "refused"]
    );
    for entry in &all {
        let names: Vec<&str> = entry.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, MEMBERS);
        assert_eq!(entry["agent_id"], "default-agent");
        assert_eq!(entry["guarantee_level"], "atp-1");
        assert_eq!(entry["verb"], entry["archetype"]);
        assert!(entry["hash"].as_str().unwrap().starts_with("sha256:"));
        let ended = matches!(entry["result_state"].as_str(), Some("COMPLETED" | "FAILED"));
        assert_eq!(entry["duration_seconds"].is_number(), ended, "{entry}");
    }
    let ids: BTreeSet<&str> = all.iter().map(|entry| entry["audit_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "each has a name of its own");

    // Each filter, and together.
    let auditor = house.voice("default", "auditor");
    let action = all[0]["action_id"].as_str().unwrap();
    for (query, expected) in [
        ("&agent_id=default-agent", 8),
        ("&agent_id=default-rival", 0),
        ("&session_id=trip-1", 2),
        ("&verb=PAYMENT_TRANSFER", 7),
        ("&archetype=delete_audit_log", 1),
        ("&regulation_ref=GDPR-Art-17", 0),
        ("&guarantee_level=atp-1", 8),
        ("&guarantee_level=atp-3", 0),
        ("&result_state=COMPLETED", 2),
        ("&result_state=COMPLETED&session_id=trip-1", 1),
        ("&result_state=INTENDED&archetype=PAYMENT_TRANSFER", 1),
        ("&time_from=2020-01-01T00:00:00Z&time_to=2021-01-01T00:00:00Z", 0),
        ("&time_from=2020-01-01T00:00:00%2B01:00", 8),
    ] {
        assert_eq!(trail(&auditor, query).await.len(), expected, "{query}");
    }
    let since = format!("&time_from={}", all[5]["timestamp"].as_str().unwrap());
    let until = format!("&time_to={}", all[5]["timestamp"].as_str().unwrap());
    assert_eq!(trail(&auditor, &since).await.len() + trail(&auditor, &until).await.len(), 8);
    assert!(trail(&auditor, &since).await.iter().any(|entry| entry["audit_id"] == all[5]["audit_id"]));
    let held = trail(&auditor, "&result_state=INTENDED").await;
    assert_eq!(held[0]["human_approver"], "anna");
    assert_eq!(all.iter().filter(|entry| entry["action_id"] == action).count(), 2);

    // Newest first is the same the other way round.
    let said = auditor.get("/v1/audit?limit=200").await;
    let mut newest = said.body["entries"].as_array().unwrap().clone();
    newest.reverse();
    assert_eq!(newest, whole(&auditor, "").await);

    // Who may see what.
    for who in ["agent", "rival", "approver"] {
        assert_eq!(house.voice("default", who).get("/v1/audit").await.status, 403, "{who}");
        assert_eq!(house.voice("default", who).get("/v1/audit/verify").await.status, 403, "{who}");
    }
    assert_eq!(trail(&house.voice("default", "operator"), "").await, all);
    assert_eq!(trail(&house.admin(), "").await, all);
    assert_eq!(trail(&house.voice("other", "auditor"), "").await.len(), 2);
    assert_eq!(trail(&house.voice("other", "admin"), "&agent_id=default-agent").await.len(), 0);
    assert_eq!(trail(&house.voice("other", "admin"), "&session_id=trip-1").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_parameter_is_named() {
    let house = House::new().await;
    let sandbox = Voice { url: format!("{}/sandbox", house.gateway.url), ..house.admin() };
    let long = "x".repeat(256);
    for (name, value) in [
        ("agent_id", "a b"),
        ("agent_id", ""),
        ("session_id", ""),
        ("session_id", long.as_str()),
        ("time_from", "yesterday"),
        ("time_to", "2026-01-01"),
        ("verb", "a%00b"),
        ("archetype", ""),
        ("regulation_ref", "%0a"),
        ("guarantee_level", "atp-4"),
        ("result_state", "completed"),
        ("order", "up"),
        ("format", "xml"),
        ("cursor", "12"),
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "many"),
        ("color", "blue"),
    ] {
        let path = format!("/v1/audit?{name}={value}");
        let said = house.admin().get(&path).await;
        assert_eq!((said.status, said.code()), (422, "EP_VALIDATION_FAILED"), "{path}: {}", said.text());
        if name != "color" {
            assert!(said.body["message"].as_str().unwrap().contains(name), "{path}: {}", said.text());
        }
        let said = sandbox.get(&path).await;
        assert_eq!(
            (said.status, said.body["error"]["field"].as_str()),
            (422, Some(&*format!("?{name}"))),
            "{path}"
        );
    }
    let said =
        house.admin().get("/v1/audit?time_from=2026-01-02T00:00:00Z&time_to=2026-01-01T00:00:00Z").await;
    assert_eq!((said.status, said.code()), (422, "EP_VALIDATION_FAILED"));
    let twice = house.admin().get("/v1/audit?verb=a&verb=b").await;
    assert_eq!(twice.status, 422);
    // What no database takes is refused before it is asked.
    let none = house.admin().get("/v1/audit?verb=a%00b").await;
    let sandboxed = sandbox.get("/v1/audit?verb=a%00b").await;
    assert!(
        none.status == 422 && sandboxed.text().contains("U+0000"),
        "{} {}",
        none.text(),
        sandboxed.text()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_forms_tell_the_same() {
    let house = eventful().await;
    let auditor = house.voice("default", "auditor");
    let all = whole(&auditor, "").await;
    let lines = auditor.get("/v1/audit?order=oldest&format=jsonl").await;
    assert_eq!(lines.headers["content-type"], "application/jsonl");
    let read: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, all);
    let accept = |kind: &'static str| {
        Said::of(auditor.request("GET", "/v1/audit?order=oldest").header("accept", kind))
    };
    assert_eq!(accept("application/x-ndjson").await.unwrap().bytes, lines.bytes);
    let csv = accept("text/csv").await.unwrap();
    let text = csv.text();
    assert_eq!(text.split("\r\n").next().unwrap(), MEMBERS.join(","));
    assert_eq!(text.split("\r\n").count(), all.len() + 2);

    // A page of either leads to the next by its header.
    let mut read = Vec::new();
    let mut next = Some("/v1/audit?order=oldest&format=jsonl&limit=5".to_owned());
    while let Some(path) = next {
        let page = auditor.get(&path).await;
        read.extend_from_slice(&page.bytes);
        let link = page.headers.get("link").map(|link| link.to_str().unwrap());
        next = link.map(|link| {
            link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap().to_owned()
        });
    }
    assert_eq!(read, lines.bytes);

    let prov = Said::of(
        auditor.request("GET", "/v1/audit?order=oldest&limit=200").header("accept", "application/prov+json"),
    );
    let prov = prov.await.unwrap();
    assert_eq!(prov.headers["content-type"], "application/prov+json");
    provenance(&prov.body, &all);
}

/// An activity for each action, associated with its agent, using its request, generating its receipts.
fn provenance(document: &Value, entries: &[Value]) {
    let part = |name: &str| document[name].as_object().unwrap();
    let actions: BTreeSet<&str> = entries.iter().filter_map(|entry| entry["action_id"].as_str()).collect();
    let others = entries.iter().filter(|entry| entry["action_id"].is_null()).count();
    assert_eq!(part("activity").len(), actions.len() + others);
    assert_eq!(part("agent").keys().collect::<Vec<_>>(), ["cs:agent-default-agent"]);
    assert_eq!((part("used").len(), part("wasAssociatedWith").len()), (actions.len(), actions.len()));
    for relation in ["used", "wasGeneratedBy", "wasAssociatedWith"] {
        for said in part(relation).values() {
            assert!(part("activity").contains_key(said["prov:activity"].as_str().unwrap()), "{said}");
            for (member, kind) in [("prov:entity", "entity"), ("prov:agent", "agent")] {
                let known = said[member].as_str().is_none_or(|id| part(kind).contains_key(id));
                assert!(known, "{said}");
            }
        }
    }
    let generated = |prefix: &str| {
        part("wasGeneratedBy")
            .values()
            .filter(|it| it["prov:entity"].as_str().unwrap().starts_with(prefix))
            .count()
    };
    assert_eq!(generated("cs:audit-"), entries.len());
    // Executed, refused, in doubt and then executed, refused in the end.
    assert_eq!(generated("cs:receipt-"), 5);
    for activity in part("activity").values() {
        assert!(activity["prov:startTime"].as_str() <= activity["prov:endTime"].as_str(), "{activity}");
    }
    fits_prov_json(document);
}

/// Is it as W3C's schema of PROV-JSON has it?
pub(crate) fn fits_prov_json(document: &Value) {
    let schema = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/vectors/prov/src/prov/tests/schemas/prov-json.schema.json"
    );
    match std::fs::read_to_string(schema) {
        Err(_) => testkit::skip("no ../shared/vectors/prov"),
        Ok(schema) => {
            let schema: Value = serde_json::from_str(&schema).unwrap();
            let schema = jsonschema::validator_for(&schema).unwrap();
            let wrong: Vec<String> = schema
                .iter_errors(document)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trail_longer_than_a_page_is_told_in_one_answer() {
    let house = House::new().await;
    let (agent, auditor) = (house.agent(), house.voice("default", "auditor"));
    for n in 0..450 {
        let body = json!({"archetype": "delete_audit_log", "constraints": {"n": n}});
        assert_eq!(agent.execute(&format!("k{n}"), &body).await.kind(), "blocked");
    }
    for form in ["jsonl", "csv"] {
        let said = auditor.get(&format!("/v1/audit?verb=delete_audit_log&format={form}")).await;
        assert_eq!(said.text().lines().count(), 450 + usize::from(form == "csv"));
    }
    assert_eq!(auditor.get("/v1/audit?limit=200").await.body["entries"].as_array().unwrap().len(), 200);
}

// The program.

fn call(house: &House, who: &str, args: &[&str]) -> Output {
    let mut command = countersign();
    command.args(args).env("COUNTERSIGN_URL", &house.gateway.url);
    command.env("COUNTERSIGN_API_KEY", house.voice("default", who).key.unwrap()).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_shows_follows_and_exports_the_trail() {
    let house = eventful().await;
    let table = call(&house, "auditor", &["audit", "query", "--state", "COMPLETED"]);
    assert_eq!(text(&table).lines().count(), 3, "{}", text(&table));
    let csv = call(&house, "auditor", &["audit", "query", "--csv", "--limit", "5"]);
    assert_eq!(String::from_utf8_lossy(&csv.stdout).lines().count(), 6, "{}", text(&csv));
    let all = whole(&house.voice("default", "auditor"), "").await;
    let args = ["audit", "query", "--oldest", "--json", "--limit", "300"];
    let read: Value = serde_json::from_slice(&call(&house, "auditor", &args).stdout).unwrap();
    assert_eq!(read, Value::from(all.clone()));
    let refused = call(&house, "auditor", &["audit", "query", "--level", "atp-9"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("guarantee_level"), "{}", text(&refused));

    for name in ["trail.jsonl", "trail.csv"] {
        let file = house.path().join(name);
        let exported = call(&house, "auditor", &["audit", "export", file.to_str().unwrap()]);
        assert!(
            exported.status.success() && text(&exported).contains(&format!("{} audit entries", all.len())),
            "{}",
            text(&exported)
        );
        let form = name.split('.').next_back().unwrap();
        let said =
            house.voice("default", "auditor").get(&format!("/v1/audit?order=oldest&format={form}")).await;
        assert_eq!(std::fs::read(&file).unwrap(), said.bytes, "{name}");
        // What is there stays, unless it is said that it need not.
        std::fs::write(&file, "mine").unwrap();
        let refused = call(&house, "auditor", &["audit", "export", file.to_str().unwrap()]);
        assert_eq!((refused.status.code(), std::fs::read(&file).unwrap()), (Some(1), b"mine".to_vec()));
        assert!(
            text(&refused).contains("is there already") && text(&refused).contains("--force"),
            "{}",
            text(&refused)
        );
        let forced = call(&house, "auditor", &["audit", "export", "--force", file.to_str().unwrap()]);
        assert!(forced.status.success(), "{}", text(&forced));
        assert_eq!(std::fs::read(&file).unwrap(), said.bytes, "{name}");
    }

    let mut command: Command = countersign();
    command.args(["audit", "tail", "--lines", "2", "--jsonl"]).env("COUNTERSIGN_URL", &house.gateway.url);
    command.env("COUNTERSIGN_API_KEY", house.voice("default", "auditor").key.unwrap());
    let mut following = command.stdout(Stdio::piped()).spawn().unwrap();
    let stdout = following.stdout.take().unwrap();
    let (to_us, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)) {
            let _ = to_us.send(serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        }
    });
    let next = || told.recv_timeout(Duration::from_secs(30)).expect("another entry");
    assert_eq!([next(), next()], all[all.len() - 2..]);
    let said = house.agent().execute("new", &house.payment("acct-5", "3.00")).await;
    let (first, second) = (next(), next());
    assert_eq!(
        (first["action_id"].as_str(), second["action_id"].as_str()),
        (Some(said.id()), Some(said.id()))
    );
    assert_eq!((&first["event"], &second["event"]), (&json!("admitted"), &json!("executed")));
    following.kill().unwrap();
    following.wait().unwrap();

    let mut command: Command = countersign();
    command.args(["audit", "tail", "--lines", "2"]).env("COUNTERSIGN_URL", &house.gateway.url);
    command.env("COUNTERSIGN_API_KEY", house.voice("default", "auditor").key.unwrap());
    let mut following = command.stdout(Stdio::piped()).spawn().unwrap();
    let stdout = std::io::BufReader::new(following.stdout.take().unwrap());
    let lines: Vec<String> = std::io::BufRead::lines(stdout).take(3).map(Result::unwrap).collect();
    following.kill().unwrap();
    following.wait().unwrap();
    let at = lines[0].find("event").unwrap_or_else(|| panic!("there is no heading: {lines:?}"));
    for (line, event) in lines[1..].iter().zip(["admitted", "executed"]) {
        assert!(line.chars().skip(at).collect::<String>().starts_with(event), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_at_the_store_is_found_out_and_where() {
    let mut house = eventful().await;
    let whole = call(&house, "auditor", &["audit", "verify"]);
    assert!(whole.status.success(), "{}", text(&whole));
    assert!(text(&whole).contains("6 receipts, 0 approvals: all there"), "{}", text(&whole));
    assert_eq!(call(&house, "agent", &["audit", "verify"]).status.code(), Some(1), "not for agents");

    let store = house.path().join("data/production.db");
    let db = Connection::open(&store).unwrap();
    let (entry, action, receipt): (i64, Vec<u8>, String) = db
        .query_row(
            "SELECT o.entry, a.id, o.receipt_id FROM outcome o JOIN action a ON a.row = o.action
             WHERE a.tenant = 'default' AND o.state = 4 ORDER BY o.row LIMIT 1",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    let id = uuid::Uuid::from_slice(&action).unwrap().to_string();
    let undo = db
        .query_row("SELECT document FROM outcome WHERE entry = ?1", [entry], |row| row.get::<_, Vec<u8>>(0))
        .unwrap();
    let undo = ledger::unpack(&undo).unwrap();

    // Another agent's name in the row.
    db.execute("UPDATE action SET subject = 'default-rival' WHERE id = ?1", [&action]).unwrap();
    let found = call(&house, "auditor", &["audit", "verify"]);
    assert_eq!(found.status.code(), Some(1), "{}", text(&found));
    let line = format!("ledger entry {entry} (action {id}, receipt {receipt}): ");
    assert!(text(&found).contains(&line) && text(&found).contains("another agent"), "{}", text(&found));
    db.execute("UPDATE action SET subject = 'default-agent' WHERE id = ?1", [&action]).unwrap();

    // What was asked for, and under what: the entry that the action began with says otherwise.
    let (began, payload): (i64, Vec<u8>) = db
        .query_row("SELECT entry, payload FROM action WHERE id = ?1", [&action], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let payload = ledger::unpack(&payload).unwrap();
    for (from, to) in [("acct-1", "acct-7"), ("\"mandate_id\":\"", "\"mandate_id\":\"x"), ("atp-1", "atp-2")]
    {
        let altered = String::from_utf8(payload.clone()).unwrap().replacen(from, to, 1).into_bytes();
        assert_ne!(altered, payload);
        db.execute("UPDATE action SET payload = ?2 WHERE id = ?1", (&action, altered)).unwrap();
        let found = call(&house, "auditor", &["audit", "verify"]);
        let line = format!("ledger entry {began} (action {id}): the stored action is not the one it names");
        assert!(found.status.code() == Some(1) && text(&found).contains(&line), "{}", text(&found));
    }
    db.execute("UPDATE action SET payload = ?2 WHERE id = ?1", (&action, &payload)).unwrap();

    // The receipt itself.
    let forged = String::from_utf8(undo.clone()).unwrap().replacen(
        "\"chargeAmount\":\"1.00\"",
        "\"chargeAmount\":\"9.00\"",
        1,
    );
    assert_ne!(forged.as_bytes(), undo);
    db.execute("UPDATE outcome SET document = ?2 WHERE entry = ?1", (entry, forged.as_bytes())).unwrap();
    let found = call(&house, "auditor", &["audit", "verify", "--json"]);
    let said: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(said["whole"], false);
    let findings = said["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["entry"] == entry), "{said}");
    assert!(
        findings.iter().any(|finding| finding["what"] == "the stored receipt is not the one it names"),
        "{said}"
    );
    let theirs = house.voice("other", "auditor").get("/v1/audit/verify").await;
    assert_eq!(theirs.body["findings"][0]["entry"], entry);
    assert!(!theirs.text().contains(&id) && !theirs.text().contains(&receipt), "{}", theirs.text());
    db.execute("UPDATE outcome SET document = ?2 WHERE entry = ?1", (entry, &undo)).unwrap();

    // An entry, with no gateway running.
    drop(db);
    house.gateway.stop();
    let config = house.path().join("countersign.toml");
    let verify = || countersign().args(["audit", "verify", "--config"]).arg(&config).output().unwrap();
    assert!(verify().status.success(), "{}", text(&verify()));

    // The directory alone says whose receipts these have to be, and nobody else's pass.
    let data = house.path().join("data");
    let alone = || {
        let mut command = countersign();
        command.args(["audit", "verify", "--data-dir"]).arg(&data);
        command
    };
    let sound = alone().output().unwrap();
    assert!(sound.status.success() && text(&sound).contains("6 receipts"), "{}", text(&sound));
    let others = alone().env("COUNTERSIGN_PUBLIC_URL", "https://else.example").output().unwrap();
    assert_eq!(others.status.code(), Some(1));
    assert_eq!(text(&others).matches("the stored receipt").count(), 6, "{}", text(&others));

    let db = Connection::open(&store).unwrap();
    db.execute("DELETE FROM entry WHERE row = ?1", [entry]).unwrap();
    drop(db);
    let found = verify();
    assert_eq!(found.status.code(), Some(1));
    assert!(
        text(&found).contains(&format!("ledger entry {}: an entry before it is missing", entry + 1)),
        "{}",
        text(&found)
    );
}

/// What people decide and what those who govern do, each where it happened; and a word put into somebody's mouth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_and_those_who_govern_stand_in_the_trail() {
    let config = "[limits]\nrecovery_interval_ms = 50\n[sandbox]\nenabled = false\n".to_owned();
    let house = House::with(Plan { config, ..Plan::default() }).await;
    let (admin, auditor) = (house.admin(), house.voice("default", "auditor"));
    crate::approvals::ask_for(&house, 1);
    assert_eq!(admin.post("/v1/reload", &json!({})).await.status, 200);
    let mut ids = Vec::new();
    for (key, word) in [("yes", "approve"), ("no", "reject")] {
        let held = house.agent().execute(key, &house.payment(key, "6000.00")).await;
        assert_eq!(held.kind(), "held", "{}", held.text());
        let path = format!("/v1/actions/{}/{word}", held.id());
        let said = house.voice("default", "approver").post(&path, &json!({"comment": "seen"})).await;
        assert_eq!(said.status, 200, "{}", said.text());
        ids.push(held.id().to_owned());
    }
    for _ in 0..400 {
        if trail(&auditor, "&result_state=COMPLETED").await.len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let of = |id: &str, all: &[Value]| {
        let all = all.iter().filter(|entry| entry["action_id"] == id);
        let said = |entry: &Value| (entry["event"].clone(), entry["human_approver"].clone());
        all.map(said).collect::<Vec<_>>()
    };
    let all = trail(&auditor, "").await;
    let decider = json!("default-approver");
    assert_eq!(
        of(&ids[0], &all),
        [
            (json!("held"), Value::Null),
            (json!("approved"), decider.clone()),
            (json!("admitted"), Value::Null),
            (json!("executed"), Value::Null)
        ]
    );
    assert_eq!(
        of(&ids[1], &all),
        [(json!("held"), Value::Null), (json!("rejected"), decider), (json!("refused"), Value::Null)]
    );

    let made = admin.post("/v1/keys", &json!({"subject": "default-late", "role": "agent"})).await;
    let key = made.body["key"]["id"].as_str().unwrap().to_owned();
    assert_eq!(admin.post(&format!("/v1/keys/{key}/revoke"), &json!({})).await.status, 200);
    let scope = json!({"scope": "agent:default-rival", "reason": "=drill"});
    assert_eq!(admin.post("/v1/freeze", &scope).await.status, 200);
    assert_eq!(admin.post("/v1/thaw", &json!({"scope": "agent:default-rival"})).await.status, 200);
    let mandates = admin.get("/v1/mandates").await;
    let jti = mandates.body["items"][0]["jti"].as_str().unwrap_or_else(|| panic!("{}", mandates.text()));
    let revoked = admin.post(&format!("/v1/mandates/{jti}/revoke"), &json!({"reason": "lost"})).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    let happened = whole(&auditor, "").await;
    let happened: Vec<&Value> = happened.iter().filter(|entry| entry["action_id"].is_null()).collect();
    let latest: Vec<&str> =
        happened.iter().rev().take(5).rev().map(|it| it["event"].as_str().unwrap()).collect();
    assert_eq!(latest, ["key_created", "key_revoked", "frozen", "thawed", "mandate_revoked"]);
    let frozen = whole(&auditor, "&verb=frozen").await;
    assert_eq!(frozen.len(), 1);
    assert_eq!(
        frozen[0]["record"],
        json!({"by": "default-admin", "reason": "=drill", "scope": "agent:default-rival", "tenant": "default"})
    );
    assert!(happened.iter().any(|it| it["event"] == "chain_opened"));
    assert!(happened.iter().any(|it| it["event"] == "mandate_issued"));
    let theirs = whole(&house.voice("other", "auditor"), "").await;
    assert!(!theirs.iter().any(|it| it["event"] == "frozen"), "nobody sees what another tenant's people do");
    assert!(theirs.iter().any(|it| it["event"] == "key_created"));

    let verify = || call(&house, "auditor", &["audit", "verify"]);
    assert!(text(&verify()).contains("2 approvals: all there"), "{}", text(&verify()));
    let db = Connection::open(house.path().join("data/production.db")).unwrap();
    let entry: i64 = db.query_row("SELECT min(entry) FROM approval", [], |row| row.get(0)).unwrap();
    let kept: Vec<u8> =
        db.query_row("SELECT record FROM approval WHERE entry = ?1", [entry], |row| row.get(0)).unwrap();
    for (sql, what) in [
        ("UPDATE approval SET approver = 'default-second' WHERE entry = ?1", "another person"),
        ("UPDATE approval SET round = 2 WHERE entry = ?1", "another person, hold or decision"),
        ("UPDATE approval SET record = x'7b7d', round = 1 WHERE entry = ?1", "the approval stored with it"),
        ("DELETE FROM approval WHERE entry = ?1", "the approval stored with it is missing"),
    ] {
        assert_eq!(db.execute(sql, [entry]).unwrap(), 1);
        let found = verify();
        let line = format!("ledger entry {entry} (action {}): ", ids[0]);
        assert_eq!(found.status.code(), Some(1), "{sql}");
        assert!(text(&found).contains(&line) && text(&found).contains(what), "{sql}: {}", text(&found));
        let restore =
            "UPDATE approval SET approver = 'default-approver', round = 1, record = ?2 WHERE entry = ?1";
        db.execute(restore, (entry, &kept)).unwrap();
    }
}

/// A key, a mandate or a freeze that was changed in the store is found, and named with the entry that says otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authority_that_nobody_gave_is_found_out() {
    let house = House::new().await;
    let admin = house.admin();
    let post = async |path: &str, body: Value| {
        let said = admin.post(path, &body).await;
        assert!(matches!(said.status, 200 | 201), "{path}: {}", said.text());
        said.body
    };
    let key = post("/v1/keys", json!({"subject": "default-late", "role": "agent"})).await;
    let key = key["key"]["id"].as_str().unwrap().to_owned();
    post(&format!("/v1/keys/{key}/revoke"), json!({})).await;
    let body = json!({"subject": "default-agent", "scope": ["Payments"], "expires_in_seconds": 600});
    let mandate = post("/v1/mandates", body).await["mandate"]["jti"].as_str().unwrap().to_owned();
    post(&format!("/v1/mandates/{mandate}/revoke"), json!({"reason": "lost"})).await;
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let kid =
        post("/v1/principals/alice/keys", json!({"jwk": jwk})).await["kid"].as_str().unwrap().to_owned();
    post("/v1/principals/alice/keys/revoke", json!({"kid": kid})).await;
    // Frozen, let go and frozen again; and one that was let go for good.
    for (path, scope) in [
        ("freeze", "agent:default-rival"),
        ("thaw", "agent:default-rival"),
        ("freeze", "agent:default-rival"),
        ("freeze", "provider:bank"),
        ("thaw", "provider:bank"),
    ] {
        post(&format!("/v1/{path}"), json!({"scope": scope})).await;
    }
    let verify = || call(&house, "auditor", &["audit", "verify"]);
    assert!(verify().status.success(), "{}", text(&verify()));

    let db = Connection::open(house.path().join("data/production.db")).unwrap();
    let entry = |event: &str| -> i64 {
        let sql = "SELECT max(row) FROM entry WHERE instr(CAST(bytes AS TEXT), ?1)";
        db.query_row(sql, [format!("\"event\":\"{event}\"")], |row| row.get(0)).unwrap()
    };
    let last: i64 = db.query_row("SELECT max(row) FROM entry", [], |row| row.get(0)).unwrap();
    let altered = |what: &str| format!("the stored {what} is not as the entries have it");
    let (the_key, the_mandate) = (format!("API key `{key}`"), format!("mandate `{mandate}`"));
    let the_principals = format!("key of a principal `{kid}`");
    let cases = [
        ("UPDATE api_key SET revoked = NULL WHERE id = ?1", &*key, entry("key_revoked"), altered(&the_key)),
        ("UPDATE api_key SET role = 'admin' WHERE id = ?1", &key, entry("key_revoked"), altered(&the_key)),
        ("UPDATE api_key SET tenant = 'other' WHERE id = ?1", &key, entry("key_revoked"), altered("API key")),
        ("UPDATE api_key SET subject = 'x' WHERE id = ?1", &key, entry("key_revoked"), altered(&the_key)),
        (
            "UPDATE api_key SET hash = zeroblob(32) WHERE id = ?1",
            &key,
            entry("key_revoked"),
            altered(&the_key),
        ),
        (
            "UPDATE api_key SET default_mandate = 'x' WHERE id = ?1",
            &key,
            entry("key_revoked"),
            altered(&the_key),
        ),
        (
            "DELETE FROM api_key WHERE id = ?1",
            &key,
            entry("key_revoked"),
            "the API key that it tells of is not stored".to_owned(),
        ),
        (
            "INSERT INTO api_key (hash, id, tenant, subject, role, created)
             SELECT zeroblob(32), 'key_forged', tenant, subject, 'admin', created FROM api_key WHERE id = ?1",
            &key,
            last,
            "the stored API key `key_forged` is one that no entry tells of".to_owned(),
        ),
        (
            "UPDATE account SET revoked = NULL WHERE key = (SELECT account FROM mandate WHERE jti = ?1)",
            &mandate,
            entry("mandate_revoked"),
            altered(&the_mandate),
        ),
        (
            "UPDATE mandate SET claims = CAST(replace(CAST(claims AS TEXT), 'Payments', 'Anything') AS BLOB)
             WHERE jti = ?1",
            &mandate,
            entry("mandate_revoked"),
            altered(&the_mandate),
        ),
        (
            "UPDATE mandate SET expires = expires + 1000 WHERE jti = ?1",
            &mandate,
            entry("mandate_revoked"),
            altered(&the_mandate),
        ),
        (
            "UPDATE mandate SET subject = 'x' WHERE jti = ?1",
            &mandate,
            entry("mandate_revoked"),
            altered(&the_mandate),
        ),
        (
            "UPDATE mandate SET chain = 'root' WHERE jti = ?1",
            &mandate,
            entry("mandate_revoked"),
            altered(&the_mandate),
        ),
        (
            "UPDATE mandate SET kid = 'k' WHERE jti = ?1",
            &mandate,
            entry("mandate_revoked"),
            altered(&the_mandate),
        ),
        (
            "UPDATE principal_key SET revoked = NULL WHERE kid = ?1",
            &kid,
            entry("principal_key_revoked"),
            altered(&the_principals),
        ),
        (
            "UPDATE principal_key SET jwk = '{}' WHERE kid = ?1",
            &kid,
            entry("principal_key_revoked"),
            altered(&the_principals),
        ),
        (
            "DELETE FROM freeze WHERE name = ?1",
            "default-rival",
            last - 2,
            "the freeze that it tells of is not stored".to_owned(),
        ),
        (
            "UPDATE freeze SET include_rollback = 1 WHERE name = ?1",
            "default-rival",
            last - 2,
            altered("freeze `agent:default-rival`"),
        ),
        (
            "INSERT INTO freeze SELECT kind, 'other', name, 0, at, by, reason FROM freeze WHERE name = ?1",
            "default-rival",
            last,
            "the stored freeze is one that no entry tells of".to_owned(),
        ),
    ];
    let tables = ["api_key", "account", "mandate", "principal_key", "freeze"];
    for table in tables {
        db.execute_batch(&format!("CREATE TEMP TABLE kept_{table} AS SELECT * FROM main.{table}")).unwrap();
    }
    for (sql, name, entry, what) in cases {
        assert_eq!(db.execute(sql, [name]).unwrap(), 1, "{sql}");
        let found = verify();
        assert_eq!(found.status.code(), Some(1), "{sql}: {}", text(&found));
        let line = format!("ledger entry {entry}: {what}\n");
        assert!(
            text(&found).contains(&line) && text(&found).contains(": 1 wrong"),
            "{sql}: {}",
            text(&found)
        );
        for table in tables {
            let restore =
                format!("DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM kept_{table}");
            db.execute_batch(&format!("BEGIN; {restore}; COMMIT")).unwrap();
        }
    }
    assert!(verify().status.success(), "{}", text(&verify()));
}
