use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::approval::{self, Approvers, Consent, Standing};
use crate::chain::NO_HASH;
use crate::document::MAX_BYTES;
use crate::draft::Environment;
use crate::keys::{Signature, has_low_s};
use crate::log::{Logged, Proof};
use crate::report::{Check, CheckName, Facts, Outcome, Quarantine, Report, SANDBOX, Verdict};
use crate::{Disclosures, Document, Entry, Failure, Jwk, Jwks, Pin, Place, Stage, canonical};

/// What a verifier believes beforehand.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// Whose receipts are looked for.
    pub pin: &'a Pin,
    /// The issuer's keys, as far as the pin bears them out.
    pub jwks: &'a Jwks,
    /// May receipts of the sandbox pass?
    pub allow_sandbox: bool,
    /// Values that are said to stand behind commitments.
    pub disclosures: &'a Disclosures,
    /// The people whose approvals are believed.
    pub approvers: &'a Approvers,
    /// Must an action that people had to agree to bear the signature of one of them?
    pub require_approvals: bool,
    /// That the receipt stands in its issuer's log.
    pub proof: Option<&'a Proof>,
    /// Must it?
    pub require_inclusion: bool,
}

impl<'a> Trust<'a> {
    /// Belief in an issuer and nothing else: no receipts of the sandbox, no disclosures, nobody's approvals.
    #[must_use]
    pub fn new(pin: &'a Pin, jwks: &'a Jwks) -> Self {
        static NOTHING: Disclosures = Disclosures::NONE;
        static NOBODY: Approvers = Approvers::NOBODY;
        Self {
            pin,
            jwks,
            allow_sandbox: false,
            disclosures: &NOTHING,
            approvers: &NOBODY,
            require_approvals: false,
            proof: None,
            require_inclusion: false,
        }
    }
}

/// Verifies a document as received.
///
/// Canonical text is recognised while it is read and checked where it lies; any other text is read strictly, made
/// canonical and then treated alike. All checks that can be made are made; the verdict names the first that fails.
#[must_use]
pub fn verify(received: &[u8], trust: &Trust<'_>) -> Report {
    let mut rewritten = Vec::new();
    match read(received, &mut rewritten) {
        Ok(document) => judge(&document, trust),
        Err(failure) => Report::unreadable(failure),
    }
}

fn read<'a>(received: &'a [u8], rewritten: &'a mut Vec<u8>) -> Result<Document<'a>, Failure> {
    if received.len() > MAX_BYTES {
        return Err(Failure::document(format!("longer than {MAX_BYTES} bytes")));
    }
    let text = std::str::from_utf8(received).map_err(not_utf8)?;
    match Document::parse(text) {
        Ok(document) => Ok(document),
        Err(failure) => {
            // Either it is wrong or it is only not canonical.
            *rewritten = canonical::canonicalise(received).map_err(|error| locate(error.into(), &failure))?;
            if rewritten == received {
                return Err(failure);
            }
            Document::parse(std::str::from_utf8(rewritten).map_err(not_utf8)?)
        }
    }
}

/// Where text is not JSON, the scan that read it as canonical may have come closer: up to some entry.
fn locate(broken: Failure, scan: &Failure) -> Failure {
    match (&broken.place, &scan.place) {
        (Place::Document, Place::Entry { .. }) => Failure { place: scan.place.clone(), why: broken.why },
        _ => broken,
    }
}

fn not_utf8(error: std::str::Utf8Error) -> Failure {
    Failure::document(format!("not valid JSON: {error}"))
}

