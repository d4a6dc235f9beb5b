//! What is open when a reload takes away who could go on with it, or puts somebody else there: it ends where a person finds
//! it, with the reason.

use action::IdempotencyKey;
use countersign_gateway::{ActionView, Ask, Decision, Spelling};
use receipt::Timestamp;
use serde_json::json;
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection};
use testkit::records;

use crate::archived;
use crate::banked;
use crate::checks;
use crate::house::House;
use crate::reserving;
use crate::resolutions::{findings, resolve};
use crate::retries::{LATER, a_while};
use crate::rollbacks::{self, binding};

/// The record of an action once it stands there, which the gateway sees to in the background.
async fn until(house: &House, id: &str, phase: &str) -> ActionView {
    for _ in 0..2000 {
        let record = house.record(id).await;
        if record.phase == Some(phase) {
            return record;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it never became {phase}: {:?}", house.record(id).await);
}

/// Has whatever rests be due, and the gateway look after it.
pub(crate) fn wake(house: &mut House) {
    house.store().execute("UPDATE fate SET until = 1 WHERE until IS NOT NULL", []).unwrap();
    house.installation.start();
}

/// People hear of it right after it is on record.
async fn alerted(house: &House) {
    for _ in 0..2000 {
        if alerts(house) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("nobody is told");
}

fn alerts(house: &House) -> bool {
    let metrics = house.gateway().metrics().unwrap();
    metrics.lines().any(|line| line.contains("rollback_failed") && line.ends_with(" 1"))
}

/// The same bank by another name, and no bank at all.
fn otherwise(bank: &Bank) -> [String; 2] {
    let bound = binding(bank, LATER);
    let (unbound, _) = bound.split_once("[binding]").unwrap();
    [bound.swapped("name = \"bank\"", "name = \"another\""), unbound.to_owned()]
}

#[tokio::test]
async fn a_rollback_whose_provider_is_gone_is_for_a_person_or_asked_for_again() {
    for at in 0..2 {
        let bank = banked::bank("USD").await;
        let bound = binding(&bank, LATER);
        let mut house = House::bound(&bound, |config| banked::reaching(config, &[&bank])).await;
        let said = house.said("k", &house.payment("acct-1", "25.00")).await;
        bank.inject(Injection::refunds(Fault::LostBeforeEffect, 1));
        let record = house.gateway().rollback(&house.operator, said.id()).await.unwrap();
        assert_eq!((record.state.as_str(), record.phase), ("ROLLING_BACK", Some("rolling_back")));
        house.rebind(&otherwise(&bank)[at]).await;
        wake(&mut house);
        let record = until(&house, said.id(), "rollback_failed").await;
        alerted(&house).await;
        let rollback = record.rollback.unwrap();
        assert_eq!((rollback.failed, rollback.reason.as_deref()), (true, Some("no_longer_bound")));
        assert_eq!((record.state.as_str(), rollback.sends, bank.refunds()), ("ROLLING_BACK", 1, 0));
        if at == 0 {
            house.rebind(&bound).await;
            let record = house.gateway().rollback(&house.operator, said.id()).await.unwrap();
            assert_eq!((record.state.as_str(), bank.refunds()), ("ROLLED_BACK", 1));
            assert_eq!(record.rollback.unwrap().reason, None);
        } else {
            let record = resolve(&house, "anna", said.id(), Decision::RolledBack).await.unwrap();
            assert_eq!((record.state.as_str(), record.phase), ("ROLLED_BACK", None));
        }
        assert_eq!(findings(&house).await, 0);
    }
}

#[tokio::test]
async fn what_nobody_can_look_after_any_more_was_done_and_is_for_a_person() {
    let archive = archived::archive().await;
    let house = archived::patient(&archive, &checks::writing(&archive), 100).await;
    let silent = records::Injection::new(records::Target::Reads, records::Fault::LostBeforeEffect, 1_000_000);
    archive.inject(silent);
    let constraints = json!({ "record": "r1", "content": { "valid": true } });
    let write = json!({ "archetype": "RECORD_WRITE", "constraints": constraints });
    let said = house.said("k", &write).await;
    assert_eq!((said.kind(), house.record(said.id()).await.phase), ("pending_settlement", Some("checking")));
    let path = "catalogue/default/records.toml";
    let bound = std::fs::read_to_string(house.path(path)).unwrap();
    house.write(path, &bound.swapped("name = \"archive\"", "name = \"another\""));
    house.gateway().reload(&house.admin).await.unwrap();
    let mut house = house.restart().await;
    wake(&mut house);
    let record = until(&house, said.id(), "unchecked").await;
    assert!(record.rollback.is_none());
    let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    assert_eq!((record.state.as_str(), checks::counts(&archive)), ("COMPLETED", (1, 0, true)));
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test]
async fn what_nobody_can_set_free_any_more_is_told_of_and_set_free_once_somebody_can() {
    let bank = banked::bank("USD").await;
    let bound = reserving::binding(&bank);
    let mut house = House::bound(&bound, |config| banked::reaching(config, &[&bank])).await;
    let said = house.said("k", &reserving::reserving(&house, "25.00")).await;
    assert_eq!(house.record(said.id()).await.phase, Some("reserved"));
    house.rebind(&bound.swapped("name = \"bank\"", "name = \"another\"")).await;
    house.installation.start();
    a_while().await;
    assert!(!alerts(&house), "its time is not over");
    house.age("k", "json_set(payload, '$.reservation.until_ms', 1)");
    house.store().execute("UPDATE fate SET until = 1", []).unwrap();
    alerted(&house).await;
    assert!(bank.reserved() > 0);
    assert_eq!(house.record(said.id()).await.phase, Some("release_failed"));
    house.rebind(&bound).await;
    house.gateway().release(&house.operator, said.id()).await.unwrap();
    rollbacks::until(&house, said.id(), "FAILED").await;
    assert_eq!((bank.reserved(), house.spent()), (0, 0));
    assert_eq!(findings(&house).await, 0);
}

/// A record of which nobody can tell whether it is as it should be, and that something else is to undo, which is gone.
#[tokio::test]
async fn whoever_can_tell_is_asked_though_nobody_is_there_who_would_undo_it() {
    let archive = archived::archive().await;
    let mut house = archived::house(&archive, &checks::writing(&archive)).await;
    let undoing = "catalogue/default/undoing.toml";
    house.write(undoing, &checks::writing(&archive).swapped("RECORD_WRITE", "RECORD_MEND"));
    house.gateway().reload(&house.admin).await.unwrap();
    house.installation.start();
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let mended = json!({ "record": "r1", "content": { "valid": true } });
    let body = json!({
        "action": { "verb": "RECORD_WRITE", "parameters": { "record": "r1", "content": { "valid": "perhaps" } } },
        "rollback": { "verb": "RECORD_MEND", "parameters": mended },
        "deadline": Timestamp::from_unix_millis(now_ms as u64 + 5000).as_str(),
    });
    let ask = Ask {
        idempotency_key: Some(IdempotencyKey::parse("k").unwrap()),
        request_id: "req-k".to_owned(),
        dry_run: false,
        wait: countersign_gateway::Wait::default(),
        body: body.to_string().into_bytes(),
    };
    let id = house
        .gateway()
        .submit(&house.agent, ask, Spelling::Json)
        .await
        .unwrap()
        .action_id
        .unwrap()
        .to_string();
    until(&house, &id, "unchecked").await;
    std::fs::remove_file(house.path(undoing)).unwrap();
    house.gateway().reload(&house.admin).await.unwrap();
    archive.put("r1", json!({ "valid": true }));
    let record = resolve(&house, "anna", &id, Decision::Executed).await.unwrap();
    assert_eq!(
        (record.state.as_str(), record.resolutions.len()),
        ("COMPLETED", 0),
        "it is the archive's word"
    );
    assert_eq!(findings(&house).await, 0);
}
