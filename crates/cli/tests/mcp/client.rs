//! Clients that others wrote, each a process that is told what to ask for, line by line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::found;

/// Whose SDK it is, and how it greets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sdk {
    /// Python's second, in a revision that it is told or, `legacy`, with a session.
    Python2(&'static str),
    Python1,
    TypeScript,
}

pub(crate) struct Client {
    /// The revision that came about.
    pub(crate) revision: String,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    process: Child,
}

impl Sdk {
    /// How it is started, where it is here at all.
    pub(crate) fn found(self) -> Option<Program> {
        let script = |name: &str| format!("{}/tests/mcp/{name}", env!("CARGO_MANIFEST_DIR"));
        let (program, script, more) = match self {
            Sdk::Python2(mode) => {
                let python = found::python("COUNTERSIGN_TEST_PYTHON", "mcp.server.subscriptions, httpx2")?;
                (python, script("client2.py"), mode.into())
            }
            Sdk::Python1 => {
                let python = found::python("COUNTERSIGN_TEST_PYTHON_MCP1", "mcp, httpx")?;
                (python, script("client1.py"), String::new())
            }
            Sdk::TypeScript => {
                let (node, _) = found::node("@modelcontextprotocol/sdk/package.json")?;
                (node, script("client.mjs"), found::modules().display().to_string())
            }
        };
        Some(Program { program, script, more })
    }
}

pub(crate) struct Program {
    program: std::ffi::OsString,
    script: String,
    more: String,
}

impl Client {
    pub(crate) fn start(program: &Program, url: &str, key: &str) -> Client {
        let mut command = Command::new(&program.program);
        command.args([&*program.script, url]).args(Some(&program.more).filter(|more| !more.is_empty()));
        command.env("CLIENT_KEY", key).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut client = Client { revision: String::new(), input, output: BufReader::new(output), process };
        client.revision = client.hear()["protocolVersion"].as_str().unwrap().to_owned();
        client
    }

    pub(crate) fn list(&mut self) -> Vec<Value> {
        let listed = self.ask(&json!({}));
        listed["tools"].as_array().unwrap_or_else(|| panic!("{listed}")).clone()
    }

    /// The result of a call, or what the client has to say of it as `error`.
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        self.ask(&json!({"tool": tool, "arguments": arguments}))
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.send(request);
        self.hear()
    }

    /// Asks, and does not wait.
    pub(crate) fn send(&mut self, request: &Value) {
        writeln!(self.input, "{request}").unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the client says `{line}`"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
