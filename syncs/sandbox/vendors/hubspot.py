"""HubSpot's CRM v3 contacts: batch upsert, create, update and read, and the paged list; and
companies: batch upsert."""

from __future__ import annotations

import bisect
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect, now

CONTACTS = "/crm/v3/objects/contacts"
COMPANIES = "/crm/v3/objects/companies"
#: Properties of companies by which HubSpot finds none.
NOT_UNIQUE = {"domain", "name"}
BATCH_LIMIT = 100
PAGE_LIMIT = 100
FIRST_ID = 101
DEFAULT_PROPERTIES = ("email", "firstname", "lastname")
EMAIL = re.compile(r"[^@\s,;<>]+@[^@\s,;<>.]+(\.[^@\s,;<>.]+)+")
PROPERTY = re.compile(r"[a-z0-9_]+")

Changes = dict[str, tuple[str | None, str | None]]
Errors = list[dict[str, Any]]


class RefusedError(Exception):
    """The whole request is refused, with HubSpot's category for it."""

    def __init__(self, status: int, category: str, message: str) -> None:
        super().__init__(message)
        self.status, self.category, self.message = status, category, message


class Contact(msgspec.Struct):
    """A contact; its properties stay encoded, so that a million of them fit in memory."""

    id: int
    created_at: str
    updated_at: str
    encoded: bytes = b"{}"

    @property
    def properties(self) -> dict[str, str]:
        return msgspec.json.decode(self.encoded, type=dict[str, str])

    def update(self, changes: Changes) -> None:
        merged = self.properties | {name: new for name, (_, new) in changes.items()}
        self.encoded = msgspec.json.encode({k: v for k, v in merged.items() if v is not None})


