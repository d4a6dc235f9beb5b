use aws_lc_rs::hmac;
use sha2::{Digest, Sha256};

use super::Error;
use super::merkle::{Hash, leaf_hash};
use crate::Timestamp;
use crate::draft::MERGED_WITHIN;

/// 32 bytes without which nobody can guess what a leaf is about: random ones, or those that a [`RefKey`] makes.
pub type Nonce = [u8; 32];

/// How leaves name an action: the same for all leaves of one action, and telling nothing of it without the key.
pub type ActionRef = [u8; 32];

/// An entry of the log: that something happened, when about, and a commitment to what.
///
/// ```text
///   0        1      2             34       38         42                                  74
///   version ‖ kind ‖ action_ref ‖ hour  ‖ due_by ‖ SHA-256(nonce ‖ record)
///   1        1      32            4        4          32 bytes, numbers with the high byte first
/// ```
///
/// The form is fixed for ever: whoever holds a proof holds these bytes. All leaves are of one size, and no two commitments
/// are alike even where their records are.
///
/// What it still tells whoever may read the log: how many things of each kind happened in an hour and, watching it grow, in
/// a second; which of them belong to one action; that an action has no end yet, and by when it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// What kind of thing happened.
    pub kind: LeafKind,
    /// To which action; all zeros if to none.
    pub action_ref: ActionRef,
    /// Hours since 1970, rounded down.
    pub hour: u32,
    /// By the end of which hour the action's terminal leaf is due at the latest, hours since 1970; 0 where none is, or
    /// nobody said when.
    pub due_by: u32,
    /// SHA-256(nonce ‖ record).
    pub commitment: Hash,
}

/// What kind of thing a leaf stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LeafKind {
    /// An action came to be: it was sent, or waits for people. A terminal leaf is due.
    Intent = 1,
    /// The first word on how an action ended. One that was refused at once has no leaf before it.
    Terminal = 2,
    /// A later word on it.
    Amendment = 3,
    /// A person's word on it.
    Approval = 4,
    /// Something became of a key.
    KeyEvent = 5,
    /// Something became of what is allowed: a policy, a catalogue, a mandate, a freeze.
    PolicyChange = 6,
    /// What an action was about was erased.
    Erasure = 7,
}

impl Leaf {
    /// Length of every leaf in bytes.
    pub const SIZE: usize = 74;
    const VERSION: u8 = 1;

    /// The commitment to a record.
    #[must_use]
    pub fn commit(nonce: &Nonce, record: &[u8]) -> Hash {
        Sha256::new().chain_update(nonce).chain_update(record).finalize().into()
    }

    /// The hour of a moment as leaves say it.
    #[must_use]
    pub fn hour_of(at: Timestamp) -> u32 {
        Leaf::hour_of_millis(at.unix_millis())
    }

    /// The hour of a moment as leaves say it, from milliseconds since 1970; what lies beyond all reason becomes the last.
    #[must_use]
    pub fn hour_of_millis(millis: u64) -> u32 {
        u32::try_from(millis / 3_600_000).unwrap_or(u32::MAX)
    }

    /// Is it of an hour in which a receipt that was made then can have been entered? One that was made long before is no word on what
    /// became of its action, but one that was dated back. The clock may have been set back by a little between the two.
    #[must_use]
    pub fn is_of_time(&self, created: Timestamp) -> bool {
        let made = Leaf::hour_of(created);
        self.hour.saturating_add(1) >= made && self.hour <= made.saturating_add(MERGED_WITHIN)
    }

    /// The leaf as the log has it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Leaf::SIZE] {
        let mut bytes = [0; Leaf::SIZE];
        bytes[0] = Leaf::VERSION;
        bytes[1] = self.kind as u8;
        bytes[2..34].copy_from_slice(&self.action_ref);
        bytes[34..38].copy_from_slice(&self.hour.to_be_bytes());
        bytes[38..42].copy_from_slice(&self.due_by.to_be_bytes());
        bytes[42..].copy_from_slice(&self.commitment);
        bytes
    }

    /// Reads a leaf.
    ///
    /// # Errors
    /// [`Error::Leaf`] if it is of another version, kind or length.
    pub fn parse(bytes: &[u8]) -> Result<Leaf, Error> {
        let bytes: &[u8; Leaf::SIZE] =
            bytes.try_into().map_err(|_| Error::Leaf("it is not 74 bytes long"))?;
        let (head, commitment) = bytes.split_last_chunk().ok_or(Error::Leaf("it is not 74 bytes long"))?;
        let [version, kind, rest @ ..] = head else { return Err(Error::Leaf("it is not 74 bytes long")) };
        if *version != Leaf::VERSION {
            return Err(Error::Leaf("it is of a version that is not known here"));
        }
        let kind =
            LeafKind::from_number(*kind).ok_or(Error::Leaf("it is of a kind that is not known here"))?;
        let mut action_ref = [0; 32];
        action_ref.copy_from_slice(&rest[..32]);
        let number =
            |from: usize| rest[from..from + 4].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        Ok(Leaf { kind, action_ref, hour: number(32), due_by: number(36), commitment: *commitment })
    }

    /// Its hash in the tree.
    #[must_use]
    pub fn hash(&self) -> Hash {
        leaf_hash(&self.to_bytes())
    }

    /// Is this what it stands for?
    #[must_use]
    pub fn opens(&self, nonce: &Nonce, record: &[u8]) -> bool {
        self.commitment == Leaf::commit(nonce, record)
    }
}

impl LeafKind {
    /// Every kind.
    pub const ALL: [LeafKind; 7] = [
        LeafKind::Intent,
        LeafKind::Terminal,
        LeafKind::Amendment,
        LeafKind::Approval,
        LeafKind::KeyEvent,
        LeafKind::PolicyChange,
        LeafKind::Erasure,
    ];

    /// The kind in a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            LeafKind::Intent => "intent",
            LeafKind::Terminal => "terminal",
            LeafKind::Amendment => "amendment",
            LeafKind::Approval => "approval",
            LeafKind::KeyEvent => "key-event",
            LeafKind::PolicyChange => "policy-change",
            LeafKind::Erasure => "erasure",
        }
    }

    fn from_number(number: u8) -> Option<LeafKind> {
        LeafKind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A tenant's log key: makes the references by which leaves name actions, and nonces. Not a key that signs.
pub struct RefKey(hmac::Key);

impl RefKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> RefKey {
        RefKey(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The reference to an action: HMAC-SHA256 of its id as receipts spell it.
    #[must_use]
    pub fn action_ref(&self, action_id: &str) -> ActionRef {
        // HMAC-SHA256 is 32 bytes.
        hmac::sign(&self.0, action_id.as_bytes()).as_ref().try_into().unwrap_or_default()
    }

    /// The nonce of a record that brings none. Where there is a secret of the action that it is about, nobody can make it any
    /// more once that is erased; the rest follows from the key.
    #[must_use]
    pub fn nonce(&self, secret: Option<&[u8; 32]>, record: &[u8]) -> Nonce {
        let mut context = hmac::Context::with_key(&self.0);
        // No id of an action begins so.
        context.update(b"countersign/log-nonce/1");
        context.update(&Sha256::digest(record));
        context.update(secret.map_or(&[][..], |secret| secret));
        context.sign().as_ref().try_into().unwrap_or_default()
    }
}

impl std::fmt::Debug for RefKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RefKey")
    }
}
