//! Leaves, proofs and bundles: a receipt that was logged is shown to be, with nothing but the pin.

use std::fs;
use std::path::PathBuf;

use countersign_receipt as receipt;
use receipt::log::{
    Bundle, Checkpoint, Compromise, Edge, Error, Hash, Leaf, LeafKind, Note, Place, Plan, Proof, RefKey,
    Survey, leaf_hash,
};
use receipt::{
    Check, CheckName, Document, Draft, Event, Jwk, Jwks, Metadata, Outcome, Pin, Promise, Quarantine,
    Receipt, Report, Timestamp, Trust, Verdict,
};
use sha2::{Digest, Sha256};

use crate::log_notes::{signer, witness};
use crate::log_tree::grown;
use crate::support::{ISSUER, at, executed_chain, executed_draft, jwks, key};

const ORIGIN: &str = "gateway.example/log/default";
const NONCE: [u8; 32] = [0; 32];
const SIZE: u64 = 300;
const INDEX: u64 = 77;

fn logged_draft() -> Draft<'static> {
    let executed = executed_draft();
    let log = receipt::Checkpoint {
        origin: ORIGIN.into(),
        size: 42,
        root: "00".repeat(32).into(),
        promise: Some(Promise { merge_by: at("2026-04-28T12:00:00.000Z"), nonce: "A".repeat(43).into() }),
    };
    Draft {
        receipt_id: "01966a50-0000-7000-8000-0000000000a8".into(),
        metadata: Metadata { log: Some(log), ..executed.metadata },
        ..executed
    }
}

fn logged() -> Receipt {
    receipt::sign(&logged_draft(), &executed_chain(), &key()).unwrap()
}

fn leaf(receipt: &Receipt) -> Leaf {
    Leaf {
        kind: LeafKind::Terminal,
        action_ref: RefKey::new(&[9; 32]).action_ref("01966a50-0000-7000-8000-0000000000b1"),
        hour: Leaf::hour_of(receipt.created()),
        due_by: 0,
        commitment: Leaf::commit(&NONCE, receipt.as_bytes()),
    }
}

/// A log of numbers, but for one place each for the receipt and for what its key came to.
struct Log {
    leaves: Vec<Hash>,
}

impl Log {
    fn with(leaf: Leaf) -> Log {
        let mut leaves: Vec<Hash> = (0..SIZE).map(|number| leaf_hash(&number.to_be_bytes())).collect();
        leaves[INDEX as usize] = leaf.hash();
        Log { leaves }
    }

    fn checkpoint(&self) -> Checkpoint {
        let mut edge = Edge::default();
        self.leaves.iter().for_each(|leaf| edge.push(*leaf, |_, _| {}));
        Checkpoint { origin: ORIGIN.to_owned(), size: SIZE, root: edge.root() }
    }

    fn place(&self, index: u64, leaf: Leaf) -> Place {
        let tiles = grown(self.leaves.iter().copied()).tiles;
        let path = Plan::inclusion(index, SIZE).unwrap().hashes(&tiles).unwrap();
        Place { index, leaf, path }
    }
}

fn proof(leaf: Leaf) -> Proof {
    let log = Log::with(leaf);
    Proof { place: log.place(INDEX, leaf), note: signer().sign(&log.checkpoint()).unwrap(), compromise: None }
}

fn pin(jwks: &Jwks) -> Pin {
    Pin::new(ISSUER, jwks).and_log(signer().log(ORIGIN).unwrap())
}

fn judged(receipt: &[u8], proof: &Proof, pin: &Pin, jwks: &Jwks) -> Report {
    receipt::verify(receipt, &Trust { proof: Some(proof), ..Trust::new(pin, jwks) })
}

fn inclusion(report: &Report) -> &Check {
    report.checks.iter().find(|check| check.name == CheckName::Inclusion).unwrap()
}

fn refused(report: &Report) -> &str {
    assert!(matches!(report.verdict, Verdict::Invalid(_)), "{report:?}");
    assert_eq!(inclusion(report).outcome, Outcome::Failed);
    &inclusion(report).detail
}

