//! What the agent asks for, one step after the other, and what must come of it.

use serde_json::{Value, json};

use super::narrator::{Narrator, promise};
use super::world::{Answer, World};
use crate::error::Result;

/// A receipt of the story: a file name for it, and its id.
pub(super) struct Told {
    pub(super) file: &'static str,
    pub(super) receipt_id: String,
}

/// Tells all steps that need the gateway; what came out wrong is marked, and the story goes on.
///
/// # Errors
/// The gateway or the bank no longer answers.
pub(super) fn tell(world: &World, narrator: &mut Narrator) -> Result<Vec<Told>> {
    let mut receipts = Receipts::default();
    let first = receipts.keep("1-executed", paid(world, narrator)?);
    replayed(world, narrator, &first)?;
    receipts.keep("3-over-the-cap", over_the_cap(world, narrator)?);
    receipts.keep("4-hard-denied", hard_denied(world, narrator)?);
    receipts.keep("5-incomplete", incomplete(world, narrator)?);
    receipts.keep("6-duplicate", duplicate(world, narrator, &first)?);
    receipts.keep("7-frozen", frozen(world, narrator)?);
    receipts.keep("8-thawed", thawed(world, narrator)?);
    if narrator.steps().iter().any(|step| !step.ok) {
        crate::out::note(format_args!("the gateway's log:\n{}", world.log()));
    }
    Ok(receipts.0)
}

fn paid(world: &World, narrator: &mut Narrator) -> Result<Answer> {
    let answer = world.ask("demo-1", PAYMENT, &payment(SUPPLIER, "120.00"))?;
    let promises = vec![
        promise("executed", is(&answer, 200, "executed")),
        promise("a receipt was signed", answer.body["receipt_id"].is_string()),
        promise(
            "the bank moved 120.00 USD, once",
            (world.balance(SUPPLIER)?, world.payments()?) == (12_000, 1),
        ),
    ];
    narrator.step(
        "payment_executed",
        "A payment within the mandate",
        "pay 120.00 USD to acct-supplier, key demo-1",
        &answer,
        promises,
    )?;
    Ok(answer)
}

fn replayed(world: &World, narrator: &mut Narrator, first: &Answer) -> Result<()> {
    let answer = world.ask("demo-1", PAYMENT, &payment(SUPPLIER, "120.00"))?;
    let promises = vec![
        promise(
            "marked as a replay, and the same answer byte for byte",
            answer.replayed && answer.bytes == first.bytes,
        ),
        promise(
            "the bank's balance did not move",
            (world.balance(SUPPLIER)?, world.payments()?) == (12_000, 1),
        ),
    ];
    narrator.step(
        "replayed",
        "The same request again, as after a lost connection",
        "the same, key demo-1 again",
        &answer,
        promises,
    )
}

fn over_the_cap(world: &World, narrator: &mut Narrator) -> Result<Answer> {
    let answer = world.ask("demo-3", PAYMENT, &payment("acct-landlord", "900.00"))?;
    let promises = vec![
        promise("blocked: the mandate does not reach that far", blocked(&answer, "EP_DELEGATION_BLOCK")),
        promise("no money moved", world.payments()? == 1),
    ];
    narrator.step(
        "over_cap",
        "More than the mandate allows",
        "pay 900.00 USD to acct-landlord, key demo-3",
        &answer,
        promises,
    )?;
    Ok(answer)
}

fn hard_denied(world: &World, narrator: &mut Narrator) -> Result<Answer> {
    let answer = world.ask("demo-4", "delete_audit_log", &json!({"before": "2026-01-01"}))?;
    let promises = vec![promise(
        "blocked, whatever mandate or policy says, and the refusal is signed",
        blocked(&answer, "EP_BOUNDARY_BLOCK") && answer.body["receipt_id"].is_string(),
    )];
    narrator.step(
        "hard_denied",
        "Something no agent may ever do",
        "delete_audit_log, key demo-4",
        &answer,
        promises,
    )?;
    Ok(answer)
}

