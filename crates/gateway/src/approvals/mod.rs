//! Approvals: what waits for people, and what they say.
//!
//! ```text
//!   held ─▶ person, person … (ledger counts) ─▶ approved ─▶ resume: judge, admit, act, prove, settle
//!     └──── a person says no, or nobody comes ─▶ blocked, with a receipt
//! ```
//!
//! Whoever asks for an action, owns it, or gave the right to ask does not decide on it. Nobody can change it: people say
//! yes, perhaps within limits, or no to exactly what is shown. Their yes is remembered with a digest of that, and counts only as long as it is
//! true: the action is judged again, and whatever is new about it waits again or is blocked.
//!
//! Beyond yes and no there are the `rulings` of governed sessions.
//!
//! `summary` is what is put before a person and `views` where it is found; `signed` has it signed by one of the
//! `passkeys`, whose other `challenges` are for registering and logging in. `said` is what a person said, as it is kept
//! and as receipts show it; `resume` goes on once enough agreed.

mod challenges;
mod passkeys;
mod resume;
mod rulings;
mod said;
mod signed;
mod summary;
mod views;

use std::sync::Arc;

use action::{ApprovalForm, Environment};
use ledger::{Approval, State, Stored};
use receipt::approval::{Assertion, Limits};

pub(crate) use self::challenges::Challenges;
pub(crate) use self::passkeys::Passkey;
pub use self::passkeys::{Creation, Credential, Greeting, PasskeyView};
use self::rulings::must_be_approvable;
pub use self::rulings::{LimitsAsk, Ruling, RulingAsk};
pub(crate) use self::said::Shown;
pub(crate) use self::said::{
    ANSWER, APPROVE, ASK, EXTEND, REJECT, REVOKE, Said, constraints_of, escalation_id, fitting,
};
pub use self::signed::Question;
pub(crate) use self::signed::Questions;
pub use self::summary::{Asked, Summary};
pub(crate) use self::views::Version;
pub use self::views::{ExchangeView, GivenView, HeldView, PolicyView};
use crate::atp;
use crate::caller::{Caller, Deed};
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::outcome::Kind;
use crate::pending::Pending;
use crate::prove::Ending;
use crate::remember::{draft, outward, settlement, unavailable};
use crate::row::{EscalationRow, IntentRow, internal};
use crate::views::not_found;
use crate::{Answer, Code, Error, clock};

/// How often a rejection is proved anew because others agreed meanwhile.
const MOST_REJECTIONS: u32 = 5;
/// The longest comment, in bytes.
const LONGEST_COMMENT: usize = 1000;

/// What a person says, and by what.
enum Word {
    /// Yes, perhaps not all the way, by whatever they are logged in with.
    Yes(Option<String>, Option<LimitsAsk>),
    /// Yes, by a passkey's signature over an envelope that was given out for it.
    Signed(Assertion),
    /// No.
    No(Option<String>),
}

impl Gateway {
    /// Agrees to a held action. With the last approval that is needed it is judged again and carried out, in a task of
    /// its own.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for whoever asked or gave the right to ask, and where a key is not enough; `EP_STATE_CONFLICT` if
    /// it does not wait for this person any more, or if the rules changed since it was asked: then it was judged again,
    /// and is asked anew.
    pub async fn approve(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        comment: Option<String>,
    ) -> Result<HeldView, Error> {
        self.say(caller, id, Word::Yes(comment, None)).await
    }

    /// Says no to a held action, which ends it.
    ///
    /// # Errors
    /// As [`Gateway::approve`]; for a no a key is always enough.
    pub async fn reject(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        comment: Option<String>,
    ) -> Result<HeldView, Error> {
        self.say(caller, id, Word::No(comment)).await
    }

    /// In a task of its own: who hangs up has decided all the same.
    async fn say(self: &Arc<Self>, caller: &Caller, id: &str, word: Word) -> Result<HeldView, Error> {
        caller.must(Deed::Approve)?;
        let word = match word {
            Word::Yes(comment, limits) => Word::Yes(readable(comment)?, limits),
            Word::No(comment) => Word::No(readable(comment)?),
            signed => signed,
        };
        let stored = self.visible(caller, id).await?;
        let (gateway, caller) = (Arc::clone(self), caller.clone());
        let task = tokio::spawn(async move {
            match word {
                Word::No(comment) => {
                    gateway.say_no(&caller, &stored, comment).await?;
                }
                yes => gateway.agree(&caller, &stored, yes).await?,
            }
            gateway.held_one(&caller, &stored.id.to_string()).await
        });
        task.await.unwrap_or_else(|_| Err(internal("a decision ended without a word")))
    }

