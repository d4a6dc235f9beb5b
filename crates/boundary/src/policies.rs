//! The policies of one tenant: read, typed against the catalogue, and cut into one set per action.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use action::{Catalogue, Mistake, Source};
use cedar_policy::{
    ActionConstraint, Authorizer, Entities, EntityId, EntityTypeName, EntityUid, PolicySet, Schema,
    ValidationMode, Validator,
};
use miette::Diagnostic;
use sha2::{Digest, Sha256};

use crate::entities::Known;
use crate::reads::Reads;
use crate::rule::{self, Rule, Tier};
use crate::{Cycle, Facts, HardDeny, prospects, schema};

/// What ships in the binary and cannot be removed.
const BASELINE: &str = include_str!("baseline.cedar");
const BASELINE_FILE: &str = "baseline.cedar";

/// What permits a cycle as such where the operator's policies do not say what does. It is not one of the set: it says
/// nothing of actions outside of sessions, and the set's digest stays what the operator's files make it.
const EXECUTE_CYCLE: &str = include_str!("execute-cycle.cedar");
const EXECUTE_CYCLE_FILE: &str = "execute-cycle.cedar";

/// The same for handing time from one member of a cluster to another.
const BUDGET_TRANSFER: &str = include_str!("budget-transfer.cedar");
const BUDGET_TRANSFER_FILE: &str = "budget-transfer.cedar";

/// The same of extending a budget.
const EXTEND_BUDGET: &str = include_str!("extend-budget.cedar");
const EXTEND_BUDGET_FILE: &str = "extend-budget.cedar";

/// More principals than this are not remembered; the next one starts the memory afresh.
const MAX_CAST: usize = 4096;

/// Everything that decisions are made by, as one value: swapped whole when policies are reloaded. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Policies(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    rules: HashMap<Arc<str>, Rule>,
    slices: HashMap<String, Slice>,
    /// What is asked of every cycle before its own action.
    gate: Slice,
    /// What is asked before time goes from one member of a cluster to another.
    transfer: Slice,
    /// What is asked of who extends a budget.
    extension: Slice,
    /// What permits one of those three, where no policy of the set says what does.
    stand_ins: Vec<Rule>,
    known: Known,
    cast: Mutex<HashMap<String, Arc<Cast>>>,
    hard_deny: HardDeny,
    authorizer: Authorizer,
    types: Types,
    schema_text: String,
    warnings: Vec<Mistake>,
    policy_digest: Arc<str>,
    entity_digest: Arc<str>,
    catalog_digest: Arc<str>,
}

/// The entities that one question needs.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) entities: Entities,
    /// Canonical JSON, for the record.
    pub(crate) json: String,
}

#[derive(Debug)]
struct Types {
    agent: EntityTypeName,
    user: EntityTypeName,
    tenant: EntityTypeName,
}

/// The policies that can apply to one action. INVARIANT (slice): a policy that is not in here names other actions in
/// its scope, so it cannot apply and leaving it out changes no decision.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) action: EntityUid,
    pub(crate) resource_type: EntityTypeName,
    /// Tier 0-A, asked first and alone.
    pub(crate) prohibitions: PolicySet,
    /// Permits, and forbids of tiers 0-B, 1 and 2.
    pub(crate) main: PolicySet,
    /// `main` without what only waits for a person; `None` when nothing does.
    pub(crate) without_escalations: Option<PolicySet>,
    /// Tier 3: recorded, never enforced.
    pub(crate) advice: PolicySet,
    /// What can be said of whoever asks before it is known what for.
    pub(crate) prospects: PolicySet,
    /// Whether a permit looks at the amount, so that default deny means little before a quote.
    pub(crate) permit_needs_amount: bool,
    /// What the policies can look at.
    pub(crate) reads: Reads,
    /// Whether that is how much is left of a mandate.
    pub(crate) looks_at_left: bool,
    /// Entities that the policies name.
    literals: Vec<EntityUid>,
    /// Set when the archetype goes by a name of the hard-deny list.
    pub(crate) hard_denied: Option<String>,
}

