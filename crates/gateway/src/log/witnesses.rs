//! Witnesses: others who see every checkpoint and sign that it extends what they saw before. They see nothing else of a log.
//!
//! They are also the one mark of how far a log was signed that nobody here can put back. What one *says* that it saw stops nothing, or
//! whoever is asked could stop us (but for a gateway that has lost its marks); but one that shows a checkpoint which we signed and the
//! store does not have proves that the store was put back or altered. Ours show it (`seen-checkpoint`); others speak `add-checkpoint`
//! alone.
//!
//! None cosigns what is smaller than what it cosigned last, or does not begin with it: one that cosigns, now, all that the store has
//! says by it that the store is not behind what it saw. By nothing else is one heard where the marks are lost.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use action::Tenant;
use futures_util::future::join_all;
use ledger::{Head, LogOf};
use provider::Egress;
use receipt::log::{AddCheckpoint, Checkpoint, NOTHING_SHOWN, Note, Plan, Verifier, empty_root};
use url::Url;

use super::BETWEEN_ROUNDS;
use super::marks::{Mark, signed_by};
use crate::act::lock;
use crate::gateway::Gateway;
use crate::{Error, clock, config};

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
            let named = |why: &dyn fmt::Display| format!("`log.witnesses`: `{}`: {why}", one.url);
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
    async fn saw_last(&self, egress: &Egress, note: &Note) -> Result<Option<Note>, Unheard> {
        let answer = egress.post_text(&self.seen_last, note.to_string(), PATIENCE, LONGEST_ANSWER).await;
        match answer.map_err(|why| Unheard::Silent(why.to_string()))? {
            (404, body) if body.trim_ascii_end() == NOTHING_SHOWN.as_bytes() => Ok(None),
            (200, body) => {
                let note = String::from_utf8(body).ok().and_then(|text| Note::parse(&text).ok());
                note.map(Some).ok_or_else(|| Unheard::Failed("what it shows is no checkpoint".to_owned()))
            }
            // Another kind of witness, or something that stands before it.
            (status, _) => Err(Unheard::Failed(format!("it shows no checkpoint, it answered {status}"))),
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
    async fn offer(&self, egress: &Egress, offer: &AddCheckpoint) -> Result<Offered, Unheard> {
        let answer = egress.post_text(&self.add, offer.to_string(), PATIENCE, LONGEST_ANSWER).await;
        let (status, body) = answer.map_err(|why| Unheard::Silent(why.to_string()))?;
        let text = String::from_utf8(body).map_err(|_| "its answer is no text".to_owned())?;
        let why = match status {
            200 => return Ok(Offered::Cosigned(text)),
            409 => {
                let size = text.trim_end().parse().map_err(|_| "its answer is no size".to_owned())?;
                return Ok(Offered::Saw(size));
            }
            422 => return Ok(Offered::Inconsistent),
            403 => "it does not know the key that the log is signed by".to_owned(),
            404 => "it was not told of this log".to_owned(),
            other => format!("it answered {other}"),
        };
        Err(why.into())
    }
}

/// What a witness told of a log.
enum Told {
    /// What it saw, and the store has that.
    All,
    /// That it saw so many leaves, which proves nothing before it cosigns what the store has.
    Size(u64),
}

/// What came of asking a witness of one log after another.
struct Asked<T> {
    told: Vec<(Tenant, T)>,
    /// Whose it says that it saw otherwise.
    denied: Vec<Tenant>,
}

impl<T> Asked<T> {
    fn nothing_yet() -> Asked<T> {
        Asked { told: Vec::new(), denied: Vec::new() }
    }

    /// False if it does not answer, and is asked no more.
    fn take(&mut self, witness: &Witness, tenant: &Tenant, told: Result<T, Unheard>) -> bool {
        let unheard = match told {
            Ok(told) => {
                self.told.push((tenant.clone(), told));
                return true;
            }
            Err(unheard) => unheard,
        };
        witness.did_not_say(tenant, unheard.to_string());
        if matches!(unheard, Unheard::Another(_)) {
            self.denied.push(tenant.clone());
        }
        !matches!(unheard, Unheard::Silent(_))
    }
}

/// Why a witness says nothing that counts: shows no checkpoint, or cosigns none.
enum Unheard {
    /// It does not answer.
    Silent(String),
    /// It answers something else.
    Failed(String),
    /// It says that it saw something else than the store has.
    Another(String),
}

impl From<String> for Unheard {
    fn from(why: String) -> Unheard {
        Unheard::Failed(why)
    }
}

impl fmt::Display for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Unheard::Silent(why) | Unheard::Failed(why) | Unheard::Another(why)) = self;
        f.write_str(why)
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

    /// Before anything is taken on: has the store all that witnesses show of it? Answers with those whose logs at least one was heard
    /// of, and none says that it saw something else of them.
    ///
    /// Where nothing here says how much was signed, a witness is heard by what it cosigns now, and nothing is signed for that before
    /// all have said what they saw.
    pub(super) async fn ask_witnesses(&self) -> HashSet<Tenant> {
        let asked = join_all(self.witnesses.iter().map(|witness| self.hear_all_of(witness))).await;
        let (told, denied): (Vec<_>, Vec<_>) = asked.into_iter().map(|it| (it.told, it.denied)).unzip();
        let mut denied: HashSet<Tenant> = denied.into_iter().flatten().collect();
        denied.extend(self.gaps().into_iter().map(|gap| gap.tenant));
        let vouched = self.witnesses.iter().zip(told).map(|(witness, told)| {
            let told = told.into_iter().filter(|(tenant, _)| !denied.contains(tenant)).collect();
            self.be_vouched_for(witness, told)
        });
        let (heard, late): (Vec<_>, Vec<_>) =
            join_all(vouched).await.into_iter().map(|it| (it.told, it.denied)).unzip();
        denied.extend(late.into_iter().flatten());
        let heard = heard.into_iter().flatten().map(|(tenant, ())| tenant);
        heard.filter(|tenant| !denied.contains(tenant)).collect()
    }

    /// Asks a witness what it saw of each log.
    async fn hear_all_of(&self, witness: &Witness) -> Asked<Told> {
        let mut asked = Asked::nothing_yet();
        for LogOf { tenant, .. } in &self.logs.of {
            if !asked.take(witness, tenant, self.hear_of(witness, tenant).await) {
                break;
            }
        }
        asked
    }

    /// Has a witness cosign, of each log that it told of, what nothing but that says of it.
    async fn be_vouched_for(&self, witness: &Witness, told: Vec<(Tenant, Told)>) -> Asked<()> {
        let mut asked = Asked::nothing_yet();
        for (tenant, told) in told {
            let vouched = match told {
                Told::All => Ok(()),
                Told::Size(saw) => self.have_vouched(witness, &tenant, saw).await,
            };
            if !asked.take(witness, &tenant, vouched) {
                break;
            }
        }
        asked
    }

    /// Compares the store with what a witness shows. Where nothing else says how much was signed that is not enough: whoever stands
    /// between may have kept an answer.
    async fn hear_of(&self, witness: &Witness, tenant: &Tenant) -> Result<Told, Unheard> {
        let compared = self.compare_with(witness, tenant).await;
        if let Err(unheard @ (Unheard::Silent(_) | Unheard::Another(_))) = compared {
            return Err(unheard);
        }
        match self.is_unmarked(tenant).await {
            Ok(true) => self.size_seen(witness, tenant).await.map(Told::Size),
            Ok(false) => compared.map(|()| Told::All),
            Err(error) => Err(Unheard::Failed(error.to_string())),
        }
    }

    /// Compares the store with what a witness saw last, if it shows that.
    async fn compare_with(&self, witness: &Witness, tenant: &Tenant) -> Result<(), Unheard> {
        let failed = |error: &dyn fmt::Display| Unheard::Silent(error.to_string());
        let asked = self.empty_log(tenant).map_err(|error| failed(&error))?;
        let Some(note) = witness.saw_last(&self.outside.egress, &asked).await? else { return Ok(()) };
        // What we did not sign, or as another log, proves nothing.
        let origin = self.logs.last(tenant).map_err(|error| failed(&error))?.checkpoint.origin;
        match signed_by(&self.logs.signer, &note) {
            Ok(seen) if seen.origin == origin => {
                self.must_have(tenant, &seen).await.map_err(|error| failed(&error))
            }
            _ => Err(Unheard::Failed("what it shows was not signed as this log".to_owned())),
        }
    }

    /// The log without leaves, signed only to ask with: nobody is shown it as what the log is.
    fn empty_log(&self, tenant: &Tenant) -> Result<Note, Error> {
        let origin = self.logs.last(tenant)?.checkpoint.origin;
        self.logs.mark_of(Checkpoint { origin, size: 0, root: empty_root() }).map(|mark| mark.note)
    }

    /// Has all that the store has cosigned by a witness. What it says that it saw proves nothing, and only keeps us from signing for it
    /// what it has seen more than. A cosignature of now does: what is smaller than what it cosigned last, or does not begin with that,
    /// gets none.
    ///
    /// What is signed here is in no mark yet. The witness has it, and is asked again by whoever starts without one.
    async fn have_vouched(&self, witness: &Witness, tenant: &Tenant, saw: u64) -> Result<(), Unheard> {
        let Head { size, root } = self.head_with(tenant, saw).await?;
        lock(&witness.seen).insert(tenant.clone(), saw);
        let origin = self.logs.last(tenant).map_err(|error| error.to_string())?.checkpoint.origin;
        let offered = self.logs.mark_of(Checkpoint { origin, size, root });
        let offered = offered.map_err(|error| error.to_string())?;
        let now = now_seconds();
        let lines = self.cosigned_by(witness, tenant, &offered).await?;
        let at = cosigned_at(offered.note, &witness.key, &lines).map_err(|error| error.to_string())?;
        if at.is_none_or(|at| at.saturating_add(CLOCKS_APART) < now) {
            // Whoever stands between may have kept one of the same leaves.
            return Err("its cosignature is not of now, or its clock or ours is wrong".to_owned().into());
        }
        lock(&witness.seen).insert(tenant.clone(), size);
        Ok(())
    }

    /// The size of the log that a witness says it saw last, which the store has.
    async fn size_seen(&self, witness: &Witness, tenant: &Tenant) -> Result<u64, Unheard> {
        let note = self.empty_log(tenant).map_err(|error| error.to_string())?;
        let offer = AddCheckpoint { old: 0, proof: Vec::new(), note };
        let saw = match witness.offer(&self.outside.egress, &offer).await? {
            Offered::Saw(size) => size,
            Offered::Cosigned(_) => 0,
            Offered::Inconsistent => {
                return Err("it saw a log that does not begin with nothing".to_owned().into());
            }
        };
        self.head_with(tenant, saw).await.map(|_| saw)
    }

    /// The head of a log that has as many leaves as a witness says it saw. Read behind that: other gateways may have logged more
    /// meanwhile.
    async fn head_with(&self, tenant: &Tenant, saw: u64) -> Result<Head, Unheard> {
        let head = self.log().log_head(tenant).await.map_err(|error| error.to_string())?;
        if saw <= head.size {
            return Ok(head);
        }
        let size = head.size;
        Err(Unheard::Another(format!(
            "it saw {saw} leaves of this log, and the store has {size}: if so, the store was put back (`countersign recover`)"
        )))
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
            Err(Unheard::Silent(why) | Unheard::Failed(why)) => return Err(why),
            // Then it is worth knowing what.
            Err(Unheard::Another(why)) => {
                let compared = self.compare_with(witness, tenant).await;
                return Err(match compared {
                    Ok(()) => why,
                    Err(unheard) => format!("{why}; {unheard}"),
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
    ) -> Result<String, Unheard> {
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
                    return Err(Unheard::Another(why.to_owned()));
                }
            };
            if size > checkpoint.size {
                let why = format!("it saw {size} leaves of this log, which has {}", checkpoint.size);
                return Err(Unheard::Another(why));
            }
            if size == old {
                let why = format!("it saw another root of this log's {size} leaves");
                return Err(Unheard::Another(why));
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

/// When a witness cosigned a note, seconds since 1970, by the lines that it answered with.
fn cosigned_at(note: Note, witness: &Verifier, lines: &str) -> Result<Option<u64>, receipt::log::Error> {
    note.cosigned(witness, lines)?.signed_by(witness)
}

fn now_seconds() -> u64 {
    u64::try_from(clock::now_ms() / 1000).unwrap_or(0)
}

/// How long one exchange takes at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between a failure and the next try of that log.
pub(super) const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// So far a witness's clock may be behind ours, seconds, that its cosignature is believed to be of now.
const CLOCKS_APART: u64 = 60;
/// As many signatures as a note may have, and more than one witness writes.
const LONGEST_ANSWER: usize = 64 << 10;
/// Sizes that a witness may tell in a row.
const TRIES: u32 = 3;
