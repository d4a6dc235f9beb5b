//! The page where people decide: what waits, one action in full, logging in, and a person's passkeys.
//!
//! What we know stands first, in the operator's words over canonical values; what an agent wrote stands below, quoted.

use std::fmt::Write;
use std::sync::LazyLock;

use action::Environment;
use gateway::{
    ActionView, Asked, Code, DeadlockView, Doubt, Error, GivenView, HeldView, Page, PasskeyView,
    ResolutionView, Ruling, SessionLimits, Summary,
};
use http::header::{HeaderValue, REFERRER_POLICY};
use receipt::approval::{AppliesTo, Limits, RelyingParty};

use super::html::{self, Prose, Text};
use super::receipt_page::readable;
use crate::reply;
use crate::request::Response;

/// Where a page stands, and who looks at it.
pub(crate) struct Frame<'a> {
    /// Path of this environment's inbox.
    pub base: &'a str,
    /// Path of production's, where passkeys are kept.
    pub root: String,
    /// Path of the sandbox's, if there is one.
    pub sandbox: Option<String>,
    pub environment: Environment,
    /// The person's name and the word that forms carry.
    pub visitor: Option<(&'a str, &'a str)>,
    /// The site that passkeys are for.
    pub party: Option<RelyingParty>,
}

/// The form by which one logs in.
pub(crate) struct Login<'a> {
    pub form: &'a str,
    /// Where to go afterwards.
    pub next: &'a str,
    pub error: Option<&'a Error>,
}

/// What a person may still say about an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Yes or no: by passkey if this person has one, by what they are logged in with if that is enough.
    Open { signs: bool, key: bool },
    /// What became of it, which nobody else tells.
    Resolve,
    /// They have decided.
    Given,
    /// They asked for it, or gave the right to ask.
    Party,
    /// Nobody decided in time.
    Expired,
    /// It does not wait any more.
    Over,
}

/// The form by which one logs in.
pub(crate) fn login(frame: &Frame<'_>, login: &Login<'_>) -> Response {
    let mut body = frame.mast();
    body.push_str("<h1>Approvals</h1>\n<p class=\"lead\">Log in to decide on what agents ask for.</p>\n");
    if let Some(error) = login.error {
        alert(&mut body, error);
    }
    let (form, next) = (Text(login.form), Text(login.next));
    let hidden = format!(
        "<input type=\"hidden\" name=\"form\" value=\"{form}\"><input type=\"hidden\" name=\"next\" value=\"{next}\">"
    );
    let _ = write!(
        body,
        "<form class=\"card fields\" method=\"post\" action=\"{base}/login\">{hidden}\n\
         <label for=\"key\">API key of role <b>approver</b></label>\n\
         <input id=\"key\" name=\"key\" type=\"password\" autocomplete=\"current-password\" spellcheck=\"false\" required>\n\
         <div class=\"tools\"><button class=\"main\" type=\"submit\">Log in</button></div></form>\n",
        base = Text(frame.base),
    );
    let _ = write!(
        body,
        "<form class=\"fields\" method=\"post\" action=\"{base}/login\">{hidden}\
         <input type=\"hidden\" name=\"assertion\" value=\"\">\n\
         <div class=\"tools\"><button type=\"button\" data-passkey=\"login\" hidden>Log in with a passkey</button></div></form>\n",
        base = Text(frame.base),
    );
    frame.elsewhere(&mut body, "");
    body.push_str(LIVE);
    frame.page("Log in", &format!(" data-form=\"{form}\""), &body)
}

/// Everything that waits, by agent, and what only a person can settle.
pub(crate) fn inbox(
    frame: &Frame<'_>,
    (held, unresolved, deadlocks): (&Page<HeldView>, &[HeldView], &[DeadlockView]),
    version: &str,
) -> Response {
    let said = waiting(held, unresolved, deadlocks.len());
    let mut body = frame.mast();
    let _ = write!(
        body,
        "<div id=\"content\" data-said=\"{said}\">\n<h1>Approvals</h1>\n<p class=\"lead\">{said}</p>\n"
    );
    let mut agents: Vec<(&str, Vec<&HeldView>)> = Vec::new();
    for view in &held.items {
        match agents.iter_mut().find(|(agent, _)| *agent == view.agent_id) {
            Some((_, of_agent)) => of_agent.push(view),
            None => agents.push((&view.agent_id, vec![view])),
        }
    }
    for (agent, of_agent) in agents {
        let _ = write!(
            body,
            "<h2>{} <span class=\"soft\">{}</span></h2>\n<ul class=\"inbox\">\n",
            Text(agent),
            actions(of_agent.len())
        );
        of_agent.into_iter().for_each(|view| frame.waits(&mut body, view));
        body.push_str("</ul>\n");
    }
    if let Some(next) = &held.next {
        let _ =
            writeln!(body, "<p><a href=\"{}?cursor={}\">Older actions</a></p>", Text(frame.base), Text(next));
    }
    for (kind, heading, told) in UNRESOLVED {
        let of_kind: Vec<&HeldView> =
            unresolved.iter().filter(|view| view.unresolved == Some(kind)).collect();
        if of_kind.is_empty() {
            continue;
        }
        let _ = write!(
            body,
            "<h2>{heading} <span class=\"soft\">{}</span></h2>\n<p class=\"soft\">{told}</p>\n<ul class=\"inbox\">\n",
            actions(of_kind.len())
        );
        of_kind.into_iter().for_each(|view| frame.unsettled(&mut body, view));
        body.push_str("</ul>\n");
    }
    stuck(&mut body, deadlocks);
    body.push_str("</div>\n");
    body.push_str(LIVE);
    frame.page("Inbox", &frame.watching("", version), &body)
}

