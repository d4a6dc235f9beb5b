//! What the walk over the trail finds that somebody altered.

use countersign_gateway::{Code, Decision};
use rusqlite::types::Value;
use testkit::bank::{Bank, Fault, Injection};

use crate::approvals;
use crate::house::House;
use crate::relief;
use crate::reserving;
use crate::resolutions::{self, findings, found, resolve};
use crate::retries::LATER;
use crate::rides;
use crate::rollbacks;
use crate::steering;

const NOT_SO: &str = "the stored action is not the one it names";

#[tokio::test]
async fn what_an_action_is_listed_by_cannot_be_altered_unseen() {
    for column in ["session", "verb", "target", "level", "regulations"] {
        let house = House::new().await;
        let said = house.said("key-1", &house.payment("acct-1", "25.00")).await;
        assert_eq!(said.kind(), "executed", "{}", said.body);
        let whole = house.gateway().check_trail(&house.admin, None).await.unwrap();
        assert_eq!(whole.findings, []);
        house.store().execute(&format!("UPDATE action SET {column} = 'other'"), []).unwrap();
        let altered = house.gateway().check_trail(&house.admin, None).await.unwrap();
        let found: Vec<_> = altered.findings.iter().map(|it| (it.action_id.as_deref(), &*it.what)).collect();
        let expected = "the stored action is listed by something else than it says";
        assert_eq!(found, [(Some(said.id()), expected)], "{column}");
    }
}

#[tokio::test]
async fn a_receipt_from_another_address_is_said_to_be_of_another_issuer() {
    let mut house = House::new().await;
    house.said("key-1", &house.payment("acct-1", "25.00")).await;
    house.config.public_url = Some("https://other.example".to_owned());
    let house = house.restart().await;
    let found = house.gateway().check_trail(&house.admin, None).await.unwrap().findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].what.starts_with("the stored receipt is of another issuer, `http://"), "{found:?}");
}

