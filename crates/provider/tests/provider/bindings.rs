//! Mistakes in a binding say where they are and what to do.

use provider::egress::{Egress, Rules};
use provider::secrets::{AwsKeys, ClientAuth, Declared, Kind, OAuth2Client, Source};
use provider::{Outside, Secrets};

use crate::common::{archetype, binding, compile, mistakes, moneyless, open_to, with_window};

const BASE: &str = "https://bank.example";

/// Of the usual binding after one change.
fn identity(from: &str, with: &str) -> String {
    let usual = binding(BASE);
    assert!(usual.contains(from), "the usual binding has no `{from}`");
    compile(&usual.replacen(from, with, 1), &open_to(&[])).unwrap().identity().to_owned()
}

#[test]
fn whatever_decides_what_a_query_finds_changes_the_identity() {
    let usual = identity("", "");
    let header = "timeout_ms = 2000\nheaders = { Account = \"7\" }";
    for (from, with) in [
        ("timeout_ms = 2000", "name = \"bank\""),
        ("https://bank.example", "https://other.example"),
        ("https://bank.example", "https://bank.example:444"),
        ("https://bank.example", "https://bank.example/v2"),
        ("timeout_ms = 2000", header),
        ("final_after_seconds = 30", "final_after_seconds = 29"),
        ("[binding.query]\npath = \"/payments\"", "[binding.query]\npath = \"/orders\""),
        ("exists = false", "equals = [\"none\"]"),
    ] {
        assert_ne!(identity(from, with), usual, "{with}");
    }
    for (from, with) in [
        ("https://bank.example", "https://bank.example:443/"),
        ("timeout_ms = 2000", "timeout_ms = 2001"),
        ("[binding.act]\npath = \"/payments\"", "[binding.act]\npath = \"/pay\""),
    ] {
        assert_eq!(identity(from, with), usual, "{with}");
    }
}

#[test]
fn an_identity_outlives_a_release() {
    // Calls are stored with it: were it computed otherwise, no older doubt would be asked after.
    assert_eq!(identity("", ""), "72bf630b0da55c3e35834b0ff36fbdc31f4d8063588461c2aed79be73c886fcd");
}

/// A client of `id.example`, by name and scope.
fn client(client_id: &str, scope: Option<&str>) -> Kind {
    Kind::OAuth2(OAuth2Client {
        token_url: "https://id.example/token".to_owned(),
        client_id: client_id.to_owned(),
        client_secret: Source::File("/no/such/file".into()),
        scope: scope.map(str::to_owned),
        auth: ClientAuth::Basic,
    })
}

/// Of the usual binding with `auth = "it"`.
fn identity_with(secrets: &Secrets) -> String {
    let text = binding(BASE).replacen("timeout_ms", "auth = \"it\"\ntimeout_ms", 1);
    let outside = Outside { egress: &open_to(&[]), secrets };
    provider::compile(&archetype(&text), outside).unwrap().identity().to_owned()
}

#[test]
fn another_oauth_client_is_another_provider_and_another_secret_is_not() {
    let identity = |kind, file: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        std::fs::write(&path, file).unwrap();
        let Kind::OAuth2(client) = kind else { panic!("a client") };
        let kind = Kind::OAuth2(OAuth2Client { client_secret: Source::File(path), ..client });
        let hosts = vec!["bank.example".to_owned()];
        identity_with(&Secrets::load([Declared { name: "it".to_owned(), kind, hosts }]).unwrap())
    };
    let usual = identity(client("gateway", None), "secret-1");
    assert_eq!(
        usual, "594ab3e5a62bc66263fa653a7a34f02437c9e0a4d4c986b4c1bc9ce0fa3e47b7",
        "it outlives a release"
    );
    assert_eq!(identity(client("gateway", None), "secret-2"), usual, "the client's secret was renewed");
    let Kind::OAuth2(it) = client("gateway", None) else { panic!("a client") };
    let in_form = Kind::OAuth2(OAuth2Client { auth: ClientAuth::Body, ..it.clone() });
    assert_eq!(identity(in_form, "secret-1"), usual, "it is sent in another way");
    let elsewhere = "https://id.example/other/token".to_owned();
    for (kind, what) in [
        (client("gateway-2", None), "another client"),
        (client("gateway", Some("payments:read")), "a client that may see something else"),
        (Kind::OAuth2(OAuth2Client { token_url: elsewhere, ..it }), "a client of somebody else"),
    ] {
        assert_ne!(identity(kind, "secret-1"), usual, "{what}");
    }
}

