//! What is asked, and by which rules: one catalogue, ten policies, one request.

use serde_json::{Value, json};
use testkit::Swap;

/// Stands in a request where the client patches in the number of each, as wide as this.
pub(crate) const SERIAL: &str = "############";

/// The archetype answered at once.
pub(crate) const PAYMENT: &str = "BENCH_PAYMENT";

/// The same, with a provider that takes 200 ms to 2 s.
pub(crate) const SLOW_PAYMENT: &str = "BENCH_SLOW_PAYMENT";

/// The same at level 2.
pub(crate) const SAFE_PAYMENT: &str = "BENCH_SAFE_PAYMENT";

/// The same at level 2, to a bank over HTTP.
pub(crate) const BANK_PAYMENT: &str = "BENCH_BANK_PAYMENT";

/// The same, to somebody over HTTP who answers at once.
pub(crate) const HTTP_PAYMENT: &str = "BENCH_HTTP_PAYMENT";

/// What MCP clients call, and which server has it.
pub(crate) const TOOL: &str = "echo";
pub(crate) const SHOP: &str = "shop";

/// What each of them moves, in cents.
pub(crate) const MINOR: u64 = 1250;

/// Who asks.
pub(crate) const AGENT: &str = "bench-agent";

/// A catalogue file: a payment with everything that payments have, to a provider that is not there. Each is another
/// one (its invoice is part of what it is), so the duplicate check runs and never fires.
pub(crate) fn archetype(name: &str, delay_ms: [u64; 2]) -> String {
    let [least, most] = delay_ms;
    let level = if name == SAFE_PAYMENT { "atp-2" } else { "atp-1" };
    let binding =
        format!("[binding]\nprovider = \"sandbox\"\noptions = {{ delay_ms = [{least}, {most}] }}\n");
    bound(name, level, &binding)
}

/// The same, to a bank that recognises keys and can be asked. It is waited for as long as can be.
pub(crate) fn at_bank(bank: &str) -> String {
    let binding = testkit::bank::binding_at(&format!("http://{bank}"))
        .swapped("timeout_ms = 5000", "timeout_ms = 120000")
        .swapped("final_after_seconds = 0", "final_after_seconds = 1");
    bound(BANK_PAYMENT, "atp-2", &binding)
}

/// The same, to whatever answers at this address. What it says is not looked at.
pub(crate) fn at_echo(address: &str) -> String {
    let binding = format!(
        r#"[binding]
provider = "http"
name = "echo"
base = "http://{address}"

[binding.act]
path = "/api/execute"
body = {{ recipient = {{ "$value" = "/recipient" }}, invoice = {{ "$value" = "/invoice" }}, note = "{}" }}
success = {{ status = [200] }}
"#,
        "n".repeat(200)
    );
    bound(HTTP_PAYMENT, "atp-1", &binding)
}

fn bound(name: &str, level: &str, binding: &str) -> String {
    format!(
        r#"name = "{name}"
description = "A payment to nobody, for measuring"
reversible = false
guarantee_level = "{level}"
default_payment_mode = "IMMEDIATE_CHARGE"
irreversible_threshold = "5000.00"
resource = "/recipient"
destination = "/recipient"
identity = ["/recipient", "/amount_usd", "/invoice"]

[cedar]
groups = ["BenchPayments"]
resource_type = "Account"

[money]
amount = "/amount_usd"
bound = "/max_total_usd"
currency = "USD"

[duplicate]
window = "10m"
on = "escalate"

[anomaly]
cold_start_threshold = "1000.00"
first_seen_above = "1000.00"

{binding}
[schema]
required = ["recipient", "amount_usd", "max_total_usd", "invoice"]

[schema.properties.recipient]
description = "Who would receive the money"
type = "string"
x-identifier = true

[schema.properties.amount_usd]
description = "How much, in US dollars"
type = "string"
x-public = true

[schema.properties.max_total_usd]
description = "The most that may be charged, in US dollars"
type = "string"
x-public = true

[schema.properties.invoice]
description = "What it pays"
type = "string"
x-identifier = true

[schema.properties.note]
description = "One line for people"
type = "string"
maxLength = 140
x-display = true
"#
    )
}

