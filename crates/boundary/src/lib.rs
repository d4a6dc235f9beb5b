//! Decide: one pure pass from facts to a verdict.
//!
//! ```text
//!   Policies (one tenant's: Cedar, entities, hard-deny list)  ──┐
//!                                                               ├── decide ──▶ Decision { verdict, stages, record, … }
//!   Facts (action, caller, mandate and account, freeze,       ──┘                 │
//!          series, earlier effect, time)                                          └─ Pass(Permit) | Block(Reason)
//!                                                                                    | Escalate(Escalation) | Quote
//! ```
//!
//! **One pass looks at everything**: hard-deny list, freeze, mandate and the caller's own bound, completeness, anomaly,
//! duplicate, Cedar, and the nine classes of escalation. The result is the first block in the order of a receipt's
//! entries; else an escalation with every reason that fired; else a pass, which mints the [`Permit`] that nothing can
//! be carried out without.
//!
//! **Chains.** A mandate that descends from others comes with all of them, verified link by link; every one must carry
//! the action by itself, and a permit ends with the first that ends.
//!
//! **Judged again.** An action that waited for people is judged once more when enough of them agreed. Exactly the
//! reasons they were shown no longer speak against it ([`Approved`]); whatever is new does: another policy or another
//! text of the same, another earlier action, another mandate, a higher price. No block is ever lifted by approval.
//!
//! **Tiers.** A `forbid` carries `@tier`: `0-A` is asked first and alone and knows no override; `0-B` yields only to
//! another version of the policies; `1` may add `@escalate`, and then waits for a person where something else permits
//! the action; `2` is what an unannotated policy has; `3` is recorded and not enforced. A `permit` has no tier of its
//! own. The baseline of tier 0-A stands in this crate and cannot be removed.
//!
//! **Doubt is a block.** Cedar skips a policy that fails to evaluate, a `forbid` included. Here any diagnostic is
//! [`Reason::PolicyError`].
//!
//! **Observe mode** lets through what Cedar's default deny, forbids below tier 0, anomaly, duplicates and class 9 would
//! have stopped, and says so in [`Decision::observed`]. It lifts nothing else.
//!
//! **Cost.** When policies are loaded they are cut into one set per action, and what each can look at is noted: a context
//! holds only that, built from pairs. Entities are remembered per principal. Nothing on the way of an action is parsed,
//! and no JSON value is built.
//!
//! **A cycle** is an action inside a governed session ([`Cycle`]). It takes the same pass, whose steps then know more: the
//! declaration is checked, tier 0-A is asked of the gate (`Action::"ExecuteCycle"`), the action and every branch before
//! any other policy is asked of any, all of them must be permitted, and all nine classes are looked at. Each step hands
//! evidence to the next and the last hands it to the permit, so that none can be left out. What the agent declares of
//! itself can only add to what speaks against a pass.
//!
//! **What somebody could ever do** ([`Policies::could_use`]) is asked of the scopes of the policies alone, so that what is
//! out of the question need not be offered.
//!
//! This crate alone knows Cedar. It reads no clock, no store, no randomness and no file; what races (claims, debits,
//! epochs) is checked again at admission. Outside of a session there is no declared confidence, no time budget and no second
//! principal to look at, so classes 3, 5, 7 and 8 report that they are not applicable.

mod anomaly;
mod ask;
mod classes;
mod context;
mod cycle;
mod decide;
mod disclosure;
mod entities;
mod extension;
mod facts;
mod hard_deny;
mod intent;
mod objection;
mod own;
mod policies;
mod prospects;
mod reads;
mod reason;
mod record;
mod replay;
mod report;
mod rule;
mod schema;
mod series;
mod stage;
mod templates;
mod transfer;
mod verdict;

pub use cycle::{Across, Begun, Contradiction, Cycle, Flag};
pub use decide::{Decision, Named, decide, decide_by_name};
pub use disclosure::{About, Disclosed, Disclosure, Level};
pub use extension::Extension;
pub use facts::{Approved, Caller, Earlier, Facts};
pub use hard_deny::{BUILT_IN, HardDeny};
pub use intent::Footing;
pub use own::Unpermitted;
pub use policies::Policies;
pub use reason::{Class, PolicyRef, Reason, Trigger};
pub use record::Record;
pub use replay::{Comparison, Difference, Unreadable, replay};
pub use rule::{Rule, Tier};
pub use series::Series;
pub use stage::{
    BoundaryOutput, BranchOutput, CedarOutput, CycleOutput, Hit, Input, Output, Stage, StageError, StageName,
};
pub use templates::{Template, templates};
pub use transfer::{Transfer, may_transfer};
pub use verdict::{Escalation, Governance, Observed, Permit, Verdict};
