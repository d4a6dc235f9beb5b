//! A tenant's rules: reloaded as one, kept for replay, and for a while only observed.

use std::sync::Arc;

use action::{Environment, Tenant};
use boundary::{Disclosure, Level};
use ledger::Ledger;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::event;
use crate::act::lock;
use crate::caller::{Caller, Deed, Role};
use crate::gateway::{Gateway, listed};
use crate::remember::unavailable;
use crate::row::{IntentRow, internal};
use crate::tenants::{self, Rules, Texts};
use crate::{Code, Error, clock};

/// Whether a tenant is only observed.
#[derive(Clone, Debug)]
pub struct ObserveView {
    /// Which tenant.
    pub tenant: String,
    /// Until when, RFC 3339; `None`: not.
    pub until: Option<String>,
}

/// What is in force after a reload.
#[derive(Clone, Debug)]
pub struct ReloadReport {
    /// Digest of the catalogue.
    pub catalogue_digest: String,
    /// Digest of the policies.
    pub policy_digest: String,
    /// Digest of the entities.
    pub entity_digest: String,
    /// How many archetypes.
    pub archetypes: usize,
    /// How many policies, those in the program included.
    pub policies: usize,
}

impl Gateway {
    /// Only observes the tenant until then, or no longer: what would have been blocked by policy passes and is noted.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` if the time is none, over, or more than 30 days away.
    pub async fn observe(&self, caller: &Caller, until: Option<String>) -> Result<ObserveView, Error> {
        caller.must(Deed::Administer)?;
        let tenant = self.tenant(&caller.tenant)?;
        let now_ms = clock::now_ms();
        let wrong = |why: &str| Error::new(Code::ValidationFailed, why.to_owned()).field("/until");
        let until_ms = match &until {
            None => 0,
            Some(text) => clock::parse_ms(text).map_err(|why| wrong(&format!("`until` {why}")))?,
        };
        if until.is_some() && !(now_ms..=now_ms + LONGEST_OBSERVATION_MS).contains(&until_ms) {
            return Err(wrong("`until` is not within the next 30 days"));
        }
        let record = json!({ "by": caller.subject.as_str(), "until": &until });
        let event = event(tenant, "observe_mode", &record);
        self.ledger.observe(&tenant.tenant, until_ms, event).await.map_err(unavailable)?;
        tenant.observe_until(until_ms);
        Ok(ObserveView { tenant: tenant.tenant.to_string(), until: until.map(|_| clock::text(until_ms)) })
    }

    /// The policies that bind the tenant, as far as the caller's role is told of them; less, if less is asked for, or where
    /// the operator withholds it. To withhold without a reason is on record, and so is a set that is not the one on record.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for a level that the role is not told, `EP_VALIDATION_FAILED` for one that there is not.
    pub async fn disclosure(&self, caller: &Caller, asked: Option<&str>) -> Result<DisclosureView, Error> {
        caller.must(Deed::ReadOwn)?;
        let (role, most) = (caller.role, most_told(caller.role));
        let level = asked.map(|text| Level::parse(text).ok_or_else(no_level)).transpose()?.unwrap_or(most);
        let refused = |why: String| Err(Error::new(Code::Forbidden, why).field("?level"));
        if level > most {
            return refused(format!("a key of role {} is told {} at most", role.as_str(), most.as_str()));
        }
        let rules = self.tenant(&caller.tenant)?.rules();
        let withheld = self.config.disclosure.get(role.as_str()).filter(|withheld| level > withheld.most);
        let mut violation = false;
        if withheld.is_some_and(|withheld| withheld.reason().is_none()) {
            violation = true;
            self.note_hidden(caller, level, &rules, Why::NoReason).await?;
        }
        if !rules.on_record {
            violation = true;
            self.note_hidden(caller, level, &rules, Why::NotOnRecord).await?;
        }
        let Some(withheld) = withheld else {
            let told = rules.policies.disclose(level);
            return Ok(DisclosureView { told, withheld: None, violation });
        };
        if asked.is_some() {
            let why = withheld.reason().unwrap_or("no reason is registered (CAP_TRANSPARENCY_VIOLATION)");
            return refused(format!("{} is withheld: {why}", level.as_str()));
        }
        let reason = withheld.reason().map(str::to_owned);
        let told = rules.policies.disclose(withheld.most);
        Ok(DisclosureView { told, withheld: Some(WithheldView { level, reason }), violation })
    }

    /// Puts on record that policies are hidden from those whom they bind: once for each role and set while this process runs,
    /// so that whoever asks again and again fills no chain.
    async fn note_hidden(&self, caller: &Caller, level: Level, rules: &Rules, why: Why) -> Result<(), Error> {
        let digest = rules.policies.policy_digest();
        let hidden: Hidden = (caller.tenant.clone(), caller.role, why, Arc::clone(digest));
        if !lock(&self.hidden).insert(hidden.clone()) {
            return Ok(());
        }
        let fields = json!({
            "kind": VIOLATION, "level": level.as_str(), "policy_digest": &**digest, "role": caller.role.as_str(),
            "why": why.as_str(),
        });
        let noted = self.note_unbound_anomaly(&caller.tenant, VIOLATION, &fields).await;
        if noted.is_err() {
            lock(&self.hidden).remove(&hidden);
        }
        noted
    }

