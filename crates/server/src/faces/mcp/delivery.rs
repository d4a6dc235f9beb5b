//! When an outcome was delivered: once all of the answer that holds it was handed to the connection of somebody who was there.
//!
//! In a session of 2025-11-25 a stream may go on where another one broke off (`Last-Event-ID`). What the broken one had still to
//! bring is left to the session then, and delivered by whichever stream brings it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use gateway::Delivery;
use hyper::body::Body;
use rmcp::model::RequestId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::lock;
use super::verbatim::unpacked;
use crate::socket::Peer;

/// What is delivered with the answer to one request.
#[derive(Default)]
pub(super) struct Slot {
    way: Mutex<Way>,
    /// Of a session: what its broken streams had still to bring, and whether this one may be the one that brings it.
    session: Option<(Arc<Left>, bool)>,
    /// Who is at the other end of the connection; over pipes nobody knows.
    peer: Option<Peer>,
    /// Of a request in a session, until it is answered.
    open: Mutex<Option<Open>>,
}

/// The requests of a session that have no answer yet.
#[derive(Default)]
pub(super) struct Asked {
    next: AtomicU64,
    open: Mutex<HashMap<RequestId, u64>>,
}

/// One of them. An answer goes to whoever asked last by its id, and the one who asked before would wait for ever: so an id is
/// taken until the answer is on its way, or nobody handles the request any more.
pub(super) struct Open {
    asked: Arc<Asked>,
    id: RequestId,
    number: u64,
}

impl Asked {
    /// Nothing, if one of this id has no answer yet.
    pub(super) fn begin(self: &Arc<Asked>, id: RequestId) -> Option<Open> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match lock(&self.open).entry(id.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(number);
                Some(Open { asked: Arc::clone(self), id, number })
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = lock(&self.asked.open);
        if open.get(&self.id) == Some(&self.number) {
            open.remove(&self.id);
        }
    }
}

#[derive(Default)]
struct Way {
    owed: Vec<Owed>,
    /// Nothing goes out here any more.
    closed: bool,
}

/// Outcomes of a session that did not get out before their stream was over.
#[derive(Default)]
pub(super) struct Left(Mutex<VecDeque<Owed>>);

/// An outcome that is on its way, with the result of this request and with nothing else: what a server says in between may name
/// the action as well.
pub(super) struct Owed {
    request: RequestId,
    delivery: Delivery,
    seen: bool,
}

impl Owed {
    pub(super) fn new(request: RequestId, delivery: Delivery) -> Owed {
        Owed { request, delivery, seen: false }
    }
}

/// As much of a message as tells whether it answers a request, and which.
#[derive(Deserialize)]
struct Answer<'a> {
    id: RequestId,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Which requests are answered in a piece of an answer: a message, or events of a stream. First those that have a result, then
/// those that have an error.
fn answers(bytes: &[u8]) -> (Vec<RequestId>, Vec<RequestId>) {
    let lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_prefix(b"data:").unwrap_or(line));
    let said = lines.filter(|line| !line.is_empty()).map(serde_json::from_slice::<Answer<'_>>);
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for answer in said.flatten() {
        match (answer.result, answer.error) {
            (Some(_), _) => results.push(answer.id),
            (None, Some(_)) => errors.push(answer.id),
            (None, None) => {}
        }
    }
    (results, errors)
}

impl Left {
    fn keep(&self, owed: Owed) {
        let mut left = lock(&self.0);
        if left.len() >= MOST_LEFT {
            left.pop_front();
        }
        left.push_back(Owed { seen: false, ..owed });
    }

    /// Those of these requests.
    fn take(&self, results: &[RequestId]) -> Vec<Owed> {
        let mut left = lock(&self.0);
        let all = std::mem::take(&mut *left);
        let (found, rest): (Vec<Owed>, Vec<Owed>) =
            all.into_iter().partition(|owed| results.contains(&owed.request));
        *left = rest.into();
        found
    }
}

impl Slot {
    /// That of a request in a session. `goes_on`: its answer is what is left of another's stream.
    pub(super) fn of_session(left: Arc<Left>, goes_on: bool) -> Slot {
        Slot { session: Some((left, goes_on)), ..Slot::default() }
    }

    /// What goes to them.
    pub(super) fn to(self, peer: Option<Peer>) -> Slot {
        Slot { peer, ..self }
    }

