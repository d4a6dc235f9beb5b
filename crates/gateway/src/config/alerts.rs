//! `[[alerts]]`: who is told of what.

use std::collections::BTreeSet;

use figment::value::{Dict, Value};
use provider::receivers::{Declared, DeclaredMail, DeclaredWebhook, MailTls};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use super::understood;
use crate::notices::Topic;

/// Somebody who is told of things, and of which.
#[derive(Clone, Debug, Serialize)]
pub struct Alerts {
    /// What the log and the metrics call it. What waits to be told is kept under this name.
    pub name: String,
    /// Of what it is told; everything, unless named.
    pub events: Vec<Topic>,
    /// Of whose actions; every tenant's, unless named.
    pub tenants: Option<Vec<String>>,
    /// How it is told.
    #[serde(flatten)]
    pub by: Means,
}

/// How somebody is told, by `kind`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind")]
pub enum Means {
    /// By a signed HTTP request.
    #[serde(rename = "webhook")]
    Webhook(Webhook),
    /// By electronic mail.
    #[serde(rename = "smtp")]
    Smtp(Smtp),
}

/// A webhook.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where requests go.
    pub url: String,
    /// The secret that holds the signing key.
    pub secret: String,
}

/// A mail server and who is written to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is secured.
    #[serde(default)]
    pub tls: SmtpTls,
    /// Our name there.
    pub user: Option<String>,
    /// The secret that holds the password.
    pub password: Option<String>,
    /// Who writes.
    pub from: String,
    /// Who is written to.
    pub to: Vec<String>,
}

/// How a connection to a mail server is secured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    /// TLS after a beginning in the clear; always, or nothing is sent.
    #[default]
    StartTls,
    /// TLS from the first byte.
    Implicit,
    /// None, which `egress.plain_http` has to allow.
    None,
}

impl Alerts {
    /// Reads the members of one destination.
    fn read(mut members: Dict) -> Result<Alerts, String> {
        let name: String = taken(&mut members, "name")?.ok_or("`name` is missing")?;
        if !is_name(&name) {
            return Err("`name`: write 1 to 64 lower-case letters, digits and `-`".to_owned());
        }
        Alerts::read_named(name.clone(), members).map_err(|why| format!("`{name}`: {why}"))
    }

    fn read_named(name: String, mut members: Dict) -> Result<Alerts, String> {
        let kind: String =
            taken(&mut members, "kind")?.ok_or("`kind` is missing; the kinds are webhook and smtp")?;
        let events = match taken::<Vec<String>>(&mut members, "events")? {
            None => Topic::ALL.to_vec(),
            Some(words) => words.iter().map(|word| topic(word)).collect::<Result<_, _>>()?,
        };
        let tenants = taken(&mut members, "tenants")?;
        let members = Value::from(members);
        let by = match kind.as_str() {
            "webhook" => Means::Webhook(understood(&members)?),
            "smtp" => Means::Smtp(understood(&members)?),
            other => {
                return Err(format!("`kind`: there is no `{other}`; the kinds are webhook and smtp"));
            }
        };
        Ok(Alerts { name, events, tenants, by })
    }

    /// How it is told, in the words of whoever does.
    pub(crate) fn declare(&self) -> Result<Declared, String> {
        Ok(match self.by.clone() {
            Means::Webhook(Webhook { url, secret }) => Declared::Webhook(DeclaredWebhook { url, secret }),
            Means::Smtp(Smtp { host, port, tls, user, password, from, to }) => {
                let login = match (user, password) {
                    (Some(user), Some(password)) => Some((user, password)),
                    (None, None) => None,
                    _ => return Err("`user` and `password` come together".to_owned()),
                };
                Declared::Mail(DeclaredMail { host, port, tls: tls.into(), login, from, to })
            }
        })
    }
}

impl From<SmtpTls> for MailTls {
    fn from(tls: SmtpTls) -> MailTls {
        match tls {
            SmtpTls::StartTls => MailTls::StartTls,
            SmtpTls::Implicit => MailTls::Implicit,
            SmtpTls::None => MailTls::Plain,
        }
    }
}