fn incomplete(world: &World, narrator: &mut Narrator) -> Result<Answer> {
    let answer = world.ask("demo-5", PAYMENT, &json!({"amount_usd": "40.00", "max_total_usd": "40.00"}))?;
    let missing = &answer.body["details"]["missing"][0];
    let promises = vec![
        promise("blocked", blocked(&answer, "EP_INCOMPLETE")),
        promise(
            format!(
                "told what is missing: {} ({})",
                missing["field"].as_str().unwrap_or("nothing"),
                missing["description"].as_str().unwrap_or("no description")
            ),
            missing["field"] == "/recipient",
        ),
    ];
    narrator.step(
        "incomplete",
        "A payment to nobody",
        "pay 40.00 USD, no recipient, key demo-5",
        &answer,
        promises,
    )?;
    Ok(answer)
}

fn duplicate(world: &World, narrator: &mut Narrator, first: &Answer) -> Result<Answer> {
    let answer = world.ask("demo-6", PAYMENT, &payment(SUPPLIER, "120.00"))?;
    let earlier = &answer.body["details"]["earlier_transaction"];
    let promises = vec![
        promise("stopped as a probable duplicate", blocked(&answer, "EP_PROBABLE_DUPLICATE")),
        promise(
            "the first payment is named",
            earlier.is_string() && earlier == &first.body["transaction_id"],
        ),
        promise("no money moved", (world.balance(SUPPLIER)?, world.payments()?) == (12_000, 1)),
    ];
    let asked = "pay 120.00 USD to acct-supplier, now under key demo-6";
    narrator.step(
        "duplicate",
        "The agent forgot, planned anew, and asks for the same payment",
        asked,
        &answer,
        promises,
    )?;
    Ok(answer)
}

fn frozen(world: &World, narrator: &mut Narrator) -> Result<Answer> {
    world.freeze()?;
    let answer = world.ask("demo-7", PAYMENT, &payment("acct-printer", "80.00"))?;
    let promises = vec![
        promise("blocked", blocked(&answer, "EP_FROZEN")),
        promise("no money moved", world.payments()? == 1),
    ];
    narrator.step(
        "frozen",
        "An admin has frozen everything",
        "pay 80.00 USD to acct-printer, key demo-7",
        &answer,
        promises,
    )?;
    Ok(answer)
}

fn thawed(world: &World, narrator: &mut Narrator) -> Result<Answer> {
    world.thaw()?;
    let answer = world.ask("demo-8", PAYMENT, &payment("acct-printer", "80.00"))?;
    let promises = vec![
        promise("executed", is(&answer, 200, "executed")),
        promise(
            "the bank moved 80.00 USD, once",
            (world.balance("acct-printer")?, world.payments()?) == (8_000, 2),
        ),
    ];
    narrator.step(
        "thawed",
        "… and thawed it again",
        "pay 80.00 USD to acct-printer, key demo-8",
        &answer,
        promises,
    )?;
    Ok(answer)
}

#[derive(Default)]
struct Receipts(Vec<Told>);

impl Receipts {
    /// Notes the answer's receipt, if it has one, under a name for people.
    fn keep(&mut self, file: &'static str, answer: Answer) -> Answer {
        if let Some(id) = answer.body["receipt_id"].as_str() {
            self.0.push(Told { file, receipt_id: id.to_owned() });
        }
        answer
    }
}

fn payment(recipient: &str, amount: &str) -> Value {
    json!({"recipient": recipient, "amount_usd": amount, "max_total_usd": amount, "note": "countersign demo"})
}

fn is(answer: &Answer, status: u16, kind: &str) -> bool {
    answer.status == status && answer.body["kind"] == kind
}

fn blocked(answer: &Answer, code: &str) -> bool {
    is(answer, 403, "blocked") && answer.body["code"] == code
}

const PAYMENT: &str = "PAYMENT_TRANSFER";
const SUPPLIER: &str = "acct-supplier";