/// One action, and the form by which one decides on it.
pub(crate) fn detail(
    frame: &Frame<'_>,
    held: &HeldView,
    record: &ActionView,
    decision: &Decision,
    version: &str,
) -> Response {
    let summary = &held.summary;
    let mut body = frame.mast();
    let state = state(held, record, *decision);
    let _ = write!(
        body,
        "<div id=\"content\" data-said=\"{}\">\n<p class=\"eyebrow\"><a href=\"{}\">All approvals</a> · asked for by <b>{}</b> \
         on {}</p>\n<h1>{}</h1>\n<p id=\"changed\" class=\"verdict warn\" hidden><strong>This action has changed</strong> \
         since you opened it. <a href=\"{base}/{id}\">Look again</a> before you decide.</p>\n",
        Text(&state.1),
        Text(frame.base),
        Text(&held.agent_id),
        readable(&held.created_at),
        Text(&summary.what),
        base = Text(frame.base),
        id = Text(&held.action_id),
    );
    let _ = writeln!(
        body,
        "<p class=\"verdict {}\"><strong>{}</strong> {}</p>",
        state.0,
        Text(&state.1),
        Text(&state.2)
    );
    terms(&mut body, held);
    if !held.reasons.is_empty() {
        reasons(&mut body, frame, held);
    }
    if !summary.words.is_empty() {
        body.push_str(
            "<h2>In the agent’s own words</h2>\n<div class=\"words\"><p class=\"mark\">Untrusted: written by the agent, checked by \
             nobody</p>\n<dl>\n",
        );
        for asked in &summary.words {
            let _ = writeln!(
                body,
                "<dt>{}</dt><dd><q>{}</q>{}</dd>",
                name(asked),
                Text(&asked.value),
                meaning(asked),
            );
        }
        body.push_str("</dl></div>\n");
    }
    given(&mut body, held);
    resolved(&mut body, held);
    decide(&mut body, frame, held, *decision);
    further(&mut body, frame, held, *decision);
    if *decision == Decision::Resolve {
        resolve(&mut body, frame, held);
    }
    let parameters = serde_json::to_string_pretty(&held.parameters).unwrap_or_default();
    body.push_str("<h2>The record</h2>\n<dl class=\"card\">\n");
    let question = (held.needed > 0).then_some(&*held.escalation_id);
    for (term, value) in [
        ("Transaction", Some(&*held.action_id)),
        ("Question", question),
        ("Provider", held.provider.as_deref()),
        ("Our reference", held.reference.as_deref()),
        ("The provider’s reference", held.provider_reference.as_deref()),
    ] {
        if let Some(value) = value {
            let _ = writeln!(body, "<dt>{term}</dt><dd class=\"mono\">{}</dd>", Text(value));
        }
    }
    let root = frame.root.strip_suffix("/approvals").unwrap_or_default();
    for receipt in &record.receipts {
        let short = Text(&receipt.receipt.short);
        let _ = writeln!(
            body,
            "<dt>Receipt</dt><dd class=\"mono\"><a href=\"{}/r/{short}\">{short}</a></dd>",
            Text(root)
        );
    }
    let _ = write!(
        body,
        "</dl>\n<details><summary>Everything that was asked, as JSON</summary><pre>{}</pre></details>\n</div>\n",
        Text(&parameters),
    );
    body.push_str(LIVE);
    let of = format!("of={}&", held.action_id);
    let mut attributes = frame.watching(&of, version);
    let _ = write!(attributes, " data-action=\"{}\"", Text(&held.action_id));
    frame.page(&summary.what, &attributes, &body)
}

/// A person's passkeys.
pub(crate) fn passkeys(frame: &Frame<'_>, mine: &[PasskeyView]) -> Response {
    let mut body = frame.mast();
    let _ = write!(
        body,
        "<p class=\"eyebrow\"><a href=\"{}\">All approvals</a></p>\n<h1>Your passkeys</h1>\n<p class=\"lead\">A passkey signs \
         exactly what you approve, so nobody can approve in your name.</p>\n",
        Text(frame.base),
    );
    if mine.is_empty() {
        body.push_str("<p>You have none yet.</p>\n");
    } else {
        body.push_str("<ul class=\"inbox\">\n");
        mine.iter().for_each(|passkey| frame.passkey(&mut body, passkey));
        body.push_str("</ul>\n");
    }
    body.push_str("<h2>Register a passkey</h2>\n");
    match &frame.party {
        Some(_) => {
            let _ = write!(
                body,
                "<p>Your device makes it and keeps it. It counts once an admin has enrolled it: read its id to them.</p>\n\
                 <form class=\"fields\" method=\"post\" action=\"{}/passkeys\">{}<input type=\"hidden\" name=\"enrolment\" \
                 value=\"\">\n<div class=\"tools\"><button class=\"main\" type=\"button\" data-passkey=\"register\" \
                 hidden>Register a passkey</button></div></form>\n",
                Text(&frame.root),
                frame.hidden(),
            );
            frame.elsewhere(&mut body, "/passkeys");
        }
        None => body.push_str(
            "<p>Passkeys are for names, and this gateway is known by a bare address: its operator has to set \
             <code>public_url</code> to a name.</p>\n",
        ),
    }
    body.push_str(LIVE);
    frame.page("Your passkeys", &frame.form(), &body)
}

