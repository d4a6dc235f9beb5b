//! The transparency logs: grown of what is on record, signed, and shown.
//!
//! ```text
//!   ledger ─ Sequencer ─▶ head in the store ─▶ follows what was signed? ─▶ mark on disk ─▶ signed ─▶ shown, receipts
//!                                                    └─ no ─▶ nothing is signed any more
//! ```
//!
//! What was signed last stands in a file beside the key, for each tenant, and is written before anybody sees it. A store that
//! was put back, or that somebody altered, does not lead there: then nothing is signed, rather than a second root of one size.
//! The file must therefore not be put back with the store; it lies in the folder of the keys for that reason.

mod behind;
mod completeness;
mod witnesses;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use action::{Environment, Tenant};
use ledger::{Head, Ledger, Log, LogOf, Sequencer, hashes, tiles};
use receipt::Promise;
use receipt::log::{
    Bundle, Checkpoint, Leaf, Note, Place, Plan, Proof, RefKey, Resource, Signer, Tile, Verifier, bundled,
    empty_root, epoch_of, verify_inclusion,
};

pub use self::behind::{Gap, Reconciled};
pub(crate) use self::witnesses::Witness;
use crate::caller::{Caller, Deed};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::keys::open_private;
use crate::remember::unavailable;
use crate::row::{IntentRow, internal};
use crate::tenants::TenantState;
use crate::views::not_found;
use crate::{Code, Error, clock, files};

/// The logs of one environment.
pub(crate) struct Logs {
    signer: Signer,
    folder: PathBuf,
    of: Vec<LogOf>,
    /// What was signed last of each before this start.
    told: HashMap<Tenant, Checkpoint>,
    /// What was signed last of each, and what it is called.
    signed: RwLock<HashMap<Tenant, Signed>>,
}

/// A checkpoint as it was signed.
#[derive(Clone)]
struct Signed {
    checkpoint: Checkpoint,
    /// Nothing is signed of a log without leaves.
    note: Option<Note>,
    /// The newest that witnesses cosigned.
    cosigned: Option<Cosigned>,
}

/// A checkpoint as witnesses cosigned it.
#[derive(Clone)]
struct Cosigned {
    checkpoint: Checkpoint,
    note: Note,
    /// All that are asked did.
    by_all: bool,
}

impl Logs {
    /// Opens the key in this folder, made if there is none, and what it signed last of each tenant's log.
    pub(crate) async fn open(
        folder: &Path,
        config: &Config,
        environment: Environment,
        tenants: impl Iterator<Item = &TenantState>,
        ledger: &dyn Ledger,
    ) -> Result<Logs, String> {
        let make = || Signer::generate().and_then(|key| key.to_pkcs8()).map_err(|error| error.to_string());
        let path = folder.join(KEY);
        let signer = Signer::from_pkcs8(&open_private(&path, make)?);
        let signer = signer.map_err(|error| format!("`{}`: {error}", path.display()))?;
        let (mut of, mut signed, mut told) = (Vec::new(), HashMap::new(), HashMap::new());
        for state in tenants {
            let tenant = state.tenant.clone();
            let last = last_signed(folder, &signer, &tenant)?;
            let name = match &last {
                Some((checkpoint, _)) => checkpoint.origin.clone(),
                None => origin(config, environment, &tenant),
            };
            let key = signer.log(&name).map_err(|error| format!("`log.origin`: {error}"))?.to_string();
            let kept = ledger.logs().log_name(&tenant, &key).await.map_err(|error| error.to_string())?;
            let origin = ours(&kept, &signer, &tenant, &path)?;
            must_be(config, environment, &tenant, &origin)?;
            told.extend(last.iter().map(|(last, _)| (tenant.clone(), last.clone())));
            let nothing = || Checkpoint { origin: origin.clone(), size: 0, root: empty_root() };
            let of_this = last.filter(|(checkpoint, _)| checkpoint.origin == origin);
            let (checkpoint, note) = of_this.map_or((nothing(), None), |(last, note)| (last, Some(note)));
            signed.insert(tenant.clone(), Signed { checkpoint, note, cosigned: None });
            let key = RefKey::new(&state.hmac.sign(b"countersign/log/1"));
            of.push(LogOf { tenant, reference: state.reference.clone(), key });
        }
        // In one order, whatever order they are kept in.
        of.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        Ok(Logs { signer, folder: folder.to_owned(), of, told, signed: RwLock::new(signed) })
    }

