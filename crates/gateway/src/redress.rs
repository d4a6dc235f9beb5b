//! A rollback that a request brought: the effect of one archetype is undone by what another one does.
//!
//! It is an action itself, so it is resolved, checked and judged with the action that it would undo, and both are shown to
//! whoever approves. When it comes to it, it is one call like every rollback: under the rollback's own provider key, as often
//! as it takes, with one effect.

use std::sync::Arc;
use std::time::Duration;

use action::{Action, Archetype, Atp, Catalogue, Money, Request};
use execution::{Call, Check, Purpose, Reply};
use futures_util::future::BoxFuture;
use provider::{Done, Profile, Provider, Rollback};
use serde_json::Value;

use crate::pending::Pending;
use crate::request::refused;
use crate::tenants::Rules;
use crate::{Code, Error};

/// The request as an action of its archetype, together with the one that undoes it.
pub(crate) fn action_of(
    catalogue: &Catalogue,
    request: Request,
    archetype: &Arc<Archetype>,
) -> Result<Action, Error> {
    let action = Action::of(request, archetype).map_err(refused)?;
    match action.atp.as_ref().map(|atp| rollback_of(catalogue, atp)).transpose()?.flatten() {
        Some(rollback) => Ok(action.with_rollback(rollback)),
        None => Ok(action),
    }
}

/// The kind of action that is to undo it by these rules, if the request brought something.
pub(crate) fn undoing<'a>(rules: &'a Rules, atp: &Atp) -> Option<&'a Arc<Archetype>> {
    let (verb, target) = atp.rollback_verb_and_target()?;
    rules.catalogue.resolve(verb, target)
}

/// Who is to undo it by these rules, if the request brought something.
pub(crate) fn undone_by<'a>(rules: &'a Rules, atp: &Atp) -> Option<&'a Arc<dyn Provider>> {
    rules.providers.get(&undoing(rules, atp)?.name)
}

/// For how long after it took place the effect of an action can be undone by these rules, if it can.
pub(crate) fn window(rules: &Rules, action: &Action) -> Option<Duration> {
    let own = rules.providers.get(&*action.archetype.name)?.rollback().map(|rollback| rollback.within);
    let brought = action.rollback.as_ref().map(|_| USUAL_WINDOW);
    own.or(brought).filter(|_| action.reversible)
}

/// The rollback that a request asks for, as an action.
fn rollback_of(catalogue: &Catalogue, atp: &Atp) -> Result<Option<Action>, Error> {
    let (Some(asked), Some((verb, target))) = (&atp.rollback, atp.rollback_verb_and_target()) else {
        return Ok(None);
    };
    let Some(archetype) = catalogue.resolve(verb, target) else {
        let error = refused(action::Refusal::unknown_verb(verb, target, catalogue));
        return Err(error.field("/rollback/verb"));
    };
    let request = Request::plain(&archetype.name, asked.parameters.clone());
    let within = |error: Error| Error {
        field: error.field.map(|field| field.replacen("/constraints", "/rollback/parameters", 1)),
        ..error
    };
    let action = Action::of(request, archetype).map_err(|refusal| within(refused(refusal)))?;
    if let Some(missing) = action.missing.first() {
        return Err(Error::new(Code::ValidationFailed, "a required member is missing")
            .field(format!("/rollback/parameters{}", missing.field)));
    }
    match unfit(archetype) {
        Some(why) => Err(Error::new(Code::ProviderCannot, why)
            .field("/rollback/verb")
            .hint("let the catalogue say how it is undone: `[binding.rollback]`")),
        None => Ok(Some(action)),
    }
}

/// Why a request may not bring this to undo something with. It would be carried out on the word of whoever asks for the
/// rollback: past mandates, caps and people, which an action of its own would meet.
fn unfit(archetype: &Archetype) -> Option<&'static str> {
    if archetype.money.is_some() {
        Some("what moves money is not brought by a request to undo something")
    } else if !archetype.reversible {
        Some("what cannot be undone is not brought by a request to undo something")
    } else if archetype.requires_approval {
        Some("what people have to agree to is not brought by a request to undo something")
    } else {
        None
    }
}

