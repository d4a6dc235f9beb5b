//! Callers by access tokens, over HTTP: an issuer with keys of its own, tokens of every kind, and what becomes of them when
//! keys change or the issuer is gone.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA256};
use aws_lc_rs::{hmac, rsa};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use receipt::Verdict;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::approvals::ask_for;
use crate::house::{House, ISSUER, Plan, Said, Voice, payment, verdict};

/// Stands in every token that is refused, and nowhere else.
const ODD: &str = "zq7-what-a-token-says";

/// An issuer of tokens: its metadata and keys are served, and it can be told to fail.
struct Idp {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    keys: Vec<Value>,
    down: bool,
    asked: usize,
}

impl Idp {
    async fn start() -> Idp {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, address, Arc::clone(&shared)));
            }
        });
        Idp { address, state }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn publish(&self, keys: &[&Key]) {
        self.state().keys = keys.iter().map(|key| key.jwk.clone()).collect();
    }

    fn asked(&self) -> usize {
        self.state().asked
    }

    fn claims(&self, sub: &str) -> Value {
        let now = now();
        json!({
            "iss": self.url(), "sub": sub, "client_id": "c-1", "aud": format!("{ISSUER}/mcp"), "iat": now,
            "exp": now + 3600, "scope": "act read", "odd": ODD,
        })
    }

    /// A house whose gateway takes its tokens.
    async fn house(&self, more: &str) -> House {
        House::with(self.plan(more)).await
    }

    fn plan(&self, more: &str) -> Plan {
        let config = format!(
            "[[token_issuers]]\nissuer = \"{}\"\nprefix = \"idp:\"\nscopes = [\"act\"]\n{more}\n",
            self.url()
        );
        Plan { config, reach: vec![self.address.to_string()], log: Some("debug"), ..Plan::default() }
    }
}

async fn answer(mut stream: TcpStream, address: SocketAddr, state: Arc<Mutex<State>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, body) = {
        let mut state = state.lock().unwrap();
        state.asked += 1;
        let issuer = format!("http://{address}");
        match path.as_str() {
            _ if state.down => ("500 Internal Server Error", Value::Null),
            "/.well-known/openid-configuration" => {
                ("200 OK", json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}))
            }
            // As RFC 8414 has it.
            "/.well-known/oauth-authorization-server/realm" => {
                let realm = format!("{issuer}/realm");
                ("200 OK", json!({"issuer": realm, "jwks_uri": format!("{issuer}/keys")}))
            }
            "/liar/.well-known/openid-configuration" => {
                ("200 OK", json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}))
            }
            "/keys" => ("200 OK", json!({"keys": state.keys})),
            _ => ("404 Not Found", Value::Null),
        }
    };
    let body = body.to_string();
    let length = body.len();
    let said = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.write_all(said.as_bytes()).await;
}

/// A key that tokens are signed with.
struct Key {
    kid: &'static str,
    alg: &'static str,
    jwk: Value,
    sign: Sign,
}

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

impl Key {
    fn p256(kid: &'static str) -> Key {
        let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref()).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig"});
        let sign = move |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        Key { kid, alg: "ES256", jwk, sign: Box::new(sign) }
    }

    fn pss(kid: &'static str) -> Key {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        // SEQUENCE { INTEGER n, INTEGER e }, as it is for 2048 bits.
        let public = pair.public_key().as_ref();
        let (n, e) = (encoded(&public[9..265]), encoded(&public[267..]));
        let jwk = json!({"kty": "RSA", "n": n, "e": e, "kid": kid, "alg": "PS256"});
        let sign = move |message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        };
        Key { kid, alg: "PS256", jwk, sign: Box::new(sign) }
    }

    fn header(&self) -> Value {
        json!({"alg": self.alg, "kid": self.kid, "typ": "at+jwt"})
    }

    fn token(&self, claims: &Value) -> String {
        self.headed(&self.header(), claims)
    }

    fn headed(&self, header: &Value, claims: &Value) -> String {
        signed(header, claims, |message| (self.sign)(message))
    }
}

