//! What the SQLite ledger keeps when things go wrong: restarts, failing disks, killed processes, altered rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use action::Tenant;
use common::*;
use futures_util::future::join_all;
use ledger::{
    Admission, Admitted, Approval, Broken, By, Effect, Error, FactsQuery, FailPoints, Freeze, Labels, Ledger,
    Obstacle, Options, Order, PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED, Scope, Search,
    Settlement, Sqlite, State, Tolerance,
};
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

fn open(directory: &Path, options: Options) -> Sqlite {
    Sqlite::open(&directory.join("ledger.db"), options).unwrap()
}

fn db(directory: &Path) -> Connection {
    Connection::open(directory.join("ledger.db")).unwrap()
}

/// What a killed process leaves behind: the file and its log as they are now.
fn left_by_a_kill(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["ledger.db", "ledger.db-wal"] {
        std::fs::copy(directory.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

// Restarts.

#[test]
fn a_restart_forgets_nothing_and_continues_the_chain() {
    let directory = tempfile::tempdir().unwrap();
    let scope = Scope::Provider("hotel".into());
    let first = sqlite(directory.path());
    let payment_of_50 =
        Admission { effect: effect(4), destination: Some("shop".into()), ..payment("a", 50, &["m"]) };
    let open_action = admitted(&first, payment_of_50);
    let done = admitted(&first, payment("b", 20, &["m"]));
    wait(first.settle(settlement(done, State::Executed, "b"))).unwrap();
    let freeze = Freeze { include_rollback: true, ..freeze(scope.clone()) };
    wait(first.freeze(freeze.clone(), event("frozen"))).unwrap();
    wait(first.revoke(&Tenant::default(), "gone", event("revoked"))).unwrap();
    let before = wait(first.verify()).unwrap();
    drop(first);

    let second = open(directory.path(), Options::new("chain-2", NOW + 1000));
    let page = wait(second.entries(Some(before.entries as i64), 1)).unwrap();
    let opening: serde_json::Value = serde_json::from_slice(&page.rows[0].1).unwrap();
    assert_eq!(opening["chainId"], "chain-2");
    assert_eq!(opening["seq"], 0);
    assert_eq!(opening["previousHash"], hex::encode(before.head.unwrap()));
    let after = wait(second.verify()).unwrap();
    assert_eq!((after.entries, after.receipts), (before.entries + 1, 1));

    let unsettled = wait(second.unsettled(None, 10)).unwrap();
    assert_eq!(unsettled.rows.iter().map(|stored| stored.id).collect::<Vec<_>>(), [open_action]);
    assert!(
        matches!(admit(&second, admission("b")), Admitted::Existing(existing) if existing.reply.is_some())
    );
    assert_eq!(spent(&second, "m"), 70);
    assert_eq!(**wait(second.freezes()).unwrap(), [freeze]);
    assert!(matches!(
        obstacle(&second, payment("c", 1, &["gone"])),
        Obstacle::MandateChanged { .. } | Obstacle::Revoked { .. }
    ));
    let same_effect = Admission { effect: effect(4), ..admission("d") };
    assert!(
        matches!(obstacle(&second, same_effect), Obstacle::Duplicate(earlier) if earlier.id == open_action)
    );
    let (tenant, agent) = (Tenant::default(), subject());
    let asks = FactsQuery { destination: Some("shop"), key: None, ..query(&tenant, &agent) };
    let facts = wait(second.facts(asks)).unwrap();
    assert_eq!(
        (facts.first_seen, facts.series.amounts().collect::<HashSet<_>>()),
        (false, HashSet::from([20, 50]))
    );
}

#[test]
fn keys_and_effects_and_receipts_are_found_across_many_slices() {
    let directory = tempfile::tempdir().unwrap();
    let first = sqlite(directory.path());
    let hash = |number: u32| {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
        hash[4..8].copy_from_slice(&number.to_be_bytes());
        hash
    };
    let with_effect = |key: String, number: u32, window_ms| Admission {
        effect: Some(Effect { hash: hash(number), window_ms, tolerate: Tolerance::Nothing }),
        ..admission(&key)
    };
    // One action each ten milliseconds, so that they span about a minute and a half.
    let spread = |number: u32| {
        let mut admission = with_effect(format!("k{number}"), number, 600_000);
        admission.intent.at_ms = NOW + i64::from(number) * 10;
        admission
    };
    let admissions: Vec<_> = (0..9000).map(spread).collect();
    let ids: Vec<_> = admissions.iter().map(|admission| admission.intent.id).collect();
    for result in wait(join_all(admissions.into_iter().map(|admission| first.admit(admission)))) {
        assert!(matches!(result.unwrap(), Admitted::New { .. }));
    }
    let settled =
        ids.iter().enumerate().map(|(n, id)| first.settle(settlement(*id, State::Executed, &n.to_string())));
    assert!(wait(join_all(settled)).iter().all(Result::is_ok));

    let check = |ledger: &Sqlite| {
        for number in [0, 1, 1023, 1024, 4095, 4096, 5000, 8999] {
            let existing = admit(ledger, admission(&format!("k{number}")));
            assert!(matches!(existing, Admitted::Existing(existing) if existing.id == ids[number as usize]));
            let mut again = with_effect(format!("other{number}"), number, 600_000);
            again.intent.at_ms = NOW + 90_000;
            let result = obstacle(ledger, again);
            assert!(
                matches!(result, Obstacle::Duplicate(earlier) if earlier.id == ids[number as usize]),
                "{number}"
            );
            let expected = receipt(&number.to_string());
            for address in [&expected.short, &expected.signature] {
                let found = wait(ledger.address(address)).unwrap().unwrap();
                assert_eq!(found.receipt.as_ref(), Some(&expected));
            }
        }
        // A window that has passed is not searched.
        let mut later = with_effect("later".into(), 4096, 1000);
        later.intent.at_ms = NOW + 90_000;
        let later = holding(later, hold(NOW));
        let mut early = later.clone();
        early.effect.as_mut().unwrap().window_ms = 60_000;
        assert!(matches!(obstacle(ledger, early), Obstacle::Duplicate(_)));
        later
    };
    check(&first);
    drop(first);
    let second = open(directory.path(), Options::new("chain-2", NOW));
    let later = check(&second);
    admitted(&second, later);
    wait(second.verify()).unwrap();
}

#[test]
fn a_store_in_which_something_foreign_would_run_does_not_open() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), Options::new("chain-1", NOW)));
    let foreign = "CREATE TRIGGER later AFTER INSERT ON entry BEGIN UPDATE fate SET state = 4; END";
    db(directory.path()).execute_batch(foreign).unwrap();
    let refused = Sqlite::open(&directory.path().join("ledger.db"), Options::new("chain-2", NOW));
    assert!(matches!(refused.map(drop), Err(Error::Open(why)) if why.contains("`later`")));
}

