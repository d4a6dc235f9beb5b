//! Soft delete: what was deleted comes back as it was, once, and never over what somebody wrote since.

use std::time::Duration;

use countersign_gateway::Code;
use serde_json::json;
use testkit::records::{Archive, Fault, Injection, Options, Standing, Target};
use tokio::runtime::Runtime;

use crate::archived::{agreed, archive, bind, deleting, deletion, house};
use crate::house::{House, Said};
use crate::rollbacks::until;

/// A house that can delete a record, which is in its second version.
async fn opened(archive: &Archive) -> House {
    archive.put("cust-1", json!({ "name": "Ann" }));
    archive.put("cust-1", json!({ "name": "Anna" }));
    house(archive, &deleting(archive, "")).await
}

/// One that has deleted it.
async fn deleted(archive: &Archive) -> (House, Said) {
    let house = opened(archive).await;
    let held = delete(&house, archive).await;
    (house, held)
}

async fn delete(house: &House, archive: &Archive) -> Said {
    let held = agreed(house, "k", &deletion("cust-1")).await;
    let said = house.settled("k", &deletion("cust-1")).await;
    assert_eq!(archive.standing("cust-1"), Some(Standing { version: 2, content: None }), "{}", said.body);
    held
}

fn as_before() -> Option<Standing> {
    Some(Standing { version: 2, content: Some(json!({ "name": "Anna" })) })
}

fn undoings(fault: Fault) -> Injection {
    Injection::new(Target::Undoings, fault, 1)
}

#[tokio::test]
async fn what_was_deleted_is_restored_in_the_version_that_the_snapshot_holds() {
    let archive = archive().await;
    let (house, held) = deleted(&archive).await;
    let record = house.record(held.id()).await;
    assert_eq!((record.guarantee_level.as_str(), record.state.as_str()), ("atp-3", "COMPLETED"));
    assert_eq!(record.snapshot.unwrap()["version"], 2);
    for _ in 0..2 {
        let record = house.gateway().rollback(&house.agent, held.id()).await.unwrap();
        assert_eq!(record.state, "ROLLED_BACK");
    }
    assert_eq!(archive.standing("cust-1"), as_before());
    let effects = archive.effects();
    assert_eq!((effects.deleted, effects.restored), (1, 1));
    let record = house.record(held.id()).await;
    let amendment = house.verified(&record.receipts[1].receipt.receipt_id).await;
    let entries = amendment["entries"].as_array().unwrap();
    let done = entries.iter().find(|entry| entry["stage"] == "execute").unwrap();
    assert_eq!(done["output"]["result"], "restored");
    assert_eq!(house.gateway().check_trail(&house.admin, None).await.unwrap().findings, []);
}

#[tokio::test]
async fn what_somebody_wrote_since_is_not_overwritten_and_a_person_is_told() {
    let archive = archive().await;
    let (house, held) = deleted(&archive).await;
    archive.put("cust-1", json!({ "name": "Bob" }));
    let record = house.gateway().rollback(&house.agent, held.id()).await.unwrap();
    assert_eq!((record.state.as_str(), record.rollback.unwrap().failed), ("ROLLING_BACK", true));
    assert_eq!(archive.standing("cust-1").unwrap().content, Some(json!({ "name": "Bob" })));
    assert_eq!((archive.effects().restored, record.receipts.len()), (0, 1), "the original stands");
    let metrics = house.gateway().metrics().unwrap();
    assert!(metrics.lines().any(|line| line.contains("rollback_failed") && line.ends_with(" 1")));
}

#[tokio::test]
async fn what_is_gone_for_good_is_not_restored() {
    let archive = archive().await;
    let (house, held) = deleted(&archive).await;
    archive.purge();
    let record = house.gateway().rollback(&house.agent, held.id()).await.unwrap();
    assert!(record.rollback.unwrap().failed);
    assert_eq!((archive.standing("cust-1"), archive.effects().restored), (None, 0));
}

