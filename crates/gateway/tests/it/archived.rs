//! Houses whose records lie in a real archive over HTTP.

use action::Subject;
use countersign_gateway::config::{Secret, StaticSecret};
use countersign_gateway::{Caller, Config, Role};
use serde_json::{Value, json};
use testkit::records::{Archive, Options};

use crate::house::{BINDING, House, Said};
use crate::retries::AT_ONCE;

/// The built-in archetype, bound as `docs/catalogue.md` shows it; `more` goes at its end.
pub(crate) fn deleting(archive: &Archive, more: &str) -> String {
    format!(
        r#"
name = "DATA_DELETE"
extends = "builtin"
{binding}
[binding.snapshot]
path = ["records", {{ "$value" = "/record" }}]
success = {{ status = [200], pointer = "/status", equals = ["there"] }}

[binding.act]
method = "DELETE"
path = ["records", {{ "$value" = "/record" }}]
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }} }}
body = {{ reference = {{ "$action" = "reference" }} }}
success = {{ status = [200], pointer = "/status", equals = ["deleted"] }}
refused = [{{ status = [404, 409, 412, 422] }}]
reference = "/change_id"

[binding.rollback]
restores = true
path = ["records", {{ "$value" = "/record" }}, "restore"]
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }}, If-Match = {{ "$snapshot" = "/version" }} }}
success = {{ status = [200], pointer = "/status", equals = ["restored"] }}
refused = [{{ status = [404, 409, 412, 422] }}]
transient = [{{ status = [429] }}]
{more}
"#,
        binding = binding(archive)
    )
}

/// Where the archive is, how it is asked, and how often anything is sent again.
pub(crate) fn binding(archive: &Archive) -> String {
    let address = archive.address();
    format!(
        r#"
[retry]
{AT_ONCE}

[binding]
provider = "http"
name = "archive"
base = "http://{address}/v1"
timeout_ms = 5000
headers = {{ Authorization = {{ "$secret" = "archive", prefix = "Bearer " }} }}

[binding.capabilities]
idempotent = {{ retention_seconds = 86400 }}
queryable = {{ by_our_reference = true, final_after_seconds = 0 }}

[binding.query]
path = "/changes"
params = {{ reference = {{ "$action" = "reference" }} }}
found = {{ status = [200], pointer = "/changes/0" }}
absent = {{ status = [200], pointer = "/changes/0", exists = false }}
reference = "/changes/0/change_id"
"#
    )
}

pub(crate) async fn archive() -> Archive {
    Archive::start(Options::default()).await.unwrap()
}

/// A house with this archetype, and whoever may use it.
pub(crate) async fn house(archive: &Archive, text: &str) -> House {
    patient(archive, text, 60_000).await
}

/// One that keeps its callers waiting so long.
pub(crate) async fn patient(archive: &Archive, text: &str, patience_ms: u64) -> House {
    let house = House::bound(BINDING, |config| {
        reaching(config, archive);
        config.limits.patience_ms = patience_ms;
    })
    .await;
    bind(&house, text).await;
    house
}

/// Puts an archetype about records into the catalogue, in the place of the one there was.
pub(crate) async fn bind(house: &House, text: &str) {
    house.write("catalogue/default/records.toml", text);
    house.write("policies/default/data.cedar", POLICY);
    house.gateway().reload(&house.admin).await.unwrap();
}

const POLICY: &str = r#"
@id("data")
permit (principal, action in Action::"Data", resource);
"#;

/// Lets the gateway reach the archive.
pub(crate) fn reaching(config: &mut Config, archive: &Archive) {
    let address = archive.address().to_string();
    let token = config.data_dir.with_file_name("archive.token");
    std::fs::write(&token, archive.token()).unwrap();
    let secret = StaticSecret { env: None, file: Some(token), hosts: vec![address.clone()] };
    config.secrets.insert("archive".to_owned(), Secret::Static(secret));
    config.egress.allow.push(address.clone());
    config.egress.plain_http.push(address);
    config.limits.recovery_interval_ms = 20;
}

pub(crate) fn deletion(record: &str) -> Value {
    json!({
        "archetype": "DATA_DELETE",
        "constraints": { "dataset": "crm", "record": record, "reason": "it is asked for" },
    })
}

/// Asks for something that a person has to agree to, who does.
pub(crate) async fn agreed(house: &House, key: &str, body: &Value) -> Said {
    let held = house.said(key, body).await;
    assert_eq!(held.kind(), "held", "{}", held.body);
    let anna = Caller {
        subject: Subject::parse("anna").unwrap(),
        role: Role::Approver,
        key_issuer: None,
        ..house.agent.clone()
    };
    house.gateway().approve(&anna, held.id(), None).await.unwrap();
    held
}
