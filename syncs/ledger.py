"""The ledger: every action's intent, attempts and outcome. It alone decides what is sent.

States of an action:

    planned ──▶ sending ──▶ delivered
       ▲          │  │ └──▶ rejected    (state rows: tried again later, or when the row changes)
       │          │  └────▶ unknown     (a message that left and was not answered; never resent)
       └─retrying◀┘
    planned, retrying ──▶ suppressed | expired

`sending` is committed before the first byte leaves. Who is sending holds an advisory lock whose
number stands on the row: a row in `sending` whose lock is free belongs to a process that died.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import secrets as random_numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.csv
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from syncs.policies import Policies, Sent, Verdict
from syncs.results import RowResult, SyncError
from syncs.spec import SyncSpec

STATES = (
    "planned",
    "sending",
    "delivered",
    "rejected",
    "retrying",
    "unknown",
    "suppressed",
    "expired",
)

#: States in which something is still to be done.
WAITING = ("planned", "retrying")

VERSION = 2

_SETUP_LOCK = 0x5160_0001
_WORKER_CLASS = 0x5160_0002
_SYNC_CLASS = 0x5160_0003
_CAP_CLASS = 0x5160_0004

_metadata = sa.MetaData()
_moment = sa.DateTime(timezone=True)

actions = sa.Table(
    "actions",
    _metadata,
    sa.Column("action_key", sa.Text, primary_key=True),
    sa.Column("sync", sa.Text, nullable=False),
    sa.Column("destination", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("row_key", sa.Text, nullable=False),
    sa.Column("customer_id", sa.Text),
    sa.Column("trigger_id", sa.Text),
    sa.Column("payload_hash", sa.Text, nullable=False),
    sa.Column("payload", JSONB, nullable=False),
    sa.Column(
        "state",
        sa.Text,
        sa.CheckConstraint("state in (" + ", ".join(f"'{state}'" for state in STATES) + ")"),
        nullable=False,
    ),
    sa.Column("reason", sa.Text),
    # Which policy held it back, if one did.
    sa.Column("policy", sa.Text),
    sa.Column("status_code", sa.Integer),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", _moment, nullable=False, server_default=sa.func.now()),
    sa.Column("updated_at", _moment, nullable=False, server_default=sa.func.now()),
    sa.Column("sent_at", _moment),
    sa.Column("delivered_at", _moment),
    sa.Column("expires_at", _moment),
    # Set while something is to be done: when, and thereby in which order.
    sa.Column("next_attempt_at", _moment),
    sa.Column("event_at", _moment),
    # State rows: what the destination last confirmed. The hash is cleared when a newer payload
    # leaves, because from then on nobody knows which of the two the destination holds.
    sa.Column("delivered_hash", sa.Text),
    sa.Column("delivered_payload", JSONB),
    # Whether an attempt with an unknown end may be repeated.
    sa.Column("repeatable", sa.Boolean, nullable=False),
    # Messages: what caps and priorities between syncs go by.
    sa.Column("channel", sa.Text),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("worker", sa.Integer),
)
_todo = sa.text("state in ('planned', 'retrying', 'rejected')")
sa.Index("actions_due", actions.c.sync, actions.c.next_attempt_at, postgresql_where=_todo)
sa.Index("actions_sending", actions.c.worker, postgresql_where=sa.text("state = 'sending'"))
sa.Index("actions_sync", actions.c.sync, actions.c.state)
sa.Index("actions_customer", actions.c.customer_id)

attempts = sa.Table(
    "attempts",
    _metadata,
    sa.Column("attempt_id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("action_key", sa.Text, nullable=False, index=True),
    sa.Column("sync", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("payload_hash", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("status_code", sa.Integer),
    sa.Column("started_at", _moment),
    sa.Column("finished_at", _moment, nullable=False, server_default=sa.func.now()),
)

sync_runs = sa.Table(
    "sync_runs",
    _metadata,
    sa.Column("run_id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("sync", sa.Text, nullable=False, index=True),
    sa.Column("destination", sa.Text, nullable=False),
    sa.Column("sandbox", sa.Boolean, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("message", sa.Text),
    sa.Column("counts", JSONB, nullable=False),
    sa.Column("started_at", _moment, nullable=False),
    sa.Column("finished_at", _moment, nullable=False, server_default=sa.func.now()),
)

lanes = sa.Table(
    "lanes",
    _metadata,
    sa.Column("lane", sa.Text, primary_key=True),
    sa.Column("turn_at", _moment),
    sa.Column("held_until", _moment),
    sa.Column("failed", sa.Integer, nullable=False),
)

ledger_info = sa.Table(
    "ledger_info",
    _metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("began_at", _moment, nullable=False, server_default=sa.func.now()),
)


class LedgerError(SyncError):
    """The ledger cannot be used; the message says why."""


def action_key(sync: str, *parts: str) -> str:
    """The action's identity: SHA-256 over the sync and its parts, in hex.

    Parts are (customer_id, trigger_id) for a message and (key,) for a state row. Each is preceded
    by its length in bytes, so no two lists of parts can run together. `plan.py` computes the same
    in SQL.
    """
    text = "".join(f"{len(part.encode())}:{part}" for part in (sync, *parts))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Action:
    """A row of the ledger that is about to be sent."""

    action_key: str
    row_key: str
    customer_id: str | None
    payload_hash: str
    payload: Mapping[str, Any]
    attempts: int
    expires_at: datetime | None
    event_at: datetime | None


@dataclass(slots=True)
class Batch:
    """What one claim yielded: `send` is committed as sending, `withheld` counts by new state."""

    send: list[Action] = field(default_factory=list)
    withheld: dict[str, int] = field(default_factory=dict)  # expired, suppressed, later
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class History:
    """What the caps of a sync look back on, by customer.

    `messages`: what left or may have left, of this sync and on its channel, and who was held out.
    `ahead`: how many messages of higher priority are due on the channel.
    """

    messages: dict[str, list[Sent]] = field(default_factory=dict)
    ahead: dict[str, int] = field(default_factory=dict)


#: The history since that moment of those about to be judged. Until the claim is committed, no
#: other process is told the history of the same channel, so no two exceed a cap together.
LookBack = Callable[[datetime], History]

#: Says which actions must not be sent now, by action key.
Judge = Callable[[Sequence[Action], LookBack], Mapping[str, Verdict]]


class Ledger:
    """The ledger in the Postgres database at `url`. One object may serve many threads."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(
            sa.make_url(url).set(drivername="postgresql+psycopg2"),
            pool_pre_ping=True,
            pool_size=8,
            max_overflow=64,
            # An error's text must not quote a payload.
            hide_parameters=True,
            # An intent that is not on disk is not an intent, whatever the server's default.
            connect_args={"options": "-c synchronous_commit=on -c timezone=UTC"},
        )

    @property
    def engine(self) -> sa.Engine:
        """Connections to the ledger's Postgres."""
        return self._engine

    def close(self) -> None:
        self._engine.dispose()

    def ensure(self) -> None:
        """Create what is missing. Any number of processes may call it at once.

        Raises LedgerError when a newer version of Signalbox made the tables.
        """
        with _reachable(), self._engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SETUP_LOCK)))
            _metadata.create_all(connection)
            found = connection.scalar(sa.select(sa.func.max(ledger_info.c.version)))
            if found is None:
                connection.execute(ledger_info.insert().values(version=VERSION))
            elif found > VERSION:
                raise LedgerError(
                    f"the ledger has version {found} and this Signalbox knows {VERSION}: update it"
                )
            for version in range((found or VERSION) + 1, VERSION + 1):
                connection.execute(sa.text(_UPGRADES[version]))
                connection.execute(ledger_info.update().values(version=version))

    def began_at(self) -> datetime:
        """When this ledger began. A message whose trigger is older is never sent from here."""
        with _reachable(), self._engine.connect() as connection:
            moment: datetime | None = connection.scalar(
                sa.select(sa.func.min(ledger_info.c.began_at))
            )
        if moment is None:
            raise LedgerError("the ledger is not set up; start Signalbox once (signalbox up)")
        return moment

    def begin_at(self, moment: datetime) -> None:
        """Move the beginning, after a restore from a backup: to the moment of the restore."""
        with self._engine.begin() as connection:
            connection.execute(ledger_info.update().values(began_at=moment))

    # Planning

    def known(self, sync: str) -> pa.Table:
        """All actions of a sync: action_key, row_key, state, payload_hash, delivered_hash,
        was_delivered (boolean). Streamed, so that a million rows take a second or two."""
        query = (
            "select action_key, row_key, state, payload_hash, delivered_hash,"
            " delivered_payload is not null as was_delivered"
            " from actions where sync = %s"
        )
        names = ["action_key", "row_key", "state", "payload_hash", "delivered_hash"]
        types = {name: pa.string() for name in names} | {"was_delivered": pa.bool_()}
        buffer = io.BytesIO()
        with self._raw() as cursor:
            statement = cursor.mogrify(query, (sync,)).decode()
            cursor.copy_expert(f"copy ({statement}) to stdout (format csv, header)", buffer)
        buffer.seek(0)
        return pyarrow.csv.read_csv(
            buffer,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                true_values=["t"],
                false_values=["f"],
                # Only Postgres' own null: a key may well be "NA".
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def delivered_payloads(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What the destination last confirmed, by action key."""
        query = sa.select(actions.c.action_key, actions.c.delivered_payload).where(
            actions.c.action_key == sa.any_(sa.cast(list(keys), sa.ARRAY(sa.Text))),
            actions.c.delivered_payload.is_not(None),
        )
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def record(self, spec: SyncSpec, changes: pa.Table, *, repeatable: bool) -> int:
        """Write a plan's changes in one transaction and return how many rows it touched.

        `changes` has the columns of `plan.CHANGE_COLUMNS`. A row that is being sent at this moment
        is left alone: the next plan will find the difference again.
        """
        if changes.num_rows == 0:
            return 0
        buffer = io.BytesIO()
        pyarrow.csv.write_csv(changes, buffer)
        buffer.seek(0)
        columns = ", ".join(changes.column_names)
        with self._raw() as cursor:
            cursor.execute(
                "create temporary table incoming (change text, action_key text, row_key text,"
                " customer_id text, trigger_id text, payload_hash text, payload jsonb,"
                " expires_at timestamptz, event_at timestamptz, reason text) on commit drop"
            )
            cursor.copy_expert(f"copy incoming ({columns}) from stdin (format csv, header)", buffer)
            parameters = {
                "sync": spec.name,
                "destination": spec.destination,
                "mode": spec.mode,
                "repeatable": repeatable,
                "channel": spec.policies.channel,
                "priority": spec.policies.priority,
            }
            conflict = _SKIP_KNOWN if spec.is_message else _REPLACE_WAITING
            cursor.execute(_INSERT + conflict, parameters)
            touched = cursor.rowcount
            cursor.execute(_WITHDRAW, parameters)
            return int(touched + cursor.rowcount)

    # Sending

    @contextlib.contextmanager
    def worker(self, sync: str, *, alone: bool = True) -> Iterator[Worker]:
        """A place at the counter for one run of one sync. Raises SyncBusy if another has it.

        `alone` is false for a sender that only adds messages beside a running sync.
        """
        with self._engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            number = random_numbers.randbelow(2**31 - 1) + 1
            connection.execute(sa.select(sa.func.pg_advisory_lock(_WORKER_CLASS, number)))
            if alone and not connection.scalar(
                sa.select(sa.func.pg_try_advisory_lock(_SYNC_CLASS, _number(sync)))
            ):
                connection.invalidate()
                raise SyncBusy(f"{sync} is being run by another process; it will take its turn")
            try:
                yield Worker(self._engine, connection, number)
            finally:
                # Closing the session frees its locks; the pool would keep both.
                connection.invalidate()

    def recover(self) -> dict[str, int]:
        """Settle what dead processes left in `sending`; returns counts by new state.

        What may be repeated is retried at once; a message that may not becomes `unknown`.
        """
        counts: dict[str, int] = {}
        with self._engine.begin() as connection:
            numbers = connection.scalars(
                sa.select(actions.c.worker).where(actions.c.state == "sending").distinct()
            ).all()
            for number in numbers:
                free = connection.scalar(
                    sa.select(sa.func.pg_try_advisory_xact_lock(_WORKER_CLASS, number))
                )
                if not free:
                    continue
                for state, count in connection.execute(sa.text(_RECOVER), {"worker": number}):
                    counts[state] = counts.get(state, 0) + count
        return counts

    def suppressed_customers(self, sync: str) -> list[str]:
        """Customers whose state row was held back for want of consent."""
        query = sa.select(actions.c.customer_id.distinct()).where(
            actions.c.sync == sync,
            actions.c.state == "suppressed",
            actions.c.mode != "message",
            actions.c.payload_hash != "",
            actions.c.customer_id.is_not(None),
        )
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def revive(self, sync: str, customers: Iterable[str]) -> int:
        """Put suppressed state rows of these customers back in line; returns how many."""
        statement = (
            actions.update()
            .where(
                actions.c.sync == sync,
                actions.c.state == "suppressed",
                actions.c.mode != "message",
                actions.c.payload_hash != "",
                actions.c.customer_id == sa.any_(sa.cast(list(customers), sa.ARRAY(sa.Text))),
            )
            .values(
                state="planned",
                reason=None,
                policy=None,
                next_attempt_at=sa.func.now(),
                updated_at=sa.func.now(),
            )
        )
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    def history(
        self, sync: str, policies: Policies, customers: Sequence[str], since: datetime
    ) -> History:
        """What the caps of a sync would look back on now, for looking only: nothing is locked."""
        with self._engine.connect() as connection:
            return _history(connection, sync, policies, customers, since, [])

    # Reporting

    def counts(self, sync: str | None = None) -> dict[str, int]:
        """Number of actions by state."""
        query = sa.select(actions.c.state, sa.func.count()).group_by(actions.c.state)
        if sync is not None:
            query = query.where(actions.c.sync == sync)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def next_due(self, sync: str) -> float | None:
        """Seconds until the next waiting action of a sync is due; None when nothing waits."""
        due_in = sa.func.extract("epoch", sa.func.min(actions.c.next_attempt_at) - sa.func.now())
        query = sa.select(due_in).where(actions.c.sync == sync, actions.c.state.in_(WAITING))
        with self._engine.connect() as connection:
            seconds = connection.scalar(query)
        return None if seconds is None else float(seconds)

    def record_run(self, **values: Any) -> None:
        """Keep a run's report: the columns of `sync_runs` but run_id and finished_at."""
        with self._engine.begin() as connection:
            connection.execute(sync_runs.insert().values(**values))

    @contextlib.contextmanager
    def _raw(self) -> Iterator[Any]:
        connection = self._engine.raw_connection()
        try:
            yield connection.cursor()
            connection.commit()
        except psycopg2.Error as error:
            # Postgres' own words quote the row.
            raise LedgerError(f"the ledger refused it ({type(error).__name__})") from None
        finally:
            connection.close()


class SyncBusy(LedgerError):
    """Another process is running this sync."""


class Worker:
    """One run's claims on the ledger. Made by `Ledger.worker`; not for several threads."""

    def __init__(self, engine: sa.Engine, lock: sa.Connection, number: int) -> None:
        self._engine = engine
        self._lock = lock
        self.number = number

    def claim(self, spec: SyncSpec, limit: int, judge: Judge) -> Batch:
        """Take up to `limit` due actions, judge them, and commit the rest as `sending`.

        The rows stay locked while they are judged, and nothing is written when the judge raises.
        Two workers never hold the same action.
        """
        # A session that lost its locks must not claim: others would take its rows for orphans.
        self._lock.execute(sa.text("select 1"))
        states = list(WAITING) if spec.is_message else [*WAITING, "rejected"]
        batch = Batch()
        with self._engine.begin() as connection:
            rows = connection.execute(
                sa.text(_DUE), {"sync": spec.name, "states": states, "limit": limit}
            ).all()
            due = [Action(*row) for row in rows]
            if not due:
                return batch
            withheld = judge(due, _look_back(connection, spec, due))
            for key, verdict in withheld.items():
                statement = _POSTPONE if verdict.state == "later" else _WITHHOLD
                connection.execute(sa.text(statement), {"key": key, **verdict._asdict()})
                batch.withheld[verdict.state] = batch.withheld.get(verdict.state, 0) + 1
            batch.send = [action for action in due if action.action_key not in withheld]
            if batch.send:
                connection.execute(
                    sa.text(_START),
                    {"keys": [action.action_key for action in batch.send], "worker": self.number},
                )
        return batch

    def settle(
        self, spec: SyncSpec, batch: Batch, results: Sequence[RowResult], waits: Sequence[float]
    ) -> None:
        """Write down what became of a batch. `waits` are seconds until the next attempt."""
        parameters = {
            "sync": spec.name,
            "worker": self.number,
            "started_at": batch.started_at,
            "keys": [action.action_key for action in batch.send],
            "outcomes": [result.outcome for result in results],
            "reasons": [result.reason for result in results],
            "codes": [result.status_code for result in results],
            "waits": list(waits),
        }
        with self._engine.begin() as connection:
            connection.execute(sa.text(_SETTLE), parameters)


def _look_back(connection: sa.Connection, spec: SyncSpec, due: Sequence[Action]) -> LookBack:
    def look_back(since: datetime) -> History:
        # Messages on a channel share its cap; a sync without one has only its own.
        counter = spec.policies.channel or spec.name
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CAP_CLASS, _number(counter))))
        keys = [action.action_key for action in due]
        customers = [action.customer_id for action in due if action.customer_id is not None]
        return _history(connection, spec.name, spec.policies, customers, since, keys)

    return look_back


