//! From a client's entry to ours: what is started or called, with which secrets, and what of it is no secret.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use provider::mcp::{LONGEST_SERVER_NAME, PATH, is_server_name};
use reqwest::Url;

use super::client::Reached;
use super::secrets::{is_secret, is_secret_address, secret_argument};

/// One server as our configuration will have it.
pub(super) struct Planned {
    /// What we call it.
    pub(super) name: String,
    /// What the client calls it.
    pub(super) client_name: String,
    pub(super) how: How,
    pub(super) secrets: Vec<Secret>,
}

pub(super) enum How {
    Process {
        command: Vec<String>,
        env: BTreeMap<String, String>,
        /// By variable, the name of the secret.
        secrets: BTreeMap<String, String>,
        dir: Option<String>,
    },
    Address {
        url: String,
        /// By header, the name of the secret and what stands before it.
        headers: BTreeMap<String, (String, String)>,
        /// `host:port`, where it is not public.
        private: Option<String>,
        /// `host:port`, where it has no TLS.
        plain: Option<String>,
    },
}

/// A named secret: where its value will be, and what it is now, where that is known.
#[derive(Clone)]
pub(super) struct Secret {
    pub(super) name: String,
    /// The environment variable from which the gateway takes it.
    pub(super) variable: String,
    pub(super) value: Option<String>,
    pub(super) hosts: Vec<String>,
    /// Whether the client takes it from that variable, too.
    pub(super) is_exported: bool,
}

/// What plans have in common: names that are taken, and what stands in the environment.
pub(super) struct Planner<'a> {
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    /// Arguments and addresses may hold what looks like a secret.
    pub(super) visible_secrets: bool,
    pub(super) taken: BTreeSet<String>,
    pub(super) secrets: Vec<Secret>,
}

