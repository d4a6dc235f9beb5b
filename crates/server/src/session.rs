//! Who is logged in to the approval page. A session is a random word in a cookie; what it stands for is kept here, in
//! memory, and is looked at anew with each request: a key or passkey that has ended opens nothing.
//!
//! Every form that is sent carries a second word that other sites cannot know. Before there is a session it stands in a
//! cookie of its own, so that nobody is logged in as somebody else without noticing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use action::{Subject, Tenant};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gateway::{Caller, Code, Credential, Error};
use http::header::{COOKIE, HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

/// However busy, one logs in again after this time; and sooner if nothing was asked for.
const LONGEST: Duration = Duration::from_secs(60 * 60);
const IDLE: Duration = Duration::from_secs(15 * 60);
/// Sessions of one person; the oldest makes room.
const MOST_EACH: usize = 16;

/// The sessions of this process.
pub(crate) struct Sessions {
    /// By the hash of the cookie, so that what can be read here opens nothing.
    open: Mutex<HashMap<[u8; 32], Session>>,
    cookie: Cookie,
}

#[derive(Clone)]
struct Session {
    credential: Credential,
    of: (Tenant, Subject),
    form: String,
    began: Instant,
    seen: Instant,
}

/// What a session says before its credential was looked at.
pub(crate) struct Opened {
    pub credential: Credential,
    /// The word that its forms carry.
    pub form: String,
}

/// How our cookies are called and guarded.
struct Cookie {
    name: String,
    attributes: &'static str,
}

impl Sessions {
    pub(crate) fn new(public_url: &str) -> Sessions {
        Sessions { open: Mutex::default(), cookie: Cookie::of(public_url) }
    }

    /// Opens a session; the cookies that say so.
    pub(crate) fn open(&self, credential: Credential, caller: &Caller) -> Result<[HeaderValue; 2], Error> {
        let (word, now) = (random()?, Instant::now());
        let of = (caller.tenant.clone(), caller.subject.clone());
        let mut open = self.lock();
        open.retain(|_, session| session.lasts(now));
        let mut mine: Vec<([u8; 32], Instant)> =
            open.iter().filter(|(_, it)| it.of == of).map(|(name, it)| (*name, it.began)).collect();
        mine.sort_by_key(|(_, began)| *began);
        let too_many = (mine.len() + 1).saturating_sub(MOST_EACH);
        for (oldest, _) in mine.into_iter().take(too_many) {
            open.remove(&oldest);
        }
        open.insert(hash(&word), Session { credential, of, form: random()?, began: now, seen: now });
        let life = LONGEST.as_secs();
        Ok([self.cookie.set("", &word, life)?, self.cookie.set(FORM, "", 0)?])
    }

    /// The session of a request. Watching alone keeps none open.
    pub(crate) fn find(&self, headers: &HeaderMap, watches: bool) -> Option<Opened> {
        let word = self.cookie.read(headers, "")?;
        let (mut open, now) = (self.lock(), Instant::now());
        let name = hash(word);
        let session = open.get_mut(&name)?;
        if !session.lasts(now) {
            open.remove(&name);
            return None;
        }
        if !watches {
            session.seen = now;
        }
        Some(Opened { credential: session.credential.clone(), form: session.form.clone() })
    }

    /// Ends the session of a request; the cookie that says so.
    pub(crate) fn close(&self, headers: &HeaderMap) -> Result<HeaderValue, Error> {
        if let Some(word) = self.cookie.read(headers, "") {
            self.lock().remove(&hash(word));
        }
        self.cookie.set("", "", 0)
    }

    /// The word for the form by which one logs in, and the cookie that it is compared with.
    pub(crate) fn stranger(&self, headers: &HeaderMap) -> Result<(String, HeaderValue), Error> {
        let word = match self.cookie.read(headers, FORM) {
            Some(known) if known.len() == WORD => known.to_owned(),
            _ => random()?,
        };
        let cookie = self.cookie.set(FORM, &word, LONGEST.as_secs())?;
        Ok((word, cookie))
    }

    /// Whether the form by which one logs in is one of ours.
    pub(crate) fn stranger_sent(&self, headers: &HeaderMap, word: &str) -> Result<(), Error> {
        must_be_ours(self.cookie.read(headers, FORM).unwrap_or_default(), word)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn lasts(&self, now: Instant) -> bool {
        now.duration_since(self.began) < LONGEST && now.duration_since(self.seen) < IDLE
    }
}

impl Opened {
    /// Whether a form is one that this session was given.
    pub(crate) fn sent(&self, word: &str) -> Result<(), Error> {
        must_be_ours(&self.form, word)
    }
}

fn must_be_ours(expected: &str, word: &str) -> Result<(), Error> {
    let same = verify_slices_are_equal(expected.as_bytes(), word.as_bytes()).is_ok();
    if same && expected.len() == WORD {
        return Ok(());
    }
    Err(Error::new(Code::Forbidden, "this form was not made by this page, or is too old")
        .hint("open the page again and send it from there"))
}

impl Cookie {
    /// Beyond loopback a cookie never travels in the clear, and no other name can set it. On loopback it goes by port,
    /// since browsers keep one jar for all of them.
    fn of(public_url: &str) -> Cookie {
        let url = url::Url::parse(public_url).ok();
        let plain = url.as_ref().filter(|url| url.scheme() == "http" && is_near(url));
        match plain {
            Some(url) => Cookie {
                name: format!("countersign-{}", url.port_or_known_default().unwrap_or_default()),
                attributes: "Path=/; HttpOnly; SameSite=Strict",
            },
            None => Cookie {
                name: "__Host-countersign".to_owned(),
                attributes: "Path=/; HttpOnly; SameSite=Strict; Secure",
            },
        }
    }

    fn set(&self, suffix: &str, value: &str, seconds: u64) -> Result<HeaderValue, Error> {
        let Cookie { name, attributes } = self;
        HeaderValue::from_str(&format!("{name}{suffix}={value}; Max-Age={seconds}; {attributes}"))
            .map_err(|_| Error::new(Code::Unavailable, "a cookie cannot be written"))
    }

    /// The value of our cookie; of several of one name, which others may have set, none.
    fn read<'a>(&self, headers: &'a HeaderMap, suffix: &str) -> Option<&'a str> {
        let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut ours = pairs.filter(|(name, _)| name.strip_prefix(&*self.name) == Some(suffix));
        let (_, value) = ours.next()?;
        ours.next().is_none().then_some(value)
    }
}

