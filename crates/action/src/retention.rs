//! How long the record of an action is kept, and when it is erased: one grammar for catalogue and requests.
//!
//! ```text
//!   period     30_days   6_months   7_years      (or 30d, 6m, 7y)
//!   retention  a period: until then nobody can erase it
//!   deletion   none   hard_delete_<period>   hard_delete_after_retention
//! ```
//!
//! Both count from when the action is settled, which is the last thing that came of it, and the retention goes before: what
//! is to be deleted earlier is deleted as soon as it is over. What only a request wants deleted also waits for as long as the
//! action is needed: to undo it, and as evidence against whoever asked for it.

use std::cmp::Ordering;
use std::fmt;

/// A time in whole days. Two that are as long are equal in all but their words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Period {
    count: u32,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unit {
    Days,
    Months,
    Years,
}

/// When what an action was about is erased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Deletion {
    /// Only when somebody asks for it.
    #[default]
    Never,
    /// As soon as it may be.
    AfterRetention,
    /// So long after the action is settled.
    After(Period),
}

/// How long an action's record is kept and when it is erased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Keeping {
    retention: Option<Period>,
    /// INVARIANT: after a retention only where there is one.
    deletion: Deletion,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct AskedKeeping {
    /// Nobody may erase it for so long.
    pub retention: Option<Period>,
    /// When it is to be erased.
    pub deletion: Deletion,
}

/// What is to be erased once its retention is over has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no retention to delete after")]
pub struct NoRetention;

impl Period {
    /// What is expected, for whoever wrote something else.
    pub const EXPECTED: &str = "a time such as `30_days`, `6_months` or `7_years`, at most 100 years";

    const MOST_DAYS: u32 = 36_600;

    /// Reads `30_days`, `6_months`, `7_years`, or `30d`, `6m`, `7y`: at most a hundred years.
    pub fn parse(text: &str) -> Option<Period> {
        let end = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = text.split_at(end);
        let unit = match unit {
            "d" | "_day" | "_days" => Unit::Days,
            "m" | "_month" | "_months" => Unit::Months,
            "y" | "_year" | "_years" => Unit::Years,
            _ => return None,
        };
        let count: u32 = if (1..=5).contains(&end) { count.parse().ok()? } else { return None };
        let period = Period { count, unit };
        (1..=Self::MOST_DAYS).contains(&period.days()).then_some(period)
    }

    /// So many days, if they are a period; more than the longest are the longest.
    pub fn of_days(days: u64) -> Option<Period> {
        let count = u32::try_from(days).unwrap_or(u32::MAX).min(Self::MOST_DAYS);
        (count > 0).then_some(Period { count, unit: Unit::Days })
    }

    /// How many days; a month counts 31 and a year 366, so that rounding never shortens.
    pub fn days(self) -> u32 {
        self.count
            * match self.unit {
                Unit::Days => 1,
                Unit::Months => 31,
                Unit::Years => 366,
            }
    }

    /// In milliseconds.
    pub fn millis(self) -> i64 {
        i64::from(self.days()) * 86_400_000
    }
}

impl Deletion {
    /// What is expected, for whoever wrote something else.
    pub const EXPECTED: &str =
        "`none`, `hard_delete_after_retention`, or a time such as `hard_delete_30_days`";

    /// Reads `none`, `hard_delete_after_retention` or `hard_delete_` and a period.
    pub fn parse(text: &str) -> Option<Deletion> {
        match text {
            "none" => Some(Deletion::Never),
            "hard_delete_after_retention" => Some(Deletion::AfterRetention),
            _ => Period::parse(text.strip_prefix("hard_delete_")?).map(Deletion::After),
        }
    }

    /// How long after the action is settled, where it is kept for that long.
    fn after(self, retention: Option<Period>) -> Option<Period> {
        match self {
            Deletion::Never => None,
            Deletion::AfterRetention => retention,
            Deletion::After(period) => Some(period),
        }
    }

    /// The same, but not before so long after the action is settled.
    fn no_sooner_than(self, needed: Option<Period>, retention: Option<Period>) -> Deletion {
        match (self.after(retention), needed) {
            (Some(asked), Some(needed)) if asked < needed => Deletion::After(needed),
            _ => self,
        }
    }

