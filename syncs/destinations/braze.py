"""Braze: attributes of users, custom events and purchases, POST /users/track.

https://www.braze.com/docs/api/endpoints/user_data/post_user_track/

`object: users` sets attributes by external_id, braze_id, email or phone (the key); null empties
one, and `address.city` changes a part of a nested attribute. In update_only Braze itself leaves
out whom it does not know, without a word. `object: events` tells an event:
columns `name`, one of the four ids, and its properties; `object: purchases` the same with
product_id, currency and price (quantity too, if given). Their time is when the trigger fired.

Delivered means queued: Braze checks the form of a row at once and works through it later. Events
and purchases have no idempotency key, so an answer that never came leaves them unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Rejected, Row, RowResult, Target, nested

MODES = {"upsert", "update_only", "message"}
OBJECTS = {
    "users": {"modes": {"upsert", "update_only"}, "skips_absent": True},
    "events": {"modes": {"message"}, "required_columns": {"name"}},
    "purchases": {
        "modes": {"message"},
        "required_columns": {"product_id", "currency", "price"},
    },
}
BATCH_SIZE = 75
API_VERSION = "rest api"  # Braze's endpoints carry no version
RATE = 50.0  # 3,000 requests in three seconds, fewer under contracts by monthly users
CONCURRENCY = 4
CREDENTIALS = ("api_key", "base_url")
SANDBOX = {"api_key": "sandbox", "base_url": "{url}/braze"}

IDENTIFIERS = ("external_id", "braze_id", "email", "phone")
_ARRAYS = {"users": "attributes", "events": "events", "purchases": "purchases"}
_OWN = {"events": ("name",), "purchases": ("product_id", "currency", "price", "quantity")}


class Settings(BaseSettings):
    """SIGNALBOX_BRAZE_API_KEY is a REST key with users.track and, for the check, campaigns.list.

    _BASE_URL is your REST endpoint, such as https://rest.iad-01.braze.com.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_BRAZE_", extra="ignore", env_ignore_empty=True
    )

    api_key: SecretStr | None = None
    base_url: str | None = None


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    array = _ARRAYS[target.object]
    if target.object == "users":
        items = [_attributes(row, target) for row in rows]
    else:
        items = [_happening(row, target) for row in rows]
    answer = http.post(
        f"{target.settings.base_url}/users/track",
        json={array: items},
        headers=_headers(target.settings),
    )
    body = answer.body if isinstance(answer.body, dict) else {}
    if body.get("message") != "success":
        raise Rejected(f"Braze: {body.get('message') or 'no message'}")
    refused = {
        int(error["index"]): str(error.get("type") or "refused")
        for error in body.get("errors") or []
        if isinstance(error, dict) and error.get("input_array") == array
    }
    return [
        RowResult.rejected(refused[number], answer.status_code)
        if number in refused
        else RowResult.delivered(answer.status_code)
        for number in range(len(rows))
    ]


def check(target: Target[Settings], http: HttpClient) -> str:
    url = f"{target.settings.base_url}/campaigns/list?page=0"
    body = http.get(url, headers=_headers(target.settings)).body
    return f"a workspace with {len(body['campaigns'])} or more campaigns"


def _headers(settings: Settings) -> dict[str, str]:
    assert settings.api_key is not None
    return {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}


def _attributes(row: Row, target: Target[Settings]) -> dict[str, Any]:
    if target.key not in IDENTIFIERS:
        raise Fatal(f"braze: the key must be {', '.join(IDENTIFIERS)}, not {target.key}")
    flags = {
        # Without it a nested attribute is replaced as a whole.
        "_merge_objects": any("." in name for name in row.fields),
        "_update_existing_only": target.mode == "update_only",
    }
    return {**nested(row.fields), **{name: True for name, is_on in flags.items() if is_on}}


def _happening(row: Row, target: Target[Settings]) -> dict[str, Any]:
    own = _OWN[target.object]
    item = {
        name: value
        for name, value in row.fields.items()
        if name in (*IDENTIFIERS, *own) and value is not None
    }
    told = {
        name: value
        for name, value in row.fields.items()
        if name not in (*IDENTIFIERS, *own, target.key)
    }
    return {**item, "time": row.fired_at, "properties": nested(told)}
