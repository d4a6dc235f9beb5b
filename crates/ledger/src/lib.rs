//! Remember: admission, group commit and the chain of what happened.
//!
//! The ledger is where an action becomes a fact. Two commits, no more:
//!
//! ```text
//!   facts ─▶ (decide) ─▶ admit ─▶ (act) ─▶ settle ─▶ reply
//!                          │                 │
//!                  intent, marked sent    outcome, receipt, reply bytes
//!                  key, effect claimed    spend corrected
//!                  mandates debited       entry
//!                  entry
//! ```
//!
//! An action that waits for people is admitted as held; [`Ledger::approve`] counts them, and [`Ledger::resume`] is its
//! commit 1, by the same rules and over the same row. It is also that of every further send of an action that was sent
//! before; in between, [`Ledger::defer`] has it wait. A refused action is one commit, [`Ledger::refuse`]. Whatever must not race (keys, effects, caps, revocations,
//! freezes) is decided by one pure function, [`admit`], over rows read for a whole batch; what it refuses is a value,
//! and unique indexes stand behind it as the last guard. [`Ledger::facts`] tells the judge of the past beforehand and
//! claims nothing.
//!
//! [`Sqlite`] is the store of one machine: one writer thread commits everything that waits in one transaction, with
//! `synchronous=FULL`, and wakes the waiting only then. [`Postgres`] is the store that many gateways share: each commits what
//! waits at it in one transaction, under locks on the rows it touches. [`Memory`] keeps nothing and is for tests. All pass the
//! same conformance suite.
//!
//! Whatever is marked sent is leased: to whom, until when, and with which fencing token. The token protects the record
//! and not the world outside, so what is taken over becomes in doubt and is never simply sent again.
//!
//! What the ledger deliberately does not do: it makes no decision about policy, calls nobody, signs nothing, and
//! knows neither wire nor receipt format: receipts, replies and payloads are bytes to it. It reads no clock; every
//! write brings its time. After a failed write a file is not written any more until it is opened again; a database is tried
//! again.

mod admit;
mod audit;
mod authority;
mod cluster;
mod copy;
mod entry;
mod erasure;
mod error;
mod facts;
mod fail;
mod generations;
mod governed;
mod identity;
mod inspect;
mod intake;
mod lock;
mod log;
mod memory;
mod outbox;
mod packed;
mod postgres;
mod pruned;
mod refusals;
mod session;
mod shelf;
mod sqlite;
mod stand;
mod state;
mod step;
mod stored;
mod told;
mod world;

use std::sync::Arc;

use action::{ActionId, Subject, Tenant};
use futures_util::future::BoxFuture;

pub use admit::{Cell, Claimed, Footing, Item, Rows, admit};
pub use audit::{About, Audited, Labels, Order, Owner, Search};
pub use authority::{ApiKey, Freeze, Held, Mandate, Passkey, PrincipalKey, Revocation, Scope};
pub use cluster::{Clustered, Clustering, Deed, Doer, Grouped, Transfer};
pub use copy::{Arrived, COPY_STEPS, Copied, Copying, Route, reclaim, withdraw};
pub use entry::{
    ADMITTED, AGREED, Broken, CHALLENGED, CHARGING, CHECKING, Draft, Event, HELD, Heading, INFO_GIVEN,
    INFO_REQUESTED, OPENED, PASSKEY_ENROLLED, PASSKEY_REGISTERED, PASSKEY_REVOKED, RESERVED, RESOLVED,
    RETRACTING, ROLLING_BACK, SENT_AGAIN, Said, Session, WAITING, Walk, event_of, record_id, sealed,
    session_of,
};
pub use erasure::{ERASED, Erased, Erasure};
pub use error::Error;
pub use facts::{Durability, Facts, FactsQuery, Figures, Filter, Repeat, Verified};
pub use fail::{COMMIT_STEPS, FailPoints};
pub use identity::Claim;
pub use inspect::{Authority, Enacted, Finding, Illegible, Inspected, Place, Sealed, Testimony, Witness};
pub use intake::{
    Admission, Approval, Basis, By, Debit, Deferral, Effect, Extension, Hold, Intent, Link, Outcome, Receipt,
    Refusal, Reply, Resumption, Settlement, Tolerance, Used,
};
pub use lock::Lock;
pub use log::{
    Fresh, Grown, Growth, Head, Leafed, Log, LogOf, Round, Secrets, Sequencer, Unlogged, hashes, tiles,
};
pub use memory::Memory;
pub use outbox::{Notice, Outbox, Standing, Tried, Waiting};
pub use packed::unpack;
pub use postgres::{Access, Archive, Archived, MONTHLY, Postgres};
pub use session::{
    BUDGET_BREACHED, Cycle, Declared, Declaring, Governed, Heard, INTENT_DECLARED, Intention, Lapse, Lapsed,
    Opening, RECOVERY_COMPLETE, RECOVERY_INITIATED, Record, Recovering, SESSION_CLOSED, SESSION_HALTED,
    SESSION_OPENED, SESSION_STOPPED, Sealer, SecurityEvent, Turn,
};
pub use shelf::{Aside, AsideId, Grip, Shelf, Shelved, TakenUp};
pub use sqlite::{Options, Sqlite};
pub use state::State;
pub use step::STEPS;
pub use stored::{
    Admitted, Counted, Earlier, Existing, Given, Naming, Obstacle, Page, Recorded, Settled, Stored,
};

