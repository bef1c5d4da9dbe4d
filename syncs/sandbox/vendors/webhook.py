"""A receiver of signed webhooks (Standard Webhooks) at /webhook/<name>; idempotent by id."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect, SandboxError

WINDOW_SECONDS = 300
SECRET_PREFIX = "whsec_"  # noqa: S105


class StandIn(vendor.StandIn):
    title = "Webhooks"
    view = "hooks"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        encoded = desk.webhook_secret.removeprefix(SECRET_PREFIX)
        try:
            self._secret = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise SandboxError(
                f"the webhook secret must be {SECRET_PREFIX} followed by base64"
            ) from None

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/{name}", self._receive, methods=["POST"])]

    async def _receive(self, request: Request) -> Response:
        body = await request.body()
        problem = self._problem(request, body)
        if problem:
            return JSONResponse({"error": problem}, 401)
        name, webhook_id = request.path_params["name"], request.headers["webhook-id"]
        payload = _payload(body)
        if self.rejects(request, webhook_id) or self.rejects(request, str(payload)):
            return JSONResponse({"error": "the sandbox was asked to refuse this"}, 422)
        identity = f"{name}/{webhook_id}"
        duplicate = self.desk.effects.seen(self.name, identity)
        self.commit(
            [
                Effect(
                    destination=self.name,
                    action="webhook_received",
                    key=name,
                    summary=f"{name}: {webhook_id}" + (" again" if duplicate else ""),
                    object_id=webhook_id,
                    detail={"name": name, "webhook_id": webhook_id, "payload": payload},
                    duplicate=duplicate,
                    identity=identity,
                    request_id=vendor.request_id(request),
                    body=body.decode("utf-8", "replace"),
                )
            ]
        )
        return JSONResponse({"ok": True, "duplicate": duplicate})

    def _problem(self, request: Request, body: bytes) -> str | None:
        """Why the signature does not hold, or None."""
        headers = request.headers
        webhook_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not (webhook_id and stamp and "webhook-signature" in headers):
            return "missing webhook-id, webhook-timestamp or webhook-signature"
        # The length keeps int() from refusing absurdly many digits.
        if (
            not stamp.isdecimal()
            or len(stamp) > 12
            or abs(time.time() - int(stamp)) > WINDOW_SECONDS
        ):
            return f"webhook-timestamp is not within {WINDOW_SECONDS} seconds of now"
        signed = f"{webhook_id}.{stamp}.".encode() + body
        digest = hmac.new(self._secret, signed, hashlib.sha256).digest()
        expected = b"v1," + base64.b64encode(digest)
        given = headers["webhook-signature"].split()
        if not any(hmac.compare_digest(expected, each.encode()) for each in given):
            return "no signature matches"
        return None


def _payload(body: bytes) -> Any:
    """The payload as JSON where it is JSON, else as text."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body.decode("utf-8", "replace")