#[test]
fn another_aws_key_is_another_provider_and_a_new_session_is_not() {
    let identity = |id: &str, key: &str, session: Option<&str>, region: &str| {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| {
            let path = folder.path().join(text);
            std::fs::write(&path, text).unwrap();
            Source::File(path)
        };
        let keys = AwsKeys {
            access_key: write(id),
            secret_key: write(key),
            session_token: session.map(write),
            region: region.to_owned(),
            service: "execute-api".to_owned(),
        };
        let (kind, hosts) = (Kind::AwsSigV4(keys), vec!["bank.example".to_owned()]);
        identity_with(&Secrets::load([Declared { name: "it".to_owned(), kind, hosts }]).unwrap())
    };
    let usual = identity("AKIDEXAMPLE", "key-1", None, "eu-central-1");
    assert_eq!(
        usual, "639295b2df568c3aa79586911109a02a71546aed57cde6d2d51a159b56b9a275",
        "it outlives a release"
    );
    assert_eq!(identity("AKIDEXAMPLE", "key-2", Some("session"), "eu-central-1"), usual);
    assert_ne!(identity("AKIDOTHER", "key-1", None, "eu-central-1"), usual);
    assert_ne!(identity("AKIDEXAMPLE", "key-1", None, "us-east-1"), usual);
}

#[test]
fn another_kind_of_authentication_is_another_provider() {
    let of = |auth: &str| {
        let text = binding(BASE).replacen("timeout_ms", &format!("{auth}\ntimeout_ms"), 1);
        let outside = Outside { egress: &open_to(&[]), secrets: &stand_ins() };
        provider::compile(&archetype(&text), outside).unwrap().identity().to_owned()
    };
    let mut all: Vec<String> = [
        "",
        "auth = \"oauth\"",
        "auth = \"certificate\"",
        "auth = \"aws\"",
        "auth = [\"certificate\", \"oauth\"]",
        "auth = [\"certificate\", \"aws\"]",
        "headers = { Authorization = \"secret:plain\" }",
    ]
    .map(of)
    .to_vec();
    assert_eq!(of("auth = [\"oauth\", \"certificate\"]"), all[4], "the order says nothing");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 7);
}

#[test]
fn a_query_that_is_turned_away_cannot_mean_that_nothing_happened() {
    let absent = "absent = { status = [200], pointer = \"/payments/0\", exists = false }";
    let declined = "refused = { status = [200], pointer = \"/payments/0/status\", equals = [\"declined\"] }";
    for status in [401, 403, 407, 408, 429] {
        for (from, member) in [(absent, "absent"), (declined, "refused")] {
            for when in ["", ", pointer = \"/error\""] {
                let (pointer, message) =
                    after(from, &format!("{member} = {{ status = [404, {status}]{when} }}"));
                assert_eq!(pointer, format!("/query/{member}/status/1"));
                assert!(message.contains("about who asks"), "{message}");
            }
        }
    }
    let act = binding(BASE).replacen("{ status = [402] }", "{ status = [401, 402, 403] }", 1);
    assert!(compile(&act, &open_to(&[])).is_ok(), "what refuses an act is the provider's promise");
}

