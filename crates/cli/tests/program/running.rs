//! `countersign serve`, the commands that speak to it, and `countersign demo`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::common::{Run, countersign, finished, run};

#[test]
fn the_first_key_is_shown_once_and_everything_private_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let first = Served::start(&data).stop();
    let key = admin_key(&first);
    assert_eq!(first.matches(&key).count(), 1, "once");
    let second = Served::start(&data).stop();
    assert!(!second.contains("cs_"), "and never again: {second}");

    let files = files_in(&data);
    assert!(files.iter().any(|file| file.ends_with("jwks.json")), "{files:?}");
    for file in
        files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "pkcs8" || kind == "key"))
    {
        let mode = fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
    let stored = files.iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>().concat();
    assert!(!contains(&stored, key.as_bytes()), "only its hash is kept");

    // A key that others can read is not used.
    let pkcs8 = files.iter().find(|file| file.extension().is_some_and(|kind| kind == "pkcs8")).unwrap();
    fs::set_permissions(pkcs8, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = run(["serve", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
    assert_eq!(refused.code, 1);
    assert!(refused.says("can be read by others"), "{}", refused.stderr);
}

#[test]
fn commands_change_the_running_gateway_as_far_as_their_key_may() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let made = run([
        "keys",
        "--data-dir",
        data.to_str().unwrap(),
        "api",
        "create",
        "--subject",
        "root",
        "--role",
        "admin",
    ]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let admin = made.stdout.trim().to_owned();

    let served = Served::start(&data);
    let locked = run(["keys", "--data-dir", data.to_str().unwrap(), "list"]);
    assert_eq!(locked.code, 1, "a running gateway holds its directory");
    assert!(locked.says("a gateway runs on it"), "{}", locked.stderr);
    let refused = served.call("cs_wrong", &["keys", "list"]);
    assert_eq!(refused.code, 1);
    assert!(refused.says("EP_UNAUTHENTICATED"), "{}", refused.stderr);

    let made = served.call(&admin, &["keys", "api", "create", "--subject", "ops", "--role", "operator"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let operator = made.stdout.trim().to_owned();
    let keys = served.call(&admin, &["keys", "list", "--json"]).json();
    let kid = keys[0]["kid"].as_str().unwrap();
    assert_eq!(served.call(&operator, &["keys", "rotate"]).code, 1, "an operator manages no keys");
    assert_eq!(served.call(&admin, &["keys", "rotate"]).code, 0);
    // One key id in sixty-four begins like an option.
    let hyphen = served.call(&admin, &["keys", "compromise", "-Q", "--at", "2026-01-01T00:00:00Z"]);
    assert!(hyphen.says("EP_NOT_FOUND"), "{}", hyphen.stderr);
    let lost = served.call(&admin, &["keys", "compromise", kid, "--at", "2026-01-01T00:00:00+01:00"]);
    assert!(lost.stdout.contains("2025-12-31T23:00:00.000Z"), "{}{}", lost.stdout, lost.stderr);
    assert!(served.call("", &["keys", "pin"]).stdout.starts_with("sha256:"), "a pin is public");
    let named = |name: &str| served.call("", &["keys", "pin", "--name", name]);
    assert_eq!((named(&served.url).code, named(&served.url).stderr), (0, String::new()));
    let other = named("https://other.example");
    let warning =
        format!("these are the keys of `{}`, and the pin names `https://other.example`", served.url);
    assert!(other.code == 0 && other.stderr.contains(&warning), "{}", other.stderr);

    let issue = [
        "mandate",
        "issue",
        "--subject",
        "a1",
        "--scope",
        "PAYMENT_TRANSFER",
        "--cap",
        "5.00 USD",
        "--ttl",
        "1h",
    ];
    let refused = served.call(&operator, &issue);
    assert!(refused.code == 1 && refused.says("--even-if-unknown"), "{}", refused.stderr);
    let issued = served.call(&operator, &[&issue[..], &["--even-if-unknown"]].concat());
    assert_eq!(issued.code, 0, "{}", issued.stderr);
    let jti = issued.json()["mandate"]["jti"].as_str().unwrap().to_owned();
    assert!(served.call(&operator, &["mandate", "list"]).stdout.contains("5.00 USD"));
    assert_eq!(served.call(&operator, &["mandate", "revoke", &jti]).json()["jti"], jti.as_str());

    assert_eq!(served.call(&operator, &["freeze", "agent:a1", "--reason", "test"]).code, 0);
    let frozen = served.call(&operator, &["freeze"]).json();
    assert_eq!((&frozen[0]["scope"], &frozen[0]["include_rollback"]), (&"agent:a1".into(), &false.into()));
    assert_eq!(served.call(&operator, &["freeze", "agent:a1", "--include-rollback"]).code, 0);
    assert_eq!(served.call(&operator, &["freeze"]).json()[0]["include_rollback"], true);
    assert_eq!(served.call(&operator, &["thaw", "agent:a1"]).code, 0);
    assert_eq!(served.call(&operator, &["freeze"]).json(), Value::Array(vec![]));
    assert_eq!(served.call(&admin, &["reload"]).json()["archetypes"], 6);
    let nothing = served.call(&admin, &["replay", "01963e5a-0000-7000-8000-000000000002"]);
    assert!(nothing.says("EP_NOT_FOUND"), "{}", nothing.stderr);

    let stderr = served.stop();
    assert!(!stderr.contains(&admin) && !stderr.contains(&operator), "keys are not logged: {stderr}");
}

#[test]
fn what_no_sandbox_has_is_not_asked_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let admin = api_key(&data, "root", "admin");
    let served = Served::sandbox(&data);
    let gateway = served.url.strip_suffix("/sandbox").unwrap();
    let mark = folder.path().join("ran");
    let run = ["run", "--", "touch", mark.to_str().unwrap()];
    let none = [
        (&run[..], 64, "nothing runs there"),
        (&["keys", "api", "list"], 1, "API keys are of production and sandbox together"),
        (&["approvers", "list"], 1, "it asks for no passkeys"),
    ];
    for (args, code, why) in none {
        let refused = served.call(&admin, args);
        assert_eq!((refused.code, refused.stdout.as_str()), (code, ""), "{args:?}: {}", refused.stderr);
        assert!(refused.says(&format!("`{}` is a sandbox, and {why}", served.url)), "{}", refused.stderr);
        assert!(refused.says(&format!("COUNTERSIGN_URL={gateway}")), "{}", refused.stderr);
    }
    assert!(!mark.exists(), "nothing ran");
    assert_eq!(served.call(&admin, &["keys", "list"]).code, 0, "signing keys it has of its own");
    served.stop();
}

#[test]
fn an_action_of_the_sandbox_is_proved_and_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (admin, agent) = (api_key(&data, "someone", "admin"), api_key(&data, "robot", "agent"));
    let served = Served::sandbox(&data);
    let issue = ["mandate", "issue", "--subject", "robot", "--scope", "Travel", "--cap", "900.00 USD"];
    let issued = served.call(&admin, &issue);
    assert_eq!(issued.code, 0, "{}", issued.stderr);
    let body = serde_json::json!({
        "archetype": "HOTEL_RESERVATION",
        "delegation_token": issued.json()["token"],
        "constraints": {
            "property_id": "prop-1", "city": "Berlin", "check_in": "2030-06-01", "check_out": "2030-06-03",
            "room_type": "double", "guests": 2, "max_total_usd": "480.00",
        },
    });
    let answer = served.execute(&agent, "k1", &body);
    assert_eq!(answer["kind"], "executed", "{answer}");

    let id = answer["transaction_id"].as_str().unwrap();
    let replayed = served.call(&admin, &["replay", id]);
    assert_eq!((replayed.code, &replayed.json()["result"]), (0, &Value::from("same")), "{}", replayed.stderr);

    let get = |path: String| client().get(path).bearer_auth(&admin).send().unwrap().bytes().unwrap();
    let receipt = folder.path().join("receipt.json");
    fs::write(
        &receipt,
        get(format!("{}/v1/receipts/{}", served.url, answer["receipt_id"].as_str().unwrap())),
    )
    .unwrap();
    let pin = served.call("", &["keys", "pin"]).stdout;
    let jwks = format!("{}/.well-known/jwks.json", served.url);
    let verify = ["verify", receipt.to_str().unwrap(), "--issuer", pin.trim(), "--jwks", &jwks];
    assert_eq!(run(verify).code, 1, "play is not proof");
    assert_eq!(run(verify.into_iter().chain(["--allow-sandbox"])).code, 0);
    served.stop();
}

#[test]
fn several_actions_are_undone_newest_first_or_none_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (admin, agent) = (api_key(&data, "someone", "admin"), api_key(&data, "robot", "agent"));
    let served = Served::sandbox(&data);
    let issue = ["mandate", "issue", "--subject", "robot", "--scope", "Travel", "--cap", "900.00 USD"];
    let token = served.call(&admin, &issue).json()["token"].clone();
    let booked = |n: u32, property: &str| {
        let body = serde_json::json!({
            "archetype": "HOTEL_RESERVATION",
            "delegation_token": token,
            "constraints": {
                "property_id": property, "city": "Berlin", "check_in": format!("2030-06-0{n}"),
                "check_out": "2030-06-09", "room_type": "double", "guests": 2, "max_total_usd": "90.00",
            },
        });
        let answer = served.execute(&agent, &format!("k{n}"), &body);
        assert_eq!(answer["kind"], "executed", "{answer}");
        answer["transaction_id"].as_str().unwrap().to_owned()
    };
    let (first, second, stays) = (booked(1, "prop-1"), booked(2, "prop-1"), booked(3, "sandbox:keep"));
    let rollback = |ids: &[&str]| served.call(&agent, &[&["actions", "rollback"], ids].concat());

    let none = rollback(&[&first, "01963e5a-0000-7000-8000-000000000002"]);
    assert!(none.code == 1 && none.says("EP_NOT_FOUND"), "{}", none.stderr);
    let stuck = rollback(&[&first, &stays, &second]);
    let fate = |id: &str, result: &str, code: Value| serde_json::json!({"action_id": id, "result": result, "code": code});
    let all = [
        fate(&stays, "failed", "ATP_ROLLBACK_FAILED".into()),
        fate(&second, "not_tried", Value::Null),
        fate(&first, "not_tried", Value::Null),
    ];
    assert_eq!((stuck.code, &stuck.json()["actions"]), (1, &serde_json::json!(all)), "{}", stuck.stderr);
    let both = rollback(&[&first, &second]);
    let all = [&second, &first].map(|id| fate(id, "rolled_back", Value::Null));
    assert_eq!((both.code, &both.json()["actions"]), (0, &serde_json::json!(all)), "{}", both.stderr);
    served.stop();
}

#[test]
fn the_log_says_which_member_production_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let agent = api_key(&data, "someone", "agent");
    let mut serve = countersign();
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).env("COUNTERSIGN_LOG", "debug");
    let served = Served::spawn(&mut serve);
    let request = client().post(format!("{}/api/execute", served.url)).bearer_auth(&agent);
    let request = request.header("ep-version", "2026-04-27").header("idempotency-key", "k1");
    let request = request.header("content-type", "application/json");
    let answer = request.body(r#"{"archetype": "PAYMENT_TRANSFER", "colour": "red"}"#).send().unwrap();
    let answer: Value = serde_json::from_slice(&answer.bytes().unwrap()).unwrap();
    assert!(answer.get("field").is_none(), "{answer}");
    let log = served.stop();
    let refused = log.lines().find(|line| line.contains(answer["request_id"].as_str().unwrap()));
    let refused = refused.unwrap_or_else(|| panic!("{answer}: {log}"));
    assert!(refused.contains(answer["code"].as_str().unwrap()), "{refused}");
    assert!(refused.contains("field") && refused.contains("/colour"), "{refused}");
}

#[test]
fn an_approver_an_agent_and_nobody_hear_whose_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (approver, agent) = (api_key(&data, "alice", "approver"), api_key(&data, "someone", "agent"));
    let served = Served::start(&data);
    let refused = served.call(&approver, &["audit", "verify"]);
    assert!(refused.says("role operator, auditor or admin, not approver"), "{}", refused.stderr);
    let refused = served.call(&agent, &["approvals", "list"]);
    assert!(refused.says("role approver, operator, auditor or admin, not agent"), "{}", refused.stderr);
    let nobody = client().post(format!("{}/sandbox/v1/actions/x/cancel", served.url)).send().unwrap();
    let told = String::from_utf8(nobody.bytes().unwrap().to_vec()).unwrap();
    assert!(told.contains("in the sandbox only asking for actions and reading them takes none"), "{told}");
    served.stop();
}

