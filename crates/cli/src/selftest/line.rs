//! The line to the gateway, wherever it listens at the moment; between two of its lives nobody answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::error::{Context, Error, Result};

/// Where the gateway listens, if it does.
#[derive(Default)]
pub(super) struct Place(Mutex<Option<String>>);

/// Someone who speaks to it.
#[derive(Clone)]
pub(super) struct Line {
    http: reqwest::Client,
    place: Arc<Place>,
    key: Arc<str>,
}

/// An answer.
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) bytes: Vec<u8>,
    /// Null when it is not JSON.
    pub(super) body: Value,
}

impl Place {
    pub(super) fn set(&self, url: Option<String>) {
        *lock(&self.0) = url;
    }
}

impl Line {
    pub(super) fn new(place: Arc<Place>, key: &str) -> Result<Line> {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build();
        let http = http.while_we(|| "cannot start an HTTP client".to_owned())?;
        Ok(Line { http, place, key: key.into() })
    }

    /// The same line for somebody else.
    pub(super) fn of(&self, key: &str) -> Line {
        Line { key: key.into(), ..self.clone() }
    }

    pub(super) async fn get(&self, path: &str) -> Option<Said> {
        self.ask(Method::GET, path, None, None).await
    }

    /// An answer that has to come: from a gateway that nobody kills.
    pub(super) async fn must(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Said> {
        match self.ask(method, path, body, None).await {
            Some(said) if (200..300).contains(&said.status) => Ok(said),
            Some(said) => {
                let text = crate::out::shown(&String::from_utf8_lossy(&said.bytes));
                Err(Error::new(format!("the gateway answered {} to {path}", said.status)).hint(text))
            }
            None => Err(Error::new(format!("the gateway did not answer to {path}"))),
        }
    }

    /// Nothing if nobody answered.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> Option<Said> {
        let url = lock(&self.place.0).clone()?;
        let mut request = self.http.request(method, format!("{url}{path}")).bearer_auth(&self.key);
        if let Some(key) = idempotency_key {
            request = request.header("ep-version", "2026-04-27").header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.ok()?.to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Some(Said { status, bytes, body })
    }
}

impl Said {
    pub(super) fn text(&self, member: &str) -> &str {
        self.body[member].as_str().unwrap_or_default()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
