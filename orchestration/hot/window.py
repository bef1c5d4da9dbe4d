"""The window: a DuckDB in memory that holds whole customers, and runs the models over some of them.

It holds the customers whom something touched since the lake was last copied, and those touched
lately, each with its whole history: that is what makes the full form of every model give the same
rows as the warehouse. Customers are faulted in from `History` at their first event and leave, the
longest untouched first, when there are too many rows.

Ids and customers are handled as 63-bit hashes of their names; a group is a set of ids that one
slice must hold together: a customer or, until its models have run, what new events have joined.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ingestion import raw_tables
from ingestion.record_tables import split
from ingestion.repeats import KnownMessages, keys_of
from orchestration.hot.history import HASH, History, Snapshot
from orchestration.hot.plans import Plans
from orchestration.hot.project import (
    EDGES,
    FACTS,
    IDENTITY,
    MENTIONS,
    SPLITS,
    STAGING,
    WAITING,
    Project,
)
from orchestration.hot.store import Store

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Schema of the models in the SQL that was compiled for the lane.
SCHEMA = "hot"


@dataclass
class Touched:
    """What touched a group since its models last ran."""

    log_seq: int  # of the newest event; orders the work
    since: float  # seconds since 1970: when the oldest event that waits was accepted


class Window:
    """The database in memory. All methods but `cursor` belong to one thread."""

    def __init__(
        self,
        project: Project,
        history: History,
        *,
        max_rows: int,
        memory: str = "2GB",
        known: KnownMessages | None = None,
    ) -> None:
        """`known` tells which messages were loaded before: repeats of these are left out."""
        import duckdb

        self.project = project
        self.max_rows = max_rows
        self.late = 0  # customers that were read from the history
        self._history = history
        self._known = known
        self._connection = duckdb.connect()
        self._connection.execute("set timezone = 'UTC'")
        # A batch is too small to be shared, and the other cores have other work.
        self._connection.execute("set threads = 1")
        self._connection.execute(HASH)
        self._connection.execute(f"set memory_limit = '{memory}'")
        self._plans = Plans(self._connection)
        self._staging = project.model(STAGING)
        self._hashed = (
            "select id_hash(id_key) as id_hash, id_hash(event_id) as event_hash,"
            f" {', '.join(self._staging.columns)} from {SCHEMA}.{STAGING} where id_key is not null"
        )
        self._edge_columns = ", ".join(project.model(EDGES).columns)
        self._groups: dict[int, _Group] = {}  # by number, the longest untouched first
        self._group_of: dict[int, int] = {}  # id → number
        self._by_customer: dict[int, int] = {}  # customer → number
        self._number = 0
        self._shared: set[int] = set()
        self._snapshot: Snapshot | None = None
        self._facts = threading.Lock()
        self._with_facts: set[str] = set()
        self._slice_rows = 0
        self._store: Store
        #: Groups that were touched since their models last ran.
        self.pending: dict[int, Touched] = {}

    def close(self) -> None:
        self._connection.close()

    @property
    def rows(self) -> int:
        """How many events are held."""
        return self._store.rows

    @property
    def customers(self) -> int:
        """How many are held."""
        return len(self._groups)

    @property
    def snapshot(self) -> Snapshot:
        assert self._snapshot is not None
        return self._snapshot

    def cursor(self) -> DuckDBPyConnection:
        """A connection of its own, for any thread: `hot` has the models, `facts` the facts."""
        return self._connection.cursor()

    # Following the lake

    def adopt(self, snapshot: Snapshot) -> None:
        """Go on with a newer copy of the lake."""
        known, self._snapshot = self._snapshot, snapshot
        if known is None:
            self._create(snapshot)
            self._warm_up()
        for name, rows in snapshot.copies.items():
            if known is not None and not rows.equals(known.copies[name]):
                self._connection.execute(f"delete from {SCHEMA}.{name}")
                self._insert(f"{SCHEMA}.{name}", rows)
        self._shared |= set(snapshot.shared["id_hash"].to_pylist())
        self._take("incoming", snapshot.splits)
        self._connection.execute(self._keep_splits("from incoming"))
        self._take("incoming", snapshot.shared_edges)
        self._connection.execute(
            f"insert into warm.shared_edges by name select {self._edge_columns} from incoming"
            " anti join warm.shared_edges using (id_key, other_id_key)"
        )
        self._connection.unregister("incoming")
        self._connection.execute("delete from warm.split_people")
        self._insert("warm.split_people", snapshot.split_people)
        # What the list in the project says stands in the lake's answer already.
        for name in (STAGING, IDENTITY):
            self._connection.execute(f"delete from {SCHEMA}.{name}")
        self._connection.execute("delete from warm.written")
        self._connection.execute(f"insert into warm.written by name from {SCHEMA}.suppressions")
        self._take("incoming", snapshot.suppressions)
        with self._facts:
            # What the lake has read since stands in its own list.
            self._connection.execute("begin")
            self._connection.execute(
                "delete from facts.suppressions where log_seq <= ?", [snapshot.position]
            )
            self._connection.execute(
                "insert into facts.suppressions by name select *, -1 as log_seq from incoming"
            )
            self._connection.execute("commit")
        self._connection.unregister("incoming")

    def forget(self) -> None:
        """Let go of all events, of whatever customer: what is read from now on is all there is."""
        self._store.drop([id_hash for group in self._groups.values() for id_hash in group.ids])
        self._groups.clear()
        self._group_of.clear()
        self._by_customer.clear()
        self.pending.clear()

    def _create(self, snapshot: Snapshot) -> None:
        run = self._connection.execute
        for schema in ("raw", SCHEMA, "warm", "facts"):
            run(f"create schema {schema}")
        run(f"create table {SCHEMA}.moment (as_of timestamptz)")
        self._create_from("raw.events", raw_tables.schema("events").empty_table())
        for name, rows in snapshot.copies.items():
            self._create_from(f"{SCHEMA}.{name}", rows)
        for model in self.project.models:
            if not model.is_copy:
                kind = "view" if model.is_view else "table"
                run(f'create {kind} {SCHEMA}."{model.name}" as {model.sql}')
        self._store = Store(run(f"{self._hashed} limit 0").pl())
        run("create table warm.chosen (customer_id varchar)")
        self._create_from("warm.split_people", snapshot.split_people)
        run(f"create table warm.shared_edges as from {SCHEMA}.{EDGES} limit 0")
        run(f"create table warm.written as from {SCHEMA}.suppressions limit 0")
        for name in FACTS:
            run(f"create table facts.{name} as from {SCHEMA}.{name} limit 0")
        run("alter table facts.suppressions add column log_seq bigint")

    def _warm_up(self) -> None:
        """Hold those who were seen last from the start: they are the likeliest to be seen next."""
        recent = self._history.recent(self.max_rows // 2)
        members = self.snapshot.people.members_of(recent[::-1])
        self._fault_in(ids[0] for ids, _ in members if ids)
        self.late = 0

    # Events

    def stage(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Take in log records; `pending` then has the groups that they touch."""
        events, _ = split(records)
        if events.num_rows:
            self.stage_events(events)

    def stage_events(self, events: Any) -> None:
        """Take in rows of raw.events, an Arrow table."""

        def run(statement: str) -> DuckDBPyConnection:
            return self._plans.run(statement, events.num_rows)

        run("delete from raw.events")
        self._insert("raw.events", events)
        if self._known is not None:
            repeats = self._known.repeats(run(keys_of("raw.events")).pl())
            if repeats:
                self._connection.execute(
                    "delete from raw.events where log_seq in (select unnest($1))", [repeats]
                )
        run(f"delete from {SCHEMA}.{STAGING}")
        run(f"insert into {SCHEMA}.{STAGING} {self._staging.sql}")
        # An address counts for everybody who has it, at once; whose it was follows with the models.
        self._suppress("address is not null", events.num_rows)
        mentions = run(
            "select id_hash(mentions.id_key), max(events.log_seq),"
            " min(epoch(coalesce(events.replayed_at, events.received_at)))"
            f" from {SCHEMA}.{MENTIONS} as mentions"
            f" inner join {SCHEMA}.{STAGING} as events using (event_id) group by 1"
        ).fetchall()
        links = run(
            f"select id_hash(id_key), id_hash(other_id_key) from ({self.project.model(EDGES).sql})"
        ).fetchall()
        run(self._keep_splits(self.project.model(SPLITS).sql))
        splits = run(
            "select id_hash(splits.id_key), id_hash(splits.other_id_key), events.log_seq,"
            f" epoch(events.received_at) from {SCHEMA}.{SPLITS} as splits"
            f" inner join {SCHEMA}.{STAGING} as events using (event_id)"
        ).fetchall()
        for one, other, log_seq, since in splits:
            mentions += [(one, log_seq, since), (other, log_seq, since)]
            links.append((one, other))  # whoever parts, or comes together again, is run together
        self._fault_in(id_hash for id_hash, *_ in mentions)
        self._store.add(run(self._hashed).pl())
        for weaker, stronger in links:
            if weaker not in self._shared:
                self._join(self._group_of[weaker], self._group_of[stronger])
        for id_hash, log_seq, since in mentions:
            group = self._groups[self._group_of[id_hash]]
            group.newest = max(group.newest, log_seq)
            self.touch(group.number, Touched(log_seq, since))

    def _keep_splits(self, rows: str) -> str:
        """The statement that takes in which ids were split: all are kept, whoever they concern."""
        return (
            f"insert into {SCHEMA}.{SPLITS} by name select * from ({rows})"
            f" anti join {SCHEMA}.{SPLITS} using (event_id)"
        )

    def groups(self) -> list[int]:
        """The numbers of all groups that are held."""
        return list(self._groups)

    def touch(self, number: int, what: Touched) -> None:
        """Note that the models must run over a group."""
        known = self.pending.get(number)
        if known is None:
            self.pending[number] = what
        else:
            known.log_seq = max(known.log_seq, what.log_seq)
            known.since = min(known.since, what.since)

    def group_of_customer(self, customer: int) -> int | None:
        """The group of a customer by the hash of its id, faulted in if need be."""
        number = self._by_customer.get(customer)
        if number is not None and number in self._groups:
            return number
        ((ids, _),) = self.snapshot.people.members_of([customer])
        if not ids:
            return None
        self._fault_in(ids[:1])
        return self._group_of[ids[0]]

    # Models

    def take(self, limit: int | None = None) -> dict[int, Touched]:
        """Up to `limit` of the groups that were touched, the latest first; they wait no more."""
        # What is old has often expired, and what is new is still wanted.
        chosen = sorted(self.pending, key=lambda number: -self.pending[number].log_seq)[:limit]
        return {number: self.pending.pop(number) for number in chosen}

    def evaluate(
        self,
        marks: Mapping[int, Touched],
        as_of: datetime,
        only: Collection[str] | None = None,
    ) -> dict[str, Ran]:
        """Run the models, or `only` some, over these groups, as of a moment.

        The models' relations hold the result until the next call. Returns the customers, by id.
        """

        chosen = [self._groups[number] for number in marks if number in self._groups]
        ids = [id_hash for group in chosen for id_hash in group.ids]
        touched = {id_hash: marks[group.number] for group in chosen for id_hash in group.ids}
        self._connection.execute(f"delete from {SCHEMA}.moment")
        self._connection.execute(f"insert into {SCHEMA}.moment values (?)", [as_of])
        events = self._store.of(ids).drop("id_hash", "event_hash")
        self._slice_rows = events.height
        self._run(f"delete from {SCHEMA}.{STAGING}")
        self._insert(f"{SCHEMA}.{STAGING}", events)
        self._run_models(only)
        ran = self._regroup(chosen, touched)
        self._refresh_facts(ran)
        return ran

    def narrow(self, customers: Collection[str], only: Collection[str]) -> None:
        """Run more models over some customers of the last slice, by id.

        What relations say of the slice's other customers after that does not count.
        """
        import pyarrow as pa

        self._connection.execute("delete from warm.chosen")
        self._insert("warm.chosen", pa.table({"customer_id": list(customers)}))
        kept = self._run(f"select count(distinct customer_id) from {SCHEMA}.{IDENTITY}")
        self._slice_rows = self._slice_rows * len(customers) // max(_number(kept), 1)
        # The models take their customers from the map.
        self._run(
            f"delete from {SCHEMA}.{IDENTITY}"
            " where not is_shared and customer_id not in (from warm.chosen)"
        )
        self._run(
            f"delete from {SCHEMA}.{EDGES} where id_key not in (select id_key from"
            f" {SCHEMA}.{IDENTITY})"
        )
        self._run_models(only)

    def _run_models(self, only: Collection[str] | None) -> None:
        for model in self.project.models:
            if model.is_copy or model.is_view or model.name in (STAGING, SPLITS):
                continue
            if only is not None and model.name not in only:
                continue
            self._run(f'delete from {SCHEMA}."{model.name}"')
            if model.name == EDGES:
                self._run(f"insert into {SCHEMA}.{EDGES} by name {self._edges(model.sql)}")
            else:
                self._run(f'insert into {SCHEMA}."{model.name}" {model.sql}')

    def _run(self, statement: str) -> DuckDBPyConnection:
        """Run a statement over what the last slice has made."""
        return self._plans.run(statement, self._slice_rows)

    def rows_of(self, model: str) -> Any:
        """What a model says of the last slice, an Arrow table."""
        return self._run(f'from {SCHEMA}."{model}"').to_arrow_table()

    def signals_of(self, model: str) -> list[tuple[str, str]]:
        """What a signal says of the last slice and is not expired: customer_id and trigger_id."""
        return self._run(
            f'select customer_id, trigger_id from {SCHEMA}."{model}", {SCHEMA}.moment'
            " where expires_at > moment.as_of"
        ).fetchall()

    def waiting(self) -> list[tuple[int, datetime]]:
        """What waits for time to pass in the last slice: customer (by hash) and when it is due."""
        if not self.project.has(WAITING):
            return []
        return self._run(f"select id_hash(customer_id), due_at from {SCHEMA}.{WAITING}").fetchall()

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

    def _regroup(self, chosen: list[_Group], touched: Mapping[int, Touched]) -> dict[str, Ran]:
        """Customers are now what the models say."""
        run = self._run
        found: dict[int, list[int]] = {}
        names: dict[int, str] = {}
        hold_edges = bool(_number(run(f"select count(*) from {SCHEMA}.{SPLITS}")))
        for id_hash, customer, name, is_shared in run(
            "select id_hash(id_key), id_hash(customer_id), customer_id, is_shared"
            f" from {SCHEMA}.{IDENTITY}"
        ).fetchall():
            if id_hash in touched:
                found.setdefault(customer, []).append(id_hash)
                names[customer] = name
            if is_shared and id_hash not in self._shared:
                self._shared.add(id_hash)
                hold_edges = True
        if hold_edges:
            run(
                f"insert into warm.shared_edges by name select {self._edge_columns}"
                f" from {SCHEMA}.{EDGES} semi join ("
                f"select id_key from {SCHEMA}.{IDENTITY} where is_shared"
                f" union all select unnest([id_key, other_id_key]) from {SCHEMA}.{SPLITS}"
                ") using (id_key)"
                " anti join warm.shared_edges using (id_key, other_id_key)"
            )
        newest = max((group.newest for group in chosen), default=-1)
        whole = {frozenset(group.ids): group for group in chosen}
        ran: dict[str, Ran] = {}
        for customer, members in found.items():
            group = whole.get(frozenset(members))
            if group is None:
                group = self._new_group(set(members), newest)
            else:
                self._groups[group.number] = self._groups.pop(group.number)
            if group.customer != customer:
                self._by_customer.pop(group.customer or 0, None)
                group.customer = customer
            self._by_customer[customer] = group.number
            marks = [touched[member] for member in members]
            ran[names[customer]] = Ran(
                group.number,
                Touched(max(m.log_seq for m in marks), min(m.since for m in marks)),
            )
        return ran

    # What policies ask

    def keep_facts(self, customers: Iterable[str]) -> None:
        """Keep the facts of these customers of the last slice, and keep them up to date."""
        new = set(customers) - self._with_facts
        self._with_facts |= new
        self._write_facts(new)

    def forget_facts(self) -> None:
        """Nothing waits to be sent: whose facts are kept need not be known any more."""
        self._with_facts.clear()
        with self._facts:
            for name in FACTS:
                if name != "suppressions":
                    self._connection.execute(f"delete from facts.{name}")

    def _refresh_facts(self, customers: Iterable[str]) -> None:
        """Of the customers of this slice whose facts are kept; and who is on the list by name."""
        self._write_facts(self._with_facts & set(customers))
        self._suppress("customer_id is not null", self._slice_rows)

    def _write_facts(self, customers: set[str]) -> None:
        if not customers:
            return
        import pyarrow as pa

        run = self._connection.execute
        self._take("asked", pa.table({"customer_id": list(customers)}))
        with self._facts:
            run("begin")
            for name in FACTS:
                if name != "suppressions":
                    run(f"delete from facts.{name} where customer_id in (from asked)")
                    run(
                        f"insert into facts.{name} by name"
                        f" from {SCHEMA}.{name} semi join asked using (customer_id)"
                    )
            run("commit")
        self._connection.unregister("asked")

    def _suppress(self, condition: str, rows: int) -> None:
        """Put what the present slice says on the suppression list, with how far it has read."""
        with self._facts:
            self._plans.run(
                "insert into facts.suppressions by name"
                " with reached as ("
                f"select coalesce(max(log_seq), 0) as log_seq from {SCHEMA}.{STAGING})"
                f" select * from {SCHEMA}.suppressions, reached where {condition}"
                " except select * from warm.written, reached",
                rows,
            )

    def people(self) -> tuple[Any, Any]:
        """identity_map and identity_edges of the slice, for a plan, as Arrow tables.

        Ids of others that share an id with someone in the slice are there under the names that they
        have alone, and those from whom someone was split under the lake's.
        """
        run = self._run
        people = run(
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
        edges = run(f"select id_key, other_id_key from {SCHEMA}.{EDGES}").to_arrow_table()
        return people, edges

    # Groups

    def has_room(self) -> bool:
        """Whether more events may be taken in."""
        return self.rows < 2 * self.max_rows

    def evict(self) -> None:
        """Let go of the longest untouched, as far as the lake has read what is known of them."""
        if self.rows <= self.max_rows:
            return

        gone: list[int] = []
        share = 1 - 0.8 * self.max_rows / self.rows
        wanted = int(len(self._groups) * share)
        for number in list(self._groups)[:wanted]:
            group = self._groups[number]
            if group.newest > self.snapshot.position or number in self.pending:
                continue
            del self._groups[number]
            self._by_customer.pop(group.customer or 0, None)
            for id_hash in group.ids:
                if self._group_of.get(id_hash) == number:
                    del self._group_of[id_hash]
            gone += group.ids
        self._store.drop(gone)

    def _new_group(self, ids: set[int], newest: int = -1, customer: int | None = None) -> _Group:
        self._number += 1
        group = _Group(self._number, ids, newest, customer)
        self._groups[group.number] = group
        for id_hash in ids:
            old = self._groups.get(self._group_of.get(id_hash, 0))
            if old is not None and old is not group:
                old.ids.discard(id_hash)
                if not old.ids:
                    del self._groups[old.number]
            self._group_of[id_hash] = group.number
        return group

    def _join(self, one: int, other: int) -> None:
        if one == other:
            return
        if len(self._groups[one].ids) < len(self._groups[other].ids):
            one, other = other, one
        group, gone = self._groups[one], self._groups.pop(other)
        group.ids |= gone.ids
        if marked := self.pending.pop(other, None):
            self.touch(one, marked)
        group.newest = max(group.newest, gone.newest)
        for id_hash in gone.ids:
            self._group_of[id_hash] = one

    def _fault_in(self, ids: Iterable[int]) -> None:
        """Make sure that these ids are here, each with all of its customer."""
        solos: list[int] = []
        fresh: list[int] = []
        wanted = [id_hash for id_hash in ids if id_hash not in self._group_of]
        people = self.snapshot.people
        customers = people.customers_of(wanted)
        known = people.members_of([customer or 0 for customer in customers])
        for id_hash, customer, (members, names) in zip(wanted, customers, known, strict=True):
            if id_hash in self._group_of:
                continue
            if customer is None:
                self._new_group({id_hash})
                continue
            cold = [member for member in members if member not in self._group_of]
            group = self._new_group(set(cold), customer=customer)
            # The lake may have joined what the lane has not read of yet.
            for member in members:
                if self._group_of[member] != group.number and member not in self._shared:
                    self._join(self._group_of[member], self._group_of[id_hash])
            fresh += cold
            solos += names
            self.late += 1
        stored = self.snapshot.stored_under(solos)
        if stored:
            found = self._history.events_of(stored)
            self._store.add(found.filter(found["id_hash"].is_in(fresh)))

    def _create_from(self, relation: str, rows: Any) -> None:
        self._take("incoming", rows)
        self._connection.execute(f"create table {relation} as from incoming")
        self._connection.unregister("incoming")

    def _insert(self, relation: str, rows: Any) -> None:
        self._take("incoming", rows)
        self._connection.execute(f"insert into {relation} by name from incoming")
        self._connection.unregister("incoming")

    def _take(self, name: str, rows: Any) -> None:
        self._connection.register(name, rows)


def _number(result: DuckDBPyConnection) -> int:
    """The one number of a result: how many rows a statement has changed."""
    row = result.fetchone()
    return int(row[0]) if row and row[0] is not None else 0


@dataclass(frozen=True)
class Ran:
    """A customer over whom the models ran: the number of its group, and what had touched it."""

    number: int
    touched: Touched


@dataclass
class _Group:
    number: int
    ids: set[int]
    newest: int  # log_seq of its newest event that the lane has read
    customer: int | None = None
