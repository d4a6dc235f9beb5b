//! A street of gateways: a house of one, its neighbours with the same keys and data directories of their own, and the server
//! that all of them keep their records in.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ledger::{Access, Ledger, Postgres, Stored};
use tempfile::TempDir;
use testkit::postgres::{Cluster, binaries};

use crate::house::{House, Plan, Process, Voice};

pub(crate) const GATEWAYS: usize = 3;

pub(crate) struct Street {
    /// The first of them has its gateway in here.
    pub(crate) house: House,
    /// All others.
    pub(crate) neighbours: Vec<Process>,
    pub(crate) cluster: Cluster,
    /// Where a second server may be, which the gateways know of.
    pub(crate) standby: std::path::PathBuf,
    url: String,
    _folder: TempDir,
}

impl Street {
    /// Builds it, or says that there is no PostgreSQL.
    pub(crate) async fn new() -> Option<Street> {
        Street::with(Plan::default()).await
    }

    /// The same by a plan that may say more of each house.
    pub(crate) async fn with(plan: Plan) -> Option<Street> {
        let Some(binaries) = binaries() else {
            testkit::skip("no PostgreSQL (Debian package `postgresql`)");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("countersign-pg").tempdir().unwrap();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (first, standby) = (folder.path().join("a"), folder.path().join("b"));
        let cluster = Cluster::start(&binaries, &first, &[]).unwrap();
        let url =
            format!("postgres:///postgres?host={}&host={}&user=postgres", first.display(), standby.display());
        let config = "[limits]\nrecovery_interval_ms = 50\n[sandbox]\nenabled = false\n";
        let plan = Plan { config: format!("{config}{}", plan.config), store: Some(url.clone()), ..plan };
        let house = House::with(plan).await;
        let mut street = Street { house, neighbours: Vec::new(), cluster, standby, url, _folder: folder };
        for number in 1..GATEWAYS {
            copy(&street.house.path().join("data"), &street.data(number));
            street.neighbours.push(street.begin(number));
        }
        Some(street)
    }

    pub(crate) fn gateway(&mut self, number: usize) -> &mut Process {
        match number.checked_sub(1) {
            None => &mut self.house.gateway,
            Some(neighbour) => &mut self.neighbours[neighbour],
        }
    }

    /// Kills one and starts it again.
    pub(crate) fn kill(&mut self, number: usize) {
        self.gateway(number).kill();
        let begun = self.begin(number);
        *self.gateway(number) = begun;
    }

    fn begin(&self, number: usize) -> Process {
        let mut serve = self.house.serve();
        if number > 0 {
            serve.arg("--data-dir").arg(self.data(number));
        }
        Process::start(serve, &self.house.path().join("gateway.log"))
    }

    /// The same person, speaking to each of the gateways.
    pub(crate) fn everywhere(&mut self, voice: &Voice) -> Vec<Voice> {
        (0..GATEWAYS).map(|number| Voice { url: self.gateway(number).url.clone(), ..voice.clone() }).collect()
    }

    /// Where each of the gateways listens.
    pub(crate) fn places(&mut self) -> Vec<String> {
        (0..GATEWAYS).map(|number| format!("127.0.0.1:{}", self.gateway(number).port())).collect()
    }

    fn data(&self, number: usize) -> std::path::PathBuf {
        self.house.path().join(format!("data-{number}"))
    }

    /// The store of production, as one more gateway has it.
    pub(crate) async fn store(&self) -> Arc<Postgres> {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let name = uuid::Uuid::now_v7().to_string();
        let access = Access { schema: "production".into(), ..Access::new(&self.url, &name, &name, now_ms) };
        Arc::new(tokio::task::spawn_blocking(move || Postgres::open(access)).await.unwrap().unwrap())
    }
}

/// Every action of a tenant.
pub(crate) async fn everything(store: &dyn Ledger) -> Vec<Stored> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.actions(&Default::default(), Default::default(), after, 500).await.unwrap();
        all.extend(page.rows);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
