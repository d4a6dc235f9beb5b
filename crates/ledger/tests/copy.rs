//! A store that moves from its file into a database: all of it, whatever ends the copy on its way, and never two stores at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use action::{ActionId, Subject, Tenant};
use common::postgres::{asked, server, sql};
use common::*;
use ledger::{
    Access, Admission, Admitted, ApiKey, Archive, Archived, Basis, By, COPY_STEPS, Clustering, Copying,
    Cycle, Deed, Doer, Erasure, Error, Event, Facts, FactsQuery, FailPoints, Heard, Ledger, LogOf, Notice,
    Options, Order, PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED, Postgres, PrincipalKey,
    RECOVERY_INITIATED, Route, Scope, Sealer, Search, SecurityEvent, Sequencer, Settlement, Sqlite, State,
    Turn, reclaim, withdraw,
};
use mandate::{Session, Usage};
use receipt::log::{RefKey, Tile};
use serde_json::json;

#[derive(Debug)]
struct Counting;

impl Sealer for Counting {
    fn seal(&self, bytes: &[u8]) -> Result<String, String> {
        Ok(format!("sealed-{}", bytes.len()))
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("ledger.db")
}

fn open(folder: &Path, chain: &str) -> Sqlite {
    let options = Options { sealer: Some(Arc::new(Counting)), ..Options::new(chain, NOW) };
    Sqlite::open(&file(folder), options).unwrap()
}

fn gateway(url: &str, chain: &str) -> Result<Postgres, Error> {
    Postgres::open(Access { sealer: Some(Arc::new(Counting)), ..Access::new(url, chain, chain, NOW) })
}

fn route(folder: &Path, url: &str) -> Route {
    Route {
        file: file(folder),
        url: url.into(),
        schema: "public".into(),
        unkept: Vec::new(),
        now_ms: NOW,
        rows: 4096,
        fail_points: None,
    }
}

fn tenants() -> [Tenant; 2] {
    [Tenant::default(), Tenant::parse("other").unwrap()]
}

fn logs() -> Vec<LogOf> {
    let log = |(tenant, reference): (Tenant, &str)| LogOf {
        tenant,
        reference: reference.into(),
        key: RefKey::new(&[8; 32]),
    };
    tenants().into_iter().zip(["t-1", "t-2"]).map(log).collect()
}

fn grow_logs(ledger: &dyn Ledger) {
    let mut sequencer = Sequencer::default();
    let mut secrets = |_: &[u8]| Some([5; 32]);
    while wait(sequencer.round(ledger.logs(), &logs(), &mut secrets, 50)).unwrap().entries > 0 {}
}

/// Something of everything that there can be. What is left to be done afterwards is done by [`goes_on`].
fn grown(folder: &Path) -> ActionId {
    let ledger = &open(folder, "chain-1") as &dyn Ledger;
    let (tenant, other) = (Tenant::default(), tenants()[1].clone());
    wait(ledger.tenant_key(&tenant, Some(vec![1]))).unwrap();
    wait(ledger.tenant_key(&other, Some(vec![2]))).unwrap();
    wait(ledger.keep("d-1", b"permit".to_vec())).unwrap();
    wait(ledger.deliver(vec![([1; 32], 2), ([2; 32], 1)])).unwrap();
    rules(ledger, &tenant);
    for jti in ["m-1", "m-2", "m-3"] {
        wait(ledger.issue(mandate_of(jti), event("mandate_issued"))).unwrap();
    }
    pruned(ledger);
    for jti in ["m-2", "never-seen"] {
        let told = saying("mandate_revoked", &json!({"by": "ops", "jti": jti}));
        wait(ledger.revoke(&tenant, jti, told)).unwrap();
    }

    let pay = |key: &str, minor: i64, effect_of: u8| {
        let mut paid = payment(key, minor, &["m-1"]);
        paid.intent.labels.verb = Some("pay".into());
        paid.intent.labels.refs = vec![format!("order={key}").into()];
        Admission { effect: effect(effect_of), destination: Some("shop".into()), ..paid }
    };
    let done = admitted(ledger, pay("done", 100, 1));
    wait(ledger.settle(settlement(done, State::Executed, "done"))).unwrap();
    let late = admitted(ledger, pay("late", 2, 10));
    wait(ledger.settle(settlement(late, State::Failed, "denied"))).unwrap();
    wait(ledger.amend(amending(settlement(late, State::Executed, "late")))).unwrap();
    let doubtful = admitted(ledger, pay("doubtful", 20, 2));
    wait(ledger.settle(settlement(doubtful, State::InDoubt, "doubtful"))).unwrap();
    admitted(ledger, pay("sent", 3, 3));
    let waits = admitted(ledger, pay("waits", 4, 4));
    wait(ledger.defer(deferral(waits, 1, NOW + 500))).unwrap();
    wait(ledger.refuse(refusal("refused", "refused"))).unwrap();
    // A log keeps tiles of whole ones alone.
    for name in (0..256).map(|number| format!("refused-{number}")) {
        wait(ledger.refuse(refusal(&name, &name))).unwrap();
    }
    wait(ledger.repeated(&tenant, &subject(), "EP_BOUNDARY_BLOCK", &[1; 32], NOW + 1)).unwrap();
    let open_hold = held(ledger, pay("held", 50, 5), 2);
    wait(ledger.approve(approval(open_hold, "anna"))).unwrap();
    let resumed = held(ledger, pay("resumed", 6, 6), 1);
    wait(ledger.approve(approval(resumed, "anna"))).unwrap();
    assert!(matches!(resume(ledger, resumed, pay("resumed", 6, 7)), Admitted::New { .. }));
    let mut used = cycle_of(admission("used"), "s-1", 2);
    used.intent.usage = Usage { seconds: 2, ..Usage::default() };
    sessions(ledger, used);
    forgotten(ledger, &pay("erased", 1, 8), &pay("to-erase", 1, 9));

    let names = vec!["ops".into(), "desk".into()];
    wait(ledger.give_places(names)).unwrap();
    let last = wait(ledger.entries(None, 1000)).unwrap().rows.last().unwrap().0;
    let notice = |action| Notice { entry: last - i64::from(action == Some(done)), action, taken_ms: NOW };
    wait(ledger.put("ops", last, vec![notice(Some(done)), notice(None)])).unwrap();
    grow_logs(ledger);
    wait(ledger.logs().log_name(&tenant, "gw.example/log")).unwrap();
    // Behind the end of the logs.
    wait(ledger.record(Event { tenant_ref: Some("t-1".into()), ..event("rules_reloaded") })).unwrap();
    done
}

/// Keys, passkeys, freezes.
fn rules(ledger: &dyn Ledger, tenant: &Tenant) {
    for (number, id) in (3_u8..).zip(["key-1", "key-2"]) {
        let key = ApiKey {
            hash: [number; 32],
            id: id.into(),
            tenant: tenant.clone(),
            subject: subject(),
            role: "agent".into(),
            default_mandate: Some("m-1".into()),
            created_ms: NOW,
            created_by: Some("ada".into()),
            revoked_ms: None,
        };
        wait(ledger.add_key(key, event("key_created"))).unwrap();
    }
    wait(ledger.revoke_key(tenant, "key-2", event("key_revoked"))).unwrap();
    for issuer in ["alice", "bob"] {
        let key = PrincipalKey {
            tenant: tenant.clone(),
            issuer: issuer.into(),
            kid: "k-1".into(),
            jwk: "{}".into(),
            created_ms: NOW,
            created_by: "ops".into(),
            revoked_ms: None,
        };
        wait(ledger.register_principal(key, event("principal_registered"))).unwrap();
    }
    wait(ledger.revoke_principal(tenant, "bob", "k-1", event("principal_revoked"))).unwrap();
    for (id, credential) in [("pk-1", &[1]), ("pk-2", &[2])] {
        wait(ledger.register_passkey(tenant, id, credential, event(PASSKEY_REGISTERED))).unwrap();
        wait(ledger.enrol_passkey(tenant, id, event(PASSKEY_ENROLLED))).unwrap();
    }
    wait(ledger.revoke_passkey(tenant, "pk-2", event(PASSKEY_REVOKED))).unwrap();
    let rival = Scope::Agent(tenant.clone(), Subject::parse("rival").unwrap());
    wait(ledger.freeze(freeze(rival), event("frozen"))).unwrap();
    wait(ledger.freeze(freeze(Scope::Provider("shady".into())), event("frozen"))).unwrap();
    let told =
        SecurityEvent { tenant: tenant.clone(), issuer: "idp".into(), jti: "e-1".into(), hash: [4; 32] };
    assert!(matches!(wait(ledger.hear(told, event("heard"))).unwrap(), Heard::New(_)));
}

fn cycle_of(admission: Admission, session: &str, sequence: u64) -> Admission {
    let cycle =
        Cycle { session: session.into(), epoch: 0, sequence: Some(sequence), intent: Some("i-1".into()) };
    Admission { cycle: Some(cycle), debits: vec![debit("m-3", 1000)], ..admission }
}

/// A session whose recovery began, and two in a cluster.
fn sessions(ledger: &dyn Ledger, cycle: Admission) {
    let tenant = Tenant::default();
    for session in ["s-1", "s-2", "s-3"] {
        let session = Session::open(session, subject(), "m-3", NOW);
        wait(ledger.open_session(opening_of(&tenant, session))).unwrap();
    }
    let declaring = ledger::Declaring {
        tenant: tenant.clone(),
        session: "s-1".into(),
        intent: "i-1".into(),
        mandate: "m-3".into(),
        sequence: 1,
        event: event("intent_declared"),
    };
    wait(ledger.declare(declaring)).unwrap();
    admitted(ledger, cycle);
    wait(ledger.turn(Turn { record: event(RECOVERY_INITIATED), ..turn_of("s-1", None) })).unwrap();
    let deeds = [
        ("s-2", Deed::Form { principal: "olga".into(), deadline_ms: NOW + 1_000_000 }),
        ("s-3", Deed::Join { principal: "pia".into() }),
        ("s-3", Deed::Wait { on: "s-2".into() }),
    ];
    for (session, deed) in deeds {
        let clustering = Clustering {
            tenant: tenant.clone(),
            tenant_ref: None,
            cluster: "c-1".into(),
            session: session.into(),
            deed,
            by: Some(Doer { subject: subject(), person: false }),
            at_ms: NOW + 5,
        };
        wait(ledger.group(clustering)).unwrap();
    }
}

/// What was pruned, whose history stays.
fn pruned(ledger: &dyn Ledger) {
    let mut old = payment("old", 7, &["m-1"]);
    old.intent.at_ms = NOW - 1_000_000;
    old.intent.principal = "bob".into();
    let id = admitted(ledger, old);
    wait(ledger.settle(settlement(id, State::Executed, "old"))).unwrap();
    assert_eq!(wait(ledger.prune(NOW - 500_000, 10, NOW + 20)).unwrap(), 1);
}

/// What is erased, and what is to be.
fn forgotten(ledger: &dyn Ledger, erased: &Admission, to_erase: &Admission) {
    let id = admitted(ledger, erased.clone());
    wait(ledger.settle(settlement(id, State::Executed, "erased"))).unwrap();
    let record = br#"{"by":"admin-1"}"#.to_vec();
    let entry = ledger::Draft { state: Some("COMPLETED"), ..draft("set by the ledger") };
    wait(ledger.erase(Erasure { action: id, at_ms: NOW + 100, kept_ms: 0, record, entry })).unwrap();
    let mut later = to_erase.clone();
    later.intent.erased_after_ms = Some(50);
    let id = admitted(ledger, later);
    wait(ledger.settle(settlement(id, State::Executed, "to-erase"))).unwrap();
}

fn shown(said: impl Debug) -> String {
    format!("{said:?}")
}

/// A gateway on a file keeps observe mode for itself.
fn facts(ledger: &dyn Ledger, query: FactsQuery<'_>) -> Facts {
    Facts { observed_ms: None, ..wait(ledger.facts(query)).unwrap() }
}

/// All that anybody can ask a ledger for.
fn told(ledger: &dyn Ledger) -> Vec<String> {
    let mut all = Vec::new();
    for tenant in &tenants() {
        let actions = wait(ledger.actions(tenant, Default::default(), None, 1000)).unwrap().rows;
        for action in &actions {
            let outcomes = wait(ledger.outcomes(tenant, action.id)).unwrap();
            for receipt in outcomes.iter().filter_map(|it| it.receipt.as_ref()) {
                all.push(shown(wait(ledger.receipt(tenant, &receipt.id)).unwrap()));
                all.push(shown(wait(ledger.address(&receipt.short)).unwrap().unwrap()));
                all.push(shown(wait(ledger.address(&receipt.signature)).unwrap().unwrap()));
            }
            all.push(shown(outcomes));
            all.push(shown(wait(ledger.approvals(tenant, action.id)).unwrap()));
            all.push(shown(wait(ledger.erased(tenant, action.id)).unwrap()));
            all.push(shown(wait(ledger.begun_as(tenant, action.id)).unwrap()));
            let (subject, effect) = (action.subject.clone(), effect(1));
            for destination in ["shop", "elsewhere"] {
                let query = FactsQuery {
                    principal: &action.principal,
                    destination: Some(destination),
                    mandates: &["m-1".into(), "m-2".into(), "m-3".into(), "never-seen".into()],
                    effect: effect.as_ref(),
                    ..query(tenant, &subject)
                };
                all.push(shown(facts(ledger, query)));
            }
        }
        all.push(shown(&actions));
        let agent = subject();
        let bob = FactsQuery { principal: "bob", ..query(tenant, &agent) };
        all.push(shown(facts(ledger, bob)));
        all.push(shown(wait(ledger.held(tenant, NOW, None, 100)).unwrap().rows));
        all.push(shown(wait(ledger.mandates(tenant, None, 100)).unwrap().rows));
        all.push(shown(wait(ledger.keys(tenant)).unwrap()));
        all.push(shown(wait(ledger.passkeys(tenant)).unwrap()));
        all.push(shown(wait(ledger.tenant_key(tenant, None)).unwrap()));
        for session in wait(ledger.sessions(tenant, None, None, 100)).unwrap().rows {
            let id = &session.session.id;
            all.push(shown(wait(ledger.records(tenant, id, None, 100)).unwrap()));
            all.push(shown(wait(ledger.intention(tenant, id, None)).unwrap()));
            all.push(shown(wait(ledger.cluster_of(tenant, id)).unwrap()));
            all.push(shown(session));
        }
        let head = wait(ledger.logs().log_head(tenant)).unwrap();
        all.push(shown(head));
        all.push(shown(wait(ledger.logs().log_tiles(tenant, Tile::all(head.size).collect())).unwrap()));
        all.push(shown(wait(ledger.logs().log_leaves(tenant, 0, 1000)).unwrap()));
        all.push(shown(wait(ledger.logs().log_name(tenant, "offered")).unwrap()));
        let order = Order::OldestFirst;
        all.push(shown(wait(ledger.audit(tenant, Search::default(), order, None, 1000)).unwrap().rows));
    }
    all.push(shown(wait(ledger.principals()).unwrap()));
    all.push(shown(wait(ledger.freezes()).unwrap()));
    all.push(shown(wait(ledger.key(&[3; 32])).unwrap()));
    all.push(shown(wait(ledger.unsettled(None, 100)).unwrap().rows));
    all.push(shown(wait(ledger.due(NOW + 1000, None, 100)).unwrap().rows));
    all.push(shown(wait(ledger.to_erase(NOW + 1000, None, 100)).unwrap().rows));
    all.push(shown(wait(ledger.recovering()).unwrap()));
    all.push(shown(wait(ledger.delivered(&[1; 32])).unwrap()));
    all.push(shown(wait(ledger.kept("d-1")).unwrap()));
    for name in ["ops", "desk"] {
        all.push(shown(wait(ledger.standing(name)).unwrap()));
        all.push(shown(wait(ledger.untold(name, NOW, 100)).unwrap()));
    }
    all
}

/// Dies at a passage of a step, as a disk may.
#[derive(Debug)]
struct DiesAt(&'static str, AtomicU64);

impl FailPoints for DiesAt {
    fn at(&self, step: &'static str) -> io::Result<()> {
        match step == self.0 && self.1.fetch_sub(1, Ordering::Relaxed) == 1 {
            true => Err(io::Error::other("it dies here")),
            false => Ok(()),
        }
    }
}

/// The whole of a copy; `None` if it was done before.
fn copied(route: Route) -> Result<Option<()>, Error> {
    let Some(mut copying) = Copying::begin(route)? else { return Ok(None) };
    copying.run(|_| ())?;
    let arrived = copying.verify(|_| ())?;
    assert!(arrived.is_whole(), "{arrived:?}");
    copying.leave()?;
    copying.release()?;
    Ok(Some(()))
}

fn counts(folder: &Path) -> Vec<(String, i64)> {
    let db = rusqlite::Connection::open(file(folder)).unwrap();
    let mut names = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let count = |name: String| {
        let count = db.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0)).unwrap();
        (name, count)
    };
    names.into_iter().map(count).collect()
}

