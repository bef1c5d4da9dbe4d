"""What `signalbox up` runs, and how to tell that each part serves."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestration import ingest, postgres, warm
from orchestration.settings import ROOT, Settings
from orchestration.supervisor import Process, port_answers

LOCATION = "signalbox"
_PYTHON = (sys.executable, "-m")
_ENV = {"DAGSTER_HOME": str(ROOT)}
# The events that say what a run is going to do are stored in one piece.
_STANDING = _ENV | {postgres.KEEP_CONNECTIONS: "1", "DAGSTER_EVENT_BATCH_SIZE": "1000"}


def log_file(settings: Settings) -> Path:
    """The one log of all processes."""
    return settings.home / "logs" / "signalbox.log"


def collector(settings: Settings) -> Process:
    return _own("collector", "collect", settings, settings.collector_port)


def relay(settings: Settings) -> list[Process]:
    """What reads the brokers, if any is switched on."""
    if not ingest.pulled(settings):
        return []
    return [Process("relay", [sys.executable, "-m", "orchestration.cli", "relay"])]


def hot() -> Process:
    """The hot lane. Nobody waits for it: what it misses the micro-batch does."""
    command = [sys.executable, "-m", "orchestration.cli", "hot"]
    return Process("hot", command, env=_STANDING, renews=True)


def sandbox(settings: Settings) -> Process:
    return _own("sandbox", "sandbox", settings, settings.sandbox_port)


def code(settings: Settings) -> list[Process]:
    """What has the project's code loaded: Dagster's code server, and the warm process of runs."""
    socket = _code_socket(settings)
    socket.unlink(missing_ok=True)
    server = Process(
        "code",
        [*_PYTHON, "dagster", "api", "grpc", "--socket", str(socket)]
        + ["--module-name", "orchestration.definitions", "--location-name", LOCATION],
        ready=socket.exists,
        env=_STANDING,
        second=True,
        renews=True,
    )
    warm_runs = Process(
        "warm",
        [*_PYTHON, "orchestration.cli", "warm"],
        ready=lambda: warm.answers(settings),
        env=_ENV,
        second=True,
        renews=True,
    )
    return [server, warm_runs] if settings.warm_runs else [server]


def dagster(settings: Settings) -> list[Process]:
    """Dagster's webserver and daemon, both on the one code server."""
    workspace = str(_write_workspace(settings))
    return [
        Process(
            "webserver",
            [*_PYTHON, "dagster_webserver", "-w", workspace, "-h", settings.host]
            + ["-p", str(settings.dagster_port)],
            ready=lambda: port_answers(settings.host, settings.dagster_port),
            env=_ENV,
            second=True,
        ),
        Process(
            "daemon",
            [*_PYTHON, "orchestration.daemon", "run", "-w", workspace],
            env=_STANDING,
            second=True,
        ),
    ]


def _own(name: str, command: str, settings: Settings, port: int) -> Process:
    return Process(
        name,
        [sys.executable, "-m", "orchestration.cli", command],
        ready=lambda: port_answers(settings.host, port),
    )


def _code_socket(settings: Settings) -> Path:
    return warm.socket_path(settings, "code")


def _write_workspace(settings: Settings) -> Path:
    path = settings.home / "dagster" / "workspace.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "load_from:\n"
        f"  - grpc_server: {{socket: {_code_socket(settings)}, location_name: {LOCATION}}}\n"
    )
    return path
