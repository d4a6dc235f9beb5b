//! Reading a binding so that every mistake says where it is and what to do.

use std::time::Duration;

use serde_json::{Map, Value};

/// A mistake in a binding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Mistake {
    /// JSON pointer from the top of the binding.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Mistake {
    pub(crate) fn new(pointer: &str, message: impl Into<String>) -> Mistake {
        Mistake { pointer: pointer.to_owned(), message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Mistake {
        self.hint = Some(hint.into());
        self
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    pub(crate) at: String,
    pub(crate) value: &'a Value,
}

/// A table whose members are all known.
#[derive(Clone, Debug)]
pub(crate) struct Table<'a> {
    pub(crate) at: String,
    members: &'a Map<String, Value>,
}

impl<'a> Node<'a> {
    pub(crate) fn mistake(&self, message: impl Into<String>) -> Mistake {
        Mistake::new(&self.at, message)
    }

    pub(crate) fn child(&self, name: &str, value: &'a Value) -> Node<'a> {
        Node { at: below(&self.at, name), value }
    }

    /// A table with no members but these.
    pub(crate) fn table(&self, known: &[&str]) -> Result<Table<'a>, Mistake> {
        let members = self.value.as_object().ok_or_else(|| self.mistake("this must be a table"))?;
        if let Some(unknown) = members.keys().find(|name| !known.contains(&name.as_str())) {
            let hint = format!("known here: {}", known.join(", "));
            return Err(
                Mistake::new(&below(&self.at, unknown), format!("`{unknown}` is not known here")).hint(hint)
            );
        }
        Ok(Table { at: self.at.clone(), members })
    }

    /// The members of a table whose names are free.
    pub(crate) fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>, Mistake> {
        let members = self.value.as_object().ok_or_else(|| self.mistake("this must be a table"))?;
        Ok(members.iter().map(|(name, value)| (name.as_str(), self.child(name, value))).collect())
    }

    pub(crate) fn items(&self) -> Result<Vec<Node<'a>>, Mistake> {
        let items = self.value.as_array().ok_or_else(|| self.mistake("this must be a list"))?;
        Ok(items.iter().enumerate().map(|(index, item)| self.child(&index.to_string(), item)).collect())
    }

    pub(crate) fn text(&self) -> Result<&'a str, Mistake> {
        self.value.as_str().ok_or_else(|| self.mistake("this must be a string"))
    }

    pub(crate) fn flag(&self) -> Result<bool, Mistake> {
        self.value.as_bool().ok_or_else(|| self.mistake("this must be true or false"))
    }

    pub(crate) fn whole(&self, least: u64, most: u64) -> Result<u64, Mistake> {
        self.value
            .as_u64()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| self.mistake(format!("this must be a whole number from {least} to {most}")))
    }

    /// What operators call something: printable, and without spaces, so that it can be typed.
    pub(crate) fn name(&self) -> Result<String, Mistake> {
        let text = self.text()?;
        if (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(text.to_owned());
        }
        Err(self.mistake("this is not a name").hint("1 to 64 ASCII characters without spaces"))
    }

    /// A JSON pointer into an answer.
    pub(crate) fn pointer(&self) -> Result<String, Mistake> {
        let text = self.text()?;
        if text.is_empty() || text.starts_with('/') {
            return Ok(text.to_owned());
        }
        Err(self
            .mistake(format!("`{text}` is not a JSON pointer"))
            .hint("a pointer begins with `/`, as in `/payment/id`"))
    }
}

impl<'a> Table<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<Node<'a>> {
        self.members.get(name).map(|value| Node { at: below(&self.at, name), value })
    }

    /// A member as it was written, `null` if it was not.
    pub(crate) fn value(&self, name: &str) -> &'a Value {
        self.members.get(name).unwrap_or(&Value::Null)
    }

    pub(crate) fn need(&self, name: &str) -> Result<Node<'a>, Mistake> {
        self.get(name).ok_or_else(|| Mistake::new(&self.at, format!("`{name}` is missing")))
    }

    /// A flag that is off unless said otherwise.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Mistake> {
        self.get(name).map_or(Ok(false), |node| node.flag())
    }

    pub(crate) fn millis(&self, name: &str, otherwise: u64, most: u64) -> Result<Duration, Mistake> {
        let millis = self.get(name).map_or(Ok(otherwise), |node| node.whole(1, most))?;
        Ok(Duration::from_millis(millis))
    }

    pub(crate) fn seconds(&self, name: &str, most: u64) -> Result<Duration, Mistake> {
        Ok(Duration::from_secs(self.need(name)?.whole(0, most)?))
    }
}

/// The pointer of a member below another.
pub(crate) fn below(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}
