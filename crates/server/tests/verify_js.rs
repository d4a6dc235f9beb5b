//! The verifier of the receipt page, run in Node beside the verifier of the crate `receipt`: what one says, the other
//! must say too, of whole receipts and of changed ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use receipt::{
    Chain, Disclosures, Draft, Environment, Event, Json, Jwk, Jwks, Kind, Metadata, MoneyFields, NewEntry,
    PaymentStatus, Pin, SigningKey, Stage, Timestamp, Trust, Verdict,
};
use serde_json::{Value, json};

const ISSUER: &str = "https://gw.example";

struct Issuer {
    key: SigningKey,
    jwk: Jwk,
}

impl Issuer {
    fn new() -> Issuer {
        let key = SigningKey::generate().unwrap();
        let jwk = Jwk::active(key.public().clone(), at(0));
        Issuer { key, jwk }
    }

    fn sign(&self, draft: &Draft<'_>) -> String {
        let mut chain = Chain::genesis(NewEntry::at(at(1))).unwrap();
        for (index, stage) in Stage::ALL.into_iter().enumerate().skip(1) {
            let input = Json::canonical(
                &json!({"b": "ä \u{1f600} \u{2028}", "a": [1, -0.5, 1e-7, 1e21, true, null]}),
            )
            .unwrap();
            let entry =
                NewEntry { input, cost: Some("0.02"), latency_ms: 3, ..NewEntry::at(at(index as u64)) };
            chain.push(stage, entry).unwrap();
        }
        let receipt = receipt::sign(draft, &chain, &self.key).unwrap();
        String::from_utf8(receipt.into_bytes()).unwrap()
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_millis(1_777_291_200_000 + seconds * 1000)
}

fn draft(environment: Environment) -> Draft<'static> {
    Draft {
        receipt_id: "01963e5a-0000-7000-8000-000000000001".into(),
        transaction_id: "01963e5a-0000-7000-8000-000000000002".into(),
        agent_id: "agent-1".into(),
        session_id: None,
        event: Event::Original,
        payment_status: PaymentStatus::Charged,
        money: MoneyFields {
            offer_currency: Some("USD".into()),
            offer_amount: Some("120.00".into()),
            ..MoneyFields::default()
        },
        idempotency_key: Some("k-1".into()),
        replica_id: "r1".into(),
        chain_id: "c1".into(),
        regulatory_framework: vec!["GDPR-Art-17".into()],
        metadata: Metadata {
            issuer: ISSUER.into(),
            tenant: "default".into(),
            environment,
            archetype: Some("PAYMENT_TRANSFER".into()),
            kind: Kind::Executed,
            mandate_id: Some("mnd_1".into()),
            intent_id: None,
            guarantee_level: Some("atp-2".into()),
            policy_digest: None,
            catalog_digest: None,
            entity_digest: None,
            approvals: vec![],
            observed: None,
            log: None,
        },
    }
}

/// What the crate says of the same documents.
fn expected(document: &str, jwks: &Jwks) -> (String, Option<u64>) {
    let pin = Pin::new(ISSUER, jwks);
    let disclosures = Disclosures::default();
    let trust = Trust { pin: &pin, jwks, allow_sandbox: false, disclosures: &disclosures };
    let verdict = receipt::verify(document.as_bytes(), &trust).verdict;
    let entry = match &verdict {
        Verdict::Invalid(failure) => failure.entry_index().map(|index| index as u64),
        _ => None,
    };
    (verdict.as_str().to_owned(), entry)
}

