//! A request on its way to a face, and what faces read from it: headers, query, body. Everything has a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use action::{Environment, IdempotencyKey, json};
use bytes::Bytes;
use gateway::{Code, Error, Gateway, Spelling};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::reply::Said;
use crate::site::Site;
use crate::who;

/// A request that has found its route.
pub(crate) struct Request {
    pub site: Arc<Site>,
    /// The environment its path stands for.
    pub environment: Environment,
    pub head: Parts,
    /// What stands in the path at the place of `{…}`.
    pub argument: String,
    /// `X-Request-Id`, the caller's or ours.
    pub id: HeaderValue,
    pub body: Body,
    /// Whether its caller was known by what it brought, and nobody looks again whether that holds once the body is there.
    pub known: AtomicBool,
    /// Whether its body did not come with its head.
    pub took_long: bool,
}

/// A body, from the network or from memory.
pub(crate) enum Body {
    /// Still arriving; and where to note that all of it was read.
    Arriving(Incoming, Arc<AtomicBool>),
    /// All there.
    Whole(Bytes),
}

impl Request {
    /// The gateway of this request's environment.
    pub(crate) fn gateway(&self) -> Result<Arc<Gateway>, Error> {
        let gateway = self.site.gateway(self.environment).cloned()?;
        // A store that forgot something is read, and not gone on with.
        if !self.head.method.is_safe() {
            gateway.must_be_whole()?;
        }
        Ok(gateway)
    }

    /// The request's id as text.
    pub(crate) fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// The whole body, if it is said to be JSON and not too long.
    pub(crate) async fn take_body(&mut self) -> Result<Vec<u8>, Error> {
        must_be(&self.head.headers, JSON)?;
        self.read_body().await
    }

    /// The whole body and how it is written, if it is said to be JSON or YAML and is not too long.
    pub(crate) async fn take_spelled(&mut self) -> Result<(Spelling, Vec<u8>), Error> {
        let headers = &self.head.headers;
        let is = |essence: &&str| must_be(headers, essence).is_ok();
        let spelling = match (is(&JSON), YAML.iter().any(is)) {
            (true, _) => Spelling::Json,
            (false, true) => Spelling::Yaml,
            (false, false) => {
                let why = "the body must be application/json or application/yaml";
                return Err(Error::new(Code::UnsupportedMediaType, why).field("Content-Type"));
            }
        };
        Ok((spelling, self.read_body().await?))
    }

    /// The whole body, if it is said to be a security event token and not too long.
    pub(crate) async fn take_token(&mut self) -> Result<Vec<u8>, Error> {
        let wrong = |mut error: Error| {
            error.message = format!("the body must be {SECEVENT}");
            error
        };
        must_be(&self.head.headers, SECEVENT).map_err(wrong)?;
        self.read_body().await
    }

    async fn read_body(&mut self) -> Result<Vec<u8>, Error> {
        self.read_body_of(self.site.limits.body_bytes).await
    }

    /// The whole body, whatever it is said to be, if it has at most so many bytes. Whoever takes their time with it has to be known
    /// still when it is there: their key may have been revoked meanwhile.
    pub(crate) async fn read_body_of(&mut self, most: usize) -> Result<Vec<u8>, Error> {
        let limits = &self.site.limits;
        let declared =
            self.head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let expected: usize = declared.unwrap_or(0);
        if expected > most {
            return Err(Error::new(Code::BodyTooLarge, "the body is too long"));
        }
        let body = std::mem::replace(&mut self.body, Body::Whole(Bytes::new()));
        let (read, began) = (body.read(expected, most), Instant::now());
        let read = tokio::time::timeout(limits.body_timeout, read).await;
        let read =
            read.unwrap_or_else(|_| Err(Error::new(Code::MalformedBody, "the body did not arrive in time")))?;
        self.took_long = began.elapsed() > AT_ONCE;
        if self.took_long {
            who::is_still_known(self).await?;
        }
        Ok(read)
    }

