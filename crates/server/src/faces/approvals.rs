//! What waits for people, and what they say about it.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gateway::{
    Code, DeadlockView, Decision, Deed, Error, ExchangeView, GivenView, HeldView, LimitsAsk, PasskeyView,
    ResolutionView, ResolveAsk, Ruling, RulingAsk,
};
use http::StatusCode;
use receipt::approval;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::actions::Record;
use super::sessions::SessionLimits;
use crate::reply;
use crate::request::{Request, Response, read_text};
use crate::who;

/// One page of what waits.
pub(crate) async fn list(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let [cursor, limit] = request.query(["cursor", "limit"])?;
    let first = cursor.is_none();
    let page = gateway.held(&caller, cursor, reply::rows(limit.as_deref())?).await?;
    let unresolved = if first { gateway.unresolved(&caller).await? } else { Vec::new() };
    let deadlocks = if first { gateway.deadlocks(&caller).await? } else { Vec::new() };
    let held = |views: Vec<HeldView>| views.into_iter().map(Held::of).collect();
    let body = HeldPage {
        items: held(page.items),
        unresolved: held(unresolved),
        deadlocks: deadlocks.into_iter().map(Deadlock::of).collect(),
        next_cursor: page.next,
    };
    Ok(reply::json(StatusCode::OK, &body))
}

/// One action that waits, or did.
pub(crate) async fn get(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let view = gateway.held_one(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Held::of(view)))
}

/// What a person would have to sign.
pub(crate) async fn envelope(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: EnvelopeRequest = request.json_if_any().await?;
    let limits = limits(ask.limits)?;
    let question = gateway.ask_to_sign(&caller, &request.argument, ask.comment, limits).await?;
    let body = Question {
        challenge: text(&question.challenge),
        credentials: question.credentials.iter().map(|id| text(id)).collect(),
        envelope: question.envelope,
        expires_at: question.expires_at,
        rp_id: question.rp_id,
    };
    Ok(reply::json(StatusCode::OK, &body))
}

/// A person agrees.
pub(crate) async fn approve(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: ApproveRequest = request.json_if_any().await?;
    let view = match ask.assertion {
        None => gateway.approve(&caller, &request.argument, ask.comment).await?,
        Some(_) if ask.comment.is_some() => {
            let why = "the comment of a signed approval stands in what was signed";
            return Err(Error::new(Code::ValidationFailed, why).field("/comment"));
        }
        Some(assertion) => {
            gateway.approve_signed(&caller, &request.argument, assertion.understood()?).await?
        }
    };
    Ok(reply::json(StatusCode::OK, &Held::of(view)))
}

/// A person says no.
pub(crate) async fn reject(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: CommentRequest = request.json_if_any().await?;
    let view = gateway.reject(&caller, &request.argument, ask.comment).await?;
    Ok(reply::json(StatusCode::OK, &Held::of(view)))
}

/// A person decides, by one of all the decisions there are.
pub(crate) async fn decide(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    caller.must(Deed::Approve)?;
    let ask: DecideRequest = request.json().await?;
    let view = gateway.rule(&caller, &request.argument, ask.understood()?).await?;
    Ok(reply::json(StatusCode::OK, &Held::of(view)))
}

/// The agent answers what people asked.
pub(crate) async fn answer(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller_or_anonymous(&request).await?;
    caller.must(Deed::Execute)?;
    let ask: AnswerRequest = request.json().await?;
    // Agents are told without quotation marks.
    let Value::String(answer) = ask.answer else {
        return Err(Error::new(Code::ValidationFailed, "answer is not a string").field("/answer"));
    };
    let view = gateway.answer_question(&caller, &request.argument, &answer).await?;
    Ok(reply::json(StatusCode::OK, &Pending::of(&view)))
}

