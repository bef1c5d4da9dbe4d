"""Braze: /users/track with attributes, events and purchases; the list of campaigns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect
from syncs.sandbox.people import (
    EMAIL,
    REFUSED_ROW,
    People,
    RefusedError,
    first_of,
    json_body,
    listed,
)

IDENTIFIERS = ("external_id", "braze_id", "email", "phone")
FLAGS = ("_merge_objects", "_update_existing_only")
NEEDED = {
    "attributes": (),
    "events": ("name", "time"),
    "purchases": ("product_id", "currency", "price", "time"),
}
MAX_ITEMS = 75


class StandIn(People):
    title = "Braze"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self.limit = vendor.RateLimit(3000, 3.0, enabled=True)

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/users/track", self.guarded(self._track), methods=["POST"]),
            Route("/campaigns/list", self.guarded(self._campaigns), methods=["GET"]),
        ]

    def error(self, status: int, code: str, message: str) -> Response:
        return JSONResponse({"message": message}, status)

    async def _campaigns(self, request: Request) -> Response:
        return JSONResponse({"message": "success", "campaigns": []})

    async def _track(self, request: Request) -> Response:
        body = await json_body(request)
        effects: list[Effect] = []
        errors: list[dict[str, Any]] = []
        answer: dict[str, Any] = {"message": "success"}
        for array, needed in NEEDED.items():
            if array not in body:
                continue
            items, before = listed(body, array, MAX_ITEMS), len(errors)
            for number, item in enumerate(items):
                key = first_of(item, IDENTIFIERS)
                problem = self._problem(request, item, key, needed)
                if problem:
                    errors.append({"type": problem, "input_array": array, "index": number})
                elif array == "attributes":
                    effects += self._attributes(request, str(key), item)
                else:
                    effects.append(self._event(request, str(key), item))
            answer[f"{array}_processed"] = len(items) - (len(errors) - before)
        if len(answer) == 1:
            raise RefusedError(400, "invalid", "attributes, events or purchases are needed")
        self.commit(effects)
        return JSONResponse(answer | ({"errors": errors} if errors else {}), 201)

    def _attributes(self, request: Request, key: str, item: dict[str, Any]) -> list[Effect]:
        if item.get("_update_existing_only") and self.record(key) is None:
            return []
        fields = {name: value for name, value in item.items() if name not in FLAGS}
        return [self.written(request, key, fields, item)]

    def _event(self, request: Request, key: str, item: dict[str, Any]) -> Effect:
        name = str(item.get("name") or f"purchase of {item['product_id']}")
        identity = hashlib.sha256(msgspec.json.encode(item, order="sorted")).hexdigest()
        told = item.get("properties") or {}
        return self.event(request, key, name, told, identity)

    def _problem(
        self, request: Request, item: dict[str, Any], key: str | None, needed: Sequence[str]
    ) -> str | None:
        """Why an item is refused, in Braze's words where they are known."""
        if key is None:
            return f"One of {', '.join(IDENTIFIERS)} is required"
        if self.rejects(request, key):
            return REFUSED_ROW
        if item.get("email") and not EMAIL.fullmatch(str(item["email"])):
            return "The email address is not valid"
        missing = [name for name in needed if item.get(name) is None]
        return f"'{missing[0]}' is required" if missing else None
