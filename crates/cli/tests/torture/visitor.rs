//! A browser without eyes: it keeps cookies and sends the forms it was given.

use std::collections::BTreeMap;

use reqwest::Client;
use reqwest::header::{COOKIE, HeaderMap, SET_COOKIE};
use serde_json::Value;

use crate::house::{House, Said, Voice};
use crate::passkey::Passkey;

pub(crate) struct Visitor {
    http: Client,
    url: String,
    pub(crate) cookies: BTreeMap<String, String>,
    /// The word of the page that was seen last.
    pub(crate) form: String,
}

impl Visitor {
    pub(crate) fn of(house: &House) -> Visitor {
        let http = crate::house::client_without_redirects();
        Visitor { http, url: house.gateway.url.clone(), cookies: BTreeMap::new(), form: String::new() }
    }

    /// Somebody who logged in with this key.
    pub(crate) async fn logged_in(house: &House, voice: &Voice) -> Visitor {
        let mut visitor = Visitor::of(house);
        visitor.look("/approvals").await;
        let said = visitor.send("/approvals/login", &[("key", voice.key.as_deref().unwrap())]).await;
        assert_eq!(said.status, 303, "{}", said.text());
        assert_eq!(visitor.look("/approvals").await.status, 200);
        visitor
    }

    pub(crate) async fn look(&mut self, path: &str) -> Said {
        let request = self.http.get(format!("{}{path}", self.url)).header(COOKIE, self.jar());
        let said = Said::of(request).await.unwrap();
        self.keep(&said.headers);
        let page = said.text();
        if let Some((_, rest)) = page.split_once("name=\"form\" value=\"") {
            self.form = rest.split('"').next().unwrap().to_owned();
        }
        said
    }

    /// Sends a form with the word that it was given.
    pub(crate) async fn send(&mut self, path: &str, fields: &[(&str, &str)]) -> Said {
        let form = self.form.clone();
        let fields: Vec<(&str, &str)> =
            std::iter::once(("form", form.as_str())).chain(fields.iter().copied()).collect();
        self.send_as(path, &fields, &[]).await
    }

    /// Sends exactly these fields.
    pub(crate) async fn send_as(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Said {
        let mut request = self.http.post(format!("{}{path}", self.url)).header(COOKIE, self.jar());
        request =
            request.header("content-type", "application/x-www-form-urlencoded").body(url_encoded(fields));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let said = Said::of(request).await.unwrap();
        self.keep(&said.headers);
        said
    }

    /// Registers a passkey; its id, as the page shows it.
    pub(crate) async fn register(&mut self, passkey: &Passkey) -> String {
        self.look("/approvals/passkeys").await;
        let creation = self.send("/approvals/passkeys/new", &[]).await;
        assert_eq!(creation.status, 200, "{}", creation.text());
        let made = passkey.create(&creation.body["challenge"], |_| {});
        let said = self.send("/approvals/passkeys", &[("enrolment", &made)]).await;
        assert_eq!(said.status, 303, "{}", said.text());
        let page = self.look("/approvals/passkeys").await.text();
        let (_, after) = page.rsplit_once("approvers enrol ").expect("it waits for an admin");
        after.split('<').next().unwrap().to_owned()
    }

    fn jar(&self) -> String {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    fn keep(&mut self, headers: &HeaderMap) {
        for set in headers.get_all(SET_COOKIE) {
            let set = set.to_str().unwrap();
            let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
            match set.contains("Max-Age=0;") {
                true => drop(self.cookies.remove(name)),
                false => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
            }
        }
    }
}

/// Somebody who approves, logged in, with a passkey that an admin has enrolled; and the passkey's id.
pub(crate) async fn enrolled(house: &House, voice: &Voice, passkey: &Passkey) -> (Visitor, String) {
    let mut visitor = Visitor::logged_in(house, voice).await;
    let id = visitor.register(passkey).await;
    let enrolled = house.admin().post(&format!("/v1/passkeys/{id}/enrol"), &Value::Null).await;
    assert_eq!(enrolled.status, 200, "{}", enrolled.text());
    (visitor, id)
}

/// As browsers write forms: every byte that could mean something is escaped.
fn url_encoded(fields: &[(&str, &str)]) -> String {
    let escaped = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
        text.bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect::<String>()
    };
    fields
        .iter()
        .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
        .collect::<Vec<_>>()
        .join("&")
}
