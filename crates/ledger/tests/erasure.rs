//! Erasing an action: what goes, what stays, what the chain says of it, and that nothing is left in the files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use action::{ActionId, Tenant};
use common::*;
use ledger::{
    Admitted, Aside, Basis, Broken, By, Erasure, Error, FailPoints, Finding, Ledger, Obstacle, Options,
    Order, Reply, Search, Settlement, Sqlite, State,
};
use rusqlite::Connection;

const DAY: i64 = 86_400_000;

/// Erases an action that nothing keeps.
/// An action that one person agreed to and that was carried out.
fn done(ledger: &dyn Ledger, key: &str) -> ActionId {
    let id = held(ledger, admission(key), 1);
    wait(ledger.approve(approval(id, "anna"))).unwrap();
    assert!(matches!(resume(ledger, id, admission(key)), Admitted::New { .. }));
    wait(ledger.settle(Settlement { by: By::Holder(3), ..settlement(id, State::Executed, key) })).unwrap();
    id
}

#[test]
fn what_was_asked_answered_and_said_goes_and_the_rest_stays() {
    on_every_ledger(|ledger| {
        let (ledger, tenant) = (ledger.as_ref(), Tenant::default());
        let id = done(ledger, "k-1");
        let before = wait(ledger.action(&tenant, id)).unwrap().unwrap();
        assert_eq!(wait(ledger.erased(&tenant, id)).unwrap(), None);
        if let Some(shelf) = ledger.shelf() {
            let (tenant, questions, kept) = (tenant.clone(), Vec::new(), std::time::Duration::from_secs(60));
            let (action, bound) = (Some(id), [1; 32]);
            wait(shelf.put_aside(Aside { id: [1; 16], tenant, action, bound, round: 1, questions, kept }))
                .unwrap();
            wait(shelf.conclude([1; 16], b"result".to_vec(), kept)).unwrap();
        }
        let entry = wait(ledger.erase(erasure(id))).unwrap();
        if let Some(shelf) = ledger.shelf() {
            assert!(
                wait(shelf.shelved(&tenant, [1; 16], 0, 0)).unwrap().is_none(),
                "and what waits for its client"
            );
        }
        let after = wait(ledger.action(&tenant, id)).unwrap().unwrap();
        assert!(after.payload.is_empty() && after.reply.as_ref().unwrap().body.is_empty());
        assert_eq!((after.state, after.key), (State::Executed, before.key));
        let outcomes = wait(ledger.outcomes(&tenant, id)).unwrap();
        assert!(outcomes.iter().all(|it| it.payload.is_empty()));
        assert_eq!(outcomes[0].receipt, Some(receipt("k-1")), "the receipt stays");
        assert_eq!(outcomes[0].reply, Some(Reply { status: 200, body: Vec::new() }));
        assert!(wait(ledger.approvals(&tenant, id)).unwrap().is_empty());
        let erased = wait(ledger.erased(&tenant, id)).unwrap().unwrap();
        assert_eq!((erased.entry, erased.at_ms), (entry, NOW + 100));
        assert_eq!(erased.record, erasure(id).record);
        let other = Tenant::parse("other").unwrap();
        assert_eq!(wait(ledger.erased(&other, id)).unwrap(), None);
        // The key still tells that it was used, and the chain that it was erased.
        let Admitted::Existing(existing) = admit(ledger, admission("k-1")) else { panic!("a new action") };
        assert_eq!((existing.id, existing.same_request), (id, true));
        assert!(existing.reply.unwrap().body.is_empty());
        wait(ledger.verify()).unwrap();
        let trail = wait(ledger.audit(&tenant, Search::default(), Order::NewestFirst, None, 1)).unwrap();
        assert_eq!((&*trail.rows[0].event, trail.rows[0].state.as_deref()), ("erased", Some("COMPLETED")));
        assert_eq!(trail.rows[0].record.as_deref(), Some(&br#"{"by":"admin-1"}"#[..]));
        assert_eq!(trail.rows[0].owner().unwrap().id, id);
    });
}

#[test]
fn an_action_is_erased_once() {
    on_every_ledger(|ledger| {
        let id = done(ledger.as_ref(), "k-1");
        let first = wait(ledger.erase(erasure(id))).unwrap();
        assert_eq!(wait(ledger.erase(erasure(id))).unwrap(), first);
        assert_eq!(wait(ledger.entries(Some(first), 1)).unwrap().rows, []);
        let nobody = wait(ledger.erase(erasure(common::id()))).unwrap_err();
        assert!(matches!(nobody, Error::NoSuchAction(_)));
    });
}

#[test]
fn what_is_open_or_kept_is_not_erased() {
    on_every_ledger(|ledger| {
        let ledger = ledger.as_ref();
        let open = [
            (held(ledger, admission("held"), 1), State::Held),
            (admitted(ledger, admission("sent")), State::Sent),
        ];
        for (id, state) in open {
            let refused = wait(ledger.erase(erasure(id))).unwrap_err();
            assert!(matches!(refused, Error::Unsettled { id: it, state: at } if (it, at) == (id, state)));
        }
        // What comes last counts, and not when it came in.
        let id = done(ledger, "kept");
        let kept_until = |at_ms| Erasure { at_ms, kept_ms: 30 * DAY, ..erasure(id) };
        let until_ms = NOW + 10 + 30 * DAY;
        let refused = wait(ledger.erase(kept_until(until_ms - 1))).unwrap_err();
        assert!(matches!(refused, Error::Kept { until_ms: until, .. } if until == until_ms));
        let before = wait(ledger.action(&Tenant::default(), id)).unwrap().unwrap();
        assert!(!before.payload.is_empty());
        wait(ledger.erase(kept_until(until_ms))).unwrap();
    });
}

#[test]
fn nobody_goes_on_with_what_is_erased() {
    on_every_ledger(|ledger| {
        let ledger = ledger.as_ref();
        let failed = admitted(ledger, admission("failed"));
        wait(ledger.settle(settlement(failed, State::Failed, "failed"))).unwrap();
        wait(ledger.erase(erasure(failed))).unwrap();
        let again = send_again(ledger, failed, Basis::Failed { token: 1 }, admission("failed"));
        assert_eq!(again, Admitted::Refused(Obstacle::Overtaken));
        let late = wait(ledger.amend(amending(settlement(failed, State::Executed, "late")))).unwrap_err();
        assert!(matches!(late, Error::Fenced(_)));
    });
}

#[test]
fn what_is_to_be_erased_by_itself_is_found_when_its_time_has_come() {
    on_every_ledger(|ledger| {
        let ledger = ledger.as_ref();
        let erasable = |key: &str, after_ms| {
            let mut admission = admission(key);
            admission.intent.erased_after_ms = after_ms;
            admission
        };
        let soon = admitted(ledger, erasable("soon", Some(30 * DAY)));
        let later = admitted(ledger, erasable("later", Some(31 * DAY)));
        let open = admitted(ledger, erasable("open", Some(DAY)));
        let never = admitted(ledger, erasable("never", None));
        for (id, key) in [(soon, "soon"), (later, "later"), (never, "never")] {
            wait(ledger.settle(settlement(id, State::Executed, key))).unwrap();
        }
        let mut refused = refusal("refused", "refused");
        refused.intent.erased_after_ms = Some(DAY);
        let refused_id = refused.intent.id;
        wait(ledger.refuse(refused)).unwrap();
        let due = |now_ms, limit| {
            let due = wait(ledger.to_erase(now_ms, None, limit)).unwrap();
            due.rows.into_iter().map(|stored| stored.id).collect::<Vec<_>>()
        };
        assert_eq!(due(NOW + 10 + DAY - 1, 9), []);
        assert_eq!(due(NOW + 10 + DAY, 9), [refused_id]);
        assert_eq!(due(NOW + 10 + 30 * DAY, 9), [soon, refused_id]);
        assert_eq!(due(NOW + 10 + 300 * DAY, 2), [soon, later]);
        // Whatever becomes of these does not keep the others from their turn.
        let first = wait(ledger.to_erase(NOW + 10 + 300 * DAY, None, 2)).unwrap();
        let second = wait(ledger.to_erase(NOW + 10 + 300 * DAY, first.next, 2)).unwrap();
        assert_eq!(second.rows.into_iter().map(|stored| stored.id).collect::<Vec<_>>(), [refused_id]);
        assert_eq!(second.next, None);
        wait(ledger.erase(Erasure { at_ms: NOW + 400 * DAY, ..erasure(soon) })).unwrap();
        assert_eq!(due(NOW + 10 + 300 * DAY, 9), [later, refused_id]);
        wait(ledger.settle(settlement(open, State::Failed, "open"))).unwrap();
        assert_eq!(due(NOW + 10 + 300 * DAY, 9), [later, open, refused_id]);
    });
}

#[test]
fn an_erased_action_is_pruned_like_any_other() {
    on_every_ledger(|ledger| {
        let id = done(ledger.as_ref(), "k-1");
        wait(ledger.erase(erasure(id))).unwrap();
        assert_eq!(wait(ledger.prune(NOW + DAY, 9, NOW + DAY)).unwrap(), 1);
        assert_eq!(wait(ledger.erased(&Tenant::default(), id)).unwrap(), None);
        wait(ledger.verify()).unwrap();
    });
}

/// Admits it, known elsewhere by these, and settles it.
fn known_by(ledger: &dyn Ledger, key: &str, refs: &[&str]) -> ActionId {
    let mut asked = admission(key);
    asked.intent.labels.refs = refs.iter().map(|it| (*it).into()).collect();
    let id = admitted(ledger, asked);
    wait(ledger.settle(settlement(id, State::Executed, key))).unwrap();
    id
}

/// How many entries are found by this reference.
fn found_by(ledger: &dyn Ledger, reference: &str) -> usize {
    let search = Search { refs: vec![reference.into()], ..Search::default() };
    wait(ledger.audit(&Tenant::default(), search, Order::OldestFirst, None, 100)).unwrap().rows.len()
}

#[test]
fn nothing_is_known_elsewhere_by_what_is_erased() {
    on_every_ledger(|ledger| {
        let ledger = ledger.as_ref();
        let id = known_by(ledger, "forgotten", &["action_id=forget-me", "fleet_id=fleet-1"]);
        known_by(ledger, "kept", &["action_id=act-2", "fleet_id=fleet-1"]);
        assert_eq!((found_by(ledger, "action_id=forget-me"), found_by(ledger, "fleet_id=fleet-1")), (2, 4));
        wait(ledger.erase(erasure(id))).unwrap();
        assert_eq!((found_by(ledger, "action_id=forget-me"), found_by(ledger, "fleet_id=fleet-1")), (0, 2));
        assert_eq!(wait(ledger.erased(&Tenant::default(), id)).unwrap().unwrap().labels.refs, []);
        wait(ledger.verify()).unwrap();
    });
}

/// Both what is in the index by then, and what is only taken in later by whoever has seen the action before.
#[test]
fn the_index_forgets_by_what_an_erased_action_was_known() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let db = Connection::open(directory.path().join("ledger.db")).unwrap();
    let terms = || reference_bytes(&db);
    let id = known_by(&ledger, "forgotten", &["action_id=forget-me", "fleet_id=fleet-1"]);
    known_by(&ledger, "kept", &["fleet_id=fleet-1"]);
    fill(&ledger, "before");
    is_indexed(&db, 1);
    let before = terms();
    wait(ledger.erase(erasure(id))).unwrap();
    // One term less, and two entries less of the other.
    assert_eq!(terms(), before - 12 - 2 * 2 - 2 * 2);
    assert_eq!((found_by(&ledger, "action_id=forget-me"), found_by(&ledger, "fleet_id=fleet-1")), (0, 2));
    fill(&ledger, "after");
    is_indexed(&db, 2);
    assert_eq!(terms(), before - 12 - 2 * 2 - 2 * 2, "its last entry is found by nothing of it either");
    assert_eq!(findings(&ledger), []);
}

/// A slice that was read for the index before an action in it was erased, and comes to the writer after it.
#[test]
fn the_index_is_not_written_from_what_was_read_before_an_erasure() {
    let directory = tempfile::tempdir().unwrap();
    let held = Arc::new(HeldCommit::default());
    let options = Options { fail_points: Some(held.clone()), ..Options::new("chain-1", NOW) };
    let ledger = Sqlite::open(&directory.path().join("ledger.db"), options).unwrap();
    let db = Connection::open(directory.path().join("ledger.db")).unwrap();
    let id = known_by(&ledger, "forgotten", &["action_id=forget-me"]);
    fill(&ledger, "other");
    std::thread::scope(|scope| {
        let release = held.arm();
        scope.spawn(|| known_by(&ledger, "held", &[]));
        held.is_there();
        let erased = ledger.erase(erasure(id));
        // Twice as long as housekeeping waits, and more. Were it not enough, nothing would be shown.
        std::thread::sleep(std::time::Duration::from_secs(5));
        release.send(()).unwrap();
        wait(erased).unwrap();
    });
    is_indexed(&db, 1);
    assert_eq!(reference_bytes(&db), 0);
    assert_eq!(findings(&ledger), []);
}

/// Holds one commit back, from when it is armed until it is released.
#[derive(Debug, Default)]
struct HeldCommit {
    released: Mutex<Option<mpsc::Receiver<()>>>,
    there: AtomicBool,
}

impl HeldCommit {
    fn arm(&self) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel();
        *self.released.lock().unwrap() = Some(released);
        release
    }

    fn is_there(&self) {
        while !self.there.load(Ordering::Acquire) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

impl FailPoints for HeldCommit {
    fn at(&self, step: &'static str) -> std::io::Result<()> {
        let released = if step == "commit" { self.released.lock().unwrap().take() } else { None };
        if let Some(released) = released {
            self.there.store(true, Ordering::Release);
            released.recv().unwrap();
        }
        Ok(())
    }
}

/// More entries than a slice of the index has.
fn fill(ledger: &dyn Ledger, name: &str) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for number in 0..65 {
                    known_by(ledger, &format!("{name}-{thread}-{number}"), &[]);
                }
            });
        }
    });
}