pub(crate) fn golden(name: &str, content: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("COUNTERSIGN_GOLDEN").is_some() {
        fs::write(&path, content).unwrap();
    }
    fs::read(path).unwrap()
}

#[test]
fn leaves_are_for_ever_what_they_are() {
    let mut text = String::new();
    for (number, kind) in (1..).zip(LeafKind::ALL) {
        let leaf = Leaf {
            kind,
            action_ref: RefKey::new(&[number; 32]).action_ref("01966a50-0000-7000-8000-0000000000b1"),
            hour: 493_692 + u32::from(number),
            due_by: u32::from(number) << 24,
            commitment: Leaf::commit(&[number; 32], b"{\"record\":true}"),
        };
        let bytes = leaf.to_bytes();
        assert_eq!(Leaf::parse(&bytes), Ok(leaf));
        assert!(leaf.opens(&[number; 32], b"{\"record\":true}"));
        assert!(
            !leaf.opens(&[number; 32], b"{\"record\":tru}") && !leaf.opens(&[0; 32], b"{\"record\":true}")
        );
        text += &format!("{kind:?} {} {}\n", hex::encode(bytes), hex::encode(leaf.hash()));
    }
    assert_eq!(String::from_utf8(golden("leaves.txt", text.as_bytes())).unwrap(), text);

    let bytes = leaf(&logged()).to_bytes();
    for (place, value) in [(0, 0), (0, 2), (1, 0), (1, 8)] {
        let mut altered = bytes;
        altered[place] = value;
        assert!(matches!(Leaf::parse(&altered), Err(Error::Leaf(_))));
    }
    assert!(matches!(Leaf::parse(&bytes[1..]), Err(Error::Leaf(_))));
    assert!(matches!(Leaf::parse(&[&bytes[..], &[0]].concat()), Err(Error::Leaf(_))));
}

#[test]
fn a_golden_bundle_verifies_with_nothing_but_its_pin() {
    let receipt = logged();
    let made = Bundle { receipt: receipt.as_bytes().to_vec(), jwks: jwks(), proof: proof(leaf(&receipt)) };
    let text = golden("bundle.json", &made.to_bytes());
    let pin = Pin::parse(
        std::str::from_utf8(&golden("bundle-pin.json", pin(&jwks()).to_text().as_bytes())).unwrap(),
    );
    let bundle = Bundle::parse(&text).unwrap();
    assert!(Bundle::is_one(&text) && !Bundle::is_one(&bundle.receipt));
    assert_eq!(bundle.to_bytes(), text);
    let pin = pin.unwrap();
    let trust =
        Trust { proof: Some(&bundle.proof), require_inclusion: true, ..Trust::new(&pin, &bundle.jwks) };
    let report = receipt::verify(&bundle.receipt, &trust);
    assert_eq!(report.verdict, Verdict::Valid, "{report:?}");
    assert_eq!(
        inclusion(&report).detail,
        "leaf 77 of 300 in `gateway.example/log/default`, cosigned by 0 of the witnesses pinned"
    );
    // What it signs differs from other receipts by what it says of the log, and no reader loses that.
    let document = Document::parse(std::str::from_utf8(&bundle.receipt).unwrap()).unwrap();
    assert_eq!(document.content.metadata.log, logged_draft().metadata.log);
    // Spelled differently it is the same bundle.
    let spaced = String::from_utf8(text.clone()).unwrap().replacen("{\"jwks\"", "{ \"jwks\"", 1);
    assert_eq!(Bundle::parse(spaced.as_bytes()).unwrap(), bundle);
    assert_eq!(Proof::parse(&bundle.proof.to_bytes()).unwrap(), bundle.proof);
}

