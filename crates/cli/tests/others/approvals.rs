//! The approval page in Chromium, with a passkey from the browser's own virtual authenticator: what a person sees, signs
//! and refuses, and that others can check what they signed.

use std::process::Command;

use serde_json::{Value, json};

use crate::chromium::Chromium;
use crate::gateway::{Gateway, countersign};

/// Payments that pretend, and for which so many people have to agree.
fn payments(approvals: u32, form: &str) -> String {
    format!(
        "name = \"PAYMENT_TRANSFER\"\nextends = \"builtin\"\napprovals = {approvals}\napproval = \"{form}\"\n\n[binding]\n\
         provider = \"sandbox\"\noptions = {{ triggers = true }}\n\n[binding.capabilities]\n\
         idempotent = {{ retention_seconds = 86400 }}\nqueryable = {{ by_our_reference = true, final_after_seconds = 0 }}\n"
    )
}

const POLICY: &str = "@id(\"payments\")\npermit (principal, action in Action::\"Payments\", resource);\n";
const CAREFUL: &str = "@id(\"payments\")\npermit (principal, action in Action::\"Payments\", resource);\n\
    @id(\"quarter-end\")\n@tier(\"1\")\n@escalate\nforbid (principal, action, resource);\n";

/// A gateway, people who may approve, and a browser that has a passkey for whoever asks.
struct World {
    gateway: Gateway,
    page: Chromium,
    /// Where passkeys work: at a name.
    origin: String,
    token: String,
}

impl World {
    fn new(approvals: u32, form: &str) -> Option<World> {
        World::of(&payments(approvals, form))
    }

    /// A world in which payments are like this.
    fn of(payments: &str) -> Option<World> {
        let mut page = Chromium::start()?;
        let gateway = Gateway::of(&[
            ("catalogue/default/payment.toml", payments),
            ("policies/default/payments.cedar", POLICY),
            ("more.toml", "[limits]\nrecovery_interval_ms = 100\n"),
        ]);
        let operator = gateway.key("olga", "operator");
        let ask = json!({"subject": "agent-1", "scope": ["Payments"], "expires_in_seconds": 3600});
        let token = gateway.post(&operator, "/v1/mandates", &ask)["token"].as_str().unwrap().to_owned();
        page.call("WebAuthn.enable", json!({}));
        let options = json!({
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": true, "hasUserVerification": true,
            "isUserVerified": true, "automaticPresenceSimulation": true,
        });
        page.call("WebAuthn.addVirtualAuthenticator", json!({"options": options}));
        let origin = gateway.url.replace("127.0.0.1", "localhost");
        Some(World { gateway, page, origin, token })
    }

    /// A payment that waits for people.
    fn held(&self, recipient: &str, note: &str) -> String {
        self.asked(recipient, "6000.00", note, "held")
    }

    /// A payment of which nobody knows what became.
    fn doubted(&self, note: &str) -> String {
        self.asked("sandbox:silent", "25.00", note, "pending_settlement")
    }

    /// A payment that was made and could not be given back.
    fn kept(&self) -> String {
        let id = self.asked("sandbox:keep", "25.00", "to be given back", "executed");
        let key = self.gateway.agent_key();
        let record = self.gateway.post(key, &format!("/v1/actions/{id}/rollback"), &json!({}));
        assert_eq!(record["rollback"]["error"], "ATP_ROLLBACK_FAILED", "{record}");
        id
    }

    /// A reservation that could not be set free.
    fn unfreed(&self) -> String {
        let id = self.asked_as("RESERVE_IF_AVAILABLE", "sandbox:keep", "25.00", "to be reserved", "held");
        let record =
            self.gateway.post(self.gateway.agent_key(), &format!("/v1/actions/{id}/release"), &json!({}));
        assert_eq!(record["reservation"]["state"], "release_failed", "{record}");
        id
    }

    fn asked(&self, recipient: &str, amount: &str, note: &str, kind: &str) -> String {
        self.asked_as("IMMEDIATE_CHARGE", recipient, amount, note, kind)
    }

