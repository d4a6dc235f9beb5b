//! `countersign witness`: cosigns checkpoints of other people's logs, if each extends what it saw before.
//!
//! The server side of the C2SP protocol `tlog-witness`. All it keeps is one file, with the checkpoint of each log that it
//! cosigned last. It shows that, as the log signed it, to whoever has a note that the log signed (`seen-checkpoint`, which is ours): a
//! log whose store was put back has it proven so.
//!
//! INVARIANT (one history): what was cosigned is in the file, and on disk, before anybody is told. So a witness that was killed,
//! or whose machine lost power, never cosigns what does not extend that.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use receipt::log::{AddCheckpoint, Checkpoint, NOTHING_SHOWN, Note, Signer, Unwitnessed, Verifier};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::{Context, Error, Result};
use crate::{out, serve};

/// Cosign checkpoints of other gateways' transparency logs, so that nobody is shown two of one log
///
/// When it is ready it prints two lines on stdout, `listening on http://…` and its verifier key. Put TLS in front of it.
/// Its state must never be put back from a backup.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of its key and of what it saw; made if it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// What it is called, such as `witness.example.com`
    #[arg(long, value_name = "NAME")]
    name: String,
    /// A log that it watches, by its verifier key; may be given again
    #[arg(long = "log", value_name = "KEY", required = true)]
    logs: Vec<Verifier>,
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8788")]
    listen: SocketAddr,
    /// End when stdin closes: for whoever starts a witness and may die before it
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let witness = Arc::new(Witness::open(args)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.while_we(|| "cannot start the witness".to_owned())?;
    runtime.block_on(answer(args, witness))?;
    Ok(ExitCode::SUCCESS)
}

async fn answer(args: &Args, witness: Arc<Witness>) -> Result<()> {
    let mut stop = serve::stop_signals(args.until_stdin_closes)?;
    let listener = serve::listen(args.listen).while_we(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr().while_we(|| "cannot find our own address".to_owned())?;
    out::line(format_args!("listening on http://{address}"))?;
    out::line(&witness.key)?;
    let routes = Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/seen-checkpoint", post(seen_checkpoint))
        .layer(from_fn_with_state(Arc::new(Semaphore::new(AT_ONCE)), in_time))
        .layer(DefaultBodyLimit::max(LONGEST_REQUEST))
        .with_state(witness);
    let stopped = async move {
        let _ = stop.recv().await;
    };
    let served = axum::serve(listener, routes).with_graceful_shutdown(stopped).await;
    served.while_we(|| "cannot go on listening".to_owned())
}

/// Whoever sends slowly, or a great deal, keeps nobody else from being answered.
async fn in_time(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_place) = places.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many ask at once\n").into_response();
    };
    let answer = timeout(PATIENCE, next.run(request)).await;
    answer.unwrap_or_else(|_| (StatusCode::REQUEST_TIMEOUT, "that took too long\n").into_response())
}

async fn seen_checkpoint(State(witness): State<Arc<Witness>>, body: String) -> Response {
    match witness.shows(&body) {
        Some(note) => note.to_string().into_response(),
        None => (StatusCode::NOT_FOUND, format!("{NOTHING_SHOWN}\n")).into_response(),
    }
}

async fn add_checkpoint(State(witness): State<Arc<Witness>>, body: String) -> Response {
    let text = |status: StatusCode, text: String| (status, text).into_response();
    // It waits for the disk.
    let cosigned = tokio::task::spawn_blocking(move || witness.cosign(&body)).await;
    match cosigned.unwrap_or_else(|error| Err(Refusal::Broken(io::Error::other(error)))) {
        Ok(line) => text(StatusCode::OK, format!("{line}\n")),
        Err(Refusal::Unwitnessed(Unwitnessed::Conflict(size))) => {
            let headers = [(CONTENT_TYPE, "text/x.tlog.size")];
            (StatusCode::CONFLICT, headers, format!("{size}\n")).into_response()
        }
        Err(Refusal::Unwitnessed(Unwitnessed::Malformed(why))) => {
            text(StatusCode::BAD_REQUEST, format!("{why}\n"))
        }
        Err(Refusal::Unwitnessed(Unwitnessed::UnknownLog)) => {
            text(StatusCode::NOT_FOUND, "the log is not one that is watched here\n".to_owned())
        }
        Err(Refusal::Unwitnessed(Unwitnessed::Unsigned)) => {
            text(StatusCode::FORBIDDEN, "the log did not sign it\n".to_owned())
        }
        Err(Refusal::Unwitnessed(Unwitnessed::Inconsistent)) => {
            let why = "it does not begin with what was seen before\n";
            text(StatusCode::UNPROCESSABLE_ENTITY, why.to_owned())
        }
        Err(Refusal::Broken(error)) => {
            out::note(format_args!("nothing can be cosigned: {error}"));
            text(StatusCode::INTERNAL_SERVER_ERROR, "its state cannot be written\n".to_owned())
        }
    }
}

