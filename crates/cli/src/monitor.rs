//! `countersign audit verify --log`: a monitor. Reads a gateway's transparency log from the outside, leaf by leaf, and
//! believes nothing but the pin.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::ProgressBar;
use receipt::log::{
    Checkpoint, Completeness, Edge, Hash, Hours, Leaf, LeafKind, Note, Resource, Survey, TILE_WIDTH, Tile,
    believed, entries_of, epoch_of, leaf_hash, promised_nonce,
};
use receipt::{Document, Event, Pin, Timestamp, Verdict};
use serde_json::json;

use crate::api::{Api, Client};
use crate::error::{Context, Error, Result};
use crate::out;
use crate::verify::{Belief, Named, documents, read_pin};

/// What a monitor is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A log to check from the outside: where its `checkpoint` is found, such as `https://gateway.example/log`
    ///
    /// The API key given is sent there, so name another operator's log with a key that this operator gave.
    #[arg(long, value_name = "URL", conflicts_with_all = ["data_dir", "config", "store", "sandbox"])]
    pub(crate) log: Option<String>,
    /// Whose log it must be: a pin file that names it, and the witnesses that have to have cosigned
    #[arg(long, value_name = "PIN", requires = "log")]
    issuer: Option<String>,
    /// A checkpoint that was seen before: the log must begin with all it is of
    #[arg(long, value_name = "FILE", requires = "log")]
    from: Option<PathBuf>,
    /// Where to leave the checkpoint once all is well, for the next --from; may be the same file
    #[arg(long, value_name = "FILE", requires = "log")]
    keep: Option<PathBuf>,
    /// Receipts that must be in it: files or folders
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "log")]
    receipts: Vec<PathBuf>,
    /// The key set of those receipts, a file or a URL
    #[arg(long, value_name = "FILE|URL", requires = "receipts")]
    jwks: Option<String>,
    /// A completeness statement that must be true of it
    #[arg(long, value_name = "FILE", requires = "log")]
    statement: Option<PathBuf>,
    /// So long it may be read, seconds; what was found by then is told
    #[arg(long, value_name = "N", requires = "log", default_value_t = 86_400)]
    patience: u64,
}

/// Reads the whole log. Exit code 0 if it is as it should be, 1 if not.
pub(crate) fn run(args: &Args, url: &str, api: &Api, as_json: bool) -> Result<ExitCode> {
    let issuer = args.issuer.as_deref().ok_or_else(|| {
        Error::new("a log is believed by a pin only")
            .hint("pass --issuer PIN; `countersign keys pin --name URL --log` prints one, to be had from the issuer itself")
    })?;
    let (pin, _) = read_pin(issuer)?;
    let mut told = Told::default();
    told.read(args, issuer, &pin)?;
    let log = Log {
        client: Client::new(url, api.key.as_deref())?,
        until: Instant::now() + Duration::from_secs(args.patience),
    };
    let (note, checkpoint, witnessed) = log.believed(&pin)?;
    told.must_be_of(&checkpoint);
    let overdue = match read(&log, &checkpoint, &mut told) {
        Ok(read) => {
            told.compare(&checkpoint, &read);
            read.overdue.len()
        }
        // What was found up to there is evidence all the same.
        Err(error) => {
            told.find(error.to_string());
            0
        }
    };
    let findings = told.findings;
    if findings.is_empty()
        && let Some(file) = &args.keep
    {
        keep(file, &note)?;
    }
    Checked { checkpoint, witnessed, findings, overdue, stated: told.stated }.tell(as_json)
}

/// Which witnesses cosigned, and when; Unix seconds.
type Witnessed = Vec<(String, u64)>;

/// A log, as it is served.
struct Log {
    client: Client,
    until: Instant,
}

