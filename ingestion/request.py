"""What a request to the collector holds: its key, its inflated body, its messages.

Clients differ more in their labels than in their content, so labels are ignored: gzip is known by
its first bytes, JSON is parsed whatever the Content-Type says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ingestion.client import ClientIp
from ingestion.envelope import Limits, Policy
from ingestion.json_facts import depth, has_nul
from ingestion.merge import Defaults
from ingestion.reserved import check_source

GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
_GZIP_MEMBERS = 16
# How much larger than a batch may be what its defaults make of it, merged into each message.
_MERGED_FACTOR = 16


class RequestError(Exception):
    """The whole request is refused: an HTTP status, a code for programs, words for people.

    `retry_after` is in seconds, for what may be sent again. `problems` says what is wrong with
    single messages.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after: int | None = None,
        problems: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.problems = problems


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """What a write key stands for: the source's name and what becomes of unknown events and of
    those that break their contract.

    `reject` answers 400 to a request of which nothing is wanted; beside messages that are taken, a
    rejected one is quarantined, so that nothing disappears behind a 200. Raises SourceReserved
    for the name of Signalbox's own events.
    """

    name: str
    unknown_events: Policy = "quarantine"
    violations: Policy = "quarantine"
    #: What is kept of the addresses of browsers and phones, and whether their user agent is.
    client_ip: ClientIp = "full"
    user_agent: bool = True
    #: Over this many events a second the answer is 429; None: no limit.
    events_per_second: float | None = None

    def __post_init__(self) -> None:
        check_source(self.name)


class WriteKeys:
    """The known write keys, compared without telling by time how much of a guess was right."""

    def __init__(self, keys: Mapping[str, SourcePolicy | str]) -> None:
        self._sources = [
            (_digest(key), SourcePolicy(source) if isinstance(source, str) else source)
            for key, source in keys.items()
        ]

    def find(self, key: str | None) -> SourcePolicy | None:
        """The source of a key, or None."""
        digest = _digest(key or "")
        found = None
        for known, source in self._sources:
            if hmac.compare_digest(known, digest):
                found = source
        return found if key else None


class Batch(msgspec.Struct):
    """The messages of a request, still as JSON, and what it says about all of them.

    `defaults` holds the batch's `context` and `integrations`, which each message inherits.
    """

    messages: list[bytes]
    sent_at: Any = None
    write_key: Any = None
    defaults: Defaults = {}


_ABSENT = msgspec.Raw(b"null")


class _BatchBody(msgspec.Struct, rename="camel"):
    batch: list[msgspec.Raw]
    sent_at: Any = None
    write_key: Any = None
    context: msgspec.Raw = _ABSENT
    integrations: msgspec.Raw = _ABSENT


class _MessageBody(msgspec.Struct, rename="camel"):
    sent_at: Any = None
    write_key: Any = None


_batches = msgspec.json.Decoder(_BatchBody)
_singles = msgspec.json.Decoder(_MessageBody)


