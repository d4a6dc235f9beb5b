//! Clusters: sessions of several agents and principals that see each other, hand time on, wait, and act together.

use std::time::Duration;

use action::Subject;
use countersign_gateway::{
    Ask, Caller, CloseAsk, ClusterView, Code, Completion, DelegateAsk, Error, FormAsk, GrantAsk, GrantView,
    MandateAsk, ResourceEnvelope, SessionView, TransferAsk,
};
use serde_json::{Value, json};

use crate::approvals::{approver, house_with, wait_for};
use crate::faults::found;
use crate::house::{House, POLICY, Said};
use crate::sessions::{intent, with};

/// A session of an agent of its own, in the name of this principal, with so many seconds.
pub(crate) struct Party {
    pub(crate) agent: Caller,
    session: SessionView,
}

impl Party {
    pub(crate) fn id(&self) -> &str {
        &self.session.session_id
    }
}

fn named(caller: &Caller, name: &str) -> Caller {
    Caller { subject: Subject::parse(name).unwrap(), ..caller.clone() }
}

pub(crate) fn seconds(seconds: u64) -> ResourceEnvelope {
    ResourceEnvelope { max_duration_seconds: Some(seconds), ..ResourceEnvelope::default() }
}

pub(crate) async fn party(house: &House, name: &str, principal: &str, envelope: ResourceEnvelope) -> Party {
    let (agent, operator) = (named(&house.agent, name), named(&house.operator, principal));
    let ask = MandateAsk {
        subject: agent.subject.clone(),
        even_if_unknown: true,
        scope: vec!["Payments".to_owned()],
        resources: None,
        spend_cap: Some(action::Money::parse("500.00", action::Currency::of("USD").unwrap()).unwrap()),
        max_actions: None,
        requires_approval: Vec::new(),
        uncertainty_floor: None,
        trust_floor: None,
        goal_scope: Vec::new(),
        resource_envelope: Some(envelope),
        not_before: None,
        expires_at: 4_102_444_800,
    };
    let token = house.gateway().issue_mandate(&operator, ask).await.unwrap().token;
    let session = house.gateway().open_session(&agent, Some(&token)).await.unwrap();
    Party { agent, session }
}

/// A cluster of these, formed by the first.
pub(crate) async fn cluster(house: &House, parties: &[&Party]) -> ClusterView {
    let (first, others) = parties.split_first().unwrap();
    let ask = FormAsk { session_id: first.id().to_owned(), deadline: None };
    let mut formed = house.gateway().form_cluster(&first.agent, ask).await.unwrap();
    for other in others {
        formed = house.gateway().join_cluster(&other.agent, &formed.cluster_id, other.id()).await.unwrap();
    }
    formed
}

async fn hand(
    house: &House,
    cluster: &ClusterView,
    from: &Party,
    to: &Party,
    transfer_amount: u64,
) -> Result<ClusterView, Error> {
    hand_on(house, cluster, from, to, (transfer_amount, None)).await
}

async fn hand_on(
    house: &House,
    cluster: &ClusterView,
    from: &Party,
    to: &Party,
    (transfer_amount, resource): (u64, Option<&str>),
) -> Result<ClusterView, Error> {
    let ask = TransferAsk {
        from_session_id: from.id().to_owned(),
        to_session_id: to.id().to_owned(),
        transfer_amount,
        resource: resource.map(str::to_owned),
    };
    house.gateway().transfer(&from.agent, &cluster.cluster_id, ask).await
}

async fn context(house: &House, party: &Party) -> Value {
    let context = house.gateway().context(&party.agent, party.id()).await.unwrap();
    let mut seen = context.cluster_context.unwrap_or(Value::Null);
    seen["own"] = context.time_budget_remaining.into();
    seen
}

async fn declared(house: &House, party: &Party, id: &str, mode: &str) {
    let body = with(intent(&party.session, id, 1), "reasoning_mode", json!(mode));
    house.gateway().declare(&party.agent, party.id(), &body).await.unwrap();
}

async fn pays(house: &House, party: &Party, key: &str) -> Said {
    pays_to(house, party, key, &format!("acct-{key}"), "5.00").await
}

async fn pays_to(house: &House, party: &Party, key: &str, recipient: &str, amount: &str) -> Said {
    sends(house, party, key, &payment(party, recipient, amount)).await.unwrap()
}

fn payment(party: &Party, recipient: &str, amount: &str) -> Value {
    json!({
        "archetype": "PAYMENT_TRANSFER", "session_id": party.id(),
        "constraints": { "recipient": recipient, "amount_usd": amount, "max_total_usd": "900.00" },
    })
}

async fn sends(house: &House, party: &Party, key: &str, body: &Value) -> Result<Said, Error> {
    let ask = Ask {
        idempotency_key: Some(action::IdempotencyKey::parse(key).unwrap()),
        request_id: format!("req-{key}"),
        dry_run: false,
        wait: countersign_gateway::Wait::default(),
        body: body.to_string().into_bytes(),
    };
    house.gateway().execute(&party.agent, ask).await.map(Said::of)
}

/// Events of a session with the code and the decision of each.
async fn told(house: &House, party: &Party) -> Vec<(String, Option<String>, Option<&'static str>)> {
    let page = house.gateway().session_records(&party.agent, party.id(), None, 1000).await.unwrap().1;
    page.items.into_iter().map(|it| (it.event, it.ale_type, it.governance_decision)).collect()
}

async fn last(house: &House, party: &Party) -> (String, Option<String>, Option<&'static str>) {
    told(house, party).await.pop().unwrap()
}

fn said(
    event: &str,
    code: Option<&str>,
    decision: Option<&'static str>,
) -> (String, Option<String>, Option<&'static str>) {
    (event.to_owned(), code.map(str::to_owned), decision)
}

