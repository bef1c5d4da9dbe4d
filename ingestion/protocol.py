"""uvicorn's HTTP/1.1 with an end to everything: heads, bodies, waiting, pipelines, connections.

uvicorn alone waits for ever for a client that has begun to send, reads heads of any size, and
answers broken requests in plain text.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection, and all of them together, may cost. Sizes are in bytes.

    Over `connections`, the one that has kept us waiting longest is closed for the new one, so that
    many slow clients cannot keep the others out.
    """

    connections: int = 1_000
    head_bytes: int = 64 * 1024
    headers: int = 100
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    pipelined: int = 16


_UPGRADE = re.compile(rb"\r\n[Uu]pgrade:[^\r\n]*(?=\r\n|\Z)")
_UPGRADE_WITHIN = 4096


class _Refused(Exception):
    """Raised inside the parser's callbacks to stop it; the answer stands in `_refusal`."""


_MALFORMED = (400, "malformed_request", "This is not a valid HTTP request.")
_HEAD_TOO_LARGE = (431, "head_too_large", "The head of the request is too large.")
_TIMEOUT = (408, "timeout", "The request did not arrive in time.")
_CROWDED = (503, "busy", "Too many connections are open. Send it again.")


class Protocol(HttpToolsProtocol):
    """One connection. `with_limits` makes the class that uvicorn is given."""

    limits = ConnectionLimits()

    # Since when, and for how long at most, the client keeps us waiting; None: it waits for us.
    _waiting_since: float | None = None
    _patience = 0.0
    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0
    _refusal = _MALFORMED
    _refused = False
    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_client(self.limits.head_seconds)
        self._look_at_clock()
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Not only the last request's, as uvicorn does: what is left would write to a closed socket.
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        # Bytes behind an unfinished request may be its body, so they count towards no head.
        of_head = self._in_head or self._idle()
        if of_head and data.find(b"pgrade:", 0, _UPGRADE_WITHIN) >= 0:
            data = _without_upgrade(data)
        try:
            self.parser.feed_data(data)
            if self._in_head and of_head:
                self._head_bytes += len(data)
                if self._head_bytes > self.limits.head_bytes:
                    self._stop(_HEAD_TOO_LARGE)
        except httptools.HttpParserUpgrade:
            self._refused = True
            self.cycle.keep_alive = False
        except (httptools.HttpParserError, _Refused):
            self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._await_client(self.limits.head_seconds)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.head_bytes:
            self._stop(_HEAD_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > self.limits.headers or len(value) > self.limits.head_bytes:
            self._stop(_HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= self.limits.pipelined:
            self._stop(_MALFORMED)
        self._in_head = False
        super().on_headers_complete()
        self._await_client(self.limits.body_seconds)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle.response_complete:
            self._await_client(self.timeout_keep_alive)
        elif not self.flow.write_paused:
            self._waiting_since = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self.pipeline and self.pipeline[-1][0].disconnected:
            self.pipeline.clear()
        last = not self.pipeline
        super().on_response_complete()
        if last and self._refused:
            self.transport.close()
        elif last and not self._in_head:
            self._await_client(self.timeout_keep_alive)

    def pause_writing(self) -> None:
        self._await_client(self.limits.body_seconds)
        super().pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._waiting_since = None

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_client(self, seconds: float) -> None:
        # Who does not read what is answered gains no time by asking for more.
        if not self.flow.write_paused:
            self._waiting_since = self.loop.time()
            self._patience = seconds

    def _look_at_clock(self) -> None:
        """Every few seconds for each connection, so that a request costs no timer."""
        wait = tick = self.limits.head_seconds / 4
        if self._waiting_since is not None and (not self._refused or self.flow.write_paused):
            wait = self._waiting_since + self._patience - self.loop.time()
        if wait <= 0:
            self._time_is_up()
        if not self.transport.is_closing():
            self._timer = self.loop.call_later(min(max(wait, 0.01), tick), self._look_at_clock)

    def _time_is_up(self) -> None:
        if self.flow.write_paused:
            self.transport.abort()
        elif self._idle() and not self._in_head:
            self.transport.close()
        else:
            self._refusal = _TIMEOUT
            self._refuse()

    def _make_room(self) -> None:
        """Close the connection whose client has kept us waiting longest, or else this one."""
        waiting = [
            (other._waiting_since, id(other), other)
            for other in self.connections
            if isinstance(other, Protocol)
            and other is not self
            and other._waiting_since is not None
            and not other.transport.is_closing()
        ]
        if waiting:
            min(waiting)[-1].transport.abort()
        else:
            self._refusal = _CROWDED
            self._refuse()

    def _stop(self, refusal: tuple[int, str, str]) -> None:
        self._refusal = refusal
        raise _Refused

    def _refuse(self) -> None:
        """Answer what cannot be taken, then close. Nothing that follows is looked at."""
        self._refused = True
        broken = None if self._in_head or self._idle() else self.cycle
        if broken is not None and broken.more_body:
            broken.disconnected = True
            broken.message_event.set()
        if (
            self.pipeline
            or (broken and not broken.more_body)
            or (self._in_head and not self._idle())
        ):
            # An earlier request is still being worked on: its answer comes first, then the end.
            self.cycle.keep_alive = False
            return
        if not self.transport.is_closing():
            self.transport.write(_answer(*self._refusal))
        self.transport.close()


def with_limits(limits: ConnectionLimits) -> type[Protocol]:
    """The protocol class for `uvicorn.Config(http=...)`."""
    return type("LimitedProtocol", (Protocol,), {"limits": limits})


def _without_upgrade(data: bytes) -> bytes:
    """A request without its offer to speak another protocol, which a server may ignore.

    Java's client offers HTTP/2 with its first request, and the parser would take what follows the
    head, the body, for that other protocol.
    """
    end = data.find(b"\r\n\r\n")
    return _UPGRADE.sub(b"", data[:end]) + data[end:] if end >= 0 else data


def _answer(status: int, code: str, message: str) -> bytes:
    body: bytes = msgspec.json.encode({"code": code, "message": message})
    lines = [
        STATUS_LINE[status],
        b"content-type: application/json\r\n",
        b"access-control-allow-origin: *\r\n",
        b"content-length: %d\r\n" % len(body),
        b"retry-after: 1\r\n" if status in (429, 503) else b"",
        b"connection: close\r\n\r\n",
        body,
    ]
    return b"".join(lines)
