//! Real clients of the Model Context Protocol, with nobody's model behind them, in front of real servers: what an agent may
//! do works as it did before, what it may not do leaves the disk as it was and the client alive, what waits goes on after a
//! person agreed, and a gateway that is killed in the midst of a call has that call done once.
//!
//! Where an SDK or a server is missing a test says so and passes; with `COUNTERSIGN_TEST_MUST_RUN` set it fails instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "mcp/client.rs"]
mod client;
#[path = "mcp/everything.rs"]
#[allow(dead_code, reason = "shared with the tests of conformance")]
mod everything;
#[path = "mcp/found.rs"]
mod found;
#[allow(dead_code, reason = "shared with the tests of other programs")]
#[path = "others/gateway.rs"]
mod gateway;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Client, Program, Sdk};
use crate::everything::Everything;
use crate::gateway::{Gateway, countersign, said};

/// Each client, by the name of its agents, and the revision that it speaks.
const CLIENTS: [(&str, Sdk, &str); 4] = [
    ("python2-stateless", Sdk::Python2("2026-07-28"), "2026-07-28"),
    ("python2-session", Sdk::Python2("legacy"), "2025-11-25"),
    ("python1", Sdk::Python1, "2025-11-25"),
    ("typescript", Sdk::TypeScript, "2025-11-25"),
];
const INSPECTOR: &str = "inspector";

#[test]
fn real_clients_are_governed_in_front_of_real_servers() {
    let Some(world) = World::new() else { return };
    thread::scope(|scope| {
        for (name, sdk, revision) in CLIENTS {
            let Some(program) = sdk.found() else { continue };
            let world = &world;
            scope.spawn(move || {
                let reader = Agent { world, program: &program, name: format!("{name}-reader"), revision };
                reader.reads_and_is_refused();
            });
            let Some(program) = sdk.found() else { continue };
            scope.spawn(move || {
                let careful = Agent { world, program: &program, name: format!("{name}-careful"), revision };
                careful.waits_for_a_person();
            });
        }
        scope.spawn(|| world.inspects());
    });
}

/// Real servers behind a gateway, with a repository for each agent.
struct World {
    gateway: Gateway,
    approver: String,
    /// What the servers answer to what is read, when nobody is between.
    directly: Vec<Value>,
    folder: TempDir,
}

/// How the real servers are started.
struct Servers {
    python: OsString,
    node: OsString,
    filesystem: PathBuf,
}

/// Whoever asks through a client.
struct Agent<'a> {
    world: &'a World,
    program: &'a Program,
    name: String,
    revision: &'a str,
}

