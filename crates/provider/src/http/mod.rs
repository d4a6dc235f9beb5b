//! Providers that speak HTTP and JSON.
//!
//! A binding names one origin. What varies between actions are path segments, parameters, headers and members of
//! the body, never the place itself; a secret that may go there stays there. Beside the static secrets in headers, `auth`
//! names secrets that authenticate every request: a token, a signature, a certificate. A request that cannot be
//! authenticated does not leave.
//!
//! ```toml
//! [binding]
//! provider = "http"
//! base = "https://bank.example/v1"
//! headers = { Authorization = { "$secret" = "bank", prefix = "Bearer " } }
//!
//! [binding.capabilities]
//! idempotent = { retention_seconds = 86400 }
//! queryable = { by_our_reference = true, final_after_seconds = 30 }
//!
//! [binding.act]
//! path = "/payments"
//! headers = { Idempotency-Key = { "$action" = "provider_key" } }
//! body = { to = { "$value" = "/recipient" }, amount = { "$money" = "amount" }, reference = { "$action" = "reference" } }
//! success = { status = [201] }
//! refused = { status = [402, 422] }
//! reference = "/payment_id"
//! code = "/error/code"
//!
//! [binding.query]
//! path = "/payments"
//! params = { reference = { "$action" = "reference" } }
//! found = { status = [200], pointer = "/payments/0" }
//! absent = { status = [200], pointer = "/payments/0", exists = false }
//! reference = "/payments/0/payment_id"
//! ```
//!
//! Where the payer may have to confirm first, `act` says how such an answer is known, and `callback` how the provider's own
//! word is:
//!
//! ```toml
//! [binding.act]
//! challenge = { status = [202], url = "/challenge_url", within_seconds = 900 }
//!
//! [binding.callback]
//! secret = "bank-callbacks"
//! about = "/reference"
//! settled = { pointer = "/type", equals = ["payment.settled"] }
//! refused = { pointer = "/type", equals = ["payment.declined"] }
//! reference = "/payment_id"
//! ```

mod answer;
mod auth;
mod callback;
mod challenge;
mod request;
mod reserve;
mod rule;

use std::time::Duration;

use action::{Archetype, Money};
use execution::{Call, Capabilities, Check, Doubt, Found, Purpose, Reply};
use futures_util::future::BoxFuture;
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use self::answer::{Answer, CallReading, CheckReading, QueryReading, QuoteReading, SnapshotReading};
use self::auth::Auth;
pub use self::callback::{Callback, Told};
use self::request::{Common, Template};
use self::reserve::Reserving;
use crate::binding::{identity, read_capabilities};
use crate::egress::{Destination, Exchange, Origin, Refused};
use crate::reader::{Mistake, Node, Table};
use crate::template::{ActionPart, Knows, Values};
use crate::{Ask, Done, Outside, Profile, Provider, Reserves, Rollback, Unquoted};

/// One archetype's HTTP binding.
#[derive(Debug)]
pub(crate) struct Http {
    profile: Profile,
    destination: Destination,
    auth: Auth,
    most_bytes: usize,
    act: (Template, CallReading),
    query: Option<(Template, QueryReading)>,
    check: Option<(Template, CheckReading)>,
    quote: Option<(Template, QuoteReading)>,
    snapshot: Option<(Template, SnapshotReading)>,
    rollback: Option<(Template, CallReading, Rollback)>,
    callback: Option<Callback>,
    reserving: Option<Reserving>,
}