    /// Reads the tenant's catalogue and policies again and swaps them as one. A mistake leaves everything as it was.
    ///
    /// # Errors
    /// `EP_VALIDATION_FAILED` listing every mistake.
    pub async fn reload(&self, caller: &Caller) -> Result<ReloadReport, Error> {
        caller.must(Deed::Administer)?;
        let tenant = self.tenant(&caller.tenant)?;
        let rules = tenants::load(&self.config, &tenant.tenant, self.environment, &self.outside);
        let mut rules = rules.map_err(|mistakes| {
            Error::new(Code::ValidationFailed, listed(&mistakes))
                .hint("nothing was changed; correct the files and reload")
        })?;
        keep_rules(self.ledger.as_ref(), self.environment, &mut rules).await?;
        let report = report(&rules);
        let record = json!({ "by": caller.subject.as_str(), "catalogDigest": &report.catalogue_digest, "policyDigest": &report.policy_digest });
        self.ledger.record(event(tenant, "rules_reloaded", &record)).await.map_err(unavailable)?;
        tenant.swap(rules);
        Ok(report)
    }

    /// The rules an action was decided by, if they were kept; else those of now.
    pub(crate) async fn rules_of_then(
        &self,
        tenant: &Tenant,
        row: &IntentRow,
    ) -> Result<std::sync::Arc<Rules>, Error> {
        let now = self.tenant(tenant)?.rules();
        let (Some(policies), Some(catalogue), Some(entities)) =
            (&row.policy_digest, &row.catalog_digest, &row.entity_digest)
        else {
            return Ok(now);
        };
        let name = digest_name(policies, catalogue, entities);
        if name == rules_name(&now) {
            return Ok(now);
        }
        let Some(text) = self.ledger.kept(&name).await.map_err(unavailable)? else { return Ok(now) };
        let texts: Texts =
            serde_json::from_slice(&text).map_err(|_| internal("kept rules cannot be read"))?;
        let rules = tenants::read_again(texts, self.environment);
        rules.map(std::sync::Arc::new).map_err(|mistakes| {
            tracing::warn!(mistakes = %listed(&mistakes), "rules of then are not rules of this version");
            internal("the rules of then cannot be read by this version")
        })
    }
}

/// Keeps the texts of a set of rules before it comes into force, so that decisions made by them can be replayed. What was
/// kept under its digest before stays; whether that is this set is found out here, once.
pub(crate) async fn keep_rules(
    ledger: &dyn Ledger,
    environment: Environment,
    rules: &mut Rules,
) -> Result<(), Error> {
    let name = rules_name(rules);
    let text = serde_json::to_vec(&rules.texts).map_err(|_| internal("rules cannot be written"))?;
    ledger.keep(&name, text.clone()).await.map_err(unavailable)?;
    let kept = ledger.kept(&name).await.map_err(unavailable)?.unwrap_or_default();
    let same = || {
        let texts = serde_json::from_slice::<Texts>(&kept).ok()?;
        Some(rules_name(&tenants::read_again(texts, environment).ok()?))
    };
    rules.on_record = kept == text || same() == Some(name);
    Ok(())
}

/// What is told of the policies, and what is not.
#[derive(Clone, Debug)]
pub struct DisclosureView {
    /// What is told.
    pub told: Disclosure,
    /// What of it the operator withholds.
    pub withheld: Option<WithheldView>,
    /// `CAP_TRANSPARENCY_VIOLATION`: it is withheld without a reason, or is not the set on record.
    pub violation: bool,
}

/// What the operator withholds.
#[derive(Clone, Debug)]
pub struct WithheldView {
    /// The level that the role would be told.
    pub level: Level,
    /// Why it is not, if that is said.
    pub reason: Option<String>,
}

/// Tenant, role, why, and digest of the policies.
pub(crate) type Hidden = (Tenant, Role, Why, Arc<str>);

/// How policies are hidden from those whom they bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Why {
    /// Nobody says why they are withheld.
    NoReason,
    /// They are not what was kept under their digest.
    NotOnRecord,
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Why::NoReason => "NO_REASON",
            Why::NotOnRecord => "NOT_ON_RECORD",
        }
    }
}

/// The most that a role is told: who audits all that there is, who acts only that there is something.
pub(crate) const fn most_told(role: Role) -> Level {
    match role {
        Role::Auditor | Role::Admin => Level::Full,
        Role::Operator => Level::Summary,
        Role::Approver => Level::Redacted,
        Role::Agent => Level::CountOnly,
    }
}

fn no_level() -> Error {
    let levels: Vec<&str> = Level::ALL.iter().map(|level| level.as_str()).collect();
    Error::new(Code::ValidationFailed, format!("level is none of {}", levels.join(", "))).field("?level")
}

fn report(rules: &Rules) -> ReloadReport {
    ReloadReport {
        catalogue_digest: rules.catalogue.digest().to_owned(),
        policy_digest: rules.policies.policy_digest().to_string(),
        entity_digest: rules.policies.entity_digest().to_string(),
        archetypes: rules.catalogue.iter().count(),
        policies: rules.policies.rules().len(),
    }
}

fn rules_name(rules: &Rules) -> String {
    digest_name(rules.policies.policy_digest(), rules.catalogue.digest(), rules.policies.entity_digest())
}

fn digest_name(policies: &str, catalogue: &str, entities: &str) -> String {
    hex::encode(Sha256::digest(format!("rules/1\n{policies}\n{catalogue}\n{entities}")))
}

/// As records of anomalies and answers have it.
pub const VIOLATION: &str = "CAP_TRANSPARENCY_VIOLATION";
/// Observe mode ends by itself within this time.
const LONGEST_OBSERVATION_MS: i64 = 30 * 24 * 3600 * 1000;