    async fn agree(self: &Arc<Self>, caller: &Caller, stored: &Stored, yes: Word) -> Result<(), Error> {
        let (row, escalation) = may_decide(caller, stored)?;
        its_signer(caller, stored, &row)?;
        must_be_approvable(&row)?;
        self.leaves_room(caller, stored, &escalation).await?;
        self.under_rules_of_now(stored, &row, &escalation).await?;
        let said = match yes {
            Word::Signed(assertion) => self.signed(caller, stored, &escalation, assertion).await?,
            Word::Yes(comment, limits) => {
                self.key_must_do(stored, &row)?;
                let limits = self.limits_of(limits.as_ref(), stored, &row).await?;
                Said { limits, ..self.word(caller, stored, &row, &escalation, comment, said::APPROVE)? }
            }
            Word::No(_) => return Err(internal("a no is no yes")),
        };
        let approval = self.approval(caller, stored, &said)?;
        self.at(Point::ApprovalBefore)?;
        let counted = self.ledger.approve(approval).await.map_err(conflict)?;
        self.at(Point::ApprovalAfter)?;
        if counted.is_enough() {
            self.resume_in_turn(&stored.tenant, stored.id);
        }
        Ok(())
    }

    /// Where all principals of a cluster have to agree, nobody else's word takes the place of one of theirs.
    async fn leaves_room(
        &self,
        caller: &Caller,
        stored: &Stored,
        escalation: &EscalationRow,
    ) -> Result<(), Error> {
        let is_principal = |name: &str| escalation.principals.iter().any(|principal| *principal == *name);
        if escalation.principals.is_empty() || is_principal(caller.subject.as_str()) {
            return Ok(());
        }
        let given = self.given_of(stored).await?;
        let given = given.iter().filter(|given| given.round == stored.round);
        let said = given.map(|given| Said::from_bytes(&given.record)).collect::<Result<Vec<_>, _>>()?;
        let others = said.iter().filter(|said| !is_principal(&said.approver)).count();
        let principals = u32::try_from(escalation.principals.len()).unwrap_or(u32::MAX);
        let room = stored.needed.saturating_sub(principals);
        if u32::try_from(others).is_ok_and(|others| others < room) {
            return Ok(());
        }
        let all = escalation.principals.join(", ");
        Err(Error::new(Code::Forbidden, "the principals of the cluster decide on this action")
            .hint(format!("all of them have to agree: {all}")))
    }

    async fn refuse_held(
        &self,
        caller: &Caller,
        mut stored: Stored,
        comment: Option<String>,
        decision: &'static str,
        halts: Option<ledger::Event>,
    ) -> Result<(), Error> {
        let tenant = self.tenant(&stored.tenant)?;
        for _ in 0..MOST_REJECTIONS {
            let (row, escalation) = may_decide(caller, &stored)?;
            let said = self.word(caller, &stored, &row, &escalation, comment.clone(), decision)?;
            let rejection = self.approval(caller, &stored, &said)?;
            let given = self.given_of(&stored).await?;
            let agreed = given.iter().map(|given| u32::from(given.round == stored.round)).sum();
            let mut records: Vec<Vec<u8>> = given.into_iter().map(|given| given.record).collect();
            records.push(rejection.record.clone());
            // It may be held for something else by now.
            let halts = halts.clone().filter(|_| decision == said::REVOKE || row.wants_time());
            let pending = Pending { halts, ..self.with_approvals(&stored, &records)? };
            let (code, reason) = match decision {
                said::REVOKE => (Code::SessionRevoked, "mission_revoked"),
                _ => (Code::ApprovalDenied, "approval_denied"),
            };
            let ending = self.ended_waiting(&pending, code, reason)?;
            let proven = self.prove(&pending, ending, &pending.row.correlation_id)?;
            let settlement = settlement(tenant, &pending, proven, None);
            match self.ledger.reject(rejection, agreed, settlement).await {
                Ok(_) => {
                    self.metrics.outcome(Kind::Blocked);
                    return Ok(());
                }
                Err(ledger::Error::Illegal { from: State::Held, .. } | ledger::Error::Fenced(_)) => {
                    let now = self.ledger.action(&stored.tenant, stored.id).await.map_err(unavailable)?;
                    stored = now.ok_or_else(|| not_found("action"))?;
                }
                Err(error) => return Err(conflict(error)),
            }
        }
        Err(kept_deciding())
    }

