//! What is shown of what waits for people.

use ledger::{Filter, Given, State, Stored};
use receipt::approval::Limits;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::rulings::Ruling;
use super::said::{self, Said};
use super::summary::Summary;
use crate::caller::{Caller, Deed};
use crate::gateway::Gateway;
use crate::remember::{outward, unavailable};
use crate::resolve::{Decision, ResolutionView, words};
use crate::row::{ANEW, EscalationRow, IntentRow, internal};
use crate::sessions::{DeadlockView, SessionLimits};
use crate::views::{Page, after, not_found};
use crate::{Error, clock};

/// An action that waits for people, or did, or whose fate a person has to tell: everything they decide about.
#[derive(Clone, Debug)]
pub struct HeldView {
    /// The action's id.
    pub action_id: String,
    /// Which of its holds.
    pub escalation_id: String,
    /// ATP's word for its state.
    pub state: String,
    /// The kind of action.
    pub archetype: String,
    /// What that is, from the catalogue.
    pub description: String,
    /// Who asks.
    pub agent_id: String,
    /// The constraints, canonical.
    pub parameters: Value,
    /// Who is asked, as the request names it.
    pub human_approver: Option<String>,
    /// What only the envelope of the Agent Transaction Protocol said.
    pub atp: Option<Value>,
    /// The same in the order in which a person reads it.
    pub summary: Summary,
    /// Who may not decide: who asks, and who gave the right to ask. Of what is unresolved only where it is shown alone.
    pub parties: Vec<String>,
    /// Who all have to agree: the principals of its cluster, where more than one has a say.
    pub principals: Vec<String>,
    /// What is at stake, a decimal string.
    pub amount: Option<String>,
    /// ISO 4217.
    pub currency: Option<String>,
    /// Whether it can be undone.
    pub reversible: bool,
    /// The mandate it comes under.
    pub mandate_id: Option<String>,
    /// Why it waits, one stable word each.
    pub reasons: Vec<String>,
    /// The policies that ask for a person.
    pub policies: Vec<PolicyView>,
    /// The earlier action that this one seems to repeat.
    pub earlier_transaction: Option<String>,
    /// How many people have to agree.
    pub needed: u32,
    /// The weakest form that counts: `key` or `passkey`.
    pub form: &'static str,
    /// What people said so far, oldest first.
    pub approvals: Vec<GivenView>,
    /// What people asked about it, and what its agent said, oldest first.
    pub exchanges: Vec<ExchangeView>,
    /// The classes of escalation that fired, each once.
    pub escalation_classes: Vec<u8>,
    /// The session it is a cycle of.
    pub session_id: Option<String>,
    /// The declaration it stands on.
    pub intent_id: Option<String>,
    /// Of its session, in seconds, when it was judged.
    pub time_budget_remaining: Option<u64>,
    /// `CLEAN`, `PARTIAL` or `UNKNOWN`: how its session is left while it waits. Of a single one only: all records of
    /// the session are read for it.
    pub completion_state: Option<&'static str>,
    /// Where people are asked, out of reach of its agent, while it waits.
    pub out_of_band_ref: Option<String>,
    /// What can be decided about it now.
    pub available_decisions: Vec<Ruling>,
    /// How far people agreed to whatever its session does, if not as far as its mandate goes.
    pub session_limits: Option<SessionLimits>,
    /// When it came in, RFC 3339.
    pub created_at: String,
    /// When it expires, RFC 3339.
    pub expires_at: Option<String>,
    /// `in_doubt`, `unchecked`, `release_failed` or `rollback_failed`, if nobody but a person can say what became of it.
    pub unresolved: Option<&'static str>,
    /// What a person can say then.
    pub decisions: Vec<Decision>,
    /// What people said became of it, oldest first.
    pub resolutions: Vec<ResolutionView>,
    /// Where it was sent to.
    pub provider: Option<String>,
    /// By which the provider may know it.
    pub reference: Option<String>,
    /// The provider's own reference for an effect that was to be undone or looked after, or for what it has set aside.
    pub provider_reference: Option<String>,
}

