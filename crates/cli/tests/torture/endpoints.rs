//! Every endpoint, every role, the other tenant, no key, a wrong key. An endpoint without a row fails the test.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::approvals::ask_for;
use crate::house::{House, ROLES, Said, VERSION, Voice, payment};
use crate::passkey::Passkey;
use crate::sessions::intent;
use crate::visitor::{Visitor, enrolled};

/// Own tenant: without a key, with a wrong one, as the agent whose it is, as another agent, and as each person. Last
/// column: what the other tenant's people hear where ours are let in; `own` is the same, about what is theirs.
const TABLE: &str = "
    POST /api/execute                                   401 401 200 403 403 403 403 403 own
    POST /api/sandbox/execute                           200 401 200 200 403 403 403 403 own
    POST /v1/actions                                    401 401 200 403 403 403 403 403 own
    GET  /v1/actions/{id}                               401 401 200 404 200 200 200 200 404
    GET  /v1/actions/{id}/replay                        401 401 403 403 200 200 200 200 404
    GET  /v1/approvals                                  401 401 403 403 200 200 200 200 own
    GET  /v1/approvals/{id}                             401 401 403 403 200 200 200 200 404
    POST /v1/actions/{id}/approve                       401 401 403 403 200 403 403 403 404
    POST /v1/actions/{id}/reject                        401 401 403 403 200 403 403 403 404
    POST /v1/actions/{id}/decide                        401 401 403 403 200 403 403 403 404
    POST /v1/actions/{id}/answer                        401 401 409 404 403 403 403 403 404
    POST /v1/actions/{id}/resolve                       401 401 403 403 409 403 403 403 404
    POST /v1/actions/{id}/retry                         401 401 200 404 403 200 403 200 404
    POST /v1/actions/{id}/cancel                        401 401 200 404 403 200 403 200 404
    POST /v1/actions/{id}/envelope                      401 401 403 403 200 403 403 403 404
    POST /v1/runs                                       401 401 422 422 403 403 403 403 own
    POST /v1/runs/{id}/take                             401 401 200 404 403 403 403 403 404
    POST /v1/runs/{id}/beat                             401 401 409 404 403 403 403 403 404
    POST /v1/runs/{id}/report                           401 401 409 404 403 403 403 403 404
    GET  /v1/approvers                                  401 401 403 403 200 200 200 200 own
    GET  /v1/passkeys                                   401 401 403 403 200 200 200 200 own
    POST /v1/passkeys/{id}/enrol                        401 401 403 403 403 403 403 200 404
    POST /v1/passkeys/{id}/revoke                       401 401 403 403 403 403 403 200 404
    GET  /v1/audit                                      401 401 403 403 403 200 200 200 own
    GET  /v1/audit/verify                               401 401 403 403 403 200 200 200 own
    POST /v1/actions/{id}/rollback                      401 401 422 404 403 422 403 422 404
    POST /v1/rollbacks                                  401 401 422 404 403 422 403 422 404
    POST /v1/actions/{id}/capture                       401 401 409 404 403 409 403 409 404
    POST /v1/actions/{id}/release                       401 401 409 404 403 409 403 409 404
    POST /v1/actions/{id}/erase                         401 401 403 403 403 403 403 200 404
    GET  /v1/receipts/{id}                              401 401 200 404 200 200 200 200 404
    POST /v1/mandates                                   401 401 403 403 403 201 403 201 own
    GET  /v1/mandates                                   401 401 403 403 200 200 200 200 own
    GET  /v1/mandates/{jti}                             401 401 200 404 200 200 200 200 404
    POST /v1/mandates/{jti}/delegate                    401 401 201 404 403 201 403 201 404
    POST /v1/mandates/{jti}/extend                      401 401 403 403 403 200 403 200 404
    GET  /v1/policies/disclosure                        401 401 200 200 200 200 200 200 own
    POST /v1/principals/{iss}/keys                      401 401 403 403 403 201 403 201 own
    GET  /v1/principals                                 401 401 403 403 200 200 200 200 own
    POST /v1/principals/{iss}/keys/revoke               401 401 403 403 403 200 403 200 404
    POST /v1/mandates/{jti}/revoke                      401 401 403 403 403 200 403 200 404
    POST /v1/freeze                                     401 401 403 403 403 200 403 200 own
    POST /v1/thaw                                       401 401 403 403 403 200 403 200 404
    GET  /v1/freezes                                    401 401 403 403 200 200 200 200 own
    POST /v1/keys                                       401 401 403 403 403 403 403 201 own
    GET  /v1/keys                                       401 401 403 403 403 403 403 200 own
    POST /v1/keys/{id}/revoke                           401 401 403 403 403 403 403 200 404
    GET  /v1/signing-keys                               401 401 403 403 200 200 200 200 own
    POST /v1/signing-keys/rotate                        401 401 403 403 403 403 403 201 403
    POST /v1/signing-keys/{kid}/compromise              401 401 403 403 403 403 403 200 403
    POST /v1/observe                                    401 401 403 403 403 403 403 200 own
    POST /v1/reload                                     401 401 403 403 403 403 403 200 own
    POST /sandbox/v1/actions                            200 401 200 200 403 403 403 403 own
    GET  /sandbox/v1/actions/{id}                       404 401 200 404 200 200 200 200 404
    GET  /sandbox/v1/actions/{id}/replay                401 401 403 403 200 200 200 200 404
    GET  /sandbox/v1/approvals                          401 401 403 403 200 200 200 200 own
    GET  /sandbox/v1/approvals/{id}                     401 401 403 403 200 200 200 200 404
    POST /sandbox/v1/actions/{id}/approve               401 401 403 403 200 403 403 403 404
    POST /sandbox/v1/actions/{id}/reject                401 401 403 403 200 403 403 403 404
    POST /sandbox/v1/actions/{id}/decide                401 401 403 403 200 403 403 403 404
    POST /sandbox/v1/actions/{id}/answer                404 401 409 404 403 403 403 403 404
    POST /sandbox/v1/actions/{id}/resolve               401 401 403 403 409 403 403 403 404
    GET  /sandbox/v1/audit                              401 401 403 403 403 200 200 200 own
    GET  /sandbox/v1/audit/verify                       401 401 403 403 403 200 200 200 own
    POST /sandbox/v1/actions/{id}/retry                 401 401 200 404 403 200 403 200 404
    POST /sandbox/v1/actions/{id}/cancel                401 401 200 404 403 200 403 200 404
    POST /sandbox/v1/actions/{id}/rollback              401 401 422 404 403 422 403 422 404
    POST /sandbox/v1/rollbacks                          401 401 422 404 403 422 403 422 404
    POST /sandbox/v1/actions/{id}/capture               401 401 409 404 403 409 403 409 404
    POST /sandbox/v1/actions/{id}/release               401 401 409 404 403 409 403 409 404
    POST /sandbox/v1/actions/{id}/erase                 401 401 403 403 403 403 403 200 404
    GET  /sandbox/v1/receipts/{id}                      404 401 200 404 200 200 200 200 404
    GET  /v1/receipts/{id}/proof                        401 401 200 404 200 200 200 200 404
    GET  /v1/receipts/{id}/bundle                       401 401 200 404 200 200 200 200 404
    GET  /sandbox/v1/receipts/{id}/proof                404 401 200 404 200 200 200 200 404
    GET  /sandbox/v1/receipts/{id}/bundle               404 401 200 404 200 200 200 200 404
    GET  /v1/log                                        401 401 200 200 200 200 200 200 own
    GET  /sandbox/v1/log                                401 401 200 200 200 200 200 200 own
    GET  /log/checkpoint                                401 401 403 403 403 200 200 200 own
    GET  /log/tile/{path}                               401 401 403 403 403 200 200 200 own
    GET  /log/consistency                               401 401 403 403 403 422 422 422 own
    GET  /sandbox/log/checkpoint                        401 401 403 403 403 200 200 200 404
    GET  /sandbox/log/tile/{path}                       401 401 403 403 403 200 200 200 404
    GET  /sandbox/log/consistency                       401 401 403 403 403 422 422 422 own
    POST /sandbox/v1/mandates                           401 401 403 403 403 201 403 201 own
    GET  /sandbox/v1/mandates                           401 401 403 403 200 200 200 200 own
    GET  /sandbox/v1/mandates/{jti}                     404 401 200 404 200 200 200 200 404
    POST /sandbox/v1/mandates/{jti}/delegate            401 401 201 404 403 201 403 201 404
    POST /sandbox/v1/mandates/{jti}/extend              401 401 403 403 403 200 403 200 404
    GET  /sandbox/v1/policies/disclosure                401 401 200 200 200 200 200 200 own
    POST /sandbox/v1/principals/{iss}/keys              401 401 403 403 403 201 403 201 own
    GET  /sandbox/v1/principals                         401 401 403 403 200 200 200 200 own
    POST /sandbox/v1/principals/{iss}/keys/revoke       401 401 403 403 403 200 403 200 404
    POST /sandbox/v1/mandates/{jti}/revoke              401 401 403 403 403 200 403 200 404
    POST /sandbox/v1/freeze                             401 401 403 403 403 200 403 200 own
    POST /sandbox/v1/thaw                               401 401 403 403 403 200 403 200 404
    GET  /sandbox/v1/freezes                            401 401 403 403 200 200 200 200 own
    GET  /sandbox/v1/signing-keys                       401 401 403 403 200 200 200 200 own
    POST /sandbox/v1/signing-keys/rotate                401 401 403 403 403 403 403 201 403
    POST /sandbox/v1/signing-keys/{kid}/compromise      401 401 403 403 403 403 403 200 403
    POST /sandbox/v1/observe                            401 401 403 403 403 403 403 200 own
    POST /sandbox/v1/reload                             401 401 403 403 403 403 403 200 own
    POST /v1/sessions                                   401 401 201 403 403 403 403 403 own
    GET  /v1/sessions                                   401 401 200 200 200 200 200 200 own
    GET  /v1/sessions/{id}                              401 401 200 404 200 200 200 200 404
    GET  /v1/sessions/{id}/context                      401 401 200 404 200 200 200 200 404
    POST /v1/sessions/{id}/intents                      401 401 201 404 403 403 403 403 404
    POST /v1/sessions/{id}/cycles                       401 401 200 404 403 403 403 403 404
    POST /v1/sessions/{id}/close                        401 401 200 404 403 200 403 200 404
    GET  /v1/sessions/{id}/record                       401 401 200 404 200 200 200 200 404
    POST /v1/sessions/{id}/wait                         401 401 200 404 200 200 403 200 404
    POST /v1/clusters                                   401 401 201 404 403 403 403 403 404
    GET  /v1/clusters/{id}                              401 401 200 404 200 200 200 200 404
    POST /v1/clusters/{id}/join                         401 401 200 404 403 403 403 403 404
    POST /v1/clusters/{id}/leave                        401 401 200 404 200 200 403 200 404
    POST /v1/clusters/{id}/hold                         401 401 403 403 200 200 403 200 404
    POST /v1/clusters/{id}/release                      401 401 403 403 200 200 403 200 404
    POST /v1/clusters/{id}/transfer                     401 401 422 404 403 403 403 403 404
    GET  /v1/gar                                        401 401 200 200 200 200 200 200 own
    POST /sandbox/v1/sessions                           201 401 201 201 403 403 403 403 own
    GET  /sandbox/v1/sessions                           401 401 200 200 200 200 200 200 own
    GET  /sandbox/v1/sessions/{id}                      404 401 200 404 200 200 200 200 404
    GET  /sandbox/v1/sessions/{id}/context              404 401 200 404 200 200 200 200 404
    POST /sandbox/v1/sessions/{id}/intents              404 401 201 404 403 403 403 403 404
    POST /sandbox/v1/sessions/{id}/cycles               404 401 200 404 403 403 403 403 404
    POST /sandbox/v1/sessions/{id}/close                404 401 200 404 403 200 403 200 404
    GET  /sandbox/v1/sessions/{id}/record               404 401 200 404 200 200 200 200 404
    POST /sandbox/v1/sessions/{id}/wait                 404 401 200 404 200 200 403 200 404
    POST /sandbox/v1/clusters                           404 401 201 404 403 403 403 403 404
    GET  /sandbox/v1/clusters/{id}                      404 401 200 404 200 200 200 200 404
    POST /sandbox/v1/clusters/{id}/join                 404 401 200 404 403 403 403 403 404
    POST /sandbox/v1/clusters/{id}/leave                404 401 200 404 200 200 403 200 404
    POST /sandbox/v1/clusters/{id}/hold                 403 401 403 403 200 200 403 200 404
    POST /sandbox/v1/clusters/{id}/release              403 401 403 403 200 200 403 200 404
    POST /sandbox/v1/clusters/{id}/transfer             404 401 422 404 403 403 403 403 404
    GET  /sandbox/v1/gar                                401 401 200 200 200 200 200 200 own
    POST /v1/grants                                     401 401 200 400 403 403 403 403 own
    POST /sandbox/v1/grants                             403 401 403 403 403 403 403 403 own
    POST /v1/grants/continue                            401 401 401 401 401 401 401 401 own
    POST /sandbox/v1/grants/continue                    401 401 401 401 401 401 401 401 own
    POST /v1/events                                     415 415 415 415 415 415 415 415 own
    POST /sandbox/v1/events                             415 415 415 415 415 415 415 415 own
    POST /v1/callbacks/{binding}                        401 401 401 401 401 401 401 401 own
    GET  /approvals                                     200 200 200 200 200 200 200 200 own
    POST /approvals/login                               403 403 403 403 403 403 403 403 own
    POST /approvals/greeting                            403 403 403 403 403 403 403 403 own
    POST /approvals/logout                              401 401 401 401 401 401 401 401 own
    GET  /approvals/events                              401 401 401 401 401 401 401 401 own
    GET  /approvals/passkeys                            401 401 401 401 401 401 401 401 own
    POST /approvals/passkeys                            401 401 401 401 401 401 401 401 own
    POST /approvals/passkeys/new                        401 401 401 401 401 401 401 401 own
    POST /approvals/passkeys/{id}/revoke                401 401 401 401 401 401 401 401 own
    GET  /approvals/{id}                                401 401 401 401 401 401 401 401 own
    POST /approvals/{id}/envelope                       401 401 401 401 401 401 401 401 own
    POST /approvals/{id}/approve                        401 401 401 401 401 401 401 401 own
    POST /approvals/{id}/reject                         401 401 401 401 401 401 401 401 own
    POST /approvals/{id}/decide                         401 401 401 401 401 401 401 401 own
    POST /approvals/{id}/resolve                        401 401 401 401 401 401 401 401 own
    GET  /sandbox/approvals                             200 200 200 200 200 200 200 200 own
    POST /sandbox/approvals/login                       403 403 403 403 403 403 403 403 own
    POST /sandbox/approvals/greeting                    403 403 403 403 403 403 403 403 own
    POST /sandbox/approvals/logout                      401 401 401 401 401 401 401 401 own
    GET  /sandbox/approvals/events                      401 401 401 401 401 401 401 401 own
    GET  /sandbox/approvals/{id}                        401 401 401 401 401 401 401 401 own
    POST /sandbox/approvals/{id}/approve                401 401 401 401 401 401 401 401 own
    POST /sandbox/approvals/{id}/reject                 401 401 401 401 401 401 401 401 own
    POST /sandbox/approvals/{id}/decide                 401 401 401 401 401 401 401 401 own
    POST /sandbox/approvals/{id}/resolve                401 401 401 401 401 401 401 401 own
    GET  /r/{address}                                   200 200 200 200 200 200 200 200 own
    POST /access/v1/evaluation                          401 401 200 403 403 200 403 200 own
    POST /access/v1/evaluations                         401 401 200 403 403 200 403 200 own
    POST /sandbox/access/v1/evaluation                  403 401 200 403 403 200 403 200 own
    POST /sandbox/access/v1/evaluations                 403 401 200 403 403 200 403 200 own
    GET  /.well-known/authzen-configuration             200 200 200 200 200 200 200 200 own
    GET  /.well-known/authzen-configuration/sandbox     200 200 200 200 200 200 200 200 own
    GET  /.well-known/jwks.json                         200 200 200 200 200 200 200 200 own
    GET  /sandbox/.well-known/jwks.json                 200 200 200 200 200 200 200 200 own
    GET  /.well-known/oauth-protected-resource          200 200 200 200 200 200 200 200 own
    GET  /.well-known/oauth-protected-resource/mcp      200 200 200 200 200 200 200 200 own
    GET  /.well-known/oauth-protected-resource/mcp/{server} 200 200 200 200 200 200 200 200 own
    POST /mcp                                            401 401 200 200 403 403 403 403 own
    GET  /mcp                                            401 401 400 400 403 403 403 403 own
    DELETE /mcp                                            401 401 400 400 403 403 403 403 own
    POST /mcp/{server}                                   401 401 404 404 403 403 403 403 own
    GET  /mcp/{server}                                   401 401 404 404 403 403 403 403 own
    DELETE /mcp/{server}                                   401 401 404 404 403 403 403 403 own
    POST /sandbox/mcp                                    200 401 200 200 403 403 403 403 own
    GET  /sandbox/mcp                                    400 401 400 400 403 403 403 403 own
    DELETE /sandbox/mcp                                    400 401 400 400 403 403 403 403 own
    POST /sandbox/mcp/{server}                           404 401 404 404 403 403 403 403 own
    GET  /sandbox/mcp/{server}                           404 401 404 404 403 403 403 403 own
    DELETE /sandbox/mcp/{server}                           404 401 404 404 403 403 403 403 own
    GET  /v1/mcp/tools                                  401 401 403 403 403 200 200 200 own
    GET  /openapi.json                                  200 200 200 200 200 200 200 200 own
    GET  /                                              200 200 200 200 200 200 200 200 own
    GET  /docs                                          200 200 200 200 200 200 200 200 own
    GET  /docs/errors                                   200 200 200 200 200 200 200 200 own
    GET  /healthz                                       200 200 200 200 200 200 200 200 own
    GET  /readyz                                        200 200 200 200 200 200 200 200 own
    GET  /metrics                                       401 401 403 403 200 200 200 200 own
