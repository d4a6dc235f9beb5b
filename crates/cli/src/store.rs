//! `countersign store`: moves stores from the files of a data directory into a database that many gateways share, and puts old
//! months together there.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use gateway::config::Store;
use indicatif::{ProgressBar, ProgressStyle};
use ledger::{Archive, Archived, Arrived, COPY_STEPS, Copied, Copying, Finding, Lock, MONTHLY, Route};

use crate::error::{Context, Error, Result};
use crate::{crash, out};

/// Move the stores of a data directory into a database, and put old months together there
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Copy the stores of a data directory into a PostgreSQL database, where gateways go on with them
    ///
    /// Works on a data directory that no gateway holds, and on a database that no gateway was ever on. It may be ended at any time: the
    /// same command goes on where it was. Gateways start on the database only when all of it is there and its chain was verified, and no
    /// longer on the files from then on. Exit code: 0 gateways may start on the database, 1 they may not.
    Copy(Copy),
    /// Let gateways start again on files that were copied into a database, if none was ever on that
    ///
    /// The database is asked, and closed to gateways before the files are opened to them.
    Reclaim(Reclaim),
    /// Put the months of a database that are over together, in one partition of each table, on a disk of its own if that is wanted
    ///
    /// Works on a database that no gateway is on. All of it stays where gateways and verification find it. It may be ended at any time:
    /// each table is as it was or done, and the same command does the rest.
    Archive(Together),
}

#[derive(clap::Args)]
struct Together {
    /// The database, `postgres://…`; better given in the environment, where other users do not see its password
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_STORE", hide_env_values = true)]
    store: Store,
    /// The first month that stays as it is (UTC), for example 2026-01
    #[arg(long, value_name = "MONTH")]
    before: Box<str>,
    /// The server's tablespace for what is put together
    #[arg(long, value_name = "NAME")]
    tablespace: Option<Box<str>>,
}

#[derive(clap::Args)]
struct Reclaim {
    /// Where the stores live
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The database into which they were copied, `postgres://…`; better given in the environment, where other users do not see its
    /// password
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_STORE", hide_env_values = true)]
    to: Option<Store>,
    /// Ask no database: it is gone, and no gateway was ever on it, or whatever was done there may be done once more
    #[arg(long)]
    database_is_gone: bool,
}

#[derive(clap::Args)]
struct Copy {
    /// The data directory whose stores are to be copied, `sqlite:DIR`
    #[arg(long, value_name = "STORE")]
    from: Folder,
    /// The database, `postgres://…`; better given in the environment, where other users do not see its password
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_STORE", hide_env_values = true)]
    to: Store,
    /// The most rows of a transaction
    #[arg(long, value_name = "N", default_value_t = 4096)]
    rows: u32,
}

/// A data directory, named as a store.
#[derive(Clone, Debug)]
struct Folder(PathBuf);

impl FromStr for Folder {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Folder, &'static str> {
        match text.split_once(':') {
            Some(("sqlite", folder)) if !folder.is_empty() => Ok(Folder(folder.into())),
            Some(("postgres" | "postgresql", _)) => Err("nothing is copied out of a database"),
            _ => Err("write it as sqlite:DIR, with the data directory"),
        }
    }
}

/// The stores of a data directory, each of which is a schema of the database.
const STORES: [&str; 2] = ["production", "sandbox"];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Copy(copy) => copy.run(),
        Command::Reclaim(reclaim) => reclaim.run(),
        Command::Archive(together) => together.run(),
    }
}

