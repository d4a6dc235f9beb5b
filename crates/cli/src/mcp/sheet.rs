//! The catalogue file of one tool: written once, and from then on the operator's, changed line by line.

use std::path::{Path, PathBuf};

use action::{ApprovalForm, Catalogue, Source, is_hidden};
use gateway::archetype_of;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, value};

use super::class::{Class, EVERY};
use super::settings::add_to;
use super::told::{Told, legible_json, legible_line};
use crate::error::{Context, Error, Result};
use crate::{mistakes, out};

/// The file of one tool.
pub(super) struct Sheet {
    pub(super) path: PathBuf,
    document: DocumentMut,
    /// What [`Sheet::text`] writes into the comment lines that are ours.
    class_line: Option<String>,
    accepted: Option<Told>,
}

/// What was accepted of a tool, for people to compare.
#[derive(Default)]
pub(super) struct Accepted {
    pub(super) title: Value,
    pub(super) description: Value,
    pub(super) annotations: Value,
    pub(super) icons: Value,
    pub(super) meta: Value,
    pub(super) more: Value,
    pub(super) output_schema: Value,
    pub(super) input_schema: Value,
}

impl Accepted {
    pub(super) fn of(told: &Told) -> Accepted {
        let text = |text: &Option<String>| text.as_ref().map(|it| json!(it)).unwrap_or_default();
        Accepted {
            title: text(&told.title),
            description: text(&told.description),
            annotations: told.annotations.clone().unwrap_or_default(),
            icons: told.icons.clone().unwrap_or_default(),
            meta: told.meta.clone().unwrap_or_default(),
            more: told.more.clone().unwrap_or_default(),
            output_schema: told.output_schema.clone().unwrap_or_default(),
            input_schema: told.input_schema.clone(),
        }
    }

    /// Member by member, beside another one.
    pub(super) fn beside<'a>(&'a self, other: &'a Accepted) -> [(&'static str, &'a Value, &'a Value); 8] {
        [
            ("title", &self.title, &other.title),
            ("description", &self.description, &other.description),
            ("annotations", &self.annotations, &other.annotations),
            ("icons", &self.icons, &other.icons),
            ("_meta", &self.meta, &other.meta),
            ("other members", &self.more, &other.more),
            ("inputSchema", &self.input_schema, &other.input_schema),
            ("outputSchema", &self.output_schema, &other.output_schema),
        ]
    }
}

/// How another tool takes the effect of one back.
pub(super) struct Undo {
    tool: String,
    pinned: String,
    arguments: InlineTable,
    /// Where the result names what it made.
    reference: Option<String>,
}

/// Every line of the server's own words begins so.
const SAID: &str = "#| ";
/// Whatever the protocol has no member for.
const MORE: &str = "more";
const CLASS: &str = "# class: ";
const DAY_SECONDS: i64 = 86_400;
/// The longest that a server's or tool's name is as part of a file's.
const PART: usize = 64;

/// A file name for it: never with anything in it that leads elsewhere, and never that of another tool.
pub(super) fn file_name(server: &str, tool: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    if [server, tool].iter().all(|part| (1..=PART).contains(&part.len()) && part.bytes().all(plain)) {
        return format!("mcp.{server}.{tool}.toml");
    }
    let folded =
        |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c.to_ascii_lowercase() } else { '_' };
    let digest = hex::encode(Sha256::digest(archetype_of(server, tool)));
    let name = |part: &str| part.chars().map(folded).take(PART).collect::<String>();
    format!("mcp.{}.{}.{}.toml", name(server), name(tool), &digest[..8])
}

/// What it takes to agree to a call that cannot be taken back, and how that is changed.
pub(super) const KEY_IS_ENOUGH: &str = "Whoever agrees to what cannot be taken back does so with a passkey, at /approvals. Where an \
                                        API key is to be enough, write `approval = \"key\"` in the tool's file, above its first \
                                        table (the first line in brackets).";

