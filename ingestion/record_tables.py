"""From log records to the columns of the raw tables, thousands of records at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec

from ingestion import raw_tables

# Where a column has another name than the field of the record it comes from.
_FIELD_OF = {"violation_reason": "reason", "violation_detail": "detail"}
_PARSE_BYTES = 1 << 20  # parsed by one core at a time


class _Record(msgspec.Struct):
    # Read leniently, with defaults: a log may hold records of older versions of Signalbox.
    kind: str
    source: str = ""
    message_id: str | None = None
    message_id_generated: bool = False
    type: str | None = None
    event: str | None = None
    event_version: int | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    timestamp: str | None = None
    original_timestamp: str | None = None
    sent_at: str | None = None
    received_at: str | None = None
    reason: str | None = None
    detail: str | None = None
    payload: str = ""
    rejected: bool = False
    replayed_from: int | None = None
    replayed_at: str | None = None
    repeat_of: int | None = None  # which the load finds out
    log_seq: int = -1


_decode = msgspec.json.Decoder(_Record).decode


def split(records: Sequence[tuple[int, bytes]]) -> tuple[Any, Any]:
    """Log records as two `pyarrow.Table`s: events and quarantine. Each record is in one of them."""
    import pyarrow as pa

    try:
        return _all_at_once(records)
    except pa.ArrowInvalid:
        # Among them is one that is not what we write today: each is read by itself.
        return _one_by_one(records)


def _all_at_once(records: Sequence[tuple[int, bytes]]) -> tuple[Any, Any]:
    """By Arrow's reader of JSON lines. Raises ArrowInvalid if any record is not as expected."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.json as pj

    if not records:
        return _one_by_one(records)
    lines = b"\n".join([record for _, record in records])
    parsed = pj.read_json(
        pa.BufferReader(lines),
        read_options=pj.ReadOptions(block_size=_PARSE_BYTES),
        parse_options=pj.ParseOptions(
            explicit_schema=_record_schema(), unexpected_field_behavior="ignore"
        ),
    )
    known = pc.is_in(parsed["kind"], value_set=pa.array(["event", "quarantine"]))
    if parsed.num_rows != len(records) or not pc.all(known).as_py():
        raise pa.ArrowInvalid("not one record of a known kind in each line")
    parsed.validate(full=True)
    positions = pa.array([log_seq for log_seq, _ in records], pa.int64())
    parsed = parsed.append_column("log_seq", positions)
    is_event = pc.equal(parsed["kind"], "event")
    if pc.all(is_event).as_py():  # as nearly always
        return _cast("events", parsed), raw_tables.schema("quarantine").empty_table()
    return (
        _cast("events", parsed.filter(is_event)),
        _cast("quarantine", parsed.filter(pc.invert(is_event))),
    )


@cache
def _record_schema() -> Any:
    import pyarrow as pa

    types = {str: pa.string(), bool: pa.bool_(), int: pa.int64()}
    fields = [field for field in msgspec.structs.fields(_Record) if field.name != "log_seq"]
    return pa.schema([(field.name, types[_plain(field.type)]) for field in fields])


def _plain(kind: Any) -> type:
    """The type of an optional field."""
    parts = [part for part in getattr(kind, "__args__", ()) if part is not type(None)]
    plain: type = parts[0] if parts else kind
    return plain


def _cast(name: str, parsed: Any) -> Any:
    """The columns of a raw table from parsed records, whose times are still text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    defaults = {f.name: f.default for f in msgspec.structs.fields(_Record) if not f.required}
    columns = []
    for field in raw_tables.schema(name):
        source = _FIELD_OF.get(field.name, field.name)
        column = parsed[source]
        if defaults[source] is not None:
            column = pc.fill_null(column, defaults[source])
        if pa.types.is_timestamp(field.type):
            column = _timestamps(column, field.type)
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=raw_tables.schema(name))


def _one_by_one(records: Sequence[tuple[int, bytes]]) -> tuple[Any, Any]:
    parsed: dict[str, list[_Record]] = {"event": [], "quarantine": []}
    for log_seq, data in records:
        try:
            record = _decode(data)
            parsed[record.kind]  # a kind of a newer version is as unreadable as broken JSON
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
            record = _Record(
                "quarantine",
                reason="invalid_record",
                detail=f"The log record cannot be read: {error}",
                payload=data.decode("utf-8", "replace"),
            )
        record.log_seq = log_seq
        parsed[record.kind].append(record)
    return _table("events", parsed["event"]), _table("quarantine", parsed["quarantine"])


def _table(name: str, records: list[_Record]) -> Any:
    import pyarrow as pa

    schema = raw_tables.schema(name)
    columns = []
    for field in schema:
        source = _FIELD_OF.get(field.name, field.name)
        values = [getattr(record, source) for record in records]
        if pa.types.is_timestamp(field.type):
            columns.append(_timestamps(pa.array(values, pa.string()), field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=schema)


def _timestamps(texts: Any, kind: Any) -> Any:
    import pyarrow as pa

    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        # One odd value must not stop the load for good; it stays in the payload.
        return pa.array([_timestamp(text) for text in texts.to_pylist()], kind)


def _timestamp(text: str | None) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return parsed.astimezone(UTC) if parsed and parsed.tzinfo else parsed
