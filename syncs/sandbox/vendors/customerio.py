"""Customer.io's Track API: people and events in batches, manual segments, the account's region."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.people import EMAIL, REFUSED_ROW, People, first_of, json_body, listed

IDENTIFIERS = ("id", "email", "cio_id")
MAX_ITEM_BYTES = 32_768
MAX_SEGMENT_IDS = 1000
ULID = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")


class StandIn(People):
    title = "Customer.io"
    max_bytes = 512_000

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self.limit = vendor.RateLimit(100, 1.0, enabled=True)

    def routes(self) -> Sequence[BaseRoute]:
        segment = "/api/v1/segments/{segment:int}"
        return [
            Route("/api/v1/accounts/region", self.guarded(self._region), methods=["GET"]),
            Route("/api/v2/batch", self.guarded(self._batch), methods=["POST"]),
            Route(f"{segment}/add_customers", self.guarded(self._join), methods=["POST"]),
            Route(f"{segment}/remove_customers", self.guarded(self._leave), methods=["POST"]),
        ]

    def authorized(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            _, _, secret = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return scheme == "Basic" and self.is_token(secret)

    def error(self, status: int, code: str, message: str) -> Response:
        return JSONResponse({"errors": [{"reason": code, "message": message}]}, status)

    async def _region(self, request: Request) -> Response:
        return JSONResponse({"url": "", "region": "us", "environment_id": 1})

    async def _batch(self, request: Request) -> Response:
        items = listed(await json_body(request), "batch", 100_000)
        effects, errors, told_now = [], [], set()
        for number, item in enumerate(items):
            key = first_of(item.get("identifiers") or {}, IDENTIFIERS) or ""
            problem = self._problem(request, item, key)
            if problem:
                reason, field, message = problem
                found = {"batch_index": number, "reason": reason, "field": field}
                errors.append({**found, "message": message})
                continue
            told = item.get("attributes") or {}
            if item["action"] == "identify":
                effects.append(self.written(request, key, {**item["identifiers"], **told}, item))
            elif item["id"] not in told_now and not self.desk.effects.seen(self.name, item["id"]):
                told_now.add(item["id"])
                effects.append(self.event(request, key, item["name"], told, item["id"]))
        self.commit(effects)
        return JSONResponse({"errors": errors} if errors else {}, 207 if errors else 200)

    async def _join(self, request: Request) -> Response:
        return await self._segment(request, joins=True)

    async def _leave(self, request: Request) -> Response:
        return await self._segment(request, joins=False)

    async def _segment(self, request: Request, *, joins: bool) -> Response:
        keys = listed(await json_body(request), "ids", MAX_SEGMENT_IDS)
        name = f"segment {request.path_params['segment']}"
        self.commit([self.member(request, str(key), name, joins=joins) for key in keys])
        return JSONResponse({})

    def _problem(
        self, request: Request, item: dict[str, Any], key: str
    ) -> tuple[str, str, str] | None:
        """Why an item is refused: reason, field, sentence."""
        if not key:
            return "required", "identifiers", "one of id, email or cio_id is needed"
        if self.rejects(request, key):
            return "invalid", "identifiers", REFUSED_ROW
        if len(msgspec.json.encode(item)) > MAX_ITEM_BYTES:
            return "invalid", "payload", "payload is too large, the limit is 32kb"
        email = (item.get("identifiers") or {}).get("email")
        if email and not EMAIL.fullmatch(str(email)):
            return "invalid", "email", "email is not a valid address"
        if item.get("type") != "person" or item.get("action") not in ("identify", "event"):
            return "invalid", "action", "the sandbox knows a person's identify and event"
        if item["action"] == "event":
            if not item.get("name"):
                return "required", "name", "an event needs a name"
            if not ULID.fullmatch(str(item.get("id"))):
                return "invalid", "id", "id must be a ULID"
        return None
