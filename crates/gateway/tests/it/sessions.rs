//! Governed sessions: opened, declared in, ended, and what their records say.

use std::collections::HashSet;
use std::sync::Arc;

use countersign_gateway::{
    AuditAsk, Caller, CloseAsk, Code, Completion, DeclarationView, Error, GarAsk, GarView, Role, SessionView,
};
use serde_json::{Value, json};

use crate::house::House;

impl House {
    pub(crate) async fn opened(&self) -> SessionView {
        self.gateway().open_session(&self.agent, Some(&self.token)).await.unwrap()
    }

    pub(crate) async fn declare(&self, session: &str, body: &Value) -> Result<DeclarationView, Error> {
        self.gateway().declare(&self.agent, session, body).await
    }

    pub(crate) async fn records(&self, session: &str) -> Vec<GarView> {
        let (view, page) = self.gateway().session_records(&self.agent, session, None, 1000).await.unwrap();
        assert_eq!((view.records, page.next), (page.items.len() as u64, None));
        page.items
    }

    pub(crate) async fn close(
        &self,
        caller: &Caller,
        session: &str,
        completion: Completion,
    ) -> Result<GarView, Error> {
        let ask = CloseAsk { completion, reason: None };
        self.gateway().close_session(caller, session, ask).await.map(|closed| closed.record)
    }

    /// The chain, the rows and each signature, as `countersign audit verify` sees them.
    pub(crate) async fn is_whole(&self) {
        let check = self.gateway().check_trail(&self.admin, None).await.unwrap();
        assert_eq!(check.findings, [], "{check:?}");
        assert_eq!(check.next, None);
    }
}

pub(crate) fn intent(session: &SessionView, id: &str, number: u64) -> Value {
    json!({
        "intent_id": id, "session_id": session.session_id, "mandate_id": session.mandate_id,
        "gec_instance_id": session.gec_instance_id, "goal_type": "reconcile", "goal_scope": ["Payments"],
        "reasoning_mode": "CHAIN", "action_sequence_number": number, "expires_at": "2100-01-01T00:00:00Z",
    })
}

pub(crate) fn with(mut body: Value, member: &str, value: Value) -> Value {
    body[member] = value;
    body
}

pub(crate) fn other_agent(house: &House) -> Caller {
    Caller { subject: action::Subject::parse("agent-8").unwrap(), ..house.agent.clone() }
}

#[tokio::test]
async fn a_session_is_opened_by_whom_a_mandate_in_force_is_for() {
    let house = House::new().await;
    let gateway = house.gateway();
    let refused = |caller: Caller, token: Option<String>| async move {
        gateway.open_session(&caller, token.as_deref()).await.unwrap_err()
    };
    let token = Some(house.token.clone());
    assert_eq!(refused(house.operator.clone(), token.clone()).await.code, Code::Forbidden, "not for others");
    assert!(refused(other_agent(&house), token.clone()).await.message.contains("another agent"));
    assert!(refused(house.agent.clone(), None).await.message.contains("needs a mandate"));
    let end = now_s() + 3;
    let short = house.mandate_until("1.00", end).await;
    while now_s() < end {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(refused(house.agent.clone(), Some(short)).await.message.contains("expired"));

    let opened = house.opened().await;
    assert_eq!((opened.state, opened.records, opened.sequence), ("ACTIVE", 1, 0));
    assert_eq!(gateway.session(&house.agent, &opened.session_id).await.unwrap().record_id, opened.record_id);
    gateway.revoke_mandate(&house.operator, &opened.mandate_id, None).await.unwrap();
    assert!(refused(house.agent.clone(), token).await.message.contains("revoked"));
    let page = gateway.sessions(&house.agent, None, 10).await.unwrap();
    assert_eq!(page.items.len(), 1, "what was refused left nothing");
    house.is_whole().await;
}

/// Whoever revokes is told of every session below: one that opens meanwhile is refused, or is in the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_opens_amid_a_revocation_is_refused_or_told_of() {
    let house = Arc::new(House::new().await);
    for round in 0..24 {
        let token = house.mandate("1.00").await;
        let jti = house.gateway().open_session(&house.agent, Some(&token)).await.unwrap().mandate_id;
        let opens = || {
            let (house, token) = (Arc::clone(&house), token.clone());
            tokio::spawn(async move {
                let mut opened = Vec::new();
                loop {
                    match house.gateway().open_session(&house.agent, Some(&token)).await {
                        Ok(session) => opened.push(session.session_id),
                        Err(error) if error.code == Code::RateLimited => tokio::task::yield_now().await,
                        Err(error) => {
                            assert_eq!(error.code, Code::Forbidden, "{error:?}");
                            break opened;
                        }
                    }
                }
            })
        };
        let openers: Vec<_> = (0..4).map(|_| opens()).collect();
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        let revoked = house.gateway().revoke_mandate(&house.operator, &jti, None).await.unwrap();
        let told: HashSet<_> = revoked.sessions.into_iter().map(|it| it.session_id).collect();
        for opener in openers {
            for session in opener.await.unwrap() {
                assert!(told.contains(&session), "round {round}: {session} is not in the answer");
            }
        }
    }
    house.is_whole().await;
}

fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[tokio::test]
async fn a_default_mandate_opens_a_session_and_is_whole_in_it() {
    let house = House::new().await;
    let jti = house.opened().await.mandate_id;
    let caller = Caller { default_mandate: Some(jti.clone()), ..house.agent.clone() };
    let opened = house.gateway().open_session(&caller, None).await.unwrap();
    let context = house.gateway().context(&caller, &opened.session_id).await.unwrap();
    assert_eq!((opened.mandate_id, context.delegation_context.root_principal), (jti, "olga".to_owned()));
    assert!(context.time_budget_remaining > 0);
}

#[tokio::test]
async fn a_declaration_is_committed_signed_and_in_force() {
    let house = House::new().await;
    let opened = house.opened().await;
    let id = &opened.session_id;
    let before = house.gateway().context(&house.agent, id).await.unwrap();
    assert_eq!((before.intent_id, before.reasoning_mode, before.cycle_id), (None, None, None));
    let body = with(intent(&opened, "i-1", 4), "context_fingerprint", json!(before.fingerprint));
    let declared = house.declare(id, &body).await.unwrap();
    let records = house.records(id).await;
    assert_eq!(records.len(), 2);
    assert_eq!(
        (&records[1].record_id, &records[1].kernel_signature),
        (&declared.record_id, &declared.kernel_signature)
    );
    assert_eq!(records[1].causal_parent_id.as_ref(), Some(&opened.record_id));
    assert_eq!(records[1].intent_id.as_deref(), Some("i-1"));
    let after = house.gateway().context(&house.agent, id).await.unwrap();
    assert_eq!(
        (after.intent_id.as_deref(), after.reasoning_mode, after.sequence),
        (Some("i-1"), Some("CHAIN"), 4)
    );
    assert_eq!(after.fingerprint, before.fingerprint, "the situation is the same");
    house.is_whole().await;
}