/// A new file for a tool that nobody has classified.
///
/// # Errors
/// Why it cannot be an archetype.
pub(super) fn written(
    server: &str,
    told: &Told,
    approval: Option<ApprovalForm>,
) -> std::result::Result<String, String> {
    let tool = &told.name;
    let name = archetype_of(server, tool);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:/-".contains(&byte);
    if tool.is_empty() || !tool.bytes().all(plain) {
        return Err("its name has other characters than ASCII letters, digits and `_.:/-`".to_owned());
    }
    if server::is_own_tool(tool) {
        return Err("the gateway has a tool of that name itself".to_owned());
    }
    let (proposed, why) = Class::proposed(told.annotations.as_ref());
    let (mapped, candidates) = visible(&told.input_schema);
    let mapped = value(mapped.iter().collect::<Array>());
    let more = match candidates.is_empty() {
        true => String::new(),
        false => format!("# policies could see, too: {}\n", shown_names(&candidates)),
    };
    let approval = approval.map(|form| {
        format!(
            "approval = \"{}\"    # what it takes to agree; \"passkey\": a person's own signature\n",
            form.as_str()
        )
    });
    let text = format!(
        "# The tool `{tool}` of the MCP server `{server}`, as `countersign mcp import` or `mcp accept` found it. Yours to change.\n\
         # proposed: {proposed} ({why})\n\
         {CLASS}none, so it counts as destructive: `countersign mcp classify {server} {tool} --as …`\n\
         name = \"{name}\"\n\
         description = \"{tool} of the MCP server {server}\"\n\
         reversible = false\n\
         {approval}\
         mapped = {mapped}\n\
         {more}\
         input_schema = '''\n{schema}\n'''\n\
         \n[cedar]\ngroups = [\"{EVERY}\"]\n\
         \n[duplicate]\non = \"escalate\"\n\
         \n[binding]\nprovider = \"mcp\"\nserver = \"{server}\"\ntool = \"{tool}\"\npinned = \"{digest}\"\nread_only = false\n\
         \n[binding.capabilities]\nrepeat_safe = false\n\
         \n# What the server said of it when it was accepted. Its words decide nothing.\n{said}",
        proposed = proposed.as_str(),
        approval = approval.unwrap_or_default(),
        mapped = mapped.to_string().trim(),
        schema = legible_json(&told.input_schema),
        digest = told.digest,
        said = said(told),
    );
    fits(&name, &text).map(|()| text)
}

/// The files of a folder that are of tools.
///
/// # Errors
/// One cannot be read.
pub(super) fn all(folder: &Path) -> Result<Vec<Sheet>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for source in mistakes::sources(folder, &["toml"])? {
        let document: DocumentMut =
            source.text.parse().while_we(|| format!("`{}` is not TOML", source.name))?;
        let sheet = Sheet { path: PathBuf::from(source.name), document, class_line: None, accepted: None };
        if sheet.binding("provider") == Some("mcp") {
            all.push(sheet);
        }
    }
    Ok(all)
}

impl Sheet {
    pub(super) fn server(&self) -> &str {
        self.binding("server").unwrap_or_default()
    }

    pub(super) fn tool(&self) -> &str {
        self.binding("tool").unwrap_or_default()
    }

    pub(super) fn pinned(&self) -> &str {
        self.binding("pinned").unwrap_or_default()
    }

    /// What the operator said of it, if anything.
    pub(super) fn class(&self) -> Option<Class> {
        let groups = self.document.get("cedar").and_then(|cedar| cedar.get("groups")?.as_array());
        let in_group = |class: &Class| {
            groups.is_some_and(|it| it.iter().any(|name| name.as_str() == Some(class.group())))
        };
        Class::ALL.into_iter().find(in_group)
    }

    /// The tool that takes its effect back, and how that is pinned.
    pub(super) fn undone_by(&self) -> Option<&str> {
        self.document.get("binding")?.get("rollback")?.get("tool")?.as_str()
    }

    /// What it takes to agree to it, where the file says so.
    pub(super) fn approval(&self) -> Option<ApprovalForm> {
        ApprovalForm::parse(self.document.get("approval")?.as_str()?)
    }

