"""Google Pub/Sub push subscriptions at POST /v1/hooks/pubsub_push.

Who calls is known by the token that Google signs for the subscription's service account (OIDC), by
a shared token in the endpoint's address (`?token=…`), or both.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from ingestion.delivery import MessageSettings
from ingestion.envelope import parse_time
from ingestion.sources import Delivery, Refused, Request, SourceError, missing_package

KIND = "push"
DESCRIPTION = "Google Pub/Sub push subscriptions."

_ISSUERS = frozenset({"https://accounts.google.com", "accounts.google.com"})
_CERTIFICATES_SECONDS = 3600.0
_ASK_AGAIN_SECONDS = 60.0


class Settings(MessageSettings):
    """How to know Google."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_PUBSUB_PUSH_", env_ignore_empty=True, extra="ignore"
    )
    token: SecretStr | None = Field(None, description="Shared token: …/pubsub_push?token=….")
    audience: str = Field("", description="Audience of Google's signed token.")
    service_account: str = Field("", description="Email of the account that Google signs for.")
    certificates_url: str = Field(
        "https://www.googleapis.com/oauth2/v1/certs", description="Google's public keys."
    )

    @model_validator(mode="after")
    def _guarded(self) -> Settings:
        if self.audience and not self.service_account:
            raise ValueError("AUDIENCE needs SERVICE_ACCOUNT: Google signs for anybody's account")
        if not self.token and not self.audience:
            raise ValueError("set TOKEN, or AUDIENCE and SERVICE_ACCOUNT, to know who calls")
        return self


class _PushedMessage(msgspec.Struct, rename="camel"):
    message_id: str
    data: str = ""
    attributes: dict[str, str] = {}
    publish_time: str | None = None
    ordering_key: str | None = None


class _Push(msgspec.Struct):
    message: _PushedMessage


def receive(request: Request, settings: Settings, now: datetime) -> list[Delivery]:
    """One message. Raises Refused if it is not from the subscription, or not a push."""
    _check_caller(request, settings)
    try:
        pushed = msgspec.json.decode(request.body, type=_Push).message
        body = base64.b64decode(pushed.data, validate=True)
    except (msgspec.MsgspecError, binascii.Error, RecursionError):
        raise Refused(400, "The body is not a push message of Pub/Sub.") from None
    return [
        Delivery(
            body=body,
            id=pushed.message_id,
            time=parse_time(pushed.publish_time),
            headers=pushed.attributes,
            key=pushed.ordering_key or None,
        )
    ]


def _check_caller(request: Request, settings: Settings) -> None:
    if settings.token:
        expected = settings.token.get_secret_value().encode()
        if not hmac.compare_digest(expected, request.query.get("token", "").encode()):
            raise Refused(401, "The token is missing or wrong.")
    if settings.audience:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        claims = _claims(token if scheme.lower() == "bearer" else "", settings)
        if (
            claims.get("iss") not in _ISSUERS
            or claims.get("email") != settings.service_account
            or claims.get("email_verified") is not True
        ):
            raise Refused(401, "The token is not of the subscription's service account.")


def _claims(token: str, settings: Settings) -> Mapping[str, Any]:
    try:
        from google.auth import exceptions, jwt
    except ImportError:
        raise missing_package("pubsub_push", "gcp") from None
    try:
        key = jwt.decode_header(token).get("kid")  # type: ignore[no-untyped-call]
        certificates = _certificates(settings.certificates_url, key)
        claims: Mapping[str, Any] = jwt.decode(  # type: ignore[no-untyped-call]
            token, certs=certificates, audience=settings.audience, clock_skew_in_seconds=10
        )
    except (ValueError, exceptions.GoogleAuthError):
        raise Refused(401, "Google's token is missing, wrong or too old.") from None
    return claims


_known: dict[str, tuple[float, dict[str, str]]] = {}
_asking = threading.Lock()


def _certificates(url: str, key: str | None) -> dict[str, str]:
    """Google's certificates by key id; asked for hourly, and when an unknown key turns up."""
    import requests

    with _asking:
        asked, found = _known.get(url, (-_CERTIFICATES_SECONDS, {}))
        age = time.monotonic() - asked
        if age < _ASK_AGAIN_SECONDS or (age < _CERTIFICATES_SECONDS and key in found):
            return found
        try:
            answer = requests.get(url, timeout=10)
            answer.raise_for_status()
            found = dict(answer.json())
        except (requests.RequestException, ValueError) as error:
            raise SourceError(
                f"Google's keys at {url} cannot be read ({type(error).__name__})"
            ) from None
        _known[url] = (time.monotonic(), found)
        return found
