//! The judge: what the banks counted against what the gateway's record, receipts and answers say. Pure, so that it can be
//! shown every kind of violation.

use super::mode::{Level, Mode};

/// One action from all sides.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) mode: Mode,
    pub(super) level: Level,
    pub(super) key: String,
    /// What it was charged by the record, what was paid, and what is still set aside, in minor units.
    pub(super) charged: i64,
    pub(super) paid: i64,
    pub(super) held: i64,
    /// Money was to be set aside for it; its payer was asked; a person had it tried once more, has said what became of it,
    /// had it erased; it was found to be done after its last word was that it had failed.
    pub(super) reserved: bool,
    pub(super) challenged: bool,
    pub(super) again: bool,
    pub(super) resolved: bool,
    pub(super) erased: bool,
    pub(super) late: bool,
    /// The ids it was told of, more than one if something is wrong.
    pub(super) ids: Vec<String>,
    /// Why it was refused before it was an action.
    pub(super) refused: Option<String>,
    /// Kinds of last words, more than one if the word was not kept.
    pub(super) last_words: Vec<String>,
    /// What the record says of it.
    pub(super) record: Option<Stand>,
    /// Effects at the bank.
    pub(super) effects: u64,
    /// Keys under which the effect was given back.
    pub(super) refunds: u64,
    /// What is wrong with receipts that the client was told of, or that the record lists.
    pub(super) receipts: Vec<String>,
}

/// Where an action stands by the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// Nothing was sent yet: it waits for people.
    Waiting,
    /// Sent, fate not known.
    Doubt,
    Completed,
    Failed,
    /// Being undone.
    Undoing,
    RolledBack,
    /// A person decides.
    RollbackFailed,
}

/// What a mandate allowed, what stands against it, and what the bank paid under it.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) mode: Mode,
    pub(super) level: Level,
    pub(super) cap_minor: i64,
    pub(super) spent_minor: i64,
}

/// Everything that is counted beside the cases.
#[derive(Clone, Debug, Default)]
pub(super) struct Around {
    /// References of effects that belong to no action anybody asked for.
    pub(super) strays: Vec<String>,
    /// What the walk over the ledger found.
    pub(super) trail: Vec<String>,
}

/// A kind of wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wrong {
    Doubled,
    Lost,
    Contradicted,
    /// Set aside beyond its life.
    Held,
    ReceiptMissing,
    AboveCap,
    Trail,
    /// A crash point that nothing passed.
    NotPassed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) wrong: Wrong,
    /// The key of the action, or what else it is about.
    pub(super) about: String,
    pub(super) what: String,
}

impl Finding {
    pub(super) fn not_passed(point: &str) -> Finding {
        let what = "no gateway died there".to_owned();
        Finding { wrong: Wrong::NotPassed, about: point.to_owned(), what }
    }
}

pub(super) fn judge(cases: &[Case], accounts: &[Account], around: &Around) -> Vec<Finding> {
    let mut findings: Vec<Finding> = cases.iter().flat_map(of_case).collect();
    findings.extend(accounts.iter().flat_map(|account| of_account(account, cases)));
    let stray = |reference: &String| Finding {
        wrong: Wrong::Lost,
        about: reference.clone(),
        what: "an effect of an action that no client knows of".to_owned(),
    };
    findings.extend(around.strays.iter().map(stray));
    let trail =
        |what: &String| Finding { wrong: Wrong::Trail, about: "the ledger".to_owned(), what: what.clone() };
    findings.extend(around.trail.iter().map(trail));
    findings
}

