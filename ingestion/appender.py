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
    """What the collector needs of a log: `EventLog`, or `RemoteLog` in another process."""

    recovered_bytes: int

    def append(self, records: Sequence[bytes]) -> range:
        """Make the records durable and return their positions."""

    def end(self) -> int:
        """The next position."""

    def problem(self) -> str | None:
        """Why an append would be refused now; None if it would not."""


class QueueFull(Exception):
    """More waits for the disk than may: try again later."""


class Appender:
    """One thread that appends what event loops hand to it."""

    def __init__(self, log: Log, waiting_bytes: int) -> None:
        self._log = log
        self._limit = waiting_bytes
        self._waiting: deque[tuple[list[bytes], int, asyncio.Future[range]]] = deque()
        self._bytes = 0
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log-appender", daemon=True)
        self._thread.start()

    def submit(self, records: list[bytes]) -> asyncio.Future[range]:
        """A future of the positions of `records` once they are durable, or of what append raised.

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
                waiting: list[tuple[int, asyncio.Future[range]]] = []
                taken = 0
                while self._waiting and taken < _GROUP_BYTES:
                    more, size, future = self._waiting.popleft()
                    waiting.append((len(records), future))
                    records += more
                    taken += size
            outcome: range | Exception
            try:
                outcome = self._log.append(records)
            except Exception as raised:  # whatever it is, it belongs to those who wait
                outcome = raised
            with self._change:
                self._bytes -= taken
            ends = [offset for offset, _ in waiting[1:]] + [len(records)]
            shares = [
                (future, outcome[offset:end] if isinstance(outcome, range) else outcome)
                for (offset, future), end in zip(waiting, ends, strict=True)
            ]
            for loop in {future.get_loop() for future, _ in shares}:
                mine = [share for share in shares if share[0].get_loop() is loop]
                with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                    loop.call_soon_threadsafe(_resolve, mine)


def _resolve(shares: list[tuple[asyncio.Future[range], range | Exception]]) -> None:
    for future, outcome in shares:
        if future.done():
            continue
        if isinstance(outcome, range):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
