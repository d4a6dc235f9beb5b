//! What a person can decide about a held action, beyond yes and no: a yes that goes less far, a question, the end of the
//! whole mission, more time.
//!
//! ```text
//!   held ─▶ APPROVE, APPROVE_WITH_CONSTRAINTS, EXTEND_BUDGET ─▶ judged again
//!     │ ▲
//!     │ └── REQUEST_MORE_INFO, and the agent's answer: its next hold, people look again
//!     └──── DENY, REVOKE_MISSION ─▶ blocked, with a receipt
//! ```

use std::sync::Arc;

use action::Money;
use ledger::{Governed, INFO_GIVEN, INFO_REQUESTED, State, Stored};
use receipt::approval::{AppliesTo, Assertion, Limits, Quote};

use super::said::{self, Said};
use super::{HeldView, Word, conflict, may_decide, readable};
use crate::admin::ExtendAsk;
use crate::caller::{Caller, Deed};
use crate::config::OnTimeout;
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::{CycleRow, EscalationRow, IntentRow, internal, money_of};
use crate::sessions::{Cause, EXHAUSTED, PRINCIPAL, UNANSWERED};
use crate::views::not_found;
use crate::{Code, Error, clock};

/// A decision about a held action, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It is judged again, without the reasons for which people were asked.
    Approve,
    /// The same, and no further than the person's limits.
    ApproveWithConstraints,
    /// It ends.
    Deny,
    /// Its agent is asked something; it waits on, and its clock runs on.
    RequestMoreInfo,
    /// It ends, and so do its session, the mandate and whatever descends from that.
    RevokeMission,
    /// The mandate has more time, and it is judged again.
    ExtendBudget,
}

/// What a person decides.
#[derive(Clone, Debug)]
pub enum RulingAsk {
    /// [`Ruling::Approve`], or with limits [`Ruling::ApproveWithConstraints`].
    Approve {
        /// For other people.
        comment: Option<String>,
        /// How far.
        limits: Option<LimitsAsk>,
    },
    /// The same by a passkey's signature: comment and limits are those that were signed.
    Signed(Assertion),
    /// [`Ruling::Deny`].
    Deny {
        /// For other people.
        comment: Option<String>,
    },
    /// [`Ruling::RequestMoreInfo`].
    RequestMoreInfo {
        /// What the agent is asked.
        question: String,
    },
    /// [`Ruling::RevokeMission`].
    RevokeMission {
        /// Why, for the record.
        comment: Option<String>,
    },
    /// [`Ruling::ExtendBudget`].
    ExtendBudget {
        /// How much more time.
        seconds: u64,
        /// Why, for the record.
        comment: Option<String>,
    },
}

/// How far a person agrees, as they say it.
#[derive(Clone, Debug, Default)]
pub struct LimitsAsk {
    /// The most that may be at stake, a decimal string in the action's currency.
    pub max_amount: Option<String>,
    /// RFC 3339; nothing is sent after that.
    pub not_after: Option<String>,
    /// `ACTION`, which is meant where it is left out, or `SESSION`: that and whatever its session does after it.
    pub applies_to: Option<String>,
}

impl Ruling {
    /// All of them.
    pub const ALL: [Ruling; 6] = [
        Ruling::Approve,
        Ruling::ApproveWithConstraints,
        Ruling::Deny,
        Ruling::RequestMoreInfo,
        Ruling::RevokeMission,
        Ruling::ExtendBudget,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Ruling::Approve => "APPROVE",
            Ruling::ApproveWithConstraints => "APPROVE_WITH_CONSTRAINTS",
            Ruling::Deny => "DENY",
            Ruling::RequestMoreInfo => "REQUEST_MORE_INFO",
            Ruling::RevokeMission => "REVOKE_MISSION",
            Ruling::ExtendBudget => "EXTEND_BUDGET",
        }
    }

    /// The one that is written so.
    pub fn parse(text: &str) -> Option<Ruling> {
        Ruling::ALL.into_iter().find(|it| it.as_str() == text)
    }

    /// Can it be decided about an action like this?
    pub(super) fn fits(self, row: &IntentRow) -> bool {
        match self {
            // No yes makes time.
            Ruling::Approve | Ruling::ApproveWithConstraints => !row.wants_time(),
            Ruling::Deny => true,
            Ruling::RequestMoreInfo | Ruling::RevokeMission => row.cycle.is_some(),
            Ruling::ExtendBudget => row.wants_time(),
        }
    }
}

