//! Clusters of governed sessions: rows that change only in the commit of the entries that say so.
//!
//! What happens to a cluster is told in the records of the sessions it happens to: first in that of the session that does
//! it, which says how the cluster stands from then on, then in those of the others, each naming the first as its cause.
//! It raises the epoch of every member, so that no cycle is admitted that was judged without knowing of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use action::{Subject, Tenant, json};
use mandate::{
    Account, Cluster, ClusterEvent, ClusterRefusal, Member, Resource, Session, SessionEvent, left_of,
};
use mandate::{SessionRefusal, SessionState};
use serde_json::{Value, json};

use crate::session::after;
use crate::{Error, Event, Link};

/// Something that a session has its cluster do.
#[derive(Clone, Debug)]
pub struct Clustering {
    /// Whose.
    pub tenant: Tenant,
    /// How the chain names the tenant.
    pub tenant_ref: Option<Arc<str>>,
    /// Which cluster.
    pub cluster: Box<str>,
    /// Which session.
    pub session: Box<str>,
    /// What.
    pub deed: Deed,
    /// Who says so; `None` where it follows from the end of the session.
    pub by: Option<Doer>,
    /// Milliseconds since 1970, UTC.
    pub at_ms: i64,
}

/// Who has something done to a cluster.
#[derive(Clone, Debug)]
pub struct Doer {
    /// Who.
    pub subject: Subject,
    /// A person may resolve what agents may not.
    pub person: bool,
}

/// What can be done with a cluster.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Form it, with the session as its first member.
    Form {
        /// In whose name the session acts.
        principal: Box<str>,
        /// Over then, in Unix milliseconds.
        deadline_ms: i64,
    },
    /// Join it.
    Join {
        /// In whose name the session acts.
        principal: Box<str>,
    },
    /// Leave it.
    Leave,
    /// The same of a session that ended by what it did or did not do: it goes where people have nothing to decide.
    Fall,
    /// Wait for another member.
    Wait {
        /// Its session.
        on: Box<str>,
    },
    /// Wait no more.
    Resume,
    /// Have nothing of its members begin until it is let go. The session is one of them, in whose record it is said first.
    Hold {
        /// Why, for the record.
        reason: Option<String>,
    },
    /// Let it go on. The session is as for `Hold`.
    Release,
    /// Hand time or resources to another member.
    Transfer(Transfer),
}

/// What is to go from one member to another.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// The session that gets it.
    pub to: Box<str>,
    /// Of what.
    pub resource: Resource,
    /// How much.
    pub amount: u64,
    /// The mandate of the session that gives it and all that it descends from, leaf first.
    pub source: Vec<Link>,
    /// The same of the other.
    pub target: Vec<Link>,
    /// How much of it each of the two had left by its accounts when the policies were asked; if that is something else now
    /// they are asked anew ([`Error::Changed`]). `None` if nothing was judged by it.
    pub judged: Option<[u64; 2]>,
    /// The policies that permit it.
    pub policies: Vec<String>,
}

/// A cluster, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clustered {
    /// Whose.
    pub tenant: Tenant,
    /// How it stands.
    pub cluster: Cluster,
    /// When it was formed, in Unix milliseconds.
    pub formed_ms: i64,
    /// The id of its first record.
    pub opening: Box<str>,
    /// The row of the newest entry that says how it stands.
    pub entry: i64,
}

/// What became of something that was to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouped {
    /// The cluster after it.
    pub cluster: Clustered,
    /// The record of it, in the session that did it.
    pub record_id: Box<str>,
}

/// What there is before something happens: the cluster, and the sessions of its members and of whoever does it.
pub(crate) struct Scene<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) sessions: BTreeMap<Box<str>, Session>,
    /// Is the session a member of another cluster?
    pub(crate) elsewhere: bool,
    /// What is left of the mandates that a transfer is about, by their ids.
    pub(crate) accounts: Accounts,
}

/// Accounts of mandates, by their ids.
pub(crate) type Accounts = BTreeMap<Arc<str>, Account>;

/// What comes of it: the rows that change, and what is written down.
pub(crate) struct Happened {
    pub(crate) cluster: Cluster,
    pub(crate) sessions: Vec<Session>,
    pub(crate) accounts: Accounts,
    /// What the session that does it says, and then the others, because of it.
    pub(crate) told: Vec<SessionRecord>,
}