impl Agent<'_> {
    /// At all servers, or one.
    fn client(&self, at: &str) -> Client {
        let gateway = &self.world.gateway;
        let key = gateway.key_with_mandate(&self.name, "Mcp");
        let client = Client::start(self.program, &format!("{}{at}", gateway.url), &key);
        assert_eq!(client.revision, self.revision, "{}", self.name);
        client
    }

    fn reads_and_is_refused(&self) {
        let (world, mut client, name) = (self.world, self.client("/mcp"), &self.name);
        let tools = client.list();
        let listed = names(&tools);
        for tool in ["git__git_log", "time__convert_time", "files__read_text_file", "files__write_file"] {
            assert!(listed.contains(tool), "{name}: {listed:?}");
        }
        assert!(!listed.contains("git__git_commit"), "{name} could never do that");

        let log = json!({"repo_path": world.repository(name), "max_count": 1});
        let note = json!({"path": world.file("note.txt")});
        let noon = json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"});
        let reads =
            [("git", "git_log", log), ("files", "read_text_file", note), ("time", "convert_time", noon)];
        let mut asked = BTreeSet::new();
        for ((server, tool, arguments), directly) in reads.iter().zip(&world.directly) {
            let result = client.call(&format!("{server}__{tool}"), arguments);
            assert_eq!(bare(&result), bare(directly), "{name}");
            asked.insert(world.proven(&result, name, "executed"));
        }

        let before = world.state_of(name);
        let commit = json!({"repo_path": world.repository(name), "message": "never"});
        let refused = client.call("git__git_commit", &commit);
        asked.insert(world.refused(&refused, &refused["structuredContent"], name));
        let new = world.file(&format!("{name}.txt"));
        let refused = client.call("files__write_file", &json!({"path": new, "content": "never"}));
        // Its server declares a form of structured content that no refusal has.
        asked.insert(world.refused(&refused, &refused["_meta"]["io.countersign/outcome"], name));
        assert_eq!(world.state_of(name), before, "{name} left the repository as it was");
        assert!(!new.exists(), "{name} wrote nothing");

        let (server, tool, arguments) = &reads[0];
        let result = client.call(&format!("{server}__{tool}"), arguments);
        asked.insert(world.proven(&result, name, "executed"));
        assert_eq!(world.actions_of(name), asked, "{name}: a receipt each, and no others");
    }

    fn waits_for_a_person(&self) {
        let (world, mut client, name) = (self.world, self.client("/mcp/git"), &self.name);
        assert!(names(&client.list()).contains("git_commit"), "{name} may, once a person agrees");
        let before = world.state_of(name);
        let commit = json!({"repo_path": world.repository(name), "message": "agreed"});
        let held = client.call("git_commit", &commit);
        let outcome = &held["structuredContent"];
        assert_eq!((&held["isError"], &outcome["kind"]), (&json!(true), &json!("held")), "{name}: {held}");
        let id = outcome["transaction_id"].as_str().unwrap();
        let about = json!({"transaction_id": id});
        let status = client.call("countersign_status", &about);
        assert_eq!(status["structuredContent"]["kind"], "held", "{name}: {status}");
        assert_eq!(world.state_of(name), before, "{name}: nothing happened yet");

        world.gateway.said(&world.approver, ["approvals", "approve", id, "--comment", "looked at"]);
        let done = self.until_over(|| client.call("git_commit", &commit));
        let text = done["content"][0]["text"].as_str().unwrap();
        assert!(text.starts_with("Changes committed successfully"), "{name}: {done}");
        assert_eq!(world.proven(&done, name, "executed"), id, "{name}: it is what was agreed to");
        assert_eq!(world.log_of(name), ["agreed", "first"], "{name}: once");
        let status = client.call("countersign_status", &about);
        let told = &status["structuredContent"];
        assert_eq!((&told["kind"], bare(&told["answer"])), (&json!("executed"), bare(&done)), "{name}");
        let receipt = client.call("countersign_receipt", &about);
        assert_eq!(receipt["structuredContent"], world.receipt(&done), "{name}");
        assert_eq!(world.actions_of(name), [id.to_owned()].into(), "{name}");
    }

    /// What a person agreed to is carried out in its own time.
    fn until_over(&self, mut call: impl FnMut() -> Value) -> Value {
        let mut done = Value::Null;
        testkit::wait_until(&format!("{}: it ends", self.name), || {
            done = call();
            let kind = done["structuredContent"]["kind"].as_str();
            !matches!(kind, Some("held" | "in_flight" | "pending_settlement"))
        });
        done
    }
}

