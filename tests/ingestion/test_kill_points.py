"""Log, retention and collector, killed at each point that matters. `make chaos` does more of it."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from kill_points import (
    APPEND_POINTS,
    LOG_POINTS,
    RETENTION_POINTS,
    ROTATION_POINTS,
    armed,
    environment,
    start_armed,
)
from test_log import WRITER, stored
from test_log_server import Senders, stored_ids

from ingestion.loaded import loaded_end
from ingestion.log import EventLog, LogReader

pytestmark = pytest.mark.timeout(120)


class KilledWriter:
    """A log whose writer is killed over and over, and what is known to be in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "log"
        self.acknowledged = self.seen = 0
        self._said = directory / "acknowledged"
        self._reader = LogReader(self.directory)  # kept all the time, beside the writers

    def kill(self, point: str | None, call: int, seconds: float = 10.0) -> bool:
        """Let a writer write until it dies at the point, or is killed after so many seconds."""
        # A file, because a pipe that nobody empties would hold the writer up.
        with self._said.open("wb") as said:
            writer = subprocess.Popen(
                [*armed(point, call, WRITER), str(self.directory)], stdout=said, env=environment()
            )
            try:
                writer.wait(seconds)
                at_point = True
            except subprocess.TimeoutExpired:
                writer.kill()
                at_point = False
        assert writer.wait() == -signal.SIGKILL
        lines = self._said.read_text().split("\n")[:-1]  # the last one may be cut off
        self.acknowledged = max([self.acknowledged, *map(int, lines)])
        return at_point

    def check(self) -> int:
        """Open it as the next writer does; returns the bytes that were cut."""
        committed = self._reader.end()
        with EventLog(self.directory) as log:
            end, cut = log.end(), log.recovered_bytes
        assert self.acknowledged <= committed <= end
        found = self._reader.read(self.seen, end)
        assert found == [(n, b"record %d" % n) for n in range(self.seen, end)]
        self.seen = end
        return cut


# Loads in pretence and deletes what it says is loaded, beside a writer in another process.
RETAINER = """
import random, sys
from pathlib import Path
from ingestion.loaded import loaded_end, publish_loaded
from ingestion.log import LogReader
from ingestion.retention import retain
directory, lottery = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
reader = LogReader(directory)
while True:
    loaded, end = loaded_end(directory), reader.end()
    publish_loaded(directory, min(end, loaded + lottery.randint(0, 2_000)))
    retain(directory, max_seconds=1e9, max_bytes=lottery.choice([0, 60_000]))
"""


class KilledRetention:
    """A log that one process writes while another, killed over and over, deletes from it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "log"
        self.first = 0
        self._reader = LogReader(self.directory)
        self._writer = subprocess.Popen(
            [*armed(None, 0, WRITER.replace("1 + number % 7", "50")), str(self.directory)],
            stdout=subprocess.DEVNULL,
            env=environment(),
        )

    def close(self) -> None:
        self._writer.kill()
        self._writer.wait()

    def kill(self, point: str | None, call: int, seed: int, seconds: float = 10.0) -> bool:
        """Let a process delete until it dies at the point, or is killed after so many seconds."""
        retainer = subprocess.Popen(
            [*armed(point, call, RETAINER), str(self.directory), str(seed)], env=environment()
        )
        try:
            retainer.wait(seconds)
            at_point = True
        except subprocess.TimeoutExpired:
            retainer.kill()
            at_point = False
        assert retainer.wait() == -signal.SIGKILL
        return at_point

    def check(self) -> None:
        """What is not loaded is there, and what is kept has no gap."""
        loaded, first = loaded_end(self.directory), self._reader.first()
        assert self.first <= first <= loaded
        self.first = first
        for reader in (self._reader, LogReader(self.directory)):
            found = reader.read(first, loaded - first + 5_000)  # the writer outpaces any reader
            assert found == [(n, b"record %d" % n) for n in range(first, first + len(found))]
            assert first + len(found) >= loaded


@pytest.mark.parametrize("point", LOG_POINTS)
def test_log(tmp_path: Path, point: str) -> None:
    log = KilledWriter(tmp_path)
    # The later calls come in the middle of writing, the first of some when the log is opened.
    cut = 0
    for call in (1, 40) if point in APPEND_POINTS else (1, 2):
        assert log.kill(point, call)
        cut += log.check()
    assert log.seen > 50 or point in ROTATION_POINTS
    assert (cut > 0) == (point == "half of a group written")
    assert stored(log.directory) == [b"record %d" % n for n in range(log.seen)]


def test_retention(tmp_path: Path) -> None:
    log = KilledRetention(tmp_path)
    try:
        while LogReader(log.directory).end() < 5_000:
            time.sleep(0.02)
        for number, point in enumerate(RETENTION_POINTS):
            assert log.kill(point, 2, seed=number)
            log.check()
    finally:
        log.close()
    assert log.first > 0


@pytest.mark.parametrize("point", APPEND_POINTS)
def test_collector(tmp_path: Path, point: str) -> None:
    acknowledged: set[str] = set()
    for call in (random.Random(point).randint(20, 40), 60):
        server = start_armed(tmp_path / "log", point, call)
        senders = Senders(server, 4, go_on=False)
        assert server.process.wait(30) == -signal.SIGKILL
        assert server.process.stdout is not None
        server.process.stdout.close()
        senders.join()
        assert senders.statuses == {200}
        # The next life sends the same ids again, as clients do: what was answered counts once.
        acknowledged |= senders.acknowledged
        with EventLog(tmp_path / "log"):
            pass
        assert acknowledged <= set(stored_ids(tmp_path / "log"))
