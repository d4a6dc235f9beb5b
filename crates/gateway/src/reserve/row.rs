//! What is kept of a reservation, within the payload of its action.

use action::{HmacKey, Money};
use execution::{Absence, Purpose, Reservation};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::prove::absence_word;
use crate::row::{CallRow, IntentRow, ResolutionRow, internal};

/// What the provider has set aside for an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReservationRow {
    /// The call that set it aside.
    pub call: CallRow,
    /// The provider's reference for it.
    pub confirmed: Option<String>,
    /// The most that can be charged, canonical decimal, in the action's currency.
    pub amount: String,
    /// When it ends, Unix milliseconds.
    pub until_ms: i64,
    /// What was to charge it, oldest first. At most one is without a result: it is under way, or was carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captures: Vec<CaptureRow>,
    /// How it is set free, if that was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseRow>,
}

/// One call that was to charge what is set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptureRow {
    /// Who asked for it.
    pub by: String,
    /// When, Unix milliseconds.
    pub asked_ms: i64,
    /// How much of it, canonical decimal.
    pub amount: String,
    pub provider_key: String,
    pub reference: String,
    /// How it came to nothing: a stable word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// When that was known, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<i64>,
    /// Until when it could leave at the latest, Unix milliseconds, once it came to nothing; older rows do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_by_ms: Option<i64>,
    /// The provider's own code; foreign text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_code: Option<String>,
    /// The person's word that it came to nothing, where rows had it before there was [`IntentRow::words`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Box<ResolutionRow>>,
}

/// How what is set aside is set free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseRow {
    /// Who asked for it.
    pub by: String,
    /// Why: a stable word.
    pub why: String,
    /// When, Unix milliseconds.
    pub asked_ms: i64,
    pub provider_key: String,
    pub reference: String,
    /// How often it was sent, each time under the same key.
    pub sends: u32,
    /// When it was first marked sent, Unix milliseconds.
    pub first_ms: i64,
}

impl ReservationRow {
    /// What is set aside, in the currency of what was authorised.
    pub(crate) fn read(&self, authorised: Option<Money>) -> Result<Reservation, Error> {
        Ok(Reservation { money: Some(money_of(&self.amount, authorised)?), until_ms: self.until_ms })
    }

    /// What charges it, or did.
    pub(crate) fn charging(&self) -> Option<&CaptureRow> {
        self.captures.iter().rfind(|capture| capture.result.is_none())
    }

    /// Is it neither free nor over, though nothing looks after it any more?
    pub(crate) fn is_left(&self, now_ms: i64) -> bool {
        self.release.is_none() && now_ms < self.until_ms
    }

    /// Where this capture is listed.
    pub(crate) fn place_of(&self, reference: &str) -> Option<usize> {
        self.captures.iter().position(|capture| capture.reference == reference)
    }

    /// This capture, which was said to be absent, is the one that was carried out. `word`: what is said of another one that
    /// was so far, since `ended_ms`.
    pub(crate) fn mark_charged_instead(&mut self, at: usize, word: &str, ended_ms: i64) {
        let others = self.captures.iter_mut().enumerate().filter(|(other, _)| *other != at);
        if let Some((_, latest)) = others.filter(|(_, capture)| capture.result.is_none()).last() {
            (latest.result, latest.ended_ms) = (Some(word.to_owned()), Some(ended_ms));
        }
        self.mark_charged(at);
    }

    /// This capture was carried out, whatever was said of it.
    pub(crate) fn mark_charged(&mut self, at: usize) {
        if let Some(capture) = self.captures.get_mut(at) {
            (capture.result, capture.ended_ms, capture.provider_code) = (None, None, None);
        }
    }

    /// The call of a capture, as it is kept.
    pub(crate) fn call_of(&self, capture: &CaptureRow) -> CallRow {
        let (provider_key, reference) = (capture.provider_key.clone(), capture.reference.clone());
        let send_by_ms = capture.send_by_ms.unwrap_or(self.call.send_by_ms);
        CallRow { provider_key, reference, send_by_ms, ..self.call.clone() }
    }

    /// What a call for this capture is for, and how much it charges.
    pub(crate) fn charge(
        &self,
        capture: &CaptureRow,
        authorised: Option<Money>,
    ) -> Result<(Purpose, Option<Money>), Error> {
        let of = self.read(authorised)?;
        let money = money_of(&capture.amount, authorised)?;
        Ok((Purpose::Capture { reservation: self.confirmed.clone(), of }, Some(money)))
    }
}

impl CaptureRow {
    /// So much is to be charged, as the capture of this number; asked for by somebody, then.
    pub(crate) fn asked(
        (by, asked_ms): (&str, i64),
        of: &ReservationRow,
        key: &HmacKey,
        number: usize,
        amount: &str,
    ) -> CaptureRow {
        CaptureRow {
            by: by.to_owned(),
            asked_ms,
            amount: amount.to_owned(),
            provider_key: execution::capture_key(key, &of.call.provider_key, number),
            reference: execution::capture_reference(&of.call.reference, number),
            result: None,
            ended_ms: None,
            send_by_ms: None,
            provider_code: None,
            resolution: None,
        }
    }

    /// May it have been carried out all the same? An absence can turn out to be wrong, and so can a person.
    pub(crate) fn is_doubtful(&self) -> bool {
        let absent = [absence_word(&Absence::Final), absence_word(&Absence::Resolved)];
        self.result.as_deref().is_none_or(|result| absent.contains(&result))
    }
}

impl IntentRow {
    /// What its latest call is for, and how much that moves.
    pub(crate) fn purpose(&self, authorised: Option<Money>) -> Result<(Purpose, Option<Money>), Error> {
        match self.reservation.as_ref().and_then(|it| Some((it, it.charging()?))) {
            Some((reservation, capture)) => reservation.charge(capture, authorised),
            None => Ok((self.attempts_for(), authorised)),
        }
    }

    /// What its attempts are for.
    pub(crate) fn attempts_for(&self) -> Purpose {
        match self.payment_mode == action::PaymentMode::ReserveIfAvailable.as_str() {
            true => Purpose::Reserve,
            false => Purpose::Act,
        }
    }
}

fn money_of(amount: &str, authorised: Option<Money>) -> Result<Money, Error> {
    let unreadable = || internal("a stored amount is not one");
    let currency = authorised.ok_or_else(unreadable)?.currency();
    Money::parse(amount, currency).map_err(|_| unreadable())
}
