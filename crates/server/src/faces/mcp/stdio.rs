//! One client over a pair of pipes, in the place of the server that it used to start itself: a message a line.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;

use gateway::upstream::Party;
use gateway::{Caller, Code, Deed, Error, Gateway};
use rmcp::RoleServer;
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ErrorData, JsonRpcError, RequestId, ServerJsonRpcMessage,
    ToolListChangedNotification,
};
use rmcp::service::serve_server;
use rmcp::transport::Transport;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::delivery::Slot;
use super::door::{CALL, LISTEN, MOST_BYTES, Message, asked_already};
use super::face::Face;
use super::listen::{Opened, must_be_bearable};
use super::scope::Scope;
use super::verbatim::{unpacked, unread};
use super::visit::Visit;
use super::{Mcp, lock};

/// Serves a caller over a pair of pipes until they are closed: one of the servers with its own names, or all. When `news` ends
/// there are other tools than before, of which a client with a session is told, and it says who the caller is from then on.
///
/// # Errors
/// Who they are does not allow it, there is no such server, or the pipes broke before the client had greeted.
pub async fn serve_mcp<R, W>(
    gateway: Arc<Gateway>,
    caller: Caller,
    only: Option<&str>,
    (input, output): (R, W),
    news: impl Future<Output = Caller>,
) -> Result<(), Error>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    caller.must(Deed::Execute)?;
    let mcp = Arc::<Mcp>::default();
    let scope = Scope::new(gateway, &caller, only)?;
    let caller = Arc::new(std::sync::Mutex::new(Arc::new(caller)));
    let (ready, prepared) = mpsc::channel(MOST_PREPARED);
    let lines = Lines {
        input: BufReader::new(input),
        line: Vec::new(),
        too_long: false,
        output: Arc::new(Mutex::new(output)),
        refusal: None,
        caller: Arc::clone(&caller),
        owing: Arc::default(),
        mcp: Arc::clone(&mcp),
        scope: scope.clone(),
        ready,
        prepared,
    };
    let face = Arc::new(Face::new(mcp, scope));
    let telling = async {
        let known = news.await;
        *lock(&caller) = Arc::new(known);
        if let Some(session) = face.session() {
            session.tell(ToolListChangedNotification::default().into(), None);
        }
        std::future::pending().await
    };
    tokio::select! {
        served = serve(Arc::clone(&face), lines) => served,
        never = telling => never,
    }
}

async fn serve<R, W>(face: Arc<Face>, lines: Lines<R, W>) -> Result<(), Error>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    match serve_server(face, lines).await {
        Ok(running) => {
            let _ = running.waiting().await;
            Ok(())
        }
        Err(error) => {
            tracing::debug!(%error, "a client did not greet");
            Err(Error::new(Code::MalformedBody, "the client hung up before it greeted"))
        }
    }
}

/// Messages as lines.
struct Lines<R, W> {
    input: BufReader<R>,
    line: Vec<u8>,
    too_long: bool,
    output: Arc<Mutex<W>>,
    /// What no message was is told so. Written by a task: half a line of it would be nothing that a client can read.
    refusal: Option<JoinHandle<()>>,
    caller: Arc<std::sync::Mutex<Arc<Caller>>>,
    owing: Arc<std::sync::Mutex<Owing>>,
    mcp: Arc<Mcp>,
    scope: Scope,
    /// Messages for which something has to be there first.
    ready: mpsc::Sender<(ClientJsonRpcMessage, Arc<Slot>)>,
    prepared: mpsc::Receiver<(ClientJsonRpcMessage, Arc<Slot>)>,
}

