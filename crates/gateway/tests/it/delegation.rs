//! Mandates that are handed on, and mandates that principals sign themselves.

use action::{Currency, IdempotencyKey, Money, Subject};
use countersign_gateway::{Ask, Caller, Code, Decision, DelegateAsk, Error, KeyAsk, MandateAsk, Role, Signs};
use mandate::{Algorithm, Claims, SigningKey, SpendCap};
use receipt::{Jwks, Pin, Trust};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::approvals::approver;
use crate::house::House;
use crate::late::{NO_RETRY, house_with, same, settled, wrongly_failed};
use crate::reserving::kinds;
use crate::resolutions::resolve;

const END: i64 = 4_102_444_800;

/// Another agent of the house.
fn agent(house: &House, name: &str) -> Caller {
    Caller { subject: Subject::parse(name).unwrap(), ..house.agent.clone() }
}

fn usd(amount: &str) -> Option<Money> {
    Some(Money::parse(amount, Currency::of("USD").unwrap()).unwrap())
}

/// To this agent, who need not be known.
fn to(subject: &str) -> DelegateAsk {
    DelegateAsk { subject: subject.to_owned(), even_if_unknown: true, ..DelegateAsk::default() }
}

async fn root(house: &House) -> String {
    let page = house.gateway().mandates(&house.operator, None, 200).await.unwrap();
    page.items.last().unwrap().jti.clone()
}

/// Hands a mandate on; answers with token and id.
async fn hand_on(house: &House, who: &Caller, jti: &str, ask: DelegateAsk) -> (String, String) {
    let issued = house.gateway().delegate(who, jti, ask).await.unwrap();
    (issued.token, issued.mandate.jti)
}

async fn refused(house: &House, who: &Caller, jti: &str, ask: DelegateAsk) -> Error {
    house.gateway().delegate(who, jti, ask).await.unwrap_err()
}

/// A payment of an agent under a token.
async fn pay(house: &House, who: &Caller, token: &str, key: &str, amount: &str) -> Value {
    pay_to(house, who, token, (&format!("acct-{key}"), key), amount).await
}

async fn pay_to(
    house: &House,
    who: &Caller,
    token: &str,
    (recipient, key): (&str, &str),
    amount: &str,
) -> Value {
    let mut body = house.payment(recipient, amount);
    body["delegation_token"] = token.into();
    let ask = Ask {
        idempotency_key: Some(IdempotencyKey::parse(key).unwrap()),
        request_id: format!("req-{key}"),
        dry_run: false,
        wait: countersign_gateway::Wait::default(),
        body: body.to_string().into_bytes(),
    };
    let answer = house.gateway().execute(who, ask).await.unwrap();
    serde_json::from_slice(&answer.reply.body).unwrap()
}

/// The receipt of what an agent of the house was answered, verified as a stranger would.
async fn receipt(house: &House, said: &Value) -> Value {
    let gateway = house.gateway();
    let document = gateway.receipt(&house.operator, said["receipt"].as_str().unwrap()).await.unwrap();
    let jwks = Jwks::parse(gateway.jwks().as_bytes()).unwrap();
    let pin = Pin::new(gateway.issuer(), &jwks);
    assert_eq!(receipt::verify(&document, &Trust::new(&pin, &jwks)).verdict.exit_code(), 0);
    serde_json::from_slice(&document).unwrap()
}

