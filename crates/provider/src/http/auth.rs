//! How the requests of a binding authenticate, beside the static secrets in their headers.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::AUTHORIZATION;
use serde_json::{Map, Value};

use crate::Outside;
use crate::egress::{Destination, Identity, Origin, Request};
use crate::reader::{Mistake, Node};
use crate::secrets::{AwsSigner, Certificate, Credential, Error, OAuth2, Place, Secret};

/// What a binding's `auth` says: a certificate for the connection, and what each request carries.
#[derive(Debug, Default)]
pub(super) struct Auth {
    certificate: Option<Arc<Certificate>>,
    proof: Proof,
}

#[derive(Debug, Default)]
enum Proof {
    #[default]
    None,
    /// A token from this endpoint.
    Token(Arc<OAuth2>, Arc<Place>, Destination),
    Signature(Arc<AwsSigner>),
}

impl Auth {
    /// Reads the name of a secret, or a list of two if one of them is a certificate.
    pub(super) fn read(
        node: &Node<'_>,
        origin: &Origin,
        timeout: Duration,
        outside: Outside<'_>,
    ) -> Result<Auth, Mistake> {
        let (mut certificate, mut client, mut signer) = (None, None, None);
        for node in named(node)? {
            match credential(&node, origin, outside)? {
                Credential::Certificate(it) => put(&node, &mut certificate, Arc::clone(it))?,
                Credential::OAuth2(it) => put(&node, &mut client, (node.clone(), Arc::clone(it)))?,
                Credential::AwsSigV4(it) => put(&node, &mut signer, Arc::clone(it))?,
            }
        }
        let proof = match (client, signer) {
            (None, None) => Proof::None,
            (None, Some(signer)) => Proof::Signature(signer),
            (Some((node, client)), None) => {
                let endpoint = endpoint(&node, &client, certificate.as_deref(), timeout, outside)?;
                let place = client.place(certificate.as_deref().and_then(Certificate::identity));
                Proof::Token(client, place, endpoint)
            }
            (Some((node, _)), Some(_)) => {
                let message = "a request carries a token or is signed, not both";
                return Err(node
                    .mistake(message)
                    .hint("only a secret of kind mtls can stand beside another"));
            }
        };
        Ok(Auth { certificate, proof })
    }

    /// What is shown when the connection is made.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.certificate.as_ref()?.identity()
    }

    /// Who we are to the provider, without anything that may have to be renewed. Nothing, if that is said in headers.
    pub(super) fn account(&self) -> Option<Value> {
        let mut account = Map::new();
        if let Some(certificate) = &self.certificate {
            account.insert("mtls".to_owned(), certificate.account());
        }
        match &self.proof {
            Proof::None => None,
            Proof::Token(client, ..) => account.insert("oauth2".to_owned(), client.account()),
            Proof::Signature(signer) => account.insert("aws-sigv4".to_owned(), signer.account()),
        };
        (!account.is_empty()).then_some(Value::Object(account))
    }

    /// The headers that are set here, so that a binding cannot.
    pub(super) fn headers(&self) -> &'static [&'static str] {
        match self.proof {
            Proof::None => &[],
            Proof::Token(..) => &["authorization"],
            Proof::Signature(_) => &AwsSigner::HEADERS,
        }
    }

    /// The longest that [`Auth::authorise`] takes.
    pub(super) fn patience(&self) -> Duration {
        match &self.proof {
            Proof::Token(_, _, endpoint) => endpoint.timeout(),
            Proof::None | Proof::Signature(_) => Duration::ZERO,
        }
    }

    /// Completes a request that is about to leave for `origin`. What was added and must not be seen in the answer
    /// comes back.
    pub(super) async fn authorise(
        &self,
        request: &mut Request,
        origin: &Origin,
        now_ms: i64,
    ) -> Result<Vec<Arc<Secret>>, String> {
        match &self.proof {
            Proof::None => Ok(Vec::new()),
            Proof::Token(client, place, endpoint) => {
                let token = client.token(place, endpoint, now_ms).await.map_err(|why| why.to_string())?;
                let header = token.header_for(origin, "Bearer ").map_err(|error| error.to_string())?;
                request.headers.insert(AUTHORIZATION, header);
                Ok(vec![token])
            }
            Proof::Signature(signer) => signer.sign(request, origin, now_ms).map_err(|why| why.to_string()),
        }
    }

    /// Whether a request that is sent again carries something else after [`Auth::forget`].
    pub(super) fn renews(&self) -> bool {
        matches!(self.proof, Proof::Token(..))
    }

    /// Keeps nothing that was refused.
    pub(super) fn forget(&self, refused: &[Arc<Secret>]) {
        if let Proof::Token(_, place, _) = &self.proof {
            refused.iter().for_each(|token| place.forget(token));
        }
    }
}

fn named<'a>(node: &Node<'a>) -> Result<Vec<Node<'a>>, Mistake> {
    if node.value.is_array() { node.items() } else { Ok(vec![node.clone()]) }
}

fn credential<'a>(node: &Node<'_>, origin: &Origin, outside: Outside<'a>) -> Result<&'a Credential, Mistake> {
    let found = outside.secrets.credential(node.text()?).map_err(|error| unusable(node, &error))?;
    found.hosts().admit(origin).map_err(|error| unusable(node, &error))?;
    Ok(found)
}

/// What a secret cannot be used for at this place.
pub(super) fn unusable(node: &Node<'_>, error: &Error) -> Mistake {
    let hint = match error {
        Error::Static { .. } => "put it into `headers`, as in { Authorization = { \"$secret\" = \"NAME\" } }",
        Error::NotStatic { .. } => "name it in `auth`",
        Error::NotThere { .. } => "only the gateway's own configuration can add a host to a secret",
        _ => "name it in the gateway's own configuration, with its source and its hosts",
    };
    node.mistake(error.to_string()).hint(hint)
}

fn put<T>(node: &Node<'_>, place: &mut Option<T>, it: T) -> Result<(), Mistake> {
    match place.replace(it) {
        None => Ok(()),
        Some(_) => {
            Err(node.mistake("this is the second secret of its kind").hint("one of each kind at most"))
        }
    }
}

/// Where the tokens come from. A certificate that may be shown there is.
fn endpoint(
    node: &Node<'_>,
    client: &OAuth2,
    certificate: Option<&Certificate>,
    timeout: Duration,
    outside: Outside<'_>,
) -> Result<Destination, Mistake> {
    let refused = |refused: crate::egress::Refused| {
        let hint = "only the gateway's own configuration can allow it, under `egress`";
        node.mistake(format!("its token endpoint cannot be used: {refused}")).hint(hint)
    };
    let origin = Origin::of(client.token_url()).map_err(refused)?;
    let shown = certificate.filter(|certificate| certificate.hosts().admit(&origin).is_ok());
    let identity = shown.and_then(Certificate::identity);
    outside.egress.destination_as(identity, client.token_url(), timeout).map_err(refused)
}