/// A future answer of the ledger.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// The memory of one gateway, or of several that share it.
///
/// Every write is durable when its future resolves with `Ok`, and linearised with every other. A write whose future
/// is dropped may still happen.
pub trait Ledger: Outbox {
    /// Its transparency logs.
    fn logs(&self) -> &dyn Log;

    /// What is put aside for clients that may come back to another gateway, if there may be another on this store.
    fn shelf(&self) -> Option<&dyn Shelf> {
        None
    }

    /// What the judge is told of the past.
    fn facts<'a>(&'a self, query: FactsQuery<'a>) -> Answer<'a, Facts>;

    /// Commit 1: claims, checks, debits and writes the action down as sent (or held).
    fn admit(&self, admission: Admission) -> Answer<'_, Admitted>;

    /// A person agrees to a held action; with the last approval that is needed it is approved. Counted here, so that no
    /// two can each take themselves for the last, and nobody counts twice.
    ///
    /// # Errors
    /// [`Error::Illegal`] if the action does not wait for this (any more), [`Error::Exists`] if this person has decided
    /// on this hold already.
    fn approve(&self, approval: Approval) -> Answer<'_, Counted>;

    /// A person says no to a held action, which ends it: one commit holds both. `given` is how many had agreed when the
    /// receipt was made, which names them.
    ///
    /// # Errors
    /// As [`Ledger::approve`], and [`Error::Illegal`] or [`Error::Fenced`] too if more was said meanwhile.
    fn reject(&self, rejection: Approval, given: u32, settlement: Settlement) -> Answer<'_, i64>;

