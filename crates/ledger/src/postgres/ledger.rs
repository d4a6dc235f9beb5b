//! The [`Ledger`] of a database: every question and every write, each in a few lines.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use action::{ActionId, Subject, Tenant};
use mandate::Account;

use super::facts::{Asked, Question};
use super::needs::Needs;
use super::read;
use super::replica::{alone, bar, horizon};
use super::rules::{self, legible, scope_key};
use super::sql::{Db, Done, Values, get, id, many, most, one, write};
use super::writer::Batch;
use super::{Counts, Postgres, audit, chores, sessions, verify};
use crate::intake::Close;
use crate::packed;
use crate::pruned::Pruned;
use crate::stored::page;
use crate::{
    Admission, Admitted, Answer, ApiKey, Approval, Audited, Authority, Clustered, Clustering, Counted,
    Declared, Declaring, Deferral, Durability, Erased, Erasure, Error, Event, Extension, Facts, FactsQuery,
    Figures, Filter, Freeze, Given, Governed, Grouped, Heard, Held, Inspected, Intention, Lapsed, Ledger,
    Log, Mandate, Opening, Order, Page, Passkey, Place, PrincipalKey, Record, Recorded, Recovering, Refusal,
    Repeat, Resumption, Revocation, Scope, Search, SecurityEvent, Settled, Settlement, Shelf, Stored, Turn,
    Verified, identity,
};

impl Postgres {
    /// Points a passkey's row to the entry that is written with it.
    fn mark_passkey(&self, sql: &'static str, tenant: &Tenant, id: &str, event: Event) -> Answer<'_, i64> {
        let (tenant, id): (Tenant, Box<str>) = (tenant.clone(), id.into());
        self.perform(
            |_| (),
            move |batch| {
                let (tenant, id, event) = (tenant.clone(), id.clone(), event.clone());
                Box::pin(async move {
                    // The entry is the next one, if this passkey is there to be marked.
                    match write(batch.db, sql, &[&tenant.as_str(), &&*id, &batch.world.next_entry()]).await? {
                        0 => Ok(Err(Error::Absent(id))),
                        _ => Ok(batch.world.event(event)),
                    }
                })
            },
        )
    }
}

impl Postgres {
    /// Its number among the processes of this store.
    pub(super) fn process(&self) -> i64 {
        self.shared.number.load(Ordering::Relaxed)
    }
}

/// Reads the freezes again after they were changed: what is admitted behind that in the same transaction is judged by them.
async fn thawed(batch: &mut Batch<'_>) -> Done<()> {
    batch.world.rows.freezes = Arc::new(rules::stops(rules::freezes(batch.db).await?));
    Ok(())
}

impl Ledger for Postgres {
    fn logs(&self) -> &dyn Log {
        self
    }

    fn shelf(&self) -> Option<&dyn Shelf> {
        Some(self)
    }

    fn facts<'a>(&'a self, query: FactsQuery<'a>) -> Answer<'a, Facts> {
        self.ask(|promise| Asked::Facts(Box::new(Question::of(&query)), promise))
    }

    fn admit(&self, admission: Admission) -> Answer<'_, Admitted> {
        self.enter(admission.into())
    }

