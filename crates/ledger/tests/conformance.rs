//! What every ledger must do, whatever it stores in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::sync::Arc;
use std::thread;

use action::{ActionId, Subject, Tenant};
use common::*;
use ledger::{
    Admission, Admitted, ApiKey, Approval, Basis, By, CHARGING, Claim, Debit, Deferral, Draft, Effect, Error,
    Extension, FactsQuery, Filter, Hold, INFO_GIVEN, INFO_REQUESTED, Ledger, Link, Mandate, Obstacle,
    Outcome, PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED, PrincipalKey, RESERVED, ROLLING_BACK,
    Recorded, Resumption, Scope, Settlement, State, Tolerance, Used,
};
use mandate::{Account, Limits, Resource, ResourceEnvelope, Usage};

// Keys.

#[test]
fn a_key_is_claimed_once_and_answers_with_what_became_of_it() {
    on_every_ledger(|ledger| {
        let first = admitted(&*ledger, admission("k"));
        let again = |hash: u8| {
            let mut admission = admission("k");
            admission.intent.request_hash = [hash; 32];
            match admit(&*ledger, admission) {
                Admitted::Existing(existing) => existing,
                other => panic!("{other:?}"),
            }
        };
        let in_flight = again(1);
        assert_eq!((in_flight.id, in_flight.same_request, in_flight.state), (first, true, State::Sent));
        assert_eq!(in_flight.reply, None);
        assert!(!again(2).same_request);

        wait(ledger.settle(settlement(first, State::Executed, "a"))).unwrap();
        let settled = again(1);
        assert_eq!((settled.state, settled.reply.unwrap().body), (State::Executed, b"reply a".to_vec()));
    });
}

#[test]
fn a_key_belongs_to_tenant_environment_and_subject() {
    on_every_ledger(|ledger| {
        admitted(&*ledger, admission("k"));
        let variations: [fn(&mut Admission); 3] = [
            |admission| admission.intent.tenant = Tenant::parse("other").unwrap(),
            |admission| admission.intent.environment = action::Environment::Sandbox,
            |admission| admission.intent.subject = Subject::parse("agent-2").unwrap(),
        ];
        for vary in variations {
            let mut admission = admission("k");
            vary(&mut admission);
            admitted(&*ledger, admission);
        }
        let mut keyless = admission("k");
        keyless.intent.key = None;
        admitted(&*ledger, keyless.clone());
        keyless.intent.id = id();
        admitted(&*ledger, keyless);
    });
}

#[test]
fn a_refusal_claims_its_key_and_replays() {
    on_every_ledger(|ledger| {
        assert!(matches!(wait(ledger.refuse(refusal("k", "r"))).unwrap(), Recorded::New { .. }));
        let Recorded::Existing(existing) = wait(ledger.refuse(refusal("k", "other"))).unwrap() else {
            panic!("the key was claimed")
        };
        assert_eq!((existing.state, existing.reply.unwrap().body), (State::Refused, b"reply r".to_vec()));
        assert!(matches!(admit(&*ledger, admission("k")), Admitted::Existing(_)));
    });
}

#[test]
fn half_a_claim_finds_the_action_that_made_it() {
    on_every_ledger(|ledger| {
        let ids = ["k", "l"].map(|key| (key, admitted(&*ledger, admission(key))));
        let (tenant, other) = (Tenant::default(), Tenant::parse("other").unwrap());
        for (key, id) in ids {
            let half = Claim::of(&admission(key).intent).unwrap().half();
            assert_eq!(wait(ledger.claimant(&tenant, half)).unwrap(), Some(id), "{key}");
            assert_eq!(wait(ledger.claimant(&other, half)).unwrap(), None, "{key}");
            let near = (u128::from_be_bytes(half) ^ 1).to_be_bytes();
            assert_eq!(wait(ledger.claimant(&tenant, near)).unwrap(), None, "{key}");
        }
        assert_eq!(wait(ledger.claimant(&tenant, [0; 16])).unwrap(), None);
    });
}

#[test]
fn fifty_at_once_with_one_key_are_one_action() {
    on_every_ledger(|ledger| {
        let results = at_once(50, |_| admit(&*ledger, admission("k")));
        assert_eq!(results.iter().filter(|result| matches!(result, Admitted::New { .. })).count(), 1);
        let same =
            |result: &Admitted| matches!(result, Admitted::Existing(existing) if existing.same_request);
        assert_eq!(results.iter().filter(|result| same(result)).count(), 49);
    });
}

// Money.

#[test]
fn every_ancestor_is_debited_or_none() {
    on_every_ledger(|ledger| {
        admitted(&*ledger, payment("a", 600, &["leaf", "root"]));
        assert_eq!((spent(&*ledger, "leaf"), spent(&*ledger, "root")), (600, 600));
        let second = payment("b", 500, &["other", "root"]);
        assert_eq!(
            obstacle(&*ledger, second.clone()),
            Obstacle::CapExceeded { jti: "root".into(), left: usd(400) }
        );
        assert_eq!((spent(&*ledger, "other"), spent(&*ledger, "root")), (0, 600));
        // Nothing was claimed either.
        let mut smaller = second;
        smaller.intent.amount = Some(usd(400));
        admitted(&*ledger, smaller);
        assert_eq!(spent(&*ledger, "root"), 1000);
    });
}

#[test]
fn two_hundred_at_once_never_spend_more_than_the_cap() {
    on_every_ledger(|ledger| {
        let results = at_once(200, |number| admit(&*ledger, payment(&format!("k{number}"), 30, &["m"])));
        let passed = results.iter().filter(|result| matches!(result, Admitted::New { .. })).count();
        assert_eq!((passed, spent(&*ledger, "m")), (33, 990));
        let capped = |result: &Admitted| matches!(result, Admitted::Refused(Obstacle::CapExceeded { .. }));
        assert_eq!(results.iter().filter(|result| capped(result)).count(), 167);
    });
}

#[test]
fn actions_are_counted_and_currencies_kept_apart() {
    on_every_ledger(|ledger| {
        let limited = |key: &str| {
            let mut admission = payment(key, 1, &["m"]);
            admission.debits[0].link.limits.max_actions = Some(1);
            admission
        };
        admitted(&*ledger, limited("a"));
        assert_eq!(obstacle(&*ledger, limited("b")), Obstacle::ActionsUsedUp { jti: "m".into() });
        let mut euros = payment("c", 1, &["n"]);
        euros.intent.amount = action::Money::new(1, action::Currency::of("EUR").unwrap());
        assert_eq!(obstacle(&*ledger, euros), Obstacle::CurrencyMismatch { jti: "n".into() });
    });
}

#[test]
fn a_settlement_corrects_what_was_debited() {
    on_every_ledger(|ledger| {
        let charge = |key: &str, charged: Option<i64>| {
            let id = admitted(&*ledger, payment(key, 100, &["leaf", "root"]));
            let settlement = Settlement { charged, ..settlement(id, State::Executed, key) };
            wait(ledger.settle(settlement)).unwrap();
            (spent(&*ledger, "leaf"), spent(&*ledger, "root"))
        };
        assert_eq!(charge("kept", None), (100, 100));
        assert_eq!(charge("less", Some(30)), (130, 130));
        assert_eq!(charge("released", Some(0)), (130, 130));
        assert_eq!(charge("more", Some(150)), (280, 280));
    });
}

#[test]
fn an_overage_is_written_with_its_outcome_and_freezes_the_mandates() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let overage = |name: &str| Outcome {
            reply: None,
            entry: draft("overage"),
            ..outcome(State::Executed, &format!("{name}-over"))
        };
        let settle = |id, charged, name: &str| Settlement {
            charged,
            overage: Some(overage(name)),
            ..settlement(id, State::Executed, name)
        };
        let at_once = admitted(&*ledger, payment("a", 100, &["m"]));
        let entry = wait(ledger.settle(settle(at_once, Some(1500), "a"))).unwrap();
        assert_eq!(spent(&*ledger, "m"), 1500);
        // Another currency: frozen, though nothing more is taken.
        let doubted = admitted(&*ledger, payment("b", 100, &["n"]));
        wait(ledger.settle(settlement(doubted, State::InDoubt, "doubt"))).unwrap();
        wait(ledger.settle(settle(doubted, None, "b"))).unwrap();
        assert_eq!(spent(&*ledger, "n"), 100);
        for jti in ["m", "n"] {
            let next = payment(&format!("after {jti}"), 1, &[jti]);
            assert_eq!(obstacle(&*ledger, next), Obstacle::MandateChanged { jti: jti.into() });
        }

        let found = |id| -> Vec<_> {
            let outcomes = wait(ledger.outcomes(&tenant, id)).unwrap();
            outcomes.into_iter().map(|it| it.receipt.unwrap().id.into_string()).collect()
        };
        assert_eq!(found(at_once), ["receipt-a", "receipt-a-over"]);
        assert_eq!(found(doubted), ["receipt-doubt", "receipt-b", "receipt-b-over"]);
        for (id, name) in [(at_once, "a"), (doubted, "b")] {
            let stored = wait(ledger.action(&tenant, id)).unwrap().unwrap();
            assert_eq!(stored.state, State::Executed);
            assert_eq!(stored.reply.unwrap().body, format!("reply {name}").into_bytes(), "it stands");
            let settled = wait(ledger.address(&format!("short-{name}-over"))).unwrap().unwrap();
            assert_eq!((settled.action, settled.reply), (id, None));
        }
        let page = wait(ledger.entries(Some(entry - 1), 2)).unwrap();
        let events: Vec<_> = page
            .rows
            .iter()
            .map(|(_, bytes)| serde_json::from_slice::<serde_json::Value>(bytes).unwrap()["event"].clone())
            .collect();
        assert_eq!(events, ["executed", "overage"], "one right after the other");
        assert_eq!(wait(ledger.verify()).unwrap().receipts, 5);
    });
}

#[test]
fn nothing_stands_above_a_cap_without_an_overage() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let issued = |jti: &str, cap: &str| {
            Mandate {
            tenant: tenant.clone(),
            jti: jti.into(),
            subject: subject(),
            issuer: "alice".into(),
            issued_ms: NOW,
            expires_ms: NOW + 1000,
            claims: format!(
                r#"{{"jti":"{jti}","iss":"alice","sub":"a","aud":"b","iat":1,"exp":2,"mandate_scope":["Payments"],
                "spend_cap":{{"amount":"{cap}","currency":"USD"}}}}"#
            )
            .into_bytes(),
            chain: Vec::new(),
            kid: None,
        }
        };
        for (jti, cap) in [("leaf", "10.00"), ("root", "3.00")] {
            wait(ledger.issue(issued(jti, cap), event("mandate_issued"))).unwrap();
        }
        let failed = |key: &str, mandates: &[&str]| {
            let id = admitted(&*ledger, payment(key, 200, mandates));
            let none = Settlement { charged: Some(0), ..settlement(id, State::Failed, key) };
            wait(ledger.settle(none)).unwrap();
            id
        };
        let late = |id, charged, name: &str| Settlement {
            charged: Some(charged),
            ..settlement(id, State::Executed, &format!("{name}-late"))
        };
        let [one, two] = ["one", "two"].map(|key| failed(key, &["leaf", "root"]));
        wait(ledger.amend(amending(late(one, 200, "one")))).unwrap();
        let head = wait(ledger.entries(None, 100)).unwrap().rows.len();
        let result = wait(ledger.amend(amending(late(two, 101, "two"))));
        assert!(matches!(result, Err(Error::AboveCap(id)) if id == two), "{result:?}");
        assert_eq!(wait(ledger.action(&tenant, two)).unwrap().unwrap().state, State::Failed, "nothing of it");
        assert_eq!(wait(ledger.entries(None, 100)).unwrap().rows.len(), head);
        assert_eq!((spent(&*ledger, "leaf"), spent(&*ledger, "root")), (200, 200));
        // Just as much as is left is no overage, and none is asked of what gives back.
        wait(ledger.amend(amending(late(two, 100, "two")))).unwrap();
        assert_eq!((spent(&*ledger, "leaf"), spent(&*ledger, "root")), (300, 300));
        let three = failed("three", &["leaf"]);
        wait(ledger.amend(amending(late(three, 150, "three")))).unwrap();
        let four = failed("four", &["leaf"]);
        let over = Outcome { entry: draft("overage"), ..outcome(State::Executed, "over") };
        wait(ledger.amend(amending(Settlement { overage: Some(over), ..late(four, 900, "four") }))).unwrap();
        let held = wait(ledger.mandate(&tenant, "leaf")).unwrap().unwrap();
        assert_eq!((held.account.spent_minor, held.account.frozen), (1350, true));
        assert!(!wait(ledger.mandate(&tenant, "root")).unwrap().unwrap().account.frozen);
        // Of one that was not issued here nobody knows the cap.
        let foreign = failed("foreign", &["elsewhere"]);
        wait(ledger.amend(amending(late(foreign, 5000, "foreign")))).unwrap();
        assert_eq!(spent(&*ledger, "elsewhere"), 5000);
    });
}

#[test]
fn only_what_was_done_can_have_cost_too_much() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, payment("a", 100, &["m"]));
        for (to, over) in [(State::Failed, State::Executed), (State::Executed, State::Failed)] {
            let wrong = Settlement { overage: Some(outcome(over, "over")), ..settlement(id, to, "a") };
            let result = wait(ledger.settle(wrong));
            assert!(matches!(result, Err(Error::Illegal { .. })), "{result:?}");
        }
        assert_eq!(wait(ledger.outcomes(&Tenant::default(), id)).unwrap(), []);
        wait(ledger.settle(settlement(id, State::Executed, "a"))).unwrap();
    });
}

