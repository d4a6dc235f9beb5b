//! Until when a caller waits, and what it hears where a store that says nothing would have it wait for longer.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use action::yaml;
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{timeout, timeout_at};

use crate::act::lock;
use crate::atp::Spelling;
use crate::gateway::Gateway;
use crate::{Code, Error, clock};

/// How long the caller of one request waits. Clones are of the same wait.
#[derive(Clone, Debug, Default)]
pub struct Wait {
    until: Option<Until>,
    stage: Arc<Stage>,
}

#[derive(Debug, Default)]
struct Stage {
    at: AtomicU8,
    /// How many providers are asked something just now.
    asking: AtomicU32,
    /// When the last of them was done.
    asked: Mutex<Option<Instant>>,
}

/// A provider is asked something, until this is dropped.
pub(crate) struct Asking(Arc<Stage>);

impl Drop for Asking {
    fn drop(&mut self) {
        // Before it is not counted any more, so that the store's time begins now for whoever looks then.
        *lock(&self.0.asked) = Some(Instant::now());
        self.0.asking.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy, Debug)]
enum Until {
    /// As the caller says.
    Deadline {
        deadline: Instant,
        /// Not before this is anybody told that the store said nothing.
        earliest: Instant,
    },
    /// Until the store has kept it waiting for so long at a stretch. The time of others does not count.
    Silence {
        most: Duration,
        /// What is told where nothing was handed over by then.
        unheard: &'static str,
    },
}

/// What becomes of a request is still open.
const OPEN: u8 = 0;
/// What was decided is the writer's by now, and may become durable.
const HANDED_OVER: u8 = 1;
/// Its caller was told that nothing was done, and nothing will be.
const GIVEN_UP: u8 = 2;

/// What was late from the start, or is late a moment later, is an outcome (`EP_DEADLINE_EXCEEDED`) where the store says something
/// in this time.
const SHORTEST: Duration = Duration::from_secs(1);
/// So long it may take after the deadline to write down and tell how what was handed over stands then.
const LAST_WORD: Duration = Duration::from_secs(1);

impl Wait {
    /// As long as the body of a request says that came in then, in the words of the Agent Transaction Protocol if they are spelled
    /// so, else in those of the Execution Protocol. What is wrong with a body is found where all of it is read.
    pub fn said(body: &[u8], spelling: Option<Spelling>, came: Instant) -> Wait {
        let deadline = match spelling {
            None => Deadline::read(body).and_then(|it| it.deadline_ms).and_then(|ms| after(came, ms)),
            Some(Spelling::Json) => Deadline::read(body).and_then(|it| moment(&it.deadline?)),
            Some(Spelling::Yaml) => {
                yaml::parse(body).ok().and_then(|body| moment(body.get("deadline")?.as_str()?))
            }
        };
        let until = deadline.map(|deadline| Until::Deadline { deadline, earliest: came + SHORTEST });
        Wait { until, ..Wait::default() }
    }

    /// Of a caller who names no deadline and looks at something, until the store has said nothing for so long. What is looked at may
    /// be acting all the while: of that nothing is said.
    pub(crate) fn for_store(most: Duration) -> Wait {
        let unheard = "the store says nothing: it could not be looked at; the same once more tells";
        Wait { until: Some(Until::Silence { most, unheard }), ..Wait::default() }
    }

    /// The same with other words for where nothing was handed over.
    #[must_use]
    pub fn or_else_told(mut self, why: &'static str) -> Wait {
        if let Some(Until::Silence { unheard, .. }) = &mut self.until {
            *unheard = why;
        }
        self
    }

