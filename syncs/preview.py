"""What a dry run shows: the plan with its values, its messages rendered, and what policies say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec

from syncs.claims import Action, History
from syncs.destinations import Destination
from syncs.ledger import Ledger
from syncs.plan import Plan
from syncs.report import Preview
from syncs.results import Target
from syncs.rules import Rules
from syncs.sending import row_of
from syncs.spec import SyncSpec
from syncs.tables import WAITING

#: Rows of each kind that a preview shows if it is not told how many.
SHOWN = 1_000

_CHUNK = 1_000


def preview_of(
    ledger: Ledger,
    spec: SyncSpec,
    destination: Destination,
    target: Target[Any],
    plan: Plan,
    rules: Rules,
    *,
    limit: int | None = None,
) -> Preview:
    """The plan as it would be carried out now: all of it counted, `limit` rows of each kind shown.

    Raises Paused when a fact that decides cannot be read.
    """
    limit = SHOWN if limit is None else limit
    states = ledger.counts(spec.name)
    preview = Preview(
        writes=plan.count("create", "update", "resend"),
        leaves=plan.count("leave"),
        messages_due=plan.count("message"),
        expired=plan.count("expired"),
        unchanged=plan.count("unchanged", "already_there"),
        waiting=sum(states.get(state, 0) for state in WAITING),
        suppressed=[
            {"key": row["row_key"], "policy": "ledger_began", "reason": row["reason"]}
            for row in plan.rows("suppressed", limit=limit)
        ],
    )
    # Of state rows, the plan counts as suppressed what an earlier run held back.
    if count := plan.count("suppressed"):
        preview.held_back["ledger_began"] = count
    if count := plan.count("no_consent"):
        preview.held_back["consent"] = count
        reason = f"no consent for {spec.policies.consent}"
        preview.suppressed += [
            {"key": row["row_key"], "policy": "consent", "reason": reason}
            for row in plan.rows("no_consent", limit=limit)
        ]
    if spec.is_message:
        # All at once, since each counts for the caps of those after it.
        going = _allowed(ledger, rules, list(plan.rows("message")), preview, limit)
        preview.messages_due = len(going)
        preview.messages = [
            _message_preview(spec, destination, target, row) for row in going[:limit]
        ]
        return preview
    judged = rules.spec.policies.consent is not None and spec.mode != "mirror"
    for kind in ("create", "update", "resend"):
        rows = plan.rows(kind, limit=None if judged else limit)
        while chunk := list(islice(rows, _CHUNK)):
            going = _allowed(ledger, rules, chunk, preview, limit) if judged else chunk
            preview.writes -= len(chunk) - len(going)
            if kind == "create":
                room = limit - len(preview.creates)
                preview.creates += [_create(spec, row) for row in going[:room]]
            else:
                room = limit - len(preview.updates)
                preview.updates += _updates(ledger, spec, going[:room])
    leaving = [row["action_key"] for row in plan.rows("leave", limit=limit)]
    preview.removals = [
        {"key": key, "fields": fields} for key, fields in ledger.held_rows(leaving).values()
    ]
    return preview


def _create(spec: SyncSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"key": row["row_key"], "fields": _fields(spec, row)}


def _updates(
    ledger: Ledger, spec: SyncSpec, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Old and new value of what differs; of a row that is sent again unchanged, nothing."""
    held = ledger.held_rows([row["action_key"] for row in rows])
    found = []
    for row in rows:
        _, old = held.get(row["action_key"], ("", {}))
        changes = {
            name: [old.get(name), value]
            for name, value in _fields(spec, row).items()
            if old.get(name) != value
        }
        found.append({"key": row["row_key"], "changes": changes})
    return found


def _fields(spec: SyncSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    payload = msgspec.json.decode(row["payload"])
    return {name: payload[name] for name in spec.fields}


def _allowed(
    ledger: Ledger,
    rules: Rules,
    rows: Sequence[dict[str, Any]],
    preview: Preview,
    limit: int,
) -> list[dict[str, Any]]:
    """The rows that the policies would let through now; notes the others in the preview."""
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
    customers = sorted({action.customer_id for action in due if action.customer_id is not None})

    def look_back(since: datetime) -> History:
        return ledger.history(rules.spec.name, rules.spec.policies, customers, since)

    verdicts = rules.judge(due, look_back, datetime.now(UTC))
    for action in due:
        if verdict := verdicts.get(action.action_key):
            later = verdict.state == "later"
            counts = preview.put_off if later else preview.held_back
            counts[verdict.policy] = counts.get(verdict.policy, 0) + 1
            shown = preview.postponed if later else preview.suppressed
            if len(shown) < limit:
                shown.append({"key": action.row_key, **verdict._asdict()})
    return [row for row in rows if row["action_key"] not in verdicts]


def _message_preview(
    spec: SyncSpec, destination: Destination, target: Target[Any], row: Mapping[str, Any]
) -> dict[str, Any]:
    fields = _fields(spec, row)
    rendered = row_of(
        spec,
        destination,
        target,
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
