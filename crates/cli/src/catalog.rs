//! `countersign catalog`: the operator's archetypes, checked before a gateway reads them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use action::{Archetype, Catalogue, Source};
use gateway::Config;

use crate::bindings;
use crate::error::{Error, Result};
use crate::mistakes::{self, Folder};
use crate::out;

/// Check the catalogue of archetypes
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Read a catalogue as the gateway would and explain every mistake with file, line and a hint
    Check {
        /// Folder of *.toml files, or of one folder per tenant; without it the configured one, else the built-in catalogue alone
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Configuration that names the catalogue, the secrets its bindings may use and the addresses they may reach
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Command::Check { dir, config: config_file } = &args.command;
    let config = Config::read(config_file.as_deref()).map_err(Error::new)?;
    match dir.as_ref().or(config.catalogue_dir.as_ref()) {
        Some(dir) => {
            let unconfigured =
                "secrets and addresses that bindings use are configured: check with --config FILE";
            check(dir, &config, config_file.is_none().then_some(unconfigured))
        }
        None => {
            show("built in", &Catalogue::builtin())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The catalogue of one tenant with its files, or the number of its mistakes, told.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn load(
    folder: &Folder,
    own: Option<Source>,
) -> Result<std::result::Result<(Catalogue, Vec<Source>), usize>> {
    let mut sources = mistakes::sources(&folder.path, &["toml"])?;
    sources.extend(own);
    Ok(match Catalogue::load(true, &sources) {
        Ok(catalogue) => Ok((catalogue, sources)),
        Err(found) => {
            mistakes::tell(&found, &sources);
            Err(found.len())
        }
    })
}

fn check(dir: &Path, config: &Config, hint: Option<&str>) -> Result<ExitCode> {
    let (mut wrong, mut unbound) = (0, false);
    for folder in mistakes::folders(dir, &["toml"])? {
        match load(&folder, None)? {
            Ok((catalogue, sources)) => {
                let found = bindings::mistakes(&catalogue, &sources, config, &folder.name)?;
                mistakes::tell(&found, &sources);
                wrong += found.len();
                unbound |= !found.is_empty();
                if found.is_empty() {
                    show(&folder.name, &catalogue)?;
                }
            }
            Err(mistakes) => wrong += mistakes,
        }
    }
    if wrong > 0 {
        return Err(Error::new(format!("{} in `{}`", mistakes::counted(wrong), dir.display()))
            .maybe_hint(hint.filter(|_| unbound)));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(name: &str, catalogue: &Catalogue) -> Result<()> {
    out::line(format_args!(
        "{name}: {} archetypes, digest {}",
        catalogue.iter().count(),
        catalogue.digest()
    ))?;
    let rows: Vec<_> = catalogue.iter().map(|archetype| row(archetype)).collect();
    out::table(["archetype", "level", "money", "reversible", "provider", "description"], &rows)
}

fn row(archetype: &Archetype) -> [String; 6] {
    let money = match &archetype.money {
        Some(rule) if rule.quote => "quoted".to_owned(),
        Some(rule) => rule.amount.as_ref().map_or_else(|| "bounded".to_owned(), ToString::to_string),
        None => "none".to_owned(),
    };
    let provider = archetype.bindings.get("provider").and_then(serde_json::Value::as_str).unwrap_or("none");
    let reversible = if archetype.reversible { "yes" } else { "no" };
    let level = archetype.guarantee_level.as_str();
    [
        archetype.name.clone(),
        level.into(),
        money,
        reversible.into(),
        provider.into(),
        archetype.description.clone(),
    ]
}
