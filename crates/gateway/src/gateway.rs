//! The gateway of one environment: its parts, and how they are put together.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use action::{ActionId, Environment, Mistake, Subject, Tenant};
use ledger::{Filter, Ledger};
use provider::mcp::Servers;
use provider::{Beside, Egress, Outside, Runs, Secrets};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::admin::{Hidden, keep_rules};
use crate::approvals::{Challenges, Questions};
use crate::audit::authority::{EVENTS, Unproven, lost_freezes};
use crate::authority::Authority;
use crate::buckets::{Buckets, Lack};
use crate::caller::Caller;
use crate::config::Config;
use crate::events::Transmitter;
use crate::held_reads::HeldReads;
use crate::keys::Keys;
use crate::log::{Folders, Gap, Known, Logs, Witness};
use crate::mcp::Alike;
use crate::metrics::Metrics;
use crate::notices::Destination;
use crate::outcome::Render;
use crate::quarantine::AllNoted;
use crate::remember::unavailable;
use crate::sessions::Declarations;
use crate::tenants::{Rules, TenantState};
use crate::tokens::TokenIssuer;
use crate::vault::Vault;
use crate::{Code, Error, clock};

/// One environment's gateway: it decides, acts, proves and remembers.
pub struct Gateway {
    pub(crate) environment: Environment,
    pub(crate) issuer: String,
    pub(crate) public_url: String,
    pub(crate) replica_id: String,
    pub(crate) chain_id: String,
    /// When this process began, Unix milliseconds.
    pub(crate) began_ms: i64,
    pub(crate) config: Arc<Config>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) logs: Logs,
    /// What the store lacks of what was signed of it.
    pub(crate) behind: RwLock<Vec<Gap>>,
    /// Whose logs have leaves of which nothing says how many were signed, and no witness was heard that might.
    pub(crate) unheard: RwLock<HashSet<Tenant>>,
    /// Keys of tenants whose own are lost, wrapped: lent until the store is recovered, and in no store before.
    pub(crate) lent: Vec<(Tenant, Vec<u8>)>,
    pub(crate) authority: Authority,
    /// What is stored and gives nobody any right.
    pub(crate) unproven: Unproven,
    pub(crate) tenants: HashMap<Tenant, Arc<TenantState>>,
    pub(crate) outside: Doors,
    /// Who is told of what happens.
    pub(crate) destinations: Vec<Destination>,
    /// Who may tell of revocations.
    pub(crate) transmitters: Vec<Transmitter>,
    /// Whose access tokens are taken.
    pub(crate) token_issuers: Vec<TokenIssuer>,
    /// Who cosigns the logs.
    pub(crate) witnesses: Vec<Witness>,
    pub(crate) render: Render,
    pub(crate) limits: Rates,
    pub(crate) metrics: Metrics,
    /// Requests that are being judged or carried out.
    pub(crate) places_taken: AtomicUsize,
    /// Actions that a task of this process looks after.
    pub(crate) under_way: Mutex<HashSet<ActionId>>,
    /// Governed sessions that a task of this process brings to their end.
    pub(crate) ending: Mutex<HashSet<Box<str>>>,
    /// What was withheld without a reason, or is not on record, and stands in the chain since this process began.
    pub(crate) hidden: Mutex<HashSet<Hidden>>,
    /// Which tools stand in the chain as quarantined, as far as this process has seen it.
    pub(crate) quarantined: Mutex<AllNoted>,
    /// Places for requests that are judged and admitted, and for actions that are proven and settled.
    pub(crate) judging: Semaphore,
    pub(crate) concluding: Semaphore,
    /// What passkeys are asked to sign.
    pub(crate) challenges: Challenges,
    pub(crate) questions: Questions,
    /// Declarations that sessions stand on.
    pub(crate) declarations: Declarations,
    /// Outcomes of calls that are alike which were delivered, until that is on record.
    pub(crate) deliveries: Mutex<HashMap<Alike, u64>>,
    pub(crate) held_reads: HeldReads,
    /// When an action in doubt is to be asked after next.
    pub(crate) inquiries: Mutex<HashMap<ActionId, Inquiry>>,
}

/// As many of each are under hand at once: enough for commits that are worth their fsync, and each takes up to 50 KiB.
const AT_ONCE: usize = 128;

