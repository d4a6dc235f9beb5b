//! Runs: actions that their caller carries out itself. `countersign run` is the client.

use gateway::{Begun, Code, End, Error, NextRun, Output, Report, RunView, WaitView};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::actions::Record;
use super::execution_protocol::{asked, told};
use crate::openapi::{Answer, Schema};
use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// Asks for an action that the caller will carry out.
pub(crate) async fn begin(request: Request) -> Result<Response, Error> {
    let (gateway, caller, ask) = Box::pin(asked(request)).await?;
    let wait = ask.wait.clone();
    let begun = async { gateway.begin_run(&caller.await?, ask).await };
    match gateway.in_time(wait, begun).await? {
        Begun::Admitted(id) => {
            let run = Admitted { action_id: id.to_string(), state: "EXECUTING" };
            Ok(reply::json(StatusCode::CREATED, &run))
        }
        Begun::Said(answer) => Ok(told(answer)),
    }
}

/// Hands out the call of an action to one runner.
pub(crate) async fn take(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let TakeRequest { runner } = request.json().await?;
    let view = gateway.take_run(&caller, &request.argument, name(&runner)?).await?;
    Ok(reply::json(StatusCode::OK, &Run::of(view)))
}

/// Hears that a runner is still at its call.
pub(crate) async fn beat(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let BeatRequest { runner, provider_key } = request.json().await?;
    gateway.beat_run(&caller, &request.argument, name(&runner)?, &provider_key).await?;
    Ok(reply::json(StatusCode::OK, &Heard { heard: true }))
}

/// Writes down what became of a call.
pub(crate) async fn report(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: ReportRequest = request.json().await?;
    let provider_key = ask.provider_key.clone();
    let view = gateway.report_run(&caller, &request.argument, &provider_key, ask.read()?).await?;
    Ok(reply::json(StatusCode::OK, &Record::of(&view, gateway.public_url())))
}

/// An action that is decided, on record, and there to be carried out.
#[derive(Serialize, ToSchema)]
#[schema(as = BegunRun)]
pub(crate) struct Admitted {
    action_id: String,
    /// `EXECUTING`.
    state: &'static str,
}

/// A runner that wants a call to carry out.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TakeRequest {
    /// Names this runner among the agent's; 1 to 128 ASCII letters, digits and `._:@/+-`. Random is best.
    runner: String,
}

/// Where a run stands, and what there is to do.
#[derive(Serialize, ToSchema)]
pub(crate) struct Run {
    action_id: String,
    state: &'static str,
    /// `run`: carry `call` out. `wait`, `held`: ask again. `elsewhere`: another runner is at it. `doubt`: what became of it
    /// is not known, and it is not carried out again. `over`: see the action's record.
    next: &'static str,
    /// The call, where `next` is `run`.
    call: Option<RunCall>,
    /// What it waits for, where `next` is `wait` or `held`.
    waits: Option<RunWait>,
}

/// What an action waits for.
#[derive(Serialize, ToSchema)]
struct RunWait {
    /// `approval`: a person decides. `next_attempt`: the one before had no effect. `repetition`: what it did is in doubt, and it
    /// is to be carried out once more. `turn`: it is about to be handed out.
    #[serde(rename = "for")]
    for_what: &'static str,
    /// RFC 3339.
    since: String,
    /// Not before then, RFC 3339; null where nobody knows.
    due_at: Option<String>,
}

/// One call to carry out. No other runner has it.
#[derive(Serialize, ToSchema)]
struct RunCall {
    /// Another one follows only on what is known to have had no effect.
    attempt: u32,
    /// The same key again is the same call again.
    provider_key: String,
    reference: String,
    /// How often to say at `/beat` that it is still being carried out.
    beat_seconds: f64,
}

/// A runner that is still at its call.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeatRequest {
    runner: String,
    provider_key: String,
}

/// Word that a beat was heard.
#[derive(Serialize, ToSchema)]
pub(crate) struct Heard {
    heard: bool,
}

/// What became of a call: `exit_code`, `signal` or `not_started`, one of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportRequest {
    provider_key: String,
    /// What the command ended with.
    exit_code: Option<u8>,
    /// What ended the command.
    signal: Option<u8>,
    /// `true`: there was no command to start.
    #[serde(default)]
    not_started: bool,
    duration_ms: u64,
    stdout: ReportedOutput,
    stderr: ReportedOutput,
    /// The last of what it wrote, at most 1024 bytes.
    tail: Option<String>,
}

/// All that a command wrote to one stream.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReportedOutput {
    /// Lower-case hex.
    sha256: String,
    bytes: u64,
}

/// More of it helps nobody.
const MOST_TAIL: usize = 1024;

impl Run {
    fn of(view: RunView) -> Run {
        let (next, call) = match view.next {
            NextRun::Run(offer) => {
                let beat_seconds = offer.beat.as_secs_f64();
                let call = RunCall {
                    attempt: offer.attempt,
                    provider_key: offer.provider_key,
                    reference: offer.reference,
                    beat_seconds,
                };
                ("run", Some(call))
            }
            NextRun::Wait => ("wait", None),
            NextRun::Held => ("held", None),
            NextRun::Elsewhere => ("elsewhere", None),
            NextRun::Doubt => ("doubt", None),
            NextRun::Over => ("over", None),
        };
        let waits =
            view.waits.map(|WaitView { for_what, since, due_at }| RunWait { for_what, since, due_at });
        Run { action_id: view.action_id.to_string(), state: view.state, next, call, waits }
    }
}

impl ReportRequest {
    fn read(self) -> Result<Report, Error> {
        let end = match (self.exit_code, self.signal, self.not_started) {
            (Some(code), None, false) => End::Exited(code),
            (None, Some(signal), false) => End::Killed(signal),
            (None, None, true) => End::NotStarted,
            _ => {
                let why = "a report says exactly one of `exit_code`, `signal` and `not_started`";
                return Err(Error::new(Code::ValidationFailed, why));
            }
        };
        if self.tail.as_ref().is_some_and(|tail| tail.len() > MOST_TAIL) {
            let why = format!("`tail` is longer than {MOST_TAIL} bytes");
            return Err(Error::new(Code::ValidationFailed, why).field("/tail"));
        }
        Ok(Report {
            end,
            duration_ms: self.duration_ms,
            stdout: self.stdout.read("/stdout/sha256")?,
            stderr: self.stderr.read("/stderr/sha256")?,
            tail: self.tail,
        })
    }
}

impl ReportedOutput {
    fn read(self, field: &str) -> Result<Output, Error> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if self.sha256.len() != 64 || !self.sha256.bytes().all(digit) {
            let why = "this is not a SHA-256 in lower-case hex";
            return Err(Error::new(Code::ValidationFailed, why).field(field));
        }
        Ok(Output { sha256: self.sha256, bytes: self.bytes })
    }
}

fn name(runner: &str) -> Result<&str, Error> {
    let wrong = |_| Error::new(Code::ValidationFailed, "`runner` is not a name").field("/runner");
    action::Subject::parse(runner).map(|_| runner).map_err(wrong)
}

/// What asking for a run is answered with, beside what `/api/execute` answers.
pub(crate) const ANSWERS: &[Answer] = &[
    Answer::json(200, "`executed`: it was carried out before, under the same key", Schema::ExecuteResponse),
    Answer::json(201, "On record, and there to be carried out", Schema::BegunRun),
    Answer::json(202, "`held` or `pending_settlement`: not over, and not begun now", Schema::ExecuteResponse),
];
