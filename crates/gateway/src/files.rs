//! Key files: written whole or not at all, readable by their owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

pub(crate) use provider::secrets::read_private;

/// Makes `folder` and what leads to it, for its owner only, durable when this returns.
///
/// # Errors
/// It cannot be made, or not be made durable.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|it| !it.exists() && *it != Path::new("")).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    missing.into_iter().try_for_each(keep_name)
}

/// Makes the data directory, and keeps what it holds, keys among it, out of a repository it may lie in.
pub(crate) fn data_folder(folder: &Path) -> io::Result<()> {
    private_folder(folder)?;
    let ignore = OpenOptions::new().write(true).create_new(true).open(folder.join(".gitignore"));
    match ignore {
        Ok(mut ignore) => ignore.write_all(b"*\n"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Replaces `path` by `bytes`, mode 0600, durable when this returns.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_beside(path, &path.with_extension("next"), bytes)
}

/// The same by way of `next`, a file beside it that nobody else writes meanwhile.
pub(crate) fn write_beside(path: &Path, next: &Path, bytes: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(next);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(next, path)?;
    keep_name(path)
}

/// Makes durable what this is called, which is a matter of the folder that it is in.
fn keep_name(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder == Path::new("") => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_repository_does_not_take_the_data_directory_in() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        data_folder(&data).expect("it is made");
        let ignore = data.join(".gitignore");
        assert_eq!(fs::read_to_string(&ignore).expect("it is there"), "*\n");
        fs::write(&ignore, "# mine\n").expect("the operator changes it");
        data_folder(&data).expect("it is there already");
        assert_eq!(fs::read_to_string(&ignore).expect("it is there"), "# mine\n");
    }

    /// The child of the test below.
    #[test]
    fn child() {
        let Some(folder) = std::env::var_os("FILES_CHILD") else { return };
        let folder = Path::new(&folder).join("marks/default");
        private_folder(&folder).expect("it is made");
        write_private(&folder.join("mark"), b"signed").expect("it is written");
    }

    /// A file whose folder is gone after a power cut was not kept.
    #[test]
    fn every_folder_on_the_way_to_a_file_is_synced_once_something_was_made_in_it() {
        let tried = Command::new("strace").args(["-qqq", "-o", "/dev/null", "true"]).output();
        if !tried.is_ok_and(|it| it.status.success()) {
            return testkit::skip("strace does not work here");
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path().canonicalize().expect("it is there");
        let (store, trace) = (at.join("store"), at.join("trace"));
        fs::create_dir(&store).expect("it is made");
        let child = std::env::current_exe().expect("this test");
        let traced = Command::new("strace")
            .args(["-f", "-qqq", "-y", "-e", "trace=fsync", "-o"])
            .args([&trace, &child])
            .args(["--exact", "files::tests::child"])
            .env("FILES_CHILD", &store)
            .output()
            .expect("strace runs");
        assert!(traced.status.success(), "{traced:?}");
        let trace = fs::read_to_string(trace).expect("what was done");
        for synced in ["store", "store/marks", "store/marks/default"] {
            let synced = format!("<{}>", at.join(synced).display());
            assert!(trace.contains(&synced), "{synced} was not synced: {trace}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("key");
        write_private(&path, b"secret").expect("it is written");
        assert_eq!(read_private(&path).expect("it is private").as_slice(), b"secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("the mode is changed");
        let refusal = read_private(&path).expect_err("the group can read it");
        assert!(refusal.contains("mode 640"), "{refusal}");
    }
}