#[tokio::test]
async fn each_refused_declaration_is_told_by_its_code_and_on_record() {
    let house = House::new().await;
    let (one, two) = (house.opened().await, house.opened().await);
    let id = &one.session_id;
    house.declare(id, &intent(&one, "i-1", 5)).await.unwrap();
    let good = |n| intent(&one, &format!("i-{n}"), n);
    let cases = [
        (with(good(6), "colour", json!("red")), Code::IntentMalformed, "/colour"),
        (with(good(6), "time_budget_remaining", json!(9)), Code::IntentMalformed, "/time_budget_remaining"),
        (with(good(6), "goal_scope", json!(["Payments", "PAY*"])), Code::IntentMalformed, "/goal_scope/1"),
        (with(good(6), "goal_scope", json!([])), Code::IntentMalformed, "/goal_scope"),
        (with(good(6), "goal_scope", json!(["TELEPORT"])), Code::IntentMalformed, "/goal_scope/0"),
        (with(good(6), "reasoning_mode", json!("GUESS")), Code::IntentMalformed, "/reasoning_mode"),
        (with(good(6), "reasoning_mode", json!("CONSTRAINED")), Code::IntentMalformed, "/constrained_by"),
        (with(good(6), "constrained_by", json!("payments")), Code::IntentMalformed, "/constrained_by"),
        (with(good(6), "expires_at", json!("soon")), Code::IntentMalformed, "/expires_at"),
        (with(good(6), "action_sequence_number", json!(0)), Code::IntentMalformed, "/action_sequence_number"),
        (with(good(6), "context_fingerprint", json!("x")), Code::IntentMalformed, "/context_fingerprint"),
        (with(good(6), "intent_id", json!("two words")), Code::IntentMalformed, "/intent_id"),
        (json!([]), Code::IntentMalformed, ""),
        (with(good(6), "expires_at", json!("2020-01-01T00:00:00Z")), Code::IntentExpired, "/expires_at"),
        (with(good(6), "mandate_id", json!("mnd_other")), Code::IntentMandateMismatch, "/mandate_id"),
        (good(4), Code::IntentSequence, "/action_sequence_number"),
        (with(good(5), "intent_id", json!("i-x")), Code::IntentSequence, "/action_sequence_number"),
        (good(5).clone(), Code::IntentSequence, "/action_sequence_number"),
        (with(good(7), "intent_id", json!("i-1")), Code::IntentDuplicate, "/intent_id"),
        (intent(&two, "i-2", 6), Code::IntentSessionMismatch, "/session_id"),
        (
            with(good(6), "gec_instance_id", json!("https://other")),
            Code::IntentWrongInstance,
            "/gec_instance_id",
        ),
    ];
    let codes: Vec<Code> = cases.iter().map(|(_, code, _)| *code).collect();
    for (body, code, field) in cases {
        let error = house.declare(id, &body).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref().unwrap_or_default()), (code, field), "{body}");
    }
    // An id names one declaration in whichever session of the mandate.
    let again = house.declare(&two.session_id, &intent(&two, "i-1", 9)).await.unwrap_err();
    assert_eq!(again.code, Code::IntentDuplicate);
    // A declaration of one session, sent to another as it was.
    let replayed = house.declare(&two.session_id, &intent(&one, "i-1", 5)).await.unwrap_err();
    assert_eq!(replayed.code, Code::IntentSessionMismatch);

    let records = house.records(id).await;
    assert_eq!(records.len(), 2 + codes.len());
    for (seq, record) in (0..).zip(&records) {
        assert_eq!(record.session_sequence_number, seq);
    }
    for record in &records[2..] {
        assert_eq!((&*record.event, record.governance_decision), ("intent_refused", Some("DENY")));
    }
    assert_eq!(house.records(&two.session_id).await.len(), 3);
    let context = house.gateway().context(&house.agent, id).await.unwrap();
    assert_eq!(context.sequence, 5, "what was refused used up no number");
    house.is_whole().await;
}

#[tokio::test]
async fn constrained_reasoning_names_a_policy_in_force() {
    let house = House::new().await;
    let opened = house.opened().await;
    let constrained = |policy: &str, n| {
        let body = with(intent(&opened, &format!("i-{n}"), n), "reasoning_mode", json!("CONSTRAINED"));
        with(body, "constrained_by", json!(policy))
    };
    let unknown = house.declare(&opened.session_id, &constrained("nothing", 1)).await.unwrap_err();
    assert_eq!(unknown.field.as_deref(), Some("/constrained_by"));
    let declared = house.declare(&opened.session_id, &constrained("payments", 2)).await.unwrap();
    assert_eq!(declared.constrained_by.as_deref(), Some("payments"));
}

