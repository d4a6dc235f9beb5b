//! The transparency logs: grown of what is on record, signed, and shown.
//!
//! ```text
//!   ledger ─ Sequencer ─▶ head in the store ─▶ follows what was signed? ─▶ mark on disk ─▶ signed ─▶ shown, receipts
//!                                                    └─ no ─▶ nothing is signed any more
//! ```
//!
//! What was signed last stands in a file outside of the store, for each tenant, and is written before anybody sees it. A store that
//! was put back, or that somebody altered, does not lead there: then nothing is signed, rather than a second root of one size.
//! The file must therefore not be put back with the store; see [`marks`].

mod behind;
mod completeness;
mod compromise;
mod cosigned;
mod marks;
mod witnesses;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use action::{Environment, Tenant};
use ledger::{Enacted, Head, Leafed, Ledger, Log, LogOf, Sequencer, hashes, tiles};
use receipt::log::{
    Bundle, Checkpoint, Leaf, Note, Place, Plan, Proof, RefKey, Resource, Signer, Verifier, bundled,
    empty_root, epoch_of, promised_nonce, verify_inclusion,
};
use receipt::{Document, Promise};

pub use self::behind::{Forgotten, Gap, Reconciled, Repeat, Why};
use self::completeness::Surveys;
pub(crate) use self::compromise::COMPROMISED;
use self::compromise::Compromises;
use self::cosigned::Cosigned;
use self::marks::{Mark, Marks};
pub(crate) use self::witnesses::Witness;
use crate::caller::{Caller, Deed};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::keys::open_private;
use crate::remember::unavailable;
use crate::row::{IntentRow, internal};
use crate::tenants::TenantState;
use crate::views::not_found;
use crate::{Code, Error, clock};

/// The logs of one environment.
pub(crate) struct Logs {
    signer: Signer,
    of: Vec<LogOf>,
    /// Where it is kept what was signed of each.
    marks: HashMap<Tenant, Marks>,
    /// What was signed last of each, and what it is called.
    signed: RwLock<HashMap<Tenant, Signed>>,
    /// Those who are asked to cosign.
    witnesses: Vec<Verifier>,
    /// What the log itself says of keys that were compromised.
    compromises: Compromises,
    surveys: Surveys,
}

/// A checkpoint as it was signed.
#[derive(Clone)]
struct Signed {
    checkpoint: Checkpoint,
    /// Nothing is signed of a log without leaves.
    note: Option<Note>,
    /// The newest that witnesses cosigned.
    cosigned: Cosigned,
}

impl Signed {
    fn mark(&self) -> Option<Mark> {
        Some(Mark { checkpoint: self.checkpoint.clone(), note: self.note.clone()? })
    }
}

/// Where what is needed to open logs is kept.
pub(crate) struct Folders<'a> {
    pub keys: &'a Path,
    /// Outside of all that is put back from a backup.
    pub marks: &'a Path,
}

impl Folders<'_> {
    /// Was anything signed of a log of this tenant?
    pub(crate) fn know(&self, tenant: &Tenant) -> Result<bool, String> {
        Ok(earlier_mark(self.keys, tenant).exists()
            || Marks::open(self.marks.join(tenant.as_str()))?.is_any()?)
    }
}

/// Where earlier versions kept the last checkpoint.
fn earlier_mark(keys: &Path, tenant: &Tenant) -> PathBuf {
    keys.join(format!("log-{tenant}.checkpoint"))
}

/// What is known of logs before they are opened.
pub(crate) struct Known<'a> {
    pub witnesses: &'a [Witness],
    /// What the store tells of signing keys.
    pub enacted: &'a [Enacted],
}

