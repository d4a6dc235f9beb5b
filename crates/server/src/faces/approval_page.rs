//! The approval page: requests of browsers, answered with pages and redirects. Looking decides nothing; what decides is
//! a form that this page made.

use std::time::{Duration, Instant};

use action::Environment;
use gateway::{Caller, Code, Credential, Deed, Error, HeldView, LimitsAsk, ResolveAsk, Ruling, RulingAsk};
use http::header::{HeaderValue, LOCATION, SET_COOKIE};
use http::{HeaderName, StatusCode};
use receipt::approval::{AppliesTo, Enrolment};
use serde::{Deserialize, Serialize};

use super::approvals::{Assertion, bytes, text};
use crate::pages::approval_page::{self, Decision, Frame, Login};
use crate::reply;
use crate::request::{Request, Response, read_text, single};
use crate::session::Opened;
use crate::{errors, site};

/// How long a watcher waits for news before the answer is that there are none.
const LONGEST_WATCH: Duration = Duration::from_secs(20);
/// How often it is looked whether anything was written, and whether anything expired.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_ANYWAY: Duration = Duration::from_secs(5);

/// What waits, or the form by which one logs in.
pub(crate) async fn inbox(request: Request) -> Result<Response, Error> {
    let page = Page::of(&request)?;
    let visitor = match page.visitor(Watches::No).await {
        Ok(visitor) => visitor,
        Err(error) if error.code == Code::Unauthenticated => {
            return page.login(StatusCode::OK, &page.base, None);
        }
        Err(error) => return page.told(Err(error)),
    };
    let [cursor] = match request.query(["cursor"]) {
        Ok(query) => query,
        Err(error) => return page.told(Err(error)),
    };
    let read = async {
        let gateway = request.gateway()?;
        let version = gateway.version(&visitor.caller, None).await?;
        let held = gateway.held(&visitor.caller, cursor, ROWS).await?;
        let unresolved = gateway.unresolved(&visitor.caller).await?;
        let deadlocks = gateway.deadlocks(&visitor.caller).await?;
        let (frame, waits) = (page.frame(Some(&visitor)), (&held, &*unresolved, &*deadlocks));
        Ok(approval_page::inbox(&frame, waits, &version))
    };
    page.told(read.await)
}

/// One action in full.
pub(crate) async fn show(request: Request) -> Result<Response, Error> {
    let page = Page::of(&request)?;
    let read = async {
        let visitor = page.visitor(Watches::No).await?;
        let gateway = request.gateway()?;
        let version = gateway.version(&visitor.caller, Some(&request.argument)).await?;
        let held = gateway.held_one(&visitor.caller, &request.argument).await?;
        let record = gateway.action(&visitor.caller, &request.argument).await?;
        let decision = page.decision(&visitor.caller, &held).await?;
        Ok(approval_page::detail(&page.frame(Some(&visitor)), &held, &record, &decision, &version))
    };
    page.told(read.await)
}

/// Says so as soon as what a page shows has changed: a stream of one event, after which the browser asks again. So a
/// watcher costs no more than any other caller who waits.
pub(crate) async fn watch(request: Request) -> Result<Response, Error> {
    let page = Page::of(&request)?;
    let visitor = page.visitor(Watches::Yes).await?;
    let gateway = request.gateway()?;
    let [of, seen] = request.query(["of", "seen"])?;
    // A browser that asks again says what it was told last; the address is still that of the page.
    let told = single(&request.head.headers, &LAST_EVENT_ID)?.map(str::to_owned);
    let seen = told.or(seen).unwrap_or_default();
    let mut stop = request.site.stop.clone();
    let (begun, mut looked, mut commits) = (Instant::now(), None::<Instant>, 0);
    loop {
        let now = gateway.commits();
        if now != commits || looked.is_none_or(|at| at.elapsed() >= LOOK_ANYWAY) {
            (commits, looked) = (now, Some(Instant::now()));
            let version = gateway.version(&visitor.caller, of.as_deref()).await?;
            if version != seen {
                let text = format!("retry: 1000\nid: {version}\nevent: change\ndata: {version}\n\n");
                return Ok(reply::bytes_of(StatusCode::OK, EVENTS, text));
            }
        }
        let over = begun.elapsed() >= LONGEST_WATCH;
        let stopped = tokio::select! {
            _ = tokio::time::sleep(LOOK) => false,
            _ = stop.wait_for(Option::is_some) => true,
        };
        if over || stopped {
            return Ok(reply::bytes_of(StatusCode::OK, EVENTS, "retry: 1000\n: nothing new\n\n"));
        }
    }
}

