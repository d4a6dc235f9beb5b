use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::approval::Approval;
use crate::{Error, Stage, Timestamp, canonical, chain, commitment};

/// Text of a receipt, borrowed where it can be.
pub type Text<'a> = Cow<'a, str>;

/// All of a receipt that its maker chooses: everything but entries, `created`, `version` and the signature.
///
/// What is unknown is `None` and stands in the document as `null`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft<'a> {
    /// The receipt's own id, a lower-case UUID.
    pub receipt_id: Text<'a>,
    /// The action's id, a lower-case UUID.
    pub transaction_id: Text<'a>,
    /// The agent that asked.
    pub agent_id: Text<'a>,
    /// The session it asked in.
    pub session_id: Option<Text<'a>>,
    /// Is this the first word on the action, or a later one?
    pub event: Event<'a>,
    /// Where the money is.
    pub payment_status: PaymentStatus,
    /// What was offered and what was charged.
    pub money: MoneyFields<'a>,
    /// The client's idempotency key.
    pub idempotency_key: Option<Text<'a>>,
    /// The gateway process that wrote the receipt.
    pub replica_id: Text<'a>,
    /// The ledger chain the receipt is entered in.
    pub chain_id: Text<'a>,
    /// Regulations the action was declared to fall under.
    pub regulatory_framework: Vec<Text<'a>>,
    /// Who, where, under which rules.
    pub metadata: Metadata<'a>,
}

/// The members of a receipt's `metadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata<'a> {
    /// URL of the gateway that issued the receipt.
    pub issuer: Text<'a>,
    /// Tenant the action belongs to.
    pub tenant: Text<'a>,
    /// Real or play.
    pub environment: Environment,
    /// Kind of action asked for, as asked.
    pub archetype: Option<Text<'a>>,
    /// How the action ended.
    pub kind: Kind,
    /// `jti` of the mandate it ran under.
    pub mandate_id: Option<Text<'a>>,
    /// The declared intent it belongs to.
    pub intent_id: Option<Text<'a>>,
    /// The guarantee it ran under, such as `ATP-2`.
    pub guarantee_level: Option<Text<'a>>,
    /// Digest of the policy set that judged it.
    pub policy_digest: Option<Text<'a>>,
    /// Digest of the catalogue that judged it.
    pub catalog_digest: Option<Text<'a>>,
    /// Digest of the entities that judged it.
    pub entity_digest: Option<Text<'a>>,
    /// Who approved it, persons and comments as commitments; see [`crate::approval`].
    pub approvals: Vec<Approval>,
    /// What would have happened, if the gateway was only observing.
    pub observed: Option<Observed<'a>>,
    /// The transparency log's latest checkpoint when the receipt was made.
    pub log: Option<Checkpoint<'a>>,
}

/// What a gateway in observe mode would have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed<'a> {
    /// `block` or `escalate`.
    pub would_be: Text<'a>,
    /// The code it would have answered.
    pub code: Option<Text<'a>>,
}

/// A checkpoint of a transparency log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint<'a> {
    /// Name of the log.
    pub origin: Text<'a>,
    /// Number of leaves.
    pub size: u64,
    /// Root hash.
    pub root: Text<'a>,
    /// That the receipt itself will be in the log.
    pub promise: Option<Promise<'a>>,
}

/// A place in the log that a receipt is promised. One that is not there by then is evidence against its issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise<'a> {
    /// By when; within 25 hours of the receipt.
    pub merge_by: Timestamp,
    /// With what the receipt's leaf commits to it, base64url of 32 random bytes; see [`crate::log::Leaf`].
    pub nonce: Text<'a>,
}

/// Amounts as decimal strings without sign, at most 18 digits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MoneyFields<'a> {
    /// Currency of the offer.
    pub offer_currency: Option<Text<'a>>,
    /// What was asked or quoted.
    pub offer_amount: Option<Text<'a>>,
    /// Currency of the charge.
    pub charge_currency: Option<Text<'a>>,
    /// What was charged.
    pub charge_amount: Option<Text<'a>>,
}

/// The members `eventType` and `amendmentOf`, which depend on each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// The first receipt of an action.
    Original,
    /// A later receipt that adds to an earlier one.
    Amendment {
        /// What happened since.
        reason: Amendment,
        /// `receiptId` of the receipt amended.
        of: Text<'a>,
    },
}

impl Promise<'_> {
    /// A nonce, or any bytes of a log, as receipts and proofs spell them: unpadded base64url.
    #[must_use]
    pub fn spelled(bytes: &[u8]) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }
}

impl Event<'_> {
    /// The member `eventType`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Original => "ORIGINAL",
            Self::Amendment { reason, .. } => reason.as_str(),
        }
    }

    /// The member `amendmentOf`.
    #[must_use]
    pub fn amendment_of(&self) -> Option<&str> {
        match self {
            Self::Original => None,
            Self::Amendment { of, .. } => Some(of),
        }
    }
}

