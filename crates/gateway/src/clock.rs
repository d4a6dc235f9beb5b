//! Time and randomness: read here and handed on as values.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use action::ActionId;
use action::time::NotATime;
use receipt::Timestamp;

use crate::Error;
use crate::row::internal;

/// Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// An instant to come, in Unix milliseconds: the same one however often it is asked for.
pub(crate) fn ms_of(instant: Instant) -> i64 {
    static ANCHOR: LazyLock<(Instant, i64)> = LazyLock::new(|| (Instant::now(), now_ms()));
    let (anchor, anchor_ms) = *ANCHOR;
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2);
    match instant.checked_duration_since(anchor) {
        Some(after) => anchor_ms.saturating_add(millis(after)),
        None => anchor_ms.saturating_sub(millis(anchor.duration_since(instant))),
    }
}

/// A time as receipts write it.
pub(crate) fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_unix_millis(u64::try_from(ms).unwrap_or(0))
}

/// A time as views show it: RFC 3339.
pub(crate) fn text(ms: i64) -> String {
    timestamp(ms).as_str().to_owned()
}

/// The present, as receipts write it.
pub(crate) fn now() -> Timestamp {
    timestamp(now_ms())
}

/// Unix milliseconds of an RFC 3339 time.
pub(crate) fn parse_ms(text: &str) -> Result<i64, NotATime> {
    action::time::unix_millis(text)
}

/// Bytes from the system's source of randomness.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| internal("no randomness to be had"))?;
    Ok(bytes)
}

/// A new id that sorts by time.
pub(crate) fn new_id(at_ms: i64) -> Result<ActionId, Error> {
    Ok(ActionId::new(u64::try_from(at_ms).unwrap_or(0), random()?))
}