#[test]
fn a_copy_that_was_given_up_is_not_brought_to_its_end_once_the_file_was_left_for_another() {
    let Some(server) = server() else { return };
    let (first, second, folder) = (server.database(), server.database(), tempfile::tempdir().unwrap());
    grown(folder.path());
    let dies = Some(Arc::new(DiesAt("copy.verified", AtomicU64::new(1))) as Arc<dyn FailPoints>);
    copied(Route { fail_points: dies, ..route(folder.path(), &first) }).unwrap_err();
    let later = |url: &str| Route { now_ms: NOW + 1, ..route(folder.path(), url) };
    assert_eq!(copied(later(&second)).unwrap(), Some(()));
    let why = copied(later(&first)).unwrap_err().to_string();
    assert!(why.contains("by another copy"), "{why}");
    assert!(gateway(&first, "early").err().unwrap().to_string().contains("is being copied"));
    assert_eq!(copied(later(&second)).unwrap(), None);
    // And the file says so wherever it goes without what lies beside it.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(file(folder.path()), file(elsewhere.path())).unwrap();
    let why = Sqlite::open(&file(elsewhere.path()), Options::new("chain-3", NOW)).err().unwrap().to_string();
    assert!(why.contains("it was copied into a database"), "{why}");
}

#[test]
fn all_that_a_store_can_be_asked_is_answered_as_before_wherever_the_copy_was_ended() {
    let Some(server) = server() else { return };
    let (url, folder) = (server.database(), tempfile::tempdir().unwrap());
    let done = grown(folder.path());
    let before = {
        let ledger = open(folder.path(), "chain-2");
        wait(ledger.verify()).unwrap();
        told(&ledger)
    };
    for (table, rows) in counts(folder.path()) {
        assert!(rows > 0 || ["audit_slice", "audit_term", "repeat"].contains(&&*table), "`{table}` is empty");
    }
    let bytes = std::fs::read(file(folder.path())).unwrap();
    for step in COPY_STEPS {
        let rows = if step == "copy.rows" { 3 } else { 4096 };
        for passage in [1, 2, 5, 9, 14, 20, 30] {
            let dies = DiesAt(step, AtomicU64::new(if rows == 3 { passage } else { 1 }));
            let ended =
                copied(Route { rows, fail_points: Some(Arc::new(dies)), ..route(folder.path(), &url) });
            assert!(ended.unwrap_err().to_string().contains("it dies here"), "{step}");
            let why = gateway(&url, "early").err().unwrap().to_string();
            assert!(why.contains("is being copied"), "{why}");
            if rows != 3 {
                break;
            }
        }
        if step != "copy.left" {
            assert_eq!(std::fs::read(file(folder.path())).unwrap(), bytes, "the file is only read");
        }
    }
    // Neither of them is open now.
    let why = Sqlite::open(&file(folder.path()), Options::new("chain-3", NOW)).err().unwrap().to_string();
    assert!(why.contains("it was copied into a database"), "{why}");
    assert_eq!(copied(route(folder.path(), &url)).unwrap(), Some(()));
    assert_eq!(copied(route(folder.path(), &url)).unwrap(), None, "once is enough");

    let ledger = gateway(&url, "chain-pg").unwrap();
    assert_eq!(told(&ledger), before);
    goes_on(&ledger, done);
    wait(ledger.verify()).unwrap();
    drop(ledger);
    // The next process takes the slot of the file's chain again.
    wait(gateway(&url, "chain-next").unwrap().verify()).unwrap();
    assert!(Sqlite::open(&file(folder.path()), Options::new("chain-3", NOW)).is_err());
}

