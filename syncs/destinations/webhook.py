"""A signed webhook to a service of your own, as Standard Webhooks describes it.

https://www.standardwebhooks.com
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Row, RowResult, Target

MODES = {"message"}
BATCH_SIZE = 1
API_VERSION = "Standard Webhooks 1"
RATE = 50.0
CREDENTIALS = ("base_url", "secret")
SANDBOX = {
    "base_url": "{url}/webhook",
    "secret": "whsec_c2lnbmFsYm94LXNhbmRib3gtc2VjcmV0",
    "allow_hosts": "127.0.0.1,localhost",
}
IDEMPOTENCY_KEY = True  # webhook-id: the receiver drops what it has seen


class Settings(BaseSettings):
    """SIGNALBOX_WEBHOOK_BASE_URL and _SECRET (whsec_…). A sync's `object` is the path below it.

    While a secret is replaced by another, both stand there with a space between: each signs.

    Hosts with a private address are refused unless SIGNALBOX_WEBHOOK_ALLOW_HOSTS names them,
    separated by commas.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_WEBHOOK_", extra="ignore", env_ignore_empty=True
    )

    base_url: str | None = None
    secret: SecretStr | None = None
    allow_hosts: str = ""


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    return [_post(row, target, http) for row in rows]


def check(target: Target[Settings], http: HttpClient) -> str:
    """Signs, and sends nothing: a receiver may act on whatever reaches it."""
    assert target.settings.secret is not None
    sign(target.settings.secret.get_secret_value(), "check", "0", b"")
    return f"{urlsplit(target.settings.base_url or '').hostname}, secret usable (not called)"


def _post(row: Row, target: Target[Settings], http: HttpClient) -> RowResult:
    settings = target.settings
    assert settings.base_url is not None and settings.secret is not None
    body = json.dumps(
        {"type": target.object, "timestamp": row.fired_at, "data": dict(row.fields)},
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()
    sent_at = str(int(time.time()))
    allowed = {host.strip().lower() for host in settings.allow_hosts.split(",") if host.strip()}
    host = (urlsplit(settings.base_url).hostname or "").lower()
    answer = http.post(
        f"{settings.base_url.rstrip('/')}/{quote(target.object.strip('/'))}",
        data=body,
        headers={
            "Content-Type": "application/json",
            "webhook-id": row.action_key,
            "webhook-timestamp": sent_at,
            "webhook-signature": sign(
                settings.secret.get_secret_value(), row.action_key, sent_at, body
            ),
        },
        public_only=host not in allowed,
    )
    return RowResult.delivered(answer.status_code)


def sign(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """The `webhook-signature` header: HMAC-SHA256 over id, timestamp and body, by each secret."""
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = []
    for each in secret.split():
        try:
            key = base64.b64decode(each.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise Fatal(
                "SIGNALBOX_WEBHOOK_SECRET must be whsec_ followed by the key in base64"
            ) from None
        digest = hmac.new(key, content, hashlib.sha256).digest()
        signatures.append("v1," + base64.b64encode(digest).decode())
    return " ".join(signatures)
