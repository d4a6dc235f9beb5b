//! The machine, by name: figures without it mean nothing.

use std::fs;
use std::path::Path;
use std::thread;

use serde::Serialize;

/// A build whose figures mean nothing.
pub(crate) const DEBUG: &str = "debug";

/// Where the figures were taken.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: Option<f64>,
    pub(crate) system: String,
    /// The file system under the data directory.
    pub(crate) file_system: Option<String>,
    pub(crate) version: &'static str,
    pub(crate) build: &'static str,
}

impl Machine {
    pub(crate) fn here(data_dir: &Path) -> Machine {
        let first = |file: &str, name: &str| {
            let text = fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kib = first("/proc/meminfo", "MemTotal")
            .and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            processor: first("/proc/cpuinfo", "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib.map(|kib| kib / f64::from(1 << 20)),
            system: format!("{} {}", std::env::consts::OS, kernel.trim()).trim_end().to_owned(),
            file_system: file_system(data_dir),
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { DEBUG } else { "release" },
        }
    }

    /// One line.
    pub(crate) fn name(&self) -> String {
        let memory = self.memory_gib.map(|gib| format!(", {gib:.0} GiB")).unwrap_or_default();
        let disk = self.file_system.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
        format!(
            "{}, {} cores{memory}, {}{disk}; {} build {}",
            self.processor, self.cores, self.system, self.build, self.version
        )
    }
}

/// The type of the mount that holds the folder: the longest of those that lead to it, the last one where several do.
fn file_system(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let leading = mounts.filter(|(place, _)| folder.starts_with(place));
    leading.max_by_key(|(place, _)| place.len()).map(|(_, kind)| kind.to_owned())
}
