"""What was kept aside: counted, shown, and sent through the door again.

A replay judges a message as if it had just arrived, by the contracts and policies of now, but with
the time it was received at, its source and its identity as they were. What passes is appended to
the event log as an event that names the quarantine record it was made from. That one record is
both the event and the mark that the message was replayed, so no crash can come between the two.
What still does not pass stays where it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from ingestion.appender import Log
from ingestion.contract import Contracts
from ingestion.envelope import (
    Arrival,
    Limits,
    LogRecord,
    MessageType,
    encode_record,
    format_time,
    to_record,
)
from ingestion.request import SourcePolicy

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BATCH_MESSAGES = 2_000
BATCH_BYTES = 2 * 1024 * 1024  # of one append
SAMPLES = 3
# As the collector takes, but for size: a message that --set has made longer is no stranger's.
LIMITS = Limits(message_bytes=1024 * 1024)


class QuarantineError(Exception):
    """A replay or a filter cannot be done as asked; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which quarantined messages; what is None does not matter.

    `id` is a `log_seq` or a message id; `since` a point in time with zone.
    """

    id: str | None = None
    reason: str | None = None
    event: str | None = None
    version: int | None = None
    source: str | None = None
    since: datetime | None = None

    def where(self) -> tuple[str, list[Any]]:
        """A condition on raw.quarantine, and its parameters."""
        conditions = {
            "reason = ?": self.reason,
            "event = ?": self.event,
            "event_version = ?": self.version,
            "source = ?": self.source,
            "received_at >= ?": self.since,
            "message_id = ?": self.id,
        }
        given = {text: value for text, value in conditions.items() if value is not None}
        if self.id is not None and self.id.isdecimal():
            given.pop("message_id = ?")
            given |= {"(message_id = ? or log_seq = try_cast(? as bigint))": self.id}
            values = [*given.values(), self.id]
        else:
            values = list(given.values())
        return " and ".join(given) or "true", values


class Quarantined(msgspec.Struct, frozen=True):
    """One message in quarantine."""

    log_seq: int
    source: str
    message_id: str
    message_id_generated: bool
    type: MessageType | None
    event: str | None
    event_version: int | None
    reason: str
    detail: str
    sent_at: datetime | None
    received_at: datetime
    payload: str
    replayed_at: datetime | None = None


_COLUMNS = """
    log_seq, source, message_id,
    coalesce(message_id_generated, starts_with(message_id, 'sbx-')) as message_id_generated,
    type, event, event_version, reason, coalesce(detail, reason) as detail, sent_at, received_at,
    payload, replayed_at
"""
# A load that was killed can repeat rows, under the same log_seq.
_RECORDS = """
with replays as (
    select source, message_id, min(replayed_at) as replayed_at
    from raw.events where replayed_from is not null group by all
),
records as (
    select quarantine.*, replays.replayed_at
    from raw.quarantine as quarantine left join replays using (source, message_id)
    where {where}
    qualify row_number() over (partition by log_seq order by _dlt_load_id) = 1
)
"""


@dataclass(frozen=True, slots=True)
class Group:
    """Messages that were quarantined alike; `sample` is the newest of them."""

    sample: Quarantined
    reason: str
    event: str | None
    version: int | None
    source: str
    messages: int
    replayed: int
    first_received_at: datetime
    last_received_at: datetime

    @property
    def waiting(self) -> int:
        """How many were not replayed."""
        return self.messages - self.replayed


def groups(connection: DuckDBPyConnection, wanted: Filter) -> list[Group]:
    """The quarantine by reason, event, version and source, the most frequent first."""
    where, values = wanted.where()
    rows = connection.execute(
        f"""{_RECORDS.format(where=where)}
        select reason, event, event_version, source, count(*), count(replayed_at),
            min(received_at), max(received_at), max(log_seq)
        from records group by reason, event, event_version, source
        order by count(*) - count(replayed_at) desc, count(*) desc,
            reason, event, event_version, source""",
        values,
    ).fetchall()
    newest = {
        record.log_seq: record
        for record in _select(connection, "true", [], f"log_seq in {_numbers(rows)}")
    }
    return [Group(newest[row[-1]], *row[:-1]) for row in rows]


def find(connection: DuckDBPyConnection, wanted: Filter, limit: int) -> list[Quarantined]:
    """Single messages, the newest first."""
    where, values = wanted.where()
    return list(_select(connection, where, values, "true", f"log_seq desc limit {int(limit)}"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One message of a replay: as it is, as it would be sent, and what is still wrong with it."""

    log_seq: int
    before: str
    after: str
    reason: str | None
    detail: str | None


@dataclass(slots=True)
class Replay:
    """What a replay did, or with `dry_run` would do. `messages = passed + refused.total()`."""

    messages: int = 0
    passed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    first_seq: int | None = None
    next_seq: int | None = None


