//! Who may do what, and what is stopped: read anew each time, because another gateway may have changed it.

use action::{Subject, Tenant};
use tokio_postgres::Row;

use super::load::{account_at, mandate_at};
use super::sql::{Db, Done, Failure, bytes, get, many, maybe_text, subject, tenant, text};
use crate::entry::{PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED, Walk};
use crate::{ApiKey, Freeze, Held, Illegible, Passkey, PrincipalKey, Scope};
use sha2::{Digest, Sha256};

/// Rows, each unless somebody altered it into what cannot be read.
pub(super) type Legible<T> = Vec<Result<T, Illegible>>;

/// Those that can be read. Whoever altered one keeps nobody from the others.
pub(super) fn legible<T>(rows: Legible<T>) -> Vec<T> {
    let tell = |Illegible { table, row }: &Illegible| {
        tracing::error!(table, row, "a stored row cannot be read and counts for nothing");
    };
    rows.into_iter().filter_map(|row| row.inspect_err(tell).ok()).collect()
}

/// Each row of an answer; its number is in the last column.
pub(super) fn each_of<T>(
    table: &'static str,
    rows: Vec<Row>,
    read: impl Fn(&Row) -> Done<T>,
) -> Done<Legible<T>> {
    let one = |row: &Row| {
        let illegible = Illegible { table, row: get(row, row.len() - 1)? };
        match read(row) {
            Ok(found) => Ok(Ok(found)),
            Err(Failure::Corrupt(_)) => Ok(Err(illegible)),
            Err(failure) => Err(failure),
        }
    };
    rows.iter().map(one).collect()
}

const FREEZES: &str = "SELECT kind, tenant, name, include_rollback, at, by, reason,
    row_number() OVER (ORDER BY kind, tenant, name) FROM stop ORDER BY kind, tenant, name";

pub(super) async fn freezes(db: &Db) -> Done<Legible<Freeze>> {
    each_of("freeze", many(db, FREEZES, &[]).await?, |row| {
        let name: &str = get(row, 2)?;
        let scope = match get(row, 0)? {
            "all" => Scope::All,
            "tenant" => Scope::Tenant(tenant(row, 1)?),
            "agent" => Scope::Agent(tenant(row, 1)?, subject(row, 2)?),
            "archetype" => Scope::Archetype(tenant(row, 1)?, name.into()),
            "provider" => Scope::Provider(name.into()),
            other => return Err(Failure::Corrupt(format!("`{other}` is no kind of freeze"))),
        };
        let (include_rollback, at_ms) = (get(row, 3)?, get(row, 4)?);
        Ok(Freeze { scope, include_rollback, at_ms, by: text(row, 5)?, reason: text(row, 6)? })
    })
}

/// What is stopped. A freeze that cannot be read stops everything: nobody can tell what it was meant to.
pub(super) fn stops(freezes: Legible<Freeze>) -> Vec<Freeze> {
    let stop = |Illegible { table, row }| {
        tracing::error!(
            table,
            row,
            "a stored freeze cannot be read, so everything is frozen: see that what the audit trail tells of is frozen, \
             and then thaw `all`"
        );
        let reason = format!(
            "row {row} of `{table}` cannot be read; see that all is frozen that is to be, then thaw `all`"
        );
        let by = Subject::GATEWAY.into();
        Freeze { scope: Scope::All, include_rollback: true, at_ms: 0, by, reason: reason.into() }
    };
    freezes.into_iter().map(|freeze| freeze.unwrap_or_else(stop)).collect()
}

/// Kind, tenant and name of a scope, which are its primary key.
pub(super) fn scope_key(scope: &Scope) -> (&'static str, &str, &str) {
    match scope {
        Scope::All => ("all", "", ""),
        Scope::Tenant(tenant) => ("tenant", tenant.as_str(), ""),
        Scope::Agent(tenant, subject) => ("agent", tenant.as_str(), subject.as_str()),
        Scope::Archetype(tenant, archetype) => ("archetype", tenant.as_str(), archetype),
        Scope::Provider(provider) => ("provider", "", provider),
    }
}

const KEY: &str = "SELECT hash, id, tenant, subject, role, default_mandate, created, revoked, created_by, row FROM api_key ";

pub(super) async fn keys(db: &Db, of: Option<&Tenant>) -> Done<Legible<ApiKey>> {
    let sql = format!("{KEY} WHERE $1::text IS NULL OR tenant = $1 ORDER BY row");
    each_of("api_key", many(db, &sql, &[&of.map(Tenant::as_str)]).await?, key_at)
}

/// Credentials with these hashes that are not revoked.
pub(super) async fn keys_of(db: &Db, hashes: &[[u8; 32]]) -> Done<Vec<ApiKey>> {
    let sql = format!("{KEY} WHERE hash = ANY($1::bytea[]) AND revoked IS NULL");
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash[..]).collect();
    Ok(legible(each_of("api_key", many(db, &sql, &[&hashes]).await?, key_at)?))
}

fn key_at(row: &Row) -> Done<ApiKey> {
    Ok(ApiKey {
        hash: bytes(row, 0)?,
        id: text(row, 1)?,
        tenant: tenant(row, 2)?,
        subject: subject(row, 3)?,
        role: text(row, 4)?,
        default_mandate: maybe_text(row, 5)?,
        created_ms: get(row, 6)?,
        revoked_ms: get(row, 7)?,
        created_by: maybe_text(row, 8)?,
    })
}

