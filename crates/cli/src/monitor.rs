//! `countersign audit verify --log`: a monitor. Reads a gateway's transparency log from the outside, leaf by leaf, and
//! believes nothing but the pin.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::ProgressBar;
use receipt::log::{
    Checkpoint, Completeness, Edge, Hash, Leaf, Note, Resource, Survey, TILE_WIDTH, Tile, believed,
    entries_of, leaf_hash, promised_nonce,
};
use receipt::{Document, Pin, Timestamp, Verdict};
use serde_json::json;

use crate::api::{Api, Client};
use crate::error::{Context, Error, Result};
use crate::out;
use crate::verify::{Belief, Named, documents, read_pin};

/// What a monitor is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A log to check from the outside: where its `checkpoint` is found, such as `https://gateway.example/log`
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
    let log = Log { client: Client::new(url, api.key.as_deref())? };
    let note = log.checkpoint()?;
    let (checkpoint, witnessed) = believed(&note, &pin).map_err(|failure| {
        Error::new(format!("the checkpoint at `{url}` is not to be believed: {failure}"))
    })?;
    let read = read(&log, &checkpoint, &mut told)?;
    let findings = told.findings(&checkpoint, &read);
    if findings.is_empty()
        && let Some(file) = &args.keep
    {
        keep(file, &note)?;
    }
    let end = Checked { checkpoint, witnessed, findings, overdue: read.overdue.len() };
    end.tell(as_json)
}

/// A log, as it is served.
struct Log {
    client: Client,
}

impl Log {
    fn checkpoint(&self) -> Result<Note> {
        let text = String::from_utf8(self.client.bytes("/checkpoint")?);
        let note = text.ok().and_then(|text| Note::parse(&text).ok());
        note.ok_or_else(|| Error::new(format!("`{}` is no checkpoint", self.client.address("/checkpoint"))))
    }

    fn resource(&self, resource: Resource) -> Result<Vec<u8>> {
        self.client.bytes(&format!("/{resource}"))
    }
}

/// What somebody was told of the log before, and by whom.
#[derive(Default)]
struct Told {
    /// Roots by size.
    roots: BTreeMap<u64, Vec<(String, Hash)>>,
    /// Receipts by their commitments.
    receipts: HashMap<Hash, (String, Timestamp)>,
    statement: Option<Completeness>,
    findings: Vec<String>,
}

impl Told {
    fn read(&mut self, args: &Args, issuer: &str, pin: &Pin) -> Result<()> {
        if let Some(file) = &args.from {
            let shown = file.display().to_string();
            let text = fs::read_to_string(file).while_we(|| format!("cannot read `{shown}`"))?;
            let note = Note::parse(&text).while_we(|| format!("cannot use `{shown}`"))?;
            let (before, _) = believed(&note, pin)
                .map_err(|failure| Error::new(format!("`{shown}` is not to be believed: {failure}")))?;
            self.root(before.size, shown, before.root);
        }
        if let Some(file) = &args.statement {
            let shown = file.display();
            let text = fs::read_to_string(file).while_we(|| format!("cannot read `{shown}`"))?;
            let note = Note::parse(&text).while_we(|| format!("cannot use `{shown}`"))?;
            let signed = pin.logs().iter().find_map(|log| Completeness::signed(&note, log).ok());
            let signed = signed.ok_or_else(|| {
                Error::new(format!("`{shown}` is no completeness statement of a log that the pin names"))
            })?;
            self.root(signed.checkpoint.size, shown.to_string(), signed.checkpoint.root);
            self.statement = Some(signed);
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

    fn root(&mut self, size: u64, by: String, root: Hash) {
        if size > 0 {
            self.roots.entry(size).or_default().push((by, root));
        }
    }

    /// A receipt is evidence only as far as it is one.
    fn receipt(&mut self, name: &str, text: &[u8], belief: &Belief) {
        let verdict = receipt::verify(text, &belief.trust(true, false)).verdict;
        if !matches!(verdict, Verdict::Valid | Verdict::TimeUnproven { .. }) {
            return self.findings.push(format!("{name}: {verdict}"));
        }
        let document = std::str::from_utf8(text).ok().and_then(|text| Document::parse(text).ok());
        let promised = document.as_ref().and_then(|document| {
            let log = document.content.metadata.log.as_ref()?;
            Some((log, promised_nonce(document)?, log.promise.as_ref()?.merge_by))
        });
        let Some((log, nonce, merge_by)) = promised else {
            return self.findings.push(format!("{name}: promises no place in a log"));
        };
        let mut root = Hash::default();
        if hex::decode_to_slice(&*log.root, &mut root).is_ok() {
            self.root(log.size, name.to_owned(), root);
        }
        self.receipts.insert(Leaf::commit(&nonce, text), (name.to_owned(), merge_by));
    }

    /// What is wrong, now that the log was read.
    fn findings(mut self, checkpoint: &Checkpoint, read: &Read) -> Vec<String> {
        for (size, said) in self.roots.range(checkpoint.size + 1..) {
            for (by, _) in said {
                let has = checkpoint.size;
                self.findings.push(format!("{by} is of {size} leaves, and the log has only {has} by now"));
            }
        }
        let now = now();
        for (name, merge_by) in self.receipts.values() {
            if *merge_by < now {
                self.findings.push(format!(
                    "{name}: is not in the log, where it was promised by {}",
                    merge_by.as_str()
                ));
            } else {
                out::note(format_args!(
                    "{name}: is not in the log yet; it is promised by {}",
                    merge_by.as_str()
                ));
            }
        }
        for due in &read.overdue {
            let hour = Timestamp::from_unix_millis((u64::from(due.due_by) + 1) * 3_600_000);
            let what = "begins what has no end, and one was due by";
            self.findings.push(format!("leaf {} {what} {}", due.number, hour.as_str()));
        }
        if let Some(said) = &self.statement {
            let found = read.survey.of(said.from, said.until, said.checkpoint.clone());
            if found != *said {
                self.findings.push(format!(
                    "the completeness statement is not true: the log has {} intents and {} receipts of that time, it says {} and {}",
                    found.counts.of(receipt::log::LeafKind::Intent),
                    found.counts.receipts(),
                    said.counts.of(receipt::log::LeafKind::Intent),
                    said.counts.receipts(),
                ));
            }
        }
        self.findings
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
            told.receipts.remove(&leaf.commitment);
            for (by, root) in told.roots.get(&edge.size()).into_iter().flatten() {
                if *root != edge.root() {
                    told.findings
                        .push(format!("{by} has another root of the log's first {} leaves", edge.size()));
                }
            }
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
    witnessed: Vec<(String, u64)>,
    findings: Vec<String>,
    overdue: usize,
}

impl Checked {
    fn tell(&self, as_json: bool) -> Result<ExitCode> {
        let Checked { checkpoint: Checkpoint { origin, size, root }, witnessed, findings, overdue } = self;
        let ok = findings.is_empty();
        let code = if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        let names: Vec<&str> = witnessed.iter().map(|(name, _)| name.as_str()).collect();
        if as_json {
            out::json(&json!({
                "ok": ok, "origin": origin, "size": size, "root": hex::encode(root), "witnesses": names,
                "overdue": overdue, "findings": findings,
            }))?;
            return Ok(code);
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

fn now() -> Timestamp {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Timestamp::from_unix_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
