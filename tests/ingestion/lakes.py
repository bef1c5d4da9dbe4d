from __future__ import annotations

from typing import Any

from ingestion.destination import Lake


def query(lake: Lake, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a query on the lake, by a reader of its own."""
    with lake.connect() as connection:
        connection.execute("use lake")
        return connection.execute(sql).fetchall()
