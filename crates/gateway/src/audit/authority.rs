//! Do the rows that are asked for authority (API keys, mandates, freezes) say what the chain says was done?
//!
//! Every act of those who govern is taken in along the chain; what it comes to is compared with the rows. Records from
//! before a member was written down leave that member uncompared.

use std::collections::BTreeMap;

use action::Tenant;
use ledger::{ApiKey, Authority, Enacted, Freeze, Held, Mandate, PrincipalKey, Scope};
use mandate::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::TrailFinding;
use crate::Caller;
use crate::admin::{FreezeScope, jwk_hash};

/// All that is wrong with the rows, named to those whose they are. One that no entry tells of is found at the last entry.
pub(super) fn findings(caller: &Caller, all: &Authority, last: i64) -> Vec<TrailFinding> {
    let mut told = Told::default();
    all.enacted.iter().for_each(|act| told.take(act));
    let mut wrong = Vec::new();
    for key in &all.keys {
        let (told, ours) = (told.keys.remove(&*key.id), key.tenant == caller.tenant);
        wrong.extend(unlike(&named(KEY, &key.id, ours), told, last, |made, ended| made.fits(key, ended)));
    }
    for Held { mandate, account } in &all.mandates {
        let granted = told.granted.remove(&(mandate.tenant.as_str().into(), mandate.jti.clone()));
        let (told, ours) = (told.mandates.remove(&*mandate.jti), mandate.tenant == caller.tenant);
        let is_all = granted.unwrap_or_default() == account.granted;
        let fits = |made: &Granted, ended: bool| {
            made.fits(mandate) && ended == account.revoked_at.is_some() && is_all
        };
        wrong.extend(unlike(&named(MANDATE, &mandate.jti, ours), told, last, fits));
    }
    for key in &all.principal_keys {
        let signer = (key.tenant.as_str().into(), key.issuer.clone(), key.kid.clone());
        let (told, ours) = (told.principal_keys.remove(&signer), key.tenant == caller.tenant);
        let name = named(PRINCIPAL_KEY, &key.kid, ours);
        wrong.extend(unlike(&name, told, last, |made, ended| made.fits(key, ended)));
    }
    for freeze in &all.freezes {
        let ours = tenant_of(&freeze.scope).is_none_or(|tenant| *tenant == caller.tenant);
        let name = named(FREEZE, &FreezeScope::of(&freeze.scope).to_string(), ours);
        wrong.extend(unlike(&name, told.take_freeze(freeze), last, |made, _| made.fits(freeze)));
    }
    wrong.extend(told.missing());
    wrong
}

const KEY: &str = "API key";
const MANDATE: &str = "mandate";
const PRINCIPAL_KEY: &str = "key of a principal";
const FREEZE: &str = "freeze";

fn named(what: &str, name: &str, ours: bool) -> String {
    if ours { format!("{what} `{name}`") } else { what.to_owned() }
}

/// What all acts together come to.
#[derive(Default)]
struct Told {
    keys: BTreeMap<Box<str>, Stands<Key>>,
    mandates: BTreeMap<Box<str>, Stands<Granted>>,
    principal_keys: BTreeMap<Signer, Stands<Principals>>,
    freezes: BTreeMap<Place, Stands<Frozen>>,
    /// On top of each mandate's envelope, by tenant and mandate.
    granted: BTreeMap<(Box<str>, Box<str>), mandate::Granted>,
}

/// Tenant, principal and key.
type Signer = (Box<str>, Box<str>, Box<str>);

/// What a freeze stops: the chain's name of the tenant, unless it stops everybody's, and the scope.
type Place = (Option<Box<str>>, Box<str>);

/// Something that was made, and may have ended.
struct Stands<T> {
    made: T,
    /// The latest entry that tells of it.
    entry: i64,
    ended: bool,
}

impl Told {
    fn take(&mut self, act: &Enacted) {
        match &*act.event {
            "key_created" => begin(&mut self.keys, act, |key: &Key| key.id.clone()),
            "key_revoked" => end(&mut self.keys, act, |ended: &EndedKey| ended.id.clone()),
            "mandate_issued" | "mandate_delegated" | "mandate_presented" => {
                begin(&mut self.mandates, act, |mandate: &Granted| mandate.jti.clone())
            }
            "mandate_revoked" => end(&mut self.mandates, act, |ended: &EndedMandate| ended.jti.clone()),
            "budget_extended" => self.grant(read(act)),
            "cluster_budget_transfer" => {
                self.grant(read(act).into_iter().flat_map(|it: Transferred| it.granted));
            }
            "principal_key_registered" => {
                begin(&mut self.principal_keys, act, |key: &Principals| key.name());
            }
            "principal_key_revoked" => {
                end(&mut self.principal_keys, act, |ended: &EndedPrincipals| ended.name())
            }
            "frozen" => begin(&mut self.freezes, act, |frozen: &Frozen| frozen.place(act)),
            "thawed" => {
                if let Some(thawed) = read::<Frozen>(act) {
                    self.freezes.remove(&thawed.place(act));
                }
            }
            _ => {}
        }
    }

    fn grant(&mut self, all: impl IntoIterator<Item = MoreGranted>) {
        for MoreGranted { tenant, jti, seconds, resource, amount } in all {
            let sum = self.granted.entry((tenant, jti)).or_default();
            *sum = sum.and(Resource::Seconds, seconds);
            if let Some(resource) = resource.as_deref().and_then(Resource::parse) {
                *sum = sum.and(resource, amount);
            }
        }
    }

    /// What was told of a freeze. Only its own record says in plain words whose it is.
    fn take_freeze(&mut self, freeze: &Freeze) -> Option<Stands<Frozen>> {
        let place = self.freezes.iter().find(|(_, told)| told.made.is_of(&freeze.scope));
        let place = place.map(|(place, _)| place.clone())?;
        self.freezes.remove(&place)
    }

    /// What has no row. The entry says which one, to those who may read it.
    fn missing(self) -> impl Iterator<Item = TrailFinding> {
        let keys = self.keys.into_values().map(|it| (it.entry, KEY));
        let mandates = self.mandates.into_values().map(|it| (it.entry, MANDATE));
        let principals = self.principal_keys.into_values().map(|it| (it.entry, PRINCIPAL_KEY));
        let freezes = self.freezes.into_values().map(|it| (it.entry, FREEZE));
        let all = keys.chain(mandates).chain(principals).chain(freezes);
        all.map(|(entry, what)| finding(entry, format!("the {what} that it tells of is not stored")))
    }
}

fn begin<K: Ord, T: DeserializeOwned>(
    all: &mut BTreeMap<K, Stands<T>>,
    act: &Enacted,
    name: impl Fn(&T) -> K,
) {
    if let Some(made) = read::<T>(act) {
        all.insert(name(&made), Stands { made, entry: act.entry, ended: false });
    }
}

fn end<K: Ord, T, E: DeserializeOwned>(
    all: &mut BTreeMap<K, Stands<T>>,
    act: &Enacted,
    name: impl Fn(&E) -> K,
) {
    if let Some(told) = read::<E>(act).and_then(|ended| all.get_mut(&name(&ended))) {
        (told.entry, told.ended) = (act.entry, true);
    }
}

/// A record that cannot be read is not what its entry names, which the ledger tells, or tells of nothing known here.
fn read<T: DeserializeOwned>(act: &Enacted) -> Option<T> {
    serde_json::from_slice(&act.record).ok()
}

fn unlike<T>(
    name: &str,
    told: Option<Stands<T>>,
    last: i64,
    fits: impl Fn(&T, bool) -> bool,
) -> Option<TrailFinding> {
    match told {
        None => Some(finding(last, format!("the stored {name} is one that no entry tells of"))),
        Some(told) if fits(&told.made, told.ended) => None,
        Some(told) => Some(finding(told.entry, format!("the stored {name} is not as the entries have it"))),
    }
}

fn finding(entry: i64, what: String) -> TrailFinding {
    TrailFinding { entry, action_id: None, receipt_id: None, what }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    id: Box<str>,
    role: Box<str>,
    subject: Box<str>,
    by: Box<str>,
    #[serde(flatten)]
    more: Option<MoreOfKey>,
}

/// What older records do not say.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MoreOfKey {
    tenant: Box<str>,
    hash: Box<str>,
    default_mandate: Option<Box<str>>,
}

