//! What was begun for clients without a session, and waits for their answers.
//!
//! ```text
//!   request ─▶ begin ─▶ attend ─┬─ it is over ────────────────────▶ its result
//!                         ▲     └─ a server asks: it is put aside ─▶ input_required, and the state that leads here
//!                         └── resume ◀── the same request, with the answers and the state
//! ```
//!
//! A state is sealed under a key of the tenant's, bound to who asked for what: in other hands, for another request, or beyond its
//! time it leads nowhere. The same call without the state is asked the same again; with one whose answer
//! was lost it is told what came of it. What is put aside and not come back for is given up, unless it is a call: that goes on, and
//! the same call joins it. If it had come to nothing by then, that is left behind, and the same call is a new one.
//!
//! Where several gateways share a store, a client may come back to another one: what is put aside lies on the shelf of them all,
//! is gone on with here (`clerk`), and waited for where the client is (`elsewhere`).
//!
//! What a call asks that was answered with a task is put aside by itself (`questions`).

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use action::ActionId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway::upstream::{Seat, Tie};
use gateway::{AsideId, AsideName, Delivery, Grip, Shelf};
use rmcp::model::{
    ClientCapabilities, ErrorData, InputRequests, InputRequiredResult, InputResponses, LoggingLevel,
    ProgressToken, RequestId, RequestStateCodec, SealOptions, ServerNotification, ServerResult,
};
use serde_json::Value;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::clerk::{self, Shared};
use super::inquiry::Inquiry;
use super::mail::Mail;
use super::party::must_be_able;
use super::questions::{self, Tasks};
use super::{elsewhere, lock, slips};

#[derive(Default)]
pub(super) struct Desk {
    works: Mutex<HashMap<AsideId, Arc<Work>>>,
    /// Of those the ones put aside.
    aside: Mutex<HashMap<AsideId, Arc<Work>>>,
    /// And the ones that others may take up.
    pub(super) shared: Shared,
    /// Calls that were answered with a task.
    pub(super) tasks: Tasks,
}

/// Digest of who asks for what.
pub(super) type Bound = [u8; 32];

/// What a request comes to.
pub(super) struct Answered {
    pub(super) result: ServerResult,
    /// What is delivered with it.
    pub(super) owed: Option<Delivery>,
    /// Whether it is of an action that had no effect.
    pub(super) came_to_nothing: bool,
    /// Whether it is of an action that is on its way to its server, or there.
    pub(super) is_under_way: bool,
    /// Where it waits for its client at another gateway. The result is for whoever cannot go on with it.
    pub(super) waits_at: Option<(AsideId, ActionId)>,
}

impl Answered {
    /// A result with which nothing is delivered.
    pub(super) fn of(result: ServerResult) -> Answered {
        Answered { result, owed: None, came_to_nothing: false, is_under_way: false, waits_at: None }
    }
}

/// Tells again what came of an action whose client came back too late to be told the first time, and whether that delivers it.
pub(super) type Recall =
    Box<dyn FnOnce(ActionId, bool) -> BoxFuture<'static, Result<Answered, ErrorData>> + Send + Sync>;

/// A request that may end with a question, as it came this time.
pub(super) struct Errand {
    pub(super) bound: Bound,
    /// Where what waits for its client lies.
    pub(super) shelf: Shelf,
    /// Who asks; what one may have put aside has a bound.
    pub(super) owner: Arc<str>,
    pub(super) responses: Option<InputResponses>,
    pub(super) state: Option<String>,
    /// Of a call, which goes on without its client: to be told when that was asked something.
    pub(super) seat: Option<Arc<OnceLock<Arc<Seat>>>>,
    /// Of a call: what came of it, once it is over.
    pub(super) recall: Option<Recall>,
    /// Whether the same request again is this one, where its client did not hear what it was asked.
    pub(super) is_joined: bool,
    /// What its client can be asked.
    pub(super) able: ClientCapabilities,
    pub(super) input: Duration,
}

/// Where a request leads.
enum Found {
    /// To what is under way.
    Work(Arc<Work>, OwnedMutexGuard<Inside>),
    /// To what may be under way at another gateway.
    Elsewhere(State),
    /// To what came of an action.
    Over(ActionId),
    /// It is a new one.
    Nothing,
}

/// Something under way, and the right to attend to it.
type InHand = (Arc<Work>, OwnedMutexGuard<Inside>);

pub(super) struct Work {
    pub(super) name: AsideName,
    pub(super) shelf: Shelf,
    owner: Arc<str>,
    /// So many questions of its own wait for their answers.
    questions: AtomicUsize,
    seat: Option<Arc<OnceLock<Arc<Seat>>>>,
    /// Of a question of a task: the action that is this task.
    task: Option<ActionId>,
    pub(super) cancelled: CancellationToken,
    asking: mpsc::Sender<Asking>,
    /// The request that waits just now, if one does.
    waits: Mutex<Option<Waits>>,
    pub(super) inside: Arc<tokio::sync::Mutex<Inside>>,
    /// How long its client may take.
    pub(super) input: Duration,
    /// Whether it is attended to for a client at another gateway.
    pub(super) is_elsewhere: AtomicBool,
    /// Whether it is known to lie where others look as it stands.
    pub(super) is_laid: AtomicBool,
    /// Whether something of it may come to lie there late, since the store once did not say.
    pub(super) is_doubtful: AtomicBool,
}

pub(super) struct Waits {
    /// By which its client may give it up here.
    pub(super) id: Option<RequestId>,
    pub(super) mail: Arc<Mail>,
    pub(super) progress: Option<ProgressToken>,
    pub(super) level: Option<LoggingLevel>,
}

/// Held by whoever attends to it.
pub(super) struct Inside {
    asking: mpsc::Receiver<Asking>,
    asked: Option<Asking>,
    doing: Option<Doing>,
    pub(super) round: u32,
    /// Gives it up when nobody comes back for it in time: one for all rounds, and none once it is over.
    timer: JoinSet<()>,
}

