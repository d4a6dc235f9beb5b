//! Documents followed as a reader follows them: what stands in their `sh` blocks is run from top to bottom, in one shell
//! that begins in an empty directory, with the real binary and a real gateway.
//!
//! What a document has to keep to for that:
//! - a block whose first line is a comment with nothing but a file's name (`# catalogue/default/deploy.toml`) is that file;
//! - a block `text output` or `json output` is what the `sh` block before it prints, `…` standing for what is left out and
//!   all white space for none; with `output soon` the block before is run until it prints that, so it may only look;
//! - `countersign serve …` on a line of its own starts the gateway, here on a port of its own choosing; wherever the
//!   document names the address that it is given, ours is meant. `countersign witness …` likewise starts a witness;
//! - `systemctl stop countersign` ends the gateway, and `systemctl start countersign` starts it as it was, with what stands in the
//!   file `environment` besides, as the unit in `deploy/` does.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::postgres::{self, Cluster};

use crate::common::countersign;
use crate::running::Served;

/// The README makes an installation, in which other pages go on.
#[test]
fn the_readme_can_be_followed_and_what_goes_on_from_it() {
    let Some(mut reader) = Reader::new() else { return };
    reader.follow("README.md", &README);
    reader.follow("docs/policies.md", &[]);
    reader.follow("docs/mandates.md", &[]);
    reader.follow("docs/catalogue.md", &[]);
    reader.follow("docs/audit.md", &[Left { line: "countersign audit tail", why: "ends only when told" }]);
    reader.follow("docs/retention.md", &RETENTION);
    reader.follow("docs/operations.md", &OPERATIONS);
    reader.close();
}

const README: [Left; 4] = [
    Left { line: "countersign mcp ", why: "takes a client's configuration; tests of its own follow that" },
    Left { line: "cargo ", why: "builds what is tested here; demo and selftest have tests of their own" },
    Left { line: "countersign approvers enrol PASSKEY_ID", why: "a passkey is made in a browser" },
    Left {
        line: "countersign run ",
        why: "its archetype stands in docs/run.md, which is followed on its own",
    },
];

const RETENTION: [Left; 2] = [
    Left {
        line: "countersign report --regulation GDPR-Art-17 --from … --to …",
        why: "a gateway runs on it; reports from files have tests of their own",
    },
    Left {
        line: "countersign report --article-12 ",
        why: "no page before opens a session; the report has a test of its own",
    },
];

const OPERATIONS: [Left; 8] = [
    Left {
        line: "# catalogue/default/payment.toml",
        why: "its bank is not there; a test of files checks it",
    },
    Left { line: "export COUNTERSIGN_API_KEY=…", why: "the README's first admin made this key" },
    Left { line: "countersign catalog check /etc/", why: "nothing is installed there" },
    Left { line: "countersign policy check /etc/", why: "nothing is installed there" },
    Left { line: "countersign keys --data-dir /var/lib/", why: "nothing is installed there" },
    Left { line: "tar -C /var/lib/", why: "a test of restores follows it" },
    Left { line: "rm -f /var/lib/", why: "the same" },
    Left { line: "tar -xf /backups/", why: "the same" },
];

/// Its last page is for who has PostgreSQL.
#[test]
fn the_log_can_be_watched_and_its_store_moved() {
    let Some(mut reader) = Reader::new() else { return };
    reader.follow("README.md", &README);
    reader.follow("docs/log.md", &[]);
    let Some(binaries) = postgres::binaries() else {
        return testkit::skip("there is no PostgreSQL (Debian package `postgresql`)");
    };
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let cluster = Cluster::start(&binaries, &folder.path().join("a"), &[]).unwrap();
    reader.means("postgres://countersign:…@db.example/countersign", &cluster.url("postgres"));
    reader.means("/var/lib/countersign", "data");
    reader.means("/etc/countersign/environment", "environment");
    reader.follow("docs/moving.md", &[]);
    let moved = cluster.sql("postgres", "SELECT count(*) > 0 FROM production.action").unwrap();
    assert_eq!(moved, "t", "what the README did is there");
    reader.close();
}