impl Log {
    /// The newest checkpoint as the pin demands it. While a log grows the newest is seldom cosigned yet, so one is waited for that is;
    /// it has all the leaves that the newest had, or what others were told of meanwhile would seem to be missing.
    fn believed(&self, pin: &Pin) -> Result<(Note, Checkpoint, Witnessed)> {
        let mut note = self.checkpoint("/checkpoint")?;
        let until = Instant::now() + FOR_WITNESSES;
        // What no log of the pin signed no witness mends.
        let size = pin.logs().iter().find_map(|log| Checkpoint::of(&note, log).ok()).map(|it| it.size);
        loop {
            let why = match believed(&note, pin) {
                Ok((checkpoint, witnessed)) if size.is_some_and(|size| checkpoint.size >= size) => {
                    return Ok((note, checkpoint, witnessed));
                }
                Ok(_) => "it has fewer leaves than the one before it".to_owned(),
                Err(failure) => failure.to_string(),
            };
            let Some(size) = size.filter(|_| Instant::now() < until) else {
                let address = self.client.address("/checkpoint");
                return Err(Error::new(format!(
                    "the checkpoint at `{address}` is not to be believed: {why}"
                )));
            };
            std::thread::sleep(BETWEEN_LOOKS);
            note = self.checkpoint(&format!("/checkpoint?leaves={size}"))?;
        }
    }

    fn checkpoint(&self, path: &str) -> Result<Note> {
        let text = String::from_utf8(self.bytes(path, LONGEST_NOTE)?);
        let note = text.ok().and_then(|text| Note::parse(&text).ok());
        note.ok_or_else(|| Error::new(format!("`{}` is no checkpoint", self.client.address(path))))
    }

    fn resource(&self, resource: Resource) -> Result<Vec<u8>> {
        self.bytes(&format!("/{resource}"), LONGEST_TILE)
    }

    fn bytes(&self, path: &str, most: usize) -> Result<Vec<u8>> {
        if Instant::now() >= self.until {
            return Err(Error::new("the log was not read to its end: the time for it is over (--patience)"));
        }
        let found = self.client.bytes(path, most)?;
        found.ok_or_else(|| Error::new(format!("`{}` is not there", self.client.address(path))))
    }
}

/// What somebody was told of the log before, and by whom.
#[derive(Default)]
struct Told {
    /// Roots by log and size.
    roots: BTreeMap<(String, u64), Vec<(String, Hash)>>,
    /// Receipts by their commitments.
    receipts: HashMap<Hash, Promised>,
    /// The statement, and where it stands.
    statement: Option<(String, Completeness)>,
    /// The statement, once it was held against the log, and whether it is true.
    stated: Option<(Completeness, bool)>,
    findings: Vec<String>,
}

/// A receipt that has to be in the log.
struct Promised {
    name: String,
    merge_by: Timestamp,
    kind: LeafKind,
    created: Timestamp,
}

impl Told {
    fn read(&mut self, args: &Args, issuer: &str, pin: &Pin) -> Result<()> {
        if let Some(file) = &args.from {
            let shown = file.display().to_string();
            let text = fs::read_to_string(file).while_we(|| format!("cannot read `{shown}`"))?;
            let note = Note::parse(&text).while_we(|| format!("cannot use `{shown}`"))?;
            let (before, _) = believed(&note, pin)
                .map_err(|failure| Error::new(format!("`{shown}` is not to be believed: {failure}")))?;
            self.root(&before, shown);
        }
        if let Some(file) = &args.statement {
            let shown = file.display();
            let text = fs::read_to_string(file).while_we(|| format!("cannot read `{shown}`"))?;
            let note = Note::parse(&text).while_we(|| format!("cannot use `{shown}`"))?;
            let signed = pin.logs().iter().find_map(|log| Completeness::signed(&note, log).ok());
            let signed = signed.ok_or_else(|| {
                Error::new(format!("`{shown}` is no completeness statement of a log that the pin names"))
            })?;
            self.statement = Some((shown.to_string(), signed));
        }
        if args.receipts.is_empty() {
            return Ok(());
        }
        let named =
            Named { issuer, jwks: args.jwks.as_deref(), receipts: &args.receipts, ..Named::default() };
        let belief = Belief::gather(named)?;
        for source in documents(&args.receipts, "json")? {
            let text = source.read()?;
            self.receipt(&source.name, &text, &belief);
        }
        Ok(())
    }