impl Logs {
    /// Opens the key in the folder of keys, made if there is none, and what it signed last of each tenant's log.
    pub(crate) async fn open(
        folders: Folders<'_>,
        config: &Config,
        environment: Environment,
        tenants: impl Iterator<Item = &TenantState>,
        known: Known<'_>,
        ledger: &dyn Ledger,
    ) -> Result<Logs, String> {
        let make = || Signer::generate().and_then(|key| key.to_pkcs8()).map_err(|error| error.to_string());
        let path = folders.keys.join(KEY);
        let signer = Signer::from_pkcs8(&open_private(&path, make)?);
        let signer = signer.map_err(|error| format!("`{}`: {error}", path.display()))?;
        let witnesses: Vec<Verifier> = known.witnesses.iter().map(|witness| witness.key().clone()).collect();
        let (mut of, mut signed, mut marks) = (Vec::new(), HashMap::new(), HashMap::new());
        for state in tenants {
            let tenant = state.tenant.clone();
            if epoch_of(&format!("/{tenant}")).1 != 1 {
                return Err(format!(
                    "`tenants`: `{tenant}` is what logs that begin anew are called; choose another name"
                ));
            }
            let kept = Marks::open(folders.marks.join(tenant.as_str()))?;
            kept.take_in(&earlier_mark(folders.keys, &tenant), &signer)?;
            let all = kept.all(&signer)?;
            let configured = origin(config, environment, &tenant);
            let name = all.last().map_or(&configured, |mark| &mark.checkpoint.origin);
            let key = signer.log(name).map_err(|error| format!("`log.origin`: {error}"))?.to_string();
            let stored = ledger.logs().log_name(&tenant, &key).await.map_err(|error| error.to_string())?;
            let origin = ours(&stored, &signer, &tenant, &path)?;
            must_be(config, environment, &tenant, &origin)?;
            if environment == Environment::Production
                && config.log.origin.is_none()
                && configured != epoch_of(&origin).0
            {
                tracing::warn!(
                    %tenant, log = origin, public_url = config.public_url(),
                    "the log is named after another address than this gateway's: receipts made at that one are of another issuer, and \
                     mandates for it are refused here. All gateways on a store need one `public_url`"
                );
            }
            signed.insert(tenant.clone(), Signed::last_of(all, origin, &witnesses));
            marks.insert(tenant.clone(), kept);
            let key = RefKey::new(&state.hmac.sign(b"countersign/log/1"));
            of.push(LogOf { tenant, reference: state.reference.clone(), key });
        }
        // In one order, whatever order they are kept in.
        of.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        let compromises = Compromises::of(known.enacted);
        let (signed, surveys) = (RwLock::new(signed), Surveys::default());
        Ok(Logs { signer, of, marks, signed, witnesses, compromises, surveys })
    }

    fn last(&self, tenant: &Tenant) -> Result<Signed, Error> {
        self.look(tenant, Signed::clone)
    }

    fn look<T>(&self, tenant: &Tenant, what: impl FnOnce(&Signed) -> T) -> Result<T, Error> {
        let signed = self.signed.read().unwrap_or_else(PoisonError::into_inner);
        signed.get(tenant).map(what).ok_or_else(|| internal("a tenant has no log"))
    }

    fn marks(&self, tenant: &Tenant) -> Result<&Marks, Error> {
        self.marks.get(tenant).ok_or_else(|| internal("a tenant has no log"))
    }

    /// By what checkpoints of a tenant's log are verified; nothing if the tenant is not configured.
    pub(crate) fn key(&self, tenant: &Tenant) -> Option<String> {
        let signed = self.signed.read().unwrap_or_else(PoisonError::into_inner);
        let key = self.signer.log(&signed.get(tenant)?.checkpoint.origin);
        key.ok().map(|key| key.to_string())
    }

    /// When the store was recovered last, Unix milliseconds, if it ever was: logs that begin anew are called after that.
    pub(crate) fn recovered_ms(&self, tenant: &Tenant) -> Option<u64> {
        let epoch = self.look(tenant, |signed| epoch_of(&signed.checkpoint.origin).1).ok()?;
        (epoch > 1).then(|| epoch.saturating_mul(1000))
    }

    /// What a receipt says of its log: the newest checkpoint there is, and that it will be in one soon.
    pub(crate) fn mention(&self, tenant: &Tenant) -> Result<receipt::Checkpoint<'static>, Error> {
        let checkpoint = self.look(tenant, |signed| signed.checkpoint.clone())?;
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

    /// Signs a head that follows what was signed last, here and by others, which the caller has checked.
    fn sign(&self, tenant: &Tenant, checkpoint: Checkpoint, others: Vec<Mark>) -> Result<(), Error> {
        let (marks, mark) = (self.marks(tenant)?, self.mark_of(checkpoint)?);
        // Keeps (one root): what is not on disk was not said to anybody.
        marks.write(&mark).map_err(|error| {
            tracing::error!(%error, %tenant, "a checkpoint could not be written");
            Error::new(Code::Unavailable, "the checkpoint could not be written")
        })?;
        let before = {
            let mut signed = self.signed.write().unwrap_or_else(PoisonError::into_inner);
            let signed = signed.get_mut(tenant).ok_or_else(|| internal("a tenant has no log"))?;
            let before = signed.mark();
            (signed.checkpoint, signed.note) = (mark.checkpoint.clone(), Some(mark.note.clone()));
            before
        };
        before.iter().chain(&others).for_each(|before| marks.surpassed(before, &mark));
        Ok(())
    }

