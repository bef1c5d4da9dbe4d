"""What the hot lane says of itself, and what is read of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from rich.console import Console

from orchestration.assets.hot import keeps_up
from orchestration.hot.reporting import (
    STALE_SECONDS,
    Latencies,
    figures,
    read_state,
    state_file,
    write_state,
)
from orchestration.hot.sender import Sent
from orchestration.report import hot_state, print_status
from orchestration.settings import Settings


def test_percentiles_of_each_sync_and_of_all() -> None:
    latencies = Latencies()
    for number in range(1, 101):
        latencies.note(Sent("a" if number % 2 else "b", number / 100))
    found = latencies.by_sync()
    assert found[""] == {"count": 100, "p50": 0.51, "p95": 0.96, "p99": 1.0, "max": 1.0}
    assert found["a"]["count"] == found["b"]["count"] == 50
    assert {sync: len(found) for sync, found in latencies.take_fresh().items()} == {
        "a": 50,
        "b": 50,
    }
    assert latencies.take_fresh() == {}


def test_one_figure_is_its_own_percentile() -> None:
    assert figures([0.25]) == {"count": 1, "p50": 0.25, "p95": 0.25, "p99": 0.25, "max": 0.25}


def test_a_lane_that_has_stopped_saying_so_does_not_run(settings: Settings) -> None:
    assert read_state(settings) is None
    write_state(state_file(settings), {"at": time.time()})
    assert (read_state(settings) or {})["running"] is True
    write_state(state_file(settings), {"at": time.time() - STALE_SECONDS - 1})
    assert (read_state(settings) or {})["running"] is False
    state_file(settings).write_text("half a file")
    assert read_state(settings) is None


def state(**changes: Any) -> dict[str, Any]:
    """What a lane says of itself when all is well."""
    counts = {"recorded": 3, "expired": 2, "known": 0, "left": 1, "waiting": 4, "outcomes": {}}
    times = {"count": 3, "p50": 0.2, "p95": 0.7, "p99": 0.75, "max": 0.8}
    return {
        "at": time.time(),
        "pid": 4711,
        "behind": 0,
        "customers_waiting": 0,
        "timers": 5,
        "lag_seconds": 0.0,
        "held_back": False,
        "rows": 9,
        "customers": 2,
        "latency": {"webhook__card_freeze": times, "": times},
        "syncs": {"webhook__card_freeze": counts | {"problem": None, "signals": ["card_fraud"]}},
        "refused": {},
    } | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"at": time.time() - 2.2 * 3600}, "does not run: it was last heard of 2 hours ago"),
        ({"held_back": True}, "reads no further until the warehouse has caught up"),
        ({"lag_seconds": 45.0, "customers_waiting": 7}, "waited 45 s for the hot lane"),
    ],
)
def test_a_lane_in_trouble_is_an_alarm_that_says_what_to_do(
    settings: Settings, changes: dict[str, Any], words: str
) -> None:
    write_state(state_file(settings), state())
    assert keeps_up().passed
    write_state(state_file(settings), state(**changes))
    result = keeps_up()
    assert not result.passed and words in (result.description or "")
    state_file(settings).unlink()
    assert keeps_up().passed, "where no lane ever ran the micro-batch acts alone"


def test_a_destination_in_trouble_is_named(settings: Settings) -> None:
    broken = state()
    broken["syncs"]["webhook__card_freeze"]["problem"] = "no route to host"
    write_state(state_file(settings), broken)
    result = keeps_up()
    assert not result.passed and "webhook__card_freeze is not sent" in (result.description or "")


def test_status_shows_each_signal_what_waits_and_what_was_dropped(settings: Settings) -> None:
    write_state(state_file(settings), state(lag_seconds=2.0))
    console = Console(record=True, width=80)
    print_status(
        {
            "accepted": 1,
            "stages": {},
            "deliveries": {},
            "hot": hot_state(settings),
            "sources": [],
            "lanes": {},
            "seconds_since_build": None,
            "waiting_to_load": 0,
            "writer": None,
            "serving": {},
            "log": None,
        },
        console,
    )
    told = console.export_text()
    row = next(line for line in told.splitlines() if "card_fraud" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "card_fraud", "webhook", "3", "0.20", "0.70", "0.75",
    ]  # fmt: skip
    assert "the oldest for 2 s; 4 actions to send" in " ".join(told.split())
    assert "2 expired and were dropped, 1 were left" in " ".join(told.split())
