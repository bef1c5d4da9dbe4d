"""Random interleavings of plan, push, faults and crashes against what the vendor really saw."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syncs_support import (
    Reply,
    Request,
    Vendor,
    alerts,
    contacts,
    contacts_spec,
    make_pusher,
    message_spec,
)

from syncs.claims import Worker
from syncs.ledger import Ledger

KEYS = ["a@x.example", "b@x.example", "c@x.example"]

FAULTS = st.sampled_from(["fine", "fine", "busy", "after_effect", "before_effect", "refuse_one"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from(KEYS), st.integers(0, 5)),
        st.tuples(st.just("leave"), st.sampled_from(KEYS)),
        st.tuples(st.just("fire")),
        st.tuples(st.just("run"), st.lists(FAULTS, max_size=4)),
        st.tuples(st.just("crash"), st.integers(1, 3), st.sampled_from(["before", "after"])),
    ),
    min_size=3,
    max_size=14,
)


class Crash(BaseException):
    """The process dies here: nothing catches it, nothing is written after it."""


class World:
    """The vendor with its own memory, and the reference: what may and must be true of it."""

    def __init__(self, vendor: Vendor, ledger: Ledger) -> None:
        self.lake = duckdb.connect()
        self.vendor, self.ledger = vendor, ledger
        self.faults: list[str] = []
        self.crm: dict[str, float] = {}
        self.versions: dict[str, list[float]] = {}
        self.posted: Counter[str] = Counter()
        self.fired: list[str] = []
        self.model: dict[str, float] = {}
        self.clock = 0
        vendor.answer = self.answer
        contacts(self.lake, {})
        alerts(self.lake, [])

    def answer(self, request: Request) -> Reply:
        fault = self.faults.pop(0) if self.faults else "fine"
        if fault == "busy":
            return Reply(503)
        if fault == "before_effect":
            return Reply(drop=True)
        refused = self.take(request, refuse=fault == "refuse_one")
        if fault == "after_effect":
            return Reply(drop=True)
        return refused

    def take(self, request: Request, *, refuse: bool) -> Reply:
        if "slack" in request.path:
            if refuse:
                return Reply(body={"ok": False, "error": "is_archived"})
            self.posted[request.json["text"]] += 1
            return Reply(body={"ok": True})
        errors, results = [], []
        for number, row in enumerate(request.json["inputs"]):
            if refuse and number == 0:
                errors.append({"message": "no", "context": {"objectWriteTraceId": [str(number)]}})
                continue
            results.append({"objectWriteTraceId": str(number)})
            value = float(row["properties"]["score"])
            # Values carry the time at which the model had them, so an older one is seen at once.
            assert value >= self.crm.get(row["id"], value), "an older value over a newer one"
            self.crm[row["id"]] = value
        if not errors:
            return Reply(body={"results": results})
        return Reply(207, {"results": results, "errors": errors, "numErrors": len(errors)})

    def change(self, key: str, value: int) -> None:
        self.clock += 1
        self.model[key] = self.clock + value / 10
        contacts(self.lake, self.model)

    def leave(self, key: str) -> None:
        self.model.pop(key, None)
        contacts(self.lake, self.model)

    def fire(self) -> None:
        self.fired.append(f"t{len(self.fired)}")
        alerts(self.lake, self.fired)

    def run(self, faults: list[str]) -> None:
        self.faults = list(faults)
        for spec in SPECS:
            make_pusher(self.ledger, self.vendor.url).run(spec, self.lake, retry_budget=0.05)

    def crash(self, at: int, where: str) -> None:
        """Die at the `at`-th settling, before or after the vendor was asked."""
        counted = [0]
        claim, settle = Worker.claim, Worker.settle

        def dying_claim(worker: Worker, *args: Any, **options: Any) -> Any:
            batch = claim(worker, *args, **options)
            counted[0] += bool(batch.send)
            if where == "before" and counted[0] == at:
                raise Crash
            return batch

        def dying_settle(worker: Worker, *args: Any, **options: Any) -> None:
            if where == "after" and counted[0] == at:
                raise Crash
            settle(worker, *args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Worker, "claim", dying_claim)
            patch.setattr(Worker, "settle", dying_settle)
            with contextlib.suppress(Crash):
                self.run([])

    def settle(self) -> None:
        """Let every backoff pass and run without faults until nothing is due."""
        for _ in range(3):
            with self.ledger._engine.begin() as connection:
                connection.exec_driver_sql(
                    "update actions set next_attempt_at = now() where next_attempt_at is not null"
                )
            self.run([])


SPECS = [contacts_spec(), message_spec(template="plain")]


@pytest.fixture(scope="module")
def shared(new_database: Callable[[], str]) -> Any:
    """A vendor and a ledger for all examples: each example empties the tables."""
    ledger = Ledger(new_database())
    ledger.ensure()
    vendor = Vendor()
    yield vendor, ledger
    vendor.close()
    ledger.close()


@given(steps=STEPS)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_nothing_lost_nothing_doubled_nothing_older(
    steps: list[Any], shared: tuple[Vendor, Ledger], plain_template: str
) -> None:
    vendor, ledger = shared
    with ledger._engine.begin() as connection:
        connection.exec_driver_sql("truncate actions, attempts, sync_runs")
    world = World(vendor, ledger)
    for step, *arguments in steps:
        getattr(world, step)(*arguments)
    world.settle()

    # State: the vendor holds exactly the model's newest value of every row that is in it.
    assert {key: world.crm.get(key) for key in world.model} == world.model
    # Messages: no one twice; each one arrived, or stands in the ledger as unknown or refused.
    assert all(count == 1 for count in world.posted.values())
    with ledger._engine.connect() as connection:
        states = dict(
            connection.exec_driver_sql(
                "select trigger_id, state from actions where mode = 'message'"
            ).all()
        )
    assert set(states) == set(world.fired)
    for trigger, state in states.items():
        assert state in ("delivered", "unknown", "rejected")
        if state == "delivered":
            assert world.posted[f"words {trigger}"] == 1
        if state == "rejected":
            assert world.posted[f"words {trigger}"] == 0
    world.lake.close()
    assert threading.active_count() < 50
