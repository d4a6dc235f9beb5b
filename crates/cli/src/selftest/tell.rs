//! The result: a table, what is wrong, and one line of counts; or one JSON object.

use serde_json::{Value, json};

use super::count::Counts;
use super::fire::Fire;
use super::judge::{Case, Finding, Stand, Wrong};
use super::mode::{Level, Mode};
use crate::crash;
use crate::error::Result;
use crate::out;

/// Everything there is to tell.
pub(super) struct Told<'a> {
    pub(super) seed: u64,
    pub(super) seconds: f64,
    pub(super) fire: &'a Fire,
    pub(super) counts: &'a Counts,
    pub(super) findings: &'a [Finding],
}

/// One mode at one level.
struct Row {
    mode: Mode,
    level: Level,
    actions: usize,
    refused: usize,
    completed: usize,
    failed: usize,
    in_doubt: usize,
    rolled_back: usize,
    rollback_failed: usize,
    effects: u64,
}

impl Told<'_> {
    pub(super) fn table(&self) -> Result<()> {
        let head = [
            "provider",
            "level",
            "actions",
            "refused",
            "completed",
            "failed",
            "in doubt",
            "rolled back",
            "for a person",
            "effects",
            "doubled",
            "lost",
            "contradicted",
        ];
        let rows: Vec<[String; 13]> = self.rows().iter().map(|row| self.cells(row)).collect();
        out::table(head, &rows)?;
        for finding in self.findings.iter().take(MOST_SHOWN) {
            out::line(format_args!(
                "{} ({}): {}: {}",
                finding.wrong.as_str(),
                finding.wrong.means(),
                finding.about,
                out::shown(&finding.what)
            ))?;
        }
        if self.findings.len() > MOST_SHOWN {
            out::line(format_args!("… and {} more", self.findings.len() - MOST_SHOWN))?;
        }
        if let Some(untested) = self.untested() {
            out::line(untested)?;
        }
        out::line(self.line())
    }

    /// What this run leaves open, which is no broken promise.
    fn untested(&self) -> Option<String> {
        let missed = self.fire.missed();
        (!missed.is_empty()).then(|| {
            format!(
                "not tested: a death at {}, where no action came by in this run; run it again with more --actions",
                missed.join(", ")
            )
        })
    }

    /// The one line.
    pub(super) fn line(&self) -> String {
        let (fire, counts) = (self.fire, self.counts);
        let in_doubt = self.number(|case| case.record == Some(Stand::Doubt));
        let ways = self.ways().map(|(way, count)| format!("{count} {way}")).join(", ");
        format!(
            "{}: {} actions ({ways}), {} kills and {} crashes at {} of {} points, {} effects, {} receipts, {} ledger entries: \
             {} doubled, {} lost, {} contradicted, {} held too long, {} receipts missing, {} above a cap, {} wrong in the \
             ledger, {in_doubt} in doubt; {:.0} s, seed {}",
            if self.findings.is_empty() { "every promise kept" } else { "PROMISES BROKEN" },
            counts.cases.len(),
            fire.killed,
            fire.crashed,
            fire.points.len(),
            crash::points().count(),
            counts.cases.iter().map(|case| case.effects).sum::<u64>(),
            counts.receipts,
            counts.entries,
            self.count(Wrong::Doubled),
            self.count(Wrong::Lost),
            self.count(Wrong::Contradicted),
            self.count(Wrong::Held),
            self.count(Wrong::ReceiptMissing),
            self.count(Wrong::AboveCap),
            self.count(Wrong::Trail),
            self.seconds,
            self.seed,
        )
    }

    pub(super) fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows().iter().map(|row| self.row_json(row)).collect();
        let findings = self.findings.iter().map(|finding| {
            json!({ "wrong": finding.wrong.as_str(), "about": finding.about, "what": finding.what })
        });
        let mut told = json!({
            "ok": self.findings.is_empty(),
            "seed": self.seed,
            "seconds": self.seconds,
            "actions": self.counts.cases.len(),
            "kills": self.fire.killed,
            "crashes": self.fire.crashed,
            "points": self.fire.points,
            "points_not_passed": self.fire.missed(),
            "receipts": self.counts.receipts,
            "ledger_entries": self.counts.entries,
            "rows": rows,
            "doubled": self.count(Wrong::Doubled),
            "lost": self.count(Wrong::Lost),
            "contradicted": self.count(Wrong::Contradicted),
            "held_too_long": self.count(Wrong::Held),
            "receipts_missing": self.count(Wrong::ReceiptMissing),
            "above_cap": self.count(Wrong::AboveCap),
            "wrong_in_ledger": self.count(Wrong::Trail),
            "findings": findings.collect::<Vec<_>>(),
        });
        for (way, count) in self.ways() {
            told[way.replace(' ', "_")] = count.into();
        }
        told
    }

    /// How many actions went which way.
    fn ways(&self) -> [(&'static str, usize); 7] {
        [
            ("reserved", self.number(|case| case.reserved)),
            ("challenged", self.number(|case| case.challenged)),
            ("run", self.number(|case| case.mode == Mode::Runner && case.record.is_some())),
            ("tried again", self.number(|case| case.again)),
            ("resolved", self.number(|case| case.resolved)),
            ("erased", self.number(|case| case.erased)),
            ("found late", self.number(|case| case.late)),
        ]
    }

    fn count(&self, wrong: Wrong) -> usize {
        self.findings.iter().filter(|finding| finding.wrong == wrong).count()
    }

    fn number(&self, of: impl Fn(&Case) -> bool) -> usize {
        self.counts.cases.iter().filter(|case| of(case)).count()
    }

    fn rows(&self) -> Vec<Row> {
        let all = Mode::ALL.into_iter().flat_map(|mode| Level::ALL.map(|level| (mode, level)));
        let of = |(mode, level)| {
            let cases = self.cases(mode, level);
            (!cases.is_empty()).then(|| Row::of(mode, level, &cases))
        };
        all.filter_map(of).collect()
    }

    fn cases(&self, mode: Mode, level: Level) -> Vec<&Case> {
        self.counts.cases.iter().filter(|case| case.mode == mode && case.level == level).collect()
    }

    fn wrong_of(&self, row: &Row) -> [usize; 3] {
        let keys: std::collections::BTreeSet<&str> =
            self.cases(row.mode, row.level).iter().map(|case| case.key.as_str()).collect();
        [Wrong::Doubled, Wrong::Lost, Wrong::Contradicted].map(|wrong| {
            let of_it = |it: &&Finding| it.wrong == wrong && keys.contains(it.about.as_str());
            self.findings.iter().filter(of_it).count()
        })
    }

    fn cells(&self, row: &Row) -> [String; 13] {
        let [doubled, lost, contradicted] = self.wrong_of(row).map(|count| count.to_string());
        let Row { actions, refused, completed, failed, in_doubt, rolled_back, rollback_failed, .. } = row;
        let [actions, refused, completed, failed, in_doubt, rolled_back, for_a_person] =
            [actions, refused, completed, failed, in_doubt, rolled_back, rollback_failed]
                .map(|count| count.to_string());
        [
            row.mode.as_str().to_owned(),
            row.level.as_str().to_owned(),
            actions,
            refused,
            completed,
            failed,
            in_doubt,
            rolled_back,
            for_a_person,
            row.effects.to_string(),
            doubled,
            lost,
            contradicted,
        ]
    }

    fn row_json(&self, row: &Row) -> Value {
        let [doubled, lost, contradicted] = self.wrong_of(row);
        json!({
            "provider": row.mode.as_str(),
            "level": row.level.as_str(),
            "actions": row.actions,
            "refused": row.refused,
            "completed": row.completed,
            "failed": row.failed,
            "in_doubt": row.in_doubt,
            "rolled_back": row.rolled_back,
            "rollback_failed": row.rollback_failed,
            "effects": row.effects,
            "doubled": doubled,
            "lost": lost,
            "contradicted": contradicted,
        })
    }
}

