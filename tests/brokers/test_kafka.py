from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from broker_support import Running, payloads, relaying, until
from registry import Registry

from ingestion import relay as relay_module
from ingestion.envelope import decode_record
from ingestion.log import LogReader
from ingestion.sources import SourceError
from ingestion.sources import kafka as kafka_source
from ingestion.sources.kafka import Settings

# The broker of the tests lets a group wait half a session before it gives out partitions.
QUICK = {"session.timeout.ms": "1000", "heartbeat.interval.ms": "200"}


def settings(servers: str, topic: str, **more: Any) -> Settings:
    return Settings(servers=servers, topics=(topic,), group=f"g-{topic}", properties=QUICK, **more)


def produce(servers: str, topic: str, *values: Any, **more: Any) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers, "linger.ms": 1})
    for value in values:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(topic, body, **more)
    assert producer.flush(10) == 0


def committed(servers: str, topic: str, partitions: int = 1) -> int:
    """The sum of the group's committed offsets."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": f"g-{topic}"})
    places = [TopicPartition(topic, number) for number in range(partitions)]
    total = sum(max(place.offset, 0) for place in consumer.committed(places, timeout=10))
    consumer.close()
    return total


def test_what_kafka_holds_becomes_events(
    kafka: str, new_topic: Callable[[int], str], log_dir: Path
) -> None:
    topic = new_topic(1)
    segment = b'{"type": "track", "event": "Logged In", "userId": "u1", "messageId": "m1", '
    segment += b'"timestamp": "2026-01-01T10:00:00Z", "n": 1.50}'
    produce(kafka, topic, segment)
    order = {"customer": {"id": 7}, "total": 12.5, "at": 1767225600000}
    produce(kafka, topic, order, key=b"7", headers=[("event", b"Order Placed"), ("trace", b"t1")])
    produce(kafka, topic, {"customer": {"id": "u9"}}, timestamp=1767225600500)
    produce(kafka, topic, b"{broken", b"\xff\xfe", b"[1]")
    produce(kafka, topic, {"nobody": True})

    fields = {"user_id": "customer.id", "timestamp": "at"}
    with relaying("kafka", settings(kafka, topic, fields=fields), log_dir) as relay:
        records = relay.records(7)
        assert committed(kafka, topic) == 0  # nothing is in the warehouse yet
        relay.load()
        until(lambda: committed(kafka, topic) == 7)
    assert records[0].payload.encode() == segment
    assert [(r.kind, r.message_id, r.reason) for r in records] == [
        ("event", "m1", None),
        ("event", f"{topic}-0-1", "unknown_event"),  # which the policy allows
        ("event", f"{topic}-0-2", "unknown_event"),
        ("quarantine", f"{topic}-0-3", "invalid_json"),
        ("quarantine", f"{topic}-0-4", "invalid_text"),
        ("quarantine", f"{topic}-0-5", "invalid_envelope"),
        ("quarantine", f"{topic}-0-6", "missing_field"),
    ]
    wrapped, by_topic = records[1], records[2]
    assert (wrapped.event, wrapped.user_id, wrapped.source) == ("Order Placed", "7", "kafka")
    assert wrapped.timestamp == "2026-01-01T00:00:00.000000Z"
    (said,) = payloads([wrapped])
    assert said["properties"] == order
    assert said["context"]["headers"] == {"event": "Order Placed", "trace": "t1"}
    assert (by_topic.event, by_topic.timestamp) == (topic, "2026-01-01T00:00:00.500000Z")
    assert payloads([records[4]]) == [{"base64": "//4=", "bytes": 2}]


MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "user", "type": "string"},
        {"name": "total", "type": MONEY},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    yield server
    server.stop()


def test_avro_and_json_with_a_schema_registry(
    kafka: str, new_topic: Callable[[int], str], log_dir: Path, registry: Registry
) -> None:
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    topic = new_topic(1)
    client = SchemaRegistryClient({"url": registry.url})
    value = SerializationContext(topic, MessageField.VALUE)
    order = {"user": "u1", "total": Decimal("12.50"), "at": datetime(2026, 1, 1, tzinfo=UTC)}
    good = AvroSerializer(client, json.dumps(ORDER))(order, value)
    schema = client.register_schema("json-value", Schema('{"type": "object"}', "JSON"))
    as_json = b"\0" + schema.to_bytes(4, "big") + b'{"user": "u2"}'
    proto = client.register_schema("p-value", Schema('syntax = "proto3";', "PROTOBUF"))
    unknown, broken = b"\0\0\0\0\x63abc", good[:8]
    unfit = b"\0" + proto.to_bytes(4, "big") + b"abc"
    produce(kafka, topic, good, as_json, unknown, broken, unfit, {"user": "u3"})

    given = settings(kafka, topic, registry_url=registry.url, fields={"user_id": "user"})
    registry.away = True  # what cannot be asked now is not called unreadable
    with relaying("kafka", given, log_dir) as relay:
        until(lambda: "schema registry" in (_report(relay)["error"] or ""))
        assert relay.log.end() == 0
        registry.away = False
        records = relay.records(6)
    found = {record.message_id: record for record in records}
    first = found[f"{topic}-0-0"]
    assert (first.kind, first.user_id) == ("event", "u1")
    assert payloads([first])[0]["properties"] == {
        "user": "u1", "total": "12.50", "at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    assert [found[f"{topic}-0-{n}"].user_id for n in (1, 5)] == ["u2", "u3"]
    assert [found[f"{topic}-0-{n}"].reason for n in (2, 3, 4)] == [
        "unknown_schema", "invalid_avro", "unknown_schema",
    ]  # fmt: skip
    kept = payloads([found[f"{topic}-0-3"]])[0]["base64"]
    assert base64.b64decode(kept) == broken


def test_members_share_the_partitions_and_a_rebalance_loses_nothing(
    kafka: str, new_topic: Callable[[int], str], tmp_path: Path
) -> None:
    topic = new_topic(4)
    given = settings(kafka, topic)

    def numbered(start: int) -> list[dict[str, Any]]:
        return [{"userId": f"u{n}", "n": n} for n in range(start, start + 100)]

    def seen(*logs: Path) -> set[int]:
        found = set()
        for log in logs:
            for _, raw in LogReader(log / "log").read(0, 10_000):
                found.add(json.loads(decode_record(raw).payload)["properties"]["n"])
        return found

    a, b = tmp_path / "a", tmp_path / "b"
    produce(kafka, topic, *numbered(0))
    with relaying("kafka", given, a / "log") as first:
        until(lambda: len(seen(a)) == 100)
        with relaying("kafka", given, b / "log") as second:
            # Unacknowledged until now, so the newcomer gets again what it takes over.
            until(lambda: second.log.end() > 0)
            produce(kafka, topic, *numbered(100))
            until(lambda: len(seen(a, b)) == 200)
            first.load()
            second.load()
        until(lambda: first.log.end() > 0 and (first.load() or committed(kafka, topic, 4) == 200))
    assert seen(a, b) == set(range(200))


def test_no_more_is_taken_than_the_window_holds(
    kafka: str, new_topic: Callable[[int], str], log_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = new_topic(1)
    produce(kafka, topic, *({"userId": "u", "n": n} for n in range(50)))
    monkeypatch.setattr(kafka_source, "WINDOW", 20)
    monkeypatch.setattr(relay_module, "HOLD_SECONDS", 0.2)
    monkeypatch.setattr(kafka_source, "_IDLE_SECONDS", 0.2)  # so that it pauses and resumes
    with relaying("kafka", settings(kafka, topic), log_dir) as relay:
        relay.records(20)
        time.sleep(1.5)
        assert relay.log.end() == 20
        for end in (40, 50):
            relay.load()
            relay.records(end)
        relay.load()
        until(lambda: committed(kafka, topic) == 50)
    assert [p["properties"]["n"] for p in payloads(relay.records())] == list(range(50))


def test_a_broker_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_source, "CONNECT_SECONDS", 1.0)
    given = settings("127.0.0.1:9", "none", username="u", password="s3cret")
    with pytest.raises(SourceError, match=r"Kafka at 127.0.0.1:9 does not answer") as caught:
        kafka_source.connect(given)
    assert "s3cret" not in str(caught.value)


def _report(relay: Running) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(relay.report.read_text())
    except (OSError, ValueError):
        return {"error": None}
    return report