    /// A word on a held action that decides nothing: something is asked of whoever asked for it, or answered. It waits on, in
    /// its next hold, so that people look again: what anybody agreed to was less than there is now.
    ///
    /// # Errors
    /// As [`Ledger::approve`].
    fn discuss(&self, word: Approval, event: &'static str) -> Answer<'_, i64>;

    /// Extends the time budget of a mandate, in one commit with the entry that says so. Held actions that waited for it are
    /// approved with the person's word on them: what else speaks against them is asked when they are judged again.
    ///
    /// # Errors
    /// [`Error::Absent`] if the mandate, or one above it, is not stored; [`Error::Mandate`] if it does not take it;
    /// [`Error::Illegal`] if one of the actions does not wait any more. Nothing is written then.
    fn extend(&self, extension: Extension) -> Answer<'_, mandate::Account>;

    /// Commit 1 of an action whose row is there already, because it waited for people or is sent once more: what must
    /// not race is checked, and the row becomes what the judge made of it now. Nothing is debited twice.
    fn resume(&self, resumption: Resumption) -> Answer<'_, Admitted>;

    /// An attempt had no effect and another one is due, money is set aside for it, or an effect is to be looked after or
    /// undone: the action rests with all it has debited and claimed. Answers with the row number of the entry.
    ///
    /// # Errors
    /// [`Error::Illegal`] if it does not stand where that may follow, [`Error::Fenced`] if somebody else has it in hand by
    /// now.
    fn defer(&self, deferral: Deferral) -> Answer<'_, i64>;

    /// A call came back without an answer after it was said to be in doubt: this process, which sent it by this token, has nothing of
    /// it on its way any more, and others need not wait until its lease runs out. Writes no entry: nothing new is known. `false`,
    /// and nothing changes, where it is not in doubt or in the hand of anybody else.
    ///
    /// # Errors
    /// [`Error::NoSuchAction`].
    fn let_go(&self, action: ActionId, token: u32) -> Answer<'_, bool>;

    /// Actions of every tenant that rest and are due by then, oldest first: of many processes on a store each is told of its share,
    /// and of what lay for half a minute.
    fn due(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>>;

    /// Everything that people said about an action, oldest first.
    fn approvals<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Given>>;

    /// A tenant's held actions that did not expire by then, newest first.
    fn held<'a>(
        &'a self,
        tenant: &'a Tenant,
        now_ms: i64,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>>;

    /// Actions of every tenant that are approved and did not resume yet, oldest first; of many processes each is told of its share.
    fn approved(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>>;

    /// The single commit of a refused action.
    fn refuse(&self, refusal: Refusal) -> Answer<'_, Recorded>;

    /// Commit 2: what became of an open action; answers with the row number of its entry.
    ///
    /// # Errors
    /// [`Error::Illegal`] if the action is not in a state that may settle so, which also tells the second of two that
    /// settle at once that it came late. [`Error::Fenced`] if somebody else has it in hand by now, and [`Error::Leased`]
    /// if somebody who may still be at it has, and it was to be taken over.
    fn settle(&self, settlement: Settlement) -> Answer<'_, i64>;

    /// Adds to what was settled: a late answer, an overage, a rollback.
    ///
    /// # Errors
    /// As [`Ledger::settle`]. Of both, [`Error::AboveCap`] if more is charged than a mandate has left and no overage says so.
    fn amend(&self, settlement: Settlement) -> Answer<'_, i64>;

    /// Was a request refused for this ([`Refusal::why`]) within the last minute? If so it is counted as repeated.
    fn repeated<'a>(
        &'a self,
        tenant: &'a Tenant,
        subject: &'a Subject,
        why: &'a str,
        request_hash: &'a [u8; 32],
        now_ms: i64,
    ) -> Answer<'a, Option<Repeat>>;

    /// One action of a tenant.
    fn action<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Stored>>;

    /// The action whose key's [`Claim`] begins with this [`half`](Claim::half).
    fn claimant<'a>(&'a self, tenant: &'a Tenant, half: [u8; 16]) -> Answer<'a, Option<ActionId>>;

    /// Everything that was settled and amended about an action, oldest first.
    fn outcomes<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Settled>>;

    /// The outcome with this receipt id.
    fn receipt<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Settled>>;

    /// The outcome whose receipt has this short address or signature value. Public: no tenant is asked for.
    fn address<'a>(&'a self, address: &'a str) -> Answer<'a, Option<Settled>>;

    /// A tenant's actions, newest first; `after` is the row of the last one seen.
    fn actions<'a>(
        &'a self,
        tenant: &'a Tenant,
        filter: Filter,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>>;

    /// Actions of every tenant that are sent, challenged or in doubt, oldest first. Of many processes on a store each is told of its
    /// share, and of what lay for half a minute; what another is at is nobody else's.
    fn unsettled(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>>;

    /// All of these, whoever's turn it is and whoever is at them: for whoever recovers a store that nobody is on. In one that was put
    /// back those are still there who were when it was backed up.
    fn left_open(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.unsettled(after, limit)
    }

    /// Held and approved actions of every tenant that expired by then, oldest first; of many processes each is told of its share.
    fn expired(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>>;

    /// Stores a mandate: one issued here, or one that its principal signed and that is seen for the first time.
    ///
    /// # Errors
    /// [`Error::Exists`] if the tenant has one of this id, [`Error::Absent`] naming a mandate of its chain that is not
    /// stored or was revoked: nothing descends from it any more.
    fn issue(&self, mandate: Mandate, event: Event) -> Answer<'_, i64>;

    /// One mandate issued here and what is left of it.
    fn mandate<'a>(&'a self, tenant: &'a Tenant, jti: &'a str) -> Answer<'a, Option<Held>>;

    /// A tenant's mandates, newest first.
    fn mandates<'a>(&'a self, tenant: &'a Tenant, after: Option<i64>, limit: u32) -> Answer<'a, Page<Held>>;

    /// Revokes a mandate, also one that was never seen here: none is admitted under it, or under any that descends from
    /// it, after the acknowledgement.
    fn revoke<'a>(&'a self, tenant: &'a Tenant, jti: &'a str, event: Event) -> Answer<'a, Revocation>;

    /// Registers a key with which a principal signs mandates.
    ///
    /// # Errors
    /// [`Error::Exists`] if the principal has it, or had it.
    fn register_principal(&self, key: PrincipalKey, event: Event) -> Answer<'_, i64>;

    /// Every key of every principal, oldest first, the ended ones included.
    fn principals(&self) -> Answer<'_, Arc<Vec<PrincipalKey>>>;

    /// Ends a principal's key.
    ///
    /// # Errors
    /// [`Error::Absent`] if the principal has none of this name.
    fn revoke_principal<'a>(
        &'a self,
        tenant: &'a Tenant,
        issuer: &'a str,
        kid: &'a str,
        event: Event,
    ) -> Answer<'a, i64>;

    /// Stops what the scope covers. Freezing again replaces reason and reach.
    fn freeze(&self, freeze: Freeze, event: Event) -> Answer<'_, i64>;

    /// Ends a freeze of exactly this scope.
    ///
    /// # Errors
    /// [`Error::Absent`] if there is none.
    fn thaw(&self, scope: Scope, event: Event) -> Answer<'_, i64>;

    /// Every freeze.
    fn freezes(&self) -> Answer<'_, Arc<Vec<Freeze>>>;

    /// Stores a credential.
    ///
    /// # Errors
    /// [`Error::Exists`] if the id or the hash is taken.
    fn add_key(&self, key: ApiKey, event: Event) -> Answer<'_, i64>;

    /// The credential with this hash, if it is not revoked.
    fn key<'a>(&'a self, hash: &'a [u8; 32]) -> Answer<'a, Option<Arc<ApiKey>>>;

    /// Every credential of a tenant, oldest first, the revoked ones included.
    fn keys<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<ApiKey>>;

    /// Ends a credential.
    ///
    /// # Errors
    /// [`Error::Absent`] if the tenant has none of this id.
    fn revoke_key<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64>;

    /// Stores a passkey that was just registered. The event's name is [`PASSKEY_REGISTERED`].
    ///
    /// # Errors
    /// [`Error::Exists`] if the id or the credential is taken.
    fn register_passkey<'a>(
        &'a self,
        tenant: &'a Tenant,
        id: &'a str,
        credential_id: &'a [u8],
        event: Event,
    ) -> Answer<'a, i64>;

