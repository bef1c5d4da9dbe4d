"""kill -9 of a real process while it pushes: at every moment, nothing twice and nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from syncs_support import Reply, Request, Vendor, alerts, contacts, contacts_spec, make_pusher
from syncs_support import message_spec as spec_of

from syncs.ledger import Ledger

CHILD = """
import sys
import duckdb
sys.path.insert(0, {here!r})
from pathlib import Path
from syncs import destinations, templates
from dataclasses import replace
from syncs_support import contacts_spec, make_pusher, message_spec
from syncs.ledger import Ledger

load = destinations.load
destinations.load = lambda name: replace(load(name), rate=1e6)
templates.FOLDERS.insert(0, Path({templates!r}))
lake = duckdb.connect({lake!r}, read_only=True)
pusher = make_pusher(Ledger({ledger!r}), {vendor!r})
for spec in (contacts_spec(), message_spec(template="plain")):
    pusher.run(spec, lake)
"""


@pytest.mark.parametrize("kills", [4])
def test_killed_in_the_middle_of_a_push(
    kills: int, ledger_url: str, vendor: Vendor, plain_template: str, tmp_path: Path
) -> None:
    ledger = Ledger(ledger_url)
    ledger.ensure()
    arrived: Counter[str] = Counter()
    child: list[subprocess.Popen[bytes]] = []
    lottery = random.Random(7)
    fuse = [0]
    mutex = threading.Lock()

    def answer(request: Request) -> Reply:
        if "slack" not in request.path:
            return Reply()
        with mutex:
            arrived[request.json["text"]] += 1
            fuse[0] -= 1
            if fuse[0] == 0 and child:
                os.kill(child[0].pid, signal.SIGKILL)
        return Reply(body={"ok": True})

    vendor.answer = answer
    path = tmp_path / "lake.duckdb"
    with duckdb.connect(str(path)) as lake:
        contacts(lake, {f"{n}@x.example": 0.1 for n in range(150)})
        alerts(lake, [str(n) for n in range(60)])
    script = CHILD.format(
        here=str(Path(__file__).parent),
        templates=str(tmp_path),
        lake=str(path),
        ledger=ledger_url,
        vendor=vendor.url,
    )
    killed = 0
    for _ in range(kills):
        fuse[0] = lottery.randint(1, 8)
        child[:] = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)]
        _, complaint = child[0].communicate(timeout=60)
        assert child[0].returncode in (0, -signal.SIGKILL), complaint.decode()
        killed += child[0].returncode == -signal.SIGKILL
    child.clear()
    assert killed >= kills - 1

    with duckdb.connect(str(path)) as lake:
        pusher = make_pusher(ledger, vendor.url)
        assert pusher.run(contacts_spec(), lake).states == {"delivered": 150}
        states = pusher.run(spec_of(template=plain_template), lake).states
    assert max(arrived.values()) == 1, "a message arrived twice"
    assert states.get("unknown", 0) == killed
    assert sum(states.values()) == 60 and set(states) == {"delivered", "unknown"}
    assert len(arrived) >= states["delivered"]
    ledger.close()
