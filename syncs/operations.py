"""What a person does to the ledger: look, pause, retry, waive, restore; and its retention."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from syncs.ledger import Ledger, LedgerError
from syncs.tables import WAITING, actions, paused_syncs

#: States that need a person, or that a person may want to see.
TROUBLE = ("rejected", "unknown", "retrying")

_WAIVABLE = ("rejected", "unknown", *WAITING)


class Retried(NamedTuple):
    """How many actions are due again, and how many were left as they are, and why."""

    retried: int
    unknown: int  # may have arrived, and were not asked for
    trimmed: int  # their payload is past its retention


def pause(ledger: Ledger, sync: str, *, by: str, reason: str | None = None) -> None:
    """Keep a sync from running until it is resumed. A pause replaces an earlier one."""
    values = {"paused_by": by, "reason": reason, "paused_at": sa.func.now()}
    statement = insert(paused_syncs).values(sync=sync, **values)
    with ledger.engine.begin() as connection:
        connection.execute(statement.on_conflict_do_update(index_elements=["sync"], set_=values))


def resume(ledger: Ledger, sync: str) -> bool:
    """Let a sync run again; false if it was not paused."""
    statement = paused_syncs.delete().where(paused_syncs.c.sync == sync)
    with ledger.engine.begin() as connection:
        return connection.execute(statement).rowcount > 0


def retry(ledger: Ledger, sync: str, *, key: str | None = None, unknown: bool = False) -> Retried:
    """Make refused and waiting actions due now; of one `key` also what was waived.

    With `unknown` also messages whose outcome is not known: they may arrive a second time.
    """
    states = ["rejected", "retrying"]
    states += ["unknown"] if unknown else []
    states += ["waived"] if key is not None else []
    chosen = sa.and_(actions.c.sync == sync, actions.c.state.in_(states), *_of(key))
    again = (
        actions.update()
        .where(chosen, actions.c.payload.is_not(None))
        .values(state="planned", next_attempt_at=sa.func.now(), updated_at=sa.func.now())
    )
    with ledger.engine.begin() as connection:
        retried = connection.execute(again).rowcount
        trimmed = connection.scalar(sa.select(sa.func.count()).where(chosen))
        left = connection.scalar(
            sa.select(sa.func.count()).where(
                actions.c.sync == sync, actions.c.state == "unknown", *_of(key)
            )
        )
    return Retried(retried, 0 if unknown else left or 0, trimmed or 0)


def waive(ledger: Ledger, sync: str, *, key: str | None = None, reason: str | None = None) -> int:
    """Settle what is refused, unknown or waiting: it is not tried again until the row changes.

    Returns how many actions that were.
    """
    statement = (
        actions.update()
        .where(actions.c.sync == sync, actions.c.state.in_(_WAIVABLE), *_of(key))
        .values(
            state="waived",
            reason=reason or "waived",
            next_attempt_at=None,
            updated_at=sa.func.now(),
        )
    )
    with ledger.engine.begin() as connection:
        return connection.execute(statement).rowcount


def reasons(ledger: Ledger, sync: str) -> list[dict[str, Any]]:
    """What is in trouble, by state and reason, the most frequent first."""
    query = (
        sa.select(
            actions.c.state,
            actions.c.reason,
            actions.c.status_code,
            sa.func.count().label("actions"),
            sa.func.min(actions.c.sent_at).label("since"),
        )
        .where(actions.c.sync == sync, actions.c.state.in_(TROUBLE))
        .group_by(actions.c.state, actions.c.reason, actions.c.status_code)
        .order_by(sa.func.count().desc())
    )
    return _rows(ledger, query)


def errors(ledger: Ledger, sync: str, *, limit: int) -> list[dict[str, Any]]:
    """Actions in trouble, the latest first, with the destination's own words."""
    query = (
        sa.select(
            actions.c.row_key.label("key"),
            actions.c.customer_id,
            actions.c.trigger_id,
            actions.c.state,
            actions.c.reason,
            actions.c.status_code,
            actions.c.attempts,
            actions.c.sent_at,
            actions.c.next_attempt_at,
        )
        .where(actions.c.sync == sync, actions.c.state.in_(TROUBLE))
        .order_by(actions.c.updated_at.desc(), actions.c.action_key)
        .limit(limit)
    )
    return _rows(ledger, query)


