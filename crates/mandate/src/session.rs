//! A governed session: the span in which an agent acts under one mandate, and what may happen in it.
//!
//! ```text
//!             wait / resume          hold / decided
//!   BLOCKED ◀──────────────▶ ACTIVE ◀──────────────▶ HEM_PENDING
//!                              │ suspend
//!                              ▼
//!                           SUSPENDED ────────────▶ CLOSED (COMPLETE | PARTIAL | REVOKED)
//! ```
//!
//! The state is derived: what is true of a session (closed, suspended, how many of its actions wait for people, whom it
//! waits for) is kept, and [`Session::state`] says what that comes to.

use action::Subject;

use crate::ApprovedLimits;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Completion {
    /// What was meant to be done is done.
    Complete,
    /// It ended before that.
    Partial,
    /// It was ended from outside.
    Revoked,
}

impl Completion {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Completion::Complete => "COMPLETE",
            Completion::Partial => "PARTIAL",
            Completion::Revoked => "REVOKED",
        }
    }

    /// The one that is written so.
    pub fn parse(text: &str) -> Option<Completion> {
        [Completion::Complete, Completion::Partial, Completion::Revoked]
            .into_iter()
            .find(|it| it.as_str() == text)
    }
}

/// In what state what a revoked session was doing was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Halt {
    /// Nothing that cannot be undone since the last breakpoint.
    Clean,
    /// Something was under way, or cannot be undone.
    Partial,
    /// Not known; counts as partial and never becomes clean.
    Unknown,
}

impl Halt {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Halt::Clean => "CLEAN",
            Halt::Partial => "PARTIAL",
            Halt::Unknown => "UNKNOWN",
        }
    }

    /// The one that is written so.
    pub fn parse(text: &str) -> Option<Halt> {
        [Halt::Clean, Halt::Partial, Halt::Unknown].into_iter().find(|it| it.as_str() == text)
    }
}

/// What a session may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// Cycles may begin.
    Active,
    /// It waits for another member of its cluster; its clock stands still.
    ClusterBlocked,
    /// An action of it waits for people.
    HemPending,
    /// It was stopped, and is about to end.
    Suspended,
    /// It is over.
    Closed(Completion),
}

impl SessionState {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            SessionState::Active => "ACTIVE",
            SessionState::ClusterBlocked => "CLUSTER_BLOCKED",
            SessionState::HemPending => "HEM_PENDING",
            SessionState::Suspended => "SUSPENDED",
            SessionState::Closed(_) => "CLOSED",
        }
    }
}

/// A session, as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: Box<str>,
    /// The agent whose it is.
    pub subject: Subject,
    /// The mandate it was opened with.
    pub mandate_id: Box<str>,
    /// When it was opened, in Unix milliseconds.
    pub opened_ms: i64,
    /// Rises with every change of its standing that a judgement must not miss.
    pub epoch: u64,
    /// The highest number of a cycle or declaration that was accepted.
    pub sequence: u64,
    /// Number of the next record.
    pub next_record: u64,
    /// Actions of it that wait for people.
    pub held: u32,
    /// Actions of it that were sent and are not settled.
    pub in_flight: u32,
    /// Cycles denied so far, by whomever: the judge, a person, or the time in which nobody came.
    pub denials: u32,
    /// Cycles admitted so far, and those that wait for people.
    pub cycles: u64,
    /// Since when it waits for another session, in Unix milliseconds.
    pub blocked_ms: Option<i64>,
    /// Stopped: it is about to end.
    pub suspended: bool,
    /// How it ended.
    pub closed: Option<Completion>,
    /// How it was left, where it was revoked.
    pub halt: Option<Halt>,
    /// How far people agreed to whatever it does, for the rest of it.
    pub limits: ApprovedLimits,
}

/// What happens to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent {
    /// A declaration under this number is accepted.
    Declared {
        /// Its number.
        sequence: u64,
    },
    /// A cycle is admitted and marked sent.
    Admitted {
        /// Its number.
        sequence: u64,
    },
    /// A cycle waits for people.
    Held {
        /// Its number.
        sequence: u64,
    },
    /// What waited for people does not any more: it is sent (`true`) or ended, which is a denial.
    Decided {
        /// Is it sent now?
        sent: bool,
    },
    /// What had failed is sent once more, as another attempt.
    SentAgain,
    /// What was sent is settled.
    Settled,
    /// A cycle is denied. Its number is used up, if it had one that rose.
    Denied {
        /// Its number.
        sequence: Option<u64>,
    },
    /// It waits for another session of its cluster. Nothing of it may be under way: what it takes would be on its clock,
    /// and that stands still.
    Blocked {
        /// Since when, in Unix milliseconds.
        at_ms: i64,
    },
    /// It waits no more.
    Unblocked,
    /// Something happened to its cluster.
    Regrouped,
    /// Whoever agreed to an action of it agreed no further than this for the rest of it.
    Limited(ApprovedLimits),
    /// Nothing begins any more: it is about to end.
    Suspended,
    /// Its agent or principal ends it.
    Closed {
        /// How.
        completion: Completion,
        /// Its agent does: once it is stopped that is not the agent's to say.
        by_agent: bool,
    },
    /// It is revoked.
    Revoked {
        /// How it is left.
        halt: Halt,
        /// Somebody had it end, and not what it did or did not do.
        by_person: bool,
    },
}

