//! A small HTTP bank that moves money once per idempotency key, counts every effect, and fails
//! on demand.
//!
//! Run it inside a test with [`Bank::start`], or as a process of its own with [`serve`]. Both
//! speak the same HTTP: `/oauth/token`, `/v1/payments`, `/v1/payments/{id}/refunds`, `/v1/accounts/{name}`, `/v1/effects`,
//! `/v1/faults`, `/v1/reservations`, `/v1/reservations/{id}/capture` and `/release`, and for payers `/challenges/{id}`.

mod amount;
mod books;
mod holds;
mod http;
mod journal;
mod payer;
mod reservations;
mod target;
mod tokens;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use books::{Effects, OPERATING};
pub use journal::{Effect, read_journal};
pub use payer::{Callback, Misdelivery, Payers, sign};
pub use target::Target;

pub use crate::fault::Fault;

/// A fault for the next so many requests of a kind.
pub type Injection = crate::fault::Injection<Target>;

/// What a bank is opened with.
#[derive(Clone)]
pub struct Options {
    /// The bearer token every request must carry.
    pub token: String,
    /// An OAuth 2 client that may have tokens instead, from `/oauth/token`.
    pub client: Option<Client>,
    /// Opening balance of the operating account, in minor units of `currency`.
    pub opening_minor: i64,
    /// The one currency this bank keeps, as an ISO 4217 code.
    pub currency: String,
    /// How long an idempotency key is remembered after its payment; `None` ignores keys.
    pub idempotency: Option<Duration>,
    /// A payment or reservation that would come about later than this after its request is not made: what a bank says of
    /// when an absence is final has to be true of it even on a machine that is too slow for its faults.
    pub latest: Option<Duration>,
    /// How long money stays set aside.
    pub hold: Duration,
    /// Money whose time is over is free by itself; else it stays set aside until somebody sets it free.
    pub holds_end: bool,
    /// Which payments their payer has to confirm first; `None` for none.
    pub payers: Option<Payers>,
    /// Who is told what a payer said.
    pub callback: Option<Callback>,
    /// What each payment is said to have used up (`resources_used`); `None`: nothing is said of that.
    pub used: Option<serde_json::Value>,
    /// A file to which each effect is appended and synced before the payment is answered.
    pub journal: Option<PathBuf>,
}

/// An OAuth 2 client.
#[derive(Clone)]
pub struct Client {
    /// Its name.
    pub id: String,
    /// What proves it.
    pub secret: String,
    /// What its tokens say of their lifetime; they hold until they are revoked.
    pub lifetime_seconds: u64,
}

impl Default for Options {
    /// One million US dollars, keys remembered for a day, a well-known token, no journal.
    fn default() -> Options {
        Options {
            token: "demo-bank-token".into(),
            client: None,
            opening_minor: 100_000_000,
            currency: "USD".into(),
            idempotency: Some(Duration::from_secs(24 * 60 * 60)),
            latest: None,
            hold: Duration::from_secs(7 * 24 * 60 * 60),
            holds_end: true,
            payers: None,
            callback: None,
            used: None,
            journal: None,
        }
    }
}

/// Runs a bank at `listen` (port 0 picks one) until the process or the task ends.
///
/// `ready` is called once, with the address actually bound, when connections are accepted.
///
/// # Errors
/// The address cannot be bound, or the journal cannot be opened.
pub async fn serve(listen: SocketAddr, options: Options, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let counter = http::Counter::open(options)?;
    ready(listener.local_addr()?);
    http::run(listener, Arc::new(counter), std::future::pending()).await
}

/// A bank running inside this process, for tests. Dropping it closes the bank.
pub struct Bank {
    address: SocketAddr,
    counter: Arc<http::Counter>,
    close: oneshot::Sender<()>,
    running: JoinHandle<io::Result<()>>,
}

impl Bank {
    /// Opens a bank on a free loopback port.
    ///
    /// # Errors
    /// No port can be bound, or the journal cannot be opened.
    pub async fn start(options: Options) -> io::Result<Bank> {
        Bank::start_at((Ipv4Addr::LOCALHOST, 0).into(), options).await
    }

