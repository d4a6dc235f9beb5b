//! Whatever is changed in a receipt, verification fails and says where.

use countersign_receipt as receipt;
use proptest::prelude::*;
use receipt::canonical::canonicalise;
use receipt::{CheckName, Document, Failure, Place, Stage, Verdict};
use serde_json::{Value, json};

use crate::support::{blocked_draft, executed, key, refused_chain, verify};

fn refused(document: &[u8]) -> Option<Failure> {
    match verify(document).verdict {
        Verdict::Invalid(failure) => Some(failure),
        _ => None,
    }
}

fn text(document: &[u8]) -> &str {
    str::from_utf8(document).unwrap()
}

/// Where each entry lies in the document.
fn entry_spans(document: &str) -> Vec<std::ops::Range<usize>> {
    let parsed = Document::parse(document).unwrap();
    let spans = parsed.entries.iter().map(|entry| {
        let start = entry.text.as_ptr() as usize - document.as_ptr() as usize;
        start..start + entry.text.len()
    });
    spans.collect()
}

/// A byte was changed to another. Unless that says the same in another spelling, the receipt is invalid, and if the
/// byte lies in an entry, that entry is named.
fn check_byte(document: &[u8], spans: &[std::ops::Range<usize>], position: usize, byte: u8) {
    let mut changed = document.to_vec();
    changed[position] = byte;
    if canonicalise(&changed).is_ok_and(|same| same == document) {
        return;
    }
    let context =
        || String::from_utf8_lossy(&changed[position.saturating_sub(30)..position + 1]).into_owned();
    let failure = refused(&changed).unwrap_or_else(|| panic!("passed: {}", context()));
    let entry = spans.iter().position(|span| span.contains(&position));
    // A document that is not UTF-8 has no entries to name.
    if entry.is_some() && byte < 0x80 && document[position] < 0x80 {
        assert_eq!(failure.entry_index(), entry, "{failure}: {}", context());
    }
}

#[test]
fn any_byte_changed_to_any_class_of_byte_is_found() {
    let receipt = executed();
    let document = receipt.as_bytes();
    let spans = entry_spans(text(document));
    let classes = b"0 9aFz\"\\{}[],:.-+e\n\x00\x7f\x80\xff";
    for position in 0..document.len() {
        // Every position meets some classes, every class many positions of every kind.
        for offset in [0, 5, 11, 17] {
            let byte = classes[(position + offset) % classes.len()];
            if byte != document[position] {
                check_byte(document, &spans, position, byte);
            }
        }
        check_byte(document, &spans, position, document[position] ^ 1);
    }
}

#[test]
fn a_document_cut_short_anywhere_is_found() {
    let receipt = executed();
    for length in 0..receipt.as_bytes().len() {
        assert!(refused(&receipt.as_bytes()[..length]).is_some(), "{length}");
    }
}

/// JSON pointers to every value of a document.
fn pointers(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers(item, format!("{path}/{index}"), found);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                pointers(member, format!("{path}/{name}"), found);
            }
        }
        _ => {}
    }
    found.push(path);
}

/// Other values for one value: of its type, of other types.
fn others(value: &Value) -> Vec<Value> {
    let mut others = vec![Value::Null, json!(true), json!(0), json!(7.5), json!(""), json!([]), json!({})];
    match value {
        Value::String(text) => {
            others.push(json!(format!("{text}x")));
            others.push(json!(text.to_uppercase()));
            others.push(json!(text.chars().rev().collect::<String>()));
        }
        Value::Number(number) => others.push(json!(number.as_f64().unwrap() + 1.0)),
        _ => {}
    }
    others.retain(|other| other != value);
    others
}

/// The entry a pointer leads into.
fn entry_of(pointer: &str) -> Option<usize> {
    pointer.strip_prefix("/entries/")?.split('/').next()?.parse().ok()
}

/// The name by which a failure calls a value outside the entries.
fn member_of(pointer: &str) -> String {
    pointer[1..].replace('/', ".")
}

