//! One file, one archetype.

use super::amounts::{self, Thresholds};
use super::limits;
use super::mistake::nearest;
use super::paths;
use super::reader::{File, Node, Table};
use super::schema::{self, Schema};
use super::verbatim;
use crate::archetype::{ApprovalForm, Archetype, OnDuplicate};
use crate::atp::is_name;
use crate::json;
use crate::level::{GuaranteeLevel, PaymentMode};
use crate::name::MAX_ARCHETYPE;
use crate::retention::{Deletion, Keeping, Period};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Reads an archetype; `None` if a mistake makes the rest meaningless. Every mistake is noted in its file.
pub(crate) fn read(table: &Table<'_>) -> Option<Archetype> {
    table.finish_with(&KEYS);
    let (name, _) = name(table)?;
    let money_table = table.get("money").and_then(|node| node.table());
    let pointers: Vec<String> = money_table.iter().flat_map(amounts::amount_pointers).collect();
    let schema = schema(table, &pointers)?;
    let money = money_table.as_ref().and_then(|money| amounts::money_rule(money, &schema));
    let thresholds = Thresholds::of(money_table.is_some(), money.as_ref(), &schema);

    let pointer = |key| table.get(key).and_then(|node| paths::scalar_pointer(node, key, &schema));
    let destination = pointer("destination");
    let resource = pointer("resource");
    let reversible = table.get("reversible").and_then(|node| node.flag()).unwrap_or(false);
    let grave = money_table.is_some() || !reversible;
    let duplicate = limits::duplicate_rule(table, grave);
    let told_apart = duplicate.on != OnDuplicate::Allow;
    let (groups, resource_type) = cedar(table, &name);
    Some(Archetype {
        description: table.get("description").and_then(|node| node.text()).unwrap_or_default().to_owned(),
        verbs: names(table, "verb"),
        targets: names(table, "target"),
        identity: paths::identity(table, &schema, told_apart && (grave || schema.is_verbatim())),
        reversible,
        recovery_window: limits::recovery_window(table, reversible),
        guarantee_level: word(table, "guarantee_level", &LEVELS, GuaranteeLevel::parse)
            .unwrap_or(GuaranteeLevel::Atp1),
        retry: limits::retry_policy(table),
        default_payment_mode: word(table, "default_payment_mode", &PAYMENT_MODES, PaymentMode::parse)
            .unwrap_or(PaymentMode::ImmediateCharge),
        duplicate,
        anomaly: limits::anomaly_rule(table, &thresholds),
        irreversible_threshold: table.get("irreversible_threshold").and_then(|node| thresholds.read(node)),
        requires_approval: table.get("requires_approval").and_then(|node| node.flag()).unwrap_or(false),
        approvals: table.get("approvals").and_then(|node| node.count(MOST_APPROVALS)).unwrap_or(1),
        approval: word(table, "approval", &["key", "passkey"], ApprovalForm::parse),
        keeping: keeping(table),
        regulations: regulations(table),
        bindings: bindings(table),
        digest: digest(table),
        groups,
        resource_type,
        name,
        resource,
        destination,
        money,
        members: schema.members,
        shape: schema.shape?,
        schema: schema.document,
    })
}

const KEYS: [&str; 30] = [
    "extends",
    "name",
    "description",
    "verb",
    "target",
    "resource",
    "destination",
    "identity",
    "reversible",
    "recovery_window",
    "guarantee_level",
    "retry",
    "default_payment_mode",
    "irreversible_threshold",
    "requires_approval",
    "approvals",
    "approval",
    "retention",
    "deletion",
    "regulations",
    "cedar",
    "money",
    "duplicate",
    "anomaly",
    "schema",
    "input_schema",
    "mapped",
    "public",
    "display",
    "binding",
];
/// More people than this are no way to let an action through.
const MOST_APPROVALS: u32 = 16;
/// An entry of the audit trail names them all.
const MOST_REGULATIONS: usize = 16;
const LEVELS: [&str; 3] = ["atp-1", "atp-2", "atp-3"];
const PAYMENT_MODES: [&str; 4] =
    ["QUOTE_ONLY", "RESERVE_IF_AVAILABLE", "IMMEDIATE_CHARGE", "IMMEDIATE_CHARGE_WITH_CHALLENGE"];

