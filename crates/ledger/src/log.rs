//! The transparency log: one for each tenant, grown of entries of all chains.
//!
//! ```text
//!   entries ─▶ fresh ─▶ Sequencer ─▶ Growth ─▶ grow: compare and swap ─▶ head, leaves, tiles ─▶ (signed, published)
//!     ▲                     ▲                          │
//!     └── every commit      └── read again ◀── lost ───┘
//! ```
//!
//! INVARIANT (one root): a log's head, its size and root, changes only in one commit that finds the head from which the new
//! one was grown, and the mark up to which entries were taken. So any number of sequencers may be at it at once, and what one
//! of them loses changes nothing. Whoever signs a head has read it from the store: what was not committed is not signed.
//! Everything else (tiles, proofs, notes) follows from rows.
//!
//! Nothing is written here when an action is written. Entries are taken in the order of their rows, each once; which of them
//! become leaves, and of what kind, is said by [`kind_of`]. The leaves of a round are one row, a *stretch*, which is never
//! written again: numbers of leaves and rows of entries rise together in a log, so both lead to the stretch that has them. The
//! hashes of leaves are made of those, and kept nowhere; tiles are what stands above them.
//!
//! INVARIANT (no nonce): no store has a nonce. A leaf's is in the receipt that it commits to, or follows from that record, the
//! tenant's key and, where it is about an action, what only the action's payload has ([`Secrets`]). So whatever erases the
//! payload erases them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use action::{ActionId, Tenant};
use receipt::log::{
    Edge, Hash, Leaf, LeafKind, Nonce, Plan, RefKey, TILE_WIDTH, Tile, Tiles, empty_root, leaf_hash,
};
use receipt::{Document, Event};
use sha2::{Digest, Sha256};

use crate::entry::{
    ADMITTED, APPROVED, CHALLENGED, CHARGING, EXTENDED, HELD, INFO_GIVEN, INFO_REQUESTED, OPENED,
    PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED, REJECTED, RESERVED, RESOLVED, Reading, SENT_AGAIN,
    WAITING,
};
use crate::erasure::ERASED;
use crate::pruned::PRUNED;
use crate::step::STEPS;
use crate::{Answer, Error};

/// The part of a ledger that keeps the transparency logs.
pub trait Log: Send + Sync {
    /// What a tenant's log is called and by what key it is signed: the verifier key that was offered first. All who sign it
    /// must have that one.
    fn log_name<'a>(&'a self, tenant: &'a Tenant, offered: &'a str) -> Answer<'a, Box<str>>;

    /// Forgets all logs and gives them these names, in one commit: they begin anew, and all entries are to be taken again.
    fn begin_anew(&self, names: Vec<(Tenant, Box<str>)>) -> Answer<'_, ()>;

    /// Entries that were not taken yet, in the order of their rows: at most so many.
    fn fresh(&self, limit: u32) -> Answer<'_, Fresh>;

    /// The payloads of these actions, as far as they are there and can be read; empty ones of what was erased.
    fn payloads(&self, actions: Vec<ActionId>) -> Answer<'_, HashMap<ActionId, Vec<u8>>>;

    /// Takes entries and grows logs by them, in one commit, if everything is as it was when the growth was made of it. False
    /// if it is not: then nothing is written.
    fn grow(&self, growth: Growth) -> Answer<'_, bool>;

    /// How far a tenant's log has grown.
    fn log_head<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Head>;

    /// These tiles of a tenant's log, as far as they are kept, which those of leaves are not; each may have more hashes than
    /// were asked for. See [`tiles`].
    fn log_tiles<'a>(&'a self, tenant: &'a Tenant, tiles: Vec<Tile>) -> Answer<'a, Vec<(Tile, Vec<u8>)>>;

    /// Leaves of a tenant's log from that number on: at most so many.
    fn log_leaves<'a>(&'a self, tenant: &'a Tenant, from: u64, limit: u32) -> Answer<'a, Vec<Leafed>>;

    /// The leaf that an entry became.
    fn leaf_of<'a>(&'a self, tenant: &'a Tenant, entry: i64) -> Answer<'a, Option<Leafed>>;
}

