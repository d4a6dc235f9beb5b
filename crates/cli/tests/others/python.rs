//! Python: the key set in the two libraries most people load one with, and receipts and approvals in the few lines of
//! `docs/verify-in-python.md`, `docs/approvals-format.md` and `docs/alerts.md`, which are run from those pages, so that they cannot go
//! stale.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::gateway::{Demo, Gateway};
use testkit::skip;

#[test]
fn the_key_set_loads_in_jwcrypto_and_pyjwt() {
    let Some(python) = Python::with(&["jwcrypto", "jwt"]) else { return };
    let gateway = Gateway::start();
    let before = python.fed(include_str!("key_set.py"), &gateway.key_set());
    gateway.rotate();
    let after = python.fed(include_str!("key_set.py"), &gateway.key_set());
    assert_eq!((before.lines().count(), after.lines().count()), (1, 2), "{before}{after}");
    for key in after.lines() {
        let [kid, thumbprint, same, private] = key.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{key}")
        };
        assert_eq!((kid, same, private), (thumbprint, "True", "False"), "{key}");
    }
    assert!(after.contains(before.trim()), "the old key stays, for old receipts");
}

#[test]
fn receipts_verify_in_a_few_lines_of_python() {
    let Some(python) = Python::with(&["rfc8785", "cryptography"]) else { return };
    let demo = Demo::tell();
    let report = python.verify(&demo.jwks(), &demo.receipts());
    assert_eq!((report.valid, report.lines.len()), (true, 7), "{report:?}");
    for line in &report.lines {
        assert!(
            line.contains(": valid: ") && line.contains(", production, issuer http://127.0.0.1:"),
            "{line}"
        );
    }
    let forged = python.verify(&demo.jwks(), &[demo.path("demo/tampered/1-executed.json")]);
    assert!(!forged.valid);
    assert!(
        forged.lines[0].ends_with(": invalid: entry 2 (schema): content does not fit its hash"),
        "{forged:?}"
    );
}

#[test]
fn receipts_from_before_and_after_a_rotation_verify_in_python() {
    let Some(python) = Python::with(&["rfc8785", "cryptography"]) else { return };
    let gateway = Gateway::start();
    let folder = tempfile::tempdir().unwrap();
    let receipts = ["before", "after"].map(|when| {
        let file = folder.path().join(when);
        std::fs::write(&file, gateway.blocked(when).document).unwrap();
        gateway.rotate();
        file
    });
    let jwks = folder.path().join("jwks.json");
    std::fs::write(&jwks, gateway.key_set()).unwrap();
    let report = python.verify(&jwks, &receipts);
    assert!(report.valid, "{report:?}");
}

