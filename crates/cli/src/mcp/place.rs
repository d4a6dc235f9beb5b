//! Where the operator's files are.

use std::path::PathBuf;

use action::Tenant;
use gateway::Config;

use super::settings::Settings;
use crate::error::{Context, Error, Result};

/// Which configuration, and whose files.
#[derive(clap::Args, Clone)]
pub(super) struct Place {
    /// The gateway's configuration
    #[arg(long, value_name = "FILE", default_value = "countersign.toml")]
    pub(super) config: PathBuf,
    /// The directory in which the gateway runs: relative paths are meant from there [default: this one]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Whose servers they are [default: the first that is configured]
    #[arg(long, value_name = "NAME")]
    pub(super) tenant: Option<String>,
}

/// What is there before anything is changed.
pub(super) struct Ground {
    pub(super) root: PathBuf,
    pub(super) config_path: PathBuf,
    /// The configuration; empty if there is none.
    pub(super) text: String,
    is_there: bool,
    pub(super) tenant: Tenant,
    /// The tenant's name, where a server's entry has to say it.
    pub(super) named: Option<String>,
    /// Where the gateway is reached.
    pub(super) at: String,
}

impl Place {
    /// What is there, which may be nothing yet.
    pub(super) fn read(&self) -> Result<Ground> {
        let root = self.out.clone().unwrap_or_default();
        let config_path = root.join(&self.config);
        let is_there = config_path.is_file();
        let text = if is_there { std::fs::read_to_string(&config_path) } else { Ok(String::new()) };
        let text = text.while_we(|| format!("cannot read `{}`", config_path.display()))?;
        let config = Config::read(is_there.then_some(&*config_path)).map_err(Error::new)?;
        let first = config.tenants.first().cloned().unwrap_or_default();
        let name = self.tenant.clone().unwrap_or_else(|| first.clone());
        if !config.tenants.contains(&name) {
            return Err(Error::new(format!("the configuration serves no tenant `{name}`")));
        }
        let tenant =
            Tenant::parse(&name).map_err(|why| Error::new(format!("`{name}` is no tenant")).because(why))?;
        let (named, at) = ((name != first).then_some(name), config.public_url());
        Ok(Ground { root, config_path, text, is_there, tenant, named, at })
    }

    /// The tenant's folder of the catalogue that is configured.
    pub(super) fn catalogue(&self) -> Result<PathBuf> {
        let ground = self.read()?;
        if !ground.is_there {
            return Err(Error::new(format!("there is no configuration `{}`", ground.config_path.display()))
                .hint("--config names it; `countersign mcp import` makes one"));
        }
        ground.settings().map(|(_, catalogue, _)| catalogue)
    }
}

impl Ground {
    /// The configuration, with a catalogue and policies whatever it says, and the tenant's folders of both.
    pub(super) fn settings(&self) -> Result<(Settings, PathBuf, PathBuf)> {
        let mut settings = Settings::parse(&self.text)?;
        let catalogue =
            self.root.join(settings.folder("catalogue_dir", "catalogue")?).join(self.tenant.as_str());
        let policies = self.root.join(settings.folder("policy_dir", "policies")?).join(self.tenant.as_str());
        Ok((settings, catalogue, policies))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_configuration_is_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = PathBuf::from("countersign.toml");
        let place = Place { config: config.clone(), out: Some(folder.path().to_owned()), tenant: None };
        assert!(place.catalogue().is_err(), "there is none");
        std::fs::write(folder.path().join(config), "").expect("it can be written");
        let catalogue = place.catalogue().expect("there is one");
        assert_eq!(catalogue, folder.path().join("catalogue/default"));
    }
}