    /// The body as one of the gateway's own requests; unknown members are refused.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        read(self.value().await?)
    }

    /// The body as whatever JSON it is.
    pub(crate) async fn value(&mut self) -> Result<Value, Error> {
        parse(&self.take_body().await?)
    }

    /// The same where a body may be left out, which then is an empty object.
    pub(crate) async fn value_if_any(&mut self) -> Result<Value, Error> {
        if self.body.is_absent() { Ok(Value::Object(serde_json::Map::new())) } else { self.value().await }
    }

    /// The same where a body may be left out.
    pub(crate) async fn json_if_any<T: DeserializeOwned + Default>(&mut self) -> Result<T, Error> {
        if self.body.is_absent() { Ok(T::default()) } else { self.json().await }
    }

    /// The fields of a form that a page of ours sent, if all of them are among `known` and none stands twice.
    pub(crate) async fn form<const N: usize>(
        &mut self,
        known: [&'static str; N],
    ) -> Result<[Option<String>; N], Error> {
        must_be(&self.head.headers, FORM)?;
        let body = self.read_body().await?;
        let mut found = [const { None }; N];
        for (name, value) in url::form_urlencoded::parse(&body) {
            let place = known.iter().position(|known| *known == name);
            let wrong = || Error::new(Code::ValidationFailed, "this is not a form of this page");
            if found[place.ok_or_else(wrong)?].replace(value.into_owned()).is_some() {
                return Err(wrong());
            }
        }
        Ok(found)
    }

    /// The query's parameters, if all of them are among `known` and none stands twice. A misspelled parameter is an
    /// error: whoever writes `?dryrun=true` does not mean to act.
    pub(crate) fn query<const N: usize>(
        &self,
        known: [&'static str; N],
    ) -> Result<[Option<String>; N], Error> {
        let mut found = [const { None }; N];
        let query = self.head.uri.query().unwrap_or_default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let wrong = |why: &str| {
                Error::new(Code::ValidationFailed, format!("query parameter `{name}` {why}"))
                    .field(format!("?{name}"))
            };
            let place = known.iter().position(|known| *known == name).ok_or_else(|| wrong("is not known"))?;
            if value.contains('\0') {
                return Err(wrong("has a character in it that is none (U+0000)"));
            }
            if found[place].replace(value.into_owned()).is_some() {
                return Err(wrong("stands twice"));
            }
        }
        Ok(found)
    }
}

/// A body that is there so soon came with its head.
const AT_ONCE: Duration = Duration::from_millis(100);

/// One of the gateway's own requests; unknown members are refused.
pub(crate) fn read<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    json::read(&value).map_err(|misread| {
        let error = Error::new(Code::ValidationFailed, misread.to_string());
        at(error, misread.field)
    })
}

/// The same, of JSON that stands in a field of a form.
pub(crate) fn read_text<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    read(parse(text.as_bytes())?)
}

fn parse(text: &[u8]) -> Result<Value, Error> {
    json::parse(text).map_err(|broken| at(Error::new(Code::MalformedBody, broken.to_string()), broken.field))
}

/// At this member, or at none if it is the whole.
fn at(error: Error, field: String) -> Error {
    if field.is_empty() { error } else { error.field(field) }
}

impl Body {
    fn is_absent(&self) -> bool {
        match self {
            Body::Arriving(incoming, _) => incoming.is_end_stream(),
            Body::Whole(bytes) => bytes.is_empty(),
        }
    }

    async fn read(self, expected: usize, most: usize) -> Result<Vec<u8>, Error> {
        let (mut incoming, read) = match self {
            Body::Whole(bytes) if bytes.len() > most => {
                return Err(Error::new(Code::BodyTooLarge, "the body is too long"));
            }
            Body::Whole(bytes) => return Ok(bytes.into()),
            Body::Arriving(incoming, read) => (incoming, read),
        };
        let mut whole = Vec::with_capacity(expected);
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|_| Error::new(Code::MalformedBody, "the body broke off"))?;
            let Some(data) = frame.data_ref() else { continue };
            if whole.len() + data.len() > most {
                return Err(Error::new(Code::BodyTooLarge, "the body is too long"));
            }
            whole.extend_from_slice(data);
        }
        read.store(true, Ordering::Relaxed);
        Ok(whole)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::Whole(bytes.into())
    }
}

/// What every face answers with.
pub(crate) type Response = http::Response<Said>;

pub(crate) const EP_VERSION: HeaderName = HeaderName::from_static("ep-version");
pub(crate) const EP_MODE: HeaderName = HeaderName::from_static("ep-mode");
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The only version of the protocol spoken here.
const VERSION: &str = "2026-04-27";

