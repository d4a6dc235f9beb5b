//! The verifier of the receipt page, run in Node beside the verifier of the crate `receipt`: what one says, the other
//! must say too, of whole receipts and of changed ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use receipt::approval::{
    AppliesTo, Approval, Assertion, Commitment, Decision, Envelope, Limits, Quote, Signer, V1,
};
use receipt::{
    Chain, Draft, Environment, Event, Json, Jwk, Jwks, Kind, Metadata, MoneyFields, NewEntry, PaymentStatus,
    Pin, Promise, SigningKey, Stage, Timestamp, Trust, Verdict,
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
            log: Some(receipt::Checkpoint {
                origin: "gw.example/log/default".into(),
                size: 0,
                root: "00".repeat(32).into(),
                promise: Some(Promise { merge_by: at(60), nonce: "A".repeat(43).into() }),
            }),
        },
    }
}

/// What the crate says of the same documents.
fn expected(document: &str, jwks: &Jwks) -> (String, Option<u64>) {
    let pin = Pin::new(ISSUER, jwks);
    let verdict = receipt::verify(document.as_bytes(), &Trust::new(&pin, jwks)).verdict;
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

/// A receipt with two approvals, of either form. That the passkey's signature is none is not for the page to see.
fn approved(issuer: &Issuer, change: impl FnOnce(&mut Envelope, &mut Draft<'_>)) -> String {
    let constraints = Json::canonical(&json!({"amount_usd": "120.00", "note": "ä \u{1f600}"})).unwrap();
    let mut draft = draft(Environment::Production);
    let mut envelope = envelope(&draft, constraints.clone());
    let digest = |text: &str| Json::string(text);
    let looked = [("catalogDigest", digest("sha256:22")), ("constraints", constraints)];
    let mut chain = Chain::genesis(NewEntry {
        output: Json::object(&[("requestHash", Json::string(&"ab".repeat(32)))]).unwrap(),
        ..NewEntry::at(at(1))
    })
    .unwrap();
    for stage in Stage::ALL.into_iter().skip(1) {
        let input = match stage {
            Stage::Schema => Json::object(&looked).unwrap(),
            Stage::Boundary => Json::object(&[("policyDigest", digest("sha256:11"))]).unwrap(),
            _ => Json::NULL,
        };
        chain.push(stage, NewEntry { input, ..NewEntry::at(at(9)) }).unwrap();
    }
    let by_key = Approval::new(
        Envelope { nonce: [2; 32], ..envelope.clone() },
        at(8),
        Signer::Key { id: "key-7".into() },
    );
    change(&mut envelope, &mut draft);
    let assertion = Assertion {
        credential_id: vec![1; 16],
        authenticator_data: vec![2; 37],
        client_data_json: b"{}".to_vec(),
        signature: vec![3; 70],
    };
    let by_passkey = Approval::new(envelope, at(8), Signer::Passkey { assertion, public_key: None });
    draft.metadata.approvals = vec![by_key.unwrap(), by_passkey.unwrap()];
    String::from_utf8(receipt::sign(&draft, &chain, &issuer.key).unwrap().into_bytes()).unwrap()
}

fn envelope(draft: &Draft<'_>, constraints: Json) -> Envelope {
    let committed = Commitment::parse(&receipt::commit(&[7; 32], &Json::string("alice"))).unwrap();
    Envelope {
        action_id: draft.transaction_id.to_string(),
        approver: committed.clone(),
        binding_digests: [("execute".to_owned(), "sha256:55".to_owned())].into(),
        catalog_digest: "sha256:22".to_owned(),
        comment: None,
        constraints,
        decision: Decision::Approve,
        escalation_id: "e-1".to_owned(),
        expires_at: at(100),
        limits: None,
        nonce: [1; 32],
        policy_digest: "sha256:11".to_owned(),
        quote: Some(Quote { amount: "120.00".to_owned(), currency: "USD".to_owned() }),
        reasons: vec!["class:9".to_owned()],
        request_hash: "ab".repeat(32),
        rollback: Some(committed.clone()),
        summary_digest: committed,
        v: V1,
    }
}

fn up_to(amount: &str, currency: &str) -> Option<Limits> {
    let most = Quote { amount: amount.to_owned(), currency: currency.to_owned() };
    Some(Limits { applies_to: AppliesTo::Action, max_amount: Some(most), not_after: Some(at(50)) })
}

#[test]
fn approvals_are_shown_as_present_and_not_checked_here() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let within = |most: &'static str| approved(&issuer, move |e, _| e.limits = up_to(most, "USD"));
    let session = approved(&issuer, |e, _| {
        e.limits = up_to("120.00", "USD").map(|limits| Limits { applies_to: AppliesTo::Session, ..limits });
    });
    let usual = approved(&issuer, |_, _| {});
    let receipts = [usual, within("120.00"), within("120"), within("1000.5"), session];
    for report in agree(&receipts.map(|it| (it, &jwks))) {
        assert_eq!(report["verdict"], "valid", "{}", report["sentence"]);
        let checks = report["checks"].as_array().unwrap();
        let lines: Vec<_> = checks.iter().filter(|check| check["name"] == "approval").collect();
        assert_eq!((lines.len(), checks.len()), (2, 13));
        for line in lines {
            assert_eq!(line["outcome"], "skipped");
            assert!(
                line["detail"].as_str().unwrap().ends_with("its signature is not checked here"),
                "{line}"
            );
        }
    }
}

#[test]
fn an_approval_of_something_else_is_refused_by_both() {
    type Change = fn(&mut Envelope, &mut Draft<'_>);
    let changes: [Change; 14] = [
        |e, _| e.action_id.replace_range(..1, "f"),
        |e, _| e.request_hash = "cd".repeat(32),
        |e, _| e.catalog_digest.push('0'),
        |e, _| e.policy_digest.push('0'),
        |e, _| e.constraints = Json::canonical(&json!({"amount_usd": "120.00"})).unwrap(),
        |_, d| d.money.offer_amount = Some("121.00".into()),
        |_, d| d.money = MoneyFields::default(),
        |e, _| e.decision = Decision::Reject,
        |e, _| e.expires_at = at(8),
        |e, _| e.nonce = [2; 32],
        |e, _| e.limits = up_to("119.99", "USD"),
        |e, _| e.limits = up_to("99.990", "USD"),
        |e, _| e.limits = up_to("120.00", "EUR"),
        |e, d| (e.decision, d.metadata.kind) = (Decision::Reject, Kind::Failed),
    ];
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let cases: Vec<_> = changes.into_iter().map(|change| (approved(&issuer, change), &jwks)).collect();
    for report in agree(&cases) {
        assert_eq!(report["verdict"], "invalid", "{report}");
        assert!(report["sentence"].as_str().unwrap().starts_with("member `metadata.approvals["), "{report}");
    }
    let blocked: Change = |e, d| (e.decision, d.metadata.kind) = (Decision::Reject, Kind::Blocked);
    for report in agree(&[(approved(&issuer, blocked), &jwks)]) {
        assert_eq!(report["verdict"], "valid", "{report}");
    }
}

#[test]
fn an_approval_of_another_form_is_refused_by_both() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let value: Value = serde_json::from_str(&approved(&issuer, |_, _| {})).unwrap();
    let mut cases = Vec::new();
    for approval in ["/metadata/approvals/0", "/metadata/approvals/1"] {
        for within in ["", "/assertion", "/envelope", "/envelope/quote"] {
            let pointer = format!("{approval}{within}");
            let Some(members) = value.pointer(&pointer).unwrap().as_object() else { continue };
            for member in members.keys() {
                for other in [json!([{}]), Value::Null, json!("x")] {
                    let mut changed = value.clone();
                    changed.pointer_mut(&pointer).unwrap()[member] = other;
                    cases.push((changed.to_string(), &jwks));
                }
                let mut without = value.clone();
                without.pointer_mut(&pointer).unwrap().as_object_mut().unwrap().shift_remove(member);
                cases.push((without.to_string(), &jwks));
            }
            let mut added = value.clone();
            added.pointer_mut(&pointer).unwrap()["zz"] = Value::Null;
            cases.push((added.to_string(), &jwks));
        }
    }
    cases.retain(|(document, _)| serde_json::from_str::<Value>(document).unwrap() != value);
    let mut misshapen = 0;
    for ((document, jwks), report) in cases.iter().zip(agree(&cases)) {
        let structure = &report["checks"][0];
        let pin = Pin::new(ISSUER, jwks);
        let ours = &receipt::verify(document.as_bytes(), &Trust::new(&pin, jwks)).checks[0];
        let passed = ours.outcome == receipt::Outcome::Passed;
        assert_eq!(structure["outcome"] == "passed", passed, "{structure}\n{}", ours.detail);
        misshapen += u32::from(!passed);
    }
    assert!(cases.len() > 150 && misshapen != 0, "{} {misshapen}", cases.len());
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
fn a_promise_of_a_place_in_the_log_is_whole_or_there_is_none() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let mut plain = draft(Environment::Production);
    plain.metadata.log.as_mut().unwrap().promise = None;
    let whole = issuer.sign(&draft(Environment::Production));
    let without = |member: &str| {
        let mut receipt: Value = serde_json::from_str(&whole).unwrap();
        receipt["metadata"]["log"].as_object_mut().unwrap().remove(member).unwrap();
        receipt.to_string()
    };
    let cases = [issuer.sign(&plain), whole.clone(), without("mergeBy"), without("nonce")];
    let verdicts: Vec<Value> = agree(&cases.map(|receipt| (receipt, &jwks)))
        .into_iter()
        .map(|report| report["verdict"].clone())
        .collect();
    assert!(verdicts.is_empty() || verdicts == ["valid", "valid", "invalid", "invalid"], "{verdicts:?}");
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