impl Http {
    pub(crate) fn read(
        node: &Node<'_>,
        archetype: &Archetype,
        outside: Outside<'_>,
    ) -> Result<Http, Vec<Mistake>> {
        let table = node.table(&MEMBERS).map_err(|mistake| vec![mistake])?;
        let base = Base::read(&table).map_err(|mistake| vec![mistake])?;
        let mut mistakes = Vec::new();
        let auth = read_auth(&table, &base, outside).unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            Auth::default()
        });
        let destination = match base.destination(&auth, outside) {
            Ok(destination) => destination,
            Err(mistake) => {
                mistakes.push(mistake);
                return Err(mistakes);
            }
        };
        let mut keep = |mistake| mistakes.push(mistake);
        let common = Common {
            archetype,
            secrets: outside.secrets,
            origin: destination.origin(),
            base_path: base.path(),
            auth_headers: auth.headers(),
            headers: table.get("headers"),
        };
        let capabilities = read_capabilities(table.get("capabilities"), archetype).map_err(&mut keep).ok();
        let most_bytes = read_most_bytes(&table).map_err(&mut keep).ok();
        let act = read_act(&table, &common, outside).map_err(&mut keep).ok();
        let query = read_query(&table, &common).map_err(&mut keep).ok();
        let check = read_check(&table, &common).map_err(&mut keep).ok();
        let quote = read_quote(&table, &common).map_err(&mut keep).ok();
        let snapshot = read_snapshot(&table, &common).map_err(&mut keep).ok();
        let rollback = read_rollback(&table, &common).map_err(&mut keep).ok();
        let callback = read_callback(&table, archetype, outside).map_err(&mut keep).ok();
        let reserving = Reserving::read(&table, &common).map_err(&mut keep).ok();
        let name = read_name(&table, &destination).map_err(&mut keep).ok();
        let (undoing, others) = ((check, rollback, reserving), (quote, snapshot, callback));
        let parts = (name, capabilities, most_bytes, act, query, undoing, others);
        if let (
            Some(name),
            Some(capabilities),
            Some(most_bytes),
            Some(act),
            Some(query),
            (Some(check), Some(rollback), Some(reserving)),
            (Some(quote), Some(snapshot), Some(callback)),
        ) = parts
        {
            let capabilities = Capabilities { challenge: act.1.payer_has(), ..capabilities };
            let identity = identity_of(&name, &common, &auth, &capabilities, &table);
            let http = Http {
                profile: Profile { name, identity, capabilities },
                destination,
                auth,
                most_bytes,
                act,
                query,
                check,
                quote,
                snapshot,
                rollback,
                callback,
                reserving,
            };
            mistakes.extend(http.broken_promises());
            if mistakes.is_empty() {
                return Ok(http);
            }
        }
        Err(mistakes)
    }

    /// Capabilities that the requests cannot keep.
    fn broken_promises(&self) -> Vec<Mistake> {
        let reserving = self.reserving.as_ref().map(|it| it.broken_promises(&self.profile.capabilities));
        let mut mistakes = reserving.unwrap_or_default();
        let (act, _) = &self.act;
        let by_name = |template: &Template| {
            [ActionPart::Reference, ActionPart::ProviderKey, ActionPart::Id]
                .into_iter()
                .find(|p| template.carries(*p))
        };
        if self.profile.capabilities.idempotent.is_some() && !act.carries(ActionPart::ProviderKey) {
            let hint = "add a header such as Idempotency-Key = { \"$action\" = \"provider_key\" } to `act`";
            let message = "a provider is idempotent only if it is sent the provider key";
            mistakes.push(Mistake::new("/capabilities/idempotent", message).hint(hint));
        }
        if let Some((rollback, ..)) = &self.rollback
            && self.profile.capabilities.idempotent.is_some()
            && !rollback.carries(ActionPart::ProviderKey)
        {
            let hint = "send { \"$action\" = \"provider_key\" } in `rollback` too";
            let message = "a rollback that is repeated must be recognised by its provider key";
            mistakes.push(Mistake::new("/rollback", message).hint(hint));
        }
        mistakes.extend(self.broken_challenge());
        match (&self.profile.capabilities.queryable, &self.query) {
            (Some(_), None) => mistakes.push(
                Mistake::new("/capabilities/queryable", "there is no `query` to ask with")
                    .hint("add [binding.query]"),
            ),
            (None, Some(_)) => {
                mistakes.push(Mistake::new("/query", "a query needs the capability `queryable`").hint(
                    "how long after sending \"not found\" can still change belongs to `final_after_seconds`",
                ))
            }
            (Some(queryable), Some((query, _))) if queryable.by_our_reference => {
                let asked = by_name(query);
                if asked.is_none_or(|part| !act.carries(part)) {
                    let hint = "send { \"$action\" = \"reference\" } in `act`, and ask for it in `query`";
                    let message = "`query` does not ask for anything that `act` sends";
                    mistakes.push(Mistake::new("/query", message).hint(hint));
                }
            }
            _ => {}
        }
        mistakes
    }

    /// A payer's answer that nobody would hear of, or that would be taken for given.
    fn broken_challenge(&self) -> Option<Mistake> {
        self.profile.capabilities.challenge?;
        if self.callback.is_none() && !self.profile.capabilities.can_be_asked() {
            let hint = "add [binding.callback], or the capability `queryable` and [binding.query]";
            let message = "nobody would ever say what the payer answered";
            return Some(Mistake::new("/act/challenge", message).hint(hint));
        }
        self.query.as_ref().filter(|(_, query)| !query.names_what_is_done())?;
        let hint = "say by `pointer` and `equals` what is done, as in `/payments/0/status` and `settled`";
        let message = "what waits for its payer could be found too, and would be taken for done";
        Some(Mistake::new("/query/found", message).hint(hint))
    }

    async fn act(&self, call: &Call, now_ms: i64) -> Reply {
        let reserving = self.reserving.as_ref();
        let found = match call.purpose {
            Purpose::Act => Some(&self.act),
            _ => reserving.and_then(|reserving| reserving.call(&call.purpose)),
        };
        let Some((template, reading)) = found else {
            return Reply::NotSent { why: "the binding does not reserve".to_owned() };
        };
        self.have(template, reading, call, &values_of(call), now_ms).await
    }

    async fn act_after(&self, call: &Call, done: Done<'_>, now_ms: i64) -> Reply {
        let (template, reading) = &self.act;
        let Done { reference: confirmed, snapshot } = done;
        let values = Values { confirmed, snapshot, ..values_of(call) };
        self.have(template, reading, call, &values, now_ms).await
    }

    async fn take_back(&self, call: &Call, done: Done<'_>, now_ms: i64) -> Reply {
        let Some((template, reading, _)) = &self.rollback else {
            return Reply::NotSent { why: "the binding has no rollback".to_owned() };
        };
        let Done { reference: confirmed, snapshot } = done;
        let values = Values { confirmed, snapshot, ..values_of(call) };
        self.have(template, reading, call, &values, now_ms).await
    }

    /// Has an effect, by any of the requests that have one.
    async fn have(
        &self,
        template: &Template,
        reading: &CallReading,
        call: &Call,
        values: &Values<'_>,
        now_ms: i64,
    ) -> Reply {
        match self.send(template, values, now_ms).await {
            Heard::NotSent(why) => Reply::NotSent { why },
            Heard::Lost(how, why) => Reply::Lost { how, why },
            Heard::Answer(answer) => reading.judge(answer, call, now_ms),
        }
    }

    async fn look(&self, ask: &Ask<'_>) -> Result<Option<Value>, Unquoted> {
        let Some((template, reading)) = &self.snapshot else { return Ok(None) };
        match self.inquire(template, &values_before(ask), ask.now_ms).await {
            Heard::NotSent(why) | Heard::Lost(_, why) => Err(Unquoted { why }),
            Heard::Answer(answer) => reading.judge(answer).map(Some),
        }
    }

    async fn ask(&self, call: &Call, now_ms: i64) -> Found {
        let by_our_reference =
            self.profile.capabilities.queryable.as_ref().is_some_and(|able| able.by_our_reference);
        let query = match call.purpose {
            Purpose::Act => self.query.as_ref(),
            _ => self.reserving.as_ref().and_then(|reserving| reserving.query(&call.purpose)),
        };
        let Some((template, reading)) = query.filter(|_| by_our_reference) else {
            return Found::Unknown;
        };
        match self.inquire(template, &values_of(call), now_ms).await {
            Heard::NotSent(_) | Heard::Lost(..) => Found::Unknown,
            Heard::Answer(answer) => {
                reading.judge(answer, self.profile.capabilities.absence_is_final(call, now_ms))
            }
        }
    }

    async fn look_after(&self, call: &Call, done: Done<'_>, now_ms: i64) -> Check {
        let Some((template, reading)) = &self.check else { return Check::Unknown };
        let values = Values { confirmed: done.reference, ..values_of(call) };
        match self.inquire(template, &values, now_ms).await {
            Heard::NotSent(_) | Heard::Lost(..) => Check::Unknown,
            Heard::Answer(answer) => reading.judge(&answer),
        }
    }

    async fn price(&self, ask: &Ask<'_>) -> Result<Money, Unquoted> {
        let Some((template, reading)) = &self.quote else {
            return Err(Unquoted { why: "the binding has no quote".to_owned() });
        };
        match self.inquire(template, &values_before(ask), ask.now_ms).await {
            Heard::NotSent(why) | Heard::Lost(_, why) => Err(Unquoted { why }),
            Heard::Answer(answer) => reading.judge(answer),
        }
    }

    /// Sends what has no effect; once more when what it carried is no longer accepted and can be had anew.
    async fn inquire(&self, template: &Template, values: &Values<'_>, now_ms: i64) -> Heard {
        match self.send(template, values, now_ms).await {
            Heard::Answer(answer) if answer.status == UNAUTHORIZED && self.auth.renews() => {
                self.send(template, values, now_ms).await
            }
            heard => heard,
        }
    }

    /// Does each of its queries carry one of these, and not the action's id, which is another one when it is asked for again?
    fn is_asked_by(&self, parts: &[ActionPart]) -> bool {
        let queries = self.reserving.iter().flat_map(Reserving::queries).chain(self.query.as_ref());
        self.profile.capabilities.can_be_asked()
            && queries
                .map(|(query, _)| query)
                .all(|query| parts.iter().any(|part| query.carries(*part)) && !query.carries(ActionPart::Id))
    }

    async fn send(&self, template: &Template, values: &Values<'_>, now_ms: i64) -> Heard {
        let origin = self.destination.origin();
        let mut request = match template.fill(values, origin, self.most_bytes) {
            Ok(request) => request,
            Err(unmade) => return Heard::NotSent(unmade.to_string()),
        };
        let mut shown = match self.auth.authorise(&mut request, origin, now_ms).await {
            Ok(shown) => shown,
            Err(why) => return Heard::NotSent(why),
        };
        match self.destination.exchange(request).await {
            Exchange::NotSent(why) => Heard::NotSent(why),
            Exchange::Lost(how, why) => Heard::Lost(how, why),
            Exchange::Answered { status, body } => {
                if status == UNAUTHORIZED {
                    self.auth.forget(&shown);
                }
                shown.extend(template.secrets.iter().cloned());
                Heard::Answer(Answer::parse(status, body, &shown))
            }
        }
    }
}