/// The row of the one action, as it is stored, and with which entry it says that it was written last.
fn row(house: &House) -> (Vec<u8>, Option<i64>) {
    let sql = "SELECT a.payload, f.moved FROM action a JOIN fate f ON f.row = a.row WHERE a.key = 'k'";
    house.store().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

fn put_back(house: &House, (payload, moved): &(Vec<u8>, Option<i64>)) {
    house.store().execute("UPDATE action SET payload = ?1 WHERE key = 'k'", [payload]).unwrap();
    house.store().execute("UPDATE fate SET moved = ?1 WHERE row = 1", [moved]).unwrap();
}

/// Each of these (SQL over `payload`) is found, at the action; as it was, nothing is, after a restart too.
async fn only_these_are_found(house: House, id: &str, forgeries: &[&str]) -> House {
    let whole = row(&house);
    for forgery in forgeries {
        assert_eq!(findings(&house).await, 0);
        house.rewrite("k", forgery);
        let found = found(&house).await;
        let told: Vec<_> = found.iter().map(|it| (it.action_id.as_deref(), &*it.what)).collect();
        assert_eq!(told, [(Some(id), NOT_SO)], "{forgery}");
        put_back(&house, &whole);
    }
    let house = house.restart().await;
    assert_eq!(findings(&house).await, 0);
    house
}

#[tokio::test]
async fn who_had_it_tried_again_cannot_be_altered_unseen() {
    let (house, _bank, said) = steering::failed().await;
    // Nobody had to do with it so far.
    let house =
        only_these_are_found(house, said.id(), &["json_set(payload, '$.steered_by', json('[\"zoe\"]'))"])
            .await;
    house.gateway().retry(&house.operator, said.id()).await.unwrap();
    let forgeries = [
        "json_set(payload, '$.steered_by[0]', 'agent-7')",
        "json_set(payload, '$.steered_by[#]', 'agent-7')",
        "json_remove(payload, '$.steered_by')",
    ];
    let house = only_these_are_found(house, said.id(), &forgeries).await;
    // Once it is erased the entries still commit to it, and there is nothing to compare.
    house.gateway().erase(&house.admin, said.id()).await.unwrap();
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test]
async fn who_had_it_charged_cannot_be_altered_unseen() {
    let (house, _bank, said) = reserving::reserved().await;
    house.gateway().capture(&house.operator, said.id(), Some("10.00")).await.unwrap();
    let forgeries = [
        "json_set(payload, '$.reservation.captures[0].by', 'agent-7')",
        "json_set(payload, '$.reservation.captures[0].by', 'countersign')",
        "json_remove(json_set(payload, '$.reservation.captures[0].by', 'countersign'), '$.steered_by')",
        "json_set(payload, '$.steered_by[0]', 'agent-7')",
    ];
    only_these_are_found(house, said.id(), &forgeries).await;
}

#[tokio::test]
async fn who_had_it_released_cannot_be_altered_unseen() {
    let (house, _bank, said) = reserving::reserved().await;
    house.gateway().release(&house.operator, said.id()).await.unwrap();
    let forgeries = [
        "json_set(payload, '$.reservation.release.by', 'agent-7')",
        "json_set(payload, '$.reservation.release.by', 'countersign')",
        "json_remove(json_set(payload, '$.reservation.release.by', 'countersign'), '$.steered_by')",
    ];
    let house = only_these_are_found(house, said.id(), &forgeries).await;
    // In the attempt that is over it stays so.
    house.gateway().retry(&house.agent, said.id()).await.unwrap();
    let forgeries = [
        "json_set(payload, '$.attempts[0].reservation.release.by', 'agent-7')",
        "json_set(payload, '$.steered_by', json('[\"agent-7\",\"olga\"]'))",
    ];
    only_these_are_found(house, said.id(), &forgeries).await;
}

#[tokio::test]
async fn who_had_it_undone_cannot_be_altered_unseen() {
    let (house, bank, said) = rollbacks::paid(LATER).await;
    bank.inject(Injection::refunds(Fault::LostBeforeEffect, 1));
    house.gateway().rollback(&house.operator, said.id()).await.unwrap();
    let forgeries = [
        "json_set(payload, '$.rollback.by', 'agent-7')",
        "json_set(payload, '$.rollback.by', 'countersign')",
        "json_remove(json_set(payload, '$.rollback.by', 'countersign'), '$.steered_by')",
    ];
    let mut house = only_these_are_found(house, said.id(), &forgeries).await;
    house.installation.start();
    house.store().execute("UPDATE fate SET until = 1 WHERE state = -2", []).unwrap();
    rollbacks::until(&house, said.id(), "ROLLED_BACK").await;
    only_these_are_found(house, said.id(), &forgeries).await;
}

/// What a forger changed is as it was.
struct Kept(Vec<(&'static str, Vec<Value>)>);

impl Kept {
    const COLUMNS: [(&'static str, &'static [&'static str]); 2] = [
        ("action", &["payload", "subject", "archetype", "mandates", "request_hash", "key"]),
        ("fate", &["state", "moved", "until", "outcome"]),
    ];

    fn of(house: &House) -> Kept {
        let read = |(table, columns): (&'static str, &[&str])| {
            let sql = format!("SELECT {} FROM {table} WHERE row = 1", columns.join(", "));
            let values = |row: &rusqlite::Row<'_>| (0..columns.len()).map(|at| row.get(at)).collect();
            (table, house.store().query_row(&sql, [], values).unwrap())
        };
        Kept(Kept::COLUMNS.map(read).into())
    }

    fn put_back(&self, house: &House) {
        for ((table, columns), (_, values)) in Kept::COLUMNS.iter().zip(&self.0) {
            let set: Vec<_> =
                columns.iter().enumerate().map(|(at, column)| format!("{column} = ?{}", at + 1)).collect();
            let sql = format!("UPDATE {table} SET {} WHERE row = 1", set.join(", "));
            house.store().execute(&sql, rusqlite::params_from_iter(values)).unwrap();
        }
    }
}

fn entries(house: &House) -> i64 {
    house.store().query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).unwrap()
}

/// What a forger does to the one action: SQL over its payload, or to the columns beside it.
const FORGERIES: [&str; 8] = [
    "json_set(payload, '$.amount', '0.01')",
    "json_set(payload, '$.constraints.recipient', 'acct-9')",
    "json_set(payload, '$.correlation_id', 'other')",
    "UPDATE action SET subject = 'somebody'",
    "UPDATE action SET key = 'other'",
    "UPDATE action SET mandates = 'other'",
    "UPDATE fate SET moved = 1",
    "UPDATE action SET request_hash = zeroblob(32)",
];

/// Whatever somebody altered in the store, nothing goes on with it: not when it is asked for, and not by itself. The walk finds
/// it before and after. As it was, it goes on.
async fn nothing_goes_on<T>(
    (house, bank): (&House, &Bank),
    states: &[&'static str],
    ask: impl AsyncFn() -> Result<T, countersign_gateway::Error>,
) {
    let kept = Kept::of(house);
    let (effects, entered) = ((bank.effects().count, bank.refunds()), entries(house));
    for forgery in FORGERIES.into_iter().chain(states.iter().copied()) {
        match forgery.starts_with("UPDATE") {
            true => drop(house.store().execute(forgery, []).unwrap()),
            false => house.rewrite("k", forgery),
        }
        assert_ne!(found(house).await, [], "{forgery}");
        let Err(error) = ask().await else { panic!("it went on: {forgery}") };
        let what = "the stored action is not the one that its entries name";
        assert!(error.message == what || error.code == Code::StateConflict, "{forgery}: {error:?}");
        assert_ne!(found(house).await, [], "{forgery}");
        assert_eq!(((bank.effects().count, bank.refunds()), entries(house)), (effects, entered), "{forgery}");
        kept.put_back(house);
        assert_eq!(findings(house).await, 0, "{forgery}");
    }
    assert!(ask().await.is_ok());
    assert!(entries(house) > entered);
    assert_eq!(findings(house).await, 0);
}

#[tokio::test]
async fn what_failed_and_was_altered_is_not_tried_again() {
    let (house, bank, said) = steering::failed().await;
    nothing_goes_on((&house, &bank), &[], async || house.gateway().retry(&house.operator, said.id()).await)
        .await;
}

#[tokio::test]
async fn what_is_reserved_and_was_altered_is_not_charged() {
    let (house, bank, said) = reserving::reserved().await;
    let capture = async || house.gateway().capture(&house.operator, said.id(), Some("10.00")).await;
    nothing_goes_on((&house, &bank), &["UPDATE fate SET state = -8"], capture).await;
}

#[tokio::test]
async fn what_was_done_and_altered_is_not_undone() {
    let (house, bank, said) = rollbacks::paid(LATER).await;
    let rollback = async || house.gateway().rollback(&house.operator, said.id()).await;
    nothing_goes_on((&house, &bank), &["UPDATE fate SET state = -3"], rollback).await;
}

#[tokio::test]
async fn what_is_in_doubt_and_was_altered_is_settled_by_nobody() {
    let (house, bank, said) = resolutions::unanswered(Fault::LostAfterEffect, LATER).await;
    let settle = async || resolve(&house, "zoe", said.id(), Decision::Executed).await;
    nothing_goes_on((&house, &bank), &[], settle).await;
}

/// Nothing is undone by what somebody wrote into an outcome, or erased before it is found.
#[tokio::test]
async fn nothing_goes_on_by_what_somebody_wrote_into_an_outcome() {
    let forgeries = [
        "json_set(payload, '$.reference', 'other')",
        "json_set(payload, '$.answer', json('null'))",
        "json_set(payload, '$.of', hex(zeroblob(32)))",
        "UPDATE outcome SET payload = x''",
        "UPDATE outcome SET entry = entry - 1",
        "UPDATE outcome SET at = at + 3600000",
        "UPDATE outcome SET receipt_id = 'other'",
        "UPDATE outcome SET receipt_id = NULL, short = NULL, signature = NULL, document = NULL",
        "UPDATE outcome SET status = 500",
        "UPDATE outcome SET body = x'7b7d'",
    ];
    let (house, bank, said) = rollbacks::paid(LATER).await;
    let columns = "payload, entry, at, receipt_id, short, signature, document, status, body";
    let kept = Columns::of(&house, "outcome", columns);
    for forgery in forgeries {
        match forgery.starts_with("UPDATE") {
            true => drop(house.store().execute(forgery, []).unwrap()),
            false => house.rewrite_payload("outcome", "row = 1", forgery),
        }
        let gateway = house.gateway();
        let undone = gateway.rollback(&house.operator, said.id()).await.map(drop).unwrap_err();
        let erased = gateway.erase(&house.admin, said.id()).await.map(drop).unwrap_err();
        assert_eq!((undone.code, erased.code), (Code::Unavailable, Code::Unavailable), "{forgery}");
        assert_ne!(found(&house).await, [], "{forgery}");
        assert_eq!(bank.refunds(), 0, "{forgery}");
        kept.put_back(&house);
    }
    house.gateway().rollback(&house.operator, said.id()).await.unwrap();
    assert_eq!((bank.refunds(), findings(&house).await), (1, 0));
}

/// Values of the one row of a table.
struct Columns(&'static str, &'static str, Vec<Value>);

impl Columns {
    fn of(house: &House, table: &'static str, columns: &'static str) -> Columns {
        let read = |row: &rusqlite::Row<'_>| (0..columns.split(", ").count()).map(|at| row.get(at)).collect();
        let sql = format!("SELECT {columns} FROM {table} WHERE row = 1");
        Columns(table, columns, house.store().query_row(&sql, [], read).unwrap())
    }

    fn put_back(&self, house: &House) {
        let Columns(table, columns, values) = self;
        let marks = vec!["?"; values.len()].join(", ");
        let sql = format!("UPDATE {table} SET ({columns}) = ({marks}) WHERE row = 1");
        house.store().execute(&sql, rusqlite::params_from_iter(values)).unwrap();
    }
}

/// What is in doubt is not over, and does not wait for another attempt, because its rows say so.
#[tokio::test]
async fn what_is_in_doubt_stands_nowhere_else_because_its_rows_say_so() {
    for state in [4, 5, -1, -4, -5, -6, -7, -8, -9] {
        let (mut house, bank, said) = resolutions::unanswered(Fault::LostAfterEffect, LATER).await;
        bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
        let other = house.payment("acct-2", "1.00");
        assert_eq!(house.said("other", &other).await.kind(), "pending_settlement");
        let effects = bank.effects().count;
        let forged = format!("UPDATE fate SET state = {state}, until = 1, owner = 0 WHERE row = 1");
        house.store().execute(&forged, []).unwrap();
        house.store().execute(&format!("UPDATE outcome SET state = {state} WHERE row = 1"), []).unwrap();
        let again = house.gateway().retry(&house.operator, said.id()).await.map(drop).unwrap_err();
        assert!(matches!(again.code, Code::Unavailable | Code::StateConflict), "{state}: {again:?}");
        // What is said to be under way is only shown.
        let undone = house.gateway().rollback(&house.operator, said.id()).await.map(drop);
        assert!(undone.is_err() || state == -7, "{state}");
        house = house.restart().await;
        house.installation.start();
        // Whoever looks after what is open has come by.
        assert_eq!(house.settled("other", &other).await.kind(), "executed");
        assert_eq!((bank.effects().count, bank.refunds()), (effects, 0), "{state}");
        let told = found(&house).await;
        assert!(!told.is_empty(), "{state}");
        assert!(told.iter().all(|it| it.action_id.as_deref() == Some(said.id())), "{state}: {told:?}");
    }
}

/// Whoever leaves out what was said, has it done once more and puts it back is found for good.
#[tokio::test]
async fn what_was_left_out_for_a_while_is_found_ever_after() {
    let (house, bank, said) = steering::failed().await;
    let row = Columns::of(&house, "action", "payload");
    let fate = Columns::of(&house, "fate", "state, moved, outcome, debit, token, owner, until, reply");
    house.gateway().retry(&house.operator, said.id()).await.unwrap();
    assert_eq!((bank.effects().count, findings(&house).await), (1, 0));
    let done: i64 =
        house.store().query_row("SELECT outcome FROM fate WHERE row = 1", [], |row| row.get(0)).unwrap();
    // As if it had not been tried again.
    row.put_back(&house);
    fate.put_back(&house);
    assert_ne!(found(&house).await, []);
    house.gateway().retry(&house.operator, said.id()).await.unwrap();
    let relink = "UPDATE outcome SET previous = ?1 WHERE row = (SELECT outcome FROM fate WHERE row = 1)";
    assert_eq!(house.store().execute(relink, [done]).unwrap(), 1);
    let told = found(&house).await;
    assert!(!told.is_empty() && told.iter().all(|it| it.action_id.as_deref() == Some(said.id())), "{told:?}");
}

/// A person's word that somebody altered has nothing done, and is not erased before it is found.
#[tokio::test]
async fn nothing_goes_on_by_what_somebody_wrote_into_a_persons_word() {
    let house = House::new().await;
    let held = approvals::held(&house, "acct-1").await;
    let anna = approvals::approver(&house, "anna");
    house.gateway().reject(&anna, held.id(), Some("no".to_owned())).await.unwrap();
    assert_eq!(findings(&house).await, 0);
    let kept = Columns::of(&house, "approval", "record");
    for forgery in [
        "UPDATE approval SET record = x'7b7d'",
        "UPDATE approval SET record = CAST(replace(CAST(record AS TEXT), 'anna', 'zoe') AS BLOB)",
    ] {
        house.store().execute(forgery, []).unwrap();
        let error = house.gateway().erase(&house.admin, held.id()).await.map(drop).unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{forgery}");
        assert_ne!(found(&house).await, [], "{forgery}");
        kept.put_back(&house);
    }
    house.gateway().erase(&house.admin, held.id()).await.unwrap();
    assert_eq!(findings(&house).await, 0);
}

/// What was paid is not paid again by whoever writes that it waits for its next attempt.
#[tokio::test]
async fn what_was_done_does_not_wait_for_another_attempt_because_its_row_says_so() {
    for state in [-1, -4, -5, -6, 2, 3, 0] {
        let (mut house, bank, said) = rollbacks::paid(LATER).await;
        bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
        bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
        let other = house.payment("acct-2", "1.00");
        assert_eq!(house.said("other", &other).await.kind(), "pending_settlement");
        let effects = bank.effects().count;
        house
            .store()
            .execute(&format!("UPDATE fate SET state = {state}, until = 1, owner = 0 WHERE row = 1"), [])
            .unwrap();
        house = house.restart().await;
        house.installation.start();
        // Whoever looks after what is open has come by.
        assert_eq!(house.settled("other", &other).await.kind(), "executed");
        assert_eq!(bank.effects().count, effects, "{state}");
        let row = "SELECT state FROM fate WHERE row = 1";
        let now: i64 = house.store().query_row(row, [], |row| row.get(0)).unwrap();
        let told = found(&house).await;
        assert!(now == state && !told.is_empty(), "{state}");
        assert!(told.iter().all(|it| it.action_id.as_deref() == Some(said.id())), "{state}: {told:?}");
    }
}

/// What was over before anything was sent came with its outcome, and is whole: it is erased, decided again and tried again.
#[tokio::test]
async fn what_failed_before_it_was_sent_is_as_its_entry_names_it() {
    let house = rides::heeding().await;
    let said = house.said("k", &rides::ride(&house, "sandbox:lose")).await;
    assert_eq!((said.kind(), said.reasons()), ("failed", vec!["no_quote"]), "{}", said.body);
    house.gateway().replay(&house.operator, said.id()).await.unwrap();
    let whole = row(&house);
    for forgery in
        ["json_set(payload, '$.correlation_id', 'other')", "json_set(payload, '$.constraints.to', 'b')"]
    {
        house.rewrite("k", forgery);
        assert_ne!(found(&house).await, [], "{forgery}");
        let error = house.gateway().erase(&house.admin, said.id()).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{forgery}");
        put_back(&house, &whole);
    }
    house.gateway().erase(&house.admin, said.id()).await.unwrap();
    assert_eq!(findings(&house).await, 0);
}

/// Two words: that a capture failed, and that what cannot be set free is tried again.
const FORGED_WORDS: [&str; 11] = [
    "json_set(payload, '$.words[0].by', 'zoe')",
    "json_set(payload, '$.words[1].by', 'zoe')",
    "json_set(payload, '$.words[0].comment', 'heard of it')",
    "json_set(payload, '$.words[0].as', 'undo')",
    "json_set(payload, '$.words[0].at_ms', 1)",
    "json_set(payload, '$.words[0].key_id', 'k_9')",
    "json_set(payload, '$.words[0].charged', '1.00')",
    "json_remove(payload, '$.words[1]')",
    "json_remove(payload, '$.words')",
    "json_set(payload, '$.words[0]', payload -> '$.words[1]', '$.words[1]', payload -> '$.words[0]')",
    "json_set(payload, '$.words[#]', payload -> '$.words[1]')",
];

#[tokio::test]
async fn what_people_said_that_ended_nothing_cannot_be_altered_unseen() {
    let (house, bank, id) = relief::spoken_of_twice(Fault::LostBeforeEffect).await;
    let forged_release = "json_set(payload, '$.reservation.release.by', 'agent-7')";
    let house = only_these_are_found(house, &id, &[&FORGED_WORDS[..], &[forged_release]].concat()).await;
    // Nor after it has ended.
    bank.expire_reservations();
    resolve(&house, "zoe", &id, Decision::Released).await.unwrap();
    let house = only_these_are_found(house, &id, &FORGED_WORDS).await;
    falls_back_unseen_nowhere(&house).await;
    // Nor once another attempt has begun.
    crate::captures::arrived(&house);
    house.gateway().retry(&house.agent, &id).await.unwrap();
    only_these_are_found(house, &id, &FORGED_WORDS).await;
}

/// Whoever takes back what people said cannot have the row pass for one that an earlier entry came with.
async fn falls_back_unseen_nowhere(house: &House) {
    let whole = row(house);
    let last: i64 = house.store().query_row("SELECT max(row) FROM entry", [], |row| row.get(0)).unwrap();
    for words in ["$.words[1]", "$.words"] {
        for moved in (1..=last).map(Value::from).chain([Value::Null]) {
            house.rewrite("k", &format!("json_remove(payload, '{words}')"));
            house.store().execute("UPDATE fate SET moved = ?1", [&moved]).unwrap();
            let found = house.gateway().check_trail(&house.operator, None).await.unwrap().findings;
            assert!(!found.is_empty(), "without {words}, as of entry {moved:?}");
            put_back(house, &whole);
        }
    }
}

#[tokio::test]
async fn who_had_undone_what_nobody_could_tell_cannot_be_altered_unseen() {
    let (house, _archive, said) = relief::unchecked().await;
    resolve(&house, "anna", said.id(), Decision::Undo).await.unwrap();
    let forgeries = [
        "json_set(payload, '$.words[0].by', 'zoe')",
        "json_set(payload, '$.words[0].comment', 'heard of it')",
        "json_set(payload, '$.rollback.by', 'zoe')",
        "json_set(payload, '$.rollback.by', 'countersign')",
        "json_remove(payload, '$.words')",
        "json_remove(json_set(payload, '$.rollback.by', 'countersign'), '$.words')",
    ];
    only_these_are_found(house, said.id(), &forgeries).await;
}

/// An older form of a row has them within its captures.
#[tokio::test]
async fn a_word_cannot_be_put_where_older_rows_have_it() {
    let (house, _bank, said) = reserving::reserved().await;
    house.gateway().capture(&house.agent, said.id(), Some("10.00")).await.unwrap();
    let word = r#"{"as":"failed","by":"anna","key_id":"k","at_ms":7,"comment":"seen","number":0}"#;
    let forgery = format!("json_set(payload, '$.reservation.captures[0].resolution', json('{word}'))");
    only_these_are_found(house, said.id(), &[&forgery]).await;
}

/// Whatever moves money, or says where it went, beside what people said.
#[tokio::test]
async fn nothing_of_a_row_can_be_altered_unseen() {
    let (house, _bank, said) = reserving::reserved().await;
    let forgeries = [
        "json_set(payload, '$.amount', '5000.00')",
        "json_set(payload, '$.reservation.amount', '5000.00')",
        "json_set(payload, '$.reservation.confirmed', 'res-9')",
        "json_set(payload, '$.reservation.until_ms', 1)",
        "json_set(payload, '$.call.provider_key', 'key-9')",
        "json_set(payload, '$.call.identity', 'another')",
        "json_set(payload, '$.reversible', json(iif(payload -> '$.reversible' = 'true', 'false', 'true')))",
        "json_set(payload, '$.policy_digest', 'sha256:0')",
        "json_set(payload, '$.v', 2)",
    ];
    for forgery in forgeries {
        let (whole, unread) = (row(&house), forgery.contains("'$.v'"));
        house.rewrite("k", forgery);
        let found = house.gateway().check_trail(&house.operator, None).await.unwrap().findings;
        let told: Vec<_> = found.iter().map(|it| (it.action_id.as_deref(), &*it.what)).collect();
        let expected = if unread { "the stored action cannot be read" } else { NOT_SO };
        assert!(told.len() == 1 && told[0].0 == Some(said.id()), "{forgery}: {told:?}");
        assert!([expected, NOT_SO].contains(&told[0].1), "{forgery}: {told:?}");
        put_back(&house, &whole);
    }
    assert_eq!(findings(&house).await, 0);
    for forged in ["NULL", "'mnd-other'"] {
        let store = house.store();
        let select = "SELECT mandates FROM action WHERE key = 'k'";
        let own: String = store.query_row(select, [], |row| row.get(0)).unwrap();
        store.execute(&format!("UPDATE action SET mandates = {forged} WHERE key = 'k'"), []).unwrap();
        let found = house.gateway().check_trail(&house.operator, None).await.unwrap().findings;
        assert_eq!(found.len(), 1, "{forged}");
        store.execute("UPDATE action SET mandates = ?1 WHERE key = 'k'", [own]).unwrap();
    }
    assert_eq!(findings(&house).await, 0);
}

/// What is kept of what became of an action: the reference by which it is undone, and all else.
#[tokio::test]
async fn nothing_of_an_outcome_can_be_altered_unseen() {
    let house = House::new().await;
    let said = house.said("k", &house.payment("acct-1", "25.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    let select = "SELECT payload FROM outcome WHERE row = 1";
    let whole: Vec<u8> = house.store().query_row(select, [], |row| row.get(0)).unwrap();
    let plain = ledger::unpack(&whole).unwrap();
    for forgery in [
        "json_set(payload, '$.reference', 'p-9')",
        "json_set(payload, '$.details.amount', '1.00')",
        "json_set(payload, '$.answer', json('{}'))",
        "json_set(payload, '$.denied', json('true'))",
        r#"json_set(payload, '$.earlier', json('{"attempt":1,"reference":"r","debited":1}'))"#,
        "json_set(payload, '$.of', '00')",
        "json_remove(payload, '$.salt')",
    ] {
        house.store().execute("UPDATE outcome SET payload = ?1 WHERE row = 1", [&plain]).unwrap();
        assert_eq!(findings(&house).await, 0);
        let update = format!("UPDATE outcome SET payload = CAST({forgery} AS BLOB) WHERE row = 1");
        house.store().execute(&update, []).unwrap();
        let found = house.gateway().check_trail(&house.operator, None).await.unwrap().findings;
        let told: Vec<_> = found.iter().map(|it| (it.action_id.as_deref(), &*it.what)).collect();
        assert_eq!(told, [(Some(said.id()), "the stored outcome is not the one it names")], "{forgery}");
    }
    house.store().execute("UPDATE outcome SET payload = ?1 WHERE row = 1", [&whole]).unwrap();
    assert_eq!(findings(&house).await, 0);
}

/// Of several outcomes each is read, once: nobody can leave one out, or have them read in a circle.
#[tokio::test]
async fn no_outcome_can_be_hidden() {
    let (house, _bank, said) = steering::failed().await;
    house.gateway().retry(&house.operator, said.id()).await.unwrap();
    let store = house.store();
    let latest: i64 = store.query_row("SELECT max(row) FROM outcome", [], |row| row.get(0)).unwrap();
    assert!(latest > 1, "it failed, and was tried again");
    let unlisted = "the outcome stored with it is not listed with its action";
    for (forgery, put_back) in [
        (
            "UPDATE outcome SET previous = row WHERE row = {}",
            "UPDATE outcome SET previous = {} - 1 WHERE row = {}",
        ),
        (
            "UPDATE outcome SET previous = NULL WHERE row = {}",
            "UPDATE outcome SET previous = {} - 1 WHERE row = {}",
        ),
        ("UPDATE fate SET outcome = NULL", "UPDATE fate SET outcome = {}"),
        ("UPDATE fate SET outcome = {} - 1", "UPDATE fate SET outcome = {}"),
    ] {
        let of = |sql: &str| sql.replace("{}", &latest.to_string());
        assert_eq!(findings(&house).await, 0);
        assert_eq!(store.execute(&of(forgery), []).unwrap(), 1);
        let found = house.gateway().check_trail(&house.operator, None).await.unwrap().findings;
        assert!(
            found.iter().any(|it| it.action_id.as_deref() == Some(said.id()) && it.what == unlisted),
            "{forgery}: {found:?}"
        );
        // Whoever reads it is told so, or reads what is left; nobody reads for ever.
        let read = house.gateway().action(&house.operator, said.id()).await;
        assert!(!forgery.contains("previous = row") || read.is_err(), "{forgery}");
        store.execute(&of(put_back), []).unwrap();
    }
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test]
async fn an_outcome_that_leads_to_itself_is_not_erased_before_it_is_found() {
    let (house, _bank, said) = steering::failed().await;
    house.store().execute("UPDATE outcome SET previous = row", []).unwrap();
    let erased = house.gateway().erase(&house.admin, said.id());
    let erased = tokio::time::timeout(std::time::Duration::from_secs(20), erased).await;
    let refused = erased.expect("nobody goes round in a circle").unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    let payload = "SELECT count(*) FROM outcome WHERE length(payload) = 0";
    assert_eq!(house.store().query_row(payload, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[tokio::test]
async fn nobody_else_has_the_name_of_the_gateway() {
    for name in ["countersign", "Countersign", "COUNTERSIGN"] {
        assert!(action::Subject::parse(name).is_err(), "{name}");
    }
    assert!(action::Subject::parse("countersign-agent").is_ok());
}

/// Columns in which another value of the right kind is not found, with what comes of it. No entry names them: they find, count or
/// hasten, and what is believed of an action stands beside them. A value of the wrong kind is found in each.
const UNSEEN: [(&str, &str, &str); 20] = [
    (
        "action",
        "slot",
        "an index: its key is found no more, or by another look; the key itself stands in the receipt",
    ),
    ("action", "effect", "an index: an equal action is not held; nothing is said of this one"),
    ("action", "principal", "whose history it counts in"),
    ("action", "series", "where it counts in that history"),
    ("action", "amount", "what it counts for in that history; what was moved stands in the row's payload"),
    ("action", "currency", "that of the debit; that of the action stands in the row's payload"),
    ("action", "expires", "when a hold ends: this one is over"),
    ("action", "round", "which hold it is: this one is over, and each approval names its own"),
    ("action", "needed", "how many people: this one was carried out with a permit that says who agreed"),
    ("action", "resumed", "when its effect was claimed anew; older rows say nothing"),
    ("action", "resumed_row", "in which slice of an index that is found"),
    ("action", "regulations", "empty is the same as nothing"),
    ("action", "refs", "empty is the same as nothing"),
    ("fate", "debit", "what a correction starts from; what was charged stands in the receipts"),
    ("fate", "reply", "which outcome is answered again: the outcomes themselves are listed by `outcome`"),
    ("fate", "owner", "who has it in hand: it is over"),
    ("fate", "until", "when it is due: it is over"),
    ("fate", "moved", "older rows say nothing: then it is compared with the entry of its last outcome"),
    ("outcome", "short", "an address: what is found by it is verified by whoever reads it"),
    ("approval", "at", "its record and its entry have times of their own"),
];

/// What may stand in a file that somebody else has written in: SQL.
const GARBAGE: [&str; 7] = ["NULL", "''", "x''", "'no such'", "x'ff00'", "-9223372036854775808", "3.5"];

/// The file without what keeps values of the wrong kind from its tables, as whoever writes in it can have it.
fn loosened(house: &House) {
    let store = house.store();
    let version: i64 = store.query_row("PRAGMA schema_version", [], |row| row.get(0)).unwrap();
    store
        .execute_batch(&format!(
            "PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(replace(sql, ' NOT NULL', ''), ') STRICT', ')')
             WHERE type = 'table' AND name IN ('action', 'fate', 'outcome', 'approval');
             PRAGMA schema_version = {};
             PRAGMA writable_schema = OFF;",
            version + 1
        ))
        .unwrap();
}

#[tokio::test]
async fn whatever_stands_in_a_row_the_walk_goes_on_and_finds_it() {
    let house = approvals::house_with(1, |_| {}).await;
    let held = approvals::held(&house, "acct-1").await;
    house.gateway().approve(&approvals::approver(&house, "anna"), held.id(), None).await.unwrap();
    house.until("second-acct-1", &house.payment("acct-1", "25.00"), "executed").await;
    house.said("later", &house.payment("acct-2", "1.00")).await;
    loosened(&house);
    let house = house.restart().await;
    assert_eq!(findings(&house).await, 0);
    let store = house.store();
    let sql = "SELECT row FROM action WHERE key = 'second-acct-1'";
    let action: i64 = store.query_row(sql, [], |row| row.get(0)).unwrap();
    let (mut unseen, mut wrong) = (std::collections::BTreeSet::new(), Vec::new());
    for (table, of) in [
        ("action", format!("row = {action}")),
        ("fate", format!("row = {action}")),
        ("outcome", format!("row = (SELECT max(row) FROM outcome WHERE action = {action})")),
        ("approval", format!("action = {action}")),
    ] {
        let row: i64 =
            store.query_row(&format!("SELECT row FROM {table} WHERE {of}"), [], |row| row.get(0)).unwrap();
        let mut columns =
            store.prepare("SELECT name FROM pragma_table_info(?1) WHERE name <> 'row'").unwrap();
        let columns: Vec<String> =
            columns.query_map([table], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        for column in &columns {
            let was: Value = store
                .query_row(&format!("SELECT {column} FROM {table} WHERE row = {row}"), [], |row| row.get(0))
                .unwrap();
            for garbage in GARBAGE {
                let change = format!(
                    "UPDATE {table} SET {column} = {garbage} WHERE row = {row} AND {column} IS NOT {garbage}"
                );
                if store.execute(&change, []).unwrap() == 0 {
                    continue;
                }
                match house.gateway().check_trail(&house.admin, None).await {
                    Ok(check) if check.findings.is_empty() => {
                        unseen.insert((table, column.clone()));
                    }
                    Ok(_) => {}
                    Err(error) => wrong.push(format!("{table}.{column} = {garbage}: {}", error.message)),
                }
                store
                    .execute(&format!("UPDATE {table} SET {column} = ?1 WHERE row = {row}"), [&was])
                    .unwrap();
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    let known = UNSEEN.map(|(table, column, _)| (table, column.to_owned()));
    assert_eq!(unseen, known.into_iter().collect());
    assert_eq!(findings(&house).await, 0);
}
