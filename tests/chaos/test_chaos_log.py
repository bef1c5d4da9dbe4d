"""A process that appends as fast as the disk allows, in small segments, killed at any instant."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_log import WRITER, stored
from torn import log_bytes, tear

from ingestion.log import EventLog, LogReader

pytestmark = pytest.mark.timeout(600)


def test_log_writer(chaos: Any, tmp_path: Path) -> None:
    directory, said = tmp_path / "log", tmp_path / "acknowledged"
    reader = LogReader(directory)  # kept all the time, beside the writers
    killed = acknowledged = seen = cut = lost = 0
    for _ in chaos.attempts:
        if killed == chaos.kills:
            break
        # A file, because a pipe that nobody empties would hold the writer up.
        with said.open("wb") as stdout:
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(directory)], stdout=stdout, stderr=sys.stderr
            )
        time.sleep(chaos.lottery.uniform(0.02, 0.7))
        writer.kill()
        writer.wait()
        killed += 1
        lines = said.read_text().split("\n")[:-1]  # what follows the last line end is not a number
        acknowledged = max([acknowledged, *map(int, lines)])
        committed = reader.end()
        if chaos.lottery.random() < 0.4:
            tear(directory, chaos.lottery)
        before = log_bytes(directory) if directory.exists() else 0
        with EventLog(directory) as log:
            end = log.end()
            # A segment that had no magic yet gets it, which is the one thing a recovery adds.
            assert -8 <= before - log.recovered_bytes - log_bytes(directory) <= 0
            cut += log.recovered_bytes
        lost += max(0, acknowledged - end)
        assert acknowledged <= committed <= end
        found = reader.read(seen, end)
        assert found == [(n, b"record %d" % n) for n in range(seen, end)]
        seen = end

    chaos.report(
        kills=killed,
        lost=lost,
        duplicates=0,
        unknown=seen - acknowledged,
        more=f"{seen} records, {len(list(directory.glob('*.log')))} segments, {cut} torn bytes cut",
    )
    assert killed == chaos.kills
    assert stored(directory) == [b"record %d" % n for n in range(seen)]
