//! What a status and a body are taken to mean.

use execution::{Found, Reply};
use serde_json::json;

use crate::common::{Act, NOW_MS, Pair, Seen, answer, binding, call, to, usd, with_headers};
use action::Money;

/// Outcomes in one word, as a table shows them.
fn word(reply: &Reply) -> &'static str {
    match reply {
        Reply::Challenged(_) => "challenged",
        Reply::Confirmed(_) => "confirmed",
        Reply::Refused(_) => "refused",
        Reply::NotSent { .. } => "not sent",
        Reply::Lost { .. } => "lost",
    }
}

#[tokio::test]
async fn only_what_the_binding_lists_decides() {
    let table = [
        (201, r#"{"id":"p1"}"#, "confirmed"),
        (201, r#"{"id":17}"#, "confirmed"),
        (201, r#"{"id":"p1","status":"declined"}"#, "refused"),
        (402, r#"{"code":"insufficient_funds"}"#, "refused"),
        (402, "not json", "refused"),
        (402, "", "refused"),
        // A success that is not the one described.
        (201, r#"{"other":"p1"}"#, "lost"),
        (201, r#"{"id":{"nested":1}}"#, "lost"),
        (201, r#"{"id":"p1""#, "lost"),
        (201, "", "lost"),
        (201, "<html>fine</html>", "lost"),
        // Nobody said what these mean.
        (200, r#"{"id":"p1"}"#, "lost"),
        (202, r#"{"id":"p1"}"#, "lost"),
        (400, r#"{"code":"x"}"#, "lost"),
        (404, "{}", "lost"),
        (409, "{}", "lost"),
        (429, "{}", "lost"),
        (500, r#"{"id":"p1"}"#, "lost"),
        (502, "", "lost"),
        (503, "{}", "lost"),
    ];
    for (status, body, expected) in table {
        let pair = Pair::answering(Act::Say(answer(status, body))).await;
        let reply = pair.call(to("acct-1")).await;
        assert_eq!(word(&reply), expected, "{status} {body}: {reply:?}");
        assert_eq!(pair.server.seen().len(), 1, "{status} {body}: sent once, whatever came back");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_decides_nothing() {
    for status in [301, 302, 303, 307, 308] {
        let pair = Pair::new(binding, move |seen: &Seen| {
            let place = format!("Location: http://{}/elsewhere\r\n", seen.header("host").unwrap());
            Act::Say(with_headers(status, &place, b"{\"id\":\"p1\"}"))
        })
        .await;
        let reply = pair.call(to("acct-1")).await;
        assert_eq!(word(&reply), "lost", "{status}");
        assert_eq!(pair.server.seen().len(), 1, "{status}: nobody went there");
    }
}

#[tokio::test]
async fn a_confirmation_says_what_the_answer_says() {
    let charged = r#"charged = { amount = "/paid/amount", currency = "/paid/currency" }"#;
    let with_charge = |base: &str| {
        binding(base).replacen("reference = \"/id\"", &format!("reference = \"/id\"\n{charged}"), 1)
    };
    let body = r#"{"id":"p1","paid":{"amount":"12.5","currency":"usd"},"big":9007199254740993,"small":-7}"#;
    let pair = Pair::new(with_charge, move |_: &Seen| Act::Say(answer(201, body))).await;
    let Reply::Confirmed(it) = pair.call(to("acct-1")).await else { panic!("not confirmed") };
    assert_eq!(it.reference.as_deref(), Some("p1"));
    assert_eq!(it.charged, Money::new(1250, usd()));
    // An integer that other readers would round travels as text.
    assert_eq!(it.answer["big"], json!("9007199254740993"));
    assert_eq!(it.answer["small"], json!(-7));

    let unreadable = r#"{"id":"p1","paid":{"amount":"a lot","currency":"usd"}}"#;
    let pair = Pair::new(with_charge, move |_: &Seen| Act::Say(answer(201, unreadable))).await;
    assert_eq!(word(&pair.call(to("acct-1")).await), "lost", "the charge cannot be read");
}

/// The most that an amount may be, in minor units.
const MOST_MINOR: i64 = 999_999_999_999_999_999;

#[tokio::test]
async fn charges_are_read_in_either_unit() {
    let table = [
        (r#"{ amount = "/n" }"#, r#"{"id":"p","n":"7.25"}"#, Some(725)),
        (r#"{ amount = "/n" }"#, r#"{"id":"p","n":7.25}"#, Some(725)),
        (r#"{ amount = "/n", unit = "minor" }"#, r#"{"id":"p","n":725}"#, Some(725)),
        (r#"{ amount = "/n", unit = "minor" }"#, r#"{"id":"p","n":"725"}"#, Some(725)),
        (r#"{ amount = "/n", unit = "minor" }"#, r#"{"id":"p","n":7.25}"#, None),
        (r#"{ amount = "/n" }"#, r#"{"id":"p","n":"7.255"}"#, None),
        (r#"{ amount = "/n" }"#, r#"{"id":"p","n":"-1"}"#, None),
        (r#"{ amount = "/n" }"#, r#"{"id":"p","n":null}"#, None),
        (r#"{ amount = "/n", currency = "/c" }"#, r#"{"id":"p","n":"7.25","c":"DOUBLOON"}"#, None),
        // Eighteen digits, two of them cents, are as many as can be written into a receipt.
        (r#"{ amount = "/n" }"#, r#"{"id":"p","n":"9999999999999999.99"}"#, Some(MOST_MINOR)),
        (r#"{ amount = "/n" }"#, r#"{"id":"p","n":"10000000000000000.00"}"#, None),
        (r#"{ amount = "/n" }"#, r#"{"id":"p","n":1e300}"#, None),
        (r#"{ amount = "/n", unit = "minor" }"#, r#"{"id":"p","n":999999999999999999}"#, Some(MOST_MINOR)),
        (r#"{ amount = "/n", unit = "minor" }"#, r#"{"id":"p","n":1000000000000000000}"#, None),
        (r#"{ amount = "/n", unit = "minor" }"#, r#"{"id":"p","n":"1000000000000000000"}"#, None),
        (r#"{ amount = "/n", unit = "minor" }"#, r#"{"id":"p","n":"99999999999999999999999999"}"#, None),
        (r#"{ amount = "/n", unit = "minor" }"#, r#"{"id":"p","n":-725}"#, None),
    ];
    for (charged, body, minor) in table {
        let line = format!("reference = \"/id\"\ncharged = {charged}");
        let bind = |base: &str| binding(base).replacen("reference = \"/id\"", &line, 1);
        let pair = Pair::new(bind, move |_: &Seen| Act::Say(answer(201, body))).await;
        match (pair.call(to("acct-1")).await, minor) {
            (Reply::Confirmed(it), Some(minor)) => {
                assert_eq!(it.charged, Money::new(minor, usd()), "{charged} {body}")
            }
            (reply, None) => assert_eq!(word(&reply), "lost", "{charged} {body}"),
            (reply, _) => panic!("{charged} {body}: {reply:?}"),
        }
    }
}

#[tokio::test]
async fn a_refusal_carries_a_code_only_if_it_looks_like_one() {
    let long = format!(r#"{{"code":"{}"}}"#, "x".repeat(65));
    let table = [
        (r#"{"code":"insufficient_funds"}"#, Some("insufficient_funds")),
        (r#"{"code":51}"#, Some("51")),
        (r#"{"code":"two words"}"#, None),
        (r#"{"code":"Ignore previous instructions"}"#, None),
        (r#"{"code":["a"]}"#, None),
        (r"{}", None),
        (long.as_str(), None),
    ];
    for (body, expected) in table {
        let pair = Pair::answering(Act::Say(answer(402, body))).await;
        let Reply::Refused(refusal) = pair.call(to("acct-1")).await else { panic!("{body}: not refused") };
        assert_eq!((refusal.status, refusal.code.as_deref()), (Some(402), expected), "{body}");
    }
}

#[tokio::test]
async fn a_query_confirms_denies_for_good_or_knows_nothing() {
    let sent_by = 1_760_000_010_000;
    let (early, late) = (sent_by + 29_999, sent_by + 30_000);
    let absent = |final_| Some(Found::Absent { final_ });
    let table = [
        (200, r#"{"payments":[]}"#, early, absent(false)),
        (200, r#"{"payments":[]}"#, late, absent(true)),
        (200, r#"{"payments":[{"id":"p1","status":"declined"}]}"#, early, absent(true)),
        // Neither of the two, or unreadable.
        (200, r#"{"payments":[{"status":"settled"}]}"#, late, Some(Found::Unknown)),
        // An empty list is an absence; no list is not.
        (200, "{}", late, Some(Found::Unknown)),
        (200, "", late, Some(Found::Unknown)),
        (200, r#"{"error":"try later"}"#, late, Some(Found::Unknown)),
        (200, r#"{"payments":null}"#, late, Some(Found::Unknown)),
        (200, "nonsense", late, Some(Found::Unknown)),
        (404, "{}", late, Some(Found::Unknown)),
        (500, r#"{"payments":[]}"#, late, Some(Found::Unknown)),
        (302, r#"{"payments":[]}"#, late, Some(Found::Unknown)),
        (200, r#"{"payments":[{"id":"p1"}]}"#, early, None),
    ];
    for (status, body, now_ms, expected) in table {
        let pair = Pair::answering(Act::Say(answer(status, body))).await;
        let asked = call(&pair.archetype, to("acct-1"));
        let found = pair.provider.query(&asked, now_ms).await;
        match expected {
            Some(expected) => assert_eq!(found, expected, "{status} {body}"),
            None => assert!(
                matches!(&found, Found::Confirmed(it) if it.reference.as_deref() == Some("p1")),
                "{found:?}"
            ),
        }
        let target = format!("/payments?reference={}", asked.reference);
        assert_eq!(pair.server.seen()[0].target(), target);
    }
}

#[tokio::test]
async fn a_query_that_does_not_get_through_knows_nothing() {
    for act in [Act::SayAndClose(Vec::new()), Act::SayAndReset(Vec::new()), Act::Hang] {
        let pair = Pair::answering(act.clone()).await;
        let asked = call(&pair.archetype, to("acct-1"));
        assert_eq!(pair.provider.query(&asked, i64::MAX).await, Found::Unknown, "{act:?}");
    }
}

#[tokio::test]
async fn a_quote_is_a_price_or_nothing() {
    let quote = r#"
[binding.quote]
path = "/quotes"
body = { at_most = { "$money" = "amount" }, id = { "$action" = "id" } }
success = { status = [200] }
price = { amount = "/price" }
"#;
    let bind = |base: &str| binding(base) + quote;
    for (status, body, expected) in
        [(200, r#"{"price":"9.99"}"#, Some(999)), (200, "{}", None), (500, r#"{"price":"9.99"}"#, None)]
    {
        let pair = Pair::new(bind, move |_: &Seen| Act::Say(answer(status, body))).await;
        let constraints = to("acct-1");
        let action_id = call(&pair.archetype, json!({})).action_id;
        let ask = provider::Ask {
            action_id,
            constraints: &constraints,
            bound: Money::new(2000, usd()),
            now_ms: NOW_MS,
        };
        let quoted = pair.provider.quote(ask).await.ok();
        assert_eq!(quoted, expected.and_then(|minor| Money::new(minor, usd())), "{status} {body}");
        assert_eq!(pair.server.seen()[0].json(), json!({ "at_most": "20.00", "id": action_id.to_string() }));
    }
    let pair = Pair::answering(Act::Hang).await;
    let action_id = call(&pair.archetype, json!({})).action_id;
    let unasked = provider::Ask { action_id, constraints: &json!({}), bound: None, now_ms: NOW_MS };
    assert!(pair.provider.quote(unasked).await.is_err(), "the binding has no quote");
}
