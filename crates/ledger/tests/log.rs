//! The transparency logs of a ledger: whatever happens to whoever grows them, there is one root of a size.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use action::Tenant;
use common::*;
use ledger::{
    Access, COMMIT_STEPS, Erasure, Error, Event, FailPoints, Head, Leafed, Ledger, Log, LogOf, Options,
    PASSKEY_REGISTERED, Postgres, Round, Sequencer, Sqlite, State, hashes, tiles,
};
use proptest::prelude::*;
use receipt::log::{
    Leaf, LeafKind, Nonce, Plan, RefKey, Tile, Tiles, leaf_hash, verify_consistency, verify_inclusion,
};
use sha2::{Digest, Sha256};

/// The tenant of the tests, and another one.
fn logs() -> Vec<LogOf> {
    let log = |tenant: &str, reference: &str| LogOf {
        tenant: Tenant::parse(tenant).unwrap(),
        reference: reference.into(),
        key: RefKey::new(&[8; 32]),
    };
    vec![log("default", "t-1"), log("other", "t-2")]
}

/// What a payload hides here: its hash. Of an empty one something else each time, the same in each run.
fn secrets() -> impl FnMut(&[u8]) -> Option<[u8; 32]> + Send {
    let mut next = 0_u64;
    move |payload| {
        next += 1;
        Some(
            if payload.is_empty() { Sha256::digest(next.to_be_bytes()) } else { Sha256::digest(payload) }
                .into(),
        )
    }
}

fn round(sequencer: &mut Sequencer, ledger: &dyn Ledger, limit: u32) -> Result<Round, Error> {
    wait(sequencer.round(ledger.logs(), &logs(), &mut secrets(), limit))
}

/// Grows until nothing is left.
fn grow(ledger: &dyn Ledger) {
    let mut sequencer = Sequencer::default();
    while round(&mut sequencer, ledger, 7).unwrap().entries > 0 {}
}

fn default_log() -> Tenant {
    Tenant::default()
}

fn head(ledger: &dyn Ledger) -> Head {
    wait(ledger.logs().log_head(&default_log())).unwrap()
}

fn leaves(ledger: &dyn Ledger) -> Vec<(Leafed, Leaf)> {
    let leaves = wait(ledger.logs().log_leaves(&default_log(), 0, u32::MAX)).unwrap();
    leaves.into_iter().map(|leafed| (leafed, Leaf::parse(&leafed.leaf).unwrap())).collect()
}

/// Everything of a log that others can see fits together, and the leaves are those of the tiles.
fn check(ledger: &dyn Ledger) {
    let Head { size, root } = head(ledger);
    let wanted: Vec<Tile> = Tile::all(size).collect();
    let mut found = wait(tiles(ledger.logs(), &default_log(), wanted.clone())).unwrap();
    found.sort();
    assert_eq!(found.iter().map(|(tile, _)| *tile).collect::<Vec<_>>(), wanted);
    let mut tiles = Tiles::default();
    found.iter().for_each(|(tile, bytes)| tiles.insert(*tile, bytes).unwrap());
    tiles.check(size, &root).unwrap();
    let row: Vec<u8> =
        found.iter().filter(|(tile, _)| tile.level == 0).flat_map(|(_, bytes)| bytes.clone()).collect();
    let leaves = leaves(ledger);
    assert_eq!(leaves.len() as u64, size);
    for (number, (leafed, _)) in leaves.iter().enumerate() {
        assert_eq!(leafed.number, number as u64);
        assert_eq!(leaf_hash(&leafed.leaf), row[number * 32..][..32]);
        let found = wait(ledger.logs().leaf_of(&default_log(), leafed.entry)).unwrap();
        assert_eq!(found, Some(*leafed));
    }
    for (from, limit) in (0..=size).step_by(5).zip([1, 2, 3, 30].into_iter().cycle()) {
        let some = wait(ledger.logs().log_leaves(&default_log(), from, limit)).unwrap();
        let wanted = leaves.iter().skip(from as usize).take(limit as usize);
        assert!(some.iter().eq(wanted.map(|(leafed, _)| leafed)), "{limit} from {from}");
    }
    assert!(leaves.windows(2).all(|pair| pair[0].0.entry < pair[1].0.entry), "each entry once, in order");
}

fn of(reference: &str, name: &'static str) -> Event {
    Event { tenant_ref: Some(reference.into()), ..event(name) }
}

fn erasure(action: action::ActionId) -> Erasure {
    let record = br#"{"by":"admin-1"}"#.to_vec();
    Erasure { action, at_ms: NOW + 100, kept_ms: 0, record, entry: draft("set by the ledger") }
}

