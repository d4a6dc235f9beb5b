//! An outcome in the response shape of the Execution Protocol.

use std::fmt;

use gateway::{Code, Details, Kind, Outcome, Reply, WOULD_EXECUTE};
use serde::{Serialize, Serializer};

use crate::errors;

/// Writes an outcome as `/api/execute` answers it. The same outcome gives the same bytes.
///
/// What is unknown is `null`; `code` is there for blocked and failed only.
pub fn render(outcome: &Outcome, public_url: &str) -> Reply {
    let address = |name| Address { public_url, name };
    let receipt = outcome.receipt.as_ref();
    let body = Body {
        kind: outcome.kind.as_str(),
        transaction_id: outcome.action_id.as_ref().map(Shown),
        receipt_id: receipt.map(|receipt| receipt.receipt_id.as_str()),
        receipt_url: receipt.map(|receipt| Shown(address(&receipt.signature))),
        receipt_url_short: receipt.map(|receipt| Shown(address(&receipt.short))),
        message: message(outcome),
        correlation_id: &outcome.correlation_id,
        code: outcome.code.filter(|_| matches!(outcome.kind, Kind::Blocked | Kind::Failed)).map(Code::as_str),
        details: &outcome.details,
    };
    let mut bytes = Vec::with_capacity(768);
    // Writing to memory cannot fail, and no member of the body can refuse to be written.
    let written = serde_json::to_writer(&mut bytes, &body);
    debug_assert!(written.is_ok());
    Reply { status: status(outcome), body: bytes }
}

/// The status by the table of states.
fn status(outcome: &Outcome) -> u16 {
    match (outcome.kind, outcome.code) {
        (Kind::Executed, _) => 200,
        (Kind::Held | Kind::NeedsChallenge | Kind::PendingSettlement, _) => 202,
        // What a session or a declaration has against a cycle has a status of its own.
        (Kind::Blocked, Some(code)) if errors::is_of_cycle(code) => errors::entry(code).status,
        (Kind::Blocked, _) => 403,
        (Kind::Failed, Some(Code::Cancelled | Code::Released)) => 409,
        (Kind::Failed, Some(Code::DeadlineExceeded)) => 504,
        (Kind::Failed, _) => 502,
    }
}

/// One fixed text for each case; nothing of what an agent or provider said gets in.
fn message(outcome: &Outcome) -> &'static str {
    match (outcome.kind, outcome.code) {
        (Kind::Failed, Some(Code::ProviderFailed)) if errors::is_only_said(&outcome.details.reasons) => {
            errors::ONLY_SAID
        }
        (Kind::Blocked | Kind::Failed, Some(code)) => errors::entry(code).message,
        (Kind::Blocked, None) => "the action was refused",
        (Kind::Failed, None) => "the action had no effect",
        (Kind::Executed, _) => "the action was carried out and confirmed",
        (Kind::NeedsChallenge, _) => "the payer must answer a challenge first",
        (Kind::PendingSettlement, _) => "the action was sent; its outcome is not known yet",
        (Kind::Held, _) => match outcome.details.hold_reason.as_deref() {
            Some("approved") => "the action is approved and not sent yet",
            Some("reservation") => "the money is reserved and not charged yet",
            Some("dry_run") if outcome.details.reasons == [WOULD_EXECUTE] => {
                "decided only: it would be carried out"
            }
            Some("dry_run") => "decided only: it would wait for a person's approval",
            _ => "the action waits for a person's approval",
        },
    }
}

#[derive(Serialize)]
struct Body<'a> {
    kind: &'static str,
    transaction_id: Option<Shown<&'a action::ActionId>>,
    receipt_id: Option<&'a str>,
    receipt_url: Option<Shown<Address<'a>>>,
    receipt_url_short: Option<Shown<Address<'a>>>,
    message: &'static str,
    correlation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    details: &'a Details,
}

/// Where a receipt is found.
struct Address<'a> {
    public_url: &'a str,
    name: &'a str,
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/r/{}", self.public_url, self.name)
    }
}

/// Serialised as it is displayed, without a string in between.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
