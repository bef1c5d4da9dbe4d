"""Klaviyo profiles in bulk, and lists that mirror a segment.

https://developers.klaviyo.com/en/reference/bulk_import_profiles

`object: profiles` upserts, `object: lists/<list id>` mirrors: joining upserts the profile and
puts it on the list, leaving takes it off the list and changes no consent. Columns with a
profile's own names stay (`location.city` for what is deeper), all others are `properties`. The
key is email, phone_number or external_id; null empties a field.

Delivered means that Klaviyo has taken the rows into an import job. It works through them within
minutes; what it refuses then is listed under the job in Klaviyo and not here, because waiting
for a job would hold the queue up. What it can see at once (a malformed address) is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Row, RowResult, Target, in_parts, nested

MODES = {"upsert", "mirror"}
OBJECTS = {"profiles": {"modes": {"upsert"}}, "lists/*": {"modes": {"mirror"}}}
BATCH_SIZE = 10_000
BATCH_BYTES = 4_000_000  # of 5 MB, which include what is around a row
API_VERSION = "2026-07-15"
RATE = 2.5  # 150 a minute
CREDENTIALS = ("api_key",)
SANDBOX = {"api_key": "sandbox", "base_url": "{url}/klaviyo"}

KEYS = ("email", "phone_number", "external_id")
LOOKUP_SIZE = 100  # profiles that one request can look up
_PROFILE = {
    *KEYS, "_kx", "first_name", "last_name", "organization", "locale", "title", "image",
    "location", "properties",
}  # fmt: skip


class Settings(BaseSettings):
    """SIGNALBOX_KLAVIYO_API_KEY is a private key with the scopes profiles, lists:write, accounts.

    That is profiles:read, profiles:write, lists:write and, for the check, accounts:read.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_KLAVIYO_", extra="ignore", env_ignore_empty=True
    )

    api_key: SecretStr | None = None
    base_url: str = "https://a.klaviyo.com"


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    if target.key not in KEYS:
        raise Fatal(f"klaviyo: the key must be {', '.join(KEYS)}, not {target.key}")
    if rows[0].leave:
        return in_parts(rows, LOOKUP_SIZE, lambda part: _leave(part, target, http))
    job: dict[str, Any] = {
        "type": "profile-bulk-import-job",
        "attributes": {"profiles": {"data": [_profile(row) for row in rows]}},
    }
    if target.object != "profiles":
        members = {"data": [{"type": "list", "id": _list(target)}]}
        job["relationships"] = {"lists": members}
    answer = http.post(
        f"{target.settings.base_url}/api/profile-bulk-import-jobs",
        json={"data": job},
        headers=_headers(target.settings),
    )
    return [RowResult.delivered(answer.status_code) for _ in rows]


def check(target: Target[Settings], http: HttpClient) -> str:
    url = f"{target.settings.base_url}/api/accounts"
    account = http.get(url, headers=_headers(target.settings)).body["data"][0]
    return f"account {account['attributes']['contact_information']['organization_name']}"


def _headers(settings: Settings) -> dict[str, str]:
    assert settings.api_key is not None
    return {
        "Authorization": f"Klaviyo-API-Key {settings.api_key.get_secret_value()}",
        "Content-Type": "application/vnd.api+json",
        "revision": API_VERSION,
    }


def _list(target: Target[Settings]) -> str:
    return target.object.partition("/")[2]


def _profile(row: Row) -> dict[str, Any]:
    return {"type": "profile", "attributes": nested(row.fields, _PROFILE, "properties")}


def _leave(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    """Take profiles off the list by Klaviyo's own ids. Who has no profile is on no list."""
    query = {
        "filter": f"any({target.key},{json.dumps([row.key for row in rows])})",
        "fields[profile]": target.key,
        "page[size]": LOOKUP_SIZE,
    }
    base, headers = f"{target.settings.base_url}/api", _headers(target.settings)
    answer = http.get(f"{base}/profiles?{urlencode(query)}", headers=headers)
    found = [{"type": "profile", "id": profile["id"]} for profile in answer.body["data"]]
    if found:
        url = f"{base}/lists/{quote(_list(target), safe='')}/relationships/profiles"
        answer = http.request("DELETE", url, json={"data": found}, headers=headers)
    return [RowResult.delivered(answer.status_code) for _ in rows]
