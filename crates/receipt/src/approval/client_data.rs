use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use super::{Refusal, RelyingParty};
use crate::canonical;

/// Checks `clientDataJSON`: the browser's word on what was signed and where.
///
/// Members that are not known are allowed, as the specification demands of readers; a member that stands twice is
/// not, since two readers could read it differently. Where nobody says which origins are allowed, none is checked.
pub(super) fn check(
    json: &[u8],
    ceremony: &str,
    challenge: &[u8],
    party: Option<&RelyingParty>,
) -> Result<(), Refusal> {
    let strict = canonical::canonicalise(json).map_err(|_| Refusal::ClientData)?;
    let data: Value = serde_json::from_slice(&strict).map_err(|_| Refusal::ClientData)?;
    let members = data.as_object().ok_or(Refusal::ClientData)?;
    let text = |name: &str| members.get(name).and_then(Value::as_str).ok_or(Refusal::ClientData);
    let rule = |holds: bool, refusal| if holds { Ok(()) } else { Err(refusal) };
    let (kind, signed, origin) = (text("type")?, text("challenge")?, text("origin")?);
    rule(kind == ceremony, Refusal::Type)?;
    // Compared as text, so no second spelling of the same bytes passes.
    rule(signed == BASE64_URL_SAFE_NO_PAD.encode(challenge), Refusal::Challenge)?;
    rule(party.is_none_or(|party| party.origins.iter().any(|allowed| allowed == origin)), Refusal::Origin)?;
    let same_origin = matches!(members.get("crossOrigin"), None | Some(Value::Bool(false)));
    rule(same_origin && !members.contains_key("topOrigin"), Refusal::CrossOrigin)
}
