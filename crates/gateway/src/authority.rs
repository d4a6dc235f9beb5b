//! Mandates: found for a request, with everything that they descend from.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use action::{Subject, Tenant};
use mandate::{Algorithm, Claims, Limits, Mandate, Refusal, SigningKey, Verified, VerifyingKey};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::act::lock;
use crate::admin::{Signs, event};
use crate::audit::authority::Unproven;
use crate::gateway::Gateway;
use crate::keys::open_private;
use crate::remember::unavailable;
use crate::row::internal;
use crate::{Caller, Error, clock};

/// The keys that sign mandates, one for each tenant, and the mandates understood lately.
pub(crate) struct Authority {
    keys: HashMap<Tenant, SigningKey>,
    /// By SHA-256 of tenant and token. What a token says never changes; whether it is revoked is asked every time.
    verified: Mutex<HashMap<[u8; 32], Arc<Line>>>,
    /// Public keys of principals by thumbprint: a key of that name has those bytes.
    read: Mutex<HashMap<Box<str>, VerifyingKey>>,
    /// Keys of agents, by thumbprint, of which nobody has said what they sign.
    unclear: Mutex<HashSet<Box<str>>>,
}

/// A mandate and all that it descends from, as far as none of it ever changes. What one leaves out it has from the one
/// above it.
#[derive(Default)]
pub(crate) struct Line {
    /// Leaf first. Never empty.
    pub mandates: Vec<Arc<Mandate>>,
    /// The same, as they are written; what is left out is filled in.
    pub claims: Vec<Claims>,
    /// With what these were signed, root first; none for what was issued here.
    signed: Vec<Signed>,
    /// Who gave one of these, and did not hand on what they held.
    givers: Vec<Subject>,
}

/// Who signed a mandate of a line, and with which key.
struct Signed {
    issuer: Box<str>,
    kid: Box<str>,
    /// It stands under no other: whoever signed it gives it, and hands nothing on.
    gives: bool,
}

/// What a remembered mandate is found by; a token must never be taken for an id.
const BY_TOKEN: u8 = 1;
const BY_ID: u8 = 2;
/// Tokens remembered as verified; over it all are forgotten.
const MOST_VERIFIED: usize = 10_000;
/// The token that everybody may use in the sandbox.
pub const PUBLIC_TOKEN: &str = "tok-sandbox-public";

impl Authority {
    /// Opens or makes a key for each tenant.
    pub(crate) fn open<'a>(
        folder: &Path,
        tenants: impl Iterator<Item = &'a Tenant>,
    ) -> Result<Authority, String> {
        let open = |tenant: &Tenant| {
            let path = folder.join(format!("mandate-{tenant}.pkcs8"));
            let make = || {
                let key = receipt::SigningKey::generate().map_err(|error| error.to_string())?;
                key.to_pkcs8().map_err(|error| error.to_string())
            };
            let document = open_private(&path, make)?;
            let key = SigningKey::from_pkcs8(Algorithm::Es256, &document);
            Ok((tenant.clone(), key.map_err(|error| format!("`{}`: {error}", path.display()))?))
        };
        let keys: Result<_, String> = tenants.map(open).collect();
        Ok(Authority {
            keys: keys?,
            verified: Mutex::default(),
            read: Mutex::default(),
            unclear: Mutex::default(),
        })
    }

    /// The key that signs the mandates of a tenant.
    pub(crate) fn key(&self, tenant: &Tenant) -> Option<&SigningKey> {
        self.keys.get(tenant)
    }

    fn known(&self, name: &[u8; 32]) -> Option<Arc<Line>> {
        lock(&self.verified).get(name).map(Arc::clone)
    }

    fn remember(&self, name: [u8; 32], line: &Arc<Line>) {
        let mut verified = lock(&self.verified);
        if verified.len() >= MOST_VERIFIED {
            verified.clear();
        }
        verified.insert(name, Arc::clone(line));
    }

    /// Whether the keys that a line was signed with are good still, each for what it signed.
    ///
    /// INVARIANT (given): no mandate stands at a root that was signed with a key registered to sign what is handed on.
    fn vouches(&self, tenant: &Tenant, line: &Line, principals: &Principals<'_>) -> Result<(), Refusal> {
        for Signed { issuer, kid, gives } in &line.signed {
            let key = principals.of(tenant, issuer).find(|key| key.kid == *kid);
            let key = key.ok_or_else(|| Refusal::UnknownKey { issuer: issuer.to_string() })?;
            if *gives && self.signs(key) != Signs::Mandates {
                return Err(Refusal::NoPrincipal { issuer: issuer.to_string() });
            }
        }
        Ok(())
    }

    /// What a key signs. One that was registered before that was said is a principal's, unless that is an agent.
    pub(crate) fn signs(&self, key: &ledger::PrincipalKey) -> Signs {
        let unclear = || lock(&self.unclear).contains(&key.kid);
        Signs::kept(&key.jwk).unwrap_or_else(|| if unclear() { Signs::Children } else { Signs::Mandates })
    }

    /// A key of which it is not said what it signs, and which is an agent's.
    pub(crate) fn doubt(&self, key: &ledger::PrincipalKey) {
        lock(&self.unclear).insert(key.kid.clone());
    }

    /// A key of a principal, read once. What is registered was read before.
    fn read(&self, key: &ledger::PrincipalKey) -> Option<VerifyingKey> {
        let mut read = lock(&self.read);
        if let Some(known) = read.get(&key.kid) {
            return Some(known.clone());
        }
        let verifying = VerifyingKey::from_jwk(&key.jwk).ok()?;
        read.insert(key.kid.clone(), verifying.clone());
        Some(verifying)
    }
}

