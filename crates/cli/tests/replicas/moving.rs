//! A grown installation that moves from its files into a database: killed on its way as often as may be, and everything goes on
//! where it was.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use receipt::{Pin, Verdict};
use serde_json::json;
use tempfile::TempDir;
use testkit::bank::{Fault, Injection};
use testkit::postgres::{Cluster, binaries};

use crate::house::{House, ISSUER, Plan, Said, countersign, payment, verdict};

/// A server, or nothing where there is no PostgreSQL, which is said then.
fn server() -> Option<(Cluster, TempDir)> {
    let Some(binaries) = binaries() else {
        testkit::skip("no PostgreSQL (Debian package `postgresql`)");
        return None;
    };
    let folder = tempfile::Builder::new().prefix("countersign-pg").tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    Some((Cluster::start(&binaries, &folder.path().join("a"), &[]).unwrap(), folder))
}

/// What one person has to agree to, in the first tenant's catalogue.
async fn ask_for_one(house: &House) {
    let path = house.path().join("catalogue/default/payment.toml");
    let text = fs::read_to_string(&path).unwrap();
    let lines = "extends = \"builtin\"\napproval = \"key\"\napprovals = 1\n";
    fs::write(path, text.replace("extends = \"builtin\"\n", lines)).unwrap();
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
}

fn store(house: &House, url: &str, crash_at: Option<&str>) -> Output {
    let mut command = countersign();
    let from = format!("sqlite:{}", house.path().join("data").display());
    command.args(["store", "copy", "--rows", "5", "--from", &from]).env("COUNTERSIGN_STORE", url);
    if let Some(point) = crash_at {
        command.env("COUNTERSIGN_CRASH_AT", point);
    }
    command.output().unwrap()
}

/// What a program said, in one line.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    text.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
}

/// A gateway that does not start, and why.
fn refused(mut serve: Command) -> String {
    let ended = serve.output().unwrap();
    assert!(!ended.status.success(), "{}", said(&ended));
    said(&ended)
}

fn on(house: &House, url: &str) -> Command {
    let mut serve = house.serve();
    serve.args(["--store", url]);
    serve
}

async fn pay(house: &House, key: &str, amount: &str, token: &str) -> Said {
    house.agent().insist(key, &payment(&format!("acct-{key}"), amount, token)).await
}

fn monitor(house: &House, pin: &Path, more: &[&str]) -> Output {
    let auditor = house.voice("default", "auditor");
    let mut command = countersign();
    command.env("COUNTERSIGN_API_KEY", auditor.key.unwrap());
    command.args(["audit", "verify", "--log", &format!("{}/log", auditor.url), "--issuer"]).arg(pin);
    command.args(more).output().unwrap()
}

