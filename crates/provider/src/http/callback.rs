//! What a provider says of its own accord. It is signed, and says of one call that it took place or that it was declined;
//! whether that is believed or only a reason to ask belongs to `gateway`.

use std::fmt;

use action::Archetype;
use execution::{Refusal, Reply};
use serde_json::Value;

use super::answer::{Answer, Record, not_understood, short_code};
use super::rule::Condition;
use crate::Outside;
use crate::reader::{Mistake, Node, Table};
use crate::webhooks::{Keys, NO_KEY, Signed};

/// How a provider's own word is known and read.
pub struct Callback {
    secret: String,
    keys: Keys,
    /// Where our own reference stands.
    about: String,
    settled: Condition,
    refused: Vec<Condition>,
    record: Record,
    code: Option<String>,
}

/// What a provider says of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Our reference for the call, as the provider repeats it; foreign text.
    pub about: String,
    /// [`Reply::Lost`] where the body is not what the binding describes.
    pub reply: Reply,
}

impl Callback {
    pub(super) fn read(
        node: &Node<'_>,
        archetype: &Archetype,
        outside: Outside<'_>,
    ) -> Result<Callback, Mistake> {
        let table = node.table(&[
            "secret",
            "about",
            "settled",
            "refused",
            "reference",
            "charged",
            "expires",
            "code",
        ])?;
        let secret = table.need("secret")?;
        Ok(Callback {
            secret: secret.text()?.to_owned(),
            keys: read_keys(&secret, outside)?,
            about: table.need("about")?.pointer()?,
            settled: Condition::need(&table.need("settled")?)?,
            refused: read_refused(&table)?,
            record: Record::read(&table, archetype)?.of_any_effect(),
            code: table.get("code").map(|node| node.pointer()).transpose()?,
        })
    }

    /// The name of the secret that is shared.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Is it signed by whom this binding shares its secret with, and of late?
    pub fn is_from(&self, letter: &Signed<'_>, now_ms: i64) -> bool {
        self.keys.have_signed(letter, now_ms)
    }

    /// What it says; nothing, if it is about something else. Only for what [`Callback::is_from`] has let through.
    pub fn told(&self, body: &[u8]) -> Option<Told> {
        let body = Answer::parse(200, Ok(body.to_vec()), &[]).into_body().ok()?;
        let about = body.pointer(&self.about).and_then(Value::as_str)?.to_owned();
        let settled = self.settled.holds(&body);
        let refused = self.refused.iter().any(|rule| rule.holds(&body));
        let reply = match (settled, refused) {
            (true, false) => match self.record.confirmation(body) {
                Ok(confirmation) => Reply::Confirmed(confirmation),
                Err(why) => not_understood(why),
            },
            (false, true) => {
                let code = self.code.as_ref().and_then(|pointer| short_code(body.pointer(pointer)?));
                Reply::Refused(Refusal { code, answer: body, ..Refusal::default() })
            }
            (true, true) => not_understood("it says both that it took place and that not".to_owned()),
            (false, false) => return None,
        };
        Some(Told { about, reply })
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Callback").field("about", &self.about).finish_non_exhaustive()
    }
}

fn read_keys(node: &Node<'_>, outside: Outside<'_>) -> Result<Keys, Mistake> {
    let secret = outside.secrets.get(node.text()?).map_err(|error| node.mistake(error.to_string()))?;
    let hint = "a secret that checks what comes in has no `hosts`: it is sent nowhere";
    let value = secret.reveal_here().map_err(|error| node.mistake(error.to_string()).hint(hint))?;
    if secret.is_stand_in() {
        return Ok(Keys::none());
    }
    Keys::parse(value).ok_or_else(|| node.mistake(format!("secret `{}` is {NO_KEY}", secret.name())))
}

fn read_refused(table: &Table<'_>) -> Result<Vec<Condition>, Mistake> {
    match table.get("refused") {
        None => Ok(Vec::new()),
        Some(node) if node.value.is_array() => node.items()?.iter().map(Condition::need).collect(),
        Some(node) => Ok(vec![Condition::need(&node)?]),
    }
}
