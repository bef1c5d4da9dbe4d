"""Salesforce records of any type: upsert by an external id, sObject collections.

https://developer.salesforce.com/docs/platform/api-rest/guide/resources-composite-sobjects-collections-upsert.html

A sync's `object` is the type's API name (Contact, Account, Renewal__c), its key column the
external id field, its other columns fields by API name; null empties one. `Account.Number__c`
sets a parent by the parent's own external id.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Answer, Fatal, HttpClient, Row, RowResult, Target, Unanswered, nested

MODES = {"upsert"}
OBJECTS = {"*"}
BATCH_SIZE = 200
API_VERSION = "v68.0"
RATE = 5.0  # the limit is per day (100,000 requests and more), and 25 long ones at once
CREDENTIALS = ("base_url",)
SANDBOX = {"access_token": "sandbox", "base_url": "{url}/salesforce"}

# Errors of a row that pass by themselves.
_AGAIN = {"REQUEST_LIMIT_EXCEEDED", "SERVER_UNAVAILABLE", "UNABLE_TO_LOCK_ROW", "UNKNOWN_EXCEPTION"}
_tokens: dict[tuple[str, str], str] = {}
_getting = threading.Lock()


class Settings(BaseSettings):
    """SIGNALBOX_SALESFORCE_BASE_URL is your My Domain address (https://acme.my.salesforce.com).

    _CLIENT_ID and _CLIENT_SECRET are those of a connected app with the client credentials flow;
    in their place _ACCESS_TOKEN is a token at hand.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_SALESFORCE_", extra="ignore", env_ignore_empty=True
    )

    base_url: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    access_token: SecretStr | None = None

    @model_validator(mode="after")
    def _whole_login(self) -> Settings:
        if (self.client_id is None) != (self.client_secret is None):
            raise ValueError("CLIENT_ID and CLIENT_SECRET belong together: set both or none")
        if (self.base_url is None) != (self.client_id is None and self.access_token is None):
            raise ValueError("set BASE_URL with CLIENT_ID and CLIENT_SECRET, or with ACCESS_TOKEN")
        return self


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    records = [{"attributes": {"type": target.object}, **nested(row.fields)} for row in rows]
    path = f"composite/sobjects/{quote(target.object, safe='')}/{quote(target.key, safe='')}"
    answer = _signed(
        target.settings,
        http,
        lambda headers: http.request(
            "PATCH",
            _url(target.settings, path),
            json={"allOrNone": False, "records": records},
            headers=headers,
        ),
    )
    if not isinstance(answer.body, list) or len(answer.body) != len(rows):
        raise Unanswered("Salesforce's answer does not have one result per record")
    return [_result(item, answer.status_code) for item in answer.body]


def check(target: Target[Settings], http: HttpClient) -> str:
    query = urlencode({"q": "select Name from Organization"})
    url = _url(target.settings, f"query?{query}")
    body = _signed(target.settings, http, lambda headers: http.get(url, headers=headers)).body
    return f"organization {body['records'][0]['Name']}"


def _result(item: dict[str, Any], status_code: int) -> RowResult:
    if item.get("success") is True:
        return RowResult.delivered(status_code)
    errors = item.get("errors") or [{"message": "refused without a reason"}]
    words = "; ".join(f"{e.get('statusCode', 'error')}: {e.get('message')}" for e in errors)
    if all(error.get("statusCode") in _AGAIN for error in errors):
        return RowResult.retrying(words, status_code)
    return RowResult.rejected(words, status_code)


def _url(settings: Settings, path: str) -> str:
    return f"{(settings.base_url or '').rstrip('/')}/services/data/{API_VERSION}/{path}"


def _signed(
    settings: Settings, http: HttpClient, send: Callable[[dict[str, str]], Answer]
) -> Answer:
    """Send with a token, and once more with a new one where the old has run out."""
    if settings.access_token is not None:
        return send({"Authorization": f"Bearer {settings.access_token.get_secret_value()}"})
    used = _token(settings, http, None)
    try:
        return send({"Authorization": f"Bearer {used}"})
    except Fatal as error:
        if error.status_code != 401:
            raise
    return send({"Authorization": f"Bearer {_token(settings, http, used)}"})


def _token(settings: Settings, http: HttpClient, expired: str | None) -> str:
    assert settings.base_url and settings.client_id and settings.client_secret
    account = (settings.base_url, settings.client_id)
    with _getting:
        if _tokens.get(account, expired) == expired:
            form = {
                "grant_type": "client_credentials",
                "client_id": settings.client_id,
                "client_secret": settings.client_secret.get_secret_value(),
            }
            answer = http.post(
                f"{settings.base_url.rstrip('/')}/services/oauth2/token",
                data=urlencode(form).encode(),
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            )
            _tokens[account] = str(answer.body["access_token"])
        return _tokens[account]
