"""What the stand-ins of CRMs and marketing tools share: a guard, records, memberships, events."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect

EMAIL = re.compile(r"[^@\s,;<>]+@[^@\s,;<>.]+(\.[^@\s,;<>.]+)+")
REFUSED_ROW = "The sandbox was asked to refuse this row."

Endpoint = Callable[[Request], Awaitable[Response]]


class RefusedError(Exception):
    """The whole request is refused: a status, the vendor's code for it, and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class People(vendor.StandIn):
    """Base of a stand-in that keeps records by a key and lets them join and leave lists.

    A membership is a field of the record, named after the list. Records stay encoded, so that a
    million of them fit in memory. A subclass says how the vendor words a refusal (`error`) and
    what proves who is asking (`authorized`).
    """

    view = "contacts"
    #: Largest body in bytes.
    max_bytes: ClassVar[int] = 10_000_000

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self._records: dict[str, bytes] = {}

    def authorized(self, request: Request) -> bool:
        return self.has_token(request)

    def error(self, status: int, code: str, message: str) -> Response:
        """The vendor's own form of a refusal."""
        raise NotImplementedError

    def refusal(self, status: int, retry_after: int) -> Response:
        code, words = (
            ("rate_limited", "Too many requests.")
            if status == 429
            else ("server_error", "Something went wrong.")
        )
        answer = self.error(status, code, words)
        if status == 429:
            answer.headers["retry-after"] = str(retry_after)
        return answer

    def guarded(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint behind credentials, rate limit and size limit."""

        async def answer(request: Request) -> Response:
            if not self.authorized(request):
                return self.error(401, "unauthorized", "The credentials are not valid.")
            wait = self.limit.charge() if self.limit else 0
            if wait:
                return self.refusal(429, wait)
            if len(await request.body()) > self.max_bytes:
                return self.error(413, "too_large", f"The limit is {self.max_bytes} bytes.")
            try:
                return await endpoint(request)
            except RefusedError as refused:
                return self.error(refused.status, refused.code, refused.message)

        return answer

    def record(self, key: str) -> dict[str, Any] | None:
        """A record's fields, or None."""
        encoded = self._records.get(key.lower())
        return None if encoded is None else msgspec.json.decode(encoded)

    def apply(self, effect: Effect) -> None:
        if effect.object_id is None:
            return
        fields = self.record(effect.object_id) or {}
        fields |= {name: new for name, (_, new) in effect.changes.items()}
        kept = {name: value for name, value in fields.items() if value is not None}
        self._records[effect.object_id] = msgspec.json.encode(kept)

    def written(
        self,
        request: Request,
        key: str,
        fields: Mapping[str, Any],
        body: Any,
        record_id: str | None = None,
    ) -> Effect:
        """The effect of setting a record's fields; null and the empty text clear one.

        `record_id` is under what it is kept, where that is not the key that people read.
        """
        record_id = (record_id or key).lower()
        before = self.record(record_id)
        values = {name: text(value) for name, value in flat(fields).items()}
        changes = {
            name: ((before or {}).get(name), value)
            for name, value in values.items()
            if (before or {}).get(name) != value
        }
        verb = "created" if before is None else "updated" if changes else "unchanged"
        shown = ", ".join(
            f"{name} {new or '–'}" if before is None else f"{name} {old or '–'} → {new or '–'}"
            for name, (old, new) in changes.items()
            if new != key
        )
        after = {**(before or {}), **{name: value for name, value in values.items() if value}}
        return Effect(
            destination=self.name,
            action=f"contact_{verb}",
            key=key,
            summary=f"{key} {verb}" + (f": {shown}" if shown else ""),
            object_id=record_id,
            changes=changes,
            detail={"properties": after} if verb == "updated" else {},
            request_id=vendor.request_id(request),
            body=msgspec.json.encode(body).decode(),
        )

    def member(
        self,
        request: Request,
        key: str,
        field: str,
        *,
        joins: bool,
        record_id: str | None = None,
    ) -> Effect:
        """The effect of joining or leaving the list that `field` stands for."""
        record_id = (record_id or key).lower()
        before = (self.record(record_id) or {}).get(field)
        after = "member" if joins else None
        verb = "unchanged" if before == after else "joined" if joins else "left"
        return Effect(
            destination=self.name,
            action=f"contact_{verb}",
            key=key,
            summary=f"{key} {verb}: {field}",
            object_id=record_id,
            changes={} if before == after else {field: (before, after)},
            request_id=vendor.request_id(request),
        )

    def event(
        self, request: Request, key: str, name: str, told: Mapping[str, Any], identity: str
    ) -> Effect:
        """The effect of something that happened; the same identity twice is a duplicate."""
        return Effect(
            destination=self.name,
            action="event_tracked",
            key=key,
            summary=f"{key}: {name}",
            changes={"event": (None, name)}
            | {field: (None, text(value)) for field, value in flat(told).items()},
            duplicate=self.desk.effects.seen(self.name, identity),
            identity=identity,
            request_id=vendor.request_id(request),
            body=msgspec.json.encode({"name": name, **told}).decode(),
        )


def flat(fields: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Objects within objects as dotted names."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def text(value: Any) -> str | None:
    """A value as the effect log keeps it."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


async def json_body(request: Request) -> dict[str, Any]:
    """The body. Raises RefusedError if it is no JSON object."""
    body = await vendor.json_object(request)
    if body is None:
        raise RefusedError(400, "invalid_json", "The body is not a JSON object.")
    return body


def listed(body: Mapping[str, Any], name: str, limit: int) -> list[Any]:
    """The body's rows. Raises RefusedError if there are none or more than the limit."""
    rows = body.get(name)
    if not isinstance(rows, list) or not rows:
        raise RefusedError(400, "invalid", f"{name} must be a list that is not empty.")
    if len(rows) > limit:
        raise RefusedError(
            400, "too_many", f"{name}: {len(rows)} were given, {limit} is the limit."
        )
    return rows


def first_of(item: Mapping[str, Any], names: Sequence[str] | Iterable[str]) -> str | None:
    """The first identifier that has a value."""
    return next((str(item[name]) for name in names if item.get(name) not in (None, "")), None)