    fn last(&self, tenant: &Tenant) -> Result<Signed, Error> {
        let signed = self.signed.read().unwrap_or_else(PoisonError::into_inner);
        signed.get(tenant).cloned().ok_or_else(|| internal("a tenant has no log"))
    }

    /// By what checkpoints of a tenant's log are verified.
    pub(crate) fn key(&self, tenant: &Tenant) -> Result<String, Error> {
        let key = self.signer.log(&self.last(tenant)?.checkpoint.origin);
        key.map(|key| key.to_string()).map_err(|_| internal("a log has a name that no key may have"))
    }

    /// What a receipt says of its log: the newest checkpoint there is, and that it will be in one soon.
    pub(crate) fn mention(&self, tenant: &Tenant) -> Result<receipt::Checkpoint<'static>, Error> {
        let Signed { checkpoint, .. } = self.last(tenant)?;
        let nonce: [u8; 32] = clock::random()?;
        let promise = Promise {
            merge_by: clock::timestamp(clock::now_ms().saturating_add(MERGED_WITHIN_MS)),
            nonce: Promise::spelled(&nonce).into(),
        };
        Ok(receipt::Checkpoint {
            origin: checkpoint.origin.into(),
            size: checkpoint.size,
            root: hex::encode(checkpoint.root).into(),
            promise: Some(promise),
        })
    }

    /// Signs a head that follows what was signed last, which the caller has checked.
    fn sign(&self, tenant: &Tenant, checkpoint: Checkpoint) -> Result<(), Error> {
        let note = self.signer.sign(&checkpoint).map_err(|_| internal("a checkpoint could not be signed"))?;
        let path = self.folder.join(file_of(tenant));
        // Keeps (one root): what is not on disk was not said to anybody.
        files::write_private(&path, note.to_string().as_bytes()).map_err(|error| {
            tracing::error!(%error, path = %path.display(), "a checkpoint could not be written");
            Error::new(Code::Unavailable, "the checkpoint could not be written")
        })?;
        let mut signed = self.signed.write().unwrap_or_else(PoisonError::into_inner);
        let cosigned = signed.remove(tenant).and_then(|before| before.cosigned);
        signed.insert(tenant.clone(), Signed { checkpoint, note: Some(note), cosigned });
        Ok(())
    }

    fn is_cosigned(&self, tenant: &Tenant, checkpoint: &Checkpoint) -> bool {
        let cosigned = self.last(tenant).ok().and_then(|last| last.cosigned);
        cosigned.is_some_and(|cosigned| cosigned.by_all && cosigned.checkpoint == *checkpoint)
    }

    fn cosign(&self, tenant: &Tenant, checkpoint: Checkpoint, note: Note, by_all: bool) {
        let mut signed = self.signed.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(signed) = signed.get_mut(tenant) {
            if signed.checkpoint == checkpoint {
                signed.note = Some(note.clone());
            }
            signed.cosigned = Some(Cosigned { checkpoint, note, by_all });
        }
    }
}

/// Nobody else can have signed it, but somebody may have altered the file: then it is not believed. A log keeps the name under
/// which it was signed first, by whatever address we are reached later.
fn last_signed(
    folder: &Path,
    signer: &Signer,
    tenant: &Tenant,
) -> Result<Option<(Checkpoint, Note)>, String> {
    let path = folder.join(file_of(tenant));
    let wrong = |why: &dyn std::fmt::Display| format!("`{}`: {why}", path.display());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(&error)),
    };
    let note = Note::parse(&text).map_err(|error| wrong(&error))?;
    let origin = note.text().lines().next().unwrap_or_default();
    let log = signer.log(origin).map_err(|error| wrong(&error))?;
    let checkpoint = Checkpoint::of(&note, &log).map_err(|error| wrong(&error))?;
    Ok(Some((checkpoint, note)))
}

