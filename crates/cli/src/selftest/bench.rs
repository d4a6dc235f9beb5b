//! The bench: where commands that the clients run themselves leave their effects. Like a command that recognises
//! `COUNTERSIGN_PROVIDER_KEY`, it does for each key what it does once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::chance::Chance;
use super::line::lock;

#[derive(Default)]
pub(super) struct Bench(Mutex<Done>);

#[derive(Default)]
struct Done {
    keys: BTreeSet<String>,
    by_reference: BTreeMap<String, u64>,
}

/// How a command and its runner fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Luck {
    /// It has its effect.
    pub(super) effect: bool,
    /// What its runner says of it; nothing if the runner dies before that.
    pub(super) exit: Option<u8>,
    /// The runner brings its report once more.
    pub(super) twice: bool,
}

impl Bench {
    pub(super) fn run(&self, reference: &str, provider_key: &str) {
        let mut done = lock(&self.0);
        if done.keys.insert(provider_key.to_owned()) {
            *done.by_reference.entry(reference.to_owned()).or_default() += 1;
        }
    }

    pub(super) fn effects(&self) -> BTreeMap<String, u64> {
        lock(&self.0).by_reference.clone()
    }
}

impl Luck {
    /// A third of all runs goes wrong.
    pub(super) fn draw(chance: &mut Chance) -> Luck {
        let (effect, exit, twice) = match chance.between(0, 17) {
            0 => (false, None, false),
            1 => (true, None, false),
            2 => (false, Some(NOT_YET), false),
            3 => (false, Some(WHO_KNOWS), false),
            4 => (true, Some(WHO_KNOWS), false),
            5 => (true, Some(0), true),
            _ => (true, Some(0), false),
        };
        Luck { effect, exit, twice }
    }
}

/// The exit code of a command that did nothing and may fare better.
const NOT_YET: u8 = 75;
/// One that the binding does not list: there may be an effect.
const WHO_KNOWS: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognised_and_another_one_is_another_effect() {
        let bench = Bench::default();
        bench.run("a-1", "k1");
        bench.run("a-1", "k1");
        assert_eq!(bench.effects()["a-1"], 1);
        bench.run("a-1", "k2");
        assert_eq!(bench.effects()["a-1"], 2);
    }
}
