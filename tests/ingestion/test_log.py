"""The event log against a plain list, torn tails, damaged files, and a writer that is killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion import log as log_module
from ingestion.loaded import publish_loaded
from ingestion.log import EventLog, LogBusy, LogCorrupt, LogReader, LogUnavailable
from ingestion.retention import retain

records = st.binary(min_size=1, max_size=60)


def stored(directory: Path, start: int = 0) -> list[bytes]:
    return [record for _, record in LogReader(directory).read(start, 1_000_000)]


def segment_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.log"))


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.one_of(st.lists(records, max_size=8), st.just("reopen")), max_size=12),
    segment_bytes=st.integers(1, 300),
    start=st.integers(0, 60),
    limit=st.integers(0, 60),
)
def test_behaves_like_a_list(
    groups: Sequence[list[bytes] | str], segment_bytes: int, start: int, limit: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "log"
        reader = LogReader(directory)  # opened before the log exists, and kept all the time
        assert (reader.end(), reader.first(), reader.read(0, 10)) == (0, 0, [])
        model: list[bytes] = []
        log = EventLog(directory, segment_bytes=segment_bytes)
        for group in groups:
            if isinstance(group, str):
                log.close()
                log = EventLog(directory, segment_bytes=segment_bytes)
                assert log.recovered_bytes == 0
                continue
            assert log.append(group) == range(len(model), len(model) + len(group))
            model += group
            assert reader.end() == log.end() == len(model)
            expected = list(enumerate(model))[start : start + limit]
            assert reader.read(start, limit) == expected
        log.close()
        assert reader.read(0, len(model) + 1) == list(enumerate(model))
        assert stored(directory) == model


@settings(max_examples=15, deadline=None)
@given(
    kept=st.lists(records, max_size=4),
    torn=st.lists(records, min_size=1, max_size=3),
    rotated=st.booleans(),
)
def test_a_tail_torn_at_any_byte_is_cut_at_the_last_whole_record(
    kept: list[bytes], torn: list[bytes], rotated: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        segment_bytes = 1 if rotated else 1 << 20
        with EventLog(directory, segment_bytes=segment_bytes) as log:
            log.append(kept)
        end = (directory / "end").read_bytes()
        with EventLog(directory, segment_bytes=segment_bytes) as log:
            log.append(torn)
        tail = segment_files(directory)[-1]
        whole = tail.read_bytes()
        shared = rotated and bool(kept)
        committed = 8 if shared else 8 + sum(8 + len(record) for record in kept)
        for size in range(committed, len(whole) + 1):
            # What a power loss leaves when it comes before the append was acknowledged.
            tail.write_bytes(whole[:size])
            (directory / "end").write_bytes(end)
            survived, at = 0, committed
            while survived < len(torn) and at + 8 + len(torn[survived]) <= size:
                at += 8 + len(torn[survived])
                survived += 1
            with EventLog(directory, segment_bytes=1 << 20) as log:
                assert log.recovered_bytes == size - at
                assert log.end() == len(kept) + survived
                log.append([b"next"])
            assert stored(directory) == [*kept, *torn[:survived], b"next"]


@pytest.mark.parametrize("size", range(9))
def test_a_segment_that_was_just_being_created_is_started_again(tmp_path: Path, size: int) -> None:
    with EventLog(tmp_path, segment_bytes=1) as log:
        log.append([b"a"])
    (tmp_path / f"{1:020d}.log").write_bytes(b"SBXLOG1\n"[:size])
    with EventLog(tmp_path) as log:
        assert log.append([b"b"]) == range(1, 2)
    assert stored(tmp_path) == [b"a", b"b"]


@pytest.mark.parametrize("tail", [b"\0" * 100, b"\xff" * 100, b"\x05\0\0\0\1\2\3\4hello"])
def test_garbage_after_the_last_record_is_cut(tmp_path: Path, tail: bytes) -> None:
    with EventLog(tmp_path) as log:
        log.append([b"a", b"b"])
    with segment_files(tmp_path)[-1].open("ab") as file:
        file.write(tail)
    with EventLog(tmp_path) as log:
        assert log.recovered_bytes == len(tail)
        log.append([b"c"])
    assert stored(tmp_path) == [b"a", b"b", b"c"]


def test_acknowledged_records_are_never_cut(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.append([b"first", b"second"])
    tail = segment_files(tmp_path)[-1]
    damaged = tail.read_bytes()[:-1]
    tail.write_bytes(damaged)
    with pytest.raises(LogCorrupt, match=r"record 1 at byte 21 is damaged or missing"):
        EventLog(tmp_path)
    assert tail.read_bytes() == damaged
    with pytest.raises(LogCorrupt, match="record 1"):
        LogReader(tmp_path).read(0, 10)


def test_a_flipped_bit_is_found_by_the_reader(tmp_path: Path) -> None:
    with EventLog(tmp_path, segment_bytes=1) as log:
        log.append([b"first"])
        log.append([b"second"])
        path = segment_files(tmp_path)[0]
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(LogCorrupt, match="record 0 at byte 8"):
            LogReader(tmp_path).read(0, 10)


def test_records_that_were_not_published_are_not_read(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.append([b"a"])
        end = (tmp_path / "end").read_bytes()
        log.append([b"b"])
        (tmp_path / "end").write_bytes(end)
        assert stored(tmp_path) == [b"a"]


def test_a_lost_end_file_is_rebuilt(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.append([b"a", b"b"])
    (tmp_path / "end").unlink()
    assert LogReader(tmp_path).end() == 0
    with EventLog(tmp_path) as log:
        assert log.end() == LogReader(tmp_path).end() == 2


def test_missing_segments_are_reported(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.append([b"a"])
    segment_files(tmp_path)[0].unlink()
    with pytest.raises(LogCorrupt, match="no segment file"):
        EventLog(tmp_path)
    with pytest.raises(LogCorrupt, match="lost the segment files"):
        LogReader(tmp_path).read(0, 1)


def test_reading_starts_at_the_oldest_record_kept(tmp_path: Path) -> None:
    with EventLog(tmp_path, segment_bytes=1) as log:
        for record in (b"a", b"b", b"c"):
            log.append([record])
    segment_files(tmp_path)[0].unlink()
    reader = LogReader(tmp_path)
    assert reader.first() == 1
    assert reader.read(0, 10) == [(1, b"b"), (2, b"c")]


def segments(directory: Path) -> list[int]:
    return [int(path.stem) for path in segment_files(directory)]


def age(directory: Path, start: int, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(directory / f"{start:020d}.log", (when, when))


def test_retention_deletes_whole_loaded_segments_that_are_too_old_or_too_many(
    tmp_path: Path,
) -> None:
    def deleted(loaded: int, *, seconds: float = 1e9, size: float = 1e9) -> int:
        publish_loaded(tmp_path, loaded)
        return retain(tmp_path, max_seconds=seconds, max_bytes=size).deleted_segments

    with EventLog(tmp_path, segment_bytes=1) as log:
        for group in range(6):
            log.append([b"x" * 84, b"%d" % group])  # two records and 109 bytes with the magic
        for start in (0, 2, 4):
            age(tmp_path, start, 100)
        assert deleted(12) == 0
        assert deleted(1, seconds=50, size=1) == 0  # the first segment is loaded only in part
        assert deleted(2, seconds=50, size=1) == 1
        assert deleted(12, seconds=50) == 2
        assert segments(tmp_path) == [6, 8, 10]
        assert deleted(12, size=3 * 109) == 0
        assert deleted(12, size=3 * 109 - 1) == 1
        (tmp_path / "loaded").write_bytes(b"damaged")
        assert retain(tmp_path, max_seconds=0, max_bytes=0).deleted_segments == 0
        assert deleted(12, seconds=-1, size=0) == 1
        assert segments(tmp_path) == [10]  # the one that is written
        assert log.append([b"next"]) == range(12, 13)
        assert LogReader(tmp_path).first() == 10
    assert retain(tmp_path / "none", max_seconds=0, max_bytes=0).kept_segments == 0


def test_a_reader_goes_on_at_the_oldest_record_when_its_segment_is_deleted(tmp_path: Path) -> None:
    with EventLog(tmp_path, segment_bytes=1) as log:
        for n in range(5):
            log.append([b"%d" % n])
        reader = LogReader(tmp_path)
        assert reader.read(0, 2) == [(0, b"0"), (1, b"1")]  # it has seen all five files
        publish_loaded(tmp_path, 4)
        retain(tmp_path, max_seconds=1e9, max_bytes=3 * 17)
        assert segments(tmp_path) == [2, 3, 4]
        assert reader.read(0, 2) == [(2, b"2"), (3, b"3")]
        segment_files(tmp_path)[1].unlink()
        assert reader.read(0, 3) == [(2, b"2")]  # never a gap within an answer
        with pytest.raises(LogCorrupt, match=r"ends before record 3"):
            reader.read(3, 2)
        segment_files(tmp_path)[0].unlink()
        assert reader.read(2, 2) == [(4, b"4")]


def test_a_segment_ends_by_age_too(tmp_path: Path) -> None:
    with EventLog(tmp_path, segment_seconds=3_600) as log:
        log.append([b"a"])
        log.append([b"b"])
    age(tmp_path, 0, 3_601)
    with EventLog(tmp_path, segment_seconds=3_600) as log:
        log.append([b"c"])
        log.append([b"d"])
    assert segments(tmp_path) == [0, 2]
    assert stored(tmp_path) == [b"a", b"b", b"c", b"d"]


def test_a_second_writer_is_told_who_holds_the_log(tmp_path: Path) -> None:
    with EventLog(tmp_path), pytest.raises(LogBusy, match=f"process {os.getpid()} "):
        EventLog(tmp_path)
    EventLog(tmp_path).close()


def test_empty_and_giant_records_are_refused(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        for record in (b"", b"x" * (16 * 1024 * 1024 + 1)):
            with pytest.raises(ValueError, match="must have 1 to"):
                log.append([b"good", record])
        assert log.append([b"good"]) == range(0, 1)


def test_a_full_disk_fails_the_append_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with EventLog(tmp_path) as log:
        log.append([b"before"])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", full)
            with pytest.raises(LogUnavailable, match="No space left"):
                log.append([b"lost", b"too"])
        # The clean-up could not be synced either, so the log waits to be opened again.
        with pytest.raises(LogUnavailable, match="start the collector again"):
            log.append([b"after"])
    with EventLog(tmp_path) as log:
        assert log.append([b"after"]) == range(1, 2)
    assert stored(tmp_path) == [b"before", b"after"]


def test_a_disk_that_is_nearly_full_is_left_alone_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = os.statvfs(tmp_path)
    free_bytes = free.f_bavail * free.f_frsize
    with EventLog(tmp_path, reserve_bytes=free_bytes // 2) as log:
        log.append([b"before"])
        assert log.problem() is None
        with monkeypatch.context() as patch:
            fewer = os.statvfs_result((*free[:4], free.f_bavail // 3, *free[5:]))
            patch.setattr(os, "statvfs", lambda path: fewer)
            with pytest.raises(LogUnavailable, match="MB left"):
                log.append([b"refused"])
            assert "MB left" in str(log.problem())
        assert log.problem() is None
        log.append([b"after"])
    assert stored(tmp_path) == [b"before", b"after"]


# Appends until the kernel refuses to let the file grow: in the middle of a record, as on a disk
# that is really full.
FILLER = """
import resource, signal, sys
from pathlib import Path
from ingestion.log import EventLog, LogUnavailable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with EventLog(Path(sys.argv[1])) as log:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    appended = 0
    try:
        while True:
            appended = log.append([b"x" * 999, b"y" * 999]).stop
    except LogUnavailable as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.append([b"room again"])
    print(appended)
