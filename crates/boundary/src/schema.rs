//! The Cedar schema that every policy is typed against, generated from the catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use action::{Archetype, Catalogue, CedarMember, CedarType};

/// Action groups that exist in every schema. The baseline prohibits both to agents.
pub(crate) const GUARDED_GROUPS: [&str; 2] = ["AuditTrail", "Governance"];

/// Action groups that policies can speak of though nothing is in them yet: the tools of MCP servers, by their class.
const TOOL_GROUPS: [&str; 5] = ["Mcp", "McpAdditive", "McpDestructive", "McpIdempotent", "McpReadOnly"];

/// Entity types that exist in every schema.
const OWN_TYPES: [&str; 7] = ["Tenant", "AgentGroup", "Agent", "User", "ResourceGroup", SESSION, BUDGET];

/// The action that every cycle of a governed session is, beside its own: the gate.
pub(crate) const GATE: &str = "ExecuteCycle";

/// Handing time from one member of a cluster to another.
pub(crate) const TRANSFER: &str = "BUDGET_TRANSFER";

/// What those two are done to.
pub(crate) const SESSION: &str = "Session";

/// The action that extending the time budget of a mandate is.
pub(crate) const EXTEND: &str = "ExtendBudget";

/// What that is done to.
pub(crate) const BUDGET: &str = "Budget";

/// Actions that no catalogue declares.
pub(crate) const OWN_ACTIONS: [&str; 3] = [GATE, TRANSFER, EXTEND];

const HEAD: &str = r#"// Generated from the catalogue: do not edit, `countersign policy schema` prints it.

// Who asks. Groups, owners and tags come from the operator's entity files; the tenant is always a parent.
entity Tenant;
entity AgentGroup in [AgentGroup] tags String;
entity Agent in [AgentGroup, Tenant] { owner?: User } tags String;
entity User in [Tenant] tags String;

// What is acted on. Groups and tags come from the operator's entity files.
entity ResourceGroup in [ResourceGroup] tags String;

// A governed session: what a cycle as such is done to.
entity Session in [ResourceGroup] tags String;

// The time budget of a mandate, by the mandate's id: what an extension is done to.
entity Budget in [ResourceGroup] tags String;

// Money is whole minor units: 12.50 USD is {minor: 1250, currency: "USD"}.
type Money = { currency: String, minor: Long };

// UTC. `weekday` is 1 for Monday to 7 for Sunday.
type Time = { hour: Long, minute: Long, unix_seconds: Long, weekday: Long };

// What is left of the mandate; a member is absent where the mandate sets no limit.
type Mandate = { actions_left?: Long, expires_in_seconds: Long, id: String, issuer: String, spend_left?: Money };

"#;

/// What is true of a cycle: in the context of the gate itself, and under `cycle` in that of the action.
const CYCLE: &str = "\
  cluster?: { id: String, members: Long, pool_seconds: Long, principals: Long, state: String },
  confidence?: Long,
  cycle_id: String,
  delegation_depth: Long,
  escalation_class?: Long,
  goal_type?: String,
  human_approval_received: Bool,
  intent_id?: String,
  intent_valid: Bool,
  prior_denial_count: Long,
  reasoning_mode: String,
  resource_envelope: { compute_units?: Long, memory_bytes?: Long, network_egress_bytes?: Long, storage_bytes?: Long },
  scope_within_parent_bounds: Bool,
  sequence: Long,
  session_id: String,
  tier_0a_check_passed: Bool,
  time_budget_remaining: Long,
";

/// What is true of a transfer.
const HANDOVER: &str = "\
  cluster: { id: String, members: Long, pool_seconds: Long, principals: Long, state: String },
  delegation_depth: Long,
  environment: String,
  resource: String,
  source_agent_cluster_id: String,
  source_principal: String,
  source_remaining_budget: Long,
  target_agent_cluster_id: String,
  target_principal: String,
  target_remaining_budget: Long,
  tenant: String,
  time: Time,
  transfer_amount: Long,
";

/// What is true of an action whatever its archetype, beside its amount.
const COMMON: &str = "\
  bound?: Money,
  destination?: String,
  duplicate: Bool,
  environment: String,
  first_seen_destination: Bool,
  guarantee_level: Long,
  mandate?: Mandate,
  payment_mode: String,
  repeat_of?: String,
  reversible: Bool,
  tenant: String,
  time: Time,
";

/// The schema, as Cedar text: the catalogue's actions and those of ours.
pub(crate) fn text(catalogue: &Catalogue) -> String {
    let mut out = actions(catalogue);
    gate(&mut out);
    transfer(&mut out);
    extension(&mut out);
    out
}

/// The same without those of ours. What names no action is about the catalogue's and typed against these alone: the gate
/// has no constraints and no certain amount, and listens only to policies that name it.
pub(crate) fn actions(catalogue: &Catalogue) -> String {
    let mut out = String::from(HEAD);
    out.push_str("// A cycle of a governed session. `confidence` is in ten-thousandths; `escalation_class` is there once people\n");
    out.push_str("// were asked; of the resources, what is left where there is a limit.\n");
    let _ = writeln!(out, "type GovernedCycle = {{\n{CYCLE}}};\n");
    resource_types(catalogue, &mut out);
    groups(catalogue, &mut out);
    for archetype in catalogue.iter() {
        action(archetype, &mut out);
    }
    out
}