impl Copy {
    fn run(&self) -> Result<ExitCode> {
        let folder = &self.from.0;
        let _lock = hold(folder)?;
        let mut copies = Vec::new();
        // What cannot be copied at all is said before the first takes its time.
        for store in STORES.into_iter().filter(|store| file(folder, store).is_file()) {
            match Copying::begin(self.route(store)?).map_err(|why| failed(store, why))? {
                Some(copying) => copies.push((store, copying)),
                None => out::line(format_args!("{store}: it was copied before"))?,
            }
        }
        let mut whole = true;
        for (store, copying) in &mut copies {
            let arrived = copy(store, copying).map_err(|why| failed(store, why))?;
            tell(store, &arrived)?;
            whole &= arrived.is_whole();
        }
        if !whole {
            return Err(Error::new("not all arrived as the chain says, and no gateway starts on it").hint(
                "`countersign audit verify --data-dir …` says whether it was so before; the files are as they were, and gateways \
                 may go on with them",
            ));
        }
        // All of them are left before the first is opened.
        copies
            .iter_mut()
            .try_for_each(|(store, copying)| copying.leave().map_err(|why| failed(store, why)))?;
        copies.iter().try_for_each(|(store, copying)| copying.release().map_err(|why| failed(store, why)))?;
        out::line(format_args!(
            "gateways may start on the database (--store, `store` or COUNTERSIGN_STORE), with the same keys; none starts on the files \
             in `{}` any more",
            folder.display()
        ))?;
        Ok(ExitCode::SUCCESS)
    }

    fn route(&self, store: &str) -> Result<Route> {
        Ok(Route {
            file: file(&self.from.0, store),
            url: self.to.url().into(),
            schema: store.into(),
            unkept: vec![gateway::PUBLIC_TOKEN.into()],
            now_ms: jiff::Timestamp::now().as_millisecond(),
            rows: usize::try_from(self.rows).unwrap_or(usize::MAX),
            fail_points: crash::asked(COPY_STEPS.into_iter())?,
        })
    }
}

fn file(folder: &Path, store: &str) -> PathBuf {
    folder.join(format!("{store}.db"))
}

/// Takes hold of a data directory that has a store.
fn hold(folder: &Path) -> Result<Lock> {
    let store = file(folder, STORES[0]);
    if !store.is_file() {
        return Err(Error::new(format!("there is no store at `{}`", store.display()))
            .hint("name the data directory of a gateway that keeps its records in files"));
    }
    Lock::acquire(folder).map_err(|why| {
        let held = matches!(why, ledger::Error::Locked);
        Error::new(format!("cannot take hold of `{}`", folder.display()))
            .because(why)
            .maybe_hint(held.then_some("a gateway runs on it: end it first"))
    })
}

fn failed(store: &str, why: ledger::Error) -> Error {
    let again = matches!(why, ledger::Error::Unavailable(_));
    let again = again.then_some("run the same command again: it goes on where it was");
    Error::new(format!("cannot copy {store}")).because(why).maybe_hint(again)
}

fn copy(store: &'static str, copying: &mut Copying) -> std::result::Result<Arrived, ledger::Error> {
    let tables = copying.tables();
    let (of, mut by_now) =
        (tables.iter().map(|it| it.of).sum(), tables.iter().map(|it| it.rows).sum::<u64>());
    let mut last: Vec<Copied> = tables.to_vec();
    let entries = tables.iter().find(|it| it.table == "entry").map_or(0, |it| it.of);
    let progress = Progress::of(format!("{store}: rows"), of, by_now);
    copying.run(|table| {
        if let Some(before) = last.iter_mut().find(|it| it.table == table.table) {
            by_now += table.rows - before.rows;
            *before = table.clone();
        }
        progress.at(by_now);
    })?;
    progress.done();
    let progress = Progress::of(format!("{store}: ledger entries verified"), entries, 0);
    let arrived = copying.verify(|entries| progress.at(entries))?;
    progress.done();
    Ok(arrived)
}

/// A bar where someone looks, and a line for each tenth where not.
struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    of: u64,
    told: std::cell::Cell<u64>,
}

impl Progress {
    fn of(what: String, of: u64, by_now: u64) -> Progress {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(of).with_message(what.clone()).with_position(by_now);
            let style = "{msg} {human_pos}/{human_len} {wide_bar} {elapsed_precise} {eta} left";
            match ProgressStyle::with_template(style) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Progress { bar, what, of, told: std::cell::Cell::new(by_now) }
    }

    fn at(&self, by_now: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(by_now),
            None if by_now - self.told.get().min(by_now) > self.of / 10 || by_now == self.of => {
                self.told.set(by_now);
                out::note(format_args!("{} {by_now} of {}", self.what, self.of));
            }
            None => {}
        }
    }

    fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Every table that has rows, on both sides, and what the walk found.
