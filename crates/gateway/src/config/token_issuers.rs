//! `[[token_issuers]]`: who says by a token who is calling.

use serde::{Deserialize, Serialize};

/// Somebody whose access tokens are taken where API keys are: an OpenID provider, or an OAuth 2 authorisation server whose
/// tokens are JWTs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenIssuer {
    /// `iss` of its tokens, to the letter.
    pub issuer: String,
    /// Where its keys are, a JWK set; where its metadata says, unless named.
    pub jwks_url: Option<String>,
    /// `aud` of its tokens. Unless named, that they are for this gateway: `PUBLIC_URL/mcp`, or `PUBLIC_URL`, and for one
    /// MCP server only `PUBLIC_URL/mcp/SERVER`.
    pub audience: Option<String>,
    /// How they may be signed.
    #[serde(default = "every_algorithm")]
    pub algorithms: Vec<String>,
    /// Whose callers they name; the first tenant's, unless it is named.
    pub tenant: Option<String>,
    /// What these may do.
    #[serde(default = "agent")]
    pub role: String,
    /// Which claim names the caller.
    #[serde(default)]
    pub subject: SubjectClaim,
    /// What stands before that name in ours, so that nobody else has it.
    pub prefix: String,
    /// Whether callers with API keys may be called so, too: token and key are then one caller.
    #[serde(default)]
    pub shares_subjects: bool,
    /// What a token has to have of `scope`, each of them.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The mandate (`jti`) used when a request brings no token of one.
    pub default_mandate: Option<String>,
    /// So long keys are used before they are fetched anew, seconds.
    #[serde(default = "fresh")]
    pub keys_fresh_seconds: u64,
    /// So long they are used if they cannot be fetched, seconds.
    #[serde(default = "stale")]
    pub keys_stale_seconds: u64,
    /// So often at most they are fetched, whatever tokens name: once in so many seconds.
    #[serde(default = "retry")]
    pub keys_retry_seconds: u64,
}

/// A claim that names a caller.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectClaim {
    /// Whoever the token is about.
    #[default]
    Sub,
    /// The client that it was issued to.
    ClientId,
}

impl SubjectClaim {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            SubjectClaim::Sub => "sub",
            SubjectClaim::ClientId => "client_id",
        }
    }
}

fn every_algorithm() -> Vec<String> {
    mandate::Scheme::ALL.map(|scheme| scheme.as_str().to_owned()).to_vec()
}

fn agent() -> String {
    crate::Role::Agent.as_str().to_owned()
}

fn fresh() -> u64 {
    300
}

fn stale() -> u64 {
    3600
}

fn retry() -> u64 {
    30
}
