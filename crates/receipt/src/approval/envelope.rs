use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::spelling::{base64url, json, text};
use crate::draft::is_uuid;
use crate::{Error, Json, Timestamp, chain, commitment};

/// What a person signs: everything shown and everything that will run.
///
/// The members are declared in JCS order, so the struct serialises canonically; all of them are always there. Values
/// that not everyone may see stand as salted commitments (see [`crate::approval`]), so an envelope can be published
/// and outlives erasure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The action, as the receipt's `transactionId` names it.
    pub action_id: String,
    /// Who decides: a commitment to the name, a JSON string, under which the person is enrolled.
    pub approver: Commitment,
    /// Digests of the provider bindings that may run, by what each is for (`execute`, `rollback`, …).
    pub binding_digests: BTreeMap<String, String>,
    /// The catalogue that the action was judged by.
    pub catalog_digest: String,
    /// A commitment to what the person wrote, a JSON string.
    pub comment: Option<Commitment>,
    /// The constraints with private members committed to: the same text as in the receipt's entry `schema`.
    #[serde(with = "json")]
    pub constraints: Json,
    /// Yes or no.
    pub decision: Decision,
    /// The question that this answers.
    pub escalation_id: String,
    /// When the answer lapses.
    #[serde(with = "text")]
    pub expires_at: Timestamp,
    /// What the person agrees to no further than; absent where they set no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Random, and good for one answer.
    #[serde(with = "base64url")]
    pub nonce: [u8; 32],
    /// The policies that the action was judged by.
    pub policy_digest: String,
    /// The price that was shown.
    pub quote: Option<Quote>,
    /// Why a person was asked: codes and policy ids, never foreign prose.
    pub reasons: Vec<String>,
    /// The request, as the receipt's entry `__genesis__` names it.
    pub request_hash: String,
    /// A commitment to how it would be undone; none if it cannot be.
    pub rollback: Option<Commitment>,
    /// A commitment to the summary that was displayed, a JSON string.
    pub summary_digest: Commitment,
    /// The form of this envelope.
    pub v: V1,
}

/// What the person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Yes.
    Approve,
    /// No.
    Reject,
}

/// A price, as receipts write money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quote {
    /// A decimal string.
    pub amount: String,
    /// Its currency.
    pub currency: String,
}

/// How far a person agrees: each member is a bound, and what is absent stays as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// To what; absent where that is the action alone.
    #[serde(default, skip_serializing_if = "AppliesTo::is_the_action")]
    pub applies_to: AppliesTo,
    /// The most that may be at stake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_amount: Option<Quote>,
    /// Nothing is sent after that.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::or_absent")]
    pub not_after: Option<Timestamp>,
}

/// What a person's limits hold for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AppliesTo {
    /// The action that is approved.
    #[default]
    Action,
    /// That, and whatever comes after it in its session.
    Session,
}

/// The first form of envelopes, and so far the only one: the number 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct V1;

/// The text of a salted commitment, as [`crate::commit`] makes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Commitment(String);

impl Envelope {
    /// The canonical bytes: what receipts carry and the challenge is the hash of.
    ///
    /// # Errors
    /// [`Error::Member`] naming a member that is not as the format has it.
    pub fn to_json(&self) -> Result<Json, Error> {
        self.check()?;
        Json::of(self)
    }

    /// What the authenticator signs: SHA-256 of the canonical bytes.
    ///
    /// # Errors
    /// As [`Envelope::to_json`]: what is not as the format has it is not put before anybody.
    pub fn challenge(&self) -> Result<[u8; 32], Error> {
        Ok(Sha256::digest(self.to_json()?.as_str()).into())
    }

    fn check(&self) -> Result<(), Error> {
        let hash =
            |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let quoted = |quote: &Quote| chain::is_decimal(&quote.amount) && !quote.currency.is_empty();
        let limited = |it: &Limits| {
            (it.max_amount.is_some() || it.not_after.is_some()) && it.max_amount.as_ref().is_none_or(quoted)
        };
        // Byte order is JCS order for ASCII.
        let named = |name: &String| !name.is_empty() && name.is_ascii();
        for (holds, name, why) in [
            (is_uuid(&self.action_id), "action_id", "is not a lower-case UUID"),
            (self.binding_digests.keys().all(named), "binding_digests", "has a name that is not ASCII"),
            (!self.catalog_digest.is_empty(), "catalog_digest", "is empty"),
            (self.constraints.as_str().starts_with('{'), "constraints", "is not an object"),
            (!self.escalation_id.is_empty(), "escalation_id", "is empty"),
            (!self.policy_digest.is_empty(), "policy_digest", "is empty"),
            (
                self.limits.as_ref().is_none_or(limited),
                "limits",
                "has no limit, or an amount that is not a decimal string",
            ),
            (self.quote.as_ref().is_none_or(quoted), "quote", "is not a decimal string and a currency"),
            (hash(&self.request_hash), "request_hash", "is not 64 lower-case hex digits"),
        ] {
            if !holds {
                return Err(Error::Member { name: format!("envelope.{name}"), why });
            }
        }
        Ok(())
    }
}

impl AppliesTo {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Action, Self::Session];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Action => "ACTION",
            Self::Session => "SESSION",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
    fn is_the_action(&self) -> bool {
        *self == Self::Action
    }
}

impl Decision {
    /// The spelling in the document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
        }
    }
}

impl Commitment {
    /// Reads `c:` and unpadded base64url of 32 bytes.
    ///
    /// # Errors
    /// [`Error::Member`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::try_from(text.to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Commitment {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        if commitment::is_commitment(&text) {
            Ok(Self(text))
        } else {
            Err(Error::member("commitment", "is not `c:` and base64url of 32 bytes"))
        }
    }
}

impl From<Commitment> for String {
    fn from(commitment: Commitment) -> Self {
        commitment.0
    }
}

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<u8> for V1 {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        if number == 1 { Ok(Self) } else { Err("an envelope of a form that is not known here") }
    }
}

impl From<V1> for u8 {
    fn from(V1: V1) -> Self {
        1
    }
}