/// Says why there is no page.
pub(crate) fn refusal(frame: &Frame<'_>, error: &Error) -> Response {
    let mut body = frame.mast();
    let title = match error.code {
        Code::NotFound => "There is nothing here",
        Code::StateConflict => "Too late, or twice",
        Code::Forbidden => "That is not allowed",
        _ => "That did not work",
    };
    let _ = writeln!(body, "<h1>{title}</h1>");
    alert(&mut body, error);
    let _ = writeln!(body, "<p><a href=\"{}\">All approvals</a></p>", Text(frame.base));
    frame.page(title, "", &body)
}

impl Frame<'_> {
    fn page(&self, title: &str, attributes: &str, body: &str) -> Response {
        let base = Text(self.base);
        let origin = self.party.as_ref().and_then(|party| party.origins.first());
        let attributes = format!(
            " data-base=\"{base}\" data-origin=\"{}\"{attributes}",
            Text(origin.map(String::as_str).unwrap_or_default())
        );
        let title = format!("{title} · Countersign approvals");
        let html = html::page(&title, &attributes, &format!("{body}</main>\n"), SCRIPT);
        let mut response = reply::page(html, &POLICY);
        // Told not to say where a form comes from, browsers say that it comes from nowhere, and nowhere is not ours.
        response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        response
    }

    /// What stands above every page.
    fn mast(&self) -> String {
        let mut mast = format!(
            "<header class=\"mast\"><span><b>Countersign</b> approvals{}</span>",
            if self.environment == Environment::Sandbox { " · <b>sandbox</b>" } else { "" }
        );
        if let Some((name, _)) = self.visitor {
            let other = match (self.environment, &self.sandbox) {
                (Environment::Production, Some(sandbox)) => {
                    format!("<a href=\"{}\">Sandbox</a>", Text(sandbox))
                }
                (Environment::Production, None) => String::new(),
                (Environment::Sandbox, _) => format!("<a href=\"{}\">Production</a>", Text(&self.root)),
            };
            let _ = write!(
                mast,
                "<nav class=\"menu\" aria-label=\"You\"><span>{}</span>{other}<a href=\"{}/passkeys\">Passkeys</a>\
                 <form method=\"post\" action=\"{}/logout\">{}<button class=\"quiet\" type=\"submit\">Log out</button></form></nav>",
                Text(name),
                Text(&self.root),
                Text(self.base),
                self.hidden(),
            );
        }
        mast.push_str("</header>\n<main>\n");
        mast
    }

    /// The word that every form carries.
    fn hidden(&self) -> String {
        let form = self.visitor.map(|(_, form)| form).unwrap_or_default();
        format!("<input type=\"hidden\" name=\"form\" value=\"{}\">", Text(form))
    }

    fn form(&self) -> String {
        let form = self.visitor.map(|(_, form)| form).unwrap_or_default();
        format!(" data-form=\"{}\"", Text(form))
    }

    fn watching(&self, of: &str, version: &str) -> String {
        let (base, version) = (Text(self.base), Text(version));
        format!("{} data-watch=\"{base}/events?{}seen={version}\"", self.form(), Text(of))
    }

    /// One line of the inbox.
    fn waits(&self, body: &mut String, view: &HeldView) {
        let agreed = view.approvals.iter().filter(|it| it.escalation_id == view.escalation_id).count();
        let _ = write!(
            body,
            "<li class=\"card\"><a class=\"what\" href=\"{}/{}\"><b>{}</b>{}</a>\n<p class=\"soft\">{}",
            Text(self.base),
            Text(&view.action_id),
            Text(&view.summary.what),
            stake(&view.summary),
            Text(&view.reasons.iter().map(|reason| why(reason).0).collect::<Vec<_>>().join(" · ")),
        );
        if view.needed > 1 {
            let _ = write!(body, " · {agreed} of {} agreed", view.needed);
        }
        if let Some(until) = &view.expires_at {
            let _ = write!(body, " · until <time datetime=\"{}\">{}</time>", Text(until), readable(until));
        }
        body.push_str("</p></li>\n");
    }

    /// One line of what only a person can settle.
    fn unsettled(&self, body: &mut String, view: &HeldView) {
        let _ = write!(
            body,
            "<li class=\"card\"><a class=\"what\" href=\"{}/{}\"><b>{}</b>{}</a>\n<dl><dt>Agent</dt><dd>{}</dd><dt>Since</dt>\
             <dd>{}</dd>",
            Text(self.base),
            Text(&view.action_id),
            Text(&view.summary.what),
            stake(&view.summary),
            Text(&view.agent_id),
            readable(&view.created_at),
        );
        for (term, value) in [
            ("Provider", view.provider.as_deref()),
            ("Our reference", view.reference.as_deref()),
            ("Transaction", Some(&*view.action_id)),
        ] {
            if let Some(value) = value {
                let _ = write!(body, "<dt>{term}</dt><dd class=\"mono\">{}</dd>", Text(value));
            }
        }
        body.push_str("</dl></li>\n");
    }

    fn passkey(&self, body: &mut String, passkey: &PasskeyView) {
        let (mood, told) = match (passkey.state, &passkey.enrolled_by, &passkey.revoked_by) {
            ("enrolled", Some(by), _) => ("good", format!("enrolled by {by}: your signature counts")),
            ("revoked", _, Some(by)) => ("soft", format!("revoked by {by}")),
            _ => ("warn", "waits for an admin: read this id to them".to_owned()),
        };
        let _ = write!(
            body,
            "<li class=\"card\"><p><b class=\"mono\">{}</b> <span class=\"{mood}\">{}</span></p>\n<p class=\"soft\">registered on {}</p>",
            Text(&passkey.id),
            Text(&told),
            readable(&passkey.registered_at),
        );
        if passkey.state == "registered" {
            let _ = write!(
                body,
                "\n<p class=\"soft\">An admin enrols it with <code>countersign approvers enrol {}</code></p>",
                Text(&passkey.id)
            );
        }
        if passkey.state != "revoked" {
            let _ = write!(
                body,
                "\n<form method=\"post\" action=\"{}/passkeys/{id}/revoke\">{}<button class=\"danger\" type=\"submit\" \
                 aria-label=\"Revoke {id}\">Revoke</button></form>",
                Text(&self.root),
                self.hidden(),
                id = Text(&passkey.id),
            );
        }
        body.push_str("</li>\n");
    }

    /// Where passkeys can be asked for, for whoever is not there.
    fn elsewhere(&self, body: &mut String, path: &str) {
        if let Some(origin) = self.party.as_ref().and_then(|party| party.origins.first()) {
            let place = format!("{origin}{}{path}", self.base);
            let _ = writeln!(
                body,
                "<p class=\"soft\" data-elsewhere>Passkeys need JavaScript, and this address: <a href=\"{0}\">{0}</a></p>",
                Text(&place)
            );
        }
    }
}