/// What is done for a request.
enum Doing {
    /// By whoever attends to it.
    Here(BoxFuture<'static, Result<Answered, ErrorData>>),
    /// By itself, since it was put aside.
    Aside(oneshot::Receiver<Result<Answered, ErrorData>>),
}

struct Asking {
    requests: InputRequests,
    /// What was answered of it so far. Without a task all of it is answered at once.
    given: InputResponses,
    comes_in_parts: bool,
    answer: oneshot::Sender<InputResponses>,
}

impl Desk {
    /// Takes a request as far as it comes without its client: to its end, or to a question.
    pub(super) async fn attend(
        self: &Arc<Desk>,
        inquiry: &Inquiry,
        mut errand: Errand,
        begin: impl FnOnce(Tie) -> BoxFuture<'static, Result<Answered, ErrorData>> + Send,
    ) -> Result<Answered, ErrorData> {
        let (work, mut inside) = match self.find(&errand).await? {
            Found::Work(work, inside) => (work, inside),
            Found::Nothing => self.begin(inquiry, &errand, begin)?,
            Found::Over(action) => return over(&mut errand, Some(action)).await,
            Found::Elsewhere(State { id, round, action }) => {
                let name = AsideName { id, bound: errand.bound };
                return match elsewhere::go_on(inquiry, &errand, name, Some(round)).await? {
                    Some(answered) => Ok(answered),
                    // Its answer was lost on the way, it was given up meanwhile, or whoever had it is gone.
                    None => over(&mut errand, action).await,
                };
            }
        };
        let waits = Waits {
            id: Some(inquiry.id.clone()),
            mail: Arc::clone(&inquiry.mail),
            progress: inquiry.meta.get_progress_token(),
            level: inquiry.meta.log_level(),
        };
        let Some(answered) = see_to(&work, &mut inside, waits, &inquiry.gone).await else {
            self.put_aside(&work, &mut inside).await;
            let state = State { id: work.name.id, round: inside.round, action: work.action() };
            return Ok(asking(&errand, &state, inside.requests()));
        };
        self.forget(&work).await;
        let answered = answered?;
        // That it is under way was said while its client was away, whose answer it waited for: it has not had the outcome before.
        if answered.is_under_way && inside.round > 0 {
            return recalled(&mut errand, work.action(), true).await;
        }
        let Some((id, action)) = answered.waits_at else { return Ok(answered) };
        let name = AsideName { id, bound: errand.bound };
        match elsewhere::go_on(inquiry, &errand, name, None).await? {
            Some(answered) => Ok(answered),
            None => over(&mut errand, Some(action)).await,
        }
    }

    async fn find(&self, errand: &Errand) -> Result<Found, ErrorData> {
        let Some(state) = &errand.state else { return self.asked_before(errand).await };
        let state = State::open(state, errand).ok_or_else(stale)?;
        let work = lock(&self.works).get(&state.id).cloned();
        let Some(work) = work else {
            return match state.action {
                _ if errand.shelf.is_shared() => Ok(Found::Elsewhere(state)),
                // Its answer was lost on the way, or it was given up meanwhile.
                action => action.map(Found::Over).ok_or_else(stale),
            };
        };
        let Some(mut inside) = self.take_in_hand(&work, None).await? else {
            return state.action.or(work.action()).map(Found::Over).ok_or_else(stale);
        };
        // Who repeats an earlier round is asked the same as last time.
        if state.round == inside.round {
            inside.answer(errand.responses.as_ref().unwrap_or(&InputResponses::new()))?;
        }
        Ok(Found::Work(work, inside))
    }

    /// The same call of the same caller, which was asked something and did not hear it: it is asked again.
    async fn asked_before(&self, errand: &Errand) -> Result<Found, ErrorData> {
        let alike = |work: &&Arc<Work>| errand.is_joined && work.name.bound == errand.bound;
        let work = lock(&self.aside).values().find(alike).cloned();
        let Some(work) = work else { return Ok(Found::Nothing) };
        // Whatever it waits for, this client may not be able to answer it.
        let taken = self.take_in_hand(&work, Some(&errand.able)).await?;
        // Only whoever has the state was asked: what comes without it answers somebody else's question.
        Ok(taken.map_or(Found::Nothing, |inside| Found::Work(work, inside)))
    }

    /// Takes in hand what was put aside, unless somebody has, here or at another gateway. Nothing, where others took this gateway
    /// for gone, and told of it as of what nobody goes on with.
    pub(super) async fn take_in_hand(
        &self,
        work: &Arc<Work>,
        able: Option<&ClientCapabilities>,
    ) -> Result<Option<OwnedMutexGuard<Inside>>, ErrorData> {
        let mut inside = Arc::clone(&work.inside).try_lock_owned().map_err(|_| busy())?;
        if let Some(able) = able {
            inside.requests().values().try_for_each(|request| must_be_able(able, request))?;
        }
        if work.shelf.is_shared() {
            match work.shelf.keep(work.name, inside.round).await {
                Ok(Grip::Taken) => {}
                Ok(Grip::Late) => return Err(busy()),
                // What never came to lie there nobody else has.
                Ok(Grip::Early | Grip::Gone) if !work.is_laid.load(Ordering::Relaxed) => {}
                Ok(Grip::Early | Grip::Gone) => {
                    self.lose(work, &mut inside);
                    return Ok(None);
                }
                Err(error) => {
                    // It may be kept from others now, and nobody has it in hand.
                    work.is_laid.store(false, Ordering::Relaxed);
                    return Err(away(&error));
                }
            }
        }
        self.unaside(work);
        Ok(Some(inside))
    }

    /// Others took it for orphaned: it is not gone on with here either. What a call was asked is declined.
    fn lose(&self, work: &Work, inside: &mut Inside) {
        if work.seat.is_none() {
            work.cancelled.cancel();
        }
        (inside.asked, inside.doing) = (None, None);
        self.let_go(work);
    }

    /// It is attended to.
    pub(super) fn unaside(&self, work: &Work) {
        lock(&self.aside).remove(&work.name.id);
    }

