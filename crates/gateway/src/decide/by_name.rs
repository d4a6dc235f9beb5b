//! What is denied by bare name, before catalogue and schema are asked.

use std::sync::Arc;

use action::{AskedKeeping, Atp, IdempotencyKey, Keeping, Period, Request};
use boundary::{Decision, Named, Verdict};
use ledger::{FactsQuery, State};
use receipt::Json;
use sha2::{Digest, Sha256};

use super::Asked;
use super::case::judged_caller;
use super::cycle::no_cycle;
use super::describe::chain_of;
use super::reasons::{code_of, details_of};
use super::refuse::why;
use crate::atp::Names;
use crate::gateway::Gateway;
use crate::pending::{Pending, entries};
use crate::remember::{Row, outward, unavailable};
use crate::request::Answer;
use crate::row::{IntentRow, KeepingRow, VERSION, internal, kept, raw};
use crate::{Error, clock};

impl Gateway {
    /// Blocks by bare name: neither catalogue nor schema is asked.
    pub(crate) async fn deny_by_name(
        &self,
        asked: &Asked<'_>,
        request: &Request,
        (archetype, verb, target): Names<'_>,
    ) -> Result<Answer, Error> {
        let governed = self.session_named(asked.caller, request.session_id.as_deref()).await?;
        let standing =
            self.standing_in(governed.as_ref(), asked, request.delegation_token.as_deref()).await?;
        if let (None, Some(words)) = (&governed, &request.cycle) {
            return Err(no_cycle(words));
        }
        let caller = judged_caller(asked.caller);
        let named = Named {
            environment: self.environment,
            archetype,
            verb,
            target,
            caller: &caller,
            mandate: standing.mandate.as_deref(),
            observe: false,
        };
        let Some(decision) = boundary::decide_by_name(&asked.rules.policies, &named) else {
            return Err(internal("a denied name was not denied"));
        };
        if asked.ask.dry_run {
            return self.say_dry(asked, &decision);
        }
        let id = clock::new_id(asked.arrival.at_ms)?;
        let (cycle, cycle_row) = match &governed {
            Some(governed) => {
                let (cycle, row) = self.denied_cycle(governed, &standing, request, id, &decision).await?;
                (Some(cycle), Some(Box::new(row)))
            }
            None => (None, None),
        };
        let Decision { verdict, stages, record, .. } = decision;
        let Verdict::Block(reason) = verdict else { return Err(internal("a denied name was not blocked")) };
        let halts = governed.as_ref().map(|it| self.halts(it, reason.class())).transpose()?.flatten();
        let request_hash = request.hash(&asked.tenant.hmac);
        let (archetype, principal): (Arc<str>, Arc<str>) =
            (request.archetype.as_str().into(), asked.caller.subject.as_str().into());
        let chain = chain_of(&asked.arrival, &request_hash, stages, &Json::NULL)?;
        let action_hash: [u8; 32] = Sha256::digest([&request_hash[..], archetype.as_bytes()].concat()).into();
        let row = IntentRow {
            mandate_id: standing.mandate.as_ref().map(|mandate| mandate.jti.clone()),
            action_hash: hex::encode(action_hash),
            entries: entries(&chain)?,
            cycle: cycle_row,
            record: Some(raw(
                String::from_utf8(record.to_bytes()).map_err(|_| internal("a record is not text"))?
            )?),
            ..as_asked(asked, request, self.kept_anyway())?
        };
        let pending = Pending {
            id,
            tenant: asked.caller.tenant.clone(),
            subject: asked.caller.subject.clone(),
            key: asked.key.map(|key| key.as_str().into()),
            archetype: Arc::clone(&archetype),
            at_ms: asked.arrival.at_ms,
            money: None,
            name: [0; 32],
            row,
            chain,
            told: None,
            by: ledger::By::Holder(1),
            settled: false,
            word: None,
            earlier: None,
            late: false,
            halts,
            doubt: None,
        };
        let row = Row {
            id: pending.id,
            tenant: asked.tenant,
            caller: asked.caller,
            key: asked.key.map(IdempotencyKey::as_str),
            request_hash: &request_hash,
            archetype: &archetype,
            provider: None,
            principal: &principal,
            at_ms: asked.arrival.at_ms,
            amount: None,
            event: "refused",
            state: Some(outward(State::Refused)),
        };
        let code = code_of(&reason);
        if let Some(answer) = self.already_answered(&row).await? {
            return Ok(answer);
        }
        let details = details_of(&reason);
        let why = why(code, &details, request.delegation_token.as_deref());
        if cycle.is_none()
            && let Some(answer) = self.repeats(&row, &pending, (code, &why)).await?
        {
            return Ok(answer);
        }
        let ending = self.blocked(pending.chain.clone(), code, details);
        let answer = self.refuse(&row, &pending, why, ending, (cycle, &asked.ask.wait)).await?;
        if let Some(governed) = &governed {
            self.end_stopped(governed).await;
        }
        Ok(answer)
    }