#[test]
fn other_machines_are_not_listened_to_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let serve = ["serve", "--listen", "0.0.0.0:0", "--data-dir", data.to_str().unwrap()];
    let refused = run(serve);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    let longest = refused.stderr.lines().map(|line| line.chars().count()).max().unwrap_or_default();
    assert!(longest > 100, "it is broken into lines though no terminal shows it: {}", refused.stderr);
    for way in ["--behind-tls-proxy", "--tls-cert", "[tls]", "127.0.0.1"] {
        assert!(refused.says(way), "no word of {way}: {}", refused.stderr);
    }
    assert!(!data.exists(), "nothing was made");
    let mut command = countersign();
    let served = Served::spawn(command.args(serve).arg("--behind-tls-proxy"));
    served.stop();
}

#[test]
fn tls_by_files_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut command = countersign();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder.path().join("data"));
    command.arg("--tls-cert").arg(&certificate).arg("--tls-key").arg(&key);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = finished(command.output().unwrap());
    assert!(refused.says("chmod 600"), "{}", refused.stderr);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let served = Served::spawn(&mut command);
    let port = served.url.strip_prefix("https://127.0.0.1:").expect("it says https");
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::blocking::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let health = client.get(format!("https://localhost:{port}/healthz")).send().unwrap();
    assert_eq!(health.status(), 200);
    served.stop();
}