fn acts(ledger: &dyn Ledger, count: usize) {
    for number in 0..count {
        act(ledger, &format!("{number}-{}", head(ledger).size));
    }
}

fn act(ledger: &dyn Ledger, name: &str) {
    let id = admitted(ledger, admission(name));
    wait(ledger.settle(settlement(id, State::Executed, name))).unwrap();
}

#[test]
fn entries_become_leaves_of_their_kind_and_of_their_tenants_log() {
    on_every_ledger(|ledger| {
        let sent = admitted(&*ledger, admission("sent"));
        wait(ledger.settle(settlement(sent, State::InDoubt, "doubt"))).unwrap();
        let mut waits = admission("waits");
        waits.hold = Some(hold(NOW + 86_400_000 * 3));
        waits.intent.entry = draft(ledger::HELD);
        let held = admitted(&*ledger, waits);
        wait(ledger.approve(approval(held, "alice"))).unwrap();
        wait(ledger.refuse(refusal("refused", "refused"))).unwrap();
        for name in ["rules_reloaded", "key_created", PASSKEY_REGISTERED] {
            wait(ledger.record(of("t-1", name))).unwrap();
        }
        wait(ledger.record(event("frozen"))).unwrap();
        wait(ledger.record(of("t-2", "signing_key_rotated"))).unwrap();
        wait(ledger.record(of("t-2", "key_revoked"))).unwrap();
        grow(&*ledger);
        check(&*ledger);
        use LeafKind::{Approval, Intent, KeyEvent, PolicyChange, Terminal};
        let leaves = leaves(&*ledger);
        let kinds: Vec<LeafKind> = leaves.iter().map(|(_, leaf)| leaf.kind).collect();
        assert_eq!(
            kinds,
            [
                Intent,
                Terminal,
                Intent,
                Approval,
                Terminal,
                PolicyChange,
                KeyEvent,
                KeyEvent,
                PolicyChange,
                KeyEvent
            ]
        );
        // What is about all of them is in each log, and what is one tenant's in no other.
        let others = wait(ledger.logs().log_leaves(&Tenant::parse("other").unwrap(), 0, 100)).unwrap();
        let others: Vec<LeafKind> =
            others.iter().map(|leafed| Leaf::parse(&leafed.leaf).unwrap().kind).collect();
        assert_eq!(others, [PolicyChange, KeyEvent, KeyEvent]);

        let leaf = |place: usize| leaves[place].1;
        let key = &logs()[0].key;
        for (place, id) in [(0, sent), (1, sent), (2, held), (3, held)] {
            assert_eq!(leaf(place).action_ref, key.action_ref(&id.to_string()));
        }
        assert_eq!(leaf(5).action_ref, [0; 32]);
        // Due a day after it was sent, or after it was to be decided.
        let hour = |ms: i64| Leaf::hour_of_millis(ms as u64);
        assert_eq!((leaf(0).hour, leaf(0).due_by), (hour(NOW), hour(NOW + 86_400_000)));
        assert_eq!((leaf(1).hour, leaf(1).due_by), (hour(NOW + 10), 0));
        assert_eq!(leaf(2).due_by, hour(NOW + 86_400_000 * 4));
    });
}

/// What an action still has that its nonces are made of, if it was not erased.
fn secret_of(ledger: &dyn Ledger, action: action::ActionId) -> Option<[u8; 32]> {
    let payload = wait(ledger.logs().payloads(vec![action])).unwrap().remove(&action).unwrap_or_default();
    (!payload.is_empty()).then(|| Sha256::digest(&payload).into())
}

fn nonce(secret: Option<[u8; 32]>, record: &[u8]) -> Nonce {
    logs()[0].key.nonce(secret.as_ref(), record)
}

fn entries(ledger: &dyn Ledger) -> BTreeMap<i64, Vec<u8>> {
    wait(ledger.entries(None, 1000)).unwrap().rows.into_iter().collect()
}

#[test]
fn a_leaf_commits_to_the_receipt_or_else_to_the_entry() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, admission("0"));
        wait(ledger.settle(settlement(id, State::Executed, "0"))).unwrap();
        wait(ledger.record(of("t-1", "key_created"))).unwrap();
        grow(&*ledger);
        let entries = entries(&*ledger);
        let leaves = leaves(&*ledger);
        let [sent, done, key] = [0, 1, 2].map(|place| leaves[place]);
        let entry = |leafed: Leafed| entries[&leafed.entry].as_slice();
        let secret = secret_of(&*ledger, id);
        assert!(secret.is_some());
        assert!(sent.1.opens(&nonce(secret, entry(sent.0)), entry(sent.0)));
        let document = receipt("0").document;
        assert!(done.1.opens(&nonce(secret, &document), &document));
        assert!(key.1.opens(&nonce(None, entry(key.0)), entry(key.0)));
        // Without the secret nothing is opened that is about the action.
        assert!(!sent.1.opens(&nonce(None, entry(sent.0)), entry(sent.0)));
    });
}

