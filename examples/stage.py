"""What the stories stand on: the demo's bank, a gateway in front of it, keys for everybody, and the program `countersign`.

Bank and gateway are processes of their own and end with the story. What is left lies in one folder: `data` (the gateway's
store), `bank.jsonl` (the bank's own list of payments), `receipts`, `jwks.json`, `issuer.pin` and a key for each in `keys`.
"""

import argparse
import contextlib
import json
import os
import pathlib
import secrets
import shlex
import shutil
import subprocess
import sys
import urllib.request

from agent import OPENER, Agent

PROGRAM = os.environ.get("COUNTERSIGN", "countersign")


def perform(here, people, story):
    """Sets the stage for a story, tells it, and leaves the folder."""
    parser = argparse.ArgumentParser(description=story.__doc__.splitlines()[0])
    parser.add_argument("--dir", type=pathlib.Path, required=True, help="a folder to make and to leave everything in")
    folder = parser.parse_args().dir.absolute()
    if folder.exists():
        sys.exit(f"{folder} is there already: remove it, or name another with --dir")
    if not shutil.which(PROGRAM):
        sys.exit(f"there is no program `{PROGRAM}`: cargo install --path crates/cli, or say where it is in COUNTERSIGN")
    with contextlib.ExitStack() as running:
        story(Stage(pathlib.Path(here).parent, folder, people, running))


class Stage:
    def __init__(self, example, folder, people, running):
        self.folder = folder
        folder.mkdir(parents=True)
        self.token = secrets.token_hex(16)
        bank = [PROGRAM, "demo-bank", "--journal", str(folder / "bank.jsonl")]
        self.bank = self._serve(running, bank, "bank", {"DEMO_BANK_TOKEN": self.token})
        self._files(example)
        config = ["--config", str(folder / "countersign.toml")]
        self.keys = {}
        for name, role in people.items():
            made = [PROGRAM, "keys", *config, "api", "create", "--subject", name, "--role", role]
            self.keys[name] = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
            self._private(f"keys/{name}", self.keys[name])
        serve = [PROGRAM, "serve", *config, "--listen", "127.0.0.1:0", "--until-stdin-closes"]
        self.url = self._serve(running, serve, "gateway", {})
        self._keep("jwks.json", self.agent(None).document("/.well-known/jwks.json"))
        self._keep("issuer.pin", self._run(None, ["keys", "pin"]).encode())

    def agent(self, name):
        return Agent(self.url, self.keys.get(name))

    def has(self, name, *command):
        """Has somebody type a command; what it answers."""
        print(f"{name}$ countersign {shlex.join(command)}")
        return json.loads(self._run(name, command))

    def at_bank(self, method, path, body=None):
        """Something is done at the bank itself, beside the gateway."""
        headers = {"Authorization": "Bearer " + self.token, "Content-Type": "application/json"}
        request = urllib.request.Request(self.bank + path, json.dumps(body).encode(), headers, method=method)
        OPENER.open(request, timeout=30).close()

    def payments(self):
        """The bank's own list."""
        return [json.loads(line) for line in (self.folder / "bank.jsonl").read_text().splitlines()]

    def keep_receipt(self, agent, said):
        """Lays the receipt of what an agent was answered in the folder."""
        name = said["response"]["receipt_id"]
        receipt = agent.document(f"/v1/receipts/{name}")
        self._keep(f"receipts/{name}.json", receipt)
        return json.loads(receipt)

    def keep_context(self, session, name):
        """Lays a Context Package in the folder, as the gateway sent it."""
        context = session.agent.document(f"/v1/sessions/{session.id}/context")
        self._keep(f"contexts/{name}.json", context)
        return json.loads(context)

    def _files(self, example):
        """The example's files, as they stand but for where the bank and the folder are."""
        self._private("bank-token", self.token)
        files = [example.parent / "countersign.toml", *example.glob("catalogue/*/*"), *example.glob("policies/*/*")]
        for file in files:
            text = file.read_text().replace("BANK", self.bank.removeprefix("http://"))
            base = example.parent if file.parent == example.parent else example
            self._keep(file.relative_to(base), text.replace("HERE", str(self.folder)).encode())

    def _serve(self, running, command, name, more):
        """A process that says where it listens, and that ends when we close its stdin."""
        log = running.enter_context(open(self.folder / f"{name}.log", "w"))
        process = subprocess.Popen(
            command, env={**os.environ, **more}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        running.callback(process.wait)
        running.callback(process.stdin.close)
        line = process.stdout.readline()
        if not line:
            sys.exit(f"the {name} does not listen: see {log.name}")
        return line.strip().removeprefix("listening on ")

    def _run(self, name, command):
        who = {"COUNTERSIGN_API_KEY": self.keys[name]} if name else {}
        done = subprocess.run(
            [PROGRAM, *command], env={**os.environ, "COUNTERSIGN_URL": self.url, **who}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"countersign {shlex.join(command)} failed:\n{done.stderr}")
        return done.stdout

    def _keep(self, name, data):
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def _private(self, name, text):
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as to:
            to.write(text)


def table(head, rows):
    """Rows in columns below a heading; numbers stand to the right."""
    rows = [[("–" if cell is None else str(cell)) for cell in row] for row in rows]
    right = [all(row[at].replace(",", "").replace(".", "").replace("–", "0").isdigit() for row in rows) for at in range(len(head))]
    width = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]

    def line(cells):
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, width, right)).rstrip()

    print("\n".join(["", line(head), "  ".join("─" * w for w in width), *map(line, rows)]))
