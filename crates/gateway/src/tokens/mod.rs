//! Access tokens: callers whom somebody outside vouches for, where others bring an API key of ours.
//!
//! An issuer that the operator names signs who is calling; that name, behind a prefix that nobody else's names have, is the
//! caller's. What is wrong with a token is told to nobody but the log, and there without a word of the token.

mod keys;

use std::sync::Arc;
use std::time::Duration;

use action::{Subject, Tenant};
use ledger::{ApiKey, Ledger};
use mandate::{Access, AccessRefusal, AccessToken, Scheme};
use provider::Egress;
use url::Url;

use self::keys::{Found, Keys, Place, Times};
use crate::caller::{Caller, Role};
use crate::config::{self, Config};
use crate::gateway::Gateway;
use crate::{Code, Error, clock};

/// Somebody whose tokens are taken.
pub(crate) struct TokenIssuer {
    url: String,
    audience: Option<String>,
    tenant: Tenant,
    role: Role,
    claim: &'static str,
    prefix: String,
    shares_subjects: bool,
    scopes: Vec<String>,
    pub(crate) default_mandate: Option<String>,
    keys: Arc<Keys>,
}

impl Gateway {
    /// The caller behind a bearer token: an API key, or an access token of an issuer that the operator named. `server` is
    /// the MCP server asked for, if it is one.
    ///
    /// # Errors
    /// `EP_UNAUTHENTICATED` for what is neither, `EP_INSUFFICIENT_SCOPE` with the scopes needed, and
    /// `EP_UNAVAILABLE` while nobody knows the issuer's keys.
    pub async fn recognise(self: &Arc<Self>, bearer: &str, server: Option<&str>) -> Result<Caller, Error> {
        // No API key has a dot in it, and no token is without.
        match bearer.contains('.') {
            true => self.caller_by_token(bearer, server).await,
            false => self.authenticate(bearer).await,
        }
    }

    async fn caller_by_token(self: &Arc<Self>, token: &str, server: Option<&str>) -> Result<Caller, Error> {
        let token = AccessToken::parse(token).map_err(|why| refused(None, &why))?;
        let issuer = self.token_issuers.iter().find(|issuer| issuer.url == token.issuer());
        let issuer = issuer.ok_or_else(|| refused(None, &"nobody named here issued it"))?;
        let kid = token.kid().to_owned();
        let key = match issuer.keys.named(&kid, self).await {
            Found::Key(key) => key,
            Found::Foreign => return Err(refused(Some(issuer), &"its issuer has no such key")),
            Found::Unknown => {
                let why = "the keys of who issued this token cannot be had at the moment";
                return Err(Error::new(Code::Unavailable, why));
            }
        };
        let is_for_us = |audience: &str| issuer.is_for(audience, &self.public_url, server);
        let access = token.verify(&key, is_for_us, clock::now_ms() / 1000);
        let access = access.map_err(|why: AccessRefusal| refused(Some(issuer), &why))?;
        issuer.caller(&access, &kid)
    }

    /// The URLs of those whose access tokens are taken.
    pub fn token_issuers(&self) -> impl Iterator<Item = &str> {
        self.token_issuers.iter().map(|issuer| issuer.url.as_str())
    }

    /// Every scope that one of them has to give.
    pub fn token_scopes(&self) -> Vec<&str> {
        let mut scopes: Vec<&str> =
            self.token_issuers.iter().flat_map(|issuer| &issuer.scopes).map(String::as_str).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }

    /// The issuer whose tokens alone name callers like this one.
    pub(crate) fn issuer_of(&self, tenant: &Tenant, subject: &Subject) -> Option<&TokenIssuer> {
        self.token_issuers.iter().find(|issuer| issuer.has_alone(tenant, subject))
    }
}

impl TokenIssuer {
    /// Reads everything under `[[token_issuers]]`.
    pub(crate) fn all(
        config: &Config,
        tenants: &[Tenant],
        egress: &Egress,
    ) -> Result<Vec<TokenIssuer>, String> {
        let read = |one: &config::TokenIssuer| {
            TokenIssuer::read(one, config, tenants, egress)
                .map_err(|why| format!("`token_issuers`: `{}`: {why}", one.issuer))
        };
        let all: Vec<TokenIssuer> = config.token_issuers.iter().map(read).collect::<Result<_, _>>()?;
        for (n, one) in all.iter().enumerate() {
            let wrong = |what: String| Err(format!("`token_issuers`: `{}`: {what}", one.url));
            for other in &all[..n] {
                if one.url == other.url {
                    return wrong("it stands twice".to_owned());
                }
                // INVARIANT (apart): no name of one issuer's is one of another's.
                if one.prefix.starts_with(&other.prefix) || other.prefix.starts_with(&one.prefix) {
                    return wrong(format!(
                        "`prefix`: `{}` and `{}` of `{}` could name the same caller: neither may begin with the other",
                        one.prefix, other.prefix, other.url
                    ));
                }
            }
        }
        Ok(all)
    }

