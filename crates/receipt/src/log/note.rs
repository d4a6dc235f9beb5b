use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Checkpoint, Completeness, Error};

/// More signatures than a checkpoint gets; a note with more is not read.
const MOST_SIGNATURES: usize = 64;

/// A C2SP signed note: a text, and signatures over it by whoever signed it.
///
/// Signatures of keys that a reader does not know mean nothing to it and stay where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Line>,
}

/// One signature of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    name: String,
    id: [u8; 4],
    bytes: Vec<u8>,
}

impl Note {
    /// Reads a note; nothing of it is believed yet.
    ///
    /// # Errors
    /// [`Error::Note`] if it is not in the form of one, or longer or signed more often than is ever needed.
    pub fn parse(note: &str) -> Result<Note, Error> {
        let refused = |why: &str| Error::Note(why.to_owned());
        if note.len() > LONGEST {
            return Err(Error::Note(format!("it is longer than {LONGEST} bytes")));
        }
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(refused("it has control characters"));
        }
        let (text, lines) =
            note.rsplit_once("\n\n").ok_or_else(|| refused("nothing stands below its text"))?;
        let lines = lines.strip_suffix('\n').ok_or_else(|| refused("its last line has no end"))?;
        let signatures: Vec<Line> = lines.split('\n').map(Line::parse).collect::<Result<_, _>>()?;
        if signatures.len() > MOST_SIGNATURES {
            return Err(Error::Note(format!("it has more than {MOST_SIGNATURES} signatures")));
        }
        Ok(Note { text: format!("{text}\n"), signatures })
    }

    /// What is signed, its last line's end included.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Did this key sign it? A cosignature says when first, in seconds since 1970; any other signature says 0.
    ///
    /// # Errors
    /// [`Error::Note`] if there is a signature that says it is this key's and is not: such a note is not to be believed in
    /// anything.
    pub fn signed_by(&self, key: &Verifier) -> Result<Option<u64>, Error> {
        let mut signed = None;
        for line in self.signatures.iter().filter(|line| line.name == key.name && line.id == key.id()) {
            let at = key.verifies(&self.text, &line.bytes);
            let at = at.ok_or_else(|| Error::Note(format!("the signature by `{}` is wrong", key.name)))?;
            signed = Some(signed.map_or(at, |first: u64| first.min(at)));
        }
        Ok(signed)
    }

    /// Does it bear signatures that say they are of all whose signatures the other one bears?
    #[must_use]
    pub fn has_signers_of(&self, other: &Note) -> bool {
        let is_here =
            |line: &Line| self.signatures.iter().any(|it| (&it.name, it.id) == (&line.name, line.id));
        other.signatures.iter().all(is_here)
    }

    /// The same text with what this key signed of it, and nothing else.
    ///
    /// # Errors
    /// [`Error::Note`] if it did not.
    pub fn by(&self, key: &Verifier) -> Result<Note, Error> {
        let lines: Vec<String> = self.signatures.iter().map(Line::to_string).collect();
        Note { text: self.text.clone(), signatures: Vec::new() }.cosigned(key, &lines.join("\n"))
    }

    /// The same note, cosigned by this key: of these lines, such as a witness answers with, the one that is the key's and good,
    /// and nothing else, so that whoever wrote them spoils no other signature. If the note has one of the key's already it keeps
    /// that, which is the older.
    ///
    /// # Errors
    /// [`Error::Note`] if none of the lines is the key's, or there would be too many.
    pub fn cosigned(mut self, key: &Verifier, lines: &str) -> Result<Note, Error> {
        if self.signed_by(key)?.is_some() {
            return Ok(self);
        }
        let good = |line: &Line| {
            line.name == key.name && line.id == key.id() && key.verifies(&self.text, &line.bytes).is_some()
        };
        let line = lines.lines().filter_map(|line| Line::parse(line).ok()).find(good);
        let unsigned = || Error::Note(format!("`{}` did not sign it", key.name));
        self.signatures.push(line.ok_or_else(unsigned)?);
        if self.signatures.len() > MOST_SIGNATURES {
            return Err(Error::Note(format!("it has more than {MOST_SIGNATURES} signatures")));
        }
        Ok(self)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Line {
    fn parse(line: &str) -> Result<Line, Error> {
        let read = || {
            let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
            let signature = BASE64_STANDARD.decode(signature).ok()?;
            let (id, bytes) = signature.split_first_chunk::<4>()?;
            (is_name(name) && !bytes.is_empty()).then(|| Line {
                name: name.to_owned(),
                id: *id,
                bytes: bytes.to_vec(),
            })
        };
        read().ok_or_else(|| Error::Note("a line below its text is no signature".to_owned()))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signature = [&self.id[..], &self.bytes].concat();
        write!(f, "\u{2014} {} {}", self.name, BASE64_STANDARD.encode(signature))
    }
}

/// The public half of a key that signs notes, with its name: C2SP's *verifier key*, `name+id+key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    kind: Kind,
    key: [u8; 32],
}

/// What a signature is made over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The text: a log's own signature.
    Text = 1,
    /// The text and a time: a witness's cosignature.
    Timed = 4,
}

impl Verifier {
    /// The name, which for a log is its origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Is it a witness's?
    #[must_use]
    pub fn is_witness(&self) -> bool {
        self.kind == Kind::Timed
    }

    /// Are the two of one key, whatever their names?
    pub(crate) fn same_key(&self, other: &Verifier) -> bool {
        self.kind == other.kind && self.key == other.key
    }

    fn new(name: &str, kind: Kind, key: [u8; 32]) -> Result<Verifier, Error> {
        if is_name(name) {
            Ok(Verifier { name: name.to_owned(), kind, key })
        } else {
            Err(Error::Key(NO_NAME))
        }
    }

