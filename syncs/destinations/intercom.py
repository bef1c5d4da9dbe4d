"""Intercom contacts, one by one: found by external_id or email, then updated or created.

https://developers.intercom.com/docs/references/rest-api/api.intercom.io/contacts

Columns with a contact's own names stay, all others are `custom_attributes`, which have to exist
in Intercom; null empties one. A new contact is a user unless the column `role` says lead; in
update_only none is made.

Delivered means stored. Intercom's search lags behind by seconds: where it does not find a contact
that exists, creating it is refused as a conflict, and the row is tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Rejected, Row, RowResult, Target, nested

MODES = {"upsert", "update_only"}
SKIPS_ABSENT = True
OBJECTS = {"contacts"}
BATCH_SIZE = 1
API_VERSION = "2.16"
RATE = 50.0  # rows of two requests each; 10,000 requests a minute
CONCURRENCY = 4
CREDENTIALS = ("token",)
SANDBOX = {"token": "sandbox", "base_url": "{url}/intercom"}

KEYS = ("external_id", "email")
_CONTACT = {
    *KEYS, "role", "phone", "name", "avatar", "signed_up_at", "last_seen_at", "owner_id",
    "unsubscribed_from_emails", "language_override", "custom_attributes",
}  # fmt: skip


class Settings(BaseSettings):
    """SIGNALBOX_INTERCOM_TOKEN is an app's access token that may read and write users.

    For a workspace in Europe or Australia _BASE_URL is https://api.eu.intercom.io or
    https://api.au.intercom.io.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_INTERCOM_", extra="ignore", env_ignore_empty=True
    )

    token: SecretStr | None = None
    base_url: str = "https://api.intercom.io"


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    return [_upsert(row, target, http) for row in rows]


def check(target: Target[Settings], http: HttpClient) -> str:
    url = f"{target.settings.base_url}/me"
    body = http.get(url, headers=_headers(target.settings)).body
    return f"workspace {body['app']['name']}"


def _headers(settings: Settings) -> dict[str, str]:
    assert settings.token is not None
    return {
        "Authorization": f"Bearer {settings.token.get_secret_value()}",
        "Accept": "application/json",
        "Intercom-Version": API_VERSION,
    }


def _upsert(row: Row, target: Target[Settings], http: HttpClient) -> RowResult:
    if target.key not in KEYS:
        raise Fatal(f"intercom: the key must be {' or '.join(KEYS)}, not {target.key}")
    contacts, headers = f"{target.settings.base_url}/contacts", _headers(target.settings)
    query = {"field": target.key, "operator": "=", "value": row.key}
    search = {"query": query, "pagination": {"per_page": 2}}
    found: list[dict[str, Any]] = http.post(
        f"{contacts}/search", json=search, headers=headers
    ).body["data"]
    if len(found) > 1:
        return RowResult.rejected(f"several contacts have this {target.key}; merge them")
    contact = nested(row.fields, _CONTACT, "custom_attributes")
    if found:
        url = f"{contacts}/{quote(str(found[0]['id']), safe='')}"
        return RowResult.delivered(
            http.request("PUT", url, json=contact, headers=headers).status_code
        )
    if target.mode == "update_only":
        return RowResult.delivered()
    try:
        answer = http.post(contacts, json={"role": "user", **contact}, headers=headers)
    except Rejected as error:
        if error.status_code != 409:
            raise
        return RowResult.retrying(str(error), error.status_code)
    return RowResult.delivered(answer.status_code)
