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
    /// The server's name.
    name: String,
    output: BufReader<R>,
    input: AsyncRwTransport<RoleClient, Empty, W>,
    /// As much as there is of the next line. Kept when whoever waits for it does something else first.
    line: Line,
    most_bytes: usize,
    marked: Marked,
}

#[derive(Default)]
struct Line {
    text: Vec<u8>,
    /// The end of one that is too long. Of such a line the text is the beginning.
    end: Option<Vec<u8>>,
}

impl<R: AsyncRead + Send + Unpin, W: AsyncWrite + Send + Unpin + 'static> Pipes<R, W> {
    pub(super) fn new(name: &str, (output, input): (R, W), most_bytes: usize) -> Pipes<R, W> {
        Pipes {
            name: name.to_owned(),
            output: BufReader::new(output),
            input: AsyncRwTransport::new(tokio::io::empty(), input),
            line: Line::default(),
            most_bytes,
            marked: Marked::default(),
        }
    }

    /// Reads on to the end of a line. Nothing, if there is none any more.
    async fn read_line(&mut self) -> Option<()> {
        loop {
            let said = self.output.fill_buf().await.ok().filter(|said| !said.is_empty())?;
            let end = said.iter().position(|byte| *byte == b'\n');
            self.line.extend(&said[..end.unwrap_or(said.len())], self.most_bytes);
            let used = end.map_or(said.len(), |end| end + 1);
            self.output.consume(used);
            if end.is_some() {
                return Some(());
            }
        }
    }

    /// What the line says; nothing, if that is no message.
    fn read(&self) -> Option<RxJsonRpcMessage<RoleClient>> {
        let server = &self.name;
        if let Some(end) = &self.line.end {
            tracing::warn!(server, "an MCP server wrote a line that is longer than allowed: it is left out");
            // Whoever waits for it is told at once that there is an answer, though nobody knows what it says.
            return self.marked.unread(&outline(&self.line.text, end)?);
        }
        let line = &self.line.text;
        if let Some(answer) = self.marked.unread(line) {
            return Some(answer);
        }
        let carrying = carrying(line);
        let read = serde_json::from_slice(carrying.as_deref().unwrap_or(line));
        read.inspect_err(|error| {
            tracing::debug!(server, %error, "an MCP server wrote a line that is no message");
        })
        .ok()
    }
}

impl Line {
    fn extend(&mut self, part: &[u8], most_bytes: usize) {
        if self.end.is_none() && self.text.len() + part.len() > most_bytes {
            self.end = Some(last_of(&self.text).to_vec());
        }
        let Some(end) = &mut self.end else { return self.text.extend_from_slice(part) };
        end.extend_from_slice(last_of(part));
        end.drain(..end.len().saturating_sub(OUTER));
        let missing = OUTER.saturating_sub(self.text.len()).min(part.len());
        self.text.extend_from_slice(&part[..missing]);
        self.text.truncate(OUTER);
    }

    fn clear(&mut self) {
        self.text.clear();
        self.end = None;
    }
}

fn last_of(part: &[u8]) -> &[u8] {
    &part[part.len().saturating_sub(OUTER)..]
}

/// A message of which only the beginning and the end are there, with nothing in the place of its first member that is an object: the
/// others, its id among them, stand before and behind that. Nothing, if it has another form.
fn outline(beginning: &[u8], end: &[u8]) -> Option<Vec<u8>> {
    let within = beginning.trim_ascii_start().strip_prefix(b"{")?;
    let behind = end.trim_ascii_end().strip_suffix(b"}")?;
    let before = within.split(|byte| *byte == b'{').next()?;
    let behind = behind.rsplit(|byte| *byte == b'}').next()?;
    Some([b"{", before, b"null", behind, b"}"].concat())
}

/// So much is kept of both ends of a line that is too long, bytes.
const OUTER: usize = 1024;

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
        let text = r#"{"content":[],"n":1180591620717411303425}"#;
        let lines = format!(
            "\nno message\n{{\"jsonrpc\":\"2.0\",\"id\":8,\"result\":{{}}}}\n{}\n{{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{text}}}\n",
            "x".repeat(200),
        );
        let (ping, call) = (RequestId::Number(8), RequestId::Number(7));
        assert_eq!(heard(&lines).await, [(ping, "{}".to_owned()), (call, text.to_owned())]);
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_one_that_nobody_understands_wherever_its_id_stands() {
        let result = format!(r#"{{"content":[{{"type":"text","text":"}}{}{{"}}]}}"#, "x".repeat(9000));
        let first = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{result}}}"#);
        let last = format!(r#" {{"result":{result},"jsonrpc":"2.0","id":"7" }} "#);
        for answer in [first, last] {
            assert_eq!(heard(&format!("{answer}\n")).await, [(RequestId::Number(7), "null".to_owned())]);
        }
        // What is none, or none to this, says nothing of it, and what comes next is read.
        let told = format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{result}}}"#);
        let asked = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{result}}}"#);
        let other = format!(r#"{{"jsonrpc":"2.0","id":9,"result":{result}}}"#);
        let lines = format!("{told}\n{asked}\n{other}\n{{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{{}}}}\n");
        assert_eq!(heard(&lines).await, [(RequestId::Number(7), "{}".to_owned())]);
    }

    /// What is answered to a call 7 and a ping 8 by a server that may write a hundred bytes in a line.
    async fn heard(lines: &str) -> Vec<(RequestId, String)> {
        let mut call = CallToolRequest::new(CallToolRequestParams::new("any"));
        call.extensions.insert(AsItCame);
        let mut pipes = Pipes::new("any", (lines.as_bytes(), tokio::io::sink()), 100);
        pipes.send(ClientJsonRpcMessage::request(call.into(), RequestId::Number(7))).await.unwrap();
        let ping = PingRequest::default().into();
        pipes.send(ClientJsonRpcMessage::request(ping, RequestId::Number(8))).await.unwrap();
        let mut heard = Vec::new();
        while let Some(JsonRpcMessage::Response(answer)) = pipes.receive().await {
            heard.push((answer.id, Said::of_result(answer.result).unwrap().text.to_string()));
        }
        heard
    }
}
