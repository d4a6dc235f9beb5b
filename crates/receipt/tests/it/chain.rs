//! Entries: hashes, order, time, and a chain that is put away and taken up again.

use countersign_receipt as receipt;
use proptest::prelude::*;
use receipt::{Chain, Draft, Error, Json, Kind, Metadata, NewEntry, Stage, Timestamp, Verdict};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{at, blocked_draft, executed_chain, executed_draft, key, refused_chain, verify};

fn entries(chain: &Chain) -> Vec<Value> {
    serde_json::from_slice(&chain.to_bytes()).unwrap()
}

#[test]
fn every_entry_has_the_hash_that_the_library_would_compute() {
    let mut previous = "0".repeat(64);
    for mut entry in entries(&executed_chain()) {
        assert_eq!(entry["previousHash"], previous);
        let hash = entry.as_object_mut().unwrap().shift_remove("hash").unwrap();
        previous = hex::encode(Sha256::digest(serde_json_canonicalizer::to_vec(&entry).unwrap()));
        assert_eq!(hash, previous);
    }
}

#[test]
fn an_entry_has_exactly_the_members_of_the_format() {
    for entry in entries(&executed_chain()) {
        let names: Vec<_> = entry.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            names,
            [
                "checkpointSignature",
                "cost",
                "error",
                "hash",
                "input",
                "latencyMs",
                "metadata",
                "output",
                "previousHash",
                "stage"
            ]
        );
    }
    let stages: Vec<_> =
        entries(&executed_chain()).iter().map(|e| e["stage"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        stages,
        [
            "__genesis__",
            "token_validation",
            "schema",
            "boundary",
            "completeness",
            "math",
            "execute",
            "commit_auth_split",
            "receipt"
        ]
    );
}

#[test]
fn stages_only_ascend() {
    for (index, last) in Stage::ALL.into_iter().enumerate().skip(1) {
        for next in Stage::ALL {
            let mut chain = Chain::genesis(NewEntry::at(at("2026-04-27T12:00:00.000Z"))).unwrap();
            chain.push(last, NewEntry::at(chain.last_at())).unwrap();
            let before = chain.clone();
            let pushed = chain.push(next, NewEntry::at(chain.last_at()));
            assert_eq!(pushed.is_ok(), Stage::ALL[index + 1..].contains(&next));
            assert!(pushed.is_ok() || chain == before);
        }
    }
}

#[test]
fn a_clock_that_goes_back_does_not_take_the_chain_with_it() {
    let mut chain = Chain::genesis(NewEntry::at(at("2026-04-27T12:00:00.500Z"))).unwrap();
    chain.push(Stage::Boundary, NewEntry::at(at("2026-04-27T12:00:00.100Z"))).unwrap();
    assert_eq!(chain.last_at(), at("2026-04-27T12:00:00.500Z"));
    chain.push(Stage::Receipt, NewEntry::at(at("2026-04-27T12:00:00.501Z"))).unwrap();
    assert_eq!(chain.last_at(), at("2026-04-27T12:00:00.501Z"));
    let receipt = receipt::sign(&blocked_draft(), &chain, &key()).unwrap();
    assert_eq!(receipt.created(), chain.last_at());
    assert_eq!(verify(receipt.as_bytes()).verdict, Verdict::Valid);
}

#[test]
fn what_an_entry_cannot_say_is_refused_and_leaves_the_chain_as_it_was() {
    let now = at("2026-04-27T12:00:00.000Z");
    let chain = Chain::genesis(NewEntry::at(now)).unwrap();
    for entry in [
        NewEntry { cost: Some("-1"), ..NewEntry::at(now) },
        NewEntry { cost: Some("1e3"), ..NewEntry::at(now) },
        NewEntry { latency_ms: 1 << 53, ..NewEntry::at(now) },
        NewEntry { metadata: vec![("at", Json::NULL)], ..NewEntry::at(now) },
        NewEntry { metadata: vec![("a", Json::NULL), ("a", Json::NULL)], ..NewEntry::at(now) },
    ] {
        let mut tried = chain.clone();
        assert!(matches!(tried.push(Stage::Boundary, entry.clone()), Err(Error::Member { .. })), "{entry:?}");
        assert_eq!(tried, chain);
        assert!(Chain::genesis(entry).is_err());
    }
}

#[test]
fn a_chain_taken_up_again_goes_on_as_if_never_put_away() {
    let now = at("2026-04-27T12:00:00.000Z");
    let begin = || {
        let mut chain = Chain::genesis(NewEntry::at(now)).unwrap();
        chain.push(Stage::Boundary, NewEntry { input: Json::string("x"), ..NewEntry::at(now) }).unwrap();
        chain
    };
    let mut kept = Chain::from_bytes(&begin().to_bytes()).unwrap();
    let mut whole = begin();
    assert_eq!(kept, whole);
    for chain in [&mut kept, &mut whole] {
        chain.push(Stage::Receipt, NewEntry::at(now)).unwrap();
    }
    assert_eq!(kept.to_bytes(), whole.to_bytes());
    assert_eq!(kept.len(), 3);
}

