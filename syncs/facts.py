"""What policies need to know of customers, read from the warehouse at the moment of sending."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa

from syncs.policies import UTC_ZONE, Facts, Policies, time_zone


class Recipient(NamedTuple):
    """To whom an action goes. `address` is null where the channel has none."""

    action_key: str
    customer_id: str | None
    address: str | None = None


_RECIPIENTS = pa.schema({name: pa.string() for name in Recipient._fields})

#: Facts about these recipients, as far as the policies need them. May raise: nothing is sent then.
ReadFacts = Callable[[Policies, Sequence[Recipient]], Facts]


def needs_facts(policies: Policies) -> bool:
    """Whether anything must be read from the warehouse before sending."""
    return bool(policies.consent or policies.channel or policies.quiet_hours)


class LakeFacts:
    """Reads facts from the models customer_consents, suppressions and customers.

    `connect` gives a connection for the calling thread; it is closed after use. `schema` is where
    the models are. `fallback` is the time zone of customers who told none.
    """

    def __init__(
        self,
        connect: Callable[[], duckdb.DuckDBPyConnection],
        schema: str = "lake.main",
        fallback: ZoneInfo = UTC_ZONE,
    ) -> None:
        self._connect = connect
        self._schema = schema
        self._fallback = fallback

    def __call__(self, policies: Policies, recipients: Sequence[Recipient]) -> Facts:
        """Raises duckdb.Error when a model is missing or cannot be read."""
        connection = self._connect()
        try:
            # As a table: DuckDB is slow at taking long lists.
            rows = [recipient._asdict() for recipient in recipients]
            connection.register("recipients", pa.Table.from_pylist(rows, _RECIPIENTS))
            return Facts(
                consented=self._consented(connection, policies.consent),
                listed=self._listed(connection, policies.channel),
                time_zones=self._time_zones(connection) if policies.quiet_hours else {},
                time_zone=self._fallback,
            )
        finally:
            connection.close()

    def _consented(
        self, connection: duckdb.DuckDBPyConnection, purpose: str | None
    ) -> frozenset[str]:
        if purpose is None:
            return frozenset()
        # The newest word counts.
        rows = connection.execute(
            f"select customer_id from {self._schema}.customer_consents"
            " where purpose = $purpose and customer_id in (select customer_id from recipients)"
            " qualify row_number() over (partition by customer_id order by changed_at desc) = 1"
            " and granted",
            {"purpose": purpose},
        ).fetchall()
        return frozenset(str(row[0]) for row in rows)

    def _listed(self, connection: duckdb.DuckDBPyConnection, channel: str | None) -> dict[str, str]:
        if channel is None:
            return {}
        query = _LISTED.format(schema=self._schema)
        rows = connection.execute(query, {"channel": channel}).fetchall()
        return {str(key): str(reason) for key, reason in rows}

    def _time_zones(self, connection: duckdb.DuckDBPyConnection) -> dict[str, ZoneInfo]:
        rows = connection.execute(
            f"select customer_id, timezone from {self._schema}.customers"
            " where timezone is not null"
            " and customer_id in (select customer_id from recipients)"
        ).fetchall()
        zones = {str(customer): time_zone(str(name)) for customer, name in rows}
        return {customer: zone for customer, zone in zones.items() if zone is not None}


# Addresses are brought to one form as the macro `normalised_address` does it in the model.
_LISTED = """
with addressed as (
    select
        action_key,
        customer_id,
        case
            when $channel = 'sms' then translate(address, ' -().', '')
            else lower(trim(address))
        end as address
    from recipients
),

entries as (
    select customer_id, address, reason, since
    from {schema}.suppressions
    where channel = $channel
),

found as (
    select addressed.action_key, entries.reason, entries.since
    from addressed
    inner join entries on addressed.address = entries.address
    union all
    select addressed.action_key, entries.reason, entries.since
    from addressed
    inner join entries on addressed.customer_id = entries.customer_id
)

select action_key, arg_max(reason, since)
from found
group by action_key
"""
