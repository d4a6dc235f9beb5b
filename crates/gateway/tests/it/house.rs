//! An installation in a temporary folder, and the requests that tests send to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use action::{Currency, IdempotencyKey, Money, Subject};
use countersign_gateway::{
    Answer, Ask, Caller, Config, Error, Gateway, Installation, MandateAsk, Outcome, Reply, Role,
};
use receipt::{Jwks, Pin, Trust};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) struct House {
    pub(crate) installation: Installation,
    pub(crate) agent: Caller,
    pub(crate) operator: Caller,
    pub(crate) admin: Caller,
    folder: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) token: String,
    /// Did the test have time pass in its store?
    pub(crate) aged: AtomicBool,
}

/// A reply as a test reads it: the outcome's members, flat.
fn render(outcome: &Outcome, public_url: &str) -> Reply {
    let body = json!({
        "kind": outcome.kind.as_str(),
        "id": outcome.action_id.map(|id| id.to_string()),
        "code": outcome.code.map(|code| code.as_str()),
        "receipt": outcome.receipt.as_ref().map(|it| it.receipt_id.clone()),
        "short": outcome.receipt.as_ref().map(|it| it.short.clone()),
        "url": public_url,
        "details": outcome.details,
    });
    Reply { status: 200, body: body.to_string().into_bytes() }
}

pub(crate) const BINDING: &str = r#"
name = "PAYMENT_TRANSFER"
extends = "builtin"

[binding]
provider = "sandbox"
options = { triggers = true }

[binding.capabilities]
idempotent = { retention_seconds = 86400 }
queryable = { by_our_reference = true, final_after_seconds = 0 }
"#;

const PAYMENT_FILE: &str = "catalogue/default/payment.toml";

pub(crate) const POLICY: &str = r#"
@id("payments")
permit (principal, action in Action::"Payments", resource);
"#;

impl House {
    pub(crate) async fn new() -> House {
        House::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> House {
        House::bound(BINDING, change).await
    }

    /// A house whose payments are bound like this.
    pub(crate) async fn bound(binding: &str, change: impl FnOnce(&mut Config)) -> House {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [(PAYMENT_FILE, binding), ("policies/default/payments.cedar", POLICY)] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut config = Config {
            data_dir: folder.path().join("data"),
            catalogue_dir: Some(folder.path().join("catalogue")),
            policy_dir: Some(folder.path().join("policies")),
            ..Config::default()
        };
        change(&mut config);
        House::open(folder, config).await
    }

    async fn open(folder: tempfile::TempDir, config: Config) -> House {
        let installation = Installation::open(config.clone(), render).await.unwrap();
        let caller = |name: &str, role| Caller {
            tenant: action::Tenant::default(),
            subject: Subject::parse(name).unwrap(),
            role,
            key_id: "test".to_owned(),
            key_issuer: Some("ada".to_owned()),
            default_mandate: None,
        };
        let mut house = House {
            installation,
            agent: caller("agent-7", Role::Agent),
            operator: caller("olga", Role::Operator),
            admin: caller("ada", Role::Admin),
            folder,
            config,
            token: String::new(),
            aged: AtomicBool::new(false),
        };
        house.token = house.mandate("500.00").await;
        house
    }

    /// As after the end of its process, however that came.
    pub(crate) async fn restart(self) -> House {
        self.reopened().await.unwrap()
    }

    /// The same, with something done to its files before it begins again.
    pub(crate) async fn reopened_after(self, change: impl FnOnce()) -> House {
        let House { installation, config, .. } = self;
        drop(installation);
        change();
        let installation = Installation::open(config.clone(), render).await.unwrap();
        House { installation, config, ..self }
    }

    /// The same, or why its store does not open.
    pub(crate) async fn reopened(self) -> Result<House, String> {
        let House { installation, config, .. } = self;
        drop(installation);
        let installation = Installation::open(config.clone(), render).await?;
        Ok(House { installation, config, ..self })
    }

    /// The same house as it would be found if its process had ended just now; who is at work here goes on, and is not
    /// heard there. Catalogue and secrets stay where they are.
    pub(crate) async fn copy(&self) -> House {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (&self.config.data_dir, folder.path().join("data"));
        let mut folders = vec![(from.clone(), to.clone())];
        while let Some((from, to)) = folders.pop() {
            std::fs::create_dir_all(&to).unwrap();
            for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
                let (name, target) = (entry.file_name(), to.join(entry.file_name()));
                match name.to_string_lossy() {
                    _ if entry.file_type().unwrap().is_dir() => folders.push((entry.path(), target)),
                    name if name.contains(".db") || name.contains("lock") => {}
                    _ => drop(std::fs::copy(entry.path(), target).unwrap()),
                }
            }
        }
        self.store().execute("VACUUM INTO ?", [to.join("production.db").to_str().unwrap()]).unwrap();
        let config = Config { data_dir: to, ..self.config.clone() };
        let installation = Installation::open(config.clone(), render).await.unwrap();
        let (agent, operator, admin) = (self.agent.clone(), self.operator.clone(), self.admin.clone());
        let (token, aged) = (self.token.clone(), AtomicBool::new(self.aged.load(Ordering::Relaxed)));
        House { installation, agent, operator, admin, folder, config, token, aged }
    }

