//! Sessions that work together: who is in, who waits for whom, and how time and resources are handed from one to another.
//!
//! ```text
//!              wait / resume                hold / release
//!   BLOCKED ◀───────────────▶ ACTIVE ◀─────────────────────▶ MANDATE_HOLD
//!      │ a cycle of waits
//!      ▼
//!   DEADLOCK                  any ──────▶ TERMINATED
//! ```
//!
//! As with a session, what is true is kept and [`Cluster::state`] says what that comes to. What is left to each member
//! stands in the account of its mandate and nowhere else: [`Cluster::transfer`] says what to add to which of them.

use action::json;

use crate::Resource;

/// More members than this is a mistake, not a cluster.
const MAX_MEMBERS: usize = 64;

/// What a cluster may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterState {
    /// Every member may go on.
    Active,
    /// A member waits for another.
    Blocked,
    /// An operator or principal holds it.
    MandateHold,
    /// Members wait for each other in a circle; people must resolve it.
    Deadlock,
    /// It is over.
    Terminated,
}

impl ClusterState {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            ClusterState::Active => "ACTIVE",
            ClusterState::Blocked => "CLUSTER_BLOCKED",
            ClusterState::MandateHold => "MANDATE_HOLD",
            ClusterState::Deadlock => "DEADLOCK",
            ClusterState::Terminated => "TERMINATED",
        }
    }
}

/// A session in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The session.
    pub session: Box<str>,
    /// Its mandate.
    pub mandate_id: Box<str>,
    /// In whose name it acts: the root principal of that mandate.
    pub principal: Box<str>,
    /// The session it waits for.
    pub waits_for: Option<Box<str>>,
}

/// A cluster, as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its id.
    pub id: Box<str>,
    /// In the order in which they joined.
    pub members: Vec<Member>,
    /// Over at this time, in Unix milliseconds.
    pub deadline_ms: i64,
    /// Somebody holds it.
    pub held: bool,
    /// It was ended.
    pub terminated: bool,
}

/// What happens to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A session joins.
    Joined(Member),
    /// A session leaves, or ended. Whoever waited for it waits no more.
    Left {
        /// Which.
        session: Box<str>,
    },
    /// A member waits for another.
    Waiting {
        /// Who waits.
        session: Box<str>,
        /// For whom.
        on: Box<str>,
    },
    /// A member waits no more.
    Resumed {
        /// Which.
        session: Box<str>,
    },
    /// Somebody holds it.
    Held,
    /// And lets it go on.
    Released,
    /// It ends.
    Terminated,
}

/// Why something cannot happen to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterRefusal {
    /// It is not in a state in which this may happen.
    State(ClusterState),
    /// Its deadline is over.
    Over,
    /// The session is not a member.
    NotMember {
        /// Which.
        session: Box<str>,
    },
    /// The session is a member already.
    AlreadyMember,
    /// There is no room for another.
    Full,
    /// The session is a member of another cluster.
    Elsewhere,
    /// Members wait for each other in a circle, and only people resolve that.
    ForPeople,
    /// A member cannot wait for itself.
    WaitsForItself,
    /// It waits already.
    AlreadyWaiting,
    /// It does not wait.
    NotWaiting,
    /// Nothing would be transferred: no amount, or both members live on one account.
    NothingToTransfer,
    /// What is to be transferred is not used up, so that none of it is ever left over.
    NeverLeftOver(Resource),
    /// The mandate of one member descends from that of the other: what it uses is the other's already.
    OneLine,
    /// The mandate of this member has none of its own that could be counted.
    NoLimit {
        /// Which member.
        session: Box<str>,
        /// Of what.
        resource: Resource,
    },
    /// The mandate of this member, or one above it, is revoked or frozen.
    Stopped {
        /// Which.
        session: Box<str>,
    },
    /// More than what is left to the source.
    MoreThanLeft {
        /// So much is left to it.
        left: u64,
    },
    /// The target would have more than can be written down exactly.
    MoreThanCounts,
}

/// What goes from one member to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    amount: i64,
}