    /// What was accepted of it, as far as the file says.
    pub(super) fn accepted(&self) -> Accepted {
        let text = self.document.to_string();
        let said = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(SAID)?.strip_prefix(name)?.strip_prefix(" = "));
            line.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
        };
        let schema = self.document.get("input_schema").and_then(Item::as_str);
        Accepted {
            title: said("title"),
            description: said("description"),
            annotations: said("annotations"),
            icons: said("icons"),
            meta: said("_meta"),
            more: said(MORE),
            output_schema: said("outputSchema"),
            input_schema: schema.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
        }
    }

    /// Takes what the server says now for what is accepted. What policies see of it stays, as far as it is still there.
    pub(super) fn accept(&mut self, told: &Told) -> Result<()> {
        let schema = format!("x = '''\n{}\n'''\n", legible_json(&told.input_schema));
        let schema: DocumentMut = schema.parse().while_we(|| "the schema cannot be written".to_owned())?;
        if let (Some(there), Some(new)) = (self.document.get_mut("input_schema"), schema.get("x")) {
            *there = new.clone();
        }
        let (certain, candidates) = visible(&told.input_schema);
        if let Some(mapped) = self.document.get_mut("mapped").and_then(Item::as_array_mut) {
            let is_there = |name: &str| certain.iter().chain(&candidates).any(|one| one == name);
            mapped.retain(|one| one.as_str().is_some_and(is_there));
        }
        self.binding_table(|binding| set(binding, "pinned", &told.digest))?;
        self.accepted = Some(told.clone());
        Ok(())
    }

    /// Pins the tool that takes this one's effect back.
    pub(super) fn accept_undo(&mut self, digest: &str) -> Result<()> {
        self.binding_table(|binding| {
            if let Some(rollback) = binding.get_mut("rollback").and_then(Item::as_table_like_mut) {
                set(rollback, "pinned", digest);
            }
        })
    }

    /// Says of it what the operator says.
    pub(super) fn classify(&mut self, class: Class, undo: Option<Undo>) -> Result<()> {
        let can_be_undone = class != Class::ReadOnly && (undo.is_some() || self.undone_by().is_some());
        // What changes nothing has nothing to be undone.
        set(self.document.as_table_mut(), "reversible", class == Class::ReadOnly || can_be_undone);
        let cedar = table(self.document.as_table_mut(), "cedar")?;
        if let Some(groups) = cedar.get_mut("groups").and_then(Item::as_array_mut) {
            groups.retain(|name| !Class::ALL.iter().any(|class| name.as_str() == Some(class.group())));
        }
        add_to(cedar, "groups", EVERY)?;
        add_to(cedar, "groups", class.group())?;
        let on = if class.is_repeat_safe() { "allow" } else { "escalate" };
        set(table(self.document.as_table_mut(), "duplicate")?, "on", on);
        self.binding_table(|binding| {
            set(binding, "read_only", class == Class::ReadOnly);
            if class == Class::ReadOnly {
                binding.remove("rollback");
            }
            if let Some(undo) = undo {
                undo.write(binding);
            }
        })?;
        let binding = table(self.document.as_table_mut(), "binding")?;
        set(table(binding, "capabilities")?, "repeat_safe", class.is_repeat_safe());
        self.class_line = Some(class.as_str().to_owned());
        Ok(())
    }

    /// How another tool could take this one's effect back, or the arguments of it that nothing is known for.
    pub(super) fn undone_with(&self, other: &Sheet) -> std::result::Result<Undo, Vec<String>> {
        let (own, others) = (self.accepted(), other.accepted());
        let named = |schema: &Value| schema["properties"].as_object().cloned().unwrap_or_default();
        let (given, made) = (named(&own.input_schema), named(&own.output_schema));
        let (mut arguments, mut reference, mut missing) = (InlineTable::new(), None, Vec::new());
        for name in others.input_schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str)
        {
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            let from = match (given.contains_key(name), made.contains_key(name), &reference) {
                (true, ..) => ("$value", pointer),
                (false, true, None) => {
                    reference = Some(format!("/structuredContent{pointer}"));
                    ("$action", "provider_reference".to_owned())
                }
                _ => {
                    missing.push(name.to_owned());
                    continue;
                }
            };
            arguments.insert(name, toml_edit::Value::from([from].into_iter().collect::<InlineTable>()));
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        Ok(Undo { tool: other.tool().to_owned(), pinned: other.pinned().to_owned(), arguments, reference })
    }

    /// The file as it is now.
    ///
    /// # Errors
    /// It is no archetype any more.
    pub(super) fn text(&self) -> Result<String> {
        let mut lines: Vec<String> = Vec::new();
        for line in self.document.to_string().lines() {
            match (&self.class_line, &self.accepted) {
                (Some(class), _) if line.starts_with(CLASS) => lines.push(format!("{CLASS}{class}")),
                (_, Some(_)) if line.starts_with(SAID) => {}
                _ => lines.push(line.to_owned()),
            }
        }
        let mut text = lines.join("\n") + "\n";
        if let Some(told) = &self.accepted {
            text.push_str(&said(told));
        }
        let name = self.document.get("name").and_then(Item::as_str).unwrap_or_default();
        fits(name, &text)
            .map_err(|why| Error::new(format!("`{}` would be no archetype: {why}", self.path.display())))?;
        Ok(text)
    }

    fn binding(&self, key: &str) -> Option<&str> {
        self.document.get("binding")?.get(key)?.as_str()
    }

    fn binding_table(&mut self, change: impl FnOnce(&mut dyn TableLike)) -> Result<()> {
        change(table(self.document.as_table_mut(), "binding")?);
        Ok(())
    }
}

