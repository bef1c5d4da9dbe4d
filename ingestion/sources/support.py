"""Support tickets as they stand now, from a Zendesk-like API, to `raw.support_tickets`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson

from ingestion.destination import Lake
from ingestion.sources.http import Api, parse_time
from ingestion.sources.load import SourceResult, load_source

PIPELINE = "support"
PAGE_ROWS = 100


def tickets(
    base_url: str, token: str, updated_since: datetime | None = None
) -> Iterator[dict[str, Any]]:
    """Every ticket changed at or after `updated_since`, as a row of `raw.support_tickets`.

    A ticket that changes while we read can come twice; the later answer is the newer one.

    Raises:
        SourceError: the API refuses, cannot be reached, or answers nonsense.
    """
    api = Api("help desk", base_url, token, "SIGNALBOX_SUPPORT")
    parameters = {"page[size]": str(PAGE_ROWS)}
    if updated_since is not None:
        parameters["updated_since"] = updated_since.isoformat().replace("+00:00", "Z")
    while True:
        page = api.get("/api/v2/tickets", parameters)
        with api.understanding():
            rows = [_row(ticket) for ticket in page["tickets"]]
            more = page["meta"]["has_more"]
            after = str(page["meta"].get("after_cursor") or "")
        yield from rows
        if not more or not after or after == parameters.get("page[after]"):
            return
        parameters["page[after]"] = after


def load_support(lake: Lake, base_url: str, token: str, *, full: bool = False) -> SourceResult:
    """Merge new and changed tickets into `raw.support_tickets`, in one commit.

    Asks only for what changed since the newest ticket in the table, which is answered again; with
    `full` for everything. The caller holds the lake's writer lock.

    Raises:
        SourceError: the help desk cannot be read; the table stays as it was.
        LoadError: the lake cannot be written; the table stays as it was.
    """
    with lake.connect() as connection:
        newest = connection.execute(
            "select max(updated_at) from lake.raw.support_tickets"
        ).fetchone()
    since = None if full or newest is None else newest[0]
    rows = tickets(base_url, token, since)
    return load_source(lake, PIPELINE, "support_tickets", rows, key="ticket_id")


def _row(ticket: dict[str, Any]) -> dict[str, Any]:
    return {
        "ticket_id": str(ticket["id"]),
        "requester_email": _requester_email(ticket),
        "subject": ticket.get("subject"),
        "status": ticket.get("status"),
        "priority": ticket.get("priority"),
        "created_at": parse_time(ticket.get("created_at")),
        "updated_at": parse_time(ticket.get("updated_at")),
        "payload": orjson.dumps(ticket).decode(),
    }


def _requester_email(ticket: dict[str, Any]) -> str | None:
    requester = ticket.get("requester")
    nested = requester.get("email") if isinstance(requester, dict) else None
    email = ticket.get("requester_email") or nested
    return email if isinstance(email, str) else None