/// What was begun in the file is brought to its end in the database.
fn goes_on(ledger: &dyn Ledger, done: ActionId) {
    let (tenant, agent) = (Tenant::default(), subject());
    let existing = match admit(ledger, payment("done", 100, &["m-1"])) {
        Admitted::Existing(existing) => existing,
        other => panic!("{other:?}"),
    };
    assert_eq!((existing.id, existing.same_request), (done, true));
    let twin = Admission { effect: effect(3), ..payment("twin", 3, &["m-1"]) };
    obstacle(ledger, twin);
    let account = wait(ledger.mandate(&tenant, "m-1")).unwrap().unwrap().account;
    obstacle(ledger, payment("over", 1001 - account.spent_minor, &["m-1"]));
    admitted(ledger, payment("just", 1000 - account.spent_minor, &["m-1"]));
    obstacle(ledger, payment("revoked", 1, &["never-seen"]));
    let open = wait(ledger.unsettled(None, 100)).unwrap().rows;
    let sent = open.iter().find(|it| it.key.as_deref() == Some("sent")).unwrap();
    // Nobody is at it any more who was in the file.
    let taken = Settlement { by: By::Heir(sent.token), ..settlement(sent.id, State::InDoubt, "taken") };
    wait(ledger.settle(taken)).unwrap();
    let held = wait(ledger.held(&tenant, NOW, None, 10)).unwrap().rows.pop().unwrap();
    wait(ledger.approve(approval(held.id, "anna"))).unwrap_err();
    wait(ledger.approve(approval(held.id, "berta"))).unwrap();
    assert_eq!(state_of(ledger, held.id), State::Approved);
    let due = wait(ledger.due(NOW + 1000, None, 100)).unwrap().rows;
    let waits = due.iter().find(|it| it.key.as_deref() == Some("waits")).unwrap();
    let again =
        send_again(ledger, waits.id, Basis::Sent { token: waits.token }, payment("waits", 4, &["m-1"]));
    assert!(matches!(again, Admitted::New { .. }), "{again:?}");
    let asks = FactsQuery { destination: Some("shop"), ..query(&tenant, &agent) };
    let series = wait(ledger.facts(asks)).unwrap().series;
    grow_logs(ledger);
    let size = wait(ledger.logs().log_head(&tenant)).unwrap().size;
    admitted(ledger, Admission { destination: Some("shop".into()), ..admission("after") });
    assert!(wait(ledger.facts(asks)).unwrap().series.amounts().count() >= series.amounts().count());
    wait(ledger.settle(settlement(waits.id, State::Executed, "waits"))).unwrap_err();
    wait(ledger.record(Event { tenant_ref: Some("t-1".into()), ..event("rules_reloaded") })).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(600));
    grow_logs(ledger);
    assert!(wait(ledger.logs().log_head(&tenant)).unwrap().size > size);
}

