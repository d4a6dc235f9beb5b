//! The audit trail over a big store: how long its first page takes, by filter, also where next to nothing is found.
//!
//! A million entries through HTTP would take minutes, so the store is filled through the ledger, in this process, and
//! then served and asked as its users ask.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use action::{ActionId, Environment, Subject, Tenant};
use ledger::{Admission, By, Draft, Intent, Labels, Ledger, Options, Outcome, Settlement, Sqlite, State};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::client::percentile;
use super::proof::Signer;
use super::served::Site;
use super::tell;
use crate::error::{Context, Error, Result};

/// What was measured of the trail.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Trail {
    pub(crate) entries: u64,
    pub(crate) filled_per_second: f64,
    /// What the index takes of the store for each action of two entries.
    pub(crate) index_rows_per_action: f64,
    pub(crate) index_bytes_per_action: f64,
    pub(crate) pages: Vec<FirstPage>,
}

/// One filter's first page.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FirstPage {
    pub(crate) filter: &'static str,
    pub(crate) entries: usize,
    pub(crate) p50_ms: f64,
    pub(crate) most_ms: f64,
}

impl Trail {
    pub(crate) fn measure(folder: &Path, entries: u64) -> Result<Trail> {
        let site = Site::prepare(folder)?;
        let begun = Instant::now();
        fill(&site.store(), entries / 2, None)?;
        let filled_per_second = entries as f64 / begun.elapsed().as_secs_f64();
        let (rows, bytes) =
            index(&site.store()).while_we(|| "cannot read the store that was filled".to_owned())?;
        let gateway = site.serve()?;
        let client = gateway.operator()?;
        let bar = tell::doing("audit trail: first pages");
        let mut pages = Vec::with_capacity(FILTERS.len());
        for (filter, query) in FILTERS {
            let (mut took, mut entries) = (Vec::with_capacity(ROUNDS), 0);
            for _ in 0..ROUNDS {
                let begun = Instant::now();
                let page = client.get(&format!("/v1/audit?{query}"))?;
                took.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
                entries = page["entries"].as_array().map_or(0, Vec::len);
            }
            took.sort_unstable();
            let millis = |share| percentile(&took, share) as f64 / 1e6;
            pages.push(FirstPage { filter, entries, p50_ms: millis(0.5), most_ms: millis(1.0) });
        }
        bar.finish_and_clear();
        let actions = entries as f64 / 2.0;
        Ok(Trail {
            entries,
            filled_per_second,
            index_rows_per_action: rows / actions,
            index_bytes_per_action: bytes / actions,
            pages,
        })
    }

    /// The slowest first page, milliseconds.
    pub(crate) fn slowest_ms(&self) -> f64 {
        self.pages.iter().map(|page| page.p50_ms).fold(0.0, f64::max)
    }
}

/// Actions of 256 agents and 8 archetypes, admitted and settled; the first of them are of an agent, a session and an
/// archetype that nobody has later.
pub(super) fn fill(store: &Path, actions: u64, signer: Option<Signer>) -> Result<()> {
    let cannot = || format!("cannot fill `{}`", store.display());
    let runtime = Builder::new_current_thread().build().while_we(cannot)?;
    let options = Options::new("01963e5a-0000-7000-8000-000000000000", BEGAN_MS);
    let ledger = Arc::new(Sqlite::open(store, options).while_we(cannot)?);
    let signer = signer.map(Arc::new);
    let bar = tell::running("filling a store", actions);
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for number in 0..actions {
            while tasks.len() >= AT_ONCE {
                tasks.join_next().await.transpose().while_we(cannot)?.transpose()?;
            }
            let (ledger, signer) = (Arc::clone(&ledger), signer.clone());
            tasks.spawn(async move { one(&ledger, number, signer.as_deref()).await });
            bar.set_position(number);
        }
        while let Some(done) = tasks.join_next().await {
            done.while_we(cannot)??;
        }
        bar.finish_and_clear();
        Ok(())
    })
}

