"""Generated Python is typed strictly and sends, through Segment's SDK, what the collector takes."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from codegen_contract import ODD, contracts
from collector_process import start, stop
from segment.analytics.client import Client

from ingestion.contract import Contracts, slug
from ingestion.contract_codegen import generate

USE = """
from events import track_card_transaction, track_purchase_completed, SegmentClient

def use(client: SegmentClient) -> None:
    item = {"product_id": "p", "quantity": 1.0, "price": 2.0}
    track_purchase_completed(client, "u", order_id="A", total=1, currency="EUR", items=[])
    track_purchase_completed(client, "u", order_id="A", total="1", currency="EUR")  # text
    track_purchase_completed(client, "u", order_id="A", total=1)  # no currency
    track_purchase_completed(
        client, "u", order_id="A", total=1, currency="EUR",
        items=[{"product_id": "p", "quantity": 1}],  # no price
    )
    track_card_transaction(
        client, "u", transaction_id="t", card_id="c", amount=1, currency="EUR",
        status="lost",  # not listed
    )
"""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The generated module, imported."""
    directory = tmp_path_factory.mktemp("codegen")
    path = directory / "events.py"
    path.write_text(generate(contracts(directory), "python"))
    spec = importlib.util.spec_from_file_location("events", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_types_are_strict(events: Any) -> None:
    directory = Path(events.__file__).parent
    (directory / "use.py").write_text(USE)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "events.py", "use.py"]
    checked = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    wrong = [n for n, line in enumerate(USE.splitlines(), 1) if "  # " in line]
    found = [line.split(":")[:2] for line in checked.stdout.splitlines() if ": error:" in line]
    assert [file for file, _ in found] == ["use.py"] * 4, checked.stdout
    assert [int(line) for _, line in found] == wrong, checked.stdout


def test_every_example_arrives_as_its_contract_says(events: Any, tmp_path: Path) -> None:
    server = start(tmp_path / "log")
    try:
        client = Client("wk_web", host=server.url)
        sent = []
        for contract in Contracts.load().newest():
            track = getattr(events, f"track_{slug(contract.event)}")
            for example in contract.schema["examples"]:
                track(client, "u_42", **example, context={"ip": "192.0.2.1"})
                sent.append((contract.event, contract.version, example))
        at = datetime(2026, 1, 2, tzinfo=UTC)
        events.track_logged_in(client, anonymous_id="a-1", timestamp=at, message_id="mine")
        client.flush()
        client.join()
        *arrived, last = server.since(0)
    finally:
        stop(server)
    assert [(r.kind, r.reason, r.user_id) for r in arrived] == [("event", None, "u_42")] * len(sent)
    decoded = [json.loads(r.payload) for r in arrived]
    assert [(r.event, r.event_version) for r in arrived] == [(e, v) for e, v, _ in sent]
    assert [message["properties"] for message in decoded] == [example for _, _, example in sent]
    assert {message["context"]["ip"] for message in decoded} == {"192.0.2.1"}
    assert (last.anonymous_id, last.message_id, last.event_version) == ("a-1", "mine", 1)


def test_odd_names_keep_their_spelling(events: Any) -> None:
    calls: list[tuple[Any, ...]] = []

    class Recorder:
        def track(self, *args: Any, **kwargs: Any) -> None:
            calls.append(args)

    track = getattr(events, f"track_{slug(str(ODD['title']))}")
    names = set(inspect.signature(track).parameters)
    assert {"class_", "plan_type", "user_id_", "_9lives"} <= names
    path = [{"x-axis": 1.5, "inner": {"deep": True}}]
    track(Recorder(), "u", class_="a", plan_type="pro", user_id_="mine", _9lives=9, path=path)
    (call,) = calls
    assert call[:2] == ("u", ODD["title"])
    assert call[2] == {
        "class": "a", "plan-type": "pro", "user_id": "mine", "9lives": 9, "path": path,
    }  # fmt: skip
    assert call[3] == {"protocols": {"event_version": 3}}
