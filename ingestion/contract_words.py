"""What a contract found wrong, in plain words that name the field and never show its value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

_SHOWN = 3
_NOUNS = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_FORMATS = {
    "date-time": "a date and time such as 2026-01-31T09:30:00Z",
    "date": "a date such as 2026-01-31",
    "email": "an email address",
    "uri": "a web address",
}
_REASONS = {"required": "missing_field", "type": "wrong_type"}


def explain(errors: Iterable[Any]) -> tuple[str, str]:
    """Turn jsonschema_rs errors into (reason, detail), reason by the first of them.

    Shows at most three, so that a message of 10,000 bad items still gets one readable line.
    """
    first = list(islice(errors, _SHOWN + 1))
    if not first:
        return "bad_value", "properties do not satisfy the contract"
    words = [_sentence(error) for error in first[:_SHOWN]]
    if len(first) > _SHOWN:
        words.append("and more")
    return _REASONS.get(first[0].kind.name, "bad_value"), "; ".join(words)


def noun(value: Any) -> str:
    """The JSON type of a Python value, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for kind, name in ((str, "text"), ((int, float), "a number"), (dict, "an object")):
        if isinstance(value, kind):
            return name
    return "a list"


def _sentence(error: Any) -> str:
    keyword: str = error.kind.name
    facts: dict[str, Any] = error.kind.as_dict()
    path = _path(error.instance_path)
    match keyword:
        case "required":
            return f"{path}.{facts['property']} is required"
        case "type":
            wanted = " or ".join(_NOUNS.get(t, t) for t in sorted(facts["types"], reverse=True))
            return f"{path} must be {wanted}, not {noun(error.instance)}"
        case "enum":
            return f"{path} must be one of {', '.join(map(str, facts['options']))}"
        case "const":
            return f"{path} must be {facts['expected_value']}"
        case "format":
            return f"{path} must be {_FORMATS.get(facts['format'], facts['format'])}"
        case "pattern":
            return f"{path} must match {facts['pattern']}"
        case "minimum":
            return f"{path} must be at least {facts['limit']}"
        case "maximum":
            return f"{path} must be at most {facts['limit']}"
        case "exclusiveMinimum":
            return f"{path} must be more than {facts['limit']}"
        case "exclusiveMaximum":
            return f"{path} must be less than {facts['limit']}"
        case "minLength":
            limit = facts["limit"]
            return f"{path} must {'not be empty' if limit == 1 else f'have {limit} characters'}"
        case "maxLength":
            return f"{path} must have at most {facts['limit']} characters"
        case "minItems":
            return f"{path} must have at least {facts['limit']} entries"
        case "maxItems":
            return f"{path} must have at most {facts['limit']} entries"
        case "additionalProperties":
            return f"{path} must not have {', '.join(facts['unexpected'][:_SHOWN])}"
    return f"{path} does not satisfy the contract's {keyword}"


def _path(parts: Sequence[str | int]) -> str:
    path = "properties"
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path