impl Transfer {
    /// What to add to the grants of which mandate, where each of the two lines is a member's mandate and all that it
    /// descends from, leaf first. A mandate above both keeps what it has: what moves stays under it.
    ///
    /// INVARIANT (conserved): what the line of the one gives, the line of the other gets, step by step; over members whose
    /// mandates do not descend from each other it always comes to zero.
    ///
    /// # Errors
    /// [`ClusterRefusal::OneLine`] if one of the two mandates is the other, or descends from it.
    pub fn grants<'a>(
        &self,
        source: &[&'a str],
        target: &[&'a str],
    ) -> Result<Vec<(&'a str, i64)>, ClusterRefusal> {
        let own = |line: &[&'a str], other: &[&'a str]| -> Vec<&'a str> {
            line.iter().copied().take_while(|mandate| !other.contains(mandate)).collect()
        };
        let (gives, gets) = (own(source, target), own(target, source));
        if gives.is_empty() || gets.is_empty() {
            return Err(ClusterRefusal::OneLine);
        }
        let gives = gives.into_iter().map(|mandate| (mandate, -self.amount));
        Ok(gives.chain(gets.into_iter().map(|mandate| (mandate, self.amount))).collect())
    }
}

impl Cluster {
    /// A cluster without members.
    pub fn form(id: impl Into<Box<str>>, deadline_ms: i64) -> Cluster {
        Cluster { id: id.into(), members: Vec::new(), deadline_ms, held: false, terminated: false }
    }

    /// What it may do now.
    pub fn state(&self) -> ClusterState {
        if self.terminated {
            ClusterState::Terminated
        } else if !self.deadlock().is_empty() {
            ClusterState::Deadlock
        } else if self.held {
            ClusterState::MandateHold
        } else if self.members.iter().any(|member| member.waits_for.is_some()) {
            ClusterState::Blocked
        } else {
            ClusterState::Active
        }
    }

    /// The same at a time: what has a deadline is over after it.
    pub fn state_at(&self, now_ms: i64) -> ClusterState {
        if now_ms >= self.deadline_ms { ClusterState::Terminated } else { self.state() }
    }

    /// Lets through where people have nothing to decide before its members go on. A deadline, which its first member sets,
    /// decides nothing for them.
    ///
    /// # Errors
    /// [`ClusterRefusal::ForPeople`] where members wait for each other in a circle; where somebody holds it, that it is
    /// [`ClusterState::MandateHold`].
    pub fn must_be_free(&self) -> Result<(), ClusterRefusal> {
        if !self.deadlock().is_empty() {
            return Err(ClusterRefusal::ForPeople);
        }
        match self.held && !self.terminated {
            true => Err(ClusterRefusal::State(ClusterState::MandateHold)),
            false => Ok(()),
        }
    }

    /// The cluster after the event at `now_ms`.
    ///
    /// # Errors
    /// Why it cannot happen; the cluster is unchanged then.
    pub fn step(&self, event: ClusterEvent, now_ms: i64) -> Result<Cluster, ClusterRefusal> {
        use ClusterEvent as E;
        use ClusterState as S;
        let state = self.state();
        let refused = Err(ClusterRefusal::State(state));
        let mut next = self.clone();
        match (state, event) {
            (S::Terminated, _) => return refused,
            // To end or to leave is always possible, and so is to resolve what is stuck.
            (_, E::Terminated) => next.terminated = true,
            (_, E::Left { session }) => next.leave(&session)?,
            (_, E::Resumed { session }) => {
                next.member_mut(&session)?.waits_for.take().ok_or(ClusterRefusal::NotWaiting)?;
            }
            (S::MandateHold, E::Released) => next.held = false,
            _ if now_ms >= self.deadline_ms => return Err(ClusterRefusal::Over),
            (S::Active | S::Blocked, E::Joined(member)) => next.join(member)?,
            (S::Active | S::Blocked, E::Waiting { session, on }) => next.wait(&session, on)?,
            (S::Active | S::Blocked, E::Held) => next.held = true,
            _ => return refused,
        }
        Ok(next)
    }