/// Waits until so many slices are in the index.
fn is_indexed(db: &Connection, slices: i64) {
    let sql = "SELECT count(*) FROM audit_slice";
    while db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() < slices {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// How long the postings of references are, the ninth kind of term.
fn reference_bytes(db: &Connection) -> i64 {
    let sql = "SELECT coalesce(sum(length(postings)), 0) FROM audit_term WHERE key & 15 = 8";
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn findings(ledger: &dyn Ledger) -> Vec<Finding> {
    let (mut findings, mut after) = (Vec::new(), None);
    loop {
        let stretch = wait(ledger.inspect(after)).unwrap();
        findings.extend(stretch.findings);
        match stretch.next {
            Some(next) => after = Some(next),
            None => return findings,
        }
    }
}

/// Bytes that no packing shrinks, of their own for each number. Of some there are more than go into two pages.
fn noise(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let length = if number.is_multiple_of(50) { 20_000 } else { 600 };
    (0..length).map(|_| next()).collect()
}

/// How many of these are somewhere in the file or its log.
fn found_in_files(directory: &Path, marks: &[Vec<u8>]) -> usize {
    let read = |name: &str| std::fs::read(directory.join(name)).unwrap_or_default();
    let files = [read("ledger.db"), read("ledger.db-wal")].concat();
    // Eight bytes of each page's worth are enough, and quick to look for.
    let mut eights: BTreeSet<&[u8]> = BTreeSet::new();
    for mark in marks {
        eights.extend(mark[200..].chunks(6000).filter_map(|rest| rest.get(..8)));
    }
    let hits: BTreeSet<&[u8]> = files.windows(8).filter(|window| eights.contains(window)).collect();
    hits.len()
}

/// Waits until housekeeping has cut the log.
fn log_is_cut(directory: &Path) {
    let log = directory.join("ledger.db-wal");
    while std::fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Waits until the file was cleared.
fn file_is_clean(directory: &Path) {
    let db = Connection::open(directory.join("ledger.db")).unwrap();
    for _ in 0..12_000 {
        if !is_unclean(&db) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the file was never cleared");
}

fn is_unclean(db: &Connection) -> bool {
    let sql = "SELECT count(*) FROM meta WHERE name = 'unclean'";
    db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() > 0
}

#[test]
fn nothing_of_what_is_erased_is_left_in_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, disk) = failing(directory.path());
    let marks = fill_and_erase(&ledger, directory.path());
    disk.works.store(true, Ordering::Relaxed);
    file_is_clean(directory.path());
    log_is_cut(directory.path());
    assert_eq!(found_in_files(directory.path(), &marks), 0);
    wait(ledger.verify()).unwrap();
    drop(ledger);
    let db = Connection::open(directory.path().join("ledger.db")).unwrap();
    let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}

/// The gateway need not fall silent for it.
#[test]
fn what_is_erased_is_cleared_while_commits_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, disk) = failing(directory.path());
    let marks = fill_and_erase(&ledger, directory.path());
    disk.works.store(true, Ordering::Relaxed);
    let cleared = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if cleared.load(Ordering::Relaxed) {
                    break;
                }
                known_by(&ledger, &format!("busy-{number}"), &[]);
            }
        });
        let waited = scope.spawn(|| file_is_clean(directory.path())).join();
        cleared.store(true, Ordering::Relaxed);
        waited.unwrap();
    });
    drop(ledger);
    assert_eq!(found_in_files(directory.path(), &marks), 0);
    wait(sqlite(directory.path()).verify()).unwrap();
}

