//! A ledger that keeps nothing: for tests and simulations. It decides with the same [`admit`](crate::admit) as every
//! other.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use action::{ActionId, Subject, Tenant};
use mandate::Account;
use receipt::log::Tile;
use sha2::{Digest, Sha256};

use crate::admit::Claimed;
use crate::entry::{self, Chain, Reading};
use crate::identity::{self, Claim};
use crate::intake::{Close, Owners, Process};
use crate::log::{self, Fresh, GoesOn, Growth, Head, Leafed, Unlogged};
use crate::outbox;
use crate::pruned::Pruned;
use crate::session::Sealer;
use crate::step::{Left, Mark, Step};
use crate::stored::page;
use crate::world::{Numbers, Row, World, Written};
use crate::{
    About, Admission, Admitted, Answer, ApiKey, Approval, Audited, Broken, Clustered, Clustering, Counted,
    Declared, Declaring, Deferral, Durability, Erased, Erasure, Error, Event, Existing, Extension, Facts,
    FactsQuery, Figures, Filter, Finding, Freeze, Given, Governed, Grouped, Heard, Held, Inspected,
    Intention, Lapsed, Ledger, Log, Mandate, Notice, Opening, Order, Outbox, Owner, Page, Passkey,
    PrincipalKey, Record, Recorded, Recovering, Refusal, Repeat, Resumption, Revocation, Scope, Search,
    SecurityEvent, Settled, Settlement, Standing, State, Stored, Testimony, Tried, Turn, Verified, Waiting,
    Walk, Witness,
};

/// Everything in memory, behind one lock.
pub struct Memory {
    state: Mutex<All>,
}

/// All rows, and what no admission is decided by.
struct All {
    world: World,
    principals: Arc<Vec<PrincipalKey>>,
    keys: Vec<ApiKey>,
    passkeys: Vec<Passkey>,
    tenant_keys: HashMap<Tenant, Vec<u8>>,
    delivered: HashMap<[u8; 32], u64>,
    kept: HashMap<Box<str>, Vec<u8>>,
    outbox: outbox::InMemory,
    logs: log::InMemory,
}

impl Deref for All {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for All {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

impl Memory {
    /// An empty ledger with a chain of this name.
    ///
    /// # Errors
    /// None in practice: the opening entry is written as in every store.
    pub fn new(chain_id: &str, now_ms: i64) -> Result<Memory, Error> {
        let numbers = Numbers { entry: 1, action: 1, step: 1 };
        let mut world = World::new(Chain::new(chain_id, None), numbers, PROCESS, Owners::Only(PROCESS));
        world.open(now_ms)?;
        let all = All {
            world,
            principals: Arc::default(),
            keys: Vec::new(),
            passkeys: Vec::new(),
            tenant_keys: HashMap::new(),
            delivered: HashMap::new(),
            kept: HashMap::new(),
            outbox: outbox::InMemory::default(),
            logs: log::InMemory::default(),
        };
        Ok(Memory { state: Mutex::new(all) })
    }

    /// The same, where entries of governed sessions are signed.
    #[must_use]
    pub fn sealed_by(self, sealer: Arc<dyn Sealer>) -> Memory {
        self.all().sessions.sealer = Some(sealer);
        self
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now<'a, T: Send + 'a>(
        &'a self,
        deed: impl FnOnce(&mut All) -> Result<T, Error> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move { deed(&mut self.all()) })
    }
}

impl All {
    fn held(&self, mandate: &Mandate) -> Held {
        Held { mandate: mandate.clone(), account: self.account(&mandate.tenant, &mandate.jti) }
    }

    fn facts(&self, query: &FactsQuery<'_>) -> Facts {
        let FactsQuery { tenant, environment, subject, archetype, principal, .. } = *query;
        let claim = query.key.map(|key| Claim::new(tenant, environment, subject, key));
        if let Some(Claimed { id, request_hash, state, at_ms }) =
            claim.and_then(|claim| self.rows.claims.get(&claim)).copied()
        {
            let same_request = request_hash == *query.request_hash;
            let reply = self.row(id).and_then(|row| row.stored.reply.clone());
            let existing = Some(Existing { id, same_request, state, at_ms, reply, altered: false });
            return Facts { existing, ..Facts::default() };
        }
        let covers = |freeze: &&Freeze| freeze.scope.covers(tenant, subject, archetype, query.provider);
        let series = identity::series(tenant, principal, archetype, query.currency.unwrap_or(""));
        let mark = query.destination.map(|to| identity::seen(tenant, principal, archetype, to));
        Facts {
            observed_ms: None,
            existing: None,
            accounts: query.mandates.iter().map(|jti| self.account(tenant, jti)).collect(),
            frozen: self.rows.freezes.iter().find(covers).cloned(),
            series: self.rows.series.get(&series).map(|cell| cell.value.clone()).unwrap_or_default(),
            first_seen: mark.is_some_and(|mark| !self.rows.seen.contains_key(&mark)),
            earlier: query.effect.and_then(|effect| {
                let standing = self.standing(&effect.hash, query.now_ms - effect.window_ms);
                standing.into_iter().find(|earlier| Some(earlier.id) != query.apart_from)
            }),
        }
    }

