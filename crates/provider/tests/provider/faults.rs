//! Whatever goes wrong after a byte may have left is doubt; whatever goes wrong before is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use execution::Reply;
use serde_json::json;

use crate::common::{
    Act, NOW_MS, Pair, Seen, answer, archetype, binding, call, no_secrets, open_to, to, with_headers,
};
use provider::Outside;

fn lost(reply: &Reply) -> &str {
    match reply {
        Reply::Lost { why, .. } => why,
        other => panic!("not lost: {other:?}"),
    }
}

fn not_sent(reply: &Reply) -> &str {
    match reply {
        Reply::NotSent { why } => why,
        other => panic!("not unsent: {other:?}"),
    }
}

#[tokio::test]
async fn a_connection_that_ends_after_the_request_is_doubt() {
    let whole = answer(201, r#"{"id":"p1"}"#);
    let head = whole[..30].to_vec();
    let half = whole[..whole.len() - 4].to_vec();
    let acts = [
        Act::SayAndClose(Vec::new()),
        Act::SayAndReset(Vec::new()),
        Act::SayAndClose(head.clone()),
        Act::SayAndReset(head),
        Act::SayAndClose(half.clone()),
        Act::SayAndReset(half),
        Act::SayAndClose(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ];
    for act in acts {
        let pair = Pair::answering(act.clone()).await;
        let reply = pair.call(to("acct-1")).await;
        lost(&reply);
        assert_eq!(pair.server.seen().len(), 1, "{act:?}: never sent a second time by itself");
    }
}

#[tokio::test]
async fn a_refusal_stands_even_if_its_body_breaks_off() {
    let whole = answer(402, r#"{"code":"insufficient_funds"}"#);
    let half = whole[..whole.len() - 4].to_vec();
    let pair = Pair::answering(Act::SayAndReset(half)).await;
    assert!(matches!(pair.call(to("acct-1")).await, Reply::Refused(_)));
}

#[tokio::test]
async fn silence_and_slowness_end_in_time() {
    let quick = |base: &str| binding(base).replace("timeout_ms = 2000", "timeout_ms = 300");
    let slow = Act::Drip(
        answer(201, &format!(r#"{{"id":"p1","pad":"{}"}}"#, "x".repeat(500))),
        Duration::from_millis(10),
    );
    for act in [Act::Hang, slow] {
        let told = act.clone();
        let pair = Pair::new(quick, move |_: &Seen| told.clone()).await;
        assert_eq!(pair.provider.patience(), Duration::from_millis(300));
        let started = Instant::now();
        lost(&pair.call(to("acct-1")).await);
        assert!(started.elapsed() < Duration::from_secs(2), "{act:?}");
    }
}

#[tokio::test]
async fn nothing_left_when_nobody_listens() {
    // Bound and dropped: the port is free and refuses.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let archetype = archetype(&binding(&format!("http://{address}")));
    let egress = open_to(&[address.to_string()]);
    let provider =
        provider::compile(&archetype, Outside { egress: &egress, secrets: &no_secrets() }).unwrap();
    let reply = provider.call(&call(&archetype, to("acct-1")), NOW_MS).await;
    assert_eq!(not_sent(&reply), "the connection was refused");
}

#[tokio::test]
async fn nothing_left_when_the_name_is_unknown() {
    let archetype = archetype(&binding("https://no-such-host.invalid"));
    let egress = open_to(&[]);
    let provider =
        provider::compile(&archetype, Outside { egress: &egress, secrets: &no_secrets() }).unwrap();
    let reply = provider.call(&call(&archetype, to("acct-1")), NOW_MS).await;
    assert_eq!(not_sent(&reply), "the name could not be resolved");
}

#[tokio::test]
async fn nothing_left_when_the_handshake_fails() {
    let pair = Pair::new(|base| binding(&base.replace("http:", "https:")), |_: &Seen| Act::Hang).await;
    let reply = tokio::time::timeout(Duration::from_secs(10), pair.call(to("acct-1"))).await;
    // The server takes the greeting for the head of a request and never says anything.
    assert!(not_sent(&reply.unwrap()).starts_with("no connection came about"), "no handshake, no request");
    assert!(pair.server.seen().is_empty());
}

#[tokio::test]
async fn a_body_has_a_bound_that_compression_does_not_move() {
    let padded = |length: usize| format!(r#"{{"id":"p1","pad":"{}"}}"#, "x".repeat(length));
    let chunked = |body: &str| {
        let head = "HTTP/1.1 201 Said\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
    };
    for bytes in [answer(201, &padded(5000)), chunked(&padded(5000))] {
        let pair = Pair::answering(Act::Say(bytes)).await;
        assert_eq!(lost(&pair.call(to("acct-1")).await), "the body of the answer is larger than allowed");
    }
    for bytes in [answer(201, &padded(3000)), chunked(&padded(3000))] {
        let pair = Pair::answering(Act::Say(bytes)).await;
        assert!(matches!(pair.call(to("acct-1")).await, Reply::Confirmed(_)), "within the bound");
    }
    let bomb = gzip_of_zeros(64 * 1024 * 1024);
    assert!(bomb.len() < 512 * 1024);
    let pair = Pair::answering(Act::Say(with_headers(201, "Content-Encoding: gzip\r\n", &bomb))).await;
    let started = Instant::now();
    assert_eq!(lost(&pair.call(to("acct-1")).await), "the body of the answer is larger than allowed");
    assert!(started.elapsed() < Duration::from_secs(2), "stopped at the bound, not at the end");
}

#[tokio::test]
async fn a_body_that_is_not_what_its_encoding_says_is_doubt() {
    let bytes = with_headers(201, "Content-Encoding: gzip\r\n", br#"{"id":"p1"}"#);
    let pair = Pair::answering(Act::Say(bytes)).await;
    lost(&pair.call(to("acct-1")).await);
}

#[tokio::test]
async fn nesting_without_end_is_doubt_and_no_crash() {
    let deep = format!(r#"{{"id":"p1","x":{}}}"#, "[".repeat(2000) + &"]".repeat(2000));
    let pair = Pair::new(
        |base| binding(base).replace("4096", "65536"),
        move |_: &Seen| Act::Say(answer(201, &deep)),
    )
    .await;
    lost(&pair.call(to("acct-1")).await);
}

#[tokio::test]
async fn an_answer_that_comes_twice_is_not_taken_for_the_next_ones() {
    let asked = Arc::new(AtomicUsize::new(0));
    let pair = Pair::new(binding, move |_: &Seen| {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        Act::SayTwice(answer(201, &format!(r#"{{"id":"p{number}"}}"#)))
    })
    .await;
    for number in 0..20 {
        let reply = pair.call(to("acct-1")).await;
        let Reply::Confirmed(confirmation) = &reply else { panic!("{reply:?}") };
        assert_eq!(confirmation.answer["id"], format!("p{number}"));
    }
    assert_eq!((pair.server.seen().len(), pair.server.connections()), (20, 20));
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_idle_is_not_used() {
    let pair = Pair::answering(Act::SayAndClose(answer(201, r#"{"id":"p1"}"#))).await;
    for _ in 0..5 {
        assert!(matches!(pair.call(to("acct-1")).await, Reply::Confirmed(_)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((pair.server.seen().len(), pair.server.connections()), (5, 5));
}

#[tokio::test]
async fn a_value_that_cannot_be_placed_keeps_the_request_here() {
    let act = r#"path = ["accounts", { "$value" = "/recipient" }]"#;
    let bind = |base: &str| binding(base).replacen(r#"path = "/payments""#, act, 1);
    let pair = Pair::new(bind, |_: &Seen| Act::Hang).await;
    let reply = pair.call(json!({ "amount": "1.00" })).await;
    assert_eq!(not_sent(&reply), "the binding needs `/recipient`, which the action does not have");
    assert!(pair.server.seen().is_empty());
}

/// A gzip member whose body is one deflate block in the fixed code: a zero, then copies of it, 258 at a time.
fn gzip_of_zeros(length: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.low_first(0b1, 1); // the last block
    bits.low_first(0b01, 2); // in the fixed code
    bits.high_first(0b0011_0000, 8); // literal 0
    for _ in 0..length / 258 {
        bits.high_first(0b1100_0101, 8); // length 258
        bits.high_first(0b00000, 5); // distance 1
    }
    bits.high_first(0, 7); // the end
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    gzip.extend(bits.bytes);
    gzip.extend([0; 8]);
    gzip
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn low_first(&mut self, value: u32, count: u32) {
        (0..count).for_each(|bit| self.push(value >> bit & 1));
    }

    fn high_first(&mut self, value: u32, count: u32) {
        (0..count).rev().for_each(|bit| self.push(value >> bit & 1));
    }

    fn push(&mut self, bit: u32) {
        if self.used.is_multiple_of(8) {
            self.bytes.push(0);
        }
        *self.bytes.last_mut().unwrap() |= u8::try_from(bit).unwrap() << (self.used % 8);
        self.used += 1;
    }
}
