//! The fire: one life of the gateway after the other, each ended by `kill -9` at a random moment or by a named crash point.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use ledger::COMMIT_STEPS;
use testkit::bank::{Fault, Injection, Target};

use super::chance::Chance;
use super::clients::{Desk, Wish};
use super::course::{Course, Later};
use super::line::Place;
use super::mode::Mode;
use super::site::{Death, Site};
use crate::child::Server;
use crate::crash;
use crate::error::{Error, Result};

/// What the gateway went through.
#[derive(Clone, Debug, Default)]
pub(super) struct Fire {
    /// Killed at a random moment.
    pub(super) killed: u64,
    /// Died at a named point.
    pub(super) crashed: u64,
    pub(super) points: BTreeSet<&'static str>,
}

impl Fire {
    /// Named points at which nothing ever passed.
    pub(super) fn missed(&self) -> Vec<&'static str> {
        crash::points().filter(|point| !self.points.contains(point)).collect()
    }

    /// Lets the gateway die until every point had its turn and every wish was begun.
    pub(super) async fn rage(
        &mut self,
        site: &Site,
        desk: &Desk,
        place: &Place,
        chance: &mut Chance,
        bar: &ProgressBar,
    ) -> Result<()> {
        let mut turns = VecDeque::from(in_order(chance));
        // A third is left for points that nothing passed in their first turn.
        let mut share = (desk.wishes.len() * 2 / 3).div_ceil(turns.len()).clamp(1, MOST_A_LIFE);
        let mut chances = if desk.wishes.len() < MANY { 1 } else { CHANCES };
        let (mut longest, mut in_turn) = (LONGEST, true);
        loop {
            if !in_turn && desk.all_begun() {
                return Ok(());
            }
            let death = match turns.pop_front() {
                Some(turn) => turn,
                None if chances > 0 && !(desk.all_begun() && desk.is_at_rest()) => {
                    chances -= 1;
                    longest *= 2;
                    turns.extend(self.missed().into_iter().flat_map(|point| led_up_to(point).map(Some)));
                    continue;
                }
                None if desk.all_begun() => return Ok(()),
                None => {
                    (longest, share, in_turn) = (LONGEST, MOST_A_LIFE, false);
                    turns.extend(at_random(chance));
                    continue;
                }
            };
            let undone = if death.is_some_and(|it| it.point.starts_with("rollback")) { 4 } else { 1 };
            site.go_wrong(chance, death.and_then(|it| leads_to(it.point)), share);
            let room = MOST_OPEN.saturating_sub(desk.open());
            desk.feed(share.min(room), undone.max(share / 10), |wish| {
                death.is_some_and(|it| comes_by(wish, it.point))
            });
            let lasts = match death {
                Some(_) => longest,
                None => Duration::from_millis(chance.between(20, 700)),
            };
            self.live((site, desk, place), death, lasts).await?;
            bar.set_position(desk.over() as u64);
        }
    }

    /// One life.
    async fn live(
        &mut self,
        (site, desk, place): (&Site, &Desk, &Place),
        death: Option<Death>,
        lasts: Duration,
    ) -> Result<()> {
        let Some(mut server) = tokio::task::block_in_place(|| site.serve(death))? else {
            return self.died(death);
        };
        place.set(Some(format!("http://{}", server.address)));
        let began = Instant::now();
        while began.elapsed() < lasts && !(desk.all_begun() && desk.is_at_rest()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if server.has_ended() {
                place.set(None);
                return self.died(death);
            }
        }
        place.set(None);
        tokio::task::block_in_place(|| server.kill());
        self.killed += 1;
        Ok(())
    }

    fn died(&mut self, death: Option<Death>) -> Result<()> {
        let Some(Death { point, .. }) = death else {
            return Err(Error::new("the gateway ended by itself"));
        };
        self.crashed += 1;
        self.points.insert(point);
        Ok(())
    }
}

