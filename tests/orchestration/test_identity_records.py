"""What the records of other systems say of who is who: from a refresh to the customers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ingestion.sources import RefreshSource, load
from orchestration import dbt, ingest, lake
from orchestration.cli import app
from orchestration.settings import Settings

FLAT = {"email": "flat@example.com"}
# What a producer knows of the CRM joins as well.
KNOWN = {"externalIds": [{"type": "crm_contact_id", "id": "6"}]}
MESSAGES = [
    {"type": "identify", "userId": "ann", "anonymousId": "laptop", "traits": {}},
    {"type": "identify", "userId": "yan", "anonymousId": "pad", "traits": FLAT},
    {"type": "track", "event": "Logged In", "userId": "dan", "context": KNOWN,
     "properties": {"method": "password"}},
]  # fmt: skip
CRM = [
    # Ann's contact has yan's address, and was merged with one that dan's shop knows.
    {"contact_id": "7", "email": "Flat@example.com", "user_id": "ann", "merged": "6"},
    {"contact_id": "9", "email": "lead@example.com"},
]


def signalbox(*args: str) -> Any:
    done = CliRunner().invoke(app, [*args, "--json"])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return json.loads(done.stdout)


def build(settings: Settings) -> None:
    signalbox("load")
    models = ("identity_merges", "customers", "crm_customers", "customer_timeline")
    with lake.writer(settings, "test"):
        without = ("--exclude-resource-type", "test", "unit_test")
        dbt.invoke(["build", "--select", *(f"+{model}" for model in models), *without], settings)


def row_of(one: dict[str, str]) -> dict[str, Any]:
    values = {"user_id": one.get("user_id"), "hs_merged_object_ids": one.get("merged")}
    row = {"contact_id": one["contact_id"], "email": one["email"], "archived": False}
    return row | {"properties": json.dumps(values), "created_at": None, "updated_at": None}


def contacts(*_: Any) -> Iterator[dict[str, Any]]:
    return map(row_of, CRM)


def test_records_of_the_crm_join_customers(tmp_path: Path, settings: Settings) -> None:
    file = tmp_path / "messages.jsonl"
    lines = [json.dumps({"messageId": f"m{n}"} | message) for n, message in enumerate(MESSAGES)]
    file.write_text("\n".join(lines))
    signalbox("import", str(file))
    build(settings)

    crm = load("crm")
    assert isinstance(crm, RefreshSource)
    source = replace(crm, rows=contacts, sandbox={})
    end = ingest.open_reader(settings).end()
    with lake.writer(settings, "test"):
        assert ingest.refresh(settings, source) == 2
    assert ingest.open_reader(settings).end() == end + 2
    found = signalbox("identity", "preview")
    assert (found["pending_events"], found["counts"]["merging"]) == (2, 3)
    assert found["largest_then"]["named_by"] == "user:ann"

    with lake.writer(settings, "test"):
        ingest.loader(settings).load()
        ingest.refresh(settings, source)  # tells nothing new
    assert ingest.open_reader(settings).end() == end + 2
    build(settings)
    merges = {row["merged_id_key"]: row for row in signalbox("identity", "merges")["merges"]}
    assert merges["crm_contact:7"]["reason"].endswith("in one record of the CRM or the help desk")
    with lake.connect(settings) as connection:

        def asked(query: str) -> Any:
            return connection.execute(query).fetchall()

        together = "select count(*) from identity_map group by customer_id order by 1 desc"
        assert asked(together) == [(8,), (2,)]
        # Whom only the CRM knows is no customer; what it says is no step of anybody.
        assert asked("select count(*) from customers") == [(1,)]
        assert asked("select contact_id from crm_customers") == [("7",)]
        assert asked("select count(*) from customer_timeline where source = 'signalbox'") == [(0,)]
    split = signalbox("identity", "split", "crm_contact:7", "user:ann", "--dry-run")
    assert [len(part["ids"]) for part in split["after"]] == [2, 6]


def test_a_first_reading_is_loaded_by_portions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [{"contact_id": f"1{n}", "email": f"n{n}@example.com"} for n in range(250)]
    crm = load("crm")
    assert isinstance(crm, RefreshSource)
    source = replace(crm, rows=lambda *_: map(row_of, many), sandbox={})
    with lake.writer(settings, "test"):
        ingest.loader(settings).load()
    loader, done, loaded = ingest.loader(settings), threading.Event(), []

    def new() -> bool:
        return loader.position() < ingest.open_reader(settings).end()

    def batches() -> None:
        while not done.wait(0.05) or new():
            if new():
                with lake.writer(settings, "test"):
                    loaded.append(loader.load().events)

    monkeypatch.setattr(ingest, "LINK_SECONDS", 60.0)
    working = threading.Thread(target=batches)
    working.start()
    try:
        assert ingest.refresh(settings, source) == len(many)
    finally:
        done.set()
        working.join()
    assert loaded == [50] * 5