/// Logs in by API key or passkey.
pub(crate) async fn log_in(mut request: Request) -> Result<Response, Error> {
    let sent = request.form(["form", "key", "assertion", "next"]).await;
    let page = Page::of(&request)?;
    let opened = async {
        let [form, key, assertion, next] = sent?;
        page.site().sessions.stranger_sent(&request.head.headers, &form.unwrap_or_default())?;
        let (credential, caller) = page.credential(key, assertion).await?;
        if !caller.role.may(Deed::Approve) {
            let why = format!("a key of role `{}` does not log in here: people decide", caller.role.as_str());
            return Err(Error::new(Code::Forbidden, why).hint("log in with a key of role approver"));
        }
        let cookies = page.site().sessions.open(credential, &caller)?;
        Ok((cookies, page.within(next)))
    };
    match opened.await {
        Ok((cookies, next)) => {
            let mut response = see_other(&next)?;
            for cookie in cookies {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            Ok(response)
        }
        Err(error) => page.login(status(&error), &page.base, Some(&error)),
    }
}

/// What a passkey has to sign to log in.
pub(crate) async fn greet(mut request: Request) -> Result<Response, Error> {
    let [form] = request.form(["form"]).await?;
    let page = Page::of(&request)?;
    page.site().sessions.stranger_sent(&request.head.headers, &form.unwrap_or_default())?;
    let greeting = page.site().faces.production.greet()?;
    Ok(reply::json(
        StatusCode::OK,
        &Challenge { challenge: text(&greeting.challenge), rp_id: greeting.rp_id, credentials: Vec::new() },
    ))
}

/// Logs out.
pub(crate) async fn log_out(mut request: Request) -> Result<Response, Error> {
    let sent = request.form(["form"]).await;
    let page = Page::of(&request)?;
    let closed = async {
        let [form] = sent?;
        page.visitor(Watches::No).await?.opened.sent(&form.unwrap_or_default())?;
        page.site().sessions.close(&request.head.headers)
    };
    match closed.await {
        Ok(cookie) => {
            let mut response = see_other(&page.base)?;
            response.headers_mut().append(SET_COOKIE, cookie);
            Ok(response)
        }
        Err(error) => page.told(Err(error)),
    }
}

/// The envelope that a person is to sign.
pub(crate) async fn ask(mut request: Request) -> Result<Response, Error> {
    let asked = ["form", "comment", "max_amount", "not_after", "applies_to"];
    let [form, comment, most, until, reach] = request.form(asked).await?;
    let page = Page::of(&request)?;
    let visitor = page.visitor(Watches::No).await?;
    visitor.opened.sent(&form.unwrap_or_default())?;
    let (gateway, limits) = (request.gateway()?, limits(most, until, reach));
    let question = gateway.ask_to_sign(&visitor.caller, &request.argument, comment, limits).await?;
    Ok(reply::json(
        StatusCode::OK,
        &Challenge {
            challenge: text(&question.challenge),
            rp_id: question.rp_id,
            credentials: question.credentials.iter().map(|id| text(id)).collect(),
        },
    ))
}

/// A person agrees, by passkey or by what they are logged in with.
pub(crate) async fn approve(mut request: Request) -> Result<Response, Error> {
    let sent = request.form(DECISION).await;
    let page = Page::of(&request)?;
    let decided = async {
        let [form, comment, assertion, most, until, reach] = sent?;
        let visitor = page.visitor(Watches::No).await?;
        visitor.opened.sent(&form.unwrap_or_default())?;
        let (gateway, id) = (request.gateway()?, &request.argument);
        match assertion.filter(|it| !it.is_empty()) {
            Some(assertion) => {
                gateway.approve_signed(&visitor.caller, id, Assertion::parse(&assertion)?).await
            }
            None => {
                let ask = RulingAsk::Approve { comment, limits: limits(most, until, reach) };
                gateway.rule(&visitor.caller, id, ask).await
            }
        }
    };
    page.decided(decided.await)
}

/// A person says no.
pub(crate) async fn reject(mut request: Request) -> Result<Response, Error> {
    let sent = request.form(DECISION).await;
    let page = Page::of(&request)?;
    let decided = async {
        let [form, comment, ..] = sent?;
        let visitor = page.visitor(Watches::No).await?;
        visitor.opened.sent(&form.unwrap_or_default())?;
        request.gateway()?.reject(&visitor.caller, &request.argument, comment).await
    };
    page.decided(decided.await)
}

/// A person asks something, gives more time, or ends it all.
pub(crate) async fn decide(mut request: Request) -> Result<Response, Error> {
    let sent = request.form(["form", "as", "text", "seconds"]).await;
    let page = Page::of(&request)?;
    let decided = async {
        let [form, word, text, seconds] = sent?;
        let visitor = page.visitor(Watches::No).await?;
        visitor.opened.sent(&form.unwrap_or_default())?;
        let comment = text.filter(|text| !text.is_empty());
        let ask = match Ruling::parse(&word.unwrap_or_default()) {
            Some(Ruling::RequestMoreInfo) => {
                RulingAsk::RequestMoreInfo { question: comment.unwrap_or_default() }
            }
            Some(Ruling::RevokeMission) => RulingAsk::RevokeMission { comment },
            Some(Ruling::ExtendBudget) => {
                let seconds = seconds.unwrap_or_default().trim().parse();
                let seconds = seconds.map_err(|_| {
                    Error::new(Code::ValidationFailed, "say how many seconds, as a whole number")
                        .field("seconds")
                })?;
                RulingAsk::ExtendBudget { seconds, comment }
            }
            _ => return Err(Error::new(Code::ValidationFailed, "say what you decide").field("as")),
        };
        request.gateway()?.rule(&visitor.caller, &request.argument, ask).await
    };
    page.decided(decided.await)
}

/// What the form of a yes and a no sends.
const DECISION: [&str; 6] = ["form", "comment", "assertion", "max_amount", "not_after", "applies_to"];

/// How far a yes goes. An empty field is one that says nothing, and a time without a zone is UTC. Who means the whole session
/// means to limit it.
fn limits(most: Option<String>, until: Option<String>, reach: Option<String>) -> Option<LimitsAsk> {
    let said = |field: Option<String>| field.map(|it| it.trim().to_owned()).filter(|text| !text.is_empty());
    let zoned = |until: String| if until.len() == MINUTE.len() { format!("{until}:00Z") } else { until };
    let applies_to = said(reach).filter(|reach| reach != AppliesTo::Action.as_str());
    let limits = LimitsAsk { max_amount: said(most), not_after: said(until).map(zoned), applies_to };
    let says = [&limits.max_amount, &limits.not_after, &limits.applies_to].into_iter().any(Option::is_some);
    says.then_some(limits)
}

/// A time without a zone.
const MINUTE: &str = "2026-01-31T12:00";

/// A person says what became of an action.
pub(crate) async fn resolve(mut request: Request) -> Result<Response, Error> {
    let sent = request.form(["form", "as", "comment", "charged", "reference"]).await;
    let page = Page::of(&request)?;
    let decided = async {
        let [form, word, comment, charged, reference] = sent?;
        let visitor = page.visitor(Watches::No).await?;
        visitor.opened.sent(&form.unwrap_or_default())?;
        let decision = gateway::Decision::parse(&word.unwrap_or_default());
        let decision = decision
            .ok_or_else(|| Error::new(Code::ValidationFailed, "say what became of it").field("as"))?;
        // An empty field is one that says nothing.
        let said = |field: Option<String>| field.filter(|text| !text.is_empty());
        let ask = ResolveAsk { decision, comment, charged: said(charged), reference: said(reference) };
        let view = request.gateway()?.resolve(&visitor.caller, &request.argument, ask).await?;
        Ok(format!("{}/{}", page.base, view.action_id))
    };
    page.moved(decided.await)
}

/// The visitor's passkeys.
pub(crate) async fn passkeys(request: Request) -> Result<Response, Error> {
    let page = Page::of(&request)?;
    let read = async {
        let visitor = page.visitor(Watches::No).await?;
        let all = request.gateway()?.passkeys(&visitor.caller).await?;
        let mine: Vec<_> =
            all.into_iter().filter(|it| it.approver == visitor.caller.subject.as_str()).collect();
        Ok(approval_page::passkeys(&page.frame(Some(&visitor)), &mine))
    };
    page.told(read.await)
}

/// What a browser makes a passkey of.
pub(crate) async fn begin_passkey(mut request: Request) -> Result<Response, Error> {
    let [form] = request.form(["form"]).await?;
    let page = Page::of(&request)?;
    let visitor = page.visitor(Watches::No).await?;
    visitor.opened.sent(&form.unwrap_or_default())?;
    let creation = request.gateway()?.begin_passkey(&visitor.caller).await?;
    Ok(reply::json(
        StatusCode::OK,
        &Creation {
            challenge: text(&creation.challenge),
            rp_id: creation.rp_id,
            approver: creation.approver,
            user_handle: text(&creation.user_handle),
            known: creation.known.iter().map(|id| text(id)).collect(),
        },
    ))
}

/// Takes the passkey that a browser made.
pub(crate) async fn register_passkey(mut request: Request) -> Result<Response, Error> {
    let sent = request.form(["form", "enrolment"]).await;
    let page = Page::of(&request)?;
    let registered = async {
        let [form, enrolment] = sent?;
        let visitor = page.visitor(Watches::No).await?;
        visitor.opened.sent(&form.unwrap_or_default())?;
        let enrolment = Made::parse(&enrolment.unwrap_or_default())?;
        request.gateway()?.register_passkey(&visitor.caller, &enrolment).await
    };
    page.moved(registered.await.map(|_| format!("{}/passkeys", page.base)))
}

/// Ends one of the visitor's passkeys.
pub(crate) async fn revoke_passkey(mut request: Request) -> Result<Response, Error> {
    let sent = request.form(["form"]).await;
    let page = Page::of(&request)?;
    let revoked = async {
        let [form] = sent?;
        let visitor = page.visitor(Watches::No).await?;
        visitor.opened.sent(&form.unwrap_or_default())?;
        request.gateway()?.revoke_passkey(&visitor.caller, &request.argument).await
    };
    page.moved(revoked.await.map(|_| format!("{}/passkeys", page.base)))
}

/// A request on its way to a page.
struct Page<'a> {
    request: &'a Request,
    /// The path of the inbox.
    base: String,
}

