//! What is sent: the template of one request.

use std::sync::Arc;

use action::Archetype;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::auth::unusable;
use crate::Secrets;
use crate::egress::{self, Origin};
use crate::reader::{Mistake, Node, Table, below};
use crate::secrets::{self, Secret};
use crate::template::{ActionPart, Knows, Scalar, Scope, Slot, Tree, Unfilled, Values};

/// One request, waiting for its values.
#[derive(Debug)]
pub(super) struct Template {
    method: Method,
    /// Percent-encoded and fixed, without a slash at its end.
    base_path: String,
    path: Vec<Scalar>,
    params: Vec<(String, Scalar)>,
    headers: Vec<(HeaderName, Header)>,
    body: Option<Tree>,
    /// Sent with this request, so struck from its answer.
    pub(super) secrets: Vec<Arc<Secret>>,
}

#[derive(Debug)]
enum Header {
    Plain(Scalar),
    Secret { secret: Arc<Secret>, prefix: String },
}

/// Why a request could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unmade {
    #[error(transparent)]
    Unfilled(#[from] Unfilled),
    #[error(transparent)]
    Secret(#[from] secrets::Error),
}

/// What is the same for all requests of a binding.
pub(super) struct Common<'a> {
    pub(super) archetype: &'a Archetype,
    pub(super) secrets: &'a Secrets,
    pub(super) origin: &'a Origin,
    pub(super) base_path: &'a str,
    /// Set by the binding's `auth`, so not to be set by its requests.
    pub(super) auth_headers: &'static [&'static str],
    pub(super) headers: Option<Node<'a>>,
}

impl Template {
    /// The members that [`Template::read`] takes from the table of an operation.
    pub(super) const MEMBERS: [&str; 5] = ["method", "path", "params", "headers", "body"];

    pub(super) fn read(
        table: &Table<'_>,
        common: &Common<'_>,
        knows: Knows,
        otherwise: Method,
    ) -> Result<Template, Mistake> {
        let scope = Scope { archetype: common.archetype, knows };
        let body = table.get("body").map(|node| Tree::read(&node, scope)).transpose()?;
        if matches!(&body, Some(Tree::Slot(Slot::Value { optional: true, .. }))) {
            return Err(Mistake::new(&below(&table.at, "body"), "a whole body cannot be optional"));
        }
        let method = read_method(table, if body.is_some() { Method::POST } else { otherwise })?;
        if method == Method::GET && body.is_some() {
            return Err(Mistake::new(&table.at, "a GET has no body").hint("use `params`"));
        }
        let headers = read_headers(table, common, scope)?;
        let secrets = headers.iter().filter_map(|(_, header)| header.secret()).cloned().collect();
        Ok(Template {
            method,
            base_path: common.base_path.to_owned(),
            path: table.get("path").map_or(Ok(Vec::new()), |node| read_path(&node, scope))?,
            params: table.get("params").map_or(Ok(Vec::new()), |node| read_params(&node, scope))?,
            headers,
            body,
            secrets,
        })
    }

    /// The request with its slots filled.
    pub(super) fn fill(
        &self,
        values: &Values<'_>,
        origin: &Origin,
        most_bytes: usize,
    ) -> Result<egress::Request, Unmade> {
        let body = match &self.body {
            Some(tree) => tree.fill(values)?,
            None => None,
        };
        Ok(egress::Request {
            method: self.method.clone(),
            path_and_query: self.path_and_query(values)?,
            headers: self.filled_headers(values, origin)?,
            body: body.map(|value| value.to_string().into_bytes()),
            most_bytes,
        })
    }

    /// Whether the request carries this part of the action, so that the provider can know it again.
    pub(super) fn carries(&self, part: ActionPart) -> bool {
        let scalars = self.path.iter().chain(self.params.iter().map(|(_, scalar)| scalar));
        let headers = self.headers.iter().filter_map(|(_, header)| match header {
            Header::Plain(scalar) => Some(scalar),
            Header::Secret { .. } => None,
        });
        let slots = scalars.chain(headers).filter_map(Scalar::slot);
        let in_body = self.body.iter().flat_map(Tree::slots);
        slots.chain(in_body).any(|slot| matches!(slot, Slot::Action(found) if *found == part))
    }

    fn path_and_query(&self, values: &Values<'_>) -> Result<String, Unmade> {
        let mut text = self.base_path.clone();
        for scalar in &self.path {
            let Some(segment) = scalar.fill(values)? else { continue };
            if !is_safe_segment(&segment) {
                return Err(Unfilled::Segment(scalar.place()).into());
            }
            text.push('/');
            push_encoded(&mut text, &segment);
        }
        if text.is_empty() {
            text.push('/');
        }
        let mut separator = '?';
        for (name, scalar) in &self.params {
            let Some(value) = scalar.fill(values)? else { continue };
            text.push(separator);
            push_encoded(&mut text, name);
            text.push('=');
            push_encoded(&mut text, &value);
            separator = '&';
        }
        Ok(text)
    }

    fn filled_headers(&self, values: &Values<'_>, origin: &Origin) -> Result<HeaderMap, Unmade> {
        let mut filled = HeaderMap::with_capacity(self.headers.len() + 2);
        filled.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if self.body.is_some() {
            filled.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, header) in &self.headers {
            if let Some(value) = header.fill(values, origin)? {
                filled.insert(name, value);
            }
        }
        Ok(filled)
    }
}

