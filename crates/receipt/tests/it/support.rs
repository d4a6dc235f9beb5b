//! A fixed key, fixed receipts, and what every test does with them.

use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;

use countersign_receipt as receipt;
use receipt::approval::{Commitment, Decision, Envelope, Quote, V1};
use receipt::{
    Chain, Checkpoint, Disclosures, Draft, Environment, Event, Json, Jwk, Jwks, Kind, Metadata, MoneyFields,
    NewEntry, Observed, PaymentStatus, Pin, Receipt, Report, Salts, SigningKey, Stage, Timestamp, Trust,
    VerifyingKey,
};
use serde_json::{Map, Value, json};

pub(crate) const ISSUER: &str = "https://gateway.example";
pub(crate) const ACTION_SALT: [u8; 32] = [7; 32];

/// A key for tests only.
pub(crate) fn key() -> SigningKey {
    let hex = include_str!("../golden/test-key.pkcs8.hex").trim();
    SigningKey::from_pkcs8(&hex::decode(hex).unwrap()).unwrap()
}

pub(crate) fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// The key set of the test key, active since the start of 2026.
pub(crate) fn jwks() -> Jwks {
    Jwks::new(vec![Jwk::active(key().public().clone(), at("2026-01-01T00:00:00.000Z"))]).unwrap()
}

/// Verifies against the test key's own set.
pub(crate) fn verify(document: &[u8]) -> Report {
    static JWKS: LazyLock<Jwks> = LazyLock::new(jwks);
    verify_with(document, &JWKS, false, &Disclosures::default())
}

pub(crate) fn verify_with(
    document: &[u8],
    jwks: &Jwks,
    allow_sandbox: bool,
    disclosures: &Disclosures,
) -> Report {
    let pin = Pin::new(ISSUER, jwks);
    receipt::verify(document, &Trust { allow_sandbox, disclosures, ..Trust::new(&pin, jwks) })
}

/// What the golden payment asked for; `note` is public, the rest is committed.
pub(crate) fn constraints() -> Map<String, Value> {
    let constraints = json!({
        "recipient": "acct-4711",
        "amount_usd": "125.00",
        "max_total_usd": "200.00",
        "note": "Rent, \"April\" \u{20ac}\n",
    });
    constraints.as_object().unwrap().clone()
}

pub(crate) fn salts() -> Salts {
    Salts::new(&ACTION_SALT)
}

/// Nine entries, one of each stage, 3 ms apart.
pub(crate) fn executed_chain() -> Chain {
    let concealed = salts().conceal("/constraints", &constraints(), |name| name == "note").unwrap();
    let mut millis = 1_777_291_200_000;
    let mut entry = |input: Json, output: Value| {
        millis += 3;
        let at = Timestamp::from_unix_millis(millis);
        NewEntry { input, output: Json::canonical(&output).unwrap(), latency_ms: 3, ..NewEntry::at(at) }
    };
    let mut chain = Chain::genesis(entry(Json::NULL, json!({"requestHash": "ab".repeat(32)}))).unwrap();
    let digest = Json::string("sha256:00");
    let boundary = entry(Json::NULL, json!({"verdict": "pass", "determining": ["policy0"], "ratio": 0.25}));
    for (stage, entry) in [
        (Stage::TokenValidation, entry(Json::NULL, json!({"tokenId": "mnd-1", "valid": true}))),
        (
            Stage::Schema,
            entry(concealed, json!({"valid": true, "depth": [[1, {"b": [], "a": {}}], -2.5e-7]})),
        ),
        (
            Stage::Boundary,
            NewEntry { metadata: vec![("policyDigest", digest), ("agent", Json::NULL)], ..boundary },
        ),
        (Stage::Completeness, entry(Json::NULL, json!({"missing": []}))),
        (Stage::Math, entry(Json::NULL, json!({"n": 12, "median": 9900, "mad": 1200}))),
        (
            Stage::Execute,
            NewEntry { cost: Some("0.35"), ..entry(Json::NULL, json!({"reference": "bank-1"})) },
        ),
        (Stage::CommitAuthSplit, entry(Json::NULL, json!({"committed": true}))),
        (Stage::Receipt, entry(Json::NULL, Value::Null)),
    ] {
        chain.push(stage, entry).unwrap();
    }
    chain
}