#[test]
fn any_leaf_is_proven_in_any_tree_that_has_it() {
    on_every_ledger(|ledger| {
        let (mut sequencer, mut seen) = (Sequencer::default(), vec![]);
        acts(&*ledger, 150);
        while round(&mut sequencer, &*ledger, 41).unwrap().entries > 0 {
            seen.push(head(&*ledger));
        }
        check(&*ledger);
        let (log, leaves) = (default_log(), leaves(&*ledger));
        let proof = |plan: &Plan| wait(hashes(ledger.logs(), &log, plan)).unwrap();
        for (place, to) in seen.iter().enumerate() {
            for from in &seen[..=place] {
                let proof = proof(&Plan::consistency(from.size, to.size).unwrap());
                verify_consistency(from.size, &from.root, to.size, &to.root, &proof).unwrap();
            }
            for index in (0..to.size).step_by(13) {
                let proof = proof(&Plan::inclusion(index, to.size).unwrap());
                verify_inclusion(&leaves[index as usize].1.hash(), index, to.size, &proof, &to.root).unwrap();
            }
        }
    });
}

#[test]
fn of_two_that_grow_a_log_one_is_too_late_and_nothing_is_twice_in_it() {
    on_every_ledger(|ledger| {
        let growth = |sequencer: &mut Sequencer, limit| round(sequencer, &*ledger, limit).unwrap();
        let (mut one, mut two) = (Sequencer::default(), Sequencer::default());
        let mut heads: BTreeMap<u64, Head> = BTreeMap::new();
        for turn in 0..40 {
            acts(&*ledger, 3);
            // Each goes on from what it remembers, and the other one grew it meanwhile.
            for sequencer in if turn % 3 == 0 { [&mut one, &mut two] } else { [&mut two, &mut one] } {
                for (tenant, head) in growth(sequencer, 4).heads {
                    assert_eq!(tenant, default_log());
                    assert_eq!(*heads.entry(head.size).or_insert(head), head, "two roots of one size");
                }
            }
        }
        grow(&*ledger);
        check(&*ledger);
        consistent(&*ledger, heads.values());
    });
}

/// What was told of a log is what it began with.
fn consistent<'a>(ledger: &dyn Ledger, told: impl IntoIterator<Item = &'a Head>) {
    let now = head(ledger);
    for told in told {
        let plan = Plan::consistency(told.size, now.size).unwrap();
        let proof = wait(hashes(ledger.logs(), &default_log(), &plan)).unwrap();
        verify_consistency(told.size, &told.root, now.size, &now.root, &proof).unwrap();
    }
}

/// Two sequencers made growths of the same entries, and both hand them in.
#[test]
fn a_growth_of_what_is_not_so_any_more_changes_nothing() {
    on_every_ledger(|ledger| {
        acts(&*ledger, 3);
        let slow = Slow { ledger: &*ledger, grown: std::sync::Mutex::default() };
        let mut late = Sequencer::default();
        wait(late.round(&slow, &logs(), &mut secrets(), 100)).unwrap();
        let growth = slow.grown.lock().unwrap().take().unwrap();
        grow(&*ledger);
        let before = head(&*ledger);
        assert!(!wait(ledger.logs().grow(growth.clone())).unwrap());
        // Nor does it if the mark alone is the same, or the head alone.
        let mut stale = growth;
        stale.after = wait(ledger.logs().fresh(1)).unwrap().after;
        assert!(!wait(ledger.logs().grow(stale.clone())).unwrap());
        stale.logs[0].from = before;
        stale.after -= 1;
        assert!(!wait(ledger.logs().grow(stale)).unwrap());
        assert_eq!(head(&*ledger), before);
        check(&*ledger);
    });
}

/// A ledger that keeps a growth back.
struct Slow<'a> {
    ledger: &'a dyn Ledger,
    grown: std::sync::Mutex<Option<ledger::Growth>>,
}

