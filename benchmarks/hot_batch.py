"""What one batch of the hot lane costs, by events and by history; part of `benchmarks.hot`."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import support
from orchestration import dbt
from orchestration.hot import project as projects
from orchestration.hot.history import History
from orchestration.hot.project import IDENTITY, STAGING, Project
from orchestration.hot.window import Touched, Window
from orchestration.settings import DBT_PROJECT, Settings

EVENTS_EACH = 20  # of a customer in the history
SIZES = (1, 50, 500)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def costs(history: list[int], repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of a batch of SIZES events, each of another customer, for each history."""
    found = []
    for events in history:
        home = support.new_home()
        project = projects.load(Settings(home=home, _env_file=None))
        with _window(project, home, events) as (window, seconds):
            for size in SIZES:
                rnd = random.Random(size)
                row: dict[str, Any] = {"history": events, "events": size, "copy_s": seconds}
                for kind in ("cold", "warm"):
                    row[kind] = _batch(window, rnd, size, events // EVENTS_EACH, kind, repeats)
                found.append(row)
    return found


def _batch(
    window: Window, rnd: random.Random, size: int, customers: int, kind: str, repeats: int
) -> dict[str, float]:
    """Median milliseconds of staging and running; cold customers were not in memory before."""
    stage, run, whole = [], [], []
    people = rnd.sample(range(customers), size)
    for _ in range(repeats):
        if kind == "cold":
            people = rnd.sample(range(customers), size)
        records = [_record(rnd, person) for person in people]
        began = time.perf_counter()
        window.stage(records)
        staged = time.perf_counter()
        marks = window.take()
        window.evaluate(marks, NOW, window.project.quick_models)
        ran = time.perf_counter()
        window.evaluate(dict.fromkeys(window.groups()[-size:], Touched(0, 0.0)), NOW)
        stage.append(staged - began)
        run.append(ran - staged)
        whole.append(time.perf_counter() - ran)
    return {
        "stage_ms": round(statistics.median(stage) * 1000, 1),
        "quick_ms": round(statistics.median(run) * 1000, 1),
        "all_ms": round(statistics.median(whole) * 1000, 1),
    }


_next_seq = 10**9


def _record(rnd: random.Random, person: int) -> tuple[int, bytes]:
    global _next_seq
    _next_seq += 1
    moment = NOW.isoformat()
    event = rnd.choice(["Product Viewed", "Logged In", "Cart Updated", "Page Viewed"])
    item = {"product_id": "p_1", "quantity": 1, "price": 9.5}
    payload = {
        "type": "track",
        "event": event,
        "properties": {"cart_id": "c", "total": 9.5, "items": [item], "path": "/pricing"},
    }
    record = {
        "kind": "event",
        "source": "web",
        "message_id": f"b{_next_seq}",
        "type": "track",
        "event": event,
        "user_id": f"u{person}",
        "anonymous_id": None,
        "timestamp": moment,
        "received_at": moment,
        "payload": msgspec.json.encode(payload).decode(),
    }
    return _next_seq, msgspec.json.encode(record)


@contextmanager
def _window(project: Project, home: Path, events: int) -> Iterator[tuple[Window, float]]:
    """A window on a lake with so many events, in the shape of the models; and seconds to copy."""
    import duckdb

    made = duckdb.connect(str(home / "lake.duckdb"))
    made.execute("set timezone = 'UTC'")
    made.execute("set memory_limit = '4GB'")
    manifest = dbt.manifest(Settings(home=home, _env_file=None))
    nodes = {node["name"]: node for node in manifest["nodes"].values()}
    _make_lake(made, project, nodes, events)
    history = History(
        home / "hot", lambda: duckdb.connect(str(home / "lake.duckdb")), project, schema="main"
    )
    began = time.perf_counter()
    snapshot = history.follow()
    seconds = round(time.perf_counter() - began, 1)
    window = Window(project, history, max_rows=1_000_000)
    try:
        window.adopt(snapshot)
        yield window, seconds
    finally:
        window.close()
        history.close()
        made.close()


def _make_lake(connection: Any, project: Project, nodes: dict[str, Any], events: int) -> None:
    """Tables with the models' own columns; what the copy does not read is left empty."""
    import duckdb

    from ingestion import raw_tables

    with duckdb.connect() as shapes:
        shapes.execute("create schema raw; create schema hot")
        shapes.execute("create table hot.moment (as_of timestamptz)")
        shapes.register("e", raw_tables.schema("events").empty_table())
        shapes.execute("create table raw.events as from e")
        for model in project.models:
            seed = DBT_PROJECT / "seeds" / f"{model.name}.csv"
            if model.is_copy and seed.exists():
                # Of an empty list no types could be guessed.
                how = "all_varchar = true" if model.name == "suppression_list" else "nullstr = ''"
                text = f"from read_csv('{seed}', {how})"
                connection.execute(f"create table {model.name} as {text}")
                shapes.register("s", connection.execute(text).to_arrow_table())
                shapes.execute(f"create table hot.{model.name} as from s")
        for model in project.models:
            if model.is_copy and not (DBT_PROJECT / "seeds" / f"{model.name}.csv").exists():
                columns = ", ".join(
                    f"null::{column['data_type']} as {name}"
                    for name, column in nodes[model.name]["columns"].items()
                )
                connection.execute(f"create table {model.name} as select {columns} limit 0")
                shapes.execute(f"create table hot.{model.name} as select {columns} limit 0")
            elif not model.is_copy:
                shapes.execute(f"create table hot.{model.name} as {model.sql}")
                empty = shapes.execute(f"from hot.{model.name}").to_arrow_table()
                connection.register("empty", empty)
                connection.execute(f"create table {model.name} as from empty")
    customers = events // EVENTS_EACH
    key = f"'user:u' || (n % {customers})"
    connection.execute(
        f"""
        insert into {STAGING} by name
        select
            n as log_seq, 'evt_' || substr(md5(n::varchar), 1, 16) as event_id, 'web' as source,
            'm' || n as message_id, 'track' as type, {key} as id_key, {key} as user_key,
            ['Product Viewed', 'Logged In', 'Cart Updated', 'Page Viewed'][n % 4 + 1] as event,
            moment as event_at, moment as received_at, moment::date as event_date,
            '/p/' || n % 1000 as page_path,
            '{{"product_id":"p_' || n % 1000 || '","cart_id":"c","price":9.5,"items":[1]}}'
                as properties
        from (
            select n, timestamptz '{(NOW - timedelta(days=120)).isoformat()}'
                + to_seconds(n * 120 * 86400.0 / {events}) as moment
            from range({events}) as t (n)
        )
        """
    )
    connection.execute(
        f"""
        insert into {IDENTITY} by name
        select
            'user:u' || n as id_key, 'user' as id_kind, 'u' || n as id_value,
            'cus_' || substr(md5('user:u' || n), 1, 16) as customer_id,
            'cus_' || substr(md5('user:u' || n), 1, 16) as solo_customer_id,
            false as is_shared, true as is_identified
        from range({customers}) as t (n)
        """
    )
    connection.execute(
        "create table build_watermarks as select unnest($1) as model, $2::bigint as log_seq,"
        " now() as as_of_ts",
        [[STAGING, IDENTITY], events - 1],
    )
