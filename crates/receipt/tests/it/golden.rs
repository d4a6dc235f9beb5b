//! Receipts kept as files: what verified once verifies for ever, and the same content gives the same signed bytes.
//!
//! `COUNTERSIGN_GOLDEN=write cargo test -p countersign-receipt golden` writes them anew. A change here is a change
//! of a format that strangers hold.

use std::fs;
use std::path::PathBuf;
use std::sync::Once;

use countersign_receipt as receipt;
use receipt::approval::{Approval, Approvers, Signer};
use receipt::{
    Amendment, Chain, CheckName, Disclosure, Disclosures, Document, Draft, Environment, Event, Json, Jwks,
    Kind, Metadata, NewEntry, PaymentStatus, Pin, Report, Stage, Trust, Verdict, label,
};

use crate::authenticator::Authenticator;
use crate::consent::{approved_draft, key_approval, passkey_approval, pinned};
use crate::support::{
    ISSUER, approved_chain, at, blocked_draft, constraints, envelope, executed_chain, executed_draft, jwks,
    key, refused_chain, salts,
};

/// Name, content and entries of every golden receipt.
fn golden() -> Vec<(&'static str, Draft<'static>, Chain)> {
    let executed = executed_draft();
    let of = || executed.receipt_id.clone();
    let pending = Draft {
        receipt_id: "01966a50-0000-7000-8000-0000000000a3".into(),
        payment_status: PaymentStatus::Pending,
        metadata: Metadata { kind: Kind::PendingSettlement, ..executed.metadata.clone() },
        ..executed.clone()
    };
    let later = |reason, id: &'static str, payment_status, kind| Draft {
        receipt_id: id.into(),
        event: Event::Amendment { reason, of: of() },
        payment_status,
        metadata: Metadata { kind, ..executed.metadata.clone() },
        ..executed.clone()
    };
    let settlement = later(
        Amendment::Settlement,
        "01966a50-0000-7000-8000-0000000000a4",
        PaymentStatus::Charged,
        Kind::Executed,
    );
    let rollback = later(
        Amendment::Rollback,
        "01966a50-0000-7000-8000-0000000000a5",
        PaymentStatus::NotCharged,
        Kind::Executed,
    );
    let sandbox = Draft {
        receipt_id: "01966a50-0000-7000-8000-0000000000a6".into(),
        metadata: Metadata {
            environment: Environment::Sandbox,
            tenant: "sandbox".into(),
            ..blocked_draft().metadata
        },
        ..blocked_draft()
    };
    let mut short = Chain::genesis(NewEntry::at(at("2026-04-27T12:30:00.000Z"))).unwrap();
    let reply = Json::object(&[("reference", Json::string("bank-1"))]).unwrap();
    short
        .push(Stage::Execute, NewEntry { output: reply, ..NewEntry::at(at("2026-04-27T12:30:00.100Z")) })
        .unwrap();
    short.push(Stage::Receipt, NewEntry::at(at("2026-04-27T12:30:00.100Z"))).unwrap();
    let hard_denied = refused_chain(&[Stage::TokenValidation, Stage::Boundary]);
    vec![
        ("executed", executed.clone(), executed_chain()),
        ("blocked", blocked_draft(), hard_denied.clone()),
        ("pending", pending, executed_chain()),
        ("amendment-settlement", settlement, short.clone()),
        ("amendment-rollback", rollback, short),
        ("sandbox", sandbox, hard_denied),
        ("approved", approved_draft(vec![golden_approval(), key_approval()]), approved_chain()),
    ]
}

