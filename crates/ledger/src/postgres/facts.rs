//! What the judge is told of the past, for all at once who ask at once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use action::{ActionId, Subject, Tenant};
use boundary::Series;
use deadpool_postgres::Object;
use mandate::Account;
use tokio::join;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use tokio_postgres::Row;

use super::load::account_at;
use super::read::last_replies;
use super::sql::{Db, Done, Failure, Values, bytes, get, id, many, state, tenant};
use super::writer::Promise;
use super::{Shared, rules};
use crate::identity::{self, Claim};
use crate::{ApiKey, Earlier, Effect, Error, Existing, Facts, FactsQuery, Freeze};

/// What the judge is told of the past.
pub(super) struct Question {
    pub(super) tenant: Tenant,
    pub(super) subject: Subject,
    pub(super) archetype: Box<str>,
    pub(super) provider: Option<Box<str>>,
    claim: Option<Claim>,
    request_hash: [u8; 32],
    mandates: Vec<Arc<str>>,
    series: i64,
    seen: Option<i64>,
    effect: Option<Effect>,
    apart_from: Option<ActionId>,
    now_ms: i64,
}

impl Question {
    pub(super) fn of(query: &FactsQuery<'_>) -> Question {
        let FactsQuery { tenant, environment, subject, archetype, principal, .. } = *query;
        let currency = query.currency.unwrap_or("");
        Question {
            tenant: tenant.clone(),
            subject: subject.clone(),
            archetype: archetype.into(),
            provider: query.provider.map(Box::from),
            claim: query.key.map(|key| Claim::new(tenant, environment, subject, key)),
            request_hash: *query.request_hash,
            mandates: query.mandates.to_vec(),
            series: identity::series(tenant, principal, archetype, currency),
            seen: query.destination.map(|to| identity::seen(tenant, principal, archetype, to)),
            effect: query.effect.copied(),
            apart_from: query.apart_from,
            now_ms: query.now_ms,
        }
    }
}

/// A question, and where its answer goes.
pub(super) enum Asked {
    Facts(Box<Question>, Promise<Facts>),
    /// The credential with this hash that is not revoked.
    Key([u8; 32], Promise<Option<Arc<ApiKey>>>),
}

/// A question, and since when it waits.
pub(super) struct Waiting {
    asked: Asked,
    since: Instant,
}

impl Waiting {
    pub(super) fn new(asked: Asked) -> Waiting {
        Waiting { asked, since: Instant::now() }
    }

    /// The question, unless nobody waits for it any more, or it has waited for so long that the database is silent: then whoever asked
    /// is told so at once. Each that is looked up meanwhile keeps a place for as long as a silent database is waited for, and there
    /// may be thousands in line.
    fn in_time(self, patience: Duration) -> Option<Asked> {
        if self.since.elapsed() > patience {
            self.asked.refuse(Failure::silent());
            return None;
        }
        self.asked.is_awaited().then_some(self.asked)
    }
}

impl Asked {
    fn refuse(self, failure: Failure) {
        match self {
            Asked::Facts(_, promise) => drop(promise.send(Err(failure.into()))),
            Asked::Key(_, promise) => drop(promise.send(Err(failure.into()))),
        }
    }

    fn is_awaited(&self) -> bool {
        match self {
            Asked::Facts(_, promise) => !promise.is_closed(),
            Asked::Key(_, promise) => !promise.is_closed(),
        }
    }
}

/// Answers questions, together those that wait while others are looked up: each costs the database a fraction of what it would
/// alone.
pub(super) async fn answer(shared: Arc<Shared>, mut asked: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let (mut taken, mut last) = (Vec::new(), 0);
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        if asked.recv_many(&mut taken, TOGETHER).await == 0 {
            return;
        }
        // Where many asked at once the last time more are on their way; whoever asks alone waits for nobody.
        if last >= CROWD && taken.len() < last && shared.gathers() {
            sleep(GATHERED).await;
            while taken.len() < TOGETHER
                && let Ok(more) = asked.try_recv()
            {
                taken.push(more);
            }
        }
        last = taken.len();
        let together: Vec<Asked> = taken.drain(..).filter_map(|it| it.in_time(PATIENCE)).collect();
        if together.is_empty() {
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            answer_all(&shared, together).await;
            drop(place);
        });
    }
}

