//! Resolve: a person says what became of an action, where nobody else does.
//!
//! ```text
//!   in doubt ─────────▶ the provider is asked once more ─▶ it tells: its word counts
//!                                   │ it does not
//!                                   └─▶ executed │ failed
//!   release failed ───▶ the same ─────▶ released │ executed (charged) │ tried again
//!   unchecked ────────▶ the same ─────▶ executed (left as it stands) │ undone
//!   rollback failed ──────────────────▶ rolled back │ executed (left as it stands)
//! ```
//!
//! It is a person's word and is kept as one: an event of its own, an entry of its own (`resolved`), and an amendment whose
//! entry `execute` commits to who said so. Nothing is sent for it but what sets free or undoes, where a person has that done;
//! nothing that is in flight is overtaken, and whoever asked for the action, or gave the right to ask, does not say what
//! became of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use action::{ActionId, Money, PaymentMode};
use execution::{
    Absence, Call, Capabilities, Confirmation, Course, Event, Execution, Found, Resolution, Stood, Terms,
};
use ledger::{By, Settled, Settlement, State, Stored};
use receipt::{Amendment, Json, PaymentStatus, Salts};
use serde::Serialize;
use serde_json::Value;

use crate::act::UnderWay;
use crate::approvals::readable;
use crate::caller::{Caller, Deed};
use crate::crash::Point;
use crate::forgotten::{is_for_person, is_unsaid};
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind};
use crate::pending::Pending;
use crate::prove::{Ending, amending, push_split};
use crate::remember::{outward, stored as kept, telling, unavailable};
use crate::reserve::reservation_of;
use crate::rollback::{done, is_unbound};
use crate::row::{IntentRow, OutcomeRow, ResolutionRow, VERSION, internal};
use crate::steer::busy;
use crate::tenants::TenantState;
use crate::views::ActionView;
use crate::{Code, Error, clock};

/// The event of the ledger entry.
pub(crate) const EVENT: &str = ledger::RESOLVED;
/// What a receipt says came of an action where a person said so: never to be taken for the provider's word.
pub(crate) const RESOLVED: &str = "resolved_by_person";

/// The longest reference that a person may give, in bytes.
const LONGEST_REFERENCE: usize = 200;
/// So long whoever only asks the provider is waited for, and how often it is looked.
const A_WHILE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

/// What a person can say became of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The effect took place, or what was reserved was charged; or, of one that could not be undone or looked after: it stays.
    Executed,
    /// There is no effect, and there will be none.
    Failed,
    /// The effect was undone by other means.
    RolledBack,
    /// What was reserved is free, and nothing was charged.
    Released,
    /// What is reserved is to be set free after all: it is tried again.
    TryAgain,
    /// The effect is not as it should be, and is to be undone.
    Undo,
}

/// A person's word on an action.
#[derive(Clone, Debug)]
pub struct ResolveAsk {
    /// What became of it.
    pub decision: Decision,
    /// How they know: one line.
    pub comment: Option<String>,
    /// What was charged, a decimal string; what was reserved, if it says nothing.
    pub charged: Option<String>,
    /// What the provider calls the effect.
    pub reference: Option<String>,
}

/// A person's word, as the record shows it.
#[derive(Clone, Debug)]
pub struct ResolutionView {
    /// See [`Decision::as_str`].
    pub decision: String,
    /// Who.
    pub by: String,
    /// RFC 3339.
    pub at: String,
    /// How they know.
    pub comment: String,
    /// What they say was charged.
    pub charged: Option<String>,
    /// What they say the provider calls it.
    pub reference: Option<String>,
}

/// The same as a receipt shows it, members in JCS order: the person, and what they wrote, as commitments.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spoken<'a> {
    r#as: &'a str,
    at: String,
    by: String,
    comment: String,
    /// By what: an API key or a login, of which the gateway alone knows; it is not signed by the person.
    form: &'static str,
    key_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
}

