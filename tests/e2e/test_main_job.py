"""The main job with everything real: processes, Segment's SDK, Dagster, Postgres, HTTP, SMTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

SIGNALBOX = [sys.executable, "-m", "orchestration.cli"]
MESSAGES = {"slack", "smtp_email", "webhook"}
PORTS = ("COLLECTOR", "DAGSTER", "SANDBOX", "SANDBOX_SMTP")


class Home:
    """A home of its own on free ports, and the command line on it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="sbx-e2e-"))
        self.path.chmod(0o755)
        self.ports = {name: _free_port() for name in PORTS}
        self.env = os.environ | {
            "SIGNALBOX_HOME": str(self.path),
            **{f"SIGNALBOX_{name}_PORT": str(port) for name, port in self.ports.items()},
        }

    def run(self, *args: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SIGNALBOX, *args], env=self.env, capture_output=True, text=True, timeout=timeout
        )

    def json(self, *args: str) -> Any:
        done = self.run(*args, "--json")
        assert done.returncode == 0, done.stdout + done.stderr + self.log()
        return json.loads(done.stdout)

    def effects(self) -> list[dict[str, Any]]:
        file = self.path / "sandbox" / "effects.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]

    def log(self) -> str:
        file = self.path / "logs" / "signalbox.log"
        return file.read_text()[-6000:] if file.exists() else ""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    home = Home()
    yield home
    shutil.rmtree(home.path, ignore_errors=True)


def test_the_demo_shows_every_stage(home: Home) -> None:
    report = home.json("demo", "--check", "--customers", "300", "--rounds", "1")
    assert report["missing"] == []
    assert {"hubspot", "slack", "smtp_email", "webhook"} <= set(report["event_to_action_seconds"])
    stages = report["stages"]
    assert stages["raw_events"] + stages["quarantined"] <= stages["accepted"]
    assert stages["events"] == stages["timeline"]
    carts = home.json("preview", "smtp_email__cart_abandoned")
    assert all(cart["headers"]["List-Unsubscribe"] for cart in carts)
    assert all(cart["html"].startswith("<!doctype html>") for cart in carts)
    (one,) = home.json("sql", "select min(customer_id) as id from customers where is_identified")
    now = home.json("customer", one["id"])
    known = home.json("customer", one["id"], "--as-of", "0s")
    assert now["events"] and (known["events"], known["ids"]) == (now["events"], now["ids"])
    before_the_import = home.json("customer", one["id"], "--as-of", "1d")
    assert before_the_import["events"] == [] and before_the_import["received_later"]
    assert home.json("diff")["edited"] == []
    nobody = home.run("preview", "smtp_email__cart_abandoned", "--customer", "u_none")
    assert nobody.returncode == 1 and "u_none is nobody known" in nobody.stderr


def messages(home: Home) -> Counter[tuple[str, str]]:
    """How often each message arrived; state that is upserted may arrive again."""
    return Counter(
        (effect["destination"], effect.get("identity") or effect["body"])
        for effect in home.effects()
        if effect["destination"] in MESSAGES
    )


def test_a_second_start_survives_kills_doubles_nothing_and_stops(home: Home) -> None:
    before = messages(home)
    process = subprocess.Popen(
        [*SIGNALBOX, "demo"],
        env=home.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _kill_when_serving(process, "collect", home)
        _kill_when_serving(process, "warm", home)
        answer = home.json("sql", "select count(*) as events from stg_events")
        assert answer[0]["events"] > 0
        refused = home.run("up", timeout=60)
        assert refused.returncode == 1
        assert "is taken" in refused.stderr
        _until(lambda: {name for name, _ in messages(home) - before} >= MESSAGES, process, home)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, output + home.log()
    assert "Stopped" in output
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, [child.cmdline() for child in alive]
    assert set(messages(home).values()) == {1}

    status = home.json("status")
    raw = home.json("sql", "select count(distinct log_seq) as n from raw.events")[0]["n"]
    quarantined = home.json("sql", "select count(distinct log_seq) as n from raw.quarantine")[0][
        "n"
    ]
    assert raw + quarantined + status["waiting_to_load"] == status["accepted"]
    assert status["writer"] is None
    assert status["serving"] == {"collector": False, "dagster": False, "sandbox": False}


def _kill_when_serving(supervisor: subprocess.Popen[str], command: str, home: Home) -> None:
    """SIGKILL one of the supervisor's processes once the whole system serves."""

    def kill() -> bool:
        if not (_answers(home.url("DAGSTER")) and _answers(home.url("COLLECTOR") + "/health")):
            return False
        for child in psutil.Process(supervisor.pid).children():
            if child.cmdline()[-1:] == [command]:
                child.kill()
                return True
        return False

    _until(kill, supervisor, home)


def _until(condition: Callable[[], bool], process: subprocess.Popen[str], home: Home) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0] + home.log()
        assert time.monotonic() < deadline, home.log()
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False