/// The name of the log that the store knows by this key, if the key is ours: of many gateways on one store all sign with one.
fn ours(kept: &str, signer: &Signer, tenant: &Tenant, path: &Path) -> Result<String, String> {
    let unreadable = |_| format!("the store does not tell what the log of tenant `{tenant}` is called");
    let kept: Verifier = kept.parse().map_err(unreadable)?;
    match signer.log(kept.name()) {
        Ok(ours) if ours == kept => Ok(kept.name().to_owned()),
        _ => Err(format!(
            "`{}` is not the key that the log of tenant `{tenant}` is signed with (`{kept}`): all gateways on a store need \
             the same one; copy the folder of the keys from the first of them",
            path.display()
        )),
    }
}

/// The name of a tenant's log, unless it has one already.
fn origin(config: &Config, environment: Environment, tenant: &Tenant) -> String {
    let url = config.public_url();
    let address = url.split_once("://").map_or(&*url, |(_, address)| address);
    match (&config.log.origin, environment) {
        (Some(origin), Environment::Production) => format!("{origin}/{tenant}"),
        (Some(origin), Environment::Sandbox) => format!("{origin}/sandbox/{tenant}"),
        (None, Environment::Production) => format!("{address}/log/{tenant}"),
        (None, Environment::Sandbox) => format!("{address}/sandbox/log/{tenant}"),
    }
}

/// What is configured does not name a log anew that has a name.
fn must_be(config: &Config, environment: Environment, tenant: &Tenant, has: &str) -> Result<(), String> {
    let (base, _) = epoch_of(has);
    if config.log.origin.is_none() || origin(config, environment, tenant) == base {
        return Ok(());
    }
    Err(format!(
        "`log.origin`: the log of tenant `{tenant}` is called `{has}` already, and keeps that name; leave the key out, or \
         put it back as it was"
    ))
}

fn file_of(tenant: &Tenant) -> String {
    format!("log-{tenant}.checkpoint")
}

impl Gateway {
    fn log(&self) -> &dyn Log {
        self.ledger.logs()
    }

    /// Logs what is on record and is not logged yet, now and soon after more is.
    pub(crate) async fn keep_logging(&self) {
        let mut sequencer = Sequencer::default();
        let mut told = String::new();
        loop {
            self.until_whole().await;
            // What others logged is signed here too: whoever signs later must know of it.
            let logged = self.log_some(&mut sequencer).await;
            let signed = self.sign_all().await;
            match logged.and_then(|more| signed.map(|()| more)) {
                Ok(true) => continue,
                Ok(false) => told.clear(),
                Err(error) => {
                    // Twice a second would be too often for what does not change.
                    let why = error.to_string();
                    if why != told {
                        tracing::error!(%error, "the transparency log does not go on");
                    }
                    told = why;
                }
            }
            tokio::time::sleep(BETWEEN_ROUNDS).await;
        }
    }

    /// Some rounds, before what they came to is signed, which costs more than a round. True if there may be more to log.
    async fn log_some(&self, sequencer: &mut Sequencer) -> Result<bool, Error> {
        // What was erased has a leaf that nobody can open.
        let mut secrets = |payload: &[u8]| IntentRow::salt_of(payload).or_else(|| clock::random().ok());
        for _ in 0..ROUNDS {
            let round = sequencer.round(self.log(), &self.logs.of, &mut secrets, MOST).await;
            if round.map_err(unavailable)?.entries < usize::try_from(MOST).unwrap_or(usize::MAX) {
                return Ok(false);
            }
            tokio::task::yield_now().await;
        }
        Ok(true)
    }

    /// One log that cannot be signed keeps no other from it.
    async fn sign_all(&self) -> Result<(), Error> {
        let mut all = Ok(());
        for log in &self.logs.of {
            all = all.and(self.sign_newest(&log.tenant).await);
        }
        all
    }

