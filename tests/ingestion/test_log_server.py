"""Appends from other processes, and a collector whose workers and owner are killed."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from collector_process import LOGIN, Server, start, stop

from ingestion.log import EventLog, LogBusy, LogReader, LogUnavailable
from ingestion.log_server import SOCKET, LogServer, RemoteLog, open_log

pytestmark = pytest.mark.timeout(120)


def test_what_is_sent_is_on_disk_in_order(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log, LogServer(log, tmp_path), RemoteLog(tmp_path) as remote:
        assert remote.append([b"a", b"b"]) == range(0, 2)
        assert log.append([b"c"]) == range(2, 3)
        assert remote.append([b"d"]) == range(3, 4)
        assert remote.append([]) == range(4, 4)
        assert remote.end() == 4
        assert remote.problem() is None
        big = [bytes([n]) * 1_000_000 for n in range(1, 41)]
        assert remote.append(big) == range(4, 44)
        for wrong in ([b""], [b"x" * (16 * 1024 * 1024 + 1)]):
            with pytest.raises(ValueError, match="must have 1 to"):
                remote.append(wrong)
        with pytest.raises(ValueError, match="too many at a time"):
            remote.append([b"x" * 15_000_000] * 5)
        assert remote.append([b"e"]) == range(44, 45)
    records = [record for _, record in LogReader(tmp_path).read(0, 100)]
    assert records == [b"a", b"b", b"c", b"d", *big, b"e"]


def test_only_its_own_user_may_connect_however_deep_the_home(tmp_path: Path) -> None:
    directory = tmp_path.joinpath(*["d" * 40] * 4)
    with EventLog(directory) as log, LogServer(log, directory), RemoteLog(directory) as remote:
        assert stat.S_IMODE((directory / SOCKET).stat().st_mode) == 0o600
        assert remote.append([b"a"]) == range(0, 1)
    assert not (directory / SOCKET).exists()


class CountingLog:
    """A log whose appends take a while, so that some have to wait."""

    recovered_bytes = 7

    def __init__(self) -> None:
        self.groups: list[int] = []

    def append(self, records: Sequence[bytes]) -> range:
        start = sum(self.groups)
        time.sleep(0.02)
        self.groups.append(len(records))
        return range(start, start + len(records))

    def end(self) -> int:
        return sum(self.groups)

    def problem(self) -> str | None:
        return "full" if self.groups else None


def test_several_processes_share_an_append_and_each_gets_its_own_positions(tmp_path: Path) -> None:
    log = CountingLog()
    got: list[range] = []
    with LogServer(log, tmp_path):

        def send(size: int) -> None:
            with RemoteLog(tmp_path) as remote:
                for _ in range(5):
                    got.append(remote.append([b"x"] * size))
                assert remote.recovered_bytes == 7
                assert remote.problem() == "full"

        threads = [threading.Thread(target=send, args=(1 + n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(map(len, got)) == sum(log.groups) == 5 * 36
    assert {seq for positions in got for seq in positions} == set(range(5 * 36))
    assert len(log.groups) < 30


def test_refusals_arrive_and_the_connection_lives_on(tmp_path: Path) -> None:
    with EventLog(tmp_path, reserve_bytes=1 << 60) as log, LogServer(log, tmp_path):
        with RemoteLog(tmp_path) as remote:
            assert "MB left" in str(remote.problem())
            with pytest.raises(LogUnavailable, match="MB left"):
                remote.append([b"a"])
            log._reserve = 0
            assert remote.problem() is None
            assert remote.append([b"a"]) == range(0, 1)
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(tmp_path / SOCKET))
            rude.sendall(b"\xff\xff\xff\xff")
            assert b"too large" in rude.recv(100)


def test_a_log_is_opened_by_whoever_may(tmp_path: Path) -> None:
    with open_log(tmp_path) as own:
        assert isinstance(own, EventLog)
        own.append([b"a"])
        with pytest.raises(LogBusy), open_log(tmp_path):
            pass
        with LogServer(own, tmp_path), open_log(tmp_path) as remote:
            assert isinstance(remote, RemoteLog)
            assert remote.append([b"b"]) == range(1, 2)
    with pytest.raises(LogUnavailable, match="start the collector"):
        RemoteLog(tmp_path).append([b"c"])


def test_a_remote_log_comes_back_with_its_writer(tmp_path: Path) -> None:
    remote = RemoteLog(tmp_path)
    for number in range(2):
        with EventLog(tmp_path) as log, LogServer(log, tmp_path):
            if number:  # its connection is that of the writer before
                with pytest.raises(LogUnavailable, match="went away"):
                    remote.append([b"lost"])
            assert remote.append([b"x"]) == range(number, number + 1)
    remote.close()


class Senders:
    """Clients that post batches of three, and remember what was answered 200."""

    def __init__(self, server: Server, count: int, *, go_on: bool) -> None:
        self.acknowledged: set[str] = set()
        self.statuses: set[int] = set()
        self._server = server
        self._go_on = go_on
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int) -> None:
        target = len(self.acknowledged) + more
        deadline = time.monotonic() + 30
        while len(self.acknowledged) < target:
            assert time.monotonic() < deadline, (len(self.acknowledged), target)
            time.sleep(0.005)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def _send(self, sender: int) -> None:
        number = 0
        while not self._stop.is_set():
            ids = [f"{sender}-{number}-{n}" for n in range(3)]
            try:
                answer = self._server.batch(*({**LOGIN, "messageId": i} for i in ids))
            except (OSError, http.client.HTTPException):
                if not self._go_on:
                    return
                continue  # and the same ones again
            self.statuses.add(answer.status)
            if answer.status == 200:
                self.acknowledged.update(ids)
                number += 1


def workers_of(server: Server) -> list[psutil.Process]:
    """Its processes that take requests, without multiprocessing's own helper."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # one that was killed may go at any moment
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def stored_ids(directory: Path) -> list[str]:
    return [json.loads(raw)["message_id"] for _, raw in LogReader(directory).read(0, 1_000_000)]


