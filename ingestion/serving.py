"""Serving the collector's HTTP side in this process, until told to stop."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn

from ingestion.appender import Log
from ingestion.client import Proxies
from ingestion.contract import Contracts
from ingestion.counters import Counters
from ingestion.envelope import Limits
from ingestion.hooks import Hook
from ingestion.http_api import create_app
from ingestion.protocol import ConnectionLimits, with_limits
from ingestion.request import SourcePolicy

#: How long requests that are in flight may take once the process is told to stop, in seconds.
DRAIN_SECONDS = 10


@dataclass(frozen=True)
class Site:
    """What a process needs to know to serve; plain data, which may be sent to another process."""

    write_keys: Mapping[str, SourcePolicy | str]
    contracts: Path
    limits: Limits
    connections: ConnectionLimits
    trusted_proxies: tuple[str, ...] = ()
    hooks: Mapping[str, Hook] = field(default_factory=dict)


def serve(
    site: Site,
    log: Log,
    listener: socket.socket,
    counters: Counters,
    on_ready: Callable[[], object],
    *,
    interruptible: bool = True,
) -> None:
    """Serve until SIGTERM, or SIGINT if `interruptible`; then finish what is in flight.

    New connections are refused from then on, which are those that come after `listener` has been
    closed in all processes that share it.
    """
    app = create_app(
        log,
        Contracts.load(site.contracts),
        site.write_keys,
        site.limits,
        proxies=Proxies(site.trusted_proxies),
        counters=counters,
        hooks=site.hooks,
    )
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=with_limits(site.connections),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # `Proxies` reads them, for requests that need them
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = _Server(config, on_ready, interruptible)
    with _signals_stop(server):
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], object], interruptible: bool
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._interruptible = interruptible

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT and not self._interruptible:
            return
        super().handle_exit(sig, frame)


@contextmanager
def _signals_stop(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the server and nothing else.

    uvicorn raises a signal again after it has shut down, which would end the process before the
    log is closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {sig: signal.signal(sig, stop) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
