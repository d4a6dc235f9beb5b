//! The verifier of the receipt page, run in Node beside the verifier of the crate `receipt`: what one says, the other
//! must say too, of whole receipts and of changed ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use receipt::approval::{
    AppliesTo, Approval, Assertion, Commitment, Decision, Envelope, Limits, Quote, Signer, V1,
};
use receipt::log::{self, Bundle};
use receipt::{
    Chain, Draft, Environment, Event, Json, Jwk, Jwks, Kind, Metadata, MoneyFields, NewEntry, PaymentStatus,
    Pin, Promise, SigningKey, Stage, Timestamp, Trust, Verdict,
};
use serde_json::{Value, json};

mod support;

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
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../verify/countersign.mjs"))
            .unwrap();
    let node = Command::new(std::env::var_os("COUNTERSIGN_TEST_NODE").unwrap_or_else(|| "node".into()))
        .args(["--input-type=module", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut node) = node else {
        testkit::skip("node is not installed");
        return None;
    };
    let program = format!("{script}\nconst issuer = {};\nconst cases = {cases};\n{DRIVER}", json!(ISSUER));
    node.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

const DRIVER: &str = "
const judge = globalThis.judge ?? ((text, jwks) => verify(text, jwks, { issuer }));
const reports = [];
for (const [text, believed] of cases) {
  const { verdict, sentence, place, checks } = await judge(text, believed);
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

/// What the crate says of a bundle, as `countersign verify` reads it: with the bundle's own key set if the pin bears it out, and
/// else with one that lies beside it.
fn of_bundle(text: &[u8], pin: &str, beside: Option<&Jwks>) -> String {
    let (Ok(pin), Ok(bundle)) = (Pin::parse(pin), Bundle::parse(text)) else { return "invalid".to_owned() };
    let jwks = beside.filter(|_| !pin.trusts(&bundle.jwks)).unwrap_or(&bundle.jwks);
    let trust = Trust {
        proof: Some(&bundle.proof),
        require_inclusion: true,
        allow_sandbox: true,
        ..Trust::new(&pin, jwks)
    };
    receipt::verify(&bundle.receipt, &trust).verdict.as_str().to_owned()
}

/// Both over every bundle, each with the text of its pin; they must agree.
fn agree_on_texts(cases: &[(Vec<u8>, String)], beside: Option<&Jwks>) -> Vec<String> {
    let handed: Value =
        cases.iter().map(|(bundle, pin)| json!([std::str::from_utf8(bundle).unwrap(), pin])).collect();
    let jwks = beside.map(|jwks| std::str::from_utf8(jwks.as_bytes()).unwrap());
    let options = json!({"allowSandbox": true, "jwks": jwks});
    let judge = format!("(bundle, pin) => verifyBundle(bundle, pin, {options})");
    let Some(reports) = in_node(&format!("{handed};\nglobalThis.judge = {judge};")) else {
        return Vec::new();
    };
    let said = reports.iter().map(|report| report["verdict"].as_str().unwrap().to_owned());
    let said: Vec<String> = said.collect();
    for ((bundle, pin), (verdict, report)) in cases.iter().zip(said.iter().zip(&reports)) {
        let text: String = String::from_utf8_lossy(bundle).chars().take(5000).collect();
        assert_eq!(*verdict, of_bundle(bundle, pin, beside), "{}\n{pin}\n{text}", report["sentence"]);
    }
    said
}

fn agree_on_bundles(cases: &[(Vec<u8>, Pin)]) -> Vec<String> {
    let cases: Vec<_> = cases.iter().map(|(bundle, pin)| (bundle.clone(), pin.to_text())).collect();
    agree_on_texts(&cases, None)
}

const LOG: &str = "gw.example/log/default";

/// A bundle of a receipt that is the sixth of eleven leaves, and the key of its log.
fn bundle(issuer: &Issuer, log: &log::Signer) -> Bundle {
    entered(issuer, log, log::Leaf::hour_of(at(3600)))
}

/// A bundle of a receipt whose leaf is of that hour.
fn entered(issuer: &Issuer, log: &log::Signer, hour: u32) -> Bundle {
    let receipt = issuer.sign(&draft(Environment::Production)).into_bytes();
    let leaf = log::Leaf {
        kind: log::LeafKind::Terminal,
        action_ref: [4; 32],
        hour,
        due_by: 0,
        commitment: log::Leaf::commit(&[0; 32], &receipt),
    };
    let hashes: Vec<_> =
        (0..11_u8).map(|number| if number == 5 { leaf.hash() } else { log::leaf_hash(&[number]) }).collect();
    let mut edge = log::Edge::default();
    hashes.iter().for_each(|hash| edge.push(*hash, |_, _| {}));
    let mut tiles = log::Tiles::default();
    tiles.insert(log::Tile { level: 0, index: 0, width: 11 }, hashes.as_flattened()).unwrap();
    let path = log::Plan::inclusion(5, 11).unwrap().hashes(&tiles).unwrap();
    let checkpoint = log::Checkpoint { origin: LOG.to_owned(), size: 11, root: edge.root() };
    let proof = log::Proof {
        place: log::Place { index: 5, leaf, path },
        note: log.sign(&checkpoint).unwrap(),
        compromise: None,
    };
    Bundle { receipt, jwks: Jwks::new(vec![issuer.jwk.clone()]).unwrap(), proof }
}

#[test]
fn bundles_are_judged_alike_by_pins_witnesses_and_what_became_of_keys() {
    let (issuer, log, witness) =
        (Issuer::new(), log::Signer::generate().unwrap(), log::Signer::generate().unwrap());
    let bundle = bundle(&issuer, &log);
    let key = log.log(LOG).unwrap();
    let pin = |bundle: &Bundle| Pin::new(ISSUER, &bundle.jwks).and_log(key.clone());
    let watched =
        |bundle: &Bundle| pin(bundle).witnessed(vec![witness.witness("w.example").unwrap()], 1).unwrap();
    let cosigned = |seconds: u64, bundle: &Bundle| {
        let at = at(seconds).unix_millis() / 1000;
        let line = witness.cosign("w.example", &bundle.proof.note, at).unwrap();
        signed_too(bundle, &line)
    };
    let lost = |seconds: u64| {
        let jwk = issuer.jwk.clone().retired(at(10_000)).compromised(at(seconds));
        Bundle { jwks: Jwks::new(vec![jwk]).unwrap(), ..bundle.clone() }
    };
    let other = log::Signer::generate().unwrap().log(LOG).unwrap();
    let index = |index| {
        let place = log::Place { index, ..bundle.proof.place.clone() };
        Bundle { proof: log::Proof { place, ..bundle.proof.clone() }, ..bundle.clone() }
    };
    let case = |bundle: &Bundle, pin: Pin| (bundle.to_bytes(), pin);
    // What the witness signed is another checkpoint.
    let more = log::Checkpoint { origin: LOG.to_owned(), size: 12, root: [1; 32] };
    let line = witness.cosign("w.example", &log.sign(&more).unwrap(), 5).unwrap();
    let forged = signed_too(&bundle, &line);
    // Two of three have to say so, also of when it was.
    let three = [(); 3].map(|()| log::Signer::generate().unwrap());
    let names = ["w1.example", "w2.example", "w3.example"];
    let seen_at = |seconds: [u64; 3]| {
        three.iter().zip(names).zip(seconds).fold(lost(50), |bundle, ((witness, name), seconds)| {
            let line = witness.cosign(name, &bundle.proof.note, at(seconds).unix_millis() / 1000).unwrap();
            signed_too(&bundle, &line)
        })
    };
    let two_of_three = |bundle: &Bundle| {
        let keys = three.iter().zip(names).map(|(witness, name)| witness.witness(name).unwrap());
        pin(bundle).witnessed(keys.collect(), 2).unwrap()
    };
    // Who signs twice signed at the earlier time, whichever line stands first.
    let twice = |first, second| {
        let both = cosigned(first, &lost(50));
        let line = witness.cosign("w.example", &both.proof.note, at(second).unix_millis() / 1000).unwrap();
        signed_too(&both, &line)
    };
    let cases = [
        case(&bundle, pin(&bundle)),
        case(&bundle, watched(&bundle)),
        case(&cosigned(50, &bundle), watched(&bundle)),
        case(&bundle, Pin::new(ISSUER, &bundle.jwks)),
        case(&bundle, Pin::new("https://other.example", &bundle.jwks).and_log(key.clone())),
        case(&bundle, Pin::new(ISSUER, &bundle.jwks).and_log(other)),
        case(&bundle, pin(&lost(50))),
        case(&lost(50), pin(&lost(50))),
        case(&cosigned(49, &lost(50)), watched(&lost(50))),
        case(&cosigned(51, &lost(50)), watched(&lost(50))),
        case(&lost(2), pin(&lost(2))),
        case(&index(4), pin(&bundle)),
        case(&index(11), pin(&bundle)),
        case(&forged, watched(&bundle)),
        case(&seen_at([49, 51, 51]), two_of_three(&lost(50))),
        case(&seen_at([49, 51, 49]), two_of_three(&lost(50))),
        case(&twice(49, 51), watched(&lost(50))),
        case(&twice(51, 49), watched(&lost(50))),
    ];
    let said = agree_on_bundles(&cases);
    if said.is_empty() {
        return;
    }
    assert_eq!(
        said,
        [
            "valid",
            "invalid",
            "valid",
            "invalid",
            "invalid",
            "invalid",
            "invalid",
            "time unproven",
            "valid",
            "time unproven",
            "quarantined",
            "invalid",
            "invalid",
            "invalid",
            "time unproven",
            "valid",
            "valid",
            "valid"
        ]
    );
}

#[test]
fn a_receipt_that_was_logged_at_another_time_than_it_was_made_is_refused_by_both() {
    let (issuer, log) = (Issuer::new(), log::Signer::generate().unwrap());
    let made = log::Leaf::hour_of(at(0));
    let hours = [made - 2, made - 1, made, made + 25, made + 26, made + 180 * 24, u32::MAX];
    let cases = hours.map(|hour| {
        let bundle = entered(&issuer, &log, hour);
        (bundle.to_bytes(), Pin::new(ISSUER, &bundle.jwks).and_log(log.log(LOG).unwrap()))
    });
    let said = agree_on_bundles(&cases);
    let (invalid, valid) = ("invalid", "valid");
    assert!(said.is_empty() || said == [invalid, valid, valid, valid, invalid, invalid, invalid], "{said:?}");
}

#[test]
fn a_place_that_is_promised_for_some_day_far_away_is_refused_by_both() {
    let issuer = Issuer::new();
    let jwks = Jwks::new(vec![issuer.jwk.clone()]).unwrap();
    let document = issuer.sign(&draft(Environment::Production));
    let promised = document.find("\"mergeBy\":").unwrap() + "\"mergeBy\":".len();
    let made = receipt::Document::parse(&document).unwrap().created.unix_millis();
    let latest = made + 25 * 3_600_000;
    let cases: Vec<_> = [made, latest, latest + 1, u64::MAX]
        .map(|millis| {
            let mut changed = document.clone();
            let merge_by = Timestamp::from_unix_millis(millis);
            changed.replace_range(promised..promised + 26, &format!("\"{merge_by}\""));
            (changed, &jwks)
        })
        .into();
    let reports = agree(&cases);
    let read: Vec<_> = reports.iter().map(|report| report["checks"][0]["outcome"] == "passed").collect();
    assert!(read.is_empty() || read == [true, true, false, false], "{reports:?}");
}

/// The same with one more line below its checkpoint, whatever that is.
fn signed_too(bundle: &Bundle, line: &str) -> Bundle {
    let note = log::Note::parse(&format!("{}{line}\n", bundle.proof.note)).unwrap();
    Bundle { proof: log::Proof { note, ..bundle.proof.clone() }, ..bundle.clone() }
}

/// Everything a JSON value may be turned into that looks like it and is not: by where in it.
fn misshapen(value: &Value, also: &mut Vec<Value>) {
    let (members, items) = (value.as_object(), value.as_array());
    if let Some(members) = members {
        also.push(members.values().cloned().collect());
        also.push(members.iter().map(|(name, value)| json!([name, value])).collect());
        for name in members.keys() {
            let mut without = members.clone();
            without.shift_remove(name);
            also.push(without.into());
        }
        also.push(
            members
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .chain([("zz".to_owned(), Value::Null)])
                .collect(),
        );
    }
    if let Some(items) = items {
        also.push(items.iter().enumerate().map(|(at, item)| (at.to_string(), item.clone())).collect());
        also.push(items.iter().chain(items.first()).cloned().collect());
        also.push(Value::Array(vec![items.clone().into()]));
    }
    if let Some(text) = value.as_str() {
        also.extend([
            json!([text]),
            json!({ "text": text }),
            json!(format!("{text} ")),
            json!(format!("\u{85}{text}")),
        ]);
        also.push(json!(format!("{text}{}", "A".repeat(400_000))));
    }
    if let Some(number) = value.as_u64() {
        also.extend([json!(number as f64 + 0.5), json!(number.to_string()), json!(-1), json!([number])]);
    }
    also.extend([Value::Null, json!(true), json!(0), json!(""), json!([]), json!({})]);
}

/// Each value of a document at these places put out of shape.
fn put_out_of_shape(text: &str, places: &[&str]) -> Vec<String> {
    let whole: Value = serde_json::from_str(text).unwrap();
    let mut texts = Vec::new();
    for place in places {
        let mut also = Vec::new();
        misshapen(whole.pointer(place).unwrap_or_else(|| panic!("{place}")), &mut also);
        for other in also {
            let mut changed = whole.clone();
            *changed.pointer_mut(place).unwrap() = other;
            texts.push(changed.to_string());
        }
    }
    texts
}

#[test]
fn bundles_and_pins_out_of_shape_are_judged_alike() {
    let (issuer, log, witness) =
        (Issuer::new(), log::Signer::generate().unwrap(), log::Signer::generate().unwrap());
    let bundle = bundle(&issuer, &log);
    let line = witness.cosign("w.example", &bundle.proof.note, at(50).unix_millis() / 1000).unwrap();
    let bundle = signed_too(&bundle, &line);
    let pin = Pin::new(ISSUER, &bundle.jwks).and_log(log.log(LOG).unwrap());
    let pin = pin.witnessed(vec![witness.witness("w.example").unwrap()], 1).unwrap().to_text();
    let whole = String::from_utf8(bundle.to_bytes()).unwrap();
    let places = [
        "",
        "/spec",
        "/jwks",
        "/jwks/keys",
        "/jwks/keys/0",
        "/proof",
        "/proof/checkpoint",
        "/proof/compromise",
        "/proof/index",
        "/proof/leaf",
        "/proof/path",
        "/proof/path/0",
        "/proof/spec",
        "/receipt",
        "/receipt/metadata/log",
        "/receipt/metadata/log/origin",
        "/receipt/metadata/log/nonce",
        "/receipt/signature/value",
    ];
    let mut cases: Vec<(Vec<u8>, String)> =
        put_out_of_shape(&whole, &places).into_iter().map(|text| (text.into_bytes(), pin.clone())).collect();
    let places = [
        "",
        "/issuer",
        "/jwks",
        "/jwks/0",
        "/logs",
        "/logs/0",
        "/witnesses",
        "/witnesses/keys",
        "/witnesses/keys/0",
        "/witnesses/need",
    ];
    let bytes = || whole.clone().into_bytes();
    cases.extend(put_out_of_shape(&pin, &places).into_iter().map(|pin| (bytes(), pin)));
    for (from, to) in [
        ("\"witnesses\":", "\"witneses\":"),
        ("\"need\":1", "\"need\":1.0"),
        ("\"need\":1", "\"need\":2"),
        ("\"need\":1", "\"need\":0,\"need\":1"),
        ("\"issuer\":", "\"witnesses\":{\"keys\":[],\"need\":0},\"issuer\":"),
        ("sha256:", "sha256:AA"),
        ("{\"issuer\"", " \n{\"issuer\""),
        ("{\"issuer\"", "\u{85}{\"issuer\""),
        ("{\"issuer\"", "\u{feff}{\"issuer\""),
    ] {
        assert!(pin.contains(from), "{from}");
        cases.push((bytes(), pin.replacen(from, to, 1)));
    }
    cases.push((bytes(), "sha256:".to_owned() + &"0".repeat(64)));
    // Names that one reader might take for names, and another not; and a line of more than any signature.
    let long = base64(&vec![7; 140_000]);
    for name in ["w\u{85}x", "w\u{feff}x", "w\u{2028}x", "w\u{a0}x", "w+x", "w\u{200b}x"] {
        let note = format!("{}\u{2014} {name} {}\n", bundle.proof.note, base64(&[7; 76]));
        cases.push((with_note(&whole, &note), pin.clone()));
    }
    cases.push((with_note(&whole, &format!("{}\u{2014} w {long}\n", bundle.proof.note)), pin.clone()));
    // By bytes, not by characters.
    for more in [5 << 20, 3 << 20] {
        let padded = whole.replacen(
            "\"agentId\":\"agent-1\"",
            &format!("\"agentId\":\"{}\"", "\u{e4}".repeat(more / 2)),
            1,
        );
        assert_ne!(padded, whole);
        cases.push((padded.into_bytes(), pin.clone()));
    }
    cases.push((format!("{whole}{}", " ".repeat(8 << 20)).into_bytes(), pin.clone()));
    let said = agree_on_texts(&cases, None);
    let valid = said.iter().filter(|verdict| *verdict == "valid").count();
    assert!(said.is_empty() || (said.len() > 250 && valid > 0), "{} {valid}", said.len());
}

fn with_note(bundle: &str, note: &str) -> Vec<u8> {
    let mut changed: Value = serde_json::from_str(bundle).unwrap();
    changed["proof"]["checkpoint"] = note.into();
    changed.to_string().into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

#[test]
fn a_key_set_that_is_pinned_stands_in_for_a_bundles_own_that_is_not() {
    let (issuer, log) = (Issuer::new(), log::Signer::generate().unwrap());
    let bundle = bundle(&issuer, &log);
    let now = Jwks::new(vec![issuer.jwk.clone().retired(at(100)), Issuer::new().jwk]).unwrap();
    let lost = Jwks::new(vec![issuer.jwk.clone().retired(at(100)).compromised(at(2))]).unwrap();
    let case = |jwks: &Jwks| {
        let pin = Pin::new(ISSUER, jwks).and_log(log.log(LOG).unwrap());
        [(bundle.to_bytes(), pin.to_text())]
    };
    for (pinned, beside, verdict) in [
        (&now, Some(&now), "valid"),
        (&lost, Some(&lost), "quarantined"),
        (&now, None, "invalid"),
        (&now, Some(&lost), "invalid"),
        (&bundle.jwks, Some(&lost), "valid"),
    ] {
        let said = agree_on_texts(&case(pinned), beside);
        assert!(said.is_empty() || said == [verdict], "{said:?}");
    }
}

#[test]
fn a_bundles_own_key_set_is_read_whole_whichever_is_used() {
    let (issuer, log) = (Issuer::new(), log::Signer::generate().unwrap());
    let bundle = bundle(&issuer, &log);
    let pin = Pin::new(ISSUER, &bundle.jwks).and_log(log.log(LOG).unwrap()).to_text();
    let whole: Value = serde_json::from_slice(&bundle.to_bytes()).unwrap();
    let key = &whole["jwks"]["keys"][0];
    let with = |member: &str, value: Value| {
        let mut changed = key.clone();
        changed[member] = value;
        json!({"keys": [changed]})
    };
    let mut sets =
        vec![Value::Null, json!(5), json!([]), json!({}), json!({"keys": {}}), json!({"keys": [5]})];
    sets.extend([json!({"keys": []}), json!({"keys": [key, key]}), json!({"keys": [key], "more": 1})]);
    sets.extend(["d", "k", "oth", "more"].map(|member| with(member, Value::Null)));
    for member in key.as_object().unwrap().keys() {
        sets.extend([Value::Null, json!(""), json!("x"), json!(5)].map(|value| with(member, value)));
        let mut without = key.clone();
        without.as_object_mut().unwrap().remove(member);
        sets.push(json!({"keys": [without]}));
    }
    let mut backwards = key.clone();
    backwards["ep_active_through"] = json!("2020-01-01T00:00:00.000Z");
    backwards["ep_status"] = json!("verify-only");
    sets.push(json!({"keys": [backwards]}));
    let with_set = |jwks: &Value| {
        let mut changed = whole.clone();
        changed["jwks"] = jwks.clone();
        (changed.to_string().into_bytes(), pin.clone())
    };
    let cases: Vec<_> = sets.iter().map(with_set).collect();
    let said = agree_on_texts(&cases, Some(&bundle.jwks));
    let valid = said.iter().filter(|verdict| *verdict == "valid").count();
    assert!(said.is_empty() || (valid > 5 && valid < 20), "{said:?}");
}

#[tokio::test]
async fn what_a_gateway_proves_of_a_key_that_was_lost_later_is_valid_in_both() {
    let served = support::Served::start().await;
    let done = served.executed().await;
    let receipt = done["receipt_id"].as_str().unwrap_or_else(|| panic!("{done}")).to_owned();
    let bundle = |wanted: fn(&Bundle) -> bool| {
        let (served, path) = (&served, format!("/sandbox/v1/receipts/{receipt}/bundle"));
        async move {
            for _ in 0..2000 {
                let found = served.get(&path).send().await.unwrap();
                if found.status() == 200 {
                    let bundle = Bundle::parse(&found.bytes().await.unwrap()).unwrap();
                    if wanted(&bundle) {
                        return bundle;
                    }
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            panic!("there never was a bundle like that");
        }
    };
    let before = bundle(|_| true).await;
    let document = receipt::Document::parse(std::str::from_utf8(&before.receipt).unwrap()).unwrap();
    let since = Timestamp::from_unix_millis(document.created.unix_millis() + 1);
    let sandbox = served.sandbox();
    let admin = gateway::Caller {
        role: gateway::Role::Admin,
        tenant: action::Tenant::default(),
        ..gateway::Gateway::anonymous()
    };
    sandbox.compromise_signing_key(&admin, &document.kid, since.as_str().to_owned()).await.unwrap();
    let shown = bundle(|bundle| bundle.proof.compromise.is_some()).await;
    let log = sandbox.log_key(&gateway::Gateway::anonymous()).unwrap().parse().unwrap();
    let pin = Pin::new(sandbox.issuer(), &shown.jwks).and_log(log).to_text();
    let bare = Bundle { proof: log::Proof { compromise: None, ..shown.proof.clone() }, ..shown.clone() };
    let said = agree_on_texts(&[(shown.to_bytes(), pin.clone()), (bare.to_bytes(), pin)], None);
    assert!(said.is_empty() || said == ["valid", "time unproven"], "{said:?}");
}

#[test]
fn a_bundle_that_was_touched_anywhere_is_refused_by_both() {
    let (issuer, log) = (Issuer::new(), log::Signer::generate().unwrap());
    let bundle = bundle(&issuer, &log);
    let pin = Pin::new(ISSUER, &bundle.jwks).and_log(log.log(LOG).unwrap());
    let whole = bundle.to_bytes();
    let mut cases = Vec::new();
    for place in (0..whole.len()).step_by(29) {
        for bit in [1, 2, 4] {
            let mut touched = whole.clone();
            touched[place] ^= bit;
            if std::str::from_utf8(&touched).is_ok() {
                cases.push((touched, pin.clone()));
            }
        }
    }
    let text = String::from_utf8(whole.clone()).unwrap();
    for (from, to) in [
        ("\"compromise\":null,", ""),
        ("\"spec\":\"countersign-proof/1\"", "\"spec\":\"countersign-proof/2\""),
        ("\"index\":5", "\"index\":5.5"),
        ("\"index\":5", "\"index\":-5"),
        ("\"path\":[", "\"path\":[\"AA\","),
        ("\"proof\":{", "\"proof\":{\"more\":1,"),
    ] {
        assert!(text.contains(from));
        cases.push((text.replacen(from, to, 1).into_bytes(), pin.clone()));
    }
    let said = agree_on_bundles(&cases);
    assert!(said.iter().all(|verdict| verdict == "invalid"));
    assert!(said.is_empty() || said.len() > 200);
}
