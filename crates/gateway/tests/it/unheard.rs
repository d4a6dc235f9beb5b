//! A gateway that has lost what says how much of its log was signed hears of it from witnesses, and takes nothing on before.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use countersign_gateway::FreezeScope;
use receipt::log::{NOTHING_SHOWN, Signer};

use crate::house::House;
use crate::log::{FakeWitness, bundle, checkpoint, paid, put_back, until};

/// A status and a text.
type Answer = Arc<Mutex<(u16, String)>>;

/// A witness that shows what it saw, which is that, and cosigns nothing.
fn showing(what: &Answer) -> FakeWitness {
    let what = Arc::clone(what);
    FakeWitness::answering(move |path, _| match path {
        "/add-checkpoint" => (409, "1000000\n".to_owned()),
        _ => what.lock().unwrap().clone(),
    })
}

/// The house as it begins again without what says how much was signed.
async fn without_marks(house: House) -> House {
    without_marks_and(house, |_| ()).await
}

/// The same, with something done to it that nobody sees.
async fn without_marks_and(house: House, change: impl FnOnce(&House)) -> House {
    let house = house.reopened_after(|| ()).await;
    std::fs::remove_dir_all(house.path("data/marks")).unwrap();
    change(&house);
    house.restart().await
}

fn freezes(house: &House) -> u32 {
    house.store().query_row("SELECT count(*) FROM freeze", [], |row| row.get(0)).unwrap()
}

fn backup_of(house: &House) -> PathBuf {
    let backup = house.path("backup.db");
    house.store().execute("VACUUM INTO ?", [backup.to_str().unwrap()]).unwrap();
    backup
}

/// Why the gateway takes nothing on.
fn refusal(house: &House) -> String {
    let refused = house.gateway().must_be_whole().unwrap_err();
    format!("{refused}; {}", refused.hint.as_deref().unwrap_or_default())
}

/// It has asked once more, and got the same.
async fn asked_again(fake: &FakeWitness) {
    let before = fake.asked();
    until(|| fake.asked() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_witness_is_back_its_store_is_used_without_a_restart() {
    let witness = Signer::generate().unwrap().witness("w.example").unwrap();
    let shown: Answer = Arc::new(Mutex::new((404, format!("{NOTHING_SHOWN}\n"))));
    let fake = showing(&shown);
    let mut house = House::with(|config| fake.configured(&witness, config)).await;
    house.installation.start();
    bundle(&house, &paid(&house, "a").await).await;
    let note = house.gateway().log_checkpoint(&house.operator).unwrap();
    house.gateway().freeze(&house.operator, FreezeScope::Tenant.into()).await.unwrap();
    *shown.lock().unwrap() = (502, String::new());
    // Somebody takes a freeze out of the store, which is put into force again where that is used.
    let take_out = |house: &House| assert_eq!(house.store().execute("DELETE FROM freeze", []).unwrap(), 1);
    let mut house = without_marks_and(house, take_out).await;
    assert!(house.gateway().is_unheard());
    house.installation.start();
    asked_again(&fake).await;
    assert!(refusal(&house).contains("asked again"), "{}", refusal(&house));
    assert_eq!(freezes(&house), 0);

    *shown.lock().unwrap() = (200, note);
    until(|| house.gateway().ready().is_ok()).await;
    assert!(!house.gateway().is_unheard() && house.gateway().gaps().is_empty());
    assert_eq!(freezes(&house), 1);
    house.gateway().thaw(&house.operator, FreezeScope::Tenant).await.unwrap();
    bundle(&house, &paid(&house, "b").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_witness_is_back_and_shows_more_than_the_store_has_that_has_to_be_recovered() {
    let witness = Signer::generate().unwrap().witness("w.example").unwrap();
    let shown: Answer = Arc::new(Mutex::new((502, String::new())));
    let fake = showing(&shown);
    let mut house = House::with(|config| fake.configured(&witness, config)).await;
    house.installation.start();
    bundle(&house, &paid(&house, "a").await).await;
    let backup = backup_of(&house);
    bundle(&house, &paid(&house, "lost").await).await;
    let (signed, note) = (checkpoint(&house), house.gateway().log_checkpoint(&house.operator).unwrap());
    let mut house = without_marks(put_back(house, &backup).await).await;
    house.installation.start();
    assert!(house.gateway().is_unheard());
    *shown.lock().unwrap() = (200, note);
    until(|| !house.gateway().gaps().is_empty()).await;
    assert_eq!(house.gateway().gaps()[0].signed, signed.size);
    assert!(refusal(&house).contains("`countersign recover`"), "{}", refusal(&house));
    assert!(!refusal(&house).contains("asked again"), "{}", refusal(&house));
}
