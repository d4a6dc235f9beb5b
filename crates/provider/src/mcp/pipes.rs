//! A process's pipes as a transport: each message is a line.
//!
//! rmcp writes; lines are read here, because the answers to marked requests are not to be read on their way (see
//! [`post`](super::post)).

use rmcp::RoleClient;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader, Empty};

use super::post::Marked;
use super::verbatim::carrying;

pub(super) struct Pipes<R, W: AsyncWrite> {
    output: BufReader<R>,
    input: AsyncRwTransport<RoleClient, Empty, W>,
    /// As much as there is of the next line. Kept when whoever waits for it does something else first.
    line: Vec<u8>,
    /// What comes up to the next end of a line is the rest of one that is too long.
    is_cut: bool,
    most_bytes: usize,
    marked: Marked,
}

impl<R: AsyncRead + Send + Unpin, W: AsyncWrite + Send + Unpin + 'static> Pipes<R, W> {
    pub(super) fn new((output, input): (R, W), most_bytes: usize) -> Pipes<R, W> {
        Pipes {
            output: BufReader::new(output),
            input: AsyncRwTransport::new(tokio::io::empty(), input),
            line: Vec::new(),
            is_cut: false,
            most_bytes,
            marked: Marked::default(),
        }
    }

    /// Reads on to the end of a line. Nothing, if there is none any more.
    async fn read_line(&mut self) -> Option<()> {
        loop {
            let said = self.output.fill_buf().await.ok().filter(|said| !said.is_empty())?;
            let end = said.iter().position(|byte| *byte == b'\n');
            let part = &said[..end.unwrap_or(said.len())];
            if self.line.len() + part.len() > self.most_bytes {
                self.is_cut = true;
                self.line.clear();
            }
            if !self.is_cut {
                self.line.extend_from_slice(part);
            }
            let used = end.map_or(said.len(), |end| end + 1);
            self.output.consume(used);
            match end {
                Some(_) if self.is_cut => {
                    tracing::warn!("an MCP server wrote a line that is longer than allowed: it is left out");
                    self.is_cut = false;
                }
                Some(_) => return Some(()),
                None => {}
            }
        }
    }

    /// What the line says; nothing, if that is no message.
    fn read(&self) -> Option<RxJsonRpcMessage<RoleClient>> {
        if let Some(answer) = self.marked.unread(&self.line) {
            return Some(answer);
        }
        let carrying = carrying(&self.line);
        let read = serde_json::from_slice(carrying.as_deref().unwrap_or(&self.line));
        read.inspect_err(|error| tracing::debug!(%error, "an MCP server wrote a line that is no message"))
            .ok()
    }
}

impl<R: AsyncRead + Send + Unpin, W: AsyncWrite + Send + Unpin + 'static> Transport<RoleClient>
    for Pipes<R, W>
{
    type Error = std::io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.marked.note(&item);
        self.input.send(item)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            self.read_line().await?;
            let message = self.read();
            self.line.clear();
            if message.is_some() {
                return message;
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.input.close().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rmcp::model::{
        CallToolRequest, CallToolRequestParams, ClientJsonRpcMessage, JsonRpcMessage, PingRequest, RequestId,
    };

    use super::super::post::AsItCame;
    use super::super::said::Said;
    use super::*;

    #[tokio::test]
    async fn only_the_answer_to_a_marked_request_is_unread_and_a_line_that_is_too_long_is_left_out() {
        let mut call = CallToolRequest::new(CallToolRequestParams::new("any"));
        call.extensions.insert(AsItCame);
        let text = r#"{"content":[],"n":1180591620717411303425}"#;
        let lines = format!(
            "\nno message\n{{\"jsonrpc\":\"2.0\",\"id\":8,\"result\":{{}}}}\n{}\n{{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{text}}}\n",
            "x".repeat(200),
        );
        let mut pipes = Pipes::new((lines.as_bytes(), tokio::io::sink()), 100);
        pipes.send(ClientJsonRpcMessage::request(call.into(), RequestId::Number(7))).await.unwrap();
        let ping = PingRequest::default().into();
        pipes.send(ClientJsonRpcMessage::request(ping, RequestId::Number(8))).await.unwrap();
        let mut heard = Vec::new();
        while let Some(JsonRpcMessage::Response(answer)) = pipes.receive().await {
            heard.push((answer.id, Said::of_result(answer.result).unwrap().text.to_string()));
        }
        let (ping, call) = (RequestId::Number(8), RequestId::Number(7));
        assert_eq!(heard, [(ping, "{}".to_owned()), (call, text.to_owned())]);
    }
}