impl Row {
    fn of(mode: Mode, level: Level, cases: &[&Case]) -> Row {
        let stand = |stand: Stand| cases.iter().filter(|case| case.record == Some(stand)).count();
        Row {
            mode,
            level,
            actions: cases.len(),
            refused: cases.iter().filter(|case| case.refused.is_some()).count(),
            completed: stand(Stand::Completed),
            failed: stand(Stand::Failed),
            in_doubt: stand(Stand::Doubt),
            rolled_back: stand(Stand::RolledBack),
            rollback_failed: stand(Stand::RollbackFailed),
            effects: cases.iter().map(|case| case.effects).sum(),
        }
    }
}

impl Wrong {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Wrong::Doubled => "doubled",
            Wrong::Lost => "lost",
            Wrong::Contradicted => "contradicted",
            Wrong::Held => "held too long",
            Wrong::ReceiptMissing => "receipt missing",
            Wrong::AboveCap => "above the cap",
            Wrong::Trail => "wrong in the ledger",
            Wrong::NotPassed => "not passed",
        }
    }

    /// Which promise was broken.
    fn means(self) -> &'static str {
        match self {
            Wrong::Doubled => "there is or was undone more than one effect",
            Wrong::Lost => "an effect without a record of it, or a record without its effect",
            Wrong::Contradicted => "record, answers and the bank's books disagree",
            Wrong::ReceiptMissing => "a receipt that somebody was told of is not there or does not verify",
            Wrong::AboveCap => "more was paid, or stands debited, than the mandate allows",
            Wrong::Trail => "`audit verify` finds something missing or altered",
            Wrong::Held => "money is set aside for longer than anybody said",
            Wrong::NotPassed => "in so long a run every crash point has to come by",
        }
    }
}

/// Findings printed; JSON has all.
const MOST_SHOWN: usize = 20;
