//! PostgreSQL servers of our own: throw-away clusters, reached by their sockets only.
//!
//! They need the Debian package `postgresql` (or `PG_BINDIR`). They run as somebody who is not root, because `initdb` refuses
//! that, and end with the process that started them, however that ends: each waits for the end of a pipe. With a process that is gone
//! goes their folder, too.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where the newest of the installed versions has its programs, if there is one.
#[must_use]
pub fn binaries() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("PG_BINDIR") {
        return Some(folder.into());
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.flatten().map(|version| version.path().join("bin"));
    folders.filter(|folder| folder.join("initdb").exists()).max()
}

/// A cluster, and its server unless that was stopped.
#[derive(Debug)]
pub struct Cluster {
    binaries: PathBuf,
    folder: PathBuf,
    settings: Vec<String>,
    guard: Option<Child>,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Connections are cut, and what is written is kept in order.
    Fast,
    /// As by a crash: what was not acknowledged may be gone, and the next start recovers.
    Crash,
}

impl End {
    fn signal(self) -> &'static [u8] {
        match self {
            End::Fast => b"INT\n",
            End::Crash => b"QUIT\n",
        }
    }
}

impl Cluster {
    /// Makes a cluster in this folder and starts its server with these settings (`name=value`). Others than ours may enter
    /// the folder from then on.
    ///
    /// # Errors
    /// When a program fails, with what it said.
    pub fn start(binaries: &Path, folder: &Path, settings: &[&str]) -> io::Result<Cluster> {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let cluster = Cluster::at(binaries, folder, settings)?;
        let mut init = cluster.program("initdb");
        init.args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--no-locale",
            "-D",
        ]);
        succeed(init.arg(cluster.data()))?;
        cluster.started()
    }

    /// Makes a standby of this cluster in another folder and starts it; from then on nothing is acknowledged here that the
    /// standby does not have, too.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn standby(&self, folder: &Path) -> io::Result<Cluster> {
        let standby = self.copied(folder, &["--write-recovery-conf"])?.started()?;
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")?;
        self.sql("postgres", "SELECT pg_reload_conf()")?;
        let waits = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        until("the standby is not synchronous", || Ok(self.sql("postgres", waits)? == "1"))?;
        Ok(standby)
    }

    /// Makes a backup of all that is there, in another folder, which [`Cluster::restored`] starts a server on.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn backup(&self, folder: &Path) -> io::Result<()> {
        self.copied(folder, &[]).map(drop)
    }

    /// Starts a server on a backup of this cluster, brought forward as these settings say (`restore_command=…`,
    /// `recovery_target_name=…`), and from there on a server like any other.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn restored(&self, folder: &Path, settings: &[&str]) -> io::Result<Cluster> {
        let settings = self.settings.iter().cloned().chain(settings.iter().map(|it| (*it).to_owned()));
        let restored = Cluster::at(&self.binaries, folder, settings.collect())?;
        fs::write(restored.data().join("recovery.signal"), "")?;
        let restored = restored.started()?;
        let recovers = "SELECT pg_is_in_recovery()";
        until("it does not come to the end of its recovery", || {
            Ok(restored.sql("postgres", recovers)? == "f")
        })?;
        Ok(restored)
    }

    /// One of the programs that speak with a server (`pg_dump`, `psql`), told where this one is.
    #[must_use]
    pub fn client(&self, program: &str) -> Command {
        let mut client = Command::new(self.binaries.join(program));
        client.args(["--username=postgres", "--no-password", "-h"]).arg(&self.folder);
        client
    }

    /// A copy of its data in another folder.
    fn copied(&self, folder: &Path, more: &[&str]) -> io::Result<Cluster> {
        let copied = Cluster::at(&self.binaries, folder, self.settings.clone())?;
        let mut copy = copied.program("pg_basebackup");
        copy.args(["--checkpoint=fast", "--no-sync", "--username=postgres"]).args(more).arg("-h");
        succeed(copy.arg(&self.folder).arg("-D").arg(copied.data()))?;
        Ok(copied)
    }

    /// Makes a standby the one that is written to.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn promote(&self) -> io::Result<()> {
        match self.sql("postgres", "SELECT pg_promote(wait => true)")?.as_str() {
            "t" => Ok(()),
            said => Err(io::Error::other(format!("the standby was not promoted: {said}"))),
        }
    }

    /// Ends the server, if it runs.
    pub fn stop(&mut self, how: End) {
        if let Some(mut guard) = self.guard.take() {
            if let Some(mut pipe) = guard.stdin.take() {
                let _ = pipe.write_all(how.signal());
            }
            let _ = guard.wait();
        }
    }

    /// Starts the server once more.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn run(&mut self) -> io::Result<()> {
        self.guard = Some(self.spawn()?);
        let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let runs = until("it does not answer", || Ok(self.sql("postgres", "SELECT 1").is_ok()));
        runs.map_err(|error| io::Error::other(format!("PostgreSQL: {error}: {}", log())))
    }

    /// Where its socket is.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.folder
    }

    /// How one of its databases is reached.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&user=postgres", self.folder.display())
    }

    /// What a statement answers, as `psql` writes it.
    ///
    /// # Errors
    /// When it fails, with what the server said.
    pub fn sql(&self, database: &str, statement: &str) -> io::Result<String> {
        let mut psql = Command::new(self.binaries.join("psql"));
        psql.args([
            "-qAtX",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            database,
            "-c",
            statement,
            "-h",
        ]);
        succeed(psql.arg(&self.folder))
    }

    fn at(binaries: &Path, folder: &Path, settings: Vec<String>) -> io::Result<Cluster> {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o777))?;
        Ok(Cluster { binaries: binaries.to_owned(), folder: folder.to_owned(), settings, guard: None })
    }

    fn started(mut self) -> io::Result<Cluster> {
        self.run()?;
        Ok(self)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// One of the programs, run by somebody who is not root.
    fn program(&self, name: &str) -> Command {
        let program = self.binaries.join(name);
        if !fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0) {
            return Command::new(program);
        }
        // Takes its own place, so that whoever signals it reaches the program.
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
        command
    }

    /// Runs the server until our end of the pipe is closed. If that is without a word, we are gone, and so is whoever would
    /// remove the folder, which is large.
    fn spawn(&self) -> io::Result<Child> {
        let script = r#""$@" & server=$!; read how; kill -${how:-INT} $server; wait $server; [ "$how" ] || rm -rf "$0""#;
        let server = self.program("postgres");
        let mut start = Command::new("sh");
        start.args(["-c", script]).arg(&self.folder).arg(server.get_program()).args(server.get_args());
        start.arg("-D").arg(self.data()).args(["-c", "listen_addresses=", "-c", "max_connections=300", "-c"]);
        start.arg(format!("unix_socket_directories={}", self.folder.display()));
        for setting in &self.settings {
            start.args(["-c", setting]);
        }
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        start.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop(End::Fast);
    }
}

/// What a program that must succeed wrote.
fn succeed(command: &mut Command) -> io::Result<String> {
    let done = command.stdin(Stdio::null()).output()?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    Err(io::Error::other(format!("{}: {said}", command.get_program().display())))
}

fn until(what: &str, mut is_so: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > end {
            return Err(io::Error::other(what.to_owned()));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(60);
