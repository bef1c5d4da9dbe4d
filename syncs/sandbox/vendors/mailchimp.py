"""Mailchimp: members of an audience in batches, tags (static segments), the account's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect
from syncs.sandbox.people import EMAIL, REFUSED_ROW, People, RefusedError, json_body, listed

MAX_MEMBERS = 500
STATUSES = {"subscribed", "unsubscribed", "cleaned", "pending", "transactional"}


class StandIn(People):
    title = "Mailchimp"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        # Ten connections at once; ten requests a second come near it.
        self.limit = vendor.RateLimit(10, 1.0, enabled=True)

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/3.0/", self.guarded(self._root), methods=["GET"]),
            Route("/3.0/lists/{list}", self.guarded(self._members), methods=["POST"]),
            Route("/3.0/lists/{list}/segments/{tag}", self.guarded(self._tag), methods=["POST"]),
        ]

    def error(self, status: int, code: str, message: str) -> Response:
        titles = {401: "API Key Invalid", 429: "Too Many Requests"}
        title = titles.get(status, "Invalid Resource")
        problem = {"title": title, "status": status, "detail": message, "instance": ""}
        return JSONResponse(problem, status, media_type="application/problem+json")

    async def _root(self, request: Request) -> Response:
        return JSONResponse({"account_name": "Signalbox Sandbox", "login_id": "1"})

    async def _members(self, request: Request) -> Response:
        body, audience = await json_body(request), request.path_params["list"]
        members = listed(body, "members", MAX_MEMBERS)
        addresses = [str(member.get("email_address", "")).lower() for member in members]
        if len(set(addresses)) < len(addresses):
            raise RefusedError(400, "invalid", "the same email_address is given twice")
        effects: list[Effect] = []
        new: list[dict[str, str]] = []
        updated: list[dict[str, str]] = []
        errors: list[dict[str, str]] = []
        for member in members:
            address = str(member.get("email_address", ""))
            known = self.record(f"{audience}/{address}") is not None
            taken = known and not body.get("update_existing")
            problem = self._problem(request, member, address, taken)
            if problem:
                errors.append(_refused(address, *problem))
                continue
            merge = member.get("merge_fields") or {}
            rest = {name: value for name, value in member.items() if name != "merge_fields"}
            fields, record_id = {**rest, **merge}, f"{audience}/{address}"
            effects.append(self.written(request, address, fields, member, record_id))
            (updated if known else new).append({"email_address": address})
        self.commit(effects)
        return JSONResponse(
            {
                "new_members": new,
                "updated_members": updated,
                "errors": errors,
                "total_created": len(new),
                "total_updated": len(updated),
                "error_count": len(errors),
            }
        )

    async def _tag(self, request: Request) -> Response:
        body, audience = await json_body(request), request.path_params["list"]
        tag, effects, errors = request.path_params["tag"], [], []
        done: dict[str, list[dict[str, str]]] = {"members_added": [], "members_removed": []}
        for name, joins in (("members_to_add", True), ("members_to_remove", False)):
            for address in listed(body, name, MAX_MEMBERS) if name in body else ():
                record_id = f"{audience}/{address}"
                known = self.record(record_id) is not None
                problem = None if known else "Email address is not on the list."
                if self.rejects(request, address):
                    problem = REFUSED_ROW
                if problem:
                    errors.append({"email_addresses": [address], "error": problem})
                    continue
                effects.append(
                    self.member(request, address, f"tag {tag}", joins=joins, record_id=record_id)
                )
                done["members_added" if joins else "members_removed"].append(
                    {"email_address": address}
                )
        self.commit(effects)
        return JSONResponse({**done, "errors": errors, "error_count": len(errors)})

    def _problem(
        self, request: Request, member: dict[str, Any], address: str, taken: bool
    ) -> tuple[str, str, str] | None:
        """Why a member is refused: sentence, code, field."""
        if self.rejects(request, address):
            return REFUSED_ROW, "ERROR_GENERIC", ""
        if not EMAIL.fullmatch(address):
            return "Please provide a valid email address.", "ERROR_GENERIC", "email_address"
        if taken:
            return f"{address} is already a list member.", "ERROR_CONTACT_EXISTS", ""
        if member.get("status") not in STATUSES:
            return "status must be one of the allowed values", "ERROR_GENERIC", "status"
        return None


def _refused(address: str, error: str, code: str, field: str) -> dict[str, str]:
    return {
        "email_address": address,
        "error": error,
        "error_code": code,
        "field": field,
        "field_message": error if field else "",
    }
