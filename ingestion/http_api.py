"""The HTTP side of the collector: Segment-compatible requests in, durable log records out.

A 200 means that every message of the request is in the event log, as an event or as a quarantine
record. Any other answer promises nothing; after a 503 the client should send it again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import msgspec

from ingestion import pixel
from ingestion.appender import Appender, Log, QueueFull
from ingestion.client import Proxies, is_device, shown, user_agent
from ingestion.contract import Contracts
from ingestion.counters import Counters
from ingestion.envelope import (
    Arrival,
    Limits,
    LogRecord,
    encode_record,
    parse_time,
    to_record,
)
from ingestion.hooks import Hook
from ingestion.log import LogError
from ingestion.merge import Defaults, merged
from ingestion.openapi import describe
from ingestion.rate_limit import RateLimiter
from ingestion.request import (
    Batch,
    RequestError,
    SourcePolicy,
    WriteKeys,
    body_key,
    header_key,
    inflate,
    split,
    too_large,
)
from ingestion.routes import Route, find
from ingestion.sources import Request

Scope = MutableMapping[str, Any]
Headers = Mapping[bytes, bytes]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

logger = logging.getLogger("signalbox.collector")


_RETRY_SECONDS = 1
_PROBLEMS_SHOWN = 20
# A client still sending its body does not listen, so a body that is too large is read to its end
# (and thrown away) before the 413, up to this multiple of the limit.
_DRAIN_FACTOR = 16
_JSON = (b"content-type", b"application/json")
_GIF = (b"content-type", b"image/gif")
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~\-, ]{1,1024}")
_ALLOWED_HEADERS = b"authorization, content-type, content-encoding, x-retry-count, x-write-key"


class _Disconnected(Exception):
    """The client went away; nobody is there to be answered."""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)


class Collector:
    """The ASGI app. `create_app` makes one.

    It waits for a slow client as long as the server does; `ingestion.protocol` sees to an end.
    """

    def __init__(
        self,
        log: Log,
        contracts: Contracts,
        write_keys: WriteKeys,
        limits: Limits,
        clock: Callable[[], datetime],
        proxies: Proxies,
        counters: Counters,
        hooks: Mapping[str, Hook],
    ) -> None:
        self.counters = counters
        self._log = log
        self._contracts = contracts
        self._keys = write_keys
        self._limits = limits
        self._clock = clock
        self._proxies = proxies
        self._hooks = hooks
        self._rates = RateLimiter()
        self._started = time.monotonic()
        self._appender: Appender | None = None
        self._reading = 0
        self._failure_logged = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        try:
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
        except asyncio.CancelledError:
            return  # a second Ctrl-C: whoever is not answered sends again
        if self._appender is not None:
            await asyncio.to_thread(self._appender.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        path = scope["path"].rstrip("/")
        route = find(path)
        try:
            reply = await self._reply(route, path, scope, headers, receive)
        except _Disconnected:
            return
        except RequestError as error:
            reply = _error(error)
        except QueueFull:
            reply = _unavailable("busy", "Too much is waiting for the disk.")
        except LogError as error:
            self._log_failure(error)
            reply = _unavailable("log_unavailable", "The event log cannot be written.")
        except asyncio.CancelledError:
            reply = _unavailable("stopping", "The collector is stopping.")
        except Exception as error:
            # Only the kind: the text of an unforeseen error may quote a customer's data.
            logger.error("request failed: %s in %s", type(error).__name__, _origin(error))
            reply = _unavailable("internal_error", "Something went wrong here.")
        if reply.status >= 400:
            self.counters.add("refused_requests")
            if route is not None and route.kind == "pixel":
                reply = _Reply(reply.status, pixel.GIF, (_GIF, *reply.headers[1:]))
        more = [*reply.headers, *_cors(headers)]
        if reply.status != 204:
            more.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": more})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(
        self, route: Route | None, path: str, scope: Scope, headers: Headers, receive: Receive
    ) -> _Reply:
        if route is None:
            raise RequestError(404, "not_found", "Send events to /v1/batch; see /openapi.json.")
        method = scope["method"]
        if method not in route.methods:
            return _preflight(route, headers) if method == "OPTIONS" else _wrong_method(route)
        if route.kind in ("batch", "message"):
            return _json(await self._take(route, scope, headers, receive))
        if route.kind == "pixel":
            message = pixel.message(scope["query_string"])
            batch = Batch([message])
            key = _stated_key(scope, headers)
            source = self._admit(body_key(batch) if key is None else key)
            await self._store(batch, source, route, scope, headers)
            return _Reply(200, pixel.GIF, (_GIF, (b"cache-control", b"no-store")))
        if route.kind == "hook":
            return _json(await self._take_hook(path, scope, headers, receive))
        if route.kind == "health":
            return await self._health()
        if route.kind == "openapi":
            return _json(describe(self._limits))
        if route.kind == "source_config":
            return _json(self._source_config(_stated_key(scope, headers)))
        return _json(self._settings(path.split("/")[3], scope))

    def _log_failure(self, error: LogError) -> None:
        """Log it once a second: while a disk is full, every request fails."""
        now = time.monotonic()
        if now - self._failure_logged >= 1:
            self._failure_logged = now
            logger.error("append failed: %s", error)

    async def _health(self) -> _Reply:
        problem = await asyncio.to_thread(self._log.problem)
        answer = {
            "status": "ok" if problem is None else "unavailable",
            "log_end": self._log.end(),
            "log_recovered_bytes": self._log.recovered_bytes,
            **self.counters.totals(),
            "uptime_seconds": round(time.monotonic() - self._started, 1),
        }
        if problem is None:
            return _json(answer)
        refusal = _unavailable("log_unavailable", problem)
        return _Reply(503, msgspec.json.encode(answer | {"problem": problem}), refusal.headers)

    def _settings(self, key: str, scope: Scope) -> dict[str, Any]:
        """What Segment's browser library asks for before it sends anything."""
        if self._keys.find(key) is None:
            raise RequestError(404, "unknown_write_key", "There is no such write key.")
        origin = self._proxies.origin(scope)
        if origin is None:
            raise RequestError(400, "invalid_host", "The Host header is missing or malformed.")
        scheme, host = origin
        return {
            "integrations": {
                "Segment.io": {
                    "apiKey": key,
                    "apiHost": f"{host}/v1",
                    "protocol": scheme,
                    "unbundledIntegrations": [],
                    "addBundledMetadata": False,
                }
            },
            "plan": {"track": {"__default": {"enabled": True, "integrations": {}}}},
            "edgeFunction": {},
            "middlewareSettings": {},
            "enabledMiddleware": {},
            "remotePlugins": [],
            "metrics": {"sampleRate": 0},
            "analyticsNextEnabled": True,
            "legacyVideoPluginsEnabled": False,
        }

    def _source_config(self, key: str | None) -> dict[str, Any]:
        """What RudderStack's browser library asks for before it sends anything."""
        source = self._admit(key)
        return {
            "source": {
                "id": source.name,
                "name": source.name,
                "writeKey": key,
                "workspaceId": "signalbox",
                "enabled": True,
                "config": {
                    "statsCollection": {"errors": {"enabled": False}, "metrics": {"enabled": False}}
                },
                "destinations": [],
                "connections": [],
                "dataplanes": {},
            }
        }

    async def _take(
        self, route: Route, scope: Scope, headers: Headers, receive: Receive
    ) -> dict[str, Any]:
        key = _stated_key(scope, headers)
        # Who may not send is told so before the body is read.
        source = self._admit(key) if key is not None else None
        body = await self._body(receive)
        batch = split(
            inflate(body, self._limits.batch_bytes),
            batch=route.kind == "batch",
            limits=self._limits,
        )
        return await self._store(
            batch, source or self._admit(body_key(batch)), route, scope, headers
        )

    async def _store(
        self, batch: Batch, source: SourcePolicy, route: Route, scope: Scope, headers: Headers
    ) -> dict[str, Any]:
        """Append the messages, judged, and say what became of them."""
        arrival = Arrival(
            source=source.name,
            received_at=self._clock(),
            sent_at=parse_time(batch.sent_at),
            type=route.type,
            unknown_events=source.unknown_events,
            violations=source.violations,
            defaults=self._defaults(batch, source, scope, headers),
        )
        if source.events_per_second is not None:
            self._rates.charge(source.name, source.events_per_second, len(batch.messages))
        records = self._judge(batch, arrival)
        if records:
            await self._append([encode_record(record) for record in records])
        return self._answer(records)

    async def _take_hook(
        self, path: str, scope: Scope, headers: Headers, receive: Receive
    ) -> dict[str, Any]:
        """Take a vendor's signed call; see `ingestion.hooks`."""
        hook = self._hooks.get(path.rpartition("/")[2])
        if hook is None:
            raise RequestError(404, "not_found", "This source is not in SIGNALBOX_SOURCES.")
        request = Request(
            await self._body(receive),
            {k.decode("latin-1"): v.decode("latin-1") for k, v in headers.items()},
            dict(parse_qsl(scope["query_string"].decode("latin-1"))),
        )
        # In a thread: to check a signature, keys may have to be fetched first.
        records = await asyncio.to_thread(hook.records, request, self._contracts, self._clock())
        if records:
            await self._append([encode_record(record) for record in records])
        return self._answer(records)

    def _defaults(
        self, batch: Batch, source: SourcePolicy, scope: Scope, headers: Headers
    ) -> Defaults | None:
        """What the messages inherit from the batch and, sent by a device, from its request."""
        if not is_device(headers):
            return batch.defaults or None
        known = {}
        if source.client_ip != "off" and (address := self._proxies.client(scope)) is not None:
            known["ip"] = shown(address, source.client_ip)
        if source.user_agent and (agent := user_agent(headers)) is not None:
            known["userAgent"] = agent
        if not known:
            return batch.defaults or None
        context = msgspec.json.encode(known)
        stated = batch.defaults.get("context")
        if stated is not None:
            context = merged(bytes(stated), {k: _raw(v) for k, v in known.items()})
        return {**batch.defaults, "context": msgspec.Raw(context)}

    def _admit(self, key: str | None) -> SourcePolicy:
        """The source of a key, if it may send now."""
        source = self._keys.find(key) if key is not None else None
        if source is None:
            raise RequestError(
                401,
                "invalid_write_key",
                "The write key is missing or unknown. Send it as the user name of Basic auth, "
                "in the header X-Write-Key or as writeKey in the body.",
            )
        if source.events_per_second is not None:
            wait = self._rates.wait(source.name, source.events_per_second)
            if wait:
                raise RequestError(
                    429,
                    "rate_limited",
                    f"This write key may send {source.events_per_second:g} events a second. "
                    f"Wait {wait} seconds.",
                    retry_after=wait,
                )
        return source

    async def _body(self, receive: Receive) -> bytes:
        limit = self._limits.batch_bytes
        body = bytearray()
        size = held = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Disconnected
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size <= limit:
                    body += chunk
                    held += len(chunk)
                    self._reading += len(chunk)
                    if self._reading > self._limits.waiting_bytes:
                        raise QueueFull
                elif size > limit * _DRAIN_FACTOR:
                    raise too_large(limit)
                if not message.get("more_body"):
                    break
        finally:
            self._reading -= held
        if size > limit:
            raise too_large(limit)
        return bytes(body)

    def _judge(self, batch: Batch, arrival: Arrival) -> list[LogRecord]:
        records = [to_record(raw, arrival, self._contracts, self._limits) for raw in batch.messages]
        if records and all(record.rejected for record in records):
            first = records[0]
            raise RequestError(
                400, first.reason or "", f"Refused: {first.detail}.", problems=_problems(records)
            )
        return records

    async def _append(self, records: list[bytes]) -> None:
        if self._appender is None:
            self._appender = Appender(self._log, self._limits.waiting_bytes)
        await self._appender.submit(records)

    def _answer(self, records: list[LogRecord]) -> dict[str, Any]:
        quarantined = sum(record.kind == "quarantine" for record in records)
        taken = len(records) - quarantined
        self.counters.add("accepted", taken)
        self.counters.add("quarantined", quarantined)
        return {
            "success": True,
            "accepted": taken,
            "quarantined": quarantined,
            # Not wanted by the source's policy, but kept aside too: what a 200 covers is stored.
            "rejected": [index for index, record in enumerate(records) if record.rejected],
            "problems": _problems(records),
        }


