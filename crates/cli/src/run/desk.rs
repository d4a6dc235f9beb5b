//! The gateway, as a runner speaks to it.

use std::sync::mpsc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Client, Exchanged, encoded, refusal};
use crate::error::{Context, Error, Result};
use crate::out;

/// One gateway, and who we are there.
pub(crate) struct Desk {
    client: Client,
    runner: String,
}

/// What asking for the action led to.
pub(crate) enum Begun {
    /// It is on record; the action's id.
    Admitted(String),
    /// The answer, as `/api/execute` gives it.
    Said {
        answer: Value,
        /// It was said before, under the same key.
        replayed: bool,
    },
}

/// What there is to do.
pub(crate) enum Turn {
    Run(Call),
    Wait(Wait),
    Elsewhere,
    Doubt,
    Over,
}

/// What an action waits for.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Wait {
    /// The gateway's word for it; empty where it gives none.
    pub(crate) for_what: String,
    pub(crate) since: Option<String>,
    pub(crate) due_at: Option<String>,
}

impl Wait {
    fn read(said: &Value) -> Wait {
        let text = |member: &str| said[member].as_str().map(out::shown);
        Wait { for_what: text("for").unwrap_or_default(), since: text("since"), due_at: text("due_at") }
    }

    /// In words, if there are any.
    pub(crate) fn words(&self) -> Option<&'static str> {
        Some(match self.for_what.as_str() {
            "approval" => "waits for a person to agree",
            "next_attempt" => "the attempt before had no effect, and another one follows",
            "repetition" => "what it did is in doubt, and it is to run again",
            "turn" => "waits for its turn",
            _ => return None,
        })
    }
}

/// One call to carry out.
pub(crate) struct Call {
    pub(crate) attempt: u64,
    pub(crate) provider_key: String,
    pub(crate) beat: Duration,
}

/// Why there is no answer to go on with.
pub(crate) enum Trouble {
    /// It may answer later.
    Away(Error),
    /// It says no.
    Refused { code: String, error: Error },
}

impl Desk {
    pub(crate) fn new(client: Client) -> Desk {
        Desk { client, runner: format!("run-{}", uuid::Uuid::now_v7()) }
    }

    pub(crate) fn begin(&self, key: &str, body: &Value) -> std::result::Result<Begun, Trouble> {
        let headers = [("ep-version", "2026-04-27"), ("idempotency-key", key)];
        let it = self.client.exchange(Method::POST, "/v1/runs", &headers, Some(body))?;
        match it.body["action_id"].as_str() {
            Some(id) if it.status == 201 => Ok(Begun::Admitted(id.to_owned())),
            // An outcome, good or bad.
            _ if it.body["kind"].is_string() && it.body["transaction_id"].is_string() => {
                Ok(Begun::Said { answer: it.body, replayed: it.replayed })
            }
            _ => Err(trouble(&it)),
        }
    }

    pub(crate) fn take(&self, id: &str) -> std::result::Result<Turn, Trouble> {
        let said = self.ask(Method::POST, id, "take", Some(&json!({ "runner": self.runner })))?;
        let call = &said["call"];
        Ok(match said["next"].as_str() {
            Some("run") => Turn::Run(Call {
                attempt: call["attempt"].as_u64().unwrap_or(1),
                provider_key: call["provider_key"].as_str().unwrap_or_default().to_owned(),
                beat: Duration::from_secs_f64(
                    call["beat_seconds"].as_f64().unwrap_or(10.0).clamp(0.05, 600.0),
                ),
            }),
            Some("elsewhere") => Turn::Elsewhere,
            Some("doubt") => Turn::Doubt,
            Some("over") => Turn::Over,
            _ => Turn::Wait(Wait::read(&said["waits"])),
        })
    }

    pub(crate) fn report(&self, id: &str, report: &Value) -> std::result::Result<(), Trouble> {
        self.ask(Method::POST, id, "report", Some(report)).map(drop)
    }

    pub(crate) fn record(&self, id: &str) -> std::result::Result<Value, Trouble> {
        let path = format!("/v1/actions/{}", encoded(id));
        let it = self.client.exchange(Method::GET, &path, &[], None)?;
        if it.status == 200 { Ok(it.body) } else { Err(trouble(&it)) }
    }

    pub(crate) fn status_url(&self, id: &str) -> String {
        self.client.address(&format!("/v1/actions/{}", encoded(id)))
    }

    /// Says that we are still at it, until the returned value is dropped.
    pub(crate) fn beats(&self, id: &str, call: &Call) -> Result<Beats> {
        let (over, heard) = mpsc::channel::<()>();
        let client = self.client.clone();
        let path = format!("/v1/runs/{}/beat", encoded(id));
        let body = json!({ "runner": self.runner, "provider_key": call.provider_key });
        let beat = call.beat;
        let beats = move || {
            while heard.recv_timeout(beat) == Err(mpsc::RecvTimeoutError::Timeout) {
                // Whether it is heard or not, the command goes on, and so do we.
                drop(client.exchange(Method::POST, &path, &[], Some(&body)));
            }
        };
        std::thread::Builder::new().spawn(beats).while_we(|| "cannot start a thread".to_owned())?;
        Ok(Beats { _over: over })
    }

    fn ask(
        &self,
        method: Method,
        id: &str,
        what: &str,
        body: Option<&Value>,
    ) -> std::result::Result<Value, Trouble> {
        let path = format!("/v1/runs/{}/{what}", encoded(id));
        let it = self.client.exchange(method, &path, &[], body)?;
        if it.status == 200 { Ok(it.body) } else { Err(trouble(&it)) }
    }
}

/// See [`Desk::beats`].
pub(crate) struct Beats {
    _over: mpsc::Sender<()>,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Away(error)
    }
}

/// What cannot be had now, or what is not to be had.
fn trouble(it: &Exchanged) -> Trouble {
    let (status, said) = (it.status, &it.body);
    let code = said["code"].as_str().unwrap_or_default().to_owned();
    let error = match code.is_empty() {
        true => Error::new(format!("the gateway answered {status}, and not as one does"))
            .hint("is it really a Countersign gateway that --url names?"),
        false => refusal(said, status),
    };
    match status {
        429 | 500.. => Trouble::Away(error),
        _ => Trouble::Refused { code, error },
    }
}
