"""One customer's rows of a sync as they would be sent now, and what speaks against it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import msgspec
import sqlalchemy as sa

from syncs.claims import Action, History
from syncs.destinations import Destination
from syncs.ledger import Ledger
from syncs.plan import KNOWN_SCHEMA, plan_sync
from syncs.policies import Verdict
from syncs.results import Rejected, Target
from syncs.rules import Rules
from syncs.sending import row_of
from syncs.spec import SyncSpec
from syncs.tables import WAITING, actions


class Sample(msgspec.Struct, kw_only=True):
    """A row as the destination would get it.

    `verdict` is what would happen now: send; later (until), suppressed or expired by a policy;
    rejected where it cannot be made into a message; settled where the ledger says that it left, or
    was judged before, and unchanged where the destination has these values. `ledger` is what has
    become of the same action: state, policy, reason, sent_at, delivered_at, next_attempt_at; None
    when it is new.
    """

    key: str
    customer_id: str | None
    trigger_id: str | None
    fields: dict[str, Any]
    headers: dict[str, str] = {}
    subject: str | None = None
    text: str | None = None
    html: str | None = None
    verdict: str = "send"
    policy: str | None = None
    reason: str | None = None
    until: datetime | None = None
    ledger: dict[str, Any] | None = None


def samples_of(
    ledger: Ledger,
    spec: SyncSpec,
    destination: Destination,
    target: Target[Any],
    rules: Rules,
    connection: duckdb.DuckDBPyConnection,
    customer_id: str,
) -> list[Sample]:
    """Every row that the sync model has for a customer, the newest trigger last.

    Nothing is sent and nothing is written. Raises PlanError when the model cannot be read, Paused
    when a fact that decides cannot be, Fatal for a broken template.
    """
    now = datetime.now(UTC)
    rows = _rows(ledger, spec, connection, customer_id, now)
    due = [
        Action(
            row["action_key"],
            row["row_key"],
            row["customer_id"],
            row["payload_hash"],
            msgspec.json.decode(row["payload"]),
            0,
            row["expires_at"],
            row["event_at"],
        )
        for row in rows
    ]
    keys = [action.action_key for action in due]

    def look_back(since: datetime) -> History:
        return ledger.history(spec.name, spec.policies, [customer_id], since, but=keys)

    verdicts = rules.judge(due, look_back, now)
    known = _known(ledger, keys)
    samples = []
    for row, action in zip(rows, due, strict=True):
        sample = Sample(
            key=action.row_key,
            customer_id=action.customer_id,
            trigger_id=row["trigger_id"],
            fields={name: action.payload[name] for name in spec.fields},
            ledger=known.get(action.action_key),
        )
        _render(sample, spec, destination, target, action)
        if row["change"] == "suppressed":
            verdict: Verdict | None = Verdict("suppressed", "ledger_began", row["reason"])
        else:
            verdict = verdicts.get(action.action_key)
        if verdict is not None:
            sample.verdict, sample.policy, sample.reason, sample.until = verdict
        if settled := _settled(spec, sample.ledger, row["payload_hash"]):
            sample.verdict, sample.policy, sample.reason, sample.until = settled, None, None, None
        samples.append(sample)
    return samples


def _rows(
    ledger: Ledger,
    spec: SyncSpec,
    connection: duckdb.DuckDBPyConnection,
    customer_id: str,
    now: datetime,
) -> list[dict[str, Any]]:
    column = "customer_id" if spec.has("customer_id") else spec.key
    value = customer_id.replace("'", "''")
    # As if the ledger knew nothing: what it knows is told beside the message.
    plain = spec if spec.is_message else msgspec.structs.replace(spec, mode="upsert")
    plan = plan_sync(
        connection,
        plain,
        KNOWN_SCHEMA.empty_table(),
        now=now,
        began_at=ledger.began_at(),
        relation=f"""(select * from {spec.relation} where "{column}" = '{value}')""",
    )
    try:
        rows = list(plan.rows())
    finally:
        plan.close()
    return sorted(rows, key=lambda row: (row["event_at"] or now, row["row_key"]))


def _render(
    sample: Sample,
    spec: SyncSpec,
    destination: Destination,
    target: Target[Any],
    action: Action,
) -> None:
    try:
        row = row_of(
            spec,
            destination,
            target,
            action.action_key,
            action.row_key,
            action.payload,
            action.customer_id,
            action.event_at,
        )
        if row.message is not None:
            sample.subject, sample.text, sample.html = (
                row.message.subject,
                row.message.text,
                row.message.html,
            )
            if destination.headers is not None:
                sample.headers = destination.headers(row, target.settings)
    except Rejected as error:
        sample.verdict, sample.reason = "rejected", str(error)


def _settled(spec: SyncSpec, known: dict[str, Any] | None, payload_hash: str) -> str | None:
    """Why there is nothing left to judge, if there is not."""
    if known is None or known["state"] in WAITING:
        return None
    if spec.is_message:
        return "settled"
    return "unchanged" if known.get("delivered_hash") == payload_hash else None


def _known(ledger: Ledger, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    told = (
        "state", "policy", "reason", "sent_at", "delivered_at", "next_attempt_at", "delivered_hash",
    )  # fmt: skip
    query = sa.select(actions.c.action_key, *(actions.c[name] for name in told)).where(
        actions.c.action_key == sa.any_(sa.cast(list(keys), sa.ARRAY(sa.Text)))
    )
    with ledger.engine.connect() as connection:
        return {row[0]: dict(zip(told, row[1:], strict=True)) for row in connection.execute(query)}