#[tokio::test]
async fn time_that_one_member_hands_to_another_is_seen_by_all_in_their_next_context() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "olga", seconds(600)).await;
    let c = party(&house, "agent-c", "olga", seconds(20)).await;
    let formed = cluster(&house, &[&a, &b, &c]).await;
    assert_eq!(
        (formed.state, formed.budget_pool, &*formed.principals),
        ("ACTIVE", 720, &["olga".to_owned()][..])
    );
    let fingerprint = house.gateway().context(&a.agent, a.id()).await.unwrap().fingerprint;
    let after = hand(&house, &formed, &b, &c, 300).await.unwrap();
    for (one, own) in [(&a, 100), (&b, 300), (&c, 320)] {
        let seen = context(&house, one).await;
        assert_eq!((&seen["own"], &seen["budget_pool"]), (&json!(own), &json!(720)), "{seen}");
        let left: Vec<u64> = seen["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["time_budget_remaining"].as_u64().unwrap())
            .collect();
        assert_eq!(left, [100, 300, 320]);
    }
    assert_eq!(house.gateway().context(&a.agent, a.id()).await.unwrap().fingerprint, fingerprint);
    let records = house.gateway().session_records(&b.agent, b.id(), None, 100).await.unwrap().1.items;
    let record = records.last().unwrap();
    assert_eq!((record.ale_type.as_deref(), record.governance_decision), (Some("ALE-018"), Some("ALLOW")));
    assert_eq!(
        (&record.record_id, &*record.cedar_policy_ids),
        (&after.record_id, &["default-budget-transfer".to_owned()][..])
    );
    let fields = record.ale_fields.as_ref().unwrap();
    assert_eq!(
        (&fields["amount"], &fields["from_remaining"], &fields["to_remaining"]),
        (&json!(300), &json!(300), &json!(320))
    );
    assert_eq!(last(&house, &c).await, said("cluster_budget_received", None, None));
    // A cycle is judged with it, and its record shows it.
    declared(&house, &c, "i-c", "CHAIN").await;
    let paid = pays(&house, &c, "k").await;
    assert_eq!(paid.kind(), "executed", "{}", paid.body);
    let house = house.restart().await;
    assert_eq!(context(&house, &c).await["budget_pool"], json!(719), "the cycle took its second");
    house.is_whole().await;
}

#[tokio::test]
async fn what_one_member_hands_on_beside_time_is_seen_by_all_and_can_be_used() {
    let house = House::new().await;
    let of = |units, bytes| ResourceEnvelope {
        max_compute_units: Some(units),
        max_memory_bytes: Some(10),
        max_storage_bytes: Some(bytes),
        ..seconds(600)
    };
    let a = party(&house, "agent-a", "olga", of(10, 100)).await;
    let b = party(&house, "agent-b", "olga", of(40, 200)).await;
    let c = party(&house, "agent-c", "olga", seconds(600)).await;
    let formed = cluster(&house, &[&a, &b, &c]).await;
    let units = Some("compute_units");
    let after = hand_on(&house, &formed, &b, &a, (30, units)).await.unwrap();
    let left = |view: &ClusterView| {
        let of = |at: usize| view.members[at].resource_envelope.max_compute_units;
        (view.budget_pool, [of(0), of(1), of(2)])
    };
    assert_eq!(left(&after), (1800, [Some(40), Some(10), None]), "the time of nobody is another");
    for one in [&a, &b, &c] {
        let seen = context(&house, one).await;
        let units = |at: usize| seen["members"][at]["resource_envelope"]["max_compute_units"].clone();
        assert_eq!([units(0), units(1), units(2)], [json!(40), json!(10), Value::Null], "{seen}");
    }
    let own = house.gateway().context(&a.agent, a.id()).await.unwrap().resource_envelope;
    assert_eq!((own.max_compute_units, own.max_storage_bytes), (Some(40), Some(100)));
    hand_on(&house, &formed, &a, &b, (60, Some("storage_bytes"))).await.unwrap();
    let records = house.gateway().session_records(&b.agent, b.id(), None, 100).await.unwrap().1.items;
    let given = records.iter().find(|it| it.ale_type.as_deref() == Some("ALE-018")).unwrap();
    let fields = given.ale_fields.as_ref().unwrap();
    assert_eq!((&fields["resource"], &fields["amount"]), (&json!("compute_units"), &json!(30)));
    assert_eq!((&fields["from_remaining"], &fields["to_remaining"]), (&json!(10), &json!(40)));
    // Neither more than is left, nor what is never used up, nor what nobody counts, nor what there is not.
    let refused = async |from: &Party, to: &Party, what: (u64, Option<&str>)| {
        let error = hand_on(&house, &formed, from, to, what).await.unwrap_err();
        (error.code, error.field.unwrap())
    };
    let invalid = |field: &str| (Code::ValidationFailed, field.to_owned());
    assert_eq!(refused(&b, &a, (11, units)).await, invalid("/transfer_amount"));
    assert_eq!(refused(&b, &a, (1, Some("memory_bytes"))).await, invalid("/resource"));
    assert_eq!(refused(&b, &a, (1, Some("max_compute_units"))).await, invalid("/resource"));
    assert_eq!(refused(&c, &a, (1, units)).await, invalid("/from_session_id"));
    assert_eq!(refused(&b, &c, (1, units)).await, invalid("/to_session_id"));
    assert_eq!(refused(&b, &a, (1, Some("network_egress_bytes"))).await, invalid("/from_session_id"));
    // What it got it can use, and what it gave it cannot.
    let uses = async |party: &Party, key: &str, units: u64| {
        let mut body = payment(party, &format!("acct-{key}"), "5.00");
        body["resources"] = json!({"compute_units": units});
        sends(&house, party, key, &body).await.unwrap()
    };
    declared(&house, &a, "i-a", "CHAIN").await;
    declared(&house, &b, "i-b", "CHAIN").await;
    assert_eq!(uses(&a, "more", 40).await.kind(), "executed");
    let over = uses(&b, "over", 11).await;
    assert_eq!((over.code(), over.reasons()), ("EP_BUDGET_EXHAUSTED", vec!["envelope_exceeded"]));
    let house = house.restart().await;
    let own = house.gateway().context(&b.agent, b.id()).await.unwrap().resource_envelope;
    assert_eq!((own.max_compute_units, own.max_storage_bytes), (Some(10), Some(260)));
    house.is_whole().await;
}