/// Types in a namespace, as `Bank::Account`, are declared inside it.
fn resource_types(catalogue: &Catalogue, out: &mut String) {
    let mut spaces: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for archetype in catalogue.iter() {
        let (space, name) =
            archetype.resource_type.rsplit_once("::").unwrap_or(("", &archetype.resource_type));
        spaces.entry(space).or_default().insert(name);
    }
    for (space, names) in spaces {
        let declared: String = names
            .into_iter()
            .filter(|name| !(space.is_empty() && OWN_TYPES.contains(name)))
            .map(|name| format!("entity {name} in [ResourceGroup] tags String;\n"))
            .collect();
        match space {
            "" => out.push_str(&declared),
            space => out.push_str(&format!("namespace {space} {{\n{declared}}}\n")),
        }
    }
    out.push('\n');
}

fn groups(catalogue: &Catalogue, out: &mut String) {
    let declared = catalogue.iter().flat_map(|archetype| archetype.groups.iter().map(String::as_str));
    let names: BTreeSet<&str> = GUARDED_GROUPS.into_iter().chain(TOOL_GROUPS).chain(declared).collect();
    for name in names {
        let _ = writeln!(out, "action {};", quoted(name));
    }
    out.push('\n');
}

fn action(archetype: &Archetype, out: &mut String) {
    let groups: Vec<String> = archetype.groups.iter().map(|name| quoted(name)).collect();
    let parents = match groups.is_empty() {
        true => String::new(),
        false => format!(" in [{}]", groups.join(", ")),
    };
    let amount = match amount_is_certain(archetype) {
        true => "amount: Money",
        false => "amount?: Money",
    };
    let _ = write!(
        out,
        r#"// {description}
action {name}{parents} appliesTo {{
  principal: [Agent, User],
  resource: [{resource}],
  context: {{
    {amount},
    constraints: {constraints},
    cycle?: GovernedCycle,
{common}  }},
}};

"#,
        description = archetype.description.replace(char::is_control, " "),
        name = quoted(&archetype.name),
        resource = archetype.resource_type,
        constraints = record(&archetype.cedar_schema_members(), 4),
        common = indented(COMMON),
    );
}

/// Every cycle is this action too, done to its session.
fn gate(out: &mut String) {
    let _ = write!(
        out,
        r#"// Whether a cycle of a governed session may be executed, before its own action is asked about. `archetype` is that.
action {name} appliesTo {{
  principal: [Agent, User],
  resource: [{SESSION}],
  context: {{
    amount?: Money,
    archetype: String,
{common}{cycle}  }},
}};
"#,
        name = quoted(GATE),
        common = indented(COMMON),
        cycle = indented(CYCLE),
    );
}

/// Done to the session that gets it.
fn transfer(out: &mut String) {
    let _ = write!(
        out,
        r#"
// Whether a member of a cluster may hand so much to another, which is the resource; `context.resource` says of what:
// `time_seconds`, `compute_units`, `storage_bytes` or `network_egress_bytes`.
action {name} appliesTo {{
  principal: [Agent, User],
  resource: [{SESSION}],
  context: {{
{members}  }},
}};
"#,
        name = quoted(TRANSFER),
        members = indented(HANDOVER),
    );
}

/// What people do to a mandate's time budget.
fn extension(out: &mut String) {
    let _ = write!(
        out,
        r#"
// Whether a person may extend the time budget of a mandate by so many seconds. `role` is that of their key; `awaited` says
// whether a cycle waits for it.
action {name} appliesTo {{
  principal: [User],
  resource: [{BUDGET}],
  context: {{
    awaited: Bool,
    environment: String,
    granted_seconds: Long,
    mandate: {{ agent: String, id: String, issuer: String }},
    remaining_seconds: Long,
    role: String,
    seconds: Long,
    tenant: String,
    time: Time,
  }},
}};
"#,
        name = quoted(EXTEND),
    );
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect()
}

/// Whether a complete action of this archetype always has an amount: policies need not ask `context has amount`.
fn amount_is_certain(archetype: &Archetype) -> bool {
    let Some(pointer) = archetype.money.as_ref().and_then(|rule| rule.amount.as_ref()) else { return false };
    let [name] = pointer.segments() else { return false };
    archetype.member(name).is_some_and(|member| member.required)
}

fn record(members: &[CedarMember], indent: usize) -> String {
    let mut out = String::from("{\n");
    for member in members {
        let mark = if member.required { "" } else { "?" };
        let kind = kind(&member.kind, indent + 2);
        let _ = writeln!(out, "{:indent$}  {}{mark}: {kind},", "", quoted(&member.name));
    }
    let _ = write!(out, "{:indent$}}}", "");
    out
}

fn kind(kind: &CedarType, indent: usize) -> String {
    match kind {
        CedarType::String => "String".into(),
        CedarType::Long => "Long".into(),
        CedarType::Bool => "Bool".into(),
        CedarType::Money => "Money".into(),
        CedarType::Set(item) => format!("Set<{}>", self::kind(item, indent)),
        CedarType::Record(members) => record(members, indent),
    }
}

/// A Cedar string literal.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}
