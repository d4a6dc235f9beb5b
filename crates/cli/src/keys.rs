//! `countersign keys`: who may call the gateway, and with what it signs.
//!
//! Clients of the running gateway; or, when none runs, at work on its data directory under the same exclusive lock.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use action::{Subject, Tenant};
use gateway::{Caller, Config, Gateway, Installation, KeyAsk, KeyView, Role, SigningKeyView};
use receipt::{Jwks, Pin, Timestamp};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::api::{Api, Client, encoded};
use crate::error::{Context, Error, Result};
use crate::out;

/// Manage API keys and signing keys
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
    /// No gateway runs: work on this data directory itself
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// No gateway runs: work on the data directory that this configuration names
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the keys that sign or signed receipts
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Sign with a new key from now on; receipts signed before still verify
    Rotate,
    /// Mark a signing key as known to others since a time, and replace it if it is in use
    Compromise {
        /// The key's id
        #[arg(value_name = "KID")]
        kid: String,
        /// Since when, such as 2026-05-01T09:30:00Z; better too early than too late
        #[arg(long, value_name = "TIME", value_parser = moment)]
        at: Timestamp,
    },
    /// Print what verifiers pass to `verify --issuer`: the digest of the present key set
    Pin {
        /// Pin the issuer's name too, and print the form of a pin file
        #[arg(long, value_name = "URL")]
        name: Option<String>,
    },
    /// Manage the keys with which people and agents call the gateway
    Api {
        #[command(subcommand)]
        command: ApiCommand,
    },
}

