from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker_support import TANSU, free_port, wait_for_port

from ingestion.destination import Lake


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """A broker that speaks Kafka's protocol; its bootstrap address."""
    address = f"127.0.0.1:{free_port()}"
    broker = subprocess.Popen(
        [
            *(str(TANSU), "broker", "--storage-engine", "memory://tansu/"),
            *("--listener-url", f"tcp://{address}"),
            *("--advertised-listener-url", f"tcp://{address}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_port(address, broker)
    yield address
    broker.kill()
    broker.wait()


@pytest.fixture
def new_topic(kafka: str) -> Callable[[int], str]:
    """Creates a topic of so many partitions and returns its name."""
    from confluent_kafka.admin import AdminClient, NewTopic

    def new(partitions: int = 1) -> str:
        name = f"topic-{uuid.uuid4().hex[:8]}"
        admin = AdminClient({"bootstrap.servers": kafka})
        for created in admin.create_topics([NewTopic(name, partitions, 1)]).values():
            created.result(10)
        return name

    return new


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """AWS as its clients see it; its endpoint."""
    address = f"127.0.0.1:{free_port()}"
    host, _, port = address.rpartition(":")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", host, "-p", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_port(address, server)
    yield f"http://{address}"
    server.kill()
    server.wait()


@pytest.fixture
def lake(new_database: Callable[[], str], tmp_path: Path) -> Lake:
    """A lake of its own: a new catalog database and an empty directory."""
    return Lake(new_database(), f"{tmp_path / 'lake'}/", tmp_path / "dlt")
