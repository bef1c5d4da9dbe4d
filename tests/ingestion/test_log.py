"""The event log against a plain list, torn tails, damaged files, and a writer that is killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion import log as log_module
from ingestion.log import EventLog, LogBusy, LogCorrupt, LogReader, LogUnavailable

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
