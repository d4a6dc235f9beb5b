//! An installation that no gateway runs on: opened under its exclusive lock, for what needs neither rules nor providers'
//! secrets.

use std::path::PathBuf;

use action::{Subject, Tenant};
use gateway::config::Store;
use gateway::{Caller, Config, Gateway, Installation, Role};
use tokio::runtime::{Builder, Runtime};

use crate::error::{Context, Error, Result};

/// Where an installation is.
#[derive(clap::Args, Default)]
pub(crate) struct Premises {
    /// No gateway runs: work on this data directory itself
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// No gateway runs: work on the data directory that this configuration names
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The store that many gateways share, `postgres://…`, if the configuration does not name it
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) store: Option<Store>,
}

impl Premises {
    /// Is anything said of it, so that no gateway is asked?
    pub(crate) fn are_named(&self) -> bool {
        self.data_dir.is_some() || self.config.is_some() || self.store.is_some()
    }

    /// The configuration, with what stands on the command line in it.
    pub(crate) fn configuration(&self) -> Result<Config> {
        let mut config = Config::read(self.config.as_deref()).map_err(Error::new)?;
        if let Some(data_dir) = &self.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        if let Some(store) = &self.store {
            config.store = Some(store.clone());
        }
        if config.public_url.is_none() {
            // What the last gateway signed as says more than a default made of an address nobody listens on.
            config.public_url = Installation::kept_public_url(&config.data_dir).map_err(Error::new)?;
        }
        Ok(config)
    }
}

/// A data directory, held.
pub(crate) struct Resting {
    installation: Box<Installation>,
    runtime: Runtime,
    tenant: Tenant,
}

impl Resting {
    pub(crate) fn open(premises: &Premises, sandbox: bool) -> Result<Resting> {
        let mut config = premises.configuration()?;
        (config.catalogue_dir, config.policy_dir) = (None, None);
        config.secrets.retain(|name, _| name == "master");
        config.mcp.servers.clear();
        config.alerts.clear();
        config.transmitters.clear();
        config.token_issuers.clear();
        config.log.witnesses.clear();
        config.sandbox.enabled = sandbox;
        let tenant = config.tenants.first().and_then(|name| Tenant::parse(name).ok()).unwrap_or_default();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.while_we(|| "cannot start".to_owned())?;
        let installation = runtime.block_on(Installation::open(config, server::render)).map_err(|why| {
            let held = why.contains(&ledger::Error::Locked.to_string());
            Error::new(why).maybe_hint(held.then_some(
                "a gateway runs on it: leave --data-dir, --config and --store out, and pass --url and a key",
            ))
        })?;
        Ok(Resting { installation: Box::new(installation), runtime, tenant })
    }

    pub(crate) fn production(&self) -> &Gateway {
        &self.installation.production
    }

    /// The same for whoever changes something.
    ///
    /// # Errors
    /// The store lacks what was signed of it.
    pub(crate) fn to_change(&self) -> Result<&Gateway> {
        let gateway = self.production();
        gateway
            .must_be_whole()
            .map_err(|refusal| Error::new(refusal.to_string()).maybe_hint(refusal.hint))?;
        Ok(gateway)
    }

    /// The sandbox, if it was opened with it.
    pub(crate) fn sandbox(&self) -> Option<&Gateway> {
        self.installation.sandbox.as_deref()
    }

    /// Does something as the administrator that whoever holds the data directory is; of the first tenant, unless
    /// another is named.
    pub(crate) fn as_admin<T>(
        &self,
        gateway: &Gateway,
        tenant: Option<&str>,
        deed: impl AsyncFnOnce(&Gateway, &Caller) -> std::result::Result<T, gateway::Error>,
    ) -> Result<T> {
        let parsed = tenant.map_or_else(|| Ok(self.tenant.clone()), Tenant::parse);
        let tenant = parsed.map_err(|why| Error::new("`--tenant` names no tenant").because(why))?;
        let subject =
            Subject::parse("data-directory").map_err(|why| Error::new("no subject").because(why))?;
        let caller = Caller {
            tenant,
            subject,
            role: Role::Admin,
            key_id: "data directory".to_owned(),
            key_issuer: None,
            default_mandate: None,
        };
        let done = self.runtime.block_on(deed(gateway, &caller));
        done.map_err(|refusal| Error::new(refusal.to_string()).maybe_hint(refusal.hint))
    }
}
