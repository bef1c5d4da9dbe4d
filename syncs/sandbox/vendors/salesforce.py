"""Salesforce: upsert by external id as sObject collections, a token, the organization's name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from syncs.sandbox import vendor
from syncs.sandbox.people import EMAIL, REFUSED_ROW, People, RefusedError, json_body, listed

DATA = "/services/data/{version}"
MAX_RECORDS = 200


class StandIn(People):
    title = "Salesforce"

    def __init__(self, name: str, desk: vendor.Desk) -> None:
        super().__init__(name, desk)
        # The real limit is 100,000 and more a day; what a test meets is its answer.
        self.limit = vendor.RateLimit(100_000, 86_400.0, enabled=True)

    def routes(self) -> Sequence[BaseRoute]:
        upsert = f"{DATA}/composite/sobjects/{{type}}/{{field}}"
        return [
            Route("/services/oauth2/token", self._token, methods=["POST"]),
            Route(upsert, self.guarded(self._upsert), methods=["PATCH"]),
            Route(f"{DATA}/query", self.guarded(self._query), methods=["GET"]),
        ]

    def error(self, status: int, code: str, message: str) -> Response:
        names = {401: "INVALID_SESSION_ID", 429: "REQUEST_LIMIT_EXCEEDED"}
        error = {"message": message, "errorCode": names.get(status, code.upper())}
        return JSONResponse([error], status)

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        if form.get("grant_type") != "client_credentials":
            problem = {"error": "unsupported_grant_type", "error_description": "not supported"}
            return JSONResponse(problem, 400)
        if not self.is_token(form.get("client_secret", "")):
            problem = {"error": "invalid_client", "error_description": "invalid client credentials"}
            return JSONResponse(problem, 401)
        return JSONResponse({"access_token": self.desk.token, "token_type": "Bearer"})

    async def _query(self, request: Request) -> Response:
        records = [{"attributes": {"type": "Organization"}, "Name": "Signalbox Sandbox"}]
        return JSONResponse({"totalSize": 1, "done": True, "records": records})

    async def _upsert(self, request: Request) -> Response:
        kind, field = request.path_params["type"], request.path_params["field"]
        body = await json_body(request)
        records = listed(body, "records", MAX_RECORDS)
        if any((record.get("attributes") or {}).get("type") != kind for record in records):
            raise RefusedError(400, "invalid_input", "all records must be of the type in the URI")
        results, effects = [], []
        for record in records:
            fields = {name: value for name, value in record.items() if name != "attributes"}
            key = str(fields.get(field) or "")
            problem = self._problem(request, fields, key, field)
            if problem:
                code, message = problem
                error = {"statusCode": code, "message": message, "fields": []}
                results.append({"success": False, "errors": [error]})
                continue
            record_id = f"{kind}/{key}".lower()
            is_new = self.record(record_id) is None
            effects.append(self.written(request, key, fields, record, record_id))
            number = hashlib.sha256(record_id.encode()).hexdigest()[:12].upper()
            results.append({"id": f"003{number}", "success": True, "errors": [], "created": is_new})
        self.commit(effects)
        return JSONResponse(results)

    def _problem(
        self, request: Request, fields: dict[str, object], key: str, field: str
    ) -> tuple[str, str] | None:
        """Why a record is refused: status code and sentence."""
        if not key:
            return "MISSING_ARGUMENT", f"{field} not specified"
        if self.rejects(request, key):
            return "FIELD_CUSTOM_VALIDATION_EXCEPTION", REFUSED_ROW
        email = fields.get("Email")
        if email and not EMAIL.fullmatch(str(email)):
            return "INVALID_EMAIL_ADDRESS", f"Email: invalid email address: {email}"
        return None
