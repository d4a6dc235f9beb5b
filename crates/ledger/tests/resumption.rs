//! Whatever happens in whatever order to actions that wait for people: none is sent twice, none above a cap, none
//! while it is frozen, none under a revoked mandate, none beside another with the same effect, and none that not
//! everybody who is needed agreed to. Nor is anything charged twice that was only reserved.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::collections::BTreeSet;

use action::{ActionId, Tenant};
use common::*;
use ledger::Postgres;
use ledger::{
    Admission, Admitted, Approval, Basis, By, Error, Hold, Ledger, Memory, Obstacle, Scope, Settlement, State,
};
use proptest::prelude::*;

const CAP: i64 = 1000;
const MANDATES: [&str; 2] = ["m0", "m1"];

/// One thing that happens to one of a few actions. Each has an effect of its own and draws on one of two mandates.
#[derive(Clone, Debug)]
enum Step {
    Hold {
        needed: u32,
    },
    Approve {
        person: u8,
        round: u32,
    },
    Resume {
        minor: i64,
        round: u32,
    },
    HoldAgain {
        needed: u32,
        round: u32,
    },
    /// Nobody has decided; it is asked about anew.
    AskAnew {
        needed: u32,
        round: u32,
        /// Somebody tries to send it by that.
        sends: bool,
    },
    Expire,
    Settle {
        executed: bool,
    },
    /// Money is set aside for it, or the next step of setting that free begins.
    Reserve,
    /// It is marked sent to be charged what is set aside.
    Charge,
    /// It was carried out, and charged so much.
    Part {
        minor: i64,
    },
    /// Another action with the same effect under the same mandate, which does not wait.
    Overtake {
        minor: i64,
    },
    Freeze,
    Thaw,
    Revoke,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let (needed, round, minor) = (1..3_u32, prop_oneof![8 => Just(1_u32), 2 => 2..4_u32], 1..700_i64);
    let step = prop_oneof![
        6 => needed.clone().prop_map(|needed| Step::Hold { needed }),
        12 => (0..3_u8, round.clone()).prop_map(|(person, round)| Step::Approve { person, round }),
        10 => (minor.clone(), round.clone()).prop_map(|(minor, round)| Step::Resume { minor, round }),
        3 => (needed.clone(), round.clone()).prop_map(|(needed, round)| Step::HoldAgain { needed, round }),
        3 => (needed, round, any::<bool>())
            .prop_map(|(needed, round, sends)| Step::AskAnew { needed, round, sends }),
        2 => Just(Step::Expire),
        3 => any::<bool>().prop_map(|executed| Step::Settle { executed }),
        4 => Just(Step::Reserve),
        4 => Just(Step::Charge),
        2 => minor.clone().prop_map(|minor| Step::Part { minor }),
        2 => minor.prop_map(|minor| Step::Overtake { minor }),
        1 => Just(Step::Freeze),
        3 => Just(Step::Thaw),
        1 => Just(Step::Revoke),
    ];
    (0..4_usize, step)
}

/// What is true of an action by what was answered, in the plainest words.
#[derive(Default)]
struct Known {
    id: Option<ActionId>,
    state: Option<State>,
    round: u32,
    needed: u32,
    /// How often it changed hands.
    token: u32,
    agreed: BTreeSet<u8>,
    spent: i64,
    /// Of those with the same effect that did not wait: whether one stands.
    overtaken: bool,
}

impl Known {
    fn is_held_again(&mut self, needed: u32) {
        (self.state, self.needed) = (Some(State::Held), needed);
        self.round += 1;
        self.token += 1;
        self.agreed.clear();
    }
}

struct World<'a> {
    ledger: &'a dyn Ledger,
    known: [Known; 4],
    frozen: bool,
    revoked: [bool; 2],
    spent: [i64; 2],
    overtakers: u32,
}

