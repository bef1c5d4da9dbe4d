"""The event log wherever it is: files in a directory, or a Kafka topic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ingestion import log_server
from ingestion.appender import Log
from ingestion.log import LogReader


class Reader(Protocol):
    """A view of the log, for one thread; `LogReader` says more about each method."""

    directory: Path  # holds the file of `ingestion.loaded`

    def end(self) -> int:
        """The next log_seq."""

    def first(self) -> int:
        """The oldest log_seq that is kept."""

    def read(self, start: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from log_seq `start` on, as (log_seq, record), in order."""


def open_reader(directory: Path, url: str = "") -> Reader:
    """A reader of the log in `directory` or, if given, at a kafka:// URL.

    Raises:
        LogError: the URL is none.
    """
    if not url:
        return LogReader(directory)
    from ingestion.kafka_log import KafkaAddress, KafkaLogReader

    return KafkaLogReader(KafkaAddress.parse(url), directory)


@contextmanager
def open_log(directory: Path, url: str = "") -> Iterator[Log]:
    """The same for appending.

    Raises:
        LogError: it cannot be written to.
    """
    if not url:
        with log_server.open_log(directory) as log:
            yield log
        return
    from ingestion.kafka_log import KafkaAddress, KafkaLog

    with KafkaLog(KafkaAddress.parse(url)) as topic:
        yield topic