/// What came of one request.
enum Heard {
    NotSent(String),
    Lost(Doubt, String),
    Answer(Answer),
}

impl Provider for Http {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn patience(&self) -> Duration {
        self.auth.patience() + self.destination.timeout()
    }

    fn names_action(&self) -> bool {
        let reserve = self.reserving.as_ref().and_then(|it| it.call(&Purpose::Reserve));
        [Some(&self.act), reserve].into_iter().flatten().any(|(template, _)| template.carries(ActionPart::Id))
    }

    fn recalls(&self) -> bool {
        self.is_asked_by(&[ActionPart::Reference, ActionPart::ProviderKey])
    }

    fn recalls_requests(&self) -> bool {
        self.is_asked_by(&[ActionPart::Reference])
    }

    fn recalls_captures(&self) -> bool {
        self.recalls() && self.reserving.as_ref().is_none_or(Reserving::captures_by_our_names)
    }

    fn call<'a>(&'a self, call: &'a Call, now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(self.act(call, now_ms))
    }

    fn query<'a>(&'a self, call: &'a Call, now_ms: i64) -> BoxFuture<'a, Found> {
        Box::pin(self.ask(call, now_ms))
    }

    fn checks(&self) -> bool {
        self.check.is_some()
    }

    fn check<'a>(&'a self, call: &'a Call, done: Done<'a>, now_ms: i64) -> BoxFuture<'a, Check> {
        Box::pin(self.look_after(call, done, now_ms))
    }

    fn reserves(&self) -> Option<Reserves> {
        self.reserving.as_ref().map(Reserving::reserves)
    }

    fn rollback(&self) -> Option<Rollback> {
        self.rollback.as_ref().map(|(_, _, rollback)| *rollback)
    }

    fn undo<'a>(&'a self, call: &'a Call, done: Done<'a>, now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(self.take_back(call, done, now_ms))
    }

    fn callback(&self) -> Option<&Callback> {
        self.callback.as_ref()
    }

    fn redress<'a>(&'a self, call: &'a Call, done: Done<'a>, now_ms: i64) -> BoxFuture<'a, Reply> {
        Box::pin(self.act_after(call, done, now_ms))
    }

    fn snapshot<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Option<Value>, Unquoted>> {
        Box::pin(async move { self.look(&ask).await })
    }

    fn quote<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Money, Unquoted>> {
        Box::pin(async move { self.price(&ask).await })
    }
}