    /// What a person said by whatever they are logged in with.
    fn word(
        &self,
        caller: &Caller,
        stored: &Stored,
        row: &IntentRow,
        escalation: &EscalationRow,
        comment: Option<String>,
        decision: &str,
    ) -> Result<Said, Error> {
        let salt: [u8; 32] = clock::random()?;
        Ok(Said {
            action_id: stored.id.to_string(),
            approver: caller.subject.to_string(),
            at: clock::text(clock::now_ms()),
            comment,
            decision: decision.to_owned(),
            escalation_id: said::escalation_id(stored.id, stored.round),
            form: ApprovalForm::Key.as_str().to_owned(),
            key_id: caller.key_id.clone(),
            limits: None,
            salt: hex::encode(salt),
            seconds: None,
            shown: Shown::of(stored, row, escalation).digest()?,
            signed: None,
            v: said::VERSION,
        })
    }

    /// A person's word, as the ledger takes it.
    fn approval(&self, caller: &Caller, stored: &Stored, said: &Said) -> Result<Approval, Error> {
        Ok(Approval {
            action: stored.id,
            round: stored.round,
            approver: caller.subject.clone(),
            at_ms: clock::parse_ms(&said.at).map_err(|_| internal("a time is not one"))?,
            record: said.to_bytes()?,
            entry: draft(
                self.tenant(&stored.tenant)?,
                said::APPROVE,
                Some(outward(State::Held)),
                // The ledger puts the hash of the record here.
                &[0; 32],
                1,
            ),
            state_if_last: outward(State::Approved),
            limits: said.for_the_session()?,
        })
    }

    /// How far a person agrees. A price that is still asked for may turn out lower than it was.
    async fn limits_of(
        &self,
        ask: Option<&LimitsAsk>,
        stored: &Stored,
        row: &IntentRow,
    ) -> Result<Option<Limits>, Error> {
        let Some(ask) = ask else { return Ok(None) };
        let rules = self.tenant(&stored.tenant)?.rules();
        let archetype = rules.catalogue.get(&stored.archetype);
        let quoted = archetype.and_then(|it| it.money.as_ref()).is_some_and(|money| money.quote);
        let ends_ms = match ask.applies_to(row)? {
            None => stored.expires_ms,
            Some(cycle) => Some(self.session_ends(&stored.tenant, &cycle.session_id).await?),
        };
        ask.understood(row, quoted, ends_ms).map(Some)
    }

    /// In production a key may not be enough; in the sandbox, where nothing happens, it is.
    fn key_must_do(&self, stored: &Stored, row: &IntentRow) -> Result<(), Error> {
        let rules = self.tenant(&stored.tenant)?.rules();
        let archetype = rules.catalogue.get(&stored.archetype);
        // What the catalogue no longer knows ends when it is judged again, whoever agrees.
        let form = archetype.map(|archetype| self.form(archetype, row));
        if form != Some(ApprovalForm::Passkey) {
            return Ok(());
        }
        let why = format!("an API key is not enough to approve `{}`", stored.archetype);
        Err(Error::new(Code::Forbidden, why)
            .hint("sign it with a passkey at /approvals, or set `approval = \"key\"` in the archetype's file and reload"))
    }

    pub(crate) fn form(&self, archetype: &action::Archetype, row: &IntentRow) -> ApprovalForm {
        match self.environment {
            Environment::Production => archetype.approval_form(row.reversible),
            Environment::Sandbox => ApprovalForm::Key,
        }
    }

    /// An action that waited, with what people said in what its receipt will show.
    pub(crate) fn with_approvals(&self, stored: &Stored, records: &[Vec<u8>]) -> Result<Pending, Error> {
        let mut pending = Pending::restore(stored, None)?;
        pending.row.approvals = said::shown(stored, &pending, records)?;
        Ok(pending)
    }

