from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest
from broker_support import payloads, relaying, until

from ingestion.sources import SourceError, sqs
from ingestion.sources.sqs import Receipt, Settings

KEYS = {"region_name": "eu-west-1", "aws_access_key_id": "k", "aws_secret_access_key": "s"}


class Aws:
    """A queue behind an EventBridge rule."""

    def __init__(self, endpoint: str) -> None:
        self.sqs = boto3.client("sqs", endpoint_url=endpoint, **KEYS)
        self.events = boto3.client("events", endpoint_url=endpoint, **KEYS)
        self.url = self.sqs.create_queue(QueueName=f"q-{uuid.uuid4().hex[:8]}")["QueueUrl"]
        self.settings = Settings(
            queue_url=self.url,
            region="eu-west-1",
            access_key_id="k",
            secret_access_key="s",
            endpoint_url=endpoint,
            visibility_seconds=30,
            fields={"user_id": "customer"},
        )

    def left(self) -> tuple[int, int]:
        """Messages that wait, and that somebody holds."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])


@pytest.fixture
def queue(aws: str) -> Aws:
    return Aws(aws)


def test_events_through_eventbridge_are_deleted_once_the_warehouse_has_them(
    queue: Aws, log_dir: Path
) -> None:
    arn = queue.sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])
    rule = f"r-{uuid.uuid4().hex[:8]}"
    queue.events.put_rule(Name=rule, EventPattern=json.dumps({"source": ["shop"]}))
    target = {"Id": "queue", "Arn": arn["Attributes"]["QueueArn"]}
    queue.events.put_targets(Rule=rule, Targets=[target])
    detail = {"customer": "u1", "method": "password"}
    entry = {"Source": "shop", "DetailType": "Logged In", "Detail": json.dumps(detail)}
    queue.events.put_events(Entries=[entry, entry])
    direct = {"type": "track", "event": "Logged In", "userId": "u2"}
    sent = queue.sqs.send_message(QueueUrl=queue.url, MessageBody=json.dumps(direct))
    attribute = {"StringValue": "Logged In", "DataType": "String"}
    queue.sqs.send_message(
        QueueUrl=queue.url, MessageBody='{"customer": 3}', MessageAttributes={"event": attribute}
    )
    queue.sqs.send_message(QueueUrl=queue.url, MessageBody="not JSON")
    with relaying("sqs", queue.settings, log_dir) as relay:
        records = relay.records(5)
        assert queue.left() == (0, 5)
        relay.load()
        until(lambda: queue.left() == (0, 0))
    by_id = {record.message_id: record for record in records}
    assert len(by_id) == 5
    bridged = next(record for record in records if record.user_id == "u1")
    assert (bridged.kind, bridged.event, bridged.user_id) == ("event", "Logged In", "u1")
    [said] = payloads([bridged])
    assert said["properties"] == detail
    assert said["context"]["headers"]["source"] == "shop"
    assert by_id[sent["MessageId"]].user_id == "u2"
    assert sorted((r.kind, r.reason) for r in records if r.kind != "event") == [
        ("quarantine", "invalid_json")
    ]
    assert {"3", "u1", "u2"} == {r.user_id for r in records if r.kind == "event"}


def test_a_hundred_at_a_time_and_partial_failures(
    queue: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in range(0, 40, 10):
        entries = [{"Id": str(n), "MessageBody": str(n)} for n in range(start, start + 10)]
        queue.sqs.send_message_batch(QueueUrl=queue.url, Entries=entries)
    consumer = sqs.connect(queue.settings)
    assert consumer.lag() == 40
    deliveries: list[Any] = []
    while more := consumer.receive(25, 1):
        assert len(more) <= 25
        deliveries += more
    receipts: list[Receipt] = [delivery.receipt for delivery in deliveries]
    assert len({receipt.id for receipt in receipts}) == 40

    consumer.hold(receipts)
    real = consumer._client.delete_message_batch
    failing = {receipts[3].handle: False, receipts[17].handle: True}  # whose fault it is

    def flaky(QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803 - boto3's names
        good = [entry for entry in Entries if entry["ReceiptHandle"] not in failing]
        failed = [
            {"Id": e["Id"], "SenderFault": failing[e["ReceiptHandle"]], "Code": "InternalError"}
            for e in Entries
            if e["ReceiptHandle"] in failing
        ]
        return real(QueueUrl=QueueUrl, Entries=good) | {"Failed": failed}

    monkeypatch.setattr(consumer._client, "delete_message_batch", flaky)
    assert consumer.acknowledge(receipts) == [receipts[3]]
    assert sum(queue.left()) == 2
    monkeypatch.undo()
    assert consumer.acknowledge([receipts[3], receipts[17]]) == []
    assert queue.left() == (0, 0)
    consumer.close()


def test_what_is_held_is_prolonged(queue: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.sqs.send_message(QueueUrl=queue.url, MessageBody="1")
    # Ten times shorter than the setting allows, so that the test need not wait for long.
    quick = queue.settings.model_copy(update={"visibility_seconds": 2})
    consumer = sqs.connect(quick)
    [delivery] = consumer.receive(1, 1)
    for _ in range(2):
        assert consumer.receive(1, 1) == []
        consumer.hold([delivery.receipt])
    [again] = until(lambda: consumer.receive(1, 1))  # nobody holds it any more
    assert (again.id, again.receipt != delivery.receipt) == (delivery.id, True)
    consumer.close()


def test_a_wrong_queue_is_told_without_secrets(aws: str) -> None:
    settings = Aws(aws).settings.model_copy(update={"queue_url": f"{aws}/1/none"})
    with pytest.raises(SourceError, match="SIGNALBOX_SQS_QUEUE_URL"):
        sqs.connect(settings)