#[tokio::test]
async fn after_its_window_nothing_is_asked_of_the_archive() {
    let archive = archive().await;
    let (house, held) = deleted(&archive).await;
    bind(&house, &deleting(&archive, "within_seconds = 0")).await;
    let late = house.gateway().rollback(&house.agent, held.id()).await.unwrap_err();
    assert_eq!(late.code, Code::StateConflict, "{}", late.message);
    let record = house.record(held.id()).await;
    assert_eq!((record.state.as_str(), record.rollback.is_none()), ("COMPLETED", true));
    assert_eq!(archive.effects().restored, 0);
}

#[tokio::test]
async fn a_lost_deletion_is_one_deletion_and_a_lost_restoration_one_restoration() {
    for fault in [Fault::LostAfterEffect, Fault::LostBeforeEffect, Fault::ErrorAfterEffect] {
        let archive = archive().await;
        archive.inject(Injection::new(Target::Changes, fault.clone(), 1));
        let mut house = opened(&archive).await;
        house.installation.start();
        let held = delete(&house, &archive).await;
        archive.inject(undoings(fault));
        house.gateway().rollback(&house.agent, held.id()).await.unwrap();
        until(&house, held.id(), "ROLLED_BACK").await;
        let effects = archive.effects();
        assert_eq!((effects.deleted, effects.restored), (1, 1));
        assert_eq!(archive.standing("cust-1"), as_before());
    }
}

/// Where the gateway dies while it undoes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    /// It is on record that it is to be undone; nothing was sent.
    BeforeItIsSent,
    /// What undoes it is on its way and has had no effect.
    BeforeItsEffect,
    /// It has had its effect, and the answer is on its way.
    BeforeItsAnswer,
    /// It is on record that it is undone.
    Afterwards,
}

#[test]
fn whoever_dies_at_any_step_of_a_rollback_restores_once() {
    let world = Runtime::new().unwrap();
    for dies in [Dies::BeforeItIsSent, Dies::BeforeItsEffect, Dies::BeforeItsAnswer, Dies::Afterwards] {
        let archive = world.block_on(Archive::start(Options::default())).unwrap();
        let life = Runtime::new().unwrap();
        let (house, held) = life.block_on(deleted(&archive));
        match dies {
            Dies::BeforeItIsSent => archive.inject(undoings(Fault::LostBeforeEffect)),
            Dies::BeforeItsEffect => archive.inject(undoings(Fault::DelayEffect { ms: 1_000 })),
            Dies::BeforeItsAnswer => archive.inject(undoings(Fault::DelayAnswer { ms: 600_000 })),
            Dies::Afterwards => {}
        }
        let (gateway, agent, id) = (house.gateway().clone(), house.agent.clone(), held.id().to_owned());
        let asked = life.spawn(async move {
            loop {
                // Whoever carried it out may be at it still, for a moment after it is said.
                match gateway.rollback(&agent, &id).await {
                    Err(error) if error.code == Code::StateConflict => tokio::task::yield_now().await,
                    asked => break asked,
                }
            }
        });
        match dies {
            Dies::BeforeItIsSent | Dies::Afterwards => drop(life.block_on(asked).unwrap().unwrap()),
            Dies::BeforeItsEffect => life.block_on(sent(&house, held.id())),
            Dies::BeforeItsAnswer => {
                while archive.effects().restored == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        life.shutdown_timeout(Duration::from_secs(10));
        if dies == Dies::BeforeItIsSent {
            // As the row was a moment before, when nothing was marked sent.
            house.age("k", "json_set(payload, '$.rollback.sends', 0)");
        }
        let second = Runtime::new().unwrap();
        second.block_on(async {
            let mut house = house.restart().await;
            // Once the time that it may have taken is over.
            house.store().execute("UPDATE fate SET until = 1 WHERE state = -2", []).unwrap();
            house.installation.start();
            until(&house, held.id(), "ROLLED_BACK").await;
            let record = house.record(held.id()).await;
            assert_eq!(record.receipts.len(), 2, "{dies:?}");
        });
        if dies == Dies::BeforeItsEffect {
            // What the dead one had sent arrives as well.
            std::thread::sleep(Duration::from_millis(1_500));
        }
        assert_eq!((archive.effects().restored, archive.standing("cust-1")), (1, as_before()), "{dies:?}");
    }
}

/// Waits until what undoes it is marked sent.
async fn sent(house: &House, id: &str) {
    while house.record(id).await.rollback.is_none_or(|rollback| rollback.sends == 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