/// How many times at once is looked up, and for how many questions at most.
pub(super) const AT_ONCE: usize = 2;
const TOGETHER: usize = 128;
/// So many questions are worth waiting for, where they came at once, and so long.
const CROWD: usize = 3;
const GATHERED: Duration = Duration::from_millis(1);
/// The longest that a question waits for others to be looked up.
const PATIENCE: Duration = Duration::from_secs(5);

async fn answer_all(shared: &Shared, asked: Vec<Asked>) {
    let (mut questions, mut promises, mut hashes, mut keys) = (vec![], vec![], vec![], vec![]);
    for asked in asked {
        match asked {
            Asked::Facts(question, promise) => {
                questions.push(*question);
                promises.push(promise);
            }
            Asked::Key(hash, promise) => {
                hashes.push(hash);
                keys.push(promise);
            }
        }
    }
    let (facts, found) = look_up(shared, &questions, &hashes).await;
    for (hash, promise) in hashes.iter().zip(keys) {
        let key = found.as_ref().map(|found| found.get(hash).cloned());
        drop(promise.send(key.map_err(|failure| failure.clone().into())));
    }
    match facts {
        Ok(facts) => {
            for (promise, facts) in promises.into_iter().zip(facts) {
                drop(promise.send(Ok(facts)));
            }
        }
        // One by one, so that a row that cannot be read keeps nobody from the others.
        Err(Failure::Corrupt(_)) if questions.len() > 1 => {
            for (question, promise) in questions.iter().zip(promises) {
                let (found, _) = look_up(shared, std::slice::from_ref(question), &[]).await;
                let facts = found.map(|mut facts| facts.pop().unwrap_or_default());
                drop(promise.send(facts.map_err(Error::from)));
            }
        }
        Err(failure) => {
            for promise in promises {
                drop(promise.send(Err(failure.clone().into())));
            }
        }
    }
}

type Keys = HashMap<[u8; 32], Arc<ApiKey>>;

async fn look_up(
    shared: &Shared,
    questions: &[Question],
    hashes: &[[u8; 32]],
) -> (Done<Vec<Facts>>, Done<Keys>) {
    let db = match shared.judging.get().await.map_err(Failure::from) {
        Ok(db) => db,
        Err(failure) => return (Err(failure.clone()), Err(failure)),
    };
    let (keys, facts) = join!(keys(&db, hashes), facts(&db, questions));
    let lost = keys.as_ref().err().into_iter().chain(facts.as_ref().err());
    if let Some(failure) = lost.into_iter().find(|it| matches!(it, Failure::Lost(_))) {
        shared.note(failure);
        drop(Object::take(db));
    }
    (facts, keys)
}

async fn keys(db: &Db, hashes: &[[u8; 32]]) -> Done<Keys> {
    if hashes.is_empty() {
        return Ok(Keys::new());
    }
    let found = rules::keys_of(db, hashes).await?;
    Ok(found.into_iter().map(|key| (key.hash, Arc::new(key))).collect())
}

