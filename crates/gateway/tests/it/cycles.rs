//! Cycles: actions in a governed session, judged with what was declared, and what their records say.

use std::sync::Arc;
use std::time::Duration;

use action::IdempotencyKey;
use countersign_gateway::{
    Ask, Caller, Code, Completion, CycleView, Decision, DelegateAsk, Error, ExtendAsk, GarAsk, LimitsAsk,
    MandateAsk, ResourceEnvelope, Role, RulingAsk, SessionView,
};
use serde_json::{Value, json};
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Options};

use crate::approvals::{approver, house_with};
use crate::banked;
use crate::challenges::{SECRET, call_back, word_about};
use crate::faults::{Dies, effects, found, until};
use crate::house::{House, POLICY, Said};
use crate::late::{NO_RETRY, house_of, house_with as house_that_is_told, same, settled};
use crate::reserving;
use crate::resolutions::resolve;
use crate::retries::busy;
use crate::sessions::{intent, other_agent, with};

impl House {
    /// A session with a declaration in this mode, numbered 1.
    async fn declared(&self, mode: &str) -> SessionView {
        self.declared_as(json!({ "reasoning_mode": mode })).await
    }

    async fn declared_as(&self, more: Value) -> SessionView {
        let session = self.opened().await;
        self.declare(&session.session_id, &merged(intent(&session, "i-1", 1), more)).await.unwrap();
        session
    }

    async fn cycle(
        &self,
        session: &SessionView,
        key: &str,
        body: &Value,
    ) -> Result<(Said, CycleView), Error> {
        let ask = ask(key, body);
        let (answer, view) = self.gateway().cycle(&self.agent, &session.session_id, ask).await?;
        Ok((Said::of(answer), view))
    }

    /// A cycle once it was carried out.
    async fn executed(&self, session: &SessionView, key: &str, body: &Value) -> CycleView {
        found("its effect", || async {
            let (said, view) = self.cycle(session, key, body).await.unwrap();
            (said.kind() == "executed").then_some(view)
        })
        .await
    }

    /// What a cycle of this number comes to: its result, kind and code.
    async fn comes_to(&self, session: &SessionView, number: u64, more: Value) -> (String, String, String) {
        let key = format!("{}-{number}", session.session_id);
        let tail = &session.session_id[session.session_id.len() - 8..];
        let body = merged(pay(&format!("acct-{tail}-{number}"), number), more);
        let (said, view) = self.cycle(session, &key, &body).await.unwrap();
        (view.governance_result.to_owned(), said.kind().to_owned(), said.code().to_owned())
    }

    /// Result and kind that a cycle is answered with, once its latest record of a decision says the same.
    async fn told(&self, session: &SessionView, key: &str, body: &Value) -> [String; 2] {
        let (said, view) = self.cycle(session, key, body).await.unwrap();
        let records = self.records(&session.session_id).await;
        let of_it = records.iter().filter(|it| it.action_id.as_deref() == Some(&*view.cycle_id));
        let decided = of_it.filter_map(|it| it.governance_decision).next_back();
        assert_eq!(decided.map(|it| it.replace("ALLOW", "PROCEED")).as_deref(), Some(view.governance_result));
        [view.governance_result.to_owned(), said.kind().to_owned()]
    }

    async fn events(&self, session: &SessionView) -> Vec<String> {
        self.records(&session.session_id).await.into_iter().map(|record| record.event).collect()
    }

    /// The same while more may come.
    async fn events_by_now(&self, session: &SessionView) -> Vec<String> {
        let read = self.gateway().session_records(&self.agent, &session.session_id, None, 1000).await;
        read.unwrap().1.items.into_iter().map(|record| record.event).collect()
    }
}

fn ask(key: &str, body: &Value) -> Ask {
    Ask {
        idempotency_key: Some(IdempotencyKey::parse(key).unwrap()),
        request_id: format!("req-{key}"),
        dry_run: false,
        wait: countersign_gateway::Wait::default(),
        body: body.to_string().into_bytes(),
    }
}

fn pay(recipient: &str, number: u64) -> Value {
    json!({
        "archetype": "PAYMENT_TRANSFER",
        "constraints": { "recipient": recipient, "amount_usd": "5.00", "max_total_usd": "900.00" },
        "intent_id": "i-1", "action_sequence_number": number,
    })
}

/// A payment that names its session and says nothing else of itself.
fn plain(session: &SessionView, recipient: &str) -> Value {
    json!({
        "archetype": "PAYMENT_TRANSFER", "session_id": session.session_id,
        "constraints": { "recipient": recipient, "amount_usd": "5.00", "max_total_usd": "900.00" },
    })
}

