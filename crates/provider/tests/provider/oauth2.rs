//! Access tokens: fetched once, kept while they hold, and shown to nobody but their hosts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use action::Archetype;
use execution::{Found, Reply};
use futures_util::future::join_all;
use provider::secrets::{ClientAuth, Declared, Kind, OAuth2Client, Secrets, Source};
use provider::{Mistake, Outside, Provider};
use serde_json::json;
use testkit::bank::{Bank, Client, Options};

use crate::aws::Log;
use crate::common::{
    Act, Bound, NOW_MS, Seen, Server, answer, archetype, binding, call, open_to, to, with_headers,
};
use crate::mtls::{authority, declared, issue, write};

const ID: &str = "gateway & co";
const SECRET: &str = "s3cret:with/odd+signs%";

/// A secret `oauth` whose tokens come from `token_url` and go to `hosts`.
fn client(token_url: &str, auth: ClientAuth, hosts: &[String]) -> Secrets {
    let folder = tempfile::tempdir().unwrap();
    let kind = oauth2(token_url, auth, folder.path());
    let declared = Declared { name: "oauth".to_owned(), kind, hosts: hosts.to_vec() };
    Secrets::load([declared]).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The client, with its secret in a file of this folder.
fn oauth2(token_url: &str, auth: ClientAuth, folder: &Path) -> Kind {
    let file = folder.join("client-secret");
    std::fs::write(&file, SECRET).unwrap();
    Kind::OAuth2(OAuth2Client {
        token_url: token_url.to_owned(),
        client_id: ID.to_owned(),
        client_secret: Source::File(file),
        scope: Some("payments:write payments:read".to_owned()),
        auth,
    })
}

fn bank_binding(base: &str) -> String {
    format!(
        r#"
[binding]
provider = "http"
base = "{base}/v1"
auth = "oauth"
timeout_ms = 2000
capabilities = {{ queryable = {{ by_our_reference = true, final_after_seconds = 1 }} }}
[binding.act]
path = "/payments"
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }} }}
success = {{ status = [201] }}
reference = "/payment_id"
[binding.act.body]
recipient = {{ "$value" = "/recipient" }}
amount = {{ "$money" = "amount" }}
currency = {{ "$money" = "currency" }}
reference = {{ "$action" = "reference" }}
[binding.query]
path = "/payments"
params = {{ reference = {{ "$action" = "reference" }} }}
found = {{ status = [200], pointer = "/payments/0" }}
absent = {{ status = [200], pointer = "/payments/0", exists = false }}
reference = "/payments/0/payment_id"
"#
    )
}

struct World {
    bank: Bank,
    archetype: Arc<Archetype>,
    provider: Arc<dyn Provider>,
}

/// A bank with an OAuth 2 client, and the provider that is one.
async fn world(auth: ClientAuth) -> World {
    // Every payment is one of its own, whatever key it comes with.
    let client_of = Client { id: ID.to_owned(), secret: SECRET.to_owned(), lifetime_seconds: 100 };
    let options = Options { client: Some(client_of), idempotency: None, ..Options::default() };
    let bank = Bank::start(options).await.unwrap();
    let place = bank.address().to_string();
    let secrets = client(&format!("{}/oauth/token", bank.url()), auth, std::slice::from_ref(&place));
    let archetype = archetype(&bank_binding(&bank.url()));
    let egress = open_to(&[place]);
    let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets })
        .unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    World { bank, archetype, provider }
}

impl World {
    async fn pay(&self, now_ms: i64) -> Reply {
        self.provider.call(&call(&self.archetype, to("acct-1")), now_ms).await
    }

    fn counts(&self) -> (u64, u64) {
        (self.bank.tokens_granted(), self.bank.effects().count)
    }
}

#[tokio::test]
async fn fifty_calls_at_once_share_one_token() {
    for auth in [ClientAuth::Basic, ClientAuth::Body] {
        let world = world(auth).await;
        let replies = join_all((0..50).map(|_| world.pay(NOW_MS))).await;
        assert!(replies.iter().all(|reply| matches!(reply, Reply::Confirmed(_))), "{auth:?} {replies:?}");
        assert_eq!(world.counts(), (1, 50), "{auth:?}");
    }
}

