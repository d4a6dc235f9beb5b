//! Loading policies: what is refused, and that slices decide as the whole does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use action::{Action, Catalogue, Subject, Tenant};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityUid, PolicyId, PolicySet, Request, Schema,
};
use common::{ALLOW_ALL, World, claims, export, fly, load, pay, pay_with, source};
use countersign_boundary::{Caller, Policies, Tier};
use mandate::{Claims, Mandate};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn mistakes_are_told_with_their_place() {
    refused("\n\npermit (principal, action, resource) when { context.nonsense };", 3, "attribute `nonsense`");
    refused("permit (principal, action == Action::\"NO_SUCH\", resource);", 1, "NO_SUCH");
    refused("permit (principal, action, resource) when { context.amount.minor > 5 };", 1, "amount");
    refused("permit (principal, action, resource)\nwhen { context.environment > 5 };", 2, "String");
    refused("permit (principal, action, resource);\nforbid (", 2, "unexpected end of input");
    refused("permit (principal == ?principal, action, resource);", 1, "slot");
    refused("@escalate permit (principal, action, resource);", 1, "`@escalate` stands on a permit");
    refused("@escalte forbid (principal, action, resource);", 1, "`@escalte` is unknown");
    refused("@tier(\"4\") forbid (principal, action, resource);", 1, "tier `4` is unknown");
    refused("@tier(\"0-A\") permit (principal, action, resource);", 1, "tier 0-A stands on a permit");
    for tier in ["0-A", "0-B", "2", "3"] {
        let text = format!("@tier(\"{tier}\") @escalate forbid (principal, action, resource);");
        refused(&text, 1, "`@escalate` stands on tier");
    }
    refused(
        "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") permit (principal, action, resource);",
        2,
        "also in test.cedar",
    );
    refused("@id(\"baseline-governance\") permit (principal, action, resource);", 1, "baseline.cedar");
    refused("@id(\"\") permit (principal, action, resource);", 1, "`@id` is empty");
}

#[track_caller]
fn refused(policies: &str, line: usize, message: &str) {
    let mistakes = load(policies, "[]").expect_err("it has a mistake");
    let found = mistakes.iter().any(|mistake| {
        (mistake.file.as_str(), mistake.line) == ("test.cedar", line) && mistake.message.contains(message)
    });
    assert!(found, "{mistakes:#?}");
}

