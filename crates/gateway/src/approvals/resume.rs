//! Going on with what was approved, or is to be sent once more: judged again, admitted, carried out and proved by the same
//! path as every action.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use action::{Action, ActionId, HmacKey, IdempotencyKey, Request, Tenant};
use boundary::Approved;
use execution::Stood;
use ledger::{Basis, By, State, Stored};
use provider::Provider;
use serde_json::json;

use super::passkeys::Passkey;
use super::said::{self, KEY, Said, Shown};
use super::signed;
use crate::act::{Said as Heard, UnderWay, lock};
use crate::atp;
use crate::caller::{Caller, Role};
use crate::crash::Point;
use crate::decide::{Asked, Before, Own, Resumed};
use crate::forgotten::is_done;
use crate::gateway::Gateway;
use crate::late;
use crate::pending::Pending;
use crate::pursue::not_offered;
use crate::redress;
use crate::remember::unavailable;
use crate::request::{Arrival, Ask, Next, refused};
use crate::row::{EscalationRow, IntentRow, internal};
use crate::tenants::{Rules, TenantState};
use crate::{Code, Error, clock};

impl Gateway {
    /// Goes on with an approved action, in a task of its own, unless one is at it.
    pub(crate) fn resume(self: &Arc<Self>, tenant: &Tenant, id: ActionId) {
        let Some(under_way) = self.look_after_alone(id) else { return };
        let (gateway, tenant) = (Arc::clone(self), tenant.clone());
        tokio::spawn(async move { gateway.resume_marked(&tenant, id, under_way).await });
    }

    /// The same, once whoever has it wait once more has let go of it: the timer would find it only later.
    pub(crate) fn resume_in_turn(self: &Arc<Self>, tenant: &Tenant, id: ActionId) {
        let (gateway, tenant) = (Arc::clone(self), tenant.clone());
        tokio::spawn(async move {
            if let Ok(under_way) = gateway.alone_with(id).await {
                gateway.resume_marked(&tenant, id, under_way).await;
            }
        });
    }

    async fn resume_marked(self: &Arc<Self>, tenant: &Tenant, id: ActionId, under_way: UnderWay) {
        match Box::pin(self.resume_one(tenant, id, under_way)).await {
            Ok(()) => drop(lock(&self.inquiries).remove(&id)),
            Err(error) if error.code == Code::StateConflict && !is_done(&error) => {}
            Err(error) => {
                // It stays approved: tried again until its time is over.
                tracing::warn!(action = %id, %error, "an approved action could not be resumed");
                self.ask_later(id);
            }
        }
    }

    async fn resume_one(
        self: &Arc<Self>,
        tenant: &Tenant,
        id: ActionId,
        under_way: UnderWay,
    ) -> Result<(), Error> {
        let tenant = self.tenant(tenant)?;
        let stored = self.ledger.action(&tenant.tenant, id).await.map_err(unavailable)?;
        // What expired meanwhile is not carried out; it is ended where everything is that expires.
        let goes_on =
            |stored: &Stored| stored.state == State::Approved && !stored.has_expired(clock::now_ms());
        let Some(stored) = stored.filter(goes_on) else { return Ok(()) };
        self.at(Point::ResumeBefore)?;
        let pending = Pending::restore(&stored, None)?;
        let rules = tenant.rules();
        let offered = self.as_offered(tenant, &stored, &pending.row, &rules).await?;
        let Some((action, provider)) = offered else { return Ok(()) };
        let resumed = self.resumed(&stored, &pending, &action, &rules, under_way).await?;
        match self.judge_as_asked(tenant, &rules, (&stored, &pending.row), action, provider, resumed).await? {
            Next::Said(_) | Next::NotNow(_) => {}
            Next::Admitted(errand) => self.carry_out(errand, Heard::nobody()).await,
        }
        Ok(())
    }

    /// Judges anew what waits for people, under the rules of now, and has it wait once more for what they ask about it.
    /// Nothing is sent, whatever they say; what they forbid ends.
    pub(super) async fn hold_anew(
        self: &Arc<Self>,
        stored: &Stored,
        row: &IntentRow,
        escalation: EscalationRow,
    ) -> Result<(), Error> {
        let until_ms = stored.expires_ms.unwrap_or(stored.at_ms);
        self.hold_until(stored, row, escalation, until_ms).await
    }

