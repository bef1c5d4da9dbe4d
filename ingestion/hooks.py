"""Vendors that call the collector: POST /v1/hooks/<name> for each push source that is on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ingestion.contract import Contracts
from ingestion.delivery import Door
from ingestion.envelope import LogRecord
from ingestion.request import RequestError, SourcePolicy
from ingestion.sources import PushSource, Refused, Request, SourceError, load

_RETRY_SECONDS = 5


@dataclass(frozen=True)
class Hook:
    """A push source with its settings; plain data, which may be sent to another process."""

    policy: SourcePolicy
    settings: Any

    def records(self, request: Request, contracts: Contracts, now: datetime) -> list[LogRecord]:
        """What a call brings, judged; nothing is wrong with who sent it.

        Raises:
            RequestError: 401 or 400 as the source says, 503 if it cannot tell now.
        """
        source = load(self.policy.name)
        assert isinstance(source, PushSource)
        fields = getattr(self.settings, "fields", {})
        events = getattr(self.settings, "events", {})
        try:
            deliveries = source.receive(request, self.settings, now)
        except Refused as refused:
            code = "invalid_signature" if refused.status == 401 else "invalid_request"
            raise RequestError(refused.status, code, refused.message) from None
        except SourceError as error:
            raise RequestError(503, "unavailable", str(error), retry_after=_RETRY_SECONDS) from None
        door = Door(self.policy, contracts, fields, events)
        return [door.judge(delivery, now) for delivery in deliveries]