/// One record, and the session that it is of.
pub(crate) struct SessionRecord {
    pub(crate) session: Box<str>,
    pub(crate) event: Event,
}

impl SessionRecord {
    fn also(&mut self, member: &str, value: Value) {
        if let Ok(Value::Object(mut record)) = serde_json::from_slice(&self.event.record) {
            record.insert(member.into(), value);
            self.event.record = json::canonical(&Value::Object(record)).into_bytes();
        }
    }
}

impl Clustering {
    /// Does it, or says why it cannot be done. Pure: the caller holds the rows under its lock, and writes what comes of it.
    pub(crate) fn happens(&self, scene: Scene<'_>) -> Result<Happened, Error> {
        let before = scene.cluster;
        self.may_be(&scene)?;
        let refused = Error::Cluster;
        let mut next = match self.event(&scene)? {
            Some(event) => before.step(event, self.at_ms).map_err(refused)?,
            None => before.clone(),
        };
        // Those that are over go with it, once people have decided.
        let is_over = |id: &str| scene.sessions.get(id).is_some_and(|session| session.closed.is_some());
        while !next.terminated
            && next.must_be_free().is_ok()
            && let Some(gone) =
                next.members.iter().find(|it| is_over(&it.session)).map(|it| it.session.clone())
        {
            next = next.step(ClusterEvent::Left { session: gone }, self.at_ms).map_err(refused)?;
        }
        if next.members.is_empty() {
            next = next.step(ClusterEvent::Terminated, self.at_ms).map_err(refused)?;
        }
        let accounts = match &self.deed {
            Deed::Transfer(transfer) => self.moves(transfer, &scene)?,
            _ => Accounts::new(),
        };
        let freed: Vec<Box<str>> = before.freed(&next).into_iter().map(Box::from).collect();
        let told = self.tells(&scene, &next, &freed, &accounts);
        let sessions = self.sessions(scene.sessions, &freed)?;
        Ok(Happened { cluster: next, sessions, accounts, told })
    }

    /// Whether the session may do it now, whatever its cluster says.
    fn may_be(&self, scene: &Scene<'_>) -> Result<(), Error> {
        let state = scene.sessions.get(&self.session).map(Session::state);
        let state = state.ok_or_else(|| Error::Absent(self.session.clone()))?;
        let may = match (&self.deed, state) {
            (Deed::Form { .. } | Deed::Join { .. } | Deed::Wait { .. }, it) => it == SessionState::Active,
            // Who waits may hand over what it does not need meanwhile.
            (Deed::Transfer(_), it) => matches!(it, SessionState::Active | SessionState::ClusterBlocked),
            (Deed::Leave | Deed::Fall | Deed::Resume | Deed::Hold { .. } | Deed::Release, _) => true,
        };
        if !may {
            return Err(Error::Session(SessionRefusal::State(state)));
        }
        if matches!(self.deed, Deed::Hold { .. } | Deed::Release) {
            scene.cluster.member(&self.session).map_err(Error::Cluster)?;
        }
        let agent = self.by.as_ref().is_some_and(|by| !by.person);
        match self.deed {
            Deed::Fall => scene.cluster.must_be_free().map_err(Error::Cluster)?,
            Deed::Leave if agent => scene.cluster.must_be_free().map_err(Error::Cluster)?,
            Deed::Resume if agent && !scene.cluster.deadlock().is_empty() => {
                return Err(Error::Cluster(ClusterRefusal::ForPeople));
            }
            _ => {}
        }
        let joins = matches!(self.deed, Deed::Form { .. } | Deed::Join { .. });
        if joins && scene.elsewhere {
            return Err(Error::Cluster(ClusterRefusal::Elsewhere));
        }
        Ok(())
    }