#[test]
fn any_member_changed_is_found_in_its_place() {
    let original: Value = serde_json::from_slice(executed().as_bytes()).unwrap();
    let mut all = Vec::new();
    pointers(&original, String::new(), &mut all);
    assert!(all.len() > 150 && all.contains(&"/created".to_owned()));
    for pointer in all {
        for other in others(original.pointer(&pointer).unwrap()) {
            let mut changed = original.clone();
            *changed.pointer_mut(&pointer).unwrap() = other.clone();
            let document = receipt::Json::canonical(&changed).unwrap();
            let failure = refused(document.as_str().as_bytes());
            let failure = failure.unwrap_or_else(|| panic!("passed: {pointer} = {other}"));
            match entry_of(&pointer) {
                Some(index) => {
                    assert_eq!(failure.entry_index(), Some(index), "{pointer} = {other}: {failure}")
                }
                None => assert_names(&pointer, &failure),
            }
        }
    }
}

/// Outside the entries a fault of form is named by its member; what keeps its form fails the signature.
fn assert_names(pointer: &str, failure: &Failure) {
    let related = |name: &str| {
        let member = member_of(pointer);
        name.starts_with("signature.")
            || member.starts_with(name)
            || name.starts_with(&member)
            || (member.starts_with("metadata.approvals") && name.starts_with("metadata"))
            || (member.starts_with("money") && name.starts_with("money"))
            || matches!((member.as_str(), name), ("eventType" | "receiptId", "amendmentOf"))
    };
    match &failure.place {
        Place::Member(name) => assert!(related(name), "{pointer}: {failure}"),
        Place::Document => {
            assert!(
                pointer.is_empty() || pointer == "/entries" || pointer.starts_with("/regulatoryFramework"),
                "{pointer}"
            );
        }
        Place::Entry { .. } => assert_eq!(pointer, "/entries", "{failure}"),
    }
}

#[test]
fn created_alone_changed_is_named() {
    let document = text(executed().as_bytes())
        .replace("\"created\":\"2026-04-27T12:00:00.027Z\"", "\"created\":\"2026-04-27T12:00:00.028Z\"");
    let report = verify(document.as_bytes());
    assert_eq!(
        report.verdict,
        Verdict::Invalid(Failure {
            place: Place::Member("created".to_owned()),
            why: "is not the time of the last entry".to_owned()
        })
    );
    let failed: Vec<_> = report
        .checks
        .iter()
        .filter(|check| check.outcome == receipt::Outcome::Failed)
        .map(|c| c.name)
        .collect();
    // It is not signed, so nothing else can notice.
    assert_eq!(failed, [CheckName::Created]);
}

#[test]
fn a_member_added_at_any_level_is_found_in_its_place() {
    let original: Value = serde_json::from_slice(executed().as_bytes()).unwrap();
    let mut all = Vec::new();
    pointers(&original, String::new(), &mut all);
    let objects = all.into_iter().filter(|pointer| original.pointer(pointer).unwrap().is_object());
    let mut seen = 0;
    for pointer in objects {
        // First, in the middle, last in the order of members.
        for name in ["", "A", "aa", "m", "zz", "\u{10ffff}", "$schema", "created2"] {
            let mut changed = original.clone();
            changed.pointer_mut(&pointer).unwrap()[name] = json!(1);
            let failure = refused(receipt::Json::canonical(&changed).unwrap().as_str().as_bytes()).unwrap();
            match (entry_of(&pointer), &failure.place) {
                (Some(index), place) => {
                    assert!(
                        matches!(place, Place::Entry { index: i, .. } if *i == index),
                        "{pointer}/{name}: {failure}"
                    );
                }
                (None, Place::Member(at)) if !pointer.starts_with("/metadata/approvals") => {
                    assert_eq!(*at, member_of(&format!("{pointer}/{name}")), "{failure}");
                }
                (None, place) => {
                    assert!(matches!(place, Place::Member(at) if at == "signature.value"), "{failure}")
                }
            }
            seen += 1;
        }
    }
    assert!(seen > 200);
}

#[test]
fn a_member_left_out_at_any_level_is_found_in_its_place() {
    let original: Value = serde_json::from_slice(executed().as_bytes()).unwrap();
    let mut all = Vec::new();
    pointers(&original, String::new(), &mut all);
    for pointer in all.iter().filter(|pointer| !pointer.is_empty()) {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let mut changed = original.clone();
        match changed.pointer_mut(parent).unwrap() {
            Value::Object(members) => drop(members.shift_remove(name)),
            Value::Array(items) => drop(items.remove(name.parse().unwrap())),
            _ => unreachable!(),
        }
        let failure = refused(receipt::Json::canonical(&changed).unwrap().as_str().as_bytes()).unwrap();
        match entry_of(pointer) {
            Some(index) => assert_eq!(failure.entry_index(), Some(index), "{pointer}: {failure}"),
            None => assert_names(pointer, &failure),
        }
    }
}

