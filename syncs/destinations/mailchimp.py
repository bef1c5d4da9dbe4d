"""Mailchimp audiences: members added or updated in batches, and tags that mirror a segment.

https://mailchimp.com/developer/marketing/api/lists/batch-subscribe-or-unsubscribe/

`object: lists/<audience id>` upserts members. Columns with a member's own names (status,
email_type, language, tags…) stay, all others are merge fields: `fname` is FNAME. Whether somebody
may be mailed is the column `status`; it is never guessed, and an update sets it too.

`object: lists/<audience id>/tags/<tag id>` mirrors: rows join and leave the tag (a static
segment). Members stay in the audience, because unsubscribing or archiving somebody who merely
left a segment would be hard to undo; who is not a member is refused by Mailchimp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import HttpClient, Row, RowResult, Target, nested

MODES = {"upsert", "mirror"}
OBJECTS = {
    "lists/*": {
        "modes": {"upsert"},
        "required_columns": {"email_address", "status"},
    },
    "lists/*/tags/*": {"modes": {"mirror"}},
}
BATCH_SIZE = 500
API_VERSION = "3.0"
RATE = 5.0  # the limit is ten connections at once
CONCURRENCY = 4
CREDENTIALS = ("api_key",)
SANDBOX = {"api_key": "sandbox", "base_url": "{url}/mailchimp"}

_MEMBER = {
    "email_address", "email_type", "status", "vip", "location", "tags", "interests", "language",
    "ip_signup", "timestamp_signup", "ip_opt", "timestamp_opt", "merge_fields",
}  # fmt: skip


class Settings(BaseSettings):
    """SIGNALBOX_MAILCHIMP_API_KEY ends with its data centre (…-us6), which is the address too."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_MAILCHIMP_", extra="ignore", env_ignore_empty=True
    )

    api_key: SecretStr | None = None
    base_url: str | None = None

    @model_validator(mode="after")
    def _from_key(self) -> Settings:
        if self.api_key is not None and self.base_url is None:
            centre = self.api_key.get_secret_value().rpartition("-")[2]
            if not centre.isalnum() or len(centre) > 8:
                raise ValueError("API_KEY must end with its data centre, such as -us6")
            self.base_url = f"https://{centre}.api.mailchimp.com"
        return self


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    _, audience, *tag = target.object.split("/")
    path = f"lists/{quote(audience, safe='')}"
    if tag:
        path += f"/segments/{quote(tag[1], safe='')}"
        change = "members_to_remove" if rows[0].leave else "members_to_add"
        body: dict[str, Any] = {change: [row.key for row in rows]}
    else:
        body = {"members": [_member(row) for row in rows], "update_existing": True}
    answer = http.post(_url(target.settings, path), json=body, headers=_headers(target.settings))
    said = answer.body if isinstance(answer.body, dict) else {}
    return _results(rows, said, answer.status_code)


def check(target: Target[Settings], http: HttpClient) -> str:
    url = _url(target.settings, "?fields=account_name,login_id")
    body = http.get(url, headers=_headers(target.settings)).body
    return f"account {body['account_name']}"


def _url(settings: Settings, path: str) -> str:
    return f"{(settings.base_url or '').rstrip('/')}/3.0/{path}"


def _headers(settings: Settings) -> dict[str, str]:
    assert settings.api_key is not None
    return {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}


def _member(row: Row) -> dict[str, Any]:
    """Null leaves a member's own field as it is, and empties a merge field."""
    fields = {
        name if name.partition(".")[0] in _MEMBER else name.upper(): value
        for name, value in row.fields.items()
        if value is not None or name not in _MEMBER
    }
    member = nested(fields, _MEMBER, "merge_fields")
    merge = member.get("merge_fields") or {}
    member["merge_fields"] = {name: "" if value is None else value for name, value in merge.items()}
    return member


def _results(rows: Sequence[Row], said: dict[str, Any], status_code: int) -> list[RowResult]:
    errors = said.get("errors") or []
    refused: dict[str, str] = {}
    for error in errors:
        words = ": ".join(str(error[n]) for n in ("field", "error") if error.get(n)) or "refused"
        for address in error.get("email_addresses") or [error.get("email_address") or ""]:
            refused[str(address).lower()] = words
    groups = ("new_members", "updated_members", "members_added", "members_removed")
    done = {str(m.get("email_address")).lower() for name in groups for m in said.get(name) or []}
    named = sum(row.key.lower() in refused for row in rows)
    results = []
    for row in rows:
        key = row.key.lower()
        if key in refused:
            results.append(RowResult.rejected(refused[key], status_code))
        elif key in done or named >= int(said.get("error_count") or len(errors)):
            results.append(RowResult.delivered(status_code))
        else:
            results.append(RowResult.retrying("the answer does not say which rows failed"))
    return results
