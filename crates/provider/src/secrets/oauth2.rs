//! OAuth 2 client credentials (RFC 6749, section 4.4).
//!
//! One token per secret, and per certificate that is shown for it: an endpoint may bind a token to the certificate that it
//! was fetched with (RFC 8705). It is kept until shortly before it expires. Whoever finds none fetches it while the others
//! wait, and they share what came of it, the failure too: an endpoint that is down is asked once, not once for every call.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::time::timeout;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::source::{Source, Values};
use super::{Error, Hosts, MOST_BYTES, Secret, sensitive};
use crate::egress::{BodyFault, Destination, Exchange, Identity, Origin, Request};

/// Who we are to a token endpoint.
#[derive(Clone, Debug)]
pub struct OAuth2Client {
    /// Where tokens are had. The client's secret goes there and nowhere else.
    pub token_url: String,
    /// Our name there.
    pub client_id: String,
    /// What proves it.
    pub client_secret: Source,
    /// What is asked for, in words separated by a space.
    pub scope: Option<String>,
    /// How the secret is sent.
    pub auth: ClientAuth,
}

/// How a client proves itself to a token endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// In the header `Authorization`, which every endpoint must understand.
    #[default]
    Basic,
    /// In the form, beside the other parameters.
    Body,
}

/// A client, and the tokens it has now.
pub(crate) struct OAuth2 {
    hosts: Hosts,
    token_url: Url,
    client_id: String,
    client_secret: Zeroizing<String>,
    scope: Option<String>,
    auth: ClientAuth,
    places: Mutex<HashMap<Option<Identity>, Arc<Place>>>,
}

/// Where a client keeps the token of one certificate, or of none.
#[derive(Default)]
pub(crate) struct Place {
    held: Mutex<Held>,
    /// Held by whoever fetches a token.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    token: Option<Token>,
    /// How many fetches have failed, and the last reason.
    failures: u64,
    last: Option<NoToken>,
}

#[derive(Clone)]
struct Token {
    value: Arc<Secret>,
    until_ms: i64,
}

/// There is no token. In words of our own: the endpoint's may say more than a record should hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoToken {
    #[error("no access token could be had: {0}")]
    Unanswered(String),
    #[error("no access token could be had: the token endpoint answered {0}")]
    Status(u16),
    #[error("no access token could be had: {0}")]
    Body(#[from] BodyFault),
    #[error("no access token could be had: the token endpoint's answer holds no bearer token")]
    Content,
    #[error("no access token could be had in time")]
    Late,
}

impl OAuth2 {
    pub(super) fn load(hosts: Hosts, client: OAuth2Client, values: Values) -> Result<OAuth2, Error> {
        let OAuth2Client { token_url, client_id, client_secret, scope, auth } = client;
        let member = |member, rule| Error::Member { name: hosts.name.clone(), member, rule };
        let is_url = |url: &Url| url.fragment().is_none() && Origin::of(url).is_ok();
        let token_url = Url::parse(&token_url)
            .ok()
            .filter(is_url)
            .ok_or_else(|| member("token_url", "no https or http URL without user, password and fragment"))?;
        if client_id.is_empty() || !client_id.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(member("client_id", "not of printable ASCII characters"));
        }
        let is_scope =
            |text: &String| !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !scope.as_ref().is_none_or(is_scope) {
            return Err(member("scope", "not of printable ASCII words, one space between two"));
        }
        let client_secret = values.read(&hosts.name, &client_secret)?;
        Ok(OAuth2 { hosts, token_url, client_id, client_secret, scope, auth, places: Mutex::default() })
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    pub(crate) fn token_url(&self) -> &Url {
        &self.token_url
    }

    /// Who we are there: all but the secret and how it is sent.
    pub(crate) fn account(&self) -> Value {
        json!({ "token_url": self.token_url.as_str(), "client_id": self.client_id, "scope": self.scope })
    }