#[test]
fn an_effect_is_found_behind_rows_of_requests_that_came_in_before_it() {
    // A request keeps the time at which it came in while a provider names its price: five minutes are allowed for that.
    const MOST_MS: i64 = 300_000;
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let with_effect = |key: &str, at_ms: i64| {
        let mut admission = Admission { effect: effect(9), ..admission(key) };
        admission.intent.at_ms = at_ms;
        admission
    };
    let first = admitted(&ledger, with_effect("first", NOW));
    // So many that the first is in another slice of the index.
    let slow = (0..9000).map(|number| {
        let mut slow = admission(&format!("slow{number}"));
        slow.intent.at_ms = NOW - MOST_MS + 1;
        ledger.admit(slow)
    });
    assert!(wait(join_all(slow)).iter().all(Result::is_ok));
    let Obstacle::Duplicate(earlier) = obstacle(&ledger, with_effect("again", NOW + 599_999)) else {
        panic!("it was done less than ten minutes ago")
    };
    assert_eq!(earlier.id, first);
}

#[test]
fn an_address_never_given_out_is_answered_without_a_search_and_a_fresh_one_is_found() {
    // Searches are spared once the index was read in the background; before, they are not, and prove nothing.
    let spared = (0..20).any(|attempt| addresses_are_told_apart(Duration::from_millis(attempt * 20)));
    assert!(spared, "every stranger's question costs a search");
}

fn addresses_are_told_apart(pause: Duration) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let db = db(directory.path());
    let settled = |key: &str| {
        let id = admitted(&ledger, admission(key));
        wait(ledger.settle(settlement(id, State::Executed, key))).unwrap();
    };
    settled("before");
    std::thread::sleep(pause);
    // Where there is nothing to search in, a search fails.
    db.execute_batch("ALTER TABLE address RENAME TO hidden").unwrap();
    let unknown = ["short-unknown", "signature-unknown"].map(|address| wait(ledger.address(address)));
    assert!(wait(ledger.address("short-before")).is_err(), "one that was given out is searched for");
    db.execute_batch("ALTER TABLE hidden RENAME TO address").unwrap();
    for key in ["after", "later"] {
        settled(key);
        for address in [receipt(key).short, receipt(key).signature] {
            let found = wait(ledger.address(&address)).unwrap().expect("right after the commit");
            assert_eq!(found.receipt, Some(receipt(key)));
        }
    }
    unknown.iter().all(|found| matches!(found, Ok(None)))
}

#[test]
fn what_was_delivered_is_known_after_a_restart_before_and_after_it_is_learned_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    wait(sqlite(directory.path()).deliver(vec![([7; 32], 3)])).unwrap();
    let reopened = open(directory.path(), Options::new("chain-2", NOW));
    for _ in 0..50 {
        assert_eq!(wait(reopened.delivered(&[7; 32])).unwrap(), 3);
        assert_eq!(wait(reopened.delivered(&[8; 32])).unwrap(), 0);
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_history_that_a_crash_kept_from_its_row_is_made_good() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    for minor in [10, 20, 30] {
        admitted(&ledger, payment(&format!("k{minor}"), minor, &["m"]));
    }
    let copy = left_by_a_kill(directory.path());
    drop(ledger);
    for path in [copy.path(), directory.path()] {
        let reopened = open(path, Options::new("chain-2", NOW));
        let (tenant, agent) = (Tenant::default(), subject());
        let facts = wait(reopened.facts(query(&tenant, &agent))).unwrap();
        assert_eq!(facts.series.amounts().collect::<HashSet<_>>(), HashSet::from([10, 20, 30]));
        assert_eq!(facts.series.amounts().count(), 3);
        assert_eq!(spent(&reopened, "m"), 60);
    }
}

#[test]
fn a_history_that_a_resumed_action_joined_survives_a_crash_once() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let waited = held(&ledger, payment("waited", 40, &["m"]), 1);
    for minor in [10, 20] {
        admitted(&ledger, payment(&format!("k{minor}"), minor, &["m"]));
    }
    wait(ledger.approve(approval(waited, "anna"))).unwrap();
    assert!(matches!(resume(&ledger, waited, payment("waited", 40, &["m"])), Admitted::New { .. }));
    admitted(&ledger, payment("k30", 30, &["m"]));
    let copy = left_by_a_kill(directory.path());
    drop(ledger);
    for path in [copy.path(), directory.path()] {
        let reopened = open(path, Options::new("chain-2", NOW));
        let (tenant, agent) = (Tenant::default(), subject());
        let facts = wait(reopened.facts(query(&tenant, &agent))).unwrap();
        let mut amounts: Vec<_> = facts.series.amounts().collect();
        amounts.sort_unstable();
        assert_eq!(amounts, [10, 20, 30, 40]);
        assert_eq!(spent(&reopened, "m"), 100);
    }
}

