//! The clients: what they want, and how they go about it. Like good clients they ask again under the same key until they
//! have a last word, agree to what waits for them, and have some of it undone.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::line::{Line, Said, lock};
use super::mode::{Level, Mode, RETENTION};

/// One action that a client wants.
pub(super) struct Wish {
    pub(super) mode: Mode,
    pub(super) level: Level,
    pub(super) key: String,
    pub(super) minor: i64,
    /// To be undone once it was carried out.
    pub(super) undo: bool,
    pub(super) body: Value,
    pub(super) heard: Mutex<Heard>,
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
    /// How many were taken up, and how many may be.
    begun: AtomicUsize,
    fed: AtomicUsize,
    /// The same for what is to be undone.
    undoable: Mutex<VecDeque<usize>>,
    undo_fed: AtomicUsize,
    again: Mutex<BinaryHeap<Reverse<(Instant, usize)>>>,
    over: AtomicUsize,
}

/// Who asks, and who agrees.
#[derive(Clone)]
pub(super) struct People {
    pub(super) agent: Line,
    pub(super) approver: Line,
}

impl Desk {
    pub(super) fn new(wishes: Vec<Wish>) -> Arc<Desk> {
        Arc::new(Desk {
            wishes,
            begun: AtomicUsize::new(0),
            fed: AtomicUsize::new(0),
            undoable: Mutex::default(),
            undo_fed: AtomicUsize::new(0),
            again: Mutex::default(),
            over: AtomicUsize::new(0),
        })
    }

    /// Lets so many more wishes be taken up, and so many be undone.
    pub(super) fn feed(&self, wishes: usize, undone: usize) {
        self.fed.fetch_add(wishes, Ordering::Relaxed);
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
            return again.pop().map(|Reverse((_, at))| (at, lock(&self.wishes[at].heard).is_executed()));
        }
        drop(again);
        let most = self.fed.load(Ordering::Relaxed).min(self.wishes.len());
        let begun = self
            .begun
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |begun| (begun < most).then_some(begun + 1));
        begun.ok().map(|at| (at, false))
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

    fn note(&mut self, said: &Said) {
        for (member, into) in [("transaction_id", &mut self.ids), ("receipt_id", &mut self.receipts)] {
            let told = said.text(member);
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
        let said = self.agent.ask(Method::POST, "/api/execute", Some(&wish.body), Some(&wish.key)).await;
        let Some(said) = said else { return lock(&wish.heard).again() };
        let id = said.text("transaction_id").to_owned();
        let waits = {
            let mut heard = lock(&wish.heard);
            heard.note(&said);
            match said.text("kind") {
                kind @ ("executed" | "failed" | "blocked") => {
                    heard.last_words.insert((kind.to_owned(), said.bytes.clone()));
                    return if kind == "executed" && wish.undo { Next::Undo } else { Next::Over };
                }
                "held" => said.body["details"]["hold_reason"] == "approval",
                "pending_settlement" => false,
                _ if said.status == 422 => {
                    heard.refused = Some(said.text("code").to_owned());
                    return Next::Over;
                }
                _ => return heard.again(),
            }
        };
        if waits {
            self.agree(&id).await;
        } else if wish.mode == Mode::Idempotent && self.rests(&id).await {
            return Next::Over;
        }
        lock(&wish.heard).again()
    }

    /// Whether anybody hears of it or not: if it was not counted, it still waits when it is asked for again.
    async fn agree(&self, id: &str) {
        let path = format!("/v1/actions/{id}/approve");
        let word = json!({ "comment": "seen by the selftest" });
        drop(self.approver.ask(Method::POST, &path, Some(&word), None).await);
    }

    /// In doubt for good: whoever could tell has forgotten.
    async fn rests(&self, id: &str) -> bool {
        let Some(record) = self.agent.get(&format!("/v1/actions/{id}")).await else { return false };
        let Some(latest) = record.body["attempts"].as_array().and_then(|all| all.last()) else {
            return false;
        };
        let sent = latest["first_sent_at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let age = sent.map(|sent| jiff::Timestamp::now().as_millisecond() - sent.as_millisecond());
        let forgotten_ms = i64::try_from(RETENTION.as_millis()).unwrap_or(i64::MAX) + 3_000;
        record.body["result"]["state"] == "EXECUTING"
            && latest["ended_at"].is_null()
            && age.is_some_and(|age| age > forgotten_ms)
    }

    /// Has it undone, and once it is, asks for that once more.
    async fn undo(&self, wish: &Wish) -> Next {
        let Some(id) = lock(&wish.heard).ids.first().cloned() else { return Next::Over };
        let path = format!("/v1/actions/{id}/rollback");
        let said = match self.agent.ask(Method::POST, &path, Some(&json!({})), None).await {
            // Somebody is at it, or it is no longer to be had: the record says which.
            Some(said) if said.status == 409 => self.agent.get(&format!("/v1/actions/{id}")).await,
            said => said,
        };
        let mut heard = lock(&wish.heard);
        let Some(said) = said else { return heard.again() };
        let failed = said.body["rollback"]["error"].is_string();
        match said.body["result"]["state"].as_str() {
            Some("ROLLED_BACK") if heard.undone => Next::Over,
            Some("ROLLED_BACK") => {
                heard.undone = true;
                Next::Again(A_MOMENT)
            }
            Some("ROLLING_BACK") if failed => Next::Over,
            _ => heard.again(),
        }
    }
}

const A_MOMENT: Duration = Duration::from_millis(5);