#[tokio::test]
async fn a_token_is_replaced_shortly_before_it_expires() {
    let world = world(ClientAuth::Basic).await;
    for (now_ms, granted) in [(NOW_MS, 1), (NOW_MS + 89_999, 1), (NOW_MS + 90_000, 2), (NOW_MS + 90_001, 2)] {
        assert!(matches!(world.pay(now_ms).await, Reply::Confirmed(_)));
        assert_eq!(world.bank.tokens_granted(), granted, "{} ms later", now_ms - NOW_MS);
    }
}

#[tokio::test]
async fn queries_whose_token_was_refused_fetch_one_and_ask_again() {
    let world = world(ClientAuth::Basic).await;
    world.pay(NOW_MS).await;
    world.bank.revoke_tokens();
    let asked = call(&world.archetype, to("acct-1"));
    let found = join_all((0..20).map(|_| world.provider.query(&asked, NOW_MS))).await;
    assert!(found.iter().all(|found| matches!(found, Found::Confirmed(_))), "{found:?}");
    assert_eq!(world.counts(), (2, 1));
}

#[tokio::test]
async fn a_query_that_is_refused_twice_is_not_asked_a_third_time() {
    let server = Server::start(|seen: &Seen| {
        if seen.line.starts_with("POST /token") {
            Act::Say(answer(200, &token_of(3600)))
        } else {
            Act::Say(answer(401, "{}"))
        }
    })
    .await;
    let place = server.address.to_string();
    let secrets = client(&format!("{}/token", server.url()), ClientAuth::Basic, std::slice::from_ref(&place));
    let (archetype, provider) = compile(&server, &secrets).unwrap();
    assert_eq!(provider.query(&call(&archetype, to("acct-1")), NOW_MS).await, Found::Unknown);
    let lines: Vec<bool> = server.seen().iter().map(|seen| seen.line.starts_with("GET")).collect();
    assert_eq!(lines, [false, true, false, true], "token, query, token, query");
}

#[tokio::test]
async fn a_call_whose_token_was_refused_is_not_sent_again() {
    let world = world(ClientAuth::Basic).await;
    world.pay(NOW_MS).await;
    world.bank.revoke_tokens();
    let Reply::Lost { why, .. } = world.pay(NOW_MS).await else { panic!("the binding does not list 401") };
    assert!(why.contains("401"), "{why}");
    assert_eq!(world.counts(), (1, 1), "nothing was tried again, not even the token");
    assert!(matches!(world.pay(NOW_MS).await, Reply::Confirmed(_)), "the next call has a new one");
    assert_eq!(world.counts(), (2, 2));
}

