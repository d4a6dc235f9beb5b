//! An approved payment, and everything about its approval that can be wrong in the receipt.

use countersign_receipt as receipt;
use receipt::approval::{AppliesTo, Approval, Approvers, Decision, Envelope, Limits, Quote, Signer};
use receipt::{
    Amendment, Chain, CheckName, Disclosure, Disclosures, Draft, Event, Json, Kind, Metadata, NewEntry,
    Outcome, PaymentStatus, Pin, Place, Receipt, Report, Stage, Timestamp, Trust, Verdict,
};
use serde_json::{Value, json};

use crate::authenticator::Authenticator;
use crate::support::{ISSUER, approved_chain, at, envelope, executed_draft, jwks, key, salts};

const GIVEN: &str = "2026-04-27T11:59:30.000Z";

pub(crate) fn passkey_approval() -> Approval {
    signed_by(&Authenticator::golden(), envelope())
}

/// An approval by someone who only holds an API key.
pub(crate) fn key_approval() -> Approval {
    let envelope = Envelope { nonce: [10; 32], comment: None, rollback: None, ..envelope() };
    Approval::new(envelope, at(GIVEN), Signer::Key { id: "key-7".to_owned() }).unwrap()
}

pub(crate) fn approved_draft(approvals: Vec<Approval>) -> Draft<'static> {
    let executed = executed_draft();
    Draft {
        receipt_id: "01966a50-0000-7000-8000-0000000000a7".into(),
        metadata: Metadata { approvals, ..executed.metadata },
        ..executed
    }
}

pub(crate) fn approved() -> Receipt {
    sign(vec![passkey_approval()])
}

pub(crate) fn pinned() -> Approvers {
    Approvers::new(vec![Authenticator::golden().approver("alice")]).unwrap()
}

fn signed_by(authenticator: &Authenticator, envelope: Envelope) -> Approval {
    given(authenticator, envelope, at(GIVEN))
}

fn given(authenticator: &Authenticator, envelope: Envelope, at: Timestamp) -> Approval {
    let assertion = authenticator.get(&envelope.challenge().unwrap());
    Approval::new(envelope, at, Signer::Passkey { assertion, public_key: Some(authenticator.public_key()) })
        .unwrap()
}

/// Signed by the gateway, whatever it claims: the gateway is not to be believed here.
fn sign(approvals: Vec<Approval>) -> Receipt {
    receipt::sign(&approved_draft(approvals), &approved_chain(), &key()).unwrap()
}

fn judge(receipt: &Receipt, approvers: &Approvers, disclosures: &Disclosures) -> Report {
    judge_strictly(receipt, approvers, disclosures, false)
}

fn judge_strictly(
    receipt: &Receipt,
    approvers: &Approvers,
    disclosures: &Disclosures,
    require_approvals: bool,
) -> Report {
    let jwks = jwks();
    let pin = Pin::new(ISSUER, &jwks);
    let trust = Trust { disclosures, approvers, require_approvals, ..Trust::new(&pin, &jwks) };
    receipt::verify(receipt.as_bytes(), &trust)
}

fn pinned_verdict(receipt: &Receipt) -> Verdict {
    judge(receipt, &pinned(), &Disclosures::default()).verdict
}

/// The lines about approvals.
fn lines(report: &Report) -> Vec<(Outcome, String)> {
    let approvals = report.checks.iter().filter(|check| check.name == CheckName::Approval);
    approvals.map(|check| (check.outcome, check.detail.to_string())).collect()
}

/// The verdict is invalid because of this approval, for this reason.
fn refused(verdict: &Verdict, index: usize, why: &str) {
    let Verdict::Invalid(failure) = verdict else { panic!("passed: {why}") };
    assert_eq!(failure.place, Place::Member(format!("metadata.approvals[{index}]")), "{failure}");
    assert!(failure.why.contains(why), "{failure}\n{why}");
}