/// An enumeration with one spelling per case.
macro_rules! spelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$case_doc])* $case,)* }

        impl $name {
            /// The spelling in the document.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$case => $text,)* }
            }

            /// The case of that spelling.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$case),)* _ => None }
            }
        }
    };
}

spelled! {
    /// Why a receipt is amended.
    Amendment {
        /// The effect was undone.
        Rollback = "AMENDMENT_ROLLBACK",
        /// Doubt ended, or a late answer contradicted the first.
        Settlement = "AMENDMENT_SETTLEMENT",
        /// The action was tried again.
        Retry = "AMENDMENT_RETRY",
        /// More was charged than was reserved.
        Overage = "AMENDMENT_OVERAGE",
    }
}

spelled! {
    /// Where the money is.
    PaymentStatus {
        /// It moved.
        Charged = "charged",
        /// It did not move.
        NotCharged = "not_charged",
        /// The provider has not said.
        Pending = "pending_provider_confirmation",
    }
}

spelled! {
    /// Real or play.
    Environment {
        /// Effects in the world.
        Production = "production",
        /// No effects; receipts fail verification unless the verifier allows them.
        Sandbox = "sandbox",
    }
}

spelled! {
    /// How an action ended. States without a receipt have no spelling here.
    Kind {
        /// The effect happened.
        Executed = "executed",
        /// Refused before acting.
        Blocked = "blocked",
        /// The effect is known not to have happened, or was undone.
        Failed = "failed",
        /// Sent, and its fate is not known yet.
        PendingSettlement = "pending_settlement",
    }
}

impl Draft<'_> {
    /// Rules that a draft and a received document share; the error names the first member that breaks one.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let rule = |holds: bool, name, why| if holds { Ok(()) } else { Err(Error::member(name, why)) };
        rule(is_uuid(&self.receipt_id), "receiptId", NOT_UUID)?;
        rule(is_uuid(&self.transaction_id), "transactionId", NOT_UUID)?;
        if let Some(of) = self.event.amendment_of() {
            rule(is_uuid(of), "amendmentOf", NOT_UUID)?;
            rule(of != self.receipt_id, "amendmentOf", "is the receipt itself")?;
        }
        for (name, text) in [
            ("agentId", &self.agent_id),
            ("replicaId", &self.replica_id),
            ("chainId", &self.chain_id),
            ("metadata.issuer", &self.metadata.issuer),
            ("metadata.tenant", &self.metadata.tenant),
        ] {
            rule(!text.is_empty(), name, "is empty")?;
        }
        let money = &self.money;
        for (amount, currency, amount_name, currency_name) in [
            (&money.offer_amount, &money.offer_currency, "money.offerAmount", "money.offerCurrency"),
            (&money.charge_amount, &money.charge_currency, "money.chargeAmount", "money.chargeCurrency"),
        ] {
            rule(amount.as_deref().is_none_or(chain::is_decimal), amount_name, "is not a decimal string")?;
            rule(amount.is_none() || currency.is_some(), currency_name, "is missing beside an amount")?;
        }
        let few = self.metadata.approvals.len() <= MOST_APPROVALS;
        rule(few, "metadata.approvals", "are more than 32")?;
        let Some(log) = &self.metadata.log else { return Ok(()) };
        rule(log.size <= canonical::MAX_SAFE_INTEGER, "metadata.log.size", "is too large")?;
        let Some(promise) = &log.promise else { return Ok(()) };
        rule(commitment::is_digest(&promise.nonce), "metadata.log.nonce", "is not base64url of 32 bytes")
    }

    /// A place that is promised for some day far away is promised never: what is not there by then is evidence against nobody.
    pub(crate) fn check_promise(&self, created: Timestamp) -> Result<(), Error> {
        let promise = self.metadata.log.as_ref().and_then(|log| log.promise.as_ref());
        let latest = created.unix_millis().saturating_add(u64::from(MERGED_WITHIN) * 3_600_000);
        if promise.is_none_or(|promise| promise.merge_by.unix_millis() <= latest) {
            Ok(())
        } else {
            Err(Error::member("metadata.log.mergeBy", "is more than 25 hours after the receipt"))
        }
    }

    /// An action that was executed has passed every stage; one that was refused, or a later word, has fewer.
    pub(crate) fn check_entries(&self, entries: usize) -> Result<(), Error> {
        let whole = self.metadata.kind != Kind::Executed
            || self.event != Event::Original
            || entries == Stage::ALL.len();
        if whole {
            Ok(())
        } else {
            Err(Error::member("entries", "are not all nine, though the action was executed"))
        }
    }
}

/// The lower-case form with hyphens, of any version.
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Hours after a receipt by which it is in the log at the latest: the day that is promised, and some for clocks that are set back.
pub(crate) const MERGED_WITHIN: u32 = 25;
/// More people than are ever asked about one action; bounds what a stranger can make a verifier do.
const MOST_APPROVALS: usize = 32;
const NOT_UUID: &str = "is not a lower-case UUID";
