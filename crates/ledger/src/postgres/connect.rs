//! Reaching the database: where it is, by what TLS, and whether it is one that keeps what it says it has kept.

use std::ffi::OsString;
use std::fs;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::DbError;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Connection};
use tokio_rustls::TlsConnector;

use super::sql::{Db, Done, Failure, get, one, text};
use crate::{Durability, Error};

/// No statement takes longer, and none waits longer for a row that somebody else has.
pub(super) const STATEMENT: Duration = Duration::from_secs(10);
const LOCK: Duration = Duration::from_secs(4);
/// Who stops in the middle of a transaction loses it, and with it the rows it holds.
const IDLE: Duration = Duration::from_secs(5);
const CONNECTING: Duration = Duration::from_secs(3);
/// For a connection of the pool.
const WAITING: Duration = Duration::from_secs(3);

/// The least version, as the server tells it.
const VERSION: i32 = 150_000;

/// Connections to this schema of the database behind this URL, as many as `most`.
pub(super) fn pool(url: &str, schema: &str, most: usize) -> Result<Pool, Error> {
    pool_heard(url, schema, most, Heard::default())
}

/// The same, with what the server says of their commits.
pub(super) fn pool_heard(url: &str, schema: &str, most: usize, heard: Heard) -> Result<Pool, Error> {
    let Target { config, tls } = Target::read(url)?;
    // It stands in a statement as it is.
    if schema.is_empty() || !schema.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
        return Err(Error::Open(
            format!("`{schema}` is no name of a schema: lower-case letters and `_`").into(),
        ));
    }
    let schema: Arc<str> = schema.into();
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_connect(config, Listening { tls, heard }, manager);
    let set_up = Hook::async_fn(move |client, _| {
        let schema = Arc::clone(&schema);
        Box::pin(async move {
            let client: &Client = client;
            set_up(client, &schema).await.map_err(|error| HookError::message(error.to_string()))
        })
    });
    let pool = Pool::builder(manager)
        .max_size(most)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(WAITING))
        .create_timeout(Some(CONNECTING))
        .recycle_timeout(Some(CONNECTING))
        .post_create(set_up)
        .build();
    pool.map_err(|error| Error::Open(error.to_string().into()))
}

/// How often the server has said of a commit on some connections that nobody else may have it. What it says of a commit comes before
/// its answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<AtomicU64>);

impl Heard {
    fn take(&self, notice: &DbError) {
        // Its text is in the server's language.
        if notice.routine() == Some("SyncRepWaitForLSN") {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn times(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether all is kept that was committed since it had said so that many times.
    pub(super) fn kept_since(&self, times: u64) -> Done<()> {
        kept(self.times() == times)
    }

    /// The same since this was asked last.
    pub(super) fn kept_by_now(&self) -> Done<()> {
        kept(self.0.swap(0, Ordering::Relaxed) == 0)
    }
}

/// What was committed is where the server says that it has to be. Whose wait for the standby somebody cancelled is told so, and that
/// it is committed; after a failover it may not be, so nobody may be told more than of a commit whose answer was lost.
fn kept(is_kept: bool) -> Done<()> {
    let why = "the wait for a synchronous standby was cancelled, and what was committed may be on none";
    is_kept.then_some(()).ok_or_else(|| Failure::Lost(why.to_owned()))
}

/// Makes connections that hear what the server says of its own accord.
struct Listening {
    tls: Tls,
    heard: Heard,
}

type Connected = Result<(Client, JoinHandle<()>), tokio_postgres::Error>;

impl deadpool_postgres::Connect for Listening {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move {
            let (client, connection) = config.connect(self.tls.clone()).await?;
            Ok((client, tokio::spawn(carry(connection, self.heard.clone()))))
        })
    }
}

/// Carries a connection until it ends.
async fn carry<S, T>(mut connection: Connection<S, T>, heard: Heard)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => heard.take(&notice),
            Ok(_) => {}
            Err(error) => return tracing::debug!(why = told(&error), "a connection to the database ended"),
        }
    }
}