#[test]
fn the_demo_comes_out_as_said() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let told = run(["demo", "--json", "--dir", dir.to_str().unwrap()]);
    assert_eq!(told.code, 0, "{}{}", told.stdout, told.stderr);
    assert_eq!(told.stdout.lines().count(), 1, "one object and nothing else");
    let told = told.json();
    assert_eq!(told["ok"], true);
    let steps: Vec<(&str, bool, Option<&str>)> = told["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["name"].as_str().unwrap(), step["ok"] == true, step["kind"].as_str()))
        .collect();
    let expected = [
        ("payment_executed", true, Some("executed")),
        ("replayed", true, Some("executed")),
        ("over_cap", true, Some("blocked")),
        ("hard_denied", true, Some("blocked")),
        ("incomplete", true, Some("blocked")),
        ("duplicate", true, Some("blocked")),
        ("frozen", true, Some("blocked")),
        ("thawed", true, Some("executed")),
        ("receipts_verified", true, None),
        ("tampered", true, None),
    ];
    assert_eq!(steps, expected);
    assert_eq!(told["steps"][0]["transaction_id"], told["steps"][1]["transaction_id"]);

    // What it prints to do again does the same, and names all that a verifier takes.
    let printed = run(["demo", "--dir", dir.to_str().unwrap()]).stdout;
    let mut commands = printed.lines().filter_map(|line| line.split_once(" verify "));
    let mut next = || {
        let (_, args) = commands.next().unwrap_or_else(|| panic!("{printed}"));
        assert!(args.contains(" --jwks ") && args.contains(" --issuer "), "{args}");
        run(std::iter::once("verify").chain(args.split_whitespace()))
    };
    let (again, forged) = (next(), next());
    assert_eq!(again.code, 0, "{}", again.stdout);
    assert!(again.stdout.ends_with("7 receipts: 7 valid\n"), "{}", again.stdout);
    assert_eq!(forged.code, 1);
    assert!(forged.stdout.contains("invalid: entry "), "{}", forged.stdout);

    // A folder that is not the demo's own is left alone; its own is written anew.
    assert_eq!(run(["demo", "--json", "--dir", folder.path().to_str().unwrap()]).code, 1);
}

