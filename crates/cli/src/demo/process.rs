//! A process of the demo: started, awaited, ended.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};

/// A process that says `listening on …` when it is ready, and ends when its stdin closes.
pub(super) struct Process {
    child: Child,
    /// Its address, as it said.
    pub(super) url: String,
}

impl Process {
    /// Starts this program in another role and waits until it listens. What it says on stderr goes to `log`.
    pub(super) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Process> {
        let cannot = || format!("cannot start the {name}");
        let stderr = File::create(log).while_we(cannot)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let child = command.spawn().while_we(cannot)?;
        let mut process = Process { child, url: String::new() };
        match process.first_line() {
            Some(line) => match line.trim().strip_prefix("listening on ") {
                Some(url) => process.url = url.to_owned(),
                None => return Err(Error::new(format!("the {name} said `{}`", line.trim()))),
            },
            None => {
                process.end();
                return Err(Error::new(format!("the {name} does not listen")).maybe_hint(last_words(log)));
            }
        }
        Ok(process)
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end by closing its stdin, and insists after a while.
    pub(super) fn end(&mut self) {
        drop(self.child.stdin.take());
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Nothing if it ends, or takes too long, before saying anything.
    fn first_line(&mut self) -> Option<String> {
        let stdout = self.child.stdout.take()?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            let _ = sender.send(lines.next());
            // Its stdout must stay open for as long as it runs.
            lines.for_each(drop);
        });
        receiver.recv_timeout(PATIENCE * 4).ok().flatten()?.ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// This program, with no configuration from outside but the log level.
pub(super) fn this_program() -> Result<Command> {
    let program: PathBuf =
        std::env::current_exe().while_we(|| "cannot find this program's own file".to_owned())?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("COUNTERSIGN_") && name != "COUNTERSIGN_LOG" {
            command.env_remove(name);
        }
    }
    Ok(command)
}

fn last_words(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    (!lines.is_empty()).then(|| lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

const PATIENCE: Duration = Duration::from_secs(5);
