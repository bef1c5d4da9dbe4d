"""What the destinations hold that are no servers: tables of the sandbox's database, CSV files.

Nothing of it passes through the sandbox; it looks at them when the page asks.
"""

from __future__ import annotations

import csv
from collections import deque
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

SHOWN_ROWS = 20
SHOWN_CHARACTERS = 200

_TABLES = """
select table_schema, table_name,
       (select count(*) from information_schema.columns c
        where (c.table_schema, c.table_name, c.column_name)
              = (t.table_schema, t.table_name, 'created_at')) = 1
from information_schema.tables t
where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')
order by 1, 2
"""


def holdings(postgres: str, directory: str) -> list[dict[str, Any]]:
    """Tables and files, each as `{name, kind, rows, columns, last}`.

    `last` are up to 20 rows as text: of a file the last, of a table the newest where it says when
    rows were made. Either place may be empty text: then nothing is looked for there.
    """
    return [*(_tables(postgres) if postgres else ()), *(_files(directory) if directory else ())]


def _tables(url: str) -> list[dict[str, Any]]:
    found = []
    connection = psycopg2.connect(url, connect_timeout=5, options="-c statement_timeout=5000")
    try:
        connection.set_session(readonly=True)
        with connection.cursor() as cursor:
            cursor.execute(_TABLES)
            for schema, name, is_dated in cursor.fetchall():
                table = sql.Identifier(schema, name)
                cursor.execute(sql.SQL("select count(*) from {}").format(table))
                (rows,) = cursor.fetchone() or (0,)
                newest = sql.SQL("order by created_at desc" if is_dated else "")
                cursor.execute(
                    sql.SQL("select * from {} {} limit %s").format(table, newest), [SHOWN_ROWS]
                )
                columns = [column.name for column in cursor.description or ()]
                last = [[_text(value) for value in row] for row in cursor.fetchall()]
                shown = name if schema == "public" else f"{schema}.{name}"
                found.append(_holding(shown, "table", rows, columns, last))
    finally:
        connection.close()
    return found


def _files(directory: str) -> list[dict[str, Any]]:
    found = []
    for path in sorted(Path(directory).glob("*.csv")):
        last: deque[list[str]] = deque(maxlen=SHOWN_ROWS)
        rows = 0
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            for line in reader:
                rows += 1
                last.append([_text(value) for value in line])
        found.append(_holding(path.name, "file", rows, columns, list(last)[::-1]))
    return found


def _holding(
    name: str, kind: str, rows: int, columns: list[str], last: list[list[str]]
) -> dict[str, Any]:
    return {"name": name, "kind": kind, "rows": rows, "columns": columns, "last": last}


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:SHOWN_CHARACTERS]
