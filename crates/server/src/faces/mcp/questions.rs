//! What calls ask that were answered with a task: their client sees it by `tasks/get`, and answers it by `tasks/update`.
//!
//! Each question is put aside by itself for as long as its server waits for the answer, bound to the action and to whoever made the
//! call: nobody else is shown it, or answers it. Its key says which one it is, since no two of a task may have the same. Where
//! several gateways share a store it lies on their shelf like whatever else waits for its client.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use action::ActionId;
use action::json::{Item, canonical_array};
use gateway::{AsideId, AsideName, Grip, Shelf, Shelved};
use rmcp::model::{ErrorData, InputRequests, InputResponses, RequestId};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::desk::{self, Answered, Bound, Desk, Work, aside_id, away, busy, must_have_room};
use super::elsewhere::NO_ROUND;
use super::lock;
use super::slips::{self, Asked, Said};

/// Calls that were answered with a task, by what their servers' questions say they are of.
#[derive(Default)]
pub(super) struct Tasks(Mutex<HashMap<AsideId, Task>>);

/// A call that was answered with a task.
#[derive(Clone)]
pub(super) struct Task {
    pub(super) action: ActionId,
    /// Who made it.
    pub(super) owner: Arc<str>,
    pub(super) shelf: Shelf,
}

impl Tasks {
    /// Notes one, for as long as it `goes_on`. Where the same call was made by a client that was told of no task, the one that was
    /// is still asked. Of calls that were made again and again the newest count, which is where its server's questions come.
    pub(super) fn keep(
        &self,
        of: Option<&RequestId>,
        task: Task,
        is_told: bool,
        goes_on: impl Fn(ActionId) -> bool,
    ) {
        let Some(id) = of.and_then(aside_id) else { return };
        let mut tasks = lock(&self.0);
        tasks.retain(|_, task| goes_on(task.action));
        if is_told || tasks.values().any(|other| other.action == task.action) {
            let action = task.action;
            tasks.insert(id, task);
            let of_it = tasks.iter().filter(|(_, task)| task.action == action).map(|(id, _)| *id);
            let mut of_it: Vec<AsideId> = of_it.collect();
            // Ids begin with the time.
            of_it.sort_unstable();
            for id in of_it.iter().rev().skip(MOST_REPEATED) {
                tasks.remove(id);
            }
        }
    }

    /// From now on nothing is asked of it.
    pub(super) fn forget(&self, action: ActionId) {
        lock(&self.0).retain(|_, task| task.action != action);
    }

    fn of(&self, of: &RequestId) -> Option<Task> {
        lock(&self.0).get(&aside_id(of)?).cloned()
    }

    fn has(&self, action: ActionId) -> bool {
        lock(&self.0).values().any(|task| task.action == action)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        lock(&self.0).len()
    }

    #[cfg(test)]
    pub(super) fn knows(&self, of: &RequestId) -> bool {
        self.of(of).is_some()
    }
}

impl Task {
    /// Who may be asked what it asks.
    fn bound(&self) -> Bound {
        let action = self.action.to_string();
        let parts = ["countersign/mcp-task/1", &*self.owner, &action].map(Item::Text);
        Sha256::digest(canonical_array(&parts)).into()
    }

    /// What it asks, here or at another gateway.
    pub(super) async fn requests(&self, desk: &Desk) -> Result<InputRequests, ErrorData> {
        let bound = self.bound();
        let waiting = desk.waiting(bound).into_iter();
        let here = waiting.filter_map(|work| Some(work.inside.try_lock().ok()?.requests()));
        let here: InputRequests = here.flatten().collect();
        if !here.is_empty() || !self.shelf.is_shared() {
            return Ok(here);
        }
        match self.elsewhere(bound).await? {
            Some((_, Shelved { questions: Some(questions), .. })) => {
                Ok(slips::read::<Asked>(&questions)?.requests)
            }
            _ => Ok(InputRequests::new()),
        }
    }

    /// Answers what it asks; whatever else is answered is of no account. What cannot be answered keeps no other question from its
    /// answer: the first of what stood in the way is told in the end.
    pub(super) async fn answer(&self, desk: &Arc<Desk>, responses: InputResponses) -> Result<(), ErrorData> {
        let bound = self.bound();
        let mut all = Ok(());
        for (id, responses) in by_question(responses) {
            let answered = self.answer_one(desk, AsideName { id, bound }, responses).await;
            all = all.and(answered);
        }
        all
    }

    async fn answer_one(
        &self,
        desk: &Arc<Desk>,
        name: AsideName,
        responses: InputResponses,
    ) -> Result<(), ErrorData> {
        if let Some(work) = desk.named(name) {
            return answer_here(desk, &work, &responses).await;
        }
        if !self.shelf.is_shared() {
            return Ok(());
        }
        let Some(shelved) = self.shelved(name).await? else { return Ok(()) };
        if let Some(questions) = &shelved.questions {
            let asked = slips::read::<Asked>(questions)?;
            must_have_room(&asked.requests, &responses, asked.kept)?;
        }
        self.say(name, &shelved, &Said { answers: Some(responses), ..Said::nothing() }).await
    }

