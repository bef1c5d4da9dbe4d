"""Twilio's Messages resource: one SMS a request, an error with its code."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from collections.abc import Sequence
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect

ACCOUNT = "/2010-04-01/Accounts/{sid}"
NUMBER = re.compile(r"\+[1-9]\d{6,14}")
MAX_TEXT = 1600


class StandIn(vendor.StandIn):
    title = "Twilio SMS"
    view = "sms"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self.limit = vendor.RateLimit(100, 1.0, enabled=True)

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route(f"{ACCOUNT}.json", self._account, methods=["GET"]),
            Route(f"{ACCOUNT}/Messages.json", self._send, methods=["POST"]),
        ]

    def refusal(self, status: int, retry_after: int) -> Response:
        if status == 429:
            answer = _error(429, 20429, "Too Many Requests")
            answer.headers["retry-after"] = str(retry_after)
            return answer
        return _error(status, 20500, "An internal server error has occurred")

    async def _account(self, request: Request) -> Response:
        if not self._is_login(request):
            return _error(401, 20003, "Authenticate")
        account = {"sid": request.path_params["sid"], "friendly_name": "Signalbox Sandbox"}
        return JSONResponse({**account, "status": "active", "type": "Full"})

    async def _send(self, request: Request) -> Response:
        if not self._is_login(request):
            return _error(401, 20003, "Authenticate")
        wait = self.limit.charge() if self.limit else 0
        if wait:
            return self.refusal(429, wait)
        raw = (await request.body()).decode("utf-8", "replace")
        form = dict(parse_qsl(raw, keep_blank_values=True))
        to, text = form.get("To", ""), form.get("Body", "")
        sender = form.get("From") or form.get("MessagingServiceSid", "")
        problem = _problem(to, sender, text)
        if problem is None and self.rejects(request, to):
            problem = (21610, "Attempt to send to unsubscribed recipient")
        if problem:
            return _error(400, *problem)
        sid = f"SM{uuid.uuid4().hex}"
        identity = hashlib.sha256(f"{to} {sender} {text}".encode()).hexdigest()[:32]
        self.commit(
            [
                Effect(
                    destination=self.name,
                    action="sms_queued",
                    key=to,
                    summary=f"{to}: {text[:100]}",
                    object_id=sid,
                    detail={"to": to, "from": sender, "text": text, "segments": _segments(text)},
                    duplicate=self.desk.effects.seen(self.name, identity),
                    identity=identity,
                    request_id=vendor.request_id(request),
                    body=raw,
                )
            ]
        )
        answer = {"sid": sid, "account_sid": request.path_params["sid"], "status": "queued"}
        answer |= {"to": to, "from": sender, "body": text, "num_segments": str(_segments(text))}
        return JSONResponse({**answer, "error_code": None, "error_message": None}, 201)

    def _is_login(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            sid, _, token = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        own = sid == request.path_params["sid"]
        return scheme.lower() == "basic" and own and self.is_token(token)


def _problem(to: str, sender: str, text: str) -> tuple[int, str] | None:
    if not to:
        return 21604, "A 'To' phone number is required."
    if not NUMBER.fullmatch(to):
        return 21211, f"Invalid 'To' Phone Number: {to}"
    if not sender:
        return 21603, "A 'From' phone number is required."
    if not text:
        return 21602, "Message body is required."
    if len(text) > MAX_TEXT:
        return 21617, "The concatenated message body exceeds the 1600 character limit"
    return None


def _segments(text: str) -> int:
    """Parts an SMS is sent in; characters beyond ASCII are taken to need UCS-2."""
    single, several = (160, 153) if text.isascii() else (70, 67)
    return 1 if len(text) <= single else -(-len(text) // several)


def _error(status: int, code: int, message: str) -> JSONResponse:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return JSONResponse(
        {"code": code, "message": message, "more_info": more, "status": status}, status
    )
