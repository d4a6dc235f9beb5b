//! A yes that is signed: what is put before a passkey, and what its signature is worth.
//!
//! ```text
//!   ask_to_sign ─▶ Question: envelope, kept here ─▶ passkey ─▶ approve_signed ─▶ Said with the signed Approval
//! ```
//!
//! The envelope is made here and never taken from a caller. Its yes counts if, when it comes back and once more before
//! anything is sent, the envelope made anew is the one that was signed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use action::ActionId;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ledger::Stored;
use receipt::approval::{Approval, Assertion, Commitment, Decision, Envelope, Limits, Quote, Signer, V1};
use receipt::{Json, Timestamp};

use super::challenges::challenge_of;
use super::passkeys::{Passkey, refused};
use super::said::{self, Said, Shown, constraints_of_waiting};
use super::summary::{Summary, undo};
use super::{HeldView, LimitsAsk, Word, its_signer, may_decide, must_be_approvable, readable};
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::pending::Pending;
use crate::redress::undone_by;
use crate::row::{Changed, EscalationRow, IntentRow, internal};
use crate::tenants::Rules;
use crate::{Code, Error, clock};

/// How long a person may think about an envelope.
const PATIENCE_MS: i64 = 10 * 60_000;
/// Questions of one person that wait; the oldest makes room.
const MOST_EACH: usize = 16;

/// What a passkey is asked to sign.
#[derive(Clone, Debug)]
pub struct Question {
    /// SHA-256 of the envelope.
    pub challenge: [u8; 32],
    /// The envelope, canonical.
    pub envelope: Json,
    /// When the answer lapses, RFC 3339.
    pub expires_at: String,
    /// The domain that the passkeys are for.
    pub rp_id: String,
    /// The person's credentials.
    pub credentials: Vec<Vec<u8>>,
}

/// The questions that wait for their answers, by challenge. They are gone with the process; then one asks again.
#[derive(Default)]
pub(crate) struct Questions(Mutex<HashMap<[u8; 32], Waiting>>);

struct Waiting {
    action: ActionId,
    of: (action::Tenant, action::Subject),
    comment: Option<String>,
    envelope: Envelope,
    /// Digest of what was shown.
    shown: String,
    until_ms: i64,
}

/// What is chosen anew for each envelope; all else follows from the action.
struct Terms<'a> {
    approver: &'a str,
    comment: Option<&'a str>,
    limits: Option<Limits>,
    nonce: [u8; 32],
    expires_at: Timestamp,
    summary: Commitment,
    bindings: BTreeMap<String, String>,
}

impl Gateway {
    /// What a person has to sign to agree to a held action.
    ///
    /// # Errors
    /// As [`Gateway::approve`]; `EP_FORBIDDEN` if the person has no passkey that counts.
    pub async fn ask_to_sign(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        comment: Option<String>,
        limits: Option<LimitsAsk>,
    ) -> Result<Question, Error> {
        caller.must(Deed::Approve)?;
        let comment = readable(comment)?;
        let party = self.party()?;
        let stored = self.visible(caller, id).await?;
        let (row, escalation) = may_decide(caller, &stored)?;
        its_signer(caller, &stored, &row)?;
        must_be_approvable(&row)?;
        // Nobody is made to sign what will not be taken.
        self.leaves_room(caller, &stored, &escalation).await?;
        let limits = self.limits_of(limits.as_ref(), &stored, &row).await?;
        self.under_rules_of_now(&stored, &row, &escalation).await?;
        let mine = self.passkeys_of(&caller.tenant).await?;
        let mine = mine.into_iter().filter(|it| it.counts() && it.is_of(&caller.subject));
        let credentials: Vec<Vec<u8>> = mine.map(|it| it.holder.credential_id).collect();
        if credentials.is_empty() {
            return Err(Error::new(Code::Forbidden, "you have no passkey that is enrolled here")
                .hint("register one at /approvals/passkeys and let an admin enrol it"));
        }
        let now_ms = clock::now_ms();
        let until_ms = stored.expires_ms.unwrap_or(now_ms).min(now_ms + PATIENCE_MS);
        let rules = self.tenant(&stored.tenant)?.rules();
        let pending = Pending::restore(&stored, None)?;
        let nonce = clock::random()?;
        let summary = self.summary(&stored, &row, &self.exchanges(&stored).await?)?;
        let terms = Terms {
            approver: caller.subject.as_str(),
            comment: comment.as_deref(),
            limits,
            nonce,
            expires_at: clock::timestamp(until_ms),
            summary: summary_of(&pending, &summary, &nonce)?,
            bindings: bindings(&stored, &pending.row, &rules),
        };
        let envelope = envelope(&stored, &pending, &escalation, terms)?;
        let unfit = |_: receipt::Error| internal("an envelope cannot be written");
        let question = Question {
            challenge: envelope.challenge().map_err(unfit)?,
            envelope: envelope.to_json().map_err(unfit)?,
            expires_at: envelope.expires_at.as_str().to_owned(),
            rp_id: party.id,
            credentials,
        };
        let waiting = Waiting {
            action: stored.id,
            of: (caller.tenant.clone(), caller.subject.clone()),
            comment,
            envelope,
            shown: Shown::of(&stored, &row, &escalation).digest()?,
            until_ms,
        };
        self.questions.keep(question.challenge, waiting);
        Ok(question)
    }

