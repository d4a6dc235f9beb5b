//! What was signed of a tenant's log, in a folder outside of the store: the store's high-water mark, and the newest checkpoints that
//! witnesses cosigned.
//!
//! ```text
//!   marks/production/default/
//!       1-812-0b7c5e1f9a3d4c26.checkpoint      epoch, size, root: what it is of
//!       cosigned-2-1-798-5a0e4c26.checkpoint   one that two witnesses cosigned: epoch, size, sum of the note
//! ```
//!
//! Earlier versions called the newest that two witnesses cosigned `cosigned-2.checkpoint`, whichever it was.
//!
//! INVARIANT (highest): what was signed last is there before anybody sees it, and is removed only after something higher of the same
//! log is there. A file is named after what it is of, so no file ever takes another one's place: folders of several gateways may be
//! one folder, or be copied into one another, and an old copy that is put back lies beside what is newer and hides nothing.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use receipt::log::{Checkpoint, Note, Signer, Verifier, epoch_of};
use sha2::{Digest, Sha256};

use crate::files;

/// The folder of one tenant.
pub(super) struct Marks {
    folder: PathBuf,
    /// Others may write the same file at the same time: each to a name of its own first.
    own: String,
    next: AtomicU64,
}

/// A checkpoint that was signed, and its note.
#[derive(Clone)]
pub(super) struct Mark {
    pub checkpoint: Checkpoint,
    pub note: Note,
}

impl Mark {
    /// By what they are ordered; of one store there are no two different ones of one size.
    fn height(&self) -> (u64, u64) {
        (epoch_of(&self.checkpoint.origin).1, self.checkpoint.size)
    }

    fn file(&self) -> String {
        let (epoch, size) = self.height();
        format!("{epoch}-{size}-{}.{END}", hex::encode(&self.checkpoint.root[..8]))
    }
}

impl Marks {
    /// The folder, made if it is not there.
    pub(super) fn open(folder: PathBuf) -> Result<Marks, String> {
        files::private_folder(&folder)
            .map_err(|error| format!("cannot make `{}`: {error}", folder.display()))?;
        let own: [u8; 8] = crate::clock::random().map_err(|error| error.to_string())?;
        Ok(Marks { folder, own: hex::encode(own), next: AtomicU64::default() })
    }

    /// Everything that was signed and is kept, lowest first. Nobody else can have signed it, but somebody may have altered a file:
    /// then nothing is believed.
    pub(super) fn all(&self, signer: &Signer) -> Result<Vec<Mark>, String> {
        let mut all = Vec::new();
        for path in self.files()? {
            all.extend(read(&path, signer)?);
        }
        all.sort_by_key(Mark::height);
        Ok(all)
    }

    fn files(&self) -> Result<Vec<PathBuf>, String> {
        let cannot = |error: io::Error| format!("`{}`: {error}", self.folder.display());
        let entries = fs::read_dir(&self.folder).map_err(cannot)?;
        let paths = entries.map(|entry| Ok(entry.map_err(cannot)?.path()));
        paths
            .filter(|path| path.as_ref().map_or(true, |path| path.extension().is_some_and(|end| end == END)))
            .collect()
    }

    /// Was anything signed? Nothing is signed of a log without leaves.
    pub(super) fn is_any(&self) -> Result<bool, String> {
        Ok(!self.files()?.is_empty())
    }

    /// What others than this gateway keep here beside that mark, such as others on the same store.
    pub(super) fn others(&self, mine: Option<&Mark>, signer: &Signer) -> Result<Vec<Mark>, String> {
        let (mine, mut others) = (mine.map(Mark::file), Vec::new());
        for path in self.files()? {
            let name = path.file_name().and_then(|name| name.to_str());
            if name != mine.as_deref() && !is_cosigned(&path) {
                others.extend(read(&path, signer)?);
            }
        }
        Ok(others)
    }

    /// Takes in the file in which earlier versions kept the last checkpoint.
    pub(super) fn take_in(&self, earlier: &Path, signer: &Signer) -> Result<(), String> {
        let Some(mark) = read(earlier, signer)? else { return Ok(()) };
        let cannot = |error: io::Error| format!("cannot move `{}`: {error}", earlier.display());
        self.write(&mark).map_err(cannot)?;
        fs::remove_file(earlier).map_err(cannot)
    }

    /// Keeps a mark; it is on disk when this returns.
    pub(super) fn write(&self, mark: &Mark) -> io::Result<()> {
        files::write_beside(&self.folder.join(mark.file()), &self.beside(), mark.note.to_string().as_bytes())
    }

