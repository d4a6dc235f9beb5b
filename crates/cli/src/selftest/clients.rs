//! The clients: what they want, and how they go about it. Like good clients they ask again under the same key until they
//! have a last word, agree to what waits for them, charge what is set aside, answer for payers, run commands, have some of
//! it undone, tried again or erased, and say what became of some of what nobody else tells.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hex::ToHex;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use testkit::bank::Bank;

use super::bench::{Bench, Luck};
use super::chance::Chance;
use super::course::{Course, Later};
use super::line::{Line, Said, lock};
use super::mode::{Level, Mode, RETENTION};

/// One action that a client wants.
pub(super) struct Wish {
    pub(super) mode: Mode,
    pub(super) level: Level,
    pub(super) key: String,
    pub(super) minor: i64,
    pub(super) course: Course,
    pub(super) later: Later,
    /// A person says what became of it, where nobody else does.
    pub(super) resolved: bool,
    pub(super) body: Value,
    pub(super) heard: Mutex<Heard>,
    /// What becomes of the client's own runs.
    pub(super) chance: Mutex<Chance>,
}

/// Everything a client was told about its action.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// One, if all is well.
    pub(super) ids: BTreeSet<String>,
    pub(super) receipts: BTreeSet<String>,
    /// The kind of the last word, and its bytes; a second one if they were not the same later.
    pub(super) last_words: BTreeSet<(String, Vec<u8>)>,
    /// Why it never became an action.
    pub(super) refused: Option<String>,
    /// It was said to be undone, or not to be possible to undo.
    pub(super) undone: bool,
    /// It had failed, and is tried once more.
    pub(super) again: bool,
    pub(super) erased: bool,
    /// It had failed by its bank's word, and turned out to be done.
    pub(super) late: bool,
    /// A person has said what became of it.
    pub(super) resolved: bool,
    /// Its payer was asked.
    pub(super) challenged: bool,
    /// Since when it could not be undone, and whether a person has said what became of it.
    stuck: Option<Instant>,
    pub(super) settled: bool,
    /// By which banks know it.
    name: Option<String>,
    /// How often it was refused to be tried again.
    refusals: u32,
    tries: u32,
}

/// What a client does next about its action.
enum Next {
    /// Nothing more: it has the last word, or rests in doubt.
    Over,
    /// Has it undone, when it is told that others are there for that.
    Undo,
    /// Asks again then.
    Again(Duration),
}

/// Where the wishes lie; 64 clients take from it.
pub(super) struct Desk {
    pub(super) wishes: Vec<Wish>,
    /// Those that nobody may take up yet, and those that somebody may.
    fresh: Mutex<VecDeque<usize>>,
    ready: Mutex<VecDeque<usize>>,
    begun: AtomicUsize,
    /// The same for what is to be undone.
    undoable: Mutex<VecDeque<usize>>,
    undo_fed: AtomicUsize,
    again: Mutex<BinaryHeap<Reverse<(Instant, usize)>>>,
    over: AtomicUsize,
}

/// Who asks, who agrees and says what nobody else does, who erases, and what they can see besides.
#[derive(Clone)]
pub(super) struct People {
    pub(super) agent: Line,
    pub(super) approver: Line,
    pub(super) admin: Line,
    pub(super) banks: Arc<BTreeMap<Mode, Bank>>,
    pub(super) bench: Arc<Bench>,
}

impl Wish {
    /// Where it is asked for.
    pub(super) fn path(&self) -> &'static str {
        match self.mode {
            Mode::Runner => "/v1/runs",
            _ => "/api/execute",
        }
    }
}

impl Desk {
    pub(super) fn new(wishes: Vec<Wish>) -> Arc<Desk> {
        Arc::new(Desk {
            fresh: Mutex::new((0..wishes.len()).collect()),
            wishes,
            ready: Mutex::default(),
            begun: AtomicUsize::new(0),
            undoable: Mutex::default(),
            undo_fed: AtomicUsize::new(0),
            again: Mutex::default(),
            over: AtomicUsize::new(0),
        })
    }

    /// Lets so many more wishes be taken up, a few that are wanted before the others, and so many be undone.
    pub(super) fn feed(&self, wishes: usize, undone: usize, wanted: impl Fn(&Wish) -> bool) {
        let (mut fresh, mut ready) = (lock(&self.fresh), lock(&self.ready));
        for number in 0..wishes {
            let first = (0..fresh.len()).take(SEARCHED).find(|at| wanted(&self.wishes[fresh[*at]]));
            let at = first.filter(|_| number < FIRST).unwrap_or(0);
            ready.extend(fresh.remove(at));
        }
        self.undo_fed.store(undone, Ordering::Relaxed);
    }

