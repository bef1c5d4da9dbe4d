"""What a producer is told under each policy, and what is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestion.contract import Contracts
from ingestion.envelope import decode_record
from ingestion.http_api import create_app
from ingestion.log import EventLog, LogReader
from ingestion.request import SourcePolicy

LOGIN = {"type": "track", "event": "Logged In", "userId": "u1"}
BROKEN = {**LOGIN, "properties": {"method": 1}}
UNKNOWN = {**LOGIN, "event": "Sock Lost"}
NO_ENVELOPE = {"type": "track"}
KEYS = {
    "allow": SourcePolicy("web", "allow", "allow"),
    "reject": SourcePolicy("web", "reject", "reject"),
    "mixed": SourcePolicy("web", "allow", "reject"),
}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "log") as opened:
        yield opened


def send(log: EventLog, key: str, *messages: Any) -> tuple[int, dict[str, Any], list[Any]]:
    """Status and answer of one batch, and (kind, reason, rejected) of what is in the log."""

    async def call() -> list[dict[str, Any]]:
        app = create_app(log, Contracts.load(), KEYS)
        body = json.dumps({"batch": messages, "writeKey": key}).encode()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def answer(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/batch", "headers": []}
        scope |= {"query_string": b"", "scheme": "http", "client": ("127.0.0.1", 1)}
        await app(scope, receive, answer)
        return sent

    start = log.end()
    head, body = asyncio.run(call())
    records = [decode_record(raw) for _, raw in LogReader(log.directory).read(start, 99)]
    kept = [(record.kind, record.reason, record.rejected) for record in records]
    return head["status"], json.loads(body["body"]), kept


def test_allowed_violations_are_events_with_a_flag(log: EventLog) -> None:
    status, answer, kept = send(log, "allow", LOGIN, BROKEN, UNKNOWN)
    assert (status, answer["accepted"], answer["quarantined"]) == (200, 3, 0)
    assert kept == [
        ("event", None, False),
        ("event", "wrong_type", False),
        ("event", "unknown_event", False),
    ]
    assert [(p["index"], p["outcome"]) for p in answer["problems"]] == [
        (1, "accepted"),
        (2, "accepted"),
    ]


@pytest.mark.parametrize("messages", [[BROKEN], [UNKNOWN, BROKEN]])
def test_where_all_is_rejected_nothing_is_kept(log: EventLog, messages: list[Any]) -> None:
    status, answer, kept = send(log, "reject", *messages)
    assert (status, kept) == (400, [])
    assert answer["code"] == answer["problems"][0]["reason"]
    assert [p["outcome"] for p in answer["problems"]] == ["rejected"] * len(messages)


@pytest.mark.parametrize(
    ("key", "messages", "rejected"),
    [
        ("reject", [LOGIN, BROKEN, UNKNOWN], [1, 2]),
        ("reject", [NO_ENVELOPE, BROKEN], [1]),
        ("mixed", [BROKEN, UNKNOWN], [0]),
    ],
)
def test_a_rejected_message_never_costs_the_others(
    log: EventLog, key: str, messages: list[Any], rejected: list[int]
) -> None:
    status, answer, kept = send(log, key, *messages)
    assert (status, answer["rejected"]) == (200, rejected)
    assert answer["accepted"] + answer["quarantined"] == len(messages) == len(kept)
    assert [index for index, (_, _, flag) in enumerate(kept) if flag] == rejected
    assert all(kept[index][0] == "quarantine" for index in rejected)


def test_every_rejected_position_is_named_however_many(log: EventLog) -> None:
    _, answer, kept = send(log, "reject", LOGIN, *[UNKNOWN] * 70)
    assert answer["rejected"] == list(range(1, 71))
    assert (len(answer["problems"]), len(kept)) == (20, 71)