/// A header that may stand once, as text.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |why: &str| Error::new(Code::ValidationFailed, why.to_owned()).field(name.as_str());
    if values.next().is_some() {
        return Err(wrong("a header stands twice"));
    }
    value.to_str().map(Some).map_err(|_| wrong("a header is not ASCII"))
}

/// The environment of a request to `/api/execute` or below a path that implies one. `EP-Mode: sandbox` moves a
/// request to the plain path into the sandbox; anything that contradicts the path is refused.
pub(crate) fn mode(headers: &HeaderMap, path: Environment, may_choose: bool) -> Result<Environment, Error> {
    let wrong = |why: &str| Error::new(Code::ValidationFailed, why.to_owned()).field("EP-Mode");
    let asked = match single(headers, &EP_MODE)? {
        None => return Ok(path),
        Some("production") => Environment::Production,
        Some("sandbox") => Environment::Sandbox,
        Some(_) => return Err(wrong("EP-Mode is neither production nor sandbox")),
    };
    let moved = path == Environment::Production && may_choose;
    if asked == path || moved { Ok(asked) } else { Err(wrong("EP-Mode contradicts the path")) }
}

/// Where a proxy in front may have found another end of the body than we did, nobody knows what the next request is.
pub(crate) fn transfer_coding(headers: &HeaderMap) -> Result<(), Error> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Error::new(Code::MalformedBody, "the only transfer coding understood here is chunked")
            .field("Transfer-Encoding")),
    }
}

/// `EP-Version` is required in production and understood in the sandbox.
pub(crate) fn version(headers: &HeaderMap, environment: Environment) -> Result<(), Error> {
    match single(headers, &EP_VERSION)? {
        Some(VERSION) => Ok(()),
        None if environment == Environment::Sandbox => Ok(()),
        _ => Err(Error::new(Code::VersionUnsupported, errors_message(Code::VersionUnsupported))
            .field("EP-Version")),
    }
}

/// The key of an action; in production there must be one.
pub(crate) fn idempotency_key(
    headers: &HeaderMap,
    environment: Environment,
) -> Result<Option<IdempotencyKey>, Error> {
    match single(headers, &IDEMPOTENCY_KEY)? {
        Some(value) => IdempotencyKey::parse(value)
            .map(Some)
            .map_err(|error| Error::new(Code::ValidationFailed, error.to_string()).field("Idempotency-Key")),
        None if environment == Environment::Sandbox => Ok(None),
        None => Err(Error::new(Code::IdempotencyRequired, errors_message(Code::IdempotencyRequired))
            .field("Idempotency-Key")),
    }
}

fn errors_message(code: Code) -> &'static str {
    crate::errors::entry(code).message
}

const JSON: &str = "application/json";
/// RFC 8417.
pub(crate) const SECEVENT: &str = "application/secevent+jwt";
/// The registered type, and those that were used before it.
pub(crate) const YAML: [&str; 3] = ["application/yaml", "application/x-yaml", "text/yaml"];
const FORM: &str = "application/x-www-form-urlencoded";

/// Of this type, in UTF-8 if a charset is named.
fn must_be(headers: &HeaderMap, expected: &str) -> Result<(), Error> {
    let value = single(headers, &CONTENT_TYPE).ok().flatten().unwrap_or_default();
    let mut parts = value.split(';').map(str::trim);
    let right = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(expected));
    let utf8 = parts.filter(|part| !part.is_empty()).all(|part| match part.split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => {
            charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if right && utf8 {
        return Ok(());
    }
    let code = Code::UnsupportedMediaType;
    Err(Error::new(code, errors_message(code)).field("Content-Type"))
}

/// Names requests that came without a name: unique among gateways by a random part, in this one by counting.
pub(crate) struct RequestIds {
    random: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> RequestIds {
        let random = uuid::Uuid::now_v7().as_u64_pair().1;
        RequestIds { random, next: AtomicU64::new(1) }
    }

    /// The caller's own id if it is short and plain, else a new one.
    pub(crate) fn name(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(X_REQUEST_ID) {
            // A copy of its own, because a clone would hold all that was read together with it.
            Some(value) if is_plain(value.as_bytes()) => {
                HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| self.make())
            }
            _ => self.make(),
        }
    }

    fn make(&self) -> HeaderValue {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let mut text = *b"req-0000000000000000-0000000000";
        hex(&mut text[4..20], self.random);
        hex(&mut text[21..], count);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("req"))
    }
}