impl World<'_> {
    fn new(ledger: &dyn Ledger) -> World<'_> {
        let known = Default::default();
        World { ledger, known, frozen: false, revoked: [false; 2], spent: [0; 2], overtakers: 0 }
    }

    fn take(&mut self, number: usize, step: &Step) {
        match *step {
            Step::Hold { needed } => self.hold(number, needed),
            Step::Approve { person, round } => self.approve(number, person, round),
            Step::Resume { minor, round } => self.resume(number, minor, round),
            Step::HoldAgain { needed, round } => self.hold_again(number, needed, round),
            Step::AskAnew { needed, round, sends } => self.ask_anew(number, needed, round, sends),
            Step::Expire => self.settle(number, State::Refused),
            Step::Settle { executed: true } => self.settle(number, State::Executed),
            Step::Settle { executed: false } => self.settle(number, State::Failed),
            Step::Reserve => self.reserve(number),
            Step::Charge => self.charge(number),
            Step::Part { minor } => self.part(number, minor),
            Step::Overtake { minor } => self.overtake(number, minor),
            Step::Freeze => self.freeze(),
            Step::Thaw => {
                drop(wait(self.ledger.thaw(Scope::All, event("thawed"))).map(|_| self.frozen = false))
            }
            Step::Revoke => {
                wait(self.ledger.revoke(&Tenant::default(), MANDATES[number % 2], event("revoked"))).unwrap();
                self.revoked[number % 2] = true;
            }
        }
        for (mandate, spent_by_us) in MANDATES.iter().zip(self.spent) {
            assert_eq!(spent(self.ledger, mandate), spent_by_us);
            assert!(spent_by_us <= CAP);
        }
    }

    fn asked(number: usize, minor: i64) -> Admission {
        let mandate = MANDATES[number % 2];
        Admission { effect: effect(number as u8), ..payment(&format!("k{number}"), minor, &[mandate]) }
    }

    fn held(number: usize, needed: u32) -> Admission {
        let mut asked = World::asked(number, 1);
        asked.effect.as_mut().unwrap().tolerate = ledger::Tolerance::Anything;
        Admission { debits: Vec::new(), ..holding(asked, Hold { needed, ..hold(NOW + 1000) }) }
    }

    fn hold(&mut self, number: usize, needed: u32) {
        let admission = World::held(number, needed);
        let id = admission.intent.id;
        let expected = match (&self.known[number].id, self.frozen) {
            (Some(_), _) => "existing",
            (None, true) => "frozen",
            (None, false) => "new",
        };
        assert_eq!(word(&admit(self.ledger, admission)), expected);
        if expected == "new" {
            let known = &mut self.known[number];
            (known.id, known.state, known.round, known.needed) = (Some(id), Some(State::Held), 1, needed);
            known.token = 1;
        }
    }

    fn approve(&mut self, number: usize, person: u8, round: u32) {
        let known = &mut self.known[number];
        let Some(id) = known.id else { return };
        let said = wait(self.ledger.approve(Approval { round, ..approval(id, &format!("person-{person}")) }));
        let open = known.state == Some(State::Held) && known.round == round;
        match said {
            Ok(counted) => {
                assert!(open && known.agreed.insert(person), "{person} counts once, for this hold");
                assert_eq!(counted.given as usize, known.agreed.len());
                known.token += 1;
                if counted.is_enough() {
                    known.state = Some(State::Approved);
                }
                assert_eq!(counted.is_enough(), known.agreed.len() >= known.needed as usize);
            }
            Err(Error::Exists(_)) => assert!(open && known.agreed.contains(&person)),
            Err(Error::Illegal { .. }) => assert!(!open),
            Err(other) => panic!("{other}"),
        }
    }

    /// What stands in the way of going on, in the order in which it is looked at.
    fn way(&self, number: usize, round: u32) -> &'static str {
        let known = &self.known[number];
        match known.state {
            Some(State::Approved) if known.round == round && self.frozen => "frozen",
            Some(State::Approved) if known.round == round => "new",
            _ => "not approved",
        }
    }

    fn resume(&mut self, number: usize, minor: i64, round: u32) {
        let Some(id) = self.known[number].id else { return };
        let mandate = number % 2;
        let expected = match self.way(number, round) {
            "new" if self.revoked[mandate] => "revoked",
            "new" if self.spent[mandate] + minor > CAP => "cap exceeded",
            "new" if self.known[number].overtaken => "duplicate",
            other => other,
        };
        assert_eq!(word(&resume_of(self.ledger, id, round, World::asked(number, minor))), expected);
        if expected == "new" {
            self.spent[mandate] += minor;
            let known = &mut self.known[number];
            (known.state, known.spent) = (Some(State::Sent), minor);
            known.token += 1;
        }
    }

    fn hold_again(&mut self, number: usize, needed: u32, round: u32) {
        let Some(id) = self.known[number].id else { return };
        let expected = self.way(number, round);
        assert_eq!(word(&resume_of(self.ledger, id, round, World::held(number, needed))), expected);
        if expected == "new" {
            self.known[number].is_held_again(needed);
        }
    }

    fn ask_anew(&mut self, number: usize, needed: u32, round: u32, sends: bool) {
        let known = &self.known[number];
        let Some(id) = known.id else { return };
        let waits = known.state == Some(State::Held) && known.round == round;
        let expected = match (waits && !sends, self.frozen) {
            (false, _) => "not approved",
            (true, true) => "frozen",
            (true, false) => "new",
        };
        let admission = if sends { World::asked(number, 1) } else { World::held(number, needed) };
        assert_eq!(word(&resume_from(self.ledger, id, Basis::Held { round }, admission)), expected);
        if expected == "new" {
            self.known[number].is_held_again(needed);
        }
    }

    fn settle(&mut self, number: usize, to: State) {
        let known = &mut self.known[number];
        let (Some(id), Some(from)) = (known.id, known.state) else { return };
        let charged = (to != State::Executed).then_some(0);
        let by = By::Holder(known.token);
        let settlement = Settlement { charged, by, ..settlement(id, to, &id.to_string()) };
        let settled = wait(self.ledger.settle(settlement));
        assert_eq!(settled.is_ok(), from.may_settle(to), "{from} to {to}");
        if settled.is_ok() {
            known.state = Some(to);
            if to != State::Executed {
                self.spent[number % 2] -= std::mem::take(&mut known.spent);
            }
        }
    }

    fn reserve(&mut self, number: usize) {
        let known = &mut self.known[number];
        let (Some(id), Some(from)) = (known.id, known.state) else { return };
        let rests = resting(State::Reserved, deferral(id, known.token, NOW + 1000));
        let rested = wait(self.ledger.defer(rests));
        assert_eq!(rested.is_ok(), from.may_defer(State::Reserved), "{from}");
        if rested.is_ok() {
            known.state = Some(State::Reserved);
            known.token += 1;
        }
    }

    fn charge(&mut self, number: usize) {
        let known = &self.known[number];
        let Some(id) = known.id else { return };
        let expected = match known.state {
            Some(state) if !state.may_be_sent_again() => "not approved",
            _ if self.frozen => "frozen",
            _ if self.revoked[number % 2] => "revoked",
            _ => "new",
        };
        let asked = Admission { effect: None, ..World::asked(number, 699) };
        let basis = Basis::Sent { token: known.token };
        assert_eq!(word(&send_again(self.ledger, id, basis, asked)), expected);
        if expected == "new" {
            let known = &mut self.known[number];
            known.state = Some(State::Sent);
            known.token += 1;
        }
    }

    /// What is charged may be less than was reserved.
    fn part(&mut self, number: usize, minor: i64) {
        let known = &mut self.known[number];
        let (Some(id), Some(State::Sent)) = (known.id, known.state) else { return };
        let minor = minor.min(known.spent);
        let by = By::Holder(known.token);
        let part =
            Settlement { charged: Some(minor), by, ..settlement(id, State::Executed, &id.to_string()) };
        wait(self.ledger.settle(part)).unwrap();
        known.state = Some(State::Executed);
        self.spent[number % 2] -= std::mem::replace(&mut known.spent, minor) - minor;
    }

    fn overtake(&mut self, number: usize, minor: i64) {
        self.overtakers += 1;
        let mut other = World::asked(number, minor);
        other.intent.key = Some(format!("other{}", self.overtakers).into());
        let mandate = number % 2;
        let known = &mut self.known[number];
        let expected = match known.state {
            _ if self.frozen => "frozen",
            _ if self.revoked[mandate] => "revoked",
            _ if self.spent[mandate] + minor > CAP => "cap exceeded",
            Some(state) if state.claims_effect() => "duplicate",
            _ if known.overtaken => "duplicate",
            _ => "new",
        };
        assert_eq!(word(&admit(self.ledger, other)), expected);
        if expected == "new" {
            known.overtaken = true;
            self.spent[mandate] += minor;
        }
    }

    fn freeze(&mut self) {
        wait(self.ledger.freeze(freeze(Scope::All), event("frozen"))).unwrap();
        self.frozen = true;
    }
}