/// Before there is an attempt.
fn values_before<'a>(ask: &Ask<'a>) -> Values<'a> {
    Values {
        constraints: ask.constraints,
        money: ask.bound,
        action_id: ask.action_id,
        reference: None,
        provider_key: None,
        confirmed: None,
        snapshot: None,
    }
}

fn values_of(call: &Call) -> Values<'_> {
    Values {
        constraints: &call.constraints,
        money: call.money,
        action_id: call.action_id,
        reference: Some(&call.reference),
        provider_key: Some(&call.provider_key),
        confirmed: match &call.purpose {
            Purpose::Act | Purpose::Reserve => None,
            Purpose::Capture { reservation, .. } | Purpose::Release { reservation, .. } => {
                reservation.as_deref()
            }
        },
        snapshot: None,
    }
}

/// Where all requests go, and how long each may take.
struct Base<'a> {
    node: Node<'a>,
    url: Url,
    origin: Origin,
    timeout: Duration,
}

impl<'a> Base<'a> {
    fn read(table: &Table<'a>) -> Result<Base<'a>, Mistake> {
        let node = table.need("base")?;
        let text = node.text()?;
        let url = Url::parse(text).map_err(|_| {
            node.mistake(format!("`{text}` is not a URL")).hint("as in base = \"https://bank.example/v1\"")
        })?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(node
                .mistake("the base has a query or a fragment")
                .hint("parameters go into `params`"));
        }
        let origin = Origin::of(&url).map_err(|refused| closed(&node, &refused))?;
        Ok(Base { node, url, origin, timeout: table.millis("timeout_ms", 10_000, 120_000)? })
    }

