//! Where a request finds its face: names checked, route found, answer dressed. Nothing here says who the caller is;
//! that a face asks for itself.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use action::Environment;
use gateway::{Code, Error, Gateway};
use http::HeaderValue;
use http::header::{ALLOW, CACHE_CONTROL, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;

use crate::faces::mcp::Mcp;
use crate::faces::protected_resource::Door;
use crate::fault::{self, Audience};
use crate::host::Hosts;
use crate::request::{self, Body, Limits, Request, RequestIds, Response, X_REQUEST_ID};
use crate::routes::{self, Route};
use crate::session::Sessions;
use crate::talk::Stop;

/// The gateways that are served: production, and the sandbox where there is one.
#[derive(Clone)]
pub struct Faces {
    /// Where effects are real. It also holds the API keys of both.
    pub production: Arc<Gateway>,
    /// Where they are not.
    pub sandbox: Option<Arc<Gateway>>,
}

/// Everything a request may need.
pub(crate) struct Site {
    pub faces: Faces,
    pub hosts: Hosts,
    pub limits: Limits,
    /// May figures be read without a key? Only where nobody but this machine can ask.
    pub open_metrics: bool,
    pub public_url: String,
    pub ids: RequestIds,
    /// Who is logged in to the approval page.
    pub sessions: Sessions,
    /// Clients of the Model Context Protocol.
    pub mcp: Arc<Mcp>,
    /// Says when to stop, to whoever would wait.
    pub stop: Stop,
    pub busy: AtomicUsize,
}

impl Site {
    pub(crate) fn gateway(&self, environment: Environment) -> Result<&Arc<Gateway>, Error> {
        match environment {
            Environment::Production => Ok(&self.faces.production),
            Environment::Sandbox => {
                let sandbox = self.faces.sandbox.as_ref();
                sandbox.ok_or_else(|| Error::new(Code::NotFound, "there is no sandbox here"))
            }
        }
    }

    /// Answers one request, whatever it is. Its face is found before the wait for it begins, so that the wait holds the
    /// face and no request.
    pub(crate) fn answer(self: Arc<Site>, request: http::Request<Body>) -> impl Future<Output = Response> {
        let (head, body) = request.into_parts();
        let id = self.ids.name(&head.headers);
        let mut environment = routes::environment_of(head.uri.path());
        let mut audience = Audience::Agents;
        let door = Door::of(&head);
        let busy = Busy::enter(&self);
        let found = self.find(busy.has_room, &head, &mut environment, &mut audience);
        let face = found.map(|(route, argument)| {
            let site = Arc::clone(&self);
            let known = AtomicBool::default();
            let id = id.clone();
            (route.handler)(Request { site, environment, head, argument, id, body, known, took_long: false })
        });
        async move {
            let _busy = busy;
            let answer = match face {
                Ok(face) => face.await,
                Err(error) => Err(error),
            };
            let mut response =
                answer.unwrap_or_else(|error| self.refusal(&error, environment, audience, &door, &id));
            let headers = response.headers_mut();
            headers.insert(X_REQUEST_ID, id);
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
            response
        }
    }

    fn refusal(
        &self,
        error: &Error,
        environment: Environment,
        audience: Audience,
        door: &Door,
        id: &HeaderValue,
    ) -> Response {
        let id = id.to_str().unwrap_or_default();
        let mut response = fault::respond(error, environment, audience, id, &self.public_url);
        if let (Code::MethodNotAllowed, Some(methods)) = (error.code, error.hint.as_deref()) {
            let methods = HeaderValue::from_str(methods).unwrap_or(HeaderValue::from_static(""));
            response.headers_mut().insert(ALLOW, methods);
        }
        if let Some(challenge) = door.challenge(error, self) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// The route of a request that is meant for us. Says on the way who will read an error, and in which shape.
    fn find(
        &self,
        room: bool,
        head: &Parts,
        environment: &mut Environment,
        audience: &mut Audience,
    ) -> Result<(&'static Route, String), Error> {
        self.hosts.check(head)?;
        request::transfer_coding(&head.headers)?;
        if !room {
            return Err(Error::new(Code::Unavailable, "too many requests at once"));
        }
        let (route, argument) = routes::find(&head.method, head.uri.path())?;
        *audience = route.audience();
        *environment = route.environment(&head.headers, *environment)?;
        Ok((route, argument))
    }
}

/// One of the requests being answered.
struct Busy {
    site: Arc<Site>,
    has_room: bool,
}

impl Busy {
    fn enter(site: &Arc<Site>) -> Busy {
        let now = site.busy.fetch_add(1, Ordering::Relaxed);
        Busy { site: Arc::clone(site), has_room: now < site.limits.requests }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.site.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
