//! Receivers of letters: a webhook and a mail server that look closely at what they get.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use provider::Outside;
use provider::egress::{Egress, Rules};
use provider::receivers::{
    Declared, DeclaredMail, DeclaredWebhook, Letter, MailTls, Receiver, Untold, Wrong,
};
use provider::secrets::{Kind, Secrets, Source};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::common::{Act, Changing, NOW_MS, Seen, Server, answer, open_to, secret};
use crate::mtls::{authority, issue};
use crate::smtp::{MailServer, Manner};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_KEY: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

const LETTER: Letter<'static> = Letter {
    id: "msg_0123456789abcdef",
    now_ms: NOW_MS,
    json: br#"{"type":"action.held"}"#,
    subject: "Countersign: held (PAY)",
    text: "An action waits.\n\n.A line with a dot.\n",
};

fn hook(url: &str) -> Declared {
    Declared::Webhook(DeclaredWebhook { url: url.to_owned(), secret: "hook".to_owned() })
}

async fn tell_hook(server: &Server, keys: &str) -> Result<(), Untold> {
    let at = server.address.to_string();
    let (egress, secrets) = (open_to(std::slice::from_ref(&at)), secret("hook", keys, &[&at]).unwrap());
    let outside = Outside { egress: &egress, secrets: &secrets };
    let receiver = Receiver::new(&hook(&format!("{}/alerts?team=7", server.url())), outside).unwrap();
    receiver.tell(&LETTER).await
}

/// HMAC-SHA256 as RFC 2104 writes it, apart from the library that signs.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(block, key)| *block ^= key);
        block
    };
    let inner = Sha256::digest([&pad(0x36)[..], message].concat());
    Sha256::digest([&pad(0x5c)[..], &inner].concat()).to_vec()
}

/// As a receiver would: the signature that a key gives to this request.
fn expected(seen: &Seen, key: &str) -> String {
    let key = STANDARD.decode(key.strip_prefix("whsec_").unwrap()).unwrap();
    let (id, at) = (seen.header("webhook-id").unwrap(), seen.header("webhook-timestamp").unwrap());
    let signed = [format!("{id}.{at}.").as_bytes(), &seen.body].concat();
    format!("v1,{}", STANDARD.encode(hmac_sha256(&key, &signed)))
}

