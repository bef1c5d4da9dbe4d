"""From a sync model's rows to the destination: one thread for each sync, so that none waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from orchestration.hot.plans import Plans
from syncs.ledger import action_key
from syncs.plan_sql import quoted
from syncs.results import Row, SyncError
from syncs.spec import SyncSpec

if TYPE_CHECKING:
    from syncs.express import Express
    from syncs.facts import ReadFacts
    from syncs.push import Pusher

log = logging.getLogger("signalbox.hot")

LANE = "hot"
#: Rows that may wait for one destination; what is beyond is left to the micro-batch.
MAX_WAITING = 20_000
_RETRY_SECONDS = 1.0
_RECORDED = ("message", "create", "update")


@dataclass(frozen=True)
class Messages:
    """Rows of one sync model for some customers, and what the plan must know of these.

    `rows`, `people` (identity_map), `edges` and, for a mirror, `consents` are Arrow tables; `names`
    are all customer ids under which the customers may be known in the ledger; `log_seq` is how far
    in the log the rows have read; `since` says for each action when its cause was accepted, in
    seconds since 1970.
    """

    rows: Any
    people: Any
    edges: Any
    consents: Any
    log_seq: int
    names: frozenset[str]
    since: dict[str, float]


@dataclass
class Sent:
    """What a sender tells of one action whose first byte is about to leave."""

    sync: str
    seconds: float


@dataclass
class Counts:
    """Since the start. `left` were more than could wait, or came while the ledger was away.

    `expired` were too late when the lane came to them, after a stop or behind a backlog.
    """

    recorded: int = 0
    expired: int = 0
    known: int = 0
    left: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    problem: str | None = None


class Sender:
    """The thread of one sync. `on_sent` is called from it."""

    def __init__(
        self,
        pusher: Pusher,
        spec: SyncSpec,
        facts: ReadFacts,
        on_sent: Callable[[Sent], None],
    ) -> None:
        self.spec = spec
        self.counts = Counts()
        self._pusher = pusher
        self._facts = facts
        self._on_sent = on_sent
        self._waiting: deque[Messages] = deque()
        self._rows = 0
        self._late: set[str] = set()
        self._counted: set[str] = set()
        self._news = threading.Condition()
        self._stopping = False
        self._busy = False
        self._thread = threading.Thread(target=self._run, name=f"hot {spec.name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait for this destination."""
        return self._rows

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being sent."""
        with self._news:
            return not self._waiting and not self._busy

    def put(self, messages: Messages) -> None:
        """Hand over rows; never waits."""
        with self._news:
            if self._rows + messages.rows.num_rows > MAX_WAITING:
                self.counts.left += messages.rows.num_rows
                return
            self._rows += messages.rows.num_rows
            self._waiting.append(messages)
            self._news.notify()

    def note_late(self, keys: AbstractSet[str]) -> None:
        """Count those of these actions that have expired and were never recorded; never waits."""
        with self._news:
            self._late |= keys - self._counted
            self._counted |= self._late
            self._news.notify()

    def close(self, seconds: float = 10.0) -> None:
        """Finish what is under way, and stop."""
        with self._news:
            self._stopping = True
            self._news.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        import duckdb

        with duckdb.connect() as connection:
            connection.execute("set timezone = 'UTC'")
            connection.execute("set threads = 1")
            connection.execute("create schema people")
            plans = Plans(connection)
            while not self._stopping:
                try:
                    with self._pusher.express(self.spec, self._facts) as express:
                        self.counts.problem = None
                        self._serve(express, connection, plans)
                except (SyncError, SQLAlchemyError) as error:
                    # Nothing is lost: the micro-batch finds what was not recorded or not sent.
                    self.counts.problem = (
                        str(error) if isinstance(error, SyncError) else type(error).__name__
                    )
                    log.warning("%s: %s", self.spec.name, self.counts.problem)
                    with self._news:
                        self.counts.left += self._rows
                        self._waiting.clear()
                        self._rows, self._busy = 0, False
                    time.sleep(_RETRY_SECONDS)

    def _serve(self, express: Express, connection: Any, plans: Plans) -> None:
        while True:
            with self._news:
                self._busy = False
                while not self._waiting and not self._late and not self._stopping:
                    self._news.wait()
                late, self._late = self._late, set()
                if not self._waiting and not late:
                    return
                taken, self._rows = list(self._waiting), 0
                self._waiting.clear()
                self._busy = True
            if late:
                self.counts.expired += len(late) - len(self._pusher.ledger.recorded(late))
            if taken:
                self._act(express, connection, plans, taken)

    def _act(
        self, express: Express, connection: Any, plans: Plans, taken: Sequence[Messages]
    ) -> None:
        import pyarrow as pa

        since: dict[str, float] = {}
        for messages in taken:
            since |= messages.since
        # A customer who was touched twice is handed over twice; an audience has an address once.
        once = "" if self.spec.is_message else f"on ({quoted(self.spec.key)})"
        for name, tables, distinct in (
            ("rows", [messages.rows for messages in taken], once),
            ("identity_map", [messages.people for messages in taken], ""),
            ("identity_edges", [messages.edges for messages in taken], ""),
            ("customer_consents", [messages.consents for messages in taken], ""),
        ):
            if tables[0] is None:
                continue
            given, relation = pa.concat_tables(tables), f"people.{name}"
            shown = plans.show(relation, given)
            connection.execute(f"create table if not exists {relation} as from {shown} limit 0")
            plans.replace(relation, given, f"distinct {distinct} *")
        names = sorted(frozenset().union(*(messages.names for messages in taken)))
        counts = express.record(
            connection,
            "people.rows",
            schema="people",
            customers=names,
            keys=list(since),
            log_seq=max(messages.log_seq for messages in taken),
            lane=LANE,
        )
        self.counts.recorded += sum(counts.get(change, 0) for change in _RECORDED)
        self.counts.expired += counts.get("expired", 0)
        self.counts.known += counts.get("known", 0) + counts.get("unchanged", 0)

        def on_send(rows: Sequence[Row]) -> None:
            now = time.time()
            for row in rows:
                if row.action_key in since:
                    self._on_sent(Sent(self.spec.name, now - since[row.action_key]))

        report = express.send(list(since), on_send)
        for outcome, count in report.sent.items():
            self.counts.outcomes[outcome] = self.counts.outcomes.get(outcome, 0) + count
        if report.message:
            self.counts.problem = report.message
            log.warning("%s: %s", self.spec.name, report.message)


def key_of(spec: SyncSpec, customer_id: str, trigger_id: str) -> str:
    """The action key of a message, as the warehouse derives it, too."""
    return action_key(spec.name, customer_id, trigger_id)
