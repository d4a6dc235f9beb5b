//! Pages for people. Written on the server, readable without scripts, loading nothing from anywhere.

pub(crate) mod approval_page;
pub(crate) mod docs_page;
pub(crate) mod html;
pub(crate) mod receipt_page;
