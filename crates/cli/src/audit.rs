//! `countersign audit`: what happened, to whom it may be shown, and whether all of it is there.
//!
//! Clients of the running gateway; `audit verify` also works on the data directory when no gateway runs, under the same
//! exclusive lock.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use gateway::{Caller, Gateway, TrailCheck};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::api::{Api, Client, Cursors, encoded};
use crate::error::{Context, Error, Result};
use crate::resting::{Premises, Resting};
use crate::{monitor, out, reconcile};

/// Read the audit trail, and prove that it is whole
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show entries, newest first
    Query(Query),
    /// Show the latest entries, then each new one as it is written
    Tail {
        #[command(flatten)]
        filter: Filter,
        /// How many to begin with
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
        lines: u32,
        /// Print one JSON object a line
        #[arg(long)]
        jsonl: bool,
    },
    /// Write all entries to a file, oldest first
    Export {
        /// Where to; `.csv` is written as CSV, anything else as JSON Lines
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Write over a file that is there already
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        filter: Filter,
    },
    /// Walk the whole chain and compare it with rows and receipts; or, with --log, a transparency log from the outside
    ///
    /// Asks the running gateway, or works on a data directory that no gateway holds. Says what is missing or altered, and
    /// where. With --log it reads all of a log and checks that it is as it was signed, begins with what was seen before, and
    /// leaves no action without its end beyond its time. Exit code: 0 all is there, 1 something is not.
    Verify(Box<Verify>),
    /// Match a provider's own statement with the log, both ways, and list what neither explains
    ///
    /// Lines are matched by our reference, the action's id and attempt, and summed up by action and currency. What is compared with them
    /// are the newest receipts, verified and shown to be in the log. Exit code: 0 all is explained, 1 something is not.
    Reconcile(Box<reconcile::Args>),
    /// Have the gateway sign how many intents and receipts its transparency log has of a period
    ///
    /// `audit verify --log … --statement FILE` checks it against the log.
    Statement {
        /// From this full hour on, such as 2026-05-01T00:00:00Z
        #[arg(long, value_name = "TIME")]
        from: String,
        /// Before this full hour
        #[arg(long, value_name = "TIME")]
        until: String,
    },
}

#[derive(clap::Args)]
struct Query {
    #[command(flatten)]
    filter: Filter,
    /// Oldest first
    #[arg(long)]
    oldest: bool,
    /// The most entries to show
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    /// Print a JSON array
    #[arg(long, group = "form")]
    json: bool,
    /// Print one JSON object a line
    #[arg(long, group = "form")]
    jsonl: bool,
    /// Print CSV
    #[arg(long, group = "form")]
    csv: bool,
}

/// Which entries; what is not named does not matter.
#[derive(clap::Args, Clone)]
struct Filter {
    /// Of actions this agent asked for
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Of this session
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// At or after this time, such as 2026-05-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// With this verb
    #[arg(long, value_name = "VERB")]
    verb: Option<String>,
    /// Of this archetype
    #[arg(long, value_name = "NAME")]
    archetype: Option<String>,
    /// Under this regulation
    #[arg(long, value_name = "REF")]
    regulation: Option<String>,
    /// Of this guarantee level: atp-1, atp-2 or atp-3
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    /// That reached this state, such as COMPLETED
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
}

