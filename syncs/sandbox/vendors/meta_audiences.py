"""Meta's custom audiences: people, as hashes, who join and leave."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect
from syncs.sandbox.people import People, RefusedError, listed

MAX_PEOPLE = 10_000
HASH = re.compile(r"[0-9a-f]{64}")
HASHED = {"EMAIL", "PHONE", "FN", "LN", "CT", "ST", "ZIP", "COUNTRY", "GEN", "DOBY", "DOBM", "DOBD"}
KEYS = HASHED | {"MADID", "EXTERN_ID"}
CODES = {401: 190, 429: 80003, 500: 2}


class StandIn(People):
    title = "Meta audiences"
    view = "audience"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self.limit = vendor.RateLimit(60, 60.0, enabled=True)

    def routes(self) -> Sequence[BaseRoute]:
        users = "/v{version}/{audience:int}/users"
        return [
            Route("/v{version}/me", self.guarded(self._me), methods=["GET"]),
            Route(users, self.guarded(self._change), methods=["POST", "DELETE"]),
        ]

    def error(self, status: int, code: str, message: str) -> Response:
        error = {"message": message, "type": "OAuthException", "code": CODES.get(status, 100)}
        # Meta answers 400 to a token that is not valid; the code tells it apart.
        return JSONResponse(
            {"error": {**error, "fbtrace_id": uuid.uuid4().hex[:11]}},
            400 if status == 401 else status,
        )

    async def _me(self, request: Request) -> Response:
        return JSONResponse({"name": "Signalbox Sandbox", "id": "100000000000001"})

    async def _change(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        payload, session = _parameter(form, "payload"), _parameter(form, "session")
        schema, people = payload.get("schema"), listed(payload, "data", MAX_PEOPLE)
        if not isinstance(schema, list) or not schema or not set(map(str, schema)) <= KEYS:
            raise RefusedError(400, "invalid", f"schema: keys are {', '.join(sorted(KEYS))}")
        audience, joins = str(request.path_params["audience"]), request.method == "POST"
        effects: list[Effect] = []
        invalid: dict[str, str] = {}
        for person in people:
            name = _name(schema, person)
            if name is None or self.rejects(request, name):
                invalid[str(len(invalid))] = str(person)
            else:
                record_id = f"{audience}/{name}"
                effects.append(
                    self.member(request, name, audience, joins=joins, record_id=record_id)
                )
        self.commit(effects)
        return JSONResponse(
            {
                "audience_id": audience,
                "session_id": str(session.get("session_id", "")),
                "num_received": len(people),
                "num_invalid_entries": len(invalid),
                "invalid_entry_samples": dict(list(invalid.items())[:100]),
            }
        )


def _parameter(form: dict[str, str], name: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(form.get(name, ""), type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        raise RefusedError(400, "invalid", f"Invalid parameter: {name}") from None


def _name(schema: list[str], person: Any) -> str | None:
    """What Meta would know the person by, or None where an identifier is no hash."""
    values = person if isinstance(person, list) else [person]
    if len(values) != len(schema):
        return None
    given = [(key, str(value)) for key, value in zip(schema, values, strict=True) if value]
    if not given or any(key in HASHED and not HASH.fullmatch(value) for key, value in given):
        return None
    return next((value for key, value in given if key in ("EMAIL", "PHONE")), given[0][1])
