//! Erase: what an action was about is deleted, by its policy or because somebody has the right to ask for it. Receipts,
//! chain and labels stay, and the chain tells of it.

use action::{Action, Keeping, Period};
use ledger::{Erased, Erasure, Stored};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::caller::{Caller, Deed};
use crate::crash::Point;
use crate::gateway::Gateway;
use crate::remember::{draft, outward, unavailable};
use crate::row::{IntentRow, KeepingRow};
use crate::tenants::Rules;
use crate::views::ActionView;
use crate::{Code, Error, clock, redress};

/// Actions erased in one round.
const AT_ONCE: u32 = 256;

/// How long an action is kept, and when it is erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepingView {
    /// `7_years` and the like: until then nobody can erase it.
    pub retention_policy: Option<String>,
    /// `hard_delete_30_days` and the like.
    pub deletion_policy: Option<String>,
    /// When the retention is over, RFC 3339; `None` while more is to come of the action.
    pub retained_until: Option<String>,
    /// When it is erased by itself, RFC 3339; as above.
    pub deletion_due: Option<String>,
}

/// That an action was erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasedView {
    /// When, RFC 3339.
    pub at: String,
    /// Who asked for it; `None` where its deletion policy did.
    pub by: Option<String>,
}

/// The record of an erasure, as the ledger keeps it. It outlives what is erased: there is nothing in it but ids and
/// policies.
#[derive(Deserialize)]
struct ErasureRecord {
    by: Option<String>,
    deletion: Option<String>,
    retention: Option<String>,
}

impl Gateway {
    /// Erases what an action was about, because somebody has the right to ask for it. Once, however often it is asked
    /// for.
    ///
    /// # Errors
    /// `EP_STATE_CONFLICT` while the action is open, or has to be kept; it says until when.
    pub async fn erase(&self, caller: &Caller, id: &str) -> Result<ActionView, Error> {
        caller.must(Deed::Administer)?;
        let stored = self.visible(caller, id).await?;
        if !stored.payload.is_empty() {
            self.erase_for(&stored, Some(caller), clock::now_ms()).await?;
        }
        self.action(caller, id).await
    }

    /// So long after it is settled an action is needed, whatever its request wants deleted: as evidence, as long as the
    /// operator says, and to undo its effect, as long as that can be done.
    pub(crate) fn needed(&self, rules: &Rules, action: &Action) -> Option<Period> {
        let window = redress::window(rules, action).map(|window| window.as_secs().div_ceil(86_400));
        window.and_then(Period::of_days).max(self.kept_anyway())
    }

    /// So long after it is settled no request has anything deleted.
    pub(crate) fn kept_anyway(&self) -> Option<Period> {
        Period::of_days(self.config.limits.kept_days)
    }

