"""Opens dlt pipelines into the lake's `raw` schema that stay warm between loads.

dlt's own DuckLake destination opens a new DuckDB and attaches the lake anew for every step of a
load, which is two thirds of the time of a small one. Here all steps share one attached DuckDB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlt.common.destination import Destination
    from dlt.pipeline.pipeline import Pipeline
    from duckdb import DuckDBPyConnection

    from ingestion.object_storage import ObjectStorage

CATALOG = "lake"

# What DuckDB's extensions and dlt import only when they are first used.
_IMPORTED_LATE = (
    "duckdb_extensions",
    "duckdb_extension_ducklake",
    "duckdb_extension_postgres",
    "dlt.common.libs.pyarrow",
    "dlt.destinations.impl.ducklake.ducklake",
)
DATASET = "raw"


InCommit = Callable[["DuckDBPyConnection"], None]


class LoadError(Exception):
    """A load cannot be done; the message says why and what to do."""


@dataclass(frozen=True)
class Lake:
    """Where the lake is.

    Args:
        catalog_url: the catalog database, `postgresql://user:password@/name?host=…`.
        data_path: directory or object-storage URL of the Parquet files, ending in `/`.
        pipelines_dir: dlt's working files; nothing in it is ever the only copy of anything.
        database: a memory with a name (`:memory:name`) is shared with the process's others that
            give the same, and the lake may be attached to it already.
        storage: how `data_path` is reached, if it is a URL.
    """

    catalog_url: str
    data_path: str
    pipelines_dir: Path
    database: str = ":memory:"
    storage: ObjectStorage | None = None

    def connect(self) -> DuckDBPyConnection:
        """A DuckDB with the lake attached as `lake`. Needs no network.

        Raises:
            LoadError: the catalog cannot be reached.
        """
        import duckdb
        from duckdb_extensions import import_extension

        connection = duckdb.connect(self.database)
        # After two seconds of a query it would be printed, in the middle of what we print.
        connection.execute("set enable_progress_bar = false")
        connection.execute("set global timezone = 'UTC'")
        attached = connection.execute(
            "select 1 from duckdb_databases() where database_name = ?", [CATALOG]
        ).fetchone()
        if attached:
            return connection
        for extension in ("ducklake", "postgres"):
            import_extension(extension, con=connection)
            connection.load_extension(extension)
        if self.storage is not None:
            self.storage.open(connection, self.data_path)
        try:
            # Inlined rows would live in the catalog until a flush; see the DuckLake issues 1364,
            # 1406 and 1074. One file for each load and a scheduled compaction instead.
            connection.execute(
                f"attach 'ducklake:postgres:{_quoted(self.catalog_url)}' as {CATALOG} "
                f"(data_path '{_quoted(self.data_path)}', data_inlining_row_limit 0)"
            )
        except duckdb.Error as error:
            connection.close()
            reason = first_line(error).replace(self.catalog_url, "the catalog")
            raise LoadError(
                f"The lake cannot be opened: {reason}. Check that its Postgres is running and "
                "that SIGNALBOX_POSTGRES_URL and SIGNALBOX_LAKE_URL name the lake you mean."
            ) from None
        return connection


def warm_up() -> None:
    """Import what a load needs, for a process that is forked for each load.

    Opens no connection.
    """
    for module in _IMPORTED_LATE:
        import_module(module)
    _configure()


def open_pipeline(
    lake: Lake, name: str, connection: DuckDBPyConnection, in_commit: InCommit | None = None
) -> Pipeline:
    """A dlt pipeline of that name whose every step runs on cursors of `connection`.

    dlt commits each table for itself and then a mark that the load is complete. With `in_commit`
    all of that is one commit, in which `in_commit` may write too: it is called at its end. That is
    for tables that are only appended to.

    Packages that an earlier process left half loaded are dropped: whoever loads reads again from
    its source, from the position that the warehouse holds, so they are worth nothing. Finishing
    them instead would trust files that a crash may have torn.
    """
    _configure()
    import dlt

    def build() -> Pipeline:
        return dlt.pipeline(
            name,
            pipelines_dir=str(lake.pipelines_dir),
            destination=_destination(lake, name, connection, in_commit),
            dataset_name=DATASET,
        )

    lake.pipelines_dir.mkdir(parents=True, exist_ok=True)
    try:
        pipeline = build()
    except Exception:
        # Its own state files were torn by a crash; they are a cache and are built anew.
        _wipe(lake.pipelines_dir / name)
        pipeline = build()
    return drop_pending(pipeline)


def run(pipeline: Pipeline, resource: Any) -> None:
    """Load what the resource yields, one package, and leave nothing of it in the working files.

    Raises whatever dlt raises; `root_cause` finds what it was.
    """
    transaction: _Package = pipeline.destination.package
    try:
        pipeline.run(resource, loader_file_format="parquet")
    finally:
        transaction.roll_back()  # unless it was committed
    # dlt keeps an archive of packages for ever; `raw._dlt_loads` is our history of loads.
    for package in Path(pipeline.working_dir).glob("load/loaded/*"):
        _wipe(package)


def root_cause(error: BaseException) -> BaseException:
    """The exception that started a chain; dlt wraps what happens in its steps several times."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def first_line(error: BaseException) -> str:
    """What an exception says, without the advice and positions that DuckDB appends."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def drop_pending(pipeline: Pipeline) -> Pipeline:
    """The same pipeline without any package that waits to be loaded."""
    # A directory may be left that dlt cannot list as a package, so look at what is there.
    working_dir = Path(pipeline.working_dir)
    waiting = [
        *working_dir.glob("normalize/extracted/*"),
        *working_dir.glob("load/new/*"),
        *working_dir.glob("load/normalized/*"),
    ]
    return pipeline.drop() if waiting else pipeline


def _configure() -> None:
    import dlt

    for key, value in {
        "runtime.dlthub_telemetry": False,
        "runtime.intercept_signals": False,  # Ctrl-C belongs to whoever called us
        "restore_from_destination": False,  # we keep no state in dlt that could be restored
        "enable_runtime_trace": False,
        # The file between is read once, a moment later: to compress it costs more than it saves.
        "data_writer.compression": "none",
        "normalize.workers": 1,
        "normalize.parquet_normalizer.add_dlt_load_id": True,
        "load.workers": 1,  # jobs take turns on one connection
        "load.delete_completed_jobs": True,
        "load.truncate_staging_dataset": True,
    }.items():
        dlt.config[key] = value


class _Package:
    """The transaction of the package that is being loaded, if it is to be one commit."""

    def __init__(self, connection: DuckDBPyConnection, in_commit: InCommit | None) -> None:
        self._connection = connection
        self._in_commit = in_commit
        self.cursor: DuckDBPyConnection | None = None

    def open_cursor(self) -> DuckDBPyConnection:
        """A connection for one step of dlt: that of the transaction, once it has begun."""
        if self.cursor is not None:
            return self.cursor
        cursor = self._connection.cursor()
        cursor.execute(f"use {CATALOG}")
        return cursor

    def begin(self) -> None:
        if self._in_commit is not None and self.cursor is None:
            self.cursor = self.open_cursor()
            self.cursor.execute("begin")

    def commit(self) -> None:
        if self._in_commit is not None and self.cursor is not None:
            self._in_commit(self.cursor)
            self.cursor.execute("commit")
            self.cursor = None  # the step that has it open will close it

    def roll_back(self) -> None:
        if self.cursor is not None:
            self.cursor.close()  # which rolls back what is open
            self.cursor = None


def _destination(
    lake: Lake, name: str, connection: DuckDBPyConnection, in_commit: InCommit | None
) -> Destination[Any, Any]:
    from dlt.destinations import ducklake
    from dlt.destinations.impl.ducklake.configuration import DuckLakeCredentials
    from dlt.destinations.impl.ducklake.ducklake import DuckLakeClient
    from dlt.destinations.impl.ducklake.sql_client import DuckLakeSqlClient

    package = _Package(connection, in_commit)

    class WarmSqlClient(DuckLakeSqlClient):  # type: ignore[misc]
        _conn: DuckDBPyConnection | None

        def open_connection(self) -> DuckDBPyConnection:
            self._conn = package.open_cursor()
            return self._conn

        def close_connection(self) -> None:
            if self._conn and self._conn is not package.cursor:
                self._conn.close()  # rolls back what is open; the lake stays attached
            self._conn = None

    class WarmClient(DuckLakeClient):  # type: ignore[misc]
        def __init__(self, schema: Any, config: Any, capabilities: Any) -> None:
            super().__init__(schema, config, capabilities)
            cold = self.sql_client
            self.sql_client: Any = WarmSqlClient(
                cold.dataset_name, cold.staging_dataset_name, cold.credentials, capabilities
            )

        def create_load_job(self, *args: Any, **kwargs: Any) -> Any:
            package.begin()
            return super().create_load_job(*args, **kwargs)

        def complete_load(self, load_id: str) -> None:
            super().complete_load(load_id)
            package.commit()

    class WarmDuckLake(ducklake):  # type: ignore[misc]
        @property
        def client_class(self) -> type:
            return WarmClient

        @property
        def package(self) -> _Package:
            return package

    # dlt would open a bucket with keys and packages of its own. It need not know of one: what it
    # writes goes through the connection, and the lake knows where its files lie.
    storage = str(lake.pipelines_dir / "files") if lake.storage else lake.data_path.rstrip("/")
    return WarmDuckLake(
        credentials=DuckLakeCredentials(CATALOG, catalog=lake.catalog_url, storage=storage),
        destination_name="ducklake",
        # Two pipelines that share a staging dataset drop each other's rows (dlt issue 4297).
        staging_dataset_name_layout=f"%s_staging_{name}",
        replace_strategy="insert-from-staging",
    )


def _wipe(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def _quoted(text: str) -> str:
    return text.replace("'", "''")
