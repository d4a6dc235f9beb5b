//! A disk that no longer takes what it is given: `strace` makes every sync, or every write, fail from some moment on.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use action::Tenant;
use ledger::{Filter, Ledger, State};
use receipt::Verdict;
use testkit::bank::reference_in;
use tokio::time::sleep;

use crate::house::{House, Plan, verdict};

/// Calls that still succeed in each thread; one more or less decides which of an action's two commits fails first.
const GOOD_CALLS: std::ops::Range<u32> = 40..48;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_disk_fails_nothing_is_acknowledged_and_nothing_is_forgotten() {
    if let Err(why) = strace_works() {
        testkit::skip(&why);
        return;
    }
    let mut seen = BTreeSet::new();
    for good in GOOD_CALLS {
        seen.insert(fails_after("fsync,fdatasync", "EIO", good).await);
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen.len(), 2, "only one of the two commits ever failed: {seen:?}");
    fails_after("pwrite64", "ENOSPC", 400).await;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FirstToFail {
    Admission,
    Settlement,
}

async fn fails_after(calls: &str, error: &str, good: u32) -> FirstToFail {
    let plan = Plan {
        config: "[limits]\nrecovery_interval_ms = 50\n[sandbox]\nenabled = false\n".into(),
        ..Plan::default()
    };
    let mut house = House::with(plan).await;
    house.gateway.stop();
    house.start_by(on_a_failing_disk(&house, calls, error, good));
    let agent = house.agent();
    assert_eq!(agent.get("/readyz").await.status, 200);

    let mut acknowledged = Vec::new();
    let refused = loop {
        let n = acknowledged.len();
        assert!(n < 100, "{calls} never failed");
        let said = agent.execute(&format!("k-{n}"), &house.payment(&format!("acct-{n}"), "1.00")).await;
        match said.status {
            200 => acknowledged.push(said),
            _ => break said,
        }
    };
    assert_eq!((refused.status, refused.code()), (503, "EP_UNAVAILABLE"), "{}", refused.text());
    assert!(refused.headers.contains_key("retry-after"));
    assert!(refused.body.get("receipt_id").is_none(), "no receipt: {}", refused.text());
    let effects = house.bank.effects().count;
    let first = match effects - acknowledged.len() as u64 {
        0 => FirstToFail::Admission,
        1 => FirstToFail::Settlement,
        more => panic!("{more} effects of which nobody was told"),
    };
    for n in 0..3 {
        assert_eq!(agent.get("/readyz").await.status, 503, "not ready");
        let more = agent.execute(&format!("late-{n}"), &house.payment(&format!("late-{n}"), "1.00")).await;
        assert_eq!(more.status, 503, "{}", more.text());
    }
    assert_eq!(house.bank.effects().count, effects, "nothing is sent whose intent is not durable");

    house.gateway.kill();
    house.start();
    let jwks = house.jwks().await;
    // The refused request, sent again under its key: it happened once, or it happens now.
    let last = format!("k-{}", acknowledged.len());
    let body = house.payment(&format!("acct-{}", acknowledged.len()), "1.00");
    let mut again = house.agent().insist(&last, &body).await;
    for _ in 0..100 {
        if again.status != 202 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
        again = house.agent().insist(&last, &body).await;
    }
    assert!(["executed", "failed"].contains(&again.kind()), "resolved: {}", again.text());
    house.gateway.stop();

    let store = house.store().await;
    store.verify().await.expect("no half entry: the chain holds");
    assert!(store.unsettled(None, 10).await.unwrap().rows.is_empty());
    let stored = store.actions(&Tenant::default(), Filter::default(), None, 500).await.unwrap().rows;
    let executed: Vec<_> = stored.iter().filter(|it| it.state == State::Executed).collect();
    let paid = house.bank.effects();
    assert_eq!(executed.len() as u64, paid.count);
    assert!(executed.iter().all(|it| paid.by_reference.get(&reference_in(&it.payload).unwrap()) == Some(&1)));
    for said in &acknowledged {
        let kept = stored.iter().find(|it| it.id.to_string() == said.id()).expect("acknowledged is stored");
        assert_eq!((kept.state, &kept.reply.as_ref().unwrap().body), (State::Executed, &said.bytes));
    }
    for it in &stored {
        for receipt in
            store.outcomes(&it.tenant, it.id).await.unwrap().into_iter().filter_map(|it| it.receipt)
        {
            assert_eq!(verdict(&receipt.document, &jwks), Verdict::Valid);
        }
    }
    first
}

/// The gateway, such calls failing after `good` of them in a thread. `-D` makes the gateway the child and strace the grandchild.
fn on_a_failing_disk(house: &House, calls: &str, error: &str, good: u32) -> Command {
    let serve = house.serve();
    let mut command = strace(calls);
    command.arg("-e").arg(format!("inject={calls}:error={error}:when={}+", good + 1));
    command.arg(serve.get_program()).args(serve.get_args());
    command
        .env_clear()
        .envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", path());
    command.process_group(0);
    command
}

fn strace(calls: &str) -> Command {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    command
}

fn strace_works() -> Result<(), String> {
    let tried = strace("fsync").arg("true").stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("strace may not trace here: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("strace is not installed ({error})")),
    }
}

fn path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}