    fn destination(&self, auth: &Auth, outside: Outside<'_>) -> Result<Destination, Mistake> {
        let found = outside.egress.destination_as(auth.identity(), &self.url, self.timeout);
        found.map_err(|refused| closed(&self.node, &refused))
    }

    /// The path that all requests begin with.
    fn path(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }
}

fn closed(node: &Node<'_>, refused: &Refused) -> Mistake {
    let hint = "only the gateway's own configuration can allow it, under `egress`";
    node.mistake(refused.to_string()).hint(hint)
}

fn read_auth(table: &Table<'_>, base: &Base<'_>, outside: Outside<'_>) -> Result<Auth, Mistake> {
    let Some(node) = table.get("auth") else { return Ok(Auth::default()) };
    Auth::read(&node, &base.origin, base.timeout, outside)
}

fn read_name(table: &Table<'_>, destination: &Destination) -> Result<String, Mistake> {
    table.get("name").map_or_else(|| Ok(destination.origin().at().to_string()), |node| node.name())
}

/// How the effect is had, and what may be tuned meanwhile, such as `timeout_ms`, is no part of it. Neither is the value
/// of a secret, which may have to be renewed; whom it makes us is, since another account may not see the same effects.
fn identity_of(
    name: &str,
    common: &Common<'_>,
    auth: &Auth,
    capabilities: &Capabilities,
    table: &Table<'_>,
) -> String {
    let mut parts = json!({
        "provider": "http",
        "name": name,
        "base": format!("{}{}", common.origin, common.base_path),
        "headers": table.value("headers"),
        "capabilities": table.value("capabilities"),
        "query": table.value("query"),
    });
    // Absent without `auth`, as it was before there was any.
    if let Some(account) = auth.account() {
        parts["auth"] = account;
    }
    // An absence is final that much later.
    if let Some(within) = capabilities.challenge {
        parts["challenge"] = within.as_secs().into();
    }
    // Likewise without reservations.
    for name in reserve::TABLES {
        if let Some(query) = table.value(name).get("query") {
            parts[name] = query.clone();
        }
    }
    identity(&parts)
}

fn read_most_bytes(table: &Table<'_>) -> Result<usize, Mistake> {
    let most = table.get("most_bytes").map_or(Ok(65_536), |node| node.whole(1, 1_048_576))?;
    Ok(usize::try_from(most).unwrap_or(65_536))
}

fn read_act(
    table: &Table<'_>,
    common: &Common<'_>,
    outside: Outside<'_>,
) -> Result<(Template, CallReading), Mistake> {
    let known = [&Template::MEMBERS[..], &CallReading::MEMBERS, &["challenge"]].concat();
    let act = table.need("act")?.table(&known)?;
    let reading = CallReading::read(&act, common.archetype)?;
    let reading = match act.get("challenge") {
        Some(node) => reading.with_challenge(&node, outside.egress.challenge_hosts())?,
        None => reading,
    };
    Ok((Template::read(&act, common, Knows::Redress, Method::POST)?, reading))
}

