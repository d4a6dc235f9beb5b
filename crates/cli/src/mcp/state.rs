//! Where a gateway around one server keeps what it needs.
//!
//! ```text
//!   STATE/NAME/countersign.toml, catalogue/, policies/     shared by all that are started around this server
//!   STATE/NAME/1/, 2/, …                                   each held by one process: store, keys, address
//! ```
//!
//! Clients start the same server more than once, for each window or each try. So whoever finds a numbered folder held takes the
//! next one: what an operator says of tools holds for all, and no two gateways share a store.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ledger::Lock;
use serde_json::Value;

use super::files::Files;
use crate::error::{Context, Error, Result};

/// A numbered folder, held.
pub(super) struct Held {
    pub(super) folder: PathBuf,
    _lock: Lock,
}

/// The mandate that the agent acts under.
pub(super) struct Mandate {
    pub(super) id: String,
    /// For whom it is: the issuer of receipts.
    pub(super) issuer: String,
    pub(super) agent: String,
    /// Unix seconds.
    pub(super) until: i64,
}

/// So many may run at once.
const MOST: u32 = 16;

/// The folder of a server, unless another one is named.
pub(super) fn folder(name: &str) -> Result<PathBuf> {
    let dir =
        |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = dir("XDG_STATE_HOME").or_else(|| dir("HOME").map(|home| home.join(".local/state")));
    let state = state.ok_or_else(|| {
        Error::new("there is no place to keep anything: HOME is not set").hint("--data-dir names a directory")
    })?;
    Ok(state.join("countersign/mcp").join(name))
}

/// Of all processes that are started around one server this one is alone as long as this is held: what is not there yet is looked
/// for and written by one after the other.
pub(super) fn alone(dir: &Path) -> Result<std::fs::File> {
    let path = dir.join("alone");
    let cannot = || format!("cannot hold `{}`", path.display());
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path).while_we(cannot)?;
    file.lock().while_we(cannot)?;
    Ok(file)
}

impl Held {
    /// The first folder that nobody holds.
    pub(super) fn first_free(dir: &Path) -> Result<Held> {
        for number in 1..=MOST {
            let folder = dir.join(number.to_string());
            // With the folder all would be lost that is kept in it, however durable that is by itself.
            gateway::private_folder(&folder).while_we(|| format!("cannot make `{}`", folder.display()))?;
            match Lock::acquire(&folder) {
                Ok(lock) => return Ok(Held { folder, _lock: lock }),
                Err(ledger::Error::Locked) => {}
                Err(error) => return Err(Error::new(error.to_string())),
            }
        }
        Err(Error::new(format!("{MOST} gateways run in `{}` already", dir.display()))
            .hint("end some of their clients, or name another directory with --data-dir"))
    }

