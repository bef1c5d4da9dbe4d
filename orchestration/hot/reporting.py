"""What the lane says of itself: a file for `signalbox status` and checks, events for Dagster.

Both are written by a thread of their own, so that the lane never waits for a disk or a database.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from orchestration.hot.lane import Lane
from orchestration.hot.sender import Sender, Sent
from orchestration.settings import ROOT, Settings

log = logging.getLogger("signalbox.hot")

ACTIONS = ("hot", "actions")
WRITE_SECONDS = 1.0
STALE_SECONDS = 10.0
#: Seconds that an event may wait for the lane before it is an alarm.
MAX_LAG = 10.0
#: The figures are of so many latest actions of each sync, and of no more than the last hour.
KEPT = 10_000
KEPT_SECONDS = 3_600.0


class Latencies:
    """Seconds from accepted, or from falling due, to the first byte; for any number of threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._kept: dict[str, deque[tuple[float, float]]] = {}
        self._fresh: dict[str, list[float]] = {}

    def note(self, sent: Sent) -> None:
        """One action's first byte is about to leave."""
        with self._mutex:
            kept = self._kept.setdefault(sent.sync, deque(maxlen=KEPT))
            kept.append((time.monotonic(), sent.seconds))
            self._fresh.setdefault(sent.sync, []).append(sent.seconds)

    def by_sync(self) -> dict[str, dict[str, float]]:
        """p50, p95 and p99 of each sync, and of all under the empty name."""
        oldest = time.monotonic() - KEPT_SECONDS
        with self._mutex:
            found = {
                sync: [seconds for at, seconds in kept if at > oldest]
                for sync, kept in self._kept.items()
            }
        found[""] = [seconds for several in found.values() for seconds in several]
        return {sync: figures(seconds) for sync, seconds in found.items() if seconds}

    def take_fresh(self) -> dict[str, list[float]]:
        """Those noted since the last call, by sync."""
        with self._mutex:
            fresh, self._fresh = self._fresh, {}
        return fresh


def figures(seconds: list[float]) -> dict[str, float]:
    """Count, p50, p95, p99 and the highest."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 4)

    return {
        "count": len(ordered),
        "p50": at(0.5),
        "p95": at(0.95),
        "p99": at(0.99),
        "max": round(ordered[-1], 4),
    }


class Reporter:
    """Writes the lane's state once a second, and an asset event for each second with work."""

    def __init__(self, settings: Settings, latencies: Latencies) -> None:
        self._file = state_file(settings)
        self._latencies = latencies
        self._instance: Any = None
        self._told: dict[str, int] = {}

    def prepare(self) -> None:
        """Import Dagster, which takes seconds; without it only the file is written."""
        try:
            from dagster import DagsterInstance
            from dagster._core.instance.ref import InstanceRef

            self._instance = DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT)))
        except Exception as error:
            log.warning("Dagster is not told of batches: %s", str(error).partition("\n")[0])

    def run(self, lane: Lane, senders: dict[str, Sender], stop: threading.Event) -> None:
        """Report until `stop` is set, and once more."""
        while True:
            ended = stop.wait(WRITE_SECONDS)
            state = self.state(lane, senders)
            write_state(self._file, state)
            try:
                self._tell(state)
            except Exception as error:
                log.warning("Dagster was not told: %s", type(error).__name__)
            if ended:
                return

    def state(self, lane: Lane, senders: dict[str, Sender]) -> dict[str, Any]:
        """Everything `signalbox status` shows of the lane."""
        return {
            "at": time.time(),
            "pid": os.getpid(),
            "position": lane.position,
            "behind": lane.behind,
            "customers_waiting": lane.waiting,
            "slow_waiting": lane.slow_waiting,
            "timers": lane.timers,
            "lag_seconds": round(lane.lag_seconds, 3),
            "held_back": not lane.window.has_room(),
            "rows": lane.window.rows,
            "customers": lane.window.customers,
            "faulted_in": lane.window.late,
            "lake_position": lane.window.snapshot.position,
            "batches": lane.batches,
            "events": lane.events,
            "evaluated": lane.evaluated,
            "latency": self._latencies.by_sync(),
            "syncs": {
                name: asdict(sender.counts)
                | {
                    "waiting": sender.waiting,
                    "signals": lane.project.signals_of(sender.spec.model),
                }
                for name, sender in senders.items()
            },
            "refused": lane.project.refused,
        }

    def _tell(self, state: dict[str, Any]) -> None:
        totals = {name: state[name] for name in ("batches", "events", "evaluated")}
        for name in ("recorded", "expired", "left"):
            totals[name] = sum(sync[name] for sync in state["syncs"].values())
        news = {name: total - self._told.get(name, 0) for name, total in totals.items()}
        fresh = self._latencies.take_fresh()
        if self._instance is None or not (news["batches"] or fresh):
            return
        from dagster import AssetObservation, MetadataValue

        self._told = totals
        metadata: dict[str, Any] = {
            "batches": news["batches"],
            "log records": news["events"],
            "customers run": news["evaluated"],
            "actions recorded": news["recorded"],
            "expired, dropped": news["expired"],
            "left to the micro-batch": news["left"],
            "records behind": state["behind"],
            "customers waiting": state["customers_waiting"],
            "actions waiting": sum(sync["waiting"] for sync in state["syncs"].values()),
            "lag seconds": state["lag_seconds"],
            "log_seq": state["position"],
        }
        if fresh:
            found = figures([seconds for several in fresh.values() for seconds in several])
            metadata |= {"actions sent": int(found["count"])}
            metadata |= {f"accepted to sent {p}": found[p] for p in ("p50", "p95", "p99")}
            metadata["by signal"] = MetadataValue.md(
                in_markdown(
                    (*signals_and_destination(sync, state["syncs"][sync]), figures(seconds))
                    for sync, seconds in sorted(fresh.items())
                )
            )
        # Not a materialization: Dagster would take each as a new version, which no check has seen
        # and which everything downstream is behind of.
        self._instance.report_runless_asset_event(
            AssetObservation(asset_key=list(ACTIONS), metadata=metadata)
        )