#[test]
fn a_member_said_twice_is_found_at_any_level() {
    let receipt = executed();
    let document = text(receipt.as_bytes());
    // Every object's opening brace, followed by a name.
    let objects = document.match_indices("{\"").map(|(at, _)| at + 1);
    let mut seen = 0;
    for at in objects {
        let name = &document[at..][..document[at + 1..].find('"').unwrap() + 2];
        let changed = format!("{}{name}:null,{}", &document[..at], &document[at..]);
        let failure = refused(changed.as_bytes()).unwrap();
        assert!(failure.why.contains("a member of this name came before"), "{failure}");
        let entry = entry_spans(document).iter().position(|span| span.contains(&at));
        assert_eq!(failure.entry_index(), entry, "{failure}");
        seen += 1;
    }
    assert!(seen > 30);
}

/// Recomputes hashes from entry `from` on, as a forger would.
fn rechained(mut value: Value, from: usize) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let entries = value["entries"].as_array_mut().unwrap();
    let mut previous =
        if from == 0 { "0".repeat(64) } else { entries[from - 1]["hash"].as_str().unwrap().to_owned() };
    for entry in &mut entries[from..] {
        entry["previousHash"] = json!(previous);
        let mut unhashed = entry.clone();
        unhashed.as_object_mut().unwrap().shift_remove("hash");
        previous = hex::encode(Sha256::digest(serde_json_canonicalizer::to_vec(&unhashed).unwrap()));
        entry["hash"] = json!(previous);
    }
    serde_json_canonicalizer::to_vec(&value).unwrap()
}

#[test]
fn a_forger_who_mends_one_hash_breaks_the_next_link_and_who_mends_all_breaks_the_signature() {
    let original: Value = serde_json::from_slice(executed().as_bytes()).unwrap();
    for index in 0..9 {
        let mut changed = original.clone();
        changed["entries"][index]["output"] = json!({"verdict": "forged"});
        let whole: Value = serde_json::from_slice(&rechained(changed.clone(), index)).unwrap();
        if index < 8 {
            let mut one = changed;
            one["entries"][index] = whole["entries"][index].clone();
            let failure = refused(&serde_json_canonicalizer::to_vec(&one).unwrap()).unwrap();
            assert_eq!(failure.entry_index(), Some(index + 1), "{failure}");
            assert!(failure.why.contains("previousHash"), "{failure}");
        }
        let failure = refused(&serde_json_canonicalizer::to_vec(&whole).unwrap()).unwrap();
        assert_eq!(failure.place, Place::Member("signature.value".to_owned()));
    }
}

/// Signs a document whatever it says, as an issuer with a fault would.
fn resigned(mut value: Value) -> Vec<u8> {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    let created = value.as_object_mut().unwrap().shift_remove("created").unwrap();
    value["signature"].as_object_mut().unwrap().shift_remove("value");
    let signature = key().sign(&serde_json_canonicalizer::to_vec(&value).unwrap()).unwrap();
    value["created"] = created;
    value["signature"]["value"] = json!(BASE64_URL_SAFE_NO_PAD.encode(signature));
    serde_json_canonicalizer::to_vec(&value).unwrap()
}

/// Changes a receipt, mends every hash and signs it again: only the rule that was broken can notice.
fn broken_rule(change: impl FnOnce(&mut Value)) -> Failure {
    let mut value: Value = serde_json::from_slice(executed().as_bytes()).unwrap();
    change(&mut value);
    let value = serde_json::from_slice(&rechained(value, 0)).unwrap();
    refused(&resigned(value)).unwrap()
}

