//! The audit trail: what is found, by what, in which order, and how it stays so while others write.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use action::{ActionId, Subject, Tenant};
use common::*;
use futures_util::future::join_all;
use ledger::{
    Admitted, Audited, Basis, Broken, CHALLENGED, Deferral, Draft, Labels, Ledger, Options, Order, Page,
    SENT_AGAIN, Search, Sqlite, State, WAITING,
};
use rusqlite::Connection;

/// An action of one kind among four, told apart by everything that can be searched for.
fn varied(number: i64) -> ledger::Admission {
    let kind = number % 4;
    let mut admission = admission(&format!("k{number}"));
    let intent = &mut admission.intent;
    intent.at_ms = NOW + number * 1000;
    intent.subject = Subject::parse(&format!("agent-{kind}")).unwrap();
    intent.archetype = format!("ARCHETYPE_{kind}").into();
    intent.labels = Labels {
        session: (kind != 3).then(|| format!("session-{kind}").into()),
        verb: (kind == 1).then(|| "deploy".into()),
        target: (kind == 1).then(|| "catalog".into()),
        level: Some(format!("atp-{}", kind % 2 + 1).into()),
        regulations: (0..kind).map(|number| format!("REG-{number}").into()).collect(),
        refs: (0..kind).map(|number| format!("action_id=act-{number}").into()).collect(),
    };
    admission
}

/// Admits so many, and settles each second one.
fn fill(ledger: &dyn Ledger, numbers: std::ops::Range<i64>) -> Vec<ActionId> {
    wait(join_all(numbers.map(|number| async move {
        let admission = varied(number);
        let id = admission.intent.id;
        ledger.admit(admission).await.unwrap();
        if number % 2 == 0 {
            let mut settled = settlement(id, State::Executed, &number.to_string());
            settled.outcome.at_ms = NOW + number * 1000 + 10;
            settled.outcome.entry.state = Some("COMPLETED");
            ledger.settle(settled).await.unwrap();
        }
        id
    })))
}

fn owner(found: &Audited) -> &ledger::Owner {
    found.owner().expect("an entry of an action")
}

fn part(ledger: &dyn Ledger, search: &Search, order: Order, after: Option<i64>, limit: u32) -> Page<Audited> {
    wait(ledger.audit(&Tenant::default(), search.clone(), order, after, limit)).unwrap()
}

/// All pages, one after the other.
fn all(ledger: &dyn Ledger, search: &Search, order: Order, limit: u32) -> Vec<Audited> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = part(ledger, search, order, after, limit);
        assert!(page.rows.len() <= limit as usize);
        found.extend(page.rows);
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

