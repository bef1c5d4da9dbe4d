"""From a Segment message to the record that goes into the event log. Pure functions.

Every message becomes exactly one `LogRecord`: an event, or a quarantine record that says why.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, get_args

import msgspec

from ingestion.contract import Contracts
from ingestion.json_facts import depth, has_nul, lone_surrogate
from ingestion.merge import Defaults, merged

MessageType = Literal["track", "identify", "page", "screen", "group", "alias"]
Policy = Literal["allow", "quarantine", "reject"]
TYPES: tuple[str, ...] = get_args(MessageType)
_ID_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on what one request may cost. Sizes are in bytes, after inflating."""

    message_bytes: int = 32 * 1024
    batch_bytes: int = 500 * 1024
    batch_messages: int = 2_500
    depth: int = 64
    waiting_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a request says about all of its messages.

    `source` is the name of the write key, `type` the one in the address (``/v1/track``), `sent_at`
    the client's clock when it sent the request. Without `sent_at` no skew is corrected.
    `defaults` is what the payload of each message gets where the message itself does not say it.
    The policies say what becomes of events without a contract, and of those that break theirs:
    `allow` takes them with a flag, `quarantine` keeps them aside, and so does `reject`, which
    marks them for the request's answer as not wanted.
    """

    source: str
    received_at: datetime
    sent_at: datetime | None = None
    type: MessageType | None = None
    unknown_events: Policy = "quarantine"
    violations: Policy = "quarantine"
    defaults: Defaults | None = None


class LogRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record of the event log. Times are RFC 3339 in UTC with microseconds.

    `event_version` is the contract's that it was checked against. `reason` and `detail` say what is
    wrong with it: why it is in quarantine or, of an event, what its source's policy allowed.
    `rejected` marks a message that the policy did not want and that came beside wanted ones.
    A replay names the quarantine record it was made from by its `log_seq`.
    """

    kind: Literal["event", "quarantine"]
    source: str
    message_id: str
    message_id_generated: bool
    type: MessageType | None
    event: str | None
    event_version: int | None
    user_id: str | None
    anonymous_id: str | None
    timestamp: str
    original_timestamp: str | None
    sent_at: str | None
    received_at: str
    reason: str | None
    detail: str | None
    payload: str
    rejected: bool = False
    replayed_from: int | None = None
    replayed_at: str | None = None


_ABSENT = msgspec.Raw(b"null")
_OBJECT_OR_NULL = b"{n"  # the first byte of either


class _Message(msgspec.Struct, rename="camel"):
    type: str | None = None
    message_id: str | int | None = None
    user_id: str | int | None = None
    anonymous_id: str | int | None = None
    group_id: str | int | None = None
    previous_id: str | int | None = None
    event: str | None = None
    timestamp: str | None = None
    original_timestamp: str | None = None
    sent_at: Any = None
    properties: dict[str, Any] | None = None
    # Only their shape matters here, and not reading them saves a fifth of the time.
    traits: msgspec.Raw = _ABSENT
    context: msgspec.Raw = _ABSENT


class _Context(msgspec.Struct):
    protocols: Any = None


class _Refused(Exception):
    def __init__(
        self, reason: str, detail: str, version: int | None = None, *, rejected: bool = False
    ) -> None:
        self.reason = reason
        self.detail = detail
        self.version = version
        self.rejected = rejected


_messages = msgspec.json.Decoder(_Message)
_contexts = msgspec.json.Decoder(_Context)
_records = msgspec.json.Decoder(LogRecord)
_encoder = msgspec.json.Encoder()
_sorted_encoder = msgspec.json.Encoder(order="sorted")

encode_record = _encoder.encode
decode_record = _records.decode


def to_record(
    raw: bytes, arrival: Arrival, contracts: Contracts, limits: Limits | None = None
) -> LogRecord:
    """The log record of one message, given as the bytes of its JSON object. Never raises on input.

    Quarantine reasons: invalid_json, invalid_text, too_large, too_deep, invalid_envelope,
    invalid_timestamp, and those of `Contracts.check`.
    """
    try:
        return _event(raw, arrival, contracts, limits or Limits())
    except _Refused as refused:
        return _quarantine(raw, arrival, refused)


