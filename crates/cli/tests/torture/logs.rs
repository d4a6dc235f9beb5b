//! Transparency logs between strangers: gateways and witnesses as processes of their own, and a monitor from the outside.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use receipt::log::{Bundle, Note, Signer, Verifier};
use receipt::{Pin, Trust, Verdict};
use serde_json::{Value, json};
use tempfile::TempDir;

use testkit::bank::{Fault, Injection};

use crate::house::{House, ISSUER, Plan, Process, countersign};

/// A witness before it runs: its folder with its key, and where it will listen.
struct Chair {
    folder: TempDir,
    name: &'static str,
    key: Verifier,
    port: u16,
}

impl Chair {
    fn new(name: &'static str) -> Chair {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::generate().unwrap();
        let file = folder.path().join("witness.pkcs8");
        fs::write(&file, signer.to_pkcs8().unwrap()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        // Nobody else is given it as long as it was taken of late.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Chair { folder, name, key: signer.witness(name).unwrap(), port }
    }

    fn at(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn taken(&self, log: &str) -> Process {
        let mut command = countersign();
        command.args(["witness", "--name", self.name, "--log", log, "--listen", &self.at(), "--data-dir"]);
        command.arg(self.folder.path().join("state"));
        fs::create_dir_all(self.folder.path().join("state")).unwrap();
        let key = self.folder.path().join("state/witness.pkcs8");
        if !key.exists() {
            fs::copy(self.folder.path().join("witness.pkcs8"), key).unwrap();
        }
        Process::start(command, &self.folder.path().join("witness.log"))
    }
}

/// A gateway whose log is called after it and cosigned by that witness.
async fn watched_by(origin: &str, chair: &Chair) -> House {
    let config = format!(
        "[log]\norigin = \"{origin}\"\n[[log.witnesses]]\nurl = \"http://{}/\"\nkey = \"{}\"\n",
        chair.at(),
        chair.key
    );
    House::with(Plan { config, reach: vec![chair.at()], ..Plan::default() }).await
}

async fn log_key(house: &House) -> Verifier {
    let said = house.agent().get("/v1/log").await;
    said.body["key"].as_str().unwrap().parse().unwrap()
}

pub(crate) async fn paid(house: &House, key: &str) -> String {
    let said = house.agent().execute(key, &house.payment(&format!("acct-{key}"), "10.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    said.body["receipt_id"].as_str().unwrap().to_owned()
}

/// The bundle of a receipt, as soon as it is there and good enough.
pub(crate) async fn bundle(house: &House, receipt: &str, good: impl Fn(&Bundle) -> bool) -> Bundle {
    for _ in 0..1200 {
        let said = house.agent().get(&format!("/v1/receipts/{receipt}/bundle")).await;
        if said.status == 200 {
            let bundle = Bundle::parse(&said.bytes).unwrap();
            if good(&bundle) {
                return bundle;
            }
        } else {
            assert!(matches!(said.status, 404 | 503), "{}", said.text());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("`{receipt}` never got there: {}", house.log());
}

async fn pin(house: &House, witness: &Verifier) -> Pin {
    let jwks = house.jwks().await;
    let pin = Pin::new(ISSUER, &jwks).and_log(log_key(house).await);
    pin.witnessed(vec![witness.clone()], 1).unwrap()
}

fn verdict(bundle: &Bundle, pin: &Pin) -> Verdict {
    let trust =
        Trust { proof: Some(&bundle.proof), require_inclusion: true, ..Trust::new(pin, &bundle.jwks) };
    receipt::verify(&bundle.receipt, &trust).verdict
}

fn is_cosigned(bundle: &Bundle, witness: &Verifier) -> bool {
    bundle.proof.note.signed_by(witness).unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_watch_each_other_and_a_forked_log_gets_no_cosignature() {
    let (of_a, of_b) = (Chair::new("witness-a.example"), Chair::new("witness-b.example"));
    // The witness that B runs cosigns A's log, and the other way round.
    let (mut a, b) = (watched_by("a.example", &of_b).await, watched_by("b.example", &of_a).await);
    let (key_a, key_b) = (log_key(&a).await, log_key(&b).await);
    assert_eq!((key_a.name(), key_b.name()), ("a.example/default", "b.example/default"));
    let mut at_b = of_b.taken(&key_a.to_string());
    let _at_a = of_a.taken(&key_b.to_string());
    for (house, chair) in [(&a, &of_b), (&b, &of_a)] {
        let receipt = paid(house, "first").await;
        let bundle = bundle(house, &receipt, |bundle| is_cosigned(bundle, &chair.key)).await;
        assert_eq!(verdict(&bundle, &pin(house, &chair.key).await), Verdict::Valid);
        // One that trusts the other operator's witness only believes nothing of it.
        let other = if chair.name == of_a.name { &of_b } else { &of_a };
        assert!(matches!(verdict(&bundle, &pin(house, &other.key).await), Verdict::Invalid(_)));
    }

    // A's operator puts store and marks back, and lets the log go another way.
    a.gateway.stop();
    let data = a.path().join("data");
    let backup = a.path().join("backup");
    copy(&data, &backup);
    a.start();
    let lost = paid(&a, "lost").await;
    bundle(&a, &lost, |bundle| is_cosigned(bundle, &of_b.key)).await;
    a.gateway.stop();
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    at_b.kill();
    // Without its witness nothing there knows that anything is lost, and the log goes another way.
    a.start();
    let mut forked = Vec::new();
    for number in 0..3 {
        forked.push(paid(&a, &format!("other-{number}")).await);
    }
    let pin = pin(&a, &of_b.key).await;
    for receipt in &forked {
        let bundle = bundle(&a, receipt, |_| true).await;
        assert!(!is_cosigned(&bundle, &of_b.key));
        assert!(matches!(verdict(&bundle, &pin), Verdict::Invalid(_)));
    }
    // As soon as it is asked it shows what A signed and has no more, and nothing more is taken on.
    let _at_b = of_b.taken(&key_a.to_string());
    until_not_ready(&a).await;
    let bundle = bundle(&a, &forked[0], |_| true).await;
    assert!(!is_cosigned(&bundle, &of_b.key));
    a.gateway.stop();
    // Nor by a gateway that is started then.
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    a.start();
    assert_eq!(a.admin().get("/readyz").await.status, 503, "{}", a.log());
    a.gateway.stop();
    let told = recover(&a, &["--dry-run"]);
    assert!(!told.status.success() && lines(&told).contains("are lost"), "{}", lines(&told));
}

async fn until_not_ready(house: &House) {
    for _ in 0..2000 {
        if house.admin().get("/readyz").await.status == 503 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{}", house.log());
}

/// The commands that a page gives for something: the lines of its first block of shell that has these words.
fn commands(page: &str, words: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let text = fs::read_to_string(path).unwrap();
    let mut blocks = text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.find(|block| block.contains(words)).unwrap_or_else(|| panic!("{page}: {words}")).to_owned()
}

/// Runs them with the folder and the place for backups that this house has.
fn run(house: &House, commands: &str) {
    let backups = house.path().join("backups");
    fs::create_dir_all(&backups).unwrap();
    let data = house.path().join("data");
    let commands = commands
        .replace("/var/lib/countersign", data.to_str().unwrap())
        .replace("/backups", backups.to_str().unwrap());
    let done = std::process::Command::new("sh").args(["-euc", &commands]).output().unwrap();
    assert!(done.status.success(), "{commands}\n{}", lines(&done));
}

/// What the page on operations says, to the letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_by_the_documented_commands_is_found_out() {
    let mut house = House::new().await;
    let before = paid(&house, "before").await;
    bundle(&house, &before, |_| true).await;
    house.gateway.stop();
    run(&house, &commands("operations.md", "--exclude"));
    house.start();
    let lost = paid(&house, "lost").await;
    bundle(&house, &lost, |_| true).await;
    house.gateway.stop();
    run(&house, &commands("operations.md", "tar -x"));
    house.start();
    assert_eq!(house.admin().get("/readyz").await.status, 503, "{}", house.log());
    house.gateway.stop();
    let told = recover(&house, &ACCEPTED);
    assert!(told.status.success(), "{}", lines(&told));
    house.start();
    assert_eq!(house.admin().get("/readyz").await.status, 200);
}

/// The store of an earlier version: the new one brings it up to date when it starts, and all that was there is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_by_the_drill_keeps_everything() {
    let mut house = House::new().await;
    let body = house.payment("acct-before", "10.00");
    let before = house.agent().execute("before", &body).await;
    house.gateway.stop();
    // As it was before there were logs.
    let earlier = "DROP TABLE log; DROP TABLE log_tile; DROP TABLE log_leaf; DROP TABLE log_name;
                   DELETE FROM meta WHERE name = 'logged'; DELETE FROM refinery_schema_history WHERE version > 16";
    for store in ["production.db", "sandbox.db"] {
        let store = rusqlite::Connection::open(house.path().join("data").join(store)).unwrap();
        store.execute_batch(earlier).unwrap();
    }
    fs::remove_dir_all(house.path().join("data/marks")).unwrap();
    run(&house, &commands("operations.md", "--exclude"));
    house.start();
    assert_eq!(house.admin().get("/readyz").await.status, 200, "{}", house.log());
    let again = house.agent().execute("before", &body).await;
    assert!(again.replayed() && again.bytes == before.bytes, "{}", again.text());
    let after = paid(&house, "after").await;
    bundle(&house, &after, |_| true).await;
    // What was done before is logged, too.
    bundle(&house, before.body["receipt_id"].as_str().unwrap(), |_| true).await;
    let pin = house.path().join("pin.json");
    fs::write(&pin, Pin::new(ISSUER, &house.jwks().await).and_log(log_key(&house).await).to_text()).unwrap();
    assert_eq!(found(&monitor(&house, &pin, &[])), [""; 0]);
    let auditor = house.voice("default", "auditor");
    let mut verify = countersign();
    verify.env("COUNTERSIGN_API_KEY", auditor.key.unwrap()).args(["audit", "verify", "--url", &auditor.url]);
    let verified = verify.output().unwrap();
    assert!(verified.status.success() && lines(&verified).contains("all there"), "{}", lines(&verified));
}

/// The file of the store alone, as a backup of the database has it.
pub(crate) fn put_back(house: &House, backup: &Path) {
    let store = house.path().join("data/production.db");
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{end}", store.display()));
    }
    fs::copy(backup, store).unwrap();
}

pub(crate) fn recover(house: &House, more: &[&str]) -> Output {
    let config = house.path().join("countersign.toml");
    countersign().args(["recover", "--config"]).arg(config).args(more).output().unwrap()
}

pub(crate) const ACCEPTED: [&str; 2] = ["--accept-repeats", "--accept-rights"];

pub(crate) fn lines(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// A backup from before some payments, one of which was under way, is put back: nothing happens until the store is recovered, and
/// nothing is paid twice when their callers ask again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_nothing_is_taken_on_before_it_is_recovered_and_nothing_is_paid_twice() {
    let mut house = House::new().await;
    paid(&house, "before").await;
    // Sent, with its effect, and without an answer when the backup is made.
    house.bank.inject(Injection::payments(Fault::DelayAnswer { ms: 60_000 }, 1));
    house.bank.inject(Injection::queries(Fault::LostBeforeEffect, 1000));
    let (voice, body) = (house.agent(), house.payment("acct-under-way", "10.00"));
    let under_way = tokio::spawn(async move { voice.try_execute("under-way", &body).await });
    while house.bank.effects().count < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    house.gateway.kill();
    let _ = under_way.await;
    let (store, backup) = (house.path().join("data/production.db"), house.path().join("backup.db"));
    rusqlite::Connection::open(&store)
        .unwrap()
        .execute("VACUUM INTO ?1", [backup.to_str().unwrap()])
        .unwrap();
    house.start();
    let mut lost = Vec::new();
    for number in 0..5 {
        lost.push(paid(&house, &format!("lost-{number}")).await);
    }
    let kept = bundle(&house, lost.last().unwrap(), |_| true).await;
    house.gateway.stop();
    let effects = house.bank.effects();
    assert_eq!(effects.count, 7);

    put_back(&house, &backup);
    house.start();
    // What is there can be read, and nothing is taken on, asked after or logged.
    let admin = house.admin();
    assert_eq!(admin.get("/readyz").await.status, 503);
    assert_eq!(admin.get("/v1/audit").await.status, 200);
    for number in 0..5 {
        let key = format!("lost-{number}");
        let said = house.agent().execute(&key, &house.payment(&format!("acct-{key}"), "10.00")).await;
        assert_eq!((said.status, said.code()), (503, "EP_UNAVAILABLE"), "{}", said.text());
    }
    assert_eq!(house.admin().post("/v1/freeze", &serde_json::json!({})).await.status, 503);
    assert_eq!(house.bank.effects().count, 7);
    house.gateway.stop();

    // Nor does whoever holds the folder change anything there.
    let mut rotate = countersign();
    let rotated = rotate
        .args(["keys", "rotate", "--config"])
        .arg(house.path().join("countersign.toml"))
        .output()
        .unwrap();
    assert!(
        !rotated.status.success() && lines(&rotated).contains("countersign recover"),
        "{}",
        lines(&rotated)
    );
    house.bank.clear_faults();
    let told = recover(&house, &["--dry-run"]);
    assert!(!told.status.success() && lines(&told).contains("are lost"), "{}", lines(&told));
    house.start();
    assert_eq!(house.admin().get("/readyz").await.status, 503, "a dry run changes nothing");
    house.gateway.stop();
    // What may go wrong afterwards is said, and wants a yes for each. A bank that can be asked is asked before anything is sent.
    let catalogue = house.path().join("catalogue/default/payment.toml");
    let queryable = fs::read_to_string(&catalogue).unwrap();
    fs::write(&catalogue, queryable.replace("by_our_reference = true", "by_our_reference = false")).unwrap();
    for (more, missing) in [
        (&ACCEPTED[..0], "might be done twice, and what was revoked or frozen is in force again"),
        (&ACCEPTED[..1], "what was revoked or frozen is in force again"),
        (&ACCEPTED[1..], "what was lost might be done twice"),
    ] {
        let told = recover(&house, more);
        // However wide it is printed.
        let said = lines(&told).replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!told.status.success() && said.contains(missing), "{said}");
        for why in ["default/PAYMENT_TRANSFER", "done by a later attempt", "in force again: API keys"] {
            assert!(said.contains(why), "{why}: {said}");
        }
    }
    fs::write(&catalogue, queryable).unwrap();
    let told = recover(&house, &ACCEPTED[1..]);
    assert!(told.status.success() && !lines(&told).contains("PAYMENT_TRANSFER"), "{}", lines(&told));
    assert!(lines(&told).contains("1 have their last word now, 0 are open"), "{}", lines(&told));
    assert!(lines(&recover(&house, &[])).contains("nothing to recover"));

    house.start();
    assert_eq!(house.admin().get("/readyz").await.status, 200);
    let name = log_key(&house).await;
    assert!(name.name().starts_with("gw.example/log/default/epoch-17"), "{}", name.name());
    for key in ["before", "under-way"] {
        let said = house.agent().insist(key, &house.payment(&format!("acct-{key}"), "10.00")).await;
        assert_eq!(said.kind(), "executed", "{key}: {}", said.text());
    }
    // The bank is asked before anything is sent to it, and says that it has done this.
    for number in 0..5 {
        let key = format!("lost-{number}");
        let body = house.payment(&format!("acct-{key}"), "10.00");
        let said = house.agent().insist_after_recovery(&key, &body).await;
        assert_eq!(said.kind(), "executed", "{key}: {}", said.text());
    }
    assert_eq!(house.bank.effects(), effects, "nothing was paid twice");
    // What was signed of the old log is evidence of what is gone, and what is there is logged again.
    let jwks = house.jwks().await;
    let old = Pin::new(ISSUER, &jwks).and_log(
        Signer::from_pkcs8(&fs::read(house.path().join("data/keys/production/log.pkcs8")).unwrap())
            .unwrap()
            .log("gw.example/log/default")
            .unwrap(),
    );
    assert_eq!(verdict(&kept, &old), Verdict::Valid);
    let said = house.agent().insist_after_recovery("again", &house.payment("acct-again", "10.00")).await;
    let again = said.body["receipt_id"].as_str().unwrap().to_owned();
    let new = Pin::new(ISSUER, &jwks).and_log(name);
    assert_eq!(verdict(&bundle(&house, &again, |_| true).await, &new), Verdict::Valid);
    let sql = "SELECT count(*) FROM entry WHERE instr(CAST(bytes AS TEXT), 'store_recovered') > 0";
    let recovered: i64 =
        rusqlite::Connection::open(&store).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(recovered, 2, "one in the log of each tenant");
}

fn copy(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// `countersign audit verify --log`, with more words.
fn monitor(house: &House, pin: &Path, more: &[&str]) -> Output {
    let auditor = house.voice("default", "auditor");
    let mut command = countersign();
    command.env("COUNTERSIGN_API_KEY", auditor.key.unwrap());
    command
        .args(["audit", "verify", "--json", "--log", &format!("{}/log", auditor.url), "--issuer"])
        .arg(pin);
    command.args(more).output().unwrap()
}

/// Whether a statement was held against the log, and is true.
fn held(output: &Output) -> Value {
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["statement"].clone()
}

/// What it found, if it got as far as that.
fn found(output: &Output) -> Vec<String> {
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let found = said["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap().to_owned())
        .collect::<Vec<_>>();
    assert_eq!(output.status.success(), found.is_empty());
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_reads_the_log_and_names_what_is_not_as_it_was_told() {
    let mut house = House::new().await;
    let mut files = Vec::new();
    let folder = house.path().to_owned();
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for number in 0..3 {
        let receipt = paid(&house, &format!("k-{number}")).await;
        let bundle = bundle(&house, &receipt, |_| true).await;
        files.push(file(&format!("receipt-{number}.json")));
        fs::write(files.last().unwrap(), &bundle.receipt).unwrap();
    }
    let jwks = house.jwks().await;
    fs::write(folder.join("jwks.json"), house.nobody().get("/.well-known/jwks.json").await.bytes).unwrap();
    let pin = folder.join("pin.json");
    fs::write(&pin, Pin::new(ISSUER, &jwks).and_log(log_key(&house).await).to_text()).unwrap();
    let (checkpoint, jwks) = (file("log.checkpoint"), file("jwks.json"));

    let mut all = vec!["--keep", &checkpoint, "--jwks", &jwks, "--receipts"];
    all.extend(files.iter().map(String::as_str));
    assert_eq!(found(&monitor(&house, &pin, &all)), [""; 0]);
    let before = Note::parse(&fs::read_to_string(&checkpoint).unwrap()).unwrap();
    let later = paid(&house, "later").await;
    bundle(&house, &later, |_| true).await;
    assert_eq!(found(&monitor(&house, &pin, &["--from", &checkpoint, "--keep", &checkpoint])), [""; 0]);
    assert_ne!(Note::parse(&fs::read_to_string(&checkpoint).unwrap()).unwrap().text(), before.text());

    // A pin without the log, and a checkpoint that is nobody's, are refused.
    let bare = folder.join("bare.json");
    fs::write(&bare, Pin::new(ISSUER, &house.jwks().await).to_text()).unwrap();
    assert!(monitor(&house, &bare, &[]).stdout.is_empty());
    let forged = file("forged.checkpoint");
    fs::write(&forged, fs::read_to_string(&checkpoint).unwrap().replacen("gw.example", "gx.example", 1))
        .unwrap();
    assert!(monitor(&house, &pin, &["--from", &forged]).stdout.is_empty());
    // Agents read no log.
    let agent = house.agent();
    let mut command = countersign();
    command.env("COUNTERSIGN_API_KEY", agent.key.unwrap()).args(["audit", "verify", "--log"]);
    let refused = command.arg(format!("{}/log", agent.url)).arg("--issuer").arg(&pin).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("EP_FORBIDDEN"));

    // Whoever has the store alters a leaf, a hash, or a time.
    house.gateway.stop();
    let store = folder.join("data/production.db");
    let good = fs::read(&store).unwrap();
    for (sql, what) in [
        (leaf_two("substr(leaves, 1, at) || zeroblob(74) || substr(leaves, at + 75)"), "is none"),
        (leaf_two("substr(leaves, 1, at + 73) || x'00' || substr(leaves, at + 75)"), "do not have the root"),
        (leaf_two("substr(leaves, 1, at)"), "EP_UNAVAILABLE"),
        ("DELETE FROM log_leaf".to_owned(), "EP_UNAVAILABLE"),
    ] {
        rusqlite::Connection::open(&store).unwrap().execute_batch(&sql).unwrap();
        house.start();
        let found = found(&monitor(&house, &pin, &[]));
        assert!(found.iter().any(|it| it.contains(what)), "{sql}: {found:?}");
        house.gateway.kill();
        for end in ["-wal", "-shm"] {
            let _ = fs::remove_file(folder.join(format!("data/production.db{end}")));
        }
        fs::write(&store, &good).unwrap();
    }
    house.start();
    assert_eq!(found(&monitor(&house, &pin, &["--from", &checkpoint])), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_that_wants_a_witness_finds_one_while_the_log_grows() {
    let chair = Chair::new("witness.example");
    let house = watched_by("a.example", &chair).await;
    let _witness = chair.taken(&log_key(&house).await.to_string());
    let receipt = paid(&house, "first").await;
    bundle(&house, &receipt, |bundle| is_cosigned(bundle, &chair.key)).await;
    let file = house.path().join("pin.json");
    fs::write(&file, pin(&house, &chair.key).await.to_text()).unwrap();
    let (agent, payment) = (house.agent(), house.payment("acct-0", "10.00"));
    let grows = tokio::spawn(async move {
        for number in 0.. {
            let mut payment = payment.clone();
            payment["constraints"]["recipient"] = format!("acct-{number}").into();
            let _ = agent.try_execute(&format!("grows-{number}"), &payment).await;
        }
    });
    let seen = house.path().join("seen.checkpoint");
    let seen = seen.to_str().unwrap();
    assert_eq!(found(&monitor(&house, &file, &["--keep", seen])), [""; 0]);
    let size = || {
        let note = Note::parse(&fs::read_to_string(seen).unwrap()).unwrap();
        note.text().lines().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // Each time that it is asked anew the log has grown, or is about to.
    let (mut last, mut grew) = (size(), 0);
    for _ in 0..1000 {
        assert_eq!(found(&monitor(&house, &file, &["--from", seen, "--keep", seen])), [""; 0]);
        grew += u32::from(size() > last);
        last = size();
        if grew == 5 {
            break;
        }
    }
    assert_eq!(grew, 5, "it did not grow: {}", house.log());
    grows.abort();
    // A pin that wants somebody else is not met by waiting.
    fs::write(&file, pin(&house, &Chair::new("other.example").key).await.to_text()).unwrap();
    let refused = monitor(&house, &file, &[]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.stdout.is_empty() && why.contains("0 of the witnesses pinned cosigned"), "{why}");
    let wrong = house.voice("default", "auditor").get("/log/checkpoint?leaves=many").await;
    assert_eq!((wrong.status, wrong.code()), (422, "EP_VALIDATION_FAILED"), "{}", wrong.text());
}

/// Alters the row that has the third leaf; `at` is where that begins in it.
fn leaf_two(leaves: &str) -> String {
    format!(
        "WITH it AS (SELECT first, (2 - first) * 82 + 8 AS at FROM log_leaf
                     WHERE tenant = 'default' AND first <= 2 ORDER BY first DESC LIMIT 1)
         UPDATE log_leaf SET leaves = CAST({leaves} AS BLOB) FROM it
         WHERE tenant = 'default' AND log_leaf.first = it.first"
    )
}

/// Nobody waits a day in a test: what is due is said by leaves, so a log is made whose leaves say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_without_its_end_is_found_and_so_is_a_receipt_that_was_left_out() {
    let mut house = House::new().await;
    let first = paid(&house, "first").await;
    bundle(&house, &first, |_| true).await;
    let left_out = paid(&house, "left-out").await;
    let kept = bundle(&house, &left_out, |_| true).await;
    let folder = house.path().to_owned();
    let jwks = house.jwks().await;
    let pin = folder.join("pin.json");
    fs::write(&pin, Pin::new(ISSUER, &jwks).and_log(log_key(&house).await).to_text()).unwrap();
    fs::write(folder.join("left-out.json"), &kept.receipt).unwrap();
    let key_set = folder.join("jwks.json");
    fs::write(&key_set, house.nobody().get("/.well-known/jwks.json").await.bytes).unwrap();

    // The operator has the log made anew, without that receipt and with an intent of three days ago.
    house.gateway.stop();
    fs::remove_dir_all(folder.join("data/marks")).unwrap();
    another_log(&folder.join("data/production.db"));
    house.start();
    let auditor = house.voice("default", "auditor");
    for _ in 0..1000 {
        if auditor.get("/log/checkpoint").await.status != 404 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let said = monitor(&house, &pin, &[]);
    let found_now = found(&said);
    assert_eq!(found_now.len(), 1, "{found_now:?}");
    assert!(found_now[0].contains("begins what has no end"), "{found_now:?}");
    let with =
        ["--jwks", key_set.to_str().unwrap(), "--receipts", folder.join("left-out.json").to_str().unwrap()]
            .map(str::to_owned);
    let with: Vec<&str> = with.iter().map(String::as_str).collect();
    let found_now = found(&monitor(&house, &pin, &with));
    // Its promise is not over yet, but it names a checkpoint that this log does not have.
    assert!(found_now.iter().any(|it| it.contains("left-out.json")), "{found_now:?}");
}

/// Grows the log of the first tenant again from nothing: one leaf, an intent that was due long ago.
fn another_log(store: &Path) {
    use receipt::log::{Edge, Leaf, LeafKind, leaf_hash};
    let day = 24;
    let now = u32::try_from(jiff::Timestamp::now().as_second() / 3600).unwrap();
    let leaf = Leaf {
        kind: LeafKind::Intent,
        action_ref: [7; 32],
        hour: now - 3 * day,
        due_by: now - 2 * day,
        commitment: [9; 32],
    };
    let mut edge = Edge::default();
    edge.push(leaf_hash(&leaf.to_bytes()), |_, _| ());
    let db = rusqlite::Connection::open(store).unwrap();
    db.execute_batch("DELETE FROM log_leaf; DELETE FROM log_tile").unwrap();
    db.execute("UPDATE log SET size = 1, root = ?1 WHERE tenant = 'default'", [edge.root()]).unwrap();
    db.execute("DELETE FROM log WHERE tenant <> 'default'", []).unwrap();
    let row = [&1_i64.to_be_bytes()[..], &leaf.to_bytes()].concat();
    db.execute("INSERT INTO log_leaf VALUES ('default', 0, 1, ?1)", [row]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_of_a_period_that_is_not_over() {
    let house = House::new().await;
    let receipt = paid(&house, "k").await;
    bundle(&house, &receipt, |_| true).await;
    let auditor = house.voice("default", "auditor");
    let hour = |hours: i64| {
        let at = jiff::Timestamp::now().as_second() / 3600 + hours;
        jiff::Timestamp::from_second(at * 3600).unwrap().to_string()
    };
    for (from, until) in
        [(hour(-1), hour(1)), (hour(-1), hour(-1)), (hour(-1), hour(-2)), ("now".to_owned(), hour(-1))]
    {
        let said = auditor.get(&format!("/v1/log/completeness?from={from}&until={until}")).await;
        assert_eq!((said.status, said.code()), (422, "EP_VALIDATION_FAILED"), "{}", said.text());
    }
    let said = auditor.get(&format!("/v1/log/completeness?from={}&until={}", hour(-5), hour(-2))).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let note = Note::parse(&said.text()).unwrap();
    let stated = receipt::log::Completeness::signed(&note, &log_key(&house).await).unwrap();
    assert_eq!((stated.counts.receipts(), stated.ends), (0, 0));
    assert_eq!(stated.to_string(), note.text());
    // A statement that is not true of what can be read is found out.
    let folder = house.path();
    let pin = folder.join("pin.json");
    fs::write(&pin, Pin::new(ISSUER, &house.jwks().await).and_log(log_key(&house).await).to_text()).unwrap();
    fs::write(folder.join("statement"), said.text()).unwrap();
    let statement = folder.join("statement");
    let checked = monitor(&house, &pin, &["--statement", statement.to_str().unwrap()]);
    assert_eq!((found(&checked), held(&checked)), (vec![], json!(true)));
    assert_eq!(held(&monitor(&house, &pin, &[])), json!(null), "there was none to look at");
    let key = fs::read(folder.join("data/keys/production/log.pkcs8")).unwrap();
    let lie = format!(
        "{}intent 3\n{}",
        note.text().split("intent 0\n").next().unwrap(),
        note.text().split("intent 0\n").nth(1).unwrap()
    );
    let lie = Signer::from_pkcs8(&key).unwrap().state(&lie.parse().unwrap()).unwrap();
    fs::write(folder.join("statement"), lie.to_string()).unwrap();
    let checked = monitor(&house, &pin, &["--statement", statement.to_str().unwrap()]);
    let found_now = found(&checked);
    assert!(found_now[0].contains("is not true"), "{found_now:?}");
    assert_eq!(held(&checked), json!(false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_providers_statement_is_matched_both_ways() {
    let house = House::new().await;
    let mut receipt = String::new();
    for number in 0..3 {
        receipt = paid(&house, &format!("k-{number}")).await;
    }
    bundle(&house, &receipt, |_| true).await;
    keep_pin(&house).await;
    let paid: Vec<String> = house.bank.effects().by_reference.into_keys().collect();
    let asked = |url: &str, lines: &[(&str, &str, &str)]| found(&reconcile(&house, url, lines, &[]));
    let url = house.voice("default", "auditor").url;
    let reconciled = |lines: &[(&str, &str, &str)]| asked(&url, lines);
    let all: Vec<_> = paid.iter().map(|id| (id.as_str(), "10.00", "USD")).collect();
    assert_eq!(reconciled(&all), [""; 0]);
    // Paid in two parts, and one part given back and paid again.
    let parts = [&all[..2], &[(&paid[2], "4", "USD"), (&paid[2], "6.00", "usd")]].concat();
    assert_eq!(reconciled(&parts), [""; 0]);
    let one = |lines: &[(&str, &str, &str)], says: &str| {
        let found = reconciled(lines);
        assert!(found.len() == 1 && found[0].contains(says), "{says}: {found:?}");
    };
    let record = house.agent().get(&format!("/v1/actions/{}", paid[2])).await.body;
    let last = record["action_id"].as_str().unwrap();
    one(&all[..2], &format!("action {last}: the statement has nothing, the log 10.00 USD"));
    one(
        &[&all[..], &[("elsewhere", "5.00", "USD")]].concat(),
        "line 5, action elsewhere: the log knows of no such action",
    );
    one(
        &[&all[..2], &[(&paid[2], "10.01", "USD")]].concat(),
        "the statement has 10.01 USD, the log 10.00 USD",
    );
    one(
        &[&all[..2], &[(&paid[2], "10.00", "EUR")]].concat(),
        "the statement has 10.00 EUR, the log 10.00 USD",
    );
    one(&[&all[..], &[all[2]]].concat(), "the statement has 20.00 USD, the log 10.00 USD");
    // As many banks print them.
    let upper: Vec<String> = paid.iter().map(|id| id.to_uppercase()).collect();
    let upper: Vec<_> = upper.iter().map(|id| (id.as_str(), "10.00", "USD")).collect();
    assert_eq!(reconciled(&upper), [""; 0]);
    // What is hidden, put beside a payment that is in no line, of as much: no receipt of that has this name.
    let hidden = format!("{}-1", "f".repeat(40));
    let lying = format!("http://{}", renaming(&url, hidden[..40].to_owned(), paid[2].clone()));
    let beside = asked(&lying, &[&all[..2], &[(&hidden, "10.00", "USD")]].concat());
    assert!(beside.len() == 1 && beside[0].contains("no receipt of it does"), "{beside:?}");
    assert_eq!(asked(&lying, &all), [""; 0]);
    // Of which nobody knows what became, and which is in no line.
    house.bank.inject(Injection::payments(Fault::LostAfterEffect, 1000));
    house.bank.inject(Injection::queries(Fault::LostBeforeEffect, 1000));
    let said = house.agent().execute("doubt", &house.payment("acct-doubt", "10.00")).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.text());
    one(&all, &format!("action {}: it is not known what became of it", said.id()));
}

/// Puts the pin of a house where `reconcile` finds it.
async fn keep_pin(house: &House) {
    let pin = Pin::new(ISSUER, &house.jwks().await).and_log(log_key(house).await);
    fs::write(house.path().join("pin.json"), pin.to_text()).unwrap();
}

/// What `countersign audit reconcile` says of a statement with these lines.
fn reconcile(house: &House, url: &str, lines: &[(&str, &str, &str)], more: &[&str]) -> Output {
    let file = house.path().join("statement.csv");
    let rows =
        lines.iter().map(|(reference, amount, currency)| format!("x,{reference},\"{amount}\",{currency}\n"));
    fs::write(&file, format!("date,reference,amount,currency\n{}", rows.collect::<String>())).unwrap();
    let mut command = countersign();
    command.env("COUNTERSIGN_API_KEY", house.voice("default", "auditor").key.unwrap());
    command
        .args(["audit", "reconcile", "--json", "--url", url, "--issuer"])
        .arg(house.path().join("pin.json"));
    command.arg("--statement").arg(file).args(more).output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_of_one_provider_is_held_against_what_that_one_did() {
    let catalogue = vec![("odd.toml", include_str!("odd_payment.toml").to_owned())];
    let house = House::with(Plan { catalogue, ..Plan::default() }).await;
    let mut odd = house.payment("acct-odd", "5.00");
    odd["archetype"] = json!("ODD_PAYMENT");
    let said = house.agent().execute("odd", &odd).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    let record = house.agent().get(&format!("/v1/actions/{}", said.id())).await.body;
    let odd = record["attempts"][0]["reference"].as_str().unwrap();
    let receipt = paid(&house, "k").await;
    bundle(&house, &receipt, |_| true).await;
    keep_pin(&house).await;
    let paid: Vec<String> = house.bank.effects().by_reference.into_keys().collect();
    let (of_bank, of_other) = ((&*paid[0], "10.00", "USD"), (odd, "5.00", "USD"));
    let url = house.voice("default", "auditor").url;
    let asked = |lines: &[(&str, &str, &str)], more: &[&str]| {
        let output = reconcile(&house, &url, lines, more);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        (found(&output), said["left_out"].clone())
    };
    // Where nobody says whose statement it is, it has to have all.
    let (findings, left_out) = asked(&[of_bank], &[]);
    assert!(findings.len() == 1 && findings[0].contains(said.id()), "{findings:?}");
    assert_eq!((left_out, asked(&[of_bank, of_other], &[]).0), (json!({}), vec![]));
    assert_eq!(asked(&[of_bank], &["--provider", "bank"]), (vec![], json!({"sandbox": 1})));
    assert_eq!(asked(&[of_other], &["--provider", "sandbox"]), (vec![], json!({"bank": 1})));
    // Nothing was compared where the name is misspelt.
    let (findings, left_out) = asked(&[], &["--provider", "bnak"]);
    assert!(findings.len() == 1 && findings[0].contains("the provider `bnak`"), "{findings:?}");
    assert_eq!(left_out, json!({"bank": 1, "sandbox": 1}));
    // What another one did explains no line of its statement.
    let (findings, _) = asked(&[of_bank, of_other], &["--provider", "bank"]);
    assert!(findings.len() == 1 && findings[0].contains("it was sent to `sandbox`"), "{findings:?}");
    // What is in doubt is so of whom it was sent to.
    house.bank.inject(Injection::payments(Fault::LostAfterEffect, 1000));
    house.bank.inject(Injection::queries(Fault::LostBeforeEffect, 1000));
    let doubt = house.agent().execute("doubt", &house.payment("acct-doubt", "10.00")).await;
    assert_eq!(doubt.kind(), "pending_settlement", "{}", doubt.text());
    assert_eq!(asked(&[of_other], &["--provider", "sandbox"]), (vec![], json!({"bank": 2})));
    let (findings, _) = asked(&[of_bank], &["--provider", "bank"]);
    assert!(findings.len() == 1 && findings[0].contains(doubt.id()), "{findings:?}");
}

/// A gateway that says of one name what it has to say of another one; where it answers.
fn renaming(url: &str, name: String, other: String) -> std::net::SocketAddr {
    let gateway = url.strip_prefix("http://").unwrap().to_owned();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut asked) = (stream.unwrap(), Vec::new());
            // Nothing that is asked here has a body.
            while !asked.ends_with(b"\r\n\r\n") {
                let mut more = [0; 4096];
                let read = stream.read(&mut more).unwrap();
                assert_ne!(read, 0, "it broke off");
                asked.extend_from_slice(&more[..read]);
            }
            let asked = String::from_utf8(asked).unwrap().replace(&name, &other);
            let asked = asked.replacen("\r\n", "\r\nconnection: close\r\n", 1);
            let mut behind = std::net::TcpStream::connect(&gateway).unwrap();
            behind.write_all(asked.as_bytes()).unwrap();
            std::io::copy(&mut behind, &mut stream).unwrap();
        }
    });
    at
}
