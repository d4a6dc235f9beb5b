//! AWS Signature Version 4.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use reqwest::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};
use tracing::subscriber::{NoSubscriber, with_default};

use super::source::{Source, Values};
use super::{Error, Hosts, Secret, sensitive};
use crate::egress::{Origin, Request};

/// What AWS calls an access key, and what it is good for.
#[derive(Clone, Debug)]
pub struct AwsKeys {
    /// The id of the key.
    pub access_key: Source,
    /// The key itself, which never leaves.
    pub secret_key: Source,
    /// For temporary keys; it is sent with each request.
    pub session_token: Option<Source>,
    /// Such as `eu-central-1`.
    pub region: String,
    /// Such as `execute-api`.
    pub service: String,
}

/// Signs requests.
pub(crate) struct AwsSigner {
    hosts: Hosts,
    credentials: Credentials,
    session_token: Option<Arc<Secret>>,
    region: String,
    service: String,
}

/// The request could not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request could not be signed for AWS")]
pub(crate) struct Unsigned;

impl AwsSigner {
    /// What signing sets, so that nothing else may.
    pub(crate) const HEADERS: [&str; 4] =
        ["authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"];

    pub(super) fn load(hosts: Hosts, keys: AwsKeys, values: Values) -> Result<AwsSigner, Error> {
        let AwsKeys { access_key, secret_key, session_token, region, service } = keys;
        for (member, text) in [("region", &region), ("service", &service)] {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if text.is_empty() || !text.bytes().all(plain) {
                let rule = "not of lower-case letters, digits and `-`";
                return Err(Error::Member { name: hosts.name, member, rule });
            }
        }
        let read = |source| values.read(&hosts.name, source);
        let (access, secret) = (read(&access_key)?, read(&secret_key)?);
        // It is shown with each request, and its digest is stored with calls. Most keys that are put here by mistake have
        // characters that no id has.
        if !access.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
            let rule = "not of letters, digits, `_` and `-`: the id of the key belongs there, not the key";
            return Err(Error::Member { name: hosts.name, member: "access_key", rule });
        }
        let session = session_token.as_ref().map(read).transpose()?;
        let credentials = Credentials::new(
            access.as_str(),
            secret.as_str(),
            session.as_deref().cloned(),
            None,
            "the operator's configuration",
        );
        let session_token = session.map(|token| Secret::made(token.to_string(), &hosts));
        Ok(AwsSigner { hosts, credentials, session_token, region, service })
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Whose requests they are: the id of the key, and what it is good for.
    pub(crate) fn account(&self) -> Value {
        json!({
            "access_key": self.credentials.access_key_id(),
            "region": self.region,
            "service": self.service,
        })
    }

    /// Signs everything that the request says as it is now: whatever is added later is not covered. What must not
    /// be seen in the answer comes back.
    pub(crate) fn sign(
        &self,
        request: &mut Request,
        origin: &Origin,
        now_ms: i64,
    ) -> Result<Vec<Arc<Secret>>, Unsigned> {
        let url = format!("{origin}{}", request.path_and_query);
        // The library traces what it signs, and with it values of the action.
        let signature = with_default(NoSubscriber::new(), || self.signature(request, &url, now_ms))?;
        for (name, value) in &signature.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Unsigned)?;
            request.headers.insert(name, sensitive(value).ok_or(Unsigned)?);
        }
        let mut shown = vec![Secret::made(signature.value, &self.hosts)];
        shown.extend(self.session_token.clone());
        Ok(shown)
    }

    fn signature(&self, request: &Request, url: &str, now_ms: i64) -> Result<Signature, Unsigned> {
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(time_at(now_ms))
            .settings(self.settings())
            .build()
            .map_err(|_| Unsigned)?
            .into();
        let signable = SignableRequest::new(
            request.method.as_str(),
            url,
            texts(&request.headers)?.into_iter(),
            SignableBody::Bytes(request.body.as_deref().unwrap_or_default()),
        );
        let (instructions, value) =
            sign(signable.map_err(|_| Unsigned)?, &params).map_err(|_| Unsigned)?.into_parts();
        let headers =
            instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Signature { headers, value })
    }

    /// S3 signs the path as it stands and wants the hash of the body in a header; the others neither.
    fn settings(&self) -> SigningSettings {
        let mut settings = SigningSettings::default();
        if self.service == "s3" {
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        settings
    }
}

impl fmt::Debug for AwsSigner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("AwsSigner")
            .field("hosts", &self.hosts)
            .field("region", &self.region)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