/// Runs the page's verifier over cases, `[[document, jwks], …]` and what else is to be said about them in JavaScript;
/// nothing if there is no Node.
fn in_node(cases: &str) -> Option<Vec<Value>> {
    let script =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pages/verify.js")).unwrap();
    let node = Command::new("node")
        .args(["--input-type=module", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut node) = node else {
        assert!(std::env::var_os("COUNTERSIGN_TEST_MUST_RUN").is_none(), "node is not installed");
        eprintln!("skipped: node is not installed");
        return None;
    };
    let program = format!("{script}\nconst issuer = {};\nconst cases = {cases};\n{DRIVER}", json!(ISSUER));
    node.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

const DRIVER: &str = "
const reports = [];
for (const [text, jwks] of cases) {
  const { verdict, sentence, place, checks } = await verify(text, jwks, { issuer });
  reports.push({ verdict, sentence, entry: place.entry ?? null, checks });
}
process.stdout.write(JSON.stringify(reports));
";

/// Both verifiers over every case; they must agree on the verdict and, where it is an entry's fault, on the entry.
fn agree(cases: &[(String, &Jwks)]) -> Vec<Value> {
    let handed: Value = cases
        .iter()
        .map(|(document, jwks)| json!([document, serde_json::from_slice::<Value>(jwks.as_bytes()).unwrap()]))
        .collect();
    let Some(reports) = in_node(&handed.to_string()) else { return Vec::new() };
    for ((document, jwks), report) in cases.iter().zip(&reports) {
        let (verdict, entry) = expected(document, jwks);
        assert_eq!(report["verdict"], verdict.as_str(), "{}\n{document}", report["sentence"]);
        assert_eq!(report["entry"].as_u64(), entry, "{}\n{document}", report["sentence"]);
    }
    reports
}

#[test]
fn a_whole_receipt_verifies_with_every_check() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let document = issuer.sign(&draft(Environment::Production));
    let indented = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&document).unwrap()).unwrap();
    for report in agree(&[(document, &jwks), (indented, &jwks)]) {
        assert_eq!(report["verdict"], "valid", "{}", report["sentence"]);
        let checks = report["checks"].as_array().unwrap();
        assert_eq!(checks.len(), 11);
        assert!(checks.iter().all(|check| check["outcome"] == "passed"), "{checks:?}");
    }
}

#[test]
fn a_changed_entry_is_named() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let document = issuer.sign(&draft(Environment::Production));
    let cases: Vec<_> = Stage::ALL
        .into_iter()
        .map(|stage| {
            let place = document.find(&format!(r#""stage":"{stage}""#)).unwrap();
            let latency = document[..place].rfind(r#""latencyMs":"#).unwrap() + r#""latencyMs":"#.len();
            let mut changed = document.clone();
            changed.replace_range(latency..=latency, "7");
            (changed, &jwks)
        })
        .collect();
    for (index, report) in agree(&cases).iter().enumerate() {
        let stage = Stage::ALL[index];
        assert_eq!(report["entry"], index, "{}", report["sentence"]);
        assert_eq!(report["sentence"], format!("entry {index} ({stage}): content does not fit its hash"));
    }
}

#[test]
fn every_changed_byte_fails_in_both_verifiers_alike() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let document = issuer.sign(&draft(Environment::Production));
    let mut cases = Vec::new();
    for (place, byte) in
        document.bytes().enumerate().filter(|(place, byte)| byte.is_ascii() && place % 3 == 0)
    {
        for new in [b'"', b'}', b'x', b'0', b' ', b'\\'] {
            if new != byte && document.is_char_boundary(place + 1) {
                let mut changed = document.clone().into_bytes();
                changed[place] = new;
                cases.push((String::from_utf8(changed).unwrap(), &jwks));
            }
        }
    }
    let handed: Value = cases
        .iter()
        .map(|(document, jwks)| json!([document, serde_json::from_slice::<Value>(jwks.as_bytes()).unwrap()]))
        .collect();
    let Some(reports) = in_node(&handed.to_string()) else { return };
    for ((document, jwks), report) in cases.iter().zip(&reports) {
        // White space outside of strings is no change, and what both call invalid they may place differently where
        // the text is no JSON any more.
        let (verdict, _) = expected(document, jwks);
        assert_eq!(report["verdict"], verdict.as_str(), "{}\n{document}", report["sentence"]);
    }
}

#[test]
fn members_added_missing_or_of_another_kind_are_refused() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let document = issuer.sign(&draft(Environment::Production));
    let value: Value = serde_json::from_str(&document).unwrap();
    let mut cases = Vec::new();
    for pointer in ["", "/entries/3", "/metadata", "/money", "/signature", "/version"] {
        let members: Vec<String> =
            value.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect();
        for member in members {
            let mut without = value.clone();
            without.pointer_mut(pointer).unwrap().as_object_mut().unwrap().shift_remove(&member);
            cases.push((without.to_string(), &jwks));
            let mut other = value.clone();
            other.pointer_mut(pointer).unwrap()[&member] = json!([{}]);
            cases.push((other.to_string(), &jwks));
        }
        let mut added = value.clone();
        added.pointer_mut(pointer).unwrap()["zz"] = Value::Null;
        cases.push((added.to_string(), &jwks));
    }
    for report in agree(&cases) {
        assert_eq!(report["verdict"], "invalid", "{report}");
    }
}