impl Policies {
    /// Reads a set of policies: Cedar files, entity files (JSON arrays in Cedar's entity format) and names to add to
    /// the hard-deny list. Every policy is typed against the schema that the catalogue makes.
    ///
    /// # Errors
    /// Every mistake found; a set with a mistake is never used.
    pub fn load(
        sources: &[Source],
        entities: &[Source],
        hard_deny: &[String],
        catalogue: &Catalogue,
    ) -> Result<Policies, Vec<Mistake>> {
        let schema_text = schema::text(catalogue);
        let schema = read_schema(&schema::actions(catalogue)).map_err(|mistake| vec![mistake])?;
        let mut mistakes = own_names_are_free(catalogue);
        let shipped = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
        let baseline = shipped(BASELINE_FILE, BASELINE);
        let of_gate = shipped(EXECUTE_CYCLE_FILE, EXECUTE_CYCLE);
        let of_transfer = shipped(BUDGET_TRANSFER_FILE, BUDGET_TRANSFER);
        let of_extension = shipped(EXTEND_BUDGET_FILE, EXTEND_BUDGET);
        let first = [&of_gate, &of_transfer, &of_extension, &baseline];
        let sources: Vec<&Source> = first.into_iter().chain(sources).collect();
        let mut rules = read_rules(&sources, &mut mistakes);
        let stand_ins = stand_ins_of(&mut rules);
        let (of_own, others): (Vec<Rule>, Vec<Rule>) = rules.iter().cloned().partition(names_own);
        let mut warnings = validate(&others, &sources, &schema, &mut mistakes);
        if !of_own.is_empty() {
            let with_own = read_schema(&schema_text).map_err(|mistake| vec![mistake])?;
            warnings.extend(validate(&of_own, &sources, &with_own, &mut mistakes));
        }
        let known = Known::read(entities, &schema, &mut mistakes);
        let hard_deny = HardDeny::with(hard_deny);
        let types = types().map_err(|message| vec![at_start("schema", message)])?;
        let mut slices = HashMap::new();
        for archetype in catalogue.iter() {
            match Slice::of(archetype, &rules, &hard_deny) {
                Ok(slice) => drop(slices.insert(archetype.name.clone(), slice)),
                Err(message) => mistakes.push(at_start(&archetype.name, message)),
            }
        }
        let mut own = |name: &str, resource_type: &str| {
            let slice = Slice::own(name, resource_type, of_own.iter().chain(&stand_ins));
            slice.map_err(|message| mistakes.push(at_start(name, message)))
        };
        let gate = own(schema::GATE, schema::SESSION);
        let transfer = own(schema::TRANSFER, schema::SESSION);
        let extension = own(schema::EXTEND, schema::BUDGET);
        let (Ok(gate), Ok(transfer), Ok(extension), true) = (gate, transfer, extension, mistakes.is_empty())
        else {
            return Err(mistakes);
        };
        Ok(Policies(Arc::new(Loaded {
            policy_digest: policy_digest(&rules, &hard_deny).into(),
            entity_digest: known.digest.as_str().into(),
            catalog_digest: catalogue.digest().into(),
            rules: rules.into_iter().map(|rule| (rule.reference.id.clone(), rule)).collect(),
            authorizer: Authorizer::new(),
            cast: Mutex::default(),
            slices,
            gate,
            transfer,
            extension,
            stand_ins,
            known,
            hard_deny,
            types,
            schema_text,
            warnings,
        })))
    }

    /// The policies that apply where no directory is configured, for the sandbox: every archetype of the catalogue is
    /// permitted, within mandates and everything else the boundary checks.
    pub fn sandbox() -> Source {
        Source {
            name: "sandbox.cedar".into(),
            text: include_str!("../templates/sandbox-allow-all.cedar").into(),
        }
    }

    /// SHA-256 over all policies and the hard-deny list, in lower-case hex.
    pub fn policy_digest(&self) -> &Arc<str> {
        &self.0.policy_digest
    }

    /// SHA-256 over the operator's entities, in lower-case hex.
    pub fn entity_digest(&self) -> &Arc<str> {
        &self.0.entity_digest
    }