    /// What a transfer of so much of a resource from one member to another does, where so much is left to each of them.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn transfer(
        &self,
        source: &str,
        target: &str,
        (resource, amount): (Resource, u64),
        [left, has]: [u64; 2],
        now_ms: i64,
    ) -> Result<Transfer, ClusterRefusal> {
        match self.state() {
            ClusterState::Active | ClusterState::Blocked => {}
            state => return Err(ClusterRefusal::State(state)),
        }
        if now_ms >= self.deadline_ms {
            return Err(ClusterRefusal::Over);
        }
        let (source, target) = (self.member(source)?, self.member(target)?);
        if !resource.is_used_up() {
            return Err(ClusterRefusal::NeverLeftOver(resource));
        }
        if amount == 0 || source.mandate_id == target.mandate_id {
            return Err(ClusterRefusal::NothingToTransfer);
        }
        let whole = i64::try_from(amount).ok().filter(|_| amount <= left);
        let amount = whole.ok_or(ClusterRefusal::MoreThanLeft { left })?;
        match has.checked_add_signed(amount).is_some_and(|sum| sum <= json::MAX_INTEGER.cast_unsigned()) {
            true => Ok(Transfer { amount }),
            false => Err(ClusterRefusal::MoreThanCounts),
        }
    }

    /// The sessions that wait for each other in a circle, each for the next; empty where there is no circle.
    pub fn deadlock(&self) -> Vec<&str> {
        let follow = |session: &str| self.member(session).ok().and_then(|it| it.waits_for.as_deref());
        for member in &self.members {
            let mut path = vec![&*member.session];
            // Everyone waits for at most one, so a circle closes within as many steps as there are members.
            while let Some(next) = path.last().and_then(|last| follow(last)) {
                if next == path[0] {
                    return path;
                }
                if path.contains(&next) {
                    break;
                }
                path.push(next);
            }
        }
        Vec::new()
    }

    /// Sessions that wait here and no more in `next`.
    pub fn freed<'a>(&'a self, next: &Cluster) -> Vec<&'a str> {
        let waits = |cluster: &Cluster, session: &str| {
            !cluster.terminated && cluster.member(session).is_ok_and(|it| it.waits_for.is_some())
        };
        let sessions = self.members.iter().map(|member| &*member.session);
        sessions.filter(|session| waits(self, session) && !waits(next, session)).collect()
    }

    /// The principals of the members, each once, in the order in which they came.
    pub fn principals(&self) -> Vec<&str> {
        let mut principals = Vec::new();
        for member in &self.members {
            if !principals.contains(&&*member.principal) {
                principals.push(&*member.principal);
            }
        }
        principals
    }

    /// The member with this session.
    ///
    /// # Errors
    /// It is none.
    pub fn member(&self, session: &str) -> Result<&Member, ClusterRefusal> {
        let member = self.members.iter().find(|member| *member.session == *session);
        member.ok_or_else(|| ClusterRefusal::NotMember { session: session.into() })
    }

    fn member_mut(&mut self, session: &str) -> Result<&mut Member, ClusterRefusal> {
        let member = self.members.iter_mut().find(|member| *member.session == *session);
        member.ok_or_else(|| ClusterRefusal::NotMember { session: session.into() })
    }

    fn join(&mut self, member: Member) -> Result<(), ClusterRefusal> {
        if self.member(&member.session).is_ok() {
            return Err(ClusterRefusal::AlreadyMember);
        }
        if self.members.len() >= MAX_MEMBERS {
            return Err(ClusterRefusal::Full);
        }
        // Who joins waits for nobody yet.
        self.members.push(Member { waits_for: None, ..member });
        Ok(())
    }

    fn leave(&mut self, session: &str) -> Result<(), ClusterRefusal> {
        self.member(session)?;
        self.members.retain(|member| *member.session != *session);
        for member in &mut self.members {
            member.waits_for.take_if(|on| **on == *session);
        }
        Ok(())
    }

    fn wait(&mut self, session: &str, on: Box<str>) -> Result<(), ClusterRefusal> {
        self.member(&on)?;
        let member = self.member_mut(session)?;
        match &member.waits_for {
            _ if *member.session == *on => return Err(ClusterRefusal::WaitsForItself),
            Some(_) => return Err(ClusterRefusal::AlreadyWaiting),
            None => member.waits_for = Some(on),
        }
        Ok(())
    }
}