    fn asked_as(&self, mode: &str, recipient: &str, amount: &str, note: &str, kind: &str) -> String {
        let constraints =
            json!({"recipient": recipient, "amount_usd": amount, "max_total_usd": "6000.00", "note": note});
        let body = json!({
            "archetype": "PAYMENT_TRANSFER", "constraints": constraints, "delegation_token": self.token,
            "payment_mode": mode,
        });
        let request = self.gateway.http.post(format!("{}/api/execute", self.gateway.url));
        let request = request.bearer_auth(self.gateway.agent_key()).header("EP-Version", "2026-04-27");
        let request = request.header("Idempotency-Key", recipient).header("content-type", "application/json");
        let said: Value = request.body(body.to_string()).send().unwrap().json().unwrap();
        assert_eq!(said["kind"], kind, "{said}");
        said["transaction_id"].as_str().unwrap().to_owned()
    }

    fn open(&mut self, path: &str) {
        self.page.open(&format!("{}{path}", self.origin));
    }

    /// Logs somebody in with their key.
    fn log_in(&mut self, key: &str) {
        self.open("/approvals");
        self.page.value(&format!("document.getElementById('key').value = '{key}'"));
        self.press("form.card button[type=submit]");
        assert_eq!(self.title(), "Approvals");
    }

    fn log_out(&mut self) {
        self.press(".menu button");
        assert!(self.sees("Log in to decide"), "{}", self.text());
    }

    /// Somebody who approves, with a passkey that an admin has enrolled. They stay logged in.
    fn person(&mut self, name: &str) -> String {
        let key = self.gateway.key(name, "approver");
        self.log_in(&key);
        self.open("/approvals/passkeys");
        self.press("[data-passkey=register]");
        assert!(self.sees("waits for an admin"), "{}", self.text());
        let id = self.page.value("document.querySelector('.inbox b').innerText");
        let enrolled = self.gateway.post(
            self.gateway.admin_key(),
            &format!("/v1/passkeys/{}/enrol", id.as_str().unwrap()),
            &json!({}),
        );
        assert_eq!((&enrolled["state"], &enrolled["approver"]), (&json!("enrolled"), &json!(name)));
        key
    }

    /// Presses what leads to another page, and waits for it.
    fn press(&mut self, selector: &str) {
        self.page.follow(&format!("document.querySelector('{selector}').click()"));
    }

    fn title(&mut self) -> String {
        self.page.value("document.querySelector('h1').innerText").as_str().unwrap().to_owned()
    }

    fn text(&mut self) -> String {
        self.page.value("document.body.innerText").as_str().unwrap().to_owned()
    }

    fn sees(&mut self, text: &str) -> bool {
        self.text().contains(text)
    }

    /// What stands in the banner once it says this; it does so without the page being loaded again.
    fn comes_to(&mut self, headline: &str) {
        self.page.wait_for(&format!(
            "document.querySelector('.verdict:not([hidden]) strong')?.innerText === '{headline}'"
        ));
    }

    /// The receipt of an action that is over, and what `countersign verify` says of it.
    fn verified(&self, id: &str, approvers: &Value) -> (bool, Value) {
        let record = self.gateway.read(self.gateway.admin_key(), &format!("/v1/actions/{id}"));
        let receipt = record["receipts"][0]["receipt_id"].as_str().unwrap_or_else(|| panic!("{record}"));
        let document = self.gateway.read(self.gateway.admin_key(), &format!("/v1/receipts/{receipt}"));
        let folder = self.gateway.folder();
        let file = |name: &str| folder.join(name);
        std::fs::write(file("receipt.json"), document.to_string()).unwrap();
        std::fs::write(file("jwks.json"), self.gateway.key_set()).unwrap();
        std::fs::write(file("approvers.json"), approvers.to_string()).unwrap();
        let pin = countersign().args(["keys", "--url", &self.gateway.url, "pin"]).output().unwrap();
        std::fs::write(file("issuer.pin"), pin.stdout).unwrap();
        let mut verify: Command = countersign();
        verify.arg("verify").arg(file("receipt.json")).arg("--json");
        for (option, name) in
            [("--jwks", "jwks.json"), ("--issuer", "issuer.pin"), ("--approvers", "approvers.json")]
        {
            verify.arg(option).arg(file(name));
        }
        let output = verify.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = serde_json::from_str(&said)
            .unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.success(), told)
    }
}