impl World {
    /// Nothing where a server is missing.
    fn new() -> Option<World> {
        let servers = Servers::found()?;
        let folder = tempfile::tempdir().unwrap();
        let agents: Vec<String> = CLIENTS
            .iter()
            .flat_map(|(name, ..)| [format!("{name}-reader"), format!("{name}-careful")])
            .chain([INSPECTOR.to_owned()])
            .collect();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        std::fs::write(folder.path().join("files/note.txt"), "Nothing to see.\n").unwrap();
        // All are alike, to the hash.
        let repositories: Vec<PathBuf> = agents.iter().map(|agent| folder.path().join(agent)).collect();
        repositories.iter().for_each(|at| repository(at, &repositories[0]));
        let (policy, entities) = (POLICY, groups(&agents).to_string());
        let client = servers.client_file(folder.path()).to_string();
        let files = [
            ("policies/default/mcp.cedar", policy),
            ("policies/default/groups.json", &entities),
            ("catalogue/default/none", ""),
            ("more.toml", "[mcp]\nwait_seconds = 1\nlist_seconds = 20\n"),
            ("client.json", &client),
        ];
        let gateway = Gateway::prepared(&files, import);
        let approver = gateway.key("anna", "approver");
        let reads = reads(folder.path(), INSPECTOR);
        let directly = |(server, tool, arguments): &(&str, &str, Value)| {
            servers.directly(server, folder.path(), tool, arguments)
        };
        let directly = reads.iter().map(directly).collect();
        Some(World { gateway, approver, directly, folder })
    }

    fn repository(&self, agent: &str) -> PathBuf {
        self.folder.path().join(agent)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("files").join(name)
    }

    /// Branches, what they hold, and what is staged.
    fn state_of(&self, agent: &str) -> String {
        let at = self.repository(agent);
        git(&at, &["for-each-ref"]) + &git(&at, &["status", "--porcelain"])
    }

    fn log_of(&self, agent: &str) -> Vec<String> {
        git(&self.repository(agent), &["log", "--format=%s"]).lines().map(str::to_owned).collect()
    }

    /// The one action of a result whose receipt says this of it, to somebody who trusts nobody.
    fn proven(&self, result: &Value, agent: &str, kind: &str) -> String {
        let meta = &result["_meta"];
        let id = meta["io.countersign/transaction"].as_str();
        let id = id.or(meta["io.countersign/outcome"]["transaction_id"].as_str());
        let id = id.unwrap_or_else(|| panic!("{agent}: {result}"));
        let receipt = self.receipt(result);
        let says = (&receipt["agentId"], &receipt["metadata"]["kind"], &receipt["transactionId"]);
        assert_eq!(says, (&json!(agent), &json!(kind), &json!(id)));
        id.to_owned()
    }

    /// The receipt that a result names, verified.
    fn receipt(&self, result: &Value) -> Value {
        let url = result["_meta"]["io.countersign/receipt"]["url"].as_str();
        let url = url.unwrap_or_else(|| panic!("no receipt: {result}"));
        let document = self.gateway.get(url, "application/json").text().unwrap();
        let folder = tempfile::tempdir_in(&self.folder).unwrap();
        let (receipt, keys) = (folder.path().join("receipt.json"), folder.path().join("jwks.json"));
        std::fs::write(&receipt, &document).unwrap();
        std::fs::write(&keys, self.gateway.key_set()).unwrap();
        let pin = said(["keys", "--url", &self.gateway.url, "pin"]);
        let verified =
            countersign().arg("verify").arg(&receipt).args(["--issuer", &pin, "--jwks"]).arg(&keys).output();
        let verified = verified.unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        serde_json::from_str(&document).unwrap()
    }

    /// A refusal that a model can act on: what it is, which action, and where its receipt is.
    fn refused(&self, result: &Value, outcome: &Value, agent: &str) -> String {
        assert_eq!(result["isError"], true, "{agent}: {result}");
        assert_eq!((&outcome["kind"], &outcome["code"]), (&json!("blocked"), &json!("EP_BOUNDARY_BLOCK")));
        assert_eq!(outcome["receipt_url"], result["_meta"]["io.countersign/receipt"]["url"], "{result}");
        let id = self.proven(result, agent, "blocked");
        assert_eq!(outcome["transaction_id"], id, "{result}");
        id
    }

    /// What is on record of an agent.
    fn actions_of(&self, agent: &str) -> BTreeSet<String> {
        let trail =
            self.gateway.read(self.gateway.admin_key(), &format!("/v1/audit?agent_id={agent}&limit=200"));
        let entries = trail["entries"].as_array().unwrap_or_else(|| panic!("{trail}"));
        entries.iter().map(|entry| entry["action_id"].as_str().unwrap().to_owned()).collect()
    }

