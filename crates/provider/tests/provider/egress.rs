//! Places that must not be reached, whoever asks and however they are written.

use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use execution::Reply;
use provider::Outside;
use provider::egress::{Egress, Exchange, Lookup, Request, Rules};
use reqwest::Method;
use reqwest::header::HeaderMap;
use url::Url;

use crate::common::{Act, Changing, NOW_MS, Seen, Server, answer, archetype, binding, call, no_secrets, to};

const TIMEOUT: Duration = Duration::from_secs(1);

fn egress(allow: &[&str], plain: &[&str], lookup: Arc<dyn Lookup>) -> Egress {
    Egress::with_lookup(Rules::parse(allow, plain).unwrap(), lookup)
}

/// Why a place is refused before anything is looked up, or an empty text.
fn refusal(allow: &[&str], plain: &[&str], url: &str) -> String {
    let egress = egress(allow, plain, Changing::new(&[&["8.8.8.8"]]));
    let url = Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    egress.destination(&url, TIMEOUT).err().map(|refused| refused.to_string()).unwrap_or_default()
}

fn get() -> Request {
    Request {
        method: Method::GET,
        path_and_query: "/".to_owned(),
        headers: HeaderMap::new(),
        body: None,
        most_bytes: 1000,
    }
}

async fn exchange(egress: &Egress, url: &str) -> Exchange {
    egress.destination(&Url::parse(url).unwrap(), TIMEOUT).unwrap().exchange(get()).await
}

fn not_sent(exchange: Exchange) -> String {
    match exchange {
        Exchange::NotSent(why) => why,
        other => panic!("not unsent: {other:?}"),
    }
}