#[test]
fn doubt_keeps_the_money_and_a_late_effect_takes_it_again() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, payment("a", 100, &["m"]));
        wait(ledger.settle(settlement(id, State::InDoubt, "doubt"))).unwrap();
        assert_eq!(spent(&*ledger, "m"), 100);
        let absent = Settlement { charged: Some(0), ..settlement(id, State::Failed, "absent") };
        wait(ledger.settle(absent)).unwrap();
        assert_eq!(spent(&*ledger, "m"), 0);
        let late = Settlement { charged: Some(100), ..settlement(id, State::Executed, "late") };
        wait(ledger.amend(amending(late))).unwrap();
        assert_eq!(spent(&*ledger, "m"), 100);
        let states: Vec<_> = wait(ledger.outcomes(&Tenant::default(), id))
            .unwrap()
            .iter()
            .map(|settled| (settled.state, settled.receipt.clone().unwrap().id))
            .collect();
        let expected = [(State::InDoubt, "doubt"), (State::Failed, "absent"), (State::Executed, "late")]
            .map(|(state, name)| (state, receipt(name).id));
        assert_eq!(states, expected);
    });
}

// Effects.

#[test]
fn two_keys_with_one_effect_never_both_pass() {
    on_every_ledger(|ledger| {
        let results = at_once(100, |number| {
            admit(&*ledger, Admission { effect: effect(9), ..admission(&format!("k{number}")) })
        });
        assert_eq!(results.iter().filter(|result| matches!(result, Admitted::New { .. })).count(), 1);
    });
}

#[test]
fn an_effect_stands_in_the_way_within_its_window_unless_it_is_absent() {
    on_every_ledger(|ledger| {
        let with_effect = |key: &str, at_ms: i64| {
            let mut admission = Admission { effect: effect(9), ..admission(key) };
            admission.intent.at_ms = at_ms;
            admission
        };
        let first = admitted(&*ledger, with_effect("a", NOW));
        let Obstacle::Duplicate(earlier) = obstacle(&*ledger, with_effect("b", NOW + 599_999)) else {
            panic!("a duplicate")
        };
        assert_eq!((earlier.id, earlier.at_ms), (first, NOW));
        let (tenant, agent, asked) = (Tenant::default(), subject(), effect(9).unwrap());
        let asks = FactsQuery { effect: Some(&asked), ..query(&tenant, &agent) };
        assert_eq!(wait(ledger.facts(asks)).unwrap().earlier, Some(earlier));
        assert_eq!(wait(ledger.facts(FactsQuery { now_ms: NOW + 600_000, ..asks })).unwrap().earlier, None);

        // Known to be absent: it may be tried again under another key.
        wait(ledger.settle(settlement(first, State::Failed, "a"))).unwrap();
        let second = admitted(&*ledger, with_effect("c", NOW + 1));
        wait(ledger.settle(settlement(second, State::Executed, "c"))).unwrap();
        assert!(matches!(obstacle(&*ledger, with_effect("d", NOW + 2)), Obstacle::Duplicate(_)));

        let tolerated = Effect { tolerate: Tolerance::Anything, ..effect(9).unwrap() };
        admitted(&*ledger, Admission { effect: Some(tolerated), ..with_effect("e", NOW + 3) });
        admitted(&*ledger, with_effect("f", NOW + 600_003));
    });
}

#[test]
fn a_hold_claims_key_and_effect_but_no_money() {
    on_every_ledger(|ledger| {
        let hold = Admission { effect: effect(5), ..holding(payment("a", 900, &["m"]), hold(NOW + 100)) };
        let held = admitted(&*ledger, hold);
        assert_eq!(spent(&*ledger, "m"), 0);
        let same = Admission { effect: effect(5), ..payment("b", 1, &["m"]) };
        assert!(matches!(obstacle(&*ledger, same.clone()), Obstacle::Duplicate(_)));
        assert!(wait(ledger.expired(NOW + 99, None, 10)).unwrap().rows.is_empty());
        let expired = wait(ledger.expired(NOW + 100, None, 10)).unwrap().rows;
        assert_eq!(expired.iter().map(|stored| stored.id).collect::<Vec<_>>(), [held]);
        wait(ledger.settle(settlement(held, State::Refused, "expired"))).unwrap();
        assert!(wait(ledger.expired(NOW + 100, None, 10)).unwrap().rows.is_empty());
        admitted(&*ledger, same);
    });
}

// People.

#[test]
fn approvals_are_counted_once_for_each_person_and_the_last_one_approves() {
    on_every_ledger(|ledger| {
        let id = held(&*ledger, payment("a", 900, &["m"]), 2);
        let counted = wait(ledger.approve(approval(id, "anna"))).unwrap();
        assert_eq!((counted.given, counted.needed, counted.is_enough()), (1, 2, false));
        assert!(matches!(wait(ledger.approve(approval(id, "anna"))), Err(Error::Exists(_))));
        assert_eq!(state_of(&*ledger, id), State::Held);
        assert!(wait(ledger.approve(approval(id, "ben"))).unwrap().is_enough());
        assert_eq!(state_of(&*ledger, id), State::Approved);
        let late = wait(ledger.approve(approval(id, "carl")));
        assert!(
            matches!(late, Err(Error::Illegal { from: State::Approved, to: State::Approved, .. })),
            "{late:?}"
        );
        assert_eq!(spent(&*ledger, "m"), 0, "nothing is debited before it resumes");

        let given = wait(ledger.approvals(&Tenant::default(), id)).unwrap();
        let records: Vec<_> = given.iter().map(|given| given.record.clone()).collect();
        assert_eq!(records, ["anna", "ben"].map(|name| approval(id, name).record));
        assert_eq!(wait(ledger.approvals(&Tenant::parse("other").unwrap(), id)).unwrap(), []);
        let entries = wait(ledger.entries(None, 10)).unwrap().rows;
        let said: Vec<serde_json::Value> =
            entries.iter().map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect();
        let told: Vec<_> = said[2..].iter().map(|it| (it["event"].as_str(), it["state"].as_str())).collect();
        assert_eq!(told, [(Some("approved"), Some("INTENDED")), (Some("approved"), Some("APPROVED"))]);
        assert_eq!(wait(ledger.verify()).unwrap().approvals, 2);
    });
}

#[test]
fn of_many_who_decide_at_once_just_enough_count_and_one_is_the_last() {
    on_every_ledger(|ledger| {
        let id = held(&*ledger, admission("a"), 3);
        let by_one = at_once(20, |_| wait(ledger.approve(approval(id, "anna"))).is_ok());
        assert_eq!(by_one.into_iter().filter(|counted| *counted).count(), 1);
        let results = at_once(20, |number| wait(ledger.approve(approval(id, &format!("p{number}")))));
        let counted: Vec<_> = results.into_iter().filter_map(Result::ok).collect();
        assert_eq!(counted.len(), 2);
        assert_eq!(counted.iter().filter(|counted| counted.is_enough()).count(), 1);
    });
}

#[test]
fn a_rejection_and_what_it_comes_to_are_one_commit() {
    on_every_ledger(|ledger| {
        let id = held(&*ledger, payment("a", 900, &["m"]), 2);
        wait(ledger.approve(approval(id, "anna"))).unwrap();
        let denied = |token, state| Settlement { by: By::Holder(token), ..settlement(id, state, "denied") };
        let no = |given| wait(ledger.reject(approval(id, "ben"), given, denied(2, State::Refused)));
        let before = wait(ledger.verify()).unwrap();
        assert!(
            matches!(no(0), Err(Error::Illegal { from: State::Held, .. })),
            "its receipt would lack anna"
        );
        let before_her = wait(ledger.reject(approval(id, "ben"), 1, denied(1, State::Refused)));
        assert!(matches!(before_her, Err(Error::Fenced(_))), "it was read before her word");
        let twice = wait(ledger.reject(approval(id, "anna"), 1, denied(2, State::Refused)));
        assert!(matches!(twice, Err(Error::Exists(_))));
        let wrong = wait(ledger.reject(approval(id, "ben"), 1, denied(2, State::Executed)));
        assert!(matches!(wrong, Err(Error::Illegal { .. })));
        assert_eq!(wait(ledger.verify()).unwrap(), before, "no trace");

        no(1).unwrap();
        assert_eq!(state_of(&*ledger, id), State::Refused);
        for error in [wait(ledger.approve(approval(id, "carl"))).err(), no(2).err()] {
            assert!(matches!(error, Some(Error::Illegal { from: State::Refused, .. })), "{error:?}");
        }
        let after = wait(ledger.verify()).unwrap();
        assert_eq!((after.entries, after.approvals), (before.entries + 2, 2));
        assert!(
            matches!(admit(&*ledger, admission("a")), Admitted::Existing(existing) if existing.reply.is_some())
        );
    });
}

