"""Running the collector as a process: open the log, bind, serve until told to stop.

What it answers stands in `ingestion.http_api`.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from ingestion.client import Proxies
from ingestion.contract import CONTRACTS, Contracts
from ingestion.envelope import Limits
from ingestion.http_api import create_app
from ingestion.log import EventLog
from ingestion.protocol import ConnectionLimits, with_limits
from ingestion.request import SourcePolicy

__all__ = ["CollectorError", "SourcePolicy", "create_app", "run"]

_DRAIN_SECONDS = 10


class CollectorError(Exception):
    """The collector cannot start; the text says what to do."""


def run(
    log_directory: Path,
    write_keys: Mapping[str, SourcePolicy | str],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    contracts: Path = CONTRACTS,
    limits: Limits | None = None,
    connections: ConnectionLimits | None = None,
    trusted_proxies: Iterable[str] = (),
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Serve the collector until SIGINT or SIGTERM, then finish what is in flight and return.

    `write_keys` maps a key to the name of its source or to a SourcePolicy. `port` 0 takes any free
    one; `on_ready` is called with the port in use once connections are taken. `trusted_proxies`
    are the addresses or networks whose X-Forwarded headers are believed. Raises CollectorError,
    ContractError or LogError if it cannot start.
    """
    if not write_keys:
        raise CollectorError(
            "No write keys are set, so nobody could send events. "
            "Set SIGNALBOX_WRITE_KEYS, for example web=wk_1,server=wk_2."
        )
    try:
        proxies = Proxies(trusted_proxies)
    except ValueError as error:
        raise CollectorError(
            f"SIGNALBOX_TRUSTED_PROXIES: {error}. "
            "Write addresses or networks, for example 127.0.0.1,10.0.0.0/8."
        ) from None
    compiled = Contracts.load(contracts)
    with _listen(host, port) as listener, EventLog(log_directory) as log:
        config = uvicorn.Config(
            create_app(log, compiled, write_keys, limits, proxies=proxies),
            loop="uvloop",
            http=with_limits(connections or ConnectionLimits()),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # `Proxies` reads them, for requests that need them
            server_header=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        server = _Server(config, lambda: on_ready and on_ready(listener.getsockname()[1]))
        with _signals_stop(server):
            server.run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CollectorError(
            f"The collector cannot listen on {host}:{port} ({error.strerror}). Stop what uses the "
            "port, or choose another with SIGNALBOX_COLLECTOR_PORT."
        ) from error
    return listener


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
