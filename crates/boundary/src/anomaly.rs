//! Whether an amount is unlike the ones before it. Whole numbers only, so that every machine agrees.

use action::{AnomalyRule, FirstSeen};
use sha2::{Digest, Sha256};

use crate::Series;

/// What the arithmetic found, and the numbers it found it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assessment {
    /// How many earlier amounts there were.
    pub(crate) n: usize,
    /// Their median, rounded down.
    pub(crate) median: i64,
    /// The median of their distances from the median, rounded down.
    pub(crate) mad: i64,
    /// The first limit that the action breaks, if it breaks one.
    pub(crate) outside: Option<Outside>,
    /// Too few earlier amounts to judge by, and the action is above what may pass unjudged.
    pub(crate) cold_start: bool,
    /// A destination never seen before, where the archetype wants a person to look at those.
    pub(crate) first_seen: bool,
}

/// The limit that an anomalous action breaks. Private: the caller learns only that there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outside {
    Distance,
    HourSum,
    DaySum,
    HourCount,
}

impl Outside {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Outside::Distance => "distance",
            Outside::HourSum => "hour_sum",
            Outside::DaySum => "day_sum",
            Outside::HourCount => "hour_count",
        }
    }
}

/// Judges an amount in minor units (`None` where no money moves) against what came before it.
pub(crate) fn assess(
    rule: &AnomalyRule,
    series: &Series,
    amount: Option<i64>,
    first_seen: bool,
    now_ms: i64,
) -> Assessment {
    let mut sample: Vec<i64> = series.amounts().collect();
    let (n, median) = (sample.len(), median(&mut sample));
    sample.iter_mut().for_each(|x| *x = clamp((i128::from(*x) - i128::from(median)).abs()));
    let mad = self::median(&mut sample);
    let cold = n < rule.min_sample as usize;

    let far = || amount.is_some_and(|x| !cold && is_far(x, median, mad, rule.k));
    let (hour_sum, hour_count) = series.hour(now_ms);
    let (day_sum, _) = series.day(now_ms);
    let above = |sum: i64, limit: Option<i64>| match (amount, limit) {
        (Some(x), Some(limit)) => i128::from(sum) + i128::from(x) > i128::from(limit),
        _ => false,
    };
    let outside = if far() {
        Some(Outside::Distance)
    } else if above(hour_sum, rule.hour_sum) {
        Some(Outside::HourSum)
    } else if above(day_sum, rule.day_sum) {
        Some(Outside::DaySum)
    } else if rule.hour_count.is_some_and(|limit| hour_count >= u64::from(limit)) {
        Some(Outside::HourCount)
    } else {
        None
    };

    let exceeds = |limit: i64| amount.is_some_and(|x| x > limit);
    Assessment {
        n,
        median,
        mad,
        outside,
        cold_start: cold && rule.cold_start_threshold.is_some_and(exceeds),
        first_seen: first_seen
            && match rule.first_seen {
                FirstSeen::Allow => false,
                FirstSeen::Escalate => true,
                FirstSeen::EscalateAbove(limit) => exceeds(limit),
            },
    }
}

/// `6745·|x-m| > 10000·k·max(MAD, 5 % of the median, 1)`: 0.6745 scales the MAD to a standard deviation. The products
/// need 13 and 46 bits beyond an amount's 65, so 128 always suffice.
fn is_far(x: i64, median: i64, mad: i64, k: u32) -> bool {
    let distance = (i128::from(x) - i128::from(median)).abs();
    let scale = i128::from(mad.max(median / 20).max(1));
    6745 * distance > 10_000 * i128::from(k) * scale
}

/// The middle amount, or the mean of the two middle ones rounded down; zero for none. Reorders its argument.
fn median(sample: &mut [i64]) -> i64 {
    if sample.is_empty() {
        return 0;
    }
    let middle = sample.len() / 2;
    let odd = sample.len() % 2 == 1;
    let (below, upper, _) = sample.select_nth_unstable(middle);
    match below.iter().max() {
        Some(lower) if !odd => clamp((i128::from(*lower) + i128::from(*upper)).div_euclid(2)),
        _ => *upper,
    }
}