#[test]
fn a_database_with_anything_in_it_is_refused_and_stays_as_it_is() {
    let Some(server) = server() else { return };
    let (url, folder) = (server.database(), tempfile::tempdir().unwrap());
    grown(folder.path());
    drop(gateway(&url, "chain-pg").unwrap());
    let why = copied(route(folder.path(), &url)).unwrap_err().to_string();
    assert!(why.contains("is not empty"), "{why}");
    drop(gateway(&url, "chain-pg-2").unwrap());
    drop(open(folder.path(), "chain-2"));
}

#[test]
fn a_store_that_went_on_meanwhile_does_not_go_on_being_copied() {
    let Some(server) = server() else { return };
    let (url, folder) = (server.database(), tempfile::tempdir().unwrap());
    grown(folder.path());
    let dies = DiesAt("copy.there", AtomicU64::new(1));
    copied(Route { fail_points: Some(Arc::new(dies)), ..route(folder.path(), &url) }).unwrap_err();
    drop(open(folder.path(), "chain-2"));
    let why = copied(route(folder.path(), &url)).unwrap_err().to_string();
    assert!(why.contains("before it was opened again") && why.contains("DROP SCHEMA"), "{why}");
    assert!(gateway(&url, "early").is_err());
    let other = server.database();
    copied(route(folder.path(), &other)).unwrap();
    // It is in a database already.
    let why = copied(route(folder.path(), &server.database())).unwrap_err().to_string();
    assert!(why.contains("into another database before"), "{why}");
}