/// How often a change of a budget is judged anew because others changed meanwhile what it was judged by.
pub(crate) const MOST_TRIES: u32 = 20;

/// How often an action was asked after, and when it will be again.
#[derive(Clone, Copy)]
pub(crate) struct Inquiry {
    pub tries: u32,
    pub next: Instant,
}

/// The way out and what may be taken along.
pub(crate) struct Doors {
    pub egress: Egress,
    pub secrets: Secrets,
    /// What callers carry out themselves.
    pub runs: Arc<Runs>,
    /// Servers of the Model Context Protocol.
    pub servers: Arc<Servers>,
}

impl Doors {
    pub(crate) fn outside(&self) -> Outside<'_> {
        Outside { egress: &self.egress, secrets: &self.secrets }
    }

    pub(crate) fn beside<'a>(&'a self, tenant: &'a Tenant) -> Beside<'a> {
        Beside { runs: &self.runs, servers: &self.servers, tenant }
    }
}

/// Who may ask how often.
pub(crate) struct Rates {
    tenant: Buckets<Tenant>,
    subject: Buckets<(Tenant, Subject)>,
    archetype: Buckets<(Tenant, Arc<str>)>,
    anonymous: Buckets<()>,
}

/// What an environment needs to open.
pub(crate) struct Opening<'a> {
    pub config: Arc<Config>,
    pub environment: Environment,
    pub render: Render,
    pub vault: &'a Vault,
    pub doors: Doors,
    pub destinations: Vec<Destination>,
    pub transmitters: Vec<Transmitter>,
    pub token_issuers: Vec<TokenIssuer>,
    pub witnesses: Vec<Witness>,
    pub ledger: Arc<dyn Ledger>,
    pub chain_id: String,
    pub keys: Arc<Keys>,
    pub keys_folder: &'a Path,
    /// The tenants served and what they are judged by, read and checked.
    pub rules: Vec<(Tenant, Rules)>,
    /// Is it opened to be recovered, and for nothing else?
    pub to_recover: bool,
}

impl Gateway {
    pub(crate) async fn open(opening: Opening<'_>) -> Result<Arc<Gateway>, String> {
        let Opening {
            config,
            environment,
            render,
            vault,
            doors,
            destinations,
            transmitters,
            token_issuers,
            witnesses,
            ledger,
            chain_id,
            keys,
            keys_folder,
            rules,
            to_recover,
        } = opening;
        let public_url = config.public_url();
        let issuer = match environment {
            Environment::Production => public_url.clone(),
            Environment::Sandbox => format!("{public_url}/sandbox"),
        };
        TokenIssuer::must_be_apart(&token_issuers, ledger.as_ref()).await?;
        let authority = Authority::open(keys_folder, rules.iter().map(|(tenant, _)| tenant))?;
        let stored = ledger.authority(EVENTS).await.map_err(|error| error.to_string())?;
        let unproven = Unproven::of(&stored);
        let marks = config.data_dir.join("marks").join(environment.as_str());
        let folders = Folders { keys: keys_folder, marks: &marks };
        let (mut states, mut lent) = (HashMap::new(), Vec::new());
        for (tenant, mut rules) in rules {
            keep_rules(ledger.as_ref(), environment, &mut rules).await.map_err(|error| error.to_string())?;
            // In the sandbox nothing has an effect that could be had twice.
            let was_logged = environment == Environment::Production && folders.know(&tenant)?;
            let key = match kept_key(ledger.as_ref(), vault, &tenant).await? {
                Some(key) => key,
                None if was_logged && !to_recover => return Err(key_is_lost(&tenant)),
                None if was_logged => {
                    let (key, wrapped) = fresh_key(vault, &tenant)?;
                    lent.push((tenant.clone(), wrapped));
                    key
                }
                None => {
                    let (_, offered) = fresh_key(vault, &tenant)?;
                    keep_key(ledger.as_ref(), vault, &tenant, offered).await?
                }
            };
            states.insert(tenant.clone(), Arc::new(TenantState::new(tenant, &key, rules)?));
        }
        let known = Known { witnesses: &witnesses, enacted: &stored.enacted };
        let tenants = states.values().map(|it| &**it);
        let logs = Logs::open(folders, &config, environment, tenants, known, &*ledger).await?;
        let gateway = Gateway {
            environment,
            issuer,
            public_url,
            replica_id: chain_id.clone(),
            chain_id,
            began_ms: clock::now_ms(),
            limits: Rates {
                tenant: Buckets::new(config.limits.tenant),
                subject: Buckets::new(config.limits.subject),
                archetype: Buckets::new(config.limits.archetype),
                anonymous: Buckets::new(config.limits.anonymous),
            },
            config,
            ledger,
            keys,
            logs,
            behind: RwLock::default(),
            unheard: RwLock::default(),
            lent,
            authority,
            unproven,
            tenants: states,
            outside: doors,
            destinations,
            transmitters,
            token_issuers,
            witnesses,
            render,
            metrics: Metrics::new(environment.as_str()),
            places_taken: AtomicUsize::new(0),
            under_way: Mutex::default(),
            ending: Mutex::default(),
            hidden: Mutex::default(),
            quarantined: Mutex::default(),
            judging: Semaphore::new(AT_ONCE),
            concluding: Semaphore::new(AT_ONCE),
            challenges: Challenges::new().map_err(|error| error.to_string())?,
            questions: Questions::default(),
            declarations: Declarations::default(),
            deliveries: Mutex::default(),
            held_reads: HeldReads::default(),
            inquiries: Mutex::default(),
        };
        gateway.look_behind().await.map_err(|error| error.to_string())?;
        if gateway.must_be_whole().is_ok() {
            gateway.put_back(lost_freezes(&stored)).await.map_err(|error| error.to_string())?;
        }
        gateway.doubt_keys().await.map_err(|error| error.to_string())?;
        gateway.give_places().await.map_err(|error| error.to_string())?;
        Ok(Arc::new(gateway))
    }

