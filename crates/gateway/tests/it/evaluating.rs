//! What an action would come to, asked by whoever governs its agent.

use action::Subject;
use countersign_gateway::config::TokenIssuer;
use countersign_gateway::{Code, Evaluation, EvaluationAsk, Foreseen};
use serde_json::{Map, Value, json};
use testkit::Swap;

use crate::house::{BINDING, House};

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

#[tokio::test]
async fn what_its_provider_cannot_keep_is_no_action_unless_it_is_carried_out_elsewhere() {
    let binding = BINDING.swapped("extends = \"builtin\"\n", "extends = \"builtin\"\nreversible = false\n");
    let house = House::bound(&binding, |_| {}).await;
    for (more, code) in [
        (json!({"guarantee_level": "atp-3"}), Code::RollbackRequired),
        (json!({"payment_mode": "QUOTE_ONLY"}), Code::ProviderCannot),
    ] {
        let mut body = house.payment("acct-1", "20.00");
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        assert_eq!(house.send("k1", &body).await.unwrap_err().code, code, "{more}");
        let found = foreseen(&house, &with_token(&house, &more)).await.found.unwrap_err();
        let member = more.as_object().unwrap().keys().next().unwrap();
        let field = format!("/context/countersign/{member}");
        assert_eq!((found.code, found.field), (code, Some(field)), "{more}");
    }
    assert_eq!(foreseen(&house, &with_token(&house, &json!({}))).await.found.unwrap(), Foreseen::Pass);
    let (unbound, _) = binding.split_once("[binding]").unwrap();
    house.rebind(unbound).await;
    let question = with_token(&house, &json!({"payment_mode": "QUOTE_ONLY"}));
    assert_eq!(
        foreseen(&house, &question).await.found.unwrap(),
        Foreseen::Pass,
        "it is not carried out here"
    );
}

/// Under the mandate of the house.
fn with_token(house: &House, more: &Value) -> Value {
    let mut question = more.clone();
    question["delegation_token"] = house.token.as_str().into();
    question
}