    fn approve(&self, approval: Approval) -> Answer<'_, Counted> {
        self.decide(needs_of(&approval), move |batch| batch.world.approve(&approval))
    }

    fn discuss(&self, word: Approval, event: &'static str) -> Answer<'_, i64> {
        self.decide(needs_of(&word), move |batch| batch.world.discuss(&word, event))
    }

    fn extend(&self, extension: Extension) -> Answer<'_, Account> {
        let mut needed = Needs::default();
        for jti in extension.above.iter().map(|(jti, _)| jti).chain([&extension.jti]) {
            needed.mandate(&extension.tenant, jti);
        }
        extension.words.iter().for_each(|word| needed.word(word));
        self.decide(move |needs| *needs = needed, move |batch| batch.world.extend(&extension))
    }

    fn reject(&self, rejection: Approval, given: u32, settlement: Settlement) -> Answer<'_, i64> {
        let mut close = Close::new(settlement, false);
        packed::close(&mut close);
        let mut needed = Needs::default();
        needed.word(&rejection);
        needed.close(&close);
        self.decide(move |needs| *needs = needed, move |batch| batch.world.reject(&rejection, given, &close))
    }

    fn resume(&self, resumption: Resumption) -> Answer<'_, Admitted> {
        self.enter(resumption.into())
    }

    fn defer(&self, mut deferral: Deferral) -> Answer<'_, i64> {
        packed::payload(&mut deferral.payload);
        let mut needed = Needs::default();
        needed.defer(&deferral);
        self.decide(move |needs| *needs = needed, move |batch| batch.world.defer(&deferral))
    }

    fn let_go(&self, action: ActionId, token: u32) -> Answer<'_, bool> {
        self.decide(
            move |needs| needs.actions.extend([action]),
            move |batch| batch.world.let_go(action, token),
        )
    }

    fn due(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        let me = self.process();
        self.look(move |db| async move { read::due(&db, me, now_ms, after, limit).await })
    }

    fn approvals<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Given>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { read::approvals(&db, &tenant, id).await })
    }

    fn held<'a>(
        &'a self,
        tenant: &'a Tenant,
        now_ms: i64,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { read::held(&db, &tenant, now_ms, after, limit).await })
    }

    fn approved(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        let me = self.process();
        self.look(move |db| async move { read::approved(&db, me, after, limit).await })
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
        let mut refusals = self.shared.refusals();
        let repeated = refusals.repeated(&name, now_ms);
        // No row tells of them here.
        refusals.uncounted.clear();
        drop(refusals);
        Box::pin(async move { Ok(repeated) })
    }

    fn action<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Stored>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { read::action(&db, &tenant, id).await })
    }

    fn claimant<'a>(&'a self, tenant: &'a Tenant, half: [u8; 16]) -> Answer<'a, Option<ActionId>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { read::claimant(&db, &tenant, half).await })
    }

    fn outcomes<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Settled>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { read::outcomes(&db, &tenant, id).await })
    }

    fn receipt<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Settled>> {
        let (tenant, id): (Tenant, Box<str>) = (tenant.clone(), id.into());
        self.look(move |db| async move { read::receipt(&db, &tenant, &id).await })
    }

    fn address<'a>(&'a self, address: &'a str) -> Answer<'a, Option<Settled>> {
        let address: Box<str> = address.into();
        self.look(move |db| async move { read::address(&db, &address).await })
    }

    fn actions<'a>(
        &'a self,
        tenant: &'a Tenant,
        filter: Filter,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { read::actions(&db, &tenant, &filter, after, limit).await })
    }

    fn unsettled(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        let me = self.process();
        self.look(move |db| async move { read::unsettled(&db, me, after, limit).await })
    }

    fn left_open(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.look(move |db| async move { read::left_open(&db, after, limit).await })
    }

    fn expired(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        let me = self.process();
        self.look(move |db| async move { read::expired(&db, me, now_ms, after, limit).await })
    }

    fn issue(&self, mandate: Mandate, event: Event) -> Answer<'_, i64> {
        let mut needed = Needs::default();
        for jti in mandate.chain.iter().chain([&mandate.jti]) {
            needed.mandate(&mandate.tenant, jti);
        }
        self.decide(
            move |needs| *needs = needed,
            move |batch| batch.world.issue(mandate.clone(), event.clone()),
        )
    }

    fn mandate<'a>(&'a self, tenant: &'a Tenant, jti: &'a str) -> Answer<'a, Option<Held>> {
        let (tenant, jti): (Tenant, Box<str>) = (tenant.clone(), jti.into());
        self.look(move |db| async move { rules::mandate(&db, &tenant, &jti).await })
    }

    fn mandates<'a>(&'a self, tenant: &'a Tenant, after: Option<i64>, limit: u32) -> Answer<'a, Page<Held>> {
        let tenant = tenant.clone();
        self.look(move |db| async move {
            let rows = rules::mandates(&db, &tenant, after, most(limit)).await?;
            let row_of = |it: &Result<(i64, Held), crate::Illegible>| match it {
                Ok((row, _)) => *row,
                Err(illegible) => illegible.row,
            };
            let Page { rows, next } = page(rows, limit, row_of);
            Ok(Page { rows: legible(rows).into_iter().map(|(_, held)| held).collect(), next })
        })
    }

    fn revoke<'a>(&'a self, tenant: &'a Tenant, jti: &'a str, event: Event) -> Answer<'a, Revocation> {
        let (tenant, jti): (Tenant, Box<str>) = (tenant.clone(), jti.into());
        let of = (tenant.clone(), jti.clone());
        self.perform(
            move |needs| needs.account(&of.0, &of.1),
            move |batch| {
                let (tenant, jti, event) = (tenant.clone(), jti.clone(), event.clone());
                Box::pin(async move {
                    let (at_ms, record_id) = match batch.world.revoke(&tenant, &jti, event) {
                        Ok(revoked) => revoked,
                        Err(error) => return Ok(Err(error)),
                    };
                    let unsettled = read::open_under(batch.db, &tenant, &jti).await?;
                    Ok(Ok(Revocation { at_ms, record_id, unsettled }))
                })
            },
        )
    }

    fn register_principal(&self, key: PrincipalKey, event: Event) -> Answer<'_, i64> {
        self.perform(|_| (), move |batch| {
            let (key, event) = (key.clone(), event.clone());
            Box::pin(async move {
                let PrincipalKey { tenant, issuer, kid, jwk, created_ms, created_by, revoked_ms } = &key;
                let sql = "INSERT INTO principal_key (tenant, issuer, kid, row, jwk, created, created_by, revoked)
                           VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
                let row = batch.world.next_entry();
                let values: Values<'_> =
                    &[&tenant.as_str(), &&**issuer, &&**kid, &row, &&**jwk, created_ms, &&**created_by, revoked_ms];
                match write(batch.db, sql, values).await? {
                    0 => Ok(Err(Error::Exists(kid.clone()))),
                    _ => Ok(batch.world.event(event)),
                }
            })
        })
    }

    fn principals(&self) -> Answer<'_, Arc<Vec<PrincipalKey>>> {
        self.look(|db| async move { Ok(Arc::new(legible(rules::principal_keys(&db).await?))) })
    }

    fn revoke_principal<'a>(
        &'a self,
        tenant: &'a Tenant,
        issuer: &'a str,
        kid: &'a str,
        event: Event,
    ) -> Answer<'a, i64> {
        let (tenant, issuer, kid): (Tenant, Box<str>, Box<str>) = (tenant.clone(), issuer.into(), kid.into());
        self.perform(
            |_| (),
            move |batch| {
                let (tenant, issuer, kid, event) =
                    (tenant.clone(), issuer.clone(), kid.clone(), event.clone());
                Box::pin(async move {
                    let sql = "UPDATE principal_key SET revoked = $4
                           WHERE tenant = $1 AND issuer = $2 AND kid = $3 AND revoked IS NULL";
                    match write(batch.db, sql, &[&tenant.as_str(), &&*issuer, &&*kid, &event.at_ms]).await? {
                        0 => Ok(Err(Error::Absent(kid))),
                        _ => Ok(batch.world.event(event)),
                    }
                })
            },
        )
    }

    fn freeze(&self, freeze: Freeze, event: Event) -> Answer<'_, i64> {
        self.perform(
            |needs| needs.freezes = true,
            move |batch| {
                let (freeze, event) = (freeze.clone(), event.clone());
                Box::pin(async move {
                    let (kind, tenant, name) = scope_key(&freeze.scope);
                    let Freeze { include_rollback, at_ms, by, reason, .. } = &freeze;
                    let sql = "INSERT INTO stop (kind, tenant, name, include_rollback, at, by, reason)
                           VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (kind, tenant, name)
                           DO UPDATE SET include_rollback = $4, at = $5, by = $6, reason = $7";
                    write(
                        batch.db,
                        sql,
                        &[&kind, &tenant, &name, include_rollback, at_ms, &&**by, &&**reason],
                    )
                    .await?;
                    thawed(batch).await?;
                    Ok(batch.world.event(event))
                })
            },
        )
    }

    fn thaw(&self, scope: Scope, event: Event) -> Answer<'_, i64> {
        self.perform(|needs| needs.freezes = true, move |batch| {
            let (scope, event) = (scope.clone(), event.clone());
            Box::pin(async move {
                let (kind, tenant, name) = scope_key(&scope);
                let sql = "DELETE FROM stop WHERE kind = $1 AND tenant = $2 AND name = $3";
                let mut ended = write(batch.db, sql, &[&kind, &tenant, &name]).await?;
                if scope == Scope::All {
                    // Those that cannot be read stop everything.
                    let bad: Vec<i64> =
                        rules::freezes(batch.db).await?.into_iter().filter_map(|it| it.err().map(|it| it.row)).collect();
                    let sql = "DELETE FROM stop WHERE (kind, tenant, name) IN (SELECT kind, tenant, name FROM
                               (SELECT kind, tenant, name, row_number() OVER (ORDER BY kind, tenant, name) AS place
                                FROM stop) f WHERE f.place = ANY($1::bigint[]))";
                    ended += write(batch.db, sql, &[&bad]).await?;
                }
                if ended == 0 {
                    return Ok(Err(Error::Absent(scope.to_string().into())));
                }
                thawed(batch).await?;
                Ok(batch.world.event(event))
            })
        })
    }

    fn freezes(&self) -> Answer<'_, Arc<Vec<Freeze>>> {
        self.look(|db| async move { Ok(Arc::new(rules::stops(rules::freezes(&db).await?))) })
    }

    fn add_key(&self, key: ApiKey, event: Event) -> Answer<'_, i64> {
        self.perform(|_| (), move |batch| {
            let (key, event) = (key.clone(), event.clone());
            Box::pin(async move {
                let ApiKey { hash, id, tenant, subject, role, default_mandate, created_ms, created_by, revoked_ms } =
                    &key;
                let sql = "INSERT INTO api_key (hash, id, row, tenant, subject, role, default_mandate, created, created_by,
                           revoked) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";
                let row = batch.world.next_entry();
                let (mandate, by) = (default_mandate.as_deref(), created_by.as_deref());
                let values: Values<'_> = &[
                    &&hash[..],
                    &&**id,
                    &row,
                    &tenant.as_str(),
                    &subject.as_str(),
                    &&**role,
                    &mandate,
                    created_ms,
                    &by,
                    revoked_ms,
                ];
                match write(batch.db, sql, values).await? {
                    0 => Ok(Err(Error::Exists(id.clone()))),
                    _ => Ok(batch.world.event(event)),
                }
            })
        })
    }

    fn key<'a>(&'a self, hash: &'a [u8; 32]) -> Answer<'a, Option<Arc<ApiKey>>> {
        self.ask(|promise| Asked::Key(*hash, promise))
    }

    fn keys<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<ApiKey>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { Ok(legible(rules::keys(&db, Some(&tenant)).await?)) })
    }

    fn revoke_key<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        let (tenant, id): (Tenant, Box<str>) = (tenant.clone(), id.into());
        self.perform(
            |_| (),
            move |batch| {
                let (tenant, id, event) = (tenant.clone(), id.clone(), event.clone());
                Box::pin(async move {
                    let sql =
                        "UPDATE api_key SET revoked = $3 WHERE tenant = $1 AND id = $2 AND revoked IS NULL";
                    match write(batch.db, sql, &[&tenant.as_str(), &&*id, &event.at_ms]).await? {
                        0 => Ok(Err(Error::Absent(id))),
                        _ => Ok(batch.world.event(event)),
                    }
                })
            },
        )
    }

    fn register_passkey<'a>(
        &'a self,
        tenant: &'a Tenant,
        id: &'a str,
        credential_id: &'a [u8],
        event: Event,
    ) -> Answer<'a, i64> {
        let (tenant, id): (Tenant, Box<str>) = (tenant.clone(), id.into());
        let credential_id: Vec<u8> = credential_id.into();
        self.perform(
            |_| (),
            move |batch| {
                let (tenant, id, event, credential_id) =
                    (tenant.clone(), id.clone(), event.clone(), credential_id.clone());
                Box::pin(async move {
                    let sql =
                        "INSERT INTO passkey (id, tenant, credential, registered) VALUES ($1, $2, $3, $4)
                           ON CONFLICT DO NOTHING";
                    let row = batch.world.next_entry();
                    match write(batch.db, sql, &[&&*id, &tenant.as_str(), &credential_id, &row]).await? {
                        0 => Ok(Err(Error::Exists(id))),
                        _ => Ok(batch.world.event(event)),
                    }
                })
            },
        )
    }

    fn enrol_passkey<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        let sql = "UPDATE passkey SET enrolled = $3 WHERE tenant = $1 AND id = $2 AND enrolled IS NULL
                   AND revoked IS NULL";
        self.mark_passkey(sql, tenant, id, event)
    }

    fn revoke_passkey<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        let sql = "UPDATE passkey SET revoked = $3 WHERE tenant = $1 AND id = $2 AND revoked IS NULL";
        self.mark_passkey(sql, tenant, id, event)
    }

    fn passkey<'a>(&'a self, credential_id: &'a [u8]) -> Answer<'a, Option<Passkey>> {
        let credential_id: Vec<u8> = credential_id.into();
        self.look(move |db| async move {
            Ok(legible(rules::passkeys(&db, None, Some(&credential_id)).await?).pop())
        })
    }

    fn passkeys<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<Passkey>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { Ok(legible(rules::passkeys(&db, Some(&tenant), None).await?)) })
    }

    fn open_session(&self, opening: Opening) -> Answer<'_, Box<str>> {
        let mut needed = Needs::default();
        let (tenant, session) = (&opening.tenant, &opening.session);
        needed.session(tenant, &session.id);
        needed.lines.insert((tenant.clone(), session.mandate_id.clone()));
        needed.bound.insert((tenant.clone(), session.subject.clone(), session.mandate_id.clone()));
        self.decide(move |needs| *needs = needed, move |batch| batch.world.open_session(opening.clone()))
    }

    fn session<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Governed>> {
        let (tenant, id): (Tenant, Box<str>) = (tenant.clone(), id.into());
        self.look(move |db| async move { sessions::session(&db, &tenant, &id).await })
    }

    fn sessions<'a>(
        &'a self,
        tenant: &'a Tenant,
        of: Option<&'a Subject>,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Governed>> {
        let (tenant, of) = (tenant.clone(), of.cloned());
        self.look(move |db| async move { sessions::sessions(&db, &tenant, of.as_ref(), after, limit).await })
    }

    fn sessions_under<'a>(&'a self, tenant: &'a Tenant, jti: &'a str) -> Answer<'a, Vec<Governed>> {
        let (tenant, jti): (Tenant, Box<str>) = (tenant.clone(), jti.into());
        self.look(move |db| async move { sessions::sessions_under(&db, &tenant, &jti).await })
    }

    fn held_under<'a>(
        &'a self,
        tenant: &'a Tenant,
        jti: &'a str,
        subject: &'a Subject,
        now_ms: i64,
    ) -> Answer<'a, Option<Box<str>>> {
        let (tenant, jti, subject): (Tenant, Box<str>, Subject) =
            (tenant.clone(), jti.into(), subject.clone());
        self.look(move |db| async move { sessions::held_under(&db, &tenant, &jti, &subject, now_ms).await })
    }

    fn lapsed(&self, now_ms: i64, limit: u32) -> Answer<'_, Vec<Lapsed>> {
        self.look(move |db| async move { sessions::lapsed(&db, now_ms, limit).await })
    }

    fn recovering(&self) -> Answer<'_, Vec<Recovering>> {
        let me = self.process();
        self.look(move |db| async move { sessions::recovering(&db, me).await })
    }

    fn hear(&self, heard: SecurityEvent, event: Event) -> Answer<'_, Heard> {
        self.perform(|_| (), move |batch| {
            let (heard, event) = (heard.clone(), event.clone());
            Box::pin(async move {
                let SecurityEvent { tenant, issuer, jti, hash } = &heard;
                let id: Box<str> = batch.world.chain.next_id().into();
                // Whoever takes it down at the same time is waited for.
                let sql = "INSERT INTO security_event (tenant, issuer, jti, hash, id) VALUES ($1, $2, $3, $4, $5)
                           ON CONFLICT DO NOTHING";
                let values: Values<'_> =
                    &[&tenant.as_str(), &&**issuer, &&**jti, &&hash[..], &&*id];
                if write(batch.db, sql, values).await? > 0 {
                    return Ok(batch.world.event(event).map(|_| Heard::New(id)));
                }
                let sql = "SELECT hash, id FROM security_event WHERE tenant = $1 AND issuer = $2 AND jti = $3";
                let row = one(batch.db, sql, &[&tenant.as_str(), &&**issuer, &&**jti]).await?;
                let Some(row) = row else { return Ok(Ok(Heard::Taken)) };
                let same = get::<&[u8]>(&row, 0)? == hash;
                Ok(Ok(if same { Heard::Again(get::<&str>(&row, 1)?.into()) } else { Heard::Taken }))
            })
        })
    }

    fn declare(&self, declaring: Declaring) -> Answer<'_, Declared> {
        let mut needed = Needs::default();
        let Declaring { tenant, session, intent, mandate, .. } = &declaring;
        needed.session(tenant, session);
        needed.declaring.insert((tenant.clone(), mandate.clone(), intent.clone()));
        self.decide(move |needs| *needs = needed, move |batch| batch.world.declare(declaring.clone()))
    }

    fn intention<'a>(
        &'a self,
        tenant: &'a Tenant,
        session: &'a str,
        intent: Option<&'a str>,
    ) -> Answer<'a, Option<Intention>> {
        let (tenant, session): (Tenant, Box<str>) = (tenant.clone(), session.into());
        let intent: Option<Box<str>> = intent.map(Box::from);
        self.look(
            move |db| async move { sessions::intention(&db, &tenant, &session, intent.as_deref()).await },
        )
    }

    fn begun_as<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Box<str>>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { sessions::begun_as(&db, &tenant, id).await })
    }

    fn turn(&self, turn: Turn) -> Answer<'_, (Box<str>, mandate::Session)> {
        let mut needed = Needs::default();
        needed.session(&turn.tenant, &turn.session);
        needed.grouped.insert((turn.tenant.clone(), turn.session.clone()));
        self.decide(move |needs| *needs = needed, move |batch| batch.world.turn(turn.clone()))
    }

    fn records<'a>(
        &'a self,
        tenant: &'a Tenant,
        session: &'a str,
        after: Option<u64>,
        limit: u32,
    ) -> Answer<'a, Vec<Record>> {
        let (tenant, session): (Tenant, Box<str>) = (tenant.clone(), session.into());
        self.look(move |db| async move { sessions::records(&db, &tenant, &session, after, limit).await })
    }

    fn group(&self, clustering: Clustering) -> Answer<'_, Grouped> {
        let mut needed = Needs::default();
        needed.clustering(&clustering);
        self.decide(move |needs| *needs = needed, move |batch| batch.world.group(&clustering))
    }

    fn cluster<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Clustered>> {
        let (tenant, id): (Tenant, Box<str>) = (tenant.clone(), id.into());
        self.look(move |db| async move { sessions::cluster(&db, &tenant, &id).await })
    }

    fn cluster_of<'a>(&'a self, tenant: &'a Tenant, session: &'a str) -> Answer<'a, Option<Clustered>> {
        let (tenant, session): (Tenant, Box<str>) = (tenant.clone(), session.into());
        self.look(move |db| async move { sessions::cluster_of(&db, &tenant, &session).await })
    }

    fn deadlocks<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<Clustered>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { sessions::deadlocks(&db, &tenant).await })
    }

    fn record(&self, event: Event) -> Answer<'_, i64> {
        self.decide(|_| (), move |batch| batch.world.event(event.clone()))
    }

    fn observed<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Option<i64>> {
        let tenant = tenant.clone();
        self.look(move |db| async move {
            let row = one(&db, "SELECT until FROM observed WHERE tenant = $1", &[&tenant.as_str()]).await?;
            row.map_or(Ok(Some(0)), |row| get(&row, 0).map(Some))
        })
    }

    fn observe<'a>(&'a self, tenant: &'a Tenant, until_ms: i64, event: Event) -> Answer<'a, i64> {
        let tenant = tenant.clone();
        self.perform(
            |_| (),
            move |batch| {
                let (tenant, event) = (tenant.clone(), event.clone());
                Box::pin(async move {
                    let sql = "INSERT INTO observed (tenant, until) VALUES ($1, $2)
                               ON CONFLICT (tenant) DO UPDATE SET until = excluded.until";
                    write(batch.db, sql, &[&tenant.as_str(), &until_ms]).await?;
                    Ok(batch.world.event(event))
                })
            },
        )
    }

    fn tenant_key<'a>(&'a self, tenant: &'a Tenant, offered: Option<Vec<u8>>) -> Answer<'a, Option<Vec<u8>>> {
        let tenant = tenant.clone();
        self.look(move |db| async move {
            if let Some(offered) = offered {
                let sql = "INSERT INTO tenant_key (tenant, wrapped) VALUES ($1, $2) ON CONFLICT DO NOTHING";
                write(&db, sql, &[&tenant.as_str(), &offered]).await?;
            }
            let row =
                one(&db, "SELECT wrapped FROM tenant_key WHERE tenant = $1", &[&tenant.as_str()]).await?;
            row.map(|row| get(&row, 0)).transpose()
        })
    }

    fn keep<'a>(&'a self, digest: &'a str, text: Vec<u8>) -> Answer<'a, ()> {
        let digest: Box<str> = digest.into();
        self.look(move |db| async move {
            let sql = "INSERT INTO kept (digest, text) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            write(&db, sql, &[&&*digest, &text]).await.map(drop)
        })
    }

    fn delivered<'a>(&'a self, alike: &'a [u8; 32]) -> Answer<'a, u64> {
        let alike = *alike;
        self.look(move |db| async move {
            let row = one(&db, "SELECT times FROM delivery WHERE alike = $1", &[&&alike[..]]).await?;
            let times: Option<i64> = row.map(|row| get(&row, 0)).transpose()?;
            Ok(times.and_then(|times| u64::try_from(times).ok()).unwrap_or_default())
        })
    }

    fn deliver(&self, mut times: Vec<([u8; 32], u64)>) -> Answer<'_, ()> {
        // Locked in one order; of what comes twice the most counts.
        times.sort_unstable_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
        times.dedup_by_key(|(alike, _)| *alike);
        self.look(move |db| async move {
            let alike: Vec<&[u8]> = times.iter().map(|(alike, _)| &alike[..]).collect();
            let counts: Vec<i64> =
                times.iter().map(|(_, times)| i64::try_from(*times).unwrap_or(i64::MAX)).collect();
            let sql =
                "INSERT INTO delivery AS d (alike, times) SELECT * FROM unnest($1::bytea[], $2::bigint[])
                       ON CONFLICT (alike) DO UPDATE SET times = greatest(d.times, excluded.times)";
            write(&db, sql, &[&alike, &counts]).await.map(drop)
        })
    }

    fn kept<'a>(&'a self, digest: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        let digest: Box<str> = digest.into();
        self.look(move |db| async move {
            let row = one(&db, "SELECT text FROM kept WHERE digest = $1", &[&&*digest]).await?;
            row.map(|row| get(&row, 0)).transpose()
        })
    }

    fn prune(&self, before_ms: i64, limit: u32, now_ms: i64) -> Answer<'_, u64> {
        // Looked for first where nobody waits for it.
        let found = self.look(move |db| async move { Ok(!old(&db, before_ms, 1, &[]).await?.is_empty()) });
        let pruned = move || {
            self.perform(
                |_| (),
                move |batch| {
                    Box::pin(async move {
                        let apart: Vec<Vec<u8>> =
                            batch.world.ids.keys().map(|id| id.as_bytes().to_vec()).collect();
                        let pruned = prune(batch.db, before_ms, limit, &apart).await?;
                        if pruned.actions == 0 {
                            return Ok(Ok(0));
                        }
                        let sql = "INSERT INTO pruning (entry) VALUES ($1)";
                        write(batch.db, sql, &[&batch.world.next_entry()]).await?;
                        let event =
                            pruned.event(now_ms).map_err(|error| Error::Rejected(error.to_string().into()));
                        Ok(event.and_then(|event| batch.world.event(event)).map(|_| pruned.actions))
                    })
                },
            )
        };
        Box::pin(async move { if found.await? { pruned().await } else { Ok(0) } })
    }

    fn erase(&self, erasure: Erasure) -> Answer<'_, i64> {
        let action = erasure.action;
        self.perform(
            |needs| needs.actions.extend([action]),
            move |batch| {
                let erasure = erasure.clone();
                Box::pin(async move {
                    let next = batch.world.next_entry();
                    let erased = batch.world.erase(&erasure);
                    // One that was erased before has been emptied then.
                    if matches!(erased, Ok(entry) if entry == next) {
                        empty(batch.db, erasure.action).await?;
                    }
                    Ok(erased)
                })
            },
        )
    }

    fn erased<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Erased>> {
        let tenant = tenant.clone();
        self.look(move |db| async move { read::erased(&db, &tenant, id).await })
    }

    fn to_erase(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.look(move |db| async move { read::to_erase(&db, now_ms, after, limit).await })
    }

    fn entries(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<(i64, Vec<u8>)>> {
        self.look(move |db| async move {
            let upto = horizon(&db).await?;
            let rows = read::entries(&db, after.unwrap_or(0), upto, limit).await?;
            Ok(page(rows, limit, |(row, _)| *row))
        })
    }

    fn audit<'a>(
        &'a self,
        tenant: &'a Tenant,
        search: Search,
        order: Order,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Audited>> {
        let query = audit::Query { tenant: tenant.clone(), search, order, after, limit };
        self.look(move |db| async move { audit::search(&db, &query).await })
    }

    fn authority(&self, events: &'static [&'static str]) -> Answer<'_, Authority> {
        self.look(move |db| async move { verify::authority(&db, Some(events)).await })
    }

    fn inspect(&self, after: Option<Place>) -> Answer<'_, Inspected> {
        let walks = Arc::clone(&self.shared.walks);
        self.look(move |db| async move { verify::inspect(&db, &walks, after.unwrap_or_default()).await })
    }

    fn verify(&self) -> Answer<'_, Verified> {
        let verified = self.look(|db| async move { verify::all(&db).await });
        Box::pin(async move { verified.await? })
    }

    fn health(&self) -> Result<(), Error> {
        self.shared.failed().clone().map_or(Ok(()), |why| Err(Error::Unavailable(why)))
    }

    fn durability(&self) -> Durability {
        self.shared.durability().clone()
    }

    fn others(&self) -> Answer<'_, u64> {
        let own = self.shared.number();
        self.look(move |db| async move { alone(&db, own).await })
    }

    fn bar<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        let (own, key) = (self.shared.number(), key.to_owned());
        self.look(move |db| async move { bar(&db, own, &key).await })
    }

    fn figures(&self) -> Figures {
        let Counts { commits, writes, commit_us } = &self.shared.counts;
        Figures {
            waiting: self.writes.as_ref().map_or(0, |it| (it.max_capacity() - it.capacity()) as u64),
            commits: commits.load(Ordering::Relaxed),
            writes: writes.load(Ordering::Relaxed),
            commit_us: commit_us.load(Ordering::Relaxed),
            log_bytes: 0,
        }
    }
}