#[test]
fn nobody_ends_what_waits_without_what_people_said_meanwhile() {
    on_every_ledger(|ledger| {
        let end = |id, token, name: &str| {
            let by = By::Holder(token);
            wait(ledger.settle(Settlement { by, ..settlement(id, State::Failed, name) }))
        };
        let discussed = held(&*ledger, admission("a"), 2);
        wait(ledger.discuss(approval(discussed, "anna"), INFO_REQUESTED)).unwrap();
        let agreed = held(&*ledger, admission("b"), 1);
        assert!(wait(ledger.approve(approval(agreed, "anna"))).unwrap().is_enough());
        for (id, name) in [(discussed, "a"), (agreed, "b")] {
            let early = end(id, 1, name);
            assert!(matches!(early, Err(Error::Fenced(it)) if it == id), "{early:?}");
            end(id, 2, name).unwrap();
        }
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_expired_or_is_about_another_hold_is_not_decided() {
    on_every_ledger(|ledger| {
        let id = held(&*ledger, admission("a"), 1);
        let before = wait(ledger.verify()).unwrap();
        let expired = Approval { at_ms: NOW + 1000, ..approval(id, "anna") };
        let other = Approval { round: 2, ..approval(id, "anna") };
        for wrong in [expired, other] {
            let result = wait(ledger.approve(wrong));
            assert!(matches!(result, Err(Error::Illegal { from: State::Held, .. })), "{result:?}");
        }
        let nobody = wait(ledger.approve(approval(common::id(), "anna")));
        assert!(matches!(nobody, Err(Error::NoSuchAction(_))));
        assert_eq!(wait(ledger.verify()).unwrap(), before);
        let sent = admitted(&*ledger, admission("b"));
        assert!(matches!(
            wait(ledger.approve(approval(sent, "anna"))),
            Err(Error::Illegal { from: State::Sent, .. })
        ));
    });
}

#[test]
fn so_many_actions_of_an_agent_wait_at_once_and_no_more() {
    on_every_ledger(|ledger| {
        let asked = |key: &str| {
            let hold = Some(Hold { until_ms: NOW + 1000, needed: 1, most: 3 });
            Admission { hold, ..admission(key) }
        };
        admitted(&*ledger, admission("sent"));
        let results = at_once(20, |number| admit(&*ledger, asked(&format!("k{number}"))));
        let count = |is: fn(&Admitted) -> bool| results.iter().filter(|result| is(result)).count();
        assert_eq!(count(|result| matches!(result, Admitted::New { .. })), 3);
        assert_eq!(count(|result| *result == Admitted::Refused(Obstacle::TooManyHeld)), 17);

        // Others, and what does not wait, are not concerned.
        let mut of_another = asked("a");
        of_another.intent.subject = Subject::parse("agent-2").unwrap();
        admitted(&*ledger, of_another);
        let mut elsewhere = asked("a");
        elsewhere.intent.tenant = Tenant::parse("other").unwrap();
        admitted(&*ledger, elsewhere);
        admitted(&*ledger, admission("a"));

        // What is decided, one way or the other, makes room; and what waits again takes its own.
        let waits: Vec<_> = wait(ledger.held(&Tenant::default(), NOW, None, 10)).unwrap().rows;
        let mine: Vec<_> = waits.iter().filter(|stored| stored.subject == subject()).collect();
        assert_eq!(mine.len(), 3);
        assert_eq!(obstacle(&*ledger, asked("b")), Obstacle::TooManyHeld);
        wait(ledger.approve(approval(mine[0].id, "anna"))).unwrap();
        admitted(&*ledger, asked("b"));
        assert!(matches!(resume(&*ledger, mine[0].id, asked("again")), Admitted::New { .. }));
        let anew = resume_from(&*ledger, mine[1].id, Basis::Held { round: 1 }, asked("anew"));
        assert!(matches!(anew, Admitted::New { .. }));
        for ended in &mine[1..] {
            let by = By::Holder(wait(ledger.action(&Tenant::default(), ended.id)).unwrap().unwrap().token);
            let refused = settlement(ended.id, State::Refused, &ended.id.to_string());
            wait(ledger.settle(Settlement { by, ..refused })).unwrap();
        }
        admitted(&*ledger, asked("c"));
        assert_eq!(obstacle(&*ledger, asked("d")), Obstacle::TooManyHeld);
        // What has expired waits no more, although nobody has ended it yet.
        let mut late = asked("d");
        (late.intent.at_ms, late.hold) =
            (NOW + 1000, Some(Hold { until_ms: NOW + 2000, needed: 1, most: 3 }));
        admitted(&*ledger, late);
    });
}

#[test]
fn only_what_is_approved_resumes_and_only_once() {
    on_every_ledger(|ledger| {
        let asked = Admission { effect: effect(5), ..payment("a", 300, &["leaf", "root"]) };
        let id = held(&*ledger, asked.clone(), 1);
        let again = |minor| {
            let mut again = Admission { effect: effect(5), ..payment("a", minor, &["leaf", "root"]) };
            again.intent.payload = b"anew".to_vec();
            again.intent.entry = draft("admitted");
            again.destination = Some("shop".into());
            again
        };
        let early = resume(&*ledger, id, again(300));
        assert_eq!(early, Admitted::Refused(Obstacle::Overtaken), "nobody agreed");
        wait(ledger.approve(approval(id, "anna"))).unwrap();
        assert_eq!(wait(ledger.approved(None, 10)).unwrap().rows.len(), 1);
        assert_eq!(
            resume_of(&*ledger, id, 2, again(300)),
            Admitted::Refused(Obstacle::Overtaken),
            "they agreed to another hold"
        );
        let results = at_once(20, |_| resume(&*ledger, id, again(300)));
        assert_eq!(results.iter().filter(|result| matches!(result, Admitted::New { .. })).count(), 1);
        let late = |result: &&Admitted| **result == Admitted::Refused(Obstacle::Overtaken);
        assert_eq!(results.iter().filter(late).count(), 19);

        assert_eq!((spent(&*ledger, "leaf"), spent(&*ledger, "root")), (300, 300));
        let stored = wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.debit, &*stored.payload), (State::Sent, 300, &b"anew"[..]));
        assert_eq!(stored.mandates, ["leaf".into(), "root".into()]);
        let (tenant, agent) = (Tenant::default(), subject());
        let asks = FactsQuery { destination: Some("shop"), ..query(&tenant, &agent) };
        let facts = wait(ledger.facts(asks)).unwrap();
        assert_eq!((facts.series.amounts().collect::<Vec<_>>(), facts.first_seen), (vec![300], false));
        let open = wait(ledger.unsettled(None, 10)).unwrap().rows;
        assert_eq!(open.iter().map(|stored| stored.id).collect::<Vec<_>>(), [id]);
        assert_eq!(wait(ledger.revoke(&tenant, "root", event("revoked"))).unwrap().unsettled, [id]);
        let by = By::Holder(3);
        let less = Settlement { charged: Some(120), by, ..settlement(id, State::Executed, "a") };
        wait(ledger.settle(less)).unwrap();
        assert_eq!((spent(&*ledger, "leaf"), spent(&*ledger, "root")), (120, 120));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn whatever_stops_an_admission_stops_a_resumption_and_changes_nothing() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let asked = || Admission { effect: effect(5), ..payment("a", 600, &["m"]) };
        let id = held(&*ledger, asked(), 1);
        wait(ledger.approve(approval(id, "anna"))).unwrap();
        let refused = |expected: Obstacle| {
            assert_eq!(resume(&*ledger, id, asked()), Admitted::Refused(expected));
            assert_eq!(state_of(&*ledger, id), State::Approved);
        };

        wait(ledger.freeze(freeze(Scope::All), event("frozen"))).unwrap();
        refused(Obstacle::Frozen(Scope::All));
        wait(ledger.thaw(Scope::All, event("thawed"))).unwrap();

        let other = admitted(&*ledger, payment("b", 500, &["m"]));
        refused(Obstacle::CapExceeded { jti: "m".into(), left: usd(500) });
        wait(ledger.settle(Settlement { charged: Some(0), ..settlement(other, State::Failed, "b") }))
            .unwrap();

        // Somebody else did the same meanwhile; its own claim is no obstacle.
        let tolerated = Effect { tolerate: Tolerance::Anything, ..effect(5).unwrap() };
        let mut between = Admission { effect: Some(tolerated), ..admission("c") };
        between.intent.at_ms = NOW + 1;
        let between = admitted(&*ledger, between);
        let Admitted::Refused(Obstacle::Duplicate(earlier)) = resume(&*ledger, id, asked()) else {
            panic!("another came in between")
        };
        assert_eq!(earlier.id, between);
        let asks = FactsQuery { effect: Some(&tolerated), ..query(&tenant, subject_ref()) };
        let seen = wait(ledger.facts(FactsQuery { apart_from: Some(between), ..asks })).unwrap().earlier;
        assert_eq!(seen.map(|earlier| earlier.id), Some(id));
        let meant = Effect { tolerate: Tolerance::This(between), ..effect(5).unwrap() };
        let mut late = Admission { effect: Some(meant), ..asked() };
        late.debits[0].epoch = 7;
        assert_eq!(
            resume(&*ledger, id, late),
            Admitted::Refused(Obstacle::MandateChanged { jti: "m".into() })
        );
        wait(ledger.revoke(&tenant, "m", event("revoked"))).unwrap();
        refused(Obstacle::Revoked { jti: "m".into(), at_ms: NOW + 5 });

        let by = By::Holder(2);
        wait(ledger.settle(Settlement { by, ..settlement(id, State::Refused, "stopped") })).unwrap();
        assert_eq!(resume(&*ledger, id, asked()), Admitted::Refused(Obstacle::Overtaken));
        assert_eq!(spent(&*ledger, "m"), 0);
    });
}

#[test]
fn held_once_more_it_needs_everybody_once_more() {
    on_every_ledger(|ledger| {
        let id = held(&*ledger, payment("a", 900, &["m"]), 1);
        wait(ledger.approve(approval(id, "anna"))).unwrap();
        let more = holding(payment("a", 900, &["m"]), Hold { needed: 2, ..hold(NOW + 2000) });
        assert!(matches!(resume(&*ledger, id, more), Admitted::New { .. }));
        let stored = wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.round, stored.needed), (State::Held, 2, 2));
        assert_eq!((stored.expires_ms, stored.debit, spent(&*ledger, "m")), (Some(NOW + 2000), 0, 0));
        assert!(matches!(wait(ledger.approve(approval(id, "ben"))), Err(Error::Illegal { .. })), "of before");
        for (name, enough) in [("anna", false), ("ben", true)] {
            let second = Approval { round: 2, ..approval(id, name) };
            assert_eq!(wait(ledger.approve(second)).unwrap().is_enough(), enough);
        }
        assert_eq!(resume(&*ledger, id, admission("a")), Admitted::Refused(Obstacle::Overtaken));
        assert!(matches!(resume_of(&*ledger, id, 2, payment("a", 900, &["m"])), Admitted::New { .. }));
        assert_eq!(wait(ledger.approvals(&Tenant::default(), id)).unwrap().len(), 3);
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn a_resumed_action_claims_its_effect_from_then_on() {
    on_every_ledger(|ledger| {
        const LATER: i64 = NOW + 3_600_000;
        let at = |key: &str, at_ms: i64| {
            let mut admission = Admission { effect: effect(5), ..admission(key) };
            admission.intent.at_ms = at_ms;
            admission
        };
        let id = admitted(&*ledger, holding(at("a", NOW), hold(LATER + 1)));
        wait(ledger.approve(approval(id, "anna"))).unwrap();
        assert!(matches!(resume(&*ledger, id, at("a", LATER)), Admitted::New { .. }));
        let Obstacle::Duplicate(earlier) = obstacle(&*ledger, at("b", LATER + 599_999)) else {
            panic!("it was done a moment ago")
        };
        assert_eq!((earlier.id, earlier.at_ms), (id, LATER));
        admitted(&*ledger, at("c", LATER + 600_000));
        // Nothing is left of it when it is gone.
        let by = By::Holder(3);
        wait(ledger.settle(Settlement { by, ..settlement(id, State::Executed, "a") })).unwrap();
        assert_eq!(wait(ledger.prune(NOW + 1, 10, NOW)).unwrap(), 1);
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_waits_is_listed_for_its_tenant_and_expires_approved_or_not() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let ids: Vec<_> = (0..3).map(|n| held(&*ledger, admission(&format!("k{n}")), 1)).collect();
        let mut foreign = admission("x");
        foreign.intent.tenant = Tenant::parse("other").unwrap();
        held(&*ledger, foreign, 1);
        admitted(&*ledger, admission("sent"));
        wait(ledger.approve(approval(ids[1], "anna"))).unwrap();
        let list = |now_ms, after, limit| {
            let page = wait(ledger.held(&tenant, now_ms, after, limit)).unwrap();
            (page.rows.iter().map(|stored| stored.id).collect::<Vec<_>>(), page.next)
        };
        let (first, next) = list(NOW, None, 1);
        assert_eq!((first, list(NOW, next, 1).0), (vec![ids[2]], vec![ids[0]]));
        assert_eq!(list(NOW + 1000, None, 10).0, [], "what expired waits for nobody");
        let expired = wait(ledger.expired(NOW + 1000, None, 10)).unwrap().rows;
        assert_eq!(expired.iter().filter(|stored| stored.tenant == tenant).count(), 3);
        let by = By::Holder(2);
        wait(ledger.settle(Settlement { by, ..settlement(ids[1], State::Refused, "expired") })).unwrap();
        assert_eq!(wait(ledger.approved(None, 10)).unwrap().rows, []);
        assert_eq!(wait(ledger.prune(NOW + 2000, 10, NOW)).unwrap(), 4, "the sent one stays");
        assert_eq!(wait(ledger.approvals(&tenant, ids[1])).unwrap(), []);
        wait(ledger.verify()).unwrap();
    });
}

// What stops.

#[test]
fn a_freeze_stops_what_it_covers_and_a_thaw_ends_it() {
    on_every_ledger(|ledger| {
        let (tenant, other) = (Tenant::default(), Tenant::parse("other").unwrap());
        let scopes = [
            (Scope::All, true),
            (Scope::Tenant(tenant.clone()), true),
            (Scope::Tenant(other.clone()), false),
            (Scope::Agent(tenant.clone(), subject()), true),
            (Scope::Agent(other.clone(), subject()), false),
            (Scope::Archetype(tenant.clone(), "PAYMENT_TRANSFER".into()), true),
            (Scope::Archetype(tenant.clone(), "DATA_EXPORT".into()), false),
            (Scope::Provider("bank".into()), true),
            (Scope::Provider("hotel".into()), false),
        ];
        for (number, (scope, stops)) in scopes.into_iter().enumerate() {
            let freeze = freeze(scope.clone());
            wait(ledger.freeze(freeze.clone(), event("frozen"))).unwrap();
            let agent = subject();
            let facts = wait(ledger.facts(query(&tenant, &agent))).unwrap();
            assert_eq!(facts.frozen.is_some(), stops, "{scope}");
            let result = admit(&*ledger, admission(&format!("k{number}")));
            let frozen = Admitted::Refused(Obstacle::Frozen(scope.clone()));
            assert_eq!(result == frozen, stops, "{scope}: {result:?}");
            assert_eq!(**wait(ledger.freezes()).unwrap(), [freeze]);
            wait(ledger.thaw(scope.clone(), event("thawed"))).unwrap();
            assert!(matches!(wait(ledger.thaw(scope, event("thawed"))), Err(Error::Absent(_))));
        }
        admitted(&*ledger, admission("free"));
    });
}

#[test]
fn a_revocation_lists_what_is_open_and_nothing_follows_it() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let open = admitted(&*ledger, payment("a", 1, &["leaf", "root"]));
        let done = admitted(&*ledger, payment("b", 1, &["root"]));
        admitted(&*ledger, payment("c", 1, &["leaf"]));
        wait(ledger.settle(settlement(done, State::Executed, "b"))).unwrap();
        let revocation = wait(ledger.revoke(&tenant, "root", event("revoked"))).unwrap();
        assert_eq!((revocation.unsettled, revocation.at_ms), (vec![open], NOW + 5));
        let revoked = Obstacle::Revoked { jti: "root".into(), at_ms: NOW + 5 };
        assert_eq!(obstacle(&*ledger, payment("d", 1, &["leaf", "root"])), revoked);
        admitted(&*ledger, payment("e", 1, &["leaf"]));
        let mut other = payment("f", 1, &["root"]);
        other.intent.tenant = Tenant::parse("other").unwrap();
        admitted(&*ledger, other);
        // What was let go before may still settle.
        wait(ledger.settle(settlement(open, State::Executed, "a"))).unwrap();
        assert_eq!(wait(ledger.revoke(&tenant, "root", event("revoked"))).unwrap().unsettled, []);
    });
}

#[test]
fn a_revocation_wins_every_race_it_was_acknowledged_in() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        thread::scope(|scope| {
            let revoker = scope.spawn(|| {
                thread::sleep(std::time::Duration::from_millis(3));
                wait(ledger.revoke(&tenant, "m", event("revoked"))).unwrap()
            });
            let runners: Vec<_> = (0..8)
                .map(|runner| {
                    let ledger = &ledger;
                    scope.spawn(move || {
                        let keys = (0..).map(|number| format!("{runner}-{number}"));
                        let admissions = keys.map(|key| Admission {
                            debits: vec![debit("m", i64::MAX >> 20)],
                            ..admission(&key)
                        });
                        let mut passed = Vec::new();
                        for admission in admissions {
                            let id = admission.intent.id;
                            match admit(&**ledger, admission) {
                                Admitted::New { .. } => passed.push(id),
                                Admitted::Refused(Obstacle::Revoked { .. }) => return passed,
                                other => panic!("{other:?}"),
                            }
                        }
                        passed
                    })
                })
                .collect();
            let mut passed: Vec<_> = runners.into_iter().flat_map(|runner| runner.join().unwrap()).collect();
            let mut listed = revoker.join().unwrap().unsettled;
            passed.sort_unstable();
            listed.sort_unstable();
            assert_eq!(passed, listed);
        });
    });
}

