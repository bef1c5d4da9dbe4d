"""Promise 18: the hot lane and the warehouse derive the same actions from the same events."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import md5
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from dbt_streams import NOW, arrivals, stream, with_splits
from dbt_warehouse import Message, Warehouse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion import raw_tables
from ingestion.repeats import KnownMessages, RepeatIndex, keys_of
from orchestration import dbt
from orchestration.hot import lane as lanes
from orchestration.hot import project as projects
from orchestration.hot.history import HASH, History
from orchestration.hot.lane import Lane
from orchestration.hot.project import Project
from orchestration.hot.sender import Messages, key_of
from orchestration.hot.window import Place, Result, Touched, Window
from orchestration.settings import Settings

pytestmark = pytest.mark.long

STEADY = ["--exclude", "config.materialized:view", "tag:daily", "tag:after_sync"]
COMPARED = ["customers", "customer_timeline", "churn_scores_daily", "customer_consents"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return projects.load(Settings(home=tmp_path_factory.mktemp("hot"), _env_file=None))


class Hot:
    """A window on the warehouse of a test, fed with rows as the log would hold them."""

    def __init__(
        self,
        project: Project,
        warehouse: Warehouse,
        directory: Path,
        max_rows: int = 100_000,
        known: KnownMessages | None = None,
    ) -> None:
        self.project = project
        self._known = known
        self._max_rows = max_rows
        self._warehouse = warehouse
        self.history = History(
            directory / "hot", self._connect, project, schema="main", generation=self._generation
        )
        self._snapshot = self.history.follow()
        self.window = self.fresh()
        self.result: Result

    def fresh(self) -> Window:
        """Another window on the lake as it was copied last."""
        # Few groups a slice: the models run in several at once.
        window = Window(
            self.project,
            self.history,
            max_rows=self._max_rows,
            slices=2,
            groups_a_slice=2,
            known=self._known,
        )
        window.adopt(self._snapshot)
        return window

    def _connect(self) -> Any:
        connection = duckdb.connect(str(self._warehouse.path))
        connection.execute("set timezone = 'UTC'")
        return connection

    def _generation(self, connection: Any) -> str:
        """As the lake's, of a file."""
        made = "select table_oid from duckdb_tables() where table_name = 'stg_events'"
        return str(connection.execute(made).fetchone())

    def follow(self) -> None:
        self._snapshot = self.history.follow()
        self.window.adopt(self._snapshot)
        self.window.evict()

    def take(self, messages: list[Message], first: int, window: Window | None = None) -> None:
        schema = raw_tables.schema("events")
        rows = [
            dict(zip(schema.names, message.row(first + place)[:14], strict=False))
            for place, message in enumerate(messages)
        ]
        (window or self.window).stage_events(pa.Table.from_pylist(rows, schema))

    def actions(self, as_of: datetime) -> tuple[set[tuple[str, ...]], set[str]]:
        """What the touched customers are to be sent, and who they are."""
        self.result = self.window.evaluate(self.window.take(), as_of)
        return self.rows(self.project.syncs), set(self.result.ran)

    def urgent_actions(self, as_of: datetime) -> set[tuple[str, ...]]:
        """What all are to be sent that follows from urgent signals alone, each run by itself."""
        found = set()
        for event in self.project.urgent_events:
            models = self.project.models_at([event])
            marks = dict.fromkeys(self.window.groups(), Touched(0, 0.0))
            self.result = self.window.begin(marks, as_of, models, place="front").wait()
            found |= self.rows(tuple(one for one in self.project.syncs if one in models))
        return found

    def urgent_syncs(self) -> tuple[str, ...]:
        """Syncs that need no more than urgent models."""
        return tuple(one for one in self.project.syncs if one in self.project.urgent_models)

    def actions_in_two_steps(self, asked: set[str], as_of: datetime) -> set[tuple[str, ...]]:
        """What some customers are to be sent, as the lane runs that: what is slow for them only."""
        marks = dict.fromkeys(self.window.groups(), Touched(0, 0.0))
        self.result = self.window.evaluate(marks, as_of, self.project.quick_models)
        slow = self.project.needs(*self.project.syncs) - self.project.quick_models
        self.result = self.window.narrow(self.result, asked, slow).wait()
        return {row for row in self.rows(self.project.syncs) if row[1] in asked}

    def run(self, window: Window, as_of: datetime) -> None:
        self.result = window.evaluate(window.take(), as_of)

    def everybody(self, window: Window, as_of: datetime) -> None:
        """Run the models over all that the window holds."""
        marks = dict.fromkeys(window.groups(), Touched(0, 0.0))
        self.result = window.evaluate(marks, as_of)

    def rows(self, models: tuple[str, ...]) -> set[tuple[str, ...]]:
        """What the last run says."""
        found: set[tuple[str, ...]] = set()
        for model in models:
            rows = self.result.rows_of(model).select(["customer_id", what(self.project, model)])
            found |= {(model, *row.values()) for row in rows.to_pylist()}
        return found

    def close(self) -> None:
        self.window.close()
        self.history.close()


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    yield Warehouse(tmp_path)