    /// Production or sandbox.
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Who signs the receipts, a URL.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// How callers reach us; receipts are found under `/r/` there.
    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// The published key set, a JSON document.
    pub fn jwks(&self) -> Arc<str> {
        self.keys.document()
    }

    /// Whether requests can be taken.
    ///
    /// # Errors
    /// Why not, for operators.
    pub fn ready(&self) -> Result<(), String> {
        self.must_be_whole().map_err(|error| error.to_string())?;
        self.ledger.health().map_err(|error| error.to_string())
    }

    /// What holds for what the store has acknowledged.
    #[must_use]
    pub fn durability(&self) -> ledger::Durability {
        self.ledger.durability()
    }

    /// Everything that is counted, in Prometheus' text form.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE` if it cannot be written.
    pub fn metrics(&self) -> Result<String, Error> {
        let mut text = self.metrics.encode()?;
        let figures = self.ledger.figures();
        let environment = self.environment.as_str();
        for (name, value) in [
            ("ledger_waiting", figures.waiting),
            ("ledger_commits_total", figures.commits),
            ("ledger_writes_total", figures.writes),
            ("ledger_commit_microseconds_total", figures.commit_us),
            ("ledger_log_bytes", figures.log_bytes),
        ] {
            let end = text.rfind("# EOF").unwrap_or(text.len());
            text.insert_str(end, &format!("countersign_{name}{{environment=\"{environment}\"}} {value}\n"));
        }
        Ok(text)
    }

    /// Counts a request against the rates of whoever sends it, where it does not come to be an action.
    ///
    /// # Errors
    /// `EP_RATE_LIMITED`.
    pub fn count(&self, caller: &Caller) -> Result<(), Error> {
        self.limits.before_parsing(caller).inspect_err(|error| self.metrics.error(error.code))
    }

    /// The tenant of a caller.
    pub(crate) fn tenant(&self, tenant: &Tenant) -> Result<&Arc<TenantState>, Error> {
        self.tenants.get(tenant).ok_or_else(|| {
            Error::new(Code::Forbidden, format!("tenant `{tenant}` is not served in this environment"))
                .hint("name it in `tenants` of the configuration")
        })
    }
}

impl Rates {
    /// Before the body is looked at.
    pub(crate) fn before_parsing(&self, caller: &Caller) -> Result<(), Error> {
        self.take(caller, 1)
    }

    /// So many requests at once, or none: whoever is refused takes nothing from others.
    pub(crate) fn take(&self, caller: &Caller, requests: u32) -> Result<(), Error> {
        let (tenant, now) = (&caller.tenant, Instant::now());
        let subject = (tenant.clone(), caller.subject.clone());
        self.subject.take(&subject, requests, now).map_err(|lack| too_many("this subject", &lack))?;
        self.take_of_all(caller, requests, now).inspect_err(|_| self.subject.put_back(&subject, requests))
    }