#[test]
fn a_flipped_bit_of_any_byte_of_a_bundle_is_found() {
    let receipt = logged();
    let text = Bundle { receipt: receipt.as_bytes().to_vec(), jwks: jwks(), proof: proof(leaf(&receipt)) }
        .to_bytes();
    let pin = pin(&jwks());
    let holds = |text: &[u8]| {
        let Ok(bundle) = Bundle::parse(text) else { return false };
        let trust = Trust { proof: Some(&bundle.proof), ..Trust::new(&pin, &bundle.jwks) };
        receipt::verify(&bundle.receipt, &trust).verdict == Verdict::Valid
    };
    assert!(holds(&text));
    for place in 0..text.len() {
        let mut altered = text.clone();
        altered[place] ^= 1;
        // `created` alone is not signed, and has to equal what is.
        assert!(
            !holds(&altered),
            "byte {place}: {}",
            String::from_utf8_lossy(&text[place.saturating_sub(20)..place + 1])
        );
    }
}

#[test]
fn a_proof_for_something_else_is_refused() {
    let receipt = logged();
    let (jwks, leaf) = (jwks(), leaf(&receipt));
    let pin = pin(&jwks);
    let says = |proof: &Proof| refused(&judged(receipt.as_bytes(), proof, &pin, &jwks)).to_owned();
    let not_this = "the leaf of the proof is not this receipt's";
    // An intent or an amendment is no first word on how it ended, and none is entered before it was made.
    for kind in [LeafKind::Intent, LeafKind::Amendment, LeafKind::Approval] {
        assert_eq!(says(&proof(Leaf { kind, ..leaf })), not_this);
    }
    assert_eq!(says(&proof(Leaf { hour: leaf.hour - 2, ..leaf })), not_this);
    // A clock that was set back by some seconds makes nothing unprovable.
    let back = proof(Leaf { hour: leaf.hour - 1, ..leaf });
    assert_eq!(judged(receipt.as_bytes(), &back, &pin, &jwks).verdict, Verdict::Valid);
    // Within the day that it promises it may be entered, and months later only what was dated back.
    let late = proof(Leaf { hour: leaf.hour + 25, ..leaf });
    assert_eq!(judged(receipt.as_bytes(), &late, &pin, &jwks).verdict, Verdict::Valid);
    for hour in [leaf.hour + 26, leaf.hour + 180 * 24, u32::MAX] {
        assert_eq!(says(&proof(Leaf { hour, ..leaf })), not_this);
    }
    assert_eq!(
        says(&proof(Leaf { commitment: Leaf::commit(&[1; 32], receipt.as_bytes()), ..leaf })),
        not_this
    );
    let good = proof(leaf);
    let moved = Proof { place: Place { index: INDEX + 1, ..good.place.clone() }, ..good.clone() };
    assert_eq!(says(&moved), "proof refused: it does not lead to the root");
    // The same log signed by another key, or one that is not pinned.
    let checkpoint = Log::with(leaf).checkpoint();
    let forged = Proof { note: witness(3).sign(&checkpoint).unwrap(), ..good.clone() };
    assert_eq!(says(&forged), format!("note refused: `{ORIGIN}` did not sign it"));
    let elsewhere = Checkpoint { origin: "other.example".to_owned(), ..checkpoint };
    let other = Proof { note: signer().sign(&elsewhere).unwrap(), ..good.clone() };
    assert_eq!(says(&other), "the pin names no log `other.example`");
    let both = pin.clone().and_log(signer().log("other.example").unwrap());
    let report = judged(receipt.as_bytes(), &other, &both, &jwks);
    assert_eq!(refused(&report), "member `metadata.log.origin`: is not the log of the proof");
    // A receipt that was promised nothing cannot be shown to be there.
    let plain = receipt::sign(&executed_draft(), &executed_chain(), &key()).unwrap();
    let report = judged(plain.as_bytes(), &good, &pin, &jwks);
    assert_eq!(refused(&report), "member `metadata.log`: promises no place in a log");
    // Where one is required, none is none.
    let report =
        receipt::verify(receipt.as_bytes(), &Trust { require_inclusion: true, ..Trust::new(&pin, &jwks) });
    assert_eq!(refused(&report), "no proof that it was logged");
    let report = receipt::verify(receipt.as_bytes(), &Trust::new(&pin, &jwks));
    assert!(report.verdict == Verdict::Valid && report.checks.iter().all(|c| c.name != CheckName::Inclusion));
}

