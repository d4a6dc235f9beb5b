//! A mandate is a limit: what it carries, told as tables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use action::{Action, Catalogue, Request, Subject};
use countersign_mandate::{Account, Claims, Mandate, SpendCap, Use, exposure};
use serde_json::json;

#[test]
fn a_mandate_is_a_limit() {
    check(
        "
        mandate scope=Payments cap=500-USD until=12:00
        11:00  pay 200 to acct-1   -> pass
        11:01  pay 400 to acct-1   -> block cap_exceeded
        11:02  book                -> block out_of_scope
        11:03  pay 300 to acct-1   -> pass
        11:04  pay 0.01 to acct-1  -> block cap_exceeded
        12:00  pay 0.01 to acct-1  -> block mandate_expired
        ",
    );
}

#[test]
fn a_mandate_has_a_beginning_and_an_owner() {
    check(
        "
        mandate scope=PAYMENT_TRANSFER from=10:00 until=12:00
        09:59  pay 1 to acct-1            -> block mandate_not_yet_valid
        10:00  pay 1 to acct-1            -> pass
        10:01  pay 1 to acct-1 by=mallory -> block wrong_subject
        10:02  export                     -> block out_of_scope
        ",
    );
}

#[test]
fn resources_are_names_or_beginnings_of_names() {
    check(
        "
        mandate scope=Payments,Data resources=acct-1,shop:* until=12:00
        11:00  pay 1 to acct-1   -> pass
        11:00  pay 1 to acct-12  -> block resource_outside
        11:00  pay 1 to shop:7   -> pass
        11:00  pay 1 to Shop:7   -> block resource_outside
        11:00  export            -> block resource_outside
        ",
    );
}

#[test]
fn actions_are_counted() {
    check(
        "
        mandate scope=Payments,Data actions=2 until=12:00
        11:00  export            -> pass
        11:00  pay 1 to acct-1   -> pass
        11:00  export            -> block actions_used_up
        ",
    );
}

#[test]
fn a_cap_is_in_one_currency() {
    check(
        "
        mandate scope=Payments,Data cap=500-EUR until=12:00
        11:00  pay 1 to acct-1   -> block currency_mismatch
        11:00  export            -> pass
        ",
    );
}

#[test]
fn revoked_and_frozen_mandates_carry_nothing() {
    check(
        "
        mandate scope=Payments until=12:00 frozen
        11:00  pay 1 to acct-1   -> block mandate_frozen
        ",
    );
    check(
        "
        mandate scope=Payments until=12:00 revoked frozen
        11:00  pay 1 to acct-1   -> block mandate_revoked
        ",
    );
}

#[test]
fn the_callers_own_bound_holds_too() {
    check(
        "
        mandate scope=Payments cap=500-USD until=12:00
        11:00  pay 100 to acct-1 bound=100   -> pass
        11:00  pay 100 to acct-1 bound=99.99 -> block over_own_bound
        ",
    );
}

#[test]
fn a_price_that_only_the_provider_knows_is_not_at_stake_before_it_is_known() {
    let booking = action("book", &[]);
    assert_eq!(exposure(&booking), None);
    let quote = action::Money::parse("120.00", action::Currency::of("USD").unwrap()).unwrap();
    assert_eq!(exposure(&booking.with_quote(quote)), Some(quote));
}

#[test]
fn claims_that_cannot_be_kept_are_refused() {
    let refused = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        Mandate::of(&claims).unwrap_err().word()
    };
    assert_eq!(refused(|c| c.mandate_scope.clear()), "mandate_malformed");
    assert_eq!(refused(|c| c.mandate_scope = vec!["*".into()]), "mandate_malformed");
    assert_eq!(refused(|c| c.resources = Some(vec!["a*b".into()])), "mandate_malformed");
    assert_eq!(refused(|c| c.exp = c.iat), "mandate_malformed");
    assert_eq!(refused(|c| c.sub = "a b".into()), "mandate_malformed");
    assert_eq!(refused(|c| c.spend_cap = Some(cap("1.005", "USD"))), "mandate_malformed");
    assert_eq!(refused(|c| c.spend_cap = Some(cap("-1", "USD"))), "mandate_malformed");
    assert_eq!(refused(|c| c.spend_cap = Some(cap("1", "XXX"))), "mandate_malformed");
    assert_eq!(refused(|c| c.uncertainty_floor = serde_json::Number::from_f64(1.1)), "mandate_malformed");
    assert_eq!(refused(|c| c.delegation_chain = Some(vec!["r".into(), "r".into()])), "mandate_malformed");
    assert_eq!(refused(|c| c.delegation_chain = Some(vec![c.jti.clone()])), "mandate_malformed");
    assert_eq!(refused(|c| c.delegation_chain = Some(vec!["a b".into()])), "mandate_malformed");
    assert_eq!(refused(|c| c.cnf = Some(json!({"jkt": "x"}))), "key_bound_unsupported");
}

