"""The collector's HTTP surface as an OpenAPI 3.1 description, made from its routes and limits."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import Any

from ingestion.envelope import TYPES, Limits
from ingestion.routes import HOOK_PATH, ROUTES, SETTINGS_PATH, Route

_JSON = "application/json"
_ERRORS = {
    400: "The body is not what the address asks for. Do not send it again unchanged.",
    401: "The write key is missing or unknown, or the signature is wrong.",
    404: "There is no such write key or source.",
    408: "The request did not arrive in time.",
    413: "The body or the batch is too large. Send smaller ones.",
    429: "This write key sends faster than it may. Wait as long as Retry-After says.",
    431: "The head of the request is too large.",
    503: "Nothing of the request was taken. Send it again after Retry-After.",
}
_RETRY = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "track": {"userId": "u_42", "event": "Logged In", "properties": {"method": "password"}},
    "identify": {"userId": "u_42", "traits": {"email": "ada@example.com"}},
    "page": {"anonymousId": "a_7", "name": "Home", "properties": {"path": "/"}},
    "screen": {"userId": "u_42", "name": "Home"},
    "group": {"userId": "u_42", "groupId": "g_1", "traits": {"name": "Acme"}},
    "alias": {"userId": "u_42", "previousId": "a_7"},
}


@lru_cache(maxsize=1)
def describe(limits: Limits) -> dict[str, Any]:
    """The whole description. It holds for every collector with these limits."""
    paths: dict[str, Any] = {path: _path(path, route, limits) for path, route in ROUTES.items()}
    paths[SETTINGS_PATH] = _path(SETTINGS_PATH, Route("settings"), limits)
    paths[HOOK_PATH] = _path(HOOK_PATH, Route("hook"), limits)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Signalbox collector",
            "version": version("signalbox"),
            "description": (
                "Segment's HTTP tracking API. A 200 means that every message of the request is "
                "on disk: as an event, or in quarantine with its reason. Bodies are read as JSON "
                "and inflated if they are gzip, whatever their labels say."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The write key as user name, no password.",
                },
                "header": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
                "query": {"type": "apiKey", "in": "query", "name": "writeKey"},
            },
            "schemas": _schemas(limits),
        },
    }


def _path(path: str, route: Route, limits: Limits) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": _SUMMARIES[route.kind].format(type=route.type),
        "responses": _responses(route),
    }
    if route.kind in ("batch", "message", "pixel"):
        # `{}`: the key may also stand in the body, as writeKey.
        operation["security"] = [{"basic": []}, {"header": []}, {"query": []}, {}]
    if route.kind == "source_config":
        operation["security"] = [{"basic": []}, {"header": []}, {"query": []}]
    if route.kind in ("batch", "message"):
        schema = "Batch" if route.kind == "batch" else "AnyMessage"
        example = (
            {"batch": [{"type": "track", **_EXAMPLES["track"]}], "sentAt": "2026-03-01T12:00:01Z"}
            if route.type is None
            else _EXAMPLES[route.type]
        )
        operation["requestBody"] = {
            "required": True,
            "content": {
                _JSON: {
                    "schema": {"$ref": f"#/components/schemas/{schema}"},
                    "examples": {"typical": {"value": example}},
                }
            },
        }
    if route.kind == "pixel":
        operation["parameters"] = [
            {
                "name": "data",
                "in": "query",
                "description": "The message as JSON in base64; or one parameter for each field.",
                "schema": {"type": "string"},
            }
        ]
    if route.kind == "hook":
        operation["parameters"] = [
            {
                "name": "source",
                "in": "path",
                "required": True,
                "description": "One of SIGNALBOX_SOURCES that is called by its vendor.",
                "schema": {"type": "string"},
            }
        ]
        operation["requestBody"] = {
            "required": True,
            "description": "Whatever the vendor sends; its signature is checked first.",
            "content": {_JSON: {"schema": {}}},
        }
    if route.kind == "settings":
        operation["parameters"] = [
            {"name": "writeKey", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return {method.lower(): _named(operation, path, method) for method in route.methods}


_SUMMARIES = {
    "batch": "Send messages of any type",
    "message": "Send one {type} message",
    "pixel": "Send one {type} message in the address of an image",
    "settings": "What Segment's browser library loads first",
    "source_config": "What RudderStack's browser library loads first",
    "openapi": "This description",
    "health": "How the collector is",
    "hook": "What a vendor calls",
}


def _named(operation: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    name = path.strip("/").replace("/", "_").replace("{", "").replace("}", "").replace(".", "_")
    if method == "HEAD":
        bare = {s: {"description": r["description"]} for s, r in operation["responses"].items()}
        operation = {**operation, "responses": bare}
    return {"operationId": f"{method.lower()}_{name}", **operation}


def _responses(route: Route) -> dict[str, Any]:
    statuses = {
        "batch": (400, 401, 408, 413, 429, 431, 503),
        "message": (400, 401, 408, 413, 429, 431, 503),
        "pixel": (400, 401, 408, 429, 431, 503),
        "settings": (400, 404, 408, 431, 503),
        "source_config": (400, 401, 408, 429, 431, 503),
        "hook": (400, 401, 404, 408, 413, 431, 503),
    }.get(route.kind, (400, 408, 431, 503))
    schema = {
        "settings": {"type": "object", "required": ["integrations"]},
        "source_config": {"type": "object", "required": ["source"]},
        "openapi": {"type": "object", "required": ["openapi"]},
        "health": {"$ref": "#/components/schemas/Health"},
    }.get(route.kind, {"$ref": "#/components/schemas/Taken"})
    content: dict[str, Any] = {_JSON: {"schema": schema}}
    refused: dict[str, Any] = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    if route.kind == "pixel":
        content = {"image/gif": {}}
        refused |= content
    responses: dict[str, Any] = {"200": {"description": "Taken.", "content": content}}
    for status in statuses:
        responses[str(status)] = {"description": _ERRORS[status], "content": refused}
        if status in (429, 503):
            responses[str(status)]["headers"] = _RETRY
    if route.kind == "health":
        either = {"anyOf": [schema, {"$ref": "#/components/schemas/Error"}]}
        responses["503"]["content"] = {_JSON: {"schema": either}}
    return responses


def _schemas(limits: Limits) -> dict[str, Any]:
    text_or_number = {"type": ["string", "integer", "null"]}
    time = {"type": ["string", "null"], "description": "ISO 8601"}
    bag = {"type": ["object", "null"]}
    ignored = "Anything else is ignored."
    into_each = f"into that of each message, which wins. {ignored}"
    problems = {
        "description": "What is wrong with the first of the messages that are not as they should.",
        "type": "array",
        "items": {
            "type": "object",
            "required": ["index", "messageId", "outcome", "reason", "detail"],
            "properties": {
                "index": {"type": "integer", "minimum": 0},
                "messageId": {"type": "string"},
                "outcome": {"enum": ["accepted", "quarantined", "rejected"]},
                "reason": {"type": "string"},
                "detail": {"type": "string"},
            },
            "additionalProperties": False,
        },
    }
    return {
        "Message": {
            "type": "object",
            "description": (
                "A message by Segment's spec. userId or anonymousId is required; event in a "
                "track, groupId in a group, previousId in an alias message."
            ),
            "properties": {
                "type": {"enum": list(TYPES)},
                "messageId": text_or_number,
                "userId": text_or_number,
                "anonymousId": text_or_number,
                "groupId": text_or_number,
                "previousId": text_or_number,
                "event": {"type": ["string", "null"]},
                "properties": bag,
                "traits": bag,
                "context": bag,
                "integrations": bag,
                "timestamp": time,
                "originalTimestamp": time,
                "sentAt": time,
                "writeKey": {"type": "string"},
            },
        },
        "AnyMessage": {
            "description": (
                f"A message of at most {limits.message_bytes} bytes and {limits.depth} levels. "
                "One that is not by the spec is kept in quarantine."
            ),
            "type": "object",
            "anyOf": [{"$ref": "#/components/schemas/Message"}, {"type": "object"}],
        },
        "Batch": {
            "type": "object",
            "description": (
                f"At most {limits.batch_messages} messages and {limits.batch_bytes} bytes."
            ),
            "required": ["batch"],
            "properties": {
                "batch": {
                    "type": "array",
                    "items": {"anyOf": [{"$ref": "#/components/schemas/Message"}, {}]},
                },
                "context": {"description": f"An object, merged {into_each}"},
                "integrations": {"description": f"An object, merged {into_each}"},
                "sentAt": {"description": f"When it was sent, in ISO 8601. {ignored}"},
                "writeKey": {"description": "The write key, if it stands nowhere else."},
            },
        },
        "Taken": {
            "type": "object",
            "required": ["success", "accepted", "quarantined", "rejected", "problems"],
            "properties": {
                "success": {"const": True},
                "accepted": {"type": "integer", "minimum": 0},
                "quarantined": {"type": "integer", "minimum": 0},
                "rejected": {
                    "description": "Which messages the source's policy does not want.",
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0},
                },
                "problems": problems,
            },
            "additionalProperties": False,
        },
        "Health": {
            "type": "object",
            "required": ["status", "log_end", "accepted", "quarantined", "refused_requests"],
            "properties": {
                "status": {"enum": ["ok", "unavailable"]},
                "problem": {"type": "string"},
                "log_end": {"type": "integer", "minimum": 0},
                "log_recovered_bytes": {"type": "integer", "minimum": 0},
                "accepted": {"type": "integer", "minimum": 0},
                "quarantined": {"type": "integer", "minimum": 0},
                "refused_requests": {"type": "integer", "minimum": 0},
                "uptime_seconds": {"type": "number", "minimum": 0},
            },
        },
        "Error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "problems": problems,
            },
            "additionalProperties": False,
        },
    }