/// A last life that nobody ends: until all is over, or nothing moves any more.
pub(super) async fn settle(
    site: &Site,
    desk: &Arc<Desk>,
    place: &Place,
    bar: &ProgressBar,
) -> Result<Server> {
    let server = tokio::task::block_in_place(|| site.serve(None))?;
    let mut server = server.ok_or_else(|| Error::new("the gateway does not start any more"))?;
    place.set(Some(format!("http://{}", server.address)));
    desk.feed(desk.wishes.len(), desk.wishes.len(), |_| false);
    let (mut moved, mut over) = (Instant::now(), desk.over());
    while over < desk.wishes.len() && moved.elapsed() < STILL {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if server.has_ended() {
            return Err(Error::new("the gateway ended by itself"));
        }
        if desk.over() > over {
            (moved, over) = (Instant::now(), desk.over());
            bar.set_position(over as u64);
        }
    }
    Ok(server)
}

/// Every point once, as an action comes by, now and then with a kill at a random moment before it. What is found as sent
/// by somebody who is gone has to have been sent just before.
fn in_order(chance: &mut Chance) -> Vec<Option<Death>> {
    let mut all = Vec::new();
    for point in crash::points() {
        if point != TAKEOVER && chance.one_in(4) {
            all.push(None);
        }
        all.push(Some(Death { point, passage: 1 }));
    }
    all
}

/// A point's turn, after whatever has to have happened to the gateway before it.
fn led_up_to(point: &'static str) -> impl Iterator<Item = Death> {
    let before = (point == TAKEOVER).then_some(ANSWERED);
    before.into_iter().chain([point]).map(|point| Death { point, passage: 1 })
}

/// Every point once, at any passage, and a kill at a random moment between each two.
fn at_random(chance: &mut Chance) -> Vec<Option<Death>> {
    let mut points: Vec<&str> = crash::points().collect();
    chance.shuffle(&mut points);
    let death = |point: &'static str| {
        // Every commit passes the steps of a commit.
        let most = if COMMIT_STEPS.contains(&point) { 100 } else { 10 };
        Death { point, passage: chance.between(1, most) }
    };
    let points: Vec<Death> = points.into_iter().map(death).collect();
    points.into_iter().flat_map(|death| [None, Some(death)]).collect()
}

/// What has to go wrong at a bank so that an action comes by.
fn leads_to(point: &str) -> Option<Injection> {
    match point.split_once('.')?.0 {
        "retry" => Some(Injection::payments(Fault::RateLimited { retry_after: 1 }, 1)),
        "query" => Some(Injection::payments(Fault::LostAfterEffect, 1)),
        "send" => Some(Injection::payments(Fault::DelayAnswer { ms: 400 }, 1)),
        "capture-failed" => Some(Injection::on(Target::Captures, Fault::RateLimited { retry_after: 1 }, 2)),
        _ => None,
    }
}

/// Whether an action comes by there that most do not.
fn comes_by(wish: &Wish, point: &str) -> bool {
    let Some((of, _)) = point.split_once('.') else { return false };
    match of {
        "challenge" | "callback" => matches!(wish.course, Course::Confirm | Course::Decline),
        "reserve" | "capture" | "capture-answer" | "capture-failed" | "capture-outcome" => {
            matches!(wish.course, Course::Charge { .. })
        }
        "release" | "release-send" | "release-outcome" => wish.course == Course::Release,
        "run-take" | "run-report" => wish.mode == Mode::Runner,
        "again" => wish.later == Later::Again,
        "erase" => wish.later == Later::Erase,
        "late" => wish.mode == Mode::Mistaken && matches!(wish.course, Course::Act | Course::Charge { .. }),
        _ => false,
    }
}

const TAKEOVER: &str = "takeover.before";
/// Whoever dies there leaves an action behind that is marked sent.
const ANSWERED: &str = "answer.after";
/// How often points get another turn that nothing passed in theirs, where there are enough actions to come by.
const CHANCES: u32 = 3;
/// With fewer wishes some points are not passed, however long one waits.
const MANY: usize = 1_000;
/// Wishes taken up in one life, so that many actions see many lives.
const MOST_A_LIFE: usize = 50;
/// So many are open at once, so that a slow machine gets no more to do than it can.
const MOST_OPEN: usize = 256;
/// No life lasts longer in the first turn, whether its point was passed or not.
const LONGEST: Duration = Duration::from_secs(2);
/// When nothing was settled for so long, nothing will be.
const STILL: Duration = Duration::from_secs(60);