#[test]
fn a_store_of_the_first_version_opens_with_all_it_has_and_what_it_held_only_expires() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let held = held(&ledger, payment("held", 40, &["m"]), 1);
    let sent = admitted(&ledger, payment("sent", 10, &["m"]));
    let done = admitted(&ledger, Admission { effect: effect(4), ..payment("done", 10, &["m"]) });
    wait(ledger.settle(settlement(done, State::Executed, "done"))).unwrap();
    let said = wait(ledger.outcomes(&Tenant::default(), done)).unwrap().remove(0);
    drop(ledger);
    back_to(1, directory.path());
    let reopened = open(directory.path(), Options::new("chain-2", NOW));
    let stored = wait(reopened.action(&Tenant::default(), held)).unwrap().unwrap();
    assert_eq!((stored.state, stored.round, stored.needed), (State::Held, 0, 0));
    for round in [0, 1] {
        let approval = Approval { round, ..approval(held, "anna") };
        assert!(matches!(wait(reopened.approve(approval)), Err(Error::Illegal { .. })));
    }
    let receipt = said.receipt.clone().unwrap();
    for address in [&receipt.short, &receipt.signature] {
        assert_eq!(wait(reopened.address(address)).unwrap().unwrap(), said);
    }
    let again = Admission { effect: effect(4), ..payment("again", 10, &["m"]) };
    assert!(!matches!(wait(reopened.admit(again)).unwrap(), Admitted::New { .. }), "its effect is claimed");
    wait(reopened.settle(settlement(sent, State::Executed, "sent"))).unwrap();
    wait(reopened.settle(settlement(held, State::Refused, "expired"))).unwrap();
    wait(reopened.verify()).unwrap();
}

/// Gives the store the shape it had after this migration, and its rows the form of then.
fn back_to(version: i64, directory: &Path) {
    let db = db(directory);
    for (table, column) in
        [("action", "payload"), ("outcome", "payload"), ("outcome", "body"), ("outcome", "document")]
    {
        let sql = format!("SELECT row, {column} FROM {table} WHERE {column} IS NOT NULL");
        let rows: Vec<(i64, Vec<u8>)> = db
            .prepare(&sql)
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for (row, packed) in rows {
            let sql = format!("UPDATE {table} SET {column} = ?2 WHERE row = ?1");
            db.execute(&sql, params![row, ledger::unpack(&packed).unwrap()]).unwrap();
        }
    }
    for (_, undo) in UNDONE.iter().filter(|(made, _)| *made > version) {
        db.execute_batch(undo).unwrap();
    }
    db.execute("DELETE FROM refinery_schema_history WHERE version > ?1", [version]).unwrap();
}

const UNDONE: &[(i64, &str)] = &[
    (17, "DROP TABLE log; DROP TABLE log_tile; DROP TABLE log_leaf; DROP TABLE log_name"),
    (16, "DROP TABLE delivery"),
    (
        15,
        "ALTER TABLE session DROP COLUMN limit_minor; ALTER TABLE session DROP COLUMN limit_currency;
         ALTER TABLE session DROP COLUMN limit_until; ALTER TABLE session DROP COLUMN limited;
         ALTER TABLE account DROP COLUMN granted_compute; ALTER TABLE account DROP COLUMN granted_storage;
         ALTER TABLE account DROP COLUMN granted_egress",
    ),
    (14, "DROP TABLE security_event"),
    (13, "DROP TABLE cluster; DROP TABLE member"),
    (12, "DROP TABLE session; DROP TABLE record; DROP TABLE declaration; DROP TABLE cycle"),
    (
        11,
        "DROP TABLE usage; DROP TABLE principal_key; ALTER TABLE mandate DROP COLUMN chain;
         ALTER TABLE mandate DROP COLUMN kid; ALTER TABLE account DROP COLUMN seconds;
         ALTER TABLE account DROP COLUMN compute; ALTER TABLE account DROP COLUMN memory;
         ALTER TABLE account DROP COLUMN storage; ALTER TABLE account DROP COLUMN egress;
         ALTER TABLE account DROP COLUMN granted",
    ),
    (10, "DROP TABLE deletion; DROP TABLE erasure"),
    (9, "ALTER TABLE action DROP COLUMN refs"),
    (8, "DROP INDEX action_held"),
    (7, "DROP INDEX entry_record"),
    (6, "DROP TABLE notice; DROP TABLE destination"),
    (5, "DROP TABLE passkey"),
    (
        4,
        "ALTER TABLE fate DROP COLUMN token; ALTER TABLE fate DROP COLUMN owner; ALTER TABLE fate DROP COLUMN until;
         ALTER TABLE fate DROP COLUMN moved",
    ),
    (
        3,
        "DROP TABLE audit_slice; DROP TABLE audit_term; DROP TABLE pruning;
         ALTER TABLE action DROP COLUMN session; ALTER TABLE action DROP COLUMN verb;
         ALTER TABLE action DROP COLUMN target; ALTER TABLE action DROP COLUMN level;
         ALTER TABLE action DROP COLUMN regulations",
    ),
    (
        2,
        "DROP TABLE approval; ALTER TABLE api_key DROP COLUMN created_by;
         ALTER TABLE action DROP COLUMN resumed_row; ALTER TABLE action DROP COLUMN resumed;
         ALTER TABLE action DROP COLUMN needed; ALTER TABLE action DROP COLUMN round",
    ),
];

/// A migration that is cut off between its last statement and the note that it was made leaves nothing behind.
#[test]
fn a_migration_and_the_note_of_it_are_one_commit() {
    let directory = tempfile::tempdir().unwrap();
    drop(sqlite(directory.path()));
    let refuse = "CREATE UNIQUE INDEX cut ON refinery_schema_history ((version > 0))";
    back_to(1, directory.path());
    db(directory.path()).execute_batch(refuse).unwrap();
    let cut = Sqlite::open(&directory.path().join("ledger.db"), Options::new("chain-2", NOW));
    assert!(matches!(cut.map(drop), Err(Error::Open(_))));
    db(directory.path()).execute_batch("DROP INDEX cut").unwrap();
    let whole = open(directory.path(), Options::new("chain-3", NOW));
    assert_eq!(wait(whole.approvals(&Tenant::default(), id())).unwrap(), []);
}

#[test]
fn the_store_is_set_up_for_durability() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    admitted(&ledger, admission("a"));
    let db = db(directory.path());
    let pragma = |name: &str| {
        db.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap()
    };
    assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
    assert_eq!(pragma("page_size"), 8192_i64.into());
}