#[test]
fn every_kind_of_change_fails_in_python_and_is_named() {
    let Some(python) = Python::with(&["rfc8785", "cryptography"]) else { return };
    let demo = Demo::tell();
    let original = std::fs::read_to_string(&demo.receipts()[0]).unwrap();
    let parsed: Value = serde_json::from_str(&original).unwrap();
    let text = |pointer: &str| parsed.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let (created, signature, kid) = (text("/created"), text("/signature/value"), text("/signature/kid"));
    let mut cases: Vec<(String, String)> = Vec::new();
    let mut case = |from: &str, to: &str, why: &str| {
        let changed = original.replacen(from, to, 1);
        assert_ne!(changed, original, "`{from}` is not there");
        cases.push((changed, why.to_owned()));
    };
    for (index, entry) in parsed["entries"].as_array().unwrap().iter().enumerate() {
        let (stage, hash) = (entry["stage"].as_str().unwrap(), entry["hash"].as_str().unwrap());
        case(
            &format!(r#""stage":"{stage}""#),
            &format!(r#""stage":"{stage}","zz":null"#),
            &format!("entry {index} ({stage}): content does not fit its hash"),
        );
        case(
            &format!(r#""hash":"{hash}""#),
            &format!(r#""hash":"{}""#, hash.to_uppercase()),
            &format!("entry {index} ({stage}): content does not fit its hash"),
        );
    }
    case(&created, "2026-01-01T00:00:00.000Z", "created: is not the time of the last entry");
    case(
        r#""chargeAmount":"120.00""#,
        r#""chargeAmount":"920.00""#,
        "signature.value: does not fit the document",
    );
    case(r#""version":{"#, r#""version":{"zz":1,"#, "signature.value: does not fit the document");
    case(r#"{"agentId""#, r#"{"zz":1,"agentId""#, "signature.value: does not fit the document");
    case(r#"{"agentId""#, r#"{"agentId":"x","agentId""#, "a member stands twice");
    case(&kid, &kid.chars().rev().collect::<String>(), "signature.kid: the key is not in the key set");
    case(&signature, &format!("{signature}="), "not strict base64url");
    case(&signature, &high(&signature), "signature.value: not 64 bytes with a low S");

    let files: Vec<PathBuf> = (0..cases.len()).map(|index| demo.path(&format!("{index}.json"))).collect();
    for (file, (changed, _)) in files.iter().zip(&cases) {
        std::fs::write(file, changed).unwrap();
    }
    let report = python.verify(&demo.jwks(), &files);
    assert_eq!(report.lines.len(), cases.len());
    for (line, (_, why)) in report.lines.iter().zip(&cases) {
        assert!(line.ends_with(&format!(": invalid: {why}")), "expected {why}, not {line}");
    }
}

#[test]
fn webhooks_verify_in_a_few_lines_of_python() {
    let Some(python) = Python::with(&["hmac"]) else { return };
    let code = code_of(include_str!("../../../../docs/alerts.md"));
    // The example that the specification's own libraries are tested with.
    let said = |id: &str, signature: &str, now: u64| {
        let headers = format!(
            "{{'webhook-id': '{id}', 'webhook-timestamp': '1614265330', 'webhook-signature': '{signature}'}}"
        );
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let call =
            format!("import sys\nprint(verify('{secret}', {headers}, sys.stdin.buffer.read(), {now}))\n");
        python.fed(&format!("{code}\n{call}"), r#"{"test": 2432232314}"#).trim().to_owned()
    };
    let (id, signature) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    assert_eq!(said(id, signature, 1_614_265_330), "True");
    assert_eq!(said(id, &format!("v1,other {signature}"), 1_614_265_330), "True", "one of several is enough");
    assert_eq!(said(id, &signature.replace('g', "h"), 1_614_265_330), "False");
    assert_eq!(said("msg_another", signature, 1_614_265_330), "False");
    assert_eq!(said(id, signature, 1_614_265_631), "False", "too old");
}

#[test]
fn approvals_verify_in_a_few_lines_of_python() {
    let Some(python) = Python::with(&["rfc8785", "cryptography"]) else { return };
    let code = code_of(include_str!("../../../../docs/approvals-format.md"));
    let golden = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../receipt/tests/golden");
        std::fs::read_to_string(folder.join(name)).unwrap()
    };
    let said = |approval: &str| {
        let try_it = "import sys\ntry:\n    verify_approval(*json.load(sys.stdin))\n    print('valid')\n\
                      except Exception as why:\n    print(type(why).__name__, why)\n";
        let approvers: Value = serde_json::from_str(&golden("approvers.json")).unwrap();
        python.fed(&format!("{code}\n{try_it}"), &format!("[{approval},{}]", approvers[0])).trim().to_owned()
    };
    let approval = golden("approval.json");
    assert_eq!(said(&approval), "valid");
    let dearer = approval.replace(r#""amount":"125.00""#, r#""amount":"925.00""#);
    assert_eq!(said(&dearer), "ValueError another challenge");
    let parsed: Value = serde_json::from_str(&approval).unwrap();
    let data = parsed["assertion"]["authenticator_data"].as_str().unwrap();
    // The counter of signatures, 7, as 6.
    let counted = approval.replace(data, &format!("{}Bg", data.strip_suffix("Bw").unwrap()));
    assert_eq!(said(&counted), "InvalidSignature");
}

#[test]
fn the_audit_trail_reads_the_same_in_pythons_csv() {
    let Some(python) = Python::with(&["csv"]) else { return };
    let gateway = Gateway::start();
    for key in ["a", "bb", "ccc"] {
        gateway.executed_for_agent(key);
    }
    let read = python.fed(READ_CSV, &gateway.trail("csv"));
    let read: Vec<Value> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<Value> =
        gateway.trail("jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.iter().filter(|entry| entry["action_id"].is_string()).count(), 6);
    assert_eq!(read.len(), told.len());
    for (cells, entry) in read.iter().zip(&told) {
        for (name, value) in entry.as_object().unwrap() {
            let expected = match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
                other => other.to_string(),
            };
            assert_eq!(cells[name].as_str(), Some(&*expected), "{name} of {entry}");
        }
    }
}

#[test]
fn provenance_loads_in_prov_and_is_written_again_as_it_was() {
    let Some(python) = Python::with(&["prov"]) else { return };
    let gateway = Gateway::start();
    gateway.executed_for_agent("a");
    let agent = gateway.agent_key();
    let session = gateway.post(agent, "/sandbox/v1/sessions", &json!({}));
    let path = format!("/sandbox/v1/sessions/{}", session["session_id"].as_str().unwrap());
    let intent = json!({
        "intent_id": "first:1", "session_id": session["session_id"], "mandate_id": session["mandate_id"],
        "gec_instance_id": session["gec_instance_id"], "goal_type": "pay", "goal_scope": ["Payments"],
        "reasoning_mode": "DIRECT", "action_sequence_number": 1, "expires_at": "2100-01-01T00:00:00Z",
    });
    gateway.post(agent, &format!("{path}/intents"), &intent);
    gateway.post(agent, &format!("{path}/close"), &json!({"completion": "PARTIAL", "reason": "enough"}));
    let told = gateway.read(agent, &format!("{path}/record?format=prov")).to_string();
    // Of the session: two agents, three activities, three records and a declaration.
    assert_eq!(python.fed(ROUND_TRIP, &told).trim(), "True 9");
    assert!(python.fed(ROUND_TRIP, &gateway.trail("prov")).starts_with("True "));
}

/// Whether what is read is equal to what is written and read again, and how many elements it has.
const ROUND_TRIP: &str = "import sys
from prov.model import ProvDocument, ProvElement
def read(text):
    return ProvDocument.deserialize(content=text, format='json')
document = read(sys.stdin.read())
again = read(document.serialize(format='json'))
print(document == again and bool(document.get_provn()), len(list(document.get_records(ProvElement))))
";

/// Each row as a JSON object a line; strict, so that what is not CSV is an error.
const READ_CSV: &str = "import csv, io, json, sys
text = io.TextIOWrapper(sys.stdin.buffer, encoding='utf-8', newline='')
for row in csv.DictReader(text, strict=True):
    print(json.dumps(row))
";

/// The same signature with its S made high: its highest bit set, and so above half the order.
fn high(signature: &str) -> String {
    // The 43rd character holds the last four bits of R and the first two of S.
    let mut characters: Vec<u8> = signature.bytes().collect();
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let six = alphabet.iter().position(|letter| *letter == characters[42]).unwrap();
    characters[42] = alphabet[six | 0b10];
    String::from_utf8(characters).unwrap()
}

/// The Python of a page.
fn code_of(page: &str) -> &str {
    page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap()
}

/// An interpreter that has what a test needs.
struct Python {
    program: std::ffi::OsString,
}

/// What the page's lines said of some files.
#[derive(Debug)]
struct Report {
    valid: bool,
    lines: Vec<String>,
}

impl Python {
    fn with(packages: &[&str]) -> Option<Python> {
        let program = std::env::var_os("COUNTERSIGN_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let imports = format!("import {}", packages.join(", "));
        match Command::new(&program).args(["-c", &imports]).output() {
            Ok(output) if output.status.success() => Some(Python { program }),
            _ => {
                skip(&format!("no Python that can {imports}; COUNTERSIGN_TEST_PYTHON may name one"));
                None
            }
        }
    }

    /// Runs the code of the page over files.
    fn verify(&self, jwks: &Path, receipts: &[PathBuf]) -> Report {
        let code = code_of(include_str!("../../../../docs/verify-in-python.md"));
        let files = std::iter::once(jwks).chain(receipts.iter().map(PathBuf::as_path)).map(Path::as_os_str);
        let output = self.run(code, files, "");
        let said = String::from_utf8(output.stdout).unwrap();
        let lines = said.lines().map(str::to_owned).collect();
        Report { valid: output.status.success(), lines }
    }

    /// Runs code that reads `input` and must succeed; what it printed.
    fn fed(&self, code: &str, input: &str) -> String {
        let output = self.run(code, [], input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn run<'a>(&self, code: &str, args: impl IntoIterator<Item = &'a OsStr>, input: &str) -> Output {
        let mut command = Command::new(&self.program);
        command
            .args(["-c", code])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}
