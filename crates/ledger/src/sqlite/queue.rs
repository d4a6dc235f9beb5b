//! Where writes wait for the one writer.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::batch::Batch;
use super::read::Sql;
use crate::admit::Item;
use crate::intake::Close;
use crate::{Admitted, Error};

/// Resolves when the commit that answers it is durable.
pub(crate) type Promise<T> = oneshot::Sender<Result<T, Error>>;

/// A rare write: whatever the hot path does not do.
pub(crate) trait Job: Send {
    /// Writes. May be called again if the batch it was in failed.
    fn run(&mut self, batch: &mut Batch<'_>) -> Sql<()>;
    /// Answers: with what `run` came to, or with the error.
    fn finish(self: Box<Self>, outcome: Result<(), Error>);
}

/// Writes that are committed together.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) items: Vec<Item>,
    pub(crate) item_promises: Vec<Promise<Admitted>>,
    pub(crate) closes: Vec<Close>,
    pub(crate) close_promises: Vec<Promise<i64>>,
    pub(crate) jobs: Vec<Box<dyn Job>>,
}

impl Work {
    pub(crate) fn len(&self) -> usize {
        self.items.len() + self.closes.len() + self.jobs.len()
    }

    /// Leaves at most `most` of each kind, the oldest, and answers with the rest.
    fn split_off(&mut self, most: usize) -> Work {
        Work {
            items: split_off(&mut self.items, most),
            item_promises: split_off(&mut self.item_promises, most),
            closes: split_off(&mut self.closes, most),
            close_promises: split_off(&mut self.close_promises, most),
            jobs: split_off(&mut self.jobs, most),
        }
    }

    /// Answers everything with the error.
    pub(crate) fn refuse(&mut self, error: &Error) {
        self.item_promises.drain(..).for_each(|promise| drop(promise.send(Err(error.clone()))));
        self.close_promises.drain(..).for_each(|promise| drop(promise.send(Err(error.clone()))));
        self.jobs.drain(..).for_each(|job| job.finish(Err(error.clone())));
        self.items.clear();
        self.closes.clear();
    }
}

/// A bounded queue with one taker.
/// What settles an action, and what operators do, is never turned away: the first is bounded by the actions under
/// way, and an emergency stop that waits behind a flood of requests is none.
const NO_LIMIT: usize = usize::MAX;

pub(crate) struct Queue {
    state: Mutex<State>,
    bell: Condvar,
    limit: usize,
}

#[derive(Default)]
struct State {
    work: Work,
    taker_sleeps: bool,
    ending: bool,
    failed: Option<Arc<str>>,
}

impl Queue {
    pub(crate) fn new(limit: usize) -> Queue {
        Queue { state: Mutex::default(), bell: Condvar::new(), limit }
    }

    pub(crate) fn enter(&self, item: Item) -> Result<oneshot::Receiver<Result<Admitted, Error>>, Error> {
        let (promise, answer) = oneshot::channel();
        self.put(self.limit, |work| {
            work.items.push(item);
            work.item_promises.push(promise);
        })?;
        Ok(answer)
    }

    pub(crate) fn close(&self, close: Close) -> Result<oneshot::Receiver<Result<i64, Error>>, Error> {
        let (promise, answer) = oneshot::channel();
        self.put(NO_LIMIT, |work| {
            work.closes.push(close);
            work.close_promises.push(promise);
        })?;
        Ok(answer)
    }

    pub(crate) fn job(&self, job: Box<dyn Job>) -> Result<(), Error> {
        self.put(NO_LIMIT, |work| work.jobs.push(job))
    }

    fn put(&self, limit: usize, push: impl FnOnce(&mut Work)) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(why) = &state.failed {
            return Err(Error::Unavailable(why.clone()));
        }
        if state.ending {
            return Err(Error::Unavailable("it is closing".into()));
        }
        if state.work.len() >= limit {
            return Err(Error::Busy);
        }
        push(&mut state.work);
        let wake = std::mem::take(&mut state.taker_sleeps);
        drop(state);
        if wake {
            self.bell.notify_one();
        }
        Ok(())
    }

    /// Waits for work and takes up to `most` of each kind into `work`, which is empty and lends its memory to those
    /// that come; false when the queue ends and nothing is left.
    pub(crate) fn take(&self, most: usize, work: &mut Work) -> bool {
        let mut state = self.lock();
        while state.work.len() == 0 {
            if state.ending {
                return false;
            }
            state.taker_sleeps = true;
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.taker_sleeps = false;
        std::mem::swap(&mut state.work, work);
        if work.len() > most {
            state.work = work.split_off(most);
        }
        true
    }

    /// No more is let in, and what waits is answered so.
    pub(crate) fn fail(&self, why: &Arc<str>) {
        let mut state = self.lock();
        state.failed.get_or_insert_with(|| why.clone());
        let mut work = std::mem::take(&mut state.work);
        drop(state);
        work.refuse(&Error::Unavailable(why.clone()));
    }

    /// No more is let in; what waits is still done.
    pub(crate) fn end(&self) {
        self.lock().ending = true;
        self.bell.notify_one();
    }

    pub(crate) fn failed(&self) -> Option<Arc<str>> {
        self.lock().failed.clone()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lock().work.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn split_off<T>(all: &mut Vec<T>, most: usize) -> Vec<T> {
    all.split_off(most.min(all.len()))
}