fn needs_of(word: &Approval) -> impl FnOnce(&mut Needs) + use<> {
    let mut needed = Needs::default();
    needed.word(word);
    move |needs| *needs = needed
}

/// Empties all that is kept of what came of an action, and of what people said about it. Who spoke is gone; that somebody did
/// is counted.
async fn empty(db: &Db, action: ActionId) -> Done<()> {
    let id = &action.as_bytes()[..];
    let sql = "UPDATE outcome SET payload = ''::bytea, body = CASE WHEN body IS NOT NULL THEN ''::bytea END
               WHERE action = $1";
    write(db, sql, &[&id]).await?;
    let sql = "UPDATE approval SET record = ''::bytea, approver = entry::text WHERE action = $1";
    write(db, sql, &[&id]).await?;
    write(db, "DELETE FROM aside WHERE action = $1", &[&id]).await.map(drop)
}

/// Of an action: nobody waits for it at `$1` any more.
const OVER: &str = "(f.state >= 4 OR f.state IN (0, 1) AND a.expires <= $1)";

/// The oldest actions from before then that nobody waits for. Ids are in the order of time, so no younger one is looked at.
async fn old(db: &Db, before_ms: i64, limit: u32, apart: &[Vec<u8>]) -> Done<Vec<Vec<u8>>> {
    let sql = format!(
        "SELECT a.id FROM action a JOIN fate f ON f.id = a.id WHERE a.id < $4 AND a.at < $1 AND {OVER}
         AND NOT a.id = ANY($3::bytea[]) ORDER BY a.id LIMIT $2"
    );
    let until = chores::lowest_id(before_ms);
    let old = many(db, &sql, &[&before_ms, &most(limit), &apart, &&until[..]]).await?;
    old.iter().map(|row| Ok(id(row, 0)?.as_bytes().to_vec())).collect()
}