#[test]
fn an_amendment_is_proven_by_the_leaf_of_an_amendment() {
    let of = "01966a50-0000-7000-8000-0000000000a1".into();
    let event = Event::Amendment { reason: receipt::Amendment::Settlement, of };
    let amended = receipt::sign(&Draft { event, ..logged_draft() }, &executed_chain(), &key()).unwrap();
    let (jwks, leaf) = (jwks(), leaf(&amended));
    let right = proof(Leaf { kind: LeafKind::Amendment, ..leaf });
    assert_eq!(judged(amended.as_bytes(), &right, &pin(&jwks), &jwks).verdict, Verdict::Valid);
    refused(&judged(amended.as_bytes(), &proof(leaf), &pin(&jwks), &jwks));
}

#[test]
fn as_many_witnesses_as_the_pin_demands_have_to_have_signed() {
    let receipt = logged();
    let (jwks, good) = (jwks(), proof(leaf(&receipt)));
    let keys =
        |count: u8| (1..=count).map(|n| witness(n).witness(&format!("w{n}.example")).unwrap()).collect();
    let two_of_three = pin(&jwks).witnessed(keys(3), 2).unwrap();
    let cosigned = |by: &[u8]| {
        let note = by.iter().fold(good.note.clone(), |note, n| {
            let line = witness(*n).cosign(&format!("w{n}.example"), &good.note, 1_777_291_300).unwrap();
            Note::parse(&format!("{note}{line}\n")).unwrap()
        });
        judged(receipt.as_bytes(), &Proof { note, ..good.clone() }, &two_of_three, &jwks)
    };
    assert!(refused(&cosigned(&[1])).starts_with("1 of the witnesses pinned cosigned"));
    // One whom the pin does not name does not count, nor does one that signs twice.
    assert!(refused(&cosigned(&[1, 4])).starts_with("1 of"));
    assert!(refused(&cosigned(&[1, 1])).starts_with("1 of"));
    for by in [&[1, 3][..], &[1, 2, 3]] {
        assert_eq!(cosigned(by).verdict, Verdict::Valid);
    }
    // The pin is written as it is read, and asks for nobody twice.
    assert_eq!(Pin::parse(&two_of_three.to_text()), Ok(two_of_three.clone()));
    assert!(pin(&jwks).witnessed(keys(1), 2).is_err());
    let text = two_of_three.to_text();
    for (from, to) in [("\"need\":2", "\"need\":4"), ("\"keys\"", "\"kees\""), ("w2.example", "w1.example")] {
        assert!(Pin::parse(&text.replace(from, to)).is_err(), "{to}");
    }
    let log = signer().log(ORIGIN).unwrap().to_string();
    assert!(Pin::parse(&text.replace(&log, &witness(1).witness("w").unwrap().to_string())).is_err());
    let renamed = witness(1).witness("again.example").unwrap().to_string();
    let second = witness(2).witness("w2.example").unwrap().to_string();
    assert!(Pin::parse(&text.replace(&second, &renamed)).is_err(), "one key under two names");
}

/// The key set in which the test key is compromised since then.
fn lost(since: &str) -> Jwks {
    let active = Jwk::active(key().public().clone(), at("2026-01-01T00:00:00.000Z"));
    Jwks::new(vec![active.retired(at(since)).compromised(at(since))]).unwrap()
}

