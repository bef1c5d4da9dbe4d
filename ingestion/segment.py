"""How the event log lies on disk: segment files, records, the published end.

A segment is a file named after the first ``log_seq`` in it: eight bytes of magic, then records,
each an 8-byte header (length, CRC-32) and its bytes. The CRC starts from the record's own
``log_seq``, so a record that is whole but stands in the wrong place does not pass either.

``end`` holds the next ``log_seq`` and its CRC-32, and is written after ``fdatasync``. ``loaded``
has the same form, see `ingestion.loaded`.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from pathlib import Path
from zlib import crc32

if sys.platform == "darwin":
    import fcntl

MAGIC = b"SBXLOG1\n"
MAX_RECORD_BYTES = 16 * 1024 * 1024
RECORD_HEADER = struct.Struct("<II")
_POSITION = struct.Struct("<QI")


class LogError(Exception):
    """Base of what the event log raises; the text says what to do."""


class LogBusy(LogError):
    """Another process writes to this log."""


class LogCorrupt(LogError):
    """A record that was acknowledged is missing or damaged on disk."""


class LogUnavailable(LogError):
    """The records could not be made durable (disk full, I/O error): nothing was appended."""


def pack_position(number: int) -> bytes:
    """The bytes of a file that holds one log_seq, such as ``end``."""
    return _POSITION.pack(number, crc32(number.to_bytes(8, "little")))


def read_position(path: Path) -> int:
    """The log_seq in a file of `pack_position`; 0 if there is none yet. Raises LogCorrupt."""
    for _ in range(100):
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            data = os.pread(fd, _POSITION.size, 0)
        finally:
            os.close(fd)
        if not data:
            return 0
        if len(data) == _POSITION.size and crc32(data[:8]) == _POSITION.unpack(data)[1]:
            return int.from_bytes(data[:8], "little")
        # Only a read in the middle of the writer's 12 bytes comes here; the next one is whole.
    raise LogCorrupt(
        f"{path} is damaged. Stop the collector, delete that file and start again: "
        "it is rebuilt from the segments."
    )


def read_end(directory: Path) -> int:
    """The next log_seq as last published; 0 where no log exists yet."""
    return read_position(directory / "end")


def segment_path(directory: Path, first: int) -> Path:
    """The file of the segment that starts at log_seq `first`."""
    return directory / f"{first:020d}.log"


def segment_starts(directory: Path) -> list[int]:
    """First log_seq of every segment, ascending; empty where no log exists yet."""
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(n[:20]) for n in names if len(n) == 24 and n.endswith(".log"))


def checksum(record: bytes | memoryview, seq: int) -> int:
    """CRC-32 of a record that stands at position `seq`."""
    return crc32(record, seq & 0xFFFFFFFF)


def last_whole_record(path: Path, fd: int, first: int) -> tuple[int, int]:
    """The log_seq after the last whole record of a segment, and the byte where it ends."""
    size = os.fstat(fd).st_size
    if size <= len(MAGIC):
        whole = os.pread(fd, size, 0) == MAGIC
        return first, size if whole else 0
    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
        if view[: len(MAGIC)] != MAGIC:
            raise LogCorrupt(
                f"{path} does not start as a segment of the event log. Restore it from a copy, "
                "or move it away if it does not belong here."
            )
        seq, at = first, len(MAGIC)
        while at + RECORD_HEADER.size <= size:
            length, crc = RECORD_HEADER.unpack_from(view, at)
            after = at + RECORD_HEADER.size + length
            if length == 0 or after > size:
                break
            with view[at + RECORD_HEADER.size : after] as record:
                if checksum(record, seq) != crc:
                    break
            seq, at = seq + 1, after
        return seq, at


def make_directory(directory: Path) -> None:
    missing = [p for p in (directory, *directory.parents) if not p.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync(fd: int) -> None:
    if sys.platform == "darwin":  # its fsync leaves data in the drive's cache
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
