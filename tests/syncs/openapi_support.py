"""Recorded requests, checked against a vendor's published OpenAPI description.

The descriptions are the vendors' own and not part of the repository: SIGNALBOX_OPENAPI_SPECS
names a folder that holds them, under the names the tests ask for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema_rs
import pytest

FOLDER = "SIGNALBOX_OPENAPI_SPECS"
#: Headers that HTTP itself brings along.
PLAIN_HEADERS = {"accept", "authorization", "content-type", "token"}


def description(file_name: str) -> Description:
    """The description in that file; the test is skipped where the folder is not at hand."""
    folder = os.environ.get(FOLDER)
    if not folder:
        pytest.skip(f"{FOLDER} names no folder with the vendors' OpenAPI descriptions")
    path = Path(folder) / file_name
    if not path.is_file():
        pytest.skip(f"{file_name} is not in the folder that {FOLDER} names")
    return _read(path)


class Description:
    """One OpenAPI 2 or 3 document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = _closed(document)
        newer = str(document.get("openapi", "")).startswith("3.1")
        # Before 3.1 a schema is a dialect of draft 4, with `nullable` and no null type.
        self._validator: Any = (
            jsonschema_rs.Draft202012Validator if newer else jsonschema_rs.Draft4Validator
        )

    def knows(self, method: str, url: str) -> bool:
        """Whether there is such an operation."""
        return self._operation(method, urlsplit(url).path) is not None

    def faults(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        free: Collection[str] = (),
    ) -> list[str]:
        """What the description says against a request; empty when it fits.

        `url` may carry a query; header names are in lower case. A field the description does not
        know is a fault, unless it allows others (`additionalProperties`) or the field it is in
        is named in `free`: some descriptions say in words only that names are the caller's.
        """
        parts = urlsplit(url)
        operation = self._operation(method, parts.path)
        if operation is None:
            return [f"no operation {method} {parts.path}"]
        schemas = {
            parameter["name"]: _schema(parameter)
            for parameter in map(self._resolve, operation["parameters"])
        }
        given = {"header": dict(headers), "query": _form(parts.query, schemas)}
        faults = [*self._parameters(operation, given), *self._body(operation, headers, body)]
        return [
            fault
            for fault in faults
            if not any(re.search(f"(^|/){name}: Additional prop", fault) for name in free)
        ]

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        path = path.removeprefix(self.document.get("basePath") or "")
        # A path without a placeholder wins over one with.
        for template, item in sorted(self.document["paths"].items(), key=lambda at: "{" in at[0]):
            pattern = re.sub(r"\\\{[^/]+?\\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, path) and method.lower() in item:
                operation: dict[str, Any] = item[method.lower()]
                shared = item.get("parameters", [])
                return operation | {"parameters": [*shared, *operation.get("parameters", [])]}
        return None

    def _parameters(
        self, operation: dict[str, Any], given: dict[str, dict[str, Any]]
    ) -> Iterable[str]:
        for parameter in map(self._resolve, operation["parameters"]):
            place, name = parameter["in"], parameter["name"]
            if place not in given:
                continue
            value = given[place].get(name.lower() if place == "header" else name)
            if value is None:
                if parameter.get("required") and name.lower() not in PLAIN_HEADERS:
                    yield f"{place} {name} is missing"
                continue
            found = self._check(_schema(parameter), value)
            yield from (f"{place} {name}: {fault}" for fault in found)
        known = {item["name"] for item in map(self._resolve, operation["parameters"])}
        yield from (f"query {name} is not known" for name in given["query"].keys() - known)

    def _body(
        self, operation: dict[str, Any], headers: Mapping[str, str], body: bytes
    ) -> list[str]:
        kind = headers.get("content-type", "").partition(";")[0]
        contents = self._resolve(operation.get("requestBody", {})).get("content", {})
        if contents:
            if kind not in contents:
                return [f"content type {kind!r} is none of {sorted(contents)}"]
            schema = contents[kind].get("schema", {})
        else:
            schema = self._swagger_body(operation)
        if schema is None:
            return [] if not body else ["no body is expected"]
        if "json" in kind:
            return self._check(schema, json.loads(body or b"null"))
        fields = self._resolve(schema).get("properties", {})
        return self._check(schema, _form(body.decode(), fields))

    def _swagger_body(self, operation: dict[str, Any]) -> dict[str, Any] | None:
        parameters = [self._resolve(parameter) for parameter in operation["parameters"]]
        for parameter in parameters:
            if parameter["in"] == "body":
                return dict(parameter["schema"])
        form = [parameter for parameter in parameters if parameter["in"] == "formData"]
        if not form:
            return None
        return {
            "type": "object",
            "properties": {item["name"]: {"type": item["type"]} for item in form},
            "required": [item["name"] for item in form if item.get("required")],
            "additionalProperties": False,
        }

    def _check(self, schema: dict[str, Any], value: Any) -> list[str]:
        if not schema.get("required", True):
            schema = {name: part for name, part in schema.items() if name != "required"}
        rooted = {**self._roots(), "allOf": [schema]}
        errors = self._validator(rooted).iter_errors(value)
        return [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in errors]

    def _roots(self) -> dict[str, Any]:
        """What a `$ref` can point at."""
        return {
            name: self.document[name]
            for name in ("components", "definitions")
            if name in self.document
        }

    def _resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            found: Any = self.document
            for step in node["$ref"].removeprefix("#/").split("/"):
                found = found[step.replace("~1", "/").replace("~0", "~")]
            node = found
        return node


@cache
def _read(path: Path) -> Description:
    return Description(json.loads(path.read_text()))


def _schema(parameter: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema, which before OpenAPI 3 is the parameter itself."""
    return parameter.get("schema") or {"type": parameter.get("type", "string")}


def _form(text: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A query or a form: text, or what the schema of a field makes of it."""
    readers: dict[str, Callable[[str], Any]] = {
        "boolean": json.loads,
        "integer": int,
        "number": float,
    }
    values: dict[str, Any] = {}
    for name, given in parse_qs(text, keep_blank_values=True, strict_parsing=bool(text)).items():
        kind = (fields or {}).get(name, {}).get("type", "string")
        values[name] = given if kind == "array" else readers.get(kind, str)(given[-1])
    return values


def _closed(node: Any, *, combined: bool = False) -> Any:
    """The document with `nullable` as a null type, and objects closed to unknown fields.

    Within allOf, anyOf and oneOf an object sees only a part of the fields and stays open.
    """
    if isinstance(node, list):
        return [_closed(item, combined=combined) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {
        name: _closed(part, combined=name in {"allOf", "anyOf", "oneOf"})
        for name, part in node.items()
        if name not in {"example", "examples", "default", "description"} or isinstance(part, dict)
    }
    if closed.pop("nullable", None) is True and isinstance(closed.get("type"), str):
        closed["type"] = [closed["type"], "null"]
        if "enum" in closed:
            closed["enum"] = [*closed["enum"], None]
    whole = not combined and not {"allOf", "anyOf", "oneOf"} & closed.keys()
    if whole and closed.get("type") == "object" and isinstance(closed.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed
