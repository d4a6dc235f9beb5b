//! The store of one machine: an SQLite file with one writer.
//!
//! ```text
//!   callers ──▶ Queue ──▶ Writer ── one transaction ──▶ Batch ── COMMIT ──▶ Hot, promises
//!      │                                                   ▲
//!      └── reads: Hot, else Filter ("certainly not"), else a reader's connection
//!                                         Housekeeping: log ──▶ database file, between two commits
//! ```

mod batch;
mod filter;
mod hot;
mod housekeeping;
mod open;
mod queue;
mod read;
mod verify;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};

use action::{ActionId, Subject, Tenant};
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use self::batch::{Batch, Close};
use self::filter::{Filter as Bloom, Kind};
use self::hot::Hot;
use self::housekeeping::Housekeeping;
use self::queue::{Job, Promise, Queue};
use self::read::{Slot, Sql};
use self::writer::Writer;
use crate::identity::{self, Claim};
use crate::stored::page;
use crate::{
    Admission, Admitted, Answer, ApiKey, Error, Event, Existing, Facts, FactsQuery, FailPoints, Figures,
    Filter, Freeze, Held, Ledger, Mandate, Page, Recorded, Refusal, Repeat, Revocation, Scope, Settled,
    Settlement, Stored, Verified,
};

/// Bigger pages halve what a random index costs when many rows are committed at once.
const PAGE_BYTES: u64 = 16 * 1024;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the chain that this process start opens.
    pub chain_id: Box<str>,
    /// When it starts, milliseconds since 1970, UTC.
    pub now_ms: i64,
    /// How many writes may wait; more are [`Error::Busy`].
    pub queue: usize,
    /// How many writes of a kind are committed together at most.
    pub batch: usize,
    /// Connections for reading.
    pub readers: usize,
    /// Memory of the filter that spares most look-ups of keys never seen.
    pub filter_bytes: usize,
    /// For tests: where writes may fail.
    pub fail_points: Option<Arc<dyn FailPoints>>,
}

impl Options {
    /// The usual bounds.
    #[must_use]
    pub fn new(chain_id: &str, now_ms: i64) -> Options {
        Options {
            chain_id: chain_id.into(),
            now_ms,
            queue: 16 * 1024,
            batch: 512,
            readers: 2,
            filter_bytes: 16 * 1024 * 1024,
            fail_points: None,
        }
    }
}

/// A ledger in one file. Dropping it writes what waits and ends its threads.
pub struct Sqlite {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub(crate) struct Shared {
    queue: Queue,
    hot: Mutex<Hot>,
    filter: Bloom,
    readers: Vec<Mutex<Connection>>,
    next_reader: AtomicUsize,
    /// Held by whoever commits or moves the end of the log.
    gate: Mutex<()>,
    housekeeping: Housekeeping,
    counts: Counts,
    path: PathBuf,
}

#[derive(Default)]
struct Counts {
    commits: AtomicU64,
    writes: AtomicU64,
    commit_us: AtomicU64,
}

impl Sqlite {
    /// Opens the store in this file, makes it if there is none, brings it up to date, and begins a chain. Who calls
    /// holds the directory's [`Lock`](crate::Lock).
    ///
    /// # Errors
    /// [`Error::Open`] if it cannot be opened or was made by a newer version, [`Error::Corrupt`] if its chain has no
    /// readable head.
    pub fn open(path: &Path, options: Options) -> Result<Sqlite, Error> {
        let db = open::writer(path)?;
        let tail = open::tail(&db, &options)?;
        let hot = open::hot(&db, &tail).map_err(open::cannot)?;
        let readers = (0..options.readers.max(1))
            .map(|_| open::reader(path).map(Mutex::new))
            .collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared {
            queue: Queue::new(options.queue),
            hot: Mutex::new(hot),
            filter: Bloom::new(options.filter_bytes),
            readers,
            next_reader: AtomicUsize::new(0),
            gate: Mutex::new(()),
            housekeeping: Housekeeping::default(),
            counts: Counts::default(),
            path: path.to_owned(),
        });
        let writer = Writer {
            db,
            shared: shared.clone(),
            tail,
            fail_points: options.fail_points.clone(),
            most: options.batch.max(1),
        };
        let keeper = (open::reader(path)?, shared.clone());
        let mut sqlite = Sqlite { shared, threads: Vec::new() };
        sqlite.start("ledger-writer", move || writer.run())?;
        sqlite.start("ledger-log", move || housekeeping::run(&keeper.0, &keeper.1))?;
        sqlite.open_chain(options.now_ms)?;
        Ok(sqlite)
    }

