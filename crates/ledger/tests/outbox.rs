//! The outbox: told in order for each action, from the right place on, and nothing twice or never.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use action::ActionId;
use common::*;
use ledger::{Error, Heading, Ledger, Notice, Outbox, Standing, State, Tried, event_of};

fn notice(entry: i64, action: ActionId) -> Notice {
    Notice { entry, action: Some(action), taken_ms: NOW }
}

fn open(ledger: &dyn Ledger, names: &[&str]) {
    wait(ledger.give_places(names.iter().map(|name| (*name).into()).collect())).unwrap();
}

/// The row of the last entry there is.
fn end(ledger: &dyn Ledger) -> i64 {
    wait(ledger.entries(None, 1000)).unwrap().rows.last().unwrap().0
}

/// A row far behind everything that is there, or comes to be while a test runs.
fn far(ledger: &dyn Ledger) -> i64 {
    end(ledger) + (1 << 40)
}

/// Does nothing come after this place?
fn is_the_end(ledger: &dyn Ledger, place: i64) -> bool {
    place >= end(ledger) && wait(ledger.entries(Some(place), 10)).unwrap().rows.is_empty()
}

fn due(ledger: &dyn Ledger, name: &str, now_ms: i64) -> Vec<(i64, u32)> {
    let due = wait(ledger.untold(name, now_ms, 10)).unwrap();
    due.into_iter().map(|waiting| (waiting.notice.entry, waiting.tries)).collect()
}

fn standing(ledger: &dyn Ledger, name: &str) -> (i64, u64) {
    let Standing { upto, waiting } = wait(ledger.standing(name)).unwrap();
    (upto, waiting)
}

#[test]
fn a_new_destination_begins_at_the_end_and_a_known_one_where_it_was() {
    on_every_ledger(|ledger| {
        admitted(&*ledger, admission("before"));
        open(&*ledger, &["ops"]);
        let (begin, _) = standing(&*ledger, "ops");
        assert!(is_the_end(&*ledger, begin), "the opening entry and the action's are over");
        let id = admitted(&*ledger, admission("after"));
        let after = end(&*ledger);
        wait(ledger.put("ops", after, vec![notice(after, id)])).unwrap();
        admitted(&*ledger, admission("later"));

        open(&*ledger, &["ops", "desk"]);
        assert_eq!(standing(&*ledger, "ops"), (after, 1));
        let (desk, waiting) = standing(&*ledger, "desk");
        assert!(is_the_end(&*ledger, desk) && waiting == 0);
        wait(ledger.put("ops", begin, vec![])).unwrap();
        assert_eq!(standing(&*ledger, "ops"), (after, 1), "no way back");
    });
}

#[test]
fn a_destination_that_is_gone_is_forgotten_with_what_waits() {
    on_every_ledger(|ledger| {
        open(&*ledger, &["ops", "desk"]);
        let [n8, n9] = [8, 9].map(|number| far(&*ledger) + number);
        wait(ledger.put("ops", n9, vec![notice(n8, id()), notice(n9, id())])).unwrap();
        wait(ledger.put("desk", n9, vec![notice(n9, id())])).unwrap();
        assert_eq!(wait(ledger.forget_others(vec!["desk".into(), "new".into()])).unwrap(), 2);
        assert!(matches!(wait(ledger.standing("ops")), Err(Error::Absent(_))));
        assert_eq!(due(&*ledger, "ops", NOW), []);
        assert_eq!(due(&*ledger, "desk", NOW), [(n9, 0)]);
        open(&*ledger, &["ops", "desk"]);
        assert_eq!(due(&*ledger, "ops", NOW), [], "nothing comes back under an old name");
    });
}

#[test]
fn of_each_action_only_the_oldest_is_due_and_others_do_not_wait_for_it() {
    on_every_ledger(|ledger| {
        open(&*ledger, &["ops"]);
        let (a, b) = (id(), id());
        let [n5, n6, n7, n8, n9] = [5, 6, 7, 8, 9].map(|number| far(&*ledger) + number);
        let notices = vec![notice(n5, a), notice(n6, b), notice(n7, a), notice(n8, b), notice(n9, a)];
        wait(ledger.put("ops", n9, notices)).unwrap();
        assert_eq!(due(&*ledger, "ops", NOW), [(n5, 0), (n6, 0)]);

        let tried = vec![Tried { entry: n5, again_ms: Some(NOW + 100) }, Tried { entry: n6, again_ms: None }];
        wait(ledger.tried("ops", tried)).unwrap();
        assert_eq!(due(&*ledger, "ops", NOW + 99), [(n8, 0)], "what comes after a failed one waits for it");
        assert_eq!(due(&*ledger, "ops", NOW + 100), [(n5, 1), (n8, 0)]);
        assert_eq!(standing(&*ledger, "ops"), (n9, 4));

        wait(ledger.tried("ops", vec![Tried { entry: n5, again_ms: None }])).unwrap();
        assert_eq!(due(&*ledger, "ops", NOW), [(n7, 0), (n8, 0)]);
    });
}

#[test]
fn what_was_taken_up_is_not_taken_up_anew() {
    on_every_ledger(|ledger| {
        open(&*ledger, &["ops"]);
        let (a, five) = (id(), far(&*ledger));
        wait(ledger.put("ops", five, vec![notice(five, a)])).unwrap();
        wait(ledger.tried("ops", vec![Tried { entry: five, again_ms: Some(NOW + 50) }])).unwrap();
        wait(ledger.put("ops", five, vec![notice(five, a)])).unwrap();
        assert_eq!(standing(&*ledger, "ops"), (five, 1));
        assert_eq!(due(&*ledger, "ops", NOW), []);
        assert_eq!(due(&*ledger, "ops", NOW + 50), [(five, 1)]);
    });
}

#[test]
fn the_outbox_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let a = id();
    {
        let ledger = sqlite(directory.path());
        open(&ledger, &["ops"]);
        wait(ledger.put("ops", 7, vec![notice(5, a), notice(7, a)])).unwrap();
        wait(ledger.tried("ops", vec![Tried { entry: 5, again_ms: Some(NOW + 50) }])).unwrap();
    }
    let ledger = sqlite(directory.path());
    open(&ledger, &["ops"]);
    assert_eq!(standing(&ledger, "ops"), (7, 2));
    let waiting = wait(ledger.untold("ops", NOW + 50, 10)).unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!((waiting[0].notice, waiting[0].tries), (notice(5, a), 1));
}

#[test]
fn an_entry_says_its_event_and_what_it_is_about() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, admission("k"));
        wait(ledger.settle(settlement(id, State::Executed, "a"))).unwrap();
        let entries = wait(ledger.entries(None, 10)).unwrap().rows;
        let events: Vec<_> = entries.iter().map(|(_, bytes)| event_of(bytes).unwrap()).collect();
        assert_eq!(events, ["chain_opened", "admitted", "executed"]);
        let heading = Heading::of(&entries[2].1).unwrap();
        assert_eq!((heading.event, heading.action), ("executed", Some(id)));
        assert_eq!((heading.state, heading.tenant_ref), (Some("EXECUTING"), Some("t-1")));
        assert_eq!(heading.hash.len(), 64);
        assert_eq!(Heading::of(&entries[0].1).unwrap().action, None);
    });
    assert_eq!(event_of(br#"{"at":"x\",\"event\":\"held\"","event":"admitted"}"#), Some("admitted"));
    assert_eq!(event_of(b"{}"), None);
    assert_eq!(Heading::of(b"{}"), None);
}