    fn find(&mut self, what: String) {
        // One who has thousands to tell of has told enough.
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(what);
        }
    }

    fn root(&mut self, said: &Checkpoint, by: String) {
        if said.size > 0 {
            self.roots.entry((said.origin.clone(), said.size)).or_default().push((by, said.root));
        }
    }

    /// A receipt is evidence only as far as it is one.
    fn receipt(&mut self, name: &str, text: &[u8], belief: &Belief) {
        let verdict = receipt::verify(text, &belief.trust(true, false)).verdict;
        if !matches!(verdict, Verdict::Valid | Verdict::TimeUnproven { .. }) {
            return self.find(format!("{name}: {verdict}"));
        }
        // What is hashed is the one spelling, however it is spelled here.
        let text = receipt::canonical::canonicalise(text).unwrap_or_default();
        let document = std::str::from_utf8(&text).ok().and_then(|text| Document::parse(text).ok());
        let promised = document.as_ref().and_then(|document| {
            let log = document.content.metadata.log.as_ref()?;
            Some((document, log, promised_nonce(document)?, log.promise.as_ref()?.merge_by))
        });
        let Some((document, log, nonce, merge_by)) = promised else {
            return self.find(format!("{name}: promises no place in a log"));
        };
        self.mentioned(log, name);
        let original = document.content.event == Event::Original;
        let kind = if original { LeafKind::Terminal } else { LeafKind::Amendment };
        let promised = Promised { name: name.to_owned(), merge_by, kind, created: document.created };
        self.receipts.insert(Leaf::commit(&nonce, &text), promised);
    }

    /// What a receipt says of the log as it was then.
    fn mentioned(&mut self, log: &receipt::Checkpoint<'_>, by: &str) {
        let mut root = Hash::default();
        match hex::decode_to_slice(&*log.root, &mut root) {
            Ok(()) => {
                self.root(
                    &Checkpoint { origin: log.origin.to_string(), size: log.size, root },
                    by.to_owned(),
                );
            }
            // It would be compared with nothing.
            Err(_) => self.find(format!("{by}: what it says is the root of its log is no hash")),
        }
    }

    /// What was told of another log says nothing of this one.
    fn must_be_of(&mut self, checkpoint: &Checkpoint) {
        let origin = &checkpoint.origin;
        self.must_be_stated_of(origin);
        let (name, epoch) = epoch_of(origin);
        let others: Vec<(String, String)> = self
            .roots
            .iter()
            .filter(|((of, _), _)| of != origin)
            .flat_map(|((of, _), said)| said.iter().map(move |(by, _)| (of.clone(), by.clone())))
            .collect();
        for (of, by) in others {
            match epoch_of(&of) {
                (before, earlier) if before == name && earlier < epoch => {
                    out::note(format_args!("{by}: is of `{of}`, before this log was begun anew"));
                }
                _ => self.find(format!("{by} is of another log, `{of}`")),
            }
        }
    }

    /// Who asks whether a statement is true must not take for a yes that it was held against nothing.
    fn must_be_stated_of(&mut self, origin: &str) {
        match self.statement.take() {
            Some((by, said)) if said.checkpoint.origin == origin => {
                self.root(&said.checkpoint, by.clone());
                self.statement = Some((by, said));
            }
            Some((by, Completeness { checkpoint: Checkpoint { origin: of, .. }, .. })) => self.find(format!(
                "the completeness statement `{by}` was not compared: it is of another log, `{of}`"
            )),
            None => {}
        }
    }

    /// A leaf, by now the last of a log that has this root with it.
    fn take(&mut self, number: u64, leaf: &Leaf, size: u64, root: impl FnOnce() -> Hash, origin: &str) {
        if leaf.kind == LeafKind::Intent && leaf.due_by > leaf.hour.saturating_add(MOST_DUE) {
            self.find(format!(
                "leaf {number} begins what has its end due more than {} days later",
                MOST_DUE / 24
            ));
        }
        if let Some(Promised { name, kind, created, .. }) = self.receipts.remove(&leaf.commitment)
            && (leaf.kind != kind || !leaf.is_of_time(created))
        {
            self.find(format!("{name}: is logged as something else, or at another time than it was made"));
        }
        let Some(said) = self.roots.get(&(origin.to_owned(), size)) else { return };
        let root = root();
        let others: Vec<String> =
            said.iter().filter(|(_, of)| *of != root).map(|(by, _)| by.clone()).collect();
        for by in others {
            self.find(format!("{by} has another root of the log's first {size} leaves"));
        }
    }

    /// What is wrong, now that the log was read.
    fn compare(&mut self, checkpoint: &Checkpoint, read: &Read) {
        let (origin, size) = (&checkpoint.origin, checkpoint.size);
        let beyond = self.roots.range((origin.clone(), size.saturating_add(1))..=(origin.clone(), u64::MAX));
        let beyond = beyond.flat_map(|((_, of), said)| said.iter().map(move |(by, _)| (*of, by)));
        let beyond =
            beyond.map(|(of, by)| format!("{by} is of {of} leaves, and the log has only {size} by now"));
        beyond.collect::<Vec<_>>().into_iter().for_each(|what| self.find(what));
        let now = now();
        for Promised { name, merge_by, .. } in std::mem::take(&mut self.receipts).into_values() {
            let by = merge_by.as_str();
            if merge_by < now {
                self.find(format!("{name}: is not in the log, where it was promised by {by}"));
            } else {
                out::note(format_args!("{name}: is not in the log yet; it is promised by {by}"));
            }
        }
        for due in &read.overdue {
            let begins = format!("leaf {} begins what has no end", due.number);
            let hour = Timestamp::from_unix_millis((u64::from(due.due_by) + 1) * 3_600_000);
            self.find(match due.due_by {
                0 => format!("{begins}, and does not say by when one is due"),
                _ => format!("{begins}, and one was due by {}", hour.as_str()),
            });
        }
        self.compare_hours(&read.survey.hours);
        if let Some((_, said)) = self.statement.take() {
            let found = read.survey.hours.of(said.from, said.until, said.checkpoint.clone());
            let is_true = found == said;
            if !is_true {
                self.find(format!(
                    "the completeness statement is not true: the log has {} intents and {} receipts of that time, it says {} and {}",
                    found.counts.of(LeafKind::Intent),
                    found.counts.receipts(),
                    said.counts.of(LeafKind::Intent),
                    said.counts.receipts(),
                ));
            }
            self.stated = Some((said, is_true));
        }
    }

    /// A leaf of another hour than its own has no end that is ever due, and is in no period that anybody asks for.
    fn compare_hours(&mut self, hours: &Hours) {
        // The gateway's clock may go before ours by a little.
        for number in hours.later_than(Leaf::hour_of(now()).saturating_add(1)) {
            self.find(format!("leaf {number} is of an hour that is yet to come"));
        }
        for (number, behind) in hours.ahead(MOST_AHEAD) {
            self.find(format!(
                "leaf {number} is of an hour more than {MOST_AHEAD} later than that of leaf {behind}, which stands behind it"
            ));
        }
    }
}

