use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{Checkpoint, Error, Hash, Leaf, LeafKind, Nonce, Note, epoch_of, verify_inclusion};
use crate::draft::Event;
use crate::json::object;
use crate::{Document, Failure, Json, Jwks, MAX_BYTES, Pin, Timestamp, canonical};

/// That a receipt stands in a log: its leaf, the way from there to a root, and the signed checkpoint with that root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The receipt's leaf and the way from it.
    pub place: Place,
    /// The checkpoint, with the log's signature and its witnesses'.
    pub note: Note,
    /// That its key was said to be compromised later than this, where that was said.
    pub compromise: Option<Compromise>,
}

/// A leaf, its number, and the way from it to a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The number of the leaf.
    pub index: u64,
    /// The leaf.
    pub leaf: Leaf,
    /// The hashes beside the way up.
    pub path: Vec<Hash>,
}

/// The leaf of a key's compromise, in the same tree, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compromise {
    /// Where it is logged.
    pub place: Place,
    /// What its commitment takes beside the entry.
    pub nonce: Nonce,
    /// The entry of the ledger, canonical JSON.
    pub entry: Vec<u8>,
    /// The record of the event, canonical JSON, whose hash the entry has.
    pub record: Vec<u8>,
}

/// What a [`Proof`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The checkpoint that it leads to.
    pub checkpoint: Checkpoint,
    /// The number of the receipt's leaf.
    pub index: u64,
    /// The witnesses pinned that cosigned the checkpoint, and when, in seconds since 1970.
    pub witnessed: Vec<(String, u64)>,
    /// As many of them the pin demands.
    pub witnesses_needed: usize,
    /// The key of which the log itself says later than the receipt that it is compromised.
    pub compromised_later: Option<String>,
}

impl Proof {
    /// Reads a proof.
    ///
    /// # Errors
    /// [`Error::Bundle`] if it is not of the form of one; whether it proves anything is asked by [`Proof::shows`].
    pub fn parse(received: &[u8]) -> Result<Proof, Error> {
        bounded(received)?;
        let text = canonical::canonicalise(received).map_err(unreadable)?;
        RawProof::read(&text)
    }

    /// The proof as canonical JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let compromise = match &self.compromise {
            None => "null".to_owned(),
            Some(known) => format!(
                r#"{{"entry":{},"index":{},"leaf":"{}","nonce":"{}","path":{},"record":{}}}"#,
                String::from_utf8_lossy(&known.entry),
                known.place.index,
                spelled(&known.place.leaf.to_bytes()),
                spelled(&known.nonce),
                known.place.path(),
                String::from_utf8_lossy(&known.record),
            ),
        };
        let text = format!(
            r#"{{"checkpoint":{},"compromise":{compromise},"index":{},"leaf":"{}","path":{},"spec":"{PROOF}"}}"#,
            Json::string(&self.note.to_string()),
            self.place.index,
            spelled(&self.place.leaf.to_bytes()),
            self.place.path(),
        );
        debug_assert!(canonical::is_canonical(text.as_bytes()));
        text.into_bytes()
    }

    /// Does it show that this receipt is in a log that the pin names, with as many witnesses as the pin demands?
    ///
    /// # Errors
    /// The first thing that speaks against it.
    pub fn shows(&self, document: &Document<'_>, pin: &Pin) -> Result<Logged, Failure> {
        let (checkpoint, witnessed) = believed(&self.note, pin)?;
        let content = &document.content;
        let (Some(log), Some(nonce)) = (&content.metadata.log, promised_nonce(document)) else {
            return Err(Failure::member("metadata.log", "promises no place in a log"));
        };
        // What was put back is logged again in a later epoch of its log, which the pin names too.
        if epoch_of(&log.origin).0 != epoch_of(&checkpoint.origin).0 {
            return Err(Failure::member("metadata.log.origin", "is not the log of the proof"));
        }
        let kind = if content.event == Event::Original { LeafKind::Terminal } else { LeafKind::Amendment };
        let Place { index, leaf, .. } = &self.place;
        let fits = leaf.kind == kind && leaf.is_of_time(document.created);
        if !fits || !leaf.opens(&nonce, document.text.as_bytes()) {
            return Err(Failure::document("the leaf of the proof is not this receipt's"));
        }
        self.place.check(&checkpoint).map_err(|error| document_fault(&error))?;
        let compromised_later = match &self.compromise {
            None => None,
            Some(known) => Some(known.kid_of(*index, &checkpoint).map_err(|error| document_fault(&error))?),
        };
        let witnesses_needed = pin.witnesses_needed();
        Ok(Logged { index: *index, checkpoint, witnessed, witnesses_needed, compromised_later })
    }
}

