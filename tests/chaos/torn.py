"""Tails as a power loss leaves them: a kill alone rarely stops a write half way."""

from __future__ import annotations

import random
from pathlib import Path

from ingestion.segment import MAGIC, RECORD_HEADER, checksum, segment_path, segment_starts


def log_bytes(directory: Path) -> int:
    """Size of all segments of a log together."""
    return sum(path.stat().st_size for path in directory.glob("*.log"))


def tear(directory: Path, lottery: random.Random) -> int:
    """Append a record that was not finished to a log without a writer; returns its bytes.

    A log whose last segment is only being created is left alone: no record can be in it yet.
    """
    starts = segment_starts(directory)
    if not starts or segment_path(directory, starts[-1]).stat().st_size < len(MAGIC):
        return 0
    body = lottery.randbytes(lottery.randint(1, 20_000))
    whole = RECORD_HEADER.pack(len(body), checksum(body, lottery.randrange(2**32))) + body
    torn = whole[: lottery.randrange(1, len(whole))]
    with segment_path(directory, starts[-1]).open("ab") as file:
        file.write(torn)
    return len(torn)