    /// The entries in the order of the chain, but for those of actions that were pruned.
    fn audited(&self) -> Vec<Audited> {
        let about = |entry: &Reading<'_>| match entry.action {
            None => Some(About::Event),
            Some(id) => {
                let Row { stored, labels, .. } = self.row(id)?;
                let Stored { tenant, subject, archetype, at_ms, payload, .. } = stored.clone();
                let labels = labels.clone();
                Some(About::Action(Box::new(Owner {
                    id,
                    tenant,
                    subject,
                    archetype,
                    at_ms,
                    labels,
                    payload,
                })))
            }
        };
        let entries = self.entries.iter().filter_map(|(row, Written { bytes, record, .. })| {
            let entry = Reading::of(bytes)?;
            Some(Audited::new(*row, &entry, record.clone(), about(&entry)?))
        });
        entries.collect()
    }

    fn inspect(&self) -> Inspected {
        let (mut walk, mut left) = (Walk::default(), Left::default());
        let mut found = Inspected { last: self.last_entry(), ..Inspected::default() };
        let passed = self.logs.passed();
        let outcomes = || self.outcomes.values().map(|it| &it.settled);
        let came: HashMap<i64, State> = outcomes().map(|it| (it.entry, it.state)).collect();
        for (entry, Written { bytes, record, .. }) in &self.entries {
            let entry = *entry;
            let broken = match walk.step(bytes) {
                Err(broken) => Some(broken),
                Ok(said) => {
                    let hash = record.as_ref().map(|record| Sha256::digest(record).into());
                    let other = record.is_some() && said.action_hash != hash;
                    let led = said.action.filter(|id| self.row(*id).is_some()).is_none_or(|id| {
                        let from = left.mark(id).unwrap_or(Mark::NONE);
                        left.take(id, from, Step::of(&said, came.get(&entry).copied()))
                    });
                    let broken = other.then_some(Broken::Record).or((!led).then_some(Broken::Step));
                    broken.or(passed.lacks(entry, bytes).then_some(Broken::Unlogged))
                }
            };
            found.sealed.extend(entry::sealed(entry, bytes));
            found.findings.extend(broken.map(|broken| Finding { entry, action: None, tenant: None, broken }));
        }
        for row in self.actions.values() {
            let Stored { id, tenant, payload, .. } = &row.stored;
            if payload.is_empty() != row.erased.is_some() {
                let (entry, action, tenant) = (found.last, Some(*id), Some(tenant.clone()));
                found.findings.push(Finding { entry, action, tenant, broken: Broken::Erased });
            }
            for (approver, given) in &row.approvals {
                let said = self.entries.get(&given.entry).and_then(|it| Reading::of(&it.bytes));
                let fits =
                    said.as_ref().and_then(|it| it.action_hash) == Some(Sha256::digest(&given.record).into());
                found.approvals += 1;
                found.findings.extend((!fits).then(|| Finding {
                    entry: given.entry,
                    action: Some(*id),
                    tenant: Some(tenant.clone()),
                    broken: Broken::Approval,
                }));
                let event = said.map_or("", |it| it.event).into();
                let (round, approver, record) = (given.round, approver.as_str().into(), given.record.clone());
                let testimony = Testimony::Approval { round, approver, event, record };
                found.witnesses.push(Witness {
                    entry: given.entry,
                    action: *id,
                    tenant: tenant.clone(),
                    testimony,
                });
            }
        }
        let receipts = outcomes().filter_map(|settled| {
            let Stored { subject, archetype, key, .. } = self.row(settled.action)?.stored.clone();
            let (state, receipt) = (settled.state, settled.receipt.clone()?);
            let said = self.entries.get(&settled.entry).and_then(|it| Reading::of(&it.bytes));
            let event = said.map_or("", |it| it.event).into();
            let testimony = Testimony::Receipt { subject, archetype, key, state, event, said: None, receipt };
            let (action, tenant) = (settled.action, settled.tenant.clone());
            Some(Witness { entry: settled.entry, action, tenant, testimony })
        });
        let receipts: Vec<Witness> = receipts.collect();
        found.receipts = receipts.len() as u64;
        found.witnesses.extend(receipts);
        (found.entries, found.head) = (walk.entries(), walk.head());
        found
    }

    fn last_entry(&self) -> i64 {
        self.next_entry() - 1
    }

    fn verify(&self) -> Result<Verified, Error> {
        let Inspected { findings, entries, receipts, approvals, head, .. } = self.inspect();
        match findings.into_iter().next() {
            Some(Finding { entry: row, broken, .. }) => Err(Error::Chain { row, broken }),
            None => Ok(Verified { entries, receipts, approvals, head }),
        }
    }

