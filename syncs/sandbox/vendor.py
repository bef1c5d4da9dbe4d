"""What a vendor's file is made of: a `StandIn` class with routes, and the desk they all share."""

from __future__ import annotations

import asyncio
import hmac
import importlib
import pkgutil
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from syncs.sandbox.effects import Effect, EffectLog
from syncs.sandbox.faults import FaultBoard


class RateLimit:
    """A rolling window: at most `requests` in `seconds`, for each thing that is limited.

    The stand-in charges it, so that a limit per account and one per channel are the same class.
    """

    def __init__(self, requests: int, seconds: float, *, enabled: bool) -> None:
        self.requests, self.seconds, self.enabled = requests, seconds, enabled
        self._taken: dict[str, deque[float]] = {}

    def charge(self, subject: str = "") -> int:
        """Take one slot. Returns 0, or the whole seconds after which there is one again."""
        if not self.enabled:
            return 0
        moment = time.monotonic()
        taken = self._taken.setdefault(subject, deque())
        while taken and taken[0] <= moment - self.seconds:
            taken.popleft()
        if len(taken) < self.requests:
            taken.append(moment)
            return 0
        return max(1, int(taken[0] + self.seconds - moment + 0.999))


class Desk:
    """What the stand-ins share: the credentials they expect, the effects, the faults, the news."""

    def __init__(self, effects: EffectLog, token: str, webhook_secret: str) -> None:
        self.effects, self.token, self.webhook_secret = effects, token, webhook_secret
        self.faults = FaultBoard()
        self.answers: dict[str, Counter[str]] = defaultdict(Counter)
        self.closing = False
        self._listeners: set[asyncio.Event] = set()

    def listen(self) -> asyncio.Event:
        """An event that is set whenever something has changed; give it back with `leave`."""
        event = asyncio.Event()
        self._listeners.add(event)
        return event

    def leave(self, event: asyncio.Event) -> None:
        self._listeners.discard(event)

    def announce(self) -> None:
        """Wake every listener."""
        for event in self._listeners:
            event.set()

    def close(self) -> None:
        """Let open streams end, so that the server can stop."""
        self.closing = True
        self.announce()

    def count_answer(self, destination: str, answer: str) -> None:
        self.answers[destination][answer] += 1
        self.announce()


class StandIn:
    """Base of a vendor's stand-in; the file's name is the vendor's name and its path prefix.

    A subclass turns requests into effects (`commit`) and effects into state (`apply`). State is
    changed in `apply` only: that is what makes a restart see what it saw before.
    `view` names the way the page draws it: contacts, channel, mail, hooks, tickets or plain.
    """

    title: ClassVar[str] = ""
    view: ClassVar[str] = "plain"

    def __init__(self, name: str, desk: Desk) -> None:
        self.name, self.desk = name, desk
        self.limit: RateLimit | None = None

    def routes(self) -> Sequence[BaseRoute]:
        """The vendor's paths, relative to `/<name>`."""
        return []

    def apply(self, effect: Effect) -> None:
        """Bring the state up to date; called for each effect, new or replayed."""

    def refusal(self, status: int, retry_after: int) -> Response:
        """The vendor's own answer for 429 and 500."""
        return JSONResponse({"error": "rate_limited" if status == 429 else "server_error"}, status)

    def commit(self, effects: Sequence[Effect]) -> None:
        """Write the effects, then let the state and the page know."""
        if not effects:
            return
        self.desk.effects.append(effects)
        for effect in effects:
            self.apply(effect)
        self.desk.announce()

    def has_token(self, request: Request) -> bool:
        """Whether the request carries the expected bearer token."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.is_token(given)

    def is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.strip().encode(), self.desk.token.encode())

    def rejects(self, request: Request, key: str) -> bool:
        """Whether a fault asks for this row to be refused."""
        return self.desk.faults.rejects(request.url.path, key)


def request_id(request: Request) -> str:
    """The id that the sandbox gave this request; it stands in the effect and the answer."""
    return str(request.scope["signalbox.request_id"])


async def json_object(request: Request) -> dict[str, Any] | None:
    """The body as a JSON object, or None if it is not one."""
    try:
        body = msgspec.json.decode(await request.body())
    except (msgspec.MsgspecError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def load_vendors(desk: Desk) -> dict[str, StandIn]:
    """One stand-in per file in `vendors/`, by name."""
    package = importlib.import_module("syncs.sandbox.vendors")
    return {
        found.name: importlib.import_module(f"{package.__name__}.{found.name}").StandIn(
            found.name, desk
        )
        for found in pkgutil.iter_modules(package.__path__)
    }
