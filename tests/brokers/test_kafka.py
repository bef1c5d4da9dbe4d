from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker_support import payloads, relaying, until

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