/// Beyond that a number is another one to some who read it, and no mandate says it.
#[tokio::test]
async fn nobody_is_handed_more_than_can_be_written_down_exactly() {
    let house = House::new().await;
    let most = (1_u64 << 53) - 1;
    let storage = |most| ResourceEnvelope { max_storage_bytes: Some(most), ..seconds(100) };
    let a = party(&house, "agent-a", "olga", storage(20)).await;
    let b = party(&house, "agent-b", "olga", storage(most - 10)).await;
    let formed = cluster(&house, &[&a, &b]).await;
    let bytes = |amount| hand_on(&house, &formed, &a, &b, (amount, Some("storage_bytes")));
    let refused = bytes(11).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::ValidationFailed, Some("/transfer_amount")));
    bytes(10).await.unwrap();
    let own = house.gateway().context(&b.agent, b.id()).await.unwrap().resource_envelope;
    assert_eq!(own.max_storage_bytes, Some(most));
    house.is_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_transfer_is_judged_by_what_the_one_before_left() {
    let house = House::new().await;
    let keeps = "@id(\"keep\") permit (principal, action == Action::\"BUDGET_TRANSFER\", resource)
        when { context.source_remaining_budget - context.transfer_amount >= 50 };";
    house.write("policies/default/payments.cedar", &format!("{POLICY}{keeps}"));
    house.gateway().reload(&house.admin).await.unwrap();
    for round in 0..8 {
        let a = party(&house, &format!("agent-a{round}"), "olga", seconds(100)).await;
        let b = party(&house, &format!("agent-b{round}"), "petra", seconds(100)).await;
        let formed = cluster(&house, &[&a, &b]).await;
        let all = futures_util::future::join_all((0..8).map(|_| hand(&house, &formed, &a, &b, 25))).await;
        let moved = all.iter().filter(|it| it.is_ok()).count();
        assert_eq!((moved, context(&house, &a).await["own"].clone()), (2, json!(50)), "round {round}");
        let refused = all.into_iter().filter_map(Result::err).map(|error| error.code);
        assert!(refused.into_iter().all(|code| code == Code::Forbidden));
    }
    house.is_whole().await;
}

#[tokio::test]
async fn what_one_principal_granted_goes_to_anothers_only_if_a_policy_says_so() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "petra", seconds(100)).await;
    let formed = cluster(&house, &[&a, &b]).await;
    let refused = hand(&house, &formed, &a, &b, 10).await.unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
    assert_eq!(last(&house, &a).await, said("cluster_transfer_refused", None, Some("DENY")));
    assert_eq!(context(&house, &b).await["own"], json!(100), "nothing moved");
    let reload = async |text: &str| {
        house.write("policies/default/payments.cedar", &format!("{POLICY}{text}"));
        house.gateway().reload(&house.admin).await.unwrap();
    };
    reload(
        "@id(\"small\") permit (principal, action == Action::\"BUDGET_TRANSFER\", resource)
         when { context.transfer_amount < 20 };",
    )
    .await;
    hand(&house, &formed, &a, &b, 10).await.unwrap();
    assert_eq!(hand(&house, &formed, &a, &b, 20).await.unwrap_err().code, Code::Forbidden);
    // What people would be asked about is not done: nobody is asked about a transfer.
    reload(
        "@id(\"all\") permit (principal, action == Action::\"BUDGET_TRANSFER\", resource);
         @id(\"ask\") @escalate forbid (principal, action == Action::\"BUDGET_TRANSFER\", resource);",
    )
    .await;
    assert_eq!(hand(&house, &formed, &a, &b, 1).await.unwrap_err().code, Code::Forbidden);
    let records = house.gateway().session_records(&a.agent, a.id(), None, 100).await.unwrap().1.items;
    assert_eq!(records.last().unwrap().cedar_policy_ids, ["ask"]);
    let seen = context(&house, &b).await;
    assert_eq!((&seen["own"], &seen["budget_pool"]), (&json!(110), &json!(200)));
    house.is_whole().await;
}

#[tokio::test]
async fn who_does_not_act_for_a_session_has_nothing_done_with_it() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "olga", seconds(100)).await;
    let outside = party(&house, "agent-x", "olga", seconds(100)).await;
    let formed = cluster(&house, &[&a, &b]).await;
    let (gateway, id) = (house.gateway(), &*formed.cluster_id);
    let code = |result: Result<ClusterView, Error>| result.map(|_| ()).unwrap_err().code;
    assert_eq!(code(gateway.cluster(&outside.agent, id).await), Code::NotFound);
    assert_eq!(code(gateway.join_cluster(&outside.agent, id, a.id()).await), Code::NotFound);
    assert_eq!(code(gateway.leave_cluster(&outside.agent, id, a.id()).await), Code::NotFound);
    assert_eq!(gateway.wait(&outside.agent, a.id(), Some(b.id())).await.unwrap_err().code, Code::NotFound);
    let from = |session: &str| TransferAsk {
        from_session_id: session.to_owned(),
        to_session_id: b.id().to_owned(),
        transfer_amount: 1,
        resource: None,
    };
    assert_eq!(code(gateway.transfer(&outside.agent, id, from(a.id())).await), Code::NotFound);
    // Its own session is not in that cluster, so there is none for it.
    assert_eq!(code(gateway.transfer(&outside.agent, id, from(outside.id())).await), Code::NotFound);
    for person in [&house.operator, &house.admin, &approver(&house, "anna")] {
        assert_eq!(code(gateway.transfer(person, id, from(a.id())).await), Code::Forbidden);
        assert_eq!(code(gateway.join_cluster(person, id, outside.id()).await), Code::Forbidden);
        assert_eq!(gateway.cluster(person, id).await.unwrap().members.len(), 2);
    }
    // People take a session out of its cluster.
    assert_eq!(gateway.leave_cluster(&house.operator, id, a.id()).await.unwrap().members.len(), 1);
    assert_eq!(code(gateway.cluster(&a.agent, id).await), Code::NotFound, "it is no member any more");
    house.is_whole().await;
}

