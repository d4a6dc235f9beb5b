//! What is put aside here, and gone on with for clients who came back to other gateways.
//!
//! As long as anything lies on the shelf that this gateway holds, somebody looks there for what was taken up elsewhere. It is then
//! attended to as for a client of our own; what that would be told is laid down for whoever waits.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use action::Environment;
use futures_util::future::BoxFuture;
use gateway::{AsideId, Shelf, TakenUp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::desk::{BRIEF, Desk, GRACE, Inside, Waits, Work, see_to};
use super::lock;
use super::mail::{Letter, Mail};
use super::slips::{self, Asked, Came, Said};

/// What is under way here and lies where others look.
pub(super) struct Shared {
    works: Mutex<Works>,
    /// For each that is attended to for a client elsewhere.
    places: Arc<Semaphore>,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared { works: Mutex::default(), places: Arc::new(Semaphore::new(MOST_ATTENDED as usize)) }
    }
}

#[derive(Default)]
struct Works {
    all: HashMap<AsideId, Arc<Work>>,
    /// Of which environments somebody looks at the shelf.
    looked_at: HashSet<Environment>,
}

impl Shared {
    /// Says whether from now on somebody has to look.
    fn add(&self, work: &Arc<Work>) -> bool {
        let mut works = lock(&self.works);
        works.all.insert(work.name.id, Arc::clone(work));
        works.looked_at.insert(work.shelf.environment())
    }

    /// Says whether it was there.
    pub(super) fn remove(&self, work: &Work) -> bool {
        lock(&self.works).all.remove(&work.name.id).is_some()
    }

    /// Ends once what clients elsewhere wait for is laid down. From now on nothing new is taken in hand for any of them.
    pub(super) async fn finish(&self) {
        if let Ok(all) = self.places.acquire_many(MOST_ATTENDED).await {
            all.forget();
        }
    }

    /// Those of an environment; of none nobody has to look any more.
    fn of(&self, environment: Environment) -> Vec<Arc<Work>> {
        let mut works = lock(&self.works);
        let of = |work: &&Arc<Work>| work.shelf.environment() == environment;
        let found: Vec<_> = works.all.values().filter(of).cloned().collect();
        if found.is_empty() {
            works.looked_at.remove(&environment);
        }
        found
    }
}

/// Lays down what a client is asked in this round, so that it may come back to any gateway. What fails is tried again, and until it
/// succeeds the client has to come back to this one.
pub(super) async fn lay_down(desk: &Arc<Desk>, work: &Arc<Work>, inside: &mut Inside) {
    work.is_laid.store(false, Ordering::Relaxed);
    if desk.shared.add(work) {
        tokio::spawn(look(Arc::clone(desk), work.shelf.clone()));
    }
    lay(work, inside).await;
}

/// Says whether it lies there now.
async fn lay(work: &Work, inside: &mut Inside) -> bool {
    let action = work.action();
    let asked = slips::write(&Asked::new(action, inside.requests(), inside.kept()));
    let laying = work.shelf.put_aside(work.name, (inside.round, action), &asked, work.input + GRACE);
    let why = match timeout(BRIEF, laying).await {
        Ok(Ok(())) => {
            work.is_laid.store(true, Ordering::Relaxed);
            return true;
        }
        Ok(Err(error)) => error.message,
        Err(_) => "the store does not answer".into(),
    };
    tracing::warn!(%why, "what waits for a client could not be laid down for other gateways yet");
    work.is_doubtful.store(true, Ordering::Relaxed);
    false
}

/// Looks for what was taken up elsewhere as long as there may be something.
async fn look(desk: Arc<Desk>, shelf: Shelf) {
    let mut lays = Instant::now();
    loop {
        sleep(LOOK).await;
        let works = desk.shared.of(shelf.environment());
        if works.is_empty() {
            return;
        }
        if lays <= Instant::now() && !lay_again(&works).await {
            lays = Instant::now() + PAUSE;
        }
        let known = works.iter().filter(|work| work.is_elsewhere.load(Ordering::Relaxed));
        let known = known.map(|work| work.name.id).collect();
        let taken_up = match shelf.taken_up(known).await {
            Ok(taken_up) => taken_up,
            Err(error) => {
                tracing::debug!(%error, "nobody knows which clients came back to other gateways");
                sleep(PAUSE).await;
                continue;
            }
        };
        for taken in taken_up {
            if let Some(work) = works.iter().find(|work| work.name.id == taken.id) {
                hear(&desk, work, taken);
            }
        }
    }
}

/// Lays down what could not be yet, or lies there in a way that nobody knows. Says whether all of it lies there now.
async fn lay_again(works: &[Arc<Work>]) -> bool {
    for work in works.iter().filter(|work| !work.is_laid.load(Ordering::Relaxed)) {
        // Whoever has it in hand brings it to its end, or lays it down.
        if let Ok(mut inside) = work.inside.try_lock()
            && inside.is_under_way()
            && !lay(work, &mut inside).await
        {
            return false;
        }
    }
    true
}

