"""The collector under load from raw HTTP and from Segment's own client, killed at each step."""

from __future__ import annotations

import http.client
import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from collector_process import LOGIN, SERVER, UNKNOWN, Server, stop
from kill_points import APPEND_POINTS, STEPS, start_armed
from segment.analytics.client import Client
from test_log_server import workers_of
from torn import log_bytes, tear

from ingestion.envelope import decode_record
from ingestion.log import LogReader

pytestmark = pytest.mark.timeout(2400)

KILLS = 200

SENDERS = 3


@dataclass
class Books:
    """What the clients know: how often each message left, and which were answered 200."""

    sent: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    surprises: list[Any] = field(default_factory=list)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def leaving(self, ids: list[str]) -> None:
        with self._mutex:
            self.sent.update(ids)

    def answered(self, ids: list[str]) -> None:
        with self._mutex:
            self.accepted.update(ids)


class Sender:
    """Posts batches over plain HTTP until the collector dies; then may try the last one again."""

    def __init__(self, name: int, lottery: random.Random, books: Books) -> None:
        self._name = name
        self._lottery = lottery
        self._books = books
        self._number = itertools.count()
        self._unanswered: list[dict[str, Any]] = []

    def run(self, server: Server) -> None:
        again = self._unanswered if self._lottery.random() < 0.7 else []
        while True:
            batch = again or [self._message() for _ in range(self._lottery.randint(1, 12))]
            again = []
            ids = [message["messageId"] for message in batch]
            self._books.leaving(ids)
            self._unanswered = batch
            try:
                answer = server.batch(*batch)
            except (OSError, http.client.HTTPException):
                return
            if answer.status == 200:
                self._books.answered(ids)
            elif answer.status != 503:  # which a worker says whose writer was killed
                self._books.surprises.append((answer.status, answer.body))
            self._unanswered = []

    def _message(self) -> dict[str, Any]:
        kind = self._lottery.random()
        message = dict(UNKNOWN if kind < 0.1 else LOGIN)
        if kind > 0.9:  # long enough for a kill to stop the write of a group half way
            message["context"] = {"padding": "x" * self._lottery.randint(1_000, 20_000)}
        return message | {"messageId": f"http-{self._name}-{next(self._number)}"}


class Sdk:
    """Segment's own client, one for each life of the collector, without retries of its own."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._number = itertools.count()

    def run(self, server: Server) -> None:
        failed: set[str] = set()
        gone = threading.Event()

        def on_error(error: Exception, batch: list[dict[str, Any]]) -> None:
            failed.update(message["messageId"] for message in batch)
            gone.set()

        client = Client(
            "wk_web",
            host=server.url,
            gzip=next(self._number) % 2 == 0,
            on_error=on_error,
            max_retries=0,
            upload_interval=0.05,
            upload_size=20,
            timeout=10,
        )
        ids = []
        while not gone.wait(0.005):
            ids.append(f"sdk-{next(self._number)}")
            self._books.leaving(ids[-1:])
            client.track("u1", "Logged In", {"method": "sso"}, message_id=ids[-1])
        client.shutdown()  # what it still holds it tries once more, in vain
        self._books.answered([one for one in ids if one not in failed])


def kill_while_starting(directory: Path, lottery: random.Random) -> bool:
    """Whether it died of it, and not of anything else before."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(directory), "{}"], stdout=subprocess.DEVNULL
    )
    time.sleep(lottery.uniform(0.1, 1.5))
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.fixture
def begin() -> Iterator[Callable[..., Server]]:
    """Starts collectors, and leaves none behind when the suite fails half way."""
    begun: list[Server] = []

    def begin(directory: Path, point: str | None = None, call: int = 0, workers: int = 1) -> Server:
        begun.append(start_armed(directory, point, call, workers))
        return begun[-1]

    yield begin
    for server in begun:
        server.process.kill()
        server.process.wait()


def kill_one_worker(server: Server, lottery: random.Random) -> list[psutil.Process]:
    """Kill it; returns all workers that there were, and those that take its place at once."""
    workers = workers_of(server)
    lottery.choice(workers).kill()
    time.sleep(lottery.uniform(0.0, 0.3))
    return [*workers, *workers_of(server)]


@pytest.mark.parametrize("step", [*STEPS, "any instant", "a worker", "while starting"])
def test_collector(chaos: Any, begin: Callable[..., Server], tmp_path: Path, step: str) -> None:
    directory = tmp_path / "log"
    books = Books()
    clients = [
        *(Sender(n, random.Random(chaos.lottery.random()), books) for n in range(SENDERS)),
        Sdk(books),
    ]
    reader = LogReader(directory)  # kept all the time, beside the collectors
    stored: Counter[str] = Counter()
    killed = seen = cut = 0

    def read_on() -> None:
        nonlocal seen
        found = reader.read(seen, sys.maxsize)
        assert [seq for seq, _ in found] == list(range(seen, seen + len(found)))
        stored.update(decode_record(raw).message_id for _, raw in found)
        seen += len(found)

    for _ in chaos.attempts:
        if killed == chaos.kills:
            break
        # Every second one: what was cut while starting must not hurt the next one's work.
        if step == "while starting" and chaos.lottery.random() < 0.5:
            assert kill_while_starting(directory, chaos.lottery)
            killed += 1
            continue
        torn = tear(directory, chaos.lottery) if chaos.lottery.random() < 0.4 else 0
        before = log_bytes(directory) if directory.exists() else 0
        point, call = None, 0
        if step in STEPS:
            point = chaos.lottery.choice(list(STEPS[step]))
            call = chaos.lottery.randint(3, 60 if point in APPEND_POINTS else 4)
        server = begin(directory, point, call, workers=2 if step == "a worker" else 1)
        if server.port:
            less = before - log_bytes(directory)
            assert not torn or less >= torn, "a torn tail was not cut"
            cut += max(0, less)
        threads = [threading.Thread(target=client.run, args=(server,)) for client in clients]
        for thread in threads:
            thread.start()
        if point:
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(10)
                killed += 1
        else:
            time.sleep(chaos.lottery.uniform(0.0, 0.7))
        read_on()
        workers = kill_one_worker(server, chaos.lottery) if step == "a worker" else []
        assert stop(server, signal.SIGKILL) == -signal.SIGKILL
        killed += step in ("any instant", "a worker")
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive, "workers outlived the process that writes the log"
        for thread in threads:
            thread.join()
        read_on()

    assert stop(begin(directory)) == 0
    read_on()
    lost = books.accepted - set(stored)
    unasked = {one: count for one, count in stored.items() if count > books.sent[one]}
    unknown = set(books.sent) - books.accepted
    chaos.report(
        kills=killed,
        lost=len(lost),
        duplicates=len(unasked),
        unknown=len(unknown),
        more=f"{len(books.accepted)} accepted, {len(unknown & set(stored))} of the unknown are in "
        f"the log, {seen - len(stored)} repeats sent again by clients, {cut} torn bytes cut",
    )
    assert killed == chaos.kills
    assert books.surprises == []
    assert not lost
    assert not unasked
    records = LogReader(directory).read(0, sys.maxsize)
    assert [seq for seq, _ in records] == list(range(seen))
    assert Counter(decode_record(raw).message_id for _, raw in records) == stored