#[test]
fn a_receipt_stays_valid_if_a_witness_saw_it_logged_before_its_key_was_lost() {
    let receipt = logged();
    let (jwks, good) = (lost("2026-05-01T00:00:00.000Z"), proof(leaf(&receipt)));
    let since = at("2026-05-01T00:00:00.000Z");
    let seconds = since.unix_millis() / 1000;
    let pin = pin(&jwks).witnessed(vec![witness(1).witness("w.example").unwrap()], 0).unwrap();
    let seen = |seconds: u64| {
        let line = witness(1).cosign("w.example", &good.note, seconds).unwrap();
        let note = good.note.clone().cosigned(&witness(1).witness("w.example").unwrap(), &line).unwrap();
        Proof { note, ..good.clone() }
    };
    let unproven = Verdict::TimeUnproven { compromised_at: since };
    let judge = |proof: &Proof| judged(receipt.as_bytes(), proof, &pin, &jwks);
    // That it is logged says nothing of when.
    assert_eq!(judge(&good).verdict, unproven);
    assert_eq!(judge(&seen(seconds)).verdict, unproven);
    assert_eq!(judge(&seen(u64::MAX)).verdict, unproven);
    let report = judge(&seen(seconds - 1));
    assert_eq!(report.verdict, Verdict::Valid);
    let custody = report.checks.iter().find(|check| check.name == CheckName::Custody).unwrap();
    assert_eq!(custody.detail, "key compromised later: `w.example` had seen it logged by then");
    // A witness that is not pinned has seen nothing, and what was made later stays quarantined.
    let alone = Pin::new(ISSUER, &jwks).and_log(signer().log(ORIGIN).unwrap());
    assert_eq!(judged(receipt.as_bytes(), &seen(seconds - 1), &alone, &jwks).verdict, unproven);
    let early = lost("2026-04-27T12:00:00.027Z");
    let pin = Pin::new(ISSUER, &early).and_log(signer().log(ORIGIN).unwrap());
    let quarantined = Verdict::Quarantined(Quarantine::Compromised { at: at("2026-04-27T12:00:00.027Z") });
    assert_eq!(judged(receipt.as_bytes(), &good, &pin, &early).verdict, quarantined);
}

/// One that is in league with the issuer, or whose key was lost with the issuer's, dates nothing back alone.
#[test]
fn as_many_witnesses_date_a_receipt_before_its_keys_compromise_as_have_to_cosign() {
    let receipt = logged();
    let (jwks, good) = (lost("2026-05-01T00:00:00.000Z"), proof(leaf(&receipt)));
    let lost_at = at("2026-05-01T00:00:00.000Z").unix_millis() / 1000;
    let keys = (1..=3).map(|n| witness(n).witness(&format!("w{n}.example")).unwrap()).collect();
    let pin = pin(&jwks).witnessed(keys, 2).unwrap();
    let seen = |times: [u64; 3]| {
        let note = (1..).zip(times).fold(good.note.to_string(), |note, (n, time)| {
            let line = witness(n).cosign(&format!("w{n}.example"), &good.note, time).unwrap();
            format!("{note}{line}\n")
        });
        let proof = Proof { note: Note::parse(&note).unwrap(), ..good.clone() };
        judged(receipt.as_bytes(), &proof, &pin, &jwks).verdict
    };
    assert!(matches!(seen([lost_at - 1, lost_at, lost_at]), Verdict::TimeUnproven { .. }));
    assert_eq!(seen([lost_at - 1, lost_at, lost_at - 1]), Verdict::Valid);
}