impl Undo {
    fn write(self, binding: &mut dyn TableLike) {
        if let Some(reference) = &self.reference {
            set(binding, "reference", reference);
        }
        let mut table = Table::new();
        table.insert("tool", value(self.tool));
        table.insert("pinned", value(self.pinned));
        table.insert("arguments", value(self.arguments));
        table.insert("within_seconds", value(DAY_SECONDS));
        binding.insert("rollback", Item::Table(table));
    }
}

fn table<'a>(table: &'a mut dyn TableLike, key: &str) -> Result<&'a mut dyn TableLike> {
    let item = table.entry(key).or_insert_with(|| Item::Table(Table::new()));
    item.as_table_like_mut().ok_or_else(|| Error::new(format!("`{key}` is no table")))
}

/// A key's value, with the comment that stands behind it.
fn set(table: &mut dyn TableLike, key: &str, new: impl Into<toml_edit::Value>) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(there) => {
            let decor = there.decor().clone();
            *there = new.into();
            *there.decor_mut() = decor;
        }
        None => drop(table.insert(key, value(new.into()))),
    }
}

/// Whether a text is the archetype that it should be.
fn fits(name: &str, text: &str) -> std::result::Result<(), String> {
    let source = Source { name: name.to_owned(), text: text.to_owned() };
    let loaded = Catalogue::load(false, &[source]);
    let why =
        |found: Vec<action::Mistake>| found.into_iter().map(|one| one.message).take(3).collect::<Vec<_>>();
    match loaded.map_err(why) {
        Ok(catalogue) if catalogue.get(name).is_some() => Ok(()),
        Ok(_) => Err("it would have another name".to_owned()),
        Err(why) => Err(why.join("; ")),
    }
}

fn said(told: &Told) -> String {
    let said = Accepted::of(told);
    let lines = [
        ("title", said.title),
        ("description", said.description),
        ("annotations", said.annotations),
        ("icons", said.icons),
        ("_meta", said.meta),
        (MORE, said.more),
        ("outputSchema", said.output_schema),
    ];
    let line = |(name, value): (&str, Value)| {
        (!value.is_null()).then(|| format!("{SAID}{name} = {}\n", legible_line(&value)))
    };
    lines.into_iter().filter_map(line).collect()
}

/// The members that policies see from the start, and those that they could see: what has a plain type. Free text is left to
/// the operator, because what policies see has to show what it is.
fn visible(schema: &Value) -> (Vec<String>, Vec<String>) {
    let empty = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    let (mut certain, mut candidates) = (Vec::new(), Vec::new());
    for (name, schema) in
        properties.iter().filter(|(name, _)| !name.is_empty() && !name.chars().any(is_hidden))
    {
        match plainness(schema) {
            Some(true) => certain.push(name.clone()),
            Some(false) => candidates.push(name.clone()),
            None => {}
        }
    }
    (certain, candidates)
}