/// A person says what became of an action, where nobody else does.
pub(crate) async fn resolve(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    caller.must(Deed::Approve)?;
    let ask: ResolveRequest = request.json().await?;
    let view = gateway.resolve(&caller, &request.argument, ask.understood()?).await?;
    Ok(reply::json(StatusCode::OK, &Record::of(&view, gateway.public_url())))
}

/// The tenant's passkeys.
pub(crate) async fn passkeys(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let passkeys = gateway.passkeys(&caller).await?;
    Ok(reply::list(passkeys.into_iter().map(Passkey::of).collect()))
}

/// An admin says whose passkey it is.
pub(crate) async fn enrol(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let passkey = gateway.enrol_passkey(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Passkey::of(passkey)))
}

/// A passkey ends.
pub(crate) async fn revoke(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    caller.must(Deed::Administer)?;
    let passkey = gateway.revoke_passkey(&caller, &request.argument).await?;
    Ok(reply::json(StatusCode::OK, &Passkey::of(passkey)))
}

/// The file that verifiers pin.
pub(crate) async fn approvers(request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let file = gateway.approvers(&caller).await?;
    Ok(reply::bytes_of(StatusCode::OK, "application/json", file.as_str().as_bytes().to_vec()))
}

/// A person's yes. It cannot change the action.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApproveRequest {
    /// One line for other people, at most 1000 bytes; of a signed approval it stands in the envelope.
    comment: Option<String>,
    /// A passkey's signature over the envelope that `/envelope` gave out.
    assertion: Option<Assertion>,
}

/// What WebAuthn's `get` returned, each in unpadded base64url.
#[derive(Deserialize, ToSchema)]
#[schema(as = PasskeyAssertion)]
#[serde(deny_unknown_fields)]
pub(crate) struct Assertion {
    credential_id: String,
    authenticator_data: String,
    client_data_json: String,
    signature: String,
}

/// What a passkey is asked to sign.
#[derive(Serialize, ToSchema)]
#[schema(as = ApprovalQuestion)]
pub(crate) struct Question {
    /// SHA-256 of the envelope's canonical bytes, unpadded base64url: the challenge for WebAuthn's `get`.
    challenge: String,
    /// The caller's credentials, unpadded base64url.
    credentials: Vec<String>,
    /// Everything that is agreed to; see `docs/approvals-format.md`.
    #[schema(value_type = Object)]
    envelope: receipt::Json,
    /// When the answer lapses.
    expires_at: String,
    /// The domain that the credentials are for.
    rp_id: String,
}

/// Passkeys.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `reply::list` writes")]
pub(crate) struct PasskeyList {
    items: Vec<Passkey>,
}

/// A passkey that somebody approves with.
#[derive(Serialize, ToSchema)]
pub(crate) struct Passkey {
    /// A digest of credential and key; its holder reads it out to the admin who enrols it.
    id: String,
    approver: String,
    /// `registered`, `enrolled` or `revoked`; only what is enrolled counts.
    state: &'static str,
    registered_at: String,
    /// The admin who says whose it is.
    enrolled_by: Option<String>,
    enrolled_at: Option<String>,
    revoked_by: Option<String>,
    revoked_at: Option<String>,
}

/// What `countersign verify --approvers` reads: an array of these.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the crate `receipt` writes")]
pub(crate) struct ApproverFile {
    approver: String,
    credential_id: String,
    origins: Vec<String>,
    /// A JWK of `crv`, `kty`, `x` and `y`.
    #[schema(value_type = Object)]
    public_key: (),
    rp_id: String,
}

/// What goes with a decision. It cannot change the action.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommentRequest {
    /// One line for other people, at most 1000 bytes.
    comment: Option<String>,
}

/// What goes into an envelope beside the action.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnvelopeRequest {
    /// One line for other people, at most 1000 bytes.
    comment: Option<String>,
    /// How far the yes goes; absent: all the way.
    #[serde(default)]
    #[schema(value_type = Option<Limits>)]
    limits: Value,
}