    /// What all of a tenant, and all without a key, have in common.
    fn take_of_all(&self, caller: &Caller, requests: u32, now: Instant) -> Result<(), Error> {
        self.tenant.take(&caller.tenant, requests, now).map_err(|lack| too_many("this tenant", &lack))?;
        if !caller.is_anonymous() {
            return Ok(());
        }
        let taken = self.anonymous.take(&(), requests, now);
        taken.map_err(|lack| {
            self.tenant.put_back(&caller.tenant, requests);
            too_many("callers without a key", &lack)
        })
    }

    /// Once the archetype is known.
    pub(crate) fn of_archetype(&self, tenant: &Tenant, archetype: &str) -> Result<(), Error> {
        let name = (tenant.clone(), Arc::from(archetype));
        self.archetype.take(&name, 1, Instant::now()).map_err(|lack| too_many("this archetype", &lack))
    }
}

fn too_many(who: &str, lack: &Lack) -> Error {
    match lack {
        Lack::For(wait) => {
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            Error::new(Code::RateLimited, format!("too many requests of {who}")).retry_after(seconds)
        }
        Lack::Ever(most) => {
            let why = format!("more requests than `limits` ever let {who} make at once: {most}");
            Error::new(Code::ValidationFailed, why)
        }
    }
}

type TenantKey = Zeroizing<[u8; 32]>;

/// The tenant's key, the same at all gateways of a store: in there, wrapped under a key that is not.
async fn kept_key(ledger: &dyn Ledger, vault: &Vault, tenant: &Tenant) -> Result<Option<TenantKey>, String> {
    match ledger.tenant_key(tenant, None).await.map_err(|error| error.to_string())? {
        Some(wrapped) => vault.unwrap(tenant.as_str(), &wrapped).map(Some),
        None if knows(ledger, tenant).await? => Err(format!(
            "the store has actions of tenant `{tenant}`, but not the key that they are known to providers by: restore the table \
             `tenant_key`"
        )),
        None => Ok(None),
    }
}

/// A key that no tenant had before, and the same as it is kept.
fn fresh_key(vault: &Vault, tenant: &Tenant) -> Result<(TenantKey, Vec<u8>), String> {
    let fresh = Zeroizing::new(clock::random().map_err(|error| error.to_string())?);
    let wrapped = vault.wrap(tenant.as_str(), &fresh)?;
    Ok((fresh, wrapped))
}

/// Puts a key into the store, unless somebody else has put one there: the one that is there.
async fn keep_key(
    ledger: &dyn Ledger,
    vault: &Vault,
    tenant: &Tenant,
    offered: Vec<u8>,
) -> Result<TenantKey, String> {
    let kept = ledger.tenant_key(tenant, Some(offered)).await;
    let kept = kept.map_err(|error| unavailable(error).to_string())?;
    vault.unwrap(tenant.as_str(), &kept.ok_or("the store kept no tenant key")?)
}

/// INVARIANT (known keys): a tenant whose log was signed gets no other key unless an operator says so. Its providers know what it
/// did by keys made of the one before, and would do all of it once more.
fn key_is_lost(tenant: &Tenant) -> String {
    format!(
        "the log of tenant `{tenant}` was signed, and the store has not the key that its actions are known to providers by: the \
         store was put back from before that. `countersign recover` says what may be done twice, and begins with another key"
    )
}

/// Has the store actions of this tenant?
async fn knows(ledger: &dyn Ledger, tenant: &Tenant) -> Result<bool, String> {
    let page = ledger.actions(tenant, Filter::default(), None, 1).await;
    page.map(|page| !page.rows.is_empty() || page.next.is_some()).map_err(|error| error.to_string())
}

/// Mistakes as an operator reads them, one a line.
pub fn listed(mistakes: &[Mistake]) -> String {
    let line = |mistake: &Mistake| {
        let place = match mistake.line {
            0 => mistake.file.clone(),
            line => format!("{}:{line}:{}", mistake.file, mistake.column),
        };
        let hint = mistake.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        format!("{place}: {}{hint}", mistake.message)
    };
    mistakes.iter().map(line).collect::<Vec<_>>().join("\n")
}