    /// A checkpoint, signed, and kept nowhere yet.
    fn mark_of(&self, checkpoint: Checkpoint) -> Result<Mark, Error> {
        let note = self.signer.sign(&checkpoint).map_err(|_| internal("a checkpoint could not be signed"))?;
        Ok(Mark { checkpoint, note })
    }
}

impl Signed {
    /// What was signed last of the log of that name.
    fn last_of(marks: Vec<Mark>, origin: String, witnesses: &[Verifier]) -> Signed {
        let mut cosigned = Cosigned::default();
        let mut last = None;
        for mark in marks.into_iter().filter(|mark| mark.checkpoint.origin == origin) {
            cosigned.keep(&mark, witnesses);
            last = Some(mark);
        }
        match last {
            Some(Mark { checkpoint, note }) => {
                let note = cosigned.of(&checkpoint).unwrap_or(note);
                Signed { checkpoint, note: Some(note), cosigned }
            }
            None => {
                let checkpoint = Checkpoint { origin, size: 0, root: empty_root() };
                Signed { checkpoint, note: None, cosigned }
            }
        }
    }
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
            if let Err(ledger::Error::Corrupt(_)) = &round {
                // It may be what the log grows on that is gone, and then nothing new would ever be signed.
                self.must_have_signed().await?;
            }
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
        let signed = self.logs.last(tenant)?;
        let last = signed.checkpoint.clone();
        let head = self.log().log_head(tenant).await.map_err(unavailable)?;
        if (head.size, head.root) == (last.size, last.root) {
            return Ok(());
        }
        if last.size == 0 {
            self.must_be_called_so(tenant).await?;
        }
        // Read before the head: what others signed is in the store by then.
        let others = self.logs.marks(tenant)?.others(signed.mark().as_ref(), &self.logs.signer);
        let others = others.map_err(|why| Error::new(Code::Unavailable, why))?;
        let Head { size, root } = self.log().log_head(tenant).await.map_err(unavailable)?;
        let newest = Checkpoint { origin: last.origin.clone(), size, root };
        let epoch = epoch_of(&last.origin).1;
        let signed_by_others = others.iter().map(|mark| &mark.checkpoint);
        for before in signed_by_others.filter(|it| epoch_of(&it.origin).1 >= epoch).chain([&last]) {
            self.must_follow(tenant, &newest, before).await?;
        }
        self.logs.sign(tenant, newest, others)
    }

    /// Whatever is signed begins with all that was signed before.
    async fn must_follow(
        &self,
        tenant: &Tenant,
        newest: &Checkpoint,
        before: &Checkpoint,
    ) -> Result<(), Error> {
        let lacks = |why: &dyn fmt::Display| {
            let (size, signed) = (newest.size, before.size);
            self.fell_behind(Gap::of(tenant, before, size));
            let why = format!(
                "the stored log of tenant `{tenant}` has {size} leaves and is not the one of {signed} that was signed ({why}): \
                 was the store put back, or altered?"
            );
            Error::new(Code::Unavailable, why)
        };
        let proof = match Plan::consistency(before.size, newest.size) {
            Ok(plan) if before.size < newest.size => match hashes(self.log(), tenant, &plan).await {
                // What is gone is no better than what is another.
                Err(ledger::Error::Corrupt(why)) => return Err(lacks(&why)),
                proof => proof.map_err(unavailable)?,
            },
            _ => Vec::new(),
        };
        newest.follows(before, &proof).map_err(|error| lacks(&error))
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

    /// A checkpoint of the caller's tenant that has that many leaves: the newest of those that most witnesses cosigned, or the newest
    /// of all. While a log grows the newest is seldom cosigned, and what grew meanwhile is in none that was cosigned before.
    ///
    /// # Errors
    /// As [`Gateway::log_checkpoint`].
    pub fn log_checkpoint_with(&self, caller: &Caller, leaves: u64) -> Result<String, Error> {
        caller.must(Deed::Audit)?;
        self.newest_with(&caller.tenant, leaves.saturating_sub(1)).map(|(_, note)| note.to_string())
    }

    fn newest(&self, tenant: &Tenant) -> Result<(Checkpoint, Note), Error> {
        let Signed { checkpoint, note, .. } = self.logs.last(tenant)?;
        note.map(|note| (checkpoint, note)).ok_or_else(|| not_found("checkpoint: nothing is logged yet"))
    }

    /// A checkpoint that has this leaf: the newest of those that most witnesses cosigned, or the newest of all.
    fn newest_with(&self, tenant: &Tenant, leaf: u64) -> Result<(Checkpoint, Note), Error> {
        match self.logs.last(tenant)?.cosigned.with(leaf) {
            Some(Mark { checkpoint, note }) => Ok((checkpoint, note)),
            None => self.newest(tenant),
        }
    }

    /// The verifier key of the log of the caller's tenant, for pins.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` if the caller may not read anything.
    pub fn log_key(&self, caller: &Caller) -> Result<String, Error> {
        caller.must(Deed::ReadOwn)?;
        self.logs.key(&caller.tenant).ok_or_else(|| internal("a tenant has no log"))
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
        if !tile.is_of(size) {
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
    /// `EP_NOT_FOUND` when it is not the caller's to see, is not logged yet, or was made before there was a log.
    pub async fn receipt_proof(&self, caller: &Caller, receipt_id: &str) -> Result<Vec<u8>, Error> {
        let receipt = self.receipt(caller, receipt_id).await?;
        self.proof(&caller.tenant, receipt_id, &receipt).await.map(|proof| proof.to_bytes())
    }

    /// A receipt of the caller's with all that proves it was logged: canonical JSON.
    ///
    /// # Errors
    /// As [`Gateway::receipt_proof`].
    pub async fn receipt_bundle(&self, caller: &Caller, receipt_id: &str) -> Result<Vec<u8>, Error> {
        let receipt = self.receipt(caller, receipt_id).await?;
        let proof = self.proof(&caller.tenant, receipt_id, &receipt).await?;
        Ok(Bundle { receipt, jwks: self.keys.jwks(), proof }.to_bytes())
    }

    async fn proof(&self, tenant: &Tenant, receipt_id: &str, receipt: &[u8]) -> Result<Proof, Error> {
        let settled = self.ledger.receipt(tenant, receipt_id).await.map_err(unavailable)?;
        let entry = settled.ok_or_else(|| not_found("receipt"))?.entry;
        let document = std::str::from_utf8(receipt).ok().and_then(|text| Document::parse(text).ok());
        let document = document.ok_or_else(|| internal("a stored receipt cannot be read"))?;
        if promised_nonce(&document).is_none() {
            return Err(not_found(
                "proof: the receipt was made before there was a log, and promises no place in it",
            ));
        }
        let leafed = self.log().leaf_of(tenant, entry).await.map_err(unavailable)?.ok_or_else(not_yet)?;
        let later = self.compromise_behind(tenant, &document.kid, leafed.number).await?;
        let (checkpoint, note, later) = self.checkpoint_for(tenant, leafed.number, later)?;
        if leafed.number >= checkpoint.size {
            return Err(not_yet());
        }
        let place = self.leaf_in(tenant, &leafed, &checkpoint).await?;
        let compromise = match later {
            Some(later) => {
                let place = self.leaf_in(tenant, &later.leafed, &checkpoint).await?;
                Some(later.shown(place))
            }
            None => None,
        };
        Ok(Proof { place, note, compromise })
    }

    /// A leaf and its way to the root of that checkpoint.
    async fn leaf_in(
        &self,
        tenant: &Tenant,
        leafed: &Leafed,
        checkpoint: &Checkpoint,
    ) -> Result<Place, Error> {
        let (index, size) = (leafed.number, checkpoint.size);
        let plan = Plan::inclusion(index, size).map_err(|_| not_yet())?;
        let path = self.log_hashes(tenant, &plan).await?;
        let leaf = Leaf::parse(&leafed.leaf).map_err(|_| internal("a stored leaf is none"))?;
        // Of a store that was put back there may be a leaf where the signed log has another one.
        verify_inclusion(&leaf.hash(), index, size, &path, &checkpoint.root)
            .map_err(|_| internal("a stored leaf is not in the log that was signed"))?;
        Ok(Place { index, leaf, path })
    }
}

fn not_yet() -> Error {
    Error::new(Code::NotFound, NOT_LOGGED_YET)
        .hint("ask again in a second; it is promised until `metadata.log.mergeBy`")
}

/// Something of what is asked about is on record, and will be in the log soon.
fn not_yet_logged() -> Error {
    Error::new(Code::Unavailable, "not everything of that time is in the log yet")
        .hint("ask again in a few seconds")
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
