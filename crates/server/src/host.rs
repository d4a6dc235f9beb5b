//! Which names we answer to and which pages may call us.
//!
//! A browser that was lured to a private address under a public name says that name in `Host`; a page of another
//! origin says so in `Origin`. Neither is ours, so neither is answered, on any face.

use std::net::{IpAddr, SocketAddr};

use gateway::{Code, Error};
use http::header::{HOST, ORIGIN};
use http::request::Parts;
use url::Url;

/// The names and origins that are ours.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    names: Vec<String>,
    origins: Vec<String>,
}

impl Hosts {
    /// Loopback names on a loopback listener, the listener's own address, the host of `public_url`, and what the
    /// operator lists. Of an address as a name nothing is to be feared: nobody but us can make it lead here.
    pub(crate) fn new(
        listen: SocketAddr,
        public_url: &str,
        tls: bool,
        hosts: &[String],
        origins: &[String],
    ) -> Hosts {
        let mut own = Hosts { names: Vec::new(), origins: Vec::new() };
        let scheme = if tls { "https" } else { "http" };
        let local = listen.ip().is_loopback();
        let mut near: Vec<String> = Vec::new();
        if local {
            near.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
        }
        if !listen.ip().is_unspecified() {
            near.push(shown(listen.ip()));
        }
        for name in near {
            own.origins.push(origin(scheme, &name, listen.port()));
            own.names.push(name);
        }
        if let Some((name, origin)) = named(public_url) {
            own.names.push(name);
            own.origins.push(origin);
        }
        own.names.extend(hosts.iter().map(|host| host.to_ascii_lowercase()));
        own.origins.extend(origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()));
        own
    }

    /// Lets a request through that was meant for us.
    ///
    /// # Errors
    /// `EP_MISDIRECTED_REQUEST` for another host's name or none, `EP_FORBIDDEN` for a page of another origin.
    pub(crate) fn check(&self, head: &Parts) -> Result<(), Error> {
        let mut hosts = head.headers.get_all(HOST).iter();
        let first = hosts.next().map(|host| host.to_str().unwrap_or_default());
        let authority = head.uri.authority().map(|authority| authority.as_str());
        // Both may be there; then both must be ours. A second header, or none at all, is nobody's.
        let ours = (first.is_some() || authority.is_some())
            && hosts.next().is_none()
            && first.into_iter().chain(authority).all(|host| self.is_ours(host));
        if !ours {
            return Err(Error::new(Code::MisdirectedRequest, "this is not the gateway's name").field("Host"));
        }
        let foreign = |value: &http::HeaderValue| !value.to_str().is_ok_and(|origin| self.has_origin(origin));
        if head.headers.get_all(ORIGIN).iter().any(foreign) {
            return Err(Error::new(Code::Forbidden, "pages of another origin may not call the gateway")
                .field("Origin"));
        }
        Ok(())
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = without_port(host);
        self.names.iter().any(|ours| ours.eq_ignore_ascii_case(name))
    }

    fn has_origin(&self, origin: &str) -> bool {
        self.origins.iter().any(|ours| ours.eq_ignore_ascii_case(origin))
    }
}

/// The name in `name:port`; what is not of that form is left alone and will be nobody's.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => {
            let whole = !name.contains(':') || (name.starts_with('[') && name.ends_with(']'));
            if whole { name } else { host }
        }
        _ => host,
    }
}

fn shown(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn origin(scheme: &str, name: &str, port: u16) -> String {
    match (scheme, port) {
        ("http", 80) | ("https", 443) => format!("{scheme}://{name}"),
        _ => format!("{scheme}://{name}:{port}"),
    }
}

fn named(public_url: &str) -> Option<(String, String)> {
    let url = Url::parse(public_url).ok()?;
    Some((url.host_str()?.to_owned(), url.origin().ascii_serialization()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        let listen = SocketAddr::from(([127, 0, 0, 1], 8787));
        let more = ["Internal.Example".to_owned()];
        Hosts::new(listen, "https://gw.example:8443/", false, &more, &["https://console.example/".to_owned()])
    }

    fn check(uri: &str, headers: &[(&str, &str)]) -> Option<Code> {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        hosts().check(&head).err().map(|error| error.code)
    }

    #[test]
    fn our_names_are_answered_with_any_port_and_in_any_case() {
        for host in [
            "127.0.0.1:8787",
            "localhost",
            "LOCALHOST:1",
            "[::1]:8787",
            "[::1]",
            "gw.example",
            "internal.example:80",
        ] {
            assert_eq!(check("/", &[("host", host)]), None, "{host}");
        }
        assert_eq!(check("http://gw.example/x", &[]), None, "the authority of HTTP/2");
    }

    #[test]
    fn other_names_are_not() {
        let refused = Some(Code::MisdirectedRequest);
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "127.0.0.1:8787:1",
            "localhost:80@evil.example",
            "::1",
            "localhost.",
            "",
            "10.0.0.1",
        ] {
            assert_eq!(check("/", &[("host", host)]), refused, "{host}");
        }
        assert_eq!(check("/", &[]), refused);
        assert_eq!(check("/", &[("host", "localhost"), ("host", "localhost")]), refused);
        assert_eq!(check("http://evil.example/", &[("host", "localhost")]), refused);
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let with = |origin| check("/", &[("host", "localhost"), ("origin", origin)]);
        for ours in [
            "http://127.0.0.1:8787",
            "http://localhost:8787",
            "https://gw.example:8443",
            "https://console.example",
        ] {
            assert_eq!(with(ours), None, "{ours}");
        }
        for other in
            ["https://evil.example", "null", "http://localhost:3000", "https://localhost:8787", "file://"]
        {
            assert_eq!(with(other), Some(Code::Forbidden), "{other}");
        }
    }
}