/// What is asked of the person: how much, to whom, under which grant, and whether there is a way back.
fn terms(body: &mut String, held: &HeldView) {
    let summary = &held.summary;
    body.push_str("<dl class=\"card terms\">\n");
    if let Some(amount) = &summary.amount {
        let _ = writeln!(body, "<dt>How much</dt><dd class=\"amount big\">{}</dd>", Text(amount));
    }
    if let Some(to) = &summary.to {
        let _ = writeln!(body, "<dt>To</dt><dd class=\"big mono\">{}</dd>", Text(to));
    }
    for asked in &summary.facts {
        let _ = writeln!(
            body,
            "<dt>{}</dt><dd><span class=\"mono\">{}</span>{}</dd>",
            name(asked),
            Text(&asked.value),
            meaning(asked),
        );
    }
    let mood = if held.reversible { "" } else { " class=\"no\"" };
    let _ = writeln!(body, "<dt>Undo</dt><dd{mood}>{}</dd>", Text(summary.undo));
    let _ = writeln!(body, "<dt>Kind</dt><dd class=\"mono\">{}</dd>", Text(&held.archetype));
    if let Some(mandate) = &held.mandate_id {
        let _ = writeln!(body, "<dt>Under mandate</dt><dd class=\"mono\">{}</dd>", Text(mandate));
    }
    if let Some(limits) = &held.session_limits {
        let _ = writeln!(body, "<dt>Its session</dt><dd>{}</dd>", Text(&session_limits(limits)));
    }
    if let Some(until) = &held.expires_at {
        let _ = writeln!(
            body,
            "<dt>Expires</dt><dd><time datetime=\"{}\">{}</time></dd>",
            Text(until),
            readable(until)
        );
    }
    body.push_str("</dl>\n");
}

fn reasons(body: &mut String, frame: &Frame<'_>, held: &HeldView) {
    body.push_str("<h2>Why a person is asked</h2>\n<ul>\n");
    for reason in &held.reasons {
        let (short, long) = why(reason);
        let _ = write!(body, "<li><b>{}</b>: {}", Text(short), Prose(long));
        match reason.as_str() {
            "policy" => {
                for policy in &held.policies {
                    let _ = write!(body, " <code>{}</code>", Text(&policy.id));
                }
            }
            "probable_duplicate" => {
                if let Some(earlier) = &held.earlier_transaction {
                    let earlier = Text(earlier);
                    let _ = write!(
                        body,
                        " <a class=\"mono\" href=\"{}/{earlier}\">{earlier}</a>",
                        Text(frame.base)
                    );
                }
            }
            _ => {}
        }
        body.push_str("</li>\n");
    }
    body.push_str("</ul>\n");
}

/// What people said of this hold and of earlier ones.
fn given(body: &mut String, held: &HeldView) {
    if held.approvals.is_empty() {
        return;
    }
    body.push_str(
        "<h2>What people said</h2>\n<div class=\"card scroll\"><table>\n<thead><tr><th scope=\"col\">Who</th>\
         <th scope=\"col\">Said</th><th scope=\"col\">By</th><th scope=\"col\">When</th><th scope=\"col\">Comment</th></tr></thead>\n<tbody>\n",
    );
    for GivenView { approver, decision, form, at, comment, escalation_id, limits, seconds, void } in
        &held.approvals
    {
        let earlier = match void.as_deref() {
            Some("policies_changed") => " <span class=\"soft\">(void: the policies changed since)</span>",
            Some("catalogue_changed") => " <span class=\"soft\">(void: the catalogue changed since)</span>",
            Some("rules_changed") => {
                " <span class=\"soft\">(void: policies and catalogue changed since)</span>"
            }
            Some(_) => " <span class=\"soft\">(void: an earlier question)</span>",
            None if *escalation_id == held.escalation_id => "",
            None => " <span class=\"soft\">(an earlier question)</span>",
        };
        let said = match (decision.as_str(), limits, seconds) {
            ("approve", Some(limits), _) => format!("yes, {}", within(limits)),
            ("approve", None, _) => "yes".to_owned(),
            ("extend_budget", _, Some(seconds)) => format!("{seconds} seconds more"),
            ("revoke_mission", ..) => "no, and the mission ends".to_owned(),
            _ => "no".to_owned(),
        };
        let _ = writeln!(
            body,
            "<tr><td><b>{}</b></td><td>{}{earlier}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            Text(approver),
            Text(&said),
            Text(form),
            readable(at),
            Text(comment.as_deref().unwrap_or("–")),
        );
    }
    body.push_str("</tbody></table></div>\n");
}

