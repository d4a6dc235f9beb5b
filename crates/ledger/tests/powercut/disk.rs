//! What a process did to the files of one folder, read from what `strace` saw, and what a power cut may leave of it.
//!
//! A file keeps what it had when it was last synced. Of what was written since, any part may be there, whole or in
//! sectors, and whatever a file is called is kept only once its folder was synced.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Whatever changes a file or its name, or makes that last. Those that are read below are what SQLite uses; any other
/// of them in the folder is a reason to look here.
const CALLS: &str = "?open,openat,?creat,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate,fsync,fdatasync,\
                     sync_file_range,?rename,renameat,renameat2,?link,linkat,?unlink,unlinkat";

/// Runs this, and writes to `trace` what it does with files.
pub(crate) fn traced(trace: &Path, program: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qqq", "-y", "-xx", "-s", "1048576", "-e", &format!("trace={CALLS}"), "-o"]);
    command.arg(trace).arg(program);
    command
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Make(String),
    Write(String, usize, Vec<u8>),
    Truncate(String, usize),
    Remove(String),
    /// A sync of what was there when that many steps were done.
    Sync(String, usize),
    SyncFolder(usize),
    /// A line of the file `notes`, which is no part of what is looked at.
    Note(String),
}

/// What was done in this folder, in the order in which the calls came back.
pub(crate) fn steps(trace: &str, folder: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut begun: HashMap<&str, (&str, usize)> = HashMap::new();
    for line in trace.lines() {
        let (process, said) = line.split_once(' ').unwrap();
        let said = said.trim_start();
        if let Some(call) = said.strip_suffix(" <unfinished ...>") {
            begun.insert(process, (call, steps.len()));
        } else if let Some((_, rest)) = said.split_once(" resumed>") {
            let (call, at) = begun.remove(process).unwrap();
            steps.extend(step(&format!("{call}{rest}"), folder, at));
        } else {
            steps.extend(step(said, folder, steps.len()));
        }
    }
    steps
}

fn step(call: &str, folder: &Path, begun: usize) -> Option<Step> {
    let (call, came) = call.rsplit_once(" = ")?;
    let (name, arguments) = call.split_once('(')?;
    let arguments: Vec<&str> = arguments.trim_end().strip_suffix(')')?.split(", ").collect();
    let path = arguments.iter().take(2).find_map(|it| path_in(it, folder))?;
    if came.starts_with('-') || came.starts_with('?') || path.ends_with("-shm") {
        return None;
    }
    let number = |at: usize| arguments[at].parse::<usize>().unwrap();
    Some(match name {
        _ if path == "notes" => match name {
            "write" => Step::Note(String::from_utf8(bytes(arguments[1])).unwrap()),
            _ => return None,
        },
        "open" | "openat" if arguments.iter().any(|it| it.contains("O_CREAT")) => Step::Make(path),
        "open" | "openat" => return None,
        "pwrite64" => Step::Write(path, number(3), bytes(arguments[1])),
        "ftruncate" => Step::Truncate(path, number(1)),
        "unlink" => Step::Remove(path),
        "fsync" | "fdatasync" if path.is_empty() => Step::SyncFolder(begun),
        "fsync" | "fdatasync" => Step::Sync(path, begun),
        other => panic!("`{other}` of `{path}` is not understood"),
    })
}

/// The name in the folder that an argument is about; of the folder itself it is empty.
fn path_in(argument: &str, folder: &Path) -> Option<String> {
    let quoted = match argument.split_once('<') {
        Some((_, path)) => path.strip_suffix('>')?,
        None => argument,
    };
    // A file that was removed is still written to at times, and nobody finds it again.
    if quoted.ends_with("(deleted)") || argument.starts_with("AT_FDCWD") {
        return None;
    }
    let path = String::from_utf8(bytes(quoted)).ok()?;
    let name = Path::new(&path).strip_prefix(folder).ok()?;
    Some(name.to_str()?.to_owned())
}

/// What is written as `\x2f\x74`, in quotes or not.
fn bytes(written: &str) -> Vec<u8> {
    assert!(!written.ends_with("..."), "it was cut short");
    let digit = |it: u8| char::from(it).to_digit(16).unwrap_or_default() as u8;
    let pairs = written.trim_matches('"').as_bytes().chunks_exact(4);
    pairs.map(|it| (digit(it[2]) << 4) | digit(it[3])).collect()
}

/// The files of the folder, as they are kept and as they are seen by whoever asks the system.
#[derive(Default)]
pub(crate) struct Disk {
    files: Vec<File>,
    /// Names that are kept, and what happened to names since; `None` is a removal.
    kept: BTreeMap<String, usize>,
    names: Vec<(usize, String, Option<usize>)>,
    done: usize,
    ignores_syncs: bool,
}