/// A policy that asks for a person.
#[derive(Clone, Debug)]
pub struct PolicyView {
    /// Its id.
    pub id: String,
    /// Of its content.
    pub digest: String,
}

/// What one person said.
#[derive(Clone, Debug)]
pub struct GivenView {
    /// Who.
    pub approver: String,
    /// `approve`, `reject`, `revoke_mission` or `extend_budget`.
    pub decision: String,
    /// `key` or `passkey`.
    pub form: String,
    /// RFC 3339.
    pub at: String,
    /// A line for other people.
    pub comment: Option<String>,
    /// Which hold it was about.
    pub escalation_id: String,
    /// How far a yes goes, if not all the way.
    pub limits: Option<Limits>,
    /// How much more time was given.
    pub seconds: Option<u64>,
    /// Why a yes counts no more, if it does not: `policies_changed`, `catalogue_changed` or `rules_changed` since it was
    /// asked for, or `asked_anew` for another reason.
    pub void: Option<String>,
}

/// A question about a held action, and the agent's answer once there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeView {
    /// Which hold it was asked in.
    pub escalation_id: String,
    /// Who asked.
    pub by: String,
    /// What.
    pub question: String,
    /// When, RFC 3339.
    pub asked_at: String,
    /// In the agent's words.
    pub answer: Option<String>,
    /// When, RFC 3339.
    pub answered_at: Option<String>,
}

/// The version of all that waits in a tenant, as it was last read.
pub(crate) struct Version {
    commits: u64,
    /// Until when it holds unless something is committed: then the first of it expires.
    until_ms: i64,
    text: String,
}

/// Rows of which a person sees at once whether something has changed.
const MOST_HELD: u32 = 200;
/// Actions that need a person's word of which a person is shown, of each kind.
const MOST_UNRESOLVED: u32 = 50;

impl Gateway {
    /// What waits for people in the caller's tenant, newest first.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents.
    pub async fn held(
        &self,
        caller: &Caller,
        cursor: Option<String>,
        limit: u32,
    ) -> Result<Page<HeldView>, Error> {
        caller.must(Deed::ReadTenant)?;
        let (after, now_ms) = (after(cursor)?, clock::now_ms());
        let page = self.ledger.held(&caller.tenant, now_ms, after, limit.clamp(1, 200)).await;
        let page = page.map_err(unavailable)?;
        let items = self.listed(&page.rows).await;
        Ok(Page { items, next: page.next.map(|row| row.to_string()) })
    }

    /// One action that waits for people, or did, or that a person has to say or said the fate of.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` also for what never waited.
    pub async fn held_one(&self, caller: &Caller, id: &str) -> Result<HeldView, Error> {
        caller.must(Deed::ReadTenant)?;
        let stored = self.visible(caller, id).await?;
        let view = self.held_view(&stored).await?.ok_or_else(|| not_found("action that waits"))?;
        if view.unresolved.is_none() {
            let completion_state = self.left_while_waiting(&stored, view.session_id.as_deref()).await?;
            return Ok(HeldView { completion_state, ..view });
        }
        let parties = self.parties(&stored, &IntentRow::of(&stored)?).await?;
        Ok(HeldView { parties, ..view })
    }

    /// Actions of the caller's tenant that only a person can settle, newest first of each kind, as many as a person can look
    /// after.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents.
    pub async fn unresolved(&self, caller: &Caller) -> Result<Vec<HeldView>, Error> {
        Ok(self.listed(&self.unresolved_of(caller).await?).await)
    }

    /// What an earlier version held cannot be decided on, so it is not asked about. What cannot be read, because
    /// somebody altered it, is left out and keeps nobody from the rest; who looks at it alone is told so.
    async fn listed(&self, rows: &[Stored]) -> Vec<HeldView> {
        let mut views = Vec::with_capacity(rows.len());
        for stored in rows {
            match self.held_view(stored).await {
                Ok(view) => views.extend(view),
                Err(_) => {
                    let tenant = &stored.tenant;
                    tracing::error!(action = %stored.id, %tenant, "what waits for people cannot be read and is left out");
                }
            }
        }
        views
    }

