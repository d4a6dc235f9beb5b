//! Several effects undone at once.

use gateway::{Error, Fate, UndoneView};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::reply;
use crate::request::{Request, Response};
use crate::who;

/// Has the effects of several actions undone, the newest first.
pub(crate) async fn rollback(mut request: Request) -> Result<Response, Error> {
    let gateway = request.gateway()?;
    let caller = who::caller(&request).await?;
    let ask: RollbackRequest = request.json().await?;
    let undone = gateway.rollback_all(&caller, &ask.actions).await?;
    let actions = undone.into_iter().map(Undone::of).collect();
    Ok(reply::json(StatusCode::OK, &Rollbacks { actions }))
}

/// What is to be undone.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollbackRequest {
    /// Ids of actions, 1 to 100, in any order.
    actions: Vec<String>,
}

/// What became of them.
#[derive(Serialize, ToSchema)]
pub(crate) struct Rollbacks {
    /// In the order in which they are undone: the effect confirmed last comes first.
    actions: Vec<Undone>,
}

/// What became of one of them.
#[derive(Serialize, ToSchema)]
#[schema(as = UndoneAction)]
struct Undone {
    action_id: String,
    /// `rolled_back`, now or before; `rolling_back`; `failed`; `not_tried`, because a newer one is not undone.
    result: &'static str,
    /// Why it failed: `ATP_ROLLBACK_FAILED`, which a person decides on, or the code by which it was refused.
    code: Option<&'static str>,
}

impl Undone {
    fn of(view: UndoneView) -> Undone {
        let (result, code) = match view.fate {
            Fate::RolledBack => ("rolled_back", None),
            Fate::RollingBack => ("rolling_back", None),
            Fate::Failed(code) => ("failed", Some(code)),
            Fate::NotTried => ("not_tried", None),
        };
        Undone { action_id: view.action_id.to_string(), result, code }
    }
}