    fn read(
        one: &config::TokenIssuer,
        config: &Config,
        served: &[Tenant],
        egress: &Egress,
    ) -> Result<TokenIssuer, String> {
        let name = one.tenant.as_ref().or(config.tenants.first()).map_or("", String::as_str);
        let tenant = served.iter().find(|tenant| tenant.as_str() == name);
        let tenant = tenant.ok_or_else(|| format!("`tenant`: `{name}` is not among the `tenants` served"))?;
        let role = Role::parse(&one.role).ok_or_else(|| format!("`role`: there is no `{}`", one.role))?;
        let prefix_is_whole = one.shares_subjects || !one.prefix.is_empty();
        if !prefix_is_whole
            || one.prefix.len() > LONGEST_PREFIX
            || Subject::parse(&format!("{}x", one.prefix)).is_err()
        {
            return Err(format!(
                "`prefix`: 1 to {LONGEST_PREFIX} ASCII letters, digits and `._:@/+-`, beginning with a letter or digit"
            ));
        }
        let scope = |word: &String| !word.is_empty() && word.bytes().all(is_of_scope);
        if let Some(wrong) = one.scopes.iter().find(|word| !scope(word)) {
            return Err(format!("`scopes`: `{wrong}` is not one word of visible ASCII characters"));
        }
        Ok(TokenIssuer {
            url: one.issuer.clone(),
            audience: one.audience.clone(),
            tenant: tenant.clone(),
            role,
            claim: one.subject.as_str(),
            prefix: one.prefix.clone(),
            shares_subjects: one.shares_subjects,
            scopes: one.scopes.clone(),
            default_mandate: one.default_mandate.clone(),
            keys: Arc::new(Keys::new(&one.issuer, place(one, egress)?, accepted(one)?, times(one)?)),
        })
    }

    fn is_for(&self, audience: &str, public_url: &str, server: Option<&str>) -> bool {
        if let Some(ours) = &self.audience {
            return audience == ours;
        }
        // Clients write a URL without a path with a slash at its end.
        let audience = audience.strip_suffix('/').unwrap_or(audience);
        match audience.strip_prefix(public_url) {
            Some("" | "/mcp") => true,
            Some(below) => server.is_some_and(|server| below.strip_prefix("/mcp/") == Some(server)),
            None => false,
        }
    }

    fn caller(&self, access: &Access, kid: &str) -> Result<Caller, Error> {
        let name = access.name(self.claim).map(|name| format!("{}{name}", self.prefix));
        let subject = name.and_then(|name| Subject::parse(&name).ok());
        let subject =
            subject.ok_or_else(|| refused(Some(self), &"who it names has no name that is one here"))?;
        if !self.scopes.iter().all(|scope| access.has_scope(scope)) {
            let why = "this token has not the scope that is needed here";
            return Err(Error::new(Code::InsufficientScope, why).field("Authorization").scopes(&self.scopes));
        }
        Ok(Caller {
            tenant: self.tenant.clone(),
            subject,
            role: self.role,
            key_id: format!("{} {kid}", self.url),
            key_issuer: Some(self.url.clone()),
            default_mandate: self.default_mandate.clone(),
        })
    }

    /// Whether its tokens name agents like this one.
    pub(crate) fn names_agent(&self, tenant: &Tenant, subject: &Subject) -> bool {
        self.role == Role::Agent && self.tenant == *tenant && subject.as_str().starts_with(&self.prefix)
    }

    /// Keeps (apart): of these names there is no API key.
    fn has_alone(&self, tenant: &Tenant, subject: &Subject) -> bool {
        !self.shares_subjects && self.tenant == *tenant && subject.as_str().starts_with(&self.prefix)
    }

    /// That no API key is good for a name of an issuer's, made before the issuer was named. What was done by a revoked one, and the
    /// mandates given to that name, are from then on those of whom the issuer names so.
    pub(crate) async fn must_be_apart(all: &[TokenIssuer], ledger: &dyn Ledger) -> Result<(), String> {
        for issuer in all {
            let keys = ledger.keys(&issuer.tenant).await.map_err(|error| error.to_string())?;
            // Nobody comes in by a revoked key any more, and none is deleted.
            let counts =
                |key: &&ApiKey| key.revoked_ms.is_none() && issuer.has_alone(&key.tenant, &key.subject);
            if let Some(key) = keys.iter().find(counts) {
                return Err(format!(
                    "`token_issuers`: `{}`: `prefix`: the API key `{}` was made for `{}`: revoke it before this issuer is named, \
                     choose another prefix, or set `shares_subjects = true` if a token may name whom an API key names",
                    issuer.url, key.id, key.subject
                ));
            }
        }
        Ok(())
    }

