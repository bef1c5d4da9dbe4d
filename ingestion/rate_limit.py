"""A limit on how fast a source may send, so that one runaway producer cannot drown the others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class RateLimiter:
    """One token bucket per source, which holds a second's worth of events.

    A batch is taken whole while anything is left, and the debt is waited off afterwards: a batch
    larger than the bucket would otherwise never be taken.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, source: str, per_second: float) -> int:
        """Whole seconds until the source may send again; 0 if it may now."""
        left = self._left(source, per_second)
        return 0 if left > 0 else max(1, math.ceil(-left / per_second))

    def charge(self, source: str, per_second: float, events: int) -> None:
        """Count events that are about to be taken."""
        self._buckets[source] = (self._left(source, per_second) - events, self._clock())

    def _left(self, source: str, per_second: float) -> float:
        left, at = self._buckets.get(source, (per_second, self._clock()))
        return min(per_second, left + (self._clock() - at) * per_second)