def header_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The write key of Basic auth (as user, without password) or of X-Write-Key, if any."""
    scheme, _, encoded = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(encoded.strip(), validate=True).partition(b":")[0].decode()
        except (binascii.Error, UnicodeDecodeError):
            return ""
    key = headers.get(b"x-write-key")
    return key.decode("latin-1") if key is not None else None


def body_key(batch: Batch) -> str | None:
    """The write key that a body names: beside its messages, or in every one of them."""
    if batch.write_key is not None:
        return batch.write_key if isinstance(batch.write_key, str) else ""
    keys = set()
    for raw in batch.messages:
        try:
            keys.add(_singles.decode(raw).write_key)
        except (ValueError, TypeError, RecursionError):
            return None
    key = keys.pop() if len(keys) == 1 else None
    return key if isinstance(key, str) else None


def inflate(body: bytes, limit: int) -> bytes:
    """The body, gunzipped if it is gzip. RequestError 413 over `limit` bytes, 400 if damaged."""
    if not body.startswith(GZIP_MAGIC):
        if len(body) > limit:
            raise too_large(limit)
        return body
    inflated = b""
    rest = body
    for _ in range(_GZIP_MEMBERS):  # gzip may be several members, one after the other
        if not rest.startswith(GZIP_MAGIC):
            return inflated
        member = zlib.decompressobj(wbits=31)
        try:
            inflated += member.decompress(rest, limit + 1 - len(inflated))
        except zlib.error:
            raise RequestError(400, "invalid_gzip", "The body is damaged gzip.") from None
        if len(inflated) > limit:
            raise too_large(limit)
        if not member.eof:
            raise RequestError(400, "invalid_gzip", "The gzip body ends too early.")
        rest = member.unused_data
    raise RequestError(400, "invalid_gzip", f"The gzip has {_GZIP_MEMBERS} members or more.")


def too_large(limit: int) -> RequestError:
    """The 413 of a body over `limit` bytes."""
    return RequestError(
        413,
        "too_large",
        f"The body has more than {limit} bytes, compressed or inflated. Send smaller batches.",
    )


def split(body: bytes, *, batch: bool, limits: Limits) -> Batch:
    """The messages of a body. RequestError 400 if it is not what the address asks for."""
    body = body.removeprefix(BOM)
    try:
        parsed = _parse(body, batch)
    except msgspec.ValidationError:
        what = 'with the messages in a list "batch"' if batch else "of one message"
        raise RequestError(
            400, "invalid_request", f"The body must be a JSON object {what}."
        ) from None
    except RecursionError:
        raise RequestError(400, "too_deep", "The body is nested too deeply.") from None
    if len(parsed.messages) > limits.batch_messages:
        raise RequestError(
            413,
            "too_many_messages",
            f"The batch has {len(parsed.messages)} messages; at most {limits.batch_messages} "
            "are taken. Send smaller batches.",
        )
    if parsed.defaults:
        _check_defaults(parsed, limits)
    return parsed


def _check_defaults(batch: Batch, limits: Limits) -> None:
    """What every message inherits is judged once, by the rules for a message."""
    raw = msgspec.json.encode(batch.defaults)
    if len(raw) > limits.message_bytes:
        raise RequestError(
            413,
            "too_large",
            f"The context and integrations of the batch have {len(raw)} bytes; at most "
            f"{limits.message_bytes} are taken.",
        )
    if len(raw) * len(batch.messages) > _MERGED_FACTOR * limits.batch_bytes:
        raise too_large(limits.batch_bytes)
    try:
        raw.decode()
        content = msgspec.json.decode(raw)
        fine = depth(content) <= limits.depth and not has_nul(content)
    except (ValueError, RecursionError):
        fine = False
    if not fine:
        raise RequestError(
            400,
            "invalid_request",
            "The context or integrations of the batch hold text that is not valid, or are nested "
            f"more than {limits.depth} levels deep.",
        )


def _parse(body: bytes, batch: bool) -> Batch:
    try:
        return _parse_strictly(body, batch)
    except msgspec.ValidationError:
        raise
    except ValueError as error:
        return _parse_leniently(body, batch, error)


def _parse_strictly(body: bytes, batch: bool) -> Batch:
    if batch:
        many = _batches.decode(body)
        return Batch(
            [bytes(raw) for raw in many.batch],
            many.sent_at,
            many.write_key,
            _defaults(many),
        )
    one = _singles.decode(body)
    return Batch([body], one.sent_at, one.write_key)


def _parse_leniently(body: bytes, batch: bool, strict: ValueError) -> Batch:
    """Split a body that is JSON for Python's reader but not by the book.

    Some clients write NaN or half of a surrogate pair. One such message must not cost the others
    of its batch, so each is written out again and judged, and quarantined, by itself.
    """
    try:
        content = json.loads(body)
        if not isinstance(content, dict):
            raise msgspec.ValidationError
        messages = content.get("batch") if batch else [content]
        if not isinstance(messages, list):
            raise msgspec.ValidationError
        return Batch(
            [json.dumps(message, separators=(",", ":")).encode() for message in messages],
            content.get("sentAt"),
            content.get("writeKey"),
            _defaults(_raw_defaults(content)) if batch else {},
        )
    except msgspec.ValidationError:
        raise
    except ValueError as error:
        words = error.msg if isinstance(error, json.JSONDecodeError) else str(strict)
        raise RequestError(400, "invalid_json", f"The body is not valid JSON: {words}") from None


def _defaults(body: _BatchBody) -> Defaults:
    """Of these, the objects; clients in PHP write an empty one as a list."""
    if body.context is _ABSENT and body.integrations is _ABSENT:
        return {}
    both = (("context", body.context), ("integrations", body.integrations))
    return {name: value for name, value in both if memoryview(value)[0] == ord("{")}


def _raw_defaults(content: Mapping[str, Any]) -> _BatchBody:
    def raw(name: str) -> msgspec.Raw:
        return msgspec.Raw(json.dumps(content.get(name), separators=(",", ":")).encode())

    return _BatchBody([], context=raw("context"), integrations=raw("integrations"))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
