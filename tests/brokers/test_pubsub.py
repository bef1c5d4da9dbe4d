"""Google's own client against a server of the published interface, and against Google's emulator
where this machine has it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from broker_support import free_port, relaying, until, wait_for_port
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from pubsub_server import PubSubServer
from pydantic import ValidationError

from ingestion.sources import SourceError, pubsub
from ingestion.sources.pubsub import Settings

GCLOUD = shutil.which("gcloud")
EMULATOR = GCLOUD and Path(GCLOUD).resolve().parents[1] / "platform" / "pubsub-emulator"
SERVERS = ["interface", *(["emulator"] if EMULATOR and EMULATOR.exists() else [])]


@pytest.fixture(scope="module", params=SERVERS)
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "interface":
        server = PubSubServer()
        yield server.address
        server.stop()
        return
    address = f"127.0.0.1:{free_port()}"
    launcher = EMULATOR / "bin" / "cloud-pubsub-emulator"
    process = subprocess.Popen(
        [launcher, "--host=127.0.0.1", f"--port={address.rpartition(':')[2]}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # the launcher is a shell, which leaves Java running
    )
    wait_for_port(address, process, 60)
    yield address
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Topic:
    """A topic with one subscription, whose deadline is Pub/Sub's shortest."""

    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(address)
        self.publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        name = uuid.uuid4().hex[:8]
        self.name = f"projects/p/topics/t{name}"
        self.subscription = f"projects/p/subscriptions/s{name}"
        self.publisher.create_topic(name=self.name)
        request = {"name": self.subscription, "topic": self.name, "ack_deadline_seconds": 10}
        self.subscriber.create_subscription(request=request)
        self.settings = Settings(
            subscription=self.subscription, emulator_host=address, fields={"user_id": "user"}
        )

    def publish(self, *bodies: bytes, **attributes: str) -> list[str]:
        messages = [{"data": body, "attributes": attributes} for body in bodies]
        request = {"topic": self.name, "messages": messages}
        return list(self.publisher.publish(request=request).message_ids)


@pytest.fixture
def topic(address: str) -> Topic:
    return Topic(address)


def test_messages_are_acknowledged_once_the_warehouse_has_them(topic: Topic, log_dir: Path) -> None:
    ids = topic.publish(b'{"user": "u1"}', b'{"user": "u2"}', b"\xff", event="Logged In")
    with relaying("pubsub", topic.settings, log_dir) as relay:
        records = {record.message_id: record for record in relay.records(3)}
        assert set(records) == set(ids)
        first = records[ids[0]]
        assert (first.kind, first.event, first.user_id) == ("event", "Logged In", "u1")
        assert records[ids[2]].reason == "invalid_text"
        relay.load()
        until(lambda: json.loads(relay.report.read_text()).get("acknowledged") == 3, 30)


def test_what_is_given_up_comes_again_under_the_same_id(topic: Topic) -> None:
    ids = topic.publish(*(str(n).encode() for n in range(30)))
    consumer = pubsub.connect(topic.settings)
    held: dict[str, str] = {}
    while len(held) < 30:
        held |= {delivery.id: delivery.receipt for delivery in consumer.receive(20, 2)}
    assert set(held) == set(ids)
    kept, lost = list(held.values())[:10], list(held.values())[10:]
    assert consumer.acknowledge(kept) == []
    consumer._client.modify_ack_deadline(
        subscription=topic.subscription, ack_ids=lost, ack_deadline_seconds=0
    )
    again: set[str] = set()
    while len(again) < 20:
        again |= {delivery.id for delivery in consumer.receive(50, 2)}
    assert again == set(list(held)[10:])
    assert consumer.lag() is None
    consumer.close()


def test_a_wrong_subscription_is_told(address: str) -> None:
    settings = Settings(subscription="projects/p/subscriptions/none", emulator_host=address)
    with pytest.raises(SourceError, match="NotFound"):
        pubsub.connect(settings)
    with pytest.raises(ValidationError, match="projects/<project>/subscriptions/<name>"):
        Settings(subscription="none")