#[test]
fn a_person_enrols_a_passkey_approves_with_it_and_strangers_can_check_it() {
    let Some(mut world) = World::new(1, "passkey") else { return };
    let id = world.held("acct-4711", "Invoice 2026-118");
    let alice = world.gateway.key("alice", "approver");
    world.log_in(&alice);
    assert!(
        world.sees("One action waits for a person.") && world.sees("6000.00 USD to acct-4711"),
        "{}",
        world.text()
    );
    world.open(&format!("/approvals/{id}"));
    assert!(world.sees("you have none that is enrolled"), "{}", world.text());
    world.log_out();
    world.person("anna");

    world.open("/approvals");
    world.press("a.what");
    assert_eq!(world.title(), "Send money to a recipient");
    let text = world.text();
    for told in [
        "6000.00 USD",
        "acct-4711",
        "This cannot be undone.",
        "large, and no way back",
        "Untrusted",
        "Invoice 2026-118",
    ] {
        assert!(text.contains(told), "no {told} in {text}");
    }
    let first = |what: &str| text.find(what).unwrap();
    assert!(first("acct-4711") < first("Invoice 2026-118"), "what we know stands first");
    world.page.value("document.getElementById('comment').value = 'checked with the supplier'");
    world.press("[data-passkey=approve]");
    world.comes_to("Carried out");
    assert!(world.sees("anna") && world.sees("checked with the supplier"), "{}", world.text());

    let approvers = world.gateway.read(world.gateway.admin_key(), "/v1/approvers");
    assert_eq!((approvers.as_array().unwrap().len(), &approvers[0]["approver"]), (1, &json!("anna")));
    assert_eq!(approvers[0]["origins"], json!([world.origin]));
    let (valid, told) = world.verified(&id, &approvers);
    assert!(valid, "{told}");
    assert_eq!(told["unproven_approvals"], 0, "{told}");
    let mut others = approvers.clone();
    others[0]["credential_id"] = json!("b3RoZXI");
    assert!(!world.verified(&id, &others).0, "by a credential of nobody who is pinned");
}

#[test]
fn a_no_with_a_comment_ends_it_and_one_logs_in_by_passkey() {
    let Some(mut world) = World::new(1, "passkey") else { return };
    world.person("anna");
    world.press(".menu button");
    world.press("[data-passkey=login]");
    assert!(world.sees("Nothing waits for a person.") && world.sees("anna"), "{}", world.text());
    let id = world.held("acct-1", "please hurry");
    // The inbox hears of it by itself.
    world.page.wait_for("document.querySelector('a.what') !== null");
    assert_eq!(
        world.page.value("document.getElementById('live').innerText"),
        "One action waits for a person."
    );
    world.open(&format!("/approvals/{id}"));
    world.page.value("document.getElementById('comment').value = 'wrong account'");
    world.press("#decision .danger");
    assert!(world.sees("Rejected") && world.sees("wrong account"), "{}", world.text());
    let record = world.gateway.read(world.gateway.admin_key(), &format!("/v1/actions/{id}"));
    assert_eq!(record["result"]["error"]["code"], "EP_APPROVAL_DENIED", "{record}");
}

#[test]
fn two_people_agree_and_whoever_clicks_twice_counts_once() {
    let Some(mut world) = World::new(2, "passkey") else { return };
    let id = world.held("acct-1", "for two");
    world.person("anna");
    world.open(&format!("/approvals/{id}"));
    let twice =
        "const button = document.querySelector('[data-passkey=approve]'); button.click(); button.click();";
    world.page.follow(twice);
    let asked = world.page.events("Network.requestWillBeSent");
    let asked = asked.iter().filter(|event| event["request"]["url"].as_str().unwrap().ends_with("/envelope"));
    assert_eq!(asked.count(), 1, "the second click does nothing");
    assert!(world.sees("You have decided") && world.sees("1 of 2 people have agreed."), "{}", world.text());
    assert_eq!(world.page.value("document.getElementById('decision')"), Value::Null);
    world.log_out();
    world.person("ben");
    world.open(&format!("/approvals/{id}"));
    world.press("[data-passkey=approve]");
    world.comes_to("Carried out");
    let approvers = world.gateway.read(world.gateway.admin_key(), "/v1/approvers");
    let (valid, told) = world.verified(&id, &approvers);
    assert!(valid && told["unproven_approvals"] == 0, "{told}");
    let record = world.gateway.read(world.gateway.admin_key(), &format!("/v1/actions/{id}"));
    let forms: Vec<&Value> = record["approvals"].as_array().unwrap().iter().map(|it| &it["form"]).collect();
    assert_eq!(forms, ["passkey", "passkey"]);
}