/// The entry and the record with which a ledger says that a key is compromised.
fn compromise(kid: &str) -> (Vec<u8>, Vec<u8>) {
    let record = format!(r#"{{"at":"2026-05-01T00:00:00.000Z","by":"admin","kid":"{kid}"}}"#).into_bytes();
    let hash = hex::encode(Sha256::digest(&record));
    let entry = format!(r#"{{"actionHash":"{hash}","event":"signing_key_compromised","v":1}}"#);
    (entry.into_bytes(), record)
}

#[test]
fn a_compromise_counts_from_its_place_in_the_log() {
    let receipt = logged();
    let (jwks, own) = (lost("2026-05-01T00:00:00.000Z"), leaf(&receipt));
    let unproven = Verdict::TimeUnproven { compromised_at: at("2026-05-01T00:00:00.000Z") };
    let with = |index: u64, kind: LeafKind, (entry, record): (Vec<u8>, Vec<u8>)| {
        let told = Leaf { kind, commitment: Leaf::commit(&[5; 32], &entry), ..own };
        let mut log = Log::with(own);
        log.leaves[index as usize] = told.hash();
        let compromise = Compromise { place: log.place(index, told), nonce: [5; 32], entry, record };
        let note = signer().sign(&log.checkpoint()).unwrap();
        let proof = Proof { place: log.place(INDEX, own), note, compromise: Some(compromise) };
        // It is read as it is written.
        assert_eq!(Proof::parse(&proof.to_bytes()).unwrap(), proof);
        judged(receipt.as_bytes(), &proof, &pin(&jwks), &jwks)
    };
    let known = || compromise(key().kid());
    let report = with(INDEX + 1, LeafKind::KeyEvent, known());
    assert_eq!(report.verdict, Verdict::Valid);
    let custody = report.checks.iter().find(|check| check.name == CheckName::Custody).unwrap();
    assert_eq!(custody.detail, "key compromised later: its log says so behind it");
    // Of another key it tells nothing; before the receipt, or not as it was logged, it is wrong.
    assert_eq!(with(INDEX + 1, LeafKind::KeyEvent, compromise("another")).verdict, unproven);
    assert!(refused(&with(INDEX - 1, LeafKind::KeyEvent, known())).contains("stands before"));
    assert!(refused(&with(INDEX + 1, LeafKind::PolicyChange, known())).contains("do not belong together"));
    let (entry, _) = compromise("another");
    let swapped = with(INDEX + 1, LeafKind::KeyEvent, (entry, known().1));
    assert!(refused(&swapped).contains("do not belong together"));
    let (entry, record) = known();
    let renamed = String::from_utf8(entry).unwrap().replace("compromised", "rotated");
    assert!(
        refused(&with(INDEX + 1, LeafKind::KeyEvent, (renamed.into_bytes(), record))).contains("together")
    );
}

#[test]
fn what_is_no_bundle_or_proof_is_refused() {
    let receipt = logged();
    let good = proof(leaf(&receipt));
    let bundle = Bundle { receipt: receipt.as_bytes().to_vec(), jwks: jwks(), proof: good.clone() };
    let (proof, text) =
        (String::from_utf8(good.to_bytes()).unwrap(), String::from_utf8(bundle.to_bytes()).unwrap());
    for (from, to) in [
        ("countersign-proof/1", "countersign-proof/2"),
        ("\"index\":77", "\"index\":-1"),
        ("\"index\":77", "\"index\":77,\"more\":0"),
        ("\"compromise\":null,", ""),
        ("\"leaf\":\"", "\"leaf\":\"AA"),
        ("\"path\":[\"", "\"path\":[\"AA"),
        ("\\n\\n", "\\n"),
    ] {
        assert!(proof.contains(from));
        let altered = proof.replacen(from, to, 1);
        assert!(Proof::parse(altered.as_bytes()).is_err(), "{altered}");
        assert!(Bundle::parse(text.replacen(&proof, &altered, 1).as_bytes()).is_err());
    }
    for (from, to) in [
        ("countersign-bundle/1", "x"),
        ("{\"jwks\":", "{\"jwks\":null,\"jwkz\":"),
        ("\"kty\":\"EC\"", "\"kty\":\"RSA\""),
    ] {
        assert!(
            matches!(Bundle::parse(text.replacen(from, to, 1).as_bytes()), Err(Error::Bundle(_))),
            "{to}"
        );
    }
    assert!(Bundle::parse(&vec![b' '; 9 << 20]).is_err() && Proof::parse(b"").is_err());
    // An array of what an object has is none, whatever order it has it in.
    for (name, text) in [("proof", proof.clone()), ("bundle", text.clone())] {
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let array: Vec<_> = value.as_object().unwrap().values().cloned().collect();
        let array = serde_json::Value::from(array).to_string();
        let parsed = if name == "proof" {
            Proof::parse(array.as_bytes()).is_ok()
        } else {
            Bundle::parse(array.as_bytes()).is_ok()
        };
        assert!(!parsed, "{name}");
    }
}

#[test]
fn a_promise_is_whole_or_there_is_none() {
    let text = String::from_utf8(logged().into_bytes()).unwrap();
    for (from, to) in [
        ("\"mergeBy\":\"2026-04-28T12:00:00.000Z\",", ""),
        ("\"nonce\":\"AAAA", "\"nonce\":\"AAA"),
        ("\"mergeBy\":\"2026-04-28T12:00:00.000Z\"", "\"mergeBy\":null"),
        ("\"mergeBy\":\"2026-04-28T12", "\"mergeBy\":\"2026-04-28T25"),
    ] {
        assert!(text.contains(from));
        assert!(Document::parse(&text.replace(from, to)).is_err(), "{to}");
    }
    let nonce = format!("\"nonce\":\"{}\",", "A".repeat(43));
    assert!(Document::parse(&text.replace(&nonce, "")).is_err());
    let mut draft = logged_draft();
    let log = draft.metadata.log.as_mut().unwrap();
    log.promise = Some(Promise { merge_by: Timestamp::from_unix_millis(0), nonce: "short".into() });
    assert!(receipt::sign(&draft, &executed_chain(), &key()).is_err());
}

#[test]
fn a_place_is_promised_within_a_day() {
    let created = logged().created().unix_millis();
    let promised = |merge_by: Timestamp| {
        let mut draft = logged_draft();
        let log = draft.metadata.log.as_mut().unwrap();
        log.promise = Some(Promise { merge_by, nonce: "A".repeat(43).into() });
        receipt::sign(&draft, &executed_chain(), &key())
    };
    let latest = Timestamp::from_unix_millis(created + 25 * 3_600_000);
    for merge_by in [Timestamp::from_unix_millis(0), latest] {
        let receipt = promised(merge_by).unwrap();
        assert_eq!(
            judged(receipt.as_bytes(), &proof(leaf(&receipt)), &pin(&jwks()), &jwks()).verdict,
            Verdict::Valid
        );
    }
    let text = String::from_utf8(logged().into_bytes()).unwrap();
    for merge_by in
        [Timestamp::from_unix_millis(created + 25 * 3_600_000 + 1), at("9999-12-31T00:00:00.000Z")]
    {
        assert!(promised(merge_by).is_err());
        let later =
            text.replace("\"mergeBy\":\"2026-04-28T12:00:00.000Z\"", &format!("\"mergeBy\":\"{merge_by}\""));
        let failure = Document::parse(&later).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "member `metadata.log.mergeBy`: is more than 25 hours after the receipt"
        );
    }
}

#[test]
fn a_statement_counts_the_leaves_of_its_hours_and_says_where_they_begin_and_end() {
    let log = Log::with(leaf(&logged()));
    let mut survey = Survey::default();
    // Two actions, of which one ends and is amended later; leaves are not in the order of their hours.
    for (number, (kind, action, hour)) in (10..).zip([
        (LeafKind::Intent, 1, 100),
        (LeafKind::Intent, 2, 101),
        (LeafKind::Amendment, 1, 101),
        (LeafKind::PolicyChange, 0, 100),
        (LeafKind::Terminal, 3, 103),
    ]) {
        let leaf = Leaf { kind, action_ref: [action; 32], hour, due_by: hour + 24, commitment: [0; 32] };
        survey.take(number, &leaf);
    }
    let of = |from, until| {
        let said = survey.hours.of(from, until, log.checkpoint());
        let counts = [LeafKind::Intent, LeafKind::PolicyChange].map(|kind| said.counts.of(kind));
        assert_eq!(said.to_string().parse(), Ok(said.clone()));
        (said.begins, said.ends, counts, said.counts.receipts())
    };
    assert_eq!(of(100, 101), (10, 14, [1, 1], 0));
    assert_eq!(of(101, 103), (11, 13, [1, 0], 1));
    assert_eq!(of(100, 104), (10, 15, [2, 1], 2));
    assert_eq!(of(102, 103), (0, 0, [0, 0], 0));
    assert_eq!((survey.hours.later_than(100), survey.hours.later_than(103)), (vec![11, 14], vec![]));
    assert_eq!((survey.hours.ahead(0), survey.hours.ahead(1)), (vec![(11, 13)], vec![]));
    // A later word is an end, too.
    let overdue: Vec<u64> = survey.overdue(200).iter().map(|due| due.number).collect();
    assert_eq!((overdue, survey.overdue(125).len()), (vec![11], 0));
}