impl Log for Slow<'_> {
    fn log_name<'a>(&'a self, tenant: &'a Tenant, offered: &'a str) -> ledger::Answer<'a, Box<str>> {
        self.ledger.logs().log_name(tenant, offered)
    }

    fn begin_anew(&self, names: Vec<(Tenant, Box<str>)>) -> ledger::Answer<'_, ()> {
        self.ledger.logs().begin_anew(names)
    }

    fn fresh(&self, limit: u32) -> ledger::Answer<'_, ledger::Fresh> {
        self.ledger.logs().fresh(limit)
    }

    fn payloads(
        &self,
        actions: Vec<action::ActionId>,
    ) -> ledger::Answer<'_, std::collections::HashMap<action::ActionId, Vec<u8>>> {
        self.ledger.logs().payloads(actions)
    }

    fn grow(&self, growth: ledger::Growth) -> ledger::Answer<'_, bool> {
        *self.grown.lock().unwrap() = Some(growth);
        Box::pin(async { Ok(false) })
    }

    fn log_head<'a>(&'a self, tenant: &'a Tenant) -> ledger::Answer<'a, Head> {
        self.ledger.logs().log_head(tenant)
    }

    fn log_tiles<'a>(
        &'a self,
        tenant: &'a Tenant,
        tiles: Vec<Tile>,
    ) -> ledger::Answer<'a, Vec<(Tile, Vec<u8>)>> {
        self.ledger.logs().log_tiles(tenant, tiles)
    }

    fn log_leaves<'a>(
        &'a self,
        tenant: &'a Tenant,
        from: u64,
        limit: u32,
    ) -> ledger::Answer<'a, Vec<Leafed>> {
        self.ledger.logs().log_leaves(tenant, from, limit)
    }

    fn leaf_of<'a>(&'a self, tenant: &'a Tenant, entry: i64) -> ledger::Answer<'a, Option<Leafed>> {
        self.ledger.logs().leaf_of(tenant, entry)
    }
}

#[test]
fn nothing_is_taken_if_it_could_not_be_logged() {
    on_every_ledger(|ledger| {
        acts(&*ledger, 1);
        wait(ledger.record(of("t-3", "rules_reloaded"))).unwrap();
        let refused = round(&mut Sequencer::default(), &*ledger, 100).unwrap_err();
        assert!(refused.to_string().contains("is of a tenant that is not configured (`t-3`)"), "{refused}");
        assert_eq!((head(&*ledger), wait(ledger.logs().fresh(1)).unwrap().after), (Head::default(), 0));
    });
}

#[test]
fn steps_on_the_way_and_records_of_sessions_are_no_leaves() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, admission("a"));
        wait(ledger.defer(deferral(id, 1, NOW + 86_400_000 * 9))).unwrap();
        wait(ledger.record(event("checking"))).unwrap();
        grow(&*ledger);
        let leaves = leaves(&*ledger);
        // That it waits is told again, since its end is due later now.
        let due: Vec<u32> = leaves.iter().map(|(_, leaf)| leaf.due_by).collect();
        let day = 24;
        let sent = Leaf::hour_of_millis(NOW as u64) + day;
        assert_eq!(due, [sent, sent + 9 * day]);
    });
}

#[test]
fn what_is_sent_for_days_is_due_a_day_after_its_providers_time_is_over() {
    on_every_ledger(|ledger| {
        admitted(&*ledger, ledger::Admission { lease_ms: NOW + 7 * 86_400_000, ..admission("a") });
        let over = admitted(&*ledger, ledger::Admission { lease_ms: NOW + 7 * 86_400_000, ..admission("b") });
        wait(ledger.settle(settlement(over, State::Executed, "b"))).unwrap();
        grow(&*ledger);
        let due: Vec<u32> = leaves(&*ledger).iter().map(|(_, leaf)| leaf.due_by).collect();
        let hour = |ms: i64| Leaf::hour_of_millis(ms as u64);
        assert_eq!(due, [hour(NOW + 8 * 86_400_000), hour(NOW + 86_400_000), 0]);
    });
}

#[test]
fn erasing_an_action_takes_what_opens_its_leaves_and_no_leaf() {
    on_every_ledger(|ledger| {
        acts(&*ledger, 1);
        let id = admitted(&*ledger, admission("erased"));
        wait(ledger.settle(settlement(id, State::Executed, "erased"))).unwrap();
        grow(&*ledger);
        let (before, secret) = (leaves(&*ledger), secret_of(&*ledger, id));
        wait(ledger.erase(erasure(id))).unwrap();
        grow(&*ledger);
        check(&*ledger);
        let after = leaves(&*ledger);
        assert_eq!(after[..before.len()], before);
        let entry = |place: usize| entries(&*ledger).remove(&after[place].0.entry).unwrap();
        assert!(after[2].1.opens(&nonce(secret, &entry(2)), &entry(2)));
        assert_eq!(secret_of(&*ledger, id), None);
        // That it was erased may be shown for ever.
        assert_eq!(after.len(), 5);
        assert_eq!(after[4].1.kind, LeafKind::Erasure);
        assert!(after[4].1.opens(&nonce(None, &entry(4)), &entry(4)));
    });
}

