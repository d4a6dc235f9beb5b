//! JSONTestSuite's bodies, sent to the running server: alone, and in the place of an action's constraints.

use std::fs;
use std::path::{Path, PathBuf};

use crate::house::{House, Said, Voice};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_body_however_broken_does_harm() {
    let Some(bodies) = bodies() else {
        testkit::skip("no ../shared/vectors/jsontestsuite");
        return;
    };
    assert!(bodies.len() > 300, "the whole suite: {}", bodies.len());
    let house = House::new().await;
    let mut wrong = Vec::new();
    for (n, (name, bytes)) in bodies.iter().enumerate() {
        let embedded = [&br#"{"archetype":"PAYMENT_TRANSFER","constraints":"#[..], bytes, b"}"].concat();
        for (place, body) in [("alone", bytes), ("embedded", &embedded)] {
            for sandbox in [false, true] {
                let said = send(&house.agent(), sandbox, &format!("{n}-{place}"), body.clone()).await;
                let refused = (400..500).contains(&said.status);
                let right = if name.starts_with("n_") { refused } else { said.status < 500 };
                let place = if sandbox { format!("{place}, sandbox") } else { place.to_owned() };
                if !right {
                    wrong.push(format!("{name} ({place}): {} {}", said.status, said.text()));
                }
                if said.body.is_null() {
                    wrong.push(format!("{name} ({place}): the answer is no JSON: {}", said.text()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(house.nobody().get("/readyz").await.status, 200, "alive afterwards");
    let said = house.agent().execute("afterwards", &house.payment("acct-1", "1.00")).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    assert_eq!(house.bank.effects().count, 1, "none of them moved money");
}

async fn send(agent: &Voice, sandbox: bool, key: &str, body: Vec<u8>) -> Said {
    let request = match sandbox {
        true => agent.request("POST", "/api/sandbox/execute").header("content-type", "application/json"),
        false => agent.ask(key),
    };
    Said::of(request.body(body)).await.unwrap()
}

fn bodies() -> Option<Vec<(String, Vec<u8>)>> {
    let folder: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/jsontestsuite/test_parsing");
    let mut bodies: Vec<_> = fs::read_dir(folder)
        .ok()?
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    bodies.sort();
    Some(bodies)
}