#[test]
fn what_could_not_be_cleared_is_cleared_the_next_time() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, disk) = failing(directory.path());
    let id = done(&ledger, "k-1");
    wait(ledger.erase(erasure(id))).unwrap();
    let db = Connection::open(directory.path().join("ledger.db")).unwrap();
    while disk.tries.load(Ordering::Relaxed) == 0 {
        assert!(is_unclean(&db));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    disk.works.store(true, Ordering::Relaxed);
    file_is_clean(directory.path());
}

/// As long as it does not work, nothing is cleared, as if it were full.
#[derive(Debug, Default)]
struct Disk {
    works: AtomicBool,
    tries: AtomicUsize,
}

impl FailPoints for Disk {
    fn at(&self, step: &'static str) -> std::io::Result<()> {
        if step != "clean" || self.works.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.tries.fetch_add(1, Ordering::Relaxed);
        Err(std::io::Error::other("the disk is full"))
    }
}

fn failing(directory: &Path) -> (Sqlite, Arc<Disk>) {
    let disk = Arc::new(Disk::default());
    let options = Options { fail_points: Some(disk.clone()), ..Options::new("chain-1", NOW) };
    (Sqlite::open(&directory.join("ledger.db"), options).unwrap(), disk)
}

/// Actions that are erased, which leaves copies of some of them; answers with what must not be found any more.
fn fill_and_erase(ledger: &Sqlite, directory: &Path) -> Vec<Vec<u8>> {
    let (mut ids, mut marks) = (Vec::new(), Vec::new());
    let mark = |marks: &mut Vec<Vec<u8>>| {
        marks.push(noise(marks.len() as u64 + 1));
        marks.last().unwrap().clone()
    };
    // Half of them wait for people: their rows grow, and with them the pages they share are written anew.
    for number in 0..200 {
        let key = format!("k-{number}");
        let mut asked = admission(&key);
        asked.intent.payload = mark(&mut marks);
        let waits = number % 2 == 0;
        let id = if waits { held(ledger, asked, 1) } else { admitted(ledger, asked) };
        ids.push((id, key, waits));
    }
    for (id, key, waits) in &ids {
        if *waits {
            let mut given = approval(*id, "anna");
            given.record = mark(&mut marks);
            wait(ledger.approve(given)).unwrap();
            let mut resumed = admission(key);
            resumed.intent.payload = [mark(&mut marks), mark(&mut marks)].concat();
            assert!(matches!(resume(ledger, *id, resumed), Admitted::New { .. }));
        }
        let mut settled = settlement(*id, State::Executed, key);
        settled.by = By::Holder(if *waits { 3 } else { 1 });
        settled.outcome.payload = mark(&mut marks);
        settled.outcome.reply = Some(Reply { status: 200, body: mark(&mut marks) });
        wait(ledger.settle(settled)).unwrap();
    }
    log_is_cut(directory);
    assert!(found_in_files(directory, &marks) > 700, "the marks are what is looked for");
    for (id, ..) in &ids {
        wait(ledger.erase(erasure(*id))).unwrap();
    }
    log_is_cut(directory);
    let copies = found_in_files(directory, &marks);
    assert!((1..50).contains(&copies), "all but copies are gone at once, and some are left: {copies}");
    marks
}

