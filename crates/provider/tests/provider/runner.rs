//! Calls that their callers carry out: who has one, how long it is waited for, and what an exit code means.

use std::sync::Arc;
use std::time::Duration;

use action::{Catalogue, Tenant};
use execution::{Call, Reply};
use provider::egress::{Egress, Rules};
use provider::mcp::Servers;
use provider::runner::{End, Output, Report};
use provider::{Beside, Mistake, Outside, Provider, Runs, Secrets, Turn};
use serde_json::json;

use crate::common::{NOW_MS, call};

const FILE: &str = r#"
name = "JOB"
description = "A command"
reversible = true
resource = "/program"

[cedar]
groups = ["Commands"]
resource_type = "Program"

[schema]
required = ["program"]
properties.program = { description = "The program", type = "string", pattern = "^/", x-identifier = true, examples = ["/bin/sh"] }
properties.arguments = { description = "Its arguments", type = "array", items = { type = "string" }, examples = [["a"]] }
properties.directory = { description = "Where", type = "string", examples = ["/"] }
MORE

[binding]
provider = "runner"
"#;

/// A runner of this binding, for calls that are found in `runs`.
fn compiled(more: &str, binding: &str, runs: &Arc<Runs>) -> Result<(Call, Arc<dyn Provider>), Vec<Mistake>> {
    let text = FILE.replace("MORE", more) + binding;
    let source = action::Source { name: "job.toml".to_owned(), text };
    let catalogue = Catalogue::load(false, &[source]).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let archetype = Arc::clone(catalogue.get("JOB").unwrap());
    let egress = Egress::new(Rules::default());
    let outside = Outside { egress: &egress, secrets: &Secrets::default() };
    let (servers, tenant) = (Servers::default(), Tenant::default());
    let beside = Beside { runs, servers: &servers, tenant: &tenant };
    let provider = provider::compile_for(&archetype, outside, beside)?;
    Ok((call(&archetype, json!({"program": "/bin/sh"})), provider))
}

fn bound(binding: &str) -> (Call, Arc<dyn Provider>) {
    compiled("", binding, &Arc::default()).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}

fn report(end: End) -> Report {
    let nothing = Output { sha256: "0".repeat(64), bytes: 0 };
    Report { end, duration_ms: 1, stdout: nothing.clone(), stderr: nothing, tail: None }
}

/// What the provider says when the command ends so.
async fn reply(binding: &str, end: End) -> Reply {
    let (call, provider) = bound(binding);
    let runner = provider.runner().unwrap();
    let (reply, ()) = tokio::join!(provider.call(&call, NOW_MS), async {
        let turn = runner.take(call.action_id, "r", Duration::from_secs(5)).await;
        assert!(matches!(&turn, Turn::Yours(offer) if offer.provider_key == call.provider_key), "{turn:?}");
        let (meant, was_awaited) = runner.report(call.action_id, &call.provider_key, report(end));
        assert!(was_awaited, "{meant:?}");
    });
    reply
}

fn word(reply: &Reply) -> &'static str {
    match reply {
        Reply::Confirmed(_) => "done",
        Reply::Refused(it) if it.transient => "transient",
        Reply::Refused(_) => "refused",
        Reply::NotSent { .. } => "not sent",
        Reply::Lost { .. } => "doubt",
        Reply::Challenged(_) => "challenged",
    }
}

