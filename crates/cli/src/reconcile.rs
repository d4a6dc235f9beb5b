//! `countersign audit reconcile`: a provider's own statement beside the log, both ways.
//!
//! What the gateway says of its actions is believed only as far as it is a genuine receipt that stands in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::ProgressBar;
use receipt::log::Bundle;
use receipt::{Document, PaymentStatus, Pin, Stage, Trust, Verdict};
use serde_json::{Value, json};

use crate::api::{Client, Cursors, encoded};
use crate::error::{Context, Error, Result};
use crate::out;
use crate::receipts::once_logged;
use crate::verify::read_pin;

/// What is compared.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The provider's statement: CSV with a heading
    #[arg(long, value_name = "FILE")]
    statement: PathBuf,
    /// Whose receipts count: a pin file that names the log
    #[arg(long, value_name = "PIN")]
    issuer: String,
    /// Column with our reference, as the provider was given it; which attempt it was of is not compared
    #[arg(long, value_name = "NAME", default_value = "reference")]
    reference: String,
    /// Column with the amount, a decimal number; what was given back has a minus
    #[arg(long, value_name = "NAME", default_value = "amount")]
    amount: String,
    /// Column with the currency
    #[arg(long, value_name = "NAME", default_value = "currency")]
    currency: String,
    /// Of actions sent or completed at or after this time
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Of actions sent or completed before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Of actions of this archetype
    #[arg(long, value_name = "NAME")]
    archetype: Option<String>,
    /// The provider whose statement it is, by its name in receipts; what others carried out is left out
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, client: &Client) -> Result<ExitCode> {
    let (pin, _) = read_pin(&args.issuer)?;
    let stated = args.stated()?;
    let stated = by_action(stated, client)?;
    let period = args.period()?;
    // What they list and we did not count as completed or undone in that time is looked at as well.
    let mut actions: BTreeSet<String> = stated.keys().cloned().collect();
    for state in [COMPLETED, ROLLED_BACK] {
        actions.extend(args.entered(state, client)?);
    }
    // Of most it is known by now what became of them.
    let sent: BTreeSet<String> = args.entered(EXECUTING, client)?.into_iter().collect();
    let sent: Vec<&String> = sent.difference(&actions).collect();
    let mut found = Found::default();
    let provider = args.provider.as_deref();
    let bar = ProgressBar::new((actions.len() + sent.len()) as u64).with_message("actions");
    for id in &actions {
        found.add(compared(id, stated.get(id), provider, period, &pin, client)?);
        bar.inc(1);
    }
    for id in sent {
        found.add(in_doubt(id, provider, client)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    found.must_name(provider);
    found.tell(args, &stated)
}

/// What comes of looking at an action.
#[derive(Debug, PartialEq)]
enum Compared {
    Explained,
    /// There is nothing to compare.
    Over,
    /// What one side has and the other does not.
    Finding(String),
    /// It is in no line, and only these other providers were asked to carry it out.
    Elsewhere(BTreeSet<String>),
}

/// What was found in all.
#[derive(Default)]
struct Found {
    findings: Vec<String>,
    /// How many actions were left out, by the provider whose they are.
    left_out: BTreeMap<String, usize>,
    /// How many are explained.
    explained: usize,
}

impl Found {
    fn add(&mut self, compared: Compared) {
        match compared {
            Compared::Over => {}
            Compared::Explained => self.explained += 1,
            Compared::Finding(finding) => self.findings.push(finding),
            Compared::Elsewhere(providers) => {
                providers.into_iter().for_each(|name| *self.left_out.entry(name).or_default() += 1);
            }
        }
    }

    /// Whose statement it is has to be among those whom anything was sent to, where it was: of a name that is misspelt nothing was
    /// compared.
    fn must_name(&mut self, provider: Option<&str>) {
        if let Some(provider) = provider
            && self.explained == 0
            && self.findings.is_empty()
            && !self.left_out.is_empty()
        {
            self.findings.push(format!(
                "nothing of this time was sent to the provider `{provider}`, and to others it was"
            ));
        }
    }

    fn tell(&self, args: &Args, stated: &BTreeMap<String, Lines>) -> Result<ExitCode> {
        let lines: usize = stated.values().map(|lines| lines.numbers.len()).sum();
        let Found { findings, left_out, .. } = self;
        if args.json {
            let told = json!({ "ok": findings.is_empty(), "lines": lines, "findings": findings, "left_out": left_out });
            out::json(&told)?;
        } else {
            findings.iter().try_for_each(|finding| out::line(out::shown(finding)))?;
            for (provider, count) in left_out {
                out::line(format_args!(
                    "{count} left out: they are of the provider `{}`",
                    out::shown(provider)
                ))?;
            }
            out::line(format_args!("{lines} lines, {} that nothing explains", findings.len()))?;
        }
        Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What a statement says of one reference, or of all that are of one action.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lines {
    numbers: Vec<usize>,
    /// The names in the references.
    names: BTreeSet<String>,
    /// By currency, in millionths.
    sums: BTreeMap<String, i128>,
}

impl Args {
    /// The statement, by reference.
    fn stated(&self) -> Result<BTreeMap<String, Lines>> {
        let shown = self.statement.display();
        let text = std::fs::read_to_string(&self.statement).while_we(|| format!("cannot read `{shown}`"))?;
        let columns = [&*self.reference, &*self.amount, &*self.currency];
        stated(&text, columns).map_err(|why| Error::new(format!("cannot use `{shown}`")).because(why))
    }

    fn period(&self) -> Result<Period> {
        let time = |name: &str, text: &Option<String>| {
            let Some(text) = text else { return Ok(None) };
            let at =
                text.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
            let hint = "write it as 2026-05-01T00:00:00Z";
            at.map(Some).ok_or_else(|| Error::new(format!("`--{name}` is no time: `{text}`")).hint(hint))
        };
        Ok(Period { from: time("from", &self.from)?, until: time("until", &self.until)? })
    }

    /// The actions that got into this state then, once for each time.
    fn entered(&self, state: &str, client: &Client) -> Result<Vec<String>> {
        let filters = [("time_from", &self.from), ("time_to", &self.until), ("archetype", &self.archetype)];
        let filters = filters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let filters: String = filters.map(|(name, value)| format!("&{name}={}", encoded(value))).collect();
        let path = format!("/v1/audit?order=oldest&format=jsonl&result_state={state}&limit=200{filters}");
        let (mut ids, mut cursor, mut cursors) = (Vec::new(), None::<String>, Cursors::default());
        loop {
            let at = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let (text, next) = client.page(&format!("{path}{at}"))?;
            for line in text.lines() {
                let entry: Value = serde_json::from_str(line)
                    .while_we(|| "the gateway's answer cannot be read".to_owned())?;
                ids.extend(entry["action_id"].as_str().map(str::to_owned));
            }
            match cursors.next(next.as_deref())? {
                Some(next) => cursor = Some(next),
                None => return Ok(ids),
            }
        }
    }
}

/// The lines by action, where the gateway knows whose reference it is; by the reference otherwise. Whether it says so rightly is for
/// the receipts of the action to tell.
fn by_action(stated: BTreeMap<String, Lines>, client: &Client) -> Result<BTreeMap<String, Lines>> {
    let mut of: BTreeMap<String, Lines> = BTreeMap::new();
    for (reference, lines) in stated {
        let id = id_of(&reference, client)?.unwrap_or(reference);
        let all = of.entry(id).or_default();
        all.numbers.extend(lines.numbers);
        all.names.extend(lines.names);
        lines.sums.into_iter().for_each(|(currency, sum)| *all.sums.entry(currency).or_default() += sum);
    }
    Ok(of)
}

/// The id of the action that a reference is of.
fn id_of(reference: &str, client: &Client) -> Result<Option<String>> {
    let path = format!("/v1/actions/{}", encoded(reference));
    let action = client.exchange(reqwest::Method::GET, &path, &[], None)?;
    match action.status {
        200 => Ok(action.body["action_id"].as_str().map(str::to_owned)),
        404 | 400 | 422 => Ok(None),
        other => Err(Error::new(format!("the gateway answered {other} about the reference `{reference}`"))),
    }
}

/// A finding if it is not known to this moment whether the action had its effect.
fn in_doubt(id: &str, provider: Option<&str>, client: &Client) -> Result<Compared> {
    let action = client.exchange(reqwest::Method::GET, &format!("/v1/actions/{}", encoded(id)), &[], None)?;
    let state = action.body["result"]["state"].as_str().filter(|_| action.status == 200);
    let state = state.ok_or_else(|| {
        Error::new(format!(
            "the gateway answered {} about action `{id}`, and not how it stands",
            action.status
        ))
    })?;
    let phase = action.body["phase"].as_str();
    if state != EXECUTING || matches!(phase, Some("waiting" | "reserved" | "release_failed")) {
        return Ok(Compared::Over);
    }
    // There need not be a receipt yet that says to whom it was sent.
    let attempts = action.body["attempts"].as_array().into_iter().flatten();
    let sent_to: Vec<Option<&str>> = attempts.map(|attempt| attempt["provider"].as_str()).collect();
    Ok(match only_others(sent_to, provider) {
        Some(others) => Compared::Elsewhere(others),
        None => Compared::Finding(format!("action {id}: {IN_DOUBT}")),
    })
}

/// To whom something was sent, if that is said and the provider is not among them.
fn only_others<'a>(
    sent_to: impl IntoIterator<Item = Option<&'a str>>,
    provider: Option<&str>,
) -> Option<BTreeSet<String>> {
    let sent_to: BTreeSet<&str> = sent_to.into_iter().flatten().collect();
    let is_other = !sent_to.is_empty() && !sent_to.contains(provider?);
    is_other.then(|| sent_to.into_iter().map(str::to_owned).collect())
}

/// What is wrong between what the provider lists of an action and what its receipts say.
fn compared(
    id: &str,
    lines: Option<&Lines>,
    provider: Option<&str>,
    period: Period,
    pin: &Pin,
    client: &Client,
) -> Result<Compared> {
    let nothing = Lines::default();
    let said = lines.unwrap_or(&nothing);
    let place = match said.numbers.as_slice() {
        [] => format!("action {id}"),
        [number] => format!("line {number}, action {id}"),
        numbers => format!("lines {numbers:?}, action {id}"),
    };
    let receipts = receipts(id, pin, client)?;
    let sent_to = receipts.iter().flatten().map(|it| it.provider.as_deref());
    match only_others(sent_to, provider) {
        Some(others) if said.numbers.is_empty() => return Ok(Compared::Elsewhere(others)),
        Some(others) => {
            let others = others.into_iter().collect::<Vec<_>>().join("`, `");
            return Ok(Compared::Finding(format!(
                "{place}: its receipts say that it was sent to `{others}`"
            )));
        }
        None => {}
    }
    let charged = receipts.and_then(|mut receipts| {
        receipts.retain(|it| it.is_of(provider));
        must_name(id, &receipts, said)?;
        period.charged(&receipts).ok_or_else(|| IN_DOUBT.to_owned())
    });
    let charged = match charged {
        Ok(charged) => charged,
        Err(why) => return Ok(Compared::Finding(format!("{place}: {why}"))),
    };
    let found: BTreeMap<String, i128> = said
        .sums
        .iter()
        .filter(|(_, sum)| **sum != 0)
        .map(|(currency, sum)| (currency.clone(), *sum))
        .collect();
    if charged.contains(&found) {
        return Ok(Compared::Explained);
    }
    let expected: Vec<String> = charged.iter().map(sums).collect();
    let (found, expected) = (sums(&found), expected.join(", or "));
    Ok(Compared::Finding(format!("{place}: the statement has {found}, the log {expected}")))
}

/// Whose reference a line has is the gateway's word until a receipt of that action says so, which names what was sent; every attempt,
/// capture and undo of one action begins with one name. Otherwise it could put what it hides beside another action.
fn must_name(id: &str, receipts: &[Said], lines: &Lines) -> std::result::Result<(), String> {
    let is_named = |name: &str| name == id || receipts.iter().any(|it| it.name.as_deref() == Some(name));
    match lines.names.iter().find(|name| !is_named(name)) {
        None => Ok(()),
        Some(name) => {
            Err(format!("the gateway says that `{name}` is of this action, and no receipt of it does"))
        }
    }
}

fn sums(sums: &BTreeMap<String, i128>) -> String {
    if sums.is_empty() {
        return "nothing".to_owned();
    }
    let each: Vec<String> =
        sums.iter().map(|(currency, sum)| format!("{} {currency}", decimal(*sum))).collect();
    each.join(" and ")
}

/// What a receipt of an action says.
#[derive(Debug)]
struct Said {
    created_ms: u64,
    charge: Charge,
    /// The name in the reference that what it tells of was sent under, and to whom, where it was sent.
    name: Option<String>,
    provider: Option<String>,
}

impl Said {
    /// Has this provider to do with it? All of them may, where it does not name one.
    fn is_of(&self, provider: Option<&str>) -> bool {
        let both = self.provider.as_deref().zip(provider);
        both.is_none_or(|(named, provider)| named == provider)
    }
}

/// What was charged by then.
#[derive(Clone, Debug, PartialEq)]
enum Charge {
    Nothing,
    /// Currency, and millionths of it.
    Of(String, i128),
    Unknown,
}

impl Charge {
    fn sum(&self) -> BTreeMap<String, i128> {
        match self {
            Charge::Of(currency, sum) if *sum != 0 => BTreeMap::from([(currency.clone(), *sum)]),
            Charge::Of(..) | Charge::Nothing | Charge::Unknown => BTreeMap::new(),
        }
    }
}

/// From when until when a statement is; Unix milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    from: Option<u64>,
    until: Option<u64>,
}

impl Period {
    /// What was charged, and given back, in this time, by the receipts of an action; nothing if that is not known. Of an action of
    /// which no receipt was made then: what was charged of it in all, since a provider may list it later or earlier. More than one
    /// answer where only the provider knows when it charged what was in doubt.
    fn charged(self, said: &[Said]) -> Option<Vec<BTreeMap<String, i128>>> {
        // By what they say themselves, in whichever order the gateway lists them.
        let mut said: Vec<&Said> = said.iter().collect();
        said.sort_by_key(|it| it.created_ms);
        // What was found out later was so all the time.
        let known = |at: usize| {
            let mut charges = said.iter().skip(at).map(|it| &it.charge);
            charges.find(|charge| **charge != Charge::Unknown)
        };
        let last_before =
            |time: Option<u64>| said.iter().rposition(|it| time.is_none_or(|time| it.created_ms < time));
        let in_all = known(last_before(self.until).unwrap_or(said.len().saturating_sub(1)))?.sum();
        let is_within = |it: &&Said| {
            self.from.is_none_or(|from| it.created_ms >= from)
                && self.until.is_none_or(|until| it.created_ms < until)
        };
        let before = self.from.and_then(|from| last_before(Some(from)));
        let Some(before) = before.filter(|_| said.iter().any(is_within)) else { return Some(vec![in_all]) };
        let mut then = in_all.clone();
        for (currency, sum) in known(before)?.sum() {
            *then.entry(currency).or_default() -= sum;
        }
        then.retain(|_, sum| *sum != 0);
        let was_in_doubt = said.get(before).is_some_and(|it| it.charge == Charge::Unknown);
        Some(std::iter::once(then).chain(was_in_doubt.then_some(in_all)).collect())
    }
}

/// What the receipts of an action say, or why nothing is known of it.
fn receipts(id: &str, pin: &Pin, client: &Client) -> Result<std::result::Result<Vec<Said>, String>> {
    let action = client.exchange(reqwest::Method::GET, &format!("/v1/actions/{}", encoded(id)), &[], None)?;
    match action.status {
        200 => {}
        404 | 400 | 422 => return Ok(Err("the log knows of no such action".to_owned())),
        other => return Err(Error::new(format!("the gateway answered {other} about action `{id}`"))),
    }
    let receipts = action.body["receipts"].as_array().cloned().unwrap_or_default();
    let receipts: Vec<&str> = receipts.iter().filter_map(|receipt| receipt["receipt_id"].as_str()).collect();
    if receipts.is_empty() {
        return Ok(Err("it has no receipt".to_owned()));
    }
    let mut said = Vec::with_capacity(receipts.len());
    for receipt in receipts {
        match said_by(receipt, id, pin, client)? {
            Ok(one) => said.push(one),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(said))
}

/// What a receipt of an action says, if it is genuine and stands in the log.
fn said_by(receipt: &str, id: &str, pin: &Pin, client: &Client) -> Result<std::result::Result<Said, String>> {
    let path = format!("/v1/receipts/{}/bundle", encoded(receipt));
    // Only what the gateway says is not there is a finding: that it cannot be asked is none.
    let Ok(text) = once_logged(client, &path)? else {
        return Ok(Err(format!("its receipt {receipt} is not in the log")));
    };
    let Ok(bundle) = Bundle::parse(&text) else {
        return Ok(Err(format!("what the gateway shows of its receipt {receipt} is no bundle")));
    };
    let trust =
        Trust { proof: Some(&bundle.proof), require_inclusion: true, ..Trust::new(pin, &bundle.jwks) };
    let verdict = receipt::verify(&bundle.receipt, &trust).verdict;
    if verdict != Verdict::Valid {
        return Ok(Err(format!("its receipt {receipt}: {verdict}")));
    }
    let document = std::str::from_utf8(&bundle.receipt).ok().and_then(|text| Document::parse(text).ok());
    let Some(document) = document.filter(|document| *document.content.transaction_id == *id) else {
        return Ok(Err(format!("its receipt {receipt} is of another action")));
    };
    let money = &document.content.money;
    let charge = match document.content.payment_status {
        PaymentStatus::NotCharged => Some(Charge::Nothing),
        PaymentStatus::Pending => Some(Charge::Unknown),
        PaymentStatus::Charged => {
            let pair = money.charge_currency.as_deref().zip(money.charge_amount.as_deref());
            pair.and_then(|(currency, amount)| Some(Charge::Of(currency.to_owned(), millionths(amount)?)))
        }
    };
    let unsaid = || {
        format!("its receipt {receipt} says that it was charged, and not what, or to more than six places")
    };
    let sent = sent(&document);
    let (created_ms, name) = (document.created.unix_millis(), sent["reference"].as_str().map(action_of));
    let provider = sent["provider"].as_str().map(str::to_owned);
    Ok(charge.map(|charge| Said { created_ms, charge, name, provider }).ok_or_else(unsaid))
}

/// What a receipt says was sent; null where it says nothing of it.
fn sent(document: &Document<'_>) -> Value {
    let execute = document.entries.iter().find(|entry| entry.stage == Stage::Execute);
    execute.and_then(|entry| serde_json::from_str(entry.input).ok()).unwrap_or_default()
}

/// The lines of a statement by reference.
fn stated(text: &str, columns: [&str; 3]) -> std::result::Result<BTreeMap<String, Lines>, String> {
    let mut rows = rows(text)?.into_iter();
    let (_, heading) = rows.next().ok_or("it is empty")?;
    let mut places = [0; 3];
    for (place, name) in places.iter_mut().zip(columns) {
        let mut found = heading.iter().enumerate().filter(|(_, title)| title.trim() == name);
        let (first, _) =
            found.next().ok_or_else(|| format!("it has no column `{name}`, but {}", heading.join(", ")))?;
        if found.next().is_some() {
            return Err(format!("it has more than one column `{name}`"));
        }
        *place = first;
    }
    let mut stated: BTreeMap<String, Lines> = BTreeMap::new();
    for (number, row) in rows {
        let [reference, amount, currency] = places.map(|place| row.get(place).map_or("", |cell| cell.trim()));
        let sum =
            millionths(amount).ok_or_else(|| format!("line {number}: `{amount}` is no decimal number"))?;
        let name = action_of(reference);
        let lines = stated.entry(name.clone()).or_default();
        lines.names.insert(name);
        lines.numbers.push(number);
        *lines.sums.entry(currency.to_ascii_uppercase()).or_default() += sum;
    }
    Ok(stated)
}

/// The name of the action in a reference of ours, in whichever case it is printed: behind it stands which call it was of.
fn action_of(reference: &str) -> String {
    let folded = reference.to_ascii_lowercase();
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_id = |text: &str| {
        text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    let alias = folded.split_at_checked(ALIAS).filter(|(alias, _)| hex(alias));
    let named = alias.or_else(|| folded.split_at_checked(ID).filter(|(id, _)| is_id(id)));
    let Some((name, call)) = named else { return reference.to_owned() };
    let parts: Vec<&str> = call.strip_suffix("-rollback").unwrap_or(call).split('-').collect();
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_ours = match parts.as_slice() {
        [""] => call.is_empty(),
        ["", attempt] | ["", attempt, "release"] => number(attempt),
        ["", attempt, "capture", capture] => number(attempt) && number(capture),
        _ => false,
    };
    if is_ours { name.to_owned() } else { reference.to_owned() }
}

/// Rows of RFC 4180, with the number of the line on which each begins; empty ones are left out.
fn rows(text: &str) -> std::result::Result<Vec<(usize, Vec<String>)>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut began, mut quoted) = (1, 1, false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        line += usize::from(character == '\n');
        match (character, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            ('"', true) => quoted = false,
            ('"', false) if cell.is_empty() => quoted = true,
            (',', false) => row.push(std::mem::take(&mut cell)),
            ('\r', false) => {}
            ('\n', false) => {
                row.push(std::mem::take(&mut cell));
                rows.push((began, std::mem::take(&mut row)));
                began = line;
            }
            (other, _) => cell.push(other),
        }
    }
    if quoted {
        return Err(format!("line {began}: a quotation mark is not closed"));
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push((began, row));
    }
    rows.retain(|(_, row)| row.iter().any(|cell| !cell.trim().is_empty()));
    Ok(rows)
}

/// A decimal number in millionths.
fn millionths(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 18 || part.len() > PLACES || !plain(whole) || !plain(part) {
        return None;
    }
    let number: i128 = format!("{whole}{part:0<PLACES$}").parse().ok()?;
    Some(sign * number)
}

fn decimal(millionths: i128) -> String {
    let (sign, number) = if millionths < 0 { ("-", -millionths) } else { ("", millionths) };
    let scale = 10_i128.pow(PLACES as u32);
    let part = format!("{:0PLACES$}", number % scale);
    let part = part.trim_end_matches('0');
    format!("{sign}{}.{part:0<2}", number / scale)
}

const PLACES: usize = 6;
const COMPLETED: &str = "COMPLETED";
const ROLLED_BACK: &str = "ROLLED_BACK";
const EXECUTING: &str = "EXECUTING";
const IN_DOUBT: &str = "it is not known what became of it";
/// Length of the name by which providers know an action.
const ALIAS: usize = 40;
/// Length of an action's id, with which references began before there were such names.
const ID: usize = 36;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_statement_is_read_as_spreadsheets_write_it() {
        let text = "\u{feff}date,amount,reference,currency\r\n2026-05-01,\"1.50\",a,usd\r\n\r\n,-0.25,\"a\",USD\n,3,\"b \"\"x\"\", y\",EUR";
        let stated = stated(text, ["reference", "amount", "currency"]).unwrap();
        assert_eq!(stated["a"].sums, BTreeMap::from([("USD".to_owned(), 1_250_000)]));
        assert_eq!(stated["a"].numbers, [2, 4]);
        assert_eq!(stated["b \"x\", y"].sums, BTreeMap::from([("EUR".to_owned(), 3_000_000)]));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let why = |text| stated(text, ["reference", "amount", "currency"]).unwrap_err();
        assert!(why("a,b\n").contains("no column `reference`"));
        assert_eq!(why("reference,amount,currency\nx,ten,USD\n"), "line 2: `ten` is no decimal number");
        assert!(why("reference,amount,currency\nx,\"1,USD\n").contains("not closed"));
        assert_eq!(why(""), "it is empty");
        assert_eq!(why("reference,amount,currency,amount\n"), "it has more than one column `amount`");
    }

    /// A gateway that knows of an action with one receipt, and answers like this when it is asked for its bundle.
    fn gateway(answer: &'static str) -> Client {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut asked) = (stream.unwrap(), [0; 4096]);
                let read = stream.read(&mut asked).unwrap();
                let action = r#"{"receipts":[{"receipt_id":"r"}]}"#;
                let (status, body) = match String::from_utf8_lossy(&asked[..read]).contains("/bundle") {
                    true => answer.split_once(' ').unwrap(),
                    false => ("200", action),
                };
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                stream.write_all((head + body).as_bytes()).unwrap();
            }
        });
        Client::new(&at, None).unwrap()
    }

    #[test]
    fn only_what_the_gateway_says_is_not_there_is_a_finding_and_no_outage() {
        let pin = Pin::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        let found = |answer| compared("a", None, None, Period::default(), &pin, &gateway(answer));
        let none = r#"404 {"code":"EP_NOT_FOUND","message":"there is no such receipt"}"#;
        let missing = "action a: its receipt r is not in the log".to_owned();
        assert_eq!(found(none).unwrap(), Compared::Finding(missing));
        for outage in [
            r#"503 {"code":"EP_UNAVAILABLE","message":"wait"}"#,
            r#"401 {"code":"EP_UNAUTHENTICATED","message":"no"}"#,
            "404 <html>",
            "502 <html>",
        ] {
            assert!(found(outage).is_err(), "{outage}");
        }
    }

    #[test]
    fn calls_of_one_action_are_summed_up_in_whichever_case_they_are_printed() {
        for name in ["0a21b52ccbb47ff09dad8fad2314230401234567", "01a21b52-cbb4-7ff0-9dad-8fad23142304"] {
            for call in ["", "-12", "-1-rollback", "-1-release", "-2-capture-3", "-2-capture-3-rollback"] {
                let reference = format!("{name}{call}");
                let read = (action_of(&reference), action_of(&reference.to_uppercase()));
                assert_eq!(read, (name.into(), name.into()), "{reference}");
            }
            for call in ["-x", "-", "-rollback", "-1-2", "0"] {
                let reference = format!("{name}{call}");
                assert_eq!(action_of(&reference), reference);
            }
        }
        for other in ["x-1", "", "-1", "X"] {
            assert_eq!(action_of(other), other);
        }
    }

    #[test]
    fn a_line_is_of_the_action_whose_receipts_name_it() {
        let [x, y] = ["0a21b52ccbb47ff09dad8fad2314230401234567", "1a21b52ccbb47ff09dad8fad2314230401234567"];
        let said = |name: Option<&str>| Said {
            created_ms: 5,
            charge: Charge::Nothing,
            name: name.map(str::to_owned),
            provider: None,
        };
        let receipts = [said(None), said(Some(x))];
        let named = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            must_name("an-id", &receipts, &Lines { names, ..Lines::default() })
        };
        for names in [&[][..], &[x], &["an-id"], &[x, "an-id"]] {
            assert_eq!(named(names), Ok(()));
        }
        for names in [&[y][..], &[x, y], &["another"]] {
            assert!(named(names).unwrap_err().contains("no receipt of it does"));
        }
    }

    #[test]
    fn what_names_no_provider_is_of_each_and_what_only_others_did_of_none() {
        let said = |provider: Option<&str>| Said {
            created_ms: 5,
            charge: Charge::Nothing,
            name: None,
            provider: provider.map(str::to_owned),
        };
        for (named, of_bank) in [(None, true), (Some("bank"), true), (Some("other"), false)] {
            assert_eq!(said(named).is_of(Some("bank")), of_bank, "{named:?}");
            assert!(said(named).is_of(None));
        }
        let others = |sent_to: &[Option<&str>], provider| only_others(sent_to.iter().copied(), provider);
        let other = || Some(BTreeSet::from(["other".to_owned()]));
        assert_eq!(others(&[Some("other"), None], Some("bank")), other());
        for sent_to in [&[][..], &[None], &[Some("other"), Some("bank")]] {
            assert_eq!(others(sent_to, Some("bank")), None, "{sent_to:?}");
        }
        assert_eq!(others(&[Some("other")], None), None);
    }

    #[test]
    fn what_was_given_back_in_another_month_is_what_was_charged_in_each() {
        let said = |receipts: &[(u64, Charge)]| {
            let said = |(created_ms, charge): &(u64, Charge)| Said {
                created_ms: *created_ms,
                charge: charge.clone(),
                name: None,
                provider: None,
            };
            // In whichever order the gateway lists them.
            receipts.iter().rev().map(said).collect::<Vec<_>>()
        };
        let five = || Charge::Of("USD".to_owned(), 5);
        let months = [(None, Some(100)), (Some(100), Some(200)), (Some(200), None), (None, None)];
        let charged = |receipts: &[(u64, Charge)]| {
            months.map(|(from, until)| {
                let sums = Period { from, until }.charged(&said(receipts));
                let sum = |sums: BTreeMap<String, i128>| sums.into_values().sum::<i128>();
                sums.map(|answers| answers.into_iter().map(sum).collect::<Vec<_>>())
            })
        };
        let each = |sums: [i128; 4]| sums.map(|sum| Some(vec![sum]));
        // Paid in the first, undone in the second; whoever lists it in the third lists what is left of it.
        assert_eq!(charged(&[(50, five()), (150, Charge::Nothing)]), each([5, -5, 0, 0]));
        // What was found out in the second was so in the first, or in the second.
        let doubtful = charged(&[(50, Charge::Unknown), (150, five())]);
        assert_eq!(doubtful, [Some(vec![5]), Some(vec![0, 5]), Some(vec![5]), Some(vec![5])]);
        assert_eq!(charged(&[(50, Charge::Unknown)]), [None, None, None, None]);
        // Listed before or after it was completed.
        assert_eq!(charged(&[(150, five())]), each([5; 4]));
    }

    #[test]
    fn amounts_are_compared_by_what_they_are() {
        for (text, number) in
            [("1", 1_000_000), ("1.00", 1_000_000), ("-0.10", -100_000), ("+2.5", 2_500_000)]
        {
            assert_eq!(millionths(text), Some(number));
        }
        for text in ["", ".5", "1e3", "1.0000001", "1,000", "--1"] {
            assert_eq!(millionths(text), None, "{text}");
        }
        assert_eq!(
            (decimal(1_500_000), decimal(-1), decimal(0)),
            ("1.50".into(), "-0.000001".into(), "0.00".into())
        );
    }
}