/// What was read of a log.
struct Read {
    survey: Survey,
    overdue: Vec<receipt::log::Due>,
}

/// Reads every leaf, and makes the tree of them.
fn read(log: &Log, checkpoint: &Checkpoint, told: &mut Told) -> Result<Read> {
    let size = checkpoint.size;
    let bar = ProgressBar::new(size).with_message("leaves");
    let (mut edge, mut survey) = (Edge::default(), Survey::default());
    for tile in Tile::all(size).take_while(|tile| tile.level == 0) {
        let hashes = log.resource(Resource::Tile(tile))?;
        let bundle = log.resource(Resource::Entries(tile))?;
        let entries = entries_of(&bundle, &hashes).while_we(|| format!("the log's `{tile}` is not whole"))?;
        if entries.len() != usize::from(tile.width) {
            return Err(Error::new(format!("the log's `{tile}` has not as many leaves as it should")));
        }
        for (number, entry) in (tile.index * u64::from(TILE_WIDTH)..).zip(entries) {
            let leaf = Leaf::parse(entry).while_we(|| format!("leaf {number} of the log is none"))?;
            let mut wholes = Vec::new();
            edge.push(leaf_hash(entry), |tile, hashes| wholes.push((tile, hashes.to_vec())));
            wholes.iter().try_for_each(|(tile, hashes)| served(log, *tile, hashes))?;
            survey.take(number, &leaf);
            told.take(number, &leaf, edge.size(), || edge.root(), &checkpoint.origin);
        }
        bar.set_position(edge.size());
    }
    edge.partial().try_for_each(|(tile, hashes)| served(log, tile, hashes))?;
    bar.finish_and_clear();
    if edge.root() != checkpoint.root {
        return Err(Error::new(format!("the log's {size} leaves do not have the root that it signed")));
    }
    let overdue = survey.overdue(Leaf::hour_of(now()));
    Ok(Read { survey, overdue })
}