def test_killed_workers_are_replaced_and_a_killed_owner_takes_them_along(tmp_path: Path) -> None:
    server = start(tmp_path / "log", workers=2)
    senders = Senders(server, 6, go_on=True)
    senders.wait_for(60)
    first = workers_of(server)
    assert len(first) == 2
    for _ in range(2):
        victim = workers_of(server)[0]
        victim.kill()
        senders.wait_for(60)
    deadline = time.monotonic() + 30
    while len(workers_of(server)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    senders.stop()
    health = server.ask("GET", "/health").json
    assert health["accepted"] >= len(senders.acknowledged)
    assert health["log_end"] >= len(senders.acknowledged)
    assert senders.statuses == {200}

    senders = Senders(server, 4, go_on=False)
    senders.wait_for(60)
    last = workers_of(server)
    assert stop(server, signal.SIGKILL) == -signal.SIGKILL
    _, alive = psutil.wait_procs(last, timeout=10)
    assert not alive
    senders.join()
    with EventLog(tmp_path / "log"):
        pass
    assert senders.acknowledged <= set(stored_ids(tmp_path / "log"))


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_answers_what_is_in_flight_and_refuses_the_rest(
    tmp_path: Path, workers: int
) -> None:
    server = start(tmp_path / "log", workers=workers)
    senders = Senders(server, 8, go_on=False)
    senders.wait_for(200)
    started = time.monotonic()
    assert stop(server) == 0
    assert time.monotonic() - started < 10
    senders.join()  # each of them ended because its next connection was refused
    assert senders.statuses == {200}
    stored = stored_ids(tmp_path / "log")
    assert senders.acknowledged <= set(stored)
    # Nothing was cut off between the log and the answer either.
    assert len(stored) == len(set(stored)) <= len(senders.acknowledged) + 8 * 3
    with pytest.raises(OSError):
        server.ask("GET", "/health")


FULL = """
import os, sys
from pathlib import Path
from ingestion.collector import run
real = os.statvfs
def statvfs(path):
    found = real(path)
    full = Path(sys.argv[1]).with_name("full").exists()
    return os.statvfs_result((*found[:4], 1 if full else found.f_bavail, *found[5:]))
os.statvfs = statvfs
run(Path(sys.argv[1]), {"wk_web": "web"}, port=0, workers=2, reserve_bytes=1 << 20,
    on_ready=lambda port: print(port, flush=True))
"""


def test_a_disk_that_is_nearly_full_means_503_until_there_is_room(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FULL, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    server = Server(process, int(process.stdout.readline()), tmp_path / "log")
    assert server.batch(LOGIN).status == 200
    (tmp_path / "full").touch()
    refused = server.batch(LOGIN)
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.json["code"] == "log_unavailable"
    health = server.ask("GET", "/health")
    assert (health.status, health.json["status"]) == (503, "unavailable")
    assert "0 MB left and 1 MB are kept free" in health.json["problem"]
    (tmp_path / "full").unlink()
    assert server.batch(LOGIN).status == 200
    assert server.ask("GET", "/health").json["status"] == "ok"
    assert len(stored_ids(tmp_path / "log")) == 2
    assert stop(server) == 0
