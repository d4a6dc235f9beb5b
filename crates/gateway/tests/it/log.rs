//! The transparency log of a gateway: receipts are promised a place in it, get it, and are shown to have it.

use std::time::Duration;

use countersign_gateway::Code;
use receipt::log::{Bundle, Checkpoint, LeafKind, Note, Proof, Verifier};
use receipt::{Document, Jwks, Pin, Trust, Verdict};

use crate::house::House;

async fn running() -> House {
    let mut house = House::new().await;
    house.installation.start();
    house
}

async fn paid(house: &House, key: &str) -> String {
    let said = house.said(key, &house.payment(key, "10.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    said.body["receipt"].as_str().unwrap().to_owned()
}

/// The bundle of a receipt, as soon as there is one.
async fn bundle(house: &House, receipt: &str) -> Bundle {
    for _ in 0..2000 {
        match house.gateway().receipt_bundle(&house.agent, receipt).await {
            Ok(bundle) => return Bundle::parse(&bundle).unwrap(),
            Err(error) => assert_eq!(error.code, Code::NotFound, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("`{receipt}` was never logged");
}

fn key(house: &House) -> Verifier {
    house.gateway().log_key(&house.agent).unwrap().parse().unwrap()
}

/// What is signed of the log.
fn checkpoint(house: &House) -> Checkpoint {
    let note = house.gateway().log_checkpoint(&house.operator).unwrap();
    Checkpoint::of(&Note::parse(&note).unwrap(), &key(house)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_logged_soon_and_shown_to_be_with_nothing_but_the_pin() {
    let house = running().await;
    let first = bundle(&house, &paid(&house, "a").await).await;
    let second = bundle(&house, &paid(&house, "b").await).await;
    let gateway = house.gateway();
    let jwks = Jwks::parse(gateway.jwks().as_bytes()).unwrap();
    let pin = Pin::new(gateway.issuer(), &jwks).and_log(key(&house));
    for bundle in [&first, &second] {
        let trust =
            Trust { proof: Some(&bundle.proof), require_inclusion: true, ..Trust::new(&pin, &bundle.jwks) };
        let report = receipt::verify(&bundle.receipt, &trust);
        assert_eq!(report.verdict, Verdict::Valid, "{report:?}");
        assert_eq!(bundle.proof.place.leaf.kind, LeafKind::Terminal);
    }
    // Each signs what there was of the log when it was made, so that two holders find out if they were shown two logs.
    let seen = |bundle: &Bundle| {
        let text = std::str::from_utf8(&bundle.receipt).unwrap().to_owned();
        let log = Document::parse(&text).unwrap().content.metadata.log.unwrap();
        (log.origin.into_owned(), log.size, log.root.into_owned(), log.promise.unwrap().merge_by)
    };
    let (origin, size, root, merge_by) = seen(&second);
    let of_first = Checkpoint::of(&first.proof.note, &key(&house)).unwrap();
    assert!(size >= of_first.size);
    if size == of_first.size {
        assert_eq!((&*origin, root), (&*of_first.origin, hex::encode(of_first.root)));
    }
    assert!(merge_by > Document::parse(std::str::from_utf8(&second.receipt).unwrap()).unwrap().created);
    // The proof alone is what the bundle has.
    let id = Document::parse(std::str::from_utf8(&second.receipt).unwrap()).unwrap().content.receipt_id;
    let proof = Proof::parse(&gateway.receipt_proof(&house.agent, &id).await.unwrap()).unwrap();
    assert_eq!((proof.place.index, proof.place.leaf), (second.proof.place.index, second.proof.place.leaf));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_get_proofs_of_what_is_theirs_and_nothing_else_of_the_log() {
    let house = running().await;
    let receipt = paid(&house, "a").await;
    bundle(&house, &receipt).await;
    let (gateway, agent, operator) = (house.gateway(), &house.agent, &house.operator);
    let code = |result: Result<(), countersign_gateway::Error>| result.unwrap_err().code;
    assert_eq!(code(gateway.log_checkpoint(agent).map(drop)), Code::Forbidden);
    assert_eq!(code(gateway.log_resource(agent, "tile/0/000.p/1").await.map(drop)), Code::Forbidden);
    assert_eq!(code(gateway.log_consistency(agent, 1, 1).await.map(drop)), Code::Forbidden);
    let stranger = countersign_gateway::Caller {
        subject: action::Subject::parse("agent-8").unwrap(),
        ..house.agent.clone()
    };
    assert_eq!(code(gateway.receipt_proof(&stranger, &receipt).await.map(drop)), Code::NotFound);
    // Whoever may read the tenant makes every proof alone.
    let size = checkpoint(&house).size;
    let hashes = gateway.log_resource(operator, &format!("tile/0/000.p/{size}")).await.unwrap();
    let entries = gateway.log_resource(operator, &format!("tile/entries/000.p/{size}")).await.unwrap();
    assert_eq!(receipt::log::entries_of(&entries, &hashes).unwrap().len() as u64, size);
    gateway.log_consistency(operator, 1, size).await.unwrap();
    for path in [
        "tile/0/000",
        "tile/0/001.p/1",
        "tile/1/000.p/1",
        "checkpoint",
        "tile/0/0",
        &format!("tile/0/000.p/{}", size + 100),
    ] {
        assert_eq!(code(gateway.log_resource(operator, path).await.map(drop)), Code::NotFound, "{path}");
    }
    for (from, to) in [(0, size), (size, size + 1000), (2, 1)] {
        let refused = code(gateway.log_consistency(operator, from, to).await.map(drop));
        assert_eq!(refused, Code::ValidationFailed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_after_a_restart_and_keeps_its_key() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    let (before, key_before) = (checkpoint(&house), key(&house));
    let mut house = house.restart().await;
    // Before anything is logged again it is what was signed last.
    assert_eq!((checkpoint(&house), key(&house)), (before.clone(), key_before));
    house.installation.start();
    bundle(&house, &paid(&house, "b").await).await;
    let after = checkpoint(&house);
    let proof = house.gateway().log_consistency(&house.operator, before.size, after.size).await.unwrap();
    let proof: Vec<[u8; 32]> = proof.iter().map(|hash| decoded(hash)).collect();
    after.follows(&before, &proof).unwrap();
}

fn decoded(text: &str) -> [u8; 32] {
    use base64::Engine;
    base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_put_back_is_never_signed_with_a_second_root_of_one_size() {
    let house = running().await;
    bundle(&house, &paid(&house, "a").await).await;
    let backup = house.path("backup.db");
    house.store().execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
    bundle(&house, &paid(&house, "lost").await).await;
    let signed = checkpoint(&house);

    let mut house = put_back(house, &backup).await;
    house.installation.start();
    let mut receipts = Vec::new();
    for number in 0..4 {
        receipts.push(paid(&house, &format!("after-{number}")).await);
    }
    // The rows go on, beyond what was signed, from what was put back.
    for _ in 0..2000 {
        let size: i64 = house.store().query_row("SELECT size FROM log", [], |row| row.get(0)).unwrap();
        if size > signed.size.cast_signed() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(checkpoint(&house), signed);
    for receipt in receipts {
        let refused = house.gateway().receipt_proof(&house.agent, &receipt).await.unwrap_err();
        // Not logged yet, or where the signed log has another leaf.
        assert!(matches!(refused.code, Code::NotFound | Code::Unavailable), "{refused}");
    }
}

/// The house with another store under it, as a restore of the database alone leaves it.
async fn put_back(house: House, backup: &std::path::Path) -> House {
    let (store, backup) = (house.path("data/production.db"), backup.to_owned());
    house
        .reopened_after(move || {
            for end in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{end}", store.display()));
            }
            // Whoever still has the old file open keeps that.
            std::fs::remove_file(&store).unwrap();
            std::fs::copy(&backup, &store).unwrap();
        })
        .await
}