#[test]
fn all_migrations_make_the_golden_shape_and_run_once() {
    let directory = tempfile::tempdir().unwrap();
    for chain in ["chain-1", "chain-2"] {
        drop(open(directory.path(), Options::new(chain, NOW)));
    }
    let db = db(directory.path());
    let mut select =
        db.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'refinery%' ORDER BY rowid").unwrap();
    let found: Vec<String> = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    golden("schema.sql", &(found.join(";\n") + ";\n"));
}

#[test]
fn an_action_from_before_the_audit_trail_is_found_by_what_its_payload_says() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let mut first = admission("a");
    first.intent.payload = br#"{"guarantee_level":"atp-1","session_id":"trip-1","v":1}"#.to_vec();
    admitted(&ledger, first);
    let mut erased = admission("b");
    erased.intent.payload = Vec::new();
    admitted(&ledger, erased);
    drop(ledger);
    back_to(2, directory.path());
    let ledger = open(directory.path(), Options::new("chain-2", NOW + 1000));
    let find = |search| {
        let tenant = Tenant::default();
        let page = ledger.audit(&tenant, search, Order::NewestFirst, None, 10);
        wait(page).unwrap().rows.len()
    };
    assert_eq!(find(Search::default()), 2);
    assert_eq!(find(Search { session: Some("trip-1".into()), ..Search::default() }), 1);
    assert_eq!(find(Search { level: Some("atp-1".into()), ..Search::default() }), 1);
}

// Formats that outlive a release.

#[test]
fn entries_and_rows_have_their_golden_form() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let mut admission = Admission {
        effect: effect(4),
        destination: Some("shop".into()),
        ..payment("k-1", 250, &["mandate-1", "mandate-0"])
    };
    admission.intent.id = action::ActionId::new(NOW as u64, [9; 10]);
    admission.intent.labels = Labels {
        session: Some("trip-1".into()),
        verb: Some("deploy".into()),
        target: Some("catalog".into()),
        level: Some("atp-2".into()),
        regulations: vec!["GDPR-Art-17".into(), "DORA".into()],
        refs: vec!["action_id=act-1".into(), "dpia_ref=DPIA-1".into()],
    };
    let mut settled = settlement(admission.intent.id, State::Executed, "a");
    settled.outcome.payload = Vec::new();
    (settled.outcome.entry.event, settled.outcome.entry.state) = ("settled", Some("COMPLETED"));
    admitted(&ledger, admission);
    wait(ledger.settle(settled)).unwrap();
    wait(ledger.record(event("key_rotated"))).unwrap();
    let page = wait(ledger.entries(None, 10)).unwrap();
    let entries: String =
        page.rows.iter().map(|(_, bytes)| format!("{}\n", std::str::from_utf8(bytes).unwrap())).collect();
    golden("entries.jsonl", &entries);
    for (_, bytes) in &page.rows {
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        assert_eq!(serde_json_canonicalizer::to_vec(&value).unwrap(), *bytes, "an entry is canonical JSON");
    }
    // The first slice of the audit trail ends.
    wait(join_all((0..1020).map(|_| ledger.record(event("key_rotated")))));
    drop(ledger);

    let tables = [
        "action",
        "fate",
        "outcome",
        "address",
        "effect",
        "account",
        "series",
        "seen",
        "meta",
        "audit_slice",
        "audit_term",
    ];
    golden("rows.txt", &rows_of(directory.path(), &tables));
}

/// Signs everything alike.
#[derive(Debug)]
struct Always;

impl ledger::Sealer for Always {
    fn seal(&self, _: &[u8]) -> Result<String, String> {
        Ok("signature".to_owned())
    }
}

#[test]
fn the_records_of_a_session_have_their_golden_form() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { sealer: Some(Arc::new(Always)), ..Options::new("chain-1", NOW) };
    let ledger = open(directory.path(), options);
    let tenant = Tenant::default();
    let session = mandate::Session::open("session-1", subject(), "mandate-1", NOW);
    let (payload, event_of) = (b"{}".to_vec(), |name| event(name));
    let opening =
        ledger::Opening { tenant: tenant.clone(), session, payload, event: event_of("session_opened") };
    wait(ledger.open_session(opening)).unwrap();
    let declaring = ledger::Declaring {
        tenant,
        session: "session-1".into(),
        intent: "intent-1".into(),
        mandate: "mandate-1".into(),
        sequence: 1,
        event: event_of("intent_declared"),
    };
    wait(ledger.declare(declaring)).unwrap();
    let (session, intent) = ("session-1".into(), Some("intent-1".into()));
    let cycle = Some(ledger::Cycle { session, epoch: 0, sequence: Some(2), intent });
    let mut admission = Admission { cycle, ..admission("k-1") };
    admission.intent.id = action::ActionId::new(NOW as u64, [9; 10]);
    let mut settled = settlement(admission.intent.id, State::Executed, "a");
    settled.outcome.entry.event = "settled";
    admitted(&ledger, admission);
    wait(ledger.settle(settled)).unwrap();
    let page = wait(ledger.entries(Some(1), 10)).unwrap();
    let entries: String =
        page.rows.iter().map(|(_, bytes)| format!("{}\n", std::str::from_utf8(bytes).unwrap())).collect();
    golden("session-entries.jsonl", &entries);
    drop(ledger);
    golden("session-rows.txt", &rows_of(directory.path(), &["session", "record", "declaration", "cycle"]));
}

fn rows_of(directory: &Path, tables: &[&str]) -> String {
    let db = db(directory);
    let mut rows = String::new();
    for table in tables {
        let mut select = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let names: Vec<String> = select.column_names().into_iter().map(String::from).collect();
        let mut found = select.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            rows += &format!("{table}\n");
            for (column, name) in names.iter().enumerate() {
                rows += &format!("  {name}: {}\n", shown(row.get_ref(column).unwrap()));
            }
        }
    }
    rows
}

fn shown(value: rusqlite::types::ValueRef<'_>) -> String {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => "null".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) if bytes.len() > 1024 => {
            format!("{} bytes of sha256 {}", bytes.len(), hex::encode(Sha256::digest(bytes)))
        }
        ValueRef::Blob(bytes) => format!("x'{}'", hex::encode(bytes)),
    }
}

