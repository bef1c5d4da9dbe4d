"""How far the warehouse has come: one number in the log's directory, for those who wait for it.

The loader writes it after each warehouse commit, and sets it to what the warehouse says when it
starts. It is never ahead of the warehouse, so segments before it may be deleted and a broker may
be told that the records before it are done with. Lost or damaged, it reads as 0 until the next
load: then nothing is deleted and nothing acknowledged, which is safe.
"""

from __future__ import annotations

import os
from pathlib import Path

from ingestion.segment import LogCorrupt, pack_position, read_position


def loaded_end(directory: Path) -> int:
    """The first log_seq that the warehouse may not hold yet; 0 where nothing is known."""
    try:
        return read_position(directory / "loaded")
    except LogCorrupt:
        return 0


def publish_loaded(directory: Path, position: int) -> None:
    """Say that the warehouse has committed all records before `position`.

    Only the holder of the lake's writer lock may call it. A log that is not there is left alone.
    """
    if not directory.is_dir() or loaded_end(directory) == position:
        return
    fresh = directory / "loaded.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, pack_position(position))
    finally:
        os.close(fd)
    fresh.replace(directory / "loaded")
