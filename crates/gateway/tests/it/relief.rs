//! What could not be set free, and what nobody can tell: it is not gone on with for ever, people are told of it once, and
//! their word ends it. A real bank and a real archive count.

use action::Subject;
use countersign_gateway::{
    ActionView, AuditAsk, Caller, Code, Decision, FreezeAsk, FreezeScope, HeldView, ResolveAsk,
};
use serde_json::{Value, json};
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Target};
use testkit::records::Archive;

use crate::approvals::approver;
use crate::archived;
use crate::banked;
use crate::captures;
use crate::checks::{self, counts, vague, write};
use crate::house::{House, Said};
use crate::reserving::{answer, binding, kinds, reserving};
use crate::resolutions::{findings, resolve, word};
use crate::retries::a_while;

/// A binding whose bank refuses for good to set anything free.
fn stuck(bank: &Bank) -> String {
    binding(bank)
        .swapped("\"release\"]", "\"keep\"]")
        .swapped("refused = [{ status = [409] }]", "refused = [{ status = [404, 409] }]")
        .swapped("gone = [{ status = [404, 410] }]", "gone = [{ status = [410] }]")
}

async fn house() -> (House, Bank) {
    let bank = banked::bank("USD").await;
    let house = House::bound(&stuck(&bank), |config| banked::reaching(config, &[&bank])).await;
    (house, bank)
}

/// 25 dollars that are set aside and cannot be set free.
pub(crate) async fn kept() -> (House, Bank, Said) {
    let (house, bank) = house().await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    let record = house.gateway().release(&house.agent, said.id()).await.unwrap();
    assert_eq!((stands(&record), bank.reserved()), (("EXECUTING", "release_failed"), 2500));
    (house, bank, said)
}

fn stands(record: &ActionView) -> (&str, &str) {
    (&record.state, record.reservation.as_ref().unwrap().state)
}

fn sends(record: &ActionView) -> Option<u32> {
    record.reservation.as_ref().unwrap().release_sends
}

async fn listed(house: &House) -> Vec<HeldView> {
    house.gateway().unresolved(&approver(house, "anna")).await.unwrap()
}

fn executed(receipt: &Value) -> &Value {
    let entries = receipt["entries"].as_array().unwrap();
    &entries.iter().find(|entry| entry["stage"] == "execute").unwrap()["output"]
}

