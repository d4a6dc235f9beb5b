//! The transparency log: how soon a backlog is in it, how soon a proof is made, and what a leaf takes of the store.
//!
//! A store is filled through the ledger, in this process, with actions of two entries, the second with a signed receipt; then the
//! log grows by all of them at once, as that of a gateway does that was away.

use std::path::Path;
use std::time::{Duration, Instant};

use action::Tenant;
use ledger::{Head, Ledger, Log, LogOf, Options, Sequencer, Sqlite};
use receipt::log::{Leaf, Plan, RefKey, verify_inclusion};
use serde::Serialize;
use tokio::runtime::Builder;

use super::client::percentile;
use super::{proof, tell, trail};
use crate::error::{Context, Error, Result};

/// What was measured of the log.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Logged {
    pub(crate) leaves: u64,
    /// From a backlog of all of them, commits included.
    pub(crate) per_second: f64,
    pub(crate) proof_p50_ms: f64,
    /// The slowest of a thousand, all over the log.
    pub(crate) proof_most_ms: f64,
    /// Of the store, for each leaf, with tiles and indices.
    pub(crate) bytes_per_leaf: f64,
    /// Hashes alone.
    pub(crate) tile_bytes_per_leaf: f64,
}

impl Logged {
    pub(crate) fn measure(folder: &Path, leaves: u64) -> Result<Logged> {
        let folder = tempfile::tempdir_in(folder).while_we(|| "cannot make a temporary folder".to_owned())?;
        let store = folder.path().join("production.db");
        trail::fill(&store, leaves / 2, Some(proof::signer()?))?;
        let runtime = Builder::new_current_thread().build().while_we(|| CANNOT.to_owned())?;
        runtime.block_on(measure(&store))
    }
}

async fn measure(store: &Path) -> Result<Logged> {
    let options = Options::new("01963e5a-0000-7000-8000-000000000001", trail::BEGAN_MS);
    let ledger = Sqlite::open(store, options).while_we(|| CANNOT.to_owned())?;
    let (before, tenant) = (bytes(store)?, Tenant::default());
    let begun = Instant::now();
    grow(&ledger, &tenant).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let head = ledger.logs().log_head(&tenant).await.while_we(|| CANNOT.to_owned())?;
    let mut took = Vec::with_capacity(PROOFS);
    let bar = tell::doing("transparency log: proofs");
    for number in 0..PROOFS as u64 {
        let index = (head.size * number / PROOFS as u64).min(head.size - 1);
        let time = prove(ledger.logs(), &tenant, head, index).await?;
        took.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
    bar.finish_and_clear();
    took.sort_unstable();
    let millis = |share| percentile(&took, share) as f64 / 1e6;
    let (proof_p50_ms, proof_most_ms) = (millis(0.5), millis(1.0));
    let leaves = head.size as f64;
    drop(ledger);
    let tiles = read(store, "SELECT total(length(hashes)) FROM log_tile")?;
    Ok(Logged {
        leaves: head.size,
        per_second: leaves / seconds,
        proof_p50_ms,
        proof_most_ms,
        bytes_per_leaf: (bytes(store)? - before) / leaves,
        tile_bytes_per_leaf: tiles / leaves,
    })
}

async fn grow(ledger: &Sqlite, tenant: &Tenant) -> Result<()> {
    let log = [LogOf { tenant: tenant.clone(), reference: "bench".into(), key: RefKey::new(&[7; 32]) }];
    let mut sequencer = Sequencer::default();
    let bar = tell::doing("transparency log: a backlog");
    loop {
        let round = sequencer.round(ledger.logs(), &log, &mut |_: &[u8]| Some([7; 32]), ROUND).await;
        if round.while_we(|| CANNOT.to_owned())?.entries == 0 {
            bar.finish_and_clear();
            return Ok(());
        }
    }
}

/// How long a proof takes to be made; that it is one is looked at besides.
async fn prove(log: &dyn Log, tenant: &Tenant, head: Head, index: u64) -> Result<Duration> {
    let cannot = || CANNOT.to_owned();
    let begun = Instant::now();
    let leaves = log.log_leaves(tenant, index, 1).await.while_we(cannot)?;
    let plan = Plan::inclusion(index, head.size).while_we(cannot)?;
    let path = ledger::hashes(log, tenant, &plan).await.while_we(cannot)?;
    let took = begun.elapsed();
    let leaf = leaves.first().ok_or_else(|| Error::new(CANNOT))?;
    let hash = Leaf::parse(&leaf.leaf).while_we(cannot)?.hash();
    verify_inclusion(&hash, index, head.size, &path, &head.root).while_we(cannot)?;
    Ok(took)
}

/// Pages in use.
fn bytes(store: &Path) -> Result<f64> {
    read(
        store,
        "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size) * 1.0",
    )
}

fn read(store: &Path, sql: &str) -> Result<f64> {
    let db = rusqlite::Connection::open(store).while_we(|| CANNOT.to_owned())?;
    db.query_row(sql, [], |row| row.get(0)).while_we(|| CANNOT.to_owned())
}

const CANNOT: &str = "the transparency log could not be measured";
/// As many entries a gateway takes in one round.
const ROUND: u32 = 512;
const PROOFS: usize = 1000;