#[test]
fn what_was_erased_before_it_was_logged_has_leaves_that_nobody_can_open() {
    on_every_ledger(|ledger| {
        let id = admitted(&*ledger, admission("erased"));
        wait(ledger.settle(settlement(id, State::Executed, "erased"))).unwrap();
        let secret = secret_of(&*ledger, id);
        wait(ledger.erase(erasure(id))).unwrap();
        grow(&*ledger);
        check(&*ledger);
        let leaves = leaves(&*ledger);
        let kinds: Vec<LeafKind> = leaves.iter().map(|(_, leaf)| leaf.kind).collect();
        assert_eq!(kinds, [LeafKind::Intent, LeafKind::Terminal, LeafKind::Erasure]);
        let sent = entries(&*ledger).remove(&leaves[0].0.entry).unwrap();
        for (place, record) in [(0, sent), (1, receipt("erased").document)] {
            for secret in [secret, None] {
                assert!(!leaves[place].1.opens(&nonce(secret, &record), &record));
            }
        }
    });
}

/// Nobody has to look for what is nowhere.
#[test]
fn no_nonce_is_ever_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let id = admitted(&ledger, admission("a"));
    wait(ledger.settle(settlement(id, State::Executed, "a"))).unwrap();
    grow(&ledger);
    let entry = entries(&ledger).remove(&leaves(&ledger)[0].0.entry).unwrap();
    let secret = secret_of(&ledger, id);
    let is_there = |bytes: &[u8]| {
        let files = std::fs::read_dir(directory.path()).unwrap();
        let mut files = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
        files.any(|file| file.windows(bytes.len()).any(|window| window == bytes))
    };
    assert!(is_there(&leaves(&ledger)[0].0.leaf));
    assert!(!is_there(&nonce(secret, &entry)));
}

/// Rows of every table but those of SQLite itself.
fn rows(store: &std::path::Path) -> BTreeMap<String, i64> {
    let db = rusqlite::Connection::open(store).unwrap();
    let mut select = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        .unwrap();
    let tables: Vec<String> = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let count = |table: &String| {
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    tables.iter().map(|table| (table.clone(), count(table))).collect()
}

#[test]
fn a_round_adds_one_row_however_many_leaves_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let (store, ledger) = (directory.path().join("ledger.db"), sqlite(directory.path()));
    let more = |sequencer: &mut Sequencer, actions: usize| {
        acts(&ledger, actions);
        let before = rows(&store);
        assert!(round(sequencer, &ledger, 512).unwrap().entries >= 2 * actions);
        let added = rows(&store).into_iter().map(|(table, count)| (count - before[&table], table));
        added.filter(|(count, _)| *count > 0).collect::<Vec<_>>()
    };
    let row = |table: &str| (1, table.to_owned());
    let mut sequencer = Sequencer::default();
    // With the first one come a head and a mark.
    assert_eq!(more(&mut sequencer, 100), [row("log"), row("log_leaf"), row("meta")]);
    assert_eq!(more(&mut sequencer, 1), [row("log_leaf")]);
    // The first whole one is told of by the one above it.
    assert_eq!(more(&mut sequencer, 50), [row("log_leaf"), row("log_tile")]);
    assert_eq!(more(&mut sequencer, 110), [row("log_leaf")]);
    check(&ledger);
}

#[test]
fn a_log_keeps_the_name_and_key_that_it_got_first() {
    on_every_ledger(|ledger| {
        let name = |tenant: &str, offered| {
            wait(ledger.logs().log_name(&Tenant::parse(tenant).unwrap(), offered)).unwrap()
        };
        assert_eq!(&*name("default", "a+1"), "a+1");
        assert_eq!(&*name("default", "b+2"), "a+1");
        assert_eq!(&*name("other", "b+2"), "b+2");
    });
}

#[test]
fn logs_that_begin_anew_take_every_entry_again_under_another_name() {
    on_every_ledger(|ledger| {
        acts(&*ledger, 20);
        grow(&*ledger);
        let (before, mut late) = (head(&*ledger), Sequencer::default());
        acts(&*ledger, 1);
        let slow = Slow { ledger: &*ledger, grown: std::sync::Mutex::default() };
        wait(late.round(&slow, &logs(), &mut secrets(), 100)).unwrap();
        wait(ledger.logs().begin_anew(vec![(default_log(), "a/epoch-2".into())])).unwrap();
        assert_eq!(head(&*ledger), Head::default());
        assert_eq!(&*wait(ledger.logs().log_name(&default_log(), "a")).unwrap(), "a/epoch-2");
        // Whoever was about to grow the old one is too late.
        let growth = slow.grown.lock().unwrap().take().unwrap();
        assert!(!wait(ledger.logs().grow(growth)).unwrap());
        grow(&*ledger);
        check(&*ledger);
        assert_eq!(head(&*ledger).size, before.size + 2);
    });
}