#[tokio::test]
async fn the_clock_of_a_session_that_waits_stands_still_until_the_other_has_ended() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "olga", seconds(100)).await;
    let formed = cluster(&house, &[&a, &b]).await;
    declared(&house, &a, "i-a", "CHAIN").await;
    let busy = house.gateway().wait(&a.agent, a.id(), Some(b.id())).await.unwrap();
    assert_eq!((busy.session.state, busy.cluster.state), ("CLUSTER_BLOCKED", "CLUSTER_BLOCKED"));
    assert_eq!(last(&house, &a).await, said("cluster_block_start", Some("ALE-019"), None));
    let before = context(&house, &a).await["own"].clone();
    let stopped = pays(&house, &a, "stopped").await;
    assert_eq!((stopped.code(), stopped.reasons()), ("EP_STATE_CONFLICT", vec!["session_cluster_blocked"]));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(context(&house, &a).await["own"], before);
    // Meanwhile it may hand over what it does not need.
    hand(&house, &formed, &a, &b, 40).await.unwrap();
    let house = house.restart().await;
    assert_eq!(house.gateway().session(&a.agent, a.id()).await.unwrap().state, "CLUSTER_BLOCKED");
    house.close(&b.agent, b.id(), Completion::Complete).await.unwrap();
    assert_eq!(last(&house, &b).await, said("cluster_left", None, None));
    assert_eq!(last(&house, &a).await, said("cluster_block_end", Some("ALE-020"), None));
    assert_eq!(context(&house, &a).await["own"], json!(60));
    let paid = pays(&house, &a, "on").await;
    assert_eq!(paid.kind(), "executed", "{}", paid.body);
    house.is_whole().await;
}

#[tokio::test]
async fn a_session_that_ends_with_its_mandate_leaves_its_cluster_and_nobody_waits_for_it() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "olga", seconds(100)).await;
    let formed = cluster(&house, &[&a, &b]).await;
    house.gateway().wait(&a.agent, a.id(), Some(b.id())).await.unwrap();
    let revoked = house.gateway().revoke_mandate(&house.operator, &b.session.mandate_id, None).await.unwrap();
    let [halted] = revoked.sessions.as_slice() else { panic!("{:?}", revoked.sessions) };
    assert_eq!((&*halted.session_id, halted.completion_state), (b.id(), "CLEAN"));
    assert_eq!(last(&house, &b).await, said("cluster_left", None, None));
    assert_eq!(last(&house, &a).await, said("cluster_block_end", Some("ALE-020"), None));
    let now = house.gateway().cluster(&a.agent, &formed.cluster_id).await.unwrap();
    let members: Vec<&str> = now.members.iter().map(|member| &*member.session_id).collect();
    assert_eq!((now.state, members), ("ACTIVE", vec![a.id()]));
    house.is_whole().await;
}

#[tokio::test]
async fn a_circle_of_waits_is_a_deadlock_at_once_and_people_resolve_it() {
    let house = house_with(1, |_| {}).await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "olga", seconds(100)).await;
    let c = party(&house, "agent-c", "olga", seconds(100)).await;
    let formed = cluster(&house, &[&a, &b, &c]).await;
    declared(&house, &c, "i-c", "CHAIN").await;
    let gateway = house.gateway();
    gateway.wait(&a.agent, a.id(), Some(b.id())).await.unwrap();
    let closed = gateway.wait(&b.agent, b.id(), Some(a.id())).await.unwrap();
    assert_eq!(
        (closed.cluster.state, &*closed.cluster.deadlock),
        ("DEADLOCK", &[a.id().to_owned(), b.id().to_owned()][..])
    );
    for one in [&a, &b] {
        assert_eq!(last(&house, one).await, said("cluster_deadlock", None, Some("ESCALATE")));
        let refused = gateway.wait(&one.agent, one.id(), None).await.unwrap_err();
        assert_eq!(refused.code, Code::StateConflict, "it is for people");
        let close = CloseAsk { completion: Completion::Partial, reason: None };
        let refused = gateway.close_session(&one.agent, one.id(), close).await.unwrap_err();
        assert_eq!(refused.code, Code::StateConflict, "its end would free the other");
    }
    assert_eq!(context(&house, &c).await["state"], json!("DEADLOCK"));
    let inbox = gateway.deadlocks(&approver(&house, "anna")).await.unwrap();
    let [circle] = inbox.as_slice() else { panic!("{inbox:?}") };
    assert_eq!((&circle.cluster_id, &circle.sessions), (&formed.cluster_id, &closed.cluster.deadlock));
    assert_eq!(circle.available_decisions, ["END_WAIT", "LEAVE", "REVOKE_SESSION"]);
    assert_eq!(gateway.deadlocks(&a.agent).await.unwrap_err().code, Code::Forbidden);
    // Class 8: what another member asks for now waits for people.
    let held = pays(&house, &c, "k").await;
    assert_eq!((held.kind(), held.reasons()), ("held", vec!["multi_principal"]), "{}", held.body);
    let view = gateway.held_one(&approver(&house, "anna"), held.id()).await.unwrap();
    assert_eq!((view.needed, &*view.principals), (2, &["olga".to_owned()][..]), "and one who did not ask");
    let opened = gateway.wait(&house.operator, a.id(), None).await.unwrap();
    assert_eq!((opened.session.state, opened.cluster.state), ("ACTIVE", "CLUSTER_BLOCKED"));
    assert!(gateway.deadlocks(&house.operator).await.unwrap().is_empty(), "it is in nobody's inbox any more");
    for name in ["olga", "annabel"] {
        gateway.approve(&approver(&house, name), held.id(), None).await.unwrap();
    }
    assert_eq!(ended(&house, &c, "k").await.kind(), "executed");
    let left = gateway.leave_cluster(&house.operator, &formed.cluster_id, a.id()).await.unwrap();
    assert_eq!((left.state, left.members.len()), ("ACTIVE", 2), "b waited for it");
    house.is_whole().await;
}

