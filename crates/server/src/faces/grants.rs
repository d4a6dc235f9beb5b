//! Grants, in the words of GNAP (RFC 9635): a mandate and a session under it, asked for by the agent.

use action::{Currency, Money};
use gateway::{Code, Deed, Error, GrantAsk, GrantRefusal, GrantView};
use http::StatusCode;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::sessions::Session;
use crate::openapi::{Answer, Schema};
use crate::reply;
use crate::request::{Request, Response, read, single};
use crate::who;

/// Asks for a grant.
pub(crate) async fn request(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    caller.must(Deed::Execute)?;
    let body = match request.value().await {
        Err(error) if error.code == Code::MalformedBody => return Ok(invalid(&error)),
        body => body?,
    };
    let asked = match read::<GrantRequest>(body).and_then(|asked| asked.understood(caller.subject.as_str())) {
        Ok(asked) => asked,
        Err(error) if error.code == Code::Forbidden => {
            return Ok(refused(StatusCode::BAD_REQUEST, "invalid_client", &told(&error)));
        }
        Err(error) => return Ok(invalid(&error)),
    };
    let interacts = asked.1;
    let ask = GrantAsk { request_id: request.id().to_owned(), ..asked.0 };
    match gateway.grant(&caller, ask).await {
        Ok(came) => answered(&request, came, interacts),
        // What is not there is a member that was misnamed.
        Err(error) if matches!(error.code, Code::NotFound | Code::ValidationFailed) => {
            let field = error.field.as_deref().unwrap_or_default();
            let field = field.replace("/scope", "/access_token/access/0/actions").replace("/constraints", "");
            Ok(invalid(&error.field(field)))
        }
        Err(error) => denied(error),
    }
}

/// Asks what became of one.
pub(crate) async fn proceed(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let header = single(&request.head.headers, &AUTHORIZATION).ok().flatten();
    let token = header.and_then(|header| who::credential(header, "gnap"));
    let token = token.ok_or_else(|| {
        Error::new(Code::Unauthenticated, "the header Authorization is not GNAP and a token")
            .field("Authorization")
    })?;
    match gateway.continue_grant(token).await {
        Ok(came) => answered(&request, came, false),
        Err(error) => denied(error),
    }
}

/// What keeps the agent from a session is told in the words of the standard, too.
fn denied(error: Error) -> Result<Response, Error> {
    match error.code {
        Code::Forbidden | Code::StateConflict => {
            Ok(refused(StatusCode::FORBIDDEN, "request_denied", &error.message))
        }
        _ => Err(error),
    }
}

fn answered(
    request: &Request,
    came: Result<GrantView, GrantRefusal>,
    interacts: bool,
) -> Result<Response, Error> {
    let view = match came {
        Ok(view) => view,
        Err(refusal) => {
            let (status, code, why) = match refusal {
                GrantRefusal::UserDenied => (StatusCode::FORBIDDEN, "user_denied", "a person said no"),
                GrantRefusal::RequestDenied => (
                    StatusCode::FORBIDDEN,
                    "request_denied",
                    "it is more than the agent holds or may be given",
                ),
                GrantRefusal::InvalidContinuation => {
                    (StatusCode::UNAUTHORIZED, "invalid_continuation", "no grant is continued by this token")
                }
            };
            return Ok(refused(status, code, why));
        }
    };
    let base = match request.environment {
        action::Environment::Production => "",
        action::Environment::Sandbox => "/sandbox",
    };
    let gateway = request.gateway()?;
    let url = |path: &str| format!("{}{base}{path}", gateway.public_url());
    let body = match view {
        GrantView::Granted { token, actions, expires_at, session } => GrantResponse {
            access_token: Some(AccessToken {
                value: token,
                access: vec![json!({"type": TYPE, "actions": actions})],
                expires_in: expires_at.saturating_sub(jiff::Timestamp::now().as_second()).max(0),
            }),
            session: Some(Session::of(&session)),
            ..GrantResponse::default()
        },
        GrantView::Pending { action_id, continuation } => GrantResponse {
            proceed: Some(Continue {
                access_token: ContinuationToken { value: continuation },
                uri: url("/v1/grants/continue"),
                wait: WAIT_SECONDS,
            }),
            interact: interacts.then(|| Interaction { redirect: url(&format!("/approvals/{action_id}")) }),
            ..GrantResponse::default()
        },
    };
    Ok(reply::json(StatusCode::OK, &body))
}