impl Gateway {
    /// Decides about a held action.
    ///
    /// # Errors
    /// As [`Gateway::approve`]; `EP_VALIDATION_FAILED` naming the limit, question or time that is none,
    /// `EP_STATE_CONFLICT` where this cannot be decided about it.
    pub async fn rule(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        ask: RulingAsk,
    ) -> Result<HeldView, Error> {
        match ask {
            RulingAsk::Approve { comment, limits } => self.say(caller, id, Word::Yes(comment, limits)).await,
            RulingAsk::Signed(assertion) => self.approve_signed(caller, id, assertion).await,
            RulingAsk::Deny { comment } => self.reject(caller, id, comment).await,
            RulingAsk::RequestMoreInfo { question } => self.ask_agent(caller, id, question).await,
            RulingAsk::RevokeMission { comment } => self.revoke_mission(caller, id, comment).await,
            RulingAsk::ExtendBudget { seconds, comment } => {
                self.give_time(caller, id, ExtendAsk { seconds, reason: comment }).await
            }
        }
    }

    /// The agent answers what people asked about a held action of its own. People look again.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` for what is not the caller's, `EP_STATE_CONFLICT` where nothing is asked.
    pub async fn answer_question(&self, caller: &Caller, id: &str, answer: &str) -> Result<HeldView, Error> {
        caller.must(Deed::Execute)?;
        self.limits.before_parsing(caller)?;
        let text = text(answer, "answer")?;
        let stored = self.visible(caller, id).await?;
        if stored.subject != caller.subject {
            return Err(not_found("action"));
        }
        let (row, escalation) = waiting(&stored)?;
        let asked = self.exchanges(&stored).await?;
        if asked.last().is_none_or(|exchange| exchange.answer.is_some()) {
            return Err(Error::new(Code::StateConflict, "nothing is asked about this action now"));
        }
        let said = self.word(caller, &stored, &row, &escalation, Some(text), said::ANSWER)?;
        self.discuss(caller, &stored, &said, INFO_GIVEN).await?;
        let now = self.ledger.action(&stored.tenant, stored.id).await.map_err(unavailable)?;
        let now = now.ok_or_else(|| not_found("action"))?;
        self.held_view(&now).await?.ok_or_else(|| internal("what was answered does not wait"))
    }

    /// A person asks the agent something.
    async fn ask_agent(&self, caller: &Caller, id: &str, question: String) -> Result<HeldView, Error> {
        caller.must(Deed::Approve)?;
        let question = text(&question, "question")?;
        let stored = self.visible(caller, id).await?;
        let (row, escalation) = may_decide(caller, &stored)?;
        must_fit(Ruling::RequestMoreInfo, &row)?;
        if self.exchanges(&stored).await?.len() >= MOST_QUESTIONS {
            let why =
                format!("{MOST_QUESTIONS} questions were asked about this action: decide by what is known");
            return Err(Error::new(Code::StateConflict, why));
        }
        let said = self.word(caller, &stored, &row, &escalation, Some(question), said::ASK)?;
        self.discuss(caller, &stored, &said, INFO_REQUESTED).await?;
        self.held_one(caller, id).await
    }

    async fn discuss(
        &self,
        caller: &Caller,
        stored: &Stored,
        said: &Said,
        event: &'static str,
    ) -> Result<(), Error> {
        let word = self.approval(caller, stored, said)?;
        self.at(Point::ApprovalBefore)?;
        self.ledger.discuss(word, event).await.map_err(conflict)?;
        self.at(Point::ApprovalAfter)
    }

