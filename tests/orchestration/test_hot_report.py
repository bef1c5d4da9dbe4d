"""What the hot lane says of itself, and what is read of it."""

from __future__ import annotations

import time

from orchestration.hot.reporting import (
    STALE_SECONDS,
    Latencies,
    figures,
    read_state,
    state_file,
    write_state,
)
from orchestration.hot.sender import Sent
from orchestration.settings import Settings


def test_percentiles_of_each_sync_and_of_all() -> None:
    latencies = Latencies()
    for number in range(1, 101):
        latencies.note(Sent("a" if number % 2 else "b", number / 100))
    found = latencies.by_sync()
    assert found[""] == {"count": 100, "p50": 0.51, "p95": 0.96, "p99": 1.0, "max": 1.0}
    assert found["a"]["count"] == found["b"]["count"] == 50
    assert len(latencies.take_fresh()) == 100 and latencies.take_fresh() == []


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
