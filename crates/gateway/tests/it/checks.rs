//! What was done is looked after before anything is said of it: undone if it is not as it should be, open as long as
//! nobody can tell. A real archive counts.

use countersign_gateway::{ActionView, FreezeAsk, FreezeScope};
use serde_json::{Value, json};
use testkit::Swap;
use testkit::records::{Archive, Fault, Injection, Standing, Target};

use crate::archived::{self, agreed, archive, bind, deleting, deletion};
use crate::faults::Rival;
use crate::house::{BINDING, House, Said};
use crate::late::alerts;
use crate::retries::a_while;
use crate::rollbacks::until;

/// Records that are written, read again, and taken away if they do not say that they are valid.
pub(crate) fn writing(archive: &Archive) -> String {
    format!(
        r#"
name = "RECORD_WRITE"
description = "Write a record that was not there"
reversible = true
guarantee_level = "atp-1"
resource = "/record"
destination = "/record"
identity = ["/record"]

[cedar]
groups = ["Data"]
resource_type = "Record"

[schema]
required = ["record", "content"]

[schema.properties.record]
description = "The record"
type = "string"
examples = ["cust_8812"]
x-identifier = true

[schema.properties.content]
description = "What goes into it"
examples = [{{ valid = true }}]
x-opaque = true
{binding}
[binding.act]
method = "PUT"
path = ["records", {{ "$value" = "/record" }}]
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }} }}
body = {{ content = {{ "$value" = "/content" }}, reference = {{ "$action" = "reference" }} }}
success = {{ status = [200], pointer = "/status", equals = ["written"] }}
reference = "/version"

[binding.check]
path = ["records", {{ "$value" = "/record" }}]
params = {{ version = {{ "$action" = "provider_reference" }} }}
holds = {{ status = [200], pointer = "/content/valid", equals = [true] }}
fails = {{ status = [200], pointer = "/content/valid", equals = [false] }}

[binding.rollback]
within_seconds = 3600
method = "DELETE"
path = ["records", {{ "$value" = "/record" }}]
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }}, If-Match = {{ "$action" = "provider_reference" }} }}
body = {{ reference = {{ "$action" = "reference" }} }}
success = {{ status = [200], pointer = "/status", equals = ["deleted"] }}
refused = [{{ status = [404, 409, 412, 422] }}]
transient = [{{ status = [429] }}]
reference = "/change_id"
"#,
        // The version is what both check and rollback go by.
        binding = archived::binding(archive).swapped("/changes/0/change_id", "/changes/0/version")
    )
}

pub(crate) fn write(content: &Value) -> Value {
    json!({ "archetype": "RECORD_WRITE", "constraints": { "record": "r1", "content": content } })
}

fn wrong() -> Value {
    write(&json!({ "valid": false }))
}

/// One that is neither right nor wrong.
pub(crate) fn vague() -> Value {
    write(&json!({ "valid": "perhaps" }))
}

pub(crate) async fn house() -> (House, Archive) {
    let archive = archive().await;
    let house = archived::house(&archive, &writing(&archive)).await;
    (house, archive)
}

/// What was written, deleted again, and is there.
pub(crate) fn counts(archive: &Archive) -> (u64, u64, bool) {
    let effects = archive.effects();
    (effects.written, effects.deleted, archive.standing("r1").is_some_and(|it| it.content.is_some()))
}

fn kinds(record: &ActionView) -> Vec<&str> {
    record.receipts.iter().map(|it| it.event_type.as_str()).collect()
}

/// The last word on what was undone, the receipts that prove it, and a chain that says the same.
async fn is_undone(house: &House, said: &Said, receipts: &[&str]) {
    assert_eq!((said.kind(), said.code()), ("failed", "EP_PROVIDER_FAILED"), "{}", said.body);
    assert_eq!((&said.body["details"]["rolled_back"], said.reasons()), (&json!(true), vec!["check_failed"]));
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), kinds(&record)), ("ROLLED_BACK", receipts.to_vec()));
    for receipt in &record.receipts {
        let receipt = house.verified(&receipt.receipt.receipt_id).await;
        let paid = if receipt["metadata"]["kind"] == "pending_settlement" {
            "pending_provider_confirmation"
        } else {
            "not_charged"
        };
        assert_eq!(receipt["paymentStatus"], paid);
    }
    is_whole(house).await;
}

