"""The warm process: forks that run, end and leave nothing behind, and what happens without it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestration import warm
from orchestration.settings import Settings

# The real server loop with a light body in place of Dagster's, so that the protocol and the
# processes are tested without a minute of imports.
SERVER = """
import json, os, sys
from orchestration import warm
from orchestration.settings import load_settings
def run(run_id):
    if run_id == "crash":
        os.abort()
    open(sys.argv[1], "a").write(f"{run_id} {os.getpid()} {os.getppid()}\\n")
    os._exit(0)
warm._import_everything = lambda settings: None
warm._run = run
warm.serve(load_settings())
"""


@pytest.fixture
def server(settings: Settings, tmp_path: Path):  # type: ignore[no-untyped-def]
    record = tmp_path / "runs"
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(record)])
    waiting = threading.Event()
    for _ in range(200):
        if warm.answers(settings):
            break
        waiting.wait(0.05)
    yield process, record
    process.kill()
    process.wait()


def lines(record: Path, count: int) -> list[str]:
    waiting = threading.Event()
    for _ in range(200):
        found = record.read_text().splitlines() if record.exists() else []
        if len(found) >= count:
            return found
        waiting.wait(0.05)
    raise AssertionError(f"{len(found)} of {count} runs")


def test_each_run_is_a_process_of_its_own(settings: Settings, server) -> None:  # type: ignore[no-untyped-def]
    process, record = server
    pids = [warm.request(settings, f"run{number}") for number in range(3)]
    assert sorted(lines(record, 3)) == [
        f"run{number} {pid} {process.pid}" for number, pid in enumerate(pids)
    ]
    assert len(set(pids)) == 3


def test_a_crashed_run_and_a_rude_client_do_not_stop_it(settings: Settings, server) -> None:  # type: ignore[no-untyped-def]
    _, record = server
    warm.request(settings, "crash")
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(warm.socket_path(settings)))
        rude.sendall(b"not json")
    warm.request(settings, "after")
    assert lines(record, 1)[0].startswith("after")


def test_it_leaves_no_socket_behind(settings: Settings, server) -> None:  # type: ignore[no-untyped-def]
    process, _ = server
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=10)
    assert process.returncode == 0
    with pytest.raises(OSError, match="No such file"):
        warm.request(settings, "late")
