//! One world to decide in: tests say what is unusual about it and what they expect.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "each test file uses its part"
)]

use action::{Action, ActionId, Catalogue, Environment, Request, Source, Subject, Tenant};
use countersign_boundary::{
    Across, Approved, Begun, Caller, Contradiction, Cycle, Decision, Earlier, Facts, Policies, Series,
    Verdict, decide,
};
use mandate::{
    Account, Claims, Confidence, ContextPackage, Declaration, IntentRefusal, Mandate, ReasoningMode,
    Remaining, Session, SessionEvent, SpendCap,
};
use serde_json::{Value, json};

/// Friday the first of May 2026, noon, UTC.
pub(crate) const NOON: i64 = 1_777_636_800_000;

pub(crate) struct World {
    pub(crate) policies: Policies,
    pub(crate) caller: Caller,
    pub(crate) mandate: Option<Mandate>,
    pub(crate) mandate_refusal: Option<mandate::Refusal>,
    pub(crate) account: Account,
    pub(crate) series: Series,
    pub(crate) frozen: Option<String>,
    pub(crate) first_seen_destination: bool,
    pub(crate) earlier: Option<Earlier>,
    pub(crate) approved: Option<Approved>,
    pub(crate) governed: Option<Governed>,
    pub(crate) observe: bool,
    pub(crate) now_ms: i64,
    pub(crate) environment: Environment,
}

impl World {
    /// Everything is as usual, and the given policies decide.
    pub(crate) fn with(policies: &str) -> World {
        World::of(load(policies, "[]").unwrap_or_else(|mistakes| panic!("{mistakes:?}")))
    }

    pub(crate) fn of(policies: Policies) -> World {
        let subject = Subject::parse("agent-7").unwrap();
        World {
            policies,
            caller: Caller { tenant: Tenant::default(), subject, is_human: false },
            mandate: Some(Mandate::of(&claims()).unwrap()),
            mandate_refusal: None,
            account: Account::new("m-1"),
            series: series(20, 10_000),
            frozen: None,
            first_seen_destination: false,
            earlier: None,
            approved: None,
            governed: None,
            observe: false,
            now_ms: NOON,
            environment: Environment::Production,
        }
    }

    pub(crate) fn decide(&self, action: &Action) -> Decision {
        decide(&self.policies, &self.facts(action))
    }

    pub(crate) fn facts<'a>(&'a self, action: &'a Action) -> Facts<'a> {
        Facts {
            environment: self.environment,
            action,
            verb: None,
            target: None,
            caller: &self.caller,
            mandate: self.mandate.as_ref().map(|mandate| (mandate, &self.account)),
            ancestors: &[],
            mandate_refusal: self.mandate_refusal.clone(),
            frozen: self.frozen.as_deref(),
            quarantined: None,
            series: &self.series,
            first_seen_destination: self.first_seen_destination,
            earlier: self.earlier,
            charges: None,
            approved: self.approved.as_ref(),
            cycle: self.governed.as_ref().map(Governed::cycle),
            observe: self.observe,
            now_ms: self.now_ms,
            request_hash: [1; 32],
            salt: [2; 32],
        }
    }

    #[track_caller]
    pub(crate) fn check(&self, action: &Action, expected: &str) {
        assert_eq!(told(&self.decide(action)), expected);
    }
}

/// What is known of a cycle; usual unless a test says what is not.
pub(crate) struct Governed {
    pub(crate) session: Session,
    pub(crate) declaration: Result<Declaration, IntentRefusal>,
    pub(crate) context: ContextPackage,
    pub(crate) issuer: String,
    pub(crate) begun: Option<Begun>,
    pub(crate) steps_before: u64,
    pub(crate) confidence: Option<&'static str>,
    pub(crate) self_assessment: Option<&'static str>,
    pub(crate) branches: Vec<Action>,
    pub(crate) chain: Result<(), mandate::Refusal>,
    pub(crate) approved_by: Vec<Box<str>>,
    pub(crate) contradicts: Option<ActionId>,
    pub(crate) across: Option<Across>,
    pub(crate) extension_asked: bool,
}

impl Governed {
    /// A cycle of an active session that stands on a declaration in this mode.
    pub(crate) fn usual(mode: ReasoningMode) -> Governed {
        let subject = Subject::parse("agent-7").unwrap();
        let session = Session::open("s-1", subject.clone(), "m-1", NOON);
        Governed {
            session: session.step(SessionEvent::Declared { sequence: 1 }).unwrap(),
            declaration: Ok(Declaration {
                intent_id: "i-1".into(),
                session_id: "s-1".into(),
                mandate_id: "m-1".into(),
                gec_instance_id: "https://gw.example".into(),
                goal_type: "reconcile".into(),
                goal_scope: vec!["Payments".into(), "DATA_EXPORT".into()],
                mode,
                constrained_by: None,
                sequence: 1,
                expires_ms: NOON + 60_000,
                context_fingerprint: None,
                subject,
            }),
            context: ContextPackage {
                cycle_id: "c-1".into(),
                session_id: "s-1".into(),
                mandate_id: "m-1".into(),
                intent_id: Some("i-1".into()),
                sequence: 2,
                reasoning_mode: Some(mode),
                remaining: Remaining {
                    time_seconds: 3_600,
                    compute_units: Some(50),
                    memory_bytes: None,
                    storage_bytes: None,
                    network_egress_bytes: None,
                },
                delegation: None,
                cluster: None,
                prior_denial_count: 0,
            },
            issuer: "https://gw.example".into(),
            begun: None,
            steps_before: 0,
            confidence: None,
            self_assessment: None,
            branches: Vec::new(),
            chain: Ok(()),
            approved_by: Vec::new(),
            contradicts: None,
            across: None,
            extension_asked: false,
        }
    }

