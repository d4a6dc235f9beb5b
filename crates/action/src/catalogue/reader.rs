//! Reading TOML with every mistake noted where it stands.

use super::mistake::{Mistake, nearest};
use crate::json::MAX_INTEGER;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file under reading.
#[derive(Debug)]
pub(crate) struct File<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    mistakes: RefCell<Vec<Mistake>>,
}

/// A value and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node<'a> {
    file: &'a File<'a>,
    value: &'a Spanned<DeValue<'a>>,
}

/// A table whose keys are asked for one by one; what nobody asks for is a mistake.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    file: &'a File<'a>,
    span: Range<usize>,
    entries: Vec<Entry<'a>>,
    asked: RefCell<Vec<&'static str>>,
}

#[derive(Debug, Clone)]
struct Entry<'a> {
    key: &'a str,
    key_span: Range<usize>,
    node: Node<'a>,
}

impl<'a> File<'a> {
    pub(crate) fn new(name: &'a str, text: &'a str) -> File<'a> {
        File { name, text, mistakes: RefCell::default() }
    }

    /// The document, or every syntax error in it.
    pub(crate) fn parse(&self) -> Option<Spanned<DeTable<'a>>> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.note(&error.span().unwrap_or(0..0), error.message());
        }
        errors.is_empty().then_some(document)
    }

    pub(crate) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes.into_inner()
    }

    fn note(&self, span: &Range<usize>, message: impl Into<String>) {
        self.push(Mistake::at(self.name, self.text, span, message));
    }

    fn push(&self, mistake: Mistake) {
        let mut mistakes = self.mistakes.borrow_mut();
        if !mistakes.contains(&mistake) {
            mistakes.push(mistake);
        }
    }
}

impl<'a> Node<'a> {
    /// Whether nothing wrong was found so far in the file.
    pub(crate) fn is_clean(&self) -> bool {
        self.file.mistakes.borrow().is_empty()
    }

    pub(crate) fn mistake(&self, message: impl Into<String>) {
        self.file.note(&self.value.span(), message);
    }

    pub(crate) fn mistake_with_hint(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.file
            .push(Mistake::at(self.file.name, self.file.text, &self.value.span(), message).with_hint(hint));
    }

    /// Where the value stands, as a mistake that says nothing yet.
    pub(crate) fn place(&self) -> Mistake {
        Mistake::at(self.file.name, self.file.text, &self.value.span(), "")
    }

    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => self.wrong("a string"),
        }
    }

    pub(crate) fn flag(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => self.wrong("true or false"),
        }
    }

    /// A whole number from 1 to `most`.
    pub(crate) fn count(&self, most: u32) -> Option<u32> {
        let number = match self.value.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        number
            .filter(|n| (1..=most).contains(n))
            .or_else(|| self.wrong(&format!("a whole number from 1 to {most}")))
    }

    pub(crate) fn list(&self) -> Option<Vec<Node<'a>>> {
        match self.value.get_ref() {
            DeValue::Array(items) => {
                Some(items.iter().map(|value| Node { file: self.file, value }).collect())
            }
            _ => self.wrong("an array"),
        }
    }

    pub(crate) fn texts(&self) -> Vec<(Node<'a>, &'a str)> {
        self.list().unwrap_or_default().into_iter().filter_map(|node| Some((node, node.text()?))).collect()
    }

    pub(crate) fn table(&self) -> Option<Table<'a>> {
        match self.value.get_ref() {
            DeValue::Table(table) => Some(Table::new(self.file, self.value.span(), table)),
            _ => self.wrong("a table"),
        }
    }

    /// The value as JSON.
    pub(crate) fn json(&self) -> Value {
        self.to_json().unwrap_or(Value::Null)
    }

    /// The node that a JSON pointer leads to, or the last one on the way.
    pub(crate) fn descend(&self, pointer: &str) -> Node<'a> {
        let step = |node: Node<'a>, segment: &str| {
            let value = match node.value.get_ref() {
                DeValue::Table(table) => table.get(segment)?,
                DeValue::Array(items) => items.get(segment.parse::<usize>().ok()?)?,
                _ => return None,
            };
            Some(Node { file: node.file, value })
        };
        let mut node = *self;
        for segment in pointer.split('/').skip(1) {
            match step(node, &segment.replace("~1", "/").replace("~0", "~")) {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    fn to_json(self) -> Option<Value> {
        Some(match self.value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(flag) => Value::Bool(*flag),
            DeValue::Integer(number) => {
                let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
                let number = number.filter(|n| n.unsigned_abs() <= MAX_INTEGER as u64);
                number.or_else(|| self.wrong("a whole number within ±(2^53-1)"))?.into()
            }
            DeValue::Float(number) => {
                let number = number.as_str().parse().ok().and_then(serde_json::Number::from_f64);
                Value::Number(number.or_else(|| self.wrong("a finite number"))?)
            }
            DeValue::Datetime(_) => self.wrong("a string (JSON has no dates: put it in quotes)")?,
            DeValue::Array(_) => {
                self.list()?.into_iter().map(Node::to_json).collect::<Option<Vec<_>>>()?.into()
            }
            DeValue::Table(_) => self.table()?.to_json()?,
        })
    }

    fn wrong<T>(&self, wanted: &str) -> Option<T> {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.mistake(if wanted.contains("number") && found == "a number" {
            format!("this has to be {wanted}")
        } else {
            format!("this has to be {wanted}, not {found}")
        });
        None
    }
}