/// Copies a store at work as it stands at one moment, which a copy of one file after the other need not be.
fn copy_at_once(from: &Path, to: &Path) {
    const FILES: [&str; 2] = ["ledger.db", "ledger.db-wal"];
    let read = || FILES.map(|name| std::fs::read(from.join(name)).unwrap());
    let mut files = read();
    loop {
        let again = read();
        if files == again {
            break;
        }
        files = again;
    }
    for (name, bytes) in FILES.iter().zip(files) {
        std::fs::write(to.join(name), bytes).unwrap();
    }
}

/// A process that dies right after leaves the rest to the next.
#[test]
fn what_was_erased_before_a_crash_is_cleared_by_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let mark = noise(1);
    let mut asked = admission("k-1");
    asked.intent.payload = mark.clone();
    let id = admitted(&ledger, asked);
    wait(ledger.settle(settlement(id, State::Executed, "k-1"))).unwrap();
    log_is_cut(directory.path());
    assert_eq!(found_in_files(directory.path(), std::slice::from_ref(&mark)), 1);
    let copy = tempfile::tempdir().unwrap();
    wait(ledger.erase(erasure(id))).unwrap();
    copy_at_once(directory.path(), copy.path());
    let next = Sqlite::open(&copy.path().join("ledger.db"), Options::new("chain-2", NOW + 200)).unwrap();
    assert!(wait(next.erased(&Tenant::default(), id)).unwrap().is_some());
    file_is_clean(copy.path());
    log_is_cut(copy.path());
    assert_eq!(found_in_files(copy.path(), &[mark]), 0);
    wait(next.verify()).unwrap();
}

