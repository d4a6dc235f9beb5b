//! `countersign mcp`: the tools of MCP servers, put under the gateway.
//!
//! ```text
//!   a client's file ──import──▶ countersign.toml, catalogue, starter policy, the client's file with us in it
//!   what servers list ──tools──▶ what is accepted, changed, new or gone
//!                      ──accept──▶ pinned as it is now
//!   what you know ──classify──▶ what a tool does to the world
//!   a client ──-- COMMAND…──▶ a gateway around the one server that it starts
//! ```
//!
//! Everything that a server says is foreign: it never becomes a path, a line of a file of its own, or a class, and it is shown
//! with whatever does not show itself spelled out.

mod accept;
mod class;
mod classify;
mod client;
mod files;
mod gate;
mod import;
mod keep;
mod place;
mod plan;
mod secrets;
mod settings;
mod sheet;
mod state;
mod told;
mod tools;
mod upstream;
mod wrap;

use std::process::ExitCode;

pub(crate) use keep::keeper;

use crate::error::{Error, Result};

/// Put MCP servers under a gateway: import them, accept and classify their tools, or wrap one
///
/// `countersign mcp -- COMMAND…` in the place where a client starts a server is a gateway of its own around that server.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    wrapped: wrap::Wrap,
}

#[derive(clap::Subcommand)]
enum Command {
    Import(import::Args),
    Tools(tools::Args),
    Accept(accept::Args),
    Classify(classify::Args),
    /// Of a gateway's own: ends what that has started when it is gone
    #[command(hide = true)]
    Keep,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Some(command) = &args.command else {
        return match args.wrapped.is_empty() {
            false => wrap::run(&args.wrapped),
            true => {
                Err(Error::new("there is no server to wrap")
                    .hint("countersign mcp [--name NAME] -- COMMAND…"))
            }
        };
    };
    match command {
        Command::Import(args) => import::run(args),
        Command::Tools(args) => tools::run(args),
        Command::Accept(args) => accept::run(args),
        Command::Classify(args) => classify::run(args),
        Command::Keep => Ok(keep::run()),
    }
}