    /// Erases whatever is to be erased by then. What fails is tried again in the next round.
    pub(crate) async fn erase_due(&self, now_ms: i64) -> Result<(), Error> {
        let mut after = None;
        loop {
            let due = self.ledger.to_erase(now_ms, after, AT_ONCE).await.map_err(unavailable)?;
            let mut done = 0;
            for stored in due.rows {
                match self.erase_for(&stored, None, now_ms).await {
                    Ok(()) => done += 1,
                    Err(error) => {
                        tracing::warn!(action = %stored.id, %error, "an action could not be erased")
                    }
                }
            }
            if done > 0 {
                tracing::info!(environment = %self.environment, "{done} actions were erased, as their policies want");
            }
            // What failed keeps nothing behind it from its turn.
            after = due.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn erase_for(&self, stored: &Stored, caller: Option<&Caller>, at_ms: i64) -> Result<(), Error> {
        let tenant = self.tenant(&stored.tenant)?;
        let row = IntentRow::of(stored)?;
        // What was altered must not be gone before it is found.
        self.outcomes_of(stored).await?;
        self.given_of(stored).await?;
        let (keeping, attempt) = (row.keeping()?, row.call.as_ref().map_or(1, |call| call.attempt));
        let by = caller.map(|caller| caller.subject.as_str());
        // That its time has come is for the action itself to say, as its entries name it, and for no table beside it.
        let kept = match caller {
            Some(_) => keeping.retention().map_or(0, Period::millis),
            None => keeping.deleted_after().map(Period::millis).ok_or_else(unasked)?,
        };
        let erasure = Erasure {
            action: stored.id,
            at_ms,
            kept_ms: kept,
            record: record(&row, by),
            entry: draft(tenant, ledger::ERASED, Some(outward(stored.state)), &[0; 32], attempt),
        };
        self.at(Point::EraseBefore)?;
        self.ledger.erase(erasure).await.map_err(unavailable)?;
        self.at(Point::EraseAfter)
    }

    /// What is left of an action that was erased.
    pub(crate) async fn erased(&self, stored: &Stored) -> Result<Option<Erased>, Error> {
        if !stored.payload.is_empty() {
            return Ok(None);
        }
        self.ledger.erased(&stored.tenant, stored.id).await.map_err(unavailable)
    }
}

fn unasked() -> Error {
    Error::new(Code::StateConflict, "nobody, no policy and no request wants the action erased")
}

/// By whom, and what had been said about keeping it. Canonical.
fn record(row: &IntentRow, by: Option<&str>) -> Vec<u8> {
    let KeepingRow { retention, deletion } =
        row.keeping.clone().unwrap_or(KeepingRow { retention: None, deletion: None });
    let record: Value = json!({ "by": by, "deletion": deletion, "retention": retention });
    action::json::canonical(&record).into_bytes()
}

impl KeepingView {
    /// Of an action that came in under this, and of which something came last at that time if it is over.
    pub(crate) fn of(keeping: Keeping, last_ms: Option<i64>) -> Option<KeepingView> {
        let KeepingRow { retention, deletion } = KeepingRow::of(keeping)?;
        let after = |period: Option<Period>| Some(clock::text(last_ms? + period?.millis()));
        Some(KeepingView {
            retention_policy: retention,
            deletion_policy: deletion,
            retained_until: after(keeping.retention()),
            deletion_due: after(keeping.deleted_after()),
        })
    }

    /// Of an action that is erased: what it had been.
    pub(crate) fn before(erased: &Erased) -> Option<KeepingView> {
        let ErasureRecord { retention, deletion, .. } = serde_json::from_slice(&erased.record).ok()?;
        (retention.is_some() || deletion.is_some()).then_some(KeepingView {
            retention_policy: retention,
            deletion_policy: deletion,
            retained_until: None,
            deletion_due: None,
        })
    }
}

impl ErasedView {
    pub(crate) fn of(erased: &Erased) -> ErasedView {
        let told: Option<ErasureRecord> = serde_json::from_slice(&erased.record).ok();
        ErasedView { at: clock::text(erased.at_ms), by: told.and_then(|told| told.by) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::outcome::{Outcome, Reply};
    use crate::request::Ask;
    use crate::{Config, Installation, Role};

    const DAY_MS: i64 = 86_400_000;

    fn render(outcome: &Outcome, _: &str) -> Reply {
        Reply { status: 200, body: outcome.kind.as_str().into() }
    }

    /// Where nothing is kept for its own sake.
    async fn opened(folder: &std::path::Path) -> Installation {
        keeping(folder, 0).await
    }

    async fn keeping(folder: &std::path::Path, days: u64) -> Installation {
        let mut config = Config { data_dir: folder.join("data"), ..Config::default() };
        config.limits.kept_days = days;
        Installation::open(config, render).await.unwrap()
    }

    /// A payment in the sandbox, with more members in its request.
    async fn paid(gateway: &Arc<Gateway>, key: &str, more: Value) -> String {
        let mut body = json!({
            "archetype": "PAYMENT_TRANSFER",
            "constraints": { "recipient": key, "amount_usd": "5.00", "max_total_usd": "9.00" },
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let idempotency_key = Some(action::IdempotencyKey::parse(key).unwrap());
        let ask = Ask {
            idempotency_key,
            request_id: "req-1".to_owned(),
            dry_run: false,
            wait: crate::Wait::default(),
            body: body.to_string().into_bytes(),
        };
        let answer = gateway.execute(&Gateway::anonymous(), ask).await.unwrap();
        assert_eq!(answer.reply.body, b"executed");
        answer.action_id.unwrap().to_string()
    }

    fn admin() -> Caller {
        Caller { role: Role::Admin, ..Gateway::anonymous() }
    }

    #[tokio::test]
    async fn what_a_policy_wants_erased_is_erased_when_its_retention_is_over_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let installation = opened(folder.path()).await;
        let gateway = installation.sandbox.as_ref().unwrap();
        let soon = paid(gateway, "soon", json!({ "deletion": "hard_delete_1d" })).await;
        let kept = json!({ "retention": "2_days", "deletion": "hard_delete_1d" });
        let kept = paid(gateway, "kept", kept).await;
        let never = paid(gateway, "never", json!({ "retention": "1d" })).await;
        let erased_at = async |now_ms| {
            gateway.erase_due(now_ms).await.unwrap();
            let mut erased = Vec::new();
            for id in [&soon, &kept, &never] {
                erased.push(gateway.action(&admin(), id).await.unwrap().erased.is_some());
            }
            erased
        };
        let now_ms = clock::now_ms();
        assert_eq!(erased_at(now_ms).await, [false, false, false]);
        assert_eq!(erased_at(now_ms + DAY_MS).await, [true, false, false]);
        assert_eq!(erased_at(now_ms + 2 * DAY_MS).await, [true, true, false]);
        assert_eq!(erased_at(now_ms + 900 * DAY_MS).await, [true, true, false], "nobody said so");
        let left = gateway.action(&admin(), &kept).await.unwrap();
        assert_eq!(left.erased.unwrap().by, None);
        let told = left.keeping.unwrap();
        assert_eq!(told.retention_policy.as_deref(), Some("2_days"));
        assert_eq!(told.deletion_policy.as_deref(), Some("hard_delete_1_day"));
    }

    #[tokio::test]
    async fn nothing_is_erased_because_the_store_says_that_it_is_due() {
        let folder = tempfile::tempdir().unwrap();
        let installation = opened(folder.path()).await;
        let gateway = installation.sandbox.as_ref().unwrap();
        let store = rusqlite::Connection::open(folder.path().join("data/sandbox.db")).unwrap();
        let mut forged = Vec::new();
        for number in 0..AT_ONCE {
            forged.push(paid(gateway, &format!("k-{number}"), json!({})).await);
        }
        let early = paid(gateway, "early", json!({ "deletion": "hard_delete_3d" })).await;
        let due = paid(gateway, "due", json!({ "deletion": "hard_delete_1d" })).await;
        store.execute("INSERT OR REPLACE INTO deletion SELECT row, 1, 1 FROM action", []).unwrap();
        gateway.erase_due(clock::now_ms() + DAY_MS).await.unwrap();
        for id in forged.iter().chain([&early]) {
            assert_eq!(gateway.action(&admin(), id).await.unwrap().erased, None);
        }
        // However many there are of them, they keep nothing from its end.
        assert!(gateway.action(&admin(), &due).await.unwrap().erased.is_some());
    }

    #[tokio::test]
    async fn a_request_has_nothing_erased_before_the_operators_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let installation = keeping(folder.path(), Config::default().limits.kept_days).await;
        let gateway = installation.sandbox.as_ref().unwrap();
        let now_ms = clock::now_ms();
        for (key, asked) in [
            ("at-once", json!({ "deletion": "hard_delete_1d" })),
            ("kept", json!({ "retention": "2_days", "deletion": "hard_delete_after_retention" })),
        ] {
            let id = paid(gateway, key, asked).await;
            let told = gateway.action(&admin(), &id).await.unwrap().keeping.unwrap();
            assert_eq!(told.deletion_policy.as_deref(), Some("hard_delete_30_days"), "{key}");
            assert!(told.deletion_due.unwrap() > clock::text(now_ms + 29 * DAY_MS));
            gateway.erase_due(now_ms + 29 * DAY_MS).await.unwrap();
            assert_eq!(gateway.action(&admin(), &id).await.unwrap().erased, None, "{key}");
            gateway.erase_due(now_ms + 31 * DAY_MS).await.unwrap();
            assert!(gateway.action(&admin(), &id).await.unwrap().erased.is_some(), "{key}");
        }
    }

    #[tokio::test]
    async fn what_is_denied_by_name_stays_as_evidence_for_as_long() {
        let folder = tempfile::tempdir().unwrap();
        let installation = keeping(folder.path(), 30).await;
        let gateway = installation.sandbox.as_ref().unwrap();
        let body =
            json!({ "archetype": "DISABLE_BOUNDARY", "constraints": {}, "deletion": "hard_delete_1d" });
        let ask = Ask {
            idempotency_key: Some(action::IdempotencyKey::parse("denied").unwrap()),
            request_id: "req-1".to_owned(),
            dry_run: false,
            wait: crate::Wait::default(),
            body: body.to_string().into_bytes(),
        };
        let answer = gateway.execute(&Gateway::anonymous(), ask).await.unwrap();
        assert_eq!(answer.reply.body, b"blocked");
        let id = answer.action_id.unwrap().to_string();
        let told = gateway.action(&admin(), &id).await.unwrap().keeping.unwrap();
        assert_eq!(told.deletion_policy.as_deref(), Some("hard_delete_30_days"));
    }

    #[tokio::test]
    async fn what_has_to_be_kept_is_not_erased_for_anybody() {
        let folder = tempfile::tempdir().unwrap();
        let installation = opened(folder.path()).await;
        let gateway = installation.sandbox.as_ref().unwrap();
        let kept = paid(gateway, "kept", json!({ "retention": "7_years" })).await;
        let before = gateway.action(&admin(), &kept).await.unwrap();
        let until = before.keeping.unwrap().retained_until.unwrap();
        let refused = gateway.erase(&admin(), &kept).await.unwrap_err();
        assert_eq!(refused.code, Code::StateConflict);
        assert_eq!(refused.message, format!("the action has to be kept until {until}"));
        let after = gateway.action(&admin(), &kept).await.unwrap();
        assert_eq!((after.erased, after.parameters), (None, before.parameters));
        let operator = Caller { role: Role::Operator, ..admin() };
        assert_eq!(gateway.erase(&operator, &kept).await.unwrap_err().code, Code::Forbidden);
    }
}