impl Key {
    fn fits(&self, key: &ApiKey, ended: bool) -> bool {
        let more = self.more.as_ref().is_none_or(|more| {
            *more.tenant == *key.tenant.as_str()
                && *more.hash == *hex::encode(key.hash)
                && more.default_mandate == key.default_mandate
        });
        more && self.role == key.role
            && *self.subject == *key.subject.as_str()
            && key.created_by.as_ref().is_none_or(|by| *by == self.by)
            && ended == key.revoked_ms.is_some()
    }
}

#[derive(Deserialize)]
struct EndedKey {
    id: Box<str>,
}

#[derive(Deserialize)]
struct Granted {
    jti: Box<str>,
    sub: Box<str>,
    #[serde(flatten)]
    more: Option<MoreOfMandate>,
}

/// What older records do not say.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MoreOfMandate {
    tenant: Box<str>,
    claims_hash: Box<str>,
    expires_at: i64,
    #[serde(default)]
    chain: Vec<Box<str>>,
    kid: Option<Box<str>>,
}

impl Granted {
    fn fits(&self, mandate: &Mandate) -> bool {
        let more = self.more.as_ref().is_none_or(|more| {
            *more.tenant == *mandate.tenant.as_str()
                && *more.claims_hash == *hex::encode(Sha256::digest(&mandate.claims))
                && more.expires_at.saturating_mul(1000) == mandate.expires_ms
                && more.chain == mandate.chain
                && more.kid == mandate.kid
        });
        more && *self.sub == *mandate.subject.as_str()
    }
}

/// Time, or so much of a resource; below zero where it went to another.
#[derive(Deserialize)]
struct MoreGranted {
    tenant: Box<str>,
    jti: Box<str>,
    #[serde(default)]
    seconds: i64,
    resource: Option<Box<str>>,
    #[serde(default)]
    amount: i64,
}

#[derive(Deserialize)]
struct Transferred {
    granted: Vec<MoreGranted>,
}

#[derive(Deserialize)]
struct EndedMandate {
    jti: Box<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Principals {
    tenant: Box<str>,
    issuer: Box<str>,
    kid: Box<str>,
    jwk_hash: Box<str>,
    by: Box<str>,
}

impl Principals {
    fn name(&self) -> Signer {
        (self.tenant.clone(), self.issuer.clone(), self.kid.clone())
    }

    fn fits(&self, key: &PrincipalKey, ended: bool) -> bool {
        *self.jwk_hash == *jwk_hash(key) && self.by == key.created_by && ended == key.revoked_ms.is_some()
    }
}

#[derive(Deserialize)]
struct EndedPrincipals {
    tenant: Box<str>,
    issuer: Box<str>,
    kid: Box<str>,
}

impl EndedPrincipals {
    fn name(&self) -> Signer {
        (self.tenant.clone(), self.issuer.clone(), self.kid.clone())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Frozen {
    scope: Box<str>,
    #[serde(default)]
    by: Box<str>,
    reason: Option<Box<str>>,
    /// Older records do not say it.
    tenant: Option<Box<str>>,
    #[serde(default)]
    include_rollback: bool,
}

impl Frozen {
    fn place(&self, act: &Enacted) -> Place {
        let reaches_all = *self.scope == *"all" || self.scope.starts_with("provider:");
        (act.tenant_ref.clone().filter(|_| !reaches_all), self.scope.clone())
    }

    fn is_of(&self, scope: &Scope) -> bool {
        let same =
            tenant_of(scope).is_none_or(|it| self.tenant.as_ref().is_none_or(|told| **told == *it.as_str()));
        same && *self.scope == *FreezeScope::of(scope).to_string()
    }

    fn fits(&self, freeze: &Freeze) -> bool {
        self.by == freeze.by
            && self.include_rollback == freeze.include_rollback
            && *self.reason.as_deref().unwrap_or_default() == *freeze.reason
    }
}

/// Whose it stops, if not everybody's.
fn tenant_of(scope: &Scope) -> Option<&Tenant> {
    match scope {
        Scope::All | Scope::Provider(_) => None,
        Scope::Tenant(tenant) | Scope::Agent(tenant, _) | Scope::Archetype(tenant, _) => Some(tenant),
    }
}
