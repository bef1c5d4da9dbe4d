"""Run the sandbox: HTTP and SMTP on one event loop, until a signal or the caller stops it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from syncs.http import is_loopback
from syncs.sandbox.app import (
    DEFAULT_TOKEN,
    DEFAULT_WEBHOOK_SECRET,
    LOOPBACK,
    Sandbox,
    create_app,
)
from syncs.sandbox.effects import SandboxError
from syncs.sandbox.faults import Fault
from syncs.sandbox.gate import CuttableProtocol

GRACE_SECONDS = 3


@dataclass(frozen=True)
class Address:
    """Where a running sandbox listens."""

    host: str
    port: int
    smtp_port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: a stop asked for is a success, not a death."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        assert isinstance(app, Starlette)
        app.state.sandbox.desk.close()
        await super().shutdown(sockets)


def run(
    host: str = "127.0.0.1",
    port: int = 8090,
    smtp_port: int = 8025,
    directory: Path = Path(".signalbox/sandbox"),
    *,
    token: str = DEFAULT_TOKEN,
    webhook_secret: str = DEFAULT_WEBHOOK_SECRET,
    fault: Fault | None = None,
    rate_limits: bool = True,
    postgres: str = "",
    files: str = "",
    ready: Callable[[Address], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT (or `stop`, from another thread), then return.

    Port 0 chooses a free one; `ready` is called with the address once both servers listen.
    Raises SandboxError if a port or the directory is taken.
    """
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(_listener(host, port, "SIGNALBOX_SANDBOX_PORT"))
        mail = stack.enter_context(_listener(host, smtp_port, "SIGNALBOX_SANDBOX_SMTP_PORT"))
        app = create_app(
            directory,
            token,
            webhook_secret,
            fault=fault,
            rate_limits=rate_limits,
            postgres=postgres,
            files=files,
            allowed_hosts=LOOPBACK if is_loopback(host) else ("*",),
        )
        sandbox: Sandbox = app.state.sandbox
        stack.callback(sandbox.effects.close)
        asyncio.run(_serve(app, sandbox, host, web, mail, ready, stop))


async def _serve(
    app: Starlette,
    sandbox: Sandbox,
    host: str,
    web: socket.socket,
    mail: socket.socket,
    ready: Callable[[Address], None] | None,
    stop: threading.Event | None,
) -> None:
    loop = asyncio.get_running_loop()
    server = _Server(
        uvicorn.Config(
            app,
            http=CuttableProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )

    def ask_to_stop() -> None:
        server.should_exit = True

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ask_to_stop)
    smtp_server = await loop.create_server(sandbox.mailbox.server, sock=mail)
    serving = asyncio.create_task(server.serve(sockets=[web]))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if ready and not serving.done():
            ready(Address(host, web.getsockname()[1], mail.getsockname()[1]))
        while stop is not None and not stop.is_set() and not serving.done():
            await asyncio.sleep(0.05)
        if stop is not None:
            ask_to_stop()
        await serving
    finally:
        ask_to_stop()
        smtp_server.close()


@contextlib.contextmanager
def background(
    directory: Path,
    *,
    token: str = DEFAULT_TOKEN,
    webhook_secret: str = DEFAULT_WEBHOOK_SECRET,
    fault: Fault | None = None,
    rate_limits: bool = True,
    postgres: str = "",
    files: str = "",
) -> Iterator[Address]:
    """A sandbox on free ports in a thread, for tests; stopped when the block ends."""
    started: list[Address] = []
    failed: list[BaseException] = []
    is_up, stop = threading.Event(), threading.Event()

    def ready(address: Address) -> None:
        started.append(address)
        is_up.set()

    def target() -> None:
        try:
            run(
                port=0,
                smtp_port=0,
                directory=directory,
                token=token,
                webhook_secret=webhook_secret,
                fault=fault,
                rate_limits=rate_limits,
                postgres=postgres,
                files=files,
                ready=ready,
                stop=stop,
            )
        except BaseException as error:
            failed.append(error)
        finally:
            is_up.set()

    thread = threading.Thread(target=target, name="sandbox")
    thread.start()
    try:
        is_up.wait()
        if failed:
            raise failed[0]
        yield started[0]
    finally:
        stop.set()
        thread.join()


def _listener(host: str, port: int, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's delay (40 ms an answer) off only then.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SandboxError(
            f"cannot listen on {host}:{port} ({error.strerror}): stop what uses it, "
            f"or set {setting} to another port"
        ) from error
    return listener
