"""Drafts from real events: right about them, silent about people, and honest about the rest."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from ingestion.contract import Contracts
from ingestion.contract_check import lint
from ingestion.contract_infer import InferError, infer, read_messages

COUNT = 60


def bookings() -> list[dict[str, Any]]:
    lottery = random.Random(7)
    return [
        {
            "type": "track",
            "event": "Seat Booked",
            "userId": f"u{number}",
            "properties": {
                "booking_id": f"b-{number}",
                "class": lottery.choice(["eco", "business"]),
                "airline": f"Air {number}",
                "total": lottery.choice([5, 7]),
                "delta": number,
                "booked_at": "2026-01-02T10:00:00.5+01:00",
                "day": "2026-01-02",
                "link": "https://air.example/b?id=1",
                "currency": "EUR",
                "email": f"ada{number}@example.com",
                "contact": "call +49 170 1234567",
                "address": {"city": "Leeds", "country": lottery.choice(["DE", "FR"])},
                "note": None,
                "mixed": "1" if number % 2 else 1,
                **({"voucher": 1.5} if number % 2 else {}),
                "seats": [{"row": number, "window": True}],
                "plan": "pro",
            },
        }
        for number in range(COUNT)
    ]


@pytest.fixture(scope="module")
def draft() -> dict[str, Any]:
    others = [{"type": "identify", "traits": {}}, {"event": "Other", "properties": {"a": 1}}]
    drafts = infer([*bookings(), *others], "Seat Booked")
    assert list(drafts) == ["Seat Booked"]
    return drafts["Seat Booked"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("booking_id", {"type": "string"}),
        ("class", {"type": "string", "enum": ["business", "eco"]}),
        ("airline", {"type": "string"}),
        ("total", {"type": "number", "minimum": 0}),
        ("delta", {"type": "integer"}),
        ("booked_at", {"type": "string", "format": "date-time"}),
        ("day", {"type": "string", "format": "date"}),
        ("link", {"type": "string", "format": "uri"}),
        ("currency", {"type": "string", "pattern": "^[A-Z]{3}$"}),
        ("email", {"type": "string", "format": "email", "x-pii": True}),
        ("contact", {"type": "string", "x-pii": True}),
        ("mixed", {"type": ["integer", "string"]}),
        ("voucher", {"type": "number"}),
        ("plan", {"type": "string"}),  # one value is no evidence of a closed set
    ],
)
def test_a_field_is_what_was_seen(
    draft: dict[str, Any], name: str, expected: dict[str, Any]
) -> None:
    field = dict(draft["properties"][name])
    assert field.pop("description").startswith("TODO")
    assert field == expected


def test_fields_within_fields(draft: dict[str, Any]) -> None:
    address, seats = draft["properties"]["address"], draft["properties"]["seats"]
    assert address["x-pii"] and "enum" not in address["properties"]["country"]
    assert seats["items"]["required"] == ["row", "window"]
    assert seats["items"]["properties"]["window"]["type"] == "boolean"
    assert set(draft["properties"]) - set(draft["required"]) == {"voucher"}


def test_no_personal_value_gets_into_a_draft(draft: dict[str, Any]) -> None:
    text = json.dumps(draft)
    for value in ("ada", "+49", "Leeds", '"DE"'):
        assert value not in text
    assert draft["examples"][0]["email"] == "person@example.com"


def test_a_draft_accepts_what_it_was_made_of_and_lacks_only_words(
    draft: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "seat_booked.v1.json").write_text(json.dumps(draft))
    problems = [problem.message for problem in lint(tmp_path)]
    assert problems[0].startswith("description is missing")
    assert problems[1].startswith("x-owner is missing")
    assert all(problem.endswith(" has no description") for problem in problems[2:])
    contracts = Contracts.load(tmp_path)
    for message in bookings():
        assert contracts.check("track", "Seat Booked", message["properties"]).reason is None


def test_files_of_lines_plain_or_gzip(tmp_path: Path) -> None:
    lines = "\n\n".join(json.dumps(message) for message in bookings()).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    plain = list(read_messages(tmp_path / "a.jsonl"))
    assert plain == list(read_messages(tmp_path / "a.jsonl.gz")) == bookings()
    (tmp_path / "b.jsonl").write_bytes(b"{}\nno json")
    with pytest.raises(InferError, match="line 2 is not JSON"):
        list(read_messages(tmp_path / "b.jsonl"))
    with pytest.raises(InferError, match="no event 'Nothing'"):
        infer(plain, "Nothing")