    /// Lets a registered passkey count from now on. The event's name is [`PASSKEY_ENROLLED`].
    ///
    /// # Errors
    /// [`Error::Absent`] if the tenant has none of this id that waits for it.
    fn enrol_passkey<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64>;

    /// Ends a passkey. The event's name is [`PASSKEY_REVOKED`].
    ///
    /// # Errors
    /// [`Error::Absent`] if the tenant has none of this id, or it has ended.
    fn revoke_passkey<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64>;

    /// The passkey with this credential, whoever's it is.
    fn passkey<'a>(&'a self, credential_id: &'a [u8]) -> Answer<'a, Option<Passkey>>;

    /// Every passkey of a tenant, oldest first, the revoked ones included.
    fn passkeys<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<Passkey>>;

    /// Begins a governed session; answers with the id of its first record.
    ///
    /// # Errors
    /// [`Error::Exists`] if the tenant has one of this id, [`Error::Absent`] if its mandate, or one above it, is revoked:
    /// whatever revocation is acknowledged knows of every session below it. [`Error::Cluster`] where another session of the
    /// agent under one of these is in a cluster about which people have to decide.
    fn open_session(&self, opening: Opening) -> Answer<'_, Box<str>>;

    /// One session of a tenant.
    fn session<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Governed>>;

