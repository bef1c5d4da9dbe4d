"""How fresh the micro-batch is: accepted → loaded → visible in `churn_scores` → sent.

Runs the demo in a home of its own (everything up: collector, Dagster, sandbox, live traffic), then
asks Dagster when each run's steps ended, the lake which events each run had loaded, and the CRM's
stand-in when it was told of them. With --compare once with Dagster's stock launcher and once warm.

    python -m benchmarks.freshness [--customers 3000] [--compare] [--json]
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import support

PORTS = ("COLLECTOR_PORT", "DAGSTER_PORT", "SANDBOX_PORT", "SANDBOX_SMTP_PORT")
STAGES = ("accepted → run created", "run created → started", "load", "models", "syncs")


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("--customers", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=6, help="story rounds, 20 s each")
    parser.add_argument("--compare", action="store_true", help="also with the stock launcher")
    options = parser.parse_args()
    results = {}
    for launcher in ("stock", "warm") if options.compare else ("warm",):
        os.environ["SIGNALBOX_WARM_RUNS"] = str(launcher == "warm")
        results[launcher] = _run(options.customers, options.rounds)
    if options.json:
        support.print_json(results)
        return
    for launcher, result in results.items():
        _show(launcher, result)


def _run(customers: int, rounds: int) -> dict[str, Any]:
    from orchestration.settings import load_settings

    os.environ["SIGNALBOX_HOME"] = str(support.new_home())
    for name in PORTS:
        os.environ[f"SIGNALBOX_{name}"] = str(_free_port())
    load_settings.cache_clear()
    speed = support.core_speed()
    demo = _demo(customers, rounds)
    told = ("event_to_action_seconds", "missing")
    speeds = {"core_speed": [speed, support.core_speed()]}
    return _measure() | {name: demo[name] for name in told} | speeds


def _demo(customers: int, rounds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "orchestration.cli", "demo", "--check", "--json"]
    command += ["--customers", str(customers), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        # A story that ended otherwise fails the check and is in the report: times are times.
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"the demo failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return report


def _measure() -> dict[str, Any]:
    from orchestration import lake
    from orchestration.settings import load_settings

    runs = _runs()
    settings = load_settings()
    with lake.connect(settings) as connection:
        events = connection.execute(
            "select log_seq, received_at from raw.events where source <> 'import' order by 1"
        ).fetchall()
        accepted = connection.execute(
            "select event_at, received_at from stg_events where source <> 'import'"
        ).fetchall()
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    scored: list[float] = []
    sent: list[float] = []
    for log_seq, received_at in events:
        run = next((run for run in runs if run["first"] <= log_seq < run["next"]), None)
        if run is None or "syncs" not in run:
            continue
        moments = [received_at.timestamp(), run["created"], run["started"]]
        moments += [run["load_events"], run["models"], run["syncs"]]
        for name, (begin, end) in zip(STAGES, pairwise(moments), strict=True):
            # A record may arrive after its run was created: the run took it along.
            stages[name].append(max(end - begin, 0.0))
        scored.append(run["models"] - received_at.timestamp())
        sent.append(run["syncs"] - received_at.timestamp())
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "events": len(sent),
        "micro_batches": len(runs),
        "accepted_to_scored": _figures(scored),
        "accepted_to_sent": _figures(sent),
        "accepted_to_crm": _figures(
            _to_crm(settings.home, {_as_crm_has_it(at): moment for at, moment in accepted})
        ),
        "where_the_time_goes": {name: _figures(values) for name, values in stages.items()},
    }


def _as_crm_has_it(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _to_crm(home: Path, accepted: dict[datetime, datetime]) -> list[float]:
    """Of each contact that the CRM was told was seen again: seconds since that was accepted."""
    seconds = []
    for line in (home / "sandbox" / "effects.jsonl").read_text().splitlines():
        effect = json.loads(line)
        if effect["destination"] == "hubspot" and "last_seen_at" in effect.get("changes", {}):
            seen = datetime.fromisoformat(effect["changes"]["last_seen_at"][1])
            if seen in accepted:
                told = datetime.fromisoformat(effect["at"])
                seconds.append((told - accepted[seen]).total_seconds())
    return seconds


def _runs() -> list[dict[str, float]]:
    from dagster import DagsterInstance, RunsFilter
    from dagster._core.instance.ref import InstanceRef

    from orchestration.settings import ROOT

    instance = DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT)))
    runs = []
    for record in instance.get_run_records(RunsFilter(job_name="micro_batch")):
        run: dict[str, float] = {
            "created": record.create_timestamp.timestamp(),
            "started": record.start_time or 0.0,
        }
        for entry in instance.all_logs(record.dagster_run.run_id):
            event = entry.dagster_event
            if event is None:
                continue
            if event.event_type_value == "STEP_SUCCESS" and event.step_key:
                run[event.step_key] = entry.timestamp
            elif event.is_step_materialization and "first_log_seq" in (
                metadata := event.step_materialization_data.materialization.metadata
            ):
                run["first"] = int(metadata["first_log_seq"].value)  # type: ignore[call-overload]
                run["next"] = int(metadata["next_log_seq"].value)  # type: ignore[call-overload]
        if "first" in run and "syncs" in run:
            runs.append(run)
    return runs


def _figures(values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {
        "median": round(statistics.median(ordered), 2),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 2),
        "max": round(ordered[-1], 2),
    }


def _show(launcher: str, result: dict[str, Any]) -> None:
    rows = {
        "to the request in the CRM": result["accepted_to_crm"],
        "to visible in churn_scores": result["accepted_to_scored"],
        "to sent (all syncs of the batch)": result["accepted_to_sent"],
        **{f"  {name}": figures for name, figures in result["where_the_time_goes"].items()},
    }
    shown = ("median", "p95", "max")
    support.print_table(
        f"{launcher}: {result['events']} live events in {result['micro_batches']} micro-batches, "
        f"core speed {' / '.join(map(str, result['core_speed']))}",
        ["seconds from accepted", *shown],
        [[name, *(f"{figures[key]:.2f}" for key in shown)] for name, figures in rows.items()],
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