def create_app(
    log: Log,
    contracts: Contracts,
    write_keys: Mapping[str, SourcePolicy | str],
    limits: Limits | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    proxies: Proxies | None = None,
    counters: Counters | None = None,
    hooks: Mapping[str, Hook] | None = None,
) -> Collector:
    """The collector as an ASGI app over an open log.

    `write_keys` maps a key to the name of its source, or to a SourcePolicy. The caller closes the
    log, after the app's lifespan has ended. `counters` are shared by the workers of one collector.
    `hooks` are the sources that call us, by name.
    """
    return Collector(
        log,
        contracts,
        WriteKeys(write_keys),
        limits or Limits(),
        clock,
        proxies or Proxies(),
        counters or Counters(),
        hooks or {},
    )


def _problems(records: list[LogRecord]) -> list[dict[str, Any]]:
    """What is wrong with the first messages that something is wrong with."""
    wrong = (pair for pair in enumerate(records) if pair[1].reason is not None)
    return [
        {
            "index": index,
            "messageId": record.message_id,
            "outcome": "accepted" if record.kind == "event" else "quarantined",
            "reason": record.reason,
            "detail": record.detail,
        }
        for index, record in islice(wrong, _PROBLEMS_SHOWN)
    ]


def _json(content: Any) -> _Reply:
    return _Reply(200, msgspec.json.encode(content))


