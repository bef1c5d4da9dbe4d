"""A home on free ports whose processes are real, for tests of the hot lane."""

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
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import parsed
import requests

#: What the lane needs built, and the syncs that the tests wait for.
BUILT = (
    "resource_type:seed +tag:hot +sync_webhook__support_ticket_opened"
    " +sync_smtp_email__cart_abandoned +sync_meta_audiences__browsing"
    " +suppressions +customer_consents +accounts +signals_waiting"
)
PORTS = ("COLLECTOR", "DAGSTER", "SANDBOX", "SANDBOX_SMTP")


class Home:
    """A home on free ports, and its processes."""

    def __init__(self, **settings: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="sbx-hot-"))
        self.path.chmod(0o755)
        parsed.into(self.path)
        self.ports = {name: _free_port() for name in PORTS}
        self.env = os.environ | {
            "SIGNALBOX_HOME": str(self.path),
            "SIGNALBOX_CART_ABANDONED_MINUTES": "0.05",
            **{f"SIGNALBOX_{name}_PORT": str(port) for name, port in self.ports.items()},
            **settings,
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
        self.python("-m", "orchestration.cli", *args)

    def python(self, *args: str) -> str:
        """What a program of its own, in this home, prints."""
        done = subprocess.run(
            [sys.executable, *args], env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def send(self, *messages: dict[str, Any]) -> None:
        answer = requests.post(
            f"http://127.0.0.1:{self.ports['COLLECTOR']}/v1/batch",
            json={"batch": list(messages)},
            auth=("wk_server", ""),
            timeout=10,
        )
        assert answer.status_code == 200, answer.text

    def answers(self) -> bool:
        """Whether the collector does."""
        try:
            return requests.get(f"http://127.0.0.1:{self.ports['COLLECTOR']}/health", timeout=1).ok
        except requests.RequestException:
            return False

    def arrived(self, destination: str, words: str) -> int:
        """How often something with these words had an effect at a stand-in.

        What is repeated under its key after a kill, as the receiver is told, has none.
        """
        file = self.path / "sandbox" / "effects.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        effects = [json.loads(line) for line in lines if words in line]
        return sum(
            effect["destination"] == destination and not effect.get("duplicate")
            for effect in effects
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


@contextmanager
def new_home(**settings: str) -> Iterator[Home]:
    """A home with these settings besides; its processes are killed and it is removed."""
    home = Home(**settings)
    try:
        yield home
    finally:
        for process in reversed(home.running):
            process.kill()
            process.wait()
        shutil.rmtree(home.path, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def person(name: str, *, consent: bool = True) -> dict[str, Any]:
    traits = {"email": f"{name}@example.com", "consent": {"marketing": consent}}
    return {"type": "identify", "userId": name, "messageId": f"i-{name}", "traits": traits}


def views(name: str, number: int, event: str = "Product Viewed") -> list[dict[str, Any]]:
    """So many looks at one product, the last of them now; or another event with it."""
    item = {"product_id": "p_1", "name": "Lamp", "quantity": 1, "price": 9.5}
    order = {"order_id": f"o-{name}", "total": 9.5, "currency": "EUR", "items": [item]}
    return [
        {
            "type": "track",
            "event": event,
            "userId": name,
            "messageId": f"{event}-{name}-{place}",
            "timestamp": (datetime.now(UTC) - timedelta(minutes=number - place)).isoformat(),
            "properties": item if event == "Product Viewed" else order,
        }
        for place in range(1, number + 1)
    ]


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