fn merged(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn told(result: &str, kind: &str, code: &str) -> (String, String, String) {
    (result.to_owned(), kind.to_owned(), code.to_owned())
}

/// A mandate for so many units of computing.
async fn with_units(house: &mut House, envelope: ResourceEnvelope) {
    with_mandate(house, |ask| ask.resource_envelope = Some(envelope)).await;
}

async fn with_mandate(house: &mut House, change: impl FnOnce(&mut MandateAsk)) {
    let mut ask = MandateAsk {
        subject: house.agent.subject.clone(),
        even_if_unknown: true,
        scope: vec!["Payments".to_owned()],
        resources: None,
        spend_cap: Some(action::Money::parse("500.00", action::Currency::of("USD").unwrap()).unwrap()),
        max_actions: None,
        requires_approval: Vec::new(),
        uncertainty_floor: None,
        trust_floor: None,
        goal_scope: Vec::new(),
        resource_envelope: None,
        not_before: None,
        expires_at: 4_102_444_800,
    };
    change(&mut ask);
    house.token = house.gateway().issue_mandate(&house.operator, ask).await.unwrap().token;
}

#[tokio::test]
async fn a_cycle_is_answered_with_its_record_and_stands_in_the_session() {
    let house = House::new().await;
    let before = house.opened().await;
    let fingerprint = house.gateway().context(&house.agent, &before.session_id).await.unwrap().fingerprint;
    let declared = with(intent(&before, "i-1", 1), "context_fingerprint", json!(fingerprint));
    house.declare(&before.session_id, &declared).await.unwrap();
    let (said, view) = house.cycle(&before, "k", &pay("acct-1", 2)).await.unwrap();
    assert_eq!((said.kind(), view.governance_result), ("executed", "PROCEED"), "{}", said.body);
    assert_eq!((view.intent_id.as_deref(), &view.reasoning_mode), (Some("i-1"), &json!("CHAIN")));
    assert_eq!((&*view.cycle_id, &view.session_id), (said.id(), &before.session_id));
    let records = house.records(&before.session_id).await;
    let events: Vec<&str> = records.iter().map(|it| &*it.event).collect();
    assert_eq!(events, ["session_opened", "intent_declared", "admitted", "executed"]);
    for pair in records.windows(2) {
        assert_eq!(pair[1].causal_parent_id.as_ref(), Some(&pair[0].record_id));
    }
    assert_eq!(view.gar_record_id.as_ref(), Some(&records[2].record_id));
    assert_eq!(
        (records[2].governance_decision, &*records[2].cedar_policy_ids),
        (Some("ALLOW"), &["payments".to_owned()][..])
    );
    assert_eq!(records[3].governance_decision, None);
    let receipt = house.verified(said.body["receipt"].as_str().unwrap()).await;
    assert_eq!(receipt["sessionId"], json!(before.session_id), "{receipt}");
    // Sent again it is the same, byte for byte.
    let (again, same) = house.cycle(&before, "k", &pay("acct-1", 2)).await.unwrap();
    assert_eq!((again.replayed, &again.bytes), (true, &said.bytes));
    assert_eq!(format!("{same:?}"), format!("{view:?}"));
    // And time passed: at least a second of it.
    let left = house.gateway().context(&house.agent, &before.session_id).await.unwrap();
    assert_eq!((left.sequence, left.fingerprint), (2, fingerprint), "the situation is the same");
    house.is_whole().await;
}

#[tokio::test]
async fn each_step_that_fails_is_told_by_its_code_and_on_record() {
    let house = House::new().await;
    let bare = house.opened().await;
    let none = house.comes_to(&bare, 1, json!({})).await;
    assert_eq!(none, told("DENY", "blocked", "IDP-E001"));
    let none = house.said("none", &plain(&bare, "acct-1")).await;
    assert_eq!((none.kind(), none.code()), ("blocked", "IDP-E001"));
    assert_eq!(house.events(&bare).await, ["session_opened", "refused", "refused"]);

    let data = house.declared_as(json!({ "goal_scope": ["Data"], "intent_id": "i-0" })).await;
    let key = "outside";
    let (said, view) =
        house.cycle(&data, key, &with(pay("acct-2", 2), "intent_id", json!("i-0"))).await.unwrap();
    assert_eq!((said.code(), view.governance_result), ("IDP-E009", "DENY"));
    let receipt = house.verified(said.body["receipt"].as_str().unwrap()).await;
    let entries = receipt["entries"].as_array().or(receipt["chain"].as_array());
    let text = serde_json::to_string(&receipt).unwrap();
    assert!(text.contains("\"classesFired\":[2]"), "{entries:?} {text}");

    let session = house.declared("CHAIN").await;
    assert_eq!(house.comes_to(&session, 5, json!({})).await, told("PROCEED", "executed", "none"));
    for number in [5, 4, 1] {
        let more = json!({ "constraints": { "recipient": format!("x-{number}"), "amount_usd": "7.00", "max_total_usd": "9.00" } });
        let key = format!("late-{number}");
        let (said, _) = house.cycle(&session, &key, &merged(pay("", number), more)).await.unwrap();
        assert_eq!((said.kind(), said.code()), ("blocked", "IDP-E005"));
    }
    assert_eq!(house.gateway().session(&house.agent, &session.session_id).await.unwrap().denials, 3);

    let other = house.mandate("100.00").await;
    let mismatch = house.comes_to(&session, 6, json!({ "delegation_token": other })).await;
    assert_eq!(mismatch, told("DENY", "blocked", "IDP-E004"));
    let until = jiff::Timestamp::now() + Duration::from_millis(1500);
    let short = house.declared_as(json!({ "intent_id": "i-2", "expires_at": until.to_string() })).await;
    while jiff::Timestamp::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let over = house.comes_to(&short, 2, json!({ "intent_id": "i-2" })).await;
    assert_eq!(over, told("DENY", "blocked", "IDP-E003"));
    house.is_whole().await;
}

#[tokio::test]
async fn what_the_mode_demands_must_be_there() {
    let house = House::new().await;
    let denied = |code: &str| told("DENY", "blocked", code);
    let mode = |name: &'static str, id: &'static str| json!({ "reasoning_mode": name, "intent_id": id, "goal_scope": ["Payments", "Data"] });
    let tree = house.declared_as(mode("TREE", "t")).await;
    let branch = json!({ "archetype": "PAYMENT_TRANSFER", "constraints": pay("acct-9", 1)["constraints"] });
    let export = json!({ "archetype": "DATA_EXPORT", "constraints": {
        "dataset": "crm.customers", "format": "csv", "destination": "s3://reports", "purpose": "report"}});
    assert_eq!(house.comes_to(&tree, 2, json!({"intent_id": "t"})).await, denied("EP_BOUNDARY_BLOCK"));
    let good = json!({ "intent_id": "t", "branches": [branch] });
    assert_eq!(house.comes_to(&tree, 3, good).await, told("PROCEED", "executed", "none"));
    // Who means to go outside of the mandate ends the session, as who does.
    let both = json!({ "intent_id": "t", "branches": [branch, export] });
    assert_eq!(house.comes_to(&tree, 4, both).await, denied("EP_DELEGATION_BLOCK"));
    let over = house.gateway().session(&house.agent, &tree.session_id).await.unwrap();
    assert_eq!((over.completion, over.halt), (Some("REVOKED"), Some("CLEAN")));
    let delegated = house.declared_as(mode("DELEGATED", "d")).await;
    assert_eq!(house.comes_to(&delegated, 2, json!({"intent_id": "d"})).await, denied("EP_BOUNDARY_BLOCK"));
    let reflexive = house.declared_as(mode("REFLEXIVE", "r")).await;
    let silent = house.comes_to(&reflexive, 2, json!({"intent_id": "r"})).await;
    assert_eq!(silent, denied("EP_BOUNDARY_BLOCK"));
    let said = json!({"intent_id": "r", "self_assessment": "the invoice matches the order"});
    assert_eq!(house.comes_to(&reflexive, 3, said).await, told("PROCEED", "executed", "none"));
    house.is_whole().await;
}

#[tokio::test]
async fn who_is_unsure_where_nothing_fires_is_on_record() {
    let house = House::new().await;
    let session = house.declared("CHAIN").await;
    house.comes_to(&session, 2, json!({ "confidence": 0.9 })).await;
    let unsure = house.comes_to(&session, 3, json!({ "confidence": 0.2 })).await;
    assert_eq!(unsure, told("PROCEED", "executed", "none"));
    let flags: Vec<bool> =
        house.records(&session.session_id).await.iter().map(|it| it.hem_layer_discrepancy).collect();
    assert_eq!(flags, [false, false, false, false, true, false]);
}

#[tokio::test]
async fn what_the_gateway_says_of_a_cycle_nobody_else_says() {
    let house = House::new().await;
    let session = house.declared("CHAIN").await;
    for member in ["time_budget_remaining", "governance_result", "cluster_context", "tier_0a_check_passed"] {
        let body = with(pay("acct-1", 2), member, json!(true));
        let refused = house.cycle(&session, "k", &body).await.map(|_| ()).unwrap_err();
        assert_eq!(
            (refused.code, refused.field.as_deref()),
            (Code::ValidationFailed, Some(&*format!("/{member}")))
        );
        let refused = house.send("k", &with(plain(&session, "a"), member, json!(true))).await.unwrap_err();
        assert_eq!(
            (refused.code, refused.field.as_deref()),
            (Code::ValidationFailed, Some(&*format!("/{member}")))
        );
    }
    for missing in ["intent_id", "action_sequence_number"] {
        let mut body = pay("acct-1", 2);
        body.as_object_mut().unwrap().remove(missing);
        let refused = house.cycle(&session, "k", &body).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.field, Some(format!("/{missing}")));
    }
    for (member, value) in [
        ("confidence", json!(1.5)),
        ("branches", json!([])),
        ("branches", json!([{ "archetype": "NOTHING", "constraints": {} }])),
        ("resources", json!({ "compute_units": -1 })),
        ("self_assessment", json!(1)),
        ("session_id", json!("ses_other")),
    ] {
        let refused =
            house.cycle(&session, "k", &with(pay("acct-1", 2), member, value)).await.map(|_| ()).unwrap_err();
        assert!(
            refused.field.as_deref().is_some_and(|it| it.starts_with(&format!("/{member}"))),
            "{refused:?}"
        );
    }
    // What is said of a cycle needs a session to be one of.
    let refused = house.send("k", &pay("acct-1", 2)).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("/action_sequence_number"));
    assert_eq!(house.events(&session).await.len(), 2, "nothing was written");
}

#[tokio::test]
async fn a_strangers_session_is_a_label_and_no_session() {
    let house = House::new().await;
    let session = house.declared("CHAIN").await;
    let stranger = other_agent(&house);
    let refused = house.gateway().cycle(&stranger, &session.session_id, ask("k", &pay("a", 2))).await;
    assert_eq!(refused.map(|_| ()).unwrap_err().code, Code::NotFound);
    let body = with(plain(&session, "acct-1"), "delegation_token", json!(house.token));
    let answer = house.gateway().execute(&stranger, ask("k", &body)).await.unwrap();
    assert_eq!(Said::of(answer).code(), "EP_DELEGATION_BLOCK", "judged as any action of its own");
    assert_eq!(house.events(&session).await.len(), 2);
    // A label of a client's own is one, as ever.
    let labelled = with(house.payment("acct-2", "5.00"), "session_id", json!("my-run-7"));
    assert_eq!(house.said("label", &labelled).await.kind(), "executed");
}

#[tokio::test]
async fn a_number_is_used_once_however_many_tabs_send_it() {
    let house = House::new().await;
    let session = house.declared("CHAIN").await;
    let (one, two) = (pay("acct-1", 2), pay("acct-2", 2));
    let (one, two) = tokio::join!(house.cycle(&session, "a", &one), house.cycle(&session, "b", &two));
    let mut codes = [one.unwrap().0.code().to_owned(), two.unwrap().0.code().to_owned()];
    codes.sort();
    assert_eq!(codes, ["IDP-E005", "none"]);
    // Who asks for no number gets the next, whoever else asks at the same time.
    let bodies: Vec<Value> = (0..12).map(|n| plain(&session, &format!("many-{n}"))).collect();
    let sent = bodies.iter().enumerate().map(|(n, body)| house_said(&house, n, body));
    let kinds = futures_util::future::join_all(sent).await;
    assert!(kinds.iter().all(|kind| kind == "executed"), "{kinds:?}");
    let view = house.gateway().session(&house.agent, &session.session_id).await.unwrap();
    assert_eq!((view.cycles, view.sequence, view.in_flight), (13, 14, 0));
    house.is_whole().await;
}

