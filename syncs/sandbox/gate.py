"""The gate in front of every vendor: request ids, body limit, faults and counts of answers."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from syncs.sandbox.effects import SandboxError
from syncs.sandbox.faults import Fault
from syncs.sandbox.vendor import Desk, StandIn

MAX_BODY_BYTES = 10 * 1024 * 1024
DEFAULT_HANG_SECONDS = 30.0


class CuttableProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, plus a way for the gate to cut the connection without an answer."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["signalbox.cut"] = self.transport.abort


class Gate:
    """ASGI app around one vendor's routes."""

    def __init__(self, app: ASGIApp, vendor: StandIn, desk: Desk) -> None:
        self.app, self.vendor, self.desk = app, vendor, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["signalbox.request_id"] = str(uuid.uuid4())
        body = await _read(receive)
        if body is None:
            return
        send = self._counted(scope, send)
        if len(body) > MAX_BODY_BYTES:
            refusal = JSONResponse({"message": f"body over {MAX_BODY_BYTES} bytes"}, 413)
            await refusal(scope, receive, send)
            return
        fault = self.desk.faults.draw(scope["path"])
        if fault is None:
            await self._serve(body, scope, receive, send)
        elif fault.kind in ("429", "500"):
            answer = self.vendor.refusal(int(fault.kind), fault.retry_after)
            if fault.kind == "429":
                answer.headers["retry-after"] = str(fault.retry_after)
            await answer(scope, receive, send)
        elif fault.kind == "hang":
            if not await _client_leaves(receive, _seconds(fault, DEFAULT_HANG_SECONDS)):
                await self._serve(body, scope, receive, send)
        elif fault.kind == "disconnect":
            await self._cut(scope, receive)
        else:
            await self._serve(body, scope, receive, _nowhere)
            if not await _client_leaves(receive, _seconds(fault, 0)):
                await self._cut(scope, receive)

    async def _serve(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self.app(scope, replay, send)
        except SandboxError as error:
            refusal = JSONResponse({"message": str(error)}, 503, {"retry-after": "5"})
            await refusal(scope, receive, send)

    async def _cut(self, scope: Scope, receive: Receive) -> None:
        self.desk.count_answer(self.vendor.name, "cut")
        scope["signalbox.cut"]()
        while (await receive())["type"] != "http.disconnect":
            pass

    def _counted(self, scope: Scope, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.desk.count_answer(self.vendor.name, str(message["status"]))
                message.setdefault("headers", []).append(
                    (b"x-request-id", scope["signalbox.request_id"].encode())
                )
            await send(message)

        return counted


def _seconds(fault: Fault, default: float) -> float:
    return default if fault.seconds is None else fault.seconds


async def _nowhere(_message: Message) -> None:
    """An answer that never arrives."""


async def _read(receive: Receive) -> bytes | None:
    """The whole body, cut soon after it is too long; None if the client left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body") or len(body) > MAX_BODY_BYTES:
            return bytes(body)


async def _client_leaves(receive: Receive, seconds: float) -> bool:
    """Wait; True as soon as the client closes its connection."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True