#[test]
fn what_changed_meanwhile_is_said_and_not_approved() {
    let Some(mut world) = World::new(1, "key") else { return };
    let (id, anna) = (world.held("acct-1", "as it was"), world.gateway.key("ben", "approver"));
    world.person("anna");
    world.open(&format!("/approvals/{id}"));
    // Signed, and not sent yet.
    let signed = world.page.value(&asked_and_signed(&id));
    world.gateway.rewrite("policies/default/payments.cedar", CAREFUL);
    let other = world.gateway.post(&anna, &format!("/v1/actions/{id}/approve"), &json!({}));
    assert_eq!(other["code"], "EP_STATE_CONFLICT", "a yes to what is asked no more: {other}");
    // Judged again it waits for the new policy, and the open page says so.
    world.page.wait_for("document.getElementById('changed').hidden === false");
    assert_eq!(world.page.value("document.querySelector('[data-approves]').disabled"), true);
    let sent = world.page.value(&sent(&id, &signed));
    assert_eq!(sent["status"], 409, "{sent}");
    assert!(sent["text"].as_str().unwrap().contains("has changed since it was shown"), "{sent}");
    world.press("#changed a");
    assert!(world.sees("quarter-end") && world.sees("One person has to agree."), "{}", world.text());
    let held = world.gateway.read(world.gateway.admin_key(), &format!("/v1/approvals/{id}"));
    assert_eq!((&held["state"], &held["escalation_id"]), (&json!("INTENDED"), &json!(format!("{id}-2"))));
}

#[test]
fn what_expired_cannot_be_signed_and_a_party_is_told_that_others_decide() {
    let Some(mut world) = World::new(1, "passkey") else { return };
    let id = world.held("acct-1", "too late");
    // Who issued the mandate does not decide under it, whatever passkey they have.
    world.person("olga");
    world.open(&format!("/approvals/{id}"));
    assert!(world.sees("Somebody else has to decide"), "{}", world.text());
    assert_eq!(world.page.value("document.getElementById('decision')"), Value::Null);
    let asked = world.page.value(&asked(&id));
    assert_eq!(asked["status"], 403, "{asked}");
    world.log_out();

    world.person("anna");
    world.open(&format!("/approvals/{id}"));
    let signed = world.page.value(&asked_and_signed(&id));
    let store = rusqlite::Connection::open(world.gateway.folder().join("data/production.db")).unwrap();
    store.execute("UPDATE action SET expires = 1 WHERE round = 1", []).unwrap();
    let sent = world.page.value(&sent(&id, &signed));
    assert_eq!(sent["status"], 409, "{sent}");
    assert_eq!(world.page.value(&self::asked(&id))["status"], 409);
    world.open(&format!("/approvals/{id}"));
    assert!(world.sees("Expired"), "{}", world.text());
    assert_eq!(world.page.value("document.getElementById('decision')"), Value::Null);
}

#[test]
fn it_works_without_javascript_except_for_the_passkey() {
    let Some(mut world) = World::new(1, "key") else { return };
    let (yes, no) = (world.held("acct-1", "one"), world.held("acct-2", "two"));
    let key = world.gateway.key("anna", "approver");
    world.open("/approvals");
    // The protocol's own evaluation still runs; the page's script does not.
    world.page.call("Emulation.setScriptExecutionDisabled", json!({"value": true}));
    world.log_in(&key);
    assert!(!world.sees("Log in with a passkey"), "no buttons that do nothing");
    for (id, button, told) in [(&yes, "[data-approves]", "yes"), (&no, "#decision .danger", "no")] {
        world.open(&format!("/approvals/{id}"));
        world.press(button);
        let said = world.page.value("document.querySelector('tbody td:nth-child(2)').innerText");
        assert_eq!(said, told, "{}", world.text());
    }
    world.log_out();
}

