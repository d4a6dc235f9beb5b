//! Documents that anybody may read, such as the keys of somebody outside, and texts that anybody may be shown.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::client::{BodyFault, Egress, Exchange, Request};
use super::rules::Refused;

/// Why a document could not be had. In words of our own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NoDocument {
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("{0}")]
    Unanswered(String),
    #[error("it was answered {0}")]
    Status(u16),
    #[error("{0}")]
    Body(#[from] BodyFault),
}

impl Egress {
    /// Reads a JSON document of at most `most_bytes`. Nothing goes along but the wish to read it.
    ///
    /// # Errors
    /// Why it could not be had.
    pub async fn document(
        &self,
        url: &Url,
        timeout: Duration,
        most_bytes: usize,
    ) -> Result<Vec<u8>, NoDocument> {
        let about = (ACCEPT, "application/json");
        let (status, body) = self.ask(Method::GET, url, about, None, timeout, most_bytes).await?;
        if status == 200 { Ok(body) } else { Err(NoDocument::Status(status)) }
    }

    /// Posts a text and answers with status and body, of at most `most_bytes`. Nothing else goes along.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn post_text(
        &self,
        url: &Url,
        text: String,
        timeout: Duration,
        most_bytes: usize,
    ) -> Result<(u16, Vec<u8>), NoDocument> {
        let about = (CONTENT_TYPE, "text/plain; charset=utf-8");
        self.ask(Method::POST, url, about, Some(text.into_bytes()), timeout, most_bytes).await
    }

    async fn ask(
        &self,
        method: Method,
        url: &Url,
        (name, value): (HeaderName, &'static str),
        body: Option<Vec<u8>>,
        timeout: Duration,
        most_bytes: usize,
    ) -> Result<(u16, Vec<u8>), NoDocument> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path_and_query = format!("{}{query}", url.path());
        let request = Request { method, path_and_query, headers, body, most_bytes };
        match self.destination(url, timeout)?.exchange(request).await {
            Exchange::Answered { status, body } => Ok((status, body?)),
            Exchange::NotSent(why) | Exchange::Lost(_, why) => Err(NoDocument::Unanswered(why)),
        }
    }
}
