//! Clusters of governed sessions.

use std::collections::BTreeMap;

use action::{Subject, Tenant};
use mandate::{Cluster, ClusterRefusal, ClusterState, Member, Session};

use super::World;
use super::session::Place;
use crate::admit::Cell;
use crate::cluster::{Clustering, Happened, Scene, said_in};
use crate::{Clustered, Deed, Error, Event, Grouped, identity};

impl World {
    pub(crate) fn group(&mut self, clustering: &Clustering) -> Result<Grouped, Error> {
        let Clustering { tenant, cluster: id, deed, at_ms, .. } = clustering;
        let before = match (deed, self.cluster_named(tenant, id)) {
            (Deed::Form { .. }, Some(_)) => return Err(Error::Exists(id.clone())),
            (Deed::Form { deadline_ms, .. }, None) => Clustered {
                tenant: tenant.clone(),
                cluster: Cluster::form(id.clone(), *deadline_ms),
                formed_ms: *at_ms,
                opening: self.chain.next_id().into(),
                entry: self.next_entry(),
            },
            (_, Some(found)) => found,
            (_, None) => return Err(Error::Absent(id.clone())),
        };
        let happened = clustering.happens(self.scene(clustering, &before.cluster))?;
        self.happened(before, happened, None)
    }

    /// A session that has ended leaves its cluster, or once people have decided about that.
    pub(crate) fn ended(
        &mut self,
        (tenant, session, by_person): (&Tenant, &Session, bool),
        record: &Event,
        cause: &str,
    ) -> Result<(), Error> {
        let Some(before) = self.cluster_of(tenant, &session.id) else { return Ok(()) };
        let clustering = Clustering::end_of(session, tenant, &before.cluster, record, by_person);
        // Where people have to decide about its cluster, it goes once they have.
        if let Ok(happened) = clustering.happens(self.scene(&clustering, &before.cluster)) {
            self.happened(before, happened, Some(cause.into()))?;
        }
        Ok(())
    }

    fn scene<'c>(&mut self, clustering: &Clustering, cluster: &'c Cluster) -> Scene<'c> {
        let Clustering { tenant, session, .. } = clustering;
        let ids = cluster.members.iter().map(|member| &*member.session).chain([&**session]);
        let found = |id: &str| {
            let cell = self.rows.sessions.get(&identity::session(tenant, id))?;
            Some((id.into(), cell.value.clone()))
        };
        let sessions = ids.filter_map(found).collect();
        let elsewhere = self.cluster_of(tenant, session).is_some_and(|other| other.cluster.id != cluster.id);
        let mut accounts = BTreeMap::new();
        for debit in clustering.lines() {
            let cell = self.rows.account(identity::account(tenant, &debit.jti), &debit.jti);
            accounts.insert(debit.jti.clone(), cell.value.clone());
        }
        Scene { cluster, sessions, elsewhere, accounts }
    }

    fn happened(
        &mut self,
        before: Clustered,
        happened: Happened,
        cause: Option<Box<str>>,
    ) -> Result<Grouped, Error> {
        let tenant = before.tenant.clone();
        let Happened { cluster, sessions, accounts, told } = happened;
        for session in sessions {
            let key = identity::session(&tenant, &session.id);
            self.rows.sessions.insert(key, Cell { value: session, changed: true });
        }
        for (jti, account) in accounts {
            let key = identity::account(&tenant, &jti);
            self.rows.accounts.insert(key, Cell { value: account, changed: true });
        }
        let record_id: Box<str> = self.chain.next_id().into();
        let mut entry = before.entry;
        for (at, told) in told.into_iter().enumerate() {
            let session = identity::session(&tenant, &told.session);
            let cause = match (at, &cause) {
                (0, Some(cause)) => Some(cause.clone()),
                (0, None) => self.opening(session),
                _ => Some(record_id.clone()),
            };
            let stands = said_in(told.event.event, &told.event.record).is_some();
            let row = self.tells(told.event, Place { session, intent: None, cause })?;
            if stands {
                entry = row;
            }
        }
        let after = Clustered { cluster, entry, ..before };
        self.clusters.retain(|it| it.tenant != tenant || it.cluster.id != after.cluster.id);
        self.clusters.push(after.clone());
        self.regrouped.insert((tenant, after.cluster.id.clone()));
        Ok(Grouped { cluster: after, record_id })
    }

    pub(crate) fn cluster_named(&self, tenant: &Tenant, id: &str) -> Option<Clustered> {
        self.clusters.iter().find(|it| it.tenant == *tenant && *it.cluster.id == *id).cloned()
    }

    pub(crate) fn deadlocks(&self, tenant: &Tenant) -> Vec<Clustered> {
        let stuck = |it: &&Clustered| it.tenant == *tenant && it.cluster.state() == ClusterState::Deadlock;
        self.clusters.iter().filter(stuck).cloned().collect()
    }

    /// Lets through where no session of this agent under the mandate is in a cluster about which people have to decide.
    pub(crate) fn must_be_free(
        &self,
        tenant: &Tenant,
        subject: &Subject,
        root: &str,
    ) -> Result<(), ClusterRefusal> {
        let comes_from = |jti: &str| {
            let mut known = self.mandates.iter().filter(|it| it.tenant == *tenant);
            jti == root || known.any(|it| *it.jti == *jti && it.chain.iter().any(|above| **above == *root))
        };
        let of_agent = |member: &Member| {
            let session = self.rows.sessions.get(&identity::session(tenant, &member.session));
            session.is_some_and(|cell| cell.value.subject == *subject) && comes_from(&member.mandate_id)
        };
        let mut theirs = self.clusters.iter().filter(|it| it.tenant == *tenant);
        theirs.try_for_each(|it| match it.cluster.members.iter().any(of_agent) {
            true => it.cluster.must_be_free(),
            false => Ok(()),
        })
    }

    pub(crate) fn cluster_of(&self, tenant: &Tenant, session: &str) -> Option<Clustered> {
        let mut own = self.clusters.iter().filter(|it| it.tenant == *tenant);
        own.find(|it| it.cluster.member(session).is_ok()).cloned()
    }
}
