//! Several effects undone at once: the newest first, as far as it goes, or not at all.

use countersign_gateway::{Code, Fate, UndoneView};
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::{Value, json};
use testkit::Swap;
use testkit::records::{Archive, Fault, Injection, Standing, Target};
use tokio::runtime::Runtime;

use crate::archived::{self, archive};
use crate::house::{House, Said};
use crate::retries::{AT_ONCE, LATER};
use crate::rollbacks::until;

/// A document that is written over and over; each change is taken back only if nothing came after it.
fn changing(archive: &Archive, more: &str) -> String {
    format!(
        r#"
name = "DOCUMENT_CHANGE"
description = "Change a document"
reversible = true
guarantee_level = "atp-1"
resource = "/document"
destination = "/document"
identity = ["/document", "/text"]
{more}

[cedar]
groups = ["Data"]
resource_type = "Document"

[schema]
required = ["document", "text"]

[schema.properties.document]
description = "The document"
type = "string"
examples = ["plan"]
x-identifier = true

[schema.properties.text]
description = "What it says from now on"
type = "string"
examples = ["We begin on Monday."]
{binding}
[binding.act]
method = "PUT"
path = ["records", {{ "$value" = "/document" }}]
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }} }}
body = {{ content = {{ "$value" = "/text" }}, reference = {{ "$action" = "reference" }} }}
success = {{ status = [200], pointer = "/status", equals = ["written"] }}
refused = [{{ status = [409, 412, 422] }}]
reference = "/version"

[binding.rollback]
within_seconds = 3600
restores = true
path = ["records", {{ "$value" = "/document" }}, "revert"]
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }}, If-Match = {{ "$action" = "provider_reference" }} }}
success = {{ status = [200], pointer = "/status", equals = ["reverted"] }}
refused = [{{ status = [404, 409, 412, 422] }}]
transient = [{{ status = [429] }}]
"#,
        binding = archived::binding(archive).swapped("/changes/0/change_id", "/changes/0/version")
    )
}

/// A house, and a document that was there before.
async fn house() -> (House, Archive) {
    let archive = archive().await;
    archive.put("plan", json!("as it was"));
    let house = archived::house(&archive, &changing(&archive, "")).await;
    (house, archive)
}

fn as_it_was() -> Option<Standing> {
    Some(Standing { version: 1, content: Some(json!("as it was")) })
}

fn change(n: usize) -> Value {
    json!({ "archetype": "DOCUMENT_CHANGE", "constraints": { "document": "plan", "text": format!("draft {n}") } })
}

async fn changed(house: &House, n: usize) -> Said {
    let said = house.said(&format!("k{n}"), &change(n)).await;
    assert_eq!(said.kind(), "executed", "{}", said.body);
    said
}

async fn all_changed(house: &House, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(changed(house, n).await.id().to_owned());
    }
    ids
}

async fn undone(house: &House, ids: &[String]) -> Vec<UndoneView> {
    house.gateway().rollback_all(&house.agent, ids).await.unwrap()
}

fn fates(views: &[UndoneView]) -> Vec<(String, Fate)> {
    views.iter().map(|view| (view.action_id.to_string(), view.fate)).collect()
}

/// What was taken back, as versions, in the order in which it was.
fn taken_back(archive: &Archive) -> Vec<u64> {
    let changes = archive.changes();
    let back = changes.iter().filter(|change| change["status"] == "reverted");
    back.map(|change| change["if_match"].as_u64().unwrap()).collect()
}

