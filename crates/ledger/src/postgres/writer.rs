//! The one writer of a process: takes everything that waits, commits it in one transaction, wakes those who waited.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use action::ActionId;
use deadpool_postgres::{Object, Pool};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connect::Heard;
use super::needs::Needs;
use super::replica::{Replica, end_silent};
use super::sql::{Db, Done, Failure, answered};
use super::{Access, Shared, chores, connect, facts, flush, load, migrate, read, shelf};
use crate::admit::Item;
use crate::intake::Close;
use crate::world::World;
use crate::{Admitted, Error};

/// Resolves when the commit that answers it is durable.
pub(super) type Promise<T> = oneshot::Sender<Result<T, Error>>;

/// Something to be written.
pub(super) enum Write {
    Enter(Box<Item>, Promise<Admitted>),
    Close(Box<Close>, Promise<i64>),
    Deed(Box<dyn Deed>),
}

/// A rare write: whatever the hot path does not do.
pub(super) trait Deed: Send {
    /// Which rows it touches.
    fn needs(&self) -> &Needs;
    /// Writes. May be called again if the transaction it was in failed.
    fn run<'a>(&'a mut self, batch: &'a mut Batch<'_>) -> BoxFuture<'a, Done<()>>;
    fn finish(self: Box<Self>, outcome: Result<(), Error>);
}

/// One transaction's worth of writes.
pub(super) struct Batch<'a> {
    pub(super) db: &'a Db,
    pub(super) world: World,
}

/// A deed, and where its answer goes.
pub(super) struct Act<T, F> {
    needs: Needs,
    run: F,
    made: Option<Result<T, Error>>,
    promise: Promise<T>,
}

impl<T, F> Act<T, F> {
    pub(super) fn new(needs: Needs, run: F, promise: Promise<T>) -> Act<T, F> {
        Act { needs, run, made: None, promise }
    }
}

impl<T, F> Deed for Act<T, F>
where
    T: Send,
    F: for<'b> FnMut(&'b mut Batch<'_>) -> BoxFuture<'b, Done<Result<T, Error>>> + Send,
{
    fn needs(&self) -> &Needs {
        &self.needs
    }

    fn run<'a>(&'a mut self, batch: &'a mut Batch<'_>) -> BoxFuture<'a, Done<()>> {
        Box::pin(async move {
            self.made = Some(told((self.run)(batch).await?)?);
            Ok(())
        })
    }

    fn finish(self: Box<Self>, outcome: Result<(), Error>) {
        let Act { made, promise, .. } = *self;
        drop(promise.send(outcome.and_then(|()| made.unwrap_or_else(|| Err(super::gone())))));
    }
}

/// What was refused is an answer; what could not be written takes its transaction with it.
fn told<T>(result: Result<T, Error>) -> Done<Result<T, Error>> {
    match result {
        Err(Error::Rejected(why)) => Err(Failure::Refused(why.to_string())),
        Err(Error::Corrupt(why)) => Err(Failure::Corrupt(why.to_string())),
        answer => Ok(answer),
    }
}

/// Between two signs of life while nothing is written.
const BEAT: Duration = Duration::from_millis(250);
/// Between two looks at who is silent, and at what the server promises.
const LOOK: Duration = Duration::from_secs(2);
/// Between two times at which chores are done.
const CHORES: Duration = Duration::from_secs(60);
/// No transaction takes longer; after that its connection is given up.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a transaction is tried in whose way somebody else was.
const TRIES: u32 = 5;
/// So many writes are worth waiting for, where they came at once.
const CROWD: usize = 4;
/// They are waited for as long as this part of the last transaction took,
const GATHERING: u32 = 3;
/// and no longer than this.
const GATHERED: Duration = Duration::from_millis(5);
/// Nor is one tried again after this time: whoever waits hears that it was in vain while they still listen.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Writer {
    access: Access,
    shared: Arc<Shared>,
    /// One connection.
    pool: Pool,
    /// What the server says of its commits.
    heard: Heard,
    replica: Replica,
    db: Option<Object>,
    opened: Instant,
    wrote: Instant,
    /// How many writes were committed together the last time, and how long that took.
    last: (usize, Duration),
    /// Since when the database has been answering: who was silent until then may not have been able to tell.
    since: Instant,
}

/// Everything that is in one transaction.
#[derive(Default)]
struct Work {
    items: Vec<(Box<Item>, Promise<Admitted>)>,
    closes: Vec<(Box<Close>, Promise<i64>)>,
    deeds: Vec<Box<dyn Deed>>,
}

