//! `countersign policy`: the operator's Cedar policies, typed before a gateway reads them, and templates to begin with.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use action::{Catalogue, Source};
use boundary::{Policies, Template};
use gateway::Config;
use serde_json::Value;

use crate::api::{Api, encoded};
use crate::error::{Error, Result};
use crate::mistakes::{self, Folder};
use crate::{catalog, out};

/// Check policies, print their schema, and copy ready ones
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Type every policy against the schema that the catalogue makes, and every entity against both
    Check {
        /// Folder of *.cedar and *.json files, or of one folder per tenant; without it the configured one
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        /// The catalogue they speak of, laid out alike; without it the configured one
        #[arg(long, value_name = "DIR")]
        catalogue: Option<PathBuf>,
        /// Configuration that names both
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the Cedar schema that the catalogue makes
    Schema {
        /// Folder of one catalogue's *.toml files; without it the built-in catalogue
        #[arg(value_name = "DIR")]
        catalogue: Option<PathBuf>,
        /// Configuration that may add the archetype SESSION_GRANT to it
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show the policies in force at a gateway, as far as the key's role is told of them
    Disclose {
        /// Less than the most that the role is told: FULL, SUMMARY, REDACTED or COUNT_ONLY
        #[arg(long, value_name = "LEVEL")]
        level: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        api: Api,
    },
    /// List the ready policies, or print one
    Templates {
        /// The one to print
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Check { dir, catalogue, config } => {
            let config = Config::read(config.as_deref()).map_err(Error::new)?;
            let dir = dir.as_ref().or(config.policy_dir.as_ref());
            let dir = dir.ok_or_else(|| {
                Error::new("no policies to check").hint("name their folder, or a --config that does")
            })?;
            let catalogues = catalogue.as_ref().or(config.catalogue_dir.as_ref()).map(PathBuf::as_path);
            check(dir, catalogues, gateway::own_archetypes(&config).as_ref())?;
        }
        Command::Schema { catalogue, config } => {
            let config = Config::read(config.as_deref()).map_err(Error::new)?;
            let own = gateway::own_archetypes(&config);
            out::line(schema(catalogue.as_deref(), own.as_ref())?.trim_end())?;
        }
        Command::Disclose { level, json, api } => disclose(level.as_deref(), *json, api)?,
        Command::Templates { name: None } => list()?,
        Command::Templates { name: Some(name) } => out::line(template(name)?.text.trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn check(dir: &Path, catalogues: Option<&Path>, own: Option<&Source>) -> Result<()> {
    let mut wrong = 0;
    for folder in mistakes::folders(dir, &KINDS)? {
        let catalogue = catalogue_for(&folder, catalogues, own)?;
        let policies = mistakes::sources(&folder.path, &["cedar"])?;
        let entities = mistakes::sources(&folder.path, &["json"])?;
        let sources = [policies.clone(), entities.clone()].concat();
        match Policies::load(&policies, &entities, &[], &catalogue) {
            Ok(loaded) => {
                mistakes::warn(loaded.warnings(), &sources);
                if loaded.rules().iter().all(|rule| rule.forbids) {
                    mistakes::warn_of(&folder, NOTHING_PERMITTED, BEGIN_WITH_A_PERMIT);
                }
                show(&folder.name, &loaded)?;
            }
            Err(found) => {
                mistakes::tell(&found, &sources);
                wrong += found.len();
            }
        }
    }
    match wrong {
        0 => Ok(()),
        wrong => Err(Error::new(format!("{} in `{}`", mistakes::counted(wrong), dir.display()))),
    }
}

/// The tenant's catalogue, which policies are typed against; a mistake in it would only bring forth more.
fn catalogue_for(folder: &Folder, catalogues: Option<&Path>, own: Option<&Source>) -> Result<Catalogue> {
    let own: Vec<Source> = own.cloned().into_iter().collect();
    let Some(dir) = catalogues else {
        return Catalogue::load(true, &own).map_err(|_| Error::new("the built-in catalogue cannot be read"));
    };
    // By the last part alone: a whole path would lead to the policies again.
    let of_tenant = dir.join(folder.path.file_name().unwrap_or_default());
    let path = if of_tenant.is_dir() { of_tenant } else { dir.to_owned() };
    let shown = path.display().to_string();
    catalog::load(&Folder { name: shown.clone(), path }, own.into_iter().next())?
        .map(|(catalogue, _)| catalogue)
        .map_err(|mistakes| Error::new(format!("{} in the catalogue `{shown}`", mistakes::counted(mistakes))))
}

fn show(name: &str, policies: &Policies) -> Result<()> {
    let rules = policies.rules();
    out::line(format_args!(
        "{name}: {} policies, digest {}, entities {}",
        rules.len(),
        policies.policy_digest(),
        policies.entity_digest()
    ))?;
    let rows: Vec<_> = rules
        .iter()
        .map(|rule| {
            let effect = match (rule.forbids, rule.escalates) {
                (false, _) => "permit",
                (true, false) => "forbid",
                (true, true) => "forbid until a person agrees",
            };
            let tier = if rule.forbids { rule.tier.as_str() } else { "" };
            [
                rule.reference.id.to_string(),
                effect.to_owned(),
                tier.to_owned(),
                format!("{}:{}", rule.file, rule.line),
            ]
        })
        .collect();
    out::table(["policy", "effect", "tier", "where"], &rows)
}

fn disclose(level: Option<&str>, json: bool, api: &Api) -> Result<()> {
    let query = level.map(|level| format!("?level={}", encoded(level))).unwrap_or_default();
    let told = api.client()?.get(&format!("/v1/policies/disclosure{query}"))?;
    if json {
        return out::json(&told);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| "–".to_owned(), out::shown);
    let counts = told["counts"].as_object().into_iter().flatten();
    let counts: Vec<String> = counts.map(|(tier, count)| format!("{tier}: {count}")).collect();
    out::line(format_args!(
        "{} · digest {} · policies by tier {} · {} names are never carried out",
        text(&told["disclosure_level"]),
        text(&told["policy_digest"]),
        counts.join(", "),
        told["hard_denied"]
    ))?;
    let withheld = &told["withheld"];
    if withheld.is_object() {
        let (level, reason) = (text(&withheld["level"]), text(&withheld["reason"]));
        out::line(format_args!("{level} is withheld: {reason}"))?;
    }
    if let Some(violation) = told["violation"].as_str() {
        out::line(out::shown(violation))?;
    }
    let Some(policies) = told["policies"].as_array() else { return Ok(()) };
    let row = |it: &Value| ["id", "effect", "tier", "digest", "description"].map(|name| text(&it[name]));
    out::table(
        ["policy", "effect", "tier", "digest", "what it says of itself"],
        &policies.iter().map(row).collect::<Vec<_>>(),
    )
}

fn schema(catalogue: Option<&Path>, own: Option<&Source>) -> Result<String> {
    let folder = Folder { name: String::new(), path: catalogue.unwrap_or(Path::new("")).to_owned() };
    let catalogue = catalogue_for(&folder, catalogue, own)?;
    let none = Policies::load(&[], &[], &[], &catalogue);
    let policies = none.map_err(|found| {
        mistakes::tell(&found, &[]);
        Error::new("the catalogue makes no schema")
    })?;
    Ok(policies.schema_text().to_owned())
}

fn list() -> Result<()> {
    let rows: Vec<_> = boundary::templates()
        .iter()
        .map(|template| [template.name.to_owned(), template.meaning().to_owned()])
        .collect();
    out::table(["template", "what it does"], &rows)
}

fn template(name: &str) -> Result<Template> {
    let mut all = boundary::templates().iter();
    let found = all.find(|template| template.name == name).cloned();
    found.ok_or_else(|| {
        Error::new(format!("there is no template `{name}`")).hint("`countersign policy templates` lists them")
    })
}

const NOTHING_PERMITTED: &str = "no policy permits anything, so every action would be blocked";
const BEGIN_WITH_A_PERMIT: &str =
    "write a `permit`, or begin with `countersign policy templates payments-under-amount`";

const KINDS: [&str; 2] = ["cedar", "json"];