#[test]
fn the_guarantees_can_be_tried_by_hand() {
    let selftest = "takes a minute, and has a test of its own";
    follow("docs/guarantees.md", &[Left { line: "countersign selftest ", why: selftest }]);
}

#[test]
fn the_page_on_sessions_can_be_followed() {
    follow("docs/sessions.md", &[]);
}

#[test]
fn the_page_on_approvals_can_be_followed() {
    let by_admin = "takes the admin key of a running gateway; the page goes on with one made before";
    let words = "in words, with ID for the action's; what follows does it";
    follow(
        "docs/approvals.md",
        &[
            Left { line: "countersign keys api create ", why: by_admin },
            Left { line: "countersign approvals list  ", why: words },
            Left { line: "countersign approvals show ID", why: words },
            Left { line: "countersign approvals approve ID", why: words },
            Left { line: "countersign approvals reject ID", why: words },
            Left { line: "countersign approvals ask ID", why: "of governed sessions, whose page does it" },
            Left {
                line: "countersign approvals extend ID",
                why: "of governed sessions; has a test of its own",
            },
            Left { line: "countersign approvals revoke-mission ID", why: "the same" },
            Left { line: "countersign approvals resolve ID", why: words },
            Left { line: "countersign approvers list  ", why: by_admin },
            Left { line: "id=$(countersign approvers list ", why: "a passkey is made in a browser" },
            Left { line: "echo \"$id\"  ", why: "the same" },
            Left { line: "countersign approvers enrol ", why: "the same" },
        ],
    );
}

#[test]
fn the_page_on_actions_can_be_followed() {
    follow("docs/actions.md", &[]);
}

#[test]
fn the_page_on_clusters_can_be_followed() {
    follow("docs/clusters.md", &[]);
}

#[test]
fn the_page_on_decisions_for_others_can_be_followed() {
    follow("docs/authzen.md", &[]);
}

#[test]
fn the_page_on_runs_can_be_followed() {
    let Some(mut reader) = Reader::new() else { return };
    reader.follow("docs/run.md", &[]);
    let ran = fs::read_to_string(reader.directory().join("backups")).unwrap();
    assert_eq!(ran, "1 full\n1 --format=custom crm\n", "each once, and nothing when it was refused");
    reader.close();
}

#[test]
fn the_page_on_taking_over_servers_can_be_followed() {
    let Some(mut reader) = Reader::with(&["curl", "jq", "git"]) else { return };
    if !install_git_server(&reader.directory()) {
        return;
    }
    let installed = "needs the network; it is installed already";
    reader.follow(
        "docs/mcp-import.md",
        &[
            Left { line: "python3 -m venv servers", why: installed },
            Left { line: "servers/bin/pip install ", why: installed },
        ],
    );
    let client = fs::read_to_string(reader.directory().join("client.json.countersign.json")).unwrap();
    assert!(client.contains("http://127.0.0.1:8787/mcp/git"), "{client}");
    reader.follow("docs/mcp.md", &[]);
    reader.close();
}