fn judge(document: &Document<'_>, trust: &Trust<'_>) -> Report {
    let mut table = Table { checks: Vec::with_capacity(CheckName::ALL.len()), failure: None };
    table.passed(CheckName::Structure, "every member of the format and no other");
    table.add(CheckName::Entries, entries_hold(&document.entries), "every entry has the hash it says");
    table.add(CheckName::Chain, whole_chain_holds(document), "every entry follows the one before it");
    table.add(CheckName::Created, created_holds(document), "time of the last entry, which is signed");
    table.add(CheckName::Issuer, issuer_holds(document, trust), "the key set is the pinned one");

    let key = key_of(document, trust.jwks);
    let signature = signature_of(document);
    let pair = key.as_ref().ok().copied().zip(signature.as_ref().ok());
    table.add(CheckName::Key, key.as_ref().map(|_| ()).map_err(Clone::clone), "in the key set");
    table.add(CheckName::Encoding, signature.as_ref().map(|_| ()).map_err(Clone::clone), "base64url, low S");
    match pair {
        Some((key, signature)) => {
            let fits = signature_holds(document, key, signature);
            table.add(CheckName::Signature, fits, "fits the document");
        }
        None => table.skipped(CheckName::Signature, "no key or no signature to check"),
    }
    match key {
        Ok(key) => {
            table.add(CheckName::Window, window_holds(document, key), "the key was in use at the time")
        }
        Err(_) => table.skipped(CheckName::Window, "no key to check"),
    }
    match trust.disclosures.of(&document.content.receipt_id) {
        [] => table.skipped(CheckName::Commitments, "nothing was disclosed"),
        some => {
            let fit = some.iter().try_for_each(|disclosure| disclosure.check(document));
            table.add(CheckName::Commitments, fit, "every disclosed value fits its commitment");
        }
    }
    let mut proven = false;
    for index in 0..document.content.metadata.approvals.len() {
        let standing = approval::standing(document, index, trust);
        proven |= matches!(standing, Ok(Standing::Verified(_)));
        table.approval(index, standing);
    }
    if trust.require_approvals {
        let consent = approval::consent(document, proven);
        match consent {
            Ok(Consent::NotNeeded) => {
                table.skipped(CheckName::Consent, "nobody had to agree, as far as it says")
            }
            Ok(Consent::Proven) => {
                table.passed(CheckName::Consent, "a pinned person agreed, as somebody had to")
            }
            Err(failure) => table.add(CheckName::Consent, Err(failure), ""),
        }
    }
    let logged = table.inclusion(document, trust);
    let reservation = table.reserve(document, key.ok(), logged.as_ref(), trust);
    let verdict = match table.failure {
        Some(failure) => Verdict::Invalid(failure),
        None => reservation,
    };
    Report { verdict, checks: table.checks, facts: Some(facts(document)) }
}

/// The report as it grows, and the first failure in it.
struct Table {
    checks: Vec<Check>,
    failure: Option<Failure>,
}

impl Table {
    fn add(&mut self, name: CheckName, result: Result<(), Failure>, detail: &'static str) {
        match result {
            Ok(()) => self.passed(name, detail),
            Err(failure) => {
                self.failed(name, failure.to_string());
                self.failure.get_or_insert(failure);
            }
        }
    }

    fn passed(&mut self, name: CheckName, detail: &'static str) {
        self.checks.push(Check { name, outcome: Outcome::Passed, detail: detail.into() });
    }

    fn failed(&mut self, name: CheckName, detail: impl Into<Cow<'static, str>>) {
        self.checks.push(Check { name, outcome: Outcome::Failed, detail: detail.into() });
    }

    /// One line for each approval, which says whether the consent was proven or only stated.
    fn approval(&mut self, index: usize, result: Result<Standing, Failure>) {
        let name = CheckName::Approval;
        match result {
            Ok(Standing::Verified(person)) => {
                let detail = format!("verified: number {index}, signed by `{person}`").into();
                self.checks.push(Check { name, outcome: Outcome::Passed, detail });
            }
            Ok(Standing::Unpinned) => self.skipped(
                name,
                format!("signed, key unpinned: number {index}, by the key that the receipt itself names"),
            ),
            Ok(Standing::NoKey) => self.skipped(
                name,
                format!("signature not checked: number {index}, the receipt names no key and none is pinned"),
            ),
            Ok(Standing::KeyOnly) => self.skipped(
                name,
                format!("not signed: number {index}, by API key, of which the gateway alone knows"),
            ),
            Err(failure) => self.add(name, Err(failure), ""),
        }
    }