    fn start(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(|error| Error::Open(error.to_string().into()))?);
        Ok(())
    }

    /// The first entry of this process, which also shows that the store can be written.
    fn open_chain(&self, now_ms: i64) -> Result<(), Error> {
        let opened = self
            .promise(move |batch| batch.append(now_ms, None, &crate::entry::opening(), None, None).map(Ok))?;
        opened.blocking_recv().map_err(|_| gone())?.map(drop)
    }

    /// Queues a rare write.
    fn promise<T: Send + 'static>(
        &self,
        deed: impl FnMut(&mut Batch<'_>) -> Sql<Result<T, Error>> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        let (promise, answer) = oneshot::channel();
        self.shared.queue.job(Box::new(Deed { deed, made: None, promise }))?;
        Ok(answer)
    }

    fn perform<'a, T: Send + 'static>(
        &'a self,
        deed: impl FnMut(&mut Batch<'_>) -> Sql<Result<T, Error>> + Send + 'static,
    ) -> Answer<'a, T> {
        let answer = self.promise(deed);
        Box::pin(async move { answer?.await.map_err(|_| gone())? })
    }

    /// Looks something up. It takes microseconds, so it is done where it is asked.
    fn look<'a, T: Send + 'a>(
        &'a self,
        read: impl FnOnce(&Connection) -> Sql<T> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move { self.shared.read(read) })
    }

    fn close(&self, settlement: Settlement, amends: bool) -> Answer<'_, i64> {
        let digests = settlement.outcome.digests();
        let close = Close { settlement, digests, amends };
        Box::pin(async move { self.shared.queue.close(close)?.await.map_err(|_| gone())? })
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.shared.queue.end();
        self.shared.housekeeping.end();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn hot(&self) -> MutexGuard<'_, Hot> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One read transaction on a connection that nobody else uses now.
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Sql<T>) -> Result<T, Error> {
        let first = self.next_reader.fetch_add(1, Ordering::Relaxed);
        let count = self.readers.len();
        let free = (0..count).find_map(|offset| match self.readers[(first + offset) % count].try_lock() {
            Ok(reader) => Some(reader),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        });
        let db = free
            .unwrap_or_else(|| self.readers[first % count].lock().unwrap_or_else(PoisonError::into_inner));
        let transaction = db.unchecked_transaction().map_err(unreadable)?;
        read(&transaction).map_err(unreadable)
    }

    /// Was this destination had before?
    fn seen(&self, db: &Connection, mark: i64) -> Sql<bool> {
        if self.hot().seen.get(&mark).is_some() {
            return Ok(true);
        }
        Ok(self.filter.may_hold(Kind::Seen, mark) && read::seen(db, mark)?)
    }

    fn existing(&self, query: &FactsQuery<'_>) -> Result<Option<Existing>, Error> {
        let FactsQuery { tenant, environment, subject, key: Some(key), request_hash, .. } = *query else {
            return Ok(None);
        };
        let claim = Claim::new(tenant, environment, subject, key);
        if !self.filter.may_hold(Kind::Slot, claim.slot()) {
            return Ok(None);
        }
        self.read(|db| match read::slot(db, &claim, (tenant, environment, subject, key))? {
            Slot::Free(_) => Ok(None),
            Slot::Taken(claimed) => Ok(Some(Existing {
                id: claimed.id,
                same_request: claimed.request_hash == *request_hash,
                state: claimed.state,
                at_ms: claimed.at_ms,
                reply: read::last_reply(db, claimed.id)?,
            })),
        })
    }

    fn facts(&self, query: &FactsQuery<'_>) -> Result<Facts, Error> {
        if let Some(existing) = self.existing(query)? {
            return Ok(Facts { existing: Some(existing), ..Facts::default() });
        }
        let FactsQuery { tenant, principal, archetype, .. } = *query;
        let mut known = self.known(query);
        for (jti, account) in query.mandates.iter().zip(&mut known.accounts) {
            if account.is_none() {
                let key = identity::account(tenant, jti);
                *account = self.read(|db| read::account(db, key, jti))?;
            }
        }
        let series = match known.series {
            Some(series) => series,
            None => {
                let key = identity::series(tenant, principal, archetype, query.currency.unwrap_or(""));
                Arc::new(self.read(|db| batch::stored_series(db, key))?)
            }
        };
        let mark = query.destination.map(|to| identity::seen(tenant, principal, archetype, to));
        let first_seen = match mark {
            Some(mark) if !known.seen && self.filter.may_hold(Kind::Seen, mark) => {
                !self.read(|db| read::seen(db, mark))?
            }
            Some(_) => !known.seen,
            None => false,
        };
        let earlier = match query.effect {
            Some(effect) if self.filter.may_hold(Kind::Effect, identity::tag(&effect.hash)) => {
                self.read(|db| read::effect(db, &effect.hash, query.now_ms - effect.window_ms))?
            }
            _ => None,
        };
        let fresh = |(account, jti): (Option<mandate::Account>, &Arc<str>)| {
            account.unwrap_or_else(|| mandate::Account::new(&**jti))
        };
        let accounts = known.accounts.into_iter().zip(query.mandates).map(fresh).collect();
        Ok(Facts { existing: None, accounts, frozen: known.frozen, series, first_seen, earlier })
    }

    /// What memory alone knows, under one lock.
    fn known(&self, query: &FactsQuery<'_>) -> Known {
        let FactsQuery { tenant, subject, archetype, provider, principal, .. } = *query;
        let series = identity::series(tenant, principal, archetype, query.currency.unwrap_or(""));
        let mark = query.destination.map(|to| identity::seen(tenant, principal, archetype, to));
        let accounts: Vec<_> = query.mandates.iter().map(|jti| identity::account(tenant, jti)).collect();
        let mut hot = self.hot();
        let covers = |freeze: &&Freeze| freeze.scope.covers(tenant, subject, archetype, provider);
        Known {
            accounts: accounts.iter().map(|key| hot.accounts.get(key)).collect(),
            series: hot.series(series),
            seen: mark.is_some_and(|mark| hot.seen.get(&mark).is_some()),
            frozen: hot.freezes.iter().find(covers).cloned(),
        }
    }
}

