//! `countersign keys`: who may call the gateway, and with what it signs.
//!
//! Clients of the running gateway; or, when none runs, at work on its data directory under the same exclusive lock.

use std::path::Path;
use std::process::ExitCode;

use action::Subject;
use gateway::{Caller, Gateway, KeyAsk, KeyView, Role, SigningKeyView};
use receipt::log::Verifier;
use receipt::{Jwks, Pin, Timestamp};
use serde_json::{Value, json};

use crate::api::{Api, Client, encoded};
use crate::error::{Context, Error, Result};
use crate::out;
use crate::resting::{Premises, Resting};

/// Manage API keys and signing keys
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
    #[command(flatten)]
    premises: Premises,
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
        #[arg(value_name = "KID", allow_hyphen_values = true)]
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
        /// Pin the transparency log of the caller's tenant too, so that proofs of inclusion are believed
        #[arg(long, requires = "name")]
        log: bool,
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
        Command::Pin { name, log } => pin(&keeper, name.as_deref(), *log)?,
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
    let keeper = Keeper::open(&Premises { config: Some(config.to_owned()), ..Premises::default() })?;
    let secret = |made: Value| made["secret"].as_str().unwrap_or_default().to_owned();
    who.iter().map(|(subject, role)| keeper.create(subject, role, None, None).map(secret)).collect()
}

/// Whoever holds the keys: a running gateway, or its data directory.
enum Keeper {
    Running(Client),
    Resting(Resting),
}

impl Keeper {
    fn of(args: &Args) -> Result<Keeper> {
        match args.command {
            _ if args.premises.are_named() => Keeper::open(&args.premises),
            Command::Pin { log: false, .. } => args.api.anyone().map(Keeper::Running),
            Command::Api { .. } => {
                let why = "API keys are of production and sandbox together";
                args.api.client_outside_sandbox(why).map(Keeper::Running)
            }
            _ => args.api.client().map(Keeper::Running),
        }
    }

    fn open(premises: &Premises) -> Result<Keeper> {
        Resting::open(premises, false).map(Keeper::Resting)
    }

    fn signing(&self) -> Result<Vec<Value>> {
        match self {
            Keeper::Running(client) => client.list("/v1/signing-keys"),
            Keeper::Resting(resting) => {
                let keys = resting.as_admin(
                    resting.production(),
                    None,
                    async |gateway: &Gateway, caller: &Caller| gateway.signing_keys(caller).await,
                )?;
                Ok(keys.iter().map(signing_key).collect())
            }
        }
    }

    fn rotate(&self) -> Result<Value> {
        match self {
            Keeper::Running(client) => client.post("/v1/signing-keys/rotate", &json!({})),
            Keeper::Resting(resting) => {
                let key = resting.as_admin(
                    resting.to_change()?,
                    None,
                    async |gateway: &Gateway, caller: &Caller| gateway.rotate_signing_key(caller).await,
                )?;
                Ok(signing_key(&key))
            }
        }
    }

    fn compromise(&self, kid: &str, at: Timestamp) -> Result<Value> {
        match self {
            Keeper::Running(client) => client
                .post(&format!("/v1/signing-keys/{}/compromise", encoded(kid)), &json!({"at": at.as_str()})),
            Keeper::Resting(resting) => {
                let mark = async |gateway: &Gateway, caller: &Caller| {
                    gateway.compromise_signing_key(caller, kid, at.as_str().to_owned()).await
                };
                Ok(signing_key(&resting.as_admin(resting.to_change()?, None, mark)?))
            }
        }
    }

    fn key_set(&self) -> Result<Vec<u8>> {
        match self {
            Keeper::Running(client) => Ok(client.get("/.well-known/jwks.json")?.to_string().into_bytes()),
            Keeper::Resting(resting) => Ok(resting.production().jwks().as_bytes().to_vec()),
        }
    }