/// Somebody who is logged in.
struct Visitor {
    caller: Caller,
    opened: Opened,
}

/// Whether a person asks, or their browser by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watches {
    Yes,
    No,
}

impl Page<'_> {
    fn of(request: &Request) -> Result<Page<'_>, Error> {
        request.gateway()?;
        Ok(Page { request, base: base(&request.site.public_url, request.environment) })
    }

    fn site(&self) -> &site::Site {
        &self.request.site
    }

    async fn visitor(&self, watches: Watches) -> Result<Visitor, Error> {
        let opened = self.site().sessions.find(&self.request.head.headers, watches == Watches::Yes);
        let opened = opened.ok_or_else(|| Error::new(Code::Unauthenticated, "log in first"))?;
        // Keys and passkeys of both environments are kept in production.
        let caller = self.site().faces.production.still(&opened.credential).await?;
        caller.must(Deed::Approve)?;
        Ok(Visitor { caller, opened })
    }

    async fn credential(
        &self,
        key: Option<String>,
        assertion: Option<String>,
    ) -> Result<(Credential, Caller), Error> {
        let production = &self.site().faces.production;
        match assertion.filter(|it| !it.is_empty()) {
            Some(assertion) => production.log_in(&Assertion::parse(&assertion)?).await,
            None => production.log_in_by_key(key.unwrap_or_default().trim()).await,
        }
    }

    /// What this person may still say, and how.
    async fn decision(&self, caller: &Caller, held: &HeldView) -> Result<Decision, Error> {
        let mine = |it: &&gateway::GivenView| {
            it.escalation_id == held.escalation_id && it.approver == caller.subject.as_str()
        };
        let named = |names: &[String]| names.iter().any(|name| *name == caller.subject.as_str());
        let party = named(&held.parties) && !named(&held.principals);
        Ok(match held.state.as_str() {
            _ if held.unresolved.is_some() && party => Decision::Party,
            _ if held.unresolved.is_some() => Decision::Resolve,
            "INTENDED" if expired(held) => Decision::Expired,
            "INTENDED" if party => Decision::Party,
            "INTENDED" if held.approvals.iter().any(|it| mine(&it)) => Decision::Given,
            "INTENDED" => Decision::Open { signs: self.signs(caller).await?, key: held.form == "key" },
            _ => Decision::Over,
        })
    }

    /// Whether this person has a passkey that counts here; nobody signs for what does not happen.
    async fn signs(&self, caller: &Caller) -> Result<bool, Error> {
        if self.request.environment == Environment::Sandbox {
            return Ok(false);
        }
        let passkeys = self.request.gateway()?.passkeys(caller).await?;
        Ok(passkeys.iter().any(|it| it.state == "enrolled" && it.approver == caller.subject.as_str()))
    }

    fn frame<'b>(&'b self, visitor: Option<&'b Visitor>) -> Frame<'b> {
        let site = self.site();
        Frame {
            base: &self.base,
            root: base(&site.public_url, Environment::Production),
            sandbox: site.faces.sandbox.is_some().then(|| base(&site.public_url, Environment::Sandbox)),
            environment: self.request.environment,
            visitor: visitor.map(|it| (it.caller.subject.as_str(), it.opened.form.as_str())),
            party: site.faces.production.relying_party(),
        }
    }

    fn login(&self, status: StatusCode, next: &str, error: Option<&Error>) -> Result<Response, Error> {
        let (form, cookie) = self.site().sessions.stranger(&self.request.head.headers)?;
        let login = Login { form: &form, next, error };
        let mut response = approval_page::login(&self.frame(None), &login);
        *response.status_mut() = status;
        response.headers_mut().append(SET_COOKIE, cookie);
        Ok(response)
    }

    /// A page, or one that says why there is none.
    fn told(&self, page: Result<Response, Error>) -> Result<Response, Error> {
        match page {
            Ok(page) => Ok(page),
            Err(error) if error.code == Code::Unauthenticated => {
                self.login(StatusCode::UNAUTHORIZED, self.request.head.uri.path(), None)
            }
            Err(error) => {
                let mut response = approval_page::refusal(&self.frame(None), &error);
                *response.status_mut() = status(&error);
                Ok(response)
            }
        }
    }

    fn decided(&self, decided: Result<HeldView, Error>) -> Result<Response, Error> {
        self.moved(decided.map(|held| format!("{}/{}", self.base, held.action_id)))
    }

    /// On to another page, so that reloading sends nothing twice.
    fn moved(&self, to: Result<String, Error>) -> Result<Response, Error> {
        match to {
            Ok(to) => see_other(&to),
            Err(error) => self.told(Err(error)),
        }
    }

    /// Where to go after logging in: to a page of ours, wherever the form says.
    fn within(&self, next: Option<String>) -> String {
        let ours = |next: &String| {
            let rest = next.strip_prefix(&self.base).and_then(|rest| rest.strip_prefix('/'));
            rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
        };
        next.filter(ours).unwrap_or_else(|| self.base.clone())
    }
}

