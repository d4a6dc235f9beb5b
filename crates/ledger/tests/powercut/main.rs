//! What the SQLite ledger keeps when the power fails: every write and sync of it is recorded, and for each of them the
//! files are made that a disk may be left with, opened, and held against what was acknowledged by then.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

#[path = "../common/mod.rs"]
mod common;
mod disk;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use action::{ActionId, Tenant};
use common::*;
use disk::{Disk, Left, Step};
use ledger::{Filter, Ledger, Options, Sqlite, State};

/// The least that a ledger is opened with, which is done often here.
fn open(directory: &Path, chain: &str) -> Result<Sqlite, String> {
    let least = Options { readers: 1, filter_bytes: 64 * 1024, ..Options::new(chain, NOW) };
    Sqlite::open(&directory.join("ledger.db"), least).map_err(|error| error.to_string())
}

/// The child of the test below, which lives twice: it acts, closes the ledger and opens it again, and ends without a
/// word. What is acknowledged it notes.
#[test]
fn child() {
    let Some(directory) = std::env::var_os("LEDGER_CHILD") else { return };
    let life = std::env::var("LEDGER_LIFE").unwrap();
    let directory = Path::new(&directory);
    let notes = OpenOptions::new().create(true).append(true).open(directory.join("notes")).unwrap();
    let ledger = open(directory, &format!("{life}-1")).unwrap();
    act(&ledger, &format!("{life}-1"), &notes);
    drop(ledger);
    let ledger = open(directory, &format!("{life}-2")).unwrap();
    let first = act(&ledger, &format!("{life}-2"), &notes);
    // Has the log moved into the file and cut, and the file cleared, while more is done.
    wait(ledger.erase(erasure(first))).unwrap();
    act(&ledger, &format!("{life}-3"), &notes);
    let log = directory.join("ledger.db-wal");
    testkit::wait_until("the log is cut", || log.metadata().unwrap().len() == 0);
    act(&ledger, &format!("{life}-4"), &notes);
    std::process::abort();
}

/// A few at the same time, so that some are committed together. Gives one of those that are settled.
fn act(ledger: &Sqlite, name: &str, notes: &File) -> ActionId {
    let settled = Mutex::new(None);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let settled = &settled;
            scope.spawn(move || {
                for number in 0..3 {
                    let id = pay(ledger, &format!("{name}-{thread}-{number}"), notes);
                    *settled.lock().unwrap() = Some(id);
                }
            });
        }
    });
    settled.into_inner().unwrap().unwrap()
}

fn pay(ledger: &Sqlite, key: &str, mut notes: &File) -> ActionId {
    let mut admission = payment(key, 1, &["m"]);
    // Another one in each life.
    let mut random = [0; 10];
    random.copy_from_slice(&<sha2::Sha256 as sha2::Digest>::digest(key)[..10]);
    admission.intent.id = ActionId::new(NOW as u64, random);
    let id = admitted(ledger, admission);
    notes.write_all(format!("admitted {id}").as_bytes()).unwrap();
    wait(ledger.settle(settlement(id, State::Executed, key))).unwrap();
    notes.write_all(format!("settled {id}").as_bytes()).unwrap();
    id
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_every_write_and_sync() {
    let tried = Command::new("strace").args(["-qqq", "-o", "/dev/null", "true"]).output();
    if !tried.is_ok_and(|it| it.status.success()) {
        testkit::skip("strace does not work here");
        return;
    }
    let steps = what_is_done();
    let cuts: usize = std::thread::scope(|scope| {
        let parts = (0..PARTS).map(|part| (part, &steps));
        let parts: Vec<_> = parts.map(|(part, steps)| scope.spawn(move || cut(steps, part))).collect();
        parts.into_iter().map(|part| part.join().unwrap()).sum()
    });
    assert!(cuts > 500, "{cuts} cuts");

    // A disk that does not do as it says loses what was acknowledged, and that is seen.
    let mut disk = Disk::lying();
    steps.iter().for_each(|step| disk.apply(step));
    let lost = is_kept(&disk, Left::Nothing, &notes(&steps));
    assert!(lost.is_err_and(|why| why.ends_with("it is gone")));
}

/// Most of a cut is waiting for syncs, so that some are tried at a time.
const PARTS: usize = 4;

/// Cuts after each step of this part, and says how often.
fn cut(steps: &[Step], part: usize) -> usize {
    let (mut disk, mut cuts) = (Disk::default(), 0);
    for (number, step) in steps.iter().enumerate() {
        disk.apply(step);
        for left in ways(step, number).iter().filter(|_| number % PARTS == part) {
            let kept = is_kept(&disk, *left, &notes(&steps[..=number]));
            assert_eq!(kept, Ok(()), "cut after step {number} of {}, left {left:?}", steps.len());
            cuts += 1;
        }
    }
    cuts
}

/// What was acknowledged.
fn notes(steps: &[Step]) -> Vec<&str> {
    let notes = steps.iter().filter_map(|step| match step {
        Step::Note(note) => Some(note.as_str()),
        _ => None,
    });
    notes.collect()
}

/// All that is done to the files of a ledger in the child's lives.
fn what_is_done() -> Vec<Step> {
    let directory = tempfile::tempdir().unwrap();
    let (folder, trace) = (directory.path().join("store"), directory.path().join("trace"));
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.canonicalize().unwrap();
    let mut seen = String::new();
    for life in ["first", "second"] {
        let mut child = disk::traced(&trace, &std::env::current_exe().unwrap());
        child.args(["--exact", "child", "--nocapture"]);
        child.env("LEDGER_CHILD", &folder).env("LEDGER_LIFE", life);
        let output = child.stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !told.contains("panicked"), "{told}");
        seen += &std::fs::read_to_string(&trace).unwrap();
    }
    disk::steps(&seen, &folder)
}

/// What may be left if the power fails after this step.
fn ways(step: &Step, number: usize) -> Vec<Left> {
    let any = Left::Some(number as u64);
    match step {
        // Whatever was promised must be kept by what was synced.
        Step::Note(_) => vec![Left::Nothing],
        Step::Sync(..) | Step::SyncFolder(_) => vec![Left::Nothing, Left::All, any],
        // Most are to the log, and one of them is like the next.
        Step::Write(name, ..) if name.ends_with("-wal") && !number.is_multiple_of(3) => Vec::new(),
        _ => vec![any],
    }
}

/// Opens what is left: all that was acknowledged is there, nothing is there by halves, and it can be gone on with.
fn is_kept(disk: &Disk, left: Left, acknowledged: &[&str]) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    disk.leave(left, directory.path());
    let ledger = open(directory.path(), "after")?;
    let verified = wait(ledger.verify()).map_err(|error| error.to_string())?;
    let all = wait(ledger.actions(&Tenant::default(), Filter::default(), None, 1000)).unwrap().rows;
    for note in acknowledged {
        let (what, id) = note.split_once(' ').unwrap();
        let stored = all.iter().find(|it| it.id.to_string() == id).ok_or(format!("{note}: it is gone"))?;
        if what == "settled" && stored.state != State::Executed {
            return Err(format!("{note}: it is {}", stored.state));
        }
    }
    let executed = all.iter().filter(|it| it.state == State::Executed).count();
    let found = (verified.receipts as usize, spent(&ledger, "m") as usize);
    if found != (executed, all.len()) {
        return Err(format!(
            "{executed} of {} are settled, but receipts and debits are {found:?}",
            all.len()
        ));
    }
    admitted(&ledger, payment("after", 1, &["m"]));
    Ok(())
}