/// Who carries the rollback out, if it can be sent as often as it takes and have one effect.
pub(crate) fn able<'a>(rules: &'a Rules, rollback: &Action) -> Result<&'a Arc<dyn Provider>, Error> {
    let name = &rollback.archetype.name;
    let cannot = |why: &str| Err(Error::new(Code::ProviderCannot, why).field("/rollback/verb"));
    match rules.providers.get(name) {
        None => cannot("the archetype of the rollback is bound to no provider"),
        // Nobody takes a call of an action that is over.
        Some(provider) if provider.runner().is_some() => {
            cannot("the archetype of the rollback is carried out by its caller")
        }
        Some(provider) if provider.capabilities().idempotent.is_none() => {
            cannot("the provider of the rollback is not idempotent")
        }
        Some(provider) => Ok(provider),
    }
}

/// Stands in for the provider of an effect as long as that is undone.
#[derive(Debug)]
pub(crate) struct Redress {
    by: Arc<dyn Provider>,
    /// Who had the effect, and is asked whether all is as it should be.
    own: Arc<dyn Provider>,
    archetype: Arc<Archetype>,
    constraints: Value,
    money: Option<Money>,
    rollback: Rollback,
}

/// What undoes the effect of an action in place of its own provider, if its request brought something.
pub(crate) fn redress(
    pending: &Pending,
    rules: &Rules,
    own: &Arc<dyn Provider>,
) -> Result<Option<Redress>, Error> {
    let Some(atp) = pending.row.atp()? else { return Ok(None) };
    let Some(action) = rollback_of(&rules.catalogue, &atp)? else { return Ok(None) };
    let by = able(rules, &action)?;
    if pending.row.undone_by.as_deref() != Some(by.identity()) {
        // Another one may not know what the one before was sent.
        let why = "what undoes it is bound otherwise than when it was asked for: bind it as it was";
        return Err(Error::new(Code::ProviderCannot, why));
    }
    let within = own.rollback().map_or(USUAL_WINDOW, |rollback| rollback.within);
    Ok(Some(Redress {
        by: Arc::clone(by),
        own: Arc::clone(own),
        archetype: Arc::clone(&action.archetype),
        money: action.money,
        constraints: action.constraints,
        rollback: Rollback { within, restores: false },
    }))
}

impl Provider for Redress {
    fn profile(&self) -> &Profile {
        self.by.profile()
    }

    fn patience(&self) -> Duration {
        self.by.patience()
    }

    fn call<'a>(&'a self, _: &'a Call, _: i64) -> BoxFuture<'a, Reply> {
        let why = "it only undoes what was done".to_owned();
        Box::pin(std::future::ready(Reply::NotSent { why }))
    }

    fn checks(&self) -> bool {
        self.own.checks()
    }

    fn check<'a>(&'a self, call: &'a Call, done: Done<'a>, now_ms: i64) -> BoxFuture<'a, Check> {
        self.own.check(call, done, now_ms)
    }

    fn rollback(&self) -> Option<Rollback> {
        Some(self.rollback)
    }

    fn undo<'a>(&'a self, call: &'a Call, done: Done<'a>, now_ms: i64) -> BoxFuture<'a, Reply> {
        let call = Call {
            archetype: Arc::clone(&self.archetype),
            constraints: self.constraints.clone(),
            money: self.money,
            purpose: Purpose::Act,
            ..call.clone()
        };
        Box::pin(async move { self.by.redress(&call, done, now_ms).await })
    }
}

/// As long as an effect can be undone whose own binding says nothing about that.
const USUAL_WINDOW: Duration = Duration::from_secs(30 * 86_400);
