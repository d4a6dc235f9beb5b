//! The error catalogue and what is made from it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use countersign_server::{ROUTES, errors, openapi};
use gateway::Code;

#[test]
fn every_text_fits_its_place() {
    for entry in errors::all() {
        let code = entry.code;
        assert!((1..=80).contains(&entry.message.len()), "{code}: message of {} bytes", entry.message.len());
        assert!(!entry.message.contains(['`', '"', '\'']), "{code}: quotes mark what is not ours");
        assert!(entry.message.is_ascii() && !entry.message.ends_with('.'), "{code}: {}", entry.message);
        assert!(!entry.remediation.is_empty(), "{code}: what is one to do?");
        assert!((400..600).contains(&entry.status), "{code}");
    }
}

/// One-action.md, Errors, and its table of states.
#[test]
fn statuses_are_those_agreed() {
    let of = |status: u16| -> Vec<&str> {
        errors::all().filter(|entry| entry.status == status).map(|entry| entry.code.as_str()).collect()
    };
    assert_eq!(of(400), ["EP_MALFORMED_BODY", "EP_VERSION_UNSUPPORTED", "EP_IDEMPOTENCY_REQUIRED"]);
    assert_eq!(of(401), ["EP_UNAUTHENTICATED"]);
    assert_eq!(
        of(403),
        [
            "EP_FORBIDDEN",
            "EP_INSUFFICIENT_SCOPE",
            "EP_BOUNDARY_BLOCK",
            "EP_DELEGATION_BLOCK",
            "EP_INCOMPLETE",
            "EP_ANOMALY_BLOCK",
            "EP_PROBABLE_DUPLICATE",
            "EP_BUDGET_EXHAUSTED",
            "EP_SESSION_REVOKED",
            "EP_APPROVAL_DENIED",
            "EP_APPROVAL_EXPIRED",
            "EP_FROZEN",
        ]
    );
    assert_eq!(of(404), ["EP_NOT_FOUND"]);
    assert_eq!(of(405), ["EP_METHOD_NOT_ALLOWED"]);
    assert_eq!(
        of(409),
        [
            "EP_IDEMPOTENCY_IN_FLIGHT",
            "EP_STATE_CONFLICT",
            "EP_CANCELLED",
            "EP_RELEASED",
            "IDP-E005",
            "IDP-E006",
            "IDP-E010",
        ]
    );
    assert_eq!(of(410), ["EP_ERASED"]);
    assert_eq!(of(413), ["EP_BODY_TOO_LARGE"]);
    assert_eq!(of(415), ["EP_UNSUPPORTED_MEDIA_TYPE"]);
    assert_eq!(of(421), ["EP_MISDIRECTED_REQUEST"]);
    assert_eq!(
        of(422),
        [
            "EP_VALIDATION_FAILED",
            "EP_UNKNOWN_ARCHETYPE",
            "EP_IDEMPOTENCY_MISMATCH",
            "EP_CARD_DATA_REFUSED",
            "ATP_KEY_REQUIRED",
            "ATP_ROLLBACK_REQUIRED",
            "ATP_PROVIDER_CANNOT",
            "MANDATE_NARROWING_VIOLATION",
            "IDP-E001",
            "IDP-E002",
            "IDP-E003",
            "IDP-E004",
            "IDP-E007",
            "IDP-E008",
            "IDP-E009",
        ]
    );
    assert_eq!(of(429), ["EP_RATE_LIMITED"]);
    assert_eq!(of(502), ["EP_PROVIDER_FAILED"]);
    assert_eq!(of(503), ["EP_UNAVAILABLE"]);
    assert_eq!(of(504), ["EP_DEADLINE_EXCEEDED"]);
}

/// Run with `UPDATE=1` to write the page anew.
#[test]
fn the_page_in_the_repository_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let page = errors::markdown();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == page, "docs/errors.md is not what the catalogue says; run this test with UPDATE=1");
}

#[test]
fn every_code_stands_at_a_route_that_can_answer_it() {
    let listed: BTreeSet<Code> = ROUTES.iter().flat_map(openapi::codes).collect();
    // Not an answer of any one route: it says that there is none for this method.
    let expected: BTreeSet<Code> =
        Code::ALL.into_iter().filter(|code| *code != Code::MethodNotAllowed).collect();
    assert_eq!(listed, expected);
}

/// Codes for which no request is known yet that provokes them. The list only shrinks: lower the bound with it.
#[test]
fn the_list_of_unreachable_codes_only_shrinks() {
    const BOUND: usize = 7;
    let list = include_str!("unreachable_codes.txt");
    let codes: Vec<&str> = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for code in &codes {
        assert!(Code::parse(code).is_some(), "`{code}` is not a code");
    }
    assert!(codes.is_sorted() && codes.windows(2).all(|pair| pair[0] != pair[1]), "sorted, each once");
    assert!(codes.len() <= BOUND, "{} codes cannot be reached; there were {BOUND}", codes.len());
}