    fn skipped(&mut self, name: CheckName, detail: impl Into<Cow<'static, str>>) {
        self.checks.push(Check { name, outcome: Outcome::Skipped, detail: detail.into() });
    }

    /// Where the receipt is logged, if that was shown.
    fn inclusion(&mut self, document: &Document<'_>, trust: &Trust<'_>) -> Option<Logged> {
        let name = CheckName::Inclusion;
        let shown = match trust.proof {
            Some(proof) => proof.shows(document, trust.pin),
            None if trust.require_inclusion => Err(Failure::document("no proof that it was logged")),
            None => return None,
        };
        match shown {
            Ok(logged) => {
                let Logged { checkpoint, index, witnessed, .. } = &logged;
                let detail = format!(
                    "leaf {index} of {} in `{}`, cosigned by {} of the witnesses pinned",
                    checkpoint.size,
                    checkpoint.origin,
                    witnessed.len()
                );
                self.checks.push(Check { name, outcome: Outcome::Passed, detail: detail.into() });
                Some(logged)
            }
            Err(failure) => {
                self.add(name, Err(failure), "");
                None
            }
        }
    }

    /// The two checks that a genuine receipt can fail, and the verdict if all others hold.
    fn reserve(
        &mut self,
        document: &Document<'_>,
        key: Option<&Jwk>,
        logged: Option<&Logged>,
        trust: &Trust<'_>,
    ) -> Verdict {
        let sandbox = document.content.metadata.environment == Environment::Sandbox && !trust.allow_sandbox;
        if sandbox {
            self.failed(CheckName::Environment, SANDBOX);
        } else {
            self.passed(CheckName::Environment, document.content.metadata.environment.as_str());
        }
        let custody = match key.map(Jwk::compromised_at) {
            None => {
                self.skipped(CheckName::Custody, "no key to check");
                Verdict::Valid
            }
            Some(None) => {
                self.passed(CheckName::Custody, "the key is not known to be compromised");
                Verdict::Valid
            }
            // A receipt made in that very millisecond is not made before.
            Some(Some(at)) if document.created >= at => Verdict::Quarantined(Quarantine::Compromised { at }),
            Some(Some(compromised_at)) => {
                match logged.and_then(|logged| logged.is_before(&document.kid, compromised_at)) {
                    Some(how) => {
                        let (name, outcome) = (CheckName::Custody, Outcome::Passed);
                        self.checks.push(Check { name, outcome, detail: how.into() });
                        Verdict::Valid
                    }
                    None => Verdict::TimeUnproven { compromised_at },
                }
            }
        };
        if custody != Verdict::Valid {
            self.failed(CheckName::Custody, custody.to_string());
        }
        if sandbox { Verdict::Quarantined(Quarantine::Sandbox) } else { custody }
    }
}

