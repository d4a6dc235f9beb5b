//! A tenant's own rules: catalogue, policies, providers, key. Read from files as one whole and swapped as one whole,
//! so that no decision ever sees half of an update and no invalid set ever starts one.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use action::{Catalogue, Environment, HmacKey, Mistake, Source, Tenant};
use boundary::Policies;
use provider::Provider;
use tokio::sync::watch;

use crate::approvals::Version;
use crate::config::Config;
use crate::gateway::Doors;
use crate::shelf::ShelfKeys;

/// What a tenant's actions are judged by and sent with.
pub(crate) struct Rules {
    pub catalogue: Catalogue,
    pub policies: Policies,
    /// By archetype; an archetype without one cannot be carried out.
    pub providers: HashMap<String, Arc<dyn Provider>>,
    /// The texts of catalogue and policies, kept in the store under their digests for `replay`.
    pub texts: Texts,
    /// Are these what is kept under their digest? Said when they come into force.
    pub on_record: bool,
}

/// The sources of a set of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Texts {
    pub catalogue: Vec<(String, String)>,
    pub policies: Vec<(String, String)>,
    pub entities: Vec<(String, String)>,
}

/// One tenant of one environment.
pub(crate) struct TenantState {
    pub tenant: Tenant,
    pub hmac: HmacKey,
    /// Under which lies what waits for clients.
    pub shelf: ShelfKeys,
    /// How ledger entries name the tenant to strangers.
    pub reference: Arc<str>,
    /// Of what people see that waits; whoever reads it anew keeps the others waiting for that.
    pub version: tokio::sync::Mutex<Option<Version>>,
    /// Taken while it is looked whether somebody is asked to extend a budget, and while more time, or what one member of a
    /// cluster hands to another, is judged, until what comes of it is written down. Whoever has it waits for nobody who may
    /// want it.
    pub budgets: Arc<tokio::sync::Mutex<()>>,
    rules: RwLock<Arc<Rules>>,
    /// Counts what changes which tools agents see, here and not at their servers: other rules, and quarantines.
    tools_changed: watch::Sender<u64>,
    /// Until when observe mode is on, Unix milliseconds; zero when it is off. Where many gateways share a store, as that said last.
    observe_until_ms: AtomicI64,
}

impl TenantState {
    pub(crate) fn new(tenant: Tenant, key: &[u8; 32], rules: Rules) -> Result<TenantState, String> {
        let hmac = HmacKey::new(key);
        let reference = hex::encode(&hmac.sign(b"countersign/tenant-reference/1")[..16]).into();
        Ok(TenantState {
            tenant,
            hmac,
            shelf: ShelfKeys::of(key)?,
            reference,
            version: tokio::sync::Mutex::new(None),
            budgets: Arc::default(),
            rules: RwLock::new(Arc::new(rules)),
            tools_changed: watch::Sender::new(0),
            observe_until_ms: AtomicI64::new(0),
        })
    }

    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn swap(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.change_tools();
    }

