"""Which messages came before: an index of all message keys that were ever loaded.

Retries, replays and imports deliver a message again, after seconds or after years. The index tells
at which `log_seq` each (source, message_id) came first, at a cost that hardly grows with history:
it is a few sorted runs of keys on disk, looked up by binary search and merged as they grow (a
log-structured merge tree). A key is 128 bits of MD5, in two halves.

The index is told where the warehouse stands before each load, forgets what is beyond (a load that
crashed, a lake that was restored), and is rebuilt from the warehouse when it is lost, damaged,
behind, or another index was used meanwhile: the warehouse keeps its `id` beside its position.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from ingestion.segment import sync_directory

if TYPE_CHECKING:
    import polars as pl

#: Of a table of keys: both halves of a key and where it came.
COLUMNS = ("high", "low", "log_seq")
_KEY_TEXT = "coalesce(length(source) || ':' || source, '') || coalesce('=' || message_id, '')"
_LOW_HALF = 2**64 - 1
# A run is merged into the one before it unless that one is so many times larger. More runs are
# cheaper to write and dearer to ask.
_GROWTH = 4
_NEVER = 2**62  # beyond any position in a log
_M = TypeVar("_M")


def keys_of(relation: str) -> str:
    """SQL of the table of keys, `high, low, log_seq`, of a relation of events."""
    return f"""
        select (md5 & {_LOW_HALF})::ubigint as high, (md5 >> 64)::ubigint as low, log_seq
        from (select md5_number({_KEY_TEXT}) as md5, log_seq from {relation})
    """


@dataclass(frozen=True)
class _Run:
    """Keys in ascending order of `high`, first seen at a log_seq from `start` to `end` - 1."""

    start: int
    end: int
    keys: pl.DataFrame
    path: Path | None = None


class RepeatIndex:
    """The index in `directory`. For one process at a time, under the lake's writer lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runs: list[_Run] | None = None
        self._new: list[_Run] = []

    def prepare(self, position: int, used: str | None, loaded: Callable[[], pl.DataFrame]) -> None:
        """Make sure that it knows the messages before log_seq `position`, and no others.

        `used` is the `id` of the index with which the warehouse was last loaded. `loaded` is asked
        for the table of keys of all that is in the warehouse only if this one will not do.
        """
        self._new = []
        if self._runs is None or _reach(self._runs) < position:
            self._runs = _read(self._directory)  # another process may have loaded since
        reached = _reach(self._runs)
        if reached < position or position == 0 or used != self.id:
            self._rebuild(position, loaded)
        elif reached > position:
            self._runs = [self._cut(run, position) for run in self._runs if run.start < position]

    def _rebuild(self, position: int, loaded: Callable[[], pl.DataFrame]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            path.unlink()
        (self._directory / "id").write_text(uuid4().hex)
        self._runs = []
        if position:
            self._runs.append(self._write(0, position, _sorted_firsts(loaded())))

    def _cut(self, run: _Run, position: int) -> _Run:
        if run.end <= position:
            return run
        assert run.path is not None
        kept = self._write(run.start, position, run.keys.filter(run.keys["log_seq"] < position))
        run.path.unlink()
        return kept

    def close(self) -> None:
        """Let go of the files, and forget what was not flushed."""
        self._runs = None
        self._new = []

    @property
    def id(self) -> str | None:
        """Which index this is; none if it was lost."""
        try:
            return (self._directory / "id").read_text()
        except FileNotFoundError:
            return None

    def mark(self, keys: pl.DataFrame) -> pl.Series:
        """For each row of a table of keys the log_seq where its message came first; null: here.

        What is new is remembered from now on, and on disk after `flush`.
        """
        import polars as pl

        assert self._runs is not None
        firsts = _sorted_firsts(keys)
        earlier = _nothing(firsts.height)
        for run in (*self._runs, *self._new):
            found = _find(run.keys, firsts)
            earlier = pl.select(pl.min_horizontal(earlier, found)).to_series()
        firsts = firsts.with_columns(earlier.alias("earlier"))
        is_new = pl.col("earlier").is_null() | (pl.col("earlier") >= pl.col("log_seq"))
        new = firsts.filter(is_new).select(COLUMNS)
        if new.height:
            bounds = new["log_seq"]
            self._new.append(_Run(int(bounds.min()), int(bounds.max()) + 1, new))  # type: ignore[arg-type]
            _merge(self._new, lambda start, end, merged: _Run(start, end, merged))
        known = firsts.select("high", "low", pl.min_horizontal("log_seq", "earlier").alias("first"))
        first = keys.join(known, on=["high", "low"], how="left", maintain_order="left")
        return first.select(
            pl.when(pl.col("first") < pl.col("log_seq")).then("first").alias("repeat_of")
        ).to_series()

    def flush(self, start: int, end: int) -> None:
        """Write what was marked, which was everything from log_seq `start` to `end` - 1."""
        assert self._runs is not None
        import polars as pl

        keys = [run.keys for run in self._new]
        self._new = []
        merged = pl.concat(keys).sort("high") if keys else _empty()
        self._runs.append(self._write(start, end, merged))
        _merge(self._runs, self._write)
        kept = {run.path for run in self._runs}
        for path in self._directory.glob("*.arrow"):
            if path not in kept:
                path.unlink()

    def _write(self, start: int, end: int, keys: pl.DataFrame) -> _Run:
        path = self._directory / f"{start:020d}-{end:020d}.arrow"
        fresh = path.with_suffix(".new")
        keys.write_ipc(fresh, compression="uncompressed")
        fd = os.open(fresh, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        fresh.replace(path)
        sync_directory(self._directory)
        return _Run(start, end, _open(path), path)


class KnownMessages:
    """The index in `directory`, for whoever reads beside the loads; for one thread.

    It knows what was loaded so far, and nothing while there is no index.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._changed_at: int | None = None
        self._runs: list[_Run] = []

    def repeats(self, keys: pl.DataFrame) -> list[int]:
        """The `log_seq` of those rows of a table of keys whose message came before them."""
        self._follow()
        asked = keys.sort("high")
        found: list[int] = []
        for run in self._runs:
            earlier = _find(run.keys, asked)
            is_repeat = (earlier < asked["log_seq"]).fill_null(value=False)
            found += asked["log_seq"].filter(is_repeat).to_list()
        return found

    def unseen(self, source: str, messages: Mapping[str, _M]) -> list[_M]:
        """Those of a source's messages, by message id, that were never loaded."""
        import duckdb
        import polars as pl

        asked = pl.DataFrame(
            {
                "source": [source] * len(messages),
                "message_id": list(messages),
                "log_seq": range(_NEVER, _NEVER + len(messages)),
            },
            schema={"source": pl.String, "message_id": pl.String, "log_seq": pl.Int64},
        )
        with duckdb.connect() as connection:
            connection.register("asked", asked)
            seen = set(self.repeats(connection.execute(keys_of("asked")).pl()))
        return [one for number, one in enumerate(messages.values(), _NEVER) if number not in seen]

    def _follow(self) -> None:
        try:
            changed_at = self._directory.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed_at != self._changed_at:
            # A file that goes while it is read damages nothing: a later look finds its successor.
            self._runs = _read(self._directory) or self._runs
            self._changed_at = changed_at


def _read(directory: Path) -> list[_Run]:
    """The runs on disk, in order; none of those that one merge of them has taken in."""
    runs: list[_Run] = []
    for path in sorted(directory.glob("*.arrow"), key=_span):
        start, end = _span(path)[0], -_span(path)[1]
        if runs and end <= runs[-1].end:
            continue
        try:
            runs.append(_Run(start, end, _open(path), path))
        except Exception:  # polars says in many ways that a file is damaged
            return []
    return runs


def _reach(runs: list[_Run]) -> int:
    """Where the first gap is in what they cover together."""
    reached = 0
    for run in runs:
        if run.start > reached:
            break
        reached = max(reached, run.end)
    return reached


def _span(path: Path) -> tuple[int, int]:
    """Start and, so that the longest comes first, the end with its sign turned."""
    start, _, end = path.stem.partition("-")
    return int(start), -int(end)


def _open(path: Path) -> pl.DataFrame:
    """A run from disk; only the pages that are looked at are read."""
    import polars as pl
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    keys = pl.from_arrow(table, rechunk=False)
    if not isinstance(keys, pl.DataFrame) or keys.schema != _empty().schema:
        raise ValueError(f"{path} is no run of keys")
    return keys


def _empty() -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(schema={"high": pl.UInt64, "low": pl.UInt64, "log_seq": pl.Int64})


def _sorted_firsts(keys: pl.DataFrame) -> pl.DataFrame:
    """Each key once, with the lowest log_seq, in ascending order of `high`."""
    return keys.select(COLUMNS).group_by("high", "low").min().select(COLUMNS).sort("high")


def _find(run: pl.DataFrame, keys: pl.DataFrame) -> pl.Series:
    """The log_seq in `run` of each key; null where it is not there."""
    import polars as pl

    if not run.height:
        return _nothing(keys.height)
    at = run["high"].search_sorted(keys["high"], side="left")
    at = at.clip(0, run.height - 1)
    there = run[at]
    same_high = there["high"] == keys["high"]
    same = same_high & (there["low"] == keys["low"])
    found = pl.select(pl.when(same).then(there["log_seq"]).alias("found")).to_series()
    # Two keys may share a half, once in billions: then the one we look for stands further on.
    for row in (same_high & ~same).arg_true():
        high, low = keys["high"][row], keys["low"][row]
        place = int(at[row])
        while place < run.height and run["high"][place] == high:
            if run["low"][place] == low:
                found[row] = run["log_seq"][place]
                break
            place += 1
    return found


def _nothing(height: int) -> pl.Series:
    import polars as pl

    return pl.repeat(None, height, dtype=pl.Int64, eager=True)


def _merge(runs: list[_Run], make: Callable[[int, int, pl.DataFrame], _Run]) -> None:
    """Merge the last runs as long as they are of like size."""
    import polars as pl

    while len(runs) > 1 and runs[-2].keys.height < _GROWTH * max(runs[-1].keys.height, 1):
        second, first = runs.pop(), runs.pop()
        merged = pl.concat([first.keys, second.keys]).sort("high")
        runs.append(make(min(first.start, second.start), max(first.end, second.end), merged))
