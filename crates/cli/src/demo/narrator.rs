//! The voice of the demo: says each step as it happens, and remembers how it came out.

use std::path::Path;

use serde::Serialize;

use super::proof::Folder;
use super::world::{Answer, World};
use crate::error::Result;
use crate::out::{self, Paint, shown};

/// How one step came out, as `--json` shows it.
#[derive(Serialize)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    pub(super) kind: Option<String>,
    pub(super) transaction_id: Option<String>,
}

/// Something a step promises, and whether it is so.
pub(super) struct Promise {
    pub(super) text: String,
    pub(super) kept: bool,
}

pub(super) fn promise(text: impl Into<String>, kept: bool) -> Promise {
    Promise { text: text.into(), kept }
}

pub(super) struct Narrator {
    paint: Paint,
    silent: bool,
    steps: Vec<Step>,
}

impl Narrator {
    pub(super) fn new(silent: bool) -> Narrator {
        Narrator { paint: Paint::stdout(), silent, steps: Vec::new() }
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(super) fn open(&self) -> Result<()> {
        self.line(self.paint.bold("Countersign: one action in, one signed outcome out"))?;
        self.line("Starting a bank and a gateway in production mode, each a process of its own …")
    }

    pub(super) fn cast(&self, world: &World) -> Result<()> {
        let (bank, gateway) = (world.bank_process(), world.gateway_process());
        self.line(format!(
            "  bank      {}  (process {}), keeps the accounts and counts every payment",
            bank.url,
            bank.id()
        ))?;
        self.line(format!(
            "  gateway   {}  (process {}), alone holds the bank's token",
            gateway.url,
            gateway.id()
        ))?;
        self.line("  agent     demo-agent, with a mandate for payments of 500.00 USD in all")
    }

    /// A step that asked the gateway for an action.
    pub(super) fn step(
        &mut self,
        name: &'static str,
        title: &str,
        asked: &str,
        answer: &Answer,
        promises: Vec<Promise>,
    ) -> Result<()> {
        let text = |member: &str| answer.body[member].as_str().map(str::to_owned);
        let (kind, transaction_id) = (text("kind"), text("transaction_id"));
        self.heading(title)?;
        self.line(format!("     agent    {asked}"))?;
        let code = text("code").map(|code| format!(" {code}")).unwrap_or_default();
        let said = format!("{} {}{code}", answer.status, kind.as_deref().unwrap_or("no outcome"));
        self.line(format!("     gateway  {}", self.paint.bold(shown(&said))))?;
        if let Some(message) = text("message") {
            self.line(self.paint.dim(format_args!("              {}", shown(&message))))?;
        }
        if let Some(url) = text("receipt_url_short") {
            self.line(self.paint.dim(format_args!("              receipt {}", shown(&url))))?;
        }
        self.finish(name, promises, kind, transaction_id)
    }

    /// A step that looked at files only.
    pub(super) fn look(&mut self, name: &'static str, title: &str, promises: Vec<Promise>) -> Result<()> {
        self.heading(title)?;
        self.finish(name, promises, None, None)
    }

    pub(super) fn close(&self, folder: &Folder, ok: bool) -> Result<()> {
        let program = program();
        let trust = format!("--jwks {} --issuer {}", display(&folder.key_set()), display(&folder.pin()));
        self.line("")?;
        self.line(format!(
            "Receipts, key set and issuer pin are in {}",
            self.paint.bold(display(folder.path()))
        ))?;
        self.line("Verify them again, without gateway or bank:")?;
        self.line(format!("  {program} verify {} {trust}", display(&folder.receipts())))?;
        self.line(format!("  {program} verify {} {trust}", display(&folder.tampered())))?;
        self.line("")?;
        self.line(match ok {
            true => self.paint.good("Everything came out as said."),
            false => self.paint.bad("Not everything came out as said: see the steps marked ✗."),
        })
    }

    fn heading(&self, title: &str) -> Result<()> {
        self.line("")?;
        self.line(self.paint.bold(format_args!("{:>3}  {title}", self.steps.len() + 1)))
    }

    fn finish(
        &mut self,
        name: &'static str,
        promises: Vec<Promise>,
        kind: Option<String>,
        transaction_id: Option<String>,
    ) -> Result<()> {
        for promise in &promises {
            let text = shown(&promise.text);
            let line = if promise.kept {
                self.paint.good(format_args!("✓ {text}"))
            } else {
                self.paint.bad(format_args!("✗ {text}"))
            };
            self.line(format!("     {line}"))?;
            if !promise.kept && self.silent {
                out::note(format_args!("{name}: not so: {text}"));
            }
        }
        let ok = promises.iter().all(|promise| promise.kept);
        self.steps.push(Step { name, ok, kind, transaction_id });
        Ok(())
    }

    fn line(&self, text: impl std::fmt::Display) -> Result<()> {
        if self.silent { Ok(()) } else { out::line(text) }
    }
}

/// How this program was called, so that its commands can be copied.
fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_else(|| "countersign".into());
    display(Path::new(&called))
}

/// Quoted where a shell would need it.
fn display(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
