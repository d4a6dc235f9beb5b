//! The provider that is not there does as it is told, the same way each time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use action::{ActionId, Archetype, GuaranteeLevel, Money};
use execution::{Call, Check, Found, Reply};
use provider::egress::{Egress, Rules};
use provider::{Ask, Done, Outside, Provider, Secrets, sandboxed};
use serde_json::{Value, json};

use crate::common::{NOW_MS, archetype, binding, call, moneyless, to, usd};

const LATE: i64 = i64::MAX;

fn nth(archetype: &Arc<Archetype>, n: u32, constraints: Value) -> Call {
    let mut random = [0; 10];
    random[..4].copy_from_slice(&n.to_be_bytes());
    Call {
        action_id: ActionId::new(1_760_000_000_000 + u64::from(n), random),
        ..call(archetype, constraints)
    }
}

fn bound(options: &str) -> (Arc<Archetype>, Arc<dyn Provider>) {
    let archetype = archetype(&format!("[binding]\nprovider = \"sandbox\"\n{options}"));
    let egress = Egress::new(Rules::default());
    let outside = Outside { egress: &egress, secrets: &Secrets::default() };
    let provider = provider::compile(&archetype, outside).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    (archetype, provider)
}

#[tokio::test]
async fn a_failing_check_is_rehearsed_where_the_binding_has_one() {
    assert!(!sandboxed(&archetype(&binding("https://bank.example"))).checks(), "nobody asked for it");
    let check = "[binding.check]\nholds = { status = [200] }\nfails = { status = [404] }\n";
    let archetype = archetype(&format!("{}{check}", binding("https://bank.example")));
    let provider = sandboxed(&archetype);
    assert!(provider.checks());
    for (trigger, found) in [("acct-1", Check::Holds), ("sandbox:amiss", Check::Fails)] {
        let call = nth(&archetype, 1, to(trigger));
        assert!(matches!(provider.call(&call, NOW_MS).await, Reply::Confirmed(_)));
        assert_eq!(provider.check(&call, Done::default(), NOW_MS).await, found);
        assert!(matches!(provider.undo(&call, Done::default(), NOW_MS).await, Reply::Confirmed(_)));
    }
}

#[tokio::test]
async fn trigger_values_decide_the_call_and_what_is_found_later() {
    let table = [
        ("acct-1", "confirmed", "confirmed"),
        ("sandbox:ok", "confirmed", "confirmed"),
        ("sandbox:delay-20", "confirmed", "confirmed"),
        ("sandbox:fail", "refused", "absent"),
        ("sandbox:unreachable", "not sent", "absent"),
        ("sandbox:lose", "lost", "confirmed"),
        ("sandbox:vanish", "lost", "absent"),
        ("sandbox:silent", "lost", "unknown"),
        ("sandbox:challenge", "challenged", "confirmed"),
        ("sandbox:challenge-declined", "challenged", "absent"),
        ("sandbox:challenge-ignored", "challenged", "absent"),
        ("sandbox:typo", "refused", "absent"),
        ("sandbox:delay-", "refused", "absent"),
        ("sandbox:delay-999999", "refused", "absent"),
    ];
    for (recipient, replied, found) in table {
        let archetype = archetype(&binding("https://bank.example"));
        let provider = sandboxed(&archetype);
        let call = call(&archetype, to(recipient));
        let reply = match provider.call(&call, NOW_MS).await {
            Reply::Confirmed(it) => {
                assert_eq!((it.charged, &it.answer["sandbox"]), (call.money, &json!(true)));
                "confirmed"
            }
            Reply::Refused(_) => "refused",
            Reply::Challenged(challenge) => {
                assert!(challenge.url.starts_with("https://payer.invalid/"), "{}", challenge.url);
                "challenged"
            }
            Reply::NotSent { .. } => "not sent",
            Reply::Lost { .. } => "lost",
        };
        let asked = match provider.query(&call, LATE).await {
            Found::Confirmed(_) => "confirmed",
            Found::Absent { final_: true } => "absent",
            Found::Absent { final_: false } => "absent so far",
            Found::Unknown => "unknown",
        };
        assert_eq!((reply, asked), (replied, found), "{recipient}");
    }
}

#[tokio::test]
async fn what_was_never_called_is_absent_and_final_only_when_it_can_no_longer_leave() {
    let archetype = archetype("");
    let provider = sandboxed(&archetype);
    let call = call(&archetype, to("acct-1"));
    assert_eq!(provider.query(&call, call.send_by_ms - 1).await, Found::Absent { final_: false });
    assert_eq!(provider.query(&call, call.send_by_ms).await, Found::Absent { final_: true });
}

