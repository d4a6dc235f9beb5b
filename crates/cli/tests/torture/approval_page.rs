//! The approval page over HTTP: who gets in, what a form has to carry, what a signature is worth, and that whoever writes to
//! the store forges nobody's consent.

use std::fs;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use testkit::bank::{Fault, Injection};
use tokio::time::sleep;

use crate::house::{House, ISSUER, Plan, Said, Voice, countersign};
use crate::passkey::{Change, ORIGIN, Passkey, text};
use crate::visitor::{Visitor, enrolled};

async fn house(needed: u32) -> House {
    let house =
        House::with(Plan { config: "[limits]\nrecovery_interval_ms = 50\n".into(), ..Plan::default() }).await;
    if needed > 1 {
        let path = house.path().join("catalogue/default/payment.toml");
        let file = fs::read_to_string(&path).unwrap();
        let more = format!("extends = \"builtin\"\napprovals = {needed}\n");
        fs::write(&path, file.replace("extends = \"builtin\"\n", &more)).unwrap();
        assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    }
    house
}

/// Another approver of the first tenant.
async fn person(house: &House, name: &str) -> Voice {
    let made = house.admin().post("/v1/keys", &json!({"subject": name, "role": "approver"})).await;
    Voice { key: Some(made.body["secret"].as_str().unwrap().to_owned()), ..house.nobody() }
}

/// A payment that waits for people; in production it takes a passkey.
async fn held(house: &House, key: &str) -> String {
    let said = house.agent().execute(key, &house.payment(key, "6000.00")).await;
    assert_eq!(said.kind(), "held", "{}", said.text());
    said.id().to_owned()
}

async fn ask(voice: &Voice, id: &str, comment: Value) -> Said {
    voice.post(&format!("/v1/actions/{id}/envelope"), &json!({"comment": comment})).await
}

async fn approve(voice: &Voice, id: &str, assertion: &Value) -> Said {
    voice.post(&format!("/v1/actions/{id}/approve"), &json!({"assertion": assertion})).await
}