/// How far somebody agreed, in words.
fn within(limits: &Limits) -> String {
    let most = limits.max_amount.as_ref().map(|most| format!("up to {} {}", most.amount, most.currency));
    let until = limits.not_after.as_ref().map(|until| format!("until {}", readable(until.as_str())));
    let session = (limits.applies_to == AppliesTo::Session).then(|| "for the rest of the session".to_owned());
    most.into_iter().chain(until).chain(session).collect::<Vec<_>>().join(", ")
}

/// How far people agreed to whatever the session of a cycle does.
fn session_limits(limits: &SessionLimits) -> String {
    let SessionLimits { max_amount, currency, not_after } = limits;
    let most = max_amount.iter().zip(currency).map(|(most, currency)| format!("up to {most} {currency}"));
    let until = not_after.iter().map(|until| format!("until {}", readable(until)));
    most.chain(until).collect::<Vec<_>>().join(", ")
}

/// Limits that may be put to a yes.
fn bounds(body: &mut String, held: &HeldView) {
    body.push_str("<details><summary>Agree only within limits</summary>\n");
    if let Some(currency) = &held.currency {
        let _ = write!(
            body,
            "<label for=\"max_amount\">At most, in {}</label>\n<input id=\"max_amount\" name=\"max_amount\" type=\"text\" \
             inputmode=\"decimal\">\n",
            Text(currency)
        );
    }
    body.push_str(
        "<label for=\"not_after\">Not sent after <span class=\"soft\">(as 2027-01-31T12:00, UTC)</span></label>\n\
         <input id=\"not_after\" name=\"not_after\" type=\"text\" spellcheck=\"false\">\n",
    );
    if held.session_id.is_some() {
        let _ = write!(
            body,
            "<label for=\"applies_to\">For</label>\n<select id=\"applies_to\" name=\"applies_to\"><option value=\"{}\">this \
             action</option><option value=\"{}\">this and the rest of its session</option></select>\n",
            AppliesTo::Action.as_str(),
            AppliesTo::Session.as_str(),
        );
    }
    body.push_str("</details>\n");
}

/// What else a person can decide about a cycle of a governed session.
fn further(body: &mut String, frame: &Frame<'_>, held: &HeldView, decision: Decision) {
    let Decision::Open { .. } = decision else { return };
    let can = |ruling: Ruling| held.available_decisions.contains(&ruling);
    let form = |ruling: Ruling| {
        format!(
            "<form class=\"card fields\" method=\"post\" action=\"{}/{}/decide\" autocomplete=\"off\">{}<input type=\"hidden\" \
             name=\"as\" value=\"{}\"><button type=\"submit\" disabled hidden></button>\n",
            Text(frame.base),
            Text(&held.action_id),
            frame.hidden(),
            ruling.as_str(),
        )
    };
    if can(Ruling::ExtendBudget) {
        let _ = write!(
            body,
            "<h2>More time</h2>\n{}<label for=\"seconds\">Seconds more, for all sessions of the mandate</label>\n\
             <input id=\"seconds\" name=\"seconds\" type=\"text\" inputmode=\"numeric\" required>\n\
             <label for=\"why\">Why <span class=\"soft\">(optional)</span></label>\n\
             <input id=\"why\" name=\"text\" type=\"text\" maxlength=\"1000\">\n\
             <div class=\"tools\"><button class=\"main\" type=\"submit\">Extend the budget</button></div></form>\n",
            form(Ruling::ExtendBudget)
        );
    }
    if can(Ruling::RequestMoreInfo) {
        let _ = write!(
            body,
            "<h2>Ask the agent</h2>\n{}<label for=\"question\">Your question <span class=\"soft\">(one line; the action waits \
             on, and its time runs on)</span></label>\n\
             <input id=\"question\" name=\"text\" type=\"text\" maxlength=\"1000\" required>\n\
             <div class=\"tools\"><button type=\"submit\">Ask</button></div></form>\n",
            form(Ruling::RequestMoreInfo)
        );
    }
    if can(Ruling::RevokeMission) {
        let _ = write!(
            body,
            "<h2>End the mission</h2>\n{}<p>This ends the session, the mandate and whatever descends from it. There is no way \
             back.</p>\n<label for=\"end\">Why <span class=\"soft\">(optional)</span></label>\n\
             <input id=\"end\" name=\"text\" type=\"text\" maxlength=\"1000\">\n\
             <div class=\"tools\"><button class=\"danger\" type=\"submit\">Revoke the mission</button></div></form>\n",
            form(Ruling::RevokeMission)
        );
    }
}