    /// What it is to the cluster; a transfer leaves that as it is.
    fn event(&self, scene: &Scene<'_>) -> Result<Option<ClusterEvent>, Error> {
        let session = self.session.clone();
        Ok(Some(match &self.deed {
            Deed::Form { principal, .. } | Deed::Join { principal } => {
                let joins = scene.sessions.get(&session).ok_or_else(|| Error::Absent(session.clone()))?;
                let mandate_id = joins.mandate_id.clone();
                let principal = principal.clone();
                ClusterEvent::Joined(Member { session, mandate_id, principal, waits_for: None })
            }
            Deed::Leave | Deed::Fall => ClusterEvent::Left { session },
            Deed::Wait { on } => ClusterEvent::Waiting { session, on: on.clone() },
            Deed::Resume => ClusterEvent::Resumed { session },
            Deed::Hold { .. } => ClusterEvent::Held,
            Deed::Release => ClusterEvent::Released,
            Deed::Transfer(_) => return Ok(None),
        }))
    }

    /// The accounts after a transfer.
    fn moves(&self, transfer: &Transfer, scene: &Scene<'_>) -> Result<Accounts, Error> {
        let Transfer { to, resource, amount, source, target, .. } = transfer;
        let resource = *resource;
        let refused = Error::Cluster;
        for (session, line) in [(&self.session, source), (to, target)] {
            may_move(session, resource, line, scene).map_err(refused)?;
        }
        let lefts = [source, target].map(|line| left(resource, line, &scene.accounts));
        if transfer.judged.is_some_and(|judged| judged != lefts) {
            return Err(Error::Changed(self.session.clone()));
        }
        let [left, _] = lefts;
        let moved = scene.cluster.transfer(&self.session, to, (resource, *amount), lefts, self.at_ms);
        let moved = moved.map_err(refused)?;
        let gives: Vec<&str> = source.iter().map(|link| &*link.jti).collect();
        let gets: Vec<&str> = target.iter().map(|link| &*link.jti).collect();
        let mut after = Accounts::new();
        for (jti, amount) in moved.grants(&gives, &gets).map_err(refused)? {
            let link = source.iter().chain(target).find(|link| *link.jti == *jti);
            // Where there is no limit nothing is counted.
            let Some(link) = link.filter(|it| it.limits.envelope.of(resource).is_some()) else {
                continue;
            };
            let granted = account(&scene.accounts, jti).grant(&link.limits, resource, amount);
            let granted = granted.map_err(|_| refused(ClusterRefusal::MoreThanLeft { left }))?;
            after.insert(link.jti.clone(), granted);
        }
        Ok(after)
    }

    /// The sessions after it: each member that it may matter to is judged anew.
    fn sessions(
        &self,
        sessions: BTreeMap<Box<str>, Session>,
        freed: &[Box<str>],
    ) -> Result<Vec<Session>, Error> {
        let mut next = Vec::with_capacity(sessions.len());
        for (id, mut session) in sessions {
            if id == self.session && matches!(self.deed, Deed::Wait { .. }) {
                let blocked = SessionEvent::Blocked { at_ms: self.at_ms };
                session = session.step(blocked).map_err(Error::Session)?;
            }
            if freed.contains(&id) {
                session = after(&session, SessionEvent::Unblocked);
            }
            next.push(after(&session, SessionEvent::Regrouped));
        }
        Ok(next)
    }

