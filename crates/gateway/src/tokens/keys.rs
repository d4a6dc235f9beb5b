//! The keys of one issuer of tokens: fetched when a token needs them, kept for a while, and kept on a while longer when they
//! cannot be fetched. What strangers send makes us ask no more than once in a while.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mandate::{PublicKey, Scheme};
use provider::Egress;
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

use crate::act::lock;
use crate::gateway::Gateway;

/// The keys of an issuer, and where they are had.
pub(super) struct Keys {
    issuer: String,
    place: Place,
    accepted: Vec<Scheme>,
    kept: Mutex<Kept>,
    /// Held by whoever fetches.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Where an issuer has its keys.
pub(super) enum Place {
    /// There.
    At(Url),
    /// Where one of these documents says.
    Told([Url; 2]),
}

/// What there is to say of a key that a token names.
#[derive(Debug)]
pub(super) enum Found {
    Key(PublicKey),
    /// The issuer has none of that name.
    Foreign,
    /// Nobody knows which keys the issuer has now.
    Unknown,
}

/// How long keys are good.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// Without asking again.
    pub(super) fresh: Duration,
    /// When asking is in vain.
    pub(super) stale: Duration,
    /// Between two questions.
    pub(super) retry: Duration,
}

/// The keys that were fetched last, and when that was tried.
struct Kept {
    times: Times,
    keys: Vec<PublicKey>,
    learned: Option<Instant>,
    tried: Option<Instant>,
}

impl Keys {
    pub(super) fn new(issuer: &str, place: Place, accepted: Vec<Scheme>, times: Times) -> Keys {
        let kept = Mutex::new(Kept { times, keys: Vec::new(), learned: None, tried: None });
        Keys { issuer: issuer.to_owned(), place, accepted, kept, turn: Arc::default() }
    }

    /// The key of this name, fetched if need be.
    pub(super) async fn named(self: &Arc<Keys>, kid: &str, gateway: &Arc<Gateway>) -> Found {
        let known = || lock(&self.kept).look(kid, Instant::now());
        if let Some(found) = known() {
            return found;
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        // Whoever had the turn before may have brought it.
        if let Some(found) = known() {
            return found;
        }
        let (keys, gateway) = (Arc::clone(self), Arc::clone(gateway));
        // In a task of its own: who hangs up has not asked in vain.
        let asked = tokio::spawn(async move {
            let fetched = keys.fetch(&gateway.outside.egress).await;
            keys.learn(fetched);
            drop(turn);
        });
        let _ = asked.await;
        known().unwrap_or(Found::Unknown)
    }

    async fn fetch(&self, egress: &Egress) -> Result<Vec<PublicKey>, String> {
        let fetched = timeout(LONGEST, async {
            let url = match &self.place {
                Place::At(url) => url.clone(),
                Place::Told([first, other]) => match self.told(egress, first).await {
                    Ok(url) => url,
                    Err(why) => {
                        self.told(egress, other).await.map_err(|and_why| format!("{why}; {and_why}"))?
                    }
                },
            };
            let set = document(egress, &url).await?;
            mandate::issuer_keys(&set, &self.accepted).map_err(|why| format!("{url}: {why}"))
        });
        fetched.await.unwrap_or_else(|_| Err("its keys did not come in time".to_owned()))
    }

    /// Where the issuer's metadata has its keys.
    async fn told(&self, egress: &Egress, url: &Url) -> Result<Url, String> {
        let metadata = document(egress, url).await?;
        let metadata = action::json::parse(&metadata).map_err(|_| format!("{url}: it is no JSON"))?;
        let member = |name: &str| metadata.get(name).and_then(Value::as_str);
        if member("issuer") != Some(&self.issuer) {
            return Err(format!("{url}: it is of another `issuer`"));
        }
        let place = member("jwks_uri").and_then(|place| Url::parse(place).ok());
        place.ok_or_else(|| format!("{url}: it has no `jwks_uri`"))
    }

    fn learn(&self, fetched: Result<Vec<PublicKey>, String>) {
        let (issuer, now) = (self.issuer.as_str(), Instant::now());
        match &fetched {
            Ok(keys) if keys.is_empty() => {
                tracing::warn!(issuer, "this issuer of tokens has no key that its tokens may be signed with");
            }
            Ok(keys) => {
                tracing::debug!(issuer, keys = keys.len(), "keys of an issuer of tokens were fetched")
            }
            Err(why) => {
                tracing::warn!(issuer, why, "the keys of an issuer of tokens could not be fetched");
            }
        }
        lock(&self.kept).learn(fetched.ok(), now);
    }
}

async fn document(egress: &Egress, url: &Url) -> Result<Vec<u8>, String> {
    egress.document(url, LONGEST, MOST_BYTES).await.map_err(|why| format!("{url}: {why}"))
}

impl Kept {
    /// What is known of a key, or nothing where the issuer is to be asked.
    fn look(&self, kid: &str, now: Instant) -> Option<Found> {
        let since = |then: Instant| now.saturating_duration_since(then);
        let age = self.learned.map(since);
        let within = |bound: Duration| age.is_some_and(|age| age < bound);
        let key = self.keys.iter().find(|key| key.kid() == Some(kid));
        let may_ask = self.tried.is_none_or(|tried| since(tried) >= self.times.retry);
        match key {
            Some(key) if within(self.times.fresh) => Some(Found::Key(key.clone())),
            _ if may_ask => None,
            Some(key) if within(self.times.stale) => Some(Found::Key(key.clone())),
            None if within(self.times.stale) => Some(Found::Foreign),
            _ => Some(Found::Unknown),
        }
    }

