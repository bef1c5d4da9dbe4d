"""The log as it grows, through the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingestion.contract import Contracts
from ingestion.envelope import Arrival, encode_record, to_record
from ingestion.log import EventLog, LogReader
from ingestion.tail import TailFilter, follow, newest

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONTRACTS = Contracts.load()
Send = Callable[..., None]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "log") as opened:
        yield opened


@pytest.fixture
def send(log: EventLog) -> Send:
    def append(*messages: dict[str, Any], source: str = "web", minutes: int = 0) -> None:
        arrival = Arrival(source, START + timedelta(minutes=minutes))
        defaults = {"type": "track", "event": "Logged In", "userId": "u1"}
        records = [
            to_record(json.dumps(defaults | message).encode(), arrival, CONTRACTS)
            for message in messages
        ]
        log.append([encode_record(record) for record in records])

    return append


def found(log: EventLog, count: int | None = None, since: datetime | None = None, **wanted: Any):  # type: ignore[no-untyped-def]
    records, position = newest(LogReader(log.directory), TailFilter(**wanted), count, since)
    assert position == log.end()
    return [seq for seq, _ in records]


def test_the_newest_that_fit_come_oldest_first(log: EventLog, send: Send) -> None:
    send(*({"userId": f"u{number % 3}"} for number in range(5_000)))
    send({"event": "Sock Lost"}, {"type": "page", "anonymousId": "a"}, source="app", minutes=5)
    assert found(log, 3) == [4_999, 5_000, 5_001]
    assert found(log, 2, user="u1") == [5_000, 5_001]
    assert found(log, 2, user="u0") == [4_995, 4_998]
    assert found(log, 9, type="page") == [5_001]
    assert found(log, 9, quarantined=True) == [5_000]
    assert found(log, 9, event="Sock Lost", source="web") == []
    assert found(log, 0) == found(log) == []
    assert found(log, since=START + timedelta(minutes=1)) == [5_000, 5_001]
    assert found(log, 1, since=START) == [5_001]
    assert len(found(log, since=START)) == 5_002


def test_what_comes_later_follows(log: EventLog, send: Send) -> None:
    send({})
    arriving = follow(LogReader(log.directory), TailFilter(user="u2"), log.end())
    send({}, {"userId": "u2"})
    assert next(arriving)[0] == 2
    send({"userId": "u2"})
    assert next(arriving)[0] == 3


def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert newest(LogReader(tmp_path / "log"), TailFilter(), 5) == ([], 0)


def test_the_command_masks_follows_and_ends(log: EventLog, send: Send) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "orchestration.cli", "tail", "--json"],
        env=os.environ | {"SIGNALBOX_HOME": str(log.directory.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert command.stdout is not None and command.stderr is not None
    opened = {"ticket_id": "T-1", "subject": "I am Ada", "priority": "high"}
    for number in (0, 1):
        send(
            {
                "event": "Support Ticket Opened",
                "userId": "ada@example.com",
                "properties": {**opened, "n": number},
            }
        )
        line = json.loads(command.stdout.readline())
        assert (line["log_seq"], line["source"], line["user_id"]) == (number, "web", "***")
        assert line["payload"]["properties"]["priority"] == "high"
        assert "Ada" not in json.dumps(line) and "ada@" not in json.dumps(line)
    command.send_signal(signal.SIGINT)
    assert (command.wait(20), command.stderr.read()) == (0, "")


def test_a_line_obeys_nobody_but_us(log: EventLog, send: Send) -> None:
    send({"event": "Logged In", "properties": {"method": "\x1b[2J\x9b31m", "\x1b]0;x": 1}})
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "tail", "--no-follow"],
        env=os.environ | {"SIGNALBOX_HOME": str(log.directory.parent)},
        capture_output=True,
        text=True,
    )
    assert "Logged In v1 u1 method=\N{REPLACEMENT CHARACTER}[2J" in done.stdout
    assert not {"\x1b", "\x9b"} & set(done.stdout)