impl<R, W> Transport<RoleServer> for Lines<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = io::Error;

    fn send(
        &mut self,
        message: ServerJsonRpcMessage,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        let (output, slot) = (Arc::clone(&self.output), lock(&self.owing).answered(&message));
        async move { write(&output, &message, slot.as_deref()).await }
    }

    /// Nothing is lost when this is dropped before it ends: what was read of a line is kept, and what is being written is
    /// written all the same.
    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            // Whoever does not read refusals is not read either.
            if let Some(refusal) = &mut self.refusal {
                let _ = refusal.await;
                self.refusal = None;
            }
            tokio::select! {
                biased;
                Some((message, slot)) = self.prepared.recv() => {
                    if lock(&self.owing).owes(&message, &slot) {
                        return Some(message);
                    }
                    // It was given up meanwhile, and its id may be another's by now.
                    continue;
                }
                read = read_line(&mut self.input, &mut self.line, &mut self.too_long) => match read {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(error) => {
                        tracing::debug!(%error, "a client's pipe broke");
                        return None;
                    }
                },
            }
            let line = std::mem::take(&mut self.line);
            let too_long = std::mem::take(&mut self.too_long);
            if line.iter().all(u8::is_ascii_whitespace) && !too_long {
                continue;
            }
            match self.message(&line, too_long) {
                Ok(Some(message)) => return Some(message),
                Ok(None) => {}
                Err(error) => {
                    let refusal = ServerJsonRpcMessage::Error(*error);
                    let output = Arc::clone(&self.output);
                    self.refusal = Some(tokio::spawn(async move {
                        let _ = write(&output, &refusal, None).await;
                    }));
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        self.output.lock().await.shutdown().await
    }
}

impl<R, W: AsyncWrite + Send + Unpin + 'static> Lines<R, W> {
    /// The message of a line; nothing if it comes later, when it is prepared.
    fn message(
        &mut self,
        line: &[u8],
        too_long: bool,
    ) -> Result<Option<ClientJsonRpcMessage>, Box<JsonRpcError>> {
        let no_message = |error| Box::new(JsonRpcError::new(None, error));
        if too_long {
            return Err(no_message(ErrorData::invalid_request("the message is too long", None)));
        }
        let seen = Message::read(line).map_err(no_message)?;
        let caller = Arc::clone(&lock(&self.caller));
        let unknown = |_| no_message(ErrorData::invalid_request("this is no message of JSON-RPC", None));
        let unread = unread(line);
        let said = unread.as_deref().map_or(line, str::as_bytes);
        let mut message: ClientJsonRpcMessage = serde_json::from_slice(said).map_err(unknown)?;
        if seen.is_request() && seen.method() != CALL {
            let counted = self.scope.gateway.count(&caller);
            let refused = |error: Error| ErrorData::invalid_request(error.message, None);
            counted.map_err(|error| Box::new(JsonRpcError::new(seen.id(), refused(error))))?;
        }
        let refused = |error| Box::new(JsonRpcError::new(seen.id(), error));
        // What wants no answer is not counted, and so has nothing opened for it.
        let filter = seen.filter().filter(|_| seen.is_request() && seen.method() == LISTEN);
        filter.as_ref().map_or(Ok(()), must_be_bearable).map_err(refused)?;
        let slot = lock(&self.owing).asked(&message).ok_or_else(|| refused(asked_already()))?;
        let mut visit = visit(&caller, slot);
        let Some(filter) = filter else {
            message.insert_extension(visit);
            return Ok(Some(message));
        };
        let (mcp, scope, ready) = (Arc::clone(&self.mcp), self.scope.clone(), self.ready.clone());
        let (output, owing) = (Arc::clone(&self.output), Arc::clone(&self.owing));
        tokio::spawn(async move {
            match Opened::new(&mcp, (&scope, &visit.caller), &filter, seen.client()).await {
                Ok(opened) => {
                    visit.opened = Some(Arc::new(opened));
                    let slot = Arc::clone(&visit.slot);
                    message.insert_extension(visit);
                    let _ = ready.send((message, slot)).await;
                }
                Err(error) if lock(&owing).owes(&message, &visit.slot) => {
                    let error = ErrorData::invalid_request(error.message, None);
                    let refusal = ServerJsonRpcMessage::Error(JsonRpcError::new(id_of(&message), error));
                    let slot = lock(&owing).answered(&refusal);
                    let _ = write(&output, &refusal, slot.as_deref()).await;
                }
                // Whoever gave it up is told nothing.
                Err(_) => {}
            }
        });
        Ok(None)
    }
}

/// A message of the client at the other end. Each is one of its own in logs.
fn visit(caller: &Arc<Caller>, slot: Arc<Slot>) -> Visit {
    let request_id = format!("stdio-{}", uuid::Uuid::now_v7()).into();
    Visit { caller: Arc::clone(caller), request_id, slot, opened: None }
}

fn id_of(message: &ClientJsonRpcMessage) -> Option<RequestId> {
    match message {
        ClientJsonRpcMessage::Request(request) => Some(request.id.clone()),
        _ => None,
    }
}

/// What is delivered with the answer to each request that has none yet.
#[derive(Default)]
struct Owing(HashMap<RequestId, Arc<Slot>>);