#[test]
fn a_permit_of_another_epoch_is_judged_anew() {
    on_every_ledger(|ledger| {
        let mut admission = payment("a", 1, &["m"]);
        admission.debits[0].epoch = 1;
        assert_eq!(obstacle(&*ledger, admission), Obstacle::MandateChanged { jti: "m".into() });
    });
}

// States.

#[test]
fn only_the_allowed_steps_are_taken_and_the_others_name_both_sides() {
    on_every_ledger(|ledger| {
        for (number, to) in State::ALL.into_iter().enumerate() {
            let id = admitted(&*ledger, admission(&format!("k{number}")));
            let result = wait(ledger.settle(settlement(id, to, &format!("n{number}"))));
            if State::Sent.may_settle(to) {
                result.unwrap();
            } else {
                let Err(Error::Illegal { from, to: wanted, .. }) = result else { panic!("{to} was allowed") };
                assert_eq!((from, wanted), (State::Sent, to));
                assert_eq!(wait(ledger.outcomes(&Tenant::default(), id)).unwrap(), []);
            }
        }
        let nobody = settlement(id(), State::Executed, "nobody");
        assert!(matches!(wait(ledger.settle(nobody)), Err(Error::NoSuchAction(_))));
    });
}

#[test]
fn of_two_that_settle_at_once_one_comes_late() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, payment("a", 100, &["m"]));
        let results = at_once(10, |number| {
            let release =
                Settlement { charged: Some(0), ..settlement(id, State::Failed, &format!("n{number}")) };
            wait(ledger.settle(release)).is_ok()
        });
        assert_eq!(results.into_iter().filter(|settled| *settled).count(), 1);
        assert_eq!(spent(&*ledger, "m"), 0);
    });
}

#[test]
fn unsettled_actions_are_found_page_by_page() {
    on_every_ledger(|ledger| {
        let ids: Vec<_> = (0..7).map(|number| admitted(&*ledger, admission(&format!("k{number}")))).collect();
        wait(ledger.settle(settlement(ids[2], State::Executed, "done"))).unwrap();
        wait(ledger.settle(settlement(ids[4], State::InDoubt, "doubt"))).unwrap();
        admitted(&*ledger, holding(admission("held"), hold(NOW)));
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = wait(ledger.unsettled(after, 2)).unwrap();
            found.extend(page.rows.iter().map(|stored| stored.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, [ids[0], ids[1], ids[3], ids[4], ids[5], ids[6]]);
    });
}

// History.

#[test]
fn admissions_become_the_history_of_their_principal() {
    on_every_ledger(|ledger| {
        let (tenant, agent) = (Tenant::default(), subject());
        let asks = FactsQuery { destination: Some("shop"), ..query(&tenant, &agent) };
        assert!(wait(ledger.facts(asks)).unwrap().first_seen);
        for minor in [10, 20, 30] {
            let admission = Admission {
                destination: Some("shop".into()),
                ..payment(&format!("k{minor}"), minor, &["m"])
            };
            admitted(&*ledger, admission);
        }
        admitted(&*ledger, holding(payment("held", 40, &["m"]), hold(NOW)));
        obstacle(&*ledger, payment("over", 5000, &["m"]));
        let facts = wait(ledger.facts(asks)).unwrap();
        assert!(!facts.first_seen);
        let mut amounts: Vec<_> = facts.series.amounts().collect();
        amounts.sort_unstable();
        assert_eq!(amounts, [10, 20, 30]);
        assert_eq!(facts.accounts, []);
        let strangers = FactsQuery { principal: "bob", ..asks };
        let facts = wait(ledger.facts(strangers)).unwrap();
        assert_eq!((facts.first_seen, facts.series.amounts().count()), (true, 0));
    });
}

#[test]
fn an_equal_refusal_of_the_last_minute_is_counted() {
    on_every_ledger(|ledger| {
        let (tenant, agent) = (Tenant::default(), subject());
        let asked =
            |now_ms| wait(ledger.repeated(&tenant, &agent, "EP_BOUNDARY_BLOCK", &[1; 32], now_ms)).unwrap();
        assert_eq!(asked(NOW), None);
        let refusal = refusal("k", "r");
        let id = refusal.intent.id;
        wait(ledger.refuse(refusal)).unwrap();
        let counts: Vec<_> =
            (0..3).map(|_| asked(NOW + 59_999).unwrap()).map(|it| (it.action, it.count)).collect();
        assert_eq!(counts, [(id, 1), (id, 2), (id, 3)]);
        assert_eq!(asked(NOW + 60_000), None);
        let other = wait(ledger.repeated(&tenant, &agent, "EP_FROZEN", &[1; 32], NOW)).unwrap();
        assert_eq!(other, None);
    });
}

// Finding.

#[test]
fn receipts_are_found_by_every_address_and_only_by_whose_they_are() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let first = admitted(&*ledger, admission("a"));
        wait(ledger.settle(settlement(first, State::Executed, "a"))).unwrap();
        wait(ledger.refuse(refusal("b", "b"))).unwrap();
        for name in ["a", "b"] {
            let expected = receipt(name);
            let by_id = wait(ledger.receipt(&tenant, &expected.id)).unwrap().unwrap();
            assert_eq!(by_id.receipt.as_ref(), Some(&expected));
            assert_eq!(wait(ledger.address(&expected.short)).unwrap().as_ref(), Some(&by_id));
            assert_eq!(wait(ledger.address(&expected.signature)).unwrap().as_ref(), Some(&by_id));
        }
        let other = Tenant::parse("other").unwrap();
        assert_eq!(wait(ledger.receipt(&other, "receipt-a")).unwrap(), None);
        assert_eq!(wait(ledger.action(&other, first)).unwrap(), None);
        assert_eq!(wait(ledger.outcomes(&other, first)).unwrap(), []);
        assert_eq!(wait(ledger.address("short-c")).unwrap(), None);
    });
}

#[test]
fn an_action_reads_back_as_it_was_handed_in() {
    on_every_ledger(|ledger| {
        let mut admission = payment("a", 250, &["leaf", "root"]);
        admission.intent.payload = b"{\"recipient\":\"shop\"}".to_vec();
        let intent = admission.intent.clone();
        admitted(&*ledger, admission);
        let stored = wait(ledger.action(&intent.tenant, intent.id)).unwrap().unwrap();
        assert_eq!(stored.key, intent.key);
        assert_eq!(stored.request_hash, intent.request_hash);
        assert_eq!(*stored.archetype, *intent.archetype);
        assert_eq!(*stored.principal, *intent.principal);
        assert_eq!(stored.mandates, ["leaf".into(), "root".into()]);
        assert_eq!((stored.state, stored.at_ms, stored.debit), (State::Sent, NOW, 250));
        assert_eq!(stored.currency.as_deref(), Some("USD"));
        assert_eq!((stored.payload, stored.reply), (intent.payload, None));
    });
}

#[test]
fn lists_are_a_tenants_own_filtered_and_paged_newest_first() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let ids: Vec<_> = (0..5)
            .map(|number| {
                let mut admission = admission(&format!("k{number}"));
                admission.intent.at_ms = NOW + number;
                admitted(&*ledger, admission)
            })
            .collect();
        let mut foreign = admission("x");
        foreign.intent.tenant = Tenant::parse("other").unwrap();
        admitted(&*ledger, foreign);
        wait(ledger.settle(settlement(ids[1], State::Executed, "x"))).unwrap();
        let list = |filter: Filter, after, limit| {
            let page = wait(ledger.actions(&tenant, filter, after, limit)).unwrap();
            (page.rows.iter().map(|stored| stored.id).collect::<Vec<_>>(), page.next)
        };
        let (first, next) = list(Filter::default(), None, 3);
        assert_eq!(first, [ids[4], ids[3], ids[2]]);
        assert_eq!(list(Filter::default(), next, 3), (vec![ids[1], ids[0]], None));
        let executed = Filter { state: Some(State::Executed), ..Filter::default() };
        assert_eq!(list(executed, None, 10).0, [ids[1]]);
        let between = Filter { from_ms: Some(NOW + 1), to_ms: Some(NOW + 3), ..Filter::default() };
        assert_eq!(list(between, None, 10).0, [ids[2], ids[1]]);
        let nobody = Filter { subject: Some(Subject::parse("agent-2").unwrap()), ..Filter::default() };
        assert_eq!(list(nobody, None, 10).0, []);
        let nothing = Filter { archetype: Some("DATA_EXPORT".into()), ..Filter::default() };
        assert_eq!(list(nothing, None, 10).0, []);
    });
}

// Time and resources.

/// An admission that takes a second and more of each mandate.
fn cycle(key: &str, mandates: &[&str], usage: Usage) -> Admission {
    let envelope = ResourceEnvelope {
        max_compute_units: Some(10),
        max_duration_seconds: Some(3),
        ..ResourceEnvelope::default()
    };
    let mut admission = admission(key);
    admission.intent.usage = usage;
    let limits = Limits { envelope, ..Limits::default() };
    admission.debits = mandates
        .iter()
        .map(|jti| Debit { link: Link { jti: (*jti).into(), limits }, epoch: 0, seen: None })
        .collect();
    admission
}

/// Between the judgement and the admission somebody else may take what policies looked at.
#[test]
fn who_is_judged_by_what_is_left_is_judged_anew_once_that_is_less() {
    on_every_ledger(|ledger| {
        let judged = |key: &str, seen: Account| {
            let mut admission = cycle(key, &["m1"], Usage { seconds: 1, ..Usage::default() });
            admission.debits[0].seen = Some(seen);
            admission
        };
        let unused = account(&*ledger, "m1");
        admitted(&*ledger, judged("a", unused.clone()));
        let late = admit(&*ledger, judged("b", unused));
        assert!(matches!(late, Admitted::Refused(Obstacle::MandateChanged { .. })), "{late:?}");
        admitted(&*ledger, judged("b", account(&*ledger, "m1")));
        // Who was not judged by it does not mind.
        admitted(&*ledger, cycle("c", &["m1"], Usage { seconds: 1, ..Usage::default() }));
    });
}

fn account(ledger: &dyn Ledger, jti: &str) -> Account {
    let (tenant, subject, mandates) = (Tenant::default(), subject(), [Arc::from(jti)]);
    let facts = wait(ledger.facts(FactsQuery { mandates: &mandates, ..query(&tenant, &subject) }));
    facts.unwrap().accounts.remove(0)
}

#[test]
fn time_and_resources_are_taken_from_the_whole_chain_and_corrected_in_all_of_it() {
    on_every_ledger(|ledger| {
        let usage =
            Usage { seconds: 1, compute_units: 4, memory_bytes: 70, storage_bytes: 8, egress_bytes: 9 };
        let id = admitted(&*ledger, cycle("a", &["leaf", "root"], usage));
        for jti in ["leaf", "root"] {
            assert_eq!(account(&*ledger, jti).used, usage);
        }
        // What is not known yet stays as it was taken.
        let settled = settlement(id, State::InDoubt, "a");
        wait(ledger.settle(settled)).unwrap();
        assert_eq!(account(&*ledger, "root").used, usage);
        let really =
            Usage { seconds: 2, compute_units: 1, memory_bytes: 50, storage_bytes: 8, egress_bytes: 0 };
        wait(ledger.settle(Settlement {
            used: Some(Used { usage: really, ..Used::default() }),
            ..settlement(id, State::Executed, "b")
        }))
        .unwrap();
        for jti in ["leaf", "root"] {
            let found = account(&*ledger, jti);
            assert_eq!(found.used, Usage { memory_bytes: 70, ..really }, "{jti}");
            assert_eq!(found.actions, 1);
        }
        // A sibling has what is left of the root: one second, and nine units.
        let asked = |seconds, compute_units| Usage { seconds, compute_units, ..Usage::default() };
        let over = |usage| obstacle(&*ledger, cycle("c", &["sibling", "root"], usage));
        let exceeded = |resource| Obstacle::EnvelopeExceeded { jti: "root".into(), resource };
        assert_eq!(over(asked(2, 0)), exceeded(Resource::Seconds));
        assert_eq!(over(asked(1, 10)), exceeded(Resource::ComputeUnits));
        assert_eq!(account(&*ledger, "sibling"), Account::new("sibling"), "all are debited or none");
        admitted(&*ledger, cycle("d", &["sibling", "root"], asked(1, 9)));
        assert_eq!(over(asked(1, 0)), exceeded(Resource::Seconds));
        // What takes no time is no cycle.
        admitted(&*ledger, cycle("e", &["sibling", "root"], Usage::default()));
    });
}

// Mandates, credentials, keys, texts.