class StandIn(vendor.StandIn):
    title = "HubSpot"
    view = "contacts"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self.limit = vendor.RateLimit(100, 10.0, enabled=True)
        self._contacts: dict[int, Contact] = {}
        self._order: list[int] = []
        self._by_email: dict[str, int] = {}
        self._companies: dict[str, Contact] = {}

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route(CONTACTS, self._guarded(self._list), methods=["GET"]),
            Route(f"{CONTACTS}/batch/upsert", self._guarded(self._upsert), methods=["POST"]),
            Route(f"{CONTACTS}/batch/create", self._guarded(self._create), methods=["POST"]),
            Route(f"{CONTACTS}/batch/update", self._guarded(self._update), methods=["POST"]),
            Route(f"{CONTACTS}/batch/read", self._guarded(self._read), methods=["POST"]),
            Route(
                f"{COMPANIES}/batch/upsert",
                self._guarded(self._upsert_companies),
                methods=["POST"],
            ),
            Route("/account-info/v3/details", self._guarded(self._account), methods=["GET"]),
        ]

    def apply(self, effect: Effect) -> None:
        if effect.action.startswith("company_"):
            identity = str(effect.detail["identity"])
            known = self._companies.setdefault(
                identity, Contact(len(self._companies) + FIRST_ID, effect.at, effect.at)
            )
            known.update(effect.changes)
            return
        number = int(effect.object_id or 0)
        contact = self._contacts.get(number)
        if contact is None:
            contact = self._contacts[number] = Contact(number, effect.at, effect.at)
            self._order.append(number)
        if effect.changes:
            old_email, new_email = effect.changes.get("email", (None, None))
            if old_email:
                self._by_email.pop(old_email, None)
            if new_email:
                self._by_email[new_email] = number
            contact.update(effect.changes)
            contact.updated_at = effect.at

    def refusal(self, status: int, retry_after: int) -> Response:
        if status == 429:
            return JSONResponse(
                {
                    "status": "error",
                    "message": "You have reached your ten_secondly_rolling limit.",
                    "errorType": "RATE_LIMIT",
                    "correlationId": str(uuid.uuid4()),
                    "policyName": "TEN_SECONDLY_ROLLING",
                },
                429,
                {"retry-after": str(retry_after)},
            )
        return _error(RefusedError(status, "INTERNAL_ERROR", "internal error"))

    def _guarded(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            if not self.has_token(request):
                return _error(
                    RefusedError(
                        401,
                        "INVALID_AUTHENTICATION",
                        "Authentication credentials not found. This API supports OAuth 2.0 "
                        "authentication.",
                    )
                )
            wait = self.limit.charge() if self.limit else 0
            if wait:
                return self.refusal(429, wait)
            try:
                return await endpoint(request)
            except RefusedError as refused:
                return _error(refused)

        return guarded

    async def _list(self, request: Request) -> Response:
        query = request.query_params
        try:
            limit, after = int(query.get("limit", "10")), int(query.get("after", "0"))
        except ValueError:
            raise _invalid("limit and after must be whole numbers") from None
        if not 1 <= limit <= PAGE_LIMIT:
            raise _invalid(f"limit must be between 1 and {PAGE_LIMIT}")
        asked = [name for text in query.getlist("properties") for name in text.split(",") if name]
        start = bisect.bisect_right(self._order, after)
        page = self._order[start : start + limit]
        answer: dict[str, Any] = {
            "results": [_render(self._contacts[number], asked) for number in page]
        }
        if start + limit < len(self._order):
            link = request.url.include_query_params(after=page[-1])
            answer["paging"] = {"next": {"after": str(page[-1]), "link": str(link)}}
        return JSONResponse(answer)

    async def _upsert(self, request: Request) -> Response:
        return await self._write(request, may_create=True)

    async def _update(self, request: Request) -> Response:
        return await self._write(request, may_create=False)

    async def _write(self, request: Request, *, may_create: bool) -> Response:
        started, effects, errors, planned = now(), [], Errors(), []
        next_id = self._next_id()
        for row in await _inputs(request, unique=True):
            properties = _properties(row)
            number = self._find(row)
            by_email = row.get("idProperty") == "email"
            if by_email:
                properties.setdefault("email", str(row["id"]).strip().lower())
            problem = self._problem(request, row, properties, number)
            if problem is None and number is None and not (may_create and by_email):
                problem = _row_error(row, "OBJECT_NOT_FOUND", "No contact with this id exists.")
            if problem is not None:
                errors.append(problem)
                continue
            is_new = number is None
            if number is None:
                number, next_id = next_id, next_id + 1
            effects.append(self._effect(request, row, number, properties, is_new=is_new))
            planned.append((number, is_new, row.get("objectWriteTraceId")))
        self.commit(effects)
        results = []
        for number, is_new, trace in planned:
            result = _render(self._contacts[number], list(self._contacts[number].properties))
            if may_create:
                result["new"] = is_new
            if trace is not None:
                result["objectWriteTraceId"] = trace
            results.append(result)
        return _batch(200, started, results, errors)

    async def _upsert_companies(self, request: Request) -> Response:
        started, effects, errors, planned = now(), [], Errors(), []
        for row in await _inputs(request, unique=True):
            key, value = str(row.get("idProperty") or ""), str(row["id"]).strip()
            if not PROPERTY.fullmatch(key) or key in NOT_UNIQUE:
                raise _invalid("Unable to perform update/upsert by non-unique 0-2 property")
            properties = _properties(row) | {key: value}
            if self.rejects(request, value) or self.rejects(request, properties.get("name", "")):
                words = "The sandbox was asked to refuse this row."
                errors.append(_row_error(row, "VALIDATION_ERROR", words))
                continue
            identity = f"{key}/{value.lower()}"
            effects.append(self._company(request, row, identity, properties))
            planned.append((identity, identity not in self._companies, row))
        self.commit(effects)
        results = []
        for identity, is_new, row in planned:
            company = self._companies[identity]
            result = {"id": str(company.id), "properties": company.properties, "new": is_new}
            if "objectWriteTraceId" in row:
                result["objectWriteTraceId"] = row["objectWriteTraceId"]
            results.append(result)
        return _batch(200, started, results, errors)

    def _company(
        self, request: Request, row: dict[str, Any], identity: str, properties: dict[str, str]
    ) -> Effect:
        known = self._companies.get(identity)
        before = known.properties if known else {}
        changes: Changes = {
            name: (before.get(name), value or None)
            for name, value in properties.items()
            if before.get(name) != (value or None)
        }
        verb = "created" if known is None else "updated" if changes else "unchanged"
        after = {name: value for name, value in (before | properties).items() if value}
        key = after.get("name") or str(row["id"])
        shown = ", ".join(f"{name} {new or '–'}" for name, (_, new) in changes.items())
        return Effect(
            destination=self.name,
            action=f"company_{verb}",
            key=key,
            summary=f"{key} {verb}" + (f": {shown}" if shown else ""),
            changes=changes,
            detail={"identity": identity, "properties": after if verb == "updated" else {}},
            request_id=vendor.request_id(request),
            body=msgspec.json.encode(row).decode(),
        )

    async def _account(self, request: Request) -> Response:
        return JSONResponse({"portalId": 1, "accountType": "SANDBOX", "timeZone": "UTC"})

    async def _create(self, request: Request) -> Response:
        started, effects, errors = now(), [], Errors()
        emails: set[str] = set()
        next_id = self._next_id()
        for row in await _inputs(request, unique=False):
            properties = _properties(row)
            email = properties.get("email", "")
            if email in self._by_email or (email and email in emails):
                existing = self._by_email.get(email, "in this batch")
                raise RefusedError(
                    409, "CONFLICT", f"Contact already exists. Existing ID: {existing}"
                )
            row = {**row, "id": email}
            problem = self._problem(request, row, properties, None)
            if problem is not None:
                errors.append(problem)
                continue
            emails.add(email)
            effects.append(self._effect(request, row, next_id, properties, is_new=True))
            next_id += 1
        self.commit(effects)
        made = (self._contacts[int(effect.object_id or 0)] for effect in effects)
        results = [_render(contact, list(contact.properties)) for contact in made]
        return _batch(201, started, results, errors)

    async def _read(self, request: Request) -> Response:
        started, results, missing = now(), [], []
        body = await _body(request)
        asked = body.get("properties") or []
        if not isinstance(asked, list) or not all(isinstance(name, str) for name in asked):
            raise _invalid("properties must be a list of property names")
        for row in await _inputs(request, unique=False):
            number = self._find({"idProperty": body.get("idProperty"), **row})
            if number is None:
                missing.append(str(row["id"]))
            else:
                results.append(_render(self._contacts[number], asked))
        errors: Errors = []
        if missing:
            errors.append(
                {
                    "status": "error",
                    "category": "OBJECT_NOT_FOUND",
                    "message": "Could not get some CONTACT objects, they may be deleted or not "
                    "exist. Check that ids are valid.",
                    "context": {"ids": missing},
                }
            )
        return _batch(200, started, results, errors)

    def _next_id(self) -> int:
        return self._order[-1] + 1 if self._order else FIRST_ID

    def _find(self, row: dict[str, Any]) -> int | None:
        """The contact an input means, by email or by record id."""
        kind, text = row.get("idProperty"), str(row.get("id", "")).strip()
        if kind == "email":
            return self._by_email.get(text.lower())
        if kind in (None, "hs_object_id"):
            number = int(text) if text.isdecimal() and len(text) < 20 else -1
            return number if number in self._contacts else None
        raise _invalid(f'idProperty "{kind}" is not a unique property: use email or hs_object_id')

    def _problem(
        self, request: Request, row: dict[str, Any], properties: dict[str, str], number: int | None
    ) -> dict[str, Any] | None:
        """Why this row is refused, or None."""
        email = properties.get("email")
        if self.rejects(request, str(email or row.get("id", ""))):
            return _row_error(row, "VALIDATION_ERROR", "The sandbox was asked to refuse this row.")
        if email is not None and not EMAIL.fullmatch(email):
            return _row_error(
                row,
                "VALIDATION_ERROR",
                f"Property values were not valid: Email address {email} is invalid",
                code="INVALID_EMAIL",
            )
        owner = self._by_email.get(email) if email else None
        if owner is not None and number is not None and owner != number:
            return _row_error(row, "CONFLICT", f"Contact already exists. Existing ID: {owner}")
        return None

    def _effect(
        self,
        request: Request,
        row: dict[str, Any],
        number: int,
        properties: dict[str, str],
        *,
        is_new: bool,
    ) -> Effect:
        before = {} if is_new else self._contacts[number].properties
        changes: Changes = {
            name: (before.get(name), value or None)
            for name, value in properties.items()
            if before.get(name) != (value or None)
        }
        key = properties.get("email") or before.get("email") or str(number)
        verb = "created" if is_new else "updated" if changes else "unchanged"
        shown = ", ".join(
            f"{name} {old or '–'} → {new or '–'}" if not is_new else f"{name} {new}"
            for name, (old, new) in changes.items()
            if name != "email" or not is_new
        )
        after = {k: v for k, v in (before | properties).items() if v} if not is_new else {}
        return Effect(
            destination=self.name,
            action=f"contact_{verb}",
            key=key,
            summary=f"{key} {verb}" + (f": {shown}" if shown else ""),
            object_id=str(number),
            changes=changes,
            detail={"properties": after} if verb == "updated" else {},
            request_id=vendor.request_id(request),
            body=msgspec.json.encode(row).decode(),
        )


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, "VALIDATION_ERROR", message)


