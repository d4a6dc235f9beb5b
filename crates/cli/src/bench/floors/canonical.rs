//! A receipt written as canonical JSON, the cheapest way there is: a struct whose members stand in canonical order.

use std::hint::black_box;

use serde::Serialize;

use super::{Effort, Timed, timed};
use crate::error::{Context, Result};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Receipt<'a> {
    agent_id: &'a str,
    chain_id: &'a str,
    created: &'a str,
    entries: Vec<Entry<'a>>,
    idempotency_key: &'a str,
    payment_status: &'a str,
    receipt_id: &'a str,
    signature: &'a str,
    transaction_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    checkpoint_signature: Option<&'a str>,
    cost: Option<&'a str>,
    error: Option<&'a str>,
    hash: &'a str,
    input: Content<'a>,
    latency_ms: u64,
    metadata: At<'a>,
    output: Content<'a>,
    previous_hash: &'a str,
    stage: &'a str,
}

#[derive(Serialize)]
struct At<'a> {
    at: &'a str,
}

#[derive(Clone, Copy, Serialize)]
struct Content<'a> {
    amount: &'a str,
    currency: &'a str,
    ok: bool,
    total: u64,
}

pub(crate) fn measure(effort: &Effort) -> Result<Timed> {
    let id = "01966a50-0000-7000-8000-0000000000b1";
    let hash = "ab".repeat(32);
    let receipt = Receipt {
        agent_id: "bench-agent",
        chain_id: id,
        created: AT,
        entries: STAGES.iter().map(|stage| entry(stage, &hash)).collect(),
        idempotency_key: "bench-000000000042",
        payment_status: "charged",
        receipt_id: id,
        signature: &hash,
        transaction_id: id,
    };
    timed(effort, || {
        serde_json::to_vec(black_box(&receipt)).while_we(|| "cannot write the sample receipt".to_owned())
    })
}

fn entry<'a>(stage: &'a str, hash: &'a str) -> Entry<'a> {
    let content = Content { amount: "12.50", currency: "USD", ok: true, total: 1250 };
    Entry {
        checkpoint_signature: None,
        cost: None,
        error: None,
        hash,
        input: content,
        latency_ms: 1,
        metadata: At { at: AT },
        output: content,
        previous_hash: hash,
        stage,
    }
}

const AT: &str = "2026-04-27T12:00:00.000Z";
const STAGES: [&str; 9] = [
    "__genesis__",
    "token_validation",
    "schema",
    "boundary",
    "completeness",
    "math",
    "execute",
    "commit_auth_split",
    "receipt",
];
