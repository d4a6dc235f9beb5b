//! Rollbacks that a request brings.

use action::IdempotencyKey;
use countersign_gateway::{Ask, Code, Spelling};
use serde_json::json;

use crate::checks::{counts, house};

/// A command that could be undone itself, so that nothing else speaks against it.
const RUN: &str = r#"
name = "TERMINAL_COMMAND"
extends = "builtin"
reversible = true

[binding]
provider = "runner"
timeout_seconds = 60

[binding.capabilities]
idempotent = { retention_seconds = 86400 }
"#;

#[tokio::test]
async fn what_its_caller_would_carry_out_undoes_nothing() {
    let (house, archive) = house().await;
    house.write("catalogue/default/command.toml", RUN);
    house.gateway().reload(&house.admin).await.unwrap();
    let body = json!({
        "action": { "verb": "RECORD_WRITE", "parameters": { "record": "r1", "content": { "valid": true } } },
        "rollback": {
            "verb": "TERMINAL_COMMAND",
            "parameters": { "program": "/bin/rm", "directory": "/" },
        },
    });
    let ask = Ask {
        idempotency_key: Some(IdempotencyKey::parse("k").unwrap()),
        request_id: "req-k".to_owned(),
        dry_run: false,
        wait: countersign_gateway::Wait::default(),
        body: body.to_string().into_bytes(),
    };
    let refused = house.gateway().submit(&house.agent, ask, Spelling::Json).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::ProviderCannot, Some("/rollback/verb")));
    assert_eq!(refused.message, "the archetype of the rollback is carried out by its caller");
    assert_eq!(counts(&archive), (0, 0, false));
}