    /// Why there is no API key for this name.
    pub(crate) fn keeps(&self, subject: &Subject) -> Error {
        let why = format!("`{subject}` is a name that `{}` gives by its tokens", self.url);
        Error::new(Code::StateConflict, why).field("/subject").hint(format!(
            "take a name that does not begin with `{}`, or set `shares_subjects` of the issuer",
            self.prefix
        ))
    }
}

/// The same for whatever is wrong with a token; what it is stands in the log.
fn refused(issuer: Option<&TokenIssuer>, why: &dyn std::fmt::Display) -> Error {
    let issuer = issuer.map(|issuer| issuer.url.as_str());
    tracing::debug!(issuer, %why, "an access token is refused");
    Error::new(Code::Unauthenticated, "this is not a valid access token").field("Authorization")
}

/// Where the issuer's keys are, if that may be reached as far as can be told now.
fn place(one: &config::TokenIssuer, egress: &Egress) -> Result<Place, String> {
    let issuer = url("issuer", &one.issuer)?;
    if issuer.query().is_some() {
        return Err("`issuer`: it has a query".to_owned());
    }
    if let Some(place) = &one.jwks_url {
        let place = url("jwks_url", place)?;
        must_be_reachable("jwks_url", &place, egress)?;
        return Ok(Place::At(place));
    }
    must_be_reachable("issuer", &issuer, egress)?;
    let path = issuer.path().trim_end_matches('/').to_owned();
    let at = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    // OpenID Connect Discovery appends, RFC 8414 puts in between.
    Ok(Place::Told([
        at(format!("{path}/.well-known/openid-configuration")),
        at(format!("/.well-known/oauth-authorization-server{path}")),
    ]))
}

fn url(member: &str, text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| format!("`{member}`: `{text}` is no URL"))?;
    match url.fragment() {
        None => Ok(url),
        Some(_) => Err(format!("`{member}`: it has a fragment")),
    }
}

fn must_be_reachable(member: &str, url: &Url, egress: &Egress) -> Result<(), String> {
    let there = egress.destination(url, keys::LONGEST).map(drop);
    there.map_err(|why| format!("`{member}`: {why}"))
}

fn accepted(one: &config::TokenIssuer) -> Result<Vec<Scheme>, String> {
    let read = |name: &String| {
        let known = Scheme::ALL.map(Scheme::as_str).join(", ");
        Scheme::parse(name).ok_or_else(|| format!("`algorithms`: there is no `{name}`; there are {known}"))
    };
    match one.algorithms.is_empty() {
        true => Err("`algorithms` names none".to_owned()),
        false => one.algorithms.iter().map(read).collect(),
    }
}

fn times(one: &config::TokenIssuer) -> Result<Times, String> {
    let (retry, fresh, stale) = (one.keys_retry_seconds, one.keys_fresh_seconds, one.keys_stale_seconds);
    if !(1 <= retry && retry <= fresh && fresh <= stale && stale <= LONGEST_STALE_SECONDS) {
        return Err(format!(
            "`keys_retry_seconds` is 1 at least, `keys_fresh_seconds` not less than that, `keys_stale_seconds` not less \
             than both, and {LONGEST_STALE_SECONDS} at most"
        ));
    }
    let [retry, fresh, stale] = [retry, fresh, stale].map(Duration::from_secs);
    Ok(Times { fresh, stale, retry })
}

/// RFC 6749, section 3.3.
fn is_of_scope(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"\\".contains(&byte)
}

