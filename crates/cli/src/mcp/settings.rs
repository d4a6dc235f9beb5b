//! `countersign.toml` with servers added: what stands in it stays, comments and order included.

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

use super::plan::{How, Planned, Secret};
use crate::error::{Context, Error, Result};

/// The configuration's text, under change.
pub(super) struct Settings(DocumentMut);

/// What became of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was not there.
    Added,
    /// It was there, reached in the same way.
    Kept,
    /// It was there, reached otherwise, and stays so.
    Differs,
    /// It was there, reached otherwise, and is not any more.
    Replaced,
}

impl Settings {
    pub(super) fn parse(text: &str) -> Result<Settings> {
        text.parse().map(Settings).while_we(|| "the configuration is not TOML".to_owned())
    }

    pub(super) fn text(&self) -> String {
        self.0.to_string()
    }

    /// A folder that is configured, or else from now on is.
    pub(super) fn folder(&mut self, key: &str, otherwise: &str) -> Result<String> {
        match self.0.get(key) {
            None => {
                self.0.insert(key, value(otherwise));
                Ok(otherwise.to_owned())
            }
            Some(item) => {
                let folder = item.as_str().map(str::to_owned);
                folder.ok_or_else(|| Error::new(format!("`{key}` of the configuration is no text")))
            }
        }
    }

    /// Names and variables of the secrets that it has.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let tables = self.0.get("secrets").and_then(Item::as_table_like);
        let known = |(name, item): (&str, &Item)| {
            let table = item.as_table_like()?;
            let hosts = table.get("hosts").and_then(Item::as_array);
            Some(Secret {
                name: name.to_owned(),
                variable: table.get("env")?.as_str()?.to_owned(),
                value: None,
                hosts: hosts
                    .into_iter()
                    .flatten()
                    .filter_map(|host| Some(host.as_str()?.to_owned()))
                    .collect(),
                is_exported: true,
            })
        };
        tables.into_iter().flat_map(TableLike::iter).filter_map(known).collect()
    }

    /// Names a server whose command is said elsewhere.
    pub(super) fn name_server(&mut self, name: &str, program: &str) -> Result<()> {
        let mut table = Table::new();
        table.insert("command", value([program].into_iter().collect::<Array>()));
        table_at(self.0.as_table_mut(), &["mcp", "servers"])?.insert(name, Item::Table(table));
        Ok(())
    }

    /// Adds a server with its secrets and the ways it needs.
    pub(super) fn add(&mut self, planned: &Planned, tenant: Option<&str>, force: bool) -> Result<Standing> {
        let servers = table_at(self.0.as_table_mut(), &["mcp", "servers"])?;
        let standing = match servers.get(&planned.name) {
            None => Standing::Added,
            Some(there) if is_reached_so(there, &planned.how) => return Ok(Standing::Kept),
            Some(_) if !force => return Ok(Standing::Differs),
            Some(_) => Standing::Replaced,
        };
        servers.insert(&planned.name, Item::Table(server(planned, tenant)));
        for secret in &planned.secrets {
            let secrets = table_at(self.0.as_table_mut(), &["secrets"])?;
            if secrets.get(&secret.name).is_none() {
                secrets.insert(&secret.name, Item::Table(declared(secret)));
            }
        }
        if let How::Address { private, plain, .. } = &planned.how {
            for (key, at) in [("allow", private), ("plain_http", plain)] {
                if let Some(at) = at {
                    let egress = table_at(self.0.as_table_mut(), &["egress"])?;
                    add_to(egress, key, at)?;
                }
            }
        }
        Ok(standing)
    }
}

/// The table at a path, made where it is not there.
fn table_at<'a>(table: &'a mut dyn TableLike, path: &[&str]) -> Result<&'a mut dyn TableLike> {
    let Some((key, rest)) = path.split_first() else { return Ok(table) };
    // One that only holds others needs no heading of its own.
    let mut made = Table::new();
    made.set_implicit(true);
    let item = table.entry(key).or_insert(Item::Table(made));
    let inner = item.as_table_like_mut();
    table_at(inner.ok_or_else(|| Error::new(format!("`{key}` of the configuration is no table")))?, rest)
}

/// A list of names with this one in it.
pub(super) fn add_to(table: &mut dyn TableLike, key: &str, name: &str) -> Result<()> {
    let item = table.entry(key).or_insert_with(|| value(Array::new()));
    let list = item.as_array_mut().ok_or_else(|| Error::new(format!("`{key}` is no array")))?;
    if !list.iter().any(|one| one.as_str() == Some(name)) {
        list.push(name);
    }
    Ok(())
}

