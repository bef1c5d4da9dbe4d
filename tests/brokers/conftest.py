from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker_support import free_port, kafka_broker, new_kafka_topic, wait_for_port

from ingestion.destination import Lake


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The bootstrap address of a broker."""
    with kafka_broker() as address:
        yield address


@pytest.fixture
def new_topic(kafka: str) -> Callable[[int], str]:
    """Creates a topic of so many partitions and returns its name."""

    def new(partitions: int = 1) -> str:
        return new_kafka_topic(kafka, partitions)

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