fn reasons(said: &Value) -> Vec<&str> {
    said["details"]["reasons"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect()
}

async fn spent(house: &House, jti: &str) -> String {
    let standing = house.gateway().mandate(&house.operator, jti).await.unwrap();
    standing.mandate.spent.unwrap().to_string()
}

fn rows(house: &House, table: &str) -> i64 {
    house.store().query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

fn events(house: &House, event: &str) -> i64 {
    let sql = "SELECT count(*) FROM entry WHERE instr(CAST(bytes AS TEXT), ?1)";
    house.store().query_row(sql, [format!("\"event\":\"{event}\"")], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn every_mandate_of_the_chain_pays_and_the_receipt_names_them() {
    let house = House::new().await;
    let root = root(&house).await;
    let (_, middle) = hand_on(&house, &house.agent, &root, to("agent-8")).await;
    let (token, leaf) = hand_on(&house, &agent(&house, "agent-8"), &middle, to("agent-9")).await;
    let said = pay(&house, &agent(&house, "agent-9"), &token, "a", "100.00").await;
    assert_eq!(said["kind"], "executed", "{said}");
    for jti in [&root, &middle, &leaf] {
        assert_eq!(spent(&house, jti).await, "100.00");
    }
    let document = receipt(&house, &said).await;
    let input = &document["entries"][1]["input"];
    assert_eq!(input["chain"], json!([root, middle]));
    assert_eq!(input["tokenId"], *leaf);
    let standing = house.gateway().mandate(&house.operator, &leaf).await.unwrap();
    assert_eq!((standing.principal.as_str(), standing.mandate.chain.len()), ("olga", 2));
    assert_eq!(standing.left.spend_cap, usd("400.00"));
    // Nobody but who holds it, and nobody's token but their own.
    let other = pay(&house, &house.agent, &token, "b", "1.00").await;
    assert_eq!(reasons(&other), ["wrong_subject"]);
    // What was stored is enough: after a restart the chain is found again.
    let house = house.restart().await;
    let said = pay(&house, &agent(&house, "agent-9"), &token, "c", "100.00").await;
    assert_eq!((&said["kind"], spent(&house, &root).await), (&json!("executed"), "200.00".into()));
    let found = house.gateway().check_trail(&house.admin, None).await.unwrap().findings;
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn siblings_share_what_is_left_of_their_parent() {
    let house = House::new().await;
    let root = root(&house).await;
    let most = |subject| DelegateAsk { spend_cap: usd("300.00"), ..to(subject) };
    let (first, a) = hand_on(&house, &house.agent, &root, most("agent-8")).await;
    let (second, b) = hand_on(&house, &house.agent, &root, most("agent-9")).await;
    assert_eq!(pay(&house, &agent(&house, "agent-8"), &first, "a", "280.00").await["kind"], "executed");
    let over = pay(&house, &agent(&house, "agent-9"), &second, "b", "280.00").await;
    assert_eq!((&over["code"], reasons(&over)), (&json!("EP_DELEGATION_BLOCK"), vec!["cap_exceeded"]));
    assert_eq!((spent(&house, &a).await, spent(&house, &b).await), ("280.00".into(), "0.00".into()));
    assert_eq!(pay(&house, &agent(&house, "agent-9"), &second, "c", "220.00").await["kind"], "executed");
    // A child is given no more than there is, whatever the parent's cap.
    let broke =
        refused(&house, &house.agent, &root, DelegateAsk { spend_cap: usd("0.01"), ..to("agent-10") }).await;
    assert_eq!((broke.code, broke.field.as_deref()), (Code::NarrowingViolation, Some("/spend_cap")));
}

#[tokio::test]
async fn what_is_wider_is_not_issued_and_is_on_record() {
    let house = House::new().await;
    let root = root(&house).await;
    let before = rows(&house, "mandate");
    let wider = [
        ("/spend_cap", DelegateAsk { spend_cap: usd("500.01"), ..to("agent-8") }),
        ("/scope", DelegateAsk { scope: Some(vec!["Data".into()]), ..to("agent-8") }),
        ("/expires_at", DelegateAsk { expires_at: Some(END + 1), ..to("agent-8") }),
        ("/not_before", DelegateAsk { not_before: Some(1), ..to("agent-8") }),
    ];
    for (n, (field, ask)) in wider.into_iter().enumerate() {
        let error = refused(&house, &house.agent, &root, ask).await;
        assert_eq!((error.code, error.field.as_deref()), (Code::NarrowingViolation, Some(field)));
        assert_eq!(events(&house, "delegation_refused"), n as i64 + 1);
    }
    let wrong = [
        ("/subject", DelegateAsk { ..to("a b") }),
        ("/scope/0", DelegateAsk { scope: Some(vec!["Nothing".into()]), ..to("agent-8") }),
        ("/scope", DelegateAsk { scope: Some(vec![]), ..to("agent-8") }),
        ("/resources", DelegateAsk { resources: Some(vec!["a*b".into()]), ..to("agent-8") }),
        ("/trust_floor", DelegateAsk { trust_floor: serde_json::Number::from_f64(2.0), ..to("agent-8") }),
        ("/expires_at", DelegateAsk { expires_at: Some(5), ..to("agent-8") }),
        ("/subject", DelegateAsk { subject: "agent-unheard-of".into(), ..DelegateAsk::default() }),
    ];
    let entries = rows(&house, "entry");
    for (field, ask) in wrong {
        let error = refused(&house, &house.agent, &root, ask).await;
        assert_eq!(error.field.as_deref(), Some(field), "{error:?}");
    }
    let error = refused(&house, &agent(&house, "agent-8"), &root, to("agent-9")).await;
    assert_eq!(error.code, Code::NotFound, "who does not hold it does not learn of it");
    assert_eq!(refused(&house, &house.operator, "nothing", to("agent-9")).await.code, Code::NotFound);
    assert_eq!((rows(&house, "mandate"), rows(&house, "entry")), (before, entries), "nothing is written");
}

#[tokio::test]
async fn a_revocation_ends_the_whole_tree() {
    let house = House::new().await;
    let root = root(&house).await;
    let (_, middle) = hand_on(&house, &house.agent, &root, to("agent-8")).await;
    let eight = agent(&house, "agent-8");
    let (token, leaf) = hand_on(&house, &eight, &middle, to("agent-9")).await;
    let nine = agent(&house, "agent-9");
    assert_eq!(pay(&house, &nine, &token, "a", "1.00").await["kind"], "executed");
    house.gateway().revoke_mandate(&house.operator, &middle, None).await.unwrap();
    let said = pay(&house, &nine, &token, "b", "1.00").await;
    assert_eq!((&said["code"], reasons(&said)), (&json!("EP_DELEGATION_BLOCK"), vec!["mandate_revoked"]));
    assert_eq!(refused(&house, &nine, &leaf, to("agent-10")).await.code, Code::StateConflict);
    assert_eq!(refused(&house, &eight, &middle, to("agent-10")).await.code, Code::StateConflict);
    let standing = house.gateway().mandate(&nine, &leaf).await.unwrap();
    assert_eq!(standing.ended_with, Some(middle));
    // What stands above it goes on.
    assert_eq!(house.said("c", &house.payment("acct-1", "1.00")).await.kind(), "executed");
    hand_on(&house, &house.agent, &root, to("agent-8")).await;
}

#[tokio::test]
async fn a_chain_has_a_depth() {
    let house = House::with(|config| config.limits.delegation_depth = 2).await;
    let mut jti = root(&house).await;
    let mut holder = house.agent.clone();
    for subject in ["agent-8", "agent-9"] {
        jti = hand_on(&house, &holder, &jti, to(subject)).await.1;
        holder = agent(&house, subject);
    }
    let error = refused(&house, &holder, &jti, to("agent-10")).await;
    assert_eq!(error.code, Code::StateConflict);
    assert!(error.message.contains("2 deep"), "{error:?}");
}

/// What waits for people is not decided on by whoever handed the mandate on, and goes on under the whole chain.
#[tokio::test]
async fn who_handed_it_on_does_not_agree_and_all_of_the_chain_pays_in_the_end() {
    let house = crate::approvals::house_with(1, |_| {}).await;
    let root = root(&house).await;
    let wants = DelegateAsk { requires_approval: Some(vec!["Payments".into()]), ..to("agent-8") };
    let (_, middle) = hand_on(&house, &house.agent, &root, wants).await;
    let (token, leaf) = hand_on(&house, &agent(&house, "agent-8"), &middle, to("agent-9")).await;
    let nine = agent(&house, "agent-9");
    let held = pay(&house, &nine, &token, "a", "25.00").await;
    assert_eq!((&held["kind"], reasons(&held)), (&json!("held"), vec!["mandate_requires_approval"]));
    let id = held["id"].as_str().unwrap();
    for party in ["agent-9", "agent-8", "agent-7", "olga"] {
        let error = house.gateway().approve(&approver(&house, party), id, None).await.unwrap_err();
        assert_eq!(error.code, Code::Forbidden, "{party}: {error:?}");
    }
    house.gateway().approve(&approver(&house, "anna"), id, None).await.unwrap();
    for _ in 0..1000 {
        let said = pay(&house, &nine, &token, "a", "25.00").await;
        if said["kind"] == "executed" {
            break;
        }
        assert_ne!(said["kind"], "blocked", "{said}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    for jti in [&root, &middle, &leaf] {
        assert_eq!(spent(&house, jti).await, "25.00");
    }
}

fn new_key() -> SigningKey {
    let document = receipt::SigningKey::generate().unwrap().to_pkcs8().unwrap();
    SigningKey::from_pkcs8(Algorithm::Es256, &document).unwrap()
}

/// A key registered under this name.
async fn registered(house: &House, issuer: &str, signs: Signs) -> SigningKey {
    let key = new_key();
    let jwk = key.verifying().jwk();
    house.gateway().register_principal(&house.operator, issuer, jwk, signs).await.unwrap();
    key
}

async fn principal(house: &House, issuer: &str) -> SigningKey {
    registered(house, issuer, Signs::Mandates).await
}

/// The key of an agent who signs what it hands on.
async fn hands_on(house: &House, agent: &str) -> SigningKey {
    registered(house, agent, Signs::Children).await
}

fn claims(house: &House, jti: &str, iss: &str, sub: &str, chain: &[&str]) -> Claims {
    Claims {
        jti: jti.into(),
        iss: iss.into(),
        sub: sub.into(),
        aud: house.gateway().issuer().to_owned(),
        iat: 1_000,
        exp: END,
        mandate_scope: vec!["Payments".into()],
        spend_cap: Some(SpendCap { amount: "50.00".into(), currency: "USD".into() }),
        delegation_chain: Some(chain.iter().map(|jti| (*jti).to_owned()).collect()),
        ..Claims::default()
    }
}

fn sign(claims: &Claims, key: &SigningKey) -> String {
    mandate::issue(claims, key).unwrap()
}

#[tokio::test]
async fn what_a_registered_principal_signs_is_a_mandate_and_is_remembered() {
    let house = House::new().await;
    let alice = principal(&house, "alice").await;
    let token = sign(&claims(&house, "alice-1", "alice", "agent-7", &[]), &alice);
    // A dry run leaves nothing behind.
    let mut body = house.payment("acct-dry", "10.00");
    body["delegation_token"] = token.as_str().into();
    assert_eq!(house.dry_run("dry", &body).await.reasons(), ["would_execute"]);
    assert_eq!(events(&house, "mandate_presented"), 0);

    assert_eq!(pay(&house, &house.agent, &token, "a", "10.00").await["kind"], "executed");
    assert_eq!(events(&house, "mandate_presented"), 1);
    assert_eq!(spent(&house, "alice-1").await, "10.00");
    // The agent signs a child itself, as whoever it is known to be.
    let seven = hands_on(&house, "agent-7").await;
    let child = Claims { spend_cap: None, ..claims(&house, "seven-1", "agent-7", "agent-8", &["alice-1"]) };
    let eight = agent(&house, "agent-8");
    let said = pay(&house, &eight, &sign(&child, &seven), "b", "30.00").await;
    assert_eq!(said["kind"], "executed", "{said}");
    assert_eq!(spent(&house, "alice-1").await, "40.00");
    // It left out its cap, which is its parent's and not none.
    let over = pay(&house, &eight, &sign(&child, &seven), "c", "10.01").await;
    assert_eq!(reasons(&over), ["cap_exceeded"]);
    let standing = house.gateway().mandate(&house.operator, "seven-1").await.unwrap();
    assert_eq!((standing.principal.as_str(), standing.left.spend_cap), ("alice", usd("10.00")));
    // And one that is handed on from it is issued here.
    let (token, _) = hand_on(&house, &eight, "seven-1", to("agent-9")).await;
    let nine = agent(&house, "agent-9");
    assert_eq!(pay(&house, &nine, &token, "d", "5.00").await["kind"], "executed");
    assert_eq!(spent(&house, "alice-1").await, "45.00");

    // With the key at the root everything below it ends, and what was understood before does not help.
    let house = house.restart().await;
    assert_eq!(pay(&house, &nine, &token, "e", "1.00").await["kind"], "executed");
    let kid = alice.verifying().kid();
    house.gateway().revoke_principal(&house.operator, "alice", kid, None).await.unwrap();
    let ended = pay(&house, &nine, &token, "f", "1.00").await;
    assert_eq!(
        (&ended["code"], reasons(&ended)),
        (&json!("EP_DELEGATION_BLOCK"), vec!["mandate_key_unknown"])
    );
    assert_eq!(refused(&house, &nine, "seven-1", to("agent-10")).await.code, Code::NotFound);
    assert_eq!(refused(&house, &eight, "seven-1", to("agent-10")).await.code, Code::StateConflict);
}

#[tokio::test]
async fn a_chain_that_cannot_be_verified_is_denied_with_a_word() {
    let house = House::new().await;
    let (alice, seven) = (principal(&house, "alice").await, hands_on(&house, "agent-7").await);
    let root = sign(&claims(&house, "alice-1", "alice", "agent-7", &[]), &alice);
    assert_eq!(pay(&house, &house.agent, &root, "root", "10.00").await["kind"], "executed");
    let eight = agent(&house, "agent-8");
    let child = |jti: &str, chain: &[&str]| claims(&house, jti, "agent-7", "agent-8", chain);
    let first = Claims { spend_cap: None, ..child("seven-1", &["alice-1"]) };
    assert_eq!(pay(&house, &eight, &sign(&first, &seven), "first", "1.00").await["kind"], "executed");
    let wide = Claims { mandate_scope: vec!["Payments".into(), "Data".into()], ..child("w", &["alice-1"]) };
    let late = Claims { exp: END + 1, ..child("l", &["alice-1"]) };
    let dear = Claims {
        spend_cap: Some(SpendCap { amount: "45.00".into(), currency: "USD".into() }),
        ..child("d", &["alice-1"])
    };
    let before = rows(&house, "mandate");
    for (n, (word, claims, key)) in [
        ("chain_unresolved", child("u", &["unheard-of"]), &seven),
        ("chain_broken", child("b", &["seven-1"]), &seven),
        // Alice did not hold it.
        ("chain_broken", Claims { iss: "alice".into(), ..child("i", &["alice-1"]) }, &alice),
        ("narrowing_violation", wide, &seven),
        ("narrowing_violation", late, &seven),
        // 39.00 are left.
        ("narrowing_violation", dear, &seven),
        // Another's name with one's own key.
        ("mandate_key_unknown", claims(&house, "x", "alice", "agent-8", &[]), &seven),
        // A name that is taken.
        ("mandate_malformed", claims(&house, "alice-1", "alice", "agent-8", &[]), &alice),
    ]
    .into_iter()
    .enumerate()
    {
        let said = pay(&house, &eight, &sign(&claims, key), &format!("k{n}"), "1.00").await;
        assert_eq!(said["code"], "EP_DELEGATION_BLOCK", "{word}: {said}");
        assert_eq!(reasons(&said), [word], "{claims:?}");
        let document = receipt(&house, &said).await;
        assert_eq!(document["entries"][1]["error"]["reason"], word);
    }
    assert_eq!(rows(&house, "mandate"), before, "none of them is remembered");
}

#[tokio::test]
async fn a_key_of_a_principal_is_its_tenants_and_public() {
    let house = House::new().await;
    let key = new_key();
    let register = |issuer: &'static str, jwk: String| {
        let house = &house;
        async move { house.gateway().register_principal(&house.operator, issuer, &jwk, Signs::Mandates).await }
    };
    let jwk = key.verifying().jwk().to_owned();
    let entries = rows(&house, "entry");
    let private = jwk.replacen('{', "{\"d\":\"AAAA\",", 1);
    for (issuer, wrong, field) in [
        ("a b", jwk.clone(), "/iss"),
        ("bob", private, "/jwk"),
        ("bob", "{}".into(), "/jwk"),
        ("bob", "7".into(), "/jwk"),
    ] {
        let error = register(issuer, wrong).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (Code::ValidationFailed, Some(field)));
    }
    assert_eq!(rows(&house, "entry"), entries);
    register("bob", jwk.clone()).await.unwrap();
    assert_eq!(register("bob", jwk).await.unwrap_err().code, Code::StateConflict);
    let kid = key.verifying().kid();
    let gateway = house.gateway();
    let listed = gateway.principals(&house.operator).await.unwrap().remove(0);
    let shown = (&*listed.kid, listed.signs, &*listed.jwk);
    assert_eq!(shown, (kid, Signs::Mandates, key.verifying().jwk()));
    assert_eq!(gateway.principals(&house.agent).await.unwrap_err().code, Code::Forbidden);
    for (issuer, kid) in [("bob", "other"), ("carol", kid)] {
        let error = gateway.revoke_principal(&house.operator, issuer, kid, None).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (Code::NotFound, Some("/kid")));
    }
    gateway.revoke_principal(&house.operator, "bob", kid, None).await.unwrap();
    assert!(gateway.principals(&house.operator).await.unwrap()[0].revoked_at.is_some());
}

#[tokio::test]
async fn what_comes_late_above_the_cap_of_a_mandate_above_is_an_overage() {
    let (mut house, bank) = house_with(NO_RETRY, same, |_| {}).await;
    let root = root(&house).await;
    let capped = |amount| DelegateAsk { spend_cap: usd(amount), ..to("agent-7") };
    let (_, middle) = hand_on(&house, &house.operator, &root, capped("40.00")).await;
    let (leaf, _) = hand_on(&house, &house.operator, &middle, capped("25.00")).await;
    let (sibling, _) = hand_on(&house, &house.operator, &middle, capped("20.00")).await;
    house.token = leaf;
    let id = wrongly_failed(&house, &bank).await;
    // What was given back is spent by a sibling.
    let agent = house.agent.clone();
    assert_eq!(pay(&house, &agent, &sibling, "s", "20.00").await["kind"], "executed");
    let record = settled(&house, &id, 1).await;
    assert_eq!((record.state.as_str(), house.spent()), ("COMPLETED", 4500));
    assert_eq!(kinds(&record).last().copied(), Some("AMENDMENT_OVERAGE"), "45 of 40");
    assert_eq!(pay(&house, &agent, &sibling, "t", "1.00").await["code"], "EP_DELEGATION_BLOCK", "frozen");
}

#[tokio::test]
async fn whoever_holds_or_gave_a_mandate_of_the_chain_does_not_say_what_became_of_it() {
    let house = House::new().await;
    let root = root(&house).await;
    let (_, middle) = hand_on(&house, &house.operator, &root, to("anna")).await;
    let (token, _) = hand_on(&house, &agent(&house, "anna"), &middle, to("zoe")).await;
    let said = pay_to(&house, &agent(&house, "zoe"), &token, ("sandbox:silent", "k"), "5.00").await;
    assert_eq!(said["kind"], "pending_settlement", "{said}");
    let id = said["id"].as_str().unwrap();
    for party in ["zoe", "anna", "agent-7", "olga"] {
        let refused = resolve(&house, party, id, Decision::Failed).await.unwrap_err();
        assert_eq!(refused.code, Code::Forbidden, "{party}");
    }
    assert_eq!(resolve(&house, "ben", id, Decision::Failed).await.unwrap().state, "FAILED");
}

#[tokio::test]
async fn who_signs_what_it_hands_on_gives_no_mandate() {
    let house = House::new().await;
    let (alice, seven) = (principal(&house, "alice").await, hands_on(&house, "agent-7").await);
    let root = sign(&claims(&house, "alice-1", "alice", "agent-7", &[]), &alice);
    assert_eq!(pay(&house, &house.agent, &root, "root", "1.00").await["kind"], "executed");
    let before = rows(&house, "mandate");
    let wide = |jti: &str, sub: &str| Claims { spend_cap: None, ..claims(&house, jti, "agent-7", sub, &[]) };
    let given = [
        ("agent-7", sign(&wide("own", "agent-7"), &seven)),
        ("agent-8", sign(&wide("friends", "agent-8"), &seven)),
        // A principal gives to others.
        ("alice", sign(&claims(&house, "alice-2", "alice", "alice", &[]), &alice)),
    ];
    for (n, (who, token)) in given.iter().enumerate() {
        let said = pay(&house, &agent(&house, who), token, &format!("g{n}"), "400.00").await;
        let told = (&said["code"], reasons(&said));
        assert_eq!(told, (&json!("EP_DELEGATION_BLOCK"), vec!["issuer_no_principal"]), "{who}");
        let opened = house.gateway().open_session(&agent(&house, who), Some(token)).await;
        assert_eq!(opened.unwrap_err().code, Code::Forbidden, "{who}");
    }
    assert_eq!(rows(&house, "mandate"), before, "none of them is remembered");
    let child = Claims { spend_cap: None, ..claims(&house, "seven-1", "agent-7", "agent-8", &["alice-1"]) };
    let eight = agent(&house, "agent-8");
    assert_eq!(pay(&house, &eight, &sign(&child, &seven), "child", "1.00").await["kind"], "executed");
}

#[tokio::test]
async fn nobody_is_a_principal_and_an_agent() {
    let house = House::new().await;
    let gateway = house.gateway();
    let jwk = new_key().verifying().jwk().to_owned();
    let refused = gateway.register_principal(&house.operator, "agent-7", &jwk, Signs::Mandates).await;
    let refused = refused.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::StateConflict, Some("/signs")));
    gateway.register_principal(&house.operator, "agent-7", &jwk, Signs::Children).await.unwrap();

    let alice = principal(&house, "alice").await;
    let key = |subject: &str, role| {
        let subject = Subject::parse(subject).unwrap();
        let ask = KeyAsk { tenant: None, subject, role, default_mandate: None };
        async { gateway.create_key(&house.admin, ask).await.map(drop) }
    };
    let refused = key("alice", Role::Agent).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::StateConflict, Some("/subject")));
    key("alice", Role::Approver).await.unwrap();
    gateway.revoke_principal(&house.operator, "alice", alice.verifying().kid(), None).await.unwrap();
    key("alice", Role::Agent).await.unwrap();
    let refused = gateway.register_principal(&house.operator, "alice", &jwk, Signs::Mandates).await;
    assert_eq!(refused.unwrap_err().code, Code::StateConflict);

    // Nor does anybody make an agent of one who is a principal already, by a mandate of whatever kind.
    let bob = principal(&house, "bob").await;
    let ask = MandateAsk { subject: Subject::parse("bob").unwrap(), ..house.mandate_ask("9.00", END) };
    let refused = gateway.issue_mandate(&house.operator, ask).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::StateConflict, Some("/subject")));
    let refused = self::refused(&house, &house.operator, &root(&house).await, to("bob")).await;
    assert_eq!((refused.code, refused.field.as_deref()), (Code::StateConflict, Some("/subject")));
    let carol = principal(&house, "carol").await;
    let before = rows(&house, "mandate");
    let token = sign(&claims(&house, "carol-1", "carol", "bob", &[]), &carol);
    let said = pay(&house, &agent(&house, "bob"), &token, "c", "1.00").await;
    assert_eq!(reasons(&said), ["subject_is_principal"]);
    assert_eq!(rows(&house, "mandate"), before, "it is not remembered");
    gateway.revoke_principal(&house.operator, "bob", bob.verifying().kid(), None).await.unwrap();
    let said = pay(&house, &agent(&house, "bob"), &token, "d", "1.00").await;
    assert_eq!(said["kind"], "executed", "{said}");

    // What a key signs is covered by the hash on record.
    let sql = "UPDATE principal_key SET jwk = replace(jwk, 'children', 'mandates') WHERE issuer = 'agent-7'";
    assert_eq!(house.store().execute(sql, []).unwrap(), 1);
    assert_eq!(gateway.check_trail(&house.admin, None).await.unwrap().findings.len(), 1);
}