/// Why a checkpoint was not cosigned.
enum Refusal {
    Unwitnessed(Unwitnessed),
    Broken(io::Error),
}

/// Its key, the logs it watches, and the checkpoint of each that it cosigned last.
struct Witness {
    signer: Signer,
    key: Verifier,
    logs: Vec<Verifier>,
    file: PathBuf,
    seen: Mutex<BTreeMap<String, Seen>>,
    /// Nobody else writes the file as long as this is held.
    _lock: ledger::Lock,
}

/// What was cosigned last of a log.
#[derive(Clone)]
struct Seen {
    checkpoint: Checkpoint,
    /// As the log signed it; earlier versions did not keep that.
    note: Option<Note>,
}

impl Witness {
    fn open(args: &Args) -> Result<Witness> {
        let folder = &args.data_dir;
        let shown = folder.display();
        fs::create_dir_all(folder).while_we(|| format!("cannot make `{shown}`"))?;
        let lock = ledger::Lock::acquire(folder).while_we(|| format!("cannot use `{shown}`"))?;
        let signer = open_key(&folder.join(KEY))?;
        let key = signer.witness(&args.name).while_we(|| format!("cannot use the name `{}`", args.name))?;
        for (place, log) in args.logs.iter().enumerate() {
            if log.is_witness() {
                return Err(Error::new(format!("`{log}` is a witness's key, not a log's")));
            }
            if args.logs[..place].iter().any(|other| other.name() == log.name()) {
                return Err(Error::new(format!("`{}` is named twice", log.name())));
            }
        }
        let file = folder.join(STATE);
        let seen = Mutex::new(read_state(&file)?);
        Ok(Witness { signer, key, logs: args.logs.clone(), file, seen, _lock: lock })
    }

    /// The line with which it cosigns what it is asked to.
    fn cosign(&self, body: &str) -> std::result::Result<String, Refusal> {
        let malformed = |error: receipt::log::Error| Unwitnessed::Malformed(error.to_string());
        let asked = AddCheckpoint::parse(body).map_err(|error| Refusal::Unwitnessed(malformed(error)))?;
        // Held until it is on disk, so that of two at once the second is judged by the first.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = |origin: &str| seen.get(origin).map(|seen| seen.checkpoint.clone());
        let checkpoint = asked.judge(&self.logs, latest).map_err(Refusal::Unwitnessed)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let line = self.signer.cosign(self.key.name(), &asked.note, now);
        let line = line.map_err(|error| Refusal::Broken(io::Error::other(error)))?;
        let log = self.logs.iter().find(|log| log.name() == checkpoint.origin);
        let note = log.and_then(|log| asked.note.by(log).ok());
        let known = seen.get(&checkpoint.origin);
        if known.is_none_or(|known| known.checkpoint != checkpoint || known.note.is_none()) {
            let mut next = seen.clone();
            next.insert(checkpoint.origin.clone(), Seen { checkpoint, note });
            // Keeps (one history).
            write_durably(&self.file, state(&next).as_bytes()).map_err(Refusal::Broken)?;
            *seen = next;
        }
        Ok(line)
    }

    /// What was seen last of the log that signed this note.
    fn shows(&self, body: &str) -> Option<Note> {
        let asked = Note::parse(body).ok()?;
        let origin = asked.text().lines().next().unwrap_or_default();
        let log = self.logs.iter().find(|log| log.name() == origin)?;
        Checkpoint::of(&asked, log).ok()?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(origin)?.note.clone()
    }
}

/// Notes one after the other, or checkpoints of three lines each where there is none.
fn state(seen: &BTreeMap<String, Seen>) -> String {
    let spelled = |seen: &Seen| match &seen.note {
        Some(note) => note.to_string(),
        None => seen.checkpoint.to_string(),
    };
    seen.values().map(spelled).collect()
}

/// A file that cannot be read is not taken for an empty one: what was cosigned would be forgotten.
fn read_state(file: &Path) -> Result<BTreeMap<String, Seen>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Error::new(format!("cannot read `{}`", file.display())).because(error)),
    };
    read_seen(&text).map_err(|error| {
        Error::new(format!("cannot read `{}`", file.display())).because(error).hint(
            "what this witness saw is lost with it: begin again in another folder, with another key and name",
        )
    })
}