def what(project: Project, model: str) -> str:
    """The column of a sync that, with the customer, tells its rows apart."""
    return "trigger_id" if "trigger_id" in project.model(model).columns else "email"


def of_warehouse(warehouse: Warehouse, project: Project, models: tuple[str, ...]) -> set[Any]:
    """The actions that the sync models ask for, their views read at that moment."""
    found = set()
    for model in models:
        query = f"select customer_id, {what(project, model)} from main.{model}"
        found |= {(model, *row) for row in warehouse.query(query)}
    return found


@pytest.mark.parametrize("seed", [1])
def test_the_same_actions_as_the_warehouse(
    project: Project, warehouse: Warehouse, tmp_path: Path, seed: int
) -> None:
    """Late, shuffled, repeated, merging and split, with time passing: equal after every batch.

    The window is so small that customers leave it and come back from the copy of the lake.
    """
    deliveries = arrivals(seed, with_splits(seed, stream(seed, size=260, days=9)), batches=3)
    warehouse.load(deliveries[0])
    warehouse.dbt("seed")
    warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW)
    hot = Hot(project, warehouse, tmp_path, max_rows=60)
    acted = acted_at_once = 0
    try:
        for number, delivery in enumerate(deliveries[1:]):
            as_of = NOW + timedelta(minutes=40 * number)
            hot.take(delivery, warehouse.next_seq)
            asked, touched = hot.actions(as_of)
            warehouse.load(delivery)
            warehouse.dbt("run", "--exclude", "tag:daily", "tag:after_sync", as_of=as_of)
            derived = of_warehouse(warehouse, project, project.syncs)
            assert asked == {action for action in derived if action[1] in touched}
            for model in COMPARED:
                assert_same_rows(hot, warehouse, model, touched)
            few = set(sorted(touched)[number::2])
            theirs = {action for action in asked if action[1] in few}
            assert hot.actions_in_two_steps(few, as_of) == theirs
            at_once = hot.urgent_actions(as_of)
            assert at_once == {
                (model, customer, *rest)
                for model, customer, *rest in derived
                if model in hot.urgent_syncs() and customer in hot.result.ran
            }
            acted_at_once += len(at_once)
            acted += len(asked)
            if number == 0:
                hot.follow()
        assert acted and acted_at_once
    finally:
        hot.close()


def assert_same_rows(hot: Hot, warehouse: Warehouse, model: str, touched: set[str]) -> None:
    # What a shared device is by itself was first seen with others, too, who need not be here.
    alone = "select customer_id from main.identity_map where is_shared"
    touched = touched - {name for (name,) in warehouse.query(alone)}
    columns = ", ".join(f"cast({name} as varchar)" for name in sorted(warehouse.columns(model)))
    query = f"select customer_id, {columns} from {{}}.{model} order by all"
    with duckdb.connect() as shown:
        shown.execute("set timezone = 'UTC'")
        shown.execute("create schema hot")
        shown.register("ours", hot.result.rows_of(model))
        shown.execute(f"create table hot.{model} as from ours")
        ours = shown.execute(query.format("hot")).fetchall()
    theirs = warehouse.query(query.format("main"))
    assert [row for row in ours if row[0] in touched] == [
        row for row in theirs if row[0] in touched
    ], f"{model} differs"