/// The server of the page, where it would be installed; whether there is one.
fn install_git_server(directory: &Path) -> bool {
    let python = std::env::var("COUNTERSIGN_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = Command::new(&python).args(["-c", "import mcp_server_git"]).output();
    if !import.is_ok_and(|output| output.status.success()) {
        testkit::skip("no Python that has mcp_server_git; COUNTERSIGN_TEST_PYTHON may name one");
        return false;
    }
    let program = directory.join("servers/bin/mcp-server-git");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(&program, format!("#!/bin/sh\nexec '{python}' -m mcp_server_git \"$@\"\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    true
}

/// A line of a document, by how it begins, that is not run here (or the line that names a file, which is not written), and
/// why.
pub(crate) struct Left {
    line: &'static str,
    #[expect(dead_code, reason = "for whoever reads the list")]
    why: &'static str,
}

/// Follows a document, named by its path from the root of the repository, in a directory of its own.
fn follow(document: &str, left: &[Left]) {
    let Some(mut reader) = Reader::new() else { return };
    reader.follow(document, left);
    reader.close();
}

/// Somebody with a shell, an empty directory to begin with, and a document.
pub(crate) struct Reader {
    folder: TempDir,
    shell: Child,
    asks: ChildStdin,
    hears: BufReader<ChildStdout>,
    gateway: Option<Served>,
    /// How the gateway was started last.
    args: Vec<String>,
    /// Where it answers. Once it has one it keeps it, since receipts name it.
    address: Option<String>,
    witness: Option<Witness>,
    /// What documents name, and what is meant here.
    meant: Vec<(String, String)>,
    blocks: usize,
}

impl Reader {
    /// Nobody where what documents use is missing; a test that must run fails then.
    fn new() -> Option<Reader> {
        Reader::with(&["curl", "jq"])
    }

    /// The same, for a document that uses these.
    pub(crate) fn with(tools: &[&str]) -> Option<Reader> {
        for tool in tools {
            if Command::new(tool).arg("--version").output().is_err() {
                testkit::skip(&format!("no {tool}"));
                return None;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_countersign")).parent().unwrap();
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(program.to_owned()).chain(std::env::split_paths(&paths));
        let mut command = Command::new("sh");
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("COUNTERSIGN_"))
        {
            command.env_remove(name);
        }
        command
            .env("PATH", std::env::join_paths(paths).unwrap())
            .env("NO_COLOR", "1")
            .env("no_proxy", "127.0.0.1");
        let work = folder.path().join("here");
        fs::create_dir(&work).unwrap();
        command.current_dir(&work).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().expect("there is a shell");
        let asks = shell.stdin.take().unwrap();
        let hears = BufReader::new(shell.stdout.take().unwrap());
        let mut reader = Reader {
            folder,
            shell,
            asks,
            hears,
            gateway: None,
            args: Vec::new(),
            address: None,
            witness: None,
            meant: Vec::new(),
            blocks: 0,
        };
        // Whatever fails is a failure, wherever in a block it stands, and so is what nobody has set.
        writeln!(reader.asks, "set -eu").unwrap();
        Some(reader)
    }

    /// The directory that the document is followed in.
    pub(crate) fn directory(&self) -> PathBuf {
        self.folder.path().join("here")
    }

    /// Does what a document says, and looks whether what is printed is what it shows.
    pub(crate) fn follow(&mut self, document: &str, left: &[Left]) {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document);
        let blocks = blocks(&fs::read_to_string(page).unwrap());
        let mut unused: Vec<&Left> = left.iter().collect();
        let (mut script, mut printed) = (String::new(), String::new());
        for block in &blocks {
            let place = format!("{document}:{}", block.line);
            let shown = self.ours(&block.text);
            if let Some(name) = block.file() {
                match unused.iter().position(|it| block.text.lines().next() == Some(it.line)) {
                    Some(at) => drop(unused.swap_remove(at)),
                    None => self.write(name, &shown),
                }
            } else if block.language == "sh" {
                let (kept, skipped) = without(&block.text, left);
                unused.retain(|it| !skipped.contains(&it.line));
                script = kept;
                printed = self.run(&place, &script);
            } else if let Some(when) = block.output {
                if when == When::Soon {
                    printed = self.run_until(&place, &script, &shown, printed);
                }
                let missing = missing(&shown, &printed);
                assert!(
                    missing.is_none(),
                    "{place}: `{}` is not printed there; this is:\n{printed}",
                    missing.unwrap()
                );
            }
        }
        let stale: Vec<&str> = unused.iter().map(|it| it.line).collect();
        assert!(stale.is_empty(), "{document} has no such lines any more: {stale:?}");
    }

    /// Runs a script in the reader's shell; what it prints, on both outputs.
    ///
    /// # Panics
    /// If it ends with anything but 0.
    fn run(&mut self, place: &str, script: &str) -> String {
        let mut printed = String::new();
        let mut lines = Vec::new();
        for line in script.lines() {
            let Some(elsewhere) = Elsewhere::of(line) else {
                lines.push(line);
                continue;
            };
            printed += &self.source(place, &lines.join("\n"));
            lines.clear();
            match elsewhere {
                Elsewhere::Serve(args) => self.serve(args),
                Elsewhere::Witness(args) => printed += &self.watch(place, args),
                Elsewhere::Stop => self.stop(),
                Elsewhere::Start => {
                    let environment = self.environment();
                    self.start(environment);
                }
            }
        }
        printed + &self.source(place, &lines.join("\n"))
    }

    /// Runs it again until it prints what is shown, or a long time is over.
    fn run_until(&mut self, place: &str, script: &str, shown: &str, mut printed: String) -> String {
        let began = Instant::now();
        while missing(shown, &printed).is_some() && began.elapsed() < LONG {
            sleep(Duration::from_millis(50));
            printed = self.run(place, script);
        }
        printed
    }

    /// Ends shell and gateway.
    pub(crate) fn close(mut self) {
        writeln!(self.asks, "exit").unwrap();
        assert!(self.shell.wait().unwrap().success(), "the shell ends in good order");
        self.stop();
    }

    /// Where the gateway answers that the document had started last.
    pub(crate) fn gateway_url(&self) -> &str {
        self.gateway.as_ref().expect("the document starts a gateway").url()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What documents call `theirs` is `ours` here.
    fn means(&mut self, theirs: &str, ours: &str) {
        self.meant.push((theirs.to_owned(), ours.to_owned()));
    }

    /// The reader's own words, with what is meant here in the place of what the document has in mind.
    fn ours(&self, text: &str) -> String {
        self.meant.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
    }

    /// From a file and not from standard input, which a command in it would read on.
    fn source(&mut self, place: &str, script: &str) -> String {
        self.blocks += 1;
        let path = |kind: &str| self.folder.path().join(format!("{}.{kind}", self.blocks));
        let (code, output) = (path("sh"), path("out"));
        fs::write(&code, self.ours(script)).unwrap();
        let (code, output) = (code.display(), output.display());
        writeln!(self.asks, "{{ . '{code}'; }} </dev/null >'{output}' 2>&1; echo $?").unwrap();
        let mut status = String::new();
        self.hears.read_line(&mut status).unwrap();
        let printed = fs::read_to_string(output.to_string()).unwrap_or_default();
        assert_eq!(status.trim(), "0", "{place}: something in it fails:\n{script}\n{printed}");
        printed
    }

    /// Starts the gateway with these arguments, in place of one that runs already.
    fn serve(&mut self, args: &str) {
        let args = args.split('#').next().unwrap_or_default().split_whitespace().filter(|word| *word != "&");
        self.args = args.map(str::to_owned).collect();
        self.start(Vec::new());
    }

    fn start(&mut self, environment: Vec<(String, String)>) {
        self.stop();
        let address = self.address.as_deref().and_then(|url| url.strip_prefix("http://"));
        let mut command = countersign();
        command.arg("serve").args(&self.args).args(["--listen", address.unwrap_or("127.0.0.1:0")]);
        let gateway = Served::spawn(command.envs(environment).current_dir(self.directory()));
        let url = gateway.url().to_owned();
        self.gateway = Some(gateway);
        if self.address.is_none() {
            for theirs in THEIRS {
                self.means(theirs, &url);
            }
            // What commands take for the address if nobody says one.
            self.source("the address", &format!("export COUNTERSIGN_URL={url}"));
            self.address = Some(url);
        }
    }

    fn stop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.stop();
        }
    }

    /// What the service manager gives to the gateway.
    fn environment(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.directory().join("environment")).unwrap_or_default();
        text.lines().filter_map(|line| line.split_once('=')).map(|(a, b)| (a.into(), b.into())).collect()
    }

    /// Starts a witness, whose arguments the reader's shell reads; what it prints.
    fn watch(&mut self, place: &str, args: &str) -> String {
        let args = self.source(place, &format!("printf '%s\\n' {args}"));
        let mut command = countersign();
        command.arg("witness").args(args.lines()).args(["--listen", "127.0.0.1:0"]);
        let witness = Witness::spawn(command.current_dir(self.directory()));
        let printed = format!("listening on http://{}\n{}\n", witness.address, witness.key);
        self.means(THEIR_WITNESS, &witness.address);
        self.means(THEIR_WITNESS_KEY, &witness.key);
        self.witness = Some(witness);
        printed
    }
}

/// What a line of a script does outside of the reader's shell.
enum Elsewhere<'a> {
    Serve(&'a str),
    Witness(&'a str),
    Stop,
    Start,
}

impl Elsewhere<'_> {
    fn of(line: &str) -> Option<Elsewhere<'_>> {
        let begins = |words| line.strip_prefix(words);
        let serve = begins("countersign serve").map(Elsewhere::Serve);
        let witness = || begins("countersign witness").map(Elsewhere::Witness);
        let stop = || begins("systemctl stop countersign").map(|_| Elsewhere::Stop);
        let start = || begins("systemctl start countersign").map(|_| Elsewhere::Start);
        serve.or_else(witness).or_else(stop).or_else(start)
    }
}

