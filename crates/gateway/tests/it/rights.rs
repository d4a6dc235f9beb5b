//! Who may do what, altered in the store: it gives nobody any right, is named, and keeps nobody from the rest.

use action::Subject;
use countersign_gateway::{AuditAsk, Code, Config, CreatedKey, FreezeAsk, FreezeScope, KeyAsk, Role};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::approvals::approver;
use crate::house::House;
use crate::resolutions::{findings, found};

async fn key(house: &House, name: &str, role: Role) -> CreatedKey {
    let subject = Subject::parse(name).unwrap();
    let ask = KeyAsk { tenant: None, subject, role, default_mandate: None };
    house.gateway().create_key(&house.admin, ask).await.unwrap()
}

async fn may_enter(house: &House, secret: &str) -> bool {
    house.gateway().authenticate(secret).await.is_ok()
}

/// Alters the store while nobody has it open.
async fn restarted_with(house: House, sql: &str) -> House {
    assert_eq!(house.store().execute(sql, []).unwrap(), 1, "{sql}");
    house.restart().await
}

fn alter(house: &House, sql: &str) {
    assert_eq!(house.store().execute(sql, []).unwrap(), 1, "{sql}");
}

#[tokio::test]
async fn an_api_key_that_no_entry_tells_of_opens_nothing() {
    let mut house = House::new().await;
    let alice = key(&house, "alice", Role::Approver).await;
    let hash = hex::encode(Sha256::digest("cs_forged"));
    let forged = format!(
        "INSERT INTO api_key (hash, id, tenant, subject, role, created, created_by)
         SELECT x'{hash}', 'key_forged', tenant, subject, role, created, created_by FROM api_key"
    );
    house = restarted_with(house, &forged).await;
    assert!(!may_enter(&house, "cs_forged").await);
    assert!(may_enter(&house, &alice.secret).await, "nobody else is kept out");
    assert_eq!(found(&house).await.len(), 1);
    alter(&house, "DELETE FROM api_key WHERE id = 'key_forged'");
    assert_eq!(findings(&house).await, 0);
}

#[tokio::test]
async fn an_api_key_that_is_not_as_its_entries_have_it_opens_nothing() {
    let mut house = House::new().await;
    let (alice, ended) =
        (key(&house, "alice", Role::Approver).await, key(&house, "eve", Role::Approver).await);
    house.gateway().revoke_key(&house.admin, &ended.key.id).await.unwrap();
    for (set, back) in [("role = 'admin'", "role = 'approver'"), ("subject = 'ada'", "subject = 'alice'")] {
        let of = format!("WHERE id = '{}'", alice.key.id);
        house = restarted_with(house, &format!("UPDATE api_key SET {set} {of}")).await;
        assert!(!may_enter(&house, &alice.secret).await, "{set}");
        house = restarted_with(house, &format!("UPDATE api_key SET {back} {of}")).await;
        assert!(may_enter(&house, &alice.secret).await, "{back}");
    }
    let revived = format!("UPDATE api_key SET revoked = NULL WHERE id = '{}'", ended.key.id);
    house = restarted_with(house, &revived).await;
    assert!(!may_enter(&house, &ended.secret).await);
}

/// What providers were sent before would be sent to them as something new.
#[tokio::test]
async fn a_store_that_has_lost_the_key_its_actions_are_known_by_does_not_open() {
    let house = House::new().await;
    house.said("k", &house.payment("acct-1", "1.00")).await;
    alter(&house, "DELETE FROM tenant_key");
    let why = house.reopened().await.err().unwrap();
    assert!(why.contains("restore the table `tenant_key`"), "{why}");
}

#[tokio::test]
async fn who_made_a_key_or_gave_a_mandate_is_what_the_entries_say() {
    let mut house = House::new().await;
    let alice = key(&house, "alice", Role::Approver).await;
    house = restarted_with(house, "UPDATE api_key SET created_by = NULL").await;
    assert!(!may_enter(&house, &alice.secret).await);
    house = restarted_with(house, "UPDATE mandate SET issuer = 'somebody'").await;
    let refused = house.send("k", &house.payment("acct-1", "1.00")).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    assert_eq!(found(&house).await.len(), 2);
}

#[tokio::test]
async fn whoever_takes_the_keys_out_of_the_store_is_given_none() {
    let house = House::new().await;
    key(&house, "alice", Role::Approver).await;
    let house = restarted_with(house, "DELETE FROM api_key").await;
    assert!(house.installation.first_key().await.unwrap().is_none());
}

