//! A database that is away, or does not answer: nobody waits for it for ever, and whoever asks again is told what became of it.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::bank::{Fault, Injection};
use testkit::postgres::End;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::house::{Said, VERSION, Voice, payment};
use crate::street::Street;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_recorded_is_answered_so_and_ends_right_under_its_key() {
    let Some(mut street) = Street::new().await else { return };
    let agent = street.house.agent();
    let agents = street.everywhere(&agent);
    let token = street.house.token("default").to_owned();
    let body = |key: &str| payment(key, "1.50", &token);
    let executed = async |number: usize, key: &str| -> Said {
        for _ in 0..200 {
            let said = agents[number % agents.len()].execute(key, &body(key)).await;
            if said.status != 503 && said.code() != "EP_IDEMPOTENCY_IN_FLIGHT" {
                return said;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("`{key}` is never answered");
    };
    let refused = async |number: usize, key: &str| {
        // The client waits for a minute, so that this is an answer.
        let said = agents[number].execute(key, &body(key)).await;
        assert_eq!((said.status, said.code()), (503, "EP_UNAVAILABLE"), "{}", said.text());
        assert!(said.headers.contains_key("retry-after"));
    };
    executed(0, "before").await;

    street.cluster.stop(End::Fast);
    for (number, agent) in agents.iter().enumerate() {
        refused(number, &format!("away-{number}")).await;
        // It says so by its next sign of life at the latest; the refusal may have come from a reader before that.
        not_ready(agent).await;
    }
    street.cluster.run().unwrap();
    for number in 0..agents.len() {
        let said = executed(number + 1, &format!("away-{number}")).await;
        assert_eq!(said.kind(), "executed", "{}", said.text());
    }

    // It is there and says nothing.
    let silent = Silent::from_now_on(&street);
    tokio::join!(refused(0, "hangs-0"), refused(1, "hangs-1"), refused(2, "hangs-2"));
    drop(silent);
    for number in 0..agents.len() {
        let said = executed(number + 1, &format!("hangs-{number}")).await;
        assert!(matches!(said.kind(), "executed" | "pending_settlement"), "{}", said.text());
    }
    let effects = street.house.bank.effects();
    assert!(effects.by_reference.values().chain(effects.by_key.values()).all(|count| *count == 1));
}

/// A caller that names a deadline hears by it that the database says nothing, on every way to act; what nobody has done by then is
/// not done later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_a_deadline_does_not_wait_for_a_database_that_says_nothing() {
    let Some(street) = Street::new().await else { return };
    let agent = street.house.agent();
    let token = street.house.token("default").to_owned();
    let body = |key: &str, ms: u64| json_with(payment(key, "1.50", &token), "deadline_ms", ms.into());
    for key in ["a", "b", "c", "d"] {
        let said = agent.execute(key, &body(key, 60_000)).await;
        assert_eq!(said.kind(), "executed", "{}", said.text());
    }
    let before = street.house.bank.effects().count;

    let silent = Silent::from_now_on(&street);
    // More than judge at once, so that some wait for their turn.
    let mut asked: JoinSet<Said> = JoinSet::new();
    for number in 0..200 {
        let (agent, key) = (agent.clone(), format!("k-{number}"));
        let body = body(&key, 1_500);
        asked.spawn(async move { agent.execute(&key, &body).await });
    }
    let executed = asked.join_all();
    let any = body("any", 1_500);
    let cycle = agent.post("/v1/sessions/any/cycles", &any);
    let run = agent.request("POST", "/v1/runs").header("ep-version", VERSION);
    let run = Said::of(run.header("idempotency-key", "run").json(&any));
    let other_words = in_other_words(&token);
    let submitted = agent.post("/v1/actions", &other_words);
    let all = async { tokio::join!(executed, cycle, run, submitted) };
    let (mut all_said, cycle, run, submitted) =
        tokio::time::timeout(SILENT, all).await.expect("somebody waits beyond the deadline");
    drop(silent);
    all_said.extend([cycle, run.unwrap(), submitted]);
    for said in all_said {
        assert_eq!((said.status, said.code()), (503, "EP_UNAVAILABLE"), "{}", said.text());
        assert!(said.headers.contains_key("retry-after"));
    }

    // Nothing of it was done, and nothing of it is when the database speaks again.
    for number in 0..20 {
        let key = format!("k-{number}");
        let said = until_told(&agent, &key, &body(&key, 60_000)).await;
        assert_eq!(said.kind(), "executed", "{}", said.text());
    }
    let effects = street.house.bank.effects();
    assert_eq!(effects.count, before + 20);
    assert!(effects.by_reference.values().chain(effects.by_key.values()).all(|count| *count == 1));
}

/// The same of what was sent by then: what came of it is told under its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_before_the_database_said_nothing_is_told_under_its_key() {
    let Some(street) = Street::new().await else { return };
    let agent = street.house.agent();
    let bank = &street.house.bank;
    bank.inject(Injection::payments(Fault::DelayAnswer { ms: 2_000 }, 1));
    let body = payment("p", "1.50", street.house.token("default"));
    let body = json_with(body, "deadline_ms", 4_000.into());
    let sent = async {
        while bank.effects().count == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Silent::from_now_on(&street)
    };
    let both = async { tokio::join!(agent.execute("k", &body), sent) };
    let (said, silent) = tokio::time::timeout(SILENT, both).await.expect("it waits beyond its deadline");
    assert_eq!((said.status, said.code()), (503, "EP_UNAVAILABLE"), "{}", said.text());
    assert!(said.headers.contains_key("retry-after"));
    // The same once more, before it is known what the first one did.
    let again = tokio::time::timeout(SILENT, agent.execute("k", &body)).await.expect("it waits, too");
    drop(silent);
    assert_eq!((again.status, again.code()), (503, "EP_UNAVAILABLE"), "{}", again.text());

    let said = until_told(&agent, "k", &body).await;
    assert!(matches!(said.kind(), "executed" | "pending_settlement"), "{}", said.text());
    assert_eq!(bank.effects().count, 1);
}

