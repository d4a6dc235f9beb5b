//! `countersign verify`, run as a stranger would run it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Run, countersign, finished, run};
use receipt::{
    Chain, Disclosure, Draft, Environment, Event, Json, Jwk, Jwks, Kind, Metadata, MoneyFields, NewEntry,
    PaymentStatus, Pin, Salts, SigningKey, Stage, Timestamp,
};
use serde_json::Value;

const ISSUER: &str = "https://gateway.example";
const BEFORE: u64 = 1_777_000_000_000;
const MADE: u64 = BEFORE + 60_000;
const SALT: [u8; 32] = [7; 32];

/// An issuer in a folder: `receipts/`, `jwks.json`, `issuer.pin`.
struct Issuer {
    folder: tempfile::TempDir,
    key: SigningKey,
}

impl Issuer {
    fn new() -> Issuer {
        let issuer = Issuer { folder: tempfile::tempdir().unwrap(), key: SigningKey::generate().unwrap() };
        fs::create_dir(issuer.path("receipts")).unwrap();
        issuer.publish(Jwk::active(issuer.key.public().clone(), at(BEFORE)));
        issuer
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn publish(&self, key: Jwk) {
        let jwks = Jwks::new(vec![key]).unwrap();
        fs::write(self.path("jwks.json"), jwks.as_bytes()).unwrap();
        fs::write(self.path("issuer.pin"), Pin::new(ISSUER, &jwks).to_text()).unwrap();
    }

    fn receipt(&self, environment: Environment) -> Vec<u8> {
        let entry = |more: u64| NewEntry::at(at(MADE + more));
        let recipient = Salts::new(&SALT).commit("constraints/recipient", &Json::string("acct-7"));
        let input = Json::object(&[("recipient", Json::string(&recipient))]).unwrap();
        let mut chain = Chain::genesis(entry(0)).unwrap();
        chain.push(Stage::TokenValidation, entry(1)).unwrap();
        chain.push(Stage::Boundary, NewEntry { input, ..entry(2) }).unwrap();
        chain.push(Stage::Receipt, entry(3)).unwrap();
        receipt::sign(&draft(environment), &chain, &self.key).unwrap().into_bytes()
    }

    fn write(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.path("receipts").join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn verify(&self, path: &Path, more: &[&str]) -> Run {
        let mut command = countersign();
        command.arg("verify").arg(path).arg("--issuer").arg(self.path("issuer.pin")).args(more);
        finished(command.output().unwrap())
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_unix_millis(millis)
}

fn draft(environment: Environment) -> Draft<'static> {
    Draft {
        receipt_id: "01963e5a-0000-7000-8000-000000000001".into(),
        transaction_id: "01963e5a-0000-7000-8000-000000000002".into(),
        agent_id: "agent-1".into(),
        session_id: None,
        event: Event::Original,
        payment_status: PaymentStatus::NotCharged,
        money: MoneyFields::default(),
        idempotency_key: Some("key-1".into()),
        replica_id: "r1".into(),
        chain_id: "c1".into(),
        regulatory_framework: vec![],
        metadata: Metadata {
            issuer: ISSUER.into(),
            tenant: "default".into(),
            environment,
            archetype: Some("PAYMENT_TRANSFER".into()),
            kind: Kind::Blocked,
            mandate_id: None,
            intent_id: None,
            guarantee_level: None,
            policy_digest: None,
            catalog_digest: None,
            entity_digest: None,
            approvals: vec![],
            observed: None,
            log: None,
        },
    }
}

/// The document with the first occurrence of a text replaced.
fn altered(document: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(document).unwrap();
    assert!(text.contains(from), "{text} has no {from}");
    text.replacen(from, to, 1).into_bytes()
}

#[test]
fn a_receipt_verifies_from_files_alone_and_every_check_is_shown() {
    let issuer = Issuer::new();
    issuer.write("blocked.json", &issuer.receipt(Environment::Production));
    let shown = issuer.verify(&issuer.path("receipts"), &[]);
    assert_eq!(shown.code, 0, "{}{}", shown.stdout, shown.stderr);
    for check in receipt::CheckName::ALL {
        assert!(shown.stdout.contains(check.as_str()), "{} has no {}", shown.stdout, check.as_str());
    }
    assert!(shown.stdout.ends_with("1 receipt: 1 valid\n"), "{}", shown.stdout);

    // The same by bare digest and a named key set, for a program.
    let jwks = issuer.path("jwks.json");
    let digest = Jwks::parse(&fs::read(&jwks).unwrap()).unwrap().digest().to_string();
    let receipts = issuer.path("receipts").display().to_string();
    let told = run(["verify", &receipts, "--issuer", &digest, "--jwks", jwks.to_str().unwrap(), "--json"]);
    assert_eq!((told.code, &told.json()["ok"]), (0, &Value::Bool(true)));
    assert_eq!(told.json()["receipts"][0]["verdict"], "valid");
    assert_eq!(told.stdout.lines().count(), 1, "one object and nothing else");
}

#[test]
fn what_is_wrong_with_a_bundle_is_said() {
    let issuer = Issuer::new();
    let (receipt, jwks) =
        (issuer.receipt(Environment::Production), fs::read(issuer.path("jwks.json")).unwrap());
    let (receipt, jwks) = (String::from_utf8(receipt).unwrap(), String::from_utf8(jwks).unwrap());
    let bundle = |proof: &str| {
        format!(r#"{{"jwks":{jwks},"proof":{proof},"receipt":{receipt},"spec":"countersign-bundle/1"}}"#)
    };
    let proof = r#"{"checkpoint":"a\n","compromise":null,"index":0,"leaf":"AA","path":[],"spec":"countersign-proof/1"}"#;
    for (proof, says) in [
        (proof, "bundle refused: a text is not unpadded base64url of 74 bytes"),
        (r#"["countersign-proof/1"]"#, "bundle refused: an object was expected"),
    ] {
        let told = issuer.verify(&issuer.write("bundle.json", bundle(proof).as_bytes()), &[]);
        assert_eq!(told.code, 1);
        assert!(told.stdout.contains(says), "{}", told.stdout);
    }
}

#[test]
fn a_changed_entry_is_named() {
    let issuer = Issuer::new();
    let document = issuer.receipt(Environment::Production);
    let tampered =
        issuer.write("tampered.json", &altered(&document, "\"recipient\":\"c:", "\"recipient\":\"c_"));
    let told = issuer.verify(&tampered, &[]);
    assert_eq!(told.code, 1);
    assert!(
        told.stdout.contains("invalid: entry 2 (boundary): content does not fit its hash"),
        "{}",
        told.stdout
    );

    let told = issuer.verify(&tampered, &["--json"]);
    assert_eq!(told.code, 1);
    let failure = &told.json()["receipts"][0]["failure"];
    assert_eq!((&failure["entry"], &failure["stage"]), (&Value::from(2), &Value::from("boundary")));
}

#[test]
fn a_key_set_that_the_pin_does_not_name_is_not_believed() {
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let forged = issuer.write("forged.json", &stranger.receipt(Environment::Production));
    assert_eq!(issuer.verify(&forged, &[]).code, 1, "the key is not in the set");

    fs::copy(stranger.path("jwks.json"), issuer.path("jwks.json")).unwrap();
    let told = issuer.verify(&forged, &[]);
    assert_eq!(told.code, 1);
    assert!(told.says("is not one that the pin names"), "{}", told.stderr);
    assert!(told.says("--jwks"), "it says what to do: {}", told.stderr);
}

#[test]
fn a_lost_key_leaves_time_unproven_or_quarantines() {
    let issuer = Issuer::new();
    let receipt = issuer.write("one.json", &issuer.receipt(Environment::Production));
    let key = || Jwk::active(issuer.key.public().clone(), at(BEFORE));
    issuer.publish(key().compromised(at(MADE + 1_000)));
    let told = issuer.verify(&receipt, &[]);
    assert_eq!(told.code, 2, "{}", told.stdout);
    assert!(told.stdout.contains("time unproven"));

    issuer.publish(key().compromised(at(MADE)));
    let told = issuer.verify(&receipt, &[]);
    assert_eq!(told.code, 1, "{}", told.stdout);
    assert!(told.stdout.contains("quarantined"));
}

#[test]
fn a_retired_key_still_vouches_for_what_it_signed() {
    let issuer = Issuer::new();
    let receipt = issuer.write("one.json", &issuer.receipt(Environment::Production));
    issuer.publish(Jwk::active(issuer.key.public().clone(), at(BEFORE)).retired(at(MADE + 1_000)));
    assert_eq!(issuer.verify(&receipt, &[]).code, 0);
    issuer.publish(Jwk::active(issuer.key.public().clone(), at(BEFORE)).retired(at(MADE)));
    assert_eq!(issuer.verify(&receipt, &[]).code, 1, "it signed after it was retired");
}

#[test]
fn the_sandbox_passes_only_when_allowed() {
    let issuer = Issuer::new();
    let receipt = issuer.write("one.json", &issuer.receipt(Environment::Sandbox));
    assert_eq!(issuer.verify(&receipt, &[]).code, 1);
    assert_eq!(issuer.verify(&receipt, &["--allow-sandbox"]).code, 0);
}

#[test]
fn disclosures_are_checked_against_their_commitments() {
    let issuer = Issuer::new();
    let receipt = issuer.write("one.json", &issuer.receipt(Environment::Production));
    let disclose = |value: &str| {
        let disclosure = Disclosure {
            receipt_id: "01963e5a-0000-7000-8000-000000000001".into(),
            stage: Some(Stage::Boundary),
            path: "/input/recipient".into(),
            salt: Salts::new(&SALT).salt("constraints/recipient"),
            value: Json::string(value),
        };
        let file = issuer.path("disclosures.jsonl");
        fs::write(&file, disclosure.to_json()).unwrap();
        issuer.verify(&receipt, &["--disclosures", file.to_str().unwrap()])
    };
    assert_eq!(disclose("acct-7").code, 0);
    let told = disclose("acct-8");
    assert_eq!(told.code, 1);
    assert!(told.stdout.contains("entry 2 (boundary)"), "{}", told.stdout);
}

#[test]
fn a_long_file_is_checked_line_by_line_in_order() {
    let issuer = Issuer::new();
    let good = issuer.receipt(Environment::Production);
    let bad = altered(&good, "\"agentId\":\"agent-1\"", "\"agentId\":\"agent-2\"");
    let mut text = Vec::new();
    for line in 1..=2_000 {
        text.extend_from_slice(match line {
            7 | 1_500 => &bad,
            9 => b"{\"not\": \"a receipt\"}",
            _ => &good,
        });
        text.extend_from_slice(b"\n");
    }
    let file = issuer.write("all.jsonl", &text);
    let told = issuer.verify(&file, &["--jsonl"]);
    assert_eq!(told.code, 1);
    let lines: Vec<&str> = told.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", told.stdout);
    for (line, number) in lines.iter().zip([7, 9, 1_500]) {
        assert!(line.contains(&format!("all.jsonl:{number}: invalid")), "{line}");
    }
    assert_eq!(lines[3], "2000 receipts: 1997 valid, 3 invalid");

    let told = issuer.verify(&file, &["--jsonl", "--json"]).json();
    assert_eq!((&told["valid"], &told["invalid"]), (&Value::from(1_997), &Value::from(3)));
    assert_eq!(told["receipts"][2]["line"], 1_500);
    let folder = issuer.verify(&issuer.path("receipts"), &["--jsonl"]);
    assert!(folder.stdout.ends_with("2000 receipts: 1997 valid, 3 invalid\n"), "{}", folder.stdout);
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let issuer = Issuer::new();
    let bad = altered(&issuer.receipt(Environment::Production), "agent-1", "agent-2");
    let file = issuer.write("all.jsonl", &[&bad[..], b"\n"].concat().repeat(3_000));
    let pin = issuer.path("issuer.pin");
    let script = "\"$0\" verify --jsonl \"$1\" --issuer \"$2\" | head -n 1";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_countersign")]).arg(&file).arg(&pin);
    let told = finished(shell.output().unwrap());
    assert_eq!(told.stdout.lines().count(), 1);
    assert_eq!(told.stderr, "");
}

#[test]
fn nothing_to_verify_is_not_valid() {
    let issuer = Issuer::new();
    assert_eq!(issuer.verify(&issuer.path("receipts"), &[]).code, 1, "an empty folder");
    assert_eq!(issuer.verify(&issuer.path("nowhere.json"), &[]).code, 1, "a file that is not there");
    let empty = issuer.write("empty.json", b"");
    assert_eq!(issuer.verify(&empty, &[]).code, 1, "an empty file");
    assert_eq!(run(["verify"]).code, 64, "a command line without what it needs is neither verdict");
}

#[test]
fn text_of_strangers_cannot_move_the_cursor() {
    let issuer = Issuer::new();
    let document = altered(
        &issuer.receipt(Environment::Production),
        "\"issuer\":\"https",
        "\"issuer\":\"\\u001b[2Jhttps",
    );
    let told = issuer.verify(&issuer.write("one.json", &document), &[]);
    assert_eq!(told.code, 1);
    assert!(!told.stdout.contains('\x1b'), "{:?}", told.stdout);
}

/// The golden receipt of the crate `receipt`, which a person approved with a passkey and another with an API key.
fn approved(more: &[&str]) -> Run {
    run([&["verify", &golden("approved.json"), "--issuer", &golden("pin.json")], more].concat())
}

fn golden(name: &str) -> String {
    format!("{}/../receipt/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn an_approval_is_verified_only_against_pinned_people() {
    let pinned = approved(&["--approvers", &golden("approvers.json")]);
    assert_eq!(pinned.code, 0, "{}{}", pinned.stdout, pinned.stderr);
    assert!(
        pinned.stdout.contains("✓ approval     verified: number 0, signed by `alice`"),
        "{}",
        pinned.stdout
    );
    assert!(pinned.stdout.contains("– approval     not signed: number 1"), "{}", pinned.stdout);
    assert!(pinned.stdout.contains("\n1 approval is stated and not proven"), "{}", pinned.stdout);

    let unpinned = approved(&[]);
    assert_eq!(unpinned.code, 0, "{}{}", unpinned.stdout, unpinned.stderr);
    assert!(unpinned.stdout.contains("– approval     signed, key unpinned: number 0"), "{}", unpinned.stdout);
    let told = "2 approvals are stated and not proven: pin the people with --approvers\n";
    assert!(unpinned.stdout.ends_with(told), "{}", unpinned.stdout);
    let lines = approved(&["--jsonl"]);
    assert_eq!(lines.stdout, format!("1 receipt: 1 valid\n{told}"), "also where only failures are shown");
    assert_eq!(approved(&["--json"]).json()["unproven_approvals"], 2);
}

#[test]
fn an_approval_by_anybody_else_fails_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("approvers.json");
    let alice: Value = serde_json::from_slice(&fs::read(golden("approvers.json")).unwrap()).unwrap();
    let other = SigningKey::generate().unwrap();
    let with = |member: &str, value: Value| {
        let mut changed = alice.clone();
        changed[0][member] = value;
        fs::write(&file, changed.to_string()).unwrap();
        approved(&["--approvers", file.to_str().unwrap()])
    };
    let key = serde_json::json!({
        "crv": "P-256", "kty": "EC", "x": other.public().x(), "y": other.public().y(),
    });
    for (member, value, why) in [
        ("credential_id", "Ym9i".into(), "is none of the pinned approvers'"),
        ("public_key", key, "names another key than the one pinned for `alice`"),
        ("rp_id", "other.example".into(), "made for another relying party"),
        ("origins", serde_json::json!(["https://other.example"]), "on an origin that is not allowed"),
    ] {
        let told = with(member, value);
        assert_eq!(told.code, 1, "{member}: {}", told.stdout);
        let named = "invalid: member `metadata.approvals[0]`: ";
        assert!(told.stdout.contains(named) && told.stdout.contains(why), "{member}: {}", told.stdout);
    }
    let broken = with("more", Value::Null);
    assert_eq!(broken.code, 1);
    assert!(broken.says("cannot use the approvers in"), "{}", broken.stderr);
}