@pytest.fixture(scope="module")
def empty(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hot]:
    """A built warehouse without an event, and the lane's copy of it."""
    directory = tmp_path_factory.mktemp("empty")
    warehouse = Warehouse(directory)
    warehouse.dbt("seed")
    warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW)
    hot = Hot(project, warehouse, directory)
    yield hot
    hot.close()


@given(
    seed=st.integers(0, 10_000),
    batches=st.integers(2, 6),
    size=st.integers(20, 90),
)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_batches_in_any_order_end_as_one_batch_in_order(
    project: Project, empty: Hot, seed: int, batches: int, size: int
) -> None:
    """Late, shuffled and repeated deliveries of the same messages end in the same rows."""
    messages = with_splits(seed, stream(seed, size=size, days=9), splits=4)
    models = (*project.signals, *project.syncs)
    with closing(empty.fresh()) as window:
        # The first copy of a message decides its position in the log, in both.
        log = [message for batch in arrivals(seed, messages, batches) for message in batch]
        empty.take(log, 0, window)
        empty.run(window, NOW)
        expected = empty.rows(models)
    with closing(empty.fresh()) as window:
        first = 0
        for batch in arrivals(seed, messages, batches):
            empty.take(batch, first, window)
            empty.run(window, NOW)
            first += len(batch)
        empty.everybody(window, NOW)
        assert empty.rows(models) == expected


def of(user: str, number: int) -> Message:
    return Message("track", NOW, f"{user}-{number}", user=user, event="Logged In")


def test_a_backlog_is_run_latest_first_and_each_customer_whole(empty: Hot) -> None:
    with closing(empty.fresh()) as window:
        log = [of("a", 1), of("b", 1), of("c", 1), of("a", 2), of("b", 2), of("a", 3)]
        for first in (0, 2, 4):  # taken in over several reads of the log
            empty.take(log[first : first + 2], first, window)
        ran = []
        while marks := window.take(1):
            rows = window.evaluate(marks, NOW).rows_of("customer_timeline")
            ran.append(rows["id_key"].to_pylist())
        assert ran == [["user:a"] * 3, ["user:b"] * 2, ["user:c"]]


@pytest.mark.parametrize("place", ["middle", "aside"])
def test_what_runs_beside_says_nothing_of_who_was_run_meanwhile(
    project: Project, empty: Hot, place: Place
) -> None:
    with closing(empty.fresh()) as window:
        empty.take([of(name, 1) for name in "abc"], 0, window)
        empty.run(window, NOW)
        expected = empty.result.ran.keys() - {"cus_" + md5(b"user:b").hexdigest()[:16]}
        begun = window.begin(dict.fromkeys(window.groups(), Touched(0, 0.0)), NOW, place=place)
        empty.take([of("b", 2)], 3, window)
        window.begin(window.take(), NOW, project.urgent_models, place="front").wait()
        empty.take([of("c", 2)], 4, window)
        # The lake is followed meanwhile; what that changes comes after the result.
        window.adopt(replace(window.snapshot, position=3))
        result = begun.wait()
        assert result.people()[0].num_rows == 3
        assert result.ran.keys() == expected
        rows = result.rows_of("customer_timeline")["customer_id"].to_pylist()
        assert rows.count(min(expected)) == 1
        # The copies that it has follow, too.
        window.adopt(replace(window.snapshot, position=4))
        empty.everybody(window, NOW)
        assert len(empty.result.ran) == 3


