"""The event log: one writer, any number of readers, in any process.

The writer appends whole groups of records with one fdatasync and then publishes the new end.
Readers trust only what lies before the published end, so no reader ever sees a record that a
power loss could take back. `ingestion.segment` describes the files, `ingestion.log_server` how
other processes append while one of them writes, `ingestion.retention` what is deleted and when.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ingestion.segment import (
    MAGIC,
    MAX_RECORD_BYTES,
    RECORD_HEADER,
    LogBusy,
    LogCorrupt,
    LogError,
    LogUnavailable,
    checksum,
    last_whole_record,
    make_directory,
    pack_position,
    read_end,
    segment_path,
    segment_starts,
    sync,
    sync_directory,
    write_all,
)

__all__ = ["EventLog", "LogBusy", "LogCorrupt", "LogError", "LogReader", "LogUnavailable"]

_INDEX_EVERY = 512
_READ_BYTES = 1024 * 1024


class EventLog:
    """The only writer of the log in `directory`.

    Opening it cuts a torn tail at the last whole record; `recovered_bytes` says how much was cut.
    A segment is full at `segment_bytes`, or `segment_seconds` after its first record, so that
    retention by age finds whole segments in a slow log too. With less than `reserve_bytes` free on
    its disk it takes nothing, until there is room again. Raises LogBusy if another process has it
    open, LogCorrupt if acknowledged records are gone.
    """

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int = 64 * 1024 * 1024,
        segment_seconds: float = 86_400,
        reserve_bytes: int = 0,
    ) -> None:
        self.directory = Path(directory)
        self.recovered_bytes = 0
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._segment_began = time.time()
        self._reserve = reserve_bytes
        self._mutex = threading.Lock()
        self._segment_fd = self._end_fd = -1
        self._next_seq = self._size = 0
        self._failed: str | None = None
        self._lock_fd = -1
        try:
            make_directory(self.directory)
            self._lock_fd = _take_lock(self.directory)
            self._open()
        except OSError as error:
            self.close()
            raise LogUnavailable(
                f"the event log in {self.directory} cannot be opened: {error.strerror}"
            ) from error
        except BaseException:
            self.close()
            raise

    def append(self, records: Sequence[bytes]) -> range:
        """Make `records` durable with one fdatasync and return their positions.

        All of them are in the log or, when LogUnavailable is raised, the caller must send them
        again. A record must have 1 to MAX_RECORD_BYTES bytes (ValueError).
        """
        for record in records:
            if not 0 < len(record) <= MAX_RECORD_BYTES:
                raise ValueError(
                    f"a log record must have 1 to {MAX_RECORD_BYTES} bytes, not {len(record)}"
                )
        with self._mutex:
            if self._failed:
                raise LogUnavailable(self._failed)
            start = seq = self._next_seq
            if not records:
                return range(start, start)
            if problem := disk_problem(self.directory, self._reserve):
                raise LogUnavailable(problem)
            if self._full():
                self._rotate()
            parts: list[bytes] = []
            for record in records:
                parts.append(RECORD_HEADER.pack(len(record), checksum(record, seq)))
                parts.append(record)
                seq += 1
            data = b"".join(parts)
            try:
                write_all(self._segment_fd, data)
                sync(self._segment_fd)
            except OSError as error:
                self._roll_back(error)
                raise LogUnavailable(
                    f"the event log in {self.directory} cannot be written: {error.strerror}"
                ) from error
            self._size += len(data)
            self._next_seq = seq
            self._publish()
            return range(start, seq)

    def end(self) -> int:
        """The next log_seq."""
        return self._next_seq

    def problem(self) -> str | None:
        """Why an append would be refused now, as far as is known; None if it would not."""
        return self._failed or disk_problem(self.directory, self._reserve)

    def close(self) -> None:
        """Release the lock. Safe to call twice."""
        with self._mutex:
            self._failed = "the event log is closed"
            for fd in (self._segment_fd, self._end_fd, self._lock_fd):
                if fd >= 0:
                    os.close(fd)
            self._segment_fd = self._end_fd = self._lock_fd = -1

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> None:
        committed = read_end(self.directory)
        segments = segment_starts(self.directory)
        if segments:
            self._recover(segments[-1], committed)
            self._segment_began = _began(self.directory, segments)
        elif committed:
            raise LogCorrupt(
                f"{self.directory} says it holds {committed} records but has no segment file. "
                "Restore the *.log files, or delete the directory to start an empty log."
            )
        else:
            self._segment_fd = self._create_segment(0)
            self._size = len(MAGIC)
        self._end_fd = os.open(self.directory / "end", os.O_RDWR | os.O_CREAT, 0o600)
        self._publish()
        sync(self._end_fd)
        sync_directory(self.directory)

    def _recover(self, first: int, committed: int) -> None:
        path = segment_path(self.directory, first)
        self._segment_fd = os.open(path, os.O_RDWR | os.O_APPEND)
        found = os.fstat(self._segment_fd).st_size
        next_seq, size = last_whole_record(path, self._segment_fd, first)
        if next_seq < committed:
            raise LogCorrupt(
                f"{path.name}: record {next_seq} at byte {size} is damaged or missing, and "
                f"records up to {committed - 1} were acknowledged. Nothing was changed: restore "
                f"{path} from a copy before writing again."
            )
        if size < found:
            os.ftruncate(self._segment_fd, size)
            self.recovered_bytes = found - size
        if size == 0:  # the crash came between creating the segment and its first bytes
            write_all(self._segment_fd, MAGIC)
            size = len(MAGIC)
        # Whole records after the published end were never acknowledged but are kept: their
        # sender tries again under the same message id.
        sync(self._segment_fd)
        self._next_seq, self._size = next_seq, size

    def _full(self) -> bool:
        if self._size <= len(MAGIC):
            return False
        age = time.time() - self._segment_began
        return self._size >= self._segment_bytes or age >= self._segment_seconds

    def _create_segment(self, first: int) -> int:
        path = segment_path(self.directory, first)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            write_all(fd, MAGIC)
            sync(fd)
            sync_directory(self.directory)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        return fd

    def _rotate(self) -> None:
        try:
            fd = self._create_segment(self._next_seq)
        except OSError as error:
            raise LogUnavailable(
                f"the event log in {self.directory} cannot grow: {error.strerror}"
            ) from error
        os.close(self._segment_fd)
        self._segment_fd = fd
        self._size = len(MAGIC)
        self._segment_began = time.time()

    def _roll_back(self, cause: OSError) -> None:
        """Drop what a failed append left behind, so that the next one starts clean."""
        try:
            os.ftruncate(self._segment_fd, self._size)
            sync(self._segment_fd)
        except OSError:
            self._failed = (
                f"the event log in {self.directory} failed ({cause.strerror}) and could not be "
                "put right; check the disk and start the collector again"
            )

    def _publish(self) -> None:
        try:
            os.pwrite(self._end_fd, pack_position(self._next_seq), 0)
        except OSError as error:
            raise LogUnavailable(
                f"the end of the event log in {self.directory} cannot be written: {error.strerror}"
            ) from error


class LogReader:
    """A view of the log in `directory`, which need not exist yet. Not for use by two threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self._starts: list[int] = []
        self._segments: dict[int, _Segment] = {}

    def end(self) -> int:
        """The next log_seq: all records before it are on disk. Cheap enough to poll."""
        return read_end(self.directory)

    def first(self) -> int:
        """The oldest log_seq that is kept (0 in an empty log)."""
        starts = segment_starts(self.directory)
        return starts[0] if starts else 0

    def read(self, start: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from log_seq `start` on, as (log_seq, record), in order.

        Empty when nothing is new. If `start` is older than the oldest record kept, reading begins
        there: who must not miss any compares the first log_seq with the one it asked for. Records
        that are deleted in the middle of a call end its answer early, never with a gap in it.
        Raises LogCorrupt if a record does not match its checksum.
        """
        end = self.end()  # before the listing, which then has the segment of every record
        if not self._starts:
            self._starts = segment_starts(self.directory)
        seq = max(start, self._starts[0] if self._starts else 0)
        stop = min(seq + limit, end)
        records: list[tuple[int, bytes]] = []
        while seq < stop:
            segment = self._segment_with(seq)
            try:
                found = segment.read(seq, stop)
            except FileNotFoundError:
                self._look_again()
                if records:
                    break
                if self._starts and seq < self._starts[0]:
                    seq = self._starts[0]
                    stop = min(seq + limit, end)
                continue
            if not found:
                # The segment ended here: the writer went on in a new one since we last looked.
                self._look_again()
                if self._segment_with(seq) is segment:
                    raise LogCorrupt(
                        f"{segment.path} ends before record {seq}, which was acknowledged. "
                        "Restore it from a copy."
                    )
                continue
            records += found
            seq = found[-1][0] + 1
        return records

    def _look_again(self) -> None:
        self._starts = segment_starts(self.directory)
        for gone in self._segments.keys() - set(self._starts):
            del self._segments[gone]

    def _segment_with(self, seq: int) -> _Segment:
        at = bisect_right(self._starts, seq) - 1
        if at < 0:
            raise LogCorrupt(f"{self.directory} has lost the segment files of record {seq}.")
        first = self._starts[at]
        if first not in self._segments:
            self._segments[first] = _Segment(segment_path(self.directory, first), first)
        return self._segments[first]


class _Segment:
    """One segment file and what we have learned about where its records stand."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.first = first
        # Byte of every 512th record, as far as we have read, and of the one after the last read.
        self._index = [len(MAGIC)]
        self._resume = (first, len(MAGIC))

    def read(self, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Records `start` to `stop` - 1, or fewer where the file ends."""
        seq, at = self._nearest(start)
        records: list[tuple[int, bytes]] = []
        header, unpack = RECORD_HEADER.size, RECORD_HEADER.unpack_from
        next_mark = self.first + len(self._index) * _INDEX_EVERY
        with self.path.open("rb", buffering=0) as file:
            file.seek(at)
            data, here = b"", 0  # what was read, and where in it the next record begins
            while seq < stop:
                body = here + header
                after = body
                if body <= len(data):
                    length, crc = unpack(data, here)
                    if not 0 < length <= MAX_RECORD_BYTES:
                        raise self._damaged(seq, at)
                    after += length
                if after > len(data):
                    more = file.read(max(_READ_BYTES, after - len(data)))
                    if not more:
                        if here < len(data):
                            raise self._damaged(seq, at)
                        break
                    data, here = data[here:] + more, 0
                    continue
                if seq >= start:
                    record = data[body:after]
                    if checksum(record, seq) != crc:
                        raise self._damaged(seq, at)
                    records.append((seq, record))
                at += after - here
                here = after
                seq += 1
                if seq == next_mark:
                    self._index.append(at)
                    next_mark += _INDEX_EVERY
        self._resume = (seq, at)
        return records

    def _nearest(self, seq: int) -> tuple[int, int]:
        """The last record at or before `seq` whose byte we know, and that byte."""
        if self._resume[0] == seq:
            return self._resume
        slot = min((seq - self.first) // _INDEX_EVERY, len(self._index) - 1)
        return self.first + slot * _INDEX_EVERY, self._index[slot]

    def _damaged(self, seq: int, at: int) -> LogCorrupt:
        return LogCorrupt(
            f"{self.path}: record {seq} at byte {at} is damaged. Restore the file from a copy."
        )


def disk_problem(directory: Path, reserve_bytes: int) -> str | None:
    """What is wrong with the free space of a directory's disk; None if it is enough."""
    if not reserve_bytes:
        return None
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if free >= reserve_bytes:
        return None
    return (
        f"the disk of the event log has {free // 2**20} MB left and {reserve_bytes // 2**20} MB "
        "are kept free; make room, or lower SIGNALBOX_DISK_RESERVE_MB"
    )


def _began(directory: Path, segments: list[int]) -> float:
    """About when the last segment got its first record: when the one before it was last written."""
    return segment_path(directory, segments[-2:][0]).stat().st_mtime


def _take_lock(directory: Path) -> int:
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise LogBusy(
            f"process {holder} already writes to the event log in {directory}. "
            "Stop it, or set SIGNALBOX_HOME to another directory."
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd
