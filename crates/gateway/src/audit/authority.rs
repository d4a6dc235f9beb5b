//! Do the rows that are asked for authority (API keys, mandates, passkeys, freezes) say what the chain says was done?
//!
//! Every act of those who govern is taken in along the chain; what it comes to is compared with the rows: by the walk, which
//! tells of what differs, and when a store is opened, so that it gives nobody any right. Records from before a member was
//! written down leave that member uncompared.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;

use action::Tenant;
use ledger::{
    ApiKey, Authority, Enacted, Freeze, Held, Illegible, Mandate, PASSKEY_REVOKED, PrincipalKey, Scope,
};
use mandate::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::TrailFinding;
use crate::act::lock;
use crate::admin::{FreezeScope, jwk_hash};
use crate::approvals::Passkey;
use crate::log::COMPROMISED;
use crate::row::internal;
use crate::{Caller, Error};

/// Events of entries that tell who may do what.
pub(crate) const EVENTS: &[&str] = &[
    "key_created",
    "key_revoked",
    "mandate_issued",
    "mandate_delegated",
    "mandate_presented",
    "mandate_revoked",
    "budget_extended",
    "cluster_budget_transfer",
    "principal_key_registered",
    "principal_key_revoked",
    "frozen",
    "thawed",
    PASSKEY_REVOKED,
    COMPROMISED,
];

/// All that is wrong with the rows, named to those whose they are. One that no entry tells of is found at the last entry.
pub(super) fn findings(caller: &Caller, all: &Authority, last: i64) -> Vec<TrailFinding> {
    let name = |row: &Row<'_>| match row.tenant() {
        Some(tenant) if *tenant != caller.tenant => row.kind().to_owned(),
        _ => format!("{} `{}`", row.kind(), row.name()),
    };
    let (unlike, _) = unlike(all);
    let found = unlike.iter().map(|Unlike { row, told }| TrailFinding {
        entry: told.unwrap_or(last),
        action_id: None,
        receipt_id: None,
        what: match (row, told) {
            (Row::Missing(what), _) => format!("the {what} that it tells of is not stored"),
            (Row::Lost(_), _) => format!("the {FREEZE} that it tells of is not stored"),
            (Row::Illegible(Illegible { table, row }), _) => {
                format!("row {row} of the table `{table}` cannot be read")
            }
            (_, None) => format!("the stored {} is one that no entry tells of", name(row)),
            (_, Some(_)) => format!("the stored {} is not as the entries have it", name(row)),
        },
    });
    found.collect()
}

/// What was, when the store was opened, not as its entries have it: it gives nobody any right. And the passkeys that an entry
/// says have ended, which the rows are asked for with each use.
#[derive(Debug, Default)]
pub(crate) struct Unproven {
    keys: HashSet<[u8; 32]>,
    key_ids: BTreeSet<Box<str>>,
    mandates: BTreeSet<(Tenant, Box<str>)>,
    principals: BTreeSet<(Tenant, Box<str>, Box<str>)>,
    /// The tenants for whom a key was ever made.
    keyed: BTreeSet<Box<str>>,
    ended: Mutex<BTreeSet<Box<str>>>,
}

/// Freezes that nobody thawed and that are not stored, each with the entry that told of it last.
pub(crate) fn lost_freezes(all: &Authority) -> Vec<(Frozen, i64)> {
    let (unlike, _) = unlike(all);
    let lost = unlike.into_iter().filter_map(|it| match it.row {
        Row::Lost(frozen) => Some((frozen, it.told.unwrap_or(0))),
        _ => None,
    });
    lost.collect()
}

