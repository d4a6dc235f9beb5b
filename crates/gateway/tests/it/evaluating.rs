//! What an action would come to, asked by whoever governs its agent.

use action::Subject;
use countersign_gateway::config::TokenIssuer;
use countersign_gateway::{Evaluation, EvaluationAsk, Foreseen};
use serde_json::{Map, Value, json};

use crate::house::House;

/// A payment of the house's agent, asked about by its operator; beside it what `/api/execute` takes.
async fn foreseen(house: &House, more: &Value) -> Evaluation {
    let object = |value: &Value| value.as_object().cloned().unwrap();
    let question = EvaluationAsk {
        archetype: "PAYMENT_TRANSFER".to_owned(),
        properties: object(&json!({"amount_usd": "20.00", "max_total_usd": "20.00"})),
        resource_type: "Account".to_owned(),
        resource_id: "acct-1".to_owned(),
        resource_properties: Map::new(),
        mandate_id: None,
        more: object(more),
        request_id: "req-1".to_owned(),
    };
    let about = house.gateway().about(&house.operator, house.agent.subject.as_str()).await.unwrap();
    house.gateway().evaluate(&about, question).await.unwrap()
}

#[tokio::test]
async fn whoever_comes_by_tokens_is_judged_by_the_mandate_that_its_issuer_names() {
    let mut house = House::new().await;
    house.agent.subject = Subject::parse("idp:bot").unwrap();
    let ask = house.mandate_ask("500.00", 4_102_444_800);
    let mandate = house.gateway().issue_mandate(&house.operator, ask).await.unwrap().mandate.jti;
    for (more, expected) in [
        (json!({}), true),
        (json!({"role": "operator"}), false),
        // Its agents may come by API keys as well.
        (json!({"shares_subjects": true}), false),
    ] {
        let mut issuer =
            json!({"issuer": "https://idp.example", "prefix": "idp:", "default_mandate": mandate});
        issuer.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        let issuer: TokenIssuer = serde_json::from_value(issuer).unwrap();
        house.config.token_issuers = vec![issuer];
        house = house.restart().await;
        let found = foreseen(&house, &json!({})).await.found.unwrap();
        assert_eq!(found == Foreseen::Pass, expected, "{more}: {found:?}");
    }
}