    pub(super) fn all_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed) >= self.wishes.len()
    }

    /// Begun and not over; what waits to be undone is left out.
    pub(super) fn open(&self) -> usize {
        let begun = self.begun.load(Ordering::Relaxed);
        begun.saturating_sub(self.over() + lock(&self.undoable).len())
    }

    /// Of all that is begun nothing is left to do.
    pub(super) fn is_at_rest(&self) -> bool {
        self.open() == 0 && lock(&self.undoable).is_empty()
    }

    pub(super) fn over(&self) -> usize {
        self.over.load(Ordering::Relaxed)
    }

    /// One client, until all is over.
    pub(super) async fn serve(self: Arc<Desk>, people: People) {
        while self.over() < self.wishes.len() {
            let Some((at, undo)) = self.take() else {
                tokio::time::sleep(A_MOMENT).await;
                continue;
            };
            let wish = &self.wishes[at];
            let next = if undo { people.undo(wish).await } else { people.pursue(wish).await };
            match next {
                Next::Over => drop(self.over.fetch_add(1, Ordering::Relaxed)),
                Next::Undo => lock(&self.undoable).push_back(at),
                Next::Again(pause) => lock(&self.again).push(Reverse((Instant::now() + pause, at))),
            }
        }
    }

    /// What is to be undone, or is due, or is new.
    fn take(&self) -> Option<(usize, bool)> {
        if let Some(at) = self.take_undoable() {
            return Some((at, true));
        }
        let mut again = lock(&self.again);
        if again.peek().is_some_and(|Reverse((due, _))| *due <= Instant::now()) {
            return again.pop().map(|Reverse((_, at))| (at, self.is_being_undone(at)));
        }
        drop(again);
        let at = lock(&self.ready).pop_front()?;
        self.begun.fetch_add(1, Ordering::Relaxed);
        Some((at, false))
    }

    fn is_being_undone(&self, at: usize) -> bool {
        let wish = &self.wishes[at];
        wish.later == Later::Undo && lock(&wish.heard).is_executed()
    }

    fn take_undoable(&self) -> Option<usize> {
        let mut undoable = lock(&self.undoable);
        let fed = self.undo_fed.load(Ordering::Relaxed);
        if fed == 0 || undoable.is_empty() {
            return None;
        }
        self.undo_fed.store(fed - 1, Ordering::Relaxed);
        undoable.pop_front()
    }
}

impl Heard {
    fn is_executed(&self) -> bool {
        self.last_words.iter().any(|(kind, _)| kind == "executed")
    }

    /// Was it by its provider's word that it had failed?
    fn was_refused(&self) -> bool {
        let words =
            self.last_words.iter().filter_map(|(_, bytes)| serde_json::from_slice::<Value>(bytes).ok());
        words.into_iter().any(|word| word["details"]["reasons"] == json!(["provider_refused"]))
    }

    fn id(&self) -> Option<String> {
        self.ids.first().cloned()
    }

    fn note(&mut self, said: &Said) {
        for member in ["transaction_id", "action_id", "receipt_id"] {
            let told = said.text(member);
            let into = if member == "receipt_id" { &mut self.receipts } else { &mut self.ids };
            if !told.is_empty() {
                into.insert(told.to_owned());
            }
        }
    }

    /// A little longer each time.
    fn again(&mut self) -> Next {
        self.tries += 1;
        Next::Again(Duration::from_millis(20 << self.tries.min(5)))
    }
}

impl People {
    /// Asks for the action, and goes by the answer.
    async fn pursue(&self, wish: &Wish) -> Next {
        let last = lock(&wish.heard).last_words.first().map(|(kind, _)| kind.clone());
        if let Some(kind) = last {
            return self.after(wish, &kind).await;
        }
        let said = self.agent.ask(Method::POST, wish.path(), Some(&wish.body), Some(&wish.key)).await;
        let Some(said) = said else { return lock(&wish.heard).again() };
        lock(&wish.heard).note(&said);
        match said.text("kind") {
            kind @ ("executed" | "failed" | "blocked") => {
                lock(&wish.heard).last_words.insert((kind.to_owned(), said.bytes.clone()));
                return self.after(wish, kind).await;
            }
            _ if said.status == 422 => {
                lock(&wish.heard).refused = Some(said.text("code").to_owned());
                return Next::Over;
            }
            "held" if said.body["details"]["hold_reason"] == "approval" => self.agree(wish).await,
            "held" if said.body["details"]["hold_reason"] == "reservation" => self.charge_or_free(wish).await,
            "needs_challenge" => self.answer_for_payer(wish, &said),
            "pending_settlement" if self.is_left_in_doubt(wish).await => return Next::Over,
            _ if wish.mode == Mode::Runner => self.run(wish).await,
            _ => {}
        }
        lock(&wish.heard).again()
    }

