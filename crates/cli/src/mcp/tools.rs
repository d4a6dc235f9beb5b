//! `countersign mcp tools`: what servers list, and what is accepted of it.

use std::process::ExitCode;

use serde_json::Value;

use super::class::Class;
use super::gate;
use crate::api::Api;
use crate::error::Result;
use crate::out;

/// List the tools of a running gateway's MCP servers: archetype, level, class, reversibility, state
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: Api,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let client =
        args.api.client_outside_sandbox("its providers are simulated: no MCP server is called from there")?;
    if args.json {
        out::json(&client.get("/v1/mcp/tools")?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let servers = gate::servers(&client, None)?;
    let rows: Vec<_> =
        servers.iter().flat_map(|server| server.tools.iter().map(|tool| row(&server.name, tool))).collect();
    out::table(["server", "tool", "archetype", "level", "class", "reversible", "state", "agents"], &rows)?;
    for server in &servers {
        if let Some(why) = &server.unreachable {
            out::note(format_args!("`{}` does not list its tools: {}", server.name, out::shown(why)));
        }
    }
    for (state, advice) in ADVICE {
        if rows.iter().any(|row| row[6] == state) {
            out::note(format_args!("{advice}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

const ADVICE: [(&str, &str); 3] = [
    (
        "changed",
        "What is changed is blocked: `countersign mcp accept SERVER` shows what is said now, and accepts it.",
    ),
    (
        "new",
        "What is new cannot be called: `countersign mcp accept SERVER TOOL` takes it into the catalogue.",
    ),
    ("gone", "What is gone cannot be called; delete its file in the catalogue if it stays so."),
];

fn row(server: &str, tool: &Value) -> [String; 8] {
    let text = |name: &str| out::shortened(tool[name].as_str().unwrap_or_default(), MOST_SHOWN);
    let is_bound = tool["archetype"].is_string();
    let is = |name: &str| tool[name].as_bool() == Some(true);
    let reversible = match (is_bound, is("read_only"), is("reversible"), tool["undone_by"].as_str()) {
        (false, ..) => String::new(),
        (_, true, ..) => "changes nothing".to_owned(),
        (_, _, true, Some(by)) => format!("by {}", out::shown(by)),
        (_, _, true, None) => "yes".to_owned(),
        _ => "no".to_owned(),
    };
    let class = if is_bound { class(tool) } else { "" };
    [
        server.to_owned(),
        text("tool"),
        text("archetype"),
        text("guarantee_level"),
        class.to_owned(),
        reversible,
        text("state"),
        if is_bound { agents(tool) } else { String::new() },
    ]
}

/// Who could be let call it, of those who have a key.
fn agents(tool: &Value) -> String {
    let names: Vec<&str> =
        tool["agents"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        names if names.len() <= MOST_NAMED => names.join(", "),
        names => format!("{} and {} more", names[..MOST_NAMED].join(", "), names.len() - MOST_NAMED),
    }
}

fn class(tool: &Value) -> &'static str {
    let groups: Vec<&str> =
        tool["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let class = Class::ALL.into_iter().find(|class| groups.contains(&class.group()));
    class.map_or("none", Class::as_str)
}

const MOST_SHOWN: usize = 60;
const MOST_NAMED: usize = 3;
