//! How a server is reached: a process that is started, or an address that is called.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use action::Tenant;
use futures_util::future::join_all;
use process_wrap::tokio::{CommandWrap, ProcessGroup};
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::keeper::{Keeper, Kept};
use super::lock;
use super::pipes::Pipes;
use crate::Outside;
use crate::egress::{Apart, Origin};
use crate::secrets::{MOST_BYTES, Secret};

/// What the operator writes of one server.
#[derive(Clone, Debug)]
pub struct Declared {
    /// What it is called: part of its archetypes' names and of its address.
    pub name: String,
    /// Whose it is.
    pub tenant: Tenant,
    /// How it is reached.
    pub how: How,
    /// How long a process may take from its start to its greeting: some fetch themselves first.
    pub start: Duration,
    /// A request that is not answered, and of whose progress nothing is heard, for so long is given up.
    pub timeout: Duration,
    /// How long a client may take to answer what it is asked in the midst of a call.
    pub input: Duration,
    /// The largest message that is taken from it, in bytes.
    pub most_bytes: usize,
    /// How many links there are at once.
    pub most_links: usize,
    /// Methods of its own that clients may call: nothing judges them.
    pub methods: Vec<String>,
    /// For how long its list of tools is believed, unless it says that it changed.
    pub believe: Duration,
    /// What ends its processes if we are killed.
    pub keeper: Option<Arc<Keeper>>,
}

/// How a server is reached.
#[derive(Clone, Debug)]
pub enum How {
    /// By starting it: one process for each link, spoken to over its standard input and output.
    Process {
        /// The program and its arguments; no shell.
        command: Vec<String>,
        /// Its whole environment, beside `PATH` and `LANG`.
        env: BTreeMap<String, String>,
        /// Variables that hold secrets, by the names of these. A secret that is sent nowhere: one without hosts.
        secrets: BTreeMap<String, String>,
        /// Where it is started.
        dir: Option<PathBuf>,
        /// The most memory that it may map, in bytes.
        most_memory: Option<u64>,
        /// How many files it may have open.
        most_files: u64,
    },
    /// By calling it, over Streamable HTTP.
    Address {
        /// Where.
        url: String,
        /// Headers that hold secrets: by name the secret's name and what stands before it.
        headers: BTreeMap<String, (String, String)>,
    },
}

/// The same, read.
#[derive(Debug)]
pub(super) enum Launch {
    Process(Process),
    Address(Address),
}

#[derive(Debug)]
pub(super) struct Process {
    command: Vec<String>,
    env: BTreeMap<String, String>,
    secrets: Vec<(String, Arc<Secret>)>,
    dir: Option<PathBuf>,
    most_memory: Option<u64>,
    most_files: u64,
    ends: Ends,
    keeper: Option<Arc<Keeper>>,
}

#[derive(Debug)]
pub(super) struct Address {
    url: Url,
    way: Apart,
    headers: Vec<(HeaderName, HeaderValue)>,
    secrets: Vec<Arc<Secret>>,
}

/// Where programs are looked for unless the operator says otherwise.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

impl Launch {
    pub(super) fn new(how: How, keeper: Option<Arc<Keeper>>, outside: Outside<'_>) -> Result<Launch, String> {
        match how {
            How::Process { command, env, secrets, dir, most_memory, most_files } => {
                if command.first().is_none_or(String::is_empty) {
                    return Err("`command` names no program".to_owned());
                }
                let named = |(variable, name): (String, String)| {
                    let secret = outside.secrets.get(&name).map_err(|error| error.to_string())?;
                    // Nothing but the process sees it, as if it were ours.
                    secret.reveal_here().map_err(|error| error.to_string())?;
                    Ok((variable, Arc::clone(secret)))
                };
                let secrets = secrets.into_iter().map(named).collect::<Result<_, String>>()?;
                let ends = Ends::default();
                Ok(Launch::Process(Process {
                    command,
                    env,
                    secrets,
                    dir,
                    most_memory,
                    most_files,
                    ends,
                    keeper,
                }))
            }
            How::Address { url, headers } => {
                let url = Url::parse(&url).map_err(|_| format!("`{url}` is not a URL"))?;
                let origin = Origin::of(&url).map_err(|error| error.to_string())?;
                let way = outside.egress.apart(origin.clone()).map_err(|error| error.to_string())?;
                let mut secrets = Vec::new();
                let header = |(name, (secret, prefix)): (String, (String, String))| {
                    let name = HeaderName::try_from(name.as_str())
                        .map_err(|_| format!("`{name}` is no name of a header"))?;
                    let secret = outside.secrets.get(&secret).map_err(|error| error.to_string())?;
                    let value = secret.header_for(&origin, &prefix).map_err(|error| error.to_string())?;
                    secrets.push(Arc::clone(secret));
                    Ok((name, value))
                };
                let headers = headers.into_iter().map(header).collect::<Result<_, String>>()?;
                Ok(Launch::Address(Address { url, way, headers, secrets }))
            }
        }
    }
}

