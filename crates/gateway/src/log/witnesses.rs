//! Witnesses: others who see every checkpoint and sign that it extends what they saw before. They see nothing else of a log.
//!
//! They are also the one mark of how far a log was signed that nobody here can put back. What one *says* that it saw stops nothing, or
//! whoever is asked could stop us (but for a gateway that has lost its marks); but one that shows a checkpoint which we signed and the store does not have proves that the store
//! was put back or altered.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use action::Tenant;
use futures_util::future::join_all;
use provider::Egress;
use receipt::log::{AddCheckpoint, Checkpoint, NOTHING_SHOWN, Note, Plan, Verifier};
use url::Url;

use super::BETWEEN_ROUNDS;
use super::marks::{Mark, signed_by};
use crate::act::lock;
use crate::config;
use crate::gateway::Gateway;

/// One that is asked.
pub(crate) struct Witness {
    key: Verifier,
    /// Where it is asked to cosign, and where what it saw last.
    add: Url,
    seen_last: Url,
    /// The size of each log that it cosigned last, as far as we know.
    seen: Mutex<HashMap<Tenant, u64>>,
    /// Why it did not say of a log what it saw, when it was asked last.
    unsaid: Mutex<HashMap<Tenant, String>>,
}

impl Witness {
    /// Reads everything under `log.witnesses`.
    pub(crate) fn all(config: &config::Log, egress: &Egress) -> Result<Vec<Witness>, String> {
        let mut all: Vec<Witness> = Vec::new();
        for one in &config.witnesses {
            let named = |why: &dyn std::fmt::Display| format!("`log.witnesses`: `{}`: {why}", one.url);
            let key: Verifier = one.key.parse().map_err(|error| named(&error))?;
            if !key.is_witness() {
                return Err(named(&"the key is a log's, not a witness's"));
            }
            if all.iter().any(|other| other.key.name() == key.name()) {
                return Err(named(&"its name stands twice"));
            }
            let under = |name: &str| {
                let url = format!("{}/{name}", one.url.trim_end_matches('/'));
                url.parse().map_err(|_| named(&"not a URL"))
            };
            let (add, seen_last): (Url, Url) = (under("add-checkpoint")?, under("seen-checkpoint")?);
            egress.destination(&add, PATIENCE).map_err(|why| {
                named(&format!("{why}; `allow` and `plain_http` of `[egress]` say what may be reached"))
            })?;
            all.push(Witness { key, add, seen_last, seen: Mutex::default(), unsaid: Mutex::default() });
        }
        Ok(all)
    }

    pub(super) fn key(&self) -> &Verifier {
        &self.key
    }

    /// The checkpoint of the log that the witness saw last, if it shows that: `countersign witness` does, others need not. It is shown
    /// to whoever has a note that the log signed.
    async fn saw_last(&self, egress: &Egress, note: &Note) -> Result<Option<Note>, String> {
        let answer = egress.post_text(&self.seen_last, note.to_string(), PATIENCE, LONGEST_ANSWER).await;
        match answer.map_err(|why| why.to_string())? {
            (404, body) if body.trim_ascii_end() == NOTHING_SHOWN.as_bytes() => Ok(None),
            (200, body) => {
                let note = String::from_utf8(body).ok().and_then(|text| Note::parse(&text).ok());
                note.map(Some).ok_or_else(|| "what it shows is no checkpoint".to_owned())
            }
            // Another kind of witness, or something that stands before it.
            (status, _) => Err(format!("it shows no checkpoint, it answered {status}")),
        }
    }

    /// Has it in the log of this process that it does not say what it saw, unless that stands there already.
    fn did_not_say(&self, tenant: &Tenant, why: String) {
        let before = lock(&self.unsaid).insert(tenant.clone(), why.clone());
        if before.is_none_or(|before| before != why) {
            tracing::warn!(witness = self.key.name(), why, "a witness does not say what it saw");
        }
    }

    /// Offers a checkpoint and answers with the lines by which the witness cosigned it.
    async fn offer(&self, egress: &Egress, offer: &AddCheckpoint) -> Result<Offered, String> {
        let answer = egress.post_text(&self.add, offer.to_string(), PATIENCE, LONGEST_ANSWER).await;
        let (status, body) = answer.map_err(|why| why.to_string())?;
        let text = String::from_utf8(body).map_err(|_| "its answer is no text".to_owned())?;
        match status {
            200 => Ok(Offered::Cosigned(text)),
            409 => {
                let size = text.trim_end().parse().map_err(|_| "its answer is no size".to_owned())?;
                Ok(Offered::Saw(size))
            }
            403 => Err("it does not know the key that the log is signed by".to_owned()),
            404 => Err("it was not told of this log".to_owned()),
            422 => Ok(Offered::Inconsistent),
            other => Err(format!("it answered {other}")),
        }
    }
}

/// What a witness answered.
enum Offered {
    /// Signature lines.
    Cosigned(String),
    /// It saw a log of that size last.
    Saw(u64),
    /// It saw another one.
    Inconsistent,
}

impl Gateway {
    /// Has every checkpoint cosigned by the witnesses, the newest when they come to it. None waits for another one.
    pub(crate) async fn keep_witnessed(&self) {
        join_all(self.witnesses.iter().map(|witness| self.keep_witnessed_by(witness))).await;
    }

