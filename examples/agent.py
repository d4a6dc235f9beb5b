"""An agent's side of a governed session: plain HTTP with the agent's own key, and nothing else.

This is all that an agent in any language needs to know of Countersign: open a session under a mandate, declare what you are
about, ask for one action at a time, look at the answer, close.
"""

import json
import time
import urllib.error
import urllib.request

# The gateway is near: no proxy between it and us.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# Answers that are not the last word on an action: a person or the bank has it.
OPEN = ("held", "pending_settlement")
# So long it is asked what became of an action, in seconds.
PATIENCE = 60


class Agent:
    """Somebody with a key, who speaks to a gateway."""

    def __init__(self, url, key):
        self.url, self.key = url, key

    def get(self, path):
        return json.loads(self.document(path))

    def post(self, path, body, headers=None):
        return json.loads(self._ask("POST", path, json.dumps(body).encode(), headers or {}))

    def document(self, path):
        """Byte for byte: what is signed is no longer itself when it was parsed and printed again."""
        return self._ask("GET", path, None, {})

    def open(self, token):
        """A governed session under a mandate."""
        return Session(self, granted(self.post("/v1/sessions", {"delegation_token": token})))

    def _ask(self, method, path, body, headers):
        if self.key:
            headers = {"Authorization": "Bearer " + self.key, **headers}
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with OPENER.open(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as refusal:  # a refusal is an answer, too, and says why
            return refusal.read()


class Session:
    """A session of an agent, with the number of its last step."""

    def __init__(self, agent, opened):
        self.agent, self.opened = agent, opened
        self.id, self.step, self.intent, self.asked = opened["session_id"], 0, None, None

    def declare(self, intent, goal_type, goal_scope):
        """Says what the next steps are about; signed and recorded before any of them is judged."""
        self.step, self.intent = self.step + 1, intent
        return granted(self.agent.post(self._path("intents"), {
            "intent_id": intent, "goal_type": goal_type, "goal_scope": goal_scope, "reasoning_mode": "CHAIN",
            "session_id": self.id, "mandate_id": self.opened["mandate_id"],
            "gec_instance_id": self.opened["gec_instance_id"],
            "action_sequence_number": self.step, "expires_at": "2100-01-01T00:00:00Z",
        }))

    def cycle(self, key, archetype, constraints):
        """One action. `key` names it for good: asked again under the same key it is the same action, done once."""
        self.step += 1
        self.asked = key, {
            "archetype": archetype, "constraints": constraints,
            "intent_id": self.intent, "action_sequence_number": self.step,
        }
        return granted(self._ask())

    def until_over(self):
        """What became of the last action, once nothing of it is open: neither people nor the bank."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            said = self._ask()
            if said.get("code") != "EP_IDEMPOTENCY_IN_FLIGHT" and granted(said)["response"]["kind"] not in OPEN:
                return said
            time.sleep(0.1)
        raise SystemExit(f"nothing became of it in {PATIENCE} seconds: {said}")

    def context(self):
        """What the gateway will judge the next step with."""
        return self.agent.get(self._path("context"))

    def close(self, completion):
        return granted(self.agent.post(self._path("close"), {"completion": completion}))

    def show(self):
        return self.agent.get(self._path(""))

    def records(self):
        """Every signed record of it, in order."""
        records, cursor = [], ""
        while cursor is not None:
            page = self.agent.get(self._path("record") + "?limit=1000" + cursor)
            records += page["items"]
            cursor = page["next_cursor"] and "&cursor=" + page["next_cursor"]
        return records

    def _ask(self):
        key, body = self.asked
        return self.agent.post(self._path("cycles"), body, {"Idempotency-Key": key})

    def _path(self, part):
        return f"/v1/sessions/{self.id}/{part}".rstrip("/")


def granted(answer):
    """An answer, unless it is an error: of what is no action, nothing goes on without it."""
    if "code" in answer or "error" in answer:
        raise SystemExit(f"the gateway refuses: {answer}")
    return answer