#[test]
fn addresses_that_are_not_the_worlds_are_refused_in_every_spelling() {
    let table = [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("2130706433", "loopback"),
        ("0x7f000001", "loopback"),
        ("0x7f.1", "loopback"),
        ("0177.0.0.1", "loopback"),
        ("017700000001", "loopback"),
        ("127.1", "loopback"),
        ("127.0.0.1.", "loopback"),
        ("%31%32%37.0.0.1", "loopback"),
        ("１２７.0.0.1", "loopback"),
        ("127。0。0。1", "loopback"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "carrier"),
        ("169.254.169.254", "metadata"),
        ("2852039166", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("169.254.0.1", "link-local"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("192.0.0.192", "protocol"),
        ("192.0.2.1", "documentation"),
        ("198.51.100.1", "documentation"),
        ("203.0.113.1", "documentation"),
        ("192.88.99.1", "6to4"),
        ("198.18.0.1", "benchmarking"),
        ("198.19.255.255", "benchmarking"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("[::1]", "loopback"),
        ("[0:0:0:0:0:0:0:1]", "loopback"),
        ("[::]", "unspecified"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("[::ffff:7f00:1]", "loopback"),
        ("[::ffff:10.0.0.1]", "private"),
        ("[::ffff:169.254.169.254]", "metadata"),
        ("[::127.0.0.1]", "not a global"),
        ("[::a00:1]", "not a global"),
        ("[64:ff9b::10.0.0.1]", "private"),
        ("[64:ff9b::a9fe:a9fe]", "metadata"),
        ("[64:ff9b:1::1]", "local NAT64"),
        ("[2002:a00:1::]", "6to4"),
        ("[2002:808:808::1]", "6to4"),
        ("[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "Teredo"),
        ("[2001:db8::1]", "documentation"),
        ("[3fff::1]", "documentation"),
        ("[2001:2::1]", "protocol"),
        ("[fc00::1]", "unique local"),
        ("[fdff:ffff::1]", "unique local"),
        ("[fd00:ec2::254]", "metadata"),
        ("[fd20:ce::254]", "metadata"),
        ("[fe80::1]", "link-local"),
        ("[fec0::1]", "site-local"),
        ("[ff02::1]", "multicast"),
        ("[100::1]", "not a global"),
        ("[5f00::1]", "not a global"),
        ("[8000::1]", "not a global"),
    ];
    for (host, what) in table {
        let why = refusal(&[], &[], &format!("https://{host}/"));
        assert!(why.contains(what), "{host}: `{why}` does not say {what}");
    }
    for public in
        ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.255.255", "100.128.0.1", "198.20.0.1"]
    {
        assert_eq!(refusal(&[], &[], &format!("https://{public}/")), "", "{public}");
    }
    for public in ["[2606:4700::1111]", "[2a00:1450:4001::1]", "[64:ff9b::808:808]", "[::ffff:8.8.8.8]"] {
        assert_eq!(refusal(&[], &[], &format!("https://{public}/")), "", "{public}");
    }
}

#[test]
fn a_url_is_https_to_a_host_and_nothing_else() {
    let table = [
        ("http://bank.example/", "plain http"),
        ("ftp://bank.example/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("unix:/run/docker.sock", "scheme"),
        ("https://user@bank.example/", "user or password"),
        ("https://user:secret@bank.example/", "user or password"),
        ("https://bank.example./", "dot"),
    ];
    for (url, what) in table {
        let why = refusal(&[], &[], url);
        assert!(why.contains(what), "{url}: {why}");
        assert!(!why.contains("secret"), "{url}: {why}");
    }
    assert_eq!(refusal(&[], &["bank.example:80"], "http://bank.example/"), "");
    assert_ne!(refusal(&[], &["bank.example:80"], "http://bank.example:8080/"), "", "another port");
    assert_ne!(refusal(&[], &["bank.example:80"], "http://api.bank.example/"), "", "another host");
}

#[test]
fn the_operator_opens_exactly_what_is_listed() {
    let table: [(&[&str], &str, bool); 14] = [
        (&["10.0.0.0/8"], "https://10.1.2.3/", true),
        (&["10.0.0.0/8"], "https://[::ffff:10.1.2.3]/", true),
        (&["10.0.0.0/8"], "https://11.0.0.1/", true),
        (&["10.0.0.0/8"], "https://192.168.0.1/", false),
        (&["10.0.0.1"], "https://10.0.0.1/", true),
        (&["10.0.0.1"], "https://10.0.0.2/", false),
        (&["10.0.0.1:8443"], "https://10.0.0.1:8443/", true),
        (&["10.0.0.1:8443"], "https://10.0.0.1/", false),
        (&["[fd12::1]:8443"], "https://[fd12::1]:8443/", true),
        (&["fd12::/16"], "https://[fd12::1]/", true),
        // A host opens private addresses; the special ones want their network listed.
        (&["169.254.169.254:443"], "https://169.254.169.254/", false),
        (&["169.254.169.254/32"], "https://169.254.169.254/", true),
        (&["0.0.0.0:443"], "https://0.0.0.0/", false),
        (&["[fe80::1]:443"], "https://[fe80::1]/", false),
    ];
    for (allow, url, opens) in table {
        let why = refusal(allow, &[], url);
        assert_eq!(why.is_empty(), opens, "{allow:?} {url}: {why}");
    }
    for wrong in [
        "10.0.0.0/33",
        "10.0.0.0/8:443",
        "bank.example",
        "bank.example:0",
        "bank.example:99999",
        ":443",
        "a b:1",
    ] {
        assert!(Rules::parse(&[wrong], &[]).is_err(), "{wrong}");
        assert!(Rules::parse::<&str>(&[], &[wrong]).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn a_name_is_judged_by_the_addresses_it_has_when_the_connection_opens() {
    let server = Server::start(|_: &Seen| Act::SayAndClose(answer(200, "{}"))).await;
    let port = server.address.port();
    let place = format!("bank.example:{port}");
    let url = format!("http://{place}/");

    // The name is not listed, so its plain port may be used but its private address may not.
    let rebound = egress(&[], &[&place], Changing::new(&[&["127.0.0.1"]]));
    assert!(not_sent(exchange(&rebound, &url).await).contains("loopback"));

    // Allowed at first, elsewhere afterwards: each new connection is checked.
    let rebound =
        egress(&["127.0.0.1/32"], &[&place], Changing::new(&[&["127.0.0.1"], &["127.0.0.2"], &["10.0.0.1"]]));
    assert!(matches!(exchange(&rebound, &url).await, Exchange::Answered { status: 200, .. }));
    assert!(not_sent(exchange(&rebound, &url).await).contains("127.0.0.2"));
    assert!(not_sent(exchange(&rebound, &url).await).contains("10.0.0.1"));
    assert_eq!(server.seen().len(), 1);

    // Among several addresses only the allowed ones are tried.
    let mixed = egress(&["127.0.0.1/32"], &[&place], Changing::new(&[&["10.0.0.1", "::1", "127.0.0.1"]]));
    assert!(matches!(exchange(&mixed, &url).await, Exchange::Answered { status: 200, .. }));

    // A host that is listed may be on a private address, never on a special one.
    let listed = egress(&[&place], &[&place], Changing::new(&[&["127.0.0.1"], &["169.254.169.254"]]));
    assert!(matches!(exchange(&listed, &url).await, Exchange::Answered { status: 200, .. }));
    assert!(not_sent(exchange(&listed, &url).await).contains("metadata"));

    let nowhere = egress(&[], &[&place], Changing::new(&[&[]]));
    assert!(not_sent(exchange(&nowhere, &url).await).contains("no address"));
}

#[tokio::test]
async fn names_that_stand_for_this_machine_are_judged_like_others() {
    for url in ["https://localhost/", "https://LOCALHOST/", "https://localhost:8443/"] {
        let egress = Egress::new(Rules::default());
        assert!(not_sent(exchange(&egress, url).await).contains("loopback"), "{url}");
    }
}

#[tokio::test]
async fn the_gateway_never_calls_itself() {
    let server = Server::start(|_: &Seen| Act::Say(answer(200, "{}"))).await;
    let port = server.address.port();
    let (name, literal) = (format!("gateway.internal:{port}"), format!("127.0.0.1:{port}"));
    let listeners = [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!("[::]:{port}")];
    for listener in listeners {
        // Everything the operator can open is open.
        let allow = ["0.0.0.0/0", "::/0", &name, &literal];
        let plain = [name.as_str(), &literal, &format!("0.0.0.0:{port}"), &format!("[::ffff:7f00:1]:{port}")];
        let egress =
            egress(&allow, &plain, Changing::new(&[&["127.0.0.1"], &["::ffff:127.0.0.1"], &["0.0.0.0"]]));
        let early = egress.destination(&Url::parse(&format!("http://{literal}/")).unwrap(), TIMEOUT).unwrap();
        egress.never_call(listener.parse().unwrap());
        for _ in 0..3 {
            assert!(
                not_sent(exchange(&egress, &format!("http://{name}/")).await).contains("itself"),
                "{listener}"
            );
        }
        for host in ["127.0.0.1", "0.0.0.0", "[::ffff:7f00:1]"] {
            let url = Url::parse(&format!("http://{host}:{port}/")).unwrap();
            assert!(egress.destination(&url, TIMEOUT).is_err(), "{listener} {host}");
        }
        assert!(
            not_sent(early.exchange(get()).await).contains("itself"),
            "a destination from before it listened"
        );
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn proxy_variables_change_nothing() {
    // Set by the environment of whoever runs the tests, if at all; the client is built without them.
    let server = Server::start(|_: &Seen| Act::Say(answer(200, "{}"))).await;
    let place = server.address.to_string();
    let egress = egress(&[&place], &[&place], Changing::new(&[&[]]));
    exchange(&egress, &server.url()).await;
    assert_eq!(server.seen()[0].target(), "/", "not the absolute form that a proxy gets");
    let seen = &server.seen()[0];
    assert!(seen.header("cookie").is_none() && seen.header("referer").is_none());
}

#[tokio::test]
async fn a_binding_to_a_place_that_is_not_open_is_a_mistake() {
    let archetype = archetype(&binding("https://169.254.169.254/latest"));
    let egress = Egress::new(Rules::default());
    let outside = Outside { egress: &egress, secrets: &no_secrets() };
    let mistakes = provider::compile(&archetype, outside).unwrap_err();
    assert_eq!(mistakes[0].pointer, "/base");
    assert!(mistakes[0].message.contains("metadata"), "{}", mistakes[0]);
}

#[tokio::test]
async fn tls_wants_a_certificate_that_is_trusted_and_for_that_name() {
    let certified = rcgen::generate_simple_self_signed(vec!["bank.example".to_owned()]).unwrap();
    let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let config = RustlsConfig::from_pem(certificate.clone().into_bytes(), key.into_bytes()).await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = r#"{"id":"p1"}"#;
    let app = axum::Router::new().fallback(move || async move { (axum::http::StatusCode::CREATED, body) });
    tokio::spawn(axum_server::from_tcp_rustls(listener, config).unwrap().serve(app.into_make_service()));

    let send = async |name: &str, trusted: bool| {
        let mut egress = egress(&["127.0.0.1"], &[], Changing::new(&[&["127.0.0.1"]]));
        if trusted {
            egress.trust(certificate.as_bytes()).unwrap();
        }
        let archetype = archetype(&binding(&format!("https://{name}:{port}")));
        let provider =
            provider::compile(&archetype, Outside { egress: &egress, secrets: &no_secrets() }).unwrap();
        provider.call(&call(&archetype, to("acct-1")), NOW_MS).await
    };
    let failed = Reply::NotSent { why: "the TLS handshake failed".to_owned() };
    assert_eq!(send("bank.example", false).await, failed, "nobody vouches for it");
    assert_eq!(send("other.example", true).await, failed, "it is another's");
    assert!(matches!(send("bank.example", true).await, Reply::Confirmed(_)));
}
