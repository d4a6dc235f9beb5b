//! Webhooks, signed as the Standard Webhooks specification says (symmetric, `v1`).

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use super::{Letter, PATIENCE, Untold, Wrong, wrong};
use crate::Outside;
use crate::egress::{Destination, Exchange, Request};

/// What the operator writes about a webhook.
#[derive(Clone, Debug)]
pub struct DeclaredWebhook {
    /// Where requests go.
    pub url: String,
    /// The secret that holds the signing keys, `whsec_…`, separated by a space if there are several.
    pub secret: String,
}

/// A place that requests are sent to, and the keys that sign them.
pub(super) struct Webhook {
    destination: Destination,
    path_and_query: String,
    /// One signature of each stands in the request, so that keys can be changed while both sides run.
    keys: Vec<hmac::Key>,
}

impl Webhook {
    pub(super) fn new(declared: &DeclaredWebhook, outside: Outside<'_>) -> Result<Webhook, Wrong> {
        let url: Url = declared.url.parse().map_err(wrong("url"))?;
        let destination = outside.egress.destination(&url, PATIENCE).map_err(wrong("url"))?;
        let secret = outside.secrets.get(&declared.secret).map_err(wrong("secret"))?;
        let value = secret.value_for(destination.origin()).map_err(wrong("secret"))?;
        let keys: Option<Vec<hmac::Key>> = value.split(' ').map(key).collect();
        let keys = keys.ok_or_else(|| wrong("secret")(format!("secret `{}` is {KEY}", declared.secret)))?;
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Webhook { destination, path_and_query: format!("{}{query}", url.path()), keys })
    }

    pub(super) async fn tell(&self, letter: &Letter<'_>) -> Result<(), Untold> {
        let headers = self.headers(letter).ok_or_else(|| Untold::Failed("it cannot be sent".to_owned()))?;
        let request = Request {
            method: Method::POST,
            path_and_query: self.path_and_query.clone(),
            headers,
            body: Some(letter.json.to_vec()),
            most_bytes: MOST_ANSWER_BYTES,
        };
        match self.destination.exchange(request).await {
            Exchange::Answered { status: 200..=299, .. } => Ok(()),
            Exchange::Answered { status: 410, .. } => Err(Untold::Gone),
            Exchange::Answered { status, .. } => Err(Untold::Failed(format!("it answered {status}"))),
            Exchange::NotSent(why) | Exchange::Lost(why) => Err(Untold::Failed(why)),
        }
    }

    fn headers(&self, letter: &Letter<'_>) -> Option<HeaderMap> {
        let seconds = letter.now_ms.div_euclid(1000).to_string();
        let signed = [letter.id.as_bytes(), b".", seconds.as_bytes(), b".", letter.json].concat();
        let signature = |key| format!("v1,{}", STANDARD.encode(hmac::sign(key, &signed)));
        let signatures = self.keys.iter().map(signature).collect::<Vec<_>>().join(" ");
        Some(HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (HeaderName::from_static("webhook-id"), HeaderValue::from_str(letter.id).ok()?),
            (HeaderName::from_static("webhook-timestamp"), HeaderValue::from_str(&seconds).ok()?),
            (HeaderName::from_static("webhook-signature"), HeaderValue::from_str(&signatures).ok()?),
        ]))
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Webhook").field(&self.destination).finish()
    }
}

fn key(text: &str) -> Option<hmac::Key> {
    let bytes = Zeroizing::new(STANDARD.decode(text.strip_prefix("whsec_")?).ok()?);
    KEY_BYTES.contains(&bytes.len()).then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// What the specification allows.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const KEY: &str = "no signing key: write `whsec_` and 24 to 64 bytes in base64";

/// Nothing of it is read but that it ended.
const MOST_ANSWER_BYTES: usize = 65_536;
