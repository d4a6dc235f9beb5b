//! The least that each part can cost: the library alone, one thread, no hand-over, everything in cache.

mod canonical;
mod cedar;

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::digest::{Context as Hasher, SHA256};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Effort, sample, tell};
use crate::error::{Context, Error, Result};

/// One figure: microseconds each time, over several rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Timed {
    pub(crate) median_us: f64,
    pub(crate) least_us: f64,
    pub(crate) most_us: f64,
}

/// What the libraries need for each part of an action.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Floors {
    /// ES256 over 4 KB, hashing included.
    pub(crate) sign: Timed,
    /// Its verification with a parsed key.
    pub(crate) verify: Timed,
    /// SHA-256 of nine entries of 350 bytes, each over the one before.
    pub(crate) chain: Timed,
    /// A receipt of nine entries as canonical JSON, from a struct in canonical order.
    pub(crate) jcs: Timed,
    /// A request to a `Value`, its schema, and typed members.
    pub(crate) parse_and_schema: Timed,
    /// Context from pairs and one question, ten policies, cut to those of the action.
    pub(crate) cedar_10: Timed,
    /// The same with a hundred.
    pub(crate) cedar_100: Timed,
}

impl Floors {
    pub(crate) fn measure(effort: &Effort) -> Result<Floors> {
        let bar = tell::doing("floors: ES256");
        let (sign, verify) = signature(effort)?;
        bar.set_message("floors: chain, canonical form");
        let (chain, jcs) = (chain(effort)?, canonical::measure(effort)?);
        bar.set_message("floors: parse and schema");
        let parse_and_schema = parse_and_schema(effort)?;
        bar.set_message("floors: Cedar");
        let (cedar_10, cedar_100) = (cedar::measure(10, effort)?, cedar::measure(100, effort)?);
        bar.finish_and_clear();
        Ok(Floors { sign, verify, chain, jcs, parse_and_schema, cedar_10, cedar_100 })
    }

    /// Microseconds of everything that an action needs beside HTTP and a store.
    pub(crate) fn of_an_action(&self) -> f64 {
        [self.parse_and_schema, self.cedar_10, self.chain, self.jcs, self.sign]
            .map(|part| part.median_us)
            .iter()
            .sum()
    }
}

/// Times `work`: rounds of so many repetitions that each lasts long enough to be timed.
fn timed<T>(effort: &Effort, mut work: impl FnMut() -> Result<T>) -> Result<Timed> {
    let mut repetitions = 1_u32;
    loop {
        let took = round(repetitions, &mut work)? * f64::from(repetitions);
        if took >= effort.round.as_secs_f64() * 1e6 / 2.0 || repetitions >= 1 << 24 {
            break;
        }
        repetitions *= 2;
    }
    let mut rounds = (0..effort.rounds).map(|_| round(repetitions, &mut work)).collect::<Result<Vec<_>>>()?;
    rounds.sort_by(f64::total_cmp);
    Ok(Timed { median_us: rounds[rounds.len() / 2], least_us: rounds[0], most_us: rounds[rounds.len() - 1] })
}

/// Microseconds of one repetition.
fn round<T>(repetitions: u32, work: &mut impl FnMut() -> Result<T>) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..repetitions {
        black_box(work()?);
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(repetitions))
}

fn signature(effort: &Effort) -> Result<(Timed, Timed)> {
    let failed = |_| Error::new("the cryptographic library failed");
    let (random, message) = (SystemRandom::new(), vec![b'a'; 4096]);
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
    let sign = timed(effort, || key.sign(&random, black_box(&message)).map_err(failed))?;
    let signature = key.sign(&random, &message).map_err(failed)?;
    let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref());
    let public = public.map_err(|_| Error::new("the cryptographic library refused its own key"))?;
    let verify =
        timed(effort, || public.verify_sig(black_box(&message), signature.as_ref()).map_err(failed))?;
    Ok((sign, verify))
}

fn chain(effort: &Effort) -> Result<Timed> {
    let entry = [b'e'; 350];
    timed(effort, || {
        let mut previous = hex::encode([0; 32]);
        for _ in 0..9 {
            let mut hasher = Hasher::new(&SHA256);
            hasher.update(previous.as_bytes());
            hasher.update(black_box(&entry));
            previous = hex::encode(hasher.finish());
        }
        Ok(previous)
    })
}

/// A request as its face reads it.
#[derive(Deserialize)]
struct Typed<'a> {
    archetype: &'a str,
    agent_id: &'a str,
    delegation_token: &'a str,
    payment_mode: &'a str,
    #[serde(borrow)]
    constraints: Constraints<'a>,
}

#[derive(Deserialize)]
struct Constraints<'a> {
    recipient: &'a str,
    amount_usd: &'a str,
    max_total_usd: &'a str,
    invoice: &'a str,
    note: &'a str,
}

fn parse_and_schema(effort: &Effort) -> Result<Timed> {
    let schema = serde_json::json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["recipient", "amount_usd", "max_total_usd", "invoice"],
        "properties": {
            "recipient": {"type": "string"},
            "amount_usd": {"type": "string"},
            "max_total_usd": {"type": "string"},
            "invoice": {"type": "string"},
            "note": {"type": "string", "maxLength": 140},
        },
    });
    let validator =
        jsonschema::validator_for(&schema).map_err(|error| Error::new(format!("schema: {error}")))?;
    let body = sample::body(sample::PAYMENT, &"t".repeat(600), 7).to_string();
    let wrong = || "the sample request does not read".to_owned();
    timed(effort, || {
        let value: Value = serde_json::from_slice(black_box(body.as_bytes())).while_we(wrong)?;
        let valid = validator.is_valid(&value["constraints"]);
        let typed = Typed::deserialize(&value).while_we(wrong)?;
        let inner = typed.constraints;
        let outer = [typed.archetype, typed.agent_id, typed.delegation_token, typed.payment_mode];
        let inner = [inner.recipient, inner.amount_usd, inner.max_total_usd, inner.invoice, inner.note];
        let length: usize = outer.iter().chain(&inner).map(|text| text.len()).sum();
        Ok(black_box(length + usize::from(valid)))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::load::Until;

    #[test]
    fn every_floor_can_be_measured() {
        let until = Until::Millis(1);
        let (round, warm_up) = (Duration::from_micros(10), Duration::ZERO);
        let effort =
            Effort { rounds: 3, round, warm_up, until, receipts: 1, starts: 1, in_flight: 1, cycles: &[] };
        let floors = Floors::measure(&effort).expect("they are measured");
        assert!(floors.of_an_action() > 0.0);
        assert!(
            floors.sign.least_us <= floors.sign.median_us && floors.sign.median_us <= floors.sign.most_us
        );
    }
}