#[tokio::test]
async fn an_api_key_ends_whatever_its_row_says_it_hashes_to() {
    let house = House::new().await;
    for altered in
        ["UPDATE api_key SET hash = zeroblob(32)", "UPDATE api_key SET hash = x'00'", "DELETE FROM api_key"]
    {
        let alice = key(&house, "alice", Role::Approver).await;
        alter(&house, &format!("{altered} WHERE id = '{}'", alice.key.id));
        let ended = house.gateway().revoke_key(&house.admin, &alice.key.id).await;
        assert!(ended.is_ok_and(|key| key.revoked_at.is_some()) || !altered.contains("zero"), "{altered}");
        assert!(!may_enter(&house, &alice.secret).await, "{altered}");
    }
    let bob = key(&house, "bob", Role::Approver).await;
    house.gateway().revoke_key(&house.admin, &bob.key.id).await.unwrap();
    assert!(house.gateway().revoke_key(&house.admin, &bob.key.id).await.is_err(), "it has ended");
}

#[tokio::test]
async fn a_mandate_that_is_not_as_its_entries_have_it_allows_nothing() {
    let mut house = House::new().await;
    let page = house.gateway().mandates(&house.operator, None, 10).await.unwrap();
    let jti = page.items[0].jti.clone();
    house.gateway().revoke_mandate(&house.operator, &jti, None).await.unwrap();
    house = restarted_with(house, "UPDATE account SET revoked = NULL").await;
    let refused = house.send("k", &house.payment("acct-1", "1.00")).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    house.token = house.mandate("500.00").await;
    assert_eq!(house.said("k2", &house.payment("acct-1", "1.00")).await.kind(), "executed");
}

#[tokio::test]
async fn what_gives_rights_and_cannot_be_read_is_named_and_keeps_nobody_from_the_rest() {
    let mut house = House::new().await;
    let (_bad, good) = (key(&house, "bad", Role::Approver).await, key(&house, "good", Role::Approver).await);
    drop(house.mandate("1.00").await);
    let unreadable = |table: &str| format!("row 1 of the table `{table}` cannot be read");
    for (table, set, named) in [
        ("api_key", "subject = ''", unreadable("api_key")),
        ("api_key", "tenant = ''", unreadable("api_key")),
        ("api_key", "hash = x'00'", unreadable("api_key")),
        ("api_key", "role = 'king'", "is not as the entries have it".to_owned()),
        ("mandate", "subject = ''", unreadable("mandate")),
        ("mandate", "claims = x'00'", "is not as the entries have it".to_owned()),
    ] {
        let keep = format!("CREATE TABLE put_aside AS SELECT * FROM {table}");
        house.store().execute_batch(&keep).unwrap();
        house = restarted_with(house, &format!("UPDATE {table} SET {set} WHERE row = 1")).await;
        let told = found(&house).await;
        assert!(told.iter().any(|it| it.what.contains(&named)), "{table}.{set}: {told:?}");
        assert!(may_enter(&house, &good.secret).await, "{table}.{set}");
        let keys = house.gateway().keys(&house.admin).await.unwrap();
        assert_eq!(keys.len(), if table == "api_key" { 1 } else { 2 }, "{table}.{set}");
        let mandates = house.gateway().mandates(&house.operator, None, 10).await.unwrap();
        assert_eq!(mandates.items.len(), if table == "mandate" { 1 } else { 2 }, "{table}.{set}");
        let back =
            format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM put_aside; DROP TABLE put_aside");
        house.store().execute_batch(&back).unwrap();
        assert_eq!(findings(&house).await, 0, "{table}.{set}");
    }
}

#[tokio::test]
async fn a_passkey_that_nobody_registered_keeps_nobody_from_the_lists() {
    let house = House::new().await;
    alter(&house, "INSERT INTO passkey VALUES (1, 'pk', 'default', x'00', 2, 2, NULL)");
    assert!(house.gateway().passkeys(&house.admin).await.unwrap().is_empty());
    house.gateway().approvers(&house.admin).await.unwrap();
    let told = found(&house).await;
    assert!(told.iter().any(|it| it.what == "row 1 of the table `passkey` cannot be read"), "{told:?}");
}