def test_who_was_touched_before_another_run_ended_is_run_again(
    project: Project, empty: Hot
) -> None:
    with closing(empty.fresh()) as window:
        empty.take([of("a", 1)], 0, window)
        earlier = window.begin(window.take(), NOW)
        empty.take([of("a", 2)], 1, window)
        later = window.begin(window.take(), NOW, project.urgent_models, place="front")
        assert len(earlier.wait().ran) == 1
        assert not later.wait().ran, "two runs of one customer end in any order"
        assert [touched.log_seq for touched in window.take().values()] == [1]


def test_at_events_of_its_own_a_signal_goes_first(project: Project, empty: Hot) -> None:
    with closing(empty.fresh()) as window:
        views = [replace(of(name, 1), event="Product Viewed") for name in "abc"]
        empty.take([views[0], of("d", 1), *views[1:]], 0, window)
        (touched,) = window.take(2, urgent_only=True).values()
        assert touched.log_seq == 1, "a login may end an absence"
        assert touched.fires == {"Logged In"}
        assert not window.take(urgent_only=True)
        assert [touched.log_seq for touched in window.take().values()] == [3, 2, 0]


def test_what_the_lake_has_not_read_stays_and_more_waits_outside(
    project: Project, empty: Hot
) -> None:
    snapshot = empty.history.follow()
    with closing(Window(project, empty.history, max_rows=10)) as window:
        window.adopt(snapshot)
        assert window.has_room()
        for number in range(25):
            empty.take([of(f"u{number}", 1)], number, window)
            empty.run(window, NOW)
        assert not window.has_room()
        window.evict()
        assert window.rows == 25
        # The lake has read twenty of them: of those the longest untouched go.
        window.adopt(replace(snapshot, position=19))
        window.evict()
        assert window.has_room()
        assert window.rows <= 10
        empty.everybody(window, NOW)
        held = empty.result.rows_of("customer_timeline")["id_key"].to_pylist()
        assert {f"user:u{number}" for number in range(20, 25)} <= set(held)


def test_a_message_id_that_comes_again_under_another_customer_is_no_event(
    project: Project, warehouse: Warehouse, tmp_path: Path
) -> None:
    """By (source, messageId), as in the warehouse: whether the first copy is in memory or not."""
    warehouse.load([of("ada", 1), of("bob", 1), of("bob", 2)])
    warehouse.dbt("seed")
    warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW)
    index = RepeatIndex(tmp_path / "keys")
    index.prepare(0, None, pl.DataFrame)
    with warehouse.connect() as connection:
        index.mark(connection.execute(keys_of("raw.events")).pl())
    index.flush(0, warehouse.next_seq)
    hot = Hot(project, warehouse, tmp_path, max_rows=4, known=KnownMessages(tmp_path / "keys"))
    try:
        assert hot.window.customers == 1, "ada is not in memory"
        first, again = of("carl", 1), replace(of("dora", 1), message_id="carl-1")
        delivery = [
            replace(of("bob", 3), message_id="ada-1"),
            replace(of("bob", 4), message_id="ada-1", source="server"),
            replace(of("dora", 2), message_id="bob-2", source="server"),
            of("dora", 3),
            first,
            again,
            replace(again, source="server"),
        ]
        hot.take(delivery, warehouse.next_seq)
        _, touched = hot.actions(NOW)
        warehouse.load(delivery)
        warehouse.dbt("run", "--exclude", "tag:daily", "tag:after_sync", as_of=NOW)
        assert len(touched) == 3
        for model in ("customers", "customer_timeline"):
            assert_same_rows(hot, warehouse, model, touched)
        events = Counter(hot.result.rows_of("customer_timeline")["id_key"].to_pylist())
        assert events == {"user:bob": 3, "user:carl": 1, "user:dora": 3}
    finally:
        hot.close()


class Log:
    """A log that has nothing after what the lake has read."""

    def first(self) -> int:
        return 0

    def end(self) -> int:
        return 0

    def read(self, start: int, limit: int) -> list[tuple[int, bytes]]:
        return []