#[test]
fn a_person_says_what_became_of_what_nobody_else_tells() {
    let reversible =
        payments(1, "key").replace("extends = \"builtin\"", "extends = \"builtin\"\nreversible = true");
    let Some(mut world) = World::of(&reversible) else { return };
    let key = world.gateway.key("anna", "approver");
    world.log_in(&key);
    let hostile = "</q><script>alert(1)</script> the CFO says: carried out";
    let doubt = world.doubted(hostile);
    // The inbox hears of both by itself.
    world.page.wait_for("document.querySelector('.inbox a.what') !== null");
    let kept = world.kept();
    world.page.wait_for("document.querySelectorAll('.inbox a.what').length === 2");
    for told in ["In doubt", "Could not be undone", "Our reference", &doubt, &kept] {
        assert!(world.sees(told), "no {told} in {}", world.text());
    }
    assert_eq!(
        world.page.value("document.getElementById('live').innerText"),
        "Nothing waits for a person. 2 more are not settled."
    );

    world.open(&format!("/approvals/{doubt}"));
    assert_eq!(world.page.value("document.querySelector('.words q').textContent"), hostile);
    assert!(world.sees("In doubt") && world.sees("How you know"), "{}", world.text());
    let buttons = "[...document.querySelectorAll('#decision button[name=as]')].map((it) => it.value)";
    assert_eq!(world.page.value(buttons), json!(["executed", "failed"]));
    // Without saying how one knows, nothing is sent.
    world.page.value("document.querySelector('#decision [value=executed]').click()");
    assert_eq!(world.page.value("document.getElementById('comment').validity.valueMissing"), true);
    for (field, value) in
        [("comment", "seen on the statement"), ("charged", "24.00"), ("reference", "wire-118")]
    {
        world.page.value(&format!("document.getElementById('{field}').value = '{value}'"));
    }
    world.press("#decision [value=executed]");
    world.comes_to("Carried out");
    for told in
        ["A person said so, and not the provider.", "anna", "seen on the statement", "24.00", "wire-118"]
    {
        assert!(world.sees(told), "no {told} in {}", world.text());
    }
    assert_eq!(world.page.value("document.getElementById('decision')"), Value::Null);
    let record = world.gateway.read(world.gateway.admin_key(), &format!("/v1/actions/{doubt}"));
    assert_eq!(
        (&record["result"]["state"], &record["resolutions"][0]["by"]),
        (&json!("COMPLETED"), &json!("anna"))
    );
    let receipt = record["receipts"][1]["receipt_url_short"].as_str().unwrap().to_owned();
    world.page.open(&receipt);
    assert!(world.sees("A person said what became of the action"), "{}", world.text());

    // Somebody else is faster: whoever looks is told, and can press nothing any more.
    world.open(&format!("/approvals/{kept}"));
    assert_eq!(world.page.value(buttons), json!(["rolled_back", "executed"]));
    let open = "document.querySelectorAll('#decision button[name=as]:enabled').length";
    assert_eq!(world.page.value(open), 2);
    let ben = world.gateway.key("ben", "approver");
    let word = json!({"as": "rolled_back", "comment": "paid back by hand"});
    let said = world.gateway.post(&ben, &format!("/v1/actions/{kept}/resolve"), &word);
    assert_eq!(said["result"]["state"], "ROLLED_BACK", "{said}");
    world.page.wait_for("document.getElementById('changed').hidden === false");
    assert_eq!(world.page.value(open), 0);
    world.press("#changed a");
    world.comes_to("Undone");
}

#[test]
fn a_person_has_what_could_not_be_set_free_tried_again_and_says_what_became_of_it() {
    let Some(mut world) = World::new(1, "key") else { return };
    let id = world.unfreed();
    let key = world.gateway.key("anna", "approver");
    world.log_in(&key);
    world.press(".inbox a.what");
    assert!(world.sees("Could not be set free") && world.sees("Your word"), "{}", world.text());
    let buttons = "[...document.querySelectorAll('#decision button[name=as]')].map((it) => it.value)";
    assert_eq!(world.page.value(buttons), json!(["try_again", "released", "executed"]));
    world.page.value("document.getElementById('comment').value = 'the bank is back'");
    world.press("#decision [value=try_again]");
    world.comes_to("Could not be set free");
    assert!(world.sees("Could not be set free") && world.sees("the bank is back"), "{}", world.text());
    for (field, value) in [("comment", "seen on the statement"), ("charged", "24.00")] {
        world.page.value(&format!("document.getElementById('{field}').value = '{value}'"));
    }
    world.press("#decision [value=executed]");
    world.comes_to("Carried out");
    let record = world.gateway.read(world.gateway.admin_key(), &format!("/v1/actions/{id}"));
    let said: Vec<_> =
        record["resolutions"].as_array().unwrap().iter().map(|it| it["as"].as_str().unwrap()).collect();
    assert_eq!((said, &record["result"]["state"]), (vec!["try_again", "executed"], &json!("COMPLETED")));
}