#[tokio::test]
async fn nobody_acts_under_their_own_word() {
    let house = House::new().await;
    let root = root(&house).await;
    let olga = house.operator.subject.as_str();
    let ask = MandateAsk { subject: house.operator.subject.clone(), ..house.mandate_ask("9.00", END) };
    let given = house.gateway().issue_mandate(&house.operator, ask).await.unwrap_err();
    let eight = agent(&house, "agent-8");
    let (_, middle) = hand_on(&house, &house.agent, &root, to("agent-8")).await;
    // Who hands on what another holds gives it, too.
    let petra = Caller { subject: Subject::parse("petra").unwrap(), ..house.operator.clone() };
    let (_, given_on) = hand_on(&house, &petra, &root, to("agent-8")).await;
    let before = rows(&house, "mandate");
    for refused in [
        given,
        refused(&house, &house.agent, &root, to(olga)).await,
        refused(&house, &eight, &middle, to(olga)).await,
        refused(&house, &petra, &root, to("petra")).await,
        refused(&house, &eight, &given_on, to("petra")).await,
    ] {
        assert_eq!((refused.code, refused.field.as_deref()), (Code::StateConflict, Some("/subject")));
    }
    assert_eq!(rows(&house, "mandate"), before);
    // Nor by what an agent signs.
    let seven = hands_on(&house, "agent-7").await;
    let child = Claims { spend_cap: None, ..claims(&house, "seven-1", "agent-7", olga, &[&root]) };
    let said = pay(&house, &agent(&house, olga), &sign(&child, &seven), "a", "1.00").await;
    assert_eq!(reasons(&said), ["subject_is_principal"]);
    assert_eq!(rows(&house, "mandate"), before, "it is not remembered");
    // Whoever holds one takes a narrower one, and has back what they handed on.
    let (own, _) = hand_on(&house, &house.agent, &root, to("agent-7")).await;
    let (back, _) = hand_on(&house, &eight, &middle, to("agent-7")).await;
    for (key, token) in [("b", own), ("c", back)] {
        assert_eq!(pay(&house, &house.agent, &token, key, "1.00").await["kind"], "executed");
    }
}

