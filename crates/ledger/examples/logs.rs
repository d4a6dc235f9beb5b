//! How quick a transparency log is: `cargo run --release -p countersign-ledger --example logs [LEAVES]`.
//!
//! Writes actions into a store of its own, grows the log by all of them at once, and proves leaves of it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

extern crate countersign_ledger as ledger;

use std::time::{Duration, Instant};

use action::Tenant;
use ledger::{Event, Ledger, Log, LogOf, Options, Sequencer, Sqlite};
use receipt::log::{Leaf, Plan, RefKey, verify_inclusion};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let leaves = std::env::args().nth(1).map_or(200_000, |count| count.parse().unwrap());
    let directory = std::env::temp_dir().join(format!("countersign-logs-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("ledger.db");
    let store = Sqlite::open(&file, Options::new("chain-1", 1_777_000_000_000)).unwrap();
    write(&store, leaves).await;
    let before = std::fs::metadata(&file).unwrap().len();

    let (tenant, log) = (Tenant::default(), log());
    let (mut sequencer, mut taken, mut nonce) = (Sequencer::default(), 0, [0; 32]);
    let started = Instant::now();
    loop {
        let mut nonces = || {
            nonce[0] = u8::wrapping_add(nonce[0], 1);
            Some(nonce)
        };
        let round = sequencer.round(&store, &log, &mut nonces, 512).await.unwrap();
        taken += round.entries;
        if round.entries == 0 {
            break;
        }
    }
    let head = store.log_head(&tenant).await.unwrap();
    let rate = head.size as f64 / started.elapsed().as_secs_f64();
    println!("{} leaves of {taken} entries: {rate:.0} leaves/s", head.size);
    prove(&store, &tenant).await;
    drop(store);
    let grown = std::fs::metadata(&file).unwrap().len() - before;
    println!("{:.0} bytes of the file for each leaf", grown as f64 / head.size as f64);
    std::fs::remove_dir_all(directory).unwrap();
}

/// Proofs of leaves all over the log, each of them checked.
async fn prove(store: &Sqlite, tenant: &Tenant) {
    let head = store.log_head(tenant).await.unwrap();
    let mut times = Vec::new();
    for number in 0..1000 {
        let index = head.size / 1000 * number;
        let started = Instant::now();
        let leaf = store.log_leaves(tenant, index, 1).await.unwrap()[0];
        let plan = Plan::inclusion(index, head.size).unwrap();
        let path = ledger::hashes(store, tenant, &plan).await.unwrap();
        times.push(started.elapsed());
        let hash = Leaf::parse(&leaf.leaf).unwrap().hash();
        verify_inclusion(&hash, index, head.size, &path, &head.root).unwrap();
    }
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("a proof: {:.2} ms, at most {:.2} ms", ms(times[500]), ms(times[999]));
}

/// Refusals with receipts: one entry each, and one leaf.
async fn write(store: &Sqlite, count: u64) {
    let mut waiting = Vec::new();
    for number in 0..count {
        waiting.push(store.record(event(number)));
        if waiting.len() == 4096 {
            futures_util::future::join_all(waiting.drain(..)).await;
        }
    }
    futures_util::future::join_all(waiting).await;
}

fn event(number: u64) -> Event {
    Event {
        at_ms: 1_777_000_000_000,
        tenant_ref: Some("t-1".into()),
        event: "mandate_issued",
        record: format!("{{\"number\":{number}}}").into_bytes(),
    }
}

fn log() -> [LogOf; 1] {
    [LogOf { tenant: Tenant::default(), reference: "t-1".into(), key: RefKey::new(&[7; 32]) }]
}
