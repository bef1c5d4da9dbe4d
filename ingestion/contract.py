"""Event contracts: one JSON Schema file per event and version, checked at the edge.

``purchase_completed.v1.json`` is the contract of the event in its title, "Purchase Completed", and
speaks of the message's ``properties``. A message that declares a version, in Segment's
``context.protocols.event_version``, is checked against that one. Others are checked against the
newest version first; an older one may still accept what an older producer sends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import jsonschema_rs
import msgspec

from ingestion.contract_words import explain

CONTRACTS = Path(__file__).parent / "contracts"
PAGE_EVENT = "Page Viewed"
_FILE_NAME = re.compile(r"([a-z0-9_]+)\.v([1-9][0-9]*)\.json")


class ContractError(Exception):
    """A contract file cannot be used; the text names the file and what is wrong with it."""


class Verdict(NamedTuple):
    """`version` that the message was checked against; `reason` (a code) and `detail` (plain words)
    if it does not fit.

    All three are None for messages that no contract speaks of, such as identify.
    """

    version: int | None = None
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """One version of one event's contract, with its compiled validator."""

    event: str
    version: int
    file: str
    schema: Mapping[str, Any]
    validator: Any
    #: Of all that it accepts; made once, as making it takes a twentieth of a message's whole way.
    fits: Verdict

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
        return cls([read_contract(path) for path in sorted(directory.glob("*.json"))])

    def check(
        self,
        type: str,
        event: str | None,
        properties: Mapping[str, Any] | None,
        declared: Any = None,
    ) -> Verdict:
        """Judge the properties of a message of a Segment type (track, page, identify ...).

        Args:
            type: which call it is.
            event: name of a track call's event.
            properties: what the contract speaks of.
            declared: the version that the message says it follows; None: the newest that fits.

        Returns:
            Reasons: unknown_event, unknown_version, missing_field, wrong_type, bad_value.
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
        if declared is not None:
            versions = [c for c in versions if _is_version(declared) and c.version == declared]
            if not versions:
                return Verdict(
                    None, "unknown_version", self._no_such_version(type, event, declared)
                )
        sent = properties or {}
        for contract in versions:
            if contract.accepts(sent):
                return contract.fits
        errors = versions[0].validator.iter_errors(_without_nulls(sent))
        return Verdict(versions[0].version, *explain(errors))

    def versions(self, event: str) -> list[Contract]:
        """The versions of an event's contract, newest first; empty if it has none."""
        return self._by_event.get(event, [])

    def newest(self) -> list[Contract]:
        """The newest version of every event's contract, by event."""
        return [versions[0] for _, versions in sorted(self._by_event.items())]

    def _no_such_version(self, type: str, event: str | None, declared: Any) -> str:
        if not _is_version(declared):
            return "context.protocols.event_version must be a whole number from 1 on"
        name = PAGE_EVENT if type == "page" else event or ""
        known = ", ".join(str(c.version) for c in reversed(self.versions(name)))
        return f"there is no version {declared} of the contract for {name!r}; there is {known}"


def read_contract(path: Path) -> Contract:
    """One contract, compiled. Raises ContractError."""
    return _compile(path.name, _read(path))


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
    if not _is_version(version):
        raise ContractError(f"{path.name}: x-version must be a whole number from 1 on")
    expected = file_name(title, version)
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
    version = schema["x-version"]
    return Contract(schema["title"], version, file, schema, validator, Verdict(version))


def _is_version(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"a contract must be complete in itself, but refers to {uri}")


def slug(title: str) -> str:
    """An event's name as it stands in file and function names."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def file_name(title: str, version: int) -> str:
    """The file that holds a version of an event's contract."""
    return f"{slug(title)}.v{version}.json"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value
