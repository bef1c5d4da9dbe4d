"""Identity of many id pairs, built whole and by a micro-batch: `python -m benchmarks.identity`.

    python -m benchmarks.identity [--pairs 1000000,10000000] [--rounds 5] [--json]

For each size, in a temporary home with its own Postgres: loads events that carry a user and a
device each, so many different pairs in all, builds the identity models from nothing, then a few
micro-batches of 500 events, of which a tenth join two customers by an alias. Times are those of the
whole dbt run of the identity models, memory is the most that the process ever held.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec

from benchmarks import support
from ingestion.log import EventLog
from orchestration import dbt, ingest, lake, warehouse
from orchestration.settings import Settings

BATCH = 500
MERGES = 50
DEVICES = 3  # of each user, so that a customer has four ids
MODELS = ("stg_events", "identity_edges", "identity_split_events", "identity_map")


def record(number: int, user: int, device: int, previous: int | None = None) -> bytes:
    kind = "track" if previous is None else "alias"
    payload = f'{{"type":"{kind}"}}'
    if previous is not None:
        payload = f'{{"type":"alias","previousId":"u{previous}"}}'
    return msgspec.json.encode(
        {
            "kind": "event",
            "source": "web",
            "message_id": f"m{number}",
            "type": kind,
            "event": "Logged In" if previous is None else None,
            "user_id": f"u{user}",
            "anonymous_id": f"d{device}",
            "timestamp": "2026-01-02T03:04:05.678901Z",
            "received_at": "2026-01-02T03:04:06.000000Z",
            "payload": payload,
        }
    )


def history(pairs: int) -> Iterator[bytes]:
    for number in range(pairs):
        yield record(number, number // DEVICES, number)


def batch(lottery: random.Random, first: int, pairs: int) -> Iterator[bytes]:
    """Visits of known users, some on new devices, and users who turn out to be one."""
    users = pairs // DEVICES
    for number in range(first, first + BATCH):
        user = lottery.randrange(users)
        previous = lottery.randrange(users) if number - first < MERGES else None
        device = user * DEVICES if lottery.random() < 0.5 else number
        yield record(number, user, device, previous)


def append(log: EventLog, records: Iterator[bytes]) -> None:
    waiting: list[bytes] = []
    for one in records:
        waiting.append(one)
        if len(waiting) == 20_000:
            log.append(waiting)
            waiting = []
    log.append(waiting)


def measure(pairs: int, rounds: int) -> dict[str, Any]:
    """Seconds by the clock and of CPU of a full build and, as medians, of a micro-batch on it."""
    home = support.new_home()
    os.environ["SIGNALBOX_HOME"] = str(home)  # dbt asks the environment
    settings = Settings(home=home, postgres_url=None, lake_url="", _env_file=None)
    support.share_lake(settings)
    lottery = random.Random(1)
    small: list[tuple[float, float]] = []
    select = ["run", "--select", *MODELS, "identity_mentions", "identity_splits"]
    with EventLog(settings.log_dir) as log:
        append(log, history(pairs))
        with lake.writer(settings, "benchmark"):
            warehouse.ensure(settings)
            loader = ingest.loader(settings)
            loader.load()
            dbt.warm_up(settings)
            dbt.invoke(["seed", "--select", "identity_rules"], settings)
            full = timed(select, settings)
            number = pairs
            for _ in range(rounds):
                append(log, batch(lottery, number, pairs))
                number += BATCH
                loader.load()
                small.append(timed(select, settings))
        loader.close()
    with lake.connect(settings) as connection:
        found = connection.execute(
            "select count(*), count(distinct customer_id), max(component_size) from identity_map"
        ).fetchone()
        edges = connection.execute("select count(*) from identity_edges").fetchone()
    assert found is not None and edges is not None
    # A row for each id; half of the visits and the merges bring no new device.
    assert found[0] >= pairs + pairs // DEVICES and edges[0] >= pairs
    # The first micro-batch pays for what the others find ready.
    return {
        "pairs": pairs,
        "ids": found[0],
        "customers": found[1],
        "largest": found[2],
        "full_s": round(full[0], 2),
        "full_cpu_s": round(full[1], 2),
        "micro_batch_s": round(statistics.median(wall for wall, _ in small[1:]), 3),
        "micro_batch_cpu_s": round(statistics.median(cpu for _, cpu in small[1:]), 3),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def timed(select: list[str], settings: Settings) -> tuple[float, float]:
    """Seconds by the clock, and of CPU, that a run of dbt takes."""
    started, cpu = time.perf_counter(), time.process_time()
    dbt.invoke(select, settings)
    return time.perf_counter() - started, time.process_time() - cpu


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("--pairs", default="1000000,10000000", help="id pairs, by commas")
    parser.add_argument("--rounds", type=int, default=5, help="micro-batches, at least 2")
    arguments = parser.parse_args()
    # dbt keeps the lake that it has opened: each size has a process of its own.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        sizes = [int(pairs) for pairs in arguments.pairs.split(",")]
        found = list(processes.map(measure, sizes, [arguments.rounds] * len(sizes)))
    if arguments.json:
        support.print_json({"benchmark": "identity", "batch": BATCH, "by_pairs": found})
        return
    support.print_table(
        f"Identity, built whole and by a micro-batch of {BATCH} events with {MERGES} merges",
        ["id pairs", "ids", "customers", "largest", "full", "CPU", "micro-batch", "CPU", "memory"],
        [
            (
                *(f"{one[name]:,}" for name in ("pairs", "ids", "customers", "largest")),
                f"{one['full_s']:,.1f} s",
                f"{one['full_cpu_s']:,.1f} s",
                f"{one['micro_batch_s']:,.2f} s",
                f"{one['micro_batch_cpu_s']:,.2f} s",
                f"{one['memory_mb']:,} MB",
            )
            for one in found
        ],
    )


if __name__ == "__main__":
    main()