struct Signature {
    headers: Vec<(String, String)>,
    value: String,
}

fn texts(headers: &HeaderMap) -> Result<Vec<(&str, &str)>, Unsigned> {
    headers.iter().map(|(name, value)| Ok((name.as_str(), value.to_str().map_err(|_| Unsigned)?))).collect()
}

fn time_at(now_ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(now_ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use reqwest::Method;
    use reqwest::header::{CONTENT_TYPE, HeaderValue};
    use url::Url;

    use super::*;

    /// 20150830T123600Z, the time of the published examples.
    const THEN_MS: i64 = 1_440_938_160_000;

    fn signer() -> AwsSigner {
        load("AKIDEXAMPLE", None).expect("the keys are there")
    }

    fn load(id: &str, session: Option<&str>) -> Result<AwsSigner, Error> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| -> Source {
            let path: PathBuf = folder.path().join(name);
            std::fs::write(&path, text).expect("it can be written");
            Source::File(path)
        };
        let keys = AwsKeys {
            access_key: write("id", id),
            secret_key: write("key", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: session.map(|token| write("session", token)),
            region: "us-east-1".to_owned(),
            service: "service".to_owned(),
        };
        let hosts = Hosts::parse("aws", vec!["example.amazonaws.com".to_owned()]).expect("it is a host");
        AwsSigner::load(hosts, keys, Values::Real)
    }

    /// What `Authorization` becomes for a request to the host of the published examples.
    fn authorization(request: Request) -> String {
        authorization_by(&signer(), request)
    }

    fn authorization_by(signer: &AwsSigner, mut request: Request) -> String {
        let url = Url::parse("https://example.amazonaws.com").expect("it is a URL");
        let origin = Origin::of(&url).expect("it has an origin");
        signer.sign(&mut request, &origin, THEN_MS).expect("it is signed");
        assert_eq!(request.headers["x-amz-date"], "20150830T123600Z");
        for (name, value) in &request.headers {
            assert!(value.is_sensitive() || !AwsSigner::HEADERS.contains(&name.as_str()), "{name}");
        }
        request.headers["authorization"].to_str().expect("it is text").to_owned()
    }

    fn request(method: Method, body: Option<&str>) -> Request {
        Request {
            method,
            path_and_query: "/".to_owned(),
            headers: HeaderMap::new(),
            body: body.map(|text| text.as_bytes().to_vec()),
            most_bytes: 1000,
        }
    }

    #[test]
    fn the_published_get_has_the_published_signature() {
        assert_eq!(
            authorization(request(Method::GET, None)),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
    }

    /// From the test suite that Amazon publishes for signers, as far as it is about requests that can be ours.
    #[test]
    fn the_published_suite_has_the_published_signatures() {
        const UNRESERVED: &str = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let (path, query) = (format!("/{UNRESERVED}"), format!("/?{UNRESERVED}={UNRESERVED}"));
        for (method, target, signature) in [
            (
                Method::GET,
                "/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                Method::GET,
                "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
                "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
            ),
            (
                Method::GET,
                "/?%E1%88%B4=bar",
                "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
            ),
            (Method::GET, &path, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
            (Method::GET, &query, "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"),
            (Method::POST, "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                Method::POST,
                "/?Param1=value1",
                "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
            ),
        ] {
            let request = Request { path_and_query: target.to_owned(), ..request(method, None) };
            let signed = authorization(request);
            assert!(signed.ends_with(&format!("Signature={signature}")), "{target}: {signed}");
        }
        let mut spaced = request(Method::GET, None);
        spaced.headers.insert("my-header1", HeaderValue::from_static(" value1"));
        spaced.headers.insert("my-header2", HeaderValue::from_static(" \"a   b   c\""));
        let signed = authorization(spaced);
        assert!(
            signed.ends_with("acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
            "{signed}"
        );
        let token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
        let session = load("AKIDEXAMPLE", Some(token)).expect("the keys are there");
        let signed = authorization_by(&session, request(Method::GET, None));
        assert!(
            signed.ends_with("07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"),
            "{signed}"
        );
    }

    #[test]
    fn a_key_in_the_place_of_its_id_is_not_shown_to_anybody() {
        let swapped = load("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None).expect_err("it is no id");
        let told = format!("{swapped} {swapped:?}");
        assert!(told.contains("`access_key`") && !told.contains("wJalr"), "{told}");
    }

    #[test]
    fn the_published_post_has_the_published_signature() {
        let mut request = request(Method::POST, Some("Param1=value1"));
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        assert_eq!(
            authorization(request),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
    }
}
