use super::{Approval, Approver, Assertion, Decision, Quote, Signer};
use crate::canonical::Scanner;
use crate::draft::Kind;
use crate::verify::Trust;
use crate::{Document, Failure, Json, Stage, VerifyingKey};

/// What is known of an approval in which nothing is wrong.
pub(crate) enum Standing {
    /// A pinned person signed it.
    Verified(String),
    /// The key that the receipt names signed it; whose that is, is not known.
    Unpinned,
    /// Nothing is known to check the signature with.
    NoKey,
    /// There is no signature.
    KeyOnly,
}

/// Does the approval at `index` belong to this receipt, and is it signed by whom it should be?
///
/// # Errors
/// A [`Failure`] naming the approval.
pub(crate) fn standing(
    document: &Document<'_>,
    index: usize,
    trust: &Trust<'_>,
) -> Result<Standing, Failure> {
    let approval = &document.content.metadata.approvals[index];
    let failure = |why: String| Failure::member(&format!("metadata.approvals[{index}]"), why);
    fits(document, approval).map_err(failure)?;
    is_new(&document.content.metadata.approvals[..index], approval, trust).map_err(failure)?;
    let Signer::Passkey { assertion, public_key } = approval.signer() else { return Ok(Standing::KeyOnly) };
    let challenge = approval.envelope().challenge().map_err(|error| failure(error.to_string()))?;
    match (trust.approvers.holder(&assertion.credential_id), public_key) {
        (Some(person), named) => {
            is_theirs(person, named.as_ref()).map_err(failure)?;
            is_disclosed_as(document, index, person, trust).map_err(failure)?;
            let signed = assertion.verify(&challenge, &person.party, &person.public_key);
            signed.map_err(|refusal| failure(format!("not signed by `{}`: {refusal}", person.name)))?;
            Ok(Standing::Verified(person.name.clone()))
        }
        (None, _) if !trust.approvers.is_empty() => {
            Err(failure(format!("credential `{}` is none of the pinned approvers'", approval.signer().id())))
        }
        (None, Some(key)) => {
            let signed = assertion.check(&challenge, None, key);
            signed.map_err(|refusal| failure(refusal.to_string()))?;
            Ok(Standing::Unpinned)
        }
        (None, None) => Ok(Standing::NoKey),
    }
}

/// Whether people had to agree, and did.
pub(crate) enum Consent {
    /// Nothing says that anybody had to.
    NotNeeded,
    /// A pinned person signed.
    Proven,
}

/// Did a person agree to an action that needed one? `proven` says whether the receipt has an approval that a pinned person
/// signed.
///
/// That one was needed shows in the receipt in two ways: in its guarantee level, which always takes a person, and in its
/// entry `boundary`, which names the reasons that people agreed to or were to be asked for. Amendments list no approvals,
/// and of what was never sent none is missing.
///
/// # Errors
/// A [`Failure`] if one was needed and none is proven.
pub(crate) fn consent(document: &Document<'_>, proven: bool) -> Result<Consent, Failure> {
    let content = &document.content;
    let acted = match content.metadata.kind {
        Kind::Executed | Kind::PendingSettlement => true,
        Kind::Failed => said(document, Stage::Execute, "providerKey").is_some(),
        Kind::Blocked => false,
    };
    if content.event.amendment_of().is_some() || !acted {
        return Ok(Consent::NotNeeded);
    }
    let found = |member: &str| {
        let entry = document.entries.iter().find(|entry| entry.stage == Stage::Boundary)?;
        Scanner::new(entry.output).value_and_member(member).ok()?.1
    };
    let asked =
        found("approved").is_some_and(|reasons| reasons != "[]") || found("verdict") == Some("\"escalate\"");
    let level = content.metadata.guarantee_level.as_deref();
    let level = level.is_some_and(|level| level.eq_ignore_ascii_case(ALWAYS_APPROVED));
    match (level || asked, proven) {
        (false, _) => Ok(Consent::NotNeeded),
        (true, true) => Ok(Consent::Proven),
        (true, false) => {
            let what =
                if content.metadata.approvals.is_empty() { "lists none" } else { "has none that is proven" };
            let why = format!("{what}, and the action needed a person who agrees");
            Err(Failure::member("metadata.approvals", why))
        }
    }
}

/// The guarantee level at which every action waits for a person.
const ALWAYS_APPROVED: &str = "atp-3";