    /// That of this one.
    pub(super) fn of_request(self, open: Open) -> Slot {
        Slot { open: Mutex::new(Some(open)), ..self }
    }

    pub(super) fn owe(&self, owed: Owed) {
        let mut way = lock(&self.way);
        match &self.session {
            Some((left, _)) if way.closed => left.keep(owed),
            _ => way.owed.push(owed),
        }
    }

    /// These bytes are next on their way.
    pub(super) fn see(&self, bytes: &[u8]) {
        let mut way = lock(&self.way);
        let goes_on = matches!(self.session, Some((_, true)));
        let mut open = lock(&self.open);
        if way.owed.is_empty() && !goes_on && open.is_none() {
            return;
        }
        let (results, errors) = answers(bytes);
        // From now on its id may be used again: its answer is out before anything else is.
        drop(open.take_if(|open| results.contains(&open.id) || errors.contains(&open.id)));
        if let Some((left, true)) = &self.session {
            way.owed.extend(left.take(&results));
        }
        for owed in &mut way.owed {
            owed.seen = owed.seen || results.contains(&owed.request);
        }
    }

    /// All that was seen is where it should be, if somebody is there to take it. What was not seen was not delivered: its request
    /// was given up.
    pub(super) fn arrived(&self) {
        if self.peer.as_ref().is_some_and(|peer| !peer.is_there()) {
            return;
        }
        let mut way = lock(&self.way);
        let (seen, left) = std::mem::take(&mut way.owed).into_iter().partition(|owed| owed.seen);
        way.owed = left;
        drop(way);
        let seen: Vec<Owed> = seen;
        seen.into_iter().for_each(|owed| owed.delivery.done());
    }

    /// The stream is over, and so is what it could bring.
    fn close(&self) {
        let mut way = lock(&self.way);
        way.closed = true;
        let owed = std::mem::take(&mut way.owed);
        if let Some((left, _)) = &self.session {
            owed.into_iter().for_each(|owed| left.keep(owed));
        }
    }
}

/// So many outcomes a session is to have yet from streams that broke off; then the oldest is for the same call again.
const MOST_LEFT: usize = 64;

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

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        self.slot.close();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Stream for Watched<B> {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                self.slot.arrived();
                self.slot.close();
                return Poll::Ready(None);
            };
            let Ok(frame) = frame else {
                return Poll::Ready(Some(Err(std::io::Error::other("an answer broke off"))));
            };
            if let Ok(bytes) = frame.into_data() {
                let bytes = unpacked(bytes);
                self.slot.see(&bytes);
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_result_is_an_answer_whatever_else_names_its_request() {
        let result = br#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
        let event = [b"id: 3\ndata: ".as_slice(), result, b"\n\n"].concat();
        let results = |bytes: &[u8]| answers(bytes).0;
        assert_eq!(results(result), [RequestId::Number(7)]);
        assert_eq!(results(&event), [RequestId::Number(7)]);
        let error = br#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"result"}}"#;
        assert_eq!(answers(error).1, [RequestId::Number(7)]);
        for other in [
            br#"{"jsonrpc":"2.0","method":"notifications/message","params":{"id":7,"result":{}}}"#.as_slice(),
            br#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
            br#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"result"}}"#,
            br#"data: {"jsonrpc":"2.0","method":"notifications/message","params":{"data":"{\"id\":7,\"result\":{}}"}}"#,
            b"",
            b"{no json",
        ] {
            assert_eq!(results(other), []);
        }
    }

    #[test]
    fn an_id_is_taken_until_its_answer_is_on_its_way() {
        let (asked, id) = (Arc::<Asked>::default(), RequestId::Number(7));
        let slot = Slot::default().of_request(asked.begin(id.clone()).unwrap());
        slot.see(br#"{"jsonrpc":"2.0","id":8,"result":{}}"#);
        slot.see(br#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#);
        assert!(asked.begin(id.clone()).is_none());
        slot.see(br#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"no"}}"#);
        let next = asked.begin(id.clone());
        assert!(next.is_some(), "it is answered");
        drop(slot);
        assert!(asked.begin(id.clone()).is_none(), "and so is the next");
        drop(next);
        assert!(asked.begin(id).is_some(), "nobody handles it any more");
    }
}
