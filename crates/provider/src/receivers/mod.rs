//! Receivers: who is told of what happened, over a webhook or by mail.
//!
//! ```text
//!   operator's configuration ──▶ Receiver ◀── Letter (fixed texts and ids of our own)
//!                                   │
//!                     ┌─────────────┴─────────────┐
//!                  Webhook                       Mail
//!        egress client, HMAC-SHA256     egress address check, SMTP over TLS
//! ```
//!
//! A receiver is reached under the same rules as a provider: public addresses unless the operator lists others, TLS
//! unless the operator lists the place, secrets only for the hosts they name, no redirects. What it answers is read for
//! its status and for nothing else.
//!
//! Absent here: memory. A letter is told or it is not; who keeps it and tries again is `gateway`'s to say.

mod mail;
mod webhook;

pub use mail::{DeclaredMail, MailTls};
pub use webhook::DeclaredWebhook;

use self::mail::Mail;
use self::webhook::Webhook;
use crate::Outside;

/// Somebody outside who is told of things.
#[derive(Debug)]
pub struct Receiver(Means);

#[derive(Debug)]
enum Means {
    Webhook(Webhook),
    Mail(Box<Mail>),
}

/// What the operator writes about a receiver.
#[derive(Clone, Debug)]
pub enum Declared {
    /// Told by an HTTP request.
    Webhook(DeclaredWebhook),
    /// Told by electronic mail.
    Mail(DeclaredMail),
}

/// What is told, in every form that a receiver may want.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// Names the letter, the same each time it is sent: letters, digits, `_` and `-`.
    pub id: &'a str,
    /// When it is sent, milliseconds since 1970, UTC.
    pub now_ms: i64,
    /// The body of a webhook.
    pub json: &'a [u8],
    /// One line.
    pub subject: &'a str,
    /// The text of a mail.
    pub text: &'a str,
}

/// Why a letter was not told, in words of our own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// The receiver wants no more of these: 410.
    #[error("it answered 410: it wants no more of these")]
    Gone,
    /// It may be told later.
    #[error("{0}")]
    Failed(String),
}

/// A mistake in what the operator wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{member}`: {why}")]
pub struct Wrong {
    /// Of which member.
    pub member: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Receiver {
    /// Reads a declaration; nobody is called.
    ///
    /// # Errors
    /// The member that cannot be used.
    pub fn new(declared: &Declared, outside: Outside<'_>) -> Result<Receiver, Wrong> {
        Ok(Receiver(match declared {
            Declared::Webhook(webhook) => Means::Webhook(Webhook::new(webhook, outside)?),
            Declared::Mail(mail) => Means::Mail(Box::new(Mail::new(mail, outside)?)),
        }))
    }

    /// Tells it. Whoever drops the future before it ends must take it to be untold, and may tell it twice.
    ///
    /// # Errors
    /// Why it was not told, as far as is known.
    pub async fn tell(&self, letter: &Letter<'_>) -> Result<(), Untold> {
        match &self.0 {
            Means::Webhook(webhook) => webhook.tell(letter).await,
            Means::Mail(mail) => mail.tell(letter).await,
        }
    }
}

/// Marks what is wrong as that of a member.
fn wrong<E: ToString>(member: &'static str) -> impl Fn(E) -> Wrong {
    move |error| Wrong { member, why: error.to_string() }
}

/// How long telling takes at most.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);