    /// Agrees to a held action with a passkey's signature over the envelope of [`Gateway::ask_to_sign`].
    ///
    /// # Errors
    /// As [`Gateway::approve`]; `EP_STATE_CONFLICT` too if the question has lapsed or the action has changed since,
    /// `EP_VALIDATION_FAILED` saying what is wrong with the signature.
    pub async fn approve_signed(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        assertion: Assertion,
    ) -> Result<HeldView, Error> {
        self.say(caller, id, Word::Signed(assertion)).await
    }

    /// A yes is of the rules by which people were asked. Where those are no longer the rules it would be given in vain, by a
    /// key as by a passkey, so the action is judged again first and people look again.
    pub(super) async fn under_rules_of_now(
        self: &Arc<Self>,
        stored: &Stored,
        row: &IntentRow,
        escalation: &EscalationRow,
    ) -> Result<(), Error> {
        let rules = self.tenant(&stored.tenant)?.rules();
        let Some(changed) = changed(row, escalation, &rules) else { return Ok(()) };
        self.hold_anew(stored, row, escalation.clone()).await?;
        let why = format!("{} changed since this was asked; look again", changed.said());
        Err(Error::new(Code::StateConflict, why).hint(
            "it was judged by the rules of now: if it still waits, what is asked now takes one more yes",
        ))
    }