    fn begin(
        self: &Arc<Desk>,
        inquiry: &Inquiry,
        errand: &Errand,
        begin: impl FnOnce(Tie) -> BoxFuture<'static, Result<Answered, ErrorData>>,
    ) -> Result<InHand, ErrorData> {
        let id = Uuid::now_v7();
        let name = AsideName { id: id.into_bytes(), bound: errand.bound };
        let work = Work::new(name, errand.shelf.clone(), Arc::clone(&errand.owner), errand.input);
        let work = Arc::new(Work { seat: errand.seat.clone(), ..work });
        let mut inside = Arc::clone(&work.inside).try_lock_owned().map_err(|_| busy())?;
        lock(&self.works).insert(work.name.id, Arc::clone(&work));
        let id = RequestId::String(id.to_string().into());
        let progress = inquiry.meta.get_progress_token().unwrap_or(ProgressToken(id.clone()));
        // The id is ours: those of clients without a session are each their own, and several may be the same.
        let tie = Tie::new(Some(id), Some(progress), work.cancelled.clone());
        inside.doing = Some(Doing::Here(begin(tie)));
        Ok((work, inside))
    }

    /// Puts it aside until its client comes back for it, here or elsewhere.
    pub(super) async fn put_aside(self: &Arc<Desk>, work: &Arc<Work>, inside: &mut Inside) {
        inside.round += 1;
        inside.doing = inside.doing.take().map(Doing::aside);
        // In the place of the one of the last round, which is thereby over.
        inside.timer = JoinSet::new();
        drop(inside.timer.spawn(give_up_later(
            (Arc::clone(self), Arc::downgrade(work)),
            inside.round,
            work.input + GRACE,
        )));
        // Before its client hears of it, who may come back to any gateway at once.
        if work.shelf.is_shared() {
            clerk::lay_down(self, work, inside).await;
        }
        lock(&self.aside).insert(work.name.id, Arc::clone(work));
    }

    /// It is over. Before its client hears of it: whoever comes back for it afterwards, wherever, is told that it is.
    pub(super) async fn forget(&self, work: &Arc<Work>) {
        if self.let_go(work) {
            let discarding = tokio::spawn(clerk::discard(Arc::clone(work)));
            let _ = tokio::time::timeout(BRIEF, discarding).await;
        }
    }

    /// Ends once nothing is attended to any more for clients at other gateways, and nothing will be.
    pub(super) async fn finish(&self) {
        self.shared.finish().await;
    }

    /// It is over; says whether something of it lies where others look.
    pub(super) fn let_go(&self, work: &Work) -> bool {
        lock(&self.works).remove(&work.name.id);
        self.unaside(work);
        self.shared.remove(work)
    }

    /// Asks whoever made the request; nothing if nobody answers.
    pub(super) async fn ask(
        self: &Arc<Desk>,
        of: Option<&RequestId>,
        requests: InputRequests,
        input: Duration,
    ) -> Option<InputResponses> {
        if let Some(work) = self.work_of(of) {
            let _question = self.take_place(&work)?;
            let (answer, answered) = oneshot::channel();
            work.asking.try_send(Asking::at_once(requests.clone(), answer)).ok()?;
            if let Ok(answers) = tokio::time::timeout(input, answered).await.ok()? {
                return Some(answers);
            }
        }
        // Its client has been answered: if with a task, it is asked there.
        questions::ask(self, of?, requests, input).await
    }

    /// Puts a question of a task aside, until the sender is dropped.
    pub(super) async fn put_question(
        self: &Arc<Desk>,
        work: &Arc<Work>,
        requests: InputRequests,
        answer: oneshot::Sender<InputResponses>,
    ) -> oneshot::Sender<Result<Answered, ErrorData>> {
        let (end, over) = oneshot::channel();
        let mut inside = work.inside.lock().await;
        inside.asked = Some(Asking { comes_in_parts: true, ..Asking::at_once(requests, answer) });
        inside.doing = Some(Doing::Aside(over));
        lock(&self.works).insert(work.name.id, Arc::clone(work));
        self.put_aside(work, &mut inside).await;
        end
    }

    /// What is under way by this name.
    pub(super) fn named(&self, name: AsideName) -> Option<Arc<Work>> {
        lock(&self.works).get(&name.id).filter(|work| work.name == name).cloned()
    }

    /// What waits for whoever asks for just this.
    pub(super) fn waiting(&self, bound: Bound) -> Vec<Arc<Work>> {
        lock(&self.aside).values().filter(|work| work.name.bound == bound).cloned().collect()
    }

    /// A task is called off: nothing more is asked of it, and what it asks ends as if nobody answered, also what somebody answers
    /// just now. Says whether it asked anything here.
    pub(super) fn withdraw(&self, task: ActionId, bound: Bound) -> bool {
        self.tasks.forget(task);
        let works = lock(&self.works);
        let asked: Vec<_> = works.values().filter(|work| work.name.bound == bound).collect();
        asked.iter().for_each(|work| work.cancelled.cancel());
        !asked.is_empty()
    }

    /// Tells whoever made the request what may be said in its midst.
    pub(super) fn tell(&self, of: Option<&RequestId>, mut notification: ServerNotification) {
        let Some(work) = self.work_of(of) else { return };
        let waits = lock(&work.waits);
        let Some(Waits { mail, progress, level, .. }) = &*waits else { return };
        match (&mut notification, progress, level) {
            (ServerNotification::ProgressNotification(told), Some(token), _) => {
                told.params.progress_token = token.clone();
            }
            (ServerNotification::LoggingMessageNotification(told), _, Some(level))
                if severity(told.params.level) >= severity(*level) => {}
            (ServerNotification::CustomNotification(_), ..) => {}
            _ => return,
        }
        mail.tell(notification);
    }

    /// A request is given up by whoever made it: others may have one of the same id.
    pub(super) fn give_up(&self, owner: &str, id: &RequestId) {
        for work in lock(&self.works).values().filter(|work| *work.owner == *owner) {
            if lock(&work.waits).as_ref().is_some_and(|waits| waits.id.as_ref() == Some(id)) {
                work.cancelled.cancel();
            }
        }
    }