#[test]
fn a_signature_does_not_excuse_a_broken_rule() {
    let untouched = serde_json::from_slice(executed().as_bytes()).unwrap();
    assert_eq!(verify(&resigned(untouched)).verdict, Verdict::Valid);

    let failure = broken_rule(|r| r["entries"][4]["metadata"]["at"] = json!("2026-04-27T11:59:00.000Z"));
    assert_eq!(failure.to_string(), "entry 4 (completeness): time is before that of the entry before");
    let failure = broken_rule(|r| r["entries"].as_array_mut().unwrap().swap(3, 4));
    assert_eq!(failure.entry_index(), Some(4));
    let failure = broken_rule(|r| r["entries"][0]["stage"] = json!("token_validation"));
    assert_eq!(failure.to_string(), "entry 0 (token_validation): stage is out of order");
    let failure = broken_rule(|r| drop(r["entries"].as_array_mut().unwrap().remove(0)));
    assert_eq!(failure.entry_index(), Some(0));
    let failure = broken_rule(|r| drop(r["entries"].as_array_mut().unwrap().remove(5)));
    assert_eq!(failure.place, Place::Member("entries".to_owned()));
    let failure = broken_rule(|r| drop(r["entries"].as_array_mut().unwrap().pop()));
    assert_eq!(failure.to_string(), "entry 8: the entry `receipt` is missing");
    let failure = broken_rule(|r| r["entries"][6]["cost"] = json!("-1"));
    assert_eq!(failure.entry_index(), Some(6));
    let failure = broken_rule(|r| r["entries"][6]["latencyMs"] = json!(1.5));
    assert_eq!(failure.entry_index(), Some(6));
    let failure = broken_rule(|r| r["entries"][6]["checkpointSignature"] = json!("x"));
    assert_eq!(failure.entry_index(), Some(6));
    let failure = broken_rule(|r| r["entries"][6]["stage"] = json!("execution"));
    assert_eq!(failure.entry_index(), Some(6));
    for (pointer, value) in [
        ("/money/offerAmount", json!("1e3")),
        ("/money/offerAmount", json!("01.00")),
        ("/money/offerAmount", json!("1.")),
        ("/money/offerAmount", json!("1234567890123456789")),
        ("/money/offerAmount", json!(125.5)),
        ("/money/offerCurrency", json!(null)),
        ("/receiptId", json!("01966A50-0000-7000-8000-0000000000A1")),
        ("/transactionId", json!("1")),
        ("/amendmentOf", json!("01966a50-0000-7000-8000-0000000000a9")),
        ("/eventType", json!("AMENDMENT_ROLLBACK")),
        ("/eventType", json!("ORIGINAL ")),
        ("/paymentStatus", json!("paid")),
        ("/metadata/kind", json!("held")),
        ("/metadata/environment", json!("staging")),
        ("/metadata/issuer", json!("")),
        ("/metadata/log/size", json!(-1)),
        ("/signature/alg", json!("none")),
        ("/version/spec", json!("ep-receipt/2026-04-28")),
    ] {
        let failure = broken_rule(|r| *r.pointer_mut(pointer).unwrap() = value.clone());
        let Place::Member(name) = &failure.place else { panic!("{pointer}: {failure}") };
        let expected = if pointer == "/eventType" { "amendmentOf eventType" } else { &member_of(pointer) };
        assert!(expected.contains(name.as_str()), "{pointer} = {value}: {failure}");
    }
    let failure = broken_rule(|r| r["metadata"]["issuer"] = json!("https://elsewhere.example"));
    assert_eq!(failure.place, Place::Member("metadata.issuer".to_owned()));
    let failure = broken_rule(|r| r["signature"]["kid"] = json!("unknown"));
    assert_eq!(failure.place, Place::Member("signature.kid".to_owned()));
    let of_itself = |r: &mut Value| {
        r["eventType"] = json!("AMENDMENT_RETRY");
        r["amendmentOf"] = r["receiptId"].clone();
    };
    assert_eq!(broken_rule(of_itself).place, Place::Member("amendmentOf".to_owned()));
    assert_eq!(
        broken_rule(|r| r["created"] = json!("2026-04-27T12:00:00.027z")).place,
        Place::Member("created".into())
    );
}

#[test]
fn two_entries_of_one_stage_are_refused() {
    let failure = broken_rule(|r| {
        let entries = r["entries"].as_array_mut().unwrap();
        entries[5] = entries[4].clone();
    });
    assert_eq!(failure.to_string(), "entry 5 (completeness): stage is out of order");
    let ten = broken_rule(|r| {
        let entries = r["entries"].as_array_mut().unwrap();
        entries.push(entries[8].clone());
    });
    assert_eq!(ten.to_string(), "entry 9: there are more entries than stages");
}