/// A search by its name, and what it is to find.
type Case = (&'static str, Search, fn(&Audited) -> bool);

fn searches() -> Vec<Case> {
    let text = |text: &str| Some(Box::from(text));
    let any = Search::default;
    vec![
        ("everything", any(), |_| true),
        ("agent", Search { subject: Subject::parse("agent-2").ok(), ..any() }, |it| {
            owner(it).subject.as_str() == "agent-2"
        }),
        ("session", Search { session: text("session-1"), ..any() }, |it| {
            owner(it).labels.session.as_deref() == Some("session-1")
        }),
        ("verb", Search { verb: text("deploy"), ..any() }, |it| owner(it).labels.verb.is_some()),
        ("verb of an archetype", Search { verb: text("ARCHETYPE_3"), ..any() }, |it| {
            &*owner(it).archetype == "ARCHETYPE_3"
        }),
        ("verb instead of an archetype", Search { verb: text("ARCHETYPE_1"), ..any() }, |_| false),
        ("archetype", Search { archetype: text("ARCHETYPE_1"), ..any() }, |it| {
            &*owner(it).archetype == "ARCHETYPE_1"
        }),
        ("regulation", Search { regulation: text("REG-1"), ..any() }, |it| {
            owner(it).labels.regulations.iter().any(|name| &**name == "REG-1")
        }),
        ("target", Search { target: text("catalog"), ..any() }, |it| owner(it).labels.target.is_some()),
        ("reference", Search { refs: vec!["action_id=act-1".into()], ..any() }, |it| {
            owner(it).labels.refs.iter().any(|name| &**name == "action_id=act-1")
        }),
        (
            "references that never meet",
            Search { refs: vec!["action_id=act-1".into(), "action_id=act-7".into()], ..any() },
            |_| false,
        ),
        ("level", Search { level: text("atp-2"), ..any() }, |it| {
            owner(it).labels.level.as_deref() == Some("atp-2")
        }),
        ("state", Search { state: text("COMPLETED"), ..any() }, |it| {
            it.state.as_deref() == Some("COMPLETED")
        }),
        ("time", Search { from_ms: Some(NOW + 9000), to_ms: Some(NOW + 21_000), ..any() }, |it| {
            (NOW + 9000..NOW + 21_000).contains(&it.at_ms)
        }),
        ("from a time", Search { from_ms: Some(NOW + 9000), ..any() }, |it| it.at_ms >= NOW + 9000),
        (
            "several",
            Search { level: text("atp-1"), state: text("COMPLETED"), session: text("session-2"), ..any() },
            |it| {
                it.state.as_deref() == Some("COMPLETED")
                    && owner(it).labels.session.as_deref() == Some("session-2")
            },
        ),
        (
            "two that never meet",
            Search { archetype: text("ARCHETYPE_1"), session: text("session-2"), ..any() },
            |_| false,
        ),
        ("nobody", Search { subject: Subject::parse("nobody").ok(), ..any() }, |_| false),
    ]
}

/// Every search, in both orders, against a walk over the whole chain.
fn check(ledger: &dyn Ledger) {
    let trail = all(ledger, &Search::default(), Order::OldestFirst, 7);
    let rows: Vec<i64> = trail.iter().map(|it| it.row).collect();
    assert!(rows.is_sorted_by(|a, b| a < b));
    for (name, search, wanted) in searches() {
        let mut expected: Vec<Audited> = trail.iter().filter(|it| wanted(it)).cloned().collect();
        assert_eq!(all(ledger, &search, Order::OldestFirst, 5), expected, "{name}");
        expected.reverse();
        assert_eq!(all(ledger, &search, Order::NewestFirst, 5), expected, "{name}");
        let elsewhere = Tenant::parse("other").unwrap();
        let page = wait(ledger.audit(&elsewhere, search, Order::NewestFirst, None, 5)).unwrap();
        assert_eq!(page.rows, [], "{name} for another tenant");
    }
}

#[test]
fn every_filter_finds_what_it_names_and_nothing_else() {
    on_every_ledger(|ledger| {
        fill(&*ledger, 0..40);
        wait(ledger.record(event("key_rotated"))).unwrap();
        assert_eq!(
            all(&*ledger, &Search::default(), Order::NewestFirst, 100).len(),
            60,
            "events are no actions'"
        );
        check(&*ledger);
    });
}

#[test]
fn what_is_no_action_is_listed_to_those_whose_it_is() {
    on_every_ledger(|ledger| {
        fill(&*ledger, 0..2);
        wait(ledger.record(event("frozen"))).unwrap();
        wait(ledger.record(ledger::Event { tenant_ref: Some("t-2".into()), ..event("thawed") })).unwrap();
        wait(ledger.prune(NOW + 1, 10, NOW + 20)).unwrap();
        let search = |verb: Option<&str>| Search {
            reference: Some("t-1".into()),
            verb: verb.map(Box::from),
            ..Search::default()
        };
        let events = |search: &Search| {
            let found = all(&*ledger, search, Order::OldestFirst, 3);
            found.iter().map(|it| it.event.to_string()).collect::<Vec<_>>()
        };
        // Of the two actions one was pruned, and what became of it is listed no more.
        assert_eq!(events(&search(None)), ["chain_opened", "admitted", "frozen", "pruned"]);
        assert_eq!(events(&search(Some("frozen"))), ["frozen"]);
        assert_eq!(events(&search(Some("pruned"))), ["pruned"]);
        assert_eq!(events(&search(Some("thawed"))), [""; 0], "another tenant's");
        let level = Search { level: Some("atp-2".into()), ..search(None) };
        assert_eq!(events(&level), ["admitted"], "only actions have a level");
        let found = all(&*ledger, &search(Some("frozen")), Order::NewestFirst, 3);
        let Some(record) = &found[0].record else { panic!("{found:?}") };
        assert_eq!(*record, event("frozen").record);
    });
}

#[test]
fn an_entry_is_shown_with_what_its_action_is() {
    on_every_ledger(|ledger| {
        let id = fill(&*ledger, 1..3)[1];
        let page = part(&*ledger, &Search::default(), Order::NewestFirst, None, 1);
        let entries = wait(ledger.entries(None, 10)).unwrap().rows;
        let entry: serde_json::Value = serde_json::from_slice(&entries[3].1).unwrap();
        let found = &page.rows[0];
        assert_eq!((found.row, owner(found).id, found.seq, &*found.chain), (entries[3].0, id, 3, "chain-1"));
        assert_eq!((&*found.event, found.state.as_deref()), ("executed", Some("COMPLETED")));
        assert_eq!((found.at_ms, owner(found).at_ms), (NOW + 2010, NOW + 2000));
        assert_eq!(found.hash.as_ref(), entry["hash"]);
        assert_eq!(found.previous.as_deref(), entry["previousHash"].as_str());
        assert_eq!(found.receipt.as_deref(), entry["receiptHash"].as_str());
        assert!(found.receipt.is_some());
        assert_eq!(owner(found).labels.regulations, [Box::from("REG-0"), Box::from("REG-1")]);
        assert_eq!(owner(found).payload, b"{}");
    });
}

#[test]
fn pages_stay_what_they_are_while_others_write() {
    on_every_ledger(|ledger| {
        fill(&*ledger, 0..300);
        let before: Vec<i64> =
            all(&*ledger, &Search::default(), Order::NewestFirst, 200).iter().map(|it| it.row).collect();
        let done = AtomicBool::new(false);
        let (down, up) = std::thread::scope(|scope| {
            scope.spawn(|| {
                for hundred in 0..10 {
                    fill(&*ledger, 1000 + hundred * 100..1100 + hundred * 100);
                }
                done.store(true, Ordering::Release);
            });
            let down = all(&*ledger, &Search::default(), Order::NewestFirst, 3);
            // Along the chain until the writer is done and everything was seen.
            let (mut up, mut after) = (Vec::new(), None);
            loop {
                let finished = done.load(Ordering::Acquire);
                let page = part(&*ledger, &Search::default(), Order::OldestFirst, after, 50);
                after = page.rows.last().map(|it| it.row).or(after);
                up.extend(page.rows.iter().map(|it| it.row));
                if finished && page.next.is_none() {
                    return (down, up);
                }
            }
        });
        let down: Vec<i64> = down.iter().map(|it| it.row).collect();
        assert!(down.is_sorted_by(|a, b| a > b), "none twice");
        assert!(down.ends_with(&before), "none of those that were there is left out");
        assert_eq!(up.len(), 450 + 1500);
        assert!(up.is_sorted_by(|a, b| a < b), "none twice");
    });
}

// The index.

fn open(directory: &Path) -> Sqlite {
    Sqlite::open(&directory.join("ledger.db"), Options::new("chain-2", NOW + 10_000_000)).unwrap()
}

fn db(directory: &Path) -> Connection {
    Connection::open(directory.join("ledger.db")).unwrap()
}

#[test]
fn many_slices_are_searched_as_one_and_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    fill(&ledger, 0..2100);
    // Closed stores have every whole slice in the index.
    let slices = |count: i64| {
        let found: i64 =
            db(directory.path()).query_row("SELECT count(*) FROM audit_slice", [], |row| row.get(0)).unwrap();
        assert_eq!(found, count);
    };
    drop(ledger);
    slices(3);
    let ledger = open(directory.path());
    check(&ledger);
    fill(&ledger, 3000..3700);
    check(&ledger);
    assert_eq!(inspect(&ledger), []);
    drop(ledger);
    slices(4);
    assert_eq!(inspect(&open(directory.path())), []);
}