/// Fails once, when it is armed, at the commit.
#[derive(Debug, Default)]
struct NoCommit(AtomicBool);

impl FailPoints for NoCommit {
    fn at(&self, step: &'static str) -> std::io::Result<()> {
        match step == "commit" && self.0.swap(false, Ordering::Relaxed) {
            true => Err(std::io::Error::other("the disk is gone")),
            false => Ok(()),
        }
    }
}

#[test]
fn an_erasure_that_is_not_committed_has_not_happened() {
    let directory = tempfile::tempdir().unwrap();
    let fails = Arc::new(NoCommit::default());
    let path = directory.path().join("ledger.db");
    let options = Options { fail_points: Some(fails.clone()), ..Options::new("chain-1", NOW) };
    let ledger = Sqlite::open(&path, options).unwrap();
    let id = done(&ledger, "k-1");
    let before = wait(ledger.action(&Tenant::default(), id)).unwrap();
    fails.0.store(true, Ordering::Relaxed);
    assert!(matches!(wait(ledger.erase(erasure(id))), Err(Error::Unavailable(_))));
    drop(ledger);
    let ledger = Sqlite::open(&path, Options::new("chain-2", NOW + 200)).unwrap();
    assert_eq!(wait(ledger.action(&Tenant::default(), id)).unwrap(), before);
    assert_eq!(wait(ledger.erased(&Tenant::default(), id)).unwrap(), None);
    wait(ledger.erase(erasure(id))).unwrap();
    wait(ledger.verify()).unwrap();
}

