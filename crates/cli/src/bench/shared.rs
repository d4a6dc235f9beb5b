//! A store that gateways share, under the load of the main path: one gateway on it, and three with the load divided.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;

use gateway::config::Store;
use tempfile::TempDir;
use testkit::postgres::{Cluster, binaries};

use super::load::{self, Plan};
use super::runs::{Run, warm_up_ms};
use super::served::Site;
use super::{Effort, sample};
use crate::error::{Context, Error, Result};

/// The name of the run with one gateway.
pub(crate) const ONE: &str = "64 connections, PostgreSQL";
/// The name of the run with three.
pub(crate) const THREE: &str = "64 connections, PostgreSQL, three gateways";

/// Where the store is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// On a server that is started for it and ends with it.
    Own,
    /// In this database.
    At(Store),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Place, String> {
        match text {
            "postgres:" => Ok(Place::Own),
            url => url.parse().map(Place::At),
        }
    }
}

/// A database, and its server if that is ours.
struct Database {
    store: Store,
    _own: Option<(Cluster, TempDir)>,
}

impl Database {
    fn open(place: &Place, parent: &Path) -> Result<Database> {
        let cannot = || "cannot start a PostgreSQL server".to_owned();
        if let Place::At(store) = place {
            return Ok(Database { store: store.clone(), _own: None });
        }
        let programs = binaries().ok_or_else(|| {
            Error::new("there is no PostgreSQL").hint("install the package `postgresql`, or set PG_BINDIR")
        })?;
        let folder =
            tempfile::Builder::new().prefix(".countersign-bench-").tempdir_in(parent).while_we(cannot)?;
        // The server runs as somebody else where we are root.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).while_we(cannot)?;
        let place = fs::canonicalize(folder.path()).while_we(cannot)?;
        let cluster = Cluster::start(&programs, &place.join("pg"), &SETTINGS).while_we(cannot)?;
        let store = cluster.url("postgres").parse().map_err(Error::new)?;
        Ok(Database { store, _own: Some((cluster, folder)) })
    }
}

/// Memory and checkpoints as for a server that has a machine to itself; what is acknowledged is kept all the same.
const SETTINGS: [&str; 3] = ["shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min"];

/// Both runs, each with a server of its own where that is ours.
pub(crate) fn measure(
    place: &Place,
    folder: &Path,
    effort: &Effort,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Run>> {
    let runs = [(ONE, 1), (THREE, 3)].into_iter().filter(|(name, _)| wanted(name));
    runs.map(|(name, gateways)| run(place, folder, effort, name, gateways)).collect()
}

fn run(place: &Place, folder: &Path, effort: &Effort, name: &str, gateways: usize) -> Result<Run> {
    let database = Database::open(place, folder)?;
    let site = Site::on(folder, &database.store)?;
    let mut running = vec![site.serve()?];
    for number in 1..gateways {
        running.push(site.beside(number)?);
    }
    let first = running.first().ok_or_else(|| Error::new("no gateway was to be measured"))?;
    let requests = first.requests(sample::PAYMENT, MANDATES)?;
    // As many in all as one gateway has.
    let plan = |(number, serial): (usize, u64), address| Plan {
        warm_up_ms: warm_up_ms(effort),
        first_serial: serial,
        ..Plan::of(address, (CONNECTIONS + number) / gateways, effort.until, requests.clone())
    };
    let numbered = (0..).zip((0..).step_by(APART)).zip(&running);
    let plans: Vec<Plan> = numbered.map(|(number, it)| plan(number, it.server.address)).collect();
    let loads = std::thread::scope(|scope| {
        let mut started = Vec::with_capacity(gateways);
        for (plan, id) in plans.iter().zip(running.iter().map(|it| it.server.id())) {
            started.push(scope.spawn(move || load::run(plan, id, name)));
        }
        let broke_off = |_| Err(Error::new("a load client broke off"));
        started.into_iter().map(|it| it.join().unwrap_or_else(broke_off)).collect::<Result<Vec<_>>>()
    })?;
    let loads = plans.iter().zip(&loads);
    let all = loads.map(|(plan, load)| Run::of(name.to_owned(), plan.connections, load, None));
    all.reduce(Run::and).ok_or_else(|| Error::new("nothing was measured"))
}

const CONNECTIONS: usize = 64;
const MANDATES: usize = 256;
/// Between the numbers of the requests that each gateway is sent: more than any run has.
const APART: usize = 1_000_000_000;