    /// Signs how far a log has grown, if that is more than was signed and begins with all of it.
    async fn sign_newest(&self, tenant: &Tenant) -> Result<(), Error> {
        let Head { size, root } = self.log().log_head(tenant).await.map_err(unavailable)?;
        let last = self.logs.last(tenant)?.checkpoint;
        let newest = Checkpoint { origin: last.origin.clone(), size, root };
        if newest == last {
            return Ok(());
        }
        let proof = match Plan::consistency(last.size, size) {
            Ok(plan) if last.size < size => self.log_hashes(tenant, &plan).await?,
            _ => Vec::new(),
        };
        newest.follows(&last, &proof).map_err(|error| {
            let (tenant, origin) = (tenant.clone(), last.origin.clone());
            self.fell_behind(Gap { tenant: tenant.clone(), origin, signed: last.size, stored: size.min(last.size) });
            let why = format!(
                "the stored log of tenant `{tenant}` has {size} leaves and is not the one of {} that was signed ({error}): \
                 was the store put back, or altered?",
                last.size
            );
            Error::new(Code::Unavailable, why)
        })?;
        self.logs.sign(tenant, newest)
    }

    async fn log_hashes(&self, tenant: &Tenant, plan: &Plan) -> Result<Vec<receipt::log::Hash>, Error> {
        hashes(self.log(), tenant, plan).await.map_err(unavailable)
    }

    /// The newest checkpoint of the caller's tenant, a signed note.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents, `EP_NOT_FOUND` while nothing is logged.
    pub fn log_checkpoint(&self, caller: &Caller) -> Result<String, Error> {
        caller.must(Deed::Audit)?;
        self.newest(&caller.tenant).map(|(_, note)| note.to_string())
    }

    fn newest(&self, tenant: &Tenant) -> Result<(Checkpoint, Note), Error> {
        let Signed { checkpoint, note, .. } = self.logs.last(tenant)?;
        note.map(|note| (checkpoint, note)).ok_or_else(|| not_found("checkpoint: nothing is logged yet"))
    }

    /// The newest checkpoint that has this leaf; one that was cosigned rather than a newer one.
    fn newest_with(&self, tenant: &Tenant, leaf: u64) -> Result<(Checkpoint, Note), Error> {
        let cosigned = self.logs.last(tenant)?.cosigned.filter(|cosigned| leaf < cosigned.checkpoint.size);
        match cosigned {
            Some(Cosigned { checkpoint, note, .. }) => Ok((checkpoint, note)),
            None => self.newest(tenant),
        }
    }

    /// The verifier key of the log of the caller's tenant, for pins.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` if the caller may not read anything.
    pub fn log_key(&self, caller: &Caller) -> Result<String, Error> {
        caller.must(Deed::ReadOwn)?;
        self.logs.key(&caller.tenant)
    }

    /// Tiles and entries of the log of the caller's tenant, by their C2SP paths. Only what the newest checkpoint is of.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents, `EP_NOT_FOUND` for what there is not.
    pub async fn log_resource(&self, caller: &Caller, path: &str) -> Result<Vec<u8>, Error> {
        caller.must(Deed::Audit)?;
        let nothing = || not_found("part of the log");
        let resource: Resource = path.parse().map_err(|_| nothing())?;
        let (Resource::Tile(tile) | Resource::Entries(tile)) = resource else { return Err(nothing()) };
        let size = self.newest(&caller.tenant)?.0.size;
        if !is_in(tile, size) {
            return Err(nothing());
        }
        let width = usize::from(tile.width);
        if let Resource::Tile(_) = resource {
            let found = tiles(self.log(), &caller.tenant, vec![tile]).await.map_err(unavailable)?;
            let hashes = found.into_iter().next().map(|(_, hashes)| hashes);
            let hashes = hashes.and_then(|hashes| Some(hashes.get(..width * 32)?.to_vec()));
            return hashes.ok_or_else(|| internal("a tile of the log is missing"));
        }
        let first = tile.index * u64::from(receipt::log::TILE_WIDTH);
        let leaves = self.log().log_leaves(&caller.tenant, first, u32::from(tile.width)).await;
        let leaves = leaves.map_err(unavailable)?;
        if leaves.len() != width {
            return Err(internal("leaves of the log are missing"));
        }
        bundled(leaves.iter().map(|leaf| leaf.leaf.as_slice())).map_err(|_| internal("a leaf is too long"))
    }

