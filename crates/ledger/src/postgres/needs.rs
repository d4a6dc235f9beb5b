//! Which rows a batch touches, so that they can be locked in one order and read at once.

use std::collections::{BTreeMap, BTreeSet};

use action::{ActionId, Subject, Tenant};

use crate::admit::Item;
use crate::identity::{self, Claim};
use crate::intake::Close;
use crate::{Approval, By, Clustering, Deferral};

/// The rows. Sorted, since that is the order in which they are locked.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Keys that are claimed, each by whom first.
    pub(super) claims: BTreeMap<(Tenant, Claim), ActionId>,
    /// Effects, each with since when what stands in its way counts.
    pub(super) effects: BTreeMap<(Tenant, [u8; 32]), i64>,
    /// Agents of which something is to wait, each with since when what waits counts.
    pub(super) agents: BTreeMap<(Tenant, Subject), i64>,
    pub(super) actions: BTreeSet<ActionId>,
    /// Actions of which it is needed what people said.
    pub(super) voices: BTreeSet<ActionId>,
    /// Actions of which it is needed whether they have a receipt.
    pub(super) firsts: BTreeSet<ActionId>,
    /// Actions of which the accounts are needed, unless this is what they have debited already.
    pub(super) charged: BTreeMap<ActionId, Option<i64>>,
    /// By key, with the mandate's id.
    pub(super) accounts: BTreeMap<(Tenant, i64), Box<str>>,
    pub(super) mandates: BTreeSet<(Tenant, Box<str>)>,
    /// Mandates of which the accounts of all that they descend from are needed, too.
    pub(super) lines: BTreeSet<(Tenant, Box<str>)>,
    pub(super) sessions: BTreeSet<(Tenant, i64)>,
    /// Sessions by name, with the cluster that each is in.
    pub(super) grouped: BTreeSet<(Tenant, Box<str>)>,
    pub(super) clusters: BTreeSet<(Tenant, Box<str>)>,
    /// Agents and mandates: the clusters in which there is a session of that agent under that mandate's root.
    pub(super) bound: BTreeSet<(Tenant, Subject, Box<str>)>,
    /// Declarations in sessions.
    pub(super) declared: BTreeSet<(Tenant, i64, Box<str>)>,
    /// Declarations under mandates.
    pub(super) declaring: BTreeSet<(Tenant, Box<str>, Box<str>)>,
    pub(super) series: BTreeSet<(Tenant, i64)>,
    pub(super) seen: BTreeSet<(Tenant, i64)>,
    /// Is it about to change what is frozen?
    pub(super) freezes: bool,
    /// Does it matter who is still there?
    pub(super) living: bool,
}

impl Needs {
    /// Takes in what something else needs.
    pub(super) fn take(&mut self, other: &Needs) {
        for (key, action) in &other.claims {
            self.claims.entry(key.clone()).or_insert(*action);
        }
        other.effects.iter().for_each(|(key, at_ms)| earliest(&mut self.effects, key.clone(), *at_ms));
        other.agents.iter().for_each(|(key, at_ms)| earliest(&mut self.agents, key.clone(), *at_ms));
        for (action, alike) in &other.charged {
            self.charged.entry(*action).and_modify(|known| *known = None).or_insert(*alike);
        }
        self.actions.extend(&other.actions);
        self.voices.extend(&other.voices);
        self.firsts.extend(&other.firsts);
        self.accounts.extend(other.accounts.clone());
        self.mandates.extend(other.mandates.clone());
        self.lines.extend(other.lines.clone());
        self.sessions.extend(other.sessions.clone());
        self.grouped.extend(other.grouped.clone());
        self.clusters.extend(other.clusters.clone());
        self.bound.extend(other.bound.clone());
        self.declared.extend(other.declared.clone());
        self.declaring.extend(other.declaring.clone());
        self.series.extend(other.series.clone());
        self.seen.extend(other.seen.clone());
        self.freezes |= other.freezes;
        self.living |= other.living;
    }

    pub(super) fn item(&mut self, item: &Item) {
        let intent = &item.intent;
        let tenant = &intent.tenant;
        match (item.resumes, item.claim) {
            (Some(_), _) => self.actions.extend([intent.id]),
            (None, Some(claim)) => {
                self.claims.entry((tenant.clone(), claim)).or_insert(intent.id);
            }
            (None, None) => {}
        }
        for (key, debit) in item.accounts.iter().zip(item.debits()) {
            self.account_at(tenant, *key, &debit.link.jti);
        }
        if let Some(effect) = item.effect() {
            let since_ms = intent.at_ms.saturating_sub(effect.window_ms);
            earliest(&mut self.effects, (tenant.clone(), effect.hash), since_ms);
        }
        if item.hold().is_some() {
            earliest(&mut self.agents, item.agent(), intent.at_ms);
        }
        if item.counts() {
            self.series.insert((tenant.clone(), item.series));
            self.seen.extend(item.seen.map(|mark| (tenant.clone(), mark)));
        }
        if let Some((key, cycle)) = item.session.zip(item.cycle.as_ref()) {
            self.sessions.insert((tenant.clone(), key));
            self.declared.extend(cycle.intent.clone().map(|intent| (tenant.clone(), key, intent)));
        }
    }

    pub(super) fn close(&mut self, close: &Close) {
        let settlement = &close.settlement;
        self.actions.insert(settlement.action);
        self.firsts.extend(settlement.original.then_some(settlement.action));
        self.living |= looks_at_others(settlement.by);
        let alike = settlement.charged.filter(|_| settlement.used.is_none() && settlement.overage.is_none());
        if settlement.charged.is_some() || settlement.used.is_some() || settlement.overage.is_some() {
            // Of two that come at once nobody knows what the first leaves to the second.
            self.charged.entry(settlement.action).and_modify(|known| *known = None).or_insert(alike);
        }
    }

    pub(super) fn defer(&mut self, deferral: &Deferral) {
        self.actions.insert(deferral.action);
        self.living |= looks_at_others(deferral.by);
    }

    pub(super) fn word(&mut self, word: &Approval) {
        self.actions.insert(word.action);
        self.voices.insert(word.action);
    }

    pub(super) fn account(&mut self, tenant: &Tenant, jti: &str) {
        self.account_at(tenant, identity::account(tenant, jti), jti);
    }

    fn account_at(&mut self, tenant: &Tenant, key: i64, jti: &str) {
        self.accounts.entry((tenant.clone(), key)).or_insert_with(|| jti.into());
    }

    pub(super) fn mandate(&mut self, tenant: &Tenant, jti: &str) {
        self.mandates.insert((tenant.clone(), jti.into()));
        self.account(tenant, jti);
    }

    pub(super) fn session(&mut self, tenant: &Tenant, id: &str) {
        self.sessions.insert((tenant.clone(), identity::session(tenant, id)));
    }

    pub(super) fn clustering(&mut self, clustering: &Clustering) {
        let Clustering { tenant, cluster, session, .. } = clustering;
        self.clusters.insert((tenant.clone(), cluster.clone()));
        self.session(tenant, session);
        self.grouped.insert((tenant.clone(), session.clone()));
        for link in clustering.lines() {
            self.account(tenant, &link.jti);
        }
    }
}

/// Does it depend on who may still be at the action whether this counts?
fn looks_at_others(by: By) -> bool {
    matches!(by, By::Heir(_) | By::Person(_))
}

fn earliest<K: Ord>(map: &mut BTreeMap<K, i64>, key: K, at_ms: i64) {
    map.entry(key).and_modify(|known| *known = at_ms.min(*known)).or_insert(at_ms);
}