#[test]
fn an_empty_chain_is_no_delegation_and_another_has_a_root() {
    let claims = Claims { delegation_chain: Some(vec![]), ..claims() };
    assert_eq!(Mandate::of(&claims).unwrap().root_principal(), "alice");
    let root = Mandate::of(&claims).unwrap();
    let child = Claims {
        iss: "agent-7".into(),
        delegation_chain: Some(vec!["m-1".into()]),
        jti: "m-2".into(),
        ..claims
    };
    let child = Mandate::of(&child).unwrap().under(&root);
    assert_eq!((child.root_principal(), child.issuer.as_str(), child.depth()), ("alice", "agent-7", 1));
}

/// First line: the mandate. Every other line: time, what is asked, what becomes of it; what passes is debited.
#[track_caller]
fn check(table: &str) {
    let mut lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
    let (mandate, mut account) = mandate(lines.next().unwrap());
    for line in lines {
        let (asked, expected) = line.split_once("->").unwrap();
        let mut words = asked.split_whitespace();
        let now = seconds(words.next().unwrap());
        let words: Vec<&str> = words.collect();
        let action = action(words[0], &words[1..]);
        let caller = words.iter().find_map(|word| word.strip_prefix("by=")).unwrap_or("agent-7");
        let found = mandate.permits(&action, &Subject::parse(caller).unwrap(), &account, now);
        let told = match &found {
            Ok(()) => "pass".to_owned(),
            Err(refusal) => format!("block {}", refusal.word()),
        };
        assert_eq!(told, expected.trim(), "{line}");
        if found.is_ok() {
            account = account
                .debit(&mandate.limits(), &Use::of_money(exposure(&action)))
                .expect("what passes can be debited");
        }
    }
}

fn mandate(line: &str) -> (Mandate, Account) {
    let mut claims = claims();
    let mut account = Account::new("m-1");
    for word in line.split_whitespace().skip(1) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let list = || value.split(',').map(str::to_owned).collect();
        match name {
            "scope" => claims.mandate_scope = list(),
            "resources" => claims.resources = Some(list()),
            "cap" => claims.spend_cap = value.split_once('-').map(|(amount, currency)| cap(amount, currency)),
            "actions" => claims.max_actions = Some(value.parse().unwrap()),
            "from" => claims.nbf = Some(seconds(value)),
            "until" => claims.exp = seconds(value),
            "revoked" => account = account.revoke(1),
            "frozen" => account.frozen = true,
            other => panic!("{other}"),
        }
    }
    (Mandate::of(&claims).unwrap(), account)
}

fn action(verb: &str, words: &[&str]) -> Action {
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
    let (archetype, constraints) = match verb {
        "pay" => {
            let (amount, recipient) = (words[0], words[2]);
            let bound = value("bound=").unwrap_or("100000");
            let constraints = json!({"recipient": recipient, "amount_usd": amount, "max_total_usd": bound});
            ("PAYMENT_TRANSFER", constraints)
        }
        "book" => (
            "FLIGHT_BOOKING",
            json!({"origin": "BER", "destination": "LIS", "depart_date": "2026-06-01", "passengers": 1,
                   "cabin": "economy", "max_total_usd": "900"}),
        ),
        "export" => (
            "DATA_EXPORT",
            json!({"dataset": "crm", "format": "csv", "destination": "s3://x", "purpose": "report"}),
        ),
        other => panic!("{other}"),
    };
    let request = Request::from_value(json!({"archetype": archetype, "constraints": constraints})).unwrap();
    Action::of(request, Catalogue::builtin().get(archetype).unwrap()).unwrap()
}

fn claims() -> Claims {
    Claims {
        jti: "m-1".into(),
        iss: "alice".into(),
        sub: "agent-7".into(),
        aud: "https://gw.example".into(),
        iat: 0,
        exp: 86_400,
        mandate_scope: vec!["Payments".into()],
        ..Claims::default()
    }
}

fn cap(amount: &str, currency: &str) -> SpendCap {
    SpendCap { amount: amount.into(), currency: currency.into() }
}

fn seconds(clock: &str) -> i64 {
    let (hour, minute) = clock.split_once(':').unwrap();
    hour.parse::<i64>().unwrap() * 3600 + minute.parse::<i64>().unwrap() * 60
}