/// As soon as the log has it.
async fn logged(house: &House, receipt: &str) {
    for _ in 0..1200 {
        if house.agent().get(&format!("/v1/receipts/{receipt}/proof")).await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("`{receipt}` is never logged: {}", house.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_on_files_goes_on_in_a_database_and_nothing_happens_twice() {
    let Some((cluster, _folder)) = server() else { return };
    let url = cluster.url("postgres");
    let config = "[limits]\nrecovery_interval_ms = 50\n";
    let mut house = House::with(Plan { config: config.into(), ..Plan::default() }).await;
    ask_for_one(&house).await;
    let small = house.mandate("default", "100.00").await;
    let large = house.token("default").to_owned();

    let done = pay(&house, "done", "60.00", &small).await;
    assert_eq!(done.kind(), "executed", "{}", done.text());
    let blocked = pay(&house, "blocked", "60.00", &small).await;
    assert_eq!(blocked.kind(), "blocked", "{}", blocked.text());
    for key in ["agreed", "held"] {
        let said = pay(&house, key, "6000.00", &large).await;
        assert_eq!(said.kind(), "held", "{}", said.text());
        if key == "agreed" {
            let path = format!("/v1/actions/{}/approve", said.id());
            assert_eq!(
                house.voice("default", "approver").post(&path, &json!({"comment": "checked"})).await.status,
                200
            );
        }
    }
    let mut agreed = pay(&house, "agreed", "6000.00", &large).await;
    while agreed.kind() != "executed" {
        tokio::time::sleep(Duration::from_millis(25)).await;
        agreed = pay(&house, "agreed", "6000.00", &large).await;
    }
    let frozen =
        house.voice("default", "operator").post("/v1/freeze", &json!({"scope": "agent:default-rival"})).await;
    assert!(frozen.status < 300, "{}", frozen.text());
    let constraints = json!({"recipient": "acct-4711", "amount_usd": "25.00", "max_total_usd": "30.00"});
    let body = json!({"archetype": "PAYMENT_TRANSFER", "constraints": constraints});
    let tried = house.nobody().post("/api/sandbox/execute", &body).await;
    assert_eq!(tried.kind(), "executed", "{}", tried.text());

    let receipt = |said: &Said| said.body["receipt_id"].as_str().unwrap().to_owned();
    let receipts = [receipt(&done), receipt(&blocked), receipt(&agreed)];
    let mut documents = Vec::new();
    for id in &receipts {
        logged(&house, id).await;
        documents.push(house.agent().get(&format!("/v1/receipts/{id}")).await.bytes);
    }
    let key = house.agent().get("/v1/log").await.body["key"].as_str().unwrap().to_owned();
    let jwks = house.jwks().await;
    let (pin, checkpoint) = (house.path().join("pin.json"), house.path().join("checkpoint"));
    fs::write(&pin, Pin::new(ISSUER, &jwks).and_log(key.parse().unwrap()).to_text()).unwrap();
    let checkpoint = checkpoint.to_str().unwrap();
    let seen = monitor(&house, &pin, &["--keep", checkpoint]);
    assert!(seen.status.success(), "{}", said(&seen));

    // Sent, with its effect, and without an answer when the gateway ends.
    house.bank.inject(Injection::payments(Fault::DelayAnswer { ms: 60_000 }, 1));
    house.bank.inject(Injection::queries(Fault::LostBeforeEffect, 1000));
    let before = house.bank.effects().count;
    let (voice, body) = (house.agent(), payment("acct-under-way", "10.00", &large));
    let under_way = tokio::spawn(async move { voice.try_execute("under-way", &body).await });
    while house.bank.effects().count == before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let running = store(&house, &url, None);
    assert!(said(&running).contains("a gateway runs on it"), "{}", said(&running));
    house.gateway.kill();
    let _ = under_way.await;
    house.bank.clear_faults();

    // Nor does a gateway begin anew in a database that nothing was copied into yet.
    let why = refused(on(&house, &url));
    assert!(why.contains("this database is empty") && !why.contains("admin key"), "{why}");

    for point in ["copy.rows:1", "copy.rows:9", "copy.rows:4", "copy.there", "copy.verified", "copy.left"] {
        let killed = store(&house, &url, Some(point));
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", said(&killed));
        let why = refused(on(&house, &url));
        assert!(why.contains("is being copied into this database"), "{point}: {why}");
    }
    // Neither of the two is open now, and then the other one.
    let why = refused(house.serve());
    assert!(why.contains("it was copied into a database"), "{why}");
    let copied = store(&house, &url, None);
    assert!(copied.status.success(), "{}", said(&copied));
    for words in ["production: ", "sandbox: ", "all there", "gateways may start on the database"] {
        assert!(said(&copied).contains(words), "{}", said(&copied));
    }
    assert!(!said(&copied).contains("differs"), "{}", said(&copied));
    assert!(said(&store(&house, &url, None)).contains("production: it was copied before"));
    assert!(refused(house.serve()).contains("it was copied into a database"));

    house.start_by(on(&house, &url));
    assert!(house.log().contains("store in PostgreSQL `"), "{}", house.log());
    for (id, document) in receipts.iter().zip(&documents) {
        assert_eq!(&house.agent().get(&format!("/v1/receipts/{id}")).await.bytes, document);
        assert_eq!(verdict(document, &jwks), Verdict::Valid);
    }
    for (first, key, amount, token) in [
        (&done, "done", "60.00", &small),
        (&blocked, "blocked", "60.00", &small),
        (&agreed, "agreed", "6000.00", &large),
    ] {
        let again = pay(&house, key, amount, token).await;
        assert!(again.replayed() && again.bytes == first.bytes, "{key}: {}", again.text());
    }
    assert_eq!(pay(&house, "over", "60.00", &small).await.kind(), "blocked", "the budget is that of before");
    assert_eq!(pay(&house, "within", "40.00", &small).await.kind(), "executed");
    let rival = house.voice("default", "rival");
    let stopped = rival.execute("stopped", &payment("acct-stopped", "1.00", &large)).await;
    assert_eq!(stopped.kind(), "blocked", "{}", stopped.text());

    let approver = house.voice("default", "approver");
    let listed = approver.get("/v1/approvals").await;
    let id = listed.body["items"][0]["action_id"].as_str().unwrap().to_owned();
    let yes = approver.post(&format!("/v1/actions/{id}/approve"), &json!({"comment": "checked"})).await;
    assert_eq!(yes.status, 200, "{}", yes.text());
    for (key, amount) in [("held", "6000.00"), ("under-way", "10.00")] {
        let mut said = pay(&house, key, amount, &large).await;
        while said.kind() != "executed" {
            assert!(matches!(said.kind(), "held" | "pending_settlement"), "{key}: {}", said.text());
            tokio::time::sleep(Duration::from_millis(25)).await;
            said = pay(&house, key, amount, &large).await;
        }
        logged(&house, &receipt(&said)).await;
    }
    let effects = house.bank.effects();
    // done, agreed, under-way, within, held.
    assert_eq!(effects.count, 5);
    assert!(effects.by_reference.values().chain(effects.by_key.values()).all(|count| *count == 1));

    // The log is the one of before, and goes on.
    let seen = monitor(&house, &pin, &["--from", checkpoint, "--keep", checkpoint]);
    assert!(seen.status.success(), "{}", said(&seen));
    let month = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m").to_string();
    let archive = |before: &str| {
        let mut command = countersign();
        command.args(["store", "archive", "--before", before]).env("COUNTERSIGN_STORE", &url);
        said(&command.output().unwrap())
    };
    let there = archive(&month);
    assert!(there.contains("1 gateway is on this database") && there.contains("end all gateways"), "{there}");
    house.gateway.stop();
    let at_rest = |words: &[&str]| {
        let mut command = countersign();
        command.args(words).arg("--config").arg(house.path().join("countersign.toml"));
        let done = command.args(["--store", &url]).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", said(&done));
        said(&done)
    };
    let reclaim = |store: Option<&str>| {
        let mut command = countersign();
        command.args(["store", "reclaim", "--data-dir"]).arg(house.path().join("data"));
        command.env_remove("COUNTERSIGN_STORE").envs(store.map(|url| ("COUNTERSIGN_STORE", url)));
        let done = command.output().unwrap();
        assert!(!done.status.success());
        said(&done)
    };
    assert!(reclaim(None).contains("nothing says into which database"));
    assert!(reclaim(Some(&url)).contains("a gateway was on the database"));
    assert!(refused(house.serve()).contains("it was copied into a database"));
    assert!(at_rest(&["audit", "verify"]).contains("all there"));
    assert!(at_rest(&["audit", "verify", "--sandbox"]).contains("all there"));
    assert!(at_rest(&["recover"]).contains("nothing to recover"));
    assert!(at_rest(&["keys", "api", "list"]).contains("default-agent"));

    // What was moved there is older than this month's partition.
    let too_late = archive("2999-01");
    assert!(too_late.contains("is not over") && too_late.contains("the present month"), "{too_late}");
    assert!(archive("January").contains("write it as 2026-01"));
    let put_together = archive(&month);
    let into = format!("entry_upto_{}", month.replace('-', "_"));
    assert!(
        put_together.contains(&into) && put_together.contains("gateways may start again"),
        "{put_together}"
    );
    assert_eq!(archive(&month), format!("there is no month before {month} that lies by itself"));
    assert!(at_rest(&["audit", "verify"]).contains("all there"));
}

#[test]
fn a_copy_goes_one_way_and_says_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let data = format!("sqlite:{}", folder.path().display());
    let copy = |from: &str, to: &str| {
        let done = countersign().args(["store", "copy", "--from", from, "--to", to]).output().unwrap();
        assert!(!done.status.success());
        said(&done)
    };
    assert!(copy("postgres://u@h/x", "postgres://u@h/x").contains("nothing is copied out of a database"));
    assert!(copy("/var/lib", "postgres://u@h/x").contains("sqlite:DIR"));
    assert!(copy(&data, "sqlite:elsewhere").contains("a store is `postgres://…`"));
    assert!(copy(&data, "postgres://u@h/x").contains("there is no store at"));
    let reclaim = countersign().args(["store", "reclaim", "--data-dir"]).arg(folder.path()).output().unwrap();
    assert!(!reclaim.status.success() && said(&reclaim).contains("there is no store at"));
}
