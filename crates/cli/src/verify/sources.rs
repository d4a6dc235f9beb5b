//! The files that `verify` was pointed at.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// A key set often lies among receipts; it is not one.
pub(crate) const KEY_SET: &str = "jwks.json";

/// Something to read receipts from.
pub(crate) struct Source {
    /// What to call it.
    pub(crate) name: String,
    /// Its length in bytes, where there is one.
    pub(crate) length: Option<u64>,
    path: Option<PathBuf>,
}

/// All files named, folders replaced by the files in them that end alike, in the order of names.
///
/// # Errors
/// A path does not exist or cannot be listed.
pub(crate) fn documents(paths: &[PathBuf], ending: &str) -> Result<Vec<Source>> {
    let mut all = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            all.push(Source { name: "stdin".to_owned(), length: None, path: None });
        } else if path.is_dir() {
            for file in receipts_in(path, ending)? {
                all.push(Source::file(file)?);
            }
        } else {
            all.push(Source::file(path.clone())?);
        }
    }
    Ok(all)
}

fn receipts_in(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut files = list().while_we(|| format!("cannot list `{}`", folder.display()))?;
    files.retain(|file| {
        let named = |name: &str| file.file_name().is_some_and(|found| found == name);
        file.is_file() && file.extension().is_some_and(|found| found == ending) && !named(KEY_SET)
    });
    files.sort();
    Ok(files)
}

impl Source {
    fn file(path: PathBuf) -> Result<Source> {
        let name = path.display().to_string();
        let about = std::fs::metadata(&path)
            .map_err(|error| Error::new(format!("cannot read `{name}`")).because(error))?;
        Ok(Source { name, length: about.is_file().then_some(about.len()), path: Some(path) })
    }

    /// One document, cut where it is longer than any bundle may be, so that verification says so.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let longest = 2 * receipt::MAX_BYTES as u64 + 1;
        self.open()?
            .take(longest)
            .read_to_end(&mut text)
            .while_we(|| format!("cannot read `{}`", self.name))?;
        if (text.len() as u64) < longest {
            // Editors and shells end a file with a newline; it is no part of the document.
            let trimmed =
                text.iter().rposition(|byte| !WHITE_SPACE.contains(byte)).map_or(0, |last| last + 1);
            text.truncate(trimmed);
        }
        Ok(text)
    }

    pub(crate) fn open(&self) -> Result<Box<dyn Read + Send>> {
        match &self.path {
            Some(path) => {
                let file = File::open(path).while_we(|| format!("cannot read `{}`", self.name))?;
                Ok(Box::new(file))
            }
            None => Ok(Box::new(io::stdin())),
        }
    }
}

/// What JSON takes for white space.
const WHITE_SPACE: &[u8] = b" \t\r\n";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_of_which_more_follows_is_not_cut_to_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &[u8]| {
            let file = folder.path().join("receipt.json");
            std::fs::write(&file, text).unwrap();
            Source::file(file).unwrap().read().unwrap()
        };
        assert_eq!(read(b"{} \r\n\t"), b"{}");
        assert_eq!(read(b"{}\x0c\n"), b"{}\x0c");
        let mut long = vec![b' '; 2 * receipt::MAX_BYTES + 100];
        long[..2].copy_from_slice(b"{}");
        assert_eq!(read(&long).len(), 2 * receipt::MAX_BYTES + 1);
    }
}
