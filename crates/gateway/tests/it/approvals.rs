//! People: who may decide, what their yes counts for, and that what waited is done once or not at all.

use std::sync::Arc;
use std::time::Duration;

use action::Subject;
use countersign_gateway::{Caller, Code, Config, FreezeScope, KeyAsk, Role};
use serde_json::{Value, json};

use testkit::Swap;

use crate::faults::Holds;
use crate::house::{BINDING, House, Said};

/// A house in which a key is enough, and so many people have to agree.
async fn house(needed: u32) -> House {
    house_with(needed, |_| {}).await
}

pub(crate) async fn house_with(needed: u32, change: impl FnOnce(&mut Config)) -> House {
    House::bound(&binding(needed), change).await
}

fn binding(needed: u32) -> String {
    BINDING.swapped("\n[binding]\n", &format!("approval = \"key\"\napprovals = {needed}\n\n[binding]\n"))
}

pub(crate) fn approver(house: &House, name: &str) -> Caller {
    Caller {
        subject: Subject::parse(name).unwrap(),
        role: Role::Approver,
        key_id: format!("key-{}", name.len()),
        key_issuer: None,
        ..house.agent.clone()
    }
}

/// Held, because it is a repetition of an action a moment ago.
pub(crate) async fn held(house: &House, recipient: &str) -> Said {
    let first = house.said(&format!("first-{recipient}"), &house.payment(recipient, "25.00")).await;
    assert_eq!(first.kind(), "executed", "{}", first.body);
    let second = house.said(&format!("second-{recipient}"), &house.payment(recipient, "25.00")).await;
    assert_eq!(second.kind(), "held", "{}", second.body);
    second
}

/// What the same key is answered once it no longer waits.
async fn outcome(house: &House, recipient: &str) -> Said {
    ended(house, &format!("second-{recipient}"), &house.payment(recipient, "25.00")).await
}