/// Whether a member is a switch, a number or a short name; `None` if policies cannot see it at all.
fn plainness(schema: &Value) -> Option<bool> {
    let schema = schema.as_object().filter(|it| !it.contains_key("$ref"))?;
    match schema.get("type")?.as_str()? {
        "boolean" | "integer" => Some(true),
        "string" => {
            let is_short = schema.get("maxLength").and_then(Value::as_u64).is_some_and(|most| most <= SHORT);
            Some(
                is_short
                    || ["enum", "const", "pattern", "format"].iter().any(|key| schema.contains_key(*key)),
            )
        }
        "array" if !schema.contains_key("prefixItems") => {
            let items = schema.get("items")?.as_object().filter(|it| !it.contains_key("$ref"))?;
            (items.get("type")?.as_str()? == "string").then_some(false)
        }
        _ => None,
    }
}

/// The longest text that is a name.
const SHORT: u64 = 256;

fn shown_names(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(MOST_SHOWN).map(|name| out::shown(name)).collect();
    let more = if names.len() > MOST_SHOWN { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

const MOST_SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str) -> Told {
        Told {
            name: name.to_owned(),
            title: None,
            description: Some("Commits.\nThen stops.".to_owned()),
            input_schema: json!({
                "type": "object",
                "required": ["repo"],
                "properties": {
                    "repo": {"type": "string", "maxLength": 64},
                    "amend": {"type": "boolean"},
                    "message": {"type": "string"},
                    "files": {"type": "array", "items": {"type": "string"}},
                    "options": {"type": "object"},
                },
            }),
            output_schema: Some(json!({"type": "object", "properties": {"id": {"type": "string"}}})),
            annotations: Some(json!({"destructiveHint": false})),
            icons: None,
            meta: None,
            more: None,
            digest: "ab".repeat(32),
        }
    }

    fn sheet(told: &Told) -> Sheet {
        let text = written("git", told, None).unwrap();
        Sheet { path: "x.toml".into(), document: text.parse().unwrap(), class_line: None, accepted: None }
    }

    #[test]
    fn no_name_leads_out_of_the_folder_or_to_another_tool() {
        assert_eq!(file_name("git", "git_commit"), "mcp.git.git_commit.toml");
        let hostile =
            ["../../x", "a/b", "a.b", "A", "a", "..", "", "a\u{0}", "ä", &"x".repeat(300), "con:nul"];
        let mut names: Vec<String> = hostile.iter().map(|tool| file_name("git", tool)).collect();
        names.extend([file_name("git.a", "b"), file_name("git", "a.b")]);
        for name in &names {
            assert!(
                name.len() < 200
                    && name
                        .bytes()
                        .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || b"_-.".contains(&it)),
                "{name}"
            );
            assert_eq!(Path::new(name).file_name().and_then(|it| it.to_str()), Some(name.as_str()));
        }
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count - 1, "a.b of git stands twice in the list, and nothing else does");
    }

    #[test]
    fn what_cannot_be_an_archetype_says_why() {
        for (name, why) in
            [("../../x", "mistake"), ("a b", "characters"), ("", "characters"), ("\u{1b}[2J", "characters")]
        {
            if let Err(found) = written("git", &told(name), None) {
                assert!(found.contains(why) || why == "mistake", "{name}: {found}");
            }
        }
        for own in ["countersign_status", "countersign_receipt"] {
            assert_eq!(
                written("git", &told(own), None),
                Err("the gateway has a tool of that name itself".to_owned())
            );
        }
        assert!(written("git", &told(&"x".repeat(400)), None).is_err());
        let mut no_schema = told("a");
        no_schema.input_schema =
            json!({"type": "object", "properties": {"a": {"$ref": "https://evil.example/"}}});
        assert!(written("git", &no_schema, None).is_err());
    }

    #[test]
    fn a_description_cannot_leave_its_comment() {
        let mut hostile = told("a");
        hostile.description = Some("x\n[binding]\nread_only = true\u{202e}\r\n'''".to_owned());
        hostile.title = Some("\n#| annotations = {\"readOnlyHint\":true}".to_owned());
        let sheet = sheet(&hostile);
        let accepted = sheet.accepted();
        assert_eq!(accepted.description.as_str(), hostile.description.as_deref());
        assert_eq!(accepted.annotations, json!({"destructiveHint": false}));
        assert_eq!(sheet.document["binding"]["read_only"].as_bool(), Some(false));
    }

    #[test]
    fn classes_are_written_between_the_comments() {
        let mut it = sheet(&told("a"));
        assert_eq!(it.class(), None);
        let text = it
            .text()
            .unwrap()
            .replace("on = \"escalate\"", "on = \"escalate\"   # mine")
            .replace("[\"Mcp\"]", "[\"Mcp\", \"Mine\"]");
        it.document = text.parse().unwrap();
        it.classify(Class::ReadOnly, None).unwrap();
        let text = it.text().unwrap();
        for line in [
            "reversible = true",
            "on = \"allow\"   # mine",
            "read_only = true",
            "repeat_safe = true",
            "# class: read_only",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
        assert!(text.contains("groups = [\"Mcp\", \"Mine\", \"McpReadOnly\"]"), "{text}");
        it.classify(Class::Destructive, None).unwrap();
        assert_eq!(it.class(), Some(Class::Destructive));
        let text = it.text().unwrap();
        assert!(text.contains("reversible = false\n") && text.contains("read_only = false\n"), "{text}");
        assert!(text.contains("# proposed: additive"), "{text}");
    }

    #[test]
    fn another_tool_takes_it_back() {
        let mut create = sheet(&told("create"));
        let delete = |required: &[&str]| {
            let mut delete = told("delete");
            delete.input_schema = json!({"type": "object", "required": required, "properties": {"id": {"type": "string"}, "repo": {"type": "string"}, "force": {"type": "boolean"}}});
            sheet(&delete)
        };
        assert_eq!(create.undone_with(&delete(&["force"])).err(), Some(vec!["force".to_owned()]));
        let undo =
            create.undone_with(&delete(&["id", "repo"])).unwrap_or_else(|missing| panic!("{missing:?}"));
        create.classify(Class::Additive, Some(undo)).unwrap();
        let text = create.text().unwrap();
        assert!(
            text.contains("reversible = true\n") && text.contains("reference = \"/structuredContent/id\"\n"),
            "{text}"
        );
        assert!(text.contains("arguments = { id = { \"$action\" = \"provider_reference\" }, repo = { \"$value\" = \"/repo\" } }"), "{text}");
        assert_eq!(create.undone_by(), Some("delete"));
    }

    #[test]
    fn accepting_writes_what_is_said_now() {
        let mut it = sheet(&told("a"));
        it.classify(Class::ReadOnly, None).unwrap();
        let mut now = told("a");
        now.description = Some("Pushes.".to_owned());
        now.icons = Some(json!([{"src": "https://example.com/a.png"}]));
        now.meta = Some(json!({"ui": {"resourceUri": "ui://git"}}));
        now.more = Some(json!({"novel": ["a"]}));
        now.digest = "cd".repeat(32);
        now.input_schema = json!({"type": "object", "properties": {"repo": {"type": "string"}}});
        it.accept(&now).unwrap();
        it.document = it.text().unwrap().parse().unwrap();
        assert_eq!((it.pinned(), it.class()), (now.digest.as_str(), Some(Class::ReadOnly)));
        let accepted = it.accepted();
        assert_eq!((accepted.description, accepted.input_schema), (json!("Pushes."), now.input_schema));
        assert_eq!((Some(accepted.icons), Some(accepted.meta)), (now.icons, now.meta));
        assert_eq!(Some(accepted.more), now.more);
        assert!(it.document.to_string().contains("mapped = [\"repo\"]"), "{}", it.document);
        assert_eq!(it.document.to_string().matches("#| description").count(), 1);
    }
}