    /// The same of what people agreed to and was carried out in a stretch that the store has lost, and has expired since: for as long as
    /// at first, so that what they say of it is on record.
    pub(crate) async fn hold_what_was_done(self: &Arc<Self>, stored: &Stored) -> Result<(), Error> {
        let row = IntentRow::of(stored)?;
        let escalation =
            row.escalation.clone().ok_or_else(|| internal("an action that waits was not escalated"))?;
        let wait_ms = i64::try_from(self.config.limits.held_seconds).unwrap_or(i64::MAX / 1000);
        let until_ms = clock::now_ms().saturating_add(wait_ms.saturating_mul(1000));
        self.hold_until(stored, &row, escalation, until_ms).await
    }

    async fn hold_until(
        self: &Arc<Self>,
        stored: &Stored,
        row: &IntentRow,
        escalation: EscalationRow,
        until_ms: i64,
    ) -> Result<(), Error> {
        // Whoever is at it does the same.
        let Some(under_way) = self.look_after_alone(stored.id) else { return Ok(()) };
        let tenant = self.tenant(&stored.tenant)?;
        let rules = tenant.rules();
        let offered = self.as_offered(tenant, stored, row, &rules).await?;
        let Some((action, provider)) = offered else { return Ok(()) };
        let resumed = Resumed {
            basis: match stored.state {
                State::Approved => Basis::Approved { round: stored.round },
                _ => Basis::Held { round: stored.round },
            },
            until_ms,
            only_asks: true,
            escalation: Some(escalation.seen_in(row)),
            ..not_asked(stored, row, under_way)
        };
        match self.judge_as_asked(tenant, &rules, (stored, row), action, provider, resumed).await? {
            Next::Said(_) | Next::NotNow(_) => Ok(()),
            Next::Admitted(_) => Err(internal("an action that nobody agreed to was admitted")),
        }
    }

