"""Two micro-batches at once, one sends while the next one loads and builds: either is killed.

Everything is real but Dagster's daemon: the test starts the runs, in the warm process, and finds
those whose process is gone, as the daemon's monitoring does every twenty seconds.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
import requests
from dagster import DagsterInstance, DagsterRun
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import WorkerStatus
from hot_home import Home, new_home, person, ticket

from orchestration import activate, definitions, jobs, lake, postgres, warm
from orchestration.assets.syncs import ACTS_TAG
from orchestration.launcher import WARM_PID_TAG
from orchestration.settings import ROOT, load_settings

pytestmark = pytest.mark.timeout(3600)

KILLS = 24
LONGEST_SECONDS = 120.0  # of a batch, on a machine that has other things to do
# Half of what is sent is answered only after a second, so that a kill falls between them.
SLOW = {"kind": "chaos", "kinds": ["hang"], "rate": 0.5, "rows": 0}


class Batches:
    """Runs of the micro-batch in a home's warm process."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.instance = DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT)))
        module = ReconstructableRepository.for_module(definitions.__name__, "defs", str(ROOT))
        self._origin = module.get_reconstructable_job(jobs.MICRO_BATCH).get_python_origin()
        self._job = definitions.defs.get_repository_def().get_job(jobs.MICRO_BATCH)

    def start(self) -> DagsterRun:
        run = self.instance.create_run_for_job(self._job, job_code_origin=self._origin)
        pid = warm.request(load_settings(), run.run_id)
        self.instance.add_run_tags(run.run_id, {WARM_PID_TAG: str(pid)})
        return self.look(run)

    def look(self, run: DagsterRun) -> DagsterRun:
        """The run as it is now; one whose process is gone has failed."""
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        health = self.instance.run_launcher.check_run_worker_health(found)
        if not found.is_finished and health.status == WorkerStatus.FAILED:
            self.instance.report_run_failed(found, "its process is gone")
            found = self.instance.get_run_by_id(run.run_id)
            assert found is not None
        return found

    def acts(self, run: DagsterRun) -> bool:
        return ACTS_TAG in self.look(run).tags

    def kill(self, run: DagsterRun) -> bool:
        """Whether there was a run to kill."""
        now = self.look(run)
        if now.is_finished:
            return False
        os.kill(int(now.tags[WARM_PID_TAG]), signal.SIGKILL)
        return True

    def until_it_acts(self, run: DagsterRun) -> None:
        self.home.until(
            lambda: self.acts(run) or self.look(run).is_finished, "acting", LONGEST_SECONDS
        )

    def until_it_ends(self, run: DagsterRun) -> DagsterRun:
        self.home.until(lambda: self.look(run).is_finished, "the end of a batch", LONGEST_SECONDS)
        return self.look(run)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with new_home() as home:
        for name, value in home.env.items():
            monkeypatch.setenv(name, value)
        load_settings.cache_clear()
        for process in ("sandbox", "collect"):
            home.start(process)
        home.until(home.answers, "the collector's start")
        home.run("build", "--no-tests")
        home.start("warm")
        home.until(lambda: warm.answers(load_settings()), "the warm process' start", 120)
        yield home
    load_settings.cache_clear()


def unpaid(name: str, number: str) -> dict[str, Any]:
    properties = {"invoice_id": number, "amount": 9.5, "currency": "EUR"}
    return {
        "type": "track",
        "event": "Payment Failed",
        "userId": name,
        "messageId": f"p-{number}",
        "timestamp": datetime.now(UTC).isoformat(),
        "properties": properties,
    }


def states_of(*syncs: str) -> dict[str, str]:
    """What became of each trigger, by the ledger."""
    connection = psycopg2.connect(postgres.start(load_settings()).ledger)
    with connection, connection.cursor() as cursor:
        cursor.execute("select trigger_id, state from actions where sync = any(%s)", (list(syncs),))
        found = dict(cursor.fetchall())
    connection.close()
    return found


def test_overlap(chaos: Any, home: Home) -> None:
    batches = Batches(home)
    people: list[str] = []

    def something_happens() -> None:
        for _ in range(chaos.lottery.randint(1, 4)):
            name = f"p{len(people)}"
            people.append(name)
            home.send(person(name), ticket(name, f"T-{name}-"), unpaid(name, f"I-{name}-"))

    faults = f"http://127.0.0.1:{home.ports['SANDBOX']}/sandbox/faults"
    requests.post(faults, json=SLOW, timeout=10).raise_for_status()
    killed: Counter[str] = Counter()
    usual = 2.0
    for _ in chaos.attempts:
        if killed.total() >= chaos.kills:
            break
        something_happens()
        sends = batches.start()
        batches.until_it_acts(sends)
        something_happens()
        builds = batches.start()
        began = time.monotonic()
        time.sleep(chaos.lottery.uniform(0.0, usual))
        # Both are under way, and the second one has not been let in.
        if not batches.look(sends).is_finished and not batches.acts(builds):
            for name in chaos.lottery.choice((["sends"], ["builds"], ["sends", "builds"])):
                if batches.kill({"sends": sends, "builds": builds}[name]):
                    killed[name] += 1
        elif batches.look(sends).is_success:
            usual = max(0.5, 0.8 * (time.monotonic() - began))
        batches.until_it_ends(sends)
        batches.until_it_ends(builds)

    requests.delete(faults, timeout=10).raise_for_status()
    assert batches.until_it_ends(batches.start()).is_success
    assert batches.until_it_ends(batches.start()).is_success  # which has nothing to do

    settings = load_settings()
    mails = {f"I-{name}-": home.arrived("smtp_email", f"{name}@example.com") for name in people}
    hooks = {f"T-{name}-": home.arrived("webhook", f"T-{name}-") for name in people}
    states = states_of("smtp_email__payment_failed", "webhook__support_ticket_opened")
    unknown = {trigger for trigger, state in states.items() if state == "unknown"}
    with lake.connect(settings) as connection:
        events = connection.execute(
            "select count(*), count(distinct message_id) from stg_events"
        ).fetchall()[0]
        built = connection.execute(
            "select count(*), count(distinct event_id) from customer_timeline"
        ).fetchall()[0]
    arrived = mails | hooks
    lost = {one for one, count in arrived.items() if count == 0 and one not in unknown}
    lost |= arrived.keys() - states.keys()
    doubled = {one for one, count in arrived.items() if count > 1}
    chaos.report(
        kills=killed.total(),
        lost=len(lost) + 3 * len(people) - events[1],
        duplicates=len(doubled) + events[0] - events[1],
        unknown=len(unknown),
        more=f"the one that sent {killed['sends']}, the one that built {killed['builds']}; "
        f"{len(people)} messages to each of two channels",
    )
    assert killed["sends"] and killed["builds"]
    assert lost == set()
    assert doubled == set()
    assert events == built == (3 * len(people), 3 * len(people))
    assert len(unknown) <= killed["sends"]
    plans = activate.run_syncs(settings, "hubspot__customer_health", dry_run=True)
    assert [plan.planned for plan in plans] == [{"unchanged": len(people)}]
