"""Brings the rows of a source into its raw table, which then holds the source's present state."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from pydantic_settings import BaseSettings

from ingestion import raw_tables
from ingestion.destination import Lake, LoadError, first_line, open_pipeline, root_cause, run
from ingestion.sources import Link, RefreshSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    Links = Callable[[list[Link]], object]

CHUNK_ROWS = 5_000


@dataclass(frozen=True)
class SourceResult:
    """Rows read from the source, and how long reading and loading took."""

    table: str
    rows: int
    seconds: float


def refresh(
    lake: Lake,
    source: RefreshSource,
    settings: BaseSettings,
    *,
    full: bool = False,
    on_links: Links | None = None,
    writer: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> SourceResult:
    """Bring a source's rows into its raw table, all of them in one commit.

    A source with a key is asked only for what changed since the newest row in the table, which is
    answered again; with `full` for everything. A vendor may take minutes to answer, so all of it is
    read before the lake is written.

    Args:
        lake: whose raw table exists already.
        source: what to read.
        settings: the source's own.
        full: read all of it.
        on_links: told, before the rows are committed, which ids they hold together; the same ones
            may be told again.
        writer: makes us the lake's only writer while its context is open; for a caller who is not.

    Raises:
        SourceError: the source cannot be read; the table stays as it was.
        LoadError: the lake cannot be written; the table stays as it was.
    """
    started = time.monotonic()
    since = None if full or source.key is None else _newest(lake, source.table)
    with tempfile.TemporaryFile() as kept:
        rows = _keep(kept, _telling(source, settings, since, on_links), source.table)
        with writer():
            _load(lake, source, kept)
    return SourceResult(source.table, rows, time.monotonic() - started)


def _telling(
    source: RefreshSource, settings: BaseSettings, since: datetime | None, on_links: Links | None
) -> Iterator[dict[str, Any]]:
    rows = source.rows(settings, since)
    if source.link is None or on_links is None:
        yield from rows
        return
    while chunk := list(islice(rows, CHUNK_ROWS)):
        on_links([found for row in chunk if (found := source.link(row, settings))])
        yield from chunk


def _newest(lake: Lake, table: str) -> datetime | None:
    with lake.connect() as connection:
        row = connection.execute(f"select max(updated_at) from lake.raw.{table}").fetchone()
    return row[0] if row else None


def _keep(file: IO[bytes], rows: Iterable[dict[str, Any]], table: str) -> int:
    """Write the rows into a file, as Arrow's stream of a raw table; returns how many there are."""
    import pyarrow as pa

    schema = raw_tables.schema(table)
    remaining, count = iter(rows), 0
    with pa.ipc.new_stream(file, schema) as stream:
        while chunk := list(islice(remaining, CHUNK_ROWS)):
            stream.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
    file.seek(0)
    return count


def _load(lake: Lake, source: RefreshSource, kept: IO[bytes]) -> None:
    import dlt

    hints: dict[str, Any] = {"write_disposition": "replace"}
    if source.key is not None:
        disposition = {"disposition": "merge", "strategy": "delete-insert"}
        newest = {"updated_at": {"dedup_sort": "desc"}}
        hints = {"write_disposition": disposition, "primary_key": source.key, "columns": newest}
    with lake.connect() as connection:
        pipeline = open_pipeline(lake, source.name, connection)
        try:
            run(pipeline, dlt.resource(_tables(kept), name=source.table, **hints))
        except Exception as error:
            raise LoadError(
                f"Loading raw.{source.table} failed: {first_line(root_cause(error))}. The table is "
                "as it was; the next refresh tries again."
            ) from error


def _tables(kept: IO[bytes]) -> Iterator[Any]:
    import pyarrow as pa

    with pa.ipc.open_stream(kept) as stream:
        # An empty first one: a source without any row must still empty a replaced table.
        yield stream.schema.empty_table()
        for batch in stream:
            yield pa.Table.from_batches([batch])
