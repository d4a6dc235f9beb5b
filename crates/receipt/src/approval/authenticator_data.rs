use sha2::{Digest, Sha256};

use super::cbor::Cbor;
use super::{Credential, Refusal, RelyingParty};
use crate::VerifyingKey;

/// The authenticator's word on who was asked and how, and on a new credential if it made one.
pub(super) struct AuthenticatorData {
    rp_id_hash: [u8; 32],
    flags: u8,
    pub(super) credential: Option<Credential>,
}

impl AuthenticatorData {
    /// Reads all of it: what the flags announce is there, and nothing else.
    ///
    /// The reserved flags are ignored, as the specification has it. Extensions may answer unasked, so their data are
    /// allowed, but only as the one CBOR map that the flag ED announces.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let (rp_id_hash, rest) = bytes.split_first_chunk().ok_or(Refusal::AuthenticatorData)?;
        let ([flags, _counter @ ..], mut rest) =
            rest.split_first_chunk::<5>().ok_or(Refusal::AuthenticatorData)?;
        let mut credential = None;
        if flags & ATTESTED != 0 {
            let (found, after) = attested(rest)?;
            (credential, rest) = (Some(found), after);
        }
        let mut extensions = Cbor::new(rest);
        let whole = flags & EXTENSIONS == 0 || extensions.skip_map().is_some();
        if !whole || !extensions.at_end() {
            return Err(Refusal::AuthenticatorData);
        }
        Ok(Self { rp_id_hash: *rp_id_hash, flags: *flags, credential })
    }

    /// Was the right site answered, by a person who was there and was verified?
    pub(super) fn check(&self, party: Option<&RelyingParty>) -> Result<(), Refusal> {
        let rule = |holds: bool, refusal| if holds { Ok(()) } else { Err(refusal) };
        let set = |flag: u8| self.flags & flag != 0;
        let answers = |party: &RelyingParty| self.rp_id_hash[..] == Sha256::digest(&party.id)[..];
        rule(party.is_none_or(answers), Refusal::RelyingParty)?;
        rule(set(PRESENT), Refusal::UserPresence)?;
        rule(set(VERIFIED), Refusal::UserVerification)?;
        rule(set(BACKUP_ELIGIBLE) || !set(BACKED_UP), Refusal::Backup)
    }
}

/// Reads the attested credential data: AAGUID, credential id, public key.
fn attested(bytes: &[u8]) -> Result<(Credential, &[u8]), Refusal> {
    let (_aaguid, rest) = bytes.split_first_chunk::<16>().ok_or(Refusal::AuthenticatorData)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(Refusal::AuthenticatorData)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length == 0 || length > LONGEST_ID {
        return Err(Refusal::AuthenticatorData);
    }
    let (id, rest) = rest.split_at_checked(length).ok_or(Refusal::AuthenticatorData)?;
    let (public_key, rest) = cose_key(rest).ok_or(Refusal::Key)?;
    Ok((Credential { id: id.to_vec(), public_key }, rest))
}

/// Reads an ES256 key. WebAuthn allows these five members and no other, in CTAP2's canonical order and encoding, so
/// there is one text for each key.
fn cose_key(bytes: &[u8]) -> Option<(VerifyingKey, &[u8])> {
    let (x, rest) = bytes.strip_prefix(UP_TO_X)?.split_first_chunk::<32>()?;
    let (y, rest) = rest.strip_prefix(UP_TO_Y)?.split_first_chunk::<32>()?;
    let key = VerifyingKey::from_point(&[&[4][..], x, y].concat()).ok()?;
    Some((key, rest))
}

const PRESENT: u8 = 1;
const VERIFIED: u8 = 1 << 2;
const BACKUP_ELIGIBLE: u8 = 1 << 3;
const BACKED_UP: u8 = 1 << 4;
const ATTESTED: u8 = 1 << 6;
const EXTENSIONS: u8 = 1 << 7;
/// Longest credential id that WebAuthn allows.
const LONGEST_ID: usize = 1023;
/// `{1: 2 (EC2), 3: -7 (ES256), -1: 1 (P-256), -2: h'` and the length of x.
const UP_TO_X: &[u8] = &[0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20];
/// `-3: h'` and the length of y.
const UP_TO_Y: &[u8] = &[0x22, 0x58, 0x20];