/// Reads each destination by its kind, so that a mistake names the destination and the member.
pub(super) fn by_kind<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Alerts>, D::Error> {
    let dicts = Vec::<Dict>::deserialize(from)?;
    if dicts.len() > MOST {
        return Err(D::Error::custom(format!("at most {MOST} destinations")));
    }
    let alerts: Vec<Alerts> =
        dicts.into_iter().map(Alerts::read).collect::<Result<_, _>>().map_err(D::Error::custom)?;
    let mut names = BTreeSet::new();
    match alerts.iter().find(|one| !names.insert(&one.name)) {
        Some(twice) => Err(D::Error::custom(format!("`{}`: `name`: it is taken", twice.name))),
        None => Ok(alerts),
    }
}

fn taken<T: DeserializeOwned>(members: &mut Dict, member: &str) -> Result<Option<T>, String> {
    let value = members.remove(member);
    value.map(|value| understood(&value).map_err(|why| format!("`{member}`: {why}"))).transpose()
}

fn topic(word: &str) -> Result<Topic, String> {
    Topic::ALL.into_iter().find(|topic| topic.word() == word).ok_or_else(|| {
        let words = Topic::ALL.map(Topic::word).join(", ");
        format!("`events`: there is no `{word}`; the events are {words}")
    })
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}

/// Each reads the chain by itself.
const MOST: usize = 16;

#[cfg(test)]
mod tests {
    use crate::Config;

    fn read(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("it can be written");
        Config::read(Some(file.path()))
    }

    const HOOK: &str = "kind = \"webhook\"\nurl = \"https://hooks.example/\"\nsecret = \"hook\"\n";

    #[test]
    fn destinations_are_read_by_kind_and_told_everything_unless_they_say_otherwise() {
        let config = read(&format!(
            r#"
            [[alerts]]
            name = "ops"
            {HOOK}
            [[alerts]]
            name = "desk"
            kind = "smtp"
            host = "mail.example"
            port = 587
            user = "gateway"
            password = "mail"
            from = "Countersign <gateway@example.com>"
            to = ["desk@example.com"]
            events = ["held", "rollback_failed"]
            tenants = ["default"]
            "#
        ));
        let alerts = config.expect("it loads").alerts;
        let words: Vec<Vec<&str>> =
            alerts.iter().map(|one| one.events.iter().map(|topic| topic.word()).collect()).collect();
        assert_eq!(words[0].len(), crate::notices::Topic::ALL.len());
        assert_eq!(words[1], ["held", "rollback_failed"]);
        assert_eq!(alerts[1].tenants.as_deref(), Some(["default".to_owned()].as_slice()));
    }

    #[test]
    fn a_destination_that_says_too_little_or_too_much_is_named_with_the_member() {
        let smtp =
            "kind = \"smtp\"\nhost = \"m\"\nport = 25\nfrom = \"a@b.example\"\nto = [\"c@d.example\"]\n";
        for (text, named, member) in [
            (HOOK.to_owned(), "alerts", "`name`"),
            (format!("name = \"Ops 1\"\n{HOOK}"), "alerts", "`name`"),
            ("name = \"ops\"\n".to_owned(), "`ops`", "`kind`"),
            ("name = \"ops\"\nkind = \"fax\"\n".to_owned(), "`ops`", "fax"),
            ("name = \"ops\"\nkind = \"webhook\"\nurl = \"https://a\"\n".to_owned(), "`ops`", "secret"),
            (format!("name = \"ops\"\n{HOOK}port = 25\n"), "`ops`", "port"),
            (format!("name = \"ops\"\n{HOOK}events = [\"held\", \"helt\"]\n"), "`ops`", "helt"),
            (format!("name = \"ops\"\n{smtp}tls = \"maybe\"\n"), "`ops`", "tls"),
            (format!("name = \"ops\"\n{}", smtp.replace("25", "70000")), "`ops`", "port"),
            (format!("name = \"ops\"\n{HOOK}[[alerts]]\nname = \"ops\"\n{HOOK}"), "`ops`", "taken"),
        ] {
            let error = read(&format!("[[alerts]]\n{text}")).expect_err("it must not load");
            assert!(error.contains(named) && error.contains(member), "{text}: {error}");
        }
    }
}
