//! `atp-3`: a key, a person's approval, a snapshot, a way back; and what comes late is undone.

use action::Subject;
use countersign_gateway::{Caller, Code, Role};
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection};

use crate::banked;
use crate::house::{House, Said};
use crate::retries::{AT_ONCE, a_while, receipt};
use crate::rollbacks;

/// Payments that happen exactly once, or are given back.
fn binding(bank: &Bank, retry: &str) -> String {
    rollbacks::binding(bank, retry).swapped(
        "reversible = true\n",
        "reversible = true\nguarantee_level = \"atp-3\"\napproval = \"key\"\n",
    ) + "\n[binding.snapshot]\npath = [\"accounts\", \"operating\"]\nsuccess = { status = [200] }\n"
}

async fn house(change: impl FnOnce(String) -> String) -> (House, Bank) {
    let bank = banked::bank("USD").await;
    let text = change(binding(&bank, AT_ONCE));
    let house = House::bound(&text, |config| banked::reaching(config, &[&bank])).await;
    (house, bank)
}

/// Asks for a payment, and a person agrees to it.
async fn agreed(house: &House, key: &str, recipient: &str) -> Said {
    let held = house.said(key, &house.payment(recipient, "25.00")).await;
    assert_eq!((held.kind(), held.reasons()), ("held", vec!["guarantee_level"]), "{}", held.body);
    let anna = Caller {
        subject: Subject::parse("anna").unwrap(),
        role: Role::Approver,
        key_issuer: None,
        ..house.agent.clone()
    };
    house.gateway().approve(&anna, held.id(), None).await.unwrap();
    held
}

#[tokio::test]
async fn a_payment_is_approved_remembers_what_was_before_and_can_be_given_back() {
    let (house, bank) = house(|text| text).await;
    let held = agreed(&house, "k", "acct-1").await;
    let said = house.settled("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(bank.effects().count, 1);
    let record = house.record(held.id()).await;
    assert_eq!((record.guarantee_level.as_str(), record.state.as_str()), ("atp-3", "COMPLETED"));
    assert_eq!(record.snapshot.unwrap()["balance_minor"], 100_000_000);
    let receipt = receipt(&house, &said).await;
    let entries = receipt["entries"].as_array().unwrap();
    let execute = entries.iter().find(|entry| entry["stage"] == "execute").unwrap();
    assert!(execute["input"]["snapshot"].as_str().unwrap().starts_with("c:"), "{execute}");
    let record = house.gateway().rollback(&house.agent, held.id()).await.unwrap();
    assert_eq!((record.state.as_str(), bank.refunds()), ("ROLLED_BACK", 1));
}

#[tokio::test]
async fn a_lost_answer_is_one_effect() {
    let (mut house, bank) = house(|text| text).await;
    house.installation.start();
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    agreed(&house, "k", "acct-1").await;
    house.settled("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!((bank.effects().count, bank.balance("acct-1")), (1, Some(2500)));
}

#[tokio::test]
async fn without_a_snapshot_nothing_is_sent() {
    let (house, bank) = house(|text| text.swapped("\"operating\"]\nsuccess", "\"nobody\"]\nsuccess")).await;
    agreed(&house, "k", "acct-1").await;
    let said = house.until("k", &house.payment("acct-1", "25.00"), "failed").await;
    assert_eq!((said.code(), said.reasons()), ("EP_PROVIDER_FAILED", vec!["no_snapshot"]));
    assert_eq!((bank.effects().count, house.spent()), (0, 0));
}

#[tokio::test]
async fn what_lacks_a_way_back_is_refused_before_it_is_an_action() {
    let no_rollback = |text: String| {
        let (before, after) = text.split_once("\n[binding.rollback]").unwrap();
        format!("{before}\n{}", &after[after.find("[retry]").unwrap()..])
    };
    let irreversible = |text: String| text.swapped("reversible = true\n", "reversible = false\n");
    for change in [&no_rollback as &dyn Fn(String) -> String, &irreversible] {
        let (house, bank) = house(change).await;
        let error = house.send("k", &house.payment("acct-1", "25.00")).await.unwrap_err();
        assert_eq!(error.code, Code::RollbackRequired);
        assert_eq!(bank.effects().count, 0);
    }
}

#[tokio::test]
async fn an_effect_after_the_last_word_is_undone() {
    let once = |text: String| {
        text.swapped("max_retries = 2", "max_retries = 0").swapped("timeout_ms = 5000", "timeout_ms = 100")
    };
    let (mut house, bank) = house(once).await;
    house.installation.start();
    bank.inject(Injection::payments(Fault::Late { ms: 5_000 }, 1));
    let held = agreed(&house, "k", "acct-1").await;
    house.until("k", &house.payment("acct-1", "25.00"), "failed").await;
    while bank.effects().count == 0 {
        a_while().await;
    }
    house.gateway().retry(&house.agent, held.id()).await.unwrap();
    crate::rollbacks::until(&house, held.id(), "ROLLED_BACK").await;
    let record = house.record(held.id()).await;
    assert_eq!(record.rollback.unwrap().by, "countersign");
    assert_eq!((bank.effects().count, bank.refunds(), bank.balance("acct-1")), (1, 1, Some(0)));
}