    /// A tenant's sessions, newest first; of one agent only, if it is named.
    fn sessions<'a>(
        &'a self,
        tenant: &'a Tenant,
        of: Option<&'a Subject>,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Governed>>;

    /// A tenant's open sessions under a mandate, or under any that descends from it.
    fn sessions_under<'a>(&'a self, tenant: &'a Tenant, jti: &'a str) -> Answer<'a, Vec<Governed>>;

    /// A mandate in force at that time that is somebody's, and is this one or descends from it.
    fn held_under<'a>(
        &'a self,
        tenant: &'a Tenant,
        jti: &'a str,
        subject: &'a Subject,
        now_ms: i64,
    ) -> Answer<'a, Option<Box<str>>>;

    /// Open sessions of every tenant whose mandate expired by then, or was revoked with one that it descends from.
    fn lapsed(&self, now_ms: i64, limit: u32) -> Answer<'_, Vec<Lapsed>>;

    /// Sessions of every tenant with cycles that are marked sent and that no other process is at, and those whose recovery began
    /// and did not end yet.
    fn recovering(&self) -> Answer<'_, Vec<Recovering>>;

    /// Takes down what somebody outside told, unless it was told before.
    fn hear(&self, heard: SecurityEvent, event: Event) -> Answer<'_, Heard>;

    /// Commits an intent declaration.
    fn declare(&self, declaring: Declaring) -> Answer<'_, Declared>;

    /// The declaration of this id in a session, or its newest one.
    fn intention<'a>(
        &'a self,
        tenant: &'a Tenant,
        session: &'a str,
        intent: Option<&'a str>,
    ) -> Answer<'a, Option<Intention>>;

    /// The id of the record with which a cycle began; `None` for an action that is none.
    fn begun_as<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Box<str>>>;

    /// Something happens to a session: the row and its record are one commit. Answers with the record's id and the
    /// session after it.
    ///
    /// # Errors
    /// [`Error::Absent`] if there is none, [`Error::Session`] if it cannot happen. Of [`RECOVERY_INITIATED`]
    /// [`Error::Exists`] if the one before has not ended, of [`RECOVERY_COMPLETE`] [`Error::Absent`] if none began.
    fn turn(&self, turn: Turn) -> Answer<'_, (Box<str>, mandate::Session)>;

    /// A session's records in order, from the one after number `after`.
    fn records<'a>(
        &'a self,
        tenant: &'a Tenant,
        session: &'a str,
        after: Option<u64>,
        limit: u32,
    ) -> Answer<'a, Vec<Record>>;

    /// Something that a session has its cluster do: rows and records are one commit.
    ///
    /// # Errors
    /// [`Error::Absent`] if there is no such cluster or session, [`Error::Session`] or [`Error::Cluster`] if it cannot
    /// happen; then nothing is written.
    fn group(&self, clustering: Clustering) -> Answer<'_, Grouped>;

    /// One cluster of a tenant.
    fn cluster<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Clustered>>;

    /// The cluster that a session is a member of.
    fn cluster_of<'a>(&'a self, tenant: &'a Tenant, session: &'a str) -> Answer<'a, Option<Clustered>>;

    /// A tenant's clusters in which members wait for each other in a circle.
    fn deadlocks<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<Clustered>>;

    /// Appends an entry for something that changes no row here, such as the rotation of a signing key.
    fn record(&self, event: Event) -> Answer<'_, i64>;

    /// Until when a tenant is only observed, milliseconds since 1970 (0: it is not), as [`Facts::observed_ms`].
    fn observed<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Option<i64>> {
        let _ = tenant;
        Box::pin(async { Ok(None) })
    }

    /// Appends the entry of who said that a tenant is only observed until then, or no longer (0). A store of many processes keeps
    /// it for all of them and tells it with the [`Facts`]; the process of any other knows itself.
    fn observe<'a>(&'a self, tenant: &'a Tenant, until_ms: i64, event: Event) -> Answer<'a, i64> {
        let _ = (tenant, until_ms);
        self.record(event)
    }

    /// The tenant's wrapped HMAC key; the first one offered is kept, and whoever offers gets the one that is kept.
    fn tenant_key<'a>(&'a self, tenant: &'a Tenant, offered: Option<Vec<u8>>) -> Answer<'a, Option<Vec<u8>>>;

    /// Keeps a text (a policy set, a catalogue) under its digest.
    fn keep<'a>(&'a self, digest: &'a str, text: Vec<u8>) -> Answer<'a, ()>;

    /// How many outcomes of calls that are alike were delivered to their caller, as far as that is on record.
    fn delivered<'a>(&'a self, alike: &'a [u8; 32]) -> Answer<'a, u64>;

    /// So many were, of each. What is on record never becomes less.
    fn deliver(&self, times: Vec<([u8; 32], u64)>) -> Answer<'_, ()>;

    /// The text kept under a digest.
    fn kept<'a>(&'a self, digest: &'a str) -> Answer<'a, Option<Vec<u8>>>;

    /// Deletes what came in before that time and needs nobody any more: at most `limit` actions that are final, or
    /// waited and expired by then, with everything that became of them, oldest first. Answers with how many it were.
    ///
    /// Open actions stay, and so does every entry of the chain, to which one is added that says how much is gone, if
    /// anything is. A key of a deleted action is free again.
    fn prune(&self, before_ms: i64, limit: u32, now_ms: i64) -> Answer<'_, u64>;

    /// Erases what an action was about: request, answers, replies and what people said, with every salt. Rows, entries,
    /// receipts and labels stay. Answers with the row number of the entry that says so, also if it was erased before.
    ///
    /// # Errors
    /// [`Error::Unsettled`] while more is to come of it, [`Error::Kept`] until when it has to be kept.
    fn erase(&self, erasure: Erasure) -> Answer<'_, i64>;

    /// What is left of an action that was erased; `None` if it was not.
    fn erased<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Erased>>;

    /// Settled actions of every tenant that are to be erased by themselves by then, oldest first.
    fn to_erase(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>>;

    /// Ledger entries in order, each with its row number.
    fn entries(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<(i64, Vec<u8>)>>;

    /// A tenant's entries, found by what they are about, in the order asked for; `after` is the row of the last one
    /// looked at.
    ///
    /// There is a bound on what one call looks at: a part may hold fewer rows than asked for, even none, and still be
    /// followed by another. An entry whose action was pruned is not listed any more.
    fn audit<'a>(
        &'a self,
        tenant: &'a Tenant,
        search: Search,
        order: Order,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Audited>>;

    /// Who may do what, and what is stopped: the rows, and what the chain tells of it in entries of these events.
    fn authority(&self, events: &'static [&'static str]) -> Answer<'_, Authority>;

    /// Looks closely at the next stretch of the chain: every entry, and the rows and receipts that belong to it.
    fn inspect(&self, after: Option<Place>) -> Answer<'_, Inspected>;

    /// Walks all entries and compares receipts, records and rows with them.
    ///
    /// # Errors
    /// [`Error::Chain`] naming the first that is wrong.
    fn verify(&self) -> Answer<'_, Verified>;

    /// Is it writable?
    ///
    /// # Errors
    /// [`Error::Unavailable`] saying why not.
    fn health(&self) -> Result<(), Error>;

    /// What holds for what it has acknowledged.
    fn durability(&self) -> Durability;

    /// How many other processes may still write to the same store. Those that were silent for long may not any more from now on.
    fn others(&self) -> Answer<'_, u64>;

    /// Nobody writes to this store any more who signs with this key ([`Sealer::key`]), and no other process does that is there now.
    fn bar<'a>(&'a self, key: &'a str) -> Answer<'a, ()>;

    /// Figures for monitoring.
    fn figures(&self) -> Figures;
}
