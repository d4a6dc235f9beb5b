//! Requests signed for AWS, judged by a server that computes the signature from the bytes it received.

use std::sync::{Arc, Mutex};

use action::ActionId;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use execution::{Found, Reply};
use provider::secrets::{AwsKeys, Declared, Kind, Secrets, Source};
use provider::{Ask, Outside, Provider};
use serde_json::json;

use crate::common::{Act, NOW_MS, Seen, Server, answer, archetype, binding, call, open_to, to};

const ID: &str = "AKIDEXAMPLE";
const KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SESSION: &str = "FwoGZXIvYXdzEBc-session-token";
/// 1_760_000_000_000 ms.
const DATE: &str = "20251009T085320Z";

/// A provider whose requests are signed for `service`, with one static secret beside.
fn signing(
    server: &Server,
    service: &str,
    session: bool,
) -> (Arc<action::Archetype>, Arc<dyn Provider>, Secrets) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        Source::File(folder.path().join(name))
    };
    let place = server.address.to_string();
    let keys = AwsKeys {
        access_key: write("id", ID),
        secret_key: write("key", KEY),
        session_token: session.then(|| write("session", SESSION)),
        region: "eu-central-1".to_owned(),
        service: service.to_owned(),
    };
    let declare = |name: &str, kind| Declared { name: name.to_owned(), kind, hosts: vec![place.clone()] };
    let api_key = Kind::Static(write("api-key", "an-api-key-of-ours"));
    let secrets = Secrets::load([declare("aws", Kind::AwsSigV4(keys)), declare("api-key", api_key)]).unwrap();
    let text = binding(&format!("{}/base path", server.url()))
        .replacen("timeout_ms", "auth = \"aws\"\nheaders = { X-Api-Key = \"secret:api-key\" }\ntimeout_ms", 1)
        .replacen("path = \"/payments\"\nparams = {", "path = [\"a b\", { \"$value\" = \"/recipient\" }]\nparams = { z = \"1\", a = { \"$value\" = \"/recipient\" },", 1);
    let text =
        format!("{text}[binding.quote]\nsuccess = {{ status = [200] }}\nprice = {{ amount = \"/price\" }}\n");
    let archetype = archetype(&text);
    let egress = open_to(&[place]);
    let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets })
        .unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    (archetype, provider, secrets)
}

#[tokio::test]
async fn every_request_bears_the_signature_of_what_arrived() {
    for (service, session) in [("execute-api", false), ("execute-api", true), ("s3", false)] {
        let server = Server::start(|_: &Seen| {
            Act::Say(answer(201, r#"{"id":"p1","payments":[{"id":"p1"}],"price":"1.00"}"#))
        })
        .await;
        let (archetype, provider, _) = signing(&server, service, session);
        let call = call(&archetype, to("a/b c+d&é=ü"));
        assert!(matches!(provider.call(&call, NOW_MS).await, Reply::Confirmed(_)));
        provider.query(&call, NOW_MS).await;
        let constraints = json!({});
        let action_id = ActionId::new(1, *b"0123456789");
        let ask = Ask { action_id, constraints: &constraints, bound: None, now_ms: NOW_MS };
        let _ = provider.quote(ask).await;
        let seen = server.seen();
        assert_eq!(seen.len(), 3);
        for seen in &seen {
            let (claimed, headers) = claim(seen);
            assert_eq!(claimed, signature(seen, &headers, service), "{service} {}", seen.line);
            for needed in ["host", "x-amz-date", "x-api-key"] {
                assert!(headers.contains(&needed.to_owned()), "{needed} is signed: {headers:?}");
            }
            assert_eq!(seen.header("x-amz-date"), Some(DATE), "the call's own time");
            assert_eq!(seen.header("x-amz-security-token"), session.then_some(SESSION));
            assert_eq!(seen.header("x-amz-content-sha256").is_some(), service == "s3");
        }
        // What is signed is this request and no other.
        let mut other = seen[0].clone();
        other.body.push(b' ');
        let (claimed, headers) = claim(&seen[0]);
        assert_ne!(claimed, signature(&other, &headers, service));
    }
}

#[tokio::test]
async fn neither_key_nor_signature_is_seen_anywhere_else() {
    let log = Log::default();
    let _logging = log.listen();
    let server = Server::start(|seen: &Seen| {
        let echo = json!({
            "id": "p1",
            "authorization": seen.header("authorization"),
            "token": seen.header("x-amz-security-token"),
        });
        Act::Say(answer(201, &echo.to_string()))
    })
    .await;
    let (archetype, provider, secrets) = signing(&server, "execute-api", true);
    let call = call(&archetype, to("acct-confidential"));
    let reply = provider.call(&call, NOW_MS).await;
    let found = provider.query(&call, NOW_MS).await;
    assert!(matches!((&reply, &found), (Reply::Confirmed(_), Found::Unknown)));
    let (signed, _) = claim(&server.seen()[0]);
    let shown = format!("{reply:?} {found:?} {provider:?} {secrets:?} {}", log.text());
    for hidden in [KEY, SESSION, "an-api-key-of-ours", signed.as_str()] {
        assert!(!shown.contains(hidden), "{hidden} stands in {shown}");
    }
    assert!(!log.text().contains("acct-confidential"), "{}", log.text());
    assert!(shown.contains("[secret]"), "the echo was struck: {shown}");
    assert!(log.text().contains("heard"), "the log was on");
}

/// The signature that a request claims, and the headers that it says are signed.
fn claim(seen: &Seen) -> (String, Vec<String>) {
    let text = seen.header("authorization").unwrap();
    let rest = text.strip_prefix("AWS4-HMAC-SHA256 ").unwrap();
    let part = |name: &str| {
        let part = rest.split(", ").find_map(|part| part.strip_prefix(name)).unwrap();
        part.strip_prefix('=').unwrap().to_owned()
    };
    assert!(part("Credential").starts_with(&format!("{ID}/{}/eu-central-1/", &DATE[..8])));
    (part("Signature"), part("SignedHeaders").split(';').map(str::to_owned).collect())
}

/// The signature by Amazon's own description, over what was received.
fn signature(seen: &Seen, headers: &[String], service: &str) -> String {
    let mut words = seen.line.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = if service == "s3" { path.to_owned() } else { encoded(path) };
    let mut params: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    params.sort_unstable();
    let listed: String =
        headers.iter().map(|name| format!("{name}:{}\n", seen.header(name).unwrap().trim())).collect();
    let canonical = format!(
        "{method}\n{path}\n{}\n{listed}\n{}\n{}",
        params.join("&"),
        headers.join(";"),
        hex::encode(digest(&SHA256, &seen.body))
    );
    let scope = format!("{}/eu-central-1/{service}/aws4_request", &DATE[..8]);
    let to_sign =
        format!("AWS4-HMAC-SHA256\n{DATE}\n{scope}\n{}", hex::encode(digest(&SHA256, canonical.as_bytes())));
    let key = scope.split('/').fold(format!("AWS4{KEY}").into_bytes(), |key, part| mac(&key, part));
    hex::encode(mac(&key, &to_sign))
}

/// A path encoded once more, as all services but S3 want it.
fn encoded(path: &str) -> String {
    path.replace('%', "%25")
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Everything that this thread logs, at the most talkative.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || log.clone())
            .with_ansi(false)
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        tracing::trace!("heard");
        guard
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