async fn house_said(house: &House, n: usize, body: &Value) -> String {
    house.said(&format!("many-{n}"), body).await.kind().to_owned()
}

#[tokio::test]
async fn what_waits_for_people_stops_the_cycles_of_its_session_and_then_goes_on() {
    let house = house_with(1, |_| {}).await;
    let (session, anna) = (house.declared("CHAIN").await, approver(&house, "anna"));
    let same = |number| pay("acct-1", number);
    assert_eq!(house.cycle(&session, "a", &same(2)).await.unwrap().0.kind(), "executed");
    let (held, view) = house.cycle(&session, "b", &same(3)).await.unwrap();
    assert_eq!((held.kind(), view.governance_result), ("held", "ESCALATE"));
    assert_eq!(
        house.gateway().session(&house.agent, &session.session_id).await.unwrap().state,
        "HEM_PENDING"
    );
    let (stopped, view) = house.cycle(&session, "c", &pay("acct-2", 4)).await.unwrap();
    assert_eq!((stopped.code(), stopped.reasons()), ("EP_STATE_CONFLICT", vec!["session_hem_pending"]));
    assert_eq!(view.governance_result, "DENY");
    let house = house.restart().await;
    house.gateway().approve(&anna, held.id(), None).await.unwrap();
    let view = house.executed(&session, "b", &same(3)).await;
    assert_eq!(view.governance_result, "PROCEED");
    assert_eq!(house.cycle(&session, "d", &pay("acct-3", 5)).await.unwrap().0.kind(), "executed");
    let decisions: Vec<_> = house
        .records(&session.session_id)
        .await
        .iter()
        .filter(|it| it.action_id.as_deref() == Some(&*view.cycle_id))
        .map(|it| (it.event.clone(), it.governance_decision))
        .collect();
    assert_eq!(decisions[0], ("held".to_owned(), Some("ESCALATE")));
    assert!(decisions.contains(&("admitted".to_owned(), Some("ALLOW"))), "{decisions:?}");
    let goes_on = GarAsk { ale_type: Some("ALE-009".into()), limit: 10, ..GarAsk::default() };
    let goes_on = house.gateway().gar(&house.operator, &goes_on).await.unwrap().items;
    assert_eq!(goes_on.iter().map(|it| &*it.event).collect::<Vec<_>>(), ["approved"]);
    house.is_whole().await;
}

#[tokio::test]
async fn nobody_has_a_cycle_tried_again_while_its_session_waits_for_people() {
    let (house, bank) = house_of(Options::default(), NO_RETRY, same, |_| {}).await;
    let (session, anna) = (house.declared("CHAIN").await, approver(&house, "anna"));
    busy(&bank, 1);
    let (failed, _) = house.cycle(&session, "a", &pay("acct-1", 2)).await.unwrap();
    let (done, _) = house.cycle(&session, "b", &pay("acct-2", 3)).await.unwrap();
    let (held, _) = house.cycle(&session, "c", &pay("acct-2", 4)).await.unwrap();
    assert_eq!([failed.kind(), done.kind(), held.kind()], ["failed", "executed", "held"]);
    for who in [&house.agent, &house.operator] {
        let refused = house.gateway().retry(who, failed.id()).await.unwrap_err();
        assert_eq!(refused.code, Code::StateConflict);
        assert!(refused.to_string().contains("session_hem_pending"), "{refused}");
    }
    assert_eq!(bank.effects().count, 1);
    house.gateway().reject(&anna, held.id(), None).await.unwrap();
    assert_eq!(house.gateway().retry(&house.agent, failed.id()).await.unwrap().state, "COMPLETED");
    assert_eq!(bank.effects().count, 2);
    house.is_whole().await;
}

/// A process dies amid a cycle, the next one before it has found out what became of that, and the third does.
#[tokio::test]
async fn a_recovery_is_on_record_once_however_often_it_is_begun_and_ends_when_all_is_known() {
    let dies = Dies::at("takeover.before");
    let bank = banked::bank("USD").await;
    let house = House::bound(&banked::binding(&bank, "bank", &banked::RIGHT), |config| {
        banked::reaching(config, &[&bank]);
        config.limits.recovery_interval_ms = 200;
        config.fail_points = Some(Arc::clone(&dies) as _);
    })
    .await;
    let session = house.declared("CHAIN").await;
    let quiet = house.declared_as(json!({"intent_id": "i-2"})).await;
    house.cycle(&quiet, "quiet", &merged(pay("acct-2", 2), json!({"intent_id": "i-2"}))).await.unwrap();
    bank.inject(Injection::payments(Fault::DelayAnswer { ms: 600_000 }, 1));
    let body = pay("acct-1", 2);
    let left_behind = async {
        effects(&bank, 2).await;
        house.copy().await
    };
    let mut after = tokio::select! {
        _ = house.cycle(&session, "k", &body) => panic!("the bank does not answer"),
        after = left_behind => after,
    };
    dies.arm();
    after.installation.start();
    until("it is taken up", || !dies.is_armed()).await;
    let mut after = after.restart().await;
    after.installation.start();
    let told = || async { after.events_by_now(&session).await.into_iter().skip(2).collect::<Vec<_>>() };
    let events = found("the end of it", || async {
        let events = told().await;
        events.contains(&"recovery_complete".to_owned()).then_some(events)
    })
    .await;
    let at = |event: &str| {
        let found: Vec<usize> =
            events.iter().enumerate().filter(|(_, it)| *it == event).map(|(at, _)| at).collect();
        assert_eq!(found.len(), 1, "{event}: {events:?}");
        found[0]
    };
    assert_eq!((at("admitted"), at("recovery_initiated"), at("in_doubt")), (0, 1, 2));
    assert!(at("recovery_complete") > 2);
    let records = after.records(&session.session_id).await;
    let of = |event: &str| records.iter().find(|it| it.event == event).unwrap();
    let (first, last) = (of("recovery_initiated"), of("recovery_complete"));
    assert_eq!((first.ale_type.as_deref(), last.ale_type.as_deref()), (Some("ALE-011"), Some("ALE-012")));
    assert_eq!(last.causal_parent_id.as_ref(), Some(&first.record_id));
    assert_eq!(first.ale_fields, Some(json!({"cycles": 1})));
    assert!(!after.events(&quiet).await.iter().any(|event| event.starts_with("recovery")));
    after.is_whole().await;
}

/// The record of one session cannot be written while its cycle is taken up.
#[tokio::test]
async fn a_recovery_that_cannot_be_put_on_record_keeps_no_other_from_it_and_is_told_later() {
    let bank = banked::bank("USD").await;
    let house = House::bound(&banked::binding(&bank, "bank", &banked::RIGHT), |config| {
        banked::reaching(config, &[&bank]);
        config.limits.recovery_interval_ms = 200;
    })
    .await;
    let first = house.declared("CHAIN").await;
    let second = house.declared_as(json!({"intent_id": "i-2"})).await;
    bank.inject(Injection::payments(Fault::DelayAnswer { ms: 600_000 }, 2));
    let (one, other) = (pay("acct-1", 2), merged(pay("acct-2", 2), json!({"intent_id": "i-2"})));
    let left_behind = async {
        effects(&bank, 2).await;
        house.copy().await
    };
    let mut after = tokio::select! {
        _ = house.cycle(&first, "a", &one) => panic!("the bank does not answer"),
        _ = house.cycle(&second, "b", &other) => panic!("the bank does not answer"),
        after = left_behind => after,
    };
    let trap = format!(
        "CREATE TRIGGER full BEFORE INSERT ON meta WHEN NEW.name =
         (SELECT 'recovering/' || key FROM session WHERE id = '{}') BEGIN SELECT raise(ABORT, 'full'); END",
        first.session_id
    );
    after.store().execute_batch(&trap).unwrap();
    after.installation.start();
    let has = |session, event: &'static str| {
        let after = &after;
        async move { after.events_by_now(session).await.iter().any(|it| it == event).then_some(()) }
    };
    found("the other is told of", || has(&second, "recovery_complete")).await;
    found("the doubt of the one is on record", || has(&first, "in_doubt")).await;
    assert_eq!(has(&first, "recovery_initiated").await, None);
    after.store().execute_batch("DROP TRIGGER full").unwrap();
    found("it is told all the same", || has(&first, "recovery_complete")).await;
    assert_eq!(has(&first, "recovery_initiated").await, Some(()));
    after.is_whole().await;
}