#[test]
fn a_stored_chain_that_was_changed_is_not_taken_up() {
    let stored = String::from_utf8(executed_chain().to_bytes()).unwrap();
    for broken in [
        stored.replace("mnd-1", "mnd-2"),
        stored.replace("\"stage\":\"schema\"", "\"stage\":\"math\""),
        stored.replacen('0', "1", 1),
        stored[..stored.len() - 1].to_owned(),
        format!("{stored} "),
        "[]".to_owned(),
        String::new(),
    ] {
        assert!(matches!(Chain::from_bytes(broken.as_bytes()), Err(Error::BrokenChain(_))), "{broken}");
    }
    let Err(Error::BrokenChain(why)) = Chain::from_bytes(stored.replace("mnd-1", "mnd-2").as_bytes()) else {
        panic!()
    };
    assert_eq!(why, "entry 1 (token_validation): content does not fit its hash");
}

#[test]
fn what_would_not_verify_is_not_signed() {
    let refused = refused_chain(&[Stage::Boundary]);
    let executed_with_few = receipt::sign(&executed_draft(), &refused, &key());
    assert!(matches!(executed_with_few, Err(Error::Member { name, .. }) if name == "entries"));
    let mut open = Chain::genesis(NewEntry::at(at("2026-04-27T12:00:00.000Z"))).unwrap();
    open.push(Stage::Boundary, NewEntry::at(open.last_at())).unwrap();
    assert!(matches!(receipt::sign(&blocked_draft(), &open, &key()), Err(Error::StageOrder { .. })));
    for (member, draft) in [
        ("receiptId", Draft { receipt_id: "x".into(), ..blocked_draft() }),
        (
            "transactionId",
            Draft { transaction_id: "01966A50-0000-7000-8000-0000000000B2".into(), ..blocked_draft() },
        ),
        ("agentId", Draft { agent_id: "".into(), ..blocked_draft() }),
        (
            "money.offerCurrency",
            Draft {
                money: receipt::MoneyFields { offer_amount: Some("1.00".into()), ..Default::default() },
                ..blocked_draft()
            },
        ),
        (
            "amendmentOf",
            Draft {
                event: receipt::Event::Amendment {
                    reason: receipt::Amendment::Retry,
                    of: blocked_draft().receipt_id.clone(),
                },
                ..blocked_draft()
            },
        ),
    ] {
        let signed = receipt::sign(&draft, &refused, &key());
        assert!(matches!(signed, Err(Error::Member { name, .. }) if name == member), "{member}");
    }
}

proptest! {
    /// Whatever text the members hold, the document is what the library would write, and it verifies.
    #[test]
    fn any_text_is_signed_as_canonical_json(
        text in prop::collection::vec(any::<String>(), 6),
        framework in prop::collection::vec(any::<String>(), 0..3),
        millis in 1_767_225_600_000_u64..1_900_000_000_000,
        latency_ms in 0..1_u64 << 53,
    ) {
        prop_assume!(text.iter().all(|text| !text.is_empty()));
        let metadata = Metadata {
            tenant: text[0].as_str().into(),
            archetype: Some(text[1].as_str().into()),
            kind: Kind::Blocked,
            ..blocked_draft().metadata
        };
        let draft = Draft {
            agent_id: text[2].as_str().into(),
            idempotency_key: Some(text[3].as_str().into()),
            regulatory_framework: framework.iter().map(|text| text.as_str().into()).collect(),
            metadata,
            ..blocked_draft()
        };
        let now = Timestamp::from_unix_millis(millis);
        let more = if text[4] == "at" { vec![] } else { vec![(text[4].as_str(), Json::string(&text[5]))] };
        let mut chain = Chain::genesis(NewEntry { metadata: more, latency_ms, ..NewEntry::at(now) }).unwrap();
        chain.push(Stage::Receipt, NewEntry { error: Json::canonical(&json!({&text[5]: 1})).unwrap(), ..NewEntry::at(now) }).unwrap();
        let receipt = receipt::sign(&draft, &chain, &key()).unwrap();
        let value: Value = serde_json::from_slice(receipt.as_bytes()).unwrap();
        prop_assert_eq!(serde_json_canonicalizer::to_vec(&value).unwrap(), receipt.as_bytes());
        prop_assert_eq!(verify(receipt.as_bytes()).verdict, Verdict::Valid);
        let document = receipt::Document::parse(str::from_utf8(receipt.as_bytes()).unwrap()).unwrap();
        prop_assert_eq!(&document.content, &draft);
        prop_assert_eq!(document.short(), receipt.short());
        prop_assert_eq!(document.entries[0].latency_ms, latency_ms);
    }
}
