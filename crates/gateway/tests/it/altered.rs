//! What somebody altered in the store: it must not pass for something else, and keeps nobody from all the rest.

use countersign_gateway::{AuditAsk, Code, Decision};
use testkit::bank::{Fault, Injection};

use crate::approvals;
use crate::house::House;
use crate::resolutions::{findings, found, resolve};
use crate::retries::LATER;
use crate::rollbacks;

/// What was stored, and is put back.
fn replaced(house: &House, table: &str, column: &str, value: &str) -> rusqlite::types::Value {
    let select = format!("SELECT {column} FROM {table} WHERE row = 1");
    let whole = house.store().query_row(&select, [], |row| row.get(0)).unwrap();
    house.store().execute(&format!("UPDATE {table} SET {column} = {value} WHERE row = 1"), []).unwrap();
    whole
}

fn put_back(house: &House, table: &str, column: &str, whole: &rusqlite::types::Value) {
    house.store().execute(&format!("UPDATE {table} SET {column} = ?1 WHERE row = 1"), [whole]).unwrap();
}

#[tokio::test]
async fn what_unpacks_to_nothing_does_not_pass_for_erased() {
    let house = House::new().await;
    let body = house.payment("acct-1", "25.00");
    let said = house.said("k", &body).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    for (table, column) in [("action", "payload"), ("outcome", "payload"), ("outcome", "body")] {
        let whole = replaced(&house, table, column, "x'00'");
        let told = found(&house).await;
        let of_it = told.iter().all(|it| it.action_id.as_deref() == Some(said.id()));
        assert!(!told.is_empty() && of_it, "{table}.{column}: {told:?}");
        // Its key is answered from the reply alone.
        if column == "body" {
            let error = house.send("k", &body).await.err().map(|it| it.code);
            assert_eq!(error, Some(Code::Unavailable), "{table}.{column}");
        }
        let error = house.gateway().action(&house.agent, said.id()).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{table}.{column}");
        put_back(&house, table, column, &whole);
        assert_eq!(findings(&house).await, 0);
    }
}

#[tokio::test]
async fn a_repeated_key_is_not_answered_with_what_somebody_altered() {
    let house = House::new().await;
    let body = house.payment("acct-1", "25.00");
    let said = house.said("k", &body).await;
    house.said("k2", &house.payment("acct-2", "3.00")).await;
    let another = "(SELECT body FROM outcome WHERE row = 2)";
    for (column, value) in [
        ("body", another),
        ("status", "502"),
        ("state", "5"),
        ("payload", "(SELECT payload FROM outcome WHERE row = 2)"),
    ] {
        let whole = replaced(&house, "outcome", column, value);
        let error = house.send("k", &body).await.err().map(|it| it.code);
        assert_eq!(error, Some(Code::Unavailable), "{column}");
        put_back(&house, "outcome", column, &whole);
        assert_eq!(house.said("k", &body).await.bytes, said.bytes);
    }
}

/// The entry with which a person's word came, and its receipt, is none that a row was written with.
#[tokio::test]
async fn no_row_is_taken_for_written_with_an_outcome_or_beyond_the_chain() {
    let house = House::new().await;
    let said = house.said("k", &house.payment("sandbox:silent", "25.00")).await;
    resolve(&house, "zoe", said.id(), Decision::Executed).await.unwrap();
    let last: i64 = house.store().query_row("SELECT max(row) FROM entry", [], |row| row.get(0)).unwrap();
    let resolved = "(SELECT max(entry) FROM outcome)".to_owned();
    for forged in [resolved, (last + 1).to_string(), i64::MAX.to_string()] {
        assert_eq!(findings(&house).await, 0);
        let whole = replaced(&house, "fate", "moved", &forged);
        let told = found(&house).await;
        assert!(
            !told.is_empty() && told.iter().all(|it| it.action_id.as_deref() == Some(said.id())),
            "{forged}"
        );
        put_back(&house, "fate", "moved", &whole);
    }
}

#[tokio::test]
async fn an_altered_action_keeps_nobody_from_the_others() {
    let house = House::new().await;
    let silent = house.said("k", &house.payment("sandbox:silent", "25.00")).await;
    assert_eq!(silent.kind(), "pending_settlement", "{}", silent.body);
    let other = house.said("other", &house.payment("sandbox:silent", "26.00")).await;
    let held = approvals::held(&house, "acct-1").await;
    let anna = approvals::approver(&house, "anna");
    let ask = AuditAsk { limit: 50, ..AuditAsk::default() };
    let trail = async || house.gateway().audit(&house.admin, &ask).await.unwrap().items;
    let all = trail().await.len();
    for (table, column, value) in
        [("outcome", "previous", "row"), ("action", "payload", "x'00'"), ("action", "payload", "x'01ff'")]
    {
        let whole = replaced(&house, table, column, value);
        let unresolved = house.gateway().unresolved(&anna).await.unwrap();
        let listed: Vec<_> = unresolved.iter().map(|it| &*it.action_id).collect();
        assert_eq!(listed, [other.id()], "{table}.{column}");
        assert_eq!(trail().await.len(), all, "{table}.{column}");
        let error = house.gateway().held_one(&anna, silent.id()).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{table}.{column}");
        put_back(&house, table, column, &whole);
    }
    // And so where it is held that cannot be read.
    house.store().execute("UPDATE action SET payload = x'00' WHERE key = 'second-acct-1'", []).unwrap();
    let waits = house.gateway().held(&anna, None, 1).await.unwrap();
    assert!(waits.items.is_empty(), "{} cannot be read", held.id());
    assert_eq!(house.gateway().unresolved(&anna).await.unwrap().len(), 2);
    assert_eq!(trail().await.len(), all);
}

/// Nor is anything left in doubt because of one that cannot be read, wherever that says it stands.
#[tokio::test]
async fn what_cannot_be_read_keeps_nothing_else_from_being_looked_after() {
    for state in [3, -1, 0, 1] {
        let (mut house, bank, _said) = rollbacks::paid(LATER).await;
        bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
        bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1));
        let other = house.payment("acct-2", "1.00");
        assert_eq!(house.said("other", &other).await.kind(), "pending_settlement");
        let store = house.store();
        store.execute("UPDATE action SET payload = x'00', expires = 1 WHERE row = 1", []).unwrap();
        let forged = format!("UPDATE fate SET state = {state}, until = 1, owner = 0 WHERE row = 1");
        store.execute(&forged, []).unwrap();
        house = house.restart().await;
        house.installation.start();
        assert_eq!(house.settled("other", &other).await.kind(), "executed", "{state}");
    }
}

#[tokio::test]
async fn who_resolved_what_cannot_be_read_is_not_told_and_the_trail_goes_on() {
    let house = House::new().await;
    let said = house.said("k", &house.payment("sandbox:silent", "25.00")).await;
    resolve(&house, "zoe", said.id(), Decision::Executed).await.unwrap();
    let ask = AuditAsk { limit: 50, ..AuditAsk::default() };
    let trail = async || house.gateway().audit(&house.admin, &ask).await.unwrap().items;
    let before = trail().await;
    assert!(before.iter().any(|it| it.human_approver.as_deref() == Some("zoe")));
    house.store().execute("UPDATE outcome SET previous = row", []).unwrap();
    let after = trail().await;
    assert_eq!(after.len(), before.len());
    assert!(after.iter().all(|it| it.human_approver.is_none()));
}
