//! Values that are not shown, and how they are opened.

use countersign_receipt as receipt;
use proptest::prelude::*;
use receipt::{
    CheckName, Disclosure, Disclosures, Error, Json, Outcome, Report, Stage, Verdict, commit, label,
};
use serde_json::Value;

use crate::support::{ACTION_SALT, constraints, executed, executed_draft, jwks, salts, verify_with};

/// What opens `recipient` in the golden payment.
fn recipient() -> Disclosure {
    Disclosure {
        receipt_id: executed_draft().receipt_id.into_owned(),
        stage: Some(Stage::Schema),
        path: "/input/recipient".to_owned(),
        salt: salts().salt("/constraints/recipient"),
        value: Json::string("acct-4711"),
    }
}

fn judged(disclosures: impl IntoIterator<Item = Disclosure>) -> Report {
    verify_with(executed().as_bytes(), &jwks(), false, &disclosures.into_iter().collect())
}

fn outcome(report: &Report) -> Outcome {
    report.checks.iter().find(|check| check.name == CheckName::Commitments).unwrap().outcome
}

#[test]
fn a_commitment_is_the_hash_of_salt_and_canonical_value() {
    // Computed with another tool: SHA-256 of 32 zero bytes and the text {"a":1}.
    let value = Json::parse(b"{ \"a\": 1.0 }").unwrap();
    assert_eq!(commit(&[0; 32], &value), "c:sGoikHB0EpJRLodg9HDdekxGzP3yU994HYjavljBzLE");
}

#[test]
fn a_disclosed_value_fits_or_is_refused_at_its_entry() {
    let report = judged([recipient()]);
    assert_eq!((report.verdict.clone(), outcome(&report)), (Verdict::Valid, Outcome::Passed));
    let none = judged([]);
    assert_eq!((none.verdict.clone(), outcome(&none)), (Verdict::Valid, Outcome::Skipped));
    for wrong in [
        Disclosure { value: Json::string("acct-4712"), ..recipient() },
        Disclosure { salt: [0; 32], ..recipient() },
        Disclosure { path: "/input/amount_usd".to_owned(), ..recipient() },
        // `note` is public, so there is nothing to open.
        Disclosure { path: "/input/note".to_owned(), ..recipient() },
        Disclosure { path: "/input/nowhere".to_owned(), ..recipient() },
        Disclosure { path: String::new(), ..recipient() },
    ] {
        let report = judged([recipient(), wrong.clone()]);
        let Verdict::Invalid(failure) = &report.verdict else { panic!("passed: {wrong:?}") };
        assert_eq!(failure.entry_index(), Some(2), "{failure}");
        assert!(failure.why.contains(&wrong.path), "{failure}");
        assert_eq!(outcome(&report), Outcome::Failed);
    }
    let elsewhere = judged([Disclosure { stage: Some(Stage::Math), ..recipient() }]);
    assert!(matches!(elsewhere.verdict, Verdict::Invalid(failure) if failure.entry_index() == Some(5)));
}

#[test]
fn disclosures_of_other_receipts_do_not_matter() {
    let other = Disclosure { receipt_id: "01966a50-0000-7000-8000-0000000000ff".to_owned(), ..recipient() };
    let report = judged([Disclosure { value: Json::NULL, ..other }]);
    assert_eq!((report.verdict.clone(), outcome(&report)), (Verdict::Valid, Outcome::Skipped));
}

#[test]
fn a_disclosure_without_stage_opens_the_receipt_itself() {
    let salt = salts().salt("/approvals/0/approver");
    let approver = Json::string("alice");
    let receipt = crate::consent::approved();
    let path = "/metadata/approvals/0/envelope/approver".to_owned();
    let opening = Disclosure {
        receipt_id: "01966a50-0000-7000-8000-0000000000a7".to_owned(),
        stage: None,
        path,
        salt,
        value: approver,
    };
    let judged = |opening: Disclosure| {
        verify_with(receipt.as_bytes(), &jwks(), false, &[opening].into_iter().collect()).verdict
    };
    assert_eq!(judged(opening.clone()), Verdict::Valid);
    assert!(matches!(judged(Disclosure { value: Json::NULL, ..opening }), Verdict::Invalid(_)));
}