/// What a committed transaction came to.
struct Made {
    admitted: Vec<Admitted>,
    closed: Vec<Result<i64, Error>>,
    refusals: HashMap<[u8; 32], (crate::Repeat, i64)>,
}

impl Writer {
    pub(super) async fn open(access: Access) -> Result<(Writer, Arc<Shared>), Error> {
        let cannot = |failure: Failure| Error::Open(failure.to_string().into());
        // A migration takes two.
        let beside = Heard::default();
        let most = access.readers.max(2);
        let readers = connect::pool_heard(&access.url, &access.schema, most, beside.clone())?;
        migrate::run(&readers, &access.schema).await?;
        let heard = Heard::default();
        let pool = connect::pool_heard(&access.url, &access.schema, 1, heard.clone())?;
        let db = pool.get().await.map_err(|error| cannot(error.into()))?;
        chores::partitions(&db, Some(access.now_ms)).await.map_err(cannot)?;
        shelf::clear(&db).await.map_err(cannot)?;
        load::prepare(&db).await.map_err(cannot)?;
        let durability = connect::durability(&db).await.map_err(cannot)?;
        let judging = connect::pool(&access.url, &access.schema, facts::AT_ONCE)?;
        let replica = Replica::register(&db, &access).await.map_err(cannot)?;
        let shared = Arc::new(Shared {
            pool: readers,
            heard: beside,
            judging,
            number: replica.number.into(),
            failed: Default::default(),
            refusals: Default::default(),
            walks: Default::default(),
            counts: Default::default(),
            durability: durability.into(),
            has_others: Default::default(),
        });
        shared.look_for_others(&db).await.map_err(cannot)?;
        let opened = Instant::now();
        let (db, wrote, since, last) = (Some(db), opened, opened, (0, Duration::ZERO));
        let mut writer = Writer {
            access,
            shared: Arc::clone(&shared),
            pool,
            heard,
            replica,
            db,
            opened,
            wrote,
            last,
            since,
        };
        // Its chain begins with this, which also shows that the store can be written.
        if let Err(failure) = writer.transaction(&mut Work::default()).await {
            writer.lost(&failure).await;
            writer.leave().await;
            return Err(cannot(failure));
        }
        Ok((writer, shared))
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Write>) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = Vec::new();
        let (mut chores, mut done, mut looked) = (tokio::spawn(async {}), Instant::now(), Instant::now());
        loop {
            tokio::select! {
                biased;
                _ = beat.tick() => {
                    let look = looked.elapsed() >= LOOK;
                    // What was written just now was a sign of life.
                    if look || self.wrote.elapsed() >= BEAT {
                        self.beat(look).await;
                    }
                    if look {
                        looked = Instant::now();
                    }
                    if done.elapsed() >= CHORES && chores.is_finished() {
                        (chores, done) = (tokio::spawn(chores::all(self.shared.pool.clone())), Instant::now());
                    }
                    // One that took long is not due again before who waits to write had a turn.
                    beat.reset();
                }
                count = queue.recv_many(&mut taken, self.access.batch.max(1)) => {
                    if count == 0 {
                        break;
                    }
                    self.gather(&mut queue, &mut taken).await;
                    self.commit(Work::of(taken.drain(..))).await;
                }
            }
        }
        self.leave().await;
    }

    /// Waits a little for who comes next, where others write, too, many came at once the last time, and fewer are there now: those
    /// who were answered by the last transaction are on their way back. Whoever comes alone waits for nobody.
    async fn gather(&self, queue: &mut mpsc::Receiver<Write>, taken: &mut Vec<Write>) {
        let (many, took) = self.last;
        if taken.len() >= many || many < CROWD || !self.shared.gathers() {
            return;
        }
        sleep((took / GATHERING).min(GATHERED)).await;
        while taken.len() < self.access.batch
            && let Ok(write) = queue.try_recv()
        {
            taken.push(write);
        }
    }

    /// Tells the others that it is gone, if it can.
    async fn leave(&self) {
        if let Some(db) = &self.db
            && let Err(failure) = self.replica.end(db).await
        {
            tracing::warn!(why = %failure, "this gateway could not tell that it is gone; it will be taken for it");
        }
    }

    /// A sign of life. Whoever is healthy finds out here, too, that the database came back.
    async fn beat(&mut self, look: bool) {
        let told = timeout(DEADLINE, async {
            let silence = self.access.silence;
            self.connect().await?;
            let db = self.db.as_ref().ok_or_else(unconnected)?;
            self.replica.beat(db).await?;
            self.heard.kept_by_now()?;
            if look {
                if self.since.elapsed() >= silence {
                    end_silent(db, silence).await?;
                }
                *self.shared.durability() = connect::durability(db).await?;
                self.shared.look_for_others(db).await?;
            }
            Ok(())
        });
        match told.await.unwrap_or_else(|_| Err(Failure::silent())) {
            Ok(()) => self.is_well(),
            Err(failure) => self.lost(&failure).await,
        }
    }

    /// Sees to it that there is a connection, and that this process is registered.
    async fn connect(&mut self) -> Done<()> {
        if self.db.as_ref().is_some_and(|db| !db.is_closed()) {
            return Ok(());
        }
        self.db = None;
        let untried = Untried(Some(self.pool.get().await?));
        let db = untried.0.as_ref().ok_or_else(unconnected)?;
        load::prepare(db).await?;
        // After a failover it may be another server.
        *self.shared.durability() = connect::durability(db).await?;
        (self.db, self.since) = (untried.fit(), Instant::now());
        Ok(())
    }

    fn is_well(&self) {
        if self.shared.failed().take().is_some() {
            tracing::info!("the database can be written again");
        }
    }

    /// Gives the connection up after a failure that it may not have outlived, so that nothing of it is left open.
    async fn lost(&mut self, failure: &Failure) {
        let mut why: Arc<str> = failure.to_string().into();
        if let Some(db) = self.db.take() {
            let goes_on = match failure {
                Failure::Conflict(_) | Failure::Clash(_) | Failure::Refused(_) | Failure::Corrupt(_) => {
                    answered(db.batch_execute("ROLLBACK")).await
                }
                Failure::Ended => self.register(&db).await,
                Failure::Lost(_) => Err(failure.clone()),
            };
            match goes_on {
                Ok(()) => {
                    self.db = Some(db);
                    return;
                }
                Err(failure) => why = failure.to_string().into(),
            }
            drop(Object::take(db));
        }
        if self.shared.failed().replace(Arc::clone(&why)).is_none() {
            tracing::error!(%why, "the ledger cannot be written; it is tried again");
        }
    }

    /// Goes on as another process after this one was taken for gone.
    async fn register(&mut self, db: &Db) -> Done<()> {
        answered(db.batch_execute("ROLLBACK")).await?;
        self.replica = Replica::register(db, &self.access).await?;
        self.shared.number.store(self.replica.number, Ordering::Relaxed);
        tracing::warn!(
            "this gateway was silent for so long that others took it for gone; it goes on with a chain of its own"
        );
        Ok(())
    }

    async fn commit(&mut self, mut work: Work) {
        let started = Instant::now();
        let count = work.len();
        match self.attempt(&mut work).await {
            Ok(made) => {
                self.wrote = Instant::now();
                self.last = (count, started.elapsed());
                self.count(count, started.elapsed());
                self.is_well();
                self.answer(work, made);
            }
            // Once more, one by one, so that the one that cannot be written does not take the others with it.
            Err(Failure::Refused(_) | Failure::Clash(_) | Failure::Corrupt(_) | Failure::Conflict(_))
                if count > 1 =>
            {
                for mut single in work.singles() {
                    if started.elapsed() > DEADLINE {
                        single.refuse(&Error::Busy);
                        continue;
                    }
                    match self.attempt(&mut single).await {
                        Ok(made) => self.answer(single, made),
                        Err(failure) => single.refuse(&failure.into()),
                    }
                }
            }
            Err(failure) => work.refuse(&failure.into()),
        }
    }

    /// Writes it all or nothing; what somebody else was in the way of is tried again.
    async fn attempt(&mut self, work: &mut Work) -> Done<Made> {
        let (mut tries, started) = (0, Instant::now());
        loop {
            tries += 1;
            let made = match timeout(DEADLINE, self.transaction(work)).await {
                Ok(made) => made,
                Err(_) => Err(Failure::silent()),
            };
            let Err(failure) = made else { return made };
            self.lost(&failure).await;
            match failure {
                Failure::Conflict(_) | Failure::Clash(_) if tries < TRIES && started.elapsed() < PATIENCE => {
                    sleep(Duration::from_millis(u64::from(tries * tries))).await;
                }
                // Nothing was written by whom others took for gone.
                Failure::Ended if tries < TRIES => {}
                failure => return Err(failure),
            }
        }
    }

    async fn transaction(&mut self, work: &mut Work) -> Done<Made> {
        self.connect().await?;
        let db = self.db.as_ref().ok_or_else(unconnected)?;
        let sealer = self.access.sealer.clone();
        let (mut world, needs, ours) = load::world(db, &self.replica, work.needs(), sealer).await?;
        if world.chain.is_new() {
            let since = i64::try_from(self.opened.elapsed().as_millis()).unwrap_or(0);
            world.open(self.access.now_ms + since).map_err(|error| Failure::Refused(error.to_string()))?;
        }
        let mut batch = Batch { db, world };
        let (mut admitted, closed) = work.write(&mut batch).await?;
        let world = batch.world;
        read::replies(db, &world, &mut admitted).await?;
        flush::commit(db, &self.replica, &world, &needs, &ours).await?;
        self.heard.kept_by_now()?;
        Ok(Made { admitted, closed, refusals: world.refusals })
    }

    fn answer(&self, work: Work, made: Made) {
        for (name, (repeat, at_ms)) in made.refusals {
            self.shared.refusals().note(name, repeat.action, at_ms);
        }
        for ((_, promise), admitted) in work.items.into_iter().zip(made.admitted) {
            drop(promise.send(Ok(admitted)));
        }
        for ((_, promise), closed) in work.closes.into_iter().zip(made.closed) {
            drop(promise.send(closed));
        }
        work.deeds.into_iter().for_each(|deed| deed.finish(Ok(())));
    }

    fn count(&self, writes: usize, time: Duration) {
        let counts = &self.shared.counts;
        counts.commits.fetch_add(1, Ordering::Relaxed);
        counts.writes.fetch_add(writes as u64, Ordering::Relaxed);
        counts.commit_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A connection that does not come back from the pool, which has no other, unless it turns out to be fit; one that nobody waits
/// for any longer is not.
struct Untried(Option<Object>);

impl Untried {
    fn fit(mut self) -> Option<Object> {
        self.0.take()
    }
}

impl Drop for Untried {
    fn drop(&mut self) {
        self.0.take().map(Object::take);
    }
}

impl Work {
    fn of(writes: impl Iterator<Item = Write>) -> Work {
        let mut work = Work::default();
        for write in writes {
            match write {
                Write::Enter(item, promise) => work.items.push((item, promise)),
                Write::Close(close, promise) => work.closes.push((close, promise)),
                Write::Deed(deed) => work.deeds.push(deed),
            }
        }
        work
    }

    fn len(&self) -> usize {
        self.items.len() + self.closes.len() + self.deeds.len()
    }

    fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        self.closes.iter().for_each(|(close, _)| needs.close(close));
        self.deeds.iter().for_each(|deed| needs.take(deed.needs()));
        self.items.iter().for_each(|(item, _)| needs.item(item));
        needs
    }

    /// Settlements first, because they may give back what admissions need; then what changes the rules; then admissions.
    /// Nobody can tell, since none of them has been answered yet.
    async fn write(&mut self, batch: &mut Batch<'_>) -> Done<(Vec<Admitted>, Vec<Result<i64, Error>>)> {
        let close = |batch: &mut Batch<'_>, close: &Close| told(batch.world.close(close));
        let closed = self.closes.iter().map(|(it, _)| close(batch, it)).collect::<Done<Vec<_>>>()?;
        for deed in &mut self.deeds {
            deed.run(batch).await?;
        }
        let mut admitted = Vec::with_capacity(self.items.len());
        for (item, _) in &self.items {
            let entered = told(batch.world.enter((**item).clone()))?;
            admitted.push(entered.map_err(|error| Failure::Refused(error.to_string()))?);
        }
        Ok((admitted, closed))
    }

    fn singles(self) -> Vec<Work> {
        let closes = self.closes.into_iter().map(|it| Work { closes: vec![it], ..Work::default() });
        let deeds = self.deeds.into_iter().map(|it| Work { deeds: vec![it], ..Work::default() });
        let items = self.items.into_iter().map(|it| Work { items: vec![it], ..Work::default() });
        closes.chain(deeds).chain(items).collect()
    }

    fn refuse(self, error: &Error) {
        for (_, promise) in self.items {
            drop(promise.send(Err(error.clone())));
        }
        for (_, promise) in self.closes {
            drop(promise.send(Err(error.clone())));
        }
        self.deeds.into_iter().for_each(|deed| deed.finish(Err(error.clone())));
    }
}

fn unconnected() -> Failure {
    Failure::Lost("there is no connection".to_owned())
}

/// An action among the rows of a batch.
pub(super) fn is_here(world: &World, id: ActionId) -> bool {
    world.ids.contains_key(&id)
}
