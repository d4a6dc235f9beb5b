//! A real bank that fails on demand: what we say about a payment against what the bank counts.

use std::sync::Arc;
use std::time::Duration;

use action::{Archetype, Money};
use execution::{Call, Confirmation, Found, Reply};
use provider::{Outside, Provider};
use testkit::Swap;
use testkit::bank::{Bank, Fault, Injection, Options};

use crate::common::{NOW_MS, archetype, call, open_to, secret, to, usd};

/// As it is, but for less patience, and with a note and the bank's own code.
fn binding(bank: &Bank) -> String {
    let note = r#", note = { "$value" = "/note", optional = true } }"#;
    bank.binding()
        .swapped("timeout_ms = 5000", "timeout_ms = 400")
        .swapped("final_after_seconds = 0", "final_after_seconds = 1")
        .swapped(" }\nsuccess", &format!("{note}\nsuccess"))
        .swapped("refused = [", "code = \"/error/code\"\nrefused = [")
}

async fn open(options: Options) -> (Bank, Arc<Archetype>, Arc<dyn Provider>) {
    let bank = Bank::start(options).await.unwrap();
    let archetype = archetype(&binding(&bank));
    let place = bank.address().to_string();
    let secrets = secret("bank", bank.token(), &[&place]).unwrap();
    let egress = open_to(&[place]);
    let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets }).unwrap();
    (bank, archetype, provider)
}

/// Asks until the fate is known, as recovery does; `now_ms` is long after the call could leave.
async fn resolve(provider: &dyn Provider, call: &Call) -> Option<Confirmation> {
    for _ in 0..20 {
        match provider.query(call, i64::MAX).await {
            Found::Confirmed(confirmation) => return Some(confirmation),
            Found::Absent { final_: true } => return None,
            Found::Absent { final_: false } | Found::Unknown => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still in doubt")
}

#[tokio::test]
async fn whatever_goes_wrong_the_record_and_the_bank_agree() {
    let slow = Duration::from_millis(900);
    let ms = |pause: Duration| u64::try_from(pause.as_millis()).unwrap();
    // The fault, whether the reply settles the matter, and whether the bank moved the money.
    let table = [
        (Fault::None, true, true),
        (Fault::LostAfterEffect, false, true),
        (Fault::LostBeforeEffect, false, false),
        (Fault::DelayAnswer { ms: ms(slow) }, false, true),
        (Fault::ErrorBeforeEffect, false, false),
        (Fault::ErrorAfterEffect, false, true),
        (Fault::RateLimited { retry_after: 1 }, false, false),
        (Fault::SlowBody { ms: 50 }, false, true),
        (Fault::HugeBody { bytes: 8_000_000 }, false, true),
        (Fault::MalformedBody, false, true),
        (Fault::Redirect { location: "/v1/payments".to_owned() }, false, false),
    ];
    for (fault, known, moved) in table {
        let (bank, archetype, provider) = open(Options::default()).await;
        bank.inject(Injection::payments(fault.clone(), 1));
        let call = call(&archetype, to("acct-1"));
        let reply = provider.call(&call, NOW_MS).await;
        assert_eq!(!matches!(reply, Reply::Lost { .. }), known, "{fault:?}: {reply:?}");
        let Some(it) = resolve(&*provider, &call).await else {
            assert!(!moved && bank.effects().count == 0, "{fault:?}");
            continue;
        };
        assert!(moved && bank.effects().count == 1, "{fault:?}: {it:?}");
        assert_eq!(it.charged, Money::new(1250, usd()));
        if let Reply::Confirmed(replied) = reply {
            assert_eq!(replied.reference, it.reference);
        }
        // The provider key makes a second sending harmless.
        assert!(matches!(provider.call(&call, NOW_MS).await, Reply::Confirmed(_)), "{fault:?}");
        assert_eq!((bank.effects().count, bank.balance("acct-1")), (1, Some(1250)), "{fault:?}");
    }
}

#[tokio::test]
async fn a_payment_that_arrives_late_is_not_called_absent_too_early() {
    let (bank, archetype, provider) = open(Options::default()).await;
    bank.inject(Injection::payments(Fault::Late { ms: 300 }, 1));
    let call = call(&archetype, to("acct-1"));
    assert!(matches!(provider.call(&call, NOW_MS).await, Reply::Lost { .. }));
    let early = provider.query(&call, call.send_by_ms + 999).await;
    assert_eq!(early, Found::Absent { final_: false }, "it may still be on its way");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(matches!(provider.query(&call, call.send_by_ms + 1000).await, Found::Confirmed(_)));
    assert_eq!(bank.effects().count, 1);
}

#[tokio::test]
async fn a_refusal_that_may_pass_is_told_from_one_for_good() {
    let bank = Bank::start(Options { opening_minor: 100, ..Options::default() }).await.unwrap();
    let archetype = archetype(&binding(&bank).swapped(
        "\nreference = \"/payment_id\"",
        "\ntransient = { status = [429] }\nreference = \"/payment_id\"",
    ));
    let place = bank.address().to_string();
    let secrets = secret("bank", bank.token(), &[&place]).unwrap();
    let egress = open_to(&[place]);
    let provider = provider::compile(&archetype, Outside { egress: &egress, secrets: &secrets }).unwrap();
    bank.inject(Injection::payments(Fault::RateLimited { retry_after: 1 }, 1));
    for transient in [true, false] {
        let Reply::Refused(refusal) = provider.call(&call(&archetype, to("acct-1")), NOW_MS).await else {
            panic!("not refused")
        };
        assert_eq!(refusal.transient, transient, "{refusal:?}");
    }
}

#[tokio::test]
async fn the_bank_says_no() {
    let (bank, archetype, provider) = open(Options { opening_minor: 100, ..Options::default() }).await;
    let Reply::Refused(refusal) = provider.call(&call(&archetype, to("acct-1")), NOW_MS).await else {
        panic!("not refused")
    };
    assert_eq!((refusal.status, refusal.code.as_deref()), (Some(402), Some("insufficient_funds")));
    assert_eq!(bank.effects().count, 0);
}

#[tokio::test]
async fn a_bank_that_cannot_answer_a_query_leaves_the_doubt() {
    let (bank, archetype, provider) = open(Options::default()).await;
    let call = call(&archetype, to("acct-1"));
    for fault in [
        Fault::LostBeforeEffect,
        Fault::ErrorAfterEffect,
        Fault::MalformedBody,
        Fault::HugeBody { bytes: 8_000_000 },
    ] {
        bank.inject(Injection::queries(fault.clone(), 1));
        assert_eq!(provider.query(&call, i64::MAX).await, Found::Unknown, "{fault:?}");
    }
    assert_eq!(provider.query(&call, i64::MAX).await, Found::Absent { final_: true });
}
