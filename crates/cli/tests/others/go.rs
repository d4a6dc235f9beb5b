//! The transparency log in Go: its notes, tiles and proofs by the libraries of Go's checksum database.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::gateway::Gateway;
use testkit::skip;

/// Where Debian has Go's libraries.
const LIBRARIES: &str = "/usr/share/gocode";

#[test]
fn the_log_is_read_by_the_libraries_of_gos_checksum_database() {
    let Some(go) = Go::find() else { return };
    let gateway = Gateway::start();
    let logged = |least: usize| {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let note = gateway.http.get(format!("{}/sandbox/log/checkpoint", gateway.url));
            let note = note.bearer_auth(gateway.admin_key()).send().unwrap();
            let found = note.status().is_success().then(|| note.text().unwrap());
            let size = found.as_deref().and_then(|note| note.lines().nth(1)?.parse().ok()).unwrap_or(0_usize);
            if let (true, Some(note)) = (size >= least, found) {
                return note;
            }
            assert!(Instant::now() < until, "{size} of {least} entries are logged");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let pay = |number: usize| {
        let constraints = json!({
            "recipient": format!("acct-{number}"), "amount_usd": "1.00", "max_total_usd": "1.00",
        });
        let body = json!({"archetype": "PAYMENT_TRANSFER", "constraints": constraints});
        let said = gateway.post(gateway.agent_key(), "/api/sandbox/execute", &body);
        assert_eq!(said["kind"], "executed", "{said}");
    };
    pay(0);
    let earlier = logged(2);
    // More than one tile has.
    (1..150).for_each(pay);
    logged(300);
    let key = gateway.read(gateway.admin_key(), "/sandbox/v1/log")["key"].as_str().unwrap().to_owned();
    let read = |earlier: &str, key: &str| go.read(&gateway, key, earlier);

    let said = read(&earlier, &key);
    let size: usize = earlier.lines().nth(1).unwrap().parse().unwrap();
    assert!(said.ends_with(&format!("entries, {size} of them earlier\n")), "{said}");

    let forged = earlier.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size + 1), 1);
    assert!(read(&forged, &key).contains("refused: invalid signature"));
    let another = Gateway::start();
    let another = another.read(another.admin_key(), "/sandbox/v1/log")["key"].as_str().unwrap().to_owned();
    assert!(read(&earlier, &another).contains("refused: note has no verifiable signatures"));
}

/// Go, with its libraries.
struct Go(tempfile::TempDir);

impl Go {
    fn find() -> Option<Go> {
        let go = Go(tempfile::tempdir().unwrap());
        std::fs::write(go.0.path().join("log.go"), include_str!("log.go")).unwrap();
        let built = go.command("go").args(["build", "log.go"]).output();
        if built.as_ref().is_ok_and(|built| built.status.success()) {
            return Some(go);
        }
        skip(&format!("Go, or golang.org/x/mod below {LIBRARIES}: {built:?}"));
        None
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).env("GO111MODULE", "off").env("GOPATH", LIBRARIES);
        command.env("GOCACHE", self.0.path().join("cache")).env("GOFLAGS", "");
        command
    }

    /// What it says of a gateway's log.
    fn read(&self, gateway: &Gateway, key: &str, earlier: &str) -> String {
        let program = self.0.path().join("log");
        let mut command = self.command(program.to_str().unwrap());
        command.args([&format!("{}/sandbox/log", gateway.url), key]).env("KEY", gateway.admin_key());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(earlier.as_bytes()).unwrap();
        let Output { stdout, .. } = child.wait_with_output().unwrap();
        String::from_utf8(stdout).unwrap()
    }
}
