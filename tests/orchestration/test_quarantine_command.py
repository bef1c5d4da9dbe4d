"""The commands `signalbox quarantine list | show | replay`, from the log of a home."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ingestion.contract import Contracts
from ingestion.envelope import Arrival, encode_record, to_record
from ingestion.log import EventLog
from orchestration.cli import app

LOGIN = {"type": "track", "userId": "ada@example.com", "properties": {"method": "sso"}}
RENAME = ("--set", "event = 'Logged In'")


@pytest.fixture
def signalbox(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SIGNALBOX_HOME", str(home))

    def run(*args: str) -> str:
        done = CliRunner().invoke(app, args, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return run


def test_what_is_bad_is_listed_shown_and_replayed_once(home: Path, signalbox: Any) -> None:
    messages = [
        LOGIN | {"messageId": "a"},
        LOGIN | {"messageId": "b", "userId": None},
        LOGIN | {"messageId": "c", "event": "Logged In"},
    ]
    contracts, arrival = Contracts.load(), Arrival("web", datetime.now(UTC))
    with EventLog(home / "log") as log:
        log.append(
            [encode_record(to_record(json.dumps(m).encode(), arrival, contracts)) for m in messages]
        )

    said = signalbox("quarantine", "list")
    assert "the last 3 of the log's records" in said and "The quarantine is empty." in said
    signalbox("load")
    (group,) = json.loads(signalbox("quarantine", "list", "--json"))
    assert (group["reason"], group["source"], group["waiting"]) == ("missing_field", "web", 2)
    assert "Nothing in quarantine fits." in signalbox("quarantine", "list", "--event", "Other")
    shown = signalbox("quarantine", "show", "--reason", "missing_field")
    assert '"method": "sso"' in shown and "ada@" not in shown

    dry = json.loads(signalbox("quarantine", "replay", *RENAME, "--dry-run", "--json"))
    done = json.loads(signalbox("quarantine", "replay", *RENAME, "--json"))
    for result in (dry, done):
        assert (result["messages"], result["passed"]) == (2, 1)
        assert result["refused"] == {"missing_field": 1}
    assert "ada@" not in json.dumps(dry["samples"])
    assert "0 of 1 messages replayed" in signalbox("quarantine", "replay", *RENAME)
    (group,) = json.loads(signalbox("quarantine", "list", "--json"))
    assert (group["waiting"], group["replayed"]) == (1, 1)
