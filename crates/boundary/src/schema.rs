//! The Cedar schema that every policy is typed against, generated from the catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use action::{Archetype, Catalogue, CedarMember, CedarType};

/// Action groups that exist in every schema. The baseline prohibits both to agents.
pub(crate) const GUARDED_GROUPS: [&str; 2] = ["AuditTrail", "Governance"];

/// Entity types that exist in every schema.
const OWN_TYPES: [&str; 5] = ["Tenant", "AgentGroup", "Agent", "User", "ResourceGroup"];

const HEAD: &str = r#"// Generated from the catalogue: do not edit, `countersign policy schema` prints it.

// Who asks. Groups, owners and tags come from the operator's entity files; the tenant is always a parent.
entity Tenant;
entity AgentGroup in [AgentGroup] tags String;
entity Agent in [AgentGroup, Tenant] { owner?: User } tags String;
entity User in [Tenant] tags String;

// What is acted on. Groups and tags come from the operator's entity files.
entity ResourceGroup in [ResourceGroup] tags String;

// Money is whole minor units: 12.50 USD is {minor: 1250, currency: "USD"}.
type Money = { currency: String, minor: Long };

// UTC. `weekday` is 1 for Monday to 7 for Sunday.
type Time = { hour: Long, minute: Long, unix_seconds: Long, weekday: Long };

// What is left of the mandate; a member is absent where the mandate sets no limit.
type Mandate = { actions_left?: Long, expires_in_seconds: Long, id: String, issuer: String, spend_left?: Money };

"#;

/// The schema, as Cedar text.
pub(crate) fn text(catalogue: &Catalogue) -> String {
    let mut out = String::from(HEAD);
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
    let names: BTreeSet<&str> = GUARDED_GROUPS.into_iter().chain(declared).collect();
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
    bound?: Money,
    constraints: {constraints},
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
  }},
}};

"#,
        description = archetype.description.replace(char::is_control, " "),
        name = quoted(&archetype.name),
        resource = archetype.resource_type,
        constraints = record(&archetype.cedar_schema_members(), 4),
    );
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