/// What a note says of a log, if the pin names that log and as many witnesses as it demands cosigned; and those that did, and
/// when, in seconds since 1970.
///
/// # Errors
/// Why it is not believed.
pub fn believed(note: &Note, pin: &Pin) -> Result<(Checkpoint, Vec<(String, u64)>), Failure> {
    let origin = note.text().lines().next().unwrap_or_default();
    let log = pin.logs().iter().find(|log| log.name() == origin);
    let log = log.ok_or_else(|| Failure::document(format!("the pin names no log `{origin}`")))?;
    let checkpoint = Checkpoint::of(note, log).map_err(|error| document_fault(&error))?;
    let mut witnessed = Vec::new();
    for witness in pin.witnesses() {
        let at = note.signed_by(witness).map_err(|error| document_fault(&error))?;
        witnessed.extend(at.map(|at| (witness.name().to_owned(), at)));
    }
    let (seen, need) = (witnessed.len(), pin.witnesses_needed());
    if seen < need {
        let why = format!("{seen} of the witnesses pinned cosigned its checkpoint, but {need} are needed");
        return Err(Failure::document(why));
    }
    Ok((checkpoint, witnessed))
}

impl Logged {
    /// Was it logged before that moment, or before the log was told that this key is compromised?
    ///
    /// A witness's word is somebody else's, and as many have to say so as have to cosign: fewer are not believed in anything. The
    /// log's own order holds only as far as its key was not lost with the other.
    pub(crate) fn is_before(&self, kid: &str, compromised_at: Timestamp) -> Option<String> {
        let before = |at: u64| at.saturating_mul(1000) < compromised_at.unix_millis();
        let seen = self.witnessed.iter().filter(|(_, at)| before(*at)).map(|(name, _)| format!("`{name}`"));
        let seen: Vec<String> = seen.collect();
        if seen.len() >= self.witnesses_needed.max(1) {
            return Some(format!("key compromised later: {} had seen it logged by then", seen.join(", ")));
        }
        let later = self.compromised_later.as_deref() == Some(kid);
        later.then(|| "key compromised later: its log says so behind it".to_owned())
    }
}

impl Place {
    fn check(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        verify_inclusion(&self.leaf.hash(), self.index, checkpoint.size, &self.path, &checkpoint.root)
    }

    fn path(&self) -> String {
        let hashes: Vec<String> = self.path.iter().map(|hash| format!("\"{}\"", spelled(hash))).collect();
        format!("[{}]", hashes.join(","))
    }

    fn read(index: u64, leaf: &str, path: &[String]) -> Result<Place, Error> {
        let leaf = Leaf::parse(&decoded::<{ Leaf::SIZE }>(leaf)?)?;
        let path = path.iter().map(|hash| decoded(hash)).collect::<Result<_, _>>()?;
        Ok(Place { index, leaf, path })
    }
}

impl Compromise {
    /// The key that it is about, if it is logged behind that leaf.
    fn kid_of(&self, index: u64, checkpoint: &Checkpoint) -> Result<String, Error> {
        let wrong = |why: &str| Error::Bundle(format!("of the key's compromise, {why}"));
        self.place.check(checkpoint)?;
        if self.place.index <= index {
            return Err(wrong("the leaf stands before the receipt's"));
        }
        let fits =
            self.place.leaf.kind == LeafKind::KeyEvent && self.place.leaf.opens(&self.nonce, &self.entry);
        let entry: RawEntry = object(&self.entry).map_err(|_| wrong("the entry is none"))?;
        let record: RawRecord = object(&self.record).map_err(|_| wrong("the record is none"))?;
        let hash = hex::encode(Sha256::digest(&self.record));
        if fits && entry.event == COMPROMISED && entry.action_hash == hash {
            Ok(record.kid)
        } else {
            Err(wrong("leaf, entry and record do not belong together"))
        }
    }
}

/// A receipt with all that it takes to believe that it was logged, in one file: key set and [`Proof`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The receipt, canonical JSON.
    pub receipt: Vec<u8>,
    /// The issuer's key set; a hint, as far as the pin bears it out.
    pub jwks: Jwks,
    /// That it was logged.
    pub proof: Proof,
}

impl Bundle {
    /// Is this the text of a bundle, rather than of a receipt? Says nothing of whether it is a good one.
    #[must_use]
    pub fn is_one(received: &[u8]) -> bool {
        let spec = serde_json::from_slice::<Spec>(received).ok();
        spec.is_some_and(|spec| spec.spec == BUNDLE)
    }

