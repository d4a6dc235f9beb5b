"""Three agents share a pool of time. One has some to spare, one runs short, and one is revoked amid its work."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from stage import perform, table

PEOPLE = {
    "ada": "agent", "ben": "agent", "cleo": "agent",
    "ada-clerk": "agent", "ada-scout": "agent",
    "olga": "operator", "audra": "auditor",
}


INVOICES = {"ada": 3, "ben": 3, "cleo": 20}


def story(stage):
    """Pay the month's invoices together."""
    mandates, sessions = {}, {}
    for name, time in {"ada": "120s", "ben": "60s", "cleo": "8s"}.items():
        mandates[name] = stage.has(
            "olga", "mandate", "issue", "--subject", name, "--scope", "Payments", "--cap", "20000.00 USD",
            "--max-duration", time, "--ttl", "8h")
        sessions[name] = sit_down(stage, name, mandates[name])
    cluster = stage.has("ada", "cluster", "form", sessions["ada"].id)["cluster_id"]
    for name in ("ben", "cleo"):
        stage.has(name, "cluster", "join", cluster, sessions[name].id)
    seen(stage, "The pool, as each of the three sees it:", "before", sessions)

    share(stage, cluster, sessions)
    revoke(stage, mandates, sessions)

    print("\nThe bank can be asked again. cleo goes on, with the time that ben gave.")
    stage.at_bank("DELETE", "/v1/faults")
    pay(stage, sessions["cleo"], "cleo", range(4, INVOICES["cleo"] + 1))
    sessions["cleo"].close("COMPLETE")
    said = sessions["ada"].until_over()
    print(f"And ada's third invoice: {said['response']['kind']}. It was under way when she was revoked, and was paid once.")

    table(["session of", "records", "ended as", "left", "because of"], [
        [name, len(session.records()), session.show()["completion"], session.show()["halt"], trigger(session)]
        for name, session in sessions.items()])
    print(f"\nThe bank's own list: {len(stage.payments())} payments.")


def share(stage, cluster, sessions):
    """One has time to spare, and another will not get far with hers."""
    print("\nben is done early; cleo has 20 invoices, and hardly more than the time for 8.")
    pay(stage, sessions["ben"], "ben", range(1, INVOICES["ben"] + 1))
    pay(stage, sessions["cleo"], "cleo", range(1, 4))
    stage.has("ben", "cluster", "transfer", cluster, "--from", sessions["ben"].id, "--to", sessions["cleo"].id, "--seconds", "50")
    seen(stage, "What ben handed on, as each of the three sees it before the next step:", "after", sessions)
    sessions["ben"].close("COMPLETE")


def revoke(stage, mandates, sessions):
    """One is revoked amid its work, and so is whoever works for it."""
    print("\nada has a clerk and a scout, who act under what she hands on to them.")
    for name in ("ada-clerk", "ada-scout"):
        mandates[name] = stage.has("ada", "mandate", "delegate", jti(mandates["ada"]), "--subject", name, "--max-duration", "20s")
        sessions[name] = sit_down(stage, name, mandates[name])
    pay(stage, sessions["ada"], "ada", (1, 2))
    pay(stage, sessions["ada-scout"], "scout", (1, 2))
    tell("ada-clerk", sessions["ada-clerk"].cycle("clerk-1", *invoice("clerk", 1, "6000.00")), "a large one, which waits for a person")
    stage.at_bank("POST", "/v1/faults", {"on": "payments", "fault": "lost_after_effect"})
    stage.at_bank("POST", "/v1/faults", {"on": "queries", "fault": "error_before_effect", "count": 1000000})
    tell("ada", sessions["ada"].cycle("ada-3", *invoice("ada", 3)), "sent; the bank's answer is lost, and the bank cannot be asked")

    print("\nada's laptop is stolen.")
    ended = stage.has("olga", "mandate", "revoke", jti(mandates["ada"]), "--reason", "the laptop was stolen")
    print(f"  {len(ended['sessions'])} sessions end; under way in them: {len(ended['unsettled'])}")
    tell("ada-clerk", sessions["ada-clerk"].until_over(), "nobody is asked about the large one any more")
    under_way = sessions["ada"].asked
    for name in ("ada", "ada-clerk", "ada-scout"):
        tell(name, sessions[name].cycle(f"{name}-late", *invoice(name, 9)), "whoever has the laptop tries")
    sessions["ada"].asked = under_way


def sit_down(stage, name, mandate):
    session = stage.agent(name).open(mandate["token"])
    session.declare("invoices-" + name, "pay", ["Payments"])
    return session


def pay(stage, session, name, numbers):
    for number in numbers:
        said = session.cycle(f"{name}-{number}", *invoice(name, number))
        if said["governance_result"] != "PROCEED":
            raise SystemExit(f"{name} cannot pay invoice {number}: {said}")
        stage.keep_receipt(session.agent, said)
    print(f"{name} pays {len(numbers)} invoices; {session.context()['time_budget_remaining']} seconds are left")


def invoice(name, number, amount=None):
    amount = amount or f"{40 + number}.00"
    return "PAYMENT_TRANSFER", {"recipient": f"vendor-{name}-{number}", "amount_usd": amount, "max_total_usd": amount}


def seen(stage, what, when, sessions):
    """The pool in the Context Package of each: the very same for all."""
    print("\n" + what)
    names = {session.id: name for name, session in sessions.items()}
    for name, session in sessions.items():
        cluster = stage.keep_context(session, f"{name}-{when}")["cluster_context"]
        left = ", ".join(f"{names[it['session_id']]} {it['time_budget_remaining']}" for it in cluster["members"])
        print(f"  {name}: {cluster['budget_pool']} seconds ({left})")


def tell(name, said, how):
    answer = said["response"]
    print(f"{name}: {said['governance_result']} ({answer.get('code') or answer['kind']}): {how}")


def trigger(session):
    return next((it["ale_fields"]["trigger"] for it in session.records() if it["ale_type"] == "ALE-001"), None)


def jti(mandate):
    return mandate["mandate"]["jti"]


if __name__ == "__main__":
    perform(__file__, PEOPLE, story)