    /// Agents may see other tools from now on.
    pub(crate) fn change_tools(&self) {
        self.tools_changed.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Hears of each time from now on.
    pub(crate) fn tools_changed(&self) -> watch::Receiver<u64> {
        self.tools_changed.subscribe()
    }

    pub(crate) fn observes(&self, now_ms: i64) -> bool {
        now_ms < self.observe_until_ms.load(Ordering::Relaxed)
    }

    /// Whether it is only observed by what the store says, which is remembered; where that says nothing, by what is remembered.
    pub(crate) fn observes_as(&self, stored_ms: Option<i64>, now_ms: i64) -> bool {
        let Some(until_ms) = stored_ms else { return self.observes(now_ms) };
        self.observe_until(until_ms);
        now_ms < until_ms
    }

    pub(crate) fn observe_until(&self, until_ms: i64) {
        self.observe_until_ms.store(until_ms, Ordering::Relaxed);
    }
}

/// Reads and checks everything of one tenant.
///
/// # Errors
/// Every mistake in every file.
pub(crate) fn load(
    config: &Config,
    tenant: &Tenant,
    environment: Environment,
    doors: &Doors,
) -> Result<Rules, Vec<Mistake>> {
    let mut catalogue = sources(config.catalogue_dir.as_deref(), tenant, &["toml"])?;
    catalogue.extend(own_archetypes(config));
    let policies = sources(config.policy_dir.as_deref(), tenant, &["cedar"])?;
    let entities = sources(config.policy_dir.as_deref(), tenant, &["json"])?;
    let mut rules = judge_by(catalogue, policies, entities, environment)?;
    rules.providers = providers(&rules.catalogue, tenant, environment, doors)?;
    Ok(rules)
}

/// Archetypes of the gateway's own that a configuration adds to every catalogue.
pub fn own_archetypes(config: &Config) -> Option<Source> {
    let text = || crate::grants::DECLARATION.to_owned();
    config.grants.consent.then(|| Source { name: "(built in) session_grant.toml".to_owned(), text: text() })
}

/// Catalogue and policies from texts; no provider yet.
fn judge_by(
    catalogue: Vec<Source>,
    policies: Vec<Source>,
    entities: Vec<Source>,
    environment: Environment,
) -> Result<Rules, Vec<Mistake>> {
    let texts =
        Texts { catalogue: pairs(&catalogue), policies: pairs(&policies), entities: pairs(&entities) };
    let catalogue = Catalogue::load(true, &catalogue)?;
    let policies = match (policies.is_empty(), environment) {
        (true, Environment::Sandbox) => vec![Policies::sandbox()],
        _ => policies,
    };
    let policies = Policies::load(&policies, &entities, &[], &catalogue)?;
    Ok(Rules { catalogue, policies, providers: HashMap::new(), texts, on_record: false })
}

/// In the sandbox every binding is replaced, so that no secret is read and no socket opened.
fn providers(
    catalogue: &Catalogue,
    tenant: &Tenant,
    environment: Environment,
    doors: &Doors,
) -> Result<HashMap<String, Arc<dyn Provider>>, Vec<Mistake>> {
    let (outside, beside) = (doors.outside(), doors.beside(tenant));
    let mut providers = HashMap::new();
    let mut mistakes = Vec::new();
    for archetype in catalogue.iter() {
        let made = match environment {
            Environment::Sandbox => Some(Ok(provider::sandboxed(archetype))),
            Environment::Production if archetype.bindings.is_empty() => None,
            Environment::Production => Some(provider::compile_for(archetype, outside, beside)),
        };
        match made {
            Some(Ok(provider)) => drop(providers.insert(archetype.name.clone(), provider)),
            Some(Err(found)) => mistakes.extend(found.into_iter().map(|mistake| Mistake {
                file: archetype.name.clone(),
                line: 0,
                column: 0,
                message: format!("binding{}: {}", mistake.pointer, mistake.message),
                hint: mistake.hint,
            })),
            None => {}
        }
    }
    if mistakes.is_empty() { Ok(providers) } else { Err(mistakes) }
}

/// The files of a tenant with one of these endings, by name. A folder that is not there is empty; one that cannot
/// be read is a mistake.
pub(crate) fn sources(
    folder: Option<&Path>,
    tenant: &Tenant,
    endings: &[&str],
) -> Result<Vec<Source>, Vec<Mistake>> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    if !folder.is_dir() {
        return Err(vec![unreadable(
            folder,
            "there is no such folder (`catalogue_dir` and `policy_dir` name them)",
        )]);
    }
    let folder = folder.join(tenant.as_str());
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&folder).map_err(|error| vec![unreadable(&folder, &error.to_string())])?;
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| endings.iter().any(|ending| found == *ending)));
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).map_err(|error| vec![unreadable(path, &error.to_string())])?;
        Ok(Source { name: path.display().to_string(), text })
    };
    paths.iter().map(read).collect()
}

fn unreadable(path: &Path, why: &str) -> Mistake {
    Mistake { file: path.display().to_string(), line: 0, column: 0, message: why.to_owned(), hint: None }
}

fn pairs(sources: &[Source]) -> Vec<(String, String)> {
    sources.iter().map(|source| (source.name.clone(), source.text.clone())).collect()
}

/// Rules as they were, from the texts that were kept: good for deciding again, not for acting.
pub(crate) fn read_again(texts: Texts, environment: Environment) -> Result<Rules, Vec<Mistake>> {
    let sources = |pairs: Vec<(String, String)>| {
        pairs.into_iter().map(|(name, text)| Source { name, text }).collect::<Vec<_>>()
    };
    let (catalogue, policies, entities) =
        (sources(texts.catalogue), sources(texts.policies), sources(texts.entities));
    judge_by(catalogue, policies, entities, environment)
}