/// Why something cannot happen to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionRefusal {
    /// It is not in a state in which this may happen.
    State(SessionState),
    /// The number does not rise.
    Sequence {
        /// The highest so far.
        last: u64,
    },
    /// Something of it is still under way.
    InFlight {
        /// How many actions.
        actions: u32,
    },
}

impl Session {
    /// A session that was just opened.
    pub fn open(
        id: impl Into<Box<str>>,
        subject: Subject,
        mandate_id: impl Into<Box<str>>,
        now_ms: i64,
    ) -> Session {
        Session {
            id: id.into(),
            subject,
            mandate_id: mandate_id.into(),
            opened_ms: now_ms,
            epoch: 0,
            sequence: 0,
            next_record: 0,
            held: 0,
            in_flight: 0,
            denials: 0,
            cycles: 0,
            blocked_ms: None,
            suspended: false,
            closed: None,
            halt: None,
            limits: ApprovedLimits::default(),
        }
    }

    /// What it may do now. What is over stays over, whatever waits.
    pub fn state(&self) -> SessionState {
        match self.closed {
            Some(completion) => SessionState::Closed(completion),
            None if self.suspended => SessionState::Suspended,
            None if self.held > 0 => SessionState::HemPending,
            None if self.blocked_ms.is_some() => SessionState::ClusterBlocked,
            None => SessionState::Active,
        }
    }

    /// Whether it was ended from outside.
    pub fn is_revoked(&self) -> bool {
        self.closed == Some(Completion::Revoked)
    }

    /// The session after the event. What was admitted before a session ended may still be settled.
    ///
    /// INVARIANT (halt): no cycle and no declaration begins in a session that is not active.
    /// INVARIANT (limits): what people agreed to for a session is only ever lowered.
    ///
    /// # Errors
    /// Why it cannot happen; the session is unchanged then.
    pub fn step(&self, event: SessionEvent) -> Result<Session, SessionRefusal> {
        use SessionEvent as E;
        let state = self.state();
        let refused = Err(SessionRefusal::State(state));
        let mut next = self.clone();
        match (state, event) {
            // Keeps (halt).
            (SessionState::Active, E::Declared { sequence }) => next.raise(sequence)?,
            (SessionState::Active, E::Admitted { sequence }) => {
                next.raise(sequence)?;
                next.cycles += 1;
                next.in_flight += 1;
            }
            (SessionState::Active, E::Held { sequence }) => {
                next.raise(sequence)?;
                next.cycles += 1;
                next.held += 1;
            }
            (_, E::Denied { sequence }) => {
                next.sequence = next.sequence.max(sequence.unwrap_or(0));
                next.deny();
            }
            // Keeps (halt): what waited begins no more than anything else where nothing may begin.
            (SessionState::Closed(_) | SessionState::Suspended, E::Decided { sent: true }) => return refused,
            (_, E::Decided { sent: true }) if self.held > 0 => {
                (next.held, next.in_flight) = (self.held - 1, self.in_flight + 1);
            }
            // Whoever denied it: a cycle that waited is no other than one that did not.
            (_, E::Decided { sent: false }) if self.held > 0 => {
                (next.held, next.cycles) = (self.held - 1, self.cycles.saturating_sub(1));
                next.deny();
            }
            (_, E::Settled) if self.in_flight > 0 => next.in_flight -= 1,
            (SessionState::Active, E::SentAgain) => next.in_flight += 1,
            (SessionState::Active, E::Blocked { .. }) if self.in_flight > 0 => {
                return Err(SessionRefusal::InFlight { actions: self.in_flight });
            }
            (SessionState::Active, E::Blocked { at_ms }) => next.blocked_ms = Some(at_ms),
            (SessionState::Closed(_), _) => return refused,
            (_, E::Regrouped) => next.epoch += 1,
            // Keeps (limits).
            (_, E::Limited(limits)) => (next.limits, next.epoch) = (self.limits.and(limits), self.epoch + 1),
            (_, E::Unblocked) if self.blocked_ms.is_some() => next.blocked_ms = None,
            // It has one beginning of its end.
            (SessionState::Suspended, E::Suspended) => return refused,
            (_, E::Suspended) => (next.suspended, next.epoch) = (true, self.epoch + 1),
            (SessionState::Suspended, E::Closed { by_agent: true, .. }) => return refused,
            (_, E::Closed { .. }) if self.held + self.in_flight > 0 => {
                return Err(SessionRefusal::InFlight { actions: self.held + self.in_flight });
            }
            (_, E::Closed { completion, .. }) => {
                (next.closed, next.epoch) = (Some(completion), self.epoch + 1);
            }
            (_, E::Revoked { halt, .. }) => {
                (next.closed, next.halt) = (Some(Completion::Revoked), Some(halt));
                next.epoch = self.epoch + 1;
            }
            _ => return refused,
        }
        Ok(next)
    }

    /// How much of it was denied is what others are judged by.
    fn deny(&mut self) {
        self.denials = self.denials.saturating_add(1);
        self.epoch += 1;
    }

    fn raise(&mut self, sequence: u64) -> Result<(), SessionRefusal> {
        if sequence <= self.sequence {
            return Err(SessionRefusal::Sequence { last: self.sequence });
        }
        self.sequence = sequence;
        Ok(())
    }
}