    /// When nothing is sent any more.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.until? {
            Until::Deadline { deadline, .. } => Some(deadline),
            Until::Silence { .. } => None,
        }
    }

    /// Before what was decided is handed to the writer. From then on nobody is told that nothing was done.
    ///
    /// # Errors
    /// Where the caller was told that already.
    pub(crate) fn hand_over(&self) -> Result<(), Error> {
        if self.moved(HANDED_OVER) { Ok(()) } else { self.must_go_on() }
    }

    /// While a provider names its price, say, it is not the store that says nothing.
    pub(crate) fn asks(&self) -> Asking {
        self.stage.asking.fetch_add(1, Ordering::SeqCst);
        Asking(Arc::clone(&self.stage))
    }

    /// The same while a provider carries it out, or an attempt rests. Who named a deadline waits until then all the same.
    pub(crate) fn acts(&self) -> Option<Asking> {
        matches!(self.until, Some(Until::Silence { .. })).then(|| self.asks())
    }

    /// A place among those who do what only so many do at once. That others are many is not the store's silence; but who has a
    /// place waits for the store, too, so that no turn for as long as that may be silent counts as its silence from then on.
    pub(crate) async fn turn<'a>(&self, places: &'a Semaphore) -> Option<SemaphorePermit<'a>> {
        let mut turn = pin!(places.acquire());
        if let Some(Until::Silence { most, .. }) = self.until {
            let _others = self.acts();
            if let Ok(place) = timeout(most, &mut turn).await {
                return place.ok();
            }
        }
        turn.await.ok()
    }

    /// Whether there is any use in going on.
    ///
    /// # Errors
    /// Where the caller was told that nothing was done.
    pub(crate) fn must_go_on(&self) -> Result<(), Error> {
        match self.stage.at.load(Ordering::SeqCst) {
            GIVEN_UP => Err(given_up()),
            _ => Ok(()),
        }
    }

    fn moved(&self, to: u8) -> bool {
        self.stage.at.compare_exchange(OPEN, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// What the work comes to while its caller waits; an error once it does no longer.
    async fn bounds<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        let work = pin!(work);
        match self.until {
            None => Ok(work.await),
            Some(Until::Deadline { deadline, earliest }) => {
                self.until_late(deadline.max(earliest), work).await
            }
            Some(Until::Silence { most, unheard }) => self.until_silent(most, unheard, work).await,
        }
    }

    async fn until_late<T>(
        &self,
        mut next: Instant,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Error> {
        loop {
            if let Ok(done) = timeout_at(next.into(), &mut work).await {
                return Ok(done);
            }
            if self.stage.asking.load(Ordering::SeqCst) == 0 {
                break;
            }
            next = Instant::now() + SHORTEST;
        }
        if self.moved(GIVEN_UP) {
            return Err(given_up());
        }
        let told = timeout(LAST_WORD, work).await;
        told.map_err(|_| late("what became of it could not be recorded before its deadline"))
    }

    /// What was handed over may be on its way to a provider at any moment, who is not cut short: there is no last word here.
    async fn until_silent<T>(
        &self,
        most: Duration,
        unheard: &'static str,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        loop {
            let over = self.stage.store_since(began).map(|since| since + most);
            if over.is_some_and(|over| over <= Instant::now()) {
                break;
            }
            let next = over.unwrap_or_else(|| Instant::now() + most);
            if let Ok(done) = timeout_at(next.into(), &mut work).await {
                return Ok(done);
            }
        }
        Err(match self.moved(GIVEN_UP) {
            true => late(unheard),
            // The same call of what only reads may be another one.
            false => late("what became of it is not known yet; the same once more tells, or reads anew"),
        })
    }
}

impl Stage {
    /// Since when it is only the store that is waited for; nothing while a provider is.
    fn store_since(&self, began: Instant) -> Option<Instant> {
        let is_asking = self.asking.load(Ordering::SeqCst) > 0;
        (!is_asking).then(|| lock(&self.asked).unwrap_or(began))
    }
}

impl Gateway {
    /// How long a client of the Model Context Protocol waits for the store.
    pub fn wait_for_store(&self) -> Wait {
        Wait::for_store(self.config.mcp.store())
    }

    /// What the work for a request comes to, or `EP_UNAVAILABLE` once its caller waits no longer. What was not handed to the
    /// writer by then never is; what was goes on as if the caller had hung up, and its key tells what became of it.
    ///
    /// # Errors
    /// Those of the work, and that one.
    pub async fn in_time<T>(
        &self,
        wait: Wait,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let done = wait.bounds(work).await;
        done.unwrap_or_else(|error| {
            self.metrics.error(error.code);
            Err(error)
        })
    }
}

/// What whoever calls a tool is told where nothing was handed over. The same call before may have been.
pub(crate) const CALL_UNHEARD: &str =
    "this request does nothing; the same once more does it, or tells of one before";

/// Of what an earlier request under the same key did nothing is known here.
fn given_up() -> Error {
    late("it could not be looked at before its deadline, and does nothing")
}

fn late(why: &str) -> Error {
    Error::new(Code::Unavailable, why).retry_after(5)
}

/// The members by which either protocol says it.
#[derive(Deserialize)]
struct Deadline {
    deadline_ms: Option<u64>,
    deadline: Option<String>,
}

impl Deadline {
    fn read(body: &[u8]) -> Option<Deadline> {
        serde_json::from_slice(body).ok()
    }
}

fn after(came: Instant, ms: u64) -> Option<Instant> {
    came.checked_add(Duration::from_millis(ms))
}

