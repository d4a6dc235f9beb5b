//! Names become addresses here, and every address is checked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::rules::{Gate, Origin, Refused};

/// How names become addresses. The system's resolver in production, a table in tests.
pub trait Lookup: Send + Sync {
    /// All addresses of a name.
    fn lookup(&self, name: &str) -> Lookups;
}

/// The answer of a [`Lookup`].
pub type Lookups = BoxFuture<'static, io::Result<Vec<IpAddr>>>;

/// The operating system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

/// The resolver that the connector asks: it hands out checked addresses only.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) origin: Origin,
    pub(super) gate: Arc<Gate>,
    pub(super) lookup: Arc<dyn Lookup>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = guard.lookup.lookup(name.as_str()).await?;
            let allowed = guard.checked(found)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

impl Guard {
    /// Where the origin is now, if it may be connected to.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, NoAddresses> {
        let found = match self.origin.literal() {
            Some(address) => vec![address],
            None => {
                self.lookup.lookup(&self.origin.at().name()).await.map_err(|_| NoAddresses::Unresolved)?
            }
        };
        self.checked(found).map_err(NoAddresses::Refused)
    }

    /// The addresses that may be connected to.
    fn checked(&self, found: Vec<IpAddr>) -> Result<Vec<SocketAddr>, Refused> {
        let (allowed, refused) = sift(&self.gate, &self.origin, found);
        if allowed.is_empty() {
            return Err(refused.unwrap_or_else(|| Refused::NoAddress(self.origin.at().clone())));
        }
        Ok(allowed)
    }
}

/// Why there is nothing to connect to.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAddresses {
    #[error("the name could not be resolved")]
    Unresolved,
    #[error("{0}")]
    Refused(Refused),
}

/// The addresses that may be connected to, and why the first other one may not.
fn sift(gate: &Gate, origin: &Origin, found: Vec<IpAddr>) -> (Vec<SocketAddr>, Option<Refused>) {
    let mut allowed = Vec::new();
    let mut refused = None;
    for address in found {
        match gate.check(origin, address) {
            Ok(()) => allowed.push(SocketAddr::new(address, origin.port())),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    (allowed, refused)
}

impl Lookup for SystemLookup {
    fn lookup(&self, name: &str) -> Lookups {
        let name = name.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}
