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
        // Editors and shells end a file with a newline; it is no part of the document.
        let trimmed = text.trim_ascii_end().len();
        text.truncate(trimmed);
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
