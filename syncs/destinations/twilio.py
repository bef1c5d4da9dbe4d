"""Twilio: one SMS per row, the Messages resource.

https://www.twilio.com/docs/messaging/api/message-resource
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Rejected, Retryable, Row, RowResult, Target, Unanswered

MODES = {"message"}
BATCH_SIZE = 1
API_VERSION = "2010-04-01"
RATE = 10.0  # Twilio itself queues what a number may not send at once
CREDENTIALS = ("account_sid", "auth_token", "sender")
SANDBOX = {
    "account_sid": "AC00000000000000000000000000000000",
    "auth_token": "sandbox",
    "sender": "+15005550006",
    "base_url": "{url}/twilio",
}
REQUIRED_COLUMNS = {"to_phone"}
CHANNEL = "sms"
ADDRESS = "to_phone"
TEMPLATE_REQUIRED = True

# https://www.twilio.com/docs/api/errors
_RECIPIENT = {21211, 21217, 21219, 21265, 21408, 21421, 21602, 21605, 21608, 21609, 21610, 21612,
              21614, 21617, 21619, 21635}  # fmt: skip
_QUEUE_FULL = {14107, 20429, 21611, 30001}


class Settings(BaseSettings):
    """SIGNALBOX_TWILIO_ACCOUNT_SID (AC…), _AUTH_TOKEN and _SENDER.

    The sender is a number (+4915…), a sender id of letters, or a messaging service (MG…).
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_TWILIO_", extra="ignore", env_ignore_empty=True
    )

    account_sid: str | None = None
    auth_token: SecretStr | None = None
    sender: str | None = None
    base_url: str = "https://api.twilio.com"


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    return [_send(row, target.settings, http) for row in rows]


def check(target: Target[Settings], http: HttpClient) -> str:
    body = http.get(f"{_account(target.settings)}.json", headers=_headers(target.settings)).body
    body = body if isinstance(body, dict) else {}
    if body.get("status") != "active":
        raise Fatal(f"the Twilio account is {body.get('status') or 'not to be read'}")
    return f"{body.get('friendly_name')} ({body.get('type', 'Full')} account)"


def _account(settings: Settings) -> str:
    return f"{settings.base_url}/{API_VERSION}/Accounts/{quote(settings.account_sid or '')}"


def _headers(settings: Settings) -> dict[str, str]:
    assert settings.auth_token is not None
    login = f"{settings.account_sid}:{settings.auth_token.get_secret_value()}"
    return {
        "Authorization": "Basic " + base64.b64encode(login.encode()).decode(),
        "Content-Type": "application/x-www-form-urlencoded",
    }


def _send(row: Row, settings: Settings, http: HttpClient) -> RowResult:
    assert row.message is not None and settings.sender is not None
    service = settings.sender.startswith("MG") and len(settings.sender) == 34
    form = {
        "To": "".join(str(row.fields["to_phone"] or "").split()),
        "MessagingServiceSid" if service else "From": settings.sender,
        "Body": row.message.text,
    }
    try:
        answer = http.post(
            f"{_account(settings)}/Messages.json",
            data=urlencode(form).encode(),
            headers=_headers(settings),
        )
    except (Rejected, Fatal) as error:
        raise _refusal(error) from None
    body: dict[str, Any] = answer.body if isinstance(answer.body, dict) else {}
    if not body.get("sid"):
        raise Unanswered("Twilio's answer names no message", status_code=answer.status_code)
    if body.get("error_code"):
        words = f"{body['error_code']}: {body.get('error_message') or body.get('status')}"
        return RowResult.rejected(words, answer.status_code)
    return RowResult.delivered(answer.status_code)


def _refusal(error: Rejected | Fatal) -> Rejected | Retryable | Fatal:
    """The row's own fault, a full queue, or a number or account that a person must look at."""
    code = error.body.get("code") if isinstance(error.body, dict) else None
    words = f"{error} (code {code})"
    if code in _RECIPIENT:
        return Rejected(words, status_code=error.status_code)
    if code in _QUEUE_FULL:
        return Retryable(words, status_code=error.status_code)
    return error if code is None else Fatal(words, status_code=error.status_code)
