//! Two principals of one cluster who want different things of one resource (class 3).
//!
//! An instruction is an action; it stands as long as its archetype remembers effects, unless it came to nothing. Another
//! principal's about the same resource that is not the same word for word contradicts it.

use std::collections::HashSet;

use action::{Action, ActionId, Request};
use ledger::{Clustered, Governed, State, Stored};

use super::gar::Line;
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::row::{IntentRow, internal};
use crate::tenants::Rules;
use crate::{Code, Error};

/// An instruction that contradicts another.
pub(crate) struct Contradicted {
    /// The action it came with.
    pub earlier: ActionId,
    /// Whose it is.
    pub principal: Box<str>,
}

impl Gateway {
    /// The newest instruction of another principal in the session's cluster that the action contradicts.
    pub(crate) async fn contradicted(
        &self,
        governed: &Governed,
        action: &Action,
        rules: &Rules,
        now_ms: i64,
    ) -> Result<Option<Contradicted>, Error> {
        let (tenant, own) = (&governed.tenant, &governed.session.id);
        let found = self.ledger.cluster_of(tenant, own).await.map_err(unavailable)?;
        let Some(Clustered { cluster, .. }) = found else { return Ok(None) };
        let Some(principal) = cluster.member(own).ok().map(|member| member.principal.clone()) else {
            return Ok(None);
        };
        let mut newest: Option<Contradicted> = None;
        for member in cluster.members.iter().filter(|member| member.principal != principal) {
            let session = self.ledger.session(tenant, &member.session).await.map_err(unavailable)?;
            let Some(session) = session else { continue };
            for id in self.lately(&session).await? {
                let stored = self.ledger.action(tenant, id).await.map_err(unavailable)?;
                let Some(stored) = stored else { continue };
                let contradicts = contradicts(action, &stored, rules, now_ms)?;
                if contradicts && newest.as_ref().is_none_or(|it| it.earlier < id) {
                    newest = Some(Contradicted { earlier: id, principal: member.principal.clone() });
                }
            }
        }
        Ok(newest)
    }

    /// Actions that the newest records of a session are about.
    async fn lately(&self, governed: &Governed) -> Result<HashSet<ActionId>, Error> {
        let after = governed.session.next_record.checked_sub(LOOKED_AT + 1);
        let records = self.records_after(governed, after, LOOKED_AT as u32).await?;
        let actions = records.iter().map(|record| Ok(Line::of(record)?.action()));
        actions.filter_map(Result::transpose).collect()
    }
}

fn contradicts(action: &Action, stored: &Stored, rules: &Rules, now_ms: i64) -> Result<bool, Error> {
    let Some(said) = asked(stored, rules)? else { return Ok(false) };
    let window = i64::try_from(said.archetype.duplicate.window.as_millis()).unwrap_or(i64::MAX);
    let came_to_nothing = matches!(stored.state, State::Refused | State::Failed | State::RolledBack);
    let stands = !came_to_nothing && now_ms.saturating_sub(stored.at_ms) <= window;
    let same_thing = said.resource.is_some()
        && said.resource == action.resource
        && said.archetype.resource_type == action.archetype.resource_type;
    let same_word = said.archetype.name == action.archetype.name && said.constraints == action.constraints;
    Ok(stands && same_thing && !same_word)
}

/// What was asked; nothing once it is erased, or where the catalogue of now does not understand it.
///
/// # Errors
/// Where the row was altered or cannot be read: nobody knows then what it said, and it may have been the opposite.
fn asked(stored: &Stored, rules: &Rules) -> Result<Option<Action>, Error> {
    let row = match IntentRow::of(stored) {
        Err(error) if error.code == Code::Erased => return Ok(None),
        row => row?,
    };
    let Some(archetype) = rules.catalogue.get(&stored.archetype) else { return Ok(None) };
    let constraints = serde_json::from_str(row.constraints.get())
        .map_err(|_| internal("stored constraints cannot be read"))?;
    Ok(Action::of(Request::plain(&archetype.name, constraints), archetype).ok())
}

/// Records of a member that are looked at, the newest: what people are asked about is bounded.
const LOOKED_AT: u64 = 64;