/// Compares with the file beside this test; `GOLDEN=write` writes it, which is a decision about stored data.
fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(expected == found, "{name} has changed:\n{found}");
}

// Failing disks.

/// Fails once at one step, when armed.
#[derive(Debug)]
struct Fails {
    step: &'static str,
    armed: AtomicBool,
}

impl Fails {
    fn at(step: &'static str) -> Arc<Fails> {
        Arc::new(Fails { step, armed: AtomicBool::new(false) })
    }
}

impl FailPoints for Fails {
    fn at(&self, step: &'static str) -> io::Result<()> {
        if step == self.step && self.armed.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("no space left on device"));
        }
        Ok(())
    }
}

#[test]
fn after_a_failed_write_nothing_is_written_until_it_is_opened_again() {
    for (step, survives) in [("begin", false), ("write", false), ("commit", false), ("committed", true)] {
        let directory = tempfile::tempdir().unwrap();
        let fails = Fails::at(step);
        let options = Options { fail_points: Some(fails.clone()), ..Options::new("chain-1", NOW) };
        let ledger = open(directory.path(), options);
        let before = admitted(&ledger, payment("before", 100, &["m"]));
        fails.armed.store(true, Ordering::SeqCst);
        let failing = wait(ledger.settle(settlement(before, State::Executed, "lost")));
        assert!(matches!(failing, Err(Error::Unavailable(_))), "{step}: {failing:?}");
        // The disk would answer again, but nobody knows what is on it.
        assert!(matches!(wait(ledger.admit(admission("after"))), Err(Error::Unavailable(_))));
        let Err(Error::Unavailable(why)) = ledger.health() else { panic!("it should not be ready") };
        assert_eq!(&*why, "no space left on device");
        drop(ledger);

        let reopened = open(directory.path(), Options::new("chain-2", NOW));
        reopened.health().unwrap();
        let state = wait(reopened.action(&Tenant::default(), before)).unwrap().unwrap().state;
        assert_eq!(state == State::Executed, survives, "{step}");
        let verified = wait(reopened.verify()).unwrap();
        assert_eq!((verified.entries, verified.receipts), if survives { (4, 1) } else { (3, 0) }, "{step}");
        admitted(&reopened, admission("after"));
        assert_eq!(spent(&reopened, "m"), 100);
    }
}

#[test]
fn everyone_who_waits_for_a_failing_commit_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let fails = Fails::at("commit");
    let options = Options { fail_points: Some(fails.clone()), ..Options::new("chain-1", NOW) };
    let ledger = open(directory.path(), options);
    fails.armed.store(true, Ordering::SeqCst);
    let admissions = (0..100).map(|number| ledger.admit(admission(&format!("k{number}"))));
    for result in wait(join_all(admissions)) {
        assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    }
    drop(ledger);
    let reopened = open(directory.path(), Options::new("chain-2", NOW));
    assert_eq!(
        wait(reopened.actions(&Tenant::default(), ledger::Filter::default(), None, 10)).unwrap().rows,
        []
    );
}

#[test]
fn a_write_that_the_store_refuses_does_not_take_the_others_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let double = admission("double");
    admitted(&ledger, double.clone());
    // The same action id under another key: nothing but the unique index can know.
    let mut admissions: Vec<_> = (0..20).map(|number| admission(&format!("k{number}"))).collect();
    admissions[7].intent.id = double.intent.id;
    let results = wait(join_all(admissions.into_iter().map(|admission| ledger.admit(admission))));
    for (number, result) in results.iter().enumerate() {
        match number {
            7 => assert!(matches!(result, Err(Error::Rejected(_))), "{result:?}"),
            _ => assert!(matches!(result, Ok(Admitted::New { .. })), "{result:?}"),
        }
    }
    ledger.health().unwrap();
    assert_eq!(wait(ledger.verify()).unwrap().entries, 21);
}

#[test]
fn a_full_queue_says_so_at_once() {
    #[derive(Debug)]
    struct Stuck(Mutex<()>);
    impl FailPoints for Stuck {
        fn at(&self, _: &'static str) -> io::Result<()> {
            drop(self.0.lock().unwrap());
            Ok(())
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let stuck = Arc::new(Stuck(Mutex::new(())));
    let options = Options { fail_points: Some(stuck.clone()), queue: 10, ..Options::new("chain-1", NOW) };
    let ledger = open(directory.path(), options);
    let hold = stuck.0.lock().unwrap();
    let admissions = (0..50).map(|number| ledger.admit(admission(&format!("k{number}"))));
    let mut waiting = Box::pin(join_all(admissions));
    assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none());
    // An emergency stop is never turned away.
    let mut stop = Box::pin(ledger.record(event("stopped")));
    assert!(futures_util::FutureExt::now_or_never(&mut stop).is_none());
    drop(hold);
    let results = wait(waiting);
    wait(stop).unwrap();
    let busy = results.iter().filter(|result| matches!(result, Err(Error::Busy))).count();
    // One batch may have been taken before it got stuck.
    assert!((30..=40).contains(&busy), "{busy} were turned away");
    assert!(results.iter().all(|result| matches!(result, Ok(Admitted::New { .. }) | Err(Error::Busy))));
}

// Killed processes.

/// The child of the tests below: admits and settles until it is killed, and notes what was acknowledged.
#[test]
fn child() {
    let Some(directory) = std::env::var_os("LEDGER_CHILD") else { return };
    let directory = Path::new(&directory);
    let fail_points: Option<Arc<dyn FailPoints>> = match std::env::var("LEDGER_DIES_AT") {
        Ok(step) => Some(Arc::new(Dies { step, left: AtomicU64::new(40) })),
        Err(_) => None,
    };
    let options = Options { fail_points, ..Options::new("chain", NOW) };
    let ledger = open(directory, options);
    let notes = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("notes")).unwrap();
    let seed = std::process::id();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (ledger, mut notes) = (&ledger, &notes);
            scope.spawn(move || {
                for number in 0..100_000 {
                    let key = format!("{seed}-{thread}-{number}");
                    let mut admission = payment(&key, 1, &["m"]);
                    admission.debits = vec![debit("m", 1 << 40)];
                    let mut random = [0; 10];
                    random[..4].copy_from_slice(&seed.to_be_bytes());
                    random[4..6].copy_from_slice(&(thread as u16).to_be_bytes());
                    random[6..].copy_from_slice(&(number as u32).to_be_bytes());
                    admission.intent.id = action::ActionId::new(NOW as u64, random);
                    let id = admitted(ledger, admission);
                    notes.write_all(format!("admitted {id}\n").as_bytes()).unwrap();
                    wait(ledger.settle(settlement(id, State::Executed, &key))).unwrap();
                    notes.write_all(format!("settled {id}\n").as_bytes()).unwrap();
                }
            });
        }
    });
}