fn of_case(case: &Case) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut find = |wrong: Wrong, what: String| {
        all.push(Finding { wrong, about: case.key.clone(), what });
    };
    if !case.mode.keeps(case.level) {
        if case.refused.as_deref() != Some(case.mode.refusal()) || case.effects > 0 {
            let what = format!("cannot be promised, and was not refused: {:?}", case.refused);
            find(Wrong::Contradicted, what);
        }
        return all;
    }
    if case.effects > 1 && case.mode != Mode::RepeatSafe {
        find(Wrong::Doubled, format!("{} effects", case.effects));
    }
    if case.refunds > 1 {
        find(Wrong::Doubled, format!("given back under {} keys", case.refunds));
    }
    if case.held > 0 && case.record != Some(Stand::Doubt) {
        find(Wrong::Held, format!("{} are set aside, and the action is {:?}", case.held, case.record));
    }
    if case.ids.len() > 1 {
        find(Wrong::Contradicted, format!("one key, {} actions", case.ids.len()));
    }
    if case.last_words.len() > 1 {
        find(Wrong::Contradicted, format!("the last word changed: {}", case.last_words.join(", ")));
    }
    for what in &case.receipts {
        find(Wrong::ReceiptMissing, what.clone());
    }
    match case.record {
        Some(stand) => {
            if let Some((wrong, what)) = of_stand(stand, case) {
                find(wrong, what);
            }
        }
        None => {
            let why = case.refused.as_ref().map_or("it was never answered".to_owned(), |code| {
                format!("refused before it was an action: {code}")
            });
            find(Wrong::Contradicted, why);
        }
    }
    all
}

/// What the record says, against effects, refunds and the last word.
fn of_stand(stand: Stand, case: &Case) -> Option<(Wrong, String)> {
    let (effects, refunds) = (case.effects, case.refunds);
    let told = case.last_words.first().map(String::as_str);
    match stand {
        Stand::Completed | Stand::Undoing | Stand::RolledBack | Stand::RollbackFailed if effects == 0 => {
            Some((Wrong::Lost, format!("{stand:?}, and no effect")))
        }
        Stand::Failed | Stand::Waiting if effects > 0 => {
            Some((Wrong::Lost, format!("{stand:?}, and {effects} effects")))
        }
        Stand::Completed if case.late && case.level == Level::Atp3 && !case.resolved => Some((
            Wrong::Contradicted,
            "it was to be there or not to be there, came late, and stays".to_owned(),
        )),
        Stand::Completed if case.mode.has_money() && case.paid != case.charged => {
            let what = format!("charged {} by the record, and {} were paid", case.charged, case.paid);
            Some((Wrong::Contradicted, what))
        }
        Stand::Completed if refunds > 0 => {
            Some((Wrong::Contradicted, "COMPLETED, and given back".to_owned()))
        }
        Stand::RolledBack if refunds == 0 => {
            Some((Wrong::Lost, "ROLLED_BACK, and not given back".to_owned()))
        }
        Stand::Failed if !matches!(told, None | Some("failed" | "blocked")) => {
            Some((Wrong::Contradicted, format!("FAILED, and answered {told:?}")))
        }
        Stand::Completed | Stand::Undoing | Stand::RolledBack | Stand::RollbackFailed
            if told != Some("executed") =>
        {
            Some((Wrong::Contradicted, format!("{stand:?}, and answered {told:?}")))
        }
        Stand::Doubt if told.is_some() => {
            Some((Wrong::Contradicted, format!("in doubt, and answered {told:?}")))
        }
        Stand::Waiting | Stand::Undoing => Some((Wrong::Contradicted, format!("{stand:?} for ever"))),
        _ => None,
    }
}

