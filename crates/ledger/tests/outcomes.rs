//! What became of an action, outcome by outcome: each leads to the one before it, and none can be hidden, led in a circle or
//! taken from another action unseen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use action::{ActionId, Tenant};
use common::*;
use ledger::{Broken, Ledger, Settled, Settlement, State};
use rusqlite::Connection;

const STATES: [State; 3] = [State::InDoubt, State::Failed, State::Executed];

/// An action of which three things were said, one after the other.
fn thrice(ledger: &dyn Ledger, key: &str) -> ActionId {
    let id = admitted(ledger, admission(key));
    let said = |state: State| settlement(id, state, &format!("{key}-{state}"));
    wait(ledger.settle(said(State::InDoubt))).unwrap();
    wait(ledger.settle(Settlement { charged: Some(0), ..said(State::Failed) })).unwrap();
    wait(ledger.amend(amending(said(State::Executed)))).unwrap();
    id
}

fn outcomes(ledger: &dyn Ledger, id: ActionId) -> Result<Vec<Settled>, ledger::Error> {
    wait(ledger.outcomes(&Tenant::default(), id))
}

/// Where something is wrong, of which action, and what.
fn found(ledger: &dyn Ledger) -> Vec<(i64, Option<ActionId>, Broken)> {
    let stretch = wait(ledger.inspect(None)).unwrap();
    stretch.findings.into_iter().map(|it| (it.entry, it.action, it.broken)).collect()
}

#[test]
fn each_is_read_in_the_order_in_which_it_was_said_and_none_of_another_action() {
    on_every_ledger(|ledger| {
        let ids = [thrice(&*ledger, "a"), thrice(&*ledger, "b")];
        for id in ids {
            let read = outcomes(&*ledger, id).unwrap();
            assert_eq!(read.iter().map(|it| it.state).collect::<Vec<_>>(), STATES);
            assert!(read.iter().all(|it| it.action == id));
            assert!(read.windows(2).all(|two| two[0].entry < two[1].entry));
        }
        assert_eq!(found(&*ledger), []);
    });
}

#[test]
fn one_that_is_hidden_led_in_a_circle_or_anothers_is_found_and_never_read_as_if_it_were_so() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = sqlite(folder.path());
    let (a, b) = (thrice(&ledger, "a"), thrice(&ledger, "b"));
    let once = admitted(&ledger, admission("c"));
    wait(ledger.settle(settlement(once, State::Failed, "c"))).unwrap();
    let store = Connection::open(folder.path().join("ledger.db")).unwrap();
    let entry = |row: i64| -> i64 {
        store.query_row("SELECT entry FROM outcome WHERE row = ?1", [row], |row| row.get(0)).unwrap()
    };
    // Rows 1 to 3 are of the first action, 4 to 6 of the second, 7 is of the third.
    let first = |rows: &[i64]| rows.iter().map(|row| (entry(*row), Some(a), Broken::Unlisted)).collect();
    let second = |rows: &[i64]| rows.iter().map(|row| (entry(*row), Some(b), Broken::Unlisted)).collect();
    let cases: [(&str, ActionId, Vec<_>, Option<usize>); 9] = [
        // Hidden: the latest, the one in the middle, the first, all but the first.
        ("UPDATE fate SET outcome = 2 WHERE row = 1", a, first(&[3]), Some(2)),
        ("UPDATE outcome SET previous = 1 WHERE row = 3", a, first(&[2]), Some(2)),
        ("UPDATE outcome SET previous = NULL WHERE row = 2", a, first(&[1]), Some(2)),
        ("UPDATE fate SET outcome = NULL WHERE row = 1", a, first(&[1, 2, 3]), Some(0)),
        // In a circle.
        ("UPDATE outcome SET previous = 3 WHERE row = 2", a, first(&[1, 2]), None),
        ("UPDATE outcome SET previous = row WHERE row = 3", a, first(&[1, 2, 3]), None),
        // Another action's.
        ("UPDATE outcome SET previous = 3 WHERE row = 4", b, second(&[4]), None),
        ("UPDATE outcome SET previous = 3 WHERE row = 6", b, second(&[4, 5, 6]), None),
        ("UPDATE fate SET outcome = 7 WHERE row = 2", b, second(&[4, 5, 6]), None),
    ];
    for (forgery, id, unlisted, read) in cases {
        store
            .execute_batch(
                "CREATE TEMP TABLE f AS SELECT * FROM fate; CREATE TEMP TABLE o AS SELECT * FROM outcome",
            )
            .unwrap();
        assert_eq!(store.execute(forgery, []).unwrap(), 1);
        let told: Vec<_> = found(&ledger).into_iter().filter(|it| it.2 == Broken::Unlisted).collect();
        assert_eq!(told, unlisted, "{forgery}");
        assert_eq!(outcomes(&ledger, id).ok().map(|it| it.len()), read, "{forgery}");
        store
            .execute_batch(
                "UPDATE fate SET outcome = (SELECT f.outcome FROM f WHERE f.row = fate.row);
                 UPDATE outcome SET previous = (SELECT o.previous FROM o WHERE o.row = outcome.row);
                 DROP TABLE f; DROP TABLE o",
            )
            .unwrap();
        assert_eq!(found(&ledger), [], "{forgery}");
    }
}