    /// Removes a mark that another one is above.
    pub(super) fn surpassed(&self, mark: &Mark, by: &Mark) {
        // Keeps (highest).
        if mark.checkpoint.origin == by.checkpoint.origin && mark.height() < by.height() {
            let _ = fs::remove_file(self.folder.join(mark.file()));
        }
    }

    /// Keeps a checkpoint that so many witnesses cosigned, and no longer what it says all of.
    pub(super) fn keep_cosigned(&self, count: usize, mark: &Mark, signer: &Signer) -> Result<(), String> {
        let note = mark.note.to_string();
        let (epoch, size) = mark.height();
        let sum = hex::encode(&Sha256::digest(&note)[..4]);
        let file = self.folder.join(format!("{COSIGNED}{count}-{epoch}-{size}-{sum}.{END}"));
        let cannot = |error: io::Error| format!("`{}`: {error}", file.display());
        files::write_beside(&file, &self.beside(), note.as_bytes()).map_err(cannot)?;
        for path in self.files()?.into_iter().filter(|path| *path != file && is_cosigned(path)) {
            // Another gateway may have one of witnesses that this one does not know.
            let is_covered = |old: &Mark| {
                let is_lower =
                    old.checkpoint.origin == mark.checkpoint.origin && old.height() <= mark.height();
                is_lower && mark.note.has_signers_of(&old.note)
            };
            if read(&path, signer)?.as_ref().is_some_and(is_covered) {
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// A name that nobody else writes to: witnesses answer at the same time.
    fn beside(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{}-{number}.next", self.own))
    }
}

fn is_cosigned(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(COSIGNED))
}

/// The mark in a file; nothing if there is none, since others remove what they surpass.
fn read(path: &Path, signer: &Signer) -> Result<Option<Mark>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("`{}`: {why}", path.display());
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(&error)),
    };
    let note = Note::parse(&text).map_err(|error| wrong(&error))?;
    let checkpoint = signed_by(signer, &note).map_err(|error| wrong(&error))?;
    Ok(Some(Mark { checkpoint, note }))
}

/// What a note says, if this key signed it as the log that it names.
pub(super) fn signed_by(signer: &Signer, note: &Note) -> Result<Checkpoint, receipt::log::Error> {
    let origin = note.text().lines().next().unwrap_or_default();
    let log: Verifier = signer.log(origin)?;
    Checkpoint::of(note, &log)
}

const END: &str = "checkpoint";
const COSIGNED: &str = "cosigned-";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cosigned(log: &Signer, size: u64, by: &[&Signer]) -> Mark {
        let checkpoint = Checkpoint { origin: "gw.example/log/default".to_owned(), size, root: [7; 32] };
        let mut note = log.sign(&checkpoint).unwrap();
        for witness in by {
            let line = witness.cosign("w.example", &note, 5).unwrap();
            note = Note::parse(&format!("{note}{line}\n")).unwrap();
        }
        Mark { checkpoint, note }
    }

    #[test]
    fn what_witnesses_cosigned_gives_way_in_a_shared_folder_only_to_what_says_all_of_it() {
        let [log, one, two] = std::array::from_fn(|_| Signer::generate().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let gateways = [0, 1].map(|_| Marks::open(folder.path().to_owned()).unwrap());
        let sizes = || {
            let all = gateways[0].all(&log).unwrap();
            all.into_iter().map(|mark| mark.checkpoint.size).collect::<Vec<_>>()
        };
        let keep = |gateway: usize, size, by: &[&Signer]| {
            gateways[gateway].keep_cosigned(by.len(), &cosigned(&log, size, by), &log).unwrap();
        };
        // As earlier versions called it.
        let old = folder.path().join(format!("{COSIGNED}1.{END}"));
        fs::write(old, cosigned(&log, 10, &[&one]).note.to_string()).unwrap();
        keep(0, 20, &[&one, &two]);
        assert_eq!(sizes(), [20]);
        // Whoever comes late takes nothing from whoever is ahead, nor one witness from another.
        keep(0, 40, &[&one]);
        keep(1, 30, &[&one]);
        keep(1, 40, &[&two]);
        assert_eq!(sizes(), [20, 30, 40, 40]);
        keep(0, 50, &[&one]);
        assert_eq!(sizes(), [20, 40, 50]);
        keep(1, 50, &[&one, &two]);
        assert_eq!(sizes(), [50]);
        assert!(gateways[0].others(None, &log).unwrap().is_empty());
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "nothing beside it");
    }
}
