"""The loop: from the log's end over the window to the senders.

Each turn takes in what the log has grown by, adds the customers for whom a time has come, goes on
with what has run meanwhile, and runs more, in three places. In front are those of whom a signal may
fire now, as `fires_on` of the signals says, and what these signals need: the turn waits for it.
Beside the turns run in the middle all that were touched, the latest first, and aside, with more
patience, what takes a row for each day; where there are few, all of it in the middle. Everything of
a customer is run at once, so the order of a customer's events is kept whatever the order of the
customers. Events for which nobody waits rest in the log until the middle is run.
"""

from __future__ import annotations

import heapq
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from orchestration.hot.history import History, Snapshot
from orchestration.hot.project import FACTS, IDENTITY, HotError, Project
from orchestration.hot.sender import Messages, Sender, key_of
from orchestration.hot.window import Begun, Place, Ran, Result, Touched, Window
from syncs.facts import needs_facts
from syncs.ledger import action_key

if TYPE_CHECKING:
    from ingestion.open_log import Reader
    from syncs.spec import SyncSpec

log = logging.getLogger("signalbox.hot")

CHUNK = 2_000  # records staged at a time
CATCH_UP = 20_000  # records behind from which on nothing is run for so many seconds
CATCH_UP_SECONDS = 30.0
STAGE_PAUSE = 0.06  # seconds between, so that many are taken in at once; they cost little more
MAX_GROUPS = 1_000  # customers run at a time
QUICK_SECONDS = 0.3  # what these may take, about
QUICK_PAUSE = 0.3  # seconds from one beginning to the next, so that many are run at once, and
QUICK_SHARE = 0.15  # of the time that these may run, about, while fewer wait than are run at once,
QUICK_REST = 1.2  # seconds that this may make of the pause
FEW_GROUPS = 40  # customers over whom all models are run at once
SLOW_SECONDS = 0.2  # what the models with a row for each day may take at a time, about
SLOW_GROUPS = 40  # customers whom they may be run over at a time, whatever that takes
SLOW_PAUSE = 0.5  # seconds from one beginning to the next, so that many are run at once, and
SLOW_SHARE = 0.15  # of the time that these may run, about, while events come
QUIET_SECONDS = 1.0  # without an event, after which a backlog of these is worked off at once
POLL_SECONDS = 0.01
BROKER_POLL_SECONDS = 0.05
FOLLOW_SECONDS = 30.0
LATE_SECONDS = 5.0  # an event that waited longer may have caused what has expired meanwhile
_SEEN = 200_000  # action keys that need not be planned again