    async fn keep_witnessed_by(&self, witness: &Witness) {
        let mut failed: HashMap<Tenant, (Instant, String)> = HashMap::new();
        loop {
            self.until_whole().await;
            for log in &self.logs.of {
                let tenant = &log.tenant;
                if failed.get(tenant).is_some_and(|(until, _)| Instant::now() < *until) {
                    continue;
                }
                let Err(why) = self.have_cosigned(witness, tenant).await else {
                    failed.remove(tenant);
                    continue;
                };
                let until = Instant::now() + AFTER_FAILURE;
                let before = failed.insert(tenant.clone(), (until, why.clone()));
                // Every five seconds would be too often for what does not change.
                if before.is_none_or(|(_, before)| before != why) {
                    tracing::warn!(%tenant, witness = witness.key.name(), why, "a witness did not cosign");
                }
            }
            tokio::time::sleep(BETWEEN_ROUNDS).await;
        }
    }

    /// Before anything is taken on: has the store all that witnesses show of it? One that does not answer is asked no more. Answers
    /// with those whose logs at least one was heard of.
    pub(super) async fn ask_witnesses(&self) -> HashSet<Tenant> {
        let asked = self.witnesses.iter().map(|witness| async move {
            let mut heard = Vec::new();
            for log in &self.logs.of {
                if let Err(why) = self.compare_with(witness, &log.tenant).await {
                    witness.did_not_say(&log.tenant, why);
                    break;
                }
                heard.push(log.tenant.clone());
            }
            heard
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Compares the store with what a witness saw last.
    async fn compare_with(&self, witness: &Witness, tenant: &Tenant) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let last = self.logs.last(tenant).map_err(|error| failed(&error))?.checkpoint;
        // Signed only to be asked with: nobody is shown it as what the log is.
        let asked = Checkpoint { size: 0, root: receipt::log::empty_root(), ..last.clone() };
        let asked = self.logs.signer.sign(&asked).map_err(|error| failed(&error))?;
        let Some(note) = witness.saw_last(&self.outside.egress, &asked).await? else { return Ok(()) };
        // What we did not sign, or as another log, proves nothing.
        match signed_by(&self.logs.signer, &note) {
            Ok(seen) if seen.origin == last.origin => {
                self.must_have(tenant, &seen).await.map_err(|error| failed(&error))
            }
            _ => Err("what it shows was not signed as this log".to_owned()),
        }
    }

    /// Has the newest checkpoint cosigned by a witness, unless it is.
    async fn have_cosigned(&self, witness: &Witness, tenant: &Tenant) -> Result<(), String> {
        let Ok((checkpoint, note)) = self.newest(tenant) else { return Ok(()) };
        if matches!(note.signed_by(&witness.key), Ok(Some(_))) {
            return Ok(());
        }
        let offered = Mark { checkpoint, note };
        let lines = match self.cosigned_by(witness, tenant, &offered).await {
            Ok(lines) => lines,
            Err(NotCosigned::Failed(why)) => return Err(why),
            // Then it is worth knowing what.
            Err(NotCosigned::Another(why)) => {
                let compared = self.compare_with(witness, tenant).await;
                return Err(match compared {
                    Ok(()) => why,
                    Err(unseen) => format!("{why}; {unseen}"),
                });
            }
        };
        let cosigned = self.logs.cosign(tenant, &offered, &witness.key, &lines);
        cosigned.map_err(|error| error.to_string())?;
        lock(&witness.seen).insert(tenant.clone(), offered.checkpoint.size);
        Ok(())
    }

    /// What a witness answers that cosigns this checkpoint.
    async fn cosigned_by(
        &self,
        witness: &Witness,
        tenant: &Tenant,
        Mark { checkpoint, note }: &Mark,
    ) -> Result<String, NotCosigned> {
        let mut old = lock(&witness.seen).get(tenant).copied().unwrap_or(0);
        // What it saw last it tells once, and then it may have been somebody else who showed it more.
        for _ in 0..TRIES {
            let proof = self.extends(tenant, old, checkpoint.size).await?;
            let offer = AddCheckpoint { old, proof, note: note.clone() };
            let size = match witness.offer(&self.outside.egress, &offer).await? {
                Offered::Cosigned(lines) => return Ok(lines),
                Offered::Saw(size) => size,
                Offered::Inconsistent => {
                    let why = "it saw another log of this name, which this one does not begin with";
                    return Err(NotCosigned::Another(why.to_owned()));
                }
            };
            if size > checkpoint.size {
                let why = format!("it saw {size} leaves of this log, which has {}", checkpoint.size);
                return Err(NotCosigned::Another(why));
            }
            if size == old {
                let why = format!("it saw another root of this log's {size} leaves");
                return Err(NotCosigned::Another(why));
            }
            old = size;
        }
        Err("it does not stay with what it says that it saw".to_owned().into())
    }

    async fn extends(&self, tenant: &Tenant, from: u64, to: u64) -> Result<Vec<receipt::log::Hash>, String> {
        if from == 0 || from == to {
            return Ok(Vec::new());
        }
        let plan = Plan::consistency(from, to).map_err(|error| error.to_string())?;
        self.log_hashes(tenant, &plan).await.map_err(|error| error.to_string())
    }
}

/// Why a checkpoint was not cosigned.
enum NotCosigned {
    Failed(String),
    /// The witness says that it saw something else.
    Another(String),
}

impl From<String> for NotCosigned {
    fn from(why: String) -> NotCosigned {
        NotCosigned::Failed(why)
    }
}

/// How long one exchange takes at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between a failure and the next try of that log.
pub(super) const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// As many signatures as a note may have, and more than one witness writes.
const LONGEST_ANSWER: usize = 64 << 10;
/// Sizes that a witness may tell in a row.
const TRIES: u32 = 3;