    /// The record of the action of a key.
    pub(crate) async fn record(&self, id: &str) -> countersign_gateway::ActionView {
        self.gateway().action(&self.agent, id).await.unwrap()
    }

    /// Our name for a call of an action, as its provider was told it: `1`, `1-rollback`, `2-capture-1`.
    pub(crate) async fn reference(&self, id: &str, call: &str) -> String {
        let record = self.record(id).await;
        let (action, _) = record.attempts[0].reference.split_once('-').unwrap();
        format!("{action}-{call}")
    }

    /// What the mandate has spent or reserved, as the store has it.
    pub(crate) fn spent(&self) -> i64 {
        self.store().query_row("SELECT coalesce(max(spent), 0) FROM account", [], |row| row.get(0)).unwrap()
    }

    /// Puts another text in the place of a file.
    pub(crate) fn write(&self, path: &str, text: &str) {
        std::fs::write(self.folder.path().join(path), text).unwrap();
    }

    /// Where a file of the operator's lies.
    pub(crate) fn path(&self, file: &str) -> std::path::PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn gateway(&self) -> &Arc<Gateway> {
        &self.installation.production
    }

    pub(crate) async fn mandate(&self, cap: &str) -> String {
        self.mandate_until(cap, 4_102_444_800).await
    }

    pub(crate) async fn mandate_until(&self, cap: &str, expires_at: i64) -> String {
        let ask = self.mandate_ask(cap, expires_at);
        self.gateway().issue_mandate(&self.operator, ask).await.unwrap().token
    }

    pub(crate) fn mandate_ask(&self, cap: &str, expires_at: i64) -> MandateAsk {
        let usd = Currency::of("USD").unwrap();
        MandateAsk {
            subject: self.agent.subject.clone(),
            even_if_unknown: true,
            scope: vec!["Payments".to_owned()],
            resources: None,
            spend_cap: Some(Money::parse(cap, usd).unwrap()),
            max_actions: None,
            requires_approval: Vec::new(),
            uncertainty_floor: None,
            trust_floor: None,
            goal_scope: Vec::new(),
            resource_envelope: None,
            not_before: None,
            expires_at,
        }
    }

    pub(crate) fn payment(&self, recipient: &str, amount: &str) -> Value {
        json!({
            "archetype": "PAYMENT_TRANSFER",
            "constraints": { "recipient": recipient, "amount_usd": amount, "max_total_usd": "900.00" },
            "delegation_token": self.token,
        })
    }

