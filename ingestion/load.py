"""Loads the event log into `raw.events` and `raw.quarantine` with dlt.

Where the log has been read to stands in the warehouse alone, in `raw._log_position`, and is
written in the same commit as the rows. A crash at any point leaves both as they were or both as
they should be, and the next run goes on from there. A file with the position beside the log could
be ahead of the warehouse; the highest `log_seq` of the tables would fall back when a person's
rows are erased.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion import raw_tables
from ingestion.destination import (
    CATALOG,
    DATASET,
    Lake,
    LoadError,
    drop_pending,
    first_line,
    open_pipeline,
    root_cause,
    run,
)
from ingestion.loaded import publish_loaded
from ingestion.open_log import Reader, open_reader
from ingestion.record_tables import split
from ingestion.repeats import RepeatIndex, keys_of

if TYPE_CHECKING:
    from dlt.pipeline.pipeline import Pipeline
    from duckdb import DuckDBPyConnection

    from ingestion.object_storage import ObjectStorage

PIPELINE = "events"
KEYS = "message_keys"  # the directory of the index of message keys, beside dlt's
BATCH_RECORDS = 500_000  # of one load, that is of one commit to each table
CHUNK_RECORDS = 10_000  # two such are in memory, at most 32 KB each by the collector's limits

_POSITION = f"{DATASET}._log_position"
# Version 1 kept no position: it followed from the loads that dlt had marked as complete.
_MARKED_POSITION = f"""
select max(log_seq) + 1
from (
    select log_seq, _dlt_load_id from {DATASET}.events
    union all
    select log_seq, _dlt_load_id from {DATASET}.quarantine
)
where _dlt_load_id in (
    select load_id from {DATASET}._dlt_loads where schema_name = '{PIPELINE}' and status = 0
)
"""


@dataclass(frozen=True)
class LoadResult:
    """What one call of `Loader.load` did; it loaded the records `first_seq` to `next_seq - 1`."""

    first_seq: int
    next_seq: int
    events: int = 0
    quarantined: int = 0
    batches: int = 0
    seconds: float = 0.0


class Loader:
    """Loads new log records. Keep one for the life of the process: the first load pays for
    imports and the attachment of the lake, the others take a quarter of a second.

    The caller holds the lake's writer lock while it calls `ensure_tables` or `load`.
    """

    def __init__(
        self,
        catalog_url: str,
        data_path: str,
        log: Path | Reader,
        pipelines_dir: Path,
        *,
        database: str = ":memory:",
        storage: ObjectStorage | None = None,
    ) -> None:
        self._lake = Lake(catalog_url, data_path, pipelines_dir, database, storage)
        self._log = open_reader(log) if isinstance(log, Path) else log
        self._connection: DuckDBPyConnection | None = None
        self._hasher: DuckDBPyConnection | None = None
        self._pipeline: Pipeline | None = None
        self._repeats = RepeatIndex(pipelines_dir / KEYS)
        self._batch = _Batch(self._log, 0, 0, self._with_repeats)

    def ensure_tables(self) -> None:
        """Create the raw tables where they are missing, empty and with all columns.

        Columns that a table of an older version lacks are added; its rows have null there. So is
        the position in the log, where the lake was loaded before there was one.

        Raises:
            LoadError: the lake cannot be opened.
        """
        with self._cursor() as cursor:
            found: dict[str, set[str]] = {}
            for table, column in cursor.execute(
                "select table_name, column_name from duckdb_columns() "
                "where database_name = current_database() and schema_name = ?",
                [DATASET],
            ).fetchall():
                found.setdefault(table, set()).add(column)
            changes = [
                statement
                for table in sorted(raw_tables.tables())
                for statement in _additions(cursor, table, found.get(table))
            ]
            changes += _position_changes(cursor, found)
            if not changes:
                return
            cursor.execute("begin")
            cursor.execute(f"create schema if not exists {DATASET}")
            for statement in changes:
                cursor.execute(statement)
            cursor.execute("commit")

    def position(self) -> int:
        """The `log_seq` that the next load starts from, as the warehouse knows it.

        Raises:
            LoadError: the lake cannot be opened.
        """
        return self._state()[0]

    def _state(self) -> tuple[int, str | None]:
        """The position, and the `id` of the index of message keys that was last used."""
        import duckdb

        with self._cursor() as cursor:
            try:
                row = cursor.execute(f"select next_seq, keys_id from {_POSITION}").fetchone()
            except (duckdb.CatalogException, duckdb.BinderException):
                row = None  # nothing was ever loaded, or only by a version before this table
        return (int(row[0]), row[1]) if row else (0, None)

    def load(self, max_records: int | None = None, *, skip_missing: bool = False) -> LoadResult:
        """Load what the log holds at this moment, in batches, each committed for itself.

        Args:
            max_records: stop after so many records; none: load all of them.
            skip_missing: go on at the oldest record that is kept if those before it were never
                loaded here and are gone, as they are for a new lake on an old log.

        Raises:
            LoadError: the lake cannot be opened or written, or the log is not the one that was
                loaded before. What was committed stays; calling again continues after it.
        """
        started = time.monotonic()
        if self._pipeline is None:
            self.ensure_tables()
        first, keys_id = self._state()
        end = self._log.end()
        if first > end:
            raise LoadError(
                f"The warehouse has loaded the log up to {first - 1}, but the log ends at "
                f"{end - 1}. If the machine lost power, start the collector once: it finds the "
                "true end. Otherwise this is not the log that was loaded: put its directory back, "
                "or start a new lake for the new log."
            )
        kept = self._log.first()
        if first < kept and not skip_missing:
            raise LoadError(
                f"The warehouse has loaded the log up to {first - 1}, but the oldest record that "
                f"is kept is {kept}: {kept - first} records are missing. Put the missing segment "
                "files back, or restore the lake that had loaded them; to go on without them: "
                "signalbox load --skip-missing."
            )
        first = max(first, kept)
        publish_loaded(self._log.directory, first)
        if max_records is not None:
            end = min(end, first + max_records)
        result = LoadResult(first, first)
        if first < end:
            self._repeats.prepare(first, keys_id, self._all_keys)
        while result.next_seq < end:
            stop = min(end, result.next_seq + BATCH_RECORDS)
            batch = _Batch(self._log, result.next_seq, stop, self._with_repeats)
            self._run(batch)
            publish_loaded(self._log.directory, batch.next_seq)
            result = replace(
                result,
                next_seq=batch.next_seq,
                events=result.events + batch.events,
                quarantined=result.quarantined + batch.quarantined,
                batches=result.batches + 1,
            )
        return replace(result, seconds=time.monotonic() - started)

    def close(self) -> None:
        """Let go of the lake. The loader may be used again; it then attaches anew."""
        for connection in (self._connection, self._hasher):
            if connection is not None:
                connection.close()
        self._connection = self._hasher = self._pipeline = None
        self._repeats.close()

    def _connect(self) -> DuckDBPyConnection:
        if self._connection is None:
            self._connection = self._lake.connect()
        return self._connection

    def _cursor(self) -> DuckDBPyConnection:
        cursor = self._connect().cursor()
        cursor.execute(f"use {CATALOG}")
        return cursor

    def _with_repeats(self, events: Any) -> Any:
        """The same events with `repeat_of`, the position where their message came first."""
        import duckdb

        if self._hasher is None:
            # One beside the lake: there each statement costs as much as thousands of keys.
            self._hasher = duckdb.connect(config={"threads": 1})
        self._hasher.register("arrived", events.select(["source", "message_id", "log_seq"]))
        keys = self._hasher.execute(keys_of("arrived")).pl()
        self._hasher.unregister("arrived")
        place = events.schema.get_field_index("repeat_of")
        marks = self._repeats.mark(keys).to_arrow()
        return events.set_column(place, events.schema.field(place), marks)

    def _all_keys(self) -> Any:
        with self._cursor() as cursor:
            return cursor.execute(keys_of(f"{DATASET}.events")).pl()

    def _keep_position(self, cursor: DuckDBPyConnection) -> None:
        self._repeats.flush(self._batch.start, self._batch.next_seq)
        # Replaced whole: the lake then drops the old file instead of collecting one per load.
        cursor.execute(f"delete from {_POSITION}")
        cursor.execute(
            f"insert into {_POSITION} values (?, ?)", [self._batch.next_seq, self._repeats.id]
        )

    def _run(self, batch: _Batch) -> None:
        import dlt

        self._batch = batch
        try:
            if self._pipeline is None:
                self._pipeline = open_pipeline(
                    self._lake, PIPELINE, self._connect(), self._keep_position
                )
            else:
                self._pipeline = drop_pending(self._pipeline)
            resource = dlt.resource(batch.tables(), name="log", write_disposition="append")
            run(self._pipeline, resource)
        except Exception as error:
            # The connection may be the cause (Postgres was restarted, the disk was full): the
            # next call starts with a new one.
            self.close()
            cause = root_cause(error)
            if isinstance(cause, LoadError):
                raise cause from None
            raise LoadError(
                f"Loading the log from {batch.start} failed: {first_line(cause)}. Nothing is "
                "lost: remove the cause and load again."
            ) from error


class _Batch:
    """The records `start` to `stop - 1` of the log, as Arrow tables for dlt."""

    def __init__(
        self, log: Reader, start: int, stop: int, with_repeats: Callable[[Any], Any]
    ) -> None:
        self._log = log
        self._with_repeats = with_repeats
        self.start = start
        self._stop = stop
        self.next_seq = start
        self.events = 0
        self.quarantined = 0

    def tables(self) -> Iterator[Any]:
        import dlt

        # One chunk is read while the one before it is looked up and written.
        with ThreadPoolExecutor(1, "log-reader") as reader:
            coming = reader.submit(self._read, self.start)
            while self.next_seq < self._stop:
                self.next_seq, events, quarantine = coming.result()
                if self.next_seq < self._stop:
                    coming = reader.submit(self._read, self.next_seq)
                events = self._with_repeats(events)
                self.events += events.num_rows
                self.quarantined += quarantine.num_rows
                for name, table in (("events", events), ("quarantine", quarantine)):
                    if table.num_rows:
                        yield dlt.mark.with_table_name(table, name)

    def _read(self, seq: int) -> tuple[int, Any, Any]:
        """The position after the chunk from `seq` on, its events and its quarantine records."""
        records = self._log.read(seq, min(CHUNK_RECORDS, self._stop - seq))
        if not records or records[0][0] != seq:
            raise LoadError(
                f"The log should hold the records {seq} to {self._stop - 1}, but they cannot be "
                "read. Check the log directory and its disk."
            )
        return records[-1][0] + 1, *split(records)


def _position_changes(cursor: DuckDBPyConnection, found: dict[str, set[str]]) -> Iterator[str]:
    """SQL that makes the table of the position complete; `found`: columns of the raw tables."""
    columns = found.get("_log_position")
    if columns is None:
        yield f"create table {_POSITION} (next_seq bigint, keys_id varchar)"
    elif "keys_id" not in columns:
        yield f"alter table {_POSITION} add column keys_id varchar"
    if "_dlt_loads" not in found:
        return  # nothing was ever loaded
    if columns and cursor.execute(f"select 1 from {_POSITION}").fetchone():
        return
    marked = cursor.execute(_MARKED_POSITION).fetchone()
    if marked and marked[0] is not None:
        yield f"insert into {_POSITION} values ({marked[0]}, null)"


def _additions(cursor: DuckDBPyConnection, table: str, columns: set[str] | None) -> Iterator[str]:
    """SQL that makes a table, of which `columns` are there, complete; None: it is missing."""
    cursor.register("empty", raw_tables.schema(table).empty_table())
    described = cursor.execute("describe empty").fetchall()
    cursor.unregister("empty")
    wanted = {name: kind for name, kind, *_ in described} | {"_dlt_load_id": "VARCHAR"}
    if columns is None:
        definitions = ", ".join(f'"{name}" {kind}' for name, kind in wanted.items())
        yield f"create table {DATASET}.{table} ({definitions})"
        return
    for name, kind in wanted.items():
        if name not in columns:
            yield f'alter table {DATASET}.{table} add column "{name}" {kind}'