fn read_seen(text: &str) -> std::result::Result<BTreeMap<String, Seen>, receipt::log::Error> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (mut rest, mut all) = (&lines[..], BTreeMap::new());
    while !rest.is_empty() {
        let (text, after) = rest.split_at(rest.len().min(3));
        let checkpoint: Checkpoint = text.concat().parse()?;
        let signed = after.first() == Some(&"\n");
        let (note, after) = rest.split_at(rest.len().min(if signed { 5 } else { 3 }));
        let note = if signed { Some(Note::parse(&note.concat())?) } else { None };
        all.insert(checkpoint.origin.clone(), Seen { checkpoint, note });
        rest = after;
    }
    Ok(all)
}

fn open_key(file: &Path) -> Result<Signer> {
    let shown = file.display();
    if !file.exists() {
        let made =
            Signer::generate().and_then(|key| key.to_pkcs8()).while_we(|| "cannot make a key".to_owned())?;
        write_durably(file, &made).while_we(|| format!("cannot write `{shown}`"))?;
    }
    let key = provider::secrets::read_private(file)
        .map_err(|why| Error::new(format!("cannot use `{shown}`")).because(why))?;
    Signer::from_pkcs8(&key).while_we(|| format!("cannot use `{shown}`"))
}

/// The whole file or what was there before, for its owner only; on disk when this returns.
fn write_durably(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = file.with_extension("next");
    let _ = fs::remove_file(&next);
    let mut beside = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    beside.write_all(bytes)?;
    beside.sync_all()?;
    fs::rename(&next, file)?;
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

const KEY: &str = "witness.pkcs8";
const STATE: &str = "seen.checkpoints";
/// A note with many signatures, and a proof.
const LONGEST_REQUEST: usize = 300 << 10;
/// Requests that are answered at once, and how long one may take to come and be answered.
const AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use receipt::log::{Edge, Hash, Plan, Tiles, leaf_hash};

    use super::*;

    /// A log of leaves that say `word` and their number.
    struct Growing {
        key: Signer,
        edge: Edge,
        tiles: Vec<(receipt::log::Tile, Vec<Hash>)>,
    }

    impl Growing {
        fn new(key: &Signer) -> Growing {
            let key = Signer::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
            Growing { key, edge: Edge::default(), tiles: Vec::new() }
        }

        fn to(&mut self, size: u64, word: &str) -> Checkpoint {
            while self.edge.size() < size {
                let leaf = leaf_hash(format!("{word} {}", self.edge.size()).as_bytes());
                let tiles = &mut self.tiles;
                self.edge.push(leaf, |tile, hashes| tiles.push((tile, hashes.to_vec())));
            }
            Checkpoint { origin: "gw.example/log/default".to_owned(), size, root: self.edge.root() }
        }

        fn asks(&self, old: u64, checkpoint: &Checkpoint) -> String {
            let mut tiles = Tiles::default();
            let partial = self.edge.partial().map(|(tile, hashes)| (tile, hashes.to_vec()));
            for (tile, hashes) in self.tiles.iter().cloned().chain(partial) {
                tiles.insert(tile, hashes.as_flattened()).unwrap();
            }
            let plan = Plan::consistency(old, checkpoint.size).ok();
            let proof = plan.filter(|_| old < checkpoint.size).map(|plan| plan.hashes(&tiles).unwrap());
            let note = self.key.sign(checkpoint).unwrap();
            AddCheckpoint { old, proof: proof.unwrap_or_default(), note }.to_string()
        }
    }

    fn open(folder: &Path, log: &Signer) -> Witness {
        Witness::open(&Args {
            data_dir: folder.to_owned(),
            name: "w.example".to_owned(),
            logs: vec![log.log("gw.example/log/default").unwrap()],
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            until_stdin_closes: false,
        })
        .unwrap()
    }

    fn refusal(witness: &Witness, body: &str) -> Unwitnessed {
        match witness.cosign(body) {
            Err(Refusal::Unwitnessed(why)) => why,
            Err(Refusal::Broken(error)) => panic!("{error}"),
            Ok(line) => panic!("cosigned: {line}"),
        }
    }

    #[test]
    fn a_witness_cosigns_what_extends_what_it_saw_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let key = Signer::generate().unwrap();
        let mut log = Growing::new(&key);
        let witness = open(folder.path(), &key);
        let first = log.to(3, "a");
        let line = witness.cosign(&log.asks(0, &first)).ok().unwrap();
        let note = log.key.sign(&first).unwrap().cosigned(&witness.key, &line).unwrap();
        assert!(note.signed_by(&witness.key).unwrap().is_some_and(|at| at > 1_700_000_000));
        let known = witness.key.clone();
        drop(witness);

        let witness = open(folder.path(), &key);
        assert_eq!(witness.key, known);
        let second = log.to(600, "a");
        assert_eq!(refusal(&witness, &log.asks(0, &second)), Unwitnessed::Conflict(3));
        assert!(witness.cosign(&log.asks(3, &second)).is_ok());
        // The same once more is cosigned once more.
        assert!(witness.cosign(&log.asks(600, &second)).is_ok());
    }

    #[test]
    fn what_was_seen_last_is_shown_to_the_log_itself_as_the_log_signed_it() {
        let folder = tempfile::tempdir().unwrap();
        let key = Signer::generate().unwrap();
        let mut log = Growing::new(&key);
        let witness = open(folder.path(), &key);
        let asks = |key: &Signer| {
            let nothing =
                Checkpoint { size: 0, root: receipt::log::empty_root(), ..Growing::new(key).to(0, "a") };
            key.sign(&nothing).unwrap().to_string()
        };
        assert_eq!(witness.shows(&asks(&key)), None);
        let first = log.to(300, "a");
        assert!(witness.cosign(&log.asks(0, &first)).is_ok());
        assert_eq!(witness.shows(&asks(&key)), Some(key.sign(&first).unwrap()));
        assert_eq!(witness.shows(&asks(&Signer::generate().unwrap())), None, "nobody else is told");
        drop(witness);
        let witness = open(folder.path(), &key);
        assert_eq!(witness.shows(&asks(&key)), Some(key.sign(&first).unwrap()));
        drop(witness);
        // What an earlier version kept is gone on with.
        fs::write(folder.path().join(STATE), first.to_string()).unwrap();
        let witness = open(folder.path(), &key);
        assert_eq!(witness.shows(&asks(&key)), None);
        let second = log.to(301, "a");
        assert!(witness.cosign(&log.asks(300, &second)).is_ok());
        assert_eq!(witness.shows(&asks(&key)), Some(key.sign(&second).unwrap()));
    }

    #[test]
    fn a_forked_or_shrunk_log_gets_no_cosignature() {
        let folder = tempfile::tempdir().unwrap();
        let key = Signer::generate().unwrap();
        let (mut log, mut fork) = (Growing::new(&key), Growing::new(&key));
        let witness = open(folder.path(), &key);
        let seen = log.to(300, "a");
        assert!(witness.cosign(&log.asks(0, &seen)).is_ok());
        fork.to(200, "a");
        let other = fork.to(300, "b");
        assert_eq!(refusal(&witness, &fork.asks(300, &other)), Unwitnessed::Conflict(300));
        let longer = fork.to(400, "b");
        assert_eq!(refusal(&witness, &fork.asks(300, &longer)), Unwitnessed::Inconsistent);
        assert_eq!(refusal(&witness, &fork.asks(200, &longer)), Unwitnessed::Conflict(300));
        assert_eq!(refusal(&witness, &fork.asks(0, &longer)), Unwitnessed::Conflict(300));
        let mut small = Growing::new(&key);
        let small_one = small.to(10, "a");
        assert_eq!(refusal(&witness, &small.asks(10, &small_one)), Unwitnessed::Conflict(300));
        assert!(matches!(refusal(&witness, &small.asks(300, &small_one)), Unwitnessed::Malformed(_)));
        let longer = log.to(301, "a");
        assert!(witness.cosign(&log.asks(300, &longer)).is_ok());
    }

    #[test]
    fn nobody_but_the_log_itself_has_it_cosigned() {
        let folder = tempfile::tempdir().unwrap();
        let key = Signer::generate().unwrap();
        let mut stranger = Growing::new(&Signer::generate().unwrap());
        let witness = open(folder.path(), &key);
        let checkpoint = stranger.to(3, "a");
        assert_eq!(refusal(&witness, &stranger.asks(0, &checkpoint)), Unwitnessed::Unsigned);
        let elsewhere = Checkpoint { origin: "other.example".to_owned(), ..checkpoint };
        assert_eq!(refusal(&witness, &stranger.asks(0, &elsewhere)), Unwitnessed::UnknownLog);
        for body in ["", "old 0", "old 0\n\n", "old x\n\na\n\nb\n", "new 0\n\nx", "old 00\n\nx"] {
            assert!(matches!(refusal(&witness, body), Unwitnessed::Malformed(_)), "{body}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_not_cosigned() {
        let folder = tempfile::tempdir().unwrap();
        let key = Signer::generate().unwrap();
        let mut log = Growing::new(&key);
        let mut witness = open(folder.path(), &key);
        witness.file = folder.path().join("no-such-folder").join(STATE);
        let first = log.to(3, "a");
        assert!(matches!(witness.cosign(&log.asks(0, &first)), Err(Refusal::Broken(_))));
        assert!(witness.seen.lock().unwrap().is_empty());
    }

    #[test]
    fn a_state_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(STATE), "gw.example/log/default\n3\n").unwrap();
        assert!(read_state(&folder.path().join(STATE)).is_err());
    }
}
