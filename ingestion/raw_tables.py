"""The columns of the tables in `raw`, stated once, as Arrow schemas.

`_dlt_load_id varchar` follows the columns of every table; dlt fills it.
"""

from __future__ import annotations

from typing import Any

from ingestion.sources import RefreshSource, refreshed


def tables() -> tuple[str, ...]:
    """Every table of the raw layer: the log's two, and one for each refreshed source."""
    return ("events", "quarantine", *_sources())


def schema(table: str) -> Any:
    """The `pyarrow.Schema` of one of `tables()`. Times are UTC microseconds, JSON is text."""
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
            "violation_reason": text,
            "violation_detail": text,
            "replayed_from": pa.int64(),
            "replayed_at": time,
            "repeat_of": pa.int64(),
        },
        "quarantine": {
            "log_seq": pa.int64(),
            "source": text,
            "message_id": text,
            "message_id_generated": pa.bool_(),
            "type": text,
            "event": text,
            "event_version": pa.int32(),
            "reason": text,
            "detail": text,
            "user_id": text,
            "anonymous_id": text,
            "sent_at": time,
            "received_at": time,
            "payload": text,
            "rejected": pa.bool_(),
        },
    }
    if table in columns:
        return pa.schema(list(columns[table].items()))
    source = _sources()[table]
    kinds = {
        "text": text, "time": time, "bool": pa.bool_(), "integer": pa.int64(),
        "number": pa.float64(),
    }  # fmt: skip
    return pa.schema(
        # dlt merges by the key and takes no null there.
        [pa.field(n, kinds[kind], nullable=n != source.key) for n, kind in source.columns.items()]
    )


def _sources() -> dict[str, RefreshSource]:
    return {source.table: source for source in refreshed()}
