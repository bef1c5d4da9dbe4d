"""Event contracts: one JSON Schema file per event and version, checked at the edge.

``purchase_completed.v1.json`` is the contract of the event in its title, "Purchase Completed", and
speaks of the message's ``properties``. A message is checked against the newest version first; an
older version may still accept what an older producer sends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
import msgspec

from ingestion.contract_compat import narrowings
from ingestion.contract_words import explain

CONTRACTS = Path(__file__).parent / "contracts"
PAGE_EVENT = "Page Viewed"
_FILE_NAME = re.compile(r"([a-z0-9_]+)\.v([1-9][0-9]*)\.json")


class ContractError(Exception):
    """A contract file cannot be used; the text names the file and what is wrong with it."""


class Verdict(NamedTuple):
    """`version` that accepted the message, or `reason` (a code) and `detail` (plain words).

    All three are None for messages that no contract speaks of, such as identify.
    """

    version: int | None = None
    reason: str | None = None
    detail: str | None = None


class Problem(NamedTuple):
    """Something `lint` found: the file's name and a sentence about it."""

    file: str
    message: str


@dataclass(frozen=True, slots=True)
class Contract:
    """One version of one event's contract, with its compiled validator."""

    event: str
    version: int
    file: str
    schema: Mapping[str, Any]
    validator: Any

    def accepts(self, properties: Mapping[str, Any]) -> bool:
        """Whether `properties` are valid; a field sent as null counts as not sent."""
        valid: bool = self.validator.is_valid(properties)
        return valid or self.validator.is_valid(_without_nulls(properties))


class Contracts:
    """All contracts of a directory, by event, newest version first."""

    def __init__(self, contracts: list[Contract]) -> None:
        self.all = sorted(contracts, key=lambda c: (c.event, -c.version))
        self._by_event: dict[str, list[Contract]] = {}
        for contract in self.all:
            self._by_event.setdefault(contract.event, []).append(contract)
        # A page call names its page in ways of its own, so nothing is required of it.
        self._page = [
            _compile(c.file, {k: v for k, v in c.schema.items() if k != "required"})
            for c in self._by_event.get(PAGE_EVENT, [])
        ]

    @classmethod
    def load(cls, directory: Path = CONTRACTS) -> Contracts:
        """Read and compile every contract in `directory`. Raises ContractError."""
        if not directory.is_dir():
            raise ContractError(f"{directory} is not a directory of contracts.")
        return cls([_compile(p.name, _read(p)) for p in sorted(directory.glob("*.json"))])

    def check(self, type: str, event: str | None, properties: Mapping[str, Any] | None) -> Verdict:
        """Judge the properties of a message of a Segment type (track, page, identify ...).

        Reasons: unknown_event, missing_field, wrong_type, bad_value.
        """
        if type == "page":
            versions = self._page
            if not versions:
                return Verdict()
        elif type == "track" and event is not None:
            known = self._by_event.get(event)
            if known is None:
                return Verdict(None, "unknown_event", f"there is no contract for {event!r}")
            versions = known
        else:
            return Verdict()
        sent = properties or {}
        for contract in versions:
            if contract.accepts(sent):
                return Verdict(contract.version)
        errors = versions[0].validator.iter_errors(_without_nulls(sent))
        return Verdict(None, *explain(errors))


def lint(directory: Path = CONTRACTS) -> list[Problem]:
    """Everything that is wrong with the contracts in `directory`; empty if all is well.

    A version that refuses what the version before it accepts is a problem too: producers are
    never all upgraded at once.
    """
    problems: list[Problem] = []
    contracts: list[Contract] = []
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            contract = _compile(path.name, _read(path))
        except ContractError as error:
            problems.append(Problem(path.name, str(error).removeprefix(f"{path.name}: ")))
            continue
        contracts.append(contract)
        problems += [Problem(path.name, message) for message in _lint_one(contract)]
    newest: dict[str, Contract] = {}
    for contract in sorted(contracts, key=lambda c: c.version):
        before = newest.get(contract.event)
        if before is not None:
            problems += [Problem(contract.file, m) for m in _lint_change(before, contract)]
        newest[contract.event] = contract
    return problems


def _lint_one(contract: Contract) -> list[str]:
    schema = contract.schema
    messages = [
        f"{key} is missing: {why}"
        for key, why in (
            ("description", "say when the event is sent"),
            ("x-owner", "name the team that answers for it"),
        )
        if not str(schema.get(key) or "").strip()
    ]
    if schema.get("type") != "object":
        messages.append('type must be "object"')
    for name, field in schema.get("properties", {}).items():
        if not isinstance(field, dict) or not field.get("description"):
            messages.append(f"properties.{name} has no description")
        elif not isinstance(field.get("x-pii", False), bool):
            messages.append(f"properties.{name}: x-pii must be true or false")
    examples = schema.get("examples")
    if not isinstance(examples, list) or not examples:
        return [*messages, "examples is missing: give at least one"]
    for number, example in enumerate(examples, 1):
        if not contract.accepts(example):
            _, detail = explain(contract.validator.iter_errors(example))
            messages.append(f"example {number} is not valid: {detail}")
    return messages


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


def _read(path: Path) -> dict[str, Any]:
    try:
        schema = msgspec.json.decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ContractError(f"{path.name}: not readable as JSON: {error}") from error
    if not isinstance(schema, dict):
        raise ContractError(f"{path.name}: a contract must be a JSON object")
    name = _FILE_NAME.fullmatch(path.name)
    title, version = schema.get("title"), schema.get("x-version")
    if not isinstance(title, str) or not title.strip():
        raise ContractError(f"{path.name}: title is missing: give the exact name of the event")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ContractError(f"{path.name}: x-version must be a whole number from 1 on")
    expected = f"{_slug(title)}.v{version}.json"
    if name is None or path.name != expected:
        raise ContractError(f"{path.name}: title and x-version ask for the file name {expected}")
    return schema


def _compile(file: str, schema: dict[str, Any]) -> Contract:
    try:
        validator = jsonschema_rs.validator_for(
            schema, validate_formats=True, retriever=_refuse_to_fetch
        )
    except ValueError as error:
        summary = str(error).partition("\n")[0]
        raise ContractError(f"{file}: not a valid JSON Schema: {summary}") from error
    return Contract(schema["title"], schema["x-version"], file, schema, validator)


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"a contract must be complete in itself, but refers to {uri}")


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value
