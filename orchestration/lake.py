"""The lake: DuckLake with its catalog in Postgres. Connections, the one-writer lock, read-only SQL.

Readers need no lock and see complete commits only. Whoever writes the production schemas holds
a Postgres advisory lock whose session carries the holder's name, so that the one who has to wait
is told for whom.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration import postgres
from orchestration.settings import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

CATALOG = "lake"
SCHEMA = "main"
# DuckDB's connections to a memory of this name are to one, within a process; dbt's profile has it.
SHARED = ":memory:signalbox"
# Of each file of the models. Rows that are looked up by customer lie by customer, and nothing but
# the bounds is read of a row group that holds none of those asked for.
ROW_GROUP_ROWS = 8_192
# Of the catalog's tables, what the rows of one of the lake's tables are looked up by.
CATALOG_INDEXES = {
    "ducklake_data_file": "table_id",
    "ducklake_delete_file": "table_id",
    "ducklake_file_column_stats": "table_id, column_id",
}
LOCK_POLL_SECONDS = 0.1
MAINTENANCE_WAITS = 600.0
WRITER_LOCK = 0x5167_6E61  # any fixed number; it names the lock within the catalog database


class WriterBusy(Exception):
    """Another process writes to the lake; the message names it."""


def attach_statement(settings: Settings, *, read_only: bool, snapshot: int | None = None) -> str:
    """SQL that attaches the lake as `lake` on any DuckDB of the pinned version.

    Read-only means a Postgres role that may only read, besides DuckDB's own refusal to write.
    With a snapshot the lake is seen as that commit left it, whatever is written meanwhile.
    """
    servers = postgres.start(settings)
    url = servers.lake_reader if read_only else servers.lake
    # Inlined rows would sit in the catalog until a flush, with open bugs (DuckLake 1364, 1406):
    # small files and a scheduled compaction instead.
    writing = "read_only" if read_only else "data_inlining_row_limit 0"
    options = [f"data_path '{_quoted(settings.lake_path)}'", writing]
    if snapshot is not None:
        options.append(f"snapshot_version {snapshot}")
    return (
        f"attach if not exists 'ducklake:postgres:{_quoted(url)}' as {CATALOG} "
        f"({', '.join(options)})"
    )


def attach(
    connection: DuckDBPyConnection,
    settings: Settings,
    *,
    read_only: bool,
    snapshot: int | None = None,
) -> None:
    """Load the extensions from their wheels and attach the lake, see `attach_statement`."""
    connection.execute("set enable_progress_bar = false")  # of slow queries, into our own output
    connection.execute("set timezone = 'UTC'")
    if not _is_attached(connection, CATALOG):
        load_extensions(connection, settings)
        connection.execute(f"set temp_directory = '{_quoted(_spill(settings))}'")
        statement = attach_statement(settings, read_only=read_only, snapshot=snapshot)
        connection.execute(statement)


def _spill(settings: Settings) -> str:
    """A database's own directory for what does not fit in memory: DuckDB's files have fixed names.

    It is made when it is needed and goes with the database; see `_sweep`.
    """
    directory = settings.home / "spill"
    directory.mkdir(parents=True, exist_ok=True)
    return str(directory / f"{os.getpid()}-{next(_spills)}")


def _sweep(settings: Settings) -> None:
    """Remove what processes left in `spill` that were killed."""
    import psutil

    for left in (settings.home / "spill").iterdir():
        if not psutil.pid_exists(int(left.name.partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)


def _is_attached(connection: DuckDBPyConnection, name: str) -> bool:
    found = connection.execute("select 1 from duckdb_databases() where database_name = ?", [name])
    return found.fetchone() is not None


def attach_ledger(connection: DuckDBPyConnection, settings: Settings) -> None:
    """Attach the delivery ledger, read-only, as `ledger`."""
    if _is_attached(connection, "ledger"):
        return
    ledger = _quoted(postgres.start(settings).ledger)
    connection.execute(f"attach if not exists '{ledger}' as ledger (type postgres, read_only)")


def load_extensions(connection: DuckDBPyConnection, settings: Settings) -> None:
    """Install DuckDB's extensions from the pinned PyPI packages; no network is asked."""
    from duckdb_extensions import import_extension

    for name in ("ducklake", "postgres"):
        import_extension(name, con=connection)
        connection.load_extension(name)
    if settings.lake_storage is not None:
        settings.lake_storage.open(connection, settings.lake_path)