fn signed(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| encoded(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = encoded(&sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn encoded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn with(value: &Value, member: &str, to: Value) -> Value {
    let mut changed = value.clone();
    changed[member] = to;
    changed
}

fn voice(house: &House, token: String) -> Voice {
    Voice { key: Some(token), ..house.nobody() }
}

/// What somebody with this token hears who only wants to know whether they are known.
async fn heard(house: &House, token: &str) -> Said {
    voice(house, token.to_owned()).get("/v1/sessions").await
}

/// The same until it is this.
async fn until(house: &House, token: &str, status: u16) -> Said {
    for _ in 0..1000 {
        let said = heard(house, token).await;
        if said.status == status {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never came to {status}: {}", heard(house, token).await.text())
}

fn challenge(said: &Said) -> &str {
    said.headers["www-authenticate"].to_str().unwrap()
}

/// What a caller hears whose token lacks the scope that is asked for.
pub(crate) async fn without_its_scope() -> Said {
    let (idp, key) = (Idp::start().await, Key::p256("k-1"));
    idp.publish(&[&key]);
    let house = idp.house("").await;
    let said = heard(&house, &key.token(&with(&idp.claims("bot"), "scope", json!("react read")))).await;
    assert_eq!(
        challenge(&said),
        format!(
            "Bearer realm=\"countersign\", error=\"insufficient_scope\", scope=\"act\", \
             resource_metadata=\"{ISSUER}/.well-known/oauth-protected-resource\""
        )
    );
    said
}

/// A mandate for a caller whom no API key names.
async fn mandate_of(house: &House, subject: &str) -> Value {
    let ask = json!({
        "subject": subject, "scope": ["Payments"], "expires_in_seconds": 3600, "even_if_unknown": true,
        "spend_cap": {"amount": "90000.00", "currency": "USD"},
    });
    let issued = house.voice("default", "operator").post("/v1/mandates", &ask).await;
    assert_eq!(issued.status, 201, "{}", issued.text());
    issued.body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_brings_a_token_acts_and_is_the_agent_of_the_receipt() {
    let (idp, curve, pss) = (Idp::start().await, Key::p256("k-1"), Key::pss("k-2"));
    idp.publish(&[&curve, &pss]);
    let mut house = idp.house("").await;
    let bot = voice(&house, curve.token(&idp.claims("bot")));
    let mandate = mandate_of(&house, "idp:bot").await;
    let token = mandate["token"].as_str().unwrap();
    let said = bot.execute("one", &payment("acct-1", "5.00", token)).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    let receipt = bot.get(&format!("/v1/receipts/{}", said.body["receipt_id"].as_str().unwrap())).await;
    assert_eq!(verdict(&receipt.bytes, &house.jwks().await), Verdict::Valid);
    assert_eq!(receipt.body["agentId"], "idp:bot");
    // Idempotency is the subject's, and not the token's: another token and another key of the issuer's are the same caller.
    let again = voice(&house, pss.token(&with(&idp.claims("bot"), "jti", json!("other"))));
    let said = again.execute("one", &payment("acct-1", "5.00", token)).await;
    assert!(said.replayed(), "{}", said.text());
    // Another caller sees nothing of it and does not act under that mandate.
    let other = voice(&house, curve.token(&idp.claims("other")));
    assert_eq!(other.get(&format!("/v1/actions/{}", said.id())).await.status, 404);
    let refused = other.execute("one", &payment("acct-2", "5.00", token)).await;
    assert_eq!(refused.code(), "EP_DELEGATION_BLOCK", "{}", refused.text());
    // An agent is no more than that, in the sandbox too.
    assert_eq!(bot.get("/v1/audit").await.status, 403);
    assert_eq!(bot.get("/sandbox/v1/sessions").await.status, 200);
    assert_eq!(bot.post("/v1/keys", &json!({"subject": "x", "role": "agent"})).await.status, 403);

    // With a mandate of its own the request brings none.
    let config = house.path().join("countersign.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let more = format!("prefix = \"idp:\"\ndefault_mandate = {}\n", mandate["mandate"]["jti"]);
    std::fs::write(&config, text.replace("prefix = \"idp:\"\n", &more)).unwrap();
    house.gateway.stop();
    house.start();
    let mut bare = payment("acct-3", "5.00", "");
    bare.as_object_mut().unwrap().remove("delegation_token");
    let said = voice(&house, curve.token(&idp.claims("bot"))).execute("three", &bare).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    let checked = house.voice("default", "auditor").get("/v1/audit/verify").await;
    assert_eq!(checked.body["findings"], json!([]), "{}", checked.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_who_come_by_tokens_decide_on_what_waits_and_not_on_their_own() {
    let (idp, key) = (Idp::start().await, Key::p256("k-1"));
    idp.publish(&[&key]);
    let people = format!(
        "[[token_issuers]]\nissuer = \"http://{0}/people\"\njwks_url = \"http://{0}/keys\"\nprefix = \"people:\"\n\
         role = \"approver\"\n[limits]\nrecovery_interval_ms = 50\n",
        idp.address
    );
    let house = idp.house(&people).await;
    ask_for(&house, 1);
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    let mandate = mandate_of(&house, "idp:bot").await;
    let body = payment("acct-1", "6000.00", mandate["token"].as_str().unwrap());
    let bot = voice(&house, key.token(&idp.claims("bot")));
    let held = bot.execute("large", &body).await;
    assert_eq!((held.status, held.kind()), (202, "held"), "{}", held.text());
    let approve = format!("/v1/actions/{}/approve", held.id());
    assert_eq!(bot.post(&approve, &json!({})).await.status, 403);
    let ann = with(&idp.claims("ann"), "iss", json!(format!("{}/people", idp.url())));
    let ann = voice(&house, key.token(&ann));
    let approved = ann.post(&approve, &json!({"comment": "checked"})).await;
    assert_eq!(approved.status, 200, "{}", approved.text());
    let mut done = bot.execute("large", &body).await;
    while matches!(done.kind(), "held" | "pending_settlement") {
        tokio::time::sleep(Duration::from_millis(20)).await;
        done = bot.execute("large", &body).await;
    }
    assert_eq!(done.kind(), "executed", "{}", done.text());
    let receipt = bot.get(&format!("/v1/receipts/{}", done.body["receipt_id"].as_str().unwrap())).await;
    assert_eq!(verdict(&receipt.bytes, &house.jwks().await), Verdict::Valid);
    let approval = &receipt.body["metadata"]["approvals"][0];
    let record = house.voice("default", "auditor").get(&format!("/v1/actions/{}", held.id())).await;
    assert_eq!(record.body["approvals"][0]["approver"], "people:ann", "{}", record.text());
    assert_eq!(approval["credential_id"], format!("{}/people k-1", idp.url()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_one_for_us_is_refused_in_the_same_words_and_told_nowhere() {
    let (idp, key, stranger) = (Idp::start().await, Key::p256("k-1"), Key::p256("k-1"));
    idp.publish(&[&key]);
    let house = idp.house("").await;
    assert_eq!(heard(&house, &key.token(&idp.claims("bot"))).await.status, 200);
    let entries = || {
        let db = Connection::open(house.path().join("data/production.db")).unwrap();
        db.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let before = entries();
    let good = idp.claims("bot");
    let claiming = |member: &str, value: Value| key.token(&with(&good, member, value));
    let headed = |member: &str, value: Value| key.headed(&with(&key.header(), member, value), &good);
    let by_secret = |secret: &[u8]| {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let header = json!({"alg": "HS256", "kid": "k-1", "typ": "at+jwt"});
        signed(&header, &good, |message| hmac::sign(&secret, message).as_ref().to_vec())
    };
    let public = {
        let part = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(key.jwk[name].as_str().unwrap()).unwrap();
        [vec![4], part("x"), part("y")].concat()
    };
    let whole = key.token(&good);
    let (unsigned, _) = whole.rsplit_once('.').unwrap();
    let mut altered = good.clone();
    altered["sub"] = json!("root");
    let transplanted = {
        let header = unsigned.split_once('.').unwrap().0;
        let (_, signature) = whole.rsplit_once('.').unwrap();
        format!("{header}.{}.{signature}", encoded(altered.to_string().as_bytes()))
    };
    let cases = [
        ("wrong audience", claiming("aud", json!("https://other.example/mcp"))),
        ("audience of something below", claiming("aud", json!(format!("{ISSUER}/mcp/git")))),
        ("no audience", claiming("aud", Value::Null)),
        ("wrong issuer", claiming("iss", json!("https://evil.example"))),
        ("issuer with a slash", claiming("iss", json!(format!("{}/", idp.url())))),
        ("expired", claiming("exp", json!(now() - 60))),
        ("without an end", claiming("exp", Value::Null)),
        ("not yet valid", claiming("nbf", json!(now() + 3600))),
        ("of tomorrow", claiming("iat", json!(now() + 86_400))),
        ("bound to a key", claiming("cnf", json!({"jkt": "abc"}))),
        ("no subject", claiming("sub", Value::Null)),
        ("a subject that is no name", claiming("sub", json!("bot\u{202e}"))),
        ("a subject with a space", claiming("sub", json!("bot two"))),
        ("a subject that is too long", claiming("sub", json!("b".repeat(125)))),
        ("unknown kid", headed("kid", json!("k-9"))),
        ("no kid", headed("kid", Value::Null)),
        ("crit", headed("crit", json!(["exp"]))),
        ("jku", headed("jku", json!(format!("{}/keys", idp.url())))),
        ("x5u", headed("x5u", json!(format!("{}/keys", idp.url())))),
        ("jwk", stranger.headed(&with(&key.header(), "jwk", stranger.jwk.clone()), &good)),
        ("a mandate", headed("typ", json!("mandate+jwt"))),
        ("an event", headed("typ", json!("secevent+jwt"))),
        ("a real mandate", house.token("default").to_owned()),
        ("another algorithm", headed("alg", json!("RS256"))),
        ("none", headed("alg", json!("none"))),
        ("none, unsigned", signed(&json!({"alg": "none", "typ": "JWT", "kid": "k-1"}), &good, |_| vec![])),
        ("HS256 with the public key", by_secret(&public)),
        ("HS256 with the JWK", by_secret(key.jwk.to_string().as_bytes())),
        ("somebody else's signature", stranger.token(&good)),
        ("another payload", transplanted),
        ("no signature", format!("{unsigned}.")),
        ("four parts", format!("{whole}.x")),
        ("no token", "a.b.c".to_owned()),
        ("dots", "..".to_owned()),
        ("oversized", claiming("more", json!("a".repeat(8192)))),
    ];
    for (what, token) in &cases {
        let said = heard(&house, token).await;
        let told = (said.status, said.code(), said.body["message"].as_str());
        let expected = match *what {
            "oversized" => "the header Authorization is not Bearer and a key or token",
            _ => "this is not a valid access token",
        };
        assert_eq!(told, (401, "EP_UNAUTHENTICATED", Some(expected)), "{what}");
        let led = format!("resource_metadata=\"{ISSUER}/.well-known/oauth-protected-resource\"");
        let challenge = challenge(&said);
        assert!(
            challenge.contains("error=\"invalid_token\"") && challenge.contains(&led),
            "{what}: {challenge}"
        );
        assert_eq!(said.body.as_object().unwrap().len(), 4, "{what}: {}", said.text());
    }
    assert_eq!(entries(), before, "nothing is written");
    // What was wrong stands in the log, and nothing of any token.
    let log = house.log();
    for why in
        ["it is meant for somebody else", "its issuer has no such key", "has expired", "another algorithm"]
    {
        assert!(log.contains(why), "the log says nothing of `{why}`");
    }
    let parts: BTreeSet<&str> =
        cases.iter().flat_map(|(_, token)| token.split('.')).filter(|part| part.len() > 20).collect();
    for part in parts.into_iter().chain([ODD, "evil.example", "k-9"]) {
        assert!(!log.contains(part), "the log has `{part}`");
    }
    assert_eq!(heard(&house, &whole).await.status, 200, "the good one is as good as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_new_is_found_and_one_that_is_gone_is_believed_no_more() {
    let (idp, old, new) = (Idp::start().await, Key::p256("old"), Key::p256("new"));
    idp.publish(&[&old]);
    let house = idp.house("keys_retry_seconds = 1").await;
    let (by_old, by_new) = (old.token(&idp.claims("bot")), new.token(&idp.claims("bot")));
    assert_eq!(heard(&house, &by_old).await.status, 200);
    until(&house, &by_new, 401).await;
    idp.publish(&[&new]);
    until(&house, &by_new, 200).await;
    assert_eq!(heard(&house, &by_old).await.status, 401);
}

/// By OpenID Connect Discovery or RFC 8414, from whoever says that it is the issuer, and from nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_where_the_metadata_of_the_issuer_itself_says() {
    let (idp, key) = (Idp::start().await, Key::p256("k-1"));
    idp.publish(&[&key]);
    let more: String = ["realm", "liar"]
        .map(|name| format!("[[token_issuers]]\nissuer = \"{}/{name}\"\nprefix = \"{name}:\"\n", idp.url()))
        .concat();
    let house = idp.house(&more).await;
    let token =
        |below: &str| key.token(&with(&idp.claims("bot"), "iss", json!(format!("{}{below}", idp.url()))));
    assert_eq!(heard(&house, &token("")).await.status, 200);
    assert_eq!(heard(&house, &token("/realm")).await.status, 200);
    assert_eq!(heard(&house, &token("/liar")).await.status, 503);
    assert!(house.log().contains("another `issuer`"), "{}", house.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_strangers_do_not_make_us_ask() {
    let (idp, key) = (Idp::start().await, Key::p256("k-1"));
    idp.publish(&[&key]);
    let rarely = "keys_retry_seconds = 3600\nkeys_fresh_seconds = 3600\n";
    let house = idp.house(rarely).await;
    assert_eq!(idp.asked(), 0, "nothing is asked before a token comes");
    // Many at once are one question.
    let token = key.token(&idp.claims("bot"));
    let several: Vec<_> = (0..10)
        .map(|_| {
            let voice = voice(&house, token.clone());
            tokio::spawn(async move { voice.get("/v1/sessions").await })
        })
        .collect();
    for said in several {
        let said = said.await.unwrap();
        assert_eq!(said.status, 200, "{}", said.text());
    }
    let asked = idp.asked();
    assert_eq!(asked, 2, "its metadata and its keys");
    for n in 0..50 {
        let header = with(&key.header(), "kid", json!(format!("k-{n}-more")));
        assert_eq!(heard(&house, &key.headed(&header, &idp.claims("bot"))).await.status, 401);
    }
    assert_eq!(idp.asked(), asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_issuer_a_key_is_good_for_a_while_and_then_nobody_is_let_in() {
    let (idp, key) = (Idp::start().await, Key::p256("k-1"));
    idp.publish(&[&key]);
    let token = key.token(&idp.claims("bot"));

    let patient =
        idp.house("keys_retry_seconds = 1\nkeys_fresh_seconds = 1\nkeys_stale_seconds = 3600").await;
    assert_eq!(heard(&patient, &token).await.status, 200);
    idp.state().down = true;
    let asked = idp.asked();
    while idp.asked() < asked + 4 {
        assert_eq!(
            heard(&patient, &token).await.status,
            200,
            "it was asked in vain {} times",
            idp.asked() - asked
        );
    }
    // A key that it never had is not believed meanwhile.
    assert_eq!(heard(&patient, &Key::p256("k-2").token(&idp.claims("bot"))).await.status, 401);

    idp.state().down = false;
    let strict = idp.house("keys_retry_seconds = 1\nkeys_fresh_seconds = 1\nkeys_stale_seconds = 1").await;
    until(&strict, &token, 200).await;
    idp.state().down = true;
    let closed = until(&strict, &token, 503).await;
    assert_eq!(closed.code(), "EP_UNAVAILABLE");
    assert!(closed.headers.contains_key("retry-after"));
    assert_eq!(strict.agent().get("/v1/sessions").await.status, 200, "API keys go on");
    idp.state().down = false;
    until(&strict, &token, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_has_the_name_of_somebody_else() {
    let (idp, key) = (Idp::start().await, Key::p256("k-1"));
    idp.publish(&[&key]);
    // By `client_id`, and in the clear where the operator says that keys and tokens name the same.
    let second = format!(
        "\n[[token_issuers]]\nissuer = \"http://{0}/staff\"\njwks_url = \"http://{0}/keys\"\nprefix = \"default-a\"\n\
         shares_subjects = true\nrole = \"auditor\"\nsubject = \"client_id\"\naudience = \"gw\"\n",
        idp.address
    );
    let mut house = idp.house(&second).await;
    let admin = house.admin();
    // No API key is made for a name of the issuer's, and no principal of that name gives mandates.
    let said = admin.post("/v1/keys", &json!({"subject": "idp:bot", "role": "auditor"})).await;
    assert_eq!((said.status, said.code()), (409, "EP_STATE_CONFLICT"), "{}", said.text());
    assert!(said.text().contains("shares_subjects"), "{}", said.text());
    let jwk =
        json!({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}});
    let said = admin.post("/v1/principals/idp:bot/keys", &jwk).await;
    assert_eq!((said.status, said.code()), (409, "EP_STATE_CONFLICT"), "{}", said.text());
    // A token that says another issuer's name is still its own issuer's caller.
    let odd = voice(&house, key.token(&idp.claims("default-agent")));
    let mandate = mandate_of(&house, "idp:default-agent").await;
    let said = odd.execute("k", &payment("acct-1", "1.00", mandate["token"].as_str().unwrap())).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
    let refused = odd.execute("l", &house.payment("acct-1", "2.00")).await;
    assert_eq!(
        refused.code(),
        "EP_DELEGATION_BLOCK",
        "the agent with the key is somebody else: {}",
        refused.text()
    );
    // The other issuer's are for its audience, and what its role lets them.
    let staff = with(&idp.claims("x"), "iss", json!(format!("{}/staff", idp.url())));
    let staff = with(&with(&staff, "client_id", json!("uditor")), "aud", json!("gw"));
    let voice = |claims: &Value| voice(&house, key.token(claims));
    assert_eq!(voice(&staff).get("/v1/audit").await.status, 200);
    assert_eq!(voice(&staff).execute("m", &house.payment("acct-1", "2.00")).await.status, 403);
    assert_eq!(
        voice(&with(&staff, "aud", json!(format!("{ISSUER}/mcp")))).get("/v1/audit").await.status,
        401
    );

    // A key that was there first keeps its name: the gateway does not start with an issuer that would give it, too.
    let config = house.path().join("countersign.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("prefix = \"idp:\"", "prefix = \"default-r\"")).unwrap();
    let keys = admin.get("/v1/keys").await;
    let rival = keys.body["items"].as_array().unwrap_or_else(|| panic!("{}", keys.text()));
    let rival = rival.iter().find(|key| key["subject"] == "default-rival").unwrap()["id"].clone();
    house.gateway.stop();
    let ended = house.serve().output().unwrap();
    let why = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && why.contains("default-rival") && why.contains("revoke it"), "{why}");
    // Nobody comes in by a revoked key, so the name is free.
    let mut revoke = std::process::Command::new(env!("CARGO_BIN_EXE_countersign"));
    revoke.args(["keys", "--data-dir"]).arg(house.path().join("data"));
    let revoked = revoke.args(["api", "revoke", rival.as_str().unwrap()]).output().unwrap();
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    house.start();
    let named = Voice { key: Some(key.token(&idp.claims("ival"))), ..house.nobody() };
    assert_eq!(named.get("/v1/sessions").await.status, 200);
    assert_eq!(house.voice("default", "rival").get("/v1/sessions").await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_one_mcp_server_lets_in_there_and_nowhere_else() {
    let (idp, key) = (Idp::start().await, Key::p256("k-1"));
    idp.publish(&[&key]);
    let house = idp.house("").await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let metadata = |below: &str| format!("/.well-known/oauth-protected-resource{below}\"");
    let token = |below: &str| key.token(&with(&idp.claims("bot"), "aud", json!(format!("{ISSUER}{below}"))));
    for (aud, path, let_in) in [
        ("/mcp/git", "/mcp/git", true),
        ("/mcp/git", "/mcp/mail", false),
        ("/mcp/git", "/mcp", false),
        ("/mcp/git", "/sandbox/mcp/git", false),
        ("/mcp", "/mcp/git", true),
        ("/mcp", "/mcp", true),
        ("", "/mcp", true),
        ("/", "/mcp", true),
    ] {
        let said = voice(&house, token(aud)).post(path, &ping).await;
        assert_eq!(said.status != 401, let_in, "{aud} at {path}: {}", said.text());
        if !let_in {
            let below = if path.starts_with("/mcp") { path } else { "" };
            assert!(challenge(&said).ends_with(&metadata(below)), "{path}: {}", challenge(&said));
        }
    }
    let said = house.nobody().post("/mcp/git", &ping).await;
    assert!(said.status == 401 && challenge(&said).ends_with(&metadata("/mcp/git")), "{}", challenge(&said));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_led_to_who_gives_tokens() {
    let idp = Idp::start().await;
    let house = idp.house("").await;
    let nobody = house.nobody();
    let well_known = "/.well-known/oauth-protected-resource";
    for (below, name) in [("", "Countersign"), ("/mcp", "Countersign: MCP"), ("/mcp/git", "Countersign: git")]
    {
        let said = nobody.get(&format!("{well_known}{below}")).await;
        assert_eq!(
            said.body,
            json!({
                "resource": format!("{ISSUER}{below}"), "authorization_servers": [idp.url()],
                "bearer_methods_supported": ["header"], "scopes_supported": ["act"], "resource_name": name,
                "resource_documentation": format!("{ISSUER}/docs"),
            })
        );
    }
    for none in ["/mcp/a%22b", "/mcp/a%20b", "/mcp/a/b", "/other"] {
        assert_eq!(nobody.get(&format!("{well_known}{none}")).await.status, 404, "{none}");
    }
    let metadata = format!("resource_metadata=\"{ISSUER}{well_known}\"");
    let said = nobody.get("/v1/sessions").await;
    assert_eq!(
        (said.status, challenge(&said)),
        (401, format!("Bearer realm=\"countersign\", scope=\"act\", {metadata}").as_str())
    );
    let said = Voice { key: Some("cs_wrong".into()), ..house.nobody() }.get("/v1/sessions").await;
    assert_eq!(
        (said.status, challenge(&said)),
        (
            401,
            format!("Bearer realm=\"countersign\", error=\"invalid_token\", scope=\"act\", {metadata}")
                .as_str()
        )
    );
    // Without an issuer there is nobody to be led to, and the rest is as it is.
    let plain = House::new().await;
    let said = plain.nobody().get(&format!("{well_known}/mcp")).await;
    let named = |member: &str| said.body.get(member).is_some();
    assert!(
        !named("authorization_servers") && !named("scopes_supported") && named("resource"),
        "{}",
        said.text()
    );
}