/// How far a person agrees. They only lower, and one of them is there.
#[derive(Serialize, ToSchema)]
#[schema(as = ApproverLimits)]
pub(crate) struct Limits {
    /// The most that may be at stake, a decimal string in the action's currency.
    max_amount: Option<String>,
    /// RFC 3339: nothing is sent after that.
    not_after: Option<String>,
    /// `ACTION`, which is meant where it is absent, or `SESSION`: of a cycle, also whatever its session does after it.
    applies_to: Option<&'static str>,
}

/// A decision about a held action. Each member is read by itself, so that a wrong one is named.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecideRequest {
    /// One of `available_decisions`: `APPROVE`, `APPROVE_WITH_CONSTRAINTS`, `DENY`, `REQUEST_MORE_INFO`, `REVOKE_MISSION` or
    /// `EXTEND_BUDGET`.
    #[serde(default)]
    #[schema(value_type = String)]
    decision: Value,
    /// One line for other people, at most 1000 bytes.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    comment: Value,
    /// With `APPROVE_WITH_CONSTRAINTS`, unless it is signed.
    #[serde(default)]
    #[schema(value_type = Option<Limits>)]
    limits: Value,
    /// With `REQUEST_MORE_INFO`: what the agent is asked, one line, at most 1000 bytes.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    question: Value,
    /// With `EXTEND_BUDGET`: how much more time.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    seconds: Value,
    /// With a yes: a passkey's signature over the envelope that `/envelope` gave out; comment and limits stand there.
    assertion: Option<Assertion>,
}

/// What the agent says to a question about a held action of its own.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnswerRequest {
    /// One line, at most 1000 bytes. People are shown it as the agent's words.
    #[serde(default)]
    #[schema(value_type = String)]
    answer: Value,
}

/// What of a session waits for people, as its agent may know it.
#[derive(Serialize, ToSchema)]
#[schema(as = PendingEscalation)]
pub(crate) struct Pending {
    /// The cycle that waits.
    action_id: String,
    escalation_id: String,
    /// The classes that fired, each once.
    escalation_classes: Vec<u8>,
    /// Why it waits, one stable word each.
    reasons: Vec<String>,
    expires_at: Option<String>,
    /// What people asked about it, oldest first; the last one waits for an answer if it has none.
    exchanges: Vec<AgentExchange>,
}

/// A question, and the agent's answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct AgentExchange {
    question: String,
    asked_at: String,
    answer: Option<String>,
    answered_at: Option<String>,
}

/// A question that a person had, and the agent's answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct Exchange {
    /// The hold it was asked in.
    escalation_id: String,
    by: String,
    question: String,
    asked_at: String,
    /// In the agent's words.
    answer: Option<String>,
    answered_at: Option<String>,
}

/// A person's word on what became of an action. Each member is read by itself, so that a wrong one is named.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResolveRequest {
    /// `executed` or `failed` of what is in doubt; `rolled_back` (undone by other means) or `executed` (it stays) of what could
    /// not be undone; `released`, `executed` (it was charged) or `try_again` of what could not be set free; `executed` (it
    /// stays) or `undo` of what nobody knows to be as it should be.
    #[serde(default, rename = "as")]
    #[schema(value_type = String)]
    decision: Value,
    /// How you know: one line, at most 1000 bytes.
    #[serde(default)]
    #[schema(value_type = String)]
    comment: Value,
    /// With `executed`: what was charged, if it is less than what was reserved.
    #[serde(default)]
    #[schema(value_type = Option<Charged>)]
    charged: Value,
    /// With `executed`: what the provider calls the effect; 1 to 200 visible ASCII characters.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    reference: Value,
}

/// What was charged, in the currency of the action.
#[derive(ToSchema)]
#[schema(as = ResolvedCharge)]
#[expect(dead_code, reason = "describes what `ResolveRequest` reads")]
pub(crate) struct Charged {
    /// A decimal string.
    amount: String,
}