#[tokio::test]
async fn a_cycle_is_answered_with_what_its_latest_record_says_was_decided() {
    let house = house_with(1, |config| config.limits.held_per_agent = 1).await;
    let anna = approver(&house, "anna");
    let a = house.declared_as(json!({"intent_id": "a"})).await;
    let b = house.declared_as(json!({"intent_id": "b"})).await;
    let same = |intent: &str, number| merged(pay("acct-1", number), json!({"intent_id": intent}));
    let (first, _) = house.cycle(&a, "first", &same("a", 2)).await.unwrap();
    assert_eq!(first.kind(), "executed", "{}", first.body);
    let (held, _) = house.cycle(&a, "held", &same("a", 3)).await.unwrap();
    assert_eq!(house.told(&a, "held", &same("a", 3)).await, ["ESCALATE", "held"]);
    // The judge would have people asked, and admission has it that no more wait.
    assert_eq!(house.told(&b, "too-many", &same("b", 2)).await, ["DENY", "blocked"]);
    house.gateway().reject(&anna, held.id(), None).await.unwrap();
    assert_eq!(house.told(&a, "held", &same("a", 3)).await, ["DENY", "blocked"]);
    let (held, _) = house.cycle(&a, "called-off", &same("a", 4)).await.unwrap();
    house.gateway().cancel(&house.agent, held.id()).await.unwrap();
    assert_eq!(house.told(&a, "called-off", &same("a", 4)).await, ["DENY", "failed"]);
    house.is_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_revocation_nothing_of_the_session_is_admitted() {
    let house = Arc::new(House::new().await);
    let session = house.declared("CHAIN").await;
    let mut cycles = Vec::new();
    for n in 0..200 {
        let (house, session) = (Arc::clone(&house), session.clone());
        cycles.push(tokio::spawn(async move {
            let body = plain(&session, &format!("acct-{n}"));
            match house.send(&format!("race-{n}"), &body).await {
                Ok(said) => said.kind().to_owned(),
                Err(error) => error.code.as_str().to_owned(),
            }
        }));
        if n == 100 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    let end = house.close(&house.operator, &session.session_id, Completion::Revoked).await.unwrap();
    for cycle in cycles {
        let kind = cycle.await.unwrap();
        assert!(["executed", "blocked", "EP_UNAVAILABLE"].contains(&&*kind), "{kind}");
    }
    let records = house.records(&session.session_id).await;
    let at = |event: &str| records.iter().position(|it| it.event == event).unwrap();
    let stopped = at("session_revocation_initiated");
    assert!(records[stopped..].iter().all(|it| it.event != "admitted"), "nothing is admitted after it");
    let admitted = records.iter().filter(|it| it.event == "admitted").count();
    let executed = records.iter().filter(|it| it.event == "executed").count();
    assert_eq!(admitted, executed, "what was admitted before is settled");
    assert!(end.session_sequence_number > stopped as u64);
    let late = house.said("late", &plain(&session, "late")).await;
    assert_eq!((late.kind(), late.code()), ("blocked", "EP_SESSION_REVOKED"), "{}", late.body);
    for (seq, record) in (0..).zip(house.records(&session.session_id).await) {
        assert_eq!(record.session_sequence_number, seq);
    }
    house.is_whole().await;
}

#[tokio::test]
async fn a_budget_is_one_over_all_sessions_of_its_mandate() {
    let mut house = House::new().await;
    let envelope = ResourceEnvelope {
        max_compute_units: Some(6),
        max_duration_seconds: Some(100_000),
        ..ResourceEnvelope::default()
    };
    with_units(&mut house, envelope).await;
    let (a, b) = (
        house.declared_as(json!({"intent_id": "a"})).await,
        house.declared_as(json!({"intent_id": "b"})).await,
    );
    let units = |intent: &str, n: u64| json!({ "intent_id": intent, "resources": { "compute_units": n } });
    let proceed = told("PROCEED", "executed", "none");
    assert_eq!(house.comes_to(&a, 2, units("a", 2)).await, proceed);
    assert_eq!(house.comes_to(&b, 2, units("b", 2)).await, proceed);
    let left = house.gateway().context(&house.agent, &a.session_id).await.unwrap();
    assert_eq!(left.resource_envelope.max_compute_units, Some(2));
    assert!(left.time_budget_remaining <= 100_000 - 2, "each took a second at least");
    // More than is left is not begun.
    let over = house.comes_to(&a, 3, units("a", 3)).await;
    assert_eq!((&*over.1, &*over.2), ("blocked", "EP_BUDGET_EXHAUSTED"));
    let house = house.restart().await;
    assert_eq!(house.comes_to(&b, 3, units("b", 2)).await, proceed);
    // Nothing is left: the first asks, the others are told.
    assert_eq!(house.comes_to(&a, 4, units("a", 0)).await, told("SUSPEND", "held", "none"));
    let blocked = told("SUSPEND", "blocked", "EP_BUDGET_EXHAUSTED");
    assert_eq!(house.comes_to(&b, 4, units("b", 0)).await, blocked);
    let same = house.comes_to(&a, 5, units("a", 0)).await;
    assert_eq!((&*same.1, &*same.2), ("blocked", "EP_BUDGET_EXHAUSTED"));
    let fresh = house.opened().await;
    house.declare(&fresh.session_id, &intent(&fresh, "c", 1)).await.unwrap();
    assert_eq!(house.comes_to(&fresh, 2, json!({ "intent_id": "c" })).await, blocked);
    let held = house.records(&a.session_id).await;
    let held = held.iter().find(|it| it.event == "held").unwrap();
    assert_eq!(held.governance_decision, Some("SUSPEND"));
    house.is_whole().await;
}

#[tokio::test]
async fn what_a_cycle_takes_is_taken_of_every_mandate_above() {
    let house = House::new().await;
    let child = DelegateAsk {
        subject: house.agent.subject.to_string(),
        even_if_unknown: true,
        resource_envelope: Some(ResourceEnvelope {
            max_duration_seconds: Some(600),
            ..ResourceEnvelope::default()
        }),
        ..DelegateAsk::default()
    };
    let root = house.opened().await.mandate_id;
    let issued = house.gateway().delegate(&house.agent, &root, child).await.unwrap();
    let session = house.gateway().open_session(&house.agent, Some(&issued.token)).await.unwrap();
    let declared = with(intent(&session, "i-1", 1), "reasoning_mode", json!("DELEGATED"));
    house.declare(&session.session_id, &declared).await.unwrap();
    let (said, view) = house.cycle(&session, "k", &pay("acct-1", 2)).await.unwrap();
    assert_eq!((said.kind(), view.governance_result), ("executed", "PROCEED"), "{}", said.body);
    assert_eq!(view.delegation_context["delegation_chain"], json!([root]));
    let used: i64 = house
        .store()
        .query_row("SELECT count(*) FROM account WHERE seconds > 0", [], |row| row.get(0))
        .unwrap();
    assert_eq!(used, 2);
    house.is_whole().await;
}

#[tokio::test]
async fn what_takes_longer_than_there_is_time_is_a_breach_on_record() {
    let mut house = House::new().await;
    with_units(&mut house, ResourceEnvelope { max_duration_seconds: Some(1), ..ResourceEnvelope::default() })
        .await;
    let session = house.declared("CHAIN").await;
    let (said, _) = house.cycle(&session, "k", &pay("sandbox:delay-1200", 2)).await.unwrap();
    assert_eq!(said.kind(), "executed", "{}", said.body);
    let records = house.records(&session.session_id).await;
    let breach = records.last().unwrap();
    assert_eq!(breach.event, "budget_breached");
    assert_eq!(breach.causal_parent_id.as_ref(), Some(&records[3].record_id), "what it came to");
    let left = house.gateway().context(&house.agent, &session.session_id).await.unwrap();
    assert_eq!(left.time_budget_remaining, 0);
    let (held, view) = house.cycle(&session, "l", &pay("acct-2", 3)).await.unwrap();
    assert_eq!(
        (held.kind(), held.reasons(), view.governance_result),
        ("held", vec!["budget_exhausted"], "SUSPEND")
    );
    house.is_whole().await;
}

/// A session whose mandate had one second, and the cycle of it that waits for more.
async fn out_of_time(house: &mut House, round: u32) -> (SessionView, Said) {
    with_units(house, ResourceEnvelope { max_duration_seconds: Some(1), ..ResourceEnvelope::default() })
        .await;
    let session = house.declared("CHAIN").await;
    let first = house.cycle(&session, &format!("a-{round}"), &pay(&format!("a-{round}"), 2)).await.unwrap().0;
    assert_eq!(first.kind(), "executed", "{}", first.body);
    let waits = house.cycle(&session, &format!("b-{round}"), &pay(&format!("b-{round}"), 3)).await.unwrap().0;
    assert_eq!((waits.kind(), waits.reasons()), ("held", vec!["budget_exhausted"]));
    (session, waits)
}

fn more(seconds: u64) -> ExtendAsk {
    ExtendAsk { seconds, reason: None }
}

async fn granted(house: &House, jti: &str) -> i64 {
    house.gateway().mandate(&house.operator, jti).await.unwrap().mandate.granted_seconds
}

#[tokio::test]
async fn whoever_lives_on_the_time_of_a_mandate_does_not_extend_it() {
    let mut house = House::new().await;
    let (session, _) = out_of_time(&mut house, 0).await;
    let (kid, jti) = (other_agent(&house), &session.mandate_id);
    let ask =
        DelegateAsk { subject: kid.subject.to_string(), even_if_unknown: true, ..DelegateAsk::default() };
    let token = house.gateway().delegate(&house.agent, jti, ask).await.unwrap().token;
    let as_operator = Caller { role: Role::Operator, ..kid.clone() };
    let refused = async || {
        let refused = house.gateway().extend_mandate(&as_operator, jti, more(5)).await.unwrap_err();
        assert_eq!((refused.code, granted(&house, jti).await), (Code::Forbidden, 0));
    };
    refused().await;
    let own = house.gateway().open_session(&kid, Some(&token)).await.unwrap();
    refused().await;
    // Whoever closes their session opens another one.
    house.close(&kid, &own.session_id, Completion::Complete).await.unwrap();
    refused().await;
    // Whose mandate is no more lives on nobody's time.
    let gateway = house.gateway();
    gateway.revoke_mandate(&house.operator, &own.mandate_id, Some("over".to_owned())).await.unwrap();
    gateway.extend_mandate(&as_operator, jti, more(5)).await.unwrap();
    assert_eq!(granted(&house, jti).await, 5);
    house.is_whole().await;
}

/// Otherwise every agent could keep its principal from giving more to others.
#[tokio::test]
async fn nothing_is_handed_to_whoever_gave_the_mandate_and_they_go_on_giving_more() {
    let mut house = House::new().await;
    let (session, _) = out_of_time(&mut house, 0).await;
    let (gateway, jti) = (house.gateway(), &session.mandate_id);
    let giver = house.operator.subject.to_string();
    let ask = DelegateAsk { subject: giver, even_if_unknown: true, ..DelegateAsk::default() };
    let refused = gateway.delegate(&house.agent, jti, ask).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::StateConflict, Some("/subject")));
    gateway.extend_mandate(&house.operator, jti, more(5)).await.unwrap();
    assert_eq!(granted(&house, jti).await, 5);
    house.is_whole().await;
}

