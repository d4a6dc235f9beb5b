//! How firmly an action is promised, and when money may move.

use std::fmt;

/// What is promised about an action's effect. Stricter is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuaranteeLevel {
    /// Logged before and after; never sent again.
    Atp1,
    /// Keyed; may be retried without a second effect.
    Atp2,
    /// Keyed, approved by a person, and undone when it fails.
    Atp3,
}

impl GuaranteeLevel {
    /// The word used on the wire and in receipts.
    pub fn as_str(self) -> &'static str {
        match self {
            GuaranteeLevel::Atp1 => "atp-1",
            GuaranteeLevel::Atp2 => "atp-2",
            GuaranteeLevel::Atp3 => "atp-3",
        }
    }

    /// Reads `atp-1` or `ATP-1`, and so on.
    pub fn parse(text: &str) -> Option<GuaranteeLevel> {
        match text {
            "atp-1" | "ATP-1" => Some(GuaranteeLevel::Atp1),
            "atp-2" | "ATP-2" => Some(GuaranteeLevel::Atp2),
            "atp-3" | "ATP-3" => Some(GuaranteeLevel::Atp3),
            _ => None,
        }
    }
}

/// When money may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaymentMode {
    /// Ask for the price; nothing is charged.
    QuoteOnly,
    /// Reserve now where the provider can; charge later.
    ReserveIfAvailable,
    /// Charge now.
    ImmediateCharge,
    /// Charge now, after the payer has answered the provider's challenge.
    ImmediateChargeWithChallenge,
}

impl PaymentMode {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            PaymentMode::QuoteOnly => "QUOTE_ONLY",
            PaymentMode::ReserveIfAvailable => "RESERVE_IF_AVAILABLE",
            PaymentMode::ImmediateCharge => "IMMEDIATE_CHARGE",
            PaymentMode::ImmediateChargeWithChallenge => "IMMEDIATE_CHARGE_WITH_CHALLENGE",
        }
    }

    /// Reads exactly the word of the wire.
    pub fn parse(text: &str) -> Option<PaymentMode> {
        use PaymentMode::*;
        [QuoteOnly, ReserveIfAvailable, ImmediateCharge, ImmediateChargeWithChallenge]
            .into_iter()
            .find(|mode| mode.as_str() == text)
    }
}

impl fmt::Display for GuaranteeLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for PaymentMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
