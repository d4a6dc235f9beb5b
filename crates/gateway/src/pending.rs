//! An admitted action on its way to its outcome, the same whether it was admitted a moment ago or found after a
//! crash.

use std::sync::Arc;

use action::{ActionId, Environment, GuaranteeLevel, Money, PaymentMode, Subject, Tenant};
use execution::{Call, Course, Doubt, Execution, Stood, Terms};
use ledger::{By, State};
use provider::Provider;
use receipt::{Chain, Json, Salts};
use serde_json::value::RawValue;

use crate::act::SEND_WINDOW;
use crate::decide::Named;
use crate::outcome::ReceiptRef;
use crate::redress::undone_by;
use crate::row::{
    CallRow, EarlierRow, IntentRow, KeepingRow, ResolutionRow, VERSION, internal, kept, money_of, raw,
};
use crate::tenants::Rules;
use crate::{Code, Error};

/// What is known of an action from the moment it is written down.
#[derive(Clone)]
pub(crate) struct Pending {
    pub id: ActionId,
    pub tenant: Tenant,
    pub subject: Subject,
    pub key: Option<Box<str>>,
    pub archetype: Arc<str>,
    pub at_ms: i64,
    pub money: Option<Money>,
    /// What names its row as that is stored, whatever is made of it in hand.
    pub name: [u8; 32],
    /// What the payload says; its `entries` are those of `chain` at admission.
    pub row: IntentRow,
    /// The entries so far.
    pub chain: Chain,
    /// What the caller was told first, if that was not the last word.
    pub told: Option<Told>,
    /// Whose word it is.
    pub by: By,
    /// Was the last word said? What comes now amends it.
    pub settled: bool,
    /// A person's word, where that is what settles it.
    pub word: Option<Box<ResolutionRow>>,
    /// Which effect it is, where that is not the latest call's.
    pub earlier: Option<EarlierRow>,
    /// Is it an effect although something else was said?
    pub late: bool,
    /// What stops its session with the next word on it.
    pub halts: Option<ledger::Event>,
    /// Why it is not known what became of it, where whoever has sent it knows that.
    pub doubt: Option<Doubt>,
}

/// The first answer to an action that has a receipt.
#[derive(Clone)]
pub(crate) struct Told {
    pub receipt: ReceiptRef,
    pub at_ms: i64,
}

impl Pending {
    /// Reads back what admission wrote.
    pub(crate) fn restore(stored: &ledger::Stored, told: Option<Told>) -> Result<Pending, Error> {
        let row = IntentRow::of(stored)?;
        let chain = Chain::from_bytes(row.entries.get().as_bytes())
            .map_err(|_| internal("stored entries do not hold"))?;
        let is_checked = matches!(stored.state, State::Checking | State::Unchecked | State::Retracting);
        let late = is_checked && row.check.as_ref().is_some_and(|check| check.late);
        Ok(Pending {
            id: stored.id,
            tenant: stored.tenant.clone(),
            subject: stored.subject.clone(),
            key: stored.key.clone(),
            archetype: stored.archetype.as_ref().into(),
            at_ms: stored.at_ms,
            money: money_of(row.amount.as_deref(), row.currency.as_deref())?,
            name: row.name_of(stored.key.as_deref(), &stored.payload),
            row,
            chain,
            told,
            by: By::Holder(stored.token),
            settled: stored.state.is_amended(),
            word: None,
            earlier: None,
            late,
            halts: None,
            doubt: None,
        })
    }

    /// Does it stand as it was last written from here? If not, somebody else has taken it in hand and goes on with it: the token
    /// that stands there now is theirs.
    pub(crate) fn still_holds(&self, stored: &ledger::Stored) -> bool {
        self.by == By::Holder(stored.token)
    }

    /// Its row as it is to be stored from now on, and named by the entry that comes with it.
    pub(crate) fn payload(&mut self) -> Result<Vec<u8>, Error> {
        let Named { payload, name } = self.row.to_named(self.key.as_deref())?;
        self.name = name;
        Ok(payload)
    }

    /// The call as it left, or as it may have left.
    pub(crate) fn call(&self, environment: Environment, rules: &Rules) -> Result<Call, Error> {
        let row =
            self.row.call.as_ref().ok_or_else(|| internal("an action without a call cannot be sent"))?;
        let (purpose, money) = self.row.purpose(self.money)?;
        Ok(Call {
            attempt: row.attempt,
            provider_key: row.provider_key.clone(),
            reference: row.reference.clone(),
            send_by_ms: row.send_by_ms,
            purpose,
            money,
            ..self.before_any_attempt(environment, rules)?
        })
    }

