//! What is counted and timed, by name. Every metric of this crate is declared here.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::alert::Alert;
use crate::outcome::Kind;
use crate::{Code, Error};

/// The metrics of one gateway.
pub(crate) struct Metrics {
    registry: Registry,
    outcomes: Family<KindLabel, Counter<u64, AtomicU64>>,
    errors: Family<CodeLabel, Counter<u64, AtomicU64>>,
    replays: Counter<u64, AtomicU64>,
    evaluations: Family<VerdictLabel, Counter<u64, AtomicU64>>,
    alerts: Family<AlertLabel, Counter<u64, AtomicU64>>,
    notices: Family<NoticeLabel, Counter<u64, AtomicU64>>,
    notices_waiting: Family<DestinationLabel, Gauge<i64, AtomicI64>>,
    usage_unread: Counter<u64, AtomicU64>,
    stages: Family<StageLabel, Histogram, fn() -> Histogram>,
    /// Actions between admission and settlement.
    pub in_flight: Gauge<i64, AtomicI64>,
}

/// A part of an action's way, timed on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Body to action.
    Request,
    /// The read transaction.
    Facts,
    /// The boundary.
    Decide,
    /// Commit 1, waiting included.
    Admit,
    /// The provider.
    Act,
    /// Chain and signature.
    Prove,
    /// Commit 2, waiting included.
    Settle,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlertLabel {
    alert: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NoticeLabel {
    destination: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DestinationLabel {
    destination: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    step: &'static str,
}

impl Metrics {
    pub(crate) fn new(environment: &'static str) -> Metrics {
        let labels = [("environment".into(), environment.into())].into_iter();
        let mut registry = Registry::with_prefix_and_labels("countersign", labels);
        let outcomes = Family::default();
        registry.register("actions", "Outcomes said, by kind", outcomes.clone());
        let errors = Family::default();
        registry.register("errors", "Requests that never became an action, by code", errors.clone());
        let replays = Counter::default();
        registry.register("replays", "Requests answered from a stored reply", replays.clone());
        let evaluations = Family::default();
        registry.register(
            "evaluations",
            "What was only asked about, by what it would come to",
            evaluations.clone(),
        );
        let alerts = Family::default();
        registry.register("alerts", "What a person should look at, by kind", alerts.clone());
        let notices = Family::default();
        registry.register("notices", "Tries to tell a destination, by what came of them", notices.clone());
        let notices_waiting = Family::default();
        registry.register("notices_waiting", "Notices that wait to be told", notices_waiting.clone());
        let usage_unread = Counter::default();
        registry.register(
            "usage_unread",
            "What providers say was used up, and is not understood in whole or in part",
            usage_unread.clone(),
        );
        let stages = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit("step", "Time of each step of an action", Unit::Seconds, stages.clone());
        let in_flight = Gauge::default();
        registry.register("in_flight", "Actions between admission and settlement", in_flight.clone());
        Metrics {
            registry,
            outcomes,
            errors,
            replays,
            evaluations,
            alerts,
            notices,
            notices_waiting,
            usage_unread,
            stages,
            in_flight,
        }
    }

    pub(crate) fn outcome(&self, kind: Kind) {
        self.outcomes.get_or_create(&KindLabel { kind: kind.as_str() }).inc();
    }

    pub(crate) fn error(&self, code: Code) {
        self.errors.get_or_create(&CodeLabel { code: code.as_str() }).inc();
    }

    pub(crate) fn replay(&self) {
        self.replays.inc();
    }

    pub(crate) fn evaluation(&self, verdict: &'static str) {
        self.evaluations.get_or_create(&VerdictLabel { verdict }).inc();
    }

    pub(crate) fn alert(&self, alert: Alert) {
        self.alerts.get_or_create(&AlertLabel { alert: alert.as_str() }).inc();
    }

    pub(crate) fn notice(&self, destination: &str, outcome: &'static str) {
        let destination = destination.to_owned();
        self.notices.get_or_create(&NoticeLabel { destination, outcome }).inc();
    }

    pub(crate) fn notices_waiting(&self, destination: &str, waiting: u64) {
        let label = DestinationLabel { destination: destination.to_owned() };
        self.notices_waiting.get_or_create(&label).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    pub(crate) fn usage_unread(&self) {
        self.usage_unread.inc();
    }

    pub(crate) fn step(&self, step: Step, took: Duration) {
        self.stages.get_or_create(&StageLabel { step: step.as_str() }).observe(took.as_secs_f64());
    }

    /// The Prometheus text of everything.
    pub(crate) fn encode(&self) -> Result<String, Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)
            .map_err(|_| Error::new(Code::Unavailable, "the metrics could not be written"))?;
        Ok(out)
    }
}

impl Step {
    const fn as_str(self) -> &'static str {
        match self {
            Step::Request => "request",
            Step::Facts => "facts",
            Step::Decide => "decide",
            Step::Admit => "admit",
            Step::Act => "act",
            Step::Prove => "prove",
            Step::Settle => "settle",
        }
    }
}

/// From ten microseconds to half a minute: a step in memory and a slow provider both show.
fn histogram() -> Histogram {
    let bounds = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
    Histogram::new(bounds)
}
