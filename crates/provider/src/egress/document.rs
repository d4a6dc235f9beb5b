//! Documents that anybody may read, such as the keys of somebody outside.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
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
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path_and_query = format!("{}{query}", url.path());
        let request = Request { method: Method::GET, path_and_query, headers, body: None, most_bytes };
        match self.destination(url, timeout)?.exchange(request).await {
            Exchange::Answered { status: 200, body } => Ok(body?),
            Exchange::Answered { status, .. } => Err(NoDocument::Status(status)),
            Exchange::NotSent(why) | Exchange::Lost(_, why) => Err(NoDocument::Unanswered(why)),
        }
    }
}
