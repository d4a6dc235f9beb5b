//! `countersign run`: a command as an action. The gateway decides and writes down that it is to run; here it runs, and what
//! came of it goes back.
//!
//! ```text
//!   ask ─▶ (a person agrees) ─▶ take the call ─▶ run the command ─▶ report ─▶ say what the gateway says
//!                                    ▲────────── another attempt ──────┘
//! ```
//!
//! Without a gateway nothing runs. A gateway that goes away while the command runs is told when it is back.

mod advice;
mod command;
mod desk;
mod stop;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use self::command::{Command, Ended, Tail};
use self::desk::{Begun, Call, Desk, Trouble, Turn, Wait};
use self::stop::{Phase, Stop};
use crate::api::Api;
use crate::error::{Error, Result};
use crate::mandate::seconds;
use crate::out;

/// Run a command as an action: decided, on record before it starts, and with a receipt
///
/// The gateway has to have an archetype for it (TERMINAL_COMMAND is built in), a policy that permits it, and, for what cannot
/// be undone, a mandate of the agent's. See docs/run.md.
#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The kind of action, as the catalogue names it
    #[arg(long, value_name = "NAME", default_value = "TERMINAL_COMMAND")]
    archetype: String,
    /// What is to be promised: atp-1, or atp-2 to have it run again until it succeeds
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    /// The same key is the same action, which runs once; without one each run is another action
    #[arg(long, value_name = "KEY", conflicts_with = "key_from_time")]
    idempotency_key: Option<String>,
    /// Make the key of archetype, command and the current minute, hour or day (UTC): one run in each
    #[arg(long, value_name = "PERIOD")]
    key_from_time: Option<Period>,
    /// More constraints: NAME=TEXT, or NAME:=JSON; may be repeated
    #[arg(long, value_name = "NAME=TEXT")]
    constraint: Vec<String>,
    /// Start nothing any more after this time, such as 10m
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    deadline: Option<u64>,
    /// How long to wait for a person to agree, or for another attempt; without it, as long as it takes
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    wait: Option<u64>,
    /// The session this belongs to
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// What of the output goes on record: its digest, or with it the last 1024 bytes
    #[arg(long, value_name = "WHAT", default_value = "digest")]
    output: Tail,
    /// The token of a mandate, where the API key has none of its own
    #[arg(long, value_name = "TOKEN", env = "COUNTERSIGN_MANDATE", hide_env_values = true)]
    mandate: Option<String>,
    /// Print the gateway's answer on stdout, after what the command wrote, and do not say on stderr what it waits for
    #[arg(long)]
    json: bool,
    /// Say nothing on stderr while it waits, nor when all went well
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    api: Api,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// How long a key made of the time stays the same.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Period {
    Minute,
    Hour,
    Day,
}

const EXIT_CODES: &str = "\
Exit codes: the command's own once it ran (128 + N if signal N ended it), and where it did not, or is not over:
  64 the command line cannot be used     65 the gateway refused the request
  69 no gateway; nothing was started     70 failed without having run
  75 not over: it waits, or runs elsewhere under the same key
  76 in doubt: it may have run           77 blocked
 126 it cannot be started               127 there is no such command";

const BAD_COMMAND_LINE: u8 = 64;
const REFUSED: u8 = 65;
const NO_GATEWAY: u8 = 69;
const FAILED: u8 = 70;
const NOT_OVER: u8 = 75;
const IN_DOUBT: u8 = 76;
const BLOCKED: u8 = 77;

/// So many refusals of one command are left behind in one period.
const MOST_KEYS: u32 = 100;

/// So long a gateway that went away is waited for while nothing of ours runs.
const GONE_FOR: Duration = Duration::from_secs(60);
/// So long a report is brought again and again.
const REPORT_FOR: Duration = Duration::from_secs(3600);

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let command = match Command::find(&args.command) {
        Ok(command) => command,
        Err(why) => {
            out::note(format_args!("countersign: {why}"));
            return Ok(ExitCode::from(127));
        }
    };
    let body = args.request(&command)?;
    let key = args.key(&command);
    let period = args.key_from_time.is_some();
    let desk = match args.api.client_outside_sandbox("nothing runs there: every provider is simulated") {
        Ok(client) => Desk::new(client),
        Err(error) => {
            tell(error);
            return Ok(ExitCode::from(BAD_COMMAND_LINE));
        }
    };
    command::hide_from_children();
    let mut errand = Errand {
        args,
        command,
        desk,
        stop: Stop::listen()?,
        last: None,
        waits: Wait::default(),
        place: None,
    };
    let begun = if period { errand.begin_in_period(&key, &body) } else { errand.desk.begin(&key, &body) };
    errand.run(begun).map(ExitCode::from)
}

