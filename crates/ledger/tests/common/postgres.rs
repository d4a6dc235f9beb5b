//! A PostgreSQL server of our own, and a database for each test. Where there is none whoever asks says so and skips.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use ledger::{Access, Postgres};
use tempfile::TempDir;
use testkit::postgres::{self, Cluster, End};
use tokio_postgres::NoTls;

use super::NOW;

/// A server, and the database from which others are copied.
pub struct Server {
    cluster: Cluster,
    _folder: TempDir,
    copies: Mutex<()>,
    next: AtomicU64,
}

/// The server of this process, or nothing where there is no PostgreSQL, which is said then.
pub fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let binaries = binaries()?;
    Some(SERVER.get_or_init(|| Server::start(&binaries, &[])))
}

/// Where its programs are, or nothing where there is none, which is said then.
pub fn binaries() -> Option<PathBuf> {
    let found = postgres::binaries();
    if found.is_none() {
        testkit::skip("no PostgreSQL (Debian package `postgresql`)");
    }
    found
}

impl Server {
    /// Starts one with these settings (`name=value`).
    pub fn start(binaries: &Path, settings: &[&str]) -> Server {
        let folder = tempfile::Builder::new().prefix("countersign-pg").tempdir().unwrap();
        let cluster = Cluster::start(binaries, folder.path(), settings).unwrap();
        Server { cluster, _folder: folder, copies: Mutex::new(()), next: AtomicU64::new(1) }
    }

    /// Ends it at once: connections are cut, and nobody is waited for.
    pub fn stop(&mut self) {
        self.cluster.stop(End::Fast);
    }

    pub fn run_again(&mut self) {
        self.cluster.run().unwrap();
    }

    pub fn url(&self, database: &str) -> String {
        self.cluster.url(database)
    }

    /// The URL of a new database, brought up to date.
    pub fn database(&self) -> String {
        let _alone = self.copies.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number == 1 {
            sql(&self.url("postgres"), "CREATE DATABASE prepared");
            drop(Postgres::open(Access::new(&self.url("prepared"), "r", "chain", NOW)).unwrap());
            sql(&self.url("prepared"), "TRUNCATE replica, entry");
        }
        sql(&self.url("postgres"), &format!("CREATE DATABASE t{number} TEMPLATE prepared"));
        self.url(&format!("t{number}"))
    }
}

/// Runs statements, each of which must succeed.
pub fn sql(url: &str, statements: &str) {
    try_sql(url, statements).unwrap();
}

pub fn try_sql(url: &str, statements: &str) -> Result<(), String> {
    asked(url, statements).map(drop)
}

/// The answers of statements, as text.
pub fn asked(url: &str, statements: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let text = |error: tokio_postgres::Error| match error.as_db_error() {
            Some(said) => said.message().to_owned(),
            None => error.to_string(),
        };
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(text)?;
        let connected = tokio::spawn(connection);
        let answers = client.simple_query(statements).await.map_err(text)?;
        drop(client);
        let _ = connected.await;
        let rows = answers.into_iter().filter_map(|answer| match answer {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    })
}