#[derive(clap::Subcommand)]
enum ApiCommand {
    /// Make a key and print it, once
    Create {
        /// Whom it speaks for: an agent's or a person's id
        #[arg(long, value_name = "ID")]
        subject: String,
        /// What it may do
        #[arg(long, value_parser = ["agent", "approver", "operator", "auditor", "admin"])]
        role: String,
        /// Whose it is; without it, the caller's own tenant
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// The mandate (its `jti`) used when a request brings none
        #[arg(long, value_name = "JTI")]
        default_mandate: Option<String>,
    },
    /// List keys, without their secrets
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a key useless at once
    Revoke {
        /// The key's id
        #[arg(value_name = "ID", allow_hyphen_values = true)]
        id: String,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let keeper = Keeper::of(args)?;
    match &args.command {
        Command::List { json } => show_signing(&keeper.signing()?, *json)?,
        Command::Rotate => show_signing(&[keeper.rotate()?], false)?,
        Command::Compromise { kid, at } => show_signing(&[keeper.compromise(kid, *at)?], false)?,
        Command::Pin { name } => pin(&keeper, name.as_deref())?,
        Command::Api { command: ApiCommand::Create { subject, role, tenant, default_mandate } } => {
            let made = keeper.create(subject, role, tenant.as_deref(), default_mandate.as_deref())?;
            out::note(format_args!("This key is shown once; only its hash is kept."));
            out::line(made["secret"].as_str().unwrap_or_default())?;
        }
        Command::Api { command: ApiCommand::List { json } } => show_api(&keeper.api_keys()?, *json)?,
        Command::Api { command: ApiCommand::Revoke { id } } => show_api(&[keeper.revoke(id)?], false)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the first API keys of an installation that does not run yet; returns their secrets in the same order.
///
/// # Errors
/// The installation cannot be opened.
pub(crate) fn bootstrap(config: &Path, who: &[(&str, &str)]) -> Result<Vec<String>> {
    let keeper = Keeper::open(Some(config), None)?;
    let secret = |made: Value| made["secret"].as_str().unwrap_or_default().to_owned();
    who.iter().map(|(subject, role)| keeper.create(subject, role, None, None).map(secret)).collect()
}

/// Whoever holds the keys: a running gateway, or its data directory.
enum Keeper {
    Running(Client),
    Resting { installation: Box<Installation>, runtime: Runtime, tenant: Tenant },
}

impl Keeper {
    fn of(args: &Args) -> Result<Keeper> {
        match (&args.config, &args.data_dir) {
            (None, None) if matches!(args.command, Command::Pin { .. }) => {
                args.api.anyone().map(Keeper::Running)
            }
            (None, None) => args.api.client().map(Keeper::Running),
            (config, data_dir) => Keeper::open(config.as_deref(), data_dir.as_deref()),
        }
    }

    /// Opens a data directory for its keys alone: neither rules nor secrets of those outside are needed for them.
    fn open(config: Option<&Path>, data_dir: Option<&Path>) -> Result<Keeper> {
        let mut config = Config::read(config).map_err(Error::new)?;
        if let Some(data_dir) = data_dir {
            config.data_dir = data_dir.to_owned();
        }
        (config.catalogue_dir, config.policy_dir) = (None, None);
        config.secrets.retain(|name, _| name == "master");
        config.alerts.clear();
        config.sandbox.enabled = false;
        let tenant = config.tenants.first().and_then(|name| Tenant::parse(name).ok()).unwrap_or_default();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.while_we(|| "cannot start".to_owned())?;
        let installation = runtime.block_on(Installation::open(config, server::render)).map_err(|why| {
            let held = why.contains(&ledger::Error::Locked.to_string());
            Error::new(why).maybe_hint(held.then_some(
                "a gateway runs on it: leave --data-dir and --config out, and pass --url and a key",
            ))
        })?;
        Ok(Keeper::Resting { installation: Box::new(installation), runtime, tenant })
    }

    fn signing(&self) -> Result<Vec<Value>> {
        match self {
            Keeper::Running(client) => client.list("/v1/signing-keys"),
            Keeper::Resting { .. } => {
                let keys = self.locally(
                    async |gateway: &Gateway, caller: &Caller| gateway.signing_keys(caller).await,
                    None,
                )?;
                Ok(keys.iter().map(signing_key).collect())
            }
        }
    }

    fn rotate(&self) -> Result<Value> {
        match self {
            Keeper::Running(client) => client.post("/v1/signing-keys/rotate", &json!({})),
            Keeper::Resting { .. } => {
                let key = self.locally(
                    async |gateway: &Gateway, caller: &Caller| gateway.rotate_signing_key(caller).await,
                    None,
                )?;
                Ok(signing_key(&key))
            }
        }
    }

    fn compromise(&self, kid: &str, at: Timestamp) -> Result<Value> {
        match self {
            Keeper::Running(client) => client
                .post(&format!("/v1/signing-keys/{}/compromise", encoded(kid)), &json!({"at": at.as_str()})),
            Keeper::Resting { .. } => {
                let mark = async |gateway: &Gateway, caller: &Caller| {
                    gateway.compromise_signing_key(caller, kid, at.as_str().to_owned()).await
                };
                Ok(signing_key(&self.locally(mark, None)?))
            }
        }
    }

    fn key_set(&self) -> Result<Vec<u8>> {
        match self {
            Keeper::Running(client) => Ok(client.get("/.well-known/jwks.json")?.to_string().into_bytes()),
            Keeper::Resting { installation, .. } => Ok(installation.production.jwks().as_bytes().to_vec()),
        }
    }

    fn create(
        &self,
        subject: &str,
        role: &str,
        tenant: Option<&str>,
        default_mandate: Option<&str>,
    ) -> Result<Value> {
        match self {
            Keeper::Running(client) => {
                let mut body = json!({"subject": subject, "role": role});
                for (name, value) in [("tenant", tenant), ("default_mandate", default_mandate)] {
                    if let Some(value) = value {
                        body[name] = value.into();
                    }
                }
                client.post("/v1/keys", &body)
            }
            Keeper::Resting { .. } => {
                let ask = KeyAsk {
                    tenant: None,
                    subject: Subject::parse(subject)
                        .map_err(|why| Error::new(format!("`--subject {subject}`")).because(why))?,
                    role: Role::parse(role)
                        .ok_or_else(|| Error::new(format!("there is no role `{role}`")))?,
                    default_mandate: default_mandate.map(str::to_owned),
                };
                let made = self.locally(
                    async |gateway: &Gateway, caller: &Caller| gateway.create_key(caller, ask).await,
                    tenant,
                )?;
                Ok(json!({"secret": made.secret, "key": api_key(&made.key)}))
            }
        }
    }

    fn api_keys(&self) -> Result<Vec<Value>> {
        match self {
            Keeper::Running(client) => client.list("/v1/keys"),
            Keeper::Resting { .. } => {
                let keys = self
                    .locally(async |gateway: &Gateway, caller: &Caller| gateway.keys(caller).await, None)?;
                Ok(keys.iter().map(api_key).collect())
            }
        }
    }

    fn revoke(&self, id: &str) -> Result<Value> {
        match self {
            Keeper::Running(client) => client.post(&format!("/v1/keys/{}/revoke", encoded(id)), &json!({})),
            Keeper::Resting { .. } => {
                let key = self.locally(
                    async |gateway: &Gateway, caller: &Caller| gateway.revoke_key(caller, id).await,
                    None,
                )?;
                Ok(api_key(&key))
            }
        }
    }

    /// Does something as the administrator that whoever holds the data directory is.
    fn locally<T>(
        &self,
        deed: impl AsyncFnOnce(&Gateway, &Caller) -> std::result::Result<T, gateway::Error>,
        tenant: Option<&str>,
    ) -> Result<T> {
        let Keeper::Resting { installation, runtime, tenant: first } = self else {
            return Err(Error::new("a gateway runs; ask it instead"));
        };
        let parsed = tenant.map_or_else(|| Ok(first.clone()), Tenant::parse);
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
        let done = runtime.block_on(deed(&installation.production, &caller));
        done.map_err(|refusal| Error::new(refusal.to_string()).maybe_hint(refusal.hint))
    }
}

fn pin(keeper: &Keeper, name: Option<&str>) -> Result<()> {
    let jwks =
        Jwks::parse(&keeper.key_set()?).while_we(|| "the gateway's key set cannot be read".to_owned())?;
    match name {
        Some(name) => out::line(Pin::new(name, &jwks).to_text()),
        None => out::line(jwks.digest()),
    }
}

fn show_signing(keys: &[Value], json: bool) -> Result<()> {
    if json {
        return out::json(&Value::from(keys.to_vec()));
    }
    let rows: Vec<_> = keys.iter().map(|key| SIGNING.map(|member| cell(&key[member]))).collect();
    out::table(["key", "status", "active from", "through", "compromised at"], &rows)
}

fn show_api(keys: &[Value], json: bool) -> Result<()> {
    if json {
        return out::json(&Value::from(keys.to_vec()));
    }
    let rows: Vec<_> = keys.iter().map(|key| API.map(|member| cell(&key[member]))).collect();
    out::table(["key", "tenant", "subject", "role", "default mandate", "made", "revoked"], &rows)
}

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| "–".to_owned(), out::shown)
}

fn signing_key(key: &SigningKeyView) -> Value {
    json!({
        "kid": key.kid,
        "status": key.status,
        "active_from": key.active_from,
        "active_through": key.active_through,
        "compromised_at": key.compromised_at,
    })
}

fn api_key(key: &KeyView) -> Value {
    json!({
        "id": key.id,
        "tenant": key.tenant,
        "subject": key.subject,
        "role": key.role.as_str(),
        "default_mandate": key.default_mandate,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    })
}

/// A moment with any number of fraction digits and any offset.
fn moment(text: &str) -> std::result::Result<Timestamp, String> {
    let moment: jiff::Timestamp =
        text.parse().map_err(|_| format!("`{text}` is not a time such as 2026-05-01T09:30:00Z"))?;
    let millis = u64::try_from(moment.as_millisecond()).map_err(|_| format!("`{text}` is before 1970"))?;
    Ok(Timestamp::from_unix_millis(millis))
}

const SIGNING: [&str; 5] = ["kid", "status", "active_from", "active_through", "compromised_at"];
const API: [&str; 7] = ["id", "tenant", "subject", "role", "default_mandate", "created_at", "revoked_at"];