async fn is_whole(house: &House) {
    let found = house.gateway().check_trail(&house.admin, None).await.unwrap().findings;
    assert_eq!(found, []);
}

/// As if it were time to ask again, which is slow once the retries are used up; found by another process.
async fn due(house: House) -> House {
    let house = house.restart().await;
    house.store().execute("UPDATE fate SET until = 1 WHERE state = -6", []).unwrap();
    house
}

#[tokio::test]
async fn what_is_as_it_should_be_is_complete() {
    let (house, archive) = house().await;
    let said = house.said("k", &write(&json!({ "valid": true }))).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), kinds(&record)), ("COMPLETED", vec!["ORIGINAL"]));
    assert_eq!(counts(&archive), (1, 0, true));
    is_whole(&house).await;
}

#[tokio::test]
async fn what_another_gateway_takes_up_to_undo_it_is_left_to_it() {
    let archive = archive().await;
    let mut rival = None;
    let house = House::bound(BINDING, |config| {
        archived::reaching(config, &archive);
        rival = Some(Rival::at("rollback-note.after", config));
    })
    .await;
    bind(&house, &writing(&archive)).await;
    rival.unwrap().arm();
    let said = house.said("k", &wrong()).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    let record = house.record(said.id()).await;
    assert_eq!((record.phase, record.rollback.unwrap().sends), (Some("rolling_back"), 0));
    assert_eq!((counts(&archive), alerts(&house, "rollback_failed")), ((1, 0, true), 0));
}

#[tokio::test]
async fn what_is_not_is_undone_before_the_first_answer_and_only_then_failed() {
    let (house, archive) = house().await;
    let said = house.said("k", &wrong()).await;
    is_undone(&house, &said, &["ORIGINAL", "AMENDMENT_ROLLBACK"]).await;
    assert_eq!(counts(&archive), (1, 1, false));
    let record = house.record(said.id()).await;
    let rollback = record.rollback.unwrap();
    assert_eq!((rollback.by.as_str(), rollback.sends, rollback.failed), ("countersign", 1, false));
    let original = house.verified(&record.receipts[0].receipt.receipt_id).await;
    let entries = original["entries"].as_array().unwrap();
    let done = entries.iter().find(|entry| entry["stage"] == "execute").unwrap();
    assert_eq!(
        (&done["output"]["result"], &done["error"]["reason"]),
        (&json!("rolled_back"), &json!("check_failed"))
    );
    let again = house.said("k", &wrong()).await;
    assert_eq!((&again.bytes, again.replayed), (&said.bytes, true));
    let record = house.gateway().rollback(&house.agent, again.id()).await.unwrap();
    assert_eq!((record.state.as_str(), counts(&archive)), ("ROLLED_BACK", (1, 1, false)), "once is enough");
}

#[tokio::test]
async fn whoever_cannot_tell_is_asked_again_and_nothing_is_said_to_have_failed_meanwhile() {
    let (house, archive) = house().await;
    archive.inject(Injection::new(Target::Reads, Fault::LostBeforeEffect, 1));
    archive.inject(Injection::new(Target::Reads, Fault::RateLimited { retry_after: 1 }, 1));
    let said = house.said("k", &wrong()).await;
    is_undone(&house, &said, &["ORIGINAL", "AMENDMENT_ROLLBACK"]).await;
    assert_eq!(counts(&archive), (1, 1, false));
}

#[tokio::test]
async fn as_long_as_nobody_can_tell_it_is_open_and_then_the_last_word_amends() {
    let archive = archive().await;
    let mut house = archived::patient(&archive, &writing(&archive), 100).await;
    let said = house.said("k", &vague()).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.rollback.is_none()), ("EXECUTING", true));
    assert_eq!(counts(&archive), (1, 0, true));
    is_whole(&house).await;
    house.installation.start();
    a_while().await;
    assert_eq!(house.said("k", &vague()).await.kind(), "pending_settlement", "still nobody can tell");
    archive.put("r1", json!({ "valid": true }));
    let mut house = due(house).await;
    house.installation.start();
    let said = house.settled("k", &vague()).await;
    let record = house.record(said.id()).await;
    assert_eq!(
        (record.state.as_str(), kinds(&record)),
        ("COMPLETED", vec!["ORIGINAL", "AMENDMENT_SETTLEMENT"])
    );
    is_whole(&house).await;
}

