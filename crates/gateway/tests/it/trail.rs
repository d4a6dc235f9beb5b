//! What the walk over the trail finds that somebody altered.

use crate::house::House;

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
