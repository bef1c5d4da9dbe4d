"""Google's Data Manager API: people, as hashes, who join and leave a user list; and its login."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect
from syncs.sandbox.people import People, RefusedError, json_body, listed

MAX_PEOPLE = 10_000
HASH = re.compile(r"[0-9a-f]{64}")
SCOPE = "https://www.googleapis.com/auth/datamanager"
STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}


class StandIn(People):
    title = "Google Customer Match"
    view = "audience"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self.limit = vendor.RateLimit(300, 60.0, enabled=True)

    def routes(self) -> Sequence[BaseRoute]:
        change = self.guarded(self._change)
        return [
            Route("/token", self._login, methods=["POST"]),
            Route("/v1/audienceMembers:ingest", change, methods=["POST"]),
            Route("/v1/audienceMembers:remove", change, methods=["POST"]),
        ]

    def error(self, status: int, code: str, message: str) -> Response:
        word = STATUSES.get(status, "INTERNAL")
        error: dict[str, Any] = {"code": status, "message": message, "status": word}
        if code.startswith("audience_members"):
            violation = {"field": code, "description": message, "reason": "INVALID_SHA256_FORMAT"}
            kind = "type.googleapis.com/google.rpc.BadRequest"
            error["message"] = "There was a problem with the request."
            error["details"] = [{"@type": kind, "fieldViolations": [violation]}]
        return JSONResponse({"error": error}, status)

    async def _login(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        if not self.is_token(form.get("client_secret", "")):
            error = {"error": "invalid_client", "error_description": "Unauthorized"}
            return JSONResponse(error, 401)
        granted = form.get("grant_type") == "refresh_token"
        if not granted or not self.is_token(form.get("refresh_token", "")):
            words = "Token has been expired or revoked."
            return JSONResponse({"error": "invalid_grant", "error_description": words}, 400)
        token = {"access_token": self.desk.token, "expires_in": 3599, "token_type": "Bearer"}
        return JSONResponse({**token, "scope": SCOPE})

    async def _change(self, request: Request) -> Response:
        body, joins = await json_body(request), request.url.path.endswith(":ingest")
        people = listed(body, "audienceMembers", MAX_PEOPLE)
        if body.get("encoding") != "HEX":
            raise RefusedError(400, "encoding", "encoding is required")
        if joins and not isinstance(body.get("termsOfService"), dict):
            raise RefusedError(400, "termsOfService", "the terms of service are not accepted")
        user_list = _user_list(body)
        names = [self._name(request, number, person) for number, person in enumerate(people)]
        effects: list[Effect] = [
            self.member(request, name, user_list, joins=joins, record_id=f"{user_list}/{name}")
            for name in names
        ]
        self.commit(effects)
        return JSONResponse({"requestId": uuid.uuid4().hex})

    def _name(self, request: Request, number: int, person: Any) -> str:
        """What Google would know the person by. One that it cannot use fails the whole request."""
        data = person.get("userData") if isinstance(person, dict) else None
        found = data.get("userIdentifiers") if isinstance(data, dict) else None
        first = found[0] if isinstance(found, list) and found else None
        place = f"audience_members.audience_members[{number}].user_data"
        if not isinstance(first, dict):
            raise RefusedError(400, place, "user identifiers are missing")
        kind, value = next(iter(first.items()))
        if kind == "address":
            value = value.get("familyName", "") if isinstance(value, dict) else ""
        if not HASH.fullmatch(str(value)) or self.rejects(request, str(value)):
            raise RefusedError(400, f"{place}.user_identifiers[0]", f"{kind} is not a hash")
        return str(value)


def _user_list(body: dict[str, Any]) -> str:
    destinations = body.get("destinations")
    first = destinations[0] if isinstance(destinations, list) and destinations else None
    account = first.get("operatingAccount") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(account, dict) or not account.get("accountId"):
        raise RefusedError(400, "destinations", "destinations: an operating account is required")
    if not str(first.get("productDestinationId", "")).isdecimal():
        raise RefusedError(400, "destinations", "destinations: no such user list")
    return str(first["productDestinationId"])
