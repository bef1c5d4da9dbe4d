"""Taking due actions from the ledger, and writing down what became of them."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from syncs.policies import Policies, Sent, Verdict
from syncs.results import RowResult
from syncs.spec import SyncSpec
from syncs.tables import WAITING

_CAP_CLASS = 0x5160_0004


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
    leave: bool = False
    payload_bytes: int = 0


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


class Worker:
    """One run's claims on the ledger. Made by `Ledger.worker`."""

    def __init__(self, engine: sa.Engine, lock: sa.Connection, number: int) -> None:
        self._engine = engine
        self._lock = lock
        self._asking = threading.Lock()
        self.number = number

    def check(self) -> None:
        """Raises SQLAlchemyError when the session is gone, and its locks with it.

        Who has lost them must neither claim nor send: others take its rows for orphans.
        """
        with self._asking:  # a session is for one thread at a time
            self._lock.execute(sa.text("select 1"))

    def claim(
        self,
        spec: SyncSpec,
        limit: int,
        judge: Judge,
        *,
        max_bytes: int | None = None,
        only: str | None = None,
        keys: Collection[str] | None = None,
        sandbox: bool = False,
    ) -> Batch:
        """Take up to `limit` due actions, judge them, and commit the rest as `sending`.

        The rows stay locked while they are judged, and nothing is written when the judge raises.
        Two workers never hold the same action. All of a batch either leave their destination's
        audience or do not; their payloads have `max_bytes` at most, or one is alone. `keys` are the
        only actions to take, if given.
        """
        self.check()
        states = list(WAITING) if spec.is_message else [*WAITING, "rejected"]
        batch = Batch()
        with self._engine.begin() as connection:
            rows = connection.execute(
                sa.text(_DUE if keys is None else _DUE_OF),
                {
                    "sync": spec.name,
                    "states": states,
                    "limit": limit,
                    "only": only,
                    **({} if keys is None else {"keys": list(keys)}),
                },
            ).all()
            due = [Action(*row) for row in rows]
            if not due:
                return batch
            due = next(in_requests(due, limit, max_bytes))
            withheld = judge(due, _look_back(connection, spec, due))
            for key, verdict in withheld.items():
                statement = _POSTPONE if verdict.state == "later" else _WITHHOLD
                connection.execute(sa.text(statement), {"key": key, **verdict._asdict()})
                batch.withheld[verdict.state] = batch.withheld.get(verdict.state, 0) + 1
            batch.send = [action for action in due if action.action_key not in withheld]
            if batch.send:
                connection.execute(
                    sa.text(_START),
                    {
                        "keys": [action.action_key for action in batch.send],
                        "worker": self.number,
                        "sandbox": sandbox,
                    },
                )
        return batch

    def settle(
        self,
        spec: SyncSpec,
        batch: Batch,
        results: Sequence[RowResult],
        waits: Sequence[float],
        *,
        latencies: Mapping[str, int] = MappingProxyType({}),
        without_effect: Collection[str] = (),
        unsent: Collection[str] = (),
    ) -> None:
        """Write down what became of a batch.

        `waits` are seconds until the next attempt, `latencies` milliseconds of the request by
        action key; `without_effect` are keys of what certainly reached nobody. `unsent` are those
        of them that no request was made for: they stand in line again as before.
        """
        parameters = {
            "sync": spec.name,
            "worker": self.number,
            "started_at": batch.started_at,
            "keys": [action.action_key for action in batch.send],
            "outcomes": [result.outcome for result in results],
            "reasons": [result.reason for result in results],
            "codes": [result.status_code for result in results],
            "waits": list(waits),
            "latencies": [latencies.get(action.action_key) for action in batch.send],
            "effects": [action.action_key not in without_effect for action in batch.send],
            "tried": [action.action_key not in unsent for action in batch.send],
        }
        with self._engine.begin() as connection:
            connection.execute(sa.text(_SETTLE), parameters)


def in_requests(due: Sequence[Action], size: int, max_bytes: int | None) -> Iterator[list[Action]]:
    """Cut into requests of at most `size` actions whose payloads have `max_bytes`, or of one."""
    request: list[Action] = []
    total = 0
    for action in due:
        total += action.payload_bytes
        full = len(request) == size or (max_bytes is not None and total > max_bytes)
        if request and full:
            yield request
            request, total = [], action.payload_bytes
        request.append(action)
    if request:
        yield request