/// Keys that were registered before it was said what they sign.
#[tokio::test]
async fn of_a_key_that_says_nothing_an_agents_signs_the_least() {
    let house = House::new().await;
    let (alice, seven) = (principal(&house, "alice").await, hands_on(&house, "agent-7").await);
    for word in ["children", "mandates"] {
        let sql = "UPDATE principal_key SET jwk = replace(jwk, ?1, '')";
        house.store().execute(sql, [format!("\"signs\":\"{word}\",")]).unwrap();
    }
    for issuer in ["alice", "agent-7"] {
        let sql = "SELECT jwk FROM principal_key WHERE issuer = ?1";
        let jwk: String = house.store().query_row(sql, [issuer], |row| row.get(0)).unwrap();
        let issuer = format!("\"issuer\":\"{issuer}\"");
        house.retell("principal_key_registered", &issuer, |record| {
            let mut record: Value = serde_json::from_str(record).unwrap();
            record["jwkHash"] = hex::encode(Sha256::digest(&jwk)).into();
            record.to_string()
        });
    }
    let house = house.restart().await;
    let signs = house.gateway().principals(&house.operator).await.unwrap();
    let signs: Vec<_> = signs.iter().map(|key| (&*key.issuer, key.signs)).collect();
    assert_eq!(signs, [("alice", Signs::Mandates), ("agent-7", Signs::Children)]);
    let root = sign(&claims(&house, "alice-1", "alice", "agent-7", &[]), &alice);
    assert_eq!(pay(&house, &house.agent, &root, "root", "1.00").await["kind"], "executed");
    let own = sign(&claims(&house, "own", "agent-7", "agent-8", &[]), &seven);
    let said = pay(&house, &agent(&house, "agent-8"), &own, "own", "1.00").await;
    assert_eq!(reasons(&said), ["issuer_no_principal"]);
}
