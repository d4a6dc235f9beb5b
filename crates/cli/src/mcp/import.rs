//! `countersign mcp import`: a client's servers become ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gateway::Config;

use super::client::{self, ClientFile, Reached};
use super::files::{Fate, Files};
use super::place::{Ground, Place};
use super::plan::{How, Planned, Planner};
use super::settings::{Settings, Standing};
use super::sheet::{self, Sheet};
use super::told::Told;
use super::upstream;
use crate::error::{Context, Error, Result};
use crate::out;

/// Take over the servers of a client's configuration: ours, one archetype per tool, a starter policy, the changed client file
///
/// Each server is started or called once, to list its tools. What looks like a secret is not copied: the configuration names the
/// environment variable that has to hold it. Nothing is overwritten without --force, and a second run changes nothing.
///
/// Exit codes: 0 where at least one server is taken over, now or before, whatever was left out; 1 where none is, or something
/// could not be read or written; 64 where the command line is wrong.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The client's configuration, with `mcpServers` (Claude, Cursor, Windsurf) or `servers` (VS Code)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only this server; may be repeated
    #[arg(long, value_name = "NAME")]
    server: Vec<String>,
    /// How the client reaches us: `http`, at the gateway; `stdio`, by starting `countersign mcp -- …` around each server, which
    /// needs no gateway and changes nothing but the client's file [default: http; stdio for claude_desktop_config.json, whose
    /// client calls no address]
    #[arg(long = "as", value_name = "WAY")]
    way: Option<Way>,
    /// Where agents reach the gateway [default: what the configuration says: `public_url`, or where it listens]
    #[arg(long, value_name = "URL")]
    gateway: Option<String>,
    /// Change the client's file itself, and keep what it was beside it
    #[arg(long)]
    in_place: bool,
    /// Copy arguments and addresses that look as if they held a secret
    #[arg(long)]
    visible_secrets: bool,
    /// Overwrite what is there and differs
    #[arg(long)]
    force: bool,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    Http,
    Stdio,
}

impl Args {
    fn way(&self) -> Way {
        let desktop = self.file.file_name().is_some_and(|name| name == "claude_desktop_config.json");
        self.way.unwrap_or(if desktop { Way::Stdio } else { Way::Http })
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut client = ClientFile::read(&args.file)?;
    let files = Files::new(args.force, args.dry_run);
    if args.way() == Way::Stdio {
        let at = args.gateway.clone().unwrap_or_else(|| Config::default().public_url());
        let mut import = Import { args, at, left_out: Vec::new(), is_ours_already: false, files };
        let wanted = import.wanted(&client)?;
        import.wrap(&mut client, &wanted)?;
        return import.tell_wrapped();
    }
    let ground = args.place.read()?;
    let at = args.gateway.as_deref().unwrap_or(&ground.at).trim_end_matches('/').to_owned();
    let mut import = Import { args, at, left_out: Vec::new(), is_ours_already: false, files };
    let wanted = import.wanted(&client)?;
    let planned = import.plan(&ground, &wanted);
    let taken = import.take(&ground, planned)?;
    import.change_client(&mut client, &taken)?;
    import.tell(&ground, &taken)
}

/// A server that is taken over, and what became of its tools.
struct Taken {
    planned: Planned,
    standing: Standing,
    tools: usize,
    written: usize,
    as_before: usize,
    changed: Vec<String>,
    left_out: usize,
    /// Tools of which nobody has said what they do.
    unclassified: usize,
}

struct Import<'a> {
    args: &'a Args,
    /// Where the gateway is reached.
    at: String,
    /// Server, tool and why.
    left_out: Vec<[String; 3]>,
    /// Some server goes through us already.
    is_ours_already: bool,
    files: Files,
}