#[test]
fn what_arrives_otherwise_than_the_chain_says_is_found_and_nothing_is_opened() {
    let Some(server) = server() else { return };
    let (url, folder) = (server.database(), tempfile::tempdir().unwrap());
    grown(folder.path());
    let dies = DiesAt("copy.there", AtomicU64::new(1));
    copied(Route { fail_points: Some(Arc::new(dies)), ..route(folder.path(), &url) }).unwrap_err();
    sql(&url, "UPDATE outcome SET document = '\\x00' WHERE receipt_id = 'receipt-done'; DELETE FROM seen");
    let mut copying = Copying::begin(route(folder.path(), &url)).unwrap().unwrap();
    copying.run(|_| ()).unwrap();
    let arrived = copying.verify(|_| ()).unwrap();
    assert_eq!(arrived.findings.len(), 1, "{:?}", arrived.findings);
    let differ: Vec<_> = arrived.tables.iter().filter(|it| it.of != it.rows).map(|it| it.table).collect();
    assert_eq!((arrived.is_whole(), differ), (false, vec!["seen"]));
    assert!(gateway(&url, "early").is_err());
    drop(open(folder.path(), "chain-2"));
}

#[test]
fn a_database_is_closed_before_its_file_is_taken_back_and_not_once_a_gateway_was_on_it() {
    let Some(server) = server() else { return };
    let (url, elsewhere, folder) = (server.database(), server.database(), tempfile::tempdir().unwrap());
    grown(folder.path());
    let withdrawn = |url: &str| withdraw(&file(folder.path()), url, "public").map_err(|it| it.to_string());
    withdrawn(&url).unwrap();
    copied(route(folder.path(), &url)).unwrap();
    assert!(withdrawn(&elsewhere).unwrap_err().contains("holds no copy of it"));
    withdrawn(&url).unwrap();
    assert!(gateway(&url, "early").err().unwrap().to_string().contains("is being copied"));
    // Brought to its end once more, it is open again.
    copied(route(folder.path(), &url)).unwrap();
    drop(gateway(&url, "chain-4").unwrap());
    assert!(withdrawn(&url).unwrap_err().contains("a gateway was on the database"));
    assert!(Sqlite::open(&file(folder.path()), Options::new("chain-3", NOW)).is_err());
}