#[test]
fn nothing_may_follow_and_nothing_endless_is_read() {
    let receipt = executed();
    let with = |tail: &[u8]| [receipt.as_bytes(), tail].concat();
    assert_eq!(verify(&with(b"\n")).verdict, Verdict::Valid);
    assert!(refused(&with(b"{}")).is_some());
    assert!(refused(&with(b"x")).is_some());
    assert!(refused(&with(&vec![b' '; receipt::MAX_BYTES])).unwrap().why.contains("longer than"));
    for text in ["", "null", "[]", "{}", "\"\"", "{\"agentId\":"] {
        let report = verify(text.as_bytes());
        assert!(matches!(report.verdict, Verdict::Invalid(_)), "{text}");
        assert_eq!(report.checks.len(), CheckName::ALL.len());
        assert!(report.facts.is_none());
    }
}

#[test]
fn the_same_receipt_in_another_spelling_is_valid() {
    let receipt = executed();
    let value: Value = serde_json::from_slice(receipt.as_bytes()).unwrap();
    assert_eq!(verify(&serde_json::to_vec_pretty(&value).unwrap()).verdict, Verdict::Valid);
    let escaped = text(receipt.as_bytes()).replace('€', "\\u20AC").replace("agent-1", "\\u0061gent-1");
    assert_ne!(escaped.as_bytes(), receipt.as_bytes());
    assert_eq!(verify(escaped.as_bytes()).verdict, Verdict::Valid);
    let respelled = text(receipt.as_bytes())
        .replace("-2.5e-7", "-0.00000025")
        .replace("\"latencyMs\":3", "\"latencyMs\":3.0e0");
    assert_eq!(verify(respelled.as_bytes()).verdict, Verdict::Valid);
}

#[test]
fn a_refusal_verifies_with_few_entries() {
    for stages in
        [&[Stage::TokenValidation, Stage::Boundary][..], &[Stage::TokenValidation, Stage::Schema], &[]]
    {
        let receipt = receipt::sign(&blocked_draft(), &refused_chain(stages), &key()).unwrap();
        assert_eq!(verify(receipt.as_bytes()).verdict, Verdict::Valid);
    }
}

/// The document with members shuffled and spaces strewn in.
fn shuffled(value: &Value, order: &mut impl FnMut(usize) -> usize, out: &mut String) {
    let gap = ["", " ", "\n", "\t\r "][order(4)];
    out.push_str(gap);
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            out.push('{');
            while !members.is_empty() {
                let (name, value) = members.swap_remove(order(members.len()));
                out.push_str(&format!("{}{gap}:", Value::from(name.as_str())));
                shuffled(value, order, out);
                out.push_str(if members.is_empty() { "" } else { "," });
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                shuffled(item, order, out);
            }
            out.push(']');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
    out.push_str(gap);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_byte_changed_to_any_other_is_found(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let receipt = executed();
        let document = receipt.as_bytes();
        let spans = entry_spans(text(document));
        for (position, byte) in edits {
            let position = position.index(document.len());
            if byte != document[position] {
                check_byte(document, &spans, position, byte);
            }
        }
    }

    #[test]
    fn any_member_added_anywhere_is_found(
        object in any::<prop::sample::Index>(),
        name in prop_oneof!["[a-zA-Z_$]{0,12}", any::<String>()],
        value in prop_oneof![Just(Value::Null), any::<i32>().prop_map(Value::from), any::<String>().prop_map(Value::from)],
    ) {
        let mut changed: Value = serde_json::from_slice(executed().as_bytes()).unwrap();
        let mut all = Vec::new();
        pointers(&changed, String::new(), &mut all);
        all.retain(|pointer| changed.pointer(pointer).unwrap().is_object());
        let pointer = &all[object.index(all.len())];
        let members = changed.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        prop_assume!(!members.contains_key(&name));
        members.insert(name, value);
        let failure = refused(&serde_json::to_vec(&changed).unwrap());
        prop_assert!(failure.is_some());
        prop_assert_eq!(failure.and_then(|failure| failure.entry_index()), entry_of(pointer));
    }

    #[test]
    fn order_and_space_do_not_matter(seed in prop::collection::vec(any::<usize>(), 64)) {
        let receipt = executed();
        let value: Value = serde_json::from_slice(receipt.as_bytes()).unwrap();
        let mut seed = seed.into_iter().cycle();
        let mut text = String::new();
        shuffled(&value, &mut |below| seed.next().unwrap() % below, &mut text);
        prop_assert_eq!(verify(text.as_bytes()).verdict, Verdict::Valid);
    }

    #[test]
    fn noise_is_refused_without_harm(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(refused(&noise).is_some());
    }
}