    /// A person gives the mandate of a cycle more time.
    async fn give_time(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        ask: ExtendAsk,
    ) -> Result<HeldView, Error> {
        caller.must(Deed::Approve)?;
        let stored = self.visible(caller, id).await?;
        let (row, _) = may_decide(caller, &stored)?;
        must_fit(Ruling::ExtendBudget, &row)?;
        let jti = row.mandate_id.as_deref().ok_or_else(|| internal("a cycle has no mandate"))?;
        self.extend(caller, jti, Some(&stored), ask).await?;
        self.held_one(caller, id).await
    }

    /// Ends everything that the held action belongs to. Nothing of the mission begins from the first step on; what a crash
    /// leaves behind is ended by the next look around, or by saying it again.
    async fn revoke_mission(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        comment: Option<String>,
    ) -> Result<HeldView, Error> {
        caller.must(Deed::Approve)?;
        let comment = readable(comment)?;
        let stored = self.visible(caller, id).await?;
        let (row, _) = may_decide(caller, &stored)?;
        must_fit(Ruling::RevokeMission, &row)?;
        let (gateway, caller) = (Arc::clone(self), caller.clone());
        let task = tokio::spawn(async move { gateway.end_mission(&caller, stored, &row, comment).await });
        task.await.unwrap_or_else(|_| Err(internal("a decision ended without a word")))
    }

    async fn end_mission(
        self: &Arc<Self>,
        caller: &Caller,
        stored: Stored,
        row: &IntentRow,
        comment: Option<String>,
    ) -> Result<HeldView, Error> {
        let (tenant, id) = (stored.tenant.clone(), stored.id.to_string());
        let session = row.cycle.as_ref().map(|cycle| cycle.session_id.clone()).unwrap_or_default();
        let found = self.ledger.session(&tenant, &session).await.map_err(unavailable)?;
        let own = found.ok_or_else(|| internal("the session of a cycle is gone"))?;
        let jti = own.session.mandate_id.clone();
        // In the sandbox everybody has the same mandate, and nobody ends it.
        let granted = self.ledger.mandate(&tenant, &jti).await.map_err(unavailable)?.is_some();
        let escalation = said::escalation_id(stored.id, stored.round);
        let cause = Cause::of(PRINCIPAL, caller.subject.as_str(), comment.as_deref());
        let cause = Cause { escalation: Some(&escalation), ..cause };
        let revoked = match granted {
            true => Some(self.end_mandate(&tenant, &jti, &cause).await?),
            false => None,
        };
        let halts = self.stopping(&own, &cause)?;
        let refused = self.refuse_held(caller, stored, comment.clone(), said::REVOKE, Some(halts)).await;
        match revoked {
            Some(revoked) => drop(self.cascade(&tenant, &jti, &cause.after(&revoked)).await?),
            None => self.revoke_one(&tenant, &session, &cause).await?,
        }
        match refused {
            // Who ends the mission had agreed before, or somebody else decided meanwhile: it ended with its session.
            Err(error) if error.code == Code::StateConflict => {}
            other => other?,
        }
        self.held_one(caller, &id).await
    }

    /// Nobody came, and it was not done. That ends the cycle, and its session with it where only time would have helped, or as it is configured.
    pub(crate) async fn undecided(&self, stored: &Stored) -> Result<(), Error> {
        let row = IntentRow::of(stored)?;
        let trigger = match (row.wants_time(), self.config.limits.held_on_timeout) {
            (true, _) => Some(EXHAUSTED),
            (false, OnTimeout::Terminate) => Some(UNANSWERED),
            (false, OnTimeout::Deny) => None,
        };
        let cause = trigger.map(|trigger| Cause::of(trigger, "timeout", Some("nobody decided in time")));
        let (own, halts) = self.halts_of(stored, &row, cause.as_ref()).await?;
        self.end_waiting(stored, Code::ApprovalExpired, "approval_expired", halts).await?;
        if let Some(own) = own {
            self.end_stopped(&own).await;
        }
        Ok(())
    }

