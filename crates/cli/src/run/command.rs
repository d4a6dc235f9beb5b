//! The command: found before anybody is asked, started with what it may know, and its output passed on while it is hashed.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Members;
use super::desk::Call;
use super::stop::{Phase, Stop};
use crate::out;

/// A program that is there, its arguments, and where it runs.
pub(crate) struct Command {
    /// As it was typed: what the program sees as its own name.
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
}

/// What of the output goes on record.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tail {
    /// Its digest and length
    Digest,
    /// The last 1024 bytes, too
    Tail,
}

/// How a command ended.
pub(crate) struct Ended {
    /// `None` if it could not be started.
    status: Option<ExitStatus>,
    took: Duration,
    stdout: Output,
    stderr: Output,
    tail: Option<String>,
}

/// All that was written to one stream.
struct Output {
    sha256: String,
    bytes: u64,
    /// Whether what we say next begins a line.
    ends_line: bool,
}

impl Command {
    /// Looks for the program as a shell would.
    pub(crate) fn find(words: &[String]) -> Result<Command, String> {
        let (name, arguments) = words.split_first().ok_or("there is no command")?;
        let directory =
            std::env::current_dir().map_err(|error| format!("there is no current directory: {error}"))?;
        let program = if name.contains('/') {
            std::path::absolute(name).ok().filter(|path| is_program(path))
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let places = std::env::split_paths(&path).map(|place| directory.join(place).join(name));
            places.into_iter().find(|path| is_program(path))
        };
        let program = program.ok_or_else(|| format!("there is no command `{}`", out::shown(name)))?;
        Ok(Command { name: name.clone(), program, arguments: arguments.to_vec(), directory })
    }

    /// The whole command, as it is judged.
    pub(crate) fn constraints(&self) -> Members {
        let mut members = Members::new();
        members.insert("program".to_owned(), self.program.to_string_lossy().into());
        if !self.arguments.is_empty() {
            members.insert("arguments".to_owned(), self.arguments.clone().into());
        }
        members.insert("directory".to_owned(), self.directory.to_string_lossy().into());
        members
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, id: &str, call: &Call, tail: Tail, stop: &Stop) -> Ended {
        let began = Instant::now();
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let started = self.start(id, call);
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                out::note(format_args!("countersign: cannot start `{}`: {error}", self.program.display()));
                return Ended::not_started();
            }
        };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            stop.enter(Phase::Running(pid));
        }
        let stdout = child.stdout.take().map(|from| pass_on(from, io::stdout(), Arc::clone(&last)));
        let stderr = child.stderr.take().map(|from| pass_on(from, io::stderr(), Arc::clone(&last)));
        let status = child.wait().ok();
        stop.enter(Phase::Reporting);
        // As cron does, until nobody holds the other end: what a command leaves behind may still write.
        let whole =
            |stream: Option<JoinHandle<Output>>| stream.and_then(|it| it.join().ok()).unwrap_or_default();
        let (stdout, stderr) = (whole(stdout), whole(stderr));
        let tail = (tail == Tail::Tail).then(|| text_of(&last));
        Ended { status, took: began.elapsed(), stdout, stderr, tail }
    }

    fn start(&self, id: &str, call: &Call) -> io::Result<Child> {
        let mut command = std::process::Command::new(&self.program);
        command.arg0(&self.name).args(&self.arguments).current_dir(&self.directory);
        // Keys and mandates are ours and not the command's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("COUNTERSIGN_") {
                command.env_remove(name);
            }
        }
        command
            .env("COUNTERSIGN_ACTION_ID", id)
            .env("COUNTERSIGN_PROVIDER_KEY", &call.provider_key)
            .env("COUNTERSIGN_ATTEMPT", call.attempt.to_string());
        command.stdin(Stdio::inherit()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }
}

/// Keeps our environment, which holds the API key, from other processes of the same user.
pub(crate) fn hide_from_children() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

impl Ended {
    fn not_started() -> Ended {
        let (stdout, stderr) = (Output::default(), Output::default());
        Ended { status: None, took: Duration::ZERO, stdout, stderr, tail: None }
    }