/// The last word on an action.
async fn ended(house: &House, id: &str) -> Value {
    for _ in 0..400 {
        let record = house.admin().get(&format!("/v1/actions/{id}")).await.body;
        if !record["receipts"].as_array().unwrap().is_empty() {
            return record;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("it never ended: {}", house.log())
}

/// What `countersign verify` says of an action's receipt, with these people pinned.
async fn verified(house: &House, record: &Value, approvers: &Value) -> (bool, String) {
    let document = receipt_of(house, record).await;
    checked(house, document, approvers, &[]).await
}

/// The first receipt of an action.
async fn receipt_of(house: &House, record: &Value) -> Vec<u8> {
    let receipt = record["receipts"][0]["receipt_id"].as_str().unwrap();
    house.admin().get(&format!("/v1/receipts/{receipt}")).await.bytes
}

/// What `countersign verify` says of a document, with these people pinned and these options.
async fn checked(house: &House, document: Vec<u8>, approvers: &Value, more: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let jwks = house.nobody().get("/.well-known/jwks.json").await.bytes;
    let pin = receipt::Pin::new(ISSUER, &receipt::Jwks::parse(&jwks).unwrap());
    let mut command = countersign();
    command.arg("verify").args(more);
    for (option, name, bytes) in [
        (None, "receipt.json", document),
        (Some("--jwks"), "jwks.json", jwks),
        (Some("--issuer"), "issuer.pin", pin.to_text().into_bytes()),
        (Some("--approvers"), "approvers.json", approvers.to_string().into_bytes()),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        command.args(option).arg(path);
    }
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The same receipt with something else in it, signed by the gateway's own key: as a gateway would that lies.
fn signed_anew(house: &House, document: &[u8], change: impl FnOnce(&mut receipt::Draft<'_>)) -> Vec<u8> {
    let text = std::str::from_utf8(document).unwrap();
    let read = receipt::Document::parse(text).unwrap();
    let entries: Value = serde_json::from_str::<Value>(text).unwrap()["entries"].take();
    let entries = receipt::Json::canonical(&entries).unwrap();
    let chain = receipt::Chain::from_bytes(entries.as_str().as_bytes()).unwrap();
    let named = format!("{}.pkcs8", read.kid);
    let mut folders = vec![house.path().join("data")];
    let key = loop {
        let folder = folders.pop().expect("the key lies in the data directory");
        let inside = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let (below, files): (Vec<_>, Vec<_>) = inside.partition(|path| path.is_dir());
        if let Some(file) = files.iter().find(|file| file.file_name().unwrap() == named.as_str()) {
            break receipt::SigningKey::from_pkcs8(&fs::read(file).unwrap()).unwrap();
        }
        folders.extend(below);
    };
    let mut draft = read.content.clone();
    change(&mut draft);
    receipt::sign(&draft, &chain, &key).unwrap().into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_approvers_get_in_and_only_by_a_form_of_this_page() {
    let house = house(1).await;
    for role in ["agent", "operator", "auditor", "admin"] {
        let key = house.voice("default", role).key.unwrap();
        let mut visitor = Visitor::of(&house);
        visitor.look("/approvals").await;
        let said = visitor.send("/approvals/login", &[("key", &key)]).await;
        assert_eq!(said.status, 403, "{role}");
        assert!(said.text().contains("role approver") && !said.text().contains(&key), "{}", said.text());
        assert_eq!(visitor.cookies.len(), 1, "only that of the form");
    }
    let key = house.voice("default", "approver").key.unwrap();
    let mut visitor = Visitor::of(&house);
    visitor.look("/approvals").await;
    let form = visitor.form.clone();
    for (fields, status) in [
        (vec![("form", form.as_str()), ("key", "cs_wrong")], 401),
        (vec![("form", ""), ("key", &key)], 403),
        (vec![("form", "guessed"), ("key", &key)], 403),
        (vec![("key", key.as_str())], 403),
        (vec![("form", &form), ("form", &form), ("key", &key)], 422),
        (vec![("form", &form), ("key", &key), ("colour", "red")], 422),
    ] {
        let said = visitor.send_as("/approvals/login", &fields, &[]).await;
        assert_eq!(said.status, status, "{fields:?}: {}", said.text());
    }
    let foreign = [("origin", "https://evil.example")];
    let said = visitor.send_as("/approvals/login", &[("form", &form), ("key", &key)], &foreign).await;
    assert_eq!(said.status, 403, "a page of another origin");
    let own = [("origin", ORIGIN)];
    let fields = [("form", form.as_str()), ("key", &key), ("next", "//evil.example/approvals")];
    let said = visitor.send_as("/approvals/login", &fields, &own).await;
    assert_eq!((said.status, &said.headers["location"].to_str().unwrap()), (303, &"/approvals"));
    for set in said.headers.get_all("set-cookie") {
        let set = set.to_str().unwrap();
        assert!(set.starts_with("__Host-countersign") && !set.contains(&key), "{set}");
        for guard in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/"] {
            assert!(set.split("; ").any(|it| it == guard), "no {guard} in {set}");
        }
    }
    let page = visitor.look("/approvals").await;
    assert_eq!(page.headers["cache-control"], "no-store");
    assert!(page.text().contains("default-approver"), "{}", page.text());
    // A session opens no other door, and ends with its key.
    let said = visitor.look("/v1/approvals").await;
    assert_eq!(said.status, 401);
    let keys = house.admin().get("/v1/keys").await.body;
    let own =
        keys["items"].as_array().unwrap().iter().find(|it| it["subject"] == "default-approver").unwrap();
    let revoke = format!("/v1/keys/{}/revoke", own["id"].as_str().unwrap());
    assert_eq!(house.admin().post(&revoke, &json!({})).await.status, 200);
    assert!(visitor.look("/approvals").await.text().contains("Log in to decide"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_needs_its_word_and_looking_decides_nothing() {
    let house = house(1).await;
    let id = held(&house, "acct-1").await;
    let approver = house.voice("default", "approver");
    let mut visitor = Visitor::logged_in(&house, &approver).await;
    let mut other = Visitor::logged_in(&house, &person(&house, "ben").await).await;
    other.look("/approvals").await;
    let (reject, foreign_word) = (format!("/approvals/{id}/reject"), other.form.clone());
    for path in [
        reject.clone(),
        format!("/approvals/{id}/approve"),
        format!("/approvals/{id}/envelope"),
        format!("/approvals/{id}/resolve"),
        "/approvals/logout".to_owned(),
        "/approvals/passkeys".to_owned(),
        "/approvals/passkeys/new".to_owned(),
        "/approvals/passkeys/pk_00/revoke".to_owned(),
    ] {
        for word in ["", "guessed", &foreign_word] {
            let said = visitor.send_as(&path, &[("form", word)], &[]).await;
            assert_eq!(said.status, 403, "{path} with {word}: {}", said.text());
        }
        let said = visitor.send_as(&path, &[], &[("content-type", "application/json")]).await;
        assert!([403, 415, 422].contains(&said.status), "{path}: {}", said.status);
    }
    // Whoever looks, at whatever address, has decided nothing.
    for path in [&reject, &format!("/approvals/{id}"), "/approvals", "/approvals/events?seen=nothing"] {
        assert!([200, 404, 405].contains(&visitor.look(path).await.status), "{path}");
    }
    assert_eq!(house.admin().get(&format!("/v1/approvals/{id}")).await.body["state"], "INTENDED");
    // The other tenant's people see nothing of it.
    let mut theirs = Visitor::logged_in(&house, &house.voice("other", "approver")).await;
    assert!(theirs.look("/approvals").await.text().contains("Nothing waits"));
    assert_eq!(theirs.look(&format!("/approvals/{id}")).await.status, 404);
    assert_eq!(theirs.look(&format!("/approvals/events?of={id}")).await.status, 404);
    assert_eq!(theirs.send(&reject, &[]).await.status, 404);
    // With its word the form decides, once.
    visitor.look(&format!("/approvals/{id}")).await;
    assert_eq!(visitor.send(&reject, &[("comment", "wrong account")]).await.status, 303);
    let said = visitor.send(&reject, &[]).await;
    assert_eq!(said.status, 409);
    assert!(said.text().contains("Too late, or twice"), "{}", said.text());
    // After logging out the cookie that was is nobody's.
    let before = visitor.cookies.clone();
    assert_eq!(visitor.send("/approvals/logout", &[]).await.status, 303);
    assert!(visitor.cookies.is_empty());
    visitor.cookies = before;
    assert_eq!(visitor.look(&format!("/approvals/{id}")).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_doubt_is_shown_with_what_the_provider_knows_it_by() {
    let house = house(1).await;
    house.bank.inject(Injection::payments(Fault::LostAfterEffect, 1));
    house.bank.inject(Injection::queries(Fault::ErrorBeforeEffect, 10_000));
    let said = house.agent().execute("acct-7", &house.payment("acct-7", "10.00")).await;
    assert_eq!(said.kind(), "pending_settlement", "{}", said.text());
    let mut visitor = Visitor::logged_in(&house, &house.voice("default", "approver")).await;
    let page = visitor.look("/approvals").await.text();
    for told in ["In doubt", "10.00 USD", "acct-7", "bank", "Our reference", said.id()] {
        assert!(page.contains(told), "no {told} in {page}");
    }
    let mut theirs = Visitor::logged_in(&house, &house.voice("other", "approver")).await;
    assert!(!theirs.look("/approvals").await.text().contains("In doubt"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_needs_a_login_too_and_no_passkey() {
    let house = house(1).await;
    let body = crate::house::payment("acct-1", "6000.00", "tok-sandbox-public");
    let said = house.agent().post("/api/sandbox/execute", &body).await;
    assert_eq!(said.kind(), "held", "{}", said.text());
    let page = format!("/sandbox/approvals/{}", said.id());
    assert_eq!(Visitor::of(&house).look(&page).await.status, 401);
    let mut visitor = Visitor::logged_in(&house, &house.voice("default", "approver")).await;
    assert!(visitor.look(&page).await.text().contains("formaction=\"/sandbox/approvals/"));
    assert_eq!(visitor.send(&format!("{page}/approve"), &[]).await.status, 303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passkey_is_registered_by_its_holder_and_counts_once_another_says_so() {
    let house = house(1).await;
    let approver = house.voice("default", "approver");
    let passkey = Passkey::new("anna's");
    let mut visitor = Visitor::logged_in(&house, &approver).await;
    let mut ben = Visitor::logged_in(&house, &person(&house, "ben").await).await;
    visitor.look("/approvals/passkeys").await;
    ben.look("/approvals/passkeys").await;
    // Made for somebody else, elsewhere, without the person, in another ceremony, or twice: nothing comes of it.
    let wrong: [(&str, Change); 5] = [
        ("origin", |saying| saying.client["origin"] = json!("https://evil.example")),
        ("relying party", |saying| saying.rp_id = "evil.example"),
        ("not present", |saying| saying.flags &= !1),
        ("not verified", |saying| saying.flags &= !4),
        ("ceremony", |saying| saying.client["type"] = json!("webauthn.get")),
    ];
    for (what, change) in wrong {
        let creation = visitor.send("/approvals/passkeys/new", &[]).await;
        let made = passkey.create(&creation.body["challenge"], change);
        let said = visitor.send("/approvals/passkeys", &[("enrolment", &made)]).await;
        assert_eq!(said.status, 422, "{what}: {}", said.text());
    }
    let creation = ben.send("/approvals/passkeys/new", &[]).await;
    let made = passkey.create(&creation.body["challenge"], |_| {});
    assert_eq!(
        visitor.send("/approvals/passkeys", &[("enrolment", &made)]).await.status,
        409,
        "asked of ben"
    );
    let made = passkey.create(&json!(text([0; 56])), |_| {});
    assert_eq!(visitor.send("/approvals/passkeys", &[("enrolment", &made)]).await.status, 409, "never asked");

    let id = visitor.register(&passkey).await;
    let creation = ben.send("/approvals/passkeys/new", &[]).await;
    let made = passkey.create(&creation.body["challenge"], |_| {});
    assert_eq!(ben.send("/approvals/passkeys", &[("enrolment", &made)]).await.status, 409, "it is anna's");
    assert_eq!(house.admin().get("/v1/approvers").await.body, json!([]), "not enrolled yet");
    let action = held(&house, "acct-1").await;
    assert_eq!(ask(&approver, &action, Value::Null).await.status, 403);
    let own = json!({"subject": "default-approver", "role": "admin"});
    let own = house.admin().post("/v1/keys", &own).await.body["secret"].as_str().unwrap().to_owned();
    let own = Voice { key: Some(own), ..house.nobody() };
    assert_eq!(own.post(&format!("/v1/passkeys/{id}/enrol"), &json!({})).await.status, 403, "her own");
    assert_eq!(house.admin().post(&format!("/v1/passkeys/{id}/enrol"), &json!({})).await.status, 200);
    assert_eq!(house.admin().post(&format!("/v1/passkeys/{id}/enrol"), &json!({})).await.status, 409);
    let [x, y] = passkey.point();
    let pinned = json!([{
        "approver": "default-approver", "credential_id": text("anna's"), "origins": [ORIGIN],
        "public_key": {"crv": "P-256", "kty": "EC", "x": x, "y": y}, "rp_id": "gw.example",
    }]);
    assert_eq!(house.admin().get("/v1/approvers").await.body, pinned);

    // Logged in by passkey, each answer once; nobody else's ends by ben's hand; after its end it opens nothing.
    let mut again = Visitor::of(&house);
    again.look("/approvals").await;
    let greeting = again.send("/approvals/greeting", &[]).await;
    let assertion = passkey.get(&greeting.body["challenge"]).to_string();
    let stolen = Passkey::new("anna's").get(&greeting.body["challenge"]).to_string();
    assert_eq!(again.send("/approvals/login", &[("assertion", &stolen)]).await.status, 401);
    let login = [("assertion", &*assertion)];
    assert_eq!(again.send("/approvals/login", &login).await.status, 303, "whoever guesses spoils nothing");
    let mut thief = Visitor::of(&house);
    thief.look("/approvals").await;
    assert_eq!(thief.send("/approvals/login", &login).await.status, 409, "it was answered");
    assert!(again.look("/approvals").await.text().contains("default-approver"));
    let revoke = format!("/approvals/passkeys/{id}/revoke");
    assert_eq!(ben.send(&revoke, &[]).await.status, 403);
    visitor.look("/approvals/passkeys").await;
    assert_eq!(visitor.send(&revoke, &[]).await.status, 303);
    assert!(again.look("/approvals").await.text().contains("Log in to decide"));
    assert_eq!(ask(&approver, &action, Value::Null).await.status, 403);
}

/// Neither another's end, nor none at all, written into a row makes a passkey count that has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passkey_that_has_ended_counts_for_nothing_whatever_its_row_says() {
    let mut house = house(1).await;
    let (anna, ben) = (house.voice("default", "approver"), person(&house, "ben").await);
    let (hers, his) = (Passkey::new("anna's"), Passkey::new("ben's"));
    let (_, id) = enrolled(&house, &anna, &hers).await;
    enrolled(&house, &ben, &his).await;
    let action = held(&house, "acct-1").await;
    let over = house.admin().post(&format!("/v1/passkeys/{id}/revoke"), &json!({})).await;
    assert_eq!(over.status, 200, "{}", over.text());
    let store = store(&house);
    store.execute_batch("CREATE TEMP TABLE put_aside AS SELECT * FROM main.passkey").unwrap();
    for (forgery, others) in [
        (
            "UPDATE passkey SET revoked = CASE WHEN revoked IS NULL
          THEN (SELECT max(revoked) FROM put_aside) END",
            0,
        ),
        ("UPDATE passkey SET revoked = NULL", 1),
    ] {
        for restarts in [false, true] {
            store.execute(forgery, []).unwrap();
            if restarts {
                house.gateway.kill();
                house.start();
            }
            let (anna, auditor) = (house.voice("default", "approver"), house.voice("default", "auditor"));
            assert_eq!(ask(&anna, &action, Value::Null).await.status, 403, "{forgery}");
            let listed = house.admin().get("/v1/passkeys").await;
            assert_eq!(
                (listed.status, listed.body["items"].as_array().map(Vec::len)),
                (200, Some(others)),
                "{forgery}"
            );
            let findings = auditor.get("/v1/audit/verify").await.body["findings"].take();
            assert!(findings.to_string().contains(&format!("passkey `{id}`")), "{forgery}: {findings}");
            store
                .execute_batch("DELETE FROM main.passkey; INSERT INTO main.passkey SELECT * FROM put_aside")
                .unwrap();
            assert_eq!(auditor.get("/v1/audit/verify").await.body["findings"], json!([]));
        }
    }
    let ben = Voice { key: ben.key, ..house.nobody() };
    assert_eq!(ask(&ben, &action, Value::Null).await.status, 200, "his counts as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_counts_once_for_its_question_and_its_person() {
    let house = house(2).await;
    let (anna, ben) = (house.voice("default", "approver"), person(&house, "ben").await);
    let (hers, his) = (Passkey::new("anna's"), Passkey::new("ben's"));
    enrolled(&house, &anna, &hers).await;
    enrolled(&house, &ben, &his).await;
    let (first, second) = (held(&house, "acct-1").await, held(&house, "acct-2").await);
    let weak = anna.post(&format!("/v1/actions/{first}/approve"), &json!({})).await;
    assert_eq!((weak.status, weak.code()), (403, "EP_FORBIDDEN"), "a key is not enough");

    let asked = ask(&anna, &first, json!("checked")).await;
    assert_eq!(asked.status, 200, "{}", asked.text());
    let envelope = &asked.body["envelope"];
    assert_eq!(envelope["action_id"], first.as_str());
    assert_eq!(envelope["quote"], json!({"amount": "6000.00", "currency": "USD"}));
    assert!(envelope["approver"].as_str().unwrap().starts_with("c:") && !asked.text().contains("checked"));
    assert_eq!(asked.body["credentials"], json!([text("anna's")]));
    let wrong: [(&str, u16, Change); 5] = [
        ("origin", 422, |saying| saying.client["origin"] = json!("https://evil.example")),
        ("relying party", 422, |saying| saying.rp_id = "evil.example"),
        ("not verified", 422, |saying| saying.flags &= !4),
        ("ceremony", 422, |saying| saying.client["type"] = json!("webauthn.create")),
        ("another challenge", 409, |saying| saying.client["challenge"] = json!(text([0; 32]))),
    ];
    for (what, status, change) in wrong {
        let asked = ask(&anna, &first, Value::Null).await;
        let said = approve(&anna, &first, &hers.get_with(&asked.body["challenge"], change)).await;
        assert_eq!(said.status, status, "{what}: {}", said.text());
    }
    let challenge = &asked.body["challenge"];
    assert_eq!(approve(&anna, &second, &hers.get(challenge)).await.status, 409, "of another action");
    let challenge = ask(&anna, &first, Value::Null).await.body["challenge"].clone();
    assert_eq!(approve(&ben, &first, &his.get(&challenge)).await.status, 409, "asked of another person");
    let challenge = ask(&anna, &first, Value::Null).await.body["challenge"].clone();
    assert_eq!(approve(&anna, &first, &his.get(&challenge)).await.status, 403, "signed by another person");

    let challenge = ask(&anna, &first, json!("checked")).await.body["challenge"].clone();
    let commented = json!({"assertion": hers.get(&challenge), "comment": "another"});
    let said = anna.post(&format!("/v1/actions/{first}/approve"), &commented).await;
    assert_eq!(said.status, 422, "the comment stands in what was signed");
    let assertion = hers.get(&challenge);
    let clicks: Vec<_> = (0..10)
        .map(|_| {
            let (anna, first, assertion) = (anna.clone(), first.clone(), assertion.clone());
            tokio::spawn(async move { approve(&anna, &first, &assertion).await.status })
        })
        .collect();
    let mut statuses = Vec::new();
    for click in clicks {
        statuses.push(click.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, &[409; 9][..]));
    assert_eq!(house.bank.effects().count, 0);
    let challenge = ask(&anna, &first, Value::Null).await.body["challenge"].clone();
    assert_eq!(approve(&anna, &first, &hers.get(&challenge)).await.status, 409, "each person counts once");

    let challenge = ask(&ben, &first, Value::Null).await.body["challenge"].clone();
    assert_eq!(approve(&ben, &first, &his.get(&challenge)).await.status, 200);
    let record = ended(&house, &first).await;
    assert_eq!(record["result"]["state"], "COMPLETED", "{record}");
    assert_eq!(house.bank.effects().count, 1);
    let approvers = house.admin().get("/v1/approvers").await.body;
    let (valid, told) = verified(&house, &record, &approvers).await;
    assert!(valid && told.matches("verified").count() >= 2, "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passkey_revoked_or_rules_changed_before_it_is_sent_ask_once_more() {
    let house = house(2).await;
    let (anna, ben) = (house.voice("default", "approver"), person(&house, "ben").await);
    let (hers, his) = (Passkey::new("anna's"), Passkey::new("ben's"));
    let (_, id) = enrolled(&house, &anna, &hers).await;
    let (mut bens, _) = enrolled(&house, &ben, &his).await;
    let sign = async |voice: &Voice, passkey: &Passkey, action: &str| {
        let challenge = ask(voice, action, Value::Null).await.body["challenge"].clone();
        approve(voice, action, &passkey.get(&challenge)).await
    };
    let again = async |action: &str| {
        for _ in 0..400 {
            let held = house.admin().get(&format!("/v1/approvals/{action}")).await.body;
            if held["escalation_id"] == format!("{action}-2") {
                return held;
            }
            sleep(Duration::from_millis(25)).await;
        }
        panic!("it does not wait again: {}", house.log())
    };
    // Other rules: what was signed names those of before.
    let first = held(&house, "acct-1").await;
    assert_eq!(sign(&anna, &hers, &first).await.status, 200);
    let early = ask(&ben, &first, Value::Null).await.body["challenge"].clone();
    let policy = house.path().join("policies/default/all.cedar");
    let other = fs::read_to_string(&policy).unwrap().replace("\"payments\"", "\"payments-2\"");
    fs::write(&policy, other).unwrap();
    assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
    let page = format!("/approvals/{first}");
    bens.look(&page).await;
    let outdated = bens.send(&format!("{page}/envelope"), &[]).await;
    assert_eq!(outdated.status, 409, "nobody is asked to sign in vain: {}", outdated.text());
    let why = outdated.body["message"].as_str().unwrap();
    assert!(why.contains("the policies changed since this was asked; look again"), "{why}");
    assert_eq!(again(&first).await["state"], "INTENDED");
    let overtaken = approve(&ben, &first, &his.get(&early)).await;
    assert_eq!(overtaken.status, 409, "it was of other rules: {}", overtaken.text());
    for (voice, passkey) in [(&anna, &hers), (&ben, &his)] {
        assert_eq!(sign(voice, passkey, &first).await.status, 200);
    }
    assert_eq!(ended(&house, &first).await["result"]["state"], "COMPLETED");

    let second = held(&house, "acct-2").await;
    assert_eq!(sign(&anna, &hers, &second).await.status, 200);
    assert_eq!(house.admin().post(&format!("/v1/passkeys/{id}/revoke"), &json!({})).await.status, 200);
    assert_eq!(sign(&ben, &his, &second).await.status, 200);
    assert_eq!(again(&second).await["state"], "INTENDED");
    assert_eq!(house.bank.effects().count, 1);
}

/// A row that says that somebody signed, where nobody did, sends nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_signature_in_the_store_sends_nothing() {
    let mut house = house(2).await;
    let anna = house.voice("default", "approver");
    let hers = Passkey::new("anna's");
    enrolled(&house, &anna, &hers).await;
    enrolled(&house, &person(&house, "ben").await, &Passkey::new("ben's")).await;
    let id = held(&house, "acct-1").await;
    let challenge = ask(&anna, &id, Value::Null).await.body["challenge"].clone();
    assert_eq!(approve(&anna, &id, &hers.get(&challenge)).await.status, 200);
    house.gateway.kill();
    let db = store(&house);
    let record: Vec<u8> = db.query_row("SELECT record FROM approval", [], |row| row.get(0)).unwrap();
    let forged = String::from_utf8(record).unwrap().replace("\"default-approver\"", "\"ben\"");
    db.execute(
        "INSERT INTO approval SELECT row + 1, action, round, 'ben', at, entry, ?1 FROM approval",
        [forged.as_bytes()],
    )
    .unwrap();
    db.execute("UPDATE fate SET state = 0 WHERE state = 1", []).unwrap();
    drop(db);
    house.start();
    house.until_logged("not the one that its entries name").await;
    assert_eq!(house.bank.effects().count, 0);
}

/// Whoever can write to the store, and knows all about it, can make the gateway believe that another key is Anna's. The
/// gateway acts, and whoever has Anna's key from Anna sees that she did not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consent_that_is_forged_from_the_ground_up_is_found_by_whoever_pins_people() {
    let mut house = house(1).await;
    let anna = house.voice("default", "approver");
    let (hers, forged) = (Passkey::new("anna's"), Passkey::new("forged"));
    let (_, id) = enrolled(&house, &anna, &hers).await;
    let pinned = house.admin().get("/v1/approvers").await.body;
    let honest = held(&house, "acct-1").await;
    let challenge = ask(&anna, &honest, Value::Null).await.body["challenge"].clone();
    assert_eq!(approve(&anna, &honest, &hers.get(&challenge)).await.status, 200);
    let record = ended(&house, &honest).await;
    let (valid, told) = verified(&house, &record, &pinned).await;
    assert!(valid, "{told}");

    house.gateway.kill();
    let db = store(&house);
    let name = forge(&db, &hers, &forged, &id);
    db.execute("UPDATE passkey SET credential = ?1, id = ?2", (&forged.id, &name)).unwrap();
    drop(db);
    house.start();
    let (anna, action) = (house.voice("default", "approver"), held(&house, "acct-2").await);
    let challenge = ask(&anna, &action, Value::Null).await.body["challenge"].clone();
    let said = approve(&anna, &action, &forged.get(&challenge)).await;
    assert_eq!(said.status, 200, "the gateway believes its store: {}", said.text());
    let record = ended(&house, &action).await;
    let (valid, told) = verified(&house, &record, &pinned).await;
    assert!(!valid && told.contains("none of the pinned approvers"), "{told}");
    // And the walk over the ledger finds the entries that were put in the place of others.
    house.gateway.stop();
    let found = ledger::Ledger::verify(&house.store().await).await.unwrap_err();
    assert!(matches!(found, ledger::Error::Chain { broken: ledger::Broken::Previous, .. }), "{found}");
}

fn store(house: &House) -> Connection {
    Connection::open(house.path().join("data/production.db")).unwrap()
}

/// Puts another key into the records of a passkey; its new id.
fn forge(db: &Connection, from: &Passkey, to: &Passkey, id: &str) -> String {
    let ([old_x, old_y], [x, y]) = (from.point(), to.point());
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        &[b"countersign/passkey/1", x.as_bytes(), y.as_bytes(), &to.id].concat(),
    );
    let name = format!("pk_{}", &hex::encode(digest)[..20]);
    let mut select = db.prepare("SELECT row, record FROM entry WHERE record IS NOT NULL").unwrap();
    let records: Vec<(i64, Vec<u8>)> =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    for (row, record) in records {
        let record = String::from_utf8(record).unwrap();
        if record.contains(id) {
            let changed = [(id, name.as_str()), (&old_x, &x), (&old_y, &y)]
                .iter()
                .fold(record, |record, (old, new)| record.replace(old, new))
                .replace(&text(&from.id), &text(&to.id));
            let sql = "UPDATE entry SET record = ?1, bytes = ?2 WHERE row = ?3";
            db.execute(sql, (changed.as_bytes(), naming(db, row, changed.as_bytes()), row)).unwrap();
        }
    }
    name
}

/// The entry of this row as if that had been its record. Only the next one can tell.
fn naming(db: &Connection, row: i64, record: &[u8]) -> Vec<u8> {
    let sql = "SELECT bytes FROM entry WHERE row = ?1";
    let bytes: Vec<u8> = db.query_row(sql, [row], |row| row.get(0)).unwrap();
    let mut entry: std::collections::BTreeMap<String, Value> = serde_json::from_slice(&bytes).unwrap();
    let digest = |bytes: &[u8]| hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes));
    entry.remove("hash");
    entry.insert("actionHash".to_owned(), digest(record).into());
    let hash = digest(&serde_json::to_vec(&entry).unwrap());
    entry.insert("hash".to_owned(), hash.into());
    serde_json::to_vec(&entry).unwrap()
}

/// A gateway that leaves people out of a receipt, and one that has them agree by a key that nobody but it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvals_left_out_of_a_receipt_are_missed_by_who_requires_them() {
    let house = house(1).await;
    let anna = house.voice("default", "approver");
    let hers = Passkey::new("anna's");
    enrolled(&house, &anna, &hers).await;
    let id = held(&house, "acct-1").await;
    let challenge = ask(&anna, &id, Value::Null).await.body["challenge"].clone();
    assert_eq!(approve(&anna, &id, &hers.get(&challenge)).await.status, 200);
    let record = ended(&house, &id).await;
    assert_eq!(record["result"]["state"], "COMPLETED", "{record}");
    let approvers = house.admin().get("/v1/approvers").await.body;
    let document = receipt_of(&house, &record).await;
    let strict = ["--require-approvals"];
    let (valid, told) = checked(&house, document.clone(), &approvers, &strict).await;
    assert!(valid && told.contains("a pinned person agreed"), "{told}");

    let silent = signed_anew(&house, &document, |draft| draft.metadata.approvals.clear());
    let (valid, told) = checked(&house, silent.clone(), &approvers, &[]).await;
    assert!(valid, "who does not ask for it misses nothing: {told}");
    let (valid, told) = checked(&house, silent, &approvers, &strict).await;
    assert!(!valid && told.contains("`metadata.approvals`: lists none"), "{told}");

    let by_key = signed_anew(&house, &document, |draft| {
        let given = &draft.metadata.approvals[0];
        let signer = receipt::approval::Signer::Key { id: "key_1".to_owned() };
        let stated = receipt::approval::Approval::new(given.envelope().clone(), given.at(), signer);
        draft.metadata.approvals = vec![stated.unwrap()];
    });
    let (valid, told) = checked(&house, by_key.clone(), &approvers, &[]).await;
    assert!(valid && told.contains("stated and not proven"), "{told}");
    let (valid, told) = checked(&house, by_key, &approvers, &strict).await;
    assert!(!valid && told.contains("has none that is proven"), "{told}");

    // Of what nobody had to agree to none is missed.
    let small = house.agent().execute("small", &house.payment("acct-2", "1.00")).await;
    assert_eq!(small.kind(), "executed", "{}", small.text());
    let record = house.admin().get(&format!("/v1/actions/{}", small.id())).await.body;
    let (valid, told) = checked(&house, receipt_of(&house, &record).await, &approvers, &strict).await;
    assert!(valid && told.contains("nobody had to agree"), "{told}");
}