impl Launch {
    /// What is told to the server, and is for nobody else.
    pub(super) fn secrets(&self) -> Vec<Arc<Secret>> {
        match self {
            Launch::Process(process) => process.secrets.iter().map(|(_, it)| Arc::clone(it)).collect(),
            Launch::Address(address) => address.secrets.clone(),
        }
    }

    /// Whether each link is a process of its own.
    pub(super) fn is_process(&self) -> bool {
        matches!(self, Launch::Process(_))
    }

    /// Whatever is about to end has ended.
    pub(super) async fn ended(&self) {
        if let Launch::Process(process) = self {
            process.ends.over().await;
        }
    }
}

/// A process, spoken to over its standard input and output.
pub(super) type OfProcess = Pipes<tokio::process::ChildStdout, tokio::process::ChildStdin>;

/// A process that is ended, with all that it started, when this is dropped: its pipes are closed by then, or soon, and who does
/// not go by itself is killed.
pub(super) struct Running(Option<(Group, Ends)>);

/// A process and all that it started, which are killed when this is dropped.
struct Group {
    child: Option<Box<dyn process_wrap::tokio::ChildWrapper>>,
    /// Until it is killed.
    _kept: Option<Kept>,
}

/// Processes of one server that are about to end.
#[derive(Clone, Debug, Default)]
struct Ends(Arc<Mutex<Vec<CancellationToken>>>);

/// One of them, until it is dropped.
struct Ending {
    ends: Ends,
    over: CancellationToken,
}

impl Running {
    /// Whether it ended, whoever still has its pipes.
    pub(super) fn is_over(&mut self) -> bool {
        let child = self.0.as_mut().and_then(|(group, _)| group.child.as_mut());
        child.is_none_or(|child| !matches!(child.inner_mut().try_wait(), Ok(None)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some((group, ends)) = self.0.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(group.end(ends.begin()));
        }
    }
}

impl Group {
    /// Who is decent ends when its pipes are closed, and puts away what it holds.
    async fn end(mut self, _ending: Ending) {
        if let Some(child) = &mut self.child {
            let _ = timeout(LEAVE, child.inner_mut().wait()).await;
            // Reaped, so that nothing is left of it.
            drop(Box::into_pin(child.kill()).await);
        }
        self.child = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.start_kill();
        }
    }
}

impl Ends {
    fn begin(&self) -> Ending {
        let over = CancellationToken::new();
        lock(&self.0).push(over.clone());
        Ending { ends: self.clone(), over }
    }

    /// Those that are about to end now have ended, or will not.
    async fn over(&self) {
        let now = lock(&self.0).clone();
        let _ = timeout(2 * LEAVE, join_all(now.iter().map(CancellationToken::cancelled))).await;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.over.cancel();
        lock(&self.ends.0).retain(|one| !one.is_cancelled());
    }
}

impl Process {
    /// Starts it with nothing of our environment, when those before it have ended: some can run only once.
    pub(super) async fn start(&self, name: &str, most_bytes: usize) -> Result<(OfProcess, Running), String> {
        self.ends.over().await;
        let (program, arguments) = self.command.split_first().ok_or("`command` names no program")?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").envs(&self.env);
        for (variable, secret) in &self.secrets {
            command.env(variable, secret.reveal_here().map_err(|error| error.to_string())?);
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut wrapped = CommandWrap::from(command);
        wrapped.wrap(ProcessGroup::leader());
        if let Some(keeper) = &self.keeper {
            keeper.be_there();
        }
        let mut child = wrapped.spawn().map_err(|error| self.not_started(program, error.kind()))?;
        let (id, inner) = (child.id(), child.inner_mut());
        let pipes = (inner.stdin().take(), inner.stdout().take(), inner.stderr().take());
        let kept = self.keeper.as_ref().zip(id).map(|(keeper, id)| keeper.keep(id));
        let running = Running(Some((Group { child: Some(child), _kept: kept }, self.ends.clone())));
        // Killed, if it cannot be.
        self.bound(id)?;
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err("it could not be spoken to".to_owned());
        };
        tokio::spawn(log(
            name.to_owned(),
            stderr,
            self.secrets.iter().map(|(_, it)| Arc::clone(it)).collect(),
        ));
        Ok((Pipes::new(name, (stdout, stdin), most_bytes), running))
    }

    /// Why it was not started, and what to do. Not the error's own words: they quote nothing of ours, but vary. Agents may see it, so
    /// the program is named without the place where it lies.
    fn not_started(&self, program: &str, kind: ErrorKind) -> String {
        let name = program.rsplit('/').next().unwrap_or(program);
        if self.dir.as_ref().is_some_and(|dir| !dir.is_dir()) {
            return format!(
                "`{name}` is to be started in a directory that is not there: make it, or name another"
            );
        }
        match kind {
            ErrorKind::NotFound if name == program => {
                format!(
                    "its program `{name}` was not found on its PATH: install it, or name it by its whole path"
                )
            }
            ErrorKind::NotFound => format!(
                "its program `{name}`, or what that is run by, was not found: install it, or mend the path in its command"
            ),
            ErrorKind::PermissionDenied => {
                format!(
                    "its program `{name}` may not be started: let the gateway's user execute it (chmod +x)"
                )
            }
            _ => format!("its program `{name}` could not be started: try it by hand, as the gateway's user"),
        }
    }