    /// Where the token is that is fetched and used with this certificate.
    pub(crate) fn place(&self, shown: Option<&Identity>) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(places.entry(shown.cloned()).or_default())
    }

    /// A token that holds at `now_ms`, fetched from the endpoint if need be. Takes no longer than an exchange with
    /// the endpoint may.
    pub(crate) async fn token(
        &self,
        place: &Place,
        endpoint: &Destination,
        now_ms: i64,
    ) -> Result<Arc<Secret>, NoToken> {
        let found = timeout(endpoint.timeout(), self.token_in_turn(place, endpoint, now_ms)).await;
        found.unwrap_or(Err(NoToken::Late))
    }

    async fn token_in_turn(
        &self,
        place: &Place,
        endpoint: &Destination,
        now_ms: i64,
    ) -> Result<Arc<Secret>, NoToken> {
        let failures = {
            let held = place.held();
            if let Some(token) = held.token_at(now_ms) {
                return Ok(token);
            }
            held.failures
        };
        let _turn = place.turn.lock().await;
        {
            let held = place.held();
            if let Some(token) = held.token_at(now_ms) {
                return Ok(token);
            }
            // The fetch that this call waited for was its own as well.
            if let Some(why) = held.last.clone().filter(|_| held.failures != failures) {
                return Err(why);
            }
        }
        let fetched = self.fetch(endpoint, now_ms).await;
        place.held().learn(fetched)
    }

    async fn fetch(&self, endpoint: &Destination, now_ms: i64) -> Result<Token, NoToken> {
        let (status, body) = match endpoint.exchange(self.request()).await {
            Exchange::NotSent(why) | Exchange::Lost(_, why) => return Err(NoToken::Unanswered(why)),
            Exchange::Answered { status, body } => (status, body),
        };
        if status != 200 {
            return Err(NoToken::Status(status));
        }
        self.read(&Zeroizing::new(body?), now_ms).ok_or(NoToken::Content)
    }

    fn request(&self) -> Request {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        form.extend_pairs(self.scope.iter().map(|scope| ("scope", scope)));
        match self.auth {
            ClientAuth::Basic => {
                headers.extend(self.basic().map(|value| (AUTHORIZATION, value)));
            }
            ClientAuth::Body => {
                form.append_pair("client_id", &self.client_id);
                form.append_pair("client_secret", &self.client_secret);
            }
        }
        let query = self.token_url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Request {
            method: Method::POST,
            path_and_query: format!("{}{query}", self.token_url.path()),
            headers,
            body: Some(form.finish().into_bytes()),
            most_bytes: MOST_ANSWER_BYTES,
        }
    }

    /// Both parts are form-encoded before they are joined (RFC 6749, section 2.3.1).
    fn basic(&self) -> Option<HeaderValue> {
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = Zeroizing::new(format!("{}:{}", encoded(&self.client_id), encoded(&self.client_secret)));
        sensitive(&Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes()))))
    }

    fn read(&self, body: &[u8], now_ms: i64) -> Option<Token> {
        let mut answer: Value = serde_json::from_slice(body).ok()?;
        if !answer.get("token_type")?.as_str()?.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let lifetime_ms = match answer.get("expires_in") {
            None | Some(Value::Null) => UNTOLD_LIFETIME_MS,
            Some(told) => seconds(told)?.saturating_mul(1000),
        };
        let Some(Value::String(value)) = answer.get_mut("access_token").map(Value::take) else { return None };
        let fits = !value.is_empty()
            && value.len() <= MOST_BYTES
            && value.bytes().all(|byte| byte.is_ascii_graphic());
        let value = Secret::made(value, &self.hosts);
        let margin_ms = (lifetime_ms / 10).min(MOST_MARGIN_MS);
        fits.then(|| Token { value, until_ms: now_ms.saturating_add(lifetime_ms - margin_ms) })
    }
}

impl Place {
    /// Drops a token that was refused; one that has taken its place meanwhile stays.
    pub(crate) fn forget(&self, refused: &Arc<Secret>) {
        let mut held = self.held();
        if held.token.as_ref().is_some_and(|token| Arc::ptr_eq(&token.value, refused)) {
            held.token = None;
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn token_at(&self, now_ms: i64) -> Option<Arc<Secret>> {
        let token = self.token.as_ref().filter(|token| now_ms < token.until_ms)?;
        Some(Arc::clone(&token.value))
    }

    fn learn(&mut self, fetched: Result<Token, NoToken>) -> Result<Arc<Secret>, NoToken> {
        match fetched {
            Ok(token) => {
                let value = Arc::clone(&token.value);
                self.token = Some(token);
                Ok(value)
            }
            Err(why) => {
                self.failures += 1;
                self.last = Some(why.clone());
                Err(why)
            }
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Place").finish_non_exhaustive()
    }
}

impl fmt::Debug for OAuth2 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OAuth2")
            .field("hosts", &self.hosts)
            .field("token_url", &self.token_url.as_str())
            .finish_non_exhaustive()
    }
}

/// A lifetime as endpoints write it: a number, or one in a string.
fn seconds(told: &Value) -> Option<i64> {
    let seconds = told.as_i64().or_else(|| told.as_str()?.parse().ok())?;
    (seconds > 0).then_some(seconds)
}

/// What is kept of a token whose lifetime the endpoint does not tell.
const UNTOLD_LIFETIME_MS: i64 = 60_000;

/// How long before its end a token is no longer used, at most: time for the request to arrive, and for clocks that
/// differ.
const MOST_MARGIN_MS: i64 = 30_000;

const MOST_ANSWER_BYTES: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_comes_late_drops_the_token_it_was_about_and_no_other() {
        let place = Place::default();
        let hosts = Hosts::parse("oauth", vec!["bank.example".to_owned()]).expect("it is a host");
        let granted = |value: &str| {
            let value = Secret::made(value.to_owned(), &hosts);
            place.held().learn(Ok(Token { value, until_ms: 1 })).expect("it was granted")
        };
        let (old, new) = (granted("old"), granted("new"));
        place.forget(&old);
        assert!(place.held().token_at(0).is_some_and(|token| Arc::ptr_eq(&token, &new)));
        place.forget(&new);
        assert!(place.held().token_at(0).is_none());
    }
}
