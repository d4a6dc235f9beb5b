//! Rides, whose price only the provider knows: an archetype, and a provider over HTTP that takes as long as it is told.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use testkit::Swap;

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

/// A house whose rides are the sandbox's.
pub(crate) async fn house() -> House {
    offering(RIDE.to_owned(), |_| {}).await
}

/// The same, of a sandbox that does what it is told by where a ride goes.
pub(crate) async fn heeding() -> House {
    let told = "provider = \"sandbox\"\noptions = { triggers = true }\n";
    offering(RIDE.swapped("provider = \"sandbox\"\n", told), |_| {}).await
}

pub(crate) fn ride(house: &House, to: &str) -> Value {
    json!({ "archetype": "RIDE", "constraints": { "to": to }, "delegation_token": house.token })
}

async fn offering(archetype: String, change: impl FnOnce(&mut countersign_gateway::Config)) -> House {
    House::with(|config| {
        let folder = config.catalogue_dir.as_ref().unwrap().join("default");
        std::fs::write(folder.join("ride.toml"), archetype).unwrap();
        change(config);
    })
    .await
}

/// Which of its two answers a provider gives only when it is let.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slow {
    Nothing,
    Price,
    Ride,
}

/// A provider of rides over HTTP. It charges the price of the moment.
pub(crate) struct Rides {
    port: u16,
    state: Arc<State>,
    asked: mpsc::UnboundedReceiver<()>,
}

struct State {
    slow: Slow,
    price: Mutex<&'static str>,
    /// Prices asked for, and rides ordered.
    asked: Mutex<(u32, u32)>,
    may_answer: Semaphore,
    told: mpsc::UnboundedSender<()>,
}

impl Rides {
    pub(crate) async fn start(slow: Slow) -> Rides {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, asked) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            slow,
            price: Mutex::new("10.00"),
            asked: Mutex::default(),
            may_answer: Semaphore::new(0),
            told,
        });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, Arc::clone(&serving)));
            }
        });
        Rides { port, state, asked }
    }

    /// A house that orders rides here, with these lines at the top of the archetype's file.
    pub(crate) async fn house(&self, in_flight: usize, lines: &str) -> House {
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
charged = {{ amount = "/charged" }}

[binding.quote]
path = "/price"
success = {{ status = [200] }}
price = {{ amount = "/price" }}
"#
        );
        let archetype = RIDE.swapped("[binding]\nprovider = \"sandbox\"\n", &binding);
        offering(format!("{lines}{archetype}"), |config| {
            config.egress.allow = vec![address.clone()];
            config.egress.plain_http = vec![address];
            config.limits.in_flight = in_flight;
        })
        .await
    }

    /// Waits until it was asked what it is slow to answer.
    pub(crate) async fn is_asked(&mut self) {
        self.asked.recv().await.unwrap();
    }

    pub(crate) fn let_answer(&self) {
        self.state.may_answer.add_permits(1);
    }

    pub(crate) fn costs(&self, price: &'static str) {
        *self.state.price.lock().unwrap() = price;
    }

    /// How many prices it was asked for, and how many rides were ordered.
    pub(crate) fn count(&self) -> (u32, u32) {
        *self.state.asked.lock().unwrap()
    }
}

async fn talk(mut stream: TcpStream, state: Arc<State>) {
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let price_only = buffer[..count].starts_with(b"GET");
        {
            let mut asked = state.asked.lock().unwrap();
            if price_only { asked.0 += 1 } else { asked.1 += 1 }
        }
        if state.slow == if price_only { Slow::Price } else { Slow::Ride } {
            state.told.send(()).unwrap();
            state.may_answer.acquire().await.unwrap().forget();
        }
        let price = *state.price.lock().unwrap();
        let body =
            if price_only { json!({ "price": price }) } else { json!({ "id": "r-1", "charged": price }) };
        let body = body.to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
        let reply = format!("{head} {}\r\n\r\n{body}", body.len());
        stream.write_all(reply.as_bytes()).await.unwrap();
    }
}