/// What was authorised and what was paid, against the cap; and what stands against the mandate, against the record.
fn of_account(account: &Account, cases: &[Case]) -> Vec<Finding> {
    let of_it = || cases.iter().filter(|case| case.mode == account.mode && case.level == account.level);
    let paid: i64 = of_it().map(|case| case.paid).sum();
    let authorised: i64 = of_it().map(|case| case.charged).sum();
    let Account { cap_minor, spent_minor, .. } = *account;
    let about = format!("the mandate of {}, {}", account.mode.as_str(), account.level.as_str());
    let find = |wrong, what| Finding { wrong, about: about.clone(), what };
    let mut all = Vec::new();
    if paid.max(authorised).max(spent_minor) > cap_minor {
        let what = format!("cap {cap_minor}: {authorised} authorised, {spent_minor} charged, {paid} paid");
        all.push(find(Wrong::AboveCap, what));
    }
    if spent_minor != authorised {
        all.push(find(Wrong::Contradicted, format!("charged {spent_minor}, and {authorised} by the record")));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(mode: Mode, level: Level) -> Case {
        Case {
            mode,
            level,
            key: "k".to_owned(),
            charged: 100,
            paid: 100,
            held: 0,
            reserved: false,
            challenged: false,
            again: false,
            resolved: false,
            erased: false,
            late: false,
            ids: vec!["id".to_owned()],
            refused: None,
            last_words: vec!["executed".to_owned()],
            record: Some(Stand::Completed),
            effects: 1,
            refunds: 0,
            receipts: Vec::new(),
        }
    }

    fn wrongs(case: Case) -> Vec<Wrong> {
        judge(&[case], &[], &Around::default()).into_iter().map(|it| it.wrong).collect()
    }

    /// What is found when one thing is changed about an action where all is well.
    fn planted(change: impl FnOnce(&mut Case)) -> Vec<Wrong> {
        let mut case = good(Mode::Both, Level::Atp3);
        change(&mut case);
        wrongs(case)
    }

    #[test]
    fn where_all_is_well_nothing_is_found() {
        assert_eq!(planted(|_| ()), []);
        let failed = |case: &mut Case| {
            (case.record, case.effects) = (Some(Stand::Failed), 0);
            case.last_words = vec!["failed".to_owned()];
        };
        assert_eq!(planted(failed), []);
        for effects in [0, 1] {
            let doubt = |case: &mut Case| {
                (case.record, case.effects) = (Some(Stand::Doubt), effects);
                case.last_words.clear();
            };
            assert_eq!(planted(doubt), [], "doubt says neither");
        }
        assert_eq!(planted(|case| (case.record, case.refunds) = (Some(Stand::RolledBack), 1)), []);
        for refunds in [0, 1] {
            let failed =
                |case: &mut Case| (case.record, case.refunds) = (Some(Stand::RollbackFailed), refunds);
            assert_eq!(planted(failed), [], "a person will see");
        }
    }

    #[test]
    fn a_second_effect_is_found_except_where_it_does_no_harm() {
        assert_eq!(planted(|case| case.effects = 2), [Wrong::Doubled]);
        assert_eq!(wrongs(Case { effects: 3, ..good(Mode::RepeatSafe, Level::Atp2) }), []);
        assert_eq!(wrongs(Case { effects: 0, ..good(Mode::RepeatSafe, Level::Atp2) }), [Wrong::Lost]);
    }

    #[test]
    fn an_effect_that_the_record_denies_is_found_and_so_is_one_that_it_invents() {
        assert_eq!(planted(|case| case.effects = 0), [Wrong::Lost]);
        let denied = |case: &mut Case| {
            case.record = Some(Stand::Failed);
            case.last_words = vec!["failed".to_owned()];
        };
        assert_eq!(planted(denied), [Wrong::Lost]);
        let around = Around { strays: vec!["x-1".to_owned()], ..Around::default() };
        assert_eq!(judge(&[], &[], &around)[0].wrong, Wrong::Lost);
    }

    #[test]
    fn a_word_that_is_not_kept_is_found() {
        assert_eq!(planted(|case| case.last_words.push("failed".to_owned())), [Wrong::Contradicted]);
        assert_eq!(planted(|case| case.ids.push("other".to_owned())), [Wrong::Contradicted]);
        assert_eq!(planted(|case| case.last_words = vec!["failed".to_owned()]), [Wrong::Contradicted]);
        assert_eq!(planted(|case| case.record = Some(Stand::Doubt)), [Wrong::Contradicted]);
        assert_eq!(planted(|case| case.record = None), [Wrong::Contradicted]);
        for stand in [Stand::Undoing, Stand::Waiting] {
            let stuck = |case: &mut Case| {
                case.record = Some(stand);
                case.effects = u64::from(stand == Stand::Undoing);
            };
            assert_eq!(planted(stuck), [Wrong::Contradicted], "{stand:?}");
        }
    }

    #[test]
    fn a_refund_too_many_or_too_few_is_found() {
        assert_eq!(
            planted(|case| (case.record, case.refunds) = (Some(Stand::RolledBack), 2)),
            [Wrong::Doubled]
        );
        assert_eq!(planted(|case| case.record = Some(Stand::RolledBack)), [Wrong::Lost]);
        assert_eq!(planted(|case| case.refunds = 1), [Wrong::Contradicted]);
    }

    #[test]
    fn what_came_late_and_was_not_undone_is_found_where_it_had_to_be() {
        assert_eq!(planted(|case| case.late = true), [Wrong::Contradicted]);
        assert_eq!(planted(|case| (case.late, case.resolved) = (true, true)), [], "a person left it");
        let undone = |case: &mut Case| {
            (case.late, case.record, case.refunds) = (true, Some(Stand::RolledBack), 1);
        };
        assert_eq!(planted(undone), []);
        assert_eq!(wrongs(Case { late: true, ..good(Mode::Both, Level::Atp2) }), []);
    }

    #[test]
    fn a_missing_receipt_is_found() {
        assert_eq!(planted(|case| case.receipts.push("gone".to_owned())), [Wrong::ReceiptMissing]);
    }

    #[test]
    fn money_that_stays_set_aside_is_found_unless_nobody_knows_of_it() {
        assert_eq!(planted(|case| case.held = 5), [Wrong::Held]);
        let failed = |case: &mut Case| {
            (case.record, case.effects, case.held) = (Some(Stand::Failed), 0, 100);
            case.last_words = vec!["failed".to_owned()];
        };
        assert_eq!(planted(failed), [Wrong::Held]);
        let doubt = |case: &mut Case| {
            (case.record, case.effects, case.held) = (Some(Stand::Doubt), 0, 100);
            case.last_words.clear();
        };
        assert_eq!(planted(doubt), []);
    }

    #[test]
    fn another_amount_than_the_record_tells_is_found() {
        assert_eq!(planted(|case| case.paid = 50), [Wrong::Contradicted]);
        assert_eq!(planted(|case| (case.paid, case.charged) = (50, 50)), [], "a part");
    }

    #[test]
    fn a_promise_that_cannot_be_kept_has_to_be_refused() {
        let refused = Case {
            refused: Some("ATP_PROVIDER_CANNOT".to_owned()),
            record: None,
            effects: 0,
            ..good(Mode::Neither, Level::Atp2)
        };
        assert_eq!(wrongs(refused.clone()), []);
        assert_eq!(wrongs(Case { effects: 1, ..refused.clone() }), [Wrong::Contradicted]);
        assert_eq!(wrongs(Case { refused: None, ..refused }), [Wrong::Contradicted]);
    }

    #[test]
    fn what_is_authorised_above_the_cap_is_found() {
        let case = good(Mode::Both, Level::Atp3);
        let account =
            |cap_minor, spent_minor| Account { mode: case.mode, level: case.level, cap_minor, spent_minor };
        let found = |account: Account, case: &Case| {
            let found = judge(std::slice::from_ref(case), &[account], &Around::default());
            found.into_iter().map(|it| it.wrong).collect::<Vec<_>>()
        };
        assert_eq!(found(account(100, 100), &case), []);
        assert_eq!(found(account(99, 100), &case), [Wrong::AboveCap]);
        assert_eq!(found(account(200, 0), &case), [Wrong::Contradicted], "done, and not charged");
        let doubt = Case { record: Some(Stand::Doubt), effects: 0, paid: 0, last_words: Vec::new(), ..case };
        assert_eq!(found(account(100, 100), &doubt), [], "doubt keeps the debit");
    }
}