def _error(refused: RefusedError) -> JSONResponse:
    return JSONResponse(
        {
            "status": "error",
            "message": refused.message,
            "correlationId": str(uuid.uuid4()),
            "category": refused.category,
        },
        refused.status,
    )


def _row_error(
    row: dict[str, Any], category: str, message: str, code: str | None = None
) -> dict[str, Any]:
    context = {"id": [str(row.get("id", ""))]}
    if "objectWriteTraceId" in row:
        context["objectWriteTraceId"] = [str(row["objectWriteTraceId"])]
    error: dict[str, Any] = {
        "status": "error",
        "id": str(uuid.uuid4()),
        "category": category,
        "message": message,
        "context": context,
        "links": {},
    }
    if code is not None:
        error["errors"] = [{"message": message, "code": code, "in": "email"}]
    return error


async def _body(request: Request) -> dict[str, Any]:
    body = await vendor.json_object(request)
    if body is None:
        raise _invalid("Invalid input JSON: an object is expected")
    return body


async def _inputs(request: Request, *, unique: bool) -> list[dict[str, Any]]:
    """The batch's rows. Raises RefusedError where HubSpot refuses the batch as a whole."""
    rows = (await _body(request)).get("inputs")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _invalid("Invalid input JSON: inputs must be a list of objects")
    if len(rows) > BATCH_LIMIT:
        raise _invalid(
            f"The maximum number of inputs in a batch is {BATCH_LIMIT}, {len(rows)} were given"
        )
    if not rows:
        raise _invalid("inputs must not be empty")
    if unique:
        ids = [str(row.get("id", "")).strip().lower() for row in rows]
        if "" in ids:
            raise _invalid("Some required fields were not set: [id]")
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise _invalid(f"Duplicate IDs found in batch input: {repeated}. IDs must be unique")
    return rows