";

/// The columns before the last.
const COLUMNS: [&str; 8] =
    ["nobody", "stranger", "agent", "rival", "approver", "operator", "auditor", "admin"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_endpoint_lets_in_whom_the_table_names_and_nobody_else() {
    let house = House::new().await;
    let table = rows();
    let served = operations(&house).await;
    assert_eq!(
        table.keys().cloned().collect::<BTreeSet<_>>(),
        served,
        "each operation of /openapi.json has its row"
    );
    let world = World::new(&house).await;
    let mut wrong = Vec::new();
    for ((method, path), (ours, theirs)) in &table {
        // A page takes no key in a header: to it everybody is a stranger until they have logged in.
        let restricted = ours[1] == 401;
        let mut hear = Vec::new();
        for (who, expected) in COLUMNS.iter().zip(ours) {
            let voice = match *who {
                "nobody" => house.nobody(),
                "stranger" => Voice { key: Some("cs_nobody-has-this-key".into()), ..house.nobody() },
                who => house.voice("default", who),
            };
            hear.push((format!("default's {who}"), "default", voice, *expected));
        }
        for role in ROLES {
            let as_ours = ours[COLUMNS.iter().position(|column| *column == role).unwrap()];
            let let_in = !matches!(as_ours, 401 | 403 | 404);
            let expected = if let_in { theirs.unwrap_or(as_ours) } else { as_ours };
            hear.push((format!("other's {role}"), "other", house.voice("other", role), expected));
        }
        for (who, tenant, voice, expected) in hear {
            let said = world.call(&voice, tenant, method, path).await;
            if said.status != expected {
                wrong.push(format!(
                    "{method} {path} for {who}: {} instead of {expected}: {}",
                    said.status,
                    said.text()
                ));
            }
            let foreign = if tenant == "default" { "other-" } else { "default-" };
            if restricted && without_own_policies(said.text()).contains(foreign) {
                wrong.push(format!("{method} {path} tells {who} of the other tenant: {}", said.text()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nothing_crossed(&house).await;
}

/// What the schema calls an object is no list of its members in whatever order the program has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_endpoint_takes_a_list_for_its_body() {
    let house = House::new().await;
    let world = World::new(&house).await;
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, role) in taken_as_json(&house).await {
        let base = if path.starts_with("/sandbox/") { "/sandbox" } else { "" };
        let argument = world.argument(base, path.strip_prefix(base).unwrap()).await;
        let voice = house.voice("default", role);
        let before = world.heads().await;
        let lists = (0..=10).map(|length| Value::Array(vec![Value::Null; length]));
        for body in lists.chain([
            json!("APPROVE"),
            json!(["APPROVE", null, null, null, null, null]),
            json!([[argument]]),
        ]) {
            let request = voice.request("POST", &filled(&path, &argument)).header("ep-version", VERSION);
            let request = request.header("idempotency-key", format!("list-{count}")).json(&body);
            let said = Said::of(request).await.unwrap();
            count += 1;
            let names_a_type =
                ["struct ", "Request with", "invalid length"].iter().any(|it| said.text().contains(it));
            if !matches!(said.status, 400 | 422) || names_a_type {
                wrong.push(format!("POST {path} for {role}: {body}: {} {}", said.status, said.text()));
            }
        }
        // That a declaration was refused is itself on record.
        if !path.ends_with("/intents") && world.heads().await != before {
            wrong.push(format!("POST {path} for {role}: something was written"));
        }
    }
    assert!(count > 500, "most endpoints take a body: {count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each path that takes JSON, and a role that is let in.
async fn taken_as_json(house: &House) -> Vec<(String, &'static str)> {
    let document = house.nobody().get("/openapi.json").await.body;
    let takes = |path: &str| {
        document["paths"][path]["post"]["requestBody"]["content"]["application/json"].is_object()
    };
    let let_in = |statuses: &[u16]| {
        let place = statuses[2..].iter().position(|status| !matches!(status, 401 | 403 | 404 | 415))?;
        Some(COLUMNS[place + 2])
    };
    // What the Model Context Protocol takes is held against its own schema.
    let spoken = |path: &str| path.contains("/mcp");
    let rows = rows().into_iter();
    let rows = rows.filter(|((method, path), _)| method == "POST" && takes(path) && !spoken(path));
    rows.filter_map(|((_, path), (statuses, _))| Some((path, let_in(&statuses)?))).collect()
}

/// Policies of the program itself have these names everywhere.
fn without_own_policies(text: String) -> String {
    let names = ["default-budget-transfer", "default-execute-cycle", "default-extend-budget"];
    names.into_iter().fold(text, |text, name| text.replace(name, ""))
}

/// What the other tenant's people did above left no trace in ours.
async fn nothing_crossed(house: &House) {
    let admin = house.admin();
    for path in ["/v1/mandates?limit=200", "/v1/principals", "/v1/freezes", "/v1/keys"] {
        let said = admin.get(path).await;
        assert_eq!(said.status, 200);
        assert!(!said.text().contains("other-"), "{path}: {}", said.text());
    }
    // What other's people tried to revoke still works.
    let body = house.payment("acct-after", "1.00");
    let said = house.agent().execute("after", &body).await;
    assert_eq!(said.kind(), "executed", "{}", said.text());
}

type Row = (Vec<u16>, Option<u16>);

fn rows() -> BTreeMap<(String, String), Row> {
    let lines = TABLE.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let statuses = words[2..10].iter().map(|word| word.parse().unwrap()).collect();
            ((words[0].to_owned(), words[1].to_owned()), (statuses, words[10].parse().ok()))
        })
        .collect()
}

async fn operations(house: &House) -> BTreeSet<(String, String)> {
    let document = house.nobody().get("/openapi.json").await.body;
    let paths = document["paths"].as_object().unwrap();
    let methods = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone()));
        methods.collect::<Vec<_>>()
    };
    paths.iter().flat_map(methods).collect()
}

/// What there is to ask about, all of it the first tenant's.
struct World<'a> {
    house: &'a House,
    /// For production and the sandbox: an action, its receipt, the receipt's address.
    done: [(String, String, String); 2],
    count: std::sync::atomic::AtomicU32,
}