    fn prune(&mut self, before_ms: i64, limit: u32, now_ms: i64) -> Result<u64, Error> {
        let old = |stored: &Stored| {
            let expired = stored.expires_ms.is_some_and(|expires| expires <= before_ms);
            stored.at_ms < before_ms && (stored.state.is_final() || stored.state.waits() && expired)
        };
        let rows = self.actions.iter().filter(|(_, row)| old(&row.stored)).map(|(number, _)| *number);
        let rows: Vec<i64> = rows.take(limit as usize).collect();
        let mut pruned = Pruned::default();
        let world = &mut self.world;
        for row in rows.iter().filter_map(|number| world.actions.remove(number)) {
            pruned.action(row.stored.row);
            world.ids.remove(&row.stored.id);
            row.claim.and_then(|claim| world.rows.claims.remove(&claim));
            for outcome in row.outcomes.iter().filter_map(|entry| world.outcomes.remove(entry)) {
                let settled = outcome.settled;
                // Outcomes have the numbers of their entries here.
                pruned.outcome(settled.entry, settled.entry, settled.receipt.is_some());
            }
        }
        if pruned.actions > 0 {
            let event = pruned.event(now_ms).map_err(|error| Error::Rejected(error.to_string().into()))?;
            world.event(event)?;
        }
        Ok(pruned.actions)
    }

    /// Until when the action of an entry goes on, if it does with that entry.
    fn until_ms(&self, entry: &[u8]) -> Option<i64> {
        let said = Reading::of(entry).filter(|said| GoesOn::is_told_by(said.event))?;
        let Row { stored, lease, .. } = self.row(said.action?)?;
        let (expires_ms, until_ms, in_hand) = (stored.expires_ms, lease.until_ms, lease.owner.is_some());
        GoesOn { expires_ms, until_ms, in_hand }.after(said.event)
    }

    fn erased(&self, tenant: &Tenant, id: ActionId) -> Option<Erased> {
        let row = self.of(tenant, id)?;
        let entry = row.erased?;
        let Written { bytes, record, .. } = self.entries.get(&entry)?;
        let (at_ms, record) = (Reading::of(bytes)?.at_ms, record.clone().unwrap_or_default());
        Some(Erased { entry, at_ms, record, labels: row.labels.clone() })
    }

    fn to_erase(&self, now_ms: i64, after: i64) -> impl Iterator<Item = &Stored> {
        let due = move |row: &&Row| {
            let last_ms = row
                .last
                .map(|last| last.at_ms)
                .filter(|_| row.stored.state.is_final() && row.erased.is_none());
            row.erased_after_ms.zip(last_ms).is_some_and(|(after, last)| last + after <= now_ms)
        };
        self.actions.range(after + 1..).map(|(_, row)| row).filter(due).map(|row| &row.stored)
    }

    /// A passkey that has not ended.
    fn passkey(&mut self, tenant: &Tenant, id: &str) -> Result<&mut Passkey, Error> {
        let mut passkeys = self.passkeys.iter_mut();
        let found = passkeys.find(|it| *it.id == *id && it.tenant == *tenant && it.revoked.is_none());
        found.ok_or_else(|| Error::Absent(id.into()))
    }

    fn of(&self, tenant: &Tenant, id: ActionId) -> Option<&Row> {
        self.row(id).filter(|row| row.stored.tenant == *tenant)
    }
}

impl Outbox for Memory {
    fn give_places(&self, names: Vec<Box<str>>) -> Answer<'_, ()> {
        self.now(move |world| {
            let end = world.last_entry();
            world.outbox.give_places(names, end);
            Ok(())
        })
    }

    fn forget_others(&self, names: Vec<Box<str>>) -> Answer<'_, u64> {
        self.now(move |world| Ok(world.outbox.forget_others(&names)))
    }

    fn standing<'a>(&'a self, destination: &'a str) -> Answer<'a, Standing> {
        self.now(move |world| {
            world.outbox.standing(destination).ok_or_else(|| Error::Absent(destination.into()))
        })
    }

    fn put<'a>(&'a self, destination: &'a str, upto: i64, notices: Vec<Notice>) -> Answer<'a, ()> {
        self.now(move |world| {
            world.outbox.put(destination, upto, notices);
            Ok(())
        })
    }

    fn untold<'a>(&'a self, destination: &'a str, now_ms: i64, limit: u32) -> Answer<'a, Vec<Waiting>> {
        self.now(move |world| Ok(world.outbox.untold(destination, now_ms, limit)))
    }

    fn tried<'a>(&'a self, destination: &'a str, tries: Vec<Tried>) -> Answer<'a, ()> {
        self.now(move |world| {
            world.outbox.tried(destination, &tries);
            Ok(())
        })
    }
}

