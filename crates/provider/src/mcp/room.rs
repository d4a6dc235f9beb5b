//! Room that tenants share.

use std::collections::BTreeMap;

use action::Tenant;

/// What is kept of many tenants, in the order of time. Of too many one makes room: the oldest of whichever tenant has most of them.
/// So a tenant may have all the room that others leave, and takes none away from who has less.
#[derive(Debug)]
pub struct Room<K, V>(BTreeMap<K, (Tenant, V)>);

/// So much is kept.
pub const MOST: usize = 1024;

impl<K, V> Default for Room<K, V> {
    fn default() -> Room<K, V> {
        Room(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V> Room<K, V> {
    /// Keeps this for a tenant, under a key that tells its time.
    pub fn keep(&mut self, tenant: &Tenant, key: K, value: V) {
        self.0.insert(key, (tenant.clone(), value));
        if self.0.len() > MOST
            && let Some(gone) = self.makes_room()
        {
            self.0.remove(&gone);
        }
    }

    fn makes_room(&self) -> Option<K> {
        let mut counts: BTreeMap<&Tenant, usize> = BTreeMap::new();
        for (tenant, _) in self.0.values() {
            *counts.entry(tenant).or_default() += 1;
        }
        let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        self.0.iter().find(|(_, (tenant, _))| tenant == most).map(|(key, _)| key.clone())
    }

    /// What is kept under this key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key).map(|(_, value)| value)
    }

    /// Keeps it no longer.
    pub fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// All of it, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, (_, value))| (key, value))
    }

    /// Keeps only what is like this.
    pub fn retain(&mut self, is_kept: impl Fn(&V) -> bool) {
        self.0.retain(|_, (_, value)| is_kept(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_whoever_has_most_makes_room() {
        let [a, b] = ["a", "b"].map(|name| Tenant::parse(name).expect("it is a name"));
        let mut room = Room::default();
        room.keep(&b, 0, ());
        for at in 1..=MOST {
            room.keep(&a, at, ());
        }
        let kept = |room: &Room<usize, ()>, key: usize| room.get(&key).is_some();
        assert!(kept(&room, 0), "older than all of them");
        assert!(!kept(&room, 1) && kept(&room, 2), "of its own the oldest made room");
        // Who has less has the room of whoever has most.
        room.keep(&b, MOST + 1, ());
        assert!(kept(&room, 0) && kept(&room, MOST + 1) && !kept(&room, 2));
        assert_eq!(room.iter().count(), MOST);
    }
}