/// A key made while no gateway runs.
pub(crate) fn api_key(data: &Path, subject: &str, role: &str) -> String {
    let data = data.to_str().unwrap();
    let made = run(["keys", "--data-dir", data, "api", "create", "--subject", subject, "--role", role]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    made.stdout.trim().to_owned()
}

fn client() -> reqwest::blocking::Client {
    reqwest::blocking::Client::builder().no_proxy().build().unwrap()
}

/// A gateway at work.
pub(crate) struct Served {
    child: Child,
    url: String,
}

impl Served {
    /// On a port of its own choosing, over a data directory.
    fn start(data: &Path) -> Served {
        Served::spawn(countersign().args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data))
    }

    /// The same, spoken to where it only pretends.
    pub(crate) fn sandbox(data: &Path) -> Served {
        let mut served = Served::start(data);
        served.url.push_str("/sandbox");
        served
    }

    /// One action in the sandbox.
    pub(crate) fn execute(&self, key: &str, idempotency_key: &str, body: &Value) -> Value {
        let url = self.url.replace("/sandbox", "/api/sandbox/execute");
        let request = client().post(url).bearer_auth(key).header("idempotency-key", idempotency_key);
        let request = request.header("content-type", "application/json").body(body.to_string());
        serde_json::from_slice(&request.send().unwrap().bytes().unwrap()).unwrap()
    }

    /// What the gateway answers to an action.
    pub(crate) fn post(&self, key: &str, path: &str, idempotency_key: &str, body: &Value) -> Value {
        let request = client().post(format!("{}{path}", self.url)).bearer_auth(key);
        let request = request.header("idempotency-key", idempotency_key).header("ep-version", "2026-04-27");
        let request = request.header("content-type", "application/json").body(body.to_string());
        serde_json::from_slice(&request.send().unwrap().bytes().unwrap()).unwrap()
    }

    /// Has what is reserved set free.
    pub(crate) fn release(&self, key: &str, id: &str) -> Value {
        let request = client().post(format!("{}/v1/actions/{id}/release", self.url)).bearer_auth(key);
        serde_json::from_slice(&request.send().unwrap().bytes().unwrap()).unwrap()
    }

    pub(crate) fn spawn(command: &mut Command) -> Served {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = Vec::new();
        // Byte by byte: a reader with a buffer would swallow what is not part of the line.
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            if child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 0 {
                panic!("it does not listen: {}", said(&mut child));
            }
            line.push(byte[0]);
        }
        let line = String::from_utf8(line).unwrap();
        let url = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("it says `{line}`"))
            .to_owned();
        Served { child, url }
    }

    /// Where it answers.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Ends it as a service manager would; returns what it said on stderr.
    pub(crate) fn stop(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "it ends in good order");
        let mut rest = String::new();
        self.child.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "one line on stdout and no more");
        said(&mut self.child)
    }

    pub(crate) fn call(&self, key: &str, args: &[&str]) -> Run {
        let mut command = countersign();
        command.args(args).env("COUNTERSIGN_URL", &self.url);
        if !key.is_empty() {
            command.env("COUNTERSIGN_API_KEY", key);
        }
        finished(command.output().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(child: &mut Child) -> String {
    BufReader::new(child.stderr.as_mut().unwrap()).lines().map(|line| line.unwrap() + "\n").collect()
}

fn admin_key(stderr: &str) -> String {
    let key = stderr.lines().map(str::trim).find(|line| line.starts_with("cs_"));
    key.unwrap_or_else(|| panic!("no key in {stderr}")).to_owned()
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_in(&path)) } else { files.push(path) }
    }
    files
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
