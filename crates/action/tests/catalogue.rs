//! The catalogue: what it takes, and every mistake with its place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use countersign_action::{
    Action, ApprovalForm, Catalogue, CedarType, FirstSeen, GuaranteeLevel, Kind, Mistake, OnDuplicate,
    Request, Source,
};
use proptest::prelude::*;
use std::time::Duration;

fn load(text: &str) -> Result<Catalogue, Vec<Mistake>> {
    Catalogue::load(false, &[source("a.toml", text)])
}

fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.into() }
}

/// A file without mistakes; each case below changes one thing in it.
const GOOD: &str = r#"
name = "REFUND"
description = "Give money back"
resource = "/account"
destination = "/account"
identity = ["/account", "/amount"]
guarantee_level = "atp-1"
retention = "7_years"

[cedar]
groups = ["Payments"]
resource_type = "Account"

[money]
amount = "/amount"
currency = "EUR"

[duplicate]
window = "1h"
on = "block"

[anomaly]
k = 6
min_sample = 10
cold_start_threshold = "250.00"
first_seen = "escalate"

[schema]
required = ["account", "amount"]

[schema.properties.account]
type = "string"
examples = ["acct-1"]
x-identifier = true

[schema.properties.amount]
type = "string"
examples = ["9.90"]
x-public = true

[schema.properties.meta]
x-opaque = true

[schema.properties.lines]
type = "array"
items = { type = "object", required = ["sku"], properties = { sku = { type = "string" }, count = { type = "integer" } } }

[binding]
provider = "http"
act = { url = "https://bank.example/refunds", body = { to = { "$value" = "/account" } } }
"#;

#[test]
fn the_built_in_catalogue_has_no_mistakes() {
    let catalogue = Catalogue::load(true, &[]).unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)));
    let names: Vec<&str> = catalogue.iter().map(|archetype| archetype.name.as_str()).collect();
    let expected = [
        "DATA_DELETE",
        "DATA_EXPORT",
        "FLIGHT_BOOKING",
        "HOTEL_RESERVATION",
        "PAYMENT_TRANSFER",
        "TERMINAL_COMMAND",
    ];
    assert_eq!(names, expected);
    for archetype in catalogue.iter() {
        // What its caller carries out needs nothing of the operator's but a policy.
        let by_its_caller = archetype.bindings.get("provider").is_some_and(|it| it == "runner");
        assert!(archetype.bindings.is_empty() || by_its_caller, "{}", archetype.name);
        assert!(!archetype.identity.is_empty(), "{}", archetype.name);
        assert!(
            archetype
                .members
                .iter()
                .all(|member| !member.description.is_empty() && !member.example.is_null())
        );
        // The examples together are a complete action.
        let constraints =
            archetype.members.iter().map(|member| (member.name.clone(), member.example.clone()));
        let body = serde_json::json!({
            "archetype": archetype.name,
            "constraints": serde_json::Value::Object(constraints.collect()),
        });
        let action = Action::of(Request::from_value(body).unwrap(), archetype).unwrap();
        assert!(action.is_complete() && action.resource.is_some() && action.destination.is_some());
        assert_eq!(action.money.or(action.bound).is_some(), archetype.money.is_some(), "{}", archetype.name);
    }
    assert_eq!(catalogue.digest(), Catalogue::builtin().digest());
    assert_eq!(catalogue.digest().len(), 64);
}