/// Aborts the process at a step, after some commits.
#[derive(Debug)]
struct Dies {
    step: String,
    left: AtomicU64,
}

impl FailPoints for Dies {
    fn at(&self, step: &'static str) -> io::Result<()> {
        if step == self.step && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::process::abort();
        }
        Ok(())
    }
}

fn run_child(directory: &Path, dies_at: Option<&str>) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env("LEDGER_CHILD", directory);
    if let Some(step) = dies_at {
        command.env("LEDGER_DIES_AT", step);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Whatever was acknowledged is stored, and money and chain agree with it.
fn check_after_crash(directory: &Path) {
    let ledger = open(directory, Options::new("after", NOW));
    let tenant = Tenant::default();
    let notes = std::fs::read_to_string(directory.join("notes")).unwrap_or_default();
    for note in notes.lines() {
        let (what, id) = note.split_once(' ').unwrap();
        let stored =
            wait(ledger.action(&tenant, id.parse().unwrap())).unwrap().expect("an acknowledged action");
        let settled = stored.state == State::Executed && stored.reply.is_some();
        assert!(what == "admitted" || settled, "{note}: {:?}", stored.state);
    }
    let all = wait(ledger.actions(&tenant, ledger::Filter::default(), None, 1_000_000)).unwrap().rows;
    let open = wait(ledger.unsettled(None, 1_000_000)).unwrap().rows;
    let verified = wait(ledger.verify()).unwrap();
    assert_eq!(verified.receipts as usize, all.len() - open.len());
    // Eight at most were on their way when it died, each time.
    let chains = verified.entries as usize - all.len() - (all.len() - open.len());
    assert!(open.len() <= 8 * chains, "{} open after {chains} starts", open.len());
    assert_eq!(spent(&ledger, "m"), all.len() as i64);
    let (tenant, agent) = (Tenant::default(), subject());
    let history = wait(ledger.facts(query(&tenant, &agent))).unwrap().series;
    assert!(history.amounts().count() >= all.len().min(64));
}

/// The child of the test below: holds, is agreed with, resumes and settles until it is killed.
#[test]
fn child_of_people() {
    let Some(directory) = std::env::var_os("LEDGER_CHILD") else { return };
    let directory = Path::new(&directory);
    let dies = Dies { step: std::env::var("LEDGER_DIES_AT").unwrap(), left: AtomicU64::new(25) };
    let options = Options { fail_points: Some(Arc::new(dies)), ..Options::new("chain", NOW) };
    let ledger = open(directory, options);
    let mut notes =
        std::fs::OpenOptions::new().create(true).append(true).open(directory.join("notes")).unwrap();
    let mut note = |what: &str, id| notes.write_all(format!("{what} {id}\n").as_bytes()).unwrap();
    for number in 0..1000 {
        let id = held(&ledger, payment(&format!("k{number}"), 1, &["m"]), 2);
        note("held", id);
        wait(ledger.approve(approval(id, "anna"))).unwrap();
        note("once", id);
        wait(ledger.approve(approval(id, "ben"))).unwrap();
        note("approved", id);
        assert!(matches!(resume(&ledger, id, payment("any", 1, &["m"])), Admitted::New { .. }));
        note("sent", id);
        let by = By::Holder(4);
        let executed = Settlement { by, ..settlement(id, State::Executed, &number.to_string()) };
        wait(ledger.settle(executed)).unwrap();
        note("executed", id);
    }
}

#[test]
fn what_people_were_told_survives_dying_at_every_step() {
    for step in ["begin", "write", "commit", "committed", "told"] {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child_of_people", "--nocapture"]);
        command.env("LEDGER_CHILD", directory.path()).env("LEDGER_DIES_AT", step);
        assert!(!command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success(), "{step}");

        let ledger = open(directory.path(), Options::new("after", NOW));
        wait(ledger.verify()).unwrap();
        let tenant = Tenant::default();
        let notes = std::fs::read_to_string(directory.path().join("notes")).unwrap();
        assert!(notes.contains("executed"), "{step}");
        for note in notes.lines() {
            let (what, id) = note.split_once(' ').unwrap();
            let id = id.parse().unwrap();
            let stored = wait(ledger.action(&tenant, id)).unwrap().expect("an acknowledged hold");
            let given = wait(ledger.approvals(&tenant, id)).unwrap().len();
            let kept = match what {
                "held" => true,
                "once" => given >= 1,
                "approved" => given == 2 && stored.state != State::Held,
                "sent" => matches!(stored.state, State::Sent | State::Executed),
                _ => stored.state == State::Executed,
            };
            assert!(kept, "{step}: {note}, but it is {} with {given} approvals", stored.state);
        }
        let all = wait(ledger.actions(&tenant, ledger::Filter::default(), None, 1000)).unwrap().rows;
        let sent = all.iter().filter(|stored| !stored.state.waits()).count();
        assert_eq!(spent(&ledger, "m"), sent as i64, "{step}: debited once each, when they were sent");
        assert!(all.iter().filter(|stored| stored.state != State::Executed).count() <= 1);
    }
}

#[test]
fn what_was_acknowledged_survives_being_killed() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let mut child = run_child(directory.path(), None);
        std::thread::sleep(Duration::from_millis(300 + 70 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        check_after_crash(directory.path());
    }
    assert!(directory.path().join("notes").exists(), "nothing was acknowledged");
}

#[test]
fn what_was_acknowledged_survives_dying_at_every_step() {
    for step in ["begin", "write", "commit", "committed", "told"] {
        let directory = tempfile::tempdir().unwrap();
        let status = run_child(directory.path(), Some(step)).wait().unwrap();
        assert!(!status.success(), "it should have died at `{step}`");
        assert!(!std::fs::read_to_string(directory.path().join("notes")).unwrap().is_empty(), "{step}");
        check_after_crash(directory.path());
    }
}

// Altered rows.

/// Somebody alters one row; the walk says which entry it is about, and what is wrong with it.
fn is_found(ledger: &impl Ledger, directory: &Path, sql: &str, expected: (i64, Broken)) {
    assert_eq!(db(directory).execute(sql, []).unwrap(), 1, "{sql}");
    match wait(ledger.verify()) {
        Err(Error::Chain { row, broken }) => assert_eq!((row, broken), expected, "{sql}"),
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn what_was_altered_is_found_and_named() {
    let alterations: [(&str, i64, Broken); 7] = [
        ("UPDATE entry SET bytes = replace(bytes, 'executed', 'Executed') WHERE row = 3", 3, Broken::Hash),
        ("UPDATE entry SET bytes = replace(bytes, ',\"v\":1', ', \"v\":1') WHERE row = 3", 3, Broken::Form),
        ("DELETE FROM entry WHERE row = 3", 4, Broken::Missing),
        ("DELETE FROM entry WHERE row = 1", 2, Broken::Missing),
        ("UPDATE outcome SET document = x'00'", 3, Broken::Receipt),
        ("UPDATE outcome SET document = NULL", 3, Broken::NoReceipt),
        ("UPDATE entry SET record = x'00' WHERE row = 4", 4, Broken::Record),
    ];
    for (sql, row, broken) in alterations {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        let id = admitted(&ledger, admission("a"));
        wait(ledger.settle(settlement(id, State::Executed, "a"))).unwrap();
        wait(ledger.record(event("key_rotated"))).unwrap();
        assert_eq!(wait(ledger.verify()).unwrap().entries, 4);
        let sql = sql
            .replace("replace(bytes,", "cast(replace(cast(bytes AS text),")
            .replace(") WHERE", ") AS blob) WHERE");
        is_found(&ledger, directory.path(), &sql, (row, broken));
    }
}

#[test]
fn a_forged_or_missing_approval_is_found_and_named() {
    let forgeries = [
        ("UPDATE approval SET record = x'7b7d'", 3),
        ("DELETE FROM approval", 3),
        ("UPDATE approval SET entry = 2", 2),
        ("INSERT INTO approval SELECT row + 1, action, round, 'ben', at, 4, record FROM approval", 4),
        ("INSERT INTO approval SELECT row + 1, action, round, 'ben', at, 9, record FROM approval", 9),
    ];
    for (sql, row) in forgeries {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        let id = held(&ledger, admission("a"), 2);
        wait(ledger.approve(approval(id, "anna"))).unwrap();
        wait(ledger.record(event("key_rotated"))).unwrap();
        assert_eq!(wait(ledger.verify()).unwrap().approvals, 1);
        is_found(&ledger, directory.path(), sql, (row, Broken::Approval));
    }
}

#[test]
fn a_passkey_that_no_entry_tells_of_is_found_and_named() {
    let forgeries = [
        ("UPDATE passkey SET revoked = NULL WHERE id = 'pk-2'", 5),
        ("UPDATE passkey SET enrolled = 2 WHERE id = 'pk-2'", 2),
        ("DELETE FROM passkey WHERE id = 'pk-1'", 2),
        (
            "INSERT INTO passkey SELECT row + 9, 'pk-3', tenant, x'03', registered, enrolled, NULL FROM passkey LIMIT 1",
            2,
        ),
    ];
    for (sql, row) in forgeries {
        let directory = tempfile::tempdir().unwrap();
        let (ledger, tenant) = (sqlite(directory.path()), Tenant::default());
        wait(ledger.register_passkey(&tenant, "pk-1", &[1], event(PASSKEY_REGISTERED))).unwrap();
        wait(ledger.enrol_passkey(&tenant, "pk-1", event(PASSKEY_ENROLLED))).unwrap();
        wait(ledger.register_passkey(&tenant, "pk-2", &[2], event(PASSKEY_REGISTERED))).unwrap();
        wait(ledger.revoke_passkey(&tenant, "pk-2", event(PASSKEY_REVOKED))).unwrap();
        wait(ledger.verify()).unwrap();
        is_found(&ledger, directory.path(), sql, (row, Broken::Passkey));
    }
}

#[test]
fn entries_swapped_or_from_another_chain_do_not_follow() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    for key in ["a", "b", "c"] {
        admitted(&ledger, admission(key));
    }
    let page = wait(ledger.entries(None, 10)).unwrap().rows;
    let walk = |order: &[usize]| {
        let mut walk = ledger::Walk::default();
        order.iter().try_for_each(|number| walk.step(&page[*number].1).map(drop))
    };
    assert_eq!(walk(&[0, 1, 2, 3]), Ok(()));
    for order in [&[0, 2, 1, 3][..], &[1, 2], &[0, 1, 1], &[0, 1, 3]] {
        assert_eq!(walk(order), Err(Broken::Previous), "{order:?}");
    }
}

// Pruned rows.

#[test]
fn a_pruned_store_verifies_and_what_was_altered_in_it_is_still_found() {
    let alterations: [(&str, i64, Broken); 10] = [
        ("UPDATE outcome SET document = x'00' WHERE entry = 4", 4, Broken::Receipt),
        ("UPDATE outcome SET document = NULL WHERE entry = 4", 4, Broken::NoReceipt),
        ("UPDATE outcome SET document = x'00' WHERE entry = 7", 7, Broken::Receipt),
        ("DELETE FROM outcome WHERE entry = 7", 7, Broken::NoReceipt),
        ("DELETE FROM entry WHERE row = 3", 4, Broken::Missing),
        // What was not pruned, although it is older than what was.
        ("DELETE FROM outcome WHERE entry = 4", 8, Broken::Pruned),
        // Nothing but the record in the chain says what may be gone.
        ("UPDATE entry SET record = NULL WHERE row = 8", 2, Broken::NoAction),
        (
            "UPDATE entry SET record = cast(replace(cast(record AS text), '5', '9') AS blob) WHERE row = 8",
            2,
            Broken::NoAction,
        ),
        // Nor does a place to look, once it is gone.
        ("DELETE FROM pruning", 2, Broken::NoAction),
        // An action that was not pruned, between those that were and those that come after.
        ("DELETE FROM action WHERE row = 2", 4, Broken::NoAction),
    ];
    for (sql, row, broken) in alterations {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        // Entries: 2 and 3 admit, 4 leaves the younger in doubt, 5 ends the older, 6 and 7 come after it, and 8 tells
        // that the older is gone.
        let older = admitted(&ledger, admission("a"));
        let doubted = admitted(&ledger, admission("b"));
        wait(ledger.settle(settlement(doubted, State::InDoubt, "b"))).unwrap();
        wait(ledger.settle(settlement(older, State::Executed, "a"))).unwrap();
        let mut late = admission("c");
        late.intent.at_ms = NOW + 1;
        let late = admitted(&ledger, late);
        wait(ledger.settle(settlement(late, State::Executed, "c"))).unwrap();
        assert_eq!(wait(ledger.prune(NOW + 1, 10, NOW + 20)).unwrap(), 1);
        let verified = wait(ledger.verify()).unwrap();
        assert_eq!((verified.entries, verified.receipts), (8, 2));

        is_found(&ledger, directory.path(), sql, (row, broken));
    }
}

#[test]
fn an_action_that_is_gone_beside_those_that_were_pruned_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let older = admitted(&ledger, admission("a"));
    wait(ledger.settle(settlement(older, State::Executed, "a"))).unwrap();
    admitted(&ledger, admission("b"));
    admitted(&ledger, admission("c"));
    assert_eq!(wait(ledger.prune(NOW + 1, 10, NOW + 20)).unwrap(), 1);
    wait(ledger.verify()).unwrap();
    // It left nothing else behind, and the entry that tells of the pruning comes after its own.
    db(directory.path())
        .execute_batch("DELETE FROM action WHERE row = 2; DELETE FROM fate WHERE row = 2")
        .unwrap();
    let found = wait(ledger.verify());
    assert!(matches!(found, Err(Error::Chain { row: 6, broken: Broken::Pruned })), "{found:?}");
}

#[test]
fn a_mark_that_was_raised_by_hand_hides_nothing() {
    for prunes in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let ledger = sqlite(directory.path());
        for (key, at_ms) in [("old", NOW), ("new", NOW + 10)] {
            let mut admission = admission(key);
            admission.intent.at_ms = at_ms;
            let id = admitted(&ledger, admission);
            wait(ledger.settle(settlement(id, State::Executed, key))).unwrap();
        }
        if prunes {
            assert_eq!(wait(ledger.prune(NOW + 5, 10, NOW + 20)).unwrap(), 1);
        }
        wait(ledger.verify()).unwrap();
        db(directory.path())
            .execute_batch(
                "INSERT INTO meta SELECT name, 1000 FROM
                     (SELECT 'pruned_entry' AS name UNION SELECT 'pruned_outcome' UNION SELECT 'pruned_action')
                     WHERE true ON CONFLICT DO UPDATE SET value = 1000;
                 DELETE FROM outcome WHERE entry = 5;",
            )
            .unwrap();
        let found = wait(ledger.verify());
        assert!(matches!(found, Err(Error::Chain { row: 5, broken: Broken::NoReceipt })), "{found:?}");
    }
}