async fn ended(house: &House, party: &Party, key: &str) -> Said {
    found("its end", || async {
        let said = pays(house, party, key).await;
        (!["held", "pending_settlement"].contains(&said.kind())).then_some(said)
    })
    .await
}

#[tokio::test]
async fn what_members_of_several_principals_do_together_needs_all_of_these() {
    let house = house_with(1, |config| config.public_url = Some("http://localhost:8787".into())).await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "petra", seconds(100)).await;
    cluster(&house, &[&a, &b]).await;
    declared(&house, &a, "i-a", "COLLABORATIVE").await;
    let held = pays(&house, &a, "k").await;
    assert_eq!((held.kind(), held.reasons()), ("held", vec!["multi_principal"]), "{}", held.body);
    let gateway = house.gateway();
    let view = gateway.held_one(&approver(&house, "reader"), held.id()).await.unwrap();
    assert_eq!((view.needed, &*view.principals), (2, &["olga".to_owned(), "petra".to_owned()][..]));
    // Nobody else's word takes the place of theirs, and never that of the agent.
    for name in ["anna", "agent-a"] {
        let refused = gateway.approve(&approver(&house, name), held.id(), None).await.unwrap_err();
        assert_eq!(refused.code, Code::Forbidden, "{name}");
        let unasked = gateway.ask_to_sign(&approver(&house, name), held.id(), None, None).await.unwrap_err();
        assert_eq!(unasked, refused, "nobody is asked to sign in vain");
    }
    gateway.approve(&approver(&house, "olga"), held.id(), None).await.unwrap();
    assert_eq!(pays(&house, &a, "k").await.kind(), "held", "one of two");
    let house = house.restart().await;
    house.gateway().approve(&approver(&house, "petra"), held.id(), None).await.unwrap();
    let done = ended(&house, &a, "k").await;
    assert_eq!(done.kind(), "executed", "{}", done.body);
    let receipt =
        house.gateway().receipt(&house.operator, done.body["receipt"].as_str().unwrap()).await.unwrap();
    let receipt: Value = serde_json::from_slice(&receipt).unwrap();
    assert_eq!(receipt["metadata"]["approvals"].as_array().unwrap().len(), 2);
    for approval in receipt["metadata"]["approvals"].as_array().unwrap() {
        assert_eq!(approval["envelope"]["reasons"], json!(["multi_principal"]), "{approval}");
    }
    // Alone it acts as ever; in another mode nobody else has a say.
    declared(&house, &b, "i-b", "CHAIN").await;
    assert_eq!(pays(&house, &b, "other").await.kind(), "executed");
    house.is_whole().await;
}

#[tokio::test]
async fn a_principal_that_joins_meanwhile_is_asked_too() {
    let house = house_with(1, |_| {}).await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "petra", seconds(100)).await;
    let c = party(&house, "agent-c", "rosalind", seconds(100)).await;
    let formed = cluster(&house, &[&a, &b]).await;
    declared(&house, &a, "i-a", "COLLABORATIVE").await;
    let held = pays(&house, &a, "k").await;
    house.gateway().join_cluster(&c.agent, &formed.cluster_id, c.id()).await.unwrap();
    for name in ["olga", "petra"] {
        house.gateway().approve(&approver(&house, name), held.id(), None).await.unwrap();
    }
    let again = wait_for(&house, held.id(), |view| view.escalation_id.ends_with("-2")).await;
    assert_eq!((again.needed, again.principals.len()), (3, 3));
    for name in ["olga", "petra", "rosalind"] {
        house.gateway().approve(&approver(&house, name), held.id(), None).await.unwrap();
    }
    assert_eq!(ended(&house, &a, "k").await.kind(), "executed");
    house.is_whole().await;
}

#[tokio::test]
async fn time_moves_within_the_mandate_that_both_descend_from_and_that_keeps_what_it_has() {
    let house = House::new().await;
    let root = party(&house, "agent-r", "olga", seconds(200)).await;
    let handed = async |name: &str, least: u64| {
        let agent = named(&house.agent, name);
        let ask = DelegateAsk {
            subject: name.to_owned(),
            even_if_unknown: true,
            resource_envelope: Some(seconds(least)),
            ..DelegateAsk::default()
        };
        let issued = house.gateway().delegate(&root.agent, &root.session.mandate_id, ask).await.unwrap();
        let session = house.gateway().open_session(&agent, Some(&issued.token)).await.unwrap();
        Party { agent, session }
    };
    let (a, b) = (handed("agent-a", 80).await, handed("agent-b", 50).await);
    let formed = cluster(&house, &[&root, &a, &b]).await;
    assert_eq!(formed.budget_pool, 200, "what was handed on is not there twice");
    let after = hand(&house, &formed, &a, &b, 60).await.unwrap();
    let left: Vec<u64> = after.members.iter().map(|it| it.time_budget_remaining).collect();
    assert_eq!((left, after.budget_pool), (vec![200, 20, 110], 200));
    let shared = hand(&house, &after, &b, &root, 1).await.unwrap_err();
    assert_eq!((shared.code, shared.field.as_deref()), (Code::ValidationFailed, Some("/to_session_id")));
    house.is_whole().await;
}

