"""All that is known of one customer, or was known at a moment: `signalbox customer`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from orchestration.settings import Settings

FIND = """
select customer_id, id_key from identity_map
where customer_id = $id or id_key = $id or id_value = $id or id_value = lower($id)
order by solo_customer_id = $id desc, customer_id = $id desc, id_key = $id desc, kind_rank, id_key
limit 1
"""
# A state of one customer is three tables. These tell it by when things happened, from all that is
# known today; the project's macros tell it as it was known then.
HAPPENED = {
    "story_ids": """
        select * from identity_map
        where customer_id = $customer and first_mentioned_at <= $moment
    """,
    "story_traits": "select * from customers where customer_id = $customer",
    "story_timeline": """
        select * from customer_timeline where customer_id = $customer and event_at <= $moment
    """,
}
MACROS = {
    "story_ids": "identity_as_of('$moment', '$id_key')",
    "story_traits": "customers_as_of('$moment', '$id_key')",
    "story_timeline": "timeline_as_of('$moment', '$id_key')",
    "known": "known_log_seq('$moment')",
}
# Today's ids of the customer that were known then, the one asked for first.
KNOWN_IDS = """
select mentions.id_key from identity_mentions as mentions
inner join identity_map using (id_key)
where identity_map.customer_id = $customer and mentions.log_seq <= ({known})
group by mentions.id_key
order by max(mentions.id_key = $id_key) desc, min(mentions.kind_rank), mentions.id_key
"""
IDS = """
select id_kind as kind, id_value as value, first_mentioned_at as since, is_shared from story_ids
order by kind_rank, first_mentioned_at, id_key
"""
TRAITS = "select * exclude (customer_id) from story_traits"
EVENTS = """
select event_number as step, event_at, event, type, session_number, session_id, channel, device,
    source, page_path, properties, received_at
from story_timeline order by event_number
"""
MERGES = """
select merged_at, reason from identity_merges
where merged_id_key in (select id_key from story_ids) and merged_at <= $moment
    and seen_with_id_key in (select id_key from story_ids)
order by merged_at, merged_id_key
"""
# Who holds these ids today, and is therefore the one of whom the other models tell.
TODAY = """
create or replace temporary table story_today as
select distinct customer_id from identity_map
where customer_id = $customer or id_key in (select id_key from story_ids)
"""
LATER = """
select count(*) from customer_timeline
where customer_id in (from story_today) and event_at <= $moment
    and event_id not in (select event_id from story_timeline)
"""
ACCOUNTS = """
select accounts.name, account_id, role, joined_at
from account_members left join accounts using (account_id)
where customer_id in (from story_today) and joined_at <= $moment order by joined_at, account_id
"""
# The reasons are kept for the latest day alone; earlier days have the score.
SCORE = """
select daily.as_of_date, daily.churn_score, daily.churn_band, reason_1, reason_2, reason_3
from churn_scores_daily as daily
left join churn_scores as latest using (customer_id, as_of_date)
where customer_id in (from story_today) and as_of_date <= cast($moment as date)
order by as_of_date desc, customer_id = $customer desc limit 1
"""
SEGMENTS = """
select segment, entered_at, reason from segment_membership
where customer_id in (from story_today) and entered_at <= cast($moment as date)
    and coalesce(exited_at > cast($moment as date), true)
order by entered_at, segment
"""
SIGNALS = """
select fired_at, signal, trigger_id, expires_at, payload from signals
where customer_id in (from story_today) and fired_at <= $moment
order by fired_at, signal, trigger_id
"""
ACTIONS = """
select coalesce(delivered_at, sent_at, updated_at) as acted_at, sync, mode, state, reason, policy
from sync_results
where customer_id in (from story_today)
    and coalesce(delivered_at, sent_at, updated_at) <= $moment
order by acted_at, sync
"""
PARTS = {
    "ids": IDS, "merges": MERGES, "accounts": ACCOUNTS, "segments": SEGMENTS,
    "events": EVENTS, "signals": SIGNALS, "actions": ACTIONS,
}  # fmt: skip
# Built by jobs of their own, which may not have run yet.
MAY_BE_MISSING = {"actions"}


@dataclass(frozen=True)
class Found:
    """Who is meant: today's customer, and the id by which it was asked for."""

    customer_id: str
    id_key: str


def find(connection: DuckDBPyConnection, known_by: str) -> Found | None:
    """Whoever is known by this customer id, user id, device or email."""
    row = connection.execute(FIND, {"id": known_by}).fetchone()
    return Found(*row) if row else None


def macros(settings: Settings) -> dict[str, str]:
    """SQL that tells a past state as it was known then, for `story`; $moment and $id_key are open.

    Raises:
        DbtFailed: with dbt's words.
    """
    from orchestration import dbt

    return {
        name: dbt.compile_inline(name, "{{ " + call + " }}", settings)
        for name, call in MACROS.items()
    }


def story(
    connection: DuckDBPyConnection,
    who: Found,
    moment: datetime | None = None,
    known: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What had happened to a customer by a moment, and what was made of it.

    Args:
        connection: with the models in its search path.
        who: from `find`.
        moment: by when; now, if left out.
        known: from `macros`: ids, traits and events as they were known then, because they had
            been received. Without it they count by the time they happened, whenever they came,
            and the traits are the latest. What other models tell of that time is always theirs of
            today.

    Returns:
        customer_id (the one of then), as_of, as_known (whether `known` was given), customer
        (traits), ids, apart (today's ids that were known and belonged to others then), merges,
        accounts, score (or None), segments, events, signals, actions, received_later (how many
        events had happened by the moment and were received after it; they are among the events
        only if `known` is not given).
    """
    import duckdb

    until = moment or datetime.now(UTC)
    names = {"customer": who.customer_id, "id_key": who.id_key, "moment": until}

    def run(query: str) -> DuckDBPyConnection:
        return connection.execute(
            query, {name: value for name, value in names.items() if f"${name}" in query}
        )

    def rows(query: str) -> list[dict[str, Any]]:
        result = run(query)
        assert result.description is not None
        columns = [name for name, *_ in result.description]
        return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]

    known_ids: list[str] = []
    if known is not None:
        asked = run(KNOWN_IDS.format(known=known["known"])).fetchall()
        known_ids = [str(id_key) for (id_key,) in asked]
        names["id_key"] = known_ids[0] if known_ids else who.id_key
    for table, query in HAPPENED.items():
        told = known[table] if known is not None else query
        run(f"create or replace temporary table {table} as {told}")
    run(TODAY)
    parts: dict[str, list[dict[str, Any]]] = {}
    for name, query in PARTS.items():
        try:
            parts[name] = rows(query)
        except duckdb.CatalogException:
            if name not in MAY_BE_MISSING:
                raise
            parts[name] = []
    for event in parts["events"]:
        event["properties"] = json.loads(event["properties"] or "{}")
    for signal in parts["signals"]:
        signal["payload"] = json.loads(signal["payload"] or "{}")
    then = {f"{one['kind']}:{one['value']}" for one in parts["ids"]}
    named = run("select any_value(customer_id) from story_ids").fetchone()
    later = run(LATER).fetchone()
    assert named is not None and later is not None
    return {
        "customer_id": named[0] or who.customer_id,
        "as_of": until,
        "as_known": known is not None,
        "customer": next(iter(rows(TRAITS)), {}),
        "score": next(iter(rows(SCORE)), None),
        "apart": [id_key for id_key in known_ids if id_key not in then],
        **parts,
        "received_later": later[0]
        if known is not None
        else sum(event["received_at"] > until for event in parts["events"]),
    }