#[test]
fn a_store_from_before_the_index_gets_one_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    fill(&ledger, 0..1500);
    drop(ledger);
    db(directory.path()).execute_batch("DELETE FROM audit_slice; DELETE FROM audit_term").unwrap();
    let ledger = open(directory.path());
    check(&ledger);
    assert_eq!(inspect(&ledger), []);
}

#[test]
fn a_search_for_next_to_nothing_goes_on_where_it_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    fill(&ledger, 0..2000);
    drop(ledger);
    // As after a pruning: the index leads to entries whose actions are gone.
    db(directory.path()).execute("DELETE FROM action WHERE row > 100", []).unwrap();
    let ledger = open(directory.path());
    let (mut parts, mut found, mut after) = (0, 0, None);
    loop {
        let page = part(&ledger, &Search::default(), Order::NewestFirst, after, 10);
        (parts, found) = (parts + 1, found + page.rows.len());
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(found, 150);
    assert!((16..20).contains(&parts), "{parts}: one of them at least looked at as much as it may");
}

// Looking closely.

fn inspect(ledger: &dyn Ledger) -> Vec<(i64, Broken)> {
    let (mut findings, mut after) = (Vec::new(), None);
    loop {
        let stretch = wait(ledger.inspect(after)).unwrap();
        findings.extend(stretch.findings.into_iter().map(|found| (found.entry, found.broken)));
        match stretch.next {
            Some(next) => after = Some(next),
            None => return findings,
        }
    }
}

