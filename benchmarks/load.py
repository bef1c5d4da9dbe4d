"""How fast the event log gets into the lake: one large load, then small ones as in micro-batches.

    python -m benchmarks.load [--events 1000000] [--json]

Makes synthetic purchases (about 600 bytes of JSON each), in a temporary home with its own
Postgres. Times include everything from reading the log to the commit in the lake's catalog.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psutil

from benchmarks import support
from ingestion.contract import Contracts
from ingestion.envelope import Arrival, encode_record, to_record
from ingestion.load import Loader
from ingestion.log import EventLog
from orchestration import postgres
from orchestration.settings import Settings

SMALL_RECORDS = 1_000
SMALL_LOADS = 10


def records(count: int, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    now = datetime.now(UTC)
    contracts, arrival = Contracts.load(), Arrival("web", now)
    for number in range(count):
        items = [
            {
                "product_id": f"p{rng.randrange(500)}",
                "quantity": 1,
                "price": rng.randrange(99) + 0.5,
            }
            for _ in range(rng.randint(1, 3))
        ]
        message = {
            "type": "track",
            "event": "Purchase Completed",
            "messageId": f"{seed}-{number:012d}",
            "userId": f"user-{rng.randrange(100_000)}",
            "anonymousId": f"{rng.getrandbits(128):032x}",
            "timestamp": (now - timedelta(seconds=rng.random() * 7_776_000)).isoformat(),
            "context": {"library": {"name": "analytics-python", "version": "2.3.4"}},
            "properties": {
                "order_id": f"o{number}",
                "total": sum(item["price"] for item in items),
                "currency": "EUR",
                "items": items,
            },
        }
        yield encode_record(to_record(json.dumps(message).encode(), arrival, contracts))


def fill(log: EventLog, count: int, seed: int) -> int:
    size, batch = 0, []
    for record in records(count, seed):
        size += len(record)
        batch.append(record)
        if len(batch) == 10_000:
            log.append(batch)
            batch = []
    log.append(batch)
    return size


def measure(events: int) -> dict[str, float]:
    home = support.new_home()
    settings = Settings(home=home, postgres_url=None, lake_url="", _env_file=None)
    server = postgres.start(settings)
    with EventLog(settings.log_dir) as log:
        size = fill(log, events, seed=1)
        loader = Loader(server.lake, settings.lake_path, settings.log_dir, home / "dlt")
        started = time.perf_counter()
        loader.ensure_tables()
        ready = time.perf_counter() - started
        large = loader.load()
        small = []
        for number in range(SMALL_LOADS):
            fill(log, SMALL_RECORDS, seed=2 + number)
            small.append(loader.load().seconds)
        started = time.perf_counter()
        loader.position()
        position = time.perf_counter() - started
        loader.close()
    assert large.events == events
    return {
        "record_bytes": size / events,
        "first_attach_s": ready,
        "large_load_s": large.seconds,
        "large_load_rows_per_s": events / large.seconds,
        "small_load_first_s": small[0],
        "small_load_median_s": statistics.median(small),
        "small_load_max_s": max(small),
        "position_s": position,
        "memory_mb": psutil.Process().memory_info().rss / 2**20,
    }


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="events of the large load")
    arguments = parser.parse_args()
    figures = measure(arguments.events)
    if arguments.json:
        support.print_json({"benchmark": "load", "events": arguments.events, **figures})
        return
    rows = [
        ("bytes in a log record", f"{figures['record_bytes']:,.0f}"),
        ("attach the lake, create tables", f"{figures['first_attach_s']:.2f} s"),
        ("large load, with imports", f"{figures['large_load_s']:.1f} s"),
        ("", f"{figures['large_load_rows_per_s']:,.0f} rows/s"),
        (f"{SMALL_RECORDS:,} events, warm, median", f"{figures['small_load_median_s']:.2f} s"),
        (f"slowest of {SMALL_LOADS}", f"{figures['small_load_max_s']:.2f} s"),
        ("where to go on (asked before each load)", f"{figures['position_s'] * 1000:.0f} ms"),
        ("memory after all", f"{figures['memory_mb']:,.0f} MB"),
    ]
    support.print_table(f"Load of {arguments.events:,} events", ["what", "value"], rows)


if __name__ == "__main__":
    main()
