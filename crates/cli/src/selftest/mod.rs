//! `countersign selftest --guarantees`: what is promised, put to the test on this machine.
//!
//! ```text
//!   64 clients ── HTTP ──▶ gateway (a process, killed and started) ── HTTP ──▶ banks (in this process)
//!     ask, agree, charge,    kill -9 at random moments and at              answers and callbacks lost, late, twice,
//!     release, undo, run,    every named crash point                       broken, forged, out of order; payments
//!     resolve, ask again                                                   late; 429 and 500
//!        └──────────────── count: banks' books · record · receipts · ledger ──▶ judge ─────────┘
//! ```
//!
//! `mode` says what the banks are and what goes wrong there, `site` is the folder and the process, `fire` has it die,
//! `clients` want things, each on a `course` of its own and some on a `bench` of theirs, `count` asks everybody at the end,
//! `judge` compares.
//!
//! Everything that is drawn follows from the seed, which is printed; what else happens is up to two processes and a
//! scheduler, so a seed leads to the same plan and not to the same run.

mod bench;
mod chance;
mod clients;
mod count;
mod course;
mod fire;
mod judge;
mod line;
mod mode;
mod site;
mod tell;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::json;

use self::chance::Chance;
use self::clients::{Desk, People, Wish};
use self::count::{Counts, Grant, Lines, count};
use self::course::{Course, Later};
use self::fire::{Fire, settle};
use self::judge::{Finding, judge};
use self::line::{Line, Place};
use self::mode::{CHALLENGED_ABOVE, Level, Mode};
use self::site::{AGENT, Site};
use self::tell::Told;
use crate::error::{Context, Error, Result};
use crate::out;

/// Prove on this machine what is promised: a gateway is killed again and again while it acts, and everything is counted
///
/// Starts a gateway and banks of its own in a temporary folder; needs no configuration and touches no other gateway. With
/// 200 actions it takes about a minute; from 10000 on, every crash point has to be passed. If anything is wrong the folder
/// is kept.
///
/// Exit code: 0 when every promise was kept, 1 otherwise.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The guarantees atp-2 and atp-3, against providers of every kind
    #[arg(long, required = true)]
    guarantees: bool,
    /// How many actions, half of them at each level
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=1_000_000))]
    actions: u32,
    /// What faults, deaths and amounts are drawn from; without it, something new
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => u64::from(getrandom::u32().map_err(|_| Error::new("the system has no random numbers"))?),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.while_we(|| "cannot start the test's threads".to_owned())?;
    runtime.block_on(guarantees(args, seed))
}

async fn guarantees(args: &Args, seed: u64) -> Result<ExitCode> {
    let began = Instant::now();
    let mut chance = Chance::new(seed);
    let bar = bar(u64::from(args.actions));
    let site = Site::prepare().await?;
    let place = Arc::new(Place::default());
    let agent = Line::new(Arc::clone(&place), &site.keys.agent)?;
    let people = People {
        agent: agent.clone(),
        approver: agent.of(&site.keys.approver),
        admin: agent.of(&site.keys.admin),
        banks: Arc::clone(&site.banks),
        bench: Arc::clone(&site.bench),
    };
    let operator = agent.of(&site.keys.operator);

    let mut wishes = wishes(args.actions as usize, &mut chance);
    let grants = grant_all(&site, &place, &operator, &mut wishes).await?;
    let desk = Desk::new(wishes);
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| tokio::spawn(Arc::clone(&desk).serve(people.clone()))).collect();
    let mut fire = Fire::default();
    let raged = fire.rage(&site, &desk, &place, &mut chance, &bar).await;
    let settled = match raged {
        Ok(()) => settle(&site, &desk, &place, &bar).await,
        Err(error) => Err(error),
    };
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    let counted = match settled {
        Ok(server) => {
            bar.set_message("counting");
            site.go_well();
            let lines = Lines { agent, operator, auditor: people.agent.of(&site.keys.auditor) };
            let counted = count(&site, &desk, &grants, lines).await;
            tokio::task::block_in_place(|| server.end());
            counted
        }
        Err(error) => Err(error),
    };
    bar.finish_and_clear();
    match counted {
        Ok(counts) => tell(args, seed, began, site, &fire, &counts),
        Err(error) => {
            let folder = site.keep();
            Err(error.hint(format!("seed {seed}; what is left lies in `{}`", folder.display())))
        }
    }
}

fn tell(
    args: &Args,
    seed: u64,
    began: Instant,
    site: Site,
    fire: &Fire,
    counts: &Counts,
) -> Result<ExitCode> {
    let mut findings = judge(&counts.cases, &counts.accounts, &counts.around);
    if args.actions >= WHOLE {
        findings.extend(fire.missed().into_iter().map(Finding::not_passed));
    }
    let seconds = began.elapsed().as_secs_f64();
    let told = Told { seed, seconds, fire, counts, findings: &findings };
    if args.json {
        out::json(&told.json())?
    } else {
        told.table()?
    }
    if findings.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let folder = site.keep();
    out::note(format_args!(
        "Each line above names the idempotency key or the mandate that it is about. Store and log of the gateway are kept in \
         `{}`: a broken promise is a fault of ours, so report it with that folder and seed {seed}, which draws the same \
         faults and deaths again (--seed {seed})",
        folder.display()
    ));
    Ok(ExitCode::FAILURE)
}

