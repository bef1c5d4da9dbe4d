"""Statements that are planned once and run at every batch.

To plan the SQL of a model takes DuckDB longer than to run it over a few customers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class Plans:
    """The plans of one connection; as it, of one thread.

    A plan outlives the rows it was made for. So that it never prunes by values that stood in the
    tables at that time, DuckDB is told not to look at them, for all connections of this database.
    The order of joins does follow from the numbers of rows: there is a plan for each power of ten.
    """

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self._connection = connection
        self._connection.execute("set disabled_optimizers = 'statistics_propagation'")
        self._names: dict[tuple[str, int], str] = {}

    def run(self, statement: str, rows: int) -> DuckDBPyConnection:
        """Run a statement that works on about so many rows.

        It may name no Arrow table that is registered for the moment, and after a change of a
        table's columns DuckDB plans anew at each call.
        """
        known = (statement, len(str(rows)))
        name = self._names.get(known)
        if name is None:
            name = f"plan_{len(self._names)}"
            self._connection.execute(f"prepare {name} as {statement}")
            self._names[known] = name
        return self._connection.execute(f"execute {name}")