/// One page of what waits for people.
#[derive(Serialize, ToSchema)]
pub(crate) struct HeldPage {
    /// What waits to be agreed to, newest first.
    items: Vec<Held>,
    /// With the first page: actions that only a person can settle, as many as a person can look after.
    unresolved: Vec<Held>,
    /// With the first page: sessions that wait for each other in a circle, which only a person can end.
    deadlocks: Vec<Deadlock>,
    /// Hand this in as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
}

/// Sessions of a cluster that wait for each other in a circle.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deadlock {
    cluster_id: String,
    /// Each waits for the next, and the last for the first.
    sessions: Vec<String>,
    /// In whose names the members of the cluster act.
    principals: Vec<String>,
    /// What a person can do with any one of the sessions: `END_WAIT` (`POST /v1/sessions/{id}/wait`), `LEAVE`
    /// (`POST /v1/clusters/{id}/leave`), `REVOKE_SESSION` (`POST /v1/sessions/{id}/close`).
    available_decisions: [&'static str; 3],
}

impl Deadlock {
    fn of(view: DeadlockView) -> Deadlock {
        let DeadlockView { cluster_id, sessions, principals, available_decisions } = view;
        Deadlock { cluster_id, sessions, principals, available_decisions }
    }
}

/// An action that waits for people, or did: everything they say yes or no to.
#[derive(Serialize, ToSchema)]
#[schema(as = HeldAction)]
pub(crate) struct Held {
    action_id: String,
    /// Names this hold of it; an action may be held more than once.
    escalation_id: String,
    /// `INTENDED` while it waits, `APPROVED` once enough people agreed; then as in the action's record.
    state: String,
    /// The kind of action, as the catalogue names it.
    archetype: String,
    /// What that is, in the operator's words.
    description: String,
    /// Who asks.
    agent_id: String,
    /// The constraints, canonical; in the agent's words where they hold text.
    #[schema(value_type = Object)]
    parameters: Value,
    /// What is at stake, a decimal string.
    amount: Option<String>,
    currency: Option<String>,
    /// Whether it can be undone.
    reversible: bool,
    /// Who is asked, as the request names it; whoever can approve may decide, unless it names who signs off.
    human_approver: Option<String>,
    /// What only the envelope of the Agent Transaction Protocol said: verb, target, description, compliance, rollback.
    #[schema(value_type = Option<Object>)]
    atp: Option<Value>,
    /// The mandate it comes under.
    mandate_id: Option<String>,
    /// Why it waits, one stable word each.
    reasons: Vec<String>,
    /// The policies that ask for a person.
    policies: Vec<Policy>,
    /// The earlier action that this one seems to repeat.
    earlier_transaction: Option<String>,
    /// How many people have to agree to this hold.
    approvals_needed: u32,
    /// Who all have to agree: the principals of its cluster, where more than one has a say; else empty.
    principals: Vec<String>,
    /// The weakest form that counts: `key` or `passkey`.
    approval_form: &'static str,
    /// What people said so far, oldest first.
    approvals: Vec<Approval>,
    /// What people asked its agent, and what that said, oldest first.
    exchanges: Vec<Exchange>,
    /// The classes of escalation that fired, each once.
    escalation_classes: Vec<u8>,
    /// The governed session it is a cycle of.
    session_id: Option<String>,
    /// The declaration it stands on.
    intent_id: Option<String>,
    /// Of its session, in seconds, when it was judged.
    time_budget_remaining: Option<u64>,
    /// `CLEAN`, `PARTIAL` or `UNKNOWN`: how its session is left while it waits; null in lists, outside of sessions, and once it
    /// is over.
    completion_state: Option<&'static str>,
    /// The page on which people decide, out of reach of the agent; null once it is over.
    out_of_band_ref: Option<String>,
    /// What can be decided about it now at `/decide`.
    available_decisions: Vec<&'static str>,
    /// How far people agreed to whatever its session does; null outside of sessions, and where that is all the way.
    session_limits: Option<SessionLimits>,
    created_at: String,
    expires_at: Option<String>,
    /// `in_doubt`, `unchecked`, `release_failed` or `rollback_failed`, if nobody but a person can say what became of it; else
    /// null.
    unresolved: Option<&'static str>,
    /// What a person can say became of it; empty unless it is unresolved.
    decisions: Vec<&'static str>,
    /// What people said became of it, oldest first.
    resolutions: Vec<Resolution>,
    /// Where it was sent to, if it was.
    provider: Option<String>,
    /// By which the provider may know it.
    reference: Option<String>,
    /// The provider's own reference for an effect that was to be undone or looked after, or for what it has set aside.
    provider_reference: Option<String>,
}