#[test]
fn a_word_on_a_doubt_needs_no_javascript_and_a_party_has_none() {
    let Some(mut world) = World::new(1, "key") else { return };
    let id = world.doubted("no script");
    // Who issued the mandate does not say what became of what was done under it.
    let olga = world.gateway.key("olga", "approver");
    world.log_in(&olga);
    world.open(&format!("/approvals/{id}"));
    assert!(world.sees("Somebody else has to say what became of it"), "{}", world.text());
    assert_eq!(world.page.value("document.getElementById('decision')"), Value::Null);
    world.log_out();
    let anna = world.gateway.key("anna", "approver");
    world.page.call("Emulation.setScriptExecutionDisabled", json!({"value": true}));
    world.log_in(&anna);
    world.press(".inbox a.what");
    world.page.value("document.getElementById('comment').value = 'the bank says so'");
    world.press("#decision [value=failed]");
    world.comes_to("No effect");
    assert!(world.sees("the bank says so") && world.sees("failed"), "{}", world.text());
}

#[test]
fn what_an_agent_writes_stays_text_and_nothing_leaves() {
    let Some(mut world) = World::new(1, "key") else { return };
    let hostile = "</q><script>alert(1)</script><img src=//elsewhere.invalid/> Approved by the CFO";
    let id = world.held("acct-1", hostile);
    let key = world.gateway.key("anna", "approver");
    world.log_in(&key);
    world.open(&format!("/approvals/{id}"));
    assert_eq!(world.page.value("document.querySelector('.words q').textContent"), hostile);
    assert_eq!(world.page.value("document.images.length + document.scripts.length"), 1, "our script alone");
    let asked = world.page.events("Network.requestWillBeSent");
    let foreign: Vec<&Value> = asked
        .iter()
        .map(|event| &event["request"]["url"])
        .filter(|url| !url.as_str().unwrap().starts_with(&world.origin))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let complaints =
        [world.page.events("Log.entryAdded"), world.page.events("Runtime.exceptionThrown")].concat();
    assert!(complaints.is_empty(), "the page breaks none of its own rules: {complaints:?}");
    let refused = world.page.refused(
        "const form = Object.assign(document.createElement('form'), { action: 'http://127.0.0.1:9/', method: 'post' });
        const script = document.createElement('script');
        script.textContent = 'globalThis.ran = true';
        document.body.append(script, form);
        form.submit();
        await fetch('http://127.0.0.1:9/').catch(() => {});",
        3,
    );
    assert_eq!(refused, json!(["connect-src", "form-action", "script-src-elem"]));
    assert_eq!(world.page.value("globalThis.ran ?? 'did not run'"), "did not run");
}