/// The same where the body takes its time, so that it has to be looked at once more whose request that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_body_takes_its_time_is_looked_at_again_within_the_deadline() {
    let Some(street) = Street::new().await else { return };
    let agent = street.house.agent();
    let token = street.house.token("default").to_owned();
    let body = |ms: u64| json_with(payment("k", "1.50", &token), "deadline_ms", ms.into());
    let said = agent.execute("before", &payment("before", "1.50", &token)).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    let before = street.house.bank.effects().count;

    let slow = Slow::begin(&agent, "k", body(1_500).to_string()).await;
    let silent = Silent::from_now_on(&street);
    let said = tokio::time::timeout(SILENT, slow.end()).await.expect("it waits beyond its deadline");
    assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
    assert!(said.contains("EP_UNAVAILABLE"), "{said}");
    // What is wrong with a request is for nobody who may not be known; and where its body is not read it names no deadline.
    let wrong = Slow::begin(&agent, &"k".repeat(1_000), body(1_500).to_string()).await;
    let said = tokio::time::timeout(SILENT, wrong.end()).await.expect("it waits for longer than a second");
    assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
    assert!(said.contains("EP_UNAVAILABLE"), "{said}");
    drop(silent);

    // Nor is it done later; and who is known still is heard however long their body takes.
    let said = until_told(&agent, "k", &body(60_000)).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    let slow = Slow::begin(&agent, "slow", payment("slow", "1.50", &token).to_string()).await;
    let said = slow.end().await;
    assert!(said.contains("\"executed\""), "{said}");
    assert_eq!(street.house.bank.effects().count, before + 2);
}

/// An action whose body comes in two parts, so that its caller is looked for again.
struct Slow {
    stream: TcpStream,
    rest: String,
}

impl Slow {
    async fn begin(agent: &Voice, key: &str, body: String) -> Slow {
        let at = agent.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(at).await.unwrap();
        let (length, bearer) = (body.len(), agent.key.as_deref().unwrap());
        let (first, rest) = body.split_at(length / 2);
        let head = format!(
            "POST /api/execute HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\nauthorization: Bearer {bearer}\r\n\
             ep-version: {VERSION}\r\nidempotency-key: {key}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{first}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        Slow { stream, rest: rest.to_owned() }
    }

    /// Sends the rest, and has the answer.
    async fn end(mut self) -> String {
        self.stream.write_all(self.rest.as_bytes()).await.unwrap();
        let mut said = String::new();
        self.stream.read_to_string(&mut said).await.unwrap();
        said
    }
}

/// So long the database says nothing, if anybody waits for it so long. Without a bound of its own a request waits for more than this.
pub(crate) const SILENT: Duration = Duration::from_secs(8);

async fn until_told(agent: &Voice, key: &str, body: &Value) -> Said {
    for _ in 0..300 {
        let said = agent.execute(key, body).await;
        if said.status != 503 && said.code() != "EP_IDEMPOTENCY_IN_FLIGHT" {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("`{key}` is never answered");
}

fn json_with(mut body: Value, member: &str, value: Value) -> Value {
    body[member] = value;
    body
}

/// A payment in the words of the Agent Transaction Protocol.
fn in_other_words(token: &str) -> Value {
    let deadline = jiff::Timestamp::now() + Duration::from_millis(1_500);
    json!({
        "atp_version": "1", "idempotency_key": "other-words", "delegation_token": token,
        "action": {"verb": "pay", "target": "p", "parameters": {"amount_usd": "1.50"}},
        "deadline": deadline.to_string(),
    })
}

async fn not_ready(gateway: &Voice) {
    for _ in 0..600 {
        if gateway.get("/readyz").await.status == 503 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("a gateway without its database stays ready");
}

/// A server that says nothing until this is dropped, with everybody who works for it.
pub(crate) struct Silent(Vec<String>);

impl Silent {
    pub(crate) fn from_now_on(street: &Street) -> Silent {
        let parent = std::fs::read_to_string(street.cluster.socket().join("data/postmaster.pid")).unwrap();
        let parent = parent.lines().next().unwrap();
        let mut ids = vec![parent.to_owned()];
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        ids.extend(children.split_whitespace().map(str::to_owned));
        let silent = Silent(ids);
        assert!(silent.signal("STOP"));
        silent
    }

    fn signal(&self, name: &str) -> bool {
        Command::new("kill").arg(format!("-{name}")).args(&self.0).status().unwrap().success()
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}
