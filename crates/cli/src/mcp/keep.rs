//! `countersign mcp keep`: ends what a gateway has started when that gateway is gone. Not for people.

use std::io::stdin;
use std::process::ExitCode;
use std::sync::Arc;

use provider::mcp::{Keeper, end_what_is_left};

use crate::child;
use crate::error::Result;

pub(super) fn run() -> ExitCode {
    end_what_is_left(stdin().lock());
    ExitCode::SUCCESS
}

/// Has servers end with us, whoever ends us.
pub(crate) fn keeper() -> Result<Arc<Keeper>> {
    let program = child::own_file()?.into_os_string();
    Ok(Keeper::new(vec![program, "mcp".into(), "keep".into()]))
}
