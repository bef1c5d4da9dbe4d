"""What can be told about an event log from outside, beside its writer."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ingestion.loaded import loaded_end
from ingestion.log_server import RemoteLog
from ingestion.segment import (
    LogCorrupt,
    LogUnavailable,
    last_whole_record,
    read_end,
    segment_path,
    segment_starts,
)


@dataclass(frozen=True, slots=True)
class LogFacts:
    """Positions are log_seqs: `first` kept, next to be written, next to be loaded. Sizes in bytes.

    `writer` is "ok", "none" or why it takes nothing at present; `recovered_bytes` is what it cut
    from a torn tail when it started.
    """

    first: int
    end: int
    loaded: int
    segments: int
    bytes: int
    free_bytes: int
    writer: str
    recovered_bytes: int


def facts(directory: Path) -> LogFacts:
    """How the log in `directory`, which must exist, is at this moment."""
    starts = segment_starts(directory)
    with RemoteLog(directory) as remote:
        try:
            remote.connect()
        except LogUnavailable:
            writer = "none"
        else:
            writer = remote.problem() or "ok"
    return LogFacts(
        first=starts[0] if starts else 0,
        end=read_end(directory),
        loaded=loaded_end(directory),
        segments=len(starts),
        bytes=sum(segment_path(directory, start).stat().st_size for start in starts),
        free_bytes=shutil.disk_usage(directory).free,
        writer=writer,
        recovered_bytes=remote.recovered_bytes,
    )


def verify_tail(directory: Path) -> str:
    """Check the records of the last segment against their checksums and the published end.

    Returns what was found, in words. Raises LogCorrupt if acknowledged records are damaged.
    """
    end = read_end(directory)  # before the scan: what is written meanwhile only adds to it
    starts = segment_starts(directory)
    if not starts:
        return "empty" if end == 0 else _lost(directory, end)
    path = segment_path(directory, starts[-1])
    fd = os.open(path, os.O_RDONLY)
    try:
        after, _ = last_whole_record(path, fd, starts[-1])
    finally:
        os.close(fd)
    if after < end:
        raise LogCorrupt(
            f"{path.name}: record {after} is damaged or missing, and records up to {end - 1} were "
            "acknowledged. Restore the file from a copy."
        )
    return f"{end - starts[0]:,} records in {len(starts)} segments; the last one is whole"


def _lost(directory: Path, end: int) -> str:
    raise LogCorrupt(f"{directory} says it holds {end} records but has no segment file.")