#[test]
fn a_pinned_approver_verifies() {
    let report = judge(&approved(), &pinned(), &Disclosures::default());
    assert_eq!(report.verdict, Verdict::Valid);
    assert_eq!(lines(&report), [(Outcome::Passed, "verified: number 0, signed by `alice`".to_owned())]);
    assert_eq!(report.unproven_approvals(), 0);
}

#[test]
fn what_is_not_proven_is_said_though_nothing_is_wrong() {
    let Signer::Passkey { assertion, .. } = passkey_approval().signer().clone() else { panic!() };
    let keyless =
        Approval::new(envelope(), at(GIVEN), Signer::Passkey { assertion, public_key: None }).unwrap();
    for (approval, said) in [
        (passkey_approval(), "signed, key unpinned"),
        (keyless, "signature not checked"),
        (key_approval(), "not signed"),
    ] {
        let report = judge(&sign(vec![approval]), &Approvers::default(), &Disclosures::default());
        assert_eq!(report.verdict, Verdict::Valid);
        let [(Outcome::Skipped, line)] = &lines(&report)[..] else { panic!("{said}") };
        assert!(line.starts_with(said), "{line}");
        assert_eq!(report.unproven_approvals(), 1);
    }
}

#[test]
fn a_receipt_without_approvals_has_no_line_about_them() {
    let report = judge(&sign(vec![]), &pinned(), &Disclosures::default());
    assert_eq!((report.verdict, report.checks.len()), (Verdict::Valid, CheckName::ALL.len()));
}

#[test]
fn an_envelope_that_says_otherwise_than_the_receipt_is_refused_though_it_is_signed() {
    type Change = fn(&mut Envelope);
    let cases: [(Change, &str); 8] = [
        (|e| e.action_id = "01966a50-0000-7000-8000-0000000000b9".to_owned(), "of action"),
        (|e| e.request_hash = "cd".repeat(32), "another `requestHash` than the entry `__genesis__`"),
        (|e| e.catalog_digest.push('0'), "another `catalogDigest` than the entry `schema`"),
        (|e| e.policy_digest.push('0'), "another `policyDigest` than the entry `boundary`"),
        (
            |e| e.constraints = Json::canonical(&json!({"amount_usd": "125.00"})).unwrap(),
            "another `constraints` than the entry `schema`",
        ),
        (|e| e.quote.as_mut().unwrap().amount = "126.00".to_owned(), "price"),
        (|e| e.decision = Decision::Reject, "rejected"),
        (|e| e.expires_at = at(GIVEN), "expired"),
    ];
    for (change, why) in cases {
        let mut other = envelope();
        change(&mut other);
        let receipt = sign(vec![key_approval(), signed_by(&Authenticator::golden(), other)]);
        refused(&pinned_verdict(&receipt), 1, why);
        let unpinned = judge(&receipt, &Approvers::default(), &Disclosures::default());
        refused(&unpinned.verdict, 1, why);
    }
    let late = given(&Authenticator::golden(), envelope(), at("2026-04-27T12:00:00.001Z"));
    refused(&pinned_verdict(&sign(vec![late])), 0, "younger than the receipt");
}

#[test]
fn an_envelope_moved_to_terms_that_nobody_signed_is_refused() {
    let Signer::Passkey { assertion, public_key } = passkey_approval().signer().clone() else { panic!() };
    let dearer = Envelope { reasons: vec![], ..envelope() };
    let moved = Approval::new(dearer, at(GIVEN), Signer::Passkey { assertion, public_key }).unwrap();
    refused(&pinned_verdict(&sign(vec![moved])), 0, "another challenge was signed");
}