impl Decision {
    /// All of them.
    pub const ALL: [Decision; 6] = [
        Decision::Executed,
        Decision::Failed,
        Decision::RolledBack,
        Decision::Released,
        Decision::TryAgain,
        Decision::Undo,
    ];

    /// The word on the wire and in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Decision::Executed => "executed",
            Decision::Failed => "failed",
            Decision::RolledBack => "rolled_back",
            Decision::Released => "released",
            Decision::TryAgain => "try_again",
            Decision::Undo => "undo",
        }
    }

    /// The decision of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Decision> {
        Decision::ALL.into_iter().find(|decision| decision.as_str() == word)
    }

    /// What a person can say of an action that stands here; nothing if it needs nobody's word.
    pub(crate) fn of(state: State) -> &'static [Decision] {
        match state {
            State::InDoubt => &[Decision::Executed, Decision::Failed],
            State::RollbackFailed => &[Decision::RolledBack, Decision::Executed],
            State::ReleaseFailed => &[Decision::TryAgain, Decision::Released, Decision::Executed],
            State::Unchecked => &[Decision::Executed, Decision::Undo],
            _ => &[],
        }
    }
}

impl Gateway {
    /// Takes a person's word on what became of an action that is in doubt, could not be undone or not be set free, or of which
    /// nobody tells whether it is as it should be. A provider that tells when it is asked once more is believed instead.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for whoever asked or gave the right to ask; `EP_VALIDATION_FAILED`, naming the member;
    /// `EP_STATE_CONFLICT` if it needs nobody's word, is under way just now, here, at another gateway or at its runner, or the
    /// provider says otherwise.
    pub async fn resolve(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        ask: ResolveAsk,
    ) -> Result<ActionView, Error> {
        caller.must(Deed::Approve)?;
        let stored = self.visible(caller, id).await?;
        let (gateway, tenant) = (Arc::clone(self), Arc::clone(self.tenant(&stored.tenant)?));
        let (person, id_there) = (caller.clone(), stored.id);
        // In a task of its own: who hangs up has decided all the same.
        let task = tokio::spawn(async move { gateway.take_word(&tenant, &person, id_there, ask).await });
        task.await.unwrap_or_else(|_| Err(internal("a decision ended without a word")))?;
        self.action(caller, id).await
    }

    async fn take_word(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        person: &Caller,
        id: ActionId,
        ask: ResolveAsk,
    ) -> Result<(), Error> {
        let under_way = self.alone_with(id).await?;
        // Read once it is marked: before, whoever had it in hand may have gone on with it.
        let stored = self.stored(tenant, id).await?;
        let row = IntentRow::of(&stored)?;
        let parties = self.parties(&stored, &row).await?;
        if parties.iter().any(|party| *party == person.subject.as_str()) {
            let why = "whoever asks for an action, or gave the right to ask, does not say what became of it";
            return Err(Error::new(Code::Forbidden, why).hint("let another person decide"));
        }
        let outcomes = self.outcomes_of(&stored).await?;
        let mut pending = Pending::restore(&stored, self.told(&stored).await?)?;
        let decision = ask.decision;
        let word = understood(ask, person, &pending, next_number(&words(&outcomes, &row)?))?;
        if said_before(&outcomes, &row, &word)? {
            return Ok(());
        }
        let state = self.stands_as(tenant, &stored, &pending).await?;
        if !Decision::of(state).contains(&decision) {
            return Err(needs_no_word(state, decision));
        }
        let doubt = state == State::InDoubt;
        if doubt && decision == Decision::Executed && pending.only_reserves() {
            let why = "the action was to reserve money, which charges nothing";
            return Err(Error::new(Code::StateConflict, why)
                .hint("say `failed`: whatever is reserved ends by itself, and is set free if it turns up"));
        }
        let given = [("charged", word.charged.is_some()), ("reference", word.reference.is_some())];
        let says_more = matches!(state, State::InDoubt | State::ReleaseFailed);
        if let Some((name, _)) = given.iter().find(|(_, given)| *given && !says_more) {
            let why = format!("`{name}` is what the provider confirmed, and on record");
            return Err(wrong(&format!("/{name}"), &why).hint("leave it out"));
        }
        if decision == Decision::TryAgain && stored.state == State::Reserved {
            let why = "it is being set free, and its provider is asked every minute whether that may go on";
            return Err(Error::new(Code::StateConflict, why).hint("say `released` or `executed`"));
        }
        let told = match state {
            // It was just asked.
            State::InDoubt if stored.state != state => false,
            State::InDoubt => self.provider_tells(tenant, &pending, decision).await?,
            State::ReleaseFailed => self.release_tells(tenant, &pending, decision).await?,
            State::Unchecked => self.check_tells(tenant, &mut pending, decision).await?,
            _ => false,
        };
        if told {
            return Ok(());
        }
        pending.word = Some(Box::new(word));
        // Whoever is alone with what is open knows that nobody here is sending, however long the lease of the last send may be. Of
        // others the ledger knows.
        pending.by = By::Person(stored.token);
        match state {
            State::ReleaseFailed => self.settle_release(tenant, pending, decision).await?,
            State::Unchecked => self.settle_unchecked(tenant, &mut pending, decision).await?,
            State::RollbackFailed => {
                self.settle_rollback(tenant, &mut pending, &outcomes, decision).await?;
            }
            _ => self.settle_doubt(tenant, &pending, decision).await?,
        }
        tracing::warn!(action = %id, tenant = %tenant.tenant, decision = decision.as_str(), "a person has resolved it");
        drop(under_way);
        Ok(())
    }

