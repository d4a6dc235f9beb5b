//! Tricks with text and with addresses, played through the whole program.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use testkit::bank::{Fault, Injection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::house::{House, Plan};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_shows_as_other_text_is_refused_and_never_altered() {
    let house = House::new().await;
    let agent = house.agent();
    let tricks = [
        ("recipient", "acct\u{202e}4711"),
        ("recipient", "acct\u{200b}4711"),
        ("recipient", "acct-4711\u{feff}"),
        ("recipient", "\u{0430}cct-4711"),
        ("recipient", "acct-\u{ff14}711"),
        ("recipient", "acct\n4711"),
        ("recipient", " acct-4711"),
        ("note", "Cafe\u{301}"),
        ("note", "paid\u{2066}in full"),
        ("note", "line\u{0}"),
        ("amount_usd", "1\u{ff0e}00"),
        ("amount_usd", "\u{0661}.00"),
        ("amount_usd", "1.000"),
        ("amount_usd", "-1.00"),
        ("amount_usd", "1e2"),
        ("amount_usd", "0"),
        ("max_total_usd", "1,00"),
    ];
    for (n, (member, value)) in tricks.into_iter().enumerate() {
        let mut body = house.payment("acct-4711", "1.00");
        body["constraints"][member] = json!(value);
        let said = agent.execute(&format!("k{n}"), &body).await;
        assert_eq!(
            (said.status, said.code()),
            (422, "EP_VALIDATION_FAILED"),
            "{member} {value:?}: {}",
            said.text()
        );
        let sandboxed = json!({"archetype": body["archetype"], "constraints": body["constraints"]});
        let said = agent.post("/api/sandbox/execute", &sandboxed).await;
        let field = &said.body["error"]["field"];
        assert_eq!(field, &format!("/constraints/{member}"), "{}", said.text());
    }
    let mut body = house.payment("acct-4711", "1.5");
    body["constraints"]["note"] = json!("Caf\u{e9}, f\u{fc}r Zo\u{eb}");
    let said = agent.execute("good", &body).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    let record = agent.get(&format!("/v1/actions/{}", said.id())).await.body;
    assert_eq!(record["action"]["parameters"], body["constraints"], "as received");
    assert_eq!(house.bank.balance("acct-4711"), Some(150));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_made_to_where_the_operator_did_not_allow_it() {
    let (port, met) = listener().await;
    let own = free_port().await;
    let places = [
        ("NAMED", format!("https://localhost:{port}")),
        ("OURSELVES", format!("http://127.0.0.1:{own}")),
        ("OURSELVES_NAMED", format!("http://localhost:{own}")),
    ];
    let catalogue = places.iter().map(|(name, base)| (file_of(name), call_out(name, base)));
    let plan = Plan {
        catalogue: catalogue.collect(),
        // Even where the operator allows our own address by mistake, nothing is sent to ourselves.
        reach: vec![format!("127.0.0.1:{own}"), format!("localhost:{own}")],
        listen: Some(SocketAddr::from(([127, 0, 0, 1], own))),
        ..Plan::default()
    };
    let house = House::with(plan).await;
    let agent = house.agent();
    for (name, base) in &places {
        let body = json!({
            "archetype": name, "delegation_token": house.token("default"),
            "constraints": {"recipient": "acct-1", "amount_usd": "1.00", "max_total_usd": "1.00"},
        });
        let said = agent.execute(name, &body).await;
        assert_eq!(
            (said.status, said.kind(), said.code()),
            (502, "failed", "EP_PROVIDER_FAILED"),
            "{base}: {}",
            said.text()
        );
        assert!(!said.text().contains("127.0.0.1") && !said.text().contains("localhost"), "{}", said.text());
        let receipt = agent.get(&format!("/v1/receipts/{}", said.body["receipt_id"].as_str().unwrap())).await;
        assert_eq!(receipt.body["entries"].as_array().unwrap().len(), 9);
    }
    // An address that needs no looking up is refused before anything could be sent there.
    for base in [
        format!("https://127.0.0.1:{port}"),
        format!("https://[::ffff:127.0.0.1]:{port}"),
        format!("https://[::1]:{port}"),
        format!("https://0.0.0.0:{port}"),
        format!("https://2130706433:{port}"),
        format!("https://0x7f.1:{port}"),
        "https://169.254.169.254".to_owned(),
        "https://10.0.0.1".to_owned(),
        "http://bank.example".to_owned(),
    ] {
        let file = house.path().join("catalogue/default/new.toml");
        std::fs::write(&file, call_out("NEW", &base)).unwrap();
        let said = house.admin().post("/v1/reload", &json!({})).await;
        assert_eq!((said.status, said.code()), (422, "EP_VALIDATION_FAILED"), "{base}: {}", said.text());
        assert!(said.text().contains("NEW"), "{base}: {}", said.text());
        std::fs::remove_file(&file).unwrap();
    }
    let still = agent.execute("still", &house.payment("acct-1", "1.00")).await;
    assert_eq!(still.kind(), "executed", "a refused reload changed nothing: {}", still.text());
    assert_eq!(met.load(Ordering::SeqCst), 0, "nobody knocked");
    let spent = &house.admin().get("/v1/mandates").await.body["items"][0]["spent"]["amount"];
    assert_eq!(spent, "1.00", "what did not happen costs nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_not_followed() {
    let plan = Plan { config: "[limits]\nrecovery_interval_ms = 50\n".into(), ..Plan::default() };
    let house = House::with(plan).await;
    let (port, met) = listener().await;
    for (n, location) in
        ["/v1/payments".to_owned(), format!("http://127.0.0.1:{port}/")].into_iter().enumerate()
    {
        house.bank.inject(Injection::payments(Fault::Redirect { location }, 1));
        let body = house.payment(&format!("acct-{n}"), "1.00");
        let key = format!("k{n}");
        let mut said = house.agent().execute(&key, &body).await;
        assert_eq!(
            said.kind(),
            "pending_settlement",
            "a status nobody declared tells nothing: {}",
            said.text()
        );
        for _ in 0..120 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            said = house.agent().execute(&key, &body).await;
            if said.kind() != "pending_settlement" {
                break;
            }
        }
        assert_eq!((said.kind(), said.code()), ("failed", "EP_PROVIDER_FAILED"), "{}", said.text());
    }
    assert_eq!((house.bank.effects().count, met.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_takes_more_than_it_was_asked_for_ends_the_mandate() {
    let base = says(r#"{"payment_id":"p-1","amount":"5.00","currency":"USD"}"#).await;
    let charged =
        "reference = \"/payment_id\"\ncharged = { amount = \"/amount\", currency = \"/currency\" }\ncode";
    let greedy =
        call_out("GREEDY", &format!("http://{base}")).replace("reference = \"/payment_id\"\ncode", charged);
    assert!(greedy.contains("charged"));
    let house =
        House::with(Plan { catalogue: vec![("greedy.toml", greedy)], reach: vec![base], ..Plan::default() })
            .await;
    let mut body = house.payment("acct-1", "1.00");
    body["archetype"] = json!("GREEDY");
    let said = house.agent().execute("k1", &body).await;
    assert_eq!(
        (said.kind(), &said.body["details"]["amount"]),
        ("executed", &json!("5.00")),
        "{}",
        said.text()
    );
    let spent = &house.admin().get("/v1/mandates").await.body["items"][0]["spent"]["amount"];
    assert_eq!(spent, "5.00", "what was really charged");
    let next = house.agent().execute("k2", &house.payment("acct-2", "1.00")).await;
    assert_eq!((next.status, next.code()), (403, "EP_DELEGATION_BLOCK"), "{}", next.text());
    assert_eq!(house.bank.effects().count, 0);
}

/// A provider that says the same to everybody, once each connection.
async fn says(body: &'static str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 8192]).await;
            let head = "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// A port that counts who knocks.
async fn listener() -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let met = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&met);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, met)
}

async fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
}

fn file_of(name: &str) -> &'static str {
    Box::leak(format!("{}.toml", name.to_lowercase()).into_boxed_str())
}

/// An archetype that calls one address.
pub(crate) fn call_out(name: &str, base: &str) -> String {
    include_str!("call_out.toml")
        .replace("\"NAME\"", &format!("\"{name}\""))
        .replace("\"BASE\"", &format!("\"{base}\""))
}
