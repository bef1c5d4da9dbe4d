"""Several processes that take requests on one listening socket and append through one writer.

This process owns the log, starts the workers, starts again those that end, and stops them all.
A worker that is killed loses only requests that it had not answered. If this process is killed,
the workers see it and end at once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_uint64
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from ingestion.counters import NAMES, Counters
from ingestion.log_server import RemoteLog
from ingestion.request import SourcePolicy
from ingestion.serving import DRAIN_SECONDS, Site, serve

logger = logging.getLogger("signalbox.collector")

_START_SECONDS = 60.0
_STOP_SECONDS = DRAIN_SECONDS + 5.0
_RESTART_SECONDS = (0.0, 0.5, 2.0, 5.0)
_HEALTHY_AFTER = 30.0
# Not fork: the log server's threads are running. A new interpreter costs a second and is clean.
_spawn = multiprocessing.get_context("spawn")


class WorkersFailed(Exception):
    """A worker did not start; its own words stand in the log."""


@dataclass
class _Worker:
    row: int
    process: SpawnProcess | None = None
    started: float = 0.0
    failures: int = 0
    due: float = 0.0
    ready: Connection | None = None


def serve_with_workers(
    count: int, site: Site, directory: Path, listener: socket.socket, on_ready: Callable[[], object]
) -> None:
    """Serve with `count` processes until SIGINT or SIGTERM; then drain, and return.

    The caller serves the log in `directory` by a LogServer. `listener` is closed on return.

    Raises:
        WorkersFailed: one of them did not come up.
    """
    crew = _Crew(count, _shared_out(site, count), directory, listener)
    with _stop_signal() as stop:
        try:
            crew.start_all(stop)
            on_ready()
            crew.watch(stop)
        finally:
            crew.stop()


class _Crew:
    def __init__(self, count: int, site: Site, directory: Path, listener: socket.socket) -> None:
        self._site = site
        self._directory = directory
        self._listener = listener
        self._cells: Any = _spawn.RawArray(c_uint64, count * len(NAMES))
        self._workers = [_Worker(row) for row in range(count)]

    def start_all(self, stop: int) -> None:
        for worker in self._workers:
            self._start(worker)
        deadline = time.monotonic() + _START_SECONDS
        for worker in self._workers:
            assert worker.ready is not None
            came = wait([worker.ready, stop], max(0.0, deadline - time.monotonic()))
            if stop in came:
                return
            try:
                if not came:
                    raise EOFError
                worker.ready.recv()
            except EOFError:
                raise WorkersFailed(
                    "A worker of the collector did not start; the lines above say why."
                ) from None

    def watch(self, stop: int) -> None:
        """Start again what ends, until `stop` can be read."""
        while True:
            running = {w.process.sentinel: w for w in self._workers if w.process is not None}
            dues = [w.due for w in self._workers if w.process is None]
            pause = max(0.0, min(dues) - time.monotonic()) if dues else None
            came = wait([stop, *running], pause)
            if stop in came:
                return
            for worker in (running[one] for one in came if isinstance(one, int)):
                self._ended(worker)
            for worker in self._workers:
                if worker.process is None and worker.due <= time.monotonic():
                    self._start(worker)

    def stop(self) -> None:
        """Refuse new connections, let the workers finish, end those that do not."""
        self._listener.close()
        processes = [w.process for w in self._workers if w.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                logger.error("a worker did not stop in %.0f s; killed", _STOP_SECONDS)
                process.kill()
                process.join()

    def _start(self, worker: _Worker) -> None:
        ready, tell = _spawn.Pipe(duplex=False)
        worker.process = _spawn.Process(
            target=_work,
            args=(self._site, self._directory, self._listener, self._cells, worker.row, tell),
            name=f"collector worker {worker.row + 1}",
            daemon=True,
        )
        worker.process.start()
        tell.close()
        worker.ready = ready
        worker.started = time.monotonic()

    def _ended(self, worker: _Worker) -> None:
        assert worker.process is not None
        worker.process.join()
        now = time.monotonic()
        if now - worker.started > _HEALTHY_AFTER:
            worker.failures = 0
        worker.due = now + _RESTART_SECONDS[min(worker.failures, len(_RESTART_SECONDS) - 1)]
        worker.failures += 1
        logger.error(
            "worker %d ended (exit code %s); starting another",
            worker.row + 1,
            worker.process.exitcode,
        )
        worker.process = None


def _work(
    site: Site,
    directory: Path,
    listener: socket.socket,
    cells: Any,
    row: int,
    tell: Connection,
) -> None:
    """The life of a worker."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with RemoteLog(directory) as log:
        serve(
            site,
            log,
            listener,
            Counters(cells, row),
            lambda: tell.send(None),
            interruptible=False,  # Ctrl-C reaches all of us, and our parent tells us when to stop
        )


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _shared_out(site: Site, count: int) -> Site:
    """The share of one worker in limits that hold for all of them together."""

    def share(source: SourcePolicy | str) -> SourcePolicy | str:
        if isinstance(source, str) or source.events_per_second is None:
            return source
        return replace(source, events_per_second=source.events_per_second / count)

    waiting = max(site.limits.waiting_bytes // count, 2 * site.limits.batch_bytes)
    return replace(
        site,
        write_keys={key: share(source) for key, source in site.write_keys.items()},
        limits=replace(site.limits, waiting_bytes=waiting),
    )


@contextmanager
def _stop_signal() -> Iterator[int]:
    """A file descriptor that can be read once SIGINT or SIGTERM has come."""
    reader, writer = os.pipe()

    def stop(*_: object) -> None:
        os.write(writer, b"x")

    before = {sig: signal.signal(sig, stop) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield reader
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
        os.close(reader)
        os.close(writer)
