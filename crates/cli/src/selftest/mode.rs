//! The kinds of provider, as an operator would declare them, and the bank that is each of them in truth.

use std::time::Duration;

use testkit::bank::{Callback, Fault, Injection, Misdelivery, Options, Payers, Target};

use super::chance::Chance;

/// What a provider can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Mode {
    /// It recognises a key, for a short while.
    Idempotent,
    /// It can be asked what became of a payment, and pays again for every request.
    Queryable,
    /// It recognises a key and can be asked.
    Both,
    /// The same, and it refuses half of what it does all the same: a word that it takes back later.
    Mistaken,
    /// Twice does no harm, and no money is in play.
    RepeatSafe,
    /// The client carries it out itself, by a command that recognises its key.
    Runner,
    /// Nothing is known of it.
    Neither,
}

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Level {
    Atp2,
    Atp3,
}

impl Level {
    pub(super) const ALL: [Level; 2] = [Level::Atp2, Level::Atp3];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Level::Atp2 => "atp-2",
            Level::Atp3 => "atp-3",
        }
    }
}

impl Mode {
    pub(super) const ALL: [Mode; 7] = [
        Mode::Idempotent,
        Mode::Queryable,
        Mode::Both,
        Mode::Mistaken,
        Mode::RepeatSafe,
        Mode::Runner,
        Mode::Neither,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Mode::Idempotent => "idempotent",
            Mode::Queryable => "queryable",
            Mode::Both => "both",
            Mode::Mistaken => "mistaken",
            Mode::RepeatSafe => "repeat_safe",
            Mode::Runner => "runner",
            Mode::Neither => "neither",
        }
    }

    /// Whether the level can be promised; else it has to be refused.
    pub(super) fn keeps(self, level: Level) -> bool {
        match self {
            Mode::Idempotent | Mode::Queryable | Mode::Both | Mode::Mistaken => true,
            Mode::RepeatSafe | Mode::Runner => level == Level::Atp2,
            Mode::Neither => false,
        }
    }

    pub(super) fn has_money(self) -> bool {
        !matches!(self, Mode::RepeatSafe | Mode::Runner)
    }

    /// Whether it can set money aside and set it free again.
    pub(super) fn reserves(self) -> bool {
        matches!(self, Mode::Idempotent | Mode::Both | Mode::Mistaken)
    }

    /// Whether its payers may have to confirm.
    pub(super) fn challenges(self) -> bool {
        matches!(self, Mode::Idempotent | Mode::Queryable | Mode::Both)
    }

    /// Whether it says of itself what became of a payment.
    fn calls_back(self) -> bool {
        self.challenges() || self == Mode::Mistaken
    }

    /// Why a level that it cannot keep is refused.
    pub(super) fn refusal(self) -> &'static str {
        match self {
            Mode::Runner => "ATP_ROLLBACK_REQUIRED",
            _ => "ATP_PROVIDER_CANNOT",
        }
    }

    /// The name of its binding.
    pub(super) fn binding(self) -> String {
        format!("bank-{}", self.as_str())
    }

    /// The name of its archetype.
    pub(super) fn archetype(self) -> String {
        format!("SELFTEST_{}", self.as_str().to_uppercase())
    }

    /// The bank, where there is one. It remembers keys for longer than is declared, as a provider should.
    pub(super) fn bank(self, token: &str) -> Option<Options> {
        let idempotency = match self {
            Mode::Runner => return None,
            Mode::Idempotent => Some(RETENTION + Duration::from_secs(5)),
            Mode::Both | Mode::Mistaken => Some(Duration::from_secs(86_400)),
            Mode::Queryable | Mode::RepeatSafe | Mode::Neither => None,
        };
        let opening_minor = 1_000_000_000_000;
        Some(Options {
            token: token.to_owned(),
            opening_minor,
            idempotency,
            latest: Some(LATEST),
            hold: HOLD,
            // What the gateway does not set free is found.
            holds_end: false,
            payers: self.challenges().then(|| Payers {
                above_minor: CHALLENGED_ABOVE,
                patience: PATIENCE,
                ..Payers::default()
            }),
            ..Options::default()
        })
    }

    /// What goes wrong at the bank, one request after the other.
    pub(super) fn faults(self, chance: &mut Chance, payments: usize) -> Vec<Injection> {
        let mut all = Vec::with_capacity(payments * 3);
        for _ in 0..payments {
            all.push(Injection::payments(self.denies(chance).unwrap_or_else(|| on_payment(chance)), 1));
            all.push(Injection::queries(on_query(chance), 1));
            all.push(Injection::refunds(on_refund(self, chance), 1));
            if self.reserves() {
                all.push(Injection::on(Target::Reservations, on_reservation(chance), 1));
                let on_capture = self.denies(chance).unwrap_or_else(|| on_reservation(chance));
                all.push(Injection::on(Target::Captures, on_capture, 1));
                all.push(Injection::on(Target::Releases, on_reservation(chance), 1));
            }
        }
        all
    }

    /// A refusal of what it does.
    fn denies(self, chance: &mut Chance) -> Option<Fault> {
        (self == Mode::Mistaken && chance.one_in(2)).then_some(Fault::RefusedAfterEffect)
    }

    /// What goes wrong with its callbacks, one after the other.
    pub(super) fn misdeliveries(self, chance: &mut Chance, callbacks: usize) -> Vec<Misdelivery> {
        (0..callbacks).map(|_| on_callback(chance)).collect()
    }

    /// The catalogue file of what has no bank.
    pub(super) fn command_file(self) -> String {
        COMMAND.replace("NAME", &self.archetype())
    }

    /// The catalogue file; `bank` is where the bank answers.
    pub(super) fn file(self, bank: &str) -> String {
        let (name, binding) = (self.archetype(), self.binding());
        let (money, amount) = match self.has_money() {
            true => (MONEY, r#"{ "$money" = "amount" }"#),
            false => ("", r#""0.01""#),
        };
        let (seconds, final_after) = (RETENTION.as_secs(), FINAL_AFTER.as_secs());
        let idempotent = format!("idempotent = {{ retention_seconds = {seconds} }}\n");
        let long = "idempotent = { retention_seconds = 86400 }\n";
        let queryable =
            format!("queryable = {{ by_our_reference = true, final_after_seconds = {final_after} }}\n");
        let (capabilities, query) = match self {
            Mode::Idempotent => (idempotent, ""),
            Mode::Queryable => (queryable, QUERY),
            Mode::Both | Mode::Mistaken => (format!("{long}{queryable}"), QUERY),
            Mode::RepeatSafe => ("repeat_safe = true\n".to_owned(), ""),
            Mode::Runner | Mode::Neither => (String::new(), ""),
        };
        let undo = if self.keeps(Level::Atp3) { UNDO } else { "" };
        let challenge = if self.challenges() { CHALLENGE } else { "" };
        let callback = if self.calls_back() { CALLBACK } else { "" };
        let reserve = match self {
            Mode::Idempotent => RESERVE.to_owned(),
            Mode::Both | Mode::Mistaken => format!("{RESERVE}{RESERVE_QUERY}"),
            _ => String::new(),
        };
        format!(
            r#"name = "{name}"
description = "A payment at the selftest's own bank"
reversible = true
guarantee_level = "atp-1"
approval = "key"
resource = "/recipient"
destination = "/recipient"
identity = ["/recipient", "/invoice"]
{money}
[cedar]
groups = ["Selftest"]
resource_type = "Account"

[retry]
max_retries = 60
backoff = "fixed"
initial_delay_seconds = 1
max_delay_seconds = 1

[schema]
required = ["recipient", "amount", "max_total", "invoice"]
properties.recipient = {{ description = "Who", type = "string", x-identifier = true }}
properties.amount = {{ description = "How much", type = "string", x-public = true }}
properties.max_total = {{ description = "At most", type = "string", x-public = true }}
properties.invoice = {{ description = "What for", type = "string", x-identifier = true }}

[binding]
provider = "http"
name = "{binding}"
base = "http://{bank}/v1"
timeout_ms = {TIMEOUT_MS}
headers = {{ Authorization = {{ "$secret" = "bank", prefix = "Bearer " }} }}

[binding.capabilities]
{capabilities}
[binding.act]
path = "/payments"
headers = {{ Idempotency-Key = {{ "$action" = "provider_key" }} }}
body = {{ recipient = {{ "$value" = "/recipient" }}, amount = {amount}, currency = "USD", reference = {{ "$action" = "reference" }} }}
{challenge}success = {{ status = [201], pointer = "/status", equals = ["settled"] }}
refused = [{{ status = [402, 422] }}]
transient = [{{ status = [429] }}]
reference = "/payment_id"
code = "/error/code"
{query}{undo}{reserve}{callback}"#
        )
    }
}

/// One request in three goes wrong.
fn on_payment(chance: &mut Chance) -> Fault {
    if !chance.one_in(3) {
        return Fault::None;
    }
    match chance.between(0, 10) {
        0 => Fault::LostBeforeEffect,
        1 | 2 => Fault::LostAfterEffect,
        // After the gateway was told that there is no such payment, and before that is final.
        3 | 4 => Fault::Late { ms: chance.between(100, MOST_LATE_MS) },
        5 => Fault::DelayEffect { ms: chance.between(50, MOST_LATE_MS) },
        // Some outlast the gateway's patience, and all overtake each other.
        6 => Fault::DelayAnswer { ms: chance.between(20, 2 * TIMEOUT_MS) },
        7 => Fault::AnswerTwice,
        8 => Fault::RateLimited { retry_after: 1 },
        9 if chance.one_in(2) => Fault::ErrorBeforeEffect,
        9 => Fault::ErrorAfterEffect,
        _ => Fault::MalformedBody,
    }
}

fn on_query(chance: &mut Chance) -> Fault {
    if !chance.one_in(4) {
        return Fault::None;
    }
    match chance.between(0, 5) {
        0 => Fault::LostBeforeEffect,
        1 => Fault::ErrorBeforeEffect,
        2 => Fault::RateLimited { retry_after: 1 },
        3 => Fault::MalformedBody,
        4 => Fault::AnswerTwice,
        _ => Fault::DelayAnswer { ms: chance.between(20, 2 * TIMEOUT_MS) },
    }
}

fn on_reservation(chance: &mut Chance) -> Fault {
    if !chance.one_in(3) {
        return Fault::None;
    }
    match chance.between(0, 8) {
        0 => Fault::LostBeforeEffect,
        1 | 2 => Fault::LostAfterEffect,
        3 => Fault::Late { ms: chance.between(100, MOST_LATE_MS) },
        4 => Fault::DelayAnswer { ms: chance.between(20, 2 * TIMEOUT_MS) },
        5 => Fault::AnswerTwice,
        6 => Fault::RateLimited { retry_after: 1 },
        7 => Fault::ErrorAfterEffect,
        _ => Fault::MalformedBody,
    }
}

fn on_callback(chance: &mut Chance) -> Misdelivery {
    match chance.between(0, 9) {
        0 => Misdelivery::Lost,
        1 => Misdelivery::Forged,
        2 => Misdelivery::Old,
        3 | 4 => Misdelivery::Twice,
        5 | 6 => Misdelivery::Late { ms: chance.between(100, 2 * MOST_LATE_MS) },
        _ => Misdelivery::Rightly,
    }
}

/// Where a bank calls back, when the gateway listens there.
pub(super) fn callback(gateway: &str, mode: Mode) -> Callback {
    let url = format!("{gateway}/v1/callbacks/{}", mode.binding());
    Callback { url, secret: CALLBACK_SECRET.to_owned() }
}

fn on_refund(mode: Mode, chance: &mut Chance) -> Fault {
    // Where a refund cannot be repeated, each lost answer is for a person: a few of those are enough.
    let many = if mode == Mode::Queryable { 8 } else { 3 };
    if !chance.one_in(many) {
        return Fault::None;
    }
    match chance.between(0, 6) {
        0 => Fault::LostBeforeEffect,
        1 => Fault::LostAfterEffect,
        2 => Fault::Late { ms: chance.between(100, MOST_LATE_MS) },
        3 => Fault::RateLimited { retry_after: 1 },
        4 => Fault::ErrorAfterEffect,
        5 => Fault::AnswerTwice,
        _ => Fault::DelayAnswer { ms: chance.between(20, 2 * TIMEOUT_MS) },
    }
}

/// How long a key is recognised in the mode with a short retention: less than a doubt may take.
pub(super) const RETENTION: Duration = Duration::from_secs(10);
/// "No such payment" is final so long after the last moment of sending.
const FINAL_AFTER: Duration = Duration::from_secs(2);
/// How long the gateway waits for an answer.
const TIMEOUT_MS: u64 = 1_000;
/// Payments that come about late do so within what the bank has declared …
const MOST_LATE_MS: u64 = 1200;
/// … and on a machine that is too busy for that, not at all.
const LATEST: Duration = Duration::from_millis(1500);

const MONEY: &str = r#"
[money]
amount = "/amount"
bound = "/max_total"
currency = "USD"
"#;

const QUERY: &str = r#"
[binding.query]
path = "/payments"
params = { reference = { "$action" = "reference" } }
found = { status = [200], pointer = "/payments/0/status", equals = ["settled"] }
refused = { status = [200], pointer = "/payments/0/status", equals = ["declined", "expired"] }
absent = { status = [200], pointer = "/payments/0", exists = false }
reference = "/payments/0/payment_id"
"#;

const UNDO: &str = r#"
[binding.snapshot]
path = ["accounts", "operating"]
success = { status = [200] }

[binding.rollback]
within_seconds = 3600
path = ["payments", { "$action" = "provider_reference" }, "refunds"]
headers = { Idempotency-Key = { "$action" = "provider_key" } }
success = { status = [201] }
refused = [{ status = [404, 409, 422] }]
transient = [{ status = [429] }]
reference = "/refund_id"
"#;

const CHALLENGE: &str = r#"challenge = { status = [202], pointer = "/status", equals = ["awaiting_payer"], url = "/challenge_url", within_seconds = 4 }
"#;

const CALLBACK: &str = r#"
[binding.callback]
secret = "bank-callbacks"
about = "/reference"
settled = { pointer = "/type", equals = ["payment.settled"] }
refused = { pointer = "/type", equals = ["payment.declined"] }
reference = "/payment_id"
"#;

const RESERVE: &str = r#"
[binding.reserve]
path = "/reservations"
headers = { Idempotency-Key = { "$action" = "provider_key" } }
body = { recipient = { "$value" = "/recipient" }, amount = { "$money" = "amount" }, currency = "USD", reference = { "$action" = "reference" } }
success = { status = [201], pointer = "/status", equals = ["reserved"] }
refused = [{ status = [402, 422] }]
transient = [{ status = [429] }]
reference = "/reservation_id"
expires = "/expires_at"

[binding.capture]
path = ["reservations", { "$action" = "provider_reference" }, "capture"]
headers = { Idempotency-Key = { "$action" = "provider_key" } }
body = { amount = { "$money" = "amount" }, reference = { "$action" = "reference" } }
success = { status = [201], pointer = "/status", equals = ["settled"] }
refused = [{ status = [402, 404, 409, 422] }]
transient = [{ status = [429] }]
reference = "/payment_id"
code = "/error/code"

[binding.release]
path = ["reservations", { "$action" = "provider_reference" }, "release"]
headers = { Idempotency-Key = { "$action" = "provider_key" } }
success = { status = [200], pointer = "/status", equals = ["released"] }
refused = [{ status = [409] }]
transient = [{ status = [429] }]
gone = [{ status = [404, 410] }]
"#;

const RESERVE_QUERY: &str = r#"
[binding.reserve.query]
path = "/reservations"
params = { reference = { "$action" = "reference" } }
found = { status = [200], pointer = "/reservations/0/status", equals = ["reserved"] }
absent = { status = [200], pointer = "/reservations/0", exists = false }
refused = [{ status = [200], pointer = "/reservations/0/status", equals = ["released", "expired"] }]
reference = "/reservations/0/reservation_id"
expires = "/reservations/0/expires_at"

[binding.capture.query]
path = "/payments"
params = { reference = { "$action" = "reference" } }
found = { status = [200], pointer = "/payments/0" }
absent = { status = [200], pointer = "/payments/0", exists = false }
reference = "/payments/0/payment_id"
"#;

/// A command that recognises its key.
const COMMAND: &str = r#"name = "NAME"
description = "A command of the selftest's own"
reversible = true
guarantee_level = "atp-1"
approval = "key"
resource = "/program"

[cedar]
groups = ["Selftest"]
resource_type = "Program"

[retry]
max_retries = 60
backoff = "fixed"
initial_delay_seconds = 1
max_delay_seconds = 1

[schema]
required = ["program", "directory"]
properties.program = { description = "The program", type = "string", pattern = "^/", x-identifier = true }
properties.arguments = { description = "Its arguments", type = "array", items = { type = "string" } }
properties.directory = { description = "Where it runs", type = "string" }

[binding]
provider = "runner"
timeout_seconds = 10
silence_seconds = 1
transient = [75]

[binding.capabilities]
idempotent = { retention_seconds = 86400 }
"#;

/// `whsec_…`, shared by the banks and the gateway.
pub(super) const CALLBACK_SECRET: &str = "whsec_dGhlIHNlbGZ0ZXN0IGFuZCBpdHMgYmFua3Mga25vdyBpdA==";
/// Payments above this have to be confirmed by their payer.
pub(super) const CHALLENGED_ABOVE: i64 = 300;
/// A payer has so long, and the gateway waits a little longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long money stays set aside: long enough to be charged in the same life or the next.
const HOLD: Duration = Duration::from_secs(8);

/// May whoever pays at this bank.
pub(super) const POLICY: &str =
    "@id(\"selftest\")\npermit (principal is Agent, action in Action::\"Selftest\", resource);\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_of_every_mode_reads() {
        for mode in Mode::ALL {
            let text = match mode {
                Mode::Runner => mode.command_file(),
                _ => mode.file("127.0.0.1:1"),
            };
            let source = action::Source { name: "mode.toml".to_owned(), text };
            let catalogue = action::Catalogue::load(false, &[source]);
            assert!(catalogue.is_ok_and(|it| it.get(&mode.archetype()).is_some()), "{mode:?}");
        }
    }

    #[test]
    fn only_the_mistaken_bank_refuses_what_it_does() {
        for mode in Mode::ALL {
            for target in [Target::Payments, Target::Captures] {
                let denies = |it: &Injection| it.on == target && it.fault == Fault::RefusedAfterEffect;
                let found = mode.faults(&mut Chance::new(7), 200).iter().any(denies);
                assert_eq!(found, mode == Mode::Mistaken, "{mode:?}, {target:?}");
            }
        }
    }

    #[test]
    fn a_seed_plans_the_same_faults_again() {
        let plan = |seed| Mode::Both.faults(&mut Chance::new(seed), 200);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        assert!(plan(7).iter().any(|it| it.fault == Fault::LostAfterEffect));
    }
}
