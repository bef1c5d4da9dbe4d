"""What it costs to know repeats of old messages as history grows: `python -m benchmarks.dedup`.

    python -m benchmarks.dedup [--history 1000000,10000000] [--index] [--json]

For each length of history, in a temporary home with its own Postgres: loads so many events, then
micro-batches of 500 events, of which a tenth repeats messages from anywhere in that history. Times
are those of the load and of `stg_events`; beside them stands what it would cost to look the 500
up among all events of the lake by a join instead. `--index` measures the index of message keys
alone, in CPU time, which a busy machine disturbs least.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec

from benchmarks import support
from ingestion.load import Loader
from ingestion.log import EventLog
from ingestion.repeats import RepeatIndex
from orchestration import dbt, lake, postgres, warehouse
from orchestration.settings import Settings, load_settings

BATCH = 500
REPEATS = 50
ROUNDS = 7
INDEX_ROUNDS = 200
CHUNK = 500_000
JOIN = """
select count(*) from lake.raw.events as history
inner join arrived on history.message_id = arrived.message_id and history.source = 'web'
where history.log_seq < $1
"""


def message_id(number: int) -> str:
    """As random as a client's, and known again by its number."""
    return hashlib.sha256(b"%d" % number).hexdigest()[:32]


def records(numbers: Iterator[int]) -> Iterator[bytes]:
    for number in numbers:
        yield msgspec.json.encode(
            {
                "kind": "event",
                "source": "web",
                "message_id": message_id(number),
                "type": "track",
                "event": "Logged In",
                "user_id": f"u{number % 100_000}",
                "timestamp": "2026-01-02T03:04:05.678901Z",
                "received_at": "2026-01-02T03:04:06.000000Z",
                "payload": '{"type":"track","event":"Logged In"}',
            }
        )


def append(log: EventLog, numbers: Iterator[int]) -> None:
    batch: list[bytes] = []
    for record in records(numbers):
        batch.append(record)
        if len(batch) == 20_000:
            log.append(batch)
            batch = []
    log.append(batch)


def measure(history: int) -> dict[str, float]:
    """Medians in seconds of one micro-batch upon so much history, in a process of its own."""
    home = support.new_home()
    os.environ["SIGNALBOX_HOME"] = str(home)  # dbt asks the environment
    settings = load_settings()
    catalog = postgres.start(settings).lake
    lottery = random.Random(1)
    loads, builds, joins = [], [], []
    with EventLog(settings.log_dir) as log:
        append(log, iter(range(history)))
        loader = Loader(catalog, settings.lake_path, settings.log_dir, home / "dlt")
        with lake.writer(settings, "benchmark"):
            warehouse.ensure(settings)
            started = time.perf_counter()
            loader.load()
            large = time.perf_counter() - started
            dbt.invoke(["seed", "--select", "identity_rules"], settings)
            dbt.invoke(["run", "--select", "stg_events"], settings)
            number = history
            for _ in range(ROUNDS):
                fresh = [*range(number, number + BATCH - REPEATS)]
                number += len(fresh)
                batch = [*fresh, *lottery.sample(range(history), REPEATS)]
                lottery.shuffle(batch)
                append(log, iter(batch))
                loads.append(loader.load().seconds)
                started = time.perf_counter()
                dbt.invoke(["run", "--select", "stg_events"], settings)
                builds.append(time.perf_counter() - started)
                joins.append(join_seconds(settings, batch, history))
        loader.close()
    with lake.connect(settings) as connection:
        counted = connection.execute("select count(*), count(distinct message_id) from stg_events")
        assert counted.fetchone() == (number, number)
    # The first of each pays for what the others find ready.
    return {
        "history": history,
        "large_load_rows_per_s": round(history / large),
        "load_s": round(statistics.median(loads[1:]), 3),
        "stg_events_s": round(statistics.median(builds[1:]), 3),
        "join_instead_s": round(statistics.median(joins[1:]), 3),
    }


def join_seconds(settings: Settings, numbers: list[int], before: int) -> float:
    import pyarrow as pa

    arrived = pa.table({"message_id": [message_id(number) for number in numbers]})
    with lake.connect(settings) as connection:
        connection.register("arrived", arrived)
        started = time.perf_counter()
        row = connection.execute(JOIN, [before]).fetchone()
        assert row == (REPEATS,)
        return time.perf_counter() - started


def measure_index(history: int) -> dict[str, float]:
    """Median CPU milliseconds to look up a batch in an index of so many keys and to keep it."""
    import numpy as np
    import polars as pl

    lottery = np.random.default_rng(1)
    highs = lottery.integers(0, 2**64, history, dtype=np.uint64)

    def keys(high: Any, start: int) -> pl.DataFrame:
        columns = {"high": high, "low": high, "log_seq": np.arange(start, start + len(high))}
        return pl.DataFrame(columns)

    lookups, flushes, repeats = [], [], 0
    index = RepeatIndex(support.new_home() / "message_keys")
    index.prepare(0, None, lambda: keys(highs[:0], 0))
    for start in range(0, history, CHUNK):
        chunk = highs[start : start + CHUNK]
        index.mark(keys(chunk, start))
        index.flush(start, start + len(chunk))
    position = history
    for _ in range(INDEX_ROUNDS):
        fresh = lottery.integers(0, 2**64, BATCH - REPEATS, dtype=np.uint64)
        batch = keys(np.concatenate([fresh, lottery.choice(highs, REPEATS)]), position)
        started = time.process_time()
        repeats += index.mark(batch).count()
        looked_up = time.process_time()
        position += BATCH
        index.flush(position - BATCH, position)
        lookups.append(looked_up - started)
        flushes.append(time.process_time() - looked_up)
    assert repeats >= REPEATS * INDEX_ROUNDS
    return {
        "history": history,
        "lookup_cpu_ms": round(statistics.median(lookups) * 1000, 2),
        "flush_cpu_ms": round(statistics.median(flushes) * 1000, 2),
        "flush_cpu_ms_mean": round(statistics.mean(flushes) * 1000, 2),
    }


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("--history", default="1000000,10000000", help="events, by commas")
    parser.add_argument("--index", action="store_true", help="only the index of message keys")
    arguments = parser.parse_args()
    histories = [int(history) for history in arguments.history.split(",")]
    if arguments.index:
        support.print_json([measure_index(history) for history in histories])
        return
    # dbt keeps its lake for the life of a process.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        found = list(processes.map(measure, histories))
    ratios = {
        name: round(found[-1][name] / found[0][name], 2)
        for name in ("load_s", "stg_events_s", "join_instead_s")
    }
    if arguments.json:
        result: dict[str, Any] = {"benchmark": "dedup", "batch": BATCH, "repeats": REPEATS}
        support.print_json({**result, "by_history": found, "last_to_first": ratios})
        return
    rows = [
        (
            f"{one['history']:,}",
            *(f"{one[name] * 1000:,.0f} ms" for name in ratios),
        )
        for one in found
    ]
    rows.append(("last to first", *(f"{ratio:.2f}" for ratio in ratios.values())))
    support.print_table(
        f"A micro-batch of {BATCH} events, {REPEATS} of them repeats from anywhere in history",
        ["events of history", "load", "stg_events", "a join instead"],
        rows,
    )


if __name__ == "__main__":
    main()
