"""Rows of any Postgres table, found by the sync's key column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import Error, errors
from psycopg2.extras import Json, execute_values
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.database import transaction
from syncs.results import Fatal, HttpClient, Row, RowResult, Target

MODES = {"upsert", "update_only", "mirror"}
BATCH_SIZE = 500
API_VERSION = "PostgreSQL"
RATE = 20.0
CREDENTIALS = ("target_url",)
SANDBOX = {"target_url": "{postgres}", "create_tables": "true"}
SKIPS_ABSENT = True  # update_only changes what is there and nothing else

_TYPES = {bool: "boolean", int: "bigint", float: "double precision", dict: "jsonb", list: "jsonb"}


class Settings(BaseSettings):
    """SIGNALBOX_POSTGRES_TARGET_URL; a sync's `object` is a table, or schema.table.

    With _CREATE_TABLES, tables, columns and unique keys that are missing are made; without it,
    the error says what to run.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_POSTGRES_", extra="ignore", env_ignore_empty=True
    )

    target_url: SecretStr | None = None
    create_tables: bool = False


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    url = _url(target.settings)
    # A table may lack several things; each attempt names one.
    for _ in range(4):
        try:
            with transaction(url) as cursor:
                return _write(cursor, rows, target)
        except Error as error:
            needed = remedy(error, rows, target)
            if not target.settings.create_tables:
                said = (error.diag.message_primary or "").strip()
                raise Fatal(f"{said}; run: {'; '.join(needed)}") from None
        with transaction(url) as cursor:
            cursor.execute(";".join(needed))
    raise Fatal(f"the table {target.object} cannot be made to take these columns")


def check(target: Target[Settings], http: HttpClient) -> str:
    with transaction(_url(target.settings)) as cursor:
        cursor.execute("select current_user, current_database(), current_setting('server_version')")
        user, database, version = cursor.fetchone()
    return f"{user} in {database}, PostgreSQL {version}"


def remedy(error: Error, rows: Sequence[Row], target: Target[Settings]) -> list[str]:
    """The statements that give the table what the error says it lacks."""
    table, key = _table(target.object), _quoted(target.key)
    columns = {name: _type(name, rows) for row in rows for name in row.fields}
    if isinstance(error, errors.InvalidColumnReference):
        return [f"create unique index on {table} ({key})"]
    if isinstance(error, errors.UndefinedColumn):
        return [
            f"alter table {table} add column if not exists {_quoted(name)} {kind}"
            for name, kind in columns.items()
        ]
    defined = ", ".join(
        f"{_quoted(name)} {kind}" + (" primary key" if name == target.key else "")
        for name, kind in columns.items()
    )
    schema, _, _ = target.object.rpartition(".")
    return [
        *([f"create schema if not exists {_quoted(schema)}"] if schema else []),
        f"create table if not exists {table} ({defined})",
    ]


def _write(cursor: Any, rows: Sequence[Row], target: Target[Settings]) -> list[RowResult]:
    table, key = _table(target.object), _quoted(target.key)
    done = [RowResult.delivered() for _ in rows]
    if rows[0].leave:
        cursor.execute(f"delete from {table} where {key} in %s", [tuple(row.key for row in rows)])
        return done
    names = list(rows[0].fields)
    others = [_quoted(name) for name in names if name != target.key]
    if target.mode == "update_only":
        changes = ", ".join(f"{name} = %s" for name in others)
        for number, row in enumerate(rows):
            values = [_value(row.fields[name]) for name in names if name != target.key]
            cursor.execute(f"update {table} set {changes} where {key} = %s", [*values, row.key])
            if not cursor.rowcount:
                done[number] = RowResult.rejected(f"{target.object} has no row with this key")
        return done
    old = ", ".join(f"kept.{name}" for name in others)
    new = ", ".join(f"excluded.{name}" for name in others)
    on_conflict = (
        f"update set {', '.join(f'{name} = excluded.{name}' for name in others)}"
        f" where ({old}) is distinct from ({new})"
    )
    execute_values(
        cursor,
        f"insert into {table} as kept ({', '.join(map(_quoted, names))}) values %s"
        f" on conflict ({key}) do {on_conflict if others else 'nothing'}",
        [[_value(row.fields[name]) for name in names] for row in rows],
        page_size=len(rows),
    )
    return done


def _url(settings: Settings) -> str:
    assert settings.target_url is not None
    return settings.target_url.get_secret_value()


def _table(name: str) -> str:
    return ".".join(_quoted(part) for part in name.split("."))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def _type(name: str, rows: Sequence[Row]) -> str:
    values = (row.fields[name] for row in rows)
    return next((_TYPES.get(type(value), "text") for value in values if value is not None), "text")


def _value(value: Any) -> Any:
    return Json(value) if isinstance(value, dict | list) else value