#[tokio::test]
async fn a_cluster_that_is_over_stops_its_members_until_they_leave() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let deadline = jiff::Timestamp::now() + Duration::from_millis(1500);
    let ask = FormAsk { session_id: a.id().to_owned(), deadline: Some(deadline.to_string()) };
    let formed = house.gateway().form_cluster(&a.agent, ask).await.unwrap();
    declared(&house, &a, "i-a", "CHAIN").await;
    while jiff::Timestamp::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(house.gateway().cluster(&a.agent, &formed.cluster_id).await.unwrap().state, "TERMINATED");
    let stopped = pays(&house, &a, "k").await;
    assert_eq!((stopped.code(), stopped.reasons()), ("EP_STATE_CONFLICT", vec!["cluster_stopped"]));
    house.gateway().leave_cluster(&a.agent, &formed.cluster_id, a.id()).await.unwrap();
    assert_eq!(pays(&house, &a, "l").await.kind(), "executed");
    house.is_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_is_refused_leaves_no_mandate_in_force_however_close_a_hold_comes() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let holder = Caller { default_mandate: Some(a.session.mandate_id.clone()), ..a.agent.clone() };
    let (gateway, id) = (house.gateway(), cluster(&house, &[&a]).await.cluster_id);
    let mut granted = 0;
    for _ in 0..24 {
        let ask = GrantAsk {
            actions: vec!["Payments".to_owned()],
            resources: None,
            spend_cap: None,
            max_actions: None,
            expires_in_seconds: None,
            held: None,
            request_id: "r".to_owned(),
        };
        let (came, held) =
            tokio::join!(gateway.grant(&holder, ask), gateway.hold_cluster(&house.operator, &id, None));
        held.unwrap();
        granted += match came {
            Ok(came) => i32::from(matches!(came, Ok(GrantView::Granted { .. }))),
            Err(refused) => {
                assert_eq!(refused.code, Code::StateConflict);
                0
            }
        };
        gateway.release_cluster(&house.operator, &id).await.unwrap();
    }
    let sql = "SELECT count(*) FROM mandate m LEFT JOIN account a ON a.key = m.account
               WHERE m.subject = 'agent-a' AND m.chain IS NOT NULL AND a.revoked IS NULL";
    let in_force: i32 = house.store().query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(in_force, granted);
    house.is_whole().await;
}

/// The agent says when its cluster is over: that must not be when its hold is.
#[tokio::test]
async fn a_deadline_lets_nobody_out_of_a_hold() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let deadline = jiff::Timestamp::now() + Duration::from_millis(1500);
    let ask = FormAsk { session_id: a.id().to_owned(), deadline: Some(deadline.to_string()) };
    let gateway = house.gateway();
    let id = gateway.form_cluster(&a.agent, ask).await.unwrap().cluster_id;
    declared(&house, &a, "i-a", "CHAIN").await;
    gateway.hold_cluster(&house.operator, &id, None).await.unwrap();
    while jiff::Timestamp::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = gateway.leave_cluster(&a.agent, &id, a.id()).await.unwrap_err();
    assert_eq!(refused.code, Code::StateConflict);
    assert_eq!(pays(&house, &a, "k").await.reasons(), ["cluster_stopped"]);
    gateway.release_cluster(&house.operator, &id).await.unwrap();
    gateway.leave_cluster(&a.agent, &id, a.id()).await.unwrap();
    assert_eq!(pays(&house, &a, "l").await.kind(), "executed");
    house.is_whole().await;
}

#[tokio::test]
async fn people_hold_a_cluster_and_nothing_of_its_members_begins_until_it_is_released() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "petra", seconds(100)).await;
    let outside = party(&house, "agent-x", "olga", seconds(100)).await;
    let formed = cluster(&house, &[&a, &b]).await;
    let id = &*formed.cluster_id;
    for one in [&a, &b, &outside] {
        declared(&house, one, &format!("i-{}", one.agent.subject), "CHAIN").await;
    }
    let code = |result: Result<ClusterView, Error>| result.map(|_| ()).unwrap_err().code;
    let gateway = house.gateway();
    assert_eq!(code(gateway.hold_cluster(&a.agent, id, None).await), Code::Forbidden);
    let auditor = Caller { role: countersign_gateway::Role::Auditor, ..house.operator.clone() };
    assert_eq!(code(gateway.hold_cluster(&auditor, id, None).await), Code::Forbidden);
    assert_eq!(
        code(gateway.release_cluster(&house.operator, id).await),
        Code::StateConflict,
        "it is not held"
    );
    let wrong = gateway.hold_cluster(&house.operator, id, Some("a\u{202e}b".into())).await.unwrap_err();
    assert_eq!(wrong.field.as_deref(), Some("/reason"));
    assert!(wrong.message.starts_with("`reason`"), "{}", wrong.message);
    let anna = approver(&house, "anna");
    let held = gateway.hold_cluster(&anna, id, Some("looked into".into())).await.unwrap();
    assert_eq!(held.state, "MANDATE_HOLD");
    for (one, name) in [(&a, "a"), (&b, "b")] {
        assert_eq!(context(&house, one).await["state"], json!("MANDATE_HOLD"));
        assert_eq!(last(&house, one).await, said("cluster_held", None, Some("SUSPEND")));
        let stopped = pays(&house, one, name).await;
        assert_eq!((stopped.code(), stopped.reasons()), ("EP_STATE_CONFLICT", vec!["cluster_stopped"]));
    }
    assert_eq!(pays(&house, &outside, "outside").await.kind(), "executed", "of no member");
    // Nobody gets out of it: not by leaving, nor by closing, nor with another session under the same mandate.
    for one in [&a, &b] {
        assert_eq!(code(gateway.leave_cluster(&one.agent, id, one.id()).await), Code::StateConflict);
        let close = CloseAsk { completion: Completion::Partial, reason: None };
        let refused = gateway.close_session(&one.agent, one.id(), close).await.unwrap_err();
        assert_eq!(refused.code, Code::StateConflict);
        let again = Caller { default_mandate: Some(one.session.mandate_id.clone()), ..one.agent.clone() };
        assert_eq!(gateway.open_session(&again, None).await.unwrap_err().code, Code::StateConflict);
        let own = DelegateAsk {
            subject: one.agent.subject.to_string(),
            even_if_unknown: true,
            ..DelegateAsk::default()
        };
        let child = gateway.delegate(&one.agent, &one.session.mandate_id, own).await.unwrap();
        let refused = gateway.open_session(&one.agent, Some(&child.token)).await.unwrap_err();
        assert_eq!(refused.code, Code::StateConflict, "under what it handed to itself");
    }
    let stopped = pays(&house, &a, "still").await;
    assert_eq!((stopped.code(), stopped.reasons()), ("EP_STATE_CONFLICT", vec!["cluster_stopped"]));
    // Nor is anything handed on, joined or held once more.
    assert_eq!(hand(&house, &formed, &a, &b, 1).await.unwrap_err().code, Code::StateConflict);
    assert_eq!(code(gateway.join_cluster(&outside.agent, id, outside.id()).await), Code::StateConflict);
    assert_eq!(code(gateway.hold_cluster(&house.operator, id, None).await), Code::StateConflict);
    let house = house.restart().await;
    let released = house.gateway().release_cluster(&house.operator, id).await.unwrap();
    assert_eq!(released.state, "ACTIVE");
    for (one, name) in [(&a, "c"), (&b, "d")] {
        assert_eq!(last(&house, one).await, said("cluster_released", Some("ALE-009"), None));
        assert_eq!(pays(&house, one, name).await.kind(), "executed");
    }
    let again = Caller { default_mandate: Some(a.session.mandate_id.clone()), ..a.agent.clone() };
    house.gateway().open_session(&again, None).await.unwrap();
    house.gateway().hold_cluster(&house.operator, id, None).await.unwrap();
    house.gateway().leave_cluster(&house.operator, id, a.id()).await.unwrap();
    let close = CloseAsk { completion: Completion::Partial, reason: None };
    house.gateway().close_session(&house.operator, b.id(), close).await.unwrap();
    let over = house.gateway().hold_cluster(&house.operator, id, None).await.unwrap_err();
    assert_eq!(over.code, Code::StateConflict);
    house.is_whole().await;
}

