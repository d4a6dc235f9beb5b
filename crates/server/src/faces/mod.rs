//! The faces: each translates between its wire and the gateway, and decides nothing.

pub(crate) mod actions;
pub(crate) mod approval_page;
pub(crate) mod approvals;
pub(crate) mod audit;
pub(crate) mod authzen;
pub(crate) mod callbacks;
pub(crate) mod clusters;
pub(crate) mod discovery;
pub(crate) mod events;
pub(crate) mod execution_protocol;
pub(crate) mod grants;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod mandates;
pub(crate) mod mcp;
pub(crate) mod mcp_tools;
pub(crate) mod operations;
pub(crate) mod policies;
pub(crate) mod principals;
pub(crate) mod protected_resource;
mod provenance;
pub(crate) mod receipts;
pub(crate) mod rollbacks;
pub(crate) mod runs;
pub(crate) mod sessions;

pub use actions::action_record;
pub use mandates::mandate_record;
pub use mcp::{is_own_tool, serve_mcp};
pub use sessions::session_record;
