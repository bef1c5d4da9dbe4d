"""All that is known of one customer, now or as of a moment: `signalbox customer`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FIND = """
select customer_id from identity_map
where customer_id = $id or id_key = $id or id_value = $id or id_value = lower($id)
order by customer_id = $id desc, kind_rank limit 1
"""
WHO = "select * exclude (customer_id) from customers where customer_id = $customer"
IDS = """
select id_kind as kind, id_value as value, first_mentioned_at as since, is_shared
from identity_map where customer_id = $customer and first_mentioned_at <= $moment
order by kind_rank, first_mentioned_at, id_key
"""
MERGES = """
select merged_at, reason from identity_merges
where into_customer_id = $customer and merged_at <= $moment order by merged_at, merged_id_key
"""
ACCOUNTS = """
select accounts.name, account_id, role, joined_at
from account_members left join accounts using (account_id)
where customer_id = $customer and joined_at <= $moment order by joined_at, account_id
"""
# The reasons are kept for the latest day alone; earlier days have the score.
SCORE = """
select daily.as_of_date, daily.churn_score, daily.churn_band, reason_1, reason_2, reason_3
from churn_scores_daily as daily
left join churn_scores as latest using (customer_id, as_of_date)
where customer_id = $customer and as_of_date <= cast($moment as date)
order by as_of_date desc limit 1
"""
SEGMENTS = """
select segment, entered_at, reason from segment_membership
where customer_id = $customer and entered_at <= cast($moment as date)
    and coalesce(exited_at > cast($moment as date), true)
order by entered_at, segment
"""
EVENTS = """
select event_number as step, event_at, event, type, session_number, session_id, channel, device,
    source, page_path, properties, received_at
from customer_timeline where customer_id = $customer and event_at <= $moment
order by event_number
"""
SIGNALS = """
select fired_at, signal, trigger_id, expires_at, payload from signals
where customer_id = $customer and fired_at <= $moment order by fired_at, signal, trigger_id
"""
ACTIONS = """
select coalesce(delivered_at, sent_at, updated_at) as acted_at, sync, mode, state, reason, policy
from sync_results
where customer_id = $customer and coalesce(delivered_at, sent_at, updated_at) <= $moment
order by acted_at, sync
"""
# Built by jobs of their own, which may not have run yet.
MAY_BE_MISSING = {"actions"}


def find(connection: DuckDBPyConnection, known_by: str) -> str | None:
    """The customer id of whoever is known by this customer id, user id, device or email."""
    row = connection.execute(FIND, {"id": known_by}).fetchone()
    return str(row[0]) if row else None


def story(
    connection: DuckDBPyConnection, customer_id: str, moment: datetime | None = None
) -> dict[str, Any]:
    """What had happened to a customer by a moment, and what was made of it.

    Args:
        connection: with the models in its search path.
        customer_id: from `find`.
        moment: by when; now, if left out. Events count by the time they happened, and identity
            by the time an id was first seen; `received_later` says how many of the events had not
            arrived by then.

    Returns:
        customer_id, as_of, customer (traits; the latest known), ids, merges, accounts, score (or
        None), segments, events, signals, actions, received_later.
    """
    import duckdb

    until = moment or datetime.now(UTC)

    def rows(query: str) -> list[dict[str, Any]]:
        names = {"customer": customer_id} | ({"moment": until} if "$moment" in query else {})
        result = connection.execute(query, names)
        assert result.description is not None
        columns = [name for name, *_ in result.description]
        return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]

    parts: dict[str, list[dict[str, Any]]] = {}
    queries = {
        "ids": IDS, "merges": MERGES, "accounts": ACCOUNTS, "segments": SEGMENTS,
        "events": EVENTS, "signals": SIGNALS, "actions": ACTIONS,
    }  # fmt: skip
    for name, query in queries.items():
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
    return {
        "customer_id": customer_id,
        "as_of": until,
        "customer": next(iter(rows(WHO)), {}),
        "score": next(iter(rows(SCORE)), None),
        **parts,
        "received_later": sum(event["received_at"] > until for event in parts["events"]),
    }
