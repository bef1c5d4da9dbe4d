"""What the lake knows of each customer, laid out so that one customer is read at once.

The lake keeps events in order of arrival, so the history of one customer is spread over all of its
files, and reading it costs as much as the history is long. The lane therefore keeps a copy of
`stg_events` in a DuckDB file, sorted by customer: DuckDB then reads the one or two row groups that
hold a customer, however long the history. The file follows the lake in the background and can be
deleted at any time. Which ids belong together, and which are shared by many, is held in memory, 40
bytes an id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration import lake
from orchestration.hot.project import (
    EDGES,
    IDENTITY,
    SPLITS,
    STAGING,
    WAITING,
    HotError,
    Project,
)
from orchestration.settings import Settings

if TYPE_CHECKING:
    import polars as pl
    from duckdb import DuckDBPyConnection

#: Of what is copied as a whole (seeds, tables, what other customers' events decide too).
MAX_COPY_ROWS = 500_000
_RECLUSTER_ROWS = 1_000_000
# To look one customer up takes as long as to read so many rows of all.
_ROWS_A_LOOKUP = 20_000
_MEMORY = "1GB"
_STATE = "fingerprint varchar, generation varchar, position bigint, appended bigint"


#: Of the name of an id or a customer: 63 bits, as DuckDB hands unsigned numbers to Arrow badly.
HASH = "create or replace temporary macro id_hash(name) as cast(hash(name) >> 1 as bigint)"


@dataclass(frozen=True)
class People:
    """Which ids make one customer. Ids and customers are 63-bit hashes of their names."""

    by_id: pl.DataFrame  # id, customer; ascending by id
    by_customer: pl.DataFrame  # customer, id, solo; ascending by customer

    def customers_of(self, ids: Sequence[int]) -> list[int | None]:
        """The customers that ids belong to."""
        import polars as pl

        if not self.by_id.height:
            return [None] * len(ids)
        wanted = pl.Series("id", ids, dtype=pl.Int64)
        at = self.by_id["id"].search_sorted(wanted).clip(0, self.by_id.height - 1)
        found = self.by_id[at]
        pairs = zip((found["id"] == wanted).to_list(), found["customer"].to_list(), strict=True)
        return [customer if same else None for same, customer in pairs]

    def members_of(self, customers: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """For each customer its ids, and the names it may have had before these came together."""
        import polars as pl

        column = self.by_customer["customer"]
        wanted = pl.Series("customer", customers, dtype=pl.Int64)
        first = column.search_sorted(wanted, side="left").to_list()
        last = column.search_sorted(wanted, side="right").to_list()
        ids, solos = self.by_customer["id"], self.by_customer["solo"]
        return [
            (ids[begin:end].to_list(), solos[begin:end].to_list())
            for begin, end in zip(first, last, strict=True)
        ]


@dataclass
class Snapshot:
    """The lake as of one build: everything up to log_seq `position`."""

    position: int
    generation: str  # of the lake's tables; another one when they were built anew as a whole
    people: People
    stored: pl.Series  # customers under which the file holds events, ascending
    shared: Any  # arrow: id_hash of ids that belong to nobody
    shared_edges: Any  # arrow: edges of those and of ids that were split, as identity_edges
    splits: Any  # arrow: identity_split_events
    split_people: Any  # arrow: who the ids in those are, as `Window.people`
    copies: dict[str, Any] = field(default_factory=dict)  # arrow tables by model
    suppressions: Any = None  # arrow
    waiting: list[tuple[int, datetime]] = field(default_factory=list)  # customer, due at

    def stored_under(self, names: Sequence[int]) -> list[int]:
        """Those of customers' names, past and present, under which the file has events."""
        import polars as pl

        if not self.stored.len():
            return []
        wanted = pl.Series("customer", names, dtype=pl.Int64)
        at = self.stored.search_sorted(wanted).clip(0, self.stored.len() - 1)
        return wanted.filter(self.stored[at] == wanted).to_list()