def _history(
    connection: sa.Connection,
    sync: str,
    policies: Policies,
    customers: Sequence[str],
    since: datetime,
    but: Sequence[str],
) -> History:
    """What these customers were sent since then, without the actions whose keys are in `but`."""
    parameters = {
        "sync": sync,
        "channel": policies.channel,
        "priority": policies.priority,
        "customers": list(customers),
        "keys": list(but),
        "since": since,
    }
    history = History()
    for customer, *sent in connection.execute(sa.text(_MESSAGES), parameters):
        history.messages.setdefault(customer, []).append(Sent(*sent))
    for customer, count in connection.execute(sa.text(_AHEAD), parameters):
        history.ahead[customer] = count
    return history


def backoff(attempt: int, *, base: float, cap: float) -> float:
    """Seconds to wait after attempt number `attempt`, from 1: exponential, half of it jitter."""
    ceiling = min(cap, base * 2.0 ** min(attempt - 1, 32))
    return ceiling * (0.5 + random.random() / 2)  # noqa: S311 (spreads load, guards nothing)


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """Turns the driver's errors, whose text holds the URL's parts, into one plain sentence."""
    try:
        yield
    except sa.exc.OperationalError:
        raise LedgerError("the ledger's Postgres cannot be reached") from None
    except sa.exc.ProgrammingError:
        raise LedgerError("the ledger is not set up; start Signalbox once (signalbox up)") from None


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big", signed=True)


