//! The journal: one line of JSON per effect, synced before the effect is answered.
//!
//! It is there to be counted after a `kill -9`. The bank never reads it back: a bank that starts
//! again starts empty and goes on appending.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One movement of money, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// The bank's own id of the payment.
    pub payment_id: String,
    /// The reference the payer gave.
    pub reference: Option<String>,
    /// The idempotency key the payment came with.
    pub key: Option<String>,
    /// The account that received the money.
    pub recipient: String,
    /// What moved, in minor units of `currency`.
    pub amount_minor: i64,
    /// ISO 4217 code.
    pub currency: String,
}

/// Reads the effects a bank wrote, oldest first.
///
/// A last line without its newline was cut off by a crash before it was synced; that effect was
/// never answered nor counted, and is left out.
///
/// # Errors
/// The file cannot be read, or a complete line is not an effect.
pub fn read_journal(path: &Path) -> io::Result<Vec<Effect>> {
    let text = std::fs::read_to_string(path)?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
}

pub(super) struct Journal(File);

impl Journal {
    pub(super) fn open(path: &Path) -> io::Result<Journal> {
        Ok(Journal(OpenOptions::new().create(true).append(true).open(path)?))
    }

    /// Appends and syncs: when this returns, the effect can be counted whatever happens to us.
    pub(super) fn append(&mut self, effect: &Effect) -> io::Result<()> {
        let mut line = serde_json::to_vec(effect)?;
        line.push(b'\n');
        self.0.write_all(&line)?;
        self.0.sync_data()
    }
}
