"""A Zendesk-like help desk: tickets are created, updated, and listed by cursor."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect, now

PAGE_LIMIT = 100
STATUSES = ("new", "open", "pending", "hold", "solved", "closed")
PRIORITIES = ("low", "normal", "high", "urgent")
EDITABLE = ("subject", "status", "priority", "description", "external_id", "tags")


class StandIn(vendor.StandIn):
    title = "Support"
    view = "tickets"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self._tickets: dict[int, dict[str, Any]] = {}
        self._by_identity: dict[str, int] = {}

    def routes(self) -> Sequence[BaseRoute]:
        routes: list[BaseRoute] = []
        for suffix in ("", ".json"):
            routes += [
                Route(f"/api/v2/tickets{suffix}", self._list, methods=["GET"]),
                Route(f"/api/v2/tickets{suffix}", self._create, methods=["POST"]),
            ]
            one = "/api/v2/tickets/{number:int}" + suffix
            routes += [
                Route(one, self._show, methods=["GET"]),
                Route(one, self._update, methods=["PUT"]),
            ]
        return routes

    def apply(self, effect: Effect) -> None:
        # updated_at is the effect's own time: the file is the only clock a restart can see.
        ticket = {**effect.detail["ticket"], "updated_at": effect.at}
        number = ticket["id"]
        ticket["created_at"] = ticket["created_at"] or effect.at
        self._tickets[number] = ticket
        if effect.identity:
            self._by_identity[effect.identity] = number

    def refusal(self, status: int, retry_after: int) -> Response:
        if status == 429:
            body = {"error": "APIRateLimitExceeded", "description": "Rate limit exceeded"}
            return JSONResponse(body, 429, {"retry-after": str(retry_after)})
        return JSONResponse({"error": "InternalError", "description": "Server error"}, status)

    async def _list(self, request: Request) -> Response:
        if not self.has_token(request):
            return _unauthorized()
        query = request.query_params
        try:
            size = int(query.get("page[size]", PAGE_LIMIT))
            after = _decode_cursor(query.get("page[after]"))
            since = _moment(query["updated_since"]) if "updated_since" in query else ""
        except ValueError as error:
            return _invalid(str(error))
        if not 1 <= size <= PAGE_LIMIT:
            return _invalid(f"page[size] must be between 1 and {PAGE_LIMIT}")
        found = [
            ticket
            for ticket in self._tickets.values()
            if ticket["updated_at"] >= since and (ticket["updated_at"], ticket["id"]) > after
        ]
        found.sort(key=lambda ticket: (ticket["updated_at"], ticket["id"]))
        page, more = found[:size], len(found) > size
        cursor = _encode_cursor(page[-1]) if page else None
        link = str(request.url.include_query_params(**{"page[after]": cursor})) if more else None
        return JSONResponse(
            {
                "tickets": page,
                "meta": {"has_more": more, "after_cursor": cursor},
                "links": {"next": link},
            }
        )

    async def _show(self, request: Request) -> Response:
        if not self.has_token(request):
            return _unauthorized()
        ticket = self._tickets.get(request.path_params["number"])
        return JSONResponse({"ticket": ticket}) if ticket else _not_found()

    async def _create(self, request: Request) -> Response:
        if not self.has_token(request):
            return _unauthorized()
        given = await _ticket(request)
        problem = _problem(given)
        if given is None or problem:
            return _invalid(problem or "an object {ticket: {…}} is expected")
        email = str(_requester(given).get("email") or "").strip().lower()
        if not given.get("subject") or "@" not in email:
            return _invalid("subject and requester.email are required")
        if self.rejects(request, email):
            return _invalid("the sandbox was asked to refuse this row")
        key = request.headers.get("idempotency-key")
        identity = f"create/{key}" if key else None
        known = self._by_identity.get(identity) if identity else None
        if known is not None:
            # Zendesk gives the first answer again and does nothing: that is no effect.
            ticket = self._tickets[known]
            return JSONResponse({"ticket": ticket}, 201, {"x-idempotency-lookup": "hit"})
        effect = self._effect(request, "ticket_created", self._new_ticket(given, email), {})
        effect.identity = identity
        effect.body = (await request.body()).decode("utf-8", "replace")
        self.commit([effect])
        headers = {"x-idempotency-lookup": "miss"} if key else {}
        ticket = self._tickets[int(effect.object_id or 0)]
        return JSONResponse({"ticket": ticket}, 201, headers)

    async def _update(self, request: Request) -> Response:
        if not self.has_token(request):
            return _unauthorized()
        before = self._tickets.get(request.path_params["number"])
        if before is None:
            return _not_found()
        given = await _ticket(request)
        problem = _problem(given)
        if given is None or problem:
            return _invalid(problem or "an object {ticket: {…}} is expected")
        if self.rejects(request, before["requester_email"]):
            return _invalid("the sandbox was asked to refuse this row")
        after = before | {name: given[name] for name in EDITABLE if name in given}
        changes = {
            name: (_text(before[name]), _text(after[name]))
            for name in EDITABLE
            if before[name] != after[name]
        }
        if changes:
            effect = self._effect(request, "ticket_updated", after, changes)
            effect.body = (await request.body()).decode("utf-8", "replace")
            self.commit([effect])
        return JSONResponse({"ticket": self._tickets[before["id"]]})

    def _new_ticket(self, given: dict[str, Any], email: str) -> dict[str, Any]:
        comment = given.get("comment")
        said = comment.get("body") if isinstance(comment, dict) else None
        # A ticket brought over from another desk keeps its time, as Zendesk's import does.
        created = given.get("created_at")
        return {
            "id": max(self._tickets, default=0) + 1,
            "external_id": given.get("external_id"),
            "subject": str(given["subject"]),
            "description": str(given.get("description") or said or ""),
            "status": given.get("status") or "new",
            "priority": given.get("priority") or "normal",
            "tags": given.get("tags") or [],
            "requester_id": self._requester_id(email),
            "requester": {
                "email": email,
                "name": _requester(given).get("name"),
                "external_id": _requester(given).get("external_id"),
            },
            "requester_email": email,
            "created_at": _moment(str(created)) if created else None,
        }

    def _requester_id(self, email: str) -> int:
        known = {
            ticket["requester_email"]: ticket.get("requester_id", 0)
            for ticket in self._tickets.values()
        }
        return known.get(email) or max(known.values(), default=0) + 1

    def _effect(
        self,
        request: Request,
        action: str,
        ticket: dict[str, Any],
        changes: dict[str, tuple[str | None, str | None]],
    ) -> Effect:
        shown = ", ".join(f"{name} {old} → {new}" for name, (old, new) in changes.items())
        return Effect(
            destination=self.name,
            action=action,
            key=ticket["requester_email"],
            summary=f"#{ticket['id']} {ticket['subject']}" + (f": {shown}" if shown else ""),
            object_id=str(ticket["id"]),
            changes=changes,
            detail={"ticket": ticket},
            request_id=vendor.request_id(request),
        )


async def _ticket(request: Request) -> dict[str, Any] | None:
    body = await vendor.json_object(request)
    ticket = body.get("ticket") if body else None
    return ticket if isinstance(ticket, dict) else None


def _requester(ticket: dict[str, Any]) -> dict[str, Any]:
    requester = ticket.get("requester")
    return requester if isinstance(requester, dict) else {"email": ticket.get("requester_email")}


def _problem(ticket: dict[str, Any] | None) -> str | None:
    """What is wrong with the fields that are given, or None."""
    if ticket is None:
        return None
    if ticket.get("status") not in (None, *STATUSES):
        return f"status must be one of {', '.join(STATUSES)}"
    if ticket.get("priority") not in (None, *PRIORITIES):
        return f"priority must be one of {', '.join(PRIORITIES)}"
    tags = ticket.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return "tags must be a list of text"
    for name in ("subject", "description"):
        if name in ticket and not (isinstance(ticket[name], str) and ticket[name]):
            return f"{name} must be text"
    try:
        _moment(str(ticket.get("created_at") or now()))
    except ValueError as error:
        return str(error)
    return None


def _moment(text: str) -> str:
    """A time in the form the tickets carry, so that texts compare as times do."""
    if "T" in text:
        # A "+" that a client did not escape in the query arrives as a space.
        text = text.replace(" ", "+")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an ISO 8601 time") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else ", ".join(map(str, value))


def _encode_cursor(ticket: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(
        msgspec.json.encode([ticket["updated_at"], ticket["id"]])
    ).decode()


def _decode_cursor(text: str | None) -> tuple[str, int]:
    if not text:
        return ("", 0)
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text), type=tuple[str, int])
    except (binascii.Error, msgspec.MsgspecError):
        raise ValueError("page[after] is not a cursor of this list") from None


def _unauthorized() -> JSONResponse:
    return JSONResponse({"error": "Couldn't authenticate you"}, 401)


def _not_found() -> JSONResponse:
    return JSONResponse({"error": "RecordNotFound", "description": "Not found"}, 404)


def _invalid(message: str) -> JSONResponse:
    return JSONResponse({"error": "RecordInvalid", "description": message}, 422)
