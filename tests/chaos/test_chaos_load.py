"""Loading the log into the lake, killed at each step and at any instant, then once in peace."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from dbt_warehouse import Warehouse
from lakes import query
from test_load import (
    AFTER_COMMIT,
    BEFORE_COMMIT,
    CHILDREN,
    new_loader,
    quarantined,
    record,
)

from ingestion.destination import Lake
from ingestion.loaded import loaded_end
from ingestion.log import EventLog

pytestmark = pytest.mark.timeout(2400)

KILLS = 200

STEPS = {
    "mid-load": BEFORE_COMMIT,
    "after the commit": AFTER_COMMIT,  # and before the log is told, or right after that
}

NEVER = "600"  # the child's own fuse, in seconds: these are killed from outside


class Loads:
    """The process that always has a child waiting, which loads when it is sent a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._children: list[psutil.Process] = []

    def begin(self, when: str) -> None:
        parent = psutil.Process(self._process.pid)
        deadline = time.monotonic() + 60
        while not (found := parent.children()) and time.monotonic() < deadline:
            time.sleep(0.0005)
        self._children = found
        assert self._process.stdin is not None
        self._process.stdin.write(when + "\n")
        self._process.stdin.flush()

    def status(self) -> int:
        """Exit status of the child, negative the signal that ended it."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def kill_child(self, seconds: float) -> None:
        """SIGKILL to the child so many seconds after it was told; nothing if it has ended."""
        time.sleep(seconds)
        for child in self._children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


@pytest.mark.parametrize("step", [*STEPS, "any instant"])
def test_load(chaos: Any, lake: Lake, tmp_path: Path, step: str) -> None:
    for name in ("home", "cwd"):
        (tmp_path / name).mkdir()
    log = EventLog(tmp_path / "log", segment_bytes=100_000)
    sent: list[int] = []  # number of the message at each log_seq
    bad: set[int] = set()

    def append(count: int) -> None:
        """New messages, one in ten of them a second delivery of an old one."""
        fresh = itertools.count(max(sent, default=-1) + 1)
        numbers = []
        for _ in range(count):
            if sent and chaos.lottery.random() < 0.1:
                numbers.append(chaos.lottery.choice(sent))
            else:
                numbers.append(next(fresh))
                if chaos.lottery.random() < 0.15:
                    bad.add(numbers[-1])
        log.append([quarantined(n) if n in bad else record(n) for n in numbers])
        sent.extend(numbers)

    command = [
        *(sys.executable, "-c", CHILDREN, lake.catalog_url, lake.data_path),
        *(str(log.directory), str(lake.pipelines_dir)),
    ]
    killed = 0
    points = list(STEPS.get(step, ()))
    chaos.lottery.shuffle(points)
    rounds = itertools.cycle(points)
    watcher = new_loader(lake, log.directory)
    with subprocess.Popen(
        command,
        cwd=tmp_path / "cwd",
        env={"HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        loads = Loads(process)
        append(500)
        loads.begin(NEVER)
        assert loads.status() == 0
        started = time.monotonic()  # of a second one, which need not create the tables
        append(500)
        loads.begin(NEVER)
        assert loads.status() == 0
        usual = time.monotonic() - started
        position = watcher.position()
        for _ in chaos.attempts:
            if killed == chaos.kills:
                break
            append(chaos.lottery.randint(50, 400))
            if points and chaos.lottery.random() < 0.1:  # or what waits would only grow
                loads.begin(NEVER)
                assert loads.status() == 0
            elif points:
                when = next(rounds)
                loads.begin(when)
                assert loads.status() == -signal.SIGKILL, when
                killed += 1
                expected = len(sent) if when in AFTER_COMMIT else position
                assert watcher.position() == expected, when
                told = len(sent) if when == "told the log" else position
                assert loaded_end(log.directory) == told, when
            else:
                loads.begin(NEVER)
                loads.kill_child(chaos.lottery.uniform(0.0, 1.1 * usual))
                status = loads.status()
                assert status in (0, -signal.SIGKILL)
                killed += status != 0
            assert position <= watcher.position() <= len(sent)
            assert loaded_end(log.directory) <= watcher.position()
            position = watcher.position()
    watcher.close()

    loader = new_loader(lake, log.directory)
    loader.load()
    loader.close()
    log.close()
    columns = "log_seq, source, message_id"
    rows = query(
        lake, f"select {columns} from raw.events union all select {columns} from raw.quarantine"
    )
    expected_rows = {(seq, "web", f"m{number}") for seq, number in enumerate(sent)}
    missing = expected_rows - set(rows)
    events = {(source, f"m{n}") for n in set(sent) - bad for source in ("web",)}
    kept = deduplicated(lake, tmp_path)
    chaos.report(
        kills=killed,
        lost=len(missing) + len(events - set(kept)),
        duplicates=len(kept) - len(set(kept)),
        unknown=0,
        more=f"{len(sent)} records, {len(rows) - len(expected_rows)} rows loaded twice, "
        f"{len(kept)} events after staging",
    )
    assert killed == chaos.kills
    assert sorted(rows) == sorted(expected_rows)  # and none of them twice
    assert len(kept) == len(set(kept))
    assert set(kept) == events
    assert list((tmp_path / "cwd").iterdir()) == []


def deduplicated(lake: Lake, directory: Path) -> list[tuple[str, str]]:
    """(source, message_id) of the rows that staging makes of raw, in two incremental builds."""
    (directory / "dbt").mkdir()
    warehouse = Warehouse(directory / "dbt")
    with lake.connect() as connection:
        raw = connection.execute("select * from lake.raw.events order by log_seq").to_arrow_table()
    # The second part starts among the repeats of the first one.
    middle = raw.num_rows // 2
    for part in (raw.slice(0, middle), raw.slice(middle)):
        with warehouse.connect() as connection:
            connection.register("part", part)
            connection.execute("insert into raw.events by name select * from part")
        warehouse.dbt("build", "--select", "identity_rules", "stg_events")
    return warehouse.query("select source, message_id from main.stg_events")