    /// Reads a bundle.
    ///
    /// # Errors
    /// [`Error::Bundle`] if it is not of the form of one; nothing in it is believed yet.
    pub fn parse(received: &[u8]) -> Result<Bundle, Error> {
        bounded(received)?;
        // Canonical text, since of that the members are slices, and the receipt's is hashed.
        let text = canonical::canonicalise(received).map_err(unreadable)?;
        let raw: RawBundle<'_> = object(&text).map_err(unreadable)?;
        expected(&raw.spec, BUNDLE)?;
        let jwks = Jwks::parse(raw.jwks.get().as_bytes()).map_err(unreadable)?;
        let proof = RawProof::read(raw.proof.get().as_bytes())?;
        Ok(Bundle { receipt: raw.receipt.get().as_bytes().to_vec(), jwks, proof })
    }

    /// The bundle as canonical JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = b"{\"jwks\":".to_vec();
        bytes.extend_from_slice(self.jwks.as_bytes());
        bytes.extend_from_slice(b",\"proof\":");
        bytes.extend_from_slice(&self.proof.to_bytes());
        bytes.extend_from_slice(b",\"receipt\":");
        bytes.extend_from_slice(&self.receipt);
        bytes.extend_from_slice(format!(",\"spec\":\"{BUNDLE}\"}}").as_bytes());
        debug_assert!(canonical::is_canonical(&bytes));
        bytes
    }
}

#[derive(Deserialize)]
struct Spec {
    spec: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBundle<'a> {
    #[serde(borrow)]
    jwks: &'a RawValue,
    #[serde(borrow)]
    proof: &'a RawValue,
    #[serde(borrow)]
    receipt: &'a RawValue,
    spec: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProof<'a> {
    checkpoint: String,
    #[serde(borrow)]
    compromise: &'a RawValue,
    index: u64,
    leaf: String,
    path: Vec<String>,
    spec: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCompromise<'a> {
    #[serde(borrow)]
    entry: &'a RawValue,
    index: u64,
    leaf: String,
    nonce: String,
    path: Vec<String>,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// Of an entry of the ledger, what tells what it is about.
#[derive(Deserialize)]
struct RawEntry {
    event: String,
    #[serde(rename = "actionHash")]
    action_hash: String,
}

#[derive(Deserialize)]
struct RawRecord {
    kid: String,
}

impl RawProof<'_> {
    /// From canonical text.
    fn read(text: &[u8]) -> Result<Proof, Error> {
        let raw: RawProof<'_> = object(text).map_err(unreadable)?;
        expected(&raw.spec, PROOF)?;
        let compromise = match raw.compromise.get() {
            "null" => None,
            known => Some(RawCompromise::read(known.as_bytes())?),
        };
        let place = Place::read(raw.index, &raw.leaf, &raw.path)?;
        Ok(Proof { place, note: Note::parse(&raw.checkpoint)?, compromise })
    }
}

impl RawCompromise<'_> {
    fn read(text: &[u8]) -> Result<Compromise, Error> {
        let known: RawCompromise<'_> = object(text).map_err(unreadable)?;
        Ok(Compromise {
            place: Place::read(known.index, &known.leaf, &known.path)?,
            nonce: decoded(&known.nonce)?,
            entry: known.entry.get().as_bytes().to_vec(),
            record: known.record.get().as_bytes().to_vec(),
        })
    }
}

/// The nonce with which the leaf of a receipt commits to it, if the receipt promises to be in a log.
#[must_use]
pub fn promised_nonce(document: &Document<'_>) -> Option<Nonce> {
    let promise = document.content.metadata.log.as_ref()?.promise.as_ref()?;
    decoded(&promise.nonce).ok()
}

fn bounded(received: &[u8]) -> Result<(), Error> {
    // A receipt, and as much again for all that proves it.
    let longest = 2 * MAX_BYTES;
    if received.len() > longest { Err(Error::Bundle(format!("longer than {longest} bytes"))) } else { Ok(()) }
}

fn expected(spec: &str, name: &str) -> Result<(), Error> {
    if spec == name { Ok(()) } else { Err(Error::Bundle(format!("`spec` is `{spec}`, not `{name}`"))) }
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::Bundle(error.to_string())
}

fn document_fault(error: &Error) -> Failure {
    Failure::document(error.to_string())
}

fn spelled(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn decoded<const LENGTH: usize>(text: &str) -> Result<[u8; LENGTH], Error> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Error::Bundle(format!("a text is not unpadded base64url of {LENGTH} bytes")))
}

const PROOF: &str = "countersign-proof/1";
const BUNDLE: &str = "countersign-bundle/1";
/// The event with which a ledger says that a signing key is compromised.
const COMPROMISED: &str = "signing_key_compromised";