    /// As what it stands for whoever says what became of it. After a store was put back, what waits for its next attempt is in doubt as
    /// long as nobody else says what followed on the latest, and so is what its payer did not confirm; and what is being set free has
    /// not been.
    async fn stands_as(
        &self,
        tenant: &TenantState,
        stored: &Stored,
        pending: &Pending,
    ) -> Result<State, Error> {
        let is_forgotten = self.forgot_after(tenant, pending).is_some();
        let (asked, state) = match stored.state {
            State::Waiting if is_forgotten => (self.followed_if_bound(tenant, pending).await, State::InDoubt),
            State::Challenged if is_forgotten && self.is_unconfirmed(tenant, stored, pending).await? => {
                (self.followed_if_bound(tenant, pending).await, State::InDoubt)
            }
            State::Reserved if reservation_of(&pending.row)?.release.is_some() => {
                (self.recall_capture(tenant, pending).await.map(drop), State::ReleaseFailed)
            }
            _ => return Ok(stored.state),
        };
        match asked {
            Err(error) if is_for_person(&error) => Ok(state),
            asked => {
                asked?;
                let now = self.stored(tenant, stored.id).await?.state;
                // Somebody else went on with it, and what they came to is another matter.
                if now != stored.state && !Decision::of(now).is_empty() { Err(busy()) } else { Ok(now) }
            }
        }
    }

    /// Asks whoever the latest attempt was sent to what followed on it.
    async fn followed_if_bound(&self, tenant: &TenantState, pending: &Pending) -> Result<(), Error> {
        let (provider, _) = self.bound(pending, &tenant.rules(), Stood::InDoubt)?;
        self.followed_on(tenant, pending, provider.as_ref()).await.map(drop)
    }

