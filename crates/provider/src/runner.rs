//! The provider whose calls their own callers carry out: commands, run by `countersign run` where the agent is.
//!
//! ```toml
//! [binding]
//! provider = "runner"
//! timeout_seconds = 3600     # longer than this, and the fate is not known
//! silence_seconds = 30       # a runner not heard of for so long is taken to be gone
//!
//! done = [0]                 # exit codes that confirm the effect
//! refused = [64]             # there is no effect, and there would be none the next time
//! transient = [75]           # there is no effect, and another attempt may fare better
//! doubt = [70]               # there may be one
//! otherwise = "refused"      # every other code: refused | transient | doubt
//!
//! [binding.capabilities]
//! repeat_safe = true
//! ```
//!
//! The gateway starts nothing. It decides, writes down, offers the call and waits; what the command did, it knows from the
//! runner alone. What no runner takes while a call may leave is withdrawn, and was not sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use action::{ActionId, Archetype, Kind};
use execution::{Call, Capabilities, Confirmation, Doubt, Refusal, Reply};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use crate::binding::{identity, read_capabilities};
use crate::reader::{Mistake, Node, Table};
use crate::runs::{Offer, Runs, Turn, Unreported, Waits};
use crate::{Profile, Provider};

/// One archetype's runner binding.
#[derive(Debug)]
pub struct Runner {
    profile: Profile,
    waits: Waits,
    codes: Codes,
    runs: Arc<Runs>,
}

/// What a runner says of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub end: End,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What it wrote.
    pub stdout: Output,
    /// What it wrote beside that.
    pub stderr: Output,
    /// The last of what it wrote, if the runner was told to bring it: foreign text.
    pub tail: Option<String>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this code.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// It could not be started.
    NotStarted,
}

/// All that was written to one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Lower-case hex.
    pub sha256: String,
    /// How many bytes.
    pub bytes: u64,
}

/// What exit codes mean.
#[derive(Debug)]
struct Codes {
    listed: BTreeMap<u8, Meaning>,
    otherwise: Meaning,
    /// The command was killed, and says nothing.
    killed: Meaning,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Done,
    Refused,
    Transient,
    Doubt,
}

const MEMBERS: [&str; 9] = [
    "provider",
    "name",
    "timeout_seconds",
    "silence_seconds",
    "done",
    "refused",
    "transient",
    "doubt",
    "otherwise",
];
/// A week.
const MOST_TIMEOUT: u64 = 7 * 86_400;

impl Runner {
    pub(crate) fn read(
        node: &Node<'_>,
        archetype: &Archetype,
        runs: &Arc<Runs>,
    ) -> Result<Runner, Vec<Mistake>> {
        Runner::read_one(node, archetype, runs).map_err(|mistake| vec![mistake])
    }

    fn read_one(node: &Node<'_>, archetype: &Archetype, runs: &Arc<Runs>) -> Result<Runner, Mistake> {
        let known: Vec<&str> = MEMBERS.into_iter().chain(["capabilities"]).collect();
        let table = node.table(&known)?;
        takes_a_command(node, archetype)?;
        let name = table.get("name").map_or(Ok("runner".to_owned()), |node| node.name())?;
        let capabilities = read_capabilities(table.get("capabilities"), archetype)?;
        if capabilities.queryable.is_some() {
            let hint = "declare `repeat_safe` or `idempotent`, if the command is one of them";
            let mistake =
                Mistake::new("/capabilities/queryable", "nobody can be asked what became of a command");
            return Err(mistake.hint(hint));
        }
        let parts =
            json!({ "provider": "runner", "name": name, "capabilities": table.value("capabilities") });
        Ok(Runner {
            waits: Waits {
                silence: seconds(&table, "silence_seconds", 30, 600)?,
                timeout: seconds(&table, "timeout_seconds", 3600, MOST_TIMEOUT)?,
            },
            codes: Codes::read(&table, &capabilities, archetype)?,
            profile: Profile { name, identity: identity(&parts), capabilities },
            runs: Arc::clone(runs),
        })
    }

    /// A call of this action for the runner to carry out, as soon as there is one, for so long at most.
    pub async fn take(&self, id: ActionId, runner: &str, most: Duration) -> Turn {
        self.runs.take(id, runner, most).await
    }

    /// Nobody gets this call any more, if no runner has it: it ends as not sent. `false` if one has, or it is not offered.
    pub fn withdraw(&self, call: &Call) -> bool {
        self.runs.withdraw(call)
    }

    /// The runner is still at the call of this key. `false` if it is not its own any more.
    pub fn beat(&self, call: &Call, runner: &str) -> bool {
        let offer = Offer {
            attempt: call.attempt,
            provider_key: call.provider_key.clone(),
            reference: call.reference.clone(),
            beat: self.waits.silence / 3,
        };
        self.runs.beat(call.action_id, offer, runner, self.waits.silence)
    }

    /// What a report means, and whether somebody waited for it and has it now.
    pub fn report(&self, id: ActionId, provider_key: &str, report: Report) -> (Reply, bool) {
        let reply = self.codes.reply(&report);
        (reply, self.runs.report(id, provider_key, report))
    }

    /// Is a runner at this call, so that it is too early to make it once more?
    pub fn is_at(&self, call: &Call) -> bool {
        self.runs.is_at(call, self.waits.silence)
    }

