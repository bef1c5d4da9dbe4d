"""What a micro-batch costs as history grows, beside a full refresh: `python -m benchmarks.scale`.

    python -m benchmarks.scale [--events 1000000,10000000] [--customers 100000] [--batch 500]
                               [--rounds 5] [--homes DIR] [--json]

For each length of history, in a temporary home with its own Postgres: events of 120 days go
through the event log into the lake, all models that a micro-batch builds are built whole, then
micro-batches come, loaded and built as production does it: in a warm process, with the tests that
guard a batch, in one transaction. Upon the same events and identities run the usual incremental
models, in `lookback/`: a window of event times, merged by key. Figures are medians; the first batch
warms up and does not count. `--homes` keeps the homes in DIR and uses them again, each with the
batches that it has seen.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import scale_history, support
from ingestion.load import Loader
from ingestion.log import EventLog
from orchestration import dbt, ingest, lake, warehouse
from orchestration.settings import DBT_PROJECT, Settings, load_settings

LOOKBACK = Path(__file__).parent / "lookback"
# What the models of `lookback/` tell, as far as they do, is told by these.
COMPARABLE = ("customer_timeline", "sessions", "customer_features_daily")
LOAD_EVERY = 1_000_000  # events of the history between two loads


def measure(
    events: int, customers: int, batch: int, rounds: int, homes: Path | None
) -> dict[str, Any]:
    """Seconds of a full refresh and of a micro-batch, by model; in a process of its own."""
    home = homes / f"{events}" if homes else support.new_home()
    home.mkdir(parents=True, exist_ok=True, mode=0o755)
    os.environ["SIGNALBOX_HOME"] = str(home)  # dbt asks the environment
    settings = load_settings()
    support.share_lake(settings)
    dbt.warm_up(settings)
    names = batch_models(settings)
    with EventLog(settings.log_dir) as log, lake.writer(settings, "benchmark"):
        warehouse.ensure(settings)
        loader = ingest.loader(settings)
        if loader.position() == 0:
            fill(log, loader, events, customers)
        dbt.invoke(["seed"], settings)
        full = timed_run(["run", "--full-refresh", "--select", *above(names)], settings)
        lookback = Lookback(settings)
        lookback_full = lookback.run("--full-refresh")
        batches, lookback_batches = [], []
        for _ in range(rounds + 1):
            now = datetime.now(UTC)
            log.append(scale_history.batch(log.end(), batch, customers, now))
            seconds = {"load": loader.load().seconds}
            seconds |= timed_run(batch_command(names), settings, whole=True)
            seconds["total"] += seconds["load"]
            batches.append(seconds)
            lookback_batches.append(lookback.run())
        loader.close()
    return {
        "events": events,
        **counts(settings),
        "full_s": full,
        "batch_s": medians(batches[1:]),
        "lookback_full_s": lookback_full,
        "lookback_batch_s": medians(lookback_batches[1:]),
    }


def counts(settings: Settings) -> dict[str, int]:
    """What the lake holds at the end: every event is in the timeline, once."""
    with lake.connect(settings) as connection:
        row = connection.execute(
            "select (select count(*) from stg_events where id_key is not null),"
            " count(*), count(distinct event_id), count(distinct customer_id)"
            " from customer_timeline"
        ).fetchone()
    assert row is not None and row[0] == row[1] == row[2], row
    return {"timeline_events": row[1], "timeline_customers": row[3]}


def medians(batches: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: round(statistics.median(one[name] for one in batches), 3) for name in batches[0]}


class Lookback:
    """The usual incremental models on the same lake, in this process, with their manifest kept."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.home / "lookback"
        self._manifest = None
        self._manifest = self._invoke(["parse"])

    def run(self, *options: str) -> dict[str, float]:
        """Seconds of each model and in total."""
        started, cpu = time.perf_counter(), time.process_time()
        results = self._invoke(["run", *options])
        seconds = {result.node.name: result.execution_time for result in results}
        seconds["total"] = time.perf_counter() - started
        seconds["total, CPU"] = time.process_time() - cpu
        return {name: round(value, 3) for name, value in seconds.items()}

    def _invoke(self, command: list[str]) -> Any:
        from dbt.cli.main import dbtRunner

        places = {
            "--project-dir": LOOKBACK,
            "--profiles-dir": DBT_PROJECT,
            "--target-path": self._directory,
            "--log-path": self._directory,
        }
        options = [part for name, path in places.items() for part in (name, str(path))]
        runner = dbtRunner(manifest=self._manifest)
        return dbt.succeeded(runner.invoke([*command, *options, "--no-write-json", "--quiet"]))


