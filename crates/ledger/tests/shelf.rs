//! What is put aside: taken up once, by whoever comes first of all processes, and gone when it is over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::time::Duration;

use action::Tenant;
use common::postgres::{asked, server, sql};
use common::*;
use ledger::{Access, Aside, AsideId, Grip, Postgres, Shelf, Shelved};

const KEPT: Duration = Duration::from_secs(60);

fn aside(id: u8, round: u32) -> Aside {
    let (tenant, questions) = (Tenant::default(), format!("questions {round}").into_bytes());
    let action = Some(common::id());
    Aside { id: [id; 16], tenant, action, bound: [id; 32], round, questions, kept: KEPT }
}

/// Processes on a new database, and its URL.
fn processes<const N: usize>() -> Option<([Postgres; N], String)> {
    let url = server()?.database();
    let open = |number: usize| {
        let (replica, chain) = (format!("replica-{number}"), format!("chain-{number}"));
        Postgres::open(Access::new(&url, &replica, &chain, NOW)).unwrap()
    };
    Some((std::array::from_fn(open), url))
}

fn take_up(shelf: &dyn Shelf, id: AsideId, round: u32) -> Grip {
    wait(shelf.take_up(&Tenant::default(), id, round, b"said".to_vec())).unwrap()
}

fn keep(shelf: &dyn Shelf, id: AsideId, round: u32) -> Grip {
    wait(shelf.keep(&Tenant::default(), id, round)).unwrap()
}

fn shelved(shelf: &dyn Shelf, id: AsideId, round: u32, words: u32) -> Option<Shelved> {
    wait(shelf.shelved(&Tenant::default(), id, round, words)).unwrap()
}

#[test]
fn a_store_of_one_process_has_none() {
    on_every_ledger(|ledger| {
        let is_shared = ledger.durability().store == "postgresql";
        assert_eq!(ledger.shelf().is_some(), is_shared);
    });
}

#[test]
fn a_round_is_taken_up_once_whoever_wants_to() {
    let Some((processes, _)) = processes::<3>() else { return };
    let [holder, near, far] = &processes;
    for number in 0..20 {
        wait(holder.put_aside(aside(number, 1))).unwrap();
        let grips = std::thread::scope(|scope| {
            let all = processes.each_ref().map(|process| scope.spawn(|| take_up(process, [number; 16], 1)));
            all.map(|thread| thread.join().unwrap())
        });
        assert_eq!(grips.iter().filter(|grip| **grip == Grip::Taken).count(), 1, "{grips:?}");
        assert_eq!(grips.iter().filter(|grip| **grip == Grip::Late).count(), 2, "{grips:?}");
    }
    // Nor is a round that is not there, and nothing of another tenant.
    wait(holder.put_aside(aside(20, 1))).unwrap();
    assert_eq!(take_up(near, [20; 16], 2), Grip::Early);
    let other = Tenant::parse("other").unwrap();
    assert_eq!(wait(near.take_up(&other, [20; 16], 1, Vec::new())).unwrap(), Grip::Gone);
    assert!(wait(near.shelved(&other, [20; 16], 0, 0)).unwrap().is_none());
    assert_eq!(take_up(near, [20; 16], 1), Grip::Taken);
    wait(holder.put_aside(aside(20, 2))).unwrap();
    assert_eq!((take_up(far, [20; 16], 1), take_up(far, [20; 16], 2)), (Grip::Late, Grip::Taken));
    assert_eq!(take_up(far, [21; 16], 1), Grip::Gone);
}

#[test]
fn whoever_holds_it_may_take_it_up_again_unless_another_has() {
    let Some(([holder, other], _)) = processes::<2>() else { return };
    wait(holder.put_aside(aside(1, 1))).unwrap();
    assert_eq!((keep(&holder, [1; 16], 1), keep(&holder, [1; 16], 1)), (Grip::Taken, Grip::Taken));
    assert_eq!(take_up(&other, [1; 16], 1), Grip::Late);
    assert_eq!((keep(&holder, [1; 16], 2), keep(&holder, [2; 16], 1)), (Grip::Early, Grip::Gone));
    wait(holder.put_aside(aside(1, 2))).unwrap();
    assert_eq!((take_up(&other, [1; 16], 2), keep(&holder, [1; 16], 2)), (Grip::Taken, Grip::Late));
}

