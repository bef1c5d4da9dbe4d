"""What `signalbox up` runs, and how to tell that each part serves."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestration import warm
from orchestration.settings import ROOT, Settings
from orchestration.supervisor import Process, port_answers

LOCATION = "signalbox"


def log_file(settings: Settings) -> Path:
    """The one log of all processes."""
    return settings.home / "logs" / "signalbox.log"


def collector(settings: Settings) -> Process:
    return _own("collector", "collect", settings, settings.collector_port)


def sandbox(settings: Settings) -> Process:
    return _own("sandbox", "sandbox", settings, settings.sandbox_port)


def dagster(settings: Settings) -> list[Process]:
    """Code server, warm process, webserver and daemon; the last two share the code server."""
    workspace = _write_workspace(settings)
    env = {"DAGSTER_HOME": str(ROOT)}
    python = [sys.executable, "-m"]
    code_socket = _code_socket(settings)
    return [
        Process(
            "code",
            [*python, "dagster", "api", "grpc", "--socket", str(code_socket)]
            + ["--module-name", "orchestration.definitions", "--location-name", LOCATION],
            ready=code_socket.exists,
            env=env,
        ),
        Process(
            "warm",
            [*python, "orchestration.cli", "warm"],
            ready=warm.socket_path(settings).exists,
            env=env,
        ),
        Process(
            "webserver",
            [*python, "dagster_webserver", "-w", str(workspace), "-h", settings.host]
            + ["-p", str(settings.dagster_port)],
            ready=lambda: port_answers(settings.host, settings.dagster_port),
            env=env,
        ),
        Process("daemon", [*python, "dagster._daemon", "run", "-w", str(workspace)], env=env),
    ]


def _own(name: str, command: str, settings: Settings, port: int) -> Process:
    return Process(
        name,
        [sys.executable, "-m", "orchestration.cli", command],
        ready=lambda: port_answers(settings.host, port),
    )


def _code_socket(settings: Settings) -> Path:
    return warm.socket_path(settings).with_suffix(".code.sock")


def _write_workspace(settings: Settings) -> Path:
    path = settings.home / "dagster" / "workspace.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "load_from:\n"
        f"  - grpc_server: {{socket: {_code_socket(settings)}, location_name: {LOCATION}}}\n"
    )
    return path