def signals_and_destination(sync: str, counts: Mapping[str, Any]) -> tuple[str, str]:
    """What a sync acts on and where, as people read it."""
    destination, _, what = sync.partition("__")
    return ", ".join(counts.get("signals", ())) or what, destination


def in_markdown(rows: Iterable[tuple[str, str, Mapping[str, float | None]]]) -> str:
    """Signal, destination and figures, as a table that Dagster shows."""
    lines = ["| signal | to | sent | p50 s | p95 s | p99 s |", "|---|---|---|---|---|---|"]
    for signal, destination, found in rows:
        times = " | ".join(f"{found[share] or 0:.2f}" for share in ("p50", "p95", "p99"))
        lines.append(f"| {signal} | {destination} | {found['count']} | {times} |")
    return "\n".join(lines)


def troubles(state: Mapping[str, Any]) -> list[str]:
    """What is wrong with the lane, in sentences that say what to do; none if all is well."""
    found = []
    if not state["running"]:
        found.append(
            f"The hot lane does not run: it was last heard of {age(time.time() - state['at'])} "
            "ago. Meanwhile the micro-batch acts on its signals. signalbox up starts it again when "
            f"it ends; if it hangs, end it (kill -9 {state['pid']}). The lines of hot in "
            "logs/signalbox.log say why."
        )
    elif state["held_back"]:
        found.append(
            "The hot lane reads no further until the warehouse has caught up: "
            f"{state['rows']:,} events are in memory, and the lake lacks many of them. See in "
            "Dagster why the runs of micro_batch fail or take long."
        )
    elif state["lag_seconds"] > MAX_LAG:
        found.append(
            f"An event has waited {age(state['lag_seconds'])} for the hot lane: "
            f"{state['behind']:,} records are unread, {state['customers_waiting']:,} customers "
            "wait. A backlog is worked off the latest first. If it grows, more comes than this "
            "machine can do: see what else uses the processors, or tag fewer signals."
        )
    if state["running"]:
        found += [
            f"{sync} is not sent by the hot lane: {counts['problem']}. The micro-batch tries, too; "
            f"signalbox sync errors {sync} says more."
            for sync, counts in state["syncs"].items()
            if counts["problem"]
        ]
    return found


def age(seconds: float) -> str:
    """A span of time in the unit that people would use."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def state_file(settings: Settings) -> Path:
    """Where the lane writes how it is."""
    return settings.home / "hot" / "state.json"


def write_state(file: Path, state: dict[str, Any]) -> None:
    """Replace the file; readers see the old state or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(state))
    fresh.replace(file)


def read_state(settings: Settings) -> dict[str, Any] | None:
    """How the lane was when it last said so, with `running`; None if it never ran here."""
    try:
        state: dict[str, Any] = msgspec.json.decode(state_file(settings).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
    return state | {"running": time.time() - state["at"] < STALE_SECONDS}