    /// What comes after the last word.
    async fn after(&self, wish: &Wish, kind: &str) -> Next {
        // That it had failed for another reason than its bank's word is not set right by anybody.
        if kind == "failed" && self.is_denied(wish).await && lock(&wish.heard).was_refused() {
            return self.set_right(wish).await;
        }
        match wish.later {
            // What only a person confirms has no reference by which it could be given back.
            Later::Undo if kind == "executed" && !lock(&wish.heard).resolved => Next::Undo,
            Later::Again if kind == "failed" && !lock(&wish.heard).again => self.try_again(wish).await,
            Later::Erase if kind == "executed" => self.erase(wish).await,
            _ => Next::Over,
        }
    }

    async fn deed(&self, who: &Line, wish: &Wish, deed: &str, body: &Value) -> Option<Said> {
        let id = lock(&wish.heard).id()?;
        who.ask(Method::POST, &format!("/v1/actions/{id}/{deed}"), Some(body), None).await
    }

    async fn record(&self, wish: &Wish) -> Option<Value> {
        let id = lock(&wish.heard).id()?;
        self.agent.get(&format!("/v1/actions/{id}")).await.map(|said| said.body)
    }

    /// By which name banks know its action: what was sent has one, however long the gateway takes to come back and say so.
    async fn name(&self, wish: &Wish) -> Option<String> {
        for _ in 0..PATIENCE {
            let known = lock(&wish.heard).name.clone();
            if known.is_some() {
                return known;
            }
            if let Some(record) = self.record(wish).await {
                let name = record["attempts"][0]["reference"].as_str().map(|it| action_of(it).to_owned());
                lock(&wish.heard).name.clone_from(&name);
                return name;
            }
            tokio::time::sleep(A_MOMENT).await;
        }
        None
    }

    /// Whether anybody hears of it or not: if it was not counted, it still waits when it is asked for again.
    async fn agree(&self, wish: &Wish) {
        drop(self.deed(&self.approver, wish, "approve", &json!({ "comment": "seen by the selftest" })).await);
    }

    /// The same.
    async fn charge_or_free(&self, wish: &Wish) {
        let again = lock(&wish.heard).again;
        let amount = super::dollars(wish.course.charges(wish.minor));
        let taken_back = self.is_denied(wish).await && lock(&wish.chance).one_in(2);
        match wish.course {
            // Or it asks once more for what is done, which is refused then, until the time is over.
            Course::Charge { .. } | Course::Release if taken_back => self.take_back(wish).await,
            Course::Charge { .. } => {
                drop(self.deed(&self.agent, wish, "capture", &json!({ "amount": amount })).await);
            }
            Course::Release if again => drop(self.deed(&self.agent, wish, "capture", &json!({})).await),
            Course::Release => drop(self.deed(&self.agent, wish, "release", &json!({})).await),
            _ => {}
        }
    }

    /// At the bank, which tells the gateway.
    fn answer_for_payer(&self, wish: &Wish, said: &Said) {
        let mut heard = lock(&wish.heard);
        heard.challenged = true;
        let url = said.body["details"]["challenge_url"].as_str().unwrap_or_default();
        let payment = url.rsplit('/').next().unwrap_or_default();
        if let Some(bank) = self.banks.get(&wish.mode).filter(|_| wish.course != Course::Lapse) {
            bank.payer_says(payment, wish.course == Course::Confirm || heard.again);
        }
    }

    async fn is_left_in_doubt(&self, wish: &Wish) -> bool {
        self.rests(wish).await && !self.say(wish).await
    }

