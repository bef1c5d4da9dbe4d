"""One transaction for a whole dbt run: readers of the lake see all that it built, or nothing.

dbt gives each node a connection and a commit. Here all of them are one connection, whose begin and
commit are ours; a run of ten models is then one snapshot of the lake instead of ten. For one
thread, and for models that are not made anew: a swap of tables wants commits of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dbt.adapters.duckdb import environments
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.adapters.duckdb.environments.local import (
    DuckDBConnectionWrapper,
    DuckDBCursorWrapper,
    LocalEnvironment,
)


class _Cursor(DuckDBCursorWrapper):  # type: ignore[misc]
    def execute(self, sql: str, bindings: Any = None) -> Any:
        if sql in ("BEGIN", "COMMIT"):
            return self
        return super().execute(sql, bindings)


class _Handle(DuckDBConnectionWrapper):  # type: ignore[misc]
    def __init__(self, cursor: Any, env: LocalEnvironment) -> None:
        super().__init__(cursor, env)
        self._cursor = _Cursor(cursor)

    def close(self) -> None: ...

    def rollback(self) -> None: ...  # so dbt ends its reading, too


class Transaction(LocalEnvironment):  # type: ignore[misc]
    """dbt-duckdb's place to run SQL, with one connection for all."""

    _only: Any = None

    def handle(self) -> DuckDBConnectionWrapper:
        if self._only is None:
            self._only = super().handle().cursor()
            self._only.execute("begin transaction")
        return _Handle(self._only, self)

    def end(self, *, commit: bool) -> None:
        """Publish what was done, or none of it."""
        if self._only is not None:
            only, self._only = self._only, None
            try:
                only.execute("commit" if commit else "rollback")
            finally:
                only.close()


@contextmanager
def one_transaction() -> Iterator[list[Transaction]]:
    """dbt, run in this block, works in one transaction; the list holds it. Undone if not ended."""
    begun: list[Transaction] = []

    def create(credentials: Any) -> Transaction:
        begun.append(Transaction(credentials))
        return begun[-1]

    stock = environments.create
    environments.create = create
    # dbt-duckdb keeps its place from one run of this process to the next.
    DuckDBConnectionManager.close_all_connections()
    try:
        yield begun
    finally:
        environments.create = stock
        DuckDBConnectionManager.close_all_connections()
        for transaction in begun:
            transaction.end(commit=False)