fn name_of(kind: u8, tenant: &Tenant, text: &str) -> [u8; 32] {
    let hash = Sha256::new().chain_update([kind]).chain_update(tenant.as_str()).chain_update([0]);
    hash.chain_update(text).finalize().into()
}

/// The keys registered for one tenant: the one with which it issues here, and those of its principals.
struct Registered<'a> {
    authority: &'a Authority,
    tenant: &'a Tenant,
    principals: &'a Principals<'a>,
}

impl mandate::KeyLookup for Registered<'_> {
    fn key(&self, issuer: &str, kid: Option<&str>) -> Option<VerifyingKey> {
        let ours = self.authority.key(self.tenant).map(SigningKey::verifying);
        if let Some(ours) = ours.filter(|ours| kid == Some(ours.kid())) {
            return Some(ours.clone());
        }
        let mut theirs =
            self.principals.of(self.tenant, issuer).filter(|key| kid.is_none_or(|kid| *kid == *key.kid));
        match (theirs.next(), theirs.next(), kid) {
            (Some(key), None, _) => self.authority.read(key),
            // A token that names no key is one of the issuer's only key, or of ours.
            (None, _, None) => ours.cloned(),
            _ => None,
        }
    }
}

/// The keys of principals, as they are stored.
struct Principals<'a> {
    stored: Arc<Vec<ledger::PrincipalKey>>,
    unproven: &'a Unproven,
}

impl Principals<'_> {
    /// The keys of this principal that have not ended and are as their entries have them.
    fn of(&self, tenant: &Tenant, issuer: &str) -> impl Iterator<Item = &ledger::PrincipalKey> {
        self.stored.iter().filter(move |key| {
            key.tenant == *tenant
                && *key.issuer == *issuer
                && key.revoked_ms.is_none()
                && !self.unproven.has_principal(key)
        })
    }
}

/// The mandate that a request comes under and those it descends from, or why what it brought is none.
#[derive(Default)]
pub(crate) struct Standing {
    pub mandate: Option<Arc<Mandate>>,
    /// Nearest first.
    pub ancestors: Vec<Arc<Mandate>>,
    pub refusal: Option<Refusal>,
}

impl Standing {
    /// The mandate and all above it, leaf first.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &Arc<Mandate>> {
        self.mandate.iter().chain(&self.ancestors)
    }

    fn refused(refusal: Refusal) -> Standing {
        Standing { refusal: Some(refusal), ..Standing::default() }
    }
}

impl Gateway {
    /// The mandate of a request: its own token, else the API key's default, else, in the sandbox, the public one. A dry
    /// run leaves nothing behind.
    pub(crate) async fn standing(
        &self,
        caller: &Caller,
        token: Option<&str>,
        dry_run: bool,
    ) -> Result<Standing, Error> {
        let sandbox = self.environment == action::Environment::Sandbox;
        let public = || {
            let mandate = Some(self.public_mandate(&caller.subject)?);
            Ok(Standing { mandate, ..Standing::default() })
        };
        let found = match (token, &caller.default_mandate) {
            (Some(PUBLIC_TOKEN), _) if sandbox => return public(),
            (Some(token), _) => self.line_of_token(&caller.tenant, token, dry_run).await?,
            (None, Some(jti)) => match self.line(&caller.tenant, jti).await? {
                Some(found) => found,
                None => return Ok(Standing::default()),
            },
            (None, None) if sandbox => return public(),
            (None, None) => return Ok(Standing::default()),
        };
        match found {
            Ok(line) => self.standing_of(&caller.tenant, &line).await,
            Err(refusal) => Ok(Standing::refused(refusal)),
        }
    }

