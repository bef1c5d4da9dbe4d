"""Group commit: all requests that wait share one append, and so one fdatasync."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

# Large enough that the sync costs nothing per record, small enough that nobody waits for it long.
_GROUP_BYTES = 4 * 1024 * 1024


class Log(Protocol):
    """What the collector needs of a log; `ingestion.log.EventLog` is one."""

    def append(self, records: Sequence[bytes]) -> range:
        """Make the records durable and return their positions."""

    def end(self) -> int:
        """The next position."""


class QueueFull(Exception):
    """More waits for the disk than may: try again later."""


class Appender:
    """One thread that appends what event loops hand to it."""

    def __init__(self, log: Log, waiting_bytes: int) -> None:
        self._log = log
        self._limit = waiting_bytes
        self._waiting: deque[tuple[list[bytes], int, asyncio.Future[None]]] = deque()
        self._bytes = 0
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log-appender", daemon=True)
        self._thread.start()

    def submit(self, records: list[bytes]) -> asyncio.Future[None]:
        """A future that is done when `records` are durable, or holds what append raised.

        Raises QueueFull at once if too many bytes are waiting. Call it from a running event loop.
        """
        size = sum(map(len, records))
        future = asyncio.get_running_loop().create_future()
        with self._change:
            if self._closing or self._bytes + size > self._limit:
                raise QueueFull
            self._waiting.append((records, size, future))
            self._bytes += size
            self._change.notify()
        return future

    def close(self) -> None:
        """Append what is waiting, then stop."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._closing:
                    self._change.wait()
                if not self._waiting:
                    return
                records: list[bytes] = []
                futures: list[asyncio.Future[None]] = []
                taken = 0
                while self._waiting and taken < _GROUP_BYTES:
                    more, size, future = self._waiting.popleft()
                    records += more
                    futures.append(future)
                    taken += size
            error: Exception | None = None
            try:
                self._log.append(records)
            except Exception as raised:  # whatever it is, it belongs to those who wait
                error = raised
            with self._change:
                self._bytes -= taken
            for loop in {future.get_loop() for future in futures}:
                mine = [future for future in futures if future.get_loop() is loop]
                with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                    loop.call_soon_threadsafe(_resolve, mine, error)


def _resolve(futures: list[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