    pub(crate) fn declare(&mut self) -> &mut Declaration {
        self.declaration.as_mut().unwrap()
    }

    fn cycle(&self) -> Cycle<'_> {
        Cycle {
            session: &self.session,
            issuer: &self.issuer,
            context: &self.context,
            declaration: self.declaration.as_ref().map_err(|refusal| *refusal),
            begun: self.begun,
            steps_before: self.steps_before,
            confidence: self.confidence.map(|text| Confidence::declared(&text.parse().unwrap()).unwrap()),
            self_assessment: self.self_assessment,
            branches: &self.branches,
            chain: self.chain.clone(),
            approved_by: &self.approved_by,
            contradicts: self.contradicts.map(|earlier| Contradiction { earlier, principal: "bob" }),
            across: self.across,
            extension_asked: self.extension_asked,
        }
    }
}

/// `pass`, `quote`, `block WORD`, `escalate WORD WORD`; and what observe mode let through, in brackets.
pub(crate) fn told(decision: &Decision) -> String {
    let verdict = match &decision.verdict {
        Verdict::Pass(_) => "pass".to_owned(),
        Verdict::Quote => "quote".to_owned(),
        Verdict::Block(reason) => format!("block {}", reason.word()),
        Verdict::Escalate(escalation) => {
            let words: Vec<&str> = escalation.triggers.iter().map(|trigger| trigger.word()).collect();
            format!("escalate {}", words.join(" "))
        }
    };
    match decision.observed {
        Some(observed) => format!("{verdict} [{} {}]", observed.would_be, observed.code),
        None => verdict,
    }
}

pub(crate) const ALLOW_ALL: &str = r#"@id("all") permit (principal, action, resource);"#;

pub(crate) fn load(policies: &str, entities: &str) -> Result<Policies, Vec<action::Mistake>> {
    load_with(policies, entities, &Catalogue::builtin())
}

pub(crate) fn load_with(
    policies: &str,
    entities: &str,
    catalogue: &Catalogue,
) -> Result<Policies, Vec<action::Mistake>> {
    Policies::load(&[source("test.cedar", policies)], &[source("entities.json", entities)], &[], catalogue)
}

pub(crate) fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.into() }
}

pub(crate) fn claims() -> Claims {
    Claims {
        jti: "m-1".into(),
        iss: "alice".into(),
        sub: "agent-7".into(),
        aud: "https://gw.example".into(),
        iat: 0,
        exp: 4_000_000_000,
        mandate_scope: ["Payments", "Travel", "Data", "Test"].map(str::to_owned).to_vec(),
        spend_cap: Some(SpendCap { amount: "100000.00".into(), currency: "USD".into() }),
        ..Claims::default()
    }
}

/// `n` amounts of `minor` units each, a day ago.
pub(crate) fn series(n: usize, minor: i64) -> Series {
    let mut series = Series::default();
    (0..n).for_each(|_| series.push(NOON - 86_400_000, minor));
    series
}

pub(crate) fn pay(amount: &str) -> Action {
    pay_with(json!({"recipient": "acct-1", "amount_usd": amount, "max_total_usd": amount}))
}

pub(crate) fn pay_with(constraints: Value) -> Action {
    action(json!({"archetype": "PAYMENT_TRANSFER", "constraints": constraints}))
}

pub(crate) fn export() -> Action {
    action(json!({"archetype": "DATA_EXPORT", "constraints": {
        "dataset": "crm.customers", "format": "csv", "destination": "s3://reports", "purpose": "report"}}))
}

pub(crate) fn fly() -> Action {
    action(json!({"archetype": "FLIGHT_BOOKING", "constraints": {
        "origin": "BER", "destination": "LIS", "depart_date": "2026-06-01", "passengers": 1,
        "cabin": "economy", "max_total_usd": "900.00"}}))
}

pub(crate) fn action(request: Value) -> Action {
    action_of(request, &Catalogue::builtin())
}

pub(crate) fn action_of(request: Value, catalogue: &Catalogue) -> Action {
    let request = Request::from_value(request).unwrap();
    let archetype = catalogue.get(&request.archetype).expect("archetype is in the catalogue").clone();
    Action::of(request, &archetype).unwrap()
}

pub(crate) fn usd(minor: i64) -> action::Money {
    action::Money::new(minor, action::Currency::of("USD").unwrap()).unwrap()
}

pub(crate) fn earlier() -> Earlier {
    Earlier { id: ActionId::new(NOON as u64 - 60_000, [9; 10]), at_ms: NOON - 60_000 }
}
