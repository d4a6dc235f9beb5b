//! Witnesses: others who see every checkpoint and sign that it extends what they saw before. They see nothing else of a log.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use action::Tenant;
use futures_util::future::join_all;
use provider::Egress;
use receipt::log::{AddCheckpoint, Checkpoint, Note, Plan, Verifier};
use url::Url;

use super::BETWEEN_ROUNDS;
use crate::act::lock;
use crate::config;
use crate::gateway::Gateway;

/// One that is asked.
pub(crate) struct Witness {
    key: Verifier,
    url: Url,
    /// The size of each log that it cosigned last, as far as we know.
    seen: Mutex<HashMap<Tenant, u64>>,
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
            let url = format!("{}/add-checkpoint", one.url.trim_end_matches('/'));
            let url: Url = url.parse().map_err(|_| named(&"not a URL"))?;
            egress.destination(&url, PATIENCE).map_err(|why| named(&why))?;
            all.push(Witness { key, url, seen: Mutex::default() });
        }
        Ok(all)
    }

    /// Offers a checkpoint and answers with the lines by which the witness cosigned it.
    async fn offer(&self, egress: &Egress, offer: &AddCheckpoint) -> Result<Offered, String> {
        let answer = egress.post_text(&self.url, offer.to_string(), PATIENCE, LONGEST_ANSWER).await;
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
            422 => Err("it saw another log of this name, which this one does not begin with".to_owned()),
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
}

impl Gateway {
    /// Has every checkpoint cosigned by the witnesses, the newest when they come to it.
    pub(crate) async fn keep_witnessed(&self) {
        if self.witnesses.is_empty() {
            return;
        }
        let mut rest: HashMap<Tenant, Instant> = HashMap::new();
        loop {
            for log in &self.logs.of {
                let tenant = &log.tenant;
                if rest.get(tenant).is_none_or(|until| Instant::now() >= *until)
                    && !self.have_witnessed(tenant).await
                {
                    rest.insert(tenant.clone(), Instant::now() + AFTER_FAILURE);
                }
            }
            tokio::time::sleep(BETWEEN_ROUNDS).await;
        }
    }

    /// Whether nothing went wrong.
    async fn have_witnessed(&self, tenant: &Tenant) -> bool {
        let Ok((checkpoint, note)) = self.newest(tenant) else { return true };
        if self.logs.is_cosigned(tenant, &checkpoint) {
            return true;
        }
        let asked =
            self.witnesses.iter().map(|witness| self.cosigned_by(witness, tenant, &checkpoint, &note));
        let (mut cosigned, mut count) = (note.clone(), 0);
        for (witness, answer) in self.witnesses.iter().zip(join_all(asked).await) {
            match answer.and_then(|lines| cosigned.clone().with(&lines).map_err(|error| error.to_string())) {
                Ok(note) => (cosigned, count) = (note, count + 1),
                Err(why) => {
                    tracing::warn!(%tenant, witness = witness.key.name(), why, "a witness did not cosign");
                }
            }
        }
        let all = count == self.witnesses.len();
        if count > 0 {
            self.logs.cosign(tenant, checkpoint, cosigned, all);
        }
        all
    }

    /// The lines with which a witness cosigned this checkpoint.
    async fn cosigned_by(
        &self,
        witness: &Witness,
        tenant: &Tenant,
        checkpoint: &Checkpoint,
        note: &Note,
    ) -> Result<String, String> {
        let mut old = lock(&witness.seen).get(tenant).copied().unwrap_or(0);
        // What it saw last it tells once, and then it may have been somebody else who showed it more.
        for _ in 0..TRIES {
            let proof = self.extends(tenant, old, checkpoint.size).await?;
            let offer = AddCheckpoint { old, proof, note: note.clone() };
            match witness.offer(&self.outside.egress, &offer).await? {
                Offered::Cosigned(lines) => {
                    let theirs = Note::parse(&format!("{}\n{}\n", note.text(), lines.trim_end()));
                    let theirs = theirs.and_then(|theirs| theirs.signed_by(&witness.key));
                    return match theirs.map_err(|error| error.to_string())? {
                        Some(_) => {
                            lock(&witness.seen).insert(tenant.clone(), checkpoint.size);
                            Ok(lines)
                        }
                        None => Err("its answer is not signed by its key".to_owned()),
                    };
                }
                Offered::Saw(size) if size > checkpoint.size => {
                    return Err(format!("it saw {size} leaves of this log, which has {}", checkpoint.size));
                }
                Offered::Saw(size) if size == old => {
                    return Err(format!("it saw another root of this log's {size} leaves"));
                }
                Offered::Saw(size) => old = size,
            }
        }
        Err("it does not stay with what it says that it saw".to_owned())
    }

    async fn extends(&self, tenant: &Tenant, from: u64, to: u64) -> Result<Vec<receipt::log::Hash>, String> {
        if from == 0 || from == to {
            return Ok(Vec::new());
        }
        let plan = Plan::consistency(from, to).map_err(|error| error.to_string())?;
        self.log_hashes(tenant, &plan).await.map_err(|error| error.to_string())
    }
}

/// How long one exchange takes at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between a failure and the next try of that log.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// As many signatures as a note may have, and more than one witness writes.
const LONGEST_ANSWER: usize = 64 << 10;
/// Sizes that a witness may tell in a row.
const TRIES: u32 = 3;