    /// What can change of a line, looked at each time: the keys that signed it, and how the operator bounds it. What its
    /// mandates have left, and whether they ended, is for the judge and for admission.
    pub(crate) async fn standing_of(&self, tenant: &Tenant, line: &Line) -> Result<Standing, Error> {
        if !line.signed.is_empty() {
            let principals = self.principals_that_sign().await?;
            if let Err(refusal) = self.authority.vouches(tenant, line, &principals) {
                return Ok(Standing::refused(refusal));
            }
        }
        let most = self.config.limits.delegation_depth;
        if line.mandates.len() > most.saturating_add(1) {
            return Ok(Standing::refused(Refusal::ChainTooDeep { most }));
        }
        for link in line.mandates.windows(2) {
            let [child, parent] = link else { continue };
            if let Err(refusal) = child.fits(parent, &parent.limits()) {
                return Ok(Standing::refused(refusal));
            }
        }
        let mut mandates = line.mandates.iter().cloned();
        Ok(Standing { mandate: mandates.next(), ancestors: mandates.collect(), refusal: None })
    }

    /// Whether this name is a principal's, who gives mandates.
    pub(crate) async fn gives_mandates(&self, tenant: &Tenant, name: &str) -> Result<bool, Error> {
        let principals = self.principals_that_sign().await?;
        Ok(principals.of(tenant, name).any(|key| self.authority.signs(key) == Signs::Mandates))
    }

