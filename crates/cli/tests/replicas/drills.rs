//! What the pages tell to try before it is needed, on a database: a dump that is put back, and a restore to a moment. That a store is
//! an old one is found out, and what was lost is not paid twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;
use testkit::bank::{Fault, Injection};
use testkit::postgres::{Cluster, End, binaries};

use crate::house::{House, Plan, Said, countersign};

const NO_SANDBOX: &str = "[sandbox]\nenabled = false\n";

/// A place for servers, or nothing where there is no PostgreSQL, which is said then.
fn place() -> Option<(TempDir, PathBuf)> {
    let Some(binaries) = binaries() else {
        testkit::skip("no PostgreSQL (Debian package `postgresql`)");
        return None;
    };
    let folder = tempfile::Builder::new().prefix("countersign-pg").tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    Some((folder, binaries))
}

async fn on(url: &str) -> House {
    House::with(Plan { config: NO_SANDBOX.into(), store: Some(url.into()), ..Plan::default() }).await
}

/// Asks for a payment, until the bank can say for certain what it has done.
async fn sent(house: &House, key: &str) -> Said {
    for _ in 0..100 {
        let said = house.agent().insist(key, &house.payment(&format!("acct-{key}"), "10.00")).await;
        if said.code() != "EP_UNAVAILABLE" {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("`{key}` is never sent: {}", house.log());
}

/// Pays, and waits until the log has it.
async fn paid(house: &House, key: &str) {
    let said = sent(house, key).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    let proof = format!("/v1/receipts/{}/proof", said.body["receipt_id"].as_str().unwrap());
    for _ in 0..1200 {
        if house.agent().get(&proof).await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("`{key}` is never logged: {}", house.log());
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn succeed(command: &mut Command) -> Output {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", told(&done));
    done
}

/// From a store that was put back from before `lost` was paid to one that is used again.
async fn is_found_out_and_recovered(house: &mut House, url: &str) {
    house.start();
    let ready = house.admin().get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    let refused = house.agent().execute("more", &house.payment("acct-more", "10.00")).await;
    assert_eq!((refused.status, refused.code()), (503, "EP_UNAVAILABLE"), "{}", refused.text());
    house.gateway.stop();
    let mut recover = countersign();
    recover.args(["recover", "--accept-repeats", "--accept-rights", "--store", url, "--config"]);
    let recovered = succeed(recover.arg(house.path().join("countersign.toml")));
    assert!(told(&recovered).contains("are lost"), "{}", told(&recovered));
    house.start();
    assert_eq!(house.admin().get("/readyz").await.status, 200);
    let effects = house.bank.effects();
    let before = house.agent().insist("before", &house.payment("acct-before", "10.00")).await;
    assert!(before.kind() == "executed" && before.replayed(), "{}", before.text());
    let lost = sent(house, "lost").await;
    assert_eq!(
        (lost.kind(), house.bank.effects()),
        ("executed", effects),
        "nothing is paid twice: {}",
        lost.text()
    );
    paid(house, "after").await;
    let auditor = house.voice("default", "auditor");
    let mut verify = countersign();
    verify.env("COUNTERSIGN_API_KEY", auditor.key.unwrap()).args(["audit", "verify", "--url", &auditor.url]);
    assert!(told(&succeed(&mut verify)).contains("all there"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_that_is_put_back_is_found_out_and_recovered() {
    let Some((folder, binaries)) = place() else { return };
    let cluster = Cluster::start(&binaries, &folder.path().join("a"), &[]).unwrap();
    cluster.sql("postgres", "CREATE DATABASE countersign").unwrap();
    let url = cluster.url("countersign");
    let mut house = on(&url).await;
    paid(&house, "before").await;
    // While the gateway runs.
    let dump = dumped(&cluster, &house);
    paid(&house, "lost").await;
    house.gateway.stop();
    put_back(&cluster, &dump);
    is_found_out_and_recovered(&mut house, &url).await;
}

fn dumped(cluster: &Cluster, house: &House) -> PathBuf {
    let dump = house.path().join("countersign.dump");
    let mut dumping = cluster.client("pg_dump");
    succeed(dumping.args(["--format=custom", "countersign", "--file"]).arg(&dump));
    dump
}

fn put_back(cluster: &Cluster, dump: &Path) {
    // What `--clean` drops one by one are parts of what is partitioned, which cannot be.
    for anew in ["DROP DATABASE countersign WITH (FORCE)", "CREATE DATABASE countersign"] {
        cluster.sql("postgres", anew).unwrap();
    }
    let mut restore = cluster.client("pg_restore");
    succeed(restore.arg("--dbname=countersign").arg(dump));
}

/// In a dump that was made while three gateways ran all of them are still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_in_doubt_is_asked_after_though_three_gateways_seem_to_be_there() {
    let Some((folder, binaries)) = place() else { return };
    let cluster = Cluster::start(&binaries, &folder.path().join("a"), &[]).unwrap();
    cluster.sql("postgres", "CREATE DATABASE countersign").unwrap();
    let url = cluster.url("countersign");
    let mut house = on(&url).await;
    house.bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 100_000));
    house.bank.inject(Injection::payments(Fault::LostAfterEffect, 8));
    for number in 0..8 {
        let key = format!("doubt-{number}");
        let said = house.agent().execute(&key, &house.payment(&key, "10.00")).await;
        assert_eq!(said.kind(), "pending_settlement", "{}", said.text());
    }
    let others = "INSERT INTO production.replica (number, slot, name, chain, seq, head, at, last, beat)
        SELECT number + n, slot + n, 'gone', chain || n, seq, head, at, last, beat
        FROM (SELECT * FROM production.replica ORDER BY number DESC LIMIT 1) r, generate_series(1, 2) n";
    cluster.sql("countersign", others).unwrap();
    let dump = dumped(&cluster, &house);
    house.bank.clear_faults();
    cluster.sql("countersign", "UPDATE production.replica SET ended = TRUE WHERE name = 'gone'").unwrap();
    paid(&house, "lost").await;
    house.gateway.stop();
    put_back(&cluster, &dump);
    let mut recover = countersign();
    recover.args(["recover", "--accept-repeats", "--accept-rights", "--store", &url, "--config"]);
    let recovered = told(&succeed(recover.arg(house.path().join("countersign.toml"))));
    assert!(recovered.contains("8 have their last word now, 0 are open"), "{recovered}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_to_a_moment_is_found_out_and_recovered() {
    let Some((folder, binaries)) = place() else { return };
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("archive")).unwrap();
    fs::set_permissions(at("archive"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let archived = |command: &str, from: &str, to: &str| format!("{command}=cp {from} {to}");
    let file = |name: &str| at("archive").join(name).display().to_string();
    let archive = archived("archive_command", "%p", &file("%f"));
    let mut first = Cluster::start(&binaries, &at("a"), &["archive_mode=on", &archive]).unwrap();
    let url =
        format!("postgres:///postgres?host={}&host={}&user=postgres", at("a").display(), at("b").display());
    let mut house = on(&url).await;
    first.backup(&at("b")).unwrap();
    paid(&house, "before").await;
    first.sql("postgres", "SELECT pg_create_restore_point('drill')").unwrap();
    paid(&house, "lost").await;
    house.gateway.stop();
    // What is not archived yet is when it ends.
    first.sql("postgres", "SELECT pg_switch_wal()").unwrap();
    first.stop(End::Fast);
    let restore = archived("restore_command", &file("%f"), "%p");
    let settings = [&*restore, "recovery_target_name=drill", "recovery_target_action=promote"];
    let _restored = first.restored(&at("b"), &settings).unwrap();
    is_found_out_and_recovered(&mut house, &url).await;
}