fn tell(store: &str, arrived: &Arrived) -> Result<()> {
    let Arrived { verified, findings, tables } = arrived;
    let rows = tables.iter().filter(|table| table.of + table.rows > 0).map(|Copied { table, of, rows }| {
        let differs = if of == rows { "" } else { "differs" };
        [store.to_owned(), (*table).to_owned(), of.to_string(), rows.to_string(), differs.to_owned()]
    });
    out::table(["store", "table", "rows", "there", ""], &rows.collect::<Vec<_>>())?;
    findings.iter().try_for_each(|Finding { entry, broken, .. }| {
        out::line(format_args!("{store}: ledger entry {entry}: {broken}"))
    })?;
    let what = if findings.is_empty() { "all there" } else { "not as the chain says" };
    out::line(format_args!(
        "{store}: {} ledger entries, {} receipts, {} approvals: {what}",
        verified.entries, verified.receipts, verified.approvals
    ))
}

impl Reclaim {
    fn run(&self) -> Result<ExitCode> {
        let folder = &self.data_dir;
        let _lock = hold(folder)?;
        let files = || {
            STORES.map(|store| (store, file(folder, store))).into_iter().filter(|(_, file)| file.is_file())
        };
        // All of the database is closed before the first file is opened.
        for (store, file) in files().filter(|_| !self.database_is_gone) {
            let url = self.to.as_ref().map(Store::url).ok_or_else(|| {
                Error::new("nothing says into which database the files were copied").hint(
                    "name it (--to, or COUNTERSIGN_STORE), so that it can be closed to gateways; --database-is-gone goes on without it",
                )
            })?;
            ledger::withdraw(&file, url, store).while_we(|| format!("cannot reclaim {store}"))?;
        }
        let mut reclaimed = false;
        for (store, file) in files() {
            let taken = ledger::reclaim(&file);
            reclaimed |= taken.while_we(|| format!("cannot reclaim {store}"))?.is_some();
        }
        match (reclaimed, self.database_is_gone) {
            (false, _) => out::line("the files were not copied anywhere, and gateways may start on them")?,
            (true, false) => out::line(
                "gateways may start on the files again, and none starts on the database; drop its schemas, or copy into it again",
            )?,
            (true, true) => out::line(
                "gateways may start on the files again; start none on the database that they were copied into, and drop its schemas",
            )?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Together {
    fn run(&self) -> Result<ExitCode> {
        let mut all = Vec::new();
        for store in STORES {
            let progress = Progress::of(format!("{store}: tables"), MONTHLY.len() as u64, 0);
            let mut done = 0;
            let archive = Archive {
                url: self.store.url().into(),
                schema: store.into(),
                before: self.before.clone(),
                tablespace: self.tablespace.clone(),
            };
            let moved = archive.run(|table| {
                done += 1;
                // Nobody waits for what is not moved.
                if table.is_some() {
                    progress.at(done);
                }
                all.extend(table.map(|table| (store, table)));
            });
            progress.done();
            match moved {
                Err(ledger::Error::Absent(_)) if store != STORES[0] => {}
                moved => moved.map_err(|why| self.failed(store, why))?,
            }
        }
        if all.is_empty() {
            out::line(format_args!("there is no month before {} that lies by itself", self.before))?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows = all.iter().map(|(store, Archived { partitions, into, rows, .. })| {
            [(*store).to_owned(), partitions.len().to_string(), rows.to_string(), into.to_string()]
        });
        out::table(["store", "partitions", "rows", "are in"], &rows.collect::<Vec<_>>())?;
        out::line("gateways may start again")?;
        Ok(ExitCode::SUCCESS)
    }

    fn failed(&self, store: &str, why: ledger::Error) -> Error {
        let hint = match &why {
            ledger::Error::Archive { hint, .. } => hint,
            ledger::Error::Absent(_) => "name the database that gateways keep their records in",
            ledger::Error::Open(_) => {
                "see that the database runs and lets us in, and that --store or COUNTERSIGN_STORE names it"
            }
            _ => "run the same command again: what is done stays, and it goes on with the rest",
        };
        Error::new(format!("cannot put the months of {store} before {} together", self.before))
            .because(why)
            .hint(hint)
    }
}
