"""Writes typed functions for producers, one for each event, from the newest contracts.

They sit on Segment's own SDKs and add nothing at run time but the event's name and the version of
its contract, at `context.protocols.event_version`. What a contract says beyond types (limits,
patterns, formats) is left to the collector.
"""

from __future__ import annotations

import json
import keyword
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

from ingestion.contract import Contract, Contracts, slug

Language = Literal["python", "typescript"]
LANGUAGES: tuple[str, ...] = get_args(Language)

_PYTHON_TYPES = {
    "string": "str",
    "number": "float",
    "integer": "int",
    "boolean": "bool",
    "null": "None",
}
_TYPESCRIPT_TYPES = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
}
_TYPE_ORDER = ("string", "number", "integer", "boolean", "object", "array", "null")
_RESERVED = {"client", "user_id", "anonymous_id", "timestamp", "context", "message_id", "event"}


class _Property(NamedTuple):
    name: str
    type: str
    required: bool
    description: str


class _Structure(NamedTuple):
    """A named type of an object with known fields."""

    name: str
    properties: list[_Property]


def generate(contracts: Contracts, language: Language) -> str:
    """The source of one module with everything in it."""
    return {"python": _python, "typescript": _typescript}[language](contracts.newest())


def _collect(
    contract: Contract, type_of: Callable[[Mapping[str, Any], str, list[_Structure]], str]
) -> tuple[list[_Property], list[_Structure]]:
    """The event's properties, and the structures they need, each after those it needs itself."""
    structures: list[_Structure] = []
    name = "".join(part.capitalize() for part in slug(contract.event).split("_"))
    return _properties(contract.schema, name, structures, type_of), structures


def _properties(
    schema: Mapping[str, Any],
    name: str,
    structures: list[_Structure],
    type_of: Callable[[Mapping[str, Any], str, list[_Structure]], str],
) -> list[_Property]:
    required = set(schema.get("required", ()))
    found = []
    for field, inner in schema.get("properties", {}).items():
        inner = inner if isinstance(inner, dict) else {}
        inner_name = name + "".join(part.capitalize() for part in slug(field).split("_"))
        type_ = type_of(inner, inner_name, structures)
        found.append(_Property(field, type_, field in required, inner.get("description", "")))
    return sorted(found, key=lambda p: not p.required)


def _types(schema: Mapping[str, Any]) -> list[str]:
    declared = schema.get("type", [])
    types = {declared} if isinstance(declared, str) else set(declared)
    return [type_ for type_ in _TYPE_ORDER if type_ in types]


def _values(schema: Mapping[str, Any]) -> list[Any]:
    """The only values there are, if they are listed and each can be written as a literal."""
    values = [schema["const"]] if "const" in schema else schema.get("enum", [])
    plain = all(isinstance(v, str | int) or v is None for v in values)
    return list(values) if plain else []


# Python


def _python(contracts: list[Contract]) -> str:
    blocks: list[str] = []
    functions: list[str] = []
    for contract in contracts:
        properties, structures = _collect(contract, _python_type)
        blocks += [_typed_dict(structure) for structure in structures]
        functions.append(_python_function(contract, properties))
    return "\n\n\n".join([_PYTHON_HEAD.strip(), *blocks, *functions]) + "\n"


_PYTHON_HEAD = '''
"""Typed functions for the events of the contracts. Made by `signalbox contracts codegen`.

    from segment.analytics.client import Client

    track_logged_in(Client("write key", host="http://127.0.0.1:8080"), "u_42", method="password")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NotRequired, Protocol, TypedDict


class SegmentClient(Protocol):
    """What is used of segment-analytics-python's client."""

    def track(
        self,
        user_id: Any = None,
        event: Any = None,
        properties: Any = None,
        context: Any = None,
        timestamp: Any = None,
        anonymous_id: Any = None,
        integrations: Any = None,
        message_id: Any = None,
    ) -> Any:
        """Queue a track call."""


def _track(
    client: SegmentClient,
    event: str,
    version: int,
    properties: Mapping[str, object],
    user_id: str | None,
    anonymous_id: str | None,
    timestamp: datetime | None,
    context: Mapping[str, object] | None,
    message_id: str | None,
) -> None:
    client.track(
        user_id,
        event,
        {name: value for name, value in properties.items() if value is not None},
        {**(context or {}), "protocols": {"event_version": version}},
        timestamp,
        anonymous_id,
        message_id=message_id,
    )
'''