impl Log for Memory {
    fn log_name<'a>(&'a self, tenant: &'a Tenant, offered: &'a str) -> Answer<'a, Box<str>> {
        self.now(move |world| Ok(world.logs.name(tenant, offered)))
    }

    fn begin_anew(&self, names: Vec<(Tenant, Box<str>)>) -> Answer<'_, ()> {
        self.now(move |world| {
            world.logs.begin_anew(names);
            Ok(())
        })
    }

    fn fresh(&self, limit: u32) -> Answer<'_, Fresh> {
        self.now(move |world| {
            let after = world.logs.mark;
            let fresh = world.entries.range(after + 1..).take(limit as usize);
            let entries = fresh.map(|(row, Written { bytes, .. })| {
                let receipt = world.outcomes.get(row).and_then(|it| it.settled.receipt.as_ref());
                let receipt = receipt.map(|receipt| receipt.document.clone());
                Unlogged { row: *row, bytes: bytes.clone(), receipt, until_ms: world.until_ms(bytes) }
            });
            Ok(Fresh { after, entries: entries.collect() })
        })
    }

    fn payloads(&self, actions: Vec<ActionId>) -> Answer<'_, HashMap<ActionId, Vec<u8>>> {
        self.now(move |world| {
            let payload = |id| Some((id, world.row(id)?.stored.payload.clone()));
            Ok(actions.into_iter().filter_map(payload).collect())
        })
    }

    fn grow(&self, growth: Growth) -> Answer<'_, bool> {
        self.now(move |world| Ok(world.logs.grow(growth)))
    }

    fn log_head<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Head> {
        self.now(move |world| Ok(world.logs.head(tenant)))
    }

    fn log_tiles<'a>(&'a self, tenant: &'a Tenant, tiles: Vec<Tile>) -> Answer<'a, Vec<(Tile, Vec<u8>)>> {
        self.now(move |world| Ok(world.logs.tiles(tenant, &tiles)))
    }

    fn log_leaves<'a>(&'a self, tenant: &'a Tenant, from: u64, limit: u32) -> Answer<'a, Vec<Leafed>> {
        self.now(move |world| {
            let leaves = world.logs.leaves(tenant).iter().copied();
            Ok(log::within(leaves, from, limit))
        })
    }

    fn leaf_of<'a>(&'a self, tenant: &'a Tenant, entry: i64) -> Answer<'a, Option<Leafed>> {
        self.now(move |world| {
            let leaves = world.logs.leaves(tenant);
            let found = leaves.binary_search_by_key(&entry, |leafed| leafed.entry);
            Ok(found.ok().map(|place| leaves[place]))
        })
    }
}

impl Ledger for Memory {
    fn logs(&self) -> &dyn Log {
        self
    }

    fn facts<'a>(&'a self, query: FactsQuery<'a>) -> Answer<'a, Facts> {
        self.now(move |world| Ok(world.facts(&query)))
    }

