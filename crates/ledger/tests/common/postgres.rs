//! A PostgreSQL server of our own: a throw-away cluster in a temporary directory, reached by its socket only.
//!
//! It needs the Debian package `postgresql` (or `PG_BINDIR`); where that is missing whoever asks says so and skips. It runs as
//! somebody who is not root, because `initdb` refuses that, and ends with the process that started it, however that ends: it
//! waits for the end of a pipe.
#![allow(clippy::print_stderr)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use ledger::{Access, Postgres};
use tempfile::TempDir;
use tokio_postgres::NoTls;

use super::NOW;

/// A server, and the database from which others are copied.
pub struct Server {
    directory: TempDir,
    guard: Option<Child>,
    copies: Mutex<()>,
    next: AtomicU64,
}

/// The server of this process, or nothing where there is no PostgreSQL; then it is said once.
pub fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let started = SERVER.get_or_init(|| match binaries() {
        Some(binaries) => Some(Server::start(&binaries, &[])),
        None => {
            assert!(std::env::var_os("COUNTERSIGN_TEST_MUST_RUN").is_none(), "there is no PostgreSQL");
            eprintln!(
                "there is no PostgreSQL (Debian package `postgresql`): what is tested on it is skipped"
            );
            None
        }
    });
    started.as_ref()
}

/// The newest of the installed versions.
pub fn binaries() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("PG_BINDIR") {
        return Some(folder.into());
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> =
        versions.flatten().map(|it| it.path().join("bin")).filter(|it| it.join("initdb").exists()).collect();
    found.sort();
    found.pop()
}

/// The program, run by somebody who is not root.
fn command(program: &Path) -> Command {
    let root = fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0);
    if !root {
        return Command::new(program);
    }
    // Takes its own place, so that whoever signals it reaches the program.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

impl Server {
    /// Starts one with these settings (`-c name=value`).
    pub fn start(binaries: &Path, settings: &[&str]) -> Server {
        let directory = tempfile::Builder::new().prefix("countersign-pg").tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let data = directory.path().join("data");
        let made = command(&binaries.join("initdb"))
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--no-locale",
                "-D",
            ])
            .arg(&data)
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = Server {
            guard: Some(run(binaries, directory.path(), settings)),
            directory,
            copies: Mutex::new(()),
            next: AtomicU64::new(1),
        };
        server.wait();
        server
    }

    /// Ends it at once, as a crash does not: connections are cut, and nobody is waited for.
    pub fn stop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            guard.wait().unwrap();
        }
    }

    pub fn run_again(&mut self, binaries: &Path) {
        self.guard = Some(run(binaries, self.directory.path(), &[]));
        self.wait();
    }

    pub fn socket(&self) -> &Path {
        self.directory.path()
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&user=postgres", self.socket().display())
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while try_sql(&self.url("postgres"), "SELECT 1").is_err() {
            assert!(Instant::now() < until, "the server did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
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

/// Runs the server until our end of the pipe is closed.
pub fn run(binaries: &Path, directory: &Path, settings: &[&str]) -> Child {
    let script = r#""$@" & server=$!; cat > /dev/null; kill -INT $server; wait $server"#;
    let mut start = Command::new("sh");
    start.args(["-c", script, "sh"]);
    let server = command(&binaries.join("postgres"));
    start.arg(server.get_program()).args(server.get_args());
    start.arg("-D").arg(directory.join("data"));
    start.args(["-c", "listen_addresses=", "-c", "max_connections=300", "-c"]);
    start.arg(format!("unix_socket_directories={}", directory.display()));
    for setting in settings {
        start.args(["-c", setting]);
    }
    let log = fs::File::create(directory.join("log")).unwrap();
    start.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
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

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
