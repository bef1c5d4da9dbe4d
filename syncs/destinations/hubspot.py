"""HubSpot contacts and companies: batch upsert by a property with unique values, CRM API v3.

https://developers.hubspot.com/docs/api-reference/crm-contacts-v3 and crm-companies-v3
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Row, RowResult, Target

MODES = {"upsert", "update_only"}
OBJECTS: dict[str, dict[str, Any]] = {"contacts": {}, "companies": {"modes": {"upsert"}}}
BATCH_SIZE = 100
API_VERSION = "crm/v3"
RATE = 8.0  # a private app may send 100 requests in 10 seconds, reads included
CONCURRENCY = 4
CREDENTIALS = ("token",)
# When the load that read a contact began is the earliest moment at which it was read.
READ_BACK = {
    "contacts": (
        "crm",
        "select email as key, properties as fields,"
        " to_timestamp(try_cast(_dlt_load_id as double)) as read_at"
        " from lake.raw.crm_contacts where not coalesce(archived, false)",
    )
}
SANDBOX = {"token": "sandbox", "base_url": "{url}/hubspot"}


class Settings(BaseSettings):
    """SIGNALBOX_HUBSPOT_TOKEN is a private app's access token that may write what is synced.

    Companies are found by a property of your own, made with "require unique values".
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_HUBSPOT_", extra="ignore", env_ignore_empty=True
    )

    token: SecretStr | None = None
    base_url: str = "https://api.hubapi.com"


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    if target.object == "companies" and target.key in ("domain", "name"):
        raise Fatal(
            f"HubSpot does not keep the {target.key} of companies unique, so it finds none by it; "
            "make a company property with unique values and let it be the sync's key"
        )
    answer = http.post(
        f"{target.settings.base_url}/crm/v3/objects/{target.object}/batch/upsert",
        json={"inputs": [_input(row, number, target.key) for number, row in enumerate(rows)]},
        headers=_authorization(target.settings),
    )
    body = answer.body if isinstance(answer.body, dict) else {}
    errors = body.get("errors") or []
    if not errors and not body.get("numErrors"):
        return [RowResult.delivered(answer.status_code) for _ in rows]
    return _partial(rows, body, errors, answer.status_code)


def check(target: Target[Settings], http: HttpClient) -> str:
    url = f"{target.settings.base_url}/account-info/v3/details"
    body = http.get(url, headers=_authorization(target.settings)).body
    return f"account {body['portalId']}" if isinstance(body, dict) else "an account"


def _authorization(settings: Settings) -> dict[str, str]:
    assert settings.token is not None
    return {"Authorization": f"Bearer {settings.token.get_secret_value()}"}


def _input(row: Row, number: int, key: str) -> dict[str, Any]:
    return {
        "id": row.key,
        "idProperty": key,
        # HubSpot repeats it in each result and error: that is how one row's error is found.
        "objectWriteTraceId": str(number),
        "properties": {name: _text(value) for name, value in row.fields.items() if name != key},
    }


def _text(value: Any) -> str:
    """Property values travel as strings; the empty string clears a property."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _partial(
    rows: Sequence[Row], body: dict[str, Any], errors: list[Any], status_code: int
) -> list[RowResult]:
    by_row: dict[int, RowResult] = {}
    for error in errors:
        category = str(error.get("category", ""))
        words = str(error.get("message") or category or "rejected")
        for number in _rows_named(rows, error.get("context") or {}):
            by_row[number] = (
                RowResult.retrying(words, status_code)
                if category in {"RATE_LIMITS", "INTERNAL_ERROR"}
                else RowResult.rejected(words, status_code)
            )
    confirmed = {str(result.get("objectWriteTraceId")) for result in body.get("results") or []}
    error_count = max(int(body.get("numErrors") or 0), len(errors))
    results = []
    for number in range(len(rows)):
        if number in by_row:
            results.append(by_row[number])
        elif str(number) in confirmed or len(by_row) >= error_count:
            results.append(RowResult.delivered(status_code))
        else:
            # Some error names no row. An upsert may be sent again, so nothing is guessed.
            results.append(RowResult.retrying("the answer does not say which rows failed"))
    return results


def _rows_named(rows: Sequence[Row], context: dict[str, Any]) -> list[int]:
    named = {str(trace) for trace in _listed(context.get("objectWriteTraceId"))}
    keys = {str(key).lower() for name in ("ids", "id") for key in _listed(context.get(name))}
    return [
        number
        for number, row in enumerate(rows)
        if str(number) in named or (not named and row.key.lower() in keys)
    ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