#[derive(clap::Args)]
struct Verify {
    #[command(flatten)]
    premises: Premises,
    /// Of a data directory, the sandbox's store
    #[arg(long)]
    sandbox: bool,
    #[command(flatten)]
    monitor: monitor::Args,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Query(query) => query.run(&args.api.client()?)?,
        Command::Tail { filter, lines, jsonl } => tail(&args.api.client()?, filter, *lines, *jsonl)?,
        Command::Export { file, force, filter } => export(&args.api.client()?, filter, file, *force)?,
        Command::Verify(verify) => return verify.run(&args.api),
        Command::Reconcile(with) => return reconcile::run(with, &args.api.client()?),
        Command::Statement { from, until } => {
            let path = format!("/v1/log/completeness?from={}&until={}", encoded(from), encoded(until));
            out::line(args.api.client()?.page(&path)?.0.trim_end())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Query {
    fn run(&self, client: &Client) -> Result<()> {
        let order = if self.oldest { "oldest" } else { "newest" };
        let path = self.filter.path(order, if self.csv { "csv" } else { "jsonl" });
        let mut pages = Pages::of(client, path);
        let (mut left, mut all) = (self.limit, Vec::new());
        while let Some(text) = pages.next(left.min(LONGEST))? {
            let lines = entries(&text, self.csv && pages.count > 1);
            left -= lines.clone().skip(usize::from(self.csv && pages.count == 1)).count().min(left);
            match (self.csv || self.jsonl, lines) {
                (true, mut lines) => lines.try_for_each(out::line)?,
                (false, lines) => all.extend(lines.map(parsed).collect::<Result<Vec<_>>>()?),
            }
            if left == 0 {
                break;
            }
        }
        match (self.json, self.csv || self.jsonl) {
            (true, _) => out::json(&Value::from(all)),
            (false, true) => Ok(()),
            (false, false) => out::table(COLUMNS, &all.iter().map(row).collect::<Vec<_>>()),
        }
    }
}

/// Prints the latest entries and then what comes. A page along the chain only ever grows at its end, so it is asked for
/// again and again until it is full.
fn tail(client: &Client, filter: &Filter, count: u32, jsonl: bool) -> Result<()> {
    let latest = client.get(&format!("{}&limit={count}", filter.path("newest", "json")))?;
    let mut latest = latest["entries"].as_array().cloned().unwrap_or_default();
    latest.reverse();
    let path = match latest.first().and_then(|entry| entry["timestamp"].as_str()) {
        Some(since) => Filter { from: Some(since.to_owned()), ..filter.clone() }.path("oldest", "json"),
        None => filter.path("oldest", "json"),
    };
    let mut told = HashSet::new();
    // Of entries with the very time of the first one shown, those before it are not new.
    let mut fresh = latest.is_empty();
    let columns = match jsonl {
        true => None,
        false => Some(out::Columns::under(COLUMNS, &latest.iter().map(row).collect::<Vec<_>>())?),
    };
    let tell = |entry: &Value| columns.as_ref().map_or_else(|| out::line(entry), |it| it.row(&row(entry)));
    for entry in &latest {
        if told.insert(id(entry)) && jsonl {
            tell(entry)?;
        }
    }
    let mut cursor: Option<String> = None;
    loop {
        let at = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page = client.get(&format!("{path}&limit={LONGEST}{at}"))?;
        for entry in page["entries"].as_array().into_iter().flatten() {
            fresh |= told.contains(&id(entry));
            if fresh && told.insert(id(entry)) {
                tell(entry)?;
            }
        }
        match page["next_cursor"].as_str() {
            Some(next) => {
                cursor = Some(next.to_owned());
                told.clear();
            }
            None => thread::sleep(PAUSE),
        }
    }
}

fn id(entry: &Value) -> String {
    entry["audit_id"].as_str().unwrap_or_default().to_owned()
}

/// Writes everything beside the file and then puts it in its place: whoever finds the file finds it whole.
fn export(client: &Client, filter: &Filter, file: &Path, force: bool) -> Result<()> {
    let cannot = || format!("cannot write `{}`", file.display());
    if !force && file.symlink_metadata().is_ok() {
        return Err(Error::new(format!("`{}` is there already", file.display()))
            .hint("name another file, or write over it with --force"));
    }
    let csv = file.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("csv"));
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder).while_we(cannot)?;
    let bar = ProgressBar::new_spinner().with_message("audit entries");
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} {msg}, {elapsed_precise}") {
        bar.set_style(style);
    }
    let mut pages = Pages::of(client, filter.path("oldest", if csv { "csv" } else { "jsonl" }));
    let mut count = 0;
    while let Some(text) = pages.next(LONGEST)? {
        let heading = csv && pages.count > 1;
        let rest = if heading { text.split_once("\r\n").map_or("", |(_, rest)| rest) } else { &text };
        beside.write_all(rest.as_bytes()).while_we(cannot)?;
        count += entries(&text, csv).count();
        bar.set_position(count as u64);
    }
    beside.as_file().sync_all().while_we(cannot)?;
    // Somebody else may have written it meanwhile.
    if force { beside.persist(file) } else { beside.persist_noclobber(file) }.while_we(cannot)?;
    bar.finish_and_clear();
    out::note(format_args!("{count} audit entries in {}", file.display()));
    Ok(())
}