#[test]
fn everything_declared_is_read() {
    let more = "deletion = \"hard_delete_8y\"\nregulations = [\"GDPR-Art-17\", \"DTAC-2.1.3\"]\nretention =";
    let catalogue = load(&GOOD.replace("retention =", more));
    let catalogue = catalogue.unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)));
    let refund = catalogue.get("REFUND").unwrap();
    assert_eq!(refund.guarantee_level, GuaranteeLevel::Atp1);
    assert_eq!(refund.duplicate.window, Duration::from_secs(3600));
    assert_eq!(refund.duplicate.on, OnDuplicate::Block);
    assert_eq!((refund.anomaly.k, refund.anomaly.min_sample), (6, 10));
    assert_eq!(refund.anomaly.cold_start_threshold, Some(25_000));
    assert_eq!(refund.anomaly.first_seen, FirstSeen::Escalate);
    assert_eq!(refund.keeping.retention().unwrap().days(), 2562);
    assert_eq!(refund.keeping.deletion().to_string(), "hard_delete_8_years");
    assert_eq!(refund.regulations, ["GDPR-Art-17", "DTAC-2.1.3"]);
    assert!(!refund.reversible, "the careful answer is the default");
    assert_eq!(refund.member("account").unwrap().kind, Kind::Identifier { grammar: false });
    assert_eq!(refund.member("amount").unwrap().kind, Kind::Money);
    assert_eq!(refund.bindings["act"]["body"]["to"]["$value"], "/account");
    let cedar = refund.cedar_schema_members();
    let names: Vec<_> = cedar.iter().map(|member| (member.name.as_str(), member.required)).collect();
    assert_eq!(names, [("account", true), ("amount", true), ("lines", false)]);
    let CedarType::Set(lines) = &cedar[2].kind else { panic!("{cedar:?}") };
    assert!(matches!(&**lines, CedarType::Record(line) if line[0].required && !line[1].required));
}

#[test]
fn a_key_is_enough_of_an_approval_only_for_what_is_light_or_declared_so() {
    let form = |change: &dyn Fn(String) -> String, reversible: bool| {
        let catalogue = load(&change(GOOD.to_owned())).unwrap_or_else(|it| panic!("{}", shown(&it)));
        let refund = catalogue.get("REFUND").unwrap();
        let body = serde_json::json!({"archetype": "REFUND", "reversible": reversible, "constraints": {}});
        let action = Action::of(Request::from_value(body).unwrap(), refund).unwrap();
        (refund.approval_form(action.reversible), refund.approvals)
    };
    let light = |text: String| {
        let money = "[money]\namount = \"/amount\"\ncurrency = \"EUR\"\n";
        let text = text.replace(money, "").replace("cold_start_threshold = \"250.00\"\n", "");
        text.replace("retention =", "reversible = true\nretention =")
    };
    let with = |line: &str| {
        let line = line.to_owned();
        move |text: String| text.replace("retention =", &format!("{line}\nretention ="))
    };
    assert_eq!(form(&|text| text, true), (ApprovalForm::Passkey, 1), "there is money");
    assert_eq!(form(&light, true), (ApprovalForm::Key, 1));
    assert_eq!(form(&light, false), (ApprovalForm::Passkey, 1), "the caller says it cannot be undone");
    assert_eq!(form(&with("approval = \"key\"\napprovals = 2"), true), (ApprovalForm::Key, 2));
    assert_eq!(form(&|text| with("approval = \"passkey\"")(light(text)), true), (ApprovalForm::Passkey, 1));
}