/// Whichever of several changes are to be undone, in whatever order that is asked for: the newest is undone first, what
/// cannot be undone stops it, and all of them together leave the document as it was.
#[test]
fn whatever_is_asked_for_the_newest_is_undone_first() {
    let runtime = Runtime::new().unwrap();
    let asked = (1..6_usize).prop_flat_map(|count| {
        let all: Vec<usize> = (0..count).collect();
        (Just(count), prop::sample::subsequence(all, 1..=count).prop_shuffle())
    });
    let cases = Cases { cases: 24, failure_persistence: None, ..Cases::default() };
    TestRunner::new(cases)
        .run(&asked, |(count, asked)| {
            runtime.block_on(async {
                let (house, archive) = house().await;
                let ids = all_changed(&house, count).await;
                let wanted: Vec<String> = asked.iter().map(|n| ids[*n].clone()).collect();
                let found = fates(&undone(&house, &wanted).await);
                let mut newest_first = asked.clone();
                newest_first.sort_unstable_by(|a, b| b.cmp(a));
                // The document stands in version `n + 2` after change `n`, and only the change that made it is taken back.
                let (mut top, mut stopped, mut back) = (count + 1, false, Vec::new());
                for (n, (id, fate)) in newest_first.iter().zip(&found) {
                    let expected = match (stopped, n + 2 == top) {
                        (true, _) => Fate::NotTried,
                        (false, true) => Fate::RolledBack,
                        (false, false) => Fate::Failed("ATP_ROLLBACK_FAILED"),
                    };
                    assert_eq!((id, *fate), (&ids[*n], expected), "{asked:?} of {count}");
                    match expected {
                        Fate::RolledBack => {
                            back.push(top as u64);
                            top -= 1;
                        }
                        _ => stopped = true,
                    }
                }
                assert_eq!(taken_back(&archive), back, "{asked:?} of {count}");
                assert_eq!(archive.standing("plan").unwrap().version, top as u64);
                if asked.len() == count {
                    assert_eq!(archive.standing("plan"), as_it_was());
                }
            });
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn asking_again_goes_on_where_it_stopped() {
    let archive = archive().await;
    archive.put("plan", json!("as it was"));
    let text = changing(&archive, "").swapped(AT_ONCE, LATER);
    let mut house = archived::house(&archive, &text).await;
    let ids = all_changed(&house, 3).await;
    // The newest is undone, and what undoes the one before is lost.
    archive.inject(Injection::new(Target::Undoings, Fault::None, 1));
    archive.inject(Injection::new(Target::Undoings, Fault::LostBeforeEffect, 1));
    let found = fates(&undone(&house, &ids).await);
    let newest_first: Vec<&String> = ids.iter().rev().collect();
    let of = |fates: [Fate; 3]| newest_first.iter().map(|id| (*id).clone()).zip(fates).collect::<Vec<_>>();
    assert_eq!(found, of([Fate::RolledBack, Fate::RollingBack, Fate::NotTried]));
    assert_eq!(fates(&undone(&house, &ids).await), found, "it waits for its next try");
    assert_eq!(house.record(&ids[0]).await.state, "COMPLETED");
    house.store().execute("UPDATE fate SET until = 1 WHERE state = -2", []).unwrap();
    house.installation.start();
    until(&house, &ids[1], "ROLLED_BACK").await;
    assert_eq!(fates(&undone(&house, &ids).await), of([Fate::RolledBack; 3]));
    assert_eq!(
        fates(&undone(&house, &ids).await),
        of([Fate::RolledBack; 3]),
        "however often it is asked for"
    );
    assert_eq!((archive.standing("plan"), archive.effects().reverted), (as_it_was(), 3));
}

#[tokio::test]
async fn what_is_refused_is_found_before_anything_is_undone() {
    let (house, archive) = house().await;
    let ids = all_changed(&house, 3).await;
    let grave = house.said("grave", &house.payment("acct-1", "25.00")).await.id().to_owned();
    let failed = house.said("failed", &house.payment("sandbox:fail", "1.00")).await.id().to_owned();
    let nobody = "0199c2b4-7d3a-7c41-8e6f-0123456789ab".to_owned();
    let many: Vec<String> = (0..101).map(|_| nobody.clone()).collect();
    let with = |id: &String| [ids.clone(), vec![id.clone()]].concat();
    for (asked, field, code) in [
        (with(&grave), "/actions/3", Code::RollbackRequired),
        (with(&failed), "/actions/3", Code::StateConflict),
        (with(&nobody), "/actions/3", Code::NotFound),
        (with(&"no id".to_owned()), "/actions/3", Code::NotFound),
        (with(&ids[1]), "/actions/3", Code::ValidationFailed),
        (Vec::new(), "/actions", Code::ValidationFailed),
        (many, "/actions", Code::ValidationFailed),
    ] {
        let error = house.gateway().rollback_all(&house.agent, &asked).await.unwrap_err();
        assert_eq!((error.field.as_deref(), error.code), (Some(field), code), "{}", error.message);
    }
    assert_eq!(house.record(&grave).await.state, "COMPLETED");
    let short = changing(&archive, "").swapped("within_seconds = 3600", "within_seconds = 0");
    archived::bind(&house, &short).await;
    let late = house.gateway().rollback_all(&house.agent, &ids).await.unwrap_err();
    assert_eq!((late.field.as_deref(), late.code), (Some("/actions/0"), Code::StateConflict));
    let rival = countersign_gateway::Caller {
        subject: action::Subject::parse("rival").unwrap(),
        ..house.agent.clone()
    };
    let foreign = house.gateway().rollback_all(&rival, &ids).await.unwrap_err();
    let told = (foreign.field.as_deref(), foreign.code);
    assert_eq!(told, (Some("/actions/0"), Code::NotFound), "as of an id that nobody has");
    assert_eq!(archive.effects().reverted, 0);
    for id in &ids {
        let record = house.record(id).await;
        assert_eq!((record.state.as_str(), record.rollback.is_none()), ("COMPLETED", true));
    }
}