/// What is needed of whoever asks, in two statements that are answered together; each costs the database more than what it finds.
async fn facts(db: &Db, questions: &[Question]) -> Done<Vec<Facts>> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let (past, accounts) = join!(past(db, questions), accounts(db, questions));
    let (past, accounts) = (past?, accounts?);
    // There is hardly ever one of these, and a look whether there is costs less than to look for it.
    let mut existing = if past.claimed { existing(db, questions).await? } else { HashMap::new() };
    let mut earlier = if past.touched { earlier(db, questions).await? } else { HashMap::new() };
    let stops = if past.stopped { rules::stops(rules::freezes(db).await?) } else { Vec::new() };
    let fact = |(at, question): (usize, &Question)| {
        if let Some(existing) = existing.remove(&at) {
            return Facts { existing: Some(existing), ..Facts::default() };
        }
        let Question { tenant, subject, archetype, provider, series, seen, .. } = question;
        let covers = |freeze: &&Freeze| freeze.scope.covers(tenant, subject, archetype, provider.as_deref());
        let account = |jti: &Arc<str>| {
            let found = accounts.get(&(tenant.clone(), identity::account(tenant, jti))).cloned();
            found.unwrap_or_else(|| Account::new(&**jti))
        };
        Facts {
            existing: None,
            accounts: question.mandates.iter().map(account).collect(),
            frozen: stops.iter().find(covers).cloned(),
            series: past.series.get(&(tenant.as_str(), *series)).cloned().unwrap_or_default(),
            first_seen: seen.is_some_and(|mark| !past.seen.contains(&(tenant.as_str(), mark))),
            earlier: earlier.remove(&at),
            observed_ms: Some(past.observed.get(tenant).copied().unwrap_or(0)),
        }
    };
    Ok(questions.iter().enumerate().map(fact).collect())
}

/// What was there before some questions.
#[derive(Default)]
struct Past<'a> {
    /// A key of one of them was claimed.
    claimed: bool,
    series: HashMap<(&'a str, i64), Arc<Series>>,
    seen: HashSet<(&'a str, i64)>,
    /// Something of late had an effect that is asked about.
    touched: bool,
    observed: HashMap<Tenant, i64>,
    /// Something is frozen.
    stopped: bool,
}

const CLAIMED: i16 = 1;
const SERIES: i16 = 2;
const SEEN: i16 = 3;
const TOUCHED: i16 = 4;
const OBSERVED: i16 = 5;
const STOPPED: i16 = 6;

/// Rows of every kind, each with the place of what it is about among what was asked for, from one. Each is looked for by itself
/// (`OFFSET 0`, or `LIMIT 1` where one tells): a plan that is made while there are few rows would join whole tables, and go on doing
/// so when there are many.
const PAST: &str = "
    SELECT 1::smallint, w.place, NULL::bytea, NULL::bigint
    FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY w (tenant, digest, place)
    CROSS JOIN LATERAL (SELECT FROM claim c WHERE c.tenant = w.tenant AND c.digest = w.digest OFFSET 0) c
    UNION ALL
    SELECT 2::smallint, w.place, s.bytes, NULL FROM unnest($5::text[], $6::bigint[]) WITH ORDINALITY w (tenant, key, place)
    CROSS JOIN LATERAL (SELECT s.bytes FROM series s WHERE s.tenant = w.tenant AND s.key = w.key OFFSET 0) s
    UNION ALL
    SELECT 3::smallint, w.place, NULL, NULL FROM unnest($7::text[], $8::bigint[]) WITH ORDINALITY w (tenant, mark, place)
    CROSS JOIN LATERAL (SELECT FROM seen s WHERE s.tenant = w.tenant AND s.mark = w.mark OFFSET 0) s
    UNION ALL
    SELECT 4::smallint, w.place, NULL, NULL
    FROM unnest($1::text[], $3::bytea[], $4::bigint[]) WITH ORDINALITY w (tenant, hash, since, place)
    CROSS JOIN LATERAL (SELECT FROM action a WHERE a.tenant = w.tenant AND a.effect = w.hash AND a.claimed > w.since LIMIT 1) a
    UNION ALL
    SELECT 5::smallint, 0, convert_to(tenant, 'UTF8'), until FROM observed
    UNION ALL
    SELECT 6::smallint, 0, NULL, NULL WHERE EXISTS (SELECT FROM stop)";

async fn past<'a>(db: &Db, questions: &'a [Question]) -> Done<Past<'a>> {
    let digests: Vec<Option<&[u8]>> =
        questions.iter().map(|it| it.claim.as_ref().map(|claim| &claim.bytes()[..])).collect();
    let (hashes, since) = effects(questions);
    // Many questions have the same ones.
    let series = distinct(questions, |it| Some(it.series));
    let marks = distinct(questions, |it| it.seen);
    let tenants = tenants(questions);
    let values: Values<'_> = &[&tenants, &digests, &hashes, &since, &series.0, &series.1, &marks.0, &marks.1];
    let mut past = Past::default();
    for row in many(db, PAST, values).await? {
        let at = place(&row)?;
        match get::<i16>(&row, 0)? {
            CLAIMED => past.claimed = true,
            SERIES => {
                // An unreadable one begins anew, which can only make the judge more careful.
                let found = Series::from_bytes(get(&row, 2)?).unwrap_or_default();
                past.series.extend(key_at(&series, at).map(|key| (key, Arc::new(found))));
            }
            SEEN => past.seen.extend(key_at(&marks, at)),
            TOUCHED => past.touched = true,
            OBSERVED => {
                let name = std::str::from_utf8(get(&row, 2)?).ok();
                let tenant = name.and_then(|name| Tenant::parse(name).ok());
                let tenant = tenant.ok_or_else(|| Failure::Corrupt(UNKNOWN_TENANT.to_owned()))?;
                past.observed.insert(tenant, get(&row, 3)?);
            }
            STOPPED => past.stopped = true,
            other => return Err(Failure::Corrupt(format!("a row of kind {other} was not asked for"))),
        }
    }
    Ok(past)
}

