"""Events that Signalbox itself writes into the log, under a source that no producer can have.

What somebody decides about the data belongs into the log like the data: it is replayed with them,
survives a full refresh, and has its place in the order of things. So does what the records of other
systems say of who is who: their tables hold only what is so now.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ingestion.appender import Log
from ingestion.envelope import LogRecord, encode_record, format_time
from ingestion.reserved import OWN_SOURCE

if TYPE_CHECKING:
    from ingestion.sources import Link

LINKED = "Identity Linked"


def append(log: Log, event: str, properties: Mapping[str, Any]) -> int:
    """Write a track event of nobody, happening now; returns its log_seq.

    Raises:
        LogError: the log cannot be written to.
    """
    return log.append([_record(str(uuid.uuid4()), event, properties, {})]).start


def link_id(link: Link) -> str:
    """The message id of a link: the same for the same ids, so that it counts once."""
    text = msgspec.json.encode([link.id_kind, link.id_value, sorted(link.external_ids)])
    return f"link-{hashlib.sha256(text).hexdigest()[:32]}"


def append_links(log: Log, links: Sequence[Link]) -> None:
    """Write down which ids the records of another system hold together.

    Raises:
        LogError: the log cannot be written to.
    """
    if links:
        log.append(
            [
                _record(
                    link_id(link),
                    LINKED,
                    {"id_kind": link.id_kind, "id_value": link.id_value},
                    {
                        "externalIds": [
                            {"type": kind, "id": value, "collection": "users", "encoding": "none"}
                            for kind, value in link.external_ids
                        ]
                    },
                )
                for link in links
            ]
        )


def _record(
    message_id: str, event: str, properties: Mapping[str, Any], context: Mapping[str, Any]
) -> bytes:
    now = format_time(datetime.now(UTC))
    payload = {
        "type": "track", "event": event, "messageId": message_id, "timestamp": now,
        "properties": dict(properties),
    }  # fmt: skip
    if context:
        payload["context"] = dict(context)
    return encode_record(
        LogRecord(
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
    )
