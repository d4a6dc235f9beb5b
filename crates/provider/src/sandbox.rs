//! A provider that is not there: deterministic, in memory, and it does as it is told.
//!
//! It stands in for every binding in the sandbox environment, where it obeys **trigger values**: a top-level member of
//! the constraints that is one of these strings decides what happens.
//!
//! | value | the call | the effect | a query then says |
//! |---|---|---|---|
//! | `sandbox:ok` | confirmed | yes | confirmed |
//! | `sandbox:fail` | refused, code `declined` | no | absent |
//! | `sandbox:busy-N` | refused N times, code `busy`, which may pass; then confirmed | at last | absent, then confirmed |
//! | `sandbox:unreachable` | not sent | no | absent |
//! | `sandbox:lose` | answer lost | yes | confirmed |
//! | `sandbox:vanish` | answer lost | no | absent |
//! | `sandbox:silent` | answer lost | yes | unknown, for ever |
//! | `sandbox:challenge` | the payer must confirm, and does | yes | confirmed |
//! | `sandbox:challenge-declined` | the payer must confirm, and does not | no | absent |
//! | `sandbox:challenge-ignored` | the payer must confirm, and says nothing | no | absent |
//! | `sandbox:keep` | confirmed, and its rollback is refused | yes | confirmed |
//! | `sandbox:amiss` | confirmed, and fails the check that its binding has | yes | confirmed |
//! | `sandbox:hold-N` | confirmed; what it reserves ends after N ms | yes | confirmed |
//! | `sandbox:delay-N` | confirmed after N ms, at most 60000 | yes | confirmed |
//!
//! Any other value that begins with `sandbox:` is refused with the code `unknown_trigger`.
//!
//! A binding can name it too, for rehearsals and measurements; triggers are then off unless asked for:
//!
//! ```toml
//! [binding]
//! provider = "sandbox"
//! options = { delay_ms = [200, 2000], lose_every = 100, fail_every = 50, triggers = true }
//! ```
//!
//! Delays from a range and every n-th failure are drawn from the action's id, so the same action meets the same fate.
//! The effects live in memory, [`MOST_EFFECTS`] at most; what is not remembered does not exist in this world.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use action::{ActionId, Archetype, Currency, CurrencyRule, Money};
use execution::{
    Call, Capabilities, Challenge, Check, Confirmation, Doubt, Found, Idempotent, Purpose, Queryable,
    Refusal, Reply,
};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::binding::{identity, read_capabilities};
use crate::reader::{Mistake, Node};
use crate::{Ask, Done, Profile, Provider, Reserves, Rollback, Unquoted};

/// How many effects are remembered; the oldest is forgotten first.
pub const MOST_EFFECTS: usize = 65_536;

/// The provider that is not there.
#[derive(Debug)]
pub struct Sandbox {
    profile: Profile,
    options: Options,
    currency: Option<Currency>,
    /// Whether what it did is looked after, as its binding says.
    checks: bool,
    /// For how long what was done can be undone.
    window: Duration,
    effects: Mutex<Effects>,
}

/// How it behaves when no trigger value says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Options {
    /// Whether trigger values are obeyed.
    triggers: bool,
    /// Shortest and longest delay, in milliseconds.
    delay_ms: (u64, u64),
    /// One action in so many is refused.
    fail_every: Option<u64>,
    /// Of the others, one in so many has its effect but loses its answer.
    lose_every: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Confirm,
    Decline,
    /// Refused as long as the attempt is one of the first so many.
    Busy(u32),
    Misunderstand,
    Unreachable,
    Lose,
    Vanish,
    Silent,
    /// What it did stays, and what it has set aside, too.
    Keep,
    /// Sets money aside for so many milliseconds.
    Hold(i64),
    /// What it did is not as it should be.
    Amiss,
    Challenge(Payer),
}

/// What a payer says to a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payer {
    Confirms,
    Declines,
    Ignores,
}

impl Sandbox {
    /// The one that stands in for a real binding.
    pub(crate) fn standing_in(archetype: &Archetype) -> Sandbox {
        let options = Options { triggers: true, delay_ms: (0, 0), fail_every: None, lose_every: None };
        Sandbox {
            profile: Profile {
                name: "sandbox".to_owned(),
                identity: identity(&json!({ "provider": "sandbox" })),
                capabilities: Capabilities { challenge: options.challenge(), ..able() },
            },
            options,
            currency: currency_of(archetype),
            checks: archetype.bindings.contains_key("check"),
            window: archetype.recovery_window.unwrap_or(A_DAY),
            effects: Mutex::default(),
        }
    }