fn server(planned: &Planned, tenant: Option<&str>) -> Table {
    let mut table = Table::new();
    match &planned.how {
        How::Process { command, env, secrets, dir } => {
            table.insert("command", value(command.iter().collect::<Array>()));
            if let Some(dir) = dir {
                table.insert("dir", value(dir));
            }
            for (key, pairs) in
                [("env", env), ("secrets", secrets)].into_iter().filter(|(_, pairs)| !pairs.is_empty())
            {
                table.insert(key, value(pairs.iter().collect::<InlineTable>()));
            }
        }
        How::Address { url, headers, .. } => {
            table.insert("url", value(url));
            let header = |(name, (secret, prefix)): (&String, &(String, String))| {
                let mut header = InlineTable::new();
                header.insert("secret", secret.into());
                if !prefix.is_empty() {
                    header.insert("prefix", prefix.into());
                }
                (name.clone(), Value::from(header))
            };
            if !headers.is_empty() {
                table.insert("headers", value(headers.iter().map(header).collect::<InlineTable>()));
            }
        }
    }
    if let Some(tenant) = tenant {
        table.insert("tenant", value(tenant));
    }
    table
}

fn declared(secret: &Secret) -> Table {
    let mut table = Table::new();
    table.insert("env", value(&secret.variable));
    if !secret.hosts.is_empty() {
        table.insert("hosts", value(secret.hosts.iter().collect::<Array>()));
    }
    table
}

/// Whether a server of the configuration is started or called as this one is; what else is said of it is the operator's.
fn is_reached_so(there: &Item, how: &How) -> bool {
    let Some(there) = there.as_table_like() else { return false };
    match how {
        How::Process { command, .. } => {
            let arguments = there.get("command").and_then(Item::as_array);
            arguments
                .is_some_and(|it| it.iter().map(Value::as_str).eq(command.iter().map(|it| Some(it.as_str()))))
        }
        How::Address { url, .. } => there.get("url").and_then(Item::as_str) == Some(url),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn planned(name: &str, command: &[&str]) -> Planned {
        Planned {
            name: name.to_owned(),
            client_name: name.to_owned(),
            how: How::Process {
                command: command.iter().map(|it| (*it).to_owned()).collect(),
                env: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
                secrets: BTreeMap::from([("TOKEN".to_owned(), "token".to_owned())]),
                dir: None,
            },
            secrets: vec![Secret {
                name: "token".to_owned(),
                variable: "TOKEN".to_owned(),
                value: Some("never".to_owned()),
                hosts: Vec::new(),
                is_exported: false,
            }],
        }
    }

    const BEFORE: &str = "# ours\nlisten = \"127.0.0.1:1\"   # here\n\n[secrets.bank]\nenv = \"BANK\"\nhosts = [\"bank.example\"]\n\n[limits]\nqueue = 7\n";

    #[test]
    fn what_is_there_stays_and_the_rest_is_added() {
        let mut settings = Settings::parse(BEFORE).unwrap();
        assert_eq!(settings.folder("catalogue_dir", "catalogue").unwrap(), "catalogue");
        assert_eq!(
            settings.add(&planned("git", &["git-server", "-x"]), None, false).unwrap(),
            Standing::Added
        );
        assert_eq!(
            settings.text(),
            "# ours\nlisten = \"127.0.0.1:1\"   # here\ncatalogue_dir = \"catalogue\"\n\n[secrets.bank]\nenv = \"BANK\"\nhosts = [\"bank.example\"]\n\
             \n[secrets.token]\nenv = \"TOKEN\"\n\n[limits]\nqueue = 7\n\n[mcp.servers.git]\ncommand = [\"git-server\", \"-x\"]\nenv = { A = \"b\" }\nsecrets = { TOKEN = \"token\" }\n"
        );
        let text = settings.text();
        assert_eq!(
            settings.add(&planned("git", &["git-server", "-x"]), None, false).unwrap(),
            Standing::Kept
        );
        assert_eq!(settings.add(&planned("git", &["other"]), None, false).unwrap(), Standing::Differs);
        assert_eq!(settings.text(), text);
        assert_eq!(settings.add(&planned("git", &["other"]), None, true).unwrap(), Standing::Replaced);
    }

    #[test]
    fn tables_in_one_line_are_added_to() {
        let mut settings =
            Settings::parse("mcp = { servers = { a = { url = \"https://a.example/\" } } }\n").unwrap();
        settings.add(&planned("git", &["x"]), None, false).unwrap();
        let read: toml::Table = toml::from_str(&settings.text()).unwrap();
        assert_eq!(read["mcp"]["servers"]["git"]["command"][0].as_str(), Some("x"));
        assert!(Settings::parse("mcp = 7\n").unwrap().add(&planned("git", &["x"]), None, false).is_err());
    }

    #[test]
    fn an_address_that_is_not_public_is_allowed() {
        let mut settings = Settings::parse("[egress]\nallow = [\"10.0.0.1:1\"]\n").unwrap();
        let how = How::Address {
            url: "http://127.0.0.1:3/mcp".to_owned(),
            headers: BTreeMap::new(),
            private: Some("127.0.0.1:3".to_owned()),
            plain: Some("127.0.0.1:3".to_owned()),
        };
        settings
            .add(&Planned { how, secrets: Vec::new(), ..planned("a", &[]) }, Some("acme"), false)
            .unwrap();
        assert_eq!(
            settings.text(),
            "[egress]\nallow = [\"10.0.0.1:1\", \"127.0.0.1:3\"]\nplain_http = [\"127.0.0.1:3\"]\n\n[mcp.servers.a]\nurl = \"http://127.0.0.1:3/mcp\"\ntenant = \"acme\"\n"
        );
    }
}
