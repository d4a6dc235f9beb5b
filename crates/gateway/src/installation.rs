//! What one process runs: production, and the sandbox unless it is switched off, over one data directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use action::{Environment, Subject, Tenant};
use ledger::{Access, Ledger, Lock, Options, Postgres, Sealer, Sqlite};
use provider::mcp::Servers;
use provider::{Egress, Outside, Secrets, egress};
use tokio::task::JoinHandle;

use crate::admin::{CreatedKey, KeyAsk};
use crate::caller::Role;
use crate::config::{Config, MASTER};
use crate::events::Transmitter;
use crate::files;
use crate::gateway::{Doors, Gateway, Opening, listed};
use crate::keys::{Keys, open_private};
use crate::log::Witness;
use crate::notices::Destination;
use crate::outcome::Render;
use crate::tenants::{self, Rules};
use crate::tokens::TokenIssuer;
use crate::vault::Vault;
use crate::{Error, clock};

/// The gateways of one process, and the lock that makes it the only one on its data directory.
pub struct Installation {
    /// Where effects are real.
    pub production: Arc<Gateway>,
    /// Where they are not.
    pub sandbox: Option<Arc<Gateway>>,
    tasks: Vec<JoinHandle<()>>,
    _lock: Lock,
}

/// The API keys of an installation that is opened for nothing else.
pub struct Keyring<'a>(&'a Installation);

/// The tenant of callers without a key.
const SANDBOX_TENANT: &str = "sandbox";
/// In the data directory: the address that the last gateway was reached by.
const PUBLIC_URL: &str = "public-url";

impl Installation {
    /// Opens everything: store, keys, catalogue, policies, providers.
    ///
    /// # Errors
    /// What is wrong and where, for the operator.
    pub async fn open(config: Config, render: Render) -> Result<Installation, String> {
        Installation::open_for(config, render, false).await
    }

    /// The same for whoever recovers what was put back: keys of tenants that are lost with the store are no obstacle, and what
    /// stands in their place is in the store once the logs have begun anew.
    ///
    /// # Errors
    /// As [`Installation::open`].
    pub async fn open_to_recover(config: Config, render: Render) -> Result<Installation, String> {
        Installation::open_for(config, render, true).await
    }

    async fn open_for(config: Config, render: Render, to_recover: bool) -> Result<Installation, String> {
        let config = Arc::new(config);
        let mut tenants = tenants(&config)?;
        // All that the operator may have got wrong is read before anything is made.
        let production = Ground::read(&config, Environment::Production, &tenants)?;
        let sandbox = match config.sandbox.enabled {
            true => {
                tenants.push(Tenant::parse(SANDBOX_TENANT).map_err(|error| error.to_string())?);
                Some(Ground::read(&config, Environment::Sandbox, &tenants)?)
            }
            false => None,
        };
        let folder = config.data_dir.clone();
        files::data_folder(&folder)
            .map_err(|error| format!("cannot make `{}`: {error}", folder.display()))?;
        let lock = Lock::acquire(&folder).map_err(|error| format!("`{}`: {error}", folder.display()))?;
        let vault = Vault::new(&master(&config, &folder)?)?;
        let way = (render, to_recover);
        let production = open_one(&config, Environment::Production, way, &vault, production).await?;
        let sandbox = match sandbox {
            Some(ground) => Some(open_one(&config, Environment::Sandbox, way, &vault, ground).await?),
            None => None,
        };
        Ok(Installation { production, sandbox, tasks: Vec::new(), _lock: lock })
    }

    /// Begins to look after unsettled actions and to tell people of what happened.
    pub fn start(&mut self) {
        for gateway in std::iter::once(&self.production).chain(&self.sandbox) {
            self.tasks.push(gateway.look_after());
        }
    }

    /// Keeps the address that callers use, for whoever opens the data directory without the configuration: receipts name
    /// it as their issuer, and mandates as whom they are for.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn keep_public_url(&self) -> Result<(), String> {
        let path = self.production.config.data_dir.join(PUBLIC_URL);
        let cannot = |error| format!("cannot write `{}`: {error}", path.display());
        files::write_private(&path, self.production.public_url.as_bytes()).map_err(cannot)
    }

    /// The address that the last gateway on this data directory was reached by, if one ran there.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn kept_public_url(data_dir: &Path) -> Result<Option<String>, String> {
        let path = data_dir.join(PUBLIC_URL);
        match std::fs::read_to_string(&path) {
            Ok(url) => Ok(Some(url)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot read `{}`: {error}", path.display())),
        }
    }

    /// Tells the providers' client where we listen, so that nothing is sent to ourselves.
    pub fn listens_on(&self, address: std::net::SocketAddr) {
        for gateway in std::iter::once(&self.production).chain(&self.sandbox) {
            gateway.outside.egress.never_call(address);
        }
    }

    /// The first admin key of the first tenant, if there is no key yet.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` if the store cannot be asked.
    pub async fn first_key(&self) -> Result<Option<CreatedKey>, Error> {
        let tenant = &self.production.config.tenants;
        let tenant = tenant.first().and_then(|name| Tenant::parse(name).ok()).unwrap_or_default();
        let keys = self.production.ledger.keys(&tenant).await.map_err(crate::remember::unavailable)?;
        // Whoever takes the keys out of the store must not be given one.
        if !keys.is_empty() || self.production.unproven.has_keyed(&tenant) {
            return Ok(None);
        }
        let subject = Subject::parse("admin").map_err(|_| crate::row::internal("`admin` is no subject"))?;
        self.keyring().create(&tenant, subject, Role::Admin).await.map(Some)
    }

    /// Keys without a caller, for whoever holds the data directory.
    pub fn keyring(&self) -> Keyring<'_> {
        Keyring(self)
    }
}

