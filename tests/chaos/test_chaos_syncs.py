"""Pushing to a vendor that fails by lottery, by processes that are killed at any instant."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest
from fickle import Fickle
from syncs_support import contacts

from syncs import operations
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
        self.triggers: dict[str, datetime] = {}  # when each fired
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
        last = first + lottery.randint(2, 8)
        self.triggers |= {f"t{n}": datetime.now(UTC) for n in range(first, last)}
        with duckdb.connect(str(self.lake)) as connection:
            contacts(connection, self.versions)
            connection.execute(
                "create or replace table alerts as select 'c-' || t as customer_id,"
                " t as trigger_id, fired_at, fired_at + interval '6 hours' as expires_at,"
                " '#care' as channel, 'words ' || t as words"
                " from (select unnest($names) as t, unnest($moments) as fired_at)",
                {"names": list(self.triggers), "moments": list(self.triggers.values())},
            )

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


def push_and_kill(world: World, fickle: Fickle, lottery: random.Random, usual: float) -> str:
    """One push of what is new, killed around some request or at some moment: says when, if so."""
    world.change(lottery)
    by_request = lottery.random() < 0.7
    # The fuse is set before the process starts: its kill finds it in this list.
    process: list[subprocess.Popen[bytes]] = []
    fickle.kill_at(lottery.randint(1, 14) if by_request else 0, lambda: process[0].kill())
    process.append(world.begin())
    if not by_request:
        time.sleep(lottery.uniform(0.2, 1.2) * usual)
        process[0].kill()
    killed = world.end(process[0])
    fickle.kill_at(0, lambda: None)
    return "" if not killed else "within a request" if by_request else "at some moment"


def come_to_rest(world: World, fickle: Fickle) -> None:
    fickle.fault_share = 0.0
    for _ in range(2):  # the second one has nothing to do
        assert not world.end(world.begin())


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
        started = time.monotonic()
        when = push_and_kill(world, fickle, chaos.lottery, usual)
        killed += when != ""
        in_request += when == "within a request"
        if not when:
            usual = time.monotonic() - started

    come_to_rest(world, fickle)
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


def test_restored_ledgers(
    chaos: Any, new_database: Callable[[], str], fickle: Fickle, tmp_path: Path
) -> None:
    """Between the kills the ledger falls back to an older copy of itself, again and again."""
    ledger_url = new_database()
    ledger = Ledger(ledger_url)
    ledger.ensure()
    world = World(tmp_path, ledger_url, fickle)
    killed = restores = 0
    forgotten: set[str] = set()  # triggers of before the last restore
    for _ in chaos.attempts:
        if killed == chaos.kills:
            break
        killed += push_and_kill(world, fickle, chaos.lottery, 2.0) != ""
        with ledger.engine.begin() as connection:
            if chaos.lottery.random() < 0.4:
                connection.exec_driver_sql("drop table if exists backup")
                connection.exec_driver_sql("create table backup as table actions")
            has_copy = connection.exec_driver_sql("select to_regclass('backup')").scalar()
            restore = has_copy is not None and chaos.lottery.random() < 0.3
            if restore:
                connection.exec_driver_sql("truncate actions, attempts")
                connection.exec_driver_sql("insert into actions table backup")
        if restore:
            operations.restored(ledger)
            restores += 1
            forgotten = set(world.triggers)

    come_to_rest(world, fickle)
    states = {
        sync: states_by_trigger(ledger_url, sync) for sync in ("slack__alert", "webhook__ticket")
    }
    unknown = sum(state == "unknown" for found in states.values() for state in found.values())
    # Of what fired before a restore nobody knows whether it was sent: it must not be sent again.
    settled = {"delivered", "unknown"}
    lost = {
        trigger
        for found in states.values()
        for trigger in world.triggers
        if found.get(trigger) not in (settled | ({"suppressed"} if trigger in forgotten else set()))
    }
    lost |= {key for key, v in world.versions.items() if fickle.contacts.get(key) != v}
    doubled = sum(count > 1 for count in fickle.posts.values())
    doubled += sum(len(ids) > 1 for ids in fickle.hooks.values())
    chaos.report(
        kills=killed,
        lost=len(lost),
        duplicates=doubled,
        unknown=unknown,
        more=f"{restores} restores, older over newer {fickle.older_over_newer}, "
        f"{len(world.triggers)} messages to each channel",
    )
    assert killed == chaos.kills and restores > 0
    assert lost == set()
    assert doubled == 0
    assert fickle.older_over_newer == 0
    ledger.close()