/// A name that is denied to everybody ends the session of whoever asks for it: that is no way out of a hold.
#[tokio::test]
async fn an_agent_whose_session_ends_by_what_it_does_gets_out_of_no_hold() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "petra", seconds(100)).await;
    let formed = cluster(&house, &[&a, &b]).await;
    declared(&house, &a, "i-a", "CHAIN").await;
    let (id, gateway) = (&*formed.cluster_id, house.gateway());
    gateway.hold_cluster(&house.operator, id, None).await.unwrap();
    let denied = json!({ "archetype": "delete_audit_log", "constraints": {}, "session_id": a.id() });
    assert_eq!(sends(&house, &a, "denied", &denied).await.unwrap().reasons(), ["hard_denied"]);
    assert_eq!(gateway.session(&a.agent, a.id()).await.unwrap().state, "CLOSED");
    let again = Caller { default_mandate: Some(a.session.mandate_id.clone()), ..a.agent.clone() };
    assert_eq!(gateway.open_session(&again, None).await.unwrap_err().code, Code::StateConflict);
    let members = gateway.cluster(&house.operator, id).await.unwrap().members.len();
    assert_eq!(members, 2, "it is one until people have decided");
    let released = gateway.release_cluster(&house.operator, id).await.unwrap();
    assert_eq!((released.state, released.members.len()), ("ACTIVE", 1));
    gateway.open_session(&again, None).await.unwrap();
    house.is_whole().await;
}

/// Children of a mandate that an agent handed to itself are no other mandates.
#[tokio::test]
async fn an_agent_gets_out_of_no_hold_by_another_mandate_of_the_same_root() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let own = || DelegateAsk {
        subject: a.agent.subject.to_string(),
        even_if_unknown: true,
        ..DelegateAsk::default()
    };
    let gateway = house.gateway();
    let (one, other) = (
        gateway.delegate(&a.agent, &a.session.mandate_id, own()).await.unwrap(),
        gateway.delegate(&a.agent, &a.session.mandate_id, own()).await.unwrap(),
    );
    let session = gateway.open_session(&a.agent, Some(&one.token)).await.unwrap();
    let ask = FormAsk { session_id: session.session_id, deadline: None };
    let formed = gateway.form_cluster(&a.agent, ask).await.unwrap();
    gateway.hold_cluster(&house.operator, &formed.cluster_id, None).await.unwrap();
    let above = Caller { default_mandate: Some(a.session.mandate_id.clone()), ..a.agent.clone() };
    assert_eq!(gateway.open_session(&above, None).await.unwrap_err().code, Code::StateConflict);
    let beside = gateway.open_session(&a.agent, Some(&other.token)).await.unwrap_err();
    assert_eq!(beside.code, Code::StateConflict);
    gateway.release_cluster(&house.operator, &formed.cluster_id).await.unwrap();
    gateway.open_session(&a.agent, Some(&other.token)).await.unwrap();
}

#[tokio::test]
async fn a_cluster_lasts_no_longer_than_the_mandate_of_who_forms_it() {
    let house = House::new().await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let formed = cluster(&house, &[&a]).await;
    assert_eq!(formed.deadline, "2100-01-01T00:00:00.000Z", "when its mandate ends");
    let b = party(&house, "agent-b", "olga", seconds(100)).await;
    for wrong in ["2100-01-01T00:00:01Z", "2020-01-01T00:00:00Z", "soon"] {
        let ask = FormAsk { session_id: b.id().to_owned(), deadline: Some(wrong.to_owned()) };
        let refused = house.gateway().form_cluster(&b.agent, ask).await.unwrap_err();
        assert_eq!(
            (refused.code, refused.field.as_deref()),
            (Code::ValidationFailed, Some("/deadline")),
            "{wrong}"
        );
    }
    assert_eq!(told(&house, &b).await.len(), 1, "nothing was written");
}