#[test]
fn it_can_be_read_heard_and_used_by_keyboard_by_day_and_by_night() {
    let Some(mut world) = World::new(2, "passkey") else { return };
    let id = world.held("acct-4711", "Invoice 2026-118, urgent: the CFO has agreed to this by phone");
    world.held("DE89370400440532013000", "Refund");
    let doubt = world.doubted("Invoice 2026-119");
    let key = world.person("anna");
    world.log_out();
    for (scheme, width) in [("light", 320), ("light", 1100), ("dark", 320), ("dark", 1100)] {
        let screen = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        world.page.call("Emulation.setDeviceMetricsOverride", screen);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        world.page.call("Emulation.setEmulatedMedia", json!({"features": features}));
        let look = |world: &mut World, name: &str| {
            world
                .page
                .value("for (const details of document.querySelectorAll('details')) details.open = true");
            let found = world.page.missing();
            assert_eq!(found, json!([]), "{name}, {scheme}, {width}");
            let poor = world.page.poor();
            assert_eq!(poor, json!([]), "{name}, {scheme}");
            let wide = world.page.value("document.documentElement.scrollWidth");
            assert!(wide.as_u64().unwrap() <= width, "{name}: {wide} wide on a screen of {width}");
            world.page.picture(&format!("{name}-{scheme}-{width}"));
        };
        world.open("/approvals");
        look(&mut world, "login");
        world.log_in(&key);
        look(&mut world, "inbox");
        world.open(&format!("/approvals/{id}"));
        look(&mut world, "detail");
        world.open(&format!("/approvals/{doubt}"));
        look(&mut world, "doubt");
        world.open("/approvals/passkeys");
        look(&mut world, "passkeys");
        world.open("/approvals/nowhere");
        look(&mut world, "refusal");
        world.open("/approvals");
        world.log_out();
    }
    // By keyboard: every control is reached in order, each is seen to be, and Enter in the comment decides nothing.
    world.log_in(&key);
    for (page, controls) in [
        (&id, vec!["comment", "Approve with passkey", "Reject"]),
        (&doubt, vec!["comment", "charged", "reference", "It was carried out", "It had no effect"]),
    ] {
        world.open(&format!("/approvals/{page}"));
        assert_eq!(reached(&mut world, &controls), controls);
        enter_decides_nothing(&mut world);
    }
}

/// Which of these controls are reached by the tabulator key, in order; each is seen to be.
fn reached(world: &mut World, controls: &[&str]) -> Vec<String> {
    let mut reached = Vec::new();
    for _ in 0..24 {
        for kind in ["keyDown", "keyUp"] {
            let tab = json!({"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9});
            world.page.call("Input.dispatchKeyEvent", tab);
        }
        let at = world.page.value(
            "(() => { const at = document.activeElement; const seen = getComputedStyle(at).outlineStyle;
                return [at.innerText || at.id, seen]; })()",
        );
        if controls.iter().any(|control| at[0] == *control) {
            assert_ne!(at[1], "none", "{at}");
            reached.push(at[0].as_str().unwrap().to_owned());
        }
    }
    reached.truncate(controls.len());
    reached
}

/// Enter in the comment presses no button.
fn enter_decides_nothing(world: &mut World) {
    world.page.value(
        "document.addEventListener('submit', (event) => {
            event.preventDefault();
            globalThis.submitted = event.submitter.innerText;
        });
        document.addEventListener('keyup', () => globalThis.pressed = true);
        document.getElementById('comment').focus()",
    );
    for kind in ["keyDown", "keyUp"] {
        let enter =
            json!({"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"});
        world.page.call("Input.dispatchKeyEvent", enter);
    }
    world.page.wait_for("globalThis.pressed === true");
    assert_eq!(world.page.value("globalThis.submitted ?? 'nothing'"), "nothing");
}

/// Asks for an envelope as the page does; status and answer.
fn asked(id: &str) -> String {
    format!(
        "(async () => {{
            const body = new URLSearchParams({{ form: document.body.dataset.form, comment: '' }});
            const answer = await fetch('/approvals/{id}/envelope', {{ method: 'POST', body }});
            return {{ status: answer.status, ...await answer.json() }};
        }})()"
    )
}

/// The same, signed by the browser's passkey.
fn asked_and_signed(id: &str) -> String {
    format!(
        "(async () => {{
            const from = (text) => Uint8Array.from(
                atob(text.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0));
            const into = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
                .replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
            const asked = await {};
            const {{ rawId, response }} = await navigator.credentials.get({{ publicKey: {{
                challenge: from(asked.challenge), rpId: asked.rp_id, userVerification: 'required',
                allowCredentials: asked.credentials.map((id) => ({{ type: 'public-key', id: from(id) }})) }} }});
            return JSON.stringify({{
                credential_id: into(rawId), authenticator_data: into(response.authenticatorData),
                client_data_json: into(response.clientDataJSON), signature: into(response.signature) }});
        }})()",
        asked(id)
    )
}

/// Sends a signature as the page does; status and page.
fn sent(id: &str, assertion: &Value) -> String {
    format!(
        "(async () => {{
            const body = new URLSearchParams({{ form: document.body.dataset.form, assertion: {assertion} }});
            const answer = await fetch('/approvals/{id}/approve', {{ method: 'POST', body }});
            return {{ status: answer.status, text: await answer.text() }};
        }})()"
    )
}