    /// What it may use up: no more than it is given, nor than we may ourselves. What it starts before that has our own bounds; a
    /// shell that sets them first would be a program more to trust.
    fn bound(&self, id: Option<u32>) -> Result<(), String> {
        let pid = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { return Ok(()) };
        let memory = self.most_memory.map(|bytes| (Resource::As, bytes));
        for (resource, value) in
            [(Resource::Nofile, self.most_files), (Resource::Core, 0)].into_iter().chain(memory)
        {
            let most = Some(getrlimit(resource).maximum.map_or(value, |own| own.min(value)));
            match prlimit(Some(pid), resource, Rlimit { current: most, maximum: most }) {
                // It has ended already.
                Ok(_) | Err(Errno::SRCH) => {}
                Err(error) => {
                    tracing::warn!(?resource, %error, "an MCP server's process cannot be bounded");
                    return Err("it could not be bounded".to_owned());
                }
            }
        }
        Ok(())
    }
}

impl Address {
    /// A client of its own for each link: no connection is shared between two.
    ///
    /// A link without a session keeps its connections, and still nothing that is written once too often is taken for the answer
    /// to another request, which is what one exchange for each connection is for: an answer names its request, ids do not come
    /// twice on a link, and one that is to no open request is dropped. Then the request whose place it took has no answer and is
    /// in doubt, as is one that is answered by a bare status. In a session a bare 404 says more, that the session is over, with
    /// all that its server kept; it names no request, and must not be another's, so there every connection is for one exchange.
    /// A status that says that we are not let in ends the link, so that none is left of one request to be read as that of another.
    pub(super) fn client(
        &self,
        most_bytes: usize,
        has_session: bool,
    ) -> Result<(reqwest::Client, StreamableHttpClientTransportConfig), String> {
        let client = if has_session { self.way.client() } else { self.way.keeping_client() };
        let client = client.map_err(|error| error.to_string())?;
        let mut config = StreamableHttpClientTransportConfig::with_uri(self.url.as_str());
        config.max_sse_event_size = most_bytes;
        config.max_json_response_size = most_bytes;
        config.max_concurrent_requests = 64;
        // Nothing is sent twice behind our back: who has lost a session may have acted in it.
        config.reinit_on_expired_session = false;
        let bearer = |value: &HeaderValue| Some(value.to_str().ok()?.strip_prefix("Bearer ")?.to_owned());
        let mut headers = HashMap::new();
        for (name, value) in &self.headers {
            match (name == AUTHORIZATION).then(|| bearer(value)).flatten() {
                Some(token) => config.auth_header = Some(token),
                None => drop(headers.insert(name.clone(), value.clone())),
            }
        }
        config.custom_headers = headers;
        Ok((client, config))
    }
}

/// What it writes beside its answers, for operators who look: cut, without the secrets that it was given, and no more than so
/// many lines.
async fn log(server: String, stderr: impl AsyncRead + Unpin, secrets: Vec<Arc<Secret>>) {
    let mut lines = BufReader::new(stderr);
    let mut told = 0_u32;
    while let Some((mut line, is_cut)) = next_line(&mut lines).await {
        if told >= MOST_LINES {
            continue;
        }
        told += 1;
        for secret in &secrets {
            secret.strike_from(&mut line);
        }
        // What was cut may end with a part of a secret.
        let most = if is_cut { line.len().saturating_sub(MOST_BYTES) } else { line.len() };
        line.truncate(line.floor_char_boundary(most.min(LONGEST_LINE)));
        tracing::debug!(%server, line = %line.escape_debug(), "an MCP server wrote to its standard error");
    }
}

/// A whole line, however it comes; of a longer one no more than [`MOST_HELD`], and that it was cut.
async fn next_line(lines: &mut (impl AsyncBufRead + Unpin)) -> Option<(String, bool)> {
    let (mut line, mut is_over, mut is_cut) = (Vec::new(), false, false);
    while !is_over {
        let heard = lines.fill_buf().await.ok()?;
        if heard.is_empty() {
            break;
        }
        let end = heard.iter().position(|byte| *byte == b'\n');
        let part = &heard[..end.unwrap_or(heard.len())];
        let kept = part.len().min(MOST_HELD - line.len());
        line.extend_from_slice(&part[..kept]);
        is_cut |= kept < part.len();
        is_over = end.is_some();
        let used = end.map_or(heard.len(), |end| end + 1);
        lines.consume(used);
    }
    let text = || String::from_utf8_lossy(&line).trim_end().to_owned();
    (is_over || !line.is_empty()).then(|| (text(), is_cut))
}

/// So long a process may take to end by itself.
pub(super) const LEAVE: Duration = Duration::from_secs(1);
const LONGEST_LINE: usize = 2048;
/// As much of a line as has every secret whole that begins in what is shown.
const MOST_HELD: usize = LONGEST_LINE + MOST_BYTES;
const MOST_LINES: u32 = 1000;
