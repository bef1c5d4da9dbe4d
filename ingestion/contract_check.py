"""What is wrong with a directory of contracts, and which of them are released.

A contract is released when producers may rely on it. `released.lock` beside the contracts names
each released file with a checksum of what it accepts; it is committed with them. A released
contract cannot change what it accepts: that takes a new version, which must accept what the newest
released version before it accepts, since producers are never all upgraded at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ingestion.contract import CONTRACTS, Contract, ContractError, read_contract
from ingestion.contract_compat import narrowings
from ingestion.contract_words import explain

LOCK = "released.lock"
TODO = "TODO"  # what a draft says where a person must say more
# Keywords whose values are schemas, or hold schemas by name or in a list (JSON Schema 2020-12).
_NAMED = {"properties", "patternProperties", "dependentSchemas", "$defs"}
_LISTED = {"allOf", "anyOf", "oneOf", "prefixItems"}
_SINGLE = {
    "items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
# What is said about the data without changing what is accepted.
_ANNOTATIONS = {
    "$schema", "$comment", "description", "examples", "default", "deprecated", "readOnly",
    "writeOnly",
}  # fmt: skip


class Problem(NamedTuple):
    """Something `lint` found: the file's name and a sentence about it."""

    file: str
    message: str


def lint(directory: Path = CONTRACTS) -> list[Problem]:
    """Everything that is wrong with the contracts in `directory`; empty if all is well."""
    problems: list[Problem] = []
    contracts: list[Contract] = []
    try:
        released = read_lock(directory)
    except ContractError as error:
        released = {}
        problems.append(Problem(LOCK, str(error).removeprefix(f"{LOCK}: ")))
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.name == LOCK:
            continue
        try:
            contract = read_contract(path)
        except ContractError as error:
            problems.append(Problem(path.name, str(error).removeprefix(f"{path.name}: ")))
            continue
        contracts.append(contract)
        problems += [Problem(path.name, message) for message in _lint_one(contract)]
    problems += _lint_released(contracts, released, directory)
    for contract in contracts:
        before = _predecessor(contract, contracts, released)
        if before is not None and contract.file not in released:
            problems += [Problem(contract.file, m) for m in _lint_change(before, contract)]
    return problems


def release(directory: Path = CONTRACTS) -> list[str]:
    """Add every contract that is not released yet to the lock; returns their file names.

    Raises:
        ContractError: something is wrong with the contracts; nothing is released.
    """
    problems = lint(directory)
    if problems:
        first = problems[0]
        raise ContractError(
            f"{first.file}: {first.message}. Nothing was released; "
            "signalbox contracts check shows all that is wrong."
        )
    released = read_lock(directory)
    contracts = [read_contract(path) for path in sorted(directory.glob("*.json"))]
    new = [contract.file for contract in contracts if contract.file not in released]
    if new:
        sums = released | {contract.file: checksum(contract.schema) for contract in contracts}
        lock = msgspec.json.encode(dict(sorted(sums.items())))
        (directory / LOCK).write_bytes(msgspec.json.format(lock, indent=2) + b"\n")
    return new


def read_lock(directory: Path) -> dict[str, str]:
    """Checksums of the released contracts by file name. Raises ContractError."""
    path = directory / LOCK
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ContractError(
            f"{LOCK}: not readable: {error}. Restore it from version control"
        ) from None


def checksum(schema: Mapping[str, Any]) -> str:
    """SHA-256 of what a contract accepts: its schema without descriptions, examples and `x-*`.

    Prose may be improved after a release, and so may owners and marks of personal data.
    """
    return hashlib.sha256(msgspec.json.encode(_assertions(schema), order="sorted")).hexdigest()


def _assertions(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema  # true and false are schemas too
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, dict):
            kept[keyword] = {name: _assertions(field) for name, field in value.items()}
        elif keyword in _LISTED and isinstance(value, list):
            kept[keyword] = [_assertions(field) for field in value]
        elif keyword in _SINGLE:
            kept[keyword] = _assertions(value)
        elif keyword not in _ANNOTATIONS and not keyword.startswith("x-"):
            kept[keyword] = value
    return kept


def _lint_released(
    contracts: list[Contract], released: Mapping[str, str], directory: Path
) -> Iterator[Problem]:
    for contract in contracts:
        if contract.file in released and checksum(contract.schema) != released[contract.file]:
            versions = [c.version for c in contracts if c.event == contract.event]
            yield Problem(
                contract.file,
                "is released and must not change what it accepts: undo the change and make it in "
                f"version {max(versions) + 1}",
            )
    for file in released:
        if not (directory / file).exists():
            yield Problem(
                file,
                "is released but gone: restore it, or delete its line in "
                f"{LOCK} once no producer sends it any more",
            )


def _predecessor(
    contract: Contract, contracts: list[Contract], released: Mapping[str, str]
) -> Contract | None:
    """The newest released version before one or, where none is, the one before it."""
    lower = [c for c in contracts if c.event == contract.event and c.version < contract.version]
    return max(lower, key=lambda c: (c.file in released, c.version), default=None)


def _lint_one(contract: Contract) -> list[str]:
    schema = contract.schema
    messages = [
        f"{key} is missing: {why}"
        for key, why in (
            ("description", "say when the event is sent"),
            ("x-owner", "name the team that answers for it"),
        )
        if _unsaid(schema.get(key))
    ]
    if schema.get("type") != "object":
        messages.append('type must be "object"')
    messages += _lint_fields(schema, "properties")
    examples = schema.get("examples")
    if not isinstance(examples, list) or not examples:
        return [*messages, "examples is missing: give at least one"]
    for number, example in enumerate(examples, 1):
        if not contract.accepts(example):
            _, detail = explain(contract.validator.iter_errors(example))
            messages.append(f"example {number} is not valid: {detail}")
    return messages


def _lint_fields(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        if not isinstance(field, dict) or _unsaid(field.get("description")):
            yield f"{here} has no description"
        if not isinstance(field, dict):
            continue
        if not isinstance(field.get("x-pii", False), bool):
            yield f"{here}: x-pii must be true or false"
        yield from _lint_fields(field, here)
        if isinstance(field.get("items"), dict):
            yield from _lint_fields(field["items"], f"{here}[]")


def _unsaid(text: Any) -> bool:
    return not str(text or "").strip() or str(text).startswith(TODO)


def _lint_change(old: Contract, new: Contract) -> list[str]:
    messages = [
        f"refuses what version {old.version} accepts: {change}"
        for change in narrowings(old.schema, new.schema)
    ]
    for number, example in enumerate(old.schema.get("examples", []), 1):
        if not new.accepts(example):
            _, detail = explain(new.validator.iter_errors(example))
            messages.append(f"refuses example {number} of version {old.version}: {detail}")
    return messages