/// A tool that an operator looked at: it acts, and can be taken back, and each call is meant.
pub(crate) fn tool(pinned: &str) -> String {
    format!(
        r#"name = "mcp/{SHOP}/{TOOL}"
description = "Says what it is told, for measuring"
reversible = true

[cedar]
groups = ["BenchTools"]

[duplicate]
on = "allow"

[binding]
provider = "mcp"
server = "{SHOP}"
tool = "{TOOL}"
pinned = "{pinned}"

[schema]
required = ["text"]

[schema.properties.text]
description = "What it is told"
type = "string"
x-identifier = true
"#
    )
}

/// The one policy more that agents need for it.
pub(crate) const TOOL_POLICY: &str = r#"
@id("tools")
permit (principal is Agent, action in Action::"BenchTools", resource) when { context has mandate };
"#;

/// Ten policies of the kind operators write: two that forbid whatever the action, eight that permit some.
pub(crate) const POLICIES: &str = r#"
@id("too-much") @tier("0-B")
forbid (principal, action, resource) when { context has amount && context.amount.minor > 500000 };

@id("weekends-with-care")
forbid (principal, action, resource) when { context.time.weekday > 5 && context.guarantee_level < 1 };

@id("bench-payments")
permit (principal is Agent, action in Action::"BenchPayments", resource)
when { context has mandate && context.amount.currency == "USD" && context.amount.minor <= 100000 };

@id("small-payments")
permit (principal is Agent, action == Action::"PAYMENT_TRANSFER", resource) when { context.amount.minor <= 10000 };

@id("payments-under-a-mandate")
permit (principal is Agent, action == Action::"PAYMENT_TRANSFER", resource)
when { context has mandate && context.mandate has spend_left && context.mandate.spend_left.minor > 0 };

@id("hotels")
permit (principal is Agent, action == Action::"HOTEL_RESERVATION", resource) when { context has mandate };

@id("flights")
permit (principal is Agent, action == Action::"FLIGHT_BOOKING", resource) when { context has mandate };

@id("exports-by-day")
permit (principal is Agent, action == Action::"DATA_EXPORT", resource)
when { context.time.hour >= 8 && context.time.hour < 18 };

@id("people-pay")
permit (principal is User, action == Action::"PAYMENT_TRANSFER", resource);

@id("people-export")
permit (principal is User, action == Action::"DATA_EXPORT", resource);
"#;

/// One request under the mandate `token`, to one of many recipients.
pub(crate) fn body(archetype: &str, token: &str, recipient: usize) -> Value {
    let mut body = payment(archetype, recipient);
    body["delegation_token"] = token.into();
    body
}

/// The same as a cycle of a session, on the declaration `intent`. The session has the mandate.
pub(crate) fn cycle(archetype: &str, intent: &str, recipient: usize) -> String {
    let mut body = payment(archetype, recipient);
    body["intent_id"] = intent.into();
    numbered(&body, 1)
}

/// A declaration in a session, which is as the gateway shows it, before any number of [`cycle`].
pub(crate) fn declaration(session: &Value, intent: &str) -> Value {
    let mut body = json!({
        "action_sequence_number": 1,
        "expires_at": "2100-01-01T00:00:00Z",
        "goal_scope": ["BenchPayments"],
        "goal_type": "pay",
        "intent_id": intent,
        "reasoning_mode": "CHAIN",
    });
    for same in ["gec_instance_id", "mandate_id", "session_id"] {
        body[same] = session[same].clone();
    }
    body
}

/// The same before each cycle, just below its number.
pub(crate) fn declaration_each(session: &Value, intent: &str) -> String {
    let mut body = declaration(session, intent);
    body.as_object_mut().map(|members| members.remove(NUMBER));
    numbered(&body, 0)
}