    fn learn(&mut self, fetched: Option<Vec<PublicKey>>, now: Instant) {
        self.tried = Some(now);
        if let Some(keys) = fetched {
            self.keys = keys;
            self.learned = Some(now);
        }
    }
}

/// For everything: metadata and keys.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
const MOST_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn kept() -> Kept {
        let times = Times {
            fresh: Duration::from_secs(300),
            stale: Duration::from_secs(3600),
            retry: Duration::from_secs(30),
        };
        Kept { times, keys: Vec::new(), learned: None, tried: None }
    }

    /// The key of RFC 8037.
    fn keys(kid: &str) -> Option<Vec<PublicKey>> {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid}]});
        Some(mandate::issuer_keys(set.to_string().as_bytes(), &Scheme::ALL).unwrap())
    }

    /// In a word what is known so many seconds after the beginning.
    fn seen(kept: &Kept, kid: &str, begin: Instant, seconds: u64) -> &'static str {
        match kept.look(kid, begin + Duration::from_secs(seconds)) {
            Some(Found::Key(_)) => "key",
            Some(Found::Foreign) => "foreign",
            Some(Found::Unknown) => "unknown",
            None => "ask",
        }
    }

    #[test]
    fn keys_are_asked_for_when_they_are_old_and_used_on_only_if_that_is_in_vain() {
        let (mut kept, begin) = (kept(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(seen(&kept, "a", begin, 0), "ask");
        kept.learn(keys("a"), begin);
        assert_eq!([0, 299, 300].map(|second| seen(&kept, "a", begin, second)), ["key", "key", "ask"]);
        kept.learn(None, at(300));
        assert_eq!([300, 329, 330].map(|second| seen(&kept, "a", begin, second)), ["key", "key", "ask"]);
        kept.learn(None, at(3590));
        assert_eq!(
            [3599, 3600, 3620].map(|second| seen(&kept, "a", begin, second)),
            ["key", "unknown", "ask"]
        );
        assert_eq!(seen(&kept, "b", begin, 3599), "foreign");
        assert_eq!(seen(&kept, "b", begin, 3600), "unknown");
        kept.learn(keys("b"), at(3620));
        assert_eq!(["a", "b"].map(|kid| seen(&kept, kid, begin, 3621)), ["foreign", "key"]);
    }

    #[test]
    fn names_that_no_key_has_make_us_ask_once_in_a_while() {
        let (mut kept, begin) = (kept(), Instant::now());
        kept.learn(keys("a"), begin);
        for foreign in ["b", "c", ""] {
            let all = [0, 29, 30].map(|second| seen(&kept, foreign, begin, second));
            assert_eq!(all, ["foreign", "foreign", "ask"], "{foreign}");
        }
        kept.learn(keys("a"), begin + Duration::from_secs(30));
        assert_eq!(seen(&kept, "b", begin, 59), "foreign");
        assert_eq!(seen(&kept, "a", begin, 59), "key");
    }

    #[test]
    fn an_issuer_that_never_answered_is_asked_once_in_a_while() {
        let (mut kept, begin) = (kept(), Instant::now());
        kept.learn(None, begin);
        assert_eq!([0, 29, 30].map(|second| seen(&kept, "a", begin, second)), ["unknown", "unknown", "ask"]);
    }

    #[test]
    fn keys_that_an_issuer_has_no_more_are_used_no_more() {
        let (mut kept, begin) = (kept(), Instant::now());
        kept.learn(keys("a"), begin);
        kept.learn(Some(Vec::new()), begin + Duration::from_secs(300));
        assert_eq!(seen(&kept, "a", begin, 301), "foreign");
    }
}
