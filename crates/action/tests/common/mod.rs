//! One place that knows how requests and catalogues are built.
#![allow(dead_code, clippy::panic, reason = "each test file uses a part")]

use countersign_action::{Action, Catalogue, HmacKey, Refusal, Request, Source};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// Compiled once: schemas are cheap to use and dear to make.
pub(crate) fn builtin() -> &'static Catalogue {
    static BUILTIN: OnceLock<Catalogue> = OnceLock::new();
    BUILTIN.get_or_init(Catalogue::builtin)
}

pub(crate) fn catalogue(text: &str) -> Catalogue {
    let loaded = Catalogue::load(true, &[Source { name: "test.toml".into(), text: text.into() }]);
    loaded.unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}

/// What the gateway does with a body.
pub(crate) fn act(catalogue: &Catalogue, body: &Value) -> Result<Action, Refusal> {
    act_on(catalogue, body.to_string().as_bytes())
}

pub(crate) fn act_on(catalogue: &Catalogue, body: &[u8]) -> Result<Action, Refusal> {
    let request = Request::parse(body)?;
    match catalogue.get(&request.archetype) {
        Some(archetype) => Action::of(request, archetype),
        None => Err(Refusal::unknown_archetype(&request.archetype)),
    }
}

pub(crate) fn payment() -> Value {
    json!({
        "archetype": "PAYMENT_TRANSFER",
        "constraints": {"recipient": "acct-4711", "amount_usd": "25.00", "max_total_usd": "30.00", "note": "Invoice 7"},
    })
}

/// A payment with one constraint replaced, or removed if null.
pub(crate) fn payment_with(name: &str, value: Value) -> Value {
    let mut body = payment();
    if let Some(constraints) = body["constraints"].as_object_mut() {
        if value.is_null() {
            constraints.shift_remove(name);
        } else {
            constraints.insert(name.into(), value);
        }
    }
    body
}

pub(crate) fn key() -> HmacKey {
    HmacKey::new(&[7; 32])
}