async fn ended(house: &House, key: &str, body: &Value) -> Said {
    for _ in 0..1000 {
        let said = house.said(key, body).await;
        assert!(said.replayed);
        if !matches!(said.kind(), "held" | "pending_settlement") {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("`{key}` never ended");
}

async fn receipt(house: &House, said: &Said) -> Value {
    let document = house.gateway().receipt(&house.agent, said.body["receipt"].as_str().unwrap()).await;
    serde_json::from_slice(&document.unwrap()).unwrap()
}

async fn spent(house: &House) -> String {
    let mandates = house.gateway().mandates(&house.operator, None, 10).await.unwrap();
    mandates.items[0].spent.unwrap().to_string()
}

#[tokio::test]
async fn what_was_approved_is_carried_out_once_and_the_receipt_says_who_agreed() {
    let house = house(1).await;
    let (gateway, anna) = (house.gateway(), approver(&house, "anna"));
    let waits = held(&house, "acct-1").await;
    let list = gateway.held(&anna, None, 10).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let shown = &list.items[0];
    assert_eq!((shown.action_id.as_str(), shown.state.as_str()), (waits.id(), "INTENDED"));
    assert_eq!(shown.reasons, ["probable_duplicate"]);
    assert_eq!((shown.amount.as_deref(), shown.reversible, shown.needed), (Some("25.00"), false, 1));
    assert_eq!(shown.parameters["recipient"], "acct-1");

    let approved = gateway.approve(&anna, waits.id(), Some("meant twice".into())).await.unwrap();
    assert_eq!(approved.approvals[0].approver, "anna");
    let done = outcome(&house, "acct-1").await;
    assert_eq!(done.kind(), "executed", "{}", done.body);
    assert_eq!(done.id(), waits.id());
    assert_eq!(spent(&house).await, "50.00");
    assert_eq!(crate::stages(&house, &done).await.len(), 9);

    let receipt = receipt(&house, &done).await;
    assert_eq!(receipt["eventType"], "ORIGINAL");
    let approval = &receipt["metadata"]["approvals"][0];
    let names: Vec<&String> = approval.as_object().unwrap().keys().collect();
    assert_eq!(names, ["assertion", "at", "credential_id", "decision", "envelope", "form", "public_key"]);
    assert_eq!((&approval["decision"], &approval["form"]), (&json!("approve"), &json!("key")));
    assert_eq!(approval["envelope"]["escalation_id"], format!("{}-1", waits.id()));
    assert!(approval["envelope"]["approver"].as_str().unwrap().starts_with("c:"));
    assert!(!receipt.to_string().contains("anna") && !receipt.to_string().contains("twice"));
    let boundary =
        receipt["entries"].as_array().unwrap().iter().find(|it| it["stage"] == "boundary").unwrap();
    assert_eq!(boundary["output"]["approved"], json!(["probable_duplicate"]));

    let view = gateway.action(&house.agent, waits.id()).await.unwrap();
    assert_eq!((view.state.as_str(), view.approvals.len()), ("COMPLETED", 1));
    assert_eq!(view.human_approver.as_deref(), Some("anna"));
    let replay = gateway.replay(&house.operator, waits.id()).await.unwrap();
    assert_eq!((replay.result.as_str(), replay.recorded.as_deref().unwrap()), ("same", "pass"));
    let late = gateway.approve(&approver(&house, "ben"), waits.id(), None).await.unwrap_err();
    assert_eq!(late.code, Code::StateConflict);
    assert!(gateway.held(&anna, None, 10).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_no_ends_it_with_a_receipt_and_nothing_comes_after_it() {
    let house = house(2).await;
    let gateway = house.gateway();
    let waits = held(&house, "acct-1").await;
    gateway.approve(&approver(&house, "anna"), waits.id(), None).await.unwrap();
    gateway.reject(&approver(&house, "ben"), waits.id(), Some("no".into())).await.unwrap();
    let ended = outcome(&house, "acct-1").await;
    assert_eq!((ended.kind(), ended.code()), ("blocked", "EP_APPROVAL_DENIED"), "{}", ended.body);
    let receipt = receipt(&house, &ended).await;
    assert_eq!(receipt["eventType"], "ORIGINAL");
    let said: Vec<&Value> = receipt["metadata"]["approvals"].as_array().unwrap().iter().collect();
    assert_eq!(
        said.iter().map(|it| it["decision"].as_str().unwrap()).collect::<Vec<_>>(),
        ["approve", "reject"]
    );
    crate::stages(&house, &ended).await;
    assert_eq!(spent(&house).await, "25.00", "only the first was paid");
    for name in ["ben", "carl"] {
        let late = gateway.approve(&approver(&house, name), waits.id(), None).await.unwrap_err();
        assert_eq!(late.code, Code::StateConflict);
        let late = gateway.reject(&approver(&house, name), waits.id(), None).await.unwrap_err();
        assert_eq!(late.code, Code::StateConflict);
    }
    let view = gateway.action(&house.agent, waits.id()).await.unwrap();
    assert_eq!((view.approvals.len(), view.receipts.len(), view.state.as_str()), (2, 1, "FAILED"));
    // What was said no to does not stand in the way of what comes after it: the first, that was paid, does.
    let again = house.said("third", &house.payment("acct-1", "25.00")).await;
    assert_eq!(again.kind(), "held");
}

#[tokio::test]
async fn who_asks_or_gave_the_right_to_ask_does_not_decide() {
    let house = house(1).await;
    let waits = held(&house, "acct-1").await;
    // The agent itself, who issued its mandate, who made its key.
    for name in ["agent-7", "olga", "ada"] {
        let person = approver(&house, name);
        for error in [
            house.gateway().approve(&person, waits.id(), None).await.unwrap_err(),
            house.gateway().reject(&person, waits.id(), None).await.unwrap_err(),
        ] {
            assert_eq!(error.code, Code::Forbidden, "{name}: {error}");
        }
    }
    for caller in [&house.agent, &house.operator, &house.admin] {
        let error = house.gateway().approve(caller, waits.id(), None).await.unwrap_err();
        assert_eq!(error.code, Code::Forbidden);
    }
    let mut stranger = approver(&house, "anna");
    stranger.tenant = action::Tenant::parse("elsewhere").unwrap();
    let error = house.gateway().approve(&stranger, waits.id(), None).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    let view = house.gateway().held_one(&approver(&house, "anna"), waits.id()).await.unwrap();
    assert!(view.approvals.is_empty() && view.state == "INTENDED");
}

#[tokio::test]
async fn where_the_catalogue_does_not_say_so_a_key_is_not_enough_for_money_but_for_a_no() {
    let house = House::new().await;
    let waits = held(&house, "acct-1").await;
    let anna = approver(&house, "anna");
    let error = house.gateway().approve(&anna, waits.id(), None).await.unwrap_err();
    assert_eq!(error.code, Code::Forbidden);
    assert!(error.hint.unwrap().contains("approval = \"key\""));
    house.gateway().reject(&anna, waits.id(), None).await.unwrap();
    assert_eq!(outcome(&house, "acct-1").await.code(), "EP_APPROVAL_DENIED");
}

#[tokio::test]
async fn two_have_to_agree_and_one_who_clicks_twice_is_one() {
    let house = house(2).await;
    let waits = held(&house, "acct-1").await;
    let anna = approver(&house, "anna");
    house.gateway().approve(&anna, waits.id(), None).await.unwrap();
    let twice = house.gateway().approve(&anna, waits.id(), None).await.unwrap_err();
    assert_eq!(twice.code, Code::StateConflict);
    let again = house.said("second-acct-1", &house.payment("acct-1", "25.00")).await;
    assert_eq!((again.kind(), &again.bytes), ("held", &waits.bytes), "in the same words");
    house.gateway().approve(&approver(&house, "ben"), waits.id(), None).await.unwrap();
    let done = outcome(&house, "acct-1").await;
    assert_eq!(done.kind(), "executed");
    assert_eq!(receipt(&house, &done).await["metadata"]["approvals"].as_array().unwrap().len(), 2);
    let view = house.gateway().action(&house.agent, waits.id()).await.unwrap();
    assert_eq!((view.human_approver, view.approvals.len()), (None, 2), "neither of them alone");
}

#[tokio::test]
async fn whoever_watches_what_waits_reads_it_once_for_each_commit() {
    let house = house(1).await;
    let version = async |name: &str| house.gateway().version(&approver(&house, name), None).await.unwrap();
    let waits = held(&house, "acct-1").await;
    let first = version("anna").await;
    // What changes without a commit of ours tells who reads anew.
    let set = |round: u32| house.store().execute("UPDATE action SET round = ? WHERE round > 0", [round]);
    set(7).unwrap();
    assert_eq!(version("ben").await, first, "nothing was committed");
    set(1).unwrap();
    house.gateway().reject(&approver(&house, "anna"), waits.id(), None).await.unwrap();
    let second = version("ben").await;
    assert_ne!(second, first);
    held(&house, "acct-2").await;
    assert_ne!(version("anna").await, second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_who_approve_at_once_are_one_effect() {
    let house = Arc::new(house(1).await);
    let waits = held(&house, "acct-1").await;
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let (house, id) = (house.clone(), waits.id().to_owned());
            let person = approver(&house, &format!("person-{n}"));
            tokio::spawn(async move { house.gateway().approve(&person, &id, None).await.is_ok() })
        })
        .collect();
    let mut counted = 0;
    for task in tasks {
        counted += usize::from(task.await.unwrap());
    }
    assert_eq!(counted, 1, "one was enough");
    assert_eq!(outcome(&house, "acct-1").await.kind(), "executed");
    assert_eq!(spent(&house).await, "50.00");
}

#[tokio::test]
async fn policies_that_changed_meanwhile_hold_it_again_or_block_it() {
    let house = house(1).await;
    let ask = "@id(\"ask\") @escalate forbid (principal, action, resource);";
    let allow = crate::house::POLICY;
    let rules = |text: &str| house.write("policies/default/payments.cedar", text);
    rules(&format!("{allow}{ask}"));
    house.gateway().reload(&house.admin).await.unwrap();
    let hold = |key: &'static str, recipient: &'static str| {
        let body = house.payment(recipient, "25.00");
        let house = &house;
        async move {
            let said = house.said(key, &body).await;
            assert_eq!((said.kind(), said.reasons()), ("held", vec!["policy"]), "{}", said.body);
            (said.id().to_owned(), body)
        }
    };
    let anna = approver(&house, "anna");

    let (unchanged, body) = hold("k1", "acct-1").await;
    house.gateway().approve(&anna, &unchanged, None).await.unwrap();
    assert_eq!(ended(&house, "k1", &body).await.kind(), "executed");

    // The same id, another text: everybody once more, and then it passes.
    let (reworded, body) = hold("k2", "acct-2").await;
    rules(&format!(
        "{allow}{}",
        ask.swapped("resource)", "resource) when { context.environment == \"production\" }")
    ));
    house.gateway().reload(&house.admin).await.unwrap();
    let before = house.gateway().held_one(&anna, &reworded).await.unwrap();
    outdated(&house, &reworded).await;
    let again = house.gateway().held_one(&anna, &reworded).await.unwrap();
    assert_ne!(again.escalation_id, before.escalation_id);
    assert_eq!((again.state.as_str(), again.reasons.as_slice()), ("INTENDED", &["policy".to_owned()][..]));
    assert_ne!(again.policies[0].digest, before.policies[0].digest);
    assert_eq!(again.expires_at, before.expires_at, "it does not wait longer for that");
    house.gateway().approve(&anna, &reworded, None).await.unwrap();
    let done = ended(&house, "k2", &body).await;
    assert_eq!(done.kind(), "executed", "{}", done.body);
    assert_eq!(receipt(&house, &done).await["metadata"]["approvals"].as_array().unwrap().len(), 1);

    let (forbidden, body) = hold("k3", "acct-3").await;
    rules(&format!("{allow}{ask} @id(\"no\") forbid (principal, action, resource);"));
    house.gateway().reload(&house.admin).await.unwrap();
    outdated(&house, &forbidden).await;
    let blocked = ended(&house, "k3", &body).await;
    assert_eq!((blocked.kind(), blocked.code()), ("blocked", "EP_BOUNDARY_BLOCK"), "{}", blocked.body);
    let receipt = receipt(&house, &blocked).await;
    assert_eq!(receipt["metadata"]["approvals"], json!([]), "nobody agreed to it");
}

/// Anna agrees to what was asked by rules that are others by now: it is asked anew, or ends, and her yes is none.
async fn outdated(house: &House, id: &str) {
    let late = house.gateway().approve(&approver(house, "anna"), id, None).await.unwrap_err();
    assert_eq!(late.code, Code::StateConflict, "{late}");
    assert!(late.message.ends_with(" changed since this was asked; look again"), "{late}");
}

/// Other policies, which say the same of what is done here.
async fn rewrite_policies(house: &House) {
    let more =
        "@id(\"more\") forbid (principal, action, resource) when { context.environment == \"sandbox\" };";
    house.write("policies/default/payments.cedar", &format!("{}{more}", crate::house::POLICY));
    house.gateway().reload(&house.admin).await.unwrap();
}

fn voids(view: &countersign_gateway::HeldView) -> Vec<Option<&str>> {
    view.approvals.iter().map(|given| given.void.as_deref()).collect()
}

#[tokio::test]
async fn a_yes_by_a_key_is_of_the_rules_of_now_and_stands_in_the_receipt() {
    let house = house(2).await;
    let (gateway, anna, ben) = (house.gateway(), approver(&house, "anna"), approver(&house, "ben"));
    let waits = held(&house, "acct-1").await;
    gateway.approve(&ben, waits.id(), None).await.unwrap();
    rewrite_policies(&house).await;
    outdated(&house, waits.id()).await;
    let again = gateway.held_one(&anna, waits.id()).await.unwrap();
    assert_eq!(
        (again.state.as_str(), again.reasons.as_slice()),
        ("INTENDED", &["probable_duplicate".to_owned()][..])
    );
    assert_eq!(again.escalation_id, format!("{}-2", waits.id()));
    assert_eq!(voids(&again), [Some("policies_changed")], "who had agreed sees why that is not enough");
    assert_eq!(spent(&house).await, "25.00");
    for person in [&anna, &ben] {
        gateway.approve(person, waits.id(), None).await.unwrap();
    }
    let done = outcome(&house, "acct-1").await;
    assert_eq!(done.kind(), "executed", "{}", done.body);
    crate::stages(&house, &done).await;
    let metadata = &receipt(&house, &done).await["metadata"];
    let approvals = metadata["approvals"].as_array().unwrap();
    assert_eq!(approvals.len(), 2, "{metadata}");
    for approval in approvals {
        assert_eq!(approval["envelope"]["policy_digest"], metadata["policyDigest"]);
    }
    let view = gateway.held_one(&anna, waits.id()).await.unwrap();
    assert_eq!(voids(&view), [Some("policies_changed"), None, None]);
}

#[tokio::test]
async fn a_yes_that_rules_overtook_before_it_was_gone_on_with_is_void_and_says_why() {
    let mut house = house_with(1, |config| config.limits.recovery_interval_ms = 20).await;
    let waits = held(&house, "acct-1").await;
    // Nobody goes on with it yet.
    house.store().execute("UPDATE action SET needed = 2 WHERE round = 1", []).unwrap();
    house.gateway().approve(&approver(&house, "anna"), waits.id(), None).await.unwrap();
    one_is_enough(&house);
    rewrite_policies(&house).await;
    house.installation.start();
    let again = wait_for(&house, waits.id(), |view| view.escalation_id.ends_with("-2")).await;
    assert_eq!((again.state.as_str(), voids(&again)), ("INTENDED", vec![Some("policies_changed")]));
    assert_eq!(spent(&house).await, "25.00");
}

#[tokio::test]
async fn what_rules_allow_by_now_is_carried_out_without_the_yes_that_they_overtook() {
    let mut house = house_of_two().await;
    let ask = "@id(\"ask\") @escalate forbid (principal, action, resource);";
    house.write("policies/default/payments.cedar", &format!("{}{ask}", crate::house::POLICY));
    house.gateway().reload(&house.admin).await.unwrap();
    let body = house.payment("acct-1", "25.00");
    let waits = house.said("k1", &body).await;
    house.gateway().approve(&approver(&house, "anna"), waits.id(), None).await.unwrap();
    one_is_enough(&house);
    rewrite_policies(&house).await;
    house.installation.start();
    let done = ended(&house, "k1", &body).await;
    assert_eq!(done.kind(), "executed", "{}", done.body);
    assert_eq!(receipt(&house, &done).await["metadata"]["approvals"], json!([]));
    let view = house.gateway().held_one(&approver(&house, "anna"), waits.id()).await.unwrap();
    assert_eq!(voids(&view), [Some("policies_changed")]);
}

#[tokio::test]
async fn an_agent_cannot_have_people_asked_without_end() {
    let house = house_with(1, |config| config.limits.held_per_agent = 2).await;
    let waits = held(&house, "acct-1").await;
    held(&house, "acct-2").await;
    let repeated = |recipient: &'static str| {
        let (house, body) = (&house, house.payment(recipient, "25.00"));
        async move {
            assert_eq!(house.said(&format!("first-{recipient}"), &body).await.kind(), "executed");
            house.said(&format!("second-{recipient}"), &body).await
        }
    };
    let one_more = repeated("acct-3").await;
    assert_eq!((one_more.kind(), one_more.code()), ("blocked", "EP_BOUNDARY_BLOCK"), "{}", one_more.body);
    assert_eq!(one_more.reasons(), ["too_many_held"]);
    receipt(&house, &one_more).await;
    house.gateway().reject(&approver(&house, "anna"), waits.id(), None).await.unwrap();
    assert_eq!(repeated("acct-4").await.kind(), "held", "one was decided");
}

#[tokio::test]
async fn rules_that_changed_are_asked_about_before_anybody_signs() {
    let house = house_with(1, |config| config.public_url = Some("http://localhost:8787".into())).await;
    let anna = approver(&house, "anna");
    let reload = async |text: &str| {
        let text = format!("{}{text}", crate::house::POLICY);
        house.write("policies/default/payments.cedar", &text);
        house.gateway().reload(&house.admin).await.unwrap();
    };
    let ask = async |id: &str| house.gateway().ask_to_sign(&anna, id, None, None).await.unwrap_err();
    let shown = async |id: &str| house.gateway().held_one(&anna, id).await.unwrap();
    let changed = held(&house, "acct-1").await;
    assert_eq!(ask(changed.id()).await.code, Code::Forbidden, "she has no passkey; nothing has changed");

    // What is new is asked about at once, and one yes is enough for it.
    reload("@id(\"ask\") @escalate forbid (principal, action, resource);").await;
    let before = shown(changed.id()).await;
    let outdated = ask(changed.id()).await;
    let why = "the policies changed since this was asked; look again";
    assert_eq!((outdated.code, outdated.message.as_str()), (Code::StateConflict, why));
    let after = shown(changed.id()).await;
    assert_eq!(after.escalation_id, format!("{}-2", changed.id()));
    assert_eq!(after.reasons, ["policy", "probable_duplicate"]);
    assert_eq!((after.parties, after.expires_at), (before.parties, before.expires_at));
    assert_eq!(ask(changed.id()).await.code, Code::Forbidden, "it asks by the rules of now");
    house.gateway().approve(&anna, changed.id(), None).await.unwrap();
    assert_eq!(outcome(&house, "acct-1").await.kind(), "executed");

    // Rules that no longer ask anybody send nothing that nobody agreed to.
    let body = house.payment("acct-2", "25.00");
    let gone = house.said("k2", &body).await;
    reload("").await;
    assert_eq!(ask(gone.id()).await.message, why);
    let after = shown(gone.id()).await;
    assert_eq!((after.state.as_str(), after.reasons), ("INTENDED", vec!["policy".to_owned()]));
    assert_eq!(after.escalation_id, format!("{}-2", gone.id()));
    house.gateway().approve(&anna, gone.id(), None).await.unwrap();
    assert_eq!(ended(&house, "k2", &body).await.kind(), "executed");

    // What they forbid is not asked about any more.
    let forbidden = held(&house, "acct-3").await;
    house.write("catalogue/default/payment.toml", &binding(2));
    reload("@id(\"no\") forbid (principal, action, resource);").await;
    let outdated = ask(forbidden.id()).await;
    assert_eq!(outdated.message, "policies and catalogue changed since this was asked; look again");
    let blocked = outcome(&house, "acct-3").await;
    assert_eq!((blocked.kind(), blocked.code()), ("blocked", "EP_BOUNDARY_BLOCK"), "{}", blocked.body);
    receipt(&house, &blocked).await;
    assert_eq!(ask(forbidden.id()).await.message, "the action does not wait for approval");
}

pub(crate) async fn wait_for(
    house: &House,
    id: &str,
    is: impl Fn(&countersign_gateway::HeldView) -> bool,
) -> countersign_gateway::HeldView {
    for _ in 0..1000 {
        let view = house.gateway().held_one(&approver(house, "reader"), id).await.unwrap();
        if is(&view) {
            return view;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to that")
}

#[tokio::test]
async fn with_what_is_new_all_the_rest_is_shown_again_and_to_the_same_people() {
    let house = house(1).await;
    let waits = held(&house, "acct-1").await;
    let ask = "@id(\"ask\") @escalate forbid (principal, action, resource);";
    house.write("policies/default/payments.cedar", &format!("{}{ask}", crate::house::POLICY));
    house.gateway().reload(&house.admin).await.unwrap();
    let anna = approver(&house, "anna");
    outdated(&house, waits.id()).await;
    let again = house.gateway().held_one(&anna, waits.id()).await.unwrap();
    assert_eq!(again.reasons, ["policy", "probable_duplicate"]);
    // Who made the key that it came with is known from the first time.
    for name in ["agent-7", "olga", "ada"] {
        let error = house.gateway().approve(&approver(&house, name), waits.id(), None).await.unwrap_err();
        assert_eq!(error.code, Code::Forbidden, "{name}");
    }
    house.gateway().approve(&anna, waits.id(), None).await.unwrap();
    assert_eq!(outcome(&house, "acct-1").await.kind(), "executed");
}

#[tokio::test]
async fn more_people_asked_for_meanwhile_is_asked_for() {
    let house = house(1).await;
    let waits = held(&house, "acct-1").await;
    house.write("catalogue/default/payment.toml", &binding(2));
    house.gateway().reload(&house.admin).await.unwrap();
    outdated(&house, waits.id()).await;
    let again = house.gateway().held_one(&approver(&house, "anna"), waits.id()).await.unwrap();
    assert_eq!((again.needed, again.state.as_str()), (2, "INTENDED"));
    for name in ["anna", "ben"] {
        house.gateway().approve(&approver(&house, name), waits.id(), None).await.unwrap();
    }
    assert_eq!(outcome(&house, "acct-1").await.kind(), "executed");
}

#[tokio::test]
async fn freeze_revocation_and_a_spent_mandate_win_over_an_approval() {
    for stop in ["freeze", "revoke", "spend"] {
        let house = house(1).await;
        let gateway = house.gateway();
        let waits = held(&house, "acct-1").await;
        let (code, reason) = match stop {
            "freeze" => {
                gateway.freeze(&house.admin, FreezeScope::Tenant.into()).await.unwrap();
                ("EP_FROZEN", "frozen")
            }
            "revoke" => {
                let mandates = gateway.mandates(&house.operator, None, 10).await.unwrap();
                gateway.revoke_mandate(&house.operator, &mandates.items[0].jti, None).await.unwrap();
                ("EP_DELEGATION_BLOCK", "mandate_revoked")
            }
            _ => {
                let rest = house.said("rest", &house.payment("acct-9", "460.00")).await;
                assert_eq!(rest.kind(), "executed", "{}", rest.body);
                ("EP_DELEGATION_BLOCK", "cap_exceeded")
            }
        };
        gateway.approve(&approver(&house, "anna"), waits.id(), None).await.unwrap();
        let ended = outcome(&house, "acct-1").await;
        assert_eq!((ended.kind(), ended.code(), ended.reasons()), ("blocked", code, vec![reason]), "{stop}");
        crate::stages(&house, &ended).await;
        let expected = if stop == "spend" { "485.00" } else { "25.00" };
        assert_eq!(spent(&house).await, expected, "{stop}");
    }
}

#[tokio::test]
async fn another_that_came_in_between_has_to_be_agreed_to_too() {
    let house = house(1).await;
    let waits = held(&house, "acct-1").await;
    let between = house.said("between", &house.payment("acct-1", "25.00")).await;
    assert_eq!(between.kind(), "held");
    let anna = approver(&house, "anna");
    house.gateway().approve(&anna, waits.id(), None).await.unwrap();
    let again = wait_for(&house, waits.id(), |view| view.escalation_id.ends_with("-2")).await;
    assert_eq!(again.earlier_transaction.as_deref(), Some(between.id()));
    house.gateway().reject(&anna, between.id(), None).await.unwrap();
    house.gateway().approve(&anna, waits.id(), None).await.unwrap();
    // Now it is the first again that stands in the way, which they have not been shown this time.
    let third = wait_for(&house, waits.id(), |view| view.escalation_id.ends_with("-3")).await;
    assert_ne!(third.earlier_transaction.as_deref(), Some(between.id()));
    house.gateway().approve(&anna, waits.id(), None).await.unwrap();
    assert_eq!(outcome(&house, "acct-1").await.kind(), "executed");
}

#[tokio::test]
async fn a_deadline_that_passed_while_it_waited_is_over() {
    let house = house(1).await;
    house.said("k1", &house.payment("acct-1", "25.00")).await;
    let mut body = house.payment("acct-1", "25.00");
    body["deadline_ms"] = json!(50);
    let waits = house.said("k2", &body).await;
    assert_eq!(waits.kind(), "held");
    tokio::time::sleep(Duration::from_millis(60)).await;
    house.gateway().approve(&approver(&house, "anna"), waits.id(), None).await.unwrap();
    let failed = ended(&house, "k2", &body).await;
    assert_eq!((failed.kind(), failed.code()), ("failed", "EP_DEADLINE_EXCEEDED"));
    assert_eq!(spent(&house).await, "25.00");
}

#[tokio::test]
async fn what_expires_expires_and_takes_no_more_decisions() {
    let mut house = House::bound(&binding(1), |config| {
        config.limits.held_seconds = 0;
        config.limits.recovery_interval_ms = 20;
    })
    .await;
    let waits = held(&house, "acct-1").await;
    let anna = approver(&house, "anna");
    for late in [
        house.gateway().approve(&anna, waits.id(), None).await.unwrap_err(),
        house.gateway().reject(&anna, waits.id(), None).await.unwrap_err(),
    ] {
        assert_eq!((late.code, late.message.as_str()), (Code::StateConflict, "the action has expired"));
    }
    house.installation.start();
    assert_eq!(outcome(&house, "acct-1").await.code(), "EP_APPROVAL_EXPIRED");
}

/// As a process leaves it that dies between the last approval and sending: two were needed, one has agreed, and now
/// one is enough.
async fn left_approved(house: &House) -> Said {
    let waits = held(house, "acct-1").await;
    house.gateway().approve(&approver(house, "anna"), waits.id(), None).await.unwrap();
    one_is_enough(house);
    waits
}

/// What one of two agreed to is approved.
fn one_is_enough(house: &House) {
    let approve = "UPDATE action SET needed = 1 WHERE round = 1; UPDATE fate SET state = 0 WHERE state = 1;";
    house.store().execute_batch(approve).unwrap();
}

/// The time for which it waits was over right after the last approval.
fn over(house: &House) {
    let expire = "UPDATE action SET expires = (SELECT max(at) + 1 FROM approval) WHERE round = 1";
    assert_eq!(house.store().execute(expire, []).unwrap(), 1);
}

async fn house_of_two() -> House {
    House::bound(&binding(2), |config| config.limits.recovery_interval_ms = 20).await
}

#[tokio::test]
async fn what_is_approved_and_did_not_go_on_in_time_expires_and_names_who_agreed() {
    let mut house = house_of_two().await;
    let waits = left_approved(&house).await;
    house.rebind(&binding(1)).await;
    over(&house);
    house.installation.start();
    let ended = outcome(&house, "acct-1").await;
    assert_eq!((ended.kind(), ended.code()), ("blocked", "EP_APPROVAL_EXPIRED"), "{}", ended.body);
    assert_eq!(ended.id(), waits.id());
    assert_eq!(receipt(&house, &ended).await["metadata"]["approvals"].as_array().unwrap().len(), 1);
    crate::stages(&house, &ended).await;
    assert_eq!(spent(&house).await, "25.00", "only the first was paid");
}

#[tokio::test]
async fn what_the_store_says_otherwise_than_people_were_shown_is_not_carried_out() {
    for altered in [
        "json_set(payload, '$.constraints.recipient', 'acct-9')",
        "json_set(payload, '$.amount', '24.00')",
        "json_set(payload, '$.escalation.parties', json('[]'))",
    ] {
        let mut house = house_of_two().await;
        let waits = held(&house, "acct-1").await;
        house.gateway().approve(&approver(&house, "anna"), waits.id(), None).await.unwrap();
        house.rewrite("second-acct-1", altered);
        let approved = house.gateway().approve(&approver(&house, "ben"), waits.id(), None).await;
        assert_eq!(approved.unwrap_err().code, Code::Unavailable, "{altered}");
        // Nor is it once it has been agreed to.
        house
            .store()
            .execute_batch(
                "UPDATE action SET needed = 1 WHERE round = 1; UPDATE fate SET state = 0 WHERE state = 1",
            )
            .unwrap();
        house.installation.start();
        // Time enough to go on, were it as it was.
        let next = house.said("next", &house.payment("acct-2", "1.00")).await;
        assert_eq!(next.kind(), "executed");
        let view = house.gateway().held_one(&approver(&house, "reader"), waits.id()).await.unwrap();
        assert_eq!(view.state, "APPROVED", "{altered}");
        assert_eq!(spent(&house).await, "26.00", "{altered}");
    }
}

#[tokio::test]
async fn a_key_that_is_no_longer_enough_holds_it_again() {
    let mut house = house_of_two().await;
    let waits = left_approved(&house).await;
    house.rebind(BINDING).await;
    house.installation.start();
    let again = wait_for(&house, waits.id(), |view| view.escalation_id.ends_with("-2")).await;
    assert_eq!((again.form, again.state.as_str()), ("passkey", "INTENDED"));
    assert_eq!(spent(&house).await, "25.00");
}

#[tokio::test]
async fn a_yes_by_a_key_that_was_revoked_since_counts_no_more() {
    let house = house(2).await;
    let waits = held(&house, "acct-1").await;
    let ask = KeyAsk {
        subject: Subject::parse("anna").unwrap(),
        role: Role::Approver,
        tenant: None,
        default_mandate: None,
    };
    let made = house.gateway().create_key(&house.admin, ask).await.unwrap();
    let anna = house.gateway().authenticate(&made.secret).await.unwrap();
    house.gateway().approve(&anna, waits.id(), None).await.unwrap();
    house.gateway().revoke_key(&house.admin, &made.key.id).await.unwrap();
    house.gateway().approve(&approver(&house, "ben"), waits.id(), None).await.unwrap();
    let again = wait_for(&house, waits.id(), |view| view.state != "APPROVED").await;
    assert_eq!((again.state.as_str(), again.escalation_id.ends_with("-2")), ("INTENDED", true));
    assert_eq!(spent(&house).await, "25.00");
}

#[tokio::test]
async fn what_is_no_longer_offered_ends() {
    let house = house(1).await;
    let waits = held(&house, "acct-1").await;
    let (unbound, _) = BINDING.split_once("[binding]").unwrap();
    house.rebind(&format!("{unbound}approval = \"key\"\n")).await;
    outdated(&house, waits.id()).await;
    let ended = wait_for(&house, waits.id(), |view| view.state == "FAILED").await;
    let view = house.gateway().action(&house.agent, &ended.action_id).await.unwrap();
    assert_eq!((view.error, view.receipts.len()), (Some(Code::BoundaryBlock), 1));
}

/// Whoever says no while others say yes is heard, and the receipt names everybody who had spoken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_among_many_who_agree_ends_it_and_names_all_of_them() {
    for _ in 0..5 {
        let house = Arc::new(house(5).await);
        let waits = held(&house, "acct-1").await;
        let agree = |name: &'static str| {
            let (house, id) = (house.clone(), waits.id().to_owned());
            tokio::spawn(async move {
                let person = approver(&house, name);
                let _ = house.gateway().approve(&person, &id, None).await;
            })
        };
        let others = ["ben", "carl", "dora", "emil"].map(agree);
        house.gateway().reject(&approver(&house, "anna"), waits.id(), None).await.unwrap();
        for other in others {
            other.await.unwrap();
        }
        let ended = outcome(&house, "acct-1").await;
        assert_eq!(ended.code(), "EP_APPROVAL_DENIED");
        let told = receipt(&house, &ended).await["metadata"]["approvals"].as_array().unwrap().len();
        let view = house.gateway().action(&house.agent, waits.id()).await.unwrap();
        let decisions: Vec<&str> = view.approvals.iter().map(|given| given.decision.as_str()).collect();
        assert_eq!((decisions.last(), decisions.len()), (Some(&"reject"), told), "{decisions:?}");
    }
}

/// Held up between the proof and its commit, so that a person's yes comes in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_yes_that_comes_while_it_is_called_off_stands_in_the_receipt() {
    let holds = Holds::at("outcome.before");
    let house = house_with(2, |config| config.fail_points = Some(Arc::clone(&holds) as _)).await;
    let waits = held(&house, "acct-1").await;
    holds.arm();
    let agree = async {
        holds.somebody().await;
        let said = house.gateway().approve(&approver(&house, "anna"), waits.id(), None).await;
        holds.lets_go();
        said.unwrap();
    };
    let (cancelled, ()) = tokio::join!(house.gateway().cancel(&house.agent, waits.id()), agree);
    assert_eq!(cancelled.unwrap().error, Some(Code::Cancelled));
    let ended = outcome(&house, "acct-1").await;
    assert_eq!((ended.kind(), ended.code()), ("failed", "EP_CANCELLED"), "{}", ended.body);
    let told = receipt(&house, &ended).await["metadata"]["approvals"].as_array().map(Vec::len);
    assert_eq!((told, house.record(waits.id()).await.approvals.len()), (Some(1), 1));
    assert_eq!(house.gateway().check_trail(&house.admin, None).await.unwrap().findings, []);
}

#[tokio::test]
async fn a_comment_is_one_honest_line() {
    let house = house(1).await;
    let waits = held(&house, "acct-1").await;
    let anna = approver(&house, "anna");
    for wrong in ["two\nlines", "turned \u{202e} round", &"x".repeat(1001)] {
        let error = house.gateway().approve(&anna, waits.id(), Some(wrong.to_owned())).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (Code::ValidationFailed, Some("/comment")));
    }
    assert!(house.gateway().held_one(&anna, waits.id()).await.unwrap().approvals.is_empty());
}
