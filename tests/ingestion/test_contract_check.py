"""Releases: what is promised to producers cannot change under them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_contract import contract, field, write

from ingestion.contract import CONTRACTS, ContractError
from ingestion.contract_check import LOCK, checksum, lint, release

FILE = "toy_moved.v1.json"


def messages(directory: Path) -> list[str]:
    return [f"{problem.file}: {problem.message}" for problem in lint(directory)]


@pytest.fixture
def released(tmp_path: Path) -> Path:
    assert release(write(tmp_path, contract())) == [FILE]
    assert release(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(
    "changes",
    [
        {"required": []},
        field(steps={"minimum": -1}),
        field(place={"type": "string"}),
        {"additionalProperties": {"type": "string", "description": "d"}},
    ],
)
def test_what_a_released_contract_accepts_cannot_change(
    released: Path, changes: dict[str, Any]
) -> None:
    (released / FILE).write_text(json.dumps(contract(**changes)))
    (said,) = messages(released)
    assert said.startswith(f"{FILE}: is released") and "make it in version 2" in said
    with pytest.raises(ContractError, match="Nothing was released"):
        release(released)


def test_prose_owners_and_marks_may_be_improved(released: Path) -> None:
    schema = contract(description="Said better.", **{"x-owner": "garden"})
    schema["properties"]["toy"] |= {"description": "Its own name.", "x-pii": True}
    schema["examples"].append({"toy": "duck"})
    (released / FILE).write_text(json.dumps(schema, indent=7))
    assert messages(released) == []


def test_a_property_may_be_called_like_a_keyword(released: Path) -> None:
    described = contract(2, properties={"description": {"type": "string", "description": "d"}})
    other = contract(2, properties={"description": {"type": "number", "description": "d"}})
    assert checksum(described) != checksum(other)


def test_a_released_contract_cannot_vanish(released: Path) -> None:
    (released / FILE).unlink()
    (said,) = messages(released)
    assert said.startswith(f"{FILE}: is released but gone") and LOCK in said
    (released / LOCK).write_text("{}")
    assert messages(released) == []


def test_a_new_version_is_compared_with_the_last_released_one(released: Path) -> None:
    # Version 2 is a draft that asks for more; version 3 takes that back.
    write(released, contract(2, required=["toy", "steps"]), contract(3))
    (said,) = messages(released)
    assert (
        said
        == "toy_moved.v2.json: refuses what version 1 accepts: properties.steps is now required"
    )
    write(released, contract(2))
    assert sorted(release(released)) == ["toy_moved.v2.json", "toy_moved.v3.json"]
    write(released, contract(4, **field(mood={"enum": ["good"]})))
    assert "refuses what version 3 accepts: properties.mood no longer takes bad" in str(
        messages(released)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"anyOf": [{"required": ["toy"]}, {"required": ["steps"]}]},
        {"additionalProperties": {"type": "string"}},
        field(toy={"not": {"const": "car"}}),
    ],
)
def test_what_cannot_be_compared_counts_as_a_break(released: Path, changes: dict[str, Any]) -> None:
    write(released, contract(2, **changes))
    assert "refuses what version 1 accepts" in str(messages(released))


def test_a_damaged_lock_is_named(released: Path) -> None:
    (released / LOCK).write_text("{")
    assert messages(released)[0].startswith(f"{LOCK}: not readable")


def test_drafts_and_fields_inside_fields_must_be_said(tmp_path: Path) -> None:
    schema = contract(**field(toy={"description": "TODO: say what it is."}))
    inner = {"type": "object", "properties": {"x": {"type": "number"}}}
    schema["properties"]["path"] = {"description": "d", "type": "array", "items": inner}
    said = messages(write(tmp_path, schema))
    assert said == [
        f"{FILE}: properties.toy has no description",
        f"{FILE}: properties.path[].x has no description",
    ]


def test_the_shipped_contracts_can_be_released(tmp_path: Path) -> None:
    copy = tmp_path / "contracts"
    shutil.copytree(CONTRACTS, copy)
    (copy / LOCK).unlink(missing_ok=True)
    assert len(release(copy)) == len(list(CONTRACTS.glob("*.json")))
    assert lint(copy) == []