    fn admit(&self, admission: Admission) -> Answer<'_, Admitted> {
        self.now(move |world| world.enter(admission.into()))
    }

    fn approve(&self, approval: Approval) -> Answer<'_, Counted> {
        self.now(move |world| world.approve(&approval))
    }

    fn discuss(&self, word: Approval, event: &'static str) -> Answer<'_, i64> {
        self.now(move |world| world.discuss(&word, event))
    }

    fn extend(&self, extension: Extension) -> Answer<'_, Account> {
        self.now(move |world| world.extend(&extension))
    }

    fn reject(&self, rejection: Approval, given: u32, settlement: Settlement) -> Answer<'_, i64> {
        self.now(move |world| world.reject(&rejection, given, &Close::new(settlement, false)))
    }

    fn resume(&self, resumption: Resumption) -> Answer<'_, Admitted> {
        self.now(move |world| world.enter(resumption.into()))
    }

    fn defer(&self, deferral: Deferral) -> Answer<'_, i64> {
        self.now(move |world| world.defer(&deferral))
    }

    fn let_go(&self, action: ActionId, token: u32) -> Answer<'_, bool> {
        self.now(move |world| world.let_go(action, token))
    }

    fn due(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.now(move |world| {
            let rows = world.actions.range(after.unwrap_or(0) + 1..).map(|(_, row)| &row.stored);
            // Whose payer is asked is seen to with what is unsettled.
            let rests = |stored: &&Stored| stored.state.rests() && stored.state != State::Challenged;
            let rows = rows.filter(rests);
            let rows = rows.filter(|stored| stored.due_ms.is_some_and(|due_ms| due_ms <= now_ms));
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn approvals<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Given>> {
        self.now(move |world| {
            let given = world.of(tenant, id).map(|row| &*row.approvals).unwrap_or_default();
            Ok(given.iter().map(|(_, given)| given.clone()).collect())
        })
    }

    fn held<'a>(
        &'a self,
        tenant: &'a Tenant,
        now_ms: i64,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>> {
        self.now(move |world| {
            let rows = world.actions.range(..after.unwrap_or(i64::MAX)).rev().map(|(_, row)| &row.stored);
            let rows = rows.filter(|stored| {
                stored.state == State::Held
                    && stored.tenant == *tenant
                    && stored.expires_ms.is_some_and(|until_ms| until_ms > now_ms)
            });
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn approved(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.now(move |world| {
            let rows = world.actions.range(after.unwrap_or(0) + 1..).map(|(_, row)| &row.stored);
            let rows = rows.filter(|stored| stored.state == State::Approved);
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn refuse(&self, refusal: Refusal) -> Answer<'_, Recorded> {
        self.now(move |world| match world.enter(refusal.into())? {
            Admitted::New { entry } => Ok(Recorded::New { entry }),
            Admitted::Existing(existing) => Ok(Recorded::Existing(existing)),
            Admitted::Refused(_) => Err(Error::Rejected("a refusal met an obstacle".into())),
        })
    }

    fn settle(&self, settlement: Settlement) -> Answer<'_, i64> {
        self.now(move |world| world.close(&Close::new(settlement, false)))
    }

    fn amend(&self, settlement: Settlement) -> Answer<'_, i64> {
        self.now(move |world| world.close(&Close::new(settlement, true)))
    }

    fn repeated<'a>(
        &'a self,
        tenant: &'a Tenant,
        subject: &'a Subject,
        why: &'a str,
        request_hash: &'a [u8; 32],
        now_ms: i64,
    ) -> Answer<'a, Option<Repeat>> {
        let name = identity::refusal(tenant, subject, why, request_hash);
        self.now(move |world| {
            let recent = world.refusals.get_mut(&name).filter(|(_, at_ms)| at_ms + 60_000 > now_ms);
            Ok(recent.map(|(repeat, _)| {
                repeat.count += 1;
                *repeat
            }))
        })
    }

    fn action<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Stored>> {
        self.now(move |world| Ok(world.of(tenant, id).map(|row| row.stored.clone())))
    }

    fn claimant<'a>(&'a self, tenant: &'a Tenant, half: [u8; 16]) -> Answer<'a, Option<ActionId>> {
        self.now(move |world| Ok(world.claimant(tenant, half)))
    }

    fn outcomes<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Vec<Settled>> {
        self.now(move |world| {
            let entries = world.of(tenant, id).map(|row| &*row.outcomes).unwrap_or_default();
            Ok(entries.iter().filter_map(|entry| Some(world.outcomes.get(entry)?.settled.clone())).collect())
        })
    }

    fn receipt<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Settled>> {
        self.now(move |world| {
            let is = |outcome: &&Settled| {
                outcome.tenant == *tenant
                    && outcome.receipt.as_ref().is_some_and(|receipt| *receipt.id == *id)
            };
            Ok(world.outcomes.values().map(|it| &it.settled).find(is).cloned())
        })
    }

    fn address<'a>(&'a self, address: &'a str) -> Answer<'a, Option<Settled>> {
        self.now(move |world| {
            let is = |outcome: &&Settled| {
                let receipt = outcome.receipt.as_ref();
                receipt.is_some_and(|receipt| *receipt.short == *address || *receipt.signature == *address)
            };
            Ok(world.outcomes.values().map(|it| &it.settled).find(is).cloned())
        })
    }

    fn actions<'a>(
        &'a self,
        tenant: &'a Tenant,
        filter: Filter,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Stored>> {
        self.now(move |world| {
            let rows = world.actions.range(..after.unwrap_or(i64::MAX)).rev().map(|(_, row)| &row.stored);
            let rows = rows.filter(|stored| stored.tenant == *tenant && filter.lets_pass(stored));
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn unsettled(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.now(move |world| {
            let rows = world.actions.range(after.unwrap_or(0) + 1..).map(|(_, row)| &row.stored);
            let rows = rows
                .filter(|stored| matches!(stored.state, State::Sent | State::InDoubt | State::Challenged));
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn expired(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.now(move |world| {
            let over = |stored: &&Stored| {
                stored.state.waits()
                    && stored.expires_ms.is_some_and(|expires| expires <= now_ms)
                    && after.is_none_or(|after| stored.row > after)
            };
            let rows = world.actions.values().map(|row| &row.stored).filter(over);
            Ok(page(rows.take(limit as usize).cloned().collect(), limit, |stored| stored.row))
        })
    }

    fn issue(&self, mandate: Mandate, event: Event) -> Answer<'_, i64> {
        self.now(move |world| world.issue(mandate, event))
    }

    fn mandate<'a>(&'a self, tenant: &'a Tenant, jti: &'a str) -> Answer<'a, Option<Held>> {
        self.now(move |world| {
            let found = world.mandates.iter().find(|known| known.tenant == *tenant && *known.jti == *jti);
            Ok(found.map(|mandate| world.held(mandate)))
        })
    }

    fn mandates<'a>(&'a self, tenant: &'a Tenant, after: Option<i64>, limit: u32) -> Answer<'a, Page<Held>> {
        self.now(move |world| {
            let numbered: Vec<_> = (1_i64..).zip(&world.mandates).collect();
            let wanted = |(row, mandate): &&(i64, &Mandate)| {
                *row < after.unwrap_or(i64::MAX) && mandate.tenant == *tenant
            };
            let rows = numbered.iter().rev().filter(wanted).take(limit as usize);
            let rows: Vec<_> = rows.map(|(row, mandate)| (*row, world.held(mandate))).collect();
            let Page { rows, next } = page(rows, limit, |(row, _)| *row);
            Ok(Page { rows: rows.into_iter().map(|(_, held)| held).collect(), next })
        })
    }

    fn revoke<'a>(&'a self, tenant: &'a Tenant, jti: &'a str, event: Event) -> Answer<'a, Revocation> {
        self.now(move |world| {
            let (at_ms, record_id) = world.world.revoke(tenant, jti, event)?;
            let open = |stored: &&Stored| {
                let waits = matches!(stored.state, State::ReleaseFailed | State::Unchecked);
                let unsettled = waits
                    || matches!(stored.state, State::Sent | State::InDoubt)
                    || (stored.state.rests() && !stored.state.is_amended());
                unsettled
                    && stored.tenant == *tenant
                    && stored.mandates.iter().any(|mandate| **mandate == *jti)
            };
            let rows = world.actions.values().map(|row| &row.stored);
            let unsettled = rows.filter(open).map(|stored| stored.id).collect();
            Ok(Revocation { at_ms, record_id, unsettled })
        })
    }

    fn register_principal(&self, key: PrincipalKey, event: Event) -> Answer<'_, i64> {
        self.now(move |world| {
            let same = |known: &PrincipalKey| {
                known.tenant == key.tenant && known.issuer == key.issuer && known.kid == key.kid
            };
            if world.principals.iter().any(same) {
                return Err(Error::Exists(key.kid));
            }
            Arc::make_mut(&mut world.principals).push(key);
            world.event(event)
        })
    }

    fn principals(&self) -> Answer<'_, Arc<Vec<PrincipalKey>>> {
        self.now(move |world| Ok(Arc::clone(&world.principals)))
    }

    fn revoke_principal<'a>(
        &'a self,
        tenant: &'a Tenant,
        issuer: &'a str,
        kid: &'a str,
        event: Event,
    ) -> Answer<'a, i64> {
        self.now(move |world| {
            let stands = |key: &&mut PrincipalKey| {
                key.tenant == *tenant
                    && *key.issuer == *issuer
                    && *key.kid == *kid
                    && key.revoked_ms.is_none()
            };
            let found = Arc::make_mut(&mut world.principals).iter_mut().find(stands);
            found.ok_or_else(|| Error::Absent(kid.into()))?.revoked_ms = Some(event.at_ms);
            world.event(event)
        })
    }

    fn freeze(&self, freeze: Freeze, event: Event) -> Answer<'_, i64> {
        self.now(move |world| {
            let freezes = Arc::make_mut(&mut world.rows.freezes);
            freezes.retain(|known| known.scope != freeze.scope);
            freezes.push(freeze);
            world.event(event)
        })
    }

    fn thaw(&self, scope: Scope, event: Event) -> Answer<'_, i64> {
        self.now(move |world| {
            let freezes = Arc::make_mut(&mut world.rows.freezes);
            let before = freezes.len();
            freezes.retain(|known| known.scope != scope);
            if freezes.len() == before {
                return Err(Error::Absent(scope.to_string().into()));
            }
            world.event(event)
        })
    }

    fn freezes(&self) -> Answer<'_, Arc<Vec<Freeze>>> {
        self.now(|world| Ok(world.rows.freezes.clone()))
    }

    fn add_key(&self, key: ApiKey, event: Event) -> Answer<'_, i64> {
        self.now(move |world| {
            if world.keys.iter().any(|known| known.id == key.id || known.hash == key.hash) {
                return Err(Error::Exists(key.id));
            }
            world.keys.push(key);
            world.event(event)
        })
    }

    fn key<'a>(&'a self, hash: &'a [u8; 32]) -> Answer<'a, Option<Arc<ApiKey>>> {
        self.now(move |world| {
            let valid = |key: &&ApiKey| key.hash == *hash && key.revoked_ms.is_none();
            Ok(world.keys.iter().find(valid).cloned().map(Arc::new))
        })
    }

    fn keys<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<ApiKey>> {
        self.now(move |world| Ok(world.keys.iter().filter(|key| key.tenant == *tenant).cloned().collect()))
    }

    fn revoke_key<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        self.now(move |world| {
            let valid =
                |key: &&mut ApiKey| key.tenant == *tenant && *key.id == *id && key.revoked_ms.is_none();
            let key = world.keys.iter_mut().find(valid).ok_or_else(|| Error::Absent(id.into()))?;
            key.revoked_ms = Some(event.at_ms);
            world.event(event)
        })
    }

    fn register_passkey<'a>(
        &'a self,
        tenant: &'a Tenant,
        id: &'a str,
        credential_id: &'a [u8],
        event: Event,
    ) -> Answer<'a, i64> {
        self.now(move |world| {
            if world.passkeys.iter().any(|it| *it.id == *id || it.credential_id == credential_id) {
                return Err(Error::Exists(id.into()));
            }
            world.passkeys.push(Passkey {
                id: id.into(),
                tenant: tenant.clone(),
                credential_id: credential_id.to_vec(),
                entry: world.next_entry(),
                registered: event.record.clone(),
                enrolled: None,
                revoked: None,
            });
            world.event(event)
        })
    }

    fn enrol_passkey<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        self.now(move |world| {
            let passkey = world.passkey(tenant, id)?;
            if passkey.enrolled.is_some() {
                return Err(Error::Absent(id.into()));
            }
            passkey.enrolled = Some(event.record.clone());
            world.event(event)
        })
    }

    fn revoke_passkey<'a>(&'a self, tenant: &'a Tenant, id: &'a str, event: Event) -> Answer<'a, i64> {
        self.now(move |world| {
            world.passkey(tenant, id)?.revoked = Some(event.record.clone());
            world.event(event)
        })
    }

    fn passkey<'a>(&'a self, credential_id: &'a [u8]) -> Answer<'a, Option<Passkey>> {
        self.now(move |world| Ok(world.passkeys.iter().find(|it| it.credential_id == credential_id).cloned()))
    }

    fn passkeys<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<Passkey>> {
        self.now(move |world| Ok(world.passkeys.iter().filter(|it| it.tenant == *tenant).cloned().collect()))
    }

    fn open_session(&self, opening: Opening) -> Answer<'_, Box<str>> {
        self.now(move |world| world.open_session(opening))
    }

    fn session<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Governed>> {
        self.now(move |world| Ok(world.governed(tenant, id)))
    }

    fn sessions<'a>(
        &'a self,
        tenant: &'a Tenant,
        of: Option<&'a Subject>,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Governed>> {
        self.now(move |world| Ok(world.governed_sessions(tenant, of, after, limit)))
    }

    fn sessions_under<'a>(&'a self, tenant: &'a Tenant, jti: &'a str) -> Answer<'a, Vec<Governed>> {
        self.now(move |world| Ok(world.sessions_under(tenant, jti)))
    }

    fn held_under<'a>(
        &'a self,
        tenant: &'a Tenant,
        jti: &'a str,
        subject: &'a Subject,
        now_ms: i64,
    ) -> Answer<'a, Option<Box<str>>> {
        self.now(move |world| Ok(world.held_under(tenant, jti, subject, now_ms)))
    }

    fn lapsed(&self, now_ms: i64, limit: u32) -> Answer<'_, Vec<Lapsed>> {
        self.now(move |world| Ok(world.lapsed(now_ms, limit)))
    }

    fn recovering(&self) -> Answer<'_, Vec<Recovering>> {
        self.now(move |world| Ok(world.recovering()))
    }

    fn hear(&self, heard: SecurityEvent, event: Event) -> Answer<'_, Heard> {
        self.now(move |world| world.hear(heard, event))
    }

    fn declare(&self, declaring: Declaring) -> Answer<'_, Declared> {
        self.now(move |world| world.declare(declaring))
    }

    fn intention<'a>(
        &'a self,
        tenant: &'a Tenant,
        session: &'a str,
        intent: Option<&'a str>,
    ) -> Answer<'a, Option<Intention>> {
        self.now(move |world| Ok(world.intention(tenant, session, intent)))
    }

    fn begun_as<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Box<str>>> {
        self.now(move |world| Ok(world.begun_as(tenant, id)))
    }

    fn turn(&self, turn: Turn) -> Answer<'_, (Box<str>, mandate::Session)> {
        self.now(move |world| world.turn(turn))
    }

    fn records<'a>(
        &'a self,
        tenant: &'a Tenant,
        session: &'a str,
        after: Option<u64>,
        limit: u32,
    ) -> Answer<'a, Vec<Record>> {
        self.now(move |world| Ok(world.records(tenant, session, after, limit)))
    }

    fn group(&self, clustering: Clustering) -> Answer<'_, Grouped> {
        self.now(move |world| world.group(&clustering))
    }

    fn cluster<'a>(&'a self, tenant: &'a Tenant, id: &'a str) -> Answer<'a, Option<Clustered>> {
        self.now(move |world| Ok(world.cluster_named(tenant, id)))
    }

    fn cluster_of<'a>(&'a self, tenant: &'a Tenant, session: &'a str) -> Answer<'a, Option<Clustered>> {
        self.now(move |world| Ok(world.cluster_of(tenant, session)))
    }

    fn deadlocks<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, Vec<Clustered>> {
        self.now(move |world| Ok(world.deadlocks(tenant)))
    }

    fn record(&self, event: Event) -> Answer<'_, i64> {
        self.now(move |world| world.event(event))
    }

    fn tenant_key<'a>(&'a self, tenant: &'a Tenant, offered: Option<Vec<u8>>) -> Answer<'a, Option<Vec<u8>>> {
        self.now(move |world| {
            if let Some(offered) = offered {
                world.tenant_keys.entry(tenant.clone()).or_insert(offered);
            }
            Ok(world.tenant_keys.get(tenant).cloned())
        })
    }

    fn keep<'a>(&'a self, digest: &'a str, text: Vec<u8>) -> Answer<'a, ()> {
        self.now(move |world| {
            world.kept.entry(digest.into()).or_insert(text);
            Ok(())
        })
    }

    fn delivered<'a>(&'a self, alike: &'a [u8; 32]) -> Answer<'a, u64> {
        self.now(move |world| Ok(world.delivered.get(alike).copied().unwrap_or_default()))
    }

    fn deliver(&self, times: Vec<([u8; 32], u64)>) -> Answer<'_, ()> {
        self.now(move |world| {
            for (alike, times) in times {
                let known = world.delivered.entry(alike).or_default();
                *known = times.max(*known);
            }
            Ok(())
        })
    }

    fn kept<'a>(&'a self, digest: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.now(move |world| Ok(world.kept.get(digest).cloned()))
    }

    fn prune(&self, before_ms: i64, limit: u32, now_ms: i64) -> Answer<'_, u64> {
        self.now(move |world| world.prune(before_ms, limit, now_ms))
    }

    fn erase(&self, erasure: Erasure) -> Answer<'_, i64> {
        self.now(move |world| world.erase(&erasure))
    }

    fn erased<'a>(&'a self, tenant: &'a Tenant, id: ActionId) -> Answer<'a, Option<Erased>> {
        self.now(move |world| Ok(world.erased(tenant, id)))
    }

    fn to_erase(&self, now_ms: i64, after: Option<i64>, limit: u32) -> Answer<'_, Page<Stored>> {
        self.now(move |world| {
            let rows = world.to_erase(now_ms, after.unwrap_or(0)).take(limit as usize).cloned();
            Ok(page(rows.collect(), limit, |stored| stored.row))
        })
    }

    fn entries(&self, after: Option<i64>, limit: u32) -> Answer<'_, Page<(i64, Vec<u8>)>> {
        self.now(move |world| {
            let rows = world.entries.range(after.unwrap_or(0) + 1..);
            let rows = rows.take(limit as usize).map(|(row, it)| (*row, it.bytes.clone()));
            Ok(page(rows.collect(), limit, |(row, _)| *row))
        })
    }

    fn audit<'a>(
        &'a self,
        tenant: &'a Tenant,
        search: Search,
        order: Order,
        after: Option<i64>,
        limit: u32,
    ) -> Answer<'a, Page<Audited>> {
        self.now(move |world| {
            let wanted = |found: &Audited| {
                let due = after.is_none_or(|after| match order {
                    Order::NewestFirst => found.row < after,
                    Order::OldestFirst => found.row > after,
                });
                due && search.lets_pass(tenant, found)
            };
            let all = world.audited().into_iter().filter(wanted);
            let rows: Vec<Audited> = match order {
                Order::NewestFirst => all.rev().take(limit as usize).collect(),
                Order::OldestFirst => all.take(limit as usize).collect(),
            };
            Ok(page(rows, limit, |found| found.row))
        })
    }

    /// Nobody else can write here: there is nothing to compare.
    fn authority(&self, _: &'static [&'static str]) -> Answer<'_, crate::Authority> {
        self.now(|_| Ok(crate::Authority::default()))
    }

    fn inspect(&self, _: Option<crate::Place>) -> Answer<'_, Inspected> {
        self.now(|world| Ok(world.inspect()))
    }

    fn verify(&self) -> Answer<'_, Verified> {
        self.now(|world| world.verify())
    }

    fn health(&self) -> Result<(), Error> {
        Ok(())
    }

    fn durability(&self) -> Durability {
        Durability { store: "memory", synchronous_commit: "off".into(), ..Durability::default() }
    }

    fn others(&self) -> Answer<'_, u64> {
        Box::pin(async { Ok(0) })
    }

    fn bar<'a>(&'a self, _key: &'a str) -> Answer<'a, ()> {
        // There is one process, and it has another key by now.
        Box::pin(async { Ok(()) })
    }

    fn figures(&self) -> Figures {
        let writes = self.all().entries.len() as u64;
        Figures { commits: writes, writes, ..Figures::default() }
    }
}

/// The one process there is.
const PROCESS: Process = 1;