async fn one(ledger: &Sqlite, number: u64, signer: Option<&Signer>) -> Result<()> {
    let cannot = || "the store to be filled refused an action".to_owned();
    let rare = number < 8;
    let named = |common: String, uncommon: &str| if rare { uncommon.to_owned() } else { common };
    let subject = Subject::parse(&named(format!("agent-{:03}", number % 256), "agent-rare"));
    let at_ms = BEGAN_MS + i64::try_from(number).unwrap_or(0) * 100;
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    let id = ActionId::new(at_ms.unsigned_abs(), random);
    let draft = |event, state| Draft {
        tenant_ref: Some("bench".into()),
        attempt: Some(1),
        event,
        state: Some(state),
        action_hash: Some([7; 32]),
    };
    let archetype = named(format!("ARCHETYPE_{}", number % 8), "ARCHETYPE_RARE");
    let intent = Intent {
        id,
        tenant: Tenant::default(),
        environment: Environment::Production,
        subject: subject.map_err(|_| Error::new("an agent of the bench has no name"))?,
        key: Some(format!("bench-{number:012}").into()),
        request_hash: [1; 32],
        archetype: archetype.as_str().into(),
        provider: None,
        principal: "bench".into(),
        at_ms,
        amount: None,
        usage: Default::default(),
        labels: Labels {
            session: Some(named(format!("session-{:06}", number / 32), "session-rare").into()),
            verb: None,
            target: None,
            level: Some(named(format!("atp-{}", number % 2 + 1), "atp-3").into()),
            regulations: if rare { vec!["RARE".into()] } else { Vec::new() },
            refs: Vec::new(),
        },
        payload: vec![b' '; 256],
        erased_after_ms: None,
        entry: draft("admitted", "EXECUTING"),
    };
    let lease_ms = at_ms + 60_000;
    let (debits, effect, destination) = (Vec::new(), None, None);
    let admission = Admission { intent, hold: None, debits, effect, destination, cycle: None, lease_ms };
    ledger.admit(admission).await.while_we(cannot)?;
    let (state, word) =
        if number.is_multiple_of(16) { (State::Failed, "FAILED") } else { (State::Executed, "COMPLETED") };
    let outcome = Outcome {
        at_ms: at_ms + 50,
        state,
        reply: None,
        receipt: signer.map(|signer| signer.sign(number)).transpose()?,
        payload: Vec::new(),
        entry: draft("executed", word),
    };
    let settlement = Settlement {
        action: id,
        by: By::Holder(1),
        outcome,
        charged: None,
        used: None,
        overage: None,
        halts: None,
        original: true,
    };
    ledger.settle(settlement).await.map(drop).while_we(cannot)
}

/// Rows and bytes of the index.
fn index(store: &Path) -> rusqlite::Result<(f64, f64)> {
    let db = Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = "SELECT count(*) + (SELECT count(*) FROM audit_slice), total(length(postings)) FROM audit_term";
    db.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)? as f64, row.get(1)?)))
}

/// What is asked, and what it is called. Few: what only the first actions have, so that it is as far away as can be.
const FILTERS: [(&str, &str); 18] = [
    ("none", ""),
    ("oldest first", "order=oldest"),
    ("agent", "agent_id=agent-007"),
    ("agent, few", "agent_id=agent-rare"),
    ("agent, nobody", "agent_id=nobody"),
    ("session", "session_id=session-000100"),
    ("session, few", "session_id=session-rare"),
    ("verb", "verb=ARCHETYPE_3"),
    ("archetype", "archetype=ARCHETYPE_3"),
    ("archetype, few", "archetype=ARCHETYPE_RARE"),
    ("regulation, few", "regulation_ref=RARE"),
    ("regulation, none", "regulation_ref=NONE"),
    ("level, few", "guarantee_level=atp-3"),
    ("state", "result_state=FAILED"),
    ("state, none", "result_state=APPROVED"),
    ("an hour", "time_from=2026-01-01T06:00:00Z&time_to=2026-01-01T07:00:00Z"),
    ("an agent's failures at level 1", "agent_id=agent-016&result_state=FAILED&guarantee_level=atp-1"),
    ("agent and archetype that never meet", "agent_id=agent-007&archetype=ARCHETYPE_3"),
];

/// 2026-01-01T00:00:00Z.
pub(super) const BEGAN_MS: i64 = 1_767_225_600_000;
const AT_ONCE: usize = 1024;
const ROUNDS: usize = 20;
