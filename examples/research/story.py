"""A research agent has ten hours, over as many sessions as it takes. They run out in the third."""

import collections
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from stage import perform, table

PEOPLE = {"scholar": "agent", "lin": "operator", "audra": "auditor"}
# A cycle is debited the time that it took, a second at least. A purchase takes milliseconds, so each costs one second, and
# six of them make an hour of this story: the budget of ten hours is 60 seconds, real ones.
HOUR = 6
PUBLISHERS = ["press-delft", "press-kyoto", "press-oxford", "press-turin"]


def story(stage):
    """Buy and read articles until the survey is written, or the time is over."""
    granted = stage.has(
        "lin", "mandate", "issue", "--subject", "scholar", "--scope", "Research",
        "--cap", "500.00 USD", "--max-duration", f"{10 * HOUR}s", "--ttl", "30d")
    mandate = granted["mandate"]["jti"]
    scholar = Scholar(stage, granted["token"])
    days = []

    for day in ("Monday", "Tuesday"):
        session = scholar.sit_down(day)
        scholar.work(session, 4 * HOUR)
        session.close("COMPLETE")
        days.append((day, session))

    session = scholar.sit_down("Wednesday")
    days.append(("Wednesday", session))
    said = scholar.work(session, 4 * HOUR)
    tell("Wednesday", said)

    elsewhere = scholar.sit_down("a way around")
    days.append(("a way around", elsewhere))
    tell("a way around", scholar.read(elsewhere))
    elsewhere.close("PARTIAL")

    print("\nlin looks at what there is so far, and gives two hours more.")
    more = stage.has("lin", "mandate", "extend", mandate, "--by", f"{2 * HOUR}s", "--reason", "finish the chapter on methods")
    print(f"  {more['left']['seconds']} seconds are left, and {len(more['resumed'])} step that waited goes on")
    scholar.hear(session)
    said = scholar.work(session, 4 * HOUR)
    tell("Wednesday", said)

    print("\nlin has enough: she calls off the step that waits, and closes the session as it stands.")
    stage.has("lin", "actions", "cancel", said["cycle_id"])
    stage.has("lin", "session", "close", session.id, "--as", "partial", "--reason", "good enough for the review")
    tell("Wednesday", scholar.read(session))

    left = stage.has("lin", "mandate", "show", mandate)
    table(["session", "articles", "records", "ended as"], [
        [day, scholar.bought[session.id], len(session.records()), session.show()["completion"]]
        for day, session in days])
    print(f"\n{10 * HOUR} seconds were granted and {left['mandate']['granted_seconds']} on top; {left['left']['seconds']} are left. "
          f"The bank's own list: {len(stage.payments())} articles paid.")


class Scholar:
    """The agent: reads on, one article after the other."""

    def __init__(self, stage, token):
        self.stage, self.token, self.agent = stage, token, stage.agent("scholar")
        self.article, self.bought = 0, collections.Counter()

    def sit_down(self, day):
        session = self.agent.open(self.token)
        session.declare("survey-" + day.lower().replace(" ", "-"), "survey", ["Research"])
        return session

    def work(self, session, seconds):
        """Reads until so much of the budget is used up, or the gateway does not go along; what it said last."""
        until = session.context()["time_budget_remaining"] - seconds
        while True:
            said = self.read(session)
            if said["governance_result"] != "PROCEED" or session.context()["time_budget_remaining"] <= until:
                return said

    def read(self, session):
        """One article, the next that was not asked for yet."""
        self.article += 1
        doi, publisher = f"10.5555/survey.{self.article:03}", PUBLISHERS[self.article % len(PUBLISHERS)]
        price = f"{2 + self.article % 4}.50"
        return self.kept(session, session.cycle(
            doi, "ARTICLE_PURCHASE", {"doi": doi, "publisher": publisher, "price_usd": price}))

    def hear(self, session):
        """What became of the article that was asked for when there was no time."""
        return self.kept(session, session.until_over())

    def kept(self, session, said):
        if said["response"]["kind"] == "executed":
            self.bought[session.id] += 1
        if said["response"].get("receipt_id"):
            self.stage.keep_receipt(self.agent, said)
        return said


def tell(day, said):
    answer = said["response"]
    print(f"scholar, {day}: {said['governance_result']} ({answer.get('code') or answer['kind']}), "
          f"{said['time_budget_remaining']} seconds left")


if __name__ == "__main__":
    perform(__file__, PEOPLE, story)
