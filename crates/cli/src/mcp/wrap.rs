//! `countersign mcp -- COMMAND…`: a gateway of its own around one server, in the place where a client starts that server.
//!
//! The client speaks to us over stdin and stdout as it spoke to the server; people see, approve and read receipts at a loopback
//! address. The gateway runs as the same user as the client, so this governs agents that cooperate: whoever can read that user's
//! files can start the server without us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use action::{ApprovalForm, Subject, Tenant};
use gateway::config::McpServer;
use gateway::{Caller, Config, Gateway, Installation, MandateAsk, Role};
use provider::mcp::SeenTool;
use server::{Faces, ServerConfig};
use tokio::net::TcpListener;

use super::class::EVERY;
use super::files::{Fate, Files};
use super::import::STARTER;
use super::plan;
use super::settings::Settings;
use super::sheet::{self, Sheet};
use super::state::{self, Held, Mandate};
use super::told::Told;
use crate::error::{Context, Error, Result};
use crate::{crash, out, serve};

/// Wrap a server that a client starts: `countersign mcp -- COMMAND…` in the place of its command
#[derive(clap::Args)]
pub(crate) struct Wrap {
    /// What the server is called [default: by its command]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where catalogue, policies, store and keys live [default: countersign/mcp/NAME in the user's state directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// As whom the client acts
    #[arg(long, value_name = "NAME", default_value = "mcp-client")]
    agent: String,
    /// Loopback address of approvals, receipts and API [default: one that is free at the first start, and from then on]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The server's program and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Wrap {
    /// Whether there is anything to wrap.
    pub(super) fn is_empty(&self) -> bool {
        self.command.is_empty()
    }
}