    pub(crate) async fn send(&self, key: &str, body: &Value) -> Result<Said, Error> {
        let ask = Ask {
            idempotency_key: Some(IdempotencyKey::parse(key).unwrap()),
            request_id: format!("req-{key}"),
            dry_run: false,
            wait: countersign_gateway::Wait::default(),
            body: body.to_string().into_bytes(),
        };
        self.gateway().execute(&self.agent, ask).await.map(Said::of)
    }

    /// A receipt, verified as a stranger would.
    pub(crate) async fn verified(&self, receipt_id: &str) -> Value {
        let gateway = self.gateway();
        let document = gateway.receipt(&self.agent, receipt_id).await.unwrap();
        let jwks = Jwks::parse(gateway.jwks().as_bytes()).unwrap();
        let pin = Pin::new(gateway.issuer(), &jwks);
        let report = receipt::verify(&document, &Trust::new(&pin, &jwks));
        assert_eq!(report.verdict.exit_code(), 0, "{}", report.verdict);
        serde_json::from_slice(&document).unwrap()
    }

    /// The final answer, once somebody has asked the provider.
    pub(crate) async fn settled(&self, key: &str, body: &Value) -> Said {
        self.until(key, body, "executed").await
    }

    /// The answer to a key once it is of this kind, which the gateway sees to in the background.
    pub(crate) async fn until(&self, key: &str, body: &Value, kind: &str) -> Said {
        for _ in 0..2000 {
            let said = self.said(key, body).await;
            if said.kind() == kind {
                return said;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("`{key}` never became {kind}");
    }

    /// An action whose provider answers long after the caller's deadline: its key, its body, and what the caller was told.
    /// A machine that is too busy to send anything within a deadline gets a longer one.
    pub(crate) async fn overdue(&self, mut slow: impl FnMut(u64) -> Value) -> (String, Value, Said) {
        for deadline_ms in [100, 500, 2_500, 12_500] {
            let (key, mut body) = (format!("k{deadline_ms}"), slow(deadline_ms * 3));
            body["deadline_ms"] = deadline_ms.into();
            let said = self.said(&key, &body).await;
            if said.kind() == "pending_settlement" {
                return (key, body, said);
            }
        }
        panic!("nothing was sent within any deadline, or every answer came before it")
    }

    /// The answer to a key once there is room for it and it is not under way any more.
    pub(crate) async fn until_answered(&self, key: &str, body: &Value) -> Said {
        for _ in 0..2000 {
            if let Ok(said) = self.send(key, body).await {
                return said;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("`{key}` was never answered");
    }

    /// What a body would come to.
    pub(crate) async fn dry_run(&self, key: &str, body: &Value) -> Said {
        let ask = Ask {
            idempotency_key: Some(IdempotencyKey::parse(key).unwrap()),
            request_id: format!("req-{key}"),
            dry_run: true,
            wait: countersign_gateway::Wait::default(),
            body: body.to_string().into_bytes(),
        };
        self.gateway().execute(&self.agent, ask).await.map(Said::of).unwrap()
    }

    /// Binds payments anew, as an admin who edits the file and reloads.
    pub(crate) async fn rebind(&self, binding: &str) {
        std::fs::write(self.folder.path().join(PAYMENT_FILE), binding).unwrap();
        self.gateway().reload(&self.admin).await.unwrap();
    }

    /// The store of production, for whoever can write the file.
    pub(crate) fn store(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("data/production.db")).unwrap()
    }

    /// Has the row of the action under this idempotency key be as if time had passed, or as an older build left it; `to` is SQL
    /// over `payload`. Its entry names what it is then, and is the one finding that the walk has.
    pub(crate) fn age(&self, key: &str, to: &str) {
        self.rewrite(key, to);
        self.aged.store(true, Ordering::Relaxed);
        let store = self.store();
        let sql = "SELECT a.payload, e.row, e.bytes FROM action a JOIN fate f ON f.row = a.row
                   JOIN entry e ON e.row = coalesce(f.moved, a.entry) WHERE a.key = ?";
        let (payload, row, bytes): (Vec<u8>, i64, Vec<u8>) =
            store.query_row(sql, [key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        let judged =
            serde_json::from_slice::<Value>(&payload).unwrap()["action_hash"].as_str().unwrap().to_owned();
        let digest = hex::encode(Sha256::digest(&payload));
        let named = format!(r#"{{"actionHash":"{judged}","key":"{key}","row":"{digest}"}}"#);
        let name = hex::encode(Sha256::digest(named));
        let mut entry: serde_json::Map<String, Value> = serde_json::from_slice(&bytes).unwrap();
        entry.insert("actionHash".to_owned(), Value::String(name));
        let entry = serde_json::to_vec(&entry).unwrap();
        store.execute("UPDATE entry SET bytes = ?2 WHERE row = ?1", (row, entry)).unwrap();
    }

    /// Has the record of the one entry of this event be as an older build wrote it, and the entry with it. Only the next entry
    /// can tell.
    pub(crate) fn retell(&self, event: &str, about: &str, to: impl FnOnce(&str) -> String) {
        let store = self.store();
        let sql = "SELECT row, bytes, CAST(record AS TEXT) FROM entry
                   WHERE instr(CAST(bytes AS TEXT), ?1) AND instr(CAST(record AS TEXT), ?2)";
        let named = [format!("\"event\":\"{event}\""), about.to_owned()];
        let (row, bytes, record): (i64, Vec<u8>, String) =
            store.query_row(sql, named, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        let record = to(&record);
        let mut entry: std::collections::BTreeMap<String, Value> = serde_json::from_slice(&bytes).unwrap();
        entry.remove("hash");
        entry.insert("actionHash".to_owned(), hex::encode(Sha256::digest(&record)).into());
        let hash = hex::encode(Sha256::digest(serde_json::to_vec(&entry).unwrap()));
        entry.insert("hash".to_owned(), hash.into());
        let sql = "UPDATE entry SET bytes = ?1, record = CAST(?2 AS BLOB) WHERE row = ?3";
        store.execute(sql, (serde_json::to_vec(&entry).unwrap(), record, row)).unwrap();
    }

    /// Changes the row of the action under this idempotency key, as a forger would; `to` is SQL over `payload`.
    pub(crate) fn rewrite(&self, key: &str, to: &str) {
        self.rewrite_payload("action", &format!("key = '{key}'"), to);
    }

    /// The same with the payload of any row of that table.
    pub(crate) fn rewrite_payload(&self, table: &str, of: &str, to: &str) {
        let store = self.store();
        let select = format!("SELECT row, payload FROM {table} WHERE {of}");
        let (row, packed): (i64, Vec<u8>) =
            store.query_row(&select, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let plain = ledger::unpack(&packed).unwrap();
        store.execute(&format!("UPDATE {table} SET payload = ?2 WHERE row = ?1"), (row, plain)).unwrap();
        let update = format!("UPDATE {table} SET payload = CAST({to} AS BLOB) WHERE row = ?1");
        store.execute(&update, [row]).unwrap();
    }

    pub(crate) async fn said(&self, key: &str, body: &Value) -> Said {
        self.send(key, body).await.unwrap()
    }
}

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) replayed: bool,
    pub(crate) bytes: Vec<u8>,
    pub(crate) body: Value,
}

impl Said {
    pub(crate) fn of(answer: Answer) -> Said {
        let body = serde_json::from_slice(&answer.reply.body).unwrap();
        Said { replayed: answer.replayed, bytes: answer.reply.body, body }
    }

    pub(crate) fn kind(&self) -> &str {
        self.body["kind"].as_str().unwrap()
    }

    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("none")
    }

    pub(crate) fn id(&self) -> &str {
        self.body["id"].as_str().unwrap()
    }

    pub(crate) fn reasons(&self) -> Vec<&str> {
        self.body["details"]["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
}
