//! When an outcome was delivered: once all of the answer that holds it was handed to the connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use gateway::Delivery;
use hyper::body::Body;

use super::lock;

/// What is delivered with the answer to one request.
#[derive(Default)]
pub(super) struct Slot(Mutex<Vec<Owed>>);

/// An outcome that is on its way, and by what its answer is known: the id of its action stands in it, and in no other.
pub(super) struct Owed {
    pub(super) id: String,
    pub(super) delivery: Delivery,
    pub(super) seen: bool,
}

impl Owed {
    pub(super) fn new(id: String, delivery: Delivery) -> Owed {
        Owed { id, delivery, seen: false }
    }
}

impl Slot {
    pub(super) fn owe(&self, owed: Owed) {
        lock(&self.0).push(owed);
    }

    /// These bytes are next on their way.
    pub(super) fn see(&self, bytes: &[u8]) {
        for owed in lock(&self.0).iter_mut() {
            owed.seen = owed.seen || holds(bytes, owed.id.as_bytes());
        }
    }

    /// All that was seen is where it should be. What was not seen was not delivered: its request was given up.
    pub(super) fn arrived(&self) {
        let (seen, left) = std::mem::take(&mut *lock(&self.0)).into_iter().partition(|owed| owed.seen);
        *lock(&self.0) = left;
        let seen: Vec<Owed> = seen;
        seen.into_iter().for_each(|owed| owed.delivery.done());
    }
}

fn holds(bytes: &[u8], id: &[u8]) -> bool {
    !id.is_empty() && bytes.windows(id.len()).any(|part| part == id)
}

/// The body of an answer, watched to its end.
pub(super) struct Watched<B> {
    body: B,
    slot: Arc<Slot>,
}

impl<B> Watched<B> {
    pub(super) fn new(body: B, slot: Arc<Slot>) -> Watched<B> {
        Watched { body, slot }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Stream for Watched<B> {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                self.slot.arrived();
                return Poll::Ready(None);
            };
            let Ok(frame) = frame else {
                return Poll::Ready(Some(Err(std::io::Error::other("an answer broke off"))));
            };
            if let Ok(bytes) = frame.into_data() {
                self.slot.see(&bytes);
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_wherever_it_stands() {
        assert!(holds(b"abc", b"abc") && holds(b"xabc", b"abc") && holds(b"abcx", b"abc"));
        assert!(!holds(b"ab", b"abc") && !holds(b"", b"abc") && !holds(b"abc", b""));
    }
}