def parse_time(text: Any) -> datetime | None:
    """A point in time from ISO 8601 text, in UTC where it names no zone; None if it is none."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is UTC:
            return time
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def format_time(time: datetime) -> str:
    """RFC 3339 in UTC with microseconds."""
    # Several times as fast as isoformat, which took a fifth of a message's whole way.
    text = _encoder.encode(time if time.tzinfo is UTC else time.astimezone(UTC)).decode()
    return text[1:-1] if "." in text else f"{text[1:20]}.000000Z"


# All messages of a request share two times, so these are formatted once.
_format_shared = lru_cache(maxsize=64)(format_time)


def _event(raw: bytes, arrival: Arrival, contracts: Contracts, limits: Limits) -> LogRecord:
    if len(raw) > limits.message_bytes:
        raise _Refused(
            "too_large",
            f"the message has {len(raw)} bytes; at most {limits.message_bytes} are taken",
        )
    try:
        payload = raw.decode()  # all of it: the parser does not look into fields it skips
    except UnicodeDecodeError:
        raise _Refused("invalid_text", "the message is not UTF-8") from None
    message = _decode(raw, limits.depth)
    type_ = message.type or arrival.type
    if type_ is None:
        raise _Refused("missing_field", "type is required")
    if type_ not in TYPES:
        raise _Refused("invalid_envelope", f"type must be one of {', '.join(TYPES)}")
    user_id = _identifier(message.user_id, "userId")
    anonymous_id = _identifier(message.anonymous_id, "anonymousId")
    event = _check_type(type_, message, user_id, anonymous_id)

    original, sent, corrected = _times(message, arrival)
    # Hardly any message declares one, and the bytes tell that faster than the fields.
    declared = None
    if arrival.defaults or b'"event_version"' in raw:
        declared = _declared_version(message, arrival)
    verdict = contracts.check(type_, event, message.properties, declared)
    if verdict.reason:
        unknown = verdict.reason == "unknown_event"
        policy = arrival.unknown_events if unknown else arrival.violations
        if policy != "allow":
            detail = verdict.detail or verdict.reason
            raise _Refused(verdict.reason, detail, verdict.version, rejected=policy == "reject")
    message_id = _identifier(message.message_id, "messageId")
    return LogRecord(
        kind="event",
        source=arrival.source,
        message_id=message_id or _content_id(raw, type_),
        message_id_generated=message_id is None,
        type=type_,  # type: ignore[arg-type]  # one of TYPES, as checked above
        event=event,
        event_version=verdict.version,
        user_id=user_id,
        anonymous_id=anonymous_id,
        timestamp=corrected,
        original_timestamp=original,
        sent_at=sent,
        received_at=_format_shared(arrival.received_at),
        reason=verdict.reason,
        detail=verdict.detail,
        payload=merged(raw, arrival.defaults).decode() if arrival.defaults else payload,
    )


def _decode(raw: bytes, limit: int) -> _Message:
    try:
        if raw.count(b"{") + raw.count(b"[") > limit and depth(msgspec.json.decode(raw)) > limit:
            raise _Refused("too_deep", f"the message is nested more than {limit} levels deep")
        # JSON may escape NUL, but neither Postgres nor a CRM can hold it.
        if b"\\" in raw and b"\\u0000" in raw and has_nul(msgspec.json.decode(raw)):
            raise _Refused("invalid_text", "a text contains the character NUL (\\u0000)")
        return _messages.decode(raw)
    except RecursionError:
        raise _Refused("too_deep", f"the message is nested more than {limit} levels deep") from None
    except msgspec.ValidationError as error:
        raise _Refused("invalid_envelope", _shape(str(error))) from None
    except msgspec.DecodeError as error:
        if b"\\u" in raw and lone_surrogate(raw):
            raise _Refused("invalid_text", "a text contains half of a surrogate pair") from None
        raise _Refused("invalid_json", f"the message is not JSON: {error}") from None


_SHAPE = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>\w+)`(?: - at `\$\.?(?P<at>.*)`)?")
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
}


def _shape(error: str) -> str:
    """msgspec's words about a wrong type, in those of contracts."""
    found = _SHAPE.fullmatch(error)
    if found is None:
        return error
    wanted = [_WORDS.get(w, w) for w in found["wanted"].split(" | ") if w != "null"]
    got = _WORDS.get(found["got"], found["got"])
    return f"{found['at'] or 'the message'} must be {' or '.join(sorted(wanted))}, not {got}"