#[test]
fn nothing_descends_from_what_is_revoked_or_unknown() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let mandate = |jti: &str, chain: &[&str], kid: Option<&str>| Mandate {
            tenant: tenant.clone(),
            jti: jti.into(),
            subject: subject(),
            issuer: "alice".into(),
            issued_ms: NOW,
            expires_ms: NOW + 1000,
            claims: b"{}".to_vec(),
            chain: chain.iter().map(|jti| Box::from(*jti)).collect(),
            kid: kid.map(Box::from),
        };
        let issue = |mandate| wait(ledger.issue(mandate, event("mandate_delegated")));
        let ended = |mandate| match issue(mandate) {
            Err(Error::Absent(jti)) => jti,
            other => panic!("{other:?}"),
        };
        assert_eq!(&*ended(mandate("child", &["root"], None)), "root");
        issue(mandate("root", &[], Some("key-1"))).unwrap();
        issue(mandate("child", &["root"], None)).unwrap();
        let held = wait(ledger.mandate(&tenant, "child")).unwrap().unwrap();
        assert_eq!(held.mandate, mandate("child", &["root"], None));
        let held = wait(ledger.mandate(&tenant, "root")).unwrap().unwrap();
        assert_eq!(held.mandate.kid.as_deref(), Some("key-1"));
        wait(ledger.revoke(&tenant, "root", event("mandate_revoked"))).unwrap();
        assert_eq!(&*ended(mandate("late", &["root"], None)), "root");
        assert_eq!(&*ended(mandate("grandchild", &["root", "child"], None)), "root");
        assert_eq!(wait(ledger.mandate(&tenant, "late")).unwrap(), None);
    });
}

#[test]
fn a_revocation_tells_what_is_open_under_every_descendant() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let own = admitted(&*ledger, payment("a", 10, &["root"]));
        let childs = admitted(&*ledger, payment("b", 10, &["child", "root"]));
        let grandchilds = admitted(&*ledger, payment("c", 10, &["grandchild", "child", "root"]));
        let others = admitted(&*ledger, payment("d", 10, &["other"]));
        let done = admitted(&*ledger, payment("e", 10, &["child", "root"]));
        wait(ledger.settle(settlement(done, State::Executed, "e"))).unwrap();
        let told = wait(ledger.revoke(&tenant, "child", event("mandate_revoked"))).unwrap();
        assert_eq!(told.unsettled, [childs, grandchilds]);
        let told = wait(ledger.revoke(&tenant, "root", event("mandate_revoked"))).unwrap();
        assert_eq!(told.unsettled, [own, childs, grandchilds]);
        let revoked = obstacle(&*ledger, payment("f", 10, &["grandchild", "child", "root"]));
        assert!(matches!(revoked, Obstacle::Revoked { jti, .. } if &*jti == "child"));
        wait(ledger.settle(settlement(others, State::Executed, "d"))).unwrap();
    });
}

/// Children keep being admitted while their ancestor is revoked. What the acknowledgement does not know of was admitted
/// before it and is settled, or was not admitted at all.
#[test]
fn a_revocation_races_five_hundred_admissions_of_children() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let revoked = std::sync::atomic::AtomicBool::new(false);
        let (admitted, acknowledged) = thread::scope(|scope| {
            let worker = |worker: usize| {
                let (ledger, revoked) = (&ledger, &revoked);
                scope.spawn(move || {
                    let child = format!("child-{}", worker % 3);
                    let mut admitted = Vec::new();
                    for number in 0..125 {
                        let known = revoked.load(std::sync::atomic::Ordering::SeqCst);
                        let asked = payment(&format!("{worker}-{number}"), 0, &[&child, "root"]);
                        let id = asked.intent.id;
                        match admit(&**ledger, asked) {
                            Admitted::New { .. } if known => panic!("admitted after the acknowledgement"),
                            Admitted::New { .. } => admitted.push(id),
                            Admitted::Refused(Obstacle::Revoked { jti, .. }) => assert_eq!(&*jti, "root"),
                            other => panic!("{other:?}"),
                        }
                    }
                    admitted
                })
            };
            let workers: Vec<_> = (0..4).map(worker).collect();
            // Some come before it, whoever is how fast.
            while account(&*ledger, "root").actions < 20 {
                thread::yield_now();
            }
            let told = wait(ledger.revoke(&tenant, "root", event("mandate_revoked"))).unwrap();
            revoked.store(true, std::sync::atomic::Ordering::SeqCst);
            let admitted: Vec<ActionId> =
                workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
            (admitted, told.unsettled)
        });
        let sorted = |mut ids: Vec<ActionId>| {
            ids.sort();
            ids
        };
        assert!(admitted.len() >= 20);
        assert_eq!(sorted(admitted), sorted(acknowledged), "none before it is missing, none came after it");
    });
}

#[test]
fn a_key_of_a_principal_is_its_tenants_and_does_not_come_back() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let key = |issuer: &str, kid: &str| PrincipalKey {
            tenant: tenant.clone(),
            issuer: issuer.into(),
            kid: kid.into(),
            jwk: "{}".into(),
            created_ms: NOW,
            created_by: "ops".into(),
            revoked_ms: None,
        };
        let register = |key| wait(ledger.register_principal(key, event("principal_registered")));
        register(key("alice", "k1")).unwrap();
        register(key("bob", "k1")).unwrap();
        assert!(matches!(register(key("alice", "k1")), Err(Error::Exists(_))));
        let end = |tenant, issuer, kid| {
            wait(ledger.revoke_principal(tenant, issuer, kid, event("principal_revoked")))
        };
        let other = Tenant::parse("other").unwrap();
        assert!(matches!(end(&other, "alice", "k1"), Err(Error::Absent(_))));
        assert!(matches!(end(&tenant, "alice", "k2"), Err(Error::Absent(_))));
        end(&tenant, "alice", "k1").unwrap();
        assert!(matches!(end(&tenant, "alice", "k1"), Err(Error::Absent(_))));
        assert!(matches!(register(key("alice", "k1")), Err(Error::Exists(_))));
        let all = wait(ledger.principals()).unwrap();
        let found: Vec<_> = all.iter().map(|key| (&*key.issuer, key.revoked_ms.is_some())).collect();
        assert_eq!(found, [("alice", true), ("bob", false)]);
    });
}

#[test]
fn mandates_are_issued_once_and_show_what_is_left() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let mandate = |jti: &str| Mandate {
            tenant: tenant.clone(),
            jti: jti.into(),
            subject: subject(),
            issuer: "alice".into(),
            issued_ms: NOW,
            expires_ms: NOW + 1000,
            claims: b"{}".to_vec(),
            chain: Vec::new(),
            kid: None,
        };
        for jti in ["m1", "m2", "m3"] {
            wait(ledger.issue(mandate(jti), event("mandate_issued"))).unwrap();
        }
        assert!(matches!(wait(ledger.issue(mandate("m1"), event("mandate_issued"))), Err(Error::Exists(_))));
        admitted(&*ledger, payment("a", 70, &["m2"]));
        let held = wait(ledger.mandate(&tenant, "m2")).unwrap().unwrap();
        assert_eq!((held.mandate, held.account.spent_minor, held.account.actions), (mandate("m2"), 70, 1));
        wait(ledger.revoke(&tenant, "m3", event("mandate_revoked"))).unwrap();
        let page = wait(ledger.mandates(&tenant, None, 2)).unwrap();
        let names: Vec<_> =
            page.rows.iter().map(|held| (&*held.mandate.jti, held.account.revoked_at)).collect();
        assert_eq!(names, [("m3", Some(NOW + 5)), ("m2", None)]);
        let rest = wait(ledger.mandates(&tenant, page.next, 2)).unwrap();
        assert_eq!(rest.rows.len(), 1);
        assert_eq!(wait(ledger.mandate(&Tenant::parse("other").unwrap(), "m2")).unwrap(), None);
    });
}

#[test]
fn a_credential_is_known_until_it_is_revoked() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let key = ApiKey {
            hash: [3; 32],
            id: "key-1".into(),
            tenant: tenant.clone(),
            subject: subject(),
            role: "agent".into(),
            default_mandate: Some("m1".into()),
            created_ms: NOW,
            created_by: Some("ada".into()),
            revoked_ms: None,
        };
        wait(ledger.add_key(key.clone(), event("key_created"))).unwrap();
        assert!(matches!(wait(ledger.add_key(key.clone(), event("key_created"))), Err(Error::Exists(_))));
        assert_eq!(wait(ledger.key(&[3; 32])).unwrap().as_deref(), Some(&key));
        let other = Tenant::parse("other").unwrap();
        assert!(matches!(
            wait(ledger.revoke_key(&other, "key-1", event("key_revoked"))),
            Err(Error::Absent(_))
        ));
        wait(ledger.revoke_key(&tenant, "key-1", event("key_revoked"))).unwrap();
        assert_eq!(wait(ledger.key(&[3; 32])).unwrap(), None);
        assert_eq!(wait(ledger.keys(&tenant)).unwrap(), [ApiKey { revoked_ms: Some(NOW + 5), ..key }]);
        assert_eq!(wait(ledger.keys(&other)).unwrap(), []);
    });
}

#[test]
fn a_passkey_counts_from_its_enrolment_to_its_end() {
    on_every_ledger(|ledger| {
        let (tenant, other) = (Tenant::default(), Tenant::parse("other").unwrap());
        let register = |id: &str, credential: &[u8]| {
            wait(ledger.register_passkey(&tenant, id, credential, event(PASSKEY_REGISTERED)))
        };
        register("pk-1", b"credential").unwrap();
        assert!(matches!(register("pk-1", b"another"), Err(Error::Exists(_))));
        assert!(matches!(register("pk-2", b"credential"), Err(Error::Exists(_))));
        let enrol = |tenant, id| wait(ledger.enrol_passkey(tenant, id, event(PASSKEY_ENROLLED)));
        let revoke = |tenant, id| wait(ledger.revoke_passkey(tenant, id, event(PASSKEY_REVOKED)));
        assert!(matches!(enrol(&other, "pk-1"), Err(Error::Absent(_))));
        assert!(matches!(revoke(&other, "pk-1"), Err(Error::Absent(_))));
        let found = || wait(ledger.passkey(b"credential")).unwrap().unwrap();
        assert_eq!((found().tenant, found().enrolled, found().revoked), (tenant.clone(), None, None));
        enrol(&tenant, "pk-1").unwrap();
        assert!(matches!(enrol(&tenant, "pk-1"), Err(Error::Absent(_))));
        assert_eq!(found().enrolled, Some(event(PASSKEY_ENROLLED).record));
        revoke(&tenant, "pk-1").unwrap();
        assert!(matches!(revoke(&tenant, "pk-1"), Err(Error::Absent(_))));
        assert_eq!(found().revoked, Some(event(PASSKEY_REVOKED).record));
        assert!(matches!(register("pk-3", b"credential"), Err(Error::Exists(_))), "it does not come back");
        register("pk-4", b"fourth").unwrap();
        revoke(&tenant, "pk-4").unwrap();
        assert!(matches!(enrol(&tenant, "pk-4"), Err(Error::Absent(_))), "what has ended is not enrolled");
        assert_eq!(wait(ledger.passkeys(&tenant)).unwrap().len(), 2);
        assert_eq!(wait(ledger.passkeys(&other)).unwrap(), []);
        assert_eq!(wait(ledger.passkey(b"nobody's")).unwrap(), None);
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn the_first_tenant_key_is_kept_and_texts_stay_under_their_digest() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        assert_eq!(wait(ledger.tenant_key(&tenant, None)).unwrap(), None);
        for _ in 0..2 {
            assert_eq!(wait(ledger.tenant_key(&tenant, Some(vec![1]))).unwrap(), Some(vec![1]));
        }
        assert_eq!(wait(ledger.tenant_key(&tenant, Some(vec![2]))).unwrap(), Some(vec![1]));
        wait(ledger.keep("d1", b"permit".to_vec())).unwrap();
        assert_eq!(wait(ledger.kept("d1")).unwrap(), Some(b"permit".to_vec()));
        assert_eq!(wait(ledger.kept("d2")).unwrap(), None);
    });
}

#[test]
fn what_was_delivered_is_counted_by_what_is_alike_and_never_becomes_less() {
    on_every_ledger(|ledger| {
        let (one, other) = ([1; 32], [2; 32]);
        assert_eq!(wait(ledger.delivered(&one)).unwrap(), 0);
        wait(ledger.deliver(vec![(one, 2), (other, 1)])).unwrap();
        wait(ledger.deliver(vec![(one, 1)])).unwrap();
        assert_eq!(wait(ledger.delivered(&one)).unwrap(), 2);
        assert_eq!(wait(ledger.delivered(&other)).unwrap(), 1);
    });
}

// Pruning.