/// The archetype's name and where it stands.
pub(crate) fn name<'a>(table: &Table<'a>) -> Option<(String, Node<'a>)> {
    let Some(node) = table.get("name") else {
        table.mistake("the archetype has no `name`", "begin the file with `name = \"SOME_ACTION\"`");
        return None;
    };
    let name = node.text()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b);
    let well_formed = (1..=MAX_ARCHETYPE).contains(&name.len())
        && name.bytes().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphabetic());
    if !well_formed {
        let hint =
            format!("use 1 to {MAX_ARCHETYPE} ASCII letters, digits and `_.:/-`, beginning with a letter");
        node.mistake_with_hint("not a name for an archetype", hint);
        return None;
    }
    Some((name.to_owned(), node))
}

/// What the archetype takes: in the operator's words, or in somebody else's.
fn schema(table: &Table<'_>, money: &[String]) -> Option<Schema> {
    match (table.get("schema"), table.get("input_schema")) {
        (Some(node), None) => {
            for key in verbatim::LISTS {
                let hint = "in a `[schema]` every member is mapped; write `x-public` or `x-display` into it";
                table.key_mistake(key, format!("`{key}` belongs to an `input_schema`"), hint);
            }
            let schema = schema::read(node, money)?;
            schema::check_examples(node, &schema);
            Some(schema)
        }
        (None, Some(node)) => verbatim::read(table, node, money),
        (Some(_), Some(node)) => {
            let hint = "keep `input_schema` for what somebody else wrote, `[schema]` for your own";
            node.mistake_with_hint("both `[schema]` and `input_schema`", hint);
            None
        }
        (None, None) => {
            table.mistake(
                "the archetype has no `[schema]`",
                "declare its constraints under `[schema.properties]`, or paste somebody else's as `input_schema`",
            );
            None
        }
    }
}

/// One name or several, such as verbs that mean the same.
fn names(table: &Table<'_>, key: &'static str) -> Vec<String> {
    let Some(node) = table.get(key) else { return Vec::new() };
    let names = match node.json() {
        Value::Array(_) => node.texts(),
        _ => node.text().map(|text| vec![(node, text)]).unwrap_or_default(),
    };
    if names.is_empty() {
        node.mistake(format!("`{key}` names nothing"));
    }
    for (node, _) in names.iter().filter(|(_, name)| !is_name(name)) {
        node.mistake_with_hint(
            format!("no request can say this {key}"),
            "use 1 to 128 ASCII letters, digits, blanks and `._:/-@+#~`",
        );
    }
    names.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// The action groups and the resource's entity type.
fn cedar(table: &Table<'_>, name: &str) -> (Vec<String>, String) {
    let Some(cedar) = table.get("cedar").and_then(|node| node.table()) else {
        return (Vec::new(), "Resource".into());
    };
    let groups = cedar.get("groups").map(|node| node.texts()).unwrap_or_default();
    for (node, _) in groups.iter().filter(|(_, group)| !is_cedar_identifier(group) || *group == name) {
        let hint = "use letters, digits and `_`, unlike the archetype's name";
        node.mistake_with_hint("not a name for a group of actions", hint);
    }
    let resource_type = cedar.get("resource_type").and_then(resource_type);
    cedar.finish();
    let groups = groups.into_iter().map(|(_, group)| group.to_owned()).collect();
    (groups, resource_type.unwrap_or("Resource").to_owned())
}

fn resource_type<'a>(node: Node<'a>) -> Option<&'a str> {
    let text = node.text()?;
    if !text.split("::").all(is_cedar_identifier) {
        node.mistake_with_hint("not a Cedar entity type", "use letters, digits and `_`, such as `Account`");
    } else if ["Agent", "AgentGroup", "Tenant", "User", "Action"].contains(&text) {
        node.mistake_with_hint(
            format!("`{text}` already means something else"),
            "name the kind of thing acted on",
        );
    }
    Some(text)
}

