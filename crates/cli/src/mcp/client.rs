//! A client's own configuration: which servers it starts or calls, and the same file with us in their place.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Context, Error, Result};

/// The configuration of a client such as Claude, Cursor or VS Code.
pub(super) struct ClientFile {
    document: Value,
    at: &'static [&'static str],
    /// It had comments, which do not survive being written again.
    pub(super) commented: bool,
}

/// One server as the client has it, or why it cannot be taken over.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) reached: std::result::Result<Reached, String>,
}

/// How a client reaches a server, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Process {
        command: String,
        args: Vec<String>,
        env: BTreeMap<String, String>,
        /// It has more variables, in a file of its own.
        has_env_file: bool,
        dir: Option<String>,
    },
    Address {
        url: String,
        headers: BTreeMap<String, String>,
    },
}

/// Where clients keep their servers.
const PLACES: [&[&str]; 3] = [&["mcpServers"], &["servers"], &["mcp", "servers"]];
/// What members of an entry clients call its address.
const ADDRESSES: [&str; 3] = ["url", "serverUrl", "httpUrl"];
const MOST_BYTES: u64 = 1024 * 1024;
const MOST_SERVERS: usize = 100;

impl ClientFile {
    pub(super) fn read(path: &Path) -> Result<ClientFile> {
        let shown = path.display();
        let about = std::fs::metadata(path).while_we(|| format!("cannot read `{shown}`"))?;
        if about.len() > MOST_BYTES {
            return Err(Error::new(format!("`{shown}` is larger than {MOST_BYTES} bytes")));
        }
        let text = std::fs::read_to_string(path).while_we(|| format!("cannot read `{shown}`"))?;
        ClientFile::parse(&text).map_err(|error| error.hint(format!("in `{shown}`")))
    }

    fn parse(text: &str) -> Result<ClientFile> {
        let (plain, commented) = without_comments(text.trim_start_matches('\u{feff}'));
        // A server that stands there twice would be looked at by one reader and started by another.
        action::json::parse(plain.as_bytes())
            .while_we(|| "the client's configuration is not JSON of one meaning".to_owned())?;
        let document: Value =
            serde_json::from_str(&plain).while_we(|| "the client's configuration is not JSON".to_owned())?;
        let found = |at: &&[&str]| servers_in(&document, at).is_some_and(|servers| !servers.is_empty());
        let Some(at) = PLACES.into_iter().find(found) else {
            return Err(Error::new(
                "the client's configuration names no MCP servers: it has no `mcpServers` and no `servers`",
            ));
        };
        if servers_in(&document, at).is_some_and(|servers| servers.len() > MOST_SERVERS) {
            return Err(Error::new(format!(
                "the client's configuration names more than {MOST_SERVERS} MCP servers"
            )));
        }
        Ok(ClientFile { document, at, commented })
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        let servers = servers_in(&self.document, self.at);
        let read = |(name, entry): (&String, &Value)| Entry { name: name.clone(), reached: reached(entry) };
        servers.into_iter().flatten().map(read).collect()
    }

    /// Has the client call us in the place of a server. What else its entry says stays as far as it cannot be how the server was
    /// reached: numbers, switches and lists.
    pub(super) fn put(&mut self, name: &str, mut entry: Value) {
        let Some(before) = self.entry(name) else { return };
        for (name, value) in before.as_object().into_iter().flatten() {
            let is_other = value.is_number() || value.is_boolean() || value.is_array();
            if is_other && name != "args" && entry.get(name).is_none() {
                entry[name] = value.clone();
            }
        }
        *before = entry;
    }

    /// Has the client start us around a server, with all else as it was; the environment is passed on.
    pub(super) fn wrap(&mut self, name: &str, program: &str, (command, args): (&str, &[String])) {
        let Some(entry) = self.entry(name) else { return };
        let ours = ["mcp", "--name", name, "--", command].map(str::to_owned);
        entry["command"] = program.into();
        entry["args"] = ours.into_iter().chain(args.iter().cloned()).collect();
    }

