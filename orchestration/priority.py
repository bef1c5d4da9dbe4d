"""Who goes first when the processors are busy: what must act within seconds."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

NICENESS = 10


def go_second() -> None:
    """Let the collector and the hot lane go first. To be said again after `setsid`."""
    os.nice(NICENESS - os.nice(0))
    # Where Linux is so configured it shares time out among sessions first.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICENESS))
