//! Room that tenants share.

use std::collections::BTreeMap;

use action::Tenant;

/// Of too many that are held, in the order of time, the one that makes room: the oldest of whichever tenant has most of them. So a
/// tenant may have all the room that others leave, and takes none away from who has less.
pub fn makes_room<'a, K>(mut held: impl Iterator<Item = (K, &'a Tenant)> + Clone) -> Option<K> {
    let mut counts: BTreeMap<&Tenant, usize> = BTreeMap::new();
    for (_, tenant) in held.clone() {
        *counts.entry(tenant).or_default() += 1;
    }
    let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    held.find(|(_, tenant)| *tenant == most).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_whoever_has_most_makes_room() {
        let [a, b] = ["a", "b"].map(|name| Tenant::parse(name).expect("it is a name"));
        let goes = |held: &[&Tenant]| makes_room(held.iter().copied().enumerate());
        assert_eq!(goes(&[&a, &b, &b]), Some(1));
        assert_eq!(goes(&[&b, &a, &a, &b, &a]), Some(1));
        assert_eq!(goes(&[&b]), Some(0));
        assert_eq!(goes(&[]), None);
    }
}
