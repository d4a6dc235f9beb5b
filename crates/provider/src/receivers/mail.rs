//! Mail, handed to one SMTP server that the operator names.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use tokio::time::timeout;

use super::{Letter, PATIENCE, Untold, Wrong, wrong};
use crate::Outside;
use crate::egress::{HostPort, Line, Origin, Refused};
use crate::secrets::Secret;

/// What the operator writes about a mail server and who is written to.
#[derive(Clone, Debug)]
pub struct DeclaredMail {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is secured.
    pub tls: MailTls,
    /// Our name there, and the secret that proves it.
    pub login: Option<(String, String)>,
    /// Who writes.
    pub from: String,
    /// Who is written to.
    pub to: Vec<String>,
}

/// How a connection to a mail server is secured. There is no "if the server can".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// It begins in the clear and becomes TLS before anything is said.
    StartTls,
    /// It is TLS from its first byte.
    Implicit,
    /// It is not, which the operator allows for this place.
    Plain,
}

pub(super) struct Mail {
    line: Line,
    tls: MailTls,
    starttls: Option<TlsParameters>,
    login: Option<Credentials>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Mail {
    pub(super) fn new(declared: &DeclaredMail, outside: Outside<'_>) -> Result<Mail, Wrong> {
        let DeclaredMail { host, port, tls, login, from, to } = declared;
        let at = HostPort::parse(&format!("{host}:{port}"), None).map_err(wrong("host"))?;
        let name = at.name();
        let line =
            outside.egress.line(Origin::new(*tls != MailTls::Plain, at)).map_err(
                |refused| match refused {
                    Refused::Plain(at) => wrong("tls")(format!("`{at}` is not in `egress.plain_http`")),
                    other => wrong("host")(other),
                },
            )?;
        let login = match login {
            Some(_) if *tls == MailTls::Plain => {
                return Err(wrong("password")("a password is not sent without TLS"));
            }
            Some((user, password)) => {
                let secret = outside.secrets.get(password).map_err(wrong("password"))?;
                Some(credentials(user, secret, line.origin())?)
            }
            None => None,
        };
        if to.is_empty() {
            return Err(wrong("to")("names nobody"));
        }
        let mailbox = |member, text: &String| {
            text.parse::<Mailbox>().map_err(|_| wrong(member)(format!("`{text}` is no address of mail")))
        };
        Ok(Mail {
            starttls: (*tls == MailTls::StartTls).then(|| parameters(name, &line)).transpose()?,
            line,
            tls: *tls,
            login,
            from: mailbox("from", from)?,
            to: to.iter().map(|text| mailbox("to", text)).collect::<Result<_, _>>()?,
        })
    }

    pub(super) async fn tell(&self, letter: &Letter<'_>) -> Result<(), Untold> {
        let handed = timeout(PATIENCE, self.hand_over(letter)).await;
        handed.unwrap_or_else(|_| Err("it did not take the mail in time".to_owned())).map_err(Untold::Failed)
    }

    async fn hand_over(&self, letter: &Letter<'_>) -> Result<(), String> {
        let message = self.message(letter).map_err(|_| "the mail could not be written".to_owned())?;
        let stream = match self.tls {
            MailTls::Implicit => self.line.connect_tls().await?,
            MailTls::StartTls | MailTls::Plain => self.line.connect().await?,
        };
        let ourselves = stream.local_address().map_or_else(|_| ClientId::default(), client_id);
        let mut server =
            AsyncSmtpConnection::connect_with_transport(Box::new(stream), &ourselves).await.map_err(told)?;
        if let Some(parameters) = &self.starttls {
            server.starttls(parameters.clone(), &ourselves).await.map_err(told)?;
        }
        if let Some(credentials) = &self.login {
            server.auth(&[Mechanism::Plain, Mechanism::Login], credentials).await.map_err(told)?;
        }
        server.send(message.envelope(), &message.formatted()).await.map_err(told)?;
        // It is taken; what becomes of the connection is nothing to us.
        let _ = server.quit().await;
        Ok(())
    }

    fn message(&self, letter: &Letter<'_>) -> Result<Message, lettre::error::Error> {
        let now = UNIX_EPOCH + Duration::from_millis(u64::try_from(letter.now_ms).unwrap_or(0));
        let to = self.to.iter().cloned();
        let addressed = to.fold(Message::builder().from(self.from.clone()), |message, to| message.to(to));
        addressed
            .subject(letter.subject)
            .date(now)
            .message_id(Some(format!("<{}@{}>", letter.id, self.from.email.domain())))
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text.to_owned())
    }
}

impl fmt::Debug for Mail {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Mail").field(self.line.origin()).finish()
    }
}

fn credentials(user: &str, secret: &Secret, origin: &Origin) -> Result<Credentials, Wrong> {
    let password = secret.value_for(origin).map_err(wrong("password"))?;
    Ok(Credentials::new(user.to_owned(), password.to_owned()))
}

fn parameters(name: String, line: &Line) -> Result<TlsParameters, Wrong> {
    let mut builder = TlsParameters::builder(name);
    for root in line.roots() {
        builder = builder.add_root_certificate(Certificate::from_der(root.to_vec()).map_err(wrong("host"))?);
    }
    builder.build_rustls().map_err(wrong("host"))
}

/// The address that the server sees, instead of a name that it may not believe.
fn client_id(address: std::net::IpAddr) -> ClientId {
    match address {
        std::net::IpAddr::V4(address) => ClientId::Ipv4(address),
        std::net::IpAddr::V6(address) => ClientId::Ipv6(address),
    }
}

/// Fixed texts: an error may carry what the server said.
fn told(error: smtp::Error) -> String {
    match error.status() {
        Some(code) => format!("it answered {code}"),
        None if error.is_tls() => "the TLS handshake failed".to_owned(),
        None if error.is_client() => "it does not offer what is configured (STARTTLS, login)".to_owned(),
        None => "the connection broke".to_owned(),
    }
}

/// Asks machines not to answer (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(AutoSubmitted)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}