    fn work_of(&self, of: Option<&RequestId>) -> Option<Arc<Work>> {
        lock(&self.works).get(&aside_id(of?)?).cloned()
    }

    /// Room for one more that is put aside, if there is any. Whatever has a question will be: of many at once no more are let
    /// ask than have room. A tenant has half of what others leave in each environment, so that none takes all of it.
    pub(super) fn take_place(&self, work: &Arc<Work>) -> Option<Question> {
        let (works, aside) = (lock(&self.works), lock(&self.aside));
        let takes_place = |other: &&Arc<Work>| {
            other.name != work.name
                && (other.questions.load(Ordering::Relaxed) > 0 || aside.contains_key(&other.name.id))
        };
        let whose = |of: &Work| (of.shelf.environment(), of.shelf.tenant().clone());
        let (tenant, mut all, mut own, mut of_tenant) = (whose(work), 0, 0, 0);
        for other in works.values().filter(takes_place) {
            all += 1;
            own += usize::from(other.owner == work.owner);
            of_tenant += usize::from(whose(other) == tenant);
        }
        if all + of_tenant >= MOST_ASIDE || own >= MOST_ASIDE_EACH {
            return None;
        }
        work.questions.fetch_add(1, Ordering::Relaxed);
        Some(Question(Arc::clone(work)))
    }
}

/// A question that waits for its answer.
pub(super) struct Question(Arc<Work>);

impl Drop for Question {
    fn drop(&mut self) {
        self.0.questions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nobody came back in time for what was put aside in this round.
async fn give_up_later((desk, work): (Arc<Desk>, Weak<Work>), round: u32, patience: Duration) {
    tokio::time::sleep(patience).await;
    let Some(work) = work.upgrade() else { return };
    // Whoever has it in hand may bring it to its end, or put it aside anew.
    let mut inside = work.inside.lock().await;
    if inside.round != round || inside.doing.is_none() {
        return;
    }
    // What no client waits for is given up. A call goes on: what it was asked is declined by now, and to stop it makes doubt.
    if work.seat.is_none() {
        work.cancelled.cancel();
    }
    desk.forget(&work).await;
    // What came to nothing has been left behind. Anything else the same call joins, and is told of.
    if inside.came_to_nothing() {
        work.abandon();
    }
    // Whoever is about to attend to it finds it over.
    inside.doing = None;
}

/// Takes it as far as it comes without the client who waits: what came of it; nothing if a server asks.
pub(super) async fn see_to(
    work: &Work,
    inside: &mut Inside,
    waits: Waits,
    gone: &CancellationToken,
) -> Option<Result<Answered, ErrorData>> {
    let mail = Arc::clone(&waits.mail);
    *lock(&work.waits) = Some(waits);
    let over = until_asked(work, inside, gone).await;
    *lock(&work.waits) = None;
    mail.sent().await;
    over
}

async fn until_asked(
    work: &Work,
    inside: &mut Inside,
    gone: &CancellationToken,
) -> Option<Result<Answered, ErrorData>> {
    loop {
        if inside.asked.as_ref().is_some_and(|asked| !asked.answer.is_closed()) {
            return None;
        }
        inside.asked = None;
        let Some(doing) = inside.doing.as_mut() else { return Some(Err(stale())) };
        tokio::select! {
            biased;
            answered = doing.over() => {
                inside.doing = None;
                return Some(answered);
            }
            asked = inside.asking.recv() => inside.asked = asked,
            () = gone.cancelled(), if work.seat.is_none() && !work.cancelled.is_cancelled() => {
                work.cancelled.cancel();
            }
        }
    }
}

/// What came of it, as far as that is on record. Who comes back with a state may have had it before; who makes the call waits for
/// it.
async fn over(errand: &mut Errand, action: Option<ActionId>) -> Result<Answered, ErrorData> {
    let delivers = errand.state.is_none();
    recalled(errand, action, delivers).await
}

async fn recalled(
    errand: &mut Errand,
    action: Option<ActionId>,
    delivers: bool,
) -> Result<Answered, ErrorData> {
    match (errand.recall.take(), action) {
        (Some(recall), Some(action)) => recall(action, delivers).await,
        _ => Err(stale()),
    }
}

/// What a client is told that is to answer these, and come back with the state.
pub(super) fn asking(errand: &Errand, state: &State, requests: InputRequests) -> Answered {
    let requests = Some(requests).filter(|requests| !requests.is_empty());
    let result = InputRequiredResult::new(requests, Some(state.seal(errand)));
    Answered::of(ServerResult::InputRequiredResult(result))
}

/// What was begun as this request of ours.
pub(super) fn aside_id(of: &RequestId) -> Option<AsideId> {
    let RequestId::String(id) = of else { return None };
    Some(Uuid::parse_str(id).ok()?.into_bytes())
}

impl Work {
    fn new(name: AsideName, shelf: Shelf, owner: Arc<str>, input: Duration) -> Work {
        let (asking, asked) = mpsc::channel(MOST_QUESTIONS);
        let inside = Inside { asking: asked, asked: None, doing: None, round: 0, timer: JoinSet::new() };
        Work {
            name,
            shelf,
            owner,
            questions: AtomicUsize::new(0),
            seat: None,
            task: None,
            cancelled: CancellationToken::new(),
            asking,
            waits: Mutex::default(),
            inside: Arc::new(tokio::sync::Mutex::new(inside)),
            input,
            is_elsewhere: AtomicBool::new(false),
            is_laid: AtomicBool::new(false),
            is_doubtful: AtomicBool::new(false),
        }
    }

    /// A question of this task.
    pub(super) fn question(
        name: AsideName,
        (task, owner): (ActionId, Arc<str>),
        shelf: Shelf,
        input: Duration,
    ) -> Work {
        Work { task: Some(task), ..Work::new(name, shelf, owner, input) }
    }

    fn seat(&self) -> Option<&Arc<Seat>> {
        self.seat.as_ref()?.get()
    }

    /// The action that it is a call of, once it is one.
    pub(super) fn action(&self) -> Option<ActionId> {
        self.task.or_else(|| self.seat()?.action())
    }

    /// Whether nobody wants to know what comes of it.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_question() || self.seat.is_none() && self.cancelled.is_cancelled()
    }

    /// Whether it is a question of a task: what comes of that the task tells.
    pub(super) fn is_question(&self) -> bool {
        self.task.is_some()
    }

    fn abandon(&self) {
        if let Some(seat) = self.seat() {
            seat.abandon();
        }
    }
}

/// What a state says.
pub(super) struct State {
    pub(super) id: AsideId,
    pub(super) round: u32,
    /// Of a call.
    pub(super) action: Option<ActionId>,
}

impl State {
    fn seal(&self, errand: &Errand) -> String {
        let options = SealOptions::new().associated_data(&errand.bound).ttl(errand.input);
        codec(&errand.shelf).seal_with(self.to_string().as_bytes(), &options)
    }

