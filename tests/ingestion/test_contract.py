"""Verdicts in plain words, choice of version, and what `lint` finds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ingestion.contract import CONTRACTS, ContractError, Contracts
from ingestion.contract_check import lint

PURCHASE = {"order_id": "A-1", "total": 5, "currency": "EUR"}
EVENTS = {
    "Card Transaction",
    "Cart Updated",
    "Email Clicked",
    "Email Opened",
    "Feature First Used",
    "Logged In",
    "Page Viewed",
    "Product Viewed",
    "Purchase Completed",
    "Subscription Expiring",
    "Support Ticket Opened",
}


@pytest.fixture(scope="module")
def contracts() -> Contracts:
    return Contracts.load()


def contract(version: int = 1, **changes: Any) -> dict[str, Any]:
    schema = {
        "title": "Toy Moved",
        "description": "A toy was moved.",
        "x-owner": "play",
        "x-version": version,
        "type": "object",
        "required": ["toy"],
        "properties": {
            "toy": {"type": "string", "description": "Its name."},
            "steps": {"type": "number", "description": "How far.", "minimum": 0},
            "mood": {"description": "Which mood.", "enum": ["good", "bad"]},
        },
        "examples": [{"toy": "bear", "steps": 2, "mood": "good"}],
    }
    return {**copy.deepcopy(schema), **changes}


def write(directory: Path, *schemas: dict[str, Any]) -> Path:
    for schema in schemas:
        (directory / f"toy_moved.v{schema['x-version']}.json").write_text(json.dumps(schema))
    return directory


def test_the_shipped_contracts_are_complete_and_clean(contracts: Contracts) -> None:
    assert lint(CONTRACTS) == []
    assert {c.event for c in contracts.all} >= EVENTS
    for c in contracts.all:
        for example in c.schema["examples"]:
            assert contracts.check("track", c.event, example) == (c.version, None, None)
            assert set(example) <= set(c.schema["properties"])


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"total": None}, "missing_field", "properties.total is required"),
        ({"total": "5"}, "wrong_type", "properties.total must be a number, not text"),
        ({"total": True}, "wrong_type", "properties.total must be a number, not true or false"),
        ({"total": -1}, "bad_value", "properties.total must be at least 0"),
        ({"order_id": ""}, "bad_value", "properties.order_id must not be empty"),
        ({"currency": "eur"}, "bad_value", "properties.currency must match ^[A-Z]{3}$"),
        ({"items": {}}, "wrong_type", "properties.items must be a list, not an object"),
        (
            {"items": [{"product_id": "p", "price": 1}]},
            "missing_field",
            "properties.items[0].quantity is required",
        ),
        (
            {"items": [{"product_id": "p", "price": 1, "quantity": 0}]},
            "bad_value",
            "properties.items[0].quantity must be more than 0",
        ),
    ],
)
def test_verdicts_name_the_field_and_what_is_wrong(
    contracts: Contracts, change: dict[str, Any], reason: str, detail: str
) -> None:
    verdict = contracts.check("track", "Purchase Completed", {**PURCHASE, **change})
    assert verdict == (1, reason, detail)


def test_details_never_quote_a_value(contracts: Contracts) -> None:
    secret = "ada@example.com"
    for wrong in ({"total": secret}, {"currency": secret}, {"items": [secret]}):
        verdict = contracts.check("track", "Purchase Completed", {**PURCHASE, **wrong})
        assert verdict.detail and secret not in verdict.detail


def test_many_errors_make_one_readable_line(contracts: Contracts) -> None:
    items = [{}] * 1000
    verdict = contracts.check("track", "Purchase Completed", {**PURCHASE, "items": items})
    assert verdict.detail and verdict.detail.endswith("; and more") and len(verdict.detail) < 300


def test_a_field_sent_as_null_counts_as_not_sent(contracts: Contracts) -> None:
    sent = {**PURCHASE, "coupon": None, "items": [{"product_id": "p", "quantity": 1, "price": 1}]}
    sent["items"][0]["name"] = None
    assert contracts.check("track", "Purchase Completed", sent).version == 1


def test_fields_the_contract_does_not_know_are_welcome(contracts: Contracts) -> None:
    assert contracts.check("track", "Purchase Completed", {**PURCHASE, "gift": {}}).version == 1


def test_unknown_events_and_types_without_a_contract(contracts: Contracts) -> None:
    assert contracts.check("track", "Sock Lost", {}).reason == "unknown_event"
    for type_ in ("identify", "group", "alias", "screen"):
        assert contracts.check(type_, None, {"anything": 1}) == (None, None, None)


def test_page_calls_share_the_contract_but_not_its_requirements(contracts: Contracts) -> None:
    assert contracts.check("track", "Page Viewed", {}).reason == "missing_field"
    assert contracts.check("page", None, None).version == 1
    assert contracts.check("page", None, {"path": 3}).reason == "wrong_type"


def test_the_newest_version_that_accepts_is_chosen(tmp_path: Path) -> None:
    second = contract(2, required=["toy", "steps"])
    contracts = Contracts.load(write(tmp_path, contract(), second))
    assert contracts.check("track", "Toy Moved", {"toy": "bear", "steps": 1}).version == 2
    assert contracts.check("track", "Toy Moved", {"toy": "bear"}).version == 1
    refused = contracts.check("track", "Toy Moved", {"steps": "far"})
    assert refused.detail and "properties.toy is required" in refused.detail


def test_a_declared_version_is_the_one_that_counts(tmp_path: Path) -> None:
    second = contract(2, required=["toy", "steps"])
    contracts = Contracts.load(write(tmp_path, contract(), second))
    both, old = {"toy": "bear", "steps": 1}, {"toy": "bear"}
    assert contracts.check("track", "Toy Moved", both, 1) == (1, None, None)
    assert contracts.check("track", "Toy Moved", both, 2) == (2, None, None)
    refused = contracts.check("track", "Toy Moved", old, 2)
    assert refused == (2, "missing_field", "properties.steps is required")
    unknown = contracts.check("track", "Toy Moved", both, 3)
    assert unknown[:2] == (None, "unknown_version")
    assert unknown.detail == "there is no version 3 of the contract for 'Toy Moved'; there is 1, 2"
    for odd in ("2", 2.0, True, 0, -1, [2]):
        assert contracts.check("track", "Toy Moved", both, odd).reason == "unknown_version"
    assert contracts.check("track", "Sock Lost", {}, 1).reason == "unknown_event"
    assert contracts.check("identify", None, {}, 1) == (None, None, None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not readable as JSON"),
        (b"[]", "must be a JSON object"),
        (json.dumps(contract(title="")).encode(), "title is missing"),
        (json.dumps(contract(title="Bear Moved")).encode(), "bear_moved.v1.json"),
        (json.dumps(contract(2)).encode(), "toy_moved.v2.json"),
        (json.dumps(contract(**{"x-version": "1"})).encode(), "x-version must be a whole number"),
        (json.dumps(contract(type="objekt")).encode(), "not a valid JSON Schema"),
        (
            json.dumps(contract(properties={"a": {"$ref": "https://example.com/a"}})).encode(),
            "refers to https://example.com/a",
        ),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "toy_moved.v1.json").write_bytes(content)
    with pytest.raises(ContractError) as raised:
        Contracts.load(tmp_path)
    assert "toy_moved.v1.json" in str(raised.value) and words in str(raised.value)
    [problem] = lint(tmp_path)
    assert problem.file == "toy_moved.v1.json" and words in problem.message


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="not a directory"):
        Contracts.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"description": ""}, "description is missing"),
        ({"x-owner": None}, "x-owner is missing"),
        ({"type": "array", "examples": [[]]}, 'type must be "object"'),
        ({"examples": []}, "examples is missing"),
        ({"examples": [{"steps": 1}]}, "example 1 is not valid: properties.toy is required"),
        ({"properties": {"toy": {"type": "string"}}}, "properties.toy has no description"),
        (
            {"properties": {"toy": {"description": "d", "x-pii": "yes"}}},
            "properties.toy: x-pii must be true or false",
        ),
    ],
)
def test_lint_finds_what_is_missing(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    messages = [p.message for p in lint(write(tmp_path, contract(**changes)))]
    assert any(words in message for message in messages), messages


def field(**changes: Any) -> dict[str, Any]:
    properties = contract()["properties"]
    for name, change in changes.items():
        properties[name] = {**properties.get(name, {"description": "New."}), **change}
    return {"properties": properties}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"required": ["toy", "steps"]}, "properties.steps is now required"),
        ({"additionalProperties": False}, "properties no longer takes other fields"),
        (field(steps={"type": "integer"}), "properties.steps is no longer number"),
        (field(toy={"type": "null"}), "properties.toy is no longer string"),
        (field(steps={"minimum": 1}), "properties.steps has a higher minimum"),
        (field(steps={"maximum": 9}), "properties.steps has a lower maximum"),
        (field(toy={"pattern": "^b"}), "properties.toy has another pattern"),
        (field(mood={"enum": ["good"]}), "properties.mood no longer takes bad"),
        (field(toy={"enum": ["bear"]}), "properties.toy takes only listed values now"),
        (field(toy={"maxLength": 3}), "refuses example 1 of version 1: properties.toy must have"),
    ],
)
def test_lint_refuses_a_version_that_breaks_old_producers(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    messages = [p.message for p in lint(write(tmp_path, contract(), contract(2, **changes)))]
    assert any(words in message for message in messages), messages


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"required": []},
        field(toy={"type": ["string", "null"]}),
        field(steps={"minimum": -1}),
        field(mood={"enum": ["good", "bad", "mixed"]}),
        field(place={"type": "string"}),
    ],
)
def test_lint_lets_a_version_widen(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert lint(write(tmp_path, contract(), contract(2, **changes))) == []
