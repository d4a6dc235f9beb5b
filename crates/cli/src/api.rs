//! A client of a running gateway: every change goes through its API, so that its roles and its record apply.

use std::collections::HashSet;
use std::io::Read;
use std::time::Duration;

use reqwest::blocking::{Client as Http, Response};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::out;

/// Which gateway, and who asks.
#[derive(clap::Args, Clone)]
pub(crate) struct Api {
    /// Where the gateway answers; for what is in its sandbox, with /sandbox behind it
    #[arg(
        long,
        global = true,
        env = "COUNTERSIGN_URL",
        default_value = "http://127.0.0.1:8787",
        value_name = "URL"
    )]
    pub(crate) url: String,
    /// API key to act with; better given in the environment, where other users do not see it
    #[arg(long, global = true, env = "COUNTERSIGN_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

impl Api {
    /// A client that acts with the key.
    pub(crate) fn client(&self) -> Result<Client> {
        let key = self.key.as_deref().filter(|key| !key.is_empty()).ok_or_else(|| {
            Error::new("no API key given")
                .hint("set COUNTERSIGN_API_KEY, or pass --key; a gateway that starts with no key at all prints an admin key, which makes others")
        })?;
        Client::new(&self.url, Some(key))
    }

    /// A client that acts with the key on what no sandbox has; `why` it has none of it.
    pub(crate) fn client_outside_sandbox(&self, why: &str) -> Result<Client> {
        match self.url.trim_end_matches('/').strip_suffix("/sandbox") {
            Some(gateway) => Err(Error::new(format!("`{}` is a sandbox, and {why}", self.url))
                .hint(format!("name the gateway itself: --url {gateway}, or COUNTERSIGN_URL={gateway}"))),
            None => self.client(),
        }
    }

    /// A client for what everybody may read.
    pub(crate) fn anyone(&self) -> Result<Client> {
        Client::new(&self.url, self.key.as_deref())
    }
}

/// One gateway, one key.
#[derive(Clone)]
pub(crate) struct Client {
    http: Http,
    base: String,
    key: Option<String>,
    /// So many bytes of an answer are read.
    longest: usize,
}

/// What came back.
pub(crate) struct Exchanged {
    pub(crate) status: u16,
    /// Null if it is not JSON.
    pub(crate) body: Value,
    /// It was said before, under the same key.
    pub(crate) replayed: bool,
}

impl Client {
    pub(crate) fn new(url: &str, key: Option<&str>) -> Result<Client> {
        let url = reqwest::Url::parse(url)
            .map_err(|error| Error::new(format!("`{url}` is not a URL")).because(error))?;
        if key.is_some() && url.scheme() != "https" && !is_loopback(&url) {
            return Err(Error::new(format!("will not send a key to `{url}` in the clear"))
                .hint("use an https:// address; plain http is for loopback only"));
        }
        let mut http =
            Http::builder().timeout(Duration::from_secs(60)).redirect(reqwest::redirect::Policy::none());
        if is_loopback(&url) {
            http = http.no_proxy();
        }
        let http = http.build().while_we(|| "cannot start an HTTP client".to_owned())?;
        let base = url.as_str().trim_end_matches('/').to_owned();
        Ok(Client { http, base, key: key.map(str::to_owned), longest: LONGEST_ANSWER })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask(Method::POST, path, Some(body))
    }

