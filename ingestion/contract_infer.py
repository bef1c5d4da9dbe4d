"""Drafts a contract from events that were really sent.

A draft says what the events have in common and leaves to people what data cannot say: its
descriptions and its owner stand as TODO, which `lint` names. No value of a field that looks
personal gets into it, nor into its examples.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec

from ingestion.contract_check import TODO
from ingestion.masking import EMAIL, PHONE, is_personal

MESSAGES_MAX = 1_000_000
EXAMPLE_CHARACTERS = 200  # a longer text says nothing that a stand-in does not
# A closed set has few values, each of which was seen often; otherwise the next event brings a new
# one and ends in quarantine.
_ENUM_VALUES = 8
_ENUM_TIMES = 10
_DISTINCT_KEPT = 50
# What cannot be negative, by its name; other numbers get no bound. Money is never a whole number,
# whatever was seen.
_MONEY = re.compile(
    r"(^|_)(price|total|subtotal|amount|revenue|tax|shipping|discount|cost|fee|mrr|arr)(_|$)"
)
_COUNT = re.compile(
    r"(^|_)(count|quantity|qty|duration|seconds|minutes|days|size|length|seats|position|rank)(_|$)"
)
_CURRENCY = re.compile(r"[A-Z]{3}")


class InferError(Exception):
    """No contract can be drafted from what was given; the message says why."""


@dataclass
class _Seen:
    """What was seen of one field, or of the properties as a whole."""

    times: int = 0
    types: Counter[str] = field(default_factory=Counter)
    values: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    personal: bool = False
    least: float = float("inf")
    fields: dict[str, _Seen] = field(default_factory=dict)
    items: _Seen | None = None

    def add(self, value: Any) -> None:
        self.times += 1
        match value:
            case bool():
                self.types["boolean"] += 1
            case int():
                self._add_number("integer", value)
            case float():
                self._add_number("number", value)
            case str():
                self.types["string"] += 1
                self._add_text(value)
            case dict():
                self.types["object"] += 1
                for name, inner in value.items():
                    if inner is not None:
                        self.fields.setdefault(name, _Seen()).add(inner)
            case list():
                self.types["array"] += 1
                self.items = self.items or _Seen()
                for inner in value:
                    if inner is not None:
                        self.items.add(inner)

    def _add_number(self, kind: str, value: float) -> None:
        self.types[kind] += 1
        self.least = min(self.least, value)

    def _add_text(self, value: str) -> None:
        if EMAIL.search(value) or PHONE.search(value):
            self.personal = True
        self.formats[_format(value)] += 1
        if value in self.values or len(self.values) <= _DISTINCT_KEPT:
            self.values[value] += 1


def read_messages(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines, plain or gzip. Raises InferError."""
    opener: Any = gzip.open if path.read_bytes()[:2] == b"\x1f\x8b" else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for line in file:
                number += 1
                if line.strip():
                    value = msgspec.json.decode(line)
                    if not isinstance(value, dict):
                        raise InferError(f"{path.name}: line {number} is not a JSON object.")
                    yield value
    except (OSError, EOFError) as error:
        raise InferError(f"{path.name} cannot be read after line {number}: {error}.") from None
    except ValueError:
        raise InferError(
            f"{path.name}: line {number} is not JSON. Give one Segment message on each line."
        ) from None


def infer(
    messages: Iterable[Mapping[str, Any]], event: str | None = None
) -> dict[str, dict[str, Any]]:
    """Drafts by event name, from the properties of track messages; page calls are left out.

    Args:
        messages: Segment messages; at most MESSAGES_MAX are looked at.
        event: only this one; None: all there are.

    Raises:
        InferError: there was no such event.
    """
    seen: dict[str, _Seen] = {}
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for number, message in enumerate(messages):
        if number >= MESSAGES_MAX:
            break
        name = message.get("event")
        if message.get("type", "track") != "track" or not isinstance(name, str) or not name.strip():
            continue
        properties = message.get("properties") or {}
        if (event is not None and name != event) or not isinstance(properties, dict):
            continue
        seen.setdefault(name, _Seen()).add(properties)
        examples = kept.setdefault(name, [])
        if len(examples) < 20:
            examples.append(properties)
    if not seen:
        asked = f"no event {event!r}" if event else "no track event"
        raise InferError(f"There is {asked} among the messages.")
    return {name: _draft(name, root, kept[name]) for name, root in sorted(seen.items())}


