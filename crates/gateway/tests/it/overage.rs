//! What happens when a provider charges more than was reserved.

use countersign_gateway::ReceiptView;
use serde_json::Value;
use testkit::bank::{Fault, Injection};

use crate::banked::{self, Order};
use crate::house::{House, Said};

/// The bank is told the most that the caller would pay (900), whatever the amount.
const THE_MOST: Order =
    Order { amount: r#"{ "$value" = "/max_total_usd" }"#, currency: r#"{ "$money" = "currency" }"# };
/// The right number in the wrong currency.
const EUROS: Order = Order { amount: r#"{ "$money" = "amount" }"#, currency: r#""EUR""# };

struct Told {
    receipts: Vec<ReceiptView>,
    documents: Vec<Value>,
}

/// Every receipt of the action, verified, oldest first.
async fn told(house: &House, said: &Said) -> Told {
    let view = house.gateway().action(&house.agent, said.id()).await.unwrap();
    assert_eq!(view.state, "COMPLETED");
    let mut documents = Vec::new();
    for receipt in &view.receipts {
        documents.push(house.verified(&receipt.receipt.receipt_id).await);
    }
    Told { receipts: view.receipts, documents }
}

impl Told {
    fn events(&self) -> Vec<&str> {
        self.receipts.iter().map(|it| it.event_type.as_str()).collect()
    }

    /// The last receipt, which amends the one before it.
    fn overage(&self) -> &Value {
        let [.., amended, overage] = self.documents.as_slice() else { panic!("two receipts") };
        assert_eq!(overage["eventType"], "AMENDMENT_OVERAGE");
        assert_eq!(overage["amendmentOf"], amended["receiptId"]);
        assert_eq!(overage["entries"][0]["output"]["amends"], amended["receiptId"]);
        assert_eq!(overage["paymentStatus"], "charged");
        assert_eq!(overage["metadata"]["kind"], "executed");
        overage
    }
}

fn stages(document: &Value) -> Vec<&str> {
    document["entries"].as_array().unwrap().iter().map(|entry| entry["stage"].as_str().unwrap()).collect()
}

fn alerts(house: &House) -> String {
    let metrics = house.gateway().metrics().unwrap();
    let line = metrics.lines().find(|line| line.starts_with("countersign_alerts_total{"));
    line.unwrap_or("none").to_owned()
}

/// The mandate is frozen: nothing more goes out under it.
async fn stopped(house: &House) {
    let next = house.said("next", &house.payment("acct-9", "1.00")).await;
    assert_eq!((next.kind(), next.code()), ("blocked", "EP_DELEGATION_BLOCK"), "{}", next.body);
}

#[tokio::test]
async fn a_charge_above_the_reservation_has_a_receipt_of_its_own_and_an_alert() {
    let (house, bank) = banked::house("USD", &THE_MOST).await;
    assert_eq!(alerts(&house), "none");
    let body = house.payment("acct-1", "25.00");
    let said = house.said("k1", &body).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    assert_eq!(bank.balance("acct-1"), Some(90_000));

    let told = told(&house, &said).await;
    assert_eq!(told.events(), ["ORIGINAL", "AMENDMENT_OVERAGE"]);
    assert_eq!(said.body["receipt"], told.documents[0]["receiptId"], "the reply names what was done");
    assert_eq!(stages(&told.documents[0]).len(), 9);
    let overage = told.overage();
    assert_eq!(stages(overage), ["__genesis__", "commit_auth_split", "receipt"]);
    let split = &overage["entries"][1]["output"];
    assert_eq!((&split["authorised"], &split["charged"]), (&"25.00".into(), &"900.00".into()));
    assert_eq!((&split["currency"], &split["chargedCurrency"]), (&"USD".into(), &Value::Null));
    let money = &overage["money"];
    assert_eq!((&money["offerAmount"], &money["chargeAmount"]), (&"25.00".into(), &"900.00".into()));

    assert_eq!(alerts(&house), r#"countersign_alerts_total{environment="production",alert="overage"} 1"#);
    let again = house.said("k1", &body).await;
    assert!(again.replayed && again.bytes == said.bytes);
    let view = house.gateway().action(&house.agent, said.id()).await.unwrap();
    assert_eq!(view.confirmation.unwrap()["answer"]["amount"], "900.00", "what was confirmed still shows");
    stopped(&house).await;
}

#[tokio::test]
async fn a_charge_in_another_currency_is_an_overage_and_says_which() {
    let (house, _bank) = banked::house("EUR", &EUROS).await;
    let said = house.said("k1", &house.payment("acct-1", "25.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    let told = told(&house, &said).await;
    assert_eq!(told.events(), ["ORIGINAL", "AMENDMENT_OVERAGE"]);
    let split = &told.overage()["entries"][1]["output"];
    assert_eq!((&split["currency"], &split["chargedCurrency"]), (&"USD".into(), &"EUR".into()));
    assert_eq!(told.overage()["money"]["chargeCurrency"], "EUR");
    let mandates = house.gateway().mandates(&house.operator, None, 10).await.unwrap();
    assert_eq!(mandates.items[0].spent.unwrap().to_string(), "25.00", "what was reserved stays taken");
    stopped(&house).await;
}

#[tokio::test]
async fn an_overage_behind_a_lost_answer_amends_the_settlement() {
    let (mut house, bank) = banked::house("USD", &THE_MOST).await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    let body = house.payment("acct-1", "25.00");
    let pending = house.said("k1", &body).await;
    assert_eq!(pending.kind(), "pending_settlement", "{}", pending.body);
    assert_eq!(alerts(&house), "none");
    house.installation.start();
    let said = house.settled("k1", &body).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    let told = told(&house, &said).await;
    assert_eq!(told.events(), ["ORIGINAL", "AMENDMENT_SETTLEMENT", "AMENDMENT_OVERAGE"]);
    assert_eq!(told.documents[1]["amendmentOf"], pending.body["receipt"]);
    assert_eq!(told.overage()["money"]["chargeAmount"], "900.00");
    assert!(alerts(&house).ends_with(" 1"));
    stopped(&house).await;
}

#[tokio::test]
async fn a_charge_of_what_was_reserved_is_none() {
    let (house, _bank) = banked::house("USD", &banked::RIGHT).await;
    let said = house.said("k1", &house.payment("acct-1", "25.00")).await;
    assert_eq!(told(&house, &said).await.events(), ["ORIGINAL"]);
    assert_eq!(alerts(&house), "none");
}