#[test]
fn the_receivers_own_arithmetic_gives_the_published_signature() {
    let seen = Seen {
        line: String::new(),
        headers: vec![
            ("webhook-id".to_owned(), "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned()),
            ("webhook-timestamp".to_owned(), "1614265330".to_owned()),
        ],
        body: br#"{"test": 2432232314}"#.to_vec(),
    };
    assert_eq!(expected(&seen, KEY), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[tokio::test]
async fn a_webhook_is_signed_over_id_time_and_body() {
    let server = Server::start(|_: &Seen| Act::Say(answer(204, ""))).await;
    tell_hook(&server, KEY).await.unwrap();
    let seen = server.seen().remove(0);
    assert_eq!(seen.line, "POST /alerts?team=7 HTTP/1.1");
    assert_eq!(seen.body, LETTER.json);
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("webhook-id"), Some(LETTER.id));
    assert_eq!(seen.header("webhook-timestamp"), Some("1760000000"));
    assert_eq!(seen.header("webhook-signature"), Some(expected(&seen, KEY).as_str()));
}

#[tokio::test]
async fn while_keys_are_changed_it_is_signed_with_both() {
    let server = Server::start(|_: &Seen| Act::Say(answer(200, "{}"))).await;
    tell_hook(&server, &format!("{OTHER_KEY} {KEY}")).await.unwrap();
    let seen = server.seen().remove(0);
    let both = [OTHER_KEY, KEY].map(|key| expected(&seen, key)).join(" ");
    assert_eq!(seen.header("webhook-signature"), Some(both.as_str()));
}

#[tokio::test]
async fn what_a_webhook_answers_is_success_gone_or_a_reason_to_try_again() {
    for (status, outcome) in [
        (200, Ok(())),
        (202, Ok(())),
        (302, Err(Untold::Failed("it answered 302".to_owned()))),
        (400, Err(Untold::Failed("it answered 400".to_owned()))),
        (410, Err(Untold::Gone)),
        (429, Err(Untold::Failed("it answered 429".to_owned()))),
        (500, Err(Untold::Failed("it answered 500".to_owned()))),
    ] {
        let elsewhere = Server::start(|_: &Seen| Act::Say(answer(200, ""))).await;
        let location = elsewhere.url();
        let server = Server::start(move |_: &Seen| {
            let text =
                format!("HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 6\r\n\r\nno log");
            Act::SayAndClose(text.into_bytes())
        })
        .await;
        assert_eq!(tell_hook(&server, KEY).await, outcome, "{status}");
        assert_eq!((server.seen().len(), elsewhere.seen().len()), (1, 0), "no redirect is followed");
    }
    let server = Server::start(|_: &Seen| Act::SayAndReset(Vec::new())).await;
    assert!(matches!(tell_hook(&server, KEY).await, Err(Untold::Failed(_))));
}

#[test]
fn a_webhook_that_cannot_be_is_named_by_the_member() {
    let at = "hooks.example:443";
    let public = Egress::new(Rules::default());
    let wrong = |url: &str, keys: &str, hosts: &[&str]| -> Wrong {
        let secrets = secret("hook", keys, hosts).unwrap();
        Receiver::new(&hook(url), Outside { egress: &public, secrets: &secrets }).unwrap_err()
    };
    for url in [
        "hooks.example",
        "ftp://hooks.example",
        "http://hooks.example",
        "https://127.0.0.1/",
        "https://u:p@hooks.example",
    ] {
        assert_eq!(wrong(url, KEY, &[at]).member, "url", "{url}");
    }
    let long = format!("whsec_{}", STANDARD.encode([7; 65]));
    for keys in ["hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_?", &long, &format!("{KEY} hunter2")] {
        let wrong = wrong("https://hooks.example/", keys, &[at]);
        assert_eq!(wrong.member, "secret");
        assert!(wrong.why.contains("`hook`") && !wrong.why.contains("hunter2"), "{}", wrong.why);
    }
    let elsewhere = wrong("https://hooks.example/", KEY, &["bank.example"]);
    assert!(elsewhere.to_string().contains("may not be sent to `hooks.example:443`"), "{elsewhere}");
    let secrets = Secrets::default();
    let nobody =
        Receiver::new(&hook("https://hooks.example/"), Outside { egress: &public, secrets: &secrets });
    assert_eq!(nobody.unwrap_err().to_string(), "`secret`: there is no secret `hook`");
}

/// A mail server for `mail.example`, the way to it, and the password.
struct Post {
    server: MailServer,
    egress: Egress,
    secrets: Secrets,
    declared: DeclaredMail,
}

impl Post {
    async fn new(tls: MailTls, change: impl FnOnce(&mut Manner)) -> Post {
        let authority = authority();
        let (certificate, key) = issue(&authority, "mail.example");
        let mut manner = Manner {
            tls: Some(server_config(&certificate, &key)),
            implicit: tls == MailTls::Implicit,
            login: Some(("gateway".to_owned(), "p4ssw0rd-odd".to_owned())),
            ..Manner::default()
        };
        change(&mut manner);
        let server = MailServer::start(manner).await;
        let at = format!("mail.example:{}", server.address.port());
        let rules = Rules::parse(std::slice::from_ref(&at), std::slice::from_ref(&at)).unwrap();
        let mut egress = Egress::with_lookup(rules, Changing::new(&[&["127.0.0.1"]]));
        egress.trust(authority.pem().as_bytes()).unwrap();
        let secrets = secret("mail", "p4ssw0rd-odd", &[&at]).unwrap();
        let declared = DeclaredMail {
            host: "mail.example".to_owned(),
            port: server.address.port(),
            tls,
            login: (tls != MailTls::Plain).then(|| ("gateway".to_owned(), "mail".to_owned())),
            from: "Countersign <gateway@example.com>".to_owned(),
            to: vec!["ops@example.com".to_owned(), "Desk <desk@example.com>".to_owned()],
        };
        Post { server, egress, secrets, declared }
    }

    fn receiver(&self) -> Result<Receiver, Wrong> {
        let outside = Outside { egress: &self.egress, secrets: &self.secrets };
        Receiver::new(&Declared::Mail(self.declared.clone()), outside)
    }

    async fn tell(&self) -> Result<(), Untold> {
        self.receiver().unwrap().tell(&LETTER).await
    }
}

fn server_config(certificate: &str, key: &str) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

fn failed(why: &str) -> Result<(), Untold> {
    Err(Untold::Failed(why.to_owned()))
}

#[tokio::test]
async fn mail_goes_over_tls_with_the_password_and_the_fixed_headers() {
    for tls in [MailTls::StartTls, MailTls::Implicit] {
        let post = Post::new(tls, |_| {}).await;
        post.tell().await.unwrap();
        let mail = post.server.taken().remove(0);
        assert!(mail.encrypted);
        assert_eq!(mail.user.as_deref(), Some("gateway"));
        assert_eq!(mail.from, "gateway@example.com");
        assert_eq!(mail.to, ["ops@example.com", "desk@example.com"]);
        assert_eq!(mail.header("Subject"), Some(LETTER.subject));
        assert_eq!(mail.header("Message-ID"), Some("<msg_0123456789abcdef@example.com>"));
        assert_eq!(mail.header("Date"), Some("Thu, 09 Oct 2025 08:53:20 +0000"));
        assert_eq!(mail.header("Auto-Submitted"), Some("auto-generated"));
        assert!(
            mail.text.trim_end().ends_with("An action waits.\r\n\r\n.A line with a dot."),
            "{}",
            mail.text
        );
    }
}

#[tokio::test]
async fn mail_that_cannot_go_over_tls_as_configured_does_not_go_at_all() {
    let bare = Post::new(MailTls::StartTls, |manner| manner.tls = None).await;
    assert_eq!(bare.tell().await, failed("it does not offer what is configured (STARTTLS, login)"));
    assert!(bare.server.said().iter().all(|line| line.starts_with("EHLO")), "{:?}", bare.server.said());

    let (certificate, key) = issue(&authority(), "mail.example");
    let (name_certificate, name_key) = {
        let authority = authority();
        issue(&authority, "other.example")
    };
    for (tls, pair) in [
        (MailTls::StartTls, (&certificate, &key)),
        (MailTls::Implicit, (&certificate, &key)),
        (MailTls::StartTls, (&name_certificate, &name_key)),
    ] {
        let stranger = Post::new(tls, |manner| manner.tls = Some(server_config(pair.0, pair.1))).await;
        let told = stranger.tell().await;
        assert!(
            told == failed("the TLS handshake failed") || told == failed("the connection broke"),
            "{tls:?}: {told:?}"
        );
        assert!(stranger.server.said().iter().all(|line| !line.starts_with("AUTH")));
        assert!(stranger.server.taken().is_empty());
    }
}

#[tokio::test]
async fn what_a_mail_server_says_is_told_by_its_code_alone() {
    let busy = Post::new(MailTls::StartTls, |manner| manner.busy = 1).await;
    assert_eq!(busy.tell().await, failed("it answered 451"));
    busy.tell().await.unwrap();
    let strict = Post::new(MailTls::StartTls, |manner| {
        manner.login = Some(("gateway".to_owned(), "another".to_owned()));
    })
    .await;
    assert_eq!(strict.tell().await, failed("it answered 535"));
    let mute = Post::new(MailTls::StartTls, |manner| manner.mute = 1).await;
    assert_eq!(mute.tell().await, failed("the connection broke"), "taken, but nobody said so");
    mute.tell().await.unwrap();
    let ids: Vec<_> =
        mute.server.taken().iter().map(|mail| mail.header("Message-ID").unwrap().to_owned()).collect();
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]), "so that the second can be told for the first");
}