/// Tiles above the leaves are those that follow from them.
fn served(log: &Log, tile: Tile, hashes: &[Hash]) -> Result<()> {
    if tile.level == 0 || log.resource(Resource::Tile(tile))? == hashes.as_flattened() {
        return Ok(());
    }
    Err(Error::new(format!("the log's `{tile}` does not follow from its leaves")))
}

/// What it came to.
struct Checked {
    checkpoint: Checkpoint,
    witnessed: Witnessed,
    findings: Vec<String>,
    overdue: usize,
    stated: Option<(Completeness, bool)>,
}

impl Checked {
    fn tell(&self, as_json: bool) -> Result<ExitCode> {
        let Checked { checkpoint: Checkpoint { origin, size, root }, witnessed, findings, overdue, stated } =
            self;
        let ok = findings.is_empty();
        let code = if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        let names: Vec<&str> = witnessed.iter().map(|(name, _)| name.as_str()).collect();
        if as_json {
            out::json(&json!({
                "ok": ok, "origin": origin, "size": size, "root": hex::encode(root), "witnesses": names,
                "overdue": overdue, "findings": findings, "statement": stated.as_ref().map(|(_, is_true)| is_true),
            }))?;
            return Ok(code);
        }
        if let Some((said, true)) = stated {
            out::line(format_args!(
                "the completeness statement is true: {} intents and {} receipts from {} until {}",
                said.counts.of(LeafKind::Intent),
                said.counts.receipts(),
                start_of(said.from),
                start_of(said.until)
            ))?;
        }
        for finding in findings {
            out::line(out::shown(finding))?;
        }
        let seen =
            if names.is_empty() { String::new() } else { format!(", cosigned by {}", names.join(", ")) };
        let sum = if ok { "all there".to_owned() } else { format!("{} findings", findings.len()) };
        out::line(format_args!("{}: {size} leaves{}: {sum}", out::shown(origin), out::shown(&seen)))?;
        Ok(code)
    }
}

/// The whole file or what was there before: without it the next look would have nothing to go on from.
fn keep(file: &Path, note: &Note) -> Result<()> {
    let cannot = || format!("cannot write `{}`", file.display());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder).while_we(cannot)?;
    beside.write_all(note.to_string().as_bytes()).while_we(cannot)?;
    beside.as_file().sync_all().while_we(cannot)?;
    beside.persist(file).while_we(cannot)?;
    Ok(())
}