/// So that a name fits behind it.
const LONGEST_PREFIX: usize = 64;
/// A day without its issuer is enough.
const LONGEST_STALE_SECONDS: u64 = 86_400;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use provider::egress::Rules;

    use super::*;

    /// What is said of this configuration; nothing where it is right.
    fn wrong(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let read = Config::read(Some(file.path())).and_then(|config| {
            let tenants = config.tenants.iter().map(|name| Tenant::parse(name).unwrap()).collect::<Vec<_>>();
            TokenIssuer::all(&config, &tenants, &Egress::new(Rules::default()))
        });
        read.err().unwrap_or_default()
    }

    fn issuer(url: &str, more: &str) -> String {
        format!("[[token_issuers]]\nissuer = \"{url}\"\n{more}\n")
    }

    #[test]
    fn each_member_that_is_wrong_is_named() {
        let with = |more: &str| wrong(&issuer("https://idp.example", &format!("prefix = \"idp:\"\n{more}")));
        assert_eq!(with(""), "");
        assert_eq!(with("role = \"admin\"\nsubject = \"client_id\"\nalgorithms = [\"PS256\"]"), "");
        for (more, member) in [
            ("tenant = \"other\"", "`tenant`"),
            ("role = \"root\"", "`role`"),
            ("subject = \"email\"", "subject"),
            ("algorithms = [\"HS256\"]", "`algorithms`"),
            ("algorithms = [\"none\"]", "`algorithms`"),
            ("algorithms = []", "`algorithms`"),
            ("scopes = [\"a b\"]", "`scopes`"),
            ("scopes = [\"a\\\"b\"]", "`scopes`"),
            ("jwks_url = \"http://idp.example/keys\"", "`jwks_url`"),
            ("jwks_url = \"https://10.0.0.1/keys\"", "`jwks_url`"),
            ("jwks_url = \"https://u:p@idp.example/keys\"", "`jwks_url`"),
            ("jwks_url = \"keys\"", "`jwks_url`"),
            ("keys_retry_seconds = 0", "`keys_retry_seconds`"),
            ("keys_fresh_seconds = 7200", "`keys_stale_seconds`"),
            ("keys_stale_seconds = 86401", "`keys_stale_seconds`"),
            ("audiences = [\"a\"]", "audiences"),
        ] {
            let why = with(more);
            assert!(why.contains("token_issuers") && why.contains(member), "{more}: {why}");
        }
        for url in ["idp.example", "http://idp.example", "https://idp.example?a=b", "https://idp.example#a"] {
            let why = wrong(&issuer(url, "prefix = \"idp:\""));
            assert!(why.contains(url) && why.contains("`issuer`"), "{url}: {why}");
        }
    }

    #[test]
    fn no_two_issuers_and_no_key_share_a_name_unless_that_is_said() {
        let two = |one: &str, other: &str| {
            let prefix = |prefix: &str| format!("prefix = \"{prefix}\"");
            let text =
                issuer("https://a.example", &prefix(one)) + &issuer("https://b.example", &prefix(other));
            wrong(&text)
        };
        assert_eq!(two("a:", "b:"), "");
        for (one, other) in [("a:", "a:"), ("a:", "a:b:"), ("a:b:", "a:")] {
            let why = two(one, other);
            assert!(why.contains("https://b.example") && why.contains("`prefix`"), "{one} {other}: {why}");
        }
        let same =
            issuer("https://a.example", "prefix = \"a:\"") + &issuer("https://a.example", "prefix = \"b:\"");
        assert!(wrong(&same).contains("twice"));
        for prefix in ["", ":", "a b", "\u{e9}", &"a".repeat(65)] {
            let why = wrong(&issuer("https://a.example", &format!("prefix = \"{prefix}\"")));
            assert!(why.contains("`prefix`"), "{prefix}: {why}");
        }
        assert!(wrong(&issuer("https://a.example", "")).contains("prefix"));
        let shared = issuer("https://a.example", "prefix = \"\"\nshares_subjects = true");
        assert_eq!(wrong(&shared), "");
        assert!(wrong(&(shared + &issuer("https://b.example", "prefix = \"b:\""))).contains("`prefix`"));
    }

    #[test]
    fn a_token_is_for_the_gateway_its_mcp_face_or_one_server_of_that() {
        let read = |more: &str| {
            let text = issuer("https://idp.example", &format!("prefix = \"idp:\"\n{more}"));
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let config = Config::read(Some(file.path())).unwrap();
            TokenIssuer::all(&config, &[Tenant::default()], &Egress::new(Rules::default())).unwrap().remove(0)
        };
        let us = "https://gw.example";
        let issuer = read("");
        for whole in [us, "https://gw.example/", "https://gw.example/mcp", "https://gw.example/mcp/"] {
            assert!(issuer.is_for(whole, us, None) && issuer.is_for(whole, us, Some("git")), "{whole}");
        }
        assert!(issuer.is_for("https://gw.example/mcp/git", us, Some("git")));
        for (other, server) in [
            ("https://gw.example/mcp/git", None),
            ("https://gw.example/mcp/git", Some("mail")),
            ("https://gw.example/mcp/git/x", Some("git")),
            ("https://gw.example/mcpgit", Some("git")),
            ("https://gw.example/v1", None),
            ("https://gw.example.evil.example/mcp", None),
            ("https://gw.example//", None),
            ("gw.example", None),
            ("", None),
        ] {
            assert!(!issuer.is_for(other, us, server), "{other} {server:?}");
        }
        let named = read("audience = \"api://gw\"");
        assert!(named.is_for("api://gw", us, None));
        for other in ["api://gw/", us, "https://gw.example/mcp"] {
            assert!(!named.is_for(other, us, None), "{other}");
        }
    }
}
