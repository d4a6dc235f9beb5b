//! `countersign run` against a real gateway: the command starts only when it is decided and on record, what came of it is
//! known to the gateway whatever dies meanwhile, and it never runs twice where it must not.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use receipt::Verdict;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use crate::house::{House, Plan, Voice, countersign, verdict};

/// Safe to repeat, and tried again.
const JOB: &str = include_str!("job.toml");

fn again() -> String {
    JOB.replace("LEVEL", "atp-2") + "\n[binding.capabilities]\nrepeat_safe = true\n"
}

/// Never run twice.
fn once() -> String {
    JOB.replace("LEVEL", "atp-1").replace("\"JOB\"", "\"ONCE\"")
}

/// Recognises its key.
fn keyed() -> String {
    let text = JOB.replace("LEVEL", "atp-2").replace("\"JOB\"", "\"KEYED\"");
    text + "\n[binding.capabilities]\nidempotent = { retention_seconds = 86400 }\n"
}

/// Safe to repeat, after a pause that no test lives to see the end of.
fn patient() -> String {
    let text = again().replace("\"JOB\"", "\"PATIENT\"");
    text.replace("_delay_seconds = 0", "_delay_seconds = 86400")
}

/// Held for a person.
fn asked() -> String {
    let text = JOB.replace("LEVEL", "atp-1").replace("\"JOB\"", "\"ASKED\"");
    text.replace("approval = \"key\"", "approval = \"key\"\nrequires_approval = true")
}

async fn house() -> House {
    house_at(None).await
}

async fn house_at(listen: Option<SocketAddr>) -> House {
    let plan = Plan {
        config: "[limits]\nrecovery_interval_ms = 20\n[sandbox]\nenabled = false\n".into(),
        catalogue: vec![
            ("job.toml", again()),
            ("once.toml", once()),
            ("keyed.toml", keyed()),
            ("patient.toml", patient()),
            ("asked.toml", asked()),
        ],
        listen,
        ..Plan::default()
    };
    House::with(plan).await
}