    /// The digest of the catalogue that the policies were typed against.
    pub fn catalog_digest(&self) -> &Arc<str> {
        &self.0.catalog_digest
    }

    /// The Cedar schema that the catalogue makes.
    pub fn schema_text(&self) -> &str {
        &self.0.schema_text
    }

    /// What Cedar finds odd but not wrong, such as a policy that can never apply.
    pub fn warnings(&self) -> &[Mistake] {
        &self.0.warnings
    }

    /// All policies, baseline included, by id.
    pub fn rules(&self) -> Vec<&Rule> {
        let mut rules: Vec<&Rule> = self.0.rules.values().collect();
        rules.sort_by(|a, b| a.reference.id.cmp(&b.reference.id));
        rules
    }

    /// Names that are never carried out.
    pub fn hard_deny(&self) -> &HardDeny {
        &self.0.hard_deny
    }

    /// What permits a cycle as such, a transfer or an extension, where no policy of the set says what does.
    pub(crate) fn stand_ins(&self) -> &[Rule] {
        &self.0.stand_ins
    }

    pub(crate) fn rule(&self, id: &str) -> Option<&Rule> {
        self.0.rules.get(id).or_else(|| self.stand_ins().iter().find(|rule| *rule.reference.id == *id))
    }

    pub(crate) fn gate(&self) -> &Slice {
        &self.0.gate
    }

    /// Whether policies that were asked can look at what is left of the mandates: then another use of these may change
    /// what they say.
    pub(crate) fn look_at_accounts(&self, facts: &Facts<'_>) -> bool {
        let looks = |action: &action::Action| {
            self.slice(&action.archetype.name).is_none_or(|slice| slice.looks_at_left)
        };
        let of_cycle = |cycle: &Cycle<'_>| self.gate().looks_at_left || cycle.branches.iter().any(looks);
        facts.mandate.is_some() && (looks(facts.action) || facts.cycle.as_ref().is_some_and(of_cycle))
    }

    pub(crate) fn transfer(&self) -> &Slice {
        &self.0.transfer
    }

    pub(crate) fn extension(&self) -> &Slice {
        &self.0.extension
    }

    pub(crate) fn slice(&self, archetype: &str) -> Option<&Slice> {
        self.0.slices.get(archetype)
    }

    pub(crate) fn authorizer(&self) -> &Authorizer {
        &self.0.authorizer
    }

    pub(crate) fn principal(&self, is_human: bool, subject: &str) -> EntityUid {
        let kind = if is_human { &self.0.types.user } else { &self.0.types.agent };
        EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(subject))
    }

    /// The entities that one question needs. Remembered by principal and action, because building them costs more than
    /// asking; memory is bounded and holds nothing that the arguments do not determine.
    pub(crate) fn cast(
        &self,
        slice: &Slice,
        principal: &EntityUid,
        tenant: &str,
        resource: &EntityUid,
    ) -> Result<Arc<Cast>, String> {
        let loaded = &self.0;
        let named = loaded.known.has(resource);
        let key = key(principal, tenant, &slice.action, named.then_some(resource));
        let remembered = || loaded.cast.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(cast) = remembered().get(&key) {
            return Ok(cast.clone());
        }
        let tenant = EntityUid::from_type_name_and_id(loaded.types.tenant.clone(), EntityId::new(tenant));
        let roots = slice.literals.iter().chain([&slice.action, resource]).cloned();
        let entities = loaded.known.slice(roots, principal, tenant)?;
        let json = entities.to_json_value().map_err(|error| error.to_string())?;
        let cast = Arc::new(Cast { json: action::json::canonical(&json), entities });
        let mut memory = remembered();
        if memory.len() >= MAX_CAST {
            memory.clear();
        }
        memory.insert(key, cast.clone());
        Ok(cast)
    }
}