    /// What its receipts name as their issuer; nothing, where a gateway does not say it.
    fn issuer(&self) -> Option<String> {
        match self {
            Keeper::Running(client) => {
                let said = client.get("/.well-known/authzen-configuration").ok()?;
                said["policy_decision_point"].as_str().map(str::to_owned)
            }
            Keeper::Resting(resting) => Some(resting.production().issuer().to_owned()),
        }
    }

    fn log_key(&self) -> Result<Verifier> {
        let key = match self {
            Keeper::Running(client) => client.get("/v1/log")?["key"].as_str().unwrap_or_default().to_owned(),
            Keeper::Resting(resting) => {
                let key = async |gateway: &Gateway, caller: &Caller| gateway.log_key(caller);
                resting.as_admin(resting.production(), None, key)?
            }
        };
        key.parse().while_we(|| "the gateway's log key cannot be read".to_owned())
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
            Keeper::Resting(resting) => {
                let ask = KeyAsk {
                    tenant: None,
                    subject: Subject::parse(subject)
                        .map_err(|why| Error::new(format!("`--subject {subject}`")).because(why))?,
                    role: Role::parse(role)
                        .ok_or_else(|| Error::new(format!("there is no role `{role}`")))?,
                    default_mandate: default_mandate.map(str::to_owned),
                };
                let made = resting.as_admin(
                    resting.to_change()?,
                    tenant,
                    async |gateway: &Gateway, caller: &Caller| gateway.create_key(caller, ask).await,
                )?;
                Ok(json!({"secret": made.secret, "key": api_key(&made.key)}))
            }
        }
    }

    fn api_keys(&self) -> Result<Vec<Value>> {
        match self {
            Keeper::Running(client) => client.list("/v1/keys"),
            Keeper::Resting(resting) => {
                let keys = resting.as_admin(
                    resting.production(),
                    None,
                    async |gateway: &Gateway, caller: &Caller| gateway.keys(caller).await,
                )?;
                Ok(keys.iter().map(api_key).collect())
            }
        }
    }

    fn revoke(&self, id: &str) -> Result<Value> {
        match self {
            Keeper::Running(client) => client.post(&format!("/v1/keys/{}/revoke", encoded(id)), &json!({})),
            Keeper::Resting(resting) => {
                let key = resting.as_admin(
                    resting.to_change()?,
                    None,
                    async |gateway: &Gateway, caller: &Caller| gateway.revoke_key(caller, id).await,
                )?;
                Ok(api_key(&key))
            }
        }
    }
}

fn pin(keeper: &Keeper, name: Option<&str>, log: bool) -> Result<()> {
    let jwks =
        Jwks::parse(&keeper.key_set()?).while_we(|| "the gateway's key set cannot be read".to_owned())?;
    match name {
        Some(name) => {
            warn_of_another(keeper, name);
            let pin = Pin::new(name, &jwks);
            let pin = if log { pin.and_log(keeper.log_key()?) } else { pin };
            out::line(pin.to_text())
        }
        None => out::line(jwks.digest()),
    }
}

/// A pin of these keys under another gateway's name fits no receipt of either. It may be meant all the same: of receipts from
/// before a gateway was given another name.
fn warn_of_another(keeper: &Keeper, name: &str) {
    let Some(issuer) = keeper.issuer().filter(|issuer| issuer != name) else { return };
    out::note(format_args!(
        "Warning: these are the keys of `{}`, and the pin names `{}`. Unless that was its name before, pass --name {0}, or name the \
         gateway that is meant with --url.",
        out::shown(&issuer),
        out::shown(name)
    ));
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
    let millis = action::time::unix_millis(text)
        .map_err(|why| format!("`{text}` {why}; write it like 2026-05-01T09:30:00Z"))?;
    let millis = u64::try_from(millis).map_err(|_| format!("`{text}` is before 1970"))?;
    Ok(Timestamp::from_unix_millis(millis))
}

const SIGNING: [&str; 5] = ["kid", "status", "active_from", "active_through", "compromised_at"];
const API: [&str; 7] = ["id", "tenant", "subject", "role", "default_mandate", "created_at", "revoked_at"];