fn decide(body: &mut String, frame: &Frame<'_>, held: &HeldView, decision: Decision) {
    let Decision::Open { signs, key } = decision else { return };
    let (base, id) = (Text(frame.base), Text(&held.action_id));
    let yes = held.available_decisions.contains(&Ruling::Approve);
    let (signs, key) = (signs && yes, key && yes);
    // The first button is what Enter in the comment would press: none, so that nobody decides by accident.
    let _ = write!(
        body,
        "<h2>Your decision</h2>\n<form id=\"decision\" class=\"card fields\" method=\"post\" action=\"{base}/{id}/reject\" \
         autocomplete=\"off\">{}<input type=\"hidden\" name=\"assertion\" value=\"\"><button type=\"submit\" disabled hidden></button>\n\
         <label for=\"comment\">Comment for other people <span class=\"soft\">(optional)</span></label>\n\
         <input id=\"comment\" name=\"comment\" type=\"text\" maxlength=\"1000\" aria-describedby=\"kept\">\n\
         <p id=\"kept\" class=\"soft\">One line, shown to whoever may see the action.</p>\n",
        frame.hidden(),
    );
    if signs || key {
        bounds(body, held);
    }
    body.push_str("<div class=\"tools\">");
    if signs {
        body.push_str(
            "<button class=\"main\" type=\"button\" data-passkey=\"approve\" data-approves hidden>Approve with passkey</button>",
        );
    }
    if key {
        let class = if signs { "" } else { " class=\"main\"" };
        let _ = write!(
            body,
            "<button{class} type=\"submit\" data-approves formaction=\"{base}/{id}/approve\">Approve</button>"
        );
    }
    body.push_str("<button class=\"danger\" type=\"submit\">Reject</button></div>\n");
    if signs {
        body.push_str(
            "<p class=\"soft\">You sign exactly what stands above. If any of it changes first, your signature counts for \
             nothing.</p>\n",
        );
    }
    match (signs, key) {
        (true, false) => frame.elsewhere(body, &format!("/{}", held.action_id)),
        (false, false) if !yes => body.push_str("<p>No yes makes time: give it more, or say no.</p>\n"),
        (false, false) => {
            let _ = writeln!(
                body,
                "<p>Approving this takes a passkey, and you have none that is enrolled. <a href=\"{}/passkeys\">Register \
                 one</a>. Rejecting takes none.</p>",
                Text(&frame.root)
            );
        }
        (_, true) => {}
    }
    body.push_str("</form>\n");
}

/// What people said became of it.
fn resolved(body: &mut String, held: &HeldView) {
    if held.resolutions.is_empty() {
        return;
    }
    body.push_str(
        "<h2>What people said became of it</h2>\n<div class=\"card scroll\"><table>\n<thead><tr><th scope=\"col\">Who</th>\
         <th scope=\"col\">Said</th><th scope=\"col\">When</th><th scope=\"col\">How they know</th></tr></thead>\n<tbody>\n",
    );
    for ResolutionView { decision, by, at, comment, charged, reference } in &held.resolutions {
        let more = [charged.as_deref(), reference.as_deref()];
        let more: String =
            more.into_iter().flatten().map(|it| format!(" <code>{}</code>", Text(it))).collect();
        let _ = writeln!(
            body,
            "<tr><td><b>{}</b></td><td>{}{more}</td><td>{}</td><td>{}</td></tr>",
            Text(by),
            Text(&decision.replace('_', " ")),
            readable(at),
            Text(comment),
        );
    }
    body.push_str("</tbody></table></div>\n");
}

/// The form by which a person says what became of an action.
fn resolve(body: &mut String, frame: &Frame<'_>, held: &HeldView) {
    let (base, id, hidden) = (Text(frame.base), Text(&held.action_id), frame.hidden());
    // As with the other decision, Enter presses nothing.
    let _ = write!(
        body,
        "<h2>Your word</h2>\n<form id=\"decision\" class=\"card fields\" method=\"post\" action=\"{base}/{id}/resolve\" \
         autocomplete=\"off\">{hidden}<button type=\"submit\" disabled hidden></button>\n\
         <p>Look it up with the provider first. What you say is kept as your word, under your name, and counts as the last \
         one.</p>\n<label for=\"comment\">How you know</label>\n\
         <input id=\"comment\" name=\"comment\" type=\"text\" maxlength=\"1000\" required aria-describedby=\"kept\">\n\
         <p id=\"kept\" class=\"soft\">One line, shown to whoever may see the action.</p>\n"
    );
    let doubt = held.unresolved == Some("in_doubt");
    let may_be_charged = doubt || held.unresolved == Some("release_failed");
    if let Some(amount) = held.summary.amount.as_ref().filter(|_| may_be_charged) {
        let _ = write!(
            body,
            "<label for=\"charged\">What was charged <span class=\"soft\">(only if it was, and less than {})\
             </span></label>\n<input id=\"charged\" name=\"charged\" type=\"text\" inputmode=\"decimal\">\n",
            Text(amount)
        );
    }
    if may_be_charged {
        body.push_str(
            "<label for=\"reference\">The provider’s reference <span class=\"soft\">(only if it was carried out)</span></label>\n\
             <input id=\"reference\" name=\"reference\" type=\"text\" maxlength=\"200\" spellcheck=\"false\">\n",
        );
    }
    body.push_str("<div class=\"tools\">");
    for decision in &held.decisions {
        let (word, class) = match (held.unresolved, decision) {
            (Some("in_doubt"), gateway::Decision::Executed) => ("It was carried out", ""),
            (Some("release_failed"), gateway::Decision::Executed) => ("It was charged", ""),
            (_, gateway::Decision::Executed) => ("It stays as it is", ""),
            (_, gateway::Decision::Failed) => ("It had no effect", " class=\"danger\""),
            (_, gateway::Decision::RolledBack) => ("It was undone by hand", ""),
            (_, gateway::Decision::Released) => ("It is free, and nothing was charged", " class=\"danger\""),
            (_, gateway::Decision::TryAgain) => ("Try again to set it free", ""),
            (_, gateway::Decision::Undo) => ("Have it undone", " class=\"danger\""),
        };
        let _ = write!(
            body,
            "<button type=\"submit\"{class} name=\"as\" value=\"{}\" data-approves>{word}</button>",
            decision.as_str()
        );
    }
    body.push_str("</div>\n");
    if doubt {
        body.push_str(
            "<p class=\"soft\">If you say that it had no effect, its money is free again and its agent may try again: be \
             sure that it is not still on its way.</p>\n",
        );
    }
    if held.unresolved == Some("release_failed") {
        body.push_str(
            "<p class=\"soft\">If you say that it is free, its money is free for the mandate too: be sure that the provider \
             holds nothing any more and charged nothing.</p>\n",
        );
    }
    body.push_str("</form>\n");
}

