"""The data dictionary: every event and field of the contracts, for people and for dbt's docs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ingestion.contract import Contract, Contracts

_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} long",
    "maxLength": "at most {} long",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "multipleOf": "a multiple of {}",
}


class Field(NamedTuple):
    """One field of a contract; in `path`, `items[].price` is the price of each of the items."""

    path: str
    schema: Mapping[str, Any]
    required: bool


def fields(schema: Mapping[str, Any], path: str = "") -> Iterator[Field]:
    """The fields of an object's schema, each before those inside it."""
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        if not isinstance(field, dict):
            continue
        here = f"{path}{name}"
        yield Field(here, field, name in required)
        yield from fields(field, f"{here}.")
        if isinstance(field.get("items"), dict):
            yield from fields(field["items"], f"{here}[].")


def markdown(contracts: Contracts) -> str:
    """The whole dictionary as one Markdown document."""
    newest = contracts.newest()
    lines = [
        "# Events",
        "",
        "Every event with a contract, from the files in `ingestion/contracts/`. Made by",
        "`signalbox contracts docs`; change the contract, not this text.",
        "",
        "| event | version | owner | sent when |",
        "| --- | --- | --- | --- |",
    ]
    for contract in newest:
        anchor = contract.event.lower().replace(" ", "-")
        said = _cell(contract.schema["description"].split(". ")[0].rstrip(".") + ".")
        owner = _cell(contract.schema["x-owner"])
        lines.append(f"| [{contract.event}](#{anchor}) | {contract.version} | {owner} | {said} |")
    for contract in newest:
        lines += ["", f"## {contract.event}", "", contract.schema["description"], ""]
        lines += [f"{_versions(contracts, contract)}, owner: {contract.schema['x-owner']}.", ""]
        lines += _table(contract)
        for example in contract.schema.get("examples", []):
            lines += ["", "```json", json.dumps(example, indent=2, ensure_ascii=False), "```"]
    return "\n".join(lines) + "\n"


def dbt_docs(contracts: Contracts) -> str:
    """The same for dbt's docs: a block for the table of events, and one for their properties."""
    events = [
        f"- **{c.event}** (version {c.version}, {c.schema['x-owner']}): {c.schema['description']}"
        for c in contracts.newest()
    ]
    properties: list[str] = []
    for contract in contracts.newest():
        properties += ["", f"**{contract.event}**", "", *_table(contract)]
    blocks = {
        "raw_events": [
            "One row per accepted message of the event log. A load that was killed can repeat",
            "rows.",
            "",
            "Events with a contract:",
            "",
            *events,
        ],
        "raw_events_payload": ["The whole message as JSON text. Its properties, by event:"]
        + properties,
    }
    return "\n".join(
        line
        for name, text in blocks.items()
        for line in (f"{{% docs {name} %}}", *text, "{% enddocs %}", "")
    )


def _versions(contracts: Contracts, contract: Contract) -> str:
    older = [str(c.version) for c in contracts.versions(contract.event)[1:]]
    also = f"; version{'s' if len(older) > 1 else ''} {', '.join(older)} taken too" if older else ""
    return f"Version {contract.version}{also}"


def _table(contract: Contract) -> list[str]:
    rows = [
        "| property | type | required | personal | description |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows += [
        f"| `{field.path}` | {_cell(_type(field.schema))} | {'yes' if field.required else ''} "
        f"| {'yes' if field.schema.get('x-pii') else ''} "
        f"| {_cell(field.schema.get('description', ''))} |"
        for field in fields(contract.schema)
    ]
    return rows if len(rows) > 2 else ["It has no properties of its own."]


def _type(schema: Mapping[str, Any]) -> str:
    declared = schema.get("type", "any")
    words = [declared if isinstance(declared, str) else " or ".join(declared)]
    if "enum" in schema:
        words = [" or ".join(f"`{json.dumps(v, ensure_ascii=False)}`" for v in schema["enum"])]
    if "const" in schema:
        words = [f"`{json.dumps(schema['const'], ensure_ascii=False)}`"]
    items = schema.get("items")
    if isinstance(items, dict):
        words = [f"array of {_type(items)}"]
    if "format" in schema:
        words.append(schema["format"])
    if "pattern" in schema:
        words.append(f"matches `{schema['pattern']}`")
    words += [
        text.format(schema[keyword]) for keyword, text in _LIMITS.items() if keyword in schema
    ]
    return ", ".join(words)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