    /// Tells keys of one name apart; never what makes one believed.
    fn id(&self) -> [u8; 4] {
        let digest = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', self.kind as u8])
            .chain_update(self.key);
        let [a, b, c, d, ..]: [u8; 32] = digest.finalize().into();
        [a, b, c, d]
    }

    /// When the signature was made, or 0 where that is not signed; nothing if it is not one.
    fn verifies(&self, text: &str, signature: &[u8]) -> Option<u64> {
        let key = UnparsedPublicKey::new(&ED25519, &self.key);
        match self.kind {
            Kind::Text => key.verify(text.as_bytes(), signature).ok().map(|()| 0),
            Kind::Timed => {
                let (at, signature) = signature.split_first_chunk::<8>()?;
                let at = u64::from_be_bytes(*at);
                key.verify(timed(at, text).as_bytes(), signature).ok().map(|()| at)
            }
        }
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.kind as u8], &self.key[..]].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), BASE64_STANDARD.encode(key))
    }
}

impl FromStr for Verifier {
    type Err = Error;

    fn from_str(text: &str) -> Result<Verifier, Error> {
        let form = || Error::Key("it has not the form `name+id+key`");
        let mut parts = text.splitn(3, '+');
        let (name, id, key) = match (parts.next(), parts.next(), parts.next()) {
            (Some(name), Some(id), Some(key)) => (name, id, key),
            _ => return Err(form()),
        };
        let key = BASE64_STANDARD.decode(key).map_err(|_| form())?;
        let (kind, key) = key.split_first().ok_or_else(form)?;
        let kind = match *kind {
            1 => Kind::Text,
            4 => Kind::Timed,
            _ => return Err(Error::Key("it is of a kind that is not known here; Ed25519 is")),
        };
        let key = key.try_into().map_err(|_| Error::Key("it is not 32 bytes long"))?;
        let verifier = Verifier::new(name, kind, key)?;
        if hex::encode(verifier.id()) == id {
            Ok(verifier)
        } else {
            Err(Error::Key("its id is not that of its name and key; was it copied whole?"))
        }
    }
}

/// The private half of a log's or a witness's Ed25519 key.
pub struct Signer {
    pair: Ed25519KeyPair,
}

impl Signer {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`Error::Signing`] if the cryptographic library fails.
    pub fn generate() -> Result<Signer, Error> {
        Ok(Signer { pair: Ed25519KeyPair::generate().map_err(|_| Error::Signing)? })
    }

    /// Reads an unencrypted PKCS#8 document (DER), with the public key in it or without.
    ///
    /// # Errors
    /// [`Error::Key`] if it does not hold an Ed25519 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Signer, Error> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
        Ok(Signer { pair: pair.map_err(|_| Error::Key("not a PKCS#8 document of an Ed25519 key"))? })
    }

    /// The key as an unencrypted PKCS#8 document (DER); the bytes are wiped when dropped.
    ///
    /// # Errors
    /// [`Error::Signing`] if the cryptographic library fails.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let document = self.pair.to_pkcs8().map_err(|_| Error::Signing)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// The public half as a log's of that origin.
    ///
    /// # Errors
    /// [`Error::Key`] if the name is empty or has spaces or a plus in it.
    pub fn log(&self, origin: &str) -> Result<Verifier, Error> {
        Verifier::new(origin, Kind::Text, self.public())
    }

    /// The public half as a witness's of that name.
    ///
    /// # Errors
    /// As [`Signer::log`].
    pub fn witness(&self, name: &str) -> Result<Verifier, Error> {
        Verifier::new(name, Kind::Timed, self.public())
    }

    /// Signs a checkpoint as the log. The same checkpoint gives the same note.
    ///
    /// # Errors
    /// [`Error::Key`] if the origin is none that a key may have.
    pub fn sign(&self, checkpoint: &Checkpoint) -> Result<Note, Error> {
        self.note(&checkpoint.origin, checkpoint.to_string())
    }

    /// Signs a completeness statement as the log.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn state(&self, said: &Completeness) -> Result<Note, Error> {
        self.note(&said.checkpoint.origin, said.to_string())
    }

    fn note(&self, origin: &str, text: String) -> Result<Note, Error> {
        let verifier = self.log(origin)?;
        let bytes = self.bytes(text.as_bytes())?;
        Ok(Note { text, signatures: vec![Line { id: verifier.id(), name: verifier.name, bytes }] })
    }

    /// The line with which a witness cosigns a note at that time, in seconds since 1970.
    ///
    /// # Errors
    /// As [`Signer::log`].
    pub fn cosign(&self, name: &str, note: &Note, at: u64) -> Result<String, Error> {
        let verifier = self.witness(name)?;
        let bytes = [&at.to_be_bytes()[..], &self.bytes(timed(at, &note.text).as_bytes())?].concat();
        Ok(Line { id: verifier.id(), name: verifier.name, bytes }.to_string())
    }

    fn bytes(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.pair.try_sign(message).map_err(|_| Error::Signing)?;
        Ok(signature.as_ref().to_vec())
    }

    fn public(&self) -> [u8; 32] {
        // An Ed25519 public key is 32 bytes; anything else would verify nothing.
        self.pair.public_key().as_ref().try_into().unwrap_or_default()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", hex::encode(self.public()))
    }
}

/// What a cosignature is over.
fn timed(at: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {at}\n{text}")
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('+') && !name.contains(char::is_whitespace)
}

/// Room for as many of the longest signatures there are as a note may have to carry.
const LONGEST: usize = 256 << 10;
const NO_NAME: &str = "a name must not be empty or have spaces or a plus in it";