impl Owing {
    /// Nothing, where a request of the same id has no answer yet.
    fn asked(&mut self, message: &ClientJsonRpcMessage) -> Option<Arc<Slot>> {
        let slot = Arc::new(Slot::default());
        match message {
            ClientJsonRpcMessage::Request(request) => match self.0.entry(request.id.clone()) {
                Entry::Occupied(_) => return None,
                Entry::Vacant(free) => drop(free.insert(Arc::clone(&slot))),
            },
            // Whoever gives a request up has no answer to it.
            ClientJsonRpcMessage::Notification(told) => {
                if let ClientNotification::CancelledNotification(cancelled) = &told.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    self.0.remove(id);
                }
            }
            ClientJsonRpcMessage::Response(_) | ClientJsonRpcMessage::Error(_) => {}
        }
        Some(slot)
    }

    /// Whether this is still the request of its id, and was not given up.
    fn owes(&self, message: &ClientJsonRpcMessage, slot: &Arc<Slot>) -> bool {
        id_of(message).and_then(|id| self.0.get(&id)).is_some_and(|owed| Arc::ptr_eq(owed, slot))
    }

    fn answered(&mut self, message: &ServerJsonRpcMessage) -> Option<Arc<Slot>> {
        match message {
            ServerJsonRpcMessage::Response(response) => self.0.remove(&response.id),
            ServerJsonRpcMessage::Error(error) => self.0.remove(error.id.as_ref()?),
            ServerJsonRpcMessage::Request(_) | ServerJsonRpcMessage::Notification(_) => None,
        }
    }
}

/// Reads on until a line is there, false at the end of all. Of a line that is too long only that is kept.
async fn read_line<R: AsyncRead + Unpin>(
    input: &mut BufReader<R>,
    line: &mut Vec<u8>,
    too_long: &mut bool,
) -> io::Result<bool> {
    loop {
        let there = input.fill_buf().await?;
        if there.is_empty() {
            return Ok(false);
        }
        let end = there.iter().position(|byte| *byte == b'\n');
        let part = &there[..end.unwrap_or(there.len())];
        *too_long = *too_long || line.len() + part.len() > MOST_BYTES;
        if *too_long {
            line.clear();
        } else {
            line.extend_from_slice(part);
        }
        let read = end.map_or(there.len(), |end| end + 1);
        input.consume(read);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Writes a line; what it answers is delivered once it is flushed.
async fn write<W: AsyncWrite + Unpin>(
    output: &Mutex<W>,
    message: &ServerJsonRpcMessage,
    slot: Option<&Slot>,
) -> io::Result<()> {
    let mut line: Vec<u8> = unpacked(serde_json::to_vec(message)?.into()).into();
    line.push(b'\n');
    let mut output = output.lock().await;
    output.write_all(&line).await?;
    output.flush().await?;
    if let Some(slot) = slot {
        slot.see(&line);
        slot.arrived();
    }
    Ok(())
}

/// So many streams may be about to be opened.
const MOST_PREPARED: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_request_has_what_is_owed_with_its_own_answer() {
        let asked = |message: Value| serde_json::from_value::<ClientJsonRpcMessage>(message).unwrap();
        let ping = |id: u32| asked(json!({"jsonrpc": "2.0", "id": id, "method": "ping"}));
        let pong = |id: u32| {
            let pong = json!({"jsonrpc": "2.0", "id": id, "result": {}});
            serde_json::from_value::<ServerJsonRpcMessage>(pong).unwrap()
        };
        let mut owing = Owing::default();
        let (first, second) = (owing.asked(&ping(1)).unwrap(), owing.asked(&ping(2)).unwrap());
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(owing.asked(&ping(2)).is_none(), "it has no answer yet");
        let cancelled =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
        assert!(owing.owes(&ping(1), &first));
        owing.asked(&asked(cancelled));
        assert!(!owing.owes(&ping(1), &first));
        assert!(owing.answered(&pong(1)).is_none(), "it is given up");
        assert!(Arc::ptr_eq(&owing.answered(&pong(2)).unwrap(), &second));
        assert!(owing.0.is_empty(), "{:?}", owing.0.keys());
    }

    #[test]
    fn each_message_is_one_of_its_own_in_logs() {
        let caller = Arc::new(Gateway::anonymous());
        let of = || visit(&caller, Arc::default()).request_id;
        assert_ne!(of(), of());
    }
}
