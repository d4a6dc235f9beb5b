//! `everything.py` at work: an upstream that does everything an upstream may do, well and badly.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::found;

/// The program, which can also be started by whoever speaks to it.
pub(crate) const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/everything.py");

pub(crate) struct Everything {
    /// Where it is spoken to.
    pub(crate) url: String,
    process: Child,
}

impl Everything {
    /// Nothing where Python lacks the protocol's SDK.
    pub(crate) fn start() -> Option<Everything> {
        Everything::with(&[])
    }

    /// The same with files that its variables name.
    pub(crate) fn with(files: &[(&str, &Path)]) -> Option<Everything> {
        let python = found::python("COUNTERSIGN_TEST_PYTHON", "mcp.server.subscriptions, uvicorn")?;
        let mut command = Command::new(python);
        command.arg(PROGRAM).args(["--port", "0"]);
        let mut process =
            command.envs(files.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().to_owned();
        assert!(url.starts_with("http://"), "it says where it listens: `{url}`");
        Some(Everything { url, process })
    }

    /// The host and port it listens on.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://").trim_end_matches("/mcp")
    }
}

impl Drop for Everything {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