#[tokio::test]
async fn mail_in_the_clear_goes_only_where_it_is_listed_and_without_a_password() {
    let post = Post::new(MailTls::Plain, |manner| (manner.tls, manner.login) = (None, None)).await;
    post.tell().await.unwrap();
    assert!(!post.server.taken()[0].encrypted);

    let mut strict = Post::new(MailTls::Plain, |_| {}).await;
    strict.declared.login = Some(("gateway".to_owned(), "mail".to_owned()));
    assert_eq!(strict.receiver().unwrap_err().member, "password");
    strict.declared.login = None;
    strict.egress = Egress::new(Rules::default());
    let wrong = strict.receiver().unwrap_err();
    assert_eq!(wrong.member, "tls");
    assert!(wrong.why.contains("egress.plain_http"), "{}", wrong.why);
}

#[tokio::test]
async fn a_mail_server_is_reached_under_the_rules_of_egress() {
    let mut post = Post::new(MailTls::StartTls, |_| {}).await;
    post.egress = Egress::with_lookup(Rules::default(), Changing::new(&[&["127.0.0.1"]]));
    let Err(Untold::Failed(why)) = post.tell().await else { panic!("it was told") };
    assert!(why.contains("a loopback address"), "{why}");
    assert!(post.server.said().is_empty());

    post.declared.host = "127.0.0.1".to_owned();
    assert_eq!(post.receiver().unwrap_err().member, "host", "an address is refused at once");
}

