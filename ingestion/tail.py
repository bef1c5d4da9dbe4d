"""The event log as it grows: the newest records that fit a filter, then those to come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from ingestion.envelope import LogRecord, decode_record, parse_time
from ingestion.open_log import Reader

_CHUNK = 2_000
_LOOK_BACK = 200_000  # records, when few of them fit the filter
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class TailFilter:
    """Which records; what is None does not matter. `quarantined` leaves only those in quarantine.

    `user` is a user id or an anonymous id.
    """

    event: str | None = None
    source: str | None = None
    type: str | None = None
    user: str | None = None
    quarantined: bool = False

    def matches(self, record: LogRecord) -> bool:
        """Whether the record is wanted."""
        return (
            (self.event is None or record.event == self.event)
            and (self.source is None or record.source == self.source)
            and (self.type is None or record.type == self.type)
            and (self.user is None or self.user in (record.user_id, record.anonymous_id))
            and (not self.quarantined or record.kind == "quarantine")
        )


def newest(
    log: Reader, wanted: TailFilter, count: int | None, since: datetime | None = None
) -> tuple[list[tuple[int, LogRecord]], int]:
    """The last records that fit, oldest first, and the position to follow the log from.

    Args:
        log: the log, which need not exist yet.
        wanted: which records.
        count: at most so many; None: all, if `since` says how far back.
        since: only what was received from then on. Without it no more than 200,000 records are
            looked at.
    """
    end = stop = log.end()
    first = log.first()
    found: deque[tuple[int, LogRecord]] = deque()
    enough = count if count is not None else None if since is not None else 0
    while stop > first and (enough is None or len(found) < enough):
        if since is None and end - stop >= _LOOK_BACK:
            break
        start = max(first, stop - _CHUNK)
        chunk = list(_decoded(log, start, stop))
        if since is not None:
            newer = [pair for pair in chunk if _received(pair[1]) >= since]
            # Nearly in order of receipt: only replays carry an older time.
            start = start if newer else first
            chunk = newer
        found.extendleft(pair for pair in reversed(chunk) if wanted.matches(pair[1]))
        stop = start
    kept = list(found)
    return kept if enough is None else kept[len(kept) - min(enough, len(kept)) :], end


def follow(log: Reader, wanted: TailFilter, start: int) -> Iterator[tuple[int, LogRecord]]:
    """Every record from `start` on that fits, as soon as it is on disk. Never ends."""
    while True:
        end = log.end()
        if end <= start:
            time.sleep(_POLL_SECONDS)
            continue
        stop = min(end, start + _CHUNK)
        for seq, record in _decoded(log, start, stop):
            if wanted.matches(record):
                yield seq, record
        start = stop


def _decoded(log: Reader, start: int, stop: int) -> Iterator[tuple[int, LogRecord]]:
    for seq, data in log.read(start, stop - start):
        try:
            yield seq, decode_record(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # of another version of Signalbox; the loader quarantines it


def _received(record: LogRecord) -> datetime:
    return parse_time(record.received_at) or datetime.max.replace(tzinfo=UTC)