    /// In doubt for good: whoever could tell has forgotten, or cannot be asked. What comes late has come by then.
    async fn rests(&self, wish: &Wish) -> bool {
        if wish.mode != Mode::Idempotent {
            return false;
        }
        let Some(record) = self.record(wish).await else { return false };
        let Some(latest) = record["attempts"].as_array().and_then(|all| all.last()) else { return false };
        let captured = record["reservation"]["captures"].as_array().and_then(|all| all.last());
        let sent = captured.map_or(&latest["first_sent_at"], |capture| &capture["asked_at"]);
        let sent = sent.as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let age = sent.map(|sent| jiff::Timestamp::now().as_millisecond() - sent.as_millisecond());
        let forgotten_ms = i64::try_from(RETENTION.as_millis()).unwrap_or(i64::MAX) + 3_000;
        record["result"]["state"] == "EXECUTING"
            && record["response"]["kind"] == "pending_settlement"
            && latest["ended_at"].is_null()
            && age.is_some_and(|age| age > forgotten_ms)
    }

    /// A person looks into the bank's books and says what is there. `false`: nobody does.
    async fn say(&self, wish: &Wish) -> bool {
        let Some(record) = self.record(wish).await else { return true };
        // What a callback may still end is not left in doubt; what is only set aside, nobody can say anything of.
        let reserves = wish.course.reserves() && record["reservation"].is_null();
        if reserves || !(wish.resolved || wish.course.challenges()) {
            return false;
        }
        let decision = if self.has_effect(wish).await { "executed" } else { "failed" };
        let word = json!({ "as": decision, "comment": "seen in the books of the bank" });
        let said = self.deed(&self.approver, wish, "resolve", &word).await;
        lock(&wish.heard).resolved |= said.is_some_and(|said| said.status == 200);
        true
    }

    async fn has_effect(&self, wish: &Wish) -> bool {
        let (Some(name), Some(bank)) = (self.name(wish).await, self.banks.get(&wish.mode)) else {
            return false;
        };
        bank.effects().by_reference.keys().any(|reference| action_of(reference) == name)
    }

    async fn is_given_back(&self, wish: &Wish) -> bool {
        let (Some(name), Some(bank)) = (self.name(wish).await, self.banks.get(&wish.mode)) else {
            return false;
        };
        bank.asked_back().keys().any(|reference| action_of(reference) == name)
    }

