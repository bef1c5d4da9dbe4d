"""Named points in the way of an event at which a process kills itself, as `kill -9` would there.

A child process of a test arms one of them before it starts its work; nothing in the product knows
of them. A kill from outside comes at any instant; these come where it matters most.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from collector_process import SERVER, Server

HERE = Path(__file__).parent
MAGIC_BYTES = 8

#: Of the writer: module, what is called there, and whether the end comes after the call.
FSYNC_POINTS = {
    "half of a group written": ("ingestion.log", "write_all", "half"),
    "written, not synced": ("ingestion.log", "sync", "before"),
}
ANSWER_POINTS = {
    "synced, not published": ("ingestion.log", "EventLog._publish", "before"),
    "published, not answered": ("ingestion.log", "EventLog._publish", "after"),
    "appended, not answered": ("ingestion.appender", "_resolve", "before"),
}
APPEND_POINTS = FSYNC_POINTS | ANSWER_POINTS
ROTATION_POINTS = {
    "new segment without its first bytes": ("ingestion.log", "write_all", "before magic"),
    "new segment not in its directory": ("ingestion.log", "sync_directory", "before"),
    "new segment not yet in use": ("ingestion.log", "EventLog._create_segment", "after"),
    "rotated": ("ingestion.log", "EventLog._rotate", "after"),
}
RETENTION_POINTS = {
    "before a segment is deleted": ("pathlib", "Path.unlink", "before"),
    "after a segment is deleted": ("pathlib", "Path.unlink", "after"),
    "all deleted, directory not synced": ("ingestion.retention", "sync_directory", "before"),
    "the new marker not in its place": ("pathlib", "Path.replace", "before"),
}
WRITER_POINTS = APPEND_POINTS | ROTATION_POINTS
LOG_POINTS = {n: p for n, p in WRITER_POINTS.items() if p[0] == "ingestion.log"}
RELAY_POINTS = {
    "in the log, not remembered": ("ingestion.relay", "_Waiting.add", "before"),
    "in the warehouse, not acknowledged": (
        "ingestion.sources.kafka",
        "Reader.acknowledge",
        "before",
    ),
    "acknowledged": ("ingestion.sources.kafka", "Reader.acknowledge", "after"),
}
POINTS = WRITER_POINTS | RETENTION_POINTS | RELAY_POINTS
#: What the long runs kill at, each as often as every other.
STEPS = {
    "before fsync": FSYNC_POINTS,
    "after fsync, before the answer": ANSWER_POINTS,
    "mid-rotation": ROTATION_POINTS,
}


def arm(point: str, call: int) -> None:
    """Die at the `call`-th passage of `point` from now on."""
    module, path, moment = POINTS[point]
    owner: Any = import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, _fatal(getattr(owner, name), moment, call))


def _fatal(real: Callable[..., Any], moment: str, call: int) -> Callable[..., Any]:
    passed = 0

    def fatal(*args: Any, **kwargs: Any) -> Any:
        nonlocal passed
        # A new segment is begun with its magic, which is not a group of records.
        is_magic = real.__name__ == "write_all" and len(args[1]) == MAGIC_BYTES
        counts = real.__name__ != "write_all" or is_magic == moment.endswith("magic")
        passed += counts
        due = counts and passed == call
        if due and moment == "half":
            os.write(args[0], args[1][: len(args[1]) // 2])
        if due and moment != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return fatal


def armed(point: str | None, call: int, code: str) -> list[str]:
    """A command that runs `code` in a Python of its own, armed with `point`; None: unarmed."""
    if point is not None:
        code = f"import kill_points\nkill_points.arm({point!r}, {call})\n{code}"
    return [sys.executable, "-c", code]


def environment() -> dict[str, str]:
    """That of a child, which finds this module and those it imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}


SMALL_SEGMENTS = """
from ingestion.log import EventLog
EventLog.__init__.__kwdefaults__["segment_bytes"] = 20_000
"""


def start_armed(directory: Path, point: str | None, call: int, workers: int = 1) -> Server:
    """A collector that dies at `point`, with segments small enough to be rotated often."""
    command = armed(point, call, SMALL_SEGMENTS + SERVER)
    process = subprocess.Popen(
        [*command, str(directory), json.dumps({"workers": workers})],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    # It may die before it is ready, at a point that it passes when it opens the log.
    return Server(process, int(process.stdout.readline() or 0), directory)
