//! Bindings of a catalogue, compiled as the gateway would, with the place of every mistake in its file.
//!
//! No secret is read: a checker in CI has none. Each declared secret is stood in for by one with its kind and hosts.

use std::ops::Range;
use std::sync::Arc;

use action::{Catalogue, Mistake, Source, Tenant};
use gateway::Config;
use provider::egress::Rules;
use provider::mcp::Servers;
use provider::{Beside, Egress, Outside, Runs, Secrets};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Context, Error, Result};

/// Every mistake in the bindings of these files, which are the tenant's of that name; of the first tenant, if none has it.
///
/// # Errors
/// What the configuration says about secrets and egress cannot be understood.
pub(crate) fn mistakes(
    catalogue: &Catalogue,
    sources: &[Source],
    config: &Config,
    tenant: &str,
) -> Result<Vec<Mistake>> {
    let rules = Rules::parse(&config.egress.allow, &config.egress.plain_http)
        .and_then(|rules| rules.and_challenges(&config.egress.challenge_hosts))
        .while_we(|| "cannot use `egress`".to_owned())?;
    let (egress, secrets) = (Egress::new(rules), stand_ins(config)?);
    let outside = Outside { egress: &egress, secrets: &secrets };
    let tenants: Vec<Tenant> = config.tenants.iter().filter_map(|name| Tenant::parse(name).ok()).collect();
    let tenant =
        tenants.iter().find(|one| one.as_str() == tenant).or(tenants.first()).cloned().unwrap_or_default();
    let servers = config.mcp.declared(&tenants).map_err(Error::new)?;
    let servers = Servers::new(servers, outside).map_err(|wrong| Error::new(wrong.join("\n")))?;
    let runs: Arc<Runs> = Arc::default();
    let beside = Beside { runs: &runs, servers: &servers, tenant: &tenant };
    let mut found = Vec::new();
    for archetype in catalogue.iter().filter(|archetype| !archetype.bindings.is_empty()) {
        let Err(wrong) = provider::compile_for(archetype, outside, beside) else { continue };
        let source = sources.iter().find(|source| declares(&source.text, &archetype.name));
        found.extend(wrong.into_iter().map(|wrong| {
            let place = source.and_then(|source| place(&source.text, &wrong.pointer));
            let (line, column) = source
                .zip(place)
                .map_or((0, 0), |(source, place)| line_and_column(&source.text, place.start));
            let file = source.map_or_else(|| archetype.name.clone(), |source| source.name.clone());
            Mistake { file, line, column, message: wrong.message, hint: wrong.hint }
        }));
    }
    Ok(found)
}

/// The declared secrets, with nothing in them.
fn stand_ins(config: &Config) -> Result<Secrets> {
    let declared = config.provider_secrets().map_err(Error::new)?;
    Secrets::stand_ins(declared)
        .map_err(|errors| Error::new(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

fn declares(text: &str, name: &str) -> bool {
    let Ok(table) = DeTable::parse(text) else { return false };
    table
        .get_ref()
        .get("name")
        .is_some_and(|found| matches!(found.get_ref(), DeValue::String(text) if text == name))
}

/// Where a pointer into `[binding]` leads, as far as it leads anywhere.
fn place(text: &str, pointer: &str) -> Option<Range<usize>> {
    let table = DeTable::parse(text).ok()?;
    let mut at = table.get_ref().get("binding")?;
    for name in pointer.split('/').skip(1) {
        let name = name.replace("~1", "/").replace("~0", "~");
        match child(at, &name) {
            Some(child) => at = child,
            None => break,
        }
    }
    Some(at.span())
}

fn child<'a, 'text>(value: &'a Spanned<DeValue<'text>>, name: &str) -> Option<&'a Spanned<DeValue<'text>>> {
    match value.get_ref() {
        DeValue::Table(table) => table.get(name),
        DeValue::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    }
}

/// Both from 1; the column in characters.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_to_its_line() {
        let text = "name = \"X\"\n[binding]\nprovider = \"http\"\n[binding.act]\npath = 7\nsuccess = { status = [201, \"x\"] }\n";
        let at = |pointer| place(text, pointer).map(|place| line_and_column(text, place.start));
        assert_eq!(at("/act/path"), Some((5, 8)));
        assert_eq!(at("/act/success/status/1"), Some((6, 28)));
        assert_eq!(at("/act/nothing"), at("/act"), "what is missing is shown where it should be");
        assert!(declares(text, "X") && !declares(text, "Y"));
    }
}