/// The nine entries of an action that a person was asked about, as gateways write them.
pub(crate) fn approved_chain() -> Chain {
    let entry = |input: Value, output: Value| NewEntry {
        input: Json::canonical(&input).unwrap(),
        output: Json::canonical(&output).unwrap(),
        ..NewEntry::at(at("2026-04-27T12:00:00.000Z"))
    };
    let Envelope { catalog_digest, policy_digest, request_hash, constraints, .. } = envelope();
    let constraints: Value = serde_json::from_str(constraints.as_str()).unwrap();
    let looked =
        json!({"archetype": "PAYMENT_TRANSFER", "catalogDigest": catalog_digest, "constraints": constraints});
    let mut chain = Chain::genesis(entry(Value::Null, json!({"requestHash": request_hash}))).unwrap();
    for stage in Stage::ALL.into_iter().skip(1) {
        let input = match stage {
            Stage::Schema => looked.clone(),
            Stage::Boundary => json!({"action": "PAYMENT_TRANSFER", "policyDigest": policy_digest}),
            _ => Value::Null,
        };
        chain.push(stage, entry(input, Value::Null)).unwrap();
    }
    chain
}

/// What alice was asked about the golden payment.
pub(crate) fn envelope() -> Envelope {
    let committed = |label: &str, value: Value| {
        Commitment::parse(&salts().commit(label, &Json::canonical(&value).unwrap())).unwrap()
    };
    let digest = |text: &str| format!("sha256:{}", text.repeat(32));
    Envelope {
        action_id: executed_draft().transaction_id.into_owned(),
        approver: committed("/approvals/0/approver", json!("alice")),
        binding_digests: [("rollback".to_owned(), digest("66")), ("execute".to_owned(), digest("55"))].into(),
        catalog_digest: digest("22"),
        comment: Some(committed("/approvals/0/comment", json!("rent, as every month"))),
        constraints: salts().conceal("/constraints", &constraints(), |name| name == "note").unwrap(),
        decision: Decision::Approve,
        escalation_id: "01966a50-0000-7000-8000-0000000000c1".to_owned(),
        expires_at: at("2026-04-28T11:59:00.000Z"),
        limits: None,
        nonce: [9; 32],
        policy_digest: digest("11"),
        quote: Some(Quote { amount: "125.00".to_owned(), currency: "USD".to_owned() }),
        reasons: vec!["class:9".to_owned(), "policy:large-payments".to_owned()],
        request_hash: "ab".repeat(32),
        rollback: Some(committed("/rollback", json!({"binding": "bank.reverse"}))),
        summary_digest: committed("/approvals/0/summary", json!("Pay 125.00 USD to acct-4711")),
        v: V1,
    }
}

/// Genesis, the stages named, and the end; the last of those named refused.
pub(crate) fn refused_chain(stages: &[Stage]) -> Chain {
    let now = at("2026-04-27T12:00:00.010Z");
    let mut chain = Chain::genesis(NewEntry::at(now)).unwrap();
    for (index, stage) in stages.iter().enumerate() {
        let code = json!({"code": "EP_BOUNDARY_BLOCK", "message": "the action is on the hard-deny list"});
        let error = if index + 1 == stages.len() { Json::canonical(&code).unwrap() } else { Json::NULL };
        chain.push(*stage, NewEntry { error, ..NewEntry::at(now) }).unwrap();
    }
    chain.push(Stage::Receipt, NewEntry::at(now)).unwrap();
    chain
}