    /// The one that a binding asks for.
    pub(crate) fn read(node: &Node<'_>, archetype: &Archetype) -> Result<Sandbox, Vec<Mistake>> {
        let one = |mistake| vec![mistake];
        let table = node.table(&["provider", "name", "options", "capabilities"]).map_err(one)?;
        let name = table.get("name").map_or(Ok("sandbox".to_owned()), |node| node.name()).map_err(one)?;
        let capabilities = match table.get("capabilities") {
            Some(node) => read_capabilities(Some(node), archetype).map_err(one)?,
            None => able(),
        };
        let options = Options::read(table.get("options")).map_err(one)?;
        let capabilities = Capabilities { challenge: options.challenge(), ..capabilities };
        let parts = json!({
            "provider": "sandbox",
            "name": name,
            "capabilities": table.value("capabilities"),
        });
        Ok(Sandbox {
            profile: Profile { name, identity: identity(&parts), capabilities },
            options,
            currency: currency_of(archetype),
            checks: false,
            window: archetype.recovery_window.unwrap_or(A_DAY),
            effects: Mutex::default(),
        })
    }

    async fn act(&self, call: &Call, now_ms: i64) -> Reply {
        let (behaviour, delay) = self.told(&call.constraints, call.action_id);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if behaviour.has_effect(call.attempt) {
            self.effects.lock().unwrap_or_else(PoisonError::into_inner).remember(fingerprint(call));
        }
        match behaviour {
            Behaviour::Busy(times) if call.attempt <= times => {
                Reply::Refused(Refusal { transient: true, ..refusal("busy") })
            }
            Behaviour::Keep if matches!(call.purpose, Purpose::Release { .. }) => {
                Reply::Refused(refusal("kept"))
            }
            Behaviour::Hold(ms) if call.purpose == Purpose::Reserve => {
                let expires_ms = Some(now_ms.saturating_add(ms));
                Reply::Confirmed(Confirmation { expires_ms, ..confirmation(call) })
            }
            Behaviour::Confirm
            | Behaviour::Busy(_)
            | Behaviour::Keep
            | Behaviour::Amiss
            | Behaviour::Hold(_) => Reply::Confirmed(confirmation(call)),
            Behaviour::Decline => Reply::Refused(refusal("declined")),
            Behaviour::Misunderstand => Reply::Refused(refusal("unknown_trigger")),
            Behaviour::Unreachable => {
                Reply::NotSent { why: "the sandbox was told to be unreachable".to_owned() }
            }
            Behaviour::Challenge(_) => Reply::Challenged(challenge(call)),
            Behaviour::Lose | Behaviour::Vanish | Behaviour::Silent => {
                let why = "the sandbox was told to lose the answer".to_owned();
                Reply::Lost { how: Doubt::NoAnswer, why }
            }
        }
    }

    fn ask(&self, call: &Call, now_ms: i64) -> Found {
        let (behaviour, _) = self.told(&call.constraints, call.action_id);
        if behaviour == Behaviour::Silent || self.profile.capabilities.queryable.is_none() {
            return Found::Unknown;
        }
        if behaviour == Behaviour::Challenge(Payer::Declines) {
            return Found::Absent { final_: true };
        }
        let there = self.effects.lock().unwrap_or_else(PoisonError::into_inner).knows(fingerprint(call));
        if there {
            return Found::Confirmed(confirmation(call));
        }
        Found::Absent { final_: self.profile.capabilities.absence_is_final(call, now_ms) }
    }

    /// Between 40 % and 90 % of the bound, or 100 units of the currency when there is none.
    fn price(&self, ask: &Ask<'_>) -> Result<Money, Unquoted> {
        let (behaviour, _) = self.told(ask.constraints, ask.action_id);
        if !matches!(behaviour, Behaviour::Confirm | Behaviour::Keep | Behaviour::Amiss) {
            return Err(Unquoted { why: "the sandbox was told not to answer".to_owned() });
        }
        let unknown = || Unquoted { why: "the currency is not known".to_owned() };
        let money = match ask.bound {
            Some(bound) => {
                let percent = 40 + draw(ask.action_id, 2) % 51;
                let minor = i128::from(bound.minor()) * i128::from(percent) / 100;
                Money::new(i64::try_from(minor).unwrap_or(bound.minor()), bound.currency())
            }
            None => {
                let currency = self.currency.ok_or_else(unknown)?;
                Money::new(100 * 10_i64.pow(u32::from(currency.digits())), currency)
            }
        };
        money.ok_or_else(unknown)
    }