    /// The Inspector's command line, which asks once and ends. Whatever it is given, over HTTP it goes to `/mcp`.
    fn inspects(&self) {
        let index = "@modelcontextprotocol/inspector/cli/build/index.js";
        let Some((node, index)) = found::node(index) else { return };
        let key = self.gateway.key_with_mandate(INSPECTOR, "Mcp");
        let ask = |args: &[&str]| {
            let mut command = Command::new(&node);
            command.arg("--import").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/authorize.mjs"));
            command.arg(&index).arg(format!("{}/mcp", self.gateway.url)).args(["--transport", "http"]);
            let output = command.args(args).env("CONFORMANCE_KEY", &key).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        };
        let call = |tool: &str, argument: String| {
            ask(&["--method", "tools/call", "--tool-name", tool, "--tool-arg", &argument])
        };
        let listed = ask(&["--method", "tools/list"]);
        assert!(names(listed["tools"].as_array().unwrap()).contains("files__read_text_file"), "{listed}");
        let read = call("files__read_text_file", format!("path={}", self.file("note.txt").display()));
        assert_eq!(bare(&read), bare(&self.directly[1]));
        self.proven(&read, INSPECTOR, "executed");
        let before = self.state_of(INSPECTOR);
        let refused = call("git__git_reset", format!("repo_path={}", self.repository(INSPECTOR).display()));
        self.refused(&refused, &refused["structuredContent"], INSPECTOR);
        assert_eq!(self.state_of(INSPECTOR), before, "it left the repository as it was");
    }
}

impl Servers {
    fn found() -> Option<Servers> {
        let python = found::python("COUNTERSIGN_TEST_PYTHON", "mcp_server_git, mcp_server_time")?;
        let (node, filesystem) = found::node("@modelcontextprotocol/server-filesystem/dist/index.js")?;
        Some(Servers { python, node, filesystem })
    }

    /// The program and its arguments.
    fn command(&self, server: &str, folder: &Path) -> Vec<String> {
        let (python, files) = (self.python.to_str().unwrap(), folder.join("files").display().to_string());
        let command: &[&str] = match server {
            "git" => &[python, "-m", "mcp_server_git"],
            "time" => &[python, "-m", "mcp_server_time", "--local-timezone", "UTC"],
            _ => &[self.node.to_str().unwrap(), self.filesystem.to_str().unwrap(), &files],
        };
        command.iter().map(|part| (*part).to_owned()).collect()
    }

    /// A client's configuration with all of them.
    fn client_file(&self, folder: &Path) -> Value {
        let entry = |server: &str| {
            let command = self.command(server, folder);
            json!({"command": command[0], "args": command[1..]})
        };
        json!({"mcpServers": {"git": entry("git"), "time": entry("time"), "files": entry("files")}})
    }

    /// What a server answers to whoever asks it without us.
    fn directly(&self, server: &str, folder: &Path, tool: &str, arguments: &Value) -> Value {
        let command = self.command(server, folder);
        let mut process = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = process.stdin.take().unwrap();
        let about = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
        let call = json!({"name": tool, "arguments": arguments});
        for message in [
            json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}),
            json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
            json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}),
        ] {
            writeln!(input, "{message}").unwrap();
        }
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let answers = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let mut answers = answers.filter(|answer| answer["id"] == 2);
        let result = answers.next().unwrap()["result"].clone();
        process.kill().unwrap();
        process.wait().unwrap();
        result
    }
}

