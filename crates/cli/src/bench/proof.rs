//! How fast receipts verify: many of them in one file, `countersign verify --jsonl` as anyone would run it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use receipt::{
    Chain, Checkpoint, Draft, Environment, Event, Json, Jwk, Jwks, Kind, Metadata, MoneyFields, NewEntry,
    PaymentStatus, Pin, Promise, SigningKey, Stage, Timestamp,
};
use serde::Serialize;

use super::{Effort, process, tell};
use crate::child::this_program;
use crate::error::{Context, Error, Result};

/// What `verify --jsonl` does.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Proof {
    pub(crate) receipts: usize,
    pub(crate) bytes_per_receipt: usize,
    /// All cores together, by the clock on the wall.
    pub(crate) per_second: f64,
    /// Per second of CPU, start-up included.
    pub(crate) per_core_second: Option<f64>,
}

impl Proof {
    pub(crate) fn measure(folder: &Path, effort: &Effort) -> Result<Proof> {
        let bar = tell::doing("verify --jsonl");
        let (file, count) = (folder.join("receipts.jsonl"), effort.receipts);
        let bytes = write(folder, &file, count)?;
        let begun = Instant::now();
        let mut verify = this_program()?;
        verify.arg("verify").arg(&file).args(["--jsonl", "--json", "--issuer"]).arg(folder.join(PIN));
        verify.arg("--jwks").arg(folder.join(JWKS)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = verify.spawn().while_we(|| "cannot start `verify`".to_owned())?;
        let cpu = process::cpu_when_ended(&child);
        let ended = child.wait().while_we(|| "`verify` broke off".to_owned())?;
        let seconds = begun.elapsed().as_secs_f64();
        bar.finish_and_clear();
        if !ended.success() {
            return Err(Error::new("`verify` refused receipts that were just signed"));
        }
        std::fs::remove_file(&file).while_we(|| "cannot remove a temporary file".to_owned())?;
        Ok(Proof {
            receipts: count,
            bytes_per_receipt: bytes / count,
            per_second: count as f64 / seconds,
            per_core_second: cpu.map(|cpu| count as f64 / cpu.as_secs_f64()),
        })
    }
}

/// Signs receipts, one a line; returns how many bytes they are. Key set and pin are left beside them.
fn write(folder: &Path, file: &Path, count: usize) -> Result<usize> {
    let cannot = || format!("cannot write `{}`", file.display());
    let (key, at) =
        (SigningKey::generate().while_we(cannot)?, Timestamp::from_unix_millis(1_777_291_200_000));
    let jwks = Jwks::new(vec![Jwk::active(key.public().clone(), at)]).while_we(cannot)?;
    std::fs::write(folder.join(JWKS), jwks.as_bytes()).while_we(cannot)?;
    std::fs::write(folder.join(PIN), Pin::new(ISSUER, &jwks).to_text()).while_we(cannot)?;
    let chain = chain(at).while_we(cannot)?;
    let mut out = BufWriter::new(File::create(file).while_we(cannot)?);
    let mut bytes = 0;
    for number in 0..count {
        let receipt = receipt::sign(&draft(number), &chain, &key).while_we(cannot)?;
        out.write_all(receipt.as_bytes()).and_then(|()| out.write_all(b"\n")).while_we(cannot)?;
        bytes += receipt.as_bytes().len();
    }
    out.flush().while_we(cannot)?;
    Ok(bytes)
}

/// Signs receipts that promise a place in a log.
pub(super) struct Signer {
    chain: Chain,
    key: SigningKey,
}

pub(super) fn signer() -> Result<Signer> {
    let cannot = || "cannot sign receipts".to_owned();
    let key = SigningKey::generate().while_we(cannot)?;
    let chain = chain(Timestamp::from_unix_millis(1_777_291_200_000)).while_we(cannot)?;
    Ok(Signer { chain, key })
}

impl Signer {
    /// The receipt of that number, as a ledger takes it.
    pub(super) fn sign(&self, number: u64) -> Result<ledger::Receipt> {
        let mut draft = draft(usize::try_from(number).unwrap_or(usize::MAX));
        let mut nonce = [0; 32];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        let merge_by = Timestamp::from_unix_millis(1_777_377_600_000);
        draft.metadata.log = Some(Checkpoint {
            origin: "bench.example/log/default".into(),
            size: number,
            root: "ab".repeat(32).into(),
            promise: Some(Promise { merge_by, nonce: Promise::spelled(&nonce).into() }),
        });
        let signed = receipt::sign(&draft, &self.chain, &self.key);
        let signed = signed.while_we(|| "cannot sign a receipt".to_owned())?;
        Ok(ledger::Receipt {
            id: draft.receipt_id.into(),
            short: signed.short().into(),
            signature: signed.signature_value().into(),
            document: signed.into_bytes(),
        })
    }
}

/// Nine entries, as of an executed payment.
fn chain(at: Timestamp) -> std::result::Result<Chain, receipt::Error> {
    let value = serde_json::json!({
        "amount": "12.50",
        "commitment": "c:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU",
        "verdict": "pass",
    });
    let content = Json::canonical(&value)?;
    let entry = || NewEntry { output: content.clone(), latency_ms: 1, ..NewEntry::at(at) };
    let mut chain = Chain::genesis(entry())?;
    for stage in Stage::ALL.into_iter().filter(|stage| *stage != Stage::Genesis) {
        chain.push(stage, entry())?;
    }
    Ok(chain)
}

fn draft(number: usize) -> Draft<'static> {
    let id = |kind: &str| format!("01966a50-0000-7000-8{kind}0-{number:012x}").into();
    Draft {
        receipt_id: id("a0"),
        transaction_id: id("b0"),
        agent_id: "bench-agent".into(),
        session_id: None,
        event: Event::Original,
        payment_status: PaymentStatus::Charged,
        money: MoneyFields {
            offer_currency: Some("USD".into()),
            offer_amount: Some("12.50".into()),
            charge_currency: Some("USD".into()),
            charge_amount: Some("12.50".into()),
        },
        idempotency_key: Some(format!("bench-{number:012}").into()),
        replica_id: "replica-1".into(),
        chain_id: "chain-1".into(),
        regulatory_framework: Vec::new(),
        metadata: Metadata {
            issuer: ISSUER.into(),
            tenant: "default".into(),
            environment: Environment::Production,
            archetype: Some("PAYMENT_TRANSFER".into()),
            kind: Kind::Executed,
            mandate_id: Some("mnd-1".into()),
            intent_id: None,
            guarantee_level: Some("atp-2".into()),
            policy_digest: Some("ab".repeat(32).into()),
            catalog_digest: Some("cd".repeat(32).into()),
            entity_digest: Some("ef".repeat(32).into()),
            approvals: Vec::new(),
            observed: None,
            log: None,
        },
    }
}

const ISSUER: &str = "https://bench.example";
const JWKS: &str = "jwks.json";
const PIN: &str = "pin.json";

#[cfg(test)]
mod tests {
    use receipt::{Trust, Verdict};

    use super::*;

    #[test]
    fn the_receipts_are_genuine_and_distinct() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("receipts.jsonl");
        write(folder.path(), &file, 2).expect("they are signed");
        let read = |name: &str| std::fs::read(folder.path().join(name)).expect("it was written");
        let jwks = Jwks::parse(&read(JWKS)).expect("a key set");
        let pin = Pin::parse(&String::from_utf8(read(PIN)).expect("text")).expect("a pin");
        let trust = Trust::new(&pin, &jwks);
        let text = read("receipts.jsonl");
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 2);
        assert_ne!(lines[0], lines[1]);
        assert!(lines.iter().all(|line| receipt::verify(line, &trust).verdict == Verdict::Valid));
    }
}