fn is_near(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn hash(word: &str) -> [u8; 32] {
    Sha256::digest(word).into()
}

fn random() -> Result<String, Error> {
    let mut bytes = [0; 32];
    let drawn = aws_lc_rs::rand::fill(&mut bytes);
    drawn.map_err(|_| Error::new(Code::Unavailable, "no randomness to be had"))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Characters of a word: 32 bytes in base64url.
const WORD: usize = 43;
/// Suffix of the cookie that the login form is compared with.
const FORM: &str = "-form";

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(cookies: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, HeaderValue::from_str(cookie).expect("a header"));
        }
        headers
    }

    fn caller(name: &str) -> Caller {
        Caller {
            tenant: Tenant::default(),
            subject: Subject::parse(name).expect("a subject"),
            role: gateway::Role::Approver,
            key_id: "key_1".to_owned(),
            key_issuer: None,
            default_mandate: None,
        }
    }

    /// The pair that a browser sends back.
    fn pair(set: &HeaderValue) -> String {
        set.to_str().expect("text").split(';').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn cookies_are_for_this_site_alone_and_never_in_the_clear_beyond_loopback() {
        let attributes = |url: &str| {
            let set = Cookie::of(url).set("", "x", 60).expect("a header");
            set.to_str().expect("text").to_owned()
        };
        assert_eq!(
            attributes("https://gw.example"),
            "__Host-countersign=x; Max-Age=60; Path=/; HttpOnly; SameSite=Strict; Secure"
        );
        for far in ["http://gw.example", "http://10.0.0.1:8787", "https://localhost", "nonsense"] {
            assert!(attributes(far).ends_with("; Secure"), "{far}");
        }
        assert_eq!(
            attributes("http://127.0.0.1:8787"),
            "countersign-8787=x; Max-Age=60; Path=/; HttpOnly; SameSite=Strict"
        );
    }

    #[test]
    fn a_session_is_found_by_its_cookie_until_it_is_closed() {
        let sessions = Sessions::new("https://gw.example");
        let [cookie, _] = sessions.open(Credential::Key([1; 32]), &caller("anna")).expect("a session");
        let headers = sent(&["other=1; lang=en", &pair(&cookie)]);
        let opened = sessions.find(&headers, false).expect("it is open");
        assert_eq!(opened.credential, Credential::Key([1; 32]));
        assert!(opened.sent(&opened.form).is_ok());
        for wrong in ["", "x", &opened.form[1..]] {
            assert!(opened.sent(wrong).is_err());
        }
        assert!(sessions.find(&sent(&[&pair(&cookie), &pair(&cookie)]), false).is_none(), "sent twice");
        assert!(sessions.find(&sent(&["__Host-countersign=guess"]), false).is_none());
        sessions.close(&headers).expect("a cookie");
        assert!(sessions.find(&headers, false).is_none());
    }

    #[test]
    fn the_oldest_of_too_many_sessions_makes_room() {
        let sessions = Sessions::new("https://gw.example");
        let open =
            |name| pair(&sessions.open(Credential::Key([1; 32]), &caller(name)).expect("a session")[0]);
        let (other, first) = (open("ben"), open("anna"));
        let second = open("anna");
        (2..MOST_EACH + 1).for_each(|_| drop(open("anna")));
        let is_open = |pair: &str| sessions.find(&sent(&[pair]), false).is_some();
        assert_eq!([is_open(&first), is_open(&second), is_open(&other)], [false, true, true]);
    }

    #[test]
    fn a_session_ends_by_itself() {
        let begun = Instant::now();
        let session = Session {
            credential: Credential::Key([1; 32]),
            of: (Tenant::default(), caller("anna").subject),
            form: String::new(),
            began: begun,
            seen: begun,
        };
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert!(session.lasts(after(14 * 60)) && !session.lasts(after(15 * 60)));
        let busy = Session { seen: after(59 * 60), ..session };
        assert!(busy.lasts(after(59 * 60)) && !busy.lasts(after(60 * 60)));
    }

    #[test]
    fn a_login_form_is_compared_with_its_cookie() {
        let sessions = Sessions::new("https://gw.example");
        let (word, cookie) = sessions.stranger(&HeaderMap::new()).expect("a word");
        let headers = sent(&[&pair(&cookie)]);
        assert!(sessions.stranger_sent(&headers, &word).is_ok());
        assert_eq!(sessions.stranger(&headers).expect("a word").0, word, "a second tab has the same");
        assert!(sessions.stranger_sent(&headers, "").is_err());
        assert!(sessions.stranger_sent(&HeaderMap::new(), &word).is_err());
        assert!(sessions.stranger_sent(&HeaderMap::new(), "").is_err());
    }
}