/// Takes over the servers of `client.json`, and believes what they say of their tools; a key is enough to agree to a commit.
fn import(config: &Path) {
    let folder = config.parent().unwrap();
    let mcp = |args: &[&str]| {
        let args = args.iter().map(OsString::from);
        said([OsString::from("mcp")].into_iter().chain(args).chain(["--config".into(), config.into()]));
    };
    mcp(&["import", folder.join("client.json").to_str().unwrap()]);
    for server in ["git", "time", "files"] {
        mcp(&["classify", server, "--proposed"]);
    }
    let sheet = folder.join("catalogue/default/mcp.git.git_commit.toml");
    let text = std::fs::read_to_string(&sheet).unwrap();
    let agreed = text.replace("reversible = false\n", "reversible = false\napproval = \"key\"\n");
    assert_ne!(text, agreed);
    std::fs::write(sheet, agreed).unwrap();
}

/// Readers and the Inspector may not write: not commit whatever they ask, and nothing else in production. Whoever is careful
/// may commit once a person agrees.
const POLICY: &str = r#"
@id("tools")
permit (principal is Agent, action in Action::"Mcp", resource);

@id("no-commits")
forbid (principal in AgentGroup::"Readers", action == Action::"mcp/git/git_commit", resource);

@id("no-writes")
forbid (
  principal in AgentGroup::"Readers",
  action in [Action::"mcp/files/write_file", Action::"mcp/git/git_reset"],
  resource
) when { context.environment == "production" };

@id("ask")
@escalate
forbid (principal in AgentGroup::"Careful", action == Action::"mcp/git/git_commit", resource);
"#;

fn groups(agents: &[String]) -> Value {
    let group = |name: &str| json!({"uid": {"type": "AgentGroup", "id": name}, "attrs": {}, "parents": []});
    let agent = |name: &String| {
        let group = if name.ends_with("careful") { "Careful" } else { "Readers" };
        let group = json!({"type": "AgentGroup", "id": group});
        json!({"uid": {"type": "Agent", "id": name}, "attrs": {}, "parents": [group]})
    };
    [group("Readers"), group("Careful")].into_iter().chain(agents.iter().map(agent)).collect()
}

/// What only reads: of which server, which tool, and with which arguments.
fn reads(folder: &Path, agent: &str) -> [(&'static str, &'static str, Value); 3] {
    let log = json!({"repo_path": folder.join(agent), "max_count": 1});
    let note = json!({"path": folder.join("files/note.txt")});
    let noon = json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"});
    [("git", "git_log", log), ("files", "read_text_file", note), ("time", "convert_time", noon)]
}

/// One commit, and a change that is staged; or a copy of the one that is there.
fn repository(at: &Path, there: &Path) {
    if there.is_dir() {
        return assert!(Command::new("cp").arg("-r").args([there, at]).status().unwrap().success());
    }
    std::fs::create_dir(at).unwrap();
    git(at, &["init", "--quiet", "--initial-branch=main"]);
    git(at, &["config", "user.name", "Test"]);
    git(at, &["config", "user.email", "test@example.com"]);
    git(at, &["commit", "--quiet", "--allow-empty", "--message=first"]);
    std::fs::write(at.join("new.txt"), "new\n").unwrap();
    git(at, &["add", "new.txt"]);
}