#[test]
fn what_was_drawn_from_a_mandate_that_only_pruned_actions_told_of_goes_along() {
    let Some(server) = server() else { return };
    let (url, folder) = (server.database(), tempfile::tempdir().unwrap());
    let ledger = open(folder.path(), "chain-1");
    wait(ledger.tenant_key(&Tenant::default(), Some(vec![1]))).unwrap();
    let mut old = payment("old", 7, &["everybodys"]);
    old.intent.at_ms = NOW - 1_000_000;
    let id = admitted(&ledger, old);
    wait(ledger.settle(settlement(id, State::Executed, "old"))).unwrap();
    assert_eq!(wait(ledger.prune(NOW - 500_000, 10, NOW + 20)).unwrap(), 1);
    drop(ledger);
    let why = copied(route(folder.path(), &url)).unwrap_err().to_string();
    assert!(why.contains("nothing says whose mandate has account"), "{why}");
    copied(Route { unkept: vec!["everybodys".into()], ..route(folder.path(), &url) }).unwrap();
    assert_eq!(spent(&gateway(&url, "chain-2").unwrap(), "everybodys"), 7);
}

#[test]
fn an_empty_database_is_not_begun_beside_a_file() {
    let Some(server) = server() else { return };
    let (url, folder) = (server.database(), tempfile::tempdir().unwrap());
    let join = || Postgres::open(Access { has_file: true, ..Access::new(&url, "r", "c", NOW) });
    let why = join().err().unwrap().to_string();
    assert!(why.contains("is empty") && why.contains("store copy"), "{why}");
    grown(folder.path());
    copied(route(folder.path(), &url)).unwrap();
    drop(join().unwrap());
}