/// What a person said became of an action that its provider did not tell of.
#[derive(Serialize, ToSchema)]
pub(crate) struct Resolution {
    /// `executed`, `failed`, `rolled_back`, `released`, `try_again` or `undo`.
    #[serde(rename = "as")]
    decision: String,
    by: String,
    at: String,
    /// How they know.
    comment: String,
    /// What they say was charged; null: what was reserved.
    charged: Option<String>,
    /// What they say the provider calls it.
    reference: Option<String>,
}

/// A policy, by name and content.
#[derive(Serialize, ToSchema)]
#[schema(as = PolicyReference)]
struct Policy {
    id: String,
    digest: String,
}

/// What one person said about a held action.
#[derive(Serialize, ToSchema)]
pub(crate) struct Approval {
    approver: String,
    /// `approve`, `reject`, `revoke_mission` or `extend_budget`.
    decision: String,
    /// `passkey`: signed by the person; `key`: by an API key of role approver.
    form: String,
    at: String,
    /// A line for other people.
    comment: Option<String>,
    /// The hold it was about.
    escalation_id: String,
    /// How far a yes goes; null: all the way.
    limits: Option<Limits>,
    /// How much more time was given.
    seconds: Option<u64>,
    /// Why a yes counts no more: `policies_changed`, `catalogue_changed` or `rules_changed` (both) since it was asked for, or
    /// `asked_anew` for another reason; null where it counts.
    void: Option<String>,
}

impl DecideRequest {
    fn understood(self) -> Result<RulingAsk, Error> {
        let DecideRequest { decision, comment, limits, question, seconds, assertion } = self;
        let words: Vec<&str> = Ruling::ALL.iter().map(|ruling| ruling.as_str()).collect();
        let unsaid = || wrong("decision", &format!("is one of {}", words.join(", ")));
        let ruling =
            string(decision, "decision")?.and_then(|word| Ruling::parse(&word)).ok_or_else(unsaid)?;
        let signed = assertion.is_some();
        let yes = matches!(ruling, Ruling::Approve | Ruling::ApproveWithConstraints);
        for (name, given, fits) in [
            ("limits", !limits.is_null(), ruling == Ruling::ApproveWithConstraints && !signed),
            ("question", !question.is_null(), ruling == Ruling::RequestMoreInfo),
            ("seconds", !seconds.is_null(), ruling == Ruling::ExtendBudget),
            ("assertion", signed, yes),
            ("comment", !comment.is_null(), !signed && ruling != Ruling::RequestMoreInfo),
        ] {
            if given && !fits {
                let why = match signed && yes {
                    true => "stands in what was signed".to_owned(),
                    false => format!("does not go with {}", ruling.as_str()),
                };
                return Err(wrong(name, &why));
            }
        }
        let comment = string(comment, "comment")?;
        Ok(match (ruling, assertion) {
            (_, Some(assertion)) => RulingAsk::Signed(assertion.understood()?),
            (Ruling::Approve, None) => RulingAsk::Approve { comment, limits: None },
            (Ruling::ApproveWithConstraints, None) => {
                let limits = self::limits(limits)?.ok_or_else(|| wrong("limits", "is missing"))?;
                RulingAsk::Approve { comment, limits: Some(limits) }
            }
            (Ruling::Deny, None) => RulingAsk::Deny { comment },
            (Ruling::RequestMoreInfo, None) => {
                let question = string(question, "question")?;
                RulingAsk::RequestMoreInfo {
                    question: question.ok_or_else(|| wrong("question", "is missing"))?,
                }
            }
            (Ruling::RevokeMission, None) => RulingAsk::RevokeMission { comment },
            (Ruling::ExtendBudget, None) => {
                let seconds = seconds.as_u64().ok_or_else(|| wrong("seconds", "is not a whole number"))?;
                RulingAsk::ExtendBudget { seconds, comment }
            }
        })
    }
}

