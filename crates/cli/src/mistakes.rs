//! Mistakes in the operator's files, shown where they stand; and how those files are found.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use action::{Mistake, Source};
use miette::{LabeledSpan, MietteDiagnostic, NamedSource, Report, Severity};

use crate::error::{Context, Error, Result};
use crate::out;

/// The files of one tenant.
pub(crate) struct Folder {
    /// The tenant, or the folder's path where it belongs to none.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// The tenants' folders in `dir`; `dir` itself if it holds files of that kind.
///
/// # Errors
/// It cannot be listed, or there is nothing in it.
pub(crate) fn folders(dir: &Path, extensions: &[&str]) -> Result<Vec<Folder>> {
    let entries = entries(dir)?;
    if entries.iter().any(|path| is_kind(path, extensions)) {
        return Ok(vec![Folder { name: dir.display().to_string(), path: dir.to_owned() }]);
    }
    let folders = entries.into_iter().filter(|path| path.is_dir()).map(|path| Folder {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        path,
    });
    let folders: Vec<Folder> = folders.collect();
    if folders.is_empty() {
        let kinds =
            extensions.iter().map(|extension| format!("*.{extension}")).collect::<Vec<_>>().join(" or ");
        return Err(Error::new(format!("nothing to check in `{}`", dir.display()))
            .hint(format!("a folder holds {kinds}, or one folder per tenant (`default/`) that does")));
    }
    Ok(folders)
}

/// The folder's files of these kinds, in the order of their names.
///
/// # Errors
/// One cannot be read as text.
pub(crate) fn sources(folder: &Path, extensions: &[&str]) -> Result<Vec<Source>> {
    let mut all = Vec::new();
    for path in entries(folder)?.into_iter().filter(|path| is_kind(path, extensions)) {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).while_we(|| format!("cannot read `{name}`"))?;
        all.push(Source { name, text });
    }
    Ok(all)
}

/// Tells every mistake on stderr, each with the line it stands on.
pub(crate) fn tell(mistakes: &[Mistake], sources: &[Source]) {
    tell_as(Severity::Error, mistakes, sources);
}

/// What is odd but not wrong, in the operator's own files.
pub(crate) fn warn(warnings: &[Mistake], sources: &[Source]) {
    let own = |warning: &&Mistake| sources.iter().any(|source| source.name == warning.file);
    let own: Vec<Mistake> = warnings.iter().filter(own).cloned().collect();
    tell_as(Severity::Warning, &own, sources);
}

/// What is odd about all that a folder holds together.
pub(crate) fn warn_of(folder: &Folder, message: &str, hint: &str) {
    let file = folder.path.display().to_string();
    let warning = Mistake { file, line: 0, column: 0, message: message.into(), hint: Some(hint.into()) };
    tell_as(Severity::Warning, &[warning], &[]);
}

fn tell_as(severity: Severity, mistakes: &[Mistake], sources: &[Source]) {
    let texts: BTreeMap<&str, &str> =
        sources.iter().map(|source| (source.name.as_str(), source.text.as_str())).collect();
    for mistake in mistakes {
        let mut diagnostic = MietteDiagnostic::new(mistake.message.clone()).with_severity(severity);
        diagnostic.help.clone_from(&mistake.hint);
        let report = match texts.get(mistake.file.as_str()) {
            Some(text) if mistake.line > 0 => {
                let label = LabeledSpan::at(place(text, mistake), "here");
                let named = NamedSource::new(&mistake.file, (*text).to_owned());
                Report::new(diagnostic.with_label(label)).with_source_code(named)
            }
            _ => {
                diagnostic.message = format!("{}: {}", mistake.file, mistake.message);
                Report::new(diagnostic)
            }
        };
        out::note(format_args!("{report:?}"));
    }
}

/// How many, for the closing line.
pub(crate) fn counted(mistakes: usize) -> String {
    if mistakes == 1 { "1 mistake".to_owned() } else { format!("{mistakes} mistakes") }
}

/// Byte range from the mistake's column to the end of its word.
fn place(text: &str, mistake: &Mistake) -> std::ops::Range<usize> {
    let line_start: usize =
        text.split_inclusive('\n').take(mistake.line.saturating_sub(1)).map(str::len).sum();
    let line = text[line_start..].lines().next().unwrap_or_default();
    let before: usize = line.chars().take(mistake.column.saturating_sub(1)).map(char::len_utf8).sum();
    let rest = &line[before..];
    let word = match rest.strip_prefix('"') {
        Some(inner) => inner.find('"').map(|end| end + 2),
        None => rest.find([' ', '=', ',', ']', '}']).filter(|length| *length > 0),
    };
    let start = line_start + before;
    start..start + word.unwrap_or(rest.len())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut paths = list().while_we(|| format!("cannot list `{}`", folder.display()))?;
    paths.sort();
    Ok(paths)
}

fn is_kind(path: &Path, extensions: &[&str]) -> bool {
    path.is_file()
        && path.extension().is_some_and(|found| extensions.iter().any(|extension| found == *extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_points_at_its_word() {
        let text = "a = 1\nnäme = \"x\"\n";
        let at = |line, column| Mistake { file: "f".into(), line, column, message: "m".into(), hint: None };
        assert_eq!(&text[place(text, &at(2, 1))], "näme");
        assert_eq!(&text[place(text, &at(2, 8))], "\"x\"");
        assert_eq!(&text[place(text, &at(9, 9))], "", "a place that is not there is the end");
    }
}
