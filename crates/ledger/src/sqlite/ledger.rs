//! The [`Ledger`] of one file: every question and every write, each in a few lines.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use action::{ActionId, Subject, Tenant};
use mandate::Account;
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::audit::{self, Query};
use super::filter::Kind;
use super::{Counts, PAGE_BYTES, Sqlite, cluster, gone, open, read, session, unreadable, verify};
use crate::intake::Close;
use crate::packed;
use crate::stored::page;
use crate::{
    Admission, Admitted, Answer, ApiKey, Approval, Audited, Authority, Clustered, Clustering, Counted,
    Declared, Declaring, Deferral, Durability, Erased, Erasure, Error, Event, Extension, Facts, FactsQuery,
    Figures, Filter, Freeze, Given, Governed, Grouped, Heard, Held, Inspected, Intention, Lapsed, Ledger,
    Log, Mandate, Opening, Order, Page, Passkey, Place, PrincipalKey, Record, Recorded, Recovering, Refusal,
    Repeat, Resumption, Revocation, Scope, Search, SecurityEvent, Settled, Settlement, Stored, Turn,
    Verified, identity,
};

impl Sqlite {
    /// Points a passkey's row to the entry that is written with it.
    fn mark_passkey<'a>(
        &'a self,
        sql: &'static str,
        tenant: &Tenant,
        id: &str,
        event: Event,
    ) -> Answer<'a, i64> {
        let (tenant, id): (Tenant, Box<str>) = (tenant.clone(), id.into());
        self.perform(move |batch| {
            // The entry is the next one, if this passkey is there to be marked.
            let values = params![tenant.as_str(), id, batch.next_entry()];
            match batch.db.prepare_cached(sql)?.execute(values)? {
                0 => Ok(Err(Error::Absent(id.clone()))),
                _ => batch.event(&event).map(Ok),
            }
        })
    }

    /// Reads the chain from end to end, on a thread and a connection of its own, because that may take long.
    fn walk<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Answer<'_, T> {
        let (promise, answer) = oneshot::channel();
        let path = self.shared.path.clone();
        let started = thread::Builder::new().name("ledger-walk".to_owned()).spawn(move || {
            drop(promise.send(open::reader(&path).and_then(|db| read(&db))));
        });
        Box::pin(async move {
            started.map_err(|error| Error::Open(error.to_string().into()))?;
            answer.await.map_err(|_| gone())?
        })
    }
}

impl Ledger for Sqlite {
    fn logs(&self) -> &dyn Log {
        self
    }

    fn facts<'a>(&'a self, query: FactsQuery<'a>) -> Answer<'a, Facts> {
        Box::pin(async move { self.shared.facts(&query) })
    }

