//! `countersign mcp`: the tools of MCP servers, put under the gateway.
//!
//! ```text
//!   a client's file ──import──▶ countersign.toml, catalogue, starter policy, the client's file with us in it
//!   what servers list ──tools──▶ what is accepted, changed, new or gone
//!                      ──accept──▶ pinned as it is now
//!   what you know ──classify──▶ what a tool does to the world
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
mod place;
mod plan;
mod secrets;
mod settings;
mod sheet;
mod told;
mod tools;
mod upstream;

use std::process::ExitCode;

use crate::error::Result;

/// Put MCP servers under the gateway: import them, accept and classify their tools
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Import(import::Args),
    Tools(tools::Args),
    Accept(accept::Args),
    Classify(classify::Args),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Import(args) => import::run(args),
        Command::Tools(args) => tools::run(args),
        Command::Accept(args) => accept::run(args),
        Command::Classify(args) => classify::run(args),
    }
}
