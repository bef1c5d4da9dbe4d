"""Kafka in the place of the event log."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from broker_support import TANSU, collecting, free_port, wait_for_port
from segment.analytics.client import Client

from ingestion import kafka_log
from ingestion.destination import Lake
from ingestion.kafka_log import KafkaAddress, KafkaLog, KafkaLogReader
from ingestion.load import Loader
from ingestion.loaded import loaded_end
from ingestion.log import LogError, LogUnavailable
from ingestion.open_log import open_log, open_reader


def test_an_event_goes_from_the_client_to_the_warehouse(
    kafka: str, new_topic: Callable[[int], str], lake: Lake, tmp_path: Path
) -> None:
    url = f"kafka://{kafka}/{new_topic(1)}"
    errors: list[object] = []
    with collecting(tmp_path, SIGNALBOX_LOG_URL=url, SIGNALBOX_COLLECTOR_WORKERS="2") as address:
        client = Client("wk_web", host=address, on_error=lambda e, _: errors.append(e), timeout=10)
        for number in range(250):
            client.track(f"u{number}", "Logged In", {"method": "password"})
        client.track("u", "Never Heard Of")
        client.shutdown()
    assert errors == []
    reader = open_reader(tmp_path / "log", url)
    loader = Loader(lake.catalog_url, lake.data_path, reader, lake.pipelines_dir)
    result = loader.load()
    assert (result.events, result.quarantined, result.next_seq) == (250, 1, 251)
    with open_log(tmp_path / "log", url) as log:
        log.append([b"nothing that Signalbox wrote"])
    assert loader.load().quarantined == 1
    assert loader.position() == loaded_end(tmp_path / "log") == reader.end() == 252
    with lake.connect() as connection:
        found = connection.execute(
            "select count(distinct user_id), min(log_seq), count(distinct log_seq) "
            "from lake.raw.events"
        ).fetchone()
    assert found is not None
    assert (found[0], found[2]) == (250, 250)


def test_positions_of_several_writers_and_readers(
    kafka: str, new_topic: Callable[[int], str]
) -> None:
    address = KafkaAddress.parse(f"kafka://{kafka}/{new_topic(1)}")
    reader = KafkaLogReader(address, Path())
    assert (reader.first(), reader.end(), reader.read(0, 10)) == (0, 0, [])
    taken: dict[int, bytes] = {}

    def write(name: int) -> None:
        with KafkaLog(address) as log:
            for number in range(20):
                records = [b"%d-%d-%d" % (name, number, n) for n in range(5)]
                positions = log.append(records)
                assert log.end() >= positions.stop
                taken[positions.start] = records[0]
                taken[positions.stop - 1] = records[-1]

    writers = [threading.Thread(target=write, args=(name,)) for name in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert reader.end() == KafkaLogReader(address, Path()).end() == 300
    records = dict(reader.read(0, 1_000))
    assert sorted(records) == list(range(300))
    assert len(set(records.values())) == 300
    assert {seq: records[seq] for seq in taken} == taken
    assert [seq for seq, _ in reader.read(290, 1_000)] == list(range(290, 300))
    assert [seq for seq, _ in reader.read(7, 2)] == [7, 8]  # back again
    assert reader.read(300, 5) == []
    reader.close()


def test_a_topic_that_cannot_be_a_log(kafka: str, new_topic: Callable[[int], str]) -> None:
    with pytest.raises(LogError, match=r"has 2 partitions. The event log needs exactly one"):
        KafkaLog(KafkaAddress.parse(f"kafka://{kafka}/{new_topic(2)}"))
    with pytest.raises(LogError, match="There is no Kafka topic none"):
        KafkaLogReader(KafkaAddress.parse(f"kafka://{kafka}/none"), Path()).end()
    for wrong in ("kafka://host:9092", "http://host/topic", "kafka:///topic", "kafka://h/a/b"):
        with pytest.raises(LogError, match="SIGNALBOX_LOG_URL must be kafka://"):
            KafkaAddress.parse(wrong)
    login = KafkaAddress.parse("kafka://me:p%40ss@h:1,i:2/t?client.rack=a")
    assert (login.servers, login.topic) == ("h:1,i:2", "t")
    assert login.options["sasl.password"] == "p@ss"
    assert login.options["client.rack"] == "a"


def test_while_the_broker_is_away_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    monkeypatch.setattr(kafka_log, "DELIVERY_SECONDS", 1.0)
    monkeypatch.setattr(kafka_log, "CONNECT_SECONDS", 1.0)
    servers = f"127.0.0.1:{free_port()}"

    def broker() -> subprocess.Popen[bytes]:
        command = [TANSU, "broker", "--storage-engine", "memory://tansu/"]
        urls = [f"--{kind}-url=tcp://{servers}" for kind in ("listener", "advertised-listener")]
        process = subprocess.Popen([*command, *urls], stdout=sys.stderr)
        wait_for_port(servers, process)
        admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        admin.create_topics([NewTopic("log", 1, 1)])["log"].result(10)
        return process

    process = broker()
    with KafkaLog(KafkaAddress.parse(f"kafka://{servers}/log")) as log:
        assert log.append([b"a"]) == range(1)
        assert log.problem() is None
        process.kill()
        process.wait()
        with pytest.raises(LogUnavailable, match="took not all records"):
            log.append([b"b"])
        assert log.problem() is not None
        process = broker()
        assert log.append([b"c"]).stop == log.end()
    process.kill()
    process.wait()
