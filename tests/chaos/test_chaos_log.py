"""The log's writer and its retention, killed at each step and at any instant."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from kill_points import APPEND_POINTS, LOG_POINTS, RETENTION_POINTS, STEPS
from test_kill_points import KilledRetention, KilledWriter
from test_log import stored
from torn import log_bytes, tear

from ingestion.log import LogReader

pytestmark = pytest.mark.timeout(1800)

KILLS = 200


@pytest.mark.parametrize("step", [*STEPS, "any instant"])
def test_log_writer(chaos: Any, tmp_path: Path, step: str) -> None:
    """It appends as fast as the disk allows, in small segments."""
    log = KilledWriter(tmp_path)
    points = [point for point in STEPS.get(step, ()) if point in LOG_POINTS]
    killed = cut = 0
    for _ in chaos.attempts:
        if killed == chaos.kills:
            break
        if points:
            point = chaos.lottery.choice(points)
            call = chaos.lottery.randint(1, 60 if point in APPEND_POINTS else 2)
            killed += log.kill(point, call, seconds=10)
        else:
            log.kill(None, 0, seconds=chaos.lottery.uniform(0.02, 0.7))
            killed += 1
        if chaos.lottery.random() < 0.4:
            tear(log.directory, chaos.lottery)
        before = log_bytes(log.directory) if log.directory.exists() else 0
        less = log.check()
        # A segment that had no magic yet gets it, which is the one thing a recovery adds.
        assert -8 <= before - less - log_bytes(log.directory) <= 0
        cut += less

    chaos.report(
        kills=killed,
        lost=max(0, log.acknowledged - log.seen),
        duplicates=0,
        unknown=log.seen - log.acknowledged,
        more=f"{log.seen} records, {len(list(log.directory.glob('*.log')))} segments, "
        f"{cut} torn bytes cut",
    )
    assert killed == chaos.kills
    assert stored(log.directory) == [b"record %d" % n for n in range(log.seen)]


def test_retention(chaos: Any, tmp_path: Path) -> None:
    """It deletes what is loaded, beside a writer and readers."""
    log = KilledRetention(tmp_path)
    killed = at_points = 0
    try:
        while LogReader(log.directory).end() < 5_000:
            time.sleep(0.02)
        for _ in chaos.attempts:
            if killed == chaos.kills:
                break
            seed = chaos.lottery.randrange(1 << 32)
            if chaos.lottery.random() < 0.7:
                point = chaos.lottery.choice(list(RETENTION_POINTS))
                at_points += log.kill(point, chaos.lottery.randint(1, 3), seed, seconds=3)
            else:
                log.kill(None, 0, seed, seconds=chaos.lottery.uniform(0.1, 0.5))
            killed += 1
            log.check()
    finally:
        log.close()
    end = LogReader(log.directory).end()
    chaos.report(
        kills=killed,
        lost=0,
        duplicates=0,
        unknown=0,
        more=f"{at_points} at exact points, {log.first} of {end} records deleted",
    )
    assert killed == chaos.kills
    assert at_points > 0.3 * killed
    assert log.first > 0
