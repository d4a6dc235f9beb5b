//! A secret is seen by its hosts and by nobody else.

use std::sync::Arc;

use execution::Reply;
use provider::egress::{Egress, Rules};
use provider::secrets::{Declared, Kind, Secrets, Source};
use provider::{Mistake, Outside, Provider};
use serde_json::json;

use crate::common::{
    Act, Changing, NOW_MS, Seen, Server, answer, archetype, binding, call, open_to, secret, to,
};

const VALUE: &str = "hunter2-hunter2";

fn with_secret(base: &str, header: &str) -> String {
    binding(base).replacen("timeout_ms", &format!("headers = {{ Authorization = {header} }}\ntimeout_ms"), 1)
}

fn compile(
    base: &str,
    header: &str,
    secrets: &Secrets,
    egress: &Egress,
) -> Result<Arc<dyn Provider>, Vec<Mistake>> {
    provider::compile(&archetype(&with_secret(base, header)), Outside { egress, secrets })
}

#[tokio::test]
async fn it_reaches_its_host_in_the_header_that_names_it() {
    let server = Server::start(|_: &Seen| Act::Say(answer(201, r#"{"id":"p1"}"#))).await;
    let place = server.address.to_string();
    let secrets = secret("bank", &format!("{VALUE}\n"), &[&place]).unwrap();
    let forms = [
        (r#""secret:bank""#, VALUE.to_owned()),
        (r#"{ "$secret" = "bank" }"#, VALUE.to_owned()),
        (r#"{ "$secret" = "bank", prefix = "Bearer " }"#, format!("Bearer {VALUE}")),
    ];
    for (header, expected) in forms {
        let archetype = archetype(&with_secret(&server.url(), header));
        let egress = open_to(std::slice::from_ref(&place));
        let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets }).unwrap();
        provider.call(&call(&archetype, to("acct-1")), NOW_MS).await;
        assert_eq!(server.seen().last().unwrap().header("authorization"), Some(expected.as_str()));
        assert!(!format!("{provider:?}").contains(VALUE));
    }
}

#[test]
fn it_is_not_bound_to_another_host() {
    let lookup = Changing::new(&[&["8.8.8.8"]]);
    let egress = Egress::with_lookup(Rules::parse::<&str>(&[], &["bank.example:80"]).unwrap(), lookup);
    let header = r#""secret:bank""#;
    let table: [(&[&str], &str, bool); 9] = [
        (&["bank.example"], "https://bank.example", true),
        (&["bank.example"], "https://BANK.example:443/v1", true),
        (&["bank.example:8443"], "https://bank.example:8443", true),
        (&["bank.example"], "https://bank.example:8443", false),
        (&["bank.example"], "http://bank.example", false),
        (&["bank.example"], "https://evil.example", false),
        (&["bank.example"], "https://bank.example.evil.example", false),
        (&["bank.example"], "https://api.bank.example", false),
        (&[], "https://bank.example", false),
    ];
    for (hosts, base, fits) in table {
        let secrets = secret("bank", VALUE, hosts).unwrap();
        let compiled = compile(base, header, &secrets, &egress);
        assert_eq!(compiled.is_ok(), fits, "{hosts:?} {base}");
        if let Err(mistakes) = compiled {
            assert_eq!(mistakes[0].pointer, "/headers/Authorization");
            assert!(!format!("{mistakes:?}").contains(VALUE));
        }
    }
}

#[test]
fn it_stands_in_a_header_only_and_only_whole() {
    let secrets = secret("bank", VALUE, &["bank.example"]).unwrap();
    let egress = Egress::new(Rules::default());
    let refuse = |text: String| {
        let outside = Outside { egress: &egress, secrets: &secrets };
        let mistakes = provider::compile(&archetype(&text), outside).unwrap_err();
        assert!(!format!("{mistakes:?}").contains(VALUE));
        mistakes[0].message.clone()
    };
    let usual = binding("https://bank.example");
    let in_body = usual.replacen("body = {", r#"body = { key = { "$secret" = "bank" },"#, 1);
    assert!(refuse(in_body).contains("header only"));
    let in_params = usual.replacen("params = {", r#"params = { key = { "$secret" = "bank" },"#, 1);
    assert!(refuse(in_params).contains("header only"));
    let in_path = usual.replacen(r#"path = "/payments""#, r#"path = ["a", { "$secret" = "bank" }]"#, 1);
    assert!(refuse(in_path).contains("header only"));
    let unknown = with_secret("https://bank.example", r#""secret:other""#);
    assert!(refuse(unknown).contains("no secret `other`"));
}

#[tokio::test]
async fn it_is_struck_from_an_answer_that_repeats_it() {
    let server = Server::start(|seen: &Seen| {
        let echo = json!({
            "id": seen.header("authorization"),
            "nested": [{ "token": format!("you sent {VALUE}!") }],
            VALUE: "as a name",
        });
        Act::Say(answer(201, &echo.to_string()))
    })
    .await;
    let place = server.address.to_string();
    let secrets = secret("bank", VALUE, &[&place]).unwrap();
    let egress = open_to(&[place]);
    let archetype = archetype(&with_secret(&server.url(), r#"{ "$secret" = "bank", prefix = "Bearer " }"#));
    let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets }).unwrap();
    let Reply::Confirmed(it) = provider.call(&call(&archetype, to("acct-1")), NOW_MS).await else {
        panic!("not confirmed")
    };
    assert!(!format!("{it:?}").contains(VALUE), "{it:?}");
    assert_eq!(it.reference.as_deref(), Some("Bearer [secret]"));
    assert_eq!(it.answer["nested"][0]["token"], "you sent [secret]!");
}

#[tokio::test]
async fn it_is_in_no_reply_of_a_call_that_fails() {
    // The name resolves to an address that is refused, so nothing leaves.
    let egress = Egress::with_lookup(Rules::default(), Changing::new(&[&["10.0.0.1"]]));
    let secrets = secret("bank", VALUE, &["bank.example"]).unwrap();
    let archetype = archetype(&with_secret("https://bank.example", r#""secret:bank""#));
    let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets }).unwrap();
    let reply = provider.call(&call(&archetype, to("acct-1")), NOW_MS).await;
    assert!(matches!(reply, Reply::NotSent { .. }));
    assert!(!format!("{reply:?} {provider:?} {secrets:?} {egress:?}").contains(VALUE));
}

#[test]
fn one_without_hosts_stays_here_and_one_with_hosts_does_not() {
    let master = secret("master", VALUE, &[]).unwrap();
    assert_eq!(master.get("master").unwrap().reveal_here().unwrap(), VALUE);
    let bank = secret("bank", VALUE, &["bank.example"]).unwrap();
    let error = bank.get("bank").unwrap().reveal_here().unwrap_err();
    assert!(!format!("{error:?} {error}").contains(VALUE));
    assert!(!format!("{master:?} {bank:#?}").contains(VALUE));
}

#[test]
fn what_cannot_be_a_secret_is_said_without_showing_it() {
    for value in ["", "\n", "two\nlines", "tab\tbed", "nul\0", "x\r\nInjected: 1"] {
        let errors = secret("bank", value, &["bank.example"]).unwrap_err();
        let shown = format!("{errors:?} {}", errors[0]);
        assert!(
            shown.contains("`bank`") && !shown.contains("lines") && !shown.contains("Injected"),
            "{shown}"
        );
    }
    assert!(secret("bank", &"x".repeat(9000), &[]).is_err());
    let declared = |name: &str, source, hosts: &[&str]| Declared {
        name: name.to_owned(),
        kind: Kind::Static(source),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
    };
    let errors = Secrets::load([
        declared("a", Source::Env("COUNTERSIGN_TEST_NOT_SET".to_owned()), &[]),
        declared("b", Source::File("/no/such/file".into()), &[]),
        declared("c", Source::Env("PATH".to_owned()), &["not a host"]),
        declared("d", Source::Env("PATH".to_owned()), &[]),
        declared("d", Source::Env("PATH".to_owned()), &[]),
    ])
    .unwrap_err();
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 4, "all of them at once: {shown:?}");
    assert!(shown[0].contains("COUNTERSIGN_TEST_NOT_SET") && shown[1].contains("/no/such/file"));
    assert!(shown[2].contains("not a host") && shown[3].contains("twice"));
}
