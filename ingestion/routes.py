"""The collector's addresses: those that the clients of Segment, RudderStack and Jitsu send to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ingestion.envelope import TYPES, MessageType


@dataclass(frozen=True, slots=True)
class Route:
    """What an address is for; `type` is that of the messages that are sent to it."""

    kind: Literal[
        "batch", "message", "pixel", "settings", "source_config", "openapi", "health", "hook"
    ]
    type: MessageType | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods it takes, beside OPTIONS."""
        if self.kind in ("batch", "message", "hook"):
            return ("POST",)
        return ("GET",) if self.kind == "pixel" else ("GET", "HEAD")


def _routes() -> dict[str, Route]:
    routes = {
        path: Route("batch") for path in ("/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch")
    }
    for type_ in TYPES:
        for path in (f"/v1/{type_}", f"/v1/{type_[0]}"):
            routes[path] = Route("message", type_)  # type: ignore[arg-type]  # a MessageType
        for path in (f"/api/s/{type_}", f"/api/s/s2s/{type_}"):
            routes[path] = Route("message", type_)  # type: ignore[arg-type]
        routes[f"/v1/pixel/{type_}"] = Route("pixel", type_)  # type: ignore[arg-type]
    for type_ in ("track", "page"):
        routes[f"/pixel/v1/{type_}"] = Route("pixel", type_)  # type: ignore[arg-type]
    routes["/sourceConfig"] = Route("source_config")
    routes["/openapi.json"] = Route("openapi")
    routes["/health"] = Route("health")
    return routes


#: Every fixed address. Segment's libraries use the long and the short ones, RudderStack's
#: /sourceConfig, /beacon and /pixel, Jitsu's /api/s.
ROUTES = _routes()
SETTINGS_PATH = "/v1/projects/{writeKey}/settings"
_SETTINGS = re.compile(r"/v1/projects/[^/]+/settings")
_SETTINGS_ROUTE = Route("settings")
HOOK_PATH = "/v1/hooks/{source}"
_HOOK = re.compile(r"/v1/hooks/[a-z0-9_]+")
_HOOK_ROUTE = Route("hook")


def find(path: str) -> Route | None:
    """The route of a path without a slash at its end, if it is any."""
    route = ROUTES.get(path)
    if route is None and _SETTINGS.fullmatch(path):
        return _SETTINGS_ROUTE
    if route is None and _HOOK.fullmatch(path):
        return _HOOK_ROUTE
    return route