pub(super) fn run(args: &Wrap) -> Result<ExitCode> {
    serve::log_from("warn");
    let name = match &args.name {
        Some(name) => plan::fit_name(name),
        None => plan::fit_name(&called_by(&args.command)),
    };
    let name = name.ok_or_else(|| {
        Error::new("the server needs a name").hint("--name NAME, of letters, digits and `-_.`")
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.while_we(|| "cannot start the gateway's threads".to_owned())?;
    let ended = runtime.block_on(wrap(args, &name));
    // Whoever still reads stdin is not waited for; the others are, because what they need goes away when the process exits.
    runtime.shutdown_timeout(LEFT_IN);
    ended.map(|()| ExitCode::SUCCESS)
}

async fn wrap(args: &Wrap, name: &str) -> Result<()> {
    let dir = args.data_dir.clone().map_or_else(|| state::folder(name), Ok)?;
    let held = Held::first_free(&dir)?;
    let mut stop = serve::stop_signals(false)?;
    let listener = listen(args, &held).await?;
    let config = configuration(args, &dir, &held, name, listener.local_addr().while_we(no_address)?)?;
    let in_force = pins(&sheets(&dir, name)?);
    let server_config = ServerConfig::from(&config);
    let url = config.public_url();
    let mut installation = Installation::open(config, server::render)
        .await
        .map_err(|why| Error::new(format!("cannot open the gateway: {why}")))?;
    installation.keep_public_url().map_err(Error::new)?;
    installation.listens_on(listener.local_addr().while_we(no_address)?);
    installation.start();
    let gateway = Arc::clone(&installation.production);
    let wrapped = Wrapped { name, dir: &dir, held: &held, gateway: &gateway, admin: admin()? };
    wrapped.keys(&installation).await?;
    // Whoever takes long to start keeps its client waiting for so long, and not for ever.
    let mut taking = std::pin::pin!(wrapped.take_tools(&in_force));
    let taken = tokio::time::timeout(gateway.mcp_settings().alone(), taking.as_mut()).await;
    let is_late = taken.is_err();
    taken.unwrap_or(Ok(()))?;
    let caller = match wrapped.agent(&args.agent).await {
        // There is no mandate for tools that nobody knows yet.
        Err(_) if is_late => wrapped.caller(&args.agent, None)?,
        caller => caller?,
    };
    let faces = Faces { production: Arc::clone(&gateway), sandbox: None };
    let running =
        server::serve(listener, faces, server_config).await.map_err(|error| Error::new(error.to_string()))?;
    wrapped.welcome(&url);

    let late = async {
        if !is_late {
            return std::future::pending().await;
        }
        out::note(format_args!("countersign: `{name}` has not started yet; its tools are taken when it has"));
        let mut taken = taking.await;
        loop {
            let known = match taken {
                Ok(()) => wrapped.agent(&args.agent).await,
                Err(why) => Err(why),
            };
            match known {
                Ok(caller) => return caller,
                Err(why) => out::note(format_args!("countersign: {why}")),
            }
            tokio::time::sleep(AGAIN_IN).await;
            taken = wrapped.take_tools(&in_force).await;
        }
    };
    let pipes = (pipe(std::io::stdin())?, pipe(std::io::stdout())?);
    let served = tokio::select! {
        served = server::serve_mcp(Arc::clone(&gateway), caller, Some(name), pipes, late) => served,
        _ = stop.recv() => Ok(()),
    };
    running.stop(serve::GRACE).await;
    gateway.mcp().close().await;
    serve::keep_last_deliveries(&gateway).await;
    served.map_err(|error| Error::new(error.to_string()))
}

/// What a gateway around one server consists of, while it starts.
struct Wrapped<'a> {
    name: &'a str,
    dir: &'a Path,
    held: &'a Held,
    gateway: &'a Arc<Gateway>,
    admin: Caller,
}

impl Wrapped<'_> {
    /// Keys for the person in front of it: one to agree, one to run the gateway.
    async fn keys(&self, installation: &Installation) -> Result<()> {
        for role in [Role::Approver, Role::Admin] {
            if self.held.key_file(role.as_str()).is_file() {
                continue;
            }
            let subject = Subject::parse(&format!("local-{}", role.as_str()));
            let subject = subject.map_err(|why| Error::new("a subject of ours is none").because(why))?;
            let made =
                installation.keyring().create(&self.admin.tenant, subject, role).await.map_err(refused)?;
            self.held.keep_key(role.as_str(), &made.secret)?;
        }
        Ok(())
    }

    /// At the first start takes the server's tools as it finds them; later tells of what is otherwise. Of several first starts at
    /// once one takes them, and the others have what that wrote put into force.
    async fn take_tools(&self, in_force: &Pins) -> Result<()> {
        let server = self.gateway.mcp().get(&self.admin.tenant, self.name);
        let server = server.ok_or_else(|| Error::new("the server is not configured"))?;
        let listed = server.tools().await;
        let alone = state::alone(self.dir)?;
        let sheets = sheets(self.dir, self.name)?;
        if !sheets.is_empty() && pins(&sheets) != *in_force {
            self.gateway.reload(&self.admin).await.map_err(refused)?;
        }
        let tools = match listed {
            Ok(tools) => tools,
            Err(error) if sheets.is_empty() => return Err(Error::new(error.to_string())),
            Err(error) => {
                out::note(format_args!("countersign: {error}"));
                return Ok(());
            }
        };
        if sheets.is_empty() {
            return self.pin(&tools, &catalogue(self.dir)).await;
        }
        drop(alone);
        let differs = |seen: &&SeenTool| {
            sheets.iter().all(|sheet| sheet.tool() != seen.tool.name || sheet.pinned() != seen.digest)
        };
        let count = tools.iter().filter(differs).count();
        if count > 0 {
            out::note(format_args!(
                "countersign: {count} of its tools are new or not what was accepted, and cannot be called: {}",
                self.command("accept", "")
            ));
        }
        Ok(())
    }

    async fn pin(&self, tools: &[SeenTool], catalogue: &Path) -> Result<()> {
        let mut files = Files::new(false, false);
        let mut pinned = 0;
        for seen in tools {
            let text =
                Told::of(seen).and_then(|told| sheet::written(self.name, &told, Some(ApprovalForm::Key)));
            match text {
                Ok(text) => {
                    let path = catalogue.join(sheet::file_name(self.name, &seen.tool.name));
                    pinned += usize::from(files.put(&path, &text, Fate::Differs)? == Fate::New);
                }
                Err(why) => out::note(format_args!(
                    "countersign: left out `{}`: {}",
                    out::shortened(&seen.tool.name, MOST_SHOWN),
                    out::shown(&why)
                )),
            }
        }
        self.gateway.reload(&self.admin).await.map_err(refused)?;
        out::note(format_args!(
            "countersign: first start: took its {pinned} tools as they are. None is classified, so a person is asked about every call.\n  \
             {} && countersign reload    # takes the server's word for what only reads",
            self.command("classify", " --proposed")
        ));
        Ok(())
    }

    /// As whom the client calls, under a mandate for what cannot be undone.
    async fn agent(&self, name: &str) -> Result<Caller> {
        let subject = subject_of(name)?;
        let now = now_seconds();
        let issuer = self.gateway.public_url();
        let kept = self
            .held
            .mandate()?
            .filter(|it| it.issuer == issuer && it.agent == name && it.until > now + RENEWED_SECONDS);
        let id = match kept {
            Some(kept) => kept.id,
            None => {
                let until = now + HELD_SECONDS;
                let id = self.mandate(&subject, until).await?;
                self.held.keep_mandate(&Mandate {
                    id: id.clone(),
                    issuer: issuer.to_owned(),
                    agent: name.to_owned(),
                    until,
                })?;
                id
            }
        };
        self.caller(name, Some(id))
    }

    fn caller(&self, name: &str, mandate: Option<String>) -> Result<Caller> {
        Ok(Caller {
            tenant: self.admin.tenant.clone(),
            subject: subject_of(name)?,
            role: Role::Agent,
            key_id: "stdio".to_owned(),
            key_issuer: None,
            default_mandate: mandate,
        })
    }

    async fn mandate(&self, subject: &Subject, until: i64) -> Result<String> {
        let ask = MandateAsk {
            subject: subject.clone(),
            even_if_unknown: true,
            scope: vec![EVERY.to_owned()],
            resources: None,
            spend_cap: None,
            max_actions: None,
            requires_approval: Vec::new(),
            uncertainty_floor: None,
            trust_floor: None,
            goal_scope: Vec::new(),
            resource_envelope: None,
            not_before: None,
            expires_at: until,
        };
        Ok(self.gateway.issue_mandate(&self.admin, ask).await.map_err(refused)?.mandate.jti)
    }

    fn welcome(&self, url: &str) {
        let key = |role: Role| self.held.key_file(role.as_str()).display().to_string();
        out::note(format_args!(
            "countersign: `{}` is governed. Approve at {url}/approvals with the key in {}; for commands like `countersign reload`\n  \
             export COUNTERSIGN_URL={url} COUNTERSIGN_API_KEY=$(cat {})",
            self.name,
            key(Role::Approver),
            key(Role::Admin)
        ));
    }

    /// A command on this gateway's files, to be typed.
    fn command(&self, verb: &str, more: &str) -> String {
        format!("countersign mcp {verb} {}{more} --out {}", self.name, self.dir.display())
    }
}