/// What the clients want: half at each level, spread over the modes that can keep it, and a few of what has to be refused.
fn wishes(actions: usize, chance: &mut Chance) -> Vec<Wish> {
    let mut all = Vec::with_capacity(actions);
    for level in Level::ALL {
        let in_turn = Mode::ALL.into_iter().filter(|mode| *mode != Mode::Mistaken);
        let (able, unable): (Vec<Mode>, Vec<Mode>) = in_turn.partition(|mode| mode.keeps(level));
        let half = if level == Level::Atp2 { actions / 2 } else { actions - actions / 2 };
        all.extend((0..half).map(|n| {
            let (mode, course) = turn(&able, n);
            wish((mode, level), n, course, chance)
        }));
        all.extend(unable.into_iter().flat_map(|mode| {
            let refused = |n| wish((mode, level), n, Course::Act, &mut Chance::new(n as u64));
            (0..REFUSED).map(refused).collect::<Vec<_>>()
        }));
    }
    chance.shuffle(&mut all);
    all
}

/// A few at the bank that is mistaken about what it does, all others at the others in turn.
fn turn(others: &[Mode], number: usize) -> (Mode, Course) {
    let (mode, among_them) = match number % MISTAKEN {
        0 => (Mode::Mistaken, number / MISTAKEN),
        _ => (others[number % others.len()], number / others.len()),
    };
    (mode, Course::of(mode, among_them))
}

fn wish((mode, level): (Mode, Level), number: usize, course: Course, chance: &mut Chance) -> Wish {
    let least = if course.challenges() { CHALLENGED_ABOVE + 1 } else { 100 };
    let minor = least + i64::try_from(chance.between(0, 200)).unwrap_or(0);
    let key = format!("{}-{}-{number}", mode.as_str(), level.as_str());
    let amount = dollars(minor);
    let constraints = match mode {
        Mode::Runner => json!({ "program": "/selftest/command", "arguments": [key], "directory": "/" }),
        _ => json!({
            "recipient": format!("acct-{}", chance.between(1, 50)),
            "amount": amount, "max_total": amount, "invoice": key,
        }),
    };
    let mut body = json!({
        "archetype": mode.archetype(), "constraints": constraints, "guarantee_level": level.as_str(),
    });
    if let Some(mode) = course.payment_mode() {
        body["payment_mode"] = mode.into();
    }
    let later = Later::of(course, level, chance.next());
    let (resolved, chance) = (chance.one_in(2), Mutex::new(Chance::new(chance.next())));
    Wish { mode, level, key, minor, course, later, resolved, body, heard: Mutex::default(), chance }
}

/// One mandate for each mode and level, with a cap that not all of them fit under; all wishes get theirs. What a bank was
/// mistaken about is debited when it is found, whatever is left by then: there all of it fits.
async fn grant_all(site: &Site, place: &Place, operator: &Line, wishes: &mut [Wish]) -> Result<Vec<Grant>> {
    let server = tokio::task::block_in_place(|| site.serve(None))?;
    let server = server.ok_or_else(|| Error::new("the gateway does not start"))?;
    place.set(Some(format!("http://{}", server.address)));
    let mut grants = Vec::new();
    for (mode, level) in Mode::ALL.into_iter().flat_map(|mode| Level::ALL.map(|level| (mode, level))) {
        let of_it = |wish: &&mut Wish| wish.mode == mode && wish.level == level;
        let of_it_all = wishes.iter_mut().filter(of_it);
        let cap_minor = match mode {
            Mode::Mistaken => of_it_all.map(|wish| wish.minor).sum(),
            _ => of_it_all.map(|wish| wish.course.weight(wish.minor)).sum::<i64>() * 97 / 100,
        };
        let ask = json!({
            "subject": AGENT, "scope": ["Selftest"], "expires_in_seconds": 86_400,
            "spend_cap": {"amount": dollars(cap_minor), "currency": "USD"},
        });
        let granted = operator.must(Method::POST, "/v1/mandates", Some(&ask)).await?;
        let token = granted.text("token").to_owned();
        let jti = granted.body["mandate"]["jti"].as_str().unwrap_or_default().to_owned();
        for wish in wishes.iter_mut().filter(of_it) {
            wish.body["delegation_token"] = token.clone().into();
        }
        grants.push(Grant { mode, level, cap_minor, jti });
    }
    place.set(None);
    tokio::task::block_in_place(|| server.end());
    Ok(grants)
}

fn dollars(minor: i64) -> String {
    format!("{}.{:02}", minor / 100, minor % 100)
}

fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length).with_message("under fire");
    match ProgressStyle::with_template("{msg} {pos}/{len} {wide_bar} {elapsed_precise}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// So many actions pass every crash point.
const WHOLE: u32 = 10_000;
/// In flight at once.
const CLIENTS: usize = 64;
/// One in so many is for the bank that is mistaken.
const MISTAKEN: usize = 12;
/// Of each kind that cannot be promised.
const REFUSED: usize = 5;
