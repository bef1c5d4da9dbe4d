"""The HTTP side of the collector: Segment-compatible requests in, durable log records out.

A 200 means that every message of the request is in the event log, as an event or as a quarantine
record. Any other answer promises nothing; after a 503 the client should send it again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from ingestion.appender import Appender, Log, QueueFull
from ingestion.contract import Contracts
from ingestion.envelope import (
    TYPES,
    Arrival,
    Limits,
    LogRecord,
    MessageType,
    encode_record,
    parse_time,
    to_record,
)
from ingestion.log import LogError
from ingestion.request import (
    Batch,
    RequestError,
    SourcePolicy,
    WriteKeys,
    header_key,
    inflate,
    split,
    too_large,
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

logger = logging.getLogger("signalbox.collector")

_BATCH_PATHS = frozenset({"/v1/batch", "/v1/b", "/v1/import"})
_TYPE_PATHS: Mapping[str, MessageType] = {
    path: type_  # type: ignore[misc]  # TYPES are the MessageTypes
    for type_ in TYPES
    for path in (f"/v1/{type_}", f"/v1/{type_[0]}", f"/api/s/{type_}")
}
_SETTINGS_PATH = re.compile(r"/v1/projects/([^/]+)/settings")
_HOST = re.compile(r"[A-Za-z0-9._\-\[\]:]+")
_RETRY_SECONDS = 1
_PROBLEMS_SHOWN = 20
# A client still sending its body does not listen, so a body that is too large is read to its end
# (and thrown away) before the 413, up to this multiple of the limit.
_DRAIN_FACTOR = 16
_CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"retry-after"),
]
_PREFLIGHT = [
    *_CORS,
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, content-encoding, x-retry-count, x-write-key",
    ),
    (b"access-control-max-age", b"86400"),
]


class _Disconnected(Exception):
    """The client went away; nobody is there to be answered."""


class Collector:
    """The ASGI app. `create_app` makes one."""

    def __init__(
        self,
        log: Log,
        contracts: Contracts,
        write_keys: WriteKeys,
        limits: Limits,
        clock: Callable[[], datetime],
    ) -> None:
        self.accepted = self.quarantined = self.refused = 0
        self._log = log
        self._contracts = contracts
        self._keys = write_keys
        self._limits = limits
        self._clock = clock
        self._started = time.monotonic()
        self._appender: Appender | None = None
        self._reading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        if self._appender is not None:
            await asyncio.to_thread(self._appender.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _CORS
        try:
            status, answer = await self._route(scope, receive)
        except _Disconnected:
            return
        except RequestError as error:
            status, answer = error.status, {"code": error.code, "message": error.message}
        except QueueFull:
            status, answer = _unavailable("busy", "Too much is waiting for the disk.")
        except LogError as error:
            logger.error("append failed: %s", error)
            status, answer = _unavailable("log_unavailable", "The event log cannot be written.")
        except Exception as error:
            # Only the kind: the text of an unforeseen error may quote a customer's data.
            logger.error("request failed: %s in %s", type(error).__name__, _origin(error))
            status, answer = _unavailable("internal_error", "Something went wrong here.")
        if status == 204:
            headers = _PREFLIGHT
        if status >= 400:
            self.refused += 1
        if status in (429, 503):
            headers = [*headers, (b"retry-after", str(_RETRY_SECONDS).encode())]
        body = b"" if status == 204 else msgspec.json.encode(answer)
        if status == 413 or status == 408:
            headers = [*headers, (b"connection", b"close")]
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    *headers,
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _route(self, scope: Scope, receive: Receive) -> tuple[int, dict[str, Any]]:
        method, path = scope["method"], scope["path"].rstrip("/")
        settings = _SETTINGS_PATH.fullmatch(path)
        takes_posts = path in _BATCH_PATHS or path in _TYPE_PATHS
        if not (takes_posts or settings or path == "/health"):
            raise RequestError(404, "not_found", "Send events to /v1/batch or /v1/track.")
        if method == "OPTIONS":
            return 204, {}
        if method != ("POST" if takes_posts else "GET"):
            raise RequestError(
                405, "method_not_allowed", f"Use {'POST' if takes_posts else 'GET'} here."
            )
        if path == "/health":
            return 200, self._health()
        headers = dict(scope["headers"])
        if settings:
            return 200, self._settings(settings[1], scope["scheme"], headers)
        return await self._take(path, headers, receive)

    def _health(self) -> dict[str, Any]:
        return {
            "status": "ok",
            "log_end": self._log.end(),
            "accepted": self.accepted,
            "quarantined": self.quarantined,
            "refused_requests": self.refused,
            "uptime_seconds": round(time.monotonic() - self._started, 1),
        }

    def _settings(self, key: str, scheme: str, headers: Mapping[bytes, bytes]) -> dict[str, Any]:
        """What Segment's browser library asks for before it sends anything."""
        if self._keys.find(key) is None:
            raise RequestError(404, "unknown_write_key", "There is no such write key.")
        host = headers.get(b"host", b"").decode("latin-1")
        if not _HOST.fullmatch(host):
            raise RequestError(400, "invalid_host", "The Host header is missing or malformed.")
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

    async def _take(
        self, path: str, headers: Mapping[bytes, bytes], receive: Receive
    ) -> tuple[int, dict[str, Any]]:
        key = header_key(headers)
        if key is not None:
            self._source(key)  # a wrong key is refused before its body is read
        body = await self._body(headers, receive)
        received_at = self._clock()
        batch = split(
            inflate(body, self._limits.batch_bytes),
            batch=path in _BATCH_PATHS,
            limits=self._limits,
        )
        source = self._source(key if key is not None else batch.write_key)
        arrival = Arrival(
            source=source.name,
            received_at=received_at,
            sent_at=parse_time(batch.sent_at),
            type=_TYPE_PATHS.get(path),
            unknown_events=source.unknown_events,
        )
        records = self._judge(batch, arrival)
        if records:
            await self._append([encode_record(record) for record in records])
        return 200, self._answer(records)

    def _source(self, key: Any) -> SourcePolicy:
        source = self._keys.find(key) if isinstance(key, str) else None
        if source is None:
            raise RequestError(
                401,
                "invalid_write_key",
                "The write key is missing or unknown. Send it as the user name of Basic auth, "
                "in the header X-Write-Key or as writeKey in the body.",
            )
        return source

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        limit = self._limits.batch_bytes
        body = bytearray()
        size = held = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
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
        except TimeoutError:
            raise RequestError(408, "timeout", "The body did not arrive in time.") from None
        finally:
            self._reading -= held
        if size > limit:
            raise too_large(limit)
        return bytes(body)

    def _judge(self, batch: Batch, arrival: Arrival) -> list[LogRecord]:
        records = [to_record(raw, arrival, self._contracts, self._limits) for raw in batch.messages]
        if arrival.unknown_events == "reject" and records:
            rejected = [r for r in records if r.reason == "unknown_event"]
            if len(rejected) == len(records):
                raise RequestError(400, "unknown_event", f"Refused: {rejected[0].detail}.")
        return records

    async def _append(self, records: list[bytes]) -> None:
        if self._appender is None:
            self._appender = Appender(self._log, self._limits.waiting_bytes)
        await self._appender.submit(records)

    def _answer(self, records: list[LogRecord]) -> dict[str, Any]:
        problems = [
            {
                "index": index,
                "messageId": record.message_id,
                "reason": record.reason,
                "detail": record.detail,
            }
            for index, record in enumerate(records)
            if record.kind == "quarantine"
        ]
        taken = len(records) - len(problems)
        self.accepted += taken
        self.quarantined += len(problems)
        return {
            "success": True,
            "accepted": taken,
            "quarantined": len(problems),
            "problems": problems[:_PROBLEMS_SHOWN],
        }


def create_app(
    log: Log,
    contracts: Contracts,
    write_keys: Mapping[str, SourcePolicy | str],
    limits: Limits | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Collector:
    """The collector as an ASGI app over an open log.

    `write_keys` maps a key to the name of its source, or to a SourcePolicy. The caller closes the
    log, after the app's lifespan has ended.
    """
    return Collector(log, contracts, WriteKeys(write_keys), limits or Limits(), clock)


def _unavailable(code: str, message: str) -> tuple[int, dict[str, Any]]:
    return 503, {"code": code, "message": f"{message} Send it again."}


def _origin(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown"
