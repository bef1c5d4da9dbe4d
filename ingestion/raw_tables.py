"""The columns of the tables in `raw`, stated once, as Arrow schemas.

`_dlt_load_id varchar` follows the columns of every table; dlt fills it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

TABLES = ("events", "quarantine", "crm_contacts", "support_tickets")
KEYS = ("contact_id", "ticket_id")  # dlt merges by them and takes no null there


@cache
def schema(table: str) -> Any:
    """The `pyarrow.Schema` of one of `TABLES`. Times are UTC microseconds, JSON is text."""
    import pyarrow as pa

    text, time = pa.string(), pa.timestamp("us", "UTC")
    columns = {
        "events": {
            "log_seq": pa.int64(),
            "source": text,
            "message_id": text,
            "message_id_generated": pa.bool_(),
            "type": text,
            "event": text,
            "event_version": pa.int32(),
            "user_id": text,
            "anonymous_id": text,
            "timestamp": time,
            "original_timestamp": time,
            "sent_at": time,
            "received_at": time,
            "payload": text,
        },
        "quarantine": {
            "log_seq": pa.int64(),
            "source": text,
            "message_id": text,
            "type": text,
            "event": text,
            "reason": text,
            "detail": text,
            "received_at": time,
            "payload": text,
        },
        "crm_contacts": {
            "contact_id": text,
            "email": text,
            "properties": text,
            "created_at": time,
            "updated_at": time,
            "archived": pa.bool_(),
        },
        "support_tickets": {
            "ticket_id": text,
            "requester_email": text,
            "subject": text,
            "status": text,
            "priority": text,
            "created_at": time,
            "updated_at": time,
            "payload": text,
        },
    }
    return pa.schema(
        [pa.field(name, kind, nullable=name not in KEYS) for name, kind in columns[table].items()]
    )
