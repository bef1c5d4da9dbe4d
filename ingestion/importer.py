"""Imports history from a file into the event log, through the same door as live events.

Every message passes the envelope and the contracts and is logged or quarantined. Its time is the
one it happened at, not corrected by any clock; it was received now. Importing a file a second
time adds its messages to the log again under the same ids, and staging keeps one of each.
"""

from __future__ import annotations

import gzip
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

import msgspec
import orjson

from ingestion.contract import Contracts
from ingestion.envelope import (
    Arrival,
    Limits,
    LogRecord,
    Policy,
    encode_record,
    format_time,
    parse_time,
    to_record,
)
from ingestion.log import LogBusy, LogError
from ingestion.mapping import MappingError, map_file, read_mapping
from ingestion.open_log import open_log
from ingestion.reserved import check_source

# What shares one fsync; a message of up to 1 MB may come along beyond.
BATCH_MESSAGES = 2_000
BATCH_BYTES = 16 * 1024 * 1024
# A file of one's own is no stranger's request: an order of a thousand lines is all right.
LIMITS = Limits(message_bytes=1024 * 1024)

Progress = Callable[[int, float], None]


class ImportFailed(Exception):
    """A file cannot be imported, or only in part; the message says where it stopped and why."""


@dataclass(frozen=True)
class ImportResult:
    """What an import did.

    `messages = accepted + quarantined`; `reasons` counts the quarantined by reason code. They stand
    among the log records `first_seq` to `next_seq - 1`. Of a table, `rows` were read and
    `rows_dropped` of them left out by the mapping's `where`.
    """

    messages: int
    accepted: int
    quarantined: int
    first_seq: int
    next_seq: int
    seconds: float
    reasons: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    rows_dropped: int = 0


@dataclass(frozen=True)
class _Input:
    messages: Iterator[bytes]
    fraction: Callable[[int], float]
    rows: int = 0
    rows_dropped: int = 0


def import_file(
    path: Path,
    log_dir: Path,
    *,
    source: str,
    mapping: Path | None = None,
    contracts: Contracts | None = None,
    unknown_events: Policy = "quarantine",
    violations: Policy = "quarantine",
    log_url: str = "",
    progress: Progress | None = None,
) -> ImportResult:
    """Append the messages of a file to the event log.

    Args:
        path: Segment messages as JSON lines (plain or gzip), or with `mapping` CSV or Parquet.
        log_dir: the event log's directory. A collector that runs on it does the writing.
        source: name of the source the messages count as, such as a write key's name.
        mapping: YAML file that says how rows become messages, see `ingestion.mapping`.
        contracts: those to check against; none: the shipped ones.
        unknown_events: what to do with events that have no contract; `reject` quarantines here.
        violations: the same, of events that break theirs.
        log_url: kafka://…, if the log is a topic.
        progress: called with the messages done so far and the share of the work done, 0 to 1.

    Raises:
        ImportFailed: the file or the mapping is wrong, or the log cannot be written. Messages
            before that point are in the log; importing again does not count them twice.
        SourceReserved: the source is Signalbox's own.
    """
    check_source(source)
    started = time.monotonic()
    contracts = contracts or Contracts.load()
    reasons: Counter[str] = Counter()
    done = 0
    try:
        with _open(path, mapping) as file, open_log(log_dir, log_url) as log:
            written = range(log.end(), log.end())
            for batch in _batches(file.messages):
                now = datetime.now(UTC)
                # Sent when received: the envelope then finds no skew to correct.
                arrival = Arrival(
                    source,
                    now,
                    sent_at=now,
                    unknown_events=unknown_events,
                    violations=violations,
                )
                records = [_record(message, arrival, contracts) for message in batch]
                last = log.append([encode_record(record) for record in records])
                written = range(written.start if done else last.start, last.stop)
                reasons.update(r.reason or "" for r in records if r.kind == "quarantine")
                done += len(batch)
                if progress is not None:
                    progress(done, file.fraction(done))
            return ImportResult(
                messages=done,
                accepted=done - reasons.total(),
                quarantined=reasons.total(),
                first_seq=written.start,
                next_seq=written.stop,
                seconds=time.monotonic() - started,
                reasons=dict(reasons),
                rows=file.rows,
                rows_dropped=file.rows_dropped,
            )
    except LogBusy as error:
        raise ImportFailed(
            f"Another process owns the event log and takes nothing from others: {error} "
            "Then import again."
        ) from None
    except (LogError, MappingError) as error:
        raise ImportFailed(str(error)) from None


def _batches(messages: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for message in messages:
        batch.append(message)
        size += len(message)
        if len(batch) == BATCH_MESSAGES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def _open(path: Path, mapping: Path | None) -> Iterator[_Input]:
    if mapping is not None:
        with map_file(path, read_mapping(mapping)) as mapped:
            total = max(mapped.total, 1)
            yield _Input(
                mapped.messages, lambda done: done / total, mapped.rows, mapped.rows_dropped
            )
        return
    if path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".parquet")):
        raise ImportFailed(
            f"{path.name} holds rows, not messages. Give a mapping that says how its rows become "
            "events; ingestion/mappings/ has an example."
        )
    try:
        file = path.open("rb")
        size = max(path.stat().st_size, 1)
    except OSError as error:
        raise ImportFailed(f"{path} cannot be read: {error.strerror}.") from None
    with file:
        yield _Input(_lines(path.name, file), lambda _: file.tell() / size)


def _lines(name: str, file: BufferedReader) -> Iterator[bytes]:
    is_gzip = file.peek(2)[:2] == b"\x1f\x8b"
    text: BufferedReader | gzip.GzipFile = gzip.GzipFile(fileobj=file) if is_gzip else file
    number = 0
    try:
        while line := text.readline(LIMITS.message_bytes * 2):
            number += 1
            line = line.strip()
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
                _check_first(name, line)
            if line:
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImportFailed(
            f"{name} is damaged or incomplete after line {number}: {error}. The lines before it "
            "are imported; get a whole file and import it again, nothing counts twice."
        ) from None


def _check_first(name: str, line: bytes) -> None:
    # One bad line among good ones is quarantined; a bad first line means a wrong file.
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        value = error
    if isinstance(value, dict):
        return
    problem = (
        f"line 1, column {value.colno}: {value.msg}"
        if isinstance(value, orjson.JSONDecodeError)
        else "line 1 is not a JSON object"
    )
    hint = " A JSON array becomes lines with: jq -c '.[]'" if line.startswith(b"[") else ""
    raise ImportFailed(
        f"{name} is not a file of JSON lines, one Segment message on each: {problem}.{hint}"
    )


def _record(message: bytes, arrival: Arrival, contracts: Contracts) -> LogRecord:
    record = to_record(message, arrival, contracts, LIMITS)
    if b'"originalTimestamp"' not in message or record.kind == "quarantine":
        return record
    # An archive holds the time as its client had it, and in `timestamp` the time already
    # corrected for the client's clock.
    corrected = parse_time(orjson.loads(message).get("timestamp"))
    if corrected is None:
        return record
    return msgspec.structs.replace(record, timestamp=format_time(corrected))