/// A witness at work.
struct Witness {
    child: Child,
    address: String,
    key: String,
}

impl Witness {
    fn spawn(command: &mut Command) -> Witness {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let listens = lines.next().expect("a witness says where it listens");
        let address = listens.strip_prefix("listening on http://").expect(&listens).to_owned();
        let key = lines.next().expect("a witness says its key");
        Witness { child, address, key }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// So long is waited for what comes soon.
const LONG: Duration = Duration::from_secs(60);
/// Where documents have their gateway.
const THEIRS: [&str; 2] = ["http://127.0.0.1:8787", "https://countersign.example"];
/// Where they have their witness, and its key.
const THEIR_WITNESS: &str = "127.0.0.1:8788";
const THEIR_WITNESS_KEY: &str = "witness.example+4b2f…+BA…";

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A fenced block of a document.
struct Block {
    /// Of the fence, counted from 1.
    line: usize,
    language: String,
    /// Whether it is what the commands before it print, and when.
    output: Option<When>,
    text: String,
}

impl Block {
    /// The file that it is.
    fn file(&self) -> Option<&str> {
        let first = self.text.lines().next()?;
        let name = first.strip_prefix("# ").or_else(|| first.strip_prefix("// "))?;
        let is_name =
            name.contains('.') && name.bytes().all(|it| it.is_ascii_alphanumeric() || b"/._-".contains(&it));
        (self.language != "sh" && is_name).then_some(name)
    }
}

/// When commands print what a document shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    AtOnce,
    /// They only look, and are looked with until it is there.
    Soon,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
        let inner = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```"));
        let text = inner.flat_map(|line| [line, "\n"]).collect();
        let output = match rest {
            "output" => Some(When::AtOnce),
            "output soon" => Some(When::Soon),
            _ => None,
        };
        blocks.push(Block { line: at + 1, language: language.to_owned(), output, text });
    }
    blocks
}

/// A script without the commands that are left, their further lines included, and which were.
fn without(script: &str, left: &[Left]) -> (String, Vec<&'static str>) {
    let (mut kept, mut skipped, mut goes_on) = (String::new(), Vec::new(), false);
    for line in script.lines() {
        let begins = left.iter().find(|it| line.starts_with(it.line));
        if goes_on || begins.is_some() {
            goes_on = line.ends_with('\\');
            skipped.extend(begins.map(|it| it.line));
        } else {
            kept += line;
            kept.push('\n');
        }
    }
    (kept, skipped)
}

/// The first piece of what is shown that was not printed, after the pieces before it.
fn missing(shown: &str, printed: &str) -> Option<String> {
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    let all = bare(printed);
    let mut rest = all.as_str();
    for piece in bare(shown).split('…').filter(|piece| !piece.is_empty()) {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return Some(piece.to_owned()),
        }
    }
    None
}

#[test]
fn what_is_shown_and_not_printed_is_found() {
    assert_eq!(missing("a … c\n", "a\nb\nc\n"), None);
    let state = ("\"state\": \"FAILED\"", "\"state\":\"COMPLETED\"", "\"state\":\"FAILED\"");
    for (shown, printed, piece) in [("a … d", "a b c", "d"), ("c … a", "a b c", "a"), state] {
        assert_eq!(missing(shown, printed).as_deref(), Some(piece), "{shown}");
    }
}