# What brings the tables of the version before to this one.
_UPGRADES = {
    2: "alter table actions add column if not exists policy text,"
    " add column if not exists channel text,"
    " add column if not exists priority integer not null default 0",
}

_INSERT = """
insert into actions as a (
    action_key, sync, destination, mode, row_key, customer_id, trigger_id, payload_hash, payload,
    state, reason, policy, expires_at, event_at, next_attempt_at, repeatable, channel, priority
)
select
    action_key, %(sync)s, %(destination)s, %(mode)s, row_key, customer_id, trigger_id,
    payload_hash, payload,
    case when change in ('expired', 'suppressed') then change else 'planned' end,
    reason,
    case change when 'expired' then 'expiry' when 'suppressed' then 'ledger_began' end,
    expires_at, event_at,
    case when change in ('expired', 'suppressed') then null
         else least(coalesce(event_at, now()), now()) end,
    %(repeatable)s, %(channel)s, %(priority)s
from incoming
where change in ('create', 'update', 'message', 'expired', 'suppressed')
"""

_SKIP_KNOWN = "on conflict (action_key) do nothing"

# The newest payload replaces a waiting older one; a new payload starts its own count of attempts.
_REPLACE_WAITING = """
on conflict (action_key) do update set
    destination = excluded.destination, mode = excluded.mode, customer_id = excluded.customer_id,
    payload_hash = excluded.payload_hash, payload = excluded.payload, state = excluded.state,
    reason = null, policy = null, status_code = null, attempts = 0, event_at = excluded.event_at,
    next_attempt_at = excluded.next_attempt_at, repeatable = excluded.repeatable,
    updated_at = now()
where a.state <> 'sending'
"""