pub(crate) fn executed_draft() -> Draft<'static> {
    Draft {
        receipt_id: "01966a50-0000-7000-8000-0000000000a1".into(),
        transaction_id: "01966a50-0000-7000-8000-0000000000b1".into(),
        agent_id: "agent-1".into(),
        session_id: Some("session-1".into()),
        event: Event::Original,
        payment_status: PaymentStatus::Charged,
        money: MoneyFields {
            offer_currency: Some("USD".into()),
            offer_amount: Some("125.00".into()),
            charge_currency: Some("USD".into()),
            charge_amount: Some("125.00".into()),
        },
        idempotency_key: Some("rent-2026-04".into()),
        replica_id: "replica-1".into(),
        chain_id: "chain-1".into(),
        regulatory_framework: vec!["PSD2".into(), "DORA".into()],
        metadata: Metadata {
            issuer: ISSUER.into(),
            tenant: "default".into(),
            environment: Environment::Production,
            archetype: Some("PAYMENT_TRANSFER".into()),
            kind: Kind::Executed,
            mandate_id: Some("mnd-1".into()),
            intent_id: None,
            guarantee_level: Some("ATP-3".into()),
            policy_digest: Some("sha256:11".into()),
            catalog_digest: Some("sha256:22".into()),
            entity_digest: Some("sha256:33".into()),
            approvals: vec![],
            observed: None,
            log: Some(Checkpoint {
                origin: "gateway.example/log".into(),
                size: 42,
                root: "00".repeat(32).into(),
                promise: None,
            }),
        },
    }
}

/// A refusal: nothing charged, no approval, no log yet.
pub(crate) fn blocked_draft() -> Draft<'static> {
    let executed = executed_draft();
    Draft {
        receipt_id: "01966a50-0000-7000-8000-0000000000a2".into(),
        transaction_id: "01966a50-0000-7000-8000-0000000000b2".into(),
        session_id: None,
        payment_status: PaymentStatus::NotCharged,
        money: MoneyFields::default(),
        idempotency_key: None,
        regulatory_framework: vec![],
        metadata: Metadata {
            archetype: Some("delete_audit_log".into()),
            kind: Kind::Blocked,
            mandate_id: None,
            guarantee_level: None,
            approvals: vec![],
            observed: Some(Observed { would_be: "block".into(), code: Some("EP_BOUNDARY_BLOCK".into()) }),
            log: None,
            ..executed.metadata
        },
        ..executed
    }
}

pub(crate) fn executed() -> Receipt {
    receipt::sign(&executed_draft(), &executed_chain(), &key()).unwrap()
}

/// Holds a way to check signatures against every one of a file of Wycheproof's, as far as it can be asked; says how many.
pub(crate) fn wycheproof(
    file: &str,
    verifies: impl Fn(&VerifyingKey, &[u8], &[u8]) -> Option<bool>,
) -> Option<usize> {
    let text = std::fs::read(vectors(&format!("wycheproof/{file}"))?).unwrap();
    let suite: Value = serde_json::from_slice(&text).unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let mut seen = 0;
    for group in suite["testGroups"].as_array().unwrap() {
        let key = VerifyingKey::from_point(&bytes(&group["publicKey"]["uncompressed"])).unwrap();
        for test in group["tests"].as_array().unwrap() {
            if let Some(found) = verifies(&key, &bytes(&test["msg"]), &bytes(&test["sig"])) {
                assert_eq!(found, test["result"] == "valid", "{test}");
                seen += 1;
            }
        }
    }
    Some(seen)
}

/// Vectors stand beside the workspace; without them a test says so and passes.
pub(crate) fn vectors(path: &str) -> Option<PathBuf> {
    let found = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors").join(path);
    if !found.exists() {
        skip(&format!("no vectors at ../shared/vectors/{path}"));
        return None;
    }
    Some(found)
}

/// As `skip` of the testkit, which this crate does without; but not all vectors are given everywhere, and none can be installed.
fn skip(lacking: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {lacking}\n", thread.name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