    /// What a person said by their signature.
    pub(super) async fn signed(
        &self,
        caller: &Caller,
        stored: &Stored,
        escalation: &EscalationRow,
        assertion: Assertion,
    ) -> Result<Said, Error> {
        let lapsed = || Error::new(Code::StateConflict, "this question has lapsed; look again and sign anew");
        let challenge = challenge_of(&assertion.client_data_json);
        let challenge: [u8; 32] = challenge.and_then(|it| it.try_into().ok()).ok_or_else(lapsed)?;
        let asked = self.questions.take(&challenge).ok_or_else(lapsed)?;
        let now_ms = clock::now_ms();
        let mine = asked.of == (caller.tenant.clone(), caller.subject.clone());
        if !mine || asked.action != stored.id || asked.until_ms <= now_ms {
            return Err(lapsed());
        }
        let wrong = || Error::new(Code::Forbidden, "this is not a passkey of yours that is enrolled here");
        let passkey = self.passkey_of(&assertion.credential_id).await?.ok_or_else(wrong)?;
        if !passkey.counts() || passkey.tenant != caller.tenant || !passkey.is_of(&caller.subject) {
            return Err(wrong());
        }
        let signed = assertion.verify(&challenge, &passkey.holder.party, &passkey.holder.public_key);
        signed.map_err(|refusal| refused(refusal).field("/assertion"))?;

        let pending = Pending::restore(stored, None)?;
        let summary = self.summary(stored, &pending.row, &self.exchanges(stored).await?)?;
        let rules = self.tenant(&stored.tenant)?.rules();
        let said = Said {
            form: action::ApprovalForm::Passkey.as_str().to_owned(),
            key_id: passkey.id.to_string(),
            limits: asked.envelope.limits.clone(),
            ..self.word(caller, stored, &pending.row, escalation, asked.comment.clone(), said::APPROVE)?
        };
        let terms = Terms {
            approver: caller.subject.as_str(),
            comment: asked.comment.as_deref(),
            limits: asked.envelope.limits.clone(),
            nonce: asked.envelope.nonce,
            expires_at: asked.envelope.expires_at,
            summary: summary_of(&pending, &summary, &asked.envelope.nonce)?,
            bindings: bindings(stored, &pending.row, &rules),
        };
        if said.shown != asked.shown || envelope(stored, &pending, escalation, terms)? != asked.envelope {
            let why = "the action has changed since it was shown; look again and sign anew";
            return Err(Error::new(Code::StateConflict, why));
        }
        let signer = Signer::Passkey { assertion, public_key: Some(passkey.holder.public_key) };
        let at = Timestamp::parse(&said.at).map_err(|_| internal("a time is not one"))?;
        let approval = Approval::new(asked.envelope, at, signer);
        let approval = approval.map_err(|_| internal("an approval cannot be written"))?;
        Ok(Said { signed: Some(crate::row::raw_json(approval.json())?), ..said })
    }
}

/// Did this person sign exactly what the action's row says? Answers with what they signed and by which passkey. What
/// the rules say by now is not asked here.
pub(super) fn holds<'a>(
    said: &Said,
    stored: &Stored,
    pending: &Pending,
    escalation: &EscalationRow,
    passkeys: &'a [Passkey],
) -> Option<(Envelope, &'a Passkey)> {
    let approval = Approval::parse(said.signed.as_ref()?.get().as_bytes()).ok()?;
    let Signer::Passkey { assertion, .. } = approval.signer() else { return None };
    let signed = approval.envelope();
    let passkey = passkeys.iter().find(|it| it.holder.credential_id == assertion.credential_id)?;
    let terms = Terms {
        approver: &said.approver,
        comment: said.comment.as_deref(),
        limits: said.limits.clone(),
        nonce: signed.nonce,
        expires_at: signed.expires_at,
        summary: signed.summary_digest.clone(),
        bindings: signed.binding_digests.clone(),
    };
    let same = envelope(stored, pending, escalation, terms).is_ok_and(|expected| expected == *signed);
    let challenge = signed.challenge().ok()?;
    let holds = same
        && passkey.holder.name == said.approver
        && approval.at().as_str() == said.at
        && approval.at() < signed.expires_at
        && assertion.verify(&challenge, &passkey.holder.party, &passkey.holder.public_key).is_ok();
    holds.then(|| (signed.clone(), passkey))
}

/// What of the rules changed since people were asked.
pub(super) fn changed(row: &IntentRow, escalation: &EscalationRow, rules: &Rules) -> Option<Changed> {
    let [policies, catalogue, _] = row.seen_under(Some(escalation));
    let now = rules.policies.policy_digest().to_string();
    Changed::between([policies, catalogue], [Some(&now), Some(rules.catalogue.digest())])
}

/// Does what was signed still name the rules that it would run under, by a passkey that still counts?
pub(super) fn still_fits(
    (signed, passkey): &(Envelope, &Passkey),
    (stored, row): (&Stored, &IntentRow),
    rules: &Rules,
) -> bool {
    passkey.counts()
        && signed.policy_digest == rules.policies.policy_digest().to_string()
        && signed.catalog_digest == rules.catalogue.digest()
        && signed.binding_digests == bindings(stored, row, rules)
}