#[tokio::test]
async fn a_freeze_that_cannot_be_read_stops_everything_until_somebody_thaws_it() {
    let mut house = House::new().await;
    house
        .gateway()
        .freeze(&house.operator, FreezeScope::Archetype("PAYMENT_TRANSFER".to_owned()).into())
        .await
        .unwrap();
    house = restarted_with(house, "UPDATE freeze SET kind = 'x'").await;
    let refused = house.said("k", &house.payment("acct-1", "1.00")).await;
    assert_eq!((refused.kind(), refused.code()), ("blocked", "EP_FROZEN"), "{}", refused.body);
    let all = house.gateway().freezes(&house.admin).await.unwrap();
    assert_eq!(all[0].scope, FreezeScope::All);
    assert!(all[0].reason.as_deref().unwrap().contains("row 1 of `freeze`"), "{all:?}");
    let told = found(&house).await;
    assert!(told.iter().any(|it| it.what == "row 2 of the table `freeze` cannot be read"), "{told:?}");
    // What it was meant to stop is on record, and stopped besides.
    let scope = FreezeScope::Archetype("PAYMENT_TRANSFER".to_owned());
    assert_eq!(all[1].scope, scope);
    house.gateway().thaw(&house.admin, FreezeScope::All).await.unwrap();
    assert_eq!(findings(&house).await, 0);
    assert_eq!(house.said("k2", &house.payment("acct-1", "1.00")).await.code(), "EP_FROZEN");
    house.gateway().thaw(&house.operator, scope).await.unwrap();
    house = house.restart().await;
    assert_eq!(house.said("k3", &house.payment("acct-1", "1.00")).await.kind(), "executed");
}

#[tokio::test]
async fn a_freeze_that_somebody_took_out_of_the_store_is_put_back_until_it_is_thawed() {
    let mut house = House::new().await;
    let scope = FreezeScope::Agent(house.agent.subject.clone());
    let ask = FreezeAsk { include_rollback: true, ..scope.clone().into() };
    house.gateway().freeze(&house.operator, ask).await.unwrap();
    for _ in 0..2 {
        house = restarted_with(house, "DELETE FROM freeze").await;
        assert_eq!(house.said("k", &house.payment("acct-1", "1.00")).await.code(), "EP_FROZEN");
        let freezes = house.gateway().freezes(&house.operator).await.unwrap();
        assert_eq!((&freezes[0].scope, freezes[0].include_rollback, freezes.len()), (&scope, true, 1));
        assert_eq!(findings(&house).await, 0);
    }
    house.gateway().thaw(&house.operator, scope).await.unwrap();
    house = house.restart().await;
    assert_eq!(house.said("k2", &house.payment("acct-1", "1.00")).await.kind(), "executed");
}

#[tokio::test]
async fn a_freeze_that_no_entry_tells_of_stands() {
    let forged = "INSERT INTO freeze VALUES ('agent', 'default', 'agent-7', 0, 1, 'a', 'b')";
    let house = restarted_with(House::new().await, forged).await;
    assert_eq!(house.said("k", &house.payment("acct-1", "1.00")).await.code(), "EP_FROZEN");
    assert_eq!(found(&house).await.len(), 1);
}

#[tokio::test]
async fn an_absurd_time_is_found_and_keeps_nobody_from_the_trail() {
    let house = House::new().await;
    let said = house.said("k", &house.payment("acct-1", "1.00")).await;
    let ask = AuditAsk { limit: 50, ..AuditAsk::default() };
    let all = house.gateway().audit(&house.admin, &ask).await.unwrap().items.len();
    for at in ["-9223372036854775807", "9223372036854775807"] {
        alter(&house, &format!("UPDATE action SET at = {at}"));
        assert_eq!(house.gateway().audit(&house.admin, &ask).await.unwrap().items.len(), all, "{at}");
        house.record(said.id()).await;
        let told = found(&house).await;
        let told: Vec<_> = told.iter().map(|it| (it.action_id.as_deref(), &*it.what)).collect();
        let what = "the action stored with it came in at quite another time, as its row has it";
        assert_eq!(told, [(Some(said.id()), what)], "{at}");
    }
}

#[tokio::test]
async fn that_policies_are_hidden_is_on_record_once_however_many_ask_at_once() {
    let hides = json!({"disclosure": {"approver": {"most": "COUNT_ONLY"}}});
    let hides = serde_json::from_value::<Config>(hides).unwrap().disclosure;
    let house = House::with(|config| config.disclosure = hides).await;
    let anna = approver(&house, "anna");
    let asked = (0..4).map(|_| house.gateway().disclosure(&anna, None));
    for told in futures_util::future::join_all(asked).await {
        assert!(told.unwrap().violation);
    }
    let sql =
        "SELECT count(*) FROM entry WHERE instr(CAST(bytes AS TEXT), '\"event\":\"governance_anomaly\"')";
    let records: i64 = house.store().query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(records, 1);
}
