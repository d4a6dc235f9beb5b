//! Every template does what its cases say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use action::{Catalogue, Source, Subject};
use common::{NOON, World, action, claims, series, source};
use countersign_boundary::{Policies, Template, Verdict, templates};
use mandate::{Claims, Mandate};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Cases {
    /// Other templates that are loaded along.
    with: Vec<String>,
    entities: Vec<Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    archetype: String,
    constraints: Value,
    expect: String,
    #[serde(default)]
    agent: Option<String>,
    #[serde(default)]
    human: bool,
    #[serde(default)]
    first_seen: bool,
    #[serde(default)]
    at: Option<String>,
}

#[test]
fn every_template_does_what_its_cases_say() {
    for template in templates() {
        let cases: Cases = serde_json::from_str(template.cases).expect(template.name);
        let world = load(template, &cases);
        for case in &cases.cases {
            let found = decide(&world, case);
            assert_eq!(found, case.expect, "{}: {}", template.name, case.case);
        }
        assert!(cases.cases.len() >= 2, "{} has too few cases", template.name);
    }
}

#[test]
fn every_template_says_what_it_means() {
    assert_eq!(templates().len(), 10);
    for template in templates() {
        assert!(
            template.meaning().ends_with(['.', ';']) || !template.meaning().is_empty(),
            "{}",
            template.name
        );
        assert!(template.text.contains(&format!("@id(\"{}\")", template.name)), "{}", template.name);
    }
}

#[test]
fn the_templates_go_together() {
    let all: Vec<Source> = templates().iter().map(|it| source(it.name, it.text)).collect();
    let policies = Policies::load(&all, &[], &[], &Catalogue::builtin()).unwrap();
    assert_eq!(policies.warnings(), &[]);
    assert_eq!(policies.rules().len(), 12);
}

fn load(template: &Template, cases: &Cases) -> World {
    let along = templates().iter().filter(|other| cases.with.iter().any(|name| name == other.name));
    let sources: Vec<Source> = std::iter::once(template)
        .chain(along)
        .map(|it| source(&format!("{}.cedar", it.name), it.text))
        .collect();
    let entities = source("entities.json", &Value::from(cases.entities.clone()).to_string());
    World::of(Policies::load(&sources, &[entities], &[], &Catalogue::builtin()).unwrap())
}

fn decide(world: &World, case: &Case) -> String {
    let action = action(json!({"archetype": case.archetype, "constraints": case.constraints}));
    let subject = Subject::parse(case.agent.as_deref().unwrap_or("agent-7")).unwrap();
    let mandate = Mandate::of(&Claims { sub: subject.to_string(), ..claims() }).unwrap();
    let mut world = World {
        first_seen_destination: case.first_seen,
        now_ms: case.at.as_ref().map_or(NOON, |at| at.parse::<jiff::Timestamp>().unwrap().as_millisecond()),
        mandate: Some(mandate),
        series: series(20, action.money.or(action.bound).map_or(0, action::Money::minor)),
        ..World::of(world.policies.clone())
    };
    world.caller.subject = subject;
    world.caller.is_human = case.human;
    let verdict = match (world.decide(&action).verdict, action.bound) {
        (Verdict::Quote, Some(bound)) => world.decide(&action.with_quote(bound)).verdict,
        (verdict, _) => verdict,
    };
    match verdict {
        Verdict::Pass(_) => "allow".into(),
        Verdict::Quote => "quote".into(),
        Verdict::Escalate(_) => "escalate".into(),
        Verdict::Block(reason) if matches!(reason.word(), "forbidden" | "not_permitted") => "deny".into(),
        Verdict::Block(reason) => format!("block {}", reason.word()),
    }
}