    /// What a shell would say.
    pub(crate) fn code(&self) -> u8 {
        let Some(status) = self.status else { return 126 };
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
    }

    /// Ends the lines that the command has left open, so that ours stand alone.
    pub(crate) fn end_lines(&self) {
        for (output, to) in [
            (&self.stdout, &mut io::stdout() as &mut dyn Write),
            (&self.stderr, &mut io::stderr() as &mut dyn Write),
        ] {
            if !output.ends_line {
                let _ = to.write_all(b"\n");
            }
        }
    }

    pub(crate) fn report(&self, call: &Call) -> Value {
        let mut report = json!({
            "provider_key": call.provider_key,
            "duration_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "stdout": self.stdout.report(),
            "stderr": self.stderr.report(),
        });
        match self.status {
            None => report["not_started"] = true.into(),
            Some(status) => match status.signal() {
                Some(signal) => report["signal"] = signal.into(),
                None => report["exit_code"] = self.code().into(),
            },
        }
        if let Some(tail) = &self.tail {
            report["tail"] = tail.as_str().into();
        }
        report
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            None => f.write_str("could not be started"),
            Some(status) => match status.signal() {
                Some(signal) => write!(f, "signal {signal} after {:.1} s", self.took.as_secs_f64()),
                None => write!(f, "exit {} after {:.1} s", self.code(), self.took.as_secs_f64()),
            },
        }
    }
}

impl Output {
    fn report(&self) -> Value {
        json!({ "sha256": self.sha256, "bytes": self.bytes })
    }
}

impl Default for Output {
    /// Nothing was written.
    fn default() -> Output {
        Output { sha256: hex::encode(Sha256::digest([])), bytes: 0, ends_line: true }
    }
}

/// Reads to the end, passes it on and hashes it. When nobody takes it any more, neither do we: the command hears of it as
/// it would without us.
fn pass_on(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    last: Arc<Mutex<VecDeque<u8>>>,
) -> JoinHandle<Output> {
    std::thread::spawn(move || {
        let (mut digest, mut bytes, mut ends_line) = (Sha256::new(), 0_u64, true);
        let mut room = [0; 16 * 1024];
        loop {
            let read = match from.read(&mut room) {
                Ok(0) => break,
                Ok(read) => &room[..read],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            digest.update(read);
            bytes += read.len() as u64;
            ends_line = read.ends_with(b"\n");
            keep(&last, read);
            if to.write_all(read).and_then(|()| to.flush()).is_err() {
                break;
            }
        }
        Output { sha256: hex::encode(digest.finalize()), bytes, ends_line }
    })
}

/// What the gateway takes of it.
const MOST_TAIL: usize = 1024;

fn keep(last: &Mutex<VecDeque<u8>>, read: &[u8]) {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    last.extend(read);
    let surplus = last.len().saturating_sub(MOST_TAIL);
    drop(last.drain(..surplus));
}

/// The last of it as text that is no longer than it may be.
fn text_of(last: &Mutex<VecDeque<u8>>) -> String {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(last.make_contiguous()).into_owned();
    let surplus = text.len().saturating_sub(MOST_TAIL);
    let begin = (surplus..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[begin..].to_owned()
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end_and_never_too_long() {
        let last = Mutex::new(VecDeque::new());
        keep(&last, &[b'a'; 2000]);
        keep(&last, "über".as_bytes());
        let text = text_of(&last);
        assert!(text.ends_with("aüber") && text.len() == MOST_TAIL, "{text}");
        // Each broken byte becomes three.
        keep(&last, &[0xff; 2000]);
        assert!(text_of(&last).len() <= MOST_TAIL);
    }

    #[test]
    fn a_command_is_found_as_a_shell_finds_it() {
        let found = |name: &str| Command::find(&[name.to_owned()]);
        let sh = found("sh").expect("there is a shell");
        assert!(
            sh.program.is_absolute()
                && sh.constraints()["program"].as_str().is_some_and(|it| it.ends_with("/sh"))
        );
        assert!(found("no-such-command-anywhere").is_err());
        assert!(found("./no-such-command").is_err());
        assert!(found("/tmp").is_err(), "a directory is no program");
    }
}