#[tokio::test]
async fn an_exit_code_means_what_the_binding_says() {
    let listed = "done = [0, 3]\nrefused = [64]\ntransient = [75]\ndoubt = [70]\n";
    let safe = "[binding.capabilities]\nrepeat_safe = true\n";
    let keyed = "[binding.capabilities]\nidempotent = { retention_seconds = 90000 }\n";
    let (exit, killed) = (End::Exited, End::Killed(9));
    for (binding, end, expected) in [
        ("", exit(0), "done"),
        ("", exit(1), "refused"),
        ("", killed, "doubt"),
        ("", End::NotStarted, "not sent"),
        (safe, exit(0), "done"),
        (safe, exit(1), "transient"),
        (safe, killed, "transient"),
        (keyed, exit(1), "doubt"),
        (keyed, killed, "doubt"),
        (listed, exit(3), "done"),
        (listed, exit(64), "refused"),
        (listed, exit(75), "transient"),
        (listed, exit(70), "doubt"),
        (listed, exit(1), "refused"),
        ("otherwise = \"doubt\"\n", exit(1), "doubt"),
        ("otherwise = \"transient\"\n", exit(1), "transient"),
        ("done = [3]\n", exit(0), "refused"),
    ] {
        let reply = reply(binding, end).await;
        assert_eq!(word(&reply), expected, "{binding}{end:?}: {reply:?}");
        if let Reply::Refused(refusal) = reply {
            let code = match end {
                End::Exited(code) => format!("exit_{code}"),
                _ => "signal_9".to_owned(),
            };
            assert_eq!(refusal.code, Some(code));
            assert!(refusal.answer["stdout_sha256"].is_string(), "{}", refusal.answer);
        }
    }
}

#[test]
fn every_mistake_is_found() {
    let mistaken = |binding: &str| {
        let (at, message) = compiled("", binding, &Arc::default())
            .map(|_| ())
            .map_err(|mistakes| (mistakes[0].pointer.clone(), mistakes[0].message.clone()))
            .expect_err(binding);
        format!("{at}: {message}")
    };
    for (binding, expected) in [
        ("base = \"https://bank.example\"\n", "/base: `base` is not known here"),
        ("timeout_seconds = 0\n", "/timeout_seconds: this must be a whole number from 1 to 604800"),
        ("take_seconds = 2\n", "/take_seconds: `take_seconds` is not known here"),
        ("done = [256]\n", "/done/0: this must be a whole number from 0 to 255"),
        ("refused = [1]\ndoubt = [1]\n", "/doubt/0: exit code 1 is listed twice"),
        ("refused = [0]\n", "/done: exit code 0 means that it is done"),
        ("otherwise = \"done\"\n", "/otherwise: this must be refused, transient or doubt"),
        (
            "[binding.capabilities]\nqueryable = { by_our_reference = true, final_after_seconds = 1 }\n",
            "/capabilities/queryable: nobody can be asked what became of a command",
        ),
    ] {
        assert_eq!(mistaken(binding), expected);
    }
    // What is judged names what is run.
    let text = FILE.replace("properties.arguments", "properties.words").replace("MORE", "");
    let source = action::Source { name: "job.toml".to_owned(), text };
    let catalogue = Catalogue::load(false, &[source]).unwrap();
    let egress = Egress::new(Rules::default());
    let outside = Outside { egress: &egress, secrets: &Secrets::default() };
    let mistakes = provider::compile(catalogue.get("JOB").unwrap(), outside).unwrap_err();
    assert_eq!(mistakes[0].message, "what a runner carries out names its command");
}