    fn tells(
        &self,
        scene: &Scene<'_>,
        next: &Cluster,
        freed: &[Box<str>],
        after: &Accounts,
    ) -> Vec<SessionRecord> {
        let id = &*next.id;
        let since = |session: &str| scene.sessions.get(session).and_then(|it| it.blocked_ms);
        let ended = |session: &str| {
            let on = scene.cluster.member(session).ok().and_then(|member| member.waits_for.clone());
            let waited = since(session).map(|since| self.at_ms.saturating_sub(since).max(0));
            let fields = json!({
                "blocked_ms": waited, "blocked_on_session_id": on, "cluster_id": id, "session_id": session,
            });
            self.told(session, BLOCK_END, Some("ALE-020"), fields, None)
        };
        let others = |freed: &[Box<str>]| -> Vec<SessionRecord> {
            freed.iter().map(|session| ended(session)).collect()
        };
        let of_itself = |name, code, fields| self.told(&self.session, name, code, fields, Some(next));
        match &self.deed {
            Deed::Form { .. } | Deed::Join { .. } => {
                let member = next.members.last();
                let fields = json!({
                    "cluster_id": id, "principal": member.map(|it| &*it.principal), "session_id": &*self.session,
                });
                let forms = matches!(self.deed, Deed::Form { .. });
                vec![of_itself(if forms { FORMED } else { JOINED }, None, fields)]
            }
            Deed::Leave | Deed::Fall => {
                let fields = json!({"cluster_id": id, "session_id": &*self.session});
                let mut told = vec![of_itself(LEFT, None, fields)];
                told.extend(others(freed));
                told
            }
            Deed::Wait { on } => {
                let fields = json!({
                    "blocked_on_session_id": on, "cluster_id": id, "session_id": &*self.session,
                });
                let mut told = vec![of_itself(BLOCK_START, Some("ALE-019"), fields)];
                let circle = next.deadlock();
                let fields = json!({
                    "cluster_id": id, "escalation": "HEM_MULTI_PRINCIPAL_REQUIRED", "escalation_class": 8,
                    "principals": next.principals(), "sessions": &circle, "trigger": "R-7",
                });
                told.extend(
                    circle.iter().map(|session| self.told(session, DEADLOCK, None, fields.clone(), None)),
                );
                told
            }
            Deed::Resume => {
                let mut told = ended(&self.session);
                // It says how the cluster stands from now on.
                told.also("cluster", standing(next));
                vec![told]
            }
            Deed::Hold { reason } => {
                let fields = json!({"cluster_id": id, "reason": reason});
                self.tells_all(HELD, None, &fields, next)
            }
            Deed::Release => self.tells_all(RELEASED, Some("ALE-009"), &json!({"cluster_id": id}), next),
            Deed::Transfer(transfer) => self.tells_transfer(transfer, scene, after),
        }
    }

    /// The same in the record of every member; the first says how the cluster stands.
    fn tells_all(
        &self,
        name: &'static str,
        code: Option<&str>,
        fields: &Value,
        next: &Cluster,
    ) -> Vec<SessionRecord> {
        let others = next.members.iter().map(|member| &*member.session).filter(|it| **it != *self.session);
        let first = self.told(&self.session, name, code, fields.clone(), Some(next));
        let others = others.map(|session| self.told(session, name, code, fields.clone(), None));
        std::iter::once(first).chain(others).collect()
    }

    fn tells_transfer(&self, transfer: &Transfer, scene: &Scene<'_>, after: &Accounts) -> Vec<SessionRecord> {
        let Transfer { to, resource, amount, policies, source, target, judged: _ } = transfer;
        let resource = *resource;
        let accounts: Accounts = scene.accounts.clone().into_iter().chain(after.clone()).collect();
        let mandate = |session: &str| scene.cluster.member(session).ok().map(|it| it.mandate_id.clone());
        let fields = json!({
            "amount": amount, "cedar_policy_ids": policies, "cluster_id": &*scene.cluster.id,
            "from_mandate_id": mandate(&self.session), "from_remaining": left(resource, source, &accounts),
            "from_session_id": &*self.session, "resource": resource.word(), "to_mandate_id": mandate(to),
            "to_remaining": left(resource, target, &accounts), "to_session_id": to,
        });
        let mut transferred = self.told(&self.session, TRANSFER, Some("ALE-018"), fields.clone(), None);
        transferred.also("granted", self.granted(resource, scene, after));
        vec![transferred, self.told(to, RECEIVED, None, fields, None)]
    }

    /// What is added to each account, and taken from it, so that accounts can be held against the chain.
    fn granted(&self, resource: Resource, scene: &Scene<'_>, after: &Accounts) -> Value {
        let grant = |(jti, after): (&Arc<str>, &Account)| {
            let before = account(&scene.accounts, jti).granted.of(resource);
            let amount = after.granted.of(resource).saturating_sub(before);
            let mut granted = json!({"jti": &**jti, "tenant": self.tenant.as_str()});
            match resource {
                Resource::Seconds => granted["seconds"] = amount.into(),
                _ => (granted["resource"], granted["amount"]) = (resource.word().into(), amount.into()),
            }
            granted
        };
        after.iter().map(grant).collect()
    }