    /// What to do about this action, and after how long.
    fn told(&self, constraints: &Value, action_id: ActionId) -> (Behaviour, Duration) {
        if self.options.triggers
            && let Some(trigger) = trigger(constraints)
        {
            return obey(trigger);
        }
        let every = |n: Option<u64>, salt| n.is_some_and(|n| draw(action_id, salt).is_multiple_of(n));
        let behaviour = if every(self.options.fail_every, 0) {
            Behaviour::Decline
        } else if every(self.options.lose_every, 1) {
            Behaviour::Lose
        } else {
            Behaviour::Confirm
        };
        let (least, most) = self.options.delay_ms;
        let delay = if most == 0 { 0 } else { least + draw(action_id, 3) % (most - least + 1) };
        (behaviour, Duration::from_millis(delay))
    }
}

impl Provider for Sandbox {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn patience(&self) -> Duration {
        let slowest = if self.options.triggers { MOST_DELAY_MS } else { self.options.delay_ms.1 };
        Duration::from_millis(slowest)
    }

    fn call<'a>(&'a self, call: &'a Call, now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(self.act(call, now_ms))
    }

    fn query<'a>(&'a self, call: &'a Call, now_ms: i64) -> BoxFuture<'a, Found> {
        Box::pin(async move { self.ask(call, now_ms) })
    }

    fn checks(&self) -> bool {
        self.checks
    }

    fn check<'a>(&'a self, call: &'a Call, _: Done<'a>, _now_ms: i64) -> BoxFuture<'a, Check> {
        let (behaviour, _) = self.told(&call.constraints, call.action_id);
        let amiss = behaviour == Behaviour::Amiss;
        Box::pin(std::future::ready(if amiss { Check::Fails } else { Check::Holds }))
    }

    fn reserves(&self) -> Option<Reserves> {
        Some(Reserves { hold: Some(Duration::from_secs(86_400)) })
    }

    fn rollback(&self) -> Option<Rollback> {
        Some(Rollback { within: self.window, restores: false })
    }

    fn snapshot<'a>(&'a self, _: Ask<'a>) -> BoxFuture<'a, Result<Option<Value>, Unquoted>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn undo<'a>(&'a self, call: &'a Call, done: Done<'a>, _now_ms: i64) -> BoxFuture<'a, Reply> {
        let (behaviour, _) = self.told(&call.constraints, call.action_id);
        let reply = match behaviour {
            Behaviour::Keep => Reply::Refused(refusal("kept")),
            _ => Reply::Confirmed(Confirmation {
                reference: Some(format!("sandbox-{}", call.reference)),
                answer: json!({ "sandbox": true, "status": "undone", "undone": done.reference }),
                ..Confirmation::default()
            }),
        };
        Box::pin(std::future::ready(reply))
    }

    fn quote<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Money, Unquoted>> {
        Box::pin(async move { self.price(&ask) })
    }
}

impl Options {
    /// Payers are challenged by trigger values only; how long they have is over with the time for sending.
    fn challenge(&self) -> Option<Duration> {
        self.triggers.then_some(Duration::ZERO)
    }

    fn read(node: Option<Node<'_>>) -> Result<Options, Mistake> {
        let mut options = Options { triggers: false, delay_ms: (0, 0), fail_every: None, lose_every: None };
        let Some(node) = node else { return Ok(options) };
        let table = node.table(&["triggers", "delay_ms", "fail_every", "lose_every"])?;
        let every = |name| table.get(name).map(|node| node.whole(1, 1_000_000)).transpose();
        options.triggers = table.flag("triggers")?;
        options.fail_every = every("fail_every")?;
        options.lose_every = every("lose_every")?;
        if let Some(delay) = table.get("delay_ms") {
            options.delay_ms = read_delay(&delay)?;
        }
        Ok(options)
    }
}

impl Behaviour {
    fn has_effect(self, attempt: u32) -> bool {
        match self {
            Behaviour::Confirm
            | Behaviour::Lose
            | Behaviour::Silent
            | Behaviour::Keep
            | Behaviour::Amiss
            | Behaviour::Hold(_) => true,
            Behaviour::Challenge(payer) => payer == Payer::Confirms,
            Behaviour::Busy(times) => attempt > times,
            Behaviour::Decline | Behaviour::Misunderstand | Behaviour::Unreachable | Behaviour::Vanish => {
                false
            }
        }
    }
}

/// The world of this provider: which calls have had their effect, oldest first.
#[derive(Debug, Default)]
struct Effects {
    known: HashSet<u128>,
    oldest: VecDeque<u128>,
}

impl Effects {
    /// The same call twice is one effect.
    fn remember(&mut self, fingerprint: u128) {
        if !self.known.insert(fingerprint) {
            return;
        }
        self.oldest.push_back(fingerprint);
        if self.oldest.len() > MOST_EFFECTS
            && let Some(forgotten) = self.oldest.pop_front()
        {
            self.known.remove(&forgotten);
        }
    }

    fn knows(&self, fingerprint: u128) -> bool {
        self.known.contains(&fingerprint)
    }
}

