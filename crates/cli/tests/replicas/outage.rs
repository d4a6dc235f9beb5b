//! A database that is away, or does not answer: nobody waits for it for ever, and whoever asks again is told what became of it.

use std::process::Command;

use testkit::postgres::End;

use crate::house::{Said, Voice, payment};
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
    all_of_it(&street, "STOP");
    tokio::join!(refused(0, "hangs-0"), refused(1, "hangs-1"), refused(2, "hangs-2"));
    all_of_it(&street, "CONT");
    for number in 0..agents.len() {
        let said = executed(number + 1, &format!("hangs-{number}")).await;
        assert!(matches!(said.kind(), "executed" | "pending_settlement"), "{}", said.text());
    }
    let effects = street.house.bank.effects();
    assert!(effects.by_reference.values().chain(effects.by_key.values()).all(|count| *count == 1));
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

/// A signal to the server and everybody who works for it.
fn all_of_it(street: &Street, signal: &str) {
    let parent = std::fs::read_to_string(street.cluster.socket().join("data/postmaster.pid")).unwrap();
    let parent = parent.lines().next().unwrap();
    let mut ids = vec![parent.to_owned()];
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    ids.extend(children.split_whitespace().map(str::to_owned));
    for id in ids {
        let sent = Command::new("kill").args([format!("-{signal}"), id]).status().unwrap();
        assert!(sent.success());
    }
}