/// Somebody took it up elsewhere.
fn hear(desk: &Arc<Desk>, work: &Arc<Work>, taken: TakenUp) {
    if taken.is_given_up {
        work.cancelled.cancel();
    }
    let Some(said) = taken.said else { return };
    // What lies there may be of the round before, which was attended to.
    if !work.is_laid.load(Ordering::Relaxed) || work.is_elsewhere.load(Ordering::Relaxed) {
        return;
    }
    // Before the end nothing new is begun.
    let Ok(place) = Arc::clone(&desk.shared.places).try_acquire_owned() else { return };
    work.is_elsewhere.store(true, Ordering::Relaxed);
    tokio::spawn(attended(Arc::clone(desk), Arc::clone(work), (taken.round, said), place));
}

/// In a box: it may end with something that is to be looked for.
fn attended(
    desk: Arc<Desk>,
    work: Arc<Work>,
    (round, said): (u32, Vec<u8>),
    place: OwnedSemaphorePermit,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        attend(&desk, &work, round, &said).await;
        work.is_elsewhere.store(false, Ordering::Relaxed);
        drop(place);
    })
}

/// Attends to something for a client who came back elsewhere.
pub(super) async fn attend(desk: &Arc<Desk>, work: &Arc<Work>, round: u32, said: &[u8]) {
    // Whoever has it in hand will not have it for long: a round is taken up once.
    let mut inside = work.inside.lock().await;
    if inside.round != round || !inside.is_under_way() {
        return;
    }
    desk.unaside(work);
    let Said { answers, progress, level, is_withdrawn } = match work.shelf.said(work.name, round, said) {
        Ok(said) => slips::read(&said).unwrap_or_else(|_| Said::nothing()),
        // Whatever it is, no client said it.
        Err(_) => Said::nothing(),
    };
    if let Some(answers) = answers
        && let Err(error) = inside.answer(&answers)
    {
        // Its client's gateway would have said so, had it known of all that is kept.
        tracing::debug!(%error, "what a client at another gateway answered in parts is not kept");
    }
    if let Some(task) = work.action().filter(|_| is_withdrawn && work.is_question()) {
        // Its client was told of one question, and means all of them.
        desk.withdraw(task, work.name.bound);
        inside.decline();
    }
    let (mail, letters) = Mail::with_the_answer();
    let carrying = tokio::spawn(carry(Arc::clone(work), round, letters));
    let waits = Waits { id: None, mail: Arc::new(mail), progress, level };
    let over = see_to(work, &mut inside, waits, &CancellationToken::new()).await;
    let _ = carrying.await;
    match over {
        // Nobody waits for it any more, and it may be large.
        Some(_) if work.is_given_up() => desk.forget(work).await,
        Some(answered) => conclude(desk, work, &Came::of(answered)).await,
        None => desk.put_aside(work, &mut inside).await,
    }
}

/// Lays down what a client is told in the midst, in order and not without end.
async fn carry(work: Arc<Work>, round: u32, mut letters: mpsc::Receiver<Letter>) {
    let (mut batch, mut room) = (Vec::new(), MOST_TOLD);
    while letters.recv_many(&mut batch, MOST_AT_ONCE).await > 0 {
        let (mut words, mut heard) = (Vec::new(), Vec::new());
        for letter in batch.drain(..) {
            match letter {
                Letter::Tell(told, _) => {
                    let word = slips::write(&told);
                    if let Some(left) = room.checked_sub(word.len().max(LEAST_WORD)) {
                        room = left;
                        words.push(word);
                    }
                }
                Letter::Sent(sent) => heard.push(sent),
            }
        }
        if !words.is_empty()
            && let Err(error) = work.shelf.tell(work.name, round, &words).await
        {
            tracing::debug!(%error, "a client at another gateway is not told what it might have been");
        }
        for sent in heard {
            let _ = sent.send(());
        }
    }
}

/// Lays down what came of it. Until then it is not over: whoever comes back for it here finds it in hand.
async fn conclude(desk: &Desk, work: &Work, came: &Came) {
    let came = slips::write(came);
    while let Err(error) = work.shelf.conclude(work.name, &came, work.input + GRACE).await {
        tracing::warn!(%error, "what came of a request could not be laid down for its client's gateway yet");
        sleep(PAUSE).await;
    }
    desk.let_go(work);
}

/// Takes away what is over and was told here. As long as it lies there others take it for being answered.
pub(super) async fn discard(work: Arc<Work>) {
    take_away(&work).await;
    if work.is_doubtful.load(Ordering::Relaxed) {
        tokio::spawn(async move {
            sleep(LATE).await;
            take_away(&work).await;
        });
    }
}

async fn take_away(work: &Work) {
    while let Err(error) = work.shelf.discard(work.name).await {
        tracing::warn!(%error, "what is over could not be taken away from where other gateways look yet");
        sleep(PAUSE).await;
    }
}

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// After a failure of the store.
const PAUSE: Duration = Duration::from_secs(1);
/// What the store was asked for and did not answer it may do later, but not later than this.
const LATE: Duration = Duration::from_secs(30);
/// So many are attended to at once for clients elsewhere; others wait for a place.
const MOST_ATTENDED: u32 = 4096;
/// Bytes that a client is told between two questions, and what a word counts for at least.
const MOST_TOLD: usize = 1024 * 1024;
const LEAST_WORD: usize = 4 * 1024;
const MOST_AT_ONCE: usize = 64;