/// What holds for every connection, after it was looked at whether the server keeps what it acknowledges: after a failover it
/// may be another one.
async fn set_up(client: &Client, schema: &str) -> Result<(), Error> {
    let unusable = |error: tokio_postgres::Error| Error::Open(told(&error).into());
    // What is read behind a lock is read as it is when the lock is had: a snapshot from before would not see what whoever had it
    // before wrote. A server finds out within half a minute that nobody is there any more who had locked something.
    //
    // Whoever is to hear warnings ([`Heard`]) has to be sent them, whatever is set for the database or the role.
    //
    // Every statement of ours is one that finds a few rows by an index, however many there are: planned once, and never by
    // many workers. Measured over 12 partitions and 300,000 actions: 64 of them are read in 0.8 ms, with workers in 14.
    client
        .batch_execute(&format!(
            "SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off;
             SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
             SET statement_timeout = {}; SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {};
             SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0;
             SET jit = off; SET timezone = 'UTC'; SET client_min_messages = warning;
             SET search_path = {schema}",
            STATEMENT.as_millis(),
            LOCK.as_millis(),
            IDLE.as_millis()
        ))
        .await
        .map_err(unusable)?;
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('fsync'),
               current_setting('full_page_writes'), current_setting('synchronous_commit')";
    let row = client.query_one(sql, &[]).await.map_err(unusable)?;
    let (version, fsync, pages, commit): (i32, String, String, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    keeps_its_word(version, [&fsync, &pages, &commit]).map_err(|why| Error::Open(why.into()))?;
    // As it is accepted it stays for this connection, whatever the server is told later.
    let sql = "SELECT set_config('synchronous_commit', current_setting('synchronous_commit'), FALSE)";
    client.query_one(sql, &[]).await.map(drop).map_err(unusable)
}

/// What the server promises to keep, as it stands now: settings may be taken back while it runs.
pub(super) async fn durability(db: &Db) -> Done<Durability> {
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('fsync'),
               current_setting('full_page_writes'), current_setting('synchronous_commit'),
               current_setting('synchronous_standby_names') <> ''";
    let row = one(db, sql, &[]).await?;
    let row = row.ok_or_else(|| Failure::Lost("the server did not tell its settings".to_owned()))?;
    let (fsync, commit) = (get(&row, 1)?, text(&row, 3)?);
    keeps_its_word(get(&row, 0)?, [fsync, get(&row, 2)?, &commit]).map_err(Failure::Lost)?;
    let (fsync, synchronous_standby) = (fsync == "on", get(&row, 4)?);
    Ok(Durability { store: "postgresql", fsync, synchronous_commit: commit, synchronous_standby })
}

/// May something be acknowledged to others by what this server has acknowledged?
fn keeps_its_word(version: i32, [fsync, pages, commit]: [&str; 3]) -> Result<(), String> {
    if version < VERSION {
        let major = version / 10_000;
        return Err(format!("the server is PostgreSQL {major}; it has to be 15 or later"));
    }
    for (name, value) in [("fsync", fsync), ("full_page_writes", pages)] {
        if value != "on" {
            return Err(format!(
                "`{name}` is {value} on the server; a crash would lose what it said is kept: set it to on"
            ));
        }
    }
    match commit {
        "on" | "remote_apply" | "remote_write" => Ok(()),
        other => Err(format!(
            "`synchronous_commit` is {other} on the server; a crash or failover would lose what it said is kept: set it to on"
        )),
    }
}

/// An error of the server's in its own words, or what kept us from reaching it.
pub(super) fn told(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(said), _) => format!("{} ({})", said.message(), said.code().code()),
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    }
}

/// Where the database is, and how TLS is spoken with it.
struct Target {
    config: Config,
    tls: Tls,
}

impl Target {
    fn read(url: &str) -> Result<Target, Error> {
        let unfit = |why: String| Error::Open(format!("the URL of the store cannot be used: {why}").into());
        let (url, roots) = without_roots(url);
        let mut config = Config::from_str(&url).map_err(|error| unfit(told(&error)))?;
        // One that says nothing leaves the next one its time.
        let servers = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
        let each = CONNECTING / u32::try_from(servers).unwrap_or(u32::MAX);
        config.connect_timeout(each).tcp_user_timeout(STATEMENT).keepalives_idle(STATEMENT);
        // Of several servers the one that can be written to, whichever that is by now.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_application_name().is_none() {
            config.application_name("countersign");
        }
        // Nothing goes to another machine in the clear unless somebody says so.
        if config.get_ssl_mode() == SslMode::Prefer {
            let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
            let named = !hosts.is_empty() || !addresses.is_empty();
            let here = named && hosts.iter().all(is_here) && addresses.iter().all(IpAddr::is_loopback);
            config.ssl_mode(if here { SslMode::Disable } else { SslMode::Require });
        }
        // A machine without any certificates to trust is fine where none is looked at.
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => Tls::default(),
            _ => Tls::new(roots.as_deref()).map_err(unfit)?,
        };
        Ok(Target { config, tls })
    }
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => ["localhost", "127.0.0.1", "::1"].contains(&&**name),
        Host::Unix(_) => true,
    }
}

