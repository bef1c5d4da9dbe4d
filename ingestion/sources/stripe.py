"""Stripe's webhooks at POST /v1/hooks/stripe.

The signature is checked as Stripe documents it: the header `Stripe-Signature` holds `t=`, a time,
and any number of `v1=`, each the hex HMAC-SHA256 of `t.body`.

Events of billing get names and properties of their own (`EVENTS`), amounts in the currency's main
unit; all others keep Stripe's name. The whole event stands in `context.stripe`, as it was signed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ingestion.delivery import find, name_pairs
from ingestion.envelope import format_time
from ingestion.signature import verify, verify_time
from ingestion.sources import Delivery, Refused, Request

KIND = "push"
DESCRIPTION = "Stripe's webhooks: payments, subscriptions, customers."

#: Stripe's event types under our names. `invoice.paid` always comes beside
#: `invoice.payment_succeeded`, so it is not among them.
EVENTS = {
    "invoice.payment_failed": "Payment Failed",
    "invoice.payment_succeeded": "Payment Succeeded",
    "customer.subscription.created": "Subscription Started",
    "customer.subscription.updated": "Subscription Updated",
    "customer.subscription.deleted": "Subscription Cancelled",
}
_IDENTIFY = frozenset({"customer.created", "customer.updated"})

# Stripe counts in the smallest unit; these currencies do not divide by a hundred.
_WHOLE = "bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf"
_THOUSANDTHS = "bhd jod kwd omr tnd"


class Settings(BaseSettings):
    """How to know Stripe, and its customers."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_STRIPE_", env_ignore_empty=True, extra="ignore"
    )
    secret: SecretStr = Field(description="The endpoint's whsec_…; two while one replaces another.")
    tolerance_seconds: float = Field(300, gt=0, description="Replay window.")
    user_id: str = Field(
        "metadata.user_id|client_reference_id|subscription_details.metadata.user_id"
        "|parent.subscription_details.metadata.user_id",
        description="Where Stripe's object has your user id; without one anonymousId is Stripe's.",
    )
    events: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="More names for events: charge.refunded=Payment Refunded.",
    )

    @field_validator("events", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return name_pairs(value) if isinstance(value, str) else value


def receive(request: Request, settings: Settings, now: datetime) -> list[Delivery]:
    """One event. Raises Refused if it is not from Stripe, or not an event."""
    _verify(request, settings, now)
    try:
        event = msgspec.json.decode(request.body)
        kind, identity, content = str(event["type"]), str(event["id"]), event["data"]["object"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise Refused(400, "The body is not an event of Stripe with type, id and data.") from None
    created = _moment(event.get("created"))
    message = _message(kind, content if isinstance(content, dict) else {}, request.body, settings)
    message |= {"messageId": identity, "timestamp": created or format_time(now)}
    return [Delivery(body=msgspec.json.encode(message), id=identity, event=kind)]


def _verify(request: Request, settings: Settings, now: datetime) -> None:
    parts = [
        part.strip().partition("=")[::2]
        for part in request.headers.get("stripe-signature", "").split(",")
    ]
    times = [value for name, value in parts if name == "t"]
    signed = times[0] if times else ""
    secrets = [s.strip().encode() for s in settings.secret.get_secret_value().split(",")]
    candidates = [_unhex(value) for name, value in parts if name == "v1"]
    verify(f"{signed}.".encode() + request.body, secrets, candidates)
    verify_time(signed, now, settings.tolerance_seconds)


def _message(kind: str, content: dict[str, Any], raw: bytes, settings: Settings) -> dict[str, Any]:
    is_customer = content.get("object") == "customer"
    customer = _id(content.get("id") if is_customer else content.get("customer"))
    email = content.get("email") if is_customer else content.get("customer_email")
    context: dict[str, Any] = {
        "library": {"name": "signalbox-stripe"},
        "stripe": msgspec.Raw(raw),
    }
    if isinstance(email, str) and email:
        context["traits"] = {"email": email}
    message: dict[str, Any] = {
        "userId": find(settings.user_id, content, Delivery(body=b"", id="")),
        "anonymousId": f"stripe:{customer}" if customer else None,
        "context": context,
    }
    if kind in _IDENTIFY:
        traits = {name: content.get(name) for name in ("email", "name", "phone")}
        known = {name: value for name, value in traits.items() if value}
        return message | {"type": "identify", "traits": known | {"stripe_customer_id": customer}}
    name = settings.events.get(kind) or EVENTS.get(kind, kind)
    found = {"customer_id": customer} | _properties(kind, content)
    properties = {key: value for key, value in found.items() if value is not None}
    return message | {"type": "track", "event": name, "properties": properties}


def _properties(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    currency = content.get("currency")
    if content.get("object") == "invoice":
        paid = "amount_paid" if kind == "invoice.payment_succeeded" else "amount_due"
        details = _walk(content, "parent", "subscription_details", "subscription")
        return {
            "invoice_id": content.get("id"),
            "subscription_id": _id(content.get("subscription") or details),
            "amount": _amount(content.get(paid), currency),
            "currency": currency.upper() if isinstance(currency, str) else None,
            "attempt": content.get("attempt_count"),
            "next_attempt_at": _moment(content.get("next_payment_attempt")),
            "billing_reason": content.get("billing_reason"),
        }
    if content.get("object") == "subscription":
        item = (_walk(content, "items", "data") or [{}])[0]
        price = item.get("price") or {}
        ends = content.get("current_period_end") or item.get("current_period_end")
        return {
            "subscription_id": content.get("id"),
            "status": content.get("status"),
            "plan": price.get("nickname") or price.get("lookup_key") or price.get("id"),
            "amount": _amount(price.get("unit_amount"), price.get("currency")),
            "currency": str(price["currency"]).upper() if price.get("currency") else None,
            "cancels_at_period_end": content.get("cancel_at_period_end"),
            "period_ends_at": _moment(ends),
            "cancellation_reason": _walk(content, "cancellation_details", "reason"),
        }
    return {"object_id": content.get("id")}


def _walk(value: Any, *path: str) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _id(value: Any) -> str | None:
    """An id, or that of the object which Stripe was asked to expand in its place."""
    value = value.get("id") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _amount(value: Any, currency: Any) -> float | int | None:
    if not isinstance(value, int) or not isinstance(currency, str):
        return None
    if currency.lower() in _WHOLE.split():
        return value
    return value / (1000 if currency.lower() in _THOUSANDTHS.split() else 100)


def _moment(value: Any) -> str | None:
    if isinstance(value, str):
        return value  # Stripe's newer events; the door checks it
    if not isinstance(value, int):
        return None
    try:
        return format_time(datetime.fromtimestamp(value, UTC))
    except (ValueError, OverflowError, OSError):
        return None


def _unhex(value: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except ValueError:
        return b""
