//! A bounded cache that forgets what was not used of late.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Two generations: what is used moves to the young one; when that is full it becomes the old one, and what was old
/// is forgotten. Holds at most twice `limit`.
#[derive(Debug)]
pub(crate) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    limit: usize,
}

impl<K: Eq + Hash, V: Clone> Generations<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Generations { young: HashMap::new(), old: HashMap::new(), limit }
    }

    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.limit && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut cache = Generations::new(10);
        cache.insert(0, "kept");
        for number in 1..1000 {
            cache.insert(number, "other");
            assert_eq!(cache.get(&0), Some("kept"));
            assert!(cache.young.len() + cache.old.len() <= 20);
        }
        assert_eq!(cache.get(&1), None);
    }

    #[test]
    fn an_old_value_never_hides_a_new_one() {
        let mut cache = Generations::new(2);
        for round in 0..50 {
            for key in 0..3 {
                cache.insert(key, round);
                assert_eq!(cache.get(&key), Some(round));
            }
        }
    }
}