#[test]
fn rows_are_empty_where_the_chain_says_so_and_only_there() {
    // The first action, in row 1, is erased; the second is not. Entries: where each began, was settled and was agreed to.
    let (began, settled, agreed, told) = ([2, 6], [5, 9], [3, 7], 10);
    let alterations: [(&str, i64, Broken); 11] = [
        ("UPDATE action SET payload = x'' WHERE row = 2", began[1], Broken::Erased),
        ("UPDATE outcome SET body = x'' WHERE action = 2", settled[1], Broken::Erased),
        ("UPDATE outcome SET payload = x'' WHERE action = 2", settled[1], Broken::Erased),
        ("UPDATE approval SET record = x'' WHERE action = 2", agreed[1], Broken::Approval),
        // Whoever empties rows cannot make up that it was told, nor that it was not.
        (
            "UPDATE action SET payload = x'' WHERE row = 2; UPDATE approval SET record = x'' WHERE action = 2;
             UPDATE outcome SET payload = x'', body = x'' WHERE action = 2; INSERT INTO erasure VALUES (2, 10)",
            began[1],
            Broken::Erased,
        ),
        ("DELETE FROM erasure", began[0], Broken::Erased),
        ("UPDATE action SET payload = x'7b7d' WHERE row = 1", began[0], Broken::Erased),
        ("UPDATE outcome SET body = x'7b7d' WHERE action = 1", settled[0], Broken::Erased),
        ("UPDATE approval SET record = x'7b7d' WHERE action = 1", agreed[0], Broken::Approval),
        ("UPDATE entry SET record = x'7b7d' WHERE row = 10", told, Broken::Record),
        ("UPDATE entry SET record = NULL WHERE row = 10", told, Broken::Record),
    ];
    for (alteration, entry, broken) in alterations {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        let (erased, _) = (done(&ledger, "erased"), done(&ledger, "kept"));
        assert_eq!(wait(ledger.erase(erasure(erased))).unwrap(), told);
        assert_eq!(wait(ledger.inspect(None)).unwrap().findings, []);
        let db = Connection::open(directory.path().join("ledger.db")).unwrap();
        db.execute_batch(alteration).unwrap();
        let found = wait(ledger.inspect(None)).unwrap().findings;
        let first = found.first().map(|it| (it.entry, it.broken.clone()));
        assert_eq!(first, Some((entry, broken)), "{alteration}: {found:?}");
    }
}

#[test]
fn every_column_is_erased_or_known_to_stay() {
    let directory = tempfile::tempdir().unwrap();
    drop(sqlite(directory.path()));
    let db = Connection::open(directory.path().join("ledger.db")).unwrap();
    let sql = "SELECT t.name || '.' || c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c
               WHERE t.type = 'table' AND t.name NOT LIKE 'refinery%'";
    let mut select = db.prepare(sql).unwrap();
    let found: BTreeSet<String> =
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let erased = [
        "action.payload",
        "action.refs",
        "outcome.payload",
        "outcome.body",
        "approval.record",
        "approval.approver",
    ];
    let listed = include_str!("golden/stays.txt").lines().filter(|line| !line.starts_with('#'));
    let known: BTreeSet<String> = listed.chain(erased).map(String::from).collect();
    assert_eq!(found, known, "say in tests/golden/stays.txt what outlives an erasure, or have it erased");
}
