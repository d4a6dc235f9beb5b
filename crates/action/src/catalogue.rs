//! The kinds of actions that a tenant knows: the built-in ones and one per file of the operator.

mod amounts;
mod declare;
mod limits;
mod mistake;
mod paths;
mod reader;
mod schema;
mod verbatim;

pub use mistake::Mistake;

use crate::archetype::Archetype;
use crate::json;
use declare::BUILTIN;
use reader::{File, Table};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One file of a catalogue, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name, for messages.
    pub name: String,
    /// Its content: TOML.
    pub text: String,
}

/// The kinds of actions that a tenant knows, by name.
#[derive(Debug, Clone)]
pub struct Catalogue {
    archetypes: BTreeMap<String, Arc<Archetype>>,
    digest: String,
}

impl Catalogue {
    /// The four archetypes that come with the program; they have no binding to a provider.
    pub fn builtin() -> Catalogue {
        // That they have no mistakes is a test of this crate.
        Catalogue::load(true, &[]).unwrap_or_else(|_| Catalogue::of(BTreeMap::new()))
    }

    /// Reads a catalogue: the built-in archetypes if `builtin`, and one archetype per file. A file that bears a
    /// built-in name replaces that archetype; with `extends = "builtin"` it replaces only the keys it has.
    ///
    /// # Errors
    /// Every mistake found, file by file and line by line.
    pub fn load(builtin: bool, sources: &[Source]) -> Result<Catalogue, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut operators: BTreeMap<String, Declared> = BTreeMap::new();
        for source in sources {
            let Some(declared) = read(&source.name, &source.text, &mut mistakes) else { continue };
            let name = declared.archetype.name.clone();
            match operators.get(&name) {
                Some(first) => mistakes.push(already(&declared, first)),
                None => drop(operators.insert(name, declared)),
            }
        }
        let mut archetypes = BTreeMap::new();
        for (_, file, text) in BUILTIN.iter().filter(|(name, ..)| builtin && !operators.contains_key(*name)) {
            if let Some(declared) = read(file, text, &mut mistakes) {
                archetypes.insert(declared.archetype.name.clone(), Arc::new(declared.archetype));
            }
        }
        mistakes.extend(ambiguous(&operators, &archetypes));
        archetypes.extend(operators.into_iter().map(|(name, declared)| (name, Arc::new(declared.archetype))));
        if mistakes.is_empty() { Ok(Catalogue::of(archetypes)) } else { Err(mistakes) }
    }

    /// The archetype of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Archetype>> {
        self.archetypes.get(name)
    }

    /// The archetype that a verb and a target mean: there is at most one.
    pub fn resolve(&self, verb: &str, target: Option<&str>) -> Option<&Arc<Archetype>> {
        self.archetypes.values().find(|archetype| archetype.is_meant_by(verb, target))
    }

    /// All archetypes, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Archetype>> {
        self.archetypes.values()
    }

    /// The SHA-256 over the names and digests of all archetypes, in lower-case hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    fn of(archetypes: BTreeMap<String, Arc<Archetype>>) -> Catalogue {
        let digests = archetypes.iter().map(|(name, archetype)| (name.clone(), archetype.digest().into()));
        let digests = json::canonical(&Value::Object(digests.collect()));
        Catalogue { digest: hex::encode(Sha256::digest(digests.as_bytes())), archetypes }
    }
}

/// An archetype and where its name stands.
struct Declared {
    archetype: Archetype,
    place: Mistake,
}

fn already(second: &Declared, first: &Declared) -> Mistake {
    Mistake {
        message: format!("`{}` is already declared in {}", second.archetype.name, first.place.file),
        hint: Some("keep one of the two files".into()),
        ..second.place.clone()
    }
}

/// Two archetypes that are meant by the same verb and target.
fn ambiguous(
    operators: &BTreeMap<String, Declared>,
    builtin: &BTreeMap<String, Arc<Archetype>>,
) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (name, second) in operators {
        let before = operators.range(..name.clone()).map(|(_, declared)| &declared.archetype);
        for first in before.chain(builtin.values().map(|it| &**it)) {
            let Some((verb, target)) = second.archetype.shares_with(first) else { continue };
            let on = target.map_or_else(|| "any target".to_owned(), |target| format!("`{target}`"));
            mistakes.push(Mistake {
                message: format!("`{verb}` on {on} means both `{name}` and `{}`", first.name),
                hint: Some("give each archetype verbs, or targets, of its own".into()),
                ..second.place.clone()
            });
        }
    }
    mistakes
}

/// Reads one file; whatever is wrong goes to `mistakes`, and then there is no archetype.
fn read(name: &str, text: &str, mistakes: &mut Vec<Mistake>) -> Option<Declared> {
    let file = File::new(name, text);
    let declared = file.parse().and_then(|document| {
        let mut table = Table::of(&file, &document);
        let base = base_file(&table);
        let base_document = base.as_ref().and_then(File::parse);
        if let (Some(base), Some(document)) = (&base, &base_document) {
            table.extend(Table::of(base, document));
        }
        let (_, place) = declare::name(&table)?;
        let place = place.place();
        let archetype = declare::read(&table);
        drop(table);
        let inherited = base.map(File::into_mistakes).unwrap_or_default();
        let clean = inherited.is_empty();
        mistakes.extend(inherited);
        Some(Declared { archetype: archetype.filter(|_| clean)?, place })
    });
    let mut own = file.into_mistakes();
    own.sort_by_key(|mistake| (mistake.line, mistake.column));
    let clean = own.is_empty();
    mistakes.extend(own);
    declared.filter(|_| clean)
}

/// The built-in file whose keys apply where this one is silent.
fn base_file(table: &Table<'_>) -> Option<File<'static>> {
    let extends = table.get("extends")?;
    if extends.text()? != "builtin" {
        extends.mistake_with_hint(
            "only a built-in archetype can be extended",
            "write extends = \"builtin\", or leave it out",
        );
        return None;
    }
    let (name, node) = declare::name(table)?;
    let base = declare::builtin_file(&name);
    if base.is_none() {
        let names: Vec<&str> = BUILTIN.iter().map(|(name, ..)| *name).collect();
        node.mistake_with_hint(
            format!("no built-in archetype `{name}` to extend"),
            format!("built in: {}", names.join(", ")),
        );
    }
    base
}