#[tokio::test]
async fn a_strangers_session_is_not_there() {
    let house = House::new().await;
    let opened = house.opened().await;
    let (id, stranger) = (&opened.session_id, other_agent(&house));
    let gateway = house.gateway();
    let declared = gateway.declare(&stranger, id, &intent(&opened, "i-1", 1)).await.unwrap_err();
    let shown = gateway.session(&stranger, id).await.unwrap_err();
    let context = gateway.context(&stranger, id).await.unwrap_err();
    let record = gateway.session_records(&stranger, id, None, 10).await.unwrap_err();
    let closed = house.close(&stranger, id, Completion::Complete).await.unwrap_err();
    for error in [declared, shown, context, record, closed] {
        assert_eq!(error.code, Code::NotFound);
    }
    assert!(gateway.sessions(&stranger, None, 10).await.unwrap().items.is_empty());
    let ask = GarAsk { session_id: Some(id.clone()), limit: 10, ..GarAsk::default() };
    assert!(gateway.gar(&stranger, &ask).await.unwrap().items.is_empty());
    assert_eq!(house.records(id).await.len(), 1, "nothing of it is on record");
}

#[tokio::test]
async fn the_record_of_the_end_covers_all_before_it() {
    let house = House::new().await;
    let opened = house.opened().await;
    let id = &opened.session_id;
    for n in 1..4 {
        house.declare(id, &intent(&opened, &format!("i-{n}"), n)).await.unwrap();
    }
    let before = house.records(id).await;
    let revoked = house.close(&house.agent, id, Completion::Revoked).await.unwrap_err();
    assert_eq!(revoked.code, Code::Forbidden);
    let end = house.close(&house.agent, id, Completion::Complete).await.unwrap();
    assert_eq!(
        (end.ale_type.as_deref(), end.completion_state.as_deref()),
        (Some("ALE-005"), Some("COMPLETE"))
    );
    let fields = end.ale_fields.unwrap();
    let lines: String = before.iter().map(|record| format!("sha256:{}\n", record.hash)).collect();
    let digest = <sha2::Sha256 as sha2::Digest>::digest(lines);
    assert_eq!(fields["records"], before.len());
    assert_eq!(fields["records_digest"], format!("sha256:{}", hex::encode(digest)));
    assert_eq!(house.records(id).await.len(), before.len() + 1);
    let again = house.close(&house.agent, id, Completion::Complete).await.unwrap_err();
    assert_eq!((again.code, &*again.message), (Code::StateConflict, "the session is over: COMPLETE"));
    let late = house.declare(id, &intent(&opened, "i-9", 9)).await.unwrap_err();
    assert_eq!(late.code, Code::StateConflict);
    house.is_whole().await;
}

#[tokio::test]
async fn revoked_it_stops_is_classified_and_takes_nothing_more() {
    let house = House::new().await;
    let opened = house.opened().await;
    let id = &opened.session_id;
    let approver = Caller { role: Role::Approver, ..house.operator.clone() };
    let auditor = Caller { role: Role::Auditor, ..house.operator.clone() };
    for (caller, completion) in [(&auditor, Completion::Revoked), (&approver, Completion::Complete)] {
        assert_eq!(house.close(caller, id, completion).await.unwrap_err().code, Code::Forbidden);
    }
    let end = house.close(&approver, id, Completion::Revoked).await.unwrap();
    assert_eq!((end.ale_type.as_deref(), end.completion_state.as_deref()), (Some("ALE-002"), Some("CLEAN")));
    let records = house.records(id).await;
    assert_eq!(records[1].ale_type.as_deref(), Some("ALE-001"));
    assert_eq!(records[1].governance_decision, Some("SUSPEND"));
    assert_eq!(records[2].causal_parent_id.as_ref(), Some(&records[1].record_id));
    let late = house.declare(id, &intent(&opened, "i-9", 9)).await.unwrap_err();
    assert_eq!(late.code, Code::IntentSessionRevoked);
    assert_eq!(house.records(id).await.len(), 3, "of what is over nothing more is written");
    let view = house.gateway().session(&house.agent, id).await.unwrap();
    assert_eq!((view.state, view.completion, view.halt), ("CLOSED", Some("REVOKED"), Some("CLEAN")));
    house.is_whole().await;
}