#[test]
fn concealing_hides_all_but_what_is_public() {
    let concealed = salts().conceal("/constraints", &constraints(), |name| name == "note").unwrap();
    let concealed: Value = serde_json::from_str(concealed.as_str()).unwrap();
    for (name, value) in constraints() {
        let shown = concealed[&name].as_str().unwrap();
        let value = Json::canonical(&value).unwrap();
        match name.as_str() {
            "note" => assert_eq!(concealed[&name], constraints()["note"]),
            _ => assert_eq!(shown, commit(&salts().salt(&label("/constraints", &name)), &value)),
        }
    }
    assert_eq!(concealed.as_object().unwrap().len(), constraints().len());
}

#[test]
fn salts_differ_by_label_and_by_action_and_say_nothing_of_themselves() {
    let labels = ["/constraints/a", "/constraints/b", "/constraints/a/", "", "/reply/a"];
    let mut seen: Vec<_> = labels.iter().map(|label| salts().salt(label)).collect();
    seen.push(receipt::Salts::new(&[8; 32]).salt("/constraints/a"));
    seen.push(ACTION_SALT);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), labels.len() + 2);
    assert_eq!(format!("{:?}", salts()), "Salts(…)");
    // HMAC-SHA256, so that anyone can derive them: computed with another tool.
    assert_eq!(
        hex::encode(salts().salt("/constraints/recipient")),
        "8cf6b98d8bd7997ed7fb4aa2aac8922e84a1f7f95ef698d0a133f47d25e603e4"
    );
    assert_eq!(label("/a", "b/c~d"), "/a/b~1c~0d");
}

#[test]
fn disclosures_are_read_from_an_array_or_from_lines_and_strictly() {
    let one = recipient().to_json();
    let two = Disclosure { stage: None, value: Json::NULL, ..recipient() }.to_json();
    let id = executed_draft().receipt_id;
    for text in [format!("[{one},{two}]"), format!("{one}\n\n{two}\n"), format!(" [ {one} , {two} ] ")] {
        let read = Disclosures::parse(text.as_bytes()).unwrap();
        assert_eq!(read.of(&id).len(), 2);
        assert_eq!(read.of(&id)[0], recipient());
        assert!(read.of("other").is_empty());
    }
    assert!(Disclosures::parse(b"").unwrap().of(&id).is_empty());
    for (broken, into) in [
        ("\"stage\":\"schema\"", "\"stage\":\"shema\""),
        ("\"salt\":\"", "\"salt\":\"A"),
        ("\"salt\":\"", "\"salt\":\" "),
        ("\"path\"", "\"paths\""),
        ("{\"path\"", "{\"more\":1,\"path\""),
        (",\"value\":\"acct-4711\"", ""),
    ] {
        let text = one.replace(broken, into);
        assert!(matches!(Disclosures::parse(text.as_bytes()), Err(Error::Disclosures(_))), "{text}");
    }
    assert!(matches!(
        Disclosures::parse(one.replace("{\"path\"", "{\"value\":1,\"path\"").as_bytes()),
        Err(Error::Json { .. })
    ));
}

proptest! {
    #[test]
    fn other_values_and_other_salts_give_other_commitments(a in any::<String>(), b in any::<String>(), salt in any::<[u8; 32]>(), other in any::<[u8; 32]>()) {
        let (one, two) = (Json::string(&a), Json::string(&b));
        prop_assert_eq!(commit(&salt, &one) == commit(&salt, &two), a == b);
        prop_assert_eq!(commit(&salt, &one) == commit(&other, &one), salt == other);
        prop_assert!(commit(&salt, &one).starts_with("c:"));
        prop_assert_eq!(commit(&salt, &one).len(), 45);
    }
}
