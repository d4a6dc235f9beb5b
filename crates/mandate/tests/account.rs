//! INVARIANT (cap): whatever is debited in whatever order, no more than the cap is ever authorised.

#![allow(clippy::unwrap_used)]

use action::{Currency, Money};
use countersign_mandate::{Account, Granted, Limits, Refusal, Resource, ResourceEnvelope, Usage, Use};
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

fn money(minor: i64) -> Use {
    Use::of_money(Some(usd(minor)))
}

fn usage() -> impl Strategy<Value = Usage> {
    let amount = || prop_oneof![0..50u64, Just(u64::MAX)];
    (amount(), amount(), amount(), amount(), amount()).prop_map(
        |(seconds, compute_units, memory_bytes, storage_bytes, egress_bytes)| Usage {
            seconds,
            compute_units,
            memory_bytes,
            storage_bytes,
            egress_bytes,
        },
    )
}

fn envelope() -> impl Strategy<Value = ResourceEnvelope> {
    let most = || prop::option::of(prop_oneof![0..200u64, Just(u64::MAX)]);
    (most(), most(), most(), most(), most()).prop_map(|(compute, seconds, memory, egress, storage)| {
        ResourceEnvelope {
            max_compute_units: compute,
            max_duration_seconds: seconds,
            max_memory_bytes: memory,
            max_network_egress_bytes: egress,
            max_storage_bytes: storage,
        }
    })
}

/// What goes from one mandate to another.
const MOVED: [Resource; 4] =
    [Resource::Seconds, Resource::ComputeUnits, Resource::StorageBytes, Resource::EgressBytes];

