"""How long each way from event to action takes, in seconds from when the event was accepted."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from orchestration import lake
from orchestration.settings import Settings

# A load is followed by the first run of each sync that begins after it. What the lake's history
# brought in by import was not waited for.
_MICRO_BATCHES = """
with

loads as (
    select load_id, inserted_at
    from raw._dlt_loads
    where inserted_at > now() - interval 1 hour
),

first_runs as (
    select loads.load_id, runs.sync, min(runs.finished_at) as finished_at
    from loads
    inner join ledger.sync_runs as runs
        on runs.started_at between loads.inserted_at and loads.inserted_at + interval 5 minutes
    group by loads.load_id, runs.sync
),

sent as (
    select load_id, max(finished_at) as finished_at
    from first_runs
    group by load_id
)

select
    date_diff('millisecond', events.received_at, loads.inserted_at) / 1000,
    date_diff('millisecond', events.received_at, sent.finished_at) / 1000
from raw.events as events
inner join loads on events._dlt_load_id = loads.load_id
left join sent on events._dlt_load_id = sent.load_id
where events.source <> 'import' and events.received_at > now() - interval 2 hours
    -- Before it nothing was acted on: the first load and build of a home take as long as they take.
    and events.received_at > (select min(began_at) from ledger.ledger_info)
"""

# What fired long before, as in a late event, was not waited for either.
_MESSAGES = """
select
    sync,
    date_diff('millisecond', event_at, sent_at) / 1000
from ledger.actions
where lane = 'batch' and mode = 'message'
    and sent_at > now() - interval 1 hour and event_at > now() - interval 2 hours
"""


def figures(seconds: Iterable[float | None]) -> dict[str, float | None]:
    """How many there are, and the 50th, 95th and 99th of a hundred; None where there are none."""
    ordered = sorted(value for value in seconds if value is not None)
    shares = {
        f"p{percent}": ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
        if ordered
        else None
        for percent in (50, 95, 99)
    }
    return {"count": len(ordered), **shares}


def micro_batch(settings: Settings) -> dict[str, dict[str, Any]]:
    """Of the last hour's events: accepted to loaded, and to the end of the syncs that followed.

    `messages` has for each sync of messages how long those took, from when their signal fired.
    """
    import duckdb

    rows: list[tuple[float, float | None]] = []
    sent: dict[str, list[float]] = {}
    with lake.connect(settings) as connection:
        lake.attach_ledger(connection, settings)
        with suppress(duckdb.CatalogException):  # nothing was ever loaded
            rows = connection.execute(_MICRO_BATCHES).fetchall()
        for sync, seconds in connection.execute(_MESSAGES).fetchall():
            sent.setdefault(sync, []).append(seconds)
    return {
        "accepted_to_loaded": figures(loaded for loaded, _ in rows),
        "accepted_to_sent": figures(done for _, done in rows),
        "messages": {sync: figures(seconds) for sync, seconds in sorted(sent.items())},
    }