def share(settings: Settings) -> None:
    """Let all connections of this process use one DuckDB, which stays attached, for writing.

    For a process that does one thing after another: loads, dbt and syncs then pay once for the
    extensions, and what one has read of the lake's catalog the next one knows. It takes half of the
    processors: the others are for those who must act within seconds, and a query of a small batch
    costs a fifth more on two.
    """
    global _database, _open
    _database = SHARED
    _open = connect(settings, read_only=False)
    _open.execute(f"set threads = {max(1, (os.cpu_count() or 1) // 2)}")


def database() -> str:
    """The name under which this process's parts find the DuckDB they share, if they do."""
    return _database


def connect(settings: Settings, *, read_only: bool = True) -> DuckDBPyConnection:
    """A DuckDB connection of its own with `lake` attached and in use."""
    import duckdb

    connection = duckdb.connect(_database)
    attach(connection, settings, read_only=read_only)
    connection.execute(f"use {CATALOG}.{SCHEMA}")
    return connection


def generation(connection: DuckDBPyConnection, tables: Sequence[str]) -> str:
    """Which making of these tables it is: a full refresh gives each a new identity, a build none.

    `connection` is one of `connect`. Seen in the transaction that it is in.
    """
    found = connection.execute(
        f"select table_name, table_uuid::varchar from ducklake_table_info('{CATALOG}')"
        " where table_name in (select unnest($1)) order by all",
        [list(tables)],
    ).fetchall()
    return " ".join(f"{name}:{identity}" for name, identity in found)


def connect_guarded(settings: Settings) -> DuckDBPyConnection:
    """A connection for ad-hoc SQL: the lake can be read, and nothing else can be done.

    Files outside the lake, attach, install, copy and settings are refused by DuckDB itself.
    """
    connection = connect(settings, read_only=True)
    if settings.lake_storage is None:
        Path(settings.lake_path).mkdir(parents=True, exist_ok=True)
    connection.execute(f"set allowed_directories = ['{_quoted(settings.lake_path)}']")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


_database = ":memory:"
_spills = itertools.count()
_open: DuckDBPyConnection | None = None  # keeps the shared one alive
_mutex = threading.Lock()
_depth = 0
_session: Any = None


@contextmanager
def writer(
    settings: Settings,
    holder: str,
    *,
    wait_seconds: float = 60.0,
    on_wait: Callable[[str], object] | None = None,
) -> Iterator[None]:
    """Be the lake's only writer for the length of the block.

    The lock belongs to the process: a nested block, in whatever thread, joins the outer one (dbt
    opens its connections in threads of its own).

    Args:
        settings: which lake.
        holder: what the others are told, for example `micro-batch 3f2a`.
        wait_seconds: how long to wait for the present holder.
        on_wait: told once, in words, if there is somebody to wait for.

    Raises:
        WriterBusy: it was not free in time; names the holder and its process.
    """
    global _depth, _session
    with _mutex:
        if _depth == 0:
            _session = _lock(settings, holder, wait_seconds, on_wait)
        _depth += 1
    try:
        yield
    finally:
        with _mutex:
            _depth -= 1
            if _depth == 0:
                _unlock(_session)
                _session = None


def ensure_layout(settings: Settings) -> None:
    """Have a few customers found in few rows (small row groups), and files by indexes."""
    _index_catalog(settings)
    with connect(settings, read_only=False) as connection:
        set_already = connection.execute(
            "select 1 from ducklake_options($catalog) where option_name = 'parquet_row_group_size'"
            " and value = $rows",
            {"catalog": CATALOG, "rows": str(ROW_GROUP_ROWS)},
        ).fetchone()
        if set_already is None:
            connection.execute(
                f"call {CATALOG}.set_option('parquet_row_group_size', {ROW_GROUP_ROWS},"
                f" schema => '{SCHEMA}')"
            )