    /// The request as it came in, under the rules of now. What waits and is no longer offered ends.
    async fn as_offered(
        &self,
        tenant: &TenantState,
        stored: &Stored,
        row: &IntentRow,
        rules: &Rules,
    ) -> Result<Option<(Action, Arc<dyn Provider>)>, Error> {
        match self.as_asked(tenant, stored, row, rules) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.code == Code::Unavailable => Err(error),
            Err(error) => {
                self.must_not_be_done(stored).await?;
                tracing::info!(action = %stored.id, %error, "an action that waits is no longer offered");
                self.end_waiting(stored, Code::BoundaryBlock, "no_longer_offered", None).await.map(|()| None)
            }
        }
    }

    /// Judges an action anew that was sent before: it may be sent again, or not now. What people agreed to still counts.
    pub(crate) async fn judge_once_more(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        rules: &Rules,
        stored: &Stored,
        pending: &Pending,
        under_way: UnderWay,
    ) -> Result<Next, Error> {
        if self.earlier_effects(pending).await?.is_some() {
            return Ok(Next::NotNow(late::carried_out()));
        }
        let (action, provider) = match self.as_asked(tenant, stored, &pending.row, rules) {
            Ok(found) => found,
            Err(error) if error.code == Code::Unavailable => return Err(error),
            Err(error) => {
                tracing::info!(action = %stored.id, %error, "an action that was sent before is no longer offered");
                return Ok(Next::NotNow(not_offered()));
            }
        };
        // What it was authorised at is what it may be sent at; no price is asked for again.
        let action = match (action.money, pending.money) {
            (None, Some(money)) => action.with_quote(money),
            _ => action,
        };
        let call = pending.row.call.clone();
        let call = call.ok_or_else(|| internal("an action without a call cannot be sent again"))?;
        let (token, failed) = (stored.token, stored.state == State::Failed);
        let used = pending.row.cycle.as_ref().map(|cycle| cycle.used(1)).unwrap_or_default();
        let own = Own { counted_ms: stored.counted_ms, minor: stored.debit, used };
        let mut attempts = pending.row.attempts.clone();
        if failed {
            let mut over = call.over(clock::now_ms(), "failed", None);
            over.last_word = true;
            over.reservation = pending.row.reservation.clone();
            attempts.push(over);
        }
        let reservation = pending.row.reservation.clone().filter(|_| !failed);
        // Where its reservation stays, so do the words within.
        let words = match failed {
            true => pending.row.words_aside().cloned().collect(),
            false => pending.row.words.clone(),
        };
        let before = Before {
            stood: match (stored.state, stored.due_ms) {
                (State::Failed, _) => Stood::Failed,
                (State::Reserved, _) => match &reservation {
                    Some(reservation) => Stood::Reserved(reservation.read(pending.money)?),
                    None => return Err(internal("nothing is set aside")),
                },
                (State::Waiting, due_ms) => Stood::Waiting { due_ms: due_ms.unwrap_or(0) },
                (State::Sent | State::InDoubt, _) => Stood::InDoubt,
                _ => return Err(internal("an action is not to be sent once more")),
            },
            call,
            attempts,
            reservation,
            words,
            snapshot: pending.row.snapshot.clone(),
            steered_by: pending.row.steered_by.clone(),
            told: pending.told.clone(),
            own: (!failed).then_some(own),
        };
        let basis = if failed { Basis::Failed { token } } else { Basis::Sent { token } };
        let asked = match pending.row.escalation {
            Some(_) => self.resumed(stored, pending, &action, rules, under_way.clone()).await?,
            None => not_asked(stored, &pending.row, under_way),
        };
        let resumed = Resumed { basis, before: Some(before), ..asked };
        self.judge_as_asked(tenant, rules, (stored, &pending.row), action, provider, resumed).await
    }

    /// The request as it came in, under the rules of now.
    fn as_asked(
        &self,
        tenant: &TenantState,
        stored: &Stored,
        row: &IntentRow,
        rules: &Rules,
    ) -> Result<(Action, Arc<dyn Provider>), Error> {
        let archetype = rules.catalogue.get(&stored.archetype);
        let archetype =
            archetype.ok_or_else(|| refused(action::Refusal::unknown_archetype(&stored.archetype)))?;
        let mut body = json!({
            "archetype": &*stored.archetype,
            "constraints": serde_json::from_str::<serde_json::Value>(row.constraints.get())
                .map_err(|_| internal("stored constraints cannot be read"))?,
            "guarantee_level": row.guarantee_level,
            "payment_mode": row.payment_mode,
            "reversible": row.reversible,
            "client": row.client,
        });
        let optional = [
            ("retry_policy", row.retry.and_then(|retry| serde_json::to_value(retry).ok())),
            ("repeat_of", row.repeat_of.clone().map(Into::into)),
            ("session_id", row.session_id.clone().map(Into::into)),
            ("human_approver", row.human_approver.clone().map(Into::into)),
            ("delegation_token", self.public_token(row).map(Into::into)),
        ];
        for (member, value) in optional {
            if let Some(value) = value {
                body[member] = value;
            }
        }
        let atp = row.atp()?.map(Box::new);
        let deadline_ms = row.deadline_ms;
        let cycle = row.cycle.as_ref().map(|cycle| cycle.asked()).transpose()?.flatten().map(Box::new);
        let request = Request { atp, cycle, deadline_ms, ..Request::from_value(body).map_err(refused)? };
        if !was_asked(&request, stored, &tenant.hmac) {
            return Err(internal("a stored action is not the one that was asked for"));
        }
        let action = redress::action_of(&rules.catalogue, request, archetype)?;
        let provider = self.able_provider(rules, &action)?;
        Ok((action, provider))
    }

    /// What people said, held against what they were shown.
    async fn resumed(
        &self,
        stored: &Stored,
        pending: &Pending,
        action: &Action,
        rules: &Rules,
        under_way: UnderWay,
    ) -> Result<Resumed, Error> {
        let row = &pending.row;
        let escalation =
            row.escalation.clone().ok_or_else(|| internal("an approved action was not escalated"))?;
        let given = self.given_of(stored).await?;
        let records: Vec<Vec<u8>> = given.into_iter().map(|given| given.record).collect();
        let said: Vec<Said> = records.iter().map(|it| Said::from_bytes(it)).collect::<Result<_, _>>()?;
        let seen = Shown::of(stored, row, &escalation);
        let passkeys = self.passkeys_of(&stored.tenant).await?;
        let signed = |said: &Said| signed::holds(said, stored, pending, &escalation, &passkeys);
        // Whoever altered the store can pretend a state, but not what people said.
        let agreed = said::agreed(&said, &seen, |said| said.form == KEY || signed(said).is_some())?;
        let extended = said::extended(&said, &seen)?;
        if agreed < stored.needed.max(1) && !extended {
            return Err(internal("an action is approved, but people did not agree to it"));
        }
        // What was said by rules that are others now is not said of what would be done, and no receipt shows it.
        let key_will_do = self.form(&action.archetype, row) == action::ApprovalForm::Key
            && signed::changed(row, &escalation, rules).is_none();
        let ended = self.ended(&stored.tenant, &passkeys).await?;
        let counts = |said: &Said| match said.form == KEY {
            true => key_will_do && !ended.contains(&said.key_id),
            false => signed(said).is_some_and(|it| signed::still_fits(&it, (stored, row), rules)),
        };
        // A principal who gave the right to ask is heard, and still is nobody else.
        let apart = |it: &Said| !escalation.parties.contains(&it.approver) && counts(it);
        let agrees = |name: &str| said::agreed(&said, &seen, |it| it.approver == name && counts(it));
        let mut principals: Vec<Box<str>> = Vec::new();
        for principal in &escalation.principals {
            if agrees(principal)? > 0 {
                principals.push(principal.as_str().into());
            }
        }
        let enough = !extended
            && said::agreed(&said, &seen, apart)? >= action.archetype.approvals
            && principals.len() == escalation.principals.len()
            && match atp::signer(row)? {
                Some(signer) => agrees(signer.as_str())? > 0,
                None => true,
            };
        let triggers = escalation.read()?;
        let limits = said::limits(&said, &seen)?;
        Ok(Resumed {
            under_way,
            approved: enough.then(|| Approved {
                triggers,
                mandate: row.mandate_id.clone(),
                amount: pending.money,
                limits,
            }),
            principals,
            basis: Basis::Approved { round: stored.round },
            by: By::Holder(stored.token),
            until_ms: stored.expires_ms.unwrap_or(stored.at_ms),
            only_asks: false,
            shown: said::shown(stored, pending, &records)?,
            escalation: Some(escalation.seen_in(row)),
            before: None,
            keeping: row.keeping.clone(),
            regulations: row.regulations.clone(),
        })
    }

    /// What nobody is logged in with any more: API keys and passkeys that were revoked. The sandbox keeps neither.
    async fn ended(&self, tenant: &Tenant, passkeys: &[Passkey]) -> Result<HashSet<String>, Error> {
        let keys = self.ledger.keys(tenant).await.map_err(unavailable)?;
        let over = |key: &ledger::ApiKey| key.revoked_ms.is_some() || self.unproven.has_key_of(&key.id);
        let keys = keys.into_iter().filter(over).map(|key| key.id.into_string());
        let passkeys = passkeys.iter().filter(|it| !it.counts()).map(|it| it.id.to_string());
        Ok(keys.chain(passkeys).collect())
    }

    async fn judge_as_asked(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        rules: &Rules,
        (stored, row): (&Stored, &IntentRow),
        action: Action,
        provider: Arc<dyn Provider>,
        resumed: Resumed,
    ) -> Result<Next, Error> {
        let caller = Caller {
            tenant: stored.tenant.clone(),
            subject: stored.subject.clone(),
            role: Role::Agent,
            key_id: "resumed".to_owned(),
            key_issuer: None,
            // Whatever mandate it came under, it comes under the same one again.
            default_mandate: row.mandate_id.clone(),
        };
        let key = stored.key.as_deref().map(IdempotencyKey::parse).transpose();
        let key = key.map_err(|_| internal("a stored key is not one"))?;
        let ask = Ask {
            idempotency_key: None,
            request_id: row.correlation_id.clone(),
            dry_run: false,
            wait: crate::Wait::default(),
            body: Vec::new(),
        };
        let arrival = arrived(stored.at_ms);
        let asked = Asked { caller: &caller, tenant, rules, key: key.as_ref(), ask: &ask, arrival };
        self.judge_again(&asked, action, provider, (stored, row), resumed).await
    }

    /// The sandbox's public mandate is found by its token only.
    fn public_token(&self, row: &IntentRow) -> Option<&'static str> {
        let public = row.mandate_id.as_deref() == Some(crate::authority::PUBLIC_TOKEN);
        (public && self.environment == action::Environment::Sandbox).then_some(crate::authority::PUBLIC_TOKEN)
    }
}

