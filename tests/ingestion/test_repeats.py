"""The index of message keys against a plain dictionary."""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.repeats import COLUMNS, KnownMessages, RepeatIndex, keys_of

SCHEMA = {"high": pl.UInt64, "low": pl.UInt64, "log_seq": pl.Int64}
# Few values, so that keys repeat and halves are shared.
KEYS = st.tuples(st.integers(0, 4), st.integers(0, 4))
KEPT = [(n, n) for n in range(5)]
HALVES_OF_A_B = (10272985552110848065, 6929520119040469431)
BATCHES = st.lists(st.lists(KEYS, max_size=12), min_size=1, max_size=12)


def table(keys: list[tuple[int, int]], start: int) -> pl.DataFrame:
    rows = [(high, low, start + n) for n, (high, low) in enumerate(keys)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def never() -> pl.DataFrame:
    raise AssertionError("the warehouse was asked")


@settings(max_examples=25, deadline=None)
@given(batches=BATCHES, crashes=st.sets(st.integers(0, 11)), reopen=st.booleans())
def test_it_knows_what_a_dictionary_knows(
    batches: list[list[tuple[int, int]]], crashes: set[int], reopen: bool
) -> None:
    first: dict[tuple[int, int], int] = {}
    with tempfile.TemporaryDirectory() as name:
        index = RepeatIndex(Path(name))
        seq = 0
        for number, keys in enumerate(batches):
            if reopen:
                index = RepeatIndex(Path(name))
            expected = []
            for at, key in enumerate(keys, start=seq):
                came = first.setdefault(key, at)
                expected.append(came if came < at else None)
            # A load that crashed may have flushed what it marked, and more than is loaded now.
            if number in crashes:
                index.prepare(seq, index.id, never)
                index.mark(table([*keys, (9, number), *KEPT], seq))
                index.flush(seq, seq + len(keys) + 1 + len(KEPT))
                index = RepeatIndex(Path(name))
            index.prepare(seq, index.id, never)
            middle = len(keys) // 2
            marks = [
                *index.mark(table(keys[:middle], seq)),
                *index.mark(table(keys[middle:], seq + middle)),
            ]
            assert marks == expected
            index.flush(seq, seq + len(keys))
            seq += len(keys)
        assert len(list(Path(name).iterdir())) <= 7


@pytest.mark.parametrize("damage", ["lost", "torn", "behind", "foreign file", "not the last one"])
def test_it_is_rebuilt_from_the_warehouse(tmp_path: Path, damage: str) -> None:
    index = RepeatIndex(tmp_path)
    keys = [(n, 0) for n in range(10)]
    index.prepare(0, None, never)
    index.mark(table(keys, 0))
    index.flush(0, 10)
    [run] = tmp_path.glob("*.arrow")
    position, used = 10, index.id
    if damage == "lost":
        run.unlink()
    elif damage == "torn":
        run.write_bytes(run.read_bytes()[:-20])
    elif damage == "behind":
        position = 11
    elif damage == "foreign file":
        pl.DataFrame({"a": [1]}).write_ipc(run)
    else:
        used = "that of another machine"
    index = RepeatIndex(tmp_path)
    index.prepare(position, used, lambda: table([*keys, (3, 0)], 0))
    assert list(index.mark(table([(3, 0), (11, 0)], 20))) == [3, None]
    assert index.id not in (None, used)
    RepeatIndex(tmp_path).prepare(position, index.id, never)


def test_it_stays_a_few_files(tmp_path: Path) -> None:
    index = RepeatIndex(tmp_path)
    for batch in range(100):
        index.prepare(batch * 10, index.id, never)
        fresh = index.mark(table([(batch * 10 + n, 1) for n in range(10)], batch * 10))
        assert fresh.is_null().all()
        index.flush(batch * 10, batch * 10 + 10)
    assert len(list(tmp_path.iterdir())) <= 7
    again = index.mark(table([(n, 1) for n in range(0, 1_000, 7)], 5_000))
    assert list(again) == list(range(0, 1_000, 7))


def test_a_reader_beside_the_loads_follows_them(tmp_path: Path) -> None:
    """What came before, and not what was loaded meanwhile of the reader's own messages."""
    known = KnownMessages(tmp_path / "keys")
    asked = table([(n, 1) for n in range(25)], 10)
    assert known.repeats(asked) == []
    index = RepeatIndex(tmp_path / "keys")
    for batch in range(4):
        index.prepare(batch * 10, index.id, never)
        index.mark(table([(batch * 10 + n, 1) for n in range(10)], batch * 10))
        index.flush(batch * 10, batch * 10 + 10)
        came_before = [10 + n for n in range(25) if n < batch * 10 + 10]
        assert sorted(known.repeats(asked)) == came_before
    assert known.repeats(table([(n, 1) for n in range(10, 20)], 10)) == []


def test_keys_tell_messages_apart() -> None:
    events = [("a", "b"), ("ab", ""), ("", "ab"), ("a", None), (None, "a"), ("a", "b")]
    with duckdb.connect() as connection:
        rows = ", ".join(
            f"({n}, {_text(source)}, {_text(message)})"
            for n, (source, message) in enumerate(events)
        )
        found = connection.execute(
            keys_of(f"(values {rows}) as e (log_seq, source, message_id)")
        ).pl()
    assert tuple(found.columns) == COLUMNS
    assert found.select("high", "low").n_unique() == len(set(events))
    # As they stand in the indexes on disk.
    assert found.row(0) == (*HALVES_OF_A_B, 0)


def _text(value: str | None) -> str:
    return "null" if value is None else f"'{value}'"