#[test]
fn what_json_readers_could_differ_about_is_refused() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let document = issuer.sign(&draft(Environment::Production));
    let twice = document.replacen(r#""agentId":"agent-1""#, r#""agentId":"x","agentId":"agent-1""#, 1);
    let proto = document.replacen('{', r#"{"__proto__":{},"#, 1);
    let big = document.replacen(r#""latencyMs":3"#, r#""latencyMs":9007199254740993"#, 1);
    let half = document.replacen("agent-1", "\\ud800", 1);
    let after = format!("{document} x");
    let cases: Vec<_> = [twice, proto, big, half, after, String::new(), "[]".into(), "null".into()]
        .into_iter()
        .map(|document| (document, &jwks))
        .collect();
    for report in agree(&cases) {
        assert_eq!(report["verdict"], "invalid", "{report}");
    }
}

#[test]
fn the_key_decides_over_time_and_custody() {
    let issuer = Issuer::new();
    let other = Issuer::new();
    let document = issuer.sign(&draft(Environment::Production));
    let set = |jwk: Jwk| Jwks::new(vec![jwk]).unwrap();
    let late = Jwk::active(issuer.key.public().clone(), at(100));
    let sets = [
        set(other.jwk),
        set(late),
        set(issuer.jwk.clone().retired(at(100))),
        set(issuer.jwk.clone().retired(at(2))),
        set(issuer.jwk.clone().retired(at(100)).compromised(at(50))),
        set(issuer.jwk.clone().retired(at(100)).compromised(at(8))),
        set(issuer.jwk.clone().retired(at(2)).compromised(at(1))),
    ];
    let cases: Vec<_> = sets.iter().map(|jwks| (document.clone(), jwks)).collect();
    let verdicts: Vec<String> =
        agree(&cases).iter().map(|report| report["verdict"].as_str().unwrap().to_owned()).collect();
    if !verdicts.is_empty() {
        let said = ["invalid", "invalid", "valid", "invalid", "time unproven", "quarantined", "quarantined"];
        assert_eq!(verdicts, said);
    }
}

#[test]
fn the_sandbox_is_told_apart_and_another_issuer_is_not_ours() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let sandbox = issuer.sign(&draft(Environment::Sandbox));
    let mut elsewhere = draft(Environment::Production);
    elsewhere.metadata.issuer = "https://other.example".into();
    let reports = agree(&[(sandbox, &jwks), (issuer.sign(&elsewhere), &jwks)]);
    if let [sandbox, elsewhere] = &reports[..] {
        assert_eq!(sandbox["verdict"], "quarantined");
        assert_eq!(elsewhere["verdict"], "invalid");
    }
}

#[test]
fn a_high_s_is_refused_though_it_would_fit() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let document = issuer.sign(&draft(Environment::Production));
    let script = r#"
const n = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const receipt = JSON.parse(cases[0][0]);
const bytes = fromBase64url(receipt.signature.value);
let s = n - bytes.slice(32).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
for (let i = 63; i >= 32; i--) { bytes[i] = Number(s & 255n); s >>= 8n; }
receipt.signature.value = base64url(bytes);
cases[0][0] = JSON.stringify(receipt);
"#;
    let cases = format!("[[{}, {}]];\n{script}", json!(document), String::from_utf8_lossy(jwks.as_bytes()));
    let Some(reports) = in_node(&cases) else { return };
    assert_eq!(reports[0]["sentence"], "member `signature.value`: has a high S");
}
