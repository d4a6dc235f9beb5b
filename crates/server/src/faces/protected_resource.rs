//! What a client has to know to get in by an access token: the metadata of a protected resource (RFC 9728), and the header
//! that leads to it (RFC 6750).
//!
//! The gateway is one resource, its MCP face another one within it, and each MCP server one within that. Which servers
//! there are is not told here: whatever may be the name of one is answered alike.

use gateway::upstream::is_server_name;
use gateway::{Code, Error};
use http::StatusCode;
use http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue};
use http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;

use crate::reply;
use crate::request::{Request, Response};
use crate::site::Site;

/// The whole gateway.
pub(crate) async fn whole(request: Request) -> Result<Response, Error> {
    Ok(metadata(&request, "", "Countersign".to_owned()))
}

/// Its MCP face.
pub(crate) async fn mcp(request: Request) -> Result<Response, Error> {
    Ok(metadata(&request, MCP, "Countersign: MCP".to_owned()))
}

/// One MCP server.
pub(crate) async fn server(request: Request) -> Result<Response, Error> {
    let name = &request.argument;
    if !is_server_name(name) {
        return Err(Error::new(Code::NotFound, "this is no name of an MCP server"));
    }
    Ok(metadata(&request, &format!("{MCP}/{name}"), format!("Countersign: {name}")))
}

fn metadata(request: &Request, below: &str, resource_name: String) -> Response {
    let (site, gateway) = (&request.site, &request.site.faces.production);
    let body = ProtectedResource {
        resource: format!("{}{below}", site.public_url),
        authorization_servers: gateway.token_issuers().collect(),
        bearer_methods_supported: ["header"],
        scopes_supported: gateway.token_scopes(),
        resource_name,
        resource_documentation: format!("{}/docs", site.public_url),
    };
    let mut response = reply::json(StatusCode::OK, &body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    response
}

/// The MCP server that a path is of.
pub(crate) fn server_of(path: &str) -> Option<&str> {
    let below = path.strip_prefix(MCP)?.strip_prefix('/')?;
    below.split('/').next().filter(|name| is_server_name(name))
}

/// Where a request came to and whether it brought a key or token: all that is kept of it for whoever is not let in.
pub(crate) struct Door {
    below: String,
    knocked: bool,
}

impl Door {
    pub(crate) fn of(head: &Parts) -> Door {
        let path = head.uri.path();
        let below = match server_of(path) {
            Some(server) => format!("{MCP}/{server}"),
            None if path == MCP => MCP.to_owned(),
            None => String::new(),
        };
        Door { below, knocked: head.headers.contains_key(AUTHORIZATION) }
    }

    /// What `WWW-Authenticate` says where a key or token is missing, wrong or does not reach so far.
    pub(crate) fn challenge(&self, error: &Error, site: &Site) -> Option<HeaderValue> {
        self.header(error, &site.public_url, || site.faces.production.token_scopes().join(" "))
    }

    fn header(
        &self,
        error: &Error,
        public_url: &str,
        every_scope: impl FnOnce() -> String,
    ) -> Option<HeaderValue> {
        let (fault, scopes) = match error.code {
            Code::Unauthenticated if self.knocked => (Some("invalid_token"), every_scope()),
            Code::Unauthenticated => (None, every_scope()),
            Code::InsufficientScope => (Some("insufficient_scope"), error.scopes.join(" ")),
            _ => return None,
        };
        let fault = fault.map(|fault| format!(", error=\"{fault}\"")).unwrap_or_default();
        let scopes = if scopes.is_empty() { scopes } else { format!(", scope=\"{scopes}\"") };
        let metadata = format!("{public_url}{WELL_KNOWN}{}", self.below);
        let header = format!("Bearer realm=\"countersign\"{fault}{scopes}, resource_metadata=\"{metadata}\"");
        HeaderValue::try_from(header).ok()
    }
}

/// Metadata of a protected resource (RFC 9728).
#[derive(Serialize, ToSchema)]
pub(crate) struct ProtectedResource<'a> {
    /// The URL that tokens are for.
    resource: String,
    /// Whose tokens are taken; absent where only API keys are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    authorization_servers: Vec<&'a str>,
    /// Always `header`.
    bearer_methods_supported: [&'static str; 1],
    /// What a token may have to have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes_supported: Vec<&'a str>,
    /// For people.
    resource_name: String,
    /// For those who write clients.
    resource_documentation: String,
}

const MCP: &str = "/mcp";
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_the_server_that_it_names_or_of_none() {
        for (path, server) in [
            ("/mcp/git", Some("git")),
            ("/mcp/git/", Some("git")),
            ("/mcp/git/more", Some("git")),
            ("/mcp", None),
            ("/mcp/", None),
            ("/mcpx/git", None),
            ("/mcp//git", None),
            ("/mcp/g\"t", None),
            ("/mcp/a__b", None),
            ("/mcp/g%20t", None),
            ("/v1/actions", None),
        ] {
            assert_eq!(server_of(path), server, "{path}");
        }
        let long = |length| format!("/mcp/{}", "x".repeat(length));
        assert!(server_of(&long(40)).is_some() && server_of(&long(41)).is_none());
    }

    #[test]
    fn a_challenge_names_the_scopes_that_are_needed_and_no_words() {
        let door = Door { below: String::new(), knocked: true };
        let error = Error::new(Code::InsufficientScope, "no").hint("ask \"them\"");
        let scopes = ["act".to_owned(), "read".to_owned()];
        let says = |error: &Error| {
            let header = door.header(error, "https://gw.example", || "every".to_owned()).unwrap();
            header.to_str().unwrap().to_owned()
        };
        let said = says(&error.clone().scopes(&scopes));
        assert!(said.contains("error=\"insufficient_scope\", scope=\"act read\","), "{said}");
        assert!(!says(&error).contains("them"));
        let stranger = says(&Error::new(Code::Unauthenticated, "no"));
        assert!(stranger.contains("error=\"invalid_token\", scope=\"every\","), "{stranger}");
    }
}