#[tokio::test]
async fn the_same_call_has_the_same_answer_and_another_attempt_is_another_call() {
    let archetype = archetype("");
    let provider = sandboxed(&archetype);
    let first = call(&archetype, to("acct-1"));
    let reply = provider.call(&first, NOW_MS).await;
    assert_eq!(provider.call(&first, NOW_MS).await, reply);
    assert_eq!(
        sandboxed(&archetype).call(&first, NOW_MS).await,
        reply,
        "nor does it depend on what went before"
    );
    let second = Call { attempt: 2, reference: format!("{}-2", first.action_id), ..first };
    assert_eq!(provider.query(&second, LATE).await, Found::Absent { final_: true });
}

#[tokio::test]
async fn in_the_sandbox_no_binding_is_read() {
    // It names a secret that does not exist and a host that is not allowed.
    let text = r#"
[binding]
provider = "http"
base = "http://169.254.169.254"
headers = { Authorization = "secret:missing" }
"#;
    let archetype = archetype(text);
    let provider = sandboxed(&archetype);
    assert!(matches!(provider.call(&call(&archetype, to("acct-1")), NOW_MS).await, Reply::Confirmed(_)));
    assert!(provider.capabilities().can_keep(GuaranteeLevel::Atp3));
    assert_eq!(provider.name(), "sandbox");
}

#[tokio::test]
async fn a_binding_can_fail_and_lose_one_in_so_many_and_the_same_ones_each_time() {
    let (archetype, provider) = bound("options = { fail_every = 4, lose_every = 4 }");
    let mut counts = [0; 3];
    for n in 0..1000 {
        let call = nth(&archetype, n, to("acct-1"));
        let reply = provider.call(&call, NOW_MS).await;
        assert_eq!(provider.call(&call, NOW_MS).await, reply);
        let kind = match reply {
            Reply::Confirmed(_) => 0,
            Reply::Refused(_) => 1,
            Reply::Lost { .. } => 2,
            Reply::NotSent { .. } | Reply::Challenged(_) => panic!("not asked for"),
        };
        counts[kind] += 1;
        let there = matches!(provider.query(&call, LATE).await, Found::Confirmed(_));
        assert_eq!(there, kind != 1);
    }
    assert!((200..300).contains(&counts[1]) && (130..250).contains(&counts[2]), "{counts:?}");
}

#[tokio::test]
async fn delays_lie_in_their_range() {
    let (archetype, provider) = bound("options = { delay_ms = [20, 60] }");
    assert_eq!(provider.patience(), Duration::from_millis(60));
    let started = Instant::now();
    provider.call(&call(&archetype, to("acct-1")), NOW_MS).await;
    assert!(started.elapsed() >= Duration::from_millis(20));
}

#[tokio::test]
async fn outside_the_sandbox_triggers_work_only_if_asked_for() {
    let (archetype, provider) = bound("");
    assert!(matches!(
        provider.call(&call(&archetype, to("sandbox:fail")), NOW_MS).await,
        Reply::Confirmed(_)
    ));
    let (archetype, provider) = bound("options = { triggers = true }");
    assert!(matches!(provider.call(&call(&archetype, to("sandbox:fail")), NOW_MS).await, Reply::Refused(_)));
}

#[tokio::test]
async fn a_quote_is_within_the_bound() {
    let archetype = archetype("");
    let provider = sandboxed(&archetype);
    let constraints = to("acct-1");
    for n in 0..100 {
        let action_id = nth(&archetype, n, json!({})).action_id;
        let ask =
            Ask { action_id, constraints: &constraints, bound: Money::new(10_000, usd()), now_ms: NOW_MS };
        let price = provider.quote(ask).await.unwrap();
        assert!((4000..=9000).contains(&price.minor()), "{price}");
        assert_eq!(provider.quote(ask).await.unwrap(), price);
    }
    let action_id = nth(&archetype, 1, json!({})).action_id;
    let unbounded = Ask { action_id, constraints: &constraints, bound: None, now_ms: NOW_MS };
    assert_eq!(provider.quote(unbounded).await.unwrap(), Money::new(10_000, usd()).unwrap());
    assert!(sandboxed(&moneyless("")).quote(unbounded).await.is_err());
}

#[tokio::test]
async fn memory_is_bounded_and_forgets_the_oldest() {
    let archetype = archetype("");
    let provider = sandboxed(&archetype);
    let most = u32::try_from(provider::sandbox::MOST_EFFECTS).unwrap();
    for n in 0..=most {
        provider.call(&nth(&archetype, n, to("acct-1")), NOW_MS).await;
    }
    let found = async |n| provider.query(&nth(&archetype, n, to("acct-1")), LATE).await;
    assert_eq!(found(0).await, Found::Absent { final_: true });
    assert!(matches!(found(1).await, Found::Confirmed(_)));
    assert!(matches!(found(most).await, Found::Confirmed(_)));
}
