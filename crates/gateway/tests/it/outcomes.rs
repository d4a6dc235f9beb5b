use action::Subject;
use countersign_gateway::{Ask, Caller, Code, FreezeAsk, FreezeScope, KeyAsk, Role};
use serde_json::json;

use crate::house::{House, Said};
use crate::rides::{Rides, Slow, ride};

/// The stages of the entries of an answer's receipt, which verifies.
pub(crate) async fn stages(house: &House, said: &Said) -> Vec<String> {
    let document = house.verified(said.body["receipt"].as_str().expect("a receipt")).await;
    document["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["stage"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_payment_is_executed_once_and_its_receipt_has_nine_entries() {
    let house = House::new().await;
    let body = house.payment("acct-1", "25.00");
    let first = house.said("k1", &body).await;
    assert_eq!(first.kind(), "executed", "{}", first.body);
    assert_eq!(stages(&house, &first).await.len(), 9);
    let again = house.said("k1", &body).await;
    assert!(again.replayed);
    assert_eq!(again.bytes, first.bytes);
}

/// Who waits for long is read back from the ledger: nothing of it may be lost on the way.
#[tokio::test]
async fn a_slow_provider_costs_time_and_nothing_else() {
    let house = House::new().await;
    let quick = house.said("k1", &house.payment("acct-1", "25.00")).await;
    let slow = house.said("k2", &house.payment("sandbox:delay-400", "25.00")).await;
    assert_eq!(slow.kind(), "executed", "{}", slow.body);
    assert_eq!(stages(&house, &slow).await, stages(&house, &quick).await);
    let parts = async |said: &Said| {
        let document = house.gateway().receipt(&house.agent, said.body["receipt"].as_str().unwrap()).await;
        let document: serde_json::Value = serde_json::from_slice(&document.unwrap()).unwrap();
        assert_eq!(document["money"]["chargeAmount"], "25.00");
        let mut metadata = document["metadata"].clone();
        // What each is promised of its log is its own.
        metadata["log"].take();
        [metadata, document["money"].clone()]
    };
    assert_eq!(parts(&slow).await, parts(&quick).await);
    let view = house.gateway().action(&house.agent, slow.id()).await.unwrap();
    assert_eq!((view.state.as_str(), view.receipts.len()), ("COMPLETED", 1));
}

#[tokio::test]
async fn what_cannot_be_read_back_while_its_provider_works_stays_as_sent() {
    let mut provider = Rides::start(Slow::Ride).await;
    let house = provider.house(100, "").await;
    let body = ride(&house, "station");
    let breaking = async {
        provider.is_asked().await;
        let (store, read) = (house.store(), "SELECT payload FROM action WHERE key = 'k1'");
        let payload: Vec<u8> = store.query_row(read, [], |row| row.get(0)).unwrap();
        store.execute("UPDATE action SET payload = x'7b' WHERE key = 'k1'", []).unwrap();
        // Longer than it stays in memory.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        provider.let_answer();
        payload
    };
    let (answer, payload) = tokio::join!(house.send("k1", &body), breaking);
    assert_eq!(answer.unwrap_err().code, Code::Unavailable);
    let mend = "UPDATE action SET payload = ? WHERE key = 'k1'";
    assert_eq!(house.store().execute(mend, [payload]).unwrap(), 1);
    // Its lease ends with the process that had it in hand.
    let mut house = house.restart().await;
    house.installation.start();
    let said = house.until_answered("k1", &body).await;
    assert_eq!(said.kind(), "pending_settlement", "nobody can say what became of it: {}", said.body);
    assert_eq!(provider.count(), (1, 1), "and it was not sent again");
}

#[tokio::test]
async fn the_same_key_for_another_request_is_refused() {
    let house = House::new().await;
    house.said("k1", &house.payment("acct-1", "25.00")).await;
    let error = house.send("k1", &house.payment("acct-1", "26.00")).await.unwrap_err();
    assert_eq!(error.code, Code::IdempotencyMismatch);
}

#[tokio::test]
async fn over_the_cap_is_blocked_with_a_receipt() {
    let house = House::new().await;
    let said = house.said("k1", &house.payment("acct-1", "501.00")).await;
    assert_eq!((said.kind(), said.code()), ("blocked", "EP_DELEGATION_BLOCK"));
    assert_eq!(
        stages(&house, &said).await,
        ["__genesis__", "token_validation", "schema", "boundary", "receipt"]
    );
}

#[tokio::test]
async fn a_denied_name_is_blocked_before_catalogue_and_schema() {
    let house = House::new().await;
    for (key, name) in
        [("k1", "delete_audit_log"), ("k2", "mcp/files/Delete-AuditLog"), ("k3", "rotateMasterKey")]
    {
        let said = house.said(key, &json!({ "archetype": name, "constraints": {} })).await;
        assert_eq!((said.kind(), said.code()), ("blocked", "EP_BOUNDARY_BLOCK"), "{name}");
        assert_eq!(stages(&house, &said).await, ["__genesis__", "token_validation", "boundary", "receipt"]);
    }
}

#[tokio::test]
async fn an_incomplete_request_is_blocked_and_told_what_is_missing() {
    let house = House::new().await;
    let mut body = house.payment("acct-1", "25.00");
    body["constraints"].as_object_mut().unwrap().remove("amount_usd");
    let said = house.said("k1", &body).await;
    assert_eq!(said.code(), "EP_INCOMPLETE");
    assert_eq!(said.body["details"]["missing"][0]["field"], "/amount_usd");
}

#[tokio::test]
async fn a_replanned_duplicate_under_a_new_key_is_held() {
    let house = House::new().await;
    let first = house.said("k1", &house.payment("acct-1", "25.00")).await;
    let second = house.said("k2", &house.payment("acct-1", "25.00")).await;
    assert_eq!(second.kind(), "held", "{}", second.body);
    assert_eq!(second.reasons(), ["probable_duplicate"]);
    assert_eq!(second.body["details"]["earlier_transaction"], first.id());
    let mut meant = house.payment("acct-1", "25.00");
    meant["repeat_of"] = json!(first.id());
    // The held one stands in the way now, so naming the first is not enough.
    assert_eq!(house.said("k3", &meant).await.kind(), "held");
    let again = house.said("k2", &house.payment("acct-1", "25.00")).await;
    assert!(again.replayed);
    assert_eq!(again.bytes, second.bytes);
}

#[tokio::test]
async fn a_freeze_stops_and_a_thaw_lets_go() {
    let house = House::new().await;
    let gateway = house.gateway();
    gateway.freeze(&house.admin, FreezeScope::All.into()).await.unwrap();
    let frozen = house.said("k1", &house.payment("acct-1", "25.00")).await;
    assert_eq!((frozen.kind(), frozen.code()), ("blocked", "EP_FROZEN"));
    gateway.thaw(&house.admin, FreezeScope::All).await.unwrap();
    assert_eq!(house.said("k2", &house.payment("acct-1", "25.00")).await.kind(), "executed");
}

#[tokio::test]
async fn an_equal_refusal_within_a_minute_is_counted_and_not_appended() {
    let house = House::new().await;
    let body = house.payment("acct-1", "501.00");
    let first = house.said("k1", &body).await;
    let second = house.said("k2", &body).await;
    assert_eq!(second.id(), first.id());
    assert_eq!(second.body["receipt"], first.body["receipt"]);
    assert_eq!(second.body["details"]["repeats"], 1);
}

#[tokio::test]
async fn the_same_request_under_another_token_is_another_refusal() {
    let house = House::new().await;
    let mut body = house.payment("acct-1", "25.00");
    let mut refused = Vec::new();
    for (key, token) in [("k1", None), ("k2", Some("nonsense")), ("k3", Some("more-nonsense"))] {
        match token {
            Some(token) => body["delegation_token"] = json!(token),
            None => drop(body.as_object_mut().unwrap().remove("delegation_token")),
        }
        let said = house.said(key, &body).await;
        assert_eq!(said.kind(), "blocked");
        refused.push((said.id().to_owned(), said.body["details"]["reasons"][0].clone()));
    }
    let reasons: Vec<_> = refused.iter().map(|(_, reason)| reason.as_str().unwrap()).collect();
    assert_eq!(reasons, ["no_mandate", "mandate_malformed", "mandate_malformed"]);
    assert!(refused[0].0 != refused[1].0 && refused[1].0 != refused[2].0, "each is on record: {refused:?}");
}

#[tokio::test]
async fn a_refused_payment_is_failed_and_gives_the_money_back_to_the_mandate() {
    let house = House::new().await;
    let failed = house.said("k1", &house.payment("sandbox:fail", "400.00")).await;
    assert_eq!((failed.kind(), failed.code()), ("failed", "EP_PROVIDER_FAILED"), "{}", failed.body);
    assert_eq!(stages(&house, &failed).await.len(), 9);
    assert_eq!(house.said("k2", &house.payment("acct-2", "400.00")).await.kind(), "executed");
}

#[tokio::test]
async fn a_lost_answer_is_pending_and_resolved_by_asking() {
    let mut house = House::with(|config| config.limits.recovery_interval_ms = 20).await;
    let body = house.payment("sandbox:lose", "40.00");
    let pending = house.said("k1", &body).await;
    assert_eq!(pending.kind(), "pending_settlement", "{}", pending.body);
    house.installation.start();
    let now = house.settled("k1", &body).await;
    assert!(now.replayed);
    assert_ne!(now.body["receipt"], pending.body["receipt"]);
    let view = house.gateway().action(&house.agent, now.id()).await.unwrap();
    let events: Vec<_> = view.receipts.iter().map(|it| it.event_type.as_str()).collect();
    assert_eq!(events, ["ORIGINAL", "AMENDMENT_SETTLEMENT"]);
    assert_eq!(view.state, "COMPLETED");
}

#[tokio::test]
async fn a_deadline_that_passes_after_sending_is_doubt_and_the_late_answer_ends_it() {
    let house = House::new().await;
    let (key, body, pending) =
        house.overdue(|ms| house.payment(&format!("sandbox:delay-{ms}"), "40.00")).await;
    let done = house.settled(&key, &body).await;
    assert_ne!(done.body["receipt"], pending.body["receipt"]);
}

#[tokio::test]
async fn what_is_still_on_its_way_when_its_caller_waits_no_longer_stays_in_hand() {
    let house = House::new().await;
    let slow = |ms| house.payment(&format!("sandbox:delay-{}", ms * 10), "40.00");
    let (key, body, _) = house.overdue(slow).await;
    let in_hand = || {
        let sql = "SELECT state, owner IS NOT NULL AND until IS NOT NULL FROM fate ORDER BY row DESC LIMIT 1";
        let told = house.store().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
        told.unwrap()
    };
    assert_eq!(in_hand(), (3, true));
    house.settled(&key, &body).await;
    assert_eq!(in_hand(), (4, false));
}

#[tokio::test]
async fn the_id_of_a_mandate_is_no_token() {
    let mut house = House::new().await;
    let mandates = house.gateway().mandates(&house.operator, None, 10).await.unwrap();
    let jti = mandates.items[0].jti.clone();
    house.agent.default_mandate = Some(jti.clone());
    let mut body = house.payment("acct-1", "25.00");
    // The key's own mandate is found by its id, and remembered.
    body.as_object_mut().unwrap().remove("delegation_token");
    assert_eq!(house.said("k1", &body).await.kind(), "executed");
    body["constraints"]["recipient"] = json!("acct-2");
    body["delegation_token"] = json!(jti);
    let said = house.said("k2", &body).await;
    assert_eq!((said.kind(), said.code()), ("blocked", "EP_DELEGATION_BLOCK"), "{}", said.body);
}

#[tokio::test]
async fn a_revoked_mandate_admits_nothing_more() {
    let house = House::new().await;
    let first = house.said("k1", &house.payment("acct-1", "25.00")).await;
    let view = house.gateway().action(&house.agent, first.id()).await.unwrap();
    let mandates = house.gateway().mandates(&house.operator, None, 10).await.unwrap();
    house.gateway().revoke_mandate(&house.operator, &mandates.items[0].jti, None).await.unwrap();
    let second = house.said("k2", &house.payment("acct-2", "25.00")).await;
    assert_eq!((second.kind(), second.code()), ("blocked", "EP_DELEGATION_BLOCK"));
    assert_eq!(second.reasons(), ["mandate_revoked"]);
    assert_eq!(view.state, "COMPLETED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_never_spend_more_than_the_cap() {
    let house = std::sync::Arc::new(House::new().await);
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let house = house.clone();
            tokio::spawn(async move {
                let body = house.payment(&format!("acct-{n}"), "10.00");
                house.said(&format!("k{n}"), &body).await.kind().to_owned()
            })
        })
        .collect();
    let mut executed = 0;
    for task in tasks {
        executed += usize::from(task.await.unwrap() == "executed");
    }
    assert_eq!(executed, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_with_one_key_see_one_action() {
    let house = std::sync::Arc::new(House::new().await);
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let house = house.clone();
            tokio::spawn(async move {
                let body = house.payment("acct-1", "10.00");
                loop {
                    match house.send("one", &body).await {
                        Ok(said) => return said.bytes,
                        Err(error) if error.code == Code::IdempotencyInFlight => {
                            tokio::task::yield_now().await
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let mut bodies = std::collections::BTreeSet::new();
    for task in tasks {
        bodies.insert(task.await.unwrap());
    }
    assert_eq!(bodies.len(), 1);
}

#[tokio::test]
async fn a_decision_replays_to_the_same_verdict() {
    let house = House::new().await;
    let said = house.said("k1", &house.payment("acct-1", "25.00")).await;
    let replay = house.gateway().replay(&house.operator, said.id()).await.unwrap();
    assert_eq!(
        (replay.result.as_str(), replay.recorded.as_deref().unwrap()),
        ("same", "pass"),
        "{:?}",
        replay.differences
    );
}

#[tokio::test]
async fn what_belongs_to_others_is_not_found() {
    let house = House::new().await;
    let said = house.said("k1", &house.payment("acct-1", "25.00")).await;
    let mut other = house.agent.clone();
    other.subject = action::Subject::parse("agent-8").unwrap();
    assert_eq!(house.gateway().action(&other, said.id()).await.unwrap_err().code, Code::NotFound);
    let mut stranger = house.operator.clone();
    stranger.tenant = action::Tenant::parse("elsewhere").unwrap();
    assert_eq!(house.gateway().action(&stranger, said.id()).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_repeat_one_action_on_purpose_one_passes() {
    let house = std::sync::Arc::new(House::new().await);
    let first = house.said("first", &house.payment("acct-1", "10.00")).await;
    let mut body = house.payment("acct-1", "10.00");
    body["repeat_of"] = json!(first.id());
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let (house, body) = (house.clone(), body.clone());
            tokio::spawn(async move { house.said(&format!("k{n}"), &body).await.kind().to_owned() })
        })
        .collect();
    let mut executed = 0;
    for task in tasks {
        executed += usize::from(task.await.unwrap() == "executed");
    }
    assert_eq!(executed, 1);
}

#[tokio::test]
async fn a_dry_run_with_a_used_key_is_judged_like_any_other() {
    let house = House::new().await;
    let body = house.payment("acct-1", "10.00");
    assert_eq!(house.said("used", &body).await.kind(), "executed");
    let other = house.payment("acct-2", "10.00");
    let [used, fresh] = [house.dry_run("used", &other).await, house.dry_run("fresh", &other).await];
    assert_eq!((used.kind(), used.reasons()), (fresh.kind(), fresh.reasons()), "{}", used.body);
    assert_eq!(used.reasons(), ["would_execute"]);
}

#[tokio::test]
async fn a_freeze_that_would_stop_nothing_is_refused() {
    let house = House::new().await;
    let (gateway, admin) = (house.gateway(), &house.admin);
    let scope = |name: &str| FreezeScope::parse(name).unwrap();
    for name in ["archetype:payment_transfer", "provider:no-such-bank", "agent:Agent-7"] {
        let error = gateway.freeze(admin, scope(name).into()).await.unwrap_err();
        assert_eq!(error.code, Code::NotFound, "{name}");
        assert!(error.hint.is_some(), "{name}");
    }
    for name in ["archetype:payment_transfer", "provider:no-such-bank"] {
        let ask = FreezeAsk { even_if_unknown: true, ..scope(name).into() };
        assert_eq!(
            gateway.freeze(admin, ask).await.unwrap_err().code,
            Code::NotFound,
            "they are known or not"
        );
    }
    // Named by a mandate, by a key, by an action under a key that is gone, and by nothing yet.
    let ask = KeyAsk {
        subject: Subject::parse("keyed").unwrap(),
        role: Role::Agent,
        tenant: None,
        default_mandate: None,
    };
    gateway.create_key(admin, ask).await.unwrap();
    let acting = Caller { subject: Subject::parse("acting").unwrap(), ..house.agent.clone() };
    let body = json!({ "archetype": "delete_audit_log", "constraints": {} }).to_string().into_bytes();
    let key = Some(action::IdempotencyKey::parse("k1").unwrap());
    let ask = Ask {
        idempotency_key: key,
        request_id: "req-1".to_owned(),
        dry_run: false,
        wait: countersign_gateway::Wait::default(),
        body,
    };
    gateway.execute(&acting, ask).await.unwrap();
    for name in
        ["archetype:PAYMENT_TRANSFER", "provider:sandbox", "agent:agent-7", "agent:keyed", "agent:acting"]
    {
        gateway.freeze(admin, scope(name).into()).await.unwrap();
    }
    let ask = FreezeAsk { even_if_unknown: true, ..scope("agent:not-yet").into() };
    gateway.freeze(admin, ask).await.unwrap();
    for name in ["tenant", "all"] {
        gateway.freeze(admin, scope(name).into()).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_that_bears_the_gateways_own_name_from_before_that_was_kept_opens_nothing() {
    let house = House::new().await;
    let key = |subject: &str| KeyAsk {
        subject: Subject::parse(subject).unwrap(),
        role: Role::Operator,
        tenant: None,
        default_mandate: None,
    };
    let old = house.gateway().create_key(&house.admin, key("old")).await.unwrap();
    let other = house.gateway().create_key(&house.admin, key("other")).await.unwrap();
    for name in ["countersign", "Countersign"] {
        house.store().execute("UPDATE api_key SET subject = ?1 WHERE id = ?2", (name, &old.key.id)).unwrap();
        let copy = house.copy().await;
        let gateway = copy.gateway();
        assert_eq!(gateway.authenticate(&old.secret).await.unwrap_err().code, Code::Unauthenticated);
        assert_eq!(gateway.log_in_by_key(&old.secret).await.unwrap_err().code, Code::Unauthenticated);
        gateway.authenticate(&other.secret).await.unwrap();
        let listed = gateway.keys(&copy.admin).await.unwrap();
        assert!(listed.iter().any(|it| it.subject == name), "whoever administers finds it");
        gateway.revoke_key(&copy.admin, &old.key.id).await.unwrap();
    }
}