    fn told(
        &self,
        session: &str,
        name: &'static str,
        code: Option<&str>,
        fields: Value,
        stands: Option<&Cluster>,
    ) -> SessionRecord {
        let mut record = json!({
            "ale": {"code": code, "fields": fields},
            "by": self.by.as_ref().map(|by| by.subject.as_str()),
        });
        if let Some(cluster) = stands {
            record["cluster"] = standing(cluster);
        }
        let record = json::canonical(&record).into_bytes();
        let event = Event { at_ms: self.at_ms, tenant_ref: self.tenant_ref.clone(), event: name, record };
        SessionRecord { session: session.into(), event }
    }

    /// The mandates whose accounts it needs.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Link> {
        let transfer = match &self.deed {
            Deed::Transfer(transfer) => Some(transfer),
            _ => None,
        };
        transfer.into_iter().flat_map(|it| it.source.iter().chain(&it.target))
    }

    /// A session that is over is no member any more.
    pub(crate) fn end_of(
        session: &Session,
        tenant: &Tenant,
        cluster: &Cluster,
        record: &Event,
        by_person: bool,
    ) -> Clustering {
        Clustering {
            tenant: tenant.clone(),
            tenant_ref: record.tenant_ref.clone(),
            cluster: cluster.id.clone(),
            session: session.id.clone(),
            deed: if by_person { Deed::Leave } else { Deed::Fall },
            by: None,
            at_ms: record.at_ms,
        }
    }
}

/// Whether so much of it may move from this member or to it.
fn may_move(
    session: &str,
    resource: Resource,
    line: &[Link],
    scene: &Scene<'_>,
) -> Result<(), ClusterRefusal> {
    let member = scene.cluster.member(session)?;
    let leaf = line.first().filter(|leaf| *leaf.jti == *member.mandate_id);
    if leaf.is_none_or(|leaf| leaf.limits.envelope.of(resource).is_none()) {
        return Err(ClusterRefusal::NoLimit { session: session.into(), resource });
    }
    let stopped = |link: &Link| {
        let account = account(&scene.accounts, &link.jti);
        account.frozen || account.revoked_at.is_some()
    };
    match line.iter().any(stopped) {
        true => Err(ClusterRefusal::Stopped { session: session.into() }),
        false => Ok(()),
    }
}

fn account(accounts: &Accounts, jti: &str) -> Account {
    accounts.get(jti).cloned().unwrap_or_else(|| Account::new(jti))
}

/// What all of a line have left together.
fn left(resource: Resource, line: &[Link], accounts: &Accounts) -> u64 {
    left_of(resource, line.iter().map(|link| (account(accounts, &link.jti), link.limits)))
}

/// How a cluster stands, as its records say it.
fn standing(cluster: &Cluster) -> Value {
    let member = |it: &Member| {
        json!({
            "mandateId": it.mandate_id, "principal": it.principal, "sessionId": it.session, "waitsFor": it.waits_for,
        })
    };
    json!({
        "deadline": cluster.deadline_ms, "held": cluster.held, "id": cluster.id,
        "members": cluster.members.iter().map(member).collect::<Vec<_>>(), "terminated": cluster.terminated,
    })
}

/// The cluster that a record says the standing of, and whether that is the standing of the one given.
pub(crate) fn said_in(event: &str, record: &[u8]) -> Option<Said> {
    if ![FORMED, JOINED, LEFT, BLOCK_START, BLOCK_END, HELD, RELEASED].contains(&event) {
        return None;
    }
    let record: Value = serde_json::from_slice(record).ok()?;
    let stands = record.get("cluster")?.clone();
    Some(Said(stands))
}

/// How a cluster stood, as a record says.
pub(crate) struct Said(Value);

impl Said {
    /// Which cluster.
    pub(crate) fn id(&self) -> &str {
        self.0["id"].as_str().unwrap_or_default()
    }

    /// Is this how it stands?
    pub(crate) fn is(&self, cluster: &Cluster) -> bool {
        self.0 == standing(cluster)
    }
}

const FORMED: &str = "cluster_formed";
const JOINED: &str = "cluster_joined";
const LEFT: &str = "cluster_left";
const BLOCK_START: &str = "cluster_block_start";
const BLOCK_END: &str = "cluster_block_end";
const HELD: &str = "cluster_held";
const RELEASED: &str = "cluster_released";
const DEADLOCK: &str = "cluster_deadlock";
const TRANSFER: &str = "cluster_budget_transfer";
const RECEIVED: &str = "cluster_budget_received";