fn limits(asked: Value) -> Result<Option<LimitsAsk>, Error> {
    match asked {
        Value::Null => Ok(None),
        Value::Object(mut members) => {
            let mut take =
                |name: &str| string(members.remove(name).unwrap_or_default(), &format!("limits/{name}"));
            let (max_amount, not_after) = (take("max_amount")?, take("not_after")?);
            let applies_to = take("applies_to")?;
            match members.keys().next() {
                Some(_) => {
                    Err(wrong("limits", "has no members but `max_amount`, `not_after` and `applies_to`"))
                }
                None => Ok(Some(LimitsAsk { max_amount, not_after, applies_to })),
            }
        }
        _ => Err(wrong("limits", "is not an object")),
    }
}

impl Pending {
    pub(super) fn of(view: &HeldView) -> Pending {
        let exchange = |it: &ExchangeView| AgentExchange {
            question: it.question.clone(),
            asked_at: it.asked_at.clone(),
            answer: it.answer.clone(),
            answered_at: it.answered_at.clone(),
        };
        Pending {
            action_id: view.action_id.clone(),
            escalation_id: view.escalation_id.clone(),
            escalation_classes: view.escalation_classes.clone(),
            reasons: view.reasons.clone(),
            expires_at: view.expires_at.clone(),
            exchanges: view.exchanges.iter().map(exchange).collect(),
        }
    }
}

impl Exchange {
    fn of(view: ExchangeView) -> Exchange {
        let ExchangeView { escalation_id, by, question, asked_at, answer, answered_at } = view;
        Exchange { escalation_id, by, question, asked_at, answer, answered_at }
    }
}

impl Assertion {
    /// Reads it as the page's script writes it.
    pub(crate) fn parse(json: &str) -> Result<approval::Assertion, Error> {
        let read = read_text::<Assertion>(json);
        let wrong = |_| Error::new(Code::ValidationFailed, "this is not a passkey's signature");
        read.map_err(wrong)?.understood()
    }

    fn understood(self) -> Result<approval::Assertion, Error> {
        Ok(approval::Assertion {
            credential_id: bytes(&self.credential_id, "/assertion/credential_id")?,
            authenticator_data: bytes(&self.authenticator_data, "/assertion/authenticator_data")?,
            client_data_json: bytes(&self.client_data_json, "/assertion/client_data_json")?,
            signature: bytes(&self.signature, "/assertion/signature")?,
        })
    }
}

/// Bytes as WebAuthn's are written here.
pub(super) fn text(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn bytes(text: &str, field: &str) -> Result<Vec<u8>, Error> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Error::new(Code::ValidationFailed, "this is not unpadded base64url").field(field))
}