    /// Nothing, if it is none of ours, of another request, or its time is over.
    fn open(state: &str, errand: &Errand) -> Option<State> {
        let payload = codec(&errand.shelf).open_with(state, &errand.bound).ok()?;
        State::parse(std::str::from_utf8(&payload).ok()?)
    }

    fn parse(text: &str) -> Option<State> {
        let mut parts = text.split(' ');
        let id = Uuid::parse_str(parts.next()?).ok()?.into_bytes();
        let round = parts.next()?.parse().ok()?;
        let action = parts.next().map(str::parse).transpose().ok()?;
        Some(State { id, round, action })
    }
}

/// The same at every gateway of the store.
fn codec(shelf: &Shelf) -> RequestStateCodec {
    RequestStateCodec::new_unchecked(shelf.state_key().to_vec())
}

impl std::fmt::Display for State {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}", Uuid::from_bytes(self.id), self.round)?;
        self.action.map_or(Ok(()), |action| write!(out, " {action}"))
    }
}

impl Doing {
    /// What comes of it, at last. Nothing is lost when this is dropped before.
    async fn over(&mut self) -> Result<Answered, ErrorData> {
        let broken = || ErrorData::internal_error("the request ended without a word", None);
        match self {
            Doing::Here(doing) => {
                let done = AssertUnwindSafe(doing).catch_unwind().await;
                done.unwrap_or_else(|_| Err(broken()))
            }
            Doing::Aside(over) => over.await.unwrap_or_else(|_| Err(broken())),
        }
    }

    /// Goes on though nobody attends to it.
    fn aside(self) -> Doing {
        let Doing::Here(doing) = self else { return self };
        let (over, hears) = oneshot::channel();
        tokio::spawn(async move { drop(over.send(doing.await)) });
        Doing::Aside(hears)
    }
}

impl Inside {
    /// Whether it is over, and had no effect.
    fn came_to_nothing(&mut self) -> bool {
        let Some(Doing::Aside(over)) = &mut self.doing else { return false };
        matches!(over.try_recv(), Ok(Ok(Answered { came_to_nothing: true, owed: Some(_), .. })))
    }

    /// Whether something may come of it yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.doing.is_some()
    }

    /// What is asked.
    pub(super) fn requests(&self) -> InputRequests {
        let Some(asked) = &self.asked else { return InputRequests::new() };
        let open = asked.requests.iter().filter(|(key, _)| !asked.given.contains_key(*key));
        open.map(|(key, request)| (key.clone(), request.clone())).collect()
    }

    /// Whether anything is asked.
    pub(super) fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// Leaves what is asked without an answer, and whatever it is of is over.
    pub(super) fn decline(&mut self) {
        (self.asked, self.doing) = (None, None);
    }

    /// How much is kept of what was answered so far, in bytes.
    pub(super) fn kept(&self) -> usize {
        self.asked.as_ref().map_or(0, |asked| size(asked.given.iter()))
    }

    /// Answers what is asked, if every question has an answer.
    ///
    /// # Errors
    /// It is a part that there is no room for.
    pub(super) fn answer(&mut self, responses: &InputResponses) -> Result<(), ErrorData> {
        if self.asked.as_ref().is_some_and(|asked| asked.comes_in_parts) {
            must_have_room(&self.requests(), responses, self.kept())?;
        }
        let Some(mut asked) = self.asked.take() else { return Ok(()) };
        if asked.comes_in_parts {
            asked.gather(responses);
        }
        let given = if asked.comes_in_parts { &asked.given } else { responses };
        match answers(&asked.requests, given) {
            Some(answers) => drop(asked.answer.send(answers)),
            None => self.asked = Some(asked),
        }
        Ok(())
    }
}

impl Asking {
    fn at_once(requests: InputRequests, answer: oneshot::Sender<InputResponses>) -> Asking {
        Asking { requests, given: InputResponses::new(), comes_in_parts: false, answer }
    }

    /// Takes what is answered of it. What was answered before stays.
    fn gather(&mut self, responses: &InputResponses) {
        let asked = responses.iter().filter(|(key, _)| self.requests.contains_key(*key));
        for (key, response) in asked {
            self.given.entry(key.clone()).or_insert_with(|| response.clone());
        }
    }
}

/// Of what is answered in parts each is kept until the last one comes, as far as there is room beside what is kept already.
///
/// # Errors
/// It is too much: whoever answers has to answer all that is open at once.
pub(super) fn must_have_room(
    open: &InputRequests,
    responses: &InputResponses,
    kept: usize,
) -> Result<(), ErrorData> {
    let part = responses.iter().filter(|(key, _)| open.contains_key(*key));
    if part.clone().count() == open.len() || kept.saturating_add(size(part)) <= MOST_IN_PARTS {
        return Ok(());
    }
    let advice = format!(
        "of what is answered in parts at most {MOST_IN_PARTS} bytes are kept: answer all that is open of it at once"
    );
    Err(ErrorData::invalid_params(advice, None))
}

