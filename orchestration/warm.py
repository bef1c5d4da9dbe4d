"""The warm process: everything a run needs is imported once, and its workers are forks of it.

A worker executes one run at a time and keeps what the next one can use: the attached lake, dlt's
pipeline, dbt's compiled templates, connections. It goes, and a fresh fork takes its place, when a
run did not succeed, when it has grown too much, and when it is old or was idle for long; so a run
that leaks, crashes or is terminated takes no other with it. The warm process itself keeps no
connection open and runs no Python thread but its own, which is what makes forking safe.

Protocol: one JSON document per connection on a Unix socket, `{"run": id}` or
`{"terminate": id, "pid": n}`; the answer is the pid of the worker, `{"pid": n}`, null if it is none
of this process's.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from orchestration.priority import go_second
from orchestration.settings import ROOT, Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

FINISH_SECONDS = 25.0
STATEMENT_TIMEOUT_MS = 60_000
SOCKET_PATH_BYTES = 100  # what every Unix takes
# Three: a micro-batch that acts overlaps with the next one, and both with what runs once a minute.
IDLE_WORKERS = 3
# Connections that nobody uses are closed by servers and firewalls sooner or later.
IDLE_SECONDS = 300.0
WORKER_SECONDS = 3600.0
WORKER_GROWTH_BYTES = 2**30
SPAWN_PAUSE_SECONDS = 5.0  # between workers that nobody asked for: one may fail to get ready

_running = True
_instance: DagsterInstance | None = None


class PrivateDirectoryTaken(Exception):
    """The directory for sockets belongs to somebody else; the message names it."""


def socket_path(settings: Settings, name: str = "warm") -> Path:
    """Where a process of this home listens: in the home, or, as Unix limits the length of such
    paths, in a directory of this user's own.

    Raises:
        PrivateDirectoryTaken: that directory is not this user's own.
    """
    path = settings.home / "run" / f"{name}.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path
    directory = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    directory /= f"signalbox-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PrivateDirectoryTaken(
            f"{directory} should be a directory that only you can open. Remove it, or set "
            "SIGNALBOX_HOME to a shorter path."
        )
    return directory / f"{sha256(str(settings.home).encode()).hexdigest()[:12]}-{name}.sock"


def answers(settings: Settings) -> bool:
    """Whether a warm process listens; a socket left by a killed one does not count."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, suppress(OSError):
        client.connect(str(socket_path(settings)))
        return True
    return False


def request(settings: Settings, run_id: str) -> int:
    """Ask the warm process to execute a run.

    Returns:
        The pid of the worker that does.

    Raises:
        OSError: there is no warm process, or it does not answer.
    """
    pid = _ask(settings, {"run": run_id})
    if pid is None:
        raise OSError("the warm process refused the run")
    return pid


def terminate(settings: Settings, run_id: str, pid: int) -> bool:
    """Ask for the end of a run, if the worker `pid` still has it; False if it is nobody's worker.

    Raises:
        OSError: there is no warm process, or it does not answer.
    """
    return _ask(settings, {"terminate": run_id, "pid": pid}) is not None


def _ask(settings: Settings, question: dict[str, str | int]) -> int | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(str(socket_path(settings)))
        client.sendall(json.dumps(question).encode())
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile().readline()
    if not answer:
        raise OSError("the warm process closed the connection without an answer")
    pid = json.loads(answer)["pid"]
    return None if pid is None else int(pid)


def serve(settings: Settings) -> None:
    """Import, listen, hand runs to workers; until SIGTERM or SIGINT. Runs under way go on."""
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
        mask = os.umask(0o177)
        server.bind(str(path))
        os.umask(mask)
        server.listen(16)
        server.setblocking(False)
        office = _Office(settings, server)
        socket_id = _inode(path)
        try:
            while _running:
                office.turn()
                if _inode(path) != socket_id:
                    # Nobody can ask any more, and all runs would start the slow way for good.
                    sys.stderr.write(f"{path} was removed or replaced; ends, to begin again\n")
                    break
        finally:
            if _inode(path) == socket_id:
                path.unlink()
    office.close()


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _import_everything(settings: Settings) -> None:
    global _instance
    from dagster import DagsterInstance
    from dagster._cli import api  # noqa: F401
    from dagster._core.instance.ref import InstanceRef

    from ingestion.destination import warm_up
    from orchestration import dbt, definitions, postgres

    warm_up()
    dbt.pin(settings)
    # The forks share this process's place among the server's users.
    postgres.start(settings)
    # Resolved once here, so that no run resolves the asset graph again.
    definitions.defs.get_repository_def().get_all_jobs()
    # Its engines keep no connection open, so it may be made before the fork.
    _instance = DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT)))


@dataclass(eq=False)
class _Worker:
    """A worker as the warm process sees it: `run_id` is the run it has, none while it is idle."""

    pid: int
    channel: socket.socket
    run_id: str | None
    born: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)
    leaving: bool = False

    def read(self) -> bytes:
        try:
            return self.channel.recv(64)
        except OSError:
            return b""