struct Known {
    accounts: Vec<Option<mandate::Account>>,
    series: Option<Arc<boundary::Series>>,
    seen: bool,
    frozen: Option<Freeze>,
}

impl Ledger for Sqlite {
    fn facts<'a>(&'a self, query: FactsQuery<'a>) -> Answer<'a, Facts> {
        Box::pin(async move { self.shared.facts(&query) })
    }

    fn admit(&self, admission: Admission) -> Answer<'_, Admitted> {
        let item = admission.into();
        Box::pin(async move { self.shared.queue.enter(item)?.await.map_err(|_| gone())? })
    }

    fn refuse(&self, refusal: Refusal) -> Answer<'_, Recorded> {
        let item = refusal.into();
        Box::pin(async move {
            match self.shared.queue.enter(item)?.await.map_err(|_| gone())?? {
                Admitted::New { entry } => Ok(Recorded::New { entry }),
                Admitted::Existing(existing) => Ok(Recorded::Existing(existing)),
                Admitted::Refused(_) => Err(Error::Rejected("a refusal met an obstacle".into())),
            }
        })
    }

    fn settle(&self, settlement: Settlement) -> Answer<'_, i64> {
        self.close(settlement, false)
    }

    fn amend(&self, settlement: Settlement) -> Answer<'_, i64> {
        self.close(settlement, true)
    }

    fn repeated<'a>(
        &'a self,
        tenant: &'a Tenant,
        subject: &'a Subject,
        code: &'static str,
        request_hash: &'a [u8; 32],
        now_ms: i64,
    ) -> Answer<'a, Option<Repeat>> {
        let name = identity::refusal(tenant, subject, code, request_hash);
        Box::pin(async move { Ok(self.shared.hot().refusals.repeated(&name, now_ms)) })
    }

    fn action<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Stored>> {
        self.look(move |db| read::action(db, tenant, id))
    }

    fn outcomes<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Settled>> {
        self.look(move |db| read::outcomes(db, tenant, id))
    }

    fn receipt<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Settled>> {
        self.look(move |db| read::receipt(db, tenant, id))
    }

    fn address<'a>(&'a self, address: &'a str) -> Answer<'a, Option<Settled>> {
        self.look(move |db| read::address(db, address))
    }

    fn actions<'a>(
        &'a self,
        tenant: &'a Tenant,
        filter: Filter,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>> {
        self.look(move |db| {
            Ok(page(read::actions(db, tenant, &filter, after, limit)?, limit, |stored| stored.row))
        })
    }

    fn unsettled(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.look(move |db| {
            Ok(page(read::unsettled(db, after.unwrap_or(0), limit)?, limit, |stored| stored.row))
        })
    }

    fn expired(&self, now_ms: i64, limit: u32) -> Answer<'_, Vec<Stored>> {
        self.look(move |db| read::expired(db, now_ms, limit))
    }

    fn issue(&self, mandate: Mandate, event: Event) -> Answer<'_, i64> {
        self.perform(move |batch| {
            let Mandate { tenant, jti, subject, issuer, issued_ms, expires_ms, claims } = &mandate;
            let sql = "INSERT INTO mandate (tenant, jti, account, subject, issuer, issued, expires, claims)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING";
            let account = identity::account(tenant, jti);
            let (tenant, subject) = (tenant.as_str(), subject.as_str());
            let values = params![tenant, jti, account, subject, issuer, issued_ms, expires_ms, claims];
            match batch.db.prepare_cached(sql)?.execute(values)? {
                0 => Ok(Err(Error::Exists(jti.clone()))),
                _ => batch.event(&event).map(Ok),
            }
        })
    }

    fn mandate<'a>(&'a self, tenant: &'a Tenant, jti: &'a str) -> Answer<'a, Option<Held>> {
        self.look(move |db| read::mandate(db, tenant, jti))
    }

    fn mandates<'a>(&'a self, tenant: &'a Tenant, after: Option<i64>, limit: u32) -> Answer<'a, Page<Held>> {
        self.look(move |db| {
            let Page { rows, next } = page(read::mandates(db, tenant, after, limit)?, limit, |(row, _)| *row);
            Ok(Page { rows: rows.into_iter().map(|(_, held)| held).collect(), next })
        })
    }

    fn revoke<'a>(&'a self, tenant: &'a Tenant, jti: &'a str, event: Event) -> Answer<'a, Revocation> {
        let (tenant, jti): (Tenant, Box<str>) = (tenant.clone(), jti.into());
        self.perform(move |batch| {
            let key = identity::account(&tenant, &jti);
            batch.account(key, &jti)?;
            let cell = batch.rows.account(key, &jti);
            let first = cell.value.revoked_at.is_none();
            let account = cell.value.revoke(event.at_ms);
            let at_ms = account.revoked_at.unwrap_or(event.at_ms);
            if first {
                cell.set(account);
                batch.event(&event)?;
            }
            Ok(Ok(Revocation { at_ms, unsettled: read::open_under(batch.db, &tenant, &jti)? }))
        })
    }

    fn freeze(&self, freeze: Freeze, event: Event) -> Answer<'_, i64> {
        self.perform(move |batch| {
            let (kind, tenant, name) = read::scope_key(&freeze.scope);
            let Freeze { include_rollback, at_ms, by, reason, .. } = &freeze;
            let sql = "INSERT OR REPLACE INTO freeze VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let values = params![kind, tenant, name, include_rollback, at_ms, by, reason];
            batch.db.prepare_cached(sql)?.execute(values)?;
            batch.put_freezes(read::freezes(batch.db)?);
            batch.event(&event).map(Ok)
        })
    }

    fn thaw(&self, scope: Scope, event: Event) -> Answer<'_, i64> {
        self.perform(move |batch| {
            let (kind, tenant, name) = read::scope_key(&scope);
            let sql = "DELETE FROM freeze WHERE kind = ?1 AND tenant = ?2 AND name = ?3";
            if batch.db.prepare_cached(sql)?.execute([kind, tenant, name])? == 0 {
                return Ok(Err(Error::Absent(scope.to_string().into())));
            }
            batch.put_freezes(read::freezes(batch.db)?);
            batch.event(&event).map(Ok)
        })
    }

    fn freezes(&self) -> Answer<'_, Arc<Vec<Freeze>>> {
        Box::pin(async move { Ok(self.shared.hot().freezes.clone()) })
    }

    fn add_key(&self, key: ApiKey, event: Event) -> Answer<'_, i64> {
        self.perform(move |batch| {
            let ApiKey { hash, id, tenant, subject, role, default_mandate, created_ms, revoked_ms } = &key;
            let sql =
                "INSERT INTO api_key (hash, id, tenant, subject, role, default_mandate, created, revoked)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING";
            let (tenant, subject) = (tenant.as_str(), subject.as_str());
            let values = params![hash, id, tenant, subject, role, default_mandate, created_ms, revoked_ms];
            if batch.db.prepare_cached(sql)?.execute(values)? == 0 {
                return Ok(Err(Error::Exists(id.clone())));
            }
            batch.put_key(key.clone());
            batch.event(&event).map(Ok)
        })
    }

    fn key<'a>(&'a self, hash: &'a [u8; 32]) -> Answer<'a, Option<Arc<ApiKey>>> {
        Box::pin(async move { Ok(self.shared.hot().keys.get(hash).cloned()) })
    }

    fn keys<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<ApiKey>> {
        self.look(move |db| read::keys(db, Some(tenant)))
    }

    fn revoke_key<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        let (tenant, id): (Tenant, Box<str>) = (tenant.clone(), id.into());
        self.perform(move |batch| {
            let sql = "UPDATE api_key SET revoked = ?3 WHERE tenant = ?1 AND id = ?2 AND revoked IS NULL";
            let values = params![tenant.as_str(), id, event.at_ms];
            if batch.db.prepare_cached(sql)?.execute(values)? == 0 {
                return Ok(Err(Error::Absent(id.clone())));
            }
            let revoked = read::keys(batch.db, Some(&tenant))?.into_iter().find(|key| key.id == id);
            revoked.into_iter().for_each(|key| batch.put_key(key));
            batch.event(&event).map(Ok)
        })
    }

    fn record(&self, event: Event) -> Answer<'_, i64> {
        self.perform(move |batch| batch.event(&event).map(Ok))
    }

    fn tenant_key<'a>(&'a self, tenant: &'a Tenant, offered: Option<Vec<u8>>) -> Answer<'a, Option<Vec<u8>>> {
        let Some(offered) = offered else { return self.look(move |db| read::tenant_key(db, tenant)) };
        let tenant = tenant.clone();
        self.perform(move |batch| {
            let sql = "INSERT INTO tenant_key VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            batch.db.prepare_cached(sql)?.execute(params![tenant.as_str(), offered])?;
            read::tenant_key(batch.db, &tenant).map(Ok)
        })
    }

    fn keep<'a>(&'a self, digest: &'a str, text: Vec<u8>) -> Answer<'a, ()> {
        let digest: Box<str> = digest.into();
        self.perform(move |batch| {
            let sql = "INSERT INTO kept VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            batch.db.prepare_cached(sql)?.execute(params![digest, text])?;
            Ok(Ok(()))
        })
    }

    fn kept<'a>(&'a self, digest: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.look(move |db| read::kept(db, digest))
    }

    fn entries(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<(i64, Vec<u8>)>> {
        self.look(move |db| Ok(page(read::entries(db, after.unwrap_or(0), limit)?, limit, |(row, _)| *row)))
    }

    fn verify(&self) -> Answer<'_, Verified> {
        let (promise, answer) = oneshot::channel();
        let path = self.shared.path.clone();
        // It may take long, so it gets a thread and a connection of its own.
        let started = thread::Builder::new().name("ledger-verify".to_owned()).spawn(move || {
            drop(promise.send(open::reader(&path).and_then(|db| verify::all(&db))));
        });
        Box::pin(async move {
            started.map_err(|error| Error::Open(error.to_string().into()))?;
            answer.await.map_err(|_| gone())?
        })
    }

    fn health(&self) -> Result<(), Error> {
        self.shared.queue.failed().map_or(Ok(()), |why| Err(Error::Unavailable(why)))
    }

    fn figures(&self) -> Figures {
        let Counts { commits, writes, commit_us } = &self.shared.counts;
        Figures {
            waiting: self.shared.queue.waiting() as u64,
            commits: commits.load(Ordering::Relaxed),
            writes: writes.load(Ordering::Relaxed),
            commit_us: commit_us.load(Ordering::Relaxed),
            log_bytes: self.shared.housekeeping.log_pages.load(Ordering::Relaxed) * PAGE_BYTES,
        }
    }
}

/// A rare write and where its answer goes.
struct Deed<T, F> {
    deed: F,
    made: Option<Result<T, Error>>,
    promise: Promise<T>,
}

impl<T, F> Job for Deed<T, F>
where
    T: Send,
    F: FnMut(&mut Batch<'_>) -> Sql<Result<T, Error>> + Send,
{
    fn run(&mut self, batch: &mut Batch<'_>) -> Sql<()> {
        self.made = Some((self.deed)(batch)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), Error>) {
        let Deed { made, promise, .. } = *self;
        drop(promise.send(outcome.and_then(|()| made.unwrap_or_else(|| Err(gone())))));
    }
}

fn unreadable(error: rusqlite::Error) -> Error {
    Error::Corrupt(error.to_string().into())
}

fn gone() -> Error {
    Error::Unavailable("it was closed before it answered".into())
}
