"""What is due: the sync model against the ledger, in SQL. Reads both, changes neither."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from syncs.results import Fatal
from syncs.spec import SyncSpec

#: Columns of `Plan.changes`: what is to be done, and everything the ledger keeps about it.
CHANGE_COLUMNS = (
    "change",
    "action_key",
    "row_key",
    "customer_id",
    "trigger_id",
    "payload_hash",
    "payload",
    "expires_at",
    "event_at",
    "reason",
)

#: Below this many delivered rows a large share of changes is nothing unusual.
BLAST_MINIMUM = 100

#: Where the destination's own keys can be read, for `update_only`.
KNOWN_CONTACTS = "lake.raw.crm_contacts"

_TIMESTAMP = "'%Y-%m-%dT%H:%M:%S.%gZ'"


class PlanError(Fatal):
    """The sync model's rows cannot be planned; the message says what is wrong with them."""


@dataclass(frozen=True)
class Plan:
    """What one run of a sync would change in the ledger.

    `changes` has CHANGE_COLUMNS; its `change` is create, update, revert or gone for state rows,
    and message, expired or suppressed for messages. `counts` also has what needs nothing:
    unchanged, waiting, in_flight, rejected, suppressed, known, skipped. `blocked` is the reason
    why nothing of it may be sent without approval.
    """

    sync: str
    changes: pa.Table
    counts: dict[str, int] = field(default_factory=dict)
    blocked: str | None = None

    def count(self, change: str) -> int:
        return self.counts.get(change, 0)

    def rows(self, *changes: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Rows of these kinds as dicts of CHANGE_COLUMNS, at most `limit`."""
        left = limit
        for batch in self.changes.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                if row["change"] in changes:
                    if left is not None and left <= 0:
                        return
                    if left is not None:
                        left -= 1
                    yield row


def plan_sync(
    connection: duckdb.DuckDBPyConnection,
    spec: SyncSpec,
    known: pa.Table,
    *,
    now: datetime,
    began_at: datetime,
    relation: str | None = None,
    known_contacts: str = KNOWN_CONTACTS,
) -> Plan:
    """Compare the sync model with `known` (`Ledger.known`) and say what is to be done.

    `began_at` is the ledger's beginning: an older trigger may have been sent from a ledger that is
    lost, so it is suppressed. Raises PlanError.
    """
    cursor = connection.cursor()
    try:
        cursor.register("signalbox_known", known)
        source = relation or spec.relation
        try:
            query = _query(spec, source, _types(cursor, spec, source), known_contacts)
            parameters = {"now": now, "began_at": began_at} if spec.is_message else {}
            cursor.execute(f"create temporary table signalbox_plan as {query}", parameters)
        except duckdb.Error as error:
            # Only the kind and the first line: a cast error's text quotes the value.
            kind = type(error).__name__
            hint = (
                str(error).partition("\n")[0] if kind in _SAFE_ERRORS else "see the model's query"
            )
            raise PlanError(f"{spec.model} cannot be read: {kind}: {hint}") from None
        _check_unique(cursor, spec)
        found = cursor.execute(
            "select change, count(*) from signalbox_plan group by change"
        ).fetchall()
        counts = {str(change): int(count) for change, count in found}
        changes = cursor.execute(
            f"select {', '.join(CHANGE_COLUMNS)} from signalbox_plan"
            " where change in ('create', 'update', 'revert', 'gone',"
            " 'message', 'expired', 'suppressed') and not settled"
        ).to_arrow_table()
        delivered = cursor.execute(
            "select count(*) from signalbox_known where was_delivered"
        ).fetchone()
        assert delivered is not None
    finally:
        cursor.close()
    return Plan(spec.name, changes, counts, _blast(spec, counts.get("update", 0), delivered[0]))


_SAFE_ERRORS = {"CatalogException", "BinderException", "ParserException"}


def _types(cursor: duckdb.DuckDBPyConnection, spec: SyncSpec, relation: str) -> dict[str, str]:
    """Column types of the sync model. Raises PlanError when a declared column is not there."""
    described = cursor.execute(f"describe select * from {relation}").fetchall()
    types = {str(row[0]): str(row[1]).upper() for row in described}
    missing = [column for column in spec.columns if column not in types]
    if missing:
        raise PlanError(
            f"{spec.model}: the table has no column {', '.join(missing)}; build the model again"
        )
    return types


def _query(spec: SyncSpec, relation: str, types: dict[str, str], known_contacts: str) -> str:
    def text(column: str) -> str:
        return f"replace(cast({_quoted(column)} as varchar), chr(0), '')"

    def moment(column: str) -> str:
        if column not in types or not spec.has(column):
            return "cast(null as timestamptz)"
        name = _quoted(column)
        zoned = types[column] == "TIMESTAMP WITH TIME ZONE"
        return name if zoned else f"cast({name} as timestamp) at time zone 'UTC'"

    # Sorted, so that moving a column in the model changes no hash.
    fields = ", ".join(
        f"{_quoted(column)} := {_value(_quoted(column), types[column])}"
        for column in sorted(spec.fields)
    )
    customer = text("customer_id") if spec.has("customer_id") else "cast(null as varchar)"
    trigger = text("trigger_id") if spec.is_message else "cast(null as varchar)"
    parts = ("customer_id", "trigger_id") if spec.is_message else ("row_key",)
    name = _literal(spec.name)
    identity = (
        "concat("
        + ", ".join(
            [f"strlen({name})", "':'", name]
            + [piece for part in parts for piece in (f"strlen({part})", "':'", part)]
        )
        + ")"
    )
    complete = " and ".join(f"{part} is not null" for part in {*parts, "row_key"})
    expires = moment("expires_at")
    if spec.policies.expires_after is not None:
        seconds = int(spec.policies.expires_after.total_seconds())
        expires = f"least({expires}, {moment('fired_at')} + to_seconds({seconds}))"
    model_rows = f"""
with model as (
    select
        {text(spec.key)} as row_key,
        {customer} as customer_id,
        {trigger} as trigger_id,
        {moment("fired_at")} as event_at,
        {expires} as expires_at,
        cast(to_json(struct_pack({fields})) as varchar) as payload
    from {relation}
),

model_rows as (
    select *, {complete} as complete, sha256({identity}) as action_key,
        sha256(payload) as payload_hash
    from model
)
"""
    if spec.is_message:
        return model_rows + _MESSAGES
    only_known = ""
    if spec.mode == "update_only":
        only_known = (
            f"and lower(m.row_key) in (select lower(email) from {known_contacts}"
            " where email is not null and not coalesce(archived, false))"
        )
    return model_rows + _STATES.replace("/* only known */", only_known)


_STATES = """
select
    case
        when not m.complete then 'skipped'
        when k.action_key is null then 'create'
        when k.state = 'sending' then 'in_flight'
        when k.payload_hash = m.payload_hash then
            case k.state
                when 'delivered' then 'unchanged'
                when 'rejected' then 'rejected'
                when 'suppressed' then 'suppressed'
                else 'waiting'
            end
        when k.delivered_hash = m.payload_hash then 'revert'
        when k.was_delivered then 'update'
        else 'create'
    end as change,
    m.action_key, m.row_key, m.customer_id, m.trigger_id, m.payload_hash, m.payload,
    m.expires_at, m.event_at, cast(null as varchar) as reason,
    change in ('rejected', 'suppressed') as settled
from model_rows m
left join signalbox_known k on m.action_key = k.action_key
where true /* only known */

union all by name

select
    'gone' as change, k.action_key, k.row_key, k.payload_hash, '{}' as payload,
    false as settled
from signalbox_known k
where k.state in ('planned', 'retrying', 'rejected')
    and k.action_key not in (select m.action_key from model_rows m where m.complete)
"""

_MESSAGES = """
select
    case
        when not m.complete then 'skipped'
        when k.action_key is not null then 'known'
        when m.expires_at <= $now then 'expired'
        when m.event_at < $began_at then 'suppressed'
        else 'message'
    end as change,
    m.action_key, m.row_key, m.customer_id, m.trigger_id, m.payload_hash, m.payload,
    m.expires_at, m.event_at,
    case change
        when 'expired' then 'expired before it was planned'
        when 'suppressed' then 'fired before this ledger began'
    end as reason,
    false as settled
from model_rows m
left join signalbox_known k on m.action_key = k.action_key
qualify
    not m.complete
    or row_number() over (partition by m.action_key order by m.payload_hash) = 1
"""


def _value(name: str, column_type: str) -> str:
    """A column as it goes into the payload: the same text for the same value, always valid JSON."""
    if column_type == "VARCHAR":
        return f"replace({name}, chr(0), '')"
    if column_type == "JSON":
        return f"cast({name} as varchar)"
    if column_type in ("FLOAT", "DOUBLE"):
        return f"case when isfinite({name}) then {name} end"
    if column_type == "TIMESTAMP WITH TIME ZONE":
        return f"strftime({name} at time zone 'UTC', {_TIMESTAMP})"
    if column_type.startswith("TIMESTAMP"):
        return f"strftime(cast({name} as timestamp), {_TIMESTAMP})"
    if column_type == "DATE":
        return f"strftime({name}, '%Y-%m-%d')"
    return name


def _check_unique(cursor: duckdb.DuckDBPyConnection, spec: SyncSpec) -> None:
    if spec.is_message:
        return
    row = cursor.execute(
        "select count(*) - count(distinct action_key) from signalbox_plan"
        " where change <> 'skipped' and change <> 'gone'"
    ).fetchone()
    if row is not None and row[0]:
        raise PlanError(
            f"{spec.model}: {row[0]} rows repeat a value of the key {spec.key!r}; which one would "
            "win is chance, so nothing is sent (add a unique test to the model)"
        )


def _blast(spec: SyncSpec, changed: int, delivered: int) -> str | None:
    if spec.max_change_ratio is None or delivered < BLAST_MINIMUM:
        return None
    if changed <= spec.max_change_ratio * delivered:
        return None
    return (
        f"{changed} of {delivered} delivered rows would change ({changed / delivered:.0%}, allowed "
        f"{spec.max_change_ratio:.0%}): nothing is sent. Look with `signalbox sync {spec.name} "
        f"--dry-run`, then approve with `signalbox sync {spec.name} --approve`"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
