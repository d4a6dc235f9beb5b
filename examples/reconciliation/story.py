"""A bank's reconciliation agent meets an item that its mandate does not cover."""

import csv
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from stage import perform, table

PEOPLE = {"reconciler": "agent", "olga": "operator", "audra": "auditor"}
STATEMENT = pathlib.Path(__file__).parent / "statement.csv"


def story(stage):
    """Settle what is open between this bank and its correspondents, item by item, over the API."""
    granted = stage.has(
        "olga", "mandate", "issue", "--subject", "reconciler", "--scope", "Payments", "--resource", "nostro-*",
        "--cap", "100000.00 USD", "--ttl", "8h")
    agent = stage.agent("reconciler")
    items = list(csv.DictReader(STATEMENT.open()))
    print(f"\nreconciler: {len(items)} open items on the statement")

    sessions, refused = [], None
    while items:
        session = agent.open(granted["token"])
        settled = settle(stage, session, items, f"statement-{len(sessions) + 1}")
        items = items[len(settled):]
        if items:  # the session was halted; the item is a person's, and the rest goes on in another session
            refused = items.pop(0)
        else:
            session.close("COMPLETE")
        sessions.append((session, settled))

    payments = stage.payments()
    table(["session", "settled", "USD", "records", "ended as", "left"], [
        [session.id, len(settled), f"{sum(float(item['amount_usd']) for item in settled):,.2f}",
         len(session.records()), session.show()["completion"], session.show()["halt"]]
        for session, settled in sessions])
    print(f"\nThe bank's own list: {len(payments)} payments, "
          f"{sum(payment['recipient'] == refused['account'] for payment in payments)} to {refused['account']}.")
    evidence(sessions[0][0])


def settle(stage, session, items, intent):
    """Settles items until one is refused; those that were settled."""
    session.declare(intent, "reconcile", ["Payments"])
    for at, item in enumerate(items):
        said = session.cycle(item["item"], "PAYMENT_TRANSFER", {
            "recipient": item["account"], "amount_usd": item["amount_usd"], "max_total_usd": item["amount_usd"],
            "note": item["item"],
        })
        receipt = stage.keep_receipt(session.agent, said)
        if said["governance_result"] != "PROCEED":
            print(f"reconciler: {item['item']}, {item['amount_usd']} USD to {item['account']}: {said['governance_result']}, "
                  f"{said['response']['details']['reasons'][0]}; classes {fired(receipt)} fired, and the session is halted")
            return items[:at]
    return items


def fired(receipt):
    """The classes of escalation that its entry `boundary` lists."""
    boundary = next(entry for entry in receipt["entries"] if entry["stage"] == "boundary")
    return ", ".join(map(str, boundary["output"]["classesFired"]))


def evidence(session):
    """The end of the session's record: what the bank shows whoever asks."""
    print(f"\nThe record of {session.id}, from the last item that was settled on:")
    records = session.records()
    number = {record["record_id"]: record["session_sequence_number"] for record in records}
    table(["no.", "decision", "event", "why", "caused by"], [
        [record["session_sequence_number"], record["governance_decision"], record["ale_type"], why(record),
         number.get(record["causal_parent_id"])]
        for record in records[-5:]])


def why(record):
    fields = record["ale_fields"] or {}
    return fields.get("trigger") or record["completion_state"] or ", ".join(record["cedar_policy_ids"])


if __name__ == "__main__":
    perform(__file__, PEOPLE, story)
