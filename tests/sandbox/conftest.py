"""A real sandbox per test module and per test, and the calls its tests repeat."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from syncs.sandbox.app import DEFAULT_WEBHOOK_SECRET
from syncs.sandbox.server import Address, background

AUTH = {"authorization": "Bearer sandbox"}
CONTACTS = "/hubspot/crm/v3/objects/contacts"
TICKETS = "/support/api/v2/tickets"
TIMEOUT = 20


class Client:
    """The sandbox as its tests talk to it."""

    def __init__(self, address: Address) -> None:
        self.address, self.url = address, address.url
        self.session = requests.Session()
        self.session.headers.update(AUTH)

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", TIMEOUT)
        return self.session.request(method, self.url + path, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.call("POST", path, **options)

    def upsert(self, rows: dict[str, dict[str, Any]], **options: Any) -> requests.Response:
        inputs = [
            {"id": email, "idProperty": "email", "properties": properties}
            for email, properties in rows.items()
        ]
        return self.post(f"{CONTACTS}/batch/upsert", json={"inputs": inputs}, **options)

    def slack(self, **arguments: Any) -> requests.Response:
        return self.post("/slack/api/chat.postMessage", json=arguments)

    def ticket(self, email: str, subject: str = "Export fails", **fields: Any) -> requests.Response:
        ticket = {"subject": subject, "requester": {"email": email}, **fields}
        return self.post(TICKETS, json={"ticket": ticket})

    def webhook(
        self, name: str, body: bytes, webhook_id: str, *, at: float | None = None
    ) -> requests.Response:
        stamp = str(int(time.time() if at is None else at))
        return self.post(f"/webhook/{name}", data=body, headers=signature(webhook_id, stamp, body))

    def effects(self, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/sandbox/effects", params=query).json()
        return found

    def stats(self) -> dict[str, Any]:
        return self.get("/sandbox/stats").json()["destinations"]

    def fault(self, **fault: Any) -> requests.Response:
        return self.post("/sandbox/faults", json=fault)


def signature(webhook_id: str, stamp: str, body: bytes) -> dict[str, str]:
    """The three Standard Webhooks headers for a body."""
    secret = base64.b64decode(DEFAULT_WEBHOOK_SECRET.removeprefix("whsec_"))
    digest = hmac.new(secret, f"{webhook_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": stamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Client]:
    """A sandbox of one's own, on free ports."""
    with background(tmp_path / "sandbox") as address:
        client = Client(address)
        yield client
        client.session.close()
