"""Intercom: contacts searched, created and updated; who the token belongs to."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect
from syncs.sandbox.people import EMAIL, REFUSED_ROW, People, RefusedError, first_of, json_body

KEYS = ("external_id", "email")
NOT_FOUND = "Contact Not Found"


class StandIn(People):
    title = "Intercom"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        # 10,000 a minute, spread over windows of ten seconds.
        self.limit = vendor.RateLimit(1666, 10.0, enabled=True)
        self._by: dict[tuple[str, str], str] = {}

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/me", self.guarded(self._me), methods=["GET"]),
            Route("/contacts/search", self.guarded(self._search), methods=["POST"]),
            Route("/contacts", self.guarded(self._create), methods=["POST"]),
            Route("/contacts/{id}", self.guarded(self._update), methods=["PUT"]),
        ]

    def error(self, status: int, code: str, message: str) -> Response:
        errors = [{"code": code, "message": message}]
        body = {"type": "error.list", "request_id": str(uuid.uuid4()), "errors": errors}
        return JSONResponse(body, status)

    def apply(self, effect: Effect) -> None:
        super().apply(effect)
        for name in KEYS:
            old, new = effect.changes.get(name, (None, None))
            if old:
                self._by.pop((name, old.lower()), None)
            if new:
                self._by[name, new.lower()] = str(effect.object_id)

    async def _me(self, request: Request) -> Response:
        app = {"type": "app", "name": "Signalbox Sandbox", "region": "US"}
        return JSONResponse({"type": "admin", "id": "1", "app": app})

    async def _search(self, request: Request) -> Response:
        query = (await json_body(request)).get("query") or {}
        if query.get("field") not in KEYS or query.get("operator") != "=":
            raise RefusedError(400, "parameter_invalid", "search by external_id or email with =")
        number = self._by.get((query["field"], str(query.get("value", "")).lower()))
        data = [{"type": "contact", "id": number}] if number else []
        return JSONResponse({"type": "list", "data": data, "total_count": len(data)})

    async def _create(self, request: Request) -> Response:
        contact = await json_body(request)
        key = self._checked(request, contact)
        for name in KEYS:
            taken = self._by.get((name, str(contact.get(name) or "").lower()))
            if taken:
                words = f"A contact matching those details already exists with id={taken}"
                raise RefusedError(409, "conflict", words)
        return self._store(request, hashlib.sha256(key.encode()).hexdigest()[:24], contact)

    async def _update(self, request: Request) -> Response:
        contact, number = await json_body(request), request.path_params["id"]
        if self.record(number) is None:
            raise RefusedError(404, "not_found", NOT_FOUND)
        self._checked(request, {**(self.record(number) or {}), **contact})
        return self._store(request, number, contact)

    def _checked(self, request: Request, contact: dict[str, Any]) -> str:
        key = first_of(contact, KEYS)
        if key is None:
            raise RefusedError(400, "parameter_not_found", "email or external_id is required")
        if self.rejects(request, key):
            raise RefusedError(400, "parameter_invalid", REFUSED_ROW)
        email = contact.get("email")
        if email and not EMAIL.fullmatch(str(email)):
            raise RefusedError(400, "parameter_invalid", "email is not a valid email address")
        return key

    def _store(self, request: Request, number: str, contact: dict[str, Any]) -> Response:
        custom = contact.get("custom_attributes") or {}
        rest = {name: value for name, value in contact.items() if name != "custom_attributes"}
        key = first_of({**(self.record(number) or {}), **contact}, KEYS) or number
        self.commit([self.written(request, key, {**rest, **custom}, contact, number)])
        return JSONResponse({"type": "contact", "id": number, **contact})