fn read_callback(
    table: &Table<'_>,
    archetype: &Archetype,
    outside: Outside<'_>,
) -> Result<Option<Callback>, Mistake> {
    table.get("callback").map(|node| Callback::read(&node, archetype, outside)).transpose()
}

fn read_query(table: &Table<'_>, common: &Common<'_>) -> Result<Option<(Template, QueryReading)>, Mistake> {
    let Some(node) = table.get("query") else { return Ok(None) };
    let query = node.table(&[&Template::MEMBERS[..], &QueryReading::MEMBERS].concat())?;
    Ok(Some((
        Template::read(&query, common, Knows::Attempt, Method::GET)?,
        QueryReading::read(&query, common.archetype)?,
    )))
}

/// What fails a check is undone, so there has to be a way.
fn read_check(table: &Table<'_>, common: &Common<'_>) -> Result<Option<(Template, CheckReading)>, Mistake> {
    let Some(node) = table.get("check") else { return Ok(None) };
    let hint =
        "what fails its check is undone before anybody is answered: an effect that stays is no failure";
    if table.get("rollback").is_none() {
        return Err(node.mistake("there is no `rollback` for what fails this").hint(hint));
    }
    if !common.archetype.reversible {
        return Err(node.mistake("the archetype is not `reversible`").hint(hint));
    }
    let check = node.table(&[&["path", "params", "headers"][..], &CheckReading::MEMBERS].concat())?;
    let template = Template::read(&check, common, Knows::Effect, Method::GET)?;
    Ok(Some((template, CheckReading::read(&check)?)))
}

fn read_quote(table: &Table<'_>, common: &Common<'_>) -> Result<Option<(Template, QuoteReading)>, Mistake> {
    let Some(node) = table.get("quote") else { return Ok(None) };
    let quote = node.table(&[&Template::MEMBERS[..], &QuoteReading::MEMBERS].concat())?;
    Ok(Some((
        Template::read(&quote, common, Knows::Action, Method::GET)?,
        QuoteReading::read(&quote, common.archetype)?,
    )))
}

const UNAUTHORIZED: u16 = 401;

fn read_snapshot(
    table: &Table<'_>,
    common: &Common<'_>,
) -> Result<Option<(Template, SnapshotReading)>, Mistake> {
    let Some(node) = table.get("snapshot") else { return Ok(None) };
    let snapshot = node.table(&[&Template::MEMBERS[..], &SnapshotReading::MEMBERS].concat())?;
    let template = Template::read(&snapshot, common, Knows::Action, Method::GET)?;
    Ok(Some((template, SnapshotReading::read(&snapshot)?)))
}

fn read_rollback(
    table: &Table<'_>,
    common: &Common<'_>,
) -> Result<Option<(Template, CallReading, Rollback)>, Mistake> {
    let Some(node) = table.get("rollback") else { return Ok(None) };
    let own = ["within_seconds", "restores"];
    let rollback = node.table(&[&Template::MEMBERS[..], &CallReading::MEMBERS, &own].concat())?;
    let template = Template::read(&rollback, common, Knows::Undoing, Method::POST)?;
    let reading = CallReading::read(&rollback, common.archetype)?;
    let within = read_window(&rollback, common.archetype)?;
    Ok(Some((template, reading, Rollback { within, restores: rollback.flag("restores")? })))
}

/// For how long: what the archetype says, unless the provider has less.
fn read_window(rollback: &Table<'_>, archetype: &Archetype) -> Result<Duration, Mistake> {
    let (said, most) = (rollback.get("within_seconds"), archetype.recovery_window);
    if let (None, Some(most)) = (&said, most) {
        return Ok(most);
    }
    let within = rollback.seconds("within_seconds", MOST_WINDOW_SECONDS)?;
    match said.filter(|_| most.is_some_and(|most| within > most)) {
        Some(node) => Err(node
            .mistake("this is longer than the archetype's `recovery_window`")
            .hint("leave it out, or say how much less the provider has")),
        None => Ok(within),
    }
}

/// A hundred years.
const MOST_WINDOW_SECONDS: u64 = 100 * 366 * 86_400;

const MEMBERS: [&str; 18] = [
    "provider",
    "name",
    "base",
    "auth",
    "headers",
    "timeout_ms",
    "most_bytes",
    "capabilities",
    "act",
    "query",
    "check",
    "quote",
    "snapshot",
    "rollback",
    "callback",
    "reserve",
    "capture",
    "release",
];