#[test]
fn a_file_is_taken_back_by_who_says_so() {
    let Some(server) = server() else { return };
    let (url, folder) = (server.database(), tempfile::tempdir().unwrap());
    grown(folder.path());
    assert_eq!(reclaim(&file(folder.path())).unwrap(), None);
    copied(route(folder.path(), &url)).unwrap();
    assert_eq!(reclaim(&file(folder.path())).unwrap(), Some(NOW));
    // Whoever copies again what is there leaves it again.
    assert_eq!(copied(route(folder.path(), &url)).unwrap(), None);
    assert!(Sqlite::open(&file(folder.path()), Options::new("chain-3", NOW)).is_err());
    reclaim(&file(folder.path())).unwrap();
    drop(open(folder.path(), "chain-3"));
    assert!(copied(route(folder.path(), &url)).is_err(), "they are two by now");
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhrelid::regclass::text LIKE '%_older'";
    assert_eq!(asked(&url, partitions).unwrap()[0][0].as_deref(), Some("7"));
}

/// The partitions of a table, and how many rows each has.
fn partitions(url: &str, table: &str) -> Vec<(String, u64)> {
    let named = format!(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = '{table}'::regclass ORDER BY 1"
    );
    let text = |rows: Vec<Vec<Option<String>>>| rows.into_iter().filter_map(|mut row| row.remove(0));
    text(asked(url, &named).unwrap())
        .map(|name| {
            let count = text(asked(url, &format!("SELECT count(*) FROM {name}")).unwrap()).next().unwrap();
            (name, count.parse().unwrap())
        })
        .collect()
}

fn archive(url: &str, before: &str, tablespace: Option<&str>) -> Result<Vec<Archived>, Error> {
    let tablespace = tablespace.map(Box::from);
    let months = Archive { url: url.into(), schema: "public".into(), before: before.into(), tablespace };
    let mut all = Vec::new();
    months.run(|table| all.extend(table))?;
    Ok(all)
}

#[test]
fn months_that_are_put_together_are_found_and_verified_as_before() {
    let Some(server) = server() else { return };
    let (url, folder) = (server.database(), tempfile::tempdir().unwrap());
    let done = grown(folder.path());
    copied(route(folder.path(), &url)).unwrap();
    // As if April had begun without a partition of its own.
    sql(
        &url,
        "CREATE TABLE was AS SELECT * FROM usage_2026_04; DROP TABLE usage_2026_04; INSERT INTO usage SELECT * FROM was; DROP TABLE was",
    );
    let ledger = gateway(&url, "chain-pg").unwrap();
    let before = told(&ledger);
    let why = archive(&url, "2026-06", None).unwrap_err().to_string();
    assert!(why.contains("1 gateway is on this database"), "{why}");
    drop(ledger);
    let (actions, usage) = (partitions(&url, "action"), partitions(&url, "usage"));
    let of = |all: &[(String, u64)], name: &str| all.iter().find(|it| it.0 == name).map(|it| it.1);
    let rows = of(&actions, "action_2026_04").unwrap();
    assert!(rows > 250, "{actions:?}");
    assert!(of(&usage, "usage_default").unwrap() > 0, "{usage:?}");

    // Whoever ends it on its way leaves each table as it was, or done.
    let slow = "BEGIN; LOCK TABLE usage; SELECT pg_sleep(6); COMMIT";
    let mut moved = std::thread::scope(|scope| {
        scope.spawn(|| sql(&url, slow));
        let is_locked =
            "SELECT 1 FROM pg_locks WHERE relation = 'usage'::regclass AND mode = 'AccessExclusiveLock'";
        while asked(&url, is_locked).unwrap().is_empty() {}
        let mut all = Vec::new();
        let months = Archive {
            url: url.as_str().into(),
            schema: "public".into(),
            before: "2026-06".into(),
            tablespace: None,
        };
        let ended = months.run(|table| all.extend(table));
        assert!(matches!(ended, Err(Error::Busy)), "{ended:?}");
        all
    });
    let tables = |moved: &[Archived]| moved.iter().map(|it| it.table).collect::<Vec<_>>();
    assert_eq!(tables(&moved), ledger::MONTHLY[..4]);
    assert!(of(&partitions(&url, "usage"), "usage_default").unwrap() > 0);
    moved.extend(archive(&url, "2026-06", None).unwrap());
    assert_eq!(tables(&moved), ledger::MONTHLY);
    let of_actions = moved.iter().find(|it| it.table == "action").unwrap();
    let names = ["action_older", "action_2026_04", "action_2026_05"].map(Box::from).to_vec();
    assert_eq!(
        (&of_actions.partitions, &*of_actions.into, of_actions.rows),
        (&names, "action_upto_2026_06", rows)
    );
    for (table, before) in [("action", actions), ("usage", usage)] {
        let after = partitions(&url, table);
        let sum = |all: &[(String, u64)]| all.iter().map(|it| it.1).sum::<u64>();
        assert_eq!(sum(&after), sum(&before), "{after:?}");
        assert_eq!(of(&after, &format!("{table}_default")), Some(0));
        assert!(of(&after, &format!("{table}_2026_04")).is_none());
    }
    assert_eq!(archive(&url, "2026-06", None).unwrap(), [], "once is enough");

    let ledger = gateway(&url, "chain-pg-2").unwrap();
    wait(ledger.verify()).unwrap();
    for (after, before) in told(&ledger).into_iter().zip(before) {
        // What is to be told to people the gateway before has taken in hand.
        assert!(after == before || before.starts_with("[Waiting"), "{after} was {before}");
    }
    goes_on(&ledger, done);
    wait(ledger.verify()).unwrap();
}

