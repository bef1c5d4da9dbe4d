"""Customer.io people, events and manual segments: Track API v2 in batches.

https://docs.customer.io/integrations/api/track/

`object: people` sets attributes; the key is id, email or cio_id, the columns are attributes, null
removes one. `object: events` tells an event: columns `name`, one of id, email or cio_id, and the
event's own. Its id is made from the action, so Customer.io drops one that comes twice.
`object: segments/<number>` mirrors a manual segment; its key is id or email.

Delivered means accepted: Customer.io works through a batch after it has answered.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Row, RowResult, Target, nested

MODES = {"upsert", "mirror", "message"}
OBJECTS = {
    "people": {"modes": {"upsert"}},
    "events": {"modes": {"message"}, "required_columns": {"name"}, "idempotency_key": True},
    "segments/*": {"modes": {"mirror"}, "batch_size": 1000, "batch_bytes": None},
}
BATCH_SIZE = 500
BATCH_BYTES = 400_000  # of 500 KB, which include what is around a row; a row has 32 KB
API_VERSION = "v2"
RATE = 100.0
CONCURRENCY = 4
CREDENTIALS = ("site_id", "api_key")
SANDBOX = {"site_id": "sandbox", "api_key": "sandbox", "base_url": "{url}/customerio"}

IDENTIFIERS = ("id", "email", "cio_id")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Settings(BaseSettings):
    """SIGNALBOX_CUSTOMERIO_SITE_ID and _API_KEY are Track API credentials of a workspace.

    For an account in Europe _BASE_URL is https://track-eu.customer.io.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_CUSTOMERIO_", extra="ignore", env_ignore_empty=True
    )

    site_id: str | None = None
    api_key: SecretStr | None = None
    base_url: str = "https://track.customer.io"


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    if target.object.startswith("segments/"):
        return _segment(rows, target, http)
    item = _event if target.object == "events" else _person
    answer = http.post(
        f"{target.settings.base_url}/api/v2/batch",
        json={"batch": [item(row, target.key) for row in rows]},
        headers=_headers(target.settings),
    )
    body = answer.body if isinstance(answer.body, dict) else {}
    refused: dict[int, str] = {}
    for error in body.get("errors") or []:
        words = [str(error[name]) for name in ("field", "reason", "message") if error.get(name)]
        refused[int(error["batch_index"])] = ": ".join(words) or "refused"
    return [
        RowResult.rejected(refused[number], answer.status_code)
        if number in refused
        else RowResult.delivered(answer.status_code)
        for number in range(len(rows))
    ]


def check(target: Target[Settings], http: HttpClient) -> str:
    url = f"{target.settings.base_url}/api/v1/accounts/region"
    body = http.get(url, headers=_headers(target.settings)).body
    return f"workspace {body['environment_id']} in {body['region']}"


def _headers(settings: Settings) -> dict[str, str]:
    assert settings.api_key is not None
    login = f"{settings.site_id}:{settings.api_key.get_secret_value()}".encode()
    return {"Authorization": f"Basic {base64.b64encode(login).decode()}"}


def _person(row: Row, key: str) -> dict[str, Any]:
    if key not in IDENTIFIERS:
        raise Fatal(f"customerio: the key must be {', '.join(IDENTIFIERS)}, not {key}")
    fields = {name: "" if v is None else v for name, v in row.fields.items() if name != key}
    return {
        "type": "person",
        "action": "identify",
        "identifiers": {key: row.key},
        "attributes": nested(fields),
    }


def _event(row: Row, key: str) -> dict[str, Any]:
    identifiers = {n: row.fields[n] for n in IDENTIFIERS if row.fields.get(n) is not None}
    told = {n: v for n, v in row.fields.items() if n not in (*IDENTIFIERS, "name", key)}
    fired_at = int(datetime.fromisoformat(row.fired_at).timestamp() * 1000) if row.fired_at else 0
    return {
        "type": "person",
        "action": "event",
        "identifiers": dict(list(identifiers.items())[:1]),
        "id": ulid(fired_at, row.action_key),
        "name": row.fields["name"],
        **({"timestamp": fired_at // 1000} if fired_at else {}),
        "attributes": nested(told),
    }


def ulid(milliseconds: int, seed: str) -> str:
    """A ULID, always the same for the same seed: 48 bits of time, 80 of the seed's hash."""
    number = milliseconds << 80 | int.from_bytes(hashlib.sha256(seed.encode()).digest()[:10])
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def _segment(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    change = "remove_customers" if rows[0].leave else "add_customers"
    segment = quote(target.object.partition("/")[2], safe="")
    answer = http.post(
        f"{target.settings.base_url}/api/v1/segments/{segment}/{change}"
        f"?id_type={quote(target.key)}",
        json={"ids": [row.key for row in rows]},
        headers=_headers(target.settings),
    )
    return [RowResult.delivered(answer.status_code) for _ in rows]
