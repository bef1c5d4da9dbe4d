"""Brings the rows of a source into its raw table, which then holds the source's present state."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ingestion import raw_tables
from ingestion.destination import Lake, LoadError, first_line, open_pipeline, root_cause, run
from ingestion.sources.http import SourceError

CHUNK_ROWS = 5_000


@dataclass(frozen=True)
class SourceResult:
    """Rows read from the source, and how long reading and loading took."""

    table: str
    rows: int
    seconds: float


def load_source(
    lake: Lake, name: str, table: str, rows: Iterable[dict[str, Any]], *, key: str | None
) -> SourceResult:
    """Load rows into `raw.<table>`, all of them in one commit.

    Args:
        lake: whose raw table exists already.
        name: of the dlt pipeline.
        table: one of `raw_tables.TABLES`.
        rows: dicts with the table's columns; read once, in chunks.
        key: merge by this column, the newest `updated_at` wins; none: replace the whole table.

    Raises:
        SourceError: passed on from `rows`.
        LoadError: the lake cannot be written.
    """
    import dlt

    started = time.monotonic()
    count = 0

    def tables() -> Iterator[Any]:
        nonlocal count
        for chunk in _chunks(rows, table):
            count += chunk.num_rows
            yield chunk

    hints: dict[str, Any] = {"write_disposition": "replace"}
    if key is not None:
        disposition = {"disposition": "merge", "strategy": "delete-insert"}
        newest = {"updated_at": {"dedup_sort": "desc"}}
        hints = {"write_disposition": disposition, "primary_key": key, "columns": newest}
    with lake.connect() as connection:
        pipeline = open_pipeline(lake, name, connection)
        try:
            run(pipeline, dlt.resource(tables(), name=table, **hints))
        except Exception as error:
            cause = root_cause(error)
            if isinstance(cause, SourceError):
                raise cause from None
            raise LoadError(
                f"Loading raw.{table} failed: {first_line(cause)}. The table is as it was; the "
                "next refresh tries again."
            ) from error
    return SourceResult(table, count, time.monotonic() - started)


def _chunks(rows: Iterable[dict[str, Any]], table: str) -> Iterator[Any]:
    import pyarrow as pa

    schema = raw_tables.schema(table)
    remaining = iter(rows)
    # An empty first chunk: a source without any row must still empty a replaced table.
    yield schema.empty_table()
    while chunk := list(islice(remaining, CHUNK_ROWS)):
        yield pa.Table.from_pylist(chunk, schema=schema)