    /// The ending of an action that waited in vain.
    pub(crate) fn ended_waiting<'a>(
        &self,
        pending: &Pending,
        code: Code,
        reason: &'static str,
    ) -> Result<Ending<'a>, Error> {
        let mut chain = pending.chain.clone();
        let error = crate::prove::refused(code, reason)?;
        crate::prove::push(&mut chain, receipt::Stage::Execute, || {
            Ok(receipt::NewEntry { error, ..receipt::NewEntry::at(clock::now()) })
        })?;
        let details = crate::outcome::Details { reasons: vec![reason.to_owned()], ..Default::default() };
        Ok(self.blocked(chain, code, details))
    }

    /// Ends an action that waits, for another reason than that a person said no, and stops its session where that `halts`.
    pub(crate) async fn end_waiting(
        &self,
        stored: &Stored,
        code: Code,
        reason: &'static str,
        halts: Option<ledger::Event>,
    ) -> Result<(), Error> {
        self.end_heard(stored, halts, |pending| self.ended_waiting(pending, code, reason)).await.map(drop)
    }

    /// Ends an action that waits, so that its receipt tells of all that people said by then: if they say something meanwhile it is
    /// made again. What they decide meanwhile may be something else than what `halts` its session; that is looked at anew.
    pub(crate) async fn end_heard(
        &self,
        stored: &Stored,
        halts: Option<ledger::Event>,
        end: impl Fn(&Pending) -> Result<Ending<'static>, Error> + Send,
    ) -> Result<Answer, Error> {
        let tenant = self.tenant(&stored.tenant)?;
        let mut stored = stored.clone();
        for _ in 0..MOST_REJECTIONS {
            let given = self.given_of(&stored).await?;
            let records: Vec<Vec<u8>> = given.into_iter().map(|given| given.record).collect();
            let pending = Pending { halts: halts.clone(), ..self.with_approvals(&stored, &records)? };
            let ending = end(&pending);
            match self.conclude(tenant, &pending, ending).await {
                Err(error) if error.code == Code::StateConflict => {
                    let now = self.stored(tenant, stored.id).await?;
                    let is_same = now.state == stored.state || halts.is_none();
                    // Held anew it is another question, which nobody has judged yet.
                    let is_same = is_same && now.round == stored.round;
                    if pending.still_holds(&now) || !now.state.waits() || !is_same {
                        return Err(error);
                    }
                    stored = now;
                }
                ended => return ended,
            }
        }
        Err(kept_deciding())
    }
}

fn kept_deciding() -> Error {
    Error::new(Code::Unavailable, "others kept deciding meanwhile").retry_after(1)
}

/// The payload and what is asked, if it waits for this person's word.
fn may_decide(caller: &Caller, stored: &Stored) -> Result<(IntentRow, EscalationRow), Error> {
    let row = IntentRow::of(stored)?;
    let asked = row.escalation.clone();
    let may_say = |asked: &EscalationRow| {
        caller.subject != stored.subject
            && said::may_say(&asked.principals, &asked.parties, caller.subject.as_str())
    };
    if asked.as_ref().is_some_and(|asked| !may_say(asked)) {
        let why = "whoever asks for an action, or gave the right to ask, does not decide on it";
        return Err(Error::new(Code::Forbidden, why).hint("let another person decide"));
    }
    let expired = stored.has_expired(clock::now_ms());
    let now = match (stored.state, &asked) {
        (State::Held, Some(_)) if !expired => None,
        (State::Held, Some(_)) => Some("has expired"),
        (State::Held, None) => Some("was held by an earlier version and can only expire"),
        (State::Approved, _) => Some("is approved already"),
        _ => Some("does not wait for approval"),
    };
    match (now, asked) {
        (None, Some(asked)) => Ok((row, asked)),
        (now, _) => Err(Error::new(
            Code::StateConflict,
            format!("the action {}", now.unwrap_or("does not wait for approval")),
        )),
    }
}

/// Where one person decides and the request named who has to sign off, it is that person. Of several, who is named has
/// to be one, which is seen to before anything is sent.
fn its_signer(caller: &Caller, stored: &Stored, row: &IntentRow) -> Result<(), Error> {
    match atp::signer(row)? {
        Some(signer) if signer != caller.subject && stored.needed <= 1 => {
            Err(Error::new(Code::Forbidden, "the request names another person to sign it off")
                .hint("let that person decide, or say no"))
        }
        _ => Ok(()),
    }
}

/// What the ledger's refusal of a person's word means.
fn conflict(error: ledger::Error) -> Error {
    match error {
        ledger::Error::Illegal { .. } => {
            Error::new(Code::StateConflict, "the action no longer waits for this decision")
        }
        ledger::Error::Exists(_) => {
            Error::new(Code::StateConflict, "you have decided on this action already")
        }
        ledger::Error::NoSuchAction(_) => not_found("action"),
        other => unavailable(other),
    }
}

/// A comment is one honest line for other people; whatever else it is, it decides nothing.
pub(crate) fn readable(comment: Option<String>) -> Result<Option<String>, Error> {
    readable_as("comment", comment)
}

/// The same of what is called otherwise where it was asked: whatever people write for the record is held to it.
pub(crate) fn readable_as(member: &str, text: Option<String>) -> Result<Option<String>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let wrong = |why: String| Error::new(Code::ValidationFailed, why).field(format!("/{member}"));
    if text.len() > LONGEST_COMMENT {
        return Err(wrong(format!("`{member}` has at most {LONGEST_COMMENT} bytes")));
    }
    action::refuse_tricks(&text).map_err(|refusal| wrong(format!("`{member}`: {}", refusal.message)))?;
    Ok(Some(text))
}
