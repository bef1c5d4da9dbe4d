"""Any vendor that signs its calls with an HMAC, at POST /v1/hooks/signed_webhook.

The settings say how. GitHub: HEADER=x-hub-signature-256, PREFIX=sha256=. Shopify:
HEADER=x-shopify-hmac-sha256, ENCODING=base64. Standard Webhooks: HEADER=webhook-signature,
PREFIX=v1, (with the comma), ENCODING=base64, SECRET_IS_BASE64=true,
SIGNED={id}.{timestamp}.{body}, TIMESTAMP_HEADER=webhook-timestamp, ID_HEADER=webhook-id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import datetime
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from ingestion.delivery import MessageSettings, named_headers
from ingestion.signature import verify, verify_time
from ingestion.sources import Delivery, Request

KIND = "push"
DESCRIPTION = "Any vendor's webhooks that are signed with an HMAC."


class Settings(MessageSettings):
    """How the vendor signs, and where its messages say what."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_SIGNED_WEBHOOK_", env_ignore_empty=True, extra="ignore"
    )
    secret: SecretStr = Field(description="Shared secret; several, with commas, while one changes.")
    secret_is_base64: bool = False
    header: str = Field("x-signature", description="Header with the signature, or several.")
    prefix: str = Field("", description="What stands before each signature: sha256=.")
    algorithm: Literal["sha256", "sha1", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    signed: str = Field("{body}", description="What is signed: {id}.{timestamp}.{body}.")
    timestamp_header: str = Field("", description="Seconds since 1970; unset: no replay window.")
    tolerance_seconds: float = Field(300, gt=0, description="Replay window.")
    id_header: str = Field("", description="The call's id; unset: the hash of its body.")

    @field_validator("header", "timestamp_header", "id_header")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if "{body}" not in self.signed:
            raise ValueError("SIGNED must contain {body}")
        if bool(self.timestamp_header) != ("{timestamp}" in self.signed):
            raise ValueError("TIMESTAMP_HEADER counts only if SIGNED contains {timestamp}")
        try:
            _secrets(self)
        except binascii.Error:
            raise ValueError("SECRET is not base64") from None
        return self


def receive(request: Request, settings: Settings, now: datetime) -> list[Delivery]:
    """One message. Raises Refused if it is not signed as the settings say."""
    timestamp = request.headers.get(settings.timestamp_header, "")
    identity = request.headers.get(settings.id_header, "")
    before, _, after = settings.signed.partition("{body}")
    frame = [
        part.replace("{timestamp}", timestamp).replace("{id}", identity).encode()
        for part in (before, after)
    ]
    candidates = [
        _decoded(part.removeprefix(settings.prefix).strip(), settings.encoding)
        for part in _parts(request.headers.get(settings.header, ""), settings.prefix)
    ]
    content = frame[0] + request.body + frame[1]
    verify(content, _secrets(settings), candidates, settings.algorithm)
    if settings.timestamp_header:
        verify_time(timestamp, now, settings.tolerance_seconds)
    digest = hashlib.sha256(request.body).hexdigest()[:32]
    # Not all of them: a signature or a password has no place in an event.
    wanted = named_headers(settings.fields)
    headers = {name: value for name, value in request.headers.items() if name in wanted}
    return [Delivery(body=request.body, id=identity or f"body-{digest}", headers=headers)]


def _parts(header: str, prefix: str) -> list[str]:
    # "v1,abc v1,def" of Standard Webhooks, or "a, b": the comma divides unless the prefix has one.
    divided = header.split() if "," in prefix else header.replace(",", " ").split()
    return [part for part in divided if part.startswith(prefix)]


def _decoded(text: str, encoding: str) -> bytes:
    try:
        if encoding == "hex":
            return bytes.fromhex(text)
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _secrets(settings: Settings) -> list[bytes]:
    found = [part.strip() for part in settings.secret.get_secret_value().split(",")]
    if not settings.secret_is_base64:
        return [part.encode() for part in found]
    return [base64.b64decode(part.removeprefix("whsec_"), validate=True) for part in found]