    /// Changes whenever what a person sees does: of all that waits, or of one action.
    ///
    /// # Errors
    /// As for looking at it.
    pub async fn version(&self, caller: &Caller, id: Option<&str>) -> Result<String, Error> {
        caller.must(Deed::ReadTenant)?;
        match id {
            Some(id) => self.digest(&[self.visible(caller, id).await?], &[]).await,
            None => self.version_of_all(caller).await,
        }
    }

    /// Whoever watches what waits sees the same, so it is read once for each commit, however many they are.
    async fn version_of_all(&self, caller: &Caller) -> Result<String, Error> {
        let mut kept = self.tenant(&caller.tenant)?.version.lock().await;
        // Before reading: what is committed meanwhile has it read again.
        let (commits, now_ms) = (self.commits(), clock::now_ms());
        if let Some(kept) = kept.as_ref().filter(|it| it.commits == commits && now_ms < it.until_ms) {
            return Ok(kept.text.clone());
        }
        let held = self.ledger.held(&caller.tenant, now_ms, None, MOST_HELD).await;
        let held = held.map_err(unavailable)?.rows;
        let until_ms = held.iter().filter_map(|stored| stored.expires_ms).min().unwrap_or(i64::MAX);
        let stuck = self.deadlocks(caller).await?;
        let text = self.digest(&[held, self.unresolved_of(caller).await?].concat(), &stuck).await?;
        *kept = Some(Version { commits, until_ms, text: text.clone() });
        Ok(text)
    }

    async fn digest(&self, seen: &[Stored], stuck: &[DeadlockView]) -> Result<String, Error> {
        let mut digest = Sha256::new();
        for stored in seen {
            let given = self.ledger.approvals(&stored.tenant, stored.id).await.map_err(unavailable)?;
            digest.update(format!("{} {} {} {}\n", stored.id, stored.state, stored.round, given.len()));
        }
        for circle in stuck {
            digest.update(format!("{} {}\n", circle.cluster_id, circle.sessions.join(" ")));
        }
        Ok(hex::encode(&digest.finalize()[..8]))
    }

    /// How often something was committed so far: as long as it stays, nothing has happened.
    pub fn commits(&self) -> u64 {
        self.ledger.figures().commits
    }

    async fn unresolved_of(&self, caller: &Caller) -> Result<Vec<Stored>, Error> {
        caller.must(Deed::ReadTenant)?;
        let mut rows = Vec::new();
        for (state, _) in NEED_A_WORD {
            let filter = Filter { state: Some(state), ..Filter::default() };
            let page = self.ledger.actions(&caller.tenant, filter, None, MOST_UNRESOLVED).await;
            rows.extend(page.map_err(unavailable)?.rows);
        }
        Ok(rows)
    }

    /// What is put before a person, with what was asked and answered about it.
    pub(super) fn summary(
        &self,
        stored: &Stored,
        row: &IntentRow,
        exchanges: &[ExchangeView],
    ) -> Result<Summary, Error> {
        let rules = self.tenant(&stored.tenant)?.rules();
        let archetype = rules.catalogue.get(&stored.archetype).map(|it| &**it);
        Ok(Summary::of(&stored.archetype, archetype, row, &constraints(row)?).with(exchanges))
    }

