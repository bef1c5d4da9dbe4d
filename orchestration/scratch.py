"""The project's models in a DuckDB file of their own, which may show the world as it was."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration import dbt, lake
from orchestration.settings import DBT_PROJECT, Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

DATABASE = SCHEMA = "evaluation"
_parsed: tuple[float, Any] | None = None


class Scratch:
    """A file whose raw layer shows the lake's up to a moment; nothing later is in it.

    It goes with the `with` block. The lake itself is only read, as it is or, given a snapshot, as
    that commit left it.
    """

    def __init__(self, settings: Settings, snapshot: int | None = None) -> None:
        self.settings = settings
        self.snapshot = snapshot
        settings.home.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix="evaluation-", dir=settings.home))
        self.path = self.directory / "evaluation.duckdb"

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextmanager
    def connect(self) -> Iterator[DuckDBPyConnection]:
        """The file, with the lake attached as `lake`, to read and write the scratch schema."""
        import duckdb

        connection = duckdb.connect(str(self.path))
        try:
            lake.attach(connection, self.settings, read_only=True, snapshot=self.snapshot)
            connection.execute(f"create schema if not exists evaluation.{SCHEMA}")
            connection.execute(f"use evaluation.{SCHEMA}")
            yield connection
        finally:
            connection.close()

    def show(self, before: datetime) -> None:
        """Let the raw layer hold the events that happened before a moment.

        The tables that sources keep up to date have no past, and stay empty.
        """
        self._show(f"select * from lake.raw.events where timestamp < '{before.isoformat()}'")

    def copy_in_order(self) -> None:
        """Copy the events, numbered as if each had arrived at the moment it happened.

        Incremental models follow that number: they go on from one moment to the next.
        """
        with self.connect() as connection:
            connection.execute(
                "create table evaluation.main.in_order as select * replace ("
                "row_number() over (order by timestamp, log_seq) as log_seq) from lake.raw.events"
            )

    def show_in_order(self, before: datetime) -> None:
        """As `show`, of the events that `copy_in_order` has copied."""
        moment = before.isoformat()
        self._show(f"select * from evaluation.main.in_order where timestamp < '{moment}'")

    def show_loaded(self, up_to: int) -> None:
        """Let the raw layer hold the events up to a log_seq, and the sources' tables whole."""
        self._show(f"select * from lake.raw.events where log_seq <= {up_to}", others="true")

    def borrow(self, names: Iterable[str]) -> None:
        """Let these models be the lake's."""
        with self.connect() as connection:
            for name in names:
                connection.execute(
                    f'create or replace view {DATABASE}.{SCHEMA}."{name}" as'
                    f' select * from lake.main."{name}"'
                )

    def take(self, names: Iterable[str], other: Scratch) -> None:
        """Copy these models from another scratch."""
        # By files: within one process DuckDB attaches a database once, and dbt may hold it still.
        files = {name: other.directory / f"{name}.parquet" for name in names}
        with other.connect() as connection:
            for name, file in files.items():
                connection.execute(f"copy \"{name}\" to '{file}' (format parquet)")
        with self.connect() as connection:
            for name, file in files.items():
                connection.execute(f"create table \"{name}\" as from read_parquet('{file}')")

    def show_with(self, more: Iterable[Any]) -> None:
        """Let the raw layer hold the lake's events and further rows of it (Arrow tables)."""
        with self.connect() as connection:
            connection.execute("create schema if not exists evaluation.raw")
            connection.execute(
                "create or replace table evaluation.raw.more as from lake.raw.events limit 0"
            )
            for rows in more:
                connection.register("rows", rows)
                connection.execute("insert into evaluation.raw.more by name from rows")
                connection.unregister("rows")
        self._show("select * from lake.raw.events union all by name from evaluation.raw.more")

    def _show(self, events: str, others: str = "false") -> None:
        with self.connect() as connection:
            connection.execute("create schema if not exists evaluation.raw")
            tables = connection.execute(
                "select table_name from duckdb_tables() where database_name = 'lake'"
                " and schema_name = 'raw'"
            ).fetchall()
            for (table,) in tables:
                shown = (
                    events
                    if table == "events"
                    else f'select * from lake.raw."{table}" where {others}'
                )
                connection.execute(f'create or replace view evaluation.raw."{table}" as {shown}')

    def dbt(self, *args: str, as_of: datetime | None = None, **variables: Any) -> None:
        """Run one dbt command on the scratch schema, looking from a moment or from now.

        Raises:
            DbtFailed: with dbt's words.
        """
        from dbt.cli.main import dbtRunner

        variables = dbt.variables(self.settings, as_of) | variables
        where = [
            *("--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)),
            *("--target", "evaluation", "--target-path", str(self.directory / "target")),
            *("--log-path", str(self.directory / "logs"), "--log-level-file", "none"),
            *("--quiet", "--no-use-colors", "--no-write-json"),
        ]
        os.environ["SIGNALBOX_DBT_EVALUATION_DB"] = str(self.path)
        os.environ["SIGNALBOX_DBT_EVALUATION_SNAPSHOT"] = str(self.snapshot or "")
        global _parsed  # it names no path, so that one serves every scratch of this process
        if _parsed is None or _parsed[0] < dbt.project_mtime():
            parsed = dbt.succeeded(dbtRunner().invoke(["parse", *where]))
            _parsed = (dbt.project_mtime(), parsed)
        runner = dbtRunner(manifest=_parsed[1])
        dbt.succeeded(runner.invoke([*args, *where, "--vars", json.dumps(variables)]))