/// Nobody was asked about it.
fn not_asked(stored: &Stored, row: &IntentRow, under_way: UnderWay) -> Resumed {
    Resumed {
        under_way,
        basis: Basis::Sent { token: stored.token },
        by: By::Holder(stored.token),
        approved: None,
        principals: Vec::new(),
        until_ms: stored.at_ms,
        only_asks: false,
        escalation: None,
        shown: Vec::new(),
        before: None,
        keeping: row.keeping.clone(),
        regulations: row.regulations.clone(),
    }
}

/// Is this what the action's request hash is of? Its key is not in the store, so whoever alters the row cannot alter the
/// hash with it. The row does not say whether mode and level were asked for or are those of the archetype.
fn was_asked(request: &Request, stored: &Stored, key: &HmacKey) -> bool {
    let (mode, level) = (request.payment_mode, request.guarantee_level);
    [(None, None), (mode, None), (None, level), (mode, level)].into_iter().any(
        |(payment_mode, guarantee_level)| {
            let asked = Request { payment_mode, guarantee_level, ..request.clone() };
            asked.hash(key) == stored.request_hash
        },
    )
}

/// When it came in, by both clocks; a deadline that was over while it waited is over.
fn arrived(at_ms: i64) -> Arrival {
    let now = Instant::now();
    let waited = Duration::from_millis(u64::try_from(clock::now_ms().saturating_sub(at_ms)).unwrap_or(0));
    Arrival { at_ms, instant: now.checked_sub(waited).unwrap_or(now) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use action::Subject;

    use super::*;
    use crate::outcome::{Outcome, Reply};
    use crate::{Config, Installation};

    fn render(outcome: &Outcome, _: &str) -> Reply {
        Reply { status: 200, body: outcome.kind.as_str().into() }
    }

    /// A large payment in the sandbox that a person agreed to and nobody went on with.
    async fn left_approved(gateway: &Arc<Gateway>) -> Stored {
        let constraints =
            json!({ "recipient": "acct-1", "amount_usd": "6000.00", "max_total_usd": "6000.00" });
        let body = json!({ "archetype": "PAYMENT_TRANSFER", "constraints": constraints });
        let ask = Ask {
            idempotency_key: None,
            request_id: "req-1".to_owned(),
            dry_run: false,
            wait: crate::Wait::default(),
            body: body.to_string().into_bytes(),
        };
        let agent = Gateway::anonymous();
        let answer = gateway.execute(&agent, ask).await.unwrap();
        assert_eq!(answer.reply.body, b"held");
        let id = answer.action_id.unwrap();
        let stored = gateway.ledger.action(&agent.tenant, id).await.unwrap().unwrap();
        let row = IntentRow::from_bytes(&stored.payload).unwrap();
        let escalation = row.escalation.clone().unwrap();
        let anna = Caller { subject: Subject::parse("anna").unwrap(), role: Role::Approver, ..agent };
        let said = gateway.word(&anna, &stored, &row, &escalation, None, said::APPROVE).unwrap();
        let approval = gateway.approval(&anna, &stored, &said).unwrap();
        assert!(gateway.ledger.approve(approval).await.unwrap().is_enough());
        stored
    }

    #[tokio::test]
    async fn what_expired_since_it_was_approved_is_not_carried_out() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data_dir: folder.path().join("data"), ..Config::default() };
        let installation = Installation::open(config, render).await.unwrap();
        let gateway = installation.sandbox.as_ref().unwrap();
        let held = left_approved(gateway).await;
        let store = rusqlite::Connection::open(folder.path().join("data/sandbox.db")).unwrap();
        for (until_ms, state) in [(1, State::Approved), (held.expires_ms.unwrap(), State::Executed)] {
            assert_eq!(store.execute("UPDATE action SET expires = ?", [until_ms]).unwrap(), 1);
            let mark = gateway.look_after_alone(held.id).unwrap();
            gateway.resume_one(&held.tenant, held.id, mark).await.unwrap();
            let now = gateway.ledger.action(&held.tenant, held.id).await.unwrap().unwrap();
            assert_eq!(now.state, state, "with {until_ms}");
        }
    }

    /// No timer runs here.
    #[tokio::test]
    async fn what_is_approved_before_whoever_held_it_anew_has_let_go_is_carried_out() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data_dir: folder.path().join("data"), ..Config::default() };
        let installation = Installation::open(config, render).await.unwrap();
        let gateway = installation.sandbox.as_ref().unwrap();
        let held = left_approved(gateway).await;
        let mark = gateway.look_after_alone(held.id).unwrap();
        gateway.resume_in_turn(&held.tenant, held.id);
        tokio::task::yield_now().await;
        drop(mark);
        for _ in 0..1000 {
            let now = gateway.ledger.action(&held.tenant, held.id).await.unwrap().unwrap();
            if now.state == State::Executed {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        unreachable!("nobody went on with it");
    }
}