    /// Carries the action out, if its call is to be had.
    async fn run(&self, wish: &Wish) {
        let Some(id) = lock(&wish.heard).id() else { return };
        let runner = format!("{}-{}", wish.key, lock(&wish.heard).tries);
        let path = |deed: &str| format!("/v1/runs/{id}/{deed}");
        let taken =
            self.agent.ask(Method::POST, &path("take"), Some(&json!({ "runner": runner })), None).await;
        let Some(call) =
            taken.filter(|taken| taken.text("next") == "run").map(|mut it| it.body["call"].take())
        else {
            return;
        };
        let text = |member: &str| call[member].as_str().unwrap_or_default();
        let luck = Luck::draw(&mut lock(&wish.chance));
        if luck.effect {
            self.bench.run(text("reference"), text("provider_key"));
        }
        let Some(exit_code) = luck.exit else { return };
        let nothing = json!({ "sha256": Sha256::digest([]).encode_hex::<String>(), "bytes": 0 });
        let report = json!({
            "provider_key": text("provider_key"), "exit_code": exit_code, "duration_ms": 1,
            "stdout": nothing, "stderr": nothing,
        });
        let mut left = 1 + u32::from(luck.twice);
        for _ in 0..BROUGHT {
            let told = self.agent.ask(Method::POST, &path("report"), Some(&report), None).await;
            left -= u32::from(told.is_some_and(|told| told.status < 500));
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has what failed tried once more: what was said before holds no longer then.
    async fn try_again(&self, wish: &Wish) -> Next {
        let said = self.deed(&self.agent, wish, "retry", &json!({})).await;
        let attempts = self.record(wish).await.and_then(|record| record["attempts"].as_array().map(Vec::len));
        let mut heard = lock(&wish.heard);
        if attempts.is_some_and(|attempts| attempts > 1) {
            heard.again = true;
            heard.last_words.clear();
        } else if said.is_some_and(|said| said.status == 409) {
            heard.refusals += 1;
            if heard.refusals > MOST_REFUSALS {
                return Next::Over;
            }
        }
        heard.again()
    }

    /// Has its bank done what it said it had not?
    async fn is_denied(&self, wish: &Wish) -> bool {
        wish.mode == Mode::Mistaken && self.has_effect(wish).await
    }

    /// Its bank tells so, or is asked because it is to be tried once more. Once that is on record, and undone where it has to
    /// be, what was said before holds no longer.
    async fn set_right(&self, wish: &Wish) -> Next {
        let taken_back = lock(&wish.chance).one_in(2);
        if taken_back {
            self.take_back(wish).await;
        } else {
            drop(self.deed(&self.agent, wish, "retry", &json!({})).await);
        }
        let record = self.record(wish).await;
        let mut heard = lock(&wish.heard);
        if record.is_some_and(|record| is_set_right(&record)) {
            heard.late |= !heard.last_words.is_empty();
            heard.last_words.clear();
        }
        heard.again()
    }

    /// Its bank takes its word back.
    async fn take_back(&self, wish: &Wish) {
        let (Some(name), Some(bank)) = (self.name(wish).await, self.banks.get(&wish.mode)) else { return };
        for reference in bank.effects().by_reference.into_keys().filter(|it| action_of(it) == name) {
            bank.tell_of(&reference);
        }
    }

    async fn erase(&self, wish: &Wish) -> Next {
        let said = self.deed(&self.admin, wish, "erase", &json!({})).await;
        let mut heard = lock(&wish.heard);
        match said.map(|said| said.status) {
            Some(200) => {
                heard.erased = true;
                Next::Over
            }
            _ => heard.again(),
        }
    }

    /// Has it undone, and once it is, asks for that once more.
    async fn undo(&self, wish: &Wish) -> Next {
        let settled = lock(&wish.heard).settled;
        let said = match settled {
            true => None,
            false => self.deed(&self.agent, wish, "rollback", &json!({})).await,
        };
        let said = match said {
            // Somebody is at it, or it is no longer to be had: the record says which.
            Some(said) if said.status != 409 => Some(said.body),
            _ => self.record(wish).await,
        };
        let Some(record) = said else { return lock(&wish.heard).again() };
        let failed = record["rollback"]["error"].is_string();
        match record["result"]["state"].as_str() {
            Some("ROLLED_BACK") if settled || lock(&wish.heard).undone => Next::Over,
            Some("ROLLED_BACK") => {
                lock(&wish.heard).undone = true;
                Next::Again(A_MOMENT)
            }
            Some("COMPLETED") if settled => Next::Over,
            Some("ROLLING_BACK") if failed && wish.resolved => self.say_of_rollback(wish).await,
            Some("ROLLING_BACK") if failed => Next::Over,
            _ => lock(&wish.heard).again(),
        }
    }

    /// A person looks into the bank's books, once whatever is late has come.
    async fn say_of_rollback(&self, wish: &Wish) -> Next {
        let since = *lock(&wish.heard).stuck.get_or_insert_with(Instant::now);
        if since.elapsed() < ALL_HAS_COME {
            return lock(&wish.heard).again();
        }
        let decision = if self.is_given_back(wish).await { "rolled_back" } else { "executed" };
        let word = json!({ "as": decision, "comment": "seen in the books of the bank" });
        // Whether it is counted or not: the record says so next time, and a word that is not taken is said again.
        lock(&wish.heard).settled = true;
        drop(self.deed(&self.approver, wish, "resolve", &word).await);
        lock(&wish.heard).again()
    }
}

/// It is done by the record, and undone where that is due.
fn is_set_right(record: &Value) -> bool {
    match record["result"]["state"].as_str() {
        Some("COMPLETED" | "ROLLED_BACK") => true,
        Some("ROLLING_BACK") => record["rollback"]["error"].is_string(),
        _ => false,
    }
}

/// The name of the action that a reference of ours belongs to; behind it stand the number of the attempt, and what charges it.
pub(super) fn action_of(reference: &str) -> &str {
    let attempt = reference.split_once("-capture-").map_or(reference, |(attempt, _)| attempt);
    attempt.rsplit_once('-').map_or(reference, |(id, _)| id)
}

const A_MOMENT: Duration = Duration::from_millis(5);
/// So many moments a gateway that was killed takes at most to come back.
const PATIENCE: usize = 6_000;
/// Later than anything at a bank that comes about late.
const ALL_HAS_COME: Duration = Duration::from_secs(3);
/// Wishes of one life that are wanted before the others, and how many are looked through for them.
const FIRST: usize = 4;
const SEARCHED: usize = 2_000;
/// A report is brought so often before its runner gives up.
const BROUGHT: u32 = 40;
/// What may not be tried again stays as it is.
const MOST_REFUSALS: u32 = 8;
