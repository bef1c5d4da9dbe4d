"""The supervisor with real child processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestration.supervisor import Process, StartFailed, Supervisor

OBEDIENT = """
import signal, sys, time
from pathlib import Path
def leave(*_):
    with open(sys.argv[1], "a") as file: print(sys.argv[2], "stopped", file=file)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
with open(sys.argv[1], "a") as file: print(sys.argv[2], "started", file=file, flush=True)
while True: time.sleep(0.05)
"""


def process(name: str, record: Path) -> Process:
    return Process(
        name,
        [sys.executable, "-c", OBEDIENT, str(record), name],
        ready=lambda: record.exists() and f"{name} started" in record.read_text(),
    )


def test_stops_in_the_opposite_order(tmp_path: Path) -> None:
    record = tmp_path / "record"
    supervisor = Supervisor(tmp_path / "log", on_notice=lambda _: None)
    supervisor.start(process("first", record))
    supervisor.start(process("second", record))
    supervisor.stop()
    assert record.read_text().splitlines() == [
        "first started", "second started", "second stopped", "first stopped",
    ]  # fmt: skip


def test_a_process_that_dies_is_started_again(tmp_path: Path) -> None:
    record = tmp_path / "record"
    notices: list[str] = []
    supervisor = Supervisor(tmp_path / "log", on_notice=notices.append)
    supervisor.start(process("worker", record))
    stop = threading.Event()
    watching = threading.Thread(target=supervisor.watch, args=(stop,))
    watching.start()
    (_, child), *_ = supervisor._children
    os.kill(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while record.read_text().count("worker started") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    watching.join()
    supervisor.stop()
    assert record.read_text().count("worker started") == 2
    assert "SIGKILL" in notices[0]


def test_a_process_that_cannot_start_shows_its_last_words(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path / "log", on_notice=lambda _: None)
    broken = Process("broken", [sys.executable, "-c", "exit('no such port')"], ready=lambda: False)
    with pytest.raises(StartFailed, match="no such port"):
        supervisor.start(broken)
    supervisor.stop()
    assert "no such port" in (tmp_path / "log").read_text()


def test_what_renews_begins_again_after_an_edit_and_the_rest_goes_on(tmp_path: Path) -> None:
    record = tmp_path / "record"
    notices: list[str] = []
    supervisor = Supervisor(tmp_path / "log", on_notice=notices.append)
    lane = process("lane", record)
    lane.renews = True
    supervisor.start(lane, process("collector", record))
    edits = iter([ValueError("the YAML is broken"), True])

    def edited() -> bool:
        match next(edits, False):
            case Exception() as error:
                raise error
            case answer:
                return bool(answer)

    supervisor.follow(edited)
    stop = threading.Event()
    watching = threading.Thread(target=supervisor.watch, args=(stop,))
    watching.start()
    deadline = time.monotonic() + 30
    while record.read_text().count("lane started") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    watching.join()
    supervisor.stop()
    told = record.read_text()
    assert (told.count("lane started"), told.count("collector started")) == (2, 1)
    assert notices == [
        "the YAML is broken", "The project was edited; begins again with it: lane.",
    ]  # fmt: skip
