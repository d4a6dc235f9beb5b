//! `countersign verify`: receipts checked from files alone, with what the verifier already believes.

mod lines;
mod sources;
mod tell;
mod trust;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use receipt::log::{Bundle, Proof};
use receipt::{Failure, Report, Trust, Verdict};

use crate::error::{Context, Error, Result};
use tell::Finding;

pub(crate) use sources::documents;
pub(crate) use trust::{Belief, Named, read_pin};

/// Verify receipts, without a gateway and without trusting whoever handed them over
///
/// Checked are the form, the chain of entries, the key, the signature, the key's times and custody, disclosed values
/// and people's approvals. Exit code: 0 all valid, 1 at least one is not (or could not be read), 2 all genuine, but one
/// was signed by a key lost later and nothing proves that it was signed before; 64 the command line was not understood.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Receipts: files, folders (their *.json, or *.jsonl with --jsonl; jwks.json is left out), or `-` for stdin
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Whose receipts they must be: `sha256:…`, the digest of the issuer's key set, or a pin file
    ///
    /// Get it from the issuer by a way that whoever hands you receipts cannot touch. `countersign keys pin` prints it.
    #[arg(long, value_name = "PIN")]
    issuer: String,
    /// The issuer's key set, a file or a URL; without it a jwks.json beside the receipts or the pin file is taken, if the pin bears it out
    #[arg(long, value_name = "FILE|URL")]
    jwks: Option<String>,
    /// The files hold one receipt per line; only lines that do not verify are shown
    #[arg(long)]
    jsonl: bool,
    /// Let receipts of the sandbox pass
    #[arg(long)]
    allow_sandbox: bool,
    /// Values behind commitments, to be checked against them: a JSON array, or one disclosure per line
    #[arg(long, value_name = "FILE")]
    disclosures: Option<PathBuf>,
    /// Whose approvals are believed: a JSON array of `{approver, credential_id, public_key, rp_id, origins}`
    ///
    /// Get it from the people themselves, or by another way that the gateway cannot touch. With it every passkey
    /// approval must be by one of them; without it approvals are checked as far as they go and reported as unpinned.
    #[arg(long, value_name = "FILE")]
    approvers: Option<PathBuf>,
    /// Fail where people had to agree and no pinned person's signature shows that one did
    ///
    /// That people had to agree shows in the guarantee level `atp-3` and in the reasons that the entry `boundary` names. An
    /// approval by API key alone is not enough: only the gateway knows of it.
    #[arg(long, requires = "approvers")]
    require_approvals: bool,
    /// That the receipt was logged: what `receipts export --proof` wrote. A bundle brings its own
    #[arg(long, value_name = "FILE", conflicts_with = "jsonl")]
    proof: Option<PathBuf>,
    /// Fail where nothing proves that the receipt stands in a transparency log that the pin names
    #[arg(long)]
    require_inclusion: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let belief = Belief::gather(Named {
        issuer: &args.issuer,
        jwks: args.jwks.as_deref(),
        disclosures: args.disclosures.as_deref(),
        approvers: args.approvers.as_deref(),
        receipts: &args.paths,
    })?;
    let tally = if args.jsonl { stream(args, &belief)? } else { each(args, &belief)? };
    if tally.total() == 0 {
        return Err(Error::new("no receipts found")
            .hint("name files, or folders that hold *.json (with --jsonl, *.jsonl)"));
    }
    Ok(ExitCode::from(tally.exit_code()))
}

/// Every document by itself, all its checks shown.
fn each(args: &Args, belief: &Belief) -> Result<Tally> {
    let proof = args.proof.as_deref().map(read_proof).transpose()?;
    let trust = Trust { proof: proof.as_ref(), ..believing(args, belief) };
    let mut tally = Tally::default();
    let mut teller = tell::Teller::new(args.json);
    for source in sources::documents(&args.paths, "json")? {
        let document = source.read()?;
        let report = match Bundle::is_one(&document) {
            true => verify_bundle(&document, &trust),
            false => receipt::verify(&document, &trust),
        };
        tally.count(&report);
        teller.report(&source.name, &report)?;
    }
    teller.end(&tally)?;
    Ok(tally)
}

fn believing<'a>(args: &Args, belief: &'a Belief) -> Trust<'a> {
    let trust = belief.trust(args.allow_sandbox, args.require_approvals);
    Trust { require_inclusion: args.require_inclusion, ..trust }
}

fn read_proof(file: &Path) -> Result<Proof> {
    let text = std::fs::read(file).while_we(|| format!("cannot read `{}`", file.display()))?;
    Proof::parse(&text).while_we(|| format!("cannot use the proof in `{}`", file.display()))
}

/// A bundle's own key set counts as far as the pin bears it out; its proof is the one that is meant for it.
fn verify_bundle(text: &[u8], trust: &Trust<'_>) -> Report {
    let bundle = match Bundle::parse(text) {
        Ok(bundle) => bundle,
        Err(error) => return Report::unreadable(Failure::document(error.to_string())),
    };
    let jwks = if trust.pin.trusts(&bundle.jwks) { &bundle.jwks } else { trust.jwks };
    receipt::verify(&bundle.receipt, &Trust { jwks, proof: Some(&bundle.proof), ..*trust })
}

/// Files of many receipts, in parallel; what fails is shown in the order of the lines.
fn stream(args: &Args, belief: &Belief) -> Result<Tally> {
    let trust = believing(args, belief);
    let mut tally = Tally::default();
    let mut teller = tell::Teller::new(args.json);
    for source in sources::documents(&args.paths, "jsonl")? {
        let bar = tell::progress(source.length);
        lines::verify(source.open()?, &trust, |batch| {
            tally.add(&batch.tally);
            bar.inc(batch.bytes);
            for (line, report) in batch.failed {
                bar.suspend(|| teller.finding(&Finding { source: &source.name, line, report: &report }))?;
            }
            Ok(())
        })?;
        bar.finish_and_clear();
    }
    teller.end(&tally)?;
    Ok(tally)
}

/// How many of which verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) valid: u64,
    pub(crate) invalid: u64,
    pub(crate) quarantined: u64,
    pub(crate) time_unproven: u64,
    /// Approvals that receipts only state.
    pub(crate) unproven_approvals: u64,
}

impl Tally {
    pub(crate) fn count(&mut self, report: &Report) {
        self.unproven_approvals += report.unproven_approvals() as u64;
        *match report.verdict {
            Verdict::Valid => &mut self.valid,
            Verdict::Invalid(_) => &mut self.invalid,
            Verdict::Quarantined(_) => &mut self.quarantined,
            Verdict::TimeUnproven { .. } => &mut self.time_unproven,
        } += 1;
    }

    fn add(&mut self, other: &Tally) {
        self.valid += other.valid;
        self.invalid += other.invalid;
        self.quarantined += other.quarantined;
        self.time_unproven += other.time_unproven;
        self.unproven_approvals += other.unproven_approvals;
    }

    pub(crate) fn total(&self) -> u64 {
        self.valid + self.invalid + self.quarantined + self.time_unproven
    }

    /// The gravest verdict decides.
    fn exit_code(&self) -> u8 {
        match self {
            Tally { invalid: 0, quarantined: 0, time_unproven: 0, .. } => 0,
            Tally { invalid: 0, quarantined: 0, .. } => 2,
            _ => 1,
        }
    }
}