#[test]
fn what_is_put_aside_twice_is_open_once() {
    let Some(([holder, other], _)) = processes::<2>() else { return };
    let id = [1; 16];
    wait(holder.put_aside(aside(1, 1))).unwrap();
    assert_eq!(take_up(&other, id, 1), Grip::Taken);
    wait(holder.put_aside(aside(1, 1))).unwrap();
    assert_eq!(take_up(&other, id, 1), Grip::Late, "whoever has it keeps it");
    assert_eq!(wait(holder.taken_up(vec![])).unwrap()[0].said.as_deref(), Some(&b"said"[..]));
    wait(holder.put_aside(aside(1, 2))).unwrap();
    wait(holder.put_aside(aside(1, 1))).unwrap();
    assert_eq!(shelved(&other, id, 0, 0).unwrap().round, 2, "what comes late takes no later round away");
    // Whoever holds it does not lay down what it has in hand: what lies there of that is not so any more.
    assert_eq!(keep(&holder, id, 2), Grip::Taken);
    wait(holder.put_aside(aside(1, 2))).unwrap();
    assert_eq!(take_up(&other, id, 2), Grip::Taken);
}

#[test]
fn only_whoever_took_a_round_up_gives_it_up() {
    let Some(([holder, near, far], _)) = processes::<3>() else { return };
    let (id, tenant) = ([1; 16], Tenant::default());
    let is_given_up = || wait(holder.taken_up(vec![])).unwrap()[0].is_given_up;
    wait(holder.put_aside(aside(1, 1))).unwrap();
    assert_eq!(take_up(&near, id, 1), Grip::Taken);
    wait(holder.put_aside(aside(1, 2))).unwrap();
    assert_eq!(take_up(&far, id, 2), Grip::Taken);
    for (process, round) in [(&near, 1), (&near, 2), (&far, 1)] {
        wait(process.give_up(&tenant, id, round)).unwrap();
        assert!(!is_given_up());
    }
    wait(far.give_up(&tenant, id, 2)).unwrap();
    assert!(is_given_up());
}

#[test]
fn holder_and_taker_hear_of_each_other_and_the_result_is_taken_once() {
    let Some(([holder, taker], url)) = processes::<2>() else { return };
    let (id, tenant) = ([1; 16], Tenant::default());
    wait(holder.put_aside(aside(1, 1))).unwrap();
    let stands = shelved(&taker, id, 0, 0).unwrap();
    assert_eq!((stands.round, stands.is_open, stands.is_own), (1, true, false));
    assert_eq!(stands.questions.as_deref(), Some(&b"questions 1"[..]));
    assert!(shelved(&holder, id, 0, 0).unwrap().is_own);
    assert!(wait(holder.taken_up(vec![])).unwrap().is_empty());
    assert_eq!(take_up(&taker, id, 1), Grip::Taken);

    let heard = wait(holder.taken_up(vec![])).unwrap();
    assert_eq!((heard.len(), heard[0].id, heard[0].round, heard[0].is_given_up), (1, id, 1, false));
    assert_eq!(heard[0].said.as_deref(), Some(&b"said"[..]));
    assert!(wait(taker.taken_up(vec![])).unwrap().is_empty(), "it is not the taker's to go on with");
    assert_eq!(wait(holder.taken_up(vec![id])).unwrap()[0].said, None, "it is known");
    wait(taker.give_up(&tenant, id, 1)).unwrap();
    assert!(wait(holder.taken_up(vec![id])).unwrap()[0].is_given_up);

    wait(holder.tell(id, vec![b"one".to_vec(), b"two".to_vec()])).unwrap();
    wait(holder.tell(id, vec![b"three".to_vec()])).unwrap();
    assert_eq!(shelved(&taker, id, 1, 1).unwrap().words, [b"two".to_vec(), b"three".to_vec()]);
    // The next question comes behind what was told before.
    wait(holder.put_aside(aside(1, 2))).unwrap();
    let stands = shelved(&taker, id, 1, 3).unwrap();
    assert_eq!((stands.round, stands.is_open, stands.words.len()), (2, true, 0));
    assert_eq!(stands.questions.as_deref(), Some(&b"questions 2"[..]));
    assert_eq!(take_up(&taker, id, 2), Grip::Taken);
    assert!(shelved(&taker, id, 2, 0).unwrap().words.is_empty(), "they were of the round before");

    assert_eq!(wait(taker.take(&tenant, id)).unwrap(), None);
    wait(holder.conclude(id, b"result".to_vec(), KEPT)).unwrap();
    assert!(shelved(&taker, id, 2, 0).unwrap().is_over);
    assert!(wait(holder.taken_up(vec![])).unwrap().is_empty());
    assert_eq!(keep(&holder, id, 2), Grip::Late);
    assert_eq!(wait(taker.take(&tenant, id)).unwrap(), Some(b"result".to_vec()));
    assert_eq!(wait(holder.take(&tenant, id)).unwrap(), None);
    assert!(shelved(&taker, id, 2, 0).is_none());
    assert_eq!(asked(&url, "SELECT count(*) FROM aside").unwrap()[0][0].as_deref(), Some("0"));
}

