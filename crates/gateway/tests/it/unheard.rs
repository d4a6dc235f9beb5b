//! A gateway that has lost what says how much of its log was signed hears of it from witnesses, and takes nothing on before.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use countersign_gateway::FreezeScope;
use receipt::log::{AddCheckpoint, Checkpoint, NOTHING_SHOWN, Signer, Unwitnessed, Verifier};

use crate::house::House;
use crate::log::{
    FakeWitness, bundle, bundle_cosigned_by, checkpoint, cosigned, key, now_seconds, paid, put_back, until,
};

/// A status and a text.
type Answer = Arc<Mutex<(u16, String)>>;
/// The same, by what is asked.
type Says = Box<dyn Fn(&str) -> (u16, String) + Send>;

/// A witness that shows what it saw, which is that, and cosigns whatever it is asked to while it is there.
fn showing(signer: Signer, what: &Answer) -> FakeWitness {
    let what = Arc::clone(what);
    FakeWitness::answering(move |path, body| match (path, what.lock().unwrap().clone()) {
        ("/add-checkpoint", (..500, _)) => cosigned(&signer, "w.example", body),
        (_, what) => what,
    })
}

/// A house at work before such a witness.
async fn house_before(what: &Answer) -> (FakeWitness, House) {
    let signer = Signer::generate().unwrap();
    let witness = signer.witness("w.example").unwrap();
    let fake = showing(signer, what);
    let mut house = House::with(|config| fake.configured(&witness, config)).await;
    house.installation.start();
    bundle(&house, &paid(&house, "a").await).await;
    (fake, house)
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

/// How many leaves what is offered to a witness has.
fn size(offer: &AddCheckpoint) -> u64 {
    offer.note.text().lines().nth(1).unwrap().parse().unwrap()
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

/// It has asked once more, and judged what it got: it asks anew, or this was its last time.
async fn asked_again(fake: &FakeWitness) {
    for _ in 0..2 {
        let before = fake.asked_to_show();
        until(|| fake.asked_to_show() > before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_witness_is_back_its_store_is_used_without_a_restart() {
    let shown: Answer = Arc::new(Mutex::new((404, format!("{NOTHING_SHOWN}\n"))));
    let (fake, house) = house_before(&shown).await;
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
    let shown: Answer = Arc::new(Mutex::new((502, String::new())));
    let (_fake, house) = house_before(&shown).await;
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

/// Somebody else's witness: it speaks `add-checkpoint` of C2SP `tlog-witness`, and nothing that shows what it saw.
struct Standard {
    fake: FakeWitness,
    key: Verifier,
    /// The log that it was told of.
    log: Arc<OnceLock<Verifier>>,
    latest: Arc<Mutex<Option<Checkpoint>>>,
}

impl Standard {
    fn new() -> Standard {
        let signer = Signer::generate().unwrap();
        let key = signer.witness("w.example").unwrap();
        let (log, latest): (Arc<OnceLock<Verifier>>, Arc<Mutex<Option<Checkpoint>>>) = Default::default();
        let (known, seen) = (Arc::clone(&log), Arc::clone(&latest));
        let fake = FakeWitness::answering(move |path, body| {
            if path != "/add-checkpoint" {
                return (404, "no such page\n".to_owned());
            }
            let mut seen = seen.lock().unwrap();
            match AddCheckpoint::parse(body).unwrap().judge(known.get(), |_| seen.clone()) {
                Ok(checkpoint) => {
                    *seen = Some(checkpoint);
                    cosigned(&signer, "w.example", body)
                }
                Err(Unwitnessed::Conflict(size)) => (409, format!("{size}\n")),
                Err(Unwitnessed::Inconsistent) => (422, String::new()),
                Err(Unwitnessed::UnknownLog) => (404, String::new()),
                Err(Unwitnessed::Unsigned) => (403, String::new()),
                Err(Unwitnessed::Malformed(why)) => (400, why),
            }
        });
        Standard { fake, key, log, latest }
    }

    /// A house that it cosigns the log of.
    async fn house(&self) -> House {
        let mut house = House::with(|config| self.fake.configured(&self.key, config)).await;
        self.log.set(key(&house)).unwrap();
        house.installation.start();
        bundle_cosigned_by(&house, &paid(&house, "a").await, &self.key).await;
        house
    }

    fn saw(&self) -> u64 {
        self.latest.lock().unwrap().as_ref().map_or(0, |latest| latest.size)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_witness_is_heard_when_it_cosigns_all_that_the_store_has() {
    let witness = Standard::new();
    let house = witness.house().await;
    let saw = witness.saw();
    // Of what was logged behind it, it knows nothing.
    let before = witness.fake.asked_to_cosign().len();
    let mut house = without_marks(house).await;
    house.gateway().must_be_whole().unwrap();
    let offered = witness.fake.asked_to_cosign()[before..].iter().map(size).collect::<Vec<_>>();
    assert!(offered.iter().any(|size| *size >= saw), "{saw}: {offered:?}");
    house.installation.start();
    bundle_cosigned_by(&house, &paid(&house, "b").await, &witness.key).await;
    // One that has never seen the log, as where it was just configured.
    *witness.latest.lock().unwrap() = None;
    let house = without_marks(house).await;
    house.gateway().must_be_whole().unwrap();
    // One that was not told of it says nothing of it.
    let other = Standard::new();
    let mut house = house;
    house.config.log.witnesses.clear();
    other.fake.configured(&other.key, &mut house.config);
    let house = without_marks(house).await;
    assert!(house.gateway().is_unheard());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_somebody_elses_witness_saw_more_nothing_is_taken_on_and_nothing_else_signed() {
    let witness = Standard::new();
    let house = witness.house().await;
    let backup = backup_of(&house);
    let stored = checkpoint(&house);
    bundle(&house, &paid(&house, "lost").await).await;
    until(|| witness.saw() > stored.size && witness.saw() == checkpoint(&house).size).await;
    let house = put_back(house, &backup).await;
    let before = witness.fake.asked_to_cosign().len();
    let mut house = without_marks(house).await;
    house.installation.start();
    assert!(house.gateway().is_unheard());
    asked_again(&witness.fake).await;
    assert!(house.gateway().is_unheard() && house.gateway().gaps().is_empty(), "what it says it cannot show");
    assert!(refusal(&house).contains("`countersign recover`"), "{}", refusal(&house));
    let offered = witness.fake.asked_to_cosign()[before..].iter().map(size).collect::<Vec<_>>();
    assert!(!offered.is_empty() && offered.iter().all(|size| *size == 0), "{offered:?}");
    // It was mistaken, say, and has been put right.
    *witness.latest.lock().unwrap() = Some(stored);
    until(|| house.gateway().ready().is_ok()).await;
    bundle_cosigned_by(&house, &paid(&house, "b").await, &witness.key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_somebody_elses_witness_only_its_own_cosignature_of_now_counts() {
    let signer = Arc::new(Signer::generate().unwrap());
    let witness = signer.witness("w.example").unwrap();
    let answer: Arc<Mutex<Says>> = Arc::new(Mutex::new(Box::new(|_| (503, String::new()))));
    let answers = Arc::clone(&answer);
    let fake = FakeWitness::answering(move |path, body| match path {
        "/add-checkpoint" => answers.lock().unwrap()(body),
        _ => (404, String::new()),
    });
    let mut house = House::with(|config| fake.configured(&witness, config)).await;
    house.installation.start();
    bundle(&house, &paid(&house, "a").await).await;
    let is_probe = |body: &str| size(&AddCheckpoint::parse(body).unwrap()) == 0;
    let at = |signer: &Arc<Signer>, ago: u64| {
        let signer = Arc::clone(signer);
        move |body: &str| {
            let note = AddCheckpoint::parse(body).unwrap().note;
            (200, format!("{}\n", signer.cosign("w.example", &note, now_seconds() - ago).unwrap()))
        }
    };
    let never: Vec<Says> = vec![
        Box::new(|_| (503, String::new())),
        Box::new(|_| (409, "1000000\n".to_owned())),
        Box::new(|_| (409, "0\n".to_owned())),
        Box::new(|_| (409, "1\n".to_owned())),
        Box::new(|_| (409, "<html>\n".to_owned())),
        Box::new(|_| (200, String::new())),
        Box::new(at(&Arc::new(Signer::generate().unwrap()), 0)),
        // As somebody may have kept it who stands between.
        Box::new(at(&signer, 3600)),
        Box::new(move |body| if is_probe(body) { (409, "0\n".to_owned()) } else { (422, String::new()) }),
    ];
    let mut house = without_marks(house).await;
    for (number, says) in never.into_iter().enumerate() {
        *answer.lock().unwrap() = says;
        house = house.restart().await;
        assert!(house.gateway().is_unheard() && house.gateway().ready().is_err(), "{number}");
    }
    *answer.lock().unwrap() = Box::new(at(&signer, 0));
    let house = house.restart().await;
    house.gateway().must_be_whole().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_says_that_it_saw_more_is_not_outvoted_where_the_marks_are_lost() {
    let witness = Standard::new();
    let house = witness.house().await;
    let other = Signer::generate().unwrap().witness("more.example").unwrap();
    let more = FakeWitness::answering(|path, _| match path {
        "/add-checkpoint" => (409, "1000000\n".to_owned()),
        _ => (404, String::new()),
    });
    let mut house = house;
    more.configured(&other, &mut house.config);
    let house = house.restart().await;
    house.gateway().must_be_whole().unwrap();
    let house = without_marks(house).await;
    assert!(house.gateway().is_unheard());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_witness_shows_does_not_count_without_its_cosignature_where_the_marks_are_lost() {
    let witness = Signer::generate().unwrap().witness("w.example").unwrap();
    let shown: Answer = Arc::new(Mutex::new((404, format!("{NOTHING_SHOWN}\n"))));
    // Somebody who stands between, and has kept what it said once.
    let kept = Arc::clone(&shown);
    let fake = FakeWitness::answering(move |path, _| match path {
        "/add-checkpoint" => (503, String::new()),
        _ => kept.lock().unwrap().clone(),
    });
    let mut house = House::with(|config| fake.configured(&witness, config)).await;
    house.installation.start();
    bundle(&house, &paid(&house, "a").await).await;
    let note = house.gateway().log_checkpoint(&house.operator).unwrap();
    let house = without_marks(house).await;
    assert!(house.gateway().is_unheard());
    *shown.lock().unwrap() = (200, note);
    let house = house.restart().await;
    assert!(house.gateway().is_unheard() && house.gateway().ready().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_witness_is_asked_to_cosign_a_store_that_another_one_saw_more_of() {
    let [lags, knows] = [(); 2].map(|()| Signer::generate().unwrap());
    let [lagging, knowing] =
        [(&lags, "w.example"), (&knows, "more.example")].map(|(it, name)| it.witness(name).unwrap());
    let shown: Answer = Arc::new(Mutex::new((404, String::new())));
    let kept = Arc::clone(&shown);
    let behind = FakeWitness::answering(move |path, body| match path {
        "/add-checkpoint" => cosigned(&lags, "w.example", body),
        _ => (404, String::new()),
    });
    let ahead = FakeWitness::answering(move |path, body| match path {
        "/add-checkpoint" => cosigned(&knows, "more.example", body),
        _ => {
            // It takes its time.
            std::thread::sleep(std::time::Duration::from_millis(300));
            kept.lock().unwrap().clone()
        }
    });
    let mut house = House::with(|config| {
        behind.configured(&lagging, config);
        ahead.configured(&knowing, config);
    })
    .await;
    house.installation.start();
    bundle(&house, &paid(&house, "a").await).await;
    let backup = backup_of(&house);
    bundle(&house, &paid(&house, "lost").await).await;
    let note = house.gateway().log_checkpoint(&house.operator).unwrap();
    *shown.lock().unwrap() = (200, note);
    let house = put_back(house, &backup).await;
    let before = behind.asked_to_cosign().len();
    let house = without_marks(house).await;
    assert_eq!(house.gateway().gaps().len(), 1);
    let offered = behind.asked_to_cosign()[before..].iter().map(size).collect::<Vec<_>>();
    assert!(!offered.is_empty() && offered.iter().all(|size| *size == 0), "{offered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_heard_nobody_does_not_go_on_with_a_log_that_begins_anew() {
    let shown: Answer = Arc::new(Mutex::new((502, String::new())));
    let (fake, house) = house_before(&shown).await;
    let mut house = without_marks(house).await;
    house.installation.start();
    assert!(house.gateway().is_unheard());
    // Somebody else recovers the store meanwhile.
    for sql in [
        "DELETE FROM log",
        "DELETE FROM log_tile",
        "DELETE FROM log_leaf",
        "UPDATE log_name SET name = name || '-anew'",
    ] {
        house.store().execute(sql, []).unwrap();
    }
    for says in [(502, String::new()), (404, format!("{NOTHING_SHOWN}\n"))] {
        *shown.lock().unwrap() = says;
        asked_again(&fake).await;
        assert!(house.gateway().is_unheard() && house.gateway().must_be_whole().is_err());
    }
}