/// Deletes old actions that nobody waits for, with everything that became of them. `apart`: those that the same transaction is
/// about to write.
///
/// What it locks it locks out of the order of `load`: with whoever is at one of them it may wait in a circle, which the database
/// ends, and then it is done once more.
async fn prune(db: &Db, before_ms: i64, limit: u32, apart: &[Vec<u8>]) -> Done<Pruned> {
    let old = old(db, before_ms, limit, apart).await?;
    let sql = "SELECT id FROM fate WHERE id = ANY($1::bytea[]) ORDER BY id FOR UPDATE";
    many(db, sql, &[&old]).await?;
    // Whoever had one of them in hand may have gone on with it.
    let sql = format!(
        "SELECT a.id, a.row FROM action a JOIN fate f ON f.id = a.id WHERE a.id = ANY($2::bytea[]) AND {OVER} ORDER BY a.row"
    );
    let mut pruned = Pruned::default();
    let mut gone: Vec<Vec<u8>> = Vec::new();
    for row in many(db, &sql, &[&before_ms, &old]).await? {
        gone.push(id(&row, 0)?.as_bytes().to_vec());
        pruned.action(get(&row, 1)?);
    }
    let sql = "DELETE FROM outcome WHERE action = ANY($1::bytea[]) RETURNING entry, document IS NOT NULL";
    for row in many(db, sql, &[&gone]).await? {
        let entry = get(&row, 0)?;
        // Outcomes have the numbers of their entries here.
        pruned.outcome(entry, entry, get(&row, 1)?);
    }
    let sql = "DELETE FROM approval WHERE action = ANY($1::bytea[]) RETURNING entry";
    for row in many(db, sql, &[&gone]).await? {
        pruned.approval(get(&row, 0)?);
    }
    for sql in [
        "DELETE FROM usage WHERE action = ANY($1::bytea[])",
        "DELETE FROM cycle WHERE action = ANY($1::bytea[])",
        "DELETE FROM claim c USING action a WHERE a.id = ANY($1::bytea[]) AND c.tenant = a.tenant AND c.digest = a.claim",
        "DELETE FROM fate WHERE id = ANY($1::bytea[])",
        "DELETE FROM action WHERE id = ANY($1::bytea[])",
    ] {
        write(db, sql, &[&gone]).await?;
    }
    Ok(pruned)
}
