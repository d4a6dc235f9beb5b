//! A server with real gateways behind it, in a temporary directory.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use countersign_server::{Faces, Running, ServerConfig, render, serve};
use gateway::{Config, Installation};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A server on a port of its own, and an admin's key.
pub struct Served {
    pub running: Running,
    pub url: String,
    pub admin: String,
    pub client: Client,
    installation: Installation,
    folder: TempDir,
}

impl Served {
    pub async fn start() -> Served {
        Served::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ServerConfig)) -> Served {
        Served::limited(gateway::config::Limits::default(), change).await
    }

    /// With other bounds on what the gateways take on.
    pub async fn limited(limits: gateway::config::Limits, change: impl FnOnce(&mut ServerConfig)) -> Served {
        Served::ruled(&[], limits, change).await
    }

    /// With these files of catalogue and policies, by their paths, for the tenants `default` and `other`.
    pub async fn ruled(
        files: &[(&str, &str)],
        limits: gateway::config::Limits,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Served {
        Served::configured(files, |config| config.limits = limits, change).await
    }

    /// The same with another configuration.
    pub async fn configured(
        files: &[(&str, &str)],
        configure: impl FnOnce(&mut Config),
        change: impl FnOnce(&mut ServerConfig),
    ) -> Served {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let directory = |name: &str| Some(folder.path().join(name)).filter(|path| path.exists());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config {
            listen: listener.local_addr().unwrap(),
            data_dir: folder.path().join("data"),
            catalogue_dir: directory("catalogue"),
            policy_dir: directory("policies"),
            tenants: vec!["default".to_owned(), "other".to_owned()],
            ..Config::default()
        };
        configure(&mut config);
        let mut served = ServerConfig::from(&config);
        change(&mut served);
        let url = config.public_url();
        let mut installation = Installation::open(config, render).await.unwrap();
        installation.start();
        let admin = installation.first_key().await.unwrap().unwrap().secret;
        let faces =
            Faces { production: installation.production.clone(), sandbox: installation.sandbox.clone() };
        let running = serve(listener, faces, served).await.unwrap();
        let client = Client::builder().no_proxy().build().unwrap();
        Served { running, url, admin, client, installation, folder }
    }

    pub fn production(&self) -> std::sync::Arc<gateway::Gateway> {
        self.installation.production.clone()
    }

    pub fn sandbox(&self) -> std::sync::Arc<gateway::Gateway> {
        self.installation.sandbox.clone().unwrap()
    }

    /// Other rules, in force from now on.
    pub async fn rewrite(&self, path: &str, text: &str) {
        std::fs::write(self.folder.path().join(path), text).unwrap();
        let reloaded = self.as_admin(self.post("/v1/reload", &Value::Null)).send().await.unwrap();
        assert!(reloaded.status().is_success(), "{}", reloaded.text().await.unwrap());
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url)).json(body)
    }

    pub fn as_admin(&self, request: RequestBuilder) -> RequestBuilder {
        request.bearer_auth(&self.admin)
    }

    pub async fn key(&self, role: &str) -> String {
        self.key_of(&format!("some-{role}"), role).await
    }

    pub async fn key_of(&self, subject: &str, role: &str) -> String {
        let body = json!({"subject": subject, "role": role});
        let created = body_of(self.as_admin(self.post("/v1/keys", &body)).send().await.unwrap()).await;
        created["secret"].as_str().unwrap().to_owned()
    }

    /// A key of another tenant.
    pub async fn key_of_other(&self, subject: &str, role: gateway::Role) -> String {
        let (tenant, subject) =
            (action::Tenant::parse("other").unwrap(), action::Subject::parse(subject).unwrap());
        self.installation.keyring().create(&tenant, subject, role).await.unwrap().secret
    }

    /// A harmless action in the sandbox, done.
    pub async fn executed(&self) -> Value {
        let response = self.post("/api/sandbox/execute", &payment()).send().await.unwrap();
        let status = response.status();
        let body = body_of(response).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }
}

pub fn payment() -> Value {
    json!({
        "archetype": "HOTEL_RESERVATION",
        "constraints": {
            "property_id": "prop-1", "city": "Lisbon", "check_in": "2026-06-01", "check_out": "2026-06-03",
            "room_type": "double", "guests": 2, "max_total_usd": "300.00",
        },
    })
}

pub async fn body_of(response: Response) -> Value {
    response.json().await.unwrap()
}
