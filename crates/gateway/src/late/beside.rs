//! Beside: the effects of earlier calls that are on record, and what the latest call comes to beside them.

use std::borrow::Cow;

use execution::Confirmation;
use ledger::{Settled, Settlement, State};
use mandate::Usage;
use receipt::{Json, PaymentStatus};

use super::{DUPLICATE, LATE};
use crate::decide::as_told;
use crate::gateway::Gateway;
use crate::outcome::{Details, Kind};
use crate::pending::Pending;
use crate::prove::{Ending, push_split, refused, result_without_effect};
use crate::remember::unavailable;
use crate::resolve::EVENT as RESOLVED;
use crate::row::{EarlierRow, IntentRow, OutcomeRow, internal, money_of};
use crate::sessions::used_as_told;
use crate::{Code, Error};

/// The effects of earlier calls that are on record, oldest first; at least one.
pub(crate) struct Known(Vec<(EarlierRow, OutcomeRow)>);

/// What stands beside what the latest call came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beside {
    /// What earlier calls were debited, minor units.
    pub minor: i64,
    /// Whether earlier calls had an effect.
    pub effects: bool,
    /// Whether they alone had: the latest had none.
    pub alone: bool,
    /// What they used up beside the one that the action is said to have come to.
    pub usage: Usage,
}

impl Gateway {
    /// The effects of earlier calls, where there are any.
    pub(crate) async fn earlier_effects(&self, pending: &Pending) -> Result<Option<Known>, Error> {
        let captured = pending.row.reservation.as_ref().is_some_and(|it| !it.captures.is_empty());
        if pending.attempt() <= 1 && pending.row.attempts.is_empty() && !captured {
            return Ok(None);
        }
        let outcomes = self.ledger.outcomes(&pending.tenant, pending.id).await.map_err(unavailable)?;
        Known::of(&as_told(outcomes)?)
    }

    /// What its latest call came to, beside the effects of earlier ones. If it came to nothing, the action is done
    /// nevertheless; the receipt tells of the latest call and of what was charged.
    pub(crate) fn beside<'a>(
        &self,
        pending: &Pending,
        ending: Ending<'a>,
        known: &Known,
    ) -> Result<(Pending, Ending<'a>, Beside), Error> {
        let (mut pending, mut ending) = (pending.clone(), ending);
        let alone = ending.state == State::Failed;
        let beside = Beside { minor: known.minor(), effects: true, alone, usage: known.usage(alone)? };
        if !beside.alone {
            if ending.state == State::Executed {
                ending.details.reasons.push(DUPLICATE.to_owned());
            }
            return Ok((pending, ending, beside));
        }
        let Some((row, said)) = known.0.last() else { return Ok((pending, ending, beside)) };
        let reason = ending.details.reasons.first().map_or("failed", String::as_str).to_owned();
        let charged = money_of(said.details.amount.as_deref(), said.details.currency.as_deref())?;
        let charged = charged.filter(|_| row.debited.is_some_and(|debited| debited > 0));
        let payment = if charged.is_some() { PaymentStatus::Charged } else { PaymentStatus::NotCharged };
        let mut chain = self.begin_ending(&pending)?;
        let error = ending.code.map_or(Ok(Json::NULL), |code| refused(code, &reason))?;
        let result = result_without_effect(Code::ProviderFailed, &reason);
        self.push_execute(&mut chain, &pending, result, None, None, error)?;
        push_split(&mut chain, &pending, charged, payment)?;
        pending.earlier = Some(EarlierRow { debited: None, instead: Some(reason), ..row.clone() });
        let details = Details { reasons: vec![LATE.to_owned()], ..said.details.clone() };
        let (kind, state, code, confirmation) = (Kind::Executed, State::Executed, None, said.confirmed()?);
        ending = Ending { kind, state, code, details, chain, confirmation, refusal: None, payment, charged };
        Ok((pending, ending, beside))
    }
}

impl Known {
    /// The effects that these outcomes tell of, if any.
    pub(super) fn of(outcomes: &[Settled]) -> Result<Option<Known>, Error> {
        let mut known = Vec::new();
        for outcome in outcomes {
            let row = OutcomeRow::from_bytes(&outcome.payload)?;
            if let Some(earlier) = row.earlier.clone().filter(|it| it.debited.is_some()) {
                known.push((earlier, row));
            }
        }
        Ok((!known.is_empty()).then_some(Known(known)))
    }

    /// Is this call's among them?
    pub(super) fn has(&self, about: &str) -> bool {
        self.0.iter().any(|(row, _)| row.reference == about)
    }

    /// Is it by one of them that what is set aside for the latest attempt was charged?
    pub(crate) fn used_up(&self, row: &IntentRow) -> bool {
        let captures = row.reservation.iter().flat_map(|it| &it.captures);
        captures.into_iter().any(|capture| self.has(&capture.reference))
    }

    /// What providers say that they used up; where they `alone` had an effect, all but the last, which stands for the action.
    fn usage(&self, alone: bool) -> Result<Usage, Error> {
        let others = &self.0[..self.0.len().saturating_sub(usize::from(alone))];
        others.iter().try_fold(Usage::default(), |sum, (_, said)| {
            let told = said.confirmed()?.map(|confirmed| used_as_told(&confirmed).0);
            Ok(sum.and(&told.unwrap_or_default()))
        })
    }

    /// What they were debited.
    pub(super) fn minor(&self) -> i64 {
        self.0.iter().filter_map(|(row, _)| row.debited).fold(0, i64::saturating_add)
    }
}

impl Beside {
    /// What stands against the mandates with what the latest call is charged.
    pub(crate) fn added_to(self, settlement: &mut Settlement) {
        if !self.effects {
            return;
        }
        settlement.charged = match self.alone {
            true => Some(self.minor),
            false => settlement.charged.map(|own| own.saturating_add(self.minor)),
        };
        if let Some(used) = &mut settlement.used {
            used.usage = used.usage.and(&self.usage);
        }
        let entry = &mut settlement.outcome.entry;
        // A person's word is told of as theirs.
        if !self.alone && settlement.outcome.state == State::Executed && entry.event != RESOLVED {
            entry.event = DUPLICATE;
        }
    }

    /// Did the latest call have its effect, too?
    pub(crate) fn is_twice(self, state: State) -> bool {
        self.effects && !self.alone && state == State::Executed
    }
}

impl OutcomeRow {
    /// What was confirmed, where this says so.
    fn confirmed(&self) -> Result<Option<Cow<'static, Confirmation>>, Error> {
        let Some(answer) = &self.answer else { return Ok(None) };
        let answer =
            serde_json::from_str(answer.get()).map_err(|_| internal("a stored answer cannot be read"))?;
        let reference = self.reference.clone();
        Ok(Some(Cow::Owned(Confirmation { reference, answer, ..Confirmation::default() })))
    }
}