/// Class 3: within one cluster, and only there, principals can contradict each other.
#[tokio::test]
async fn what_another_principal_wants_otherwise_of_the_same_resource_is_asked_about() {
    let house = house_with(1, |_| {}).await;
    let a = party(&house, "agent-a", "olga", seconds(100)).await;
    let b = party(&house, "agent-b", "petra", seconds(100)).await;
    let c = party(&house, "agent-c", "olga", seconds(100)).await;
    let alone = party(&house, "agent-x", "petra", seconds(100)).await;
    cluster(&house, &[&a, &b, &c]).await;
    for one in [&a, &b, &c, &alone] {
        declared(&house, one, &format!("i-{}", one.agent.subject), "CHAIN").await;
    }
    let first = pays_to(&house, &a, "k-a", "acct-1", "5.00").await;
    assert_eq!(first.kind(), "executed", "{}", first.body);
    // The same principal's, another resource, and who is in no cluster with it: no contradiction.
    assert_eq!(pays_to(&house, &c, "k-c", "acct-1", "6.00").await.kind(), "executed");
    assert_eq!(pays_to(&house, &b, "k-b", "acct-2", "6.00").await.kind(), "executed");
    assert_eq!(pays_to(&house, &alone, "k-x", "acct-1", "6.50").await.kind(), "executed");
    let held = pays_to(&house, &b, "k-b2", "acct-1", "7.00").await;
    assert_eq!((held.kind(), held.reasons()), ("held", vec!["principal_conflict"]), "{}", held.body);
    let view = house.gateway().held_one(&approver(&house, "anna"), held.id()).await.unwrap();
    assert_eq!(view.escalation_classes, [3]);
    let newest = house.gateway().session_records(&c.agent, c.id(), None, 100).await.unwrap().1.items;
    let newest = newest.iter().rev().find_map(|record| record.action_id.clone());
    assert_eq!(view.earlier_transaction, newest, "the newest that it contradicts");
    house.gateway().approve(&approver(&house, "anna"), held.id(), None).await.unwrap();
    found("its effect: people agreed to it", || async {
        (pays_to(&house, &b, "k-b2", "acct-1", "7.00").await.kind() == "executed").then_some(())
    })
    .await;
    house.is_whole().await;
}

/// Nobody knows what it said, and that may be the opposite.
#[tokio::test]
async fn nothing_is_judged_beside_what_another_principal_asked_for_once_that_was_altered() {
    let house = house_with(1, |_| {}).await;
    let (a, b) = opposed(&house).await;
    for (key, to, altered) in [
        ("k-1", "acct-1", r#"replace(CAST(payload AS TEXT), '"acct-1"', '"acct-9"')"#),
        ("k-2", "acct-2", "'{'"),
    ] {
        assert_eq!(pays_to(&house, &a, key, to, "5.00").await.kind(), "executed");
        let before = house
            .store()
            .query_row("SELECT payload FROM action WHERE key = ?", [key], |row| row.get::<_, Vec<u8>>(0));
        house.rewrite(key, altered);
        let beside = sends(&house, &b, &format!("b-{key}"), &payment(&b, to, "7.00")).await.unwrap_err();
        assert_eq!(beside.code, Code::Unavailable, "{key}: {beside:?}");
        let mend = "UPDATE action SET payload = ? WHERE key = ?";
        house.store().execute(mend, (before.unwrap(), key)).unwrap();
    }
    assert_eq!(pays_to(&house, &b, "b-3", "acct-1", "7.00").await.reasons(), ["principal_conflict"]);
    house.is_whole().await;
}

#[tokio::test]
async fn an_instruction_stands_as_long_as_its_own_archetype_remembers_it() {
    let house = house_with(1, |_| {}).await;
    house.write("catalogue/default/notice.toml", NOTICE);
    house.gateway().reload(&house.admin).await.unwrap();
    let (a, b) = opposed(&house).await;
    let notice = |party: &Party, to: &str| json!({ "archetype": "NOTICE", "session_id": party.id(), "constraints": { "recipient": to } });
    assert_eq!(pays_to(&house, &a, "pays", "acct-1", "5.00").await.kind(), "executed");
    let told = sends(&house, &a, "tells", &notice(&a, "acct-2")).await.unwrap();
    assert_eq!(told.kind(), "executed", "{}", told.body);
    // A minute ago: payments are remembered for ten, a notice for a second.
    house.store().execute("UPDATE action SET at = at - 60000", []).unwrap();
    assert_eq!(pays_to(&house, &b, "pays-too", "acct-2", "5.00").await.kind(), "executed");
    let against = sends(&house, &b, "tells-too", &notice(&b, "acct-1")).await.unwrap();
    assert_eq!(against.reasons(), ["principal_conflict"], "{}", against.body);
}

/// Two sessions in one cluster, in the names of two principals.
async fn opposed(house: &House) -> (Party, Party) {
    let a = party(house, "agent-a", "olga", seconds(100)).await;
    let b = party(house, "agent-b", "petra", seconds(100)).await;
    cluster(house, &[&a, &b]).await;
    for one in [&a, &b] {
        declared(house, one, &format!("i-{}", one.agent.subject), "CHAIN").await;
    }
    (a, b)
}

const NOTICE: &str = r#"
name = "NOTICE"
description = "Tell the holder of an account something"
reversible = false
guarantee_level = "atp-1"
resource = "/recipient"
identity = ["/recipient"]

[cedar]
groups = ["Payments"]
resource_type = "Account"

[duplicate]
window = "1s"
on = "allow"

[schema]
required = ["recipient"]

[schema.properties.recipient]
description = "Whose account"
type = "string"
x-identifier = true

[binding]
provider = "sandbox"
"#;
