//! The error catalogue: what each published code means, said once.
//!
//! From it come the status codes, the texts of both error shapes, the responses in the OpenAPI document, the page
//! `/docs/errors` and its twin in the repository, `docs/errors.md`. A code without an entry does not compile.

use std::fmt::Write;

use gateway::{ActionView, Code, SAYS_FAILED};

/// All that is published about one code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// Status code of a response that carries it.
    pub status: u16,
    /// The family, for those who branch more coarsely.
    pub family: &'static str,
    /// One line for the caller, at most 80 characters.
    pub message: &'static str,
    /// When it happens, for the page.
    pub meaning: &'static str,
    /// What to do about it, first things first.
    pub remediation: &'static [&'static str],
    /// Does it stand in an outcome, with a receipt, rather than in an error?
    pub receipt: bool,
}

impl Entry {
    /// Where the code is explained, below the documentation's address.
    pub fn anchor(&self) -> String {
        format!("/docs/errors#{}", self.code)
    }
}

/// Every entry, in the order of the codes.
pub fn all() -> impl Iterator<Item = Entry> {
    Code::ALL.into_iter().map(entry)
}

/// The entry of a code.
pub const fn entry(code: Code) -> Entry {
    let (status, family, message, meaning, remediation) = words(code);
    Entry { code, status, family, message, meaning, remediation, receipt: is_outcome(code) }
}

/// Whether an action failed of which nobody knows more than that its provider says so.
pub(crate) fn is_only_said<S: AsRef<str>>(reasons: &[S]) -> bool {
    reasons.first().is_some_and(|reason| reason.as_ref() == SAYS_FAILED)
}

/// What is said of it.
pub(crate) const ONLY_SAID: &str =
    "the tool says that it failed; nobody has looked whether it had an effect all the same";

/// The fixed text of the code with which an action on record ended.
pub(crate) fn why_failed(code: Code, view: &ActionView) -> &'static str {
    let result = view.attempts.last().and_then(|attempt| attempt.result.as_deref());
    match code {
        Code::ProviderFailed if result == Some(SAYS_FAILED) => ONLY_SAID,
        code => entry(code).message,
    }
}

/// The catalogue as a page of the documentation, `docs/errors.md`.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         Made from the error catalogue in `crates/server/src/errors.rs`; a test keeps the two the same. A running gateway \
         shows this page at `/docs/errors`.\n\n\
         An **error** is the answer to a request that never became an action: no receipt is made, and no idempotency key \
         is used up. An **outcome** is the end of an action, refusals included, and has a receipt.\n\n\
         | code | status | | in one line |\n|---|---|---|---|\n",
    );
    for entry in all() {
        let kind = if entry.receipt { "outcome" } else { "error" };
        let _ = writeln!(
            page,
            "| [`{code}`](#{anchor}) | {} | {kind} | {} |",
            entry.status,
            entry.message,
            code = entry.code,
            anchor = entry.code.as_str().to_ascii_lowercase(),
        );
    }
    for entry in all() {
        let _ = write!(page, "\n## {}\n\n{}\n\n", entry.code, entry.meaning);
        for advice in entry.remediation {
            let _ = writeln!(page, "- {advice}");
        }
    }
    page
}

/// Whether what blocks a cycle with this code is an error where nothing is judged.
pub(crate) fn is_of_cycle(code: Code) -> bool {
    code == Code::StateConflict || entry(code).family == "intent"
}

/// Codes of outcomes: an action was made and judged, and there is a receipt that says so.
const fn is_outcome(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        BoundaryBlock
            | DelegationBlock
            | Incomplete
            | AnomalyBlock
            | ProbableDuplicate
            | BudgetExhausted
            | SessionRevoked
            | ApprovalDenied
            | ApprovalExpired
            | Frozen
            | Cancelled
            | Released
            | ProviderFailed
            | DeadlineExceeded
    )
}