/// Entries that were not taken yet.
#[derive(Clone, Debug, Default)]
pub struct Fresh {
    /// Behind which row they begin: up to there everything was taken.
    pub after: i64,
    /// In the order of their rows, none left out.
    pub entries: Vec<Unlogged>,
}

/// An entry that was not taken yet, and what a leaf of it is made of.
#[derive(Clone, Debug)]
pub struct Unlogged {
    /// Its row number.
    pub row: i64,
    /// Its canonical bytes.
    pub bytes: Vec<u8>,
    /// The receipt that it names, unless that was pruned.
    pub receipt: Option<Vec<u8>>,
    /// Until when its action goes on, milliseconds since 1970, UTC, where that is told.
    pub until_ms: Option<i64>,
}

/// How far a log has grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Default for Head {
    fn default() -> Head {
        Head { size: 0, root: empty_root() }
    }
}

/// What logs are to grow by.
#[derive(Clone, Debug)]
pub struct Growth {
    /// The mark that it was made from.
    pub after: i64,
    /// The row of the last entry that is taken.
    pub upto: i64,
    /// Each log that grows.
    pub logs: Vec<Grown>,
}

/// What one log is to grow by.
#[derive(Clone, Debug)]
pub struct Grown {
    /// Whose.
    pub tenant: Tenant,
    /// The head that it was grown from.
    pub from: Head,
    /// The head that it gets.
    pub to: Head,
    /// Its new leaves, one at least, in order; the first has the number `from.size`.
    pub leaves: Vec<Leafed>,
    /// Every tile above the leaves that has more hashes from now on, with all it has.
    pub tiles: Vec<(Tile, Vec<u8>)>,
}

/// A leaf of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leafed {
    /// Its number.
    pub number: u64,
    /// The entry that it stands for.
    pub entry: i64,
    /// The leaf.
    pub leaf: [u8; Leaf::SIZE],
}

/// A tenant whose log is grown.
#[derive(Debug)]
pub struct LogOf {
    /// Which.
    pub tenant: Tenant,
    /// How the chain names it.
    pub reference: Arc<str>,
    /// By what its leaves name actions, and what their nonces are made with.
    pub key: RefKey,
}

/// What is secret of an action, by its payload, as long as that is not erased. Of an empty one: something that nobody knows, nor
/// ever will; nothing if there is no randomness to be had.
pub type Secrets<'a> = dyn FnMut(&[u8]) -> Option<[u8; 32]> + Send + 'a;

/// What one round of a [`Sequencer`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// How many entries were taken. None: there were none, or somebody else took them.
    pub entries: usize,
    /// How far each log that grew has grown.
    pub heads: Vec<(Tenant, Head)>,
}

/// Grows logs. It holds nothing that the store does not: what it remembers only spares it reading, and is forgotten as soon as
/// somebody else grew a log.
#[derive(Debug, Default)]
pub struct Sequencer {
    edges: HashMap<Tenant, Edge>,
}