def _error(error: RequestError) -> _Reply:
    headers = [_JSON]
    if error.retry_after is not None:
        seconds = str(error.retry_after).encode()
        headers += [(b"retry-after", seconds), (b"x-ratelimit-reset", seconds)]
    if error.status == 413:
        headers.append((b"connection", b"close"))
    answer: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.problems:
        answer["problems"] = [{**problem, "outcome": "rejected"} for problem in error.problems]
    body = msgspec.json.encode(answer)
    return _Reply(error.status, body, tuple(headers))


def _unavailable(code: str, message: str) -> _Reply:
    return _error(RequestError(503, code, f"{message} Send it again.", retry_after=_RETRY_SECONDS))


def _wrong_method(route: Route) -> _Reply:
    refused = _error(RequestError(405, "method_not_allowed", f"Use {route.methods[0]} here."))
    allow = ", ".join([*route.methods, "OPTIONS"]).encode()
    return _Reply(405, refused.body, (*refused.headers, (b"allow", allow)))


def _preflight(route: Route, headers: Headers) -> _Reply:
    """What a page of another site may send here: anything, for only the write key counts.

    A page of the public web that asks to reach a private network is not answered on that, so the
    browser keeps it out.
    """
    asked = headers.get(b"access-control-request-headers", b"")
    allowed = (
        (b"access-control-allow-methods", ", ".join([*route.methods, "OPTIONS"]).encode()),
        (
            b"access-control-allow-headers",
            asked if _HEADER_NAMES.fullmatch(asked) else _ALLOWED_HEADERS,
        ),
        (b"access-control-max-age", b"86400"),
    )
    return _Reply(204, b"", allowed)


def _cors(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """The origin by name and not `*`, which browsers refuse for requests with credentials."""
    origin = headers.get(b"origin")
    if origin is None:
        return ()
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"retry-after, x-ratelimit-reset"),
        (b"vary", b"origin"),
    )


def _stated_key(scope: Scope, headers: Headers) -> str | None:
    """The write key in the head or in the address, where sendBeacon and images put it."""
    key = header_key(headers)
    if key is not None or not scope["query_string"]:
        return key
    try:
        fields = parse_qs(scope["query_string"].decode("ascii", "replace"), max_num_fields=200)
    except ValueError:
        return None
    keys = fields.get("writeKey")
    return keys[0] if keys else None


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _origin(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown"
