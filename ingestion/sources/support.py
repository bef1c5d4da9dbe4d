"""Support tickets as they stand now, from a Zendesk-like API, to `raw.support_tickets`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingestion.rest_api import Api, parse_time
from ingestion.sources import ColumnType, Link

KIND = "refresh"
DESCRIPTION = "The help desk's tickets, as they are now."
TABLE = "support_tickets"
COLUMNS: dict[str, ColumnType] = {
    "ticket_id": "text",
    "requester_email": "text",
    "subject": "text",
    "status": "text",
    "priority": "text",
    "created_at": "time",
    "updated_at": "time",
    "payload": "text",
}
KEY = "ticket_id"
SANDBOX = {"url": "{url}/support", "token": "sandbox"}
ON_BY_DEFAULT = True
PAGE_ROWS = 100


class Settings(BaseSettings):
    """Where the help desk is."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_SUPPORT_", env_ignore_empty=True, extra="ignore"
    )
    url: str = ""
    token: SecretStr | None = None


def rows(settings: Settings, since: datetime | None = None) -> Iterator[dict[str, Any]]:
    """Every ticket changed at or after `since`, as a row of the table.

    A ticket that changes while we read can come twice; the later answer is the newer one.

    Raises:
        SourceError: the API refuses, cannot be reached, or answers nonsense.
    """
    api = Api("help desk", settings.url, settings.token, "SIGNALBOX_SUPPORT")
    parameters = {"page[size]": str(PAGE_ROWS), "include": "users"}
    if since is not None:
        parameters["updated_since"] = since.isoformat().replace("+00:00", "Z")
    while True:
        page = api.get("/api/v2/tickets", parameters)
        with api.understanding():
            users = {user["id"]: user for user in page.get("users") or ()}
            found = [_row(_with_requester(ticket, users)) for ticket in page["tickets"]]
            more = page["meta"]["has_more"]
            after = str(page["meta"].get("after_cursor") or "")
        yield from found
        if not more or not after or after == parameters.get("page[after]"):
            return
        parameters["page[after]"] = after


def link(row: dict[str, Any], settings: Settings) -> Link | None:
    """The desk's id of who asked, your own id of that person where the desk has it, the address."""
    ticket = orjson.loads(row["payload"])
    requester = ticket.get("requester")
    known = requester if isinstance(requester, dict) else {}
    return Link.of(
        "support_user",
        ticket.get("requester_id"),
        [("user_id", known.get("external_id")), ("email", row["requester_email"])],
    )


def _with_requester(ticket: dict[str, Any], users: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """A ticket with its requester inside, whom Zendesk lists beside the tickets."""
    user = users.get(ticket.get("requester_id"))
    if user is None or isinstance(ticket.get("requester"), dict):
        return ticket
    known = {name: user.get(name) for name in ("name", "email", "external_id")}
    return ticket | {"requester": known}


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