def replay(
    connection: DuckDBPyConnection,
    log: Log | None,
    wanted: Filter,
    *,
    contracts: Contracts,
    policy: Callable[[str], SourcePolicy],
    assignments: Sequence[str] = (),
    limit: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Replay:
    """Send what waits in quarantine through the door again, each message once.

    The caller holds the lake's writer lock and has loaded the whole log before, so that the
    warehouse knows of every replay so far.

    Args:
        connection: the lake, in use.
        log: where to append; None: only say what would happen.
        wanted: which messages.
        contracts: those to judge by.
        policy: what the settings say about a source.
        assignments: changes to the payload before it is judged, see `Fix`.
        limit: stop after so many messages.
        progress: told the number of messages done so far.

    Raises:
        QuarantineError: an assignment cannot be evaluated. What was appended before stays.
        LogError: the log cannot be written; replaying again does not repeat what was.
    """
    where, values = wanted.where()
    # A producer that tried again left several records of one message.
    first = "qualify row_number() over (partition by source, message_id order by log_seq) = 1"
    order = f"log_seq{'' if limit is None else f' limit {int(limit)}'}"
    result = Replay()
    waiting = _select(connection, where, values, f"replayed_at is null {first}", order)
    with Fix(assignments) as fix:
        while rows := list(islice(waiting, BATCH_MESSAGES)):
            records = []
            for row, outcome in zip(rows, fix.apply(rows), strict=True):
                record = _judge(row, outcome, contracts, policy(row.source))
                if isinstance(record, LogRecord):
                    records.append(encode_record(record))
                    result.passed += 1
                    reason = detail = None
                else:
                    reason, detail = record
                    result.refused[reason] += 1
                if len(result.samples) < SAMPLES:
                    after = outcome if isinstance(outcome, str) else row.payload
                    result.samples.append(Sample(row.log_seq, row.payload, after, reason, detail))
            if log is not None:
                for group in _groups(records):
                    appended = log.append(group)
                    if result.first_seq is None:
                        result.first_seq = appended.start
                    result.next_seq = appended.stop
            result.messages += len(rows)
            if progress is not None:
                progress(result.messages)
    return result


class _NotApplicable(Exception):
    """An assignment's place does not exist in a message; the text says why."""


class Fix:
    """Assignments to a message's fields, each `place = SQL expression`.

    The place is a field of the message, such as `event` or `properties.total`. The expression is
    DuckDB's SQL over `payload` (the message as it was received, as JSON) and the columns source,
    type, event, reason and received_at. All see the message as it was. NULL removes the field.

    It is evaluated by a DuckDB that has no tables, and can reach neither files nor the network.

    Raises:
        QuarantineError: from the constructor and from `apply`.
    """

    _FORM = re.compile(r"\s*([A-Za-z_]\w*(?:\.[^\s.=\[\]\"']+)*)\s*=(?!=)\s*(\S.*?)\s*;?\s*", re.S)

    def __init__(self, assignments: Sequence[str]) -> None:
        self._connection: DuckDBPyConnection | None = None
        self._parsed = [self._parse(assignment) for assignment in assignments]
        if self._parsed:
            self._connection = _isolated()

    def __enter__(self) -> Fix:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def _parse(self, assignment: str) -> tuple[list[str], str]:
        found = self._FORM.fullmatch(assignment)
        if found is None:
            raise QuarantineError(
                f"{assignment!r} is not an assignment; write for example "
                "properties.total = try_cast(payload->>'$.properties.total' as double)"
            )
        place = found[1].split(".")
        if place[0] == "messageId":
            raise QuarantineError("messageId cannot be set: a replayed message keeps its identity.")
        return place, found[2]

    def apply(self, rows: Sequence[Quarantined]) -> list[str | _NotApplicable]:
        """The payload of each row as it would be sent, or why that cannot be."""
        if self._connection is None:
            return [row.payload for row in rows]
        values = self._evaluate(rows)
        return [self._changed(row.payload, new) for row, new in zip(rows, values, strict=True)]

    def _evaluate(self, rows: Sequence[Quarantined]) -> list[tuple[str | None, ...]]:
        import duckdb
        import pyarrow as pa

        assert self._connection is not None
        names = ("source", "type", "event", "reason", "received_at")
        columns = {name: [getattr(row, name) for row in rows] for name in names}
        # What is no JSON has no fields: the expressions find nothing in it.
        columns["payload"] = [row.payload if _fields(row.payload) else None for row in rows]
        columns["position"] = list(range(len(rows)))
        texts = [pa.field(name, pa.string()) for name in (*names[:-1], "payload")]
        schema = pa.schema(
            [*texts, ("received_at", pa.timestamp("us", "UTC")), ("position", pa.int64())]
        )
        self._connection.register("given", pa.table(columns, schema=schema))
        wanted = ", ".join(
            # The line breaks end a comment that the expression may close with.
            f"cast(to_json((\n{expression}\n)) as varchar)"
            for _, expression in self._parsed
        )
        query = (
            f"select {wanted} from (select * replace (cast(payload as json) as payload) "
            "from given) as messages order by position"
        )
        try:
            if len(self._connection.extract_statements(query)) != 1:
                raise QuarantineError("Give one SQL expression, not several statements.")
            values = self._connection.execute(query).fetchall()
        except duckdb.Error as error:
            expressions = [expression for _, expression in self._parsed]
            summary = str(error).strip().partition("\n")[0]
            hint = " Use try_cast for values that may not fit." if "onversion" in summary else ""
            raise QuarantineError(
                f"--set cannot be evaluated: {_no_values(summary, expressions)}{hint}"
            ) from None
        if len(values) != len(rows):
            raise QuarantineError("--set must give one value for each message.")
        return values

    def _changed(self, payload: str, values: tuple[str | None, ...]) -> str | _NotApplicable:
        raw = payload.encode()
        try:
            for (place, _), value in zip(self._parsed, values, strict=True):
                raw = _with(raw, place, None if value in (None, "null") else value, "the message")
        except _NotApplicable as error:
            return error
        return raw.decode()


def _judge(
    row: Quarantined,
    payload: str | _NotApplicable,
    contracts: Contracts,
    policy: SourcePolicy,
) -> LogRecord | tuple[str, str]:
    """The event that a message becomes, or reason and words why it does not."""
    if isinstance(payload, _NotApplicable):
        return row.reason, str(payload)
    if row.reason == "invalid_text" and payload == row.payload and "\ufffd" in payload:
        return row.reason, "what was not UTF-8 is lost; --set a field to accept it as it is now"
    arrival = Arrival(
        source=row.source,
        received_at=row.received_at,
        sent_at=row.sent_at,
        type=row.type,
        unknown_events=policy.unknown_events,
        violations=policy.violations,
    )
    record = to_record(payload.encode(), arrival, contracts, LIMITS)
    if record.kind == "quarantine":
        return record.reason or "", record.detail or ""
    return msgspec.structs.replace(
        record,
        message_id=row.message_id,
        message_id_generated=row.message_id_generated,
        replayed_from=row.log_seq,
        replayed_at=format_time(datetime.now(UTC)),
    )


def _select(
    connection: DuckDBPyConnection,
    where: str,
    values: Sequence[Any],
    condition: str,
    order: str = "log_seq",
) -> Iterator[Quarantined]:
    cursor = connection.cursor()
    cursor.execute("use lake.main")
    cursor.execute(
        f"{_RECORDS.format(where=where)} select {_COLUMNS} from records "
        f"where {condition} order by {order}",
        list(values),
    )
    while rows := cursor.fetchmany(BATCH_MESSAGES):
        for row in rows:
            yield Quarantined(*row)


def _groups(records: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The records in groups that a log takes at a time, which share one fsync."""
    group: list[bytes] = []
    size = 0
    for record in records:
        if group and size + len(record) > BATCH_BYTES:
            yield group
            group, size = [], 0
        group.append(record)
        size += len(record)
    if group:
        yield group


def _numbers(rows: Sequence[tuple[Any, ...]]) -> str:
    return f"({', '.join(str(int(row[-1])) for row in rows) or 'null'})"


def _isolated() -> DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for setting in (
        "enable_progress_bar",
        "autoinstall_known_extensions",
        "autoload_known_extensions",
        "python_enable_replacements",
        "enable_external_access",
    ):
        connection.execute(f"set {setting} = false")
    connection.execute("set lock_configuration = true")
    return connection


_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _fields(raw: str | bytes) -> dict[str, msgspec.Raw] | None:
    try:
        return _objects.decode(raw)
    except (ValueError, RecursionError):
        return None


def _with(raw: bytes, place: Sequence[str], value: str | None, name: str) -> bytes:
    """A JSON object with one field set or removed, and every other byte of a value as it was."""
    fields = _fields(raw)
    if fields is None:
        raise _NotApplicable(f"{name} is not an object, so {place[0]} cannot be set in it")
    here, *rest = place
    if rest:
        inner = bytes(fields.get(here, b"{}"))
        inner = b"{}" if inner == b"null" else inner
        fields[here] = msgspec.Raw(_with(inner, rest, value, here))
    elif value is None:
        fields.pop(here, None)
    else:
        fields[here] = msgspec.Raw(value.encode())
    return msgspec.json.encode(fields)


def _no_values(error: str, expressions: Iterable[str]) -> str:
    """An error of DuckDB with only those texts and numbers that the user wrote: no message's."""
    written = "\n".join(expressions)

    def shown(found: re.Match[str]) -> str:
        return found[0] if found[0].strip("'\"") in written else "***"

    return re.sub(r"'[^']*'|\"[^\"]*\"|\d[\d.:+-]*", shown, error)