/// A log that has grown for years is not deleted in the time that any other statement may take.
#[test]
fn logs_that_begin_anew_on_a_database_may_take_their_time() {
    let Some(server) = common::postgres::server() else { return };
    let url = server.database();
    let ledger = Postgres::open(Access::new(&url, "replica", "chain", NOW)).unwrap();
    acts(&ledger, 3);
    grow(&ledger);
    let patience = "CREATE FUNCTION hurried() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF current_setting('statement_timeout')::interval < '1 hour' THEN RAISE EXCEPTION 'too soon'; END IF;
           RETURN NULL; END $$;
         CREATE TRIGGER hurried AFTER DELETE ON log_leaf EXECUTE FUNCTION hurried();
         CREATE TRIGGER hurried AFTER DELETE ON log_tile EXECUTE FUNCTION hurried()";
    common::postgres::sql(&url, patience);
    wait(ledger.logs().begin_anew(vec![(default_log(), "a/epoch-2".into())])).unwrap();
    assert_eq!(head(&ledger), Head::default());
    assert_eq!(&*wait(ledger.logs().log_name(&default_log(), "a")).unwrap(), "a/epoch-2");
}

/// Two gateways on one database, each with a sequencer that never rests, while both act.
#[test]
fn two_gateways_on_one_database_never_have_two_roots_of_one_size() {
    let Some(server) = common::postgres::server() else { return };
    let url = server.database();
    let open = |name| Postgres::open(Access::new(&url, name, name, NOW)).unwrap();
    let gateways = [open("replica-a"), open("replica-b")];
    let told: std::sync::Mutex<Vec<Head>> = std::sync::Mutex::default();
    let (acted, wanted) = (AtomicU64::new(0), 2 * 60 * 2);
    std::thread::scope(|scope| {
        for (place, gateway) in gateways.iter().enumerate() {
            let (acted, told) = (&acted, &told);
            scope.spawn(move || {
                for number in 0..60 {
                    let name = format!("{place}-{number}");
                    let id = admitted(gateway, admission(&name));
                    wait(gateway.settle(settlement(id, State::Executed, &name))).unwrap();
                    acted.fetch_add(2, Ordering::SeqCst);
                }
            });
            scope.spawn(move || {
                let mut sequencer = Sequencer::default();
                while head(gateway).size < wanted {
                    let round = round(&mut sequencer, gateway, 5).unwrap();
                    // Whoever signs reads what was committed, by whomever.
                    let heads = round.heads.into_iter().map(|(_, head)| head).chain([head(gateway)]);
                    told.lock().unwrap().extend(heads.filter(|head| head.size > 0));
                }
            });
        }
    });
    assert_eq!(acted.load(Ordering::SeqCst), wanted);
    let told = told.into_inner().unwrap();
    let mut roots: BTreeMap<u64, Head> = BTreeMap::new();
    for head in &told {
        assert_eq!(roots.entry(head.size).or_insert(*head), head, "two roots of one size");
    }
    assert!(roots.len() > 10, "they took turns: {}", roots.len());
    check(&gateways[0]);
    consistent(&gateways[1], roots.values());
    assert_eq!(head(&gateways[0]).size, wanted);
}

/// The disk fails once, at a step.
#[derive(Debug)]
struct Fails {
    step: &'static str,
    armed: AtomicBool,
}

impl FailPoints for Fails {
    fn at(&self, step: &'static str) -> io::Result<()> {
        match step == self.step && self.armed.swap(false, Ordering::SeqCst) {
            true => Err(io::Error::other("no space left on device")),
            false => Ok(()),
        }
    }
}

#[test]
fn a_log_that_stopped_at_any_step_of_a_commit_goes_on_from_what_was_told_of_it() {
    for step in COMMIT_STEPS {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        let fails = Arc::new(Fails { step, armed: AtomicBool::new(false) });
        let options = Options { fail_points: Some(fails.clone()), ..Options::new("chain-1", NOW) };
        let ledger = Sqlite::open(&path, options).unwrap();
        acts(&ledger, 300);
        let (mut sequencer, mut told) = (Sequencer::default(), Vec::new());
        let mut stopped = false;
        for turn in 0.. {
            if turn == 9 {
                fails.armed.store(true, Ordering::SeqCst);
            }
            match round(&mut sequencer, &ledger, 30) {
                Ok(Round { heads, .. }) => told.extend(heads.into_iter().map(|(_, head)| head)),
                Err(error) => {
                    assert!(matches!(error, Error::Unavailable(_)), "{step}: {error}");
                    stopped = true;
                }
            }
            // Whoever reads then may see the new head or the old one, and tells of it.
            told.extend(Some(head(&ledger)).filter(|head| head.size > 0));
            if turn == 12 {
                break;
            }
        }
        assert!(stopped, "{step}");
        drop(ledger);
        let ledger = Sqlite::open(&path, Options::new("chain-2", NOW)).unwrap();
        grow(&ledger);
        check(&ledger);
        consistent(&ledger, &told);
        assert_eq!(head(&ledger).size, 600);
    }
}