/// Bytes of these answers.
fn size<'a>(answers: impl Iterator<Item = (&'a String, &'a Value)>) -> usize {
    answers.map(|(key, answer)| key.len() + slips::write(answer).len()).sum()
}

/// Those responses that were asked for, if all are there.
fn answers(requests: &InputRequests, responses: &InputResponses) -> Option<InputResponses> {
    let one = |key: &String| Some((key.clone(), responses.get(key)?.clone()));
    requests.keys().map(one).collect()
}

/// How severe, by RFC 5424; the most severe is the highest.
pub(super) fn severity(level: LoggingLevel) -> u8 {
    match level {
        LoggingLevel::Debug => 0,
        LoggingLevel::Info => 1,
        LoggingLevel::Notice => 2,
        LoggingLevel::Warning => 3,
        LoggingLevel::Error => 4,
        LoggingLevel::Critical => 5,
        LoggingLevel::Alert => 6,
        LoggingLevel::Emergency => 7,
    }
}

pub(super) fn stale() -> ErrorData {
    ErrorData::invalid_params(
        "this requestState is none of ours, or its time is over: make the request again without it",
        None,
    )
}

pub(super) fn busy() -> ErrorData {
    let advice =
        "the request that this continues is being answered already: wait, then make the same request again";
    ErrorData::invalid_request(advice, None)
}

/// What waits could not be looked for.
pub(super) fn away(error: &gateway::Error) -> ErrorData {
    tracing::warn!(%error, "what waits for a client could not be looked for");
    let advice = "the gateway cannot look for what this continues: make the same request again in a moment";
    ErrorData::internal_error(advice, None)
}

