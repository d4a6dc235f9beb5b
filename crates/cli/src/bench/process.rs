//! What processes cost: CPU, memory, files. Read from the kernel; where it does not say, the answer is `None`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::process::Child;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::error::{Context, Result};

/// CPU and memory of a process at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// CPU of all its threads since it began, those that ended included.
    pub(crate) cpu: Duration,
    /// Resident bytes.
    pub(crate) resident: u64,
    /// CPU of the threads alive, with their names, by id.
    threads: BTreeMap<u64, (String, Duration)>,
}

impl Usage {
    /// What `pid` has used so far.
    pub(crate) fn of(pid: u32) -> Option<Usage> {
        let folder = format!("/proc/{pid}");
        let status = fs::read_to_string(format!("{folder}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let resident: u64 = resident.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(Usage { cpu: ticks(pid)?, resident: resident * 1024, threads: threads(pid, &folder) })
    }

    /// CPU since `before` by name of thread. Threads that ended in between are not in it.
    pub(crate) fn by_thread_since(&self, before: &Usage) -> BTreeMap<String, Duration> {
        let mut out = BTreeMap::new();
        for (id, (name, cpu)) in &self.threads {
            let earlier = before.threads.get(id).map_or(Duration::ZERO, |(_, cpu)| *cpu);
            *out.entry(name.clone()).or_default() += cpu.saturating_sub(earlier);
        }
        out
    }
}

/// Serves in this process until its stdin closes.
pub(crate) fn serve(name: &str, serving: impl Future<Output = Result<()>>) -> Result<()> {
    allow_many_files();
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.while_we(|| format!("cannot start the {name}"))?.block_on(serving)
}

/// CPU of this process.
pub(crate) fn own_cpu() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// CPU of this thread.
pub(crate) fn thread_cpu() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

/// CPU of a child that is about to end by itself; it is read when it has ended and before it is waited for.
pub(crate) fn cpu_when_ended(child: &Child) -> Option<Duration> {
    let pid = child.id();
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        if rest.trim_start().starts_with('Z') {
            return ticks(pid);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Raises the limit on open files as far as it goes: ten thousand connections need as many.
pub(crate) fn allow_many_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}

/// User and system time, members 14 and 15 of `stat`; the name before them may hold anything but is in brackets.
fn ticks(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut members = rest.split_ascii_whitespace().skip(11);
    let user: u64 = members.next()?.parse().ok()?;
    let system: u64 = members.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The first thread is named after whatever file the program was started from; here it is `main`.
fn threads(pid: u32, folder: &str) -> BTreeMap<u64, (String, Duration)> {
    let mut out = BTreeMap::new();
    let entries = fs::read_dir(format!("{folder}/task")).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).ok();
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        let nanos = read("schedstat").and_then(|text| text.split(' ').next()?.parse().ok());
        if let (Some(id), Some(name), Some(nanos)) = (id, read("comm"), nanos) {
            let name = if id == u64::from(pid) { "main" } else { name.trim() };
            out.insert(id, (name.to_owned(), Duration::from_nanos(nanos)));
        }
    }
    out
}

fn clock(which: ClockId) -> Duration {
    let now = clock_gettime(which);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_shows_as_cpu() {
        let before = own_cpu();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(30) {}
        assert!(own_cpu() > before);
        let usage = Usage::of(std::process::id()).expect("this process has a /proc entry");
        assert!(usage.resident > 100_000 && !usage.threads.is_empty());
    }
}
