//! `countersign serve`: a gateway, until it is told to stop.

use std::io::{self, IsTerminal, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use gateway::config::{Store, Tls};
use gateway::{Config, Gateway, Installation};
use server::{Faces, Running, ServerConfig};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tracing::Metadata;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::crash;
use crate::error::{Context, Error, Result};
use crate::mcp;
use crate::out;

/// Run a gateway; without a configuration, a sandbox on 127.0.0.1:8787
///
/// When it is ready it prints one line on stdout, `listening on http://…`; all else goes to stderr. SIGTERM and Ctrl-C
/// end it once what is under way is answered. COUNTERSIGN_LOG sets what is logged (such as `debug`).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Configuration, TOML; every key of it is also a COUNTERSIGN_… variable
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where store and keys live
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A store that many gateways share, `postgres://…`; without it, a file where the keys live
    #[arg(long, value_name = "URL")]
    store: Option<Store>,
    /// Address to listen on; any but loopback needs TLS or --behind-tls-proxy
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// PEM file with the certificate chain
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A proxy in front ends TLS, and nobody else can reach this address
    #[arg(long)]
    behind_tls_proxy: bool,
    /// End when stdin closes: for whoever starts a gateway and may die before it
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    log_from("info");
    let config = args.configuration()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.while_we(|| "cannot start the gateway's threads".to_owned())?;
    runtime.block_on(serve(config, args))?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn configuration(&self) -> Result<Config> {
        let mut config = Config::read(self.config.as_deref()).map_err(|why| {
            let place = self
                .config
                .as_deref()
                .map_or("the environment".to_owned(), |file| format!("`{}`", file.display()));
            Error::new(format!("cannot use the configuration of {place}")).because(why)
        })?;
        if let Some(data_dir) = &self.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        if let Some(store) = &self.store {
            config.store = Some(store.clone());
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            config.tls = Some(Tls { certificate: certificate.clone(), key: key.clone() });
        }
        config.behind_tls_proxy |= self.behind_tls_proxy;
        config.fail_points = crash::asked(crash::points())?;
        config.mcp.keeper = Some(mcp::keeper()?);
        Ok(config)
    }
}

async fn serve(mut config: Config, args: &Args) -> Result<()> {
    // Before anything is opened or made: whether we may listen there at all.
    ServerConfig::from(&config).check(config.listen).map_err(refused)?;
    private_key(&config)?;
    let listener = listen(config.listen).map_err(|error| {
        let hint = "another gateway may run there already; --listen names another address";
        Error::new(format!("cannot listen on {}", config.listen)).because(error).hint(hint)
    })?;
    // Port 0 has become a port, and unless it is configured the public address follows it.
    config.listen = listener.local_addr().while_we(|| "cannot find our own address".to_owned())?;
    let stop = stop_signals(args.until_stdin_closes)?;

    let server_config = ServerConfig::from(&config);
    let mut installation = Installation::open(config.clone(), server::render).await.map_err(|why| {
        let held = why.contains(&ledger::Error::Locked.to_string());
        let held = held.then_some("a gateway runs on this data directory already; --data-dir names another");
        Error::new("cannot open the gateway").because(why).maybe_hint(held)
    })?;
    installation.keep_public_url().map_err(Error::new)?;
    installation.listens_on(config.listen);
    installation.start();
    let first_key = installation.first_key().await.map_err(|error| Error::new(error.to_string()))?;
    let faces = Faces { production: installation.production.clone(), sandbox: installation.sandbox.clone() };
    let running = server::serve(listener, faces, server_config).await.map_err(refused)?;

    welcome(&config, &running, first_key.as_ref().map(|key| key.secret.as_str()));
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    out::line(format_args!("listening on {scheme}://{}", running.address()))?;
    wait(stop).await;
    tracing::info!("stopping: answering what is under way");
    running.stop(GRACE).await;
    installation.production.mcp().close().await;
    keep_last_deliveries(&installation.production).await;
    Ok(())
}

/// A listener with a long queue: when many callers come back at once, those who find it full wait a second each.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}