    fn entry(&mut self, name: &str) -> Option<&mut Value> {
        let servers = self.at.iter().try_fold(&mut self.document, |value, key| value.get_mut(*key));
        servers?.get_mut(name).filter(|entry| entry.is_object())
    }

    /// How this client writes what stands in an environment variable.
    pub(super) fn variable(&self, name: &str, path: &Path) -> String {
        let cursor = path.components().any(|part| part.as_os_str() == ".cursor");
        if cursor || self.at != PLACES[0] { format!("${{env:{name}}}") } else { format!("${{{name}}}") }
    }

    pub(super) fn text(&self) -> String {
        format!("{:#}\n", self.document)
    }
}

/// The entry by which a client calls us over HTTP.
pub(super) fn called(url: &str, key: &str) -> Value {
    json!({ "type": "http", "url": url, "headers": { "Authorization": bearer(key) } })
}

/// How a client says its key.
pub(super) fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

fn servers_in<'a>(document: &'a Value, at: &[&str]) -> Option<&'a Map<String, Value>> {
    at.iter().try_fold(document, |value, key| value.get(*key))?.as_object()
}

fn reached(entry: &Value) -> std::result::Result<Reached, String> {
    let members = entry.as_object().ok_or("its entry is no object")?;
    if members.get("disabled").or_else(|| members.get("isDisabled")) == Some(&Value::Bool(true)) {
        return Err("it is disabled".to_owned());
    }
    let url = ADDRESSES.iter().find_map(|name| members.get(*name));
    match (members.get("command"), url) {
        (Some(command), None) => Ok(Reached::Process {
            command: text("command", command)?,
            args: texts("args", members.get("args"))?,
            env: table("env", members.get("env"))?,
            has_env_file: members.get("envFile").is_some_and(|file| !file.is_null()),
            dir: members.get("cwd").map(|dir| text("cwd", dir)).transpose()?,
        }),
        (None, Some(url)) => Ok(Reached::Address {
            url: text("url", url)?,
            headers: table("headers", members.get("headers"))?,
        }),
        _ => Err("its entry has not one of `command` and `url`".to_owned()),
    }
}

fn text(what: &str, value: &Value) -> std::result::Result<String, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => return Err(format!("its `{what}` is no text")),
    };
    if text.chars().any(char::is_control) {
        return Err(format!("its `{what}` contains control characters"));
    }
    Ok(text)
}

fn texts(what: &str, value: Option<&Value>) -> std::result::Result<Vec<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(|item| text(what, item)).collect(),
        Some(_) => Err(format!("its `{what}` is no array")),
    }
}

fn table(what: &str, value: Option<&Value>) -> std::result::Result<BTreeMap<String, String>, String> {
    match value {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::Object(members)) => {
            members.iter().map(|(name, value)| Ok((text(what, &json!(name))?, text(what, value)?))).collect()
        }
        Some(_) => Err(format!("its `{what}` is no object")),
    }
}

/// JSON as editors have it: comments become blanks, and so does a comma before a closing bracket. Whether there were comments.
fn without_comments(text: &str) -> (String, bool) {
    let (mut out, mut commented) = (String::with_capacity(text.len()), false);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '"' => string_length(rest),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
            _ => first.len_utf8(),
        };
        if first == '/' && taken > 1 {
            commented = true;
            out.push(' ');
        } else {
            if matches!(first, ']' | '}') {
                drop_comma(&mut out);
            }
            out.push_str(&rest[..taken]);
        }
        rest = &rest[taken..];
    }
    (out, commented)
}

/// How long the string literal is with which the text begins.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