/// Bytes of answers to one question of a task that are kept until the rest of them comes.
const MOST_IN_PARTS: usize = 256 * 1024;
/// So many questions of one request may wait.
const MOST_QUESTIONS: usize = 16;
const MOST_ASIDE: usize = 1024;
const MOST_ASIDE_EACH: usize = 64;
/// How much longer than its state what is put aside is kept: a client may come at the last moment.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// A client that has its answer, or its question, waits no longer for a store that does not answer.
pub(super) const BRIEF: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use action::Tenant;
    use gateway::{Caller, Gateway};
    use rmcp::model::{
        ElicitRequest, ElicitRequestParams, ElicitationCapability, Implementation, InputRequest,
        RequestMetaObject,
    };

    use gateway::upstream::Seats;
    use gateway::{Config, Installation};

    use super::super::party::Stateless;
    use super::super::visit::Visit;
    use super::*;

    /// A gateway that nothing is asked of.
    async fn installation(folder: &std::path::Path) -> Installation {
        let config = Config { data_dir: folder.join("data"), ..Config::default() };
        Installation::open(config, crate::render).await.unwrap()
    }

    fn shelf(installation: &Installation) -> Shelf {
        installation.sandbox.as_ref().unwrap().shelf(&Gateway::anonymous()).unwrap()
    }

    /// A request of this id, whose client hears nothing.
    fn inquiry(id: i64) -> Inquiry {
        Inquiry {
            id: RequestId::Number(id),
            meta: RequestMetaObject::new(),
            gone: CancellationToken::new(),
            visit: Visit {
                caller: Arc::new(Gateway::anonymous()),
                request_id: "1".into(),
                slot: Arc::default(),
                opened: None,
            },
            is_stateless: true,
            client: (Implementation::new("test", "1"), ClientCapabilities::default()),
            mail: Arc::new(Mail::with_the_answer().0),
        }
    }

    fn errand(shelf: &Shelf, owner: &str) -> Errand {
        let mut able = ClientCapabilities::default();
        able.elicitation = Some(ElicitationCapability::default());
        Errand {
            bound: [0; 32],
            shelf: shelf.clone(),
            owner: owner.into(),
            responses: None,
            state: None,
            seat: None,
            recall: None,
            is_joined: false,
            able,
            input: Duration::from_secs(60),
        }
    }

    fn question() -> InputRequests {
        let params =
            serde_json::json!({"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}});
        let params: ElicitRequestParams = serde_json::from_value(params).unwrap();
        [("who".to_owned(), InputRequest::Elicitation(ElicitRequest::new(params)))].into()
    }

    /// What asks and then ends.
    fn asks(desk: &Arc<Desk>) -> impl FnOnce(Tie) -> BoxFuture<'static, Result<Answered, ErrorData>> + use<> {
        let desk = Arc::clone(desk);
        move |tie| {
            Box::pin(async move {
                desk.ask(tie.id.as_ref(), question(), Duration::from_secs(60)).await;
                Ok(Answered::of(ServerResult::empty(())))
            })
        }
    }

    fn state_of(answered: Result<Answered, ErrorData>) -> String {
        match answered.unwrap().result {
            ServerResult::InputRequiredResult(asked) => asked.request_state.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_tenant_leaves_room_for_the_questions_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, config) =
            (Arc::<Desk>::default(), Config { data_dir: folder.path().join("data"), ..Config::default() });
        let config = Config { tenants: ["a", "b", "c"].map(str::to_owned).into(), ..config };
        let installation = Installation::open(config, crate::render).await.unwrap();
        let mut number = 0_u128;
        // As many questions as there is room for, each caller with one.
        let sandbox = installation.sandbox.as_ref().unwrap();
        let mut all_of = |gateway: &Arc<Gateway>, tenant: &str| {
            let caller = Caller { tenant: Tenant::parse(tenant).unwrap(), ..Gateway::anonymous() };
            let shelf = gateway.shelf(&caller).unwrap();
            std::iter::from_fn(|| {
                number += 1;
                let name = AsideName { id: number.to_be_bytes(), bound: [0; 32] };
                let owner = format!("{number}").into();
                let work = Arc::new(Work::new(name, shelf.clone(), owner, Duration::from_secs(60)));
                lock(&desk.works).insert(name.id, Arc::clone(&work));
                desk.take_place(&work)
            })
            .collect::<Vec<Question>>()
        };
        let [a, b, c] = ["a", "b", "c"].map(|tenant| all_of(sandbox, tenant));
        assert_eq!([a.len(), b.len(), c.len()], [MOST_ASIDE / 2, MOST_ASIDE / 4, MOST_ASIDE / 8]);
        // What a tenant tries out counts for nothing where it acts.
        assert_eq!(all_of(&installation.production, "a").len(), MOST_ASIDE / 16);
        drop(a);
        assert!(!all_of(sandbox, "c").is_empty(), "there is room again");
    }

    #[tokio::test]
    async fn nobody_gives_up_what_another_asked_by_the_same_id() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, installation) = (Arc::<Desk>::default(), installation(folder.path()).await);
        let begin = |owner: &'static str| {
            let (tell, begun) = oneshot::channel();
            let (desk, shelf) = (Arc::clone(&desk), shelf(&installation));
            tokio::spawn(async move {
                let begin = |tie: Tie| -> BoxFuture<'static, _> {
                    drop(tell.send(tie.cancelled));
                    Box::pin(std::future::pending())
                };
                drop(desk.attend(&inquiry(1), errand(&shelf, owner), begin).await);
            });
            begun
        };
        let (ann, bob) = (begin("ann").await.unwrap(), begin("bob").await.unwrap());
        desk.give_up("ann", &RequestId::Number(1));
        assert!(ann.is_cancelled() && !bob.is_cancelled());
    }

    #[tokio::test]
    async fn however_often_a_question_is_repeated_one_timer_waits_for_its_answer_and_none_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, installation) = (Arc::<Desk>::default(), installation(folder.path()).await);
        let shelf = shelf(&installation);
        let metrics = tokio::runtime::Handle::current().metrics();
        let settled = async |most: usize| {
            // What was aborted is gone once its turn has come.
            for _ in 0..1000 {
                if metrics.num_alive_tasks() <= most {
                    return;
                }
                tokio::task::yield_now().await;
            }
            panic!("{} tasks are left", metrics.num_alive_tasks());
        };
        let mut state = state_of(desk.attend(&inquiry(1), errand(&shelf, "ann"), asks(&desk)).await);
        for round in 0..20 {
            let again = Errand { state: Some(state), ..errand(&shelf, "ann") };
            state = state_of(desk.attend(&inquiry(round + 2), again, asks(&desk)).await);
        }
        // It goes on by itself, and its timer.
        settled(2).await;
        let answers = InputResponses::from([("who".to_owned(), serde_json::json!({"action": "cancel"}))]);
        let last = Errand { state: Some(state), responses: Some(answers), ..errand(&shelf, "ann") };
        let over = desk.attend(&inquiry(99), last, asks(&desk)).await.unwrap();
        assert!(matches!(over.result, ServerResult::EmptyResult(_)));
        settled(0).await;
    }

    #[tokio::test]
    async fn what_a_task_asks_may_be_answered_one_by_one_and_the_first_answer_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, installation) = (Arc::<Desk>::default(), installation(folder.path()).await);
        let name = AsideName { id: [1; 16], bound: [0; 32] };
        let task = (ActionId::new(0, [2; 10]), Arc::from("ann"));
        let work = Arc::new(Work::question(name, task, shelf(&installation), Duration::from_secs(60)));
        let asked: InputRequests = ["a", "b"]
            .into_iter()
            .flat_map(|key| question().into_values().map(|it| (key.to_owned(), it)))
            .collect();
        let (answer, mut answered) = oneshot::channel();
        let _end = desk.put_question(&work, asked, answer).await;
        let mut inside = work.inside.lock().await;
        let of = |key: &str, name: &str| InputResponses::from([(key.to_owned(), serde_json::json!(name))]);
        inside.answer(&of("a", "ann")).unwrap();
        inside.answer(&of("a", "eve")).unwrap();
        inside.answer(&of("c", "eve")).unwrap();
        assert!(inside.requests().into_keys().eq(["b"]) && answered.try_recv().is_err());
        inside.answer(&of("b", "bob")).unwrap();
        assert!(!inside.is_asking());
        assert!(answered.try_recv().unwrap().into_values().eq(["ann", "bob"]));
    }

    #[tokio::test]
    async fn of_what_is_answered_in_parts_so_much_is_kept_and_the_last_part_may_be_long() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, installation) = (Arc::<Desk>::default(), installation(folder.path()).await);
        let name = AsideName { id: [1; 16], bound: [0; 32] };
        let task = (ActionId::new(0, [2; 10]), Arc::from("ann"));
        let work = Arc::new(Work::question(name, task, shelf(&installation), Duration::from_secs(60)));
        let asked = ["a", "b", "c"].map(|key| (key.to_owned(), question().into_values().next().unwrap()));
        let (answer, mut answered) = oneshot::channel();
        let _end = desk.put_question(&work, asked.into(), answer).await;
        let mut inside = work.inside.lock().await;
        // With its key and quotes it is just as long.
        let part = |key: &str, bytes: usize| {
            InputResponses::from([(key.to_owned(), serde_json::json!("x".repeat(bytes - 3)))])
        };
        let refused = inside.answer(&part("a", MOST_IN_PARTS + 1)).unwrap_err();
        assert!(refused.message.contains("262144 bytes"), "{refused}");
        assert_eq!((refused.code.0, inside.kept(), inside.requests().len()), (-32602, 0, 3));
        inside.answer(&part("a", MOST_IN_PARTS)).unwrap();
        assert_eq!(inside.kept(), MOST_IN_PARTS);
        // What nobody asks, or was answered before, takes no room.
        inside.answer(&part("a", MOST_IN_PARTS)).unwrap();
        inside.answer(&part("d", MOST_IN_PARTS)).unwrap();
        inside.answer(&part("b", 4)).unwrap_err();
        assert!(inside.requests().into_keys().eq(["b", "c"]) && answered.try_recv().is_err());
        let rest = [part("b", MOST_IN_PARTS), part("c", MOST_IN_PARTS)];
        inside.answer(&rest.into_iter().flatten().collect()).unwrap();
        assert_eq!(answered.try_recv().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn whoever_calls_a_task_off_ends_all_that_it_asks_also_what_is_being_answered() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, installation) = (Arc::<Desk>::default(), installation(folder.path()).await);
        let put = async |id: u8, bound| {
            let (name, task) = (AsideName { id: [id; 16], bound }, ActionId::new(0, [bound[0]; 10]));
            let task = (task, Arc::from("ann"));
            let work = Arc::new(Work::question(name, task, shelf(&installation), Duration::from_secs(60)));
            (desk.put_question(&work, question(), oneshot::channel().0).await, work)
        };
        let [(_a, put_aside), (_b, in_hand), (_c, of_another)] =
            [put(1, [1; 32]).await, put(2, [1; 32]).await, put(3, [2; 32]).await];
        let _inside = desk.take_in_hand(&in_hand, None).await.unwrap().unwrap();
        assert!(desk.withdraw(ActionId::new(0, [1; 10]), [1; 32]));
        let ended = [&put_aside, &in_hand, &of_another].map(|work| work.cancelled.is_cancelled());
        assert_eq!(ended, [true, true, false]);
    }

    #[tokio::test]
    async fn a_task_whose_call_is_made_again_and_again_takes_no_more_room() {
        let folder = tempfile::tempdir().unwrap();
        let (tasks, installation) = (Tasks::default(), installation(folder.path()).await);
        let task = |number| questions::Task {
            action: ActionId::new(0, [number; 10]),
            owner: "ann".into(),
            shelf: shelf(&installation),
        };
        for number in [1, 2] {
            for _ in 0..50 {
                let id = RequestId::String(Uuid::now_v7().to_string().into());
                tasks.keep(Some(&id), task(number), true, |_| true);
                assert!(tasks.knows(&id), "the newest is the one that is asked");
            }
        }
        assert_eq!(tasks.count(), 2 * questions::MOST_REPEATED);
        tasks.forget(task(1).action);
        assert_eq!(tasks.count(), questions::MOST_REPEATED);
    }

    #[tokio::test]
    async fn what_was_given_up_nobody_attends_to_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, installation) = (Arc::<Desk>::default(), installation(folder.path()).await);
        let shelf = shelf(&installation);
        let asks = {
            let (desk, shelf) = (Arc::clone(&desk), shelf.clone());
            move |tie: Tie| -> BoxFuture<'static, Result<Answered, ErrorData>> {
                Box::pin(async move {
                    desk.ask(tie.id.as_ref(), question(), Duration::from_millis(1)).await;
                    let owed = Some(shelf.delivery(([1; 32], 1)));
                    Ok(Answered { owed, came_to_nothing: true, ..Answered::of(ServerResult::empty(())) })
                })
            }
        };
        state_of(desk.attend(&inquiry(1), errand(&shelf, "ann"), asks).await);
        let work = lock(&desk.aside).values().next().cloned().unwrap();
        let has_ended = || match &mut work.inside.try_lock().unwrap().doing {
            Some(Doing::Aside(over)) => !over.is_empty(),
            _ => panic!("it is put aside"),
        };
        while !has_ended() {
            tokio::task::yield_now().await;
        }
        give_up_later((Arc::clone(&desk), Arc::downgrade(&work)), 1, Duration::ZERO).await;
        clerk::attend(&desk, &work, 1, b"").await;
        assert!(lock(&desk.works).is_empty() && lock(&desk.aside).is_empty());
    }

    /// Its client was away when that was said, and has not heard before what came of it.
    #[tokio::test]
    async fn what_came_of_a_call_that_was_under_way_is_delivered_to_whoever_answers_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, installation) = (Arc::<Desk>::default(), installation(folder.path()).await);
        let shelf = shelf(&installation);
        let client = (Implementation::new("test", "1"), ClientCapabilities::default());
        let party = Arc::new(Stateless::new(&desk, "ann", client, Duration::from_secs(60)));
        let seat = Seat::new(party, None, Tie::default());
        let id = ActionId::new(1_760_000_000_000, *b"0123456789");
        Arc::<Seats>::default().leave(shelf.tenant(), id, Arc::clone(&seat));
        let asks_and_says_so = {
            let desk = Arc::clone(&desk);
            move |tie: Tie| -> BoxFuture<'static, Result<Answered, ErrorData>> {
                Box::pin(async move {
                    desk.ask(tie.id.as_ref(), question(), Duration::from_secs(60)).await;
                    Ok(Answered { is_under_way: true, ..Answered::of(ServerResult::empty(())) })
                })
            }
        };
        let call = Errand { seat: Some(Arc::new(OnceLock::from(seat))), ..errand(&shelf, "ann") };
        let state = state_of(desk.attend(&inquiry(1), call, asks_and_says_so).await);
        let (tell, told) = oneshot::channel();
        let recall: Recall = Box::new(move |_, delivers| {
            let _ = tell.send(delivers);
            Box::pin(async { Ok(Answered::of(ServerResult::empty(()))) })
        });
        let answers = InputResponses::from([("who".to_owned(), serde_json::json!({"action": "cancel"}))]);
        let (state, responses, recall) = (Some(state), Some(answers), Some(recall));
        let last = Errand { state, responses, recall, ..errand(&shelf, "ann") };
        desk.attend(&inquiry(2), last, asks(&desk)).await.unwrap();
        assert!(told.await.unwrap(), "it is delivered");
    }

    #[tokio::test]
    async fn what_breaks_is_an_error_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, installation) = (Arc::<Desk>::default(), installation(folder.path()).await);
        let breaks = |_| -> BoxFuture<'static, _> { Box::pin(async { panic!("it breaks") }) };
        let broken = desk.attend(&inquiry(1), errand(&shelf(&installation), "ann"), breaks).await;
        assert!(broken.is_err_and(|error| error.message.contains("without a word")));
        assert!(lock(&desk.works).is_empty());
    }
}
