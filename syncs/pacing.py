"""How fast, and when not at all: pacing and a circuit breaker for one destination."""

from __future__ import annotations

import threading
import time


class Lane:
    """The way to one destination, shared by all syncs of this process that go there.

    Requests leave at most `rate` a second. After `failures` failed requests in a row the lane is
    closed for `cooldown` seconds; then one request probes, and its success opens the lane again.
    """

    def __init__(self, rate: float, *, failures: int = 5, cooldown: float = 30.0) -> None:
        self._interval = 1.0 / rate
        self._limit = failures
        self._cooldown = cooldown
        self._next_free = 0.0
        self._held_until = 0.0
        self._failed = 0
        self._mutex = threading.Lock()

    def take(self) -> None:
        """Wait for this request's turn."""
        with self._mutex:
            now = time.monotonic()
            turn = max(now, self._next_free)
            self._next_free = turn + self._interval
        time.sleep(max(0.0, turn - now))

    def held(self) -> float:
        """Seconds during which nothing may be sent: the destination asked, or it is failing."""
        with self._mutex:
            return max(0.0, self._held_until - time.monotonic())

    def hold(self, seconds: float) -> None:
        """The destination asked to be left alone."""
        with self._mutex:
            self._held_until = max(self._held_until, time.monotonic() + seconds)

    @property
    def failing(self) -> bool:
        """Whether the breaker is open or waiting for its probe."""
        return self._failed >= self._limit

    def succeeded(self) -> None:
        with self._mutex:
            self._failed = 0

    def failed(self) -> None:
        with self._mutex:
            self._failed += 1
            if self._failed >= self._limit:
                self._held_until = max(self._held_until, time.monotonic() + self._cooldown)
