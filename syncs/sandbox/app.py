"""The sandbox's web application: the vendors, the control API and the live page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg2
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Mount, Route, Router

from syncs.sandbox import smtp
from syncs.sandbox.effects import EffectLog, as_json
from syncs.sandbox.faults import Fault, scenario
from syncs.sandbox.gate import Gate
from syncs.sandbox.holdings import holdings
from syncs.sandbox.vendor import Desk, StandIn, load_vendors

DEFAULT_TOKEN = "sandbox"  # noqa: S105
DEFAULT_WEBHOOK_SECRET = "whsec_c2lnbmFsYm94LXNhbmRib3gtc2VjcmV0"  # noqa: S105
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
PAGE = Path(__file__).parent / "page"
SNAPSHOT_MARK = b"<!-- snapshot -->"
MAX_EFFECTS = 5000
STREAM_PAUSE_SECONDS = 0.2
HEARTBEAT_SECONDS = 10.0
PAGE_HEADERS = {
    # The inline styles are those of previewed emails, which inherit this policy.
    "content-security-policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src data:; frame-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Sandbox:
    """Everything that lives in one sandbox directory: the effects, the vendors, the mail server."""

    def __init__(self, directory: Path, token: str, webhook_secret: str) -> None:
        self.effects = EffectLog(directory)
        try:
            self.desk = Desk(self.effects, token, webhook_secret)
            self.mailbox = smtp.Mailbox(smtp.NAME, self.desk)
            self.vendors = load_vendors(self.desk)
            self.stand_ins: dict[str, StandIn] = {**self.vendors, smtp.NAME: self.mailbox}
            for effect in self.effects.replay():
                if effect.destination in self.stand_ins:
                    self.stand_ins[effect.destination].apply(effect)
        except BaseException:
            self.effects.close()
            raise

    def stats(self) -> dict[str, Any]:
        """Counts per destination: effects by action, duplicates, and answers since the start."""
        return {
            "last_seq": self.effects.last_seq,
            "destinations": {
                name: {
                    "total": self.effects.counts[name].total(),
                    "actions": dict(self.effects.counts[name]),
                    "duplicates": self.effects.duplicates[name],
                    "answers": dict(self.desk.answers[name]),
                }
                for name in self.stand_ins
            },
        }

    def describe(self) -> list[dict[str, Any]]:
        """The vendors as the page needs them: name, title, view, path and rate limit."""
        return [
            {
                "name": name,
                "title": vendor.title or name,
                "view": vendor.view,
                "path": smtp.PATH if vendor is self.mailbox else f"/{name}",
                "limit": vendor.limit
                and {
                    "requests": vendor.limit.requests,
                    "seconds": vendor.limit.seconds,
                    "enabled": vendor.limit.enabled,
                },
            }
            for name, vendor in self.stand_ins.items()
        ]

    def snapshot(self, since: int) -> dict[str, Any]:
        """What the page draws: the recent effects after `since`, counts, faults and vendors."""
        return {
            "effects": [as_json(effect, with_body=False) for effect in self.effects.recent(since)],
            "stats": self.stats(),
            "faults": self.desk.faults.active(),
            "vendors": self.describe(),
        }


def create_app(
    directory: Path,
    token: str = DEFAULT_TOKEN,
    webhook_secret: str = DEFAULT_WEBHOOK_SECRET,
    *,
    fault: Fault | None = None,
    rate_limits: bool = True,
    postgres: str = "",
    files: str = "",
    allowed_hosts: tuple[str, ...] = LOOPBACK,
) -> Starlette:
    """The application over one directory; `app.state.sandbox` is its `Sandbox`.

    `fault` is on from the start; `rate_limits=False` lifts the limits that are on by default.
    `postgres` (a URL) and `files` (a folder) hold what destinations without a server deliver; the
    page shows it. `allowed_hosts` are the Host headers that are answered: a page on the
    internet that points its name at this machine gets nothing. Raises SandboxError if the
    directory is in use, its file is damaged, or the webhook secret is not base64.
    """
    sandbox = Sandbox(directory, token, webhook_secret)
    if fault is not None:
        sandbox.desk.faults.add(fault)
    if not rate_limits:
        for vendor in sandbox.stand_ins.values():
            if vendor.limit:
                vendor.limit.enabled = False
    control = Control(sandbox, postgres, files)
    routes: list[BaseRoute] = [
        Route("/", control.page),
        Route("/page.js", control.script),
        Route("/health", control.health),
        Route("/sandbox/effects", control.effects),
        Route("/sandbox/stats", control.stats),
        Route("/sandbox/stream", control.stream),
        Route("/sandbox/limits", control.set_limit, methods=["POST"]),
        Route("/sandbox/faults", control.faults, methods=["GET"]),
        Route("/sandbox/faults", control.add_fault, methods=["POST"]),
        Route("/sandbox/faults", control.remove_faults, methods=["DELETE"]),
        Route("/sandbox/faults/{id:int}", control.remove_faults, methods=["DELETE"]),
        Route("/sandbox/scenarios/{name}", control.play, methods=["POST"]),
        Route("/sandbox/holdings", control.holdings),
    ]
    routes += [
        Mount(f"/{name}", Gate(Router(vendor.routes()), vendor, sandbox.desk))
        for name, vendor in sandbox.vendors.items()
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))
    app = Starlette(routes=routes, middleware=[hosts])
    app.state.sandbox = sandbox
    return app


class Control:
    """The sandbox's own endpoints; everything that changes something asks for JSON.

    A browser sends JSON to another origin only after a preflight, which is not answered here.
    """

    def __init__(self, sandbox: Sandbox, postgres: str, files: str) -> None:
        self._sandbox, self._desk = sandbox, sandbox.desk
        self._postgres, self._files = postgres, files

    async def page(self, _request: Request) -> Response:
        """The page with what there is by now in it: it is drawn before the stream has begun."""
        page = (PAGE / "index.html").read_bytes()
        # Whatever the effects hold cannot end the element.
        snapshot = msgspec.json.encode(self._sandbox.snapshot(0)).replace(b"<", b"\\u003c")
        return HTMLResponse(page.replace(SNAPSHOT_MARK, snapshot), headers=PAGE_HEADERS)

    async def script(self, _request: Request) -> Response:
        return FileResponse(PAGE / "page.js", headers=PAGE_HEADERS)

    async def health(self, _request: Request) -> Response:
        return JSONResponse({"ok": True, "last_seq": self._sandbox.effects.last_seq})

    # Not async: reading a large file must not hold up the vendors, so it runs on a thread.
    def effects(self, request: Request) -> Response:
        query = request.query_params
        try:
            since, limit = int(query.get("since", "0")), int(query.get("limit", "500"))
        except ValueError:
            return _bad("since and limit must be whole numbers")
        if not 1 <= limit <= MAX_EFFECTS:
            return _bad(f"limit must be between 1 and {MAX_EFFECTS}")
        found = self._sandbox.effects.read(since, query.get("destination"), limit)
        return JSONResponse([as_json(effect) for effect in found])

    async def stats(self, _request: Request) -> Response:
        return JSONResponse(self._sandbox.stats())

    async def faults(self, _request: Request) -> Response:
        return JSONResponse(self._desk.faults.active())

    async def add_fault(self, request: Request) -> Response:
        if not _is_json(request):
            return _bad("send JSON with Content-Type: application/json", 415)
        try:
            fault = msgspec.json.decode(await request.body(), type=Fault)
            active = self._desk.faults.add(fault)
        except (msgspec.MsgspecError, ValueError) as error:
            return _bad(str(error))
        self._desk.announce()
        return JSONResponse(active.describe(), 201)

    async def play(self, request: Request) -> Response:
        """Switch a scenario on: `{"seed": 7}`, and a path for one vendor alone."""
        if not _is_json(request):
            return _bad("send JSON with Content-Type: application/json", 415)
        try:
            asked = msgspec.json.decode(await request.body() or b"{}", type=_Scenario)
            fault = scenario(request.path_params["name"], asked.seed, asked.path)
            active = self._desk.faults.add(fault)
        except (msgspec.MsgspecError, ValueError) as error:
            return _bad(str(error))
        self._desk.announce()
        return JSONResponse(active.describe(), 201)

    # Not async, for it waits for a database and for files.
    def holdings(self, _request: Request) -> Response:
        try:
            return JSONResponse(holdings(self._postgres, self._files))
        except (psycopg2.Error, OSError) as error:
            return _bad(f"what is held cannot be read ({type(error).__name__})", 503)

    async def remove_faults(self, request: Request) -> Response:
        removed = self._desk.faults.remove(request.path_params.get("id"))
        self._desk.announce()
        return JSONResponse({"removed": removed})

    async def set_limit(self, request: Request) -> Response:
        """Switch a vendor's rate limit: `{"vendor": "slack", "enabled": true}`."""
        if not _is_json(request):
            return _bad("send JSON with Content-Type: application/json", 415)
        try:
            asked = msgspec.json.decode(await request.body(), type=_LimitSwitch)
        except msgspec.MsgspecError as error:
            return _bad(str(error))
        vendor = self._sandbox.stand_ins.get(asked.vendor)
        if vendor is None or vendor.limit is None:
            return _bad(f"{asked.vendor} has no rate limit", 404)
        vendor.limit.enabled = asked.enabled
        self._desk.announce()
        return JSONResponse({"vendor": asked.vendor, "enabled": asked.enabled})

    async def stream(self, request: Request) -> Response:
        """Server-sent events: a snapshot at once, then one whenever something has changed."""
        text = request.headers.get("last-event-id") or request.query_params.get("since", "0")
        since = int(text) if text.isdecimal() else 0
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._events(since), 200, headers, "text/event-stream")

    async def _events(self, since: int) -> AsyncIterator[bytes]:
        changed = self._desk.listen()
        # A reader that has seen more than there is comes from another directory's sandbox.
        since = since if since <= self._sandbox.effects.last_seq else 0
        try:
            while not self._desk.closing:
                changed.clear()
                last, snapshot = self._sandbox.effects.last_seq, self._sandbox.snapshot(since)
                since = last
                yield b"id: %d\ndata: %b\n\n" % (last, msgspec.json.encode(snapshot))
                # A burst of thousands of rows becomes a few messages a second.
                await asyncio.sleep(STREAM_PAUSE_SECONDS)
                while not self._desk.closing:
                    try:
                        async with asyncio.timeout(HEARTBEAT_SECONDS):
                            await changed.wait()
                        break
                    except TimeoutError:
                        yield b": still here\n\n"
        finally:
            self._desk.leave(changed)


class _Scenario(msgspec.Struct):
    seed: int = 0
    path: str = "/"


class _LimitSwitch(msgspec.Struct):
    vendor: str
    enabled: bool


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"


def _bad(message: str, status: int = 400) -> JSONResponse:
    return JSONResponse({"error": message}, status)
