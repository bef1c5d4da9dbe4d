"""kill -9 of the relay and of the collector it appends through: no message is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from broker_support import collecting
from test_kafka import QUICK, committed, produce

from ingestion.destination import Lake
from ingestion.load import Loader

pytestmark = pytest.mark.long

SEED = 7
KILLS = 3


def test_kills_lose_nothing_and_no_offset_runs_ahead_of_the_warehouse(
    kafka: str, new_topic: Callable[[int], str], lake: Lake, tmp_path: Path
) -> None:
    topic = new_topic(2)
    environment = {
        **os.environ, "SIGNALBOX_HOME": str(tmp_path), "SIGNALBOX_SOURCES": "kafka",
        "SIGNALBOX_KAFKA_SERVERS": kafka, "SIGNALBOX_KAFKA_TOPICS": topic,
        "SIGNALBOX_KAFKA_GROUP": f"g-{topic}", "SIGNALBOX_UNKNOWN_EVENTS": "allow",
        "SIGNALBOX_KAFKA_PROPERTIES": ",".join(f"{k}={v}" for k, v in QUICK.items()),
    }  # fmt: skip
    loader = Loader(lake.catalog_url, lake.data_path, tmp_path / "log", lake.pipelines_dir)
    loader.ensure_tables()
    chance = random.Random(SEED)
    stop = threading.Event()
    sent = 0

    def keep_producing() -> None:
        nonlocal sent
        while not stop.wait(0.05):
            produce(kafka, topic, *({"userId": f"u{n}"} for n in range(sent, sent + 20)))
            sent += 20

    def loaded() -> int:
        with lake.connect() as connection:
            row = connection.execute(
                "select count(distinct message_id) from lake.raw.events where source = 'kafka'"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def relay() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestration.cli", "relay"], env=environment
        )

    def run_for(process: subprocess.Popen[bytes], until: Callable[[], bool]) -> None:
        while not until():
            assert process.poll() is None
            loader.load()
            time.sleep(0.1)

    producer = threading.Thread(target=keep_producing)
    producer.start()
    with ExitStack() as stack:
        stack.enter_context(collecting(tmp_path))
        for kill in range(KILLS):
            process = relay()
            grown = loader.position() + chance.randrange(1, 150)
            run_for(process, lambda grown=grown: loader.position() >= grown)  # type: ignore[misc]
            time.sleep(chance.random())
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert committed(kafka, topic, 2) <= loaded()
            if kill == KILLS // 2:
                stack.close()  # without the collector the relay writes the log itself
    stop.set()
    producer.join()
    process = relay()
    run_for(process, lambda: committed(kafka, topic, 2) == sent)
    process.terminate()
    assert process.wait(30) == 0
    assert loaded() == sent, f"seed {SEED}"
