//! Bindings that set money aside: what they send, how answers are read, and what such a binding must say.

use execution::{Call, Purpose, Reply, Reservation};
use provider::Reserves;

use crate::common::{NOW_MS, archetype, call, compile, mistakes, moneyless, no_secrets, open_to, to};

fn binding(base: &str) -> String {
    format!(
        r#"
[binding]
provider = "http"
base = "{base}"
timeout_ms = 2000
[binding.capabilities]
idempotent = {{ retention_seconds = 86400 }}
queryable = {{ by_our_reference = true, final_after_seconds = 30 }}
[binding.act]
path = "/payments"
headers = {{ Key = {{ "$action" = "provider_key" }} }}
body = {{ reference = {{ "$action" = "reference" }} }}
success = {{ status = [201] }}
[binding.query]
path = "/payments"
params = {{ reference = {{ "$action" = "reference" }} }}
found = {{ status = [200], pointer = "/payments/0" }}
absent = {{ status = [200], pointer = "/payments/0", exists = false }}
{RESERVE}{CAPTURE}{RELEASE}"#
    )
}

const RESERVE: &str = r#"
[binding.reserve]
path = "/holds"
headers = { Key = { "$action" = "provider_key" } }
body = { amount = { "$money" = "amount" }, reference = { "$action" = "reference" } }
success = { status = [201] }
reference = "/id"
expires = "/until"
[binding.reserve.query]
path = "/holds"
params = { reference = { "$action" = "reference" } }
found = { status = [200], pointer = "/holds/0" }
absent = { status = [200], pointer = "/holds/0", exists = false }
reference = "/holds/0/id"
expires = "/holds/0/until"
"#;

const CAPTURE: &str = r#"
[binding.capture]
path = ["holds", { "$action" = "provider_reference" }, "capture"]
headers = { Key = { "$action" = "provider_key" } }
body = { amount = { "$money" = "amount" }, reference = { "$action" = "reference" } }
success = { status = [201] }
[binding.capture.query]
path = ["holds", { "$action" = "provider_reference" }]
found = { status = [200], pointer = "/status", equals = ["captured"] }
absent = { status = [200], pointer = "/status", equals = ["held"] }
"#;

const RELEASE: &str = r#"
[binding.release]
path = ["holds", { "$action" = "provider_reference" }, "release"]
headers = { Key = { "$action" = "provider_key" } }
success = { status = [200] }
refused = [{ status = [409] }]
gone = [{ status = [404, 410] }]
"#;

const OF: Reservation = Reservation { money: None, until_ms: NOW_MS + 60_000 };

fn purposes() -> [Purpose; 2] {
    let reservation = Some("h-1".to_owned());
    [Purpose::Capture { reservation: reservation.clone(), of: OF }, Purpose::Release { reservation, of: OF }]
}

#[tokio::test]
async fn each_purpose_has_a_request_and_an_answer_of_its_own() {
    let [capture, release] = purposes();
    for (purpose, status, body, request, expected) in [
        (
            Purpose::Reserve,
            201,
            r#"{"id":"h-1","until":1760000100}"#,
            "POST /holds ",
            Some(1_760_000_100_000),
        ),
        (
            Purpose::Reserve,
            201,
            r#"{"id":"h-1","until":"2025-10-09T09:00:00+00:00"}"#,
            "POST /holds ",
            Some(1_760_000_400_000),
        ),
        (capture, 201, "{}", "POST /holds/h-1/capture ", None),
        (release.clone(), 200, "{}", "POST /holds/h-1/release ", None),
        (release, 410, "{}", "POST /holds/h-1/release ", None),
    ] {
        let (reply, heard) = answered(purpose.clone(), status, body).await;
        assert!(heard.starts_with(request), "{heard}");
        let Reply::Confirmed(it) = reply else { panic!("{purpose:?}: {reply:?}") };
        assert_eq!(it.expires_ms, expected, "{purpose:?}");
    }
}