fn alerts(house: &House, kind: &str) -> usize {
    let metrics = house.gateway().metrics().unwrap();
    let line = metrics.lines().find(|line| line.contains("alerts_total") && line.contains(kind));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Who said what became of it, newest first, as the trail has it.
async fn resolvers(house: &House) -> Vec<Option<String>> {
    let ask = AuditAsk { limit: 50, ..AuditAsk::default() };
    let trail = house.gateway().audit(&house.operator, &ask).await.unwrap();
    let resolved = trail.items.into_iter().filter(|entry| entry.event == "resolved");
    resolved.map(|entry| entry.human_approver).collect()
}

#[tokio::test]
async fn what_cannot_be_set_free_rests_and_is_listed_and_told_once() {
    let (mut house, bank, said) = kept().await;
    let shown = &listed(&house).await[0];
    assert_eq!((shown.action_id.as_str(), shown.unresolved), (said.id(), Some("release_failed")));
    assert_eq!(shown.decisions, [Decision::TryAgain, Decision::Released, Decision::Executed]);
    assert!(shown.provider_reference.is_some(), "by which it is looked up there");
    // As if whatever rests were due: nothing goes on with it, whoever looks.
    house.store().execute("UPDATE fate SET until = 1", []).unwrap();
    house.installation.start();
    a_while().await;
    let record = house.record(said.id()).await;
    assert_eq!((stands(&record), sends(&record)), (("EXECUTING", "release_failed"), Some(1)));
    assert_eq!(
        (house.spent(), alerts(&house, "rollback_failed")),
        (2500, 1),
        "money held is not freed on a guess"
    );
    let again = house.said("k", &reserving(&house, "25.00")).await;
    assert_eq!((again.kind(), again.replayed, bank.reservations()), ("held", true, 1));
    for refused in [
        house.gateway().capture(&house.agent, said.id(), None).await.unwrap_err(),
        house.gateway().cancel(&house.agent, said.id()).await.unwrap_err(),
        house.gateway().retry(&house.agent, said.id()).await.unwrap_err(),
        resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap_err(),
        resolve(&house, "anna", said.id(), Decision::RolledBack).await.unwrap_err(),
        resolve(&house, "anna", said.id(), Decision::Undo).await.unwrap_err(),
    ] {
        assert_eq!(refused.code, Code::StateConflict, "{}", refused.message);
    }
    assert_eq!(findings(&house).await, 0);
    // So it is found by a process that comes after this one.
    let house = house.restart().await;
    assert_eq!(listed(&house).await.len(), 1);
}

#[tokio::test]
async fn a_person_says_that_it_is_free_once_the_provider_does_not_say_otherwise() {
    let (house, bank, said) = kept().await;
    let held = resolve(&house, "anna", said.id(), Decision::Released).await.unwrap_err();
    assert!(held.code == Code::StateConflict && held.message.contains("still set aside"), "{}", held.message);
    assert_eq!((house.spent(), stands(&house.record(said.id()).await).1), (2500, "release_failed"));
    bank.expire_reservations();
    let record = resolve(&house, "anna", said.id(), Decision::Released).await.unwrap();
    assert_eq!((stands(&record), record.error), (("FAILED", "released"), Some(Code::Released)));
    assert_eq!((house.spent(), bank.effects().count), (0, 0), "the mandate has it back");
    assert_eq!(answer(&record)["details"]["reasons"], json!(["resolved_by_person"]));
    let receipt = house.verified(&record.receipts[0].receipt.receipt_id).await;
    assert_eq!((kinds(&record), &receipt["paymentStatus"]), (vec!["ORIGINAL"], &json!("not_charged")));
    let output = executed(&receipt);
    assert_eq!(
        (&output["result"], &output["resolved"]["as"]),
        (&json!("resolved_by_person"), &json!("released"))
    );
    // The same word again is the same word.
    let again = resolve(&house, "anna", said.id(), Decision::Released).await.unwrap();
    assert_eq!((again.resolutions.len(), listed(&house).await.len()), (1, 0));
    assert_eq!((resolvers(&house).await, findings(&house).await), (vec![Some("anna".to_owned())], 0));
    let fresh = house.said("k2", &reserving(&house, "25.00")).await;
    assert_eq!(fresh.kind(), "held", "its effect is no longer claimed: {}", fresh.body);
}

#[tokio::test]
async fn a_person_says_that_it_was_charged_and_how_much() {
    for (charged, spent) in [(None, 2500), (Some("10"), 1000)] {
        let (house, _bank, said) = kept().await;
        let anna = approver(&house, "anna");
        let more = ResolveAsk { charged: Some("25.01".to_owned()), ..word(Decision::Executed) };
        let unfit = house.gateway().resolve(&anna, said.id(), more).await.unwrap_err();
        assert_eq!((unfit.code, unfit.field.as_deref()), (Code::ValidationFailed, Some("/charged/amount")));
        let ask = ResolveAsk {
            charged: charged.map(str::to_owned),
            reference: Some("wire-118".to_owned()),
            ..word(Decision::Executed)
        };
        let record = house.gateway().resolve(&anna, said.id(), ask).await.unwrap();
        assert_eq!((stands(&record), house.spent()), (("COMPLETED", "charged"), spent));
        let receipt = house.verified(&record.receipts[0].receipt.receipt_id).await;
        let amount = format!("{}.00", spent / 100);
        assert_eq!((kinds(&record), &receipt["money"]["chargeAmount"]), (vec!["ORIGINAL"], &json!(amount)));
        assert!(executed(&receipt)["reference"].is_null(), "it stands with the word, and hidden");
        assert!(executed(&receipt)["resolved"]["reference"].as_str().unwrap().starts_with("c:"));
        assert_eq!(
            (executed(&receipt)["resolved"]["as"].as_str(), findings(&house).await),
            (Some("executed"), 0)
        );
    }
}

#[tokio::test]
async fn a_person_has_it_tried_again_under_the_same_key_and_so_can_whoever_steers_it() {
    let (house, bank, said) = kept().await;
    let scope = FreezeScope::parse("tenant").unwrap();
    let everything = FreezeAsk { include_rollback: true, ..scope.clone().into() };
    house.gateway().freeze(&house.operator, everything).await.unwrap();
    let frozen = resolve(&house, "anna", said.id(), Decision::TryAgain).await.unwrap_err();
    assert!(frozen.message.contains("EP_FROZEN"), "{}", frozen.message);
    house.gateway().thaw(&house.operator, scope).await.unwrap();
    let record = resolve(&house, "anna", said.id(), Decision::TryAgain).await.unwrap();
    assert_eq!((stands(&record), sends(&record)), (("EXECUTING", "release_failed"), Some(1)));
    assert_eq!((record.resolutions.len(), alerts(&house, "rollback_failed")), (1, 2));
    let record = house.gateway().release(&house.operator, said.id()).await.unwrap();
    assert_eq!((stands(&record), record.resolutions.len()), (("EXECUTING", "release_failed"), 1));
    let charged = house.gateway().capture(&house.agent, said.id(), None).await.unwrap_err();
    assert!(charged.message.contains("could not be set free"), "{}", charged.message);
    // Whoever asked for the release says nothing of it; whoever had it tried again may, once more.
    let olga = resolve(&house, "olga", said.id(), Decision::TryAgain).await.unwrap_err();
    assert_eq!(olga.code, Code::Forbidden);
    house.write("catalogue/default/payment.toml", &binding(&bank));
    house.gateway().reload(&house.admin).await.unwrap();
    let record = resolve(&house, "anna", said.id(), Decision::TryAgain).await.unwrap();
    assert_eq!((stands(&record), bank.reserved(), house.spent()), (("FAILED", "released"), 0, 0));
    assert_eq!(answer(&record)["details"]["reasons"], json!(["released"]), "the provider's own word");
    let by: Vec<_> = record.resolutions.iter().map(|it| (&*it.decision, &*it.by)).collect();
    assert_eq!(by, [("try_again", "anna"), ("try_again", "anna")]);
    assert_eq!((resolvers(&house).await.len(), findings(&house).await), (2, 0));
}

#[tokio::test]
async fn whoever_had_it_released_does_not_say_what_became_of_that() {
    let (house, _bank) = house().await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    let otto = Caller { subject: Subject::parse("otto").unwrap(), ..house.operator.clone() };
    house.gateway().release(&otto, said.id()).await.unwrap();
    let refused = resolve(&house, "otto", said.id(), Decision::Executed).await.unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
    let parties = house.gateway().held_one(&approver(&house, "anna"), said.id()).await.unwrap().parties;
    assert!(parties.iter().any(|party| party == "otto"), "{parties:?}");
}

#[tokio::test]
async fn a_capture_that_was_carried_out_after_all_counts_whatever_a_person_says() {
    let (house, bank) = house().await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    bank.inject(Injection::on(Target::Captures, Fault::LostAfterEffect, 1));
    house.gateway().capture(&house.agent, said.id(), Some("10.00")).await.unwrap();
    // Nobody answers when it is asked after: a person errs, and then the bank will not set it free.
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 2));
    let record = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
    assert_eq!((stands(&record), house.spent()), (("EXECUTING", "release_failed"), 2500));
    let told = resolve(&house, "anna", said.id(), Decision::Released).await.unwrap_err();
    assert!(told.message.contains("its word counts: it was charged"), "{}", told.message);
    let record = house.record(said.id()).await;
    assert_eq!((stands(&record), house.spent()), (("COMPLETED", "charged"), 1000));
    assert_eq!((bank.effects().count, alerts(&house, "late_effect"), findings(&house).await), (1, 1, 0));
}