fn subject_of(name: &str) -> Result<Subject> {
    Subject::parse(name).map_err(|why| Error::new(format!("`--agent {name}` is no name")).because(why))
}

/// Files of tools, and what each is pinned to.
type Pins = BTreeSet<(PathBuf, String)>;

fn pins(sheets: &[Sheet]) -> Pins {
    sheets.iter().map(|sheet| (sheet.path.clone(), sheet.pinned().to_owned())).collect()
}

/// What the catalogue has of the server's tools just now.
fn sheets(dir: &Path, server: &str) -> Result<Vec<Sheet>> {
    let mut sheets = sheet::all(&catalogue(dir))?;
    sheets.retain(|sheet| sheet.server() == server);
    Ok(sheets)
}

fn catalogue(dir: &Path) -> PathBuf {
    dir.join("catalogue").join(Tenant::default().as_str())
}

/// The configuration of this folder, made at the first start, with what the client gives the server now.
fn configuration(args: &Wrap, dir: &Path, held: &Held, name: &str, address: SocketAddr) -> Result<Config> {
    let path = dir.join("countersign.toml");
    let mut files = Files::new(false, false);
    if !path.is_file() {
        files.put(&path, &first_settings(name, &args.command)?, Fate::Kept)?;
    }
    let text = std::fs::read_to_string(&path).while_we(|| format!("cannot read `{}`", path.display()))?;
    let mut config = Config::read(Some(&path)).map_err(Error::new)?;
    let mut settings = Settings::parse(&text)?;
    let tenant = config.tenants.first().cloned().unwrap_or_default();
    let (catalogue, policies) = (
        dir.join(settings.folder("catalogue_dir", "catalogue")?),
        dir.join(settings.folder("policy_dir", "policies")?),
    );
    for folder in [&catalogue, &policies] {
        std::fs::create_dir_all(folder.join(&tenant))
            .while_we(|| format!("cannot make `{}`", folder.display()))?;
    }
    files.put(&policies.join(&tenant).join("mcp.cedar"), STARTER, Fate::Kept)?;
    config.catalogue_dir = Some(catalogue);
    config.policy_dir = Some(policies);
    config.data_dir = held.folder.join("data");
    config.listen = address;
    // By this name browsers let people use passkeys.
    config.public_url = Some(format!("http://localhost:{}", address.port()));
    config.sandbox.enabled = false;
    config.fail_points = crash::asked(crash::points())?;
    config.mcp.keeper = Some(super::keeper()?);
    let ours = |variable: &str| variable.starts_with("COUNTERSIGN_");
    // The client made this environment for the server; it sees it as if it had been started by it, but for what is no UTF-8.
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(variable, value)| Some((variable.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(variable, _)| !ours(variable))
        .collect();
    let server = config.mcp.servers.remove(name).unwrap_or_default();
    let server = McpServer { command: args.command.clone(), env, url: None, ..server };
    config.mcp.servers = BTreeMap::from([(name.to_owned(), server)]);
    Ok(config)
}

fn first_settings(name: &str, command: &[String]) -> Result<String> {
    let mut settings = Settings::parse(&format!(
        "# The gateway around the MCP server `{name}`. Which program that is, and its environment, its client says at each start.\n"
    ))?;
    settings.folder("catalogue_dir", "catalogue")?;
    settings.folder("policy_dir", "policies")?;
    settings.name_server(name, command.first().map_or("", String::as_str))?;
    Ok(settings.text())
}

/// One of our own pipes, read or written beside everything else.
fn pipe(of: impl AsFd) -> Result<tokio::fs::File> {
    let own = of.as_fd().try_clone_to_owned().while_we(|| "cannot use stdin and stdout".to_owned())?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(own)))
}