/// Mood, headline and sentence about where an action stands.
fn state(held: &HeldView, record: &ActionView, decision: Decision) -> (&'static str, String, String) {
    let counted = |it: &&GivenView| it.escalation_id == held.escalation_id && it.decision == "approve";
    let agreed = held.approvals.iter().filter(counted).count();
    let people = match held.needed {
        1 => "One person has to agree.".to_owned(),
        needed => format!("{agreed} of {needed} people have agreed."),
    };
    let people = match held.principals.is_empty() {
        true => people,
        false => format!("{people} Among them have to be: {}.", held.principals.join(", ")),
    };
    let spoken = !held.resolutions.is_empty();
    let fate = held.unresolved.and_then(|kind| UNRESOLVED.into_iter().find(|(word, ..)| *word == kind));
    if let Some((word, headline, told)) = fate {
        let party = "Somebody else has to say what became of it: you asked for it, or gave the right to ask.";
        let sentence = if decision == Decision::Party { party } else { told };
        let mood = if matches!(word, "rollback_failed" | "release_failed") { "bad" } else { "" };
        let sentence = match record.doubt.as_deref().and_then(why_in_doubt) {
            Some(why) => format!("{why} {sentence}"),
            None => sentence.to_owned(),
        };
        return (mood, headline.to_owned(), sentence);
    }
    let (mood, headline, sentence) = match (decision, held.state.as_str()) {
        (Decision::Over, "COMPLETED") if spoken => {
            ("good", "Carried out", "A person said so, and not the provider.".to_owned())
        }
        (Decision::Over, "ROLLED_BACK") if spoken => {
            ("", "Undone", "A person said so, and not the provider.".to_owned())
        }
        (Decision::Over, "FAILED") if spoken => {
            ("bad", "No effect", "A person said so, and not the provider.".to_owned())
        }
        (Decision::Expired, _) => ("bad", "Expired", "Nobody decided in time.".to_owned()),
        (Decision::Party, _) => (
            "warn",
            "Somebody else has to decide",
            format!("You asked for this, or gave the right to ask. {people}"),
        ),
        (Decision::Given, _) => ("", "You have decided", people),
        (Decision::Open { .. } | Decision::Resolve, _) => ("", "Waits for a person", people),
        (Decision::Over, "APPROVED") => ("", "Approved", "It is judged again, then carried out.".to_owned()),
        (Decision::Over, "EXECUTING") => ("", "Sent", "What became of it is not known yet.".to_owned()),
        (Decision::Over, "COMPLETED") => {
            ("good", "Carried out", "It was approved, and the provider confirmed it.".to_owned())
        }
        (Decision::Over, _) => match record.error {
            Some(Code::ApprovalDenied) => {
                ("bad", "Rejected", "A person said no. Nothing was sent.".to_owned())
            }
            Some(Code::ApprovalExpired) => {
                ("bad", "Expired", "Nobody decided in time. Nothing was sent.".to_owned())
            }
            Some(code) => {
                ("bad", "Not carried out", format!("{code}: {}.", crate::errors::why_failed(code, record)))
            }
            None => ("bad", "Not carried out", "It had no effect.".to_owned()),
        },
    };
    (mood, headline.to_owned(), sentence)
}

/// Why it is not known what became of an action, in a sentence.
fn why_in_doubt(word: &str) -> Option<&'static str> {
    let doubt = Doubt::ALL.into_iter().find(|doubt| doubt.as_str() == word)?;
    Some(match doubt {
        Doubt::NoAnswer => "No answer came in time.",
        Doubt::Broken => "The connection broke before an answer came.",
        Doubt::Ended => "The server ended before it answered.",
        Doubt::NotUnderstood => "An answer came that does not say what became of it.",
        Doubt::Error => "The provider answered that something went wrong there.",
        Doubt::SaysFailed => {
            "The tool says that it failed; whether it had an effect all the same nobody has looked."
        }
        Doubt::GivenUp => "Its caller gave it up before an answer came.",
        Doubt::Forgotten => {
            "The provider refused it. The store was put back shortly before, so it may have been done for an action that is lost."
        }
    })
}

