//! The transparency log: one for each tenant, grown of entries of all chains.
//!
//! ```text
//!   entries ─▶ fresh ─▶ Sequencer ─▶ Growth ─▶ grow: compare and swap ─▶ head, tiles, leaves ─▶ (signed, published)
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
//! become leaves, and of what kind, is said by [`kind_of`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use action::{ActionId, Tenant};
use receipt::log::{Edge, Hash, Leaf, LeafKind, Nonce, Plan, RefKey, Tile, Tiles, empty_root};
use receipt::{Document, Event};

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
    /// Entries that were not taken yet, in the order of their rows: at most so many.
    fn fresh(&self, limit: u32) -> Answer<'_, Fresh>;

    /// Takes entries and grows logs by them, in one commit, if everything is as it was when the growth was made of it. False
    /// if it is not: then nothing is written.
    fn grow(&self, growth: Growth) -> Answer<'_, bool>;

    /// How far a tenant's log has grown.
    fn log_head<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Head>;

    /// These tiles of a tenant's log, as far as they are there; each may have more hashes than were asked for.
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
    /// Until when its action rests, milliseconds since 1970, UTC, where it does.
    pub rests_ms: Option<i64>,
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
    /// Its new leaves, in order; the first has the number `from.size`.
    pub leaves: Vec<NewLeaf>,
    /// Every tile that has more hashes from now on, with all it has.
    pub tiles: Vec<(Tile, Vec<u8>)>,
}

/// A leaf that has no number yet.
#[derive(Clone, Debug)]
pub struct NewLeaf {
    /// The entry that it stands for.
    pub entry: i64,
    /// The action that it is about.
    pub action: Option<ActionId>,
    /// The leaf.
    pub leaf: [u8; Leaf::SIZE],
    /// What its commitment takes beside the record; none if its receipt brings that. Erased with the action.
    pub nonce: Option<Nonce>,
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
    /// What its commitment takes beside the record; none if its receipt brings that, or it was erased.
    pub nonce: Option<Nonce>,
}

/// A tenant whose log is grown.
#[derive(Debug)]
pub struct LogOf {
    /// Which.
    pub tenant: Tenant,
    /// How the chain names it.
    pub reference: Arc<str>,
    /// By what its leaves name actions.
    pub key: RefKey,
}