def _python_type(schema: Mapping[str, Any], name: str, structures: list[_Structure]) -> str:
    values = _values(schema)
    if values:
        return f"Literal[{', '.join(map(repr, values))}]"
    return " | ".join(_python_types(schema, name, structures)) or "Any"


def _python_types(
    schema: Mapping[str, Any], name: str, structures: list[_Structure]
) -> Iterator[str]:
    for type_ in _types(schema):
        if type_ == "array":
            items = schema.get("items")
            inner = _python_type(items if isinstance(items, dict) else {}, name, structures)
            yield f"Sequence[{inner}]"
        elif type_ == "object" and schema.get("properties"):
            structures.append(_Structure(name, _properties(schema, name, structures, _python_type)))
            yield name
        elif type_ == "object":
            yield "Mapping[str, Any]"
        elif type_ == "string" and schema.get("format") in ("date-time", "date"):
            yield "str | datetime" if schema["format"] == "date-time" else "str"
        else:
            yield _PYTHON_TYPES[type_]


def _typed_dict(structure: _Structure) -> str:
    types = {
        p.name: p.type if p.required else f"NotRequired[{p.type}]" for p in structure.properties
    }
    if all(name.isidentifier() and not keyword.iskeyword(name) for name in types):
        lines = [f"    {name}: {type_}" for name, type_ in types.items()]
        return "\n".join([f"class {structure.name}(TypedDict):", *lines])
    # The functional form takes names that Python cannot spell; its types are evaluated at once.
    lines = [f"        {json.dumps(name)}: {type_!r}," for name, type_ in types.items()]
    head = f"{structure.name} = TypedDict(\n    {structure.name!r},\n    {{"
    return "\n".join([head, *lines, "    },\n)"])


def _python_function(contract: Contract, properties: list[_Property]) -> str:
    arguments = {property: _argument(property.name) for property in properties}
    lines = [
        f"def track_{slug(contract.event)}(",
        "    client: SegmentClient,",
        "    user_id: str | None = None,",
        "    *,",
    ]
    for property, argument in arguments.items():
        optional = "" if property.required else " | None = None"
        lines.append(f"    {argument}: {property.type}{optional},")
    lines += [
        "    anonymous_id: str | None = None,",
        "    timestamp: datetime | None = None,",
        "    context: Mapping[str, object] | None = None,",
        "    message_id: str | None = None,",
        ") -> None:",
    ]
    text = [contract.schema["description"], ""]
    if arguments:
        text.append("Args:")
        text += [f"    {argument}: {p.description}" for p, argument in arguments.items()]
    lines += _docstring(text)
    lines += [
        "    _track(",
        "        client,",
        f"        {json.dumps(contract.event, ensure_ascii=False)},",
        f"        {contract.version},",
        "        {",
        *(
            f"            {json.dumps(p.name, ensure_ascii=False)}: {argument},"
            for p, argument in arguments.items()
        ),
        "        },",
        *(
            f"        {name},"
            for name in ("user_id", "anonymous_id", "timestamp", "context", "message_id")
        ),
        "    )",
    ]
    return "\n".join(lines)


def _argument(name: str) -> str:
    argument = re.sub(r"\W", "_", name)
    if not argument or argument[0].isdigit():
        argument = f"_{argument}"
    if argument in _RESERVED or keyword.iskeyword(argument):
        argument += "_"
    return argument