fn clamp(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// Binds the receipt to the sample without showing it: SHA-256 over the salt and the amounts, oldest first, eight bytes
/// each, highest byte first.
pub(crate) fn commitment(salt: &[u8; 32], series: &Series) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(32 + series.amounts().len() * 8);
    bytes.extend_from_slice(salt);
    series.amounts().for_each(|minor| bytes.extend_from_slice(&minor.to_be_bytes()));
    Sha256::digest(&bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: AnomalyRule = AnomalyRule {
        k: 6,
        min_sample: 5,
        cold_start_threshold: Some(50_000),
        hour_sum: None,
        day_sum: None,
        hour_count: None,
        first_seen: FirstSeen::Allow,
    };

    fn series(amounts: &[i64]) -> Series {
        let mut series = Series::default();
        amounts.iter().for_each(|minor| series.push(0, *minor));
        series
    }

    #[track_caller]
    fn check(amounts: &[i64], x: i64, expected: Option<Outside>) {
        assert_eq!(assess(&RULE, &series(amounts), Some(x), false, 0).outside, expected);
    }

    #[test]
    fn an_amount_is_judged_by_its_distance_from_the_median() {
        let usual = [10_000, 10_100, 9_900, 10_050, 9_950];
        check(&usual, 10_400, None);
        // MAD is 50, 5 % of the median 500: 6745·d > 60000·500 from d = 4448 on.
        check(&usual, 14_447, None);
        check(&usual, 14_448, Some(Outside::Distance));
        check(&usual, 5_552, Some(Outside::Distance));
        // A principal who always pays the same is not blocked by a cent.
        check(&[7; 64], 8, None);
        check(&[0; 64], 8, None);
        check(&[0; 64], 9, Some(Outside::Distance));
    }

    #[test]
    fn extremes_do_not_overflow() {
        check(&[i64::MAX; 64], i64::MAX, None);
        check(&[i64::MAX; 64], 0, Some(Outside::Distance));
        check(&[0; 64], i64::MAX, Some(Outside::Distance));
        check(&[i64::MIN; 64], i64::MAX, Some(Outside::Distance));
        check(&[i64::MIN, i64::MIN, i64::MIN, i64::MAX, i64::MAX, i64::MAX], i64::MAX, None);
        let rule = AnomalyRule { k: u32::MAX, hour_sum: Some(i64::MAX), day_sum: Some(i64::MAX), ..RULE };
        let full = series(&[i64::MAX; 64]);
        assert_eq!(assess(&rule, &full, Some(i64::MAX), false, 0).outside, Some(Outside::HourSum));
    }

    #[test]
    fn a_cold_start_waits_only_above_its_threshold() {
        let few = series(&[100, 100]);
        assert!(!assess(&RULE, &few, Some(50_000), false, 0).cold_start);
        assert!(assess(&RULE, &few, Some(50_001), false, 0).cold_start);
        assert!(!assess(&RULE, &series(&[40_000; 5]), Some(50_001), false, 0).cold_start);
        assert_eq!(assess(&RULE, &few, Some(i64::MAX), false, 0).outside, None);
    }

    #[test]
    fn sums_and_rates_count_the_action_itself() {
        let earlier = series(&[100, 100, 100]);
        let rule = AnomalyRule { hour_sum: Some(400), ..RULE };
        assert_eq!(assess(&rule, &earlier, Some(100), false, 0).outside, None);
        assert_eq!(assess(&rule, &earlier, Some(101), false, 0).outside, Some(Outside::HourSum));
        let rule = AnomalyRule { day_sum: Some(400), ..RULE };
        let next_hour = 3_600_000;
        assert_eq!(assess(&rule, &earlier, Some(101), false, next_hour).outside, Some(Outside::DaySum));
        assert_eq!(assess(&rule, &earlier, Some(101), false, 24 * next_hour).outside, None);
        let rule = AnomalyRule { hour_count: Some(3), ..RULE };
        assert_eq!(assess(&rule, &earlier, None, false, 0).outside, Some(Outside::HourCount));
        assert_eq!(assess(&rule, &earlier, None, false, next_hour).outside, None);
    }

    #[test]
    fn a_new_destination_waits_where_the_archetype_says_so() {
        let first_seen = |rule: FirstSeen, x| {
            assess(&AnomalyRule { first_seen: rule, ..RULE }, &Series::default(), Some(x), true, 0).first_seen
        };
        assert!(!first_seen(FirstSeen::Allow, i64::MAX));
        assert!(first_seen(FirstSeen::Escalate, 0));
        assert!(!first_seen(FirstSeen::EscalateAbove(10), 10));
        assert!(first_seen(FirstSeen::EscalateAbove(10), 11));
    }

    #[test]
    fn the_commitment_binds_every_amount_and_their_order() {
        let of = |amounts: &[i64]| commitment(&[7; 32], &series(amounts));
        assert_eq!(of(&[1, 2]), of(&[1, 2]));
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_ne!(commitment(&[8; 32], &series(&[1, 2])), of(&[1, 2]));
    }
}