impl Slice {
    fn of(archetype: &action::Archetype, rules: &[Rule], hard_deny: &HardDeny) -> Result<Slice, String> {
        let action = uid("Action", &archetype.name)?;
        let mut names = vec![action.clone()];
        for group in &archetype.groups {
            names.push(uid("Action", group)?);
        }
        let applies = |rule: &&Rule| match rule.policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(named) => named == action,
            ActionConstraint::In(named) => named.iter().any(|named| names.contains(named)),
        };
        let rules: Vec<&Rule> = rules.iter().filter(applies).collect();
        let hard_denied = hard_deny.denies(&archetype.name, None, None).map(str::to_owned);
        Slice::cut(action, type_name(&archetype.resource_type)?, &rules, hard_denied)
    }

    /// The policies that name an action of ours; what names no action is about those of the catalogue.
    fn own<'a>(
        name: &str,
        resource_type: &str,
        rules: impl Iterator<Item = &'a Rule>,
    ) -> Result<Slice, String> {
        let rules: Vec<&Rule> = rules.filter(|rule| names(rule, name)).collect();
        Slice::cut(uid("Action", name)?, type_name(resource_type)?, &rules, None)
    }

    fn cut(
        action: EntityUid,
        resource_type: EntityTypeName,
        rules: &[&Rule],
        hard_denied: Option<String>,
    ) -> Result<Slice, String> {
        let set = |wanted: &dyn Fn(&Rule) -> bool| {
            let policies = rules.iter().filter(|rule| wanted(rule)).map(|rule| rule.policy.clone());
            PolicySet::from_policies(policies).map_err(|error| error.to_string())
        };
        let main = |rule: &Rule| !matches!(rule.tier, Tier::ZeroA | Tier::Three);
        let escalates = rules.iter().any(|rule| rule.escalates);
        let mut literals: Vec<EntityUid> =
            rules.iter().flat_map(|rule| rule.policy.entity_literals()).collect();
        literals.sort();
        literals.dedup();
        let mut reads = Reads::default();
        rules.iter().for_each(|rule| reads.merge(&rule.reads));
        Ok(Slice {
            prospects: prospects::of(rules, &resource_type)?,
            resource_type,
            prohibitions: set(&|rule| rule.tier == Tier::ZeroA)?,
            main: set(&main)?,
            without_escalations: escalates.then(|| set(&|rule| main(rule) && !rule.escalates)).transpose()?,
            advice: set(&|rule| rule.tier == Tier::Three)?,
            permit_needs_amount: rules.iter().any(|rule| !rule.forbids && rule.reads.has("amount")),
            hard_denied,
            action,
            reads,
            looks_at_left: rules.iter().any(|rule| rule.looks_at_left),
            literals,
        })
    }
}

/// Names of ours are no archetype's and no group's: what is said of them would be about both.
fn own_names_are_free(catalogue: &Catalogue) -> Vec<Mistake> {
    let mistake = |archetype: &action::Archetype, name: &str| Mistake {
        hint: Some("choose another name: governed sessions are asked about under this one".into()),
        ..at_start(&archetype.name, format!("`{name}` is the name of an archetype or of a group"))
    };
    let mistakes = |archetype: &action::Archetype| {
        let is = |name: &&str| archetype.name == *name || archetype.groups.iter().any(|it| it == *name);
        let taken = schema::OWN_ACTIONS.into_iter().filter(is);
        taken.map(|name| mistake(archetype, name)).collect::<Vec<_>>()
    };
    catalogue.iter().flat_map(|it| mistakes(it)).collect()
}

/// Takes what may stand in, the first of the rules, out of the set; what is needed is given back.
fn stand_ins_of(rules: &mut Vec<Rule>) -> Vec<Rule> {
    let count = schema::OWN_ACTIONS.len().min(rules.len());
    let shipped: Vec<Rule> = rules.drain(..count).collect();
    let said = |name: &str| rules.iter().any(|rule| !rule.forbids && names(rule, name));
    let needed = |rule: &Rule| {
        schema::OWN_ACTIONS.into_iter().find(|name| names(rule, name)).is_some_and(|name| !said(name))
    };
    shipped.into_iter().filter(needed).collect()
}

fn names_own(rule: &Rule) -> bool {
    schema::OWN_ACTIONS.into_iter().any(|name| names(rule, name))
}