#[test]
fn nobody_signs_for_another() {
    let (alice, bob) = (Authenticator::golden(), Authenticator::another());
    // Bob's own credential, of whom the verifier has never heard.
    let receipt = sign(vec![signed_by(&bob, envelope())]);
    refused(&pinned_verdict(&receipt), 0, "is none of the pinned approvers'");

    // Bob's signature under alice's credential, with his key and with hers.
    let mut assertion = bob.get(&envelope().challenge().unwrap());
    assertion.credential_id = alice.id.clone();
    for (public_key, why) in [
        (Some(bob.public_key()), "another key than the one pinned for `alice`"),
        (Some(alice.public_key()), "not signed by `alice`: the signature does not fit"),
        (None, "not signed by `alice`: the signature does not fit"),
    ] {
        let signer = Signer::Passkey { assertion: assertion.clone(), public_key };
        let receipt = sign(vec![Approval::new(envelope(), at(GIVEN), signer).unwrap()]);
        refused(&pinned_verdict(&receipt), 0, why);
    }

    // Without a pin the key that the receipt names must still fit.
    let signer = Signer::Passkey { assertion, public_key: Some(alice.public_key()) };
    let receipt = sign(vec![Approval::new(envelope(), at(GIVEN), signer).unwrap()]);
    let unpinned = judge(&receipt, &Approvers::default(), &Disclosures::default());
    refused(&unpinned.verdict, 0, "the signature does not fit");
}

#[test]
fn whoever_is_disclosed_must_be_whoever_signed() {
    let receipt = approved();
    let opening = |name: &str| Disclosure {
        receipt_id: "01966a50-0000-7000-8000-0000000000a7".to_owned(),
        stage: None,
        path: "/metadata/approvals/0/envelope/approver".to_owned(),
        salt: salts().salt("/approvals/0/approver"),
        value: Json::string(name),
    };
    let judged =
        |approvers: &Approvers| judge(&receipt, approvers, &[opening("alice")].into_iter().collect());
    assert_eq!(judged(&pinned()).verdict, Verdict::Valid);
    let carol = Approvers::new(vec![Authenticator::golden().approver("carol")]).unwrap();
    refused(&judged(&carol).verdict, 0, "its envelope names \"alice\", but `carol` signed");
}

#[test]
fn one_person_counts_once_for_one_question() {
    let (one, two) = (Authenticator::golden(), Authenticator::another());
    let again = |nonce| Envelope { nonce: [nonce; 32], ..envelope() };
    let first = || signed_by(&one, envelope());
    let alice_twice = Approvers::new(vec![one.approver("alice"), two.approver("alice")]).unwrap();
    let both = Approvers::new(vec![one.approver("alice"), two.approver("bob")]).unwrap();
    let verdict = |approvers: &Approvers, second: Approval| {
        judge(&sign(vec![first(), second]), approvers, &Disclosures::default()).verdict
    };
    assert_eq!(verdict(&both, signed_by(&two, again(1))), Verdict::Valid);
    refused(&verdict(&both, signed_by(&one, again(1))), 1, "no more than `metadata.approvals[0]`");
    refused(&verdict(&alice_twice, signed_by(&two, again(1))), 1, "no more than `metadata.approvals[0]`");
    refused(&verdict(&both, signed_by(&two, envelope())), 1, "no more than `metadata.approvals[0]`");
    let later = Envelope { escalation_id: "another question".to_owned(), ..again(1) };
    assert_eq!(verdict(&both, signed_by(&one, later)), Verdict::Valid);
}

#[test]
fn more_people_than_are_ever_asked_are_refused() {
    let asked = |people: u8| {
        let approvals = (0..people).map(|one| {
            let envelope = Envelope { nonce: [one; 32], ..envelope() };
            Approval::new(envelope, at(GIVEN), Signer::Key { id: format!("key-{one}") }).unwrap()
        });
        receipt::sign(&approved_draft(approvals.collect()), &approved_chain(), &key())
    };
    assert_eq!(pinned_verdict(&asked(32).unwrap()), Verdict::Valid);
    assert_eq!(asked(33).unwrap_err().to_string(), "member `metadata.approvals` are more than 32");
}

#[test]
fn a_refusal_may_show_who_said_no() {
    let envelope = Envelope { decision: Decision::Reject, ..envelope() };
    let mut draft = approved_draft(vec![signed_by(&Authenticator::golden(), envelope)]);
    draft.metadata.kind = Kind::Blocked;
    draft.payment_status = PaymentStatus::NotCharged;
    let receipt = receipt::sign(&draft, &approved_chain(), &key()).unwrap();
    assert_eq!(pinned_verdict(&receipt), Verdict::Valid);
}