#[tokio::test]
async fn a_mail_that_cannot_be_is_named_by_the_member() {
    let post = Post::new(MailTls::StartTls, |_| {}).await;
    let wrong = |change: fn(&mut DeclaredMail)| {
        let mut declared = post.declared.clone();
        change(&mut declared);
        let outside = Outside { egress: &post.egress, secrets: &post.secrets };
        Receiver::new(&Declared::Mail(declared), outside).unwrap_err().member
    };
    assert_eq!(wrong(|mail| mail.from = "nobody".to_owned()), "from");
    assert_eq!(wrong(|mail| mail.from = "a@b.example\r\nBcc: c@d.example".to_owned()), "from");
    assert_eq!(wrong(|mail| mail.to = vec!["a@b.example\nX: y".to_owned()]), "to");
    assert_eq!(wrong(|mail| mail.to.clear()), "to");
    assert_eq!(wrong(|mail| mail.host = "mail example".to_owned()), "host");
    assert_eq!(wrong(|mail| mail.login = Some(("gateway".to_owned(), "absent".to_owned()))), "password");
    assert_eq!(wrong(|mail| mail.port = 1), "password", "the secret is not for that port");
}

#[tokio::test]
async fn nothing_shows_the_password_or_the_key() {
    let post = Post::new(MailTls::StartTls, |_| {}).await;
    let shown = format!("{:?} {:?}", post.receiver().unwrap(), post.secrets);
    assert!(!shown.contains("p4ssw0rd"), "{shown}");
    let server = Server::start(|_: &Seen| Act::Say(answer(200, ""))).await;
    let at = server.address.to_string();
    let (egress, secrets) = (open_to(std::slice::from_ref(&at)), secret("hook", KEY, &[&at]).unwrap());
    let outside = Outside { egress: &egress, secrets: &secrets };
    let receiver = Receiver::new(&hook(&server.url()), outside).unwrap();
    let shown = format!("{receiver:?} {secrets:?}");
    assert!(!shown.contains("MfKQ9r8G"), "{shown}");
}

#[test]
fn a_signing_key_is_a_static_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Source::File(path)
    };
    let keys = provider::secrets::AwsKeys {
        access_key: file("id", "AKID"),
        secret_key: file("key", "secret"),
        session_token: None,
        region: "eu".to_owned(),
        service: "x".to_owned(),
    };
    let declared = provider::secrets::Declared {
        name: "hook".to_owned(),
        kind: Kind::AwsSigV4(keys),
        hosts: vec!["hooks.example".to_owned()],
    };
    let (egress, secrets) = (open_to(&[]), Secrets::load([declared]).unwrap());
    let wrong =
        Receiver::new(&hook("https://hooks.example/"), Outside { egress: &egress, secrets: &secrets });
    assert_eq!(wrong.unwrap_err().member, "secret");
}