impl Keyring<'_> {
    /// Makes a key.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` if the tenant is not served.
    pub async fn create(&self, tenant: &Tenant, subject: Subject, role: Role) -> Result<CreatedKey, Error> {
        let gateway = &self.0.production;
        let tenant = gateway.tenant(tenant)?;
        let ask = KeyAsk { tenant: None, subject, role, default_mandate: None };
        gateway.add_key(tenant, ask, "data directory").await
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Gateway {
    /// Who asks in the sandbox without a key.
    pub fn anonymous() -> crate::Caller {
        crate::Caller {
            tenant: Tenant::parse(SANDBOX_TENANT).unwrap_or_default(),
            subject: Subject::parse("anonymous").unwrap_or_else(|_| unreachable_subject()),
            role: Role::Agent,
            key_id: "none".to_owned(),
            key_issuer: None,
            default_mandate: None,
        }
    }
}

impl crate::Caller {
    /// Whether it came without a key: nobody else is of that tenant.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.tenant.as_str() == SANDBOX_TENANT
    }
}

#[expect(clippy::panic, reason = "`anonymous` follows the grammar of subjects, as a test shows")]
fn unreachable_subject() -> Subject {
    panic!("`anonymous` is a subject")
}

/// What a gateway stands on before it has a store: the way out, who is told of things, and each tenant's rules.
struct Ground {
    doors: Doors,
    destinations: Vec<Destination>,
    transmitters: Vec<Transmitter>,
    token_issuers: Vec<TokenIssuer>,
    witnesses: Vec<Witness>,
    rules: Vec<(Tenant, Rules)>,
}

impl Ground {
    fn read(config: &Config, environment: Environment, tenants: &[Tenant]) -> Result<Ground, String> {
        let doors = match environment {
            Environment::Production => doors(config, tenants)?,
            Environment::Sandbox => {
                let egress = Egress::new(egress::Rules::default());
                let secrets = Secrets::default();
                Doors { egress, secrets, runs: Arc::default(), servers: Arc::default() }
            }
        };
        let destinations = match environment {
            Environment::Production => Destination::all(config, tenants, doors.outside())?,
            Environment::Sandbox => Vec::new(),
        };
        let witnesses = match environment {
            Environment::Production => Witness::all(&config.log, &doors.egress)?,
            Environment::Sandbox => Vec::new(),
        };
        let rules = |tenant: &Tenant| {
            let rules = tenants::load(config, tenant, environment, &doors);
            rules.map(|rules| (tenant.clone(), rules)).map_err(|found| listed(&found))
        };
        let rules = tenants.iter().map(rules).collect::<Result<_, _>>()?;
        let transmitters = Transmitter::all(config, tenants)?;
        let token_issuers = match environment {
            Environment::Production => TokenIssuer::all(config, tenants, &doors.egress)?,
            // Callers of both are known in production.
            Environment::Sandbox => Vec::new(),
        };
        Ok(Ground { doors, destinations, transmitters, token_issuers, witnesses, rules })
    }
}

async fn open_one(
    config: &Arc<Config>,
    environment: Environment,
    (render, to_recover): (Render, bool),
    vault: &Vault,
    ground: Ground,
) -> Result<Arc<Gateway>, String> {
    let now_ms = clock::now_ms();
    let chain_id = clock::new_id(now_ms).map_err(|error| error.to_string())?.to_string();
    let file = config.data_dir.join(format!("{environment}.db"));
    let keys_folder = config.data_dir.join("keys").join(environment.as_str());
    let keys = Arc::new(Keys::open(&keys_folder, clock::now())?);
    let sealer: Arc<dyn Sealer> = keys.clone();
    let ledger = match &config.store {
        Some(store) => {
            let (queue, sealer) = (config.limits.queue, Some(sealer));
            let access = Access::new(store.url(), &chain_id, &chain_id, now_ms);
            let (schema, has_file) = (environment.as_str().into(), file.is_file());
            join(Access { schema, queue, sealer, has_file, ..access }).await?
        }
        None => {
            let options = Options {
                queue: config.limits.queue,
                sealer: Some(sealer),
                fail_points: config.fail_points.clone(),
                ..Options::new(&chain_id, now_ms)
            };
            open_ledger(file, options).await?
        }
    };
    let opening = Opening {
        config: Arc::clone(config),
        environment,
        render,
        vault,
        doors: ground.doors,
        destinations: ground.destinations,
        transmitters: ground.transmitters,
        token_issuers: ground.token_issuers,
        witnesses: ground.witnesses,
        ledger,
        chain_id,
        keys,
        keys_folder: &keys_folder,
        rules: ground.rules,
        to_recover,
    };
    Gateway::open(opening).await
}

