//! Answering [`Ledger::facts`](crate::Ledger::facts): from memory where possible, which it nearly always is.

use std::sync::Arc;

use super::Shared;
use super::batch::stored_series;
use super::filter::Kind;
use super::read::{self, Slot};
use crate::identity::{self, Claim};
use crate::{Error, Existing, Facts, FactsQuery, Freeze};

impl Shared {
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
            Slot::Taken(claimed) => {
                let (reply, altered) = read::last_reply(db, claimed.id)?;
                Ok(Some(Existing {
                    id: claimed.id,
                    same_request: claimed.request_hash == *request_hash,
                    state: claimed.state,
                    at_ms: claimed.at_ms,
                    reply,
                    altered,
                }))
            }
        })
    }

    pub(super) fn facts(&self, query: &FactsQuery<'_>) -> Result<Facts, Error> {
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
                Arc::new(self.read(|db| stored_series(db, key))?)
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
                let since_ms = query.now_ms - effect.window_ms;
                let standing = self.read(|db| read::effect(db, &effect.hash, since_ms))?;
                standing.into_iter().find(|earlier| Some(earlier.id) != query.apart_from)
            }
            _ => None,
        };
        let fresh = |(account, jti): (Option<mandate::Account>, &Arc<str>)| {
            account.unwrap_or_else(|| mandate::Account::new(&**jti))
        };
        let accounts = known.accounts.into_iter().zip(query.mandates).map(fresh).collect();
        Ok(Facts {
            existing: None,
            accounts,
            frozen: known.frozen,
            series,
            first_seen,
            earlier,
            observed_ms: None,
        })
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
