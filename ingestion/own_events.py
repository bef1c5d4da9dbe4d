"""Events that Signalbox itself writes into the log, under a source that no producer can have.

What somebody decides about the data belongs into the log like the data: it is replayed with them,
survives a full refresh, and has its place in the order of things.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from ingestion.appender import Log
from ingestion.envelope import LogRecord, encode_record, format_time
from ingestion.reserved import OWN_SOURCE


def append(log: Log, event: str, properties: Mapping[str, Any]) -> int:
    """Write a track event of nobody, happening now; returns its log_seq.

    Raises:
        LogError: the log cannot be written to.
    """
    now = format_time(datetime.now(UTC))
    message_id = str(uuid.uuid4())
    payload = {
        "type": "track", "event": event, "messageId": message_id, "timestamp": now,
        "properties": dict(properties),
    }  # fmt: skip
    record = LogRecord(
        kind="event",
        source=OWN_SOURCE,
        message_id=message_id,
        message_id_generated=False,
        type="track",
        event=event,
        event_version=None,
        user_id=None,
        anonymous_id=None,
        timestamp=now,
        original_timestamp=now,
        sent_at=now,
        received_at=now,
        reason=None,
        detail=None,
        payload=msgspec.json.encode(payload).decode(),
    )
    return log.append([encode_record(record)]).start