#[tokio::test]
async fn whoever_gave_the_mandate_gives_it_more_time_and_decides_nothing_else_of_it() {
    let mut house = House::new().await;
    let (session, waits) = out_of_time(&mut house, 0).await;
    let gateway = house.gateway();
    let issuer = Caller { role: Role::Approver, ..house.operator.clone() };
    let ask = RulingAsk::ExtendBudget { seconds: 5, comment: None };
    let refused = gateway.rule(&issuer, waits.id(), ask).await.map(drop).unwrap_err();
    assert_eq!((refused.code, granted(&house, &session.mandate_id).await), (Code::Forbidden, 0));
    let more = gateway.extend_mandate(&house.operator, &session.mandate_id, more(5)).await.unwrap();
    assert_eq!(more.resumed.iter().map(ToString::to_string).collect::<Vec<_>>(), [waits.id()]);
    let view = house.executed(&session, "b-0", &pay("b-0", 3)).await;
    assert_eq!(view.governance_result, "PROCEED");
    house.is_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_on_what_waits_gives_time_once_however_often_it_is_sent() {
    let mut house = house_with(1, |_| {}).await;
    for round in 0..8 {
        let (session, waits) = out_of_time(&mut house, round).await;
        let people =
            ["anna", "anna", "anna", "bob", "bob", "cleo", "dora", "emil"].map(|it| approver(&house, it));
        let give = |person| {
            let ask = RulingAsk::ExtendBudget { seconds: 10, comment: None };
            house.gateway().rule(person, waits.id(), ask)
        };
        let all = futures_util::future::join_all(people.iter().map(give)).await;
        assert_eq!(all.iter().filter(|it| it.is_ok()).count(), 1, "round {round}");
        assert_eq!(granted(&house, &session.mandate_id).await, 10, "round {round}");
        let refused = all.into_iter().filter_map(Result::err).map(|error| error.code);
        assert!(refused.into_iter().all(|code| code == Code::StateConflict));
    }
    house.is_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_denied_gives_no_time_however_close_the_two_decisions() {
    let mut house = house_with(1, |_| {}).await;
    for round in 0..16 {
        let (session, waits) = out_of_time(&mut house, round).await;
        let (anna, bob) = (approver(&house, "anna"), approver(&house, "bob"));
        let more = RulingAsk::ExtendBudget { seconds: 10, comment: None };
        let (denied, more) = tokio::join!(
            house.gateway().rule(&anna, waits.id(), RulingAsk::Deny { comment: None }),
            house.gateway().rule(&bob, waits.id(), more),
        );
        let expected = if more.is_ok() { 10 } else { 0 };
        assert_eq!(granted(&house, &session.mandate_id).await, expected, "round {round}");
        assert!(denied.is_ok() != more.is_ok(), "one of the two, round {round}: {denied:?} {more:?}");
    }
    house.is_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_extension_is_judged_by_what_the_one_before_granted() {
    let mut house = House::new().await;
    let once = "@id(\"once\") permit (principal, action == Action::\"ExtendBudget\", resource)
        when { context.granted_seconds == 0 };";
    house.write("policies/default/payments.cedar", &format!("{POLICY}{once}"));
    house.gateway().reload(&house.admin).await.unwrap();
    for round in 0..8 {
        with_units(
            &mut house,
            ResourceEnvelope { max_duration_seconds: Some(50), ..ResourceEnvelope::default() },
        )
        .await;
        let jti = house.opened().await.mandate_id;
        let extend = |_| house.gateway().extend_mandate(&house.operator, &jti, more(12));
        let all = futures_util::future::join_all((0..8).map(extend)).await;
        assert_eq!(all.iter().filter(|it| it.is_ok()).count(), 1, "round {round}");
        assert_eq!(granted(&house, &jti).await, 12, "round {round}");
        let refused = all.into_iter().filter_map(Result::err).map(|error| error.code);
        assert!(refused.into_iter().all(|code| code == Code::Forbidden));
    }
    house.is_whole().await;
}

/// A bank that says of each payment that it used up so much, and a mandate for so much.
async fn metered(used: Value, envelope: ResourceEnvelope) -> (House, Bank) {
    let bank = Bank::start(Options { used: Some(used), ..Options::default() }).await.unwrap();
    let text = banked::binding(&bank, "bank", &banked::RIGHT);
    let mut house = House::bound(&text, |config| banked::reaching(config, &[&bank])).await;
    with_units(&mut house, envelope).await;
    (house, bank)
}

#[tokio::test]
async fn what_a_provider_says_was_used_up_is_charged_where_it_is_more() {
    let all = ResourceEnvelope {
        max_compute_units: Some(100),
        max_network_egress_bytes: Some(1000),
        ..ResourceEnvelope::default()
    };
    let (house, bank) = metered(
        json!({ "compute_units": 30, "network_egress_bytes": 5, "storage_bytes": "few", "others": 1 }),
        all,
    )
    .await;
    let session = house.declared("CHAIN").await;
    let left = async || house.gateway().context(&house.agent, &session.session_id).await.unwrap();
    let meant = json!({ "resources": { "compute_units": 4, "network_egress_bytes": 50 } });
    assert_eq!(house.comes_to(&session, 2, meant).await.1, "executed");
    let now = left().await.resource_envelope;
    assert_eq!((now.max_compute_units, now.max_network_egress_bytes), (Some(70), Some(950)));
    // Nothing was declared: what it says is all that is known.
    assert_eq!(house.comes_to(&session, 3, json!({})).await.1, "executed");
    let now = left().await.resource_envelope;
    assert_eq!((now.max_compute_units, now.max_network_egress_bytes), (Some(40), Some(945)));
    assert_eq!((bank.effects().count, house.events(&session).await.len()), (2, 6), "nothing is broken yet");
    assert_eq!(
        house.comes_to(&session, 4, json!({ "resources": { "compute_units": 20 } })).await.1,
        "executed"
    );
    assert_eq!(
        house.comes_to(&session, 5, json!({ "resources": { "compute_units": 10 } })).await.1,
        "executed"
    );
    let records = house.records(&session.session_id).await;
    let events: Vec<&str> = records[8..].iter().map(|it| &*it.event).collect();
    assert_eq!(events, ["admitted", "executed", "budget_breached"]);
    assert_eq!(left().await.resource_envelope.max_compute_units, Some(0));
    // Of each report two members say nothing, and that is counted.
    let metrics = house.gateway().metrics().unwrap();
    assert!(metrics.contains("countersign_usage_unread_total{environment=\"production\"} 4\n"), "{metrics}");
    house.is_whole().await;
}

/// Its answer is lost, and the bank lists it among others when it is asked.
#[tokio::test]
async fn what_was_used_up_is_charged_too_where_the_answer_to_a_question_tells_of_it() {
    let all = ResourceEnvelope { max_compute_units: Some(100), ..ResourceEnvelope::default() };
    let (mut house, bank) = metered(json!({ "compute_units": 30 }), all).await;
    let session = house.declared("CHAIN").await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    house.comes_to(&session, 2, json!({ "resources": { "compute_units": 4 } })).await;
    house.installation.start();
    found("its effect", || async {
        house.events(&session).await.last().is_some_and(|last| last == "executed").then_some(())
    })
    .await;
    let now = house.gateway().context(&house.agent, &session.session_id).await.unwrap();
    assert_eq!((now.resource_envelope.max_compute_units, bank.effects().count), (Some(70), 1));
    house.is_whole().await;
}

#[tokio::test]
async fn a_late_effect_of_a_cycle_is_a_record_of_its_session_and_takes_nothing_of_its_time() {
    for (fault, state, events, halt) in [
        (None, "COMPLETED", &["executed", "duplicate_effect", "overage"][..], "CLEAN"),
        (Some(Fault::LostBeforeEffect), "EXECUTING", &["in_doubt", "late_effect"][..], "UNKNOWN"),
    ] {
        let (house, bank) = house_that_is_told(NO_RETRY, same, |_| {}).await;
        let session = house.declared("CHAIN").await;
        bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
        let body =
            with(pay("acct-1", 2), "constraints", house.payment("acct-1", "25.00")["constraints"].clone());
        let (said, _) = house.cycle(&session, "k", &body).await.unwrap();
        assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
        resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
        fault.into_iter().for_each(|fault| bank.inject(Injection::payments(fault, 1)));
        house.gateway().retry(&house.agent, said.id()).await.unwrap();
        let seconds = || -> i64 {
            house.store().query_row("SELECT max(seconds) FROM account", [], |row| row.get(0)).unwrap()
        };
        let before = seconds();
        let record = settled(&house, said.id(), 1).await;
        assert_eq!((record.state.as_str(), seconds()), (state, before));
        let began = ["session_opened", "intent_declared", "admitted", "in_doubt", "resolved", "sent_again"];
        assert_eq!(house.events(&session).await, [&began, events].concat());
        let end = house.close(&house.operator, &session.session_id, Completion::Revoked).await.unwrap();
        assert_eq!(end.completion_state.as_deref(), Some(halt));
        house.is_whole().await;
    }
}

/// What two effects of one cycle used up is charged twice, what one did once, however often it is told.
#[tokio::test]
async fn an_effect_beside_another_takes_what_it_used_up_once_and_no_time() {
    let all = ResourceEnvelope {
        max_compute_units: Some(70),
        max_duration_seconds: Some(1000),
        max_memory_bytes: Some(9),
        ..ResourceEnvelope::default()
    };
    let used = |units: u64| json!({"compute_units": units, "memory_bytes": 5});
    // What comes of the second attempt before the first is known to have had its effect, and after.
    for (before, after, expected, events) in [
        (None, None, 4 + 30 + 20, &["executed", "duplicate_effect", "overage"][..]),
        (
            Some(Fault::LostBeforeEffect),
            Some(Decision::Failed),
            4 + 20,
            &["in_doubt", "late_effect", "resolved"],
        ),
        (
            Some(Fault::LostAfterEffect),
            Some(Decision::Executed),
            4 + 4 + 20,
            &["in_doubt", "late_effect", "resolved", "overage"],
        ),
    ] {
        let options = Options { used: Some(used(30)), ..Options::default() };
        let (mut house, bank) = house_of(options, NO_RETRY, same, |_| {}).await;
        with_units(&mut house, all).await;
        let session = house.declared("CHAIN").await;
        bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
        let paid = house.payment("acct-1", "25.00")["constraints"].clone();
        let mut body = with(pay("acct-1", 2), "constraints", paid);
        body["resources"] = json!({"compute_units": 4});
        let (said, _) = house.cycle(&session, "k", &body).await.unwrap();
        assert_eq!(said.kind(), "pending_settlement", "{}", said.body);
        resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
        before.clone().into_iter().for_each(|fault| bank.inject(Injection::payments(fault, 1)));
        house.gateway().retry(&house.agent, said.id()).await.unwrap();
        let taken = || -> (i64, i64) {
            let sql = "SELECT max(compute), max(seconds) FROM account";
            house.store().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
        };
        let (_, seconds) = taken();
        let mut word: Value = serde_json::from_str(&word_about(
            &house.reference(said.id(), "1").await,
            "payment.settled",
            "25.00",
        ))
        .unwrap();
        word["resources_used"] = used(20);
        for _ in 0..3 {
            call_back(&house, SECRET, &word.to_string()).await.unwrap();
        }
        if let Some(decision) = after {
            resolve(&house, "anna", said.id(), decision).await.unwrap();
        }
        let (units, now) = taken();
        assert_eq!(units, expected, "{before:?}");
        assert!(now <= seconds + 1, "{before:?}: {now} and not {seconds}");
        let told = house.events(&session).await;
        assert_eq!(&told[6..], events, "{before:?}");
        house.is_whole().await;
    }
}

/// What is there twice breaks what there is of it, on record.
#[tokio::test]
async fn an_effect_beside_another_that_uses_up_more_than_there_is_is_a_breach_on_record() {
    let all = ResourceEnvelope { max_compute_units: Some(40), ..ResourceEnvelope::default() };
    let options = Options { used: Some(json!({"compute_units": 30})), ..Options::default() };
    let (mut house, bank) = house_of(options, NO_RETRY, same, |_| {}).await;
    with_units(&mut house, all).await;
    let session = house.declared("CHAIN").await;
    bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    let paid = house.payment("acct-1", "25.00")["constraints"].clone();
    let (said, _) = house.cycle(&session, "k", &with(pay("acct-1", 2), "constraints", paid)).await.unwrap();
    resolve(&house, "anna", said.id(), Decision::Failed).await.unwrap();
    house.gateway().retry(&house.agent, said.id()).await.unwrap();
    let mut word: Value =
        serde_json::from_str(&word_about(&house.reference(said.id(), "1").await, "payment.settled", "25.00"))
            .unwrap();
    word["resources_used"] = json!({"compute_units": 30});
    call_back(&house, SECRET, &word.to_string()).await.unwrap();
    let told = house.events(&session).await;
    assert_eq!(told[6..], ["executed", "duplicate_effect", "overage", "budget_breached"]);
    let now = house.gateway().context(&house.agent, &session.session_id).await.unwrap();
    assert_eq!(now.resource_envelope.max_compute_units, Some(0));
    house.is_whole().await;
}

/// The same key is the same cycle: nothing of it is done or taken again, whatever it came to.
#[tokio::test]
async fn a_cycle_that_is_sent_again_under_its_key_takes_nothing_more() {
    let all = ResourceEnvelope { max_compute_units: Some(100), ..ResourceEnvelope::default() };
    let (house, bank) = metered(json!({"compute_units": 30}), all).await;
    let session = house.declared("CHAIN").await;
    let taken = || -> (i64, i64, i64) {
        let sql = "SELECT max(compute), max(seconds), max(actions) FROM account";
        house.store().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
    };
    let (first, _) = house.cycle(&session, "k", &pay("acct-1", 2)).await.unwrap();
    let (before, told) = (taken(), house.events(&session).await);
    assert!(before.0 == 30 && before.1 >= 1 && before.2 == 1, "{before:?}");
    let body = pay("acct-1", 2);
    let again = futures_util::future::join_all((0..8).map(|_| house.cycle(&session, "k", &body))).await;
    assert!(again.into_iter().all(|it| it.unwrap().0.bytes == first.bytes));
    assert_eq!((taken(), house.events(&session).await, bank.effects().count), (before, told, 1));
    house.is_whole().await;
}

#[tokio::test]
async fn who_acts_against_the_declared_mode_is_an_anomaly_on_record_and_counted() {
    let house = House::new().await;
    let session = house.declared("DIRECT").await;
    assert_eq!(house.comes_to(&session, 2, json!({})).await, told("PROCEED", "executed", "none"));
    assert!(
        !house.gateway().metrics().unwrap().contains("governance_anomaly"),
        "one step is what DIRECT says"
    );
    let (second, view) = house.cycle(&session, "second", &pay("acct-2", 3)).await.unwrap();
    assert_eq!(second.kind(), "executed", "it stops nothing: {}", second.body);
    let records = house.records(&session.session_id).await;
    let odd: Vec<_> = records.iter().filter(|it| it.event == "governance_anomaly").collect();
    let [odd] = odd.as_slice() else { panic!("{records:?}") };
    assert_eq!(odd.ale_type.as_deref(), Some("KERNEL_AUDIT_ANOMALY"));
    let fields = odd.ale_fields.as_ref().unwrap();
    assert_eq!(*fields, json!({"action_id": view.cycle_id, "kind": "MODE_DEVIATION"}));
    assert_eq!(odd.causal_parent_id, view.gar_record_id);
    assert!(
        house.gateway().metrics().unwrap().contains("alert=\"governance_anomaly\""),
        "{}",
        house.gateway().metrics().unwrap()
    );
    house.is_whole().await;
}

/// A record taken out of a session, and one that stands on no declaration, are told when it ends and by the walk along the
/// chain.
#[tokio::test]
async fn a_gap_and_a_cycle_without_a_declaration_are_anomalies_when_the_session_ends() {
    let house = House::new().await;
    let session = house.declared("CHAIN").await;
    assert_eq!(house.comes_to(&session, 2, json!({})).await, told("PROCEED", "executed", "none"));
    let store = house.store();
    let sql = "SELECT e.row, e.bytes FROM entry e JOIN record r ON r.entry = e.row WHERE r.seq = 2";
    let (row, bytes): (i64, Vec<u8>) =
        store.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("\"intentId\":\"i-1\"") && text.contains("\"admitted\""), "{text}");
    let bare = text.replace("\"intentId\":\"i-1\"", "\"intentId\":null");
    store
        .execute("UPDATE entry SET bytes = ?2 WHERE row = ?1", rusqlite::params![row, bare.as_bytes()])
        .unwrap();
    store.execute("DELETE FROM record WHERE seq = 1", []).unwrap();
    let end = house.close(&house.operator, &session.session_id, Completion::Partial).await.unwrap();
    assert_eq!(end.completion_state.as_deref(), Some("PARTIAL"));
    let id = &session.session_id;
    let (_, page) = house.gateway().session_records(&house.operator, id, None, 100).await.unwrap();
    let records = page.items;
    let kinds: Vec<_> = records.iter().filter(|it| it.event == "governance_anomaly").collect();
    let kinds: Vec<_> = kinds.iter().map(|it| it.ale_fields.clone().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            json!({"kind": "SEQUENCE_GAP", "session_sequence_number": 2}),
            json!({"kind": "TRANSITION_WITHOUT_INTENT", "session_sequence_number": 2}),
        ]
    );
    assert_eq!(end.session_sequence_number, records.last().unwrap().session_sequence_number);
    let admin = Caller { role: Role::Admin, ..house.operator.clone() };
    let check = house.gateway().check_trail(&admin, None).await.unwrap();
    let counted = |text: String| {
        let line = text.lines().find(|line| line.contains("alert=\"governance_anomaly\"")).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
    };
    // Two by the end of the session, and each that the walk found.
    let of_sessions = |what: &str| what.contains("its session") || what.contains("the stored session");
    let found = check.findings.iter().filter(|found| of_sessions(&found.what)).count() as u64;
    assert!(found > 0, "{:?}", check.findings);
    assert_eq!(counted(house.gateway().metrics().unwrap()), Some(2 + found));
}

#[tokio::test]
async fn extended_reasoning_is_held_against_the_numbers_of_every_session_of_its_mandate() {
    let house = House::new().await;
    let other = house.declared("CHAIN").await;
    assert_eq!(house.comes_to(&other, 7, json!({})).await, told("PROCEED", "executed", "none"));
    let session = house.declared_as(json!({"reasoning_mode": "EXTENDED", "intent_id": "i-x"})).await;
    let own = json!({"intent_id": "i-x"});
    assert_eq!(house.comes_to(&session, 7, own.clone()).await, told("DENY", "blocked", "IDP-E005"));
    assert_eq!(house.comes_to(&session, 8, own).await, told("PROCEED", "executed", "none"));
    // In any other mode a session counts for itself.
    let apart = house.declared_as(json!({"intent_id": "i-y"})).await;
    let own = json!({"intent_id": "i-y"});
    assert_eq!(house.comes_to(&apart, 2, own).await, told("PROCEED", "executed", "none"));
    house.is_whole().await;
}

#[tokio::test]
async fn who_is_denied_too_often_for_the_floor_of_its_mandate_is_asked_about_until_it_is_trusted_again() {
    let mut house = house_with(1, |_| {}).await;
    with_mandate(&mut house, |ask| ask.trust_floor = serde_json::Number::from_f64(0.5)).await;
    let session = house.declared("CHAIN").await;
    let proceed = told("PROCEED", "executed", "none");
    assert_eq!(house.comes_to(&session, 2, json!({})).await, proceed);
    let late = async |key: &str| house.cycle(&session, key, &pay(key, 1)).await.unwrap().0.code().to_owned();
    assert_eq!(late("late-1").await, "IDP-E005");
    assert_eq!(house.comes_to(&session, 3, json!({})).await, proceed, "one of two");
    for key in ["late-2", "late-3"] {
        assert_eq!(late(key).await, "IDP-E005");
    }
    let (held, view) = house.cycle(&session, "two-of-five", &pay("acct-9", 4)).await.unwrap();
    assert_eq!((held.kind(), held.reasons()), ("held", vec!["below_trust_floor"]), "{}", held.body);
    assert_eq!(view.governance_result, "ESCALATE");
    let anna = approver(&house, "anna");
    house.gateway().approve(&anna, held.id(), None).await.unwrap();
    house.executed(&session, "two-of-five", &pay("acct-9", 4)).await;
    assert_eq!(house.comes_to(&session, 5, json!({})).await, proceed, "three of six");
    house.is_whole().await;
}

/// To be denied by a person, or to be asked about in vain, is to be denied.
#[tokio::test]
async fn what_people_deny_and_what_nobody_decides_in_time_counts_against_the_floor_of_trust() {
    for in_vain in [false, true] {
        let mut house = house_with(1, |config| {
            config.limits.held_seconds = if in_vain { 0 } else { config.limits.held_seconds };
            config.limits.recovery_interval_ms = 20;
        })
        .await;
        with_mandate(&mut house, |ask| {
            ask.trust_floor = serde_json::Number::from_f64(0.5);
            ask.uncertainty_floor = serde_json::Number::from_f64(0.5);
        })
        .await;
        if in_vain {
            house.installation.start();
        }
        let session = house.declared("CHAIN").await;
        let sure = json!({"confidence": 0.9});
        assert_eq!(house.comes_to(&session, 2, sure.clone()).await, told("PROCEED", "executed", "none"));
        for number in [3, 4] {
            let body = merged(pay(&format!("unsure-{number}"), number), json!({"confidence": 0.1}));
            let key = format!("unsure-{number}");
            let (held, _) = house.cycle(&session, &key, &body).await.unwrap();
            assert_eq!((held.kind(), held.reasons()), ("held", vec!["uncertainty"]), "{}", held.body);
            if !in_vain {
                let ask = RulingAsk::Deny { comment: None };
                house.gateway().rule(&approver(&house, "anna"), held.id(), ask).await.unwrap();
            }
            found("its end", || async {
                (house.cycle(&session, &key, &body).await.unwrap().0.kind() == "blocked").then_some(())
            })
            .await;
        }
        let view = house.gateway().session(&house.agent, &session.session_id).await.unwrap();
        assert_eq!((view.cycles, view.denials, view.waiting), (1, 2, 0));
        let context = house.gateway().context(&house.agent, &session.session_id).await.unwrap();
        assert_eq!(context.prior_denial_count, 2);
        let (held, _) = house.cycle(&session, "one-of-three", &merged(pay("acct-9", 5), sure)).await.unwrap();
        assert_eq!((held.kind(), held.reasons()), ("held", vec!["below_trust_floor"]), "{}", held.body);
        house.is_whole().await;
    }
}

/// What is captured is what moves, however much more was set aside.
#[tokio::test]
async fn a_capture_of_a_part_is_held_against_the_limits_of_its_session_by_that_part() {
    let bank = banked::bank("USD").await;
    let text = reserving::binding(&bank).swapped("\n[binding]\n", "\napproval = \"key\"\n\n[binding]\n");
    let mut house = House::bound(&text, |config| banked::reaching(config, &[&bank])).await;
    with_mandate(&mut house, |ask| ask.uncertainty_floor = serde_json::Number::from_f64(0.5)).await;
    let session = house.declared("CHAIN").await;
    let aside = json!({"payment_mode": "RESERVE_IF_AVAILABLE", "confidence": 0.9});
    let (reserved, _) = house.cycle(&session, "a", &merged(pay("acct-1", 2), aside)).await.unwrap();
    assert_eq!((reserved.kind(), bank.reserved()), ("held", 500), "{}", reserved.body);
    let two = json!({"recipient": "acct-2", "amount_usd": "2.00", "max_total_usd": "900.00"});
    let small = merged(pay("acct-2", 3), json!({"confidence": 0.1, "constraints": two}));
    let (asked, _) = house.cycle(&session, "b", &small).await.unwrap();
    let limits = LimitsAsk {
        max_amount: Some("3.00".to_owned()),
        not_after: None,
        applies_to: Some("SESSION".to_owned()),
    };
    let within = RulingAsk::Approve { comment: None, limits: Some(limits) };
    house.gateway().rule(&approver(&house, "anna"), asked.id(), within).await.unwrap();
    house.executed(&session, "b", &small).await;
    let capture = |amount| house.gateway().capture(&house.agent, reserved.id(), amount);
    for beyond in [None, Some("3.01")] {
        assert_eq!(capture(beyond).await.unwrap_err().code, Code::StateConflict, "{beyond:?}");
    }
    assert_eq!((bank.reserved(), bank.balance("acct-1")), (500, None));
    assert_eq!(capture(Some("3.00")).await.unwrap().state, "COMPLETED");
    assert_eq!((bank.reserved(), bank.balance("acct-1"), house.spent()), (0, Some(300), 500));
    house.is_whole().await;
}

#[tokio::test]
async fn who_leaves_out_the_session_leaves_out_no_limit() {
    let mut house = House::new().await;
    let envelope = ResourceEnvelope { max_duration_seconds: Some(60), ..ResourceEnvelope::default() };
    with_units(&mut house, envelope).await;
    let session = house.declared("CHAIN").await;
    let mut alone = plain(&session, "acct-1");
    alone.as_object_mut().unwrap().remove("session_id");
    alone["delegation_token"] = house.token.as_str().into();
    let said = house.said("alone", &alone).await;
    assert_eq!((said.kind(), said.code()), ("blocked", "EP_DELEGATION_BLOCK"), "{}", said.body);
    assert_eq!(said.reasons(), ["session_required", "resource_envelope"]);
    // Nor does a name that is none of its sessions.
    alone["session_id"] = "ses_00000000000000000000000000000000".into();
    assert_eq!(house.said("label", &alone).await.reasons(), ["session_required", "resource_envelope"]);
    assert_eq!(house.spent(), 0);
    alone["session_id"] = session.session_id.as_str().into();
    assert_eq!(house.said("within", &alone).await.kind(), "executed");

    with_mandate(&mut house, |ask| ask.uncertainty_floor = serde_json::Number::from_f64(0.5)).await;
    let unsure = house.said("unsure", &house.payment("acct-2", "5.00")).await;
    assert_eq!((unsure.kind(), unsure.reasons()), ("held", vec!["uncertainty"]), "{}", unsure.body);
}

/// Policies that keep something back keep it however many ask at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policies_say_of_what_is_left_holds_at_admission() {
    const KEEPS: &str = r#"
@id("keeps")
forbid (principal, action in Action::"Payments", resource)
when { context has cycle && context.cycle.time_budget_remaining < 99 };
@id("keeps-money")
forbid (principal, action in Action::"Payments", resource)
when { !(context has cycle) && context has mandate.actions_left && context.mandate.actions_left < 2 };
"#;
    let house = House::new().await;
    house.write("policies/default/payments.cedar", &format!("{POLICY}{KEEPS}"));
    let mut house = house.restart().await;
    for round in 0..6 {
        with_mandate(&mut house, |ask| ask.max_actions = Some(3)).await;
        let counted = house.token.clone();
        let timed = ResourceEnvelope { max_duration_seconds: Some(100), ..ResourceEnvelope::default() };
        with_units(&mut house, timed).await;
        let mut bodies = Vec::new();
        for n in 0..6 {
            let session = house.declared_as(json!({ "intent_id": format!("i-{round}-{n}") })).await;
            bodies.push(plain(&session, &format!("acct-{round}-{n}")));
            let mut alone = house.payment(&format!("alone-{round}-{n}"), "5.00");
            alone["delegation_token"] = counted.as_str().into();
            bodies.push(alone);
        }
        let sends = bodies.iter().enumerate().map(|(n, body)| {
            let (house, key) = (&house, format!("k-{round}-{n}"));
            async move { house.said(&key, body).await.kind().to_owned() }
        });
        let kinds = futures_util::future::join_all(sends).await;
        let executed = |rest| kinds.iter().skip(rest).step_by(2).filter(|kind| *kind == "executed").count();
        // 100 and 99 seconds are enough, and three and two actions are.
        assert!((1..=2).contains(&executed(0)), "{kinds:?}");
        assert_eq!(executed(1), 2, "{kinds:?}");
    }
}