"""


def test_a_write_that_the_kernel_cuts_short_is_rolled_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(tmp_path)], capture_output=True, text=True, check=True
    )
    message, appended = done.stdout.splitlines()
    assert "File too large" in message
    assert int(appended) == 8
    assert stored(tmp_path) == [b"x" * 999, b"y" * 999] * 4 + [b"room again"]


def test_a_short_write_is_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(fd: int, data: bytes) -> None:
        os.write(fd, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with EventLog(tmp_path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(log_module, "write_all", short)
            with pytest.raises(LogUnavailable):
                log.append([b"lost"])
        assert log.append([b"kept"]) == range(0, 1)
    assert stored(tmp_path) == [b"kept"]


def test_many_records_are_read_in_any_order(tmp_path: Path) -> None:
    with EventLog(tmp_path, segment_bytes=40_000) as log:
        for group in range(50):
            log.append([b"%d" % (group * 100 + n) for n in range(100)])
    reader = LogReader(tmp_path)
    for start in (4_999, 0, 513, 511, 2_048, 4_000, 3_999, 512):
        found = reader.read(start, 700)
        assert found == [(n, b"%d" % n) for n in range(start, min(start + 700, 5_000))]


WRITER = """
import sys
from pathlib import Path
from ingestion.log import EventLog
log = EventLog(Path(sys.argv[1]), segment_bytes=20_000)
number = log.end()
while True:
    group = [b"record %d" % (number + n) for n in range(1 + number % 7)]
    number = log.append(group).stop
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    seen = 0
    for groups in (40, 90, 140):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        acknowledged = 0
        for _ in range(groups):
            acknowledged = int(writer.stdout.readline())
            seen += len(reader.read(seen, 1_000))  # a reader beside the writer
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.stdout.close()
        committed = reader.end()
        with EventLog(tmp_path) as log:
            end = log.end()
        assert end >= committed >= acknowledged
        assert stored(tmp_path) == [b"record %d" % n for n in range(end)]