#[tokio::test]
async fn a_call_answered_401_is_sent_once_and_means_what_the_binding_says() {
    // A peer that has the effect and answers 401 all the same, so that whoever sends again has it twice.
    for listed in [false, true] {
        let server = Server::start(|seen: &Seen| {
            let token = seen.line.starts_with("POST /token");
            Act::Say(if token { answer(200, &token_of(3600)) } else { answer(401, r#"{"code":"expired"}"#) })
        })
        .await;
        let place = server.address.to_string();
        let url = format!("{}/token", server.url());
        let secrets = client(&url, ClientAuth::Basic, std::slice::from_ref(&place));
        let text = if listed {
            with_auth(&server.url()).replacen("{ status = [402] }", "{ status = [401, 402] }", 1)
        } else {
            with_auth(&server.url())
        };
        let (archetype, egress) = (archetype(&text), open_to(&[place]));
        let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets }).unwrap();
        for sent in 1..=2 {
            match provider.call(&call(&archetype, to("acct-1")), NOW_MS).await {
                Reply::Refused(refusal) if listed => assert_eq!(refusal.code.as_deref(), Some("expired")),
                Reply::Lost { why, .. } if !listed => assert!(why.contains("401"), "{why}"),
                other => panic!("{listed} {other:?}"),
            }
            let lines: Vec<String> = server.seen().iter().map(|seen| seen.target().to_owned()).collect();
            assert_eq!(
                lines,
                ["/token", "/payments"].repeat(sent),
                "each call once, with a token of its own"
            );
        }
    }
}

#[tokio::test]
async fn a_token_goes_only_over_the_certificate_it_was_fetched_with() {
    let server = Server::start(|seen: &Seen| {
        let token = seen.line.starts_with("POST /token");
        Act::Say(if token { answer(200, &token_of(3600)) } else { answer(201, r#"{"id":"p1"}"#) })
    })
    .await;
    let place = server.address.to_string();
    let (ours, folder) = (authority(), tempfile::tempdir().unwrap());
    let certificate = |name: &str| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        write(&folder, &issue(&ours, name));
        Declared { name: name.to_owned(), ..declared(&folder, std::slice::from_ref(&place)) }
    };
    let oauth = oauth2(&format!("{}/token", server.url()), ClientAuth::Basic, folder.path());
    let oauth = Declared { name: "oauth".to_owned(), kind: oauth, hosts: vec![place.clone()] };
    let secrets = Secrets::load([certificate("a"), certificate("b"), oauth]).unwrap();
    let egress = open_to(&[place]);
    let mut fetched = Vec::new();
    for auth in [r#"["a", "oauth"]"#, r#"["b", "oauth"]"#, r#""oauth""#, r#"["oauth", "a"]"#, r#""oauth""#] {
        let text = binding(&server.url()).replacen("timeout_ms", &format!("auth = {auth}\ntimeout_ms"), 1);
        let archetype = archetype(&text);
        let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets }).unwrap();
        let reply = provider.call(&call(&archetype, to("acct-1")), NOW_MS).await;
        assert!(matches!(reply, Reply::Confirmed(_)), "{auth} {reply:?}");
        fetched.push(server.seen().iter().filter(|seen| seen.target() == "/token").count());
    }
    assert_eq!(fetched, [1, 2, 3, 3, 3]);
}

#[tokio::test]
async fn without_a_token_nothing_leaves() {
    const GOSSIP: &str = "gossip-of-the-endpoint";
    let say = |status, body: &str| Act::Say(answer(status, body));
    let table = [
        (say(400, &format!(r#"{{"error":"{GOSSIP}"}}"#)), "answered 400"),
        (say(500, GOSSIP), "answered 500"),
        (say(401, GOSSIP), "answered 401"),
        (Act::Say(with_headers(302, "Location: /elsewhere\r\n", b"")), "answered 302"),
        // A client that followed this one would send the secret there as well.
        (Act::Say(with_headers(307, "Location: /elsewhere\r\n", b"")), "answered 307"),
        (say(200, GOSSIP), "no bearer token"),
        (say(200, "{}"), "no bearer token"),
        (say(200, &token_of(3600).replace("bearer", "mac")), "no bearer token"),
        (say(200, &token_of(3600).replace(TOKEN, "two words")), "no bearer token"),
        (say(200, &token_of(3600).replace(TOKEN, "line\\r\\nInjected: 1")), "no bearer token"),
        (say(200, &token_of(3600).replace("3600", "-1")), "no bearer token"),
        (say(200, &token_of(3600).replace("3600", "\"soon\"")), "no bearer token"),
        (say(200, &token_of(3600).replace(TOKEN, &"x".repeat(80_000))), "larger than allowed"),
        (Act::SayAndClose(Vec::new()), "broke"),
        (Act::Hang, "in time"),
    ];
    for (act, expected) in table {
        let doing = act.clone();
        let endpoint = Server::start(move |_: &Seen| doing.clone()).await;
        let why = refused_without(&endpoint.url(), expected).await;
        assert!(!why.contains(GOSSIP), "{why}");
        assert!(endpoint.seen().iter().all(|seen| seen.target() == "/token"), "{act:?}");
        if !matches!(act, Act::Hang) {
            assert_eq!(endpoint.seen().len(), 1, "{act:?}: asked once for all that waited");
        }
    }
    // Nobody listens there any more.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    refused_without(&format!("http://{nobody}"), "the connection was refused").await;
}

/// Ten calls to a bank while the endpoint has no token to give: why they did not leave.
async fn refused_without(endpoint: &str, expected: &str) -> String {
    let bank = Bank::start(Options::default()).await.unwrap();
    let place = bank.address().to_string();
    let secrets = client(&format!("{endpoint}/token"), ClientAuth::Basic, std::slice::from_ref(&place));
    let archetype = archetype(&bank_binding(&bank.url()).replace("timeout_ms = 2000", "timeout_ms = 400"));
    let egress = open_to(&[place, endpoint.trim_start_matches("http://").to_owned()]);
    let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets }).unwrap();
    assert_eq!(provider.patience(), Duration::from_millis(800), "the token's time and the call's");
    let asked = call(&archetype, to("acct-1"));
    let replies = join_all((0..10).map(|_| provider.call(&asked, NOW_MS))).await;
    let mut last = String::new();
    for reply in replies {
        let Reply::NotSent { why } = reply else { panic!("{expected}: {reply:?}") };
        assert!(why.contains(expected), "{expected}: {why}");
        last = why;
    }
    assert_eq!(bank.effects().count, 0);
    last
}

#[tokio::test]
async fn the_token_goes_to_its_hosts_and_the_secret_to_the_endpoint() {
    let log = Log::default();
    let _logging = log.listen();
    let endpoint = Server::start(|_: &Seen| Act::Say(answer(200, &token_of(3600)))).await;
    let bank = Server::start(|seen: &Seen| {
        let echo = json!({ "id": "p1", "sent": seen.header("authorization") });
        Act::Say(answer(201, &echo.to_string()))
    })
    .await;
    let place = bank.address.to_string();
    let secrets =
        client(&format!("{}/token", endpoint.url()), ClientAuth::Body, std::slice::from_ref(&place));
    let egress = open_to(&[place, endpoint.address.to_string()]);
    let text = with_auth(&bank.url());
    let archetype = archetype(&text);
    let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets }).unwrap();
    let reply = provider.call(&call(&archetype, to("acct-1")), NOW_MS).await;
    let Reply::Confirmed(it) = &reply else { panic!("{reply:?}") };
    assert_eq!(it.answer["sent"], "Bearer [secret]");
    let seen = bank.seen();
    assert_eq!(seen[0].header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    assert!(!format!("{:?}", endpoint.seen()).contains(TOKEN));
    let form = String::from_utf8(endpoint.seen()[0].body.clone()).unwrap();
    assert_eq!(
        form,
        "grant_type=client_credentials&scope=payments%3Awrite+payments%3Aread\
         &client_id=gateway+%26+co&client_secret=s3cret%3Awith%2Fodd%2Bsigns%25"
    );
    let shown = format!("{reply:?} {provider:?} {secrets:?} {egress:?} {}", log.text());
    for hidden in [TOKEN, SECRET, "s3cret%3A"] {
        assert!(!shown.contains(hidden), "{hidden} stands in {shown}");
    }
    assert!(log.text().contains("heard"), "the log was on");
}

#[tokio::test]
async fn a_binding_elsewhere_cannot_have_the_token() {
    let other = Server::start(|_: &Seen| Act::Hang).await;
    let secrets = client("http://127.0.0.1:9/token", ClientAuth::Basic, &["bank.example".to_owned()]);
    let mistakes = compile(&other, &secrets).unwrap_err();
    assert_eq!(mistakes[0].pointer, "/auth");
    assert!(mistakes[0].message.contains("may not be sent to"), "{mistakes:?}");
    assert_eq!(other.connections(), 0);
}

const TOKEN: &str = "tok-2YotnFZFEjr1zCsicMWpAA";

fn token_of(lifetime: u64) -> String {
    json!({ "access_token": TOKEN, "token_type": "bearer", "expires_in": lifetime }).to_string()
}

fn with_auth(base: &str) -> String {
    binding(base).replacen("timeout_ms", "auth = \"oauth\"\ntimeout_ms", 1)
}

fn compile(server: &Server, secrets: &Secrets) -> Result<Bound, Vec<Mistake>> {
    let archetype = archetype(&with_auth(&server.url()));
    let egress = open_to(&[server.address.to_string(), "127.0.0.1:9".to_owned()]);
    let provider = provider::compile(&archetype, Outside { egress: &egress, secrets })?;
    Ok((archetype, provider))
}
