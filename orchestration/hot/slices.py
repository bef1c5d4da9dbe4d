"""A slice: a DuckDB in memory in which the models run over the events of some customers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ingestion import raw_tables
from orchestration.hot.history import HASH, Snapshot
from orchestration.hot.plans import Plans
from orchestration.hot.project import EDGES, IDENTITY, SPLITS, STAGING, WAITING, Project

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Schema of the models in the SQL that was compiled for the lane.
SCHEMA = "hot"


class Slice:
    """One database, with what is copied from the lake and what the models last said.

    It belongs to one thread at a time. `later` may be called from any: what is to be changed waits
    for the next run.
    """

    def __init__(self, project: Project, snapshot: Snapshot, *, memory: str) -> None:
        import duckdb

        self.project = project
        self._rows = 0
        self._edge_columns = ", ".join(project.model(EDGES).columns)
        self._changes: deque[Callable[[], None]] = deque()
        self._connection = duckdb.connect()
        self.execute("set timezone = 'UTC'")
        # A batch is too small to be shared, and the other cores have other work.
        self.execute("set threads = 1")
        self.execute(HASH)
        self.execute(f"set memory_limit = '{memory}'")
        self._plans = Plans(self._connection)
        self._create(snapshot)

    def close(self) -> None:
        self._connection.close()

    def cursor(self) -> DuckDBPyConnection:
        """A connection of its own, for any thread."""
        return self._connection.cursor()

    def execute(self, statement: str, parameters: Any = None) -> DuckDBPyConnection:
        return self._connection.execute(statement, parameters)

    def run(self, statement: str, rows: int | None = None) -> DuckDBPyConnection:
        """Run a statement that works on about so many rows, on the last run's if it is not said."""
        return self._plans.run(statement, self._rows if rows is None else rows)

    def insert(self, relation: str, rows: Any) -> None:
        """Add rows, an Arrow table, by name."""
        self._plans.insert(relation, rows)

    def replace(self, relation: str, rows: Any) -> None:
        """Leave these rows, an Arrow table, in place of those that are there."""
        self._plans.replace(relation, rows)

    def show(self, relation: str, rows: Any) -> str:
        """Under which name a statement finds rows, an Arrow table; see `Plans.show`."""
        return self._plans.show(relation, rows)

    # Following the lake

    def _create(self, snapshot: Snapshot) -> None:
        for schema in ("raw", SCHEMA, "warm"):
            self.execute(f"create schema {schema}")
        self.execute(f"create table {SCHEMA}.moment (as_of timestamptz)")
        self._create_from("raw.events", raw_tables.schema("events").empty_table())
        for name, rows in snapshot.copies.items():
            self._create_from(f"{SCHEMA}.{name}", rows)
        for model in self.project.models:
            if not model.is_copy:
                kind = "view" if model.is_view else "table"
                self.execute(f'create {kind} {SCHEMA}."{model.name}" as {model.sql}')
        self.execute("create table warm.chosen (customer_id varchar)")
        self._create_from("warm.split_people", snapshot.split_people)
        self.execute(f"create table warm.shared_edges as from {SCHEMA}.{EDGES} limit 0")
        self.execute(f"create table warm.written as from {SCHEMA}.suppressions limit 0")

    def _create_from(self, relation: str, rows: Any) -> None:
        self.execute(f"create table {relation} as from {self.show(relation, rows)}")

    def later(self, change: Callable[[], None]) -> None:
        """Have something changed before the next run, in that run's thread."""
        self._changes.append(change)

    def catch_up(self) -> None:
        """Make the changes that wait."""
        while self._changes:
            self._changes.popleft()()

    def adopt(self, snapshot: Snapshot, changed: Collection[str]) -> None:
        """Go on with a newer copy of the lake, in which these models changed."""
        for name in changed:
            self.replace(f"{SCHEMA}.{name}", snapshot.copies[name])
        self.keep_splits(snapshot.splits)
        self.keep_edges(snapshot.shared_edges)
        self.replace("warm.split_people", snapshot.split_people)
        # What the list in the project says stands in the lake's answer already.
        for name in (STAGING, IDENTITY):
            self.execute(f"delete from {SCHEMA}.{name}")
        self.execute("delete from warm.written")
        self.execute(f"insert into warm.written by name from {SCHEMA}.suppressions")

    def keep_splits(self, rows: Any) -> None:
        """Take in which ids were split: all are kept, whoever they concern."""
        self._keep(f"{SCHEMA}.{SPLITS}", "event_id", rows)

    def keep_edges(self, rows: Any) -> None:
        """Take in edges of ids that are shared by many, or were split."""
        self._keep("warm.shared_edges", "id_key, other_id_key", rows)

    def _keep(self, relation: str, key: str, rows: Any) -> None:
        self.run(
            f"insert into {relation} by name select {', '.join(rows.column_names)}"
            f" from {self.show(relation, rows)} anti join {relation} using ({key})",
            rows.num_rows,
        )

    # Models

    def evaluate(self, events: Any, as_of: datetime, only: Collection[str] | None) -> None:
        """Run the models, or `only` some, over these events, an Arrow table, as of a moment."""
        import pyarrow as pa

        self.catch_up()
        self._rows = events.num_rows
        self.replace(f"{SCHEMA}.moment", _column("as_of", [as_of], pa.timestamp("us", "UTC")))
        self.replace(f"{SCHEMA}.{STAGING}", events)
        self.run_models(only)

    def narrow(self, customers: Collection[str]) -> bool:
        """Leave only some of the last run's customers, by id, to those models that run after this.

        What relations say of the others does not count. False if none of them is here.
        """
        self.choose(customers)
        kept, chosen = self.run(
            "select count(distinct customer_id), count(distinct customer_id)"
            " filter (customer_id in (from warm.chosen))"
            f" from {SCHEMA}.{IDENTITY}"
        ).fetchall()[0]
        if not chosen:
            return False
        self._rows = self._rows * chosen // kept
        # The models take their customers from the map.
        self.run(
            f"delete from {SCHEMA}.{IDENTITY}"
            " where not is_shared and customer_id not in (from warm.chosen)"
        )
        self.run(
            f"delete from {SCHEMA}.{EDGES} where id_key not in (select id_key from"
            f" {SCHEMA}.{IDENTITY})"
        )
        return True

    def choose(self, customers: Iterable[str]) -> None:
        """Note customers, by id, for the statements that follow, as `warm.chosen`."""
        self.replace("warm.chosen", _column("customer_id", customers, "string"))

    def run_models(self, only: Collection[str] | None) -> None:
        """Run the models, or `only` some, over what is here."""
        for model in self.project.models:
            if model.is_copy or model.is_view or model.name in (STAGING, SPLITS):
                continue
            if only is not None and model.name not in only:
                continue
            self.run(f'delete from {SCHEMA}."{model.name}"')
            if model.name == EDGES:
                self.run(f"insert into {SCHEMA}.{EDGES} by name {self._edges(model.sql)}")
            else:
                self.run(f'insert into {SCHEMA}."{model.name}" {model.sql}')

    def _edges(self, sql: str) -> str:
        """The edges of the slice, and of ids that are shared or split those with others."""
        return f"""
            with own as ({sql})
            select {self._edge_columns} from own
            union all
            select {self._edge_columns} from warm.shared_edges
            semi join own using (id_key)
            anti join own using (id_key, other_id_key)
        """

    # What the last run says

    def rows_of(self, model: str) -> Any:
        """All that a model says, an Arrow table."""
        return self.run(f'from {SCHEMA}."{model}"').to_arrow_table()

    def rows_about(self, customers: Collection[str], models: Iterable[str]) -> dict[str, Any]:
        """What models say of some customers, Arrow tables by model."""
        self.choose(customers)
        return {
            model: self.run(
                f'from {SCHEMA}."{model}" semi join warm.chosen using (customer_id)'
            ).to_arrow_table()
            for model in models
        }

    def fired(self, signals: Collection[str]) -> list[tuple[str, str, str]]:
        """What these signals say and is not expired: signal, customer_id, and trigger_id."""
        return [
            (signal, *row)
            for signal in signals
            for row in self.run(
                f'select customer_id, trigger_id from {SCHEMA}."{signal}", {SCHEMA}.moment'
                " where expires_at > moment.as_of"
            ).fetchall()
        ]

    def expired(self, signals: Collection[str]) -> list[tuple[str, str, str, datetime]]:
        """What these signals said and is expired: signal, customer_id, trigger_id, and when."""
        return [
            (signal, *row)
            for signal in signals
            for row in self.run(
                f'select customer_id, trigger_id, expires_at from {SCHEMA}."{signal}",'
                f" {SCHEMA}.moment where expires_at <= moment.as_of"
            ).fetchall()
        ]

    def waiting(self) -> list[tuple[int, datetime]]:
        """What waits for time to pass: customer (by hash) and when it is due."""
        if not self.project.has(WAITING):
            return []
        return self.run(f"select id_hash(customer_id), due_at from {SCHEMA}.{WAITING}").fetchall()

    def members(self) -> list[tuple[int, int, str, bool]]:
        """Ids (by hash), with their customer's hash and name, and whether the id is shared."""
        return self.run(
            "select id_hash(id_key), id_hash(customer_id), customer_id, is_shared"
            f" from {SCHEMA}.{IDENTITY}"
        ).fetchall()

    def has_splits(self) -> bool:
        """Whether any ids were split, whoever they belong to."""
        return bool(self.run(f"select 1 from {SCHEMA}.{SPLITS} limit 1").fetchall())

    def edges_to_keep(self) -> Any:
        """Edges of ids that are shared or were split, an Arrow table."""
        return self.run(
            f"select {self._edge_columns} from {SCHEMA}.{EDGES} semi join ("
            f"select id_key from {SCHEMA}.{IDENTITY} where is_shared"
            f" union all select unnest([id_key, other_id_key]) from {SCHEMA}.{SPLITS}"
            ") using (id_key)"
        ).to_arrow_table()

    def people(self) -> Any:
        """identity_map, for a plan, an Arrow table.

        Ids of others that share an id with someone in the slice are there under the names that they
        have alone, and those from whom someone was split under the lake's.
        """
        return self.run(
            f"select id_key, customer_id, solo_customer_id, is_shared from {SCHEMA}.{IDENTITY}"
            " union all"
            f" from warm.split_people anti join {SCHEMA}.{IDENTITY} using (id_key)"
            " union all"
            " select distinct other_id_key, 'cus_' || substr(md5(other_id_key), 1, 16),"
            " 'cus_' || substr(md5(other_id_key), 1, 16), false"
            f" from {SCHEMA}.{EDGES}"
            f" where other_id_key not in (select id_key from {SCHEMA}.{IDENTITY})"
            " and other_id_key not in (select id_key from warm.split_people)"
        ).to_arrow_table()

    def edges(self) -> Any:
        """identity_edges, for a plan, an Arrow table."""
        return self.run(f"select id_key, other_id_key from {SCHEMA}.{EDGES}").to_arrow_table()

    def suppressed(self, condition: str, rows: int | None = None) -> Any:
        """What is on the suppression list and not on the project's, with how far it has read."""
        return self.run(
            f"with reached as (select coalesce(max(log_seq), 0) as log_seq from {SCHEMA}.{STAGING})"
            f" select * from {SCHEMA}.suppressions, reached where {condition}"
            " except select * from warm.written, reached",
            rows,
        ).to_arrow_table()


def _column(name: str, values: Iterable[Any], kind: Any) -> Any:
    """An Arrow table of one column."""
    import pyarrow as pa

    return pa.table({name: pa.array(list(values), kind)})