def _properties(row: dict[str, Any]) -> dict[str, str]:
    """The row's properties as text, the email in lower case; an empty text clears a value."""
    given = row.get("properties", {})
    if not isinstance(given, dict):
        raise _invalid("properties must be an object")
    clean: dict[str, str] = {}
    for name, value in given.items():
        if not PROPERTY.fullmatch(name):
            raise _invalid(f'Property "{name}" does not exist')
        if isinstance(value, (dict, list)):
            raise _invalid(f'The value of property "{name}" must be text')
        if isinstance(value, bool):
            value = str(value).lower()
        clean[name] = "" if value is None else str(value)
    if "email" in clean:
        clean["email"] = clean["email"].strip().lower()
    return clean


def _render(contact: Contact, asked: Iterable[str]) -> dict[str, Any]:
    stored = contact.properties
    properties: dict[str, str | None] = {
        name: stored.get(name) for name in (*(asked or DEFAULT_PROPERTIES), "email")
    }
    properties |= {
        "hs_object_id": str(contact.id),
        "createdate": contact.created_at,
        "lastmodifieddate": contact.updated_at,
    }
    return {
        "id": str(contact.id),
        "properties": properties,
        "createdAt": contact.created_at,
        "updatedAt": contact.updated_at,
        "archived": False,
    }


def _batch(status: int, started: str, results: list[Any], errors: Errors) -> JSONResponse:
    """HubSpot's batch answer: 207 as soon as one row failed."""
    answer: dict[str, Any] = {"status": "COMPLETE", "results": results}
    if errors:
        answer |= {"numErrors": len(errors), "errors": errors}
    answer |= {"startedAt": started, "completedAt": now()}
    return JSONResponse(answer, 207 if errors else status)
