//! What a caller hears of a store that was put back, as long as a provider does not say what it has done.

use testkit::bank::{Fault, Injection};

use crate::house::House;
use crate::logs::{ACCEPTED, bundle, lines, paid, put_back, recover};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_again_for_what_a_store_has_forgotten_reads_why_that_waits() {
    let mut house = House::new().await;
    bundle(&house, &paid(&house, "before").await, |_| true).await;
    let (store, backup) = (house.path().join("data/production.db"), house.path().join("backup.db"));
    let open = rusqlite::Connection::open(&store).unwrap();
    open.execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    drop(open);
    bundle(&house, &paid(&house, "lost").await, |_| true).await;
    house.gateway.stop();
    put_back(&house, &backup);
    let told = recover(&house, &ACCEPTED[1..]);
    assert!(told.status.success(), "{}", lines(&told));
    house.start();
    house.bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 1000));
    let body = house.payment("acct-lost", "10.00");
    let said = house.agent().execute("lost", &body).await;
    assert_eq!((said.status, said.code()), (503, "EP_UNAVAILABLE"), "{}", said.text());
    let why = "the store was put back, and the provider does not say whether this was done";
    assert!(said.text().contains(why), "{}", said.text());
    house.bank.clear_faults();
    let said = house.agent().insist_after_recovery("lost", &body).await;
    assert_eq!((said.kind(), house.bank.effects().count), ("executed", 2), "{}", said.text());
}
