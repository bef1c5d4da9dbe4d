"""Carries messages from a broker into the event log, and tells the broker when they are safe.

A message is acknowledged only after the warehouse has committed the log past it. Whatever dies
before, the broker delivers it again, and staging drops the copy by its (source, messageId).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Protocol

from ingestion.delivery import Door
from ingestion.log import EventLog
from ingestion.log_server import RemoteLog
from ingestion.segment import LogBusy, LogError, LogUnavailable
from ingestion.sources import HOLD_SECONDS, Consumer, Delivery, PullSource, SourceError

logger = logging.getLogger("signalbox.relay")

BATCH_MESSAGES = 5_000
APPEND_BYTES = 4 * 1024 * 1024
IDLE_SECONDS = 2.0  # a wait for messages while nothing is to be acknowledged
BUSY_SECONDS = 1.0
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 15.0)
REPORT_SECONDS = 5.0


class Appends(Protocol):
    """What the relay needs of a log."""

    def append(self, records: Sequence[bytes]) -> range:
        """Make the records durable and return their positions."""


class HomeLog:
    """The log in a directory: through the collector while it runs, else by ourselves.

    By ourselves only for the length of an append, so that a collector can start at any moment.
    Safe to share by threads.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._collector = RemoteLog(directory)

    def append(self, records: Sequence[bytes]) -> range:
        """See `EventLog.append`."""
        try:
            return self._collector.append(records)
        except LogUnavailable as unavailable:
            try:
                with EventLog(self._directory) as log:
                    return log.append(records)
            except LogBusy:  # the collector is there, and cannot take it: the disk is full
                raise unavailable from None

    def close(self) -> None:
        """Disconnect."""
        self._collector.close()


@dataclass
class Report:
    """How a source stands, as the relay last saw it; `lag` is None where its broker tells none."""

    source: str
    connected: bool = False
    received: int = 0
    acknowledged: int = 0
    waiting: int = 0  # received, and not yet known to be in the warehouse
    lag: int | None = None
    error: str | None = None
    at: str = ""


class Relay:
    """One source's loop.

    Args:
        source: what to read.
        settings: its own.
        door: makes log records of its messages.
        log: where they go.
        loaded_end: the first log position that the warehouse may not hold yet.
        report_file: is rewritten every few seconds, for `signalbox status` and Dagster.
    """

    def __init__(
        self,
        source: PullSource,
        settings: Any,
        door: Door,
        log: Appends,
        loaded_end: Callable[[], int],
        report_file: Path,
    ) -> None:
        self._source = source
        self._settings = settings
        self._door = door
        self._log = log
        self._loaded_end = loaded_end
        self._report_file = report_file
        self._report = Report(source.name)
        self._reported = 0.0

    def run(self, stop: threading.Event) -> None:
        """Relay until `stop` is set; a broker that cannot be reached is tried again and again."""
        failures = 0
        while not stop.is_set():
            received = self._report.received
            try:
                with closing(self._source.connect(self._settings)) as consumer:
                    self._note(connected=True, error=None)
                    self._session(consumer, stop)
            except Exception as error:
                # The text of an unforeseen error may quote a customer's data.
                known = isinstance(error, SourceError)
                words = str(error) if known else f"stopped by {type(error).__name__}"
                failures = 0 if self._report.received > received else failures + 1
                pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                logger.warning("%s: %s; trying again in %.1f s", self._source.name, words, pause)
                self._note(connected=False, error=words, waiting=0)
                stop.wait(pause)
        self._note(connected=False, waiting=0)

    def _session(self, consumer: Consumer, stop: threading.Event) -> None:
        waiting = _Waiting(consumer)
        while not stop.is_set():
            if room := self._source.window - waiting.count:
                patience = BUSY_SECONDS if waiting.count else IDLE_SECONDS
                deliveries = consumer.receive(min(room, BATCH_MESSAGES), patience)
                self._report.received += len(deliveries)
                self._append(deliveries, waiting, stop)
            else:
                stop.wait(BUSY_SECONDS)
            done = waiting.acknowledge(self._loaded_end()) if waiting.count else 0
            waiting.hold()
            self._report.acknowledged += done
            self._report.waiting = waiting.count
            caught_up = done and not waiting.count
            if caught_up or time.monotonic() - self._reported > REPORT_SECONDS:
                self._note(lag=consumer.lag(), connected=True, error=None)

    def _append(
        self, deliveries: Sequence[Delivery], waiting: _Waiting, stop: threading.Event
    ) -> None:
        now = datetime.now(UTC)
        records = ((self._door.record(delivery, now), delivery) for delivery in deliveries)
        for part in _parts(records):
            positions = self._persist([record for record, _ in part], waiting, stop)
            if positions is None:
                return  # told to stop: what is not in the log is delivered again
            waiting.add(positions.stop, [delivery.receipt for _, delivery in part])

    def _persist(
        self, records: list[bytes], waiting: _Waiting, stop: threading.Event
    ) -> range | None:
        """Append, for as long as it takes; meanwhile the broker keeps for us what we hold."""
        for pause in chain(RETRY_SECONDS, repeat(RETRY_SECONDS[-1])):
            try:
                return self._log.append(records)
            except LogError as error:
                logger.warning("the event log takes nothing: %s", error)
                self._note(error=str(error))
            if stop.wait(pause):
                break
            waiting.hold()
        return None

    def _note(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self._report, name, value)
        self._report.at = datetime.now(UTC).isoformat(timespec="seconds")
        self._reported = time.monotonic()
        self._report_file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._report_file.with_suffix(".new")
        with suppress(OSError):  # a full disk must not stop what it does not concern
            fresh.write_text(json.dumps(asdict(self._report)))
            fresh.replace(self._report_file)


class _Waiting:
    """What was received on a connection and is not yet acknowledged."""

    def __init__(self, consumer: Consumer) -> None:
        self.count = 0
        self._consumer = consumer
        # (log position after the last of them, receipts), in the order of both log and broker
        self._parts: deque[tuple[int, list[Any]]] = deque()
        self._refused: list[Any] = []  # safe, but the broker did not take the acknowledgement
        self._hold_due = time.monotonic() + HOLD_SECONDS

    def add(self, end: int, receipts: list[Any]) -> None:
        """These are in the log before position `end`."""
        self._parts.append((end, receipts))
        self.count += len(receipts)

    def acknowledge(self, safe_end: int) -> int:
        """Acknowledge what is in the log before `safe_end`; returns how many the broker took."""
        due = self._refused
        while self._parts and self._parts[0][0] <= safe_end:
            due = due + self._parts.popleft()[1]
        if not due:
            return 0
        self._refused = list(self._consumer.acknowledge(due))
        self.count -= len(due) - len(self._refused)
        return len(due) - len(self._refused)

    def hold(self) -> None:
        """Renew our hold on all of it, when it is time to."""
        if time.monotonic() < self._hold_due:
            return
        self._consumer.hold([*self._refused, *(r for _, part in self._parts for r in part)])
        self._hold_due = time.monotonic() + HOLD_SECONDS


def read_report(file: Path) -> Report | None:
    """What a relay last wrote; None if it never ran."""
    try:
        return Report(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _parts(
    records: Iterator[tuple[bytes, Delivery]],
) -> Iterator[list[tuple[bytes, Delivery]]]:
    """In lists of about APPEND_BYTES."""
    part: list[tuple[bytes, Delivery]] = []
    size = 0
    for record, delivery in records:
        part.append((record, delivery))
        size += len(record)
        if size >= APPEND_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
