"""Runs the processes of a home under one roof: one log, restarts, and a stop in the right order.

Each child has a session of its own, so that Ctrl-C reaches the supervisor alone, which then stops
them one after another; on Linux the kernel ends them if the supervisor itself is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from orchestration.priority import go_second

STOP_SECONDS = 30.0
RESTART_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)
HEALTHY_AFTER = 60.0
LOOK_SECONDS = 3.0  # between two looks for edits
PR_SET_PDEATHSIG = 1


class StartFailed(Exception):
    """A process did not come up; the message holds the end of its log."""


@dataclass
class Process:
    """One child.

    Args:
        name: shown before each of its lines in the log.
        command: argv.
        ready: returns True once it serves; checked until `ready_seconds` have passed.
        second: whether the others go first when the processors are busy.
        renews: whether it begins again when the project was edited.
    """

    name: str
    command: Sequence[str]
    ready: Callable[[], bool] | None = None
    ready_seconds: float = 90.0
    env: Mapping[str, str] = field(default_factory=dict)
    second: bool = False
    renews: bool = False


class Supervisor:
    """Starts processes in the given order and stops them in the opposite one."""

    def __init__(self, log_file: Path, on_notice: Callable[[str], None]) -> None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self._log: IO[str] = log_file.open("a", buffering=1)
        self._log_path = log_file
        self._notice = on_notice
        self._lock = threading.Lock()
        self._children: list[tuple[Process, subprocess.Popen[str]]] = []
        self._tails: dict[str, list[str]] = {}
        self._failures: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._stopping = False
        self._edited: Callable[[], bool] | None = None
        self._renew = threading.Event()

    def start(self, *processes: Process) -> None:
        """Start these together and return when all of them serve.

        Raises:
            StartFailed: one of them ended or did not answer in time; the others keep running.
        """
        for process in processes:
            self._children.append((process, self._spawn(process)))
        for process in processes:
            self._wait_ready(process)

    def follow(self, edited: Callable[[], bool]) -> None:
        """From now on `watch` asks every few seconds whether to begin again what renews.

        What `edited` raises is told, and changes nothing.
        """
        self._edited = edited

    def watch(self, stop: threading.Event) -> None:
        """Restart what ends by itself, with growing pauses, until `stop` is set."""
        if self._edited is not None:
            threading.Thread(target=self._look, args=(stop, self._edited), daemon=True).start()
        due: dict[str, float] = {}
        renewing: set[str] = set()
        while not stop.wait(0.5):
            if self._renew.is_set():
                self._renew.clear()
                renewing |= self._begin_again()
            for index, (process, child) in enumerate(self._children):
                if child.poll() is None:
                    continue
                if process.name in renewing:
                    renewing.discard(process.name)
                    self._children[index] = (process, self._spawn(process))
                    continue
                now = time.monotonic()
                if process.name not in due:
                    if now - self._started[process.name] > HEALTHY_AFTER:
                        self._failures[process.name] = 0
                    tries = self._failures.get(process.name, 0)
                    pause = RESTART_SECONDS[min(tries, len(RESTART_SECONDS) - 1)]
                    self._failures[process.name] = tries + 1
                    due[process.name] = now + pause
                    self._notice(
                        f"{process.name} ended ({_ending(child)}); starting it again in "
                        f"{pause:.0f} s. Its lines are in {self._log_path}"
                    )
                elif now >= due[process.name]:
                    del due[process.name]
                    self._children[index] = (process, self._spawn(process))

    def stop(self) -> None:
        """Stop all children, last started first, each with time to finish what it does."""
        self._stopping = True
        while self._children:
            process, child = self._children.pop()
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self._notice(f"{process.name} did not stop in {STOP_SECONDS:.0f} s; killed")
                    with suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        self._log.close()

    def _look(self, stop: threading.Event, edited: Callable[[], bool]) -> None:
        while not stop.wait(LOOK_SECONDS):
            try:
                if edited():
                    self._renew.set()
            except Exception as error:
                self._notice(str(error))

    def _begin_again(self) -> set[str]:
        """Ask what renews to end; its names."""
        found = [(process, child) for process, child in self._children if process.renews]
        names = [process.name for process, _ in found]
        self._notice(f"The project was edited; begins again with it: {', '.join(names)}.")
        for _, child in found:
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
        return set(names)

    def _spawn(self, process: Process) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            process.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **process.env},
            start_new_session=True,
            preexec_fn=_prepare_second if process.second else _prepare_child,
        )
        self._started[process.name] = time.monotonic()
        self._write("supervisor", f"started {process.name} (pid {child.pid})")
        threading.Thread(target=self._collect, args=(process.name, child), daemon=True).start()
        return child

    def _collect(self, name: str, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            self._write(name, line.rstrip("\n"))

    def _write(self, name: str, line: str) -> None:
        stamp = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        with self._lock:
            tail = self._tails.setdefault(name, [])
            tail.append(line)
            del tail[:-30]
            with suppress(ValueError):  # the log is closed last, some lines may come later
                self._log.write(f"{stamp} {name:<10} {line}\n")

    def _wait_ready(self, process: Process) -> None:
        deadline = time.monotonic() + process.ready_seconds
        child = next(child for known, child in self._children if known is process)
        while process.ready is not None and not process.ready():
            if child.poll() is not None or time.monotonic() > deadline:
                what = _ending(child) if child.poll() is not None else "no answer"
                tail = "\n".join(self._tails.get(process.name, [])[-12:])
                raise StartFailed(f"{process.name} did not start ({what}):\n{tail}")
            time.sleep(0.1)


def port_answers(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False


def _ending(child: subprocess.Popen[str]) -> str:
    code = child.returncode
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _prepare_child() -> None:
    # A shell that starts us in the background ignores SIGINT for all our children, and Dagster
    # ends on SIGTERM only if SIGINT has its default.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _prepare_second() -> None:
    _prepare_child()
    go_second()