    /// What never waited, and needs or had nobody's word, is none of theirs.
    pub(super) async fn held_view(&self, stored: &Stored) -> Result<Option<HeldView>, Error> {
        let row = IntentRow::from_bytes(&stored.payload)?;
        let (unresolved, resolutions) = (unresolved(stored.state), self.words_about(stored, &row).await?);
        if row.escalation.is_none() && unresolved.is_none() && resolutions.is_empty() {
            return Ok(None);
        }
        let given = self.ledger.approvals(&stored.tenant, stored.id).await.map_err(unavailable)?;
        let exchanges = exchanges_of(&given)?;
        let rules = self.tenant(&stored.tenant)?.rules();
        let archetype = rules.catalogue.get(&stored.archetype);
        let triggers = row.escalation.iter().flat_map(|escalation| &escalation.triggers);
        let policies = triggers.clone().flat_map(|trigger| &trigger.policies);
        let (provider, reference) = row.call.clone().map(|call| (call.provider, call.reference)).unzip();
        Ok(Some(HeldView {
            action_id: stored.id.to_string(),
            escalation_id: said::escalation_id(stored.id, stored.round),
            state: outward(stored.state).to_owned(),
            archetype: stored.archetype.to_string(),
            description: archetype.map(|archetype| archetype.description.clone()).unwrap_or_default(),
            agent_id: stored.subject.to_string(),
            parameters: constraints(&row)?,
            human_approver: row.human_approver.clone(),
            atp: row.atp()?.map(|atp| atp.to_value()),
            summary: self.summary(stored, &row, &exchanges)?,
            parties: row.escalation.iter().flat_map(|escalation| escalation.parties.clone()).collect(),
            principals: row.escalation.iter().flat_map(|escalation| escalation.principals.clone()).collect(),
            form: archetype.map_or("key", |archetype| self.form(archetype, &row).as_str()),
            amount: row.amount.clone(),
            currency: row.currency.clone(),
            reversible: row.reversible,
            mandate_id: row.mandate_id.clone(),
            reasons: row.held_for.clone(),
            policies: policies
                .map(|policy| PolicyView { id: policy.id.clone(), digest: policy.digest.clone() })
                .collect(),
            earlier_transaction: triggers.clone().find_map(|trigger| trigger.earlier.clone()),
            needed: stored.needed,
            approvals: GivenView::all(&given, stored, &row)?,
            exchanges,
            escalation_classes: row.escalation.as_ref().map(EscalationRow::classes).unwrap_or_default(),
            session_id: row.cycle.as_ref().map(|cycle| cycle.session_id.clone()),
            intent_id: row.cycle.as_ref().and_then(|cycle| cycle.intent_id.clone()),
            time_budget_remaining: row.cycle.as_ref().and_then(|it| it.context[TIME].as_u64()),
            completion_state: None,
            out_of_band_ref: stored.state.waits().then(|| self.approval_url(stored.id)),
            available_decisions: available(stored, &row),
            session_limits: self.limits_around(stored, &row).await?,
            created_at: clock::text(stored.at_ms),
            expires_at: stored.expires_ms.map(clock::text),
            unresolved,
            decisions: Decision::of(stored.state).to_vec(),
            resolutions,
            provider,
            reference,
            provider_reference: row.provider_reference(),
        }))
    }

    /// How far people agreed to whatever the session of a cycle does.
    async fn limits_around(&self, stored: &Stored, row: &IntentRow) -> Result<Option<SessionLimits>, Error> {
        let Some(cycle) = &row.cycle else { return Ok(None) };
        let found = self.ledger.session(&stored.tenant, &cycle.session_id).await.map_err(unavailable)?;
        Ok(found.and_then(|governed| SessionLimits::of(governed.session.limits)))
    }

    /// How the session of a cycle is left that waits.
    async fn left_while_waiting(
        &self,
        stored: &Stored,
        session: Option<&str>,
    ) -> Result<Option<&'static str>, Error> {
        let Some(session) = session.filter(|_| stored.state.waits()) else { return Ok(None) };
        let found = self.ledger.session(&stored.tenant, session).await.map_err(unavailable)?;
        let governed = found.ok_or_else(|| internal("the session of a cycle is gone"))?;
        Ok(Some(self.left_as(&governed).await?.as_str()))
    }

    /// What people asked about a held action, and what its agent said.
    pub(crate) async fn exchanges(&self, stored: &Stored) -> Result<Vec<ExchangeView>, Error> {
        let given = self.ledger.approvals(&stored.tenant, stored.id).await.map_err(unavailable)?;
        exchanges_of(&given)
    }

    /// What people said became of it. Nobody has of what was not sent.
    async fn words_about(&self, stored: &Stored, row: &IntentRow) -> Result<Vec<ResolutionView>, Error> {
        if stored.state.waits() {
            return Ok(Vec::new());
        }
        let outcomes = self.stored_outcomes(stored).await?;
        Ok(words(&outcomes, row)?.into_iter().map(ResolutionView::of).collect())
    }
}