    fn earlier(self, other: Deletion, retention: Option<Period>) -> Deletion {
        match (self.after(retention), other.after(retention)) {
            (_, None) => self,
            (Some(own), Some(other)) if own <= other => self,
            _ => other,
        }
    }
}

impl Keeping {
    /// What a catalogue declares.
    ///
    /// # Errors
    /// If there is no retention to delete after.
    pub fn new(retention: Option<Period>, deletion: Deletion) -> Result<Keeping, NoRetention> {
        match (deletion, retention) {
            (Deletion::AfterRetention, None) => Err(NoRetention),
            _ => Ok(Keeping { retention, deletion }),
        }
    }

    /// With what a request asks for, as far as that keeps longer or deletes earlier. It deletes nothing that is needed for so
    /// long after the action is settled.
    ///
    /// # Errors
    /// If there is no retention to delete after.
    pub fn tightened(self, asked: AskedKeeping, needed: Option<Period>) -> Result<Keeping, NoRetention> {
        let kept = self.retention.max(asked.retention);
        Keeping::new(kept, asked.deletion)?;
        let asked = asked.deletion.no_sooner_than(needed, kept);
        Ok(Keeping { retention: kept, deletion: self.deletion.earlier(asked, kept) })
    }

    /// How long nobody can erase it.
    pub fn retention(self) -> Option<Period> {
        self.retention
    }

    /// When it is erased.
    pub fn deletion(self) -> Deletion {
        self.deletion
    }

    /// How long after the action is settled it is erased, if it is by itself: not before its retention is over.
    pub fn deleted_after(self) -> Option<Period> {
        self.deletion.after(self.retention).max(self.retention.filter(|_| self.deletion != Deletion::Never))
    }
}

impl Ord for Period {
    /// Longer is greater; of two that are as long, the one in smaller units is less.
    fn cmp(&self, other: &Period) -> Ordering {
        self.days().cmp(&other.days()).then_with(|| other.count.cmp(&self.count))
    }
}

impl PartialOrd for Period {
    fn partial_cmp(&self, other: &Period) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Period { count, unit } = self;
        let unit = match unit {
            Unit::Days => "day",
            Unit::Months => "month",
            Unit::Years => "year",
        };
        write!(f, "{count}_{unit}{}", if *count == 1 { "" } else { "s" })
    }
}