#[tokio::test]
async fn what_is_under_way_keeps_a_session_open_unless_it_is_revoked() {
    let house = House::new().await;
    let opened = house.opened().await;
    let id = &opened.session_id;
    house.store().execute("UPDATE session SET in_flight = 2", []).unwrap();
    let busy = house.close(&house.operator, id, Completion::Partial).await.unwrap_err();
    assert_eq!((busy.code, &*busy.message), (Code::StateConflict, "2 actions of the session are under way"));
    let end = house.close(&house.operator, id, Completion::Revoked).await.unwrap();
    assert_eq!(
        (end.ale_type.as_deref(), end.completion_state.as_deref()),
        (Some("ALE-003"), Some("PARTIAL"))
    );
}

/// What is written while a session is about to end is part of what its last record covers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_record_of_a_session_covers_all_before_it_whatever_comes_at_the_same_time() {
    let house = House::new().await;
    let mut ended = 0;
    for round in 0..12_u64 {
        let opened = house.opened().await;
        let id = &opened.session_id;
        let declarations = (1..=3).map(|number| {
            let body = intent(&opened, &format!("i-{round}-{number}"), number);
            let house = &house;
            async move { house.declare(id, &body).await.is_ok() }
        });
        let closes = async {
            match round % 2 {
                0 => house.close(&house.agent, id, Completion::Complete).await,
                _ => house.close(&house.operator, id, Completion::Revoked).await,
            }
        };
        let (_, closed) = tokio::join!(futures_util::future::join_all(declarations), closes);
        let Ok(end) = closed else { continue };
        ended += 1;
        let (all, fields) = (house.records(id).await, end.ale_fields.unwrap());
        assert_eq!(all.last().unwrap().record_id, end.record_id, "nothing comes after it");
        assert_eq!(fields["records"], json!(all.len() - 1));
    }
    assert!(ended > 6, "{ended}");
    house.is_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_has_one_beginning_of_its_end_however_many_bring_it_about() {
    let house = House::new().await;
    let opened = house.opened().await;
    let id = &opened.session_id;
    let all = (0..4).map(|_| house.close(&house.operator, id, Completion::Revoked));
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().any(Result::is_ok));
    let begun = house.records(id).await;
    let begun = begun.iter().filter(|it| it.ale_type.as_deref() == Some("ALE-001")).count();
    assert_eq!(begun, 1);
    house.is_whole().await;
}

#[tokio::test]
async fn a_session_that_cannot_be_read_keeps_no_other_from_its_end() {
    let house = House::new().await;
    let (bad, good) = (house.opened().await, house.opened().await);
    let altered = "UPDATE session SET limit_minor = 1, limit_currency = '?' WHERE id = ?";
    assert_eq!(house.store().execute(altered, [&bad.session_id]).unwrap(), 1);
    let house = house.restart().await;
    let listed = house.gateway().sessions(&house.agent, None, 10).await.unwrap().items;
    assert_eq!(listed.iter().map(|it| &it.session_id).collect::<Vec<_>>(), [&good.session_id]);
    let unread = house.gateway().session(&house.agent, &bad.session_id).await.unwrap_err();
    assert_eq!(unread.code, Code::Unavailable);
    house.gateway().revoke_mandate(&house.operator, &good.mandate_id, None).await.unwrap();
    let view = house.gateway().session(&house.agent, &good.session_id).await.unwrap();
    assert_eq!((view.state, view.completion), ("CLOSED", Some("REVOKED")));
}

#[tokio::test]
async fn sessions_and_their_numbers_outlive_a_restart() {
    let house = House::new().await;
    let opened = house.opened().await;
    let id = opened.session_id.clone();
    house.declare(&id, &intent(&opened, "i-1", 1)).await.unwrap();
    let house = house.restart().await;
    assert_eq!(house.declare(&id, &intent(&opened, "i-1", 2)).await.unwrap_err().code, Code::IntentDuplicate);
    house.declare(&id, &intent(&opened, "i-2", 2)).await.unwrap();
    house.close(&house.agent, &id, Completion::Partial).await.unwrap();
    let records = house.records(&id).await;
    let numbers: Vec<u64> = records.iter().map(|record| record.session_sequence_number).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert_eq!(records[4].ale_type.as_deref(), Some("ALE-003"));
    house.is_whole().await;
}