impl ResolveRequest {
    fn understood(self) -> Result<ResolveAsk, Error> {
        let words: Vec<&str> = Decision::ALL.iter().map(|decision| decision.as_str()).collect();
        let decision = string(self.decision, "as")?.and_then(|word| Decision::parse(&word));
        let unsaid = || wrong("as", &format!("says what became of it: {}", words.join(", ")));
        let charged = match self.charged {
            Value::Null => None,
            Value::Object(mut members) => {
                let amount = string(members.remove("amount").unwrap_or_default(), "charged/amount")?;
                if !members.is_empty() {
                    return Err(wrong("charged", "has no member but `amount`"));
                }
                Some(amount.ok_or_else(|| wrong("charged/amount", "is missing"))?)
            }
            _ => return Err(wrong("charged", "is not an object with the member `amount`")),
        };
        Ok(ResolveAsk {
            decision: decision.ok_or_else(unsaid)?,
            comment: string(self.comment, "comment")?,
            charged,
            reference: string(self.reference, "reference")?,
        })
    }
}

fn string(value: Value, name: &str) -> Result<Option<String>, Error> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(wrong(name, "is not a string")),
    }
}

fn wrong(name: &str, why: &str) -> Error {
    Error::new(Code::ValidationFailed, format!("`{name}` {why}")).field(format!("/{name}"))
}

impl Resolution {
    pub(crate) fn of(view: &ResolutionView) -> Resolution {
        let ResolutionView { decision, by, at, comment, charged, reference } = view.clone();
        Resolution { decision, by, at, comment, charged, reference }
    }
}

impl Passkey {
    fn of(view: PasskeyView) -> Passkey {
        let PasskeyView {
            id,
            approver,
            state,
            registered_at,
            enrolled_by,
            enrolled_at,
            revoked_by,
            revoked_at,
        } = view;
        Passkey { id, approver, state, registered_at, enrolled_by, enrolled_at, revoked_by, revoked_at }
    }
}

impl Held {
    fn of(view: HeldView) -> Held {
        let policies = view.policies.into_iter();
        Held {
            action_id: view.action_id,
            escalation_id: view.escalation_id,
            state: view.state,
            archetype: view.archetype,
            description: view.description,
            agent_id: view.agent_id,
            parameters: view.parameters,
            amount: view.amount,
            currency: view.currency,
            reversible: view.reversible,
            human_approver: view.human_approver,
            atp: view.atp,
            mandate_id: view.mandate_id,
            reasons: view.reasons,
            policies: policies.map(|policy| Policy { id: policy.id, digest: policy.digest }).collect(),
            earlier_transaction: view.earlier_transaction,
            approvals_needed: view.needed,
            principals: view.principals,
            approval_form: view.form,
            approvals: view.approvals.iter().map(Approval::of).collect(),
            exchanges: view.exchanges.into_iter().map(Exchange::of).collect(),
            escalation_classes: view.escalation_classes,
            session_id: view.session_id,
            intent_id: view.intent_id,
            time_budget_remaining: view.time_budget_remaining,
            completion_state: view.completion_state,
            out_of_band_ref: view.out_of_band_ref,
            available_decisions: view.available_decisions.iter().map(|ruling| ruling.as_str()).collect(),
            session_limits: view.session_limits.as_ref().map(SessionLimits::of),
            created_at: view.created_at,
            expires_at: view.expires_at,
            unresolved: view.unresolved,
            decisions: view.decisions.iter().map(|decision| decision.as_str()).collect(),
            resolutions: view.resolutions.iter().map(Resolution::of).collect(),
            provider: view.provider,
            reference: view.reference,
            provider_reference: view.provider_reference,
        }
    }
}

impl Approval {
    pub(crate) fn of(view: &GivenView) -> Approval {
        let GivenView { approver, decision, form, at, comment, escalation_id, limits, seconds, void } =
            view.clone();
        let limits = limits.map(|it| Limits {
            max_amount: it.max_amount.map(|most| most.amount),
            not_after: it.not_after.map(|until| until.as_str().to_owned()),
            applies_to: Some(it.applies_to.as_str()),
        });
        Approval { approver, decision, form, at, comment, escalation_id, limits, seconds, void }
    }
}