/// So long it is waited for witnesses: a gateway asks each twice a second, and five seconds after it failed.
const FOR_WITNESSES: Duration = Duration::from_secs(15);
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
/// As long as a note may be.
const LONGEST_NOTE: usize = 256 << 10;
/// A tile of hashes has 8192 bytes, and the leaves below it have some more.
const LONGEST_TILE: usize = 32 << 10;
/// Findings that are told.
const MOST_FINDINGS: usize = 1000;
/// Hours by which an action's end is due later than it began, at most: nothing rests for a quarter of a year.
const MOST_DUE: u32 = 92 * 24;
/// Hours by which a leaf is later than one behind it, at most. Leaves are in the order in which their entries were written: of many
/// gateways one writes what it did before an outage behind what another did after it. That is promised to be logged within a day.
const MOST_AHEAD: u32 = 25;

/// When an hour begins, as a moment.
fn start_of(hour: u32) -> String {
    Timestamp::from_unix_millis(u64::from(hour) * 3_600_000).as_str().to_owned()
}

fn now() -> Timestamp {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Timestamp::from_unix_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LOG: &str = "gw.example/log/default";

    fn checkpoint(origin: &str, size: u64, root: u8) -> Checkpoint {
        Checkpoint { origin: origin.to_owned(), size, root: [root; 32] }
    }

    fn intent(due_by: u32) -> Leaf {
        Leaf { kind: LeafKind::Intent, action_ref: [1; 32], hour: 490_000, due_by, commitment: [2; 32] }
    }

    fn told(leaf: &Leaf) -> Vec<String> {
        let (mut told, mut survey) = (Told::default(), Survey::default());
        told.take(0, leaf, 1, Hash::default, LOG);
        survey.take(0, leaf);
        let overdue = survey.overdue(490_001);
        told.compare(&checkpoint(LOG, 1, 0), &Read { survey, overdue });
        told.findings
    }

    #[test]
    fn an_end_that_is_due_never_or_in_ages_is_found() {
        assert_eq!(told(&intent(490_024)), [""; 0]);
        assert_eq!(told(&intent(0)), ["leaf 0 begins what has no end, and does not say by when one is due"]);
        assert_eq!(told(&intent(u32::MAX)), ["leaf 0 begins what has its end due more than 92 days later"]);
    }

    #[test]
    fn a_leaf_of_an_hour_that_is_not_its_own_is_found() {
        let this = Leaf::hour_of(now());
        let found = |hours: &[u32]| {
            let mut survey = Survey::default();
            for (number, hour) in (0..).zip(hours) {
                let leaf = Leaf { kind: LeafKind::Terminal, hour: *hour, ..intent(0) };
                survey.take(number, &leaf);
            }
            let mut told = Told::default();
            told.compare(&checkpoint(LOG, hours.len() as u64, 0), &Read { survey, overdue: Vec::new() });
            told.findings
        };
        assert_eq!(found(&[this - 40, this, this - 25, this + 1, this]), [""; 0]);
        for far in [this + 3, 4_000_000_000, u32::MAX] {
            assert_eq!(found(&[this, far]), ["leaf 1 is of an hour that is yet to come"]);
        }
        let ahead = "leaf 1 is of an hour more than 25 later than that of leaf 3, which stands behind it";
        assert_eq!(found(&[this - 50, this, this - 30, this - 26]), [ahead]);
        // By now it is of an hour that came.
        assert_eq!(found(&[this - 50, this, this - 49, this - 48, this]), [ahead]);
    }

    #[test]
    fn a_receipt_that_is_logged_as_something_else_is_found() {
        let receipt = |kind, hour: u32| {
            let mut told = Told::default();
            let merge_by = Timestamp::from_unix_millis(0);
            let created = Timestamp::from_unix_millis(u64::from(hour) * 3_600_000);
            let promised =
                Promised { name: "r.json".to_owned(), merge_by, kind: LeafKind::Terminal, created };
            told.receipts.insert([2; 32], promised);
            told.take(0, &Leaf { kind, ..intent(0) }, 1, Hash::default, LOG);
            let none = Read { survey: Survey::default(), overdue: Vec::new() };
            told.compare(&checkpoint(LOG, 1, 0), &none);
            told.findings
        };
        for hour in [490_001, 490_000 - 25] {
            assert_eq!(receipt(LeafKind::Terminal, hour), [""; 0]);
        }
        let found = "r.json: is logged as something else, or at another time than it was made";
        let (approval, terminal) = (LeafKind::Approval, LeafKind::Terminal);
        for (kind, hour) in [(approval, 490_000), (terminal, 490_002), (terminal, 490_000 - 26)] {
            assert_eq!(receipt(kind, hour), [found]);
        }
    }

    #[test]
    fn a_receipt_that_says_of_its_log_what_is_no_hash_is_found() {
        let root = |root: &str| {
            let mut told = Told::default();
            let (origin, root) = (LOG.into(), root.to_owned().into());
            told.mentioned(&receipt::Checkpoint { origin, size: 1, root, promise: None }, "r.json");
            told.take(0, &intent(490_024), 1, Hash::default, LOG);
            told.findings
        };
        assert_eq!(root(&"00".repeat(32)), [""; 0]);
        assert_eq!(root(&"07".repeat(32)), ["r.json has another root of the log's first 1 leaves"]);
        for none in ["", "no", &"00".repeat(31)] {
            assert_eq!(root(none), ["r.json: what it says is the root of its log is no hash"]);
        }
    }

    #[test]
    fn a_statement_that_is_held_against_nothing_is_found() {
        let found = |of: &str, size: u64, intents: &[u32]| {
            let mut survey = Survey::default();
            for (number, hour) in (0..).zip(intents) {
                survey.take(number, &Leaf { hour: *hour, ..intent(490_024) });
            }
            let said = Survey::default().hours.of(490_000, 490_001, checkpoint(of, size, 0));
            let mut told = Told { statement: Some(("may".to_owned(), said)), ..Told::default() };
            let log = checkpoint(LOG, intents.len() as u64, 0);
            told.must_be_of(&log);
            told.compare(&log, &Read { survey, overdue: Vec::new() });
            (told.findings, told.stated.map(|(_, is_true)| is_true))
        };
        assert_eq!(found(LOG, 0, &[]), (vec![], Some(true)));
        assert_eq!(found(LOG, 1, &[489_999]), (vec![], Some(true)));
        let (untrue, compared) = found(LOG, 0, &[490_000]);
        assert!(untrue[0].contains("is not true") && compared == Some(false), "{untrue:?}");
        // Of another log that the pin names as well, of whatever size, or of this one before it was begun anew.
        let now = format!("{LOG}/epoch-1777593600");
        for (of, size) in [("gw.example/log/other", 0), ("gw.example/log/other", 1), (&*now, 0), (&*now, 1)] {
            let why =
                format!("the completeness statement `may` was not compared: it is of another log, `{of}`");
            assert_eq!(found(of, size, &[490_000]), (vec![why], None));
        }
    }

    #[test]
    fn what_was_told_of_an_earlier_epoch_accuses_nobody_and_what_is_of_another_log_does() {
        let now = format!("{LOG}/epoch-1777593600");
        let found = |origin: &str, served: &str| {
            let mut told = Told::default();
            told.root(&checkpoint(origin, 1, 7), "seen".to_owned());
            told.must_be_of(&checkpoint(served, 1, 0));
            told.take(0, &intent(490_024), 1, Hash::default, served);
            told.findings
        };
        assert_eq!(found(LOG, &now), [""; 0]);
        assert_eq!(found(&now, LOG), [format!("seen is of another log, `{now}`")]);
        assert_eq!(found("gw.example/log/other", LOG), ["seen is of another log, `gw.example/log/other`"]);
        assert_eq!(found(LOG, LOG), ["seen has another root of the log's first 1 leaves"]);
    }
}