/// Opening reads, recovers and writes, so it is done where blocking harms nobody.
async fn open_ledger(file: PathBuf, options: Options) -> Result<Arc<dyn Ledger>, String> {
    let open = move || {
        let ledger = Sqlite::open(&file, options);
        ledger.map_err(|error| format!("`{}`: {error}", file.display()))
    };
    let ledger = tokio::task::spawn_blocking(open).await.map_err(|error| error.to_string())??;
    Ok(Arc::new(ledger))
}

/// Takes part in the store of many.
async fn join(access: Access) -> Result<Arc<dyn Ledger>, String> {
    let opened = tokio::task::spawn_blocking(move || Postgres::open(access)).await;
    let ledger = opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok(Arc::new(ledger))
}

fn tenants(config: &Config) -> Result<Vec<Tenant>, String> {
    if config.tenants.iter().any(|name| name == SANDBOX_TENANT) {
        return Err(format!(
            "`tenants`: `{SANDBOX_TENANT}` is the tenant of callers without a key; choose another name"
        ));
    }
    let parse = |name: &String| Tenant::parse(name).map_err(|error| format!("`tenants`: `{name}`: {error}"));
    let mut tenants: Vec<Tenant> = config.tenants.iter().map(parse).collect::<Result<_, _>>()?;
    if tenants.is_empty() {
        return Err("`tenants` names none".to_owned());
    }
    tenants.sort();
    tenants.dedup();
    Ok(tenants)
}

/// The secret that wraps what the store keeps: the operator's own, or one made in the data directory.
fn master(config: &Config, folder: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let make = || {
        let bytes: [u8; 32] = clock::random().map_err(|error| error.to_string())?;
        Ok(zeroize::Zeroizing::new(hex::encode(bytes).into_bytes()))
    };
    let Some(secret) = config.secrets.get(MASTER) else {
        return open_private(&folder.join("keys").join("master.key"), make);
    };
    let secrets = Secrets::load([secret.declare(MASTER)?]).map_err(|errors| joined(&errors))?;
    let secret = secrets.get(MASTER).map_err(|error| error.to_string())?;
    Ok(zeroize::Zeroizing::new(secret.reveal_here().map_err(|error| error.to_string())?.as_bytes().to_vec()))
}

fn doors(config: &Config, tenants: &[Tenant]) -> Result<Doors, String> {
    let rules = egress::Rules::parse(&config.egress.allow, &config.egress.plain_http)
        .and_then(|rules| rules.and_challenges(&config.egress.challenge_hosts))
        .map_err(|error| format!("`egress`: {error}"))?;
    let secrets = Secrets::load(config.provider_secrets()?).map_err(|errors| joined(&errors))?;
    let egress = Egress::new(rules);
    let outside = Outside { egress: &egress, secrets: &secrets };
    let servers = Servers::new(config.mcp.declared(tenants)?, outside).map_err(|wrong| wrong.join("\n"))?;
    Ok(Doors { egress, secrets, runs: Arc::default(), servers: Arc::new(servers) })
}

fn joined(errors: &[provider::secrets::Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::outcome::{Outcome, Reply};

    fn render(_: &Outcome, _: &str) -> Reply {
        Reply { status: 200, body: Vec::new() }
    }

    #[tokio::test]
    async fn a_start_that_fails_on_a_catalogue_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (data, catalogue) = (folder.path().join("data"), folder.path().join("catalogue"));
        std::fs::create_dir_all(catalogue.join("default")).unwrap();
        std::fs::write(catalogue.join("default/pay.toml"), "nam = \"PAY\"\n").unwrap();
        let config =
            Config { data_dir: data.clone(), catalogue_dir: Some(catalogue.clone()), ..Config::default() };
        let why = Installation::open(config.clone(), render).await.err().unwrap();
        assert!(why.contains("pay.toml") && !data.exists(), "{why}");
        std::fs::remove_file(catalogue.join("default/pay.toml")).unwrap();
        drop(Installation::open(config, render).await.unwrap());
        assert!(data.join("keys").is_dir());
    }
}
