//! What was signed of a tenant's log, in a folder outside of the store: the store's high-water mark, and the newest checkpoints that
//! witnesses cosigned.
//!
//! ```text
//!   marks/production/default/
//!       1-812-0b7c5e1f9a3d4c26.checkpoint      epoch, size, root: what it is of
//!       cosigned-2.checkpoint                  the newest that two witnesses cosigned
//! ```
//!
//! INVARIANT (highest): what was signed last is there before anybody sees it, and is removed only after something higher of the same
//! log is there. A file is named after what it is of, so no file ever takes another one's place: folders of several gateways may be
//! one folder, or be copied into one another, and an old copy that is put back lies beside what is newer and hides nothing.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use receipt::log::{Checkpoint, Note, Signer, Verifier, epoch_of};

use crate::files;

/// The folder of one tenant.
pub(super) struct Marks {
    folder: PathBuf,
    /// Others may write the same file at the same time: each to a name of its own first.
    own: String,
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
        Ok(Marks { folder, own: hex::encode(own) })
    }

    /// Everything that was signed and is kept, lowest first. Nobody else can have signed it, but somebody may have altered a file:
    /// then nothing is believed.
    pub(super) fn all(&self, signer: &Signer) -> Result<Vec<Mark>, String> {
        let cannot = |error: io::Error| format!("`{}`: {error}", self.folder.display());
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            if path.extension().is_some_and(|end| end == END) {
                all.extend(read(&path, signer)?);
            }
        }
        all.sort_by_key(Mark::height);
        Ok(all)
    }

    /// Was anything signed? Nothing is signed of a log without leaves.
    pub(super) fn is_any(&self) -> Result<bool, String> {
        let cannot = |error: io::Error| format!("`{}`: {error}", self.folder.display());
        for entry in fs::read_dir(&self.folder).map_err(cannot)? {
            if entry.map_err(cannot)?.path().extension().is_some_and(|end| end == END) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What others than this gateway keep here beside that mark, such as others on the same store.
    pub(super) fn others(&self, mine: Option<&Mark>, signer: &Signer) -> Result<Vec<Mark>, String> {
        let cannot = |error: io::Error| format!("`{}`: {error}", self.folder.display());
        let (mine, mut others) = (mine.map(Mark::file), Vec::new());
        for entry in fs::read_dir(&self.folder).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let known = mine.as_deref() == Some(name) || name.starts_with(COSIGNED);
            if !known && name.ends_with(END) {
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

    /// Keeps the newest checkpoint that so many witnesses cosigned.
    pub(super) fn keep_cosigned(&self, count: usize, note: &Note) -> io::Result<()> {
        let path = self.folder.join(format!("{COSIGNED}{count}.{END}"));
        files::write_beside(&path, &self.beside(), note.to_string().as_bytes())
    }

    fn beside(&self) -> PathBuf {
        self.folder.join(format!("{}.next", self.own))
    }
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