#[tokio::test]
async fn an_answer_without_its_promised_end_is_none_to_rely_on() {
    let (reply, _) = answered(Purpose::Reserve, 201, r#"{"id":"h-1","until":"soon"}"#).await;
    assert!(matches!(reply, Reply::Lost { .. }), "{reply:?}");
    let [_, release] = purposes();
    let (reply, _) = answered(release, 409, "{}").await;
    assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
}

/// What the provider makes of this one answer, and the head of what it sent.
async fn answered(purpose: Purpose, status: u16, body: &str) -> (Reply, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap().to_string();
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = vec![0; 4096];
        let count = stream.read(&mut heard).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&heard[..count]).into_owned()
    });
    let text = binding(&format!("http://{place}"));
    let archetype = archetype(&text);
    let egress = open_to(&[place]);
    let secrets = no_secrets();
    let provider =
        provider::compile(&archetype, provider::Outside { egress: &egress, secrets: &secrets }).unwrap();
    let call = Call { purpose, ..call(&archetype, to("acct-1")) };
    let reply = provider.call(&call, NOW_MS).await;
    (reply, server.await.unwrap())
}

#[test]
fn a_binding_that_reserves_says_all_that_is_needed() {
    let whole = binding("https://bank.example");
    let provider = compile(&whole, &open_to(&[])).unwrap();
    assert_eq!(provider.reserves(), Some(Reserves { hold: None }));
    let without = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        mistakes(&whole.replace(from, to)).into_iter().map(|it| it.to_string()).collect::<String>()
    };
    for (from, to, expected) in [
        (RELEASE, "", "no `release`"),
        (CAPTURE, "", "no `capture`"),
        (RESERVE, "", "no `reserve`"),
        ("expires = \"/until\"\n", "", "when the reservation ends"),
        ("expires = \"/holds/0/until\"\n", "", "when the reservation ends"),
        ("reference = \"/id\"\n", "", "need the provider's reference"),
        (
            "path = [\"holds\", { \"$action\" = \"provider_reference\" }]\n",
            "path = \"/holds\"\n",
            "does not ask",
        ),
        (
            "\"release\"]\nheaders = { Key = { \"$action\" = \"provider_key\" } }\n",
            "\"release\"]\n",
            "recognised",
        ),
        (
            "\"capture\"]\nheaders = { Key = { \"$action\" = \"provider_key\" } }\n",
            "\"capture\"]\n",
            "sent the provider key",
        ),
        (
            "path = \"/holds\"\nheaders",
            "path = [{ \"$action\" = \"provider_reference\" }]\nheaders",
            "provider's reference only",
        ),
    ] {
        let said = without(from, to);
        assert!(said.contains(expected), "without {from:?}: {said}");
    }
    let fixed = whole.replace("expires = \"/until\"\n", "hold_seconds = 600\n");
    let hold = compile(&fixed, &open_to(&[])).unwrap().reserves().unwrap().hold;
    assert_eq!(hold, Some(std::time::Duration::from_secs(600)));
}

#[test]
fn what_moves_no_money_reserves_none() {
    let text = binding("https://bank.example").replace("amount = { \"$money\" = \"amount\" }, ", "");
    let archetype = moneyless(&text);
    let (egress, secrets) = (open_to(&[]), no_secrets());
    let outside = provider::Outside { egress: &egress, secrets: &secrets };
    let mistakes = provider::compile(&archetype, outside).unwrap_err();
    assert!(mistakes.iter().any(|it| it.to_string().contains("moves no money")), "{mistakes:?}");
}

#[test]
fn who_is_asked_after_reservations_is_part_of_the_identity_only_where_there_are_some() {
    let whole = binding("https://bank.example");
    let identity = |text: &str| compile(text, &open_to(&[])).unwrap().identity().to_owned();
    let plain = whole.replace(RESERVE, "").replace(CAPTURE, "").replace(RELEASE, "");
    assert_ne!(identity(&whole), identity(&plain));
    let elsewhere = whole
        .replace("[binding.reserve.query]\npath = \"/holds\"", "[binding.reserve.query]\npath = \"/other\"");
    assert_ne!(identity(&whole), identity(&elsewhere));
    let tuned = whole.replace("timeout_ms = 2000", "timeout_ms = 900");
    assert_eq!(identity(&whole), identity(&tuned));
}