    /// A no ends the cycle. Where only time would have helped it ends the session with it: nothing more can be done in it.
    pub(super) async fn say_no(
        &self,
        caller: &Caller,
        stored: &Stored,
        comment: Option<String>,
    ) -> Result<(), Error> {
        self.must_not_be_done(stored).await?;
        let row = IntentRow::of(stored)?;
        let cause = Cause::of(EXHAUSTED, caller.subject.as_str(), comment.as_deref());
        let (own, halts) = self.halts_of(stored, &row, Some(&cause).filter(|_| row.wants_time())).await?;
        self.refuse_held(caller, stored.clone(), comment.clone(), said::REJECT, halts).await?;
        if let Some(own) = own {
            self.end_stopped(&own).await;
        }
        Ok(())
    }

    /// The session of a cycle that stops with it, and the record of that; nothing where there is no cause.
    async fn halts_of(
        &self,
        stored: &Stored,
        row: &IntentRow,
        cause: Option<&Cause<'_>>,
    ) -> Result<(Option<Governed>, Option<ledger::Event>), Error> {
        let (Some(cause), Some(cycle)) = (cause, &row.cycle) else { return Ok((None, None)) };
        let own = self.ledger.session(&stored.tenant, &cycle.session_id).await.map_err(unavailable)?;
        let halts = own.as_ref().map(|own| self.stopping(own, cause)).transpose()?;
        Ok((own, halts))
    }

    /// What a session waits for, if an action of it waits for people.
    pub(crate) async fn pending_of(&self, governed: &Governed) -> Result<Option<HeldView>, Error> {
        if governed.session.held == 0 {
            return Ok(None);
        }
        let (now_ms, mut after) = (clock::now_ms(), None);
        loop {
            let page = self.ledger.held(&governed.tenant, now_ms, after, PART).await.map_err(unavailable)?;
            for stored in &page.rows {
                let cycle = IntentRow::from_bytes(&stored.payload)?.cycle;
                if cycle.is_some_and(|cycle| cycle.session_id == *governed.session.id) {
                    return self.held_view(stored).await;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(None);
            }
        }
    }

    /// A person's word on each cycle of others that waits for more time of this mandate, or of one that descends from
    /// it. Time is the principal's to give, who does not decide on anything else of it.
    pub(crate) async fn words_of_time(
        &self,
        caller: &Caller,
        jti: &str,
        ask: &ExtendAsk,
    ) -> Result<Vec<ledger::Approval>, Error> {
        let (now_ms, mut after, mut words) = (clock::now_ms(), None, Vec::new());
        loop {
            let page = self.ledger.held(&caller.tenant, now_ms, after, PART).await.map_err(unavailable)?;
            for stored in &page.rows {
                let Ok((row, escalation)) = waiting(stored) else { continue };
                if stored.subject == caller.subject {
                    continue;
                }
                let Some(leaf) = row.mandate_id.as_deref().filter(|_| row.wants_time()) else { continue };
                let Some(Ok(line)) = self.line(&caller.tenant, leaf).await? else { continue };
                if line.mandates.iter().any(|mandate| mandate.jti == jti) {
                    let word =
                        self.word(caller, stored, &row, &escalation, ask.reason.clone(), said::EXTEND)?;
                    let said = Said { seconds: Some(ask.seconds), ..word };
                    words.push(self.approval(caller, stored, &said)?);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(words);
            }
        }
    }
}

impl LimitsAsk {
    /// The cycle whose session they hold for, if not for the action alone.
    pub(super) fn applies_to<'a>(&self, row: &'a IntentRow) -> Result<Option<&'a CycleRow>, Error> {
        match self.reach()? {
            AppliesTo::Action => Ok(None),
            AppliesTo::Session => row
                .cycle
                .as_deref()
                .map(Some)
                .ok_or_else(|| wrong("applies_to", "the action is a cycle of no session".to_owned())),
        }
    }

    fn reach(&self) -> Result<AppliesTo, Error> {
        let Some(word) = &self.applies_to else { return Ok(AppliesTo::Action) };
        let known = AppliesTo::ALL.into_iter().find(|it| it.as_str() == word);
        known.ok_or_else(|| wrong("applies_to", "this is neither `ACTION` nor `SESSION`".to_owned()))
    }