fn drop_comma(out: &mut String) {
    let end = out.trim_end().len();
    if out[..end].ends_with(',') {
        out.replace_range(end - 1..end, " ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<Entry> {
        ClientFile::parse(text).unwrap().entries()
    }

    #[test]
    fn editors_json_is_read() {
        let text = r#"{ // servers
            "mcpServers": { /* one */ "a": {"command": "x // y", "args": ["\"/*", "b",], }, },
        }"#;
        let file = ClientFile::parse(text).unwrap();
        assert!(file.commented);
        let Ok(Reached::Process { command, args, .. }) = &file.entries()[0].reached else { panic!() };
        assert_eq!(
            (command.as_str(), args.as_slice()),
            ("x // y", ["\"/*".to_owned(), "b".to_owned()].as_slice())
        );
        assert!(ClientFile::parse("{\"mcpServers\": {/*").is_err());
    }

    #[test]
    fn a_name_that_stands_there_twice_has_no_meaning() {
        let text = r#"{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}"#;
        assert!(ClientFile::parse(text).err().unwrap().to_string().contains("of one meaning"));
    }

    #[test]
    fn servers_stand_where_clients_keep_them() {
        for text in [
            r#"{"mcpServers": {"a": {"url": "https://a.example/mcp"}}}"#,
            r#"{"servers": {"a": {"type": "http", "url": "https://a.example/mcp"}}, "inputs": []}"#,
            r#"{"mcp": {"servers": {"a": {"type": "sse", "url": "https://a.example/mcp"}}}}"#,
            r#"{"mcpServers": {"a": {"serverUrl": "https://a.example/mcp"}}}"#,
        ] {
            let found = entries(text);
            assert_eq!((found.len(), found[0].name.as_str()), (1, "a"), "{text}");
            assert!(
                matches!(&found[0].reached, Ok(Reached::Address { url, .. }) if url == "https://a.example/mcp")
            );
        }
        assert!(ClientFile::parse(r#"{"mcpServers": {}}"#).is_err());
    }

    #[test]
    fn what_cannot_be_taken_over_says_why() {
        let why = |entry: &str| {
            let found = entries(&format!(r#"{{"mcpServers": {{"a": {entry}}}}}"#));
            found[0].reached.clone().unwrap_err()
        };
        assert_eq!(why("7"), "its entry is no object");
        assert_eq!(why(r#"{"command": "a", "url": "b"}"#), "its entry has not one of `command` and `url`");
        assert_eq!(why(r#"{"command": "a", "disabled": true}"#), "it is disabled");
        assert_eq!(
            why(r#"{"command": "a", "args": ["\u001b[2J"]}"#),
            "its `args` contains control characters"
        );
        assert_eq!(why(r#"{"command": "a", "env": {"A": {}}}"#), "its `env` is no text");
    }

    #[test]
    fn the_rest_of_the_file_stays_as_it_was() {
        let mut file = ClientFile::parse(
            r#"{"z": 1, "mcpServers": {"b": {"command": "x", "args": ["1"], "env": {"TOKEN": "t"}, "envFile": ".env", "timeout": 60},
                "a": {"type": "stdio", "command": "y", "args": ["z"], "env": {"N": 1}, "envFile": ".env", "timeout": 60}}, "a": 2}"#,
        )
        .unwrap();
        file.put("b", called("http://127.0.0.1:8787/mcp/b", "${K}"));
        file.wrap("a", "countersign", ("y", &["z".to_owned()]));
        let written: Value = serde_json::from_str(&file.text()).unwrap();
        let keys: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["z", "mcpServers", "a"]);
        let wrapped = json!({
            "type": "stdio", "command": "countersign", "args": ["mcp", "--name", "a", "--", "y", "z"], "env": {"N": 1},
            "envFile": ".env", "timeout": 60,
        });
        assert_eq!(written["mcpServers"]["a"], wrapped);
        let mut called = called("http://127.0.0.1:8787/mcp/b", "${K}");
        called["timeout"] = json!(60);
        assert_eq!(written["mcpServers"]["b"], called, "and no word of how it was reached");
    }
}