class Lane:
    """One lane on one log. `turn` belongs to one thread, `follow` to another."""

    def __init__(
        self,
        project: Project,
        specs: list[SyncSpec],
        history: History,
        window: Window,
        reader: Reader,
        senders: dict[str, Sender],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.project = project
        self.window = window
        self.position = 0
        self.end = 0
        self.batches = 0
        self.events = 0
        self.evaluated = 0
        self._specs = specs
        self._slow_specs = [spec for spec in specs if spec.model not in project.quick_syncs]
        self._slow_models = project.needs(
            IDENTITY, *FACTS, *(spec.model for spec in self._slow_specs)
        )
        self._history = history
        self._reader = reader
        self._senders = senders
        self._clock = clock
        self._due: list[tuple[datetime, int]] = []
        self._known_due: set[tuple[datetime, int]] = set()
        self._seen: OrderedDict[str, None] = OrderedDict()
        # What is at work, by place, and what to do with what it says.
        self._jobs: dict[Place, tuple[Begun, Callable[[Result], None]]] = {}
        self._running: dict[Place, Mapping[int, Touched]] = {}
        self._quick_groups = 100  # how many it has time for
        self._quick_began = self._staged_at = -math.inf
        self._quick_took = 0.0
        self._in_haste = False
        # Looked at, and not yet taken in.
        self._peeked: list[tuple[int, bytes]] = []
        self._peeked_urgent = False
        self._urgent_names = [msgspec.json.encode(name) for name in project.urgent_events]
        # Touched, and not yet run through the models that take a row for each day.
        self._slow: dict[int, Touched] = {}
        self._slow_groups = SLOW_GROUPS
        self._slow_began = time.monotonic()
        self._slow_took = 0.0
        self._ran_at = time.monotonic()
        self._fresh: Snapshot | None = None
        self._mutex = threading.Lock()

    @property
    def behind(self) -> int:
        """Records of the log that are not yet taken in."""
        return max(self.end - self.position, 0)

    @property
    def waiting(self) -> int:
        """Customers who are touched and not yet run."""
        return len(self.window.pending) + sum(map(len, self._running.values()))

    @property
    def slow_waiting(self) -> int:
        """Customers whom the models with a row for each day have yet to see again."""
        return len(self._slow)

    @property
    def timers(self) -> int:
        """Customers for whom a time is waited for."""
        return len(self._due)

    @property
    def lag_seconds(self) -> float:
        """How long the oldest event that is taken in, and not yet run, has waited."""
        waiting = [
            touched.since
            for marks in (self.window.pending, *list(self._running.values()))
            for touched in list(marks.values())
        ]
        return max(time.time() - min(waiting), 0.0) if waiting else 0.0

    def start(self) -> None:
        """Read the lake, and stand where its last build stood.

        Raises HotError when the models are not built, or the log no longer has what follows.
        """
        import duckdb

        try:
            snapshot = self._history.follow()
        except duckdb.CatalogException as error:
            missing = str(error).partition("\n")[0]
            raise HotError(f"the models are not built ({missing}); run signalbox build") from None
        self.window.adopt(snapshot)
        self.window.practise(self._clock())
        self._stand_at(snapshot)

    def _stand_at(self, snapshot: Snapshot) -> None:
        self.position = snapshot.position + 1
        first = self._reader.first()
        if first > self.position and self._reader.end() > first:
            raise HotError(
                f"the models have read the log up to {snapshot.position}, and the oldest record "
                f"that is kept is {first}; load and build first (signalbox load, signalbox build)"
            )
        self.position = max(self.position, first)
        self._peeked = []
        for customer, due_at in snapshot.waiting:
            self._wait_for(customer, due_at)

    def follow(self) -> None:
        """Copy what the lake has built since; the next turn goes on with it."""
        fresh = self._history.follow()
        with self._mutex:
            self._fresh = fresh

    def turn(self) -> bool:
        """One round; false if there was nothing to do."""
        self._adopt()
        worked = self._stage()
        if self.behind > CATCH_UP and time.monotonic() - self._ran_at < CATCH_UP_SECONDS:
            return True  # a backlog is taken in first, so that the latest can go first
        self._ran_at = time.monotonic()
        self._fall_due()
        now = self._clock()
        # None of these is left out because another had work.
        return any(
            [
                worked,
                self._conclude(),
                self._run_urgent(now),
                self._run_quick(now),
                self._run_slow(now),
            ]
        )

    def _run(
        self,
        place: Place,
        marks: Mapping[int, Touched],
        now: datetime,
        models: Collection[str],
        then: Callable[[Result], None],
    ) -> None:
        if place != "aside":
            self._running[place] = marks
        self._jobs[place] = self.window.begin(marks, now, models, place=place), then

    def _conclude(self) -> bool:
        """Go on with what is done by now; false if nothing is."""
        done = [place for place, (begun, _) in self._jobs.items() if begun.is_done]
        for place in done:
            self._go_on(place)
        return bool(done)

    def _go_on(self, place: Place) -> None:
        begun, then = self._jobs.pop(place)
        result = begun.wait()
        self._running.pop(place, None)
        then(result)

    def _run_urgent(self, now: datetime) -> bool:
        """Run what may fire now, and wait for it; false if there was nothing."""
        marks = self.window.take(self._quick_groups, urgent_only=True)
        if not marks:
            return False
        models = self.project.models_at(
            frozenset().union(*(touched.fires for touched in marks.values()))
        )

        def then(result: Result) -> None:
            self._act("front", result, models)
            for ran in result.ran.values():
                # The other models have yet to see them.
                self.window.touch(ran.number, ran.touched)

        self._forget_facts()
        self._run("front", marks, now, models, then)
        while "front" in self._jobs:
            self._go_on("front")
        return True

    def _run_quick(self, now: datetime) -> bool:
        """Run the middle over those touched last; false if nothing was begun."""
        moment = time.monotonic()
        if not self.window.pending or not self._may_run_quick(moment):
            return False
        self._in_haste = False
        marks = self.window.take(self._quick_groups)
        models = self.project.quick_models
        # Of a few, the rest is run along with it: that costs less than to run them aside as well.
        are_few = len(marks) <= FEW_GROUPS and not self._slow and "aside" not in self._jobs
        if are_few:
            models |= self._slow_models

        def then(result: Result) -> None:
            self._quick_took = result.seconds
            # Who was touched or run meanwhile is to be run again, and has waited once.
            self._in_haste |= not self.window.pending.keys().isdisjoint(marks)
            self.batches += 1
            self.evaluated += len(result.ran)
            # A few say nothing of many.
            if 2 * len(result.ran) > self._quick_groups and not are_few:
                fitting = int(len(result.ran) * QUICK_SECONDS / result.seconds)
                self._quick_groups = max(50, min(fitting, 2 * self._quick_groups, MAX_GROUPS))
            for customer, due_at in result.waiting():
                if due_at > now:
                    self._wait_for(customer, due_at)
            self._act("middle", result, models)
            if self._slow_specs and not are_few:
                self._slow |= {one.number: one.touched for one in result.ran.values()}

        self._forget_facts()
        self._quick_began = moment
        self._run("middle", marks, now, models, then)
        return True

    def _may_run_quick(self, moment: float) -> bool:
        """Whether it is time for the middle.

        Whom somebody waits for are run in front, or fell due. The others need not take from the
        micro-batches what it costs to run a few at a time.
        """
        pause = QUICK_PAUSE
        if len(self.window.pending) < self._quick_groups and not self._in_haste:
            pause = max(pause, min(self._quick_took / QUICK_SHARE, QUICK_REST))
        return "middle" not in self._jobs and moment - self._quick_began >= pause

    def _forget_facts(self) -> None:
        if all(sender.idle for sender in self._senders.values()):
            self.window.forget_facts()

    def _act(self, place: Place, result: Result, models: Collection[str]) -> None:
        """Hand over what these models say; and run the rest for whom a message needs it."""
        self._count_late(result, models)
        fired = result.fired({*self.project.signals}.intersection(models))
        fresh = {spec.name: self._freshly(spec, fired) & result.ran.keys() for spec in self._specs}
        acting = [spec for spec in self._specs if fresh[spec.name]]
        for spec in acting:
            if spec.model in models:
                self._hand_over(spec, result, result.ran)
        urgent = [spec for spec in acting if spec.model not in models and spec.is_message]
        if not urgent:
            return
        whom = frozenset().union(*(fresh[spec.name] for spec in urgent))
        more = self.project.needs(*(spec.model for spec in urgent)).difference(models)

        def then(narrowed: Result) -> None:
            for spec in urgent:
                self._hand_over(spec, narrowed, {name: result.ran[name] for name in whom})

        self._jobs[place] = self.window.narrow(result, whom, more), then

    def _count_late(self, result: Result, models: Collection[str]) -> None:
        """Tell the senders what was alive when its event was accepted and has expired since."""
        now = self._clock().timestamp()
        since = {
            customer: ran.touched.since
            for customer, ran in result.ran.items()
            if now - ran.touched.since > LATE_SECONDS
        }
        if not since:
            return
        late = [
            (signal, customer, trigger)
            for signal, customer, trigger, expired_at in result.expired(
                {*self.project.signals}.intersection(models)
            )
            if customer in since and expired_at.timestamp() > since[customer]
        ]
        for spec in self._specs if late else ():
            signals = self.project.signals_of(spec.model) if spec.is_message else []
            keys = {key_of(spec, who, what) for signal, who, what in late if signal in signals}
            if keys:
                self._senders[spec.name].note_late(keys)

    def _freshly(self, spec: SyncSpec, fired: Collection[tuple[str, str, str]]) -> frozenset[str]:
        """Of whom a signal fired that this sync was not handed over yet."""
        signals = self.project.signals_of(spec.model)
        return frozenset(
            customer
            for signal, customer, trigger in fired
            if signal in signals and key_of(spec, customer, trigger) not in self._seen
        )

    def _run_slow(self, now: datetime) -> bool:
        """Run the rest over those touched last, if there is time; false if nothing was begun."""
        if "aside" in self._jobs:
            return False
        moment = time.monotonic()
        rested = moment - self._slow_began > max(SLOW_PAUSE, self._slow_took / SLOW_SHARE)
        quiet = not self.window.pending and moment - self._quick_began > QUIET_SECONDS
        unseen = self.behind > len(self._peeked)
        backlog = unseen or len(self.window.pending) > self._quick_groups
        if not self._slow or backlog or not (rested or quiet):
            return False
        self._slow_began = moment
        latest = heapq.nlargest(
            self._slow_groups, self._slow, key=lambda number: self._slow[number].log_seq
        )
        marks = {number: self._slow.pop(number) for number in latest}

        def then(result: Result) -> None:
            self._slow_took = result.seconds
            self._count_late(result, self._slow_models)
            for spec in self._slow_specs:
                self._hand_over(spec, result, result.ran)
            # As many the next time as SLOW_SECONDS allow, and no fewer than SLOW_GROUPS: a few take
            # little less, and who was touched first would for ever wait behind who came after.
            if 2 * len(marks) > self._slow_groups:
                fitting = int(len(marks) * SLOW_SECONDS / result.seconds)
                fitting = min(fitting, 2 * self._slow_groups, MAX_GROUPS)
                self._slow_groups = max(SLOW_GROUPS, fitting)

        self._run("aside", marks, now, self._slow_models, then)
        return True

    def _stage(self) -> bool:
        self.end = self._reader.end()
        moment = time.monotonic()
        if self.end <= self.position or not self.window.has_room():
            return False
        if self.behind < CHUNK:
            if moment - self._staged_at < STAGE_PAUSE:
                return False
            # Few that nobody waits for are taken in when the models are run over them.
            if not self._is_urgent() and not self._may_run_quick(moment):
                return False
        self._staged_at = moment
        deadline = time.monotonic() + 1.0
        while self.position < self.end and time.monotonic() < deadline:
            records = self._peeked or self._reader.read(self.position, CHUNK)
            if not records:
                break
            self._peeked = []
            self.window.stage(records)
            self.position = records[-1][0] + 1
            self.events += len(records)
            if len(records) < CHUNK:
                break
        return True

    def _is_urgent(self) -> bool:
        """Look at what has come: whether it names an event at which a signal may fire at once."""
        at = self._peeked[-1][0] + 1 if self._peeked else self.position
        if not self._peeked:
            self._peeked_urgent = False
        if self.end > at:
            fresh = self._reader.read(at, CHUNK)
            self._peeked += fresh
            self._peeked_urgent |= any(
                name in record for _, record in fresh for name in self._urgent_names
            )
        return self._peeked_urgent

    def _fall_due(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            due_at, customer = heapq.heappop(self._due)
            self._known_due.discard((due_at, customer))
            number = self.window.group_of_customer(customer)
            if number is not None:
                self.window.touch(number, Touched(self.position - 1, due_at.timestamp()))
                self._in_haste = True

    def _wait_for(self, customer: int, due_at: datetime) -> None:
        if (due_at, customer) not in self._known_due:
            self._known_due.add((due_at, customer))
            heapq.heappush(self._due, (due_at, customer))

    def _hand_over(self, spec: SyncSpec, result: Result, ran: Mapping[str, Ran]) -> None:
        """Give what the models say of these customers, and was not given yet, to be sent."""
        rows = result.rows_of(spec.model)
        if not rows.num_rows:
            return
        fresh = self._fresh_rows(spec, result, rows, ran)
        if not fresh:
            return
        rows = rows.take(list(fresh))
        customers = rows["customer_id"].to_pylist()
        if needs_facts(spec.policies):
            self.window.keep_facts(result, customers)
        people, edges = result.people()
        names = {*people["customer_id"].to_pylist(), *people["solo_customer_id"].to_pylist()}
        self._senders[spec.name].put(
            Messages(
                rows,
                people,
                edges,
                None if spec.is_message else result.rows_of("customer_consents"),
                max(ran[customer].touched.log_seq for customer in customers),
                frozenset(names),
                {
                    key: ran[customer].touched.since
                    for key, customer in zip(fresh.values(), customers, strict=True)
                },
            )
        )

    def _fresh_rows(
        self, spec: SyncSpec, result: Result, rows: Any, ran: Mapping[str, Ran]
    ) -> dict[int, str]:
        """Which rows were not handed over yet, by place, and the action key of each.

        Who joins an audience is handed over once for each signal: whether the audience has them
        already, the ledger knows.
        """
        owners = rows["customer_id"].to_pylist()
        if spec.is_message:
            triggers = rows["trigger_id"].to_pylist()
            keys = [
                key_of(spec, owner, trigger)
                for owner, trigger in zip(owners, triggers, strict=True)
            ]
            fresh = {
                place: key
                for place, key in enumerate(keys)
                if owners[place] in ran and key not in self._seen
            }
            noted = list(fresh.values())
        else:
            joining = {
                key_of(spec, customer, trigger): customer
                for _, customer, trigger in result.fired(self.project.signals_of(spec.model))
                if customer in ran
            }
            members = set(owners)
            noted = [
                key for key, who in joining.items() if who in members and key not in self._seen
            ]
            who_joins = {joining[key] for key in noted}
            names = rows[spec.key].to_pylist()
            fresh = {
                place: action_key(spec.name, str(names[place]))
                for place, owner in enumerate(owners)
                if owner in who_joins
            }
        for key in noted:
            self._seen[key] = None
        while len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        return fresh

    def _adopt(self) -> None:
        with self._mutex:
            fresh, self._fresh = self._fresh, None
        if fresh is not None:
            if fresh.generation != self.window.snapshot.generation:
                # Events may be others than they were: begin again, as at the start.
                self.window.forget()
                self._stand_at(fresh)
                log.info("the models were built anew; the lane stands at log_seq %s", self.position)
            self.window.adopt(fresh)
            self.window.evict()
            held = set(self.window.groups())
            self._slow = {number: mark for number, mark in self._slow.items() if number in held}