const UNKNOWN_TENANT: &str = "column `tenant` of `observed` holds no value of its kind";

/// Tenants and keys of some questions, each pair once.
fn distinct(questions: &[Question], key: impl Fn(&Question) -> Option<i64>) -> (Vec<&str>, Vec<i64>) {
    let keys = questions.iter().filter_map(|it| Some((it.tenant.as_str(), key(it)?)));
    keys.collect::<BTreeSet<_>>().into_iter().unzip()
}

fn key_at<'a>(keys: &(Vec<&'a str>, Vec<i64>), at: usize) -> Option<(&'a str, i64)> {
    Some((*keys.0.get(at)?, *keys.1.get(at)?))
}

/// What a row is about; places are numbered from one.
fn place(row: &Row) -> Done<usize> {
    Ok(usize::try_from(get::<i64>(row, 1)?).unwrap_or_default().wrapping_sub(1))
}

fn tenants(questions: &[Question]) -> Vec<&str> {
    questions.iter().map(|question| question.tenant.as_str()).collect()
}

async fn existing(db: &Db, questions: &[Question]) -> Done<HashMap<usize, Existing>> {
    let sql = "SELECT c.action, w.place, a.request_hash, f.state, a.at
               FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY w (tenant, digest, place)
               CROSS JOIN LATERAL (SELECT c.action FROM claim c WHERE c.tenant = w.tenant AND c.digest = w.digest OFFSET 0) c
               CROSS JOIN LATERAL (SELECT a.tenant, a.request_hash, a.at FROM action a WHERE a.id = c.action OFFSET 0) a
               CROSS JOIN LATERAL (SELECT f.state FROM fate f WHERE f.id = c.action OFFSET 0) f
               WHERE a.tenant = w.tenant";
    let digests: Vec<Option<&[u8]>> =
        questions.iter().map(|it| it.claim.as_ref().map(|claim| &claim.bytes()[..])).collect();
    let mut found = HashMap::new();
    let rows = many(db, sql, &[&tenants(questions), &digests]).await?;
    let actions = rows.iter().map(|row| id(row, 0)).collect::<Done<Vec<_>>>()?;
    let told = last_replies(db, &actions).await?;
    for row in rows {
        let (at, action) = (place(&row)?, id(&row, 0)?);
        let Some(question) = questions.get(at) else { continue };
        let (reply, altered) = told.get(&action).cloned().unwrap_or_default();
        let same_request = bytes(&row, 2)? == question.request_hash;
        let (state, at_ms) = (state(&row, 3)?, get(&row, 4)?);
        found.insert(at, Existing { id: action, same_request, state, at_ms, reply, altered });
    }
    Ok(found)
}

