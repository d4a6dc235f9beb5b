//! Asking a server what tools it has, with what the configuration says of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use action::Tenant;
use gateway::Config;
use provider::egress::Rules;
use provider::mcp::{SeenTool, Servers};
use provider::secrets::{Kind, Source};
use provider::{Egress, Outside, Secrets};

/// What a server lists, or why it does not.
pub(super) type Listed = Result<Arc<Vec<SeenTool>>, String>;

/// The tools of each of these servers, asked all at once. `values` are secrets that are known without being exported, by name.
pub(super) async fn tools_of(
    config: &Config,
    names: &[String],
    values: &BTreeMap<String, String>,
) -> BTreeMap<String, Listed> {
    let mut asked = tokio::task::JoinSet::new();
    for name in names {
        let (name, one) = (name.clone(), server(config, name, values));
        asked.spawn(async move {
            let listed = match one {
                Ok((servers, tenant)) => match servers.get(&tenant, &name) {
                    Some(server) => server.tools().await.map_err(|error| error.why),
                    None => Err("the configuration does not name it".to_owned()),
                },
                Err(why) => Err(why),
            };
            (name, listed)
        });
    }
    asked.join_all().await.into_iter().collect()
}

/// One server by itself, so that what another one lacks is no matter.
fn server(
    config: &Config,
    name: &str,
    values: &BTreeMap<String, String>,
) -> Result<(Servers, Tenant), String> {
    let mut mcp = config.mcp.clone();
    mcp.servers.retain(|one, _| one == name);
    let declared = mcp.servers.get(name).ok_or("the configuration does not name it")?;
    let used: Vec<&str> = declared
        .secrets
        .values()
        .map(String::as_str)
        .chain(declared.headers.values().map(|it| it.secret.as_str()))
        .collect();
    let mut secrets = config.provider_secrets()?;
    secrets.retain(|secret| used.contains(&secret.name.as_str()));
    for secret in &mut secrets {
        if let (Some(value), Kind::Static(source)) = (values.get(&secret.name), &mut secret.kind) {
            *source = Source::Given(value.clone().into());
        }
    }
    let secrets = Secrets::load(secrets)
        .map_err(|errors| errors.first().map(ToString::to_string).unwrap_or_default())?;
    let rules = Rules::parse(&config.egress.allow, &config.egress.plain_http)
        .map_err(|error| format!("`egress`: {error}"))?;
    let egress = Egress::new(rules);
    let tenants: Vec<Tenant> = config.tenants.iter().filter_map(|name| Tenant::parse(name).ok()).collect();
    let outside = Outside { egress: &egress, secrets: &secrets };
    let declared = mcp.declared(&tenants)?;
    let tenant = declared.first().map(|one| one.tenant.clone()).unwrap_or_default();
    Ok((Servers::new(declared, outside).map_err(|wrong| wrong.join("; "))?, tenant))
}