    async fn principals_that_sign(&self) -> Result<Principals<'_>, Error> {
        let stored = self.ledger.principals().await.map_err(unavailable)?;
        Ok(Principals { stored, unproven: &self.unproven })
    }

    async fn line_of_token(
        &self,
        tenant: &Tenant,
        token: &str,
        dry_run: bool,
    ) -> Result<Result<Arc<Line>, Refusal>, Error> {
        let name = name_of(BY_TOKEN, tenant, token);
        if let Some(known) = self.authority.known(&name) {
            return Ok(Ok(known));
        }
        let principals = self.principals_that_sign().await?;
        let keys = Registered { authority: &self.authority, tenant, principals: &principals };
        let verified = match mandate::verify(token, &keys, &self.issuer, clock::now_ms() / 1000) {
            Ok(verified) => verified,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let ours = self.authority.key(tenant).is_some_and(|key| key.verifying().kid() == verified.kid);
        let kid = (!ours).then(|| Box::from(verified.kid.as_str()));
        let line = match self.line_above(tenant, verified.claims.clone(), kid).await? {
            Ok(line) => Arc::new(line),
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(refusal) = self.authority.vouches(tenant, &line, &principals) {
            return Ok(Err(refusal));
        }
        if !ours && let Err(refusal) = self.take_in(tenant, &verified, &line, dry_run).await? {
            return Ok(Err(refusal));
        }
        if ours || !dry_run {
            self.authority.remember(name, &line);
        }
        Ok(Ok(line))
    }

    /// A mandate that is stored, with all above it; `None` if there is none of this name.
    pub(crate) async fn line(
        &self,
        tenant: &Tenant,
        jti: &str,
    ) -> Result<Option<Result<Arc<Line>, Refusal>>, Error> {
        let name = name_of(BY_ID, tenant, jti);
        if let Some(known) = self.authority.known(&name) {
            return Ok(Some(Ok(known)));
        }
        let Some(held) = self.ledger.mandate(tenant, jti).await.map_err(unavailable)? else {
            return Ok(None);
        };
        let line = self.line_above(tenant, claims_of(&held.mandate)?, held.mandate.kid).await?;
        Ok(Some(line.map(|line| {
            let line = Arc::new(line);
            self.authority.remember(name, &line);
            line
        })))
    }

    /// Every mandate from this one up to the root, each following on the one above it.
    async fn line_above(
        &self,
        tenant: &Tenant,
        leaf: Claims,
        kid: Option<Box<str>>,
    ) -> Result<Result<Line, Refusal>, Error> {
        let chain = leaf.delegation_chain.clone().unwrap_or_default();
        for jti in chain.iter().chain([&leaf.jti]) {
            self.unproven.lets_pass(tenant, jti)?;
        }
        let most = self.config.limits.delegation_depth;
        if chain.len() > most {
            return Ok(Err(Refusal::ChainTooDeep { most }));
        }
        let mut line = Line::default();
        for (depth, jti) in chain.iter().enumerate() {
            let Some(held) = self.ledger.mandate(tenant, jti).await.map_err(unavailable)? else {
                return Ok(Err(Refusal::ChainUnresolved { jti: jti.clone() }));
            };
            let claims = claims_of(&held.mandate)?;
            if claims.delegation_chain.as_deref().unwrap_or(&[]) != &chain[..depth] {
                return Ok(Err(Refusal::ChainBroken { jti: jti.clone() }));
            }
            if let Err(refusal) = line.descend(claims, held.mandate.kid) {
                return Ok(Err(refusal));
            }
        }
        if let Err(refusal) = line.descend(leaf, kid) {
            return Ok(Err(refusal));
        }
        line.mandates.reverse();
        line.claims.reverse();
        Ok(Ok(line))
    }

    /// Remembers a mandate that its principal signed, when it comes for the first time: from then on others can descend
    /// from it. One that descends from another itself must narrow what that has left.
    async fn take_in(
        &self,
        tenant: &Tenant,
        verified: &Verified,
        line: &Line,
        dry_run: bool,
    ) -> Result<Result<(), Refusal>, Error> {
        let claims = &verified.claims;
        if let Some(held) = self.ledger.mandate(tenant, &claims.jti).await.map_err(unavailable)? {
            // Whoever gives it a name that is taken must not draw on what belongs to another.
            let same = held.mandate.kid.is_some() && claims_of(&held.mandate)? == *claims;
            return Ok(if same { Ok(()) } else { Err(taken(&claims.jti)) });
        }
        if self.gives_mandates(tenant, &claims.sub).await? {
            return Ok(Err(Refusal::GivenToPrincipal { subject: claims.sub.clone() }));
        }
        let state = self.tenant(tenant)?;
        if let ([_, parent, ..], [_, parents, ..]) = (line.mandates.as_slice(), line.claims.as_slice()) {
            let (left, _) = self.left(tenant, &line.mandates[1..]).await?;
            // What it leaves out is no more than what is left of it.
            let filled = claims.clone().inherit(&parents.clone().limited_to(&left));
            let narrows = |child: Mandate| child.narrows(parent, &left, &state.rules().catalogue);
            if let Err(refusal) = Mandate::of(&filled).and_then(narrows) {
                return Ok(Err(refusal));
            }
        }
        if dry_run {
            return Ok(Ok(()));
        }
        let mandate = stored(tenant, claims, Some(verified.kid.as_str()))?;
        let told = event(state, "mandate_presented", &granted(&mandate, claims, &claims.iss));
        match self.ledger.issue(mandate, told).await {
            Ok(_) => Ok(Ok(())),
            // Somebody brought one of this name at the same time: the next look tells whether it is the same.
            Err(ledger::Error::Exists(_)) => {
                Err(Error::new(crate::Code::Unavailable, "the mandate came in twice at once").retry_after(1))
            }
            Err(ledger::Error::Absent(_)) => Ok(Err(Refusal::Revoked)),
            Err(other) => Err(unavailable(other)),
        }
    }

    /// What is left of all these mandates together, and the account of each.
    pub(crate) async fn left(
        &self,
        tenant: &Tenant,
        mandates: &[Arc<Mandate>],
    ) -> Result<(Limits, Vec<mandate::Account>), Error> {
        let (mut left, mut accounts) = (Limits::default(), Vec::new());
        for mandate in mandates {
            let held = self.ledger.mandate(tenant, &mandate.jti).await.map_err(unavailable)?;
            let account = held.map_or_else(|| mandate::Account::new(&mandate.jti), |held| held.account);
            left = left.least(&account.left(&mandate.limits()));
            accounts.push(account);
        }
        Ok((left, accounts))
    }

    /// The sandbox lets everybody try everything: nothing it does has an effect.
    pub(crate) fn public_mandate(&self, subject: &Subject) -> Result<Arc<Mandate>, Error> {
        let tenants = self.tenants.values();
        let mut scope: Vec<String> = tenants
            .flat_map(|tenant| tenant.rules().catalogue.iter().map(|it| it.name.clone()).collect::<Vec<_>>())
            .collect();
        scope.sort();
        scope.dedup();
        let claims = Claims {
            jti: PUBLIC_TOKEN.to_owned(),
            iss: "sandbox".to_owned(),
            sub: subject.to_string(),
            aud: self.issuer.clone(),
            iat: 0,
            exp: 253_402_300_799,
            mandate_scope: scope,
            ..Claims::default()
        };
        Mandate::of(&claims).map(Arc::new).map_err(|_| internal("the public mandate is not one"))
    }
}

impl Line {
    /// The mandate that the line is of.
    pub(crate) fn leaf(&self) -> (Option<&Arc<Mandate>>, Option<&Claims>) {
        (self.mandates.first(), self.claims.first())
    }

    /// Whether a mandate below this parent is given, and not handed on by who holds that.
    ///
    /// INVARIANT (others): whoever gives a mandate acts neither under it nor under any that descends from it.
    pub(crate) fn goes_to_another(
        &self,
        parent: Option<&Arc<Mandate>>,
        issuer: &Subject,
        subject: &Subject,
    ) -> Result<bool, Refusal> {
        let given = parent.is_none_or(|parent| parent.subject != *issuer);
        if (given && issuer == subject) || self.givers.contains(subject) {
            return Err(Refusal::GivenToPrincipal { subject: subject.to_string() });
        }
        Ok(given)
    }

    /// Adds one below the last. Whoever handed it on is who held the one above, or it was issued here.
    fn descend(&mut self, claims: Claims, kid: Option<Box<str>>) -> Result<(), Refusal> {
        let claims = match self.claims.last() {
            Some(parent) => claims.inherit(parent),
            None => claims,
        };
        let mut mandate = Mandate::of(&claims)?;
        if let Some(parent) = self.mandates.last() {
            if kid.is_some() && mandate.issuer != parent.subject {
                return Err(Refusal::ChainBroken { jti: mandate.jti });
            }
            mandate = mandate.under(parent);
        } else if kid.is_some() && mandate.issuer == mandate.subject {
            return Err(Refusal::NoPrincipal { issuer: claims.iss });
        }
        let given = self.goes_to_another(self.mandates.last(), &mandate.issuer, &mandate.subject)?;
        self.givers.extend(given.then(|| mandate.issuer.clone()));
        let gives = self.mandates.is_empty();
        self.signed.extend(kid.map(|kid| Signed { issuer: claims.iss.as_str().into(), kid, gives }));
        self.mandates.push(Arc::new(mandate));
        self.claims.push(claims);
        Ok(())
    }
}

pub(crate) fn claims_of(mandate: &ledger::Mandate) -> Result<Claims, Error> {
    serde_json::from_slice(&mandate.claims).map_err(|_| internal("a stored mandate cannot be read"))
}

/// A mandate as it is kept.
pub(crate) fn stored(tenant: &Tenant, claims: &Claims, kid: Option<&str>) -> Result<ledger::Mandate, Error> {
    let chain = claims.delegation_chain.iter().flatten().map(|jti| Box::from(jti.as_str())).collect();
    Ok(ledger::Mandate {
        tenant: tenant.clone(),
        jti: claims.jti.as_str().into(),
        subject: Subject::kept(&claims.sub).map_err(|_| internal("a subject is not one"))?,
        issuer: claims.iss.as_str().into(),
        issued_ms: clock::now_ms(),
        expires_ms: claims.exp.saturating_mul(1000),
        claims: serde_json::to_vec(claims).map_err(|_| internal("claims cannot be written"))?,
        chain,
        kid: kid.map(Box::from),
    })
}

/// What an entry says of a mandate that was given.
pub(crate) fn granted(mandate: &ledger::Mandate, claims: &Claims, by: &str) -> serde_json::Value {
    let mut record = json!({
        "by": by, "claimsHash": hex::encode(Sha256::digest(&mandate.claims)), "expiresAt": claims.exp,
        "jti": &claims.jti, "scope": &claims.mandate_scope, "sub": &claims.sub, "tenant": mandate.tenant.as_str(),
    });
    if !mandate.chain.is_empty() {
        record["chain"] = mandate.chain.iter().map(|jti| &**jti).collect();
    }
    if let Some(kid) = &mandate.kid {
        record["kid"] = (&**kid).into();
    }
    record
}

fn taken(jti: &str) -> Refusal {
    Refusal::Malformed { what: format!("another mandate has the `jti` `{jti}`") }
}