def overview(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Of every sync in the ledger: states, due, next_due_at, last_run and pause."""
    found: dict[str, dict[str, Any]] = {}

    def of(sync: str) -> dict[str, Any]:
        blank = {"states": {}, "due": 0, "next_due_at": None, "last_run": None, "pause": None}
        return found.setdefault(sync, blank)

    for row in _rows(ledger, sa.text(_STATES)):
        of(row["sync"])["states"][row["state"]] = row["actions"]
        of(row["sync"])["due"] += row["due"]
        moments = [m for m in (of(row["sync"])["next_due_at"], row["next_due_at"]) if m]
        of(row["sync"])["next_due_at"] = min(moments, default=None)
    for row in _rows(ledger, sa.text(_LAST_RUNS)):
        of(row.pop("sync"))["last_run"] = row
    for row in _rows(ledger, sa.select(paused_syncs)):
        of(row.pop("sync"))["pause"] = row
    return found


def lanes_held(ledger: Ledger) -> list[dict[str, Any]]:
    """Destinations that are left alone for now: lane, held_until, failed (requests in a row)."""
    return _rows(ledger, sa.text(_HELD))


def restored(ledger: Ledger) -> dict[str, int]:
    """The ledger comes from a backup: nobody knows what was sent since it was made.

    The beginning moves to now, so that no earlier trigger is acted on; messages that wait or were
    refused become `unknown`; every state row is sent again at the next run. Returns how many of
    both.
    """
    with ledger.engine.begin() as connection:
        messages = connection.execute(sa.text(_RESTORED_MESSAGES)).rowcount
        rows = connection.execute(sa.text(_RESTORED_ROWS)).rowcount
        connection.execute(sa.text("update ledger_info set began_at = now()"))
    return {"messages_unknown": messages, "rows_to_send": rows}


def trim(ledger: Ledger, days: float) -> dict[str, int]:
    """Forget payloads of what was finished so many days ago, and the attempts and runs since.

    Keys and hashes stay, so that nothing is sent again. Values of a row that the destination still
    has stay, too: without them no change could be shown, and no audience be left.
    """
    if days <= 0:
        raise LedgerError("the ledger's retention must be more than 0 days")
    parameters = {"before": datetime.now().astimezone() - timedelta(days=days)}
    counts = {}
    for name, statement in (
        ("payloads", _TRIM_PAYLOADS),
        ("attempts", _TRIM_ATTEMPTS),
        ("runs", _TRIM_RUNS),
    ):
        with ledger.engine.begin() as connection:
            counts[name] = connection.execute(sa.text(statement), parameters).rowcount
    return counts


def _of(key: str | None) -> list[sa.ColumnElement[bool]]:
    if key is None:
        return []
    return [
        sa.or_(actions.c.row_key == key, actions.c.customer_id == key, actions.c.action_key == key)
    ]


def _rows(ledger: Ledger, query: sa.Executable) -> list[dict[str, Any]]:
    with ledger.engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


_STATES = """
select
    sync, state, count(*) as actions,
    count(*) filter (where state in ('planned', 'retrying') and next_attempt_at <= now()) as due,
    min(next_attempt_at) filter (where state in ('planned', 'retrying')) as next_due_at
from actions
group by sync, state
order by sync, state
"""

_LAST_RUNS = """
select distinct on (sync) sync, destination, sandbox, status, message, counts, finished_at
from sync_runs
order by sync, run_id desc
"""

_HELD = """
select lane, held_until, failed
from lanes
where held_until > now()
order by lane
"""

_RESTORED_MESSAGES = """
update actions set
    state = 'unknown', reason = 'the ledger was restored from a backup', next_attempt_at = null,
    updated_at = now()
where mode = 'message' and state in ('planned', 'retrying', 'sending', 'rejected')
"""

# Without hashes every row differs from what the model says, and is sent or taken back anew.
_RESTORED_ROWS = """
update actions set
    state = case when state = 'sending' then 'retrying' else state end,
    next_attempt_at = case when state = 'sending' then now() else next_attempt_at end,
    payload_hash = '', delivered_hash = null, held = true, leave = false, updated_at = now()
where mode <> 'message' and state <> 'waived'
"""

_TRIM_PAYLOADS = """
update actions set
    payload = null,
    delivered_payload = case when held and mode <> 'message' then delivered_payload end
where payload is not null and updated_at < :before
    and (
        mode = 'message' and state not in ('planned', 'retrying', 'sending')
        or mode <> 'message' and state = 'delivered'
        or mode <> 'message' and state = 'suppressed' and payload_hash = '' and not held
    )
"""

_TRIM_ATTEMPTS = "delete from attempts where finished_at < :before"

# The last run's row count is what the next one is compared with.
_TRIM_RUNS = """
delete from sync_runs
where finished_at < :before
    and run_id not in (
        select max(run_id) from sync_runs where counts ? 'rows' group by sync
    )
    and run_id not in (select max(run_id) from sync_runs group by sync)
"""