    /// Its payer's time is over, and its provider says that it was not confirmed.
    async fn is_unconfirmed(
        &self,
        tenant: &TenantState,
        stored: &Stored,
        pending: &Pending,
    ) -> Result<bool, Error> {
        if stored.due_ms.is_some_and(|until_ms| clock::now_ms() < until_ms) {
            return Ok(false);
        }
        match self.bound(pending, &tenant.rules(), Stood::InDoubt) {
            Ok((provider, call)) => {
                let found = provider.query(&call, clock::now_ms()).await;
                Ok(matches!(found, Found::Absent { final_: true }))
            }
            Err(error) if is_unbound(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Marks the action, once whoever only asks after it is done.
    pub(crate) async fn alone_with(self: &Arc<Self>, id: ActionId) -> Result<UnderWay, Error> {
        let begun = std::time::Instant::now();
        loop {
            if let Some(under_way) = self.look_after_alone(id) {
                return Ok(under_way);
            }
            if begun.elapsed() >= A_WHILE {
                return Err(busy());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks the provider of an action in doubt once more; a runner that is at it tells in its own time. If it tells, that is written down: whether it did, and agrees.
    async fn provider_tells(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        decision: Decision,
    ) -> Result<bool, Error> {
        let (provider, call) = match self.bound(pending, &tenant.rules(), Stood::InDoubt) {
            Ok(found) => found,
            // Who cannot be asked any more does not tell.
            Err(error) if is_unbound(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        if provider.runner().is_some_and(|runner| runner.is_at(&call)) {
            let why = "its runner is still at it, or has not had time to come back since the gateway began";
            return Err(Error::new(Code::StateConflict, why).hint("wait until it reports or falls silent"));
        }
        if !provider.capabilities().can_be_asked() {
            return Ok(false);
        }
        let found = provider.query(&call, clock::now_ms()).await;
        match found {
            Found::Unknown => return Ok(false),
            Found::Absent { final_: false } => {
                let why =
                    "the provider knows of no such call so far and will say for certain: wait until it does";
                return Err(Error::new(Code::StateConflict, why));
            }
            Found::Confirmed(_) | Found::Absent { final_: true } => {}
        }
        // Before it is said to be tried again.
        if let (Found::Absent { .. }, None) = (&found, &pending.row.reservation) {
            match self.done_by_forgotten(tenant, pending, &Absence::Final).await {
                Ok(None) => {}
                Ok(Some(_)) => return self.agrees(tenant, pending, decision).await,
                Err(error) if is_unsaid(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let execution = pending.execution(call, provider.as_ref(), Stood::InDoubt);
        let (execution, effects) = self.step(execution, Event::Asked(found))?;
        match self.follow(tenant, pending, &execution, &effects).await {
            // What may have followed and was forgotten it does not tell.
            Err(error) if is_unsaid(&error) => return Ok(false),
            followed => followed?,
        };
        self.agrees(tenant, pending, decision).await
    }

    /// Says that its provider has told, if a person says the same of what is on record now.
    async fn agrees(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        decision: Decision,
    ) -> Result<bool, Error> {
        let now = self.stored(tenant, pending.id).await?.state;
        // What is set aside stays so where what was to charge it had no effect.
        let uncharged = pending.row.reservation.is_some() && now == State::Reserved;
        let carried_out = matches!(now, State::Executed | State::Checking);
        let agrees = match decision {
            Decision::Executed => carried_out,
            _ => now == State::Failed || uncharged,
        };
        if agrees {
            return Ok(true);
        }
        let told = match now {
            _ if carried_out => "it was carried out",
            State::Failed => "it had no effect",
            State::Reserved if uncharged => "it had no effect, and the money is still reserved",
            State::Reserved => "the money is reserved",
            _ => "it had no effect, and it is tried again",
        };
        let why = format!("the provider was asked once more and its word counts: {told}");
        Err(Error::new(Code::StateConflict, why))
    }

    async fn settle_doubt(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        decision: Decision,
    ) -> Result<(), Error> {
        let resolution = match decision {
            Decision::Executed => Resolution::Executed(pending.confirmed_by_person()?),
            _ => Resolution::Failed,
        };
        let execution = self.at_rest(tenant, pending, Stood::InDoubt).await?;
        let (execution, effects) = self.step(execution, Event::Resolved(resolution))?;
        self.follow(tenant, pending, &execution, &effects).await.map(drop)
    }

    /// The original stands; a receipt of its own says what the person decided about its rollback.
    async fn settle_rollback(
        &self,
        tenant: &TenantState,
        pending: &mut Pending,
        outcomes: &[Settled],
        decision: Decision,
    ) -> Result<(), Error> {
        let confirmation = pending.confirmed_by_person()?;
        let (resolution, charged) = match decision {
            Decision::Executed => (Resolution::Executed(confirmation), pending.charged(outcomes)?),
            _ => (Resolution::RolledBack(confirmation), None),
        };
        let execution = self.at_rest(tenant, pending, Stood::RollbackFailed).await?;
        self.step(execution, Event::Resolved(resolution))?;
        let of = pending.told.as_ref().map(|told| told.receipt.receipt_id.clone());
        let of = of.ok_or_else(|| internal("an executed action has no receipt"))?;
        // What the entry shows was sent is the rollback, not the action.
        if let (Some(call), Some(undo)) = (&mut pending.row.call, &pending.row.rollback) {
            (call.provider_key, call.reference) = (undo.provider_key.clone(), undo.reference.clone());
        }
        let payment = if charged.is_some() { PaymentStatus::Charged } else { PaymentStatus::NotCharged };
        let word = pending.word.clone();
        let reference = word.as_ref().and_then(|word| word.reference.clone());
        let mut chain = amending(&of)?;
        self.push_execute(&mut chain, pending, RESOLVED, reference.as_deref(), None, Json::NULL)?;
        push_split(&mut chain, pending, charged, payment)?;
        let state = if decision == Decision::Executed { State::Executed } else { State::RolledBack };
        let mut ending = Ending {
            kind: Kind::Executed,
            state,
            code: None,
            details: Details { reasons: vec![RESOLVED.to_owned()], ..Details::default() },
            chain,
            confirmation: None,
            refusal: None,
            payment,
            charged,
        };
        let receipt_id = clock::new_id(clock::now_ms())?.to_string();
        let amends = receipt::Event::Amendment { reason: Amendment::Rollback, of: Cow::Borrowed(&of) };
        let receipt = self.sign(pending, &mut ending, &receipt_id, amends)?;
        let row = OutcomeRow {
            v: VERSION,
            reference,
            details: ending.details,
            resolution: word,
            ..Default::default()
        };
        let payload = pending.outcome(row)?;
        let outcome = ledger::Outcome {
            at_ms: clock::now_ms(),
            state,
            reply: None,
            receipt: Some(kept(receipt, &receipt_id)),
            payload,
            entry: telling(tenant, EVENT, Some(outward(state)), pending.attempt()),
        };
        // What is given back refills nothing, and what stays was charged before.
        let settlement = Settlement::of(pending.id, pending.by, outcome);
        self.at(Point::ResolveBefore)?;
        self.ledger.amend(settlement).await.map_err(unavailable)?;
        self.at(Point::ResolveAfter)
    }

    /// The execution as a person finds it. Nothing of it is sent any more, so what its provider can does not matter, and
    /// one whose archetype is gone is found by the rules that it was judged by.
    pub(crate) async fn at_rest(
        &self,
        tenant: &TenantState,
        pending: &Pending,
        stood: Stood,
    ) -> Result<Execution, Error> {
        let (call, terms, course) = self.as_found(tenant, pending).await?;
        Ok(Execution::recover(call, terms, course, stood))
    }

    pub(crate) async fn as_found(
        &self,
        tenant: &TenantState,
        pending: &Pending,
    ) -> Result<(Call, Terms, Course), Error> {
        let call: Call = match pending.call(self.environment, &tenant.rules()) {
            Ok(call) => call,
            Err(_) => {
                let then = self.rules_of_then(&tenant.tenant, &pending.row).await?;
                pending.call(self.environment, &then)?
            }
        };
        let course = pending.course()?;
        let capabilities = Capabilities::default();
        let terms = Terms {
            capabilities,
            retry: None,
            deadline_ms: None,
            flight_ms: 0,
            checked: false,
            hold_ms: None,
        };
        Ok((call, terms, course))
    }

    /// Who does not decide on an action, whether it ever waited or not: who asked for it, for another attempt of it, for its
    /// charge, its release or its rollback, whose right it is, who gave that right, and who made the keys of whoever asked.
    pub(crate) async fn parties(&self, stored: &Stored, row: &IntentRow) -> Result<Vec<String>, Error> {
        let mut parties: Vec<String> =
            row.escalation.iter().flat_map(|asked| asked.parties.clone()).collect();
        parties.extend([stored.subject.to_string(), stored.principal.to_string()]);
        parties.extend(row.steerers().map(str::to_owned));
        for jti in stored.mandates.iter().map(|jti| &**jti).chain(row.mandate_id.as_deref()) {
            let held = self.ledger.mandate(&stored.tenant, jti).await.map_err(unavailable)?;
            parties.extend(
                held.iter()
                    .flat_map(|held| [held.mandate.subject.to_string(), held.mandate.issuer.to_string()]),
            );
        }
        let keys = self.ledger.keys(&stored.tenant).await.map_err(unavailable)?;
        let of_asker = keys.into_iter().filter(|key| key.subject == stored.subject);
        parties.extend(of_asker.filter_map(|key| key.created_by).map(|by| by.to_string()));
        parties.sort();
        parties.dedup();
        Ok(parties)
    }
}

impl Pending {
    /// Is what is in doubt a reservation?
    fn only_reserves(&self) -> bool {
        let mode = PaymentMode::parse(&self.row.payment_mode);
        mode == Some(PaymentMode::ReserveIfAvailable) && self.row.reservation.is_none()
    }

    /// What a person's word stands for where a provider would have confirmed.
    pub(crate) fn confirmed_by_person(&self) -> Result<Confirmation, Error> {
        let word = self.word.as_ref();
        let charged = word.and_then(|word| word.charged.as_deref());
        let charged = charged.zip(self.money).map(|(text, reserved)| Money::parse(text, reserved.currency()));
        Ok(Confirmation {
            reference: word.and_then(|word| word.reference.clone()),
            charged: charged.transpose().map_err(|_| internal("an amount is not one"))?,
            ..Confirmation::default()
        })
    }

    /// What was charged for the effect, as its outcome says.
    fn charged(&self, outcomes: &[Settled]) -> Result<Option<Money>, Error> {
        let Some(money) = self.money else { return Ok(None) };
        let done = done(outcomes).map(|done| OutcomeRow::from_bytes(&done.payload)).transpose()?;
        let said = done.and_then(|done| done.details.amount.zip(done.details.currency));
        let charged =
            said.and_then(|(amount, currency)| Money::parse(&amount, action::Currency::of(&currency)?).ok());
        Ok(Some(charged.unwrap_or(money)))
    }
}

impl ResolutionView {
    pub(crate) fn of(row: ResolutionRow) -> ResolutionView {
        let ResolutionRow { decision, by, at_ms, comment, charged, reference, .. } = row;
        ResolutionView { decision, by, at: clock::text(at_ms), comment, charged, reference }
    }
}

/// What people said became of an action, or of a capture of it, or is to be done about it, oldest first.
pub(crate) fn words(outcomes: &[Settled], row: &IntentRow) -> Result<Vec<ResolutionRow>, Error> {
    let rows: Result<Vec<OutcomeRow>, Error> =
        outcomes.iter().map(|outcome| OutcomeRow::from_bytes(&outcome.payload)).collect();
    let of_outcomes = rows?.into_iter().filter_map(|row| row.resolution.map(|it| *it));
    let mut words: Vec<ResolutionRow> = of_outcomes.chain(row.words_aside().cloned()).collect();
    words.sort_by_key(|word| word.at_ms);
    Ok(words)
}

/// A number that no word has.
fn next_number(words: &[ResolutionRow]) -> u32 {
    words.iter().map(|word| word.number.saturating_add(1)).max().unwrap_or(0)
}

/// A person's word as receipts show it.
pub(crate) fn spoken<'a>(word: &'a ResolutionRow, salts: &Salts) -> Spoken<'a> {
    let base = receipt::label(RESOLUTIONS, &word.number.to_string());
    let hidden =
        |member: &str, value: &str| salts.commit(&receipt::label(&base, member), &Json::string(value));
    Spoken {
        r#as: &word.decision,
        at: clock::text(word.at_ms),
        by: hidden("by", &word.by),
        comment: hidden("comment", &word.comment),
        form: action::ApprovalForm::Key.as_str(),
        key_id: &word.key_id,
        reference: word.reference.as_deref().map(|reference| hidden("reference", reference)),
    }
}

/// Is this the word that a receipt shows, by the output of its entry `execute`?
pub(crate) fn is_shown(word: &ResolutionRow, salts: &Salts, output: &Value) -> bool {
    let shown = &output["resolved"];
    let mut spoken = spoken(word, salts);
    // Older receipts show what a person calls the effect in the clear.
    if shown["reference"].is_null() && output["reference"].as_str() == word.reference.as_deref() {
        spoken.reference = None;
    }
    serde_json::to_value(spoken).is_ok_and(|spoken| *shown == spoken)
}

/// Label under which people who resolve and their comments are committed to.
const RESOLUTIONS: &str = "resolutions";

/// Has this person said exactly this, and nothing came after it?
fn said_before(outcomes: &[Settled], row: &IntentRow, word: &ResolutionRow) -> Result<bool, Error> {
    let Some(last) = outcomes.last() else { return Ok(false) };
    // After a word on a capture comes only what sets free.
    let capture = row.reservation.as_ref().and_then(|it| it.captures.last());
    let by_word = capture.is_some_and(|capture| capture.result.as_deref() == Some(RESOLVED));
    let failed = |word: &&ResolutionRow| word.decision == Decision::Failed.as_str();
    let of_capture = row.words_aside().filter(failed).last().filter(|_| by_word).cloned().map(Box::new);
    let said = OutcomeRow::from_bytes(&last.payload)?.resolution.or(of_capture);
    Ok(said.is_some_and(|said| {
        let of = |it: &ResolutionRow| {
            (it.decision.clone(), it.by.clone(), it.charged.clone(), it.reference.clone())
        };
        of(&said) == of(word)
    }))
}

/// What a person says, if each member of it holds.
fn understood(
    ask: ResolveAsk,
    person: &Caller,
    pending: &Pending,
    number: u32,
) -> Result<ResolutionRow, Error> {
    let ResolveAsk { decision, comment, charged, reference } = ask;
    let comment = readable(comment)?.ok_or_else(|| {
        wrong("/comment", "a person's word needs a comment").hint("say in one line how you know")
    })?;
    for (name, given) in [("charged", charged.is_some()), ("reference", reference.is_some())] {
        if given && decision != Decision::Executed {
            let why = format!("`{name}` goes with `executed` only");
            return Err(wrong(&format!("/{name}"), &why).hint("leave it out"));
        }
    }
    let unfit = |reference: &String| {
        let graphic = reference.bytes().all(|byte| byte.is_ascii_graphic());
        reference.is_empty() || reference.len() > LONGEST_REFERENCE || !graphic
    };
    if reference.as_ref().is_some_and(unfit) {
        let why = format!("`reference` has 1 to {LONGEST_REFERENCE} visible ASCII characters");
        return Err(wrong("/reference", &why));
    }
    Ok(ResolutionRow {
        decision: decision.as_str().to_owned(),
        by: person.subject.to_string(),
        key_id: person.key_id.clone(),
        at_ms: clock::now_ms(),
        comment,
        charged: charged.map(|charged| within_reserved(&charged, pending)).transpose()?,
        reference,
        number,
    })
}

/// An amount that a person may say was charged, in its one spelling. More than was reserved, or than a capture asked for, only
/// a provider can say.
fn within_reserved(charged: &str, pending: &Pending) -> Result<String, Error> {
    let field = "/charged/amount";
    let quoted = pending.row.payment_mode == PaymentMode::QuoteOnly.as_str();
    let reservation = pending.row.reservation.as_ref();
    let asked = match reservation.filter(|it| it.charging().is_none()) {
        Some(reservation) => reservation.read(pending.money)?.money,
        None => pending.row.purpose(pending.money)?.1,
    };
    let reserved = asked.filter(|_| !quoted);
    let reserved = reserved
        .ok_or_else(|| wrong("/charged", "`charged` does not fit: nothing was reserved for this action"))?;
    let charged = Money::parse(charged, reserved.currency())
        .map_err(|error| wrong(field, &format!("`amount`: {error}")))?;
    if charged.minor() > reserved.minor() {
        let charging = reservation.is_some_and(|reservation| reservation.charging().is_some());
        let verb = if charging { "to be captured" } else { "reserved" };
        return Err(wrong(field, &format!("`amount` is more than the {reserved} that were {verb}")));
    }
    Ok(charged.to_string())
}

fn wrong(field: &str, why: &str) -> Error {
    Error::new(Code::ValidationFailed, why).field(field)
}

fn needs_no_word(state: State, decision: Decision) -> Error {
    let why = match state {
        State::InDoubt => "the action is in doubt: it was carried out or had no effect, and was not undone",
        State::RollbackFailed => "the action was carried out: its effect was undone by other means, or stays",
        State::Held | State::Approved => "the action waits for people and was not sent",
        State::Sent => "somebody is sending the action just now",
        State::Reserved => "money is reserved for the action: capture or release it",
        State::ReleaseFailed => "what is reserved for the action could not be set free",
        State::Unchecked => "the action was carried out, and nobody tells whether all is as it should be",
        State::Challenged => "the payer can still confirm it",
        State::Checking => {
            "the action was carried out, and its provider is being asked whether all is as it should be"
        }
        State::Waiting => "what was sent had no effect, and the action waits for its next attempt",
        State::Retracting | State::RollingBack => "the effect of the action is still being undone",
        State::Executed | State::Failed | State::Refused | State::RolledBack => "the action is over",
    };
    let can = Decision::of(state).iter().map(|can| format!("`{}`", can.as_str())).collect::<Vec<_>>();
    let error = Error::new(Code::StateConflict, why);
    match can.is_empty() || Decision::of(state).contains(&decision) {
        true => error,
        false => error.hint(format!("say {}", can.join(" or "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_as_it_is_written() {
        for decision in Decision::ALL {
            assert_eq!(Decision::parse(decision.as_str()), Some(decision));
        }
        assert_eq!(Decision::parse("perhaps"), None);
    }

    #[test]
    fn no_two_words_have_one_number() {
        let word = |number| ResolutionRow {
            decision: "failed".to_owned(),
            by: "anna".to_owned(),
            key_id: "k_1".to_owned(),
            at_ms: 7,
            comment: "seen".to_owned(),
            charged: None,
            reference: None,
            number,
        };
        assert_eq!(next_number(&[]), 0);
        assert_eq!(next_number(&[word(0), word(2)]), 3, "one was there that is gone");
        assert_eq!(next_number(&[word(3), word(1)]), 4);
    }

    #[test]
    fn a_receipt_shows_one_word_as_it_is_shown_now_or_was_before() {
        let word = ResolutionRow {
            decision: "executed".to_owned(),
            by: "anna".to_owned(),
            key_id: "k_1".to_owned(),
            at_ms: 1_760_000_000_000,
            comment: "seen".to_owned(),
            charged: None,
            reference: Some("p-7".to_owned()),
            number: 0,
        };
        let salts = Salts::new(&[7; 32]);
        let now = serde_json::to_value(spoken(&word, &salts)).unwrap_or_default();
        let mut before = now.clone();
        before.as_object_mut().map(|members| members.remove("reference"));
        let output = |reference: Option<&str>, resolved: &Value| serde_json::json!({ "reference": reference, "resolved": resolved });
        assert!(is_shown(&word, &salts, &output(None, &now)));
        assert!(is_shown(&word, &salts, &output(Some("p-7"), &before)));
        assert!(!is_shown(&word, &salts, &output(Some("p-8"), &before)));
        assert!(!is_shown(&word, &salts, &output(None, &before)));
        assert!(!is_shown(&word, &salts, &output(None, &Value::Null)));
        assert!(!is_shown(&ResolutionRow { by: "zoe".to_owned(), ..word }, &salts, &output(None, &now)));
    }
}
