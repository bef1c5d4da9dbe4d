"""Iterable users in bulk, and static lists that mirror a segment.

https://api.iterable.com/api/docs#users_bulkUpdateUser

`object: users` upserts, `object: lists/<number>` mirrors: joining upserts the user and subscribes
it to the list, leaving unsubscribes it from the list alone, not from messages. The key is email
or userId; all other columns are `dataFields`, `address.city` a part of one, null empties one.

Delivered means that Iterable counts the user among the updated ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Row, RowResult, Target, nested

MODES = {"upsert", "mirror"}
OBJECTS = {"users": {"modes": {"upsert"}}, "lists/*": {"modes": {"mirror"}}}
BATCH_SIZE = 1000
BATCH_BYTES = 3_500_000  # of 4 MB, which include what is around a row
API_VERSION = "api"  # Iterable's endpoints carry no version
RATE = 5.0
CONCURRENCY = 4
CREDENTIALS = ("api_key",)
SANDBOX = {"api_key": "sandbox", "base_url": "{url}/iterable"}

KEYS = ("email", "userId")


class Settings(BaseSettings):
    """SIGNALBOX_ITERABLE_API_KEY is a server-side key.

    For a project in Europe _BASE_URL is https://api.eu.iterable.com.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_ITERABLE_", extra="ignore", env_ignore_empty=True
    )

    api_key: SecretStr | None = None
    base_url: str = "https://api.iterable.com"


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    # Some warehouses fold names to lower case.
    key = next((name for name in KEYS if name.lower() == target.key.lower()), None)
    if key is None:
        raise Fatal(f"iterable: the key must be {' or '.join(KEYS)}, not {target.key}")
    leave = rows[0].leave
    body: dict[str, Any]
    if target.object == "users":
        path, body = "users/bulkUpdate", {"users": [_user(row, key, target.key) for row in rows]}
    else:
        people = [{key: row.key} if leave else _user(row, key, target.key) for row in rows]
        number = target.object.partition("/")[2]
        if not number.isdecimal():
            raise Fatal(f"iterable: {target.object}: a list is named by its number")
        path = "lists/unsubscribe" if leave else "lists/subscribe"
        body = {"listId": int(number), "subscribers": people}
    answer = http.post(
        f"{target.settings.base_url}/api/{path}", json=body, headers=_headers(target.settings)
    )
    said = answer.body if isinstance(answer.body, dict) else {}
    return _results(rows, said, answer.status_code, leave)


def check(target: Target[Settings], http: HttpClient) -> str:
    url = f"{target.settings.base_url}/api/lists"
    body = http.get(url, headers=_headers(target.settings)).body
    return f"a project with {len(body['lists'])} lists"


def _headers(settings: Settings) -> dict[str, str]:
    assert settings.api_key is not None
    return {"Api-Key": settings.api_key.get_secret_value()}


def _user(row: Row, key: str, column: str) -> dict[str, Any]:
    fields = {name: value for name, value in row.fields.items() if name != column}
    user: dict[str, Any] = {key: row.key, "dataFields": nested(fields)}
    if key == "userId":
        user["preferUserId"] = True
    if any("." in name for name in fields):
        user["mergeNestedObjects"] = True
    return user


def _results(
    rows: Sequence[Row], said: dict[str, Any], status_code: int, leave: bool
) -> list[RowResult]:
    failed = {name: said.get(name) or [] for name in ("invalidEmails", "invalidUserIds")}
    failed |= said.get("failedUpdates") or {}
    refused: dict[str, str] = {}
    for why, keys in failed.items():
        if leave and why.startswith("notFound"):
            continue  # who is not there has left
        refused |= {str(key).lower(): why for key in keys}
    named = sum(row.key.lower() in refused for row in rows)
    absent = sum(len(keys) for why, keys in failed.items() if leave and why.startswith("notFound"))
    unnamed = int(said.get("failCount") or 0) > named + absent
    results = []
    for row in rows:
        if row.key.lower() in refused:
            results.append(RowResult.rejected(refused[row.key.lower()], status_code))
        elif unnamed:
            results.append(RowResult.retrying("the answer does not say which users failed"))
        else:
            results.append(RowResult.delivered(status_code))
    return results
