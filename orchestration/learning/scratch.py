"""The project's models in a DuckDB file of their own, as the world was before a day."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration import dbt, lake
from orchestration.settings import DBT_PROJECT, Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SCHEMA = "evaluation"
_parsed: list[Any] = []


class Scratch:
    """A file whose raw layer shows the lake's up to a moment; nothing later is in it.

    It goes with the `with` block. The lake itself is only read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
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
            lake.attach(connection, self.settings, read_only=True)
            if connection.execute(
                "select 1 from duckdb_schemas() where database_name = 'evaluation'"
                f" and schema_name = '{SCHEMA}'"
            ).fetchone():
                connection.execute(f"use evaluation.{SCHEMA}")
            yield connection
        finally:
            connection.close()

    def show(self, before: datetime) -> None:
        """Let the raw layer hold the events that happened before a moment.

        The tables that sources keep up to date have no past, and stay empty.
        """
        with self.connect() as connection:
            connection.execute("create schema if not exists evaluation.raw")
            tables = connection.execute(
                "select table_name from duckdb_tables() where database_name = 'lake'"
                " and schema_name = 'raw'"
            ).fetchall()
            for (table,) in tables:
                seen = f"timestamp < '{before.isoformat()}'" if table == "events" else "false"
                connection.execute(
                    f'create or replace view evaluation.raw."{table}" as'
                    f' select * from lake.raw."{table}" where {seen}'
                )

    def dbt(self, *args: str, as_of: datetime, **variables: Any) -> None:
        """Run one dbt command on the scratch schema.

        Raises:
            DbtFailed: with dbt's words.
        """
        from dbt.cli.main import dbtRunner

        variables["as_of"] = as_of.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        where = [
            *("--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)),
            *("--target", "evaluation", "--target-path", str(self.directory / "target")),
            *("--log-path", str(self.directory / "logs"), "--log-level-file", "none"),
            *("--quiet", "--no-use-colors", "--no-write-json"),
        ]
        os.environ["SIGNALBOX_DBT_EVALUATION_DB"] = str(self.path)
        if not _parsed:  # it names no path, so that one serves every scratch of this process
            _parsed.append(dbt.succeeded(dbtRunner().invoke(["parse", *where])))
        runner = dbtRunner(manifest=_parsed[0])
        dbt.succeeded(runner.invoke([*args, *where, "--vars", json.dumps(variables)]))
