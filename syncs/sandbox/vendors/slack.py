"""Slack's Web API, chat.postMessage and auth.test, and an incoming webhook."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect

CHANNEL = re.compile(r"#?[\w-]{1,80}")
MAX_TEXT = 40_000
WEBHOOK_CHANNEL = "#incoming-webhook"
STRUCTURED = ("blocks", "attachments", "metadata")


class StandIn(vendor.StandIn):
    title = "Slack"
    view = "channel"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        # Off unless asked for: real Slack allows short bursts, and a demo should not wait.
        self.limit = vendor.RateLimit(1, 1.0, enabled=False)
        self._last_ts = 0

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/api/chat.postMessage", self._post_message, methods=["POST"]),
            Route("/api/auth.test", self._auth_test, methods=["GET", "POST"]),
            Route("/services/{team}/{bot}/{token}", self._webhook, methods=["POST"]),
        ]

    def apply(self, effect: Effect) -> None:
        self._last_ts = max(self._last_ts, int((effect.object_id or "0").replace(".", "")))

    def refusal(self, status: int, retry_after: int) -> Response:
        if status == 429:
            body, headers = _failure("ratelimited"), {"retry-after": str(retry_after)}
            return JSONResponse(body, 429, headers)
        return JSONResponse(_failure("internal_error"), status)

    async def _auth_test(self, request: Request) -> Response:
        error = self._auth_error(request, await _arguments(request) or {})
        if error:
            return JSONResponse(_failure(error))
        team = {"team": "Signalbox Sandbox", "user": "signalbox", "team_id": "T0SANDBOX"}
        return JSONResponse({"ok": True, **team, "user_id": "U0SANDBOX", "bot_id": "B0SANDBOX"})

    async def _post_message(self, request: Request) -> Response:
        arguments = await _arguments(request)
        if arguments is None:
            return JSONResponse(_failure("invalid_json"))
        channel = str(arguments.get("channel") or "")
        error = self._auth_error(request, arguments) or _content_error(arguments)
        if error is None and self.rejects(request, channel):
            error = "channel_not_found"
        if error:
            return JSONResponse(_failure(error))
        wait = self.limit.charge(channel) if self.limit else 0
        if wait:
            return self.refusal(429, wait)
        ts, text = await self._post(request, channel, arguments)
        message = {"type": "message", "bot_id": "B0SANDBOX", "user": "U0SANDBOX", "text": text}
        message |= {"ts": ts, "team": "T0SANDBOX"}
        if arguments.get("blocks"):
            message["blocks"] = arguments["blocks"]
        return JSONResponse(
            {"ok": True, "channel": _channel_id(channel), "ts": ts, "message": message}
        )

    async def _webhook(self, request: Request) -> Response:
        """Answers in plain text, as Slack does."""
        if not self.is_token(request.path_params["token"]):
            return PlainTextResponse("invalid_token", 403)
        arguments = await vendor.json_object(request)
        if arguments is None:
            return PlainTextResponse("invalid_payload", 400)
        arguments["channel"] = WEBHOOK_CHANNEL
        error = _content_error(arguments)
        if error or self.rejects(request, str(arguments.get("text"))):
            return PlainTextResponse(error or "action_prohibited", 400)
        wait = self.limit.charge(WEBHOOK_CHANNEL) if self.limit else 0
        if wait:
            return PlainTextResponse("rate_limited", 429, {"retry-after": str(wait)})
        await self._post(request, WEBHOOK_CHANNEL, arguments)
        return PlainTextResponse("ok")

    async def _post(
        self, request: Request, channel: str, arguments: dict[str, Any]
    ) -> tuple[str, str]:
        """Record the message; returns its id and text."""
        ts, text = self._new_ts(), str(arguments.get("text") or "")
        kept = ("username", "icon_emoji", "thread_ts", *STRUCTURED)
        detail = {"channel": channel, "text": text, "ts": ts} | {
            name: arguments[name] for name in kept if arguments.get(name)
        }
        identity = _identity(arguments)
        effect = Effect(
            destination=self.name,
            action="message_posted",
            key=channel,
            summary=f"{channel}: {text.strip().splitlines()[0] if text.strip() else '(blocks)'}",
            object_id=ts,
            detail=detail,
            duplicate=self.desk.effects.seen(self.name, identity),
            identity=identity,
            request_id=vendor.request_id(request),
            body=(await request.body()).decode("utf-8", "replace"),
        )
        self.commit([effect])
        return ts, text

    def _auth_error(self, request: Request, arguments: dict[str, Any]) -> str | None:
        form_token = arguments.get("token")
        if "authorization" not in request.headers and not form_token:
            return "not_authed"
        if self.has_token(request) or (form_token and self.is_token(str(form_token))):
            return None
        return "invalid_auth"

    def _new_ts(self) -> str:
        """A message's id: seconds and microseconds, never the same twice."""
        self._last_ts = max(self._last_ts + 1, time.time_ns() // 1000)
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"


async def _arguments(request: Request) -> dict[str, Any] | None:
    """The call's arguments from JSON or form, structured ones decoded; None if unreadable."""
    if "json" in request.headers.get("content-type", ""):
        return await vendor.json_object(request)
    arguments: dict[str, Any] = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
    for name in STRUCTURED:
        if name in arguments:
            try:
                arguments[name] = msgspec.json.decode(arguments[name])
            except msgspec.DecodeError:
                return None
    return arguments


def _failure(error: str) -> dict[str, object]:
    return {"ok": False, "error": error}


def _content_error(arguments: dict[str, Any]) -> str | None:
    text, blocks = arguments.get("text"), arguments.get("blocks")
    if not CHANNEL.fullmatch(str(arguments.get("channel") or "")):
        return "channel_not_found"
    if blocks and not (
        isinstance(blocks, list) and all(isinstance(b, dict) and "type" in b for b in blocks)
    ):
        return "invalid_blocks"
    if not (text or blocks or arguments.get("attachments")):
        return "no_text"
    return "msg_too_long" if len(str(text or "")) > MAX_TEXT else None


def _channel_id(channel: str) -> str:
    """Slack answers with an id even when it was asked by name."""
    if not channel.startswith("#"):
        return channel
    return "C" + hashlib.sha256(channel.encode()).hexdigest()[:10].upper()


def _identity(arguments: dict[str, Any]) -> str:
    """What makes two messages the same one: the sender's own id for it, else all it says."""
    said = (
        arguments.get("client_msg_id")
        or arguments.get("metadata")
        or [arguments.get(name) for name in ("text", "blocks", "attachments", "thread_ts")]
    )
    encoded = msgspec.json.encode([arguments.get("channel"), said], order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:32]