    fn admit(&self, admission: Admission) -> Answer<'_, Admitted> {
        self.enter(admission.into())
    }

    fn approve(&self, approval: Approval) -> Answer<'_, Counted> {
        self.perform(move |batch| batch.approve(&approval))
    }

    fn discuss(&self, word: Approval, event: &'static str) -> Answer<'_, i64> {
        self.perform(move |batch| batch.discuss(&word, event))
    }

    fn extend(&self, extension: Extension) -> Answer<'_, Account> {
        self.perform(move |batch| batch.extend(&extension))
    }

    fn reject(&self, rejection: Approval, given: u32, settlement: Settlement) -> Answer<'_, i64> {
        let mut close = Close::new(settlement, false);
        packed::close(&mut close);
        self.perform(move |batch| batch.reject(&rejection, given, &close))
    }

    fn resume(&self, resumption: Resumption) -> Answer<'_, Admitted> {
        self.enter(resumption.into())
    }

    fn defer(&self, mut deferral: Deferral) -> Answer<'_, i64> {
        packed::payload(&mut deferral.payload);
        self.perform(move |batch| batch.defer(&deferral))
    }

    fn let_go(&self, action: ActionId, token: u32) -> Answer<'_, bool> {
        self.perform(move |batch| batch.let_go(action, token))
    }

    fn due(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.look(move |db| read::due(db, now_ms, after, limit))
    }

    fn approvals<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Given>> {
        self.look(move |db| read::approvals(db, tenant, id))
    }

    fn held<'a>(
        &'a self,
        tenant: &'a Tenant,
        now_ms: i64,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>> {
        self.look(move |db| read::held(db, tenant, now_ms, after, limit))
    }

    fn approved(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.look(move |db| read::approved(db, after, limit))
    }

    fn refuse(&self, refusal: Refusal) -> Answer<'_, Recorded> {
        let entered = self.enter(refusal.into());
        Box::pin(async move {
            match entered.await? {
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
        why: &'a str,
        request_hash: &'a [u8; 32],
        now_ms: i64,
    ) -> Answer<'a, Option<Repeat>> {
        let name = identity::refusal(tenant, subject, why, request_hash);
        Box::pin(async move { Ok(self.shared.hot().refusals.repeated(&name, now_ms)) })
    }

    fn action<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Stored>> {
        self.look(move |db| read::action(db, tenant, id))
    }

    fn claimant<'a>(&'a self, tenant: &'a Tenant, half: [u8; 16]) -> Answer<'a, Option<ActionId>> {
        if !self.shared.filter.may_hold(Kind::Slot, identity::slot_of(&half)) {
            return Box::pin(async { Ok(None) });
        }
        self.look(move |db| read::claimant(db, tenant, &half))
    }

    fn outcomes<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Settled>> {
        self.look(move |db| read::outcomes(db, tenant, id))
    }

    fn receipt<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Settled>> {
        self.look(move |db| read::receipt(db, tenant, id))
    }

    fn address<'a>(&'a self, address: &'a str) -> Answer<'a, Option<Settled>> {
        // Anybody may ask; what was never given out costs nobody a search.
        if !self.shared.filter.may_hold(Kind::Address, identity::address(address)) {
            return Box::pin(async { Ok(None) });
        }
        self.look(move |db| read::address(db, address))
    }

    fn actions<'a>(
        &'a self,
        tenant: &'a Tenant,
        filter: Filter,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>> {
        self.look(move |db| read::actions(db, tenant, &filter, after, limit))
    }

    fn unsettled(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.look(move |db| read::unsettled(db, after, limit))
    }

    fn expired(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.look(move |db| read::expired(db, now_ms, after, limit))
    }

    fn issue(&self, mandate: Mandate, event: Event) -> Answer<'_, i64> {
        self.perform(move |batch| {
            let Mandate { tenant, jti, subject, issuer, issued_ms, expires_ms, claims, chain, kid } = &mandate;
            for ancestor in chain {
                let held = read::mandate(batch.db, tenant, ancestor)?;
                let key = identity::account(tenant, ancestor);
                // Its row may be older than what this batch did to it.
                batch.account(key, ancestor)?;
                if held.is_none() || batch.rows.account(key, ancestor).value.revoked_at.is_some() {
                    return Ok(Err(Error::Absent(ancestor.clone())));
                }
            }
            let sql = "INSERT INTO mandate (tenant, jti, account, subject, issuer, issued, expires, claims, chain, kid)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING";
            let account = identity::account(tenant, jti);
            let (tenant, subject) = (tenant.as_str(), subject.as_str());
            let chain = (!chain.is_empty()).then(|| chain.join("\n"));
            let values =
                params![tenant, jti, account, subject, issuer, issued_ms, expires_ms, claims, chain, kid];
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
            let Page { rows, next } = page(read::mandates(db, tenant, after, limit)?, limit, read::row_of);
            Ok(Page { rows: read::legible(rows).into_iter().map(|(_, held)| held).collect(), next })
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
            let mut record_id = None;
            if first {
                cell.set(account);
                record_id = Some(batch.next_id());
                batch.event(&event)?;
            }
            let unsettled = read::open_under(batch.db, &tenant, &jti)?;
            Ok(Ok(Revocation { at_ms, record_id, unsettled }))
        })
    }

    fn register_principal(&self, key: PrincipalKey, event: Event) -> Answer<'_, i64> {
        self.perform(move |batch| {
            let PrincipalKey { tenant, issuer, kid, jwk, created_ms, created_by, revoked_ms } = &key;
            let sql = "INSERT INTO principal_key (tenant, issuer, kid, jwk, created, created_by, revoked)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
            let values = params![tenant.as_str(), issuer, kid, jwk, created_ms, created_by, revoked_ms];
            if batch.db.prepare_cached(sql)?.execute(values)? == 0 {
                return Ok(Err(Error::Exists(kid.clone())));
            }
            batch.principals().push(key.clone());
            batch.event(&event).map(Ok)
        })
    }

    fn principals(&self) -> Answer<'_, Arc<Vec<PrincipalKey>>> {
        Box::pin(async move { Ok(self.shared.hot().principals.clone()) })
    }

    fn revoke_principal<'a>(
        &'a self,
        tenant: &'a Tenant,
        issuer: &'a str,
        kid: &'a str,
        event: Event,
    ) -> Answer<'a, i64> {
        let (tenant, issuer, kid): (Tenant, Box<str>, Box<str>) = (tenant.clone(), issuer.into(), kid.into());
        self.perform(move |batch| {
            let sql = "UPDATE principal_key SET revoked = ?4
                       WHERE tenant = ?1 AND issuer = ?2 AND kid = ?3 AND revoked IS NULL";
            let values = params![tenant.as_str(), issuer, kid, event.at_ms];
            let mut ended = batch.db.prepare_cached(sql)?.execute(values)?;
            // Its row may have been taken out of the store by somebody else.
            for key in batch.principals().iter_mut().filter(|key| key.revoked_ms.is_none()) {
                if key.tenant == tenant && key.issuer == issuer && key.kid == kid {
                    key.revoked_ms = Some(event.at_ms);
                    ended += 1;
                }
            }
            if ended == 0 {
                return Ok(Err(Error::Absent(kid.clone())));
            }
            batch.event(&event).map(Ok)
        })
    }

    fn freeze(&self, freeze: Freeze, event: Event) -> Answer<'_, i64> {
        self.perform(move |batch| {
            let (kind, tenant, name) = read::scope_key(&freeze.scope);
            let Freeze { include_rollback, at_ms, by, reason, .. } = &freeze;
            let sql = "INSERT OR REPLACE INTO freeze VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let values = params![kind, tenant, name, include_rollback, at_ms, by, reason];
            batch.db.prepare_cached(sql)?.execute(values)?;
            batch.put_freeze(&freeze.scope, Some(freeze.clone()));
            batch.event(&event).map(Ok)
        })
    }

    fn thaw(&self, scope: Scope, event: Event) -> Answer<'_, i64> {
        self.perform(move |batch| {
            let (kind, tenant, name) = read::scope_key(&scope);
            let sql = "DELETE FROM freeze WHERE kind = ?1 AND tenant = ?2 AND name = ?3";
            let mut ended = batch.db.prepare_cached(sql)?.execute([kind, tenant, name])?;
            if scope == Scope::All {
                ended += read::drop_illegible_freezes(batch.db)?;
            }
            // It may have been taken out of the store by somebody else.
            let stands = batch.rows.freezes.iter().any(|it| it.scope == scope);
            if ended == 0 && !stands {
                return Ok(Err(Error::Absent(scope.to_string().into())));
            }
            batch.put_freeze(&scope, None);
            batch.event(&event).map(Ok)
        })
    }

    fn freezes(&self) -> Answer<'_, Arc<Vec<Freeze>>> {
        Box::pin(async move { Ok(self.shared.hot().freezes.clone()) })
    }

    fn add_key(&self, key: ApiKey, event: Event) -> Answer<'_, i64> {
        self.perform(move |batch| {
            let ApiKey {
                hash,
                id,
                tenant,
                subject,
                role,
                default_mandate,
                created_ms,
                created_by,
                revoked_ms,
            } = &key;
            let sql =
                "INSERT INTO api_key (hash, id, tenant, subject, role, default_mandate, created, revoked,
                       created_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING";
            let (tenant, subject) = (tenant.as_str(), subject.as_str());
            let values =
                params![hash, id, tenant, subject, role, default_mandate, created_ms, revoked_ms, created_by];
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
        self.look(move |db| Ok(read::legible(read::keys(db, Some(tenant))?)))
    }

    fn revoke_key<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        let (tenant, id): (Tenant, Box<str>) = (tenant.clone(), id.into());
        self.perform(move |batch| {
            let sql = "UPDATE api_key SET revoked = ?3 WHERE tenant = ?1 AND id = ?2 AND revoked IS NULL";
            let values = params![tenant.as_str(), id, event.at_ms];
            let ended = batch.db.prepare_cached(sql)?.execute(values)?;
            // Its row may have been taken out of the store by somebody else.
            let opens = batch.shared.hot().keys.values().any(|key| key.tenant == tenant && key.id == id);
            if ended == 0 && !opens {
                return Ok(Err(Error::Absent(id.clone())));
            }
            batch.ended_keys.push((tenant.clone(), id.clone()));
            batch.event(&event).map(Ok)
        })
    }

    fn register_passkey<'a>(
        &'a self,
        tenant: &'a Tenant,
        id: &'a str,
        credential_id: &'a [u8],
        event: Event,
    ) -> Answer<'a, i64> {
        let (tenant, id, credential_id): (Tenant, Box<str>, Vec<u8>) =
            (tenant.clone(), id.into(), credential_id.into());
        self.perform(move |batch| {
            let sql = "SELECT 1 FROM passkey WHERE id = ?1 OR credential = ?2";
            if read::one(batch.db, sql, params![id, credential_id], |_| Ok(()))?.is_some() {
                return Ok(Err(Error::Exists(id.clone())));
            }
            let entry = batch.event(&event)?;
            let sql = "INSERT INTO passkey (id, tenant, credential, registered) VALUES (?1, ?2, ?3, ?4)";
            let values = params![id, tenant.as_str(), credential_id, entry];
            batch.db.prepare_cached(sql)?.execute(values)?;
            Ok(Ok(entry))
        })
    }

    fn enrol_passkey<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        let sql = "UPDATE passkey SET enrolled = ?3 WHERE tenant = ?1 AND id = ?2 AND enrolled IS NULL
                   AND revoked IS NULL";
        self.mark_passkey(sql, tenant, id, event)
    }

    fn revoke_passkey<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        let sql = "UPDATE passkey SET revoked = ?3 WHERE tenant = ?1 AND id = ?2 AND revoked IS NULL";
        self.mark_passkey(sql, tenant, id, event)
    }

    fn passkey<'a>(&'a self, credential_id: &'a [u8]) -> Answer<'a, Option<Passkey>> {
        self.look(move |db| Ok(read::legible(read::passkeys(db, None, Some(credential_id))?).pop()))
    }

    fn passkeys<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<Passkey>> {
        self.look(move |db| Ok(read::legible(read::passkeys(db, Some(tenant), None)?)))
    }

    fn open_session(&self, opening: Opening) -> Answer<'_, Box<str>> {
        self.perform(move |batch| batch.open_session(&opening))
    }

    fn session<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Governed>> {
        let known = self.shared.hot().sessions.get(&identity::session(tenant, id));
        match known.filter(|it| it.is(tenant, id)) {
            Some(known) => Box::pin(async { Ok(Some(known)) }),
            None => self.look(move |db| session::session(db, tenant, id)),
        }
    }

    fn sessions<'a>(
        &'a self,
        tenant: &'a Tenant,
        of: Option<&'a Subject>,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Governed>> {
        self.look(move |db| session::sessions(db, tenant, of, after, limit))
    }

    fn sessions_under<'a>(&'a self, tenant: &'a Tenant, jti: &'a str) -> Answer<'a, Vec<Governed>> {
        self.look(move |db| session::sessions_under(db, tenant, jti))
    }

    fn held_under<'a>(
        &'a self,
        tenant: &'a Tenant,
        jti: &'a str,
        subject: &'a Subject,
        now_ms: i64,
    ) -> Answer<'a, Option<Box<str>>> {
        self.look(move |db| session::held_under(db, tenant, jti, subject, now_ms))
    }

    fn lapsed(&self, now_ms: i64, limit: u32) -> Answer<'_, Vec<Lapsed>> {
        self.look(move |db| session::lapsed(db, now_ms, limit))
    }

    fn recovering(&self) -> Answer<'_, Vec<Recovering>> {
        self.look(session::recovering)
    }

    fn hear(&self, heard: SecurityEvent, event: Event) -> Answer<'_, Heard> {
        self.perform(move |batch| batch.hear(&heard, &event).map(Ok))
    }

    fn declare(&self, declaring: Declaring) -> Answer<'_, Declared> {
        self.perform(move |batch| batch.declare(&declaring).map(Ok))
    }

    fn intention<'a>(
        &'a self,
        tenant: &'a Tenant,
        session: &'a str,
        intent: Option<&'a str>,
    ) -> Answer<'a, Option<Intention>> {
        self.look(move |db| session::intention(db, tenant, session, intent))
    }

    fn begun_as<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Box<str>>> {
        match self.shared.hot().begun.get(&(tenant.clone(), id)) {
            Some(known) => Box::pin(async { Ok(Some(known)) }),
            None => self.look(move |db| session::begun_as(db, tenant, id)),
        }
    }

    fn turn(&self, turn: Turn) -> Answer<'_, (Box<str>, mandate::Session)> {
        self.perform(move |batch| batch.turn(&turn))
    }

    fn records<'a>(
        &'a self,
        tenant: &'a Tenant,
        session: &'a str,
        after: Option<u64>,
        limit: u32,
    ) -> Answer<'a, Vec<Record>> {
        self.look(move |db| session::records(db, tenant, session, after, limit))
    }

    fn group(&self, clustering: Clustering) -> Answer<'_, Grouped> {
        self.perform(move |batch| batch.group(&clustering))
    }

    fn cluster<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Clustered>> {
        self.look(move |db| cluster::named(db, tenant, id))
    }

    fn cluster_of<'a>(&'a self, tenant: &'a Tenant, session: &'a str) -> Answer<'a, Option<Clustered>> {
        if !self.shared.filter.may_hold(Kind::Member, identity::session(tenant, session)) {
            return Box::pin(async { Ok(None) });
        }
        self.look(move |db| cluster::of(db, tenant, session))
    }

    fn deadlocks<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<Clustered>> {
        self.look(move |db| cluster::deadlocks(db, tenant))
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

    fn delivered<'a>(&'a self, alike: &'a [u8; 32]) -> Answer<'a, u64> {
        if !self.shared.filter.may_hold(Kind::Delivery, identity::tag(alike)) {
            return Box::pin(async { Ok(0) });
        }
        self.look(move |db| read::delivered(db, alike))
    }

    fn deliver(&self, times: Vec<([u8; 32], u64)>) -> Answer<'_, ()> {
        self.perform(move |batch| {
            let sql = "INSERT INTO delivery VALUES (?1, ?2)
                       ON CONFLICT DO UPDATE SET times = max(times, excluded.times)";
            let mut statement = batch.db.prepare_cached(sql)?;
            for (alike, times) in &times {
                batch.shared.filter.add(Kind::Delivery, identity::tag(alike));
                statement.execute(params![alike, i64::try_from(*times).unwrap_or(i64::MAX)])?;
            }
            Ok(Ok(()))
        })
    }

    fn kept<'a>(&'a self, digest: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.look(move |db| read::kept(db, digest))
    }

    fn prune(&self, before_ms: i64, limit: u32, now_ms: i64) -> Answer<'_, u64> {
        self.perform(move |batch| batch.prune(before_ms, limit, now_ms).map(Ok))
    }

    fn erase(&self, erasure: Erasure) -> Answer<'_, i64> {
        self.perform(move |batch| batch.erase(&erasure))
    }

    fn erased<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Erased>> {
        self.look(move |db| read::erased(db, tenant, id))
    }

    fn to_erase(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.look(move |db| read::to_erase(db, now_ms, after, limit))
    }

    fn entries(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<(i64, Vec<u8>)>> {
        self.look(move |db| Ok(page(read::entries(db, after.unwrap_or(0), limit)?, limit, |(row, _)| *row)))
    }

    fn audit<'a>(
        &'a self,
        tenant: &'a Tenant,
        search: Search,
        order: Order,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Audited>> {
        Box::pin(async move {
            let wanted = search.terms(tenant);
            let query = Query { tenant, search: &search, wanted: &wanted, order, after, limit };
            self.shared.read(|db| audit::search(db, &self.shared.terms, &query))
        })
    }

    fn authority(&self, events: &'static [&'static str]) -> Answer<'_, Authority> {
        self.walk(|db| verify::authority(db, Some(events)).map_err(unreadable))
    }

    fn inspect(&self, after: Option<Place>) -> Answer<'_, Inspected> {
        self.look(move |db| verify::inspect(db, &self.shared.walks, after.unwrap_or_default()))
    }

    fn verify(&self) -> Answer<'_, Verified> {
        self.walk(verify::all)
    }

    fn health(&self) -> Result<(), Error> {
        self.shared.queue.failed().map_or(Ok(()), |why| Err(Error::Unavailable(why)))
    }

    fn durability(&self) -> Durability {
        let synchronous_commit = "full".into();
        Durability { store: "sqlite", fsync: true, synchronous_commit, synchronous_standby: false }
    }

    fn others(&self) -> Answer<'_, u64> {
        Box::pin(async { Ok(0) })
    }

    fn bar<'a>(&'a self, _key: &'a str) -> Answer<'a, ()> {
        // There is one process, and it has another key by now.
        Box::pin(async { Ok(()) })
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