/// With a number that rises with that of the request: JSON knows none with a gap to be filled.
fn numbered(body: &Value, last: u8) -> String {
    format!("{{\"{NUMBER}\":1{SERIAL}{last},{}", body.to_string().trim_start_matches('{'))
}

fn payment(archetype: &str, recipient: usize) -> Value {
    json!({
        "agent_id": AGENT,
        "archetype": archetype,
        "constraints": {
            "recipient": format!("acct-{recipient:04}"),
            "amount_usd": "12.50",
            "max_total_usd": "15.00",
            "invoice": format!("inv-{SERIAL}"),
            "note": "Measured, and paid to nobody",
        },
        "payment_mode": "IMMEDIATE_CHARGE",
    })
}

/// The whole request as it goes over the wire.
pub(crate) fn request(host: &str, key: &str, body: &Value) -> String {
    post(host, key, "/api/execute", &format!("ep-version: 2026-04-27\r\n{IDEMPOTENT}"), &body.to_string())
}

/// A [`cycle`] of a session.
pub(crate) fn cycle_request(host: &str, key: &str, session: &str, body: &str) -> String {
    post(host, key, &format!("/v1/sessions/{session}/cycles"), IDEMPOTENT, body)
}

/// A declaration in a session.
pub(crate) fn declaration_request(host: &str, key: &str, session: &str, body: &str) -> String {
    post(host, key, &format!("/v1/sessions/{session}/intents"), "", body)
}

fn post(host: &str, key: &str, path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// As which client of the Model Context Protocol a tool is called.
#[derive(Clone, Copy)]
pub(crate) enum Client<'a> {
    /// One of 2026-07-28.
    Stateless,
    /// One of 2025-11-25, with the session that it opened.
    Session(&'a str),
}

/// A `tools/call` at `path`. Each says something else.
pub(crate) fn tool_request(
    (host, path, key): (&str, &str, &str),
    client: Client<'_>,
    mandate: Option<&str>,
) -> String {
    let mut meta = json!({});
    if let Some(token) = mandate {
        meta["io.countersign/mandate"] = token.into();
    }
    let headers = match client {
        Client::Stateless => {
            meta["io.modelcontextprotocol/protocolVersion"] = STATELESS.into();
            meta["io.modelcontextprotocol/clientInfo"] = client_info();
            meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
            format!(
                "{ACCEPT}mcp-protocol-version: {STATELESS}\r\nmcp-method: tools/call\r\nmcp-name: {TOOL}\r\n"
            )
        }
        Client::Session(id) => {
            format!("{ACCEPT}mcp-protocol-version: {SESSIONS}\r\nmcp-session-id: {id}\r\n")
        }
    };
    let params = json!({ "name": TOOL, "arguments": { "text": spoken(SERIAL) }, "_meta": meta });
    let body = json!({ "jsonrpc": "2.0", "id": SERIAL, "method": "tools/call", "params": params });
    post(host, key, path, &headers, &body.to_string())
}

/// What a client of 2025-11-25 begins with.
pub(crate) fn greeting() -> Value {
    let params = json!({ "protocolVersion": SESSIONS, "capabilities": {}, "clientInfo": client_info() });
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })
}

fn client_info() -> Value {
    json!({ "name": "bench", "version": "1" })
}

/// What the tool is told, and says, in the call of this number.
pub(crate) fn spoken(serial: &str) -> String {
    format!("measured-{serial}")
}

pub(crate) const STATELESS: &str = "2026-07-28";
pub(crate) const SESSIONS: &str = "2025-11-25";
const ACCEPT: &str = "accept: application/json, text/event-stream\r\n";

