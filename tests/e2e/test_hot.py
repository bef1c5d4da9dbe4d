"""The hot lane with real processes: HTTP in, an action at the sandbox, kills between, one each."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

BUILT = (
    "resource_type:seed +tag:hot +sync_webhook__support_ticket_opened"
    " +sync_smtp_email__cart_abandoned +suppressions +customer_consents +accounts +signals_waiting"
)
PORTS = ("COLLECTOR", "DAGSTER", "SANDBOX", "SANDBOX_SMTP")


class Home:
    """A home on free ports, and its processes."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="sbx-hot-"))
        self.path.chmod(0o755)
        self.ports = {name: _free_port() for name in PORTS}
        self.env = os.environ | {
            "SIGNALBOX_HOME": str(self.path),
            "SIGNALBOX_CART_ABANDONED_MINUTES": "0.05",
            **{f"SIGNALBOX_{name}_PORT": str(port) for name, port in self.ports.items()},
        }
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, command: str) -> subprocess.Popen[bytes]:
        with (self.path / f"{command}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestration.cli", command],
                env=self.env,
                stdout=log,
                stderr=log,
            )
        self.running.append(process)
        return process

    def run(self, *args: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "orchestration.cli", *args],
            env=self.env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def send(self, *messages: dict[str, Any]) -> None:
        answer = requests.post(
            f"http://127.0.0.1:{self.ports['COLLECTOR']}/v1/batch",
            json={"batch": list(messages)},
            auth=("wk_server", ""),
            timeout=10,
        )
        assert answer.status_code == 200, answer.text

    def arrived(self, destination: str, words: str) -> int:
        """How often something with these words arrived at a stand-in."""
        file = self.path / "sandbox" / "effects.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return sum(
            words in line for line in lines if json.loads(line)["destination"] == destination
        )

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                log = (
                    (self.path / "hot.log").read_text() if (self.path / "hot.log").exists() else ""
                )
                raise AssertionError(f"{what} did not happen\n{log[-3000:]}")
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def home() -> Iterator[Home]:
    home = Home()
    yield home
    for process in reversed(home.running):
        process.kill()
        process.wait()
    shutil.rmtree(home.path, ignore_errors=True)


def person(name: str, *, consent: bool = True) -> dict[str, Any]:
    traits = {"email": f"{name}@example.com", "consent": {"marketing": consent}}
    return {"type": "identify", "userId": name, "messageId": f"i-{name}", "traits": traits}


def ticket(name: str, number: str) -> dict[str, Any]:
    properties = {"ticket_id": number, "subject": "Help", "priority": "high"}
    return {
        "type": "track",
        "event": "Support Ticket Opened",
        "userId": name,
        "messageId": f"t-{number}",
        "properties": properties,
    }


def cart(name: str, number: str) -> dict[str, Any]:
    item = {"product_id": "p_1", "name": "Lamp", "quantity": 1, "price": 9.5}
    properties = {"cart_id": number, "currency": "EUR", "total": 9.5, "items": [item]}
    return {
        "type": "track",
        "event": "Cart Updated",
        "userId": name,
        "messageId": f"c-{number}",
        "timestamp": (datetime.now(UTC) - timedelta(seconds=1)).isoformat(),
        "properties": properties,
    }


def test_one_action_each_through_kills_and_the_micro_batch(home: Home) -> None:
    home.start("sandbox")
    home.start("collect")
    home.run("build", "--no-tests", "--select", BUILT)
    hot = home.start("hot")
    home.until(lambda: _answers(home), "the collector's start")

    home.send(person("ada"), ticket("ada", "T-1"))
    home.until(lambda: home.arrived("webhook", "T-1") > 0, "the action on a ticket")

    # Silence makes no event: the cart falls due by the clock. Who said no gets nothing.
    home.send(person("bob"), cart("bob", "C-1"), person("eve", consent=False), cart("eve", "C-2"))
    home.until(lambda: home.arrived("smtp_email", "bob@example.com") > 0, "the mail on a cart")

    for number in range(2, 8):
        home.send(person(f"p{number}"), ticket(f"p{number}", f"T-{number}"))
        if number == 4:
            hot.kill()
            hot.wait()
    # A visit without a name, which turns out to be ada's while the lane is down.
    home.send({**ticket("ada", "T-8"), "anonymousId": "phone"})
    home.start("hot")
    home.until(lambda: home.arrived("webhook", "T-8") > 0, "the actions after a kill")
    home.run("load")
    home.run("build", "--no-tests", "--select", BUILT)
    home.run("sync", "run", "webhook__support_ticket_opened")
    home.run("sync", "run", "smtp_email__cart_abandoned")
    for number in range(1, 9):
        assert home.arrived("webhook", f"T-{number}") == 1, number
    assert home.arrived("smtp_email", "bob@example.com") == 1
    assert home.arrived("smtp_email", "eve@example.com") == 0


def _answers(home: Home) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{home.ports['COLLECTOR']}/health", timeout=1).ok
    except requests.RequestException:
        return False