    /// A key that was used before is answered as it was then, before anything is counted as a repetition.
    async fn already_answered(&self, row: &Row<'_>) -> Result<Option<Answer>, Error> {
        let facts = self
            .ledger
            .facts(FactsQuery {
                apart_from: None,
                tenant: &row.caller.tenant,
                environment: self.environment,
                subject: &row.caller.subject,
                key: row.key,
                request_hash: row.request_hash,
                archetype: row.archetype,
                provider: None,
                principal: row.principal,
                currency: None,
                destination: None,
                mandates: &[],
                effect: None,
                now_ms: row.at_ms,
            })
            .await
            .map_err(unavailable)?;
        match facts.existing {
            Some(existing) => self.answer_again(row.tenant, existing).await.map(Some),
            None => Ok(None),
        }
    }
}

/// The payload of a request that met no archetype: what it asks for, and nothing about a decision.
fn as_asked(asked: &Asked<'_>, request: &Request, needed: Option<Period>) -> Result<IntentRow, Error> {
    let salt: [u8; 32] = clock::random()?;
    let payment_mode = request.payment_mode.unwrap_or(action::PaymentMode::ImmediateCharge);
    let guarantee_level = request.guarantee_level.unwrap_or(action::GuaranteeLevel::Atp1);
    Ok(IntentRow {
        v: VERSION,
        mandate_id: None,
        constraints: raw(action::json::canonical(&request.constraints))?,
        salt: hex::encode(salt),
        amount: None,
        currency: None,
        payment_mode: payment_mode.as_str().to_owned(),
        guarantee_level: guarantee_level.as_str().to_owned(),
        reversible: false,
        deadline_ms: request.deadline_ms,
        session_id: request.session_id.clone(),
        human_approver: request.human_approver.as_ref().map(ToString::to_string),
        client: request.client.clone(),
        policy_digest: Some(asked.rules.policies.policy_digest().to_string()),
        catalog_digest: Some(asked.rules.catalogue.digest().to_owned()),
        entity_digest: Some(asked.rules.policies.entity_digest().to_string()),
        observed: None,
        correlation_id: asked.ask.request_id.clone(),
        action_hash: String::new(),
        entries: raw("[]".to_owned())?,
        call: None,
        attempts: Vec::new(),
        retry: None,
        snapshot: None,
        check: None,
        reservation: None,
        words: Vec::new(),
        rollback: None,
        undone_by: None,
        held_for: Vec::new(),
        repeat_of: None,
        escalation: None,
        approvals: Vec::new(),
        earlier_transaction: None,
        atp: kept(request.atp.as_deref())?,
        record: None,
        cycle: None,
        keeping: KeepingRow::of(asked_for(request, needed)),
        regulations: Atp::regulations(request.atp.as_deref(), &[]),
        steered_by: Vec::new(),
    })
}

/// How long it is to be kept where no archetype has a say. What cannot both be is as if nothing was asked.
fn asked_for(request: &Request, needed: Option<Period>) -> Keeping {
    let asked = AskedKeeping { retention: request.retention, deletion: request.deletion };
    Keeping::default().tightened(asked, needed).unwrap_or_default()
}