impl Planner<'_> {
    /// A client's server as ours, or why it cannot be one.
    pub(super) fn plan(&mut self, client_name: &str, reached: &Reached) -> Result<Planned, String> {
        let name = self.server_name(client_name)?;
        let before = self.secrets.len();
        let how = match reached {
            Reached::Process { has_env_file: true, .. } => {
                Err("its variables lie in an `envFile`, which is not read: write them as `env`".to_owned())
            }
            Reached::Process { command, args, env, dir, has_env_file: false } => {
                self.process(&name, (command, args), env, dir.as_deref())
            }
            Reached::Address { url, headers } => self.address(&name, url, headers),
        };
        let how = how.inspect_err(|_| self.secrets.truncate(before))?;
        self.taken.insert(name.clone());
        let used: Vec<&str> = match &how {
            How::Process { secrets, .. } => secrets.values().map(String::as_str).collect(),
            How::Address { headers, .. } => headers.values().map(|(secret, _)| secret.as_str()).collect(),
        };
        let secrets =
            self.secrets.iter().filter(|secret| used.contains(&secret.name.as_str())).cloned().collect();
        Ok(Planned { name, client_name: client_name.to_owned(), how, secrets })
    }

    fn process(
        &mut self,
        server: &str,
        (command, args): (&str, &[String]),
        given: &BTreeMap<String, String>,
        dir: Option<&str>,
    ) -> Result<How, String> {
        let expand = |text: &str| self.expand(text);
        let expanded = args.iter().map(|arg| expand(arg)).collect::<Result<Vec<_>, _>>()?;
        let named = || args.iter().position(|arg| names_a_secret(arg)).map(|at| at + 1);
        if let (Some(at), false) = (secret_argument(command, &expanded).or_else(named), self.visible_secrets)
        {
            return Err(format!(
                "argument {at} looks as if it held a secret, which would stand in our configuration: give it in an environment \
                 variable, or allow it with --visible-secrets"
            ));
        }
        let program = found(
            &expand(command)?,
            given.get("PATH").cloned().or_else(|| (self.environment)("PATH")).as_deref(),
        );
        let dir = dir.map(expand).transpose()?;
        let (mut env, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        for (variable, text) in given {
            match self.value(variable, text)? {
                Value::Plain(value) => drop(env.insert(variable.clone(), value)),
                Value::Secret { from, value } => {
                    let at = from.clone().unwrap_or_else(|| variable.clone());
                    let name = self.secret(server, &at, (from.is_some(), value), Vec::new());
                    secrets.insert(variable.clone(), name);
                }
            }
        }
        // What a client would pass on, and programs look for.
        if let (false, Some(home)) = (given.contains_key("HOME"), (self.environment)("HOME")) {
            env.insert("HOME".to_owned(), home);
        }
        if let (false, Some(path)) = (given.contains_key("PATH"), search_path(&program)) {
            env.insert("PATH".to_owned(), path);
        }
        let command = std::iter::once(program.display().to_string()).chain(expanded).collect();
        Ok(How::Process { command, env, secrets, dir })
    }

    fn address(&mut self, server: &str, url: &str, given: &BTreeMap<String, String>) -> Result<How, String> {
        let names_a_secret = names_a_secret(url);
        let url = self.expand(url)?;
        let parsed = Url::parse(&url).map_err(|_| "its `url` is none".to_owned())?;
        let host = parsed.host_str().filter(|_| ["http", "https"].contains(&parsed.scheme()));
        let host = host.ok_or("its `url` is not one of http or https")?.to_owned();
        if (names_a_secret || is_secret_address(&parsed)) && !self.visible_secrets {
            return Err(
                "its `url` looks as if it held a secret, which would stand in our configuration: give it in a header, or \
                 allow it with --visible-secrets"
                    .to_owned(),
            );
        }
        let at = format!("{host}:{}", parsed.port_or_known_default().unwrap_or(443));
        let hosts = vec![at.strip_suffix(":443").unwrap_or(&at).to_owned()];
        let mut headers = BTreeMap::new();
        for (header, text) in given {
            let (prefix, text) = scheme(text);
            let (from, value) = match self.value(HEADER, text)? {
                Value::Plain(value) => (None, Some(value)),
                Value::Secret { from, value } => (from, value),
            };
            let variable = from.clone().unwrap_or_else(|| variable_of(server, header));
            let name = self.secret(server, &variable, (from.is_some(), value), hosts.clone());
            headers.insert(header.clone(), (name, prefix.to_owned()));
        }
        let plain = (parsed.scheme() == "http").then(|| at.clone());
        let private = is_private(&host).then_some(at);
        Ok(How::Address { url, headers, private, plain })
    }

    /// A secret with this value in that variable; one that is there already, if it is the same.
    fn secret(
        &mut self,
        server: &str,
        variable: &str,
        (is_exported, value): (bool, Option<String>),
        hosts: Vec<String>,
    ) -> String {
        // Our own variables are keys of our configuration.
        let ours = variable.to_ascii_uppercase().starts_with("COUNTERSIGN_");
        let mut variable = if ours { variable_of(server, variable) } else { variable.to_owned() };
        let differs = |it: &Secret| it.value.is_some() && value.is_some() && it.value != value;
        if self.secrets.iter().any(|it| it.variable == variable && differs(it)) {
            variable = variable_of(server, &variable);
        }
        let same = |it: &&mut Secret| it.variable == variable && it.hosts == hosts && !differs(it);
        if let Some(same) = self.secrets.iter_mut().find(same) {
            same.value = same.value.take().or(value);
            return same.name.clone();
        }
        let mut name = variable.to_ascii_lowercase();
        while self.secrets.iter().any(|it| it.name == name) || name == "master" {
            name.push_str("_2");
        }
        self.secrets.push(Secret { name: name.clone(), variable, value, hosts, is_exported });
        name
    }

    /// What stands in a variable or header, and whether that is a secret.
    fn value(&self, name: &str, text: &str) -> Result<Value, String> {
        let Some(reference) = Reference::whole(text) else {
            let value = self.expand(text)?;
            return Ok(match name == HEADER || is_secret(name, &value) || names_a_secret(text) {
                true => Value::Secret { from: None, value: Some(value) },
                false => Value::Plain(value),
            });
        };
        match reference {
            Reference::Variable { name: from, .. } => {
                let value = self.expand(text).ok();
                let secret = name == HEADER
                    || is_secret(name, "?")
                    || is_secret(from, value.as_deref().unwrap_or("?"));
                match (secret, value) {
                    (false, Some(value)) => Ok(Value::Plain(value)),
                    (_, value) => Ok(Value::Secret { from: Some(from.to_owned()), value }),
                }
            }
            // What the client would ask its user for.
            Reference::Input(_) => Ok(Value::Secret { from: None, value: None }),
            Reference::Other(what) => Err(unknown(what)),
        }
    }

    /// A text with what it refers to put into it.
    fn expand(&self, text: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, reference, after)) = Reference::first(rest) {
            out.push_str(before);
            match reference {
                Reference::Variable { name, otherwise } => {
                    let value = (self.environment)(name).or_else(|| otherwise.map(str::to_owned));
                    let value = value.filter(|value| !value.chars().any(char::is_control));
                    out.push_str(&value.ok_or_else(|| {
                        format!("it refers to the environment variable `{name}`, which is not set")
                    })?);
                }
                Reference::Input(what) | Reference::Other(what) => return Err(unknown(what)),
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// What the client calls it, as far as a name may be that.
    fn server_name(&self, client_name: &str) -> Result<String, String> {
        let name = fit_name(client_name).ok_or("nothing in its name can be part of a name here")?;
        match self.taken.contains(&name) {
            true => Err(format!("another server is called `{name}` already")),
            false => Ok(name),
        }
    }
}

/// A name for a server as close to this one as there is.
pub(super) fn fit_name(given: &str) -> Option<String> {
    let mut name = String::new();
    for c in given.chars() {
        let kept = if c.is_ascii_alphanumeric() || c == '_' || c == '.' { c } else { '-' };
        // Two of them are what clients put between a server and its tool.
        if !((kept == '-' || kept == '_') && name.ends_with(kept)) {
            name.push(kept);
        }
    }
    let name: String = name.trim_matches(['-', '.', '_']).chars().take(LONGEST_SERVER_NAME).collect();
    is_server_name(&name).then_some(name)
}

enum Value {
    Plain(String),
    Secret {
        /// The variable that the client takes it from.
        from: Option<String>,
        value: Option<String>,
    },
}

/// What clients put into `${…}`.
enum Reference<'a> {
    Variable { name: &'a str, otherwise: Option<&'a str> },
    Input(&'a str),
    Other(&'a str),
}

impl<'a> Reference<'a> {
    fn whole(text: &'a str) -> Option<Reference<'a>> {
        match Reference::first(text) {
            Some(("", reference, "")) => Some(reference),
            _ => None,
        }
    }

    fn first(text: &'a str) -> Option<(&'a str, Reference<'a>, &'a str)> {
        let (before, rest) = text.split_once("${")?;
        let (inside, after) = rest.split_once('}')?;
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
        let variable = inside.strip_prefix("env:").unwrap_or(inside);
        let (name, otherwise) = match variable.split_once(":-") {
            Some((name, otherwise)) => (name, Some(otherwise)),
            None => (variable, None),
        };
        let reference = match inside {
            "userHome" => Reference::Variable { name: "HOME", otherwise: None },
            _ if inside.starts_with("input:") => Reference::Input(inside),
            "workspaceFolder" | "workspaceFolderBasename" | "pathSeparator" | "cwd" => {
                Reference::Other(inside)
            }
            _ if is_name(name) => Reference::Variable { name, otherwise },
            _ => Reference::Other(inside),
        };
        Some((before, reference, after))
    }
}

/// Whether one of the variables that a text refers to is a secret by its name.
fn names_a_secret(mut text: &str) -> bool {
    while let Some((_, reference, after)) = Reference::first(text) {
        if matches!(reference, Reference::Variable { name, .. } if is_secret(name, "?")) {
            return true;
        }
        text = after;
    }
    false
}

fn unknown(what: &str) -> String {
    format!("it refers to `${{{what}}}`, which only the client knows: write what it stands for")
}

/// What authenticates and what names how: `Bearer abc`.
fn scheme(text: &str) -> (&str, &str) {
    match text.split_once(' ') {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphabetic()) && !rest.is_empty() => {
            (&text[..=scheme.len()], rest)
        }
        _ => ("", text),
    }
}

fn variable_of(server: &str, name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("MCP_{server}_{name}").chars().map(plain).collect()
}

/// Where a program is: the gateway looks for it on no path but the usual one.
fn found(program: &str, path: Option<&str>) -> PathBuf {
    let name = Path::new(program);
    if name.components().count() != 1 {
        return name.to_owned();
    }
    let dirs = path.unwrap_or_default().split(':').filter(|dir| dir.starts_with('/'));
    dirs.map(|dir| Path::new(dir).join(name)).find(|path| is_program(path)).unwrap_or_else(|| name.to_owned())
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

/// The path on which such a program finds what lies beside it, where that is not the usual one.
fn search_path(program: &Path) -> Option<String> {
    let dir = program.parent().and_then(Path::to_str).filter(|dir| dir.starts_with('/'))?;
    (!PATH.split(':').any(|usual| usual == dir)).then(|| format!("{dir}:{PATH}"))
}

/// Whether a host is one that the gateway calls only where it is told to.
fn is_private(host: &str) -> bool {
    let ending = [".local", ".localhost", ".internal", ".lan", ".home.arpa"];
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Err(_) => !host.contains('.') || ending.iter().any(|ending| host.ends_with(ending)),
    }
}

/// A header is a secret whatever it is called.
const HEADER: &str = "header";

#[cfg(test)]
mod tests {
    use super::*;

    fn process(env: &[(&str, &str)], args: &[&str]) -> Reached {
        let owned = |text: &&str| (*text).to_owned();
        Reached::Process {
            command: "sh".to_owned(),
            args: args.iter().map(owned).collect(),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            has_env_file: false,
            dir: None,
        }
    }

    #[test]
    fn a_server_whose_variables_are_not_read_is_left_out() {
        let mut reached = process(&[], &[]);
        if let Reached::Process { has_env_file, .. } = &mut reached {
            *has_env_file = true;
        }
        let why = with(|planner| planner.plan("shop", &reached).err());
        assert!(why.is_some_and(|why| why.contains("`envFile`")));
    }

    fn with<T>(work: impl FnOnce(&mut Planner<'_>) -> T) -> T {
        let environment = |name: &str| match name {
            "PATH" => Some("/usr/bin:/bin".to_owned()),
            "HOME" => Some("/home/me".to_owned()),
            "TOKEN" => Some("t0ken".to_owned()),
            "LEVEL" => Some("debug".to_owned()),
            "STORE" => Some("postgres://me:pw@db/x".to_owned()),
            _ => None,
        };
        work(&mut Planner {
            environment: &environment,
            visible_secrets: false,
            taken: BTreeSet::new(),
            secrets: Vec::new(),
        })
    }

    #[test]
    fn secrets_are_named_and_the_rest_is_copied() {
        let given = process(
            &[
                ("API_KEY", "abc"),
                ("LOG", "${LEVEL}"),
                ("PASSWORD", "${env:TOKEN}"),
                ("ASKED", "${input:id}"),
            ],
            &["-c", "${userHome}/x"],
        );
        let planned = with(|planner| planner.plan("My Server!", &given)).unwrap();
        assert_eq!(planned.name, "My-Server");
        let How::Process { command, env, secrets, .. } = planned.how else { panic!() };
        assert!(command[0].ends_with("/sh") && command[2] == "/home/me/x", "{command:?}");
        assert_eq!(
            env.into_iter().collect::<Vec<_>>(),
            [("HOME".to_owned(), "/home/me".to_owned()), ("LOG".to_owned(), "debug".to_owned())]
        );
        let named: Vec<_> =
            secrets.iter().map(|(variable, name)| (variable.as_str(), name.as_str())).collect();
        assert_eq!(named, [("API_KEY", "api_key"), ("ASKED", "asked"), ("PASSWORD", "token")]);
        let known = |name: &str| planned.secrets.iter().find(|it| it.name == name).unwrap();
        assert_eq!((known("api_key").value.as_deref(), known("api_key").is_exported), (Some("abc"), false));
        assert_eq!((known("token").variable.as_str(), known("token").is_exported), ("TOKEN", true));
        assert_eq!(known("asked").value, None);
    }

    #[test]
    fn two_servers_with_other_secrets_in_one_variable_have_two() {
        with(|planner| {
            let names = ["a", "a", "b"].into_iter().zip(["one", "two", "three"]).map(|(value, server)| {
                let planned = planner.plan(server, &process(&[("API_KEY", value)], &[])).unwrap();
                planned.secrets[0].variable.clone()
            });
            assert_eq!(names.collect::<Vec<_>>(), ["API_KEY", "API_KEY", "MCP_THREE_API_KEY"]);
        });
    }

    #[test]
    fn an_address_keeps_its_headers_secret_and_says_what_it_needs() {
        let headers = [("Authorization", "Bearer abc"), ("X-Org", "us")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let given = Reached::Address { url: "http://localhost:3000/mcp".to_owned(), headers };
        let planned = with(|planner| planner.plan("a", &given)).unwrap();
        let How::Address { headers, private, plain, .. } = planned.how else { panic!() };
        assert_eq!(headers["Authorization"], ("mcp_a_authorization".to_owned(), "Bearer ".to_owned()));
        assert_eq!(headers["X-Org"], ("mcp_a_x_org".to_owned(), String::new()));
        assert_eq!((private.as_deref(), plain.as_deref()), (Some("localhost:3000"), Some("localhost:3000")));
        assert!(planned.secrets.iter().all(|it| it.hosts == ["localhost:3000"]));
    }

    #[test]
    fn what_would_show_a_secret_or_cannot_be_known_is_refused() {
        let why = |given: Reached| with(|planner| planner.plan("a", &given)).err().unwrap();
        assert!(
            why(process(&[], &["--token", "abc"])).starts_with("argument 2 looks as if it held a secret")
        );
        let url = Reached::Address {
            url: "https://a.example/mcp?apiKey=12345678".to_owned(),
            headers: BTreeMap::new(),
        };
        assert!(why(url).contains("looks as if it held a secret"));
        assert!(why(process(&[], &["${workspaceFolder}"])).contains("${workspaceFolder}"));
        assert!(why(process(&[], &["${NOT_SET}"])).contains("`NOT_SET`, which is not set"));
    }

    #[test]
    fn what_a_client_refers_to_is_as_secret_as_what_it_writes() {
        let why = |given: Reached| with(|planner| planner.plan("a", &given)).err().unwrap();
        for argument in ["${STORE}", "--with=${TOKEN}"] {
            assert!(why(process(&[], &[argument])).contains("looks as if it held a secret"), "{argument}");
        }
        let url = "https://a.example/${TOKEN}/mcp".to_owned();
        assert!(why(Reached::Address { url, headers: BTreeMap::new() }).contains("held a secret"));
        let given = process(&[("CONN", "user:${TOKEN}@db"), ("AT", "${LEVEL}@db")], &["${LEVEL}"]);
        let How::Process { env, secrets, .. } = with(|planner| planner.plan("a", &given)).unwrap().how else {
            panic!()
        };
        assert_eq!(secrets.keys().collect::<Vec<_>>(), ["CONN"]);
        assert_eq!(env["AT"], "debug@db");
    }

    #[test]
    fn no_name_of_a_client_leaves_the_grammar_of_ours() {
        let name = |client: &str| with(|planner| planner.plan(client, &process(&[], &[]))).map(|it| it.name);
        assert_eq!(name("../../etc/passwd").unwrap(), "etc-passwd");
        assert_eq!(name("a__b").unwrap(), "a_b");
        for odd in ["a_-_b", "a-__-b", &format!("{}_é_b", "x".repeat(38)), "_._"] {
            assert!(name(odd).map_or(true, |it| is_server_name(&it)), "{odd}");
        }
        assert_eq!(name(&"x".repeat(99)).unwrap().len(), 40);
        assert!(name("\u{202e}").is_err());
        with(|planner| {
            planner.plan("a b", &process(&[], &[])).unwrap();
            assert!(planner.plan("a-b", &process(&[], &[])).err().unwrap().contains("already"));
        });
    }
}
