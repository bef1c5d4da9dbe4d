"""SendGrid: marketing contacts and their lists, mail, the scopes of a key."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect
from syncs.sandbox.people import (
    EMAIL,
    REFUSED_ROW,
    People,
    RefusedError,
    first_of,
    json_body,
    listed,
)

IDENTIFIERS = ("email", "external_id", "phone_number_id", "anonymous_id")
MAX_CONTACTS = 30_000
MAX_FOUND = 100


class StandIn(People):
    title = "SendGrid"
    view = "plain"
    max_bytes = 6_000_000

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        # Three requests in two seconds for contacts; mail has a far larger one.
        self.limit = vendor.RateLimit(3, 2.0, enabled=True)
        self._keys: dict[str, str] = {}

    def routes(self) -> Sequence[BaseRoute]:
        contacts, members = "/v3/marketing/contacts", "/v3/marketing/lists/{list}/contacts"
        return [
            Route("/v3/scopes", self._open(self._scopes), methods=["GET"]),
            Route("/v3/mail/send", self._open(self._mail), methods=["POST"]),
            Route(contacts, self.guarded(self._upsert), methods=["PUT"]),
            Route(f"{contacts}/search/emails", self._open(self._find), methods=["POST"]),
            Route(members, self._open(self._leave), methods=["DELETE"]),
        ]

    def _open(self, endpoint: Any) -> Any:
        """Behind credentials, but outside of the limit for contacts."""

        async def answer(request: Request) -> Response:
            if not self.authorized(request):
                return self.error(401, "", "The provided authorization grant is invalid")
            try:
                answered: Response = await endpoint(request)
            except RefusedError as refused:
                return self.error(refused.status, refused.code, refused.message)
            return answered

        return answer

    def error(self, status: int, code: str, message: str) -> Response:
        return JSONResponse({"errors": [{"message": message, "field": code or None}]}, status)

    def apply(self, effect: Effect) -> None:
        super().apply(effect)
        if effect.object_id is not None:
            self._keys[_contact_id(effect.object_id)] = effect.object_id

    async def _scopes(self, request: Request) -> Response:
        scopes = ["mail.send", "marketing.read", "marketing.update"]
        return JSONResponse({"scopes": scopes})

    async def _upsert(self, request: Request) -> Response:
        body = await json_body(request)
        contacts = listed(body, "contacts", MAX_CONTACTS)
        keys = [first_of(contact, IDENTIFIERS) for contact in contacts]
        for number, (contact, key) in enumerate(zip(contacts, keys, strict=True)):
            email = contact.get("email")
            if key is None or (email and not EMAIL.fullmatch(str(email))):
                where = f"contacts[{number}].email"
                raise RefusedError(400, where, "email is invalid, or no identifier is given")
            if self.rejects(request, key):
                raise RefusedError(400, f"contacts[{number}]", REFUSED_ROW)
        effects: list[Effect] = []
        for contact, key in zip(contacts, keys, strict=True):
            custom = contact.get("custom_fields") or {}
            rest = {name: value for name, value in contact.items() if name != "custom_fields"}
            effects.append(self.written(request, str(key), {**rest, **custom}, contact))
            effects += [
                self.member(request, str(key), f"list {each}", joins=True)
                for each in body.get("list_ids") or []
            ]
        self.commit(effects)
        return JSONResponse({"job_id": str(uuid.uuid4())}, 202)

    async def _find(self, request: Request) -> Response:
        emails = listed(await json_body(request), "emails", MAX_FOUND)
        result: dict[str, Any] = {}
        for email in map(str.lower, emails):
            known = self.record(email) is not None
            contact = {"id": _contact_id(email), "email": email}
            result[email] = {"contact": contact} if known else {"error": "contact not found"}
        if not any("contact" in found for found in result.values()):
            raise RefusedError(404, "", "no contacts were found")
        return JSONResponse({"result": result})

    async def _leave(self, request: Request) -> Response:
        given = request.query_params.get("contact_ids", "").split(",")
        keys = [self._keys[number] for number in given if number in self._keys]
        name = f"list {request.path_params['list']}"
        self.commit([self.member(request, key, name, joins=False) for key in keys])
        return JSONResponse({"job_id": str(uuid.uuid4())}, 202)

    async def _mail(self, request: Request) -> Response:
        mail = await json_body(request)
        people = listed(mail, "personalizations", 1000)
        content = listed(mail, "content", 10)
        if not EMAIL.fullmatch(str((mail.get("from") or {}).get("email", ""))):
            raise RefusedError(
                400, "from.email", "The from email does not contain a valid address."
            )
        if not mail.get("subject"):
            raise RefusedError(400, "subject", "The subject is required.")
        effects: list[Effect] = []
        for number, person in enumerate(people):
            for to in listed(person, "to", 1000):
                address = str(to.get("email", ""))
                if not EMAIL.fullmatch(address) or self.rejects(request, address):
                    where = f"personalizations.{number}.to.email"
                    raise RefusedError(400, where, "Does not contain a valid address.")
                effects.append(self._mailed(request, mail, content, person, address))
        self.commit(effects)
        return Response(status_code=202, headers={"x-message-id": uuid.uuid4().hex[:22]})

    def _mailed(
        self, request: Request, mail: dict[str, Any], content: list[Any], person: Any, to: str
    ) -> Effect:
        sent = {part.get("type"): part.get("value") for part in content}
        told = person.get("custom_args") or [mail.get("subject"), sent]
        identity = hashlib.sha256(msgspec.json.encode([to, told], order="sorted")).hexdigest()
        return Effect(
            destination=self.name,
            action="email_sent",
            key=to,
            summary=f"{mail['subject']}: {str(sent.get('text/plain') or '').strip()[:300]}",
            detail={
                "to": [to],
                "from": mail["from"]["email"],
                "subject": mail["subject"],
                "text": sent.get("text/plain"),
                "html": sent.get("text/html"),
                "list_unsubscribe": (mail.get("headers") or {}).get("List-Unsubscribe"),
            },
            duplicate=self.desk.effects.seen(self.name, identity),
            identity=identity,
            request_id=vendor.request_id(request),
            body=msgspec.json.encode(mail).decode(),
        )


def _contact_id(key: str) -> str:
    found = hashlib.sha256(key.encode()).hexdigest()
    return str(uuid.UUID(found[:32]))
