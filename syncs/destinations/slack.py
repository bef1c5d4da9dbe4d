"""Slack: one message to one channel, as a bot or by an incoming webhook.

https://docs.slack.dev/reference/methods/chat.postMessage
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Retryable, Row, RowResult, Target, Unanswered

MODES = {"message"}
BATCH_SIZE = 1
API_VERSION = "web api"  # Slack's methods carry no version
RATE = 1.0  # Slack takes about one message a second per channel
CREDENTIALS = ("token",)
SANDBOX = {
    "token": "sandbox",
    "base_url": "{url}/slack",
    "webhook_url": "{url}/slack/services/T0SANDBOX/B0SANDBOX/sandbox",
}
# A webhook posts to the channel that it was made for.
WEBHOOK = "incoming_webhook"
OBJECTS: dict[str, dict[str, Any]] = {
    "message": {},
    WEBHOOK: {"credentials": ("webhook_url",), "required_columns": frozenset()},
}
REQUIRED_COLUMNS = {"channel"}
TEMPLATE_REQUIRED = True

_AGAIN = {"ratelimited", "rate_limited", "service_unavailable", "team_added_to_org"}
# Slack says of these that some part of the operation may have succeeded.
_UNSURE = {"internal_error", "fatal_error", "request_timeout"}
_NEEDS_A_PERSON = {
    "access_denied",
    "account_inactive",
    "ekm_access_denied",
    "enterprise_is_restricted",
    "invalid_auth",
    "missing_scope",
    "no_permission",
    "not_allowed_token_type",
    "not_authed",
    "org_login_required",
    "token_expired",
    "token_revoked",
}


class Settings(BaseSettings):
    """SIGNALBOX_SLACK_TOKEN is a bot token (xoxb-…) with the scope chat:write.

    SIGNALBOX_SLACK_WEBHOOK_URL is for syncs with the object incoming_webhook: a secret, too.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_SLACK_", extra="ignore", env_ignore_empty=True
    )

    token: SecretStr | None = None
    webhook_url: SecretStr | None = None
    base_url: str = "https://slack.com"


def escape(value: str) -> str:
    """Slack's three control characters, so that no customer's name pings a channel."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    post = _post_by_webhook if target.object == WEBHOOK else _post
    return [post(row, target.settings, http) for row in rows]


def check(target: Target[Settings], http: HttpClient) -> str:
    """Asks whose the token is. A webhook is not called: it posts whatever it gets."""
    if target.object == WEBHOOK:
        return f"a webhook at {urlsplit(_webhook(target.settings)).hostname} (not called)"
    answer = http.post(
        f"{target.settings.base_url}/api/auth.test", headers=_headers(target.settings)
    )
    body: dict[str, Any] = answer.body if isinstance(answer.body, dict) else {}
    if body.get("ok") is not True:
        raise Fatal(f"Slack refuses the token: {body.get('error') or 'not ok'}")
    return f"{body.get('user')} in {body.get('team')}"


def _headers(settings: Settings) -> dict[str, str]:
    assert settings.token is not None
    return {
        "Authorization": f"Bearer {settings.token.get_secret_value()}",
        "Content-Type": "application/json; charset=utf-8",
    }


def _webhook(settings: Settings) -> str:
    assert settings.webhook_url is not None
    return settings.webhook_url.get_secret_value()


def _post_by_webhook(row: Row, settings: Settings, http: HttpClient) -> RowResult:
    assert row.message is not None
    message = {"text": row.message.text, "unfurl_links": False}
    answer = http.post(_webhook(settings), json=message)
    if answer.body != "ok":
        raise Unanswered("Slack's answer is not one of a webhook", status_code=answer.status_code)
    return RowResult.delivered(answer.status_code)


def _post(row: Row, settings: Settings, http: HttpClient) -> RowResult:
    assert row.message is not None
    answer = http.post(
        f"{settings.base_url}/api/chat.postMessage",
        json={
            "channel": row.fields["channel"],
            "text": row.message.text,
            "unfurl_links": False,
        },
        headers=_headers(settings),
    )
    body: dict[str, Any] = answer.body if isinstance(answer.body, dict) else {}
    if body.get("ok") is True:
        return RowResult.delivered(answer.status_code)
    if "ok" not in body:
        raise Unanswered("Slack's answer is not one of chat.postMessage")
    words = str(body.get("error") or "not ok")
    if words in _AGAIN:
        raise Retryable(words, status_code=answer.status_code)
    if words in _UNSURE:
        raise Unanswered(words, status_code=answer.status_code)
    if words in _NEEDS_A_PERSON:
        needed = f" (needs {body['needed']})" if body.get("needed") else ""
        raise Fatal(f"Slack refuses the token: {words}{needed}", status_code=answer.status_code)
    return RowResult.rejected(words, answer.status_code)
