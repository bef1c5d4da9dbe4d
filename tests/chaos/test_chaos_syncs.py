"""Pushing to a vendor that fails by lottery, by processes that are killed at any instant."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest
from fickle import Fickle
from syncs_support import alerts, contacts

from syncs.ledger import Ledger

pytestmark = pytest.mark.timeout(1200)

WORKER = Path(__file__).with_name("push_worker.py")
CONTACTS = 450  # several requests at a time


@pytest.fixture
def fickle(chaos: Any) -> Iterator[Fickle]:
    vendor = Fickle(random.Random(chaos.lottery.random()))
    yield vendor
    vendor.close()


class World:
    """The sync models' rows, which change before every push, and the process that pushes them."""

    def __init__(self, folder: Path, ledger_url: str, vendor: Fickle) -> None:
        (folder / "plain.j2").write_text("{% block text %}{{ words }}{% endblock %}")
        self.lake = folder / "lake.duckdb"
        self.versions: dict[str, float] = {}
        self.triggers: list[str] = []
        self._command = [
            *(sys.executable, str(WORKER), str(self.lake), ledger_url, vendor.url, str(folder)),
        ]
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("SIGNALBOX_")}
        self._output = folder / "worker.out"

    def change(self, lottery: random.Random) -> None:
        """Newer values for some contacts, and a few new messages for each of the two channels."""
        for number in lottery.sample(range(CONTACTS), lottery.randint(1, CONTACTS)):
            email = f"c{number}@x.example"
            self.versions[email] = self.versions.get(email, 0.0) + 1.0
        first = len(self.triggers)
        self.triggers += [f"t{n}" for n in range(first, first + lottery.randint(2, 8))]
        with duckdb.connect(str(self.lake)) as connection:
            contacts(connection, self.versions)
            alerts(connection, self.triggers, lifetime="6 hours")

    def begin(self) -> subprocess.Popen[bytes]:
        with self._output.open("wb") as output:
            return subprocess.Popen(
                self._command, env=self._env, stdout=output, stderr=subprocess.STDOUT
            )

    def end(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for it; whether it was killed. Fails with the process' words if it failed."""
        status = process.wait(timeout=120)
        assert status in (0, -signal.SIGKILL), self._output.read_text()
        return status != 0


def states_by_trigger(ledger_url: str, sync: str) -> dict[str, str]:
    with psycopg2.connect(ledger_url) as connection, connection.cursor() as cursor:
        cursor.execute("select trigger_id, state from actions where sync = %s", (sync,))
        found = dict(cursor.fetchall())
    connection.close()
    return found


def test_syncs(chaos: Any, new_database: Callable[[], str], fickle: Fickle, tmp_path: Path) -> None:
    ledger_url = new_database()
    ledger = Ledger(ledger_url)
    ledger.ensure()
    world = World(tmp_path, ledger_url, fickle)
    killed = in_request = 0
    usual = 2.0
    for _ in chaos.attempts:
        if killed == chaos.kills:
            break
        world.change(chaos.lottery)
        by_request = chaos.lottery.random() < 0.7
        # The fuse is set before the process starts: its kill finds it in this list.
        process: list[subprocess.Popen[bytes]] = []
        fickle.kill_at(
            chaos.lottery.randint(1, 14) if by_request else 0, lambda one=process: one[0].kill()
        )
        started = time.monotonic()
        process.append(world.begin())
        if not by_request:
            time.sleep(chaos.lottery.uniform(0.2, 1.2) * usual)
            process[0].kill()
        if world.end(process[0]):
            killed += 1
            in_request += by_request
        else:
            usual = time.monotonic() - started

    fickle.kill_at(0, lambda: None)
    fickle.fault_share = 0.0
    for _ in range(2):  # the second one has nothing to do
        assert not world.end(world.begin())

    triggers = set(world.triggers)
    words = {f"words {trigger}": trigger for trigger in world.triggers}
    chat = states_by_trigger(ledger_url, "slack__alert")
    hooks = states_by_trigger(ledger_url, "webhook__ticket")
    delivered = {trigger for trigger, state in chat.items() if state == "delivered"}
    unknown = {trigger for trigger, state in chat.items() if state == "unknown"}
    seen = {words[text] for text in fickle.posts}
    hooked = {words[text] for text in fickle.hooks}
    broken = {words[text] for text in fickle.broken}
    lost = {
        "state": {key for key, v in world.versions.items() if fickle.contacts.get(key) != v},
        "chat": (triggers - delivered - unknown) | (delivered - seen),
        "webhook": triggers - hooked,
    }
    doubled = sum(count > 1 for count in fickle.posts.values())
    doubled += sum(len(ids) > 1 for ids in fickle.hooks.values())
    repeats = sum(sum(ids.values()) - 1 for ids in fickle.hooks.values())
    chaos.report(
        kills=killed,
        lost=sum(map(len, lost.values())),
        duplicates=doubled,
        unknown=len(unknown),
        more=f"{in_request} kills within a request, older over newer {fickle.older_over_newer}, "
        f"{len(world.triggers)} messages to each channel; of the unknown the server saw "
        f"{len(unknown & seen)} and not {len(unknown - seen)}; {repeats} webhooks came again under "
        f"their own id; faults {sum(fickle.faults.values())}",
    )
    assert killed == chaos.kills
    assert lost == {"state": set(), "chat": set(), "webhook": set()}
    assert doubled == 0
    assert fickle.older_over_newer == 0
    assert ledger.counts("hubspot__health") == {"delivered": len(world.versions)}
    assert hooks == dict.fromkeys(triggers, "delivered")
    # Unknown is exactly what has no answer: failed in the vendor's hands, or caught by a kill,
    # which finds one message at most in sending.
    assert delivered | unknown == triggers
    assert seen - delivered <= unknown
    assert broken <= unknown
    assert len(unknown - broken) <= killed
    ledger.close()