impl Unproven {
    /// Compares what is stored, and tells the operator of whatever differs.
    pub(crate) fn of(all: &Authority) -> Unproven {
        let mut unproven = Unproven::default();
        let (unlike, said) = unlike(all);
        for Unlike { row, told } in unlike {
            let (kind, entry) = (row.kind(), told);
            let (tenant, name) = (row.tenant().map(Tenant::as_str), row.name());
            tracing::error!(
                kind,
                tenant,
                name,
                entry,
                "{}; ask `countersign audit verify`",
                row.consequence()
            );
            match row {
                Row::Key(key) => {
                    unproven.keys.insert(key.hash);
                    unproven.key_ids.insert(key.id.clone());
                }
                Row::Mandate(mandate) => {
                    unproven.mandates.insert((mandate.tenant.clone(), mandate.jti.clone()));
                }
                Row::Principal(key) => {
                    let name = (key.tenant.clone(), key.issuer.clone(), key.kid.clone());
                    unproven.principals.insert(name);
                }
                Row::Passkey(_) | Row::Freeze(_) | Row::Lost(_) | Row::Missing(_) | Row::Illegible(_) => {}
            }
        }
        unproven.keyed = said.keyed;
        unproven.ended = Mutex::new(said.ended_passkeys.into_keys().collect());
        unproven
    }

    /// Is the API key with this hash, or of this name, one that does not count?
    pub(crate) fn has_key(&self, hash: &[u8; 32]) -> bool {
        self.keys.contains(hash)
    }

    pub(crate) fn has_key_of(&self, id: &str) -> bool {
        self.key_ids.contains(id)
    }

    /// Was a key made for this tenant, whatever is stored now?
    pub(crate) fn has_keyed(&self, tenant: &Tenant) -> bool {
        self.keyed.contains(tenant.as_str())
    }

    pub(crate) fn has_principal(&self, key: &PrincipalKey) -> bool {
        !self.principals.is_empty()
            && self.principals.contains(&(key.tenant.clone(), key.issuer.clone(), key.kid.clone()))
    }

    /// Lets through a mandate that is as its entries have it.
    pub(crate) fn lets_pass(&self, tenant: &Tenant, jti: &str) -> Result<(), Error> {
        if !self.mandates.is_empty() && self.mandates.contains(&(tenant.clone(), jti.into())) {
            return Err(internal("a stored mandate is not as its entries have it"));
        }
        Ok(())
    }

    /// Has the passkey of this name ended, as an entry says, whatever its row does?
    pub(crate) fn has_ended(&self, passkey: &str) -> bool {
        lock(&self.ended).contains(passkey)
    }

    pub(crate) fn end(&self, passkey: &str) {
        lock(&self.ended).insert(passkey.into());
    }
}

/// A row that is not what the entries come to.
struct Unlike<'a> {
    row: Row<'a>,
    /// The latest entry that tells of it, if one does.
    told: Option<i64>,
}