/// Where nonces come from; nothing if there is no randomness to be had.
pub type Nonces<'a> = dyn FnMut() -> Option<Nonce> + Send + 'a;

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
    /// [`Error::Unavailable`] if there is no randomness; [`Error::Corrupt`] if an entry cannot be read, is of a tenant that is not among these (then nothing is taken, since it
    /// would be left out for ever), or stored tiles do not lead to the stored root; otherwise as the ledger has it.
    pub async fn round(
        &mut self,
        ledger: &(dyn Log + '_),
        logs: &[LogOf],
        nonces: &mut Nonces<'_>,
        limit: u32,
    ) -> Result<Round, Error> {
        let fresh = ledger.fresh(limit).await?;
        let Some(last) = fresh.entries.last() else { return Ok(Round::default()) };
        let (upto, entries) = (last.row, fresh.entries.len());
        let mut leaves: BTreeMap<usize, Vec<NewLeaf>> = BTreeMap::new();
        for entry in &fresh.entries {
            for (log, leaf) in leaves_of(entry, logs, nonces)? {
                leaves.entry(log).or_default().push(leaf);
            }
        }
        let mut growth = Growth { after: fresh.after, upto, logs: Vec::with_capacity(leaves.len()) };
        let mut edges = Vec::with_capacity(leaves.len());
        for (log, leaves) in leaves {
            let tenant = &logs[log].tenant;
            let mut edge = self.edge(ledger, tenant).await?;
            growth.logs.push(grown(tenant, &mut edge, leaves));
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
        let tiles = tiles(ledger, tenant, Edge::tiles(head.size).collect()).await?;
        let edge = Edge::read(head.size, &tiles).map_err(|error| broken(tenant, &error.to_string()))?;
        if edge.root() == head.root {
            Ok(edge)
        } else {
            Err(broken(tenant, "its tiles do not lead to its root"))
        }
    }
}

fn grown(tenant: &Tenant, edge: &mut Edge, leaves: Vec<NewLeaf>) -> Grown {
    let from = Head { size: edge.size(), root: edge.root() };
    let mut tiles = Vec::new();
    for leaf in &leaves {
        let mut whole = |tile, hashes: &[Hash]| tiles.push((tile, hashes.as_flattened().to_vec()));
        edge.push(receipt::log::leaf_hash(&leaf.leaf), &mut whole);
    }
    let before = from.size;
    let grew =
        |tile: &Tile| before >> (8 * u32::from(tile.level)) != edge.size() >> (8 * u32::from(tile.level));
    let partial = edge.partial().filter(|(tile, _)| grew(tile));
    tiles.extend(partial.map(|(tile, hashes)| (tile, hashes.as_flattened().to_vec())));
    Grown { tenant: tenant.clone(), from, to: Head { size: edge.size(), root: edge.root() }, leaves, tiles }
}

/// What becomes of an entry: nothing, a leaf of its tenant's log, or one of every log.
fn leaves_of(
    entry: &Unlogged,
    logs: &[LogOf],
    nonces: &mut Nonces<'_>,
) -> Result<Vec<(usize, NewLeaf)>, Error> {
    let unreadable =
        || Error::Corrupt(format!("entry {} cannot be read, and so not be logged", entry.row).into());
    let said = Reading::of(&entry.bytes).ok_or_else(unreadable)?;
    let receipt = entry.receipt.as_deref().filter(|_| said.receipt.is_some());
    let logged = receipt.and_then(Logged::of);
    let amends = logged.as_ref().is_some_and(|logged| logged.amends);
    let Some(kind) = kind_of(&said, amends) else { return Ok(Vec::new()) };
    let whose: Vec<usize> = match said.tenant {
        Some(_) if said.event.starts_with(SIGNING_KEY) => (0..logs.len()).collect(),
        Some(reference) => {
            let known = logs.iter().position(|log| *log.reference == *reference);
            let unknown = || {
                let why =
                    format!("entry {} is of a tenant that is not configured (`{reference}`)", entry.row);
                Error::Corrupt(why.into())
            };
            vec![known.ok_or_else(unknown)?]
        }
        None => (0..logs.len()).collect(),
    };
    let at = u64::try_from(said.at_ms).unwrap_or(0);
    let due_by = match kind {
        LeafKind::Intent => {
            let rests = entry.rests_ms.and_then(|rests| u64::try_from(rests).ok()).unwrap_or(0);
            Leaf::hour_of_millis(at.max(rests).saturating_add(DUE_MS))
        }
        _ => 0,
    };
    let record = receipt.unwrap_or(&entry.bytes);
    let leaves = whose.into_iter().map(|log| {
        let brought = logged.as_ref().and_then(|logged| logged.nonce);
        let nonce =
            brought.or_else(&mut *nonces).ok_or_else(|| Error::Unavailable("no randomness".into()))?;
        let action_ref = said.action.map_or([0; 32], |id| logs[log].key.action_ref(&id.to_string()));
        let hour = Leaf::hour_of_millis(at);
        let leaf = Leaf { kind, action_ref, hour, due_by, commitment: Leaf::commit(&nonce, record) };
        let nonce = Some(nonce).filter(|_| brought.is_none());
        Ok((log, NewLeaf { entry: entry.row, action: said.action, leaf: leaf.to_bytes(), nonce }))
    });
    leaves.collect()
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

/// Whether leaves of these entries tell until when their action rests.
pub(crate) fn rests(event: &str) -> bool {
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
    let tiles = tiles(ledger, tenant, plan.tiles()).await?;
    plan.hashes(&tiles).map_err(|error| broken(tenant, &error.to_string()))
}

async fn tiles(ledger: &(dyn Log + '_), tenant: &Tenant, wanted: Vec<Tile>) -> Result<Tiles, Error> {
    let mut tiles = Tiles::default();
    for (tile, bytes) in ledger.log_tiles(tenant, wanted).await? {
        tiles.insert(tile, &bytes).map_err(|error| broken(tenant, &error.to_string()))?;
    }
    Ok(tiles)
}

fn broken(tenant: &Tenant, why: &str) -> Error {
    Error::Corrupt(format!("the log of tenant `{tenant}`: {why}").into())
}

/// The logs of a ledger that keeps nothing.
#[derive(Default)]
pub(crate) struct InMemory {
    pub(crate) mark: i64,
    logs: BTreeMap<Tenant, InMemoryLog>,
}

#[derive(Default)]
struct InMemoryLog {
    head: Head,
    leaves: Vec<(Leafed, Option<ActionId>)>,
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
            for (number, NewLeaf { entry, action, leaf, nonce }) in (grown.from.size..).zip(grown.leaves) {
                log.leaves.push((Leafed { number, entry, leaf, nonce }, action));
            }
            log.tiles.extend(grown.tiles.into_iter().map(|(tile, bytes)| ((tile.level, tile.index), bytes)));
        }
        true
    }

    pub(crate) fn head(&self, tenant: &Tenant) -> Head {
        self.logs.get(tenant).map(|log| log.head).unwrap_or_default()
    }

    pub(crate) fn tiles(&self, tenant: &Tenant, tiles: &[Tile]) -> Vec<(Tile, Vec<u8>)> {
        let stored = |tile: &Tile| self.logs.get(tenant)?.tiles.get(&(tile.level, tile.index)).cloned();
        tiles.iter().filter_map(|tile| Some((*tile, stored(tile)?))).collect()
    }

    pub(crate) fn leaves(&self, tenant: &Tenant) -> impl Iterator<Item = Leafed> {
        self.logs.get(tenant).into_iter().flat_map(|log| log.leaves.iter().map(|(leaf, _)| *leaf))
    }

    pub(crate) fn erase(&mut self, action: ActionId) {
        let leaves = self.logs.values_mut().flat_map(|log| &mut log.leaves);
        leaves.filter(|(_, of)| *of == Some(action)).for_each(|(leaf, _)| leaf.nonce = None);
    }
}

/// An action that was sent, or whose rest is over, has an end within a day, or goes on with another leaf.
const DUE_MS: u64 = 24 * 60 * 60 * 1000;
/// Begins the events of the keys that sign the receipts of all tenants.
const SIGNING_KEY: &str = "signing_key_";
