//! The one client for the outside.
//!
//! Whoever talks to the world (providers and receivers) does it through [`Egress`]. It holds what must be true of every
//! connection, whatever asked for it:
//!
//! * The address is checked when the connection is opened, by the resolver that hands it to the connector; there is
//!   no second look-up in between. A name that changes its answer gains nothing, and a pooled connection is one
//!   whose address was checked. Addresses written in a URL never meet a resolver and are checked before each request.
//! * Each [`Destination`] has a client of its own, so no connection is ever shared between two hosts, nor between two
//!   that show different certificates or none.
//! * A connection of HTTP/1 serves one exchange: an answer that comes twice is not taken for the next one's.
//! * No proxy variables, no redirects, no cookies, no retries. HTTPS unless the operator says otherwise.
//! * Bodies are cut at a bound counted after decompression, and the time for one exchange includes its body.
//!
//! An exchange ends in one of three ways, and the difference is the point: [`Exchange::NotSent`] means that no byte of
//! the request left; everything that may have left and was not answered is [`Exchange::Lost`].

mod address;
mod client;
mod document;
mod identity;
mod line;
mod resolver;
mod rules;

pub(crate) use client::Apart;
pub use client::{BodyFault, Destination, Egress, Exchange, NoCertificate, Request};
pub use document::NoDocument;
pub use identity::{BadIdentity, Identity};
pub(crate) use line::Line;
pub use resolver::{Lookup, Lookups, SystemLookup};
pub use rules::{HostPort, Origin, Refused, Rules};