/// When it is that time by the clock on the wall; now, if it was already.
fn moment(text: &str) -> Option<Instant> {
    let at_ms = action::time::unix_millis(text).ok()?;
    after(Instant::now(), u64::try_from(at_ms.saturating_sub(clock::now_ms())).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(body: &str, spelling: Option<Spelling>) -> Option<u64> {
        let came = Instant::now();
        let deadline = Wait::said(body.as_bytes(), spelling, came).deadline()?;
        Some(deadline.saturating_duration_since(came).as_secs())
    }

    #[test]
    fn a_body_says_how_long_its_caller_waits() {
        let soon = clock::text(clock::now_ms() + 60_500);
        assert_eq!(left(r#"{"archetype": "X", "deadline_ms": 5000}"#, None), Some(5));
        assert_eq!(left(&format!(r#"{{"deadline": "{soon}"}}"#), Some(Spelling::Json)), Some(60));
        assert_eq!(
            left(&format!("action:\n  verb: pay\ndeadline: \"{soon}\"\n"), Some(Spelling::Yaml)),
            Some(60)
        );
        assert_eq!(left(r#"{"deadline": "2020-01-01T00:00:00Z"}"#, Some(Spelling::Json)), Some(0));
        for nothing in ["{}", "", "{", r#"{"deadline_ms": null}"#, r#"{"deadline_ms": "5"}"#] {
            assert_eq!(left(nothing, None), None, "{nothing}");
        }
    }

    #[tokio::test]
    async fn a_provider_that_takes_its_time_is_waited_for_and_a_store_is_not() {
        let late = || Wait::said(br#"{"deadline_ms": 0}"#, None, Instant::now());
        let longer = SHORTEST + SHORTEST / 2;
        let (provider, store) = (late(), late());
        let asked = async {
            let _asks = provider.asks();
            tokio::time::sleep(longer).await;
        };
        let (asked, silent) =
            tokio::join!(provider.bounds(asked), store.bounds(std::future::pending::<()>()));
        asked.unwrap();
        assert_eq!(silent.unwrap_err().code, Code::Unavailable);
        assert!(store.must_go_on().is_err() && provider.must_go_on().is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_no_store_that_says_nothing_waits_for_whoever_acts() {
        let store = || Wait::for_store(Duration::from_millis(200));
        let (provider, before, after) = (store(), store(), store());
        let acts = async {
            let _acts = provider.acts();
            tokio::time::sleep(SHORTEST).await;
        };
        let handed_over = async {
            after.hand_over().unwrap();
            drop(after.acts());
            std::future::pending::<()>().await;
        };
        let (acted, unheard, handed_over) = tokio::join!(
            provider.bounds(acts),
            before.bounds(std::future::pending::<()>()),
            after.bounds(handed_over)
        );
        acted.unwrap();
        let [unheard, handed_over] = [unheard, handed_over].map(Result::unwrap_err);
        assert_eq!((unheard.code, handed_over.code), (Code::Unavailable, Code::Unavailable));
        assert!(unheard.message.ends_with("the same once more tells"), "{unheard}");
        assert!(handed_over.message.contains("what became of it"), "{handed_over}");
        assert!(before.must_go_on().is_err() && after.must_go_on().is_ok());
        assert!(provider.deadline().is_none(), "nothing is sent any later or earlier by that");
        assert!(Wait::said(br#"{"deadline_ms": 0}"#, None, Instant::now()).acts().is_none());
    }

    #[tokio::test]
    async fn a_turn_is_not_the_store_s_until_nobody_has_had_one_for_as_long_as_that_may_be_silent() {
        let most = Duration::from_millis(400);
        let (soon, never) = (Wait::for_store(most), Wait::for_store(most));
        let (places, none) = (Semaphore::new(1), Semaphore::new(0));
        let taken = places.try_acquire().unwrap();
        let in_turn = async {
            tokio::time::sleep(most / 2).await;
            let place = soon.turn(&places).await;
            // All that the store may take after that.
            tokio::time::sleep(most / 2).await;
            place.is_some()
        };
        let others = async {
            tokio::time::sleep(most * 5 / 4).await;
            drop(taken);
        };
        let (had, (), silent) = tokio::join!(soon.bounds(in_turn), others, never.bounds(never.turn(&none)));
        assert!(had.unwrap());
        assert_eq!(silent.unwrap_err().code, Code::Unavailable);
    }

    #[test]
    fn what_is_given_up_is_never_handed_over_and_the_other_way_round() {
        let (given_up, handed_over) = (Wait::default(), Wait::default());
        assert!(given_up.moved(GIVEN_UP));
        assert!(given_up.clone().hand_over().is_err());
        handed_over.clone().hand_over().unwrap();
        assert!(!handed_over.moved(GIVEN_UP));
        // It may be judged anew.
        handed_over.hand_over().unwrap();
    }
}
