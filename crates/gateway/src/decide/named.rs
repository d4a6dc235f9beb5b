//! How the entries of the ledger name the row of an action: what was judged, and what people have asked for and said since.

use receipt::{Json, Salts};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::describe::salts_of;
use crate::Error;
use crate::check::OURSELVES;
use crate::resolve::{Spoken, spoken};
use crate::row::{IntentRow, ResolutionRow, internal};

/// What an entry commits to once people had to do with an action; members in JCS order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Steered<'a> {
    action_hash: &'a str,
    /// A commitment to each person, by what they asked for and their place in the row.
    asked: Vec<String>,
    said: Vec<Word<'a>>,
}

/// A word that ended nothing.
#[derive(Serialize)]
struct Word<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    charged: Option<&'a str>,
    word: Spoken<'a>,
}

impl IntentRow {
    /// The hash by which the entry that this row is written with, and all that follow on it, name it. Where only the gateway
    /// itself had to do with the action since it was judged, that is what it was then.
    ///
    /// Of a row that is in hand, and may be told otherwise than it is stored, ask `Pending::action_hash`.
    pub(crate) fn named(&self) -> Result<[u8; 32], Error> {
        let judged = self.judged_hash()?;
        let untouched = self.steerers().all(|by| by == OURSELVES) && self.words_aside().next().is_none();
        if untouched {
            return Ok(judged);
        }
        let salts = salts_of(self).ok_or_else(|| internal("a stored salt is not one"))?;
        let steered = Steered {
            action_hash: &self.action_hash,
            asked: self.asked().enumerate().map(|(at, asked)| committed(at, asked, &salts)).collect(),
            said: self.words_aside().map(|word| Word::of(word, &salts)).collect(),
        };
        let record = Json::of(&steered).map_err(|_| internal("what people said cannot be written"))?;
        Ok(Sha256::digest(record.as_str()).into())
    }

    /// What the action was when it was judged.
    pub(crate) fn judged_hash(&self) -> Result<[u8; 32], Error> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&self.action_hash, &mut hash)
            .map_err(|_| internal("a stored hash is not one"))?;
        Ok(hash)
    }
}

impl<'a> Word<'a> {
    fn of(word: &'a ResolutionRow, salts: &Salts) -> Word<'a> {
        Word { charged: word.charged.as_deref(), word: spoken(word, salts) }
    }
}

fn committed(at: usize, (what, by): (&str, &str), salts: &Salts) -> String {
    salts.commit(&receipt::label(what, &at.to_string()), &Json::string(by))
}