#[tokio::test]
async fn whoever_dies_while_a_person_has_it_tried_again_leaves_it_to_be_gone_on_with() {
    let (house, _bank, said) = kept().await;
    let trap = "CREATE TRIGGER dies BEFORE UPDATE ON fate WHEN OLD.state = -4 AND NEW.state = -4
                BEGIN SELECT RAISE(ABORT, 'a test'); END";
    house.store().execute_batch(trap).unwrap();
    resolve(&house, "anna", said.id(), Decision::TryAgain).await.unwrap_err();
    assert_eq!(findings(&house).await, 0);
    house.store().execute_batch("DROP TRIGGER dies").unwrap();
    let mut house = house.restart().await;
    assert_eq!(stands(&house.record(said.id()).await).1, "releasing");
    house.installation.start();
    while listed(&house).await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let record = house.record(said.id()).await;
    assert_eq!((sends(&record), record.resolutions.len(), findings(&house).await), (Some(1), 1, 0));
}

/// A capture of which nobody hears, that anna says failed; then she has its reservation, which cannot be set free, tried again.
pub(crate) async fn spoken_of_twice(fault: Fault) -> (House, Bank, String) {
    let (house, bank) = house().await;
    let said = house.said("k", &reserving(&house, "25.00")).await;
    bank.inject(Injection::on(Target::Captures, fault, 1));
    house.gateway().capture(&house.agent, said.id(), Some("10.00")).await.unwrap();
    // Nobody answers when it is asked after, for as long as people err.
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 3));
    resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
    let record = resolve(&house, "anna", said.id(), Decision::TryAgain).await.unwrap();
    assert_eq!(stands(&record), ("EXECUTING", "release_failed"));
    assert_eq!(spoken(&record), [("failed", "anna"), ("try_again", "anna")]);
    (house, bank, said.id().to_owned())
}