fn word(admitted: &Admitted) -> &'static str {
    match admitted {
        Admitted::New { .. } => "new",
        Admitted::Existing(_) => "existing",
        Admitted::Refused(Obstacle::Overtaken) => "not approved",
        Admitted::Refused(Obstacle::Frozen(_)) => "frozen",
        Admitted::Refused(Obstacle::Revoked { .. }) => "revoked",
        Admitted::Refused(Obstacle::CapExceeded { .. }) => "cap exceeded",
        Admitted::Refused(Obstacle::Duplicate(_)) => "duplicate",
        Admitted::Refused(_) => "something else",
    }
}

fn happen(ledger: &dyn Ledger, steps: &[(usize, Step)]) {
    let mut world = World::new(ledger);
    for (number, step) in steps {
        world.take(*number, step);
    }
    wait(ledger.verify()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_order_of_events_sends_what_may_not_be_sent(steps in prop::collection::vec(step(), 1..120)) {
        happen(&Memory::new("chain-1", NOW).unwrap(), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn nor_does_it_where_everything_is_durable(steps in prop::collection::vec(step(), 60..120)) {
        let directory = tempfile::tempdir().unwrap();
        happen(&sqlite(directory.path()), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn nor_where_many_share_it(steps in prop::collection::vec(step(), 60..120)) {
        if let Some(server) = postgres::server() {
            happen(&Postgres::open(access(&server.database())).unwrap(), &steps);
        }
    }
}
