"""Give the sandbox's CRM and helpdesk what the simulated company's would know at the start."""

from __future__ import annotations

from typing import Any

import requests

from orchestration.demo.errors import SimulatorError
from orchestration.demo.world import World

CRM_BATCH = 100
TIMEOUT = 10.0


def seed_sandbox(world: World, sandbox_url: str, *, token: str = "sandbox") -> dict[str, int]:  # noqa: S107 (the sandbox's published token)
    """Send contacts and tickets through the vendors' own APIs.

    Doing it again changes nothing: contacts are upserted by email, tickets carry an idempotency
    key. Returns how many of each were sent: {"contacts": n, "tickets": n}.
    Raises SimulatorError if the sandbox does not answer or refuses.
    """
    base = sandbox_url.rstrip("/")
    contacts, tickets = world.crm_contacts(), world.support_tickets()
    with requests.Session() as http:
        http.headers["Authorization"] = f"Bearer {token}"
        for first in range(0, len(contacts), CRM_BATCH):
            inputs = [
                {"id": contact["email"], "idProperty": "email", "properties": contact}
                for contact in contacts[first : first + CRM_BATCH]
            ]
            _post(http, f"{base}/hubspot/crm/v3/objects/contacts/batch/upsert", {"inputs": inputs})
        for ticket in tickets:
            body = {
                "ticket": {
                    "external_id": ticket["ticket_id"],
                    "subject": ticket["subject"],
                    "status": ticket["status"],
                    "priority": ticket["priority"],
                    "requester": {
                        "email": ticket["requester_email"],
                        "external_id": ticket["requester_user_id"],
                    },
                    "created_at": ticket["created_at"],
                }
            }
            key = {"Idempotency-Key": ticket["ticket_id"]}
            _post(http, f"{base}/support/api/v2/tickets", body, key)
    return {"contacts": len(contacts), "tickets": len(tickets)}


def _post(
    http: requests.Session, url: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> None:
    try:
        answer = http.post(url, json=body, headers=headers, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise SimulatorError(
            f"no answer from the sandbox at {url} ({type(error).__name__}): "
            "start it with `signalbox sandbox`"
        ) from None
    if answer.status_code == 207 or not answer.ok:
        raise SimulatorError(
            f"the sandbox refused what {url} was sent ({answer.status_code}): {answer.text[:300]}"
        )
