"""What a person who looks must not see, and what they need to see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingestion.contract import Contracts
from ingestion.masking import MASK, Masker, text

MASKER = Masker(Contracts.load())


@pytest.mark.parametrize(
    "shown",
    [
        "Walnut desk lamp",
        "2026-11-24T10:00:00.123Z",
        "7e0c3a2e-1b2c-4d5e-8f90-123456789012",
        "order 20261124-1234567",
        "1764000000000",
        "https://shop.example/p/12-345-6789?page=2",
        "192.168.100.200",
        "v1.2.3 @ home",
    ],
)
def test_what_is_no_personal_datum_is_shown(shown: str) -> None:
    assert text(shown) == shown


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("mail Ada.Byron+shop@mail.example.co.uk now", "mail *** now"),
        ("https://x.example/?e=ada%40example.com&b=1", "https://x.example/?e=***&b=1"),
        ("call +49 (170) 123-45 67, please", "call ***, please"),
        ("(555) 123-4567 or 555.123.4567", "*** or ***"),
    ],
)
def test_addresses_and_numbers_are_hidden_in_any_text(sent: str, shown: str) -> None:
    assert text(sent) == shown


def test_a_message_keeps_its_shape() -> None:
    message = {
        "type": "track",
        "event": "Support Ticket Opened",
        "userId": "ada@example.com",
        "anonymousId": "a-1",
        "properties": {"subject": "My bank is lost", "priority": "high", "E-Mail": "x", "n": None},
        "context": {
            "ip": "10.1.2.3",
            "campaign": {"name": "spring"},
            "traits": {"name": "Ada", "plan": "pro", "address": {"city": "London"}},
        },
        "traits": {"firstName": "Ada", "age": 36, "ada@example.com": True},
    }
    assert MASKER.message(message) == {
        "type": "track",
        "event": "Support Ticket Opened",
        "userId": MASK,
        "anonymousId": "a-1",
        "properties": {"subject": MASK, "priority": "high", "E-Mail": MASK, "n": None},
        "context": {
            "ip": MASK,
            "campaign": {"name": "spring"},
            "traits": {"name": MASK, "plan": "pro", "address": MASK},
        },
        "traits": {"firstName": MASK, "age": MASK, MASK: True},
    }


def test_every_field_that_a_contract_marks_is_hidden() -> None:
    marked = 0
    for contract in Contracts.load().all:
        for example in contract.schema["examples"]:
            masked: dict[str, Any] = MASKER.properties(contract.event, example)
            for name, value in example.items():
                if contract.schema["properties"][name].get("x-pii"):
                    marked += 1
                    assert masked[name] == MASK
                    assert json.dumps(value) not in json.dumps(masked)
    assert marked


def test_marks_count_inside_lists_and_objects() -> None:
    schema = Contracts.load().versions("Cart Updated")[0]
    items = schema.schema["properties"]["items"]
    marked = {**items["items"]["properties"], "name": {"x-pii": True}}
    contract = type(schema)(
        schema.event,
        2,
        "cart_updated.v2.json",
        {"properties": {"items": {"items": {"properties": marked}}}},
        schema.validator,
        schema.fits,
    )
    masker = Masker(Contracts([schema, contract]))
    shown = masker.properties("Cart Updated", {"items": [{"name": "secret", "price": 1}]})
    assert shown == {"items": [{"name": MASK, "price": 1}]}


@pytest.mark.timeout(120)  # a pattern that looks back at itself would take hours
def test_long_texts_end() -> None:
    for filler in ("a", "1", "a.", "+1 ", "%40", "a@"):
        assert text(filler * 200_000)
