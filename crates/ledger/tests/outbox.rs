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
        assert_eq!(begin, 2, "the opening entry and the action's are over");
        let id = admitted(&*ledger, admission("after"));
        wait(ledger.put("ops", 3, vec![notice(3, id)])).unwrap();
        admitted(&*ledger, admission("later"));

        open(&*ledger, &["ops", "desk"]);
        assert_eq!(standing(&*ledger, "ops"), (3, 1));
        assert_eq!(standing(&*ledger, "desk"), (4, 0));
        wait(ledger.put("ops", 2, vec![])).unwrap();
        assert_eq!(standing(&*ledger, "ops"), (3, 1), "no way back");
    });
}

#[test]
fn a_destination_that_is_gone_is_forgotten_with_what_waits() {
    on_every_ledger(|ledger| {
        open(&*ledger, &["ops", "desk"]);
        wait(ledger.put("ops", 9, vec![notice(8, id()), notice(9, id())])).unwrap();
        wait(ledger.put("desk", 9, vec![notice(9, id())])).unwrap();
        assert_eq!(wait(ledger.forget_others(vec!["desk".into(), "new".into()])).unwrap(), 2);
        assert!(matches!(wait(ledger.standing("ops")), Err(Error::Absent(_))));
        assert_eq!(due(&*ledger, "ops", NOW), []);
        assert_eq!(due(&*ledger, "desk", NOW), [(9, 0)]);
        open(&*ledger, &["ops", "desk"]);
        assert_eq!(due(&*ledger, "ops", NOW), [], "nothing comes back under an old name");
    });
}

#[test]
fn of_each_action_only_the_oldest_is_due_and_others_do_not_wait_for_it() {
    on_every_ledger(|ledger| {
        open(&*ledger, &["ops"]);
        let (a, b) = (id(), id());
        let notices = vec![notice(5, a), notice(6, b), notice(7, a), notice(8, b), notice(9, a)];
        wait(ledger.put("ops", 9, notices)).unwrap();
        assert_eq!(due(&*ledger, "ops", NOW), [(5, 0), (6, 0)]);

        let tried = vec![Tried { entry: 5, again_ms: Some(NOW + 100) }, Tried { entry: 6, again_ms: None }];
        wait(ledger.tried("ops", tried)).unwrap();
        assert_eq!(due(&*ledger, "ops", NOW + 99), [(8, 0)], "what comes after a failed one waits for it");
        assert_eq!(due(&*ledger, "ops", NOW + 100), [(5, 1), (8, 0)]);
        assert_eq!(standing(&*ledger, "ops"), (9, 4));

        wait(ledger.tried("ops", vec![Tried { entry: 5, again_ms: None }])).unwrap();
        assert_eq!(due(&*ledger, "ops", NOW), [(7, 0), (8, 0)]);
    });
}

#[test]
fn what_was_taken_up_is_not_taken_up_anew() {
    on_every_ledger(|ledger| {
        open(&*ledger, &["ops"]);
        let a = id();
        wait(ledger.put("ops", 5, vec![notice(5, a)])).unwrap();
        wait(ledger.tried("ops", vec![Tried { entry: 5, again_ms: Some(NOW + 50) }])).unwrap();
        wait(ledger.put("ops", 5, vec![notice(5, a)])).unwrap();
        assert_eq!(standing(&*ledger, "ops"), (5, 1));
        assert_eq!(due(&*ledger, "ops", NOW), []);
        assert_eq!(due(&*ledger, "ops", NOW + 50), [(5, 1)]);
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