#[tokio::test]
async fn what_was_open_when_the_caller_was_answered_is_undone_all_the_same() {
    let archive = archive().await;
    let house = archived::patient(&archive, &writing(&archive), 100).await;
    archive.inject(Injection::new(Target::Reads, Fault::LostBeforeEffect, 1_000_000));
    let said = house.said("k", &wrong()).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    archive.clear();
    let mut house = due(house).await;
    house.installation.start();
    let said = house.until("k", &wrong(), "failed").await;
    until(&house, said.id(), "ROLLED_BACK").await;
    is_undone(&house, &said, &["ORIGINAL", "AMENDMENT_SETTLEMENT", "AMENDMENT_ROLLBACK"]).await;
    assert_eq!(counts(&archive), (1, 1, false));
}

#[tokio::test]
async fn an_effect_whose_answer_was_lost_is_looked_after_once_it_is_found() {
    let (mut house, archive) = house().await;
    house.installation.start();
    archive.inject(Injection::new(Target::Changes, Fault::LostAfterEffect, 1));
    let said = house.until("k", &wrong(), "failed").await;
    until(&house, said.id(), "ROLLED_BACK").await;
    assert_eq!(said.body["details"]["rolled_back"], true);
    assert_eq!(counts(&archive), (1, 1, false));
    is_whole(&house).await;
}

#[tokio::test]
async fn what_cannot_be_undone_is_said_to_be_done_and_a_person_decides() {
    let archive = archive().await;
    let stuck = writing(&archive)
        .swapped("If-Match = { \"$action\" = \"provider_reference\" } }\nbody", "If-Match = 99 }\nbody");
    let house = archived::house(&archive, &stuck).await;
    let said = house.said("k", &wrong()).await;
    assert_eq!(
        (said.kind(), said.reasons()),
        ("executed", vec!["check_failed", "rollback_failed"]),
        "{}",
        said.body
    );
    let record = house.record(said.id()).await;
    assert_eq!((record.state.as_str(), record.rollback.as_ref().unwrap().failed), ("ROLLING_BACK", true));
    assert_eq!((kinds(&record), counts(&archive)), (vec!["ORIGINAL"], (1, 0, true)));
    let metrics = house.gateway().metrics().unwrap();
    assert!(metrics.lines().any(|line| line.contains("rollback_failed") && line.ends_with(" 1")));
    is_whole(&house).await;
    bind(&house, &writing(&archive)).await;
    let record = house.gateway().rollback(&house.operator, said.id()).await.unwrap();
    assert_eq!(
        (record.state.as_str(), kinds(&record)),
        ("ROLLED_BACK", vec!["ORIGINAL", "AMENDMENT_ROLLBACK"])
    );
    assert_eq!(counts(&archive), (1, 1, false));
    assert_eq!(house.said("k", &wrong()).await.bytes, said.bytes, "the original stands");
    is_whole(&house).await;
}

#[tokio::test]
async fn a_freeze_that_includes_rollbacks_keeps_it_open() {
    let archive = archive().await;
    let house = archived::patient(&archive, &writing(&archive), 200).await;
    let scope = FreezeScope::parse("tenant").unwrap();
    archive.inject(Injection::new(Target::Reads, Fault::LostBeforeEffect, 1_000_000));
    let said = house.said("k", &wrong()).await;
    assert_eq!(said.kind(), "pending_settlement");
    let everything = FreezeAsk { include_rollback: true, ..scope.clone().into() };
    house.gateway().freeze(&house.operator, everything).await.unwrap();
    archive.clear();
    let mut house = due(house).await;
    house.installation.start();
    until(&house, said.id(), "ROLLING_BACK").await;
    a_while().await;
    assert_eq!(
        (house.said("k", &wrong()).await.kind(), counts(&archive)),
        ("pending_settlement", (1, 0, true))
    );
    house.gateway().thaw(&house.operator, scope).await.unwrap();
    until(&house, said.id(), "ROLLED_BACK").await;
    assert_eq!(counts(&archive), (1, 1, false));
}

