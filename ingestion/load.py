"""Loads the event log into `raw.events` and `raw.quarantine` with dlt.

Where the log has been read to is decided by the warehouse alone: it is the highest `log_seq` of
the last load that dlt marked as complete in `raw._dlt_loads`. dlt writes that mark after the
rows of both tables are committed, so a crash at any point means that the next run reads the
unmarked records again. They then stand twice in raw under the same `log_seq`, which staging
removes; none is lost. The plain maximum over both tables would not do: they are two commits, and
after a crash between them the later rows of one would hide the missing rows of the other. A file
with the position beside the log would not do either: it could be ahead of the warehouse.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

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
from ingestion.log import LogReader

if TYPE_CHECKING:
    from dlt.pipeline.pipeline import Pipeline
    from duckdb import DuckDBPyConnection

PIPELINE = "events"
BATCH_RECORDS = 500_000  # of one load, that is of one commit to each table
CHUNK_RECORDS = 20_000  # held in memory at a time, at most 32 KB each by the collector's limits

# Row ids grow with every insert and survive compaction; load ids come from the clock, which may
# be set back.
_LAST_LOAD = """
select load_id from raw._dlt_loads where schema_name = $1 and status = 0 order by rowid desc limit 1
"""
# DuckLake prunes every file but that load's by its statistics, so this does not grow with raw.
_HIGHEST_OF_LOAD = """
select max(log_seq) from (
    select log_seq from raw.events where _dlt_load_id = $1
    union all
    select log_seq from raw.quarantine where _dlt_load_id = $1
)
"""
_HIGHEST_OF_ALL = """
select max(log_seq) from (
    select log_seq, _dlt_load_id from raw.events
    union all
    select log_seq, _dlt_load_id from raw.quarantine
)
where _dlt_load_id in (
    select load_id from raw._dlt_loads where schema_name = $1 and status = 0
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
        self, catalog_url: str, data_path: str, log_dir: Path, pipelines_dir: Path
    ) -> None:
        self._lake = Lake(catalog_url, data_path, pipelines_dir)
        self._log = LogReader(log_dir)
        self._connection: DuckDBPyConnection | None = None
        self._pipeline: Pipeline | None = None

    def ensure_tables(self) -> None:
        """Create the raw tables where they are missing, empty and with all columns.

        Columns that a table of an older version lacks are added; its rows have null there.

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
        import duckdb

        with self._cursor() as cursor:
            try:
                last = cursor.execute(_LAST_LOAD, [PIPELINE]).fetchone()
            except duckdb.CatalogException:
                return 0  # nothing was ever loaded
            if last is None:
                return 0
            highest = cursor.execute(_HIGHEST_OF_LOAD, [last[0]]).fetchone()
            if highest == (None,):  # its rows were erased since
                highest = cursor.execute(_HIGHEST_OF_ALL, [PIPELINE]).fetchone()
        return 0 if highest is None or highest[0] is None else int(highest[0]) + 1

    def load(self, max_records: int | None = None) -> LoadResult:
        """Load what the log holds at this moment, in batches, each committed for itself.

        Args:
            max_records: stop after so many records; none: load all of them.

        Raises:
            LoadError: the lake cannot be opened or written, or the log is not the one that was
                loaded before. What was committed stays; calling again continues after it.
        """
        started = time.monotonic()
        first = self.position()
        end = self._log.end()
        if first > end:
            raise LoadError(
                f"The warehouse has loaded the log up to {first - 1}, but the log ends at "
                f"{end - 1}. If the machine lost power, start the collector once: it finds the "
                "true end. Otherwise this is not the log that was loaded: put its directory back, "
                "or start a new lake for the new log."
            )
        if first < self._log.first():
            raise LoadError(
                f"The warehouse has loaded the log up to {first - 1}, but the oldest record that "
                f"is kept is {self._log.first()}: {self._log.first() - first} records are missing. "
                "Put the missing segment files back, or restore the lake that had loaded them."
            )
        publish_loaded(self._log.directory, first)
        if max_records is not None:
            end = min(end, first + max_records)
        result = LoadResult(first, first)
        while result.next_seq < end:
            batch = _Batch(self._log, result.next_seq, min(end, result.next_seq + BATCH_RECORDS))
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
        if self._connection is not None:
            self._connection.close()
        self._connection = self._pipeline = None

    def _connect(self) -> DuckDBPyConnection:
        if self._connection is None:
            self._connection = self._lake.connect()
        return self._connection

    def _cursor(self) -> DuckDBPyConnection:
        cursor = self._connect().cursor()
        cursor.execute(f"use {CATALOG}")
        return cursor

    def _run(self, batch: _Batch) -> None:
        import dlt

        try:
            if self._pipeline is None:
                self._pipeline = open_pipeline(self._lake, PIPELINE, self._connect())
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

    def __init__(self, log: LogReader, start: int, stop: int) -> None:
        self._log = log
        self.start = start
        self._stop = stop
        self.next_seq = start
        self.events = 0
        self.quarantined = 0

    def tables(self) -> Iterator[Any]:
        import dlt

        while self.next_seq < self._stop:
            records = self._log.read(self.next_seq, min(CHUNK_RECORDS, self._stop - self.next_seq))
            if not records:
                raise LoadError(
                    f"The log should hold the records {self.next_seq} to {self._stop - 1}, but "
                    "they cannot be read. Check the log directory and its disk."
                )
            events, quarantine = split(records)
            self.next_seq = records[-1][0] + 1
            self.events += events.num_rows
            self.quarantined += quarantine.num_rows
            for name, table in (("events", events), ("quarantine", quarantine)):
                if table.num_rows:
                    yield dlt.mark.with_table_name(table, name)


class _Record(msgspec.Struct):
    # Read leniently, with defaults: a log may hold records of older versions of Signalbox.
    kind: str
    source: str = ""
    message_id: str | None = None
    message_id_generated: bool = False
    type: str | None = None
    event: str | None = None
    event_version: int | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    timestamp: str | None = None
    original_timestamp: str | None = None
    sent_at: str | None = None
    received_at: str | None = None
    reason: str | None = None
    detail: str | None = None
    payload: str = ""
    rejected: bool = False
    replayed_from: int | None = None
    replayed_at: str | None = None
    log_seq: int = -1

    @property
    def violation_reason(self) -> str | None:
        return self.reason

    @property
    def violation_detail(self) -> str | None:
        return self.detail


_decode = msgspec.json.Decoder(_Record).decode


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


def split(records: Sequence[tuple[int, bytes]]) -> tuple[Any, Any]:
    """Log records as two `pyarrow.Table`s: events and quarantine. Each record is in one of them."""
    parsed: dict[str, list[_Record]] = {"event": [], "quarantine": []}
    for log_seq, data in records:
        try:
            record = _decode(data)
            parsed[record.kind]  # a kind of a newer version is as unreadable as broken JSON
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
            record = _Record(
                "quarantine",
                reason="invalid_record",
                detail=f"The log record cannot be read: {error}",
                payload=data.decode("utf-8", "replace"),
            )
        record.log_seq = log_seq
        parsed[record.kind].append(record)
    return _table("events", parsed["event"]), _table("quarantine", parsed["quarantine"])


def _table(name: str, records: list[_Record]) -> Any:
    import pyarrow as pa

    schema = raw_tables.schema(name)
    columns = []
    for field in schema:
        values = [getattr(record, field.name) for record in records]
        if pa.types.is_timestamp(field.type):
            columns.append(_timestamps(values, field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=schema)


def _timestamps(values: list[str | None], kind: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, pa.string()).cast(kind)
    except pa.ArrowInvalid:
        # One odd value must not stop the load for good; it stays in the payload.
        return pa.array([_timestamp(value) for value in values], kind)


def _timestamp(value: str | None) -> Any:
    from datetime import UTC, datetime

    try:
        parsed = datetime.fromisoformat(value) if value else None
    except ValueError:
        return None
    return parsed.astimezone(UTC) if parsed and parsed.tzinfo else parsed