/// Every entry has the hash it says.
pub(crate) fn entries_hold(entries: &[Entry<'_>]) -> Result<(), Failure> {
    match entries.iter().position(|entry| !entry.hash_holds()) {
        Some(index) => {
            Err(Failure::entry(index, Some(entries[index].stage), "content does not fit its hash"))
        }
        None => Ok(()),
    }
}

/// Every entry follows the one before it, from genesis on.
pub(crate) fn chain_holds(entries: &[Entry<'_>]) -> Result<(), Failure> {
    let mut last: Option<&Entry<'_>> = None;
    for (index, entry) in entries.iter().enumerate() {
        let broken = |why| Err(Failure::entry(index, Some(entry.stage), why));
        let (hash, stage_fits, time_fits) = match last {
            None => (&NO_HASH[..], entry.stage == Stage::Genesis, true),
            Some(last) => (last.hash.as_bytes(), last.stage < entry.stage, last.at <= entry.at),
        };
        if entry.previous_hash.as_bytes() != hash {
            return broken("`previousHash` is not the hash of the entry before");
        }
        if !stage_fits {
            return broken("stage is out of order");
        }
        if !time_fits {
            return broken("time is before that of the entry before");
        }
        last = Some(entry);
    }
    Ok(())
}

/// The chain of a finished receipt also has an end, and an executed action has passed every stage.
fn whole_chain_holds(document: &Document<'_>) -> Result<(), Failure> {
    chain_holds(&document.entries)?;
    let stages = document.entries.len();
    match document.entries.last() {
        Some(last) if last.stage == Stage::Receipt => {}
        _ => return Err(Failure::entry(stages, None, "the entry `receipt` is missing")),
    }
    Ok(document.content.check_entries(stages)?)
}

fn created_holds(document: &Document<'_>) -> Result<(), Failure> {
    match document.entries.last() {
        Some(last) if last.at == document.created => Ok(()),
        _ => Err(Failure::member("created", "is not the time of the last entry")),
    }
}

fn issuer_holds(document: &Document<'_>, trust: &Trust<'_>) -> Result<(), Failure> {
    if !trust.pin.trusts(trust.jwks) {
        let digest = trust.jwks.digest();
        return Err(Failure::document(format!(
            "the key set is not the pinned issuer's; its digest is {digest}"
        )));
    }
    let issuer = &document.content.metadata.issuer;
    match trust.pin.issuer() {
        Some(pinned) if pinned != issuer => {
            Err(Failure::member("metadata.issuer", format!("is `{issuer}`, but `{pinned}` is pinned")))
        }
        _ => Ok(()),
    }
}

fn key_of<'a>(document: &Document<'_>, jwks: &'a Jwks) -> Result<&'a Jwk, Failure> {
    let kid = &document.kid;
    jwks.key(kid)
        .ok_or_else(|| Failure::member("signature.kid", format!("key `{kid}` is not in the key set")))
}

fn signature_of(document: &Document<'_>) -> Result<Signature, Failure> {
    let fault = |why| Failure { place: Place::Member("signature.value".to_owned()), why: String::from(why) };
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(document.signature_value.as_bytes()).ok();
    let signature: Option<Signature> = bytes.and_then(|bytes| bytes.try_into().ok());
    let signature = signature.ok_or_else(|| fault("is not unpadded base64url of 64 bytes"))?;
    if has_low_s(&signature) { Ok(signature) } else { Err(fault("has a high S")) }
}

fn signature_holds(document: &Document<'_>, key: &Jwk, signature: &Signature) -> Result<(), Failure> {
    if key.key().verifies_digest(document.signed_digest(), signature) {
        Ok(())
    } else {
        Err(Failure::member("signature.value", "does not fit: a signed member or the signature was changed"))
    }
}

fn window_holds(document: &Document<'_>, key: &Jwk) -> Result<(), Failure> {
    let created = document.created;
    if created < key.active_from() {
        return Err(Failure::member(
            "created",
            format!("is before the key's first use at {}", key.active_from()),
        ));
    }
    // What a lost key signs is quarantined, however late it is.
    let lost = key.compromised_at().is_some_and(|at| created >= at);
    match key.active_through() {
        Some(through) if created > through && !lost => {
            Err(Failure::member("created", format!("is after the key's last use at {through}")))
        }
        _ => Ok(()),
    }
}

fn facts(document: &Document<'_>) -> Facts {
    let content = &document.content;
    Facts {
        receipt_id: content.receipt_id.to_string(),
        transaction_id: content.transaction_id.to_string(),
        issuer: content.metadata.issuer.to_string(),
        environment: content.metadata.environment,
        kind: content.metadata.kind,
        event_type: content.event.as_str(),
        payment_status: content.payment_status.as_str(),
        created: document.created,
        kid: document.kid.to_string(),
        entries: document.entries.len(),
        resolved_by_person: document.is_resolved_by_person(),
    }
}
