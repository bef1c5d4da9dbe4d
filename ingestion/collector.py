"""Running the collector as a process: open the log, bind, serve until told to stop.

What it answers stands in `ingestion.http_api`, how several processes share the work in
`ingestion.workers`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ingestion.appender import Log
from ingestion.client import Proxies
from ingestion.contract import CONTRACTS, Contracts
from ingestion.counters import Counters
from ingestion.envelope import Limits
from ingestion.hooks import Hook
from ingestion.http_api import create_app
from ingestion.log import EventLog
from ingestion.log_server import LogServer
from ingestion.open_log import open_log
from ingestion.protocol import ConnectionLimits
from ingestion.request import SourcePolicy
from ingestion.segment import make_directory
from ingestion.serving import Site, serve
from ingestion.workers import WorkersFailed, serve_with_workers

__all__ = ["CollectorError", "SourcePolicy", "create_app", "run"]

logger = logging.getLogger("signalbox.collector")


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
    workers: int = 1,
    reserve_bytes: int = 0,
    log_url: str = "",
    hooks: Mapping[str, Hook] | None = None,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Serve the collector until SIGINT or SIGTERM, then finish what is in flight and return.

    With one worker this process does all the work. With more, each is a process that takes
    requests, and this one alone writes the log. Meanwhile other processes may append through
    `RemoteLog`. With less than `reserve_bytes` free on the log's disk nothing is taken. With a
    `log_url`, kafka://…, that topic is the log, and the directory holds only what goes with it.

    `write_keys` maps a key to the name of its source or to a SourcePolicy. `port` 0 takes any free
    one; `on_ready` is called with the port in use once connections are taken. `trusted_proxies`
    are the addresses or networks whose X-Forwarded headers are believed. `hooks` are the vendors
    that may call POST /v1/hooks/<name>. Raises CollectorError, ContractError or LogError if it
    cannot start.
    """
    if not write_keys:
        raise CollectorError(
            "No write keys are set, so nobody could send events. "
            "Set SIGNALBOX_WRITE_KEYS, for example web=wk_1,server=wk_2."
        )
    try:
        Proxies(trusted_proxies := tuple(trusted_proxies))
    except ValueError as error:
        raise CollectorError(
            f"SIGNALBOX_TRUSTED_PROXIES: {error}. "
            "Write addresses or networks, for example 127.0.0.1,10.0.0.0/8."
        ) from None
    Contracts.load(contracts)
    site = Site(
        dict(write_keys),
        contracts,
        limits or Limits(),
        connections or ConnectionLimits(),
        trusted_proxies,
        dict(hooks or {}),
    )
    with (
        _listen(host, port) as listener,
        _open_log(log_directory, log_url, reserve_bytes) as log,
        LogServer(log, log_directory),
    ):
        if log.recovered_bytes:
            logger.warning("the log had a torn tail; %d bytes were cut", log.recovered_bytes)
        ready = lambda: on_ready and on_ready(listener.getsockname()[1])  # noqa: E731
        if workers == 1:
            serve(site, log, listener, Counters(), ready)
            return
        try:
            serve_with_workers(workers, site, log_directory, listener, ready)
        except WorkersFailed as error:
            raise CollectorError(str(error)) from None


@contextmanager
def _open_log(directory: Path, url: str, reserve_bytes: int) -> Iterator[Log]:
    if url:
        make_directory(directory)  # for the socket of those that append through us
        with open_log(directory, url) as topic:
            yield topic
        return
    with EventLog(directory, reserve_bytes=reserve_bytes) as log:
        yield log


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
