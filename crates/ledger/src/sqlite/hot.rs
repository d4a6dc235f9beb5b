//! What is asked for with every action, kept in memory as of the last commit.
//!
//! Only the writer puts anything in, after the commit that made it true: a reader that missed and looked into the
//! store may hold an older row by the time it has it.

use std::collections::HashMap;
use std::sync::Arc;

use action::{ActionId, Tenant};
use boundary::Series;
use mandate::Account;

use crate::generations::Generations;
use crate::refusals::Refusals;
use crate::{ApiKey, Freeze, Governed, PrincipalKey};

#[derive(Debug)]
pub(crate) struct Hot {
    pub(crate) accounts: Generations<i64, Account>,
    pub(crate) series: Generations<i64, Arc<Series>>,
    /// Histories that are newer than their rows. They are written now and then, and made good from the actions after
    /// a crash.
    pub(crate) unsaved: HashMap<i64, Arc<Series>>,
    pub(crate) seen: Generations<i64, ()>,
    /// Governed sessions by key.
    pub(crate) sessions: Generations<i64, Governed>,
    /// The records with which cycles began.
    pub(crate) begun: Generations<(Tenant, ActionId), Box<str>>,
    pub(crate) freezes: Arc<Vec<Freeze>>,
    pub(crate) keys: HashMap<[u8; 32], Arc<ApiKey>>,
    pub(crate) principals: Arc<Vec<PrincipalKey>>,
    pub(crate) refusals: Refusals,
}

impl Hot {
    pub(crate) fn new() -> Hot {
        Hot {
            accounts: Generations::new(16 * 1024),
            series: Generations::new(2 * 1024),
            unsaved: HashMap::new(),
            seen: Generations::new(32 * 1024),
            sessions: Generations::new(2 * 1024),
            begun: Generations::new(2 * 1024),
            freezes: Arc::default(),
            keys: HashMap::new(),
            principals: Arc::default(),
            refusals: Refusals::default(),
        }
    }

    pub(crate) fn series(&mut self, key: i64) -> Option<Arc<Series>> {
        self.unsaved.get(&key).cloned().or_else(|| self.series.get(&key))
    }
}