#[test]
fn months_are_put_together_year_by_year_on_a_disk_of_their_own() {
    let Some(server) = server() else { return };
    let url = server.database();
    let months = |year: u32| (1..=12_u32).map(move |month| (year, month));
    let id = |(year, month): (u32, u32)| {
        let text = format!(
            "SELECT (extract(epoch FROM make_timestamptz({year}, {month}, 1, 0, 0, 0, 'UTC')) * 1000)::bigint"
        );
        let ms: u64 = asked(&url, &text).unwrap()[0][0].as_ref().unwrap().parse().unwrap();
        ms
    };
    let first = |ms: u64| format!("'\\x{}00000000000000000000'", &hex::encode(ms.to_be_bytes())[4..]);
    let mut made = String::new();
    for (year, month) in months(2024).chain(months(2025)) {
        let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        let (from, to) = (id((year, month)), id(next));
        made += &format!(
            "CREATE TABLE usage_{year}_{month:02} PARTITION OF usage FOR VALUES FROM ({}) TO ({});
             INSERT INTO usage SELECT {}, {month}, 0, 0, 0, 0;",
            first(from),
            first(to),
            first(from + 5)
        );
    }
    sql(&url, &made);
    // Within the server's own folder, so that no other has to be its user's.
    let in_place = format!(
        "{url}{}options=-c%20allow_in_place_tablespaces%3Don",
        if url.contains('?') { '&' } else { '?' }
    );
    sql(&in_place, "CREATE TABLESPACE slow LOCATION ''");
    let sum = || asked(&url, "SELECT sum(seconds), count(*) FROM usage").unwrap();
    let before = sum();
    for (until, months) in [("2025-01", 12), ("2026-01", 12)] {
        let moved = archive(&url, until, Some("slow")).unwrap();
        let usage = moved.iter().find(|it| it.table == "usage").unwrap();
        assert_eq!((usage.partitions.len(), usage.rows), (months, 12), "{until}");
        assert_eq!(sum(), before);
    }
    let names: Vec<_> = partitions(&url, "usage").into_iter().filter(|it| it.1 > 0).collect();
    assert_eq!(names, [("usage_upto_2025_01".to_owned(), 12), ("usage_upto_2026_01".to_owned(), 12)]);
    let there = "SELECT count(*) FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace
                 WHERE spcname = 'slow' AND relname LIKE 'usage_upto%' AND relkind IN ('r', 'i')";
    assert_eq!(asked(&url, there).unwrap()[0][0].as_deref(), Some("4"), "two tables with an index each");
    for (until, wanted) in [("2999-01", "is not over"), ("2026-1", "is no month"), ("2026_01", "is no month")]
    {
        let why = archive(&url, until, None).unwrap_err().to_string();
        assert!(why.contains(wanted), "{why}");
    }
    let why = archive(&url, "2025-06", Some("nowhere")).unwrap_err().to_string();
    assert!(why.contains("no tablespace `nowhere`"), "{why}");
}