    /// All pages of a list, in order.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Value>> {
        let (mut all, mut cursors) = (Vec::new(), Cursors::default());
        let mut next = path.to_owned();
        loop {
            let mut page = self.get(&next)?;
            match page["items"].take() {
                Value::Array(items) => all.extend(items),
                _ => return Err(Error::new(format!("`{}{path}` did not answer with a list", self.base))),
            }
            match cursors.next(page["next_cursor"].as_str())? {
                Some(cursor) => next = format!("{path}?cursor={}", encoded(&cursor)),
                None => return Ok(all),
            }
        }
    }

    /// A page in whatever form the path asks for, and the cursor of the next.
    pub(crate) fn page(&self, path: &str) -> Result<(String, Option<String>)> {
        let response = self.send(Method::GET, path, None)?;
        if !response.status().is_success() {
            return self.answer(response).map(|_| Default::default());
        }
        let link = response.headers().get("link").and_then(|link| link.to_str().ok()).unwrap_or_default();
        let next =
            link.split_once("cursor=").map(|(_, rest)| rest.split(['&', '>']).next().unwrap_or_default());
        let next = next.map(str::to_owned);
        Ok((self.text(response)?, next))
    }

    /// What stands there, as it is, of at most so many bytes; nothing where nothing does. Whoever answers need not be trusted.
    pub(crate) fn bytes(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>> {
        let (status, bytes) = self.read(path, most)?;
        Ok((status != StatusCode::NOT_FOUND).then_some(bytes))
    }

    /// The same of a gateway, or what it says where there is nothing.
    pub(crate) fn found(&self, path: &str, most: usize) -> Result<std::result::Result<Vec<u8>, Value>> {
        let (status, bytes) = self.read(path, most)?;
        if status != StatusCode::NOT_FOUND {
            return Ok(Ok(bytes));
        }
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        // The sandbox says more, in a shape of its own.
        let said = if body["error"]["code"].is_string() { &body["error"] } else { &body };
        if said["code"].is_string() {
            return Ok(Err(said.clone()));
        }
        Err(no_gateway(status))
    }

    /// A good answer, or one that says that there is nothing.
    fn read(&self, path: &str, most: usize) -> Result<(StatusCode, Vec<u8>)> {
        let response = self.send(Method::GET, path, None)?;
        let status = response.status();
        let bytes = whole(response, if status.is_success() { most } else { LONGEST_REFUSAL })?;
        match status {
            StatusCode::NOT_FOUND => Ok((status, bytes)),
            status if status.is_success() => Ok((status, bytes)),
            status => said(status, &String::from_utf8_lossy(&bytes)).map(|_| (status, Vec::new())),
        }
    }

    /// One request and its answer, whatever that is; an error if there is none.
    pub(crate) fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Exchanged> {
        let response = self.send_with(method, path, headers, body)?;
        let status = response.status().as_u16();
        let replayed = response.headers().get("idempotent-replayed").is_some_and(|value| value == "true");
        let body = serde_json::from_str(&self.text(response)?).unwrap_or_default();
        Ok(Exchanged { status, body, replayed })
    }

    /// Where something is found.
    pub(crate) fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.answer(self.send(method, path, body)?)
    }

    /// The body of a good answer, or what a refusal says.
    fn answer(&self, response: Response) -> Result<Value> {
        let status = response.status();
        said(status, &self.text(response)?)
    }

    fn text(&self, response: Response) -> Result<String> {
        whole(response, self.longest).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response> {
        self.send_with(method, path, &[], body)
    }

    fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Response> {
        let mut request = self.http.request(method, self.address(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        request.send().map_err(|error| {
            Error::new(format!("no gateway answers at `{}`", self.base))
                .because(error)
                .hint("start one with `countersign serve`, or name another with --url")
        })
    }
}

fn no_gateway(status: impl std::fmt::Display) -> Error {
    Error::new(format!("the gateway answered {status}, and not as one does"))
        .hint("is it really a Countersign gateway that --url names?")
}

/// What was answered, of at most so many bytes, however well they were packed.
fn whole(response: Response, most: usize) -> Result<Vec<u8>> {
    let (address, mut bytes) = (response.url().to_string(), Vec::new());
    let read = response.take(most as u64 + 1).read_to_end(&mut bytes);
    read.while_we(|| "the gateway's answer broke off".to_owned())?;
    if bytes.len() > most {
        return Err(Error::new(format!("`{address}` is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// From where a list was gone on with. Whoever answers may be the one that is audited: a list that leads back to where it was has no end.
#[derive(Default)]
pub(crate) struct Cursors(HashSet<String>);

impl Cursors {
    /// The next one, if there is one; an error if it was there before.
    pub(crate) fn next(&mut self, cursor: Option<&str>) -> Result<Option<String>> {
        match cursor {
            Some(cursor) if !self.0.insert(cursor.to_owned()) => {
                Err(Error::new("the gateway's list leads back to where it was: a cursor stands twice in it"))
            }
            cursor => Ok(cursor.map(str::to_owned)),
        }
    }
}

fn said(status: StatusCode, text: &str) -> Result<Value> {
    let body: Option<Value> =
        if text.is_empty() { Some(Value::Null) } else { serde_json::from_str(text).ok() };
    match body {
        Some(body) if status.is_success() => Ok(body),
        Some(body) if body["code"].is_string() => Err(refusal(&body, status.as_u16())),
        // The sandbox says more, in a shape of its own.
        Some(body) if body["error"]["code"].is_string() => Err(refusal(&body["error"], status.as_u16())),
        _ => Err(no_gateway(status)),
    }
}

/// What a refusal says.
pub(crate) fn refusal(said: &Value, status: u16) -> Error {
    let text = |member: &str| said[member].as_str().unwrap_or_default();
    let advice = said["remediation"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let hint = match (advice.collect::<Vec<_>>().join("; "), text("request_id")) {
        // What the caller can mend is said here; the log tells of what the gateway could not do.
        (advice, id) if advice.is_empty() && status >= 500 && !id.is_empty() => {
            Some(format!("the gateway's log has more under request id {id}"))
        }
        (advice, _) => Some(advice).filter(|advice| !advice.is_empty()),
    };
    // Where it repeats words of the request it says so apart from its own; where it lists mistakes, each on its line.
    let message = said["untrusted_text"].as_str().unwrap_or(text("message"));
    let place = said["field"].as_str().filter(|field| !message.contains(field));
    let place = place.map(|field| format!(" (field `{}`)", out::shown_lines(field))).unwrap_or_default();
    Error::new(format!("{}: {}{place}", text("code"), out::shown_lines(message))).maybe_hint(hint)
}

/// Longer than any page is.
const LONGEST_ANSWER: usize = 64 << 20;
/// Longer than any refusal is.
const LONGEST_REFUSAL: usize = 64 << 10;

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A path segment or query value, with whatever could end it escaped.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) { out.push(char::from(byte)) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// Whoever is asked, and answers everything with this head and as much of the body as is taken.
    fn answering(head: &'static str, piece: &'static [u8]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut asked) = (stream.unwrap(), [0; 4096]);
                let _ = stream.read(&mut asked).unwrap();
                stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
                // Until it is hung up on, where there is more of it than one piece.
                while stream.write_all(piece).is_ok() && piece.len() > 1000 {}
            }
        });
        Client::new(&at, None).unwrap()
    }

    #[test]
    fn an_answer_without_end_is_given_up() {
        static PIECE: [u8; 1 << 16] = [b' '; 1 << 16];
        for head in ["200 OK", "500 No", "200 OK\r\nLink: <?cursor=2>"] {
            let client = answering(head, &PIECE);
            assert_eq!(client.longest, 64 << 20);
            // It is read as far as that, whatever it is.
            let client = Client { longest: 1 << 20, ..client };
            let exchanged = client.exchange(Method::GET, "/x", &[], None).map(drop);
            let list = client.list("/x").map(drop);
            for read in [exchanged, list, client.get("/x").map(drop), client.page("/x").map(drop)] {
                let why = read.unwrap_err().to_string();
                assert!(why.ends_with("/x` is longer than 1048576 bytes"), "{why}");
            }
        }
    }

    #[test]
    fn a_list_that_leads_back_to_where_it_was_is_given_up() {
        let client = answering("200 OK", br#"{"items": [1], "next_cursor": "2"}"#);
        let why = client.list("/x").unwrap_err().to_string();
        assert!(why.contains("a cursor stands twice"), "{why}");
        let mut cursors = Cursors::default();
        assert_eq!(cursors.next(Some("1")).unwrap().as_deref(), Some("1"));
        assert_eq!(cursors.next(Some("2")).unwrap().as_deref(), Some("2"));
        assert!(cursors.next(Some("1")).is_err());
        assert_eq!(cursors.next(None).unwrap(), None);
    }

    #[test]
    fn mistakes_stay_on_lines_of_their_own() {
        let said =
            serde_json::json!({"code": "EP_VALIDATION_FAILED", "message": "a:1: one\nb:2: two\u{1b}[2J"});
        let told = refusal(&said, 422).to_string();
        assert_eq!(told, "EP_VALIDATION_FAILED: a:1: one\nb:2: two\\u{1b}[2J");
    }

    #[test]
    fn a_refusal_names_the_member_unless_its_words_do() {
        let said = |message| {
            let said =
                serde_json::json!({ "code": "EP_STATE_CONFLICT", "message": message, "field": "/actions/3" });
            refusal(&said, 409).to_string()
        };
        assert_eq!(said("it is over"), "EP_STATE_CONFLICT: it is over (field `/actions/3`)");
        assert_eq!(said("/actions/3 is over"), "EP_STATE_CONFLICT: /actions/3 is over");
    }
}
