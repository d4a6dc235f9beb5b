//! How a reservation is shown.

use ledger::State;

use super::row::{CaptureRow, ReservationRow};
use crate::clock;

/// What the provider has set aside for an action, or had.
#[derive(Clone, Debug)]
pub struct ReservationView {
    /// The provider's reference for it.
    pub provider_reference: Option<String>,
    /// The most that could be charged, canonical decimal.
    pub amount: String,
    /// Its currency.
    pub currency: Option<String>,
    /// When it ends, RFC 3339.
    pub until: String,
    /// `reserved`, `charging`, `charged`, `releasing`, `release_failed` or `released`.
    pub state: &'static str,
    /// What was to charge it, oldest first.
    pub captures: Vec<CaptureView>,
    /// Who had it set free; `countersign` where that happened by itself.
    pub released_by: Option<String>,
    /// How often that was sent, each time under the same key.
    pub release_sends: Option<u32>,
}

/// One call that was to charge what is set aside.
#[derive(Clone, Debug)]
pub struct CaptureView {
    /// Who asked for it.
    pub by: String,
    /// When, RFC 3339.
    pub asked_at: String,
    /// How much of it, canonical decimal.
    pub amount: String,
    /// The idempotency key that the provider saw.
    pub provider_key: String,
    /// Our name for it.
    pub reference: String,
    /// How it came to nothing, in one stable word; null for what is under way or was carried out.
    pub result: Option<String>,
    /// When that was known, RFC 3339.
    pub ended_at: Option<String>,
    /// The provider's own code; foreign text.
    pub provider_code: Option<String>,
}

impl ReservationView {
    pub(crate) fn of(row: &ReservationRow, state: State, currency: Option<&str>) -> ReservationView {
        ReservationView {
            provider_reference: row.confirmed.clone(),
            amount: row.amount.clone(),
            currency: currency.map(str::to_owned),
            until: clock::text(row.until_ms),
            state: match (state, &row.release) {
                (State::Reserved, Some(_)) => "releasing",
                (State::ReleaseFailed, _) => "release_failed",
                // It failed, and nothing set it free: it ends by itself.
                (State::Reserved | State::Failed, None) => "reserved",
                (State::Failed, Some(_)) => "released",
                (State::Sent | State::InDoubt, ..) => "charging",
                _ => "charged",
            },
            captures: row.captures.iter().map(CaptureView::of).collect(),
            released_by: row.release.as_ref().map(|release| release.by.clone()),
            release_sends: row.release.as_ref().map(|release| release.sends),
        }
    }
}

impl CaptureView {
    fn of(row: &CaptureRow) -> CaptureView {
        CaptureView {
            by: row.by.clone(),
            asked_at: clock::text(row.asked_ms),
            amount: row.amount.clone(),
            provider_key: row.provider_key.clone(),
            reference: row.reference.clone(),
            result: row.result.clone(),
            ended_at: row.ended_ms.map(clock::text),
            provider_code: row.provider_code.clone(),
        }
    }
}