fn names(rule: &Rule, name: &str) -> bool {
    let is_it = |named: &EntityUid| named.id().unescaped() == name;
    match rule.policy.action_constraint() {
        ActionConstraint::Any => false,
        ActionConstraint::Eq(named) => is_it(&named),
        ActionConstraint::In(named) => named.iter().any(is_it),
    }
}

fn read_schema(text: &str) -> Result<Schema, Mistake> {
    let source = Source { name: "schema.cedarschema".into(), text: text.to_owned() };
    match Schema::from_cedarschema_str(text) {
        Ok((schema, _)) => Ok(schema),
        Err(error) => {
            let mut mistake = rule::mistake(&source, rule::offset(&error), &error);
            mistake.message = format!("the catalogue makes no Cedar schema: {}", mistake.message);
            mistake.hint = Some("look for a resource type or an action group that Cedar cannot name".into());
            Err(mistake)
        }
    }
}

fn read_rules(sources: &[&Source], mistakes: &mut Vec<Mistake>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for source in sources {
        for rule in rule::read(source, mistakes) {
            match rules.iter().find(|other| other.reference.id == rule.reference.id) {
                None => rules.push(rule),
                Some(other) => mistakes.push(Mistake {
                    file: rule.file.to_string(),
                    line: rule.line,
                    column: 1,
                    message: format!(
                        "policy `{}` is also in {}, line {}",
                        rule.reference.id, other.file, other.line
                    ),
                    hint: Some("give one of them another @id; a baseline policy cannot be replaced".into()),
                }),
            }
        }
    }
    rules
}

/// Types every policy; what is only odd comes back as warnings.
fn validate(
    rules: &[Rule],
    sources: &[&Source],
    schema: &Schema,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Mistake> {
    let all = match PolicySet::from_policies(rules.iter().map(|rule| rule.policy.clone())) {
        Ok(all) => all,
        Err(error) => {
            mistakes.push(at_start("policies", error.to_string()));
            return Vec::new();
        }
    };
    let result = Validator::new(schema.clone()).validate(&all, ValidationMode::Strict);
    let place = |id: &cedar_policy::PolicyId, error: &dyn Diagnostic| {
        let rule = rules.iter().find(|rule| rule.policy.id() == id)?;
        let source = sources.iter().find(|source| source.name == *rule.file)?;
        Some(rule::mistake(source, rule::offset(error), error))
    };
    mistakes.extend(result.validation_errors().filter_map(|error| place(error.policy_id(), error)));
    let warnings = result.validation_warnings().filter_map(|warning| place(warning.policy_id(), warning));
    // That no archetype is in a guarded group is how it should be.
    warnings.filter(|warning| warning.file != BASELINE_FILE).collect()
}

fn policy_digest(rules: &[Rule], hard_deny: &HardDeny) -> String {
    let mut lines: Vec<String> =
        rules.iter().map(|rule| format!("{}\t{}", rule.reference.id, rule.reference.digest)).collect();
    lines.sort_unstable();
    lines.extend(hard_deny.iter().map(str::to_owned));
    hex::encode(Sha256::digest(lines.join("\n")))
}

fn types() -> Result<Types, String> {
    Ok(Types { agent: type_name("Agent")?, user: type_name("User")?, tenant: type_name("Tenant")? })
}

fn type_name(text: &str) -> Result<EntityTypeName, String> {
    text.parse().map_err(|_| format!("`{text}` is not a name that Cedar can give to a type"))
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    Ok(EntityUid::from_type_name_and_id(type_name(kind)?, EntityId::new(id)))
}

fn key(principal: &EntityUid, tenant: &str, action: &EntityUid, resource: Option<&EntityUid>) -> String {
    let kind = principal.type_name().basename();
    let mut key = String::with_capacity(128);
    for part in [kind, principal.id().unescaped(), tenant, action.id().unescaped()] {
        key.push_str(part);
        key.push('\n');
    }
    if let Some(resource) = resource {
        key.push_str(resource.id().unescaped());
    }
    key
}

fn at_start(file: &str, message: String) -> Mistake {
    Mistake { file: file.to_owned(), line: 1, column: 1, message, hint: None }
}
