"""The engine, real destination files and the sandbox together, on a day that goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import requests
from syncs_support import alerts, contacts, contacts_spec, make_pusher, message_spec

from syncs.ledger import Ledger
from syncs.push import Pusher
from syncs.sandbox.server import background
from syncs.spec import SyncSpec


class Place:
    def __init__(self, url: str, pusher: Pusher) -> None:
        self.url, self.pusher = url, pusher

    def fault(self, **fault: Any) -> None:
        requests.post(f"{self.url}/sandbox/faults", json=fault, timeout=20).raise_for_status()

    def effects(self, name: str) -> list[tuple[str, str]]:
        query = {"destination": name, "limit": "5000"}
        found = requests.get(f"{self.url}/sandbox/effects", params=query, timeout=20).json()
        return [(effect["key"], effect["action"]) for effect in found]


@pytest.fixture
def place(tmp_path: Path, ledger: Ledger) -> Iterator[Place]:
    with background(tmp_path / "sandbox", rate_limits=False) as address:
        yield Place(address.url, make_pusher(ledger, address.url))


def to(destination: str, object_name: str, mode: str = "upsert") -> SyncSpec:
    return contacts_spec(
        name=f"{destination}__health", destination=destination, object=object_name, mode=mode
    )


def test_one_bad_row_among_many_is_found_by_halving(
    place: Place, lake: duckdb.DuckDBPyConnection
) -> None:
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(30)} | {"bad-13@x.example": 0.2})
    place.fault(path="/sendgrid", kind="reject_rows", match="bad-")
    report = place.pusher.run(to("sendgrid", "contacts"), lake)
    assert report.sent == {"delivered": 30, "rejected": 1}
    assert len(place.effects("sendgrid")) == 30


@pytest.mark.parametrize(
    ("name", "object_name"),
    [("klaviyo", "lists/Xy1"), ("iterable", "lists/42"), ("sendgrid", "lists/l-1")],
)
def test_an_audience_follows_its_model_through_lost_answers(
    name: str, object_name: str, place: Place, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = to(name, object_name, "mirror")
    contacts(lake, {"ann@x.example": 0.1, "bo@x.example": 0.2})
    place.fault(path=f"/{name}", kind="timeout_after_effect", count=1)
    assert place.pusher.run(spec, lake).states == {"delivered": 2}
    contacts(lake, {"ann@x.example": 0.1})
    place.fault(path=f"/{name}", kind="429", count=1, retry_after=0)
    place.fault(path=f"/{name}", kind="timeout_after_effect", count=1)
    place.pusher.run(spec, lake)
    moves = [move for move in place.effects(name) if move[1] in ("contact_joined", "contact_left")]
    assert sorted(moves) == [
        ("ann@x.example", "contact_joined"),
        ("bo@x.example", "contact_joined"),
        ("bo@x.example", "contact_left"),
    ]


@pytest.mark.parametrize(("name", "state"), [("braze", "unknown"), ("customerio", "delivered")])
def test_an_event_whose_answer_is_lost_is_told_once(
    name: str, state: str, place: Place, lake: duckdb.DuckDBPyConnection
) -> None:
    """Braze has no idempotency key, so the ledger lets go; Customer.io drops the second."""
    alerts(lake, ["t1"])
    lake.execute("alter table alerts add column name varchar default 'Risk rose'")
    lake.execute("alter table alerts add column email varchar default 'ann@x.example'")
    spec = message_spec(
        name=f"{name}__alert",
        destination=name,
        object="events",
        columns=(*message_spec().columns, "name", "email"),
    )
    place.fault(path=f"/{name}", kind="timeout_after_effect", count=1)
    place.pusher.run(spec, lake)
    assert place.pusher.run(spec, lake).states == {state: 1}
    assert place.effects(name) == [("ann@x.example", "event_tracked")]