/// The path of the inbox; the public URL may have one of its own before it.
fn base(public_url: &str, environment: Environment) -> String {
    let path = url::Url::parse(public_url).map(|url| url.path().trim_end_matches('/').to_owned());
    let sandbox = match environment {
        Environment::Production => "",
        Environment::Sandbox => "/sandbox",
    };
    format!("{}{sandbox}/approvals", path.unwrap_or_default())
}

fn expired(held: &HeldView) -> bool {
    let until = held.expires_at.as_deref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    until.is_none_or(|until| until <= jiff::Timestamp::now())
}

fn status(error: &Error) -> StatusCode {
    let status = errors::entry(error.code).status;
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn see_other(to: &str) -> Result<Response, Error> {
    let to = HeaderValue::from_str(to).map_err(|_| Error::new(Code::NotFound, "there is no such page"))?;
    let mut response = reply::bytes_of(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", "");
    response.headers_mut().insert(LOCATION, to);
    Ok(response)
}

/// What a passkey has to sign; every piece of bytes in base64url.
#[derive(Serialize)]
struct Challenge {
    challenge: String,
    rp_id: String,
    credentials: Vec<String>,
}

/// What a passkey is made of.
#[derive(Serialize)]
struct Creation {
    challenge: String,
    rp_id: String,
    approver: String,
    user_handle: String,
    known: Vec<String>,
}

/// What a browser made of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    attestation_object: String,
    client_data_json: String,
}

impl Made {
    fn parse(json: &str) -> Result<Enrolment, Error> {
        let made: Made = read_text(json).map_err(|_| {
            Error::new(Code::ValidationFailed, "this is not a new passkey").field("enrolment")
        })?;
        Ok(Enrolment {
            attestation_object: bytes(&made.attestation_object, "/attestation_object")?,
            client_data_json: bytes(&made.client_data_json, "/client_data_json")?,
        })
    }
}

const EVENTS: &str = "text/event-stream";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Rows of the inbox.
const ROWS: u32 = 50;