#[test]
fn a_log_that_somebody_altered_is_not_gone_on_with() {
    let whole = tempfile::tempdir().unwrap();
    let ledger = sqlite(whole.path());
    acts(&ledger, 140);
    grow(&ledger);
    acts(&ledger, 1);
    drop(ledger);
    let altered = |sql: &str| {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("ledger.db");
        std::fs::copy(whole.path().join("ledger.db"), &store).unwrap();
        rusqlite::Connection::open(&store).unwrap().execute_batch(sql).unwrap();
        round(&mut Sequencer::default(), &sqlite(directory.path()), 100).map(|round| round.entries > 0)
    };
    assert!(altered("SELECT 1").unwrap());
    for sql in [
        "UPDATE log SET root = zeroblob(32)",
        "UPDATE log SET size = size - 1",
        "UPDATE log SET size = size + 1",
        "UPDATE log_tile SET hashes = zeroblob(32)",
        "UPDATE log_tile SET hashes = zeroblob(1)",
        "DELETE FROM log_tile",
        "UPDATE log_leaf SET leaves = zeroblob(length(leaves)) WHERE first > 270",
        "UPDATE log_leaf SET leaves = zeroblob(81) WHERE first > 270",
        "UPDATE log_leaf SET leaves = x'' WHERE first > 270",
        "UPDATE log_leaf SET first = first + 1000 WHERE first > 270",
        "DELETE FROM log_leaf WHERE first > 270",
        "DELETE FROM log_leaf",
    ] {
        let refused = altered(sql).unwrap_err();
        assert!(matches!(refused, Error::Corrupt(_)), "{sql}: {refused}");
    }
}

#[test]
fn a_receipt_that_somebody_altered_gets_no_leaf_but_its_entry_does() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    acts(&ledger, 3);
    let swap = "UPDATE outcome SET document = (SELECT document FROM outcome WHERE row = 1) WHERE row = 2;
                UPDATE outcome SET document = X'01' WHERE row = 3";
    rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap().execute_batch(swap).unwrap();
    grow(&ledger);
    let (entries, all) = (entries(&ledger), leaves(&ledger));
    let kinds = all.iter().map(|(_, leaf)| leaf.kind).collect::<Vec<_>>();
    assert_eq!(kinds, [LeafKind::Intent, LeafKind::Terminal].repeat(3));
    let opens = |place: usize, record: &[u8]| {
        let (leafed, leaf) = all[place];
        let said: serde_json::Value = serde_json::from_slice(&entries[&leafed.entry]).unwrap();
        let action = said["actionId"].as_str().unwrap().parse().unwrap();
        leaf.opens(&nonce(secret_of(&ledger, action), record), record)
    };
    let document = receipt("0-0").document;
    assert!(opens(1, &document));
    assert!(!opens(3, &document));
    // Nor does one that cannot be read at all, which holds up nothing.
    for altered in [3, 5] {
        assert!(opens(altered, &entries[&all[altered].0.entry]));
    }
}

#[test]
fn an_entry_that_its_log_passed_over_is_found() {
    let alter = |sql: &str| {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        acts(&ledger, 2);
        wait(ledger.record(event("checking"))).unwrap();
        grow(&ledger);
        acts(&ledger, 1);
        assert_eq!(wait(ledger.inspect(None)).unwrap().findings, []);
        rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap().execute_batch(sql).unwrap();
        let findings = wait(ledger.inspect(None)).unwrap().findings;
        findings.into_iter().map(|found| (found.entry, found.broken)).collect::<Vec<_>>()
    };
    // Entries 2 to 5 are logged, 6 is no leaf, and 7 and 8 are still to come.
    assert_eq!(alter("UPDATE meta SET value = 7 WHERE name = 'logged'"), [(7, ledger::Broken::Unlogged)]);
    let lost = [2, 3, 4, 5].map(|entry| (entry, ledger::Broken::Unlogged));
    assert_eq!(alter("UPDATE log_leaf SET tenant = 'nobody'"), lost);
    assert_eq!(alter("UPDATE log_leaf SET leaves = zeroblob(81)"), lost);
    let Some(server) = common::postgres::server() else { return };
    let url = server.database();
    let ledger = Postgres::open(Access::new(&url, "replica-a", "replica-a", NOW)).unwrap();
    acts(&ledger, 2);
    grow(&ledger);
    wait(ledger.verify()).unwrap();
    let first = leaves(&ledger)[0].0.entry;
    common::postgres::sql(&url, "DELETE FROM log_leaf WHERE first = 0");
    let found = wait(ledger.verify()).unwrap_err();
    assert!(
        matches!(found, Error::Chain { row, broken: ledger::Broken::Unlogged } if row == first),
        "{found}"
    );
}