impl<'a> Table<'a> {
    pub(crate) fn of(file: &'a File<'a>, document: &'a Spanned<DeTable<'a>>) -> Table<'a> {
        Table::new(file, 0..0, document.get_ref())
    }

    fn new(file: &'a File<'a>, span: Range<usize>, table: &'a DeTable<'a>) -> Table<'a> {
        let entries = table.iter().map(|(key, value)| Entry {
            key: key.get_ref(),
            key_span: key.span(),
            node: Node { file, value },
        });
        Table { file, span, entries: entries.collect(), asked: RefCell::default() }
    }

    /// Takes from `base` what is not declared here.
    pub(crate) fn extend(&mut self, base: Table<'a>) {
        let missing = base.entries.into_iter().filter(|entry| self.peek(entry.key).is_none());
        let missing: Vec<_> = missing.collect();
        self.entries.extend(missing);
    }

    /// The value of a key that may be there.
    pub(crate) fn get(&self, key: &'static str) -> Option<Node<'a>> {
        self.asked.borrow_mut().push(key);
        self.peek(key)
    }

    /// Whatever its name, without asking for it.
    pub(crate) fn peek(&self, key: &str) -> Option<Node<'a>> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> + '_ {
        self.entries.iter().map(|entry| (entry.key, entry.node))
    }

    pub(crate) fn mistake(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.file.push(Mistake::at(self.file.name, self.file.text, &self.span, message).with_hint(hint));
    }

    /// A mistake about a key itself.
    pub(crate) fn key_mistake(&self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        if let Some(entry) = self.entries.iter().find(|entry| entry.key == key) {
            let file = entry.node.file;
            file.push(Mistake::at(file.name, file.text, &entry.key_span, message).with_hint(hint));
        }
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn finish(&self) {
        self.finish_with(&self.asked.borrow());
    }

    /// Reports every key that is not known.
    pub(crate) fn finish_with(&self, known: &[&'static str]) {
        for entry in self.entries.iter().filter(|entry| !known.contains(&entry.key)) {
            let hint = match nearest(entry.key, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.key_mistake(entry.key, format!("unknown key `{}`", entry.key), hint);
        }
    }

    pub(crate) fn to_json(&self) -> Option<Value> {
        let members = self.entries.iter().map(|entry| Some((entry.key.to_owned(), entry.node.to_json()?)));
        members.collect::<Option<Map<_, _>>>().map(Value::Object)
    }
}