impl Import<'_> {
    /// The servers that are meant, with how the client reaches them.
    fn wanted(&mut self, client: &ClientFile) -> Result<Vec<(String, Reached)>> {
        let mut wanted = Vec::new();
        let ours = format!("{}/mcp/", self.at.trim_end_matches('/'));
        let key = client::bearer(&client.variable(KEY_VARIABLE, &self.args.file));
        let entries = client.entries();
        if let Some(name) =
            self.args.server.iter().find(|name| entries.iter().all(|entry| entry.name != **name))
        {
            return Err(Error::new(format!(
                "the client's configuration has no server `{}`",
                out::shown(name)
            )));
        }
        for entry in entries {
            if !self.args.server.is_empty() && !self.args.server.contains(&entry.name) {
                continue;
            }
            match entry.reached {
                // Be it by another address of the gateway's than now.
                Ok(Reached::Address { url, headers })
                    if url.starts_with(&ours) || headers.get("Authorization") == Some(&key) =>
                {
                    self.is_ours_already = true;
                    self.leave(&entry.name, "it goes through the gateway already");
                }
                Ok(Reached::Process { command, args, .. }) if is_ours(&command, &args) => {
                    self.is_ours_already = true;
                    self.leave(&entry.name, "it goes through `countersign mcp` already");
                }
                Ok(reached) => wanted.push((entry.name, reached)),
                Err(why) => self.leave(&entry.name, &why),
            }
        }
        Ok(wanted)
    }

    fn leave(&mut self, server: &str, why: &str) {
        self.left_out.push([out::shortened(server, MOST_SHOWN), String::new(), out::shown(why)]);
    }

    fn plan(&mut self, ground: &Ground, wanted: &[(String, Reached)]) -> Vec<Planned> {
        let environment = |name: &str| std::env::var(name).ok();
        let mut planner = Planner {
            environment: &environment,
            visible_secrets: self.args.visible_secrets,
            taken: BTreeSet::new(),
            secrets: Settings::parse(&ground.text).map(|settings| settings.secrets()).unwrap_or_default(),
        };
        let mut all = Vec::new();
        for (name, reached) in wanted {
            match planner.plan(name, reached) {
                Ok(planned) => all.push(planned),
                Err(why) => self.leave(name, &why),
            }
        }
        all
    }

    /// Asks every server for its tools, and writes what comes of those that answer.
    fn take(&mut self, ground: &Ground, planned: Vec<Planned>) -> Result<Vec<Taken>> {
        let (mut trial, ..) = ground.settings()?;
        for one in &planned {
            trial.add(one, ground.named.as_deref(), self.args.force)?;
        }
        let config = understood(&trial.text())?;
        let names: Vec<String> = planned.iter().map(|one| one.name.clone()).collect();
        let values = planned.iter().flat_map(|one| known_values(&config, one)).collect();
        let runtime = tokio::runtime::Runtime::new().while_we(|| "cannot start".to_owned())?;
        let mut listed = runtime.block_on(upstream::tools_of(&config, &names, &values));

        let (mut settings, catalogue, policies) = ground.settings()?;
        let sheets = sheet::all(&catalogue)?;
        let mut all = Vec::new();
        for planned in planned {
            let tools = match listed.remove(&planned.name) {
                Some(Ok(tools)) => tools,
                Some(Err(why)) => {
                    self.leave(&planned.client_name, &format!("it does not list its tools: {why}"));
                    continue;
                }
                None => continue,
            };
            let standing = settings.add(&planned, ground.named.as_deref(), self.args.force)?;
            let mut taken = Taken {
                planned,
                standing,
                tools: tools.len(),
                written: 0,
                as_before: 0,
                changed: Vec::new(),
                left_out: 0,
                unclassified: 0,
            };
            let mut seen = BTreeSet::new();
            for tool in tools.iter() {
                let told = Told::of(tool);
                let name = tool.tool.name.to_string();
                let written = if !seen.insert(name.clone()) {
                    Err("it is listed twice".to_owned())
                } else if seen.len() > MOST_TOOLS {
                    Err(format!(
                        "it is beyond the first {MOST_TOOLS}: `countersign mcp accept` takes it by name"
                    ))
                } else {
                    told.and_then(|told| self.write_tool(&catalogue, &sheets, &mut taken, &told))
                };
                if let Err(why) = written {
                    taken.left_out += 1;
                    let server = taken.planned.name.clone();
                    self.left_out.push([server, out::shortened(&name, MOST_SHOWN), out::shown(&why)]);
                }
            }
            all.push(taken);
        }
        if !all.is_empty() {
            self.files.put(&policies.join("mcp.cedar"), STARTER, Fate::Kept)?;
            understood(&settings.text())?;
            // Whatever was not known for a secret stands in it.
            self.files.change_private(&ground.config_path, &ground.text, &settings.text())?;
        }
        Ok(all)
    }

    fn write_tool(
        &mut self,
        catalogue: &Path,
        sheets: &[Sheet],
        taken: &mut Taken,
        told: &Told,
    ) -> std::result::Result<(), String> {
        let server = &taken.planned.name;
        let there = sheets.iter().find(|sheet| sheet.server() == server && sheet.tool() == told.name);
        taken.unclassified += usize::from(there.is_some_and(|sheet| sheet.class().is_none()));
        let path = match there {
            Some(sheet) if sheet.pinned() == told.digest => {
                taken.as_before += 1;
                return Ok(());
            }
            Some(sheet) if !self.args.force => {
                taken.changed.push(sheet.tool().to_owned());
                return Ok(());
            }
            Some(sheet) => sheet.path.clone(),
            None => catalogue.join(sheet::file_name(server, &told.name)),
        };
        let text = sheet::written(server, told, None)?;
        match self.files.put(&path, &text, Fate::Differs).map_err(|error| error.to_string())? {
            Fate::Differs => Err(format!("`{}` is there already and is of something else", path.display())),
            Fate::Link => Err(format!("`{}` is a link, through which nothing is written", path.display())),
            _ => {
                taken.written += 1;
                Ok(())
            }
        }
    }

    /// The client's file with the gateway in the place of each server.
    fn change_client(&mut self, client: &mut ClientFile, taken: &[Taken]) -> Result<()> {
        let key = client.variable(KEY_VARIABLE, &self.args.file);
        for one in taken {
            client.put(
                &one.planned.client_name,
                client::called(&format!("{}/mcp/{}", self.at, one.planned.name), &key),
            );
        }
        self.write_client(client, !taken.is_empty())
    }

    /// The client's file with `countersign mcp` around each server that it starts.
    fn wrap(&mut self, client: &mut ClientFile, wanted: &[(String, Reached)]) -> Result<()> {
        let program =
            std::env::current_exe().while_we(|| "cannot find this program's own file".to_owned())?;
        let mut count = 0;
        for (name, reached) in wanted {
            if let Reached::Process { command, args, .. } = reached {
                client.wrap(name, &program.display().to_string(), (command, args));
                count += 1;
            } else {
                self.leave(name, "it is called at an address, and `--as stdio` wraps what is started");
            }
        }
        self.write_client(client, count > 0)
    }

    fn write_client(&mut self, client: &ClientFile, changed: bool) -> Result<()> {
        if !changed {
            return Ok(());
        }
        if client.commented {
            out::note(format_args!("The client's file has comments, which the changed one has not."));
        }
        let file = &self.args.file;
        let cannot = || format!("cannot read `{}`", file.display());
        if !self.args.in_place {
            // What the client's file says of other servers, tokens among it, stays in it.
            self.files.put_private(&beside(file, ".countersign.json"), &client.text(), Fate::Differs)?;
            return Ok(());
        }
        let before = std::fs::read_to_string(file).while_we(cannot)?;
        let copy = beside(file, COPY);
        if self.files.keep(&copy, &before)? == Fate::Differs {
            return Err(Error::new(format!(
                "`{}` keeps an earlier state of the client's file",
                copy.display()
            ))
            .hint("move it away, so that what the file is now can be kept, too"));
        }
        self.files.change(file, &before, &client.text())
    }

    fn tell(&self, ground: &Ground, taken: &[Taken]) -> Result<ExitCode> {
        if !taken.is_empty() {
            let rows: Vec<_> = taken.iter().map(row).collect();
            out::table(
                [
                    "server",
                    "is started or called by",
                    "configured",
                    "tools",
                    "written",
                    "as before",
                    "changed",
                    "left out",
                ],
                &rows,
            )?;
            out::line("")?;
        }
        self.tell_left_out()?;
        self.tell_files()?;
        if taken.is_empty() {
            return Ok(if self.is_ours_already { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        self.next_steps(ground, taken)?;
        out::note(format_args!("{}", sheet::KEY_IS_ENOUGH));
        Ok(ExitCode::SUCCESS)
    }

    fn next_steps(&self, ground: &Ground, taken: &[Taken]) -> Result<()> {
        let (args, has_changed) = (self.args, self.files.has_changed());
        let mut steps: Vec<String> = Vec::new();
        for secret in exports(taken) {
            steps.push(secret);
        }
        for one in taken {
            let name = &one.planned.name;
            if let Some(tool) = one.changed.first() {
                steps.push(format!(
                "look at what changed: countersign mcp accept {name}    # `{tool}` is not what was accepted"
            ));
            }
            if one.written + one.unclassified > 0 {
                steps.push(format!("say what its tools do: countersign mcp classify {name} TOOL --as read_only, or, as it proposes, {name} --proposed"));
            }
        }
        let config = args.place.config.display();
        let place = if ground.root.as_os_str().is_empty() {
            String::new()
        } else {
            format!("cd {} && ", ground.root.display())
        };
        if has_changed {
            steps.push(format!("check it: {place}countersign catalog check --config {config} && countersign policy check --config {config}"));
        }
        let anew = if has_changed { "if it runs" } else { "if it has run since before they were taken over" };
        steps.push(format!("start the gateway, anew {anew}: {place}countersign serve --config {config}"));
        steps.push(
            "give the agent a mandate, which what cannot be undone needs, and a key that brings it:\n       \
         countersign mandate issue --subject AGENT --scope Mcp --ttl 30d --even-if-unknown\n       \
         countersign keys api create --subject AGENT --role agent --default-mandate JTI"
                .to_owned(),
        );
        let file = if args.in_place { args.file.clone() } else { beside(&args.file, ".countersign.json") };
        steps.push(format!("have the client use {} with that key in {KEY_VARIABLE}", file.display()));
        if taken.iter().any(|one| one.planned.secrets.iter().any(|secret| !secret.is_exported)) {
            let left = if args.in_place { beside(&args.file, COPY) } else { args.file.clone() };
            steps.push(format!(
                "remove {}, which holds what is exported now, out of the agent's reach",
                left.display()
            ));
        }
        match has_changed {
            true => out::line("Next:")?,
            false => out::line("Nothing was written. What may be left of an earlier run:")?,
        }
        for (at, step) in steps.iter().enumerate() {
            out::line(format_args!("  {}. {}", at + 1, step))?;
        }
        Ok(())
    }

    fn tell_wrapped(&self) -> Result<ExitCode> {
        self.tell_left_out()?;
        self.tell_files()?;
        if self.files.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
        out::line(
            "Next: have the client use that file. Each server's first start takes its tools as they are, and asks a person",
        )?;
        out::line("      for every call of one that is not classified; its stderr says where.")?;
        Ok(ExitCode::SUCCESS)
    }

    fn tell_left_out(&self) -> Result<()> {
        if self.left_out.is_empty() {
            return Ok(());
        }
        out::line("Left out:")?;
        for [server, tool, why] in self.left_out.iter().take(MOST_LINES) {
            let tool = if tool.is_empty() { String::new() } else { format!(" `{tool}`") };
            out::line(format_args!("  {server}{tool}: {why}"))?;
        }
        if self.left_out.len() > MOST_LINES {
            out::line(format_args!("  and {} more", self.left_out.len() - MOST_LINES))?;
        }
        out::line("")
    }

    fn tell_files(&self) -> Result<()> {
        for line in self.files.told(MOST_LINES) {
            out::line(line)?;
        }
        Ok(())
    }
}

/// The configuration as the gateway reads it.
fn understood(text: &str) -> Result<Config> {
    let cannot = || "cannot write a temporary file".to_owned();
    let file = tempfile::NamedTempFile::new().while_we(cannot)?;
    std::fs::write(file.path(), text).while_we(cannot)?;
    Config::read(Some(file.path()))
        .map_err(|why| Error::new("the configuration could not be used any more").because(why))
}

/// What is known of the secrets of a server, by the names that the configuration has for them.
fn known_values(config: &Config, planned: &Planned) -> Vec<(String, String)> {
    let Some(server) = config.mcp.servers.get(&planned.name) else { return Vec::new() };
    let value =
        |name: &String| planned.secrets.iter().find(|it| it.name == *name).and_then(|it| it.value.clone());
    let pairs: Vec<(&String, Option<&String>)> = match &planned.how {
        How::Process { secrets, .. } => {
            secrets.iter().map(|(at, name)| (name, server.secrets.get(at))).collect()
        }
        How::Address { headers, .. } => headers
            .iter()
            .map(|(at, (name, _))| (name, server.headers.get(at).map(|it| &it.secret)))
            .collect(),
    };
    pairs.into_iter().filter_map(|(name, configured)| Some((configured?.clone(), value(name)?))).collect()
}

fn row(taken: &Taken) -> [String; 8] {
    let by = match &taken.planned.how {
        How::Process { command, .. } => {
            let program = command
                .first()
                .map(Path::new)
                .and_then(Path::file_name)
                .unwrap_or_default()
                .to_string_lossy();
            let rest = command.iter().skip(1).map(String::as_str);
            std::iter::once(&*program).chain(rest).collect::<Vec<_>>().join(" ")
        }
        How::Address { url, .. } => url.clone(),
    };
    let configured = match taken.standing {
        Standing::Added => "added",
        Standing::Kept => "as before",
        Standing::Differs => "otherwise, kept",
        Standing::Replaced => "replaced",
    };
    let numbers = [taken.tools, taken.written, taken.as_before, taken.changed.len(), taken.left_out]
        .map(|it| it.to_string());
    let [tools, written, as_before, changed, left_out] = numbers;
    let name = taken.planned.name.clone();
    [
        name,
        out::shortened(&by, MOST_SHOWN),
        configured.to_owned(),
        tools,
        written,
        as_before,
        changed,
        left_out,
    ]
}

/// What has to stand in the environment of the gateway, and where its value is now. Never the value.
fn exports(taken: &[Taken]) -> Vec<String> {
    let mut all = BTreeMap::new();
    for one in taken {
        for secret in &one.planned.secrets {
            let from = match secret.is_exported {
                true => "which is where it is already".to_owned(),
                false => {
                    format!("the value is in the client's entry `{}`", out::shown(&one.planned.client_name))
                }
            };
            all.entry(secret.variable.clone()).or_insert(from);
        }
    }
    let line = |(variable, from)| format!("for the gateway, export {variable}=…    # {from}");
    all.into_iter().map(line).collect()
}

/// Whether a client starts us already.
fn is_ours(command: &str, args: &[String]) -> bool {
    let name = Path::new(command).file_name().and_then(|name| name.to_str());
    name == Some("countersign") && args.first().is_some_and(|first| first == "mcp")
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    file.with_file_name(name)
}

pub(super) const STARTER: &str = include_str!("starter.cedar");
/// What the name of a client's file as it was before ends with.
const COPY: &str = ".before-countersign";
/// What the client sends us as its key.
const KEY_VARIABLE: &str = "COUNTERSIGN_KEY";
/// More tools than this are taken over only by name.
const MOST_TOOLS: usize = 256;
const MOST_LINES: usize = 40;
const MOST_SHOWN: usize = 60;