enum Row<'a> {
    Key(&'a ApiKey),
    Mandate(&'a Mandate),
    Principal(&'a PrincipalKey),
    Passkey(&'a ledger::Passkey),
    Freeze(&'a Freeze),
    /// What an entry tells of, and is not stored.
    Missing(&'static str),
    /// The same of a freeze.
    Lost(Frozen),
    Illegible(Illegible),
}

impl Row<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Row::Key(_) => KEY,
            Row::Mandate(_) => MANDATE,
            Row::Principal(_) => PRINCIPAL_KEY,
            Row::Passkey(_) => PASSKEY,
            Row::Freeze(_) | Row::Lost(_) => FREEZE,
            Row::Missing(what) => what,
            Row::Illegible(illegible) => illegible.table,
        }
    }

    /// What those whose it is know it by.
    fn name(&self) -> String {
        match self {
            Row::Key(key) => key.id.to_string(),
            Row::Mandate(mandate) => mandate.jti.to_string(),
            Row::Principal(key) => key.kid.to_string(),
            Row::Passkey(passkey) => passkey.id.to_string(),
            Row::Freeze(freeze) => FreezeScope::of(&freeze.scope).to_string(),
            Row::Lost(frozen) => frozen.scope.to_string(),
            Row::Missing(_) => String::new(),
            Row::Illegible(illegible) => illegible.row.to_string(),
        }
    }

    /// Whose it is; nobody's is everybody's.
    fn tenant(&self) -> Option<&Tenant> {
        match self {
            Row::Key(key) => Some(&key.tenant),
            Row::Mandate(mandate) => Some(&mandate.tenant),
            Row::Principal(key) => Some(&key.tenant),
            Row::Passkey(passkey) => Some(&passkey.tenant),
            Row::Freeze(freeze) => tenant_of(&freeze.scope),
            Row::Lost(_) | Row::Missing(_) | Row::Illegible(_) => None,
        }
    }

    /// What an operator has to know of it.
    fn consequence(&self) -> &'static str {
        match self {
            Row::Freeze(_) => "a stored freeze is not as the entries have it, and stands until it is thawed",
            Row::Lost(_) => "a freeze that an entry tells of is not stored, and is put back",
            Row::Missing(_) => "what an entry tells of is not stored",
            Row::Illegible(_) => "a stored row cannot be read",
            _ => "a stored row is not as the entries have it, and counts for nothing",
        }
    }
}

/// What of the rows differs; and what the entries say that no row has to.
fn unlike(all: &Authority) -> (Vec<Unlike<'_>>, Beside) {
    let mut acts = Acts::of(all);
    let keyed = acts.keys.values().filter_map(|it| Some(it.made.more.as_ref()?.tenant.clone())).collect();
    let mut unlike = Vec::new();
    for key in &all.keys {
        let stands = acts.keys.remove(&*key.id);
        unlike.extend(compared(Row::Key(key), stands, |made, ended| made.fits(key, ended)));
    }
    for Held { mandate, account } in &all.mandates {
        let granted = acts.granted.remove(&(mandate.tenant.as_str().into(), mandate.jti.clone()));
        let is_all = granted.unwrap_or_default() == account.granted;
        let fits = |made: &Mandated, ended: bool| {
            made.fits(mandate) && ended == account.revoked_at.is_some() && is_all
        };
        unlike.extend(compared(Row::Mandate(mandate), acts.mandates.remove(&*mandate.jti), fits));
    }
    for key in &all.principal_keys {
        let signer = (key.tenant.as_str().into(), key.issuer.clone(), key.kid.clone());
        let stands = acts.principal_keys.remove(&signer);
        unlike.extend(compared(Row::Principal(key), stands, |made, ended| made.fits(key, ended)));
    }
    for freeze in &all.freezes {
        unlike.extend(compared(Row::Freeze(freeze), acts.take_freeze(freeze), |made, _| made.fits(freeze)));
    }
    let beside = Beside { keyed, ended_passkeys: std::mem::take(&mut acts.ended_passkeys) };
    // Where a passkey has no entry, or its entries no passkey, the ledger tells.
    for stored in &all.passkeys {
        let ended = beside.ended_passkeys.get(&stored.id);
        if Passkey::read_from(stored).is_none() || ended.is_some() != stored.revoked.is_some() {
            unlike.push(Unlike { row: Row::Passkey(stored), told: Some(*ended.unwrap_or(&stored.entry)) });
        }
    }
    unlike.extend(all.illegible.iter().map(|it| Unlike { row: Row::Illegible(*it), told: None }));
    unlike.extend(acts.missing());
    (unlike, beside)
}

/// What entries say whether or not there is a row for it.
struct Beside {
    /// The tenants for whom a key was ever made.
    keyed: BTreeSet<Box<str>>,
    /// The passkeys that have ended, each with the entry that tells of it.
    ended_passkeys: BTreeMap<Box<str>, i64>,
}

const KEY: &str = "API key";
const MANDATE: &str = "mandate";
const PRINCIPAL_KEY: &str = "key of a principal";
const FREEZE: &str = "freeze";
const PASSKEY: &str = "passkey";

/// What all acts together come to.
#[derive(Default)]
struct Acts {
    keys: BTreeMap<Box<str>, Stands<Key>>,
    mandates: BTreeMap<Box<str>, Stands<Mandated>>,
    principal_keys: BTreeMap<Signer, Stands<Principals>>,
    freezes: BTreeMap<Place, Stands<Frozen>>,
    /// On top of each mandate's envelope, by tenant and mandate.
    granted: BTreeMap<(Box<str>, Box<str>), mandate::Granted>,
    /// The passkeys that have ended, each with the entry that tells of it.
    ended_passkeys: BTreeMap<Box<str>, i64>,
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

impl Acts {
    fn of(all: &Authority) -> Acts {
        let mut acts = Acts::default();
        all.enacted.iter().for_each(|act| acts.take(act));
        acts
    }

    fn take(&mut self, act: &Enacted) {
        match &*act.event {
            "key_created" => begin(&mut self.keys, act, |key: &Key| key.id.clone()),
            "key_revoked" => end(&mut self.keys, act, |ended: &EndedKey| ended.id.clone()),
            "mandate_issued" | "mandate_delegated" | "mandate_presented" => {
                begin(&mut self.mandates, act, |mandate: &Mandated| mandate.jti.clone())
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
            PASSKEY_REVOKED => {
                let ended = read::<EndedKey>(act).map(|ended| (ended.id, act.entry));
                self.ended_passkeys.extend(ended);
            }
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
    fn missing<'a>(self) -> impl Iterator<Item = Unlike<'a>> {
        let keys = self.keys.into_values().map(|it| (it.entry, KEY));
        let mandates = self.mandates.into_values().map(|it| (it.entry, MANDATE));
        let principals = self.principal_keys.into_values().map(|it| (it.entry, PRINCIPAL_KEY));
        let freezes = self.freezes.into_values().map(|it| (it.entry, Row::Lost(it.made)));
        let rest = keys.chain(mandates).chain(principals).map(|(entry, what)| (entry, Row::Missing(what)));
        rest.chain(freezes).map(|(entry, row)| Unlike { row, told: Some(entry) })
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

fn compared<'a, T>(
    row: Row<'a>,
    told: Option<Stands<T>>,
    fits: impl Fn(&T, bool) -> bool,
) -> Option<Unlike<'a>> {
    match told {
        None => Some(Unlike { row, told: None }),
        Some(told) if fits(&told.made, told.ended) => None,
        Some(told) => Some(Unlike { row, told: Some(told.entry) }),
    }
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
            && key.created_by.as_ref() == Some(&self.by)
            && ended == key.revoked_ms.is_some()
    }
}

/// Of an API key or a passkey.
#[derive(Deserialize)]
struct EndedKey {
    id: Box<str>,
}

#[derive(Deserialize)]
struct Mandated {
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

impl Mandated {
    fn fits(&self, mandate: &Mandate) -> bool {
        let more = self.more.as_ref().is_none_or(|more| {
            *more.tenant == *mandate.tenant.as_str()
                && *more.claims_hash == *hex::encode(Sha256::digest(&mandate.claims))
                && more.expires_at.saturating_mul(1000) == mandate.expires_ms
                && more.chain == mandate.chain
                && more.kid == mandate.kid
        });
        let by = serde_json::from_slice(&mandate.claims).ok();
        more && *self.sub == *mandate.subject.as_str() && by == Some(IssuedBy { iss: mandate.issuer.clone() })
    }
}

/// Of a mandate's claims, who gave it.
#[derive(Deserialize, PartialEq)]
struct IssuedBy {
    iss: Box<str>,
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

/// A freeze, as its record has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Frozen {
    scope: Box<str>,
    #[serde(default)]
    by: Box<str>,
    reason: Option<Box<str>>,
    /// Older records do not say it.
    tenant: Option<Box<str>>,
    #[serde(default)]
    pub(crate) include_rollback: bool,
}

impl Frozen {
    /// What it stopped; everything, where nobody can tell whose it was.
    pub(crate) fn scope(&self) -> Scope {
        let scope = FreezeScope::parse(&self.scope);
        let tenant = self.tenant.as_deref().and_then(|tenant| Tenant::parse(tenant).ok());
        match (scope, tenant) {
            (Some(scope), Some(tenant)) => scope.within(&tenant),
            (Some(scope @ FreezeScope::Provider(_)), None) => scope.within(&Tenant::default()),
            _ => Scope::All,
        }
    }

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
pub(crate) fn tenant_of(scope: &Scope) -> Option<&Tenant> {
    match scope {
        Scope::All | Scope::Provider(_) => None,
        Scope::Tenant(tenant) | Scope::Agent(tenant, _) | Scope::Archetype(tenant, _) => Some(tenant),
    }
}