impl Verify {
    fn run(&self, api: &Api) -> Result<ExitCode> {
        if let Some(log) = &self.monitor.log {
            return monitor::run(&self.monitor, log, api, self.json);
        }
        let keeper = Keeper::of(&self.premises, self.sandbox, api)?;
        let checked = checked(&keeper)?;
        let whole = checked.is_whole();
        let Checked { entries, receipts, approvals, head, findings } = checked;
        if self.json {
            out::json(&json!({
                "whole": whole, "entries": entries, "receipts": receipts, "approvals": approvals,
                "head": head, "findings": findings,
            }))?;
        } else {
            findings.iter().try_for_each(|finding| out::line(told(finding)))?;
            let what = if whole { "all there".to_owned() } else { format!("{} wrong", findings.len()) };
            out::line(format_args!(
                "{entries} ledger entries, {receipts} receipts, {approvals} approvals: {what}"
            ))?;
        }
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What a walk along the whole chain came to.
pub(crate) struct Checked {
    pub(crate) entries: u64,
    pub(crate) receipts: u64,
    pub(crate) approvals: u64,
    pub(crate) head: Value,
    pub(crate) findings: Vec<Value>,
}

impl Checked {
    pub(crate) fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Walks the whole chain.
pub(crate) fn checked(keeper: &Keeper) -> Result<Checked> {
    let mut all = Checked { entries: 0, receipts: 0, approvals: 0, head: Value::Null, findings: Vec::new() };
    let (mut cursor, mut cursors) = (None::<String>, Cursors::default());
    let bar = bar();
    loop {
        let stretch = keeper.check(cursor.as_deref())?;
        let number = |name: &str| stretch[name].as_u64().unwrap_or_default();
        all.entries += number("entries");
        all.receipts += number("receipts");
        all.approvals += number("approvals");
        all.findings.extend(stretch["findings"].as_array().cloned().unwrap_or_default());
        bar.set_length(number("of"));
        bar.set_position(all.entries);
        match cursors.next(stretch["next_cursor"].as_str())? {
            Some(next) => cursor = Some(next),
            None => {
                all.head = stretch["head"].clone();
                bar.finish_and_clear();
                return Ok(all);
            }
        }
    }
}

/// `ledger entry 17 (action …, receipt …): what is wrong`.
fn told(finding: &Value) -> String {
    let named =
        |name: &str| finding[format!("{name}_id")].as_str().map(|id| format!("{name} {}", out::shown(id)));
    let whose: Vec<String> = ["action", "receipt"].into_iter().filter_map(named).collect();
    let whose = if whose.is_empty() { String::new() } else { format!(" ({})", whose.join(", ")) };
    let what = finding["what"].as_str().map(out::shown).unwrap_or_default();
    format!("ledger entry {}{whose}: {what}", finding["entry"])
}

/// Whoever holds the store.
pub(crate) enum Keeper {
    Running(Client),
    Resting(Resting),
}

impl Keeper {
    pub(crate) fn of(premises: &Premises, sandbox: bool, api: &Api) -> Result<Keeper> {
        match premises.are_named() {
            true => Resting::open(premises, sandbox).map(Keeper::Resting),
            false if sandbox => Err(Error::new("`--sandbox` is for a data directory")
                .hint("of a running gateway, name the sandbox in --url: …/sandbox")),
            false => api.client().map(Keeper::Running),
        }
    }

    fn check(&self, cursor: Option<&str>) -> Result<Value> {
        match self {
            Keeper::Running(client) => {
                let cursor = cursor.map(|cursor| format!("?cursor={cursor}")).unwrap_or_default();
                client.get(&format!("/v1/audit/verify{cursor}"))
            }
            Keeper::Resting(resting) => {
                let gateway = resting.sandbox().unwrap_or(resting.production());
                let check =
                    async |gateway: &Gateway, caller: &Caller| gateway.check_trail(caller, cursor).await;
                resting.as_admin(gateway, None, check).map(|check| shown(&check))
            }
        }
    }
}

/// The same as over HTTP.
fn shown(check: &TrailCheck) -> Value {
    let finding = |found: &gateway::TrailFinding| {
        json!({
            "entry": found.entry, "action_id": found.action_id, "receipt_id": found.receipt_id, "what": found.what,
        })
    };
    json!({
        "entries": check.entries,
        "receipts": check.receipts,
        "approvals": check.approvals,
        "of": check.of,
        "head": check.head.as_ref().map(|head| format!("sha256:{head}")),
        "findings": check.findings.iter().map(finding).collect::<Vec<_>>(),
        "next_cursor": check.next,
    })
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0).with_message("ledger entries");
    match ProgressStyle::with_template("{msg} {human_pos}/{human_len} {wide_bar} {elapsed_precise}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Filter {
    fn path(&self, order: &str, format: &str) -> String {
        let Filter { agent, session, from, to, verb, archetype, regulation, level, state } = self;
        let filters = [
            ("agent_id", agent),
            ("session_id", session),
            ("time_from", from),
            ("time_to", to),
            ("verb", verb),
            ("archetype", archetype),
            ("regulation_ref", regulation),
            ("guarantee_level", level),
            ("result_state", state),
        ];
        let filters = filters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let all = filters.map(|(name, value)| format!("&{name}={}", encoded(value)));
        format!("/v1/audit?order={order}&format={format}{}", all.collect::<String>())
    }
}

/// One page after the other.
struct Pages<'a> {
    client: &'a Client,
    path: String,
    cursor: Option<String>,
    cursors: Cursors,
    /// Pages had by now.
    count: usize,
}

impl<'a> Pages<'a> {
    fn of(client: &'a Client, path: String) -> Pages<'a> {
        Pages { client, path, cursor: None, cursors: Cursors::default(), count: 0 }
    }

    /// `None` after the last.
    fn next(&mut self, limit: usize) -> Result<Option<String>> {
        if self.count > 0 && self.cursor.is_none() {
            return Ok(None);
        }
        let at = self.cursor.take().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let (text, next) = self.client.page(&format!("{}&limit={}{at}", self.path, limit.max(1)))?;
        (self.cursor, self.count) = (self.cursors.next(next.as_deref())?, self.count + 1);
        Ok(Some(text))
    }
}

/// The lines of a page, without its heading if that is to be left out. No member of an entry holds a line break.
fn entries(text: &str, without_heading: bool) -> impl Iterator<Item = &str> + Clone {
    text.lines().skip(usize::from(without_heading))
}

fn parsed(line: &str) -> Result<Value> {
    serde_json::from_str(line).while_we(|| "the gateway's answer cannot be read".to_owned())
}

fn row(entry: &Value) -> [String; 8] {
    MEMBERS.map(|name| entry[name].as_str().map_or_else(|| "–".to_owned(), out::shown))
}

const COLUMNS: [&str; 8] = ["time", "agent", "verb", "target", "level", "event", "state", "action"];
const MEMBERS: [&str; 8] =
    ["timestamp", "agent_id", "verb", "target", "guarantee_level", "event", "result_state", "action_id"];

/// Entries of a page, at most.
const LONGEST: usize = 200;
/// Between two looks for new entries.
const PAUSE: Duration = Duration::from_secs(1);
