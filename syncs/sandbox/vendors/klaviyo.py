"""Klaviyo: bulk import of profiles into lists, looking profiles up, leaving a list, the account."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect
from syncs.sandbox.people import EMAIL, People, RefusedError, first_of, json_body, listed

MAX_PROFILES = 10_000
MAX_LEAVING = 1000
MAX_FOUND = 100
IDENTIFIERS = ("email", "phone_number", "external_id")
LIST = "/api/lists/{list}/relationships/profiles"
ANY_OF = re.compile(rf"any\(({'|'.join(IDENTIFIERS)}),(\[.*\])\)")
REVISION = re.compile(r"\d{4}-\d\d-\d\d")


class StandIn(People):
    title = "Klaviyo"
    max_bytes = 5_000_000

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self.limit = vendor.RateLimit(10, 1.0, enabled=True)
        self._keys: dict[str, str] = {}
        self._errors: dict[str, list[dict[str, Any]]] = {}

    def routes(self) -> Sequence[BaseRoute]:
        jobs = "/api/profile-bulk-import-jobs"
        return [
            Route("/api/accounts", self.guarded(self._account), methods=["GET"]),
            Route(jobs, self.guarded(self._import), methods=["POST"]),
            Route(f"{jobs}/{{job}}/import-errors", self.guarded(self._import_errors)),
            Route("/api/profiles", self.guarded(self._find), methods=["GET"]),
            Route(LIST, self.guarded(self._leave), methods=["DELETE"]),
        ]

    def authorized(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme == "Klaviyo-API-Key" and self.is_token(given)

    def error(self, status: int, code: str, message: str) -> Response:
        error = {"id": str(uuid.uuid4()), "status": status, "code": code, "detail": message}
        return JSONResponse({"errors": [error]}, status, media_type="application/vnd.api+json")

    def apply(self, effect: Effect) -> None:
        super().apply(effect)
        if effect.object_id is not None:
            self._keys[_profile_id(effect.object_id)] = effect.object_id

    async def _account(self, request: Request) -> Response:
        _needs_revision(request)
        contact = {"organization_name": "Signalbox Sandbox"}
        account = {"type": "account", "attributes": {"contact_information": contact}}
        return JSONResponse({"data": [account]})

    async def _import(self, request: Request) -> Response:
        _needs_revision(request)
        job = (await json_body(request)).get("data") or {}
        profiles = listed((job.get("attributes") or {}).get("profiles") or {}, "data", MAX_PROFILES)
        lists = ((job.get("relationships") or {}).get("lists") or {}).get("data") or []
        keys = [first_of(profile.get("attributes") or {}, IDENTIFIERS) for profile in profiles]
        for number, (profile, key) in enumerate(zip(profiles, keys, strict=True)):
            email = profile["attributes"].get("email") if key else None
            if key is None or (email and not EMAIL.fullmatch(str(email))):
                at = f"/data/attributes/profiles/data/{number}/attributes"
                raise RefusedError(400, "invalid", f"Invalid email or no identifier at {at}")
        job_id, effects, refused = uuid.uuid4().hex, [], []
        for profile, key in zip(profiles, keys, strict=True):
            assert key is not None
            if self.rejects(request, key):
                refused.append(
                    {"type": "import-error", "attributes": {"original_payload": profile}}
                )
                continue
            given = dict(profile["attributes"])
            fields = {**given, **(given.pop("properties", None) or {})}
            fields.pop("properties", None)
            effects.append(self.written(request, key, fields, profile))
            effects += [
                self.member(request, key, f"list {each['id']}", joins=True) for each in lists
            ]
        self._errors[job_id] = refused
        self.commit(effects)
        status = {"status": "queued", "total_count": len(profiles)}
        answer = {"type": "profile-bulk-import-job", "id": job_id, "attributes": status}
        return JSONResponse({"data": answer}, 202)

    async def _import_errors(self, request: Request) -> Response:
        return JSONResponse({"data": self._errors.get(request.path_params["job"], [])})

    async def _find(self, request: Request) -> Response:
        _needs_revision(request)
        wanted = ANY_OF.fullmatch(request.query_params.get("filter", ""))
        if wanted is None:
            raise RefusedError(400, "invalid", "filter must be any(email,[…]) or the like")
        keys = json.loads(wanted[2])
        if len(keys) > MAX_FOUND:
            raise RefusedError(400, "invalid", f"at most {MAX_FOUND} values")
        found = [key.lower() for key in keys if self.record(key) is not None]
        data = [
            {"type": "profile", "id": _profile_id(key), "attributes": {wanted[1]: key}}
            for key in found
        ]
        return JSONResponse({"data": data})

    async def _leave(self, request: Request) -> Response:
        _needs_revision(request)
        leaving = listed(await json_body(request), "data", MAX_LEAVING)
        keys = [self._keys[each["id"]] for each in leaving if each.get("id") in self._keys]
        name = f"list {request.path_params['list']}"
        self.commit([self.member(request, key, name, joins=False) for key in keys])
        return Response(status_code=204)


def _needs_revision(request: Request) -> None:
    if not REVISION.fullmatch(request.headers.get("revision", "")):
        raise RefusedError(400, "missing_revision", "A revision header is required.")


def _profile_id(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:26].upper()
