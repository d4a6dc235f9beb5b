//! Actions whose price only the provider knows.

use serde_json::{Value, json};

use crate::approvals::{approver, wait_for};
use crate::house::{House, Said};
use crate::rides::{self, Rides, Slow, ride};

#[tokio::test]
async fn a_price_is_held_against_the_past_of_its_currency() {
    let house = rides::house().await;
    for place in ["station", "harbour"] {
        let said = house.said(place, &ride(&house, place)).await;
        assert_eq!(said.kind(), "executed", "{}", said.body);
        assert_eq!(said.body["details"]["amount"], "100.00");
    }
    let third = house.said("airport", &ride(&house, "airport")).await;
    assert_eq!((third.kind(), third.code()), ("blocked", "EP_ANOMALY_BLOCK"), "{}", third.body);
}

#[tokio::test]
async fn a_mandate_that_ends_while_the_price_is_asked_for_carries_nothing() {
    let mut provider = Rides::start(Slow::Price).await;
    let house = provider.house(100, "").await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = house.mandate_until("500.00", i64::try_from(now).unwrap() + 2).await;
    let body = json!({ "archetype": "RIDE", "constraints": { "to": "late" }, "delegation_token": token });
    let asking = house.said("late", &body);
    let waiting = async {
        provider.is_asked().await;
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        provider.let_answer();
    };
    let (said, ()) = tokio::join!(asking, waiting);
    assert_eq!((said.kind(), said.code()), ("blocked", "EP_DELEGATION_BLOCK"), "{}", said.body);
}

#[tokio::test]
async fn a_price_that_is_asked_for_takes_a_place_though_nobody_waits_for_it() {
    let mut provider = Rides::start(Slow::Price).await;
    let house = provider.house(1, "").await;
    let body = ride(&house, "station");
    {
        let first = house.said("first", &body);
        tokio::pin!(first);
        tokio::select! {
            said = &mut first => panic!("it was answered without a price: {said:?}"),
            () = provider.is_asked() => {}
        }
        // Whoever asked hangs up here.
    }
    let error = house.send("second", &ride(&house, "harbour")).await.unwrap_err();
    assert_eq!(error.code, countersign_gateway::Code::Unavailable);
    provider.let_answer();
    assert_eq!(house.until_answered("first", &body).await.kind(), "executed");
}

/// The entries of an answer's receipt that are of this stage.
async fn stage(house: &House, said: &Said, name: &str) -> Value {
    let receipt = house.verified(said.body["receipt"].as_str().unwrap()).await;
    let entries = receipt["entries"].as_array().unwrap();
    entries.iter().find(|entry| entry["stage"] == name).unwrap().clone()
}

#[tokio::test]
async fn what_was_quoted_is_reserved_and_a_price_that_rose_since_is_an_overage() {
    let mut provider = Rides::start(Slow::Ride).await;
    let house = provider.house(100, "").await;
    let body = ride(&house, "station");
    let asking = house.said("k1", &body);
    let rising = async {
        provider.is_asked().await;
        let mandates = house.gateway().mandates(&house.operator, None, 10).await.unwrap();
        let spent = mandates.items[0].spent.unwrap().to_string();
        provider.costs("12.00");
        provider.let_answer();
        spent
    };
    let (said, reserved) = tokio::join!(asking, rising);
    assert_eq!(said.kind(), "executed", "{}", said.body);
    assert_eq!((reserved.as_str(), provider.count()), ("10.00", (1, 1)), "asked once, and that was reserved");
    let split = stage(&house, &said, "commit_auth_split").await;
    assert_eq!(
        (&split["output"]["authorised"], &split["output"]["charged"]),
        (&"10.00".into(), &"12.00".into())
    );
    let view = house.gateway().action(&house.agent, said.id()).await.unwrap();
    assert_eq!(view.receipts.last().unwrap().event_type, "AMENDMENT_OVERAGE");
    let next = house.said("k2", &ride(&house, "harbour")).await;
    assert_eq!((next.kind(), next.code()), ("blocked", "EP_DELEGATION_BLOCK"), "{}", next.body);
}

#[tokio::test]
async fn a_price_that_rose_while_people_were_asked_is_asked_about_again() {
    let provider = Rides::start(Slow::Nothing).await;
    let house = provider.house(100, "requires_approval = true\napproval = \"key\"\n").await;
    let body = ride(&house, "station");
    let waits = house.said("k1", &body).await;
    assert_eq!(waits.kind(), "held", "{}", waits.body);
    let anna = approver(&house, "anna");
    assert_eq!(house.gateway().held_one(&anna, waits.id()).await.unwrap().amount.as_deref(), Some("10.00"));
    provider.costs("12.00");
    house.gateway().approve(&anna, waits.id(), None).await.unwrap();
    let again = wait_for(&house, waits.id(), |view| view.escalation_id.ends_with("-2")).await;
    assert_eq!((again.amount.as_deref(), again.state.as_str()), (Some("12.00"), "INTENDED"));
    assert_eq!(provider.count(), (2, 0), "nothing was ordered");
    // Less than what they agreed to is no news.
    provider.costs("11.00");
    house.gateway().approve(&anna, waits.id(), None).await.unwrap();
    let done = house.settled("k1", &body).await;
    assert_eq!((&done.body["details"]["amount"], provider.count()), (&"11.00".into(), (3, 1)));
}

#[tokio::test]
async fn who_only_asks_for_a_price_has_not_been_there_and_has_spent_nothing() {
    let house = rides::house().await;
    let mut asks = ride(&house, "station");
    asks["payment_mode"] = json!("QUOTE_ONLY");
    for key in ["q1", "q2"] {
        let quoted = house.said(key, &asks).await;
        assert_eq!(quoted.kind(), "executed", "{}", quoted.body);
    }
    let goes = house.said("k1", &ride(&house, "station")).await;
    assert_eq!(goes.kind(), "executed", "what was only asked for is not done yet: {}", goes.body);
    assert_eq!(stage(&house, &goes, "math").await["output"]["firstSeenDestination"], true);
    let mandates = house.gateway().mandates(&house.operator, None, 10).await.unwrap();
    assert_eq!(mandates.items[0].spent.unwrap().to_string(), "100.00");
}