/// The first trigger value among the top-level members.
fn trigger(constraints: &Value) -> Option<&str> {
    constraints.as_object()?.values().find_map(|value| value.as_str()?.strip_prefix("sandbox:"))
}

fn obey(trigger: &str) -> (Behaviour, Duration) {
    let behaviour = match trigger {
        "ok" => Behaviour::Confirm,
        "fail" => Behaviour::Decline,
        "unreachable" => Behaviour::Unreachable,
        "lose" => Behaviour::Lose,
        "vanish" => Behaviour::Vanish,
        "silent" => Behaviour::Silent,
        "keep" => Behaviour::Keep,
        "challenge" => Behaviour::Challenge(Payer::Confirms),
        "challenge-declined" => Behaviour::Challenge(Payer::Declines),
        "challenge-ignored" => Behaviour::Challenge(Payer::Ignores),
        "amiss" => Behaviour::Amiss,
        other => return delayed(other).unwrap_or((Behaviour::Misunderstand, Duration::ZERO)),
    };
    (behaviour, Duration::ZERO)
}

fn delayed(trigger: &str) -> Option<(Behaviour, Duration)> {
    if let Some(times) = trigger.strip_prefix("busy-") {
        return Some((Behaviour::Busy(times.parse().ok()?), Duration::ZERO));
    }
    if let Some(millis) = trigger.strip_prefix("hold-") {
        return Some((Behaviour::Hold(millis.parse().ok().filter(|ms| *ms >= 0)?), Duration::ZERO));
    }
    let millis: u64 = trigger.strip_prefix("delay-")?.parse().ok()?;
    (millis <= MOST_DELAY_MS).then(|| (Behaviour::Confirm, Duration::from_millis(millis)))
}

fn confirmation(call: &Call) -> Confirmation {
    let reference = format!("sandbox-{}", call.reference);
    let status = match call.purpose {
        Purpose::Act => "confirmed",
        Purpose::Reserve => "reserved",
        Purpose::Capture { .. } => "captured",
        Purpose::Release { .. } => "released",
    };
    let answer = json!({ "reference": &reference, "sandbox": true, "status": status });
    Confirmation { reference: Some(reference), answer, charged: call.money, expires_ms: None }
}

/// Nobody is there: `.invalid` is reserved for that.
fn challenge(call: &Call) -> Challenge {
    let url = format!("https://payer.invalid/challenges/{}", call.reference);
    Challenge { url, until_ms: call.send_by_ms }
}

fn refusal(code: &str) -> Refusal {
    let answer = json!({ "code": code, "sandbox": true, "status": "refused" });
    Refusal { code: Some(code.to_owned()), answer, ..Refusal::default() }
}

fn able() -> Capabilities {
    Capabilities {
        idempotent: Some(Idempotent { retention: Duration::from_secs(86_400) }),
        queryable: Some(Queryable { by_our_reference: true, final_after: Duration::ZERO }),
        cancellable: false,
        repeat_safe: false,
        challenge: None,
    }
}

fn currency_of(archetype: &Archetype) -> Option<Currency> {
    match &archetype.money.as_ref()?.currency {
        CurrencyRule::Fixed(currency) => Some(*currency),
        CurrencyRule::Member(_) => None,
    }
}

fn read_delay(node: &Node<'_>) -> Result<(u64, u64), Mistake> {
    if !node.value.is_array() {
        let delay = node.whole(0, MOST_DELAY_MS)?;
        return Ok((delay, delay));
    }
    match node.items()?.as_slice() {
        [least, most] => {
            let least = least.whole(0, MOST_DELAY_MS)?;
            Ok((least, most.whole(least, MOST_DELAY_MS)?))
        }
        _ => Err(node.mistake("this must be a number of milliseconds, or the least and the most")),
    }
}

/// Which call: an action's id is unique, and so is its attempt; what is set aside is charged once.
fn fingerprint(call: &Call) -> u128 {
    let purpose: u128 = match call.purpose {
        Purpose::Act | Purpose::Reserve => 0,
        Purpose::Capture { .. } => 1 << 32,
        Purpose::Release { .. } => 2 << 32,
    };
    u128::from_be_bytes(*call.action_id.as_bytes()) ^ u128::from(call.attempt) ^ purpose
}

/// A number that depends on the action alone, another for each salt (the finaliser of SplitMix64).
fn draw(action_id: ActionId, salt: u64) -> u64 {
    let bits = u128::from_be_bytes(*action_id.as_bytes());
    let folded =
        u64::try_from(bits >> 64).unwrap_or(0) ^ u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    let mut mixed = folded.wrapping_add((salt + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

const MOST_DELAY_MS: u64 = 60_000;
const A_DAY: Duration = Duration::from_secs(86_400);