/// The keys of every principal.
pub(super) async fn principal_keys(db: &Db) -> Done<Legible<PrincipalKey>> {
    let sql =
        "SELECT tenant, issuer, kid, jwk, created, created_by, revoked, row FROM principal_key ORDER BY row";
    each_of("principal_key", many(db, sql, &[]).await?, |row| {
        Ok(PrincipalKey {
            tenant: tenant(row, 0)?,
            issuer: text(row, 1)?,
            kid: text(row, 2)?,
            jwk: text(row, 3)?,
            created_ms: get(row, 4)?,
            created_by: text(row, 5)?,
            revoked_ms: get(row, 6)?,
        })
    })
}

/// Passkeys of one tenant, or with one credential. One whose row names an entry that is not there, is none of that kind or is
/// altered is not read.
pub(super) async fn passkeys(
    db: &Db,
    of: Option<&Tenant>,
    credential_id: Option<&[u8]>,
) -> Done<Legible<Passkey>> {
    let sql = "SELECT p.id, p.tenant, p.credential, p.registered, r.bytes, r.record, p.enrolled, e.bytes, e.record,
               p.revoked, v.bytes, v.record, p.registered FROM passkey p LEFT JOIN entry r ON r.row = p.registered
               LEFT JOIN entry e ON e.row = p.enrolled LEFT JOIN entry v ON v.row = p.revoked
               WHERE ($1::text IS NULL OR p.tenant = $1) AND ($2::bytea IS NULL OR p.credential = $2)
               ORDER BY p.registered";
    let rows = many(db, sql, &[&of.map(Tenant::as_str), &credential_id]).await?;
    each_of("passkey", rows, |row| {
        let mark = |column: usize, event: &str| match get::<Option<i64>>(row, column)? {
            None => Ok(None),
            Some(_) => match recorded(row, column + 1)? {
                Some((told, record)) if told == event => Ok(Some(record.to_vec())),
                _ => Err(Failure::Corrupt("a passkey names an entry that is none of its own".to_owned())),
            },
        };
        Ok(Passkey {
            id: text(row, 0)?,
            tenant: tenant(row, 1)?,
            credential_id: get(row, 2)?,
            entry: get(row, 3)?,
            registered: mark(3, PASSKEY_REGISTERED)?.unwrap_or_default(),
            enrolled: mark(6, PASSKEY_ENROLLED)?,
            revoked: mark(9, PASSKEY_REVOKED)?,
        })
    })
}

/// The record in the column behind an entry's, if that is sound and names it, with what happened.
pub(super) fn recorded(row: &Row, column: usize) -> Done<Option<(&str, &[u8])>> {
    let (bytes, record): (Option<&[u8]>, Option<&[u8]>) = (get(row, column)?, get(row, column + 1)?);
    let Some((bytes, record)) = bytes.zip(record) else { return Ok(None) };
    let said = Walk::alone(bytes).filter(|said| said.action_hash == Some(Sha256::digest(record).into()));
    Ok(said.map(|said| (said.event, record)))
}

/// A mandate with what is left of it.
pub(super) const MANDATE: &str = "SELECT m.tenant, m.jti, m.subject, m.issuer, m.issued, m.expires, m.claims, m.chain, m.kid,
    m.jti, coalesce(a.epoch, 0), coalesce(a.spent, 0), coalesce(a.actions, 0), a.revoked, coalesce(a.frozen, FALSE),
    coalesce(a.seconds, 0), coalesce(a.compute, 0), coalesce(a.memory, 0), coalesce(a.storage, 0), coalesce(a.egress, 0),
    coalesce(a.granted, 0), coalesce(a.granted_compute, 0), coalesce(a.granted_storage, 0), coalesce(a.granted_egress, 0),
    m.row FROM mandate m LEFT JOIN account a ON a.tenant = m.tenant AND a.key = m.account ";

pub(super) fn held_at(row: &Row) -> Done<Held> {
    Ok(Held { mandate: mandate_at(row, 0)?, account: account_at(row, 9)? })
}

pub(super) async fn mandate(db: &Db, of: &Tenant, jti: &str) -> Done<Option<Held>> {
    let sql = format!("{MANDATE} WHERE m.tenant = $1 AND m.jti = $2");
    many(db, &sql, &[&of.as_str(), &jti]).await?.first().map(held_at).transpose()
}

pub(super) async fn mandates(
    db: &Db,
    of: &Tenant,
    after: Option<i64>,
    limit: i64,
) -> Done<Legible<(i64, Held)>> {
    let sql = format!("{MANDATE} WHERE m.tenant = $1 AND m.row < $2 ORDER BY m.row DESC LIMIT $3");
    let rows = many(db, &sql, &[&of.as_str(), &after.unwrap_or(i64::MAX), &limit]).await?;
    each_of("mandate", rows, |row| Ok((get(row, 24)?, held_at(row)?)))
}

/// The mandates of all tenants.
pub(super) async fn all_mandates(db: &Db) -> Done<Legible<Held>> {
    each_of("mandate", many(db, &format!("{MANDATE} ORDER BY m.row"), &[]).await?, held_at)
}