def batch_models(settings: Settings) -> list[str]:
    """The models that a micro-batch builds, in the order of the manifest."""
    return [
        node["name"]
        for node in dbt.manifest(settings)["nodes"].values()
        if node["resource_type"] == "model"
        and node["config"]["materialized"] == "incremental"
        and not {"daily", "after_sync"} & set(node["tags"])
    ]


def above(names: list[str]) -> list[str]:
    """Selectors of the models, of what their tests read, and of the views that stand above them."""
    return [f"+{name}" for name in [*names, "tag:micro_batch"]]


def batch_command(names: list[str]) -> list[str]:
    """What a micro-batch has dbt do: its models, and the tests that guard them."""
    return [
        *("build", "--select", *names, "tag:micro_batch"),
        *("--indirect-selection", "empty", "--exclude-resource-type", "unit_test"),
    ]


def timed_run(command: list[str], settings: Settings, *, whole: bool = False) -> dict[str, float]:
    """Seconds of each model, of the tests together, of what dbt does besides, and in total."""
    seconds: dict[str, float] = {}
    cpu = time.process_time()

    def note(event: dict[str, Any]) -> None:
        node = event["data"].get("node_info", {})
        took = event["data"].get("execution_time")
        if took is None or node.get("materialized") == "view":
            return
        name = "tests" if node["resource_type"] == "test" else node["node_name"]
        seconds[name] = seconds.get(name, 0.0) + float(took)

    started = time.perf_counter()
    dbt.invoke(command, settings, on_event=note, whole=whole)
    total = time.perf_counter() - started
    seconds["dbt itself"] = total - sum(seconds.values())
    seconds |= {"total": total, "total, CPU": time.process_time() - cpu}
    return {name: round(value, 3) for name, value in seconds.items()}


def fill(log: EventLog, loader: Loader, events: int, customers: int) -> None:
    """Put a history into the log and, in parts, into the lake."""
    loaded = 0
    for part in scale_history.history(events, customers, datetime.now(UTC)):
        log.append(part)
        if log.end() - loaded >= LOAD_EVERY:
            loaded = loader.load().next_seq
    loader.load()


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("--events", default="1000000,10000000", help="lengths, by commas")
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=500, help="events of a micro-batch")
    parser.add_argument("--rounds", type=int, default=5, help="micro-batches that count")
    parser.add_argument("--homes", type=Path, help="keep the homes here and use them again")
    show(parser.parse_args())


def show(arguments: argparse.Namespace) -> None:
    sizes = [int(events) for events in arguments.events.split(",")]
    same = [arguments.customers, arguments.batch, arguments.rounds, arguments.homes]
    # dbt keeps its lake for the life of a process.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        found = list(processes.map(measure, sizes, *([value] * len(sizes) for value in same)))
    if arguments.json:
        support.print_json({"benchmark": "scale", "by_events": found})
        return
    tell("A micro-batch", "batch_s", found)
    tell("A full refresh", "full_s", found)
    tell("A micro-batch of the usual incremental models", "lookback_batch_s", found)


def tell(title: str, part: str, found: list[dict[str, Any]]) -> None:
    """A table of seconds by model and length of history, and of the longest to the shortest."""
    rows = []
    for name in found[-1][part]:
        seconds = [one[part][name] for one in found]
        rows.append((name, *(f"{value:,.2f}" for value in seconds), ratio(seconds)))
    sums = [sum(one[part].get(name, 0.0) for name in COMPARABLE) for one in found]
    if any(sums):
        label = "timeline, sessions, features"
        rows.append((label, *(f"{value:,.2f}" for value in sums), ratio(sums)))
    lengths = [f"{one['events']:,} events, s" for one in found]
    support.print_table(title, ["", *lengths, "ratio"], rows)


def ratio(seconds: list[float]) -> str:
    """How many times the first the last is."""
    return f"{seconds[-1] / seconds[0]:.2f}" if seconds[0] else ""


if __name__ == "__main__":
    main()