#[test]
fn every_mistake_is_found_with_its_place_and_a_hint() {
    let mut wrong = String::new();
    // What to change, and the place and text of the mistake.
    for (from, to, expected) in [
        ("name = \"REFUND\"", "nam = \"REFUND\"", "1:1: the archetype has no `name`"),
        ("name = \"REFUND\"", "name = \"RE FUND\"", "2:8: not a name for an archetype"),
        ("name = \"REFUND\"", "name = 7", "2:8: this has to be a string, not a number"),
        ("retention =", "retenton =", "8:1: unknown key `retenton` | did you mean `retention`?"),
        ("\"7_years\"", "\"7 years\"", "8:13: not a retention"),
        ("retention =", "deletion = \"soft_delete\"\nretention =", "8:12: not a deletion"),
        (
            "retention = \"7_years\"",
            "deletion = \"hard_delete_after_retention\"",
            "8:12: there is no retention to delete after",
        ),
        (
            "retention =",
            "regulations = [\"GDPR-Art-17\", \"DTAC 2.1.3\"]\nretention =",
            "8:31: not the name of a regulation",
        ),
        ("retention =", "approvals = 0\nretention =", "8:13: this has to be a whole number from 1 to 16"),
        (
            "retention =",
            "approval = \"kee\"\nretention =",
            "8:12: unknown approval `kee` | did you mean \"key\"?",
        ),
        ("\"atp-1\"", "\"atp-4\"", "7:19: unknown guarantee level `atp-4`"),
        (
            "name = \"REFUND\"",
            "extends = \"builtin\"\nname = \"REFUND\"",
            "3:8: no built-in archetype `REFUND` to extend",
        ),
        (
            "name = \"REFUND\"",
            "extends = \"base\"\nname = \"REFUND\"",
            "2:11: only a built-in archetype can be extended",
        ),
        ("name = \"REFUND\"", "name = \"REFUND\"\nname = \"X\"", "3:1: duplicate key"),
        (
            "resource = \"/account\"",
            "resource = \"/acount\"",
            "4:12: the schema has no member `/acount` | did you mean \"/account\"?",
        ),
        ("resource = \"/account\"", "resource = \"account\"", "4:12: not a JSON pointer"),
        (
            "resource = \"/account\"",
            "resource = \"/amount\"",
            "4:12: the resource is not a string or integer",
        ),
        ("destination = \"/account\"", "destination = \"/meta\"", "5:15: the destination cannot be opaque"),
        ("destination = \"/account\"\n", "", "25:1: no destination could be seen"),
        (
            "\"/account\", \"/amount\"]",
            "\"/account\", \"/total\"]",
            "6:25: the schema has no member `/total`",
        ),
        ("identity = [\"/account\", \"/amount\"]\n", "", "1:1: no `identity`"),
        ("[\"/account\", \"/amount\"]", "[]", "1:1: no `identity`"),
        ("[\"Payments\"]", "\"Payments\"", "11:10: this has to be an array, not a string"),
        ("[\"Payments\"]", "[\"REFUND\"]", "11:11: not a name for a group"),
        ("\"Account\"", "\"my account\"", "12:17: not a Cedar entity type"),
        ("\"Account\"", "\"Agent\"", "12:17: `Agent` already means something else"),
        ("amount = \"/amount\"", "amount = \"/meta\"", "15:10: money cannot be opaque"),
        ("amount = \"/amount\"", "amount = \"/amount\"\nquote = true", "15:10: both an amount and a quote"),
        ("amount = \"/amount\"\n", "", "14:1: no amount"),
        ("currency = \"EUR\"\n", "", "14:1: no currency"),
        ("\"EUR\"", "\"EURO\"", "16:12: unknown currency"),
        ("\"EUR\"", "\"/meta\"", "16:12: the currency's member is not a required string"),
        ("\"EUR\"", "\"/account\"", "25:24: a threshold needs to know its currency"),
        ("\"1h\"", "\"1 hour\"", "19:10: not a duration"),
        ("\"1h\"", "\"31d\"", "19:10: not a duration"),
        ("\"1h\"", "\"0m\"", "19:10: not a duration"),
        ("description", "recovery_window = \"1h\"\ndescription", "3:1: what cannot be undone has no time"),
        ("description", "reversible = true\nrecovery_window = \"1\"\ndescription", "4:19: not a duration"),
        ("\"block\"", "\"blok\"", "20:6: unknown on `blok` | did you mean \"block\"?"),
        ("\"250.00\"", "\"250.001\"", "25:24: not an amount in EUR: EUR has 2 fraction digits"),
        ("\"250.00\"", "250", "25:24: this has to be a string, not a number"),
        ("k = 6", "k = 0", "23:5: this has to be a whole number from 1 to 1000"),
        (
            "first_seen = \"escalate\"",
            "first_seen = \"escalate\"\nfirst_seen_above = \"5.00\"",
            "27:20: both `first_seen`",
        ),
        (
            "required = [\"account\", \"amount\"]",
            "required = [\"account\", \"amout\"]",
            "29:24: `amout` is required, but",
        ),
        (
            "required = [\"account\", \"amount\"]",
            "required = [\"account\"]",
            "15:10: the amount is not a required member",
        ),
        (
            "required = [",
            "type = \"array\"\nrequired = [",
            "29:8: the constraints of an action are an object",
        ),
        ("required = [", "additionalProperties = true\nrequired = [", "29:24: schemas are closed"),
        ("required = [", "patternProperties = {}\nrequired = [", "29:1: schemas are closed"),
        (
            "required = [",
            "\"$schema\" = \"http://json-schema.org/draft-07/schema#\"\nrequired = [",
            "29:13: schemas are JSON Schema 2020-12",
        ),
        (
            "[schema.properties.amount]\ntype = \"string\"",
            "[schema.properties.amount]\ntype = \"number\"",
            "37:8: money is a decimal string",
        ),
        (
            "[schema.properties.account]\ntype = \"string\"",
            "[schema.properties.account]\ntype = \"strng\"",
            "32:8: unknown type `strng` | did you mean `string`?",
        ),
        (
            "[schema.properties.account]\ntype = \"string\"",
            "[schema.properties.account]",
            "31:1: the member has no `type`",
        ),
        (
            "[schema.properties.account]\ntype = \"string\"",
            "[schema.properties.account]\ntype = [\"string\", \"null\"]",
            "32:8: a member known to policies has one type",
        ),
        (
            "[schema.properties.account]\ntype = \"string\"",
            "[schema.properties.account]\n\"$ref\" = \"#/x\"",
            "32:1: a member known to policies cannot be a reference",
        ),
        (
            "x-identifier = true",
            "x-identifer = true",
            "34:1: unknown keyword `x-identifer` | did you mean `x-identifier`?",
        ),
        (
            "x-identifier = true",
            "maxLenght = 9",
            "34:1: unknown keyword `maxLenght` | did you mean `maxLength`?",
        ),
        (
            "x-identifier = true",
            "x-identifier = \"yes\"",
            "34:16: this has to be true or false, not a string",
        ),
        ("x-identifier = true", "maxLength = \"9\"", "34:13: not a JSON Schema"),
        ("x-identifier = true", "format = \"dat\"", "34:10: unknown format"),
        ("x-identifier = true", "pattern = \"(\"", "34:11: not a regular expression"),
        ("x-identifier = true", "pattern = \"(?=a)\"", "34:11: not a regular expression"),
        ("x-identifier = true", "minLength = 20", "33:13: the schema of `account` refuses its own example"),
        ("x-opaque = true", "x-opaque = true\nx-identifier = true", "43:1: what is opaque is no identifier"),
        (
            "sku = { type = \"string\" }",
            "sku = { type = \"string\", x-public = true }",
            "46:88: `x-public` belongs to a top-level",
        ),
        (
            "sku = { type = \"string\" }",
            "sku = { type = \"number\" }",
            "46:78: policies cannot compare fractions",
        ),
        (
            "items = { type = \"object\", required",
            "items = { type = \"object\", additionalProperties = true, required",
            "46:51: schemas are closed",
        ),
        (
            "[schema.properties.lines]\ntype = \"array\"\nitems",
            "[schema.properties.lines]\ntype = \"array\"\nitens",
            "46:1: unknown keyword `itens` | did you mean `items`?",
        ),
        ("provider = \"http\"", "provider = 2026-01-01", "49:12: this has to be a string (JSON has no dates"),
        ("provider = \"http\"", "provider = 9007199254740993", "49:12: this has to be a whole number within"),
        ("provider = \"http\"", "provider = ", "49:1"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        let mistakes = load(&text).expect_err(to);
        let (place, hint) = expected.split_once(" | ").unwrap_or((expected, ""));
        let found = mistakes.iter().any(|mistake| {
            mistake.to_string().starts_with(&format!("a.toml:{place}"))
                && mistake.hint.as_deref().unwrap_or_default().contains(hint)
        });
        assert!(mistakes.len() <= 2, "one slip, and all this is called wrong\n{}", shown(&mistakes));
        if !found {
            wrong += &format!("{to}\nwanted {expected}\nfound\n{}\n", shown(&mistakes));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A file of this name and these lines, and nothing else of interest.
fn meant_by(name: &str, lines: &str) -> Source {
    let schema = "[schema.properties.what]\ntype = \"string\"\n";
    source(&format!("{name}.toml"), &format!("name = \"{name}\"\nreversible = true\n{lines}\n{schema}"))
}

#[test]
fn a_verb_and_a_target_mean_at_most_one_archetype() {
    let files = [
        meant_by("APP_DEPLOY", "verb = [\"deploy\", \"publish\"]\ntarget = \"catalog\""),
        meant_by("SITE_DEPLOY", "verb = \"deploy\"\ntarget = [\"site\", \"mirror\"]"),
        meant_by("REMOVE", "verb = \"remove\""),
    ];
    let catalogue = Catalogue::load(true, &files).unwrap();
    let means = |verb, target| catalogue.resolve(verb, target).map(|it| it.name.as_str());
    for (verb, target, archetype) in [
        ("deploy", Some("catalog"), Some("APP_DEPLOY")),
        ("publish", Some("catalog"), Some("APP_DEPLOY")),
        ("APP_DEPLOY", Some("catalog"), Some("APP_DEPLOY")),
        ("deploy", Some("mirror"), Some("SITE_DEPLOY")),
        ("remove", Some("anything"), Some("REMOVE")),
        ("remove", None, Some("REMOVE")),
        ("PAYMENT_TRANSFER", None, Some("PAYMENT_TRANSFER")),
        ("publish", Some("site"), None),
        ("deploy", Some("elsewhere"), None),
        ("deploy", None, None),
        ("APP_DEPLOY", None, None),
        ("Deploy", Some("catalog"), None),
    ] {
        assert_eq!(means(verb, target), archetype, "{verb} {target:?}");
    }
    for (second, shared) in [
        (
            meant_by("OTHER", "verb = \"deploy\"\ntarget = \"site\""),
            "`deploy` on `site` means both `SITE_DEPLOY` and `OTHER`",
        ),
        (
            meant_by("OTHER", "verb = \"publish\""),
            "`publish` on `catalog` means both `OTHER` and `APP_DEPLOY`",
        ),
        (meant_by("OTHER", "verb = \"REMOVE\""), "`REMOVE` on any target means both `REMOVE` and `OTHER`"),
        (meant_by("OTHER", "verb = \"PAYMENT_TRANSFER\""), "means both `OTHER` and `PAYMENT_TRANSFER`"),
    ] {
        let mistakes = Catalogue::load(true, &[&files[..], &[second]].concat()).unwrap_err();
        let told = mistakes.iter().map(|it| it.message.clone()).collect::<Vec<_>>().join("; ");
        assert!(told.contains(shared) && mistakes[0].line == 1, "{told}");
    }
    for wrong in ["verb = 1", "verb = []", "verb = \"de\\tploy\"", "target = \"\"", "target = [1]"] {
        assert!(Catalogue::load(true, &[meant_by("X", wrong)]).is_err(), "{wrong}");
    }
}

#[test]
fn all_mistakes_of_all_files_are_reported_at_once() {
    let first = GOOD.replace("\"EUR\"", "\"EURO\"").replace("\"1h\"", "\"1 hour\"");
    let sources = [
        source("a.toml", &first),
        source("b.toml", "name = \"B\""),
        source("c.toml", GOOD),
        source("d.toml", GOOD),
    ];
    let mistakes = Catalogue::load(true, &sources).expect_err("mistakes");
    let files: Vec<&str> = mistakes.iter().map(|mistake| mistake.file.as_str()).collect();
    for (file, least) in [("a.toml", 2), ("b.toml", 1), ("d.toml", 1)] {
        assert!(files.iter().filter(|found| **found == file).count() >= least, "{}", shown(&mistakes));
    }
    assert!(!files.contains(&"c.toml"), "{}", shown(&mistakes));
    assert!(mistakes.iter().any(|mistake| mistake.message == "`REFUND` is already declared in c.toml"));
}

#[test]
fn an_operator_binds_a_built_in_archetype_in_a_few_lines() {
    let text = "name = \"PAYMENT_TRANSFER\"\nextends = \"builtin\"\nrequires_approval = true\n[binding]\nprovider = \"http\"\n";
    let catalogue = Catalogue::load(true, &[source("pay.toml", text)]).unwrap();
    let bound = catalogue.get("PAYMENT_TRANSFER").unwrap();
    let builtin = Catalogue::builtin();
    let plain = builtin.get("PAYMENT_TRANSFER").unwrap();
    assert_eq!(catalogue.iter().count(), Catalogue::builtin().iter().count());
    assert_eq!(bound.bindings["provider"], "http");
    assert!(bound.requires_approval && !plain.requires_approval);
    assert_eq!(bound.members, plain.members);
    assert_ne!(bound.digest(), plain.digest());
    assert_ne!(catalogue.digest(), builtin.digest());
    // Mistakes name the operator's file.
    let wrong = text.replace("requires_approval", "requirs_approval");
    let mistakes = Catalogue::load(true, &[source("pay.toml", &wrong)]).expect_err("a mistake");
    assert!(mistakes[0].to_string().starts_with("pay.toml:3:1: unknown key"), "{}", shown(&mistakes));
}

#[test]
fn a_file_of_a_built_in_name_replaces_it_whole() {
    let text = GOOD.replace("REFUND", "PAYMENT_TRANSFER");
    let catalogue = Catalogue::load(true, &[source("pay.toml", &text)]).unwrap();
    assert_eq!(catalogue.iter().count(), Catalogue::builtin().iter().count());
    assert!(catalogue.get("PAYMENT_TRANSFER").unwrap().member("recipient").is_none());
}

#[test]
fn the_digest_is_of_what_is_declared_not_of_its_layout() {
    let digest = |text: &str| load(text).unwrap().digest().to_owned();
    let relaid = format!("# a comment\n{}", GOOD.replace(" = ", "="));
    assert_eq!(digest(GOOD), digest(&relaid));
    for (from, to) in
        [("\"1h\"", "\"2h\""), ("\"EUR\"", "\"USD\""), ("refunds", "refund"), ("Give money", "Take money")]
    {
        assert_ne!(digest(GOOD), digest(&GOOD.replace(from, to)), "{to}");
    }
}

#[test]
fn a_currency_from_a_member_needs_a_list_for_thresholds() {
    let member = |codes: &str| {
        GOOD.replace("\"EUR\"", "\"/currency\"")
            .replace("[\"account\", \"amount\"]\n\n[s", "[\"account\", \"amount\", \"currency\"]\n\n[s")
            + &format!(
                "[schema.properties.currency]\ntype = \"string\"\nenum = [{codes}]\nx-identifier = true\n"
            )
    };
    let loaded = load(&member("\"USD\", \"EUR\"")).unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)));
    assert_eq!(loaded.get("REFUND").unwrap().anomaly.cold_start_threshold, Some(25_000));
    assert!(load(&member("\"USD\", \"JPY\"")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_with_a_hole_is_answered_and_every_mistake_lies_within_it(start in 0..GOOD.len(), length in 1..80_usize) {
        let text = format!("{}{}", &GOOD[..start], &GOOD[(start + length).min(GOOD.len())..]);
        for mistake in load(&text).err().unwrap_or_default() {
            prop_assert!((1..=text.lines().count() + 1).contains(&mistake.line), "{}", mistake);
            prop_assert!(mistake.column >= 1 && !mistake.message.is_empty());
        }
    }
}

fn shown(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("{mistake}\n")).collect()
}
