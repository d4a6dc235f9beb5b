//! Entities: what the operator's files say of agents, groups and resources, and the few of them that one question
//! needs.

use std::collections::{BTreeMap, HashMap, HashSet};

use action::{Mistake, Source};
use cedar_policy::{Entities, Entity, EntityUid, Schema};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The operator's entities and the schema's actions, by id.
#[derive(Debug)]
pub(crate) struct Known {
    by_uid: HashMap<EntityUid, Entity>,
    /// Everything an entity leads to directly: parents and attributes.
    leads_to: HashMap<EntityUid, Vec<EntityUid>>,
    pub(crate) digest: String,
}

impl Known {
    /// Reads entity files: each a JSON array in Cedar's entity format, typed against the schema.
    pub(crate) fn read(sources: &[Source], schema: &Schema, mistakes: &mut Vec<Mistake>) -> Known {
        let mut canonical = BTreeMap::new();
        let mut entities = Vec::new();
        for source in sources {
            let Some(items) = items(source, mistakes) else { continue };
            for item in items {
                match Entity::from_json_value(item.clone(), Some(schema)) {
                    Ok(entity) if is_action(&entity.uid()) => {
                        mistakes.push(at_entity(
                            source,
                            &item,
                            "actions come from the catalogue, not from entity files".into(),
                        ));
                    }
                    Ok(entity) => {
                        let uid = entity.uid().to_string();
                        if canonical.insert(uid.clone(), action::json::canonical(&item)).is_some() {
                            mistakes.push(at_entity(source, &item, format!("`{uid}` is declared twice")));
                        }
                        entities.push(entity);
                    }
                    Err(error) => mistakes.push(at_entity(source, &item, with_causes(&error))),
                }
            }
        }
        let file = sources.first().map_or_else(|| "entities".to_owned(), |source| source.name.clone());
        let all = Entities::from_entities(entities, Some(schema)).unwrap_or_else(|error| {
            mistakes.push(Mistake { file, line: 1, column: 1, message: with_causes(&error), hint: None });
            Entities::empty()
        });
        let digest = hex::encode(Sha256::digest(canonical.into_values().collect::<Vec<_>>().join("\n")));
        Known::of(all, digest)
    }

    fn of(all: Entities, digest: String) -> Known {
        let leads_to = all.iter().map(|entity| (entity.uid(), neighbours(&all, entity))).collect();
        let by_uid = all.iter().map(|entity| (entity.uid(), entity.clone())).collect();
        Known { by_uid, leads_to, digest }
    }

    /// Whether the operator or the schema declares it.
    pub(crate) fn has(&self, uid: &EntityUid) -> bool {
        self.by_uid.contains_key(uid)
    }

    /// All entities that can be reached from `roots`, with the principal's tenant added to its parents. Evaluation
    /// starts at the request and at names in the policies and moves along parents and attributes only, so what is left
    /// out here cannot change a decision.
    pub(crate) fn slice(
        &self,
        roots: impl IntoIterator<Item = EntityUid>,
        principal: &EntityUid,
        tenant: EntityUid,
    ) -> Result<Entities, String> {
        let mut seen = HashSet::new();
        let mut waiting: Vec<EntityUid> = roots.into_iter().collect();
        waiting.push(principal.clone());
        let mut found = Vec::new();
        while let Some(uid) = waiting.pop() {
            if uid == *principal {
                found.push(self.principal(principal, tenant.clone())?);
            } else if let Some(entity) = self.by_uid.get(&uid) {
                found.push(entity.clone());
            }
            seen.insert(uid.clone());
            let next = self.leads_to.get(&uid).into_iter().flatten();
            waiting.extend(next.filter(|next| !seen.contains(*next)).cloned());
        }
        let mut unique = HashSet::new();
        found.retain(|entity| unique.insert(entity.uid()));
        Entities::from_entities(found, None).map_err(|error| error.to_string())
    }

    fn principal(&self, uid: &EntityUid, tenant: EntityUid) -> Result<Entity, String> {
        let Some(known) = self.by_uid.get(uid) else {
            return Ok(Entity::new_no_attrs(uid.clone(), HashSet::from([tenant])));
        };
        // Through JSON, because Cedar has no other way to add a parent; done once per principal and cached.
        let mut form = known.to_json_value().map_err(|error| error.to_string())?;
        let parent = tenant.to_json_value().map_err(|error| error.to_string())?;
        if let Some(parents) = form.get_mut("parents").and_then(Value::as_array_mut) {
            parents.push(parent);
        }
        Entity::from_json_value(form, None).map_err(|error| error.to_string())
    }
}

/// Everything the entity leads to: all ancestors, and every entity that one of its attributes names.
fn neighbours(all: &Entities, entity: &Entity) -> Vec<EntityUid> {
    let uid = entity.uid();
    let mut out: Vec<EntityUid> = all.ancestors(&uid).into_iter().flatten().cloned().collect();
    for (_, value) in entity.attrs().filter_map(|(name, value)| value.ok().map(|value| (name, value))) {
        named_in(&value, &mut out);
    }
    out
}

fn named_in(value: &cedar_policy::EvalResult, out: &mut Vec<EntityUid>) {
    use cedar_policy::EvalResult;
    match value {
        EvalResult::EntityUid(uid) => out.push(uid.clone()),
        EvalResult::Set(items) => items.iter().for_each(|item| named_in(item, out)),
        EvalResult::Record(members) => members.iter().for_each(|(_, member)| named_in(member, out)),
        _ => {}
    }
}

fn is_action(uid: &EntityUid) -> bool {
    uid.type_name().basename() == "Action"
}

fn items(source: &Source, mistakes: &mut Vec<Mistake>) -> Option<Vec<Value>> {
    match action::json::parse(source.text.as_bytes()) {
        Ok(Value::Array(items)) => Some(items),
        Ok(_) => {
            mistakes.push(crate::rule::at_offset(
                source,
                0,
                "an entity file is a JSON array",
                Some("see the documentation of Cedar's entity format"),
            ));
            None
        }
        Err(error) => {
            mistakes.push(crate::rule::at_offset(source, error.offset, error.to_string(), None));
            None
        }
    }
}

/// At the first place that spells the entity's id; a guess that is right unless two types share an id.
fn at_entity(source: &Source, item: &Value, message: String) -> Mistake {
    let id = item.pointer("/uid/id").or_else(|| item.pointer("/uid/__entity/id")).and_then(Value::as_str);
    let at = id.and_then(|id| source.text.find(&format!("\"{id}\""))).unwrap_or(0);
    crate::rule::at_offset(source, at, message, None)
}

/// Cedar tells the reason in the chain of sources.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        out.push_str(": ");
        out.push_str(&error.to_string());
        cause = error.source();
    }
    out
}
