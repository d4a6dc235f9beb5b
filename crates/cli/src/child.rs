//! A process of ours in another role: started, awaited, ended or killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};

/// A server in a process of its own. It ends when its stdin closes, so also when this process does.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// From the call that started it to its word that it listens.
    pub(crate) ready_after: Duration,
}

impl Server {
    /// Starts it and waits for `listening on http://…`, its first line.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Server> {
        let begun = Instant::now();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.while_we(|| format!("cannot start the {name}"))?;
        let address = child.stdout.take().and_then(listening);
        let ready_after = begun.elapsed();
        match address {
            Some(address) => Ok(Server { child, address, ready_after }),
            None => {
                end(&mut child);
                Err(Error::new(format!("the {name} does not listen")))
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// `kill -9`; returns when nothing of it is left.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it, and returns when it has ended.
    pub(crate) fn end(mut self) {
        end(&mut self.child);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// This program once more, with no configuration from outside.
pub(crate) fn this_program() -> Result<Command> {
    let mut command = Command::new(own_file()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COUNTERSIGN_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Where this program is.
pub(crate) fn own_file() -> Result<PathBuf> {
    // Where there is such a link it leads to this very program, even when its file was replaced since: one run
    // measures one build.
    match Path::new(SELF).exists() {
        true => Ok(PathBuf::from(SELF)),
        false => std::env::current_exe().while_we(|| "cannot find this program's own file".to_owned()),
    }
}

/// Closes its stdin and waits; insists after a while.
pub(crate) fn end(child: &mut Child) {
    drop(child.stdin.take());
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE {
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn listening(stdout: ChildStdout) -> Option<SocketAddr> {
    let mut lines = BufReader::new(stdout).lines();
    let first = lines.next()?.ok()?;
    let address = first.trim().strip_prefix("listening on http://")?.trim_end_matches('/').parse().ok()?;
    // Its stdout must stay open for as long as it runs.
    thread::spawn(move || lines.for_each(drop));
    Some(address)
}

const SELF: &str = "/proc/self/exe";
const PATIENCE: Duration = Duration::from_secs(20);
