//! Files that are written whole or not at all, and never over what differs unless that is asked for.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// Writes files, or, in a dry run, only says what it would write.
pub(super) struct Files {
    force: bool,
    dry_run: bool,
    told: Vec<(PathBuf, Fate)>,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was not there.
    New,
    /// It is as it should be already.
    Same,
    /// It differs and is the operator's own.
    Kept,
    /// It differs and was not overwritten.
    Differs,
    /// It differs and is a link, which may lead anywhere: it was not overwritten.
    Link,
    /// It was there and is changed.
    Changed,
}

impl Files {
    pub(super) fn new(force: bool, dry_run: bool) -> Files {
        Files { force, dry_run, told: Vec::new() }
    }

    /// A file of its own. One that is there and differs has the fate that is given for it, unless it may be overwritten.
    pub(super) fn put(&mut self, path: &Path, text: &str, otherwise: Fate) -> Result<Fate> {
        self.put_as(path, text, otherwise, PUBLIC)
    }

    /// The same, for nobody else to read.
    pub(super) fn put_private(&mut self, path: &Path, text: &str, otherwise: Fate) -> Result<Fate> {
        self.put_as(path, text, otherwise, PRIVATE)
    }

    /// What a file was, for nobody else to read, and never overwritten.
    pub(super) fn keep(&mut self, path: &Path, text: &str) -> Result<Fate> {
        let force = std::mem::replace(&mut self.force, false);
        let fate = self.put_private(path, text, Fate::Differs);
        self.force = force;
        fate
    }

    /// A file of ours with another text.
    pub(super) fn overwrite(&self, path: &Path, text: &str) -> Result<()> {
        self.write(path, text, PUBLIC)
    }

    /// The same, for nobody else to read.
    pub(super) fn overwrite_private(&self, path: &Path, text: &str) -> Result<()> {
        self.write(path, text, PRIVATE)
    }

    /// A file whose text is another one now, made from what it was.
    pub(super) fn change(&mut self, path: &Path, before: &str, after: &str) -> Result<()> {
        self.change_as(path, before, after, PUBLIC)
    }

    /// The same, for nobody else to read.
    pub(super) fn change_private(&mut self, path: &Path, before: &str, after: &str) -> Result<()> {
        self.change_as(path, before, after, PRIVATE)
    }

    fn change_as(&mut self, path: &Path, before: &str, after: &str, mode: u32) -> Result<()> {
        let fate = match (path.is_file(), before == after) {
            (false, _) => Fate::New,
            (true, true) => Fate::Same,
            (true, false) => Fate::Changed,
        };
        if fate != Fate::Same {
            self.write(path, after, mode)?;
        }
        self.told.push((path.to_owned(), fate));
        Ok(())
    }

    /// Whether anything is otherwise than it was.
    pub(super) fn has_changed(&self) -> bool {
        self.told.iter().any(|(_, fate)| matches!(fate, Fate::New | Fate::Changed))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// What became of them, a line each.
    pub(super) fn told(&self, most: usize) -> Vec<String> {
        let word = |fate: Fate| match (fate, self.dry_run) {
            (Fate::New, false) => "written",
            (Fate::New, true) => "to be written",
            (Fate::Same, _) => "as before",
            (Fate::Kept, _) => "yours, kept",
            (Fate::Differs, _) => "differs, kept; --force overwrites it",
            (Fate::Link, _) => "is a link, kept; remove it to have it written",
            (Fate::Changed, false) => "changed",
            (Fate::Changed, true) => "to be changed",
        };
        let mut lines: Vec<String> = match self.told.is_empty() {
            true => Vec::new(),
            false => {
                vec![if self.dry_run { "Files, of which none is written now:" } else { "Files:" }.to_owned()]
            }
        };
        let shown = self.told.iter().take(most).map(|(path, fate)| (path.display().to_string(), word(*fate)));
        let shown: Vec<_> = shown.collect();
        let width = shown.iter().map(|(path, _)| path.chars().count()).max().unwrap_or_default();
        lines.extend(shown.iter().map(|(path, word)| format!("  {path:width$}  {word}")));
        if self.told.len() > most {
            lines.push(format!("  and {} more", self.told.len() - most));
        }
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines
    }

    fn put_as(&mut self, path: &Path, text: &str, otherwise: Fate, mode: u32) -> Result<Fate> {
        let fate = match std::fs::read(path) {
            Ok(there) if there == text.as_bytes() => Fate::Same,
            Ok(_) if self.force && path.is_symlink() => Fate::Link,
            Ok(_) if self.force => Fate::Changed,
            Ok(_) => otherwise,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Fate::New,
            Err(error) => return Err(error).while_we(|| format!("cannot read `{}`", path.display())),
        };
        if matches!(fate, Fate::New | Fate::Changed) {
            self.write(path, text, mode)?;
        }
        self.told.push((path.to_owned(), fate));
        Ok(fate)
    }

    /// Whole or not at all: what is there stays until all of it is written. A link stays one: it is the operator's own.
    fn write(&self, path: &Path, text: &str, mode: u32) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        write(path, text, mode).while_we(|| format!("cannot write `{}`", path.display()))
    }
}

fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    // What is private is so although it was not before; other files keep what their owner gave them.
    let permissions = match mode {
        PRIVATE => None,
        _ => std::fs::metadata(&path).map(|about| about.permissions()).ok(),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(permissions.unwrap_or_else(|| std::fs::Permissions::from_mode(mode)))?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}

const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_unless_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let put =
            |text: &str, force, dry_run| Files::new(force, dry_run).put(&path, text, Fate::Differs).unwrap();
        assert_eq!((put("1", false, true), path.exists()), (Fate::New, false));
        assert_eq!(put("1", false, false), Fate::New);
        assert_eq!(put("1", false, false), Fate::Same);
        assert_eq!(put("2", false, false), Fate::Differs);
        assert_eq!(
            (put("2", true, true), std::fs::read_to_string(&path).unwrap()),
            (Fate::Changed, "1".to_owned())
        );
        assert_eq!(
            (put("2", true, false), std::fs::read_to_string(&path).unwrap()),
            (Fate::Changed, "2".to_owned())
        );
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(Files::new(true, false).put(&link, "3", Fate::Differs).unwrap(), Fate::Link);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2", "nothing is written through a link");
        let mut files = Files::new(true, false);
        assert_eq!(files.keep(&path, "3").unwrap(), Fate::Differs, "what is kept is kept");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let secret = folder.path().join("secret");
        files.keep(&secret, "3").unwrap();
        assert_eq!((mode(&secret), mode(&path)), (0o600, 0o644));
        assert_eq!(files.put_private(&path, "3", Fate::Differs).unwrap(), Fate::Changed);
        assert_eq!(mode(&path), 0o600, "whatever it was");
    }
}