#[tokio::test]
async fn a_session_that_is_stopped_says_so_and_why() {
    let house = House::new().await;
    let session = house.declared("CHAIN").await;
    house.close(&house.operator, &session.session_id, Completion::Revoked).await.unwrap();
    // As where the process died after it was stopped, and before its end, which is its last record.
    let store = house.store();
    let last = "DELETE FROM record WHERE (session, seq) = (SELECT key, next - 1 FROM session WHERE id = ?1)";
    assert_eq!(store.execute(last, [&session.session_id]).unwrap(), 1);
    let sql = "UPDATE session SET closed = NULL, halt = NULL, next = next - 1 WHERE id = ?1 AND suspended";
    assert_eq!(store.execute(sql, [&session.session_id]).unwrap(), 1);
    let house = house.restart().await;
    let said = house.said("k", &plain(&session, "acct-1")).await;
    assert_eq!((said.kind(), said.code()), ("blocked", "EP_SESSION_REVOKED"), "{}", said.body);
    assert_eq!(said.reasons(), ["session_suspended", "R-1"]);
    assert_eq!(house.said("l", &plain(&session, "acct-1")).await.reasons(), ["session_revoked"]);
}

#[tokio::test]
async fn nothing_begins_in_a_revoked_session_that_was_opened_anew_in_the_store() {
    let house = House::new().await;
    let (ended, other) = (house.declared("CHAIN").await, house.opened().await);
    house.close(&house.operator, &ended.session_id, Completion::Revoked).await.unwrap();
    house.is_whole().await;
    let sql = "UPDATE session SET closed = NULL, suspended = 0, halt = NULL WHERE id = ?1";
    assert_eq!(house.store().execute(sql, [&ended.session_id]).unwrap(), 1);
    let house = house.restart().await;
    let cycle = plain(&ended, "acct-1");
    assert_eq!(house.send("k", &cycle).await.unwrap_err().code, Code::Unavailable);
    let late = house.declare(&ended.session_id, &intent(&ended, "i-9", 9)).await.unwrap_err();
    assert_eq!(late.code, Code::Unavailable);
    let listed = house.gateway().sessions(&house.agent, None, 10).await.unwrap().items;
    assert_eq!(listed.iter().map(|it| &it.session_id).collect::<Vec<_>>(), [&other.session_id]);
    let check = house.gateway().check_trail(&house.admin, None).await.unwrap();
    let what: Vec<&str> = check.findings.iter().map(|it| &*it.what).collect();
    assert_eq!(what, ["the stored session is not as its records have it"]);
}
