//! The site of the test: a folder with configuration, catalogue and policies as an operator would write them, one bank for
//! each mode in this process, and a gateway in a process of its own that is started again and again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use testkit::bank::{Bank, Injection};
use uuid::Uuid;

use super::bench::Bench;
use super::chance::Chance;
use super::mode::{CALLBACK_SECRET, Mode, POLICY, callback};
use crate::child::{Server, this_program};
use crate::crash;
use crate::error::{Context, Error, Result};
use crate::keys;

pub(super) struct Site {
    folder: TempDir,
    pub(super) banks: Arc<BTreeMap<Mode, Bank>>,
    /// Where the clients' own commands leave their effects.
    pub(super) bench: Arc<Bench>,
    pub(super) keys: Keys,
    token: String,
}

/// Who speaks to the gateway.
pub(super) struct Keys {
    pub(super) agent: String,
    pub(super) approver: String,
    pub(super) operator: String,
    pub(super) auditor: String,
    pub(super) admin: String,
}

/// Where a gateway is to die by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) point: &'static str,
    /// At which passage.
    pub(super) passage: u64,
}

impl Site {
    pub(super) async fn prepare() -> Result<Site> {
        let folder = tempfile::Builder::new().prefix("countersign-selftest-").tempdir();
        let folder = folder.while_we(|| "cannot make a temporary folder".to_owned())?;
        let token = Uuid::now_v7().simple().to_string();
        let mut banks = BTreeMap::new();
        for mode in Mode::ALL {
            let Some(options) = mode.bank(&token) else { continue };
            let bank = Bank::start(options).await;
            banks.insert(mode, bank.while_we(|| "cannot open a bank on a loopback port".to_owned())?);
        }
        write_files(folder.path(), &banks)?;
        let config = folder.path().join(CONFIG);
        let who = [
            (AGENT, "agent"),
            ("selftest-approver", "approver"),
            ("selftest-operator", "operator"),
            ("selftest-auditor", "auditor"),
            ("selftest-admin", "admin"),
        ];
        let made = tokio::task::block_in_place(|| keys::bootstrap(&config, &who))?;
        let made = <[String; 5]>::try_from(made).map_err(|_| Error::new("the keys were not made"))?;
        let [agent, approver, operator, auditor, admin] = made;
        let keys = Keys { agent, approver, operator, auditor, admin };
        Ok(Site { folder, banks: Arc::new(banks), bench: Arc::default(), keys, token })
    }

    /// Starts a gateway. `None`: it died where it was to, before it could listen.
    pub(super) fn serve(&self, death: Option<Death>) -> Result<Option<Server>> {
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        let log: File = log.while_we(|| "cannot keep the gateway's log".to_owned())?;
        let mut command = this_program()?;
        command.args(["serve", "--until-stdin-closes", "--config"]).arg(self.folder.path().join(CONFIG));
        command.env(TOKEN_VARIABLE, &self.token).env(CALLBACK_VARIABLE, CALLBACK_SECRET).stderr(log);
        if let Some(Death { point, passage }) = death {
            command.env(crash::VARIABLE, format!("{point}:{passage}"));
        }
        match Server::start("gateway", &mut command) {
            Ok(server) => {
                let gateway = format!("http://{}", server.address);
                self.banks.iter().for_each(|(mode, bank)| bank.call_back(callback(&gateway, *mode)));
                Ok(Some(server))
            }
            Err(_) if death.is_some() => Ok(None),
            Err(error) => Err(error.hint(format!("its log is `{}`", self.log().display()))),
        }
    }

    /// From now on this goes wrong at the banks: what is asked for first, then what is drawn for so many payments.
    pub(super) fn go_wrong(&self, chance: &mut Chance, first: Option<Injection>, payments: usize) {
        for (mode, bank) in self.banks.iter() {
            bank.clear_faults();
            first.iter().for_each(|it| bank.inject(it.clone()));
            mode.misdeliveries(chance, payments.div_ceil(8)).into_iter().for_each(|it| bank.misdeliver(it));
            mode.faults(chance, payments + ENOUGH).into_iter().for_each(|it| bank.inject(it));
        }
    }

    /// And from now on nothing does.
    pub(super) fn go_well(&self) {
        self.banks.values().for_each(Bank::clear_faults);
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("gateway.log")
    }

    /// Leaves the folder where it is, for whoever wants to know what happened.
    pub(super) fn keep(self) -> PathBuf {
        self.folder.keep()
    }
}

fn write_files(folder: &Path, banks: &BTreeMap<Mode, Bank>) -> Result<()> {
    let addresses: Vec<String> = banks.values().map(|bank| format!("\"{}\"", bank.address())).collect();
    let mut files = vec![
        (CONFIG.to_owned(), configuration(folder, &addresses.join(", "))),
        ("policies/default/selftest.cedar".to_owned(), POLICY.to_owned()),
    ];
    for mode in Mode::ALL {
        let name = format!("catalogue/default/{}.toml", mode.as_str());
        let text = match (mode, banks.get(&mode)) {
            (Mode::Runner, _) => mode.command_file(),
            (_, Some(bank)) => mode.file(&bank.address().to_string()),
            (_, None) => return Err(Error::new(format!("no bank was opened for `{}`", mode.as_str()))),
        };
        files.push((name, text));
    }
    for (name, text) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, text));
        written.while_we(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

/// Callers are let go soon, so that few of them wait on what is in doubt.
fn configuration(folder: &Path, banks: &str) -> String {
    format!(
        r#"listen = "127.0.0.1:0"
public_url = "{ISSUER}"
data_dir = '{0}/data'
catalogue_dir = '{0}/catalogue'
policy_dir = '{0}/policies'

[secrets.bank]
env = "{TOKEN_VARIABLE}"
hosts = [{banks}]

[secrets.bank-callbacks]
env = "{CALLBACK_VARIABLE}"

[egress]
allow = [{banks}]
plain_http = [{banks}]
challenge_hosts = ["pay.bank.example"]

[limits]
recovery_interval_ms = 50
patience_ms = 300
held_per_agent = 100000

[sandbox]
enabled = false
"#,
        folder.display()
    )
}

/// The name by which the gateway is known, whatever port it gets: mandates and receipts outlive a restart.
pub(super) const ISSUER: &str = "https://selftest.example";
/// Who asks.
pub(super) const AGENT: &str = "selftest-agent";
/// Requests beyond those that are planned for: what is open from before is sent or asked after again.
const ENOUGH: usize = 100;
const CONFIG: &str = "countersign.toml";
const TOKEN_VARIABLE: &str = "SELFTEST_BANK_TOKEN";
const CALLBACK_VARIABLE: &str = "SELFTEST_CALLBACK_SECRET";