/// The URL without `sslrootcert`, which the client library does not know, and that file, written in the URL as any other value is.
fn without_roots(url: &str) -> (String, Option<PathBuf>) {
    let Some((before, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let mut roots = None;
    let mut rest = Vec::new();
    for part in query.split('&') {
        match part.split_once('=') {
            Some(("sslrootcert", file)) => {
                let file = OsString::from_vec(percent_decode_str(file).collect());
                roots = Some(PathBuf::from(file));
            }
            // Whoever is asked for by name is asked for its certificate, too.
            Some(("sslmode", "verify-full" | "verify-ca")) => rest.push("sslmode=require"),
            _ => rest.push(part),
        }
    }
    let rest = rest.join("&");
    (if rest.is_empty() { before.to_owned() } else { format!("{before}?{rest}") }, roots)
}

/// TLS by the certificates that the machine trusts, and those in a file; nothing where it is not spoken.
#[derive(Clone, Default)]
struct Tls(Option<Arc<ClientConfig>>);

impl Tls {
    fn new(roots: Option<&Path>) -> Result<Tls, String> {
        let provider = Arc::new(default_provider());
        let unfit = |error: rustls::Error| error.to_string();
        let roots = roots.map(certificates).transpose()?.unwrap_or_default();
        let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).map_err(unfit)?;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(unfit)?.dangerous();
        let config = builder.with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
        Ok(Tls(Some(Arc::new(config))))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = fs::read(file);
    let file = file.display();
    let text = text.map_err(|error| format!("`{file}` cannot be read: {error}"))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("`{file}` holds no certificate")),
        Err(error) => Err(format!("`{file}` holds no certificates in PEM: {error}")),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Secured<S>;
    type TlsConnect = Connect;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Connect> {
        // Asked also where no TLS is spoken; a socket has no name.
        let name = ServerName::try_from(host.to_owned()).ok();
        Ok(Connect { connector: self.0.clone().map(TlsConnector::from), name })
    }
}

struct Connect {
    connector: Option<TlsConnector>,
    name: Option<ServerName<'static>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Connect {
    type Stream = Secured<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let name = self
                .name
                .ok_or_else(|| io::Error::other("the server has no name that a certificate could have"))?;
            let connector = self.connector.ok_or_else(|| io::Error::other("no TLS is spoken here"))?;
            connector.connect(name, stream).await.map(Secured)
        })
    }
}

struct Secured<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Secured<S> {
    /// None: a server behind something that ends TLS for it is reached, too.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_server_that_may_lose_what_it_acknowledged_is_refused_and_told_why() {
        let on = ["on", "on", "on"];
        keeps_its_word(150_000, on).unwrap();
        for (version, settings, named) in [
            (140_009, on, "PostgreSQL 14"),
            (150_000, ["off", "on", "on"], "fsync"),
            (150_000, ["on", "off", "on"], "full_page_writes"),
            (150_000, ["on", "on", "off"], "synchronous_commit"),
            (150_000, ["on", "on", "local"], "synchronous_commit"),
        ] {
            let why = keeps_its_word(version, settings).unwrap_err();
            assert!(why.contains(named), "{why}");
        }
    }

    #[test]
    fn another_machine_is_spoken_to_by_tls_unless_somebody_says_otherwise() {
        let mode = |url: &str| Target::read(url).unwrap().config.get_ssl_mode();
        assert_eq!(mode("postgres://u@db.example/x"), SslMode::Require);
        assert_eq!(mode("postgres://u@db.example/x?sslmode=verify-full"), SslMode::Require);
        assert_eq!(mode("postgres://u@db.example/x?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("postgres://u@localhost/x"), SslMode::Disable);
        assert_eq!(mode("postgres:///x?host=/run/postgresql"), SslMode::Disable);
        // An address is where it goes, whatever the host is called.
        assert_eq!(mode("postgres://u@/x?hostaddr=10.0.0.5"), SslMode::Require);
        assert_eq!(mode("postgres://u@localhost/x?hostaddr=10.0.0.5"), SslMode::Require);
        assert_eq!(mode("postgres://u@localhost/x?hostaddr=127.0.0.1"), SslMode::Disable);
    }

    #[test]
    fn a_server_that_says_nothing_leaves_the_others_their_time() {
        let each = |url: &str| *Target::read(url).unwrap().config.get_connect_timeout().unwrap();
        assert_eq!(each("postgres:///x?host=/run/postgresql"), CONNECTING);
        assert_eq!(each("postgres://u@a,b,c/x"), CONNECTING / 3);
        assert_eq!(each("postgres://u@/x?hostaddr=10.0.0.5,10.0.0.6"), CONNECTING / 2);
    }

    #[test]
    fn a_file_of_certificates_is_taken_out_of_the_url() {
        let (url, file) = without_roots("postgres://u@h/x?sslrootcert=/ca.pem&sslmode=require");
        assert_eq!((&*url, file), ("postgres://u@h/x?sslmode=require", Some("/ca.pem".into())));
        let (url, file) = without_roots("postgres://u@h/x?sslrootcert=/ca.pem");
        assert_eq!((&*url, file), ("postgres://u@h/x", Some("/ca.pem".into())));
        assert!(matches!(Target::read("postgres://u@h/x?sslrootcert=/none"), Err(Error::Open(_))));
    }

    #[test]
    fn a_file_of_certificates_is_written_in_the_url_as_any_other_value_is() {
        let file = |value: &str| without_roots(&format!("postgres://u@h/x?sslrootcert={value}")).1;
        assert_eq!(file("/my%20certificates%2Fca.pem"), Some("/my certificates/ca.pem".into()));
        assert_eq!(file("/100%25/ca%26+.pem"), Some("/100%/ca&+.pem".into()));
        let dir = tempfile::tempdir().unwrap();
        let issuer = rcgen::generate_simple_self_signed(vec!["db.example".to_owned()]).unwrap();
        fs::write(dir.path().join("our ca.pem"), issuer.cert.pem()).unwrap();
        let url = format!("postgres://u@h/x?sslrootcert={}/our%20ca.pem", dir.path().display());
        assert!(Target::read(&url).is_ok());
    }
}