impl Header {
    fn read(node: &Node<'_>, common: &Common<'_>, scope: Scope<'_>) -> Result<Header, Mistake> {
        let named = match node.value {
            Value::String(text) => text.strip_prefix("secret:").map(|name| (name, "")),
            Value::Object(members) if members.contains_key("$secret") => {
                let table = node.table(&["$secret", "prefix"])?;
                let prefix = table.get("prefix").map_or(Ok(""), |prefix| prefix.text())?;
                Some((table.need("$secret")?.text()?, prefix))
            }
            _ => None,
        };
        let Some((name, prefix)) = named else { return Header::read_plain(node, scope) };
        if HeaderValue::from_str(prefix).is_err() {
            return Err(node.mistake("the prefix cannot stand in a header"));
        }
        let secret = common.secrets.get(name).map_err(|error| unusable(node, &error))?;
        secret.may_go_to(common.origin).map_err(|error| unusable(node, &error))?;
        Ok(Header::Secret { secret: Arc::clone(secret), prefix: prefix.to_owned() })
    }

    fn read_plain(node: &Node<'_>, scope: Scope<'_>) -> Result<Header, Mistake> {
        let scalar = Scalar::read(node, scope)?;
        match &scalar {
            Scalar::Fixed(text) if header_value(text).is_none() => {
                Err(node.mistake("this text cannot stand in a header").hint("printable ASCII only"))
            }
            _ => Ok(Header::Plain(scalar)),
        }
    }

    fn fill(&self, values: &Values<'_>, origin: &Origin) -> Result<Option<HeaderValue>, Unmade> {
        match self {
            Header::Secret { secret, prefix } => Ok(Some(secret.header_for(origin, prefix)?)),
            Header::Plain(scalar) => match scalar.fill(values)? {
                Some(text) => Ok(Some(header_value(&text).ok_or_else(|| Unfilled::Header(scalar.place()))?)),
                None => Ok(None),
            },
        }
    }

    fn secret(&self) -> Option<&Arc<Secret>> {
        match self {
            Header::Secret { secret, .. } => Some(secret),
            Header::Plain(_) => None,
        }
    }
}

fn read_method(table: &Table<'_>, otherwise: Method) -> Result<Method, Mistake> {
    let Some(node) = table.get("method") else { return Ok(otherwise) };
    let text = node.text()?;
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE]
        .into_iter()
        .find(|method| method.as_str() == text)
        .ok_or_else(|| {
            node.mistake(format!("`{text}` is not a method")).hint("GET, POST, PUT, PATCH or DELETE")
        })
}

/// A fixed path as one string, or a list of segments.
fn read_path(node: &Node<'_>, scope: Scope<'_>) -> Result<Vec<Scalar>, Mistake> {
    let segments = match node.value {
        Value::String(text) => {
            let inner = text.strip_prefix('/').ok_or_else(|| node.mistake("a path begins with `/`"))?;
            inner.split('/').map(|segment| Scalar::Fixed(segment.to_owned())).collect()
        }
        _ => node.items()?.iter().map(|item| Scalar::read(item, scope)).collect::<Result<Vec<_>, _>>()?,
    };
    for segment in &segments {
        if matches!(segment, Scalar::Fixed(text) if !is_safe_segment(text)) {
            let hint = "segments are not empty and neither `.` nor `..`; query parameters go into `params`";
            return Err(node.mistake("the path has a segment that is not one").hint(hint));
        }
        if matches!(segment, Scalar::Slot(Slot::Value { optional: true, .. })) {
            return Err(node.mistake("a path segment cannot be optional"));
        }
    }
    Ok(segments)
}

fn read_params(node: &Node<'_>, scope: Scope<'_>) -> Result<Vec<(String, Scalar)>, Mistake> {
    let read = |(name, value): (&str, Node<'_>)| Ok((name.to_owned(), Scalar::read(&value, scope)?));
    node.entries()?.into_iter().map(read).collect()
}

/// The headers of the binding, then those of the operation, which win.
fn read_headers(
    table: &Table<'_>,
    common: &Common<'_>,
    scope: Scope<'_>,
) -> Result<Vec<(HeaderName, Header)>, Mistake> {
    let mut headers: Vec<(HeaderName, Header)> = Vec::new();
    for node in common.headers.iter().cloned().chain(table.get("headers")) {
        for (name, value) in node.entries()? {
            let name = header_name(name, &value, common.auth_headers)?;
            let header = Header::read(&value, common, scope)?;
            headers.retain(|(earlier, _)| *earlier != name);
            headers.push((name, header));
        }
    }
    Ok(headers)
}

fn header_name(name: &str, node: &Node<'_>, auth_headers: &[&str]) -> Result<HeaderName, Mistake> {
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| node.mistake(format!("`{name}` is not a header name")))?;
    if OURS.contains(&parsed.as_str()) || parsed.as_str().starts_with("proxy-") {
        return Err(node.mistake(format!("the header `{name}` belongs to the connection and cannot be set")));
    }
    if auth_headers.contains(&parsed.as_str()) {
        return Err(node
            .mistake(format!("the header `{name}` is set by `auth`"))
            .hint("leave one of the two out"));
    }
    Ok(parsed)
}

/// Printable ASCII, so that no value can end a header and begin another.
fn header_value(text: &str) -> Option<HeaderValue> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if printable { HeaderValue::from_str(text).ok() } else { None }
}

/// Whether a text is one path segment, also for a server that decodes it before it looks for slashes.
fn is_safe_segment(text: &str) -> bool {
    !text.is_empty()
        && !text.chars().any(char::is_control)
        && !text.split(['/', '\\']).any(|part| matches!(part, "." | ".."))
}

/// Everything but RFC 3986's unreserved characters is encoded.
fn push_encoded(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// Headers that decide where a message goes or where it ends, or that the client sets itself.
const OURS: [&str; 11] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "accept-encoding",
    "user-agent",
];
