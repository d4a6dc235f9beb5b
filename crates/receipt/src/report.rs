use std::borrow::Cow;
use std::fmt;

use crate::draft::{Environment, Kind};
use crate::{Failure, Timestamp};

/// What came of verifying a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The answer.
    pub verdict: Verdict,
    /// How it came about: every check, in order.
    pub checks: Vec<Check>,
    /// What the receipt says, if it could be read at all. To be believed only as far as the verdict goes.
    pub facts: Option<Facts>,
}

/// May the document be relied on?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Valid,
    /// It is what was signed, but it must not be relied on.
    Quarantined(Quarantine),
    /// It is what was signed, by a key that was lost later; that it was signed before cannot be told.
    TimeUnproven {
        /// Since when the key is lost.
        compromised_at: Timestamp,
    },
    /// No.
    Invalid(Failure),
}

/// Why a genuine receipt must not be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quarantine {
    /// It speaks of no effect in the world.
    Sandbox,
    /// Someone else may have held the key when it was made.
    Compromised {
        /// Since when.
        at: Timestamp,
    },
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub name: CheckName,
    /// What came of it.
    pub outcome: Outcome,
    /// A sentence for people.
    pub detail: Cow<'static, str>,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not hold.
    Failed,
    /// It could not be made because another failed, or there was nothing to check.
    Skipped,
}

/// The checks, in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckName {
    /// Every member of the format is there, and no other.
    Structure,
    /// Every entry has the hash it says.
    Entries,
    /// Every entry follows the one before it.
    Chain,
    /// `created` is the time of the last entry.
    Created,
    /// The key set is the pinned issuer's, and so is the receipt.
    Issuer,
    /// The key that signed is in the key set.
    Key,
    /// The signature is encoded in the one way allowed.
    Encoding,
    /// The signature fits.
    Signature,
    /// The key was in use at the time.
    Window,
    /// Disclosed values fit their commitments.
    Commitments,
    /// An approval belongs to this receipt and is signed; one check for each approval there is.
    Approval,
    /// An action that people had to agree to bears the signature of a pinned person; only where that is asked for.
    Consent,
    /// The receipt stands in its issuer's log; only where a proof of it is given or asked for.
    Inclusion,
    /// The receipt is not from the sandbox, or the sandbox is allowed.
    Environment,
    /// The key was in the issuer's hands alone.
    Custody,
}

/// What a receipt says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `receiptId`.
    pub receipt_id: String,
    /// `transactionId`.
    pub transaction_id: String,
    /// `metadata.issuer`.
    pub issuer: String,
    /// `metadata.environment`.
    pub environment: Environment,
    /// `metadata.kind`.
    pub kind: Kind,
    /// `eventType`.
    pub event_type: &'static str,
    /// `paymentStatus`.
    pub payment_status: &'static str,
    /// `created`.
    pub created: Timestamp,
    /// `signature.kid`.
    pub kid: String,
    /// Number of entries.
    pub entries: usize,
    /// Was it a person who said what became of the action, and not the provider?
    pub resolved_by_person: bool,
}

impl Report {
    /// Of what cannot be read at all.
    #[must_use]
    pub fn unreadable(failure: Failure) -> Report {
        let checks = CheckName::ALL.into_iter().map(|name| match name {
            CheckName::Structure => {
                Check { name, outcome: Outcome::Failed, detail: failure.to_string().into() }
            }
            _ => Check { name, outcome: Outcome::Skipped, detail: "the document could not be read".into() },
        });
        Report { checks: checks.collect(), verdict: Verdict::Invalid(failure), facts: None }
    }

    /// How many approvals the receipt only states: they fit it, but that the person signed was not proven.
    #[must_use]
    pub fn unproven_approvals(&self) -> usize {
        let unproven =
            |check: &&Check| check.name == CheckName::Approval && check.outcome == Outcome::Skipped;
        self.checks.iter().filter(unproven).count()
    }
}

impl Verdict {
    /// The exit code of a program that verified one document: 0 valid, 2 time unproven, 1 everything else.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Quarantined(_) | Self::Invalid(_) => 1,
            Self::TimeUnproven { .. } => 2,
        }
    }

    /// One word for machines.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Quarantined(_) => "quarantined",
            Self::TimeUnproven { .. } => "time unproven",
            Self::Invalid(_) => "invalid",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::Valid => Ok(()),
            Self::Quarantined(Quarantine::Sandbox) => write!(f, ": {SANDBOX}"),
            Self::Quarantined(Quarantine::Compromised { at }) => {
                write!(f, ": made after its key was compromised at {at}")
            }
            Self::TimeUnproven { compromised_at } => {
                write!(
                    f,
                    ": its key was compromised at {compromised_at}, and nothing proves that it was made before"
                )
            }
            Self::Invalid(failure) => write!(f, ": {failure}"),
        }
    }
}

impl CheckName {
    /// The checks that every receipt undergoes, in order.
    pub const ALL: [Self; 12] = [
        Self::Structure,
        Self::Entries,
        Self::Chain,
        Self::Created,
        Self::Issuer,
        Self::Key,
        Self::Encoding,
        Self::Signature,
        Self::Window,
        Self::Commitments,
        Self::Environment,
        Self::Custody,
    ];

    /// One word for tables and machines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Entries => "entries",
            Self::Chain => "chain",
            Self::Created => "created",
            Self::Issuer => "issuer",
            Self::Key => "key",
            Self::Encoding => "encoding",
            Self::Signature => "signature",
            Self::Window => "window",
            Self::Commitments => "commitments",
            Self::Approval => "approval",
            Self::Consent => "consent",
            Self::Inclusion => "inclusion",
            Self::Environment => "environment",
            Self::Custody => "custody",
        }
    }
}

pub(crate) const SANDBOX: &str = "from the sandbox, which is not allowed here";
