"""From what a broker or a vendor delivers to the record that goes into the event log. Pure.

A body that is a Segment message passes as it is. Any other JSON object becomes the properties of
a track message. What is neither goes into quarantine whole, with the reason.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from ingestion.contract import Contracts
from ingestion.envelope import (
    TYPES,
    Arrival,
    Limits,
    LogRecord,
    encode_record,
    format_time,
    to_record,
)
from ingestion.merge import merged
from ingestion.request import SourcePolicy
from ingestion.segment import MAX_RECORD_BYTES
from ingestion.sources import Delivery, Unreadable

#: What can be looked up in a message, and where by default: see `find`. CloudEvents' headers begin
#: with ce_ in Kafka and with ce- in HTTP.
FIELDS: Mapping[str, str] = {
    "event": "header.event|header.ce_type|header.ce-type",
    "message_id": "header.message_id|header.ce_id|header.ce-id",
    "timestamp": "header.ce_time|header.ce-time",
    "user_id": "userId|user_id",
    "anonymous_id": "anonymousId|anonymous_id",
}

#: EventBridge's largest event; a queue's messages do not pay for a client's connection.
LIMITS = Limits(message_bytes=256 * 1024)

_SEGMENT_KEYS = frozenset(
    {"messageId", "userId", "anonymousId", "groupId", "previousId", "writeKey"}
)


class MessageSettings(BaseSettings):
    """Base of the settings of sources whose messages may be anything."""

    fields: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="Where messages say what, as name=path pairs: event=type,user_id=customer.id.",
    )
    events: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="Names for events, as its name=ours pairs: orders=Purchase Completed.",
    )

    @field_validator("fields", "events", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return name_pairs(value) if isinstance(value, str) else value

    @field_validator("fields")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        if unknown := value.keys() - FIELDS.keys():
            raise ValueError(
                f"there is no field {', '.join(sorted(unknown))}; there are {', '.join(FIELDS)}"
            )
        return value


def name_pairs(text: str) -> dict[str, str]:
    """`a=b,c=d` as a dict. Raises ValueError for anything else."""
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, separator, value = part.partition("=")
        if not separator or not name.strip() or not value.strip():
            raise ValueError(f"{part!r} is not name=value")
        found[name.strip()] = value.strip()
    return found


@dataclass(frozen=True)
class Door:
    """What one source's deliveries pass to become log records.

    Args:
        source: recorded as the event's source, with its policy for events without a contract.
        contracts: the compiled contracts.
        fields: overrides of `FIELDS`.
        events: the broker's name of an event, or its topic, to ours.
    """

    source: SourcePolicy
    contracts: Contracts
    fields: Mapping[str, str] = field(default_factory=dict)
    events: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = LIMITS

    def judge(self, delivery: Delivery, now: datetime) -> LogRecord:
        """The log record of a delivery; never raises on input.

        The skew of the sender's clock is judged by when the broker took the message; `received_at`
        is when we did.
        """
        record = self._judged(delivery, min(delivery.time or now, now))
        return msgspec.structs.replace(record, received_at=format_time(now))

    def record(self, delivery: Delivery, now: datetime) -> bytes:
        """The same, encoded, and small enough for the log."""
        encoded = encode_record(self.judge(delivery, now))
        if len(encoded) > MAX_RECORD_BYTES:  # JSON in JSON can be six times as long
            encoded = encode_record(_unreadable(delivery, self.source.name, _OVERSIZED, now))
        return encoded

    def _judged(self, delivery: Delivery, taken: datetime) -> LogRecord:
        if delivery.unreadable is not None:
            return _unreadable(delivery, self.source.name, delivery.unreadable, taken)
        try:
            delivery.body.decode()
        except UnicodeDecodeError:
            return _unreadable(delivery, self.source.name, _NOT_TEXT, taken)
        arrival = Arrival(
            source=self.source.name,
            received_at=taken,
            unknown_events=self.source.unknown_events,
            violations=self.source.violations,
        )
        message = self._message(delivery, taken)
        record = to_record(message or delivery.body, arrival, self.contracts, self.limits)
        if record.message_id_generated:
            record = msgspec.structs.replace(
                record, message_id=_bounded(delivery.id), message_id_generated=False
            )
        return record

    def _message(self, delivery: Delivery, taken: datetime) -> bytes | None:
        """The body as a Segment message; None if it is not a JSON object."""
        try:
            body = msgspec.json.decode(delivery.body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(body, dict):
            return None
        if body.get("type") in TYPES and _SEGMENT_KEYS & body.keys():
            lacking = {"messageId": _bounded(delivery.id), "timestamp": format_time(taken)}
            if body.get("originalTimestamp"):
                del lacking["timestamp"]
            defaults = {name: _raw(value) for name, value in lacking.items() if not body.get(name)}
            return merged(delivery.body, defaults) if defaults else delivery.body
        return self._wrapped(delivery, body, taken)

    def _wrapped(self, delivery: Delivery, body: dict[str, Any], taken: datetime) -> bytes:
        def value(name: str) -> str | None:
            return find(self.fields.get(name) or FIELDS[name], body, delivery)

        named = value("event") or delivery.event
        context: dict[str, Any] = {"library": {"name": f"signalbox-{self.source.name}"}}
        if delivery.headers:
            context["headers"] = dict(delivery.headers)
        if delivery.key is not None:
            context["key"] = delivery.key
        return msgspec.json.encode(
            {
                "type": "track",
                "event": self.events.get(named, named) if named else None,
                "messageId": value("message_id") or _bounded(delivery.id),
                "timestamp": _time(value("timestamp")) or format_time(taken),
                "userId": value("user_id"),
                "anonymousId": value("anonymous_id"),
                "properties": msgspec.Raw(delivery.body),
                "context": context,
            }
        )


def find(paths: str, body: Mapping[str, Any], delivery: Delivery) -> str | None:
    """The first value that one of the paths leads to, as text.

    Paths are divided by `|`. Each is `a.b.0` in the body, `header.<name>`, or `key` for the
    broker's own key of the message.
    """
    for path in paths.split("|"):
        if path == "key":
            found: Any = delivery.key
        elif path.startswith("header."):
            found = delivery.headers.get(path.removeprefix("header."))
        else:
            found = _walk(body, path.split("."))
        if isinstance(found, str) and found.strip():
            return found
        if isinstance(found, int | float) and not isinstance(found, bool):
            return str(found)
    return None


def named_headers(fields: Mapping[str, str]) -> set[str]:
    """The headers that paths lead to, those of the defaults included."""
    paths = "|".join({**FIELDS, **fields}.values()).split("|")
    return {path.removeprefix("header.") for path in paths if path.startswith("header.")}


def _walk(value: Any, path: list[str]) -> Any:
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _time(value: str | None) -> str | None:
    """Seconds or milliseconds since 1970 as RFC 3339; other text as it is."""
    try:
        number = float(value or "")
    except ValueError:
        return value
    seconds = number / 1000 if abs(number) >= _MILLISECONDS else number
    try:
        return format_time(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return value  # the door refuses it in its own words


_MILLISECONDS = 10**11  # as seconds, the year 5138
_NOT_TEXT = Unreadable("invalid_text", "the message is not UTF-8; it is kept as base64")
_OVERSIZED = Unreadable("too_large", "the message is too large for the log; its start is kept")


def _unreadable(delivery: Delivery, source: str, why: Unreadable, taken: datetime) -> LogRecord:
    kept = delivery.body[: MAX_RECORD_BYTES // 2]
    payload = {"base64": base64.b64encode(kept).decode(), "bytes": len(delivery.body)}
    moment = format_time(taken.astimezone(UTC))
    return LogRecord(
        kind="quarantine",
        source=source,
        message_id=_bounded(delivery.id),
        message_id_generated=False,
        type=None,
        event=delivery.event,
        event_version=None,
        user_id=None,
        anonymous_id=None,
        timestamp=moment,
        original_timestamp=None,
        sent_at=None,
        received_at=moment,
        reason=why.reason,
        detail=why.detail,
        payload=msgspec.json.encode(payload).decode(),
    )


def _raw(value: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _bounded(identity: str) -> str:
    return identity[:512]