impl GrantRequest {
    /// The grant, and whether it is to be told where a person consents.
    fn understood(self, subject: &str) -> Result<(GrantAsk, bool), Error> {
        if self.client.is_some_and(|client| client != subject) {
            let why = "is not who the API key is for; leave it out";
            return Err(Error::new(Code::Forbidden, why).field("/client"));
        }
        let place = "/access_token/access";
        let [right] = <[AccessRight; 1]>::try_from(self.access_token.access)
            .map_err(|_| wrong(place, "has not exactly one right; it may name several actions"))?;
        let at = |member: &str| format!("{place}/0/{member}");
        if right.kind != TYPE {
            return Err(wrong(&at("type"), &format!("is not {TYPE}")));
        }
        if right.actions.is_empty() {
            return Err(wrong(&at("actions"), "is empty"));
        }
        let cap = |cap: Cap| {
            let currency = Currency::of(&cap.currency)
                .ok_or_else(|| wrong(&at("spend_cap/currency"), "is no ISO 4217 code"))?;
            Money::parse(&cap.amount, currency)
                .map_err(|error| wrong(&at("spend_cap/amount"), &error.to_string()))
        };
        if right.expires_in_seconds.is_some_and(|seconds| !(1..=LONGEST_SECONDS).contains(&seconds)) {
            return Err(wrong(&at("expires_in_seconds"), "is not between 1 and a year"));
        }
        if right.max_actions == Some(0) {
            return Err(wrong(&at("max_actions"), "is not at least 1"));
        }
        let start = self.interact.map(|interact| interact.start).unwrap_or_default();
        let ask = GrantAsk {
            actions: right.actions,
            resources: right.locations,
            spend_cap: right.spend_cap.map(cap).transpose()?,
            max_actions: right.max_actions,
            expires_in_seconds: right.expires_in_seconds,
            held: self.delegation_token,
            request_id: String::new(),
        };
        Ok((ask, start.iter().any(|way| way == "redirect")))
    }
}

fn wrong(field: &str, why: &str) -> Error {
    Error::new(Code::ValidationFailed, why).field(field)
}

fn told(error: &Error) -> String {
    format!("`{}` {}", error.field.as_deref().unwrap_or("/"), error.message)
}

fn invalid(error: &Error) -> Response {
    refused(StatusCode::BAD_REQUEST, "invalid_request", &told(error))
}

fn refused(status: StatusCode, code: &'static str, description: &str) -> Response {
    reply::json(status, &GrantError { error: Told { code, description: description.to_owned() } })
}

/// How a grant may be answered, beside with an error of any route.
pub(crate) const GRANTED: &[Answer] = &[
    Answer::json(200, "Granted, or a person is asked: then with `continue`", Schema::GrantResponse),
    Answer::json(400, "It cannot be understood", Schema::GrantError),
    Answer::json(403, "It is refused, or a person said no", Schema::GrantError),
];

/// The same of one that is continued.
pub(crate) const CONTINUED: &[Answer] = &[
    Answer::json(200, "Granted, or still waiting", Schema::GrantResponse),
    Answer::json(401, "There is no grant that this token continues", Schema::GrantError),
    Answer::json(403, "It is refused, or a person said no", Schema::GrantError),
];

/// What an agent asks to be granted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantRequest {
    access_token: AccessTokenRequest,
    /// The agent's own name; its API key says the same.
    client: Option<String>,
    interact: Option<Interact>,
    /// Beyond the standard: a mandate that the agent holds, for a narrower one; absent: its key's default one.
    delegation_token: Option<String>,
}

/// One access token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AccessTokenRequest {
    #[schema(min_items = 1, max_items = 1)]
    access: Vec<AccessRight>,
    /// Taken, and without meaning here.
    #[serde(default)]
    #[expect(dead_code, reason = "the standard has it")]
    label: Option<String>,
}

/// What it is for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AccessRight {
    /// `urn:countersign:actions`.
    #[serde(rename = "type")]
    kind: String,
    /// Archetypes or groups.
    actions: Vec<String>,
    /// Resource patterns; absent: anywhere.
    locations: Option<Vec<String>>,
    spend_cap: Option<Cap>,
    /// Absent: any number.
    max_actions: Option<u64>,
    /// Absent: as long as what the agent holds; where a person is asked, an hour.
    expires_in_seconds: Option<u32>,
}

/// The most that may be spent in sum.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Cap {
    amount: String,
    currency: String,
}

/// How the agent can have a person consent.
#[derive(Deserialize, ToSchema)]
struct Interact {
    /// With `redirect` it is told where.
    start: Vec<String>,
}

/// A grant, or where it goes on.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct GrantResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<AccessToken>,
    /// The session that was opened under it.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Session>,
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    proceed: Option<Continue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interact: Option<Interaction>,
}

/// The token of a mandate. It is good for the agent that asked, with its API key.
#[derive(Serialize, ToSchema)]
struct AccessToken {
    value: String,
    /// What it is for.
    #[schema(value_type = Vec<Object>)]
    access: Vec<serde_json::Value>,
    /// Seconds.
    expires_in: i64,
}

/// How to ask again.
#[derive(Serialize, ToSchema)]
struct Continue {
    access_token: ContinuationToken,
    /// Where to post to, with `Authorization: GNAP` and that token.
    uri: String,
    /// Seconds until it is worth asking again.
    wait: u32,
}

/// A token that continues a grant.
#[derive(Serialize, ToSchema)]
struct ContinuationToken {
    value: String,
}

/// Where a person consents.
#[derive(Serialize, ToSchema)]
struct Interaction {
    redirect: String,
}

/// Why there is no grant.
#[derive(Serialize, ToSchema)]
pub(crate) struct GrantError {
    error: Told,
}

/// In the words of the standard.
#[derive(Serialize, ToSchema)]
#[schema(as = GrantErrorTold)]
struct Told {
    /// `invalid_request`, `invalid_client`, `user_denied`, `request_denied` or `invalid_continuation`.
    code: &'static str,
    /// The same for people, naming the member.
    description: String,
}

const TYPE: &str = "urn:countersign:actions";
const LONGEST_SECONDS: u32 = 366 * 24 * 3600;
const WAIT_SECONDS: u32 = 5;
