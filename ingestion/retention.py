"""Deletes old segments of the event log: whole ones, oldest first, and only what was loaded.

It needs no lock and may run in any process beside the writer and the readers: the segment that is
written is never touched, nor is one with a record that the warehouse does not hold yet.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ingestion.loaded import loaded_end
from ingestion.segment import segment_path, segment_starts, sync_directory


@dataclass(frozen=True, slots=True)
class Retention:
    """What was deleted and what is kept. Sizes are in bytes."""

    deleted_segments: int
    deleted_bytes: int
    kept_segments: int
    kept_bytes: int
    first: int


def retain(directory: Path, *, max_seconds: float, max_bytes: float) -> Retention:
    """Delete what is too old or too much.

    A segment goes when its last record is older than `max_seconds`, or while the log is larger
    than `max_bytes`. What is not loaded stays, however old and however much it is.
    """
    loaded = loaded_end(directory)
    starts = segment_starts(directory)
    files = [segment_path(directory, start).stat() for start in starts]
    kept = sum(file.st_size for file in files)
    now = time.time()
    deleted = deleted_bytes = 0
    for start, after, file in zip(starts, starts[1:], files, strict=False):
        too_old = now - file.st_mtime > max_seconds
        if after > loaded or not (too_old or kept > max_bytes):
            break
        segment_path(directory, start).unlink()
        deleted += 1
        deleted_bytes += file.st_size
        kept -= file.st_size
    if deleted:
        sync_directory(directory)
    return Retention(
        deleted_segments=deleted,
        deleted_bytes=deleted_bytes,
        kept_segments=len(starts) - deleted,
        kept_bytes=kept,
        first=starts[deleted] if starts else 0,
    )
