"""The window: whole customers in memory, and the slices in which the models run over some of them.

It holds the customers whom something touched since the lake was last copied, and those touched
lately, each with its whole history: that is what makes the full form of every model give the same
rows as the warehouse. Customers are faulted in from `History` at their first event and leave, the
longest untouched first, when there are too many rows.

Ids and customers are handled as 63-bit hashes of their names; a group is a set of ids that one
slice must hold together: a customer or, until its models have run, what new events have joined.
Groups share nothing that a model reads, so several slices run side by side.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Literal

from ingestion.record_tables import split
from ingestion.repeats import KnownMessages, keys_of
from orchestration.hot.history import History, Snapshot
from orchestration.hot.project import EDGES, FACTS, MENTIONS, SPLITS, STAGING, Project
from orchestration.hot.slices import SCHEMA, Slice
from orchestration.hot.store import Store
from syncs.plan_sql import literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Slices of the middle, one for each core but one, and up to so many.
MAX_SLICES = 4
GROUPS_A_SLICE = 150  # for whom a slice of their own is worth its fixed cost


#: Where models run: each place at its own pace, the middle in several slices.
Place = Literal["front", "middle", "aside"]


@dataclass
class Touched:
    """What touched a group since its models last ran."""

    log_seq: int  # of the newest event; orders the work
    since: float  # seconds since 1970: when the oldest event that waits was accepted
    fires: frozenset[str] = frozenset()  # events at which a signal may fire now: goes first


class Window:
    """All methods but `cursor` belong to one thread; what is begun works beside it."""

    def __init__(
        self,
        project: Project,
        history: History,
        *,
        max_rows: int,
        slices: int | None = None,
        groups_a_slice: int = GROUPS_A_SLICE,
        memory_mb: int = 2_000,
        known: KnownMessages | None = None,
    ) -> None:
        """`known` tells which messages were loaded before: repeats of these are left out.

        `slices` is in how many the models run at most; see MAX_SLICES.
        """
        self.project = project
        self.max_rows = max_rows
        self.late = 0  # customers that were read from the history
        self._history = history
        self._known = known
        self._count = slices or min(max((os.cpu_count() or 1) - 1, 1), MAX_SLICES)
        self._groups_a_slice = groups_a_slice
        self._memory = f"{memory_mb // (self._count + 3)}MB"
        self._staging = project.model(STAGING)
        self._hashed = (
            "select id_hash(id_key) as id_hash, id_hash(event_id) as event_hash,"
            f" {', '.join(self._staging.columns)} from {SCHEMA}.{STAGING} where id_key is not null"
        )
        names = ", ".join(literal(name) for name in sorted(project.urgent_events))
        self._fires = (
            f"list(distinct events.event) filter (events.event in ({names}))" if names else "null"
        )
        self._groups: dict[int, _Group] = {}  # by number, the longest untouched first
        self._group_of: dict[int, int] = {}  # id → number
        self._by_customer: dict[int, int] = {}  # customer → number
        self._number = 0
        self._shared: set[int] = set()
        self._snapshot: Snapshot | None = None
        self._facts = threading.Lock()
        self._with_facts: set[str] = set()
        self._store: Store
        self._intake: Slice  # stages events, and has the facts
        self._front: Slice
        self._slices: list[Slice] = []
        self._aside: Slice
        self._at_work: set[Slice] = set()
        self._pool = ThreadPoolExecutor(self._count + 1, thread_name_prefix="hot slice")
        #: Groups that were touched since their models last ran.
        self.pending: dict[int, Touched] = {}

    def close(self) -> None:
        self._pool.shutdown()
        if self._snapshot is not None:
            for one in self._all_slices():
                one.close()

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
        """A connection of its own, for any thread, whose schema `facts` has the facts."""
        return self._intake.cursor()

    # Following the lake

    def adopt(self, snapshot: Snapshot) -> None:
        """Go on with a newer copy of the lake."""
        known, self._snapshot = self._snapshot, snapshot
        if known is None:
            self._create(snapshot)
            self._warm_up()
        changed = [
            name
            for name, rows in snapshot.copies.items()
            if known is not None and not rows.equals(known.copies[name])
        ]
        self._shared |= set(snapshot.shared["id_hash"].to_pylist())
        self._change(methodcaller("adopt", snapshot, changed))
        listed = self._intake.show("facts.listed", snapshot.suppressions)
        with self._facts:
            # What the lake has read since stands in its own list.
            run = self._intake.execute
            run("begin")
            run("delete from facts.suppressions where log_seq <= ?", [snapshot.position])
            run(f"insert into facts.suppressions by name select *, -1 as log_seq from {listed}")
            run("commit")

    def forget(self) -> None:
        """Let go of all events, of whatever customer: what is read from now on is all there is."""
        self._store.drop([id_hash for group in self._groups.values() for id_hash in group.ids])
        self._groups.clear()
        self._group_of.clear()
        self._by_customer.clear()
        self.pending.clear()

    def _create(self, snapshot: Snapshot) -> None:
        self._intake, self._front, self._aside, *self._slices = (
            Slice(self.project, snapshot, memory=self._memory) for _ in range(self._count + 3)
        )
        run = self._intake.execute
        self._store = Store(run(f"{self._hashed} limit 0").to_arrow_table())
        run("create schema facts")
        for name in FACTS:
            run(f"create table facts.{name} as from {SCHEMA}.{name} limit 0")
        run("alter table facts.suppressions add column log_seq bigint")

    def _warm_up(self) -> None:
        """Hold those who were seen last from the start: they are the likeliest to be seen next."""
        recent = self._history.recent(self.max_rows // 2)
        members = self.snapshot.people.members_of(recent[::-1])
        self._fault_in(ids[0] for ids, _ in members if ids)
        self.late = 0

    def _change(self, change: Callable[[Slice], None]) -> None:
        """Change something in every slice; in one that is at work, when it is done."""
        for one in self._all_slices():
            if one in self._at_work:
                one.later(functools.partial(change, one))
            else:
                one.catch_up()
                change(one)

    def _all_slices(self) -> tuple[Slice, ...]:
        return (self._intake, self._front, self._aside, *self._slices)

    # Events

    def stage(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Take in log records; `pending` then has the groups that they touch."""
        events, _ = split(records)
        if events.num_rows:
            self.stage_events(events)

    def stage_events(self, events: Any) -> None:
        """Take in rows of raw.events, an Arrow table."""

        def run(statement: str) -> DuckDBPyConnection:
            return self._intake.run(statement, events.num_rows)

        self._intake.replace("raw.events", events)
        if self._known is not None:
            repeats = self._known.repeats(run(keys_of("raw.events")).pl())
            if repeats:
                self._intake.execute(
                    "delete from raw.events where log_seq in (select unnest($1))", [repeats]
                )
        run(f"delete from {SCHEMA}.{STAGING}")
        run(f"insert into {SCHEMA}.{STAGING} {self._staging.sql}")
        run(f"delete from {SCHEMA}.{MENTIONS}")
        run(f"insert into {SCHEMA}.{MENTIONS} {self.project.model(MENTIONS).sql}")
        # An address counts for everybody who has it, at once; whose it was follows with the models.
        self._suppress(self._intake.suppressed("address is not null", events.num_rows))
        mentions = run(
            "select id_hash(mentions.id_key), max(events.log_seq),"
            " min(epoch(coalesce(events.replayed_at, events.received_at))),"
            f" {self._fires}"
            f" from {SCHEMA}.{MENTIONS} as mentions"
            f" inner join {SCHEMA}.{STAGING} as events using (event_id) group by 1"
        ).fetchall()
        links = run(
            f"select id_hash(id_key), id_hash(other_id_key) from ({self.project.model(EDGES).sql})"
        ).fetchall()
        splits = run(self.project.model(SPLITS).sql).to_arrow_table()
        if splits.num_rows:
            self._change(methodcaller("keep_splits", splits))
            for one, other, log_seq, since in run(
                "select id_hash(splits.id_key), id_hash(splits.other_id_key), events.log_seq,"
                f" epoch(events.received_at) from {SCHEMA}.{SPLITS} as splits"
                f" inner join {SCHEMA}.{STAGING} as events using (event_id)"
            ).fetchall():
                mentions += [(one, log_seq, since, None), (other, log_seq, since, None)]
                # Whoever parts, or comes together again, is run together.
                links.append((one, other))
        self._fault_in(id_hash for id_hash, *_ in mentions)
        self._store.add(run(self._hashed).to_arrow_table())
        for weaker, stronger in links:
            if weaker not in self._shared:
                self._join(self._group_of[weaker], self._group_of[stronger])
        for id_hash, log_seq, since, fires in mentions:
            group = self._groups[self._group_of[id_hash]]
            group.newest = max(group.newest, log_seq)
            self.touch(group.number, Touched(log_seq, since, frozenset(fires or ())))

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
            known.fires |= what.fires

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

    def take(self, limit: int | None = None, *, urgent_only: bool = False) -> dict[int, Touched]:
        """Up to `limit` of the groups that were touched, the latest first; they wait no more."""
        waiting = [
            number for number, touched in self.pending.items() if touched.fires or not urgent_only
        ]
        # What is old has often expired, and what is new is still wanted.
        waiting.sort(key=lambda number: -self.pending[number].log_seq)
        return {number: self.pending.pop(number) for number in waiting[:limit]}

    def evaluate(
        self,
        marks: Mapping[int, Touched],
        as_of: datetime,
        only: Collection[str] | None = None,
    ) -> Result:
        """Run the models, or `only` some, over these groups, as of a moment.

        The result holds until the next call, or the next of `begin`.
        """
        return self.begin(marks, as_of, only).wait()

    def begin(
        self,
        marks: Mapping[int, Touched],
        as_of: datetime,
        only: Collection[str] | None = None,
        *,
        place: Place = "middle",
    ) -> Begun:
        """As `evaluate`, beside all that is called meanwhile, and what began in other places.

        Of groups that are run or joined meanwhile the result knows nothing: it would be old.
        """
        chosen = self._chosen(marks)
        parts = max(min(len(chosen) // self._groups_a_slice, len(self._slices)), 1)
        slices = self._slices[:parts]
        if place != "middle":
            slices = [self._front if place == "front" else self._aside]
        before = {group.number: (group.runs, frozenset(group.ids)) for group in chosen}
        parts_of = {
            one: self._events(chosen[number :: len(slices)]) for number, one in enumerate(slices)
        }
        place_of = {
            id_hash: number % len(slices)
            for number, group in enumerate(chosen)
            for id_hash in group.ids
        }

        def conclude() -> Result:
            still = []
            for group in self._chosen(marks):
                if (group.runs, frozenset(group.ids)) == before[group.number]:
                    still.append(group)
                elif place != "aside":
                    # The other run may have begun before what touched the group this time.
                    self.touch(group.number, marks[group.number])
            return self._conclude(slices, still, marks, place_of)

        return self._at(slices, lambda one: one.evaluate(parts_of[one], as_of, only), conclude)

    def narrow(self, result: Result, customers: Collection[str], only: Collection[str]) -> Begun:
        """Run more models over some of a result's customers, by id, as `begin` runs them.

        What the result says of others after that does not count.
        """

        kept: list[Slice] = []

        def work(one: Slice) -> None:
            if one.narrow(customers):
                kept.append(one)
                one.run_models(only)

        def conclude() -> Result:
            return Result(kept, result.ran)

        return self._at(result.slices, work, conclude)

    def _at(
        self,
        slices: Sequence[Slice],
        work: Callable[[Slice], None],
        conclude: Callable[[], Result],
    ) -> Begun:
        """Have slices work side by side. What is to be changed in them waits for the conclusion.

        The one in front works in this thread, which would only wait for another.
        """
        began = time.monotonic()

        def timed(one: Slice) -> float:
            work(one)
            return time.monotonic() - began

        self._at_work |= set(slices)
        submit = _at_once if self._front in slices else self._pool.submit
        futures = [submit(timed, one) for one in slices]

        def done() -> Result:
            result = conclude()
            result.seconds = max(one.result() for one in futures)
            self._at_work -= set(slices)
            return result

        return Begun(futures, done)

    def practise(self, as_of: datetime) -> None:
        """Run the models over some who are here, so that no event waits for DuckDB to plan them."""
        project = self.project
        rest = project.needs(*project.syncs) - project.urgent_models
        for size in (1, 5, 30, 2 * self._groups_a_slice):
            marks = dict.fromkeys(self.groups()[-size:], Touched(0, 0.0))
            self.evaluate(marks, as_of, project.quick_models)
            result = self.begin(marks, as_of, project.urgent_models, place="front").wait()
            self.narrow(result, list(result.ran)[:10], rest).wait()

    def _chosen(self, marks: Mapping[int, Touched]) -> list[_Group]:
        return [self._groups[number] for number in marks if number in self._groups]

    def _events(self, groups: Iterable[_Group]) -> Any:
        found = self._store.of(id_hash for group in groups for id_hash in group.ids)
        return found.drop_columns(["id_hash", "event_hash"])

    def _conclude(
        self,
        slices: list[Slice],
        chosen: list[_Group],
        marks: Mapping[int, Touched],
        place_of: Mapping[int, int],
    ) -> Result:
        touched = {id_hash: marks[group.number] for group in chosen for id_hash in group.ids}
        ran = self._regroup(slices, chosen, touched, place_of)
        result = Result(slices, ran)
        self._write_facts(result, self._with_facts & ran.keys(), are_there=True)
        for one in slices:
            self._suppress(one.suppressed("customer_id is not null"))
        return result

    def _regroup(
        self,
        slices: list[Slice],
        chosen: list[_Group],
        touched: Mapping[int, Touched],
        place_of: Mapping[int, int],
    ) -> dict[str, Ran]:
        """Customers are now what the models say."""
        found: dict[int, list[int]] = {}
        names: dict[int, str] = {}
        for place, one in enumerate(slices):
            keep_edges = one.has_splits()
            for id_hash, customer, name, is_shared in one.members():
                # Events of a group may name ids of another, of whom this slice knows nothing else.
                if id_hash in touched and place_of[id_hash] == place:
                    found.setdefault(customer, []).append(id_hash)
                    names[customer] = name
                if is_shared and id_hash not in self._shared:
                    self._shared.add(id_hash)
                    keep_edges = True
            if keep_edges:
                self._change(methodcaller("keep_edges", one.edges_to_keep()))
        newest = max((group.newest for group in chosen), default=-1)
        whole = {frozenset(group.ids): group for group in chosen}
        ran: dict[str, Ran] = {}
        for customer, members in found.items():
            group = whole.get(frozenset(members))
            if group is None:
                group = self._new_group(set(members), newest)
            else:
                self._groups[group.number] = self._groups.pop(group.number)
            group.runs += 1
            if group.customer != customer:
                self._by_customer.pop(group.customer or 0, None)
                group.customer = customer
            self._by_customer[customer] = group.number
            since = [touched[member] for member in members]
            ran[names[customer]] = Ran(
                group.number,
                Touched(max(m.log_seq for m in since), min(m.since for m in since)),
            )
        return ran

    # What policies ask

    def keep_facts(self, result: Result, customers: Iterable[str]) -> None:
        """Keep what policies ask of these customers, and keep it up to date."""
        new = set(customers) - self._with_facts
        self._with_facts |= new
        self._write_facts(result, new, are_there=False)

    def forget_facts(self) -> None:
        """Nothing waits to be sent: whose facts are kept need not be known any more."""
        if not self._with_facts:
            return
        self._with_facts.clear()
        with self._facts:
            for name in FACTS:
                if name != "suppressions":
                    self._intake.execute(f"delete from facts.{name}")

    def _write_facts(self, result: Result, customers: set[str], *, are_there: bool) -> None:
        if not customers:
            return
        facts = result.rows_about(customers, [name for name in FACTS if name != "suppressions"])
        run = self._intake.execute
        with self._facts:
            run("begin")
            if are_there:
                self._intake.choose(customers)
            for name, rows in facts.items():
                if are_there:
                    self._intake.run(
                        f"delete from facts.{name} where customer_id in (from warm.chosen)", 0
                    )
                self._intake.insert(f"facts.{name}", rows)
            run("commit")

    def _suppress(self, rows: Any) -> None:
        """Put more on the suppression list."""
        if rows.num_rows:
            with self._facts:
                self._intake.insert("facts.suppressions", rows)

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
        import pyarrow as pa
        import pyarrow.compute as pc

        solos: list[int] = []
        fresh: list[int] = []
        wanted = [id_hash for id_hash in ids if id_hash not in self._group_of]
        if not wanted:
            return
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
            is_fresh = pc.is_in(found["id_hash"], value_set=pa.array(fresh, pa.int64()))
            self._store.add(found.filter(is_fresh))


@dataclass(frozen=True)
class Ran:
    """A customer over whom the models ran: the number of its group, and what had touched it."""

    number: int
    touched: Touched


class Begun:
    """Models at work; all of this belongs to the thread that began them."""

    def __init__(self, futures: Sequence[Future[float]], conclude: Callable[[], Result]) -> None:
        self._futures = futures
        self._conclude = conclude

    @property
    def is_done(self) -> bool:
        return all(one.done() for one in self._futures)

    def wait(self) -> Result:
        """What they say, as soon as they are done, once. It holds until the next `begin`."""
        wait(self._futures)
        for one in self._futures:
            one.result()
        return self._conclude()


def _at_once(work: Callable[[Slice], float], one: Slice) -> Future[float]:
    """As an executor's `submit`, in this thread."""
    done: Future[float] = Future()
    done.set_result(work(one))
    return done


class Result:
    """What the models say of some customers, `ran` by id; `seconds` is what `begin` took."""

    seconds = 0.0

    def __init__(self, slices: list[Slice], ran: dict[str, Ran]) -> None:
        self.ran = ran
        self.slices = slices

    def rows_of(self, model: str) -> Any:
        """What a model says, an Arrow table."""
        import pyarrow as pa

        return pa.concat_tables(one.rows_of(model) for one in self.slices)

    def rows_about(self, customers: Collection[str], models: Iterable[str]) -> dict[str, Any]:
        """What models say of some customers, Arrow tables by model."""
        import pyarrow as pa

        found = [one.rows_about(customers, models) for one in self.slices]
        return {model: pa.concat_tables(one[model] for one in found) for model in found[0]}

    def fired(self, signals: Collection[str]) -> list[tuple[str, str, str]]:
        """What these signals say and is not expired: signal, customer_id, and trigger_id."""
        return [row for one in self.slices for row in one.fired(signals)]

    def expired(self, signals: Collection[str]) -> list[tuple[str, str, str, datetime]]:
        """What these signals said and is expired: signal, customer_id, trigger_id, and when."""
        return [row for one in self.slices for row in one.expired(signals)]

    def waiting(self) -> list[tuple[int, datetime]]:
        """What waits for time to pass: customer (by hash) and when it is due."""
        return [row for one in self.slices for row in one.waiting()]

    def people(self) -> tuple[Any, Any]:
        """identity_map and identity_edges for a plan, as Arrow tables; see `Slice.people`."""
        import pyarrow as pa

        return (
            pa.concat_tables(one.people() for one in self.slices),
            pa.concat_tables(one.edges() for one in self.slices),
        )


@dataclass
class _Group:
    number: int
    ids: set[int]
    newest: int  # log_seq of its newest event that the lane has read
    customer: int | None = None
    runs: int = 0  # how often its models ran
