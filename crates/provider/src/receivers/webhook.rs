//! Webhooks, signed as the Standard Webhooks specification says.

use std::fmt;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{Letter, PATIENCE, Untold, Wrong, wrong};
use crate::Outside;
use crate::egress::{Destination, Exchange, Request};
use crate::webhooks::{Keys, NO_KEY};

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
    keys: Keys,
}

impl Webhook {
    pub(super) fn new(declared: &DeclaredWebhook, outside: Outside<'_>) -> Result<Webhook, Wrong> {
        let url: Url = declared.url.parse().map_err(wrong("url"))?;
        let destination = outside.egress.destination(&url, PATIENCE).map_err(wrong("url"))?;
        let secret = outside.secrets.get(&declared.secret).map_err(wrong("secret"))?;
        let value = secret.value_for(destination.origin()).map_err(wrong("secret"))?;
        let keys = Keys::parse(value)
            .ok_or_else(|| wrong("secret")(format!("secret `{}` is {NO_KEY}", declared.secret)))?;
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
            Exchange::NotSent(why) | Exchange::Lost(_, why) => Err(Untold::Failed(why)),
        }
    }

    fn headers(&self, letter: &Letter<'_>) -> Option<HeaderMap> {
        let seconds = letter.now_ms.div_euclid(1000).to_string();
        let signatures = self.keys.sign(letter.id, &seconds, letter.json);
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

/// Nothing of it is read but that it ended.
const MOST_ANSWER_BYTES: usize = 65_536;