impl Sequencer {
    /// Takes at most so many entries that were not taken yet, and grows the logs of these tenants by them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no randomness; [`Error::Corrupt`] if an entry cannot be read, is of a tenant that is
    /// not among these (then nothing is taken, since it would be left out for ever), or stored leaves and tiles do not lead to
    /// the stored root; otherwise as the ledger has it.
    pub async fn round(
        &mut self,
        ledger: &(dyn Log + '_),
        logs: &[LogOf],
        secrets: &mut Secrets<'_>,
        limit: u32,
    ) -> Result<Round, Error> {
        let fresh = ledger.fresh(limit).await?;
        let Some(last) = fresh.entries.last() else { return Ok(Round::default()) };
        let (upto, entries) = (last.row, fresh.entries.len());
        let taken = fresh.entries.iter().filter_map(|entry| Taken::of(entry, logs).transpose());
        let taken: Vec<Taken<'_>> = taken.collect::<Result<_, _>>()?;
        let leaves = leaves_of(ledger, &taken, logs, secrets).await?;
        let mut growth = Growth { after: fresh.after, upto, logs: Vec::with_capacity(leaves.len()) };
        let mut edges = Vec::with_capacity(leaves.len());
        for (log, leaves) in leaves {
            let tenant = &logs[log].tenant;
            let mut edge = self.edge(ledger, tenant).await?;
            growth.logs.push(grown(tenant, &mut edge, &leaves));
            edges.push((tenant.clone(), edge));
        }
        let heads = growth.logs.iter().map(|grown| (grown.tenant.clone(), grown.to)).collect();
        if ledger.grow(growth).await? {
            self.edges.extend(edges);
            Ok(Round { entries, heads })
        } else {
            self.edges.clear();
            Ok(Round::default())
        }
    }

    async fn edge(&mut self, ledger: &(dyn Log + '_), tenant: &Tenant) -> Result<Edge, Error> {
        if let Some(edge) = self.edges.remove(tenant) {
            return Ok(edge);
        }
        let head = ledger.log_head(tenant).await?;
        let tiles = read(ledger, tenant, Edge::tiles(head.size).collect()).await?;
        let edge = Edge::read(head.size, &tiles).map_err(|error| broken(tenant, &error.to_string()))?;
        if edge.root() == head.root {
            Ok(edge)
        } else {
            Err(broken(tenant, "its leaves do not lead to its root"))
        }
    }
}

fn grown(tenant: &Tenant, edge: &mut Edge, leaves: &[(i64, Leaf)]) -> Grown {
    let from = Head { size: edge.size(), root: edge.root() };
    let mut tiles = Vec::new();
    let mut keep = |tile: Tile, hashes: &[Hash]| {
        if tile.level > 0 {
            tiles.push((tile, hashes.as_flattened().to_vec()));
        }
    };
    leaves.iter().for_each(|(_, leaf)| edge.push(leaf.hash(), &mut keep));
    let row = |size: u64, level: u8| size >> (8 * u32::from(level));
    for (tile, hashes) in edge.partial() {
        if row(from.size, tile.level) != row(edge.size(), tile.level) {
            keep(tile, hashes);
        }
    }
    let leaves = (from.size..).zip(leaves);
    let leaves =
        leaves.map(|(number, (entry, leaf))| Leafed { number, entry: *entry, leaf: leaf.to_bytes() });
    let (leaves, to) = (leaves.collect(), Head { size: edge.size(), root: edge.root() });
    Grown { tenant: tenant.clone(), from, to, leaves, tiles }
}

/// An entry that becomes leaves.
struct Taken<'a> {
    row: i64,
    kind: LeafKind,
    action: Option<ActionId>,
    hour: u32,
    due_by: u32,
    record: &'a [u8],
    /// The nonce that its receipt promised.
    promised: Option<Nonce>,
    /// Which logs get one: its tenant's, or all.
    logs: Range<usize>,
}

impl<'a> Taken<'a> {
    fn of(entry: &'a Unlogged, logs: &[LogOf]) -> Result<Option<Taken<'a>>, Error> {
        let unreadable =
            || Error::Corrupt(format!("entry {} cannot be read, and so not be logged", entry.row).into());
        let said = Reading::of(&entry.bytes).ok_or_else(unreadable)?;
        let receipt = entry.receipt.as_deref().filter(|receipt| is_named(entry.row, &said, receipt));
        let logged = receipt.and_then(Logged::of);
        let amends = logged.as_ref().is_some_and(|logged| logged.amends);
        let Some(kind) = kind_of(&said, amends) else { return Ok(None) };
        let at = u64::try_from(said.at_ms).unwrap_or(0);
        let due_by = match kind {
            LeafKind::Intent => {
                let until = entry.until_ms.and_then(|until| u64::try_from(until).ok()).unwrap_or(0);
                Leaf::hour_of_millis(at.max(until).saturating_add(DUE_MS))
            }
            _ => 0,
        };
        Ok(Some(Taken {
            row: entry.row,
            kind,
            action: said.action,
            hour: Leaf::hour_of_millis(at),
            due_by,
            record: receipt.unwrap_or(&entry.bytes),
            promised: logged.and_then(|logged| logged.nonce),
            logs: logs_of(&said, entry.row, logs)?,
        }))
    }

    /// The action whose secret its nonce is made with. That an action was erased may be shown for ever.
    fn hidden_by(&self) -> Option<ActionId> {
        self.action.filter(|_| self.promised.is_none() && self.kind != LeafKind::Erasure)
    }

    fn leaf(&self, key: &RefKey, secret: Option<&[u8; 32]>) -> Leaf {
        let nonce = self.promised.unwrap_or_else(|| key.nonce(secret, self.record));
        Leaf {
            kind: self.kind,
            action_ref: self.action.map_or([0; 32], |id| key.action_ref(&id.to_string())),
            hour: self.hour,
            due_by: self.due_by,
            commitment: Leaf::commit(&nonce, self.record),
        }
    }
}

/// Whether the document beside an entry is the receipt that it names. One that is not was altered since, and whoever was given the
/// true one could never show that it is logged: as where it is gone, the leaf is the entry's then.
fn is_named(row: i64, said: &Reading<'_>, receipt: &[u8]) -> bool {
    let named = said.receipt.is_some_and(|hash| hash == hex::encode(Sha256::digest(receipt)));
    if !named && said.receipt.is_some() {
        tracing::error!(
            entry = row,
            "the stored receipt is not the one it names; `countersign audit verify` tells more"
        );
    }
    named
}

/// Which logs an entry belongs in.
fn logs_of(said: &Reading<'_>, row: i64, logs: &[LogOf]) -> Result<Range<usize>, Error> {
    let Some(reference) = said.tenant.filter(|_| !said.event.starts_with(SIGNING_KEY)) else {
        return Ok(0..logs.len());
    };
    let known = logs.iter().position(|log| *log.reference == *reference);
    let known = known.ok_or_else(|| {
        Error::Corrupt(format!("entry {row} is of a tenant that is not configured (`{reference}`)").into())
    })?;
    Ok(known..known + 1)
}

/// The leaves that each log gets, by its place among them, with the entries that they stand for.
async fn leaves_of(
    ledger: &(dyn Log + '_),
    taken: &[Taken<'_>],
    logs: &[LogOf],
    secrets: &mut Secrets<'_>,
) -> Result<BTreeMap<usize, Vec<(i64, Leaf)>>, Error> {
    let mut actions: Vec<ActionId> = taken.iter().filter_map(Taken::hidden_by).collect();
    actions.sort_unstable();
    actions.dedup();
    let payloads = if actions.is_empty() { HashMap::new() } else { ledger.payloads(actions).await? };
    let mut leaves: BTreeMap<usize, Vec<(i64, Leaf)>> = BTreeMap::new();
    for it in taken {
        let payload = it.hidden_by().map(|action| payloads.get(&action).map_or(&[][..], Vec::as_slice));
        let secret = payload.map(|payload| secrets(payload).ok_or_else(no_randomness)).transpose()?;
        for log in it.logs.clone() {
            leaves.entry(log).or_default().push((it.row, it.leaf(&logs[log].key, secret.as_ref())));
        }
    }
    Ok(leaves)
}

fn no_randomness() -> Error {
    Error::Unavailable("no randomness".into())
}

/// The kind of leaf that an entry becomes; none for what is no leaf: the beginnings of chains, steps on the way that end
/// nothing and by which nothing more is due, and records of sessions and clusters. Those are behind later leaves all the same,
/// because each entry has the hash of the one before. What is not known here, and is about no action, is logged.
fn kind_of(said: &Reading<'_>, amends: bool) -> Option<LeafKind> {
    if said.receipt.is_some() {
        return Some(if amends { LeafKind::Amendment } else { LeafKind::Terminal });
    }
    match said.event {
        HELD | ADMITTED | SENT_AGAIN | CHARGING | WAITING | CHALLENGED | RESERVED => Some(LeafKind::Intent),
        APPROVED | REJECTED | EXTENDED | INFO_REQUESTED | INFO_GIVEN | RESOLVED => Some(LeafKind::Approval),
        ERASED => Some(LeafKind::Erasure),
        PASSKEY_REGISTERED | PASSKEY_ENROLLED | PASSKEY_REVOKED => Some(LeafKind::KeyEvent),
        "key_created" | "key_revoked" | "principal_key_registered" | "principal_key_revoked" => {
            Some(LeafKind::KeyEvent)
        }
        event if event.starts_with(SIGNING_KEY) => Some(LeafKind::KeyEvent),
        OPENED | PRUNED => None,
        event => {
            let step = said.action.is_some() || said.in_session || STEPS.contains(&event);
            (!step).then_some(LeafKind::PolicyChange)
        }
    }
}

/// What the logs have of a stretch of entries.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// The row of the last entry that was taken.
    pub(crate) mark: i64,
    /// The entries of the stretch that have a leaf.
    pub(crate) entries: HashSet<i64>,
}

impl Passed {
    /// Was an entry left out that should have a leaf by now?
    pub(crate) fn lacks(&self, row: i64, entry: &[u8]) -> bool {
        row <= self.mark
            && !self.entries.contains(&row)
            && Reading::of(entry).is_some_and(|said| kind_of(&said, false).is_some())
    }
}

/// Until when an action goes on with an entry, as its row has it by now.
pub(crate) struct GoesOn {
    pub(crate) expires_ms: Option<i64>,
    pub(crate) until_ms: Option<i64>,
    /// Is anybody at it?
    pub(crate) in_hand: bool,
}

impl GoesOn {
    /// Whether leaves of these entries tell until when their action goes on.
    pub(crate) fn is_told_by(event: &str) -> bool {
        rests(event) || [ADMITTED, SENT_AGAIN, CHARGING].contains(&event)
    }

    /// Until it rests no more; or until whoever has sent it must have written down what came of it.
    pub(crate) fn after(&self, event: &str) -> Option<i64> {
        match rests(event) {
            true => self.expires_ms.max(self.until_ms),
            false => self.until_ms.filter(|_| self.in_hand),
        }
    }
}

fn rests(event: &str) -> bool {
    [HELD, WAITING, CHALLENGED, RESERVED].contains(&event)
}

/// What a receipt says of its own leaf.
struct Logged {
    amends: bool,
    nonce: Option<Nonce>,
}

impl Logged {
    fn of(document: &[u8]) -> Option<Logged> {
        let document = Document::parse(std::str::from_utf8(document).ok()?).ok()?;
        let nonce = receipt::log::promised_nonce(&document);
        Some(Logged { amends: document.content.event != Event::Original, nonce })
    }
}

/// The hashes of a proof, or a root, of a tenant's log.
///
/// # Errors
/// [`Error::Corrupt`] if a tile that it takes is not there; otherwise as the ledger has it.
pub async fn hashes(ledger: &(dyn Log + '_), tenant: &Tenant, plan: &Plan) -> Result<Vec<Hash>, Error> {
    let tiles = read(ledger, tenant, plan.tiles()).await?;
    plan.hashes(&tiles).map_err(|error| broken(tenant, &error.to_string()))
}

/// These tiles of a tenant's log, as far as they are there, those of leaves made of the leaves; each may have more hashes than
/// were asked for.
///
/// # Errors
/// As the ledger has them.
pub async fn tiles(
    ledger: &(dyn Log + '_),
    tenant: &Tenant,
    wanted: Vec<Tile>,
) -> Result<Vec<(Tile, Vec<u8>)>, Error> {
    let (of_leaves, above): (Vec<Tile>, Vec<Tile>) = wanted.into_iter().partition(|tile| tile.level == 0);
    let mut found = if above.is_empty() { Vec::new() } else { ledger.log_tiles(tenant, above).await? };
    for tile in of_leaves {
        let first = tile.index.saturating_mul(TILE_WIDTH.into());
        let leaves = ledger.log_leaves(tenant, first, tile.width.into()).await?;
        let whole = leaves.len() == usize::from(tile.width);
        if whole && leaves.iter().zip(first..).all(|(leafed, number)| leafed.number == number) {
            found.push((tile, leaves.iter().flat_map(|leafed| leaf_hash(&leafed.leaf)).collect()));
        }
    }
    Ok(found)
}

async fn read(ledger: &(dyn Log + '_), tenant: &Tenant, wanted: Vec<Tile>) -> Result<Tiles, Error> {
    let mut read = Tiles::default();
    for (tile, bytes) in tiles(ledger, tenant, wanted).await? {
        read.insert(tile, &bytes).map_err(|error| broken(tenant, &error.to_string()))?;
    }
    Ok(read)
}

/// Leaves as a row has them: of each the entry that it stands for, 8 bytes with the high one first, and the leaf.
pub(crate) fn packed(leaves: &[Leafed]) -> Vec<u8> {
    leaves.iter().flat_map(|it| it.entry.to_be_bytes().into_iter().chain(it.leaf)).collect()
}

/// The leaves of a row whose first one has this number; nothing if it is no row of leaves.
pub(crate) fn unpacked(first: i64, bytes: &[u8]) -> Option<Vec<Leafed>> {
    let first = u64::try_from(first).ok()?;
    let (leaves, rest) = bytes.as_chunks::<{ ENTRY + Leaf::SIZE }>();
    let leafed = |(number, bytes): (u64, &[u8; ENTRY + Leaf::SIZE])| {
        let (entry, leaf) = bytes.split_first_chunk::<ENTRY>()?;
        Some(Leafed { number, entry: i64::from_be_bytes(*entry), leaf: leaf.try_into().ok()? })
    };
    rest.is_empty().then(|| (first..).zip(leaves).map(leafed).collect())?
}

/// Those of them that have these numbers: from there on, at most so many.
pub(crate) fn within(leaves: impl IntoIterator<Item = Leafed>, from: u64, limit: u32) -> Vec<Leafed> {
    leaves
        .into_iter()
        .filter(|it| it.number >= from)
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
        .collect()
}

fn broken(tenant: &Tenant, why: &str) -> Error {
    Error::Corrupt(format!("the log of tenant `{tenant}`: {why}").into())
}

/// The logs of a ledger that keeps nothing.
#[derive(Default)]
pub(crate) struct InMemory {
    pub(crate) mark: i64,
    names: BTreeMap<Tenant, Box<str>>,
    logs: BTreeMap<Tenant, InMemoryLog>,
}

#[derive(Default)]
struct InMemoryLog {
    head: Head,
    leaves: Vec<Leafed>,
    tiles: BTreeMap<(u8, u64), Vec<u8>>,
}

impl InMemory {
    pub(crate) fn grow(&mut self, growth: Growth) -> bool {
        let as_it_was = growth.logs.iter().all(|grown| self.head(&grown.tenant) == grown.from);
        if self.mark != growth.after || !as_it_was {
            return false;
        }
        self.mark = growth.upto;
        for grown in growth.logs {
            let log = self.logs.entry(grown.tenant).or_default();
            log.head = grown.to;
            log.leaves.extend(grown.leaves);
            log.tiles.extend(grown.tiles.into_iter().map(|(tile, bytes)| ((tile.level, tile.index), bytes)));
        }
        true
    }

    pub(crate) fn name(&mut self, tenant: &Tenant, offered: &str) -> Box<str> {
        self.names.entry(tenant.clone()).or_insert_with(|| offered.into()).clone()
    }

    pub(crate) fn begin_anew(&mut self, names: Vec<(Tenant, Box<str>)>) {
        *self = InMemory { names: names.into_iter().collect(), ..InMemory::default() };
    }

    pub(crate) fn passed(&self) -> Passed {
        let leaves = self.logs.values().flat_map(|log| &log.leaves);
        Passed { mark: self.mark, entries: leaves.map(|leafed| leafed.entry).collect() }
    }

    pub(crate) fn head(&self, tenant: &Tenant) -> Head {
        self.logs.get(tenant).map(|log| log.head).unwrap_or_default()
    }

    pub(crate) fn tiles(&self, tenant: &Tenant, tiles: &[Tile]) -> Vec<(Tile, Vec<u8>)> {
        let stored = |tile: &Tile| self.logs.get(tenant)?.tiles.get(&(tile.level, tile.index)).cloned();
        tiles.iter().filter_map(|tile| Some((*tile, stored(tile)?))).collect()
    }

    pub(crate) fn leaves(&self, tenant: &Tenant) -> &[Leafed] {
        self.logs.get(tenant).map_or(&[], |log| &log.leaves)
    }
}

/// An action that was to be answered by then, or whose rest is over, has an end within a day, or goes on with another leaf.
const DUE_MS: u64 = 24 * 60 * 60 * 1000;
/// Begins the events of the keys that sign the receipts of all tenants.
const SIGNING_KEY: &str = "signing_key_";
/// Bytes of an entry's row before its leaf.
const ENTRY: usize = 8;
