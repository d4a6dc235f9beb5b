//! Faces: wire types, status codes, headers and pages. Nothing else in the workspace knows them.
//!
//! ```text
//!   serve ─▶ talk ─▶ site ─▶ routes ─▶ face ─▶ gateway
//!     connections    │                  │         │
//!                host, origin       who, body   outcome ─▶ render ─▶ reply, durable before it is said
//! ```
//!
//! A face translates: headers, path and body into a question to the gateway, its answer into a response. It decides
//! nothing. Who is calling is a value that a face asks for and hands on ([`gateway::Caller`]); roles are the gateway's
//! to judge. The one table of routes is the truth about what is served: the OpenAPI document, the pages made from it
//! and the tests that walk every endpoint read the same table. The one catalogue of errors is the truth about codes.
//!
//! **Environments.** Production is served as written, the sandbox below `/sandbox` and at `/api/sandbox/execute`; to
//! `/api/execute` alone `EP-Mode: sandbox` may be sent instead. A header that contradicts the path is refused. In the
//! sandbox a caller without a key is the agent `anonymous`; beyond loopback there is no sandbox unless it is allowed.
//!
//! **Figures.** `/metrics` is open on a loopback listener that no proxy stands before, and else wants a key that may
//! read the tenant.
//!
//! **Messages.** What an agent reads is a fixed text or stands in a member named `untrusted_text`. Operators, whose
//! own words it quotes, are told in full.
//!
//! **People.** `/approvals` is for browsers: pages without a framework, forms that work without scripts, and a script
//! only where a passkey has to be asked. Whoever is logged in has a session, and every form that changes something
//! carries a word of it; an API key in a header is not looked at there, nor a cookie anywhere else.
//!
//! Absent on purpose: a framework of layers. A request is one function call from the connection to its face, so that
//! the busiest path allocates little and can be read from top to bottom. No cross-origin access is granted, only the
//! approval page sets a cookie, nothing is compressed (mandates and keys travel here), and no page loads anything from
//! anywhere.

pub mod errors;
mod faces;
mod fault;
mod figures;
mod host;
mod line;
mod linger;
pub mod openapi;
mod pages;
mod render;
mod reply;
mod request;
mod routes;
mod serve;
mod session;
mod site;
mod socket;
mod talk;
mod who;

pub use faces::{action_record, is_own_tool, mandate_record, serve_mcp, session_record};
pub use render::render;
pub use request::Limits;
pub use routes::{Place, ROUTES, Route, Who};
pub use serve::{Error, Running, ServerConfig, Tls, serve};
pub use site::Faces;