/// The word for what nobody but a person can settle.
fn unresolved(state: State) -> Option<&'static str> {
    NEED_A_WORD.into_iter().find(|(it, _)| *it == state).map(|(_, word)| word)
}

/// What only a person can settle, in the order in which it is listed.
const NEED_A_WORD: [(State, &str); 4] = [
    (State::RollbackFailed, "rollback_failed"),
    (State::ReleaseFailed, "release_failed"),
    (State::Unchecked, "unchecked"),
    (State::InDoubt, "in_doubt"),
];

fn constraints(row: &IntentRow) -> Result<Value, Error> {
    serde_json::from_str(row.constraints.get()).map_err(|_| internal("stored constraints cannot be read"))
}

/// Why a yes counts no more: people were asked once more after it, or it was judged by other rules than they saw.
fn void(said: &Said, hold: &str, row: &IntentRow) -> Option<String> {
    let asked = row.escalation.as_ref().filter(|_| said.decision == said::APPROVE)?;
    match said.escalation_id == hold {
        true => asked.changed_since(row).map(|changed| changed.as_str().to_owned()),
        false => Some(asked.anew.clone().unwrap_or_else(|| ANEW.to_owned())),
    }
}

/// What was asked and answered, oldest first: each answer is to the question before it.
fn exchanges_of(given: &[Given]) -> Result<Vec<ExchangeView>, Error> {
    let mut exchanges: Vec<ExchangeView> = Vec::new();
    for given in given {
        let Said { approver, decision, at, comment, escalation_id, .. } = Said::from_bytes(&given.record)?;
        let text = comment.unwrap_or_default();
        match (&*decision, exchanges.last_mut()) {
            (said::ASK, _) => exchanges.push(ExchangeView {
                escalation_id,
                by: approver,
                question: text,
                asked_at: at,
                answer: None,
                answered_at: None,
            }),
            (said::ANSWER, Some(asked)) => (asked.answer, asked.answered_at) = (Some(text), Some(at)),
            _ => {}
        }
    }
    Ok(exchanges)
}

/// What can be decided about it now.
fn available(stored: &Stored, row: &IntentRow) -> Vec<Ruling> {
    let open =
        stored.state == State::Held && !stored.has_expired(clock::now_ms()) && row.escalation.is_some();
    let fits = |ruling: &Ruling| open && ruling.fits(row);
    Ruling::ALL.into_iter().filter(fits).collect()
}

/// The member of a Context Package that says how much time was left.
const TIME: &str = "time_budget_remaining";

impl GivenView {
    /// What people decided; what they asked, and were answered, is told apart.
    pub(crate) fn all(given: &[Given], stored: &Stored, row: &IntentRow) -> Result<Vec<GivenView>, Error> {
        let said: Vec<Said> =
            given.iter().map(|it| Said::from_bytes(&it.record)).collect::<Result<_, _>>()?;
        let decides = |said: &Said| ![said::ASK, said::ANSWER].contains(&&*said.decision);
        let hold = said::escalation_id(stored.id, stored.round);
        Ok(said.into_iter().filter(decides).map(|said| GivenView::of(said, &hold, row)).collect())
    }

    fn of(said: Said, hold: &str, row: &IntentRow) -> GivenView {
        let void = void(&said, hold, row);
        let Said { approver, decision, form, at, comment, escalation_id, limits, seconds, .. } = said;
        GivenView { approver, decision, form, at, comment, escalation_id, limits, seconds, void }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody here looks after it, or people are asked before it is sent, or the inbox lists it with what can be said of it.
    #[test]
    fn every_open_state_has_a_way_out() {
        for state in State::ALL {
            let over = state.is_final();
            let looked_after = state.rests() || state.waits() || matches!(state, State::Sent);
            let by_person = NEED_A_WORD.iter().any(|(listed, _)| *listed == state);
            assert!(over || looked_after || by_person, "{state} is left to itself");
            assert_eq!(
                by_person,
                !Decision::of(state).is_empty(),
                "{state}: listed, and nothing to say, or not"
            );
        }
    }
}