class History:
    """The copy in `directory` of the lake that `connect` attaches as the catalog of `schema`.

    `generation` tells which making of the tables a connection sees: after a full refresh the copy
    is made anew, though the build has come no further in the log. `follow` is called from one
    thread, `events_of` from another. Raises HotError if another process has the copy.
    """

    def __init__(
        self,
        directory: Path,
        connect: Callable[[], DuckDBPyConnection],
        project: Project,
        schema: str = "lake.main",
        generation: Callable[[DuckDBPyConnection], str] = lambda _: "",
    ) -> None:
        self._file = directory / "history.duckdb"
        self._generation = generation
        self._schema = schema
        self._project = project
        self._columns = project.model(STAGING).columns
        self._rows = 0
        self._last: Snapshot | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._lake = connect()
        # It works beside the lane, which is not to wait for it.
        self._lake.execute("set threads = 1")
        self._lake.execute(f"set memory_limit = '{_MEMORY}'")
        self._lake.execute(f"set temp_directory = '{directory / 'tmp'}'")
        self._open()
        self._reader = self._lake.cursor()
        self._reader.execute(HASH)
        self._reader.execute("set timezone = 'UTC'")  # as the window's, or types would differ

    def close(self) -> None:
        self._reader.close()
        self._lake.close()

    def follow(self) -> Snapshot:
        """Take in what the lake has built since the last call.

        Raises:
            HotError: a table that must be copied as a whole is too large.
            duckdb.Error: the lake cannot be read.
        """
        cursor = self._lake.cursor()
        try:
            cursor.execute(HASH)
            cursor.execute("begin")
            snapshot = self._read(cursor)
            cursor.execute("commit")
            self._recluster(cursor)
        except BaseException:
            self._last = None  # the copy is not as far as it says
            raise
        finally:
            cursor.close()
        return snapshot

    def events_of(self, customers: Sequence[int]) -> Any:
        """The events that are stored under these customers, as a `Store` holds them."""
        import pyarrow as pa

        columns = ", ".join(self._columns)
        query = f"select id_hash, id_hash(event_id) as event_hash, {columns} from past.events"
        if len(customers) * _ROWS_A_LOOKUP > self._rows:
            asked = pa.table({"customer": pa.array(customers, pa.int64())})
            self._reader.register("asked", asked)
            found = self._reader.execute(f"{query} semi join asked using (customer)")
            return found.to_arrow_table()
        query += " where customer = ?"
        return pa.concat_tables(
            self._reader.execute(query, [customer]).to_arrow_table() for customer in customers
        )

    def recent(self, rows: int) -> list[int]:
        """The customers seen last whose events, together, are no more than so many."""
        found = self._reader.execute(
            "select customer from ("
            "select customer, sum(count(*)) over (order by max(log_seq) desc, customer) as so_far"
            " from past.events group by customer) where so_far <= ?",
            [rows],
        ).fetchall()
        return [int(customer) for (customer,) in found]

    def _open(self) -> None:
        import duckdb

        try:
            self._attach()
        except duckdb.Error as error:
            if "lock" in str(error).lower():
                raise HotError(
                    "another hot lane runs in this home (signalbox up starts one); stop it first"
                ) from None
            # Of another version, or broken: it is only a copy.
            self._file.unlink(missing_ok=True)
            self._attach()

    def _attach(self) -> None:
        self._lake.execute(f"attach '{self._file}' as past")
        self._lake.execute(f"create table if not exists past.state ({_STATE})")
        self._lake.execute("alter table past.state add column if not exists generation varchar")
        made = self._lake.execute("select fingerprint from past.state").fetchone()
        if made == (self._project.fingerprint,):
            return
        for name in ("events", "state"):
            self._lake.execute(f"drop table if exists past.{name}")
        self._lake.execute(f"create table past.state ({_STATE})")
        self._lake.execute(
            "insert into past.state values (?, '', -1, 0)", [self._project.fingerprint]
        )

    def _read(self, cursor: DuckDBPyConnection) -> Snapshot:
        schema = self._schema
        row = cursor.execute(
            f"select max(log_seq) from {schema}.build_watermarks where model = '{IDENTITY}'"
        ).fetchone()
        position = -1 if row is None or row[0] is None else int(row[0])
        generation = self._generation(cursor)
        if self._last is not None and generation != self._last.generation:
            self._last = None
        if self._last is None or position != self._last.position:
            self._append(cursor, position, generation)
            self._last = self._of_people(cursor, position, generation)
        snapshot = replace(self._last, copies={}, waiting=[])
        self._read_rest(cursor, snapshot)
        return snapshot

    def _of_people(self, cursor: DuckDBPyConnection, position: int, generation: str) -> Snapshot:
        schema = self._schema
        found = cursor.execute(
            "select id_hash(id_key) as id, id_hash(customer_id) as customer,"
            f" id_hash(solo_customer_id) as solo from {schema}.{IDENTITY}"
        ).pl()
        people = People(
            found.select("id", "customer").sort("id"),
            found.select("customer", "id", "solo").sort("customer"),
        )
        self._rows = self._scalar("select count(*) from past.events", cursor)
        # Under whom events are stored never changes: only what came since is looked through.
        known = self._last if self._last is not None and self._last.position < position else None
        stored = cursor.execute(
            "select distinct customer from past.events where log_seq > ?",
            [-1 if known is None else known.position],
        ).pl()["customer"]
        if known is not None:
            stored = stored.append(known.stored).unique()
        shared = f"select id_key from {schema}.{IDENTITY} where is_shared"
        split = f"select unnest([id_key, other_id_key]) from {schema}.{SPLITS}"
        edge_columns = ", ".join(self._project.model(EDGES).columns)
        return Snapshot(
            position,
            generation,
            people,
            stored.sort(),
            cursor.execute(f"select id_hash(id_key) as id_hash from ({shared})").to_arrow_table(),
            cursor.execute(
                f"select {edge_columns} from {schema}.{EDGES}"
                f" where id_key in ({shared} union all {split})"
            ).to_arrow_table(),
            cursor.execute(f"from {schema}.{SPLITS}").to_arrow_table(),
            cursor.execute(
                "select id_key, customer_id, solo_customer_id, is_shared"
                f" from {schema}.{IDENTITY} where id_key in ({split})"
            ).to_arrow_table(),
        )

    def _read_rest(self, cursor: DuckDBPyConnection, snapshot: Snapshot) -> None:
        """What may change without a new event: seeds, other sources, the suppression list."""
        schema = self._schema
        for model in self._project.models:
            if model.is_copy:
                rows = cursor.execute(
                    f"select * from {schema}.{model.name} limit {MAX_COPY_ROWS + 1}"
                ).to_arrow_table()
                if rows.num_rows > MAX_COPY_ROWS:
                    raise HotError(f"{model.name} has grown beyond {MAX_COPY_ROWS:,} rows")
                snapshot.copies[model.name] = rows
        snapshot.suppressions = cursor.execute(
            f"select channel, address, customer_id, reason, since from {schema}.suppressions"
        ).to_arrow_table()
        if self._project.has(WAITING):
            snapshot.waiting = cursor.execute(
                f"select id_hash(customer_id), due_at from {schema}.{WAITING} where due_at > ("
                f"select coalesce(min(as_of_ts), now()) from {schema}.build_watermarks"
                f" where model in (select unnest($models)))",
                {"models": list(self._project.signals)},
            ).fetchall()

    def _append(self, cursor: DuckDBPyConnection, position: int, generation: str) -> None:
        columns = ", ".join(f"events.{name}" for name in self._columns)
        select = f"""
            select
                id_hash(people.customer_id) as customer, id_hash(events.id_key) as id_hash,
                {columns}
            from {self._schema}.{STAGING} as events
            inner join {self._schema}.{IDENTITY} as people on events.id_key = people.id_key
            where events.log_seq > $from and events.log_seq <= $to
            order by customer
        """
        tables = {
            name
            for (name,) in cursor.execute(
                "select table_name from duckdb_tables() where database_name = 'past'"
            ).fetchall()
        }
        reached = self._scalar("select position from past.state", cursor)
        made = cursor.execute("select generation from past.state").fetchone()
        if position < reached or made != (generation,):
            reached = -1  # another lake, one that was restored, or tables that were built anew
            cursor.execute("drop table if exists past.events")
            cursor.execute("update past.state set generation = ?", [generation])
            tables.discard("events")
        span = {"from": reached, "to": position}
        if "events" not in tables:
            cursor.execute(f"create table past.events as {select}", span)
            cursor.execute("update past.state set position = ?, appended = 0", [position])
        elif position > reached:
            done = cursor.execute(f"insert into past.events {select}", span).fetchone()
            assert done is not None
            cursor.execute(
                "update past.state set position = ?, appended = appended + ?", [position, done[0]]
            )

    def _recluster(self, cursor: DuckDBPyConnection) -> None:
        """Sort anew when much has been appended: each appended part is sorted in itself only."""
        if self._scalar("select appended from past.state", cursor) < _RECLUSTER_ROWS:
            return
        cursor.execute("begin")
        cursor.execute("create table past.sorted as select * from past.events order by customer")
        cursor.execute("drop table past.events")
        cursor.execute("alter table past.sorted rename to events")
        cursor.execute("update past.state set appended = 0")
        cursor.execute("commit")

    def _scalar(self, query: str, cursor: DuckDBPyConnection | None = None) -> int:
        row = (cursor or self._lake).execute(query).fetchone()
        return int(row[0]) if row and row[0] is not None else 0


def too_large(settings: Settings, project: Project) -> dict[str, str]:
    """Models that cannot be copied because of their size, and why; what is not built is not."""
    import duckdb

    found = {}
    with lake.connect(settings) as connection:
        for model in project.models:
            if not model.is_copy:
                continue
            try:
                row = connection.execute(f"select count(*) from {model.name}").fetchone()
            except duckdb.CatalogException:
                found[model.name] = "is not built yet; run signalbox build"
                continue
            if row is not None and row[0] > MAX_COPY_ROWS:
                found[model.name] = (
                    f"must be held in memory whole, and its {row[0]:,} rows are more than "
                    f"{MAX_COPY_ROWS:,}"
                )
    return found
