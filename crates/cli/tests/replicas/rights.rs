//! What one gateway has taken away none of the others still gives.

use std::time::Duration;

use serde_json::json;
use testkit::bank::{Fault, Injection};

use crate::house::Said;
use crate::street::{GATEWAYS, Street};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_has_acknowledged_all_others_honour_at_their_next_evaluation() {
    let Some(mut street) = Street::new().await else { return };
    let (agent, operator) = (street.house.agent(), street.house.voice("default", "operator"));
    let (agents, operators) = (street.everywhere(&agent), street.everywhere(&operator));
    let admins = street.everywhere(&street.house.admin());
    for round in 0..GATEWAYS {
        let others = || (0..GATEWAYS).filter(move |number| *number != round);
        let pay = async |what: &str, number: usize, token: &str| -> Said {
            let key = format!("{what}-{round}-{number}");
            agents[number].execute(&key, &crate::house::payment(&key, "1.50", token)).await
        };
        let token = street.house.mandate("default", "500.00").await;
        for number in 0..GATEWAYS {
            let said = pay("before", number, &token).await;
            assert_eq!(said.kind(), "executed", "{}", said.text());
        }
        let frozen = operators[round].post("/v1/freeze", &json!({"scope": "agent:default-agent"})).await;
        assert!(frozen.status < 300, "{}", frozen.text());
        for number in others() {
            let said = pay("frozen", number, &token).await;
            assert_eq!((said.kind(), said.code()), ("blocked", "EP_FROZEN"), "{}", said.text());
        }
        let scope = json!({"scope": "agent:default-agent"});
        let thawed = operators[(round + 1) % GATEWAYS].post("/v1/thaw", &scope).await;
        assert!(thawed.status < 300, "{}", thawed.text());
        let paid = pay("thawed", round, &token).await;
        assert_eq!(paid.kind(), "executed", "{}", paid.text());
        let action = format!("/v1/actions/{}", paid.id());

        let jti = jti(&token);
        let revoked = operators[round].post(&format!("/v1/mandates/{jti}/revoke"), &json!({})).await;
        assert!(revoked.status < 300, "{}", revoked.text());
        for number in others() {
            let said = pay("revoked", number, &token).await;
            assert_eq!((said.kind(), said.code()), ("blocked", "EP_DELEGATION_BLOCK"), "{}", said.text());
        }
        let made =
            admins[round].post("/v1/keys", &json!({"subject": "default-agent", "role": "agent"})).await;
        let (id, secret) = (made.body["key"]["id"].as_str().unwrap(), made.body["secret"].as_str().unwrap());
        let bearer =
            |number: usize| crate::house::Voice { key: Some(secret.into()), ..agents[number].clone() };
        for number in others() {
            assert_eq!(bearer(number).get(&action).await.status, 200);
        }
        let ended = admins[round].post(&format!("/v1/keys/{id}/revoke"), &json!({})).await;
        assert!(ended.status < 300, "{}", ended.text());
        for number in others() {
            assert_eq!(bearer(number).get(&action).await.status, 401);
        }
    }
}

/// What one has on its way no person ends at another, whatever its caller was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persons_word_waits_for_what_another_gateway_has_on_its_way() {
    let Some(mut street) = Street::new().await else { return };
    let bank = &street.house.bank;
    bank.inject(Injection::payments(Fault::DelayAnswer { ms: 60_000 }, 1));
    bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 100_000));
    let mut payment = street.house.payment("acct-1", "10.00");
    payment["deadline_ms"] = json!(1_200);
    let said = street.house.agent().execute("k", &payment).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.text());
    let approver = street.house.voice("default", "approver");
    let elsewhere = &street.everywhere(&approver)[1];
    let path = format!("/v1/actions/{}/resolve", said.id());
    let word = json!({"as": "executed", "comment": "seen on the statement"});
    let early = elsewhere.post(&path, &word).await;
    assert_eq!((early.status, early.code()), (409, "EP_STATE_CONFLICT"), "{}", early.text());
    assert!(early.text().contains("another gateway"), "{}", early.text());
    // Its time is over in a while, and nobody knows what came of it.
    for _ in 0..600 {
        if elsewhere.post(&path, &word).await.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let record = street.house.agent().get(&format!("/v1/actions/{}", said.id())).await;
    assert_eq!(record.body["resolutions"].as_array().map(Vec::len), Some(1), "{}", record.text());
    assert_eq!(street.house.bank.effects().count, 1);
}

/// What one signs with a key that another has retired is valid for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signing_key_is_rotated_only_while_nobody_else_signs() {
    let Some(mut street) = Street::new().await else { return };
    let admin = street.house.admin();
    for number in 1..GATEWAYS {
        let refused = admin.post("/v1/signing-keys/rotate", &json!({})).await;
        assert_eq!((refused.status, refused.code()), (409, "EP_STATE_CONFLICT"), "{}", refused.text());
        assert!(refused.text().contains("stop them"), "{}", refused.text());
        street.gateway(number).stop();
    }
    let before = admin.get("/v1/signing-keys").await;
    assert_eq!(before.body["items"].as_array().map(Vec::len), Some(1), "{}", before.text());
    let rotated = admin.post("/v1/signing-keys/rotate", &json!({})).await;
    assert!(rotated.status < 300, "{}", rotated.text());
}

/// One that is paused is not seen; when it goes on it writes nothing that it has signed with the key before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_paused_while_the_key_was_rotated_signs_nothing_with_the_one_before() {
    let Some(mut street) = Street::new().await else { return };
    let (admin, agent) = (street.house.admin(), street.house.agent());
    let paused = street.everywhere(&agent).swap_remove(1);
    street.gateway(2).stop();
    street.gateway(1).signal("-STOP");
    let rotated = loop {
        let rotated = admin.post("/v1/signing-keys/rotate", &json!({})).await;
        if rotated.code() != "EP_STATE_CONFLICT" {
            break rotated;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    assert!(rotated.status < 300, "{}", rotated.text());
    street.gateway(1).signal("-CONT");
    let body = street.house.payment("acct-1", "1.00");
    for number in 0..5 {
        let said = paused.execute(&format!("after-{number}"), &body).await;
        assert_eq!((said.status, said.kind()), (503, ""), "{}", said.text());
    }
    let said = agent.execute("here", &body).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
}

/// The id of a mandate, which stands in its token.
fn jti(token: &str) -> String {
    use base64::Engine;
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}
