"""One message in, one record out: ids, times, and every way to be quarantined."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.contract import Contracts, Verdict
from ingestion.envelope import (
    Arrival,
    Limits,
    LogRecord,
    Policy,
    decode_record,
    encode_record,
    parse_time,
    to_record,
)

CONTRACTS = Contracts.load()
RECEIVED = datetime(2026, 3, 1, 12, 0, 10, 250_000, tzinfo=UTC)
ARRIVAL = Arrival(source="web", received_at=RECEIVED)
LOGIN = {"type": "track", "event": "Logged In", "userId": "u1", "messageId": "m1"}


def judge(message: Any, arrival: Arrival = ARRIVAL) -> LogRecord:
    raw = message if isinstance(message, bytes) else json.dumps(message).encode()
    record = to_record(raw, arrival, CONTRACTS)
    assert decode_record(encode_record(record)) == record
    return record


def test_a_valid_message_keeps_everything() -> None:
    raw = b'{ "type":"track","event":"Logged In","userId":"u1","messageId":"m1","x":[1.50] }'
    sent = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)
    assert judge(raw, Arrival("web", RECEIVED, sent)) == LogRecord(
        kind="event",
        source="web",
        message_id="m1",
        message_id_generated=False,
        type="track",
        event="Logged In",
        event_version=1,
        user_id="u1",
        anonymous_id=None,
        timestamp="2026-03-01T12:00:10.250000Z",
        original_timestamp=None,
        sent_at="2026-03-01T12:00:10.000000Z",
        received_at="2026-03-01T12:00:10.250000Z",
        reason=None,
        detail=None,
        payload=raw.decode(),
    )


def test_the_clock_of_the_client_is_corrected() -> None:
    # Its clock is one hour ahead; the event happened 5 seconds before it was sent.
    sent = datetime(2026, 3, 1, 13, 0, 10, tzinfo=UTC)
    message = {**LOGIN, "timestamp": "2026-03-01T14:00:05.000+01:00"}
    record = judge(message, Arrival("web", RECEIVED, sent))
    assert record.original_timestamp == "2026-03-01T13:00:05.000000Z"
    assert record.timestamp == "2026-03-01T12:00:05.250000Z"


@pytest.mark.parametrize(
    ("fields", "timestamp"),
    [
        ({}, "2026-03-01T12:00:10.250000Z"),
        ({"timestamp": ""}, "2026-03-01T12:00:10.250000Z"),
        ({"timestamp": "2026-01-02T03:04:05"}, "2026-01-02T03:04:05.000000Z"),
        ({"timestamp": "2026-01-02T03:04:05.123456789Z"}, "2026-01-02T03:04:05.123456Z"),
        ({"timestamp": "0001-01-01T00:00:00Z"}, "0001-01-01T00:00:00.000000Z"),
        (
            {"timestamp": "2026-01-02T03:04:05Z", "originalTimestamp": "2026-01-01T00:00:00Z"},
            "2026-01-01T00:00:00.000000Z",
        ),
        (
            {"timestamp": "2026-03-01T11:59:00Z", "sentAt": "2026-03-01T11:59:10Z"},
            "2026-03-01T12:00:00.250000Z",
        ),
        (
            {"timestamp": "2026-03-01T11:59:00Z", "sentAt": "no time"},
            "2026-03-01T11:59:00.000000Z",
        ),
    ],
)
def test_times(fields: dict[str, Any], timestamp: str) -> None:
    record = judge({**LOGIN, **fields})
    assert (record.kind, record.timestamp) == ("event", timestamp)


def test_a_generated_id_depends_on_content_alone() -> None:
    del (message := dict(LOGIN))["messageId"]
    first = judge(message)
    assert first.message_id_generated and first.message_id.startswith("sbx-")
    same = {**dict(reversed(message.items())), "sentAt": "2026-01-01", "writeKey": "k"}
    assert judge(json.dumps(same, indent=2).encode()).message_id == first.message_id
    del (untyped := dict(message))["type"]
    assert judge(untyped, Arrival("web", RECEIVED, type="track")).message_id == first.message_id
    assert judge({**message, "userId": "u2"}).message_id != first.message_id


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({"userId": 42}, ("42", None)),
        ({"userId": None, "anonymousId": "a"}, (None, "a")),
        ({"userId": " ", "anonymousId": "a"}, (None, "a")),
        ({"anonymousId": None}, ("u1", None)),
    ],
)
def test_ids_are_text_and_blank_is_absent(
    fields: dict[str, Any], ids: tuple[str | None, str | None]
) -> None:
    record = judge({**LOGIN, **fields})
    assert (record.user_id, record.anonymous_id) == ids


@pytest.mark.parametrize(
    "message",
    [
        {"type": "identify", "userId": "u", "traits": {"email": "a@example.com"}},
        {"type": "page", "anonymousId": "a", "name": "Home", "properties": {"url": "https://x"}},
        {"type": "screen", "anonymousId": "a", "name": "Home"},
        {"type": "group", "userId": "u", "groupId": "g", "traits": {"plan": "team"}},
        {"type": "alias", "userId": "u", "previousId": "a"},
    ],
)
def test_every_type_is_taken(message: dict[str, Any]) -> None:
    record = judge(message)
    assert (record.kind, record.type, record.event) == ("event", message["type"], None)


@pytest.mark.parametrize(
    ("message", "reason", "detail"),
    [
        (b"[1]", "invalid_envelope", "the message must be an object, not a list"),
        (b"7", "invalid_envelope", "the message must be an object, not a whole number"),
        (b'{"a":NaN}', "invalid_json", "the message is not JSON"),
        (b'{"a":"\xff"}', "invalid_text", "not UTF-8"),
        (b'{"userId":"\xff"}', "invalid_text", "not UTF-8"),
        (b'{"userId":"\\ud800"}', "invalid_text", "half of a surrogate pair"),
        (b'{"userId":"a\\u0000"}', "invalid_text", "NUL"),
        (b'{"x":{"a\\u0000":1}}', "invalid_text", "NUL"),
        (b'{"x":' + b"[" * 80 + b"]" * 80 + b"}", "too_deep", "more than 64 levels"),
        (b'{"x":' + b"[" * 9000 + b"]" * 9000 + b"}", "too_deep", "more than 64 levels"),
        ({**LOGIN, "x": "y" * 32_768}, "too_large", "at most 32768 are taken"),
        ({**LOGIN, "type": None}, "missing_field", "type is required"),
        ({**LOGIN, "type": "trak"}, "invalid_envelope", "type must be one of track, identify"),
        ({**LOGIN, "type": 3}, "invalid_envelope", "type must be text, not a whole number"),
        ({**LOGIN, "userId": None}, "missing_field", "userId or anonymousId is required"),
        ({**LOGIN, "userId": 1.5}, "invalid_envelope", "userId must be a whole number or text"),
        ({**LOGIN, "userId": "u" * 513}, "invalid_envelope", "userId has more than 512"),
        ({**LOGIN, "event": " "}, "missing_field", "event is required"),
        ({**LOGIN, "event": "Sock Lost"}, "unknown_event", "no contract for 'Sock Lost'"),
        ({**LOGIN, "properties": [1]}, "invalid_envelope", "properties must be an object"),
        ({**LOGIN, "properties": {"method": 1}}, "wrong_type", "properties.method must be text"),
        ({**LOGIN, "type": "identify", "traits": "x"}, "invalid_envelope", "traits must be an obj"),
        ({**LOGIN, "context": "x"}, "invalid_envelope", "context must be an object"),
        ({**LOGIN, "type": "group"}, "missing_field", "groupId is required"),
        ({**LOGIN, "type": "alias"}, "missing_field", "previousId is required"),
        ({**LOGIN, "timestamp": "yesterday"}, "invalid_timestamp", "ISO 8601"),
        ({**LOGIN, "timestamp": 1_700_000_000}, "invalid_envelope", "timestamp must be text"),
    ],
)
def test_quarantine_says_why(message: Any, reason: str, detail: str) -> None:
    record = judge(message)
    assert (record.kind, record.reason) == ("quarantine", reason)
    assert record.detail and detail in record.detail
    raw = message if isinstance(message, bytes) else json.dumps(message).encode()
    assert record.payload == raw.decode("utf-8", "replace")
    if isinstance(message, dict):
        assert record.message_id == "m1" and not record.message_id_generated
    else:
        assert record.message_id_generated


def test_a_corrected_time_out_of_range_is_quarantined() -> None:
    sent = datetime(1, 1, 1, tzinfo=UTC)
    message = {**LOGIN, "timestamp": "9999-12-31T00:00:00Z"}
    record = judge(message, Arrival("web", RECEIVED, sent))
    assert record.reason == "invalid_timestamp"


def test_an_escaped_backslash_is_no_nul() -> None:
    assert judge({**LOGIN, "x": "\\u0000"}).kind == "event"


def test_unknown_events_may_be_allowed() -> None:
    record = judge({**LOGIN, "event": "New"}, Arrival("web", RECEIVED, unknown_events="allow"))
    assert (record.kind, record.event, record.event_version) == ("event", "New", None)


BROKEN = {**LOGIN, "properties": {"method": 1}}


@pytest.mark.parametrize(
    ("message", "policies", "expected"),
    [
        (BROKEN, {}, ("quarantine", "wrong_type", 1, False)),
        (BROKEN, {"violations": "allow"}, ("event", "wrong_type", 1, False)),
        (BROKEN, {"violations": "reject"}, ("quarantine", "wrong_type", 1, True)),
        (BROKEN, {"unknown_events": "allow"}, ("quarantine", "wrong_type", 1, False)),
        (
            {**LOGIN, "event": "New"},
            {"violations": "allow"},
            ("quarantine", "unknown_event", None, False),
        ),
        (
            {**LOGIN, "event": "New"},
            {"unknown_events": "allow"},
            ("event", "unknown_event", None, False),
        ),
        (
            {**LOGIN, "event": "New"},
            {"unknown_events": "reject"},
            ("quarantine", "unknown_event", None, True),
        ),
        # No policy takes or refuses what is no message at all.
        (
            {**LOGIN, "userId": None},
            {"violations": "allow"},
            ("quarantine", "missing_field", None, False),
        ),
        (
            {**LOGIN, "userId": None},
            {"violations": "reject"},
            ("quarantine", "missing_field", None, False),
        ),
    ],
)
def test_the_policies_of_a_source(
    message: Any, policies: dict[str, Policy], expected: tuple[Any, ...]
) -> None:
    record = judge(message, Arrival("web", RECEIVED, **policies))  # type: ignore[arg-type]
    assert (record.kind, record.reason, record.event_version, record.rejected) == expected
    assert (record.detail is None) == (record.reason is None)


@pytest.mark.parametrize(
    ("context", "defaults", "version"),
    [
        ({"protocols": {"event_version": 2}}, None, 2),
        ({"protocols": {"event_version": 1}}, {"protocols": {"event_version": 2}}, 1),
        ({"ip": "::1"}, {"protocols": {"event_version": 2}}, 2),
        (None, {"protocols": {"event_version": 2}}, 2),
        ({"protocols": {"event_version": None}}, None, None),
        ({"protocols": ["event_version"]}, None, None),
        ({"app": {"event_version": 2}}, None, None),
        ({}, None, None),
    ],
)
def test_the_declared_version_is_where_segment_puts_it(
    context: Any, defaults: Any, version: int | None
) -> None:
    class Asked(Contracts):
        def check(self, *args: Any) -> Verdict:
            nonlocal asked
            asked = args[3]
            return Verdict()

    asked = None
    shared = {"context": msgspec.Raw(json.dumps(defaults).encode())} if defaults else None
    raw = json.dumps({**LOGIN, "context": context}).encode()
    to_record(raw, Arrival("web", RECEIVED, defaults=shared), Asked([]))
    assert asked == version


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
fields = st.sampled_from(
    ["type", "event", "userId", "anonymousId", "messageId", "timestamp", "sentAt", "properties"]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(fields, json_values))
def test_no_json_object_breaks_it(changes: dict[str, Any]) -> None:
    record = judge({**LOGIN, **changes})
    assert (record.kind == "quarantine") == (record.reason is not None)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda t: json.dumps(t).encode()))
def test_no_bytes_break_it(raw: bytes) -> None:
    assert to_record(raw, ARRIVAL, CONTRACTS, Limits()).kind == "quarantine"


def test_times_that_are_none() -> None:
    for value in (None, 3, "", "tomorrow", "2026-13-01", [], "9999-12-31T23:59:59-10:00"):
        assert parse_time(value) is None