#[test]
fn what_is_old_and_over_is_deleted_and_what_is_open_stays() {
    on_every_ledger(|ledger| {
        let at = |key: &str, at_ms: i64| {
            let mut admission = Admission { effect: effect(key.as_bytes()[0]), ..admission(key) };
            admission.intent.at_ms = at_ms;
            admission
        };
        let held = |key: &str, until: i64| holding(at(key, NOW + 2), hold(until));
        let done = admitted(&*ledger, at("done", NOW));
        wait(ledger.settle(settlement(done, State::Failed, "1"))).unwrap();
        wait(ledger.amend(amending(settlement(done, State::Executed, "2")))).unwrap();
        let open = admitted(&*ledger, at("open", NOW + 1));
        let unclear = admitted(&*ledger, at("unclear", NOW + 1));
        wait(ledger.settle(settlement(unclear, State::InDoubt, "3"))).unwrap();
        let over = admitted(&*ledger, held("expired", NOW + 50));
        let waits = admitted(&*ledger, held("waits", NOW + 500));
        wait(ledger.refuse(refusal("refused", "4"))).unwrap();
        let young = admitted(&*ledger, at("young", NOW + 100));
        wait(ledger.settle(settlement(young, State::Executed, "5"))).unwrap();
        let before = wait(ledger.verify()).unwrap();

        assert_eq!(wait(ledger.prune(NOW, 10, NOW + 600)).unwrap(), 0);
        assert_eq!(wait(ledger.prune(NOW + 100, 2, NOW + 600)).unwrap(), 2);
        assert_eq!(wait(ledger.prune(NOW + 100, 2, NOW + 600)).unwrap(), 1);
        assert_eq!(wait(ledger.prune(NOW + 100, 2, NOW + 600)).unwrap(), 0);

        let tenant = Tenant::default();
        let page = wait(ledger.actions(&tenant, Filter::default(), None, 10)).unwrap();
        let left: Vec<_> = page.rows.iter().map(|stored| stored.id).collect();
        assert_eq!(left, [young, waits, unclear, open]);
        for id in [done, over] {
            assert_eq!(wait(ledger.action(&tenant, id)).unwrap(), None);
            assert_eq!(wait(ledger.outcomes(&tenant, id)).unwrap(), []);
        }
        for name in ["1", "2", "4"] {
            assert_eq!(wait(ledger.receipt(&tenant, &format!("receipt-{name}"))).unwrap(), None);
            assert_eq!(wait(ledger.address(&format!("short-{name}"))).unwrap(), None);
            assert_eq!(wait(ledger.address(&format!("signature-{name}"))).unwrap(), None);
        }
        assert_eq!(wait(ledger.outcomes(&tenant, young)).unwrap().len(), 1);
        assert!(wait(ledger.address("short-5")).unwrap().is_some());

        // Two prunings deleted something, and each says so in the chain.
        let after = wait(ledger.verify()).unwrap();
        assert_eq!(after.entries, before.entries + 2);
        assert_eq!((before.receipts, after.receipts), (5, 2));
        let told = wait(ledger.entries(None, 1000)).unwrap().rows.split_off(before.entries as usize);
        assert_eq!(told.len(), 2);
        for (_, bytes) in &told {
            let entry: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            assert_eq!((&entry["event"], &entry["actionId"]), (&"pruned".into(), &serde_json::Value::Null));
            assert!(entry["actionHash"].is_string());
        }

        // The keys and effects of what is gone are free again, those of what is left are not.
        for key in ["done", "expired", "refused"] {
            let id = admitted(&*ledger, at(key, NOW + 200));
            let again = wait(ledger.action(&tenant, id)).unwrap().unwrap();
            assert!(page.rows.iter().all(|stored| stored.row < again.row), "rows keep their order");
        }
        for key in ["open", "unclear", "waits", "young"] {
            assert!(matches!(admit(&*ledger, at(key, NOW + 200)), Admitted::Existing(_)), "{key}");
        }
    });
}

// The chain.

#[test]
fn everything_that_happens_is_one_verifiable_chain() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, payment("a", 1, &["m"]));
        wait(ledger.settle(settlement(id, State::Executed, "a"))).unwrap();
        wait(ledger.refuse(refusal("b", "b"))).unwrap();
        wait(ledger.record(event("key_rotated"))).unwrap();
        let verified = wait(ledger.verify()).unwrap();
        assert_eq!((verified.entries, verified.receipts), (5, 2));
        let page = wait(ledger.entries(None, 100)).unwrap();
        assert_eq!(page.rows.len(), 5);
        let mut walk = ledger::Walk::default();
        for (_, bytes) in &page.rows {
            walk.step(bytes).unwrap();
        }
        assert_eq!(walk.head(), verified.head);
        assert_eq!(
            wait(ledger.entries(page.rows.first().map(|(row, _)| *row), 2)).unwrap().rows,
            page.rows[1..3]
        );
    });
}

fn subject_ref() -> &'static Subject {
    static SUBJECT: std::sync::LazyLock<Subject> = std::sync::LazyLock::new(subject);
    &SUBJECT
}

/// Runs `deed` on that many threads at once.
fn at_once<T: Send>(count: usize, deed: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = std::sync::Barrier::new(count);
    thread::scope(|scope| {
        let (barrier, deed) = (&barrier, &deed);
        let threads: Vec<_> = (0..count)
            .map(|number| {
                scope.spawn(move || {
                    barrier.wait();
                    deed(number)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The trait is used behind a pointer.
#[test]
fn a_ledger_can_be_shared() {
    fn shared<T: Send + Sync>(_: T) {}
    on_every_ledger(shared::<Arc<dyn Ledger>>);
}

#[test]
fn what_waits_for_its_next_attempt_keeps_its_debits_and_claims_and_is_sent_when_due() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let asked = || Admission { effect: effect(5), ..payment("a", 300, &["leaf", "root"]) };
        let id = admitted(&*ledger, asked());
        wait(ledger.defer(deferral(id, 1, NOW + 500))).unwrap();
        let stored = wait(ledger.action(&tenant, id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.due_ms, stored.token), (State::Waiting, Some(NOW + 500), 2));
        assert_eq!((stored.debit, &*stored.payload), (300, &b"deferred"[..]));
        assert_eq!((spent(&*ledger, "leaf"), spent(&*ledger, "root")), (300, 300));
        let same = Admission { effect: effect(5), ..payment("b", 1, &["leaf"]) };
        assert!(matches!(obstacle(&*ledger, same), Obstacle::Duplicate(_)), "it claims its effect");
        assert!(wait(ledger.unsettled(None, 10)).unwrap().rows.is_empty(), "nothing of it is in doubt");
        assert!(wait(ledger.due(NOW + 499, None, 10)).unwrap().rows.is_empty());
        let due = wait(ledger.due(NOW + 500, None, 10)).unwrap().rows;
        assert_eq!(due.iter().map(|stored| stored.id).collect::<Vec<_>>(), [id]);
        assert_eq!(wait(ledger.revoke(&tenant, "other", event("revoked"))).unwrap().unsettled, []);

        let mut anew = Admission { effect: None, ..asked() };
        anew.intent.payload = b"attempt 2".to_vec();
        // Whoever read it before it was said to wait does not go on with it.
        let before = send_again(&*ledger, id, Basis::Sent { token: 1 }, anew.clone());
        assert_eq!(before, Admitted::Refused(Obstacle::Overtaken));
        let sent = send_again(&*ledger, id, Basis::Sent { token: 2 }, anew.clone());
        assert!(matches!(sent, Admitted::New { .. }), "{sent:?}");
        let stored = wait(ledger.action(&tenant, id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.due_ms, stored.token), (State::Sent, None, 3));
        assert_eq!((stored.debit, &*stored.payload), (300, &b"attempt 2"[..]));
        assert_eq!(
            (spent(&*ledger, "leaf"), spent(&*ledger, "root")),
            (300, 300),
            "nothing is debited twice"
        );
        let agent = subject();
        let facts = wait(ledger.facts(query(&tenant, &agent))).unwrap();
        assert_eq!(facts.series.amounts().collect::<Vec<_>>(), [300], "nor counted twice");
        let twice = send_again(&*ledger, id, Basis::Sent { token: 2 }, anew);
        assert_eq!(twice, Admitted::Refused(Obstacle::Overtaken));
        let by = By::Holder(3);
        let none = Settlement { charged: Some(0), by, ..settlement(id, State::Failed, "a") };
        wait(ledger.settle(none)).unwrap();
        assert_eq!((spent(&*ledger, "leaf"), spent(&*ledger, "root")), (0, 0));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn freezes_and_revocations_stop_what_is_sent_again_and_change_nothing() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let id = admitted(&*ledger, payment("a", 300, &["m"]));
        wait(ledger.defer(deferral(id, 1, NOW))).unwrap();
        let again = || send_again(&*ledger, id, Basis::Sent { token: 2 }, payment("a", 300, &["m"]));
        let freeze = freeze(Scope::Tenant(tenant.clone()));
        wait(ledger.freeze(freeze.clone(), event("frozen"))).unwrap();
        assert!(matches!(again(), Admitted::Refused(Obstacle::Frozen(_))));
        wait(ledger.thaw(freeze.scope, event("thawed"))).unwrap();
        wait(ledger.revoke(&tenant, "m", event("revoked"))).unwrap();
        assert!(matches!(again(), Admitted::Refused(Obstacle::Revoked { .. })));
        let stored = wait(ledger.action(&tenant, id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.token, &*stored.payload), (State::Waiting, 2, &b"deferred"[..]));
    });
}

#[test]
fn what_is_in_doubt_and_sent_again_stays_in_doubt_in_new_hands() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, admission("a"));
        wait(ledger.settle(settlement(id, State::InDoubt, "a"))).unwrap();
        let again = send_again(&*ledger, id, Basis::Sent { token: 1 }, admission("a"));
        assert!(matches!(again, Admitted::New { .. }), "{again:?}");
        let stored = wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.token), (State::InDoubt, 2));
        assert!(stored.reply.is_some(), "what was said still holds");
        // Whoever asked before it was sent again has an old token.
        let old = wait(ledger.settle(settlement(id, State::Failed, "old")));
        assert!(matches!(old, Err(Error::Fenced(it)) if it == id), "{old:?}");
        assert!(matches!(wait(ledger.defer(deferral(id, 1, NOW))), Err(Error::Fenced(_))));
        let by = By::Holder(2);
        wait(ledger.settle(Settlement { by, ..settlement(id, State::Executed, "new") })).unwrap();
        assert_eq!(state_of(&*ledger, id), State::Executed);
    });
}

#[test]
fn a_persons_word_ends_what_nobody_else_is_at() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, admission("a"));
        wait(ledger.settle(settlement(id, State::InDoubt, "a"))).unwrap();
        let again = Admission { lease_ms: NOW + 1000, ..admission("a") };
        assert!(matches!(send_again(&*ledger, id, Basis::Sent { token: 1 }, again), Admitted::New { .. }));
        let says = |at_ms: i64, token: u32, state: State| {
            let mut settlement = Settlement { by: By::Person(token), ..settlement(id, state, "word") };
            settlement.outcome.at_ms = at_ms;
            wait(ledger.settle(settlement))
        };
        // In doubt, and sent once more under the same key: whether that is still in flight this process itself knows.
        assert!(matches!(says(NOW + 999, 1, State::Failed), Err(Error::Fenced(_))), "seen before that");
        assert_eq!(state_of(&*ledger, id), State::InDoubt);
        says(NOW + 999, 2, State::Failed).unwrap();
        assert!(matches!(says(NOW + 1001, 2, State::Executed), Err(Error::Illegal { .. })));
        let rests = Deferral { by: By::Person(2), ..deferral(id, 2, NOW) };
        assert!(matches!(wait(ledger.defer(rests)), Err(Error::Illegal { .. })), "it has nothing sent");
    });
}

#[test]
fn what_a_person_says_of_a_charge_has_it_reserved_again() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, admission("a"));
        wait(ledger.settle(settlement(id, State::InDoubt, "a"))).unwrap();
        let says = |token| {
            let reserved = resting(State::Reserved, deferral(id, token, NOW));
            wait(ledger.defer(Deferral { by: By::Person(token), ..reserved }))
        };
        assert!(matches!(says(2), Err(Error::Fenced(it)) if it == id));
        says(1).unwrap();
        let stored = wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.token), (State::Reserved, 2));
    });
}

