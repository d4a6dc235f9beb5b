//! Declarations: whether a cycle may stand on one, and the code of what is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use action::{Catalogue, Subject};
use countersign_mandate::{
    Confidence, Declaration, Halt, IntentRefusal as R, ReasoningMode, Session, SessionEvent,
};

const ISSUER: &str = "https://gw.example";

fn session() -> Session {
    let session = Session::open("s-1", Subject::parse("agent-7").unwrap(), "m-1", 0);
    session.step(SessionEvent::Declared { sequence: 3 }).unwrap()
}

fn declaration() -> Declaration {
    Declaration {
        intent_id: "i-1".into(),
        session_id: "s-1".into(),
        mandate_id: "m-1".into(),
        gec_instance_id: ISSUER.into(),
        goal_type: "reconcile".into(),
        goal_scope: vec!["PAYMENT_TRANSFER".into(), "Data".into()],
        mode: ReasoningMode::Chain,
        constrained_by: None,
        sequence: 3,
        expires_ms: 1_000,
        context_fingerprint: None,
        subject: Subject::parse("agent-7").unwrap(),
    }
}

#[test]
fn a_declaration_bears_any_later_cycle_of_its_session_until_it_expires() {
    for (sequence, now_ms) in [(4, 0), (5, 999), (u64::MAX, 0)] {
        assert_eq!(declaration().bears(&session(), ISSUER, sequence, now_ms), Ok(()));
    }
}

/// Everything that can be wrong is, and is put right one by one, from the first that is told to the last.
#[test]
fn the_first_that_is_wrong_is_told() {
    let mut it = Declaration {
        session_id: "s-2".into(),
        mandate_id: "m-2".into(),
        gec_instance_id: "https://other.example".into(),
        ..declaration()
    };
    let mut session = session().step(SessionEvent::Revoked { halt: Halt::Clean, by_person: true }).unwrap();
    let (mut sequence, mut now_ms) = (3, 1_000);
    let told = |it: &Declaration, session: &Session, sequence, now_ms| {
        it.bears(session, ISSUER, sequence, now_ms).unwrap_err()
    };
    assert_eq!(told(&it, &session, sequence, now_ms), R::SessionMismatch);
    it.session_id = "s-1".into();
    assert_eq!(told(&it, &session, sequence, now_ms), R::MandateMismatch);
    it.mandate_id = "m-1".into();
    assert_eq!(told(&it, &session, sequence, now_ms), R::WrongInstance);
    it.gec_instance_id = ISSUER.into();
    assert_eq!(told(&it, &session, sequence, now_ms), R::SessionRevoked);
    session = self::session();
    assert_eq!(told(&it, &session, sequence, now_ms), R::Expired);
    now_ms = 999;
    assert_eq!(told(&it, &session, sequence, now_ms), R::SequenceNotRising);
    sequence = 4;
    assert_eq!(it.bears(&session, ISSUER, sequence, now_ms), Ok(()));
}

#[test]
fn a_number_that_was_used_bears_nothing_more() {
    let used = session().step(SessionEvent::Admitted { sequence: 8 }).unwrap();
    assert_eq!(declaration().bears(&used, ISSUER, 8, 0), Err(R::SequenceNotRising));
    // Nor does one below the declaration's own.
    let late = Declaration { sequence: 20, ..declaration() };
    assert_eq!(late.bears(&used, ISSUER, 20, 0), Err(R::SequenceNotRising));
    assert_eq!(late.bears(&used, ISSUER, 21, 0), Ok(()));
}

#[test]
fn only_what_was_declared_is_named() {
    let catalogue = Catalogue::builtin();
    let names = |name: &str| declaration().names(catalogue.get(name).unwrap());
    assert!(names("PAYMENT_TRANSFER"), "by name");
    assert!(names("DATA_EXPORT"), "by group");
    assert!(!names("FLIGHT_BOOKING"));
}

#[test]
fn codes_are_the_published_ten() {
    let codes: Vec<&str> = R::ALL.into_iter().map(R::code).collect();
    let published: Vec<String> = (1..=10).map(|number| format!("IDP-E{number:03}")).collect();
    assert_eq!(codes, published);
}

#[test]
fn modes_read_back_and_no_other_word_does() {
    for mode in ReasoningMode::ALL {
        assert_eq!(ReasoningMode::parse(mode.as_str()), Some(mode));
    }
    assert_eq!(ReasoningMode::parse("direct"), None);
}

#[test]
fn a_declared_confidence_is_rounded_against_who_declares_it() {
    let of = |text: &str| Confidence::declared(&text.parse().unwrap()).map(Confidence::ten_thousandths);
    assert_eq!([of("0"), of("0.59999"), of("1")], [Some(0), Some(5_999), Some(10_000)]);
    assert_eq!([of("-0.1"), of("1.1")], [None, None]);
}
