#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
use action::*;
use countersign_ledger::*;
use mandate::Limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
fn threads() -> String {
    let mut out = String::new();
    for t in std::fs::read_dir("/proc/self/task").unwrap() {
        let p = t.unwrap().path();
        let stat = std::fs::read_to_string(p.join("stat")).unwrap();
        let name = stat.split('(').nth(1).unwrap().split(')').next().unwrap().to_owned();
        let f: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        out += &format!(" {name}:{}+{}", f[11], f[12]);
    }
    out
}
fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    s.lines().find(|l| l.starts_with("VmRSS")).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let clients: usize = args[1].parse().unwrap();
    let total: u64 = args[2].parse().unwrap();
    let mandates: u64 = args[3].parse().unwrap();
    let dir = std::path::PathBuf::from(&args[4]);
    std::fs::create_dir_all(&dir).unwrap();
    let t0 = Instant::now();
    let ledger: Arc<dyn Ledger> = Arc::new(
        Sqlite::open(
            &dir.join("l.db"),
            Options::new("0197f0c0-0000-7000-8000-000000000000", 1_777_000_000_000),
        )
        .unwrap(),
    );
    println!("open {:?}", t0.elapsed());
    let next = Arc::new(AtomicU64::new(std::process::id() as u64 * 100_000_000));
    let first = next.load(Ordering::Relaxed);
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
    let start = Instant::now();
    let c0 = cpu();
    let facts_ns = Arc::new(AtomicU64::new(0));
    rt.block_on(async {
        let mut set = Vec::new();
        for _ in 0..clients {
            let (ledger, next, facts_ns) = (ledger.clone(), next.clone(), facts_ns.clone());
            set.push(tokio::spawn(async move {
                let tenant = Tenant::default();
                let subject = Subject::parse("agent-1").unwrap();
                let archetype: Arc<str> = "PAYMENT_TRANSFER".into();
                let provider: Arc<str> = "bank".into();
                let usd = Currency::of("USD").unwrap();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= first + total {
                        break;
                    }
                    let now = 1_777_000_000_000 + (n / 8) as i64;
                    let mut rnd = [0; 10];
                    let x = n.wrapping_mul(0x9e3779b97f4a7c15);
                    rnd[..8].copy_from_slice(&x.to_be_bytes());
                    rnd[8] = n as u8;
                    let id = ActionId::new(now as u64, rnd);
                    let key = format!("key-{:016x}-{n}", x);
                    let principal: Arc<str> = format!("principal-{}", n % mandates).into();
                    let jti: Arc<str> = format!("0197f0c0-0000-7000-8000-{:012}", n % mandates).into();
                    let mut eh = [0; 32];
                    eh[..8]
                        .copy_from_slice(&x.wrapping_mul(0xd1342543de82ef95).rotate_left(23).to_be_bytes());
                    let effect = Effect { hash: eh, window_ms: 600_000, tolerate: false };
                    let f0 = Instant::now();
                    let dest = format!("acct-{}", n % 500);
                    let facts = ledger
                        .facts(FactsQuery {
                            tenant: &tenant,
                            environment: Environment::Production,
                            subject: &subject,
                            key: Some(&key),
                            request_hash: &[1; 32],
                            archetype: &archetype,
                            provider: Some("bank"),
                            principal: &principal,
                            currency: Some("USD"),
                            destination: Some(&dest),
                            mandates: std::slice::from_ref(&jti),
                            effect: Some(&effect),
                            now_ms: now,
                        })
                        .await
                        .unwrap();
                    facts_ns.fetch_add(f0.elapsed().as_nanos() as u64, Ordering::Relaxed);
                    assert!(facts.existing.is_none());
                    let draft = |event| Draft {
                        tenant_ref: Some("t-0123456789".into()),
                        attempt: Some(1),
                        event,
                        state: Some("EXECUTING"),
                        action_hash: Some([7; 32]),
                        session: None,
                        kernel_signature: None,
                    };
                    let a = Admission {
                        intent: Intent {
                            id,
                            tenant: tenant.clone(),
                            environment: Environment::Production,
                            subject: subject.clone(),
                            key: Some(key.into()),
                            request_hash: [1; 32],
                            archetype: archetype.clone(),
                            provider: Some(provider.clone()),
                            principal,
                            at_ms: now,
                            amount: Money::new(5, usd),
                            payload: vec![b'x'; 1200],
                            entry: draft("admitted"),
                        },
                        hold_until_ms: None,
                        debits: vec![Debit {
                            jti,
                            epoch: 0,
                            limits: Limits { spend_cap: Money::new(1 << 40, usd), max_actions: None },
                        }],
                        effect: Some(effect),
                        destination: Some(dest.into()),
                    };
                    match ledger.admit(a).await.unwrap() {
                        Admitted::New { .. } => {}
                        o => {
                            println!("{o:?}");
                            std::process::exit(1)
                        }
                    }
                    let s = Settlement {
                        action: id,
                        outcome: Outcome {
                            at_ms: now,
                            state: State::Executed,
                            reply: Some(Reply { status: 200, body: vec![b'y'; 1500] }),
                            receipt: Some(Receipt {
                                id: format!("{id}").into(),
                                short: format!("{:012x}", x >> 16).into(),
                                signature: format!("{x:016x}{x:016x}{x:016x}{x:016x}{n:016x}123456").into(),
                                document: vec![b'z'; 4200],
                            }),
                            payload: vec![b'p'; 300],
                            entry: draft("settled"),
                        },
                        charged: None,
                        freeze_mandates: false,
                    };
                    ledger.settle(s).await.unwrap();
                }
            }));
        }
        let report = tokio::spawn({
            let next = next.clone();
            let ledger = ledger.clone();
            async move {
                let mut last = first;
                loop {
                    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                    let n = next.load(Ordering::Relaxed);
                    let f = ledger.figures();
                    println!(
                        "{} {}/s rss {} MB log {} MB commits {} avg batch {:.1}",
                        n - first,
                        (n - last) / 2,
                        rss() / 1024,
                        f.log_bytes >> 20,
                        f.commits,
                        f.writes as f64 / f.commits as f64
                    );
                    last = n;
                }
            }
        });
        for t in set {
            t.await.unwrap();
        }
        report.abort();
    });
    let secs = start.elapsed().as_secs_f64();
    let f = ledger.figures();
    println!(
        "{clients} clients {mandates} mandates: {:.0} pairs/s, cpu {:.1} us/pair, facts {:.1} us, batch {:.1}, commit {:.0} us, rss {} MB{}",
        total as f64 / secs,
        (cpu() - c0) * 1e6 / total as f64,
        facts_ns.load(Ordering::Relaxed) as f64 / total as f64 / 1e3,
        f.writes as f64 / f.commits as f64,
        f.commit_us as f64 / f.commits as f64,
        rss() / 1024,
        threads()
    );
    let t0 = Instant::now();
    drop(ledger);
    println!(
        "close {:?}; {} MB on disk",
        t0.elapsed(),
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>() >> 20
    );
}