def _docstring(text: list[str]) -> list[str]:
    lines: list[str] = []
    for paragraph in text:
        indent = "    " + " " * (len(paragraph) - len(paragraph.lstrip()))
        wrapped = textwrap.wrap(
            paragraph.strip(), 96, initial_indent=indent, subsequent_indent=indent + "    "
            if paragraph.startswith(" ") else indent,
        )  # fmt: skip
        lines += wrapped or [""]
    while not lines[-1]:
        lines.pop()
    quoted = [line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') for line in lines]
    return ['    """' + quoted[0].strip(), *quoted[1:], '    """']


# TypeScript


def _typescript(contracts: list[Contract]) -> str:
    blocks: list[str] = []
    for contract in contracts:
        properties, structures = _collect(contract, _typescript_type)
        name = "".join(part.capitalize() for part in slug(contract.event).split("_"))
        blocks += [_interface(structure) for structure in structures]
        blocks.append(_interface(_Structure(f"{name}Properties", properties)))
        blocks.append(_typescript_function(contract, name))
    return "\n\n".join([_TYPESCRIPT_HEAD.strip(), *blocks]) + "\n"


_TYPESCRIPT_HEAD = """
/**
 * Typed functions for the events of the contracts. Made by `signalbox contracts codegen`.
 *
 *     trackLoggedIn(browser(analytics), { method: "password" });
 *     trackLoggedIn(server(analytics, { userId: "u_42" }), { method: "password" });
 */

export interface Options {
  timestamp?: Date | string;
  context?: Record<string, unknown>;
}

/** Where events go: `browser(…)` or `server(…)`. */
export type Tracker = (
  event: string,
  version: number,
  properties: object,
  options: Options,
) => unknown;

export type Identity =
  | { userId: string; anonymousId?: string }
  | { userId?: string; anonymousId: string };

/** Events of the visitor, through @segment/analytics-next. */
export function browser(analytics: {
  track(event: string, properties: Record<string, unknown>, options: object): unknown;
}): Tracker {
  return (event, version, properties, options) =>
    analytics.track(event, { ...properties }, withVersion(version, options));
}

/** Events of one customer, through @segment/analytics-node. */
export function server(
  analytics: {
    track(message: Identity & {
      event: string;
      properties: Record<string, unknown>;
      timestamp?: Date | string;
      context?: Record<string, unknown>;
    }): unknown;
  },
  identity: Identity,
): Tracker {
  return (event, version, properties, options) =>
    analytics.track({
      ...identity,
      event,
      properties: { ...properties },
      ...withVersion(version, options),
    });
}

function withVersion(version: number, options: Options): Options {
  return { ...options, context: { ...options.context, protocols: { event_version: version } } };
}
"""


def _typescript_type(schema: Mapping[str, Any], name: str, structures: list[_Structure]) -> str:
    values = _values(schema)
    if values:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in values)
    types = dict.fromkeys(_typescript_types(schema, name, structures))
    return " | ".join(types) or "unknown"


def _typescript_types(
    schema: Mapping[str, Any], name: str, structures: list[_Structure]
) -> Iterator[str]:
    for type_ in _types(schema):
        if type_ == "array":
            items = schema.get("items")
            inner = _typescript_type(items if isinstance(items, dict) else {}, name, structures)
            yield f"Array<{inner}>"
        elif type_ == "object" and schema.get("properties"):
            structures.append(
                _Structure(name, _properties(schema, name, structures, _typescript_type))
            )
            yield name
        elif type_ == "object":
            yield "Record<string, unknown>"
        else:
            yield _TYPESCRIPT_TYPES[type_]
            if schema.get("format") == "date-time" and type_ == "string":
                yield "Date"


def _interface(structure: _Structure) -> str:
    lines = [f"export interface {structure.name} {{"]
    for p in structure.properties:
        name = p.name if re.fullmatch(r"[A-Za-z_$][\w$]*", p.name, re.A) else json.dumps(p.name)
        if p.description:
            lines.append(f"  /** {_comment(p.description)} */")
        lines.append(f"  {name}{'' if p.required else '?'}: {p.type};")
    return "\n".join([*lines, "}"])


def _typescript_function(contract: Contract, name: str) -> str:
    event = json.dumps(contract.event, ensure_ascii=False)
    return "\n".join(
        [
            f"/** {_comment(contract.schema['description'])} */",
            f"export function track{name}(",
            "  tracker: Tracker,",
            f"  properties: {name}Properties,",
            "  options: Options = {},",
            "): unknown {",
            f"  return tracker({event}, {contract.version}, properties, options);",
            "}",
        ]
    )


def _comment(text: str) -> str:
    return " ".join(text.split()).replace("*/", "*\\/")
