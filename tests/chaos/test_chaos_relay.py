"""From Kafka to the warehouse, the relay killed around the commit of its offsets."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from broker_support import collecting, kafka_broker, new_kafka_topic
from kill_points import armed, environment
from lakes import query
from test_kafka import QUICK, committed, produce

from ingestion.destination import Lake
from ingestion.load import Loader

pytestmark = pytest.mark.timeout(3600)

KILLS = 200

PARTITIONS = 2
RELAY = """
import sys
from orchestration.cli import main
sys.argv[1:] = ["relay"]
main()
"""


STEPS = {
    "after the warehouse's commit, before the offset's": ["in the warehouse, not acknowledged"],
    "elsewhere": ["in the log, not remembered", "acknowledged", None],  # None: at any instant
}


@pytest.mark.parametrize("step", STEPS)
def test_relay(chaos: Any, lake: Lake, tmp_path: Path, step: str) -> None:
    loader = Loader(lake.catalog_url, lake.data_path, tmp_path / "log", lake.pipelines_dir)
    loader.ensure_tables()
    sent = killed = 0

    def load_until(process: subprocess.Popen[bytes], deadline: float, offset: int) -> None:
        """Load what comes until the relay has died, or the group has come so far."""
        while process.poll() is None and time.monotonic() < deadline:
            loader.load()
            if committed(kafka, topic, PARTITIONS) >= offset:
                return
            time.sleep(0.02)

    with kafka_broker() as kafka, collecting(tmp_path):
        topic = new_kafka_topic(kafka, PARTITIONS)
        settings = environment() | {
            "SIGNALBOX_HOME": str(tmp_path), "SIGNALBOX_SOURCES": "kafka",
            "SIGNALBOX_KAFKA_SERVERS": kafka, "SIGNALBOX_KAFKA_TOPICS": topic,
            "SIGNALBOX_KAFKA_GROUP": f"g-{topic}", "SIGNALBOX_UNKNOWN_EVENTS": "allow",
            "SIGNALBOX_KAFKA_PROPERTIES": ",".join(f"{k}={v}" for k, v in QUICK.items()),
        }  # fmt: skip
        for _ in chaos.attempts:
            if killed == chaos.kills:
                break
            fresh = chaos.lottery.randint(1, 60)
            produce(kafka, topic, *({"userId": f"u{n}"} for n in range(sent, sent + fresh)))
            sent += fresh
            point = chaos.lottery.choice(STEPS[step])
            seconds = 30.0 if point else chaos.lottery.uniform(1.0, 5.0)
            relay = subprocess.Popen(armed(point, 1, RELAY), env=settings)
            load_until(relay, time.monotonic() + seconds, sent + 1)
            killed += (relay.poll() is not None) if point else 1
            relay.kill()
            assert relay.wait() == -signal.SIGKILL
            assert committed(kafka, topic, PARTITIONS) <= messages(lake)

        produce(kafka, topic, {"userId": "the last"})
        sent += 1
        relay = subprocess.Popen(armed(None, 0, RELAY), env=settings)
        load_until(relay, time.monotonic() + 60, sent)
        relay.terminate()
        assert relay.wait(30) == 0
    loader.load()
    loader.close()
    ((rows, first),) = query(
        lake,
        "select count(*), count(*) filter (where repeat_of is null) from raw.events "
        "where source = 'kafka'",
    )
    kept = messages(lake)
    chaos.report(
        kills=killed,
        lost=sent - kept,
        duplicates=first - kept,
        unknown=0,
        more=f"{sent} messages, {rows - kept} came again and are marked as repeats",
    )
    assert killed == chaos.kills
    assert kept == first == sent


def messages(lake: Lake) -> int:
    """How many different messages from Kafka are in the warehouse."""
    ((count,),) = query(
        lake, "select count(distinct message_id) from raw.events where source = 'kafka'"
    )
    return int(count)