#[tokio::test]
async fn a_call_is_one_runners_as_long_as_that_is_heard_of() {
    let runs = Arc::default();
    let binding = "silence_seconds = 3\n";
    let (call, provider) = compiled("", binding, &runs).unwrap();
    // As after a reload: another provider of the same binding finds the same calls.
    let (_, reloaded) = compiled("", binding, &runs).unwrap();
    let (before, runner) = (provider.runner().unwrap(), reloaded.runner().unwrap());
    let (id, short) = (call.action_id, Duration::from_millis(20));
    assert_eq!(runner.take(id, "a", short).await, Turn::Nothing, "nothing is offered yet");
    let offered = tokio::spawn({
        let (call, provider) = (call.clone(), Arc::clone(&provider));
        async move { provider.call(&call, NOW_MS).await }
    });
    let Turn::Yours(offer) = runner.take(id, "a", Duration::from_secs(5)).await else { panic!("no offer") };
    assert_eq!((&offer.provider_key, offer.attempt), (&call.provider_key, call.attempt));
    assert_eq!(runner.take(id, "b", short).await, Turn::Elsewhere);
    assert_eq!(runner.take(id, "a", short).await, Turn::Yours(offer), "who asks again has it still");
    assert!(!runner.beat(&call, "b"));
    let other = Call { provider_key: "another".to_owned(), ..call.clone() };
    assert!(!runner.beat(&other, "a"));
    // Heard of now and then, it has it for longer than it may be silent.
    for _ in 0..14 {
        assert!(before.beat(&call, "a") && runner.is_at(&call));
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(!offered.is_finished());
    let (_, was_awaited) = runner.report(id, "another", report(End::Exited(0)));
    assert!(!was_awaited);
    assert!(runner.report(id, &call.provider_key, report(End::Exited(0))).1);
    assert_eq!(word(&offered.await.unwrap()), "done");
    assert!(!runner.report(id, &call.provider_key, report(End::Exited(1))).1, "reported once");
    assert!(!runner.is_at(&call));
}

#[tokio::test]
async fn who_has_a_call_and_falls_silent_leaves_doubt_and_nobody_having_it_none() {
    let (call, provider) = bound("silence_seconds = 1\n");
    let runner = provider.runner().unwrap();
    assert!(!runner.withdraw(&call), "nothing is offered yet");
    let (reply, was_offered) = tokio::join!(provider.call(&call, NOW_MS), async { runner.withdraw(&call) });
    assert_eq!((word(&reply), was_offered), ("not sent", true));
    assert_eq!(runner.take(call.action_id, "a", Duration::from_millis(20)).await, Turn::Nothing, "too late");

    // Its silence is noticed by itself, long before it takes too long.
    let (reply, ()) =
        tokio::join!(tokio::time::timeout(Duration::from_secs(30), provider.call(&call, NOW_MS)), async {
            let turn = runner.take(call.action_id, "a", Duration::from_secs(5)).await;
            assert!(matches!(turn, Turn::Yours(_)));
            assert!(!runner.withdraw(&call), "a runner has it");
        });
    let reply = reply.expect("nobody notices that the runner is silent");
    assert_eq!(word(&reply), "doubt", "{reply:?}");
    assert!(!runner.is_at(&call), "it is gone");
    // Made once more, it is there for another runner.
    let (reply, ()) = tokio::join!(provider.call(&call, NOW_MS), async {
        assert!(matches!(runner.take(call.action_id, "b", Duration::from_secs(5)).await, Turn::Yours(_)));
        assert!(runner.report(call.action_id, &call.provider_key, report(End::Exited(0))).1);
    });
    assert_eq!(word(&reply), "done");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_in_doubt_and_still_its_runners() {
    let (call, provider) = bound("timeout_seconds = 1\nsilence_seconds = 30\n");
    let runner = provider.runner().unwrap();
    let (reply, turn) =
        tokio::join!(provider.call(&call, NOW_MS), runner.take(call.action_id, "a", Duration::from_secs(5)));
    assert!(matches!(turn, Turn::Yours(_)));
    assert_eq!(word(&reply), "doubt", "{reply:?}");
    assert!(runner.is_at(&call));
    assert_eq!(runner.take(call.action_id, "b", Duration::from_millis(20)).await, Turn::Elsewhere);
    let (reply, was_awaited) = runner.report(call.action_id, &call.provider_key, report(End::Exited(0)));
    assert_eq!((word(&reply), was_awaited), ("done", false));
}

#[tokio::test]
async fn after_a_start_a_runner_has_time_to_come_back() {
    let runs = Arc::default();
    let (call, provider) = compiled("", "silence_seconds = 1\n", &runs).unwrap();
    let runner = provider.runner().unwrap();
    assert!(runner.is_at(&call), "who was at it before the start may not have been heard yet");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(!runner.is_at(&call));
    assert!(runner.beat(&call, "a"), "one comes back");
    assert!(runner.is_at(&call));
    assert_eq!(runner.take(call.action_id, "b", Duration::from_millis(20)).await, Turn::Elsewhere);
}