#[test]
fn everything_that_was_altered_is_found_each_once() {
    let edit = |row: i64, from: &str, to: &str| {
        format!(
            "UPDATE entry SET bytes = cast(replace(cast(bytes AS text), '{from}', '{to}') AS blob) WHERE row = {row}"
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    for number in 0..1500 {
        fill(&ledger, number..number + 1);
    }
    assert_eq!(inspect(&ledger), []);
    let db = db(directory.path());
    let of = |entry: i64| -> (i64, i64) {
        db.query_row("SELECT row, action FROM outcome WHERE entry = ?1", [entry], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap()
    };
    let settled: Vec<i64> = {
        let mut select = db.prepare("SELECT entry FROM outcome ORDER BY row").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let (a, b, c, d, e, f) =
        (settled[10], settled[20], settled[30], settled[400], settled[500], settled[600]);
    let alterations = [
        (edit(a, "COMPLETED", "FAILED"), a, Broken::Hash),
        (format!("UPDATE outcome SET document = x'00' WHERE entry = {b}"), b, Broken::Receipt),
        (format!("DELETE FROM outcome WHERE entry = {c}"), c, Broken::NoReceipt),
        (format!("UPDATE fate SET state = 5 WHERE row = {}", of(d).1), d, Broken::Fate),
        (format!("UPDATE outcome SET action = {} WHERE entry = {e}", of(e).1 + 1), e, Broken::Outcome),
        (format!("DELETE FROM entry WHERE row = {f}"), f + 1, Broken::Missing),
    ];
    let mut expected = Vec::new();
    for (sql, entry, broken) in alterations {
        assert_eq!(db.execute(&sql, []).unwrap(), 1, "{sql}");
        expected.push((entry, broken));
        assert_eq!(inspect(&ledger), expected, "after {sql}");
    }
}

#[test]
fn a_record_that_was_taken_away_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    wait(ledger.record(event("rules_reloaded"))).unwrap();
    assert_eq!(inspect(&ledger), []);
    let taken = "UPDATE entry SET record = NULL WHERE record IS NOT NULL";
    assert_eq!(db(directory.path()).execute(taken, []).unwrap(), 1);
    assert_eq!(inspect(&ledger), [(2, Broken::Record)]);
}

#[test]
fn each_kind_of_row_that_was_forged_is_found_where_it_is() {
    let now = |state: i64, row: u8| format!("UPDATE fate SET state = {state} WHERE row = {row}");
    let forgeries: [(String, i64, Broken); 21] = [
        // Actions. The second is held, the third settled, the fourth sent.
        ("DELETE FROM action WHERE row = 4".into(), 9, Broken::NoAction),
        ("DELETE FROM fate WHERE row = 4".into(), 9, Broken::NoAction),
        ("UPDATE action SET id = zeroblob(16) WHERE row = 4".into(), 9, Broken::Action),
        ("UPDATE action SET entry = 1 WHERE row = 1".into(), 1, Broken::Action),
        (
            "INSERT INTO action SELECT 9, zeroblob(16), tenant, environment, subject, NULL, NULL, request_hash, archetype,
             principal, mandates, NULL, series, at, expires, amount, currency, entry, payload, round, needed, resumed,
             resumed_row, session, verb, target, level, regulations, refs FROM action WHERE row = 4"
                .into(),
            9,
            Broken::Action,
        ),
        // What became of them. Nobody is sent, approved or done because somebody wrote so into the file.
        (now(0, 2), 3, Broken::Fate),
        (now(2, 2), 3, Broken::Fate),
        (now(4, 2), 3, Broken::Fate),
        // Nor does what was sent wait for people once more.
        (now(0, 4), 9, Broken::Fate),
        (now(1, 4), 9, Broken::Fate),
        ("UPDATE outcome SET state = 5 WHERE row = 1".into(), 8, Broken::Fate),
        ("UPDATE outcome SET document = x'00' WHERE row = 1".into(), 8, Broken::Receipt),
        ("DELETE FROM outcome WHERE row = 1".into(), 8, Broken::NoReceipt),
        ("UPDATE outcome SET at = at + 1".into(), 8, Broken::Altered),
        ("UPDATE outcome SET receipt_id = 'other'".into(), 8, Broken::Altered),
        ("UPDATE outcome SET payload = x'7b7d7d'".into(), 8, Broken::Altered),
        ("UPDATE outcome SET body = x'7b7d7d', status = 500".into(), 8, Broken::Altered),
        ("INSERT INTO outcome SELECT 2, action, previous, state, at, status, body, NULL, short, signature, document, 9,
          payload FROM outcome".into(), 9, Broken::Outcome),
        // What people said.
        ("UPDATE approval SET record = x'7b7d'".into(), 4, Broken::Approval),
        ("UPDATE approval SET action = 3".into(), 4, Broken::Approval),
        ("DELETE FROM approval".into(), 4, Broken::Approval),
    ];
    for (sql, entry, broken) in forgeries {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        let admitted = |key: &str| admitted(&ledger, admission(key));
        admitted("a");
        let waits = held(&ledger, admission("b"), 2);
        wait(ledger.approve(approval(waits, "anna"))).unwrap();
        wait(ledger.record(event("frozen"))).unwrap();
        wait(ledger.record(event("thawed"))).unwrap();
        let done = admitted("c");
        wait(ledger.settle(settlement(done, State::Executed, "c"))).unwrap();
        admitted("d");
        assert_eq!(inspect(&ledger), []);
        drop(ledger);
        assert_eq!(db(directory.path()).execute(&sql, []).unwrap(), 1, "{sql}");
        let found = inspect(&open(directory.path()));
        assert_eq!(found.first(), Some(&(entry, broken)), "{sql}: {found:?}");
    }
}

#[test]
fn where_an_action_went_on_to_is_held_against_the_entries_that_say_so() {
    let fate = |change: &str, of: u8| format!("UPDATE fate SET {change} WHERE row = {of}");
    // Entry 4 has the first wait, 6 sends the second once more, 9 sends again what is in doubt, 12 what had failed.
    let forgeries = [
        (fate("state = 2", 1), 4),
        (fate("state = 3", 1), 4),
        (fate("state = 5", 1), 4),
        (fate("state = 2, moved = NULL", 1), 4),
        (fate("state = -1", 2), 6),
        (fate("state = 3", 2), 6),
        (fate("state = -1, moved = 5", 2), 5),
        (fate("moved = NULL", 3), 9),
        (fate("state = -1", 4), 12),
        (fate("state = 5, moved = NULL", 4), 12),
        // 14 has the payer confirm the fifth.
        (fate("state = 3", 5), 14),
        (fate("state = 4", 5), 14),
        (fate("state = -1", 5), 14),
        (fate("state = 2, moved = NULL", 5), 14),
        // Where another action went on to says nothing of this one.
        (fate("state = 4, moved = 6", 1), 3),
        // Nor does an entry that there is none of, the one it began with, or one that came with an outcome.
        (fate("moved = 9223372036854775807", 1), 3),
        (fate("moved = 15", 5), 13),
        (fate("moved = 0", 5), 13),
        (fate("moved = 13", 5), 13),
        (fate("moved = 8", 3), 7),
        (fate("moved = 11", 4), 10),
    ];
    for (sql, entry) in [(String::new(), 0)].into_iter().chain(forgeries) {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        wait(ledger.record(event("frozen"))).unwrap();
        let waits = admitted(&ledger, admission("a"));
        wait(ledger.defer(deferral(waits, 1, NOW))).unwrap();
        let again = admitted(&ledger, admission("b"));
        assert_eq!(again_from(&ledger, again, Basis::Sent { token: 1 }), 6);
        let doubted = admitted(&ledger, admission("c"));
        wait(ledger.settle(settlement(doubted, State::InDoubt, "c"))).unwrap();
        assert_eq!(again_from(&ledger, doubted, Basis::Sent { token: 1 }), 9);
        let failed = admitted(&ledger, admission("d"));
        wait(ledger.settle(settlement(failed, State::Failed, "d"))).unwrap();
        assert_eq!(again_from(&ledger, failed, Basis::Failed { token: 1 }), 12);
        let asked = admitted(&ledger, admission("e"));
        let challenge = deferral(asked, 1, NOW);
        let entry_of = Draft { event: CHALLENGED, ..challenge.entry.clone() };
        let challenge = Deferral { state: State::Challenged, entry: entry_of, ..challenge };
        assert_eq!(wait(ledger.defer(challenge)).unwrap(), 14);
        assert_eq!(inspect(&ledger), []);
        drop(ledger);
        if !sql.is_empty() {
            assert_eq!(db(directory.path()).execute(&sql, []).unwrap(), 1, "{sql}");
            let found = inspect(&open(directory.path()));
            assert_eq!(found.first(), Some(&(entry, Broken::Fate)), "{sql}: {found:?}");
        }
    }
}

/// Sends an action once more, and answers with the entry.
fn again_from(ledger: &dyn Ledger, id: ActionId, from: Basis) -> i64 {
    match send_again(ledger, id, from, admission("again")) {
        Admitted::New { entry } => entry,
        other => panic!("not sent again: {other:?}"),
    }
}

#[test]
fn attempts_are_found_in_the_trail_by_what_their_action_is_found_by() {
    on_every_ledger(|ledger| {
        let asked = varied(1);
        let id = admitted(&*ledger, asked.clone());
        wait(ledger.defer(deferral(id, 1, NOW))).unwrap();
        send_again(&*ledger, id, Basis::Sent { token: 2 }, asked);
        for search in [
            Search { verb: Some("deploy".into()), ..Search::default() },
            Search { state: Some("EXECUTING".into()), ..Search::default() },
        ] {
            let found = all(&*ledger, &search, Order::OldestFirst, 200);
            let events: Vec<&str> = found.iter().map(|it| &*it.event).collect();
            assert_eq!(events, ["admitted", WAITING, SENT_AGAIN]);
            assert!(found.iter().all(|it| owner(it).id == id && owner(it).payload == b"{}"));
        }
    });
}

#[test]
fn an_index_that_hides_something_is_found_and_one_that_is_gone_hides_nothing() {
    let filled = || {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        for number in 0..800 {
            fill(&ledger, number..number + 1);
        }
        drop(ledger);
        directory
    };
    for sql in [
        "UPDATE audit_term SET postings = x'00000000' WHERE key = 2",
        "DELETE FROM audit_term WHERE key = 5",
        "UPDATE audit_slice SET last = first",
    ] {
        let directory = filled();
        assert_eq!(db(directory.path()).execute(sql, []).unwrap(), 1, "{sql}");
        let ledger = open(directory.path());
        assert_eq!(inspect(&ledger), [(1, Broken::Index)], "{sql}");
    }
    let directory = filled();
    let ledger = open(directory.path());
    assert_eq!(db(directory.path()).execute("DELETE FROM audit_slice", []).unwrap(), 1);
    check(&ledger);
}

#[test]
fn entries_missing_where_a_stretch_ends_are_missed_too() {
    for (gap, after) in
        [("= 1023", 1024), ("BETWEEN 1000 AND 1023", 1024), ("= 1024", 1025), ("BETWEEN 1020 AND 1030", 1024)]
    {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        wait(join_all((0..2100).map(|_| ledger.record(event("key_rotated")))));
        db(directory.path()).execute(&format!("DELETE FROM entry WHERE row {gap}"), []).unwrap();
        assert_eq!(inspect(&ledger).first(), Some(&(after, Broken::Missing)), "{gap}");
    }
}

#[test]
fn entries_cut_off_at_the_end_are_missed() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    fill(&ledger, 0..5);
    let last: i64 =
        db(directory.path()).query_row("SELECT max(entry) FROM outcome", [], |row| row.get(0)).unwrap();
    db(directory.path()).execute("DELETE FROM entry WHERE row >= ?1", [last]).unwrap();
    assert_eq!(inspect(&ledger), [(last, Broken::Missing)]);
}

#[test]
fn what_a_search_shows_comes_from_the_entries_and_not_from_the_index() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    fill(&ledger, 0..1500);
    drop(ledger);
    // Somebody who can write the file makes one agent's term lead to another's entries.
    let db = db(directory.path());
    let key = 2_i64;
    let mut postings: Vec<u8> =
        db.query_row("SELECT postings FROM audit_term WHERE key = ?1", [key], |row| row.get(0)).unwrap();
    let (first, second) = (4..12, 16..24);
    let swapped: Vec<u8> = [&postings[second.clone()], &postings[first.clone()]].concat();
    postings[first].copy_from_slice(&swapped[..8]);
    postings[second].copy_from_slice(&swapped[8..]);
    db.execute("UPDATE audit_term SET postings = ?2 WHERE key = ?1", (key, &postings)).unwrap();
    let ledger = open(directory.path());
    let search = Search { subject: Subject::parse("agent-2").ok(), ..Search::default() };
    let shown: BTreeSet<String> = all(&ledger, &search, Order::OldestFirst, 200)
        .iter()
        .map(|it| owner(it).subject.to_string())
        .collect();
    assert!(shown.iter().all(|subject| subject == "agent-2"), "{shown:?}");
}

// The order of an action's entries.

/// A ledger whose rows somebody alters between two honest writes, and puts back.
struct Forged {
    directory: tempfile::TempDir,
    ledger: Sqlite,
    /// Entries of others between what was altered and what follows on that.
    between: usize,
}

impl Forged {
    fn new(between: usize) -> Forged {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        Forged { directory, ledger, between }
    }

    fn alter(&self, id: ActionId, change: &str) {
        wait(join_all((0..self.between).map(|_| self.ledger.record(event("key_rotated")))));
        let sql = format!("UPDATE fate SET {change} WHERE row = (SELECT row FROM action WHERE id = ?1)");
        assert_eq!(db(self.directory.path()).execute(&sql, [id.as_bytes()]).unwrap(), 1, "{change}");
        let nobody = "UPDATE action SET needed = 0, round = coalesce(round, 1) WHERE id = ?1";
        db(self.directory.path()).execute(nobody, [id.as_bytes()]).unwrap();
    }

    fn by(&self, id: ActionId) -> ledger::By {
        ledger::By::Holder(self.token(id))
    }

    fn token(&self, id: ActionId) -> u32 {
        wait(self.ledger.action(&Tenant::default(), id)).unwrap().unwrap().token
    }

    fn settle(&self, id: ActionId, to: State) -> i64 {
        wait(self.ledger.settle(self.coming_to(id, to))).unwrap()
    }

    fn amend(&self, id: ActionId, to: State) -> i64 {
        wait(self.ledger.amend(amending(self.coming_to(id, to)))).unwrap()
    }

    fn coming_to(&self, id: ActionId, to: State) -> ledger::Settlement {
        let name = format!("{to}-{}", self.token(id) + self.last() as u32);
        ledger::Settlement { by: self.by(id), ..settlement(id, to, &name) }
    }

    fn rest(&self, id: ActionId, to: State) -> i64 {
        wait(self.ledger.defer(resting(to, deferral(id, self.token(id), NOW)))).unwrap()
    }

    fn again(&self, id: ActionId) -> i64 {
        again_from(&self.ledger, id, Basis::Sent { token: self.token(id) })
    }

    fn resume(&self, id: ActionId) -> i64 {
        match resume(&self.ledger, id, admission("any")) {
            Admitted::New { entry } => entry,
            other => panic!("not resumed: {other:?}"),
        }
    }

    fn executed(&self) -> ActionId {
        let id = admitted(&self.ledger, admission("a"));
        self.settle(id, State::Executed);
        id
    }

    fn last(&self) -> i64 {
        wait(self.ledger.inspect(None)).unwrap().last
    }
}

/// A forgery, and what it does; it answers with the entry that nothing leads to.
type Forgery = (&'static str, fn(&Forged) -> i64);

const FORGERIES: [Forgery; 10] = [
    ("what was done is sent once more", |it| {
        let id = it.executed();
        it.alter(id, "state = -1");
        let again = it.again(id);
        it.settle(id, State::Executed);
        again
    }),
    ("nobody agreed", |it| {
        let id = held(&it.ledger, admission("a"), 1);
        it.alter(id, "state = 0");
        let sent = it.resume(id);
        it.settle(id, State::Executed);
        sent
    }),
    ("not everybody agreed who had to", |it| {
        let id = held(&it.ledger, admission("a"), 2);
        wait(it.ledger.approve(approval(id, "anna"))).unwrap();
        it.alter(id, "state = 0");
        it.resume(id)
    }),
    ("what people agreed to is sent twice", |it| {
        let id = held(&it.ledger, admission("a"), 1);
        wait(it.ledger.approve(approval(id, "anna"))).unwrap();
        it.resume(id);
        it.alter(id, "state = 0");
        it.resume(id)
    }),
    ("what was done is done once more", |it| {
        let id = it.executed();
        it.alter(id, "state = 3");
        it.settle(id, State::Executed)
    }),
    ("what was done failed, as if it had been open", |it| {
        let id = it.executed();
        it.alter(id, "state = 2");
        it.settle(id, State::Failed)
    }),
    ("what was never set aside is to be set free", |it| {
        let id = admitted(&it.ledger, admission("a"));
        it.settle(id, State::Failed);
        it.alter(id, "state = -4");
        it.rest(id, State::Reserved)
    }),
    ("what is undone is undone once more", |it| {
        let id = it.executed();
        it.rest(id, State::RollingBack);
        it.amend(id, State::RolledBack);
        it.alter(id, "state = -2");
        it.amend(id, State::RolledBack)
    }),
    ("what was sent waits for people", |it| {
        let id = it.executed();
        it.alter(id, "state = 1");
        db(it.directory.path()).execute("UPDATE action SET needed = 1, expires = at + 100000", []).unwrap();
        let agreed = wait(it.ledger.approve(approval(id, "anna"))).unwrap().entry;
        it.alter(id, "state = 4");
        agreed
    }),
    ("what is being looked after is sent", |it| {
        let id = admitted(&it.ledger, admission("a"));
        it.rest(id, State::Checking);
        it.alter(id, "state = -1");
        it.again(id)
    }),
];

#[test]
fn an_order_of_entries_that_nothing_leads_to_is_found_where_it_begins() {
    for (name, forge) in FORGERIES {
        for between in [0, 2100] {
            let forged = Forged::new(between);
            let entry = forge(&forged);
            assert_eq!(inspect(&forged.ledger).first(), Some(&(entry, Broken::Step)), "{name} {between}");
        }
    }
}

#[test]
fn whoever_walks_the_same_stretch_again_is_told_the_same() {
    let forged = Forged::new(2100);
    let id = admitted(&forged.ledger, admission("a"));
    forged.rest(id, State::Checking);
    forged.alter(id, "state = -1");
    let entry = forged.again(id);
    let mut places = vec![None];
    while let Some(next) = wait(forged.ledger.inspect(*places.last().unwrap())).unwrap().next {
        places.push(Some(next));
    }
    assert_eq!(places.len(), 3);
    for _ in 0..2 {
        let last = wait(forged.ledger.inspect(places[2])).unwrap().findings;
        assert_eq!((last[0].entry, &last[0].broken), (entry, &Broken::Step));
    }
}
