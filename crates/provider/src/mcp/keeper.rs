//! What ends the processes that we started when we are killed ourselves.
//!
//! It is a process of our own program that is told of each of them over its standard input. When that closes we are gone, however
//! it came about, and what it was told of is ended. Whoever ends in good order has ended everything by then.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::launch::LEAVE;
use super::lock;

/// Has what we start end when we are gone.
#[derive(Debug)]
pub struct Keeper {
    program: Vec<OsString>,
    told: Mutex<Told>,
}

/// Who is told, and of what.
#[derive(Debug, Default)]
struct Told {
    process: Option<Child>,
    groups: BTreeSet<u32>,
}

/// A group of processes that is ended with us, until this is dropped.
#[derive(Debug)]
pub(super) struct Kept {
    keeper: Arc<Keeper>,
    group: u32,
}

impl Keeper {
    /// By this program and its arguments, which does no more than [`end_what_is_left`] with its standard input. It is started with the
    /// first process that is to be kept.
    pub fn new(program: Vec<OsString>) -> Arc<Keeper> {
        Arc::new(Keeper { program, told: Mutex::default() })
    }

    /// Is there from now on, so that what is started next can be kept at once.
    pub(super) fn be_there(&self) {
        let mut told = lock(&self.told);
        if told.process.is_none() {
            self.start(&mut told);
        }
    }

    pub(super) fn keep(self: &Arc<Keeper>, group: u32) -> Kept {
        let mut told = lock(&self.told);
        told.groups.insert(group);
        if told.tell(BEGINS, group).is_err() {
            self.start(&mut told);
        }
        Kept { keeper: Arc::clone(self), group }
    }

    /// In the place of one that is gone, and told all that it was told.
    fn start(&self, told: &mut Told) {
        if let Some(mut gone) = told.process.take() {
            let _ = gone.try_wait();
        }
        let started = self.spawn().and_then(|process| {
            told.process = Some(process);
            told.groups.clone().into_iter().try_for_each(|group| told.tell(BEGINS, group))
        });
        if let Err(error) = started {
            tracing::warn!(%error, "MCP servers would live on if this process were killed");
        }
    }

    /// In a group of its own: what is sent to ours is not for it.
    fn spawn(&self) -> io::Result<Child> {
        let (program, arguments) = self.program.split_first().ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }
}

impl Told {
    fn tell(&mut self, what: char, group: u32) -> io::Result<()> {
        let input = self.process.as_mut().and_then(|process| process.stdin.as_mut());
        input.ok_or(io::ErrorKind::NotConnected)?.write_all(format!("{what}{group}\n").as_bytes())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut told = lock(&self.keeper.told);
        told.groups.remove(&self.group);
        // One that is gone ends nothing.
        let _ = told.tell(ENDS, self.group);
    }
}

/// What a [`Keeper`]'s program does: reads what there is until the end, and ends what is left then. Who does not go by itself, now
/// that its pipes are closed, is killed.
pub fn end_what_is_left(input: impl BufRead) {
    let mut groups = BTreeSet::new();
    for line in input.lines().map_while(Result::ok) {
        let group = line.get(1..).and_then(|group| group.parse().ok()).filter(|group| *group > 1);
        match (line.chars().next(), group) {
            (Some(BEGINS), Some(group)) => groups.insert(group),
            (Some(ENDS), Some(group)) => groups.remove(&group),
            _ => false,
        };
    }
    let mut left: Vec<Pid> = groups.into_iter().filter_map(Pid::from_raw).collect();
    let began = Instant::now();
    while !left.is_empty() && began.elapsed() < LEAVE {
        thread::sleep(BETWEEN_LOOKS);
        left.retain(|group| test_kill_process_group(*group).is_ok());
    }
    for group in left {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

const BEGINS: char = '+';
const ENDS: char = '-';
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Lives until it is killed, in a group of its own.
    fn stubborn() -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 600 & wait"]).process_group(0).spawn().unwrap()
    }

    #[test]
    fn what_was_begun_and_has_not_ended_is_ended() {
        let (mut left, mut other) = (stubborn(), stubborn());
        let told = format!("+{}\n+{}\nnonsense\n+0\n+1\n-{}\n", left.id(), other.id(), other.id());
        end_what_is_left(told.as_bytes());
        assert!(!left.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "it is none of what is left");
        kill_process_group(Pid::from_child(&other), Signal::KILL).unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn whoever_is_gone_is_followed_by_another_who_is_told_everything() {
        let folder = tempfile::tempdir().unwrap();
        let heard = folder.path().join("heard");
        let script = "cat >> \"$0\"";
        let program = ["/bin/sh", "-c", script, heard.to_str().unwrap()];
        let keeper = Keeper::new(program.map(OsString::from).to_vec());
        let first = keeper.keep(7);
        {
            let mut told = lock(&keeper.told);
            let process = told.process.as_mut().unwrap();
            process.kill().unwrap();
            process.wait().unwrap();
        }
        drop(keeper.keep(8));
        drop(first);
        let mut process = lock(&keeper.told).process.take().unwrap();
        drop(process.stdin.take());
        process.wait().unwrap();
        let heard = std::fs::read_to_string(&heard).unwrap();
        assert!(heard.ends_with("+7\n+8\n-8\n-7\n"), "{heard}");
    }
}
