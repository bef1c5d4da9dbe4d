"""Random interleavings of plan, push, faults, crashes and people against what the vendor saw."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syncs_support import (
    Reply,
    Request,
    Vendor,
    club_spec,
    contacts,
    contacts_spec,
    make_pusher,
    message_spec,
)

from syncs import destinations, operations
from syncs.claims import Worker
from syncs.ledger import Ledger

pytestmark = pytest.mark.long

KEYS = ["a@x.example", "b@x.example", "c@x.example"]
CUSTOMERS = ["c0", "c1", "c2"]
SPECS = [contacts_spec(), club_spec(), message_spec(template="plain")]
SYNCS = [spec.name for spec in SPECS]

FAULTS = st.sampled_from(["fine", "fine", "busy", "after_effect", "before_effect", "refuse_one"])
#: What happens all the time, and what people and accidents do now and then.
USUAL = [
    st.tuples(st.just("change"), st.sampled_from(KEYS), st.integers(0, 5)),
    st.tuples(st.just("leave"), st.sampled_from(KEYS)),
    st.tuples(st.just("fire"), st.sampled_from(CUSTOMERS)),
    st.tuples(st.just("run"), st.lists(FAULTS, max_size=5)),
]
SELDOM = [
    st.tuples(st.just("crash"), st.integers(1, 3), st.sampled_from(["before", "after"])),
    st.tuples(st.just("merge"), st.sampled_from(CUSTOMERS), st.sampled_from(CUSTOMERS)),
    st.tuples(st.just("waive"), st.sampled_from(SYNCS)),
    st.tuples(st.just("retry"), st.sampled_from(SYNCS)),
    st.tuples(st.just("pause"), st.sampled_from(SYNCS)),
    st.tuples(st.just("resume"), st.sampled_from(SYNCS)),
    st.tuples(st.just("back_up")),
    st.tuples(st.just("restore")),
]
STEPS = st.lists(st.one_of(*USUAL, st.one_of(*SELDOM)), min_size=5, max_size=16)

A, FIRED = ("change", KEYS[0], 1), ("fire", "c0")
RUN: tuple[str, list[str]] = ("run", [])
#: Stories that chance tells too seldom.
STORIES: dict[str, list[Any]] = {
    "who was asked in and may have come in leaves": [
        A, ("run", ["after_effect", "after_effect"]), ("leave", KEYS[0])
    ],
    "who was killed into leaves": [A, ("crash", 2, "after"), ("leave", KEYS[0])],
    "in, out and in again": [A, RUN, ("leave", KEYS[0]), RUN, A, RUN, ("leave", KEYS[0])],
    "merged after it was sent": [FIRED, RUN, ("merge", "c0", "c1"), RUN, ("merge", "c1", "c2")],
    "merged while it waits": [FIRED, ("pause", SYNCS[2]), RUN, ("merge", "c0", "c1")],
    "sent after the backup": [FIRED, ("run", ["busy"] * 9), ("back_up",), RUN, ("restore",)],
    "fired after the backup": [("back_up",), FIRED, RUN, ("restore",), RUN],
    "in again after the backup": [
        A, RUN, ("leave", KEYS[0]), RUN, ("back_up",), A, RUN, ("leave", KEYS[0]), ("restore",)
    ],
    "waived, and changed": [A, ("run", ["refuse_one"] * 9), ("waive", SYNCS[0]), RUN, A],
}  # fmt: skip


class Crash(BaseException):
    """The process dies here: nothing catches it, nothing is written after it."""


class World:
    """The vendor with its own memory, and the reference: what may and must be true of it."""

    def __init__(self, vendor: Vendor, ledger: Ledger) -> None:
        self.lake = duckdb.connect()
        self.vendor, self.ledger = vendor, ledger
        self.faults: list[str] = []
        self.crm: dict[str, float] = {}
        self.club: dict[str, float] = {}
        self.posted: Counter[str] = Counter()
        self.fired: dict[str, tuple[str, datetime]] = {}  # trigger → who fired it, when
        self.customers = {name: name for name in CUSTOMERS}  # id → the customer it belongs to
        self.model: dict[str, float] = {}
        self.clock = 0
        self.restores = 0
        self.strangers: set[str] = set()  # in the club, and a restored ledger does not know it
        vendor.answer = self.answer
        contacts(self.lake, {})
        self.derive()

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
        if "club" in request.path:
            if refuse:
                return Reply(400, {"message": "no"})
            for row in request.json:
                if request.path.endswith("leave"):
                    self.club.pop(row["email"], None)
                else:
                    self.put(self.club, row["email"], row["score"])
            return Reply()
        errors, results = [], []
        for number, row in enumerate(request.json["inputs"]):
            if refuse and number == 0:
                errors.append({"message": "no", "context": {"objectWriteTraceId": [str(number)]}})
                continue
            results.append({"objectWriteTraceId": str(number)})
            self.put(self.crm, row["id"], float(row["properties"]["score"]))
        if not errors:
            return Reply(body={"results": results})
        return Reply(207, {"results": results, "errors": errors, "numErrors": len(errors)})

    @staticmethod
    def put(values: dict[str, float], key: str, value: float) -> None:
        # Values carry the time at which the model had them, so an older one is seen at once.
        assert value >= values.get(key, value), "an older value over a newer one"
        values[key] = value

    def change(self, key: str, value: int) -> None:
        self.clock += 1
        self.model[key] = self.clock + value / 10
        contacts(self.lake, self.model)

    def leave(self, key: str) -> None:
        self.model.pop(key, None)
        contacts(self.lake, self.model)

    def fire(self, name: str) -> None:
        self.fired[f"t{len(self.fired)}"] = (name, datetime.now(UTC))
        self.derive()

    def merge(self, name: str, other: str) -> None:
        gone, left = self.customers[name], self.customers[other]
        for one, customer in self.customers.items():
            self.customers[one] = left if customer == gone else customer
        self.derive()

    def derive(self) -> None:
        """The models as the warehouse builds them: triggers under the customers of now."""
        self.lake.execute(
            "create or replace table alerts (customer_id varchar, trigger_id varchar,"
            " fired_at timestamptz, expires_at timestamptz, channel varchar, words varchar);"
            "create or replace table identity_edges (id_key varchar, other_id_key varchar);"
            "create or replace table identity_map (id_key varchar, customer_id varchar,"
            " solo_customer_id varchar, is_shared boolean)"
        )
        for trigger, (name, moment) in self.fired.items():
            self.lake.execute(
                "insert into alerts values (?, ?, ?, now() + interval 1 hour, '#care', ?)",
                [self.customers[name], trigger, moment, f"words {trigger}"],
            )
        for name, customer in self.customers.items():
            row = [f"user:{name}", customer, name, False]
            self.lake.execute("insert into identity_map values (?, ?, ?, ?)", row)

    def run(self, faults: list[str]) -> None:
        self.faults = list(faults)
        pusher = make_pusher(self.ledger, self.vendor.url)
        for spec in SPECS:
            paused = self.ledger.pause_of(spec.name) is not None
            before = len(self.vendor.requests)
            report = pusher.run(spec, self.lake, retry_budget=0.05, schema="main")
            assert (report.status == "paused") == paused
            assert not paused or len(self.vendor.requests) == before

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

    def waive(self, sync: str) -> None:
        operations.waive(self.ledger, sync)

    def retry(self, sync: str) -> None:
        operations.retry(self.ledger, sync)

    def pause(self, sync: str) -> None:
        operations.pause(self.ledger, sync, by="ann")

    def resume(self, sync: str) -> None:
        operations.resume(self.ledger, sync)

    def back_up(self) -> None:
        with self.ledger.engine.begin() as connection:
            connection.exec_driver_sql("drop table if exists backup")
            connection.exec_driver_sql("create table backup as table actions")

    def restore(self) -> None:
        if not self.query("select 1 from pg_tables where tablename = 'backup'"):
            return
        with self.ledger.engine.begin() as connection:
            connection.exec_driver_sql("truncate actions")
            connection.exec_driver_sql("insert into actions table backup")
        operations.restored(self.ledger)
        self.restores += 1
        known = self.query("select row_key from actions where sync = 'club__members'")
        self.strangers = self.club.keys() - {row[0] for row in known}

    def query(self, sql: str) -> list[Any]:
        with self.ledger.engine.connect() as connection:
            return list(connection.exec_driver_sql(sql).all())

    def settle(self) -> None:
        """Let every pause and backoff pass and run without faults until nothing is due."""
        for sync in SYNCS:
            self.resume(sync)
        for _ in range(3):
            with self.ledger.engine.begin() as connection:
                connection.exec_driver_sql(
                    "update actions set next_attempt_at = now() where next_attempt_at is not null"
                )
            self.run([])


@pytest.fixture(scope="module")
def shared(new_database: Callable[[], str]) -> Iterator[tuple[Vendor, Ledger]]:
    """A vendor and a ledger for all examples: each example empties the tables."""
    ledger = Ledger(new_database())
    ledger.ensure()
    vendor = Vendor()
    with pytest.MonkeyPatch.context() as patch:
        toys = str(Path(__file__).with_name("toys"))
        patch.setattr(destinations, "__path__", [*destinations.__path__, toys])
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
    tell(steps, *shared)


@pytest.mark.parametrize("story", STORIES)
def test_stories(story: str, shared: tuple[Vendor, Ledger], plain_template: str) -> None:
    tell(STORIES[story], *shared)


def tell(steps: list[Any], vendor: Vendor, ledger: Ledger) -> None:
    """Go through these steps, let all come to rest, and compare with the reference."""
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("truncate actions, attempts, sync_runs, paused_syncs, lanes")
        connection.exec_driver_sql("drop table if exists backup")
    world = World(vendor, ledger)
    for step, *arguments in steps:
        getattr(world, step)(*arguments)
    world.settle()

    waived = {
        (sync, key)
        for sync, key in world.query("select sync, row_key from actions where state = 'waived'")
    }
    # State: the vendor holds exactly the model's newest value of every row that is in it, but
    # those that a person gave up on.
    for key, value in world.model.items():
        if ("hubspot__health", key) not in waived:
            assert world.crm.get(key) == value
        if ("club__members", key) not in waived:
            assert world.club.get(key) == value
    # And nobody stays in the club who left the model, as far as the ledger can know.
    for key in world.club.keys() - world.model.keys():
        assert key in world.strangers or ("club__members", key) in waived
    # Messages: no one twice; each one arrived, or stands in the ledger with what became of it.
    assert all(count == 1 for count in world.posted.values())
    rows = world.query("select trigger_id, state from actions where mode = 'message'")
    states = dict(rows)
    assert len(rows) == len(states), "one action for a trigger, whoever its customer is by now"
    assert set(states) == set(world.fired)
    for trigger, state in states.items():
        assert state in ("delivered", "unknown", "rejected", "waived") or (
            state == "suppressed" and world.restores
        )
        if state == "delivered":
            assert world.posted[f"words {trigger}"] == 1
        if state == "rejected":
            assert world.posted[f"words {trigger}"] == 0
    world.lake.close()
    assert threading.active_count() < 50