proptest! {
    /// Two children draw on one parent, and each has an envelope of its own: whatever they do in whatever order, none of
    /// the three ever goes over, and the parent has used what both of them have.
    #[test]
    fn siblings_share_what_their_parent_has_left(
        parent in envelope(),
        of_children in [envelope(), envelope()],
        granted in -100..100i64,
        steps in prop::collection::vec((0..2usize, usage()), 0..40),
    ) {
        let limits = |envelope| Limits { envelope, ..Limits::default() };
        let mut above = Account::new("p");
        if let Ok(granted) = above.grant(&limits(parent), Resource::Seconds, granted) {
            above = granted;
        }
        let most = |resource| match resource {
            Resource::Seconds => parent.of(resource).map(|most| most.saturating_add_signed(above.granted.seconds)),
            _ => parent.of(resource),
        };
        let most: Vec<_> = Resource::ALL.into_iter().map(most).collect();
        let mut children = [Account::new("a"), Account::new("b")];
        for (at, usage) in steps {
            let takes = Use { usage, ..Use::default() };
            let both = children[at].debit(&limits(of_children[at]), &takes);
            if let (Ok(child), Ok(parent)) = (both, above.debit(&limits(parent), &takes)) {
                (children[at], above) = (child, parent);
            }
            for (resource, most) in Resource::ALL.into_iter().zip(&most) {
                prop_assert!(most.is_none_or(|most| above.used.of(resource) <= most), "{resource:?}");
                for (child, envelope) in children.iter().zip(of_children) {
                    prop_assert!(envelope.of(resource).is_none_or(|most| child.used.of(resource) <= most));
                }
            }
            prop_assert_eq!(above.used.memory_bytes, children[0].used.memory_bytes.max(children[1].used.memory_bytes));
            prop_assert_eq!(
                above.used.seconds,
                children[0].used.seconds.saturating_add(children[1].used.seconds)
            );
        }
    }

    /// What is known in the end is what counts, whether more or less was debited.
    #[test]
    fn a_correction_puts_the_truth_in_the_place_of_the_estimate(before in usage(), debited in usage(), measured in usage()) {
        let small = |usage: Usage| Usage {
            seconds: usage.seconds % 1000,
            compute_units: usage.compute_units % 1000,
            memory_bytes: usage.memory_bytes % 1000,
            storage_bytes: usage.storage_bytes % 1000,
            egress_bytes: usage.egress_bytes % 1000,
        };
        let (before, debited, measured) = (small(before), small(debited), small(measured));
        let take = |account: &Account, usage| {
            account.debit(&Limits::default(), &Use { usage, ..Use::default() }).unwrap()
        };
        let corrected = take(&take(&Account::new("m"), before), debited).remeasure(&debited, &measured);
        let straight = take(&Account::new("m"), before);
        for resource in [Resource::Seconds, Resource::ComputeUnits, Resource::StorageBytes, Resource::EgressBytes] {
            prop_assert_eq!(corrected.used.of(resource), straight.used.of(resource) + measured.of(resource));
        }
        let high = before.memory_bytes.max(debited.memory_bytes).max(measured.memory_bytes);
        prop_assert_eq!(corrected.used.memory_bytes, high);
    }

    /// However much of anything is passed on between two mandates, none is made and none is lost, and of all else nothing
    /// moves.
    #[test]
    fn what_is_passed_on_is_conserved(
        steps in prop::collection::vec((any::<bool>(), 0..MOVED.len(), 0..400i64), 0..40),
    ) {
        let envelope = ResourceEnvelope {
            max_compute_units: Some(100),
            max_duration_seconds: Some(300),
            max_memory_bytes: Some(5),
            max_network_egress_bytes: Some(250),
            max_storage_bytes: Some(400),
        };
        let limits = Limits { envelope, ..Limits::default() };
        let mut pool = [Account::new("a"), Account::new("b")];
        let left = |account: &Account, resource| account.envelope_left(&envelope).of(resource).unwrap();
        for (forth, at, amount) in steps {
            let (from, to) = if forth { (0, 1) } else { (1, 0) };
            let room = left(&pool[from], MOVED[at]);
            match pool[from].grant(&limits, MOVED[at], -amount) {
                Ok(poorer) => {
                    let richer = pool[to].grant(&limits, MOVED[at], amount).unwrap();
                    (pool[from], pool[to]) = (poorer, richer);
                }
                Err(refusal) => {
                    let expected = match MOVED[at] {
                        Resource::Seconds => Refusal::TimeUsedUp,
                        resource => Refusal::EnvelopeExceeded { resource },
                    };
                    prop_assert_eq!(refusal, expected);
                    prop_assert!(amount.unsigned_abs() > room);
                }
            }
            for resource in Resource::ALL {
                let sum = left(&pool[0], resource) + left(&pool[1], resource);
                prop_assert_eq!(sum, 2 * envelope.of(resource).unwrap(), "{:?}", resource);
            }
        }
    }

    #[test]
    fn no_order_of_debits_and_credits_passes_the_cap(
        cap in prop_oneof![0..5_000i64, Just(i64::MAX)],
        max in prop::option::of(0..20u64),
        steps in steps(),
    ) {
        let limits = Limits { spend_cap: Some(usd(cap)), max_actions: max, ..Limits::default() };
        let mut account = Account::new("m");
        for step in steps {
            match step {
                Step::Debit(minor) => match account.debit(&limits, &money(minor)) {
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
    let limits = Limits { spend_cap: Some(usd(100)), ..Limits::default() };
    let account = Account::new("m").debit(&limits, &money(100)).unwrap().overrun(7);
    assert_eq!((account.spent_minor, account.frozen, account.epoch), (107, true, 1));
    assert_eq!(account.left_of(usd(100)), usd(0));
    assert_eq!(account.debit(&limits, &Use::default()), Err(Refusal::Frozen));
}

#[test]
fn a_second_revocation_changes_nothing() {
    let once = Account::new("m").revoke(5);
    assert_eq!((once.revoked_at, once.epoch), (Some(5), 1));
    assert_eq!(once.revoke(9), once);
}

#[test]
fn a_mandate_without_a_cap_still_counts() {
    let account = Account::new("m").debit(&Limits::default(), &money(i64::MAX)).unwrap();
    let account = account.debit(&Limits::default(), &money(i64::MAX)).unwrap();
    assert_eq!((account.spent_minor, account.actions), (i64::MAX, 2));
}

#[test]
fn the_limit_that_breaks_is_named() {
    let most = ResourceEnvelope {
        max_compute_units: Some(5),
        max_duration_seconds: Some(2),
        max_memory_bytes: Some(100),
        max_network_egress_bytes: Some(10),
        max_storage_bytes: Some(10),
    };
    let limits = Limits { envelope: most, ..Limits::default() };
    let refused =
        |usage: Usage| Account::new("m").debit(&limits, &Use { usage, ..Use::default() }).unwrap_err();
    assert_eq!(refused(Usage { seconds: 3, compute_units: 6, ..Usage::default() }), Refusal::TimeUsedUp);
    for (usage, resource) in [
        (Usage { compute_units: 6, ..Usage::default() }, Resource::ComputeUnits),
        (Usage { memory_bytes: 101, ..Usage::default() }, Resource::MemoryBytes),
        (Usage { storage_bytes: 11, ..Usage::default() }, Resource::StorageBytes),
        (Usage { egress_bytes: 11, ..Usage::default() }, Resource::EgressBytes),
    ] {
        assert_eq!(refused(usage), Refusal::EnvelopeExceeded { resource });
    }
    // Memory is no sum: twice the most at any one time is still no more than that.
    let most_memory = Use { usage: Usage { memory_bytes: 100, ..Usage::default() }, ..Use::default() };
    let once = Account::new("m").debit(&limits, &most_memory).unwrap();
    assert_eq!(once.debit(&limits, &most_memory).unwrap().used.memory_bytes, 100);
}

#[test]
fn time_that_ran_over_is_on_record_and_nothing_is_left() {
    let envelope = ResourceEnvelope { max_duration_seconds: Some(10), ..ResourceEnvelope::default() };
    let limits = Limits { envelope, ..Limits::default() };
    let one = Usage { seconds: 1, ..Usage::default() };
    let account = Account::new("m").debit(&limits, &Use { usage: one, ..Use::default() }).unwrap();
    let account = account.remeasure(&one, &Usage { seconds: 30, ..Usage::default() });
    assert_eq!(account.used.seconds, 30);
    assert_eq!(account.left(&limits).envelope.max_duration_seconds, Some(0));
    assert_eq!(account.debit(&limits, &Use { usage: one, ..Use::default() }), Err(Refusal::TimeUsedUp));
    // An action outside of sessions takes no time.
    assert!(account.debit(&limits, &Use::default()).is_ok());
    let extended = account.grant(&limits, Resource::Seconds, 21).unwrap();
    assert!(extended.debit(&limits, &Use { usage: one, ..Use::default() }).is_ok());
}

#[test]
fn an_extension_is_within_what_stands_above_and_of_what_has_a_budget() {
    let timed = |seconds| Limits {
        envelope: ResourceEnvelope { max_duration_seconds: seconds, ..ResourceEnvelope::default() },
        ..Limits::default()
    };
    let used =
        |jti: &str, seconds| Account { used: Usage { seconds, ..Usage::default() }, ..Account::new(jti) };
    let (child, parent) = (used("child", 10), used("parent", 40));
    let above = [(parent.clone(), timed(Some(100)))];
    // Ten of ten are used; the parent has sixty left.
    let longer = child.extend(&timed(Some(10)), &above, 60).unwrap();
    assert_eq!(longer, Account { granted: Granted { seconds: 60, ..Granted::default() }, ..child.clone() });
    assert_eq!(longer.left(&timed(Some(10))).envelope.max_duration_seconds, Some(60));
    let widened = Err(Refusal::Widened { member: "max_duration_seconds" });
    assert_eq!(child.extend(&timed(Some(10)), &above, 61), widened);
    assert_eq!(
        child.extend(&timed(Some(10)), &[(parent.clone(), timed(None))], 61).map(|it| it.granted.seconds),
        Ok(61)
    );
    assert_eq!(child.extend(&timed(None), &[], 5), widened, "there is no budget to extend");
    assert_eq!(child.extend(&timed(Some(10)), &[], u64::MAX), widened);
    let twice = longer.extend(&timed(Some(10)), &[], 5).unwrap();
    assert_eq!(twice.granted.seconds, 65);
    assert_eq!(child.revoke(1).extend(&timed(Some(10)), &[], 5), Err(Refusal::Revoked));
    assert_eq!(child.extend(&timed(Some(10)), &[(parent.revoke(1), timed(None))], 5), Err(Refusal::Revoked));
}