def _check_type(
    type_: str, message: _Message, user_id: str | None, anonymous_id: str | None
) -> str | None:
    """The event's name, for a track message; _Refused if the type lacks what it needs."""
    for name, value in (("traits", message.traits), ("context", message.context)):
        if value is not _ABSENT and memoryview(value)[0] not in _OBJECT_OR_NULL:
            raise _Refused("invalid_envelope", f"{name} must be an object")
    if user_id is None and anonymous_id is None:
        raise _Refused("missing_field", "userId or anonymousId is required")
    if type_ == "track":
        event = _identifier(message.event, "event")
        if event is None:
            raise _Refused("missing_field", "event is required in a track message")
        return event
    if type_ == "group" and _identifier(message.group_id, "groupId") is None:
        raise _Refused("missing_field", "groupId is required in a group message")
    if type_ == "alias" and _identifier(message.previous_id, "previousId") is None:
        raise _Refused("missing_field", "previousId is required in an alias message")
    return None


def _declared_version(message: _Message, arrival: Arrival) -> Any:
    """What stands at context.protocols.event_version, of the message or else of its batch.

    That is where Segment's Protocols and the code it generates put it.
    """
    for context in (message.context, (arrival.defaults or {}).get("context", _ABSENT)):
        if b'"event_version"' not in bytes(context):
            continue
        protocols = _contexts.decode(context).protocols
        version = protocols.get("event_version") if isinstance(protocols, dict) else None
        if version is not None:
            return version
    return None


def _identifier(value: str | int | None, field: str) -> str | None:
    """Ids as text, since some clients send numbers; blank is the same as absent."""
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value)
    if len(text) > _ID_CHARACTERS:
        raise _Refused("invalid_envelope", f"{field} has more than {_ID_CHARACTERS} characters")
    return None if not text or text.isspace() else text


def _times(message: _Message, arrival: Arrival) -> tuple[str | None, str | None, str]:
    """Original and sent time, and the time of the event by our own clock.

    As in Segment's spec: timestamp = receivedAt - (sentAt - originalTimestamp).
    """
    sent = arrival.sent_at or parse_time(message.sent_at)
    sent_text = _format_shared(sent) if sent else None
    text = message.original_timestamp or message.timestamp
    if not text:
        return None, sent_text, _format_shared(arrival.received_at)
    original = parse_time(text)
    if original is None:
        raise _Refused("invalid_timestamp", "timestamp must be ISO 8601 text")
    try:
        corrected = arrival.received_at - (sent - original) if sent else original
        return format_time(original), sent_text, format_time(corrected)
    except OverflowError:
        raise _Refused("invalid_timestamp", "timestamp is outside the years 1 to 9999") from None


def _content_id(raw: bytes, type_: str | None) -> str:
    """An id from what the message says, not from how or when it was sent or spelled."""
    try:
        content = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        content.pop("sentAt", None)
        content.pop("writeKey", None)
        content["type"] = content.get("type") or type_
        raw = _sorted_encoder.encode(content)
    return "sbx-" + hashlib.sha256(raw).hexdigest()[:32]


def _quarantine(raw: bytes, arrival: Arrival, refused: _Refused) -> LogRecord:
    """A record of a message that was refused, with whatever can still be told about it."""
    try:
        content = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        content = None
    fields: Mapping[str, Any] = content if isinstance(content, dict) else {}
    type_ = fields.get("type") or arrival.type
    message_id = _salvaged(fields.get("messageId"))
    sent = arrival.sent_at or parse_time(fields.get("sentAt"))
    original = parse_time(fields.get("originalTimestamp") or fields.get("timestamp"))
    received = format_time(arrival.received_at)
    return LogRecord(
        kind="quarantine",
        source=arrival.source,
        message_id=message_id or _content_id(raw, arrival.type),
        message_id_generated=message_id is None,
        type=type_ if type_ in TYPES else None,
        event=_salvaged(fields.get("event")),
        event_version=refused.version,
        user_id=_salvaged(fields.get("userId")),
        anonymous_id=_salvaged(fields.get("anonymousId")),
        timestamp=received,
        original_timestamp=format_time(original) if original else None,
        sent_at=format_time(sent) if sent else None,
        received_at=received,
        reason=refused.reason,
        detail=refused.detail,
        payload=(merged(raw, arrival.defaults) if arrival.defaults else raw).decode(
            "utf-8", "replace"
        ),
        rejected=refused.rejected,
    )


def _salvaged(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > _ID_CHARACTERS or "\0" in value:
        return None
    return value if value.strip() else None