def _draft(event: str, root: _Seen, kept: list[Mapping[str, Any]]) -> dict[str, Any]:
    schema = _object(root, personal=False)
    fullest = max(kept, key=lambda properties: len(msgspec.json.encode(properties)))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": event,
        "description": f"{TODO}: say when it is sent. Drafted from {_counted(root.times)}.",
        "x-owner": f"{TODO}: the team that answers for it",
        "x-version": 1,
        **schema,
        "examples": [_example(fullest, schema)],
    }


def _object(seen: _Seen, *, personal: bool) -> dict[str, Any]:
    times = seen.types["object"]
    required = [name for name, inner in seen.fields.items() if inner.times == times]
    return {
        "type": "object",
        **({"required": required} if required else {}),
        "properties": {
            name: {
                "description": f"{TODO}: say what {name} is.",
                **_shape(name, inner, personal=personal),
            }
            for name, inner in seen.fields.items()
        },
    }


def _shape(name: str, seen: _Seen, *, personal: bool) -> dict[str, Any]:
    types = sorted(seen.types)
    if "integer" in types and ("number" in types or _MONEY.search(_snake(name))):
        types = sorted({*types, "number"} - {"integer"})
    schema: dict[str, Any] = {}
    if types:
        schema["type"] = types[0] if len(types) == 1 else types
    personal = personal or seen.personal or is_personal(name)
    if personal:
        schema["x-pii"] = True
    if types == ["object"]:
        schema |= _object(seen, personal=personal)
    elif types == ["array"] and seen.items is not None and seen.items.types:
        schema["items"] = _shape(name, seen.items, personal=personal)
    elif types == ["string"]:
        formats = list(seen.formats)
        if len(formats) == 1 and formats[0]:
            schema["format"] = formats[0]
        elif _snake(name).endswith("currency") and all(map(_CURRENCY.fullmatch, seen.values)):
            schema["pattern"] = f"^{_CURRENCY.pattern}$"
        elif not personal and _is_closed(seen):
            schema["enum"] = sorted(seen.values)
    elif types in (["integer"], ["number"]) and seen.least >= 0 and _is_quantity(name):
        schema["minimum"] = 0
    return schema


def _is_closed(seen: _Seen) -> bool:
    few = 1 < len(seen.values) <= _ENUM_VALUES
    return few and all(times >= _ENUM_TIMES for times in seen.values.values())


def _is_quantity(name: str) -> bool:
    snake = _snake(name)
    return bool(_MONEY.search(snake) or _COUNT.search(snake))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _format(text: str) -> str:
    """The JSON Schema format of a text, or an empty string."""
    if EMAIL.fullmatch(text) and "@" in text:
        return "email"
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return "date" if _parses(date, text) else ""
    if re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text):
        return "date-time" if _parses(datetime, text.upper()) else ""
    if re.fullmatch(r"https?://[\w.~:/?#\[\]@!$&'()*+,;=%-]+", text):
        return "uri"
    if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        return "uuid"
    return ""


def _parses(kind: type[date], text: str) -> bool:
    try:
        kind.fromisoformat(text)
    except ValueError:
        return False
    return True


_STAND_INS: Mapping[str, str] = {
    "email": "person@example.com",
    "date": "2000-01-31",
    "date-time": "2000-01-31T12:00:00Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def _counted(events: int) -> str:
    return "1 event" if events == 1 else f"{events:,} events"


def _example(value: Any, schema: Mapping[str, Any], *, hidden: bool = False) -> Any:
    """The value, with a stand-in of the same shape for what is personal or could be."""
    hidden = hidden or bool(schema.get("x-pii"))
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        return {
            name: _example(inner, properties.get(name, {}), hidden=hidden)
            for name, inner in value.items()
            if inner is not None
        }
    if isinstance(value, list):
        items = schema.get("items", {})
        return [_example(v, items, hidden=hidden) for v in value[:3] if v is not None]
    if isinstance(value, str):
        # Several words may be a name or what somebody wrote.
        free = "enum" not in schema and len(value.split()) > 1
        if hidden or free or len(value) > EXAMPLE_CHARACTERS:
            return _STAND_INS.get(schema.get("format", ""), "***")
        return value
    return 0 if hidden and not isinstance(value, bool) else value
