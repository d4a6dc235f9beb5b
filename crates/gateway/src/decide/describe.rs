//! What was decided, as it will stand in the receipt and in the ledger.

use std::collections::BTreeMap;

use boundary::{Decision, Verdict};
use ledger::Stored;
use receipt::{Chain, Json, NewEntry, Salts, Stage};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::case::Case;
use crate::approvals::constraints_of;
use crate::gateway::Gateway;
use crate::pending::{CONSTRAINTS, Described, Pending, conceal, describe};
use crate::prove::push;
use crate::request::Arrival;
use crate::row::{IntentRow, KeepingRow, ObservedRow, internal, kept, raw};
use crate::{Error, clock};

/// A judged case on its way to the ledger.
pub(super) struct Judged {
    pub chain: Chain,
    pub row: IntentRow,
}

impl Gateway {
    /// The entries of a decision and the row that goes with them.
    pub(super) fn describe_case(
        &self,
        case: &Case<'_>,
        decision: Decision,
    ) -> Result<(Judged, Verdict), Error> {
        let cycle = case.cycle.as_ref().and_then(|cycle| cycle.row(&decision));
        let Decision { verdict, stages, observed, record, .. } = decision;
        let salts = Salts::new(&case.salt);
        let constraints = conceal(&case.action, &salts)?;
        let chain = chain_of(&case.asked.arrival, &case.request_hash, stages, &constraints)?;
        let (keeping, regulations) = self.kept_under(case);
        let judged_hash = self.judged_hash(case, &constraints, keeping.as_ref(), &regulations)?;
        let mandate_id = case.standing.mandate.as_ref().map(|mandate| mandate.jti.as_str());
        let described = Described {
            action: &case.action,
            salt: &case.salt,
            mandate_id,
            correlation_id: &case.asked.ask.request_id,
            action_hash: &judged_hash,
            rules: case.asked.rules,
            keeping: keeping.as_ref(),
            regulations: &regulations,
        };
        let mut row = describe(&described, &chain, None)?;
        row.observed =
            observed.map(|it| ObservedRow { would_be: it.would_be.to_owned(), code: it.code.to_owned() });
        if let Some(resumed) = &case.resumed {
            let triggers = resumed.escalation.iter().flat_map(|escalation| &escalation.triggers);
            row.held_for = triggers.map(|trigger| trigger.word.clone()).collect();
            row.escalation = resumed.escalation.clone();
            row.approvals = resumed.shown.clone();
            if let Some(before) = &resumed.before {
                row.attempts = before.attempts.clone();
                row.words = before.words.clone();
                row.reservation = before.reservation.clone();
                row.steered_by = before.steered_by.clone();
            }
        }
        row.cycle = cycle.map(Box::new);
        let record = String::from_utf8(record.to_bytes()).map_err(|_| internal("a record is not text"))?;
        row.record = Some(raw(record)?);
        Ok((Judged { chain, row }, verdict))
    }

    /// How long it is kept and what it falls under: as of when it came in.
    fn kept_under(&self, case: &Case<'_>) -> (Option<KeepingRow>, Vec<String>) {
        match &case.resumed {
            Some(resumed) => (resumed.keeping.clone(), resumed.regulations.clone()),
            None => {
                let needed = self.needed(case.asked.rules, &case.action);
                (KeepingRow::of(case.action.keeping(needed)), case.action.regulations())
            }
        }
    }

    fn judged_hash(
        &self,
        case: &Case<'_>,
        constraints: &Json,
        keeping: Option<&KeepingRow>,
        regulations: &[String],
    ) -> Result<[u8; 32], Error> {
        let record = ActionRecord {
            action_id: case.id.to_string(),
            agent_id: case.asked.caller.subject.as_str(),
            archetype: &case.action.archetype.name,
            atp: committed(&case.salt, kept(case.action.atp.as_deref())?.as_deref()),
            constraints,
            guarantee_level: case.action.guarantee_level.as_str(),
            keeping,
            mandate_id: case.standing.mandate.as_ref().map(|mandate| mandate.jti.as_str()),
            payment_mode: case.action.payment_mode.as_str(),
            regulations,
            request_hash: hex::encode(case.request_hash),
            tenant: case.asked.caller.tenant.as_str(),
        };
        record.hash()
    }
}

/// What [`IntentRow::judged_hash`] must be, made anew from all that goes into it: what was asked is also compared with its
/// commitments. `None` where the action was refused before anything was committed to.
pub(crate) fn judged_hash_of(stored: &Stored, row: &IntentRow) -> Option<Option<[u8; 32]>> {
    let Ok(Some(constraints)) = constraints_of(row.entries.get()) else { return None };
    let record = ActionRecord {
        action_id: stored.id.to_string(),
        agent_id: stored.subject.as_str(),
        archetype: &stored.archetype,
        atp: salt_of(row).and_then(|salt| committed(&salt, row.atp.as_deref())),
        constraints: &constraints,
        guarantee_level: &row.guarantee_level,
        keeping: row.keeping.as_ref(),
        mandate_id: row.mandate_id.as_deref(),
        payment_mode: &row.payment_mode,
        regulations: &row.regulations,
        request_hash: hex::encode(stored.request_hash),
        tenant: stored.tenant.as_str(),
    };
    Some(record.hash().ok().filter(|_| commits_to(&constraints, row).unwrap_or(false)))
}