/// One gateway goes on, and is read from, while another one is about to be seen by all.
#[test]
fn what_a_gateway_writes_that_came_while_others_went_on_is_logged() {
    let Some(server) = common::postgres::server() else { return };
    let url = server.database();
    let one = Postgres::open(Access::new(&url, "replica-a", "replica-a", NOW)).unwrap();
    // Ahead of the clock by ten seconds, as after much in a short time, or when the clock steps back.
    common::postgres::sql(&url, "UPDATE replica SET last = last + (10000::bigint << 12)");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    });
    // Whoever comes next has looked how far the others are, and waits for this row.
    let row = "BEGIN; INSERT INTO replica (number, slot, name, chain, seq, at, last, beat)
               SELECT max(number) + 1, 63, 'x', 'x', 0, 0, 0, now() FROM replica";
    runtime.block_on(client.batch_execute(row)).unwrap();
    let other = std::thread::scope(|scope| {
        let coming =
            scope.spawn(|| Postgres::open(Access::new(&url, "replica-b", "replica-b", NOW)).unwrap());
        let waits =
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while common::postgres::asked(&url, waits).unwrap().is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        acts(&one, 3);
        grow(&one);
        assert_eq!(head(&one).size, 6);
        runtime.block_on(client.batch_execute("ROLLBACK")).unwrap();
        coming.join().unwrap()
    });
    for turn in 0..3 {
        act(&other, &format!("other-{turn}"));
        for name in ["a", "b"] {
            act(&one, &format!("{name}-{turn}"));
        }
    }
    grow(&other);
    check(&other);
    let mark = wait(other.logs().fresh(1)).unwrap().after;
    let about_actions = |(row, bytes): &(&i64, &Vec<u8>)| {
        **row <= mark && ledger::Heading::of(bytes).is_some_and(|heading| heading.action.is_some())
    };
    let all = entries(&other);
    let due: Vec<i64> = all.iter().filter(about_actions).map(|(row, _)| *row).collect();
    let logged: Vec<i64> = leaves(&other).iter().map(|(leafed, _)| leafed.entry).collect();
    assert_eq!(logged, due);
    assert!(due.len() >= 12, "{}", due.len());
}

/// One that has died, or is stopped, and has not been taken for gone.
#[test]
fn no_log_waits_for_a_gateway_that_is_silent_but_for_one_in_the_midst_of_a_commit() {
    let Some(server) = common::postgres::server() else { return };
    let url = server.database();
    let one = Postgres::open(Access::new(&url, "replica-a", "replica-a", NOW)).unwrap();
    let silent = "INSERT INTO replica (number, slot, name, chain, seq, at, last, beat)
                  SELECT max(number) + 1, 63, 'x', 'x', 0, 0, max(last), now() - interval '1 second' FROM replica";
    common::postgres::sql(&url, silent);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let commit = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("BEGIN; SELECT FROM replica WHERE name = 'x' FOR UPDATE").await.unwrap();
        client
    });
    acts(&one, 3);
    grow(&one);
    assert_eq!(head(&one).size, 0, "its commit may have a number before theirs");
    runtime.block_on(commit.batch_execute("ROLLBACK")).unwrap();
    grow(&one);
    assert_eq!(head(&one).size, 6);
    check(&one);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// However entries come in parts, the log is the same.
    #[test]
    fn a_log_does_not_depend_on_how_it_was_grown(limits in prop::collection::vec(1..50_u32, 1..40)) {
        let ledger = ledger::Memory::new("chain-1", NOW).unwrap();
        let whole = ledger::Memory::new("chain-1", NOW).unwrap();
        for _ in 0..40 {
            let entry = admission("");
            for ledger in [&ledger, &whole] {
                let mut keyless = entry.clone();
                keyless.intent.key = None;
                admitted(ledger, keyless);
            }
        }
        let mut sequencer = Sequencer::default();
        for limit in limits {
            round(&mut sequencer, &ledger, limit).unwrap();
        }
        while round(&mut sequencer, &ledger, 1000).unwrap().entries > 0 {}
        round(&mut Sequencer::default(), &whole, 1000).unwrap();
        prop_assert_eq!(head(&ledger), head(&whole));
        check(&ledger);
    }
}