/// The first mistake after one change to the usual binding: where and what.
fn after(from: &str, with: &str) -> (String, String) {
    let usual = binding(BASE);
    assert!(usual.contains(from), "the usual binding has no `{from}`");
    let found = mistakes(&usual.replacen(from, with, 1));
    (found[0].pointer.clone(), found[0].message.clone())
}

#[test]
fn the_usual_binding_has_none() {
    assert!(compile(&binding(BASE), &open_to(&[])).is_ok());
}

#[test]
fn each_mistake_is_found_where_it_is() {
    let act_path = r#"path = "/payments""#;
    let body = r#"to = { "$value" = "/recipient" }"#;
    let success = "success = { status = [201] }";
    let refused = "refused = [{ status = [402] }";
    let found = r#"found = { status = [200], pointer = "/payments/0" }"#;
    let table = [
        ("provider = \"http\"", "provider = \"carrier-pigeon\"", "/provider", "no such provider"),
        ("timeout_ms = 2000", "name = \"a b\"", "/name", "not a name"),
        ("timeout_ms = 2000", "timeout = 2", "/timeout", "not known here"),
        ("timeout_ms = 2000", "timeout_ms = 0", "/timeout_ms", "whole number"),
        ("timeout_ms = 2000", "timeout_ms = \"2s\"", "/timeout_ms", "whole number"),
        ("https://bank.example", "bank.example", "/base", "not a URL"),
        ("https://bank.example", "https://bank.example/?a=b", "/base", "query or a fragment"),
        ("https://bank.example", "http://bank.example", "/base", "plain http"),
        (act_path, r#"path = "payments""#, "/act/path", "begins with"),
        (act_path, r#"path = "/a//b""#, "/act/path", "segment"),
        (act_path, r#"path = "/a/../b""#, "/act/path", "segment"),
        (act_path, r#"path = ["a", 1.5]"#, "/act/path/1", "string"),
        (act_path, r#"path = ["a", { b = "c" }]"#, "/act/path/1", "slot"),
        (
            act_path,
            r#"path = ["a", { "$value" = "/payee" , optional = true }]"#,
            "/act/path/1",
            "only the body",
        ),
        (
            act_path,
            r#"path = ["a", { "$value" = "/note", optional = true }]"#,
            "/act/path",
            "cannot be optional",
        ),
        (act_path, "path = \"/a\"\nmethod = \"FETCH\"", "/act/method", "not a method"),
        (act_path, "path = \"/a\"\nmethod = \"GET\"", "/act", "no body"),
        (act_path, "path = \"/a\"\nheaders = { Host = \"evil\" }", "/act/headers/Host", "cannot be set"),
        (
            act_path,
            "path = \"/a\"\nheaders = { Content-Length = \"1\" }",
            "/act/headers/Content-Length",
            "cannot be set",
        ),
        (act_path, "path = \"/a\"\nheaders = { \"a b\" = \"c\" }", "/act/headers/a b", "not a header name"),
        (act_path, "path = \"/a\"\nheaders = { A = \"b\\nc\" }", "/act/headers/A", "cannot stand"),
        (body, r#"to = { "$value" = "recipient" }"#, "/act/body/to/$value", "not a JSON pointer"),
        (body, r#"to = { "$value" = "/recipent" }"#, "/act/body/to/$value", "not a member"),
        (body, r#"to = { "$value" = "/recipient/name" }"#, "/act/body/to/$value", "not a member"),
        (body, r#"to = { "$value" = "/note" }"#, "/act/body/to/$value", "may be absent"),
        (body, r#"to = { "$value" = "/payee/iban" }"#, "/act/body/to/$value", "may be absent"),
        (body, r#"to = { "$value" = "/anything/x" }"#, "/act/body/to/$value", "may be absent"),
        (
            body,
            r#"to = { "$value" = "/recipient", default = "x" }"#,
            "/act/body/to/default",
            "not known here",
        ),
        (
            body,
            r#"to = { "$value" = "/recipient", "$money" = "minor" }"#,
            "/act/body/to/$money",
            "not known here",
        ),
        (body, r#"to = { "$secret" = "bank" }"#, "/act/body/to", "header only"),
        (body, r#"to = { "$text" = "Pay {recipient}" }"#, "/act/body/to", "`$text` is not supported"),
        (body, r#"to = { "$env" = "HOME" }"#, "/act/body/to", "not a slot"),
        (body, r#"to = { "$money" = "cents" }"#, "/act/body/to/$money", "no part of money"),
        (body, r#"to = { "$action" = "tenant" }"#, "/act/body/to/$action", "no part of an action"),
        (success, "", "/act", "`success` is missing"),
        (success, "success = { status = [] }", "/act/success/status", "at least one"),
        (success, "success = { status = [302] }", "/act/success/status/0", "cannot mean"),
        (success, "success = { status = [404] }", "/act/success/status/0", "cannot mean"),
        (success, "success = { status = [500] }", "/act/success/status/0", "cannot mean"),
        (success, "success = { status = [201], equals = [1] }", "/act/success/equals", "`pointer`"),
        (
            success,
            "success = { status = [201], pointer = \"id\" }",
            "/act/success/pointer",
            "not a JSON pointer",
        ),
        (refused, "refused = [{ status = [503] }", "/act/refused/0/status/0", "cannot mean"),
        (refused, "refused = [{ status = [307] }", "/act/refused/0/status/0", "cannot mean"),
        (refused, "refused = [{ status = [201] }", "/act/refused/0/status", "only if the body says so"),
        (found, "found = { status = [200] }", "/query/found", "without a condition"),
        (
            "final_after_seconds = 30",
            "final_after_seconds = -1",
            "/capabilities/queryable/final_after_seconds",
            "whole number",
        ),
        ("final_after_seconds = 30", "", "/capabilities/queryable", "`final_after_seconds` is missing"),
    ];
    for (from, with, pointer, message) in table {
        let (found_at, said) = after(from, with);
        assert!(found_at == pointer && said.contains(message), "{with}: at {found_at}: {said}");
    }
}

/// With a rollback that is sent under its key, and this beside it.
fn undone(more: &str) -> String {
    let able = "capabilities = { idempotent = { retention_seconds = 60 }, queryable";
    let keyed =
        "path = \"/payments\"\nheaders = { Idempotency-Key = { \"$action\" = \"provider_key\" } }\nbody";
    let text = binding(BASE).replacen("capabilities = { queryable", able, 1).replacen(
        "path = \"/payments\"\nbody",
        keyed,
        1,
    );
    format!("{text}\n[binding.rollback]\nwithin_seconds = 60\nsuccess = {{ status = [200] }}\n{more}\n")
}

#[test]
fn only_a_rollback_takes_from_the_snapshot_and_it_does_so_in_headers_too() {
    let version = r#""$snapshot" = "/version""#;
    let key = r#"Idempotency-Key = { "$action" = "provider_key" }"#;
    for right in [
        format!("headers = {{ {key}, If-Match = {{ {version} }} }}"),
        format!("headers = {{ {key} }}\nbody = {{ to = {{ {version} }} }}"),
        format!("headers = {{ {key} }}\npath = [\"a\", {{ {version} }}]\nparams = {{ v = {{ {version} }} }}"),
    ] {
        assert!(compile(&undone(&right), &open_to(&[])).is_ok(), "{right}");
    }
    let wrong = undone(&format!("headers = {{ {key}, If-Match = {{ \"$snapshot\" = \"version\" }} }}"));
    assert_eq!(mistakes(&wrong)[0].pointer, "/rollback/headers/If-Match/$snapshot");
    let usual = undone(&format!("headers = {{ {key} }}"));
    for (from, place) in [
        ("[binding.act]\n", "/act/headers/If-Match"),
        ("[binding.query]\n", "/query/headers/If-Match"),
        ("[binding.snapshot]\n", "/snapshot/headers/If-Match"),
        ("", "/headers/If-Match"),
    ] {
        let header = format!("headers = {{ If-Match = {{ {version} }} }}\n");
        let text = match from {
            "[binding.snapshot]\n" => format!("{usual}{from}{header}success = {{ status = [200] }}\n"),
            "" => usual.replacen("timeout_ms", &format!("{header}timeout_ms"), 1),
            "[binding.act]\n" => usual.replacen(
                "headers = { Idempotency-Key",
                &format!("headers = {{ If-Match = {{ {version} }}, Idempotency-Key"),
                1,
            ),
            _ => usual.replacen(from, &format!("{from}{header}"), 1),
        };
        let found = mistakes(&text);
        assert_eq!(found[0].pointer, place, "{text}");
        assert!(found[0].message.contains("only in `rollback`"), "{}", found[0].message);
    }
}

#[test]
fn a_check_is_only_where_what_fails_it_can_be_undone() {
    let check = "[binding.check]\npath = [\"payments\", { \"$action\" = \"provider_reference\" }]\n";
    let rules = "holds = { status = [200], pointer = \"/ok\", equals = [true] }\nfails = { status = [200, 404], pointer = \"/ok\", equals = [false] }\n";
    let keyed = undone("headers = { Idempotency-Key = { \"$action\" = \"provider_key\" } }");
    let found = |text: &str| with_window("", text).map(|provider| provider.checks());
    assert_eq!(found(&format!("{keyed}{check}{rules}")).ok(), Some(true));
    assert_eq!(found(&keyed).ok(), Some(false));
    let wrong = |text: &str| {
        let first = found(text).unwrap_err().remove(0);
        (first.pointer, first.message)
    };
    let (usual, _) = keyed.split_once("[binding.rollback]").unwrap();
    let (place, said) = wrong(&format!("{usual}{check}{rules}"));
    assert!(place == "/check" && said.contains("no `rollback`"), "{place}: {said}");
    let (place, said) = {
        let first = mistakes(&format!("{keyed}{check}{rules}")).remove(0);
        (first.pointer, first.message)
    };
    assert!(place == "/check" && said.contains("not `reversible`"), "{place}: {said}");
    for (rules, place, message) in [
        ("holds = { status = [200] }\n", "/check", "`fails` is missing"),
        ("fails = { status = [404] }\n", "/check", "`holds` is missing"),
        (
            "holds = { status = [200] }\nfails = { status = [200], pointer = \"/bad\" }\n",
            "/check/holds",
            "listed as fails",
        ),
        (
            "holds = { status = [200], pointer = \"/ok\" }\nfails = { status = [200] }\n",
            "/check/fails",
            "listed as holds",
        ),
        ("holds = { status = [404] }\nfails = { status = [409] }\n", "/check/holds/status/0", "cannot mean"),
        ("holds = { status = [200] }\nfails = { status = [500] }\n", "/check/fails/status/0", "cannot mean"),
        (
            "holds = { status = [200] }\nfails = { status = [401] }\n",
            "/check/fails/status/0",
            "about who asks",
        ),
        (
            "method = \"POST\"\nholds = { status = [200] }\nfails = { status = [404] }\n",
            "/check/method",
            "not known here",
        ),
        (
            "params = { v = { \"$snapshot\" = \"/v\" } }\nholds = { status = [200] }\nfails = { status = [404] }\n",
            "/check/params/v",
            "only in `rollback`",
        ),
    ] {
        let (found_at, said) = wrong(&format!("{keyed}{check}{rules}"));
        assert!(found_at == place && said.contains(message), "{rules}: at {found_at}: {said}");
    }
}

#[test]
fn the_time_in_which_it_is_undone_is_the_archetypes_unless_the_provider_has_less() {
    let compiled = |window: &str, within: &str| {
        let text = undone("headers = { Idempotency-Key = { \"$action\" = \"provider_key\" } }").replacen(
            "within_seconds = 60\n",
            within,
            1,
        );
        let found = with_window(window, &text);
        found.map(|provider| provider.rollback().unwrap().within.as_secs())
    };
    assert_eq!(compiled("recovery_window = \"1h\"", "").ok(), Some(3600));
    assert_eq!(compiled("recovery_window = \"1h\"", "within_seconds = 60\n").ok(), Some(60));
    assert_eq!(compiled("", "within_seconds = 60\n").ok(), Some(60));
    let longer = compiled("recovery_window = \"1h\"", "within_seconds = 3601\n").unwrap_err();
    assert_eq!(longer[0].pointer, "/rollback/within_seconds");
    let neither = compiled("", "").unwrap_err();
    assert!(neither[0].message.contains("`within_seconds` is missing"), "{}", neither[0].message);
}

#[test]
fn a_capability_that_the_requests_cannot_keep_is_a_mistake() {
    let capabilities = "capabilities = { queryable = { by_our_reference = true, final_after_seconds = 30 } }";
    let table = [
        (
            capabilities,
            "capabilities = { idempotent = { retention_seconds = 60 } }",
            "/capabilities/idempotent",
        ),
        (capabilities, "", "/query"),
        (r#", reference = { "$action" = "reference" } }"#, " }", "/query"),
        (capabilities, "capabilities = { repeat_safe = true }", "/capabilities/repeat_safe"),
        (
            capabilities,
            "capabilities = { idempotent = { retention_seconds = 0 } }",
            "/capabilities/idempotent",
        ),
    ];
    for (from, with, pointer) in table {
        assert_eq!(after(from, with).0, pointer, "{with}");
    }
    let text = binding(BASE);
    let without_query = &text[..text.find("[binding.query]").unwrap()];
    assert_eq!(mistakes(without_query)[0].pointer, "/capabilities/queryable");
}

/// Where the provider recognises keys a rollback is repeated, so it has to bear one; elsewhere it is sent once.
#[test]
fn a_rollback_that_would_be_repeated_bears_the_provider_key() {
    let rollback =
        "[binding.rollback]\nwithin_seconds = 60\npath = \"/refunds\"\nsuccess = { status = [201] }\n";
    let once = format!("{}{rollback}", binding(BASE));
    assert!(compile(&once, &open_to(&[])).is_ok());
    let key = "headers = { Idempotency-Key = { \"$action\" = \"provider_key\" } }\n";
    let repeated = once
        .replacen("capabilities = {", "capabilities = { idempotent = { retention_seconds = 60 },", 1)
        .replacen("[binding.act]\n", &format!("[binding.act]\n{key}"), 1);
    assert_eq!(mistakes(&repeated)[0].pointer, "/rollback");
    let recognised = repeated.replacen("[binding.rollback]\n", &format!("[binding.rollback]\n{key}"), 1);
    assert!(compile(&recognised, &open_to(&[])).is_ok());
}

#[test]
fn repeat_safe_is_for_what_moves_no_money() {
    let text = "[binding]\nprovider = \"sandbox\"\ncapabilities = { repeat_safe = true }";
    let egress = Egress::new(Rules::default());
    let outside = Outside { egress: &egress, secrets: &Secrets::default() };
    assert!(provider::compile(&moneyless(text), outside).unwrap().capabilities().repeat_safe);
    assert_eq!(mistakes(text)[0].pointer, "/capabilities/repeat_safe");
}

#[test]
fn all_parts_report_their_mistakes_at_once() {
    let text = binding(BASE)
        .replacen("most_bytes = 4096", "most_bytes = 0", 1)
        .replacen("/recipient", "/nobody", 1)
        .replacen("found =", "fund =", 1);
    let pointers: Vec<String> = mistakes(&text).into_iter().map(|mistake| mistake.pointer).collect();
    assert_eq!(pointers, ["/most_bytes", "/act/body/to/$value", "/query/fund"]);
}

#[test]
fn an_archetype_without_a_binding_says_so() {
    let found = mistakes("");
    assert!(found[0].message.contains("not bound") && found[0].hint.is_some());
}

#[test]
fn the_sandbox_explains_its_options() {
    let table = [
        ("options = { delay_ms = [5, 1] }", "/options/delay_ms/1"),
        ("options = { delay_ms = [1, 2, 3] }", "/options/delay_ms"),
        ("options = { delay_ms = 99999999 }", "/options/delay_ms"),
        ("options = { lose_every = 0 }", "/options/lose_every"),
        ("options = { explode = true }", "/options/explode"),
        ("act = {}", "/act"),
    ];
    for (line, pointer) in table {
        let found = mistakes(&format!("[binding]\nprovider = \"sandbox\"\n{line}\n"));
        assert_eq!(found[0].pointer, pointer, "{line}");
    }
}

/// One secret of each kind, and two of the kind oauth2, with nothing in them.
fn stand_ins() -> Secrets {
    let nowhere = || Source::File("/no/such/file".into());
    let client = |token_url: &str| {
        let Kind::OAuth2(it) = client("gateway", None) else { panic!("a client") };
        Kind::OAuth2(OAuth2Client { token_url: token_url.to_owned(), ..it })
    };
    let keys = AwsKeys {
        access_key: nowhere(),
        secret_key: nowhere(),
        session_token: Some(nowhere()),
        region: "eu-central-1".to_owned(),
        service: "execute-api".to_owned(),
    };
    let certificate = Kind::Mtls { certificate: "/no/such/file".into(), key: "/no/such/file".into() };
    let declare =
        |name: &str, kind| Declared { name: name.to_owned(), kind, hosts: vec!["bank.example".to_owned()] };
    Secrets::stand_ins([
        declare("plain", Kind::Static(nowhere())),
        declare("oauth", client("https://id.example/token")),
        declare("inside", client("https://10.0.0.1/token")),
        declare("certificate", certificate),
        declare("aws", Kind::AwsSigV4(keys)),
    ])
    .unwrap_or_else(|errors| panic!("{errors:?}"))
}

#[test]
fn each_mistake_in_auth_is_found_without_reading_a_secret() {
    let (secrets, egress) = (stand_ins(), Egress::new(Rules::default()));
    let mistakes = |auth: &str| {
        let text = binding(BASE).replacen("timeout_ms", &format!("{auth}\ntimeout_ms"), 1);
        provider::compile(&archetype(&text), Outside { egress: &egress, secrets: &secrets }).err()
    };
    for right in [
        "auth = \"oauth\"",
        "auth = \"certificate\"",
        "auth = \"aws\"",
        "auth = [\"certificate\", \"oauth\"]",
        "auth = [\"aws\", \"certificate\"]\nheaders = { X-Api-Key = \"secret:plain\" }",
        "auth = \"certificate\"\nheaders = { Authorization = \"secret:plain\" }",
    ] {
        assert_eq!(mistakes(right), None, "{right}");
    }
    let table = [
        ("auth = \"nobody\"", "/auth", "no secret `nobody`", "configuration"),
        ("auth = 7", "/auth", "a string", ""),
        ("auth = [\"oauth\", 7]", "/auth/1", "a string", ""),
        ("auth = \"plain\"", "/auth", "a static value", "`headers`"),
        (
            "headers = { Authorization = \"secret:oauth\" }",
            "/headers/Authorization",
            "of kind oauth2",
            "`auth`",
        ),
        ("headers = { X-Key = \"secret:aws\" }", "/headers/X-Key", "of kind aws-sigv4", "`auth`"),
        ("auth = [\"oauth\", \"inside\"]", "/auth/1", "second secret of its kind", "one of each kind"),
        ("auth = [\"oauth\", \"aws\"]", "/auth/0", "not both", "mtls"),
        ("auth = \"inside\"", "/auth", "token endpoint cannot be used", "`egress`"),
        (
            "auth = \"oauth\"\nheaders = { authorization = \"x\" }",
            "/headers/authorization",
            "set by `auth`",
            "out",
        ),
        ("auth = \"aws\"\nheaders = { X-Amz-Date = \"x\" }", "/headers/X-Amz-Date", "set by `auth`", "out"),
    ];
    for (auth, pointer, message, hint) in table {
        let found = mistakes(auth).unwrap_or_else(|| panic!("{auth} has no mistake"));
        assert_eq!(found[0].pointer, pointer, "{auth} {found:?}");
        assert!(found[0].message.contains(message), "{auth} {found:?}");
        assert!(found[0].hint.as_deref().unwrap_or_default().contains(hint), "{auth} {found:?}");
    }
    // The same secret for another place, and a mistake elsewhere beside it.
    let text = binding("https://other.example").replacen("timeout_ms", "auth = \"oauth\"\ntimeout_ms", 1);
    let text = text.replacen("most_bytes = 4096", "most_bytes = 0", 1);
    let found =
        provider::compile(&archetype(&text), Outside { egress: &egress, secrets: &secrets }).unwrap_err();
    assert!(found[0].message.contains("may not be sent to `other.example:443`"), "{found:?}");
    assert_eq!(found[1].pointer, "/most_bytes");
}

#[test]
fn a_declaration_that_is_wrong_is_one_without_its_values_too() {
    let client = |token_url: &str, client_id: &str, scope: &str| {
        Kind::OAuth2(OAuth2Client {
            token_url: token_url.to_owned(),
            client_id: client_id.to_owned(),
            client_secret: Source::Env("COUNTERSIGN_TEST_NOT_SET".to_owned()),
            scope: Some(scope.to_owned()),
            auth: ClientAuth::Body,
        })
    };
    let keys = |region: &str| {
        let source = || Source::Env("COUNTERSIGN_TEST_NOT_SET".to_owned());
        Kind::AwsSigV4(AwsKeys {
            access_key: source(),
            secret_key: source(),
            session_token: None,
            region: region.to_owned(),
            service: "s3".to_owned(),
        })
    };
    let url = "https://id.example/token";
    let table = [
        (client(url, "gateway", "a b"), "bank.example", None),
        (client("id.example", "gateway", "a"), "bank.example", Some("`token_url`")),
        (client("ftp://id.example", "gateway", "a"), "bank.example", Some("`token_url`")),
        (client("https://me:pass-word@id.example", "gateway", "a"), "bank.example", Some("`token_url`")),
        (client(url, "", "a"), "bank.example", Some("`client_id`")),
        (client(url, "gateway", "line\nbreak"), "bank.example", Some("`scope`")),
        (client(url, "gateway", "a"), "not a host", Some("neither a host")),
        (client(url, "gateway", "a"), "", Some("no `hosts`")),
        (keys("EU"), "bank.example", Some("`region`")),
        (keys(""), "bank.example", Some("`region`")),
    ];
    for (kind, host, expected) in table {
        let hosts = Some(host.to_owned()).filter(|host| !host.is_empty()).into_iter().collect();
        let shown = format!("{kind:?} {host}");
        let errors = Secrets::stand_ins([Declared { name: "it".to_owned(), kind, hosts }]).err();
        let told = errors.map(|errors| errors[0].to_string());
        match expected {
            None => assert_eq!(told, None, "{shown}"),
            Some(part) => {
                let told = told.unwrap_or_else(|| panic!("{shown} is taken"));
                assert!(told.contains("`it`") && told.contains(part), "{shown}: {told}");
                assert!(!told.contains("pass-word"), "{told}");
            }
        }
    }
}
