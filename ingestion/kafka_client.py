"""What everything that talks to Kafka shares: how to reach it, and its errors in our words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger("signalbox.kafka")

CONNECT_SECONDS = 10.0


def client_settings(servers: str, more: Mapping[str, str], reports: Errors) -> dict[str, Any]:
    """librdkafka's settings for a client of ours."""
    return {
        "bootstrap.servers": servers,
        "client.id": "signalbox",
        "error_cb": reports,
        "logger": logger,  # its own would write to standard error
        "log_level": 2,  # a broker that is away is said by errors, once for each attempt
        "log.connection.close": False,
        **more,
    }


class Errors:
    """Keeps the last error that a client reported about its brokers."""

    def __init__(self) -> None:
        self.last: str | None = None

    def __call__(self, error: Any) -> None:
        self.last = error.str()

    def reason(self, error: Any) -> str:
        """Why a call failed: what the client said before says more than that it timed out."""
        return self.last or error.args[0].str()
