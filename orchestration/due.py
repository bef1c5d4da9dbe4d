"""What time alone makes due: waiting signals, and deliveries whose pause is over."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration import lake, postgres, warehouse
from orchestration.settings import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def fallen_due(settings: Settings) -> datetime | None:
    """The earliest moment at which a waiting signal fell due and no build has seen it yet."""
    import duckdb

    try:
        row = (
            _reader(settings)
            .execute(
                "select min(due_at) from signals_waiting where due_at <= now() and due_at > "
                "(select max(as_of_ts) from build_watermarks where model = 'cart_abandoned')"
            )
            .fetchone()
        )
    except duckdb.CatalogException:
        return None  # no build yet
    return row[0] if row else None


def deliveries(settings: Settings) -> int:
    """How many actions of the ledger may be sent now; those of paused syncs may not."""
    import psycopg2

    connection = psycopg2.connect(postgres.start(settings).ledger)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "select count(*) from actions where state in ('planned', 'retrying') "
                "and coalesce(next_attempt_at, now()) <= now() "
                "and sync not in (select sync from paused_syncs)"
            )
            row = cursor.fetchone()
            return int(row[0]) if row else 0
    finally:
        connection.close()


def _reader(settings: Settings) -> DuckDBPyConnection:
    warehouse.ensure(settings)
    return _connect(settings.home, settings).cursor()


_connections: dict[Path, DuckDBPyConnection] = {}


def _connect(home: Path, settings: Settings) -> DuckDBPyConnection:
    if home not in _connections:
        _connections[home] = lake.connect(settings)
    return _connections[home]