#[test]
fn pruning_leaves_no_row_behind_and_its_numbers_and_histories_outlive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    let tenant = Tenant::default();
    let pay = |ledger: &Sqlite, key: &str| {
        let id = admitted(ledger, Admission { effect: effect(1), ..payment(key, 10, &["m"]) });
        wait(ledger.settle(settlement(id, State::Executed, key))).unwrap();
        wait(ledger.action(&tenant, id)).unwrap().unwrap().row
    };
    let first = pay(&ledger, "a");
    assert_eq!(wait(ledger.prune(NOW + 1, 10, NOW + 20)).unwrap(), 1);
    for table in ["action", "fate", "outcome", "address", "effect", "repeat"] {
        let count = format!("SELECT count(*) FROM {table}");
        let left: i64 = db(directory.path()).query_row(&count, [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0, "{table}");
    }
    let copy = left_by_a_kill(directory.path());
    drop(ledger);
    for path in [copy.path(), directory.path()] {
        let reopened = open(path, Options::new("chain-2", NOW));
        let agent = subject();
        let facts = wait(reopened.facts(query(&tenant, &agent))).unwrap();
        assert_eq!(facts.series.amounts().collect::<Vec<_>>(), [10]);
        assert_eq!(spent(&reopened, "m"), 10);
        assert!(pay(&reopened, "b") > first);
        wait(reopened.verify()).unwrap();
    }
}

#[test]
fn a_key_that_moved_on_to_the_next_number_is_found_as_long_as_it_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = sqlite(directory.path());
    for (key, at_ms) in [("first", NOW), ("second", NOW + 10)] {
        let mut refusal = refusal(key, key);
        refusal.intent.at_ms = at_ms;
        wait(ledger.refuse(refusal)).unwrap();
    }
    // As if both had the same 64 bits.
    let db = db(directory.path());
    db.execute_batch(
        "UPDATE action SET slot = slot + 1 WHERE key = 'second';
         UPDATE action SET slot = (SELECT slot - 1 FROM action WHERE key = 'second') WHERE key = 'first';",
    )
    .unwrap();
    assert_eq!(wait(ledger.prune(NOW + 5, 10, NOW + 20)).unwrap(), 0);
    assert!(matches!(admit(&ledger, admission("second")), Admitted::Existing(_)));
    assert_eq!(wait(ledger.prune(NOW + 11, 10, NOW + 20)).unwrap(), 1);
    assert_eq!(wait(ledger.prune(NOW + 11, 10, NOW + 20)).unwrap(), 1);
    admitted(&ledger, admission("second"));
}