    /// Opens a bank at `listen`: a test that closes a bank can open the next one in its place.
    ///
    /// # Errors
    /// The address cannot be bound, or the journal cannot be opened.
    pub async fn start_at(listen: SocketAddr, options: Options) -> io::Result<Bank> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let counter = Arc::new(http::Counter::open(options)?);
        let (close, closed) = oneshot::channel::<()>();
        // A dropped sender ends the wait as well, so a dropped `Bank` closes.
        let until = async move { drop(closed.await) };
        let running = tokio::spawn(http::run(listener, Arc::clone(&counter), until));
        Ok(Bank { address, counter, close, running })
    }

    /// Where the bank listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as a URL without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How a gateway speaks to it, in an archetype's file, for whom the bank is the secret `bank`: everything that it can, but
    /// for refunds, reservations and payers. Who wants it otherwise swaps a line ([`crate::Swap`]).
    pub fn binding(&self) -> String {
        binding_at(&self.url())
    }

    /// The bearer token the bank accepts.
    pub fn token(&self) -> &str {
        self.counter.token()
    }

    /// How many tokens were granted.
    pub fn tokens_granted(&self) -> u64 {
        self.counter.tokens().count()
    }

    /// No token that was granted holds any more.
    pub fn revoke_tokens(&self) {
        self.counter.tokens().revoke();
    }

    /// The balance of an account in minor units; `None` for an account nobody ever paid.
    pub fn balance(&self, account: &str) -> Option<i64> {
        self.counter.books().balance(account)
    }

    /// Every effect so far, counted.
    pub fn effects(&self) -> Effects {
        self.counter.books().effects()
    }

    /// How many payments were given back.
    pub fn refunds(&self) -> u64 {
        self.counter.books().refunds()
    }

    /// Tells from now on there what payers say.
    pub fn call_back(&self, to: Callback) {
        self.counter.caller().call_at(to);
    }

    /// Has the next callback go wrong, behind those already queued.
    pub fn misdeliver(&self, how: Misdelivery) {
        self.counter.caller().misdeliver(how);
    }

    /// What was answered to callbacks, in order; 0 where nothing was.
    pub fn callbacks(&self) -> Vec<u16> {
        self.counter.caller().answers()
    }

    /// A payer confirms a payment, or declines it; false if it is too late for that.
    pub fn payer_says(&self, payment: &str, yes: bool) -> bool {
        payer::says(&self.counter, payment, yes)
    }

    /// Tells of its own accord that what was paid under this reference is paid; false if nothing was.
    pub fn tell_of(&self, reference: &str) -> bool {
        payer::tell_of(&self.counter, reference)
    }

    /// The payments that wait for their payer, by id.
    pub fn awaited(&self) -> Vec<String> {
        self.counter.books().all_awaited()
    }

    /// How much was paid under each reference, in minor units.
    pub fn paid(&self) -> BTreeMap<String, i64> {
        self.counter.books().paid()
    }

    /// How much is set aside under each reference, in minor units.
    pub fn set_aside(&self) -> BTreeMap<String, i64> {
        self.counter.books().holds().by_reference()
    }

    /// Under how many keys each payment that was given back was asked for, by its reference: more than one of them would
    /// have moved the money again at a bank that minds nothing but keys.
    pub fn asked_back(&self) -> BTreeMap<String, u64> {
        self.counter.books().asked_back()
    }

    /// How much is set aside, in minor units.
    pub fn reserved(&self) -> i64 {
        self.counter.books().holds().sum()
    }

    /// How many reservations were ever made.
    pub fn reservations(&self) -> u64 {
        self.counter.books().holds().count()
    }

    /// The time of all reservations is over.
    pub fn expire_reservations(&self) {
        self.counter.books().holds().expire();
    }

    /// Queues faults for the next requests, behind those already queued.
    pub fn inject(&self, injection: Injection) {
        self.counter.faults().inject(injection);
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.counter.faults().clear();
    }

    /// Stops accepting, lets requests under way finish, and frees the port.
    ///
    /// # Errors
    /// The listener failed while it ran.
    pub async fn stop(self) -> io::Result<()> {
        drop(self.close);
        self.running.await.map_err(io::Error::other)?
    }
}

/// The same of a bank at this address, which may be another process's.
pub fn binding_at(url: &str) -> String {
    format!(
        r#"[binding]
provider = "http"
name = "bank"
base = "{url}/v1"
timeout_ms = 5000
headers = {{ Authorization = {{ "$secret" = "bank", prefix = "Bearer " }} }}

[binding.capabilities]
idempotent = {{ retention_seconds = 86400 }}
queryable = {{ by_our_reference = true, final_after_seconds = 0 }}

[binding.act]
path = "/payments"
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }} }}
body = {{ recipient = {{ "$value" = "/recipient" }}, amount = {{ "$money" = "amount" }}, currency = {{ "$money" = "currency" }}, reference = {{ "$action" = "reference" }} }}
success = {{ status = [201], pointer = "/status", equals = ["settled"] }}
refused = [{{ status = [402, 422] }}]
reference = "/payment_id"
charged = {{ amount = "/amount", currency = "/currency" }}

[binding.query]
path = "/payments"
params = {{ reference = {{ "$action" = "reference" }} }}
found = {{ status = [200], pointer = "/payments/0" }}
absent = {{ status = [200], pointer = "/payments/0", exists = false }}
reference = "/payments/0/payment_id"
charged = {{ amount = "/payments/0/amount", currency = "/payments/0/currency" }}
"#
    )
}

/// By which name an action's provider knows its latest call, as the payload of the stored action has it.
pub fn reference_in(payload: &[u8]) -> Option<String> {
    let row: serde_json::Value = serde_json::from_slice(payload).ok()?;
    row["call"]["reference"].as_str().map(str::to_owned)
}
