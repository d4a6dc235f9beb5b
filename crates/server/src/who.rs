//! Who is calling. A face asks here and gets a value that says so; the gateway demands one for everything it does.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use action::Environment;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway::{Caller, Code, Error, Gateway};
use http::header::AUTHORIZATION;
use mandate::MAX_TOKEN_BYTES;

use crate::faces::protected_resource::server_of;
use crate::request::{Request, single};
use crate::site::Site;

/// The caller behind an API key or an access token.
///
/// # Errors
/// `EP_UNAUTHENTICATED` if there is neither or it is not a valid one, `EP_INSUFFICIENT_SCOPE` for a token that does not
/// reach so far.
pub(crate) async fn caller(request: &Request) -> Result<Caller, Error> {
    let bearer = bearer(request)?;
    // Callers of both environments are known in production.
    let server = server_of(request.head.uri.path());
    let caller = request.site.faces.production.recognise(bearer, server).await?;
    request.known.store(true, Ordering::Relaxed);
    Ok(caller)
}

fn bearer(request: &Request) -> Result<&str, Error> {
    let header = single(&request.head.headers, &AUTHORIZATION);
    let header = header.map_err(|_| missing("the header Authorization cannot be read"))?;
    let header = header.ok_or_else(|| missing(keyless(request.environment)))?;
    credential(header, "bearer")
        .ok_or_else(|| missing("the header Authorization is not Bearer and a key or token"))
}

/// Whether whoever was known by a credential is known by it still. A store that does not say so soon keeps nobody waiting: then
/// nothing is done for them.
pub(crate) async fn is_still_known(request: &Request) -> Result<(), Error> {
    if !request.known.load(Ordering::Relaxed) {
        return Ok(());
    }
    soon(caller(request)).await.map(drop)
}

/// Who it is, unless that takes long: the store may be silent, or an issuer of tokens that is asked for its keys.
async fn soon(looked: impl Future<Output = Result<Caller, Error>>) -> Result<Caller, Error> {
    let unseen = |_| Err(Error::new(Code::Unavailable, UNSEEN).retry_after(5));
    tokio::time::timeout(SOON, looked).await.unwrap_or_else(unseen)
}

/// Ends once whoever brought this credential is not known by it any more: the key is revoked, the token's time is over. For
/// answers that last.
pub(crate) async fn forgotten(site: Arc<Site>, bearer: String, server: Option<String>) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let known = site.faces.production.recognise(&bearer, server.as_deref()).await;
        if known.is_err_and(|error| error.code != Code::Unavailable) {
            return;
        }
    }
}

/// How often it is looked whether an answer that lasts is still for its caller.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The same, but in the sandbox nobody need be known: who brings no key is the agent `anonymous`.
pub(crate) async fn caller_or_anonymous(request: &Request) -> Result<Caller, Error> {
    let known = request.head.headers.contains_key(AUTHORIZATION);
    match request.environment {
        Environment::Sandbox if !known => Ok(Gateway::anonymous()),
        Environment::Sandbox | Environment::Production => caller(request).await,
    }
}

/// A caller, or the wait until it is known who that is.
pub(crate) type Looked = BoxFuture<'static, Result<Caller, Error>>;

/// As [`caller_or_anonymous`], before the body of a request is read that may say how long its caller waits. Where the store says nothing for a moment
/// the body is read first, and it is asked anew then; until then who has no valid key has none read.
pub(crate) async fn caller_soon(request: &Request) -> Result<Looked, Error> {
    if let Ok(caller) = tokio::time::timeout(A_MOMENT, caller_or_anonymous(request)).await {
        // Whether they still are when the body is there is looked at in their time: see `may_hear`.
        request.known.store(false, Ordering::Relaxed);
        return Ok(ready(Ok(caller?)).boxed());
    }
    looked_anew(request)
}

fn looked_anew(request: &Request) -> Result<Looked, Error> {
    let (site, bearer) = (Arc::clone(&request.site), bearer(request)?.to_owned());
    let server = server_of(request.head.uri.path()).map(str::to_owned);
    Ok(async move { site.faces.production.recognise(&bearer, server.as_deref()).await }.boxed())
}

/// What was read of a request, beside its caller, who is looked for anew if that took long; what is wrong with it is told once it
/// is known that its caller may hear that.
pub(crate) async fn may_hear<T>(
    request: &Request,
    caller: Looked,
    read: Result<T, Error>,
) -> Result<(Looked, T), Error> {
    let is_anonymous = !request.head.headers.contains_key(AUTHORIZATION);
    let caller = if request.took_long && !is_anonymous { looked_anew(request)? } else { caller };
    match read {
        Ok(read) => Ok((caller, read)),
        // How long its caller waits nobody has read.
        Err(wrong) => Err(soon(caller).await.err().unwrap_or(wrong)),
    }
}

/// A key is one row, found by its hash: much longer takes only a store that hardly answers.
const A_MOMENT: Duration = Duration::from_millis(250);
/// And so long it is waited for where nobody has said how long they wait.
const SOON: Duration = Duration::from_secs(1);

/// What whoever asks hears where it could not be found out who that is.
pub(crate) const UNSEEN: &str = "who asks could not be looked at in time; ask again";

/// What somebody without a key hears where one is needed.
fn keyless(environment: Environment) -> &'static str {
    match environment {
        Environment::Production => "no API key was presented",
        Environment::Sandbox => {
            "no API key was presented; in the sandbox only asking for actions and reading them takes none"
        }
    }
}

fn missing(why: &str) -> Error {
    Error::new(Code::Unauthenticated, why).field("Authorization")
}

/// The token of a header of this scheme.
pub(crate) fn credential<'a>(header: &'a str, expected: &str) -> Option<&'a str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    let plain =
        (1..=MAX_TOKEN_BYTES).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case(expected) && plain).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(header: &str) -> Option<&str> {
        credential(header, "bearer")
    }

    #[test]
    fn a_bearer_token_is_one_word_after_its_scheme() {
        assert_eq!(bearer("Bearer cs_1"), Some("cs_1"));
        assert_eq!(bearer("bearer  cs_1"), Some("cs_1"));
        for wrong in ["", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "cs_1", "Bearer\ta"] {
            assert_eq!(bearer(wrong), None, "{wrong}");
        }
        assert_eq!(bearer(&format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1))), None);
    }
}