/// No action is another's repetition.
const IDEMPOTENT: &str = "idempotency-key: bench-############\r\n";
const NUMBER: &str = "action_sequence_number";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_reads_and_takes_the_request() {
        let text = archetype(PAYMENT, [0, 0]);
        let source = action::Source { name: "bench.toml".to_owned(), text };
        let catalogue = action::Catalogue::load(true, &[source]).expect("the catalogue is right");
        let archetype = catalogue.get(PAYMENT).expect("it is in there");
        let sent = body(PAYMENT, "a.b.c", 7).to_string().replace(SERIAL, "000000000042");
        let request = action::Request::parse(sent.as_bytes()).expect("the request is well formed");
        let action = action::Action::of(request, archetype).expect("the action is well formed");
        assert!(action.is_complete());
        assert_eq!(action.money.map(|money| money.minor()), Some(1250));
    }

    #[test]
    fn ten_policies_fit_the_catalogue() {
        let source = |name: &str, text: String| action::Source { name: name.to_owned(), text };
        let mut catalogue: Vec<_> = [(PAYMENT, [0, 0]), (SLOW_PAYMENT, [200, 2000]), (SAFE_PAYMENT, [0, 0])]
            .into_iter()
            .map(|(name, delay)| source(&format!("{name}.toml"), archetype(name, delay)))
            .collect();
        catalogue.push(source("bank.toml", at_bank("127.0.0.1:1")));
        let catalogue = action::Catalogue::load(true, &catalogue).expect("the catalogue is right");
        let policies = source("bench.cedar", POLICIES.to_owned());
        let policies =
            boundary::Policies::load(&[policies], &[], &[], &catalogue).expect("the policies are right");
        assert_eq!(policies.rules().iter().filter(|rule| &*rule.file == "bench.cedar").count(), 10);
    }

    #[test]
    fn the_tools_file_and_policy_read() {
        let source = |name: &str, text: String| action::Source { name: name.to_owned(), text };
        let files = [source("tool.toml", tool(&"0".repeat(64)))];
        let catalogue = action::Catalogue::load(true, &files).expect("the catalogue is right");
        assert!(catalogue.get("mcp/shop/echo").is_some_and(|tool| tool.reversible && tool.money.is_none()));
        let policies = [source("tool.cedar", TOOL_POLICY.to_owned())];
        boundary::Policies::load(&policies, &[], &[], &catalogue).expect("the policy is right");
    }

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let text = request("127.0.0.1:1", "key", &body(PAYMENT, "a.b.c", 7));
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.ends_with(&format!("content-length: {}", body.len())));
        assert_eq!(text.matches(SERIAL).count(), 2, "key and invoice");
        let text = cycle_request("127.0.0.1:1", "key", "s", &cycle(PAYMENT, "i", 7));
        assert_eq!(text.matches(SERIAL).count(), 3, "its number, too");
        for client in [Client::Stateless, Client::Session("s")] {
            let text = tool_request(("127.0.0.1:1", "/mcp", "key"), client, Some("a.b.c"));
            let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
            assert!(head.ends_with(&format!("content-length: {}", body.len())));
            assert_eq!(text.matches(SERIAL).count(), 2, "id and text");
        }
    }

    #[test]
    fn numbers_in_a_session_rise_and_a_declaration_comes_before_its_cycle() {
        let session =
            json!({"gec_instance_id": "g", "mandate_id": "m", "session_id": "s", "state": "ACTIVE"});
        let number = |text: String, serial: &str| {
            let body: Value = serde_json::from_str(&text.replace(SERIAL, serial)).expect("JSON");
            body[NUMBER].as_u64().expect("a number")
        };
        let turn = |serial| {
            [declaration_each(&session, "i"), cycle(PAYMENT, "i", 7)].map(|text| number(text, serial))
        };
        let all = [[1, 1], turn("000000000000"), turn("000000000001"), turn("999999999999")].concat();
        assert!(all.windows(2).skip(1).all(|two| two[0] < two[1]), "{all:?}");
        assert!(all.iter().all(|number| *number < 1 << 53), "what JSON carries exactly: {all:?}");
        assert_eq!(declaration(&session, "i")[NUMBER], 1);
        assert_eq!(declaration(&session, "i")["state"], Value::Null, "only what a declaration says");
    }
}