class _Office:
    """Hands each run to the worker that was used last, or to a new one."""

    def __init__(self, settings: Settings, server: socket.socket) -> None:
        self._settings = settings
        self._server = server
        self._workers: list[_Worker] = []
        self._ended: set[int] = set()  # pids to collect
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ)
        self._spawned = -SPAWN_PAUSE_SECONDS

    def turn(self) -> None:
        """Wait up to a second for what there is to do, and do it."""
        ready = [key.data for key, _ in self._selector.select(timeout=1.0)]
        for worker in filter(None, ready):
            self._hear(worker)
        if None in ready:
            self._accept()  # last: the question may be about a worker that has just ended
        self._reap()
        self._replace()

    def close(self) -> None:
        """Send idle workers home and give the others time to finish their runs."""
        deadline = time.monotonic() + FINISH_SECONDS
        for worker in list(self._workers):
            if worker.run_id is None:
                self._dismiss(worker)
        while self._workers and time.monotonic() < deadline:
            for key, _ in self._selector.select(timeout=0.1):
                if key.data is not None and self._hear(key.data):
                    self._dismiss(key.data)
        for worker in self._workers:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGINT)  # ends as a run that is terminated in the UI
        self._reap()

    def _accept(self) -> None:
        try:
            client, _ = self._server.accept()
        except BlockingIOError:
            return
        with client:
            client.settimeout(5)
            try:
                question = json.loads(client.makefile().read())
                if "terminate" in question:
                    pid = self._terminate(question["terminate"], question["pid"])
                else:
                    pid = self._assign(str(question["run"]), client)
                client.sendall(json.dumps({"pid": pid}).encode() + b"\n")
            except (OSError, ValueError, KeyError, TypeError):
                return  # a client that went away, or is not the launcher, asks for nothing

    def _assign(self, run_id: str, client: socket.socket) -> int:
        for worker in sorted(self._idle(), key=lambda one: one.used, reverse=True):
            try:
                worker.channel.sendall(run_id.encode() + b"\n")
            except OSError:
                self._forget(worker)
                continue
            worker.run_id = run_id
            return worker.pid
        return self._spawn(run_id, client).pid

    def _terminate(self, run_id: str, pid: int) -> int | None:
        for worker in self._workers:
            if worker.pid == pid:
                if worker.run_id == run_id:
                    worker.leaving = True  # had it finished just now, the signal ends it as well
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGINT)
                return pid
        return None

    def _hear(self, worker: _Worker) -> bool:
        """Note that a worker has finished its run; False if it has ended."""
        if not worker.read():
            self._forget(worker)
            return False
        worker.run_id = None
        worker.used = time.monotonic()
        if worker.leaving:
            self._dismiss(worker)
        return True

    def _replace(self) -> None:
        """Send home who was idle for long, is old, or is one too many; keep one worker ready."""
        now = time.monotonic()
        idle = sorted(self._idle(), key=lambda one: one.used, reverse=True)
        for place, worker in enumerate(idle):
            too_old = now - worker.used > IDLE_SECONDS or now - worker.born > WORKER_SECONDS
            if too_old or place >= IDLE_WORKERS:
                self._dismiss(worker)
        if not self._idle() and now - self._spawned > SPAWN_PAUSE_SECONDS:
            self._spawned = now
            self._spawn(None)

    def _idle(self) -> list[_Worker]:
        return [one for one in self._workers if one.run_id is None and not one.leaving]

    def _spawn(self, run_id: str | None, client: socket.socket | None = None) -> _Worker:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            # What is the parent's alone: a copy kept here would hide its end from other workers.
            for inherited in (self._server, client, ours, *(one.channel for one in self._workers)):
                if inherited is not None:
                    inherited.close()
            self._selector.close()
            _work(self._settings, theirs, run_id)
        theirs.close()
        worker = _Worker(pid, ours, run_id)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def _dismiss(self, worker: _Worker) -> None:
        self._forget(worker)  # it ends when its channel does

    def _forget(self, worker: _Worker) -> None:
        self._selector.unregister(worker.channel)
        worker.channel.close()
        self._workers.remove(worker)
        self._ended.add(worker.pid)

    def _reap(self) -> None:
        self._ended -= {pid for pid in self._ended if os.waitpid(pid, os.WNOHANG)[0] == pid}


def _work(settings: Settings, channel: socket.socket, run_id: str | None) -> None:
    """In the fork: execute runs until one fails, this process is worn out or the parent gone."""
    code = 1
    try:
        os.setsid()
        go_second()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        size = _size()
        _connect()
        try:
            _prepare(settings)
        except Exception:
            if run_id is None:
                raise
            traceback.print_exc()  # the run will meet the same, and say so where it is looked for
        lines = channel.makefile()
        while run_id := run_id or lines.readline().strip():
            if not _execute(run_id) or _size() - size > WORKER_GROWTH_BYTES:
                break
            run_id = None
            channel.sendall(b"done\n")
            gc.collect()  # now, while nobody waits
        code = 0
    except KeyboardInterrupt:
        code = 0  # a run was to be terminated that had ended
    except OSError:
        pass  # the parent is gone
    except BaseException:  # a fork must never return into the parent's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _size() -> int:
    """Bytes of memory this process holds, those it shares with its parent included."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _prepare(settings: Settings) -> None:
    """Open what a run needs, before there is one."""
    import polars  # noqa: F401 - its threads do not survive a fork, so not in the parent

    from orchestration import ingest, lake, warehouse

    lake.share(settings)
    warehouse.ensure(settings)
    ingest.loader(settings).position()


def _connect() -> None:
    # Dagster connects anew for every statement unless told that it runs in a server; a run stores
    # hundreds of events.
    assert _instance is not None
    _instance.optimize_for_webserver(
        statement_timeout=STATEMENT_TIMEOUT_MS, pool_recycle=3600, max_overflow=20
    )
    _instance.event_log_storage.gather = True  # type: ignore[attr-defined]


def _execute(run_id: str) -> bool:
    """Execute a run as `dagster api execute_run` does; True if it ended well."""
    from dagster._cli.api import _execute_run_command_body
    from dagster._utils.interrupts import capture_interrupts

    assert _instance is not None
    with capture_interrupts():
        code = _execute_run_command_body(run_id, _instance, lambda _: None, True)
    run = _instance.get_run_by_id(run_id)
    return code == 0 and run is not None and run.is_success


def _stop(_signal: int, _frame: FrameType | None) -> None:
    global _running
    _running = False