    /// The limits of an action like this one, or of its session; either is over at `ends_ms` anyway. They only lower: what
    /// would change nothing is no limit.
    pub(super) fn understood(
        &self,
        row: &IntentRow,
        quoted: bool,
        ends_ms: Option<i64>,
    ) -> Result<Limits, Error> {
        let applies_to = self.reach()?;
        let max_amount = match &self.max_amount {
            None => None,
            Some(text) => {
                let asked = money_of(row.amount.as_deref(), row.currency.as_deref())?;
                let asked =
                    asked.ok_or_else(|| wrong("max_amount", "the action moves no money".to_owned()))?;
                let most = Money::parse(text, asked.currency())
                    .map_err(|error| wrong("max_amount", error.to_string()))?;
                if most.minor() < asked.minor() && !quoted {
                    let why = format!("the action asks for {asked} {}: say no instead", asked.currency());
                    return Err(wrong("max_amount", why));
                }
                Some(Quote { amount: most.to_string(), currency: most.currency().code().to_owned() })
            }
        };
        let not_after = match &self.not_after {
            None => None,
            Some(text) => {
                let until_ms =
                    clock::parse_ms(text).map_err(|why| wrong("not_after", format!("this {why}")))?;
                let now_ms = clock::now_ms();
                if until_ms <= now_ms {
                    return Err(wrong("not_after", "this is over already".to_owned()));
                }
                if ends_ms.is_some_and(|ends_ms| until_ms > ends_ms) {
                    let why = match applies_to {
                        AppliesTo::Action => "this is after the action expires",
                        AppliesTo::Session => "this is after the session's mandate expires",
                    };
                    return Err(wrong("not_after", why.to_owned()));
                }
                Some(clock::timestamp(until_ms))
            }
        };
        if max_amount.is_none() && not_after.is_none() {
            return Err(Error::new(
                Code::ValidationFailed,
                "`limits` has one of `max_amount` and `not_after` at least",
            )
            .field("/limits"));
        }
        Ok(Limits { applies_to, max_amount, not_after })
    }
}

fn wrong(member: &str, why: String) -> Error {
    Error::new(Code::ValidationFailed, format!("`limits.{member}`: {why}")).field(format!("/limits/{member}"))
}

/// What waits for people, with what they are asked.
fn waiting(stored: &Stored) -> Result<(IntentRow, EscalationRow), Error> {
    let row = IntentRow::of(stored)?;
    let open = stored.state == State::Held && !stored.has_expired(clock::now_ms());
    match row.escalation.clone().filter(|_| open) {
        Some(escalation) => Ok((row, escalation)),
        None => Err(Error::new(Code::StateConflict, "the action does not wait for people")),
    }
}

/// A yes to this would be in vain where only time helps.
pub(super) fn must_be_approvable(row: &IntentRow) -> Result<(), Error> {
    must_fit(Ruling::Approve, row)
}

fn must_fit(ruling: Ruling, row: &IntentRow) -> Result<(), Error> {
    if ruling.fits(row) {
        return Ok(());
    }
    let fit: Vec<&str> = Ruling::ALL.into_iter().filter(|it| it.fits(row)).map(Ruling::as_str).collect();
    let why = format!("{} cannot be decided about this action", ruling.as_str());
    Err(Error::new(Code::StateConflict, why).hint(format!("what can: {}", fit.join(", "))))
}

/// One honest line. Agents are told without quotation marks, so there are none.
fn text(text: &str, member: &'static str) -> Result<String, Error> {
    let wrong =
        |why: &str| Error::new(Code::ValidationFailed, format!("{member} {why}")).field(format!("/{member}"));
    match readable(Some(text.to_owned())) {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(wrong("says nothing")),
        Err(_) => Err(wrong("is not one line of at most 1000 bytes without hidden characters")),
    }
}

/// Questions about one action.
const MOST_QUESTIONS: usize = 16;
/// Rows read at once.
const PART: u32 = 200;