#[test]
fn what_waits_of_an_action_is_found_by_others_as_it_was_asked_for_while_it_is_open() {
    let Some(([holder, other], _)) = processes::<2>() else { return };
    let aside = aside(1, 1);
    let (tenant, action, bound) = (aside.tenant.clone(), aside.action.unwrap(), aside.bound);
    let open = |process: &Postgres, bound| wait(process.open_of(&tenant, action, bound)).unwrap();
    wait(holder.put_aside(aside)).unwrap();
    assert_eq!(open(&other, bound), Some([1; 16]));
    assert_eq!(open(&other, [9; 32]), None, "asked for in another way");
    assert_eq!(open(&holder, bound), None, "whoever holds it knows");
    assert_eq!(wait(other.open_of(&Tenant::parse("other").unwrap(), action, bound)).unwrap(), None);
    assert_eq!(take_up(&other, [1; 16], 1), Grip::Taken);
    assert_eq!(open(&other, bound), None, "somebody is at it");
    wait(other.discard(&tenant, [1; 16])).unwrap();
    assert!(shelved(&other, [1; 16], 0, 0).is_some(), "it is not the other's to take away");
    wait(holder.discard(&tenant, [1; 16])).unwrap();
    assert!(shelved(&other, [1; 16], 0, 0).is_none());
}

#[test]
fn what_somebody_held_who_is_gone_is_known_to_be_orphaned() {
    let Some(([holder, other], url)) = processes::<2>() else { return };
    wait(holder.put_aside(aside(1, 1))).unwrap();
    wait(holder.put_aside(aside(2, 1))).unwrap();
    assert!(!shelved(&other, [1; 16], 0, 0).unwrap().is_orphaned);
    let aside = aside(3, 1);
    let (tenant, action, bound) = (aside.tenant.clone(), aside.action.unwrap(), aside.bound);
    wait(holder.put_aside(aside)).unwrap();
    drop(holder);
    assert!(shelved(&other, [1; 16], 0, 0).unwrap().is_orphaned);
    assert_eq!(wait(other.open_of(&tenant, action, bound)).unwrap(), None, "nobody goes on with it");
    wait(other.discard(&tenant, [3; 16])).unwrap();
    assert!(shelved(&other, [3; 16], 0, 0).is_none());
    sql(&url, "DELETE FROM replica WHERE ended");
    assert!(shelved(&other, [2; 16], 0, 0).unwrap().is_orphaned, "also where nobody knows of it any more");
}

#[test]
fn what_nobody_came_back_for_is_forgotten_once_its_time_is_over() {
    let Some(([holder, other], url)) = processes::<2>() else { return };
    let brief = |id| Aside { kept: Duration::ZERO, ..aside(id, 1) };
    // Its holder is gone; it is over and nobody took it; its holder has it; its time is not over.
    wait(holder.put_aside(brief(1))).unwrap();
    wait(other.put_aside(brief(2))).unwrap();
    wait(other.conclude([2; 16], b"result".to_vec(), Duration::ZERO)).unwrap();
    assert_eq!(wait(other.take(&Tenant::default(), [2; 16])).unwrap(), None, "its time is over");
    wait(other.put_aside(brief(3))).unwrap();
    wait(holder.put_aside(aside(4, 1))).unwrap();
    drop(holder);
    let next = Postgres::open(Access::new(&url, "replica-2", "chain-2", NOW)).unwrap();
    let left = [1, 2, 3, 4].map(|id| shelved(&next, [id; 16], 0, 0).is_some());
    assert_eq!(left, [false, false, true, true]);
}