fn is_cedar_identifier(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 64
        && text.bytes().all(plain)
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

pub(crate) fn word<T>(
    table: &Table<'_>,
    key: &'static str,
    known: &[&str],
    read: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let node = table.get(key)?;
    let text = node.text()?;
    let value = read(text);
    if value.is_none() {
        let hint = nearest(text, known).map_or_else(
            || format!("known: {}", known.join(", ")),
            |near| format!("did you mean \"{near}\"?"),
        );
        node.mistake_with_hint(format!("unknown {} `{text}`", key.replace('_', " ")), hint);
    }
    value
}

fn keeping(table: &Table<'_>) -> Keeping {
    let (retention, deletion) = (table.get("retention"), table.get("deletion"));
    let period = retention.and_then(|node| {
        parsed(
            node,
            Period::parse,
            "retention",
            "write a time of at most 100 years, such as \"90_days\" or \"7_years\"",
        )
    });
    let deleted = deletion.and_then(|node| {
        let hint =
            "write \"none\", \"hard_delete_after_retention\", or a time such as \"hard_delete_90_days\"";
        parsed(node, Deletion::parse, "deletion", hint)
    });
    Keeping::new(period, deleted.unwrap_or_default()).unwrap_or_else(|why| {
        // Where the retention itself is wrong, that is what has to be mended.
        if let (Some(node), None) = (deletion, retention) {
            let hint = "write `retention`, or a time such as \"hard_delete_90_days\"";
            node.mistake_with_hint(why.to_string(), hint);
        }
        Keeping::default()
    })
}

fn parsed<T>(node: Node<'_>, parse: impl Fn(&str) -> Option<T>, what: &str, hint: &str) -> Option<T> {
    let value = parse(node.text()?);
    if value.is_none() {
        node.mistake_with_hint(format!("not a {what}"), hint);
    }
    value
}

fn regulations(table: &Table<'_>) -> Vec<String> {
    let named = table.get("regulations").map(|node| node.texts()).unwrap_or_default();
    for (node, text) in &named {
        if !(1..=64).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let hint = "use 1 to 64 visible ASCII characters, such as \"GDPR-Art-17\"";
            node.mistake_with_hint("not the name of a regulation", hint);
        }
    }
    if let Some((node, _)) = named.get(MOST_REGULATIONS) {
        node.mistake(format!("an archetype falls under at most {MOST_REGULATIONS} regulations"));
    }
    named.into_iter().map(|(_, text)| text.to_owned()).collect()
}

fn bindings(table: &Table<'_>) -> BTreeMap<String, Value> {
    let binding = table.get("binding").and_then(|node| node.table());
    binding.iter().flat_map(Table::iter).map(|(key, node)| (key.to_owned(), node.json())).collect()
}

/// What is declared, and not how it is laid out.
fn digest(table: &Table<'_>) -> String {
    let declared =
        table.iter().filter(|(key, _)| *key != "extends").map(|(key, node)| (key.to_owned(), node.json()));
    let declared = Value::Object(declared.collect());
    hex::encode(Sha256::digest(json::canonical(&declared).as_bytes()))
}

/// The built-in files, as they stand in `catalogue/`.
pub(crate) const BUILTIN: [(&str, &str, &str); 6] = [
    (
        "PAYMENT_TRANSFER",
        "built-in payment_transfer.toml",
        include_str!("../../catalogue/payment_transfer.toml"),
    ),
    (
        "HOTEL_RESERVATION",
        "built-in hotel_reservation.toml",
        include_str!("../../catalogue/hotel_reservation.toml"),
    ),
    ("FLIGHT_BOOKING", "built-in flight_booking.toml", include_str!("../../catalogue/flight_booking.toml")),
    ("DATA_EXPORT", "built-in data_export.toml", include_str!("../../catalogue/data_export.toml")),
    (
        "TERMINAL_COMMAND",
        "built-in terminal_command.toml",
        include_str!("../../catalogue/terminal_command.toml"),
    ),
    ("DATA_DELETE", "built-in data_delete.toml", include_str!("../../catalogue/data_delete.toml")),
];

/// The built-in file of an archetype.
pub(crate) fn builtin_file(name: &str) -> Option<File<'static>> {
    BUILTIN.iter().find(|(builtin, ..)| *builtin == name).map(|(_, file, text)| File::new(file, text))
}
