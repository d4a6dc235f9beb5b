//! Which of the bank's requests a fault is for.

use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Injection};

/// Which requests a fault waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Well-formed payments.
    #[default]
    Payments,
    /// Reads of payments, by reference or by id.
    Queries,
    /// Refunds of payments.
    Refunds,
    /// Reservations.
    Reservations,
    /// What pays out a reservation.
    Captures,
    /// What sets a reservation free.
    Releases,
}

impl Injection<Target> {
    /// The fault for the next `count` payments.
    pub fn payments(fault: Fault, count: u64) -> Injection<Target> {
        Injection { fault, count, on: Target::Payments }
    }

    /// The fault for the next `count` refunds.
    pub fn refunds(fault: Fault, count: u64) -> Injection<Target> {
        Injection { fault, count, on: Target::Refunds }
    }

    /// The fault for the next `count` requests of this kind.
    pub fn on(on: Target, fault: Fault, count: u64) -> Injection<Target> {
        Injection { fault, count, on }
    }

    /// The fault for the next `count` queries.
    pub fn queries(fault: Fault, count: u64) -> Injection<Target> {
        Injection { fault, count, on: Target::Queries }
    }
}
