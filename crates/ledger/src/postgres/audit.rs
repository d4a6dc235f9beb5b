//! Searching the audit trail: stretch by stretch along the numbers of entries, each with the action that it is about.

use action::{Subject, Tenant};
use tokio_postgres::Row;

use super::read::{labels, readable};
use super::replica::horizon;
use super::sql::{Db, Done, Values, get, many, tenant, text};
use crate::entry::Reading;
use crate::packed::unpack;
use crate::{About, Audited, Order, Owner, Page, Search};

/// What one call looks at, at most.
const STRETCHES: usize = 8;
/// Entries of a stretch.
const STRETCH: i64 = 4096;

/// What is looked for, and where.
pub(super) struct Query {
    pub(super) tenant: Tenant,
    pub(super) search: Search,
    pub(super) order: Order,
    pub(super) after: Option<i64>,
    pub(super) limit: u32,
}

/// Newest first nobody misses what is not there yet; oldest first nothing is read to which something may be added before it.
pub(super) async fn search(db: &Db, query: &Query) -> Done<Page<Audited>> {
    let upto = match query.order {
        Order::NewestFirst => i64::MAX,
        Order::OldestFirst => horizon(db).await?,
    };
    let mut after = query.after;
    let mut found = Vec::new();
    for _ in 0..STRETCHES {
        let (low, high) = match query.order {
            Order::NewestFirst => (0, after.map_or(upto, |after| upto.min(after - 1))),
            Order::OldestFirst => (after.map_or(0, |after| after + 1), upto),
        };
        let stretch = stretch(db, query, low, high).await?;
        let Some(last) = stretch.last else { return Ok(Page { rows: found, next: None }) };
        for audited in stretch.found {
            let row = audited.row;
            if query.search.lets_pass(&query.tenant, &audited) {
                found.push(audited);
            }
            if found.len() >= query.limit as usize {
                return Ok(Page { rows: found, next: Some(row) });
            }
        }
        after = Some(last);
    }
    Ok(Page { rows: found, next: after })
}

struct Stretch {
    found: Vec<Audited>,
    /// The last entry that was looked at.
    last: Option<i64>,
}

/// The entries of the next stretch that may be wanted: what the database can tell, it leaves out.
async fn stretch(db: &Db, query: &Query, low: i64, high: i64) -> Done<Stretch> {
    let order = match query.order {
        Order::NewestFirst => "DESC",
        Order::OldestFirst => "ASC",
    };
    let bounds = format!("SELECT row FROM entry WHERE row >= $1 AND row <= $2 ORDER BY row {order} LIMIT $3");
    let bounds = format!("SELECT min(row), max(row) FROM ({bounds}) s");
    let row = super::sql::one(db, &bounds, &[&low, &high, &STRETCH]).await?;
    let (first, last): (Option<i64>, Option<i64>) = match &row {
        Some(row) => (get(row, 0)?, get(row, 1)?),
        None => (None, None),
    };
    let Some((first, last)) = first.zip(last) else { return Ok(Stretch { found: Vec::new(), last: None }) };
    let sql = format!(
        "SELECT e.row, e.bytes, e.record, a.id, a.tenant, a.subject, a.archetype, a.at, a.session, a.verb, a.target, a.level,
         a.regulations, a.refs, a.payload FROM entry e LEFT JOIN action a ON a.id = e.action
         WHERE e.row >= $1 AND e.row <= $2 AND (e.action IS NULL OR (a.tenant = $3
         AND ($4::text IS NULL OR a.subject = $4) AND ($5::text IS NULL OR a.archetype = $5)
         AND ($6::text IS NULL OR a.session = $6) AND ($7::text IS NULL OR a.target = $7)
         AND ($8::text IS NULL OR a.level = $8))) ORDER BY e.row {order}"
    );
    let Search { subject, archetype, session, target, level, .. } = &query.search;
    let values: Values<'_> = &[
        &first,
        &last,
        &query.tenant.as_str(),
        &subject.as_ref().map(Subject::as_str),
        &archetype.as_deref(),
        &session.as_deref(),
        &target.as_deref(),
        &level.as_deref(),
    ];
    let mut found = Vec::new();
    for row in many(db, &sql, values).await? {
        found.extend(audited(&row)?);
    }
    let end = match query.order {
        Order::NewestFirst => first,
        Order::OldestFirst => last,
    };
    Ok(Stretch { found, last: Some(end) })
}

/// An entry with what it is about. One whose action is gone is not listed any more; one that cannot be read keeps nobody from
/// the others.
fn audited(row: &Row) -> Done<Option<Audited>> {
    let number: i64 = get(row, 0)?;
    let Some(entry) = Reading::of(get(row, 1)?) else { return Ok(None) };
    let about = match entry.action {
        None => About::Event,
        Some(_) if get::<Option<&[u8]>>(row, 3)?.is_none() => return Ok(None),
        Some(action) => match readable(owner(row, action))? {
            Some(owner) => About::Action(Box::new(owner)),
            None => {
                tracing::error!(%action, entry = number, "a stored action cannot be read and its entry is left out");
                return Ok(None);
            }
        },
    };
    Ok(Some(Audited::new(number, &entry, get(row, 2)?, about)))
}

fn owner(row: &Row, id: action::ActionId) -> Done<Owner> {
    let payload = unpack(get(row, 14)?).unwrap_or_else(|| {
        tracing::error!(action = %id, "a stored action cannot be read; its entries are listed without it");
        Vec::new()
    });
    Ok(Owner {
        id,
        tenant: tenant(row, 4)?,
        subject: super::sql::subject(row, 5)?,
        archetype: text(row, 6)?,
        at_ms: get(row, 7)?,
        labels: labels(row, 8)?,
        payload,
    })
}
