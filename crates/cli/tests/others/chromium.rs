//! Chromium without a window, spoken to in the DevTools protocol over a pair of pipes: JSON, each message ended by a
//! zero byte. No port is opened and no client library is needed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use testkit::skip;

/// A browser with one open tab.
pub(crate) struct Chromium {
    child: Child,
    orders: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    sent: u64,
    events: Vec<Value>,
    _profile: TempDir,
}

impl Chromium {
    pub(crate) fn start() -> Option<Chromium> {
        if Command::new("chromium").arg("--version").output().is_err() {
            skip("no chromium");
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        // It reads orders from descriptor 3 and writes to 4; only a shell can put our pipes there without unsafe code.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec chromium "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#, "sh"]);
        command.args(FLAGS).arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let messages = received(BufReader::new(child.stdout.take().unwrap()));
        let mut browser = Chromium {
            child,
            orders,
            messages,
            session: None,
            sent: 0,
            events: Vec::new(),
            _profile: profile,
        };
        let targets = browser.call("Target.getTargets", json!({}))["targetInfos"].take();
        let page = targets.as_array().unwrap().iter().find(|target| target["type"] == "page").unwrap();
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        browser.session =
            browser.call("Target.attachToTarget", attach)["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Log", "Runtime"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Does what a method of the protocol does; its result.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.orders.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut message = self.next();
            if message["id"] != self.sent {
                self.events.push(message);
            } else if message["error"].is_null() {
                return message["result"].take();
            } else {
                panic!("{method}: {}", message["error"]);
            }
        }
    }

    /// Opens a page, waits until it and all it names are loaded.
    pub(crate) fn open(&mut self, url: &str) {
        self.events.clear();
        let opened = self.call("Page.navigate", json!({"url": url}));
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.next();
            self.events.push(event);
        }
    }

    /// Does what leads to another page, and waits until that is loaded.
    pub(crate) fn follow(&mut self, expression: &str) {
        self.events.clear();
        self.value(expression);
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.next();
            self.events.push(event);
        }
    }

    /// A picture of the whole page, for whoever set `COUNTERSIGN_TEST_PICTURES` to a folder.
    pub(crate) fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("COUNTERSIGN_TEST_PICTURES") else { return };
        let picture = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
        let bytes = BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), bytes).unwrap();
    }

    /// The value of an expression in the page; a promise is waited for.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let ask = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", ask);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].take()
    }

    /// What a reader could not read on the page: texts of too little contrast.
    pub(crate) fn poor(&mut self) -> Value {
        self.found(include_str!("contrast.js"))
    }

    /// What a person who cannot see the page, or cannot use a mouse, would miss on it.
    pub(crate) fn missing(&mut self) -> Value {
        self.found(include_str!("accessible.js"))
    }

    fn found(&mut self, check: &str) -> Value {
        self.value(&format!("(() => {{\n{}{check}}})()", include_str!("light.js")))
    }

    /// What the page's own rules refuse while a script does this in it; so many refusals are waited for.
    pub(crate) fn refused(&mut self, deed: &str, count: usize) -> Value {
        self.value(&format!(
            "(async () => {{
                const refused = [];
                const all = new Promise((done) => {{
                    document.addEventListener('securitypolicyviolation', (event) => {{
                        if (refused.push(event.effectiveDirective) === {count}) done();
                    }});
                    setTimeout(done, {});
                }});
                {deed}
                await all;
                return refused.sort();
            }})()",
            PATIENCE.as_millis() / 2,
        ))
    }

    /// Asks until an expression in the page is true.
    pub(crate) fn wait_for(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.value(expression) != true {
            assert!(Instant::now() < deadline, "never true: {expression}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What happened in the page since it was opened, under the name of an event.
    pub(crate) fn events(&self, method: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["method"] == method).map(|event| &event["params"]).collect()
    }

    fn next(&mut self) -> Value {
        self.messages.recv_timeout(PATIENCE).expect("chromium says nothing")
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // When its pipe closes Chromium ends with all its processes; it is not left to its own pace, though.
        let _ = self.orders.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Messages as they come, read by a thread of its own so that waiting for one can end.
fn received(mut pipe: impl BufRead + Send + 'static) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut message = Vec::new();
        while pipe.read_until(0, &mut message).is_ok_and(|read| read > 0) {
            message.pop();
            let Ok(parsed) = serde_json::from_slice(&message) else { break };
            if sender.send(parsed).is_err() {
                break;
            }
            message.clear();
        }
    });
    receiver
}

const FLAGS: [&str; 10] = [
    "--headless",
    // Tests may run as root, where Chromium has no sandbox to offer.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
];

const PATIENCE: Duration = Duration::from_secs(20);