fn spoken(record: &ActionView) -> Vec<(&str, &str)> {
    record.resolutions.iter().map(|it| (&*it.decision, &*it.by)).collect()
}

#[tokio::test]
async fn what_people_said_stays_on_record_when_another_attempt_begins() {
    let (house, bank, id) = spoken_of_twice(Fault::LostBeforeEffect).await;
    bank.expire_reservations();
    resolve(&house, "zoe", &id, Decision::Released).await.unwrap();
    captures::arrived(&house);
    let record = house.gateway().retry(&house.agent, &id).await.unwrap();
    assert_eq!(stands(&record), ("EXECUTING", "reserved"));
    let before = [("failed", "anna"), ("try_again", "anna"), ("released", "zoe")];
    assert_eq!(spoken(&record), before);
    let people = ["zoe", "anna", "anna"].map(|name| Some(name.to_owned()));
    assert_eq!((resolvers(&house).await, findings(&house).await), (people.to_vec(), 0));
    // What is said of the next attempt is no repetition of it.
    bank.inject(Injection::on(Target::Captures, Fault::LostBeforeEffect, 1));
    house.gateway().capture(&house.agent, &id, Some("10.00")).await.unwrap();
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 2));
    let record = resolve(&house, "anna", &id, Decision::Failed).await.unwrap();
    assert_eq!((&spoken(&record)[..3], spoken(&record).len()), (&before[..], 4));
    assert_eq!((resolvers(&house).await.len(), findings(&house).await), (4, 0));
}

#[tokio::test]
async fn what_people_said_stays_on_record_when_it_turns_out_charged() {
    let (house, _bank, id) = spoken_of_twice(Fault::LostAfterEffect).await;
    let told = resolve(&house, "anna", &id, Decision::Released).await.unwrap_err();
    assert!(told.message.contains("its word counts: it was charged"), "{}", told.message);
    let record = house.record(&id).await;
    assert_eq!((stands(&record), house.spent()), (("COMPLETED", "charged"), 1000));
    assert_eq!(spoken(&record), [("failed", "anna"), ("try_again", "anna")]);
    let people = vec![Some("anna".to_owned()); 2];
    assert_eq!((resolvers(&house).await, findings(&house).await), (people, 0));
}

/// A record of which nobody can tell whether it is as it should be, for as long as its caller cares.
pub(crate) async fn unchecked() -> (House, Archive, Said) {
    let archive = archived::archive().await;
    let mut house = archived::house(&archive, &checks::writing(&archive)).await;
    house.installation.start();
    let mut body = vague();
    body["deadline_ms"] = json!(5000);
    let said = house.said("k", &body).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    while listed(&house).await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    (house, archive, said)
}