def _index_catalog(settings: Settings) -> None:
    """Give Postgres indexes for what every read asks: a table's files, and their bounds by column.

    DuckLake makes none, and what micro-batches wrote stands in the catalog until their snapshots
    expire, long after it was merged.
    """
    import psycopg2

    wanted = {f"{table}_by_table": table for table in CATALOG_INDEXES}
    connection = psycopg2.connect(postgres.start(settings).lake)
    try:
        with connection, connection.cursor() as cursor:
            # Looked for first: to create one waits for whoever writes, even where it is there.
            cursor.execute(
                "select indexname from pg_indexes where indexname = any(%s)", (list(wanted),)
            )
            missing = wanted.keys() - {name for (name,) in cursor.fetchall()}
            if missing:
                # Of two processes that start at once the second would fail.
                cursor.execute("select pg_advisory_xact_lock(hashtext('catalog indexes'))")
            for name in sorted(missing):
                table = wanted[name]
                cursor.execute(
                    f"create index if not exists {name} on {table} ({CATALOG_INDEXES[table]})"
                )
    finally:
        connection.close()


def columns(connection: DuckDBPyConnection) -> dict[str, set[str]]:
    """The columns of each table and view of the production schema."""
    found: dict[str, set[str]] = {}
    for table, column in connection.execute(
        "select table_name, column_name from duckdb_columns()"
        " where database_name = $catalog and schema_name = $schema",
        {"catalog": CATALOG, "schema": SCHEMA},
    ).fetchall():
        found.setdefault(table, set()).add(column)
    return found


def maintain(
    settings: Settings,
    layouts: Mapping[str, Sequence[str]],
    *,
    holder: str = "maintenance",
    on_wait: Callable[[str], object] | None = None,
) -> dict[str, int]:
    """Merge small files, thin out snapshots, remove files nobody can read any more.

    Of the last hour every snapshot is kept, and of the last week the last one of each hour and what
    each model was last built from: each micro-batch leaves one, and what they alone can read makes
    every look at the catalog dearer.

    It becomes the writer for one table at a time, so that a micro-batch need not wait for all of
    them. Files that were dropped are kept for a day: a reader may still be on its way through them.

    Args:
        settings: which lake.
        layouts: by table of the production schema, the columns in whose order merged files are to
            be written.
        holder, on_wait: as for `writer`.

    Returns:
        Tables rewritten and merged, snapshots dropped, files removed.

    Raises:
        WriterBusy: another writer did not end within ten minutes.
    """
    done = dict.fromkeys(
        ("tables_rewritten", "tables_merged", "snapshots_expired", "files_removed"), 0
    )
    with connect(settings, read_only=False) as connection:

        def call(function: str, *options: str) -> int:
            arguments = ", ".join([f"'{CATALOG}'", *options])
            return len(connection.execute(f"call ducklake_{function}({arguments})").fetchall())

        tables = connection.execute(
            "select schema_name, table_name from duckdb_tables()"
            " where database_name = $catalog order by all",
            {"catalog": CATALOG},
        ).fetchall()
        for schema, table in tables:
            place = (f"'{_quoted(table)}'", f"schema => '{_quoted(schema)}'")
            with writer(settings, holder, wait_seconds=MAINTENANCE_WAITS, on_wait=on_wait):
                # It may have been dropped meanwhile.
                if not _is_there(connection, schema, table):
                    continue
                if schema == SCHEMA and table in layouts:
                    _lay_out(connection, table, layouts[table])
                # Rows that were replaced stand in the files until those are rewritten.
                done["tables_rewritten"] += call(
                    "rewrite_data_files", *place, "delete_threshold => 0.3"
                )
                done["tables_merged"] += call("merge_adjacent_files", *place)
            time.sleep(2 * LOCK_POLL_SECONDS)  # whoever waits for the lock takes it now
        with writer(settings, holder, wait_seconds=MAINTENANCE_WAITS, on_wait=on_wait):
            if versions := _dispensable(connection):
                done["snapshots_expired"] = call("expire_snapshots", f"versions => {versions}")
            done["files_removed"] = call(
                "cleanup_old_files", "older_than => now() - interval '1 day'"
            )
    _sweep(settings)
    return done


