"""Iterable: users in bulk, subscribing to and leaving static lists, the project's lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.people import EMAIL, People, RefusedError, first_of, json_body, listed

KEYS = ("email", "userId")
MAX_USERS = 1000


class StandIn(People):
    title = "Iterable"
    max_bytes = 4_000_000

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self.limit = vendor.RateLimit(5, 1.0, enabled=True)

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/api/lists", self.guarded(self._lists), methods=["GET"]),
            Route("/api/users/bulkUpdate", self.guarded(self._update), methods=["POST"]),
            Route("/api/lists/subscribe", self.guarded(self._subscribe), methods=["POST"]),
            Route("/api/lists/unsubscribe", self.guarded(self._unsubscribe), methods=["POST"]),
        ]

    def authorized(self, request: Request) -> bool:
        return self.is_token(request.headers.get("api-key", ""))

    def error(self, status: int, code: str, message: str) -> Response:
        names = {401: "BadApiKey", 429: "RateLimitExceeded", 413: "BatchTooLarge"}
        name = names.get(status, "BadParams" if status < 500 else "GenericError")
        return JSONResponse({"msg": message, "code": name, "params": None}, status)

    async def _lists(self, request: Request) -> Response:
        return JSONResponse({"lists": []})

    async def _update(self, request: Request) -> Response:
        return self._write(request, listed(await json_body(request), "users", MAX_USERS), None)

    async def _subscribe(self, request: Request) -> Response:
        body = await json_body(request)
        people = listed(body, "subscribers", MAX_USERS)
        return self._write(request, people, _list_id(body))

    def _write(self, request: Request, users: list[Any], list_id: int | None) -> Response:
        effects, failed = [], defaultdict(list)
        for user in users:
            key = first_of(user, KEYS) or ""
            kind = "Emails" if user.get("email") else "UserIds"
            if not key or (kind == "Emails" and not EMAIL.fullmatch(key)):
                failed[f"invalid{kind}"].append(key)
            elif self.rejects(request, key):
                failed[f"invalidData{kind}"].append(key)
            else:
                fields = {name: user[name] for name in KEYS if user.get(name)}
                fields |= user.get("dataFields") or {}
                effects.append(self.written(request, key, fields, user))
                if list_id is not None:
                    effects.append(self.member(request, key, f"list {list_id}", joins=True))
        self.commit(effects)
        return _counted(len(users), failed)

    async def _unsubscribe(self, request: Request) -> Response:
        body = await json_body(request)
        name, effects, failed = f"list {_list_id(body)}", [], defaultdict(list)
        people = listed(body, "subscribers", MAX_USERS)
        for user in people:
            key = first_of(user, KEYS) or ""
            if self.record(key) is None:
                failed[f"notFound{'Emails' if user.get('email') else 'UserIds'}"].append(key)
            else:
                effects.append(self.member(request, key, name, joins=False))
        self.commit(effects)
        return _counted(len(people), failed)


def _list_id(body: dict[str, Any]) -> int:
    if not isinstance(body.get("listId"), int):
        raise RefusedError(400, "BadParams", "listId must be a number")
    return int(body["listId"])


def _counted(total: int, failed: dict[str, list[str]]) -> Response:
    count = sum(map(len, failed.values()))
    return JSONResponse(
        {"successCount": total - count, "failCount": count, "failedUpdates": dict(failed)}
    )