const ACCOUNT: &str = "SELECT a.tenant, a.key, a.jti, a.epoch, a.spent, a.actions, a.revoked, a.frozen, a.seconds, a.compute,
    a.memory, a.storage, a.egress, a.granted, a.granted_compute, a.granted_storage, a.granted_egress
    FROM unnest($1::text[], $2::bigint[]) w (tenant, key) JOIN account a ON a.tenant = w.tenant AND a.key = w.key";

async fn accounts(db: &Db, questions: &[Question]) -> Done<HashMap<(Tenant, i64), Account>> {
    let all = questions.iter().flat_map(|Question { tenant, mandates, .. }| {
        mandates.iter().map(move |jti| (tenant.as_str(), identity::account(tenant, jti)))
    });
    let (tenants, keys): (Vec<&str>, Vec<i64>) = all.collect::<BTreeSet<_>>().into_iter().unzip();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = many(db, ACCOUNT, &[&tenants, &keys]).await?;
    rows.iter().map(|row| Ok(((tenant(row, 0)?, get(row, 1)?), account_at(row, 2)?))).collect()
}

async fn earlier(db: &Db, questions: &[Question]) -> Done<HashMap<usize, Earlier>> {
    let sql = "SELECT e.id, w.place, e.claimed
        FROM unnest($1::text[], $2::bytea[], $3::bigint[], $4::bytea[]) WITH ORDINALITY w (tenant, hash, since, apart, place)
        CROSS JOIN LATERAL (SELECT a.id, a.claimed FROM action a JOIN fate f ON f.id = a.id
            WHERE a.tenant = w.tenant AND a.effect = w.hash AND a.claimed > w.since AND f.state NOT IN (5, 6, 7)
            AND (w.apart IS NULL OR a.id <> w.apart) ORDER BY a.claimed DESC, a.row DESC LIMIT 1) e";
    let (hashes, since) = effects(questions);
    let apart: Vec<Option<&[u8]>> =
        questions.iter().map(|it| it.apart_from.as_ref().map(|id| &id.as_bytes()[..])).collect();
    let rows = many(db, sql, &[&tenants(questions), &hashes, &since, &apart]).await?;
    let read = |row: &Row| Ok((place(row)?, Earlier { id: id(row, 0)?, at_ms: get(row, 2)? }));
    rows.iter().map(read).collect()
}

/// Effects, each with since when what had it counts.
fn effects(questions: &[Question]) -> (Vec<Option<&[u8]>>, Vec<i64>) {
    let since = |it: &Question| it.now_ms.saturating_sub(it.effect.as_ref().map_or(0, |it| it.window_ms));
    questions.iter().map(|it| (it.effect.as_ref().map(|effect| &effect.hash[..]), since(it))).unzip()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_has_waited_for_too_long_hears_so_and_is_not_looked_up() {
        let asked = || {
            let (promise, answer) = tokio::sync::oneshot::channel();
            (Waiting::new(Asked::Key([0; 32], promise)), answer)
        };
        let (waiting, mut answer) = asked();
        assert!(waiting.in_time(Duration::MAX).is_some() && answer.try_recv().is_err());
        let (waiting, mut answer) = asked();
        assert!(waiting.in_time(Duration::ZERO).is_none());
        assert!(matches!(answer.try_recv().unwrap(), Err(Error::Unavailable(_))));
        let (waiting, answer) = asked();
        drop(answer);
        assert!(waiting.in_time(Duration::MAX).is_none());
    }
}
