//! The pure heart: a batch decides as its items would one by one, and no order of them breaks a limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::collections::HashMap;

use common::*;
use ledger::{Admission, Admitted, Effect, Hold, Item, Obstacle, Rows, Tolerance, admit};
use proptest::prelude::*;

/// So many may wait.
const MOST: u32 = 4;

#[derive(Clone, Debug)]
struct Ask {
    key: u8,
    request: u8,
    minor: i64,
    mandates: Vec<u8>,
    effect: Option<(u8, bool)>,
    hold: bool,
    minute: i64,
    refused: bool,
}

fn ask() -> impl Strategy<Value = Ask> {
    let mandates = prop::collection::btree_set(0..4_u8, 0..3);
    let effect = prop::option::of((0..4_u8, any::<bool>()));
    (0..12_u8, 0..2_u8, 1..400_i64, mandates, effect, any::<bool>(), 0..30_i64, prop::bool::weighted(0.1))
        .prop_map(|(key, request, minor, mandates, effect, hold, minute, refused)| Ask {
            key,
            request,
            minor,
            mandates: mandates.into_iter().collect(),
            effect,
            hold,
            minute,
            refused,
        })
}

impl Ask {
    fn item(&self) -> Item {
        if self.refused {
            let mut refusal = refusal(&format!("k{}", self.key), "r");
            refusal.intent.request_hash = [self.request; 32];
            return refusal.into();
        }
        let names: Vec<_> = self.mandates.iter().map(|mandate| format!("m{mandate}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut admission: Admission = payment(&format!("k{}", self.key), self.minor, &names);
        admission.intent.request_hash = [self.request; 32];
        admission.intent.at_ms = NOW + self.minute * 60_000;
        admission.hold = self.hold.then_some(Hold { until_ms: NOW, needed: 1, most: MOST });
        admission.effect = self.effect.map(|(hash, tolerate)| Effect {
            hash: [hash; 32],
            window_ms: 600_000,
            tolerate: if tolerate { Tolerance::Anything } else { Tolerance::Nothing },
        });
        admission.into()
    }
}

/// The rules once more, in the plainest words.
#[derive(Default)]
struct Model {
    keys: HashMap<u8, u8>,
    spent: HashMap<u8, i64>,
    effects: HashMap<u8, i64>,
    held: u32,
}

#[derive(Debug, PartialEq)]
enum Says {
    New,
    Existing(bool),
    Capped(i64),
    TooManyHeld,
    Duplicate,
}

impl Model {
    fn decide(&mut self, ask: &Ask) -> Says {
        if let Some(request) = self.keys.get(&ask.key) {
            return Says::Existing(*request == ask.request);
        }
        if !ask.refused {
            if !ask.hold {
                for mandate in &ask.mandates {
                    let left = 1000 - self.spent.get(mandate).unwrap_or(&0);
                    if ask.minor > left {
                        return Says::Capped(left);
                    }
                }
            }
            if ask.hold && self.held == MOST {
                return Says::TooManyHeld;
            }
            if let Some((hash, tolerate)) = ask.effect {
                let stands = self.effects.get(&hash).is_some_and(|minute| *minute > ask.minute - 10);
                if stands && !tolerate {
                    return Says::Duplicate;
                }
                self.effects.insert(hash, ask.minute);
            }
            self.held += u32::from(ask.hold);
            for mandate in ask.mandates.iter().filter(|_| !ask.hold) {
                *self.spent.entry(*mandate).or_default() += ask.minor;
            }
        }
        self.keys.insert(ask.key, ask.request);
        Says::New
    }
}

fn says(admitted: &Admitted) -> Says {
    match admitted {
        Admitted::New { .. } => Says::New,
        Admitted::Existing(existing) => Says::Existing(existing.same_request),
        Admitted::Refused(Obstacle::CapExceeded { left, .. }) => Says::Capped(left.minor()),
        Admitted::Refused(Obstacle::TooManyHeld) => Says::TooManyHeld,
        Admitted::Refused(Obstacle::Duplicate(_)) => Says::Duplicate,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn a_batch_decides_as_the_plain_rules_do_one_by_one(asks in prop::collection::vec(ask(), 1..60)) {
        let items: Vec<_> = asks.iter().map(Ask::item).collect();
        let mut rows = Rows::default();
        let together: Vec<_> = admit(&mut rows, &items).iter().map(says).collect();
        let mut model = Model::default();
        let plainly: Vec<_> = asks.iter().map(|ask| model.decide(ask)).collect();
        prop_assert_eq!(&together, &plainly);
        for cell in rows.accounts.values() {
            prop_assert!(cell.value.spent_minor <= 1000);
        }

        let mut rows = Rows::default();
        let singly: Vec<_> =
            items.iter().map(|item| says(&admit(&mut rows, std::slice::from_ref(item))[0])).collect();
        prop_assert_eq!(&singly, &plainly);
    }

    #[test]
    fn what_is_refused_changes_nothing(asks in prop::collection::vec(ask(), 1..40)) {
        let mut rows = Rows::default();
        for ask in &asks {
            let before = rows.clone();
            let result = admit(&mut rows, &[ask.item()]).remove(0);
            if !matches!(result, Admitted::New { .. }) {
                prop_assert_eq!(&rows.claims, &before.claims);
                prop_assert_eq!(&rows.effects, &before.effects);
                prop_assert_eq!(&rows.series, &before.series);
                let unchanged = rows.accounts.iter().all(|(key, cell)| {
                    before.accounts.get(key).map_or(!cell.changed, |before| before == cell)
                });
                prop_assert!(unchanged);
            }
        }
    }
}