/// What opens the commitments of the golden payment.
fn disclosures() -> Vec<Disclosure> {
    let hidden = constraints().into_iter().filter(|(name, _)| name != "note");
    let disclosure = |(name, value): (String, _)| Disclosure {
        receipt_id: executed_draft().receipt_id.into_owned(),
        stage: Some(Stage::Schema),
        path: label("/input", &name),
        salt: salts().salt(&label("/constraints", &name)),
        value: Json::canonical(&value).unwrap(),
    };
    hidden.map(disclosure).collect()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read(name: &str) -> Vec<u8> {
    static WRITTEN: Once = Once::new();
    if std::env::var("COUNTERSIGN_GOLDEN").is_ok_and(|value| value == "write") {
        WRITTEN.call_once(write_all);
    }
    fs::read(folder().join(name)).unwrap()
}

fn write(name: &str, bytes: &[u8]) {
    fs::write(folder().join(name), bytes).unwrap();
}

/// Verifies a golden file with nothing but the other golden files.
fn verify(name: &str, allow_sandbox: bool) -> Report {
    let pin = Pin::parse(&String::from_utf8(read("pin.json")).unwrap()).unwrap();
    let jwks = Jwks::parse(&read("jwks.json")).unwrap();
    let disclosures = Disclosures::parse(&read("disclosures.jsonl")).unwrap();
    let approvers = Approvers::parse(&read("approvers.json")).unwrap();
    let trust =
        Trust { allow_sandbox, disclosures: &disclosures, approvers: &approvers, ..Trust::new(&pin, &jwks) };
    receipt::verify(&read(&format!("{name}.json")), &trust)
}

#[test]
fn golden_receipts_verify_from_their_files_alone() {
    for (name, ..) in golden() {
        let report = verify(name, true);
        assert_eq!(report.verdict, Verdict::Valid, "{name}: {}", report.verdict);
    }
}

#[test]
fn golden_content_gives_golden_signed_bytes() {
    for (name, draft, chain) in golden() {
        let fresh = receipt::sign(&draft, &chain, &key()).unwrap();
        let kept = read(&format!("{name}.json"));
        let (fresh, kept) = (str::from_utf8(fresh.as_bytes()).unwrap(), str::from_utf8(&kept).unwrap());
        let (fresh, kept) = (Document::parse(fresh).unwrap(), Document::parse(kept).unwrap());
        assert_eq!(fresh.signed_bytes().concat(), kept.signed_bytes().concat(), "{name}");
        assert_eq!(kept.signed_bytes().concat().as_bytes(), read(&format!("{name}.signed")), "{name}");
        assert_eq!(fresh.created, kept.created, "{name}");
        assert_eq!(kept.content, draft, "{name}");
    }
}

#[test]
fn golden_key_set_and_pin_are_what_the_fixed_key_gives() {
    assert_eq!(read("jwks.json"), jwks().as_bytes());
    assert_eq!(Jwks::parse(&read("jwks.json")).unwrap(), jwks());
    assert_eq!(String::from_utf8(read("pin.json")).unwrap(), Pin::new(ISSUER, &jwks()).to_text());
}

#[test]
fn golden_approval_signs_the_envelope_that_the_fixture_gives() {
    let approval = golden_approval();
    assert_eq!(*approval.envelope(), envelope());
    let challenge = envelope().challenge().unwrap();
    assert_eq!(format!("{}\n", hex::encode(challenge)).as_bytes(), read("approval.challenge"));
    let approver = Authenticator::golden().approver("alice");
    let Signer::Passkey { assertion, .. } = approval.signer() else { panic!("{approval:?}") };
    assertion.verify(&challenge, &approver.party, &approver.public_key).unwrap();
    assert_eq!(Approvers::parse(&read("approvers.json")).unwrap(), pinned());
    assert_eq!(pinned().to_json().unwrap().as_str().as_bytes(), read("approvers.json"));
    let report = verify("approved", false);
    let said: Vec<&str> =
        report.checks.iter().filter(|it| it.name == CheckName::Approval).map(|it| &*it.detail).collect();
    assert_eq!(
        said,
        [
            "verified: number 0, signed by `alice`",
            "not signed: number 1, by API key, of which the gateway alone knows"
        ]
    );
}

#[test]
fn the_sandbox_passes_only_where_it_is_allowed() {
    let report = verify("sandbox", false);
    assert_eq!(report.verdict, Verdict::Quarantined(receipt::Quarantine::Sandbox));
    assert_eq!(report.verdict.exit_code(), 1);
}

/// The golden passkey's approval. Signatures are randomised, so it is made once and kept.
fn golden_approval() -> Approval {
    Approval::parse(&fs::read(folder().join("approval.json")).unwrap()).unwrap()
}

fn write_all() {
    if !folder().join("approval.json").exists() {
        write("approval.json", passkey_approval().json().as_str().as_bytes());
    }
    let challenge = envelope().challenge().unwrap();
    write("approval.challenge", format!("{}\n", hex::encode(challenge)).as_bytes());
    write("approvers.json", pinned().to_json().unwrap().as_str().as_bytes());
    for (name, draft, chain) in golden() {
        let receipt = receipt::sign(&draft, &chain, &key()).unwrap();
        let text = str::from_utf8(receipt.as_bytes()).unwrap();
        write(&format!("{name}.json"), receipt.as_bytes());
        write(&format!("{name}.signed"), Document::parse(text).unwrap().signed_bytes().concat().as_bytes());
    }
    write("jwks.json", jwks().as_bytes());
    write("pin.json", Pin::new(ISSUER, &jwks()).to_text().as_bytes());
    let lines: Vec<_> = disclosures().iter().map(Disclosure::to_json).collect();
    write("disclosures.jsonl", format!("{}\n", lines.join("\n")).as_bytes());
}
