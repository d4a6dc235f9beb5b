//! Actions whose price only the provider knows.

use serde_json::{Value, json};

use crate::house::House;

/// No bound: the caller says nothing about money. The sandbox's price is 100 units of the currency.
const RIDE: &str = r#"
name = "RIDE"
description = "Order a ride"
reversible = true
guarantee_level = "atp-1"
default_payment_mode = "IMMEDIATE_CHARGE"
resource = "/to"
destination = "/to"
identity = ["/to"]

[cedar]
groups = ["Payments"]
resource_type = "Place"

[money]
quote = true
currency = "USD"

[anomaly]
hour_sum = "250.00"

[schema]
required = ["to"]

[schema.properties.to]
description = "Where to"
type = "string"
examples = ["station"]
x-identifier = true
x-display = true

[binding]
provider = "sandbox"
"#;

async fn house() -> House {
    House::with(|config| {
        let folder = config.catalogue_dir.as_ref().unwrap().join("default");
        std::fs::write(folder.join("ride.toml"), RIDE).unwrap();
    })
    .await
}

fn ride(house: &House, to: &str) -> Value {
    json!({ "archetype": "RIDE", "constraints": { "to": to }, "delegation_token": house.token })
}

#[tokio::test]
async fn a_price_is_held_against_the_past_of_its_currency() {
    let house = house().await;
    for place in ["station", "harbour"] {
        let said = house.said(place, &ride(&house, place)).await;
        assert_eq!(said.kind(), "executed", "{}", said.body);
        assert_eq!(said.body["details"]["amount"], "100.00");
    }
    let third = house.said("airport", &ride(&house, "airport")).await;
    assert_eq!((third.kind(), third.code()), ("blocked", "EP_ANOMALY_BLOCK"), "{}", third.body);
}

/// A provider over HTTP that names its price only when it is let.
struct SlowToPrice {
    port: u16,
    asked: tokio::sync::mpsc::UnboundedReceiver<()>,
    may_answer: std::sync::Arc<tokio::sync::Semaphore>,
}

impl SlowToPrice {
    async fn start() -> SlowToPrice {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let may_answer = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
        let (told, asked) = tokio::sync::mpsc::unbounded_channel();
        let gate = may_answer.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(SlowToPrice::talk(stream, told.clone(), gate.clone()));
            }
        });
        SlowToPrice { port, asked, may_answer }
    }

    async fn talk(
        mut stream: tokio::net::TcpStream,
        told: tokio::sync::mpsc::UnboundedSender<()>,
        gate: std::sync::Arc<tokio::sync::Semaphore>,
    ) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut buffer = vec![0; 65536];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            let body = if buffer[..count].starts_with(b"GET") {
                told.send(()).unwrap();
                gate.acquire().await.unwrap().forget();
                r#"{"price":"10.00"}"#
            } else {
                r#"{"id":"r-1"}"#
            };
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
            let reply = format!("{head} {}\r\n\r\n{body}", body.len());
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    }

    /// A house that orders rides from it.
    async fn house(&self, in_flight: usize) -> House {
        let address = format!("127.0.0.1:{}", self.port);
        let binding = format!(
            r#"[binding]
provider = "http"
base = "http://{address}/v1"
timeout_ms = 60000

[binding.act]
path = "/ride"
body = {{ to = {{ "$value" = "/to" }} }}
success = {{ status = [200] }}
reference = "/id"

[binding.quote]
path = "/price"
success = {{ status = [200] }}
price = {{ amount = "/price" }}
"#
        );
        let archetype = RIDE.replace("[binding]\nprovider = \"sandbox\"\n", &binding);
        House::with(|config| {
            let folder = config.catalogue_dir.as_ref().unwrap().join("default");
            std::fs::write(folder.join("ride.toml"), archetype).unwrap();
            config.egress.allow = vec![address.clone()];
            config.egress.plain_http = vec![address];
            config.limits.in_flight = in_flight;
        })
        .await
    }
}

#[tokio::test]
async fn a_mandate_that_ends_while_the_price_is_asked_for_carries_nothing() {
    let mut provider = SlowToPrice::start().await;
    let house = provider.house(100).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = house.mandate_until("500.00", i64::try_from(now).unwrap() + 2).await;
    let body = json!({ "archetype": "RIDE", "constraints": { "to": "late" }, "delegation_token": token });
    let asking = house.said("late", &body);
    let waiting = async {
        provider.asked.recv().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        provider.may_answer.add_permits(1);
    };
    let (said, ()) = tokio::join!(asking, waiting);
    assert_eq!((said.kind(), said.code()), ("blocked", "EP_DELEGATION_BLOCK"), "{}", said.body);
}

#[tokio::test]
async fn a_price_that_is_asked_for_takes_a_place_though_nobody_waits_for_it() {
    let mut provider = SlowToPrice::start().await;
    let house = provider.house(1).await;
    let body = ride(&house, "station");
    {
        let first = house.said("first", &body);
        tokio::pin!(first);
        tokio::select! {
            said = &mut first => panic!("it was answered without a price: {said:?}"),
            asked = provider.asked.recv() => asked.unwrap(),
        }
        // Whoever asked hangs up here.
    }
    let error = house.send("second", &ride(&house, "harbour")).await.unwrap_err();
    assert_eq!(error.code, countersign_gateway::Code::Unavailable);
    provider.may_answer.add_permits(1);
    assert_eq!(house.until_answered("first", &body).await.kind(), "executed");
}