impl World<'_> {
    async fn new(house: &House) -> World<'_> {
        let agent = house.agent();
        ask_for(house, 1);
        assert_eq!(house.admin().post("/v1/reload", &json!({})).await.status, 200);
        let approver = house.voice("default", "approver");
        enrolled(house, &approver, &Passkey::new("the-approver's")).await;
        let production = agent.execute("the-one", &house.payment("acct-1", "25.00")).await;
        let sandbox =
            agent.post("/api/sandbox/execute", &payment("acct-1", "25.00", "tok-sandbox-public")).await;
        let done = [production, sandbox].map(|said| {
            assert_eq!(said.kind(), "executed", "{}", said.text());
            let text = |member: &str| said.body[member].as_str().unwrap().to_owned();
            let address = text("receipt_url_short").rsplit('/').next().unwrap().to_owned();
            (text("transaction_id"), text("receipt_id"), address)
        });
        let world = World { house, done, count: Default::default() };
        world.until_logged().await;
        world
    }

    /// What was done, and that the other tenant has keys, stands in the logs a moment later.
    async fn until_logged(&self) {
        let (agent, auditor) = (self.house.agent(), self.house.voice("other", "auditor"));
        let proof = |base: &str, receipt: &str| format!("{base}/v1/receipts/{receipt}/proof");
        let [production, sandbox] = [proof("", &self.done[0].1), proof("/sandbox", &self.done[1].1)];
        for (voice, path) in [(&agent, &*production), (&agent, &*sandbox), (&auditor, "/log/checkpoint")] {
            let mut tries = 0;
            while voice.get(path).await.status != 200 {
                tries += 1;
                assert!(tries < 2000, "{path} is never there");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }

    /// The last entries of both chains.
    async fn heads(&self) -> [Value; 2] {
        let auditor = self.house.voice("default", "auditor");
        let [production, sandbox] = ["", "/sandbox"].map(|base| format!("{base}/v1/audit/verify"));
        [auditor.get(&production).await.body, auditor.get(&sandbox).await.body]
            .map(|mut said| said["head"].take())
    }

    /// One call with everything in place: a fresh thing to change, a body that is right.
    async fn call(&self, voice: &Voice, tenant: &str, method: &str, path: &str) -> Said {
        let n = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let base = if path.starts_with("/sandbox/") { "/sandbox" } else { "" };
        let plain = path.strip_prefix(base).unwrap();
        let argument = self.argument(base, plain).await;
        let body = match plain {
            "/v1/sessions/{id}/intents" => intent(&self.seen(base, &argument).await, &format!("row-{n}"), 1),
            "/v1/sessions/{id}/cycles" => {
                let session = self.seen(base, &argument).await;
                let path = format!("{base}/v1/sessions/{argument}/intents");
                let declared = intent(&session, &format!("row-{n}"), 1);
                assert_eq!(self.house.agent().post(&path, &declared).await.status, 201);
                let constraints = payment(&format!("row-{n}"), "1.00", "")["constraints"].take();
                json!({
                    "archetype": "PAYMENT_TRANSFER", "constraints": constraints, "intent_id": format!("row-{n}"),
                    "action_sequence_number": 2,
                })
            }
            "/v1/clusters" => json!({"session_id": self.opened(base).await}),
            "/v1/clusters/{id}/join" => json!({"session_id": self.opened(base).await}),
            "/v1/clusters/{id}/leave" => json!({"session_id": self.members(base, &argument).await[0]}),
            "/v1/clusters/{id}/transfer" => {
                // Both are under one mandate, so nothing would move.
                let [from, to] = self.members(base, &argument).await;
                json!({"from_session_id": from, "to_session_id": to, "transfer_amount": 1})
            }
            "/mcp" | "/mcp/{server}" => json!({
                "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
                    "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "row", "version": "1"},
                },
            }),
            plain => self.body(tenant, base, plain, n).await,
        };
        let request = voice.request(method, &filled(path, &argument));
        let request = match path.contains("/mcp") {
            true => request.header("accept", "application/json, text/event-stream"),
            false => request,
        };
        let request = request.header("ep-version", VERSION).header("idempotency-key", format!("row-{n}"));
        let request = match (method, is_page(path)) {
            ("POST", true) => {
                request.header("content-type", "application/x-www-form-urlencoded").body("form=guessed")
            }
            ("POST", false) => request.json(&body),
            _ => request,
        };
        Said::of(request).await.unwrap()
    }

    async fn argument(&self, base: &str, plain: &str) -> String {
        let (action, receipt, address) = &self.done[usize::from(base == "/sandbox")];
        let admin = self.house.admin();
        match plain {
            "/v1/actions/{id}"
            | "/v1/actions/{id}/replay"
            | "/v1/actions/{id}/resolve"
            | "/v1/actions/{id}/rollback" => action.clone(),
            "/v1/runs/{id}/take" | "/v1/runs/{id}/beat" | "/v1/runs/{id}/report" => action.clone(),
            "/v1/actions/{id}/capture" | "/v1/actions/{id}/release" => action.clone(),
            "/v1/approvals/{id}"
            | "/v1/actions/{id}/envelope"
            | "/v1/actions/{id}/approve"
            | "/v1/actions/{id}/reject"
            | "/v1/actions/{id}/decide"
            | "/v1/actions/{id}/answer"
            | "/v1/actions/{id}/cancel" => self.held(base).await,
            "/v1/actions/{id}/retry" => self.failed(base).await,
            "/v1/actions/{id}/erase" => self.refused(base).await,
            page if is_page(page) && page.contains('{') => {
                self.done[usize::from(base == "/sandbox")].0.clone()
            }
            "/v1/passkeys/{id}/enrol" => self.registered().await,
            "/v1/passkeys/{id}/revoke" => self.registered().await,
            "/log/tile/{path}" => "0/000.p/1".to_owned(),
            "/v1/receipts/{id}" | "/v1/receipts/{id}/proof" | "/v1/receipts/{id}/bundle" => receipt.clone(),
            "/v1/callbacks/{binding}" => "bank".to_owned(),
            "/r/{address}" => address.clone(),
            "/.well-known/oauth-protected-resource/mcp/{server}" | "/mcp/{server}" => "git".to_owned(),
            "/v1/principals/{iss}/keys" => {
                format!("iss-{}", self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
            }
            "/v1/principals/{iss}/keys/revoke" => {
                let n = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let path = format!("{base}/v1/principals/default-iss-{n}/keys");
                let made = admin.post(&path, &json!({"jwk": jwk()})).await;
                assert_eq!(made.status, 201, "{}", made.text());
                format!("default-iss-{n}")
            }
            "/v1/mandates/{jti}/extend" => {
                let mut ask = mandate("default");
                ask["resource_envelope"] = json!({"max_duration_seconds": 60});
                let issued = admin.post(&format!("{base}/v1/mandates"), &ask).await;
                issued.body["mandate"]["jti"].as_str().unwrap().to_owned()
            }
            "/v1/mandates/{jti}" | "/v1/mandates/{jti}/delegate" | "/v1/mandates/{jti}/revoke" => {
                let issued = admin.post(&format!("{base}/v1/mandates"), &mandate("default")).await;
                issued.body["mandate"]["jti"].as_str().unwrap().to_owned()
            }
            "/v1/sessions/{id}/wait" => {
                let [waits, on] = self.members(base, &self.cluster(base).await).await;
                let path = format!("{base}/v1/sessions/{waits}/wait");
                assert_eq!(self.house.agent().post(&path, &json!({"on": on})).await.status, 200);
                waits
            }
            "/v1/clusters/{id}/release" => {
                let id = self.cluster(base).await;
                let held = admin.post(&format!("{base}/v1/clusters/{id}/hold"), &json!({})).await;
                assert_eq!(held.status, 200, "{}", held.text());
                id
            }
            session if session.starts_with("/v1/sessions/{id}") => self.opened(base).await,
            cluster if cluster.starts_with("/v1/clusters/{id}") => self.cluster(base).await,
            "/v1/keys/{id}/revoke" => {
                let made =
                    admin.post("/v1/keys", &json!({"subject": "default-spare", "role": "auditor"})).await;
                made.body["key"]["id"].as_str().unwrap().to_owned()
            }
            "/v1/signing-keys/{kid}/compromise" => {
                let keys = admin.get(&format!("{base}/v1/signing-keys")).await.body;
                let active =
                    keys["items"].as_array().unwrap().iter().find(|key| key["status"] == "active").unwrap();
                active["kid"].as_str().unwrap().to_owned()
            }
            other => {
                assert!(!other.contains('{'), "nothing is known to stand in {other}");
                String::new()
            }
        }
    }

    /// A fresh session of the agent's. Its mandate is its own: what is held of one must not stop the others.
    async fn opened(&self, base: &str) -> String {
        let admin = self.house.admin();
        let token = match base {
            "" => admin.post("/v1/mandates", &mandate("default")).await.body["token"].clone(),
            _ => json!("tok-sandbox-public"),
        };
        let ask = json!({"delegation_token": token});
        let opened = self.house.agent().post(&format!("{base}/v1/sessions"), &ask).await;
        opened.body["session_id"].as_str().unwrap().to_owned()
    }

    /// A fresh cluster of two of them.
    async fn cluster(&self, base: &str) -> String {
        let agent = self.house.agent();
        let first = json!({"session_id": self.opened(base).await});
        let formed = agent.post(&format!("{base}/v1/clusters"), &first).await;
        assert_eq!(formed.status, 201, "{}", formed.text());
        let id = formed.body["cluster_id"].as_str().unwrap().to_owned();
        let second = json!({"session_id": self.opened(base).await});
        assert_eq!(agent.post(&format!("{base}/v1/clusters/{id}/join"), &second).await.status, 200);
        id
    }

    /// The sessions of those two.
    async fn members(&self, base: &str, cluster: &str) -> [String; 2] {
        let seen = self.house.agent().get(&format!("{base}/v1/clusters/{cluster}")).await.body;
        [0, 1].map(|at| seen["members"][at]["session_id"].as_str().unwrap().to_owned())
    }

    /// A session as its agent sees it.
    async fn seen(&self, base: &str, id: &str) -> Value {
        self.house.agent().get(&format!("{base}/v1/sessions/{id}")).await.body
    }

    /// A passkey that its holder has just registered.
    async fn registered(&self) -> String {
        let n = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let ask = json!({"subject": format!("default-holder-{n}"), "role": "approver"});
        let made = self.house.admin().post("/v1/keys", &ask).await;
        let key = made.body["secret"].as_str().unwrap().to_owned();
        let holder = Voice { key: Some(key), ..self.house.nobody() };
        let mut visitor = Visitor::logged_in(self.house, &holder).await;
        visitor.register(&Passkey::new(&format!("credential-{n}"))).await
    }

    /// A fresh action that waits for a person.
    async fn held(&self, base: &str) -> String {
        let n = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("held-{n}");
        let agent = self.house.agent();
        let said = match base {
            "" => agent.execute(&name, &self.house.payment(&name, "6000.00")).await,
            _ => agent.post("/api/sandbox/execute", &payment(&name, "6000.00", "tok-sandbox-public")).await,
        };
        assert_eq!(said.kind(), "held", "{}", said.text());
        said.id().to_owned()
    }

    /// A fresh action that the provider refuses.
    async fn failed(&self, base: &str) -> String {
        let n = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let agent = self.house.agent();
        // Near the others, so that none is unlike what came before.
        let amount = format!("1.{:02}", n % 100);
        let said = match base {
            // A bank moves nothing from its paying account to itself.
            "" => agent.execute(&format!("failed-{n}"), &self.house.payment("operating", &amount)).await,
            _ => {
                let body = payment("sandbox:fail", &amount, "tok-sandbox-public");
                agent.post("/api/sandbox/execute", &body).await
            }
        };
        assert_eq!(said.kind(), "failed", "{}", said.text());
        said.id().to_owned()
    }

    /// A fresh action that is over before anything was sent.
    async fn refused(&self, base: &str) -> String {
        let n = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let agent = self.house.agent();
        // Nobody is named to be paid.
        let said = match base {
            "" => agent.execute(&format!("refused-{n}"), &self.house.payment("", &format!("{n}.00"))).await,
            _ => {
                let body = payment("", &format!("{n}.00"), "tok-sandbox-public");
                agent.post("/api/sandbox/execute", &body).await
            }
        };
        assert_eq!(said.kind(), "blocked", "{}", said.text());
        said.id().to_owned()
    }

    async fn body(&self, tenant: &str, base: &str, plain: &str, n: u32) -> Value {
        match plain {
            // A payment is carried out by the bank, and not by whoever asks for it.
            "/v1/runs" => payment(&format!("row-{n}"), "1.00", self.house.token(tenant)),
            "/v1/runs/{id}/take" => json!({"runner": "row"}),
            "/v1/runs/{id}/beat" => json!({"runner": "row", "provider_key": "row"}),
            "/v1/runs/{id}/report" => {
                let output = json!({"sha256": "0".repeat(64), "bytes": 0});
                json!({"provider_key": "row", "exit_code": 0, "duration_ms": 1, "stdout": &output, "stderr": &output})
            }
            "/api/execute" => payment(&format!("row-{n}"), "1.00", self.house.token(tenant)),
            "/api/sandbox/execute" => payment(&format!("row-{n}"), "1.00", "tok-sandbox-public"),
            "/v1/rollbacks" => json!({"actions": [self.done[usize::from(base == "/sandbox")].0]}),
            "/v1/actions" => {
                let token = if base.is_empty() { self.house.token(tenant) } else { "tok-sandbox-public" };
                let parameters = payment(&format!("row-{n}"), "1.00", token)["constraints"].take();
                json!({
                    "action": {"verb": "PAYMENT_TRANSFER", "parameters": parameters}, "delegation_token": token,
                })
            }
            "/access/v1/evaluation" | "/access/v1/evaluations" => {
                let properties = payment(&format!("row-{n}"), "1.00", "")["constraints"].take();
                json!({
                    "subject": {"type": "agent", "id": format!("{tenant}-agent")},
                    "action": {"name": "PAYMENT_TRANSFER", "properties": properties},
                    "resource": {"type": "Account", "id": format!("row-{n}")},
                })
            }
            "/v1/mandates" => mandate(tenant),
            "/v1/mandates/{jti}/delegate" => json!({"subject": "default-rival"}),
            "/v1/mandates/{jti}/extend" => json!({"seconds": 60}),
            "/v1/actions/{id}/decide" => json!({"decision": "DENY"}),
            "/v1/actions/{id}/answer" => json!({"answer": "as ordered"}),
            "/v1/principals/{iss}/keys" => json!({"jwk": jwk()}),
            "/v1/principals/{iss}/keys/revoke" => json!({"kid": KID}),
            "/v1/sessions" => {
                let token = if base.is_empty() { self.house.token(tenant) } else { "tok-sandbox-public" };
                json!({"delegation_token": token})
            }
            "/v1/grants" => {
                let mut body = json!({"access_token": {"access": [{"type": "urn:countersign:actions", "actions": ["Payments"]}]}});
                if base.is_empty() {
                    body["delegation_token"] = self.house.token(tenant).into();
                }
                body
            }
            "/v1/sessions/{id}/close" => json!({"completion": "COMPLETE"}),
            "/v1/sessions/{id}/wait" => json!({"on": null}),
            "/v1/freeze" => {
                json!({"scope": format!("agent:{tenant}-x{n}"), "reason": "drill", "even_if_unknown": true})
            }
            "/v1/thaw" => {
                let scope = format!("agent:x{n}");
                let freeze = json!({"scope": &scope, "even_if_unknown": true});
                assert_eq!(self.house.admin().post(&format!("{base}/v1/freeze"), &freeze).await.status, 200);
                json!({"scope": scope})
            }
            "/v1/keys" => json!({"subject": format!("{tenant}-new{n}"), "role": "auditor"}),
            "/v1/actions/{id}/resolve" => json!({"as": "executed", "comment": "it is over"}),
            "/v1/observe" => json!({"until": null}),
            "/v1/signing-keys/{kid}/compromise" => json!({"at": jiff::Timestamp::now().to_string()}),
            _ => json!({}),
        }
    }
}

/// The path with its argument in place.
fn filled(path: &str, argument: &str) -> String {
    let (before, after) = path.split_once('{').unwrap_or((path, ""));
    format!("{before}{argument}{}", after.split_once('}').map_or("", |(_, after)| after))
}

fn is_page(path: &str) -> bool {
    path.strip_prefix("/sandbox").unwrap_or(path).starts_with("/approvals")
}

/// A public key, and its thumbprint: the example of RFC 8037.
fn jwk() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
}

const KID: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

fn mandate(tenant: &str) -> Value {
    json!({"subject": format!("{tenant}-agent"), "scope": ["Payments"], "expires_in_seconds": 600})
}