    async fn carry_out(&self, call: &Call) -> Reply {
        match self.runs.carry_out(call, self.waits).await {
            Ok(report) => self.codes.reply(&report),
            Err(Unreported::Untaken) => Reply::NotSent { why: "no runner took it".to_owned() },
            Err(Unreported::Silent) => {
                Reply::Lost { how: Doubt::NoAnswer, why: "its runner fell silent".to_owned() }
            }
            Err(Unreported::Overdue) => {
                Reply::Lost { how: Doubt::NoAnswer, why: "it took too long".to_owned() }
            }
        }
    }
}

impl Codes {
    fn read(table: &Table<'_>, capabilities: &Capabilities, archetype: &Archetype) -> Result<Codes, Mistake> {
        let mut listed = BTreeMap::new();
        for (name, meaning) in [
            ("done", Meaning::Done),
            ("refused", Meaning::Refused),
            ("transient", Meaning::Transient),
            ("doubt", Meaning::Doubt),
        ] {
            let Some(node) = table.get(name) else { continue };
            for item in node.items()? {
                let code = u8::try_from(item.whole(0, 255)?).unwrap_or(u8::MAX);
                if listed.insert(code, meaning).is_some() {
                    return Err(item.mistake(format!("exit code {code} is listed twice")));
                }
            }
        }
        if table.get("done").is_none() && listed.insert(0, Meaning::Done).is_some() {
            let hint = "say in `done` which codes confirm the effect";
            return Err(Mistake::new("/done", "exit code 0 means that it is done").hint(hint));
        }
        let otherwise = match table.get("otherwise") {
            None => usual(capabilities, archetype),
            Some(node) => match node.text()? {
                "refused" => Meaning::Refused,
                "transient" => Meaning::Transient,
                "doubt" => Meaning::Doubt,
                _ => return Err(node.mistake("this must be refused, transient or doubt")),
            },
        };
        let killed = if capabilities.repeat_safe { Meaning::Transient } else { Meaning::Doubt };
        Ok(Codes { listed, otherwise, killed })
    }

    fn reply(&self, report: &Report) -> Reply {
        let (meaning, word) = match report.end {
            End::NotStarted => {
                return Reply::NotSent { why: "the command could not be started".to_owned() };
            }
            End::Exited(code) => {
                (self.listed.get(&code).copied().unwrap_or(self.otherwise), format!("exit_{code}"))
            }
            End::Killed(signal) => (self.killed, format!("signal_{signal}")),
        };
        let answer = report.answer();
        match meaning {
            Meaning::Done => Reply::Confirmed(Confirmation { answer, ..Confirmation::default() }),
            Meaning::Doubt => Reply::Lost { how: Doubt::Error, why: format!("the command ended by {word}") },
            Meaning::Refused | Meaning::Transient => Reply::Refused(Refusal {
                code: Some(word),
                answer,
                transient: meaning == Meaning::Transient,
                ..Refusal::default()
            }),
        }
    }
}

/// What a code means that is not listed. A command that recognises its key is to finish under the same one, and where there
/// is money nothing is taken for absent that nobody said is.
fn usual(capabilities: &Capabilities, archetype: &Archetype) -> Meaning {
    if capabilities.repeat_safe {
        Meaning::Transient
    } else if capabilities.idempotent.is_some() || archetype.money.is_some() {
        Meaning::Doubt
    } else {
        Meaning::Refused
    }
}

impl Report {
    /// As it stands in the record.
    fn answer(&self) -> Value {
        let (exit_code, signal) = match self.end {
            End::Exited(code) => (Some(code), None),
            End::Killed(signal) => (None, Some(signal)),
            End::NotStarted => (None, None),
        };
        let mut answer = Map::new();
        answer.insert("exit_code".to_owned(), exit_code.into());
        answer.insert("signal".to_owned(), signal.into());
        answer.insert("duration_ms".to_owned(), self.duration_ms.into());
        for (name, output) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            answer.insert(format!("{name}_sha256"), output.sha256.as_str().into());
            answer.insert(format!("{name}_bytes"), output.bytes.into());
        }
        if let Some(tail) = &self.tail {
            answer.insert("untrusted_text".to_owned(), tail.as_str().into());
        }
        Value::Object(answer)
    }
}

/// What is judged has to be what is run, so the action names it.
fn takes_a_command(node: &Node<'_>, archetype: &Archetype) -> Result<(), Mistake> {
    let kind = |name| archetype.member(name).map(|member| &member.kind);
    let program = matches!(kind("program"), Some(Kind::Identifier { .. } | Kind::Text));
    let arguments = match kind("arguments") {
        Some(Kind::Set(item)) => matches!(**item, Kind::Text | Kind::Identifier { .. }),
        Some(Kind::Opaque) => true,
        _ => false,
    };
    let directory = matches!(kind("directory"), Some(Kind::Identifier { .. } | Kind::Text));
    if program && arguments && directory {
        return Ok(());
    }
    let hint = "declare `program` and `directory` as strings and `arguments` as an array of strings, as TERMINAL_COMMAND does";
    Err(node.mistake("what a runner carries out names its command").hint(hint))
}

fn seconds(table: &Table<'_>, name: &str, otherwise: u64, most: u64) -> Result<Duration, Mistake> {
    let seconds = table.get(name).map_or(Ok(otherwise), |node| node.whole(1, most))?;
    Ok(Duration::from_secs(seconds))
}

impl Provider for Runner {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn patience(&self) -> Duration {
        self.waits.timeout
    }

    fn runner(&self) -> Option<&Runner> {
        Some(self)
    }

    fn call<'a>(&'a self, call: &'a Call, _now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(self.carry_out(call))
    }
}