    /// Its client wants it no more: all that it asks is answered as if nobody did, and nothing more is asked.
    pub(super) async fn withdraw(&self, desk: &Desk) -> Result<(), ErrorData> {
        let bound = self.bound();
        if desk.withdraw(self.action, bound) || !self.shelf.is_shared() {
            return Ok(());
        }
        match self.elsewhere(bound).await? {
            Some((name, shelved)) => {
                self.say(name, &shelved, &Said { is_withdrawn: true, ..Said::nothing() }).await
            }
            None => Ok(()),
        }
    }

    async fn elsewhere(&self, bound: Bound) -> Result<Option<(AsideName, Shelved)>, ErrorData> {
        let open = self.shelf.open_of(self.action, bound).await.map_err(|error| away(&error))?;
        let Some(id) = open else { return Ok(None) };
        let name = AsideName { id, bound };
        Ok(self.shelved(name).await?.map(|shelved| (name, shelved)))
    }

    /// A question that another gateway has, and that nobody is answering.
    async fn shelved(&self, name: AsideName) -> Result<Option<Shelved>, ErrorData> {
        let shelved = self.shelf.shelved(name, NO_ROUND, 0).await.map_err(|error| away(&error))?;
        let Some(shelved) = shelved.filter(|it| !it.is_over && !it.is_own && !it.is_orphaned) else {
            return Ok(None);
        };
        if shelved.is_open { Ok(Some(shelved)) } else { Err(busy()) }
    }

    async fn say(&self, name: AsideName, shelved: &Shelved, said: &Said) -> Result<(), ErrorData> {
        let taken = self.shelf.take_up(name, shelved.round, &slips::write(said)).await;
        match taken.map_err(|error| away(&error))? {
            Grip::Taken | Grip::Gone => Ok(()),
            Grip::Early | Grip::Late => Err(busy()),
        }
    }
}

/// Asks whoever has the task that this request was answered with; nothing if it was not, or nobody answers.
pub(super) async fn ask(
    desk: &Arc<Desk>,
    of: &RequestId,
    requests: InputRequests,
    input: Duration,
) -> Option<InputResponses> {
    let task = desk.tasks.of(of)?;
    if requests.is_empty() {
        // Its server only wants to be asked again: there is nobody to be waited for.
        tokio::time::sleep(AGAIN).await;
        return Some(InputResponses::new());
    }
    let id = Uuid::now_v7();
    let name = AsideName { id: id.into_bytes(), bound: task.bound() };
    let work = Work::question(name, (task.action, Arc::clone(&task.owner)), task.shelf, input);
    let work = Arc::new(work);
    let place = desk.take_place(&work)?;
    let (answer, answered) = oneshot::channel();
    let mut question = Question { desk: Arc::clone(desk), work, _place: place, end: None };
    let named = requests.into_iter().map(|(key, request)| (format!("{id}{APART}{key}"), request));
    question.end = Some(desk.put_question(&question.work, named.collect(), answer).await);
    // Who has called the task off since it was looked for did not see this question.
    if !desk.tasks.has(task.action) {
        return None;
    }
    let answers = tokio::select! {
        answers = tokio::time::timeout(input, answered) => answers.ok()?.ok()?,
        () = question.work.cancelled.cancelled() => return None,
    };
    let own = |(key, answer): (String, _)| Some((key.split_once(APART)?.1.to_owned(), answer));
    Some(answers.into_iter().filter_map(own).collect())
}

/// A question while its server waits for the answer; taken away when dropped.
struct Question {
    desk: Arc<Desk>,
    work: Arc<Work>,
    _place: desk::Question,
    end: Option<oneshot::Sender<Result<Answered, ErrorData>>>,
}

impl Drop for Question {
    fn drop(&mut self) {
        // Whoever attends to it knows by this that it is over.
        drop(self.end.take());
        let (desk, work) = (Arc::clone(&self.desk), Arc::clone(&self.work));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let mut inside = work.inside.lock().await;
                desk.forget(&work).await;
                inside.decline();
            });
        }
    }
}

async fn answer_here(
    desk: &Arc<Desk>,
    work: &Arc<Work>,
    responses: &InputResponses,
) -> Result<(), ErrorData> {
    let Some(mut inside) = desk.take_in_hand(work, None).await? else { return Ok(()) };
    let answered = inside.answer(responses);
    if inside.is_asking() {
        desk.put_aside(work, &mut inside).await;
    }
    answered
}

/// By the question that they answer. What answers none is left out.
fn by_question(responses: InputResponses) -> BTreeMap<AsideId, InputResponses> {
    let mut all = BTreeMap::<AsideId, InputResponses>::new();
    for (key, response) in responses {
        let Some((id, _)) = key.split_once(APART) else { continue };
        let Ok(id) = Uuid::parse_str(id) else { continue };
        if all.len() < MOST_ANSWERED || all.contains_key(id.as_bytes()) {
            all.entry(id.into_bytes()).or_default().insert(key, response);
        }
    }
    all
}

/// Between what names a question and the key that its server has for a part of it.
const APART: char = '/';
/// So many calls of one action are known. One that has just been made takes the place of the one before.
pub(super) const MOST_REPEATED: usize = 4;
/// So many questions are answered at once.
const MOST_ANSWERED: usize = 16;
const AGAIN: Duration = Duration::from_secs(1);
