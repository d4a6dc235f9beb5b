//! INVARIANT (cap): whatever is debited in whatever order, no more than the cap is ever authorised.

#![allow(clippy::unwrap_used)]

use action::{Currency, Money};
use countersign_mandate::{Account, Limits, Refusal};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Debit(i64),
    Credit(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let amount = prop_oneof![0..1_000i64, Just(i64::MAX), 0..i64::MAX];
    let step = prop_oneof![amount.clone().prop_map(Step::Debit), amount.prop_map(Step::Credit)];
    prop::collection::vec(step, 0..60)
}

fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::of("USD").unwrap()).unwrap()
}

proptest! {
    #[test]
    fn no_order_of_debits_and_credits_passes_the_cap(
        cap in prop_oneof![0..5_000i64, Just(i64::MAX)],
        max in prop::option::of(0..20u64),
        steps in steps(),
    ) {
        let limits = Limits { spend_cap: Some(usd(cap)), max_actions: max };
        let mut account = Account::new("m");
        for step in steps {
            match step {
                Step::Debit(minor) => match account.debit(&limits, Some(usd(minor))) {
                    Ok(after) => {
                        prop_assert_eq!(after.spent_minor, account.spent_minor + minor);
                        prop_assert_eq!(after.actions, account.actions + 1);
                        account = after;
                    }
                    Err(Refusal::CapExceeded { left, .. }) => {
                        prop_assert!(minor > left.minor());
                        prop_assert_eq!(left.minor(), cap - account.spent_minor);
                    }
                    Err(Refusal::ActionsUsedUp { .. }) => prop_assert_eq!(Some(account.actions), max),
                    Err(other) => prop_assert!(false, "{}", other),
                },
                Step::Credit(minor) => account = account.credit(minor),
            }
            prop_assert!((0..=cap).contains(&account.spent_minor));
            prop_assert!(max.is_none_or(|max| account.actions <= max));
        }
    }
}

#[test]
fn an_overrun_is_recorded_above_the_cap_and_freezes() {
    let limits = Limits { spend_cap: Some(usd(100)), max_actions: None };
    let account = Account::new("m").debit(&limits, Some(usd(100))).unwrap().overrun(7);
    assert_eq!((account.spent_minor, account.frozen, account.epoch), (107, true, 1));
    assert_eq!(account.left_of(usd(100)), usd(0));
    assert_eq!(account.debit(&limits, None), Err(Refusal::Frozen));
}

#[test]
fn a_second_revocation_changes_nothing() {
    let once = Account::new("m").revoke(5);
    assert_eq!((once.revoked_at, once.epoch), (Some(5), 1));
    assert_eq!(once.revoke(9), once);
}

#[test]
fn a_mandate_without_a_cap_still_counts() {
    let account = Account::new("m").debit(&Limits::default(), Some(usd(i64::MAX))).unwrap();
    let account = account.debit(&Limits::default(), Some(usd(i64::MAX))).unwrap();
    assert_eq!((account.spent_minor, account.actions), (i64::MAX, 2));
}