#[test]
fn only_that_it_is_in_doubt_is_said_of_what_is_still_on_its_way() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, admission("a"));
        let says = |state: State, name: &str| {
            wait(ledger.settle(Settlement { by: By::Caller(1), ..settlement(id, state, name) }))
        };
        for to in [State::Executed, State::Failed] {
            assert!(matches!(says(to, "a"), Err(Error::Illegal { .. })), "{to}");
        }
        says(State::InDoubt, "a").unwrap();
        assert!(matches!(says(State::InDoubt, "b"), Err(Error::Illegal { .. })));
        wait(ledger.settle(settlement(id, State::Executed, "answer"))).unwrap();
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_is_in_doubt_is_in_its_senders_hand_until_that_lets_go_of_it() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, admission("a"));
        let stands = || {
            let stored = wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap();
            (stored.state, stored.token, stored.in_hand, stored.due_ms)
        };
        let lets_go = |token| wait(ledger.let_go(id, token)).unwrap();
        assert!(!lets_go(1), "it is on its way");
        assert_eq!(stands(), (State::Sent, 1, true, None));
        wait(ledger.settle(Settlement { by: By::Caller(1), ..settlement(id, State::InDoubt, "a") })).unwrap();
        assert!(!lets_go(2), "whoever has another token did not send it");
        assert_eq!(stands(), (State::InDoubt, 1, true, None));
        let outcomes = || wait(ledger.outcomes(&Tenant::default(), id)).unwrap();
        let before = outcomes();
        assert!(lets_go(1));
        assert_eq!(stands(), (State::InDoubt, 1, false, None));
        assert!(!lets_go(1), "it is in nobody's hand");
        assert_eq!(outcomes(), before, "nothing is said of it");
        let sent = Admission { lease_ms: NOW + 60_000, ..admission("a") };
        let again = send_again(&*ledger, id, Basis::Sent { token: 1 }, sent);
        assert!(matches!(again, Admitted::New { .. }));
        assert!(!lets_go(1), "who has sent it since then keeps it");
        assert_eq!(stands(), (State::InDoubt, 2, true, None));
        wait(ledger.settle(Settlement { by: By::Holder(2), ..settlement(id, State::Executed, "b") }))
            .unwrap();
        assert!(!stands().2);
        assert!(matches!(wait(ledger.let_go(common::id(), 1)), Err(Error::NoSuchAction(_))));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_could_not_be_undone_ends_by_a_persons_word() {
    on_every_ledger(|ledger| {
        for (key, to) in [("a", State::RolledBack), ("b", State::Executed)] {
            let id = admitted(&*ledger, payment(key, 100, &["m"]));
            wait(ledger.settle(settlement(id, State::Executed, key))).unwrap();
            let undo = resting(State::RollingBack, deferral(id, 1, NOW));
            wait(ledger.defer(undo)).unwrap();
            let by = By::Holder(wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap().token);
            let failed = Settlement { by, ..settlement(id, State::RollbackFailed, &format!("{key}-failed")) };
            wait(ledger.amend(amending(failed))).unwrap();
            let token = wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap().token;
            let word = Settlement { by: By::Person(token), ..settlement(id, to, &format!("{key}-word")) };
            wait(ledger.amend(amending(word))).unwrap();
            assert_eq!(state_of(&*ledger, id), to);
        }
        assert_eq!(spent(&*ledger, "m"), 200, "what was done stays charged");
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_is_marked_sent_is_taken_over_only_after_its_lease_and_is_in_doubt_then() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, Admission { lease_ms: NOW + 1000, ..admission("a") });
        let heir = |at_ms: i64, token: u32, state: State, name: &str| {
            let mut settlement = Settlement { by: By::Heir(token), ..settlement(id, state, name) };
            settlement.outcome.at_ms = at_ms;
            wait(ledger.settle(settlement))
        };
        assert!(matches!(heir(NOW + 999, 1, State::InDoubt, "a"), Err(Error::Leased(it)) if it == id));
        for to in [State::Executed, State::Failed] {
            assert!(matches!(heir(NOW + 1000, 1, to, "a"), Err(Error::Illegal { .. })), "{to}");
        }
        assert!(matches!(heir(NOW + 1000, 7, State::InDoubt, "a"), Err(Error::Fenced(_))));
        heir(NOW + 1000, 1, State::InDoubt, "b").unwrap();
        let stored = wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.token), (State::InDoubt, 2));
        let late = wait(ledger.settle(settlement(id, State::Executed, "late")));
        assert!(matches!(late, Err(Error::Fenced(_))), "whoever had it before has no say");
        assert!(matches!(heir(NOW + 2000, 2, State::InDoubt, "c"), Err(Error::Illegal { .. })));
    });
}

#[test]
fn what_failed_is_tried_again_as_if_it_were_new() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let asked = || Admission { effect: effect(5), ..payment("a", 600, &["m"]) };
        let id = admitted(&*ledger, asked());
        let failed = Settlement { charged: Some(0), ..settlement(id, State::Failed, "a") };
        wait(ledger.settle(failed)).unwrap();
        // Meanwhile somebody else has used up what was set free.
        let other = admitted(&*ledger, payment("b", 600, &["m"]));
        let again = || send_again(&*ledger, id, Basis::Failed { token: 1 }, asked());
        assert!(matches!(again(), Admitted::Refused(Obstacle::CapExceeded { .. })));
        let free = Settlement { charged: Some(0), ..settlement(other, State::Failed, "b") };
        wait(ledger.settle(free)).unwrap();
        assert!(matches!(again(), Admitted::New { .. }));
        let stored = wait(ledger.action(&tenant, id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.token, stored.reply), (State::Sent, 2, None));
        assert_eq!((stored.round, spent(&*ledger, "m")), (0, 600));
        let same = Admission { effect: effect(5), ..admission("c") };
        assert!(matches!(obstacle(&*ledger, same), Obstacle::Duplicate(_)), "it claims its effect anew");
        assert_eq!(again(), Admitted::Refused(Obstacle::Overtaken));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_waits_may_be_told_of_and_called_off() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, payment("a", 300, &["m"]));
        wait(ledger.defer(deferral(id, 1, NOW + 500))).unwrap();
        let by = By::Holder(2);
        wait(ledger.settle(Settlement { by, ..settlement(id, State::Waiting, "told") })).unwrap();
        let stored = wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.due_ms), (State::Waiting, Some(NOW + 500)), "it goes on waiting");
        let twice = Settlement { by, ..settlement(id, State::Waiting, "told-again") };
        assert!(matches!(wait(ledger.settle(twice)), Err(Error::Fenced(_))), "it is told once");
        let off = Settlement { charged: Some(0), by: By::Holder(3), ..settlement(id, State::Failed, "off") };
        wait(ledger.settle(off)).unwrap();
        assert_eq!((state_of(&*ledger, id), spent(&*ledger, "m")), (State::Failed, 0));
        assert!(wait(ledger.due(NOW + 1000, None, 10)).unwrap().rows.is_empty());
        let late = wait(ledger.defer(deferral(id, 3, NOW)));
        assert!(matches!(late, Err(Error::Illegal { from: State::Failed, .. })), "{late:?}");
    });
}

/// Who read it before that was said, with a token that has not changed, says it as the first again.
#[test]
fn an_action_has_one_first_receipt_and_whoever_had_not_read_it_is_fenced() {
    on_every_ledger(|ledger| {
        let first = |it: Settlement| Settlement { original: true, ..it };
        let id = admitted(&*ledger, payment("a", 300, &["m"]));
        wait(ledger.settle(first(settlement(id, State::InDoubt, "a")))).unwrap();
        let done = || settlement(id, State::Executed, "b");
        assert!(matches!(wait(ledger.settle(first(done()))), Err(Error::Fenced(_))));
        assert_eq!(state_of(&*ledger, id), State::InDoubt);
        wait(ledger.settle(done())).unwrap();
        let late = first(amending(settlement(id, State::Executed, "c")));
        assert!(matches!(wait(ledger.amend(late)), Err(Error::Fenced(_))));
        // What was written down of an action without a receipt is no first one, and hides none.
        let other = admitted(&*ledger, payment("b", 300, &["m"]));
        let mute = |token, state, name| {
            let mut mute = Settlement { by: By::Holder(token), ..settlement(other, state, name) };
            mute.outcome.receipt = None;
            wait(ledger.settle(mute)).unwrap();
        };
        mute(1, State::InDoubt, "d");
        wait(ledger.defer(resting(State::Checking, deferral(other, 1, NOW + 100)))).unwrap();
        wait(ledger.settle(first(settlement(other, State::Checking, "e")))).unwrap();
        mute(2, State::Unchecked, "f");
        let by = By::Holder(2);
        let again = Settlement { by, ..settlement(other, State::Executed, "g") };
        assert!(matches!(wait(ledger.settle(first(again.clone()))), Err(Error::Fenced(_))));
        wait(ledger.settle(again)).unwrap();
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn an_effect_is_looked_after_and_undone_before_the_last_word() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let id = admitted(&*ledger, payment("a", 300, &["m"]));
        let rests = |state, token, due_ms| resting(state, deferral(id, token, due_ms));
        let settle = |token, state, name| {
            let by = By::Holder(token);
            wait(ledger.settle(Settlement { by, ..settlement(id, state, name) }))
        };
        let stored = || wait(ledger.action(&tenant, id)).unwrap().unwrap();
        let due = |at_ms| wait(ledger.due(at_ms, None, 10)).unwrap().rows.len();
        assert!(matches!(wait(ledger.defer(rests(State::Retracting, 1, NOW))), Err(Error::Illegal { .. })));
        wait(ledger.defer(rests(State::Checking, 1, NOW + 100))).unwrap();
        assert_eq!(
            (stored().state, stored().token, due(NOW + 99), due(NOW + 100)),
            (State::Checking, 1, 0, 1)
        );
        settle(1, State::Checking, "told").unwrap();
        assert_eq!((stored().due_ms, due(NOW + 100)), (Some(NOW + 100), 1), "it goes on being looked after");
        assert!(
            matches!(settle(2, State::Failed, "lost"), Err(Error::Illegal { .. })),
            "the effect is there"
        );
        let revoked = wait(ledger.revoke(&tenant, "m", event("revoked"))).unwrap();
        assert_eq!(revoked.unsettled, [id]);
        wait(ledger.defer(rests(State::Retracting, 2, NOW + 200))).unwrap();
        wait(ledger.defer(rests(State::Retracting, 3, NOW + 300))).unwrap();
        assert_eq!((stored().token, due(NOW + 300)), (4, 1), "each step is somebody's");
        assert!(matches!(settle(3, State::RollingBack, "old"), Err(Error::Fenced(_))));
        assert!(
            matches!(settle(4, State::RolledBack, "mute"), Err(Error::Illegal { .. })),
            "something is said first"
        );
        settle(4, State::RollingBack, "said").unwrap();
        assert_eq!((stored().state, due(NOW + 300)), (State::RollingBack, 1), "a crash here loses nothing");
        let by = By::Holder(4);
        wait(ledger.amend(amending(Settlement { by, ..settlement(id, State::RolledBack, "undone") })))
            .unwrap();
        assert_eq!((stored().state, due(NOW + 9000), spent(&*ledger, "m")), (State::RolledBack, 0, 300));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_is_set_aside_rests_with_its_debit_until_it_is_charged_or_set_free() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let asked = || Admission { effect: effect(5), ..payment("a", 600, &["m"]) };
        let id = admitted(&*ledger, asked());
        wait(ledger.settle(settlement(id, State::InDoubt, "a"))).unwrap();
        wait(ledger.defer(reserved(id, 1, NOW + 500))).unwrap();
        let stored = wait(ledger.action(&tenant, id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.token, stored.due_ms), (State::Reserved, 2, Some(NOW + 500)));
        assert_eq!((stored.reply, spent(&*ledger, "m")), (None, 600), "what was said before holds no more");
        let other = Admission { effect: effect(5), ..admission("b") };
        assert!(matches!(obstacle(&*ledger, other), Obstacle::Duplicate(_)), "it claims its effect");
        assert!(wait(ledger.due(NOW + 499, None, 10)).unwrap().rows.is_empty());
        assert_eq!(wait(ledger.due(NOW + 500, None, 10)).unwrap().rows.len(), 1);
        assert_eq!(wait(ledger.prune(NOW + 9000, 10, NOW)).unwrap(), 0, "it is kept");
        wait(ledger.verify()).unwrap();
        // To charge it is to send once more: nothing is debited twice, and a freeze or revocation comes first.
        let charge = |token| charge(&*ledger, id, token, asked());
        let frozen = freeze(Scope::Tenant(tenant.clone()));
        wait(ledger.freeze(frozen.clone(), event("frozen"))).unwrap();
        assert!(matches!(charge(2), Admitted::Refused(Obstacle::Frozen(_))));
        wait(ledger.thaw(frozen.scope, event("thawed"))).unwrap();
        assert_eq!(charge(1), Admitted::Refused(Obstacle::Overtaken));
        assert!(matches!(charge(2), Admitted::New { .. }));
        assert_eq!((state_of(&*ledger, id), spent(&*ledger, "m")), (State::Sent, 600));
        wait(ledger.verify()).unwrap();
        // It came to nothing, and is set free in steps, each of which is somebody's.
        wait(ledger.defer(reserved(id, 3, NOW + 500))).unwrap();
        wait(ledger.defer(reserved(id, 4, NOW + 600))).unwrap();
        assert!(matches!(wait(ledger.defer(reserved(id, 4, NOW))), Err(Error::Fenced(_))));
        assert_eq!(charge(4), Admitted::Refused(Obstacle::Overtaken), "who sets it free was first");
        let listed = wait(ledger.revoke(&tenant, "m", event("revoked"))).unwrap();
        assert_eq!(listed.unsettled, [id]);
        assert!(matches!(charge(5), Admitted::Refused(Obstacle::Revoked { .. })));
        let free =
            Settlement { charged: Some(0), by: By::Holder(5), ..settlement(id, State::Failed, "free") };
        wait(ledger.settle(free)).unwrap();
        assert_eq!((state_of(&*ledger, id), spent(&*ledger, "m")), (State::Failed, 0));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_comes_beside_an_attempt_leaves_it_where_it_stands_and_has_its_holder_look_again() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, payment("a", 600, &["m"]));
        let beside = |token, state, name: &str| Settlement {
            charged: Some(700),
            by: By::Holder(token),
            overage: Some(Outcome { entry: draft("overage"), ..outcome(state, &format!("{name}-over")) }),
            ..settlement(id, state, name)
        };
        assert!(matches!(wait(ledger.settle(beside(1, State::Sent, "a"))), Err(Error::Illegal { .. })));
        wait(ledger.amend(amending(beside(1, State::Sent, "a")))).unwrap();
        assert_eq!((state_of(&*ledger, id), spent(&*ledger, "m")), (State::Sent, 700));
        assert!(
            wait(ledger.mandate(&Tenant::default(), "m")).unwrap().is_none_or(|held| held.account.frozen)
        );
        let early = Settlement { by: By::Heir(2), ..settlement(id, State::InDoubt, "b") };
        assert!(matches!(wait(ledger.settle(early)), Err(Error::Leased(_))), "it is still under way");
        let done = |token| Settlement { by: By::Holder(token), ..settlement(id, State::Executed, "c") };
        assert!(matches!(wait(ledger.settle(done(1))), Err(Error::Fenced(_))));
        assert!(matches!(wait(ledger.amend(amending(beside(1, State::Sent, "d")))), Err(Error::Fenced(_))));
        wait(ledger.settle(done(2))).unwrap();
        wait(ledger.amend(amending(beside(2, State::Executed, "e")))).unwrap();
        assert!(matches!(
            wait(ledger.amend(amending(beside(2, State::Executed, "f")))),
            Err(Error::Fenced(_))
        ));
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_comes_late_and_is_to_be_undone_is_due_at_once() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, Admission { effect: effect(5), ..payment("a", 600, &["m"]) });
        wait(ledger.settle(Settlement { charged: Some(0), ..settlement(id, State::Failed, "absent") }))
            .unwrap();
        let late = Settlement { charged: Some(600), ..settlement(id, State::RollingBack, "late") };
        assert!(matches!(wait(ledger.settle(late.clone())), Err(Error::Illegal { .. })), "it only amends");
        wait(ledger.amend(amending(late))).unwrap();
        assert_eq!((state_of(&*ledger, id), spent(&*ledger, "m")), (State::RollingBack, 600));
        let other = Admission { effect: effect(5), ..admission("b") };
        assert!(matches!(obstacle(&*ledger, other), Obstacle::Duplicate(_)), "it claims its effect");
        let due = wait(ledger.due(NOW + 60_000, None, 10)).unwrap().rows;
        assert_eq!(due.iter().map(|it| it.id).collect::<Vec<_>>(), [id]);
        wait(ledger.verify()).unwrap();
        let stuck =
            Settlement { by: By::Holder(due[0].token), ..settlement(id, State::RollbackFailed, "stuck") };
        wait(ledger.amend(amending(stuck))).unwrap();
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_is_reserved_is_due_at_once_when_an_effect_comes_beside_it() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, payment("a", 600, &["m"]));
        wait(ledger.defer(reserved(id, 1, NOW + 500))).unwrap();
        assert_eq!(wait(ledger.due(NOW + 400, None, 10)).unwrap().rows.len(), 0);
        wait(
            ledger.amend(amending(Settlement { by: By::Holder(2), ..settlement(id, State::Reserved, "a") })),
        )
        .unwrap();
        let due = wait(ledger.due(NOW + 400, None, 10)).unwrap().rows;
        assert_eq!(
            due.iter().map(|it| (it.id, it.state, it.token)).collect::<Vec<_>>(),
            [(id, State::Reserved, 3)]
        );
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn a_part_that_is_charged_is_all_that_the_mandate_is_charged() {
    on_every_ledger(|ledger| {
        let asked = || payment("a", 600, &["m"]);
        let id = admitted(&*ledger, asked());
        wait(ledger.defer(reserved(id, 1, NOW + 500))).unwrap();
        assert!(matches!(charge(&*ledger, id, 2, asked()), Admitted::New { .. }));
        let by = By::Holder(3);
        wait(ledger.settle(Settlement { charged: Some(250), by, ..settlement(id, State::Executed, "a") }))
            .unwrap();
        assert_eq!((state_of(&*ledger, id), spent(&*ledger, "m")), (State::Executed, 250));
        let late = resting(State::Reserved, deferral(id, 3, NOW));
        assert!(
            matches!(wait(ledger.defer(late)), Err(Error::Illegal { .. })),
            "what is charged is not held"
        );
        wait(ledger.verify()).unwrap();
    });
}