/// Everything that the envelope and the receipt both say, they say alike.
fn fits(document: &Document<'_>, approval: &Approval) -> Result<(), String> {
    let content = &document.content;
    let envelope = approval.envelope();
    if envelope.action_id != content.transaction_id {
        return Err(format!("its envelope is of action `{}`, not of this one", envelope.action_id));
    }
    for (stage, member, of_envelope) in [
        (Stage::Genesis, "requestHash", Json::string(&envelope.request_hash)),
        (Stage::Schema, "catalogDigest", Json::string(&envelope.catalog_digest)),
        (Stage::Schema, "constraints", envelope.constraints.clone()),
        (Stage::Boundary, "policyDigest", Json::string(&envelope.policy_digest)),
    ] {
        if said(document, stage, member) != Some(of_envelope.as_str()) {
            return Err(format!("its envelope has another `{member}` than the entry `{stage}`"));
        }
    }
    let offer = content.money.offer_amount.as_deref().zip(content.money.offer_currency.as_deref());
    let quoted = |quote: &Quote| Some((quote.amount.as_str(), quote.currency.as_str())) == offer;
    if !envelope.quote.as_ref().is_none_or(quoted) {
        return Err("the price in its envelope is not the one offered".to_owned());
    }
    let most = envelope.limits.as_ref().and_then(|limits| limits.max_amount.as_ref());
    let within = |most: &Quote| {
        offer.is_none_or(|(amount, currency)| currency == most.currency && is_at_most(amount, &most.amount))
    };
    if envelope.decision == Decision::Approve && !most.is_none_or(within) {
        return Err("the price offered is above what the person agreed to".to_owned());
    }
    // Of a refusal a receipt may say who caused it.
    if envelope.decision == Decision::Reject && content.metadata.kind != Kind::Blocked {
        return Err("the person rejected the action".to_owned());
    }
    if approval.at() >= envelope.expires_at {
        return Err(format!("it was given after it had expired at {}", envelope.expires_at));
    }
    if approval.at() > document.created {
        return Err("it is younger than the receipt".to_owned());
    }
    Ok(())
}

/// Of two decimal strings that are not negative.
fn is_at_most(amount: &str, most: &str) -> bool {
    let parts = |text: &str| {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        (whole.trim_start_matches('0').to_owned(), part.trim_end_matches('0').to_owned())
    };
    let ((amount, fraction), (most, most_fraction)) = (parts(amount), parts(most));
    (amount.len(), &amount, &fraction) <= (most.len(), &most, &most_fraction)
}

/// What the entry of a stage says under that name, in the member where the gateway writes it.
fn said<'a>(document: &Document<'a>, stage: Stage, member: &str) -> Option<&'a str> {
    let entry = document.entries.iter().find(|entry| entry.stage == stage)?;
    let within = if stage == Stage::Genesis { entry.output } else { entry.input };
    Scanner::new(within).value_and_member(member).ok()?.1
}

/// Nobody counts twice for one question, and no nonce is used twice.
fn is_new(earlier: &[Approval], approval: &Approval, trust: &Trust<'_>) -> Result<(), String> {
    let of = |approval: &Approval| (approval.envelope().escalation_id.clone(), person(approval, trust));
    let nonce = |approval: &Approval| approval.envelope().nonce;
    let again = |other: &Approval| of(other) == of(approval) || nonce(other) == nonce(approval);
    match earlier.iter().position(again) {
        Some(index) => Err(format!(
            "it counts no more than `metadata.approvals[{index}]`: the same person, or the same nonce"
        )),
        None => Ok(()),
    }
}

/// Who spoke, as far as that is known.
fn person(approval: &Approval, trust: &Trust<'_>) -> String {
    match approval.signer() {
        Signer::Passkey { assertion: Assertion { credential_id, .. }, .. } => {
            let pinned = trust.approvers.holder(credential_id);
            pinned.map_or_else(|| approval.signer().id(), |person| person.name.clone())
        }
        Signer::Key { id } => id.clone(),
    }
}

fn is_theirs(person: &Approver, named: Option<&VerifyingKey>) -> Result<(), String> {
    match named {
        Some(key) if *key != person.public_key => {
            Err(format!("the receipt names another key than the one pinned for `{}`", person.name))
        }
        _ => Ok(()),
    }
}

/// If it is disclosed whom the envelope names, it is the holder of the credential.
fn is_disclosed_as(
    document: &Document<'_>,
    index: usize,
    person: &Approver,
    trust: &Trust<'_>,
) -> Result<(), String> {
    let path = format!("/metadata/approvals/{index}/envelope/approver");
    let mut disclosed = trust.disclosures.of(&document.content.receipt_id).iter();
    match disclosed.find(|one| one.stage.is_none() && one.path == path) {
        Some(one) if one.value != Json::string(&person.name) => {
            Err(format!("its envelope names {}, but `{}` signed", one.value, person.name))
        }
        _ => Ok(()),
    }
}