fn git(at: &Path, args: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(at).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn names(tools: &[Value]) -> BTreeSet<&str> {
    tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

/// A result without what we say of it, and without what a client puts where there was nothing.
fn bare(result: &Value) -> Value {
    let mut bare = result.clone();
    let members = bare.as_object_mut().unwrap_or_else(|| panic!("{result}"));
    members.retain(|name, value| !matches!(&**name, "_meta" | "resultType") && !value.is_null());
    members.entry("isError").or_insert(false.into());
    bare
}

/// Calls in whose midst the gateway is killed: a name, and whether the client has a key of its own for it.
#[derive(Clone, Copy)]
struct Cut {
    name: &'static str,
    sdk: Sdk,
    keyed: bool,
}

const CUTS: [Cut; 4] = [
    Cut { name: "stateless", sdk: Sdk::Python2("2026-07-28"), keyed: false },
    Cut { name: "stateless-keyed", sdk: Sdk::Python2("2026-07-28"), keyed: true },
    Cut { name: "session", sdk: Sdk::TypeScript, keyed: false },
    Cut { name: "session-keyed", sdk: Sdk::TypeScript, keyed: true },
];

impl Cut {
    fn request(&self) -> Value {
        let arguments = json!({"key": self.name, "seconds": MUCH_LATER});
        let mut request = json!({"tool": "count_late", "arguments": arguments});
        if self.keyed {
            request["meta"] = json!({"io.countersign/idempotency-key": "once"});
        }
        request
    }
}

#[test]
fn a_call_in_whose_midst_the_gateway_is_killed_has_one_effect() {
    let folder = tempfile::tempdir().unwrap();
    let counted = folder.path().join("counted");
    std::fs::write(&counted, "").unwrap();
    let Some(upstream) = Everything::with(&[("EVERYTHING_COUNT", &counted)]) else { return };
    let programs: Vec<(Cut, Program)> =
        CUTS.iter().filter_map(|cut| Some((*cut, cut.sdk.found()?))).collect();
    let mut gateway = counting(&upstream);
    let url = format!("{}/mcp/everything", gateway.url);
    let keys: Vec<String> =
        programs.iter().map(|(cut, _)| gateway.key_with_mandate(cut.name, "Mcp")).collect();
    let client = |program, key: &String| Client::start(program, &url, key);
    let lines = || std::fs::read_to_string(&counted).unwrap().lines().count();
    let mut clients: Vec<Client> =
        programs.iter().zip(&keys).map(|((_, program), key)| client(program, key)).collect();
    for (client, (cut, _)) in clients.iter_mut().zip(&programs) {
        client.send(&cut.request());
    }
    // Each of them has its effect, and none its answer.
    testkit::wait_until("each has its effect", || lines() >= programs.len());
    gateway.kill();
    drop(clients);
    gateway.start_again();
    for ((cut, program), key) in programs.iter().zip(&keys) {
        let name = cut.name;
        let mut client = client(program, key);
        let again = client.ask(&cut.request());
        let outcome = &again["_meta"]["io.countersign/outcome"];
        assert_eq!(
            (&again["isError"], &outcome["kind"]),
            (&json!(true), &json!("pending_settlement")),
            "{name}: {again}"
        );
        // A person who looked says what it was; the same call says so, too.
        let id = outcome["transaction_id"].as_str().unwrap();
        let looked = ["approvals", "resolve", id, "--as", "executed", "--comment", "it is in the file"];
        gateway.said(&gateway.key("anna", "approver"), looked);
        let told = client.ask(&cut.request());
        assert_eq!(told["_meta"]["io.countersign/transaction"], id, "{name}: {told}");
        assert_eq!(told["isError"], false, "{name}: {told}");
    }
    let effects = std::fs::read_to_string(&counted).unwrap();
    let mut effects: Vec<&str> = effects.lines().collect();
    effects.sort_unstable();
    let mut once: Vec<&str> = programs.iter().map(|(cut, _)| cut.name).collect();
    once.sort_unstable();
    assert_eq!(effects, once);
}

/// Longer than the whole test.
const MUCH_LATER: u32 = 600;

/// A gateway in front of this, in which an agent may count without being asked about.
fn counting(upstream: &Everything) -> Gateway {
    let client = json!({"mcpServers": {"everything": {"type": "http", "url": upstream.url}}}).to_string();
    let files = [
        ("policies/default/mcp.cedar", "@id(\"all\")\npermit (principal, action, resource);\n"),
        ("catalogue/default/none", ""),
        ("more.toml", "[mcp]\nwait_seconds = 0\n"),
        ("client.json", &client),
    ];
    Gateway::prepared(&files, |config| {
        let client = config.with_file_name("client.json");
        said(["mcp".into(), "import".into(), client.into_os_string(), "--config".into(), config.into()]);
    })
}
