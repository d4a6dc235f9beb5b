//! One client over a pair of pipes, in the place of the server that it used to start itself: a message a line.

use std::io;
use std::sync::Arc;

use gateway::{Caller, Code, Deed, Error, Gateway};
use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, ErrorData, JsonRpcError, ServerJsonRpcMessage};
use rmcp::service::serve_server;
use rmcp::transport::Transport;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, mpsc};

use super::Mcp;
use super::delivery::Slot;
use super::door::{MOST_BYTES, Message};
use super::face::{Face, owner};
use super::listen::{Opened, must_be_bearable};
use super::scope::Scope;
use super::visit::Visit;

/// Serves a caller over a pair of pipes until they are closed: one of the servers with its own names, or all.
///
/// # Errors
/// Who they are does not allow it, there is no such server, or the pipes broke before the client had greeted.
pub async fn serve_mcp<R, W>(
    gateway: Arc<Gateway>,
    caller: Caller,
    only: Option<&str>,
    (input, output): (R, W),
) -> Result<(), Error>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    caller.must(Deed::Execute)?;
    let mcp = Mcp::new().map_err(|error| Error::new(Code::Unavailable, error.to_string()))?;
    let scope = Scope::new(gateway, &caller, only)?;
    let visit = Visit {
        caller: Arc::new(caller),
        request_id: format!("stdio-{}", uuid::Uuid::now_v7()).into(),
        slot: Arc::new(Slot::default()),
        opened: None,
    };
    let (ready, prepared) = mpsc::channel(MOST_PREPARED);
    let lines = Lines {
        input: BufReader::new(input),
        line: Vec::new(),
        too_long: false,
        output: Arc::new(Mutex::new(output)),
        visit,
        mcp: Arc::clone(&mcp),
        scope: scope.clone(),
        ready,
        prepared,
    };
    match serve_server(Face::new(mcp, scope), lines).await {
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
    visit: Visit,
    mcp: Arc<Mcp>,
    scope: Scope,
    /// Messages for which something has to be there first.
    ready: mpsc::Sender<ClientJsonRpcMessage>,
    prepared: mpsc::Receiver<ClientJsonRpcMessage>,
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
        let (output, slot) = (Arc::clone(&self.output), Arc::clone(&self.visit.slot));
        async move { write(&output, &message, &slot).await }
    }

    /// Nothing is lost when this is dropped before it ends: what was read of a line is kept.
    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            tokio::select! {
                biased;
                Some(message) = self.prepared.recv() => return Some(message),
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
                    let _ = write(&self.output, &refusal, &self.visit.slot).await;
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        self.output.lock().await.shutdown().await
    }
}

impl<R, W> Lines<R, W> {
    /// The message of a line; nothing if it comes later, when it is prepared.
    fn message(
        &self,
        line: &[u8],
        too_long: bool,
    ) -> Result<Option<ClientJsonRpcMessage>, Box<JsonRpcError>> {
        let no_message = |error| Box::new(JsonRpcError::new(None, error));
        if too_long {
            return Err(no_message(ErrorData::invalid_request("the message is too long", None)));
        }
        let seen = Message::read(line).map_err(no_message)?;
        let unknown = |_| no_message(ErrorData::invalid_request("this is no message of JSON-RPC", None));
        let mut message: ClientJsonRpcMessage = serde_json::from_slice(line).map_err(unknown)?;
        if seen.method() != "subscriptions/listen" {
            message.insert_extension(self.visit.clone());
            return Ok(Some(message));
        }
        let bearable = seen.filter().as_ref().map_or(Ok(()), must_be_bearable);
        bearable.map_err(|error| Box::new(JsonRpcError::new(seen.id(), error)))?;
        let (mcp, scope, visit, ready) =
            (Arc::clone(&self.mcp), self.scope.clone(), self.visit.clone(), self.ready.clone());
        tokio::spawn(async move {
            let mut visit = visit;
            let owner = owner(scope.gateway.environment(), &visit.caller).into();
            if let Some(filter) = seen.filter() {
                // One that may not be opened stays silent: there is only this client.
                let opened = Opened::new(&mcp, (&scope, &owner), &filter, seen.client()).await;
                visit.opened = opened.ok().map(Arc::new);
            }
            message.insert_extension(visit);
            let _ = ready.send(message).await;
        });
        Ok(None)
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
    slot: &Slot,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut output = output.lock().await;
    output.write_all(&line).await?;
    output.flush().await?;
    slot.see(&line);
    slot.arrived();
    Ok(())
}

/// So many streams may be about to be opened.
const MOST_PREPARED: usize = 64;