# A change that went back to what the destination holds, or whose row left the model. The latter
# keeps no hash, so that the row is new again when it comes back.
_WITHDRAW = """
update actions a set
    state = case when i.change = 'revert' then 'delivered' else 'suppressed' end,
    payload_hash = case when i.change = 'revert' then a.delivered_hash else '' end,
    payload = case when i.change = 'revert' then a.delivered_payload else a.payload end,
    reason = case when i.change = 'revert' then null else 'the row left the sync model' end,
    next_attempt_at = null, updated_at = now()
from incoming i
where a.action_key = i.action_key and a.sync = %(sync)s and i.change in ('revert', 'gone')
    and a.state in ('planned', 'retrying', 'rejected', 'suppressed')
"""

_DUE = """
select action_key, row_key, customer_id, payload_hash, payload, attempts, expires_at, event_at
from actions
where sync = :sync and state = any(:states) and next_attempt_at <= now()
order by next_attempt_at, action_key
limit :limit
for update skip locked
"""

_WITHHOLD = """
update actions
set state = :state, policy = :policy, reason = :reason, next_attempt_at = null, updated_at = now()
where action_key = :key
"""

_POSTPONE = """
update actions
set policy = :policy, reason = :reason, next_attempt_at = :until, updated_at = now()
where action_key = :key
"""

