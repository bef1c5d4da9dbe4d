"""Statements that are planned once and run at every batch.

To plan the SQL of a model takes DuckDB longer than to run it over a few customers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
        self._shown: dict[tuple[str, Any], _Table] = {}

    def run(self, statement: str, rows: int) -> DuckDBPyConnection:
        """Run a statement that works on about so many rows.

        The only Arrow tables that it may name are those of `show`, and after a change of a table's
        columns DuckDB plans anew at each call.
        """
        known = (statement, len(str(rows)))
        name = self._names.get(known)
        if name is None:
            name = f"plan_{len(self._names)}"
            self._connection.execute(f"prepare {name} as {statement}")
            self._names[known] = name
        return self._connection.execute(f"execute {name}")

    def show(self, relation: str, rows: Any) -> str:
        """Rows, an Arrow table, for statements about a relation; the name that they go by there.

        It is the same each time, and statements that read it are planned once. To register a table
        for every batch would cost more than to read a few rows. Rows of another schema have another
        name, since a kept plan would go on to read the old ones.
        """
        shown = self._shown.get((relation, rows.schema))
        if shown is None:
            shown = _Table(f"rows_{len(self._shown)}", rows)
            self._connection.register(shown.name, shown)
            self._shown[relation, rows.schema] = shown
        shown.rows = rows
        return shown.name

    def insert(self, relation: str, rows: Any, what: str = "*") -> None:
        """Add rows, an Arrow table, or `what` is selected from them, by name."""
        self.run(
            f"insert into {relation} by name select {what} from {self.show(relation, rows)}", 0
        )

    def replace(self, relation: str, rows: Any, what: str = "*") -> None:
        """Leave these rows in place of those that are there."""
        self.run(f"delete from {relation}", 0)
        self.insert(relation, rows, what)


class _Table:
    """What DuckDB asks for columns when it plans, and for rows each time it runs a plan."""

    def __init__(self, name: str, rows: Any) -> None:
        self.name = name
        self.rows = rows

    def __arrow_c_schema__(self) -> object:
        return self.rows.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.rows.__arrow_c_stream__(requested_schema)