#[derive(Default)]
struct File {
    kept: Vec<u8>,
    /// Since then, and at which step.
    since: Vec<(usize, Change)>,
}

enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

/// How much is left of what was not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left {
    Nothing,
    All,
    /// Any part, by this seed.
    Some(u64),
}

impl Disk {
    /// One that says it has what it has not.
    pub(crate) fn lying() -> Disk {
        Disk { ignores_syncs: true, ..Disk::default() }
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        let at = self.done;
        self.done += 1;
        match step {
            Step::Make(name) if self.seen(name).is_some() => {}
            Step::Make(name) => {
                self.files.push(File::default());
                self.names.push((at, name.clone(), Some(self.files.len() - 1)));
            }
            Step::Remove(name) => self.names.push((at, name.clone(), None)),
            Step::Write(name, place, bytes) => self.change(at, name, Change::Write(*place, bytes.clone())),
            Step::Truncate(name, length) => self.change(at, name, Change::Truncate(*length)),
            Step::Note(_) => {}
            _ if self.ignores_syncs => {}
            Step::Sync(name, begun) => {
                let file = self.seen(name).unwrap();
                self.files[file].sync(*begun);
            }
            Step::SyncFolder(begun) => {
                let synced = self.names.partition_point(|(at, ..)| at < begun);
                for (_, name, file) in self.names.drain(..synced) {
                    set(&mut self.kept, name, file);
                }
            }
        }
    }

    fn change(&mut self, at: usize, name: &str, change: Change) {
        let file = self.seen(name).unwrap();
        self.files[file].since.push((at, change));
    }

    /// The file that a process sees under this name.
    fn seen(&self, name: &str) -> Option<usize> {
        let last = self.names.iter().rev().find(|(_, it, _)| it == name);
        last.map_or_else(|| self.kept.get(name).copied(), |(_, _, file)| *file)
    }

    /// Writes down what is there once the power is back.
    pub(crate) fn leave(&self, left: Left, folder: &Path) {
        let mut chance = Chance(match left {
            Left::Some(seed) => seed,
            Left::Nothing | Left::All => 0,
        });
        let mut names = self.kept.clone();
        for (_, name, file) in &self.names {
            if chance.keeps(left) {
                set(&mut names, name.clone(), *file);
            }
        }
        for (name, file) in names {
            std::fs::write(folder.join(name), self.files[file].left(left, &mut chance)).unwrap();
        }
    }
}

fn set(names: &mut BTreeMap<String, usize>, name: String, file: Option<usize>) {
    match file {
        Some(file) => drop(names.insert(name, file)),
        None => drop(names.remove(&name)),
    }
}

impl File {
    fn sync(&mut self, begun: usize) {
        let synced = self.since.partition_point(|(at, _)| *at < begun);
        for (_, change) in self.since.drain(..synced) {
            match change {
                Change::Write(place, bytes) => put(&mut self.kept, place, &bytes),
                Change::Truncate(length) => self.kept.resize(length, 0),
            }
        }
    }

    fn left(&self, left: Left, chance: &mut Chance) -> Vec<u8> {
        let mut content = self.kept.clone();
        for (_, change) in &self.since {
            match change {
                Change::Write(place, bytes) if matches!(left, Left::Some(_)) && chance.one_in(4) => {
                    for (place, sector) in sectors(*place, bytes) {
                        if chance.one_in(2) {
                            put(&mut content, place, sector);
                        }
                    }
                }
                _ if !chance.keeps(left) => {}
                Change::Write(place, bytes) => put(&mut content, *place, bytes),
                Change::Truncate(length) => content.resize(*length, 0),
            }
        }
        content
    }
}

fn put(content: &mut Vec<u8>, place: usize, bytes: &[u8]) {
    content.resize(content.len().max(place + bytes.len()), 0);
    content[place..place + bytes.len()].copy_from_slice(bytes);
}

/// What of this falls into each sector of the disk.
fn sectors(mut place: usize, mut bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut sectors = Vec::new();
    while !bytes.is_empty() {
        let (sector, rest) = bytes.split_at(bytes.len().min(SECTOR - place % SECTOR));
        sectors.push((place, sector));
        place += sector.len();
        bytes = rest;
    }
    sectors
}

/// The same numbers for the same seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.next().is_multiple_of(many)
    }

    fn keeps(&mut self, left: Left) -> bool {
        match left {
            Left::Nothing => false,
            Left::All => true,
            Left::Some(_) => self.one_in(2),
        }
    }
}