/// Before the end: what clients have had they do not mean when they call again.
pub(crate) async fn keep_last_deliveries(gateway: &Gateway) {
    if let Err(error) = gateway.keep_last_deliveries().await {
        tracing::warn!(%error, "what was delivered last is not on record: the same calls get the same outcomes once more");
    }
}

/// The system may allow fewer.
const QUEUE: u32 = 8192;

/// What to do next, on stderr. The first key is shown here and never again.
fn welcome(config: &Config, running: &Running, first_key: Option<&str>) {
    let url = config.public_url();
    if let Some(key) = first_key {
        out::note(format_args!("The admin key, shown once; only its hash is kept:\n\n  {key}\n"));
    }
    let version = env!("CARGO_PKG_VERSION");
    let data = config.data_dir.display();
    match &config.store {
        Some(store) => {
            let place = store.place();
            out::note(format_args!(
                "Countersign {version} · store in PostgreSQL `{place}`, keys in `{data}`"
            ));
        }
        None => out::note(format_args!("Countersign {version} · data in `{data}`")),
    }
    let near = running.address().ip().is_loopback() && !config.behind_tls_proxy;
    if config.sandbox.enabled && (near || config.sandbox.public) {
        out::note(format_args!(
            "Try the sandbox, no key needed:\n  curl -s {url}/api/sandbox/execute -H 'content-type: application/json' \\\n    \
             -d '{{\"archetype\":\"PAYMENT_TRANSFER\",\"constraints\":{{\"recipient\":\"acct-4711\",\"amount_usd\":\"25.00\",\"max_total_usd\":\"30.00\"}}}}'"
        ));
    }
    if config.public_url.is_none() && !near {
        out::note(format_args!(
            "Receipts will name `{url}` as their issuer: set public_url to the address that callers use"
        ));
    }
    let next = match config.catalogue_dir {
        Some(_) => {
            "Keys for agents: COUNTERSIGN_API_KEY=… countersign keys api create --subject NAME --role agent"
        }
        None => "For real actions, configure catalogue_dir and policy_dir: see docs/operations.md",
    };
    out::note(format_args!("{next}\nDocumentation: {url}/docs"));
}

fn refused(error: server::Error) -> Error {
    let hint = error.hint();
    match error {
        server::Error::Io(error) => Error::new("cannot listen").because(error),
        error => Error::new(error.to_string()).maybe_hint(hint),
    }
}

/// A TLS key that others can read protects nothing.
fn private_key(config: &Config) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let Some(tls) = &config.tls else { return Ok(()) };
    let shown = tls.key.display();
    let about = std::fs::metadata(&tls.key).while_we(|| format!("cannot read `{shown}`"))?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::new(format!("`{shown}` can be read by others (mode {mode:03o})"))
            .hint(format!("run chmod 600 {shown}")));
    }
    Ok(())
}

/// Fires on SIGTERM, on Ctrl-C, and when stdin closes if that is asked for. Set up before anything can need it.
pub(crate) fn stop_signals(stdin_too: bool) -> Result<mpsc::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let cannot = || "cannot listen for signals".to_owned();
    let mut terminate = signal(SignalKind::terminate()).while_we(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).while_we(cannot)?;
    let (stop, stopped) = mpsc::channel(1);
    if stdin_too {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            let _ = stop.blocking_send(());
        });
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(()).await;
    });
    Ok(stopped)
}

async fn wait(mut stop: mpsc::Receiver<()>) {
    stop.recv().await;
}

/// Logs to stderr what `COUNTERSIGN_LOG` asks for, or else from this level.
pub(crate) fn log_from(level: &str) {
    let filter = EnvFilter::try_from_env("COUNTERSIGN_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // What rmcp says of messages quotes them, which is not for the log, whatever is asked for.
    let quotes = |said: &Metadata<'_>| said.target().starts_with("rmcp");
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_filter(filter.and(filter_fn(move |said| !quotes(said))));
    let started = tracing_subscriber::registry().with(layer).try_init();
    // Only a second subscriber in one process could fail, and then the first one logs.
    drop(started);
}

/// How long a stop waits for answers under way.
pub(crate) const GRACE: Duration = Duration::from_secs(20);