impl fmt::Display for Deletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deletion::Never => f.write_str("none"),
            Deletion::AfterRetention => f.write_str("hard_delete_after_retention"),
            Deletion::After(period) => write!(f, "hard_delete_{period}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn periods_are_read_bounded_and_written_in_one_way() {
        let read = |text| Period::parse(text).map(|period| (period.days(), period.to_string()));
        let is = |days, text: &str| Some((days, text.to_owned()));
        assert_eq!(read("30_days"), is(30, "30_days"));
        assert_eq!(read("30d"), is(30, "30_days"));
        assert_eq!(read("1_month"), is(31, "1_month"));
        assert_eq!(read("6m"), is(186, "6_months"));
        assert_eq!(read("7_years"), is(2562, "7_years"));
        assert_eq!(read("007y"), is(2562, "7_years"));
        for wrong in [
            "",
            "7",
            "7_",
            "_days",
            "0_days",
            "-1_days",
            "+1_days",
            "7_weeks",
            "101_years",
            "99999999_days",
            "7 years",
            "7_YEARS",
            "d",
            "30_d",
            "30days",
            "٣_days",
            "7_years ",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn deletions_are_read_and_written_in_one_way() {
        let read = |text| Deletion::parse(text).map(|deletion| deletion.to_string());
        for (text, written) in [
            ("none", "none"),
            ("hard_delete_30d", "hard_delete_30_days"),
            ("hard_delete_90_days", "hard_delete_90_days"),
            ("hard_delete_after_retention", "hard_delete_after_retention"),
        ] {
            assert_eq!(read(text).as_deref(), Some(written));
            assert_eq!(read(written).as_deref(), Some(written));
        }
        for wrong in ["", "None", "hard_delete", "hard_delete_", "hard_delete_0d", "soft_delete_30d", "30d"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nothing_is_deleted_before_its_retention_is_over() {
        let period = |text: &str| Period::parse(text).unwrap();
        let after = |text| Deletion::After(period(text));
        let days = |kept: Option<&str>, deletion| {
            Keeping::new(kept.map(period), deletion).unwrap().deleted_after().map(Period::days)
        };
        assert_eq!(days(None, after("30d")), Some(30));
        assert_eq!(days(Some("90d"), after("6_months")), Some(186));
        assert_eq!(days(Some("7_years"), after("30d")), Some(2562), "as soon as it may be");
        assert_eq!(days(Some("7_years"), Deletion::AfterRetention), Some(2562));
        assert_eq!(days(Some("7_years"), Deletion::Never), None);
        let asked = AskedKeeping { retention: None, deletion: Deletion::AfterRetention };
        assert_eq!(Keeping::default().tightened(asked, None), Err(NoRetention));
    }

    #[test]
    fn a_request_deletes_nothing_that_is_still_needed() {
        let period = |text: &str| Period::parse(text).unwrap();
        let after = |text| Deletion::After(period(text));
        let asked = |retention: Option<&str>, deletion, catalogue: Keeping, needed: Option<&str>| {
            let asked = AskedKeeping { retention: retention.map(period), deletion };
            catalogue.tightened(asked, needed.map(period)).unwrap().deleted_after().map(Period::days)
        };
        let silent = Keeping::default();
        assert_eq!(asked(None, after("1d"), silent, None), Some(1));
        assert_eq!(asked(None, after("1d"), silent, Some("30d")), Some(30));
        assert_eq!(asked(None, after("90d"), silent, Some("30d")), Some(90));
        assert_eq!(asked(Some("1d"), Deletion::AfterRetention, silent, Some("30d")), Some(30));
        assert_eq!(asked(Some("90d"), Deletion::AfterRetention, silent, Some("30d")), Some(90));
        assert_eq!(asked(None, Deletion::Never, silent, Some("30d")), None);
        // What the catalogue says is the operator's own word.
        let early = Keeping::new(None, after("1d")).unwrap();
        assert_eq!(asked(None, after("2d"), early, Some("30d")), Some(1));
        let late = Keeping::new(None, after("1_years")).unwrap();
        assert_eq!(asked(None, after("1d"), late, Some("30d")), Some(30));
    }

    #[test]
    fn days_are_a_period_within_bounds() {
        let days = |days| Period::of_days(days).map(|period| (period.days(), period.to_string()));
        assert_eq!(days(0), None);
        assert_eq!(days(1), Some((1, "1_day".to_owned())));
        assert_eq!(days(30), Some((30, "30_days".to_owned())));
        assert_eq!(days(u64::MAX), Some((36_600, "36600_days".to_owned())));
    }

    fn periods() -> impl Strategy<Value = Period> {
        (1..100_u32, 0..3_usize)
            .prop_map(|(count, unit)| Period { count, unit: [Unit::Days, Unit::Months, Unit::Years][unit] })
    }

    fn deletions() -> impl Strategy<Value = Deletion> {
        prop_oneof![
            Just(Deletion::Never),
            Just(Deletion::AfterRetention),
            periods().prop_map(Deletion::After)
        ]
    }

    proptest! {
        #[test]
        fn a_request_can_only_keep_longer_and_delete_earlier(
            kept in proptest::option::of(periods()), deleted in deletions(),
            retention in proptest::option::of(periods()), deletion in deletions(),
            needed in proptest::option::of(periods()),
        ) {
            let Ok(catalogue) = Keeping::new(kept, deleted) else { return Ok(()) };
            let asked = AskedKeeping { retention, deletion };
            let Ok(it) = catalogue.tightened(asked, needed) else { return Ok(()) };
            prop_assert!(it.retention() >= catalogue.retention() && it.retention() >= retention);
            let days = |period: Option<Period>| period.map_or(u32::MAX, Period::days);
            let own = |deletion: Deletion| days(deletion.after(it.retention()));
            let wanted = if deletion == Deletion::Never { u32::MAX } else {
                own(deletion).max(needed.map_or(0, Period::days))
            };
            prop_assert_eq!(own(it.deletion()), own(deleted).min(wanted));
            prop_assert!(it.retention().is_none_or(|kept| days(it.deleted_after()) >= kept.days()));
            prop_assert_eq!(it.tightened(asked, needed), Ok(it));
        }

        #[test]
        fn periods_read_back(period in periods()) {
            prop_assert_eq!(Period::parse(&period.to_string()), Some(period));
        }
    }
}