def test_a_full_refresh_is_taken_in_though_the_log_has_not_grown(
    project: Project, warehouse: Warehouse, tmp_path: Path
) -> None:
    """Raw rows were corrected, and the models built anew: the lane forgets what it has."""
    warehouse.load([of("ada", 1), of("ada", 2), of("bob", 1)])
    warehouse.dbt("seed")
    warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW)
    hot = Hot(project, warehouse, tmp_path)
    try:
        lane = Lane(project, [], hot.history, hot.window, Log(), {})
        lane.start()
        assert timeline_of(hot, "ada") == 2
        lane.follow()
        lane.turn()
        assert hot.window.rows == 3, "an ordinary build lets nothing go"
        with warehouse.connect() as connection:
            connection.execute("delete from raw.events where message_id = 'ada-2'")
        warehouse.dbt("run", "--exclude", "tag:after_sync", "--full-refresh", as_of=NOW)
        lane.follow()
        lane.turn()
        assert timeline_of(hot, "ada") == 1
    finally:
        hot.close()


class Taken:
    """In a sender's place: which triggers of whom it was given to send, in turn."""

    idle = True

    def __init__(self) -> None:
        self.triggers: list[tuple[str, str]] = []
        self.late: set[str] = set()

    def note_late(self, keys: set[str]) -> None:
        self.late |= keys

    def put(self, messages: Messages) -> None:
        rows = messages.rows.select(["email", "trigger_id"]).to_pylist()
        self.triggers += [(row["email"], row["trigger_id"]) for row in rows]


def lane_of(
    hot: Hot, window: Window, home: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Lane, Taken]:
    """A lane over what the window is given, which runs nothing aside; and what it says in Slack."""
    monkeypatch.setattr(lanes, "SLOW_PAUSE", math.inf)
    monkeypatch.setattr(lanes, "SLOW_SHARE", math.inf)
    monkeypatch.setattr(lanes, "QUIET_SECONDS", math.inf)
    specs = projects.specs(hot.project, dbt.manifest(Settings(home=home, _env_file=None)))
    senders: dict[str, Any] = {spec.name: Taken() for spec in specs}
    lane = Lane(hot.project, specs, hot.history, window, Log(), senders, clock=lambda: NOW)
    return lane, senders["slack__churn_risk_rose"]


def content(user: str) -> list[Message]:
    """Somebody with an address who comes every third day and gives no sign of leaving."""
    told = {"traits": {"email": f"{user}@example.com"}}
    return [
        Message("identify", NOW - timedelta(days=day), f"{user}-{day}", user=user, body=told)
        for day in range(60, 0, -3)
    ]


def leaving(user: str) -> list[Message]:
    """A look at the page to cancel at."""
    page = {"context": {"page": {"path": "/account/cancel"}}}
    at = NOW - timedelta(minutes=5)
    return [Message("page", at, f"{user}-cancel", user=user, body=page)]


TODAY = f"{NOW:%Y-%m-%d}"