/// One action, from the question to the answer.
struct Errand<'a> {
    args: &'a Args,
    command: Command,
    desk: Desk,
    stop: Stop,
    /// How the command ended when it last ran here.
    last: Option<Ended>,
    /// What it waits for, as it was last said.
    waits: Wait,
    /// Where people find it, if the gateway says so.
    place: Option<String>,
}

impl Errand<'_> {
    /// Under the key of the period, or, where that was answered with a refusal before anything ran, the next one that was
    /// not: what is mended and asked for again in the same period is another action. Whoever does this at the same time
    /// comes to the same key. A person's no stands.
    fn begin_in_period(&self, key: &str, body: &Value) -> std::result::Result<Begun, Trouble> {
        let mut begun = self.desk.begin(key, body)?;
        for number in 2..=MOST_KEYS {
            match &begun {
                Begun::Said { answer, replayed: true } if is_undecided_block(answer) => {
                    begun = self.desk.begin(&format!("{key}-{number}"), body)?;
                }
                _ => break,
            }
        }
        Ok(begun)
    }

    fn run(&mut self, begun: std::result::Result<Begun, Trouble>) -> Result<u8> {
        match begun {
            Ok(Begun::Admitted(id)) => self.see_through(&id),
            Ok(Begun::Said { answer, .. }) => self.go_on_from(&answer),
            Err(trouble) => {
                if matches!(trouble, Trouble::Away(_)) {
                    out::note(format_args!("countersign: nothing was started"));
                }
                Ok(give_up(trouble))
            }
        }
    }

    /// Something was said already: it is over, or waits for a person, or was begun by somebody else.
    fn go_on_from(&mut self, said: &Value) -> Result<u8> {
        let id = said["transaction_id"].as_str().unwrap_or_default();
        match said["kind"].as_str() {
            Some("held" | "pending_settlement") => {
                self.place = said["details"]["status_url"].as_str().map(out::shown);
                if said["kind"] == "held"
                    && let Ok(record) = self.desk.record(id)
                {
                    let since = record["created_at"].as_str().map(out::shown);
                    self.tell_wait(id, Wait { for_what: "approval".to_owned(), since, due_at: None });
                }
                self.see_through(id)
            }
            _ => self.conclude(id),
        }
    }

    /// Takes calls and carries them out until there is an end.
    fn see_through(&mut self, id: &str) -> Result<u8> {
        let began = Instant::now();
        let mut away = None;
        loop {
            let turn = match self.desk.take(id) {
                Ok(turn) => turn,
                Err(Trouble::Away(_)) if away.get_or_insert_with(Instant::now).elapsed() < GONE_FOR => {
                    std::thread::sleep(Duration::from_millis(500));
                    continue;
                }
                Err(trouble) => return Ok(give_up(trouble)),
            };
            away = None;
            match turn {
                Turn::Run(call) => {
                    self.carry_out(id, &call)?;
                    if self.stop.is_asked() {
                        return self.leave(id);
                    }
                }
                Turn::Over => return self.conclude(id),
                Turn::Doubt => return self.stands(id, IN_DOUBT, "in doubt: what it did is not known"),
                Turn::Elsewhere => return self.stands(id, NOT_OVER, "another runner is at it"),
                Turn::Wait(wait) if self.args.is_over(began) => {
                    let how = wait
                        .words()
                        .map_or("not over yet".to_owned(), |words| format!("not over yet: {words}"));
                    return self.stands(id, NOT_OVER, &how);
                }
                Turn::Wait(wait) => self.tell_wait(id, wait),
            }
        }
    }

    /// Says what it waits for, once for each thing, to whoever looks on.
    fn tell_wait(&mut self, id: &str, wait: Wait) {
        let is_news = (&wait.for_what, &wait.due_at) != (&self.waits.for_what, &self.waits.due_at);
        if let (Some(words), true, false) = (wait.words(), is_news, self.args.quiet || self.args.json) {
            let since = wait.since.iter().map(|at| format!("since {at}"));
            let due = wait.due_at.iter().map(|at| format!("next try at {at}"));
            let more: Vec<String> = since.chain(due).collect();
            let more = if more.is_empty() { String::new() } else { format!(" · {}", more.join(", ")) };
            out::note(format_args!("countersign: {words}{more} · {}", self.place(id)));
        }
        self.waits = wait;
    }

    fn place(&self, id: &str) -> String {
        self.place.clone().unwrap_or_else(|| self.desk.status_url(id))
    }

    /// Runs the command once, and does not let go before the gateway knows what came of it.
    fn carry_out(&mut self, id: &str, call: &Call) -> Result<()> {
        let ended = {
            let _beats = self.desk.beats(id, call)?;
            self.command.run(id, call, self.args.output, &self.stop)
        };
        self.stop.enter(Phase::Reporting);
        let report = ended.report(call);
        let (began, mut pause) = (Instant::now(), Duration::from_millis(100));
        while let Err(trouble) = self.desk.report(id, &report) {
            match trouble {
                Trouble::Refused { error, .. } => {
                    tell(error);
                    break;
                }
                Trouble::Away(error) if began.elapsed() > REPORT_FOR => {
                    tell(error);
                    out::note(format_args!("countersign: the gateway does not know what came of {id}"));
                    break;
                }
                Trouble::Away(_) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        if self.args.json {
            ended.end_lines();
        }
        self.last = Some(ended);
        self.stop.enter(Phase::Waiting);
        Ok(())
    }

    /// Somebody has stopped us: what is not over stays as it is.
    fn leave(&self, id: &str) -> Result<u8> {
        match self.desk.record(id) {
            Ok(record) if is_over(&record) => self.say(&record),
            _ => self.stands(id, self.own_code().unwrap_or(NOT_OVER), "stopped, and not over"),
        }
    }

    fn conclude(&self, id: &str) -> Result<u8> {
        match self.desk.record(id) {
            Ok(record) => self.say(&record),
            Err(trouble) => Ok(give_up(trouble)),
        }
    }

    fn say(&self, record: &Value) -> Result<u8> {
        let kind = record["response"]["kind"].as_str().unwrap_or("over");
        let receipt = record["receipts"].as_array().and_then(|receipts| receipts.last());
        let mut words = vec![format!("countersign: {}", out::shown(kind))];
        if let Some(code) = record["response"]["code"].as_str() {
            words.push(out::shown(code));
            words.extend(advice::reasons(&record["response"]));
        }
        match &self.last {
            Some(last) => words.push(last.to_string()),
            None if kind == "executed" => words.push("carried out before, under the same key".to_owned()),
            None => {}
        }
        if let Some(url) = receipt.and_then(|receipt| receipt["receipt_url_short"].as_str()) {
            words.push(out::shown(url));
        }
        if !(self.args.quiet && kind == "executed") {
            out::note(format_args!("{}", words.join(" · ")));
        }
        if self.last.is_none() && matches!(kind, "blocked" | "failed") {
            advice::tell(&record["response"], self.args);
        }
        if self.args.json {
            out::line(&record["response"])?;
        }
        let confirmed = record["result"]["confirmation"]["answer"]["exit_code"].as_u64();
        Ok(match kind {
            "executed" => confirmed.and_then(|code| u8::try_from(code).ok()).unwrap_or(0),
            "blocked" => BLOCKED,
            "pending_settlement" => IN_DOUBT,
            _ => self.own_code().unwrap_or(FAILED),
        })
    }

    fn stands(&self, id: &str, code: u8, how: &str) -> Result<u8> {
        out::note(format_args!("countersign: {how} · {}", self.place(id)));
        if self.args.json
            && let Ok(record) = self.desk.record(id)
        {
            out::line(&record["response"])?;
        }
        Ok(code)
    }

    fn own_code(&self) -> Option<u8> {
        self.last.as_ref().map(Ended::code)
    }
}

/// Refused before anything ran, and not by a person who was asked.
fn is_undecided_block(answer: &Value) -> bool {
    let by_people = ["EP_APPROVAL_DENIED", "EP_APPROVAL_EXPIRED"];
    answer["kind"] == "blocked" && !answer["code"].as_str().is_some_and(|code| by_people.contains(&code))
}

fn is_over(record: &Value) -> bool {
    matches!(record["result"]["state"].as_str(), Some("COMPLETED" | "FAILED"))
}

impl Args {
    /// What is asked for. The constraints name the whole command, so that what is judged is what runs.
    fn request(&self, command: &Command) -> Result<Value> {
        let mut constraints = command.constraints();
        for constraint in &self.constraint {
            let (name, value) = read_constraint(constraint)?;
            if constraints.insert(name.clone(), value).is_some() {
                return Err(Error::new(format!("the constraint `{name}` is given twice"))
                    .hint("program, arguments and directory are those of the command"));
            }
        }
        let mut body = json!({ "archetype": self.archetype, "constraints": constraints });
        for (member, value) in [
            ("guarantee_level", self.level.as_deref().map(Value::from)),
            ("session_id", self.session.as_deref().map(Value::from)),
            ("delegation_token", self.mandate.as_deref().map(Value::from)),
            ("deadline_ms", self.deadline.map(|seconds| seconds.saturating_mul(1000).into())),
        ] {
            if let Some(value) = value {
                body[member] = value;
            }
        }
        Ok(body)
    }

    fn key(&self, command: &Command) -> String {
        if let Some(key) = &self.idempotency_key {
            return key.clone();
        }
        let Some(period) = self.key_from_time else { return uuid::Uuid::now_v7().to_string() };
        let now = jiff::Timestamp::now().to_string();
        let named = json!([self.archetype, command.constraints(), self.constraint]);
        let digest = hex::encode(&Sha256::digest(named.to_string())[..8]);
        format!("run-{digest}-{}", period.of(&now))
    }

    fn is_over(&self, began: Instant) -> bool {
        self.wait.is_some_and(|seconds| began.elapsed() >= Duration::from_secs(seconds))
    }
}

impl Period {
    /// The part of an RFC 3339 time in UTC that names the period.
    fn of(self, time: &str) -> &str {
        let end = match self {
            Period::Minute => "2026-01-01T00:00".len(),
            Period::Hour => "2026-01-01T00".len(),
            Period::Day => "2026-01-01".len(),
        };
        time.get(..end).unwrap_or(time)
    }
}

fn read_constraint(text: &str) -> Result<(String, Value)> {
    let wrong = || {
        Error::new(format!("`--constraint {text}` is not a name and a value"))
            .hint("such as --constraint job=nightly, or --constraint retain_days:=30")
    };
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    match name.strip_suffix(':') {
        Some(name) => {
            let value = serde_json::from_str(value).map_err(|error| wrong().because(error))?;
            Ok((name.to_owned(), value))
        }
        None => Ok((name.to_owned(), value.into())),
    }
}

/// Says why we cannot go on, and what to exit with.
fn give_up(trouble: Trouble) -> u8 {
    let (code, error) = match trouble {
        Trouble::Away(error) => (NO_GATEWAY, error),
        Trouble::Refused { code, error } if code == "EP_IDEMPOTENCY_IN_FLIGHT" => (NOT_OVER, error),
        Trouble::Refused { error, .. } => (REFUSED, error),
    };
    tell(error);
    code
}

fn tell(error: Error) {
    out::note(format_args!("{:?}", miette::Report::new(error)));
}

type Members = Map<String, Value>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_names_itself_in_utc() {
        let time = "2026-11-26T04:08:59.123Z";
        assert_eq!(Period::Minute.of(time), "2026-11-26T04:08");
        assert_eq!(Period::Hour.of(time), "2026-11-26T04");
        assert_eq!(Period::Day.of(time), "2026-11-26");
    }

    #[test]
    fn constraints_are_text_unless_said_to_be_json() {
        assert_eq!(read_constraint("a=1").ok(), Some(("a".to_owned(), json!("1"))));
        assert_eq!(read_constraint("a:=1").ok(), Some(("a".to_owned(), json!(1))));
        assert_eq!(read_constraint("a=b=c").ok(), Some(("a".to_owned(), json!("b=c"))));
        assert!(read_constraint("a").is_err());
        assert!(read_constraint("a:=x").is_err());
    }
}