    /// Where to listen, and whether that is where it always was: the issuer of receipts stays the same.
    pub(super) fn addresses(&self) -> Result<(Vec<SocketAddr>, bool)> {
        if let Some(kept) = self.read("address")? {
            let address = kept.trim().parse();
            let address = address
                .while_we(|| format!("`{}` holds no address", self.folder.join("address").display()))?;
            return Ok((vec![address], true));
        }
        // Below what the system gives out by itself, so that the place is likely to be free the next time, too.
        let mut hasher = DefaultHasher::new();
        // Wherever it was named from: two of one name in different places would be after the same addresses.
        self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone()).hash(&mut hasher);
        let first = hasher.finish() % u64::from(PORTS);
        let port = |at: u64| FIRST_PORT + u16::try_from((first + at) % u64::from(PORTS)).unwrap_or_default();
        Ok(((0..MOST_TRIED).map(|at| SocketAddr::from((Ipv4Addr::LOCALHOST, port(at)))).collect(), false))
    }

    pub(super) fn keep_address(&self, address: SocketAddr) -> Result<()> {
        self.write("address", &format!("{address}\n"))
    }

    pub(super) fn mandate(&self) -> Result<Option<Mandate>> {
        let Some(text) = self.read("mandate.json")? else { return Ok(None) };
        let kept: Value = serde_json::from_str(&text).unwrap_or_default();
        let text = |name: &str| kept[name].as_str().map(str::to_owned);
        let read = || {
            Some(Mandate {
                id: text("id")?,
                issuer: text("issuer")?,
                agent: text("agent")?,
                until: kept["until"].as_i64()?,
            })
        };
        Ok(read())
    }

    pub(super) fn keep_mandate(&self, mandate: &Mandate) -> Result<()> {
        let Mandate { id, issuer, agent, until } = mandate;
        let kept = serde_json::json!({ "id": id, "issuer": issuer, "agent": agent, "until": until });
        self.write("mandate.json", &format!("{kept}\n"))
    }

    /// A key that a person uses, in a file that only they can read.
    pub(super) fn key_file(&self, role: &str) -> PathBuf {
        self.folder.join(format!("{role}.key"))
    }

    pub(super) fn keep_key(&self, role: &str, secret: &str) -> Result<()> {
        self.write(&format!("{role}.key"), &format!("{secret}\n"))
    }

    fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.folder.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).while_we(|| format!("cannot read `{}`", path.display())),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Files::new(true, false).overwrite_private(&self.folder.join(name), text)
    }
}

const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;
const MOST_TRIED: u64 = 50;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn each_process_has_a_folder_of_its_own_and_keeps_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Held::first_free(dir.path()).unwrap(), Held::first_free(dir.path()).unwrap());
        assert_eq!(
            (one.folder.file_name(), two.folder.file_name()),
            (Some("1".as_ref()), Some("2".as_ref()))
        );
        let (tried, kept) = one.addresses().unwrap();
        assert!(!kept && tried.len() > 1 && tried != two.addresses().unwrap().0);
        one.keep_address(tried[3]).unwrap();
        drop(one);
        let again = Held::first_free(dir.path()).unwrap();
        assert_eq!(again.addresses().unwrap(), (vec![tried[3]], true));
    }

    /// The child of the test below.
    #[test]
    fn child() {
        let Some(dir) = std::env::var_os("STATE_CHILD") else { return };
        Held::first_free(Path::new(&dir)).unwrap();
    }

    #[test]
    fn every_folder_on_the_way_to_what_is_kept_is_synced_once_one_was_made_in_it() {
        let tried = Command::new("strace").args(["-qqq", "-o", "/dev/null", "true"]).output();
        if !tried.is_ok_and(|it| it.status.success()) {
            return testkit::skip("strace does not work here");
        }
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        let trace = at.join("trace");
        let traced = Command::new("strace")
            .args(["-f", "-qqq", "-y", "-e", "trace=fsync", "-o"])
            .args([&trace, &std::env::current_exe().unwrap()])
            .args(["--exact", "mcp::state::tests::child"])
            .env("STATE_CHILD", at.join("mcp/git"))
            .output()
            .unwrap();
        assert!(traced.status.success(), "{traced:?}");
        let trace = std::fs::read_to_string(trace).unwrap();
        for synced in ["", "/mcp", "/mcp/git"] {
            let synced = format!("<{}{synced}>", at.display());
            assert!(trace.contains(&synced), "{synced} was not synced: {trace}");
        }
    }

    #[test]
    fn a_mandate_is_kept_for_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let held = Held::first_free(dir.path()).unwrap();
        assert!(held.mandate().unwrap().is_none());
        held.keep_mandate(&Mandate { id: "mnd_1".into(), issuer: "i".into(), agent: "a".into(), until: 7 })
            .unwrap();
        let kept = held.mandate().unwrap().unwrap();
        assert_eq!(
            (kept.id.as_str(), kept.issuer.as_str(), kept.agent.as_str(), kept.until),
            ("mnd_1", "i", "a", 7)
        );
    }
}