fn hex(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
}

fn is_plain(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    (1..=128).contains(&id.len()) && id.iter().all(plain)
}

/// Bounds on what one process takes on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the system's queue.
    pub connections: usize,
    /// Requests being answered at once; more are told to come back.
    pub requests: usize,
    /// Streams of one HTTP/2 connection.
    pub streams: u32,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Time for a body to arrive.
    pub body_timeout: Duration,
    /// Time for a connection's greeting and each request's head to arrive.
    pub head_timeout: Duration,
    /// How long a connection lasts whose other end takes nothing of what there is to say to it. Linux sees to that.
    pub unread_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 16_384,
            requests: 32_768,
            streams: 256,
            body_bytes: gateway::MOST_BODY,
            body_timeout: Duration::from_secs(20),
            head_timeout: Duration::from_secs(10),
            unread_timeout: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
        result.expect_err("it must be refused").code
    }

    #[test]
    fn the_mode_may_move_a_request_into_the_sandbox_but_never_out_of_it() {
        use Environment::{Production, Sandbox};
        let sandbox = headers(&[("ep-mode", "sandbox")]);
        let production = headers(&[("ep-mode", "production")]);
        assert_eq!(mode(&headers(&[]), Production, true), Ok(Production));
        assert_eq!(mode(&sandbox, Production, true), Ok(Sandbox));
        assert_eq!(mode(&production, Production, true), Ok(Production));
        assert_eq!(mode(&sandbox, Sandbox, false), Ok(Sandbox));
        assert_eq!(code(mode(&production, Sandbox, false)), Code::ValidationFailed);
        assert_eq!(code(mode(&sandbox, Production, false)), Code::ValidationFailed);
        assert_eq!(code(mode(&headers(&[("ep-mode", "Sandbox")]), Production, true)), Code::ValidationFailed);
    }

    #[test]
    fn the_version_is_required_in_production_and_never_another() {
        let right = headers(&[("ep-version", "2026-04-27")]);
        let wrong = headers(&[("ep-version", "2026-04-28")]);
        for environment in [Environment::Production, Environment::Sandbox] {
            assert_eq!(version(&right, environment), Ok(()));
            assert_eq!(code(version(&wrong, environment)), Code::VersionUnsupported);
        }
        assert_eq!(version(&headers(&[]), Environment::Sandbox), Ok(()));
        assert_eq!(code(version(&headers(&[]), Environment::Production)), Code::VersionUnsupported);
    }

    #[test]
    fn a_bare_key_and_a_quoted_one_are_the_same() {
        let key = |value| idempotency_key(&headers(&[("idempotency-key", value)]), Environment::Production);
        assert_eq!(key("abc-1"), key("\"abc-1\""));
        assert!(key("abc-1").is_ok_and(|key| key.is_some()));
        assert_eq!(code(key("a b\"c")), Code::ValidationFailed);
        let twice = headers(&[("idempotency-key", "a"), ("idempotency-key", "a")]);
        assert_eq!(code(idempotency_key(&twice, Environment::Production)), Code::ValidationFailed);
        assert_eq!(code(idempotency_key(&headers(&[]), Environment::Production)), Code::IdempotencyRequired);
        assert_eq!(idempotency_key(&headers(&[]), Environment::Sandbox), Ok(None));
    }

    #[test]
    fn only_json_in_utf8_is_a_body() {
        let json = |value| must_be(&headers(&[("content-type", value)]), JSON).is_ok();
        assert!(json("application/json"));
        assert!(json("Application/JSON; charset=\"UTF-8\""));
        for wrong in ["text/json", "application/json; charset=latin1", "application/jsonp", "", "text/plain"]
        {
            assert!(!json(wrong), "{wrong}");
        }
        assert!(must_be(&headers(&[]), JSON).is_err());
    }

    #[test]
    fn a_request_id_is_echoed_only_if_it_is_plain() {
        let ids = RequestIds::new();
        let name = |value| ids.name(&headers(&[("x-request-id", value)]));
        assert_eq!(name("abc-1"), "abc-1");
        for strange in ["", "a b", "a\"b", "<script>", "a\tb"] {
            assert!(name(strange).to_str().is_ok_and(|id| id.starts_with("req-")), "{strange}");
        }
        assert_ne!(ids.name(&headers(&[])), ids.name(&headers(&[])));
    }
}