impl House {
    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The command line, with the agent's key where a careful person puts it.
    fn start_run(&self, args: &[&str], words: &[&str]) -> Child {
        let agent = self.agent();
        let mut command = countersign();
        command.env("COUNTERSIGN_URL", &agent.url).env("COUNTERSIGN_API_KEY", agent.key.unwrap());
        command.arg("run").args(args).arg("--").args(words).current_dir(self.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn runs(&self, args: &[&str], script: &str) -> Child {
        self.start_run(args, &["sh", "-c", script])
    }

    async fn ran(&self, args: &[&str], script: &str) -> Ran {
        Ran::of(self.runs(args, script)).await
    }

    /// Waits until a command has left its mark.
    async fn mark(&self, name: &str) -> String {
        for _ in 0..1000 {
            if let Ok(text) = fs::read_to_string(self.file(name))
                && !text.is_empty()
            {
                return text;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("no {name}: {}", self.log())
    }

    /// The record of the action under this key.
    async fn record(&self, archetype: &str, id: &str) -> Value {
        let record = self.agent().get(&format!("/v1/actions/{id}")).await;
        assert_eq!((record.status, &record.body["archetype"]), (200, &json!(archetype)), "{}", record.text());
        record.body
    }

    async fn until(&self, id: &str, state: &str, doubted: bool) -> Value {
        for _ in 0..1000 {
            let record = self.agent().get(&format!("/v1/actions/{id}")).await.body;
            let is_doubted = record["response"]["kind"] == "pending_settlement";
            if record["result"]["state"] == state && is_doubted == doubted {
                return record;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{id} is never {state}: {}", self.log())
    }
}

/// What a run came to.
struct Ran {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ran {
    async fn of(child: Child) -> Ran {
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        Ran { code: status.code().unwrap_or(-1), stdout, stderr }
    }

    /// The answer that `--json` prints last.
    fn answer(&self) -> Value {
        let text = String::from_utf8_lossy(&self.stdout);
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|_| panic!("no answer: {text}{}", self.stderr))
    }

    fn id(&self) -> String {
        self.answer()["transaction_id"].as_str().unwrap().to_owned()
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Ends a process without a word.
fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_as_an_action_and_its_receipt_says_how_it_went() {
    let house = house().await;
    let script = "printf 'a\\nb'; printf 'oh' >&2; env > env.txt; exit 3";
    let args = ["--archetype", "JOB", "--constraint", "job=nightly", "--output", "tail", "--json"];
    let ran = house.ran(&args, script).await;
    assert_eq!(ran.code, 3, "3 is one of the codes that mean done: {}", ran.stderr);
    assert!(
        ran.stdout.starts_with(b"a\nb\n{"),
        "what it writes passes through, and the answer begins a line"
    );
    assert!(ran.stderr.starts_with("oh\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("countersign: executed · exit 3 after "), "{}", ran.stderr);
    let record = house.record("JOB", &ran.id()).await;
    assert_eq!(record["result"]["state"], "COMPLETED");
    let told = &record["result"]["confirmation"]["answer"];
    assert_eq!((&told["exit_code"], &told["signal"]), (&json!(3), &Value::Null), "{told}");
    assert_eq!((&told["stdout_sha256"], &told["stdout_bytes"]), (&json!(sha256(b"a\nb")), &json!(3)));
    assert_eq!((&told["stderr_sha256"], &told["stderr_bytes"]), (&json!(sha256(b"oh")), &json!(2)));
    assert!(told["duration_ms"].is_u64());
    let tail = told["untrusted_text"].as_str().unwrap();
    assert!(tail.contains("a\nb") && tail.contains("oh"), "{tail}");
    let parameters = &record["action"]["parameters"];
    assert!(parameters["program"].as_str().unwrap().ends_with("/sh"));
    assert_eq!(parameters["arguments"], json!(["-c", script]));
    assert_eq!(parameters["directory"], house.path().to_str().unwrap());
    let receipts = record["receipts"].as_array().unwrap();
    assert_eq!((receipts.len(), &receipts[0]["event_type"]), (1, &json!("ORIGINAL")), "{record}");
    let receipt =
        house.agent().get(&format!("/v1/receipts/{}", receipts[0]["receipt_id"].as_str().unwrap())).await;
    assert_eq!(verdict(&receipt.bytes, &house.jwks().await), Verdict::Valid);

    // Sent once and never again: the record says all the same when, and what became of it.
    let attempt = &record["attempts"][0];
    assert_eq!(attempt["result"], "confirmed", "{attempt}");
    let at = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_else(|| panic!("no time: {record}"));
    assert!(at(&record["created_at"]) <= at(&attempt["first_sent_at"]), "{attempt}");
    assert!(at(&attempt["first_sent_at"]) <= at(&attempt["ended_at"]), "{attempt}");

    // What it was told, and what it was not.
    let env = fs::read_to_string(house.file("env.txt")).unwrap();
    let ours: Vec<&str> = env.lines().filter(|line| line.starts_with("COUNTERSIGN_")).collect();
    let attempt = &record["attempts"][0];
    for expected in [
        format!("COUNTERSIGN_ACTION_ID={}", ran.id()),
        format!("COUNTERSIGN_PROVIDER_KEY={}", attempt["provider_key"].as_str().unwrap()),
        "COUNTERSIGN_ATTEMPT=1".to_owned(),
    ] {
        assert!(ours.contains(&expected.as_str()), "{expected} is not in {ours:?}");
    }
    assert_eq!(ours.len(), 3, "neither key nor address: {ours:?}");
    assert!(!env.contains(&house.agent().key.unwrap()));

    // Without the flag nothing of its output leaves, and a failure is its own code.
    let failed = house.ran(&["--archetype", "ONCE", "--json"], "echo secret; exit 7").await;
    assert_eq!(failed.code, 7, "{}", failed.stderr);
    let record = house.record("ONCE", &failed.id()).await;
    assert_eq!((&record["result"]["state"], &record["result"]["retry_count"]), (&json!("FAILED"), &json!(0)));
    assert_eq!(record["attempts"][0]["result"], "provider_refused", "{record}");
    assert!(record["attempts"][0]["first_sent_at"].is_string(), "{record}");
    assert!(!record["response"].to_string().contains("secret"), "{record}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_permitted_never_starts() {
    let house = house().await;
    // Built in, and nothing permits it.
    let scope = json!({"subject": "default-agent", "scope": ["TERMINAL_COMMAND"], "expires_in_seconds": 600});
    let mandate = house.voice("default", "operator").post("/v1/mandates", &scope).await;
    let token = mandate.body["token"].as_str().unwrap();
    let blocked = house.ran(&["--mandate", token, "--json"], "touch started").await;
    assert_eq!((blocked.code, &blocked.answer()["kind"]), (77, &json!("blocked")), "{}", blocked.stderr);
    assert_eq!(blocked.answer()["code"], "EP_BOUNDARY_BLOCK");
    assert!(!house.file("started").exists());

    // A policy permits one program, by its path.
    let touch = ["/usr/bin/touch", "/bin/touch"].into_iter().find(|path| fs::metadata(path).is_ok()).unwrap();
    let policy = format!(
        "@id(\"touch\")\npermit (principal, action == Action::\"TERMINAL_COMMAND\", resource == Program::\"{touch}\")\n\
         when {{ context.constraints has arguments && context.constraints.arguments.contains(\"started\") }};\n"
    );
    fs::write(house.file("policies/default/touch.cedar"), policy).unwrap();
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    assert_eq!(
        house.ran(&["--mandate", token], "touch started").await.code,
        77,
        "a shell is another program"
    );
    let by_itself = |words: &[&str]| house.start_run(&["--mandate", token], words);
    assert_eq!(Ran::of(by_itself(&[touch, "other"])).await.code, 77);
    let done = Ran::of(by_itself(&[touch, "started"])).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(house.file("started").exists() && !house.file("other").exists());

    // What there is not is not asked for, and what another provider carries out is not for a runner.
    let nothing = Ran::of(by_itself(&["no-such-command"])).await;
    assert_eq!(nothing.code, 127, "{}", nothing.stderr);
    let paid = house.ran(&["--archetype", "PAYMENT_TRANSFER"], "touch paid").await;
    assert_eq!(paid.code, 65, "{}", paid.stderr);
    assert!(paid.stderr.contains("ATP_PROVIDER_CANNOT"), "{}", paid.stderr);
    assert!(!house.file("paid").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_gateway_nothing_runs() {
    let mut house = house().await;
    house.gateway.kill();
    let ran = house.ran(&["--archetype", "JOB"], "touch started").await;
    assert_eq!(ran.code, 69, "{}", ran.stderr);
    assert!(ran.stderr.contains("nothing was started"), "{}", ran.stderr);
    assert!(!house.file("started").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_person_runs_when_they_agree() {
    let house = house().await;
    let args = ["--archetype", "ASKED", "--idempotency-key", "k1", "--json"];
    // Who does not wait leaves it waiting.
    let left = house.ran(&[&args[..], &["--wait", "1s"]].concat(), "echo x >> ran").await;
    assert_eq!(left.code, 75, "{}", left.stderr);
    assert!(
        left.stderr.contains("waits for a person to agree · https://gw.example/v1/actions/"),
        "{}",
        left.stderr
    );
    let waiting = house.runs(&args, "echo x >> ran");
    sleep(Duration::from_millis(200)).await;
    assert!(!house.file("ran").exists());
    let path = format!("/v1/actions/{}/approve", left.id());
    let agreed = house.voice("default", "approver").post(&path, &json!({})).await;
    assert_eq!(agreed.status, 200, "{}", agreed.text());
    let ran = Ran::of(waiting).await;
    assert_eq!((ran.code, ran.id()), (0, left.id()), "{}", ran.stderr);
    // Once more under the same key: it is over, and nothing runs.
    let replayed = house.ran(&args, "echo x >> ran").await;
    assert_eq!((replayed.code, replayed.id()), (0, left.id()), "{}", replayed.stderr);
    assert!(replayed.stderr.contains("carried out before, under the same key"), "{}", replayed.stderr);
    assert_eq!(house.mark("ran").await, "x\n");
    // Another command under the same key is another request.
    let other = house.ran(&args, "echo y >> ran").await;
    assert_eq!(other.code, 65, "{}", other.stderr);
    assert!(other.stderr.contains("EP_IDEMPOTENCY_MISMATCH"), "{}", other.stderr);

    let no = house.runs(&["--archetype", "ASKED", "--idempotency-key", "k2", "--json"], "touch no");
    let held = loop {
        let listed = house.voice("default", "approver").get("/v1/approvals").await;
        if let Some(id) = listed.body["items"][0]["action_id"].as_str() {
            break id.to_owned();
        }
        sleep(Duration::from_millis(20)).await;
    };
    let said =
        house.voice("default", "approver").post(&format!("/v1/actions/{held}/reject"), &json!({})).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let no = Ran::of(no).await;
    assert_eq!((no.code, &no.answer()["code"]), (77, &json!("EP_APPROVAL_DENIED")), "{}", no.stderr);
    assert!(!house.file("no").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_second_level_it_runs_again_until_it_succeeds() {
    let house = house().await;
    let script =
        "echo $COUNTERSIGN_ATTEMPT $COUNTERSIGN_PROVIDER_KEY >> tries; [ $(wc -l < tries) -ge 3 ] || exit 5";
    let ran = house.ran(&["--archetype", "JOB", "--json"], script).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let record = house.record("JOB", &ran.id()).await;
    let attempts = record["attempts"].as_array().unwrap();
    let tries: Vec<String> = attempts
        .iter()
        .map(|it| format!("{} {}\n", it["attempt"], it["provider_key"].as_str().unwrap()))
        .collect();
    assert_eq!(house.mark("tries").await, tries.concat());
    assert_eq!((attempts.len(), &attempts[0]["provider_code"]), (3, &json!("exit_5")));
    assert_eq!(record["result"]["retry_count"], 2);
    assert_eq!(record["receipts"][0]["event_type"], "ORIGINAL");

    // One that recognises its key is run again under the same, because it may have got half way.
    let script =
        "echo $COUNTERSIGN_ATTEMPT $COUNTERSIGN_PROVIDER_KEY >> keys; [ $(wc -l < keys) -ge 2 ] || exit 5";
    let ran = house.ran(&["--archetype", "KEYED", "--json"], script).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let record = house.record("KEYED", &ran.id()).await;
    let attempts = record["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["sends"]), (1, &json!(2)), "{record}");
    let one = format!("1 {}\n", attempts[0]["provider_key"].as_str().unwrap());
    assert_eq!(house.mark("keys").await, one.repeat(2));

    // And no longer than the policy says.
    let failed = house.ran(&["--archetype", "JOB", "--json"], "echo x >> vain; exit 5").await;
    assert_eq!(
        (failed.code, &failed.answer()["code"]),
        (5, &json!("EP_PROVIDER_FAILED")),
        "{}",
        failed.stderr
    );
    assert_eq!(house.mark("vain").await, "x\n".repeat(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_dies_leaves_doubt_and_who_comes_next_runs_only_what_is_safe_to_repeat() {
    let house = house().await;
    for (archetype, code, runs) in [("JOB", 0, "x\nx\n"), ("ONCE", 76, "x\n")] {
        let (mark, pid) = (format!("{archetype}-ran"), format!("{archetype}-pid"));
        // The first one hangs until it is killed.
        let script = format!(
            "echo x >> {mark}; [ $(wc -l < {mark}) -ge 2 ] || {{ echo $$ > {pid}; exec sleep 600; }}"
        );
        let args = ["--archetype", archetype, "--idempotency-key", archetype, "--json"];
        let mut first = house.runs(&args, &script);
        let orphan = house.mark(&pid).await;
        // As long as it is there nobody else runs the same, as when cron comes again too early.
        let early = house.ran(&args, &script).await;
        assert_eq!(early.code, 75, "{}", early.stderr);
        assert!(early.stderr.contains("EP_IDEMPOTENCY_IN_FLIGHT"), "{}", early.stderr);
        kill(&mut first);
        assert!(Command::new("kill").args(["-9", orphan.trim()]).status().unwrap().success());
        let ran = loop {
            let ran = house.ran(&args, &script).await;
            if !ran.stderr.contains("EP_IDEMPOTENCY_IN_FLIGHT") {
                break ran;
            }
            sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(ran.code, code, "{archetype}: {}", ran.stderr);
        assert_eq!(house.mark(&mark).await, runs, "{archetype}");
        let record = house.record(archetype, &ran.id()).await;
        let original = &record["receipts"][0];
        assert_eq!(original["event_type"], "ORIGINAL");
        match archetype {
            "JOB" => {
                assert_eq!(record["result"]["state"], "COMPLETED", "{record}");
                assert_eq!(record["attempts"][0]["sends"], 2, "the same attempt under the same key");
                let log = house.log();
                assert!(log.contains("an action in doubt is sent again"), "{log}");
                assert!(!log.contains("in doubt no more"), "that it is sent tells nothing: {log}");
            }
            _ => assert_eq!(record["response"]["kind"], "pending_settlement", "{record}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_doubt_is_run_again_only_after_its_pause() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut house = house_at(Some(port)).await;
    let args = ["--archetype", "PATIENT", "--json", "--wait", "1s", "--idempotency-key"];
    let with_key = |key: &'static str| [&args[..], &[key]].concat();

    // It ends with a code that may mean anything: its own runner waits, and runs nothing meanwhile.
    let doubted = house.ran(&with_key("told"), "echo x >> told; exit 9").await;
    assert_eq!(doubted.code, 75, "not over, and not given up: {}", doubted.stderr);
    // Its runner dies: whoever comes next under the key waits as well.
    let silent = "echo x >> silent; echo $COUNTERSIGN_ACTION_ID $$ > pid; exec sleep 600";
    let mut first = house.runs(&with_key("silent"), silent);
    let mark = house.mark("pid").await;
    let (silent_id, orphan) = mark.trim().split_once(' ').unwrap();
    kill(&mut first);
    assert!(Command::new("kill").args(["-9", orphan]).status().unwrap().success());
    house.until(silent_id, "EXECUTING", true).await;
    let next = house.ran(&with_key("silent"), silent).await;
    assert_eq!((next.code, next.id().as_str()), (75, silent_id), "{}", next.stderr);

    // The pause outlives the gateway.
    house.gateway.kill();
    house.start();
    for (key, id, script) in
        [("told", doubted.id(), "echo x >> told; exit 9"), ("silent", silent_id.to_owned(), silent)]
    {
        // As long as a runner from before may still come back it is not asked whether it is due.
        sleep(Duration::from_millis(3500)).await;
        let later = house.ran(&with_key(key), script).await;
        assert_eq!(later.code, 75, "{}", later.stderr);
        let record = house.record("PATIENT", &id).await;
        assert_eq!(record["attempts"][0]["sends"], 1, "{record}");
        assert_eq!(house.mark(key).await, "x\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_says_for_what_unless_told_not_to() {
    let house = house().await;
    // A question stays open for ten seconds, so this is told once and then given up.
    let start = |archetype, key, flags: &[&str], script| {
        let args = ["--archetype", archetype, "--idempotency-key", key, "--wait", "12s"];
        Ran::of(house.runs(&[&args[..], flags].concat(), script))
    };
    let (asked, doubted, failed, quiet, json) = tokio::join!(
        start("ASKED", "asked", &[], "true"),
        start("PATIENT", "doubted", &[], "exit 9"),
        start("PATIENT", "failed", &[], "exit 5"),
        start("PATIENT", "quiet", &["--quiet"], "exit 9"),
        start("ASKED", "json", &["--json"], "true"),
    );
    let told = |ran: &Ran, words: &str, more: &str| {
        let lines: Vec<&str> = ran.stderr.lines().collect();
        let [told, end] = lines[..] else { panic!("{lines:?}") };
        assert!(told.starts_with(&format!("countersign: {words} · since 20")), "{told}");
        assert!(told.contains(more) && told.contains("/v1/actions/"), "{told}");
        assert!(end.starts_with(&format!("countersign: not over yet: {words} · ")), "{end}");
        assert_eq!(ran.code, 75, "{end}");
    };
    told(&asked, "waits for a person to agree", "https://gw.example/");
    told(&doubted, "what it did is in doubt, and it is to run again", ", next try at 20");
    told(&failed, "the attempt before had no effect, and another one follows", ", next try at 20");
    for ran in [quiet, json] {
        assert_eq!((ran.code, ran.stderr.lines().count()), (75, 1), "the end and no more: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_takes_no_key_of_the_period_and_a_persons_no_does() {
    let house = house().await;
    let frozen = json!({"scope": "archetype:JOB", "reason": "stop"});
    let operator = house.voice("default", "operator");
    let args = ["--archetype", "JOB", "--key-from-time", "day", "--json"];
    assert_eq!(operator.post("/v1/freeze", &frozen).await.status, 200);
    for _ in 0..2 {
        let refused = house.ran(&args, "echo x >> ran").await;
        assert_eq!(
            (refused.code, &refused.answer()["code"]),
            (77, &json!("EP_FROZEN")),
            "{}",
            refused.stderr
        );
        assert!(refused.stderr.contains("the same command line asks anew"), "{}", refused.stderr);
    }
    assert_eq!(operator.post("/v1/thaw", &json!({"scope": "archetype:JOB"})).await.status, 200);
    let done = house.ran(&args, "echo x >> ran").await;
    assert_eq!((done.code, &done.answer()["kind"]), (0, &json!("executed")), "{}", done.stderr);
    let replayed = house.ran(&args, "echo x >> ran").await;
    assert_eq!((replayed.code, replayed.id()), (0, done.id()), "{}", replayed.stderr);
    assert_eq!(house.mark("ran").await, "x\n");

    // A key of one's own is answered for good, and it is said that it is.
    assert_eq!(operator.post("/v1/freeze", &frozen).await.status, 200);
    let own = ["--archetype", "JOB", "--idempotency-key", "own", "--json"];
    let refused = house.ran(&own, "echo y >> ran").await;
    assert_eq!(operator.post("/v1/thaw", &json!({"scope": "archetype:JOB"})).await.status, 200);
    let again = house.ran(&own, "echo y >> ran").await;
    assert_eq!((again.code, again.id()), (77, refused.id()), "{}", again.stderr);
    assert!(again.stderr.contains("asked for with another --idempotency-key"), "{}", again.stderr);

    let args = ["--archetype", "ASKED", "--key-from-time", "day", "--json"];
    let held = house.ran(&[&args[..], &["--wait", "1s"]].concat(), "true").await;
    let no = format!("/v1/actions/{}/reject", held.id());
    assert_eq!(house.voice("default", "approver").post(&no, &json!({})).await.status, 200);
    let stands = house.ran(&args, "true").await;
    assert_eq!((stands.code, stands.id()), (77, held.id()), "{}", stands.stderr);
    assert_eq!(stands.answer()["code"], "EP_APPROVAL_DENIED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_dies_meanwhile_hears_of_it_when_it_is_back() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut house = house_at(Some(port)).await;
    for (archetype, end, code, state) in [
        ("JOB", "exit 0", 0, "COMPLETED"),
        ("ONCE", "exit 0", 0, "COMPLETED"),
        ("ONCE", "exit 4", 4, "FAILED"),
    ] {
        let (mark, go) = (format!("{archetype}{code}-ran"), format!("{archetype}{code}-go"));
        let script =
            format!("echo $COUNTERSIGN_ACTION_ID >> {mark}; while [ ! -e {go} ]; do sleep 0.05; done; {end}");
        let key = format!("{archetype}{code}");
        let args = ["--archetype", archetype, "--idempotency-key", &key, "--json"];
        let running = house.runs(&args, &script);
        let id = house.mark(&mark).await.trim().to_owned();
        house.gateway.kill();
        house.start();
        // It is in doubt, and says so, and nobody runs it a second time while its runner is at it.
        house.until(&id, "EXECUTING", true).await;
        sleep(Duration::from_millis(3500)).await;
        let other = house.ran(&args, &script).await;
        assert_eq!(other.code, 75, "another runner is at it: {}", other.stderr);
        house.gateway.kill();
        fs::write(house.file(&go), "").unwrap();
        sleep(Duration::from_millis(300)).await;
        house.start();
        let ran = Ran::of(running).await;
        assert_eq!(ran.code, code, "{}", ran.stderr);
        let record = house.until(&id, state, false).await;
        assert_eq!(
            record["receipts"].as_array().unwrap().len(),
            2,
            "the doubt, and what came of it: {record}"
        );
        assert_eq!(record["receipts"][1]["event_type"], "AMENDMENT_SETTLEMENT");
        assert_eq!(record["attempts"][0]["sends"], 1, "it was not even offered again: {record}");
        assert_eq!(house.mark(&mark).await, format!("{id}\n"), "it ran once");
    }
    house.gateway.kill();
    house.store().await;
}

/// A run by hand, as another client would do it.
struct ByHand {
    voice: Voice,
    id: String,
}

impl ByHand {
    async fn begin(house: &House, key: &str) -> ByHand {
        ByHand::of(house, key, "ONCE", &json!({})).await
    }

    async fn of(house: &House, key: &str, archetype: &str, more: &Value) -> ByHand {
        let constraints = json!({"program": "/bin/true", "directory": "/"});
        let mut body = json!({"archetype": archetype, "constraints": constraints});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let voice = house.agent();
        let request = voice.request("POST", "/v1/runs").header("ep-version", crate::house::VERSION);
        let said = crate::house::Said::of(request.header("idempotency-key", key).json(&body)).await.unwrap();
        assert_eq!((said.status, &said.body["state"]), (201, &json!("EXECUTING")), "{}", said.text());
        ByHand { voice, id: said.body["action_id"].as_str().unwrap().to_owned() }
    }

    async fn post(&self, voice: &Voice, what: &str, body: &Value) -> (u16, Value) {
        let said = voice.post(&format!("/v1/runs/{}/{what}", self.id), body).await;
        (said.status, said.body)
    }

    /// What this runner is told to do.
    async fn take(&self, runner: &str) -> Value {
        let (status, said) = self.post(&self.voice, "take", &json!({ "runner": runner })).await;
        assert_eq!(status, 200, "{said}");
        said
    }
}

fn key_of(taken: &Value) -> &str {
    taken["call"]["provider_key"].as_str().unwrap_or_else(|| panic!("nothing to run: {taken}"))
}

fn report(key: &str, exit_code: u64) -> Value {
    let nothing = json!({"sha256": sha256(b""), "bytes": 0});
    json!({"provider_key": key, "exit_code": exit_code, "duration_ms": 1, "stdout": nothing, "stderr": nothing})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_the_agents_own_and_one_runners_and_reported_once() {
    let house = house().await;
    let run = ByHand::begin(&house, "k1").await;
    let (agent, rival) = (run.voice.clone(), house.voice("default", "rival"));
    let take = |runner: &str| json!({ "runner": runner });
    assert_eq!(run.post(&rival, "take", &take("r")).await.0, 404);
    assert_eq!(run.post(&house.voice("default", "operator"), "take", &take("r")).await.0, 403);
    let (status, taken) = run.post(&agent, "take", &take("a")).await;
    assert_eq!(
        (status, &taken["next"], &taken["call"]["attempt"]),
        (200, &json!("run"), &json!(1)),
        "{taken}"
    );
    let key = taken["call"]["provider_key"].as_str().unwrap();
    assert_eq!(run.post(&agent, "take", &take("b")).await.1["next"], "elsewhere");
    assert_eq!(run.post(&agent, "take", &take("a")).await.1, taken, "whose answer got lost asks again");

    let beat = |runner: &str, key: &str| json!({"runner": runner, "provider_key": key});
    assert_eq!(run.post(&rival, "beat", &beat("a", key)).await.0, 404);
    assert_eq!(run.post(&agent, "beat", &beat("b", key)).await.0, 409);
    assert_eq!(run.post(&agent, "beat", &beat("a", "another")).await.0, 409);
    assert_eq!(run.post(&agent, "beat", &beat("a", key)).await, (200, json!({"heard": true})));

    assert_eq!(run.post(&rival, "report", &report(key, 0)).await.0, 404);
    assert_eq!(run.post(&agent, "report", &report("another", 0)).await.0, 409);
    let mut odd = report(key, 0);
    odd["signal"] = 9.into();
    assert_eq!(run.post(&agent, "report", &odd).await.0, 422, "one end and not two");
    odd = report(key, 0);
    odd["stdout"]["sha256"] = "zz".into();
    assert_eq!(run.post(&agent, "report", &odd).await.0, 422);
    // Whoever has it has it after a reload, too.
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    assert_eq!(run.post(&agent, "take", &take("b")).await.1["next"], "elsewhere");
    let (status, record) = run.post(&agent, "report", &report(key, 0)).await;
    assert_eq!((status, &record["result"]["state"]), (200, &json!("COMPLETED")), "{record}");
    let (status, said) = run.post(&agent, "report", &report(key, 4)).await;
    assert_eq!((status, &said["code"]), (409, &json!("EP_STATE_CONFLICT")), "{said}");
    assert_eq!(run.post(&agent, "beat", &beat("a", key)).await.0, 409);
    assert_eq!(run.post(&agent, "take", &take("c")).await.1["next"], "over");

    // A code that may mean anything leaves it in doubt, and nobody runs it again.
    let run = ByHand::begin(&house, "k2").await;
    let taken = run.post(&agent, "take", &take("a")).await.1;
    let key = taken["call"]["provider_key"].as_str().unwrap();
    let (status, record) = run.post(&agent, "report", &report(key, 9)).await;
    assert_eq!((status, &record["response"]["kind"]), (200, &json!("pending_settlement")), "{record}");
    assert_eq!(run.post(&agent, "take", &take("a")).await.1["next"], "doubt");
    // Whoever knows better still can say so.
    let record = run.post(&agent, "report", &report(key, 0)).await.1;
    assert_eq!(record["result"]["state"], "COMPLETED", "{record}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_reports_at_once_one_counts_and_the_others_are_in_conflict() {
    let house = house().await;
    // Both codes say that it is done: of a failure it may still be said that it was done after all. Where a failure is
    // followed by another attempt, that is not what the others reported.
    let all = [("ONCE", [0, 3, 0, 3]), ("JOB", [1; 4])];
    for (round, (archetype, codes)) in all.into_iter().cycle().take(8).enumerate() {
        let run = ByHand::of(&house, &format!("k{round}"), archetype, &json!({})).await;
        let taken = run.take("a").await;
        let reports = codes.map(|exit_code| report(key_of(&taken), exit_code));
        let [a, b, c, d] = reports.each_ref().map(|body| run.post(&run.voice, "report", body));
        let said: [(u16, Value); 4] = tokio::join!(a, b, c, d).into();
        let mut codes = said.each_ref().map(|(status, said)| (*status, said["code"].as_str()));
        codes.sort_unstable();
        let conflict = (409, Some("EP_STATE_CONFLICT"));
        assert_eq!(codes, [(200, None), conflict, conflict, conflict], "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_runner_takes_was_never_sent() {
    let house = house().await;
    let run = ByHand::begin(&house, "k1").await;
    let record = house.until(&run.id, "FAILED", false).await;
    assert_eq!(record["response"]["details"]["reasons"], json!(["not_sent"]), "{record}");
}

/// So long a call may leave after it was admitted, and a little more.
const PAST_THE_WINDOW: Duration = Duration::from_millis(2500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_a_call_after_a_freeze_and_the_send_window_does_not_get_it() {
    let house = house().await;
    let operator = house.voice("default", "operator");
    let once = ByHand::begin(&house, "k1").await;
    let again = ByHand::of(&house, "k2", "JOB", &json!({})).await;
    let scopes = ["archetype:ONCE", "archetype:JOB"];
    for scope in scopes {
        let frozen = operator.post("/v1/freeze", &json!({"scope": scope, "reason": "stop"})).await;
        assert_eq!(frozen.status, 200, "{}", frozen.text());
    }
    sleep(PAST_THE_WINDOW).await;
    assert_eq!(once.take("a").await["next"], "over");
    let record = house.until(&once.id, "FAILED", false).await;
    assert_eq!(record["response"]["details"]["reasons"], json!(["not_sent"]), "{record}");
    assert_eq!(record["receipts"].as_array().unwrap().len(), 1, "it was never in doubt: {record}");

    // Where it is tried again, the next attempt is judged anew, and waits for the end of the freeze.
    assert_eq!(again.take("a").await["next"], "wait");
    for scope in scopes {
        let thawed = operator.post("/v1/thaw", &json!({ "scope": scope })).await;
        assert_eq!(thawed.status, 200, "{}", thawed.text());
    }
    let taken = loop {
        let taken = again.take("a").await;
        if taken["next"] != "wait" {
            break taken;
        }
    };
    // A machine that is too busy may have let the second go by.
    assert!(taken["next"] == "run" && taken["call"]["attempt"].as_u64() > Some(1), "{taken}");
    let (status, record) = again.post(&again.voice, "report", &report(key_of(&taken), 0)).await;
    assert_eq!((status, &record["result"]["state"]), (200, &json!("COMPLETED")), "{record}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_a_call_after_its_deadline_does_not_get_it() {
    let house = house().await;
    for archetype in ["ONCE", "JOB"] {
        let run = ByHand::of(&house, archetype, archetype, &json!({"deadline_ms": 1000})).await;
        // Well within the send window.
        let record = house.until(&run.id, "FAILED", false).await;
        assert_eq!(run.take("a").await["next"], "over", "{archetype}");
        assert_eq!(record["receipts"].as_array().unwrap().len(), 1, "it was never in doubt: {record}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_person_says_what_became_of_a_run_while_its_runner_is_at_it() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut house = house_at(Some(port)).await;
    let run = ByHand::begin(&house, "k1").await;
    let taken = run.take("a").await;
    house.gateway.kill();
    house.start();
    house.until(&run.id, "EXECUTING", true).await;
    // It is heard of for longer than it may be silent, since the gateway is back.
    let beat = json!({"runner": "a", "provider_key": key_of(&taken)});
    for _ in 0..8 {
        assert_eq!(run.post(&run.voice, "beat", &beat).await.0, 200);
        sleep(Duration::from_millis(500)).await;
    }
    let approver = house.voice("default", "approver");
    let path = format!("/v1/actions/{}/resolve", run.id);
    let word = json!({"as": "failed", "comment": "seen nothing of it"});
    let early = approver.post(&path, &word).await;
    assert_eq!((early.status, early.code()), (409, "EP_STATE_CONFLICT"), "{}", early.text());
    assert!(early.text().contains("its runner is still at it"), "{}", early.text());
    let said = loop {
        let said = approver.post(&path, &word).await;
        if said.status != 409 {
            break said;
        }
        sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((said.status, &said.body["result"]["state"]), (200, &json!("FAILED")), "{}", said.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_attempt_that_was_done_after_all_is_written_down_and_told_to_people() {
    let house = house().await;
    let run = ByHand::of(&house, "k1", "JOB", &json!({})).await;
    let first = run.take("a").await;
    assert_eq!(run.post(&run.voice, "report", &report(key_of(&first), 5)).await.0, 200);
    let second = run.take("a").await;
    assert_eq!(second["call"]["attempt"], 2, "{second}");
    let late = |exit_code| report(key_of(&first), exit_code);
    let told = || house.log().lines().filter(|line| line.contains("late_effect")).count();
    assert_eq!(run.post(&run.voice, "report", &late(5)).await.0, 409);
    assert_eq!(told(), 0, "that it had no effect is known");
    for _ in 0..2 {
        let (status, record) = run.post(&run.voice, "report", &late(0)).await;
        let results: Vec<_> = record["attempts"].as_array().unwrap().iter().map(|it| &it["result"]).collect();
        assert_eq!((status, &record["result"]["state"]), (200, &json!("EXECUTING")), "{record}");
        assert_eq!(results, [&json!("confirmed"), &json!(null)]);
        assert_eq!(told(), 1, "{}", house.log());
    }
    // The attempt under way goes on.
    let (status, record) = run.post(&run.voice, "report", &report(key_of(&second), 0)).await;
    assert_eq!((status, &record["result"]["state"]), (200, &json!("COMPLETED")), "{record}");
    // That it is open, what came late, and what the attempt under way came to.
    let kinds: Vec<_> = record["receipts"].as_array().unwrap().iter().map(|it| &it["event_type"]).collect();
    let amendment = json!("AMENDMENT_SETTLEMENT");
    assert_eq!(kinds, [&json!("ORIGINAL"), &amendment, &amendment], "{record}");
    assert!(house.log().contains("duplicate_effect"), "{}", house.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_is_the_commands_and_its_end_is_still_told() {
    let house = house().await;
    let script = "trap 'echo bye; exit 3' TERM; echo up > up; while :; do sleep 0.05; done";
    let running = house.runs(&["--archetype", "ONCE", "--json"], script);
    house.mark("up").await;
    let pid = running.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ran = Ran::of(running).await;
    assert_eq!((ran.code, &ran.answer()["kind"]), (3, &json!("executed")), "{}", ran.stderr);
    assert!(ran.stdout.starts_with(b"bye\n"));

    // One that dies of it has said nothing.
    let running = house.runs(&["--archetype", "ONCE", "--json"], "echo up > down; exec sleep 600");
    house.mark("down").await;
    let pid = running.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ran = Ran::of(running).await;
    assert_eq!((ran.code, &ran.answer()["kind"]), (143, &json!("pending_settlement")), "{}", ran.stderr);
}