#[tokio::test]
async fn what_nobody_can_tell_is_listed_and_stays_if_a_person_says_so() {
    let (house, archive, said) = unchecked().await;
    let shown = &listed(&house).await[0];
    assert_eq!(
        (shown.unresolved, &shown.decisions[..]),
        (Some("unchecked"), &[Decision::Executed, Decision::Undo][..])
    );
    let record = house.record(said.id()).await;
    assert_eq!(
        (record.state.as_str(), kinds(&record), counts(&archive)),
        ("EXECUTING", vec!["ORIGINAL"], (1, 0, true))
    );
    assert_eq!(findings(&house).await, 0);
    let unfit = resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap_err();
    assert_eq!(unfit.hint.as_deref(), Some("say `executed` or `undo`"));
    let record = resolve(&house, "anna", said.id(), Decision::Executed).await.unwrap();
    assert_eq!(
        (record.state.as_str(), kinds(&record)),
        ("COMPLETED", vec!["ORIGINAL", "AMENDMENT_SETTLEMENT"])
    );
    let receipt = house.verified(&record.receipts[1].receipt.receipt_id).await;
    let output = executed(&receipt);
    assert_eq!(
        (&output["result"], &output["resolved"]["as"]),
        (&json!("resolved_by_person"), &json!("executed"))
    );
    assert!(output["reference"].is_string(), "what was confirmed stays so: {output}");
    assert_eq!((counts(&archive), listed(&house).await.len(), findings(&house).await), ((1, 0, true), 0, 0));
}

#[tokio::test]
async fn what_nobody_can_tell_is_undone_if_a_person_has_it_undone() {
    let (house, archive, said) = unchecked().await;
    let record = resolve(&house, "anna", said.id(), Decision::Undo).await.unwrap();
    let receipts = ["ORIGINAL", "AMENDMENT_SETTLEMENT", "AMENDMENT_ROLLBACK"];
    assert_eq!(
        (record.state.as_str(), kinds(&record), counts(&archive)),
        ("ROLLED_BACK", receipts.to_vec(), (1, 1, false))
    );
    assert_eq!(record.rollback.as_ref().unwrap().by, "anna");
    let last = answer(&record);
    assert_eq!(
        (&last["kind"], &last["details"]["reasons"]),
        (&json!("failed"), &json!(["resolved_by_person"]))
    );
    assert_eq!(last["details"]["rolled_back"], true);
    let mut outputs = Vec::new();
    for receipt in &record.receipts[1..] {
        outputs.push(executed(&house.verified(&receipt.receipt.receipt_id).await).clone());
    }
    assert_eq!(
        (&outputs[0]["result"], &outputs[0]["resolved"]["as"]),
        (&json!("resolved_by_person"), &json!("undo"))
    );
    // That it is undone says the provider.
    assert_eq!((&outputs[1]["result"], &outputs[1]["resolved"]), (&json!("compensated"), &Value::Null));
    let words: Vec<_> = record.resolutions.iter().map(|it| (&*it.decision, &*it.by)).collect();
    assert_eq!(words, [("undo", "anna")]);
    assert_eq!((resolvers(&house).await, findings(&house).await), (vec![Some("anna".to_owned())], 0));
}

#[tokio::test]
async fn whoever_tells_when_it_is_asked_once_more_is_believed_instead() {
    for (valid, decision, agrees, state) in [
        (true, Decision::Executed, true, "COMPLETED"),
        (true, Decision::Undo, false, "COMPLETED"),
        (false, Decision::Undo, true, "ROLLED_BACK"),
        (false, Decision::Executed, false, "ROLLED_BACK"),
    ] {
        let (house, archive, said) = unchecked().await;
        archive.put("r1", write(&json!({ "valid": valid }))["constraints"]["content"].clone());
        let resolved = resolve(&house, "anna", said.id(), decision).await;
        assert_eq!(resolved.is_ok(), agrees, "{valid} {decision:?}: {:?}", resolved.err());
        let record = house.record(said.id()).await;
        assert_eq!(record.resolutions.len(), 0, "{valid} {decision:?}");
        // Somebody else wrote it since, so that undoing it is refused: then it is there, and a person decides.
        let expected = if state == "COMPLETED" { "COMPLETED" } else { "ROLLING_BACK" };
        assert_eq!((record.state.as_str(), findings(&house).await), (expected, 0), "{valid} {decision:?}");
    }
}
