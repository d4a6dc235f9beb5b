//! `everything.py` at work: an upstream that does everything an upstream may do, well and badly.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::skip;

pub(crate) struct Everything {
    /// Where it is spoken to.
    pub(crate) url: String,
    process: Child,
}

impl Everything {
    /// Nothing where Python lacks the protocol's SDK.
    pub(crate) fn start() -> Option<Everything> {
        let python = std::env::var_os("COUNTERSIGN_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let imports = "import mcp.server.subscriptions, uvicorn";
        if !Command::new(&python).args(["-c", imports]).output().is_ok_and(|output| output.status.success()) {
            skip(&format!("no Python that can {imports}; COUNTERSIGN_TEST_PYTHON may name one with mcp 2.3"));
            return None;
        }
        let mut command = Command::new(python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/everything.py")).args(["--port", "0"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
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