fn envelope(
    stored: &Stored,
    pending: &Pending,
    escalation: &EscalationRow,
    terms: Terms<'_>,
) -> Result<Envelope, Error> {
    let row = &pending.row;
    let [policy_digest, catalog_digest, _] = row.seen_under(Some(escalation));
    let policies = escalation.triggers.iter().flat_map(|trigger| &trigger.policies);
    let policies = policies.map(|policy| format!("policy:{}", policy.id));
    let hidden = |member: &str, value: &str| hide(pending, &terms.nonce, member, value);
    Ok(Envelope {
        action_id: stored.id.to_string(),
        approver: hidden("approver", terms.approver)?,
        catalog_digest: catalog_digest.unwrap_or_default().to_owned(),
        comment: terms.comment.map(|comment| hidden("comment", comment)).transpose()?,
        constraints: constraints_of_waiting(row.entries.get())?,
        decision: Decision::Approve,
        escalation_id: said::escalation_id(stored.id, stored.round),
        policy_digest: policy_digest.unwrap_or_default().to_owned(),
        quote: row
            .amount
            .clone()
            .zip(row.currency.clone())
            .map(|(amount, currency)| Quote { amount, currency }),
        reasons: row.held_for.iter().cloned().chain(policies).collect(),
        request_hash: hex::encode(stored.request_hash),
        rollback: row.reversible.then(|| hidden("rollback", &how_undone(row)?)).transpose()?,
        binding_digests: terms.bindings,
        expires_at: terms.expires_at,
        limits: terms.limits,
        nonce: terms.nonce,
        summary_digest: terms.summary,
        v: V1,
    })
}

/// The commitment to everything that was put before the person.
fn summary_of(pending: &Pending, summary: &Summary, nonce: &[u8; 32]) -> Result<Commitment, Error> {
    hide(pending, nonce, "summary", &summary.text())
}

/// A value as its commitment, under a salt of its own for each nonce.
fn hide(pending: &Pending, nonce: &[u8; 32], member: &str, value: &str) -> Result<Commitment, Error> {
    let label = receipt::label(said::APPROVALS, &BASE64_URL_SAFE_NO_PAD.encode(nonce));
    let commitment = pending.salts()?.commit(&receipt::label(&label, member), &Json::string(value));
    Commitment::parse(&commitment).map_err(|_| internal("a commitment is not one"))
}

/// How it would be undone: by what the request brought, or as the catalogue says.
fn how_undone(row: &IntentRow) -> Result<String, Error> {
    let asked = row.atp()?.and_then(|atp| atp.rollback);
    Ok(asked.map_or_else(|| undo(true).to_owned(), |it| action::json::canonical(&it.to_value())))
}

/// What would be called, by purpose.
fn bindings(stored: &Stored, row: &IntentRow, rules: &Rules) -> BTreeMap<String, String> {
    let execute = rules.providers.get(&*stored.archetype).map(|it| ("execute", it));
    let atp = row.atp().ok().flatten();
    let rollback = atp.and_then(|atp| undone_by(rules, &atp)).map(|it| ("rollback", it));
    let named = execute.into_iter().chain(rollback);
    named.map(|(purpose, it)| (purpose.to_owned(), it.identity().to_owned())).collect()
}

impl Questions {
    fn keep(&self, challenge: [u8; 32], waiting: Waiting) {
        let mut open = self.open();
        let now_ms = clock::now_ms();
        open.retain(|_, other| other.until_ms > now_ms);
        let mut mine: Vec<([u8; 32], i64)> =
            open.iter().filter(|(_, it)| it.of == waiting.of).map(|(key, it)| (*key, it.until_ms)).collect();
        mine.sort_by_key(|(_, until_ms)| *until_ms);
        let too_many = (mine.len() + 1).saturating_sub(MOST_EACH);
        for (oldest, _) in mine.into_iter().take(too_many) {
            open.remove(&oldest);
        }
        open.insert(challenge, waiting);
    }

    /// Each is answered once, rightly or not.
    fn take(&self, challenge: &[u8; 32]) -> Option<Waiting> {
        self.open().remove(challenge)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<[u8; 32], Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
