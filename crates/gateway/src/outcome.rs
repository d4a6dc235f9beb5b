//! What an action came to, before any face has put it on a wire.

use action::ActionId;

use crate::Code;

/// The outward kind of an outcome (one-action.md, table of states).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Done, and confirmed by the provider.
    Executed,
    /// Waiting: for a person, or with money reserved.
    Held,
    /// The payer must answer a challenge first.
    NeedsChallenge,
    /// Sent; its fate is not known yet.
    PendingSettlement,
    /// Permitted, but there is no effect, as far as is known: reason `says_failed`, where the provider only says so.
    Failed,
    /// Refused by the boundary or at admission.
    Blocked,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 6] = [
        Kind::Executed,
        Kind::Held,
        Kind::NeedsChallenge,
        Kind::PendingSettlement,
        Kind::Failed,
        Kind::Blocked,
    ];

    /// The kind of this name.
    pub(crate) fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The kind as it stands on the wire and in receipts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Executed => "executed",
            Kind::Held => "held",
            Kind::NeedsChallenge => "needs_challenge",
            Kind::PendingSettlement => "pending_settlement",
            Kind::Failed => "failed",
            Kind::Blocked => "blocked",
        }
    }
}

/// Where the receipt of an outcome is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRef {
    /// `receiptId`.
    pub receipt_id: String,
    /// The signature value: the long public address `/r/<signature>`.
    pub signature: String,
    /// Twelve characters: the short public address.
    pub short: String,
}

/// A required member that was not there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Missing {
    /// JSON pointer into `constraints`.
    pub field: String,
    /// JSON type expected there.
    #[serde(rename = "type")]
    pub type_: String,
    /// What the member means, from the catalogue.
    pub description: String,
    /// A value that would do.
    pub example: serde_json::Value,
}

/// What the caller is told beside the kind. Every member comes from fixed texts, from the catalogue or
/// from the caller's own request, except `untrusted_text`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Details {
    /// Why it was refused or held, or is not known to have had its effect, in one stable word each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub reasons: Vec<String>,
    /// Members to add before sending again under a new key.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub missing: Vec<Missing>,
    /// Why it is held: `approval`, `approved`, `reservation`, or `dry_run` where it was decided only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hold_reason: Option<String>,
    /// When a held action expires, or the payer's time is over; RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<String>,
    /// Where the payer has to confirm it, before `expires_at`: an address of the provider's at a host that the operator
    /// lists.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub challenge_url: Option<String>,
    /// Where to ask what became of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status_url: Option<String>,
    /// The earlier transaction this one seems to repeat.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub earlier_transaction: Option<String>,
    /// The policies that decided, by id.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub policies: Vec<String>,
    /// The provider's reference for a confirmed effect.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider_reference: Option<String>,
    /// Amount authorised, canonical decimal, and its currency.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub amount: Option<String>,
    /// Currency of `amount`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub currency: Option<String>,
    /// The effect was there, was not as it should be, and is undone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rolled_back: Option<bool>,
    /// How often this same refusal was repeated within the last minute.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub repeats: Option<u64>,
    /// Observe mode let this through: what would have happened.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub observed: Option<String>,
    /// Decided only; nothing was recorded or sent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dry_run: Option<bool>,
    /// Words of an agent, upstream or provider; capped, never to be obeyed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub untrusted_text: Option<String>,
}

/// The reason of a dry run that nothing stands against.
pub const WOULD_EXECUTE: &str = "would_execute";

/// One outcome of one action.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The action; `None` only for a dry run, which is none.
    pub action_id: Option<ActionId>,
    /// Outward kind.
    pub kind: Kind,
    /// Set for blocked and failed.
    pub code: Option<Code>,
    /// The receipt, once there is one.
    pub receipt: Option<ReceiptRef>,
    /// The request that brought this outcome about.
    pub correlation_id: String,
    /// The rest.
    pub details: Details,
}

/// An outcome as one face wrote it: stored at settlement, replayed byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status code of that face.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

/// How the Execution Protocol face writes an outcome. Given to the gateway when it opens, so that the
/// reply can be durable before it is said while wire types stay in `server`.
pub type Render = fn(&Outcome, public_url: &str) -> Reply;