/// A reason to ask a person, in a few words and in a sentence.
fn why(reason: &str) -> (&str, &'static str) {
    match reason {
        "irreversible" => {
            ("large, and no way back", "the amount is above what may go unasked, and it cannot be undone.")
        }
        "cold_start" => ("little is known", "there are too few earlier actions to compare the amount with."),
        "first_seen_destination" => ("new destination", "nothing was ever sent there."),
        "policy" => ("policy", "the operator’s policies ask for a person:"),
        "archetype_requires_approval" => ("kind of action", "the catalogue asks for a person each time."),
        "mandate_requires_approval" => ("mandate", "the mandate asks for a person each time."),
        "guarantee_level" => ("guarantee level", "exactly-once always asks for a person."),
        "probable_duplicate" => ("looks like a repetition", "an earlier action had the same effect:"),
        "principal_conflict" => {
            ("contradiction", "another principal said the opposite about the same resource:")
        }
        "uncertainty" => {
            ("unsure", "the agent is less sure than its mandate demands, or does not say how sure it is.")
        }
        "novel_context" => {
            ("changed situation", "the situation is not the one that the agent declared itself in.")
        }
        "below_trust_floor" => {
            ("little trust", "too many cycles of the session were denied for what its mandate puts up with.")
        }
        "budget_exhausted" => ("budget used up", "nothing is left of the mandate’s time or resources."),
        "multi_principal" => ("several principals", "every principal of the cluster has to agree."),
        other => (other, "see the record."),
    }
}

/// How much, and to whom.
fn stake(summary: &Summary) -> String {
    let mut stake = String::new();
    if let Some(amount) = &summary.amount {
        let _ = write!(stake, " <span class=\"amount\">{}</span>", Text(amount));
    }
    if let Some(to) = &summary.to {
        let _ = write!(stake, " <span class=\"soft\">to</span> <span class=\"mono\">{}</span>", Text(to));
    }
    stake
}

/// A member's name, as words.
fn name(asked: &Asked) -> String {
    Text(&asked.name.replace('_', " ")).to_string()
}

/// What the catalogue says that a member means.
fn meaning(asked: &Asked) -> String {
    match asked.meaning.is_empty() {
        true => String::new(),
        false => format!("<small>{}</small>", Text(&asked.meaning)),
    }
}

fn alert(body: &mut String, error: &Error) {
    let _ = write!(body, "<p class=\"verdict bad\" role=\"alert\">{}.", Prose(&capital(&error.message)));
    if let Some(hint) = &error.hint {
        let _ = write!(body, " {}.", Prose(&capital(hint)));
    }
    body.push_str("</p>\n");
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().collect::<String>() + letters.as_str())
        .unwrap_or_default()
}

/// Circles of waits, and how a person ends them: not here, because that is not about an action.
fn stuck(body: &mut String, deadlocks: &[DeadlockView]) {
    for DeadlockView { cluster_id, sessions, .. } in deadlocks {
        let _ = write!(
            body,
            "<h2>Deadlock <span class=\"soft\">{} sessions</span></h2>\n<p>In the cluster <code>{}</code> each of these \
             waits for the next, and the last for the first. End the waiting of one (<code>countersign cluster wait \
             SESSION</code>), take one out (<code>countersign cluster leave</code>), or revoke one (<code>countersign \
             session close SESSION --as revoked</code>).</p>\n<ul>\n",
            sessions.len(),
            Text(cluster_id)
        );
        for session in sessions {
            let _ = writeln!(body, "<li><code>{}</code></li>", Text(session));
        }
        body.push_str("</ul>\n");
    }
}

fn waiting(held: &Page<HeldView>, unresolved: &[HeldView], deadlocks: usize) -> String {
    let waits = match (held.items.len(), &held.next) {
        (0, _) => "Nothing waits for a person.".to_owned(),
        (1, None) => "One action waits for a person.".to_owned(),
        (count, None) => format!("{count} actions wait for a person."),
        (count, Some(_)) => format!("More than {count} actions wait for a person."),
    };
    let waits = match deadlocks {
        0 => waits,
        1 => format!("{waits} One deadlock is to be ended."),
        count => format!("{waits} {count} deadlocks are to be ended."),
    };
    match unresolved.len() {
        0 => waits,
        1 => format!("{waits} One more is not settled."),
        count => format!("{waits} {count} more are not settled."),
    }
}

fn actions(count: usize) -> String {
    if count == 1 { "one action".to_owned() } else { format!("{count} actions") }
}

/// What only a person can settle: the word for it, a heading, and what it means.
const UNRESOLVED: [(&str, &str, &str); 4] = [
    (
        "rollback_failed",
        "Could not be undone",
        "The effect is there, and undoing it failed for good. Undo it by hand and say so, say that it stays, or have the \
         rollback tried again.",
    ),
    (
        "release_failed",
        "Could not be set free",
        "Money is reserved with the provider, and setting it free failed for good. The mandate is debited as before. Have it \
         tried again, or look it up with the provider and say whether it is free or was charged.",
    ),
    (
        "unchecked",
        "Not known to be as it should be",
        "The effect is there, and nobody tells whether it is as it should be. Look it up, and say that it stays or have it \
         undone. Nothing was said to its agent but that it is open.",
    ),
    (
        "in_doubt",
        "In doubt",
        "Sent, and the answer was lost. The provider is asked again and again, nothing is sent twice, and the money stays \
         reserved. If the provider does not tell, look it up there under our reference and say what became of it.",
    ),
];

/// Where scripts tell what happens, for those who see and those who hear.
const LIVE: &str = "<p id=\"live\" role=\"status\" aria-live=\"polite\"></p>\n";
const SCRIPT: &str = include_str!("approvals.js");
static POLICY: LazyLock<String> = LazyLock::new(|| html::policy_with_forms(SCRIPT));
