//! Clients that want payments, ask any of the gateways, some of them two at once, and insist until they know.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use crate::house::{Said, Voice, payment};

/// One thing a client wants, and everything it heard about it.
pub(crate) struct Wish {
    pub(crate) key: String,
    pub(crate) tight: bool,
    pub(crate) heard: Vec<Said>,
    /// How often the answer was that nothing can be recorded now.
    pub(crate) away: usize,
    /// How often there was no answer.
    pub(crate) silent: usize,
}

/// What all clients share.
pub(crate) struct Load {
    /// Where the gateways are at present.
    pub(crate) voices: Mutex<Vec<Voice>>,
    /// A mandate with more than they can spend, and one with less.
    pub(crate) mandates: [String; 2],
    pub(crate) over: AtomicBool,
}

impl Load {
    pub(crate) fn moved(&self, voices: Vec<Voice>) {
        *self.voices.lock().unwrap_or_else(PoisonError::into_inner) = voices;
    }

    fn voice(&self, number: u64) -> Voice {
        let voices = self.voices.lock().unwrap_or_else(PoisonError::into_inner);
        voices[number as usize % voices.len()].clone()
    }
}

/// A client at work until the load is over.
pub(crate) async fn want(load: Arc<Load>, client: u64) -> Vec<Wish> {
    let mut told = Vec::new();
    let mut chance = Chance(client * 7919 + 1);
    for n in 0_u64.. {
        if load.over.load(Ordering::Relaxed) {
            break;
        }
        let (key, tight) = (format!("c{client}-{n}"), chance.draw(4) == 0);
        // Of all sizes at all times: a sum unlike those before it would be stopped as an anomaly.
        let cents = 100 + (client * 61 + n * 37) % 200;
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        let body = payment(&key, &amount, &load.mandates[usize::from(tight)]);
        let mut wish = Wish { key, tight, heard: Vec::new(), away: 0, silent: 0 };
        insist(&load, &mut wish, &body, &mut chance).await;
        told.push(wish);
    }
    told
}

async fn insist(load: &Load, wish: &mut Wish, body: &Value, chance: &mut Chance) {
    for turn in 0..MOST_TURNS {
        let (one, other) = (load.voice(chance.draw(1000)), load.voice(chance.draw(1000)));
        let answers = if chance.draw(4) == 0 {
            let (a, b) = tokio::join!(one.try_execute(&wish.key, body), other.try_execute(&wish.key, body));
            vec![a, b]
        } else {
            vec![one.try_execute(&wish.key, body).await]
        };
        for answer in answers {
            hear(wish, answer);
        }
        if wish.heard.last().is_some_and(is_final) {
            return;
        }
        sleep(Duration::from_millis(20 + 10 * turn.min(20))).await;
    }
}

fn hear(wish: &mut Wish, answer: reqwest::Result<Said>) {
    let Ok(said) = answer else {
        wish.silent += 1;
        return;
    };
    match (said.status, said.code()) {
        (503, _) => {
            assert!(said.headers.contains_key("retry-after"), "{}", said.text());
            wish.away += 1;
        }
        (409, "EP_IDEMPOTENCY_IN_FLIGHT") => assert!(said.headers.contains_key("retry-after")),
        (200 | 202 | 403 | 502, _) => wish.heard.push(said),
        (status, _) => panic!("{} answered {status}: {}", wish.key, said.text()),
    }
}

pub(crate) fn is_final(said: &Said) -> bool {
    matches!(said.kind(), "executed" | "failed" | "blocked")
}

/// As many turns as take some minutes.
const MOST_TURNS: u64 = 400;

/// The same draws for the same client, whenever it runs.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn draw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}