def _look_back(connection: sa.Connection, spec: SyncSpec, due: Sequence[Action]) -> LookBack:
    def look_back(since: datetime) -> History:
        # Messages on a channel share its cap; a sync without one has only its own.
        counter = spec.policies.channel or spec.name
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CAP_CLASS, number(counter))))
        keys = [action.action_key for action in due]
        customers = [action.customer_id for action in due if action.customer_id is not None]
        return history(connection, spec.name, spec.policies, customers, since, keys)

    return look_back


def history(
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
    found = History()
    for customer, *sent in connection.execute(sa.text(_MESSAGES), parameters):
        found.messages.setdefault(customer, []).append(Sent(*sent))
    for customer, count in connection.execute(sa.text(_AHEAD), parameters):
        found.ahead[customer] = count
    return found


def backoff(attempt: int, *, base: float, cap: float) -> float:
    """Seconds to wait after attempt number `attempt`, from 1: exponential, half of it jitter."""
    ceiling = min(cap, base * 2.0 ** min(attempt - 1, 32))
    return ceiling * (0.5 + random.random() / 2)  # noqa: S311 (spreads load, guards nothing)


def number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big", signed=True)


_DUE = """
select
    action_key, row_key, customer_id, payload_hash, payload, attempts, expires_at, event_at, leave,
    octet_length(payload::text)
from actions
where sync = :sync and state = any(:states) and next_attempt_at <= now()
    and (cast(:only as text) is null or row_key = :only or customer_id = :only)
    and leave = coalesce((
        select a.leave
        from actions a
        where a.sync = :sync and a.state = any(:states) and a.next_attempt_at <= now()
            and (cast(:only as text) is null or a.row_key = :only or a.customer_id = :only)
        order by a.next_attempt_at
        limit 1
    ), false)
order by next_attempt_at
limit :limit
for update skip locked
"""

# What the hot lane has just recorded. It lets nobody leave an audience.
_DUE_OF = """
select
    action_key, row_key, customer_id, payload_hash, payload, attempts, expires_at, event_at, leave,
    octet_length(payload::text)
from actions
where action_key = any(:keys) and sync = :sync and state = any(:states)
    and next_attempt_at <= now() and (cast(:only as text) is null or row_key = :only)
    and not leave
order by next_attempt_at
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
    delivered_hash = null, sandbox = :sandbox, next_attempt_at = null, updated_at = now()
where action_key = any(:keys)
"""

# A late answer may still turn `unknown` into what it was, but never touches another's claim.
_SETTLE = """
with result as (
    select *
    from unnest(
        cast(:keys as text[]), cast(:outcomes as text[]), cast(:reasons as text[]),
        cast(:codes as integer[]), cast(:waits as double precision[]),
        cast(:latencies as integer[]), cast(:effects as boolean[]), cast(:tried as boolean[])
    ) as r (action_key, outcome, reason, status_code, wait, latency_ms, effect, tried)
),

settled as (
    update actions a set
        state = case when r.tried or a.attempts > 1 then r.outcome else 'planned' end,
        attempts = case when r.tried then a.attempts else a.attempts - 1 end,
        sent_at = case when r.tried or a.attempts > 1 then a.sent_at end,
        reason = r.reason, status_code = r.status_code, worker = null,
        delivered_at = case when r.outcome = 'delivered' then now() else a.delivered_at end,
        delivered_hash = case when r.outcome = 'delivered' and not a.leave then a.payload_hash end,
        delivered_payload =
            case when r.outcome <> 'delivered' or a.mode = 'message' then a.delivered_payload
                 when not a.leave then a.payload end,
        held =
            case when r.outcome = 'delivered' then not a.leave
                 when r.outcome = 'rejected' or not r.effect then a.held
                 else true end,
        next_attempt_at =
            case when r.outcome = 'retrying' or (r.outcome = 'rejected' and a.mode <> 'message')
                 then now() + make_interval(secs => r.wait) end,
        updated_at = now()
    from result r
    where a.action_key = r.action_key and a.worker = :worker and a.state in ('sending', 'unknown')
    returning a.action_key, a.sync, a.attempts, a.payload_hash, a.state, a.reason, a.status_code,
        r.latency_ms, r.tried
)

insert into attempts
    (action_key, sync, attempt, payload_hash, outcome, reason, status_code, latency_ms, started_at)
select action_key, sync, attempts, payload_hash, state, reason, status_code, latency_ms, :started_at
from settled
where tried
"""