#[tokio::test]
async fn records_are_found_by_what_they_say_and_page_by_page() {
    let house = House::new().await;
    let gateway = house.gateway();
    let (one, two) = (house.opened().await, house.opened().await);
    for n in 1..4 {
        house.declare(&one.session_id, &intent(&one, &format!("i-{n}"), n)).await.unwrap();
    }
    house.declare(&one.session_id, &json!({})).await.unwrap_err();
    house.close(&house.agent, &two.session_id, Completion::Complete).await.unwrap();
    let operator = &house.operator;
    let found = |ask: GarAsk| async move {
        let page = gateway.gar(operator, &GarAsk { limit: 100, ..ask }).await.unwrap();
        page.items.iter().map(|record| record.event.clone()).collect::<Vec<_>>()
    };
    let by = GarAsk::default;
    assert_eq!(found(by()).await.len(), 7);
    assert_eq!(found(GarAsk { session_id: Some(one.session_id.clone()), ..by() }).await.len(), 5);
    assert_eq!(found(GarAsk { ale_type: Some("ALE-005".into()), ..by() }).await, ["session_closed"]);
    assert_eq!(found(GarAsk { decision: Some("DENY".into()), ..by() }).await, ["intent_refused"]);
    assert_eq!(found(GarAsk { mandate_id: Some("mnd_none".into()), ..by() }).await.len(), 0);
    assert_eq!(found(GarAsk { mandate_id: Some(one.mandate_id.clone()), ..by() }).await.len(), 7);
    assert_eq!(found(GarAsk { from_ms: Some(4_000_000_000_000), ..by() }).await.len(), 0);
    let rival = Some(action::Subject::parse("agent-8").unwrap());
    assert_eq!(found(GarAsk { agent_id: rival, ..by() }).await.len(), 0);

    let (mut cursor, mut all) = (None, Vec::new());
    loop {
        let page = gateway.gar(&house.agent, &GarAsk { limit: 2, cursor, ..by() }).await.unwrap();
        all.extend(page.items.into_iter().map(|record| (record.session_id, record.session_sequence_number)));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let expected =
        (0..2).map(|n| (two.session_id.clone(), n)).chain((0..5).map(|n| (one.session_id.clone(), n)));
    assert_eq!(all, expected.collect::<Vec<_>>());
    let wrong = gateway.gar(&house.agent, &GarAsk { cursor: Some("1".into()), limit: 1, ..by() }).await;
    assert_eq!(wrong.unwrap_err().field.as_deref(), Some("?cursor"));
    let first = gateway.session_records(&house.agent, &one.session_id, None, 3).await.unwrap().1;
    assert_eq!((first.items.len(), first.next.as_deref()), (3, Some("2")));
    let rest = gateway.session_records(&house.agent, &one.session_id, Some("2"), 3).await.unwrap().1;
    assert_eq!((rest.items.len(), rest.next), (2, None));
}

/// No time at all is left for the cascade: what it does not reach is told as that, and ended by the next look around.
#[tokio::test]
async fn where_a_revocation_goes_and_whom_it_did_not_reach_in_time_is_on_record() {
    for (cascade_timeout_ms, code, state) in [(10_000, "ALE-007", "CLEAN"), (0, "ALE-008", "UNKNOWN")] {
        let mut house = House::with(|config| {
            config.limits.cascade_timeout_ms = cascade_timeout_ms;
            config.limits.recovery_interval_ms = 10;
        })
        .await;
        let (one, two) = (house.opened().await, house.opened().await);
        let gateway = std::sync::Arc::clone(house.gateway());
        let revoked =
            gateway.revoke_mandate(&house.operator, &one.mandate_id, Some("enough".into())).await.unwrap();
        let states: Vec<&str> = revoked.sessions.iter().map(|it| it.completion_state).collect();
        assert_eq!(states, [state; 2]);
        let told = async |event: &str| {
            let ask = AuditAsk { verb: Some(event.to_owned()), limit: 10, ..AuditAsk::default() };
            let page = gateway.audit(&house.operator, &ask).await.unwrap();
            let [entry] = &page.items[..] else { panic!("{event}: {}", page.items.len()) };
            let record: Value = serde_json::from_str(entry.record.as_ref().unwrap()).unwrap();
            (entry.audit_id.clone(), record)
        };
        let (cause, _) = told("mandate_revoked").await;
        let (_, gone) = told("revocation_propagated").await;
        assert_eq!((&gone["ale"]["code"], &gone["cause"]), (&json!("ALE-006"), &json!(cause)));
        assert_eq!(gone["ale"]["fields"]["sessions"], json!([one.session_id, two.session_id]));
        assert_eq!(gone["ale"]["fields"]["mandates"], json!([one.mandate_id]));
        let name = if code == "ALE-007" { "revocation_acknowledged" } else { "revocation_timeout" };
        let (_, reached) = told(name).await;
        assert_eq!(reached["ale"]["code"], code);
        let halts = reached["ale"]["fields"]["sessions"].as_array().unwrap();
        assert!(halts.len() == 2 && halts.iter().all(|it| it["completionState"] == state), "{reached}");
        house.installation.start();
        // Reached or not, it ends, and says by whom and why.
        for session in [&one, &two] {
            let id = &session.session_id;
            while gateway.session(&house.agent, id).await.unwrap().completion.is_none() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            let records = house.records(id).await;
            let [.., first, last] = &records[..] else { panic!("{records:?}") };
            let fields = first.ale_fields.as_ref().unwrap();
            assert_eq!(*fields, json!({"by": "olga", "reason": "enough", "trigger": "R-1"}));
            assert_eq!(first.causal_parent_id.as_ref(), Some(&cause));
            assert_eq!(last.completion_state.as_deref(), Some(state));
        }
        house.is_whole().await;
    }
}

/// Whoever can write to the store can make every hash right, and still has not the key.
#[tokio::test]
async fn a_record_that_is_not_by_the_gateways_key_is_found_and_so_is_one_by_a_key_that_others_have() {
    let house = House::new().await;
    let opened = house.opened().await;
    house.declare(&opened.session_id, &intent(&opened, "i-1", 1)).await.unwrap();
    house.is_whole().await;
    let store = house.store();
    let newest = "SELECT row, bytes FROM entry ORDER BY row DESC LIMIT 1";
    let (row, bytes): (i64, Vec<u8>) =
        store.query_row(newest, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let found = async || {
        let check = house.gateway().check_trail(&house.admin, None).await.unwrap();
        check.findings.into_iter().map(|found| found.what).collect::<Vec<_>>()
    };
    let write = |bytes: &[u8]| {
        let sql = "UPDATE entry SET bytes = ?2 WHERE row = ?1";
        assert_eq!(store.execute(sql, rusqlite::params![row, bytes]).unwrap(), 1);
    };
    let mut entry: Value = serde_json::from_slice(&bytes).unwrap();
    entry["session"]["intentId"] = "i-other".into();
    entry.as_object_mut().unwrap().remove("hash");
    let digest = <sha2::Sha256 as sha2::Digest>::digest(action::json::canonical(&entry));
    entry["hash"] = hex::encode(digest).into();
    write(action::json::canonical(&entry).as_bytes());
    let told = found().await;
    assert!(told.iter().any(|what| what.contains("is not signed by this gateway")), "{told:?}");
    write(&bytes);
    house.is_whole().await;
    // A thief has the key since before that.
    let keys = house.gateway().signing_keys(&house.admin).await.unwrap();
    let kid = keys.first().unwrap().kid.clone();
    let since = "2020-01-01T00:00:00.000Z".to_owned();
    house.gateway().compromise_signing_key(&house.admin, &kid, since).await.unwrap();
    let told = found().await;
    let stolen = told.iter().filter(|what| what.contains("by a key that others have had since")).count();
    assert_eq!(stolen, 2, "{told:?}");
}
