"""A workflow of Microsoft Teams that posts the adaptive card it gets to a channel."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect

PATH = "/workflows/{workflow}/triggers/manual/paths/invoke"
CARD = "application/vnd.microsoft.card.adaptive"
MAX_BYTES = 28 * 1024


class StandIn(vendor.StandIn):
    title = "Teams"
    view = "cards"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        self.limit = vendor.RateLimit(100, 60.0, enabled=True)

    def routes(self) -> Sequence[BaseRoute]:
        return [Route(PATH, self._invoke, methods=["POST"])]

    def refusal(self, status: int, retry_after: int) -> Response:
        if status == 429:
            words = "Rate limit is exceeded. Try again later."
            answer = _error(429, "TooManyRequests", words)
            answer.headers["retry-after"] = str(retry_after)
            return answer
        return _error(status, "InternalServerError", "Encountered internal server error.")

    async def _invoke(self, request: Request) -> Response:
        if not self.is_token(request.query_params.get("sig", "")):
            return _error(401, "DirectApiInvalidAuthorizationScheme", "The signature is not valid.")
        wait = self.limit.charge() if self.limit else 0
        if wait:
            return self.refusal(429, wait)
        raw = await request.body()
        if len(raw) > MAX_BYTES:
            return _error(413, "RequestEntityTooLarge", "Request Entity too large")
        card = _card(await vendor.json_object(request))
        workflow = request.path_params["workflow"]
        if card is None or self.rejects(request, raw.decode("utf-8", "replace")):
            return _error(400, "InvalidBotAdaptiveCard", "The specified adaptive card is invalid.")
        lines = [str(block.get("text", "")) for block in card["body"]]
        identity = hashlib.sha256(raw).hexdigest()[:32]
        self.commit(
            [
                Effect(
                    destination=self.name,
                    action="card_posted",
                    key=workflow,
                    summary=f"{workflow}: {lines[0][:100] if lines else '(empty)'}",
                    detail={"workflow": workflow, "card": card},
                    duplicate=self.desk.effects.seen(self.name, identity),
                    identity=identity,
                    request_id=vendor.request_id(request),
                    body=raw.decode("utf-8", "replace"),
                )
            ]
        )
        return Response(status_code=202)


def _card(body: dict[str, Any] | None) -> dict[str, Any] | None:
    """The one card of a message, or None."""
    attachments = (body or {}).get("attachments")
    if (body or {}).get("type") != "message" or not isinstance(attachments, list):
        return None
    first = attachments[0] if attachments else None
    if not isinstance(first, dict) or first.get("contentType") != CARD:
        return None
    card = first.get("content")
    if not isinstance(card, dict) or card.get("type") != "AdaptiveCard":
        return None
    blocks = card.get("body")
    known = isinstance(blocks, list) and all(isinstance(block, dict) for block in blocks)
    return card if known and card.get("version") else None


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