_DISPENSABLE = f"""
with snapshots as (
    select snapshot_id, snapshot_time from ducklake_snapshots('{CATALOG}')
),

built as ({{built}})

select snapshot_id from snapshots
where snapshot_time < now() - interval '1 hour'
qualify
    snapshot_time < now() - interval '7 days'
    or snapshot_id not in (from built) and row_number() over (
        partition by date_trunc('hour', snapshot_time) order by snapshot_id desc
    ) > 1
"""
# What each model was last built from, which `diff` goes back to.
_BUILT = f"""
    select max(snapshots.snapshot_id) as snapshot_id
    from {CATALOG}.{SCHEMA}.build_watermarks as marks
    inner join snapshots on snapshots.snapshot_time <= marks.built_at group by marks.model
"""


def _dispensable(connection: DuckDBPyConnection) -> list[int]:
    """The snapshots that `maintain` drops."""
    has_built = _is_there(connection, SCHEMA, "build_watermarks")
    built = _BUILT if has_built else "select snapshot_id from snapshots limit 0"
    found = connection.execute(_DISPENSABLE.format(built=built)).fetchall()
    return [version for (version,) in found]


def _is_there(connection: DuckDBPyConnection, schema: str, table: str) -> bool:
    found = connection.execute(
        "select 1 from duckdb_tables()"
        " where database_name = ? and schema_name = ? and table_name = ?",
        [CATALOG, schema, table],
    )
    return found.fetchone() is not None


def _lay_out(connection: DuckDBPyConnection, table: str, order: Sequence[str]) -> None:
    """Tell the lake the order of a table's rows, if the table is there and has been told none."""
    catalog = f"__ducklake_metadata_{CATALOG}"
    row = connection.execute(
        f"select count(sorts.sort_id) from {catalog}.ducklake_table as tables"
        f" join {catalog}.ducklake_schema as schemas using (schema_id)"
        f" left join {catalog}.ducklake_sort_info as sorts"
        " on sorts.table_id = tables.table_id and sorts.end_snapshot is null"
        " where tables.table_name = $table and schemas.schema_name = $schema"
        " and tables.end_snapshot is null having count(*) > 0",
        {"table": table, "schema": SCHEMA},
    ).fetchone()
    if row == (0,):
        columns = ", ".join(order)
        connection.execute(f"alter table {CATALOG}.{SCHEMA}.{table} set sorted by ({columns})")


def is_writer() -> bool:
    """Whether this process holds the writer lock."""
    return _depth > 0


def _lock(
    settings: Settings,
    holder: str,
    wait_seconds: float,
    on_wait: Callable[[str], object] | None,
) -> Any:
    import psycopg2

    name = f"{holder} (pid {os.getpid()})"[:63]
    connection = psycopg2.connect(postgres.start(settings).lake, application_name=name)
    connection.autocommit = True
    deadline = time.monotonic() + wait_seconds
    with connection.cursor() as cursor:
        while True:
            cursor.execute("select pg_try_advisory_lock(%s)", (WRITER_LOCK,))
            if cursor.fetchone() == (True,):
                return connection
            if on_wait is not None:
                on_wait(f"Waiting for {current_writer(settings) or 'the present writer'}.")
                on_wait = None
            if time.monotonic() >= deadline:
                busy = current_writer(settings) or "another process"
                connection.close()
                raise WriterBusy(
                    f"The lake is being written by {busy}; waited {wait_seconds:.0f} s. "
                    "Wait for it to finish or stop it, then try again."
                )
            time.sleep(LOCK_POLL_SECONDS)


def _unlock(session: Any) -> None:
    """The server frees the lock of a closed session when it comes to it: who asks next finds it."""
    import psycopg2

    with contextlib.suppress(psycopg2.Error), session.cursor() as cursor:
        cursor.execute("select pg_advisory_unlock(%s)", (WRITER_LOCK,))
    session.close()


def current_writer(settings: Settings) -> str | None:
    """Name and pid of the process that holds the writer lock, if any."""
    import psycopg2

    connection = psycopg2.connect(postgres.start(settings).lake)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "select a.application_name from pg_locks l join pg_stat_activity a using (pid) "
                "where l.locktype = 'advisory' and l.granted "
                "and ((l.classid::bigint << 32) | l.objid::bigint) = %s",
                (WRITER_LOCK,),
            )
            row = cursor.fetchone()
            return row[0] if row else None
    finally:
        connection.close()


def _quoted(text: str) -> str:
    return text.replace("'", "''")