    /// What all of its attempts have in common, by no name yet.
    pub(crate) fn before_any_attempt(&self, environment: Environment, rules: &Rules) -> Result<Call, Error> {
        let archetype = rules.catalogue.get(&self.archetype).ok_or_else(|| {
            Error::new(
                Code::UnknownArchetype,
                format!("archetype `{}` is no longer in the catalogue", self.archetype),
            )
        })?;
        let constraints = serde_json::from_str(self.row.constraints.get())
            .map_err(|_| internal("stored constraints cannot be read"))?;
        Ok(Call {
            action_id: self.id,
            tenant: self.tenant.clone(),
            environment,
            archetype: Arc::clone(archetype),
            constraints,
            money: self.money,
            attempt: 0,
            provider_key: String::new(),
            reference: String::new(),
            send_by_ms: 0,
            purpose: self.row.attempts_for(),
        })
    }

    /// The same, now that the ledger has its payload: what only the payload needs is let go, because ten thousand of
    /// these may wait for slow providers.
    pub(crate) fn remembered(mut self) -> Result<Box<Pending>, Error> {
        self.row.constraints = raw("null".to_owned())?;
        self.row.entries = raw("[]".to_owned())?;
        self.row.record = None;
        // A copy is as large as it has to be; what it is copied from has room for the entries of a whole receipt.
        self.chain = self.chain.clone();
        Ok(Box::new(self))
    }

    /// The execution as it stands on record.
    pub(crate) fn execution(&self, call: Call, provider: &dyn Provider, stood: Stood) -> Execution {
        let course = self.row.call.as_ref().map(CallRow::course);
        let course = course.unwrap_or(Course { sends: 1, retries: 0, first_ms: 0 });
        Execution::recover(call, self.terms(provider), course, stood)
    }

    /// How far its latest call has come.
    pub(crate) fn course(&self) -> Result<Course, Error> {
        let call = self.row.call.as_ref().ok_or_else(|| internal("an action without a call was sent"))?;
        Ok(call.course())
    }

    pub(crate) fn terms(&self, provider: &dyn Provider) -> Terms {
        let level = GuaranteeLevel::parse(&self.row.guarantee_level).unwrap_or(GuaranteeLevel::Atp3);
        // The payer is asked once, and nothing is tried again after that.
        let retry = self.row.retry.filter(|_| !self.row.was_challenged());
        terms(
            provider,
            level,
            PaymentMode::parse(&self.row.payment_mode),
            retry.map(Into::into),
            self.deadline_ms(),
        )
    }

    /// When its deadline is over, Unix milliseconds.
    fn deadline_ms(&self) -> Option<i64> {
        let deadline = self.row.deadline_ms.and_then(|ms| i64::try_from(ms).ok());
        deadline.map(|ms| self.at_ms.saturating_add(ms))
    }

    /// A conflict if nothing of it may be sent any more that has an effect.
    pub(crate) fn in_time(&self, now_ms: i64) -> Result<(), Error> {
        match self.deadline_ms().is_some_and(|deadline_ms| now_ms >= deadline_ms) {
            true => Err(Error::new(
                Code::StateConflict,
                "the deadline of the action is over: EP_DEADLINE_EXCEEDED",
            )),
            false => Ok(()),
        }
    }

    /// Was its last attempt first sent after the caller was told something? What charges a reservation is no other attempt.
    pub(crate) fn tried_since(&self, told: &Told) -> bool {
        let latest = self.row.reservation.as_ref().map(|it| &it.call).or(self.row.call.as_ref());
        let first_ms = latest.and_then(|call| call.first_ms);
        first_ms.is_some_and(|first_ms| first_ms > told.at_ms)
    }

    /// The salts of everything this action commits to.
    pub(crate) fn salts(&self) -> Result<Salts, Error> {
        let mut salt = [0; 32];
        hex::decode_to_slice(&self.row.salt, &mut salt).map_err(|_| internal("a stored salt is not one"))?;
        Ok(Salts::new(&salt))
    }

    /// The attempt under way, 1 for an action that was never sent.
    pub(crate) fn attempt(&self) -> u32 {
        self.row.call.as_ref().map_or(1, |call| call.attempt)
    }
}

