"""Whether a new version of a contract still accepts what the version before it accepted.

Deciding that for any two JSON Schemas is hard; this compares, keyword by keyword, what event
contracts are made of. The examples of the older version, which `lint` also tries, catch the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_LOWER_IS_WIDER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_HIGHER_IS_WIDER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SAME_OR_GONE = ("const", "format", "pattern", "multipleOf", "uniqueItems")
# Judging these would take a solver: any change of them counts as one that may refuse more.
_NOT_COMPARED = (
    "$ref", "$defs", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "contains",
    "prefixItems", "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_ALL_TYPES = {"string", "number", "integer", "boolean", "object", "array", "null"}


def narrowings(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str = "properties"
) -> Iterator[str]:
    """Sentences on how `new` refuses what `old` accepts; none if it does not."""
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{path}.{name} is now required"
    lost = _types(old) - _types(new)
    if lost:
        yield f"{path} is no longer {' or '.join(sorted(lost))}"
    yield from _tighter_limits(old, new, path)
    yield from _tighter_values(old, new, path)
    for keyword in _NOT_COMPARED:
        if keyword in new and new[keyword] != old.get(keyword):
            yield f"{path} has another {keyword}, which cannot be compared"
    others = new.get("additionalProperties", True)
    if others is not True and old.get("additionalProperties", True) != others:
        said = "no longer takes other fields" if others is False else "takes fewer other fields"
        yield f"{path} {said}"
    for name, field in old.get("properties", {}).items():
        other = new.get("properties", {}).get(name)
        if isinstance(field, dict) and isinstance(other, dict):
            yield from narrowings(field, other, f"{path}.{name}")
    items, other_items = old.get("items"), new.get("items")
    if isinstance(other_items, dict):
        yield from narrowings(items if isinstance(items, dict) else {}, other_items, f"{path}[]")


def _tighter_limits(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[str]:
    for keyword in _LOWER_IS_WIDER:
        if keyword in new and (keyword not in old or new[keyword] > old[keyword]):
            yield f"{path} has a higher {keyword}"
    for keyword in _HIGHER_IS_WIDER:
        if keyword in new and (keyword not in old or new[keyword] < old[keyword]):
            yield f"{path} has a lower {keyword}"


def _tighter_values(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[str]:
    for keyword in _SAME_OR_GONE:
        if new.get(keyword) and new[keyword] != old.get(keyword):
            yield f"{path} has another {keyword}"
    if "enum" in new:
        if "enum" not in old:
            yield f"{path} takes only listed values now"
        gone = [value for value in old.get("enum", ()) if value not in new["enum"]]
        if gone:
            yield f"{path} no longer takes {', '.join(map(str, gone))}"


def _types(schema: Mapping[str, Any]) -> set[str]:
    declared = schema.get("type")
    if declared is None:
        return _ALL_TYPES
    types = {declared} if isinstance(declared, str) else set(declared)
    return types | {"integer"} if "number" in types else types