type Words = (u16, &'static str, &'static str, &'static str, &'static [&'static str]);

const fn words(code: Code) -> Words {
    use Code::*;
    match code {
        MalformedBody => (
            400,
            "invalid_request",
            "the body is not a JSON document this gateway can read",
            "The body is not strict JSON: broken syntax, a member that stands twice, an integer outside ±(2^53-1), \
             nesting deeper than 64, text that is not UTF-8, or something after the document. Or it came in another \
             transfer coding than `chunked`. `POST /v1/actions` reads YAML too, as far as it says what JSON can: no \
             anchors, aliases, tags or merge keys, one document, numbers as JSON writes them.",
            &[
                "send one JSON object, UTF-8, without a byte order mark",
                "write amounts and large integers as strings",
                "make sure that no member stands twice",
            ],
        ),
        VersionUnsupported => (
            400,
            "invalid_request",
            "send the header EP-Version: 2026-04-27, the only version spoken here",
            "In production the header `EP-Version` is required; the only version spoken here is `2026-04-27`.",
            &["send the header EP-Version: 2026-04-27"],
        ),
        IdempotencyRequired => (
            400,
            "invalid_request",
            "the header Idempotency-Key is required here",
            "An action in production needs a key of the caller's own making, so that sending it again can never act \
             twice.",
            &[
                "make a fresh random key for each action you intend",
                "send it in the header Idempotency-Key and use the same key when you retry that action",
            ],
        ),
        Unauthenticated => (
            401,
            "authentication",
            "no valid API key or access token was presented",
            "The header `Authorization: Bearer …` is missing, malformed, or its key is unknown or revoked; or its access \
             token is not one, has expired, is meant for somebody else, or not by an issuer whose tokens are taken here. \
             Of a provider's callback: its signature is missing, wrong, made with a secret that no binding of this name has, or older than \
             five minutes.",
            &[
                "send Authorization: Bearer followed by your API key, or by an access token",
                "ask an admin for a key if yours was revoked, or who issued your token for a new one",
                "where tokens come from stands at the address that the header WWW-Authenticate names",
                "of a callback: sign it with the secret that the binding's `callback` names, and set the clock right",
            ],
        ),
        Forbidden => (
            403,
            "permission",
            "this caller may not do this",
            "The role of the API key does not allow it, or a browser page of another origin sent the request. No \
             action was made, so there is no receipt.",
            &["use a key whose role allows it", "do not call the gateway from pages of other origins"],
        ),
        InsufficientScope => (
            403,
            "permission",
            "the access token has not the scope that is needed",
            "The access token is valid, but its issuer did not give it each scope that the operator asks of its tokens. The \
             header `WWW-Authenticate` names them.",
            &[
                "ask who issued your token for one with the scopes that WWW-Authenticate names",
                "if that gives none, ask them for the right to it",
            ],
        ),
        BoundaryBlock => (
            403,
            "blocked",
            "policy does not allow this action",
            "The action is on the hard-deny list, or no policy permits it, or one forbids it; or it would have to wait for a \
             person, and too many of the agent's do (reason too_many_held). The receipt records the verdict.",
            &[
                "do not repeat it: the same action will be judged the same way, unless too many waited",
                "ask the operator which policy would have to allow it",
            ],
        ),
        DelegationBlock => (
            403,
            "blocked",
            "the mandate does not cover this action",
            "There is no mandate where one is needed, or it is expired, revoked, for another agent, out of scope, \
             or what is left of its spend cap is too small; or one that it descends from is, or the chain to it \
             cannot be verified; or the amount is above the caller's own bound; or it has a limit that only a session \
             keeps, which is named, and the request names no session (reason session_required); or the action is beyond \
             what people agreed to for the rest of its session (reason beyond_session).",
            &[
                "check scope, resources, expiry and what is left of the mandate",
                "where a session is required, open one with the mandate, declare in it, and name it as session_id",
                "ask the operator for a mandate that covers the action, and send it under a new key",
            ],
        ),
        Incomplete => (
            403,
            "blocked",
            "required members are missing",
            "What the archetype requires is absent, or empty where that says nothing. `details.missing` names each member, its type, its \
             meaning and an example.",
            &["add what details.missing lists", "send it again under a new Idempotency-Key"],
        ),
        AnomalyBlock => (
            403,
            "blocked",
            "the action is far outside the usual pattern",
            "Amount, frequency or destination differ from recent activity by more than the archetype allows.",
            &["check that the amount and the destination are meant", "ask the operator if they are"],
        ),
        ProbableDuplicate => (
            403,
            "blocked",
            "an action with the same effect was asked for shortly before",
            "Another key asked for the same effect within the archetype's window. `details.earlier_transaction` \
             names it.",
            &[
                "look at the earlier transaction first: what you want may be done",
                "if you mean it a second time, send repeat_of with the earlier transaction under a new key",
            ],
        ),
        BudgetExhausted => (
            403,
            "blocked",
            "the budget for actions is used up",
            "The mandate allows no further action, in any of its sessions: time or a resource of it is used up.",
            &["wait until the principal extends it", "ask the operator for a new mandate"],
        ),
        SessionRevoked => (
            403,
            "blocked",
            "the session was revoked",
            "The session in which the action was asked for was ended from outside; or it is stopped, and is about to \
             end so (reason session_suspended, and the trigger that stopped it, as R-1).",
            &[
                "look at the session's records: the one with ALE-001 says who or what ended it, and why",
                "open a new session if the mandate still holds",
            ],
        ),
        ApprovalDenied => (
            403,
            "blocked",
            "a person declined this action",
            "The action waited for approval, and the person who was asked said no.",
            &["do not repeat it unchanged", "ask the approver what would be acceptable"],
        ),
        ApprovalExpired => (
            403,
            "blocked",
            "nobody approved the action in time",
            "The action waited for approval until its time was over. Nothing was sent.",
            &["send it again under a new key when an approver is at hand"],
        ),
        Frozen => (
            403,
            "blocked",
            "actions of this kind are frozen",
            "An operator froze everything, this tenant, this agent, this archetype or this provider.",
            &[
                "wait until the operator thaws it; repeating does not help",
                "after the thaw, send it under a new key",
            ],
        ),
        NotFound => (
            404,
            "not_found",
            "there is nothing at this address for this caller",
            "The address does not exist, or what it names belongs to someone else.",
            &[
                "check the path and the id",
                "check that the environment (production or sandbox) is the right one",
            ],
        ),
        MethodNotAllowed => (
            405,
            "invalid_request",
            "this address does not answer to this method",
            "The header `Allow` of the response lists the methods that it does answer to.",
            &["use a method that the header Allow lists"],
        ),
        IdempotencyInFlight => (
            409,
            "conflict",
            "the same request is still being worked on",
            "The first request with this key has no answer yet. It goes on; this one changed nothing.",
            &["wait as long as Retry-After says, then send the same request with the same key"],
        ),
        StateConflict => (
            409,
            "conflict",
            "the state it is in does not allow this",
            "What the request asks for does not fit what has happened meanwhile.",
            &["read the current state and decide again"],
        ),
        Cancelled => (
            409,
            "conflict",
            "the action was cancelled before it was sent",
            "It was withdrawn while it waited. Nothing was sent, and the receipt says so.",
            &["send it under a new key if it is wanted after all"],
        ),
        Released => (
            409,
            "conflict",
            "the reservation was released without a charge",
            "The money reserved was set free, by request or because its time was over.",
            &["send it under a new key if it is wanted after all"],
        ),
        Erased => (
            410,
            "gone",
            "the content of this action was erased",
            "Its values were deleted as retention or the law demands. Receipts and chain stay valid.",
            &["use the receipt; the values cannot be brought back"],
        ),
        BodyTooLarge => (
            413,
            "invalid_request",
            "the request is larger than allowed",
            "A request is read up to 256 KiB, a message of MCP up to 4 MiB; of that a call's arguments may have 256 KiB, and its \
             `_meta` 64 KiB. What is beyond is refused.",
            &["send less; refer to large content instead of including it"],
        ),
        UnsupportedMediaType => (
            415,
            "invalid_request",
            "the body must be application/json",
            "The header `Content-Type` is missing or names another type or another charset than UTF-8. \
             `POST /v1/actions` takes `application/yaml` too.",
            &["send the header Content-Type: application/json"],
        ),
        MisdirectedRequest => (
            421,
            "invalid_request",
            "this gateway does not answer under that host name",
            "The host the request was sent to is not one of the gateway's names. Pages that lure browsers to a \
             private address under a public name are stopped by this.",
            &["use the gateway's public address", "operators: add the name to allowed_hosts"],
        ),
        ValidationFailed => (
            422,
            "invalid_request",
            "a member or header is not as the schema has it",
            "Something that is there is of the wrong type or form, is not known, or contradicts something else. No \
             action was made and no key was used up. The sandbox names it in `field`; production names members and \
             parameters of this interface in the message, and nothing that the request calls so: send it to the sandbox \
             to learn that.",
            &[
                "correct the member or header that `field` names",
                "compare with /openapi.json and the catalogue",
            ],
        ),
        UnknownArchetype => (
            422,
            "invalid_request",
            "there is no such archetype",
            "The catalogue of this tenant has no archetype of that name, or none that is meant by the verb and the target. \
             Names are compared exactly.",
            &[
                "check the spelling; built in are PAYMENT_TRANSFER, HOTEL_RESERVATION, FLIGHT_BOOKING, DATA_EXPORT, DATA_DELETE, TERMINAL_COMMAND",
            ],
        ),
        IdempotencyMismatch => (
            422,
            "invalid_request",
            "this Idempotency-Key was used for a different request",
            "A key names one request for ever. This one names another.",
            &["use a new key for a new request", "send the first request unchanged to hear its answer again"],
        ),
        CardDataRefused => (
            422,
            "invalid_request",
            "the request seems to hold payment card data",
            "A number that looks like a card number, or a member named like a card's security code, is refused and \
             never stored.",
            &["send a token of your payment provider instead of card data"],
        ),
        KeyRequired => (
            422,
            "invalid_request",
            "this guarantee level needs an Idempotency-Key",
            "At-least-once and exactly-once cannot be promised without a key.",
            &["send an Idempotency-Key", "or ask for atp-1 where the catalogue allows it"],
        ),
        RollbackRequired => (
            422,
            "invalid_request",
            "there is no way to roll this back",
            "The action was declared irreversible, or the catalogue has no rollback binding for its archetype.",
            &[
                "ask the operator to add a rollback binding",
                "make good by another action what cannot be undone",
            ],
        ),
        ProviderCannot => (
            422,
            "invalid_request",
            "the provider cannot keep this guarantee level",
            "What the provider's binding declares (idempotent, queryable, repeat safe) does not suffice for the \
             level asked for.",
            &["ask for a lower guarantee level where allowed", "operators: declare what the provider can do"],
        ),
        NarrowingViolation => (
            422,
            "invalid_request",
            "a mandate can only be handed on narrower than what is left of it",
            "A member asked for is wider than what the mandate, or one above it, has left. Nothing was issued; that it was \
             asked for is on record. `error.field` names the member.",
            &[
                "ask for less, or leave the member out: then it is as the parent has it",
                "see what is left with GET /v1/mandates/{jti}",
            ],
        ),
        RateLimited => (
            429,
            "rate_limit",
            "too many requests",
            "This tenant, caller or archetype has used up its share for the moment.",
            &["wait as long as Retry-After says", "spread requests out"],
        ),
        ProviderFailed => (
            502,
            "provider",
            "the provider refused or could not be reached; nothing happened",
            "The action was permitted, but it is known that it had no effect. The receipt says so. With the reason `says_failed`, which \
             tools of MCP servers have, the message is another: the tool says that it failed, and nobody has looked whether it had an \
             effect all the same. The receipt then says only that.",
            &[
                "look at details for the provider's answer",
                "send it again under a new key once the cause is gone",
            ],
        ),
        Unavailable => (
            503,
            "unavailable",
            "the gateway cannot take this on right now",
            "The store is not available or too much is waiting. This request does nothing unless it says otherwise; what an earlier one under \
             its key did is told under that key.",
            &["wait as long as Retry-After says, then send the same request with the same key"],
        ),
        DeadlineExceeded => (
            504,
            "provider",
            "the deadline passed before the action was sent",
            "What `deadline_ms` or `deadline` allowed was over before anything left. Nothing happened, and the receipt says so.",
            &["allow more time, and send it under a new key"],
        ),
        IntentMissing => (
            422,
            "intent",
            "no intent is declared in this session",
            "A cycle stands on a declaration that was made before it, in the same session and still in force. Of a cycle this \
             and the other `IDP-E` codes are outcomes: blocked, on record and with a receipt.",
            &["declare an intent at `POST /v1/sessions/{id}/intents` first"],
        ),
        IntentMalformed => (
            422,
            "intent",
            "this is not an intent declaration",
            "A member is missing, of the wrong form or not known; the message or `field` names it. A goal has no wildcard and \
             names what the catalogue has. What the gateway says of a session, such as `time_budget_remaining`, an agent \
             does not say.",
            &["correct the member that is named", "compare with IntentRequest in /openapi.json"],
        ),
        IntentExpired => (
            422,
            "intent",
            "the declaration is over",
            "`expires_at` has passed.",
            &["declare the intent anew, with a later end"],
        ),
        IntentMandateMismatch => (
            422,
            "intent",
            "this is another mandate than that of the session",
            "A session is opened with one mandate, and everything in it stands under that.",
            &["take `mandate_id` from the session's context"],
        ),
        IntentSequence => (
            409,
            "intent",
            "action_sequence_number does not rise",
            "The numbers of a session's declarations and cycles only rise; `sequence` of its context is the last.",
            &["read the session's context and number on from there"],
        ),
        IntentDuplicate => (
            409,
            "intent",
            "this intent_id was used before under the mandate",
            "An id names one declaration of a mandate for ever, in whichever of its sessions.",
            &["make a fresh id for each declaration"],
        ),
        IntentSessionMismatch => (
            422,
            "intent",
            "the declaration belongs to another session",
            "A declaration holds in the session that it names and in no other. The attempt is on record.",
            &["declare the intent in the session it is for"],
        ),
        IntentWrongInstance => (
            422,
            "intent",
            "the declaration was made to another gateway",
            "`gec_instance_id` is the issuer URL of the gateway that is to judge it: another one is refused.",
            &["name the issuer URL that receipts of this gateway name"],
        ),
        IntentOutsideGoal => (
            422,
            "intent",
            "this lies outside the goal",
            "The action is none of what `goal_scope` declared, or the declared goal is none of what the mandate is for.",
            &["declare what is really meant", "ask the operator for a mandate with that goal"],
        ),
        IntentSessionRevoked => (
            409,
            "intent",
            "the session was revoked",
            "It was ended from outside, and nothing begins in it any more.",
            &["ask the operator why", "open a new session if you may"],
        ),
    }
}