# Whatever left, or may have: a message that is being retried may have been seen already.
_MESSAGES = """
select
    customer_id,
    case when policy = 'holdout' then updated_at else sent_at end as at,
    sync = :sync as own,
    policy is distinct from 'holdout' as "left"
from actions
where customer_id = any(:customers) and action_key <> all(:keys) and mode = 'message'
    and (
        sent_at > :since and state not in ('rejected', 'suppressed', 'expired')
        and (sync = :sync or channel = :channel)
        or state = 'suppressed' and policy = 'holdout' and sync = :sync and updated_at > :since
    )
"""

_AHEAD = """
select customer_id, count(*)
from actions
where customer_id = any(:customers) and action_key <> all(:keys) and mode = 'message'
    and channel = :channel and priority > :priority and state in ('planned', 'retrying')
    and next_attempt_at <= now() and (expires_at is null or expires_at > now())
group by customer_id
"""

_START = """
update actions
set state = 'sending', worker = :worker, attempts = attempts + 1, sent_at = now(), policy = null,
    delivered_hash = null, next_attempt_at = null, updated_at = now()
where action_key = any(:keys)
"""

# A late answer may still turn `unknown` into what it was, but never touches another's claim.
_SETTLE = """
with result as (
    select *
    from unnest(
        cast(:keys as text[]), cast(:outcomes as text[]), cast(:reasons as text[]),
        cast(:codes as integer[]), cast(:waits as double precision[])
    ) as r (action_key, outcome, reason, status_code, wait)
),

settled as (
    update actions a set
        state = r.outcome, reason = r.reason, status_code = r.status_code, worker = null,
        delivered_at = case when r.outcome = 'delivered' then now() else a.delivered_at end,
        delivered_hash = case when r.outcome = 'delivered' then a.payload_hash end,
        delivered_payload =
            case when r.outcome = 'delivered' and a.mode <> 'message' then a.payload
                 else a.delivered_payload end,
        next_attempt_at =
            case when r.outcome = 'retrying' or (r.outcome = 'rejected' and a.mode <> 'message')
                 then now() + make_interval(secs => r.wait) end,
        updated_at = now()
    from result r
    where a.action_key = r.action_key and a.worker = :worker and a.state in ('sending', 'unknown')
    returning a.action_key, a.sync, a.attempts, a.payload_hash, a.state, a.reason, a.status_code
)

insert into attempts
    (action_key, sync, attempt, payload_hash, outcome, reason, status_code, started_at)
select action_key, sync, attempts, payload_hash, state, reason, status_code, :started_at
from settled
"""

_RECOVER = """
with orphans as (
    update actions set
        state = case when repeatable then 'retrying' else 'unknown' end,
        reason = 'the process died while it was sending',
        next_attempt_at = case when repeatable then now() end,
        updated_at = now()
    where state = 'sending' and worker = :worker
    returning action_key, sync, attempts, payload_hash, state, reason, sent_at
),

noted as (
    insert into attempts (action_key, sync, attempt, payload_hash, outcome, reason, started_at)
    select action_key, sync, attempts, payload_hash, state, reason, sent_at
    from orphans
)

select state, count(*) from orphans group by state
"""