/// Does each member shown, or committed to, stand for the one that is kept?
fn commits_to(shown: &Json, row: &IntentRow) -> Option<bool> {
    let salts = salts_of(row)?;
    let shown: BTreeMap<String, Value> = serde_json::from_str(shown.as_str()).ok()?;
    let kept: BTreeMap<String, Value> = serde_json::from_str(row.constraints.get()).ok()?;
    let fits = kept.iter().all(|(name, value)| {
        let committed =
            || Some(salts.commit(&receipt::label(CONSTRAINTS, name), &Json::canonical(value).ok()?));
        shown.get(name).is_some_and(|it| it == value || it.as_str() == committed().as_deref())
    });
    Some(fits && shown.len() == kept.len())
}

/// The salts of all that an action commits to, by its row.
pub(crate) fn salts_of(row: &IntentRow) -> Option<Salts> {
    salt_of(row).map(|salt| Salts::new(&salt))
}

fn salt_of(row: &IntentRow) -> Option<[u8; 32]> {
    let mut salt = [0; 32];
    hex::decode_to_slice(&row.salt, &mut salt).ok()?;
    Some(salt)
}

fn committed(salt: &[u8; 32], atp: Option<&RawValue>) -> Option<String> {
    Some(Salts::new(salt).commit("atp", &Json::parse(atp?.get().as_bytes()).ok()?))
}

/// Takes a case back from the way to the ledger.
pub(super) fn judged_again(pending: Pending) -> Judged {
    let Pending { mut row, chain, .. } = pending;
    row.call = None;
    Judged { chain, row }
}

/// The action as the ledger's chain knows it, values committed; members in JCS order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActionRecord<'a> {
    action_id: String,
    agent_id: &'a str,
    archetype: &'a str,
    /// A commitment to what only the request's envelope said.
    #[serde(skip_serializing_if = "Option::is_none")]
    atp: Option<String>,
    constraints: &'a Json,
    guarantee_level: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    keeping: Option<&'a KeepingRow>,
    mandate_id: Option<&'a str>,
    payment_mode: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    regulations: &'a [String],
    request_hash: String,
    tenant: &'a str,
}

impl ActionRecord<'_> {
    fn hash(&self) -> Result<[u8; 32], Error> {
        let bytes = serde_json::to_vec(self).map_err(|_| internal("an action record cannot be written"))?;
        Ok(Sha256::digest(bytes).into())
    }
}

/// Genesis and one entry for each stage that ran. The schema stage shows what was asked, with what is private hidden.
pub(super) fn chain_of(
    arrival: &Arrival,
    request_hash: &[u8; 32],
    stages: Vec<boundary::Stage>,
    constraints: &Json,
) -> Result<Chain, Error> {
    #[derive(Serialize)]
    struct Began {
        #[serde(rename = "requestHash")]
        request_hash: String,
    }
    let began = Began { request_hash: hex::encode(request_hash) };
    let genesis =
        Json::of(&began).map(|output| NewEntry { output, ..NewEntry::at(clock::timestamp(arrival.at_ms)) });
    let mut chain = genesis.and_then(Chain::genesis).map_err(|_| internal("a chain cannot begin"))?;
    let at = clock::now();
    for found in stages {
        let stage = stage_of(found.name);
        push(&mut chain, stage, || {
            let input = match &found.input {
                boundary::Input::Archetype { archetype, catalog_digest } if stage == Stage::Schema => {
                    Json::of(&Looked { archetype, catalog_digest, constraints })?
                }
                other => Json::of(other)?,
            };
            Ok(NewEntry {
                input,
                output: Json::of(&found.output)?,
                error: found.error.as_ref().map(Json::of).transpose()?.unwrap_or_default(),
                ..NewEntry::at(at)
            })
        })?;
    }
    Ok(chain)
}

/// Input of the stage `schema`, members in JCS order.
#[derive(Serialize)]
struct Looked<'a> {
    archetype: &'a str,
    #[serde(rename = "catalogDigest")]
    catalog_digest: &'a str,
    constraints: &'a Json,
}

fn stage_of(name: boundary::StageName) -> Stage {
    match name {
        boundary::StageName::TokenValidation => Stage::TokenValidation,
        boundary::StageName::Schema => Stage::Schema,
        boundary::StageName::Boundary => Stage::Boundary,
        boundary::StageName::Completeness => Stage::Completeness,
        boundary::StageName::Math => Stage::Math,
    }
}
