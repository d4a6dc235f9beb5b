//! What is looked after later: doubts whose provider was rebound, rows that cannot be read.

use serde_json::{Value, json};
use testkit::Swap;
use testkit::bank::{Fault, Injection};

use crate::banked::{self, RIGHT};
use crate::house::{House, Said};

/// A payment that the bank carries out without an answer.
async fn doubted(house: &House, bank: &testkit::bank::Bank, key: &str) -> (Value, Said) {
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    let body = house.payment(&format!("acct-{key}"), "25.00");
    let said = house.said(key, &body).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
    (body, said)
}

#[tokio::test]
async fn a_doubt_is_asked_only_of_the_provider_it_was_sent_to() {
    let (mut house, bank) = banked::house("USD", &RIGHT).await;
    let (body, _) = doubted(&house, &bank, "first").await;
    // The same bank under another name: asked, it would confirm.
    house.rebind(&banked::binding(&bank, "other", &RIGHT)).await;
    house.installation.start();
    // Whoever settles the third was sent out after the one that settled the second and looked into the first was back.
    for key in ["second", "third"] {
        let (body, _) = doubted(&house, &bank, key).await;
        assert_eq!(house.settled(key, &body).await.kind(), "executed");
    }
    assert_eq!(house.said("first", &body).await.kind(), "pending_settlement");
    house.rebind(&banked::binding(&bank, "bank", &RIGHT)).await;
    assert_eq!(house.settled("first", &body).await.kind(), "executed");
}

#[tokio::test]
async fn another_bank_under_the_same_name_is_not_asked() {
    let (first, second) = (banked::bank("USD").await, banked::bank("USD").await);
    let mut house = House::bound(&banked::binding(&first, "bank", &RIGHT), |config| {
        banked::reaching(config, &[&first, &second]);
    })
    .await;
    let (body, _) = doubted(&house, &first, "first").await;
    // So long ago that an absence is final.
    house.age("first", "json_set(payload, '$.call.send_by_ms', 1)");
    house.rebind(&banked::binding(&second, "bank", &RIGHT)).await;
    house.installation.start();
    for key in ["second", "third"] {
        let (body, _) = doubted(&house, &second, key).await;
        assert_eq!(house.settled(key, &body).await.kind(), "executed");
    }
    // The second bank knows nothing of it, and would have given the money back to the mandate.
    assert_eq!(house.said("first", &body).await.kind(), "pending_settlement");
    // What does not change who is asked does not matter.
    let as_it_was = banked::binding(&first, "bank", &RIGHT).swapped("timeout_ms = 5000", "timeout_ms = 4000");
    house.rebind(&as_it_was).await;
    assert_eq!(house.settled("first", &body).await.kind(), "executed");
    assert_eq!((first.effects().count, second.effects().count), (1, 2));
}

#[tokio::test]
async fn a_row_without_an_identity_is_asked_after_by_name() {
    let (mut house, bank) = banked::house("USD", &RIGHT).await;
    let (body, _) = doubted(&house, &bank, "old").await;
    house.age("old", "json_remove(payload, '$.call.identity')");
    house.rebind(&banked::binding(&bank, "bank", &RIGHT).swapped("86400", "86401")).await;
    house.installation.start();
    assert_eq!(house.settled("old", &body).await.kind(), "executed");
}

/// An archetype with a provider of its own.
const ORDER: &str = r#"
name = "ORDER"
description = "Order something"
reversible = true
guarantee_level = "atp-1"
resource = "/what"
identity = ["/what"]

[cedar]
groups = ["Payments"]
resource_type = "Thing"

[schema]
required = ["what"]

[schema.properties.what]
description = "What is ordered"
type = "string"
examples = ["paper"]
x-identifier = true
x-display = true

[binding]
provider = "sandbox"
options = { triggers = true }
"#;

#[tokio::test]
async fn a_provider_that_does_not_answer_delays_nobody_else() {
    let bank = banked::bank("USD").await;
    let binding = banked::binding(&bank, "bank", &RIGHT).swapped("timeout_ms = 5000", "timeout_ms = 120000");
    let mut house = House::bound(&binding, |config| {
        banked::reaching(config, &[&bank]);
        config.limits.held_seconds = 0;
        let folder = config.catalogue_dir.as_ref().unwrap().join("default");
        std::fs::write(folder.join("order.toml"), ORDER).unwrap();
    })
    .await;
    let (stuck, _) = doubted(&house, &bank, "stuck").await;
    bank.inject(Injection::queries(Fault::DelayAnswer { ms: 600_000 }, u64::MAX));
    house.installation.start();
    for key in ["one", "two"] {
        let order = json!({
            "archetype": "ORDER",
            "constraints": { "what": "sandbox:lose" },
            "delegation_token": house.token,
        });
        assert_eq!(house.said(key, &order).await.kind(), "pending_settlement");
        assert_eq!(house.settled(key, &order).await.kind(), "executed");
    }
    assert_eq!(house.said("again", &stuck).await.kind(), "held");
    assert_eq!(house.until("again", &stuck, "blocked").await.code(), "EP_APPROVAL_EXPIRED");
    assert_eq!(house.said("stuck", &stuck).await.kind(), "pending_settlement");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_nothing_else() {
    let mut house = House::with(|config| {
        config.limits.held_seconds = 0;
        config.limits.recovery_interval_ms = 20;
    })
    .await;
    let body = house.payment("acct-1", "25.00");
    house.said("k1", &body).await;
    for key in ["broken", "whole"] {
        assert_eq!(house.said(key, &body).await.kind(), "held");
    }
    let lost = house.payment("sandbox:lose", "25.00");
    assert_eq!(house.said("lost", &lost).await.kind(), "pending_settlement");
    let broken = house.store().execute("UPDATE action SET payload = x'7b' WHERE key = 'broken'", []);
    assert_eq!(broken.unwrap(), 1);

    house.installation.start();
    assert_eq!(house.settled("lost", &lost).await.kind(), "executed");
    let expired = house.until("whole", &body, "blocked").await;
    assert_eq!(expired.code(), "EP_APPROVAL_EXPIRED");
}