def test_nobody_waits_for_a_turn_aside_because_turns_take_long(
    empty: Hot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(empty.fresh()) as window:
        lane, slack = lane_of(empty, window, tmp_path, monkeypatch)
        monkeypatch.setattr(lanes, "SLOW_SECONDS", 0.0)  # whatever is run takes longer
        monkeypatch.setattr(lanes, "FEW_GROUPS", 0)
        for turn in range(3):
            leaver, first = f"leaver{turn}", turn * 1_000
            empty.take([*content(leaver), *leaving(leaver)], first, window)
            # These are touched later, and go first.
            empty.take([of(f"u{turn}{place}", 1) for place in range(10)], first + 500, window)
            while lane.waiting:
                lane.turn()
            assert lane.slow_waiting == 11
            monkeypatch.setattr(lanes, "SLOW_PAUSE", -1.0)
            lane.turn()
            monkeypatch.setattr(lanes, "SLOW_PAUSE", math.inf)
            assert not lane.slow_waiting, "all of them are run at a time"
            while not slack.triggers[turn:]:
                lane.turn()
            assert slack.triggers[turn:] == [(f"{leaver}@example.com", TODAY)]


def test_what_expired_before_the_lane_came_to_it_is_counted(
    empty: Hot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticket is acted on for 72 hours: one waited for longer, another was old when it came."""
    with closing(empty.fresh()) as window:
        lane, _ = lane_of(empty, window, tmp_path, monkeypatch)
        (spec,) = (one for one in lane._specs if one.name == "webhook__support_ticket_opened")
        sender: Any = lane._senders[spec.name]
        for place, (name, opened, received) in enumerate(
            [("down", 80, 80), ("old", 80, 1), ("fresh", 1, 1)]
        ):
            opened_at, arrived = NOW - timedelta(hours=opened), NOW - timedelta(hours=received)
            body = {"properties": {"ticket_id": f"T-{name}"}}
            ticket = Message(
                "track",
                opened_at,
                name,
                name,
                None,
                "Support Ticket Opened",
                body,
                received=arrived,
            )
            empty.take([ticket], place, window)
        while lane.waiting:
            lane.turn()
        solo = "cus_" + md5(b"user:down").hexdigest()[:16]
        assert sender.late == {key_of(spec, solo, "T-down")}


class Records(Log):
    """A log of what was put into it."""

    def __init__(self) -> None:
        self._records: list[bytes] = []

    def put(self, event: str) -> None:
        record = {"kind": "event", "source": "web", "message_id": f"m{self.end()}", "type": "track"}
        record |= {"event": event, "user_id": "ada", "received_at": NOW.isoformat()}
        record |= {"timestamp": NOW.isoformat(), "payload": json.dumps({"event": event})}
        self._records.append(json.dumps(record).encode())

    def end(self) -> int:
        return len(self._records)

    def read(self, start: int, limit: int) -> list[tuple[int, bytes]]:
        return list(enumerate(self._records))[start : start + limit]


def test_an_event_that_nobody_waits_for_rests_in_the_log_until_the_models_may_be_run(
    empty: Hot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "STAGE_PAUSE", 0.0)
    monkeypatch.setattr(lanes, "QUICK_REST", math.inf)
    with closing(empty.fresh()) as window:
        lane, _ = lane_of(empty, window, tmp_path, monkeypatch)
        lane._reader = log = Records()
        lane._quick_began, lane._quick_took = time.monotonic(), math.inf
        log.put("Product Viewed")
        lane.turn()
        assert (lane.behind, lane.events) == (1, 0)
        log.put("Logged In")  # at which a signal may fire
        lane.turn()
        assert (lane.behind, lane.events) == (0, 2)
        log.put("Product Viewed")
        lane.turn()
        assert (lane.behind, lane.events) == (1, 2)
        monkeypatch.setattr(lanes, "QUICK_REST", 0.0)
        monkeypatch.setattr(lanes, "QUICK_PAUSE", 0.0)
        lane.turn()
        assert (lane.behind, lane.events) == (0, 3)
        while lane.waiting:
            lane.turn()


def test_of_few_customers_all_is_run_at_once(
    empty: Hot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(empty.fresh()) as window:
        lane, slack = lane_of(empty, window, tmp_path, monkeypatch)  # which runs nothing aside
        empty.take([*content("leaver"), *leaving("leaver")], 0, window)
        while lane.waiting:
            lane.turn()
        assert not lane.slow_waiting
        while not slack.triggers:
            lane.turn()
        assert slack.triggers == [("leaver@example.com", TODAY)]


def timeline_of(hot: Hot, user: str) -> int:
    """How many events the lane knows of a user."""
    connection = hot.window.cursor()
    connection.execute(HASH)
    name = "'cus_' || substr(md5('user:' || $1), 1, 16)"
    hashed = connection.execute(f"select id_hash({name})", [user]).fetchall()[0][0]
    number = hot.window.group_of_customer(hashed)
    assert number is not None
    result = hot.window.evaluate({number: Touched(0, 0.0)}, NOW)
    return int(result.rows_of("customer_timeline").num_rows)
