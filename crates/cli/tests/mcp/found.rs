//! Programs of others that tests speak to, as far as they are here.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

use testkit::skip;

/// A Python of the variable's that can import this.
pub(crate) fn python(variable: &str, imports: &str) -> Option<OsString> {
    let python = std::env::var_os(variable).unwrap_or_else(|| "python3".into());
    let import = format!("import {imports}");
    if Command::new(&python).args(["-c", &import]).output().is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skip(&format!("no Python that can `{import}`; {variable} may name one"));
    None
}

/// A Node that is new enough, and one file of the packages that it has.
pub(crate) fn node(file: &str) -> Option<(OsString, PathBuf)> {
    let node = std::env::var_os("COUNTERSIGN_TEST_NODE").unwrap_or_else(|| "node".into());
    let file = modules().join(file);
    if major(&node).is_none_or(|major| major < 22) {
        skip("no Node 22 or newer; COUNTERSIGN_TEST_NODE may name one");
    } else if !file.is_file() {
        skip(&format!("no {}: COUNTERSIGN_TEST_NODE_MODULES names no folder that has it", file.display()));
    } else {
        return Some((node, file));
    }
    None
}

/// The packages of Node.
pub(crate) fn modules() -> PathBuf {
    std::env::var_os("COUNTERSIGN_TEST_NODE_MODULES").unwrap_or_default().into()
}

fn major(node: &OsStr) -> Option<u32> {
    let version = String::from_utf8(Command::new(node).arg("--version").output().ok()?.stdout).ok()?;
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}