#[test]
fn an_approval_where_its_action_is_not_described_is_refused() {
    let chain = crate::support::refused_chain(&[receipt::Stage::TokenValidation]);
    let mut draft = approved_draft(vec![passkey_approval()]);
    draft.metadata.kind = Kind::Blocked;
    let receipt = receipt::sign(&draft, &chain, &key()).unwrap();
    refused(&pinned_verdict(&receipt), 0, "another `requestHash`");
}

#[test]
fn an_approval_has_one_form() {
    let approval = passkey_approval();
    let value: Value = serde_json::from_str(approval.json().as_str()).unwrap();
    assert_eq!(Approval::parse(&serde_json::to_vec_pretty(&value).unwrap()).unwrap(), approval);
    let mut seen = 0;
    for pointer in ["", "/assertion", "/envelope", "/envelope/quote", "/public_key"] {
        let names: Vec<String> =
            value.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect();
        let parse = |change: &dyn Fn(&mut Value)| {
            let mut changed = value.clone();
            change(changed.pointer_mut(pointer).unwrap());
            Approval::parse(changed.to_string().as_bytes())
        };
        for name in names {
            seen += 1;
            let without = parse(&|object| drop(object.as_object_mut().unwrap().shift_remove(&name)));
            assert!(without.is_err(), "{pointer}/{name} is left out");
            assert!(
                parse(&|object| object[&name] = json!([[]])).is_err(),
                "{pointer}/{name} is of another kind"
            );
        }
        assert!(parse(&|object| object["more"] = Value::Null).is_err(), "{pointer}/more is added");
    }
    assert_eq!(seen, 7 + 3 + 17 + 2 + 4);

    let text = approval.json().as_str();
    for (from, to) in [
        ("\"form\":\"passkey\"", "\"form\":\"key\""),
        ("\"form\":\"passkey\"", "\"form\":\"word\""),
        (",\"decision\":\"approve\",\"envelope\"", ",\"decision\":\"reject\",\"envelope\""),
        ("\"v\":1", "\"v\":2"),
        ("\"at\":\"2026-04-27T11:59:30.000Z\"", "\"at\":\"2026-04-27T11:59:30Z\""),
        ("\"form\":", "\"form\":\"passkey\",\"form\":"),
        ("\"approver\":\"c:", "\"approver\":\"c:A"),
        ("\"approver\":\"c:", "\"approver\":\"d:"),
        ("\"signature\":\"", "\"signature\":\"="),
        ("\"credential_id\":\"", "\"credential_id\":\"*"),
        ("\"kty\":\"EC\"", "\"kty\":\"RSA\""),
        ("\"amount\":\"125.00\"", "\"amount\":\"-125.00\""),
        ("\"request_hash\":\"ab", "\"request_hash\":\"AB"),
        ("\"execute\":", "\"exécute\":"),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(Approval::parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn approvers_are_read_strictly() {
    let text = pinned().to_json().unwrap().to_string();
    assert_eq!(Approvers::parse(text.as_bytes()).unwrap(), pinned());
    let twice = format!("[{0},{0}]", &text[1..text.len() - 1]);
    for broken in [
        "[]".to_owned(),
        "{}".to_owned(),
        twice,
        text.replace("\"rp_id\"", "\"rpId\""),
        text.replace("\"approver\"", "\"more\":1,\"approver\""),
        text.replace("\"approver\"", "\"approver\":\"bob\",\"approver\""),
        text.replace("\"crv\":\"P-256\"", "\"crv\":\"P-384\""),
        text.replace("\"x\":\"", "\"x\":\"A"),
    ] {
        assert!(Approvers::parse(broken.as_bytes()).is_err(), "{broken}");
    }
}

/// A receipt of this level and kind, with this said by its entry `boundary`, and sent or not.
fn of(level: &str, kind: Kind, boundary: Value, sent: bool, approvals: Vec<Approval>) -> Receipt {
    let Envelope { catalog_digest, policy_digest, request_hash, constraints, .. } = envelope();
    let entry = |input: Value, output: Value| NewEntry {
        input: Json::canonical(&input).unwrap(),
        output: Json::canonical(&output).unwrap(),
        ..NewEntry::at(at("2026-04-27T12:00:00.000Z"))
    };
    let constraints: Value = serde_json::from_str(constraints.as_str()).unwrap();
    let mut chain = Chain::genesis(entry(Value::Null, json!({"requestHash": request_hash}))).unwrap();
    for stage in Stage::ALL.into_iter().skip(1) {
        let (input, output) = match stage {
            Stage::Schema => {
                (json!({"catalogDigest": catalog_digest, "constraints": constraints}), Value::Null)
            }
            Stage::Boundary => (json!({"policyDigest": policy_digest}), boundary.clone()),
            Stage::Execute if sent => (json!({"providerKey": "k"}), Value::Null),
            _ => (Value::Null, Value::Null),
        };
        chain.push(stage, entry(input, output)).unwrap();
    }
    let mut draft = approved_draft(approvals);
    draft.metadata.guarantee_level = Some(level.to_owned().into());
    draft.metadata.kind = kind;
    receipt::sign(&draft, &chain, &key()).unwrap()
}

#[test]
fn an_approval_that_was_needed_and_is_not_proven_is_missed_where_that_is_asked_for() {
    let (pass, agreed) = (json!({"verdict": "pass"}), json!({"approved": ["policy"], "verdict": "pass"}));
    let escalated = json!({"verdict": "escalate"});
    let (signed, by_key) = (|| vec![passkey_approval()], || vec![key_approval()]);
    for (level, kind, boundary, sent, approvals, expected) in [
        ("atp-3", Kind::Executed, &pass, true, vec![], Some("lists none")),
        ("ATP-3", Kind::PendingSettlement, &pass, true, vec![], Some("lists none")),
        ("atp-1", Kind::Executed, &agreed, true, vec![], Some("lists none")),
        ("atp-1", Kind::Executed, &escalated, true, vec![], Some("lists none")),
        ("atp-1", Kind::Failed, &agreed, true, vec![], Some("lists none")),
        ("atp-3", Kind::Executed, &pass, true, by_key(), Some("has none that is proven")),
        ("atp-3", Kind::Executed, &agreed, true, signed(), None),
        // Nobody was asked; or nothing was done that anybody had to agree to.
        ("atp-2", Kind::Executed, &pass, true, vec![], None),
        ("atp-3", Kind::Blocked, &escalated, false, vec![], None),
        ("atp-3", Kind::Failed, &escalated, false, vec![], None),
    ] {
        let receipt = of(level, kind, boundary.clone(), sent, approvals);
        let report = judge_strictly(&receipt, &pinned(), &Disclosures::default(), true);
        let consent = report.checks.iter().find(|check| check.name == CheckName::Consent).unwrap();
        match (&report.verdict, expected) {
            (Verdict::Invalid(failure), Some(why)) => {
                assert_eq!(failure.place, Place::Member("metadata.approvals".to_owned()));
                assert!(failure.why.contains(why), "{failure}");
                assert_eq!(consent.outcome, Outcome::Failed);
            }
            (Verdict::Valid, None) => assert_ne!(consent.outcome, Outcome::Failed),
            (verdict, _) => panic!("{level} {kind:?} {boundary}: {verdict}"),
        }
        let lenient = judge(&receipt, &pinned(), &Disclosures::default());
        assert_eq!(lenient.verdict, Verdict::Valid, "nobody asked for it");
        assert!(lenient.checks.iter().all(|check| check.name != CheckName::Consent));
    }
}

#[test]
fn an_amendment_lists_no_approvals_and_misses_none() {
    let mut draft = approved_draft(vec![]);
    draft.metadata.guarantee_level = Some("atp-3".into());
    draft.event =
        Event::Amendment { reason: Amendment::Settlement, of: "01966a50-0000-7000-8000-0000000000a6".into() };
    let receipt = receipt::sign(&draft, &approved_chain(), &key()).unwrap();
    let report = judge_strictly(&receipt, &pinned(), &Disclosures::default(), true);
    assert_eq!(report.verdict, Verdict::Valid);
}

#[test]
fn limits_are_signed_and_hold_the_price() {
    let within = |amount: &str, currency: &str| Envelope {
        limits: Some(Limits {
            applies_to: AppliesTo::Action,
            max_amount: Some(Quote { amount: amount.to_owned(), currency: currency.to_owned() }),
            not_after: Some(at("2026-04-28T00:00:00.000Z")),
        }),
        ..envelope()
    };
    let text = within("125.00", "USD").to_json().unwrap();
    assert!(receipt::canonical::is_canonical(text.as_str().as_bytes()));
    assert!(text.as_str().contains(
        r#""limits":{"max_amount":{"amount":"125.00","currency":"USD"},"not_after":"2026-04-28T00:00:00.000Z"},"nonce""#
    ));
    assert_eq!(serde_json::from_str::<Envelope>(text.as_str()).unwrap(), within("125.00", "USD"));
    for (amount, currency, holds) in [
        ("125.00", "USD", true),
        ("1000.00", "USD", true),
        ("125.0", "USD", true),
        ("124.99", "USD", false),
        ("99.00", "USD", false),
        ("125.00", "EUR", false),
    ] {
        let receipt = sign(vec![signed_by(&Authenticator::golden(), within(amount, currency))]);
        match holds {
            true => assert_eq!(pinned_verdict(&receipt), Verdict::Valid, "{amount} {currency}"),
            false => refused(&pinned_verdict(&receipt), 0, "above what the person agreed to"),
        }
    }
    // What they hold for is signed, too, and has one spelling.
    let session = |applies_to| Envelope {
        limits: within("125.00", "USD").limits.map(|limits| Limits { applies_to, ..limits }),
        ..envelope()
    };
    let text = session(AppliesTo::Session).to_json().unwrap();
    assert!(receipt::canonical::is_canonical(text.as_str().as_bytes()));
    assert!(text.as_str().contains(r#""limits":{"applies_to":"SESSION","max_amount""#), "{}", text.as_str());
    assert_ne!(
        session(AppliesTo::Session).challenge().unwrap(),
        session(AppliesTo::Action).challenge().unwrap()
    );
    let receipt = sign(vec![signed_by(&Authenticator::golden(), session(AppliesTo::Session))]);
    assert_eq!(pinned_verdict(&receipt), Verdict::Valid);
    let said = signed_by(&Authenticator::golden(), session(AppliesTo::Session));
    for other in ["ACTION", "session", "MANDATE"] {
        let text = said.json().as_str().replace("\"SESSION\"", &format!("\"{other}\""));
        assert!(Approval::parse(text.as_bytes()).is_err(), "{other}");
    }
    // One who signed limits did not sign without them.
    let Signer::Passkey { assertion, public_key } =
        signed_by(&Authenticator::golden(), within("125.00", "USD")).signer().clone()
    else {
        panic!()
    };
    let moved = Approval::new(envelope(), at(GIVEN), Signer::Passkey { assertion, public_key }).unwrap();
    refused(&pinned_verdict(&sign(vec![moved])), 0, "another challenge was signed");
    let nothing = Envelope {
        limits: Some(Limits { applies_to: AppliesTo::Session, max_amount: None, not_after: None }),
        ..envelope()
    };
    assert!(nothing.to_json().unwrap_err().to_string().contains("envelope.limits"));
    let json = passkey_approval().json().as_str().replace("\"nonce\"", "\"limits\":null,\"nonce\"");
    assert!(Approval::parse(json.as_bytes()).is_err());
}
