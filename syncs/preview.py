"""What a dry run shows: the plan with its values, its messages rendered, and what policies say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from syncs.claims import Action, History
from syncs.destinations import Destination
from syncs.ledger import Ledger
from syncs.plan import Plan
from syncs.policies import Verdict
from syncs.report import Preview
from syncs.rules import Rules
from syncs.sending import row_of
from syncs.spec import SyncSpec


def preview_of(
    ledger: Ledger, spec: SyncSpec, destination: Destination, plan: Plan, rules: Rules
) -> Preview:
    states = ledger.counts(spec.name)
    preview = Preview(
        expired=plan.count("expired"),
        unchanged=plan.count("unchanged"),
        waiting=states.get("planned", 0) + states.get("retrying", 0),
        suppressed=[
            {"key": row["row_key"], "reason": row["reason"]} for row in plan.rows("suppressed")
        ],
    )
    going = list(plan.rows("create", "update", "message"))
    verdicts = _verdicts(ledger, rules, going)
    for row in going:
        if verdict := verdicts.get(row["action_key"]):
            kept_back = preview.postponed if verdict.state == "later" else preview.suppressed
            kept_back.append({"key": row["row_key"], **verdict._asdict()})
    going = [row for row in going if row["action_key"] not in verdicts]
    updated = [row["action_key"] for row in going if row["change"] == "update"]
    held = ledger.delivered_payloads(updated) if updated else {}
    for row in going:
        payload = msgspec.json.decode(row["payload"])
        fields = {name: payload[name] for name in spec.fields}
        if row["change"] == "create":
            preview.creates.append({"key": row["row_key"], "fields": fields})
        elif row["change"] == "update":
            old = held.get(row["action_key"], {})
            changed = {
                name: [old.get(name), value]
                for name, value in fields.items()
                if old.get(name) != value
            }
            preview.updates.append({"key": row["row_key"], "changes": changed})
        else:
            preview.messages.append(_message_preview(spec, destination, row, fields))
    return preview


def _verdicts(
    ledger: Ledger, rules: Rules, going: Sequence[Mapping[str, Any]]
) -> dict[str, Verdict]:
    """What the policies would say of a plan's rows if they were sent now."""
    if not rules.spec.is_message and rules.spec.policies.consent is None:
        return {}
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
        for row in going
    ]
    customers = sorted({action.customer_id for action in due if action.customer_id is not None})

    def look_back(since: datetime) -> History:
        return ledger.history(rules.spec.name, rules.spec.policies, customers, since)

    return rules.judge(due, look_back, datetime.now(UTC))


def _message_preview(
    spec: SyncSpec, destination: Destination, row: dict[str, Any], fields: dict[str, Any]
) -> dict[str, Any]:
    rendered = row_of(
        spec,
        destination,
        row["action_key"],
        row["row_key"],
        fields,
        row["customer_id"],
        row["event_at"],
    ).message
    return {
        "customer_id": row["customer_id"],
        "trigger_id": row["trigger_id"],
        "expires_at": row["expires_at"].isoformat() if row["expires_at"] else None,
        "fields": fields,
        "subject": rendered.subject if rendered else None,
        "text": rendered.text if rendered else None,
        "html": rendered.html if rendered else None,
    }