/// What was promised, and what the provider can.
pub(crate) fn terms(
    provider: &dyn Provider,
    level: GuaranteeLevel,
    mode: Option<PaymentMode>,
    retry: Option<action::RetryPolicy>,
    deadline_ms: Option<i64>,
) -> Terms {
    let flight = SEND_WINDOW + provider.patience();
    let flight_ms = i64::try_from(flight.as_millis()).unwrap_or(i64::MAX / 2);
    let mut capabilities = provider.capabilities().clone();
    // What is promised exactly once is not repeated for being harmless.
    capabilities.repeat_safe &= level != GuaranteeLevel::Atp3;
    // In no other mode somebody is there to show a challenge to.
    capabilities.challenge =
        capabilities.challenge.filter(|_| mode == Some(PaymentMode::ImmediateChargeWithChallenge));
    // A price that was asked for is no effect.
    let checked = provider.checks() && mode != Some(PaymentMode::QuoteOnly);
    let hold = provider.reserves().and_then(|reserves| reserves.hold);
    let hold_ms = hold.map(|hold| i64::try_from(hold.as_millis()).unwrap_or(i64::MAX / 2));
    Terms { capabilities, retry, deadline_ms, flight_ms, checked, hold_ms }
}

/// The parts of a payload that no decision is needed for.
pub(crate) struct Described<'a> {
    pub action: &'a action::Action,
    pub salt: &'a [u8; 32],
    pub mandate_id: Option<&'a str>,
    pub correlation_id: &'a str,
    pub action_hash: &'a [u8; 32],
    pub rules: &'a Rules,
    pub keeping: Option<&'a KeepingRow>,
    pub regulations: &'a [String],
}

/// The payload of an action that was judged.
pub(crate) fn describe(of: &Described<'_>, chain: &Chain, call: Option<CallRow>) -> Result<IntentRow, Error> {
    let action = of.action;
    let at_stake = mandate::exposure(action);
    Ok(IntentRow {
        v: VERSION,
        mandate_id: of.mandate_id.map(str::to_owned),
        constraints: raw(action.canonical.to_string())?,
        salt: hex::encode(of.salt),
        amount: at_stake.map(|money| money.to_string()),
        currency: at_stake.map(|money| money.currency().code().to_owned()),
        payment_mode: action.payment_mode.as_str().to_owned(),
        guarantee_level: action.guarantee_level.as_str().to_owned(),
        reversible: action.reversible,
        deadline_ms: action.deadline_ms,
        session_id: action.session_id.clone(),
        human_approver: action.human_approver.as_ref().map(ToString::to_string),
        client: action.client.clone(),
        policy_digest: Some(of.rules.policies.policy_digest().to_string()),
        catalog_digest: Some(of.rules.catalogue.digest().to_owned()),
        entity_digest: Some(of.rules.policies.entity_digest().to_string()),
        observed: None,
        correlation_id: of.correlation_id.to_owned(),
        action_hash: hex::encode(of.action_hash),
        entries: entries(chain)?,
        call,
        attempts: Vec::new(),
        retry: action.retry.map(Into::into),
        snapshot: None,
        check: None,
        reservation: None,
        words: Vec::new(),
        rollback: None,
        undone_by: action
            .atp
            .as_ref()
            .and_then(|atp| undone_by(of.rules, atp))
            .map(|provider| provider.identity().to_owned()),
        held_for: Vec::new(),
        repeat_of: action.repeat_of.map(|id| id.to_string()),
        escalation: None,
        approvals: Vec::new(),
        earlier_transaction: None,
        atp: kept(action.atp.as_deref())?,
        record: None,
        cycle: None,
        keeping: of.keeping.cloned(),
        regulations: of.regulations.to_vec(),
        steered_by: Vec::new(),
    })
}

/// The entries so far, as they are stored.
pub(crate) fn entries(chain: &Chain) -> Result<Box<RawValue>, Error> {
    raw(String::from_utf8(chain.to_bytes()).map_err(|_| internal("entries are not text"))?)
}

/// The constraints with everything hidden that receipts may not show.
pub(crate) fn conceal(action: &action::Action, salts: &Salts) -> Result<Json, Error> {
    let shown: Result<Vec<(&str, Json)>, receipt::Error> = action
        .members()
        .map(|member| {
            let value = Json::parse(member.canonical.as_bytes())?;
            let label = receipt::label(CONSTRAINTS, member.name);
            let shown = if member.public { value } else { Json::string(&salts.commit(&label, &value)) };
            Ok((member.name, shown))
        })
        .collect();
    shown
        .and_then(|members| Json::object(&members))
        .map_err(|_| internal("constraints cannot be committed to"))
}

/// Label under which members of the constraints are committed to.
pub(crate) const CONSTRAINTS: &str = "constraints";
/// Label under which a snapshot is committed to.
pub(crate) const SNAPSHOT: &str = "snapshot";
/// Label under which members of the provider's answer are committed to.
pub(crate) const ANSWER: &str = "answer";