async fn listen(args: &Wrap, held: &Held) -> Result<TcpListener> {
    let (tried, kept) = match args.listen {
        Some(address) if !address.ip().is_loopback() => {
            return Err(Error::new(format!("{address} can be reached from other machines"))
                .hint("name a loopback address"));
        }
        Some(address) => (vec![address], false),
        None => held.addresses()?,
    };
    for address in &tried {
        if let Ok(listener) = serve::listen(*address) {
            if !kept {
                held.keep_address(listener.local_addr().while_we(no_address)?)?;
            }
            return Ok(listener);
        }
    }
    let shown = tried.first().map(ToString::to_string).unwrap_or_default();
    Err(Error::new(format!("another program listens on {shown}, where this gateway has been until now"))
        .hint("end it, or name another address once with --listen: receipts then name that as their issuer"))
}

/// What a server is called by its command: past the programs that only start others, and what these are told.
fn called_by(command: &[String]) -> String {
    let in_a_container = command.first().is_some_and(|it| CONTAINERS.contains(&file_of(it)));
    let words = command.iter().map(String::as_str);
    let before = std::iter::once("").chain(words.clone());
    let is_plain =
        |(word, before): &(&str, &str)| !(word.starts_with('-') || in_a_container && VALUED.contains(before));
    let plain = words.zip(before).filter(is_plain).map(|(word, _)| word);
    let name = |part: &str| {
        let last = file_of(part);
        // A package may have a version behind it, a script an ending.
        let last = last.split('@').next().unwrap_or(last);
        last.strip_suffix(".py").or(last.strip_suffix(".js")).unwrap_or(last).to_owned()
    };
    let mut names = plain.map(name);
    names.find(|name| !STARTERS.contains(&name.as_str())).unwrap_or_default()
}

fn file_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

const STARTERS: [&str; 18] = [
    "bash", "bun", "bunx", "cmd", "deno", "docker", "exec", "env", "node", "npm", "npx", "pnpm", "podman",
    "python", "python3", "run", "sh", "uvx",
];
const CONTAINERS: [&str; 2] = ["docker", "podman"];
/// Options of theirs behind which another word belongs to it.
const VALUED: [&str; 19] = [
    "-e",
    "--env",
    "--env-file",
    "-v",
    "--volume",
    "--mount",
    "--name",
    "--network",
    "--add-host",
    "-p",
    "--publish",
    "-u",
    "--user",
    "-w",
    "--workdir",
    "--entrypoint",
    "-l",
    "--label",
    "--platform",
];

fn admin() -> Result<Caller> {
    let subject = Subject::parse("data-directory")
        .map_err(|why| Error::new("a subject of ours is none").because(why))?;
    Ok(Caller {
        tenant: Tenant::default(),
        subject,
        role: Role::Admin,
        key_id: "data directory".to_owned(),
        key_issuer: None,
        default_mandate: None,
    })
}

fn refused(error: gateway::Error) -> Error {
    Error::new(error.to_string()).maybe_hint(error.hint)
}

fn no_address() -> String {
    "cannot find our own address".to_owned()
}

fn now_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// After so long a server that did not start is tried again.
const AGAIN_IN: Duration = Duration::from_secs(10);
/// How long what is under way may take to stop, at the very end.
const LEFT_IN: Duration = Duration::from_secs(1);
/// How long a mandate holds, and how long before its end it is renewed at a start.
const HELD_SECONDS: i64 = 90 * 86_400;
const RENEWED_SECONDS: i64 = 30 * 86_400;
const MOST_SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_called_by_what_is_started_in_the_end() {
        let name = |command: &str| called_by(&command.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(name("/opt/bin/mcp-server-git --repository /x"), "mcp-server-git");
        assert_eq!(name("npx -y @modelcontextprotocol/server-filesystem@2026.1 /x"), "server-filesystem");
        assert_eq!(name("uvx mcp-server-time"), "mcp-server-time");
        assert_eq!(name("python3 /srv/notes.py"), "notes");
        assert_eq!(name("docker run -i --rm ghcr.io/github/github-mcp-server"), "github-mcp-server");
        let told = "docker run -i --rm -e GITHUB_TOKEN -v /x:/x --name hub ghcr.io/github/github-mcp-server";
        assert_eq!(name(told), "github-mcp-server");
        assert_eq!(name("uvx -v mcp-server-time"), "mcp-server-time", "elsewhere it says how much is told");
    }
}