#[tokio::test]
async fn at_atp_3_it_is_restored_as_the_snapshot_has_it() {
    let archive = archive().await;
    archive.put("cust-1", json!({ "name": "Anna" }));
    // A deletion that nobody wants: what is deleted fails its check.
    let check = r#"
[binding.check]
path = ["records", { "$value" = "/record" }]
holds = { status = [200], pointer = "/status", equals = ["there"] }
fails = { status = [200], pointer = "/status", equals = ["deleted"] }
"#;
    let mut house = archived::house(&archive, &deleting(&archive, check)).await;
    house.installation.start();
    agreed(&house, "k", &deletion("cust-1")).await;
    let said = house.until("k", &deletion("cust-1"), "failed").await;
    until(&house, said.id(), "ROLLED_BACK").await;
    assert_eq!(said.body["details"]["rolled_back"], true);
    let there = Standing { version: 1, content: Some(json!({ "name": "Anna" })) };
    assert_eq!((archive.standing("cust-1"), archive.effects().restored), (Some(there), 1));
    let record = house.record(said.id()).await;
    let amendment = house.verified(&record.receipts.last().unwrap().receipt.receipt_id).await;
    let entries = amendment["entries"].as_array().unwrap();
    let done = entries.iter().find(|entry| entry["stage"] == "execute").unwrap();
    assert_eq!(done["output"]["result"], "restored");
}

#[tokio::test]
async fn whoever_dies_before_any_of_its_commits_undoes_it_once_and_says_so() {
    // Before the write that would have it checked, begin to be undone, sent, known to be undone, said, and over.
    for (place, dies) in [
        "NEW.state = -6",
        "NEW.state = -7 AND OLD.state = -6",
        "NEW.state = -7 AND OLD.state = -7 AND NEW.token = 3",
        "NEW.state = -7 AND OLD.state = -7 AND NEW.token = 4",
        "NEW.state = -2",
        "NEW.state = 7",
    ]
    .into_iter()
    .enumerate()
    {
        let archive = archive().await;
        let house = archived::patient(&archive, &writing(&archive), 200).await;
        // Nor does it get to say that it does not know yet.
        let trap = format!(
            "CREATE TRIGGER dies BEFORE UPDATE ON fate
             WHEN ({dies}) OR (OLD.reply IS NULL AND NEW.reply IS NOT NULL AND NEW.state IN (-6, -7, 3))
             BEGIN SELECT RAISE(ABORT, 'a test'); END"
        );
        house.store().execute_batch(&trap).unwrap();
        let unsaid = house.send("k", &wrong()).await;
        assert_eq!(unsaid.is_ok(), dies == "NEW.state = 7", "{dies}: {unsaid:?}");
        let done = if place < 3 { (1, 0, true) } else { (1, 1, false) };
        assert_eq!(counts(&archive), done, "{dies}");
        house.store().execute_batch("DROP TRIGGER dies").unwrap();
        let mut house = house.restart().await;
        // Once the time that it may have taken is over.
        house.store().execute("UPDATE fate SET until = 1 WHERE state < 3", []).unwrap();
        house.installation.start();
        house.until_answered("k", &wrong()).await;
        let said = house.until("k", &wrong(), "failed").await;
        until(&house, said.id(), "ROLLED_BACK").await;
        let asked = ["ORIGINAL", "AMENDMENT_SETTLEMENT", "AMENDMENT_ROLLBACK"];
        // What was marked sent by somebody who is gone is said to be in doubt first.
        is_undone(&house, &said, if place == 0 { &asked } else { &["ORIGINAL", "AMENDMENT_ROLLBACK"] }).await;
        assert_eq!(counts(&archive), (1, 1, false), "{dies}");
    }
}