/// Marks what is set aside sent to be charged.
fn charge(ledger: &dyn Ledger, id: ActionId, token: u32, mut admission: Admission) -> Admitted {
    (admission.intent.id, admission.intent.entry) = (id, draft(CHARGING));
    wait(ledger.resume(Resumption { admission, from: Basis::Sent { token }, charges: None })).unwrap()
}

fn reserved(id: ActionId, token: u32, due_ms: i64) -> Deferral {
    let entry = Draft { state: Some("EXECUTING"), ..draft(RESERVED) };
    Deferral { state: State::Reserved, entry, ..deferral(id, token, due_ms) }
}

#[test]
fn an_effect_is_undone_step_by_step_and_each_step_is_somebodys() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let asked = || Admission { effect: effect(5), ..payment("a", 300, &["m"]) };
        let id = admitted(&*ledger, asked());
        let rests = |token, due_ms| {
            let entry = Draft { state: Some("ROLLING_BACK"), ..draft(ROLLING_BACK) };
            Deferral { state: State::RollingBack, entry, ..deferral(id, token, due_ms) }
        };
        assert!(
            matches!(wait(ledger.defer(rests(1, NOW))), Err(Error::Illegal { .. })),
            "nothing is there yet"
        );
        wait(ledger.settle(settlement(id, State::Executed, "a"))).unwrap();
        wait(ledger.defer(rests(1, NOW + 100))).unwrap();
        let stored = wait(ledger.action(&tenant, id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.token, stored.due_ms), (State::RollingBack, 2, Some(NOW + 100)));
        assert!(stored.reply.is_some(), "what was said stands");
        wait(ledger.verify()).unwrap();
        assert!(matches!(wait(ledger.defer(rests(1, NOW))), Err(Error::Fenced(_))), "it is undone once");
        let due = wait(ledger.due(NOW + 100, None, 10)).unwrap().rows;
        assert_eq!(due.iter().map(|stored| stored.id).collect::<Vec<_>>(), [id]);
        wait(ledger.defer(rests(2, NOW + 500))).unwrap();
        let amend = |token, state, name| {
            let none = Settlement { by: By::Holder(token), ..settlement(id, state, name) };
            wait(ledger.amend(amending(none)))
        };
        assert!(matches!(amend(2, State::RolledBack, "old"), Err(Error::Fenced(_))));
        amend(3, State::RollbackFailed, "stuck").unwrap();
        assert!(wait(ledger.due(NOW + 9000, None, 10)).unwrap().rows.is_empty(), "a person decides");
        assert_eq!(wait(ledger.prune(NOW + 9000, 10, NOW)).unwrap(), 0, "and until then it is kept");
        wait(ledger.defer(rests(3, NOW + 600))).unwrap();
        amend(4, State::RolledBack, "undone").unwrap();
        assert_eq!(
            (state_of(&*ledger, id), spent(&*ledger, "m")),
            (State::RolledBack, 300),
            "a refund refills nothing"
        );
        let again = Admission { effect: effect(5), ..admission("b") };
        assert!(matches!(admit(&*ledger, again), Admitted::New { .. }), "what is undone may be done again");
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_waits_for_its_payer_keeps_its_debits_and_claims_and_voids_what_was_said() {
    on_every_ledger(|ledger| {
        let tenant = Tenant::default();
        let asked = |key, number| Admission { effect: effect(number), ..payment(key, 300, &["m"]) };
        let challenge = |id, token| {
            let entry = Draft { event: ledger::CHALLENGED, ..deferral(id, token, 0).entry };
            Deferral { state: State::Challenged, entry, ..deferral(id, token, NOW + 500) }
        };
        let id = admitted(&*ledger, asked("a", 5));
        wait(ledger.defer(challenge(id, 1))).unwrap();
        let stored = wait(ledger.action(&tenant, id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.due_ms, stored.token), (State::Challenged, Some(NOW + 500), 1));
        assert_eq!((spent(&*ledger, "m"), &*stored.payload), (300, &b"deferred"[..]));
        assert!(matches!(obstacle(&*ledger, asked("b", 5)), Obstacle::Duplicate(_)), "it claims its effect");
        let open = wait(ledger.unsettled(None, 10)).unwrap().rows;
        assert_eq!(open.iter().map(|stored| stored.id).collect::<Vec<_>>(), [id], "it is asked after");
        assert!(wait(ledger.due(NOW + 9000, None, 10)).unwrap().rows.is_empty(), "it is never sent again");
        assert_eq!(wait(ledger.prune(NOW + 9000, 10, NOW)).unwrap(), 0);
        let revoked = wait(ledger.revoke(&tenant, "m", event("revoked"))).unwrap();
        assert_eq!(revoked.unsettled, [id], "it was admitted before");
        let again = wait(ledger.defer(challenge(id, 1)));
        assert!(matches!(again, Err(Error::Illegal { from: State::Challenged, .. })), "{again:?}");
        let waits = wait(ledger.defer(deferral(id, 1, NOW)));
        assert!(matches!(waits, Err(Error::Illegal { .. })), "there is no next attempt: {waits:?}");
        wait(ledger.settle(settlement(id, State::Executed, "a"))).unwrap();
        assert!(wait(ledger.unsettled(None, 10)).unwrap().rows.is_empty());

        // One whose caller was told before that nobody knows.
        let told = admitted(&*ledger, Admission { effect: effect(6), ..admission("c") });
        wait(ledger.settle(settlement(told, State::InDoubt, "c"))).unwrap();
        wait(ledger.defer(challenge(told, 1))).unwrap();
        let stored = wait(ledger.action(&tenant, told)).unwrap().unwrap();
        assert_eq!((stored.state, stored.reply), (State::Challenged, None));
        wait(ledger.settle(settlement(told, State::InDoubt, "d"))).unwrap();
        wait(ledger.settle(settlement(told, State::Failed, "e"))).unwrap();
        wait(ledger.verify()).unwrap();
    });
}

#[test]
fn what_is_discussed_waits_on_in_its_next_hold_and_everybody_looks_again() {
    on_every_ledger(|ledger| {
        let id = held(&*ledger, payment("a", 900, &["m"]), 2);
        wait(ledger.approve(approval(id, "anna"))).unwrap();
        wait(ledger.discuss(approval(id, "ben"), INFO_REQUESTED)).unwrap();
        let stored = wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap();
        assert_eq!((stored.state, stored.round, stored.needed), (State::Held, 2, 2));
        let late = wait(ledger.approve(approval(id, "carl")));
        assert!(matches!(late, Err(Error::Illegal { from: State::Held, .. })), "it is about the hold before");
        let next = |name| Approval { round: 2, ..approval(id, name) };
        assert!(!wait(ledger.approve(next("anna"))).unwrap().is_enough(), "what she said before is void");
        assert!(wait(ledger.approve(next("ben"))).unwrap().is_enough(), "who asked decides, too");
        let late = wait(ledger.discuss(next("carl"), INFO_GIVEN));
        assert!(matches!(late, Err(Error::Illegal { from: State::Approved, .. })));
        assert_eq!(wait(ledger.verify()).unwrap().approvals, 4);
    });
}

#[test]
fn an_extension_and_what_waits_for_it_are_one_commit() {
    on_every_ledger(|ledger| {
        let limits = Limits {
            envelope: ResourceEnvelope { max_duration_seconds: Some(10), ..ResourceEnvelope::default() },
            ..Limits::default()
        };
        let extension = |seconds, words| Extension {
            tenant: Tenant::default(),
            jti: "m".into(),
            limits,
            above: vec![("above".into(), limits)],
            seconds,
            judged: None,
            event: event("budget_extended"),
            words,
        };
        let absent = wait(ledger.extend(extension(5, vec![])));
        assert!(matches!(absent, Err(Error::Absent(_))), "{absent:?}");
        let mandate = |jti: &str| Mandate {
            tenant: Tenant::default(),
            jti: jti.into(),
            subject: subject(),
            issuer: "alice".into(),
            issued_ms: NOW,
            expires_ms: NOW + 1000,
            claims: b"{}".to_vec(),
            chain: Vec::new(),
            kid: None,
        };
        wait(ledger.issue(mandate("above"), event("issued"))).unwrap();
        wait(ledger.issue(mandate("m"), event("issued"))).unwrap();
        let id = held(&*ledger, payment("a", 900, &["m"]), 3);
        let before = wait(ledger.verify()).unwrap();
        let wider = wait(ledger.extend(extension(1, vec![approval(id, "anna")])));
        assert!(matches!(wider, Err(Error::Mandate(_))), "the one above has as much and no more: {wider:?}");
        let other = Approval { round: 2, ..approval(id, "anna") };
        let alone = |seconds, words| Extension { above: vec![], ..extension(seconds, words) };
        let late = wait(ledger.extend(alone(5, vec![other])));
        assert!(matches!(late, Err(Error::Illegal { .. })), "{late:?}");
        assert_eq!(wait(ledger.verify()).unwrap(), before, "no trace");
        let held = wait(ledger.mandate(&Tenant::default(), "m")).unwrap().unwrap();
        assert_eq!(held.account.granted.seconds, 0);
        let longer = wait(ledger.extend(alone(5, vec![approval(id, "anna")]))).unwrap();
        assert_eq!((longer.granted.seconds, state_of(&*ledger, id)), (5, State::Approved));
        let held = wait(ledger.mandate(&Tenant::default(), "m")).unwrap().unwrap();
        assert_eq!(held.account, longer);
        let after = wait(ledger.verify()).unwrap();
        assert_eq!((after.entries, after.approvals), (before.entries + 2, before.approvals + 1));
        assert_eq!(wait(ledger.extend(alone(7, vec![]))).unwrap().granted.seconds, 12);
        let judged = |granted| Extension { judged: Some(granted), ..alone(1, vec![]) };
        let whole = wait(ledger.verify()).unwrap();
        let stale = wait(ledger.extend(judged(5)));
        assert!(matches!(stale, Err(Error::Changed(_))), "others granted more since: {stale:?}");
        assert_eq!(wait(ledger.verify()).unwrap(), whole, "no trace");
        assert_eq!(wait(ledger.extend(judged(12))).unwrap().granted.seconds, 13);
    });
}