    /// That the log of the caller's tenant, at the size `to`, begins with what it was at the size `from`.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` for agents, `EP_VALIDATION_FAILED` for sizes of which there is no such proof.
    pub async fn log_consistency(&self, caller: &Caller, from: u64, to: u64) -> Result<Vec<String>, Error> {
        caller.must(Deed::Audit)?;
        let size = self.newest(&caller.tenant)?.0.size;
        let wrong = |why: String| Error::new(Code::ValidationFailed, why);
        if to > size {
            return Err(wrong(format!("the log has {size} leaves by now")).field("/to"));
        }
        let plan = Plan::consistency(from, to).map_err(|error| wrong(error.to_string()).field("/from"))?;
        let hashes = self.log_hashes(&caller.tenant, &plan).await?;
        Ok(hashes.iter().map(|hash| Promise::spelled(hash)).collect())
    }

    /// That a receipt of the caller's is in the log, against the newest checkpoint: canonical JSON.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` when it is not the caller's to see, or is not logged yet.
    pub async fn receipt_proof(&self, caller: &Caller, receipt_id: &str) -> Result<Vec<u8>, Error> {
        self.receipt(caller, receipt_id).await?;
        self.proof(&caller.tenant, receipt_id).await.map(|proof| proof.to_bytes())
    }

    /// A receipt of the caller's with all that proves it was logged: canonical JSON.
    ///
    /// # Errors
    /// As [`Gateway::receipt_proof`].
    pub async fn receipt_bundle(&self, caller: &Caller, receipt_id: &str) -> Result<Vec<u8>, Error> {
        let receipt = self.receipt(caller, receipt_id).await?;
        let proof = self.proof(&caller.tenant, receipt_id).await?;
        Ok(Bundle { receipt, jwks: self.keys.jwks(), proof }.to_bytes())
    }

    async fn proof(&self, tenant: &Tenant, receipt_id: &str) -> Result<Proof, Error> {
        let settled = self.ledger.receipt(tenant, receipt_id).await.map_err(unavailable)?;
        let entry = settled.ok_or_else(|| not_found("receipt"))?.entry;
        let not_yet = || {
            Error::new(Code::NotFound, NOT_LOGGED_YET)
                .hint("ask again in a second; it is promised until `metadata.log.mergeBy`")
        };
        let leafed = self.log().leaf_of(tenant, entry).await.map_err(unavailable)?.ok_or_else(not_yet)?;
        let (checkpoint, note) = self.newest_with(tenant, leafed.number)?;
        if leafed.number >= checkpoint.size {
            return Err(not_yet());
        }
        let plan = Plan::inclusion(leafed.number, checkpoint.size);
        let path = self.log_hashes(tenant, &plan.map_err(|_| not_yet())?).await?;
        let leaf = Leaf::parse(&leafed.leaf).map_err(|_| internal("a stored leaf is none"))?;
        // Of a store that was put back there may be a leaf where the signed log has another one.
        let (index, size, root) = (leafed.number, checkpoint.size, &checkpoint.root);
        verify_inclusion(&leaf.hash(), index, size, &path, root)
            .map_err(|_| internal("a stored leaf is not in the log that was signed"))?;
        let place = Place { index, leaf, path };
        Ok(Proof { place, note, compromise: None })
    }
}

/// Something of what is asked about is on record, and will be in the log soon.
fn not_yet_logged() -> Error {
    Error::new(Code::Unavailable, "not everything of that time is in the log yet")
        .hint("ask again in a few seconds")
}

/// Has a tree of that size this tile, in this width or a larger one?
fn is_in(tile: Tile, size: u64) -> bool {
    let row = size >> (8 * u32::from(tile.level));
    let end = tile.index * u64::from(receipt::log::TILE_WIDTH) + u64::from(tile.width);
    end <= row
}

/// What is said of a receipt whose leaf is not there yet: it will be, soon.
pub const NOT_LOGGED_YET: &str = "the receipt is not in the log yet";
/// In the folder of the keys: the one that signs the logs of all tenants. Each has a name of its own.
const KEY: &str = "log.pkcs8";
/// Commits are grouped by those who act; this only adds one more to them now and then.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(500);
/// Entries of one round: a commit of so many leaves takes some milliseconds, in which nobody else's is made.
const MOST: u32 = 512;
/// How many rounds there are at most before what they came to is signed.
const ROUNDS: u32 = 32;
/// What receipts promise. It takes a second, but a store may be away for a while.
const MERGED_WITHIN_MS: i64 = 24 * 60 * 60 * 1000;
