"""The warm process: everything a run needs is imported once, and each run is a fork of it.

A fork has its own memory, its own connections and its own end: a run that leaks, crashes or is
terminated takes nothing with it, and the interpreter start and imports (seconds) are paid once.
The process itself keeps no connection open and runs no Python thread but its own, which is what
makes forking safe.

Protocol: one JSON document per connection on a Unix socket, `{"run_id": …}`; the answer is
`{"pid": n}`.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from orchestration.settings import ROOT, Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

FINISH_SECONDS = 25.0
STATEMENT_TIMEOUT_MS = 60_000
_running = True
_runs: set[int] = set()  # processes of runs under way
_instance: DagsterInstance | None = None


def socket_path(settings: Settings) -> Path:
    """The warm process's socket; short, because Unix limits it to about 100 bytes."""
    name = sha256(str(settings.home).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"signalbox-{os.getuid()}-{name}.sock"


def answers(settings: Settings) -> bool:
    """Whether a warm process listens; a socket left by a killed one does not count."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, suppress(OSError):
        client.connect(str(socket_path(settings)))
        return True
    return False


def request(settings: Settings, run_id: str) -> int:
    """Ask the warm process to execute a run.

    Returns:
        The pid of the run's process.

    Raises:
        OSError: there is no warm process, or it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(str(socket_path(settings)))
        client.sendall(json.dumps({"run_id": run_id}).encode())
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile().readline()
    if not answer:
        raise OSError("the warm process closed the connection without an answer")
    return int(json.loads(answer)["pid"])


def serve(settings: Settings) -> None:
    """Import, listen, fork; until SIGTERM or SIGINT. Runs under way go on to their end."""
    _import_everything(settings)
    # What is here stays: a fork's garbage collector need not walk it, nor copy its pages.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    path = socket_path(settings)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        path.chmod(0o600)
        server.listen(16)
        server.setblocking(False)
        selector = selectors.DefaultSelector()
        selector.register(server, selectors.EVENT_READ)
        try:
            while _running:
                _reap()
                if selector.select(timeout=1.0):
                    _accept(server, settings)
        finally:
            path.unlink(missing_ok=True)
    _finish_children()


def _import_everything(settings: Settings) -> None:
    global _instance
    from dagster import DagsterInstance
    from dagster._cli import api  # noqa: F401
    from dagster._core.instance.ref import InstanceRef

    from ingestion.destination import warm_up
    from orchestration import dbt, definitions, postgres

    warm_up()
    dbt.warm_up(settings)
    # The forks share this process's place among the server's users.
    postgres.start(settings)
    # Resolved once here, so that no run resolves the asset graph again.
    definitions.defs.get_repository_def().get_all_jobs()
    # Its engines keep no connection open, so it may be made before the fork.
    _instance = DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT)))


def _accept(server: socket.socket, settings: Settings) -> None:
    try:
        client, _ = server.accept()
    except BlockingIOError:
        return
    with client:
        client.settimeout(5)
        try:
            run_id = str(json.loads(client.makefile().read())["run_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return  # a client that went away, or is not the launcher, asks for nothing
        pid = os.fork()
        if pid == 0:
            server.close()
            client.close()
            _run(run_id)
        _runs.add(pid)
        client.sendall(json.dumps({"pid": pid}).encode() + b"\n")


def _run(run_id: str) -> None:
    """In the fork: execute the run as `dagster api execute_run` does, then leave."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from dagster._cli.api import _execute_run_command_body
        from dagster._utils.interrupts import capture_interrupts

        assert _instance is not None
        with capture_interrupts():
            # Dagster connects anew for every statement unless told that it runs in a server;
            # a run stores hundreds of events.
            _instance.optimize_for_webserver(
                statement_timeout=STATEMENT_TIMEOUT_MS, pool_recycle=3600, max_overflow=20
            )
            code = _execute_run_command_body(run_id, _instance, lambda _: None, True)
    except BaseException:  # a fork must never return into the server's loop
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap() -> bool:
    """Collect runs that have ended; True if any is still under way."""
    _runs.difference_update([pid for pid in _runs if os.waitpid(pid, os.WNOHANG)[0] == pid])
    return bool(_runs)


def _finish_children() -> None:
    deadline = time.monotonic() + FINISH_SECONDS
    while _reap():
        if time.monotonic() > deadline:
            for pid in _runs:
                os.kill(pid, signal.SIGINT)  # ends as a run that is terminated in the UI
            return
        time.sleep(0.1)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    global _running
    _running = False
