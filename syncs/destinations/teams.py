"""Microsoft Teams: one adaptive card to the webhook of a workflow.

Made in Teams with the workflow template that posts to a channel or chat when a webhook request is
received: https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import HttpClient, Message, Retryable, Row, RowResult, Target, Unanswered

MODES = {"message"}
BATCH_SIZE = 1
API_VERSION = "Adaptive Cards 1.4"
RATE = 1.0  # a flow's Teams connection takes about 100 calls a minute
CREDENTIALS = ("webhook_url",)
SANDBOX = {"webhook_url": "{url}/teams/workflows/sandbox/triggers/manual/paths/invoke?sig=sandbox"}
TEMPLATE_REQUIRED = True
MAX_BYTES = 28 * 1024  # of a card; Teams refuses more

_MARKDOWN = re.compile(r"([\\`*_\[\]()#~>])")


class Settings(BaseSettings):
    """SIGNALBOX_TEAMS_WEBHOOK_URL is the workflow's address, its signature included: a secret."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_TEAMS_", extra="ignore", env_ignore_empty=True
    )

    webhook_url: SecretStr | None = None


def escape(value: str) -> str:
    """The card's Markdown, so that no customer's name becomes a link."""
    return _MARKDOWN.sub(r"\\\1", value)


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    return [_post(row, target.settings, http) for row in rows]


def check(target: Target[Settings], http: HttpClient) -> str:
    """Nothing is called: whatever reaches a workflow is posted."""
    return f"a workflow at {urlsplit(_url(target.settings)).hostname} (not called)"


def card(message: Message) -> dict[str, Any]:
    """The message as a card: the subject in bold, then a block per line."""
    body: list[dict[str, Any]] = []
    if message.subject:
        title = " ".join(message.subject.split())
        body.append(_block(escape(title), weight="Bolder", size="Medium"))
    spaced = True
    for line in message.text.splitlines():
        if line.strip():
            # Teams joins lines within a block.
            body.append(_block(line.strip(), spacing="Medium" if spaced else "None"))
        spaced = not line.strip()
    return {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": body,
    }


def _block(text: str, **style: str) -> dict[str, Any]:
    return {"type": "TextBlock", "text": text, "wrap": True, **style}


def _url(settings: Settings) -> str:
    assert settings.webhook_url is not None
    return settings.webhook_url.get_secret_value()


def _post(row: Row, settings: Settings, http: HttpClient) -> RowResult:
    assert row.message is not None
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card(row.message),
    }
    payload = {"type": "message", "attachments": [attachment]}
    size = len(json.dumps(payload, ensure_ascii=False).encode())
    if size > MAX_BYTES:
        return RowResult.rejected(f"the card has {size:,} bytes, Teams takes {MAX_BYTES:,}")
    answer = http.post(_url(settings), json=payload)
    # A workflow answers 202 without words. Teams' older webhooks answer 200 to everything: with
    # `1` when the card was posted, else with a sentence.
    said = str(answer.body or "")
    if answer.status_code == 202 or said.strip() in ("", "1", "{}"):
        return RowResult.delivered(answer.status_code)
    if "HTTP error 429" in said:
        raise Retryable(said, status_code=429)
    if re.search(r"HTTP error 4\d\d", said):
        return RowResult.rejected(said, answer.status_code)
    raise Unanswered(f"Teams answered: {said}", status_code=answer.status_code)