#[test]
fn entity_files_are_typed_too() {
    let refused = |entities: &str, message: &str| {
        let mistakes = load(ALLOW_ALL, entities).expect_err("it has a mistake");
        assert!(mistakes.iter().any(|mistake| mistake.message.contains(message)), "{mistakes:#?}");
        mistakes
    };
    refused("{}", "an entity file is a JSON array");
    refused("[", "");
    let strange =
        "[\n{\"uid\": {\"type\": \"Agent\", \"id\": \"a\"}, \"attrs\": {\"power\": 9}, \"parents\": []}]";
    assert_eq!(refused(strange, "power")[0].line, 2);
    refused(r#"[{"uid": {"type": "Nonsense", "id": "a"}, "attrs": {}, "parents": []}]"#, "Nonsense");
    refused(r#"[{"uid": {"type": "Action", "id": "X"}, "attrs": {}, "parents": []}]"#, "X");
    let twice = r#"{"uid": {"type": "Agent", "id": "a"}, "attrs": {}, "parents": []}"#;
    refused(&format!("[{twice},{twice}]"), "declared twice");
}

#[test]
fn unannotated_policies_are_tier_two_and_escalating_ones_tier_one() {
    let policies =
        load("permit (principal, action, resource); @escalate forbid (principal, action, resource);", "[]")
            .unwrap();
    let tiers: Vec<(String, Tier)> =
        policies.rules().iter().map(|rule| (rule.reference.id.to_string(), rule.tier)).collect();
    assert!(tiers.contains(&("test#1".into(), Tier::Two)));
    assert!(tiers.contains(&("test#2".into(), Tier::One)));
}

#[test]
fn digests_know_content_and_not_layout() {
    let digest = |text: &str| load(text, "[]").unwrap().policy_digest().clone();
    assert_eq!(digest(ALLOW_ALL), digest(&format!("// A comment.\n\n{}", ALLOW_ALL.replace(", ", " ,\n"))));
    assert_ne!(digest(ALLOW_ALL), digest(&ALLOW_ALL.replace("all", "every")));
    assert_ne!(digest(ALLOW_ALL), digest(&ALLOW_ALL.replace("permit", "forbid")));
    let more = Policies::load(&[source("test.cedar", ALLOW_ALL)], &[], &["x".into()], &Catalogue::builtin())
        .unwrap();
    assert_ne!(digest(ALLOW_ALL), *more.policy_digest());
    let none = load(ALLOW_ALL, "[]").unwrap();
    let some =
        load(ALLOW_ALL, r#"[{"uid": {"type": "Agent", "id": "a"}, "attrs": {}, "parents": []}]"#).unwrap();
    assert_ne!(none.entity_digest(), some.entity_digest());
    assert_eq!(&**none.catalog_digest(), Catalogue::builtin().digest());
}

#[test]
fn the_policies_of_the_sandbox_permit_the_catalogue() {
    let policies = Policies::load(&[Policies::sandbox()], &[], &[], &Catalogue::builtin()).unwrap();
    let world = World::of(policies);
    world.check(&pay("100.00"), "pass");
    world.check(&fly(), "quote");
    let nothing = World::of(Policies::load(&[], &[], &[], &Catalogue::builtin()).unwrap());
    nothing.check(&pay("100.00"), "block not_permitted");
}

#[test]
fn odd_policies_are_warned_about() {
    let odd = "permit (principal, action, resource) when { false };";
    let policies = load(odd, "[]").unwrap();
    assert!(policies.warnings().iter().any(|warning| warning.file == "test.cedar"));
}

#[test]
fn any_catalogue_makes_a_schema_and_policies_see_all_its_members() {
    let catalogue =
        Catalogue::load(true, &[source("odd.toml", ODD)]).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let policies = r#"permit (principal, action in Action::"Payroll", resource is Bank::Wallet)
        when { context.constraints["it's \"odd\""].iban like "DE*" && context.constraints.tags.contains("ok")
          && context.amount.currency == context.constraints.sum.currency && context.constraints.sum.minor == 1250 };"#;
    let policies =
        common::load_with(policies, "[]", &catalogue).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let world = World {
        mandate: Some(
            Mandate::of(&Claims { mandate_scope: vec!["ODD".into()], spend_cap: None, ..claims() }).unwrap(),
        ),
        ..World::of(policies)
    };
    let pay = |iban: &str| {
        let constraints =
            json!({"it's \"odd\"": {"iban": iban}, "tags": ["ok"], "sum": "12.50", "code": "EUR"});
        common::action_of(json!({"archetype": "ODD", "constraints": constraints}), &catalogue)
    };
    world.check(&pay("DE00"), "block anomaly");
    world.check(&pay("FR00"), "block not_permitted");
}

const ODD: &str = r#"
name = "ODD"
description = "Pays wages"
reversible = true
guarantee_level = "atp-1"
resource = "/it's \"odd\"/iban"
identity = ["/tags"]
[cedar]
groups = ["Payroll"]
resource_type = "Bank::Wallet"
[money]
amount = "/sum"
currency = "/code"
[schema]
required = ["it's \"odd\"", "tags", "sum", "code"]
[schema.properties."it's \"odd\""]
description = "Who"
type = "object"
required = ["iban"]
[schema.properties."it's \"odd\"".properties.iban]
description = "Account"
type = "string"
x-identifier = true
examples = ["DE00"]
[schema.properties.tags]
description = "Tags"
type = "array"
examples = [["ok"]]
[schema.properties.tags.items]
type = "string"
x-identifier = true
[schema.properties.sum]
description = "How much"
type = "string"
examples = ["1.00"]
[schema.properties.code]
description = "Currency"
type = "string"
x-identifier = true
examples = ["EUR"]
"#;

/// Groups in groups, tags, owners; some callers and resources are in here and some are not.
const ENTITIES: &str = r#"[
  {"uid": {"type": "AgentGroup", "id": "inner"}, "attrs": {}, "parents": [{"type": "AgentGroup", "id": "outer"}]},
  {"uid": {"type": "AgentGroup", "id": "outer"}, "attrs": {}, "parents": [], "tags": {"team": "red"}},
  {"uid": {"type": "User", "id": "alice"}, "attrs": {}, "parents": [], "tags": {"team": "blue"}},
  {"uid": {"type": "Agent", "id": "agent-7"}, "attrs": {"owner": {"__entity": {"type": "User", "id": "alice"}}},
   "parents": [{"type": "AgentGroup", "id": "inner"}], "tags": {"team": "red"}},
  {"uid": {"type": "ResourceGroup", "id": "near"}, "attrs": {}, "parents": [{"type": "ResourceGroup", "id": "far"}]},
  {"uid": {"type": "ResourceGroup", "id": "far"}, "attrs": {}, "parents": [], "tags": {"team": "blue"}},
  {"uid": {"type": "Account", "id": "acct-1"}, "attrs": {}, "parents": [{"type": "ResourceGroup", "id": "near"}], "tags": {"team": "red"}}
]"#;

const PRINCIPALS: [&str; 6] = [
    "principal",
    "principal is Agent",
    "principal in AgentGroup::\"inner\"",
    "principal in AgentGroup::\"outer\"",
    "principal in Tenant::\"default\"",
    "principal == Agent::\"agent-8\"",
];
const ACTIONS: [&str; 6] = [
    "action",
    "action == Action::\"PAYMENT_TRANSFER\"",
    "action == Action::\"DATA_EXPORT\"",
    "action in Action::\"Payments\"",
    "action in [Action::\"Data\", Action::\"Travel\"]",
    "action in Action::\"FLIGHT_BOOKING\"",
];
const RESOURCES: [&str; 4] = [
    "resource",
    "resource in ResourceGroup::\"near\"",
    "resource in ResourceGroup::\"far\"",
    "resource == Account::\"acct-2\"",
];
const CONDITIONS: [&str; 12] = [
    "context has bound && context.bound == {minor: 10000, currency: \"USD\"}",
    "context has mandate && context.mandate.issuer == \"alice\" && context.mandate has spend_left",
    "context has amount && [context.amount.currency].contains(\"USD\")",
    "true",
    "context has amount && context.amount.minor > 15000",
    "context.first_seen_destination",
    "principal.hasTag(\"team\") && principal.getTag(\"team\") == \"red\"",
    "principal is Agent && principal has owner && principal.owner.hasTag(\"team\") && principal.owner.getTag(\"team\") == \"blue\"",
    "AgentGroup::\"outer\".hasTag(\"team\")",
    "resource.hasTag(\"team\")",
    "ResourceGroup::\"near\" in ResourceGroup::\"far\"",
    "context.tenant == \"default\" && context.time.hour == 12",
];

fn policy() -> impl Strategy<Value = String> {
    let pick = |from: &'static [&'static str]| prop::sample::select(from);
    (any::<bool>(), pick(&PRINCIPALS), pick(&ACTIONS), pick(&RESOURCES), pick(&CONDITIONS)).prop_map(
        |(permit, principal, action, resource, condition)| {
            let effect = if permit { "permit" } else { "forbid" };
            format!("{effect} ({principal}, {action}, {resource}) when {{ {condition} }};\n")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// INVARIANT (slice): neither policies nor entities that were left out could have changed the answer.
    #[test]
    fn a_slice_decides_as_the_whole_does(policies in prop::collection::vec(policy(), 1..8), first_seen in any::<bool>()) {
        let text = policies.concat();
        let loaded = load(&text, ENTITIES).unwrap_or_else(|mistakes| panic!("{text} {mistakes:?}"));
        for agent in ["agent-7", "agent-8"] {
            let mut world = World::of(loaded.clone());
            world.first_seen_destination = first_seen;
            world.caller.subject = Subject::parse(agent).unwrap();
            world.mandate = Some(Mandate::of(&Claims { sub: agent.into(), ..claims() }).unwrap());
            for action in [pay("100.00"), pay_to("acct-2", "200.00"), export(), fly().with_quote(common::usd(9_000))] {
                let record = world.decide(&action).record.to_bytes();
                let record: Value = serde_json::from_slice(&record).unwrap();
                let asked = &record["asked"];
                let (decision, ids) = unsliced(&text, &world, &record);
                prop_assert_eq!(asked["decision"].as_str().unwrap(), decision);
                let found: Vec<&str> = asked["policies"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
                prop_assert_eq!(found, ids);
            }
        }
    }
}

/// Policies of every tier; more of them without a condition than with one.
fn tiered() -> impl Strategy<Value = String> {
    let pick = |from: &'static [&'static str]| prop::sample::select(from);
    let effects =
        ["permit", "permit", "forbid", "@escalate forbid", "@tier(\"0-B\") forbid", "@tier(\"3\") forbid"];
    let effect = prop::sample::select(effects.to_vec());
    let scope = (
        pick(&PRINCIPALS),
        pick(&ACTIONS),
        prop_oneof![Just("resource"), Just("resource is Account"), pick(&RESOURCES)],
    );
    (effect, scope, prop::option::weighted(0.3, pick(&CONDITIONS))).prop_map(
        |(effect, (principal, action, resource), condition)| {
            let condition = condition.map(|condition| format!(" when {{ {condition} }}")).unwrap_or_default();
            format!("{effect} ({principal}, {action}, {resource}){condition};\n")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whoever_may_do_something_could(policies in prop::collection::vec(tiered(), 1..6), first_seen in any::<bool>(), observe in any::<bool>()) {
        let text = policies.concat();
        let loaded = load(&text, ENTITIES).unwrap_or_else(|mistakes| panic!("{text} {mistakes:?}"));
        for agent in ["agent-7", "agent-8"] {
            let mut world = World::of(loaded.clone());
            (world.first_seen_destination, world.observe) = (first_seen, observe);
            world.caller.subject = Subject::parse(agent).unwrap();
            world.mandate = Some(Mandate::of(&Claims { sub: agent.into(), ..claims() }).unwrap());
            for action in [pay("100.00"), pay_to("acct-2", "200.00"), export(), fly(), fly().with_quote(common::usd(9_000))] {
                let told = common::told(&world.decide(&action));
                let could = loaded.could_use(&world.caller, &action.archetype.name, observe);
                let may = told.starts_with("pass") || told.starts_with("escalate");
                prop_assert!(could || !may, "{}: {}\n{}", action.archetype.name, told, text);
            }
        }
    }
}

#[test]
fn what_is_forbidden_whatever_is_asked_could_not_be_used() {
    let everywhere = |text: &str| {
        let policies = load(text, ENTITIES).unwrap_or_else(|mistakes| panic!("{text} {mistakes:?}"));
        let could = |agent: &str, observe| {
            let subject = Subject::parse(agent).unwrap();
            let caller = Caller { tenant: Tenant::default(), subject, is_human: false };
            policies.could_use(&caller, "PAYMENT_TRANSFER", observe)
        };
        [could("agent-7", false), could("agent-8", false), could("agent-7", true)]
    };
    const ALL: &str = "permit (principal, action, resource);";
    for (text, expected) in [
        ("", [false, false, true]),
        (ALL, [true, true, true]),
        ("permit (principal, action, resource) when { context.tenant == \"no such\" };", [true, true, true]),
        ("permit (principal, action, resource) unless { context has amount };", [true, true, true]),
        ("permit (principal in AgentGroup::\"outer\", action, resource);", [true, false, true]),
        ("permit (principal == Agent::\"agent-8\", action, resource);", [false, true, true]),
        ("permit (principal is User, action, resource);", [false, false, true]),
        ("permit (principal, action == Action::\"DATA_EXPORT\", resource);", [false, false, true]),
        (
            "permit (principal, action in Action::\"Payments\", resource == Account::\"x\");",
            [true, true, true],
        ),
        ("permit (principal, action, resource in ResourceGroup::\"near\");", [true, true, true]),
        ("permit (principal, action, resource is Session);", [false, false, true]),
    ] {
        assert_eq!(everywhere(text), expected, "{text}");
    }
    for (forbid, expected) in [
        ("forbid (principal, action, resource);", [false, false, true]),
        ("@tier(\"1\") forbid (principal, action, resource);", [false, false, true]),
        ("@tier(\"0-A\") forbid (principal, action, resource);", [false, false, false]),
        ("@tier(\"0-B\") forbid (principal, action, resource);", [false, false, false]),
        ("@tier(\"3\") forbid (principal, action, resource);", [true, true, true]),
        ("@escalate forbid (principal, action, resource);", [true, true, true]),
        ("forbid (principal, action, resource) when { context has tenant };", [true, true, true]),
        ("forbid (principal in AgentGroup::\"inner\", action, resource);", [false, true, true]),
        (
            "@tier(\"0-B\") forbid (principal in AgentGroup::\"inner\", action, resource);",
            [false, true, false],
        ),
        ("forbid (principal, action in Action::\"Payments\", resource is Account);", [false, false, true]),
        ("forbid (principal, action, resource in ResourceGroup::\"near\");", [true, true, true]),
        ("forbid (principal, action, resource == Account::\"\");", [true, true, true]),
        ("forbid (principal, action == Action::\"DATA_EXPORT\", resource);", [true, true, true]),
    ] {
        assert_eq!(everywhere(&format!("{ALL}\n{forbid}")), expected, "{forbid}");
    }
}

#[test]
fn what_is_not_there_or_goes_by_a_denied_name_could_not_be_used() {
    let denied = "name = \"mcp/logs/delete_audit_log\"\nreversible = true\ninput_schema = '{}'\n";
    let catalogue = Catalogue::load(true, &[source("tool.toml", denied)]).unwrap();
    let world = World::of(common::load_with(ALLOW_ALL, "[]", &catalogue).unwrap());
    let could = |archetype: &str| world.policies.could_use(&world.caller, archetype, true);
    assert!(could("PAYMENT_TRANSFER"));
    assert!(!could("mcp/logs/delete_audit_log") && !could("NO_SUCH"));
}

/// Cedar itself, over every policy and every entity.
fn unsliced(text: &str, world: &World, record: &Value) -> (&'static str, Vec<String>) {
    let all: PolicySet = text.parse().unwrap();
    let named = all.policies().map(|policy| {
        let n: usize = policy.id().to_string().trim_start_matches("policy").parse().unwrap();
        policy.new_id(PolicyId::new(format!("test#{}", n + 1)))
    });
    let all = PolicySet::from_policies(named).unwrap();
    let (schema, _) = Schema::from_cedarschema_str(world.policies.schema_text()).unwrap();
    let mut entities: Vec<Value> = serde_json::from_str(ENTITIES).unwrap();
    let principal = json!({"type": "Agent", "id": world.caller.subject.as_str()});
    let tenant = json!({"type": "Tenant", "id": "default"});
    match entities.iter_mut().find(|entity| entity["uid"] == principal) {
        Some(known) => known["parents"].as_array_mut().unwrap().push(tenant),
        None => entities.push(json!({"uid": principal, "attrs": {}, "parents": [tenant]})),
    }
    let entities = Entities::from_json_value(entities.into(), Some(&schema)).unwrap();
    let uid = |value: &Value| EntityUid::from_json(value.clone()).unwrap();
    let action = uid(&json!({"type": "Action", "id": record["action"]}));
    let asked = &record["asked"];
    let context = Context::from_json_value(asked["context"].clone(), Some((&schema, &action))).unwrap();
    let request =
        Request::new(uid(&asked["principal"]), action, uid(&asked["resource"]), context, Some(&schema))
            .unwrap();
    let response = Authorizer::new().is_authorized(&request, &all, &entities);
    let mut ids: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
    ids.sort();
    (if response.decision() == Decision::Allow { "allow" } else { "deny" }, ids)
}

fn pay_to(recipient: &str, amount: &str) -> Action {
    pay_with(json!({"recipient": recipient, "amount_usd": amount, "max_total_usd": amount}))
}
